// gemm_body.h for AVX-512 with VNNI: block weights meet int8 activations by vpdpbusd (gemm_block_vnni.h). The rest is AVX-512's, to the bit.
#include "kernels/cpu/simd_avx512.h"

#undef TI_ISA
#define TI_ISA(name) name##_vnni
#define ti_cpu_quant_block_vnni ti_cpu_quant_block_avx512

#include "kernels/cpu/gemm_body.h"
