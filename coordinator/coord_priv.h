// The coordinator's insides: what its files share. Everything here is the loop thread's, but for the atomics and the published status.
#ifndef TI_COORDINATOR_COORD_PRIV_H
#define TI_COORDINATOR_COORD_PRIV_H
#include <pthread.h>
#include <stdatomic.h>

#include "coordinator/balance.h"
#include "coordinator/cache/pages.h"
#include "coordinator/coordinator.h"
#include "coordinator/load.h"
#include "coordinator/meter.h"
#include "coordinator/plan.h"
#include "coordinator/request.h"
#include "coordinator/sched/draft.h"
#include "coordinator/sched/heap.h"
#include "coordinator/sched/policy.h"

enum { TI_COORD_RANKS = 64, TI_COORD_FLIGHT = 2, TI_COORD_HASH = 4096 };

// A data-parallel group: tp ranks that share a batch, pages and plans.
typedef struct ti_group {
  uint32_t index;
  ti_pages *pages;      // made when its ranks have said how many they have
  ti_seq *head, *tail;  // running, in the policy's order
  uint32_t n_running;
  ti_heap waiting;
  uint32_t *free_slot;  // [max_num_seqs] a stack
  uint32_t n_free_slot;
  uint32_t *release;  // [max_num_seqs] slots that the next plan releases
  uint32_t n_release;
  uint64_t tick;                  // plans tried: marks the sequences that a plan has given a row
  ti_plan plan[TI_COORD_FLIGHT];  // a ring: in flight are n_flight from `oldest` on
  uint32_t oldest, n_flight;
  uint64_t next_step;
  ti_draft_switch draft;
  uint64_t oldest_us;  // since when the oldest plan in flight can have been executing
} ti_group;

typedef enum ti_rank_state { TI_RANK_DOWN, TI_RANK_CHALLENGED, TI_RANK_HELLO, TI_RANK_UP } ti_rank_state;
typedef struct ti_rank {
  ti_rank_state state;
  uint32_t conn;  // the present connection
  uint8_t nonce[TI_NONCE_BYTES];
  uint64_t since_us;    // of this state
  uint64_t heard_us;    // last message
  uint64_t step;        // last one it spoke of
  uint32_t in_step_us;  // by its last heartbeat
  uint32_t step_us;     // how long its last step took
  ti_msg_hello hello;   // texts are in device, host
  uint64_t rss_bytes;
  char device[64], host[64], doing[64];
} ti_rank;

struct ti_coord {
  ti_coord_config cfg;
  const ti_sched_policy *policy;
  ti_inbox events;  // ti_ctl_event
  ti_inbox mail;    // ti_mail
  // ---- any thread ----
  _Atomic uint64_t next_id;
  _Atomic uint32_t n_waiting;   // requests that have never had a slot
  _Atomic uint32_t n_entering;  // submits between their look at `closed` and the loop
  _Atomic uint32_t n_page;      // the smallest group's, 0: not known yet
  _Atomic bool closed;          // draining or failed
  _Atomic bool drain_asked;
  struct ti_drain_mail {
    ti_mail mail;
    uint64_t timeout_us;
  } drain;
  // ---- the loop ----
  uint64_t epoch, now_us, started_us;
  ti_group *group;  // [n_group]
  uint32_t n_group;
  ti_rank rank[TI_COORD_RANKS + 1];  // by rank, [0] unused
  uint32_t n_rank;                   // workers
  bool ready, draining, failed, stopped;
  bool closing;  // being destroyed: the logs' subscribers may be gone
  uint64_t drain_until_us, failed_us, published_us;
  ti_error failure;
  ti_heap deadlines;
  ti_request *hash[TI_COORD_HASH];
  ti_request *all;
  uint32_t n_live;
  ti_buf out;   // the message being encoded
  ti_arena in;  // the message being decoded
  ti_meter meter;
  ti_load load;
  ti_balance balance;
  ti_coord_status now;  // counters of the status, kept up to date
  // ---- published ----
  pthread_mutex_t status_lock;
  ti_coord_status status;
};

// How long ago t was. A request that came in after the turn began is of this turn's moment.
static inline uint64_t ti_coord_since(const ti_coord *c, uint64_t t) { return c->now_us > t ? c->now_us - t : 0; }
static inline ti_group *ti_coord_group_of_rank(ti_coord *c, uint32_t rank) { return &c->group[ti_mesh_dp_of(&c->cfg.mesh, (int)rank - 1)]; }

// ---- lifecycle.c ----
void ti_coord_admit(ti_coord *c, ti_request *r);  // takes r: routes and queues it, or ends it
ti_request *ti_coord_lookup(ti_coord *c, uint64_t id);
// Ends a choice with its first n_tokens tokens; may free the request. A choice that is done is left alone.
void ti_seq_end(ti_coord *c, ti_seq *s, ti_finish reason, uint32_t n_tokens, const char *error);
void ti_request_end(ti_coord *c, ti_request *r, ti_finish reason, const char *error);  // all choices, with what they have
void ti_coord_end_all(ti_coord *c, ti_finish reason, const char *error);
void ti_request_unref(ti_coord *c, ti_request *r);                        // frees it when all is done
void ti_seq_enqueue(ti_coord *c, ti_seq *s);                              // -> WAITING
void ti_request_release_held(ti_coord *c, ti_request *r, uint32_t upto);  // choices below upto may be admitted

#endif
