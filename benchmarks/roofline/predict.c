// The arithmetic of predict.h.
#include "benchmarks/roofline/predict.h"

#include <math.h>

static double rate_at(const double *at, const double *gflops, double rows) {
  if (rows <= at[0]) return gflops[0] * rows / at[0];  // below the table: the same time
  for (int i = 1; i < RATE_POINTS; i++)
    if (rows <= at[i]) return gflops[i - 1] + (gflops[i] - gflops[i - 1]) * (rows - at[i - 1]) / (at[i] - at[i - 1]);
  return gflops[RATE_POINTS - 1];
}

static double weight_byte(const ti_config *c) {
  size_t bytes;
  return ti_dtype_size(c->weight_dtype, 1024, &bytes) ? 2 : (double)bytes / 1024;
}

static double matrix_us(const machine *m, double rows, double n, double k, double bytes) {
  if (rows <= 0) return 0;
  const double compute = 2 * rows * n * k / rate_at(m->rows, m->gflops, rows) / 1e3, read = n * k * bytes / m->memory_gbs / 1e3;
  return fmax(compute, read) + m->launch_us;
}

static double ffn_us(const machine *m, double rows, double hidden, double width, double b) {
  return matrix_us(m, rows, 2 * width, hidden, b) + matrix_us(m, rows, hidden, width, b);
}

static double projections_us(const ti_config *c, const machine *m, double rows, double b) {
  const double h = c->hidden, nh = c->n_head;
  if (c->attn != TI_ATTN_MLA) return matrix_us(m, rows, (nh + 2 * c->n_kv_head) * c->head_dim, h, b) + matrix_us(m, rows, h, nh * c->head_dim, b);
  const double q_in = c->q_lora ? c->q_lora : h;
  double t = c->q_lora ? matrix_us(m, rows, c->q_lora, h, b) : 0;
  t += matrix_us(m, rows, nh * (c->qk_nope + c->qk_rope), q_in, b) + matrix_us(m, rows, c->kv_lora + c->qk_rope, h, b);
  t += matrix_us(m, rows, nh * c->qk_nope, c->kv_lora, 2) + matrix_us(m, rows, nh * c->v_dim, c->kv_lora, 2);  // absorbed W_UK, W_UV
  return t + matrix_us(m, rows, h, nh * c->v_dim, b);
}

static double attention_us(const ti_config *c, const machine *m, const workload *w) {
  const int mla = c->attn == TI_ATTN_MLA;
  double flop_place = mla ? 2.0 * c->n_head * (2 * c->kv_lora + c->qk_rope) : 4.0 * c->n_head * c->head_dim;
  if (mla && w->prefill && m->hbm_gb > 0) flop_place = 2.0 * c->n_head * (c->qk_nope + c->qk_rope + c->v_dim);  // GPUs expand the latent in prefill
  const double bytes = (mla ? c->kv_lora + c->qk_rope : 2.0 * c->n_kv_head * c->head_dim) * m->act_row_bytes * w->context * w->seqs;
  return fmax(flop_place * w->rows * w->context / m->attention_gflops[w->prefill ? 1 : 0] / 1e3, bytes / m->memory_gbs / 1e3) + m->launch_us;
}

static double experts_us(const ti_config *c, const machine *m, const workload *w, double b) {
  const double tokens = w->rows * w->ranks, local = (double)c->moe.n_expert / w->ranks;
  const double hit = local * (1 - pow(1 - (double)c->moe.n_top / c->moe.n_expert, tokens));
  const double each = tokens * c->moe.n_top / w->ranks / hit, params = 3.0 * c->hidden * c->moe.ffn;
  const double compute = 2 * each * hit * params / rate_at(m->expert_rows, m->expert_gflops, each) / 1e3,
               read = hit * params * b / m->memory_gbs / 1e3;
  return fmax(compute, read) + 2 * m->launch_us;
}

// Copies of a row that travel, in the mean; experts as good as independent.
static double destinations(const ti_config *c, const machine *m, int ranks) {
  const double places = m->node_ranks > 1 ? ceil((double)ranks / m->node_ranks) : ranks;
  double all = places * (1 - pow(1 - 1.0 / places, c->moe.n_top));
  if (m->node_ranks > 1 && c->moe.n_group > 1) all = fmin(all, c->moe.n_top_group);
  return m->copies_self ? all : all * (places - 1) / places;
}

void predict(const ti_config *c, const machine *m, const workload *w, prediction *out) {
  const double b = weight_byte(c), rows = w->rows;
  const int n_moe = c->moe.n_expert ? c->n_layer - c->moe.n_dense_layer : 0;
  prediction p = {0};
  p.attention = c->n_layer * attention_us(c, m, w);
  p.dense = c->n_layer * projections_us(c, m, rows, b) + (c->n_layer - n_moe) * ffn_us(m, rows, c->hidden, c->ffn, b);
  p.dense += matrix_us(m, w->seqs, c->vocab, c->hidden, 2);
  p.other = c->n_layer * (rows * m->row_ns / 1e3 + 4 * m->launch_us);
  if (n_moe) {
    const double to = destinations(c, m, w->ranks) * rows * c->hidden;
    p.dense += n_moe * (matrix_us(m, rows, c->moe.n_expert, c->hidden, 2) +
                        (c->moe.n_shared ? ffn_us(m, rows, c->hidden, c->moe.n_shared * c->moe.ffn, b) : 0));
    p.experts = n_moe * experts_us(c, m, w, b);
    p.dispatch = n_moe * (m->latency_us[0] + to * m->dispatch_bytes / m->link_gbs[0] / 1e3);
    p.combine = n_moe * (m->latency_us[1] + to * m->combine_bytes / m->link_gbs[1] / 1e3);
  }
  const double compute = p.dense + p.attention + p.experts + p.other, travel = p.dispatch + p.combine;
  p.total = compute + travel;
  p.share = travel / p.total;
  p.overlapped = fmax(compute, travel) + fmin(compute, travel) / (2.0 * (n_moe ? n_moe : 1));  // the first half layer has nothing to hide under
  *out = p;
}

void measure_footprint(const ti_config *c, int ranks, footprint *out) {
  const double b = weight_byte(c), h = c->hidden, nh = c->n_head;
  const int n_moe = c->moe.n_expert ? c->n_layer - c->moe.n_dense_layer : 0;
  double attention;
  if (c->attn == TI_ATTN_MLA) {
    const double qd = c->qk_nope + c->qk_rope;
    attention = (c->q_lora ? c->q_lora * (h + nh * qd) : h * nh * qd) + h * (c->kv_lora + c->qk_rope) + nh * c->v_dim * h;
    attention = attention * b + c->kv_lora * nh * (c->qk_nope + c->v_dim) * 2;  // the absorbed matrices are kept in bf16
  } else {
    attention = (h * (nh + 2 * c->n_kv_head) * c->head_dim + nh * c->head_dim * h) * b;
  }
  out->weight_bytes = c->n_layer * attention + (c->n_layer - n_moe) * 3 * h * c->ffn * b + (c->tie_embeddings ? 1 : 2) * h * c->vocab * 2;
  out->weight_bytes += n_moe * (3 * h * c->moe.n_shared * c->moe.ffn * b + h * c->moe.n_expert * 2);
  out->expert_bytes = n_moe * ceil((double)c->moe.n_expert / ranks) * 3 * h * c->moe.ffn * b;
  out->kv_token_bytes = c->n_layer * (c->attn == TI_ATTN_MLA ? c->kv_lora + c->qk_rope : 2.0 * c->n_kv_head * c->head_dim) * 2;
}
