// The bytes of synthetic weights: the plain form, one block of 16 bytes at a time, and one of eight blocks side by side for AVX2, chosen at run time;
// both give synthetic.h's numbers, bit for bit. Any thread; 2.1 GB/s a core against 0.3 of the plain form (bf16, Zen 3).
//
//   draws     c0..c3 of Philox, a lane a block:   v[w] = { r[w] of block b, r[w] of block b + 1, .. }
//   convert   each 32-bit word into 1, 2 or 4 elements, in place
//   store     4 x 8 words transposed: block b's four words side by side again
#include <stdbool.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "model/synthetic_priv.h"

static void fill_block(const ti_syn_gen *g, uint64_t b, unsigned char *dst) {
  const uint32_t ctr[4] = {(uint32_t)b, (uint32_t)(b >> 32), g->seed[0], g->seed[1]};
  uint32_t r[4];
  ti_philox4x32(g->key, ctr, r);
  if (g->dtype == TI_E4M3) {
    for (int i = 0; i < 16; i++) dst[i] = g->e4m3_of[r[i / 4] >> (8 * (i % 4)) & 0xff];
  } else if (g->dtype == TI_F32) {
    float v[4] = {0};
    for (int i = 0; i < 4; i++) {
      if (g->kind == TI_SYN_WEIGHT) v[i] = ((float)(r[i] >> 9) - 4194303.5f) * (g->amp * (1.0f / 4194304.0f));
      if (g->kind == TI_SYN_SCALE) v[i] = g->amp * (0.75f + 0.5f * ti_u32_to_unit(r[i]));
      if (g->kind == TI_SYN_SCORE_BIAS) v[i] = g->amp * ti_u32_to_unit(r[i]);
    }
    memcpy(dst, v, 16);
  } else {
    const float scale = g->amp * (1.0f / 32768.0f);
    const bool bf16 = g->dtype == TI_BF16;
    uint16_t v[8];
    for (int i = 0; i < 8; i++) {
      const float x = ((float)(r[i / 2] >> (16 * (i % 2)) & 0xffff) - 32767.5f) * scale;
      v[i] = bf16 ? ti_f32_to_bf16(x) : ti_f32_to_f16(x);
    }
    memcpy(dst, v, 16);
  }
}

#ifdef __x86_64__
#include <immintrin.h>

enum { LANES = 8 };
#define WIDE __attribute__((target("avx2,f16c"))) static

typedef struct lanes {
  __m256i v[4];
} lanes;

// The high halves of a * m, m the same in all lanes; *lo: the low halves.
WIDE inline __m256i mul_wide(__m256i a, __m256i m, __m256i *lo) {
  const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  *lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

// ti_philox4x32 for blocks b .. b + 7.
WIDE inline lanes draw(const ti_syn_gen *g, uint64_t b) {
  uint32_t lo[LANES], hi[LANES];
  for (int i = 0; i < LANES; i++) {
    lo[i] = (uint32_t)(b + (uint64_t)i);
    hi[i] = (uint32_t)((b + (uint64_t)i) >> 32);
  }
  __m256i c0 = _mm256_loadu_si256((const __m256i *)lo), c1 = _mm256_loadu_si256((const __m256i *)hi);
  __m256i c2 = _mm256_set1_epi32((int)g->seed[0]), c3 = _mm256_set1_epi32((int)g->seed[1]);
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53u), m1 = _mm256_set1_epi64x(0xCD9E8D57u);
  uint32_t k0 = g->key[0], k1 = g->key[1];
  for (int r = 0; r < 10; r++) {
    __m256i l0, l1;
    const __m256i h0 = mul_wide(c0, m0, &l0), h1 = mul_wide(c2, m1, &l1);
    c0 = _mm256_xor_si256(_mm256_xor_si256(h1, c1), _mm256_set1_epi32((int)k0));
    c2 = _mm256_xor_si256(_mm256_xor_si256(h0, c3), _mm256_set1_epi32((int)k1));
    c1 = l1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (lanes){{c0, c1, c2, c3}};
}

WIDE inline void store(lanes r, unsigned char *dst) {
  const __m256i a = _mm256_unpacklo_epi32(r.v[0], r.v[1]), b = _mm256_unpackhi_epi32(r.v[0], r.v[1]);
  const __m256i c = _mm256_unpacklo_epi32(r.v[2], r.v[3]), d = _mm256_unpackhi_epi32(r.v[2], r.v[3]);
  const __m256i x0 = _mm256_unpacklo_epi64(a, c), x1 = _mm256_unpackhi_epi64(a, c), x2 = _mm256_unpacklo_epi64(b, d),
                x3 = _mm256_unpackhi_epi64(b, d);
  __m256i *to = (__m256i *)(void *)dst;
  _mm256_storeu_si256(to, _mm256_permute2x128_si256(x0, x1, 0x20));
  _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(x2, x3, 0x20));
  _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(x0, x1, 0x31));
  _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(x2, x3, 0x31));
}

