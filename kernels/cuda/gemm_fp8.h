// FP8 products on Hopper's tensor cores: e4m3 codes with a scale a row and 128 of K (ti_quant_fp8_args, scale_by_k) times e4m3 weights with a scale a
// 128x128 block, sums in fp32 promoted every 128 of K, bf16 out. n is a multiple of 8, k of 16; ldo of 8; all pointers 16-byte aligned.
#ifndef TI_KERNELS_CUDA_GEMM_FP8_H
#define TI_KERNELS_CUDA_GEMM_FP8_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ti_gemm_fp8_args {  // out[m, n] = q[m, k] * w[n, k]^T
  void *out;                       // [m, n] bf16, row stride ldo
  const uint8_t *q;                // [m, k]
  const float *scale;              // [ceil(k / 128), m rounded up to 4]
  const uint8_t *w;                // [n, k]
  const float *w_scale;            // [ceil(n / 128), w_scale_ld]
  int64_t ldo, w_scale_ld;
  int m, n, k;
} ti_gemm_fp8_args;

// Any m >= 1. The kernel and its tile are chosen by m, n and k; with d->deterministic the sums of an element are the same whatever m is.
ti_status ti_cuda_gemm_fp8(ti_dev *d, const ti_gemm_fp8_args *a);

typedef struct ti_gemm_fp8_grouped_args {  // block e of the rows (ti_moe_sort_args, align 128): out = q * w[e]^T
  void *out;                               // [capacity, n] bf16; rows of padding are unspecified
  const uint8_t *q;                        // [capacity, k]
  const float *scale;                      // [ceil(k / 128), capacity rounded up to 4]
  const uint8_t *w;                        // [n_expert, n, k]
  const float *w_scale;                    // [n_expert, ceil(n / 128), w_scale_ld]
  const int32_t *count, *offset;           // [n_expert] device; offset a multiple of 128
  int64_t w_scale_ld;
  int n_expert, capacity, n, k;
} ti_gemm_fp8_grouped_args;

// Experts without rows cost a few instructions.
ti_status ti_cuda_gemm_fp8_grouped(ti_dev *d, const ti_gemm_fp8_grouped_args *a);
#ifdef __cplusplus
}
#endif
#endif
