// rows_body.h for AVX2.
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/simd_math.h"

#include "kernels/cpu/rows_body.h"
