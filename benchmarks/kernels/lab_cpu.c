// The lab of the CPU kernels: every op is checked against the reference backend, then timed.
//
//   lab_cpu [--only NAME] [--threads N] [--backend NAME] [--ms N] [--json FILE]
//
// One line an op and shape: the best and the median time, GFLOP/s, GB/s (weights or KV once, activations once), and the share of what this machine
// gives at that thread count: fp32 FMA peak, and copy bandwidth over 64 MiB. Small shapes live in the caches, so that more than 100% of copy is no
// mistake. Times are of a warm call: the same operands over and over.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/team.h"
#include "kernels/kernel.h"

typedef struct lab {
  const ti_kernels *k, *ref;
  ti_dev *d, *rd;
  int threads;
  uint64_t ms;
  const char *only;
  double peak_gflops, copy_gbs;
  json_t *rows;
  int failed;
} lab;

static void *must(void *p) {
  if (!p) {
    fprintf(stderr, "lab_cpu: out of memory\n");
    exit(1);
  }
  return p;
}
static void ok(ti_status st, const char *what) {
  if (st == TI_OK) return;
  fprintf(stderr, "lab_cpu: %s: %s\n", what, ti_status_text(st));
  exit(1);
}

static float noise(uint64_t i) {  // in (-1, 1)
  uint64_t z = i * 0x9E3779B97F4A7C15ull + 0x1234567;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return 2.0f * ti_u32_to_unit((uint32_t)(z >> 32)) - 1.0f;
}
static float *floats(lab *l, size_t n, uint64_t seed) {
  float *x = must(l->k->alloc(l->d, n * sizeof *x));
  for (size_t i = 0; i < n; i++) x[i] = noise(i + seed * 1000003);
  return x;
}

// ---- what the machine gives ----

enum { FMA_ROUNDS = 200000 };

typedef struct peak_job {
  float *sink, *src, *dst;
  size_t n;
} peak_job;

// Twelve independent chains: two FMA a cycle at a latency of 4 or 5 need ten.
__attribute__((target("avx2,fma"))) static void fma_loop(void *arg, int thread, int n_threads) {
  typedef float v8 __attribute__((vector_size(32)));
  v8 a = {0}, b = a, x0 = a, x1 = a, x2 = a, x3 = a, x4 = a, x5 = a, x6 = a, x7 = a, x8 = a, x9 = a, x10 = a, x11 = a;
  for (int r = 0; r < FMA_ROUNDS; r++) {
    __asm__ volatile(
        "vfmadd231ps %12, %13, %0\n vfmadd231ps %12, %13, %1\n vfmadd231ps %12, %13, %2\n vfmadd231ps %12, %13, %3\n"
        "vfmadd231ps %12, %13, %4\n vfmadd231ps %12, %13, %5\n vfmadd231ps %12, %13, %6\n vfmadd231ps %12, %13, %7\n"
        "vfmadd231ps %12, %13, %8\n vfmadd231ps %12, %13, %9\n vfmadd231ps %12, %13, %10\n vfmadd231ps %12, %13, %11"
        : "+x"(x0), "+x"(x1), "+x"(x2), "+x"(x3), "+x"(x4), "+x"(x5), "+x"(x6), "+x"(x7), "+x"(x8), "+x"(x9), "+x"(x10), "+x"(x11)
        : "x"(a), "x"(b));
  }
  const v8 s = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9 + x10 + x11;
  ((peak_job *)arg)->sink[thread] = s[0] + (float)n_threads;
}

static void copy_loop(void *arg, int thread, int n_threads) {
  const peak_job *j = arg;
  const size_t part = j->n / (size_t)n_threads;
  memcpy(j->dst + part * (size_t)thread, j->src + part * (size_t)thread, part * sizeof(float));
}

static void measure_machine(lab *l) {
  ti_team *team;
  ok(ti_team_create(l->threads, NULL, &team), "team");
  const size_t n = (size_t)8 << 20;
  peak_job j = {.sink = must(calloc((size_t)l->threads, sizeof(float))), .src = floats(l, n, 1), .dst = floats(l, n, 2), .n = n};
  double best_fma = 1e30, best_copy = 1e30;
  for (int i = 0; i < 8; i++) {
    uint64_t t = ti_mono_ns();
    ti_team_run(team, fma_loop, &j);
    best_fma = fmin(best_fma, (double)(ti_mono_ns() - t));
    t = ti_mono_ns();
    ti_team_run(team, copy_loop, &j);
    best_copy = fmin(best_copy, (double)(ti_mono_ns() - t));
  }
  l->peak_gflops = (double)FMA_ROUNDS * 12 * 16 * l->threads / best_fma;
  l->copy_gbs = 2.0 * (double)n * sizeof(float) / best_copy;
  free(j.sink);
  l->k->free(l->d, j.src);
  l->k->free(l->d, j.dst);
  ti_team_destroy(team);
  printf("%s, %d threads: fp32 FMA %.0f GFLOP/s (8 lanes), copy %.1f GB/s read + write\n", l->k->name, l->threads, l->peak_gflops, l->copy_gbs);
}

