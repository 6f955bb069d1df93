// Tiles of 4- to 8-bit block weights (block.h) with activations as int8. Included by gemm_body.h.
//
// Activations: a block of 32 of x has d = amax / 127 and codes round(x / d). For each block of k ascending, in fp32:
//   out = fma(sum of code products (exact, int32), d_x * d_w, out), once or, with two scales, twice; with a minimum, out = fma(m, d_x * sum q_x, out)
// a chain that starts from bias + (out when accumulating) and depends on K alone: a tile may stop at any block and go on from what it wrote.
// A block below 1e-35 counts as zeros; one with a NaN or an infinity gives NaN. Codes may come with x (quant_int8.h is the one rule).
//
// Without quantised activations a piece of a panel is made fp32 (convert_block) and goes through the fp32 tiles.

#include "kernels/cpu/quant_int8.h"

#define QB TI_CPU_BLOCK
#define KQ 2048  // K numbers that are quantised at a time
#define MQ 64    // rows
#define RQ 4     // rows a tile

typedef struct quantised {  // [MQ] rows
  int8_t code[MQ * KQ];
  float d[MQ * (KQ / QB)], sum[MQ * (KQ / QB)];  // sum: what a block's minimum (d_x * sum q) or zero (-zero * sum q) is worth
} quantised;

static void quantise_block(const float *x, int zero, int8_t *code, float *d, float *sum) {
  const float n = (float)vi_hsum(quant_int8(x, code, d));
  *sum = zero ? -(float)zero * n : *d * n;
}

// The same of codes that stand already.
static void take_block(const int8_t *x, float scale, int zero, int8_t *code, float *d, float *sum) {
  const float n = (float)int8_sum(x);
  memcpy(code, x, QB);
  *d = scale;
  *sum = zero ? -(float)zero * n : scale * n;
}

TI_INLINE vf load_scale(const ti_cpu_form f, const uint8_t *p, int i) {
  return f.scale_bytes == 2 ? vf_from_f16((const uint16_t *)(const void *)p + i * VL) : vf_load((const float *)(const void *)p + i * VL);
}
TI_INLINE vi load_codes(const uint8_t *w, int group, int half) { return vi_load(w + (size_t)((2 * group + half) * VL) * 4); }
TI_INLINE vi load_x(const int8_t *x) {  // 4 codes, in every lane
  int32_t v;
  memcpy(&v, x, sizeof v);
  return vi_set1(v);
}

#ifdef TI_VNNI
// vpdpbusd multiplies unsigned codes with signed x and sums four products in int32: a 4-bit block takes one a vector of nibbles. 8-bit codes:
//   unsigned (forms with a minimum)      as they are
//   signed, one scale                    plus 128, which the sum of x takes back, as with `zero` (exact: below 2^24)
//   signed, two scales                   |w| times x with w's sign, since the sum of x is of the whole block
TI_INLINE bool turns_sign(const ti_cpu_form f) { return f.bits == 8 && f.n_scale == 2; }
TI_INLINE bool adds_128(const ti_cpu_form f) { return f.bits == 8 && f.n_scale == 1 && !f.min; }
TI_INLINE int zero_of(const ti_cpu_form f) { return adds_128(f) ? 128 : f.zero; }

