// A cluster of fake workers on virtual time, for the coordinator's tests and step_bench. Included by one .c a program.
//
// A fake worker keeps slots as worker/slots.c does, checks every plan as strictly as worker/batch.c (and more), and models the KV cache: each place
// of each page holds a hash of all tokens up to it. A row must find the right hash in every place before its own, so a page that was shared, copied
// or reused wrongly is seen at once. The next token is a hash of the context: what a request must generate is known without any coordinator
// (fake_expect).
#ifndef TI_TESTS_FAKE_H
#define TI_TESTS_FAKE_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/coordinator.h"
#include "proto/ctl.h"
#include "proto/handshake.h"

enum { FAKE_WORKERS = 8, FAKE_SLOTS = 512, FAKE_EOS = 0 };
static const uint8_t fake_secret[] = "the job's secret";

typedef struct fake_config {
  ti_mesh mesh;
  uint32_t vocab, page_tokens, max_model_len, max_num_seqs, budget, n_page, lookahead, max_draft, steps_in_flight, two_batch_rows;
  uint32_t draft_us;  // what each draft that a step may bring adds to its time
  bool lockstep, check_kv;
  const char *policy;
} fake_config;

typedef struct fake_slot {
  bool used, finished;
  uint64_t request, seed, last_row_step;
  uint32_t slot, choice, n_ids, n_kv, n_prompt, max_tokens, min_tokens, n_page, n_stop, stop[8];
  bool ignore_eos;
  int n_logprob, n_prompt_logprob;
  uint32_t *ids, *table;
} fake_slot;

typedef struct fake_plan {
  struct fake_plan *next;
  size_t len;
  uint8_t data[];
} fake_plan;

typedef struct fake_worker {
  struct fake *f;
  uint32_t rank;
  ti_ctl_peer *peer;
  ti_inbox inbox;
  bool welcome, dead, mute, drained, aborted;
  uint64_t epoch, next_step;
  fake_slot slot[FAKE_SLOTS];
  uint64_t *kv;         // [n_page * page_tokens]
  uint64_t *mtp;        // likewise, with lookahead: place i + 1 holds a hash of the tokens up to i, then token i + 1
  uint32_t *shared_by;  // [n_page] tables that name the page
  uint32_t *memory;
  fake_plan *first, **last;
  uint32_t n_queued;
  uint64_t steps, tokens, copies, plan_hash;
} fake_worker;

typedef struct fake {
  fake_config cfg;
  ti_clock_virtual clock;
  ti_ctl_local *net;
  ti_ctl_host *host;
  ti_metrics *metrics;
  ti_coord *coord;
  fake_worker worker[FAKE_WORKERS];
  ti_arena arena;
  ti_buf out;
  char wrong[512];                       // the first complaint of a worker; empty: none
  uint64_t all_plans;                    // hash of every plan in the order of arrival
  uint64_t group_plan[FAKE_WORKERS][8];  // hashes of a group's last plans, to compare tp ranks
} fake;

static inline uint64_t fake_mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
  h *= 0xff51afd7ed558ccdu;
  return h ^ (h >> 33);
}
static inline uint64_t fake_bytes(const void *data, size_t n) {
  uint64_t h = n;
  for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
  return h;
}
static inline uint32_t fake_token(uint64_t context, uint64_t seed, uint32_t choice, uint32_t vocab) {
  return (uint32_t)(fake_mix(fake_mix(context, seed), choice) % vocab);
}

#define FAKE_WRONG(w, ...)                                                                                                         \
  do {                                                                                                                             \
    if (!(w)->f->wrong[0]) {                                                                                                       \
      const int n_ = snprintf((w)->f->wrong, sizeof(w)->f->wrong, "rank %u step %lu: ", (w)->rank, (unsigned long)(w)->next_step); \
      snprintf((w)->f->wrong + n_, sizeof(w)->f->wrong - (size_t)n_, __VA_ARGS__);                                                 \
    }                                                                                                                              \
    return false;                                                                                                                  \
  } while (0)

