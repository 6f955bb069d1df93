// Publishing the status (see status.h).
#include "coordinator/status.h"

#include <stdio.h>
#include <string.h>

enum { PUBLISH_US = 100000 };

static void fill_ranks(ti_coord *c, ti_coord_status *s) {
  s->n_rank = c->n_rank;
  for (uint32_t i = 0; i < c->n_rank; i++) {
    const ti_rank *r = &c->rank[i + 1];
    ti_coord_rank *o = &s->rank[i];
    const uint64_t age = c->now_us - r->heard_us;
    o->up = r->state == TI_RANK_UP;
    o->healthy = o->up && age < c->cfg.heartbeat_us && r->in_step_us <= c->cfg.step_limit_us;
    o->step = r->step;
    o->age_ms = age / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(age / 1000);
    o->in_step_us = r->in_step_us;
    o->step_us = r->step_us;
    memcpy(o->device, r->device, sizeof o->device);
    memcpy(o->host, r->host, sizeof o->host);
    memcpy(o->doing, r->doing, sizeof o->doing);
    o->kv_bytes = r->hello.kv_bytes;
    o->weight_bytes = r->hello.weight_bytes;
    o->rss_bytes = r->rss_bytes;
    s->healthy &= o->healthy;
  }
}

void ti_status_publish(ti_coord *c, uint64_t *next_us) {
  uint64_t due = c->published_us + PUBLISH_US;
  if (c->published_us == 0 || c->now_us >= due) {
    ti_coord_status *s = &c->now;
    s->ready = c->ready;
    s->draining = c->draining;
    s->healthy = c->ready && !c->failed;
    s->running = s->waiting = s->pages_used = 0;
    for (uint32_t i = 0; i < c->n_group; i++) {
      const ti_group *g = &c->group[i];
      const uint32_t used = g->pages ? ti_pages_total(g->pages) - ti_pages_free_count(g->pages) : 0;
      s->running += g->n_running;
      s->waiting += g->waiting.n;
      s->pages_used += used;
      ti_meter_set(c->meter.pages_used[i], used);
    }
    fill_ranks(c, s);
    snprintf(s->message, sizeof s->message, "%.199s", c->failed ? c->failure.text : !c->ready ? "loading" : "");
    ti_meter_set(c->meter.running, s->running);
    ti_meter_set(c->meter.waiting, s->waiting);
    ti_meter_set(c->meter.kv_usage, s->pages ? (double)s->pages_used / s->pages : 0);
    ti_meter_set(c->meter.gpu_cache_usage, s->pages ? (double)s->pages_used / s->pages : 0);
    if (pthread_mutex_trylock(&c->status_lock) == 0) {
      c->status = *s;
      pthread_mutex_unlock(&c->status_lock);
      c->published_us = c->now_us ? c->now_us : 1;
      due = c->published_us + PUBLISH_US;
    } else {
      due = c->now_us + 1000;
    }
  }
  if (due < *next_us) *next_us = due;
}

void ti_coord_get_status(const ti_coord *c, ti_coord_status *out) {
  pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&c->status_lock;
  pthread_mutex_lock(lock);
  *out = c->status;
  pthread_mutex_unlock(lock);
}
