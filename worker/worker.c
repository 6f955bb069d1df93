// The worker's loops (see worker.h).
#include "worker/worker.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/team.h"
#include "worker/control.h"

#define HEARTBEAT_US 250000u
#define START_US 600000000u
#define LEAVE_US 1500000u
#define SPIN_US 100u       // with a step in flight: so long after the last event the loop looks without sleeping
#define NAP_US 20u
#define STEP_US 30000000u  // a step in flight for longer: the device is asked, and waited for, what became of it
#define ARENA_BYTES ((size_t)TI_WIRE_MAX_BYTES * 4)  // a plan unpacks to a small multiple of its bytes

struct ti_worker {
  ti_worker_config cfg;
  ti_engine *engine;
  ti_worker_link *link;
  ti_arena plan, result;
  const char *_Atomic doing;
  _Atomic uint64_t step, step_began_us;  // the oldest in flight; began 0: between steps
  uint64_t newest;                       // the step submitted last
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

// The oldest step in flight is what heartbeats tell of.
static void note_flight(ti_worker *w, uint64_t oldest) {
  atomic_store(&w->step, oldest);
  atomic_store(&w->step_began_us, ti_engine_in_flight(w->engine) ? ti_mono_us() : 0);
}

static ti_status submit(ti_worker *w, const ti_step_plan *plan, ti_error *err) {
  const bool first = ti_engine_in_flight(w->engine) == 0;
  if (first) {
    atomic_store(&w->step, plan->step);
    atomic_store(&w->step_began_us, ti_mono_us());
  }
  w->newest = plan->step;
  const ti_status st = ti_engine_submit(w->engine, plan, err);
  if (!st) return TI_OK;
  if (first) atomic_store(&w->step_began_us, 0);
  return ti_error_prefix(err, "step %" PRIu64, plan->step);
}

static ti_status collect(ti_worker *w, ti_error *err) {
  ti_step_result r;
  const uint64_t step = atomic_load(&w->step);
  ti_arena_reset(&w->result);
  ti_status st = ti_engine_collect(w->engine, &w->result, &r, err);
  if (st) return ti_error_prefix(err, "step %" PRIu64, step);
  note_flight(w, w->newest);
  if (ti_mesh_tp_of(&w->cfg.engine.mesh, w->cfg.engine.worker) != 0) r.n_row = 0;  // the group's first rank speaks for all
  st = ti_worker_link_result(w->link, &r);
  if (st == TI_OK || st == TI_ERR_PEER) return TI_OK;  // PEER: its GONE is in the inbox
  return ti_error_set(err, st == TI_ERR_FULL ? TI_ERR_TIMEOUT : st, "step %" PRIu64 ": the result cannot be sent: %s", step,
                      st == TI_ERR_FULL ? "the coordinator has stopped reading" : ti_status_text(st));
}

// What a message other than a plan asks for. TI_AGAIN: go on.
static ti_status obey(ti_worker *w, const ti_control *m, ti_error *err) {
  ti_status st = TI_AGAIN;
  if (m->kind == TI_CTL_WELCOME) {
    ti_trace_set_offset(w->cfg.engine.trace, m->welcome.clock_us - (int64_t)ti_mono_us());
    ti_log_info("worker: welcome epoch=%" PRIu64 " pages=%u", m->welcome.epoch, m->welcome.n_page);
  } else if (m->kind == TI_CTL_PLACEMENT) {
    st = ti_engine_stage(w->engine, &m->placement, err);
    if (!st) st = TI_AGAIN;
  } else if (m->kind == TI_CTL_DRAIN) {
    for (st = TI_OK; !st && ti_engine_in_flight(w->engine);) st = collect(w, err);
  }
  return st;
}

// How long the loop may wait for a message while a step runs: not at all while things have happened lately.
static uint64_t nap_us(uint64_t busy_us) { return ti_mono_us() - busy_us < SPIN_US ? 0 : NAP_US; }

// The loop's next thing to do, once. TI_AGAIN: go on. plan: one that waits for steps in flight (its memory is w->plan), or none.
// *link: the error is the link's, which has told or been told all there is.
static ti_status turn(ti_worker *w, ti_control *m, bool *held, uint64_t *busy_us, bool *link, ti_error *err) {
  ti_status st;
  *link = false;
  if (*held && ti_engine_can_submit(w->engine, &m->plan)) {
    *held = false;
    *busy_us = ti_mono_us();
    return (st = submit(w, &m->plan, err)) ? st : TI_AGAIN;
  }
  const int n = ti_engine_in_flight(w->engine);
  const uint64_t began = atomic_load(&w->step_began_us);
  if (n && (ti_engine_done(w->engine) != TI_INPROGRESS || ti_mono_us() - began > STEP_US)) {  // collect says what is wrong, if anything
    *busy_us = ti_mono_us();
    return (st = collect(w, err)) ? st : TI_AGAIN;
  }
  if (*held) {
    const uint64_t nap = nap_us(*busy_us);
    if (nap) nanosleep(&(struct timespec){.tv_nsec = (long)nap * 1000}, NULL);
    return TI_AGAIN;
  }
  st = n ? ti_worker_link_try_next(w->link, &w->plan, nap_us(*busy_us), m, err) : ti_worker_link_next(w->link, &w->plan, m, err);
  *link = st != TI_OK;
  if (st) return st;
  *busy_us = ti_mono_us();
  *held = m->kind == TI_CTL_PLAN;
  return *held ? TI_AGAIN : obey(w, m, err);
}

static ti_status serve(ti_worker *w, ti_error *err) {
  ti_control m;
  bool held = false, link;
  uint64_t busy_us = 0;
  for (;;) {
    const ti_status st = turn(w, &m, &held, &busy_us, &link, err);
    if (st == TI_OK) return TI_OK;
    if (st == TI_AGAIN) continue;
    // Given up because the coordinator is done with us: its last word says how this ends.
    if (!link && st == TI_ERR_ABORTED && ti_worker_link_lost_us(w->link)) continue;
    if (!link || (st != TI_ERR_PEER && st != TI_ERR_ABORTED && st != TI_ERR_TIMEOUT)) ti_worker_link_abort(w->link, err);
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
    if (e->dev.cpus && ti_team_pin(e->dev.cpus[0])) ti_log_warn("worker: the step loop cannot be pinned to CPU %d", e->dev.cpus[0]);
    (void)!prctl(PR_SET_TIMERSLACK, 1000ul);  // the loop's naps are shorter than Linux's usual 50 us of grace
    st = serve(w, err);
    atomic_store(&w->doing, "leaving");
    watch_stop(w);
  }
  ti_worker_link_close(w->link);
  w->link = NULL;
  return st;
}
