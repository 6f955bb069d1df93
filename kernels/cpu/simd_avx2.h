// Vectors of 8 floats for the bodies (*_body.h) of the CPU kernels: AVX2 + FMA + F16C. simd_avx512.h is the same list with 16.
//
// vf: VL floats.  vi: VL 32-bit integers.  vm: a mask of VL lanes.  Every sum across lanes has one fixed tree. Included by *_avx2.c only.
#ifndef TI_CPU_SIMD_AVX2_H
#define TI_CPU_SIMD_AVX2_H
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VL 8
#define TI_ISA(name) name##_avx2
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
#define VF_IN_REGISTER(v) __asm__("" : "+x"(v))  // not folded into its users as a memory operand: it is loaded once
#define VF_IN_MEMORY(v) __asm__("" : "+m"(v))    // kept on the stack at this place
#define TI_INLINE static inline __attribute__((always_inline, unused))

TI_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
TI_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
TI_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
TI_INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
TI_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
TI_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
TI_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
TI_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
TI_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }  // b where either is NaN
TI_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
TI_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }    // a * b + c
TI_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
TI_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
TI_INLINE vf vf_xor(vf a, vf b) { return _mm256_xor_ps(a, b); }
TI_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

TI_INLINE vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
TI_INLINE vm vf_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
TI_INLINE vm vf_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
TI_INLINE vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
TI_INLINE vf vf_blend(vf a, vf b, vm m) { return _mm256_blendv_ps(a, b, m); }  // b where m
TI_INLINE unsigned vm_bits(vm m) { return (unsigned)_mm256_movemask_ps(m); }

TI_INLINE vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
TI_INLINE vi vi_iota(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
TI_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
TI_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
TI_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
TI_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
TI_INLINE vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
#define vi_shl(a, n) _mm256_slli_epi32(a, n)
#define vi_shr(a, n) _mm256_srli_epi32(a, n)
#define vi_sar(a, n) _mm256_srai_epi32(a, n)
TI_INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
TI_INLINE vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
TI_INLINE vm vi_eq(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
TI_INLINE vm vi_gt(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
TI_INLINE vi vi_blend(vi a, vi b, vm m) { return _mm256_blendv_epi8(a, b, _mm256_castps_si256(m)); }
TI_INLINE vi vf_bits(vf a) { return _mm256_castps_si256(a); }
TI_INLINE vf vi_float(vi a) { return _mm256_castsi256_ps(a); }
TI_INLINE vi vf_to_int(vf a) { return _mm256_cvtps_epi32(a); }  // nearest even
TI_INLINE vf vi_to_float(vi a) { return _mm256_cvtepi32_ps(a); }
// High and low halves of the unsigned products a * b of all lanes.
TI_INLINE void vi_mulhilo(vi a, vi b, vi *hi, vi *lo) {
  const vi even = _mm256_mul_epu32(a, b);
  const vi odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  *lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *hi = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

// The first n lanes (0 <= n <= VL); the others are zero, their memory is not touched.
TI_INLINE vi vi_lanes(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), vi_iota()); }
TI_INLINE vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, vi_lanes(n)); }
TI_INLINE void vf_store_n(float *p, vf v, int n) { _mm256_maskstore_ps(p, vi_lanes(n), v); }

// ((0+1)+(2+3)) + ((4+5)+(6+7)), the tree of hadd.
TI_INLINE float vf_hsum(vf v) {
  const __m256 a = _mm256_hadd_ps(v, v), b = _mm256_hadd_ps(a, a);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1)));
}
// Eight of them at once, the same tree: out[i] = hsum(v[i]).
TI_INLINE void vf_hsum8(const vf v[8], float out[8]) {
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
}
TI_INLINE int32_t vi_hmax(vi v) {
  __m128i a = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}
TI_INLINE int32_t vi_hsum(vi v) {
  __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}
TI_INLINE float vf_hmax(vf v) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}

// ---- small floats: VL of them, in order ----
TI_INLINE vf vf_from_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
TI_INLINE void vf_to_bf16(uint16_t *p, vf v) {  // ti_f32_to_bf16
  const __m256i u = _mm256_castps_si256(v), hi = _mm256_srli_epi32(u, 16);
  const __m256i r =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(hi, _mm256_set1_epi32(1)))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i x = _mm256_blendv_epi8(r, _mm256_or_si256(hi, _mm256_set1_epi32(0x40)), nan);
  const __m256i y = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
  _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(y));
}
TI_INLINE vf vf_from_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
// e4m3 -> half with the same exponent field: s eeee mmm -> s 0eeee mmm0000000, which is the value times 2^-8; 0x7f is made a NaN.
TI_INLINE __m128i e4m3_to_half8(const uint8_t *p) {
  const __m128i v = _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)), 8);
  const __m128i h = _mm_and_si128(_mm_srai_epi16(v, 1), _mm_set1_epi16((short)0xbfff));
  const __m128i nan = _mm_cmpgt_epi16(_mm_and_si128(h, _mm_set1_epi16(0x7fff)), _mm_set1_epi16(0x3f00));
  return _mm_or_si128(h, nan);
}
TI_INLINE vf vf_from_e4m3(const uint8_t *p) { return _mm256_mul_ps(_mm256_cvtph_ps(e4m3_to_half8(p)), _mm256_set1_ps(256.0f)); }
TI_INLINE void vi_store_u8(uint8_t *p, vi v) {  // the low bytes
  const __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(w, w));
}

