// The text pool's threads, inboxes and sinks (see pool.h).
#include "coordinator/gateway/pool.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

enum { TICK_US = 1000000, JOBS_A_TURN = 8 };

typedef struct sink_slot {
  ti_sink *sink;  // NULL: free
  uint32_t serial, next_free;
} sink_slot;

struct ti_text_thread {
  ti_pool *pool;
  pthread_t thread;
  ti_inbox jobs, logs;
  sink_slot *slot;  // [cap]
  uint32_t cap, n_sink, free_slot;
  ti_after *after, **after_end;
  ti_alarm *alarms;  // few: one a door
  ti_tok_scratch *scratch;
  bool stop;  // set by a job
  ti_job stop_job;
};

struct ti_pool {
  uint32_t n;
  ti_text_thread th[];  // [n]
};

enum { NO_SLOT = UINT32_MAX };

// Handles: serial (32 bits) | slot + 1 (32 bits), as a pointer. Serials of a slot only grow.
static void *handle_of(uint32_t serial, uint32_t slot) { return (void *)(uintptr_t)((uint64_t)serial << 32 | (slot + 1)); }

static ti_sink *find_sink(ti_text_thread *th, const void *handle) {
  const uint64_t h = (uint64_t)(uintptr_t)handle;
  const uint32_t slot = (uint32_t)h - 1;
  if ((uint32_t)h == 0 || slot >= th->cap || th->slot[slot].serial != (uint32_t)(h >> 32)) return NULL;
  return th->slot[slot].sink;
}

ti_status ti_sink_add(ti_text_thread *th, ti_sink *s) {
  if (th->free_slot == NO_SLOT) {
    const uint32_t cap = th->cap ? th->cap * 2 : 256;
    sink_slot *v = realloc(th->slot, cap * sizeof *v);
    if (!v) return TI_ERR_NOMEM;
    th->slot = v;
    for (uint32_t i = cap; i-- > th->cap;) {
      v[i] = (sink_slot){.next_free = th->free_slot};
      th->free_slot = i;
    }
    th->cap = cap;
  }
  const uint32_t i = th->free_slot;
  sink_slot *x = &th->slot[i];
  th->free_slot = x->next_free;
  x->sink = s;
  th->n_sink++;
  s->handle = handle_of(x->serial, i);
  return TI_OK;
}

void ti_sink_remove(ti_text_thread *th, ti_sink *s) {
  if (!s->handle) return;
  const uint32_t i = (uint32_t)(uintptr_t)s->handle - 1;
  th->slot[i].sink = NULL;
  th->slot[i].serial++;
  th->slot[i].next_free = th->free_slot;
  th->free_slot = i;
  th->n_sink--;
  s->handle = NULL;
}

void ti_text_after(ti_text_thread *th, ti_after *a) {
  if (a->queued) return;
  a->queued = true;
  a->next = NULL;
  *th->after_end = a;
  th->after_end = &a->next;
}

void ti_text_alarm(ti_text_thread *th, ti_alarm *a, uint64_t at_us) {
  a->at_us = at_us;
  if (a->listed) return;
  a->listed = true;
  a->next = th->alarms;
  th->alarms = a;
}

void ti_text_alarm_remove(ti_text_thread *th, ti_alarm *a) {
  for (ti_alarm **at = &th->alarms; *at; at = &(*at)->next) {
    if (*at != a) continue;
    *at = a->next;
    break;
  }
  a->listed = false;
}

ti_inbox *ti_text_logs(ti_text_thread *th) { return &th->logs; }
ti_tok_scratch *ti_text_scratch(ti_text_thread *th) { return th->scratch; }
uint32_t ti_pool_size(const ti_pool *p) { return p->n; }
void ti_text_post(ti_pool *p, uint32_t thread, ti_job *j) { ti_inbox_push(&p->th[thread % p->n].jobs, &j->node); }

static void read_logs(ti_text_thread *th) {
  for (ti_inbox_node *n; (n = ti_inbox_pop(&th->logs));) {
    ti_tokenlog *l = ti_tokenlog_of_node(n);
    ti_tokenlog_seen(l);
    ti_sink *s = find_sink(th, ti_tokenlog_owner(l));
    if (s) s->moved(s, th);
    ti_tokenlog_rele(l);
  }
}

// A few jobs, then all logs, and so on: a burst of long prompts must not silence the streams.
static void drain(ti_text_thread *th) {
  for (bool more = true; more;) {
    more = false;
    for (int i = 0; i < JOBS_A_TURN; i++) {
      ti_inbox_node *n = ti_inbox_pop(&th->jobs);
      if (!n) break;
      more = true;
      ti_job *j = (ti_job *)(void *)n;
      j->run(j, th);
    }
    read_logs(th);
    while (th->after) {
      ti_after *a = th->after;
      th->after = a->next;
      if (!th->after) th->after_end = &th->after;
      a->queued = false;
      a->run(a, th);
    }
  }
}

