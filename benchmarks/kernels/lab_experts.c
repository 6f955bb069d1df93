// What batching by expert is worth: the grouped path against the loop over tokens, with the same kernels.
//
//   lab_experts [--threads N] [--backend NAME] [--ms N] [--json FILE]
//
//   grouped  moe_sort -> permute -> grouped GEMM (gate|up) -> silu-mul -> grouped GEMM (down) -> unpermute: an expert's weights are read once a batch
//   naive    each token alone through its experts: GEMV (gate|up) -> silu-mul -> GEMV (down), then the weighted sum: read once a token
//
// DeepSeek-V3 shrunk: hidden 1024, experts 512 wide, 32 of them, top-4, bf16. The outputs must agree bit for bit before anything is timed. Prints the
// best of both; the exit status says whether 64 and 256 tokens reach 2.5x.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rng.h"
#include "kernels/kernel.h"

enum { HIDDEN = 1024, WIDTH = 512, EXPERTS = 32, TOP = 4, ALIGN = 8, MAX_TOKENS = 256, CAPACITY = MAX_TOKENS * TOP + EXPERTS * ALIGN };
static const double goal = 2.5;

typedef struct lab {
  const ti_kernels *k;
  ti_dev *d;
  uint64_t ms;
  ti_weight gate_up[EXPERTS], down[EXPERTS];
  float *x, *weights, *in, *wide, *act, *y, *out[2];  // out: grouped, naive
  int32_t *experts, *count, *offset, *src, *dst, *flat;
} lab;

static void *must(void *p) {
  if (p) return p;
  fprintf(stderr, "lab_experts: out of memory\n");
  exit(1);
}
static void ok(ti_status st, const char *what) {
  if (st == TI_OK) return;
  fprintf(stderr, "lab_experts: %s: %s\n", what, ti_status_text(st));
  exit(1);
}

static uint32_t draw(uint32_t a, uint32_t b) {
  uint32_t r[4];
  ti_philox4x32((uint32_t[2]){7, a}, (uint32_t[4]){b, 0, 0, 0}, r);
  return r[0];
}
static float noise(uint32_t a, uint32_t b) { return 2.0f * ti_u32_to_unit(draw(a, b)) - 1.0f; }

static void make_weight(lab *l, int64_t n, int64_t k, uint32_t seed, ti_weight *out) {
  uint16_t *stored = must(malloc((size_t)(n * k) * sizeof *stored));  // kept until the program ends: a backend may use it as stored
  for (int64_t i = 0; i < n * k; i++) stored[i] = ti_f32_to_bf16(0.05f * noise(seed, (uint32_t)i));
  const ti_weight_src src = {.data = stored, .dtype = TI_BF16, .n = n, .k = k};
  size_t bytes = 0;
  ok(l->k->weight_size(l->d, &src, 1, 0, &bytes), "weight_size");
  void *mem = bytes ? must(l->k->alloc(l->d, bytes)) : NULL;
  ok(l->k->weight_prepare(l->d, &src, 1, 0, mem, out), "weight_prepare");
}

static void *numbers(lab *l, size_t n) { return must(l->k->alloc(l->d, n * 4)); }

static void make(lab *l) {
  for (int e = 0; e < EXPERTS; e++) {
    make_weight(l, 2 * WIDTH, HIDDEN, 100 + (uint32_t)e, &l->gate_up[e]);
    make_weight(l, HIDDEN, WIDTH, 200 + (uint32_t)e, &l->down[e]);
  }
  l->x = numbers(l, MAX_TOKENS * HIDDEN);
  l->weights = numbers(l, MAX_TOKENS * TOP);
  l->in = numbers(l, CAPACITY * HIDDEN);
  l->wide = numbers(l, CAPACITY * 2 * WIDTH);
  l->act = numbers(l, CAPACITY * WIDTH);
  l->y = numbers(l, CAPACITY * HIDDEN);
  for (int i = 0; i < 2; i++) l->out[i] = numbers(l, MAX_TOKENS * HIDDEN);
  l->experts = numbers(l, MAX_TOKENS * TOP);
  l->count = numbers(l, EXPERTS);
  l->offset = numbers(l, EXPERTS + 1);
  l->src = numbers(l, CAPACITY);
  l->dst = numbers(l, MAX_TOKENS * TOP);
  l->flat = numbers(l, MAX_TOKENS * TOP);
  for (uint32_t i = 0; i < MAX_TOKENS * HIDDEN; i++) l->x[i] = noise(1, i);
  for (uint32_t t = 0; t < MAX_TOKENS; t++)
    for (uint32_t j = 0; j < TOP; j++) {  // distinct: each from its own quarter of the experts
      l->experts[t * TOP + j] = (int32_t)(j * (EXPERTS / TOP) + draw(2, t * TOP + j) % (EXPERTS / TOP));
      l->weights[t * TOP + j] = ti_u32_to_unit(draw(3, t * TOP + j));
      l->flat[t * TOP + j] = (int32_t)(t * TOP + j);
    }
}

