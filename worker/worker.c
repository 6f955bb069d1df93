// The worker's loops (see worker.h).
#include "worker/worker.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/control.h"

#define HEARTBEAT_US 250000u
#define START_US 600000000u
#define LEAVE_US 1500000u
#define ARENA_BYTES ((size_t)TI_WIRE_MAX_BYTES * 4)  // a plan unpacks to a small multiple of its bytes

struct ti_worker {
  ti_worker_config cfg;
  ti_engine *engine;
  ti_worker_link *link;
  ti_arena plan, result;
  const char *_Atomic doing;
  _Atomic uint64_t step, step_began_us;  // began 0: between steps
  // the watch thread
  pthread_t watch;
  pthread_mutex_t lock;
  pthread_cond_t bell;
  bool leaving;
};

ti_status ti_worker_create(const ti_worker_config *cfg, ti_worker **out, ti_error *err) {
  ti_worker *w = calloc(1, sizeof *w);
  if (!w) return ti_error_set(err, TI_ERR_NOMEM, "no memory for a worker");
  w->cfg = *cfg;
  if (!w->cfg.heartbeat_us) w->cfg.heartbeat_us = HEARTBEAT_US;
  if (!w->cfg.start_us) w->cfg.start_us = START_US;
  if (!w->cfg.leave_us) w->cfg.leave_us = LEAVE_US;
  ti_arena_init(&w->plan, ARENA_BYTES);
  ti_arena_init(&w->result, ARENA_BYTES);
  atomic_store(&w->doing, "loading");
  w->cfg.engine.doing = &w->doing;
  const ti_status st = ti_engine_create(&w->cfg.engine, &w->engine, err);
  if (st) {
    free(w);
    return st;
  }
  *out = w;
  return TI_OK;
}

void ti_worker_destroy(ti_worker *w) {
  if (!w) return;
  ti_engine_destroy(w->engine);
  ti_arena_fini(&w->plan);
  ti_arena_fini(&w->result);
  free(w);
}

void ti_worker_get_facts(const ti_worker *w, ti_engine_facts *out) { ti_engine_get_facts(w->engine, out); }
const char *ti_worker_doing(const ti_worker *w) { return atomic_load(&w->doing); }

// ---- the watch thread ----