// ---- one k of a panel: 2 * VL weights (layouts in weight.h) ----
TI_INLINE void vw_f32(const void *p, vf *a, vf *b) {
  *a = _mm256_loadu_ps((const float *)p);
  *b = _mm256_loadu_ps((const float *)p + 8);
}
TI_INLINE void vw_bf16(const void *p, vf *a, vf *b) {
  const __m256i w = _mm256_loadu_si256((const __m256i *)p);
  *a = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  *b = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)));
}
TI_INLINE void vw_f16(const void *p, vf *a, vf *b) {
  *a = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
  *b = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
}
TI_INLINE void vw_e4m3(const void *p, vf *a, vf *b) {  // times 2^-8; no NaN among them
  const __m256i v = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 8);
  const __m256i h = _mm256_and_si256(_mm256_srai_epi16(v, 1), _mm256_set1_epi16((short)0xbfff));
  *a = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
  *b = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
}
TI_INLINE void vw_e4m3_nan(const void *p, vf *a, vf *b) {
  *a = _mm256_cvtph_ps(e4m3_to_half8((const uint8_t *)p));
  *b = _mm256_cvtph_ps(e4m3_to_half8((const uint8_t *)p + 8));
}

// ---- products of bytes: 4 * VL of them ----
TI_INLINE vi vi_maddubs(vi u, vi s) { return _mm256_maddubs_epi16(u, s); }  // unsigned times signed, pairs summed to int16
TI_INLINE vi vi_add16(vi a, vi b) { return _mm256_add_epi16(a, b); }
TI_INLINE vi vi_pairs16(vi a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }  // pairs of int16 summed to int32
TI_INLINE vi vi_abs8(vi a) { return _mm256_abs_epi8(a); }
TI_INLINE vi vi_sign8(vi a, vi s) { return _mm256_sign_epi8(a, s); }  // a with its sign turned where s is negative; where s is 0, anything

// pos * freq[i] for VL frequencies: the product in fp32, as models are trained, then reduced in double to r in [-pi/4, pi/4] and the quarter turns
// taken off, modulo 4.
TI_INLINE void vf_angle(float pos, const float *freq, vf *r, vi *quarter) {
  const __m256d two_pi = _mm256_set1_pd(0.63661977236758134308), hi = _mm256_set1_pd(1.57079632679489661923);
  const __m256 f = _mm256_mul_ps(_mm256_set1_ps(pos), _mm256_loadu_ps(freq));
  __m128 out[2];
  __m128i q[2];
  for (int i = 0; i < 2; i++) {
    const __m256d x = _mm256_cvtps_pd(i ? _mm256_extractf128_ps(f, 1) : _mm256_castps256_ps128(f));
    const __m256d n = _mm256_round_pd(_mm256_mul_pd(x, two_pi), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    out[i] = _mm256_cvtpd_ps(_mm256_fnmadd_pd(n, hi, x));
    q[i] = _mm256_cvtpd_epi32(n);
  }
  *r = _mm256_set_m128(out[1], out[0]);
  *quarter = _mm256_and_si256(_mm256_set_m128i(q[1], q[0]), _mm256_set1_epi32(3));
}
// (a0 b0 a1 b1 ...) <-> (a0 a1 ..), (b0 b1 ..): pairs of interleaved RoPE.
TI_INLINE void vf_unzip(vf x, vf y, vf *a, vf *b) {
  const __m256 s = _mm256_shuffle_ps(x, y, 0x88), t = _mm256_shuffle_ps(x, y, 0xdd);
  *a = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(s), 0xd8));
  *b = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(t), 0xd8));
}
TI_INLINE void vf_zip(vf a, vf b, vf *x, vf *y) {
  const __m256 lo = _mm256_unpacklo_ps(a, b), hi = _mm256_unpackhi_ps(a, b);
  *x = _mm256_permute2f128_ps(lo, hi, 0x20);
  *y = _mm256_permute2f128_ps(lo, hi, 0x31);
}
#endif
