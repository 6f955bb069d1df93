// Multi-head latent attention (DeepSeek-V2, section 2.1). The cache holds latent + rope numbers a token, for all heads; two forms attend it:
//
//   xn -> q_a -> norm -> q_b -> [head: q_nope | q_rope]        xn -> kv_a -> [latent | k_rope]; latent normed, k_rope rotated -> cache
//
//   absorbed   W_UK is folded into q and W_UV into the output: q_lat = q_nope W_UK, scores = q_lat . latent + rope(q_rope) . k_rope,
//              out = (softmax(scores) latent) W_UV -> o. A score costs latent + rope products, a value latent: 1,088 in DeepSeek-V3.
//   expanded   keys and values of 512 places at a time = latent W_kv_b, attended by a run's rows, tiles merged by log-sum-exp. A score and a value cost
//              nope + rope + v = 320, but each place first latent * (nope + v) a head, shared by the run's rows.
//
// The rule: a run (a sequence's rows in this step) of TI_MLA_EXPAND_ROWS rows or more is expanded. Both costs grow with the context, so that its length
// does not enter: operation counts say 131,072 / 768 = 171 rows, benchmarks/kernels/lab_mla says 160 to 190 from 512 to 32,768 places. Where the bits
// must not depend on the cut of a prompt into chunks (--deterministic), all is absorbed.
#include "worker/graph/graph.h"

static ti_status project_q(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int n) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const void *x = l->xn;
  ti_status st = TI_OK;
  if (c->q_lora) {
    st = k->gemm(g->d, &(ti_gemm_args){.out = l->wide2, .x = l->xn, .w = &w->q_a, .m = n, .out_dtype = k->act});
    if (!st) st = k->rmsnorm(g->d, &(ti_rmsnorm_args){.out = l->wide2, .x = l->wide2, .weight = w->q_a_norm, .n_row = n, .dim = c->q_lora, .eps = (float)c->rms_eps});
    x = l->wide2;
  }
  return st ? st : k->gemm(g->d, &(ti_gemm_args){.out = l->wide, .x = x, .w = &w->q_b, .m = n, .out_dtype = k->act});
}

// latent | k_rope of the rows, normed and rotated, to the cache. They stand in wide2 (the low-rank q is used up by then).
static ti_status append_latent(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer, int n) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const ti_batch *b = &l->batch.batch;
  const int64_t ld = c->kv_lora + c->qk_rope;
  void *latent = l->wide2, *k_rope = ti_row(g, latent, 1, c->kv_lora);
  ti_status st = k->gemm(g->d, &(ti_gemm_args){.out = latent, .x = l->xn, .w = &w->kv_a, .m = n, .out_dtype = k->act});
  if (!st)
    st = k->rmsnorm(g->d, &(ti_rmsnorm_args){.out = latent, .x = latent, .weight = w->kv_a_norm, .n_row = n, .dim = c->kv_lora, .ldx = ld, .ldo = ld, .eps = (float)c->rms_eps});
  if (!st)
    st = k->rope(g->d, &(ti_rope_args){.x = k_rope, .position = b->position, .inv_freq = g->inv_freq, .n_row = n, .n_head = 1, .head_dim = c->qk_rope,
                                       .rope_dim = c->qk_rope, .ld = ld, .attn_factor = g->attn_factor, .interleaved = c->rope.interleaved});
  if (!st)
    st = k->kv_append(g->d, &(ti_kv_append_args){.layout = &g->layout, .kv = g->kv, .layer = layer, .batch = b, .k = latent, .v = k_rope, .ldk = ld, .ldv = ld});
  return st;
}

