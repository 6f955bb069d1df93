// The step: plan -> slots -> batches -> forward -> tokens -> result.
#include "worker/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/graph/graph.h"
#include "worker/sample/sampler.h"
#include "worker/spec/draft.h"

struct ti_engine {
  ti_engine_config cfg;
  ti_dev *dev;
  ti_graph graph;
  ti_slots slots;
  ti_sampler sampler;
  ti_sample_job *job;   // [max rows]
  uint32_t n_page;
  uint64_t last_end_ns;
};

ti_status ti_engine_create(const ti_engine_config *cfg, ti_engine **out, ti_error *err) {
  ti_engine *e = calloc(1, sizeof *e);
  if (!e) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the engine");
  e->cfg = *cfg;
  ti_status st = cfg->kernels->open(&cfg->dev, &e->dev, err);
  if (st) goto err_open;
  st = ti_graph_init(&e->graph, &e->cfg, e->dev, err);
  if (st) goto err_graph;
  const uint64_t pages = cfg->kv_bytes / e->graph.layout.page_bytes;
  e->n_page = pages > INT32_MAX ? INT32_MAX : (uint32_t)pages;
  st = ti_slots_init(&e->slots, cfg->max_num_seqs, cfg->max_model_len, cfg->page_tokens, e->n_page, (uint32_t)cfg->model->vocab);
  e->job = calloc(cfg->max_num_batched_tokens, sizeof *e->job);
  if (st || !e->job) {
    st = ti_error_set(err, TI_ERR_NOMEM, "no memory for %u slots of %u tokens; lower --max-num-seqs or --max-model-len", cfg->max_num_seqs, cfg->max_model_len);
    goto err_slots;
  }
  e->slots.lookahead = e->graph.w.mtp ? 1 : 0;
  st = ti_sampler_init(&e->sampler, &e->graph, &e->slots, err);
  if (st) goto err_slots;
  *out = e;
  return TI_OK;
err_slots:
  free(e->job);
  ti_slots_fini(&e->slots);
  ti_graph_fini(&e->graph);
err_graph:
  cfg->kernels->close(e->dev);
err_open:
  free(e);
  return st;
}