// (x - middle) * scale
WIDE inline __m256 centred(__m256i x, float middle, float scale) {
  return _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(x), _mm256_set1_ps(middle)), _mm256_set1_ps(scale));
}

// A finite fp32 rounded to bf16, in the high half of each word.
WIDE inline __m256i bf16_high(__m256 f) {
  const __m256i u = _mm256_castps_si256(f), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
}

WIDE inline __m256i f16_low(__m256 f) { return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT)); }

WIDE inline __m256i convert16(__m256i x, bool bf16, float scale) {
  const __m256 lo = centred(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)), 32767.5f, scale), hi = centred(_mm256_srli_epi32(x, 16), 32767.5f, scale);
  if (bf16) return _mm256_blend_epi16(_mm256_srli_epi32(bf16_high(lo), 16), bf16_high(hi), 0xaa);
  return _mm256_or_si256(f16_low(lo), _mm256_slli_epi32(f16_low(hi), 16));
}

// As ti_syn_fill, n a multiple of LANES and the kind TI_SYN_WEIGHT.
WIDE void fill_wide(const ti_syn_gen *g, uint64_t b, uint64_t n, unsigned char *dst) {
  const uint8_t *restrict e4m3_of = g->e4m3_of;
  const float scale16 = g->amp * (1.0f / 32768.0f), scale32 = g->amp * (1.0f / 4194304.0f);
  for (uint64_t i = 0; i < n; i += LANES, dst += LANES * TI_SYN_BLOCK) {
    lanes r = draw(g, b + i);
    for (int w = 0; w < 4 && g->dtype != TI_E4M3; w++) {
      if (g->dtype == TI_F32)
        r.v[w] = _mm256_castps_si256(centred(_mm256_srli_epi32(r.v[w], 9), 4194303.5f, scale32));
      else
        r.v[w] = convert16(r.v[w], g->dtype == TI_BF16, scale16);
    }
    if (g->dtype != TI_E4M3) {
      store(r, dst);
    } else {
      unsigned char raw[LANES * TI_SYN_BLOCK];
      store(r, raw);
      for (int j = 0; j < LANES * TI_SYN_BLOCK; j++) dst[j] = e4m3_of[raw[j]];
    }
  }
}

static uint64_t fill_head(const ti_syn_gen *g, uint64_t b, uint64_t n, unsigned char *dst) {
  if (g->kind != TI_SYN_WEIGHT || !__builtin_cpu_supports("avx2")) return 0;  // a CPU with AVX2 has F16C
  const uint64_t whole = n / LANES * LANES;
  fill_wide(g, b, whole, dst);
  return whole;
}
#else
static uint64_t fill_head(const ti_syn_gen *g, uint64_t b, uint64_t n, unsigned char *dst) { return 0; }
#endif

void ti_syn_fill(const ti_syn_gen *g, uint64_t b, uint64_t n, unsigned char *dst) {
  for (uint64_t i = fill_head(g, b, n, dst); i < n; i++) fill_block(g, b + i, dst + i * TI_SYN_BLOCK);
}
