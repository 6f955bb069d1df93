#include "worker/sample/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool ti_sampling_needs_gather(const ti_sampling *p) {
  return p->n_logprob >= 0 || p->n_prompt_logprob >= 0 || (p->temperature > 0 && (p->top_k > 0 || p->top_p < 1 || p->min_p > 0));
}

ti_status ti_sampler_init(ti_sampler *s, ti_graph *g, ti_slots *slots, ti_error *err) {
  *s = (ti_sampler){.g = g, .slots = slots};
  const size_t tile = TI_SAMPLE_TILE, vocab = (size_t)g->c->vocab, bias = tile * TI_SAMPLE_BIAS, top = tile * TI_TOP_LOGPROBS;
  struct { void *p; size_t n; } dev[] = {
      {&s->x, tile * (size_t)g->c->hidden * g->act_bytes}, {&s->raw, tile * vocab * 4}, {&s->work, tile * vocab * 4}, {&s->shard, g->tp->size > 1 ? tile * vocab * 4 : 0},
      {&s->index, tile * 4}, {&s->params, tile * sizeof *s->params}, {&s->bias_id, bias * 4}, {&s->bias_value, bias * 4}, {&s->id, tile * 4}, {&s->rank, tile * 4},
      {&s->target, tile * 4}, {&s->top_id, top * 4}, {&s->value, tile * 4}, {&s->logprob, tile * 4}, {&s->top_logprob, top * 4}};
  for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) {
    if (!dev[i].n) continue;
    void *m = ti_graph_alloc(g, dev[i].n);
    memcpy(dev[i].p, &m, sizeof m);
    if (!m) goto err_memory;
  }
  struct { void *p; size_t n; } host[] = {{&s->h_params, tile * sizeof *s->h_params}, {&s->h_bias_id, bias * 4}, {&s->h_bias_value, bias * 4}, {&s->h_id, tile * 4}, {&s->h_rank, tile * 4},
                                          {&s->h_top_id, top * 4}, {&s->h_value, tile * 4}, {&s->h_logprob, tile * 4}, {&s->h_top_logprob, top * 4},
                                          {&s->pair, 2 * tile * 4 * (size_t)(g->tp->size + 1)}};
  size_t all = 0;
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) all += (host[i].n + 63) & ~(size_t)63;
  s->host = calloc(1, all);
  if (!s->host) goto err_memory;
  char *at = s->host;
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
    memcpy(host[i].p, &at, sizeof at);
    at += (host[i].n + 63) & ~(size_t)63;
  }
  return TI_OK;
err_memory:
  ti_sampler_fini(s);
  return ti_error_set(err, TI_ERR_NOMEM, "no memory for logits of %d rows of %d", TI_SAMPLE_TILE, g->c->vocab);
}

void ti_sampler_fini(ti_sampler *s) {
  if (!s->g) return;
  void *p[] = {s->x, s->raw, s->work, s->shard, s->index, s->params, s->bias_id, s->bias_value, s->id, s->rank, s->target, s->top_id, s->value, s->logprob, s->top_logprob};
  for (size_t i = 0; i < sizeof p / sizeof *p; i++)
    if (p[i]) s->g->k->free(s->g->d, p[i]);
  free(s->host);
  *s = (ti_sampler){0};
}

typedef struct tile {  // what the rows of a tile want
  int n;
  bool draw, process, logprob, top, gathered;
} tile;

// Parameters and bias entries of each row: the request's logit_bias, then eos and stop ids at -inf while min_tokens is not reached.
static void fill_params(ti_sampler *s, const ti_sample_job *job, tile *t) {
  const ti_config *c = s->g->c;
  int at = 0;
  for (int i = 0; i < t->n; i++) {
    const ti_slot *slot = &s->slots->slot[job[i].slot];
    const ti_sampling *p = &slot->sampling;
    const int bias0 = at;
    memcpy(s->h_bias_id + at, slot->bias_id, slot->n_bias * sizeof(int32_t));
    memcpy(s->h_bias_value + at, slot->bias_value, slot->n_bias * sizeof(float));
    at += (int)slot->n_bias;
    const bool suppress = ti_slot_generated(slot) < slot->min_tokens;
    for (int e = 0; suppress && e < c->n_eos; e++) s->h_bias_id[at] = c->eos[e], s->h_bias_value[at++] = -INFINITY;
    for (uint32_t e = 0; suppress && e < slot->n_stop; e++) s->h_bias_id[at] = (int32_t)slot->stop[e], s->h_bias_value[at++] = -INFINITY;
    s->h_params[i] = (ti_sample_params){.temperature = p->temperature, .top_p = p->top_p, .min_p = p->min_p, .top_k = p->top_k, .repetition = p->repetition, .frequency = p->frequency,
                                        .presence = p->presence, .seed = p->seed, .choice = p->choice, .position = job[i].position, .slot = (int32_t)job[i].slot, .bias0 = bias0,
                                        .n_bias = at - bias0, .n_logprob = job[i].n_logprob, .suppress_eos = 1};
    t->draw |= job[i].target < 0;
    t->process |= job[i].target < 0 && (slot->penalised || at > bias0);
    t->logprob |= job[i].n_logprob >= 0;
    t->top |= job[i].n_logprob > 0;
  }
}

