// The ladder: one product, six ways to compute it, each validated against fp64 and timed beside cuBLASLt in the same run; vector add in front, which
// shows the memory's limit. docs/articles/ladder.md goes up rung by rung.
//
//   ladder [--quick] [--json FILE]       (quick: 2,048 in place of 4,096)
#include <stdlib.h>

#include "benchmarks/kernels/lab_gpu.h"
#include "benchmarks/kernels/ladder_rungs.cuh"
#include "kernels/cuda/tensor_map.h"

typedef struct product {
  lab *l;
  int m, n, k;
  bf16 *a, *b, *c;
  CUtensorMap am, bm;
} product;

static void run_naive(void *arg) {
  const product *p = (product *)arg;
  matmul_naive<<<dim3(p->n / 32, p->m / 8), 256, 0, p->l->stream>>>(p->c, p->a, p->b, p->n, p->k);
}
static void run_tiled(void *arg) {
  const product *p = (product *)arg;
  matmul_tiled<<<dim3(p->n / 32, p->m / 32), 1024, 0, p->l->stream>>>(p->c, p->a, p->b, p->n, p->k);
}
static void run_registers(void *arg) {
  const product *p = (product *)arg;
  matmul_registers<<<dim3(p->n / 128, p->m / 128), 256, 0, p->l->stream>>>(p->c, p->a, p->b, p->n, p->k);
}
static void run_mma(void *arg) {
  const product *p = (product *)arg;
  matmul_mma<<<dim3(p->n / 128, p->m / 128), 256, 0, p->l->stream>>>(p->c, p->a, p->b, p->n, p->k);
}
static void run_wgmma(void *arg) {
  const product *p = (product *)arg;
  matmul_wgmma<<<p->l->dev.n_sm, 384, WG_SMEM, p->l->stream>>>(p->c, p->am, p->bm, p->m, p->n, p->k);
}
static void run_blas(void *arg) {
  const product *p = (product *)arg;
  ti_blas_args a = {};
  a.out = p->c, a.x = p->a, a.w = p->b, a.m = p->m, a.n = p->n, a.k = p->k;
  a.scale = TI_BLAS_NONE, a.out_dtype = TI_BF16;
  lab_op(p->l, ti_blas_gemm(p->l->blas, p->l->stream, &a), "cuBLASLt");
}

static const struct {
  const char *name;
  lab_run run;
} rungs[] = {
    {"1 naive", run_naive}, {"2 shared memory", run_tiled}, {"3 registers", run_registers}, {"4 mma.sync", run_mma}, {"5 wgmma + TMA", run_wgmma}};
enum { N_RUNG = sizeof rungs / sizeof *rungs };

static void matmuls(lab *l) {
  product p = {};
  p.l = l;
  p.m = p.n = p.k = l->quick ? 2048 : 4096;
  const size_t count = (size_t)p.m * (size_t)p.k;
  p.a = (bf16 *)lab_alloc(l, count * 2);
  p.b = (bf16 *)lab_alloc(l, count * 2);
  p.c = (bf16 *)lab_alloc(l, count * 2);
  double *ref = (double *)lab_alloc(l, count * 8), *mag = (double *)lab_alloc(l, count * 8);
  lab_fill(l, p.a, TI_BF16, count, 1, 1.0f);
  lab_fill(l, p.b, TI_BF16, count, 2, 1.0f);
  const lab_mat A = {p.a, TI_BF16, p.k, NULL, 1, 1, 0, 0}, B = {p.b, TI_BF16, p.k, NULL, 1, 1, 0, 0};
  lab_gemm_ref(l, &A, &B, p.m, p.n, p.k, ref, mag);
  const int64_t a_dim[2] = {p.k, p.m}, b_dim[2] = {p.k, p.n}, stride[1] = {p.k};
  const int a_box[2] = {WG_K, WG_M}, b_box[2] = {WG_K, WG_N};
  lab_op(l, ti_tensor_map_2d(&p.am, TI_TMA_BF16, p.a, a_dim, stride, a_box, TI_TMA_128B), "tensor map");
  lab_op(l, ti_tensor_map_2d(&p.bm, TI_TMA_BF16, p.b, b_dim, stride, b_box, TI_TMA_128B), "tensor map");
  lab_ok(l, cudaFuncSetAttribute(matmul_wgmma, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)WG_SMEM), "shared memory");
  const double blas_us = l->blas ? lab_time_us(l, run_blas, &p) : 0.0;
  lab_head("C[m, n] = A[m, k] B[n, k]^T, bf16");
  for (int i = 0; i < N_RUNG; i++) {
    lab_poison(l, p.c, count * 2);
    rungs[i].run(&p);
    lab_sync(l, rungs[i].name);
    const lab_error e = lab_compare(l, p.c, TI_BF16, p.n, ref, mag, p.m, p.n, lab_fp32_bound(p.k));
    lab_expect(l, e.worst <= 1.0, "%s: %.3g of the bound at %lld", rungs[i].name, e.worst, (long long)e.at);
    lab_row r = {"ladder", rungs[i].name, p.m, p.n, p.k, 0, 2.0 * p.m * p.n * p.k, 3.0 * 2.0 * (double)count, "cuBLASLt", blas_us, 0};
    const int runs = l->runs;
    l->runs = i < 2 ? 3 : runs;  // a quarter of a second each
    r.us = lab_time_us(l, rungs[i].run, &p);
    l->runs = runs;
    lab_print(l, &r);
  }
  void *const all[] = {p.a, p.b, p.c, ref, mag};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

