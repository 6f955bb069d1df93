// rows_body.h for AVX-512.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/simd_math.h"

#include "kernels/cpu/rows_body.h"
