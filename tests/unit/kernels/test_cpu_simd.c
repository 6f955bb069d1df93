// The vector forms of exp, log, sin, cos and of the small floats, against libm in double and base/half.h: exhaustively where there are few values.
// Compiled for AVX2; every test passes without a word on a processor that lacks it.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "base/rng.h"
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/simd_math.h"

#define NEEDS_AVX2 \
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return

static double ulp_of(double x) { return ldexp(1.0, (int)fmax(ilogb(x), -126) - 23); }
static uint32_t next(uint32_t *s) { return *s = *s * 1664525u + 1013904223u; }

Test(cpu_simd, exp_is_within_2_ulp) {
  NEEDS_AVX2;
  double worst = 0.0;
  for (uint32_t i = 0; i < 2000000; i++) {
    float x[VL], y[VL];
    for (int j = 0; j < VL; j++) x[j] = -87.33f + 176.05f * (float)(i * VL + (uint32_t)j) / 16e6f;
    vf_store(y, vf_exp(vf_load(x)));
    for (int j = 0; j < VL; j++) {
      const double want = exp((double)x[j]), off = fabs((double)y[j] - want) / ulp_of(want);
      if (off > worst) worst = off;
    }
  }
  cr_assert_leq(worst, 2.0, "off by %g ulp", worst);
}

Test(cpu_simd, exp_at_the_edges) {
  NEEDS_AVX2;
  const float x[VL] = {-INFINITY, INFINITY, NAN, 0.0f, -88.0f, 89.0f, 88.72f, -0.0f};
  float y[VL];
  vf_store(y, vf_exp(vf_load(x)));
  cr_assert_eq(y[0], 0.0f);
  cr_assert(isinf(y[1]) && y[1] > 0.0f);
  cr_assert(isnan(y[2]));
  cr_assert_eq(y[3], 1.0f);
  cr_assert_eq(y[4], 0.0f);
  cr_assert(isinf(y[5]));
  cr_assert(isfinite(y[6]) && y[6] > 3e38f);
  cr_assert_eq(y[7], 1.0f);
}

Test(cpu_simd, log_is_within_2_ulp) {
  NEEDS_AVX2;
  double worst = 0.0;
  uint32_t seed = 1;
  for (int i = 0; i < 500000; i++) {
    float x[VL], y[VL];
    for (int j = 0; j < VL; j++) {
      x[j] = i & 1 ? ti_u32_to_unit(next(&seed)) : ti_f32_from_bits(0x00800000u + next(&seed) % 0x7f000000u);
      if (i % 7 == 0) x[j] = 1.0f + (float)(int)(next(&seed) >> 20) * 0x1p-20f - 0x1p-9f;  // near 1, where ln is small
    }
    vf_store(y, vf_log(vf_load(x)));
    for (int j = 0; j < VL; j++) {
      const double want = log((double)x[j]), off = want == 0.0 ? fabs((double)y[j]) : fabs((double)y[j] - want) / ulp_of(want);
      if (off > worst) worst = off;
    }
  }
  cr_assert_leq(worst, 2.0, "off by %g ulp", worst);
}

Test(cpu_simd, sin_and_cos_at_large_positions) {
  NEEDS_AVX2;
  float freq[VL];
  for (int j = 0; j < VL; j++) freq[j] = powf(10000.0f, -(float)j / (float)VL);
  double worst = 0.0;
  for (int p = 0; p < 1000000; p += 37) {
    float s[VL], c[VL];
    vf sv, cv;
    vf_sincos_at((float)p, freq, &sv, &cv);
    vf_store(s, sv);
    vf_store(c, cv);
    for (int j = 0; j < VL; j++) {
      const double angle = (double)((float)p * freq[j]);
      worst = fmax(worst, fmax(fabs((double)s[j] - sin(angle)), fabs((double)c[j] - cos(angle))));
    }
  }
  cr_assert_leq(worst, 0x1p-23, "off by %g", worst);
}

Test(cpu_simd, every_bf16_and_f16_reads_as_the_scalar_code) {
  NEEDS_AVX2;
  for (uint32_t i = 0; i < 65536; i += VL) {
    uint16_t h[VL];
    float b[VL], f[VL];
    for (uint32_t j = 0; j < VL; j++) h[j] = (uint16_t)(i + j);
    vf_store(b, vf_from_bf16(h));
    vf_store(f, vf_from_f16(h));
    for (int j = 0; j < VL; j++) {
      const float want = ti_f16_to_f32(h[j]);
      cr_assert_eq(ti_f32_bits(b[j]), ti_f32_bits(ti_bf16_to_f32(h[j])), "bf16 %04x", h[j]);
      cr_assert(isnan(want) ? isnan(f[j]) : ti_f32_bits(f[j]) == ti_f32_bits(want), "f16 %04x", h[j]);
    }
  }
}

