// Random weights of any stored type, with what they mean in fp64 beside them.
#ifndef TI_CONFORMANCE_WEIGHTS_H
#define TI_CONFORMANCE_WEIGHTS_H
#include "conformance.h"

// A source of n rows and k columns, as a checkpoint or a shard of one would give it. E4M3 has 128x128 scales and starts at (row0, col0) of its block.
ti_weight_src cf_weight_src(cf_dev *d, ti_dtype t, int64_t n, int64_t k, int row0, int col0, uint64_t seed);
// [n, k] values of a source, dequantised by the reference's scalar code.
double *cf_weight_values(cf_dev *d, const ti_weight_src *src);
// Sizes, allocates and prepares; fails the test when the backend does not. False when it has no kernel for the type.
bool cf_weight(cf_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, ti_weight *out);

#endif
