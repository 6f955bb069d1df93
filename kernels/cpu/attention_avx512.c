// attention_body.h for AVX-512.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/simd_math.h"

#include "kernels/cpu/attention_body.h"