static inline void fake_sink(void *arg, ti_ctl_event *ev) { ti_inbox_push(&((fake_worker *)arg)->inbox, &ev->node); }

static inline void fake_send(fake_worker *w, const ti_control *m) {
  ti_buf_reset(&w->f->out);
  if (ti_wire_encode_control(m, &w->f->out) == TI_OK && w->peer) {
    const ti_status st = ti_ctl_peer_send(w->peer, w->f->out.data, w->f->out.len);
    (void)st;
  }
}

static inline void fake_release(fake_worker *w, fake_slot *t) {
  for (uint32_t i = 0; i < t->n_page; i++) w->shared_by[t->table[i]]--;
  t->used = t->finished = false;
  t->n_ids = t->n_kv = t->n_page = 0;
}

static inline bool fake_assign(fake_worker *w, const ti_slot_assign *a) {
  const fake_config *k = &w->f->cfg;
  if (a->slot >= k->max_num_seqs) FAKE_WRONG(w, "assigned slot %u", a->slot);
  fake_slot *t = &w->slot[a->slot];
  if (t->used) FAKE_WRONG(w, "assign: slot %u is in use", a->slot);
  if (a->ids.n == 0 || a->ids.n > k->max_model_len || a->n_prompt == 0 || a->n_prompt > a->ids.n || a->n_cached >= a->ids.n)
    FAKE_WRONG(w, "assign: ids %u prompt %u cached %u", a->ids.n, a->n_prompt, a->n_cached);
  if (a->sampling.n_prompt_logprob >= 0 && a->n_cached) FAKE_WRONG(w, "assign: prompt logprobs with %u cached", a->n_cached);
  uint32_t *ids = t->ids, *table = t->table;
  *t = (fake_slot){.used = true,
                   .slot = a->slot,
                   .request = a->request,
                   .seed = a->sampling.seed,
                   .last_row_step = UINT64_MAX,
                   .choice = a->sampling.choice,
                   .n_ids = a->ids.n,
                   .n_kv = a->n_cached,
                   .n_prompt = a->n_prompt,
                   .max_tokens = a->max_tokens,
                   .min_tokens = a->min_tokens,
                   .ignore_eos = a->ignore_eos,
                   .n_logprob = a->sampling.n_logprob,
                   .n_prompt_logprob = a->sampling.n_prompt_logprob,
                   .ids = ids,
                   .table = table};
  memcpy(ids, a->ids.v, a->ids.n * 4);
  for (t->n_stop = 0; t->n_stop < a->stop_id.n && t->n_stop < 8; t->n_stop++) t->stop[t->n_stop] = a->stop_id.v[t->n_stop];
  return true;
}

static inline bool fake_apply(fake_worker *w, const ti_step_plan *p) {
  const fake_config *k = &w->f->cfg;
  for (uint32_t i = 0; i < p->release.n; i++) {
    if (p->release.v[i] >= k->max_num_seqs || !w->slot[p->release.v[i]].used)
      FAKE_WRONG(w, "release of slot %u, which is not in use", p->release.v[i]);
    fake_release(w, &w->slot[p->release.v[i]]);
  }
  for (uint32_t i = 0; i < p->n_assign; i++) {
    if (!fake_assign(w, &p->assign[i])) return false;
  }
  for (uint32_t i = 0; i < p->n_pages; i++) {
    const ti_slot_pages *d = &p->pages[i];
    fake_slot *t = d->slot < k->max_num_seqs ? &w->slot[d->slot] : NULL;
    if (!t || !t->used || d->first != t->n_page) FAKE_WRONG(w, "pages[%u]: slot %u from entry %u", i, d->slot, d->first);
    for (uint32_t j = 0; j < d->pages.n; j++) {
      if (d->pages.v[j] >= k->n_page) FAKE_WRONG(w, "page %u of %u", d->pages.v[j], k->n_page);
      t->table[t->n_page++] = d->pages.v[j];
      w->shared_by[d->pages.v[j]]++;
    }
  }
  for (uint32_t i = 0; i < p->n_copy; i++) {
    const ti_page_copy *x = &p->copy[i];
    if (x->src >= k->n_page || x->dst >= k->n_page || x->src == x->dst || x->n_token > k->page_tokens)
      FAKE_WRONG(w, "copy %u to %u, %u tokens", x->src, x->dst, x->n_token);
    memcpy(w->kv + (size_t)x->dst * k->page_tokens, w->kv + (size_t)x->src * k->page_tokens, x->n_token * sizeof *w->kv);
    memcpy(w->mtp + (size_t)x->dst * k->page_tokens, w->mtp + (size_t)x->src * k->page_tokens, x->n_token * sizeof *w->mtp);
    w->copies++;
  }
  return true;
}

