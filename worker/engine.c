// The step: plan -> slots -> batches -> forward -> tokens (submit), and from what the device has drawn to the result (collect).
#include "worker/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/flight.h"
#include "worker/graph/graph.h"
#include "worker/spec/draft.h"

enum { FLIGHTS = 2 };

struct ti_engine {
  ti_engine_config cfg;
  ti_dev *dev;
  ti_graph graph;
  ti_slots slots;
  ti_counts counts;
  ti_sampler sampler;
  ti_flight flight[FLIGHTS];  // a ring: n_flight from `oldest` on
  int oldest, n_flight, depth;
  uint32_t n_page;
  uint64_t last_end_ns;
};

// Two steps in flight need a device that runs beside the host, and nothing that the host must see between forward and sampling.
static int depth_of(const ti_engine *e) {
  const ti_engine_config *c = &e->cfg;
  return c->kernels->async && !c->tap && !e->graph.w.mtp && !e->graph.exchange && c->tp->size == 1 ? FLIGHTS : 1;
}

ti_status ti_engine_create(const ti_engine_config *cfg, ti_engine **out, ti_error *err) {
  ti_engine *e = calloc(1, sizeof *e);
  if (!e) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the engine");
  e->cfg = *cfg;
  const ti_kernels *k = cfg->kernels;
  ti_status st = k->open(&cfg->dev, &e->dev, err);
  if (st) goto err_open;
  st = ti_graph_init(&e->graph, &e->cfg, e->dev, err);
  if (st) goto err_graph;
  st = ti_slots_init(&e->slots, cfg->max_num_seqs, cfg->max_model_len, cfg->page_tokens, 0, (uint32_t)cfg->model->vocab);
  if (!st) st = ti_counts_init(&e->counts, k, e->dev, cfg->max_num_seqs, (uint32_t)cfg->model->vocab);
  e->depth = depth_of(e);
  for (int i = 0; !st && i < e->depth; i++) st = ti_flight_init(&e->flight[i], k, e->dev, cfg->max_num_batched_tokens, cfg->max_num_seqs);
  if (st) {
    st = ti_error_set(err, TI_ERR_NOMEM, "no memory for %u slots of %u tokens; lower --max-num-seqs or --max-model-len", cfg->max_num_seqs, cfg->max_model_len);
    goto err_slots;
  }
  e->graph.scratch_bytes += e->counts.device_bytes;
  if (k->span_begin) ti_trace_track(cfg->trace, TI_GRAPH_DEVICE_TRACK, "device");
  e->slots.lookahead = e->graph.w.mtp ? 1 : 0;
  st = ti_sampler_init(&e->sampler, &e->graph, &e->slots, &e->counts, err);
  if (st) goto err_slots;
  uint64_t kv_bytes = 0;
  st = ti_graph_init_kv(&e->graph, &kv_bytes, err);
  if (st) goto err_kv;
  const uint64_t pages = kv_bytes / e->graph.layout.page_bytes;
  e->n_page = e->slots.n_page = pages > INT32_MAX ? INT32_MAX : (uint32_t)pages;
  *out = e;
  return TI_OK;
err_kv:
  ti_sampler_fini(&e->sampler);
err_slots:
  for (int i = 0; i < FLIGHTS; i++) ti_flight_fini(&e->flight[i], k, e->dev);
  if (e->counts.k) ti_counts_fini(&e->counts);
  ti_slots_fini(&e->slots);
  ti_graph_fini(&e->graph);
err_graph:
  k->close(e->dev);
err_open:
  free(e);
  return st;
}

void ti_engine_destroy(ti_engine *e) {
  if (!e) return;
  const ti_kernels *k = e->cfg.kernels;
  (void)!k->sync(e->dev);  // what is in flight uses what follows
  ti_sampler_fini(&e->sampler);
  for (int i = 0; i < FLIGHTS; i++) ti_flight_fini(&e->flight[i], k, e->dev);
  ti_counts_fini(&e->counts);
  ti_slots_fini(&e->slots);
  ti_graph_fini(&e->graph);
  k->close(e->dev);
  free(e);
}

