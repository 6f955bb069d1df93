// Loading: one function a piece of the layer, each naming its tensors as Hugging Face does. Nothing is copied that the backend uses as stored.
#include "worker/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "kernels/ref/dequant.h"
#include "model/gguf/gguf_model.h"
#include "worker/finite.h"

typedef struct loader {
  const ti_weights_options *o;
  const ti_config *c;
  ti_weights *w;
  ti_arena tmp;     // generated (or misaligned) tensors on their way into the backend's layout
  char prefix[64];  // "model.layers.3"
  int layer;
  ti_error *err;
} loader;

static ti_status keep_mem(loader *l, size_t bytes, void **out) {
  ti_weights *w = l->w;
  if (w->n_mem == w->cap_mem) {
    const int cap = w->cap_mem ? 2 * w->cap_mem : 64;
    void **p = realloc(w->mem, (size_t)cap * sizeof *p);
    if (!p) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory for the weight table", l->prefix);
    w->mem = p;
    w->cap_mem = cap;
  }
  void *m = w->kernels->alloc(w->dev, bytes);
  if (!m) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: the device has no %zu bytes left for weights (%lu MiB are loaded)", l->prefix, bytes, (unsigned long)(w->bytes >> 20));
  w->mem[w->n_mem++] = m;
  *out = m;
  return TI_OK;
}

static size_t src_bytes(const ti_weight_src *s) {
  size_t n = 0;
  const ti_status st = ti_dtype_size(s->dtype, (size_t)(s->n * s->k), &n);
  return st ? 0 : n;
}

// What the backend uses as stored must stay: the arena that holds it is put aside, and a new one takes its place.
static ti_status keep_tmp(loader *l) {
  ti_weights *w = l->w;
  ti_arena *p = realloc(w->kept, (size_t)(w->n_kept + 1) * sizeof *p);
  if (!p) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory for the arena table", l->prefix);
  w->kept = p;
  w->kept[w->n_kept++] = l->tmp;
  ti_arena_init(&l->tmp, (size_t)1 << 40);
  return TI_OK;
}

// Prepares `n` sources as one matrix. What the backend uses as stored stays where it is (the file, or an arena put aside).
static ti_status prepare(loader *l, const ti_weight_src *parts, int n, unsigned flags, ti_weight *out) {
  ti_weights *w = l->w;
  size_t bytes = 0;
  if (l->o->to_fp8 && !(flags & TI_WEIGHT_EXACT)) flags |= TI_WEIGHT_TO_FP8;
  ti_status st = w->kernels->weight_size(w->dev, parts, n, flags, &bytes);
  if (st) return ti_error_set(l->err, st, "%s: the %s backend has no kernel for %s weights", l->prefix, w->kernels->name, ti_dtype_name(parts[0].dtype));
  void *mem = NULL;
  if (bytes) {
    st = keep_mem(l, bytes, &mem);
    if (st) return st;
  }
  st = w->kernels->weight_prepare(w->dev, parts, n, flags, mem, out);
  if (st) return ti_error_set(l->err, st, "%s: preparing a [%ld, %ld] matrix failed", l->prefix, (long)parts[0].n, (long)parts[0].k);
  if (bytes) {
    w->bytes += bytes;
    ti_arena_reset(&l->tmp);
    return TI_OK;
  }
  for (int i = 0; i < n; i++) w->bytes += src_bytes(&parts[i]);
  return l->tmp.used ? keep_tmp(l) : TI_OK;
}

static ti_status source(loader *l, const char *name, const ti_slice *s, ti_weight_src *out) {
  char full[192];
  snprintf(full, sizeof full, "%s.%s", l->prefix, name);
  const ti_status st = ti_shard_source(l->o->ckpt, l->c, full, s, &l->tmp, out, l->err);
  return st || l->o->allow_nan || l->c->synthetic ? st : ti_weight_check_finite(out, full, l->err);  // generated ones are numbers
}

static ti_status matrix(loader *l, const char *name, ti_slice s, unsigned flags, ti_weight *out) {
  ti_weight_src src;
  const ti_status st = source(l, name, &s, &src);
  return st ? st : prepare(l, &src, 1, flags, out);
}