static inline ti_finish fake_push(const fake_config *k, fake_slot *t, uint32_t id) {
  t->ids[t->n_ids++] = id;
  const uint32_t generated = t->n_ids - t->n_prompt;
  ti_finish f = TI_FINISH_NONE;
  if (generated >= t->min_tokens) {
    if (id == FAKE_EOS && !t->ignore_eos) f = TI_FINISH_STOP;
    for (uint32_t i = 0; i < t->n_stop; i++) f = id == t->stop[i] ? TI_FINISH_STOP : f;
  }
  if (f == TI_FINISH_NONE && (generated >= t->max_tokens || t->n_ids >= k->max_model_len)) f = TI_FINISH_LENGTH;
  t->finished = f != TI_FINISH_NONE;
  return f;
}

static inline bool fake_scores(fake_worker *w, const fake_slot *t, uint32_t place0, uint32_t n_row, ti_result_row *out) {
  if (t->n_prompt_logprob < 0 || place0 + 1 >= t->n_prompt) return true;
  const uint32_t n = place0 + n_row < t->n_prompt ? n_row : t->n_prompt - 1 - place0;
  float *lp = ti_arena_calloc(&w->f->arena, n, sizeof *lp);
  for (uint32_t i = 0; i < n; i++) lp[i] = -(float)(place0 + i + 1);  // its index
  out->prompt_logprob = (ti_f32s){lp, n};
  return true;
}

// The MTP layer's entries: that of place i + 1 is made when place i is fed, from the context there and the token after it.
static inline bool fake_mtp(fake_worker *w, const fake_slot *t, uint32_t place0) {
  const uint32_t pt = w->f->cfg.page_tokens;
  uint64_t h = 0;
  for (uint32_t i = 0; i < t->n_kv && i + 1 < t->n_ids; i++) {
    h = fake_mix(h, t->ids[i]);
    const uint64_t want = fake_mix(h, t->ids[i + 1]);
    uint64_t *place = &w->mtp[(size_t)t->table[(i + 1) / pt] * pt + (i + 1) % pt];
    if (i < place0 && *place != want) FAKE_WRONG(w, "slot %u choice %u: the MTP entry of place %u is another's", t->slot, t->choice, i + 1);
    if (i >= place0 && w->shared_by[t->table[(i + 1) / pt]] != 1)
      FAKE_WRONG(w, "slot %u writes the MTP entry of place %u to a shared page", t->slot, i + 1);
    *place = want;
  }
  return true;
}

static inline uint32_t fake_min(uint32_t a, uint32_t b) { return a < b ? a : b; }

