// Writing and moving KV: append a batch's keys and values at their places, copy parts of pages.
#include <assert.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ref/ref_priv.h"

const uint8_t *ref_kv_page(const void *kv, const ti_kv_layout *l, int layer, const ti_batch *b, int s, int p, int *slot) {
  const int32_t page = b->block_table[(int64_t)s * b->table_stride + p / l->page_tokens];
  *slot = p % l->page_tokens;
  return (const uint8_t *)kv + (size_t)page * l->page_bytes + (size_t)layer * l->layer_bytes;
}

static void store(ti_dtype t, const float *x, int n, uint8_t *dst) {  // F32, BF16
  if (t == TI_F32) {
    memcpy(dst, x, (size_t)n * 4);
    return;
  }
  for (int i = 0; i < n; i++) {
    const uint16_t h = ti_f32_to_bf16(x[i]);
    memcpy(dst + 2 * i, &h, 2);
  }
}

static void append_head(const ti_kv_layout *l, uint8_t *data, uint8_t *scales, int head, int slot, const float *x) {
  uint8_t *dst = data + (size_t)head * l->head_stride + (size_t)slot * l->token_stride;
  if (l->dtype != TI_E4M3) {
    store(l->dtype, x, l->head_dim, dst);
    return;
  }
  float s;
  ref_quant_block_fp8(x, l->head_dim, &s, dst);
  memcpy(scales + ((size_t)head * (size_t)l->page_tokens + (size_t)slot) * sizeof s, &s, sizeof s);
}

static void append_latent(const ti_kv_layout *l, uint8_t *dst, const float *latent, const float *rope) {
  if (l->dtype != TI_E4M3) {
    store(l->dtype, latent, l->latent, dst);
    store(l->dtype, rope, l->rope, dst + (size_t)l->latent * (l->dtype == TI_F32 ? 4 : 2));
    return;
  }
  for (int c = 0; c < l->latent; c += REF_FP8_BLOCK) {
    float s;
    ref_quant_block_fp8(latent + c, REF_FP8_BLOCK, &s, dst + c);
    memcpy(dst + l->latent + c / REF_FP8_BLOCK * 4, &s, sizeof s);
  }
  store(TI_BF16, rope, l->rope, dst + l->latent + l->latent / REF_FP8_BLOCK * 4);
}

ti_status ref_kv_append(ti_dev *d, const ti_kv_append_args *a) {
  const ti_kv_layout *l = a->layout;
  const bool gqa = l->kind == TI_KV_GQA;
  const int64_t ldk = ref_ld(a->ldk, gqa ? (int64_t)l->n_kv_head * l->head_dim : l->latent);
  const int64_t ldv = ref_ld(a->ldv, gqa ? (int64_t)l->n_kv_head * l->head_dim : l->rope);
  for (int r = 0; r < a->batch->n_row; r++) {
    if (a->batch->place[r] < 0) continue;  // padding
    const float *k = (const float *)a->k + r * ldk, *v = (const float *)a->v + r * ldv;
    int slot;
    uint8_t *page = (uint8_t *)ref_kv_page(a->kv, l, a->layer, a->batch, a->batch->seq[r], a->batch->place[r], &slot);
    if (!gqa) {
      append_latent(l, page + (size_t)slot * l->token_stride, k, v);
      continue;
    }
    for (int h = 0; h < l->n_kv_head; h++) {
      append_head(l, page, page + l->k_scale_offset, h, slot, k + (int64_t)h * l->head_dim);
      append_head(l, page + l->v_offset, page + l->v_scale_offset, h, slot, v + (int64_t)h * l->head_dim);
    }
  }
  return TI_OK;
}

// One layer of one page; a token's bytes are contiguous inside a head, and a head's tokens follow each other.
static void copy_layer(const ti_kv_layout *l, uint8_t *dst, const uint8_t *src, int n_token) {
  const size_t bytes = (size_t)n_token * l->token_stride;
  if (l->kind == TI_KV_MLA) {
    memcpy(dst, src, bytes);
    return;
  }
  for (int h = 0; h < 2 * l->n_kv_head; h++) memcpy(dst + (size_t)h * l->head_stride, src + (size_t)h * l->head_stride, bytes);
  if (l->dtype != TI_E4M3) return;
  const size_t row = (size_t)l->page_tokens * sizeof(float);
  for (int h = 0; h < 2 * l->n_kv_head; h++) {
    const size_t at = l->k_scale_offset + (size_t)h * row;
    memcpy(dst + at, src + at, (size_t)n_token * sizeof(float));
  }
}

ti_status ref_copy_pages(ti_dev *d, const ti_copy_pages_args *a) {
  const ti_kv_layout *l = a->layout;
  for (int i = 0; i < a->n; i++) {
    assert(a->src[i] != a->dst[i] && a->n_token[i] >= 0 && a->n_token[i] <= l->page_tokens);
    uint8_t *dst = (uint8_t *)a->kv + (size_t)a->dst[i] * l->page_bytes;
    const uint8_t *src = (const uint8_t *)a->kv + (size_t)a->src[i] * l->page_bytes;
    for (int layer = 0; layer < l->n_layer; layer++)
      copy_layer(l, dst + (size_t)layer * l->layer_bytes, src + (size_t)layer * l->layer_bytes, a->n_token[i]);
  }
  return TI_OK;
}
