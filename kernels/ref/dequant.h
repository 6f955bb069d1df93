// Rows of any weight type to fp32, scalar: the oracle that every other dequantiser is tested against.
#ifndef TI_KERNELS_REF_DEQUANT_H
#define TI_KERNELS_REF_DEQUANT_H
#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"

bool ti_ref_can_dequant(ti_dtype t);  // F32, F16, BF16, E4M3 and the block types
// dst[n] = the n elements at src, which starts at a block's boundary; n is a multiple of the block. E4M3 gives the code's value, without any scale.
void ti_ref_dequant_row(ti_dtype t, const void *src, float *dst, size_t n);

#endif
