// Matrix products: x [m, k] times W [n, k]^T, K ascending, fp32.
//
// Two forms of one dot product. Plain: acc += x * w. Blocked, when x is quantised: the codes' products are summed inside every run of K over which
// both the scale of x and that of w are constant, and total += (scale_x * scale_w) * sum. That is what FP8 tensor cores with promotion and int8 dot
// products do.
#include <assert.h>

#include "base/half.h"
#include "kernels/ref/ref_priv.h"

typedef struct row {   // one row of x, as the product sees it
  const float *x;      // [k] values, or codes when scale is set
  const float *scale;  // [ceil(k / block)] or NULL
  int block;
} row;

static float dot_plain(const row *x, const ti_weight *w, int64_t n) {
  const float *v = ref_weight_row(w, n);
  float acc = 0.0f;
  if ((w->layout & REF_LAYOUT_MASK) == REF_LAYOUT_CODES) {
    for (int64_t c = 0; c < w->k; c++) acc += x->x[c] * (v[c] * ref_weight_scale(w, n, c));
  } else {
    for (int64_t c = 0; c < w->k; c++) acc += x->x[c] * v[c];
  }
  return acc;
}

// Where the run that starts at c ends: at the next boundary of x's blocks or of w's.
static int64_t run_end(const row *x, const ti_weight *w, int64_t c) {
  int64_t end = (c / x->block + 1) * x->block;
  if ((w->layout & REF_LAYOUT_MASK) == REF_LAYOUT_CODES) {
    const int64_t wend = ((w->col0 + c) / w->block_k + 1) * w->block_k - w->col0;
    if (wend < end) end = wend;
  }
  return end < w->k ? end : w->k;
}

static float dot_blocked(const row *x, const ti_weight *w, int64_t n) {
  const float *v = ref_weight_row(w, n);
  float total = 0.0f;
  for (int64_t c = 0; c < w->k;) {
    const int64_t end = run_end(x, w, c);
    const float scale = x->scale[c / x->block] * ref_weight_scale(w, n, c);
    float acc = 0.0f;
    for (; c < end; c++) acc += x->x[c] * v[c];
    total += scale * acc;
  }
  return total;
}

static float dot(const row *x, const ti_weight *w, int64_t n) { return x->scale ? dot_blocked(x, w, n) : dot_plain(x, w, n); }

// A row of activations as `w` wants it: as it is, or quantised into the device's scratch.
static row quantise(ti_dev *d, const float *x, const ti_weight *w) {
  const bool codes = (w->layout & REF_LAYOUT_MASK) == REF_LAYOUT_CODES, block_type = ti_dtype_block(w->dtype) > 1;
  if (w->layout & REF_WEIGHT_EXACT) return (row){.x = x};
  if (d->act_quant == TI_ACT_FP8 && codes) {
    assert(w->k <= d->max_k);
    ref_quant_row_fp8(x, w->k, d->xq, d->xs);
    return (row){d->xq, d->xs, REF_FP8_BLOCK};
  }
  if (d->act_quant == TI_ACT_INT8 && block_type) {
    assert(w->k <= d->max_k);
    ref_quant_row_int8(x, w->k, d->xq, d->xs);
    return (row){d->xq, d->xs, REF_INT8_BLOCK};
  }
  return (row){.x = x};
}

// x already quantised by quant_fp8: bytes to floats.
static row decode_fp8(ti_dev *d, const uint8_t *x, const float *scale, const ti_weight *w) {
  assert(w->k <= d->max_k && (w->layout & REF_LAYOUT_MASK) == REF_LAYOUT_CODES && !(w->layout & REF_WEIGHT_EXACT));
  for (int64_t c = 0; c < w->k; c++) d->xq[c] = ti_e4m3_to_f32(x[c]);
  return (row){d->xq, scale, REF_FP8_BLOCK};
}

ti_status ref_gemm(ti_dev *d, const ti_gemm_args *a) {
  const ti_weight *w = a->w;
  assert(a->out_dtype == TI_F32);
  const int64_t ldx = ref_ld(a->ldx, w->k), ldo = ref_ld(a->ldo, w->n), n_scale = (w->k + REF_FP8_BLOCK - 1) / REF_FP8_BLOCK;
  for (int64_t r = 0; r < a->m; r++) {
    const row x =
        a->x_scale ? decode_fp8(d, (const uint8_t *)a->x + r * ldx, a->x_scale + r * n_scale, w) : quantise(d, (const float *)a->x + r * ldx, w);
    float *out = (float *)a->out + r * ldo;
    for (int64_t n = 0; n < w->n; n++) {
      float v = dot(&x, w, n);
      if (a->bias) v += a->bias[n];
      out[n] = a->accumulate ? out[n] + v : v;
    }
  }
  return TI_OK;
}

ti_status ref_gemm_heads(ti_dev *d, const ti_gemm_heads_args *a) {
  const int64_t k = a->w->k, n_out = a->w->n, hdx = ref_ld(a->hdx, k), hdo = ref_ld(a->hdo, n_out);
  const int64_t ldx = ref_ld(a->ldx, a->n_head * hdx), ldo = ref_ld(a->ldo, a->n_head * hdo);
  for (int64_t r = 0; r < a->m; r++) {
    for (int h = 0; h < a->n_head; h++) {
      assert(a->w[h].k == k && a->w[h].n == n_out);
      const row x = {.x = (const float *)a->x + r * ldx + h * hdx};
      float *out = (float *)a->out + r * ldo + h * hdo;
      for (int64_t n = 0; n < n_out; n++) out[n] = dot_plain(&x, &a->w[h], n);
    }
  }
  return TI_OK;
}

ti_status ref_grouped_gemm(ti_dev *d, const ti_grouped_gemm_args *a) {
  for (int e = 0; e < a->n_expert; e++) {
    const ti_weight *w = &a->w[e];
    assert(a->offset[e] + a->count[e] <= a->capacity);
    for (int i = a->offset[e]; i < a->offset[e] + a->count[e]; i++) {
      const void *x = a->rows ? a->rows[i] : (const float *)a->x + i * w->k;
      const ti_status st = ref_gemm(d, &(ti_gemm_args){.out = (float *)a->out + i * w->n, .x = x, .w = w, .m = 1, .out_dtype = TI_F32});
      if (st != TI_OK) return st;
    }
  }
  return TI_OK;
}
