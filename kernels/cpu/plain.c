// Ops that only move or patch memory: copying parts of KV pages, penalties on logits, drawn ids into the slots and out of them.
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_priv.h"

// One layer of one page: a token's bytes are contiguous inside a head, and a head's tokens follow each other.
static void copy_layer(const ti_kv_layout *l, uint8_t *dst, const uint8_t *src, int n_token) {
  const size_t bytes = (size_t)n_token * l->token_stride, scale_row = (size_t)l->page_tokens * sizeof(float);
  if (l->kind == TI_KV_MLA) {
    memcpy(dst, src, bytes);
    return;
  }
  for (int h = 0; h < 2 * l->n_kv_head; h++) {
    const size_t at = (size_t)h * l->head_stride, scale_at = l->k_scale_offset + (size_t)h * scale_row;  // V's scales follow K's
    memcpy(dst + at, src + at, bytes);
    if (l->dtype == TI_E4M3) memcpy(dst + scale_at, src + scale_at, (size_t)n_token * sizeof(float));
  }
}

ti_status ti_cpu_copy_pages(ti_dev *d, const ti_copy_pages_args *a) {
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

static void penalise(const ti_penalty_args *a, const ti_sample_params *p, float *logits) {
  const uint16_t *count = a->out_count ? a->out_count + (int64_t)p->slot * a->vocab + a->first_id : NULL;
  const uint8_t *prompt = a->in_prompt ? a->in_prompt + (int64_t)p->slot * a->vocab + a->first_id : NULL;
  for (int i = 0; i < a->n_id; i++) {
    const int n = count ? count[i] : 0;
    if (n > 0 || (prompt && prompt[i])) logits[i] = logits[i] > 0.0f ? logits[i] / p->repetition : logits[i] * p->repetition;
    if (n > 0) logits[i] = logits[i] - p->frequency * (float)n - p->presence;
  }
}

ti_status ti_cpu_penalties(ti_dev *d, const ti_penalty_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    const ti_sample_params *p = &a->params[r];
    float *logits = a->logits + (int64_t)r * a->n_id;
    if (p->repetition != 1.0f || p->frequency != 0.0f || p->presence != 0.0f) penalise(a, p, logits);
    for (int i = p->bias0; i < p->bias0 + p->n_bias; i++) {
      const int at = a->bias_id[i] - a->first_id;
      if (at < 0 || at >= a->n_id) continue;
      if (isinf(a->bias_value[i]) && !p->suppress_eos) continue;  // the -inf entries are the stop ids, held back until min_tokens
      logits[at] += a->bias_value[i];
    }
  }
  return TI_OK;
}

ti_status ti_cpu_tokens(ti_dev *d, const ti_token_args *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->id[i] < 0 || a->slot[i] < 0) continue;
    a->last[a->slot[i]] = a->id[i];
    if (!a->out_count || !a->counted || !a->counted[a->slot[i]]) continue;
    uint16_t *count = &a->out_count[(int64_t)a->slot[i] * a->vocab + a->id[i]];
    *count = (uint16_t)(*count + (*count < UINT16_MAX));
  }
  return TI_OK;
}

ti_status ti_cpu_feed(ti_dev *d, const ti_feed_args *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->ids[i] == -1) a->ids[i] = a->last[a->slot[i]];
  }
  return TI_OK;
}
