// Making the graph: weights, KV pool, activation buffers, the exchange. Everything a step needs is made here.
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "base/placement.h"
#include "worker/graph/graph.h"
#include "worker/sample/sampler.h"

static long max3(long a, long b, long c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

void *ti_graph_alloc(ti_graph *g, size_t bytes) {
  void *p = g->k->alloc(g->d, bytes);
  if (p) g->scratch_bytes += bytes;
  return p;
}

#define OVERHEAD ((uint64_t)768 << 20)  // a process's own share of a device: its context, recorded steps, the ops' scratch

// What the pool may take of the device: its share of all memory, less what is in use.
static ti_status share_left(ti_graph *g, uint64_t *bytes, ti_error *err) {
  size_t free_bytes, total;
  if (!g->k->memory) return ti_error_set(err, TI_ERR_ARG, "--kv-cache-memory: the %s backend cannot tell what is free, so a size is needed", g->k->name);
  const ti_status st = g->k->memory(g->d, &free_bytes, &total);
  if (st) return ti_error_set(err, st, "asking the device for its free memory: %s", ti_status_text(st));
  const double share = g->cfg->memory_share > 0 ? g->cfg->memory_share : 0.9;
  const uint64_t most = (uint64_t)(share * (double)total), own = g->w.bytes + g->scratch_bytes + OVERHEAD, used = g->cfg->memory_shared ? own : total - free_bytes;
  *bytes = most > used ? most - used : 0;
  const uint64_t page = g->layout.page_bytes, whole = ((uint64_t)g->cfg->max_model_len + g->cfg->page_tokens - 1) / g->cfg->page_tokens + 1;
  if (*bytes >= whole * page) return TI_OK;
  const uint64_t fits = *bytes / page > 1 ? (*bytes / page - 1) * g->cfg->page_tokens : 0;
  return ti_error_set(err, TI_ERR_NOMEM,
                      "KV cache: %lu MiB are left of %.2f of the device's %lu MiB (--gpu-memory-utilization; %lu MiB are in use), and one sequence of --max-model-len %u takes %lu MiB; "
                      "%lu tokens would fit",
                      (unsigned long)(*bytes >> 20), share, (unsigned long)(total >> 20), (unsigned long)(used >> 20), g->cfg->max_model_len, (unsigned long)(whole * page >> 20), (unsigned long)fits);
}

ti_status ti_graph_init_kv(ti_graph *g, uint64_t *kv_bytes, ti_error *err) {
  const ti_config *c = g->c;
  const bool mla = c->attn == TI_ATTN_MLA;
  g->layout = (ti_kv_layout){.kind = mla ? TI_KV_MLA : TI_KV_GQA, .dtype = g->cfg->kv_dtype, .page_tokens = (int)g->cfg->page_tokens, .n_kv_head = g->w.heads.n_kv, .head_dim = c->head_dim,
                             .latent = c->kv_lora, .rope = c->qk_rope, .n_layer = c->n_layer + (g->cfg->mtp && c->n_mtp ? 1 : 0)};
  uint64_t bytes = g->cfg->kv_bytes;
  ti_status st = ti_kv_layout_init(&g->layout, err);
  if (!st && !bytes) st = share_left(g, &bytes, err);
  if (st) return st;
  if (bytes < g->layout.page_bytes)
    return ti_error_set(err, TI_ERR_NOMEM, "--kv-cache-memory %lu bytes hold no page of %zu bytes (%d tokens); give at least one sequence's worth", (unsigned long)bytes,
                        g->layout.page_bytes, g->layout.page_tokens);
  *kv_bytes = bytes / g->layout.page_bytes * g->layout.page_bytes;
  g->kv = g->k->alloc(g->d, *kv_bytes);
  return g->kv ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "the device has no %lu bytes for the KV cache; lower --kv-cache-memory", (unsigned long)bytes);
}