// ---- checking and timing ----

static void check(lab *l, const char *name, const char *shape, const float *got, const float *want, size_t n, double tolerance) {
  double top = 0.0, worst = 0.0;
  for (size_t i = 0; i < n; i++) top = fmax(top, fabs((double)want[i]));
  for (size_t i = 0; i < n; i++) worst = fmax(worst, isfinite(got[i]) ? fabs((double)got[i] - (double)want[i]) : INFINITY);
  if (worst <= tolerance * (top + 1e-30)) return;
  printf("%-14s %-34s WRONG: off by %.3g of %.3g\n", name, shape, worst, top);
  l->failed++;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef ti_status (*op_fn)(const lab *l, const void *args);

static void time_op(lab *l, const char *name, const char *shape, op_fn op, const void *args, double flops, double bytes) {
  enum { MAX = 4000 };
  static double ns[MAX];
  int n = 0;
  const uint64_t end = ti_mono_ns() + l->ms * 1000000;
  for (int i = 0; i < 3; i++) ok(op(l, args), name);
  while (n < MAX && (n < 5 || ti_mono_ns() < end)) {
    const uint64_t t = ti_mono_ns();
    ok(op(l, args), name);
    ns[n++] = (double)(ti_mono_ns() - t);
  }
  qsort(ns, (size_t)n, sizeof *ns, by_value);
  const double best = ns[0], mid = ns[n / 2];
  printf("%-14s %-34s %9.1f %9.1f us  %7.1f GFLOP/s %4.0f%%  %6.1f GB/s %4.0f%%\n", name, shape, best / 1e3, mid / 1e3, flops / best,
         100.0 * flops / best / l->peak_gflops, bytes / best, 100.0 * bytes / best / l->copy_gbs);
  json_array_append_new(l->rows, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "op", name, "shape", shape, "best_us", best / 1e3, "median_us",
                                           mid / 1e3, "gflops", flops / best, "gbs", bytes / best));
}

static bool wanted(const lab *l, const char *name) { return !l->only || strcmp(l->only, name) == 0; }

// ---- matrices ----

static ti_status run_gemm(const lab *l, const void *a) { return l->k->gemm(l->d, a); }
static ti_status run_grouped(const lab *l, const void *a) { return l->k->grouped_gemm(l->d, a); }

typedef struct matrix {
  void *stored, *mem, *ref_mem;
  float *scale;
  ti_weight w, rw;
} matrix;

// Random codes; the scales, wherever the type has them, are fp16 numbers of a weight's size.
static void random_blocks(ti_dtype t, uint8_t *p, size_t n, uint64_t seed) {
  const int bytes = ti_dtype_block_bytes(t), at = t == TI_Q6_K ? 208 : 0;
  const bool two = t == TI_Q4_1 || t == TI_Q5_1 || t == TI_Q4_K || t == TI_Q5_K;
  for (size_t b = 0; b < n; b++, p += bytes) {
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(128.0f + 127.0f * noise(b * 256 + (size_t)i + seed));
    const uint16_t d = ti_f32_to_f16(0.01f + 0.005f * noise(b + seed)), m = ti_f32_to_f16(-0.08f);
    memcpy(p + at, &d, sizeof d);
    if (two) memcpy(p + 2, &m, sizeof m);
  }
}

static void make_matrix(lab *l, ti_dtype t, int64_t n, int64_t k, uint64_t seed, matrix *m) {
  const size_t count = (size_t)(n * k);
  m->stored = must(malloc(count * (size_t)ti_dtype_block_bytes(t)));
  m->scale = NULL;
  for (size_t i = 0; i < count; i++) {
    const float v = noise(i + seed);
    if (t == TI_F32) ((float *)m->stored)[i] = v;
    if (t == TI_BF16) ((uint16_t *)m->stored)[i] = ti_f32_to_bf16(v);
    if (t == TI_F16) ((uint16_t *)m->stored)[i] = ti_f32_to_f16(v);
    if (t == TI_E4M3) ((uint8_t *)m->stored)[i] = ti_f32_to_e4m3(v * 100.0f);
  }
  if (ti_dtype_block(t) > 1) random_blocks(t, m->stored, count / (size_t)ti_dtype_block(t), seed);
  ti_weight_src src = {.data = m->stored, .dtype = t, .n = n, .k = k};
  if (t == TI_E4M3) {
    src.block_n = src.block_k = 128;
    src.scale_ld = (k + 127) / 128;
    const size_t n_scale = (size_t)((n + 127) / 128 * src.scale_ld);
    m->scale = must(malloc(n_scale * sizeof(float)));
    for (size_t i = 0; i < n_scale; i++) m->scale[i] = 0.01f + 0.001f * noise(i);
    src.scale = m->scale;
  }
  size_t size, ref_size;
  ok(l->k->weight_size(l->d, &src, 1, 0, &size), "weight_size");
  ok(l->ref->weight_size(l->rd, &src, 1, 0, &ref_size), "weight_size");
  m->mem = must(l->k->alloc(l->d, size));
  m->ref_mem = must(l->ref->alloc(l->rd, ref_size));
  ok(l->k->weight_prepare(l->d, &src, 1, 0, m->mem, &m->w), "weight_prepare");
  ok(l->ref->weight_prepare(l->rd, &src, 1, 0, m->ref_mem, &m->rw), "weight_prepare");
}

