// The FP8 products (kernels/cuda/gemm_fp8.h) beside cuBLASLt's with the same scales: right first, then timed.
//
//   lab_gemm_fp8 [--quick] [--json FILE] [check] [time] [grouped]      (none named: check, time, grouped)
//
// check: against the fp64 product of the dequantised operands (the bound of fp32 accumulation, with the tensor cores' short sums), against the
// unquantised product (diff), every m of 1..130, NaN behind every operand, nothing written outside, the same bits twice.
#include <cuda_fp8.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_fp8_mid.h"

// Products of e4m3 are summed inside the tensor core with about 14 bits below the largest of a step: the bound's share of sum |a w|.
#define TENSOR_BOUND 0x1p-12

static int64_t up4(int64_t x) { return (x + 3) / 4 * 4; }
static int64_t blocks(int64_t x) { return (x + 127) / 128; }

// ---- operands: real ones (fp32, for the unquantised product), quantised here in the plainest way
// ---------------------------------------------------

// One warp a block of bn x 128: scale = max(amax, 1e-4) / 448, codes rounded to nearest. scale[(r / bn) * s_ld + (c / 128) * s_step].
static __global__ void quantise(uint8_t *q, float *scale, const float *x, int64_t rows, int64_t k, int bn, int64_t s_ld, int64_t s_step) {
  const int64_t n_k = (k + 127) / 128, b = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int64_t r0 = b / n_k * bn, c0 = b % n_k * 128;
  if (r0 >= rows) return;
  const int lane = threadIdx.x % 32;
  const int64_t r1 = min(r0 + bn, rows), c1 = min(c0 + 128, k);
  float amax = 1e-4f;
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t c = c0 + lane; c < c1; c += 32) amax = fmaxf(amax, fabsf(x[r * k + c]));
  }
  for (int o = 16; o > 0; o /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, o));
  const float s = amax / 448.0f;
  if (lane == 0) scale[r0 / bn * s_ld + c0 / 128 * s_step] = s;
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t c = c0 + lane; c < c1; c += 32) q[r * k + c] = (uint8_t)__nv_cvt_float_to_fp8(x[r * k + c] / s, __NV_SATFINITE, __NV_E4M3);
  }
}

// Bytes outside [m, n] of [rows, ldo] bf16 that are no longer poison.
static __global__ void outside(const uint8_t *out, int64_t rows, int64_t ldo, int m, int64_t n, unsigned *bad) {
  for (int64_t i = threadIdx.x + (int64_t)blockIdx.x * blockDim.x; i < rows * ldo * 2; i += (int64_t)gridDim.x * blockDim.x) {
    const int64_t r = i / (2 * ldo), c = i % (2 * ldo) / 2;
    if ((r >= m || c >= n) && out[i] != 0xff) atomicAdd(bad, 1u);
  }
}

typedef struct operands {
  float *x, *w;      // [m, k], [n, k]: only where the unquantised product is wanted
  uint8_t *xq, *wq;  // with a poisoned tail of 128 rows
  float *xs;         // [blocks(k), up4(m)], poisoned where m is no multiple of 4
  float *ws;         // [blocks(n), ws_ld]
  int64_t ws_ld;     // blocks(k) rounded up to 4, as the peer wants it
} operands;

static operands make(lab *l, int64_t m, int64_t n, int64_t k, bool real, uint64_t seed) {
  operands o = {};
  o.ws_ld = up4(blocks(k));
  o.xq = (uint8_t *)lab_alloc(l, (size_t)((m + 128) * k));
  o.wq = (uint8_t *)lab_alloc(l, (size_t)((n + 128) * k));
  o.xs = (float *)lab_alloc(l, (size_t)(blocks(k) * up4(m)) * 4);
  o.ws = (float *)lab_alloc(l, (size_t)(blocks(n) * o.ws_ld) * 4);
  if (real) {
    o.x = (float *)lab_alloc(l, (size_t)(m * k) * 4);
    o.w = (float *)lab_alloc(l, (size_t)(n * k) * 4);
    lab_fill(l, o.x, TI_F32, (size_t)(m * k), seed, 3.0f);
    lab_fill(l, o.w, TI_F32, (size_t)(n * k), seed + 1, 0.05f);
    quantise<<<(unsigned)((m * blocks(k) + 7) / 8), 256, 0, l->stream>>>(o.xq, o.xs, o.x, m, k, 1, 1, up4(m));
    quantise<<<(unsigned)((blocks(n) * blocks(k) + 7) / 8), 256, 0, l->stream>>>(o.wq, o.ws, o.w, n, k, 128, o.ws_ld, 1);
  } else {
    lab_fill(l, o.xq, TI_E4M3, (size_t)(m * k), seed, 400.0f);
    lab_fill(l, o.wq, TI_E4M3, (size_t)(n * k), seed + 1, 400.0f);
    lab_fill_scale(l, o.xs, (size_t)(blocks(k) * up4(m)), seed + 2, 0.001f);
    lab_fill_scale(l, o.ws, (size_t)(blocks(n) * o.ws_ld), seed + 3, 0.001f);
  }
  return o;
}
static void drop(lab *l, operands *o) {
  void *const all[] = {o->x, o->w, o->xq, o->wq, o->xs, o->ws};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}
