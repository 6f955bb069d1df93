// A worker's end of the control plane: dials the coordinator, proves itself, takes plans, sends results.
//
//   NNG's threads                     step loop                            watch thread
//     sink --> inbox (eventfd) --------> next: plan | drain | the end        heartbeat
//       |                                result, abort
//       +--> Abort or GONE: the collectives are aborted at once, for the step loop may be waiting in one
//
// Plans wait in the inbox while a step runs, so that the next one is there when it ends. Challenge and Welcome are answered inside `next`.
#ifndef TI_WORKER_CONTROL_H
#define TI_WORKER_CONTROL_H
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "parallel/coll.h"
#include "proto/wire.h"

typedef struct ti_worker_link ti_worker_link;

typedef struct ti_worker_link_config {
  const char *address;    // this worker's own, of the coordinator
  const uint8_t *secret;  // [secret_len] of the job, borrowed
  uint32_t secret_len;
  ti_msg_hello hello;  // rank and capacities; texts are borrowed; they are the bounds of what plans may name
  ti_coll *coll[2];    // aborted when the coordinator is gone or says so; NULL: none. Outlive the link
  uint64_t start_us;   // Welcome comes within
} ti_worker_link_config;

// Dials (in the background, for as long as it takes). TI_ERR_IO: the address is none.
ti_status ti_worker_link_open(const ti_worker_link_config *cfg, ti_worker_link **out, ti_error *err) TI_MUST_CHECK;
void ti_worker_link_close(ti_worker_link *l);  // gives what was sent 200 ms; NULL is fine

// ---- the step loop ----
// The next plan (of the present epoch: others are dropped), Welcome, Placement or Drain, decoded into arena; asleep until it comes.
// TI_ERR_ABORTED: the coordinator said Abort (err has its words). TI_ERR_PEER: it is gone, or refuses this worker. TI_ERR_TIMEOUT: no Welcome in
// start_us. TI_ERR_FORMAT, TI_ERR_RANGE: a message that is none.
ti_status ti_worker_link_next(ti_worker_link *l, ti_arena *arena, ti_control *out, ti_error *err) TI_MUST_CHECK;
// The same, waiting wait_us at most (0: not at all) while there is other work to see to: TI_AGAIN when nothing came.
ti_status ti_worker_link_try_next(ti_worker_link *l, ti_arena *arena, uint64_t wait_us, ti_control *out, ti_error *err) TI_MUST_CHECK;
// TI_ERR_PEER: gone. TI_ERR_FULL: the coordinator has stopped reading.
ti_status ti_worker_link_result(ti_worker_link *l, const ti_step_result *r) TI_MUST_CHECK;
// The last word, before close: why this worker gives up.
void ti_worker_link_abort(ti_worker_link *l, const ti_error *why);

// ---- any other one thread ----
void ti_worker_link_heartbeat(ti_worker_link *l, const ti_msg_heartbeat *h);  // epoch is filled in; dropped before Welcome

// ---- any thread ----
// When the coordinator was lost or said Abort (monotonic us); 0: it is there.
uint64_t ti_worker_link_lost_us(const ti_worker_link *l);

#endif