static ti_status init_rope(ti_graph *g, ti_error *err) {
  const int n = g->c->rope.dim / 2;
  float *host = calloc((size_t)n, sizeof *host);
  g->inv_freq = ti_graph_alloc(g, (size_t)n * sizeof *host);
  if (!host || !g->inv_freq) {
    free(host);
    return ti_error_set(err, TI_ERR_NOMEM, "no memory for RoPE frequencies");
  }
  ti_rope_frequencies(&g->c->rope, host, &g->attn_factor);
  const ti_status st = g->k->upload(g->d, g->inv_freq, host, (size_t)n * sizeof *host);
  free(host);
  return st;
}

// Widths of the shared row buffers: the widest thing each ever holds.
static ti_status init_lane(ti_graph *g, ti_lane *l, int index, ti_error *err) {
  const ti_config *c = g->c;
  const long hid = c->hidden, nh = g->w.heads.n_head;
  const bool mla = c->attn == TI_ATTN_MLA;
  const long shared = (long)c->moe.n_shared * c->moe.ffn, ffn = max3(g->w.ffn_width, shared, 0);
  const long qkv = mla ? nh * (c->qk_nope + c->qk_rope) : (nh + 2L * g->w.heads.n_kv) * c->head_dim;
  const long attn = mla ? max3(nh * c->v_dim, c->kv_lora + c->qk_rope, c->q_lora) : nh * c->head_dim;
  const long wide = max3(qkv, 2 * ffn, hid), wide2 = max3(attn, ffn, hid);
  const size_t rows = (size_t)g->max_row, b = g->act_bytes;
  l->index = index;
  l->h = ti_graph_alloc(g, rows * (size_t)hid * b);
  l->xn = ti_graph_alloc(g, rows * (size_t)hid * b);
  l->t = ti_graph_alloc(g, rows * (size_t)hid * b);
  l->wide = ti_graph_alloc(g, rows * (size_t)wide * b);
  l->wide2 = ti_graph_alloc(g, rows * (size_t)wide2 * b);
  bool ok = l->h && l->xn && l->t && l->wide && l->wide2;
  if (mla) {
    l->q_lat = ti_graph_alloc(g, rows * (size_t)(nh * c->kv_lora) * b);
    l->o_lat = ti_graph_alloc(g, rows * (size_t)(nh * c->kv_lora) * b);
    ok = ok && l->q_lat && l->o_lat;
  }
  if (c->moe.n_expert) {
    l->router_logits = ti_graph_alloc(g, rows * (size_t)c->moe.n_expert * sizeof(float));
    l->experts = ti_graph_alloc(g, rows * (size_t)c->moe.n_top * sizeof(int32_t));
    l->route_weights = ti_graph_alloc(g, rows * (size_t)c->moe.n_top * sizeof(float));
    l->expert_out = ti_exchange_y(g->exchange, index);
    g->scratch_bytes += (size_t)g->expert_capacity * (size_t)hid * b;
    ok = ok && l->router_logits && l->experts && l->route_weights && l->expert_out;
  }
  const bool int8 = g->cfg->dev.act_quant == TI_ACT_INT8;
  if (int8 ? g->k->int8_out : g->k->fp8_out && g->cfg->dev.act_quant == TI_ACT_FP8) {
    const size_t up = (rows + 3) & ~(size_t)3;
    const long per = int8 ? 32 : 128;
    l->xn8 = (ti_codes){ti_graph_alloc(g, rows * (size_t)hid), ti_graph_alloc(g, up * (size_t)((hid + per - 1) / per) * sizeof(float))};
    ok = ok && l->xn8.q && l->xn8.scale;
    if (ffn) l->act8 = (ti_codes){ti_graph_alloc(g, rows * (size_t)ffn), ti_graph_alloc(g, up * (size_t)((ffn + per - 1) / per) * sizeof(float))};
    ok = ok && (!ffn || (l->act8.q && l->act8.scale));
  }
  const int page = (int)g->cfg->page_tokens, stride = ti_bucket_kv((int)g->cfg->max_model_len) / page + 8;  // of a fixed batch; drafts may reach over the end
  if (ok && !ti_step_batch_init(&l->batch, g->k, g->d, g->max_row, (int)g->cfg->max_num_seqs, stride)) {
    l->batch.long_rows = g->mla.kv ? TI_MLA_EXPAND_ROWS : 0;
    return TI_OK;
  }
  return ti_error_set(err, TI_ERR_NOMEM, "no memory for activations of %d rows; lower --max-num-batched-tokens", g->max_row);
}

