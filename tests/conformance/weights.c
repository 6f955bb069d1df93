// Random weights: see weights.h.
#include "weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ref/dequant.h"

enum { BLOCK = 128 };

static void put_f16(uint8_t *p, float v) {
  const uint16_t h = ti_f32_to_f16(v);
  memcpy(p, &h, 2);
}

// One block of random codes with scales of a weight's usual size; where the scale stands depends on the type.
static void random_block(ti_dtype t, uint8_t *p, const int32_t *bytes, float d) {
  const int n = ti_dtype_block_bytes(t);
  for (int i = 0; i < n; i++) p[i] = (uint8_t)bytes[i];
  if (t == TI_Q6_K) {
    put_f16(p + 208, d / 32);
    return;
  }
  put_f16(p, t == TI_Q4_K || t == TI_Q5_K ? d / 32 : t == TI_Q8_0 ? d / 16 : d);
  if (t == TI_Q4_1 || t == TI_Q5_1) put_f16(p + 2, -8 * d);
  if (t == TI_Q4_K || t == TI_Q5_K) put_f16(p + 2, d / 4);
}

static void random_row(cf_dev *d, ti_dtype t, uint8_t *row, int64_t k, uint64_t seed) {
  const int64_t n_block = k / ti_dtype_block(t);
  const int bytes = ti_dtype_block_bytes(t);
  const float *x = cf_floats(d, (size_t)n_block, seed, 0.1f);
  const int32_t *raw = cf_ints(d, (size_t)(n_block * bytes), seed + 1, 256);
  for (int64_t i = 0; i < n_block; i++) {
    uint8_t *p = row + i * bytes;
    const uint16_t f16 = ti_f32_to_f16(x[i]), bf16 = ti_f32_to_bf16(x[i]);
    if (t == TI_F32) memcpy(p, &x[i], 4);
    if (t == TI_F16) memcpy(p, &f16, 2);
    if (t == TI_BF16) memcpy(p, &bf16, 2);
    if (t == TI_E4M3) *p = ti_f32_to_e4m3(x[i] * 1000.0f);
    if (ti_dtype_block(t) > 1) random_block(t, p, raw + i * bytes, 0.01f + fabsf(x[i]) * 0.1f);
  }
}

ti_weight_src cf_weight_src(cf_dev *d, ti_dtype t, int64_t n, int64_t k, int row0, int col0, uint64_t seed) {
  size_t row_bytes;
  cr_assert_eq(ti_dtype_size(t, (size_t)k, &row_bytes), TI_OK);
  uint8_t *data = cf_host(d, (size_t)n * row_bytes);
  for (int64_t r = 0; r < n; r++) random_row(d, t, data + (size_t)r * row_bytes, k, seed * 1000003 + (uint64_t)r * 2);
  ti_weight_src s = {.data = data, .dtype = t, .n = n, .k = k};
  if (t != TI_E4M3) return s;
  s.block_n = s.block_k = BLOCK;
  s.row0 = row0;
  s.col0 = col0;
  s.scale_ld = (col0 + k + BLOCK - 1) / BLOCK;
  const int64_t n_scale = (row0 + n + BLOCK - 1) / BLOCK * s.scale_ld;
  float *scale = cf_floats(d, (size_t)n_scale, seed + 99, 1.0f);
  for (int64_t i = 0; i < n_scale; i++) scale[i] = (1.0f + fabsf(scale[i])) / 1000.0f;
  s.scale = scale;
  return s;
}

double *cf_weight_values(cf_dev *d, const ti_weight_src *s) {
  double *w = cf_host(d, (size_t)(s->n * s->k) * sizeof *w);
  float *row = cf_host(d, (size_t)s->k * sizeof *row);
  size_t row_bytes;
  cr_assert_eq(ti_dtype_size(s->dtype, (size_t)(s->ld ? s->ld : s->k), &row_bytes), TI_OK);
  for (int64_t r = 0; r < s->n; r++) {
    ti_ref_dequant_row(s->dtype, (const uint8_t *)s->data + (size_t)r * row_bytes, row, (size_t)s->k);
    for (int64_t c = 0; c < s->k; c++) {
      const double scale = s->scale ? (double)s->scale[(s->row0 + r) / s->block_n * s->scale_ld + (s->col0 + c) / s->block_k] : 1.0;
      w[r * s->k + c] = (double)row[c] * scale;
    }
  }
  return w;
}

bool cf_weight(cf_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, ti_weight *out) {
  size_t bytes = 0;
  const ti_status st = d->k->weight_size(d->d, parts, n_part, flags, &bytes);
  if (st == TI_ERR_UNSUPPORTED) {
    printf("%s: no kernel for %s weights, skipped\n", d->k->name, ti_dtype_name(parts->dtype));
    return false;
  }
  cf_ok(d, "weight_size", st);
  void *mem = bytes ? cf_up(d, cf_host(d, bytes), bytes) : NULL;
  cf_ok(d, "weight_prepare", d->k->weight_prepare(d->d, parts, n_part, flags, mem, out));
  return true;
}