// A vector of fp32 numbers on the device: elements [i0, i0 + n) of `name`, which has `total`.
static ti_status vector(loader *l, const char *name, int total, int i0, int n, float **out) {
  char full[192];
  snprintf(full, sizeof full, "%s%s%s", l->prefix, l->prefix[0] ? "." : "", name);
  float *host = malloc((size_t)n * sizeof *host);
  if (!host) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory", full);
  void *mem = NULL;
  ti_status st = ti_shard_vector(l->o->ckpt, full, total, i0, n, host, l->err);
  if (!st && !l->o->allow_nan) st = ti_vector_check_finite(host, n, full, l->err);
  if (!st) st = keep_mem(l, (size_t)n * sizeof *host, &mem);
  if (!st) st = l->w->kernels->upload(l->w->dev, mem, host, (size_t)n * sizeof *host);
  free(host);
  if (st) return st;
  l->w->bytes += (size_t)n * sizeof *host;
  *out = mem;
  return TI_OK;
}

static ti_status load_gqa_bias(loader *l, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_shard_heads *h = &l->w->heads;
  const int d = c->head_dim, nq = h->n_head * d, nk = h->n_kv * d;
  char full[192];
  void *mem = NULL;
  float *host = malloc((size_t)(nq + 2 * nk) * sizeof *host);
  if (!host) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory", l->prefix);
  snprintf(full, sizeof full, "%s.self_attn.q_proj.bias", l->prefix);
  ti_status st = ti_shard_vector(l->o->ckpt, full, (int64_t)c->n_head * d, (int64_t)h->head0 * d, nq, host, l->err);
  if (!st && !l->o->allow_nan) st = ti_vector_check_finite(host, nq, full, l->err);
  snprintf(full, sizeof full, "%s.self_attn.k_proj.bias", l->prefix);
  if (!st) st = ti_shard_vector(l->o->ckpt, full, (int64_t)c->n_kv_head * d, (int64_t)h->kv0 * d, nk, host + nq, l->err);
  if (!st && !l->o->allow_nan) st = ti_vector_check_finite(host + nq, nk, full, l->err);
  snprintf(full, sizeof full, "%s.self_attn.v_proj.bias", l->prefix);
  if (!st) st = ti_shard_vector(l->o->ckpt, full, (int64_t)c->n_kv_head * d, (int64_t)h->kv0 * d, nk, host + nq + nk, l->err);
  if (!st && !l->o->allow_nan) st = ti_vector_check_finite(host + nq + nk, nk, full, l->err);
  if (!st) st = keep_mem(l, (size_t)(nq + 2 * nk) * sizeof *host, &mem);
  if (!st) st = l->w->kernels->upload(l->w->dev, mem, host, (size_t)(nq + 2 * nk) * sizeof *host);
  free(host);
  lw->qkv_bias = mem;
  return st;
}

static ti_status load_gqa(loader *l, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_shard_heads *h = &l->w->heads;
  const int64_t d = c->head_dim, hid = c->hidden;
  ti_weight_src p[3];
  ti_slice s = ti_slice_rows(c->n_head * d, hid, h->head0 * d, h->n_head * d);
  ti_status st = source(l, "self_attn.q_proj.weight", &s, &p[0]);
  s = ti_slice_rows(c->n_kv_head * d, hid, h->kv0 * d, h->n_kv * d);
  if (!st) st = source(l, "self_attn.k_proj.weight", &s, &p[1]);
  if (!st) st = source(l, "self_attn.v_proj.weight", &s, &p[2]);
  if (!st) st = prepare(l, p, 3, 0, &lw->qkv);
  if (!st) st = matrix(l, "self_attn.o_proj.weight", ti_slice_cols(hid, c->n_head * d, h->head0 * d, h->n_head * d), 0, &lw->o);
  if (!st && c->qkv_bias) st = load_gqa_bias(l, lw);
  if (!st && c->o_bias) st = vector(l, "self_attn.o_proj.bias", c->hidden, 0, c->hidden, &lw->o_bias);
  if (!st && c->qk_norm) st = vector(l, "self_attn.q_norm.weight", c->head_dim, 0, c->head_dim, &lw->q_norm);
  if (!st && c->qk_norm) st = vector(l, "self_attn.k_norm.weight", c->head_dim, 0, c->head_dim, &lw->k_norm);
  return st;
}

// A row of a plain or block type as fp32.
static void row_of(const ti_weight_src *src, int64_t r, float *out) {
  const int64_t ld = (src->ld ? src->ld : src->k) / ti_dtype_block(src->dtype) * ti_dtype_block_bytes(src->dtype);
  ti_ref_dequant_row(src->dtype, (const char *)src->data + r * ld, out, (size_t)src->k);
}

