// The step table of `titan trace-report`: what each piece of a decode step takes on the device, and what it must take.
//
//   a rank's device spans, in order:   | step 32: embedding, attention norm, qkv, .. | step 33: embedding, .. |   (two of 32 steps are stamped)
//   costs of the step, from the host:    32: rows, and of each piece bytes, flops, limit
//
// Steps of as many rows are summed. A piece's gap is the time from the end of the piece before it to its begin; what the stamps themselves cost shows
// beside steps without them. Steps without costs (prefill, models that nobody counted) are in no table.
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "client/tool/trace_report.h"

static int by_step_kind(const void *a, const void *b) {
  const ti_trace_cost_event *x = a, *y = b;
  if (x->rank != y->rank) return x->rank - y->rank;
  if (x->step != y->step) return x->step < y->step ? -1 : 1;
  return x->kind - y->kind;
}

// The costs of a step, sorted by kind; *n of them.
static const ti_trace_cost_event *costs_of(const ti_trace_cost_event *v, size_t n_all, int rank, int64_t step, size_t *n) {
  size_t lo = 0, hi = n_all;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    if (v[mid].rank < rank || (v[mid].rank == rank && v[mid].step < step))
      lo = mid + 1;
    else
      hi = mid;
  }
  *n = 0;
  while (lo + *n < n_all && v[lo + *n].rank == rank && v[lo + *n].step == step) ++*n;
  return v + lo;
}

static ti_trace_steps *table_of(ti_trace_summary *s, int rows) {
  int i = 0;
  while (i < s->n_table && s->table[i].rows != rows) i++;
  if (i == TI_TRACE_TABLES) return NULL;
  if (i == s->n_table) s->table[s->n_table++].rows = rows;
  return &s->table[i];
}

static ti_trace_piece *piece_of(const ti_trace_summary *s, ti_trace_steps *t, int kind) {
  int i = 0;
  while (i < t->n_piece && t->piece[i].kind != kind) i++;
  if (i == t->n_piece) {  // there are no more kinds than room
    t->piece[t->n_piece++].kind = kind;
    memcpy(t->piece[i].name, s->device[kind].name, sizeof(t->piece[i].name));
  }
  return &t->piece[i];
}

// One step's spans v[0 .. n).
static void sum_step(const ti_trace_summary *s, ti_trace_steps *t, const ti_trace_span *v, size_t n, const ti_trace_cost_event *c, size_t n_cost) {
  t->n_step++;
  t->us += v[n - 1].t1 - v[0].t0;
  for (size_t i = 0; i < n; i++) {
    ti_trace_piece *p = piece_of(s, t, v[i].kind);
    p->n++;
    p->us += v[i].t1 - v[i].t0;
    if (i) p->gap_us += v[i].t0 - v[i - 1].t1;
    for (size_t k = 0; k < n_cost; k++)
      if (c[k].kind == v[i].kind) {
        p->bytes += c[k].bytes;
        p->flops += c[k].flops;
        p->limit_us += c[k].limit_us;
      }
  }
}

