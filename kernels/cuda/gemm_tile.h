// A product for every shape, stored type and scale: what the tuned kernels do not take, and the one form that --deterministic needs.
#ifndef TI_KERNELS_CUDA_GEMM_TILE_H
#define TI_KERNELS_CUDA_GEMM_TILE_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ti_cuda_tile_args {
  void *out;             // [m, n] bf16, or fp32 when out_f32; row stride ldo
  const void *x;         // [m, k] bf16, or e4m3 codes when x_scale is set; row stride ldx
  const float *x_scale;  // [ceil(k / 128), m rounded up to 4] or NULL
  const ti_weight *w;
  const float *bias;  // [n] or NULL
  int m;
  int64_t ldx, ldo;
  bool out_f32, accumulate;
} ti_cuda_tile_args;

// One launch, no scratch. The bits of a row depend on that row alone.
ti_status ti_cuda_gemm_tile(ti_dev *d, const ti_cuda_tile_args *a);

#ifdef __cplusplus
}
#endif
#endif