// As below. Two sums each, low and high, so that a few rows' products do not wait for each other.
TI_INLINE void dot_block(const int R, const ti_cpu_form f, const uint8_t *w, const int8_t *x, const int k0, const int k1, vi sum[RQ][2]) {
  const int g0 = f.bits == 4 ? 0 : k0 / 4, n = f.bits == 4 ? 4 : (k1 - k0) / 8;  // steps of two groups of 4 k
  vi high[RQ][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = high[r][0] = high[r][1] = vi_set1(0);
#pragma GCC unroll 1
  for (int i = 0; i < n; i++) {
    const int ga = f.bits == 4 ? i : g0 + 2 * i, gb = f.bits == 4 ? i + 4 : ga + 1;
    vi a[2], b[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      a[h] = load_codes(w, ga, h);
      b[h] = f.bits == 4 ? vi_shr(a[h], 4) : load_codes(w, gb, h);
      if (f.bits == 4) {
        a[h] = vi_and(a[h], vi_set1(0x0f0f0f0f));
        b[h] = vi_and(b[h], vi_set1(0x0f0f0f0f));
      } else if (adds_128(f)) {
        a[h] = vi_xor(a[h], vi_set1((int)0x80808080));
        b[h] = vi_xor(b[h], vi_set1((int)0x80808080));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vi xa = load_x(x + r * KQ + 4 * ga), xb = load_x(x + r * KQ + 4 * gb);
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        const bool turn = turns_sign(f);
        sum[r][h] = vi_dot4(sum[r][h], turn ? vi_abs8(a[h]) : a[h], turn ? vi_sign8(xa, a[h]) : xa);
        high[r][h] = vi_dot4(high[r][h], turn ? vi_abs8(b[h]) : b[h], turn ? vi_sign8(xb, b[h]) : xb);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) sum[r][h] = vi_add(sum[r][h], high[r][h]);
}
#else
TI_INLINE int zero_of(const ti_cpu_form f) { return f.zero; }

// Adds the products of groups g (low nibbles) and g + 4 (high) of a 4-bit block with R rows of x, in int16.
TI_INLINE void add_group_4(const int R, const uint8_t *w, const int8_t *x, int g, vi sum[RQ][2]) {
  const vi low = vi_set1(0x0f0f0f0f);
  vi a[2], b[2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    const vi v = load_codes(w, g, h);
    a[h] = vi_and(v, low);
    b[h] = vi_and(vi_shr(v, 4), low);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const vi xa = load_x(x + r * KQ + 4 * g), xb = load_x(x + r * KQ + 16 + 4 * g);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      sum[r][h] = vi_add16(sum[r][h], vi_maddubs(a[h], xa));
      VF_IN_REGISTER(sum[r][h]);  // gcc would add the two products first, and run out of registers
      sum[r][h] = vi_add16(sum[r][h], vi_maddubs(b[h], xb));
      VF_IN_REGISTER(sum[r][h]);
    }
  }
}

// The same of group g of an 8-bit block: |w| times x with w's sign.
TI_INLINE void add_group_8(const int R, const uint8_t *w, const int8_t *x, int g, vi sum[RQ][2]) {
  vi a[2], v[2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    v[h] = load_codes(w, g, h);
    a[h] = vi_abs8(v[h]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const vi q = load_x(x + r * KQ + 4 * g);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) sum[r][h] = vi_add16(sum[r][h], vi_maddubs(a[h], vi_sign8(q, v[h])));
  }
}

// Sums of code products of R rows with codes [k0, k1) of a block of a panel: sum[r][half], int32. Many rows: the groups stay a loop, since gcc would
// multiply all of them first and keep the products in memory.
TI_INLINE void dot_block(const int R, const ti_cpu_form f, const uint8_t *w, const int8_t *x, const int k0, const int k1, vi sum[RQ][2]) {
  const int g0 = f.bits == 4 ? 0 : k0 / 4, g1 = f.bits == 4 ? 4 : k1 / 4, chain = f.bits == 4 ? 4 : f.chain;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = vi_set1(0);
#pragma GCC unroll 1
  for (int g = g0; g < g1; g += chain) {
    vi part[RQ][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) part[r][0] = part[r][1] = vi_set1(0);
    if (R == 1 || chain == 1) {
#pragma GCC unroll 4
      for (int c = 0; c < chain; c++) (f.bits == 4 ? add_group_4 : add_group_8)(R, w, x, g + c, part);
    } else {
#pragma GCC unroll 1
      for (int c = 0; c < chain; c++) (f.bits == 4 ? add_group_4 : add_group_8)(R, w, x, g + c, part);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) sum[r][h] = g1 - g0 > chain ? vi_add(sum[r][h], vi_pairs16(part[r][h])) : vi_pairs16(part[r][h]);
  }
}

#endif

TI_INLINE void run_quant_tile(const int R, const ti_cpu_form f, const tile *t) {
  const size_t step = ti_cpu_block_bytes(f, NR);
  const int64_t n_block = (t->k1 - t->k0) / QB, ldo = t->ldo;
  const uint8_t *w = t->w;
  vf acc[RQ][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) acc[r][h] = t->zero ? vf_zero() : vf_load(t->out + r * ldo + h * VL);
  for (int64_t b = 0; b < n_block; b++, w += step) {
    if (R > 2 && VL == 8) {  // 16 registers: the integer sums need them more, and gcc would not see that
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        VF_IN_MEMORY(acc[r][0]);
        VF_IN_MEMORY(acc[r][1]);
      }
    }
    const uint8_t *scale = w + ti_cpu_code_bytes(f, NR);
    const float *xd = t->xs + b, *xm = t->xsum + b;
#pragma GCC unroll 2
    for (int s = 0; s < f.n_scale; s++) {
      vi sum[RQ][2];
      dot_block(R, f, w, t->xq + b * QB, s * QB / f.n_scale, (s + 1) * QB / f.n_scale, sum);
      const vf d[2] = {load_scale(f, scale, 2 * s), load_scale(f, scale, 2 * s + 1)};
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
          vf v = vi_to_float(sum[r][h]);
          if (zero_of(f)) v = vf_add(v, vf_set1(xm[r * (KQ / QB)]));
          acc[r][h] = vf_fma(v, vf_mul(vf_set1(xd[r * (KQ / QB)]), d[h]), acc[r][h]);
        }
    }
    if (!f.min) continue;
    const vf m[2] = {load_scale(f, scale, 2 * f.n_scale), load_scale(f, scale, 2 * f.n_scale + 1)};
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) acc[r][h] = vf_fma(m[h], vf_set1(xm[r * (KQ / QB)]), acc[r][h]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) vf_store(t->out + r * ldo + h * VL, acc[r][h]);
}

