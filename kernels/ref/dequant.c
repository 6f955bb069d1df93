// Dequantisation, one function a format. The block types are ggml's (GGUF files): scales are fp16, codes are packed as drawn here.
//
//   Q4_0  d | qs[16]               x[j] = d * ((qs[j] & 15) - 8), x[j + 16] = d * ((qs[j] >> 4) - 8)
//   Q4_1  d | m | qs[16]           d * q + m
//   Q5_0  d | qh[4] | qs[16]       as Q4_0 with bit 4 of element j in bit j of qh, minus 16
//   Q5_1  d | m | qh[4] | qs[16]
//   Q8_0  d | int8 qs[32]
//   Q4_K  d | dmin | sm[12] | qs[128]            256 elements: 8 blocks of 32 with 6-bit scale and minimum, x = d * sc * q - dmin * mn
//   Q5_K  d | dmin | sm[12] | qh[32] | qs[128]   bit b of qh[l]: bit 4 of element l of block b
//   Q6_K  ql[128] | qh[64] | int8 sc[16] | d     16 blocks of 16, x = d * sc * (q - 32)
#include "kernels/ref/dequant.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"

static uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t load_u32(const uint8_t *p) { return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16; }
static float load_f16(const uint8_t *p) { return ti_f16_to_f32(load_u16(p)); }

// The 32-element types: 4 or 5 bits, symmetric or with a minimum.
static void block_32(const uint8_t *p, float *y, bool five, bool has_min) {
  const float d = load_f16(p), m = has_min ? load_f16(p + 2) : 0.0f;
  p += has_min ? 4 : 2;
  const uint32_t high = five ? load_u32(p) : 0;
  p += five ? 4 : 0;
  const int mid = has_min ? 0 : five ? 16 : 8;
  for (int j = 0; j < 16; j++) {
    const int lo = (p[j] & 15) | (int)((high >> j & 1) << 4), hi = (p[j] >> 4) | (int)((high >> (j + 16) & 1) << 4);
    y[j] = d * (float)(lo - mid) + m;
    y[j + 16] = d * (float)(hi - mid) + m;
  }
}

static void block_q8_0(const uint8_t *p, float *y) {
  const float d = load_f16(p);
  for (int j = 0; j < 32; j++) y[j] = d * (float)(int8_t)p[2 + j];
}

// Scale and minimum of 32-element block j out of the 12 packed bytes: 6 bits each, the last four blocks' top bits in the first eight bytes.
static void scale_min(const uint8_t *s, int j, int *sc, int *mn) {
  if (j < 4) {
    *sc = s[j] & 63;
    *mn = s[j + 4] & 63;
  } else {
    *sc = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *mn = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

static void block_q45_k(const uint8_t *p, float *y, bool five) {
  const float d = load_f16(p), dmin = load_f16(p + 2);
  const uint8_t *sm = p + 4, *qh = p + 16, *qs = p + (five ? 48 : 16);
  for (int b = 0; b < 8; b++) {
    int sc, mn;
    scale_min(sm, b, &sc, &mn);
    const float scale = d * (float)sc, low = dmin * (float)mn;
    for (int l = 0; l < 32; l++) {
      const uint8_t byte = qs[b / 2 * 32 + l];
      const int q = (b & 1 ? byte >> 4 : byte & 15) + (five && (qh[l] >> b & 1) ? 16 : 0);
      y[b * 32 + l] = scale * (float)q - low;
    }
  }
}

static void block_q6_k(const uint8_t *p, float *y) {
  const float d = load_f16(p + 208);
  for (int half = 0; half < 2; half++) {
    const uint8_t *ql = p + half * 64, *qh = p + 128 + half * 32;
    const int8_t *sc = (const int8_t *)p + 192 + half * 8;
    for (int i = 0; i < 128; i++) {
      const int l = i % 32, quarter = i / 32;
      const int low = quarter < 2 ? ql[l + quarter * 32] & 15 : ql[l + (quarter - 2) * 32] >> 4;
      const int q = (low | (qh[l] >> (2 * quarter) & 3) << 4) - 32;
      y[half * 128 + i] = d * (float)sc[i / 16] * (float)q;
    }
  }
}

bool ti_ref_can_dequant(ti_dtype t) { return t == TI_F32 || t == TI_F16 || t == TI_BF16 || t == TI_E4M3 || (t >= TI_Q4_0 && t <= TI_Q6_K); }

static void dequant_block(ti_dtype t, const uint8_t *p, float *y) {
  switch (t) {
    case TI_Q4_0:
      block_32(p, y, false, false);
      break;
    case TI_Q4_1:
      block_32(p, y, false, true);
      break;
    case TI_Q5_0:
      block_32(p, y, true, false);
      break;
    case TI_Q5_1:
      block_32(p, y, true, true);
      break;
    case TI_Q8_0:
      block_q8_0(p, y);
      break;
    case TI_Q4_K:
      block_q45_k(p, y, false);
      break;
    case TI_Q5_K:
      block_q45_k(p, y, true);
      break;
    case TI_Q6_K:
      block_q6_k(p, y);
      break;
    case TI_F16:
      *y = load_f16(p);
      break;
    case TI_BF16:
      *y = ti_bf16_to_f32(load_u16(p));
      break;
    case TI_E4M3:
      *y = ti_e4m3_to_f32(*p);
      break;
    default:
      assert(!"a type that ti_ref_can_dequant refuses");
  }
}

void ti_ref_dequant_row(ti_dtype t, const void *src, float *dst, size_t n) {
  if (t == TI_F32) {
    memcpy(dst, src, n * sizeof(float));
    return;
  }
  const size_t block = (size_t)ti_dtype_block(t), bytes = (size_t)ti_dtype_block_bytes(t);
  assert(n % block == 0);
  for (size_t i = 0; i < n / block; i++) dequant_block(t, (const uint8_t *)src + i * bytes, dst + i * block);
}
