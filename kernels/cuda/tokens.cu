// The drawn ids into the slots' state, and out of it into the next step's rows: a few hundred numbers, one block; bound: the launch.
#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define THREADS 256

// 16-bit counters have no atomic add; they are added to inside their 32-bit word, and stay at 65,535.
static __device__ void count_up(uint16_t *count) {
  uint32_t *word = reinterpret_cast<uint32_t *>(reinterpret_cast<uintptr_t>(count) & ~(uintptr_t)3);
  const int shift = reinterpret_cast<uintptr_t>(count) & 2 ? 16 : 0;
  for (uint32_t old = *word, seen;; old = seen) {
    if ((old >> shift & 0xffffu) == 0xffffu) return;
    seen = atomicCAS(word, old, old + (1u << shift));
    if (seen == old) return;
  }
}

__global__ void __launch_bounds__(THREADS) tokens_kernel(ti_token_args a) {
  ti_pdl_wait();
  ti_pdl_launch();
  for (int i = (int)threadIdx.x; i < a.n; i += THREADS) {
    const int id = a.id[i], slot = a.slot[i];
    if (id < 0 || slot < 0) continue;
    if (a.out_count && a.counted && a.counted[slot]) count_up(a.out_count + (int64_t)slot * a.vocab + id);
    bool last = true;  // of several rows of a slot the last one stands
    for (int j = i + 1; j < a.n && last; j++) last = a.slot[j] != slot || a.id[j] < 0;
    if (last) a.last[slot] = id;
  }
}

__global__ void __launch_bounds__(THREADS) feed_kernel(ti_feed_args a) {
  ti_pdl_wait();
  ti_pdl_launch();
  for (int i = (int)(blockIdx.x * THREADS + threadIdx.x); i < a.n; i += (int)gridDim.x * THREADS) {
    if (a.ids[i] == -1) a.ids[i] = a.last[a.slot[i]];
  }
}

extern "C" ti_status ti_cuda_tokens(ti_dev *d, const ti_token_args *a) {
  return ti_launch(d, "tokens", tokens_kernel, dim3(1), dim3(THREADS), 0, *a);
}
extern "C" ti_status ti_cuda_feed(ti_dev *d, const ti_feed_args *a) {
  return ti_launch(d, "feed", feed_kernel, dim3((unsigned)ti_ceil_div(a->n, THREADS)), dim3(THREADS), 0, *a);
}
