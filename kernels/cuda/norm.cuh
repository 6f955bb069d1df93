// How RMSNorm adds up a row: the same bits wherever a kernel does it (quant_fp8.cu's own kernel, gemv_bf16_direct.cu's prologue).
//
//   A row of `dim` numbers belongs to `threads` threads with `v` times 8 numbers each: thread t has [8 (i threads + t), + 8) for i < v. A thread adds
//   its squares in that order, a warp its lanes by halves, and the warps' sums are added from the first to the last.
#ifndef TI_KERNELS_CUDA_NORM_CUH
#define TI_KERNELS_CUDA_NORM_CUH
#include "kernels/cuda/device.cuh"

enum { TI_NORM_THREADS = 448, TI_NORM_WARPS = TI_NORM_THREADS / 32 };  // at most, a row

struct ti_norm_shape {
  int v, threads;
};
static inline ti_norm_shape ti_norm_shape_of(int dim) {
  const int v = dim <= 1024 ? 1 : dim <= 2 * 8 * TI_NORM_THREADS ? 2 : 4;
  return {v, 32 * ti_ceil_div(dim, 8 * 32 * v)};
}

static __device__ __forceinline__ float ti_norm_add8(float sum, const float x[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) sum = __fmaf_rn(x[i], x[i], sum);
  return sum;
}
static __device__ __forceinline__ float ti_norm_inverse(float sum, int dim, float eps) { return 1.0f / sqrtf(sum / (float)dim + eps); }
static __device__ __forceinline__ float ti_norm_one(float x, float inv, float weight) { return ti_round_bf16(x * (inv * weight)); }

#endif
