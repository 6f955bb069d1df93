// Which kernel a product takes. Chosen by the weight's type and layout and, unless the device is deterministic, by the number of rows; a shape that
// no tuned kernel takes goes to gemm_tile.cu.
#include <assert.h>
#include <stdio.h>

#include "base/size.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_fp8_small.h"
#include "kernels/cuda/gemm_tile.h"
#include "kernels/cuda/gemv_bf16.h"
#include "kernels/cuda/quant_fp8.h"

#define FP8_BLOCK 128
#define GEMV_ROWS 16       // measured (lab_gemv_bf16, chains with dependent launch): ours ahead at 16 rows, cuBLASLt at 64
#define FP8_SMALL_ROWS 64  // the same of FP8: gemm_fp8.cu is ahead at 128
#define SILU_ROWS 64       // beyond it gate_up is two kernels

// x quantised: codes, then scales.
static size_t code_bytes(int64_t m, int64_t k) { return ti_size_align((size_t)(m * k), 256); }
static size_t scale_bytes(int64_t m, int64_t k) { return (size_t)((k + FP8_BLOCK - 1) / FP8_BLOCK * ((m + 3) / 4 * 4)) * sizeof(float); }

size_t ti_cuda_gemm_scratch(int max_row, int64_t max_k) { return code_bytes(max_row, max_k) + scale_bytes(max_row, max_k); }

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

// bf16 by cuBLASLt, where it is there and has an algorithm for the shape; TI_ERR_UNSUPPORTED otherwise. Columns come out as W's rows stand.
static ti_status blas(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  if (!d->blas || w->k % 8 != 0 || a->ldx % 8 != 0) return TI_ERR_UNSUPPORTED;
  const ti_blas_args b = {.out = a->out,
                          .x = a->x,
                          .w = w->data,
                          .bias = a->bias,
                          .m = a->m,
                          .n = w->n,
                          .k = w->k,
                          .ldx = a->ldx,
                          .ldo = a->ldo,
                          .scale = TI_BLAS_NONE,
                          .out_dtype = a->out_dtype,
                          .accumulate = a->accumulate};
  d->last_op = "gemm by cuBLASLt";
  const ti_status st = ti_blas_gemm(d->blas, d->stream, &b);
  if (st == TI_ERR_INTERNAL) snprintf(d->last_error, sizeof d->last_error, "gemm by cuBLASLt: %s", ti_blas_error(d->blas));
  return st;
}

static bool interleaved(const ti_weight *w) { return (w->layout & ~TI_CUDA_EXACT) == TI_CUDA_GATE_UP; }

// Few rows, and every number of them where a weight shape must have one order of sums: our own kernel, which reads W once for each 64 rows.
static bool few(const ti_dev *d, int m) { return d->deterministic || m <= GEMV_ROWS; }
// Kernels on Hopper's own instructions; other devices go by cuBLASLt and gemm_tile.cu.
static bool hopper(const ti_dev *d) { return d->major >= 9; }

static ti_status gemm_bf16(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  const ti_gemv_bf16_args g = {.out = a->out,
                               .x = a->x,
                               .w = w->data,
                               .bias = a->bias,
                               .m = a->m,
                               .n = w->n,
                               .k = w->k,
                               .ldx = a->ldx,
                               .ldo = a->ldo,
                               .out_f32 = a->out_dtype == TI_F32,
                               .accumulate = a->accumulate,
                               .gate_up = interleaved(w)};
  if (hopper(d) && (few(d, a->m) || interleaved(w)) && ti_gemv_bf16_takes(&g)) return ti_cuda_gemv_bf16(d, &g);
  const ti_status st = interleaved(w) || d->deterministic ? TI_ERR_UNSUPPORTED : blas(d, a);
  return st == TI_ERR_UNSUPPORTED ? tile(d, a) : st;
}

static bool whole_blocks(const ti_weight *w) {
  return w->dtype == TI_E4M3 && w->block_n == FP8_BLOCK && w->block_k == FP8_BLOCK && w->n % 8 == 0 && w->k % 16 == 0;
}

// Both operands e4m3. The tensor-core kernels take whole 128x128 blocks and aligned rows; the one for many rows writes plain bf16.
static ti_status gemm_codes(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  if (!hopper(d) || !whole_blocks(w) || a->ldx % 16 != 0 || a->ldo % 8 != 0 ||
      (((uintptr_t)a->x | (uintptr_t)a->out | (uintptr_t)a->x_scale) & 15) != 0)
    return tile(d, a);
  const bool plain = a->out_dtype == TI_BF16 && !a->bias && !a->accumulate && (a->ldx == 0 || a->ldx == w->k);
  if (!d->deterministic && a->m > FP8_SMALL_ROWS && plain) {
    const ti_gemm_fp8_args g = {.out = a->out,
                                .q = a->x,
                                .scale = a->x_scale,
                                .w = w->data,
                                .w_scale = w->scale,
                                .ldo = a->ldo ? a->ldo : w->n,
                                .w_scale_ld = w->scale_ld,
                                .m = a->m,
                                .n = (int)w->n,
                                .k = (int)w->k};
    return ti_cuda_gemm_fp8(d, &g);
  }
  const ti_fp8_small_args s = {.out = a->out,
                               .x = a->x,
                               .x_scale = a->x_scale,
                               .w = w->data,
                               .w_scale = w->scale,
                               .bias = a->bias,
                               .m = a->m,
                               .n = (int)w->n,
                               .k = (int)w->k,
                               .ldx = a->ldx,
                               .ldo = a->ldo,
                               .w_scale_ld = w->scale_ld,
                               .out_f32 = a->out_dtype == TI_F32,
                               .accumulate = a->accumulate};
  return ti_cuda_fp8_small(d, &s);
}