// A source in 4- to 8-bit blocks as fp32, in the loader's arena: what is transposed has no blocks along its new rows. Others stay as they are.
static ti_status as_numbers(loader *l, ti_weight_src *src) {
  if (ti_dtype_block(src->dtype) == 1) return TI_OK;
  size_t size;
  float *x = ti_size_mul((size_t)src->n, (size_t)src->k * sizeof *x, &size) ? ti_arena_alloc_aligned(&l->tmp, size, 64) : NULL;
  if (!x) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory for a [%ld, %ld] matrix as fp32", l->prefix, (long)src->n, (long)src->k);
  for (int64_t r = 0; r < src->n; r++) row_of(src, r, x + r * src->k);
  *src = (ti_weight_src){.data = x, .dtype = TI_F32, .n = src->n, .k = src->k};
  return TI_OK;
}

#define K_B "self_attn.k_b_proj.weight"
#define V_B "self_attn.v_b_proj.weight"
#define KV_B "self_attn.kv_b_proj.weight"

static ti_slice k_b_slice(const ti_config *c, int64_t head) { return ti_slice_rows((int64_t)c->n_head * c->kv_lora, c->qk_nope, head * c->kv_lora, c->kv_lora); }
static ti_slice v_b_slice(const ti_config *c, int64_t head) { return ti_slice_rows((int64_t)c->n_head * c->v_dim, c->kv_lora, head * c->v_dim, c->v_dim); }

// kv_b_proj [n_head * (nope + v), latent]: of each head the first `nope` rows are W_UK (used transposed: folded into q), the next v rows W_UV.
static ti_status load_mla_absorbed(loader *l, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_shard_heads *h = &l->w->heads;
  const int64_t per = c->qk_nope + c->v_dim, rows = (int64_t)c->n_head * per;
  const bool split = ti_gguf_kv_b_is_split(l->o->ckpt, l->layer);
  lw->uk = ti_arena_calloc(&l->w->host, (size_t)h->n_head, sizeof *lw->uk);
  lw->uv = ti_arena_calloc(&l->w->host, (size_t)h->n_head, sizeof *lw->uv);
  if (!lw->uk || !lw->uv) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory", l->prefix);
  ti_status st = TI_OK;
  for (int i = 0; !st && i < h->n_head; i++) {
    const int64_t head = h->head0 + i, r0 = head * per;
    if (split) {
      st = matrix(l, K_B, k_b_slice(c, head), TI_WEIGHT_EXACT, &lw->uk[i]);
      if (!st) st = matrix(l, V_B, v_b_slice(c, head), TI_WEIGHT_EXACT, &lw->uv[i]);
      continue;
    }
    ti_weight_src src;
    const ti_slice s = ti_slice_rows(rows, c->kv_lora, r0, c->qk_nope);
    st = source(l, KV_B, &s, &src);
    if (!st) st = as_numbers(l, &src);
    if (!st) st = prepare(l, &src, 1, TI_WEIGHT_TRANSPOSE | TI_WEIGHT_EXACT, &lw->uk[i]);
    if (!st) st = matrix(l, KV_B, ti_slice_rows(rows, c->kv_lora, r0 + c->qk_nope, c->v_dim), TI_WEIGHT_EXACT, &lw->uv[i]);
  }
  return st;
}

// This rank's kv_b_proj put together from its halves, as fp32: x [n_head][nope + v][latent].
static ti_status join_kv_b(loader *l, float *row, float *x) {
  const ti_config *c = l->c;
  const int64_t lora = c->kv_lora, nope = c->qk_nope;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < l->w->heads.n_head; i++) {
    const ti_slice ks = k_b_slice(c, l->w->heads.head0 + i), vs = v_b_slice(c, l->w->heads.head0 + i);
    ti_weight_src k, v;
    st = source(l, K_B, &ks, &k);
    if (!st) st = source(l, V_B, &vs, &v);
    for (int64_t r = 0; !st && r < lora; r++) {
      row_of(&k, r, row);
      for (int64_t j = 0; j < nope; j++) x[j * lora + r] = row[j];
    }
    x += nope * lora;
    for (int64_t r = 0; !st && r < c->v_dim; r++, x += lora) row_of(&v, r, x);
  }
  return st;
}

