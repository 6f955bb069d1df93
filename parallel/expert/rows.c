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

void ti_rows_sum(void *out, const void *const *term, const float *w, int n, int dim, ti_dtype dtype, bool accumulate) {
  float acc[BLOCK];
  if (n == 0) {
    if (!accumulate) memset(out, 0, (size_t)dim * (size_t)ti_dtype_block_bytes(dtype));
    return;
  }
  for (int at = 0; at < dim; at += BLOCK) {
    const int len = dim - at < BLOCK ? dim - at : BLOCK;
    if (dtype == TI_F32) {
      float *to = (float *)out + at;
      sum_f32(acc, term, w, n, at, len);
      if (accumulate)
        for (int i = 0; i < len; i++) to[i] += acc[i];
      else
        memcpy(to, acc, (size_t)len * sizeof *to);
    } else {
      uint16_t *to = (uint16_t *)out + at;
      sum_bf16(acc, term, w, n, at, len);
      if (accumulate)
        for (int i = 0; i < len; i++) acc[i] = ti_bf16_to_f32(to[i]) + acc[i];
      for (int i = 0; i < len; i++) to[i] = ti_f32_to_bf16(acc[i]);
    }
  }
}
