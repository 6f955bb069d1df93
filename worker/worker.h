// A worker process's life between start-up and exit: the engine, the link to the coordinator, the step loop and the thread that watches over it.
//
//   ti_worker_create    engine: weights, KV, scratch (collective)
//   ti_worker_run       dial, handshake, then: plan -> step -> result, until Drain, Abort or the coordinator's end; asleep in between
//
// The step loop keeps the device fed: while a step runs it looks for the next plan and submits it (worker/engine.h: two in flight where the device runs
// beside the host), and sends a result as soon as its step is done. It spins for a moment, then naps; with nothing in flight it sleeps until a message.
//
// The caller's thread is the step loop. A second thread sends heartbeats, and calls `overdue` when the step loop has not come back `leave_us` after
// the coordinator was lost: a kernel or an MPI call may be stuck for good, and a worker must not outlive its coordinator.
#ifndef TI_WORKER_WORKER_H
#define TI_WORKER_WORKER_H
#include "worker/engine.h"

typedef struct ti_worker ti_worker;

typedef struct ti_worker_config {
  uint32_t rank;            // 1 + engine.worker
  ti_engine_config engine;  // `doing` is the worker's own
  const char *address;      // what to dial
  const uint8_t *secret;    // [secret_len], borrowed
  uint32_t secret_len;
  const char *device, *host;                      // for status pages: "cpu avx512, 2 threads"; borrowed
  uint64_t heartbeat_us;                          // 0: 250 ms
  uint64_t start_us;                              // Welcome comes within; 0: 600 s
  uint64_t leave_us;                              // 0: 1.5 s
  void (*overdue)(void *arg, const char *doing);  // may end the process; watch thread
  void *arg;
} ti_worker_config;

// TI_ERR_PEER, TIMEOUT, ABORTED: another rank failed meanwhile; else the model or memory: err says.
ti_status ti_worker_create(const ti_worker_config *cfg, ti_worker **out, ti_error *err) TI_MUST_CHECK;
void ti_worker_destroy(ti_worker *w);  // NULL is fine
void ti_worker_get_facts(const ti_worker *w, ti_engine_facts *out);
const char *ti_worker_doing(const ti_worker *w);  // a static text; any thread

// TI_OK: drained. TI_ERR_PEER, TIMEOUT, ABORTED: a rank is lost (err: step, layer, whom it waited for; the coordinator has been told if it is there).
// Anything else: a plan or message that cannot be (our mistake); the coordinator has been told. Once.
ti_status ti_worker_run(ti_worker *w, ti_error *err) TI_MUST_CHECK;

#endif