static int by_number(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void ti_trace_sum_steps(ti_trace_summary *s, const ti_trace_span *v, size_t n, ti_trace_cost_event *c, size_t n_cost) {
  qsort(c, n_cost, sizeof *c, by_step_kind);
  for (size_t i = 0; i < n;) {
    size_t end = i + 1, k;
    while (end < n && v[end].rank == v[i].rank && v[end].step == v[i].step) end++;
    const ti_trace_cost_event *costs = v[i].step < 0 ? NULL : costs_of(c, n_cost, v[i].rank, v[i].step, &k);
    ti_trace_steps *t = costs && k ? table_of(s, costs->rows) : NULL;
    if (t) {
      sum_step(s, t, v + i, end - i, costs, k);
      const bool next = end < n && v[end].rank == v[i].rank && v[end].step == v[i].step + 1;
      if (next) t->between_us += v[end].t0 - v[end - 1].t1;
      t->n_between += next;
    }
    i = end;
  }
}

// The median time of the steps between the first and the last stamped step of a table, the stamped ones left out. v: host steps in order of time.
void ti_trace_plain_steps(ti_trace_summary *s, const ti_trace_host_step *v, size_t n, const ti_trace_cost_event *c, size_t n_cost) {
  double *us = malloc((n + 1) * sizeof *us);
  for (int i = 0; us && i < s->n_table; i++) {
    ti_trace_steps *t = &s->table[i];
    size_t k = 0, count;
    int64_t first = INT64_MAX, last = -1;
    for (size_t j = 0; j < n_cost; j++) {
      if (c[j].rows != t->rows) continue;
      if (c[j].step < first) first = c[j].step;
      if (c[j].step > last) last = c[j].step;
    }
    for (size_t j = 0; j < n; j++) {
      if (v[j].step <= first || v[j].step >= last) continue;
      (void)costs_of(c, n_cost, v[j].rank, v[j].step, &count);
      if (!count) us[k++] = v[j].us;
    }
    qsort(us, k, sizeof *us, by_number);
    t->plain_us = k ? us[k / 2] : 0;
    t->n_plain = k;
  }
  free(us);
}

static void print_row(FILE *to, const char *name, double count, double us, double gap, double bytes, double flops, double limit, double whole) {
  if (gap < 0 && gap > -0.05) gap = 0;  // times come rounded
  fprintf(to, "%-18s %6.1f %9.1f %8.1f %6.1f%% %10.2f %9.2f", name, count, us, gap, whole > 0 ? 100 * (us + gap) / whole : 0, bytes * 1e-6,
          flops * 1e-9);
  if (limit > 0 && us > 0) fprintf(to, " %9.1f %6.0f%%", limit, 100 * limit / us);
  fprintf(to, "\n");
}

void ti_trace_print_steps(const ti_trace_summary *s, FILE *to) {
  for (int i = 0; i < s->n_table; i++) {
    const ti_trace_steps *t = &s->table[i];
    const double n = (double)t->n_step, between = t->n_between ? t->between_us / (double)t->n_between : 0, whole = t->us / n + between;
    ti_trace_piece sum = {0};
    fprintf(to, "\na decode step of %d row%s on the device (mean of %llu)\n%-18s %6s %9s %8s %7s %10s %9s %9s %7s\n", t->rows,
            t->rows == 1 ? "" : "s", (unsigned long long)t->n_step, "piece", "count", "us", "gap us", "share", "MB", "GFLOP", "limit us", "of it");
    for (int k = 0; k < t->n_piece; k++) {
      const ti_trace_piece *p = &t->piece[k];
      print_row(to, p->name, (double)p->n / n, p->us / n, p->gap_us / n, p->bytes / n, p->flops / n, p->limit_us / n, whole);
      sum.n += p->n;
      sum.us += p->us;
      sum.gap_us += p->gap_us;
      sum.bytes += p->bytes;
      sum.flops += p->flops;
      sum.limit_us += p->limit_us;
    }
    print_row(to, "between steps", 1, 0, between, 0, 0, 0, whole);
    print_row(to, "the step", (double)sum.n / n, sum.us / n, sum.gap_us / n + between, sum.bytes / n, sum.flops / n, sum.limit_us / n, whole);
    if (t->plain_us > 0)
      fprintf(to, "without stamps a step takes %.1f us (median of %llu), %.0f%% of it the limit's; a stamp costs %.2f us\n", t->plain_us,
              (unsigned long long)t->n_plain, 100 * sum.limit_us / n / t->plain_us, (whole - t->plain_us) / ((double)sum.n / n));
  }
}

json_t *ti_trace_json_steps(const ti_trace_summary *s) {
  json_t *tables = json_array();
  for (int i = 0; i < s->n_table; i++) {
    const ti_trace_steps *t = &s->table[i];
    const double n = (double)t->n_step;
    json_t *pieces = json_array();
    for (int k = 0; k < t->n_piece; k++) {
      const ti_trace_piece *p = &t->piece[k];
      json_array_append_new(pieces, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "name", p->name, "count", (double)p->n / n, "us", p->us / n,
                                              "gap_us", p->gap_us / n, "bytes", p->bytes / n, "flops", p->flops / n, "limit_us", p->limit_us / n));
    }
    json_array_append_new(tables,
                          json_pack("{s:i, s:I, s:f, s:f, s:f, s:o}", "rows", t->rows, "steps", (json_int_t)t->n_step, "us", t->us / n, "between_us",
                                    t->n_between ? t->between_us / (double)t->n_between : 0.0, "plain_us", t->plain_us, "pieces", pieces));
  }
  return tables;
}