static void grouped(lab *l, int n) {
  const ti_kernels *k = l->k;
  ok(k->moe_sort(l->d, &(ti_moe_sort_args){.count = l->count,
                                           .offset = l->offset,
                                           .src = l->src,
                                           .dst = l->dst,
                                           .experts = l->experts,
                                           .n_row = n,
                                           .n_top = TOP,
                                           .n_expert = EXPERTS,
                                           .align = ALIGN,
                                           .capacity = CAPACITY}),
     "moe_sort");
  const int rows = l->offset[EXPERTS];
  ok(k->permute(l->d, &(ti_permute_args){.out = l->in, .x = l->x, .src = l->src, .n_out = rows, .n_top = TOP, .dim = HIDDEN}), "permute");
  ti_grouped_gemm_args g = {
      .out = l->wide, .x = l->in, .w = l->gate_up, .count = l->count, .offset = l->offset, .n_expert = EXPERTS, .capacity = CAPACITY};
  ok(k->grouped_gemm(l->d, &g), "gate_up");
  ok(k->silu_mul(l->d, &(ti_silu_mul_args){.out = l->act, .gate_up = l->wide, .n_row = rows, .dim = WIDTH}), "silu_mul");
  g.out = l->y;
  g.x = l->act;
  g.w = l->down;
  ok(k->grouped_gemm(l->d, &g), "down");
  ok(k->unpermute(l->d,
                  &(ti_unpermute_args){.out = l->out[0], .y = l->y, .dst = l->dst, .weights = l->weights, .n_row = n, .n_top = TOP, .dim = HIDDEN}),
     "unpermute");
  ok(k->sync(l->d), "sync");
}

static void naive(lab *l, int n) {
  const ti_kernels *k = l->k;
  for (int t = 0; t < n; t++)
    for (int j = 0; j < TOP; j++) {
      const int e = l->experts[t * TOP + j];
      ok(k->gemm(l->d, &(ti_gemm_args){.out = l->wide, .x = l->x + (size_t)t * HIDDEN, .w = &l->gate_up[e], .m = 1, .out_dtype = k->act}), "gate_up");
      ok(k->silu_mul(l->d, &(ti_silu_mul_args){.out = l->act, .gate_up = l->wide, .n_row = 1, .dim = WIDTH}), "silu_mul");
      ok(k->gemm(l->d, &(ti_gemm_args){.out = l->y + (size_t)(t * TOP + j) * HIDDEN, .x = l->act, .w = &l->down[e], .m = 1, .out_dtype = k->act}),
         "down");
    }
  ok(k->unpermute(l->d,
                  &(ti_unpermute_args){.out = l->out[1], .y = l->y, .dst = l->flat, .weights = l->weights, .n_row = n, .n_top = TOP, .dim = HIDDEN}),
     "unpermute");
  ok(k->sync(l->d), "sync");
}

// Best of both in us, taking turns, so that a busy machine is busy for both.
static void measure(lab *l, int n, double best[2]) {
  void (*const fn[2])(lab *, int) = {grouped, naive};
  best[0] = best[1] = INFINITY;
  const uint64_t end = ti_mono_ns() + l->ms * 1000000;
  for (int round = 0; round < 3 || ti_mono_ns() < end; round++)
    for (int i = 0; i < 2; i++) {
      const uint64_t t = ti_mono_ns();
      fn[i](l, n);
      best[i] = fmin(best[i], (double)(ti_mono_ns() - t) / 1e3);
    }
}

int main(int argc, char **argv) {
  static const int tokens[] = {1, 8, 64, 256};
  lab l = {.k = ti_kernels_cpu(), .ms = 3000};
  const char *json_path = NULL;
  long threads = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--threads") == 0) threads = strtol(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--backend") == 0) l.k = ti_kernels_find(argv[i + 1]);
    if (strcmp(argv[i], "--ms") == 0) l.ms = strtoul(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--json") == 0) json_path = argv[i + 1];
  }
  if (!l.k || l.k->act != TI_F32 || threads < 1 || threads > 256) {
    fprintf(stderr, "lab_experts: --threads 1..256, --backend of this processor: ref, cpu, cpu-avx2, cpu-avx512, cpu-vnni\n");
    return 1;
  }
  ok(l.k->open(&(ti_dev_options){.threads = (int)threads, .deterministic = true}, &l.d, NULL), "open");
  ok(l.k->reserve(l.d, CAPACITY, 2 * HIDDEN, 128, 1024), "reserve");
  make(&l);
  json_t *rows = json_array();
  int failed = 0;
  printf("%s, %ld threads: hidden %d, experts %d x %d wide, top-%d, bf16\n%7s %12s %12s %8s\n", l.k->name, threads, HIDDEN, EXPERTS, WIDTH, TOP,
         "tokens", "grouped us", "naive us", "ratio");
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
    double us[2];
    grouped(&l, tokens[i]);
    naive(&l, tokens[i]);
    if (memcmp(l.out[0], l.out[1], (size_t)tokens[i] * HIDDEN * sizeof(float)) != 0) {
      printf("%7d WRONG: grouped and naive differ\n", tokens[i]);
      failed = 1;
      continue;
    }
    measure(&l, tokens[i], us);
    printf("%7d %12.0f %12.0f %8.2f%s\n", tokens[i], us[0], us[1], us[1] / us[0], tokens[i] >= 64 && us[1] / us[0] < goal ? "  below 2.5" : "");
    failed |= tokens[i] >= 64 && us[1] / us[0] < goal;
    json_array_append_new(rows, json_pack("{s:i,s:f,s:f}", "tokens", tokens[i], "grouped_us", us[0], "naive_us", us[1]));
  }
  if (json_path && json_dump_file(rows, json_path, JSON_INDENT(1))) fprintf(stderr, "lab_experts: cannot write %s\n", json_path);
  json_decref(rows);
  l.k->close(l.d);
  return failed;
}
