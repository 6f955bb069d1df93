// TI_WEIGHT_TO_FP8 on the host: what the reference and the CPU backends do with it, and what the device's kernel is checked against.
#ifndef TI_KERNELS_TO_FP8_H
#define TI_KERNELS_TO_FP8_H
#include "kernels/kernel.h"

// The parts as the rest of weight_prepare should see them. Where flags ask for it and the sources are F32, F16 or BF16: E4M3 parts with 128x128
// scales, blocks counted from each part's own first row and column; otherwise the parts as they are.
typedef struct ti_fp8_parts {
  ti_weight_src part[TI_WEIGHT_PARTS];
  void *mem;  // the codes and scales; NULL: nothing was converted
} ti_fp8_parts;

// values false: shapes alone, for weight_size; data and scales must not be read then (they are not NULL). TI_ERR_NOMEM; TI_ERR_ARG: 1 to
// TI_WEIGHT_PARTS parts. Time: one pass over the weights, scalar.
ti_status ti_fp8_parts_init(ti_fp8_parts *f, const ti_weight_src *parts, int n_part, unsigned flags, bool values);
void ti_fp8_parts_fini(ti_fp8_parts *f);

#endif
