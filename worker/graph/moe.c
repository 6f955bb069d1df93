// A mixture-of-experts layer over all workers (DESIGN 7).
//
// Attention leaves partial sums t on the tp ranks. They are reduce-scattered by rows, so that each rank owns rows [own0, own1), routes them, sends each
// to its experts once, and gets the weighted sums back; an all-gather makes h whole again:
//
//   t (partial) --reduce-scatter--> own rows: h += t, xn = norm(h) -> router -> dispatch ... combine -> h += y --all-gather--> h
//                                                        \ shared expert, while the dispatch is in flight
//
// A rank without rows takes part with zero rows.
#include <string.h>

#include "base/clock.h"
#include "worker/graph/graph.h"

// How many numbers of h each tp rank owns.
static void own_counts(const ti_graph *g, const ti_lane *l, size_t *counts) {
  for (int i = 0; i < g->tp->size; i++) {
    long a, b;
    ti_split(l->batch.batch.n_row, g->tp->size, i, &a, &b);
    counts[i] = (size_t)(b - a) * (size_t)g->c->hidden;
  }
}

// Own rows of h get the attention's output and are normed into xn.
static ti_status scatter_and_norm(ti_graph *g, ti_lane *l, const ti_layer_weights *w, void *xn) {
  const int hid = g->c->hidden;
  const long n = l->own1 - l->own0;
  void *h = ti_row(g, l->h, l->own0, hid), *t = l->t;
  if (g->tp->size > 1) {
    const uint64_t t0 = ti_mono_ns();
    size_t counts[TI_GRAPH_RANKS];
    own_counts(g, l, counts);
    t = ti_row(g, l->wide2, 0, hid);
    ti_coll_op op = {.kind = TI_COLL_REDUCE_SCATTER, .dtype = g->k->act, .send = l->t, .recv = t, .counts = counts};
    ti_status st = g->tp->ops->post(g->tp, &op);
    if (!st) st = g->tp->ops->wait(g->tp, &op, TI_GRAPH_WAIT_US);
    if (st) return st;
    g->times.reduce_ns += ti_mono_ns() - t0;
  }
  l->pending = false;
  if (n == 0) return TI_OK;
  return g->k->rmsnorm(g->d, &(ti_rmsnorm_args){.out = xn, .x = t, .residual = h, .weight = w->ffn_norm, .n_row = (int)n, .dim = hid, .eps = (float)g->c->rms_eps});
}

ti_status ti_graph_moe_begin(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_moe_config *m = &g->c->moe;
  const ti_kernels *k = g->k;
  ti_split(l->batch.batch.n_row, g->tp->size, g->tp->rank, &l->own0, &l->own1);
  const int n = (int)(l->own1 - l->own0), hid = g->c->hidden;
  ti_graph_doing(g, "moe: dispatch");
  const uint64_t t0 = ti_mono_ns();
  void *x = ti_exchange_x(g->exchange, l->index);  // where ranks of this host read it
  ti_status st = scatter_and_norm(g, l, w, x);
  if (!st && n) st = k->gemm(g->d, &(ti_gemm_args){.out = l->router_logits, .x = x, .w = &w->router, .m = n, .out_dtype = TI_F32});
  if (!st && n)
    st = k->router(g->d, &(ti_router_args){.experts = l->experts, .weights = l->route_weights, .logits = l->router_logits, .bias = w->router_bias, .n_row = n, .n_expert = m->n_expert,
                                           .n_top = m->n_top, .n_group = m->n_group, .n_top_group = m->n_top_group, .sigmoid = m->router == TI_ROUTER_SIGMOID,
                                           .group_top2 = m->group_top2, .norm = m->norm_topk, .scale = (float)m->scale});
  if (!st) st = k->sync(g->d);
  if (!st && g->cfg->tap && n) {
    ti_graph_tap(g, "moe.experts", layer - m->n_dense_layer, l->experts, n, m->n_top);
    ti_graph_tap(g, "moe.weights", layer - m->n_dense_layer, l->route_weights, n, m->n_top);
  }
  if (!st)
    st = ti_exchange_dispatch_post(g->exchange, &(ti_dispatch_args){.x = x, .experts = l->experts, .weights = l->route_weights, .n_row = n, .micro = l->index, .padded = g->padded, .layer = layer - m->n_dense_layer});
  ti_graph_span(g, l, "route", t0, layer);
  // The shared expert runs while tokens travel; its output waits in t (own rows).
  if (!st && w->gate_up.n) {
    const uint64_t t1 = ti_mono_ns();
    if (n) st = ti_graph_ffn(g, l, w, x, NULL, n, l->t);
    ti_graph_span(g, l, "shared expert", t1, layer);
  } else if (!st && n) {
    st = k->zero(g->d, l->t, (size_t)n * (size_t)hid * g->act_bytes);
  }
  return st;
}

