// Small device code that every kernel file uses: 16-byte bf16 accesses, sums in a fixed order, programmatic dependent launch, and the launch itself.
//
// Programmatic dependent launch: a kernel may start while its predecessor in the stream still runs. The rules:
//   - ti_pdl_wait() stands before the first access to anything that an earlier op wrote, reads or frees (its outputs too: a predecessor may
//     still read what this kernel overwrites). Weights, frequencies and launch arguments may be read before.
//   - every thread of every block calls it on every path: a kernel that ends without it would let its successor pass its predecessor.
//   - ti_pdl_launch() says that the successor may be scheduled; it is a hint, correct anywhere. First of all in kernels that leave room on an SM: the
//     product behind a norm then fetches its weights while the product before it still runs.
#ifndef TI_KERNELS_CUDA_DEVICE_CUH
#define TI_KERNELS_CUDA_DEVICE_CUH
#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/cuda/cuda_priv.h"

typedef __nv_bfloat16 bf16;

static __device__ __forceinline__ void ti_pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
static __device__ __forceinline__ void ti_pdl_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- 8 bf16 numbers as one access ----

static __device__ __forceinline__ void ti_bf16x8_to_f32(const uint4 &u, float f[8]) {
  const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    f[2 * i] = __uint_as_float(w[i] << 16);
    f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}
static __device__ __forceinline__ uint32_t ti_bf16x2(float lo, float hi) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<const uint32_t *>(&v);
}
static __device__ __forceinline__ uint4 ti_f32_to_bf16x8(const float f[8]) {
  return make_uint4(ti_bf16x2(f[0], f[1]), ti_bf16x2(f[2], f[3]), ti_bf16x2(f[4], f[5]), ti_bf16x2(f[6], f[7]));
}
static __device__ __forceinline__ void ti_load8(const bf16 *p, float f[8]) { ti_bf16x8_to_f32(*reinterpret_cast<const uint4 *>(p), f); }
static __device__ __forceinline__ void ti_store8(bf16 *p, const float f[8]) { *reinterpret_cast<uint4 *>(p) = ti_f32_to_bf16x8(f); }
static __device__ __forceinline__ void ti_load8(const float *p, float f[8]) {
  const float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
  f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
}
static __device__ __forceinline__ float ti_round_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// ---- e4m3 ----

static __device__ __forceinline__ uint8_t ti_to_e4m3(float x) { return (uint8_t)__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
static __device__ __forceinline__ float ti_from_e4m3(uint8_t q) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(q, __NV_E4M3))); }
// The rule of ti_quant_fp8_args.
static __device__ __forceinline__ float ti_fp8_scale(float amax) { return fmaxf(amax, 1e-4f) / 448.0f; }

// silu(g) * u, within 2^-19 of it: every kernel of the table that has the product uses this one, so that fused forms have its bits.
static __device__ __forceinline__ float ti_silu_mul(float g, float u) { return __fdividef(g, 1.0f + __expf(-g)) * u; }

// ---- sums and maxima in an order that depends on the lane alone ----

static __device__ __forceinline__ float ti_warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
static __device__ __forceinline__ float ti_warp_max(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}
// The sum over the block, for every thread. smem: [blockDim.x / 32] floats, used once; blockDim.x is a multiple of 32.
static __device__ __forceinline__ float ti_block_sum(float v, float *smem) {
  const int warps = (int)blockDim.x / 32;
  v = ti_warp_sum(v);
  if (threadIdx.x % 32 == 0) smem[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0.0f;
  for (int i = 0; i < warps; i++) sum += smem[i];
  return sum;
}

// ---- launching ----

static inline int ti_ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }
static inline bool ti_aligned16(const void *p) { return ((uintptr_t)p & 15) == 0; }

// Launches kernel<<<grid, block, smem>>>(args...) on d's stream, with programmatic dependent launch where d has it on: only for kernels that follow
// the rules above.
template <typename... P, typename... A>
static inline ti_status ti_launch(ti_dev *d, const char *op, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, A... args) {
  cudaLaunchAttribute attr = {};
  attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = grid;
  c.blockDim = block;
  c.dynamicSmemBytes = smem;
  c.stream = d->stream;
  c.attrs = &attr;
  c.numAttrs = d->pdl ? 1 : 0;
  d->last_op = op;
  const cudaError_t e = cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...);
  return e == cudaSuccess ? TI_OK : ti_cuda_result(d, op, e);
}

#endif
