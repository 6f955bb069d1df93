// Packing of block weights: ggml's blocks (drawn in kernels/ref/dequant.c) are taken apart into codes, scales and minima of 32 numbers and laid out
// as block.h draws. Runs once, at load time: plain loops, and copies where the file has the bytes in the order that a panel wants.
#include "kernels/cpu/block.h"

#include <string.h>

#include "base/half.h"

typedef struct block {  // 32 numbers of one output: d[0] for the first 16, d[1] for the others
  int8_t code[TI_CPU_BLOCK];
  float d[2], m;
} block;

static uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static float load_f16(const uint8_t *p) { return ti_f16_to_f32(load_u16(p)); }

static void take_32(ti_dtype t, const uint8_t *p, block *b) {  // Q4_0, Q4_1, Q5_0, Q5_1
  const bool five = t == TI_Q5_0 || t == TI_Q5_1, has_min = t == TI_Q4_1 || t == TI_Q5_1;
  const int mid = has_min ? 0 : five ? 16 : 8;
  b->d[0] = load_f16(p);
  b->m = has_min ? load_f16(p + 2) : 0.0f;
  p += has_min ? 4 : 2;
  const uint32_t high = five ? (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16 : 0;
  p += five ? 4 : 0;
  for (int j = 0; j < 16; j++) {
    b->code[j] = (int8_t)(((p[j] & 15) | (int)((high >> j & 1) << 4)) - mid);
    b->code[j + 16] = (int8_t)(((p[j] >> 4) | (int)((high >> (j + 16) & 1) << 4)) - mid);
  }
}

static void take_45_k(const uint8_t *p, int i, bool five, block *b) {  // 32-number block i of 8
  const uint8_t *s = p + 4, *qh = p + 16, *qs = p + (five ? 48 : 16) + i / 2 * 32;
  const int sc = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | (s[i - 4] >> 6) << 4, mn = i < 4 ? s[i + 4] & 63 : (s[i + 4] >> 4) | (s[i] >> 6) << 4;
  b->d[0] = load_f16(p) * (float)sc;
  b->m = -(load_f16(p + 2) * (float)mn);
  for (int l = 0; l < TI_CPU_BLOCK; l++) b->code[l] = (int8_t)((i & 1 ? qs[l] >> 4 : qs[l] & 15) + (five && (qh[l] >> i & 1) ? 16 : 0));
}

static void take_6_k(const uint8_t *p, int i, block *b) {
  const int half = i / 4, quarter = i % 4;
  const uint8_t *ql = p + half * 64 + (quarter & 1) * 32, *qh = p + 128 + half * 32;
  for (int l = 0; l < TI_CPU_BLOCK; l++) b->code[l] = (int8_t)(((quarter < 2 ? ql[l] & 15 : ql[l] >> 4) | (qh[l] >> (2 * quarter) & 3) << 4) - 32);
  for (int j = 0; j < 2; j++) b->d[j] = load_f16(p + 208) * (float)(int8_t)p[192 + 2 * i + j];
  b->m = 0.0f;
}

static void take(ti_dtype t, const uint8_t *row, int64_t i, block *b) {
  const int per = ti_dtype_block(t) / TI_CPU_BLOCK;
  const uint8_t *p = row + i / per * ti_dtype_block_bytes(t);
  if (t == TI_Q6_K) {
    take_6_k(p, (int)(i % per), b);
    return;
  }
  if (t == TI_Q4_K || t == TI_Q5_K) {
    take_45_k(p, (int)(i % per), t == TI_Q5_K, b);
  } else if (t == TI_Q8_0) {
    b->d[0] = load_f16(p);
    b->m = 0.0f;
    memcpy(b->code, p + 2, TI_CPU_BLOCK);
  } else {
    take_32(t, p, b);
  }
  b->d[1] = b->d[0];
}

static void put_scale(const ti_cpu_form f, uint8_t *base, int i, float v) {
  const uint16_t h = ti_f32_to_f16(v);
  memcpy(base + i * f.scale_bytes, f.scale_bytes == 2 ? (const void *)&h : (const void *)&v, (size_t)f.scale_bytes);
}

static float get_scale(const ti_cpu_form f, const uint8_t *base, int i) {
  float v;
  if (f.scale_bytes == 2) return load_f16(base + 2 * i);
  memcpy(&v, base + 4 * i, sizeof v);
  return v;
}

// Where the code of k (0..15 with 4 bits, 0..31 with 8) of `lane` stands: groups of 4 k, each a vector of NR / 2 lanes a half.
static int code_at(int nr, int lane, int k) { return k / 4 * nr * 4 + lane * 4 + k % 4; }

static void put(const ti_cpu_form f, int nr, int lane, const block *b, uint8_t *dst) {
  for (int k = 0; k < TI_CPU_BLOCK; k++) {
    const uint8_t c = (uint8_t)(b->code[k] + f.zero);
    if (f.bits == 8) {
      dst[code_at(nr, lane, k)] = c;
    } else if (k < 16) {
      dst[code_at(nr, lane, k)] = c;
    } else {
      dst[code_at(nr, lane, k - 16)] |= (uint8_t)(c << 4);
    }
  }
  uint8_t *scale = dst + ti_cpu_code_bytes(f, (size_t)nr);
  for (int i = 0; i < f.n_scale; i++) put_scale(f, scale, i * nr + lane, b->d[i]);
  if (f.min) put_scale(f, scale, f.n_scale * nr + lane, b->m);
}

int ti_cpu_block_form(const ti_weight_src *parts, int n_part) {
  int form = 0;
  while (form < TI_CPU_FORM_COUNT - 1 && ti_cpu_forms[form].dtype != parts->dtype) form++;
  for (int i = 1; i < n_part; i++)
    if (parts[i].dtype != parts->dtype) form = TI_CPU_FORM_COUNT - 1;
  return form;
}

// Q4_0, Q4_1 and Q8_0 in their own forms: 4 codes of a lane are 4 bytes of the file, nibbles are paired alike (k and k + 16), scales are fp16.
static void copy_block(const ti_cpu_form f, int nr, int lane, const uint8_t *src, uint8_t *dst) {
  const int n_scale = f.min ? 2 : 1;
  const uint8_t *code = src + 2 * n_scale;
  for (int g = 0; g < f.bits; g++) memcpy(dst + (size_t)g * (size_t)nr * 4 + (size_t)lane * 4, code + 4 * g, 4);
  uint8_t *scale = dst + ti_cpu_code_bytes(f, (size_t)nr);
  for (int i = 0; i < n_scale; i++) memcpy(scale + 2 * (i * nr + lane), src + 2 * i, 2);
}

void ti_cpu_block_pack(int form, int nr, const uint8_t *const *row, const ti_dtype *dtype, int lanes, int64_t n_block, uint8_t *dst) {
  const ti_cpu_form f = ti_cpu_forms[form];
  const size_t step = ti_cpu_block_bytes(f, (size_t)nr);
  const bool copies = f.dtype == TI_Q4_0 || f.dtype == TI_Q4_1 || f.dtype == TI_Q8_0;
  for (int64_t i = 0; i < n_block; i++, dst += step) {
    for (int lane = 0; lane < lanes; lane++) {
      if (copies) {
        copy_block(f, nr, lane, row[lane] + i * ti_dtype_block_bytes(f.dtype), dst);
        continue;
      }
      block b;
      take(dtype[lane], row[lane], i, &b);
      put(f, nr, lane, &b, dst);
    }
  }
}

void ti_cpu_block_row(const ti_weight *w, int nr, int64_t n, float *out) {
  const ti_cpu_form f = ti_cpu_forms[ti_cpu_form_of(w)];
  const size_t step = ti_cpu_block_bytes(f, (size_t)nr);
  const uint8_t *src = (const uint8_t *)w->data + n / nr * w->ld;
  const int lane = (int)(n % nr);
  for (int64_t at = 0; at < w->k; at += TI_CPU_BLOCK, src += step) {
    const uint8_t *scale = src + ti_cpu_code_bytes(f, (size_t)nr);
    const float m = f.min ? get_scale(f, scale, f.n_scale * nr + lane) : 0.0f;
    for (int k = 0; k < TI_CPU_BLOCK; k++) {
      const float d = get_scale(f, scale, (f.n_scale == 2 ? k / 16 : 0) * nr + lane);
      const uint8_t c = src[code_at(nr, lane, f.bits == 4 ? k % 16 : k)];
      const int code = f.bits == 8 ? (int8_t)c : (k < 16 ? c & 15 : c >> 4) - f.zero;
      out[at + k] = d * (float)code + m;
    }
  }
}