#define QUANT_TILE(i, R) \
  static void quant_tile_##i##_##R(const tile *t) { run_quant_tile(R, ti_cpu_forms[i], t); }
#define QUANT_TILES(i) QUANT_TILE(i, 1) QUANT_TILE(i, 2) QUANT_TILE(i, 3) QUANT_TILE(i, 4)
QUANT_TILES(0)
QUANT_TILES(1)
QUANT_TILES(2)
QUANT_TILES(3)
QUANT_TILES(4)
QUANT_TILES(5)
QUANT_TILES(6)
QUANT_TILES(7)
QUANT_TILES(8)
#define QUANT_ROW(i) \
  { NULL, quant_tile_##i##_1, quant_tile_##i##_2, quant_tile_##i##_3, quant_tile_##i##_4 }
static const tile_fn quant_tiles[][RQ + 1] = {QUANT_ROW(0), QUANT_ROW(1), QUANT_ROW(2), QUANT_ROW(3), QUANT_ROW(4),
                                              QUANT_ROW(5), QUANT_ROW(6), QUANT_ROW(7), QUANT_ROW(8)};
_Static_assert(sizeof quant_tiles / sizeof *quant_tiles == TI_CPU_FORM_COUNT, "a row of tiles for each form");

// ---- to fp32: dst [n][NR], the values of the reference to the bit ----

TI_INLINE void convert_form(const ti_cpu_form f, const uint8_t *src, int64_t n, float *dst) {
  const size_t step = ti_cpu_block_bytes(f, NR);
  for (int64_t k = 0; k < n; k += QB, src += step, dst += QB * NR) {
    const uint8_t *scale = src + ti_cpu_code_bytes(f, NR);
    for (int h = 0; h < 2; h++) {
      const vf m = f.min ? load_scale(f, scale, 2 * f.n_scale + h) : vf_zero();
      const vf d[2] = {load_scale(f, scale, h), load_scale(f, scale, 2 * (f.n_scale - 1) + h)};
      for (int g = 0; g < f.bits; g++) {
        vi v = load_codes(src, g, h);
        float *out = dst + (size_t)g * 4 * NR + h * VL;
        for (int i = 0; i < 4; i++, out += NR, v = vi_shr(v, 8)) {
          if (f.bits == 8) {
            const vf q = vi_to_float(vi_sar(vi_shl(v, 24), 24));
            vf_store(out, f.min ? vf_fma(q, d[g / 4], m) : vf_mul(q, d[g / 4]));
          } else {
            const vi lo = vi_and(v, vi_set1(15)), hi = vi_and(vi_shr(v, 4), vi_set1(15));
            const vf a = vi_to_float(vi_sub(lo, vi_set1(f.zero))), b = vi_to_float(vi_sub(hi, vi_set1(f.zero)));
            vf_store(out, f.min ? vf_fma(a, d[0], m) : vf_mul(a, d[0]));
            vf_store(out + 16 * NR, f.min ? vf_fma(b, d[0], m) : vf_mul(b, d[0]));
          }
        }
      }
    }
  }
}

#define CONVERT(i)                              \
  case i:                                       \
    convert_form(ti_cpu_forms[i], src, n, dst); \
    break;
static void convert_block(int kind, const uint8_t *src, int64_t n, float *dst) {
  switch (kind) {
    CONVERT(0)
    CONVERT(1)
    CONVERT(2)
    CONVERT(3)
    CONVERT(4)
    CONVERT(5)
    CONVERT(6)
    CONVERT(7)
    CONVERT(8)
    default:
      assert(!"a form");
  }
}
