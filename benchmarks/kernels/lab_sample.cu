// Sampling at real vocabularies: choices against the reference's, then times beside the time that reading the logits once would take (the "% copy"
// column). Two kinds of rows: `flat` is noise of spread 2.5, where filters have tens of thousands of ids to choose among; `peaked` is what a language
// model gives: a few dozen ids far above the rest.
//
//   lab_sample [--quick] [--json FILE]
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"

extern "C" {
#include "kernels/cuda/sample.h"
}

typedef struct form {
  const char *name;
  float temperature;
  int top_k;
  float top_p, min_p;
} form;
static const form forms[] = {{"greedy", 0, 0, 1, 0},
                             {"temperature", 1, 0, 1, 0},
                             {"min-p 0.05", 1, 0, 1, 0.05f},
                             {"top-k 50", 1, 50, 1, 0},
                             {"top-p 0.9", 1, 0, 0.9f, 0},
                             {"top-k 50, top-p 0.9", 1, 50, 0.9f, 0},
                             {"top-p 0.95 at 2", 2, 0, 0.95f, 0}};
enum { N_FORM = sizeof forms / sizeof *forms };

typedef struct rows {
  lab *l;
  int n_row, n;
  float *host, *logits;
  ti_sample_params *host_params, *params;
  int32_t *id, *rank, *top_id;
  float *value, *top;
} rows;

static uint32_t next(uint64_t *s) {  // xorshift64*
  *s ^= *s >> 12;
  *s ^= *s << 25;
  *s ^= *s >> 27;
  return (uint32_t)(*s * 0x2545F4914F6CDD1Dull >> 32);
}
static float normal(uint64_t *s) {
  const float u = ((float)(next(s) >> 8) + 0.5f) * 0x1p-24f, v = (float)(next(s) >> 8) * 0x1p-24f;
  return sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v);
}

static void rows_open(rows *r, lab *l, int n_row, int n, bool peaked) {
  const size_t count = (size_t)n_row * (size_t)n, top = (size_t)n_row * TI_TOP_LOGPROBS;
  uint64_t seed = 88172645463325252ull + (uint64_t)n;
  memset(r, 0, sizeof *r);
  r->l = l;
  r->n_row = n_row;
  r->n = n;
  r->host = (float *)malloc(count * sizeof *r->host);
  r->host_params = (ti_sample_params *)calloc((size_t)n_row, sizeof *r->host_params);
  if (!r->host || !r->host_params) {
    fprintf(stderr, "lab_sample: no memory for %d rows of %d\n", n_row, n);
    exit(1);
  }
  for (size_t i = 0; i < count; i++) {
    r->host[i] = peaked ? normal(&seed) * 2.0f - 4.0f : normal(&seed) * 2.5f;
    if (peaked && next(&seed) % 2000 == 0) r->host[i] += 8.0f + 4.0f * fabsf(normal(&seed));
  }
  r->logits = (float *)lab_alloc(l, count * 4);
  r->params = (ti_sample_params *)lab_alloc(l, (size_t)n_row * sizeof *r->params);
  r->id = (int32_t *)lab_alloc(l, (size_t)n_row * 4);
  r->rank = (int32_t *)lab_alloc(l, (size_t)n_row * 4);
  r->value = (float *)lab_alloc(l, (size_t)n_row * 4);
  r->top_id = (int32_t *)lab_alloc(l, top * 4);
  r->top = (float *)lab_alloc(l, top * 4);
  lab_ok(l, cudaMemcpyAsync(r->logits, r->host, count * 4, cudaMemcpyHostToDevice, l->stream), "logits");
  lab_sync(l, "logits");
}
static void rows_close(rows *r) {
  void *const all[] = {r->logits, r->params, r->id, r->rank, r->value, r->top_id, r->top};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(r->l, all[i]);
  free(r->host);
  free(r->host_params);
}
static void rows_ask(rows *r, const form *f) {
  for (int i = 0; i < r->n_row; i++) {
    ti_sample_params *p = &r->host_params[i];
    memset(p, 0, sizeof *p);
    p->temperature = f->temperature;
    p->top_k = f->top_k;
    p->top_p = f->top_p;
    p->min_p = f->min_p;
    p->repetition = 1.0f;
    p->seed = (uint64_t)i + 1;
    p->position = (uint32_t)i * 7;
  }
  lab_ok(r->l, cudaMemcpyAsync(r->params, r->host_params, (size_t)r->n_row * sizeof *r->params, cudaMemcpyHostToDevice, r->l->stream), "params");
  lab_sync(r->l, "params");
}