static ti_status load_mla_expanded(loader *l, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_shard_heads *h = &l->w->heads;
  const int64_t per = c->qk_nope + c->v_dim;
  if (!ti_gguf_kv_b_is_split(l->o->ckpt, l->layer)) return matrix(l, KV_B, ti_slice_rows(c->n_head * per, c->kv_lora, h->head0 * per, h->n_head * per), TI_WEIGHT_EXACT, &lw->kv_b);
  const size_t n = (size_t)(h->n_head * per) * (size_t)c->kv_lora;
  float *row = ti_arena_alloc(&l->tmp, (size_t)c->qk_nope * sizeof *row), *x = ti_arena_alloc_aligned(&l->tmp, n * sizeof *x, 64);
  if (!row || !x) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory for " KV_B " as fp32", l->prefix);
  const ti_status st = join_kv_b(l, row, x);
  return st ? st : prepare(l, &(ti_weight_src){.data = x, .dtype = TI_F32, .n = h->n_head * per, .k = c->kv_lora}, 1, TI_WEIGHT_EXACT, &lw->kv_b);
}

static ti_status load_mla(loader *l, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_shard_heads *h = &l->w->heads;
  const int64_t hid = c->hidden, qd = c->qk_nope + c->qk_rope, q_in = c->q_lora ? c->q_lora : hid;
  ti_status st = TI_OK;
  if (c->q_lora) {
    st = matrix(l, "self_attn.q_a_proj.weight", ti_slice_all(c->q_lora, hid), 0, &lw->q_a);
    if (!st) st = vector(l, "self_attn.q_a_layernorm.weight", c->q_lora, 0, c->q_lora, &lw->q_a_norm);
  }
  if (!st)
    st = matrix(l, c->q_lora ? "self_attn.q_b_proj.weight" : "self_attn.q_proj.weight", ti_slice_rows(c->n_head * qd, q_in, h->head0 * qd, h->n_head * qd), 0, &lw->q_b);
  if (!st) st = matrix(l, "self_attn.kv_a_proj_with_mqa.weight", ti_slice_all(c->kv_lora + c->qk_rope, hid), 0, &lw->kv_a);
  if (!st) st = vector(l, "self_attn.kv_a_layernorm.weight", c->kv_lora, 0, c->kv_lora, &lw->kv_a_norm);
  if (!st) st = load_mla_absorbed(l, lw);
  if (!st && l->o->expanded) st = load_mla_expanded(l, lw);
  if (!st) st = matrix(l, "self_attn.o_proj.weight", ti_slice_cols(hid, (int64_t)c->n_head * c->v_dim, (int64_t)h->head0 * c->v_dim, (int64_t)h->n_head * c->v_dim), 0, &lw->o);
  return st;
}

// gate|up and down of one FFN: columns [i0, i0 + n) of its `width`. name: "mlp", "mlp.shared_experts", "mlp.experts.7".
static ti_status load_ffn(loader *l, const char *name, int64_t width, int64_t i0, int64_t n, ti_weight *gate_up, ti_weight *down) {
  const bool mixtral = strstr(name, "block_sparse_moe") != NULL;  // w1 gate, w3 up, w2 down
  char t[96];
  ti_weight_src p[2];
  const ti_slice s = ti_slice_rows(width, l->c->hidden, i0, n);
  snprintf(t, sizeof t, "%s.%s.weight", name, mixtral ? "w1" : "gate_proj");
  ti_status st = source(l, t, &s, &p[0]);
  snprintf(t, sizeof t, "%s.%s.weight", name, mixtral ? "w3" : "up_proj");
  if (!st) st = source(l, t, &s, &p[1]);
  const bool fused = l->w->kernels->gemm_silu_mul && !strstr(name, "experts.");  // routed experts are multiplied in groups
  if (!st) st = prepare(l, p, 2, fused ? TI_WEIGHT_GATE_UP : 0, gate_up);
  snprintf(t, sizeof t, "%s.%s.weight", name, mixtral ? "w2" : "down_proj");
  return st ? st : matrix(l, t, ti_slice_cols(l->c->hidden, width, i0, n), 0, down);
}

static const char *experts_name(const ti_config *c) { return strcmp(c->arch, "MixtralForCausalLM") == 0 ? "block_sparse_moe" : "mlp"; }

