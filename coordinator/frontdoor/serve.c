// A request on its text thread: who may, and what it says. See door_priv.h.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "coordinator/frontdoor/door_priv.h"

enum { METRICS_MAX = 16 << 20 };

uint64_t ti_door_key(const char *client_id, uint64_t nonce) {
  const uint64_t parts[2] = {ti_hash64(client_id, strlen(client_id)), nonce};
  return ti_hash64(parts, sizeof(parts));
}

uint32_t ti_door_thread_of(const ti_frontdoor *d, const ti_client_request *q) {
  switch (q->kind) {
    case TI_CLI_SUBMIT:
      return (uint32_t)(ti_door_key(q->submit.client_id, q->submit.nonce) % d->n_thread);
    case TI_CLI_NEXT:
      return (uint32_t)(q->next.generation % d->n_thread);
    case TI_CLI_CANCEL:
      return (uint32_t)(q->cancel.generation % d->n_thread);
    default:
      return 0;
  }
}

// In a time that does not depend on where they differ.
static bool same_bytes(const void *a, const void *b, size_t n) {
  const unsigned char *x = a, *y = b;
  unsigned char diff = 0;
  for (size_t i = 0; i < n; i++) diff |= x[i] ^ y[i];
  return diff == 0;
}

static bool has_key(const ti_frontdoor *d, const char *given) {
  if (!d->api_key_len) return true;
  const size_t n = given ? strlen(given) : 0;
  return n == d->api_key_len && same_bytes(given, d->cfg.api_key, n);
}

static void answer_submitted(ti_door_thread *t, ti_door_context *c, const ti_door_gen *g) {
  ti_client_reply reply = {.kind = TI_CLI_SUBMIT};
  reply.submit = (ti_msg_submitted){.generation = g->id, .n_prompt = g->n_prompt};
  memcpy(reply.submit.capability, g->capability, sizeof(g->capability));
  ti_door_answer(t, c, &reply);
}

static void serve_submit(ti_door_thread *t, ti_door_context *c) {
  const ti_msg_submit *m = &c->request.submit;
  ti_error err = {0};
  uint32_t http_code = 500;
  if (!has_key(t->d, m->api_key)) {
    ti_door_refuse(t, c, 401, "api_key", "api_key: missing or wrong");
    return;
  }
  ti_door_gen *g = ti_door_gen_replayed(t, m->client_id, m->nonce);
  if (g) {
    answer_submitted(t, c, g);
    return;
  }
  ti_door_gen_expire(t, ti_mono_us(), t->n_gen >= t->max_gen);
  if (t->n_gen >= t->max_gen) {
    ti_door_refuse(t, c, 429, NULL, "%u generations run through this door, at most %u may; try again in a moment", t->n_gen * t->d->n_thread,
                   t->d->cfg.max_generations);
    return;
  }
  if (ti_failed(ti_door_gen_create(t, m, &c->arena, &g, &http_code, &err))) {
    char param[64];
    const size_t n = strcspn(err.text, ": ");
    snprintf(param, sizeof(param), "%.*s", err.text[n] == ':' && n < sizeof(param) ? (int)n : 0, err.text);
    ti_door_refuse(t, c, http_code, param, "%s", err.text);
    return;
  }
  answer_submitted(t, c, g);
}

// Whether the capability is g's; else it was refused.
static bool admit(ti_door_thread *t, ti_door_context *c, const ti_door_gen *g, const uint8_t *capability) {
  if (same_bytes(g->capability, capability, TI_CAPABILITY_BYTES)) return true;
  ti_door_refuse(t, c, 403, "capability", "capability: is not generation %" PRIu64 "'s", g->id);
  return false;
}

static void serve_next(ti_door_thread *t, ti_door_context *c) {
  const ti_msg_next *m = &c->request.next;
  ti_door_gen *g = ti_door_gen_find(t, m->generation);
  if (!g) {
    ti_door_refuse(t, c, 404, "generation", "generation: %" PRIu64 " is unknown: it never was, or it ended more than %" PRIu64 " s ago",
                   m->generation, t->d->cfg.keep_us / 1000000);
    return;
  }
  if (!admit(t, c, g, m->capability)) return;
  if (m->choice >= g->n_choice) {
    ti_door_refuse(t, c, 400, "choice", "choice: %u, but the generation has %u", m->choice, g->n_choice);
    return;
  }
  ti_door_choice *choice = &g->choice[m->choice];
  if (m->cursor > choice->seen) {
    ti_door_refuse(t, c, 416, "cursor", "cursor: %u is past the end, %u tokens are there", m->cursor, choice->seen);
  } else if (m->text_cursor > choice->text.len) {
    ti_door_refuse(t, c, 416, "text_cursor", "text_cursor: %u is past the end, %zu bytes are there", m->text_cursor, choice->text.len);
  } else if (m->text_cursor < choice->text.len && ((unsigned char)choice->text.data[m->text_cursor] & 0xC0) == 0x80) {
    ti_door_refuse(t, c, 400, "text_cursor", "text_cursor: %u is inside a character", m->text_cursor);
  } else if (ti_door_has_news(c, choice) || m->wait_ms == 0) {
    ti_door_answer_tokens(t, c, choice);
  } else {
    ti_door_wait(t, c, choice, m->wait_ms);
  }
}

