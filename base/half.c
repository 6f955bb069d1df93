// Small float formats, scalar (see half.h). No state, any thread; assumes the default rounding mode (nearest even).
//
//   f16   s eeeee mmmmmmmmmm   bias 15, subnormals in steps of 2^-24
//   e4m3  s eeee  mmm          bias 7, subnormals in steps of 2^-9, no infinity, s 1111 111 is NaN
//
// A subnormal is rounded by adding the power of two whose last mantissa bit is one step: the addition rounds, the sum's low bits are the answer.
// A normal one is rounded in its bits: add half of the dropped part (less one, plus the kept part's last bit) and let the carry run into the
// exponent.
#include "base/half.h"

float ti_f16_to_f32(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
  if (e == 31) return ti_f32_from_bits(sign | 0x7f800000u | m << 13);
  if (e == 0) {
    const float v = (float)m * 0x1p-24f;
    return ti_f32_from_bits(sign | ti_f32_bits(v));
  }
  return ti_f32_from_bits(sign | (e + 112u) << 23 | m << 13);
}

uint16_t ti_f32_to_f16(float f) {
  const uint32_t u = ti_f32_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x1ffu));  // NaN: made quiet, its payload cut
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                        // from 65520 on: infinity
  if (a < 0x38800000u) return (uint16_t)(sign | (ti_f32_bits(ti_f32_from_bits(a) + 0.5f) - ti_f32_bits(0.5f)));
  return (uint16_t)(sign | (((a + 0xfffu + ((a >> 13) & 1u)) >> 13) - (112u << 10)));
}

float ti_e4m3_to_f32(uint8_t v) { return ti_e4m3_table[v]; }

uint8_t ti_f32_to_e4m3(float f) {
  const uint32_t u = ti_f32_bits(f), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return 0x7f;
  if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);  // from 448 on
  if (a < 0x3c800000u) return (uint8_t)(sign | (ti_f32_bits(ti_f32_from_bits(a) + 0x1p14f) - ti_f32_bits(0x1p14f)));
  return (uint8_t)(sign | (((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - (120u << 3)));
}

// clang-format off
const float ti_e4m3_table[256] = {
    0.0f, 0.001953125f, 0.00390625f, 0.005859375f, 0.0078125f, 0.009765625f, 0.01171875f, 0.013671875f,  // 0x00
    0.015625f, 0.017578125f, 0.01953125f, 0.021484375f, 0.0234375f, 0.025390625f, 0.02734375f, 0.029296875f,  // 0x08
    0.03125f, 0.03515625f, 0.0390625f, 0.04296875f, 0.046875f, 0.05078125f, 0.0546875f, 0.05859375f,  // 0x10
    0.0625f, 0.0703125f, 0.078125f, 0.0859375f, 0.09375f, 0.1015625f, 0.109375f, 0.1171875f,  // 0x18
    0.125f, 0.140625f, 0.15625f, 0.171875f, 0.1875f, 0.203125f, 0.21875f, 0.234375f,  // 0x20
    0.25f, 0.28125f, 0.3125f, 0.34375f, 0.375f, 0.40625f, 0.4375f, 0.46875f,  // 0x28
    0.5f, 0.5625f, 0.625f, 0.6875f, 0.75f, 0.8125f, 0.875f, 0.9375f,  // 0x30
    1.0f, 1.125f, 1.25f, 1.375f, 1.5f, 1.625f, 1.75f, 1.875f,  // 0x38
    2.0f, 2.25f, 2.5f, 2.75f, 3.0f, 3.25f, 3.5f, 3.75f,  // 0x40
    4.0f, 4.5f, 5.0f, 5.5f, 6.0f, 6.5f, 7.0f, 7.5f,  // 0x48
    8.0f, 9.0f, 10.0f, 11.0f, 12.0f, 13.0f, 14.0f, 15.0f,  // 0x50
    16.0f, 18.0f, 20.0f, 22.0f, 24.0f, 26.0f, 28.0f, 30.0f,  // 0x58
    32.0f, 36.0f, 40.0f, 44.0f, 48.0f, 52.0f, 56.0f, 60.0f,  // 0x60
    64.0f, 72.0f, 80.0f, 88.0f, 96.0f, 104.0f, 112.0f, 120.0f,  // 0x68
    128.0f, 144.0f, 160.0f, 176.0f, 192.0f, 208.0f, 224.0f, 240.0f,  // 0x70
    256.0f, 288.0f, 320.0f, 352.0f, 384.0f, 416.0f, 448.0f, __builtin_nanf(""),  // 0x78
    -0.0f, -0.001953125f, -0.00390625f, -0.005859375f, -0.0078125f, -0.009765625f, -0.01171875f, -0.013671875f,  // 0x80
    -0.015625f, -0.017578125f, -0.01953125f, -0.021484375f, -0.0234375f, -0.025390625f, -0.02734375f, -0.029296875f,  // 0x88
    -0.03125f, -0.03515625f, -0.0390625f, -0.04296875f, -0.046875f, -0.05078125f, -0.0546875f, -0.05859375f,  // 0x90
    -0.0625f, -0.0703125f, -0.078125f, -0.0859375f, -0.09375f, -0.1015625f, -0.109375f, -0.1171875f,  // 0x98
    -0.125f, -0.140625f, -0.15625f, -0.171875f, -0.1875f, -0.203125f, -0.21875f, -0.234375f,  // 0xa0
    -0.25f, -0.28125f, -0.3125f, -0.34375f, -0.375f, -0.40625f, -0.4375f, -0.46875f,  // 0xa8
    -0.5f, -0.5625f, -0.625f, -0.6875f, -0.75f, -0.8125f, -0.875f, -0.9375f,  // 0xb0
    -1.0f, -1.125f, -1.25f, -1.375f, -1.5f, -1.625f, -1.75f, -1.875f,  // 0xb8
    -2.0f, -2.25f, -2.5f, -2.75f, -3.0f, -3.25f, -3.5f, -3.75f,  // 0xc0
    -4.0f, -4.5f, -5.0f, -5.5f, -6.0f, -6.5f, -7.0f, -7.5f,  // 0xc8
    -8.0f, -9.0f, -10.0f, -11.0f, -12.0f, -13.0f, -14.0f, -15.0f,  // 0xd0
    -16.0f, -18.0f, -20.0f, -22.0f, -24.0f, -26.0f, -28.0f, -30.0f,  // 0xd8
    -32.0f, -36.0f, -40.0f, -44.0f, -48.0f, -52.0f, -56.0f, -60.0f,  // 0xe0
    -64.0f, -72.0f, -80.0f, -88.0f, -96.0f, -104.0f, -112.0f, -120.0f,  // 0xe8
    -128.0f, -144.0f, -160.0f, -176.0f, -192.0f, -208.0f, -224.0f, -240.0f,  // 0xf0
    -256.0f, -288.0f, -320.0f, -352.0f, -384.0f, -416.0f, -448.0f, -__builtin_nanf(""),  // 0xf8
};
// clang-format on