static lab_mat mat_x(const operands *o, int64_t ld_s, int64_t k) { return (lab_mat){o->xq, TI_E4M3, k, o->xs, 1, 128, 1, ld_s}; }
static lab_mat mat_w(const operands *o, int64_t k) { return (lab_mat){o->wq, TI_E4M3, k, o->ws, 128, 128, o->ws_ld, 1}; }

// ---- the dense product
// ------------------------------------------------------------------------------------------------------------------------------

typedef struct job {
  lab *l;
  ti_gemm_fp8_args a;
  const ti_fp8_mid_plan *mid;  // a plan of gemm_fp8_mid.cu; NULL: the table's choice
  ti_gemm_fp8_grouped_args g;
  ti_blas_args blas;
  ti_status st;
} job;
static void run_ours(void *arg) {
  job *j = (job *)arg;
  j->st = j->mid ? ti_cuda_fp8_mid(&j->l->dev, &j->a, j->mid) : ti_cuda_gemm_fp8(&j->l->dev, &j->a);
}
static void run_grouped(void *arg) {
  job *j = (job *)arg;
  j->st = ti_cuda_gemm_fp8_grouped(&j->l->dev, &j->g);
}
static void run_blas(void *arg) {
  job *j = (job *)arg;
  j->st = ti_blas_gemm(j->l->blas, j->l->stream, &j->blas);
}
static ti_gemm_fp8_args dense(const operands *o, void *out, int64_t ldo, int m, int n, int k) {
  return (ti_gemm_fp8_args){out, o->xq, o->xs, o->wq, o->ws, ldo, o->ws_ld, m, n, k};
}

// m rows of operands made for `rows` of them: the scales' layout follows m, so each m has its own.
static void check_one(lab *l, int m, int n, int k, bool deterministic, const ti_fp8_mid_plan *mid) {
  const int64_t ldo = n + 16, rows = m + 130;
  operands o = make(l, m, n, k, true, 7 + (uint64_t)m);
  void *out = lab_alloc(l, (size_t)(rows * ldo) * 2), *again = lab_alloc(l, (size_t)(rows * ldo) * 2);
  double *ref = (double *)lab_alloc(l, (size_t)m * (size_t)n * 8), *mag = (double *)lab_alloc(l, (size_t)m * (size_t)n * 8);
  unsigned *bad = (unsigned *)lab_alloc(l, 4), n_bad = 0;
  lab_ok(l, cudaMemsetAsync(bad, 0, 4, l->stream), "bad");
  l->dev.deterministic = deterministic;
  job j = {};
  j.l = l;
  j.a = dense(&o, out, ldo, m, n, k);
  j.mid = mid;
  run_ours(&j);
  lab_op(l, j.st, "gemm_fp8");
  j.a.out = again;
  run_ours(&j);
  lab_op(l, j.st, "gemm_fp8");
  outside<<<256, 256, 0, l->stream>>>((const uint8_t *)out, rows, ldo, m, n, bad);
  lab_ok(l, cudaMemcpyAsync(&n_bad, bad, 4, cudaMemcpyDeviceToHost, l->stream), "bad");
  const lab_mat x = mat_x(&o, up4(m), k), w = mat_w(&o, k), rx = {o.x, TI_F32, k, NULL, 1, 1, 0, 0}, rw = {o.w, TI_F32, k, NULL, 1, 1, 0, 0};
  lab_gemm_ref(l, &x, &w, m, n, k, ref, mag);
  const lab_error e = lab_compare(l, out, TI_BF16, ldo, ref, mag, m, n, TENSOR_BOUND);
  lab_gemm_ref(l, &rx, &rw, m, n, k, ref, mag);
  const lab_error real = lab_compare(l, out, TI_BF16, ldo, ref, mag, m, n, TENSOR_BOUND);
  lab_expect(l, e.worst <= 1.0 && real.diff < 1e-3, "m %d n %d k %d: worst %.3g of the bound at %lld, diff %.2e to the unquantised product", m, n, k,
             e.worst, (long long)e.at, real.diff);
  lab_expect(l, n_bad == 0, "m %d n %d k %d: %u bytes written outside", m, n, k, n_bad);
  lab_expect(l, lab_same(l, out, again, (size_t)(rows * ldo) * 2), "m %d n %d k %d: other bits the second time", m, n, k);
  l->dev.deterministic = false;
  void *const all[] = {out, again, ref, mag, bad};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
  drop(l, &o);
}

