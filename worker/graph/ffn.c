// SwiGLU feed-forward: down(silu(gate x) * up x). Dense layers (a width share a tp rank: the output is partial) and shared experts (whole).
// gate, up and silu_mul are one op where the backend has it; what goes into down may be codes.
#include "worker/graph/graph.h"

static ti_status gate_up(ti_graph *g, ti_lane *l, const ti_layer_weights *w, const ti_gemm_silu_mul_args *a, int width) {
  const ti_kernels *k = g->k;
  if (k->gemm_silu_mul) return k->gemm_silu_mul(g->d, a);
  const ti_status st = k->gemm(g->d, &(ti_gemm_args){.out = a->tmp, .x = a->x, .x_scale = a->x_scale, .w = a->w, .m = a->m, .out_dtype = k->act});
  ti_graph_progress(g);
  return st ? st : k->silu_mul(g->d, &(ti_silu_mul_args){.out = a->out, .gate_up = a->tmp, .n_row = a->m, .dim = width, .q = a->q, .q_scale = a->q_scale});
}

ti_status ti_graph_ffn(ti_graph *g, ti_lane *l, const ti_layer_weights *w, const void *x, const ti_codes *x8, int n_row, void *out) {
  const bool codes = l->act8.q && ti_graph_takes_codes(g, &w->down);
  const ti_gemm_silu_mul_args a = {.out = codes ? NULL : l->wide2, .tmp = l->wide, .x = x8 ? (const void *)x8->q : x, .x_scale = x8 ? x8->scale : NULL, .w = &w->gate_up, .m = n_row,
                                   .q = codes ? l->act8.q : NULL, .q_scale = codes ? l->act8.scale : NULL};
  ti_graph_stamp(g, "gate, up, silu", g->layer);
  ti_status st = gate_up(g, l, w, &a, (int)(w->gate_up.n / 2));
  ti_graph_stamp_end(g);
  ti_graph_stamp(g, "down", g->layer);
  if (!st)
    st = g->k->gemm(g->d, &(ti_gemm_args){.out = out, .x = codes ? (const void *)l->act8.q : l->wide2, .x_scale = codes ? l->act8.scale : NULL, .w = &w->down, .m = n_row,
                                          .out_dtype = g->k->act});
  ti_graph_stamp_end(g);
  ti_graph_progress(g);
  return st;
}
