// The conversions against definitions that share no code with them: values by ldexp, rounding by a search over all finite values.
#include <criterion/criterion.h>
#include <math.h>

#include "base/half.h"

// What the bits of a small float say. e_bits, m_bits, bias; special: the top exponent is infinity and NaN.
static double decode(unsigned v, int e_bits, int m_bits, int bias) {
  const int e = (int)(v >> m_bits) & ((1 << e_bits) - 1);
  const int m = (int)v & ((1 << m_bits) - 1);
  const double sign = (v >> (e_bits + m_bits)) & 1 ? -1 : 1;
  return sign * (e ? ldexp((1 << m_bits) + m, e - bias - m_bits) : ldexp(m, 1 - bias - m_bits));
}

Test(half, f16_all_values_decode_and_come_back) {
  for (unsigned v = 0; v < 65536; v++) {
    const float f = ti_f16_to_f32((uint16_t)v);
    if (((v >> 10) & 31) != 31) {
      cr_assert_eq((double)f, decode(v, 5, 10, 15), "%04x", v);
      cr_assert_eq(signbit(f) != 0, v >> 15);
    } else if (v & 0x3ff) {
      cr_assert(isnan(f));
      cr_assert(isnan(ti_f16_to_f32(ti_f32_to_f16(f))));
      continue;
    } else {
      cr_assert(isinf(f));
    }
    cr_assert_eq(ti_f32_to_f16(f), v);
  }
}

Test(half, bf16_all_values_decode_and_come_back) {
  for (unsigned v = 0; v < 65536; v++) {
    const float f = ti_bf16_to_f32((uint16_t)v);
    if (((v >> 7) & 255) != 255) cr_assert_eq((double)f, decode(v, 8, 7, 127));
    if (isnan(f))
      cr_assert(isnan(ti_bf16_to_f32(ti_f32_to_bf16(f))));
    else
      cr_assert_eq(ti_f32_to_bf16(f), v);
  }
}

Test(half, e4m3_all_values_decode_and_come_back) {
  for (unsigned v = 0; v < 256; v++) {
    const float f = ti_e4m3_to_f32((uint8_t)v);
    if ((v & 0x7f) == 0x7f) {
      cr_assert(isnan(f));
      cr_assert_eq(ti_f32_to_e4m3(f), 0x7f);
      continue;
    }
    cr_assert_eq((double)f, decode(v, 4, 3, 7), "%02x", v);
    cr_assert_eq(signbit(f) != 0, v >> 7);
    cr_assert_eq(ti_f32_to_e4m3(f), v);
  }
}

// The nearest of the non-negative codes 0..top, ties to the even code; the codes' values ascend.
static unsigned nearest(float x, unsigned top, int e_bits, int m_bits, int bias) {
  unsigned best = 0;
  double best_d = INFINITY;
  for (unsigned v = 0; v <= top; v++) {
    const double d = fabs(decode(v, e_bits, m_bits, bias) - (double)x);
    if (d < best_d || (d == best_d && v % 2 == 0)) {
      best = v;
      best_d = d;
    }
  }
  return best;
}

Test(half, e4m3_rounds_to_nearest_even) {
  // every float whose low 12 bits are 0 or 1 (ties and their neighbours) between 2^-13 and 1024
  for (uint32_t u = 0x39000000u; u < 0x44800000u; u += 0x1000u) {
    for (int d = -1; d <= 1; d++) {
      const float x = ti_f32_from_bits(u + (uint32_t)d);
      const unsigned want = nearest(x, 0x7e, 4, 3, 7);
      cr_assert_eq(ti_f32_to_e4m3(x), want, "%a", (double)x);
      cr_assert_eq(ti_f32_to_e4m3(-x), want | 0x80);
    }
  }
  cr_assert_eq(ti_f32_to_e4m3(INFINITY), 0x7e);
  cr_assert_eq(ti_f32_to_e4m3(-1e30f), 0xfe);
}

Test(half, f16_rounds_to_nearest_even) {
  // around the middle of every two neighbours, and around every value
  for (unsigned v = 0; v < 0x7bff; v++) {
    const double a = decode(v, 5, 10, 15), b = decode(v + 1, 5, 10, 15);
    const float mid = (float)((a + b) / 2);
    cr_assert_eq(ti_f32_to_f16(mid), v % 2 ? v + 1 : v, "%04x", v);
    cr_assert_eq(ti_f32_to_f16(nextafterf(mid, INFINITY)), v + 1);
    cr_assert_eq(ti_f32_to_f16(nextafterf(mid, 0)), v);
    cr_assert_eq(ti_f32_to_f16(-nextafterf((float)b, 0)), (v + 1) | 0x8000);
  }
  cr_assert_eq(ti_f32_to_f16(65519.99f), 0x7bff);
  cr_assert_eq(ti_f32_to_f16(65520.0f), 0x7c00);
  cr_assert_eq(ti_f32_to_f16(-1e30f), 0xfc00);
  cr_assert_eq(ti_f32_to_f16(1e-30f), 0);
}

Test(half, bf16_rounds_to_nearest_even) {
  for (unsigned v = 0; v < 0x7f7f; v++) {
    const float mid = ti_f32_from_bits(v << 16 | 0x8000);
    cr_assert_eq(ti_f32_to_bf16(mid), v % 2 ? v + 1 : v);
    cr_assert_eq(ti_f32_to_bf16(ti_f32_from_bits(v << 16 | 0x8001)), v + 1);
    cr_assert_eq(ti_f32_to_bf16(ti_f32_from_bits(v << 16 | 0x7fff)), v);
  }
  cr_assert(isnan(ti_bf16_to_f32(ti_f32_to_bf16(ti_f32_from_bits(0x7f800001)))));
}
