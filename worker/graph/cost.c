// What the pieces of a decode step must do at least, for the step table of `titan trace-report`: bytes read and written once, products' flops, and
// how long the device needs for the dearer of the two at the rate of a copy measured at set-up, or at the ceiling of its tensor cores.
//
// Names are those of the spans (forward.c, attention_gqa.c, ffn.c). Dense layers with grouped-query attention only; nothing is said of other pieces.
#include "base/clock.h"
#include "worker/graph/graph.h"

// Dense products of 8192^3 on an H200 (docs/reports/kernels-h200.md); they decide above some 180 rows only.
#define BF16_FLOPS 795e12
#define FP8_FLOPS 1478e12

void ti_graph_measure_copy(ti_graph *g) {
  enum { WARM = 2, TIMES = 8 };
  const size_t bytes = (size_t)256 << 20;
  if (!g->k->async || !g->k->copy) return;
  void *a = g->k->alloc(g->d, bytes), *b = g->k->alloc(g->d, bytes);
  uint64_t t0 = 0;
  ti_status st = a && b ? g->k->sync(g->d) : TI_ERR_NOMEM;
  for (int i = 0; !st && i < WARM + TIMES; i++) {
    if (i == WARM) {
      st = g->k->sync(g->d);
      t0 = ti_mono_ns();
    }
    if (!st) st = g->k->copy(g->d, a, b, bytes);
  }
  if (!st) st = g->k->sync(g->d);
  if (!st) g->copy_rate = 2.0 * (double)bytes * TIMES / ((double)(ti_mono_ns() - t0) * 1e-9);
  if (a) g->k->free(g->d, a);
  if (b) g->k->free(g->d, b);
}

typedef struct sums {
  double bytes, flops, seconds;
} sums;

static void add(const ti_graph *g, sums *s, double bytes, double flops, double ceiling) {
  const double moving = bytes / g->copy_rate, computing = flops / ceiling;
  s->bytes += bytes;
  s->flops += flops;
  s->seconds += moving > computing ? moving : computing;
}

static double weight_bytes(const ti_weight *w) {
  size_t n = 0;
  if (ti_dtype_size(w->dtype, (size_t)(w->n * w->k), &n)) return 0;
  const double scales = !w->scale ? 0 : w->block_n > 1 && w->block_k > 1 ? (double)w->n / w->block_n * (double)w->k / w->block_k : (double)w->n;
  return (double)n + 4 * scales;
}

// m rows through W: the rows come as codes where the piece before writes them so.
static void product(const ti_graph *g, sums *s, const ti_weight *w, double m, double out_bytes) {
  const bool codes = ti_graph_takes_codes(g, w);
  const double in = codes ? 1 + 4.0 / 128 : (double)g->act_bytes;
  add(g, s, weight_bytes(w) + m * (double)w->k * in + m * (double)w->n * out_bytes, 2 * m * (double)w->n * (double)w->k,
      codes ? FP8_FLOPS : BF16_FLOPS);
}

// One of n occurrences.
static void put(ti_graph *g, const char *name, int rows, const sums *s, double n) {
  if (s->bytes <= 0) return;
  ti_trace_costs(
      g->cfg->trace, TI_GRAPH_DEVICE_TRACK, ti_mono_ns(),
      &(ti_trace_cost){.name = name, .step = g->step, .rows = rows, .bytes = s->bytes / n, .flops = s->flops / n, .limit_us = s->seconds * 1e6 / n});
}

static void add_all(sums *s, const sums *const *v) {
  for (; *v; v++) *s = (sums){s->bytes + (*v)->bytes, s->flops + (*v)->flops, s->seconds + (*v)->seconds};
}

void ti_graph_costs_out(ti_graph *g) {
  const ti_config *c = g->c;
  const ti_step_batch *b = &g->lane[0].batch;
  if (!g->stamped || g->copy_rate <= 0 || g->n_lane_now != 1 || b->batch.max_seq_rows != 1 || c->attn == TI_ATTN_MLA || c->moe.n_expert) return;
  const double m = b->n_token, act = (double)g->act_bytes, hid = c->hidden, head = c->head_dim, kv_head = g->w.heads.n_kv;
  const double q = g->w.heads.n_head * head, kv = kv_head * head,
               kv_number = (double)ti_dtype_block_bytes(g->cfg->kv_dtype) + (g->cfg->kv_dtype == TI_E4M3 ? 4 / head : 0);
  double places = 0;
  for (int i = 0; i < b->n_seq; i++) places += b->h_kv_len[i];
  sums embed = {0}, norm = {0}, qkv = {0}, rope = {0}, attention = {0}, out = {0}, gate_up = {0}, down = {0}, last = {0}, logits = {0},
       sampling = {0}, chain = {0};
  add(g, &embed, 2 * m * hid * act, 0, BF16_FLOPS);
  for (int i = 0; i < c->n_layer; i++) {
    const ti_layer_weights *w = &g->w.layer[i];
    add(g, &norm, m * hid * 4 * act, 0, BF16_FLOPS);  // what is added, and the stream that it is added to, read; both sums written
    product(g, &qkv, &w->qkv, m, act);
    add(g, &rope, m * (2 * q + 2 * kv) * act + 2 * m * kv * kv_number, 0, BF16_FLOPS);
    add(g, &attention, 2 * places * kv * kv_number + 2 * m * q * act, 4 * places * q, BF16_FLOPS);
    product(g, &out, &w->o, m, act);
    product(g, &gate_up, &w->gate_up, m, act / 2);  // silu(gate) * up is what is written
    product(g, &down, &w->down, m, act);
  }
  add(g, &last, m * hid * 4 * act, 0, BF16_FLOPS);
  product(g, &logits, &g->w.lm_head, m, 4);
  add(g, &sampling, m * (double)g->w.lm_head.n * 4, 0, BF16_FLOPS);
  const struct {
    const char *name;
    const sums *s;
    int n;
  } all[] = {{"embedding", &embed, 1},
             {"attention norm", &norm, c->n_layer},
             {"qkv", &qkv, c->n_layer},
             {"rope and append", &rope, c->n_layer},
             {"attention", &attention, c->n_layer},
             {"attention out", &out, c->n_layer},
             {"ffn norm", &norm, c->n_layer},
             {"gate, up, silu", &gate_up, c->n_layer},
             {"down", &down, c->n_layer},
             {"last norm", &last, 1},
             {"logits", &logits, 1},
             {"sampling", &sampling, 1},
             {"out, ffn, next qkv", &chain, c->n_layer}};
  add_all(&chain, (const sums *const[]){&out, &norm, &gate_up, &down, &norm, &qkv, &rope, NULL});
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) put(g, all[i].name, b->n_token, all[i].s, all[i].n);
}
