// The sums of `titan trace-report` (see trace_report.h): events into an array, sorted twice.
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "client/tool/trace_report.h"

enum { MAX_EVENTS = 64 << 20, MAX_LINE = 1 << 20 };

typedef struct event {
  double t0, t1;  // us
  int64_t step;
  int32_t layer, tid;
  int16_t rank, piece;  // index into the summary's; piece -1: a whole step
  bool device;          // piece is an index into the summary's device kinds
} event;

typedef struct events {
  event *v;
  size_t n, cap;
  ti_trace_cost_event *cost;
  size_t n_cost, cap_cost;
} events;

static int piece_of(ti_trace_summary *s, const char *name) {
  int i = 0;
  while (i < s->n_piece && strcmp(s->piece[i], name) != 0) i++;
  if (i == s->n_piece) {
    if (i == TI_TRACE_PIECES) return TI_TRACE_PIECES - 1;  // more kinds than anybody writes share the last one
    snprintf(s->piece[s->n_piece++], sizeof(s->piece[0]), "%s", name);
  }
  return i;
}

static int kind_of(ti_trace_summary *s, const char *name) {
  int i = 0;
  while (i < s->n_device && strcmp(s->device[i].name, name) != 0) i++;
  if (i == TI_TRACE_PIECES) return TI_TRACE_PIECES - 1;
  if (i == s->n_device) snprintf(s->device[s->n_device++].name, sizeof(s->device[0].name), "%s", name);
  return i;
}

static int rank_of(ti_trace_summary *s, int pid) {
  int i = 0;
  while (i < s->n_rank && s->rank[i].rank != pid) i++;
  if (i == TI_TRACE_RANKS) return -1;
  if (i == s->n_rank) s->rank[s->n_rank++].rank = pid;
  return i;
}

// Room for one more of n elements, of `size` bytes each.
static ti_status room(void **v, size_t n, size_t *cap, size_t size, ti_error *err) {
  if (n < *cap) return TI_OK;
  const size_t want = *cap ? *cap * 2 : 4096;
  void *p = want > MAX_EVENTS ? NULL : realloc(*v, want * size);
  if (!p) return ti_error_set(err, TI_ERR_NOMEM, "more than %zu events", *cap);
  *v = p;
  *cap = want;
  return TI_OK;
}

static double number(const json_t *args, const char *key) { return json_number_value(json_object_get(args, key)); }

static ti_status take_cost(ti_trace_summary *s, events *e, const char *name, int rank, const json_t *args, ti_error *err) {
  void *v = e->cost;
  const ti_status st = room(&v, e->n_cost, &e->cap_cost, sizeof *e->cost, err);
  e->cost = v;
  if (st) return st;
  e->cost[e->n_cost++] = (ti_trace_cost_event){.step = json_integer_value(json_object_get(args, "step")),
                                               .rank = rank,
                                               .kind = kind_of(s, name),
                                               .rows = (int)json_integer_value(json_object_get(args, "rows")),
                                               .bytes = number(args, "bytes"),
                                               .flops = number(args, "flops"),
                                               .limit_us = number(args, "limit_us")};
  return TI_OK;
}

static ti_status take_event(ti_trace_summary *s, events *e, const json_t *doc, ti_error *err) {
  const char *ph = json_string_value(json_object_get(doc, "ph")), *name = json_string_value(json_object_get(doc, "name"));
  const char *cat = json_string_value(json_object_get(doc, "cat"));
  if (!ph || !name) return ti_error_set(err, TI_ERR_FORMAT, "no \"ph\" or \"name\": is this a trace?");
  s->n_event++;
  const bool cost = cat && strcmp(cat, "cost") == 0;
  if ((strcmp(ph, "X") != 0 && !cost) || !cat) return TI_OK;
  const bool whole = strcmp(cat, "step") == 0 && strcmp(name, "step") == 0, device = strcmp(cat, "device") == 0;
  if (!whole && !device && !cost && strcmp(cat, "layer") != 0) return TI_OK;
  const json_t *args = json_object_get(doc, "args"), *layer = json_object_get(args, "layer"), *step = json_object_get(args, "step");
  const int rank = rank_of(s, (int)json_integer_value(json_object_get(doc, "pid")));
  if (rank < 0) return ti_error_set(err, TI_ERR_RANGE, "more than %d ranks", TI_TRACE_RANKS);
  if (cost) return take_cost(s, e, name, rank, args, err);
  void *v = e->v;
  const ti_status st = room(&v, e->n, &e->cap, sizeof *e->v, err);
  e->v = v;
  if (st) return st;
  const double t0 = json_number_value(json_object_get(doc, "ts"));
  e->v[e->n++] = (event){.t0 = t0,
                         .t1 = t0 + json_number_value(json_object_get(doc, "dur")),
                         .rank = (int16_t)rank,
                         .piece = (int16_t)(whole    ? -1
                                            : device ? kind_of(s, name)
                                                     : piece_of(s, name)),
                         .device = device,
                         .step = json_is_integer(step) ? json_integer_value(step) : -1,
                         .layer = json_is_integer(layer) ? (int32_t)json_integer_value(layer) : -1,
                         .tid = (int32_t)json_integer_value(json_object_get(doc, "tid"))};
  return TI_OK;
}

