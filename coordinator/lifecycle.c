// What happens to a request between plans: admission to a group's queue, the ends of its choices, its own end. The loop thread.
#include "base/log.h"
#include "coordinator/coord_priv.h"
#include "coordinator/route.h"
#include "coordinator/sched/sched.h"

static ti_request **bucket(ti_coord *c, uint64_t id) { return &c->hash[id & (TI_COORD_HASH - 1)]; }  // ids are consecutive

ti_request *ti_coord_lookup(ti_coord *c, uint64_t id) {
  ti_request *r = *bucket(c, id);
  while (r && r->spec->id != id) r = r->hash_next;
  return r;
}

static void link_request(ti_coord *c, ti_request *r) {
  ti_request **b = bucket(c, r->spec->id);
  r->hash_next = *b;
  *b = r;
  r->all_next = c->all;
  if (c->all) c->all->all_prev = r;
  c->all = r;
  c->n_live++;
  if (r->spec->deadline_us) ti_heap_push(&c->deadlines, &r->deadline);
}

static void unlink_request(ti_coord *c, ti_request *r) {
  ti_request **p = bucket(c, r->spec->id);
  while (*p != r) p = &(*p)->hash_next;
  *p = r->hash_next;
  *(r->all_prev ? &r->all_prev->all_next : &c->all) = r->all_next;
  if (r->all_next) r->all_next->all_prev = r->all_prev;
  c->n_live--;
}

void ti_request_unref(ti_coord *c, ti_request *r) {
  if (r->n_done < r->spec->n_choice || r->inflight) return;
  unlink_request(c, r);
  ti_request_destroy(r);
}

void ti_seq_enqueue(ti_coord *c, ti_seq *s) {
  s->state = TI_SEQ_WAITING;
  s->n_kv = s->kv_sent = s->n_fill = 0;
  ti_heap_push(&c->group[s->req->group].waiting, &s->wait);
}

void ti_request_release_held(ti_coord *c, ti_request *r, uint32_t upto) {
  for (; r->n_released < upto && r->n_released < r->spec->n_choice; r->n_released++) {
    ti_seq *s = &r->seq[r->n_released];
    if (s->state == TI_SEQ_HELD) ti_seq_enqueue(c, s);
  }
}

void ti_seq_end(ti_coord *c, ti_seq *s, ti_finish reason, uint32_t n_tokens, const char *error) {
  ti_request *r = s->req;
  ti_group *g = &c->group[r->group];
  if (s->state == TI_SEQ_DONE) return;
  if (s->state == TI_SEQ_WAITING) ti_heap_remove(&g->waiting, &s->wait);
  if (s->state == TI_SEQ_RUNNING) ti_sched_remove(g, s);
  s->state = TI_SEQ_DONE;
  const uint32_t kept = n_tokens < s->n_gen ? n_tokens : s->n_gen;
  ti_tokenlog_finish(s->log, reason, kept, error);
  if (!c->closing) ti_tokenlog_ring(s->log);
  ti_meter_add(c->meter.generation_tokens, kept);
  ti_meter_add(c->meter.success[reason], 1);
  r->n_done++;
  if (r->n_done < r->spec->n_choice) {  // a held one takes over what the first was to prefill
    if (r->n_released < r->spec->n_choice && r->n_done == r->n_released) ti_request_release_held(c, r, r->n_released + 1);
    return;
  }
  if (r->spec->deadline_us) ti_heap_remove(&c->deadlines, &r->deadline);
  if (!r->started) atomic_fetch_sub_explicit(&c->n_waiting, 1, memory_order_relaxed);
  ti_meter_observe_us(c->meter.e2e, ti_coord_since(c, r->submit_us));
}

void ti_request_end(ti_coord *c, ti_request *r, ti_finish reason, const char *error) {
  for (uint32_t i = r->spec->n_choice; i-- > 0;) ti_seq_end(c, &r->seq[i], reason, r->seq[i].n_gen, error);
  ti_request_unref(c, r);
}

void ti_coord_end_all(ti_coord *c, ti_finish reason, const char *error) {
  for (ti_request *r = c->all, *next; r; r = next) {
    next = r->all_next;
    if (r->n_done < r->spec->n_choice) ti_request_end(c, r, reason, error);
  }
}

static uint32_t route(ti_coord *c, const ti_request *r) {
  ti_route_view v[TI_COORD_RANKS];
  for (uint32_t i = 0; i < c->n_group; i++) {
    const ti_group *g = &c->group[i];
    const uint32_t pages = g->pages ? ti_pages_total(g->pages) : 0;
    v[i] = (ti_route_view){.running = g->n_running, .waiting = g->waiting.n, .pages = pages};
    v[i].pages_used = g->pages ? pages - ti_pages_free_count(g->pages) : 0;
  }
  ti_route_reason why;
  const uint32_t i = ti_route_pick(v, c->n_group, &why);
  ti_log_debug("coordinator: request=%lu group=%u why=%d", (unsigned long)r->spec->id, i, (int)why);
  return i;
}

void ti_coord_admit(ti_coord *c, ti_request *r) {
  const ti_request_spec *q = r->spec;
  link_request(c, r);
  c->now.requests++;
  if (c->failed || c->stopped) {
    ti_request_end(c, r, TI_FINISH_ERROR, c->failed ? c->failure.text : "the server is shutting down");
    return;
  }
  r->group = route(c, r);
  const ti_group *g = &c->group[r->group];
  if (g->pages && r->max_pages > ti_pages_total(g->pages)) {
    ti_request_end(c, r, TI_FINISH_ERROR, "the request needs more KV pages than there are");
    return;
  }
  c->now.prompt_tokens += q->n_prompt;
  ti_meter_add(c->meter.prompt_tokens, q->n_prompt);
  ti_request_release_held(c, r, 1);
}
