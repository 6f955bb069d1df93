// See names.h: a table of names, one function that says whether a part exists and its shape, and the walk over all of them.
#include "model/names.h"

#include <stdio.h>
#include <string.h>

static const char *const part_names[TI_PART_COUNT][2] = {
#define TI_X(part, name, mixtral) {name, mixtral},
    TI_PART_MAP(TI_X)
#undef TI_X
};

static bool is_global(ti_part p) { return p <= TI_PART_HEAD; }
static bool is_expert(ti_part p) { return p >= TI_PART_EXPERT_GATE; }

// The weight's [rows, cols] of a part in `layer`; rows 0: a vector. false: there is none.
static bool shape_of(const ti_config *c, ti_part p, int layer, int64_t *rows, int64_t *cols) {
  const ti_moe_config *m = &c->moe;
  const bool gqa = c->attn == TI_ATTN_GQA, moe = ti_config_layer_is_moe(c, layer), mtp = layer >= c->n_layer;
  const bool has_shared = moe && m->n_shared > 0;
  const int64_t h = c->hidden, heads = c->n_head, q_dim = heads * c->head_dim, kv_dim = (int64_t)c->n_kv_head * c->head_dim;
  const int64_t shared = (int64_t)m->n_shared * m->ffn;
#define SHAPE(exists, r, k) return *rows = (r), *cols = (k), (exists)
  switch (p) {
    case TI_PART_EMBED:
      SHAPE(true, c->vocab, h);
    case TI_PART_FINAL_NORM:
      SHAPE(true, 0, h);
    case TI_PART_HEAD:
      SHAPE(!c->tie_embeddings, c->vocab, h);
    case TI_PART_ENORM:
      SHAPE(mtp, 0, h);
    case TI_PART_HNORM:
      SHAPE(mtp, 0, h);
    case TI_PART_EH_PROJ:
      SHAPE(mtp, h, 2 * h);
    case TI_PART_SHARED_HEAD_NORM:
      SHAPE(mtp, 0, h);
    case TI_PART_ATTN_NORM:
      SHAPE(true, 0, h);
    case TI_PART_FFN_NORM:
      SHAPE(true, 0, h);
    case TI_PART_Q:
      SHAPE(gqa || c->q_lora == 0, q_dim, h);
    case TI_PART_K:
      SHAPE(gqa, kv_dim, h);
    case TI_PART_V:
      SHAPE(gqa, kv_dim, h);
    case TI_PART_O:
      SHAPE(true, h, gqa ? q_dim : heads * c->v_dim);
    case TI_PART_Q_NORM:
      SHAPE(c->qk_norm, 0, c->head_dim);
    case TI_PART_K_NORM:
      SHAPE(c->qk_norm, 0, c->head_dim);
    case TI_PART_Q_A:
      SHAPE(!gqa && c->q_lora > 0, c->q_lora, h);
    case TI_PART_Q_A_NORM:
      SHAPE(!gqa && c->q_lora > 0, 0, c->q_lora);
    case TI_PART_Q_B:
      SHAPE(!gqa && c->q_lora > 0, q_dim, c->q_lora);
    case TI_PART_KV_A:
      SHAPE(!gqa, c->kv_lora + c->qk_rope, h);
    case TI_PART_KV_A_NORM:
      SHAPE(!gqa, 0, c->kv_lora);
    case TI_PART_KV_B:
      SHAPE(!gqa, heads * (c->qk_nope + c->v_dim), c->kv_lora);
    case TI_PART_GATE:
      SHAPE(!moe, c->ffn, h);
    case TI_PART_UP:
      SHAPE(!moe, c->ffn, h);
    case TI_PART_DOWN:
      SHAPE(!moe, h, c->ffn);
    case TI_PART_ROUTER:
      SHAPE(moe, m->n_expert, h);
    case TI_PART_SHARED_GATE:
      SHAPE(has_shared, shared, h);
    case TI_PART_SHARED_UP:
      SHAPE(has_shared, shared, h);
    case TI_PART_SHARED_DOWN:
      SHAPE(has_shared, h, shared);
    case TI_PART_EXPERT_GATE:
      SHAPE(moe, m->ffn, h);
    case TI_PART_EXPERT_UP:
      SHAPE(moe, m->ffn, h);
    case TI_PART_EXPERT_DOWN:
      SHAPE(moe, h, m->ffn);
    case TI_PART_COUNT:
      break;
  }
#undef SHAPE
  return false;
}

// FP8 checkpoints keep embedding, head, norms, router and the MTP's eh_proj in bf16.
static bool is_quantised(ti_part p, int64_t rows) { return rows > 0 && !is_global(p) && p != TI_PART_EH_PROJ && p != TI_PART_ROUTER; }

