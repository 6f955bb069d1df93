// Paged attention's forms and what they need; table.c takes ti_cuda_attention.
#ifndef TI_KERNELS_CUDA_ATTENTION_H
#define TI_KERNELS_CUDA_ATTENTION_H
#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/cuda/cuda_priv.h"

// kernel.h's `attention`. Which form takes a run of rows (attention.cu):
//   decode   BF16 and E4M3 KV, head_dim 64, 80, 96, 128, 256; a run whose rows x group fit 16 (else several tiles)
//   prefill  BF16 KV, head_dim 64 .. 128, longer runs
//   plain    everything else
ti_status ti_cuda_attention(ti_dev *d, const ti_attention_args *a);
// Scratch with which decode always finds room to split long sequences over the device: 4 (head_dim + 2) bytes a chunk of 512 places, head and row;
// a batch is split only while it is smaller than the device (at most 2 blocks a multiprocessor), so that this is bounded by the longest sequence and
// does not grow with the batch. With less scratch long sequences of small batches are walked by fewer blocks; the bits are the same.
size_t ti_cuda_attention_scratch(int n_sm, int max_head, int max_kv_len);

#ifdef __cplusplus
}
#endif
#endif