// The tokens of a sampling row whose context hashes to h: one, and as many more as a made-up drafter got right. Drafts are fed at the places behind, within
// the bounds of worker/spec/draft.c; those that were wrong leave nonsense there.
static inline bool fake_generate(fake_worker *w, fake_slot *t, uint64_t h, uint32_t max_draft, ti_result_row *out) {
  const fake_config *k = &w->f->cfg;
  const uint32_t pt = k->page_tokens, generated = t->n_ids - t->n_prompt, places = t->n_page * pt;
  uint32_t most = k->lookahead || generated < t->min_tokens || generated + 1 >= t->max_tokens || t->n_ids + 1 >= k->max_model_len || t->n_ids >= places ? 0 : max_draft;
  if (most) most = fake_min(fake_min(most, t->max_tokens - generated - 1), fake_min(k->max_model_len - t->n_ids - 1, places - t->n_ids));
  const uint32_t right = most ? (uint32_t)(h >> 7) % (most + 1) : 0;
  uint32_t *token = ti_arena_calloc(&w->f->arena, right + 1, sizeof *token), n = 0;
  float *lp = ti_arena_calloc(&w->f->arena, right + 1, sizeof *lp);
  for (;;) {
    lp[n] = -(float)t->n_ids;
    token[n] = fake_token(h, t->seed, t->choice, k->vocab);
    out->finish = fake_push(k, t, token[n]);
    if (out->finish || n++ == right) break;
    h = fake_mix(h, token[n - 1]);
    w->kv[(size_t)t->table[t->n_kv / pt] * pt + t->n_kv % pt] = h;
    t->n_kv++;
  }
  n += out->finish != TI_FINISH_NONE;
  for (uint32_t i = t->n_kv - (n - 1); i < t->n_kv - (n - 1) + most; i++) {
    if (w->shared_by[t->table[i / pt]] != 1) FAKE_WRONG(w, "slot %u drafts into place %u, whose page %u tables name", t->slot, i, w->shared_by[t->table[i / pt]]);
    if (i >= t->n_kv) w->kv[(size_t)t->table[i / pt] * pt + i % pt] = 0xdeadu;
  }
  out->token = (ti_u32s){token, n};
  if (t->n_logprob >= 0) out->logprob = (ti_f32s){lp, n};
  out->n_draft = most;
  out->n_accepted = n - 1;
  return true;
}

static inline bool fake_row(fake_worker *w, const ti_step_plan *p, const ti_plan_row *r, ti_result_row *out, uint32_t *n_token) {
  const fake_config *k = &w->f->cfg;
  if (r->slot >= k->max_num_seqs || !w->slot[r->slot].used) FAKE_WRONG(w, "row of slot %u, which is not assigned", r->slot);
  fake_slot *t = &w->slot[r->slot];
  if (t->last_row_step == p->step) FAKE_WRONG(w, "two rows of slot %u", r->slot);
  t->last_row_step = p->step;
  out->slot = r->slot;
  *n_token += r->n_token + r->max_draft;
  if (r->decode && r->n_token != 1) FAKE_WRONG(w, "a decode of %u tokens", r->n_token);
  if (t->finished) return true;
  if (r->n_token == 0 || r->n_token > t->n_ids - t->n_kv) FAKE_WRONG(w, "slot %u: %u tokens, %u to feed", r->slot, r->n_token, t->n_ids - t->n_kv);
  const uint32_t places = t->n_kv + r->n_token + k->lookahead, pt = k->page_tokens;
  if ((places + pt - 1) / pt > t->n_page) FAKE_WRONG(w, "slot %u: %u places, %u pages", r->slot, places, t->n_page);
  if (r->sample && t->n_kv + r->n_token != t->n_ids) FAKE_WRONG(w, "slot %u samples before its end", r->slot);
  uint64_t h = 0;
  const uint32_t from = k->check_kv ? 0 : t->n_kv;
  if (from) h = w->kv[(size_t)t->table[(from - 1) / pt] * pt + (from - 1) % pt];
  for (uint32_t i = from; i < t->n_kv + r->n_token; i++) {
    const uint32_t page = t->table[i / pt];
    uint64_t *place = &w->kv[(size_t)page * pt + i % pt];
    h = fake_mix(h, t->ids[i]);
    if (i < t->n_kv) {
      if (*place != h)
        FAKE_WRONG(w, "slot %u request %lu choice %u: place %u (page %u) holds another context", r->slot, (unsigned long)t->request, t->choice, i,
                   page);
    } else {
      if (w->shared_by[page] != 1) FAKE_WRONG(w, "slot %u writes place %u of page %u, which %u tables name", r->slot, i, page, w->shared_by[page]);
      *place = h;
    }
  }
  fake_scores(w, t, t->n_kv, r->n_token, out);
  t->n_kv += r->n_token;
  w->tokens += r->n_token;
  const uint32_t place0 = t->n_kv - r->n_token;
  if (!r->sample) return !k->lookahead || !k->check_kv || fake_mtp(w, t, place0);
  if (t->n_logprob >= 0 && !p->gather_logits) FAKE_WRONG(w, "logprobs without gather_logits");
  if (!fake_generate(w, t, h, r->max_draft, out)) return false;
  return !k->lookahead || !k->check_kv || fake_mtp(w, t, place0);
}