Test(cpu_simd, bf16_is_written_as_the_scalar_code_does) {
  NEEDS_AVX2;
  for (uint64_t i = 0; i < (1ull << 32); i += 8 * 251) {  // all exponents, all kept bits, the halfway cases among them
    float x[VL];
    uint16_t h[VL];
    for (uint32_t j = 0; j < VL; j++) x[j] = ti_f32_from_bits(j < 4 ? (uint32_t)i + j : ((uint32_t)i & 0xffff0000u) | (0x7fffu + j - 4));
    vf_to_bf16(h, vf_load(x));
    for (int j = 0; j < VL; j++) cr_assert_eq(h[j], ti_f32_to_bf16(x[j]), "%08x gives %04x", ti_f32_bits(x[j]), h[j]);
  }
}

Test(cpu_simd, every_e4m3_reads_as_the_table) {
  NEEDS_AVX2;
  for (int i = 0; i < 256; i += VL) {
    uint8_t q[2 * VL];
    float y[VL], a[2 * VL], b[2 * VL];
    for (int j = 0; j < 2 * VL; j++) q[j] = (uint8_t)(i + j);
    vf_store(y, vf_from_e4m3(q));
    vf lo, hi;
    vw_e4m3(q, &lo, &hi);
    vf_store(a, lo);
    vf_store(a + VL, hi);
    vw_e4m3_nan(q, &lo, &hi);
    vf_store(b, lo);
    vf_store(b + VL, hi);
    for (int j = 0; j < 2 * VL; j++) {
      const float want = ti_e4m3_table[q[j]];
      if (j < VL) cr_assert(isnan(want) ? isnan(y[j]) : ti_f32_bits(y[j]) == ti_f32_bits(want), "%02x gives %g", q[j], (double)y[j]);
      cr_assert(isnan(want) ? isnan(b[j]) : b[j] * 256.0f == want, "weight %02x gives %g", q[j], (double)b[j]);
      if (!isnan(want)) cr_assert_eq(a[j] * 256.0f, want, "weight %02x gives %g", q[j], (double)a[j]);
    }
  }
}

Test(cpu_simd, e4m3_is_written_as_the_scalar_code_does) {
  NEEDS_AVX2;
  for (uint64_t i = 0; i < (1ull << 32); i += 8 * 509) {
    float x[VL];
    uint8_t q[VL];
    for (uint32_t j = 0; j < VL; j++) x[j] = ti_f32_from_bits(j < 4 ? (uint32_t)i + j : ((uint32_t)i & 0xfff00000u) | (0x7ffffu + j - 4));
    vi_store_u8(q, vf_to_e4m3(vf_load(x)));
    for (int j = 0; j < VL; j++) cr_assert_eq(q[j], ti_f32_to_e4m3(x[j]), "%08x gives %02x", ti_f32_bits(x[j]), q[j]);
  }
}

Test(cpu_simd, eight_sums_have_the_bits_of_one) {
  NEEDS_AVX2;
  uint32_t seed = 3;
  vf v[8];
  float sums[8];
  for (int i = 0; i < 8; i++) {
    float x[VL];
    for (int j = 0; j < VL; j++) x[j] = (float)(int32_t)next(&seed) * (j & 1 ? 1e-3f : 1.0f);
    v[i] = vf_load(x);
  }
  vf_hsum8(v, sums);
  for (int i = 0; i < 8; i++) cr_assert_eq(sums[i], vf_hsum(v[i]), "sum %d", i);
}

Test(cpu_simd, wide_products) {
  NEEDS_AVX2;
  uint32_t seed = 9, a[VL], b[VL], hi[VL], lo[VL];
  for (int n = 0; n < 1000; n++) {
    for (int j = 0; j < VL; j++) {
      a[j] = next(&seed);
      b[j] = next(&seed);
    }
    vi h, l;
    vi_mulhilo(_mm256_loadu_si256((const __m256i *)a), _mm256_loadu_si256((const __m256i *)b), &h, &l);
    _mm256_storeu_si256((__m256i *)hi, h);
    _mm256_storeu_si256((__m256i *)lo, l);
    for (int j = 0; j < VL; j++) {
      const uint64_t p = (uint64_t)a[j] * b[j];
      cr_assert(hi[j] == (uint32_t)(p >> 32) && lo[j] == (uint32_t)p);
    }
  }
}

#ifdef __clang__
#pragma clang attribute pop
#endif