static void tick(ti_text_thread *th, uint64_t now) {
  for (uint32_t i = 0; i < th->cap; i++) {
    ti_sink *s = th->slot[i].sink;
    if (s && s->tick) s->tick(s, th, now);
  }
}

static void ring_alarms(ti_text_thread *th, uint64_t now) {
  for (ti_alarm *a = th->alarms, *next; a; a = next) {
    next = a->next;
    if (now < a->at_us) continue;
    a->at_us = UINT64_MAX;
    a->run(a, th, now);
  }
}

// Milliseconds until the next tick or alarm; -1: none.
static int idle_ms(const ti_text_thread *th, uint64_t now, uint64_t next_tick) {
  uint64_t at = next_tick ? next_tick : UINT64_MAX;
  for (const ti_alarm *a = th->alarms; a; a = a->next) at = a->at_us < at ? a->at_us : at;
  if (at == UINT64_MAX) return -1;
  return now >= at ? 0 : at - now > 1000000000 ? 1000000 : (int)((at - now) / 1000) + 1;
}

static void *text_main(void *arg) {
  ti_text_thread *th = arg;
  uint64_t next_tick = 0;
  while (!th->stop) {
    struct pollfd p[2] = {{.fd = ti_inbox_fd(&th->jobs), .events = POLLIN}, {.fd = ti_inbox_fd(&th->logs), .events = POLLIN}};
    uint64_t now = ti_mono_us();
    if (!th->n_sink)
      next_tick = 0;
    else if (!next_tick)
      next_tick = now + TICK_US;
    if (poll(p, 2, idle_ms(th, now, next_tick)) < 0 && errno != EINTR) ti_log_error("gateway: poll failed errno=%d", errno);
    ti_inbox_clear(&th->jobs);
    ti_inbox_clear(&th->logs);
    drain(th);
    now = ti_mono_us();
    ring_alarms(th, now);
    if (next_tick && now >= next_tick) {
      tick(th, now);
      drain(th);
      next_tick = now + TICK_US;
    }
  }
  return NULL;
}

static void run_stop(ti_job *j, ti_text_thread *th) { th->stop = true; }

static void thread_fini(ti_text_thread *th) {
  read_logs(th);  // nobody's any more: only their references
  ti_inbox_fini(&th->jobs);
  ti_inbox_fini(&th->logs);
  free(th->slot);
  ti_tok_scratch_destroy(th->scratch);
}

static ti_status thread_start(ti_text_thread *th, ti_error *err) {
  th->free_slot = NO_SLOT;
  th->after_end = &th->after;
  th->stop_job.run = run_stop;
  ti_status st = ti_inbox_init(&th->jobs);
  if (st) return ti_error_set(err, st, "text pool: no eventfd: raise the limit of open files (ulimit -n)");
  st = ti_inbox_init(&th->logs);
  if (st) {
    ti_inbox_fini(&th->jobs);
    return ti_error_set(err, st, "text pool: no eventfd: raise the limit of open files (ulimit -n)");
  }
  st = ti_tok_scratch_create(&th->scratch);
  if (!st && pthread_create(&th->thread, NULL, text_main, th) != 0) st = TI_ERR_NOMEM;
  if (st) {
    thread_fini(th);
    return ti_error_set(err, st, "text pool: no thread or no memory for one");
  }
  return TI_OK;
}

ti_status ti_pool_create(uint32_t n_thread, ti_pool **out, ti_error *err) {
  if (n_thread == 0 || n_thread > 256) return ti_error_set(err, TI_ERR_RANGE, "text threads: expected 1..256, got %u", n_thread);
  ti_pool *p = calloc(1, sizeof *p + n_thread * sizeof(ti_text_thread));
  if (!p) return ti_error_set(err, TI_ERR_NOMEM, "text pool: out of memory");
  for (uint32_t i = 0; i < n_thread; i++) {
    p->th[i].pool = p;
    const ti_status st = thread_start(&p->th[i], err);
    if (st) {
      ti_pool_destroy(p);
      return st;
    }
    p->n++;
  }
  *out = p;
  return TI_OK;
}

void ti_pool_destroy(ti_pool *p) {
  if (!p) return;
  for (uint32_t i = 0; i < p->n; i++) ti_text_post(p, i, &p->th[i].stop_job);
  for (uint32_t i = 0; i < p->n; i++) pthread_join(p->th[i].thread, NULL);
  for (uint32_t i = 0; i < p->n; i++) thread_fini(&p->th[i]);
  free(p);
}