void ti_engine_destroy(ti_engine *e) {
  if (!e) return;
  ti_sampler_fini(&e->sampler);
  ti_slots_fini(&e->slots);
  ti_graph_fini(&e->graph);
  e->cfg.kernels->close(e->dev);
  free(e->job);
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

void ti_engine_reset(ti_engine *e) { ti_slots_reset(&e->slots); }

static ti_status copy_pages(ti_engine *e, const ti_step_plan *plan, ti_arena *arena, ti_error *err) {
  if (plan->n_copy == 0) return TI_OK;
  int32_t *v = ti_arena_calloc(arena, 3 * (size_t)plan->n_copy, sizeof *v);
  if (!v) return ti_error_set(err, TI_ERR_NOMEM, "plan: %u page copies", plan->n_copy);
  int32_t *src = v, *dst = v + plan->n_copy, *n = dst + plan->n_copy;
  for (uint32_t i = 0; i < plan->n_copy; i++) {
    const ti_page_copy *c = &plan->copy[i];
    if (c->src >= e->n_page || c->dst >= e->n_page || c->n_token > e->cfg.page_tokens)
      return ti_error_set(err, TI_ERR_FORMAT, "plan: copy[%u]: page %u to %u, %u tokens; there are %u pages of %u", i, c->src, c->dst, c->n_token, e->n_page, e->cfg.page_tokens);
    src[i] = (int32_t)c->src, dst[i] = (int32_t)c->dst, n[i] = (int32_t)c->n_token;
  }
  return e->cfg.kernels->copy_pages(e->dev, &(ti_copy_pages_args){.kv = e->graph.kv, .layout = &e->graph.layout, .src = src, .dst = dst, .n_token = n, .n = (int)plan->n_copy});
}

// Logprobs of a chunk's prompt tokens: row i predicts token place0 + i + 1.
static ti_status prompt_logprobs(ti_engine *e, ti_lane *l, const ti_seq_ref *q, int row0, bool gather, ti_arena *arena, ti_result_row *out, ti_error *err) {
  const ti_slot *t = &e->slots.slot[q->slot];
  if (t->sampling.n_prompt_logprob < 0 || q->place0 + 1 >= t->n_prompt) return TI_OK;
  const uint32_t n = q->place0 + q->n_row < t->n_prompt ? q->n_row : t->n_prompt - 1 - q->place0;
  for (uint32_t i = 0; i < n; i++)
    e->job[i] = (ti_sample_job){.row = row0 + (int)i, .slot = q->slot, .target = t->ids[q->place0 + i + 1], .position = q->place0 + i + 1, .n_logprob = t->sampling.n_prompt_logprob};
  const ti_status st = ti_sampler_run(&e->sampler, l->xn, e->job, (int)n, gather, arena, err);
  if (st) return st;
  float *lp = ti_arena_calloc(arena, n, sizeof *lp);
  uint32_t *rank = ti_arena_calloc(arena, n, sizeof *rank);
  ti_top_logprob *top = t->sampling.n_prompt_logprob > 0 ? ti_arena_calloc(arena, n, sizeof *top) : NULL;
  if (!lp || !rank || (t->sampling.n_prompt_logprob > 0 && !top)) return ti_error_set(err, TI_ERR_NOMEM, "prompt logprobs of %u tokens", n);
  for (uint32_t i = 0; i < n; i++) {
    lp[i] = e->job[i].logprob;
    rank[i] = (uint32_t)e->job[i].rank;
    if (top) top[i] = *e->job[i].top;
  }
  out->prompt_logprob = (ti_f32s){lp, n};
  out->prompt_rank = (ti_u32s){rank, n};
  out->prompt_top = top;
  out->n_prompt_top = top ? n : 0;
  return TI_OK;
}

// The drawn tokens of one sequence into its slot and its result row: job[0 .. n_draft]. Draft i is kept while it is what row i drew; the first that is
// not is replaced by the draw, and what was drawn after it is void.
static ti_status deliver(ti_engine *e, const ti_sample_job *job, uint32_t n_draft, ti_arena *arena, ti_result_row *out, ti_error *err) {
  const uint32_t most = n_draft + 1;
  ti_slot *t = &e->slots.slot[job->slot];
  uint32_t *token = ti_arena_calloc(arena, 2 * (size_t)most, sizeof *token), *rank = token + most, n = 0;
  float *lp = ti_arena_calloc(arena, most, sizeof *lp);
  ti_top_logprob *top = job->top ? ti_arena_calloc(arena, most, sizeof *top) : NULL;
  if (!token || !lp || (job->top && !top)) return ti_error_set(err, TI_ERR_NOMEM, "results");
  for (bool right = true; right; n++) {
    const int32_t draft = n < n_draft ? t->ids[t->n_ids] : -1;
    token[n] = (uint32_t)job[n].id;
    rank[n] = (uint32_t)job[n].rank;
    lp[n] = job[n].logprob;
    if (top) top[n] = *job[n].top;
    out->finish = ti_slot_push(&e->slots, job->slot, job[n].id, e->cfg.model->eos, e->cfg.model->n_eos);
    if (job[n].lost) {
      t->finished = true;
      out->finish = TI_FINISH_ERROR;
    }
    right = out->finish == TI_FINISH_NONE && job[n].id == draft;
  }
  t->n_kv += n - 1;  // the drafts that were fed and stay
  out->token = (ti_u32s){token, n};
  out->n_draft = n_draft;
  out->n_accepted = n - 1;
  ti_draft_learn(t, n - 1);
  if (job->n_logprob >= 0) {
    out->logprob = (ti_f32s){lp, n};
    out->rank = (ti_u32s){rank, n};
    out->top = top;
    out->n_top = top ? n : 0;
  }
  return TI_OK;
}

static ti_status sample_lane(ti_engine *e, ti_lane *l, bool gather, ti_arena *arena, ti_result_row *rows, ti_error *err) {
  const ti_step_batch *b = &l->batch;
  ti_status st = TI_OK;
  for (int q = 0; !st && q < b->batch.n_seq; q++) {
    e->slots.slot[b->seq[q].slot].n_kv += b->seq[q].n_row - b->seq[q].n_draft;
    st = prompt_logprobs(e, l, &b->seq[q], b->h_row0[q], gather, arena, &rows[b->seq[q].plan_row], err);
  }
  int n = 0;
  for (int q = 0; q < b->batch.n_seq; q++) {
    const ti_seq_ref *s = &b->seq[q];
    const ti_slot *t = &e->slots.slot[s->slot];
    for (uint32_t j = 0; s->sample && j <= s->n_draft; j++)
      e->job[n++] = (ti_sample_job){.row = b->h_row0[q + 1] - 1 - (int)(s->n_draft - j), .slot = s->slot, .target = -1, .position = t->n_ids + j, .n_logprob = t->sampling.n_logprob};
  }
  if (!st) st = ti_sampler_run(&e->sampler, l->xn, e->job, n, gather, arena, err);
  n = 0;
  for (int q = 0; !st && q < b->batch.n_seq; q++)
    if (b->seq[q].sample) {
      st = deliver(e, &e->job[n], b->seq[q].n_draft, arena, &rows[b->seq[q].plan_row], err);
      n += 1 + (int)b->seq[q].n_draft;
    }
  return st;
}

static ti_status run_mtp(ti_engine *e, int n_lane, ti_arena *arena, ti_error *err) {
  ti_graph *g = &e->graph;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_lane; i++) st = ti_step_batch_shift(&g->lane[i].batch, g->k, e->dev, &e->slots);
  if (!st) st = ti_graph_mtp(g, n_lane, err);
  for (int i = 0; !st && i < n_lane && g->cfg->tap; i++) {  // the drafter will take these; so far only taps see them
    const ti_step_batch *b = &g->lane[i].batch;
    if (b->batch.n_row == 0) continue;
    int n = 0;
    for (int q = 0; q < b->batch.n_seq; q++)
      for (uint32_t j = 0; j < b->seq[q].n_row; j++)
        e->job[n] = (ti_sample_job){.row = n, .slot = b->seq[q].slot, .target = 0, .n_logprob = 1}, n++;
    st = ti_sampler_run(&e->sampler, g->lane[i].xn, e->job, n, true, arena, err);
    int32_t *best = ti_arena_calloc(arena, (size_t)n, sizeof *best);
    if (!best) return ti_error_set(err, TI_ERR_NOMEM, "MTP results");
    for (int r = 0; !st && r < n; r++) best[r] = (int32_t)e->job[r].top->id[0];
    if (!st) g->cfg->tap(g->cfg->tap_arg, "mtp", 0, best, n, 1);
  }
  return st;
}