// wide2 [n_row, n_head, v] of the runs that are not expanded; the others' rows attend nothing and become zeros.
static ti_status absorbed(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const int nh = g->w.heads.n_head, n = l->batch.batch.n_row, qd = c->qk_nope + c->qk_rope;
  const int64_t ldq = (int64_t)nh * qd;
  ti_batch b = l->batch.batch;
  if (l->batch.n_long) b.seq_kv_len = l->batch.kv_short;
  ti_status st = k->gemm_heads(g->d, &(ti_gemm_heads_args){.out = l->q_lat, .x = l->wide, .w = w->uk, .m = n, .n_head = nh, .ldx = ldq, .hdx = qd,
                                                           .ldo = (int64_t)nh * c->kv_lora, .hdo = c->kv_lora});
  ti_graph_progress(g);
  if (!st)
    st = k->mla_attention(g->d, &(ti_mla_attention_args){.out = l->o_lat, .q_lat = l->q_lat, .q_rope = ti_row(g, l->wide, 1, c->qk_nope), .kv = g->kv, .layout = &g->layout,
                                                         .batch = &b, .layer = layer, .n_head = nh, .scale = (float)c->softmax_scale, .ldr = ldq, .hdr = qd});
  ti_graph_progress(g);
  return st ? st : k->gemm_heads(g->d, &(ti_gemm_heads_args){.out = l->wide2, .x = l->o_lat, .w = w->uv, .m = n, .n_head = nh, .ldx = (int64_t)nh * c->kv_lora, .hdx = c->kv_lora,
                                                             .ldo = (int64_t)nh * c->v_dim, .hdo = c->v_dim});
}

// wide2's rows of sequence q.
static ti_status expanded(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer, int q) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const int n = l->batch.h_kv_len[q];
  ti_status st = TI_OK;
  for (int p = 0; !st && p < n; p += TI_MLA_TILE) {
    const int m = n - p < TI_MLA_TILE ? n - p : TI_MLA_TILE;
    st = k->mla_gather(g->d, &(ti_mla_gather_args){.latent = g->mla.latent, .k_rope = g->mla.k_rope, .kv = g->kv, .layout = &g->layout, .batch = &l->batch.batch, .layer = layer,
                                                   .seq = q, .place0 = p, .n = m});
    if (!st) st = k->gemm(g->d, &(ti_gemm_args){.out = g->mla.kv, .x = g->mla.latent, .w = &w->kv_b, .m = m, .out_dtype = k->act});
    if (!st)
      st = k->mla_tile(g->d, &(ti_mla_tile_args){.out = l->wide2, .acc = g->mla.acc, .state = g->mla.state, .q = l->wide, .kv = g->mla.kv, .k_rope = g->mla.k_rope, .batch = &l->batch.batch,
                                                 .seq = q, .place0 = p, .n = m, .n_head = g->w.heads.n_head, .nope = c->qk_nope, .rope = c->qk_rope, .v_dim = c->v_dim,
                                                 .scale = (float)c->softmax_scale, .first = p == 0, .last = p + m == n});
    ti_graph_progress(g);
  }
  return st;
}

ti_status ti_graph_attention_mla(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_config *c = g->c;
  const ti_kernels *k = g->k;
  const ti_batch *b = &l->batch.batch;
  const int nh = g->w.heads.n_head, n = b->n_row, qd = c->qk_nope + c->qk_rope;
  const int64_t ldq = (int64_t)nh * qd;
  ti_status st = ti_graph_norm(g, l, w->attn_norm, NULL, NULL);
  ti_graph_tap_act(g, "hidden", layer, l->h, n, c->hidden);
  if (!st) st = project_q(g, l, w, n);
  if (!st)
    st = k->rope(g->d, &(ti_rope_args){.x = l->wide, .position = b->position, .inv_freq = g->inv_freq, .n_row = n, .n_head = nh, .head_dim = qd, .rope_dim = c->qk_rope,
                                       .offset = c->qk_nope, .ld = ldq, .attn_factor = g->attn_factor, .interleaved = c->rope.interleaved});
  ti_graph_progress(g);
  if (!st) st = append_latent(g, l, w, layer, n);
  if (!st && l->batch.n_long < b->n_seq) st = absorbed(g, l, w, layer);
  for (int q = 0; !st && q < l->batch.n_seq && l->batch.n_long; q++)
    if (l->batch.h_kv_short[q] == 0) st = expanded(g, l, w, layer, q);
  if (!st) st = k->gemm(g->d, &(ti_gemm_args){.out = l->t, .x = l->wide2, .w = &w->o, .m = n, .out_dtype = k->act});
  l->pending = true;
  return st;
}
