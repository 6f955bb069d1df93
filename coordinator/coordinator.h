// The coordinator's core: requests in, plans out, results in, tokens out. One loop thread owns all of it (DESIGN 1, 3, 4).
//
// Other threads reach it through ti_coord_submit / cancel / finish (lock-free inbox) and read tokens from the logs they made. It never tokenizes, never
// touches JSON, sockets or the wall clock: time is cfg.clock, workers are behind cfg.ctl (proto/ctl.h: nng or in-process), so that the same loop runs
// on virtual time with simulated workers (tests, step_bench).
#ifndef TI_COORDINATOR_COORDINATOR_H
#define TI_COORDINATOR_COORDINATOR_H
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/inbox.h"
#include "base/mesh.h"
#include "base/metrics.h"
#include "base/status.h"
#include "base/trace.h"
#include "coordinator/tokenlog.h"
#include "proto/ctl.h"
#include "proto/wire.h"

typedef struct ti_coord ti_coord;

typedef struct ti_coord_config {
  ti_mesh mesh;               // ranks of workers are 1 + worker index
  const ti_clock *clock;
  ti_ctl_host *ctl;           // borrowed, not started: ti_coord_create starts it. Close it before ti_coord_destroy
  const uint8_t *secret;      // of the job, for the handshake
  uint32_t secret_len;
  uint32_t vocab, page_tokens;
  uint32_t max_model_len;     // prompt + generated tokens of a sequence
  uint32_t max_num_seqs;      // running sequences a group
  uint32_t max_num_batched_tokens;  // token budget of a step and group
  uint32_t max_waiting;       // beyond it submit says TI_ERR_FULL (429)
  uint32_t steps_in_flight;   // 1 or 2
  uint32_t max_draft;         // drafts a decode row may verify (speculative decoding); 0: none
  uint32_t lookahead;         // KV places beyond its rows that a step may write: 1 with an MTP layer (ti_slots.lookahead)
  uint32_t n_page;            // 0: what every worker of a group has (the least Hello says); else at most this many
  bool lockstep;              // the model has experts: all groups step together, idle ones with empty batches
  uint32_t two_batch_rows;    // steps whose largest group has that many rows run as two alternating micro-batches (MoE); 0: none
  bool prefix_caching;
  uint32_t n_moe_layer, n_expert, n_top;  // of the model, for titan_expert_* and placements; 0: neither
  uint32_t n_redundant;       // expert slots beyond the experts, over all workers; 0: none
  uint32_t balance_tokens;    // tokens after which copies of experts are placed anew; 0: never
  const char *policy;         // "fcfs" or "priority"
  uint64_t heartbeat_us;      // a rank is late beyond this (2 s); UINT64_MAX: never
  uint64_t step_limit_us;     // a rank in one step for longer hangs (30 s)
  uint64_t start_limit_us;    // all ranks must be welcome by then (600 s: loading)
  uint64_t linger_us;         // after a rank's death: how long /health keeps saying 503 before the loop returns (1.2 s)
  ti_metrics *metrics;        // borrowed, may be NULL
  ti_trace *trace;            // borrowed, may be NULL
} ti_coord_config;

// A request, made by the gateway's or the front door's threads; the loop takes it over at submit.
typedef struct ti_request_spec {
  ti_inbox_node node;
  uint64_t id;                // given by ti_coord_submit
  uint32_t *ids;              // [n_prompt], malloc'ed, taken
  uint32_t n_prompt;
  uint32_t n_choice;
  ti_tokenlog **log;          // [n_choice], malloc'ed array, taken with one reference each
  ti_sampling sampling;       // bias arrays malloc'ed, taken; choice is set by the loop
  uint32_t max_tokens, min_tokens;
  bool ignore_eos;
  uint32_t *stop_id;          // malloc'ed, taken
  uint32_t n_stop_id;
  int32_t priority;           // lower runs first (vLLM)
  uint64_t deadline_us;       // 0: none; on cfg.clock
} ti_request_spec;
ti_request_spec *ti_request_spec_create(void);        // zeroed, malloc'ed; NULL: no memory
void ti_request_spec_destroy(ti_request_spec *s);     // frees what it took; NULL is fine

// Checks the numbers (TI_ERR_ARG names the field, its value and what would do) and starts cfg.ctl: from here on ranks are challenged as turns are run.
ti_status ti_coord_create(const ti_coord_config *cfg, ti_coord **out, ti_error *err) TI_MUST_CHECK;
// Requests that are still alive end with an error, but no subscriber is rung: the front doors close first, and their inboxes with them. Error texts in
// logs live as long as the coordinator: let go of the logs before. NULL is fine.
void ti_coord_destroy(ti_coord *c);

// ---- any thread ----
// Takes *spec on TI_OK only (the id is in *id). TI_ERR_FULL: too many wait (429). TI_ERR_CLOSED: draining or a rank is dead (503). TI_ERR_RANGE: its numbers
// cannot be served: no prompt or choice, a prompt of max_model_len or more (beyond it with max_tokens 0), an id beyond the vocabulary, more KV pages than a
// group has, min_tokens above max_tokens, more than 64 stop ids, 1024 bias entries or 128 choices, sampling beyond the wire's bounds (proto/wire_plan.c:
// what is refused by a worker there ends the cluster, so nothing that is taken here may be). max_tokens is cut to what max_model_len leaves. Requests are accepted
// before the workers are ready; they wait.
ti_status ti_coord_submit(ti_coord *c, ti_request_spec *spec, uint64_t *id) TI_MUST_CHECK;
void ti_coord_cancel(ti_coord *c, uint64_t id);
// The text pool found a stop string: the choice ends with its first n_tokens tokens.
void ti_coord_finish(ti_coord *c, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens);
// No new requests; the loop returns when what runs has finished, or after timeout_us, whichever comes first.
void ti_coord_drain(ti_coord *c, uint64_t timeout_us);

typedef struct ti_coord_rank { bool up, healthy; uint64_t step; uint32_t age_ms, in_step_us, step_us; char device[64], host[64], doing[64]; uint64_t kv_bytes, weight_bytes, rss_bytes; } ti_coord_rank;
typedef struct ti_coord_status {
  bool ready, healthy, draining;     // healthy: every rank stepped or heartbeat within heartbeat_us
  uint32_t n_rank;
  ti_coord_rank rank[64];            // [n_rank] workers, index = worker
  uint32_t running, waiting, preempted, pages, pages_used;
  uint64_t steps, prompt_tokens, generation_tokens, requests;
  char message[200];                 // why it is not healthy: names the rank
} ti_coord_status;
// A copy of what the loop last published (at most 100 ms old while ranks are up). Any thread, takes a short lock.
void ti_coord_get_status(const ti_coord *c, ti_coord_status *out);

// ---- the loop thread ----
// Runs until drained (TI_OK), or until a rank is lost and the linger is over (TI_ERR_PEER, *err names rank, what it was doing, what to do), or until
// not all ranks were there in start_limit_us (TI_ERR_TIMEOUT names those that are missing), or a worker's Hello does not fit cfg (TI_ERR_RANGE,
// TI_ERR_UNSUPPORTED: the field, what it says, what is expected).
ti_status ti_coord_run(ti_coord *c, ti_error *err) TI_MUST_CHECK;
// One turn without waiting, for virtual time: handles all events, plans what can be planned. *next_us: when a timer wants the next turn (UINT64_MAX: none).
// TI_INPROGRESS: it goes on; else as ti_coord_run.
ti_status ti_coord_turn(ti_coord *c, uint64_t *next_us, ti_error *err) TI_MUST_CHECK;

#endif
