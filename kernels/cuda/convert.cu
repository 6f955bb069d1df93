// Weights to bf16 (F32, F16: rounded; E4M3: exact) and to e4m3 with 128x128 scales (TI_WEIGHT_TO_FP8). At load time only; bound by the bus that
// brings the source.
#include <cuda_fp16.h>

#include "kernels/cuda/convert.h"
#include "kernels/cuda/device.cuh"

static __device__ __forceinline__ float value(ti_dtype t, const void *p, int64_t i) {
  if (t == TI_F32) return static_cast<const float *>(p)[i];
  if (t == TI_F16) return __half2float(static_cast<const __half *>(p)[i]);
  if (t == TI_BF16) return __bfloat162float(static_cast<const bf16 *>(p)[i]);
  return ti_from_e4m3(static_cast<const uint8_t *>(p)[i]);
}

// The matrix's row for the part's row r.
static __device__ __forceinline__ int64_t matrix_row(const ti_cuda_convert_args &a, int64_t r) {
  enum { RUN = TI_CUDA_GATE_RUN };
  if (a.gate_up) return r / RUN * (2 * RUN) + r % RUN + (a.gate_up == 2 ? RUN : 0);
  return a.base + r;
}

static __global__ void to_bf16_kernel(ti_cuda_convert_args a) {
  ti_pdl_wait();
  for (int64_t r = blockIdx.x; r < a.n; r += gridDim.x) {
    bf16 *dst = (bf16 *)a.dst + matrix_row(a, a.row + r) * a.k;
    for (int64_t c = threadIdx.x; c < a.k; c += blockDim.x) dst[c] = __float2bfloat16_rn(value(a.from, a.src, r * a.k + c));
  }
}

// A block of 128 x 128 a block of 256 threads: its largest value, then its codes.
static __global__ void __launch_bounds__(256) to_fp8_kernel(ti_cuda_convert_args a) {
  enum { B = 128 };
  __shared__ float part[8];
  const int64_t r0 = (int64_t)blockIdx.y * B, c0 = (int64_t)blockIdx.x * B;
  const int rows = (int)min((int64_t)B, a.n - r0), cols = (int)min((int64_t)B, a.k - c0);
  ti_pdl_wait();
  float amax = 0.0f;
  for (int r = threadIdx.x / B; r < rows; r += 2) {
    const int c = threadIdx.x % B;
    if (c < cols) amax = fmaxf(amax, fabsf(value(a.from, a.src, (r0 + r) * a.k + c0 + c)));
  }
  amax = ti_warp_max(amax);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = amax;
  __syncthreads();
  for (int i = 0; i < 8; i++) amax = fmaxf(amax, part[i]);
  const float s = ti_fp8_scale(amax);
  for (int r = threadIdx.x / B; r < rows; r += 2) {
    const int c = threadIdx.x % B;
    if (c < cols) ((uint8_t *)a.dst)[matrix_row(a, a.row + r0 + r) * a.k + c0 + c] = ti_to_e4m3(value(a.from, a.src, (r0 + r) * a.k + c0 + c) / s);
  }
  if (!a.scale_rows) {
    if (threadIdx.x == 0) a.scale[((a.base + a.row + r0) / B) * a.scale_ld + blockIdx.x] = s;
  } else if ((int)threadIdx.x < rows) {
    a.scale[(a.base + a.row + r0 + threadIdx.x) * a.scale_ld + blockIdx.x] = s;
  }
}

ti_status ti_cuda_to_bf16(ti_dev *d, const ti_cuda_convert_args *a) {
  return ti_launch(d, "weights to bf16", to_bf16_kernel, (int)(a->n < 4096 ? a->n : 4096), 256, 0, *a);
}

ti_status ti_cuda_to_fp8(ti_dev *d, const ti_cuda_convert_args *a) {
  assert(a->row % 128 == 0 && (a->scale_rows || a->base % 128 == 0));
  return ti_launch(d, "weights to e4m3", to_fp8_kernel, dim3(ti_ceil_div(a->k, 128), ti_ceil_div(a->n, 128)), 256, 0, *a);
}