static void check(lab *l, int m, int n, int k, bool deterministic) { check_one(l, m, n, k, deterministic, NULL); }

// Every tile and every cut of K that gemm_fp8_mid.cu has, with dependent launch and without.
static void check_mid(lab *l) {
  int n = 0;
  for (int columns = 8; columns <= 256; columns += 8) {
    for (int split = 1; split <= 8; split++) {
      const ti_fp8_mid_plan p = {columns, split};
      if (!ti_cuda_fp8_mid_takes(&p)) continue;
      l->dev.pdl = split % 2 == 0;
      check_one(l, 65 + n * 29 % 64, n % 2 ? 576 : 2112, n % 3 ? 1536 : 1168, false, &p);
      check_one(l, 128, 1096, 4096, false, &p);
      if (split == 1) check_one(l, 100, 2 * l->dev.n_sm * columns + 40, 656, false, &p);  // two and three tiles a block
      l->dev.pdl = false;
      n++;
    }
  }
}

// With `deterministic` the first rows have the same bits whatever m is.
static void check_rows(lab *l, int n, int k) {
  enum { M = 700 };
  operands o = make(l, M, n, k, true, 99);
  void *out = lab_alloc(l, (size_t)M * (size_t)n * 2), *one = lab_alloc(l, (size_t)M * (size_t)n * 2);
  float *xs = (float *)lab_alloc(l, (size_t)(blocks(k) * M) * 4);
  l->dev.deterministic = true;
  job j = {};
  j.l = l;
  j.a = dense(&o, out, n, M, n, k);
  run_ours(&j);
  lab_op(l, j.st, "gemm_fp8");
  static const int ms[] = {1, 2, 17, 64, 65, 128, 129, 300, 513};
  for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
    const int m = ms[i];
    quantise<<<(unsigned)((m * blocks(k) + 7) / 8), 256, 0, l->stream>>>(o.xq, xs, o.x, m, k, 1, 1, up4(m));
    j.a = dense(&o, one, n, m, n, k);
    j.a.scale = xs;
    run_ours(&j);
    lab_op(l, j.st, "gemm_fp8");
    lab_expect(l, lab_same(l, out, one, (size_t)m * (size_t)n * 2), "n %d k %d: other bits with m %d", n, k, m);
  }
  l->dev.deterministic = false;
  lab_free(l, out);
  lab_free(l, one);
  lab_free(l, xs);
  drop(l, &o);
}

static void checks(lab *l) {
  for (int m = 1; m <= 130; m++) check(l, m, m % 3 ? 576 : 2112, m % 2 ? 1536 : 400, false);
  static const int shapes[][3] = {{4096, 576, 1536}, {2049, 2112, 512}, {1000, 4096, 7168}, {257, 7168, 2048}, {128, 4096, 7168}, {128, 7168, 16384},
                                  {300, 8, 16},      {129, 136, 144},   {128, 24, 16},      {1, 7168, 16384},  {64, 32768, 512},  {513, 2048, 5632}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    if (l->quick && (int64_t)shapes[i][0] * shapes[i][1] * shapes[i][2] > 1e10) continue;
    check(l, shapes[i][0], shapes[i][1], shapes[i][2], false);
    check(l, shapes[i][0], shapes[i][1], shapes[i][2], true);
  }
  check_mid(l);
  check_rows(l, 576, 1536);
  check_rows(l, 4096, 1024);
  check_rows(l, 11264, 2048);
  printf("checks: %d failed\n", l->failed);
}