// The expanded form changes a row's bits with the length of its run, so that --deterministic does without it.
static bool wants_expanded(const ti_graph *g) { return g->c->attn == TI_ATTN_MLA && g->k->mla_tile && g->k->mla_gather && !g->cfg->deterministic && g->max_row >= TI_MLA_EXPAND_ROWS; }

static ti_status init_expanded(ti_graph *g, ti_error *err) {
  const ti_config *c = g->c;
  const size_t nh = (size_t)g->w.heads.n_head, b = g->act_bytes, rows = (size_t)g->max_row;
  ti_mla_expanded *x = &g->mla;
  if (!wants_expanded(g)) return TI_OK;
  x->latent = ti_graph_alloc(g, TI_MLA_TILE * (size_t)c->kv_lora * b);
  x->k_rope = ti_graph_alloc(g, TI_MLA_TILE * (size_t)c->qk_rope * b);
  x->kv = ti_graph_alloc(g, TI_MLA_TILE * nh * (size_t)(c->qk_nope + c->v_dim) * b);
  x->acc = ti_graph_alloc(g, rows * nh * (size_t)c->v_dim * sizeof *x->acc);
  x->state = ti_graph_alloc(g, rows * nh * 2 * sizeof *x->state);
  if (x->latent && x->k_rope && x->kv && x->acc && x->state) return TI_OK;
  return ti_error_set(err, TI_ERR_NOMEM, "no memory for expanded attention of %d rows; lower --max-num-batched-tokens", g->max_row);
}

// Before any load is known: all experts alike, the same in all layers.
static ti_status init_placement(ti_graph *g, ti_error *err) {
  const ti_config *c = g->c;
  const int n = c->moe.n_expert, extra = g->cfg->n_redundant;
  if (extra < 0 || extra > n) return ti_error_set(err, TI_ERR_ARG, "--num-redundant-experts %d: expected 0..%d, a copy of every expert", extra, n);
  g->n_moe = c->n_layer - c->moe.n_dense_layer + (g->cfg->mtp && c->n_mtp ? 1 : 0);
  g->placement = calloc((size_t)g->n_moe, sizeof *g->placement);
  float *load = malloc((size_t)n * sizeof *load);
  ti_status st = g->placement && load ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "no memory for the placement of %d experts", n);
  for (int e = 0; !st && e < n; e++) load[e] = 1;
  for (int i = 0; !st && i < g->n_moe; i++)
    st = ti_placement_replicate(&(ti_placement_args){.load = load, .n_expert = n, .n_slot = n + extra, .ep = g->cfg->mesh.ep}, &g->placement[i], err);
  free(load);
  return st;
}

uint32_t ti_graph_replicas(const ti_graph *g) {
  long s0, s1, e0, e1;
  if (!g->placement) return 0;
  const int ep = g->cfg->mesh.ep, group = ti_mesh_ep_of(&g->cfg->mesh, g->cfg->worker);
  ti_split(g->placement[0]->n_slot, ep, group, &s0, &s1);
  ti_split(g->placement[0]->n_expert, ep, group, &e0, &e1);
  return (uint32_t)(s1 - s0 - (e1 - e0)) * (uint32_t)g->n_moe;
}

