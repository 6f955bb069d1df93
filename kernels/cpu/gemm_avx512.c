// gemm_body.h for AVX-512.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/gemm_body.h"
