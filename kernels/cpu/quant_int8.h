// A block of 32 activations as int8: d = amax / 127, codes round(x / d). One rule for what products quantise on the way (gemm_block_body.h) and what
// norms hand on as codes (rows_body.h), so that both give the same bits. Included behind simd_*.h.
//
// A block below 1e-35 counts as zeros; one with a NaN or an infinity gives d NaN or infinite.
#ifndef TI_CPU_QUANT_INT8_H
#define TI_CPU_QUANT_INT8_H
#include "kernels/cpu/block.h"

// Returns the sum of the codes, lane by lane.
TI_INLINE vi quant_int8(const float *x, int8_t *code, float *d) {
  vi top = vi_set1(0);
  for (int i = 0; i < TI_CPU_BLOCK; i += VL)
    top = vi_max(top, vi_and(vf_bits(vf_load(x + i)), vi_set1(0x7fffffff)));  // NaN and infinity are the largest
  const float amax = ti_f32_from_bits((uint32_t)vi_hmax(top)), scale = amax < 1e-35f ? 0.0f : amax / 127.0f;
  const vf inv = vf_set1(scale == 0.0f ? 0.0f : 1.0f / scale);
  vi total = vi_set1(0);
  for (int i = 0; i < TI_CPU_BLOCK; i += VL) {
    const vi q = vf_to_int(vf_mul(vf_load(x + i), inv));
    total = vi_add(total, q);
    vi_store_u8((uint8_t *)code + i, vi_and(q, vi_set1(255)));
  }
  *d = scale;
  return total;
}

// The sum of a block's 32 codes.
TI_INLINE int int8_sum(const int8_t *code) {
  const __m256i up = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)code), _mm256_set1_epi8((char)0x80));  // plus 128
  const __m256i by8 = _mm256_sad_epu8(up, _mm256_setzero_si256());
  const __m128i by16 = _mm_add_epi64(_mm256_castsi256_si128(by8), _mm256_extracti128_si256(by8, 1));
  return _mm_cvtsi128_si32(by16) + _mm_extract_epi32(by16, 2) - 128 * TI_CPU_BLOCK;
}

#endif