static bool has_bias(const ti_config *c, ti_part p) {
  if (p == TI_PART_Q || p == TI_PART_K || p == TI_PART_V) return c->qkv_bias;
  if (p == TI_PART_O) return c->o_bias;
  return (p == TI_PART_GATE || p == TI_PART_UP || p == TI_PART_DOWN) && c->mlp_bias;
}

static void name_of(const ti_config *c, ti_tensor_spec *s) {
  static const char *const fields[TI_FIELD_COUNT] = {"weight", "weight_scale_inv", "bias", "e_score_correction_bias"};
  const bool mixtral = strcmp(c->arch, "MixtralForCausalLM") == 0;
  const char *part = part_names[s->part][mixtral && part_names[s->part][1] ? 1 : 0], *field = fields[s->field];
  if (is_global(s->part))
    snprintf(s->name, sizeof(s->name), "%s.%s", part, field);
  else if (is_expert(s->part))
    snprintf(s->name, sizeof(s->name), "model.layers.%d.%s.experts.%d.%s.%s", s->layer, mixtral ? "block_sparse_moe" : "mlp", s->expert, part, field);
  else
    snprintf(s->name, sizeof(s->name), "model.layers.%d.%s.%s", s->layer, part, field);
}

ti_status ti_tensor_spec_of(const ti_config *c, ti_part part, ti_field field, int layer, int expert, ti_tensor_spec *out) {
  int64_t rows, cols;
  if (!is_global(part) && (layer < 0 || layer >= c->n_layer + c->n_mtp)) return TI_ERR_NOTFOUND;
  if (is_expert(part) && (expert < 0 || expert >= c->moe.n_expert)) return TI_ERR_NOTFOUND;
  if (is_global(part)) layer = -1;
  if (!shape_of(c, part, layer, &rows, &cols)) return TI_ERR_NOTFOUND;
  const bool fp8 = c->weight_dtype == TI_E4M3, quantised = fp8 && is_quantised(part, rows);
  ti_tensor_spec s = {.part = part, .field = field, .layer = layer, .expert = is_expert(part) ? expert : -1, .n_dim = 2, .rows = rows, .cols = cols};
  s.dtype = quantised ? TI_E4M3 : fp8 ? TI_BF16 : c->weight_dtype;
  if (field == TI_FIELD_SCALE) {
    if (!quantised) return TI_ERR_NOTFOUND;
    s.rows = (rows + c->fp8_block_n - 1) / c->fp8_block_n;
    s.cols = (cols + c->fp8_block_k - 1) / c->fp8_block_k;
    s.dtype = TI_F32;
  } else if (field == TI_FIELD_BIAS) {
    if (!has_bias(c, part)) return TI_ERR_NOTFOUND;
    s.cols = rows;
    s.rows = 0;
    s.dtype = fp8 ? TI_BF16 : c->weight_dtype;
  } else if (field == TI_FIELD_SCORE_BIAS) {
    if (part != TI_PART_ROUTER || !c->moe.score_bias) return TI_ERR_NOTFOUND;
    s.cols = rows;
    s.rows = 0;
    s.dtype = TI_F32;
  }
  if (s.rows == 0) {
    s.rows = 1;
    s.n_dim = 1;
  }
  name_of(c, &s);
  *out = s;
  return TI_OK;
}

static ti_status each_field(const ti_config *c, ti_part part, int layer, int expert, ti_tensor_visit visit, void *user) {
  for (int f = 0; f < TI_FIELD_COUNT; f++) {
    ti_tensor_spec s;
    if (ti_tensor_spec_of(c, part, (ti_field)f, layer, expert, &s) != TI_OK) continue;
    const ti_status st = visit(user, &s);
    if (st != TI_OK) return st;
  }
  return TI_OK;
}

ti_status ti_tensor_each(const ti_config *c, ti_tensor_visit visit, void *user) {
  ti_status st = TI_OK;
  for (int p = 0; p <= TI_PART_HEAD && st == TI_OK; p++) st = each_field(c, (ti_part)p, -1, -1, visit, user);
  for (int layer = 0; layer < c->n_layer + c->n_mtp && st == TI_OK; layer++) {
    for (int p = TI_PART_HEAD + 1; p < TI_PART_EXPERT_GATE && st == TI_OK; p++) st = each_field(c, (ti_part)p, layer, -1, visit, user);
    for (int e = 0; e < c->moe.n_expert && st == TI_OK; e++)
      for (int p = TI_PART_EXPERT_GATE; p < TI_PART_COUNT && st == TI_OK; p++) st = each_field(c, (ti_part)p, layer, e, visit, user);
  }
  return st;
}