// shards [rank][n][n_vocab of rank] -> raw [n, vocab].
static ti_status gather_logits(ti_sampler *s, int n) {
  ti_graph *g = s->g;
  size_t counts[TI_GRAPH_RANKS];
  long v0, v1;
  for (int r = 0; r < g->tp->size; r++) {
    ti_split(g->c->vocab, g->tp->size, r, &v0, &v1);
    counts[r] = (size_t)n * (size_t)(v1 - v0);
  }
  const ti_status st = ti_coll_all_gather(g->tp, s->raw, s->shard, counts, TI_F32);
  const float *from = s->shard;
  for (int r = 0; !st && r < g->tp->size; r++) {
    ti_split(g->c->vocab, g->tp->size, r, &v0, &v1);
    for (int i = 0; i < n; i++, from += v1 - v0) memcpy(s->raw + (size_t)i * (size_t)g->c->vocab + v0, from, (size_t)(v1 - v0) * sizeof *from);
  }
  return st;
}

// The argmax over ranks of each row's (value, id): equal values go to the lower id, as in the op.
static ti_status argmax_over_ranks(ti_sampler *s, int n) {
  ti_graph *g = s->g;
  const int size = g->tp->size;
  size_t counts[TI_GRAPH_RANKS];
  float *mine = s->pair + (size_t)size * 2 * TI_SAMPLE_TILE;
  for (int r = 0; r < size; r++) counts[r] = 2 * (size_t)n;
  for (int i = 0; i < n; i++) {
    mine[2 * i] = s->h_value[i];
    memcpy(&mine[2 * i + 1], &s->h_id[i], 4);
  }
  const ti_status st = ti_coll_all_gather(g->tp, mine, s->pair, counts, TI_F32);
  for (int i = 0; !st && i < n; i++) {
    float best = -INFINITY;
    s->h_value[i] = best;
    for (int r = 0; r < size; r++) {
      const float *p = s->pair + ((size_t)r * (size_t)n + (size_t)i) * 2;
      if (r == 0 || p[0] > best) {  // ranks hold ascending ids
        s->h_value[i] = best = p[0];
        memcpy(&s->h_id[i], &p[1], 4);
      }
    }
  }
  return st;
}

static ti_status draw(ti_sampler *s, ti_sample_job *job, const tile *t) {
  ti_graph *g = s->g;
  const ti_kernels *k = g->k;
  const bool sharded = g->tp->size > 1 && !t->gathered;
  const int n_id = sharded ? g->w.n_vocab : g->c->vocab, first = sharded ? g->w.vocab0 : 0;
  float *logits = s->raw;
  ti_status st = k->upload(g->d, s->params, s->h_params, (size_t)t->n * sizeof *s->params);
  if (!st && t->process) {
    const int n_bias = s->h_params[t->n - 1].bias0 + s->h_params[t->n - 1].n_bias;
    if (n_bias) st = k->upload(g->d, s->bias_id, s->h_bias_id, (size_t)n_bias * 4);
    if (!st && n_bias) st = k->upload(g->d, s->bias_value, s->h_bias_value, (size_t)n_bias * 4);
    if (t->logprob) {  // logprobs are of raw logits
      memcpy(s->work, s->raw, (size_t)t->n * (size_t)n_id * sizeof *s->raw);
      logits = s->work;
    }
    if (!st)
      st = k->penalties(g->d, &(ti_penalty_args){.logits = logits, .params = s->params, .out_count = s->slots->out_count, .in_prompt = s->slots->in_prompt, .bias_id = s->bias_id,
                                                 .bias_value = s->bias_value, .n_row = t->n, .n_id = n_id, .first_id = first, .vocab = g->c->vocab});
  }
  if (!st) st = k->sample(g->d, &(ti_sample_args){.logits = logits, .params = s->params, .id = s->id, .value = s->value, .n_row = t->n, .n_id = n_id, .first_id = first});
  if (!st) st = k->download(g->d, s->h_id, s->id, (size_t)t->n * 4);
  if (!st) st = k->download(g->d, s->h_value, s->value, (size_t)t->n * 4);
  if (!st) st = k->sync(g->d);
  if (!st && sharded) st = argmax_over_ranks(s, t->n);
  for (int i = 0; i < t->n; i++) {
    job[i].lost = job[i].target < 0 && !(s->h_value[i] > -INFINITY);
    if (job[i].target >= 0) s->h_id[i] = job[i].target;
  }
  return st;
}

