// From samples to percentiles, a table and JSON. See bench.h for what each figure means.
#include <math.h>
#include <stdlib.h>

#include "client/tool/bench.h"

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile(const double *v, size_t n, double q) {
  const double at = q * (double)(n - 1);
  const size_t i = (size_t)at;
  return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - (double)i) : v[n - 1];
}

ti_bench_dist ti_bench_dist_of(double *v, size_t n) {
  ti_bench_dist d = {.n = n};
  if (!n) return d;
  qsort(v, n, sizeof(*v), ascending);
  for (size_t i = 0; i < n; i++) d.mean += v[i] / (double)n;
  d.min = v[0];
  d.max = v[n - 1];
  d.p50 = percentile(v, n, 0.5);
  d.p90 = percentile(v, n, 0.9);
  d.p95 = percentile(v, n, 0.95);
  d.p99 = percentile(v, n, 0.99);
  return d;
}

ti_status ti_bench_summarise(const ti_bench_result *r, uint32_t n, ti_bench_summary *out) {
  ti_bench_summary s = {.wall_s = r->wall_s};
  double *v = calloc((n > r->n_gap ? n : r->n_gap) + 1, sizeof(*v));
  if (!v) return TI_ERR_NOMEM;
  for (uint32_t i = 0; i < n; i++) {
    const ti_bench_sample *x = &r->sample[i];
    if (!x->sent) continue;
    s.n++;
    if (x->error) {
      s.failed++;
      continue;
    }
    s.ok++;
    s.prompt_tokens += x->n_prompt;
    s.tokens += x->n_token;
  }
  size_t k = 0;
  for (uint32_t i = 0; i < n; i++)
    if (r->sample[i].sent && !r->sample[i].error && r->sample[i].n_event) v[k++] = (double)r->sample[i].ttft_us / 1000;
  s.ttft_ms = ti_bench_dist_of(v, k);
  k = 0;
  for (uint32_t i = 0; i < n; i++)
    if (r->sample[i].sent && !r->sample[i].error) v[k++] = (double)r->sample[i].e2e_us / 1000;
  s.e2e_ms = ti_bench_dist_of(v, k);
  k = 0;
  for (uint32_t i = 0; i < n; i++) {
    const ti_bench_sample *x = &r->sample[i];
    if (x->sent && !x->error && x->n_event && x->n_token > 1) v[k++] = (double)(x->last_us - x->ttft_us) / 1000 / (x->n_token - 1);
  }
  s.tpot_ms = ti_bench_dist_of(v, k);
  for (k = 0; k < r->n_gap; k++) v[k] = r->gap_us[k] / 1000.0;
  s.itl_ms = ti_bench_dist_of(v, k);
  free(v);
  if (s.wall_s > 0) {
    s.requests_s = s.ok / s.wall_s;
    s.tokens_s = (double)s.tokens / s.wall_s;
    s.total_tokens_s = (double)(s.tokens + s.prompt_tokens) / s.wall_s;
  }
  *out = s;
  return TI_OK;
}

static void print_dist(FILE *to, const char *name, const ti_bench_dist *d) {
  fprintf(to, "%-9s %9zu %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, d->n, d->mean, d->min, d->p50, d->p90, d->p95, d->p99, d->max);
}

void ti_bench_print(const ti_bench_summary *s, const ti_bench_result *r, FILE *to) {
  fprintf(to, "requests  %u ok, %u failed in %.2f s: %.2f a second, at most %u in flight\n", s->ok, s->failed, s->wall_s, s->requests_s,
          r->in_flight_max);
  fprintf(to, "tokens    %llu in, %llu out: %.1f out a second, %.1f in and out a second\n", (unsigned long long)s->prompt_tokens,
          (unsigned long long)s->tokens, s->tokens_s, s->total_tokens_s);
  if (r->late_max_s > 0.01) fprintf(to, "late      this client sent up to %.3f s behind its schedule (counted in TTFT and E2E)\n", r->late_max_s);
  for (uint32_t i = 0; i < r->errors.n; i++) fprintf(to, "failed    %u x %s\n", r->errors.count[i], r->errors.text[i]);
  fprintf(to, "\n%-9s %9s %10s %10s %10s %10s %10s %10s %10s\n", "ms", "n", "mean", "min", "p50", "p90", "p95", "p99", "max");
  print_dist(to, "TTFT", &s->ttft_ms);
  print_dist(to, "ITL", &s->itl_ms);
  print_dist(to, "TPOT", &s->tpot_ms);
  print_dist(to, "E2E", &s->e2e_ms);
}

static json_t *json_dist(const ti_bench_dist *d) {
  return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t)d->n, "mean", d->mean, "min", d->min, "p50", d->p50, "p90", d->p90,
                   "p95", d->p95, "p99", d->p99, "max", d->max);
}

json_t *ti_bench_json(const ti_bench_summary *s, const ti_bench_result *r) {
  json_t *errors = json_array();
  for (uint32_t i = 0; i < r->errors.n; i++)
    json_array_append_new(errors, json_pack("{s:i, s:o}", "count", (int)r->errors.count[i], "message", json_string(r->errors.text[i])));
  return json_pack("{s:i, s:i, s:i, s:f, s:I, s:I, s:f, s:f, s:f, s:i, s:f, s:b, s:o, s:o, s:o, s:o, s:o}", "requests", (int)s->n, "completed",
                   (int)s->ok, "failed", (int)s->failed, "duration_s", s->wall_s, "prompt_tokens", (json_int_t)s->prompt_tokens, "output_tokens",
                   (json_int_t)s->tokens, "requests_per_s", s->requests_s, "output_tokens_per_s", s->tokens_s, "total_tokens_per_s",
                   s->total_tokens_s, "max_in_flight", (int)r->in_flight_max, "client_late_max_s", r->late_max_s, "interrupted", r->interrupted,
                   "errors", errors, "ttft_ms", json_dist(&s->ttft_ms), "itl_ms", json_dist(&s->itl_ms), "tpot_ms", json_dist(&s->tpot_ms), "e2e_ms",
                   json_dist(&s->e2e_ms));
}