static inline bool fake_check_head(fake_worker *w, const ti_step_plan *p) {
  const fake_config *k = &w->f->cfg;
  bool prefill = false;
  uint32_t n = 0;
  for (uint32_t i = 0; i < p->n_row; i++) prefill |= !p->row[i].decode, n += p->row[i].n_token + p->row[i].max_draft;
  if (p->epoch != w->epoch || p->step != w->next_step) FAKE_WRONG(w, "plan of epoch %lu step %lu", (unsigned long)p->epoch, (unsigned long)p->step);
  if (n > k->budget || n > p->max_rows || p->max_rows > k->budget) FAKE_WRONG(w, "%u tokens, max_rows %u, budget %u", n, p->max_rows, k->budget);
  if (prefill && p->form != TI_FORM_PREFILL) FAKE_WRONG(w, "prefill rows in a decode plan");
  if (p->n_micro != (k->two_batch_rows && p->max_rows >= k->two_batch_rows ? 2 : 1)) FAKE_WRONG(w, "%u micro-batches for %u rows", p->n_micro, p->max_rows);
  if (!k->lockstep && p->n_row == 0) FAKE_WRONG(w, "an empty plan");
  return true;
}

// Executes the oldest plan that waits and sends its result. false: nothing waits (or something is wrong: f->wrong).
static inline bool fake_step(fake_worker *w) {
  fake *f = w->f;
  fake_plan *p = w->first;
  if (!p || w->dead) return false;
  w->first = p->next;
  if (!w->first) w->last = &w->first;
  w->n_queued--;
  const ti_wire_limits lim = {.n_rank = 65,
                              .n_slot = f->cfg.max_num_seqs,
                              .n_page = f->cfg.n_page,
                              .vocab = f->cfg.vocab,
                              .max_rows = f->cfg.budget,
                              .max_context = f->cfg.max_model_len};
  ti_arena_reset(&f->arena);
  ti_control in;
  ti_error err;
  const ti_status st = ti_wire_decode_control(p->data, p->len, &lim, &f->arena, &in, &err);
  free(p);
  if (st) FAKE_WRONG(w, "%s", err.text);
  const ti_step_plan *plan = &in.plan;
  if (!fake_check_head(w, plan) || !fake_apply(w, plan)) return false;
  ti_control out = {.kind = TI_CTL_RESULT, .result = {.epoch = plan->epoch, .step = plan->step, .n_row = plan->n_row}};
  ti_result_row *rows = ti_arena_calloc(&f->arena, plan->n_row ? plan->n_row : 1, sizeof *rows);
  uint32_t n_token = 0;
  for (uint32_t i = 0; i < plan->n_row; i++) {
    if (!fake_row(w, plan, &plan->row[i], &rows[i], &n_token)) return false;
  }
  out.result.row = rows;
  out.result.n_token = n_token;
  out.result.times.total_us = 1000;
  for (uint32_t i = 0; i < plan->n_row; i++) out.result.times.total_us += f->cfg.draft_us * plan->row[i].max_draft;
  if (ti_mesh_tp_of(&f->cfg.mesh, (int)w->rank - 1)) out.result.n_row = 0;
  w->next_step++;
  w->steps++;
  fake_send(w, &out);
  return true;
}