static float sendable(float x) { return isfinite(x) ? x : TI_SAMPLE_NO_LOGPROB; }

static ti_status logprobs(ti_sampler *s, ti_sample_job *job, const tile *t, ti_arena *arena) {
  ti_graph *g = s->g;
  const ti_kernels *k = g->k;
  const size_t n = (size_t)t->n;
  ti_status st = k->upload(g->d, s->target, s->h_id, n * 4);
  if (!st)
    st = k->logprobs(g->d, &(ti_logprob_args){.logits = s->raw, .target = s->target, .logprob = s->logprob, .rank = s->rank, .top_id = t->top ? s->top_id : NULL,
                                              .top_logprob = s->top_logprob, .n_row = t->n, .vocab = g->c->vocab});
  if (!st) st = k->download(g->d, s->h_logprob, s->logprob, n * 4);
  if (!st) st = k->download(g->d, s->h_rank, s->rank, n * 4);
  if (!st && t->top) st = k->download(g->d, s->h_top_id, s->top_id, n * TI_TOP_LOGPROBS * 4);
  if (!st && t->top) st = k->download(g->d, s->h_top_logprob, s->top_logprob, n * TI_TOP_LOGPROBS * 4);
  if (!st) st = k->sync(g->d);
  for (int i = 0; !st && i < t->n; i++) {
    job[i].logprob = sendable(s->h_logprob[i]);
    job[i].rank = s->h_rank[i];
    if (job[i].n_logprob <= 0) continue;
    ti_top_logprob *top = job[i].top = ti_arena_calloc(arena, 1, sizeof *top);
    if (!top) return TI_ERR_NOMEM;
    for (int j = 0; j < job[i].n_logprob && s->h_top_id[i * TI_TOP_LOGPROBS + j] >= 0; j++, top->n++) {
      top->id[j] = (uint32_t)s->h_top_id[i * TI_TOP_LOGPROBS + j];
      top->logprob[j] = sendable(s->h_top_logprob[i * TI_TOP_LOGPROBS + j]);
    }
  }
  return st;
}

static ti_status run_tile(ti_sampler *s, const void *x, ti_sample_job *job, int n, bool gather, ti_arena *arena, ti_error *err) {
  ti_graph *g = s->g;
  tile t = {.n = n, .gathered = gather && g->tp->size > 1};
  for (int i = 0; i < n; i++) s->h_id[i] = job[i].row;
  fill_params(s, job, &t);
  if (t.logprob && g->tp->size > 1 && !gather) return ti_error_set(err, TI_ERR_FORMAT, "plan: rows want logprobs and gather_logits is not set");
  ti_status st = g->k->upload(g->d, s->index, s->h_id, (size_t)n * 4);
  if (!st) st = g->k->permute(g->d, &(ti_permute_args){.out = s->x, .x = x, .src = s->index, .n_out = n, .n_top = 1, .dim = g->c->hidden});
  if (!st) st = ti_graph_head(g, s->x, n, s->raw, err);
  if (!st && t.gathered) st = gather_logits(s, n);
  if (!st && g->cfg->tap && (t.gathered || g->tp->size == 1)) ti_graph_tap(g, "logits", 0, s->raw, n, g->c->vocab);
  for (int i = 0; i < n; i++) s->h_id[i] = job[i].target;
  if (!st && t.draw) st = draw(s, job, &t);
  for (int i = 0; i < n; i++) job[i].id = s->h_id[i];
  if (!st && t.logprob) st = logprobs(s, job, &t, arena);
  if (st && err && !err->code) ti_error_set(err, st, "sampling: %s", ti_status_text(st));
  return st;
}

ti_status ti_sampler_run(ti_sampler *s, const void *x, ti_sample_job *job, int n, bool gather, ti_arena *arena, ti_error *err) {
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n; i += TI_SAMPLE_TILE) st = run_tile(s, x, job + i, n - i < TI_SAMPLE_TILE ? n - i : TI_SAMPLE_TILE, gather, arena, err);
  return st;
}