static ti_status build_lanes(ti_engine *e, const ti_step_plan *plan, int n_lane, ti_error *err) {
  const uint32_t mid = n_lane == 2 ? ti_plan_middle(plan) : plan->n_row;
  ti_status st = ti_step_batch_build(&e->graph.lane[0].batch, e->graph.k, e->dev, &e->slots, plan, 0, mid, err);
  if (!st && n_lane == 2) st = ti_step_batch_build(&e->graph.lane[1].batch, e->graph.k, e->dev, &e->slots, plan, mid, plan->n_row, err);
  return st;
}

static void fill_times(ti_engine *e, uint64_t t0, ti_step_times *out) {
  ti_graph *g = &e->graph;
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

ti_status ti_engine_step(ti_engine *e, const ti_step_plan *plan, ti_arena *arena, ti_step_result *out, ti_error *err) {
  ti_graph *g = &e->graph;
  const uint64_t t0 = ti_mono_ns();
  g->times = (ti_piece_times){0};
  g->step = (int64_t)plan->step;
  g->padded = plan->form == TI_FORM_DECODE;
  const int n_lane = plan->n_micro == 2 && g->n_lane == 2 ? 2 : 1;
  ti_result_row *rows = ti_arena_calloc(arena, plan->n_row ? plan->n_row : 1, sizeof *rows);
  if (!rows) return ti_error_set(err, TI_ERR_NOMEM, "plan: %u rows do not fit the step's arena", plan->n_row);
  for (uint32_t i = 0; i < plan->n_row; i++) rows[i].slot = plan->row[i].slot;
  uint32_t placement;
  ti_status st = take_placement(e, plan->placement, &placement, err);
  if (!st) st = ti_slots_apply(&e->slots, plan, err);
  if (!st) st = copy_pages(e, plan, arena, err);
  if (!st) ti_draft_plan(&e->slots, g->w.mtp ? NULL : e->cfg.drafter, plan);
  if (!st) st = build_lanes(e, plan, n_lane, err);
  uint32_t n_token = 0;
  for (int i = 0; !st && i < n_lane; i++) n_token += (uint32_t)g->lane[i].batch.batch.n_row;
  if (!st && (n_token || g->exchange)) {
    st = ti_graph_forward(g, n_lane, err);
    for (int i = 0; !st && i < n_lane; i++) st = sample_lane(e, &g->lane[i], plan->gather_logits, arena, rows, err);
    if (!st && g->w.mtp) st = run_mtp(e, n_lane, arena, err);
  }
  ti_graph_doing(g, "waiting for a plan");
  if (st) return st;
  *out = (ti_step_result){.epoch = plan->epoch, .step = plan->step, .row = rows, .n_row = plan->n_row, .n_token = n_token, .placement = placement};
  if (g->exchange && g->n_load) {
    uint32_t *load = ti_arena_calloc(arena, g->n_load, sizeof *load);
    if (load) {
      memcpy(load, g->load, g->n_load * sizeof *load);
      memset(g->load, 0, g->n_load * sizeof *load);
      out->expert_load = (ti_u32s){load, g->n_load};
    }
  }
  fill_times(e, t0, &out->times);
  if (e->cfg.trace) ti_trace_span(e->cfg.trace, 0, "step", "step", t0, ti_mono_ns(), g->step, -1);
  return TI_OK;
}