void ti_engine_get_facts(const ti_engine *e, ti_engine_facts *out) {
  *out = (ti_engine_facts){.n_slot = e->cfg.max_num_seqs, .n_page = e->n_page, .page_tokens = e->cfg.page_tokens, .max_rows = e->cfg.max_num_batched_tokens,
                           .max_context = e->cfg.max_model_len,
                           .weight_bytes = e->graph.w.bytes,
                           .kv_bytes = (uint64_t)e->n_page * e->graph.layout.page_bytes,
                           .scratch_bytes = e->graph.scratch_bytes,
                           .n_replica = ti_graph_replicas(&e->graph)};
}

void ti_engine_reset(ti_engine *e) {
  e->n_flight = 0;
  ti_slots_reset(&e->slots);
  const ti_status st = ti_counts_reset(&e->counts);
  if (st) ti_log_warn("worker: forgetting the slots' counts: %s", ti_status_text(st));  // the next step fails, and says so
}

static ti_status copy_pages(ti_engine *e, const ti_step_plan *plan, ti_error *err) {
  enum { AT_ONCE = 64 };
  int32_t src[AT_ONCE], dst[AT_ONCE], n[AT_ONCE];
  ti_copy_pages_args a = {.kv = e->graph.kv, .layout = &e->graph.layout, .src = src, .dst = dst, .n_token = n};
  ti_status st = TI_OK;
  for (uint32_t i = 0; !st && i < plan->n_copy; i++) {
    const ti_page_copy *c = &plan->copy[i];
    if (c->src >= e->n_page || c->dst >= e->n_page || c->n_token > e->cfg.page_tokens)
      return ti_error_set(err, TI_ERR_FORMAT, "plan: copy[%u]: page %u to %u, %u tokens; there are %u pages of %u", i, c->src, c->dst, c->n_token, e->n_page, e->cfg.page_tokens);
    src[a.n] = (int32_t)c->src, dst[a.n] = (int32_t)c->dst, n[a.n] = (int32_t)c->n_token;
    if (++a.n < AT_ONCE && i + 1 < plan->n_copy) continue;
    st = e->cfg.kernels->copy_pages(e->dev, &a);
    a.n = 0;
  }
  return st ? ti_error_set(err, st, "copying pages: %s", ti_status_text(st)) : TI_OK;
}

static ti_status run_mtp(ti_engine *e, ti_flight *f, ti_arena *arena, ti_error *err) {
  ti_graph *g = &e->graph;
  const int n_lane = g->n_lane_now;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) st = ti_step_batch_shift(&g->lane[i].batch, g->k, e->dev, &e->slots);
  if (!st) st = ti_graph_mtp(g, n_lane, err);
  for (int i = 0; !st && i < n_lane && g->cfg->tap; i++) {  // the drafter will take these; so far only taps see them
    const ti_step_batch *b = &g->lane[i].batch;
    if (b->batch.n_row == 0) continue;
    int n = 0;
    for (int q = 0; q < b->n_seq; q++)
      for (uint32_t j = 0; j < b->seq[q].n_row; j++) {
        f->job[n] = (ti_sample_job){.row = n, .slot = b->seq[q].slot, .target = 0, .n_logprob = 1};
        n++;
      }
    st = ti_sampler_run(&e->sampler, g->lane[i].xn, f->job, 0, n, true, &f->out, err);
    if (!st) st = g->k->sync(e->dev);
    int32_t *best = ti_arena_calloc(arena, (size_t)n, sizeof *best);
    if (!best) return ti_error_set(err, TI_ERR_NOMEM, "MTP results");
    ti_top_logprob top;
    for (int r = 0; !st && r < n; r++) {
      ti_sample_top(&f->out, f->job, r, &top);
      best[r] = (int32_t)top.id[0];
    }
    if (!st) g->cfg->tap(g->cfg->tap_arg, "mtp", 0, best, n, 1);
  }
  return st;
}

static ti_status build_lanes(ti_engine *e, const ti_step_plan *plan, int n_lane, ti_error *err) {
  ti_graph *g = &e->graph;
  const uint32_t mid = n_lane == 2 ? ti_plan_middle(plan) : plan->n_row;
  ti_status st = ti_step_batch_build(&g->lane[0].batch, g->k, e->dev, &e->slots, plan, (ti_batch_span){0, mid, g->recorded != NULL}, err);
  if (!st && n_lane == 2) st = ti_step_batch_build(&g->lane[1].batch, g->k, e->dev, &e->slots, plan, (ti_batch_span){mid, plan->n_row, false}, err);
  if (st && err && !err->code) ti_error_set(err, st, "uploading the batch: %s", ti_status_text(st));
  return st;
}

