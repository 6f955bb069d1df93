// The layers in order, for one micro-batch or two.
//
// Two lanes (two-micro-batch overlap; the plan's header decides): one lane's tokens travel while the other computes. A combine is waited for only when
// its lane goes on, so that the second lane's is under way during the first one's next attention.
//
//   lane 0:  attention begin |                 | experts |         | end attention begin |                     | experts ..
//   lane 1:                  | attention begin |         | experts |                     | end attention begin |
//   in flight:     dispatch 0 ------------------> dispatch 1 ------>
//                                                 combine 0 ------> combine 1 ---------->
//
// The order of calls is a function of the plan's header alone, so all ranks post the same sequence of collectives.
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "worker/graph/graph.h"

void ti_graph_doing(const ti_graph *g, const char *what) {
  if (g->cfg->doing) atomic_store_explicit(g->cfg->doing, what, memory_order_relaxed);
}

void ti_graph_span(ti_graph *g, const ti_lane *l, const char *name, uint64_t t0, int layer) {
  if (g->cfg->trace) ti_trace_span(g->cfg->trace, 1 + l->index, name, "layer", t0, ti_mono_ns(), g->step, layer);
}

void ti_graph_tap(ti_graph *g, const char *what, int layer, const void *device, int n_row, int dim) {
  if (!g->cfg->tap || n_row == 0) return;
  const size_t bytes = (size_t)n_row * (size_t)dim * 4;
  ti_status st = g->k->download(g->d, g->tap_mem, device, bytes);
  if (!st) st = g->k->sync(g->d);
  if (!st) g->cfg->tap(g->cfg->tap_arg, what, layer, g->tap_mem, n_row, dim);
}

void ti_graph_tap_act(ti_graph *g, const char *what, int layer, const void *device, int n_row, int dim) {
  if (g->k->act == TI_F32) {
    ti_graph_tap(g, what, layer, device, n_row, dim);
    return;
  }
  if (!g->cfg->tap || n_row == 0) return;
  const size_t n = (size_t)n_row * (size_t)dim;
  float *out = g->tap_mem;
  uint16_t *in = (uint16_t *)g->tap_mem + n;  // the numbers stand in the second half of what they become
  ti_status st = g->k->download(g->d, in, device, n * sizeof *in);
  if (!st) st = g->k->sync(g->d);
  for (size_t i = 0; !st && i < n; i++) out[i] = ti_bf16_to_f32(in[i]);
  if (!st) g->cfg->tap(g->cfg->tap_arg, what, layer, out, n_row, dim);
}

void ti_graph_stamp(ti_graph *g, const char *name, int layer) {
  if (g->cfg->trace && g->k->span_begin) (void)!g->k->span_begin(g->d, name, layer);
}

void ti_graph_stamp_end(ti_graph *g) {
  if (g->cfg->trace && g->k->span_begin) (void)!g->k->span_end(g->d);
}

void ti_graph_step(ti_graph *g, int64_t step) {
  g->step = step;
  g->stamped = g->cfg->trace && step % TI_GRAPH_STAMP_EVERY < 2;
  if (g->cfg->trace && g->k->span_step) g->k->span_step(g->d, g->stamped ? step : -1);
}

void ti_graph_spans_out(ti_graph *g) {
  if (!g->cfg->trace || !g->k->spans) return;
  ti_dev_span v[64];
  for (int n; (n = g->k->spans(g->d, v, 64)) > 0;)
    for (int i = 0; i < n; i++) ti_trace_span(g->cfg->trace, TI_GRAPH_DEVICE_TRACK, v[i].name, "device", v[i].begin_ns, v[i].end_ns, v[i].step, v[i].layer);
}

ti_status ti_graph_all_reduce(ti_graph *g, void *x, size_t n) {
  if (!g->h_sum) return ti_coll_all_reduce(g->tp, x, n, g->k->act);
  const size_t bytes = n * g->act_bytes;
  ti_status st = g->k->download(g->d, g->h_sum, x, bytes);
  if (!st) st = g->k->sync(g->d);
  if (!st) st = ti_coll_all_reduce(g->tp, g->h_sum, n, g->k->act);
  return st ? st : g->k->upload(g->d, x, g->h_sum, bytes);
}