static bool wants_codes(const ti_dev *d, const ti_weight *w) {
  return w->dtype == TI_E4M3 && d->act_quant == TI_ACT_FP8 && !(w->layout & TI_CUDA_EXACT);
}

// x quantised into the scratch, packed.
static ti_status quantise(ti_dev *d, const ti_weight *w, const void *x, int m, int64_t ldx, const void **codes, const float **scale) {
  assert(ti_cuda_gemm_scratch(m, w->k) <= d->scratch_bytes);
  const ti_quant_fp8_args q = {
      .q = d->scratch, .scale = (float *)(void *)((uint8_t *)d->scratch + code_bytes(m, w->k)), .x = x, .n_row = m, .k = (int)w->k, .ldx = ldx};
  *codes = q.q;
  *scale = q.scale;
  return ti_cuda_quant_fp8(d, &q);
}

static ti_status gemm_fp8(ti_dev *d, const ti_gemm_args *a) {
  if (a->x_scale) return gemm_codes(d, a);
  if (!wants_codes(d, a->w)) return tile(d, a);
  ti_gemm_args g = *a;
  g.ldx = 0;
  const ti_status st = quantise(d, a->w, a->x, a->m, a->ldx, &g.x, &g.x_scale);
  return st != TI_OK ? st : gemm_codes(d, &g);
}

ti_status ti_cuda_gemm(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  assert(a->out_dtype == TI_F32 || a->out_dtype == TI_BF16);
  assert(!a->x_scale || (w->dtype == TI_E4M3 && w->scale && !(w->layout & TI_CUDA_EXACT)));
  if (a->m == 0) return TI_OK;
  d->last_op = "gemm";
  return w->dtype == TI_BF16 ? gemm_bf16(d, a) : w->dtype == TI_E4M3 ? gemm_fp8(d, a) : tile(d, a);
}

// gate and up side by side: one kernel for few rows; cuBLASLt into tmp, columns interleaved as they stand in W, and the product from there.
static ti_status silu_bf16(ti_dev *d, const ti_gemm_silu_mul_args *a) {
  const ti_weight *w = a->w;
  const int64_t dim = w->n / 2;
  const ti_gemv_bf16_args g = {.out = a->out, .x = a->x, .w = w->data, .m = a->m, .n = w->n, .k = w->k, .gate_up = true, .silu_mul = true};
  if (hopper(d) && few(d, a->m) && a->out && !a->q && ti_gemv_bf16_takes(&g)) return ti_cuda_gemv_bf16(d, &g);
  const ti_gemm_args b = {.out = a->tmp, .x = a->x, .w = w, .m = a->m, .out_dtype = TI_BF16};
  const ti_silu_mul_args s = {.out = a->out, .gate_up = a->tmp, .n_row = a->m, .dim = (int)dim, .q = a->q, .q_scale = a->q_scale};
  const ti_status st = (hopper(d) && few(d, a->m)) || d->deterministic || a->q ? TI_ERR_UNSUPPORTED : blas(d, &b);
  if (st != TI_ERR_UNSUPPORTED) return st != TI_OK ? st : ti_cuda_silu_mul_runs(d, &s);
  const ti_status tiled = gemm_bf16(d, &b);
  return tiled != TI_OK ? tiled : ti_cuda_silu_mul(d, &s);
}

// The same of codes, gate's rows before up's: one kernel for few rows, which writes bf16, codes or both. TI_ERR_UNSUPPORTED: not this shape.
static ti_status silu_codes(ti_dev *d, const ti_gemm_silu_mul_args *a, const void *x, const float *x_scale) {
  const ti_weight *w = a->w;
  if (!hopper(d) || !whole_blocks(w) || w->n % (4 * TI_CUDA_GATE_RUN) != 0 || (!d->deterministic && a->m > SILU_ROWS)) return TI_ERR_UNSUPPORTED;
  const ti_fp8_small_args s = {.out = a->out,
                               .x = x,
                               .x_scale = x_scale,
                               .w = w->data,
                               .w_scale = w->scale,
                               .m = a->m,
                               .n = (int)w->n,
                               .k = (int)w->k,
                               .w_scale_ld = w->scale_ld,
                               .silu = true,
                               .stacked = true,
                               .q = a->q,
                               .q_scale = a->q_scale};
  return ti_cuda_fp8_small(d, &s);
}

ti_status ti_cuda_gemm_silu_mul(ti_dev *d, const ti_gemm_silu_mul_args *a) {
  if (a->m == 0) return TI_OK;
  d->last_op = "gemm_silu_mul";
  if (interleaved(a->w)) return silu_bf16(d, a);
  ti_gemm_args g = {.out = a->tmp, .x = a->x, .x_scale = a->x_scale, .w = a->w, .m = a->m, .out_dtype = TI_BF16};
  ti_status st = TI_ERR_UNSUPPORTED;
  if (!a->x_scale && wants_codes(d, a->w)) {
    st = quantise(d, a->w, a->x, a->m, 0, &g.x, &g.x_scale);
    if (st != TI_OK) return st;
  }
  if (g.x_scale) st = silu_codes(d, a, g.x, g.x_scale);
  if (st != TI_ERR_UNSUPPORTED) return st;
  st = ti_cuda_gemm(d, &g);
  const ti_silu_mul_args s = {.out = a->out, .gate_up = a->tmp, .n_row = a->m, .dim = (int)(a->w->n / 2), .q = a->q, .q_scale = a->q_scale};
  return st != TI_OK ? st : ti_cuda_silu_mul(d, &s);
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