static void serve_cancel(ti_door_thread *t, ti_door_context *c) {
  const ti_msg_cancel *m = &c->request.cancel;
  ti_door_gen *g = ti_door_gen_find(t, m->generation);
  if (g && !admit(t, c, g, m->capability)) return;
  if (g && g->n_done < g->n_choice) t->d->cfg.backend.cancel(t->d->cfg.backend.self, g->request);
  ti_client_reply reply = {.kind = TI_CLI_CANCEL};
  reply.cancel.found = g != NULL;
  ti_door_answer(t, c, &reply);
}

static void serve_status(ti_door_thread *t, ti_door_context *c) {
  const ti_frontdoor *d = t->d;
  if (!has_key(d, c->request.status.api_key)) {
    ti_door_refuse(t, c, 401, "api_key", "api_key: missing or wrong");
    return;
  }
  ti_coord_status *s = ti_arena_calloc(&c->arena, 1, sizeof(*s));
  if (s) d->cfg.backend.status(d->cfg.backend.self, s);
  const uint32_t cap = s ? sizeof(s->rank) / sizeof(*s->rank) : 0, n = s && s->n_rank < cap ? s->n_rank : cap;
  ti_rank_status *rank = ti_arena_calloc(&c->arena, n + 1, sizeof(*rank));
  if (!s || !rank) {
    ti_door_refuse(t, c, 503, NULL, "out of memory");
    return;
  }
  for (uint32_t i = 0; i < n; i++) {
    ti_coord_rank *r = &s->rank[i];
    r->device[sizeof(r->device) - 1] = r->host[sizeof(r->host) - 1] = r->doing[sizeof(r->doing) - 1] = 0;
    rank[i] = (ti_rank_status){.rank = 1 + i,
                               .healthy = r->healthy,
                               .step = r->step,
                               .age_ms = r->age_ms,
                               .step_us = r->step_us,
                               .device = r->device,
                               .host = r->host,
                               .doing = r->doing};
  }
  ti_buf metrics;
  ti_buf_init(&metrics, METRICS_MAX);
  const bool rendered = c->request.status.metrics && d->cfg.metrics && !ti_failed(ti_metrics_render(d->cfg.metrics, &metrics));
  ti_client_reply reply = {.kind = TI_CLI_STATUS};
  reply.status = (ti_msg_status_reply){.model = d->cfg.model_name ? d->cfg.model_name : "",
                                       .version = TI_VERSION,
                                       .healthy = s->ready && s->healthy,
                                       .rank = rank,
                                       .n_rank = n,
                                       .running = s->running,
                                       .waiting = s->waiting,
                                       .pages = s->pages,
                                       .pages_used = s->pages_used,
                                       .tokens = s->generation_tokens,
                                       .metrics = rendered ? ti_buf_str(&metrics) : NULL};
  ti_door_answer(t, c, &reply);
  ti_buf_fini(&metrics);
}

void ti_door_serve(ti_job *j, ti_text_thread *th) {
  ti_door_context *c = (ti_door_context *)(void *)j;
  ti_door_thread *t = &c->d->thread[ti_door_thread_of(c->d, &c->request)];
  t->th = th;
  if (t->stopping) {
    ti_door_refuse(t, c, 503, NULL, "the server is shutting down");
    return;
  }
  switch (c->request.kind) {
    case TI_CLI_SUBMIT:
      serve_submit(t, c);
      return;
    case TI_CLI_NEXT:
      serve_next(t, c);
      return;
    case TI_CLI_CANCEL:
      serve_cancel(t, c);
      return;
    default:
      serve_status(t, c);
      return;
  }
}

void ti_door_stop_thread(ti_job *j, ti_text_thread *th) {
  ti_door_thread *t = (ti_door_thread *)(void *)((char *)j - offsetof(ti_door_thread, stop_job));
  t->th = th;
  t->stopping = true;
  while (t->first) {
    ti_door_context *c = t->first;
    ti_door_unwait(t, c);
    ti_door_refuse(t, c, 503, NULL, "the server is shutting down");
  }
  for (uint32_t i = 0; i < t->buckets; i++)
    while (t->by_id[i]) ti_door_gen_destroy(t, t->by_id[i]);
  ti_text_alarm_remove(th, &t->alarm);
  atomic_fetch_add(&t->d->n_stopped, 1);
}
