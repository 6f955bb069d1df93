// SwiGLU feed-forward: down(silu(gate x) * up x). Dense layers (a width share a tp rank: the output is partial) and shared experts (whole).
#include "worker/graph/graph.h"

ti_status ti_graph_ffn(ti_graph *g, const ti_layer_weights *w, const void *x, int n_row, void *wide, void *wide2, void *out) {
  const ti_kernels *k = g->k;
  const int width = (int)(w->gate_up.n / 2);
  ti_status st = k->gemm(g->d, &(ti_gemm_args){.out = wide, .x = x, .w = &w->gate_up, .m = n_row, .out_dtype = k->act});
  ti_graph_progress(g);
  if (!st) st = k->silu_mul(g->d, &(ti_silu_mul_args){.out = wide2, .gate_up = wide, .n_row = n_row, .dim = width});
  if (!st) st = k->gemm(g->d, &(ti_gemm_args){.out = out, .x = wide2, .w = &w->down, .m = n_row, .out_dtype = k->act});
  ti_graph_progress(g);
  return st;
}