ti_status ti_graph_sum(ti_graph *g, ti_lane *l, int layer) {
  if (g->tp->size == 1) return TI_OK;
  ti_graph_doing(g, "summing over the tensor-parallel ranks");
  const uint64_t t0 = ti_mono_ns();
  const ti_status st = ti_graph_all_reduce(g, l->t, (size_t)l->batch.batch.n_row * (size_t)g->c->hidden);
  g->times.reduce_ns += ti_mono_ns() - t0;
  ti_graph_span(g, l, "all-reduce", t0, layer);
  return st;
}

bool ti_graph_takes_codes(const ti_graph *g, const ti_weight *w) {
  if (g->cfg->dev.act_quant == TI_ACT_INT8) return g->k->int8_out && ti_dtype_block(w->dtype) > 1;
  return g->k->fp8_out && g->cfg->dev.act_quant == TI_ACT_FP8 && w->dtype == TI_E4M3 && w->scale;
}

ti_status ti_graph_norm(ti_graph *g, ti_lane *l, const float *weight, const ti_weight *next, const ti_codes **x8) {
  const bool codes = next && ti_graph_takes_codes(g, next);
  const ti_rmsnorm_args a = {.out = codes ? NULL : l->xn, .x = l->pending ? l->t : l->h, .residual = l->pending ? l->h : NULL, .weight = weight, .n_row = l->batch.batch.n_row,
                             .dim = g->c->hidden, .eps = (float)g->c->rms_eps, .q = codes ? l->xn8.q : NULL, .q_scale = codes ? l->xn8.scale : NULL};
  l->pending = false;
  if (x8) *x8 = codes ? &l->xn8 : NULL;
  return g->k->rmsnorm(g->d, &a);
}

static ti_status embed(ti_graph *g, ti_lane *l) {
  const int n = l->batch.batch.n_row;
  l->pending = l->projected = l->chained = false;
  l->combining = -1;
  if (n == 0) return TI_OK;
  ti_graph_doing(g, "embedding");
  ti_graph_stamp(g, "embedding", -1);
  ti_status st = g->k->embed(g->d, &(ti_embed_args){.out = l->h, .ids = l->batch.ids, .table = &g->w.embed, .n_row = n, .hidden = g->c->hidden, .first_id = g->w.vocab0, .n_id = g->w.n_vocab});
  ti_graph_stamp_end(g);
  if (!st && g->tp->size > 1) st = ti_graph_all_reduce(g, l->h, (size_t)n * (size_t)g->c->hidden);  // all but one rank give zeros
  return st;
}

// The layer before is brought to its end; norm, attention: leaves t partial (summed later, by the FFN's side).
static ti_status attention(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  ti_status st = ti_graph_moe_end(g, l);
  if (st || l->batch.batch.n_row == 0) return st;
  g->layer = layer;
  ti_graph_doing(g, "attention");
  const uint64_t t0 = ti_mono_ns();
  st = g->c->attn == TI_ATTN_MLA ? ti_graph_attention_mla(g, l, w, layer) : ti_graph_attention_gqa(g, l, w, layer);
  g->times.attention_ns += ti_mono_ns() - t0;
  ti_graph_span(g, l, "attention", t0, layer);
  return st;
}

static ti_status dense_ffn(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer) {
  const int n = l->batch.batch.n_row;
  if (n == 0) return TI_OK;
  if (l->chained) {
    l->chained = false;
    return TI_OK;
  }
  ti_status st = ti_graph_sum(g, l, layer);
  const uint64_t t0 = ti_mono_ns();
  ti_graph_doing(g, "ffn");
  const ti_codes *x8 = NULL;
  ti_graph_stamp(g, "ffn norm", layer);
  if (!st) st = ti_graph_norm(g, l, w->ffn_norm, &w->gate_up, &x8);
  ti_graph_stamp_end(g);
  if (!st) st = ti_graph_ffn(g, l, w, l->xn, x8, n, l->t);
  l->pending = true;
  g->times.ffn_ns += ti_mono_ns() - t0;
  ti_graph_span(g, l, "ffn", t0, layer);
  return st ? st : ti_graph_sum(g, l, layer);
}

static ti_status moe_layer(ti_graph *g, int n_lane, const ti_layer_weights *w, int layer) {
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) {
    st = attention(g, &g->lane[i], w, layer);
    if (!st) st = ti_graph_moe_begin(g, &g->lane[i], w, layer);
  }
  for (int i = 0; !st && i < n_lane; i++) st = ti_graph_moe_experts(g, &g->lane[i], w, layer);
  return st;
}

static ti_status dense_layer(ti_graph *g, int n_lane, const ti_layer_weights *w, int layer) {
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) {
    st = attention(g, &g->lane[i], w, layer);
    if (!st) st = dense_ffn(g, &g->lane[i], w, layer);
  }
  return st;
}

