// Sampling's ops of the CUDA backend (kernel.h holds their contracts).
#ifndef TI_KERNELS_CUDA_SAMPLE_H
#define TI_KERNELS_CUDA_SAMPLE_H
#include "kernels/kernel.h"

#define TI_CUDA_MAX_VOCAB 524288  // ids in a row of sample and logprobs: what fits 64 bits in units of 2^-44
#define TI_CUDA_MAX_BLOCK_VOCAB 131064  // the same where a row has one block (before sm_90): row_cluster.cuh's ROW_MAX_SHARE

// Bytes of d->scratch that sample takes; the others take none.
size_t ti_cuda_sample_scratch(int n_row, int vocab);
ti_status ti_cuda_sample(ti_dev *d, const ti_sample_args *a);
ti_status ti_cuda_logprobs(ti_dev *d, const ti_logprob_args *a);
ti_status ti_cuda_penalties(ti_dev *d, const ti_penalty_args *a);
ti_status ti_cuda_tokens(ti_dev *d, const ti_token_args *a);
ti_status ti_cuda_feed(ti_dev *d, const ti_feed_args *a);

#endif