static ti_status read_events(FILE *f, ti_trace_summary *s, events *e, ti_error *err) {
  char *line = NULL;
  size_t room = 0, number = 0;
  ssize_t n;
  ti_status st = TI_OK;
  while (!ti_failed(st) && (n = getline(&line, &room, f)) >= 0) {
    json_t *doc = NULL;
    number++;
    while (n && strchr(" \t\r\n,", line[n - 1])) n--;
    if (n == 0 || (n == 1 && strchr("[]", line[0]))) continue;
    if (n > MAX_LINE) st = ti_error_set(err, TI_ERR_RANGE, "%zd bytes, at most %d", n, MAX_LINE);
    if (!ti_failed(st)) st = ti_json_parse(line, (size_t)n, &doc, err);
    if (!ti_failed(st)) st = take_event(s, e, doc, err);
    if (ti_failed(st)) ti_error_prefix(err, "line %zu", number);
    json_decref(doc);
  }
  free(line);
  if (!ti_failed(st) && !s->n_event) st = ti_error_set(err, TI_ERR_FORMAT, "no events");
  return st;
}

static bool is_all_to_all(const ti_trace_summary *s, int piece) {
  return strcmp(s->piece[piece], "dispatch") == 0 || strcmp(s->piece[piece], "combine") == 0;
}
static bool is_comm(const ti_trace_summary *s, int piece) { return is_all_to_all(s, piece) || strcmp(s->piece[piece], "all-reduce") == 0; }

static int by_rank_time(const void *a, const void *b) {
  const event *x = a, *y = b;
  if (x->rank != y->rank) return x->rank - y->rank;
  return (x->t0 > y->t0) - (x->t0 < y->t0);
}

static int by_number(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// The union of a rank's spans of one kind, walked in order of their begins, beside that of its computing:
//
//   comm     |-----------|        |------|
//   compute       |----------|               exposed = comm without compute
static void sum_rank(const ti_trace_summary *s, const event *v, size_t n, ti_trace_rank *r) {
  double at = 0, comm_end = -1, compute_end = -1;
  bool started = false;
  // sweep: a point is the begin of a span or the first end among the open unions
  for (size_t i = 0; i < n || comm_end > at;) {
    double next = i < n ? v[i].t0 : 1e300;
    if (comm_end > at && comm_end < next) next = comm_end;
    if (compute_end > at && compute_end < next) next = compute_end;
    if (started && comm_end > at) {
      r->comm_us += next - at;
      if (compute_end <= at) r->exposed_us += next - at;
    }
    at = next;
    started = true;
    for (; i < n && v[i].t0 <= at; i++) {
      if (v[i].piece < 0 || v[i].device) continue;
      double *end = is_comm(s, v[i].piece) ? &comm_end : &compute_end;
      if (v[i].t1 > *end) *end = v[i].t1;
    }
  }
}

// A rank's device spans, which follow each other in its stream. Those that have a step tell of time between them only within the step and to the
// next.
static void sum_device(ti_trace_summary *s, const event *v, size_t n, ti_trace_rank *r) {
  double end = -1;
  int64_t step = -1;
  for (size_t i = 0; i < n; i++) {
    if (!v[i].device) continue;
    ti_trace_kind *k = &s->device[v[i].piece];
    k->us += v[i].t1 - v[i].t0;
    k->n++;
    r->device_us += v[i].t1 - v[i].t0;
    const bool follows = v[i].step < 0 || v[i].step == step || v[i].step == step + 1;
    step = v[i].step;
    if (end >= 0 && v[i].t0 > end && follows) *(strcmp(k->name, "embedding") == 0 ? &r->device_idle_us : &r->device_gap_us) += v[i].t0 - end;
    if (v[i].t1 > end) end = v[i].t1;
  }
}

static int by_cost(const void *a, const void *b) {
  const double x = ((const ti_trace_kind *)a)->us, y = ((const ti_trace_kind *)b)->us;
  return (x < y) - (x > y);
}

static ti_status sum_ranks(ti_trace_summary *s, events *e, ti_error *err) {
  qsort(e->v, e->n, sizeof(*e->v), by_rank_time);
  double *steps = calloc(e->n + 1, sizeof(*steps));
  if (!steps) return ti_error_set(err, TI_ERR_NOMEM, "no memory for %zu spans", e->n);
  for (size_t i = 0; i < e->n;) {
    ti_trace_rank *r = &s->rank[e->v[i].rank];
    size_t end = i, k = 0;
    for (; end < e->n && e->v[end].rank == e->v[i].rank; end++) {
      const event *x = &e->v[end];
      if (x->device) continue;
      if (x->piece < 0) {
        steps[k++] = x->t1 - x->t0;
        r->step_us += x->t1 - x->t0;
        continue;
      }
      r->piece_us[x->piece] += x->t1 - x->t0;
      r->piece_n[x->piece]++;
      if (is_all_to_all(s, x->piece)) r->all_to_all_us += x->t1 - x->t0;
    }
    r->n_step = k;
    qsort(steps, k, sizeof(*steps), by_number);
    if (k) {
      r->step_p50_us = steps[k / 2];
      r->step_p99_us = steps[(k - 1) * 99 / 100];
    }
    sum_rank(s, e->v + i, end - i, r);
    sum_device(s, e->v + i, end - i, r);
    i = end;
  }
  free(steps);
  return TI_OK;
}

// The events are sorted by rank and time.
static ti_status sum_steps(ti_trace_summary *s, const events *e, ti_error *err) {
  ti_trace_span *span = malloc((e->n + 1) * sizeof *span);
  ti_trace_host_step *step = malloc((e->n + 1) * sizeof *step);
  size_t n_span = 0, n_step = 0;
  for (size_t i = 0; span && step && i < e->n; i++) {
    const event *x = &e->v[i];
    if (x->device) span[n_span++] = (ti_trace_span){x->t0, x->t1, x->step, x->rank, x->piece};
    if (x->piece < 0) step[n_step++] = (ti_trace_host_step){x->step, x->rank, x->t1 - x->t0};
  }
  const bool ok = span && step;
  if (ok) {
    ti_trace_sum_steps(s, span, n_span, e->cost, e->n_cost);
    ti_trace_plain_steps(s, step, n_step, e->cost, e->n_cost);
  }
  free(span);
  free(step);
  return ok ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "no memory for %zu spans", e->n);
}

