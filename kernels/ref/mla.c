// Absorbed MLA attention: all heads share one latent (which is key and value) and one rotary key a place. Two passes, as attention.c.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ref/ref_priv.h"

#define MAX_LATENT 1024  // ti_kv_layout_init's bounds
#define MAX_ROPE 1024

static float load_bf16(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return ti_bf16_to_f32(h);
}

// dst[latent + rope] = one place's entry.
void ref_mla_entry(const ti_kv_layout *l, const uint8_t *src, float *dst) {
  const int n = l->latent + l->rope;
  if (l->dtype == TI_F32) {
    memcpy(dst, src, (size_t)n * 4);
  } else if (l->dtype == TI_BF16) {
    for (int i = 0; i < n; i++) dst[i] = load_bf16(src + 2 * i);
  } else {
    const uint8_t *rope = src + l->latent + l->latent / REF_FP8_BLOCK * 4;
    for (int i = 0; i < l->latent; i++) {
      float s;
      memcpy(&s, src + l->latent + i / REF_FP8_BLOCK * 4, 4);
      dst[i] = ti_e4m3_to_f32(src[i]) * s;
    }
    for (int i = 0; i < l->rope; i++) dst[l->latent + i] = load_bf16(rope + 2 * i);
  }
}

static float score(const ti_mla_attention_args *a, const float *entry, const float *q_lat, const float *q_rope) {
  float acc = 0.0f;
  for (int i = 0; i < a->layout->latent; i++) acc += q_lat[i] * entry[i];
  for (int i = 0; i < a->layout->rope; i++) acc += q_rope[i] * entry[a->layout->latent + i];
  return acc * a->scale;
}

static void load_place(const ti_mla_attention_args *a, const ref_span *span, int p, float *entry) {
  int slot;
  const uint8_t *page = ref_kv_page(a->kv, a->layout, a->layer, a->batch, span->seq, p, &slot);
  ref_mla_entry(a->layout, page + (size_t)slot * a->layout->token_stride, entry);
}

static void attend(const ti_mla_attention_args *a, const ref_span *span, const float *q_lat, const float *q_rope, float *out) {
  const int latent = a->layout->latent;
  float max = -INFINITY, sum = 0.0f, entry[MAX_LATENT + MAX_ROPE];
  memset(out, 0, (size_t)latent * sizeof *out);
  for (int p = span->lo; p <= span->hi; p++) {
    if (!ref_span_has(span, p)) continue;
    load_place(a, span, p, entry);
    max = fmaxf(max, score(a, entry, q_lat, q_rope));
  }
  for (int p = span->lo; p <= span->hi; p++) {
    if (!ref_span_has(span, p)) continue;
    load_place(a, span, p, entry);
    const float e = expf(score(a, entry, q_lat, q_rope) - max);
    sum += e;
    for (int i = 0; i < latent; i++) out[i] += e * entry[i];
  }
  if (sum > 0.0f) {
    for (int i = 0; i < latent; i++) out[i] /= sum;
  }
}

ti_status ref_mla_attention(ti_dev *d, const ti_mla_attention_args *a) {
  const ti_kv_layout *l = a->layout;
  assert(l->kind == TI_KV_MLA && l->latent <= MAX_LATENT && l->rope <= MAX_ROPE);
  const int64_t hdr = ref_ld(a->hdr, l->rope), ldr = ref_ld(a->ldr, a->n_head * hdr);
  for (int r = 0; r < a->batch->n_row; r++) {
    const ref_span span = ref_row_span(a->batch, r, 0);
    for (int h = 0; h < a->n_head; h++) {
      const int64_t at = ((int64_t)r * a->n_head + h) * l->latent;
      attend(a, &span, (const float *)a->q_lat + at, (const float *)a->q_rope + r * ldr + h * hdr, (float *)a->out + at);
    }
  }
  return TI_OK;
}
