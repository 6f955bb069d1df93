// Token logs (see tokenlog.h). One allocation a log: the struct, then the arrays that its options ask for; what is never written is never touched.
//
//   [ ti_tokenlog | ids | logprob | rank | top | prompt logprob | prompt rank | prompt top ]
//
// Why a subscriber misses nothing: append publishes the length before ring's exchange(queued, true). If that says "queued already", the subscriber's
// exchange(queued, false) in seen comes later in the order of `queued`, acquires it, and so its reads see the length.
#include "coordinator/tokenlog.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

struct ti_tokenlog {
  ti_inbox_node node;  // in the subscriber's inbox while `queued`
  _Atomic uint32_t refs, length, n_prompt, n_final;
  _Atomic int finish;  // ti_finish; its release publishes n_final and error
  _Atomic bool queued;
  bool dirty;  // the writer's: something moved since the last ring
  const char *error;
  ti_tokenlog_options o;
  ti_top_logprob *top, *prompt_top;  // [max_tokens], [n_prompt]; NULL: not kept
  uint32_t *ids, *rank, *prompt_rank;
  float *logprob, *prompt_logprob;
};

static bool reserve(size_t n, size_t each, size_t *total) {
  size_t bytes;
  return ti_size_mul(n, each, &bytes) && ti_size_add(*total, ti_size_align(bytes, 16), total);
}

static void *carve(unsigned char **at, size_t n, size_t each) {
  void *p = *at;
  *at += ti_size_align(n * each, 16);
  return p;
}

ti_status ti_tokenlog_create(const ti_tokenlog_options *o, ti_tokenlog **out) {
  if (o->n_logprob > TI_TOP_MAX || o->n_prompt_logprob > TI_TOP_MAX) return TI_ERR_ARG;
  const size_t n = o->max_tokens, np = o->n_prompt;
  const bool lp = o->n_logprob >= 0, top = o->n_logprob > 0, plp = o->n_prompt_logprob >= 0, ptop = o->n_prompt_logprob > 0;
  size_t bytes = ti_size_align(sizeof(ti_tokenlog), 16);
  bool ok = reserve(n, 4, &bytes);
  if (lp) ok = ok && reserve(n, 4, &bytes) && reserve(n, 4, &bytes);
  if (top) ok = ok && reserve(n, sizeof(ti_top_logprob), &bytes);
  if (plp) ok = ok && reserve(np, 4, &bytes) && reserve(np, 4, &bytes);
  if (ptop) ok = ok && reserve(np, sizeof(ti_top_logprob), &bytes);
  ti_tokenlog *l = ok ? malloc(bytes) : NULL;
  if (!l) return TI_ERR_NOMEM;
  *l = (ti_tokenlog){.o = *o};
  atomic_init(&l->refs, 1);
  unsigned char *at = (unsigned char *)l + ti_size_align(sizeof *l, 16);
  l->ids = carve(&at, n, 4);
  if (lp) l->logprob = carve(&at, n, 4), l->rank = carve(&at, n, 4);
  if (top) l->top = carve(&at, n, sizeof *l->top);
  if (plp) l->prompt_logprob = carve(&at, np, 4), l->prompt_rank = carve(&at, np, 4);
  if (ptop) l->prompt_top = carve(&at, np, sizeof *l->prompt_top);
  *out = l;
  return TI_OK;
}

ti_tokenlog *ti_tokenlog_hold(ti_tokenlog *l) {
  atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
  return l;
}

void ti_tokenlog_rele(ti_tokenlog *l) {
  if (l && atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1) free(l);
}

// What is kept but was not sent becomes NAN, 0, none.
static void put_scores(float *lp, uint32_t *rank, ti_top_logprob *top, uint32_t at, uint32_t n, const float *lp_in, const uint32_t *rank_in,
                       const ti_top_logprob *top_in) {
  for (uint32_t i = 0; lp && i < n; i++) {
    lp[at + i] = lp_in ? lp_in[i] : NAN;
    rank[at + i] = rank_in ? rank_in[i] : 0;
  }
  for (uint32_t i = 0; top && i < n; i++) {
    if (top_in) {
      top[at + i] = top_in[i];
    } else {
      top[at + i].n = 0;
    }
  }
}