// One shape, ours and cuBLASLt's.
static void time_one(lab *l, int m, int n, int k, bool deterministic) {
  operands o = make(l, m, n, k, false, 3);
  void *out = lab_alloc(l, (size_t)m * (size_t)n * 2);
  job j = {};
  j.l = l;
  j.a = dense(&o, out, n, m, n, k);
  j.blas.out = out, j.blas.x = o.xq, j.blas.w = o.wq, j.blas.x_scale = o.xs, j.blas.w_scale = o.ws, j.blas.m = m, j.blas.n = n, j.blas.k = k;
  j.blas.scale = TI_BLAS_BLOCK, j.blas.out_dtype = TI_BF16;
  lab_row r = {"gemm_fp8", deterministic ? "deterministic" : "fp8 block128", m, n, k, 0, 2.0 * m * n * k, 0, NULL, 0, 0};
  r.bytes = (double)n * k + (double)m * k + 2.0 * m * n + 4.0 * (double)(blocks(k) * (m + blocks(n)));
  l->dev.deterministic = deterministic;
  r.us = lab_time_us(l, run_ours, &j);
  l->dev.deterministic = false;
  lab_op(l, j.st, "gemm_fp8");
  if (l->blas) {
    run_blas(&j);
    if (j.st == TI_OK) r.peer = "cublasLt", r.peer_us = lab_time_us(l, run_blas, &j);
  }
  lab_print(l, &r);
  lab_free(l, out);
  drop(l, &o);
}

static void times(lab *l) {
  static const int nk[][2] = {{2112, 7168}, {576, 7168},  {24576, 1536}, {32768, 512},  {7168, 16384}, {4096, 7168}, {7168, 2048},  // DeepSeek-V3
                              {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336},                                             // Llama-3-8B
                              {2560, 2048}, {2048, 2048}, {11264, 2048}, {2048, 5632}};                                             // TinyLlama
  static const int ms[] = {1, 16, 64, 128, 256, 512, 1024, 4096};
  lab_head("FP8, 1x128 by 128x128 scales -> bf16");
  for (size_t i = 0; i < sizeof nk / sizeof *nk; i++) {
    for (size_t j = 0; j < sizeof ms / sizeof *ms; j++) {
      if (l->quick && (ms[j] == 16 || ms[j] == 512 || ms[j] == 1024)) continue;
      time_one(l, ms[j], nk[i][0], nk[i][1], false);
    }
  }
  lab_head("the same with one order of sums for every m");
  for (size_t i = 0; i < 7; i++) {
    for (size_t j = 0; j < 4; j++) time_one(l, ms[j], nk[i][0], nk[i][1], true);
  }
}

// ---- rows sorted by expert
// --------------------------------------------------------------------------------------------------------------------------

enum { EXPERTS = 64 };

