// FP8 GEMM for few tokens (decode): bound by the reading of W. gemm_fp8_small.cu has the picture and the figures.
//
//   out[m, n] = x[m, k] * W[n, k]^T, both e4m3; x with a scale for each 1x128, W for each 128x128; fp32 sums, promoted every 128 of K
#ifndef TI_KERNELS_CUDA_GEMM_FP8_SMALL_H
#define TI_KERNELS_CUDA_GEMM_FP8_SMALL_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

// How the work is cut; zeros: chosen by ti_cuda_fp8_small_plan.
typedef struct ti_fp8_small_plan {
  int rows;    // W rows a block: 64, 128, 192, 256
  int split;   // blocks that share K, a cluster of 1..8: the only field that the bits of `out` depend on
  int tokens;  // tokens a block: 8, 16, 32, 64, 128 (128: rows <= 128)
  int per_sm;  // blocks an SM is meant to hold, 1..4: shared memory for the ring
} ti_fp8_small_plan;

typedef struct ti_fp8_small_args {
  void *out;                     // [m, n] bf16 (fp32 when out_f32), row stride ldo
  const uint8_t *x;              // [m, k] e4m3, row stride ldx (a multiple of 16), 16-byte aligned
  const float *x_scale;          // [ceil(k / 128), m rounded up to 4], as quant_fp8 writes it where scale_by_k is set; 16-byte aligned
  const uint8_t *w;              // [n, k] e4m3, 16-byte aligned
  const float *w_scale;          // [ceil(n / 128), w_scale_ld]
  const float *bias;             // [n] fp32 or NULL
  int m, n, k;                   // m >= 1; n a multiple of 8, k of 16
  int64_t ldx, ldo, w_scale_ld;  // 0: packed
  bool out_f32, accumulate;      // accumulate: out += the product
  bool gate_up;                  // W is a TI_CUDA_GATE_UP matrix: out's columns are gate | up all the same (no bias)
  // W is a TI_CUDA_GATE_UP matrix, n = 2 dim, dim a multiple of 128, m <= 64: out [m, dim] = silu(gate) * up, bf16 (may be NULL); and where q is set
  // the codes and scales of out, as quant_fp8 writes them. No bias, no accumulate.
  bool silu;
  bool stacked;    // with silu: W is gate's rows, then up's, as stored, instead of TI_CUDA_GATE_UP
  uint8_t *q;      // [m, dim]
  float *q_scale;  // [dim / 128, m rounded up to 4]
  ti_fp8_small_plan plan;
} ti_fp8_small_args;

bool ti_cuda_fp8_small_takes(const ti_fp8_small_plan *p);  // whether there is a kernel for it
// The measured choice for a shape. deterministic: whole K, for every m (on an H200 nothing at n >= 6,144, up to
// 1.3 times the time at (4096, 7168), 2.3 times at (576, 7168)).
ti_fp8_small_plan ti_cuda_fp8_small_plan(int m, int n, int k, bool silu, bool deterministic, int n_sm);

// One launch, no scratch. With d->pdl, W is prefetched before the op before has ended: W is never written by an op.
ti_status ti_cuda_fp8_small(ti_dev *d, const ti_fp8_small_args *a);
#ifdef __cplusplus
}
#endif
#endif
