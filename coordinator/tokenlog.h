// A choice's tokens: one append-only, reference-counted log. The loop writes; anybody reads by offset; nobody waits for anybody.
//
//   ids       [ 17 | 402 | 9 | 88 | . . . . . ]   room for max_tokens, made when the request is made (never in a tick)
//                               ^ length (release)      reader: acquire length, read below it
//
// The writer appends, then publishes the length; entries below the published length never change. `finish` publishes the reason after the last append
// (it may lower the visible count: a stop string found late keeps n_tokens of what was generated).
// A log has one subscriber at most: an inbox that gets the log's node when it moved and the node is not in it yet. The subscriber pops the node,
// calls ti_tokenlog_seen, then reads: what is appended afterwards pushes the node again. So one eventfd rings a text thread once a step.
#ifndef TI_COORDINATOR_TOKENLOG_H
#define TI_COORDINATOR_TOKENLOG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/inbox.h"
#include "base/status.h"
#include "proto/wire.h"

typedef struct ti_tokenlog ti_tokenlog;

typedef struct ti_tokenlog_options {
  uint32_t max_tokens;
  int n_logprob;         // -1: none kept; 0..20: the chosen one's, and that many best
  uint32_t n_prompt;     // prompt tokens, when prompt logprobs are kept
  int n_prompt_logprob;  // likewise; -1: none
  ti_inbox *subscriber;  // or NULL; outlives the writer's last ring (the coordinator rings nobody once it is being destroyed)
  void *owner;           // the subscriber's own pointer, returned by ti_tokenlog_owner
} ti_tokenlog_options;

// One reference, the caller's.
ti_status ti_tokenlog_create(const ti_tokenlog_options *o, ti_tokenlog **out) TI_MUST_CHECK;
ti_tokenlog *ti_tokenlog_hold(ti_tokenlog *l);
void ti_tokenlog_rele(ti_tokenlog *l);  // any thread; frees with the last; NULL is fine

// ---- writer: the loop (one thread) ----
// Appends n tokens; logprob, rank, top may be NULL (top: [n]). Beyond max_tokens: TI_ERR_FULL; after finish: TI_ERR_CLOSED; nothing is appended then.
// O(n), no allocation.
ti_status ti_tokenlog_append(ti_tokenlog *l, const uint32_t *ids, uint32_t n, const float *logprob, const uint32_t *rank,
                             const ti_top_logprob *top) TI_MUST_CHECK;
// Logprobs of prompt tokens, in order, chunk by chunk (the first prompt token has none: its entry is NAN). Errors as append's; a log that
// keeps none: TI_ERR_FULL.
ti_status ti_tokenlog_append_prompt(ti_tokenlog *l, uint32_t n, const float *logprob, const uint32_t *rank, const ti_top_logprob *top) TI_MUST_CHECK;
// No append after this. n_tokens: how many of the appended count. Once; later calls are ignored. error: a static or interned text for FINISH_ERROR,
// or NULL.
void ti_tokenlog_finish(ti_tokenlog *l, ti_finish reason, uint32_t n_tokens, const char *error);
// Wakes the subscriber (append and finish only mark; the loop calls this once a log a step).
void ti_tokenlog_ring(ti_tokenlog *l);

// ---- readers: any thread ----
typedef struct ti_tokenlog_state {
  uint32_t length;    // tokens readable now (already cut to n_tokens once finished)
  uint32_t n_prompt;  // prompt logprobs readable now
  ti_finish finish;   // NONE: goes on
  const char *error;
} ti_tokenlog_state;
ti_tokenlog_state ti_tokenlog_peek(const ti_tokenlog *l);
// Pointers into the log, valid while held, for indices below the length seen: [length].
const uint32_t *ti_tokenlog_ids(const ti_tokenlog *l);
const float *ti_tokenlog_logprobs(const ti_tokenlog *l);  // NULL when not kept
const uint32_t *ti_tokenlog_ranks(const ti_tokenlog *l);
const ti_top_logprob *ti_tokenlog_tops(const ti_tokenlog *l);
const float *ti_tokenlog_prompt_logprobs(const ti_tokenlog *l);
const uint32_t *ti_tokenlog_prompt_ranks(const ti_tokenlog *l);
const ti_top_logprob *ti_tokenlog_prompt_tops(const ti_tokenlog *l);

// ---- the subscriber ----
ti_tokenlog *ti_tokenlog_of_node(ti_inbox_node *n);
void *ti_tokenlog_owner(const ti_tokenlog *l);
void ti_tokenlog_seen(ti_tokenlog *l);  // before reading; a node in an inbox holds a reference, which seen hands to the caller (rele it)

#endif
