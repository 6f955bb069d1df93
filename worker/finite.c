// A row is scanned without branches, so that the compiler vectorises it; where it lies is looked for only when there is something to find.
#include "worker/finite.h"

#include <string.h>

// E4M3 has no infinity; 0x7f and 0xff are its NaNs.
static bool bad_e4m3(const uint8_t *x, int64_t n) {
  unsigned bad = 0;
  for (int64_t i = 0; i < n; i++) bad |= (x[i] & 0x7f) == 0x7f;
  return bad != 0;
}

// F16 (mask 0x7c00) and BF16 (0x7f80): all bits of the exponent set is NaN or infinity.
static bool bad_16(const uint16_t *x, int64_t n, uint16_t mask) {
  unsigned bad = 0;
  for (int64_t i = 0; i < n; i++) bad |= (x[i] & mask) == mask;
  return bad != 0;
}

static bool bad_f32(const uint32_t *x, int64_t n) {
  unsigned bad = 0;
  for (int64_t i = 0; i < n; i++) bad |= (x[i] & 0x7f800000u) == 0x7f800000u;
  return bad != 0;
}

// Where the F16 scales of a block stand: `n` of them from byte `at`. n 0: not a block type.
typedef struct block_scales {
  int at, n;
} block_scales;
static block_scales scales_of(ti_dtype t) {
  switch (t) {
    case TI_Q4_0:
    case TI_Q5_0:
    case TI_Q8_0:
      return (block_scales){0, 1};
    case TI_Q4_1:
    case TI_Q5_1:
    case TI_Q4_K:
    case TI_Q5_K:
      return (block_scales){0, 2};  // scale and minimum
    case TI_Q6_K:
      return (block_scales){208, 1};
    default:
      return (block_scales){0, 0};
  }
}

// Numbers [c, c + n) of a row; for block types whole blocks.
static bool bad_span(const ti_weight_src *s, const char *row, int64_t c, int64_t n) {
  const int block = ti_dtype_block(s->dtype), bytes = ti_dtype_block_bytes(s->dtype);
  const char *at = row + c / block * bytes;
  switch (s->dtype) {
    case TI_F32:
      return bad_f32((const uint32_t *)(const void *)at, n);
    case TI_F16:
      return bad_16((const uint16_t *)(const void *)at, n, 0x7c00);
    case TI_BF16:
      return bad_16((const uint16_t *)(const void *)at, n, 0x7f80);
    case TI_E4M3:
      return bad_e4m3((const uint8_t *)at, n);
    default:
      break;
  }
  const block_scales b = scales_of(s->dtype);
  unsigned bad = 0;
  for (int64_t i = 0; i < n / block; i++)
    for (int k = 0; k < b.n; k++) {
      uint16_t h;
      memcpy(&h, at + i * bytes + b.at + 2 * k, sizeof h);
      bad |= (h & 0x7c00) == 0x7c00;
    }
  return bad != 0;
}

static ti_status check_scales(const ti_weight_src *s, const char *name, ti_error *err) {
  if (!s->scale || s->block_n < 1 || s->block_k < 1) return TI_OK;
  const int64_t rows = (s->row0 + s->n + s->block_n - 1) / s->block_n, cols = (s->col0 + s->k + s->block_k - 1) / s->block_k;
  for (int64_t r = 0; r < rows; r++)
    if (bad_f32((const uint32_t *)(const void *)(s->scale + r * s->scale_ld), cols))
      return ti_error_set(err, TI_ERR_FORMAT,
                          "%s_scale_inv: a scale of this shard's block row %ld is NaN or infinite; --allow-nan loads it all the same", name, (long)r);
  return TI_OK;
}

ti_status ti_weight_check_finite(const ti_weight_src *s, const char *name, ti_error *err) {
  const int block = ti_dtype_block(s->dtype), bytes = ti_dtype_block_bytes(s->dtype);
  const int64_t ld = s->ld ? s->ld : s->k;
  for (int64_t r = 0; r < s->n; r++) {
    const char *row = (const char *)s->data + r * (ld / block) * bytes;
    if (!bad_span(s, row, 0, s->k)) continue;
    int64_t c = 0;
    while (c + block < s->k && !bad_span(s, row, c, block)) c += block;
    return ti_error_set(err, TI_ERR_FORMAT, "%s: the %s in row %ld, column %ld of this shard is NaN or infinite; --allow-nan loads it all the same",
                        name, block > 1 ? "scale of the block" : "weight", (long)r, (long)c);
  }
  return check_scales(s, name, err);
}

ti_status ti_vector_check_finite(const float *x, int64_t n, const char *name, ti_error *err) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, &x[i], sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u)
      return ti_error_set(err, TI_ERR_FORMAT, "%s: number %ld is NaN or infinite; --allow-nan loads it all the same", name, (long)i);
  }
  return TI_OK;
}
