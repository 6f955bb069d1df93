// Small float formats to and from fp32, scalar: bf16, f16, e4m3fn. The vector forms of the kernels are tested against these.
#ifndef TI_BASE_HALF_H
#define TI_BASE_HALF_H
#include <stdint.h>
#include <string.h>

static inline float ti_f32_from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline uint32_t ti_f32_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
static inline float ti_bf16_to_f32(uint16_t h) { return ti_f32_from_bits((uint32_t)h << 16); }
// Round to nearest even; NaN stays NaN (quiet).
static inline uint16_t ti_f32_to_bf16(float f) {
  const uint32_t u = ti_f32_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float ti_f16_to_f32(uint16_t h);
uint16_t ti_f32_to_f16(float f);  // round to nearest even, overflow to infinity
// OCP e4m3fn: bias 7, no infinity, 0x7f/0xff NaN, largest 448.
float ti_e4m3_to_f32(uint8_t v);
uint8_t ti_f32_to_e4m3(float f);  // round to nearest even, saturating to +-448; NaN -> 0x7f
extern const float ti_e4m3_table[256];

#endif
