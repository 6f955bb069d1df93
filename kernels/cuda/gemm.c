// Which kernel a product takes. Chosen by the weight's type and layout and, unless the device is deterministic, by the number of rows; a shape that
// no tuned kernel takes goes to gemm_tile.cu.
#include <assert.h>
#include <stdio.h>

#include "base/size.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/gemm_tile.h"

#define FP8_BLOCK 128

size_t ti_cuda_gemm_scratch(int max_row, int64_t max_k) { return 0; }

static ti_status tile(ti_dev *d, const ti_gemm_args *a) {
  const ti_cuda_tile_args t = {.out = a->out,
                               .x = a->x,
                               .x_scale = a->x_scale,
                               .w = a->w,
                               .bias = a->bias,
                               .m = a->m,
                               .ldx = a->ldx,
                               .ldo = a->ldo,
                               .out_f32 = a->out_dtype == TI_F32,
                               .accumulate = a->accumulate};
  return ti_cuda_gemm_tile(d, &t);
}

// cuBLASLt, where it is there and has an algorithm for the shape; TI_ERR_UNSUPPORTED otherwise.
static ti_status blas(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  if (!d->blas || (w->layout & ~TI_CUDA_EXACT) != TI_CUDA_ROWS || w->k % 8 != 0 || a->ldx % 8 != 0) return TI_ERR_UNSUPPORTED;
  const ti_blas_args b = {.out = a->out,
                          .x = a->x,
                          .w = w->data,
                          .x_scale = a->x_scale,
                          .w_scale = a->x_scale ? w->scale : NULL,
                          .bias = a->bias,
                          .m = a->m,
                          .n = w->n,
                          .k = w->k,
                          .ldx = a->ldx,
                          .ldo = a->ldo,
                          .scale = a->x_scale ? TI_BLAS_BLOCK : TI_BLAS_NONE,
                          .out_dtype = a->out_dtype,
                          .accumulate = a->accumulate};
  d->last_op = "gemm by cuBLASLt";
  const ti_status st = ti_blas_gemm(d->blas, d->stream, &b);
  if (st == TI_ERR_INTERNAL) snprintf(d->last_error, sizeof d->last_error, "gemm by cuBLASLt: %s", ti_blas_error(d->blas));
  return st;
}

static ti_status gemm_bf16(ti_dev *d, const ti_gemm_args *a) {
  const ti_status st = blas(d, a);
  return st == TI_ERR_UNSUPPORTED ? tile(d, a) : st;
}

ti_status ti_cuda_gemm(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  assert(a->out_dtype == TI_F32 || a->out_dtype == TI_BF16);
  assert(!a->x_scale || (w->dtype == TI_E4M3 && w->scale && !(w->layout & TI_CUDA_EXACT)));
  if (a->m == 0) return TI_OK;
  return w->dtype == TI_BF16 ? gemm_bf16(d, a) : tile(d, a);
}

ti_status ti_cuda_gemm_heads(ti_dev *d, const ti_gemm_heads_args *a) {
  const int64_t k = a->w->k, n = a->w->n, hdx = a->hdx ? a->hdx : k, hdo = a->hdo ? a->hdo : n;
  const int64_t ldx = a->ldx ? a->ldx : a->n_head * hdx, ldo = a->ldo ? a->ldo : a->n_head * hdo;
  for (int h = 0; h < a->n_head; h++) {
    assert(a->w[h].k == k && a->w[h].n == n);
    const ti_cuda_tile_args t = {
        .out = (uint16_t *)a->out + h * hdo, .x = (const uint16_t *)a->x + h * hdx, .w = &a->w[h], .m = a->m, .ldx = ldx, .ldo = ldo};
    const ti_status st = ti_cuda_gemm_tile(d, &t);
    if (st != TI_OK) return st;
  }
  return TI_OK;
}

ti_status ti_cuda_gemm_silu_mul(ti_dev *d, const ti_gemm_silu_mul_args *a) {
  const int64_t dim = a->w->n / 2;
  const ti_gemm_args g = {.out = a->tmp, .x = a->x, .x_scale = a->x_scale, .w = a->w, .m = a->m, .out_dtype = TI_BF16};
  const ti_status st = ti_cuda_gemm(d, &g);
  if (st != TI_OK) return st;
  const ti_silu_mul_args s = {.out = a->out, .gate_up = a->tmp, .n_row = a->m, .dim = (int)dim, .q = a->q, .q_scale = a->q_scale};
  return ti_cuda_silu_mul(d, &s);
}