static void free_matrix(lab *l, matrix *m) {
  free(m->stored);
  free(m->scale);
  l->k->free(l->d, m->mem);
  l->ref->free(l->rd, m->ref_mem);
}

static void lab_gemm(lab *l) {
  static const int64_t shapes[][2] = {{512, 256}, {1536, 256}, {256, 768}, {4096, 256}, {4096, 4096}};
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_F16, TI_E4M3};
  static const int ms[] = {1, 4, 8, 64, 512};
  for (int s = 0; s < 5; s++) {
    for (int t = 0; t < 4; t++) {
      const int64_t n = shapes[s][0], k = shapes[s][1];
      matrix mat;
      make_matrix(l, types[t], n, k, 5, &mat);
      float *x = floats(l, (size_t)(512 * k), 3), *out = floats(l, (size_t)(512 * n), 4), *want = floats(l, (size_t)(2 * n), 5);
      for (int i = 0; i < 5; i++) {
        const int m = ms[i];
        char shape[64];
        snprintf(shape, sizeof shape, "%s m %d n %d k %d", ti_dtype_name(types[t]), m, (int)n, (int)k);
        const ti_gemm_args a = {.out = out, .x = x, .w = &mat.w, .m = m, .out_dtype = TI_F32};
        ti_gemm_args r = a;
        r.out = want;
        r.m = m < 2 ? m : 2;
        r.w = &mat.rw;
        ok(l->k->gemm(l->d, &a), "gemm");
        ok(l->ref->gemm(l->rd, &r), "gemm");
        check(l, "gemm", shape, out, want, (size_t)(r.m * n), 1e-5);
        time_op(l, "gemm", shape, run_gemm, &a, 2.0 * m * (double)(n * k),
                (double)(n * k) * ti_dtype_block_bytes(types[t]) + 4.0 * m * (double)(n + k));
      }
      l->k->free(l->d, x);
      l->k->free(l->d, out);
      l->k->free(l->d, want);
      free_matrix(l, &mat);
    }
  }
}

// Block weights at SmolLM2's shapes, with int8 activations: bytes are those that the file stores.
static void lab_blocks(lab *l) {
  static const int64_t shapes[][2] = {{576, 576}, {960, 576}, {3072, 576}, {576, 1536}, {49152, 576}, {4096, 4096}};
  static const ti_dtype types[] = {TI_Q4_1, TI_Q8_0, TI_Q4_0, TI_Q5_0, TI_Q5_1, TI_Q4_K, TI_Q5_K, TI_Q6_K};
  static const int ms[] = {1, 4, 8, 512};
  for (int s = 0; s < 6; s++) {
    for (int t = 0; t < 8; t++) {
      const int64_t n = shapes[s][0], k = shapes[s][1];
      if (k % ti_dtype_block(types[t]) != 0) continue;
      matrix mat;
      make_matrix(l, types[t], n, k, 5, &mat);
      float *x = floats(l, (size_t)(512 * k), 3), *out = floats(l, (size_t)(512 * n), 4), *want = floats(l, (size_t)(2 * n), 5);
      for (int i = 0; i < 4; i++) {
        const int m = ms[i];
        if (m == 512 && n * k > 3072 * 576) continue;
        char shape[64];
        snprintf(shape, sizeof shape, "%s m %d n %d k %d", ti_dtype_name(types[t]), m, (int)n, (int)k);
        const ti_gemm_args a = {.out = out, .x = x, .w = &mat.w, .m = m, .out_dtype = TI_F32};
        ti_gemm_args r = a;
        r.out = want;
        r.m = m < 2 ? m : 2;
        r.w = &mat.rw;
        ok(l->k->gemm(l->d, &a), "gemm");
        ok(l->ref->gemm(l->rd, &r), "gemm");
        check(l, "blocks", shape, out, want, (size_t)(r.m * n), 1e-4);
        time_op(l, "blocks", shape, run_gemm, &a, 2.0 * m * (double)(n * k),
                (double)(n * k) / ti_dtype_block(types[t]) * ti_dtype_block_bytes(types[t]) + 4.0 * m * (double)(n + k));
      }
      l->k->free(l->d, x);
      l->k->free(l->d, out);
      l->k->free(l->d, want);
      free_matrix(l, &mat);
    }
  }
}