static void run_sample(void *arg) {
  rows *r = (rows *)arg;
  const ti_sample_args a = {r->logits, r->params, r->id, r->value, r->n_row, r->n, 0, 0};
  lab_op(r->l, ti_cuda_sample(&r->l->dev, &a), "sample");
}
static void run_logprobs(void *arg) {
  rows *r = (rows *)arg;
  const ti_logprob_args a = {r->logits, r->id, r->value, r->rank, r->top_id, r->top, r->n_row, r->n, 0};
  lab_op(r->l, ti_cuda_logprobs(&r->l->dev, &a), "logprobs");
}

// The first rows' choices, and those with a nucleus that rounding may make larger or smaller by one id.
static void check(rows *r, ti_dev *ref, const form *f) {
  const int n = r->n_row < 4 ? r->n_row : 4;
  int32_t got[4], want[4];
  float value[4];
  run_sample(r);
  lab_ok(r->l, cudaMemcpyAsync(got, r->id, (size_t)n * 4, cudaMemcpyDeviceToHost, r->l->stream), "ids");
  lab_sync(r->l, "ids");
  static const float nudges[3] = {0.0f, 1e-6f, -1e-6f};
  bool same[4] = {false};
  for (int nudge = 0; nudge < 3; nudge++) {
    ti_sample_params p[4];
    memcpy(p, r->host_params, sizeof *p * (size_t)n);
    for (int i = 0; i < n; i++) p[i].top_p += nudges[nudge];
    const ti_sample_args a = {r->host, p, want, value, n, r->n, 0, 0};
    lab_op(r->l, ti_kernels_ref()->sample(ref, &a), "the reference's sample");
    for (int i = 0; i < n; i++) same[i] = same[i] || got[i] == want[i];
    if (f->top_p >= 1.0f) break;
  }
  for (int i = 0; i < n; i++) lab_expect(r->l, same[i], "%s, row %d of %d ids: %d, want %d", f->name, i, r->n, got[i], want[i]);
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_sample", &argc, argv);
  static const int shapes[][2] = {{64, 128256}, {1, 32000}, {1, 128256}, {16, 128256}, {256, 32000}};
  ti_dev_options o = {};
  ti_dev *ref = NULL;
  ti_error err = {};
  o.threads = 1;
  if (ti_kernels_ref()->open(&o, &ref, &err) != TI_OK || ti_kernels_ref()->reserve(ref, 4, 1, 1, 128256) != TI_OK) {
    fprintf(stderr, "lab_sample: the reference: %s\n", err.text);
    return 1;
  }
  for (int peaked = 0; peaked < 2; peaked++) {
    lab_head(peaked ? "sampling, peaked rows" : "sampling, flat rows");
    for (int s = 0; s < (l.quick ? 2 : 5); s++) {
      rows r;
      rows_open(&r, &l, shapes[s][0], shapes[s][1], peaked);
      for (int f = 0; f <= N_FORM; f++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", f < N_FORM ? forms[f].name : "logprobs", peaked ? " p" : "");
        if (f < N_FORM) {
          rows_ask(&r, &forms[f]);
          check(&r, ref, &forms[f]);
        }
        lab_row row = {"sample", name, r.n_row, r.n, 0, 0, 0, 4.0 * r.n_row * r.n, NULL, 0};
        row.us = lab_time_us(&l, f < N_FORM ? run_sample : run_logprobs, &r);
        lab_print(&l, &row);
      }
      rows_close(&r);
    }
  }
  ti_kernels_ref()->close(ref);
  return lab_close(&l);
}
