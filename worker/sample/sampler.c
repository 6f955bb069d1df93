#include "worker/sample/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool ti_sampling_needs_gather(const ti_sampling *p) {
  return p->n_logprob >= 0 || p->n_prompt_logprob >= 0 || (p->temperature > 0 && (p->top_k > 0 || p->top_p < 1 || p->min_p > 0));
}

static size_t image_bytes(int tile) { return (size_t)tile * (sizeof(ti_sample_params) + 3 * sizeof(int32_t) + TI_SAMPLE_BIAS * 8); }

ti_status ti_sampler_init(ti_sampler *s, ti_graph *g, const ti_slots *slots, const ti_counts *counts, ti_error *err) {
  *s = (ti_sampler){.g = g, .slots = slots, .counts = counts, .tile = g->sample_tile};
  const size_t tile = (size_t)s->tile, vocab = (size_t)g->c->vocab;
  struct {
    void *p;
    size_t n;
  } dev[] = {{&s->x, tile * (size_t)g->c->hidden * g->act_bytes},
             {&s->raw, tile * vocab * 4},
             {&s->work, tile * vocab * 4},
             {&s->shard, g->tp->size > 1 ? tile * vocab * 4 : 0},
             {&s->image, image_bytes(s->tile)},
             {&s->row, tile * 4},
             {&s->pick, tile * 8},
             {&s->prob, tile * 8},
             {&s->top, tile * 8 * TI_TOP_LOGPROBS}};
  for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) {
    if (!dev[i].n) continue;
    void *m = ti_graph_alloc(g, dev[i].n);
    memcpy(dev[i].p, &m, sizeof m);
    if (!m) goto err_memory;
  }
  s->h_image = g->k->alloc_host(g->d, image_bytes(s->tile));
  if (g->tp->size > 1 && g->k->async && !(s->h_shard = g->k->alloc_host(g->d, 2 * tile * vocab * 4))) goto err_memory;
  s->pair = calloc(2 * tile * (size_t)(g->tp->size + 1), sizeof *s->pair);
  if (!s->h_image || !s->pair) goto err_memory;
  int32_t *row = s->h_image;
  for (int32_t i = 0; i < s->tile; i++) row[i] = i;
  const ti_status st = g->k->upload(g->d, s->row, row, tile * sizeof *row);
  if (st) {
    ti_sampler_fini(s);
    return ti_error_set(err, st, "sampler: uploading row numbers: %s", ti_status_text(st));
  }
  return TI_OK;
err_memory:
  ti_sampler_fini(s);
  return ti_error_set(err, TI_ERR_NOMEM, "no memory for logits of %zu rows of %d", tile, g->c->vocab);
}

void ti_sampler_fini(ti_sampler *s) {
  if (!s->g) return;
  void *p[] = {s->x, s->raw, s->work, s->shard, s->image, s->row, s->pick, s->prob, s->top};
  for (size_t i = 0; i < sizeof p / sizeof *p; i++)
    if (p[i]) s->g->k->free(s->g->d, p[i]);
  if (s->h_image) s->g->k->free_host(s->g->d, s->h_image);
  if (s->h_shard) s->g->k->free_host(s->g->d, s->h_shard);
  free(s->pair);
  *s = (ti_sampler){0};
}

ti_status ti_sample_out_init(ti_sample_out *o, const ti_kernels *k, ti_dev *d, int max_job) {
  *o = (ti_sample_out){.max_job = max_job};
  o->pick = k->alloc_host(d, 2 * (size_t)max_job * sizeof *o->pick);
  o->prob = k->alloc_host(d, 2 * (size_t)max_job * sizeof *o->prob);
  o->top = k->alloc_host(d, 2 * (size_t)max_job * TI_TOP_LOGPROBS * sizeof *o->top);
  if (o->pick && o->prob && o->top) return TI_OK;
  ti_sample_out_fini(o, k, d);
  return TI_ERR_NOMEM;
}

void ti_sample_out_fini(ti_sample_out *o, const ti_kernels *k, ti_dev *d) {
  if (o->pick) k->free_host(d, o->pick);
  if (o->prob) k->free_host(d, o->prob);
  if (o->top) k->free_host(d, o->top);
  *o = (ti_sample_out){0};
}

typedef struct tile {  // what the rows of a tile want, and where the image's parts lie
  int n, n_bias;
  int first_row;  // the rows follow each other from here on; -1: they are picked
  bool draw, process, logprob, top, gathered, sharded;
  size_t index, slot, target, bias_id, bias_value, bytes;  // offsets
} tile;

static void *at(const ti_sampler *s, size_t offset) { return (char *)s->image + offset; }