ti_status ti_graph_moe_experts(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_kernels *k = g->k;
  const int width = g->w.expert_width;
  ti_dispatch_out in;
  const uint64_t t0 = ti_mono_ns();
  ti_graph_doing(g, "moe: waiting for dispatched tokens");
  ti_status st = ti_exchange_dispatch_wait(g->exchange, l->index, &in);
  ti_graph_span(g, l, "dispatch", t0, layer);
  if (st) return st;
  if (in.capacity > g->expert_capacity) return TI_ERR_RANGE;
  const int moe_layer = layer - g->c->moe.n_dense_layer;
  for (int i = 0; i < in.n_local && (uint32_t)((moe_layer + 1) * in.n_local) <= g->n_load; i++) g->load[moe_layer * in.n_local + i] += (uint32_t)in.count[i];
  ti_graph_doing(g, "moe: experts");
  const uint64_t t1 = ti_mono_ns();
  st = k->grouped_gemm(g->d, &(ti_grouped_gemm_args){.out = g->expert_gate_up, .rows = in.rows, .w = w->experts.gate_up, .count = in.count, .offset = in.offset, .n_expert = in.n_local,
                                                     .capacity = in.capacity});
  const int rows = in.n_local ? in.offset[in.n_local] : 0;
  if (!st && rows) st = k->silu_mul(g->d, &(ti_silu_mul_args){.out = g->expert_act, .gate_up = g->expert_gate_up, .n_row = rows, .dim = width});
  ti_graph_progress(g);
  if (!st)
    st = k->grouped_gemm(g->d, &(ti_grouped_gemm_args){.out = l->expert_out, .x = g->expert_act, .w = w->experts.down, .count = in.count, .offset = in.offset, .n_expert = in.n_local,
                                                       .capacity = in.capacity});
  if (!st) st = k->sync(g->d);
  g->times.expert_ns += ti_mono_ns() - t1;
  ti_graph_span(g, l, "experts", t1, layer);
  if (!st) st = ti_exchange_combine_post(g->exchange, l->index, l->expert_out);
  if (!st) l->combining = layer;
  return st;
}

ti_status ti_graph_moe_end(ti_graph *g, ti_lane *l) {
  if (l->combining < 0) return TI_OK;
  const int hid = g->c->hidden, layer = l->combining;
  g->layer = layer;
  l->combining = -1;
  const long n = l->own1 - l->own0;
  void *h = ti_row(g, l->h, l->own0, hid);
  const uint64_t t0 = ti_mono_ns();
  ti_graph_doing(g, "moe: combine");
  ti_status st = ti_exchange_combine_wait(g->exchange, l->index, l->t, true);
  ti_graph_span(g, l, "combine", t0, layer);
  if (!st && n) st = g->k->add(g->d, &(ti_add_args){.x = h, .y = l->t, .n = (size_t)n * (size_t)hid});
  if (st || g->tp->size == 1) return st;
  const uint64_t t1 = ti_mono_ns();
  size_t counts[TI_GRAPH_RANKS];
  own_counts(g, l, counts);
  if (n) st = g->k->copy(g->d, l->t, h, (size_t)n * (size_t)hid * g->act_bytes);  // send and recv must not overlap
  if (!st) st = ti_coll_all_gather(g->tp, l->t, l->h, counts, g->k->act);
  g->times.reduce_ns += ti_mono_ns() - t1;
  return st;
}