static inline void fake_take_plan(fake_worker *w, const ti_ctl_event *ev) {
  fake_plan *p = malloc(sizeof *p + ev->len);
  p->next = NULL;
  p->len = ev->len;
  memcpy(p->data, ev->data, ev->len);
  *w->last = p;
  w->last = &p->next;
  w->n_queued++;
  const uint64_t h = fake_bytes(ev->data, ev->len);
  w->plan_hash = fake_mix(w->plan_hash, h);
  w->f->all_plans = fake_mix(w->f->all_plans, h);
}

// Takes what came in: answers the challenge, queues plans.
static inline void fake_read(fake_worker *w) {
  fake *f = w->f;
  const fake_config *k = &f->cfg;
  ti_inbox_clear(&w->inbox);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&w->inbox)) != NULL;) {
    ti_ctl_event *ev = (ti_ctl_event *)n;
    if (ev->kind == TI_CTL_EV_MESSAGE && !w->mute) {
      ti_control m = {0};
      ti_arena_reset(&f->arena);
      const ti_status st = ti_wire_decode_control(ev->data, ev->len, NULL, &f->arena, &m, NULL);
      if (st == TI_OK && m.kind == TI_CTL_CHALLENGE) {
        const ti_msg_hello hello = {.rank = w->rank,
                                    .n_slot = k->max_num_seqs,
                                    .n_page = k->n_page,
                                    .page_tokens = k->page_tokens,
                                    .max_rows = k->budget,
                                    .max_context = k->max_model_len,
                                    .vocab = k->vocab,
                                    .device = "fake",
                                    .host = "nowhere"};
        ti_buf_reset(&f->out);
        if (ti_handshake_answer(ev->data, ev->len, fake_secret, sizeof fake_secret, &hello, &f->arena, &f->out, NULL) == TI_OK) {
          const ti_status sent = ti_ctl_peer_send(w->peer, f->out.data, f->out.len);
          (void)sent;
        }
      } else if (m.kind == TI_CTL_WELCOME) {
        w->welcome = true;
        w->epoch = m.welcome.epoch;
      } else if (m.kind == TI_CTL_PLAN) {
        fake_take_plan(w, ev);
      } else if (m.kind == TI_CTL_DRAIN) {
        w->drained = true;
      } else if (m.kind == TI_CTL_ABORT) {
        w->aborted = true;
      }
    }
    ti_ctl_event_free(ev);
  }
}

static inline void fake_beat(fake_worker *w, uint32_t in_step_us, const char *doing) {
  const ti_control m = {.kind = TI_CTL_HEARTBEAT, .heartbeat = {.epoch = w->epoch, .step = w->next_step, .in_step_us = in_step_us, .doing = doing}};
  fake_send(w, &m);
}

static inline uint32_t fake_n(const fake *f) { return (uint32_t)f->cfg.mesh.workers; }

// Messages delivered and read, one turn of the loop, its messages delivered and read.
static inline ti_status fake_turn(fake *f, ti_error *err) {
  uint64_t next;
  ti_ctl_local_pump(f->net, 0);
  const ti_status st = ti_coord_turn(f->coord, &next, err);
  ti_ctl_local_pump(f->net, 0);
  for (uint32_t i = 0; i < fake_n(f); i++) fake_read(&f->worker[i]);
  return st;
}

// One step of every worker that has a plan, a turn, and time goes on.
static inline bool fake_round(fake *f) {
  bool any = false;
  for (uint32_t i = 0; i < fake_n(f); i++) any |= fake_step(&f->worker[i]);
  ti_error err;
  const ti_status st = fake_turn(f, &err);
  (void)st;
  ti_clock_virtual_advance(&f->clock, 1000);
  return any;
}

// Rounds until nothing moves, at most n.
static inline void fake_settle(fake *f, uint32_t n) {
  for (uint32_t idle = 0, i = 0; i < n && idle < 3; i++) idle = fake_round(f) ? 0 : idle + 1;
}