static ti_status load_experts(loader *l, int layer, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_placement *p = l->o->placement[layer - c->moe.n_dense_layer];
  const ti_mesh *m = &l->o->mesh;
  const char *mlp = experts_name(c);
  long s0, s1, e0, e1;
  int64_t i0, n;
  char t[64];
  ti_status st = ti_shard_width("moe_intermediate_size", c->moe.ffn, m->etp, ti_mesh_etp_of(m, l->o->worker), 1, &i0, &n, l->err);
  if (st) return st;
  ti_split(p->n_slot, m->ep, ti_mesh_ep_of(m, l->o->worker), &s0, &s1);
  ti_split(p->n_expert, m->ep, ti_mesh_ep_of(m, l->o->worker), &e0, &e1);
  const long end = layer < c->n_layer ? s0 + e1 - e0 : s1;  // the main layers' redundant slots are worker/replicas.c's
  l->w->expert_width = (int)n;
  snprintf(t, sizeof t, "%s.gate.weight", mlp);
  st = matrix(l, t, ti_slice_all(c->moe.n_expert, c->hidden), TI_WEIGHT_EXACT, &lw->router);
  if (!st && c->moe.score_bias) st = vector(l, "mlp.gate.e_score_correction_bias", c->moe.n_expert, 0, c->moe.n_expert, &lw->router_bias);
  if (st) return st;
  lw->experts.gate_up = ti_arena_calloc(&l->w->host, (size_t)(s1 - s0), sizeof(ti_weight));
  lw->experts.down = ti_arena_calloc(&l->w->host, (size_t)(s1 - s0), sizeof(ti_weight));
  if (!lw->experts.gate_up || !lw->experts.down) return ti_error_set(l->err, TI_ERR_NOMEM, "%s: no memory", l->prefix);
  for (long s = s0; !st && s < end; s++) {
    snprintf(t, sizeof t, "%s.experts.%d", mlp, p->slot_expert[s]);
    st = load_ffn(l, t, c->moe.ffn, i0, n, &lw->experts.gate_up[s - s0], &lw->experts.down[s - s0]);
  }
  if (!st && c->moe.n_shared) {
    const int64_t width = (int64_t)c->moe.n_shared * c->moe.ffn;  // whole on every rank: it runs on the rank's own rows
    st = load_ffn(l, "mlp.shared_experts", width, 0, width, &lw->gate_up, &lw->down);
  }
  return st;
}

static ti_status load_layer(loader *l, int layer, ti_layer_weights *lw) {
  const ti_config *c = l->c;
  const ti_mesh *m = &l->o->mesh;
  snprintf(l->prefix, sizeof l->prefix, "model.layers.%d", layer);
  l->layer = layer;
  ti_status st = vector(l, "input_layernorm.weight", c->hidden, 0, c->hidden, &lw->attn_norm);
  if (!st) st = vector(l, "post_attention_layernorm.weight", c->hidden, 0, c->hidden, &lw->ffn_norm);
  if (!st) st = c->attn == TI_ATTN_MLA ? load_mla(l, lw) : load_gqa(l, lw);
  if (st) return st;
  if (ti_config_layer_is_moe(c, layer)) return load_experts(l, layer, lw);
  int64_t i0, n;
  st = ti_shard_width("intermediate_size", c->ffn, m->tp, ti_mesh_tp_of(m, l->o->worker), 1, &i0, &n, l->err);
  if (st) return st;
  l->w->ffn_width = (int)n;
  return load_ffn(l, "mlp", c->ffn, i0, n, &lw->gate_up, &lw->down);
}

static ti_status load_mtp(loader *l, int i, ti_mtp_weights *mw) {
  const ti_config *c = l->c;
  const int layer = c->n_layer + i;
  ti_status st = load_layer(l, layer, &mw->layer);
  if (!st) st = vector(l, "enorm.weight", c->hidden, 0, c->hidden, &mw->enorm);
  if (!st) st = vector(l, "hnorm.weight", c->hidden, 0, c->hidden, &mw->hnorm);
  if (!st) st = vector(l, "shared_head.norm.weight", c->hidden, 0, c->hidden, &mw->norm);
  if (!st) st = matrix(l, "eh_proj.weight", ti_slice_all(c->hidden, 2 * (int64_t)c->hidden), TI_WEIGHT_EXACT, &mw->eh_proj);
  return st;
}

// Logits from bf16 or wider tables are exact; a table in 4- to 8-bit blocks meets quantised activations as every such matrix does.
static unsigned vocabulary_flags(const ti_weight_src *src) { return ti_dtype_block(src->dtype) > 1 ? 0 : TI_WEIGHT_EXACT; }