static void lab_grouped(lab *l) {
  enum { E = 16, N = 256, K = 256, CAP = 4096 };
  matrix mats[E];
  ti_weight w[E], rw[E];
  for (int e = 0; e < E; e++) {
    make_matrix(l, TI_BF16, N, K, 100 + (uint64_t)e, &mats[e]);
    w[e] = mats[e].w;
    rw[e] = mats[e].rw;
  }
  float *x = floats(l, (size_t)CAP * K, 1), *out = floats(l, (size_t)CAP * N, 2), *want = floats(l, (size_t)CAP * N, 2);
  for (int rows = 1; rows <= 128; rows *= 8) {
    int32_t count[E], offset[E + 1] = {0};
    int busy = 0;
    for (int e = 0; e < E; e++) {
      count[e] = e % 4 == 1 ? 0 : rows;
      busy += count[e] > 0;
      offset[e + 1] = offset[e] + (count[e] + 7) / 8 * 8;
    }
    char shape[64];
    snprintf(shape, sizeof shape, "BF16 %d of %d experts, %d rows", busy, E, rows);
    const ti_grouped_gemm_args a = {.out = out, .x = x, .w = w, .count = count, .offset = offset, .n_expert = E, .capacity = CAP};
    ti_grouped_gemm_args r = a;
    r.out = want;
    r.w = rw;
    ok(l->k->grouped_gemm(l->d, &a), "grouped_gemm");
    ok(l->ref->grouped_gemm(l->rd, &r), "grouped_gemm");
    check(l, "grouped_gemm", shape, out, want, (size_t)rows * N, 1e-5);
    time_op(l, "grouped_gemm", shape, run_grouped, &a, 2.0 * busy * rows * N * K, 2.0 * busy * N * K + 4.0 * busy * rows * (N + K));
  }
  l->k->free(l->d, x);
  l->k->free(l->d, out);
  l->k->free(l->d, want);
  for (int e = 0; e < E; e++) free_matrix(l, &mats[e]);
}

// ---- attention ----

typedef struct world {  // n_seq sequences of `kv` places of which the last `rows` are in the batch
  ti_kv_layout layout;
  ti_batch b;
  int32_t *ints;
  float *pool;
} world;

static void make_world(lab *l, ti_kv_layout layout, int n_seq, int kv, int rows, world *w) {
  ok(ti_kv_layout_init(&layout, NULL), "layout");
  const int pages = (kv + layout.page_tokens - 1) / layout.page_tokens, n = n_seq * rows;
  w->layout = layout;
  w->pool = floats(l, layout.page_bytes * (size_t)(pages * n_seq) / 4, 7);
  w->ints = must(calloc((size_t)(3 * n + 2 * n_seq + 1 + n_seq * pages), sizeof *w->ints));
  int32_t *place = w->ints, *seq = place + n, *row0 = seq + n, *len = row0 + n_seq + 1, *table = len + n_seq;
  for (int s = 0; s < n_seq; s++) {
    for (int r = 0; r < rows; r++) {
      place[s * rows + r] = kv - rows + r;
      seq[s * rows + r] = s;
    }
    row0[s + 1] = (s + 1) * rows;
    len[s] = kv;
    for (int p = 0; p < pages; p++) table[s * pages + p] = (p * 7919 + s) % pages * n_seq + s;
  }
  w->b = (ti_batch){.n_row = n,
                    .n_seq = n_seq,
                    .max_seq_rows = rows,
                    .position = place,
                    .place = place,
                    .seq = seq,
                    .seq_row0 = row0,
                    .seq_kv_len = len,
                    .block_table = table,
                    .table_stride = pages};
}

static void free_world(lab *l, world *w) {
  free(w->ints);
  l->k->free(l->d, w->pool);
}

static ti_status run_attention(const lab *l, const void *a) { return l->k->attention(l->d, a); }
static ti_status run_mla(const lab *l, const void *a) { return l->k->mla_attention(l->d, a); }

static const int att_shapes[][3] = {{1, 200, 1}, {8, 200, 1}, {1, 4000, 1}, {1, 512, 512}};  // sequences, places, rows

static double attended(int n_seq, int kv, int rows) { return (double)n_seq * rows * (kv - (rows - 1) / 2.0); }

