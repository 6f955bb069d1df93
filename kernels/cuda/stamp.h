// The device's clock into memory, between ops of a stream: what spans.c makes spans of.
#ifndef TI_KERNELS_CUDA_STAMP_H
#define TI_KERNELS_CUDA_STAMP_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TI_STAMPS 16384u  // of the ring

typedef struct ti_stamps {  // device memory
  uint32_t base;            // where the stamps of the graph that runs begin
  uint32_t unused;
  uint64_t at[TI_STAMPS];  // nanoseconds of %globaltimer
} ti_stamps;

// Queues a stamp: ring->at[i % TI_STAMPS], in_graph: i counts from ring->base. The time is that of the end of all that was queued before; with
// overlap (programmatic dependent launch) what follows may fetch its weights meanwhile. Costs 0.2 to 0.9 us of the stream.
cudaError_t ti_cuda_stamp(cudaStream_t s, ti_stamps *ring, uint32_t i, int in_graph, int overlap);
cudaError_t ti_cuda_stamp_base(cudaStream_t s, ti_stamps *ring, uint32_t base);
// The clock into page-locked host memory.
cudaError_t ti_cuda_stamp_host(cudaStream_t s, uint64_t *host);

#ifdef __cplusplus
}
#endif
#endif