ti_status ti_tokenlog_append(ti_tokenlog *l, const uint32_t *ids, uint32_t n, const float *logprob, const uint32_t *rank, const ti_top_logprob *top) {
  const uint32_t at = atomic_load_explicit(&l->length, memory_order_relaxed);
  if (atomic_load_explicit(&l->finish, memory_order_relaxed) != TI_FINISH_NONE) return TI_ERR_CLOSED;
  if (n > l->o.max_tokens - at) return TI_ERR_FULL;
  if (n == 0) return TI_OK;
  memcpy(l->ids + at, ids, n * sizeof *ids);
  put_scores(l->logprob, l->rank, l->top, at, n, logprob, rank, top);
  atomic_store_explicit(&l->length, at + n, memory_order_release);
  l->dirty = true;
  return TI_OK;
}

ti_status ti_tokenlog_append_prompt(ti_tokenlog *l, uint32_t n, const float *logprob, const uint32_t *rank, const ti_top_logprob *top) {
  const uint32_t at = atomic_load_explicit(&l->n_prompt, memory_order_relaxed);
  if (atomic_load_explicit(&l->finish, memory_order_relaxed) != TI_FINISH_NONE) return TI_ERR_CLOSED;
  if (!l->prompt_logprob || n > l->o.n_prompt - at) return TI_ERR_FULL;
  put_scores(l->prompt_logprob, l->prompt_rank, l->prompt_top, at, n, logprob, rank, top);
  atomic_store_explicit(&l->n_prompt, at + n, memory_order_release);
  l->dirty = true;
  return TI_OK;
}

void ti_tokenlog_finish(ti_tokenlog *l, ti_finish reason, uint32_t n_tokens, const char *error) {
  assert(reason != TI_FINISH_NONE);
  if (atomic_load_explicit(&l->finish, memory_order_relaxed) != TI_FINISH_NONE) return;
  const uint32_t length = atomic_load_explicit(&l->length, memory_order_relaxed);
  l->error = error;
  atomic_store_explicit(&l->n_final, n_tokens < length ? n_tokens : length, memory_order_relaxed);
  atomic_store_explicit(&l->finish, reason, memory_order_release);
  l->dirty = true;
}

void ti_tokenlog_ring(ti_tokenlog *l) {
  if (!l->dirty) return;
  l->dirty = false;
  if (!l->o.subscriber || atomic_exchange_explicit(&l->queued, true, memory_order_acq_rel)) return;
  ti_inbox_push(l->o.subscriber, &ti_tokenlog_hold(l)->node);
}

ti_tokenlog_state ti_tokenlog_peek(const ti_tokenlog *l) {
  ti_tokenlog_state s = {.finish = (ti_finish)atomic_load_explicit(&l->finish, memory_order_acquire)};
  s.n_prompt = atomic_load_explicit(&l->n_prompt, memory_order_acquire);
  if (s.finish == TI_FINISH_NONE) {
    s.length = atomic_load_explicit(&l->length, memory_order_acquire);
  } else {
    s.length = atomic_load_explicit(&l->n_final, memory_order_relaxed);
    s.error = l->error;
  }
  return s;
}

const uint32_t *ti_tokenlog_ids(const ti_tokenlog *l) { return l->ids; }
const float *ti_tokenlog_logprobs(const ti_tokenlog *l) { return l->logprob; }
const uint32_t *ti_tokenlog_ranks(const ti_tokenlog *l) { return l->rank; }
const ti_top_logprob *ti_tokenlog_tops(const ti_tokenlog *l) { return l->top; }
const float *ti_tokenlog_prompt_logprobs(const ti_tokenlog *l) { return l->prompt_logprob; }
const uint32_t *ti_tokenlog_prompt_ranks(const ti_tokenlog *l) { return l->prompt_rank; }
const ti_top_logprob *ti_tokenlog_prompt_tops(const ti_tokenlog *l) { return l->prompt_top; }

ti_tokenlog *ti_tokenlog_of_node(ti_inbox_node *n) { return (ti_tokenlog *)((char *)n - offsetof(ti_tokenlog, node)); }
void *ti_tokenlog_owner(const ti_tokenlog *l) { return l->o.owner; }
void ti_tokenlog_seen(ti_tokenlog *l) { atomic_exchange_explicit(&l->queued, false, memory_order_acq_rel); }