// Whether eos and stop ids are held back: min_tokens is not reached.
static bool suppressed(const ti_slot *t, const ti_sample_job *j) { return j->target < 0 && j->position - t->n_prompt < t->min_tokens; }

// The bias entries of each row: the request's logit_bias, then eos and stop ids at -inf while min_tokens is not reached.
static void fill_bias(ti_sampler *s, const ti_sample_job *job, tile *t) {
  const ti_config *c = s->g->c;
  ti_sample_params *params = s->h_image;
  int32_t *id = (int32_t *)(void *)((char *)s->h_image + t->bias_id);
  float *value = (float *)(void *)((char *)s->h_image + t->bias_value);
  int k = 0;
  for (int i = 0; i < t->n; i++) {
    const ti_slot *slot = &s->slots->slot[job[i].slot];
    const bool suppress = suppressed(slot, &job[i]);
    params[i].bias0 = k;
    memcpy(id + k, slot->bias_id, slot->n_bias * sizeof *id);
    memcpy(value + k, slot->bias_value, slot->n_bias * sizeof *value);
    k += (int)slot->n_bias;
    for (int e = 0; suppress && e < c->n_eos; e++) id[k] = c->eos[e], value[k++] = -INFINITY;
    for (uint32_t e = 0; suppress && e < slot->n_stop; e++) id[k] = (int32_t)slot->stop[e], value[k++] = -INFINITY;
    params[i].n_bias = k - params[i].bias0;
  }
}

static void fill_image(ti_sampler *s, const ti_sample_job *job, tile *t) {
  ti_sample_params *params = s->h_image;
  int32_t *index = (int32_t *)(params + t->n), *slots = index + t->n, *target = slots + t->n;
  bool picked = false;
  t->first_row = job[0].row;
  for (int i = 0; i < t->n; i++) {
    const ti_slot *slot = &s->slots->slot[job[i].slot];
    const ti_sampling *p = &slot->sampling;
    const bool draws = job[i].target < 0, suppress = suppressed(slot, &job[i]);
    const int bias = (int)slot->n_bias + (suppress ? s->g->c->n_eos + (int)slot->n_stop : 0);
    index[i] = job[i].row;
    if (job[i].row != t->first_row + i) picked = true;
    slots[i] = draws ? (int32_t)job[i].slot : -1;
    target[i] = job[i].target;
    params[i] = (ti_sample_params){.temperature = p->temperature,
                                   .top_p = p->top_p,
                                   .min_p = p->min_p,
                                   .top_k = p->top_k,
                                   .repetition = p->repetition,
                                   .frequency = p->frequency,
                                   .presence = p->presence,
                                   .seed = p->seed,
                                   .choice = p->choice,
                                   .position = job[i].position,
                                   .slot = (int32_t)job[i].slot,
                                   .n_logprob = job[i].n_logprob,
                                   .suppress_eos = 1};
    t->n_bias += bias;
    t->draw |= draws;
    t->process |= draws && (slot->penalised || bias > 0);
    t->logprob |= job[i].n_logprob >= 0;
    t->top |= job[i].n_logprob > 0;
  }
  if (picked) t->first_row = -1;
  const size_t n = (size_t)t->n * sizeof(int32_t);
  t->index = (size_t)t->n * sizeof *params;
  t->slot = t->index + n;
  t->target = t->slot + n;
  t->bias_id = t->target + n;
  t->bias_value = t->bias_id + (size_t)t->n_bias * sizeof(int32_t);
  t->bytes = t->process ? t->bias_value + (size_t)t->n_bias * sizeof(float) : t->bias_id;
  if (t->process) fill_bias(s, job, t);
}

// shards [rank][n][n_vocab of rank] -> raw [n, vocab]. Through host memory: the collectives' is the host's.
static ti_status gather_logits(ti_sampler *s, int n) {
  ti_graph *g = s->g;
  const ti_kernels *k = g->k;
  const size_t vocab = (size_t)g->c->vocab, own = (size_t)n * (size_t)g->w.n_vocab;
  size_t counts[TI_GRAPH_RANKS];
  long v0, v1;
  for (int r = 0; r < g->tp->size; r++) {
    ti_split(g->c->vocab, g->tp->size, r, &v0, &v1);
    counts[r] = (size_t)n * (size_t)(v1 - v0);
  }
  float *send = s->raw, *recv = s->shard, *whole = s->raw;
  ti_status st = TI_OK;
  if (k->async) {  // [.. vocab a row: what comes] [.. what is sent, then the rows put together]
    recv = s->h_shard;
    send = whole = s->h_shard + (size_t)s->tile * vocab;
    st = k->download(g->d, send, s->raw, own * sizeof *send);
    if (!st) st = k->sync(g->d);
  }
  if (!st) st = ti_coll_all_gather(g->tp, send, recv, counts, TI_F32);
  const float *from = recv;
  for (int r = 0; !st && r < g->tp->size; r++) {
    ti_split(g->c->vocab, g->tp->size, r, &v0, &v1);
    for (int i = 0; i < n; i++, from += v1 - v0) memcpy(whole + (size_t)i * vocab + v0, from, (size_t)(v1 - v0) * sizeof *from);
  }
  return st || !k->async ? st : k->upload(g->d, s->raw, whole, (size_t)n * vocab * sizeof *whole);
}