static ti_status load_vocabulary(loader *l) {
  const ti_config *c = l->c;
  ti_weights *w = l->w;
  const ti_mesh *m = &l->o->mesh;
  long v0, v1;
  ti_split(c->vocab, m->tp, ti_mesh_tp_of(m, l->o->worker), &v0, &v1);
  w->vocab0 = (int)v0;
  w->n_vocab = (int)(v1 - v0);
  ti_weight_src src;
  const ti_slice s = ti_slice_rows(c->vocab, c->hidden, v0, v1 - v0);
  snprintf(l->prefix, sizeof l->prefix, "model.embed_tokens");
  ti_status st = source(l, "weight", &s, &src);
  if (!st) st = prepare(l, &src, 1, vocabulary_flags(&src), &w->embed);
  if (st) return st;
  w->lm_head = w->embed;
  if (!c->tie_embeddings) {
    snprintf(l->prefix, sizeof l->prefix, "lm_head");
    st = source(l, "weight", &s, &src);
    if (!st) st = prepare(l, &src, 1, vocabulary_flags(&src), &w->lm_head);
  }
  snprintf(l->prefix, sizeof l->prefix, "model");
  return st ? st : vector(l, "norm.weight", c->hidden, 0, c->hidden, &w->norm);
}

ti_status ti_weights_load_expert(const ti_weights_options *o, ti_weights *own, int layer, int expert, ti_weight *gate_up, ti_weight *down, ti_error *err) {
  const ti_config *c = o->model;
  if (!own->kernels) {
    *own = (ti_weights){.kernels = o->kernels, .dev = o->dev};
    ti_arena_init(&own->host, (size_t)1 << 20);
  }
  loader l = {.o = o, .c = c, .w = own, .err = err};
  ti_arena_init(&l.tmp, (size_t)1 << 40);
  snprintf(l.prefix, sizeof l.prefix, "model.layers.%d", layer);
  char t[64];
  snprintf(t, sizeof t, "%s.experts.%d", experts_name(c), expert);
  int64_t i0, n;
  ti_status st = ti_shard_width("moe_intermediate_size", c->moe.ffn, o->mesh.etp, ti_mesh_etp_of(&o->mesh, o->worker), 1, &i0, &n, err);
  if (!st) st = load_ffn(&l, t, c->moe.ffn, i0, n, gate_up, down);
  ti_arena_fini(&l.tmp);
  return st;
}

ti_status ti_weights_load(const ti_weights_options *o, ti_weights *out, ti_error *err) {
  const ti_config *c = o->model;
  *out = (ti_weights){.kernels = o->kernels, .dev = o->dev};
  ti_arena_init(&out->host, (size_t)1 << 40);
  loader l = {.o = o, .c = c, .w = out, .err = err};
  ti_arena_init(&l.tmp, (size_t)1 << 40);
  const int n_kv = c->attn == TI_ATTN_MLA ? c->n_head : c->n_kv_head;
  ti_status st = ti_shard_heads_of(c->n_head, n_kv, o->mesh.tp, ti_mesh_tp_of(&o->mesh, o->worker), &out->heads, err);
  if (!st) st = load_vocabulary(&l);
  out->layer = ti_arena_calloc(&out->host, (size_t)c->n_layer, sizeof *out->layer);
  if (!st && !out->layer) st = ti_error_set(err, TI_ERR_NOMEM, "no memory for the layer table");
  for (int i = 0; !st && i < c->n_layer; i++) st = load_layer(&l, i, &out->layer[i]);
  if (!st && o->mtp && c->n_mtp > 0) {
    out->mtp = ti_arena_calloc(&out->host, (size_t)c->n_mtp, sizeof *out->mtp);
    if (!out->mtp) st = ti_error_set(err, TI_ERR_NOMEM, "no memory for the MTP table");
    for (int i = 0; !st && i < c->n_mtp; i++) st = load_mtp(&l, i, &out->mtp[i]);
  }
  ti_arena_fini(&l.tmp);
  if (st) ti_weights_fini(out);
  return st;
}

void ti_weights_fini(ti_weights *w) {
  for (int i = 0; i < w->n_mem; i++) w->kernels->free(w->dev, w->mem[i]);
  for (int i = 0; i < w->n_kept; i++) ti_arena_fini(&w->kept[i]);
  free(w->mem);
  free(w->kept);
  ti_arena_fini(&w->host);
  *w = (ti_weights){0};
}