static void lab_attention(lab *l) {
  for (int i = 0; i < 4; i++) {
    const int n_seq = att_shapes[i][0], kv = att_shapes[i][1], rows = att_shapes[i][2], heads = 4, dim = 64;
    world w;
    make_world(l, (ti_kv_layout){.kind = TI_KV_GQA, .dtype = TI_F32, .page_tokens = 16, .n_kv_head = 2, .head_dim = dim, .n_layer = 1}, n_seq, kv,
               rows, &w);
    const size_t n = (size_t)(n_seq * rows * heads * dim);
    float *q = floats(l, n, 1), *out = floats(l, n, 2), *want = floats(l, n, 3);
    const ti_attention_args a = {.out = out, .q = q, .kv = w.pool, .layout = &w.layout, .batch = &w.b, .n_head = heads, .scale = 0.125f};
    ti_attention_args r = a;
    r.out = want;
    char shape[64];
    snprintf(shape, sizeof shape, "4/2 heads of 64, %d x %d of %d", n_seq, rows, kv);
    ok(l->k->attention(l->d, &a), "attention");
    ok(l->ref->attention(l->rd, &r), "attention");
    check(l, "attention", shape, out, want, n, 1e-5);
    time_op(l, "attention", shape, run_attention, &a, 4.0 * attended(n_seq, kv, rows) * heads * dim,
            4.0 * n_seq * kv * 2 * 2 * dim + 8.0 * (double)n);
    l->k->free(l->d, q);
    l->k->free(l->d, out);
    l->k->free(l->d, want);
    free_world(l, &w);
  }
}

static void lab_mla(lab *l) {
  for (int i = 0; i < 4; i++) {
    const int n_seq = att_shapes[i][0], kv = att_shapes[i][1], rows = att_shapes[i][2], heads = 4;
    world w;
    make_world(l, (ti_kv_layout){.kind = TI_KV_MLA, .dtype = TI_F32, .page_tokens = 16, .latent = 512, .rope = 64, .n_layer = 1}, n_seq, kv, rows,
               &w);
    const size_t n = (size_t)(n_seq * rows * heads);
    float *q = floats(l, n * 512, 1), *qr = floats(l, n * 64, 4), *out = floats(l, n * 512, 2), *want = floats(l, n * 512, 3);
    const ti_mla_attention_args a = {
        .out = out, .q_lat = q, .q_rope = qr, .kv = w.pool, .layout = &w.layout, .batch = &w.b, .n_head = heads, .scale = 0.07f};
    ti_mla_attention_args r = a;
    r.out = want;
    char shape[64];
    snprintf(shape, sizeof shape, "4 heads of 512 + 64, %d x %d of %d", n_seq, rows, kv);
    ok(l->k->mla_attention(l->d, &a), "mla_attention");
    ok(l->ref->mla_attention(l->rd, &r), "mla_attention");
    check(l, "mla_attention", shape, out, want, n * 512, 1e-5);
    time_op(l, "mla_attention", shape, run_mla, &a, 2.0 * attended(n_seq, kv, rows) * heads * (576 + 512),
            4.0 * n_seq * kv * 576 + 4.0 * (double)n * 1088);
    l->k->free(l->d, q);
    l->k->free(l->d, qr);
    l->k->free(l->d, out);
    l->k->free(l->d, want);
    free_world(l, &w);
  }
}

// ---- rows ----

static ti_status run_rmsnorm(const lab *l, const void *a) { return l->k->rmsnorm(l->d, a); }
static ti_status run_rope(const lab *l, const void *a) { return l->k->rope(l->d, a); }
static ti_status run_silu(const lab *l, const void *a) { return l->k->silu_mul(l->d, a); }
static ti_status run_sample(const lab *l, const void *a) { return l->k->sample(l->d, a); }
static ti_status run_logprobs(const lab *l, const void *a) { return l->k->logprobs(l->d, a); }