static ti_status init_experts(ti_graph *g, ti_error *err) {
  const ti_engine_config *cfg = g->cfg;
  const ti_config *c = g->c;
  const ti_exchange_config x = {.mesh = cfg->mesh, .worker = cfg->worker, .dim = c->hidden, .n_top = c->moe.n_top, .max_row = g->max_row, .align = 8, .dtype = g->k->act,
                                .n_layer = g->n_moe, .deterministic = cfg->deterministic};
  const ti_status st = ti_exchange_create(&x, cfg->world, g->placement[0], &g->exchange, err);
  if (st) return st;
  g->expert_capacity = ti_exchange_capacity(g->exchange);
  g->expert_gate_up = ti_graph_alloc(g, (size_t)g->expert_capacity * 2 * (size_t)g->w.expert_width * g->act_bytes);
  g->expert_act = ti_graph_alloc(g, (size_t)g->expert_capacity * (size_t)g->w.expert_width * g->act_bytes);
  long s0, s1;
  ti_split(g->placement[0]->n_slot, cfg->mesh.ep, ti_mesh_ep_of(&cfg->mesh, cfg->worker), &s0, &s1);
  g->n_load = (uint32_t)(s1 - s0) * (uint32_t)(c->n_layer - c->moe.n_dense_layer);
  g->load = calloc(g->n_load, sizeof *g->load);
  if (g->expert_gate_up && g->expert_act && g->load) return TI_OK;
  return ti_error_set(err, TI_ERR_NOMEM, "no memory for %d rows of expert activations; lower --max-num-batched-tokens", g->expert_capacity);
}

// The largest things that the tp group moves: all rows of a step, a tile of logits. Collective.
static ti_status reserve_tp(ti_graph *g, ti_error *err) {
  const size_t rows = (size_t)g->max_row * (size_t)g->c->hidden * g->act_bytes, logits = (size_t)g->sample_tile * (size_t)g->c->vocab * sizeof(float);
  const ti_status st = g->tp->ops->reserve(g->tp, rows > logits ? rows : logits, 1);
  return st ? ti_error_set(err, st, "no memory for the tensor-parallel ranks' sums of %d rows; lower --max-num-batched-tokens", g->max_row) : TI_OK;
}

// Rows of logits at once. Where ops run while they are called, as many as stay in a cache; on a device that runs beside the host a step's decode rows
// in one go, while two tiles of logits take no more than a thirty-second part of its memory.
static int sample_tile(const ti_graph *g) {
  enum { LEAST = 64, MOST = 512 };
  const int seqs = (int)g->cfg->max_num_seqs;
  if (!g->k->async || seqs <= LEAST) return LEAST;
  int tile = seqs < MOST ? seqs : MOST;
  size_t free_bytes, total;
  if (g->k->memory && !g->k->memory(g->d, &free_bytes, &total))
    while (tile > LEAST && (size_t)tile * (size_t)g->c->vocab * 8 > total / 32) tile /= 2;
  return tile < LEAST ? LEAST : tile;
}

// What a backend in the making may still lack of what this model needs; NULL: nothing.
static const char *missing_op(const ti_kernels *k, const ti_config *c) {
  if (c->attn == TI_ATTN_MLA ? !k->mla_attention || !k->gemm_heads : !k->attention) return "attention";
  if (!k->sample || !k->penalties || !k->tokens || !k->feed) return "sampling";
  if (!k->logprobs) return "logprobs";
  if (c->moe.n_expert && (!k->router || !k->grouped_gemm)) return "mixtures of experts";
  return NULL;
}