// Of a step that overlaps the one before, what lies behind that one's end.
static void fill_times(ti_engine *e, uint64_t t0, ti_step_times *out) {
  ti_graph *g = &e->graph;
  if (t0 < e->last_end_ns) t0 = e->last_end_ns;
  const uint64_t end = ti_mono_ns();
  *out = (ti_step_times){.total_us = (uint32_t)((end - t0) / 1000), .wait_us = e->last_end_ns ? (uint32_t)((t0 - e->last_end_ns) / 1000) : 0,
                         .attention_us = (uint32_t)(g->times.attention_ns / 1000), .expert_us = (uint32_t)(g->times.expert_ns / 1000), .sample_us = (uint32_t)(g->times.head_ns / 1000)};
  if (g->exchange) {
    ti_exchange_stats x;
    ti_exchange_stats_take(g->exchange, &x);
    out->dispatch_us = (uint32_t)(x.dispatch_ns / 1000);
    out->combine_us = (uint32_t)(x.combine_ns / 1000);
    out->exposed_us = (uint32_t)(x.exposed_ns / 1000);
    out->slowest_peer = x.slowest_peer < 0 ? 0 : (uint32_t)x.slowest_peer;
    out->slowest_us = (uint32_t)(x.slowest_ns / 1000);
  }
  e->last_end_ns = end;
}

ti_status ti_engine_stage(ti_engine *e, const ti_msg_placement *p, ti_error *err) {
  if (!e->graph.replicas) return ti_error_set(err, TI_ERR_FORMAT, "Placement: version %u, but this worker has no redundant experts", p->version);
  return ti_replicas_stage(e->graph.replicas, p->version, p->slot_expert.v, p->slot_expert.n, err);
}

// The plan's version in force, and the newest one that is here.
static ti_status take_placement(ti_engine *e, uint32_t wanted, uint32_t *ready, ti_error *err) {
  ti_graph *g = &e->graph;
  *ready = 0;
  if (!g->replicas) return wanted ? ti_error_set(err, TI_ERR_FORMAT, "plan.placement: version %u, but this worker has no redundant experts", wanted) : TI_OK;
  ti_error why = {0};
  if (ti_replicas_ready(g->replicas, ready, &why)) ti_log_warn("%s", why.text);
  return wanted == g->placement[0]->version ? TI_OK : ti_replicas_swap(g->replicas, wanted, g->exchange, g->placement, err);
}

int ti_engine_in_flight(const ti_engine *e) { return e->n_flight; }

bool ti_engine_can_submit(const ti_engine *e, const ti_step_plan *plan) {
  if (e->n_flight == 0) return true;
  if (e->n_flight >= e->depth) return false;
  for (int i = 0; i < e->n_flight; i++)
    if (e->flight[(e->oldest + i) % e->depth].drafted) return false;
  for (uint32_t i = 0; i < plan->release.n; i++) {  // its last id is still to be told apart from an end
    const ti_slot *t = plan->release.v[i] < e->slots.n_slot ? &e->slots.slot[plan->release.v[i]] : NULL;
    if (t && t->n_pending && !t->stopped) return false;
  }
  for (uint32_t i = 0; e->cfg.drafter && i < plan->n_row; i++)
    if (plan->row[i].decode && plan->row[i].max_draft) return false;
  return true;
}

// Ids that a step in flight draws into the batch's rows; then layers, sampling, and the slots move on.
static ti_status run_lanes(ti_engine *e, ti_flight *f, const ti_step_plan *plan, ti_error *err) {
  ti_graph *g = &e->graph;
  const int n_lane = g->n_lane_now;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) {
    const ti_step_batch *b = &g->lane[i].batch;
    if (b->n_pending) st = g->k->feed(e->dev, &(ti_feed_args){.ids = b->ids, .slot = b->slot, .last = e->counts.last, .n = b->batch.n_row});
  }
  if (st) return ti_error_set(err, st, "feeding ids: %s", ti_status_text(st));
  st = ti_graph_forward(g, n_lane, err);
  for (int i = 0; !st && i < n_lane; i++) {
    int first;
    ti_flight_add(f, &e->slots, &g->lane[i].batch, &first);
    st = ti_sampler_run(&e->sampler, g->lane[i].xn, f->job, first, f->n_job - first, plan->gather_logits, &f->out, err);
  }
  return st;
}

