// Weighted sums of rows: the arithmetic of combine. Blocks of the row stay in the first-level cache; up to four terms a pass, added strictly from
// left to right.
#include <string.h>

#include "base/half.h"
#include "parallel/expert/exchange_priv.h"

#define BLOCK 1024

#define PASS(sum)                               \
  for (int i = 0; i < len; i++) acc[i] = (sum); \
  break

// acc = (start ? 0 : acc) + w[0] * term[0] + ..: n of 1 to 4.
static void add_f32(float *restrict acc, const void *const *term, const float *w, int n, int at, int len, bool start) {
  const float *a = (const float *)term[0] + at, *b = (const float *)term[n > 1] + at, *c = (const float *)term[n > 2 ? 2 : 0] + at,
              *d = (const float *)term[n > 3 ? 3 : 0] + at;
  const float wa = w[0], wb = w[n > 1], wc = w[n > 2 ? 2 : 0], wd = w[n > 3 ? 3 : 0];
  switch (start ? n : n + 4) {
    case 1:
      PASS(wa * a[i]);
    case 2:
      PASS(wa * a[i] + wb * b[i]);
    case 3:
      PASS((wa * a[i] + wb * b[i]) + wc * c[i]);
    case 4:
      PASS(((wa * a[i] + wb * b[i]) + wc * c[i]) + wd * d[i]);
    case 5:
      PASS(acc[i] + wa * a[i]);
    case 6:
      PASS((acc[i] + wa * a[i]) + wb * b[i]);
    case 7:
      PASS(((acc[i] + wa * a[i]) + wb * b[i]) + wc * c[i]);
    default:
      PASS((((acc[i] + wa * a[i]) + wb * b[i]) + wc * c[i]) + wd * d[i]);
  }
}

static void sum_f32(float *restrict acc, const void *const *term, const float *w, int n, int at, int len, bool start) {
  for (int k = 0; k < n; k += 4) add_f32(acc, term + k, w + k, n - k < 4 ? n - k : 4, at, len, start && k == 0);
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

// A part of one term needs no sum of its own: w * x is its value, added in its turn.
static void sum_parts_f32(const ti_rows *t, int at, int len, float *restrict acc) {
  float part[BLOCK];
  int done = 0, end = t->n_part ? t->part_end[0] : t->n;  // terms in acc; terms that only have to be added, one by one
  for (int p = 1; p < t->n_part; p++) {
    const int first = t->part_end[p - 1], n = t->part_end[p] - first;
    if (n == 1) {
      end = t->part_end[p];
      continue;
    }
    if (end > done) sum_f32(acc, t->term + done, t->weight + done, end - done, at, len, done == 0);
    sum_f32(part, t->term + first, t->weight + first, n, at, len, true);
    for (int i = 0; i < len; i++) acc[i] += part[i];
    done = end = t->part_end[p];
  }
  if (end > done) sum_f32(acc, t->term + done, t->weight + done, end - done, at, len, done == 0);
}

static void sum_parts_bf16(const ti_rows *t, int at, int len, float *restrict acc) {
  float part[BLOCK];
  const int n_part = t->n_part ? t->n_part : 1;
  for (int p = 0; p < n_part; p++) {
    const int first = p ? t->part_end[p - 1] : 0, end = t->n_part ? t->part_end[p] : t->n;
    sum_bf16(part, t->term + first, t->weight + first, end - first, at, len);
    for (int i = 0; i < len && t->n_part; i++) part[i] = ti_bf16_to_f32(ti_f32_to_bf16(part[i]));
    for (int i = 0; i < len; i++) acc[i] = p ? acc[i] + part[i] : part[i];
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
      sum_parts_f32(t, at, len, accumulate ? acc : to);
      for (int i = 0; i < len && accumulate; i++) to[i] += acc[i];
    } else {
      uint16_t *to = (uint16_t *)out + at;
      sum_parts_bf16(t, at, len, acc);
      for (int i = 0; i < len && accumulate; i++) acc[i] = ti_bf16_to_f32(to[i]) + acc[i];
      for (int i = 0; i < len; i++) to[i] = ti_f32_to_bf16(acc[i]);
    }
  }
}