static void grouped(lab *l, int n_expert, const int *count, int n, int k, bool timed, const char *name) {
  int32_t c[EXPERTS], off[EXPERTS + 1] = {0};
  int64_t valid = 0;
  for (int e = 0; e < n_expert; e++) {
    c[e] = count[e];
    off[e + 1] = off[e] + (int32_t)blocks(c[e]) * 128;
    valid += c[e];
  }
  const int cap = off[n_expert] + 128;
  operands o = make(l, cap, (int64_t)n_expert * ((n + 127) / 128 * 128), k, false, 17);  // one weight a group of whole blocks of rows, n of them used
  uint8_t *w = (uint8_t *)lab_alloc(l, (size_t)n_expert * (size_t)n * (size_t)k);
  for (int e = 0; e < n_expert; e++) {
    lab_ok(l,
           cudaMemcpyAsync(w + (size_t)e * (size_t)n * (size_t)k, o.wq + (size_t)e * (size_t)(blocks(n) * 128) * (size_t)k, (size_t)n * (size_t)k,
                           cudaMemcpyDeviceToDevice, l->stream),
           "weights");
  }
  void *out = lab_alloc(l, (size_t)cap * (size_t)n * 2);
  int32_t *d_count = (int32_t *)lab_alloc(l, sizeof c), *d_off = (int32_t *)lab_alloc(l, sizeof off);
  lab_ok(l, cudaMemcpyAsync(d_count, c, sizeof c, cudaMemcpyHostToDevice, l->stream), "count");
  lab_ok(l, cudaMemcpyAsync(d_off, off, sizeof off, cudaMemcpyHostToDevice, l->stream), "offset");
  job j = {};
  j.l = l;
  j.g = (ti_gemm_fp8_grouped_args){out, o.xq, o.xs, w, o.ws, d_count, d_off, o.ws_ld, n_expert, cap, n, k};
  run_grouped(&j);
  lab_op(l, j.st, "gemm_fp8_grouped");
  if (!timed) {
    double *ref = (double *)lab_alloc(l, (size_t)cap * (size_t)n * 8), *mag = (double *)lab_alloc(l, (size_t)cap * (size_t)n * 8);
    for (int e = 0; e < n_expert; e++) {
      if (c[e] == 0) continue;
      const lab_mat x = {o.xq + (size_t)off[e] * (size_t)k, TI_E4M3, k, o.xs + off[e], 1, 128, 1, up4(cap)};
      const lab_mat we = {w + (size_t)e * (size_t)n * (size_t)k, TI_E4M3, k, o.ws + e * blocks(n) * o.ws_ld, 128, 128, o.ws_ld, 1};
      lab_gemm_ref(l, &x, &we, c[e], n, k, ref, mag);
      const lab_error err = lab_compare(l, (char *)out + (size_t)off[e] * (size_t)n * 2, TI_BF16, n, ref, mag, c[e], n, TENSOR_BOUND);
      lab_expect(l, err.worst <= 1.0 && err.diff < 1e-4, "expert %d of %d rows, n %d k %d: worst %.3g of the bound, diff %.2e", e, c[e], n, k,
                 err.worst, err.diff);
    }
    const size_t from = (size_t)off[n_expert] * (size_t)n * 2;
    lab_expect(l, lab_is_poison(l, (char *)out + from, (size_t)cap * (size_t)n * 2 - from), "n %d k %d: written behind the last expert", n, k);
    lab_free(l, ref);
    lab_free(l, mag);
  } else {
    lab_row r = {"gemm_fp8_grouped", name, valid, n, k, 0, 2.0 * (double)valid * n * k, 0, NULL, 0, 0};
    r.bytes = (double)n_expert * n * k + (double)valid * k + 2.0 * (double)valid * n;
    r.us = lab_time_us(l, run_grouped, &j);
    lab_print(l, &r);
  }
  void *const all[] = {w, out, d_count, d_off};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
  drop(l, &o);
}

static void groups(lab *l) {
  static const int odd[8] = {0, 1, 129, 300, 0, 127, 640, 0}, tail[8] = {1000, 0, 0, 64, 256, 255, 65, 1}, none[4] = {0, 0, 0, 0};
  grouped(l, 8, odd, 2112, 400, false, "");
  grouped(l, 8, tail, 576, 1536, false, "");
  grouped(l, 7, odd, 4096, 7168, false, "");
  grouped(l, 4, none, 576, 1536, false, "");
  printf("grouped checks: %d failed\n", l->failed);
  static const int nk[][2] = {{4096, 7168}, {7168, 2048}};
  int count[EXPERTS];
  lab_head("FP8 grouped, rows sorted by expert; m: rows of all experts");
  for (int i = 0; i < 2; i++) {
    for (int e = 0; e < 8; e++) count[e] = 4096;
    grouped(l, 8, count, nk[i][0], nk[i][1], true, "8 x 4096");
    for (int e = 0; e < 4; e++) count[e] = 8192;
    grouped(l, 4, count, nk[i][0], nk[i][1], true, "4 x 8192");
    for (int e = 0; e < 64; e++) count[e] = (e * 37 + 11) % 64 * 8;  // 0 .. 504, 252 in the mean
    grouped(l, 64, count, nk[i][0], nk[i][1], true, "64 x ~252, uneven");
    for (int e = 0; e < 64; e++) count[e] = e % 16 == 3 ? 1024 : 0;
    grouped(l, 64, count, nk[i][0], nk[i][1], true, "4 x 1024 of 64");
  }
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_gemm_fp8", &argc, argv);
  bool want[3] = {argc < 2, argc < 2, argc < 2};
  for (int i = 1; i < argc; i++) {
    want[0] |= !strcmp(argv[i], "check");
    want[1] |= !strcmp(argv[i], "time");
    want[2] |= !strcmp(argv[i], "grouped");
  }
  if (want[0]) checks(&l);
  if (want[1]) times(&l);
  if (want[2]) groups(&l);
  return lab_close(&l);
}
