// Weighted sums of rows: the arithmetic of combine. Blocks of the row stay in the first-level cache; four terms a pass, added strictly from left to
// right.
#include <string.h>

#include "base/half.h"
#include "parallel/expert/exchange_priv.h"

#define BLOCK 1024

static void sum_f32(float *restrict acc, const void *const *term, const float *w, int n, int at, int len) {
  const float *a = (const float *)term[0] + at;
  const float wa = w[0];
  int k = 1;
  if (n >= 2) {
    const float *b = (const float *)term[1] + at;
    const float wb = w[1];
    for (int i = 0; i < len; i++) acc[i] = wa * a[i] + wb * b[i];
    k = 2;
  } else {
    for (int i = 0; i < len; i++) acc[i] = wa * a[i];
  }
  for (; k + 1 < n; k += 2) {
    const float *c = (const float *)term[k] + at, *d = (const float *)term[k + 1] + at;
    const float wc = w[k], wd = w[k + 1];
    for (int i = 0; i < len; i++) acc[i] = (acc[i] + wc * c[i]) + wd * d[i];
  }
  if (k < n) {
    const float *c = (const float *)term[k] + at;
    const float wc = w[k];
    for (int i = 0; i < len; i++) acc[i] += wc * c[i];
  }
}

static void sum_bf16(float *restrict acc, const void *const *term, const float *w, int n, int at, int len) {
  const uint16_t *a = (const uint16_t *)term[0] + at;
  const float wa = w[0];
  for (int i = 0; i < len; i++) acc[i] = wa * ti_bf16_to_f32(a[i]);
  for (int k = 1; k < n; k++) {
    const uint16_t *b = (const uint16_t *)term[k] + at;
    const float wb = w[k];
    for (int i = 0; i < len; i++) acc[i] += wb * ti_bf16_to_f32(b[i]);
  }
}

// One part of a block of the sum.
static void sum_part(const ti_rows *t, int first, int n, int at, int len, ti_dtype dtype, float *restrict acc) {
  if (dtype == TI_F32) {
    sum_f32(acc, t->term + first, t->weight + first, n, at, len);
    return;
  }
  sum_bf16(acc, t->term + first, t->weight + first, n, at, len);
  for (int i = 0; i < len && t->n_part; i++) acc[i] = ti_bf16_to_f32(ti_f32_to_bf16(acc[i]));
}

static void sum_block(const ti_rows *t, int at, int len, ti_dtype dtype, float *restrict acc) {
  float part[BLOCK];
  if (t->n_part == 0) {
    sum_part(t, 0, t->n, at, len, dtype, acc);
    return;
  }
  sum_part(t, 0, t->part_end[0], at, len, dtype, acc);
  for (int p = 1; p < t->n_part; p++) {
    sum_part(t, t->part_end[p - 1], t->part_end[p] - t->part_end[p - 1], at, len, dtype, part);
    for (int i = 0; i < len; i++) acc[i] += part[i];
  }
}

void ti_rows_sum(void *out, const ti_rows *t, int dim, ti_dtype dtype, bool accumulate) {
  float acc[BLOCK];
  if (t->n == 0) {
    if (!accumulate) memset(out, 0, (size_t)dim * (size_t)ti_dtype_block_bytes(dtype));
    return;
  }
  for (int at = 0; at < dim; at += BLOCK) {
    const int len = dim - at < BLOCK ? dim - at : BLOCK;
    if (dtype == TI_F32) {
      float *to = (float *)out + at;
      sum_block(t, at, len, dtype, accumulate ? acc : to);
      for (int i = 0; i < len && accumulate; i++) to[i] += acc[i];
    } else {
      uint16_t *to = (uint16_t *)out + at;
      sum_block(t, at, len, dtype, acc);
      for (int i = 0; i < len && accumulate; i++) acc[i] = ti_bf16_to_f32(to[i]) + acc[i];
      for (int i = 0; i < len; i++) to[i] = ti_f32_to_bf16(acc[i]);
    }
  }
}