static ti_status last_norm(ti_graph *g, ti_lane *l, const float *weight) {
  const ti_status st = ti_graph_moe_end(g, l);
  if (st || l->batch.batch.n_row == 0) return st;
  ti_graph_stamp(g, "last norm", -1);
  const ti_status norm = ti_graph_norm(g, l, weight, NULL, NULL);
  ti_graph_stamp_end(g);
  return norm;
}

ti_status ti_graph_layers(ti_graph *g, int n_lane) {
  ti_status st = TI_OK;
  g->layer = 0;
  for (int i = 0; !st && i < n_lane; i++) st = embed(g, &g->lane[i]);
  for (int layer = 0; !st && layer < g->c->n_layer; layer++) {
    const ti_layer_weights *w = &g->w.layer[layer];
    g->layer = layer;
    st = ti_config_layer_is_moe(g->c, layer) ? moe_layer(g, n_lane, w, layer) : dense_layer(g, n_lane, w, layer);
  }
  for (int i = 0; !st && i < n_lane; i++) {
    st = last_norm(g, &g->lane[i], g->w.norm);
    ti_graph_tap_act(g, "hidden", g->c->n_layer, g->lane[i].xn, g->lane[i].batch.batch.n_row, g->c->hidden);
  }
  return st;
}

ti_status ti_graph_forward(ti_graph *g, int n_lane, ti_error *err) {
  if (g->recorded && n_lane == 1 && g->lane[0].batch.fixed_rows) {
    const ti_status st = ti_graph_record_run(g, err);
    if (st != TI_AGAIN) return st;
  }
  const ti_status st = ti_graph_layers(g, n_lane);
  return st ? ti_error_set(err, st, "layer %d: %s: %s", g->layer, g->cfg->doing ? atomic_load(g->cfg->doing) : "forward", ti_status_text(st)) : TI_OK;
}

ti_status ti_graph_head(ti_graph *g, const void *x, int n, float *logits, ti_error *err) {
  const uint64_t t0 = ti_mono_ns();
  ti_graph_doing(g, "logits");
  ti_graph_stamp(g, "logits", -1);
  const ti_status st = g->k->gemm(g->d, &(ti_gemm_args){.out = logits, .x = x, .w = &g->w.lm_head, .m = n, .out_dtype = TI_F32});
  ti_graph_stamp_end(g);
  g->times.head_ns += ti_mono_ns() - t0;
  return st ? ti_error_set(err, st, "lm_head: %s", ti_status_text(st)) : TI_OK;
}

// x = eh_proj([enorm(embed(t[i + 1])) ; hnorm(h[i])]) (DeepSeek-V3 report, section 2.2; models/README.md).
static ti_status mtp_input(ti_graph *g, ti_lane *l, const ti_mtp_weights *m) {
  const int n = l->batch.batch.n_row, hid = g->c->hidden;
  const float eps = (float)g->c->rms_eps;
  if (n == 0) return TI_OK;
  ti_status st = g->k->rmsnorm(g->d, &(ti_rmsnorm_args){.out = ti_row(g, g->mtp_in, 1, hid), .x = l->xn, .weight = m->hnorm, .n_row = n, .dim = hid, .ldo = 2 * (int64_t)hid, .eps = eps});
  if (!st) st = embed(g, l);
  if (!st) st = g->k->rmsnorm(g->d, &(ti_rmsnorm_args){.out = g->mtp_in, .x = l->h, .weight = m->enorm, .n_row = n, .dim = hid, .ldo = 2 * (int64_t)hid, .eps = eps});
  return st ? st : g->k->gemm(g->d, &(ti_gemm_args){.out = l->h, .x = g->mtp_in, .w = &m->eh_proj, .m = n, .out_dtype = g->k->act});
}

ti_status ti_graph_mtp(ti_graph *g, int n_lane, ti_error *err) {
  const ti_mtp_weights *m = &g->w.mtp[0];
  const int layer = g->c->n_layer;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) st = mtp_input(g, &g->lane[i], m);
  if (!st) st = ti_config_layer_is_moe(g->c, layer) ? moe_layer(g, n_lane, &m->layer, layer) : dense_layer(g, n_lane, &m->layer, layer);
  for (int i = 0; !st && i < n_lane; i++) st = last_norm(g, &g->lane[i], m->norm);
  return st ? ti_error_set(err, st, "MTP layer: %s", ti_status_text(st)) : TI_OK;
}
