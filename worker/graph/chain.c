// What lies between two attentions of a dense model, in one launch where the backend has it (ti_kernels.chain: few rows, one rank):
//
//   attention -> | h += o | norm, gate and up, silu-mul | h += down | norm, q, k, v of the next layer, RoPE, append | -> its attention
//
// The lane then says that the next layer's projection is done (`projected`), and the FFN of this one (`chained`). What the backend refuses runs op by op.
#include "worker/graph/graph.h"

static bool may_chain(const ti_graph *g, const ti_lane *l) {
  const ti_config *c = g->c;
  return g->k->chain && c->attn == TI_ATTN_GQA && c->moe.n_expert == 0 && g->tp->size == 1 && !l->pending;
}

// norm, q, k, v, RoPE, append.
static ti_link qkv_link(const ti_graph *g, const ti_lane *l, const ti_layer_weights *w, ti_qkv_args *a) {
  a->gemm.x = l->h;
  return (ti_link){.gemm = &a->gemm, .norm = w->attn_norm, .eps = (float)g->c->rms_eps, .rope = &a->rope};
}

ti_status ti_graph_chain_qkv(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  if (!may_chain(g, l) || w->q_norm) return TI_ERR_UNSUPPORTED;
  ti_qkv_args qkv = ti_graph_qkv_args(g, l, w, layer);
  const ti_link link = qkv_link(g, l, w, &qkv);
  return g->k->chain(g->d, &link, 1);
}

ti_status ti_graph_chain(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const ti_layer_weights *next = layer + 1 < g->c->n_layer ? &g->w.layer[layer + 1] : NULL;
  const int n = l->batch.batch.n_row;
  if (!may_chain(g, l) || layer >= g->c->n_layer || (next && next->q_norm)) return TI_ERR_UNSUPPORTED;
  const ti_gemm_args o = {.out = l->h, .x = l->wide2, .w = &w->o, .bias = w->o_bias, .m = n, .out_dtype = g->k->act, .accumulate = true};
  const ti_gemm_silu_mul_args gate_up = {.out = l->wide2, .tmp = l->wide, .x = l->h, .w = &w->gate_up, .m = n};
  const ti_gemm_args down = {.out = l->h, .x = l->wide2, .w = &w->down, .m = n, .out_dtype = g->k->act, .accumulate = true};
  ti_qkv_args qkv;
  ti_link links[TI_LINKS] = {{.gemm = &o}, {.silu_mul = &gate_up, .norm = w->ffn_norm, .eps = (float)g->c->rms_eps}, {.gemm = &down}};
  if (next) {
    qkv = ti_graph_qkv_args(g, l, next, layer + 1);
    links[3] = qkv_link(g, l, next, &qkv);
  }
  ti_graph_stamp(g, "out, ffn, next qkv", layer);
  const ti_status st = g->k->chain(g->d, links, next ? 4 : 3);
  ti_graph_stamp_end(g);
  l->chained = st == TI_OK;
  l->projected = st == TI_OK && next;
  return st;
}
