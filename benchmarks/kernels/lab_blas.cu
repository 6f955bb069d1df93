// cuBLASLt beside the device's limits: whether kernels/cuda/blas.cu computes what it says in every mode, and what the peers reach.
//
//   lab_blas [--quick] [--json FILE]
#include <stdlib.h>
#include <unistd.h>

#include "benchmarks/kernels/lab_gpu.h"

static const struct {
  ti_blas_scale scale;
  ti_dtype out;
  const char *name;
  bool bias, accumulate;
} modes[] = {
    {TI_BLAS_NONE, TI_BF16, "bf16", false, false},          {TI_BLAS_NONE, TI_F32, "bf16 -> fp32", false, false},
    {TI_BLAS_NONE, TI_BF16, "bf16 + bias", true, false},    {TI_BLAS_NONE, TI_F32, "bf16 + out", false, true},
    {TI_BLAS_TENSOR, TI_BF16, "fp8 tensor", false, false},  {TI_BLAS_ROW, TI_BF16, "fp8 row", false, false},
    {TI_BLAS_BLOCK, TI_BF16, "fp8 block128", false, false},
};
enum { N_MODE = sizeof modes / sizeof *modes };

typedef struct job {
  lab *l;
  ti_blas_args a;
  ti_status st;
} job;
static void run(void *arg) {
  job *j = (job *)arg;
  j->st = ti_blas_gemm(j->l->blas, j->l->stream, &j->a);
}

static int64_t up4(int64_t x) { return (x + 3) / 4 * 4; }

// One shape in one mode: checked where m is small enough for the oracle, then timed.
static void shape(lab *l, int mode, int m, int64_t n, int64_t k) {
  const bool fp8 = modes[mode].scale != TI_BLAS_NONE, f32 = modes[mode].out == TI_F32;
  const ti_dtype in = fp8 ? TI_E4M3 : TI_BF16;
  const size_t size = fp8 ? 1 : 2, out_bytes = (size_t)(m * n) * (f32 ? 4 : 2);
  const int64_t kb = (k + 127) / 128;
  void *x = lab_alloc(l, (size_t)(m * k) * size), *w = lab_alloc(l, (size_t)(n * k) * size), *out = lab_alloc(l, out_bytes);
  float *xs = (float *)lab_alloc(l, (size_t)(up4(m) * kb) * 4), *ws = (float *)lab_alloc(l, (size_t)((n + 127) * up4(kb)) * 4);
  float *bias = (float *)lab_alloc(l, (size_t)n * 4);
  double *ref = (double *)lab_alloc(l, (size_t)(m * n) * 8), *mag = (double *)lab_alloc(l, (size_t)(m * n) * 8);
  lab_fill(l, x, in, (size_t)(m * k), 1, fp8 ? 400.0f : 1.0f);
  lab_fill(l, w, in, (size_t)(n * k), 2, fp8 ? 400.0f : 1.0f);
  lab_fill_scale(l, xs, (size_t)(up4(m) * kb), 3, 0.001f);
  lab_fill_scale(l, ws, (size_t)((n + 127) * up4(kb)), 4, 0.001f);
  lab_ok(l, cudaMemsetAsync(bias, 0, (size_t)n * 4, l->stream), "bias");
  if (modes[mode].accumulate) lab_ok(l, cudaMemsetAsync(out, 0, out_bytes, l->stream), "out");
  lab_mat X = {x, in, k, NULL, 1, 1, 0, 0}, W = {w, in, k, NULL, 1, 1, 0, 0};
  const int64_t huge = (int64_t)1 << 40;
  if (modes[mode].scale == TI_BLAS_TENSOR) X.scale = xs, W.scale = ws, X.sr = W.sr = X.sc = W.sc = huge;
  if (modes[mode].scale == TI_BLAS_ROW) X.scale = xs, W.scale = ws, X.s_ld = W.s_ld = 1, X.sc = W.sc = huge;
  if (modes[mode].scale == TI_BLAS_BLOCK) {
    X.scale = xs, X.sc = 128, X.s_ld = 1, X.s_step = up4(m);
    W.scale = ws, W.sr = W.sc = 128, W.s_ld = up4(kb), W.s_step = 1;
  }
  job j = {l, {}, TI_OK};
  j.a.out = out, j.a.x = x, j.a.w = w, j.a.m = m, j.a.n = n, j.a.k = k;
  j.a.x_scale = fp8 ? xs : NULL, j.a.w_scale = fp8 ? ws : NULL, j.a.bias = modes[mode].bias ? bias : NULL;
  j.a.scale = modes[mode].scale, j.a.out_dtype = modes[mode].out, j.a.accumulate = modes[mode].accumulate;
  run(&j);
  if (j.st == TI_ERR_UNSUPPORTED) {
    printf("%-22s %6d %7lld %7lld  not supported: %s\n", modes[mode].name, m, (long long)n, (long long)k, ti_blas_error(l->blas));
  } else {
    lab_op(l, j.st, modes[mode].name);
    if (m <= 256) {
      lab_gemm_ref(l, &X, &W, m, n, k, ref, mag);
      // FP8 products are summed with about 14 bits inside the tensor core
      const lab_error e = lab_compare(l, out, modes[mode].out, n, ref, mag, m, n, fp8 ? 0x1p-12 : lab_fp32_bound(k));
      lab_expect(l, e.worst <= 1.0 && e.diff < 1e-5, "%s m %d n %lld k %lld: worst %.3g of the bound, diff %.2e", modes[mode].name, m, (long long)n,
                 (long long)k, e.worst, e.diff);
    }
    lab_row r = {"blas", modes[mode].name, m, n, k, 0, 2.0 * m * (double)n * (double)k, 0, NULL, 0, 0};
    r.bytes = (double)(n * k + m * k) * (double)size + (double)out_bytes;
    r.us = lab_time_us(l, run, &j);
    lab_print(l, &r);
  }
  void *const all[] = {x, w, out, xs, ws, bias, ref, mag};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

// A file that is missing, and one that is no library: a status and one line.
static void check_open(lab *l) {
  ti_error err = {};
  ti_blas *b = NULL;
  lab_expect(l, ti_blas_open("/nonexistent/libcublasLt.so.13", false, &b, &err) == TI_ERR_NOTFOUND && !b, "a missing library: %s", err.text);
  printf("missing:   %s\n", err.text);
  char path[] = "/tmp/lab_blas_XXXXXX";
  const int fd = mkstemp(path);
  lab_expect(l,
             fd >= 0 &&
                 write(fd,
                       "\x7f"
                       "ELF of nothing",
                       15) == 15 &&
                 close(fd) == 0,
             "%s: cannot be written", path);
  lab_expect(l, ti_blas_open(path, false, &b, &err) == TI_ERR_UNSUPPORTED && !b, "a corrupted library: %s", err.text);
  printf("corrupted: %s\n", err.text);
  unlink(path);
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_blas", &argc, argv);
  check_open(&l);
  if (!l.blas) return lab_close(&l);
  static const int64_t nk[][2] = {{4096, 7168}, {7168, 2048}, {7168, 16384}, {2112, 7168}};
  lab_head("cuBLASLt, the heuristic's pick");
  for (int mode = 0; mode < N_MODE; mode++) {
    for (int i = 0; i < (l.quick ? 1 : 4); i++) {
      static const int ms[] = {1, 64, 130, 4096};
      for (int m = 0; m < 4; m++) shape(&l, mode, ms[m], nk[i][0], nk[i][1]);
    }
  }
  return lab_close(&l);
}