ti_status ti_graph_init(ti_graph *g, const ti_engine_config *cfg, ti_dev *dev, ti_error *err) {
  const ti_config *c = cfg->model;
  const ti_kernels *k = cfg->kernels;
  *g = (ti_graph){.cfg = cfg, .c = c, .k = k, .d = dev, .tp = cfg->tp, .max_row = (int)cfg->max_num_batched_tokens, .act_bytes = k->act == TI_F32 ? 4 : 2};
  g->n_lane = cfg->overlap && c->moe.n_expert ? 2 : 1;
  g->sample_tile = sample_tile(g);
  ti_status st = TI_OK;
  const char *missing = missing_op(k, c);
  if (missing) return ti_error_set(err, TI_ERR_UNSUPPORTED, "the %s backend has no %s for this model; use --device cpu", k->name, missing);
  if (k->async && c->moe.n_expert)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "the %s backend runs dense models so far, and this one has %d experts a layer; use --device cpu", k->name, c->moe.n_expert);
  if (cfg->tp->size > TI_GRAPH_RANKS) return ti_error_set(err, TI_ERR_ARG, "--tensor-parallel-size %d: at most %d", cfg->tp->size, TI_GRAPH_RANKS);
  st = reserve_tp(g, err);
  if (!st && c->moe.n_expert) st = init_placement(g, err);
  const ti_weights_options weights = {.model = c, .ckpt = cfg->ckpt, .kernels = k, .dev = dev, .mesh = cfg->mesh, .worker = cfg->worker, .placement = g->placement, .mtp = cfg->mtp, .to_fp8 = cfg->quantize_fp8, .expanded = wants_expanded(g), .allow_nan = cfg->allow_nan};
  if (!st) st = ti_weights_load(&weights, &g->w, err);
  ti_dev_options loader = cfg->dev;
  loader.threads = 1;
  loader.cpus = NULL;
  if (!st && cfg->n_redundant) st = ti_replicas_create(&weights, &loader, &g->w, c->n_layer - c->moe.n_dense_layer, &g->replicas, err);
  if (!st && c->moe.n_expert) st = init_experts(g, err);
  const long widest = max3(c->hidden, c->ffn, (long)c->n_head * (c->attn == TI_ATTN_MLA ? c->v_dim : c->head_dim));
  const long most = max3(g->expert_capacity, g->max_row, wants_expanded(g) ? TI_MLA_TILE : 0);
  if (!st) st = k->reserve(dev, (int)most, max3(widest, 2L * c->hidden, c->kv_lora), c->head_dim, c->vocab);
  if (!st) st = init_rope(g, err);
  if (!st) st = init_expanded(g, err);
  for (int i = 0; !st && i < g->n_lane; i++) st = init_lane(g, &g->lane[i], i, err);
  if (!st && g->w.mtp && !(g->mtp_in = ti_graph_alloc(g, (size_t)g->max_row * 2 * (size_t)c->hidden * g->act_bytes))) st = ti_error_set(err, TI_ERR_NOMEM, "no memory for the MTP layer's input");
  if (!st && cfg->tap && !(g->tap_mem = malloc((size_t)g->max_row * (size_t)(c->vocab > c->hidden ? c->vocab : c->hidden) * 4)))
    st = ti_error_set(err, TI_ERR_NOMEM, "no memory for taps");
  if (!st && cfg->tp->size > 1 && k->async && !(g->h_sum = k->alloc_host(dev, (size_t)g->max_row * (size_t)c->hidden * g->act_bytes))) st = ti_error_set(err, TI_ERR_NOMEM, "no memory for the tensor-parallel ranks' sums");
  if (!st) st = ti_graph_record_init(g, err);
  if (!st && cfg->trace) ti_graph_measure_copy(g);
  if (st) {
    if (err && !err->code) ti_error_set(err, st, "setting up the model: %s", ti_status_text(st));
    ti_graph_fini(g);
  }
  return st;
}

static void fini_lane(ti_graph *g, ti_lane *l) {
  void *p[] = {l->h, l->xn, l->t, l->wide, l->wide2, l->q_lat, l->o_lat, l->router_logits, l->experts, l->route_weights, l->xn8.q, l->xn8.scale, l->act8.q, l->act8.scale};
  for (size_t i = 0; i < sizeof p / sizeof *p; i++)
    if (p[i]) g->k->free(g->d, p[i]);
  ti_step_batch_fini(&l->batch, g->k, g->d);
}

void ti_graph_fini(ti_graph *g) {
  if (!g->k) return;
  ti_graph_record_fini(g);
  for (int i = 0; i < 2; i++) fini_lane(g, &g->lane[i]);
  void *p[] = {g->kv, g->inv_freq, g->expert_gate_up, g->expert_act, g->mtp_in, g->mla.latent, g->mla.k_rope, g->mla.kv, g->mla.acc, g->mla.state};
  for (size_t i = 0; i < sizeof p / sizeof *p; i++)
    if (p[i]) g->k->free(g->d, p[i]);
  ti_replicas_destroy(g->replicas);
  ti_exchange_destroy(g->exchange);
  for (int i = 0; g->placement && i < g->n_moe; i++) ti_placement_destroy(g->placement[i]);
  free(g->placement);
  ti_weights_fini(&g->w);
  if (g->h_sum) g->k->free_host(g->d, g->h_sum);
  free(g->tap_mem);
  free(g->load);
  *g = (ti_graph){0};
}
