// Paged GQA attention in two passes over the keys: the largest score, then the weighted sum of values, places ascending. Scores are computed twice
// instead of kept, so that no scratch is needed. Softmax in fp32; a row that attends nothing gives zeros.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ref/ref_priv.h"

#define MAX_HEAD_DIM 1024  // ti_kv_layout_init's bound

ref_span ref_row_span(const ti_batch *b, int row, int window) {
  const int s = b->seq[row], row0 = b->seq_row0[s], n = b->seq_row0[s + 1] - row0, place = b->place[row];
  ref_span r = {.seq = s, .lo = b->kv_first ? b->kv_first[s] : 0, .hi = place, .own0 = b->place[row0], .own1 = b->place[row0] + n, .mask = ~0ull};
  if (b->mask) {
    assert(n <= 64);
    r.mask = b->mask[row];
  }
  if (r.hi >= b->seq_kv_len[s]) r.hi = b->seq_kv_len[s] - 1;
  if (window > 0 && place - window + 1 > r.lo) r.lo = place - window + 1;
  if (r.lo < 0) r.lo = 0;
  return r;
}

bool ref_span_has(const ref_span *s, int p) {
  if (p < s->own0 || p >= s->own1 || s->mask == ~0ull) return true;
  return s->mask >> (p - s->own0) & 1;
}

// dst[head_dim] = K (or V) of one place and head.
static void load_head(const ti_kv_layout *l, const uint8_t *page, bool v, int head, int slot, float *dst) {
  const uint8_t *src = page + (v ? l->v_offset : 0) + (size_t)head * l->head_stride + (size_t)slot * l->token_stride;
  if (l->dtype == TI_F32) {
    memcpy(dst, src, (size_t)l->head_dim * 4);
  } else if (l->dtype == TI_BF16) {
    for (int i = 0; i < l->head_dim; i++) {
      uint16_t h;
      memcpy(&h, src + 2 * i, 2);
      dst[i] = ti_bf16_to_f32(h);
    }
  } else {
    float s;
    memcpy(&s, page + (v ? l->v_scale_offset : l->k_scale_offset) + ((size_t)head * (size_t)l->page_tokens + (size_t)slot) * 4, 4);
    for (int i = 0; i < l->head_dim; i++) dst[i] = ti_e4m3_to_f32(src[i]) * s;
  }
}

static float score(const ti_attention_args *a, const ref_span *span, int p, int head, const float *q) {
  float k[MAX_HEAD_DIM], acc = 0.0f;
  int slot;
  const uint8_t *page = ref_kv_page(a->kv, a->layout, a->layer, a->batch, span->seq, p, &slot);
  load_head(a->layout, page, false, head, slot, k);
  for (int i = 0; i < a->layout->head_dim; i++) acc += q[i] * k[i];
  return acc * a->scale;
}

static void attend(const ti_attention_args *a, const ref_span *span, int head, const float *q, float *out) {
  const int dim = a->layout->head_dim;
  float max = -INFINITY, sum = 0.0f, v[MAX_HEAD_DIM];
  memset(out, 0, (size_t)dim * sizeof *out);
  for (int p = span->lo; p <= span->hi; p++) {
    if (ref_span_has(span, p)) max = fmaxf(max, score(a, span, p, head, q));
  }
  for (int p = span->lo; p <= span->hi; p++) {
    if (!ref_span_has(span, p)) continue;
    int slot;
    const float e = expf(score(a, span, p, head, q) - max);
    const uint8_t *page = ref_kv_page(a->kv, a->layout, a->layer, a->batch, span->seq, p, &slot);
    load_head(a->layout, page, true, head, slot, v);
    sum += e;
    for (int i = 0; i < dim; i++) out[i] += e * v[i];
  }
  if (sum > 0.0f) {
    for (int i = 0; i < dim; i++) out[i] /= sum;
  }
}

ti_status ref_attention(ti_dev *d, const ti_attention_args *a) {
  const ti_kv_layout *l = a->layout;
  assert(l->kind == TI_KV_GQA && a->n_head % l->n_kv_head == 0 && l->head_dim <= MAX_HEAD_DIM);
  const int64_t packed = (int64_t)a->n_head * l->head_dim, ldq = ref_ld(a->ldq, packed), ldo = ref_ld(a->ldo, packed);
  const int group = a->n_head / l->n_kv_head;
  for (int r = 0; r < a->batch->n_row; r++) {
    const ref_span span = ref_row_span(a->batch, r, a->window);
    for (int h = 0; h < a->n_head; h++) {
      const int64_t at = (int64_t)h * l->head_dim;
      attend(a, &span, h / group, (const float *)a->q + r * ldq + at, (float *)a->out + r * ldo + at);
    }
  }
  return TI_OK;
}