typedef struct sum {
  lab *l;
  float *a, *b, *c;
  int n;
} sum;
static void run_add_scalar(void *arg) {
  const sum *s = (sum *)arg;
  add_scalar<<<(s->n + 255) / 256, 256, 0, s->l->stream>>>(s->c, s->a, s->b, s->n);
}
static void run_add_vector(void *arg) {
  const sum *s = (sum *)arg;
  add_vector<<<(s->n / 4 + 511) / 512, 256, 0, s->l->stream>>>((float4 *)s->c, (const float4 *)s->a, (const float4 *)s->b, s->n / 4);
}
static __global__ void count_wrong(const float *c, const float *a, const float *b, int n, unsigned *wrong) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n && !(c[i] == a[i] + b[i])) atomicAdd(wrong, 1u);
}

static void adds(lab *l) {
  sum s = {l, NULL, NULL, NULL, l->quick ? 1 << 24 : 1 << 26};
  const size_t bytes = (size_t)s.n * 4;
  s.a = (float *)lab_alloc(l, bytes);
  s.b = (float *)lab_alloc(l, bytes);
  s.c = (float *)lab_alloc(l, bytes);
  unsigned *wrong = (unsigned *)lab_alloc(l, 4), bad = 0;
  lab_fill(l, s.a, TI_F32, (size_t)s.n, 1, 1.0f);
  lab_fill(l, s.b, TI_F32, (size_t)s.n, 2, 1.0f);
  lab_head("c = a + b, fp32");
  static const struct {
    const char *name;
    lab_run run;
  } forms[] = {{"0 add, 4 bytes", run_add_scalar}, {"0 add, 16 bytes", run_add_vector}};
  for (int i = 0; i < 2; i++) {
    lab_poison(l, s.c, bytes);
    lab_ok(l, cudaMemsetAsync(wrong, 0, 4, l->stream), "count");
    forms[i].run(&s);
    count_wrong<<<(s.n + 255) / 256, 256, 0, l->stream>>>(s.c, s.a, s.b, s.n, wrong);
    lab_ok(l, cudaMemcpyAsync(&bad, wrong, 4, cudaMemcpyDeviceToHost, l->stream), "count");
    lab_sync(l, forms[i].name);
    lab_expect(l, bad == 0, "%s: %u of %d are wrong", forms[i].name, bad, s.n);
    lab_row r = {"ladder", forms[i].name, 1, s.n, 0, 0, (double)s.n, 3.0 * (double)bytes, NULL, 0, 0};
    r.us = lab_time_us(l, forms[i].run, &s);
    lab_print(l, &r);
  }
  void *const all[] = {s.a, s.b, s.c, wrong};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "ladder", &argc, argv);
  adds(&l);
  matmuls(&l);
  return lab_close(&l);
}
