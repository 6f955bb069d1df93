// Vectors of 16 floats for the bodies of the CPU kernels: AVX-512 F, BW, VL, DQ. The same list as simd_avx2.h, which explains it.
#ifndef TI_CPU_SIMD_AVX512_H
#define TI_CPU_SIMD_AVX512_H
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VL 16
#define TI_ISA(name) name##_avx512
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
#define VF_IN_REGISTER(v) __asm__("" : "+v"(v))  // not folded into its users as a memory operand: it is loaded once
#define VF_IN_MEMORY(v) __asm__("" : "+m"(v))    // kept on the stack at this place
#define TI_INLINE static inline __attribute__((always_inline, unused))

TI_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
TI_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
TI_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
TI_INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
TI_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
TI_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
TI_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
TI_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
TI_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
TI_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
TI_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
TI_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
TI_INLINE vf vf_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
TI_INLINE vf vf_xor(vf a, vf b) { return _mm512_xor_ps(a, b); }
TI_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

TI_INLINE vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
TI_INLINE vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
TI_INLINE vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
TI_INLINE vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
TI_INLINE vf vf_blend(vf a, vf b, vm m) { return _mm512_mask_blend_ps(m, a, b); }
TI_INLINE unsigned vm_bits(vm m) { return m; }

TI_INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
TI_INLINE vi vi_iota(void) { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
TI_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
TI_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
TI_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
TI_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
TI_INLINE vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
#define vi_shl(a, n) _mm512_slli_epi32(a, n)
#define vi_shr(a, n) _mm512_srli_epi32(a, n)
#define vi_sar(a, n) _mm512_srai_epi32(a, n)
TI_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
TI_INLINE vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
TI_INLINE vm vi_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }
TI_INLINE vm vi_gt(vi a, vi b) { return _mm512_cmpgt_epi32_mask(a, b); }
TI_INLINE vi vi_blend(vi a, vi b, vm m) { return _mm512_mask_blend_epi32(m, a, b); }
TI_INLINE vi vf_bits(vf a) { return _mm512_castps_si512(a); }
TI_INLINE vf vi_float(vi a) { return _mm512_castsi512_ps(a); }
TI_INLINE vi vf_to_int(vf a) { return _mm512_cvtps_epi32(a); }
TI_INLINE vf vi_to_float(vi a) { return _mm512_cvtepi32_ps(a); }
TI_INLINE void vi_mulhilo(vi a, vi b, vi *hi, vi *lo) {
  const vi even = _mm512_mul_epu32(a, b);
  const vi odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
  *lo = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  *hi = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

TI_INLINE __mmask16 vi_lanes(int n) { return (__mmask16)((1u << n) - 1u); }
TI_INLINE vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(vi_lanes(n), p); }
TI_INLINE void vf_store_n(float *p, vf v, int n) { _mm512_mask_storeu_ps(p, vi_lanes(n), v); }

TI_INLINE float vf_hsum(vf v) { return _mm512_reduce_add_ps(v); }
TI_INLINE void vf_hsum8(const vf v[8], float out[8]) {
  for (int i = 0; i < 8; i++) out[i] = _mm512_reduce_add_ps(v[i]);
}
TI_INLINE int32_t vi_hmax(vi v) { return _mm512_reduce_max_epi32(v); }
TI_INLINE int32_t vi_hsum(vi v) { return _mm512_reduce_add_epi32(v); }
TI_INLINE float vf_hmax(vf v) { return _mm512_reduce_max_ps(v); }

TI_INLINE vf vf_from_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
TI_INLINE void vf_to_bf16(uint16_t *p, vf v) {
  const __m512i u = _mm512_castps_si512(v), hi = _mm512_srli_epi32(u, 16);
  const __m512i r =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(hi, _mm512_set1_epi32(1)))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(r, nan, hi, _mm512_set1_epi32(0x40))));
}
TI_INLINE vf vf_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
TI_INLINE __m256i e4m3_to_half16(const uint8_t *p) {
  const __m256i v = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 8);
  const __m256i h = _mm256_and_si256(_mm256_srai_epi16(v, 1), _mm256_set1_epi16((short)0xbfff));
  const __m256i nan = _mm256_cmpgt_epi16(_mm256_and_si256(h, _mm256_set1_epi16(0x7fff)), _mm256_set1_epi16(0x3f00));
  return _mm256_or_si256(h, nan);
}
TI_INLINE vf vf_from_e4m3(const uint8_t *p) { return _mm512_mul_ps(_mm512_cvtph_ps(e4m3_to_half16(p)), _mm512_set1_ps(256.0f)); }
TI_INLINE void vi_store_u8(uint8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v)); }

