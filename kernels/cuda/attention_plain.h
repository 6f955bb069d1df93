// The attention op's plain form: right for every shape, fast for none (attention_plain.cu).
#ifndef TI_KERNELS_CUDA_ATTENTION_PLAIN_H
#define TI_KERNELS_CUDA_ATTENTION_PLAIN_H
#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/kernel.h"
ti_status ti_cuda_attention_plain(ti_dev *d, const ti_attention_args *a);
#ifdef __cplusplus
}
#endif
#endif
