// Stamps (see stamp.h): kernels of one thread that read %globaltimer when all that was queued before them has ended.
//
//   op i      ====================|
//   stamp        . . waits . . . .|t|          starts as soon as op i lets it, waits for op i's end, reads the clock
//   op i + 1        : weights . . . .|=======  starts as soon as the stamp has, fetches weights, waits for the stamp's end
//
// Events in their place would end that overlap: a recorded event waits for the kernel before it and lets the next one start behind it only.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/stamp.h"

static __device__ __forceinline__ uint64_t global_ns() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t)::"memory");
  return t;
}

static __global__ void stamp_kernel(ti_stamps *ring, uint32_t i, bool in_graph) {
  ti_pdl_launch();
  if (in_graph) i += *(const volatile uint32_t *)&ring->base;  // written before the graph began
  ti_pdl_wait();
  ring->at[i % TI_STAMPS] = global_ns();
}

static __global__ void base_kernel(ti_stamps *ring, uint32_t base) { ring->base = base; }

static __global__ void host_kernel(volatile uint64_t *host) { *host = global_ns(); }

extern "C" cudaError_t ti_cuda_stamp(cudaStream_t s, ti_stamps *ring, uint32_t i, int in_graph, int overlap) {
  cudaLaunchAttribute attr = {};
  attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = c.blockDim = dim3(1);
  c.stream = s;
  c.attrs = &attr;
  c.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&c, stamp_kernel, ring, i, in_graph != 0);
}

extern "C" cudaError_t ti_cuda_stamp_base(cudaStream_t s, ti_stamps *ring, uint32_t base) {
  base_kernel<<<1, 1, 0, s>>>(ring, base);
  return cudaGetLastError();
}

extern "C" cudaError_t ti_cuda_stamp_host(cudaStream_t s, uint64_t *host) {
  host_kernel<<<1, 1, 0, s>>>(host);
  return cudaGetLastError();
}