TI_INLINE void vw_f32(const void *p, vf *a, vf *b) {
  *a = _mm512_loadu_ps((const float *)p);
  *b = _mm512_loadu_ps((const float *)p + 16);
}
TI_INLINE void vw_bf16(const void *p, vf *a, vf *b) {
  const __m512i w = _mm512_loadu_si512(p);
  *a = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  *b = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}
TI_INLINE void vw_f16(const void *p, vf *a, vf *b) {
  *a = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
  *b = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p + 1));
}
TI_INLINE void vw_e4m3(const void *p, vf *a, vf *b) {
  const __m512i v = _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p)), 8);
  const __m512i h = _mm512_and_si512(_mm512_srai_epi16(v, 1), _mm512_set1_epi16((short)0xbfff));
  *a = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
  *b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
}
TI_INLINE void vw_e4m3_nan(const void *p, vf *a, vf *b) {
  *a = _mm512_cvtph_ps(e4m3_to_half16((const uint8_t *)p));
  *b = _mm512_cvtph_ps(e4m3_to_half16((const uint8_t *)p + 16));
}

#ifdef __AVX512VNNI__
#define TI_VNNI 1
TI_INLINE vi vi_dot4(vi sum, vi u, vi s) { return _mm512_dpbusd_epi32(sum, u, s); }  // sum += four products of unsigned and signed bytes
#endif
TI_INLINE vi vi_maddubs(vi u, vi s) { return _mm512_maddubs_epi16(u, s); }
TI_INLINE vi vi_add16(vi a, vi b) { return _mm512_add_epi16(a, b); }
TI_INLINE vi vi_pairs16(vi a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
TI_INLINE vi vi_abs8(vi a) { return _mm512_abs_epi8(a); }
TI_INLINE vi vi_sign8(vi a, vi s) { return _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(s), _mm512_setzero_si512(), a); }

TI_INLINE void vf_angle(float pos, const float *freq, vf *r, vi *quarter) {
  const __m512d two_pi = _mm512_set1_pd(0.63661977236758134308), hi = _mm512_set1_pd(1.57079632679489661923);
  __m256 out[2];
  __m256i q[2];
  for (int i = 0; i < 2; i++) {
    const __m512d x = _mm512_cvtps_pd(_mm256_mul_ps(_mm256_set1_ps(pos), _mm256_loadu_ps(freq + 8 * i)));
    const __m512d n = _mm512_roundscale_pd(_mm512_mul_pd(x, two_pi), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    out[i] = _mm512_cvtpd_ps(_mm512_fnmadd_pd(n, hi, x));
    q[i] = _mm512_cvtpd_epi32(n);
  }
  *r = _mm512_insertf32x8(_mm512_castps256_ps512(out[0]), out[1], 1);
  *quarter = _mm512_and_si512(_mm512_inserti32x8(_mm512_castsi256_si512(q[0]), q[1], 1), _mm512_set1_epi32(3));
}
TI_INLINE void vf_unzip(vf x, vf y, vf *a, vf *b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *a = _mm512_permutex2var_ps(x, even, y);
  *b = _mm512_permutex2var_ps(x, _mm512_add_epi32(even, _mm512_set1_epi32(1)), y);
}
TI_INLINE void vf_zip(vf a, vf b, vf *x, vf *y) {
  const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *x = _mm512_permutex2var_ps(a, lo, b);
  *y = _mm512_permutex2var_ps(a, _mm512_add_epi32(lo, _mm512_set1_epi32(8)), b);
}
#endif