static void lab_rows(lab *l) {
  for (int m = 1; m <= 512; m *= 8) {
    char shape[64];
    const size_t n = (size_t)m * 1536;
    float *x = floats(l, n, 1), *y = floats(l, n, 1), *out = floats(l, n, 2), *want = floats(l, n, 2), *w = floats(l, 2048, 3);
    int32_t *position = must(calloc((size_t)m, sizeof *position));
    for (int i = 0; i < m; i++) position[i] = i * 7;
    snprintf(shape, sizeof shape, "%d x 256", m);
    const ti_rmsnorm_args a = {.out = out, .x = x, .weight = w, .n_row = m, .dim = 256, .eps = 1e-5f};
    ti_rmsnorm_args r = a;
    r.out = want;
    ok(l->k->rmsnorm(l->d, &a), "rmsnorm");
    ok(l->ref->rmsnorm(l->rd, &r), "rmsnorm");
    check(l, "rmsnorm", shape, out, want, (size_t)m * 256, 1e-5);
    if (wanted(l, "rmsnorm")) time_op(l, "rmsnorm", shape, run_rmsnorm, &a, 4.0 * m * 256, 8.0 * m * 256);
    snprintf(shape, sizeof shape, "%d x 768", m);
    const ti_silu_mul_args s = {.out = out, .gate_up = x, .n_row = m, .dim = 768};
    ti_silu_mul_args sr = s;
    sr.out = want;
    ok(l->k->silu_mul(l->d, &s), "silu_mul");
    ok(l->ref->silu_mul(l->rd, &sr), "silu_mul");
    check(l, "silu_mul", shape, out, want, (size_t)m * 768, 1e-6);
    if (wanted(l, "silu_mul")) time_op(l, "silu_mul", shape, run_silu, &s, 5.0 * m * 768, 12.0 * m * 768);
    snprintf(shape, sizeof shape, "%d x 4 heads of 64", m);
    for (int i = 0; i < 32; i++) w[i] = powf(10000.0f, -(float)i / 32.0f);
    const ti_rope_args p = {
        .x = x, .position = position, .inv_freq = w, .n_row = m, .n_head = 4, .head_dim = 64, .rope_dim = 64, .attn_factor = 1.0f};
    ti_rope_args pr = p;
    pr.x = y;
    ok(l->k->rope(l->d, &p), "rope");
    ok(l->ref->rope(l->rd, &pr), "rope");
    check(l, "rope", shape, x, y, (size_t)m * 256, 1e-6);
    if (wanted(l, "rope")) time_op(l, "rope", shape, run_rope, &p, 3.0 * m * 256, 8.0 * m * 256);
    l->k->free(l->d, x);
    l->k->free(l->d, y);
    l->k->free(l->d, out);
    l->k->free(l->d, want);
    l->k->free(l->d, w);
    free(position);
  }
}

static void lab_sampling(lab *l) {
  static const int vocabs[] = {4096, 131072};
  static const struct {
    const char *name;
    ti_sample_params p;
  } kinds[] = {{"greedy", {.top_p = 1.0f}},
               {"t 1", {.temperature = 1.0f, .top_p = 1.0f, .seed = 7}},
               {"t 1, top_p 0.9", {.temperature = 1.0f, .top_p = 0.9f, .seed = 7}},
               {"t 0.7, top_k 50, top_p 0.95", {.temperature = 0.7f, .top_p = 0.95f, .top_k = 50, .seed = 7}}};
  for (int v = 0; v < 2; v++) {
    const int n = vocabs[v];
    float *x = floats(l, (size_t)n, 9), value, want_value, logprob, want_logprob;
    for (int i = 0; i < n; i++) x[i] = 12.0f * x[i] * x[i] * x[i];
    int32_t id, want_id, rank, want_rank, target = 17;
    char shape[64];
    for (int i = 0; i < 4; i++) {
      const ti_sample_args a = {.logits = x, .params = &kinds[i].p, .id = &id, .value = &value, .n_row = 1, .n_id = n};
      ti_sample_args r = a;
      r.id = &want_id;
      r.value = &want_value;
      snprintf(shape, sizeof shape, "%d ids, %s", n, kinds[i].name);
      ok(l->k->sample(l->d, &a), "sample");
      ok(l->ref->sample(l->rd, &r), "sample");
      check(l, "sample", shape, &(float){(float)id}, &(float){(float)want_id}, 1, 0.0);
      time_op(l, "sample", shape, run_sample, &a, n, 4.0 * n);
    }
    const ti_logprob_args a = {.logits = x, .target = &target, .logprob = &logprob, .rank = &rank, .n_row = 1, .vocab = n};
    ti_logprob_args r = a;
    r.logprob = &want_logprob;
    r.rank = &want_rank;
    snprintf(shape, sizeof shape, "%d ids", n);
    ok(l->k->logprobs(l->d, &a), "logprobs");
    ok(l->ref->logprobs(l->rd, &r), "logprobs");
    check(l, "logprobs", shape, &logprob, &want_logprob, 1, 1e-6);
    time_op(l, "logprobs", shape, run_logprobs, &a, n, 8.0 * n);
    l->k->free(l->d, x);
  }
}

// ---- a whole step of titan-tiny-dense's shape, nothing but ops ----

enum { HIDDEN = 256, FFN = 768, LAYERS = 5, HEADS = 4, KV_HEADS = 2, HEAD = 64, VOCAB = 4096, QKV = (HEADS + 2 * KV_HEADS) * HEAD };

typedef struct dense {
  matrix qkv, o, gate_up, down, table;
  world w;
  float *residual, *x, *qkv_out, *att, *ffn, *act, *logits, *norm, *inv_freq, *value;
  int32_t *ids, *out_ids;
  ti_sample_params *params;
  int n_logit;  // rows that are sampled: the last of each sequence
} dense;

