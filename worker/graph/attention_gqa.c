// Grouped-query attention of one layer (Llama, Mistral, Qwen): norm, fused QKV, optional biases and q/k norms, RoPE, KV append, paged attention, output.
#include "worker/graph/graph.h"

ti_qkv_args ti_graph_qkv_args(const ti_graph *g, const ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_config *c = g->c;
  const ti_batch *b = &l->batch.batch;
  const int d = c->head_dim, nq = g->w.heads.n_head, nk = g->w.heads.n_kv;
  const int64_t ld = (int64_t)(nq + 2 * nk) * d;
  void *q = l->wide, *key = ti_row(g, q, 1, (long)nq * d), *value = ti_row(g, key, 1, (long)nk * d);
  return (ti_qkv_args){.gemm = {.out = q, .w = &w->qkv, .bias = w->qkv_bias, .m = b->n_row, .ldo = ld, .out_dtype = g->k->act},
                       .rope = {.rope = {.x = q, .position = b->position, .inv_freq = g->inv_freq, .n_row = b->n_row, .n_head = nq + nk, .head_dim = d, .rope_dim = c->rope.dim, .ld = ld,
                                         .attn_factor = g->attn_factor, .interleaved = c->rope.interleaved},
                                .kv = {.layout = &g->layout, .kv = g->kv, .layer = layer, .batch = b, .k = key, .v = value, .ldk = ld, .ldv = ld}}};
}

// q and k rotated in place, k and v into the cache: in one pass where the backend has it.
static ti_status rotate_and_append(ti_graph *g, const ti_rope_append_args *a) {
  if (g->k->rope_append) return g->k->rope_append(g->d, a);
  const ti_status st = g->k->rope(g->d, &a->rope);  // q and k stand side by side: one call
  return st ? st : g->k->kv_append(g->d, &a->kv);
}

// Qwen3: each head is normed before RoPE. Heads of a row stand side by side, rows ld apart: row by row or head by head, whichever is fewer calls.
static ti_status norm_heads(ti_graph *g, int n_row, int n_head, void *x, int64_t ld, const float *weight) {
  const int d = g->c->head_dim;
  ti_rmsnorm_args a = {.weight = weight, .dim = d, .eps = (float)g->c->rms_eps};
  const bool by_row = n_row <= n_head;
  a.n_row = by_row ? n_head : n_row;
  a.ldx = a.ldo = by_row ? d : ld;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < (by_row ? n_row : n_head); i++) {
    a.x = a.out = ti_row(g, x, i, by_row ? ld : d);
    st = g->k->rmsnorm(g->d, &a);
  }
  return st;
}

static ti_status project(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const int nq = g->w.heads.n_head, n = l->batch.batch.n_row;
  ti_qkv_args a = ti_graph_qkv_args(g, l, w, layer);
  const ti_codes *x8;
  ti_graph_stamp(g, "attention norm", layer);
  ti_status st = ti_graph_norm(g, l, w->attn_norm, &w->qkv, &x8);
  ti_graph_stamp_end(g);
  a.gemm.x = x8 ? (const void *)x8->q : l->xn;
  a.gemm.x_scale = x8 ? x8->scale : NULL;
  ti_graph_stamp(g, "qkv", layer);
  if (!st) st = g->k->gemm(g->d, &a.gemm);
  ti_graph_stamp_end(g);
  if (!st && w->q_norm) st = norm_heads(g, n, nq, a.gemm.out, a.gemm.ldo, w->q_norm);
  if (!st && w->q_norm) st = norm_heads(g, n, g->w.heads.n_kv, (void *)a.rope.kv.k, a.gemm.ldo, w->k_norm);
  ti_graph_progress(g);
  ti_graph_stamp(g, "rope and append", layer);
  if (!st) st = rotate_and_append(g, &a.rope);
  ti_graph_stamp_end(g);
  ti_graph_progress(g);
  return st;
}

ti_status ti_graph_attention_gqa(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const ti_batch *b = &l->batch.batch;
  const int nq = g->w.heads.n_head, n = b->n_row;
  const int64_t ld = (int64_t)(nq + 2 * g->w.heads.n_kv) * c->head_dim;
  ti_status st = l->projected ? TI_OK : ti_graph_chain_qkv(g, l, w, layer);
  if (st == TI_ERR_UNSUPPORTED) st = project(g, l, w, layer);
  l->projected = false;
  ti_graph_tap_act(g, "hidden", layer, l->h, n, c->hidden);
  ti_graph_stamp(g, "attention", layer);
  if (!st)
    st = k->attention(g->d, &(ti_attention_args){.out = l->wide2, .q = l->wide, .kv = g->kv, .layout = &g->layout, .batch = b, .layer = layer, .n_head = nq,
                                                 .scale = (float)c->softmax_scale, .ldq = ld});
  ti_graph_stamp_end(g);
  ti_graph_progress(g);
  if (!st) {
    st = ti_graph_chain(g, l, w, layer);
    if (st != TI_ERR_UNSUPPORTED) return st;
    st = TI_OK;
  }
  ti_graph_stamp(g, "attention out", layer);
  // The output's bias belongs to the sum over tp once: rank 0 adds it.
  if (!st)
    st = k->gemm(g->d, &(ti_gemm_args){.out = l->t, .x = l->wide2, .w = &w->o, .bias = g->tp->rank == 0 ? w->o_bias : NULL, .m = n, .out_dtype = k->act});
  ti_graph_stamp_end(g);
  l->pending = true;
  return st;
}
