// bf16 rows to e4m3 codes with a scale over 128 numbers, alone and behind RMSNorm or silu-mul. Codes and scales are those of kernels/ref/quant.c on
// the same bf16 row, bit for bit; scales stand K block by K block (ti_kernels.scale_by_k). One launch each, no scratch, any k.
#ifndef TI_KERNELS_CUDA_QUANT_FP8_H
#define TI_KERNELS_CUDA_QUANT_FP8_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

ti_status ti_cuda_quant_fp8(ti_dev *d, const ti_quant_fp8_args *a);
// RMSNorm (ti_cuda_rmsnorm, cuda_priv.h) is here too: to `out`, to `q` (of the row as rounded to bf16), or to both.

// q of silu(gate) * up as rounded to bf16; `out` is not written.
ti_status ti_cuda_silu_mul_quant(ti_dev *d, const ti_silu_mul_args *a);

#ifdef __cplusplus
}
#endif
#endif