static inline void fake_worker_open(fake *f, uint32_t rank) {
  fake_worker *w = &f->worker[rank - 1];
  const fake_config *k = &f->cfg;
  *w = (fake_worker){.f = f, .rank = rank};
  w->last = &w->first;
  const size_t tables = (k->max_model_len + k->page_tokens - 1) / k->page_tokens + 8, per = k->max_model_len + tables;
  w->kv = calloc((size_t)k->n_page * k->page_tokens, sizeof *w->kv);
  w->mtp = calloc((size_t)k->n_page * k->page_tokens, sizeof *w->mtp);
  w->shared_by = calloc(k->n_page, sizeof *w->shared_by);
  w->memory = calloc(per * k->max_num_seqs, sizeof *w->memory);
  for (uint32_t i = 0; i < k->max_num_seqs; i++) {
    w->slot[i].ids = w->memory + per * i;
    w->slot[i].table = w->slot[i].ids + k->max_model_len;
  }
  if (ti_inbox_init(&w->inbox) || ti_ctl_local_peer_open(f->net, rank, fake_sink, w, &w->peer))
    snprintf(f->wrong, sizeof f->wrong, "no peer %u", rank);
}

static inline ti_coord_config fake_coord_config(fake *f) {
  const fake_config *k = &f->cfg;
  return (ti_coord_config){.mesh = k->mesh,
                           .clock = &f->clock.base,
                           .ctl = f->host,
                           .secret = fake_secret,
                           .secret_len = sizeof fake_secret,
                           .vocab = k->vocab,
                           .page_tokens = k->page_tokens,
                           .max_model_len = k->max_model_len,
                           .max_num_seqs = k->max_num_seqs,
                           .max_num_batched_tokens = k->budget,
                           .max_waiting = 4096,
                           .steps_in_flight = k->steps_in_flight ? k->steps_in_flight : 2,
                           .lookahead = k->lookahead,
                           .max_draft = k->max_draft,
                           .two_batch_rows = k->two_batch_rows,
                           .lockstep = k->lockstep,
                           .policy = k->policy ? k->policy : "fcfs",
                           .heartbeat_us = UINT64_MAX,
                           .step_limit_us = UINT64_MAX,
                           .start_limit_us = 600000000,
                           .linger_us = 1200000,
                           .metrics = f->metrics};
}

// The cluster with nobody connected. Change *cfg before fake_start.
static inline void fake_init(fake *f, const fake_config *cfg) {
  memset(f, 0, sizeof *f);
  f->cfg = *cfg;
  ti_clock_virtual_init(&f->clock, 1000000);
  ti_arena_init(&f->arena, 256u << 20);
  ti_buf_init(&f->out, 64u << 20);
  if (ti_ctl_local_create(fake_n(f), 0, 0, &f->net) || ti_metrics_create(&f->metrics)) abort();
  f->host = ti_ctl_local_host(f->net);
}

static inline void fake_start(fake *f, const ti_coord_config *cfg) {
  ti_error err;
  if (ti_coord_create(cfg, &f->coord, &err)) {
    fprintf(stderr, "%s\n", err.text);
    abort();
  }
  for (uint32_t i = 1; i <= fake_n(f); i++) fake_worker_open(f, i);
  for (int i = 0; i < 4; i++) fake_turn(f, NULL);
}

static inline void fake_up(fake *f, const fake_config *cfg) {
  fake_init(f, cfg);
  const ti_coord_config k = fake_coord_config(f);
  fake_start(f, &k);
}

static inline void fake_down(fake *f) {
  ti_ctl_host_close(f->host);
  for (uint32_t i = 0; i < fake_n(f); i++) {
    fake_worker *w = &f->worker[i];
    ti_ctl_peer_close(w->peer);
    for (ti_inbox_node *n; w->inbox.tail && (n = ti_inbox_pop(&w->inbox)) != NULL;) ti_ctl_event_free((ti_ctl_event *)n);
    ti_inbox_fini(&w->inbox);
    while (w->first) {
      fake_plan *p = w->first;
      w->first = p->next;
      free(p);
    }
    free(w->kv);
    free(w->mtp);
    free(w->shared_by);
    free(w->memory);
  }
  ti_coord_destroy(f->coord);
  ti_ctl_local_destroy(f->net);
  ti_metrics_destroy(f->metrics);
  ti_arena_fini(&f->arena);
  ti_buf_fini(&f->out);
}