static ti_status gemm_to(const lab *l, const matrix *w, const float *x, float *out, int m) {
  return l->k->gemm(l->d, &(ti_gemm_args){.out = out, .x = x, .w = &w->w, .m = m, .out_dtype = TI_F32});
}

static ti_status run_dense(const lab *l, const void *args) {
  const dense *s = args;
  const ti_kernels *k = l->k;
  const int m = s->w.b.n_row;
  ok(k->embed(l->d, &(ti_embed_args){.out = s->x, .ids = s->ids, .table = &s->table.w, .n_row = m, .hidden = HIDDEN, .n_id = VOCAB}), "embed");
  memset(s->residual, 0, (size_t)m * HIDDEN * sizeof(float));
  const ti_rmsnorm_args norm = {.out = s->x, .x = s->x, .residual = s->residual, .weight = s->norm, .n_row = m, .dim = HIDDEN, .eps = 1e-5f};
  float *kk = s->qkv_out + HEADS * HEAD, *v = kk + KV_HEADS * HEAD;
  for (int i = 0; i < LAYERS; i++) {
    ok(k->rmsnorm(l->d, &norm), "rmsnorm");
    ok(gemm_to(l, &s->qkv, s->x, s->qkv_out, m), "gemm");
    ti_rope_args rope = {.x = s->qkv_out,
                         .position = s->w.b.position,
                         .inv_freq = s->inv_freq,
                         .n_row = m,
                         .n_head = HEADS + KV_HEADS,
                         .head_dim = HEAD,
                         .rope_dim = HEAD,
                         .ld = QKV,
                         .attn_factor = 1.0f};
    ok(k->rope(l->d, &rope), "rope");
    ok(k->kv_append(
           l->d,
           &(ti_kv_append_args){.layout = &s->w.layout, .kv = s->w.pool, .layer = i, .batch = &s->w.b, .k = kk, .v = v, .ldk = QKV, .ldv = QKV}),
       "kv_append");
    ok(k->attention(l->d, &(ti_attention_args){.out = s->att,
                                               .q = s->qkv_out,
                                               .kv = s->w.pool,
                                               .layout = &s->w.layout,
                                               .batch = &s->w.b,
                                               .layer = i,
                                               .n_head = HEADS,
                                               .scale = 0.125f,
                                               .ldq = QKV}),
       "attention");
    ok(gemm_to(l, &s->o, s->att, s->x, m), "gemm");
    ok(k->rmsnorm(l->d, &norm), "rmsnorm");
    ok(gemm_to(l, &s->gate_up, s->x, s->ffn, m), "gemm");
    ok(k->silu_mul(l->d, &(ti_silu_mul_args){.out = s->act, .gate_up = s->ffn, .n_row = m, .dim = FFN}), "silu_mul");
    ok(gemm_to(l, &s->down, s->act, s->x, m), "gemm");
  }
  ok(k->rmsnorm(l->d, &norm), "rmsnorm");
  ok(gemm_to(l, &s->table, s->x, s->logits, s->n_logit), "gemm");
  return k->sample(
      l->d, &(ti_sample_args){.logits = s->logits, .params = s->params, .id = s->out_ids, .value = s->value, .n_row = s->n_logit, .n_id = VOCAB});
}