static int by_collective(const void *a, const void *b) {
  const event *x = a, *y = b;
  if (x->device != y->device) return x->device - y->device;
  if (x->piece != y->piece) return x->piece - y->piece;
  if (x->step != y->step) return x->step < y->step ? -1 : 1;
  if (x->layer != y->layer) return x->layer - y->layer;
  if (x->tid != y->tid) return x->tid - y->tid;
  if (x->rank != y->rank) return x->rank - y->rank;
  return (x->t0 > y->t0) - (x->t0 < y->t0);
}

static bool same_collective(const event *x, const event *y) {
  return x->device == y->device && x->piece == y->piece && x->step == y->step && x->layer == y->layer && x->tid == y->tid;
}

static void sum_waits(ti_trace_summary *s, events *e) {
  qsort(e->v, e->n, sizeof(*e->v), by_collective);
  for (size_t i = 0; i < e->n;) {
    size_t end = i, last = i;
    for (; end < e->n && same_collective(&e->v[i], &e->v[end]); end++)
      if (e->v[end].t0 > e->v[last].t0) last = end;
    for (size_t k = i; k < end && e->v[i].piece >= 0 && !e->v[i].device && is_comm(s, e->v[i].piece) && e->v[i].step >= 0; k++) {
      const double until = e->v[last].t0 < e->v[k].t1 ? e->v[last].t0 : e->v[k].t1;
      if (e->v[k].rank != e->v[last].rank && until > e->v[k].t0) s->wait_us[e->v[k].rank * s->n_rank + e->v[last].rank] += until - e->v[k].t0;
    }
    i = end;
  }
}

static int by_pid(const void *a, const void *b) { return ((const ti_trace_rank *)a)->rank - ((const ti_trace_rank *)b)->rank; }

// Ranks in ascending order; events follow.
static void sort_ranks(ti_trace_summary *s, events *e) {
  int16_t to[TI_TRACE_RANKS];
  ti_trace_rank old[TI_TRACE_RANKS];
  memcpy(old, s->rank, sizeof(old));
  qsort(s->rank, (size_t)s->n_rank, sizeof(*s->rank), by_pid);
  for (int i = 0; i < s->n_rank; i++)
    for (int k = 0; k < s->n_rank; k++)
      if (s->rank[k].rank == old[i].rank) to[i] = (int16_t)k;
  for (size_t i = 0; i < e->n; i++) e->v[i].rank = to[e->v[i].rank];
  for (size_t i = 0; i < e->n_cost; i++) e->cost[i].rank = to[e->cost[i].rank];
}

ti_status ti_trace_summarise(FILE *f, ti_trace_summary *out, ti_error *err) {
  events e = {0};
  memset(out, 0, sizeof(*out));
  ti_status st = read_events(f, out, &e, err);
  if (!ti_failed(st)) {
    sort_ranks(out, &e);
    out->wait_us = calloc((size_t)out->n_rank * (size_t)out->n_rank + 1, sizeof(double));
    st = out->wait_us ? sum_ranks(out, &e, err) : ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  }
  if (!ti_failed(st) && e.n_cost) st = sum_steps(out, &e, err);
  if (!ti_failed(st)) {
    sum_waits(out, &e);
    qsort(out->device, (size_t)out->n_device, sizeof(*out->device), by_cost);
  }
  free(e.v);
  free(e.cost);
  return st;
}

void ti_trace_summary_fini(ti_trace_summary *s) {
  free(s->wait_us);
  s->wait_us = NULL;
}