// The argmax over ranks of each row's (value, id): equal values go to the lower id, as in the op. pick: n ids, n values.
static ti_status argmax_over_ranks(ti_sampler *s, int n, int32_t *pick) {
  ti_graph *g = s->g;
  const int size = g->tp->size;
  size_t counts[TI_GRAPH_RANKS];
  float *mine = s->pair + 2 * (size_t)size * (size_t)s->tile;
  for (int r = 0; r < size; r++) counts[r] = 2 * (size_t)n;
  for (int i = 0; i < n; i++) {
    memcpy(&mine[2 * i], &pick[n + i], 4);
    memcpy(&mine[2 * i + 1], &pick[i], 4);
  }
  const ti_status st = ti_coll_all_gather(g->tp, mine, s->pair, counts, TI_F32);
  for (int i = 0; !st && i < n; i++) {
    float best = 0;
    for (int r = 0; r < size; r++) {
      const float *p = s->pair + ((size_t)r * (size_t)n + (size_t)i) * 2;
      if (r > 0 && !(p[0] > best)) continue;  // ranks hold ascending ids
      best = p[0];
      memcpy(&pick[i], &p[1], 4);
      memcpy(&pick[n + i], &p[0], 4);
    }
  }
  return st;
}

static ti_status penalise(ti_sampler *s, const tile *t, float *logits, int n_id, int first) {
  ti_graph *g = s->g;
  const ti_counts *c = s->counts;
  return g->k->penalties(g->d, &(ti_penalty_args){.logits = logits,
                                                  .params = s->image,
                                                  .out_count = c->out_count,
                                                  .in_prompt = c->in_prompt,
                                                  .bias_id = at(s, t->bias_id),
                                                  .bias_value = at(s, t->bias_value),
                                                  .n_row = t->n,
                                                  .n_id = n_id,
                                                  .first_id = first,
                                                  .vocab = g->c->vocab});
}

// pick: where the ids and values go on the host.
static ti_status draw(ti_sampler *s, const tile *t, int32_t *pick) {
  ti_graph *g = s->g;
  const ti_kernels *k = g->k;
  const int n_id = t->sharded ? g->w.n_vocab : g->c->vocab, first = t->sharded ? g->w.vocab0 : 0;
  const size_t bytes = 2 * (size_t)t->n * sizeof *pick;
  float *logits = s->raw;
  ti_status st = TI_OK;
  if (t->process) {
    if (t->logprob) {  // logprobs are of raw logits
      st = k->copy(g->d, s->work, s->raw, (size_t)t->n * (size_t)n_id * sizeof *s->raw);
      logits = s->work;
    }
    if (!st) st = penalise(s, t, logits, n_id, first);
  }
  if (!st)
    st = k->sample(g->d, &(ti_sample_args){.logits = logits,
                                           .params = s->image,
                                           .id = s->pick,
                                           .value = (float *)(void *)(s->pick + t->n),
                                           .n_row = t->n,
                                           .n_id = n_id,
                                           .first_id = first});
  if (!st) st = k->download(g->d, pick, s->pick, bytes);
  if (!st && t->sharded) {
    st = k->sync(g->d);
    if (!st) st = argmax_over_ranks(s, t->n, pick);
    if (!st) st = k->upload(g->d, s->pick, pick, bytes);
  }
  const ti_counts *c = s->counts;
  if (!st && (k->async || c->n_counted))
    st = k->tokens(g->d, &(ti_token_args){.id = s->pick,
                                          .slot = at(s, t->slot),
                                          .last = c->last,
                                          .out_count = c->out_count,
                                          .counted = c->n_counted ? c->counted : NULL,
                                          .n = t->n,
                                          .vocab = g->c->vocab});
  return st;
}

