// exp, log, sin and cos on the vectors of simd_*.h. Included after one of them.
#ifndef TI_CPU_SIMD_MATH_H
#define TI_CPU_SIMD_MATH_H
#include <math.h>

// e^x: within 2 ulp for x in [-87.33, 88.72]; 0 below (subnormal results are flushed), +inf above, NaN for NaN. Cody-Waite reduction to
// |r| <= ln2 / 2, Cephes' polynomial of degree 7. 2^n is applied in two factors, so that n = 128 does not overflow early.
TI_INLINE vf vf_exp(vf x) {
  const vf n = vf_round(vf_mul(x, vf_set1(1.44269504088896341f)));
  vf r = vf_fnma(n, vf_set1(0.693359375f), x);
  r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
  vf p = vf_set1(1.9875691500e-4f);
  p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
  p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
  p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
  p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
  p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
  p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
  const vi e = vf_to_int(n), one = vi_set1(127);
  const vi half = vi_sub(vi_shr(vi_add(e, vi_set1(256)), 1), vi_set1(128));  // floor(e / 2) for -256 <= e
  const vf s0 = vi_float(vi_shl(vi_add(half, one), 23)), s1 = vi_float(vi_shl(vi_add(vi_sub(e, half), one), 23));
  p = vf_mul(vf_mul(p, s0), s1);
  p = vf_blend(p, vf_zero(), vf_lt(x, vf_set1(-87.3365f)));
  p = vf_blend(p, vf_set1(INFINITY), vf_gt(x, vf_set1(88.7228f)));
  return vf_blend(x, p, vf_eq(x, x));
}

// ln x for positive normal x, within 2 ulp (Cephes' logf: mantissa in [sqrt(1/2), sqrt(2)), polynomial of degree 9).
TI_INLINE vf vf_log(vf x) {
  const vi u = vf_bits(x);
  vi e = vi_sub(vi_shr(u, 23), vi_set1(126));
  vf m = vi_float(vi_or(vi_and(u, vi_set1(0x007fffff)), vi_set1(0x3f000000)));  // [0.5, 1)
  const vm low = vf_lt(m, vf_set1(0.707106781186547524f));
  e = vi_blend(e, vi_sub(e, vi_set1(1)), low);
  m = vf_sub(vf_blend(m, vf_add(m, m), low), vf_set1(1.0f));
  const vf z = vf_mul(m, m), n = vi_to_float(e);
  vf p = vf_set1(7.0376836292e-2f);
  p = vf_fma(p, m, vf_set1(-1.1514610310e-1f));
  p = vf_fma(p, m, vf_set1(1.1676998740e-1f));
  p = vf_fma(p, m, vf_set1(-1.2420140846e-1f));
  p = vf_fma(p, m, vf_set1(1.4249322787e-1f));
  p = vf_fma(p, m, vf_set1(-1.6668057665e-1f));
  p = vf_fma(p, m, vf_set1(2.0000714765e-1f));
  p = vf_fma(p, m, vf_set1(-2.4999993993e-1f));
  p = vf_fma(p, m, vf_set1(3.3333331174e-1f));
  vf y = vf_mul(vf_mul(m, z), p);
  y = vf_fma(n, vf_set1(-2.12194440e-4f), y);
  y = vf_fma(z, vf_set1(-0.5f), y);
  return vf_fma(n, vf_set1(0.693359375f), vf_add(m, y));
}

// sin and cos of fp32(pos * freq[i]), reduced in double: within 2^-23 for angles below 2^24.
TI_INLINE void vf_sincos_at(float pos, const float *freq, vf *s, vf *c) {
  vf r;
  vi q;
  vf_angle(pos, freq, &r, &q);
  const vf z = vf_mul(r, r);
  vf sp = vf_fma(vf_set1(-1.9515295891e-4f), z, vf_set1(8.3321608736e-3f));
  sp = vf_fma(sp, z, vf_set1(-1.6666654611e-1f));
  sp = vf_fma(vf_mul(sp, z), r, r);
  vf cp = vf_fma(vf_set1(2.443315711809948e-5f), z, vf_set1(-1.388731625493765e-3f));
  cp = vf_fma(cp, z, vf_set1(4.166664568298827e-2f));
  cp = vf_fma(vf_mul(cp, z), z, vf_fma(z, vf_set1(-0.5f), vf_set1(1.0f)));
  const vm odd = vi_eq(vi_and(q, vi_set1(1)), vi_set1(1));
  const vf sign_s = vi_float(vi_shl(vi_and(q, vi_set1(2)), 30)), sign_c = vi_float(vi_shl(vi_and(vi_add(q, vi_set1(1)), vi_set1(2)), 30));
  *s = vf_xor(vf_blend(sp, cp, odd), sign_s);
  *c = vf_xor(vf_blend(cp, sp, odd), sign_c);
}

// e4m3 of x, the bits of ti_f32_to_e4m3: nearest even, saturating, NaN -> 0x7f.
TI_INLINE vi vf_to_e4m3(vf x) {
  const vi u = vf_bits(x), sign = vi_and(vi_shr(u, 24), vi_set1(0x80)), a = vi_and(u, vi_set1(0x7fffffff));
  const vi normal = vi_sub(vi_shr(vi_add(a, vi_add(vi_set1(0x7ffff), vi_and(vi_shr(a, 20), vi_set1(1)))), 20), vi_set1(120 << 3));
  const vi small = vi_sub(vf_bits(vf_add(vi_float(a), vf_set1(0x1p14f))), vf_bits(vf_set1(0x1p14f)));
  vi r = vi_blend(normal, small, vi_gt(vi_set1(0x3c800000), a));
  r = vi_blend(r, vi_set1(0x7e), vi_gt(a, vi_set1(0x43dfffff)));
  r = vi_or(r, sign);
  return vi_blend(r, vi_set1(0x7f), vi_gt(a, vi_set1(0x7f800000)));
}
#endif
