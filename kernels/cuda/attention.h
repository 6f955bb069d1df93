// Paged attention's forms and what they need; table.c takes ti_cuda_attention.
#ifndef TI_KERNELS_CUDA_ATTENTION_H
#define TI_KERNELS_CUDA_ATTENTION_H
#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/cuda/cuda_priv.h"

// kernel.h's `attention`. Which form takes a run of rows (packed rows: rows x q heads a kv head):
//   decode   BF16 and E4M3 KV, head_dim 64, 80, 96, 128, 256: runs of up to 64 packed rows; of any length where prefill does not go
//   prefill  BF16 KV, head_dim 64, 80, 96, 128: longer runs
//   plain    everything else (attention_plain.h)
// A batch may hold both kinds of runs: two launches. The bits of a row are the same in decode and in prefill, however the prompt is cut; plain's are
// plain's own.
//
// Scratch: decode splits a batch that is smaller than the device and leaves 4 (head_dim + 2) bytes a row, q head and chunk of 512 places (of
// max_kv_len or the window). Where d->scratch has less than that, long sequences of small batches are walked by fewer blocks; the bits are the same.
ti_status ti_cuda_attention(ti_dev *d, const ti_attention_args *a);

#ifdef __cplusplus
}
#endif
#endif