static ti_status logprobs(ti_sampler *s, const tile *t, int first, ti_sample_out *out) {
  ti_graph *g = s->g;
  const ti_kernels *k = g->k;
  const size_t n = (size_t)t->n, base = 2 * (size_t)first;
  int32_t *target = at(s, t->target);
  ti_status st = TI_OK;
  if (t->draw) st = k->feed(g->d, &(ti_feed_args){.ids = target, .slot = s->row, .last = s->pick, .n = t->n});
  if (!st)
    st = k->logprobs(g->d, &(ti_logprob_args){.logits = s->raw,
                                              .target = target,
                                              .logprob = (float *)(void *)s->prob,
                                              .rank = s->prob + n,
                                              .top_id = t->top ? s->top : NULL,
                                              .top_logprob = (float *)(void *)(s->top + n * TI_TOP_LOGPROBS),
                                              .n_row = t->n,
                                              .vocab = g->c->vocab});
  if (!st) st = k->download(g->d, out->prob + base, s->prob, 2 * n * sizeof *s->prob);
  if (!st && t->top) st = k->download(g->d, out->top + base * TI_TOP_LOGPROBS, s->top, 2 * n * TI_TOP_LOGPROBS * sizeof *s->top);
  return st;
}

static ti_status run_tile(ti_sampler *s, const void *x, ti_sample_job *job, int first, int n, bool gather, ti_sample_out *out, ti_error *err) {
  ti_graph *g = s->g;
  tile t = {.n = n, .gathered = gather && g->tp->size > 1, .sharded = g->tp->size > 1 && !gather};
  for (int i = 0; i < n; i++) {
    job[first + i].tile = first;
    job[first + i].n_tile = n;
  }
  fill_image(s, job + first, &t);
  if (t.logprob && t.sharded) return ti_error_set(err, TI_ERR_FORMAT, "plan: rows want logprobs and gather_logits is not set");
  ti_status st = g->k->upload(g->d, s->image, s->h_image, t.bytes);
  const void *rows = s->x;
  if (t.first_row >= 0) {
    rows = ti_row(g, x, t.first_row, g->c->hidden);
  } else if (!st) {
    st = g->k->permute(g->d, &(ti_permute_args){.out = s->x, .x = x, .src = at(s, t.index), .n_out = n, .n_top = 1, .dim = g->c->hidden});
  }
  if (!st) st = ti_graph_head(g, rows, n, s->raw, err);
  if (!st && t.gathered) st = gather_logits(s, n);
  if (!st && g->cfg->tap && !t.sharded) ti_graph_tap(g, "logits", 0, s->raw, n, g->c->vocab);
  ti_graph_doing(g, "sampling");
  ti_graph_stamp(g, "sampling", -1);
  if (!st && t.draw) st = draw(s, &t, out->pick + 2 * (size_t)first);
  if (!st && t.logprob) st = logprobs(s, &t, first, out);
  ti_graph_stamp_end(g);
  if (st && err && !err->code) ti_error_set(err, st, "sampling: %s", ti_status_text(st));
  return st;
}

ti_status ti_sampler_run(ti_sampler *s, const void *x, ti_sample_job *job, int first, int n, bool gather, ti_sample_out *out, ti_error *err) {
  if (first + n > out->max_job) return ti_error_set(err, TI_ERR_RANGE, "sampling: %d rows, at most %d", first + n, out->max_job);
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n; i += s->tile) st = run_tile(s, x, job, first + i, n - i < s->tile ? n - i : s->tile, gather, out, err);
  return st;
}

static float sendable(float x) { return isfinite(x) ? x : TI_SAMPLE_NO_LOGPROB; }

static float as_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

ti_sampled ti_sample_result(const ti_sample_out *o, const ti_sample_job *job, int i) {
  const ti_sample_job *j = &job[i];
  const int32_t *pick = o->pick + 2 * (size_t)j->tile, *prob = o->prob + 2 * (size_t)j->tile;
  const int k = i - j->tile;
  ti_sampled r = {.id = j->target};
  if (j->target < 0) {
    r.id = pick[k];
    r.lost = !(as_float(pick[j->n_tile + k]) > -INFINITY);
  }
  if (j->n_logprob >= 0) {
    r.logprob = sendable(as_float(prob[k]));
    r.rank = prob[j->n_tile + k];
  }
  return r;
}

void ti_sample_top(const ti_sample_out *o, const ti_sample_job *job, int i, ti_top_logprob *top) {
  const ti_sample_job *j = &job[i];
  const int32_t *id = o->top + ((size_t)j->tile * 2 + (size_t)(i - j->tile)) * TI_TOP_LOGPROBS, *value = id + (size_t)j->n_tile * TI_TOP_LOGPROBS;
  top->n = 0;
  for (int k = 0; k < j->n_logprob && id[k] >= 0; k++, top->n++) {
    top->id[k] = (uint32_t)id[k];
    top->logprob[k] = sendable(as_float(value[k]));
  }
}