static uint64_t resident_bytes(void) {
  unsigned long total = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (!f) return 0;
  const int n = fscanf(f, "%lu %lu", &total, &resident);
  fclose(f);
  return n == 2 ? (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void beat(ti_worker *w) {
  const uint64_t now = ti_mono_us(), began = atomic_load(&w->step_began_us), in = began && now > began ? now - began : 0;
  ti_worker_link_heartbeat(w->link, &(ti_msg_heartbeat){.step = atomic_load(&w->step),
                                                        .in_step_us = in > UINT32_MAX ? UINT32_MAX : (uint32_t)in,
                                                        .clock_us = (int64_t)now,
                                                        .doing = atomic_load(&w->doing),
                                                        .rss_bytes = resident_bytes()});
}

static void *watch(void *arg) {
  ti_worker *w = arg;
  uint64_t next_us = ti_mono_us() + w->cfg.heartbeat_us;
  pthread_mutex_lock(&w->lock);
  while (!w->leaving) {
    const struct timespec t = {.tv_sec = (time_t)(next_us / 1000000), .tv_nsec = (long)(next_us % 1000000) * 1000};
    pthread_cond_timedwait(&w->bell, &w->lock, &t);
    const uint64_t now = ti_mono_us(), lost = ti_worker_link_lost_us(w->link);
    if (w->leaving || now < next_us) continue;
    next_us = now + w->cfg.heartbeat_us;
    pthread_mutex_unlock(&w->lock);
    beat(w);
    if (lost && now - lost > w->cfg.leave_us && w->cfg.overdue) w->cfg.overdue(w->cfg.arg, atomic_load(&w->doing));
    pthread_mutex_lock(&w->lock);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

static ti_status watch_start(ti_worker *w, ti_error *err) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->bell, &attr);
  pthread_condattr_destroy(&attr);
  if (pthread_create(&w->watch, NULL, watch, w) == 0) return TI_OK;
  pthread_cond_destroy(&w->bell);
  pthread_mutex_destroy(&w->lock);
  return ti_error_set(err, TI_ERR_IO, "cannot start the heartbeat thread: raise the limit on processes (ulimit -u)");
}

static void watch_stop(ti_worker *w) {
  pthread_mutex_lock(&w->lock);
  w->leaving = true;
  pthread_cond_signal(&w->bell);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->watch, NULL);
  pthread_cond_destroy(&w->bell);
  pthread_mutex_destroy(&w->lock);
}

// ---- the step loop ----

static ti_status run_plan(ti_worker *w, const ti_step_plan *plan, ti_error *err) {
  ti_step_result r;
  ti_arena_reset(&w->result);
  atomic_store(&w->step, plan->step);
  atomic_store(&w->step_began_us, ti_mono_us());
  ti_status st = ti_engine_step(w->engine, plan, &w->result, &r, err);
  atomic_store(&w->step_began_us, 0);
  if (st) return ti_error_prefix(err, "step %" PRIu64, plan->step);
  if (ti_mesh_tp_of(&w->cfg.engine.mesh, w->cfg.engine.worker) != 0) r.n_row = 0;  // the group's first rank speaks for all
  st = ti_worker_link_result(w->link, &r);
  if (st == TI_OK || st == TI_ERR_PEER) return TI_OK;  // PEER: its GONE is in the inbox
  return ti_error_set(err, st == TI_ERR_FULL ? TI_ERR_TIMEOUT : st, "step %" PRIu64 ": the result cannot be sent: %s", plan->step,
                      st == TI_ERR_FULL ? "the coordinator has stopped reading" : ti_status_text(st));
}

static ti_status serve(ti_worker *w, ti_error *err) {
  for (;;) {
    ti_control m;
    ti_status st = ti_worker_link_next(w->link, &w->plan, &m, err);
    if (st) {
      if (st != TI_ERR_PEER && st != TI_ERR_ABORTED && st != TI_ERR_TIMEOUT) ti_worker_link_abort(w->link, err);
      return st;
    }
    if (m.kind == TI_CTL_DRAIN) return TI_OK;
    if (m.kind == TI_CTL_WELCOME) {
      ti_trace_set_offset(w->cfg.engine.trace, m.welcome.clock_us - (int64_t)ti_mono_us());
      ti_log_info("worker: welcome epoch=%" PRIu64 " pages=%u", m.welcome.epoch, m.welcome.n_page);
      continue;
    }
    st = m.kind == TI_CTL_PLACEMENT ? ti_engine_stage(w->engine, &m.placement, err) : run_plan(w, &m.plan, err);
    if (!st) continue;
    // Given up because the coordinator is done with us: its last word says how this ends.
    if (st == TI_ERR_ABORTED && ti_worker_link_lost_us(w->link)) continue;
    ti_worker_link_abort(w->link, err);
    return st;
  }
}

ti_status ti_worker_run(ti_worker *w, ti_error *err) {
  const ti_engine_config *e = &w->cfg.engine;
  ti_engine_facts f;
  ti_engine_get_facts(w->engine, &f);
  const ti_worker_link_config link = {
      .address = w->cfg.address,
      .secret = w->cfg.secret,
      .secret_len = w->cfg.secret_len,
      .coll = {e->tp, e->world},
      .start_us = w->cfg.start_us,
      .hello = {.rank = w->cfg.rank,
                .n_slot = f.n_slot,
                .n_page = f.n_page,
                .page_tokens = f.page_tokens,
                .max_rows = f.max_rows,
                .max_context = f.max_context,
                .vocab = (uint32_t)e->model->vocab,
                .device = w->cfg.device ? w->cfg.device : "",
                .host = w->cfg.host ? w->cfg.host : "",
                .pid = (uint64_t)getpid(),
                .weight_bytes = f.weight_bytes,
                .kv_bytes = f.kv_bytes},
  };
  atomic_store(&w->doing, "waiting for the coordinator");
  ti_status st = ti_worker_link_open(&link, &w->link, err);
  if (st) return st;
  st = watch_start(w, err);
  if (!st) {
    st = serve(w, err);
    atomic_store(&w->doing, "leaving");
    watch_stop(w);
  }
  ti_worker_link_close(w->link);
  w->link = NULL;
  return st;
}
