// The roofs of a GPU, measured and not read off a data sheet: device-to-device copy, and the largest products that cuBLASLt makes of random data.
// report.py draws every lab's rows under them.
//
//   roofline_gpu [--quick] [--json FILE]
#include "benchmarks/kernels/lab_gpu.h"

static const struct {
  ti_blas_scale scale;
  const char *name;
} roofs[] = {{TI_BLAS_NONE, "bf16"}, {TI_BLAS_TENSOR, "fp8"}, {TI_BLAS_BLOCK, "fp8 block128"}};
enum { N_ROOF = sizeof roofs / sizeof *roofs };

typedef struct job {
  lab *l;
  ti_blas_args a;
  ti_status st;
} job;
static void run(void *arg) {
  job *j = (job *)arg;
  j->st = ti_blas_gemm(j->l->blas, j->l->stream, &j->a);
}

static void product(lab *l, int roof, int m, int n, int k) {
  const bool fp8 = roofs[roof].scale != TI_BLAS_NONE;
  const size_t size = fp8 ? 1 : 2, x_count = (size_t)m * (size_t)k, w_count = (size_t)n * (size_t)k;
  const size_t scales = (size_t)(m > n ? m : n) * (size_t)(k / 128);
  void *x = lab_alloc(l, x_count * size), *w = lab_alloc(l, w_count * size), *out = lab_alloc(l, (size_t)m * (size_t)n * 2);
  float *xs = (float *)lab_alloc(l, scales * 4), *ws = (float *)lab_alloc(l, scales * 4);
  lab_fill(l, x, fp8 ? TI_E4M3 : TI_BF16, x_count, 1, fp8 ? 400.0f : 1.0f);
  lab_fill(l, w, fp8 ? TI_E4M3 : TI_BF16, w_count, 2, fp8 ? 400.0f : 1.0f);
  lab_fill_scale(l, xs, scales, 3, 0.001f);
  lab_fill_scale(l, ws, scales, 4, 0.001f);
  job j = {};
  j.l = l;
  j.a.out = out, j.a.x = x, j.a.w = w, j.a.m = m, j.a.n = n, j.a.k = k, j.a.scale = roofs[roof].scale, j.a.out_dtype = TI_BF16;
  if (fp8) j.a.x_scale = xs, j.a.w_scale = ws;
  lab_row r = {"roof", roofs[roof].name, m, n, k, 0, 2.0 * m * (double)n * k, 0, NULL, 0, 0};
  r.bytes = (double)(x_count + w_count) * (double)size + 2.0 * m * (double)n;
  run(&j);
  if (j.st == TI_ERR_UNSUPPORTED) {  // block scales, before cuBLAS 13.1 and on GPUs without them
    printf("%-22s %6d %7d %7d  not supported\n", roofs[roof].name, m, n, k);
  } else {
    lab_op(l, j.st, "cuBLASLt");
    r.us = lab_time_us(l, run, &j);
    lab_print(l, &r);
  }
  void *const all[] = {x, w, out, xs, ws};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "roofline_gpu", &argc, argv);
  if (l.blas) {
    lab_head("roofs: cuBLASLt on random data");
    for (int i = 0; i < N_ROOF; i++) {
      product(&l, i, 8192, 8192, 8192);
      product(&l, i, 4096, 7168, 16384);
    }
  }
  return lab_close(&l);
}