static void lab_step(lab *l) {
  static const int shapes[][3] = {{1, 128, 1}, {4, 128, 1}, {8, 128, 1}, {1, 512, 512}};  // sequences, places, rows of each
  for (int i = 0; i < 4; i++) {
    const int n_seq = shapes[i][0], kv = shapes[i][1], rows = shapes[i][2];
    const size_t m = (size_t)(n_seq * rows);
    dense s = {.n_logit = n_seq};
    make_matrix(l, TI_BF16, QKV, HIDDEN, 1, &s.qkv);
    make_matrix(l, TI_BF16, HIDDEN, HEADS * HEAD, 2, &s.o);
    make_matrix(l, TI_BF16, 2 * FFN, HIDDEN, 3, &s.gate_up);
    make_matrix(l, TI_BF16, HIDDEN, FFN, 4, &s.down);
    make_matrix(l, TI_BF16, VOCAB, HIDDEN, 5, &s.table);
    const ti_kv_layout layout = {.kind = TI_KV_GQA, .dtype = TI_F32, .page_tokens = 16, .n_kv_head = KV_HEADS, .head_dim = HEAD, .n_layer = LAYERS};
    make_world(l, layout, n_seq, kv, rows, &s.w);
    float *mem = floats(l, m * (2 * HIDDEN + QKV + HEADS * HEAD + 3 * FFN + VOCAB), 6), *small = floats(l, HIDDEN + HEAD / 2 + m, 7);
    s.residual = mem;
    s.x = s.residual + m * HIDDEN;
    s.qkv_out = s.x + m * HIDDEN;
    s.att = s.qkv_out + m * QKV;
    s.ffn = s.att + m * HEADS * HEAD;
    s.act = s.ffn + m * 2 * FFN;
    s.logits = s.act + m * FFN;
    s.norm = small;
    s.inv_freq = s.norm + HIDDEN;
    s.value = s.inv_freq + HEAD / 2;
    s.ids = must(calloc(2 * m, sizeof *s.ids));
    s.out_ids = s.ids + m;
    s.params = must(calloc(m, sizeof *s.params));
    for (size_t r = 0; r < m; r++) s.params[r].top_p = 1.0f;
    char shape[64];
    snprintf(shape, sizeof shape, "dense tiny, %d x %d of %d", n_seq, rows, kv);
    time_op(l, "step", shape, run_dense, &s,
            2.0 * (double)m * LAYERS * (QKV * HIDDEN + HIDDEN * HIDDEN + 3 * FFN * HIDDEN) + 2.0 * n_seq * VOCAB * HIDDEN,
            2.0 * (LAYERS * (QKV * HIDDEN + HIDDEN * HIDDEN + 3 * FFN * HIDDEN) + VOCAB * HIDDEN));
    const json_t *row = json_array_get(l->rows, json_array_size(l->rows) - 1);
    printf("%-14s %-34s %9.0f tok/s (median %.0f)\n", "", "", (double)m * 1e6 / json_real_value(json_object_get(row, "best_us")),
           (double)m * 1e6 / json_real_value(json_object_get(row, "median_us")));
    free(s.ids);
    free(s.params);
    l->k->free(l->d, mem);
    l->k->free(l->d, small);
    free_world(l, &s.w);
    matrix *all[] = {&s.qkv, &s.o, &s.gate_up, &s.down, &s.table};
    for (int j = 0; j < 5; j++) free_matrix(l, all[j]);
  }
}

static int usage(void) {
  fprintf(
      stderr,
      "usage: lab_cpu [--only gemm|blocks|grouped_gemm|attention|mla_attention|rmsnorm|silu_mul|rope|sample|step] [--threads N] [--backend NAME]\n"
      "               [--ms N: time spent on each line] [--json FILE]\n");
  return 2;
}

int main(int argc, char **argv) {
  lab l = {.threads = 2, .ms = 30, .ref = ti_kernels_ref(), .k = ti_kernels_cpu(), .rows = json_array()};
  const char *json = NULL;
  for (int i = 1; i < argc; i += 2) {
    const char *v = i + 1 < argc ? argv[i + 1] : NULL;
    if (!v) return usage();
    if (!strcmp(argv[i], "--only"))
      l.only = v;
    else if (!strcmp(argv[i], "--threads"))
      l.threads = (int)strtol(v, NULL, 10);
    else if (!strcmp(argv[i], "--ms"))
      l.ms = strtoul(v, NULL, 10);
    else if (!strcmp(argv[i], "--backend"))
      l.k = ti_kernels_find(v);
    else if (!strcmp(argv[i], "--json"))
      json = v;
    else
      return usage();
  }
  if (!l.k || l.threads < 1) return usage();
  ti_error err = {0};
  const ti_dev_options o = {.threads = l.threads, .act_quant = TI_ACT_INT8, .deterministic = true};  // block weights only
  if (l.k->open(&o, &l.d, &err) != TI_OK || l.ref->open(&o, &l.rd, &err) != TI_OK) {
    fprintf(stderr, "lab_cpu: %s\n", err.text);
    return 1;
  }
  ok(l.k->reserve(l.d, 512, 4096, 576, 131072), "reserve");
  ok(l.ref->reserve(l.rd, 512, 4096, 576, 131072), "reserve");
  measure_machine(&l);
  if (wanted(&l, "gemm")) lab_gemm(&l);
  if (wanted(&l, "blocks")) lab_blocks(&l);
  if (wanted(&l, "grouped_gemm")) lab_grouped(&l);
  if (wanted(&l, "attention")) lab_attention(&l);
  if (wanted(&l, "mla_attention")) lab_mla(&l);
  if (wanted(&l, "rmsnorm") || wanted(&l, "silu_mul") || wanted(&l, "rope")) lab_rows(&l);
  if (wanted(&l, "sample")) lab_sampling(&l);
  if (wanted(&l, "step")) lab_step(&l);
  if (json) {
    json_t *all = json_pack("{s:s, s:i, s:f, s:f, s:O}", "backend", l.k->name, "threads", l.threads, "peak_gflops", l.peak_gflops, "copy_gbs",
                            l.copy_gbs, "rows", l.rows);
    if (json_dump_file(all, json, JSON_INDENT(1)) != 0) l.failed++;
    json_decref(all);
  }
  json_decref(l.rows);
  l.ref->close(l.rd);
  l.k->close(l.d);
  return l.failed > 0;
}