ti_status ti_engine_submit(ti_engine *e, const ti_step_plan *plan, ti_error *err) {
  ti_graph *g = &e->graph;
  assert(e->n_flight < e->depth);
  const int index = (e->oldest + e->n_flight) % e->depth;
  ti_flight *f = &e->flight[index];
  f->t0_ns = ti_mono_ns();
  g->times = (ti_piece_times){0};
  ti_graph_step(g, (int64_t)plan->step);
  g->padded = plan->form == TI_FORM_DECODE;
  g->n_lane_now = plan->n_micro == 2 && g->n_lane == 2 ? 2 : 1;
  ti_graph_doing(g, "applying a plan");
  ti_status st = take_placement(e, plan->placement, &f->placement, err);
  if (!st) st = ti_slots_apply(&e->slots, plan, err);
  if (!st && (st = ti_counts_apply(&e->counts, &e->slots, plan))) ti_error_set(err, st, "uploading the counts of penalties: %s", ti_status_text(st));
  if (!st) st = copy_pages(e, plan, err);
  if (!st) ti_draft_plan(&e->slots, g->w.mtp ? NULL : e->cfg.drafter, plan);
  if (!st) st = build_lanes(e, plan, g->n_lane_now, err);
  if (st) return st;
  ti_flight_begin(f, plan);
  int n_token = 0;
  for (int i = 0; i < g->n_lane_now; i++) n_token += g->lane[i].batch.n_token;
  if (n_token || g->exchange) st = run_lanes(e, f, plan, err);
  if (!st) ti_graph_costs_out(g);
  if (!st && (st = g->k->mark(e->dev, index))) ti_error_set(err, st, "marking the step: %s", ti_status_text(st));
  if (!st) e->n_flight++;
  ti_graph_doing(g, "waiting for a plan");
  return st;
}

ti_status ti_engine_done(ti_engine *e) {
  assert(e->n_flight > 0);
  return e->cfg.kernels->done(e->dev, e->oldest);
}

static void take_load(ti_graph *g, ti_arena *arena, ti_step_result *out) {
  uint32_t *load = ti_arena_calloc(arena, g->n_load, sizeof *load);
  if (!load) return;
  memcpy(load, g->load, g->n_load * sizeof *load);
  memset(g->load, 0, g->n_load * sizeof *load);
  out->expert_load = (ti_u32s){load, g->n_load};
}

ti_status ti_engine_collect(ti_engine *e, ti_arena *arena, ti_step_result *out, ti_error *err) {
  ti_graph *g = &e->graph;
  assert(e->n_flight > 0);
  ti_flight *f = &e->flight[e->oldest];
  ti_result_row *rows;
  ti_graph_doing(g, "waiting for the device");
  ti_status st = g->k->wait(e->dev, e->oldest);
  e->oldest = (e->oldest + 1) % e->depth;
  e->n_flight--;
  if (st) return ti_error_set(err, st, "the device's work: %s", g->k->last_error ? g->k->last_error(e->dev) : ti_status_text(st));
  st = ti_flight_land(f, &e->slots, e->cfg.model, arena, &rows, err);
  if (!st && g->w.mtp && (f->n_token || g->exchange)) st = run_mtp(e, f, arena, err);
  ti_graph_doing(g, "waiting for a plan");
  if (st) return st;
  *out = (ti_step_result){.epoch = f->epoch, .step = f->step, .row = rows, .n_row = f->n_plan_row, .n_token = f->n_token, .placement = f->placement};
  if (g->exchange && g->n_load) take_load(g, arena, out);
  const uint64_t begin = f->t0_ns < e->last_end_ns ? e->last_end_ns : f->t0_ns;
  fill_times(e, f->t0_ns, &out->times);
  ti_graph_spans_out(g);
  if (e->cfg.trace) ti_trace_span(e->cfg.trace, 0, "step", "step", begin, ti_mono_ns(), (int64_t)f->step, -1);
  return TI_OK;
}

ti_status ti_engine_step(ti_engine *e, const ti_step_plan *plan, ti_arena *arena, ti_step_result *out, ti_error *err) {
  const ti_status st = ti_engine_submit(e, plan, err);
  return st ? st : ti_engine_collect(e, arena, out, err);
}