// ---- requests ----

typedef struct fake_request {
  uint64_t id, seed;
  uint32_t n_prompt, n_choice, max_tokens, min_tokens;
  bool ignore_eos;
  int n_logprob, n_prompt_logprob, priority;
  uint64_t deadline_us;
  uint32_t *ids;
  ti_tokenlog *log[128];
} fake_request;

static inline ti_status fake_submit(fake *f, fake_request *r) {
  if (!r->n_choice) r->n_choice = 1;
  ti_request_spec *s = ti_request_spec_create();
  s->ids = malloc(r->n_prompt * 4);
  r->ids = malloc(r->n_prompt * 4);
  for (uint32_t i = 0; i < r->n_prompt; i++) s->ids[i] = r->ids[i] = (uint32_t)(fake_mix(r->seed, i) % f->cfg.vocab);
  s->n_prompt = r->n_prompt;
  s->n_choice = r->n_choice;
  s->log = calloc(r->n_choice, sizeof *s->log);
  const ti_tokenlog_options o = {
      .max_tokens = r->max_tokens, .n_logprob = r->n_logprob, .n_prompt = r->n_prompt, .n_prompt_logprob = r->n_prompt_logprob};
  for (uint32_t i = 0; i < r->n_choice; i++) {
    if (ti_tokenlog_create(&o, &r->log[i])) abort();
    s->log[i] = ti_tokenlog_hold(r->log[i]);
  }
  s->sampling = (ti_sampling){
      .temperature = 1, .top_p = 1, .repetition = 1, .seed = r->seed, .n_logprob = r->n_logprob, .n_prompt_logprob = r->n_prompt_logprob};
  s->max_tokens = r->max_tokens;
  s->min_tokens = r->min_tokens;
  s->ignore_eos = r->ignore_eos;
  s->priority = r->priority;
  s->deadline_us = r->deadline_us;
  const ti_status st = ti_coord_submit(f->coord, s, &r->id);
  if (st) ti_request_spec_destroy(s);
  return st;
}

static inline void fake_request_fini(fake_request *r) {
  for (uint32_t i = 0; i < r->n_choice; i++) ti_tokenlog_rele(r->log[i]);
  free(r->ids);
  *r = (fake_request){0};
}

// Whether the log of a choice holds what the model would generate; the reason for STOP and LENGTH, any for a prefix (cancelled, late stop).
static inline bool fake_expect(const fake *f, const fake_request *r, uint32_t choice, bool whole) {
  const ti_tokenlog_state s = ti_tokenlog_peek(r->log[choice]);
  const uint32_t *ids = ti_tokenlog_ids(r->log[choice]);
  uint64_t h = 0;
  for (uint32_t i = 0; i < r->n_prompt; i++) h = fake_mix(h, r->ids[i]);
  ti_finish want = TI_FINISH_LENGTH;
  uint32_t n = 0;
  const uint32_t most = r->max_tokens < f->cfg.max_model_len - r->n_prompt ? r->max_tokens : f->cfg.max_model_len - r->n_prompt;
  while (n < most && want == TI_FINISH_LENGTH && (whole || n < s.length)) {
    const uint32_t t = fake_token(h, r->seed, choice, f->cfg.vocab);
    if (n >= s.length || ids[n] != t) return false;
    h = fake_mix(h, t);
    n++;
    if (t == FAKE_EOS && !r->ignore_eos && n >= r->min_tokens) want = TI_FINISH_STOP;
  }
  return whole ? n == s.length && s.finish == want : n == s.length;
}

#endif
