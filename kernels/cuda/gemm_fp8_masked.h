// Grouped FP8 GEMM for decode: each expert has a fixed number of slots, how many are taken stands on the device. gemm_fp8_masked.cu has the picture.
//
//   out[e, i, n] = x[e, i, k] * W[e, n, k]^T for i < count[e]; other rows of out are not written. Scales as in gemm_fp8_small.h.
#ifndef TI_KERNELS_CUDA_GEMM_FP8_MASKED_H
#define TI_KERNELS_CUDA_GEMM_FP8_MASKED_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

// Zeros: chosen by ti_cuda_fp8_masked_plan. No field changes the bits of out.
typedef struct ti_fp8_masked_plan {
  int rows;    // W rows a tile: 128, 256
  int tokens;  // slots a tile: 8, 16, 32, 64, 192 (192, in parts of 64: 128 rows)
  int per_sm;  // 1, 2 persistent blocks an SM
} ti_fp8_masked_plan;

#define TI_FP8_MASKED_EXPERTS 512  // at most

typedef struct ti_fp8_masked_args {
  void *out;                  // [n_expert, max_m, n] bf16; with silu [n_expert, max_m, n / 2] or NULL
  const uint8_t *x;           // [n_expert, max_m, k] e4m3, 16-byte aligned
  const float *x_scale;       // [ceil(k / 128), n_expert * max_m], 16-byte aligned
  const uint8_t *w;           // [n_expert, n, k] e4m3, 16-byte aligned
  const float *w_scale;       // [n_expert, n / 128, ceil(k / 128)]
  const int32_t *count;       // [n_expert], 0 .. max_m, device: read when the ops before have ended
  int n_expert, max_m, n, k;  // n a multiple of 128 (silu: 256), k of 16; n_expert * max_m a multiple of 4
  int expected_m;             // host's guess of a taken expert's count: chooses the tile, nothing else
  // W are TI_CUDA_GATE_UP matrices, n = 2 dim: silu(gate) * up as bf16 and, where q is set, its codes and scales
  bool silu;
  bool stacked;    // with silu: W_e is gate's rows, then up's, as stored (each with scales of its own), instead of TI_CUDA_GATE_UP
  uint8_t *q;      // [n_expert, max_m, dim]
  float *q_scale;  // [dim / 128, n_expert * max_m]
  ti_fp8_masked_plan plan;
} ti_fp8_masked_args;

ti_fp8_masked_plan ti_cuda_fp8_masked_plan(int expected_m, int n, bool silu);

// One launch, no scratch; experts without tokens cost no reads and no waits.
ti_status ti_cuda_fp8_masked(ti_dev *d, const ti_fp8_masked_args *a);
#ifdef __cplusplus
}
#endif
#endif
