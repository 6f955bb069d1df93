// Calls: one request on a connection, from its headers to its last byte (see gateway_priv.h for who owns which part).
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/gateway/gateway_priv.h"

// One event of the stream may be large (an echoed prompt with its logprobs); a reader that is slow is held by TI_OUT_HIGH long before.
#define OUT_MAX_BYTES ((size_t)256 << 20)

static void run_events(ti_job *j, ti_text_thread *th) {
  ti_call *c = (ti_call *)(void *)j;
  const unsigned ev = atomic_exchange_explicit(&c->events, 0, memory_order_acq_rel);
  if ((ev & TI_EVENT_WORK) && !(ev & (TI_EVENT_GONE | TI_EVENT_STOP))) {
    c->route->slow(c, th);
  } else if (ev & TI_EVENT_GONE) {
    if (c->gen) {
      ti_gen_gone(c->gen, th);
    } else {
      ti_call_fail(c, 499, NULL, NULL, "the client left");  // nobody reads it; the connection must wake up to close
    }
  } else if (ev & TI_EVENT_STOP) {
    if (c->gen) {
      ti_gen_stop(c->gen, th);
    } else {
      ti_call_fail(c, 503, NULL, NULL, "the server is shutting down");
    }
  } else if ((ev & TI_EVENT_DRAINED) && c->gen) {
    ti_gen_drained(c->gen, th);
  }
  ti_call_rele(c);
}

static void run_flush(ti_after *a, ti_text_thread *th) {
  ti_call *c = (ti_call *)(void *)((char *)a - offsetof(ti_call, flush));
  pthread_mutex_lock(&c->lock);
  if (c->suspended && c->state != TI_CALL_WORKING) {
    c->suspended = false;
    MHD_resume_connection(c->conn);
  }
  pthread_mutex_unlock(&c->lock);
  ti_call_rele(c);
}

ti_call *ti_call_create(ti_gateway *g, struct MHD_Connection *conn, const char *url, const char *method) {
  ti_call *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->gw = g;
  c->conn = conn;
  c->job.run = run_events;
  c->flush.run = run_flush;
  atomic_init(&c->refs, 1);
  atomic_init(&c->events, 0);
  c->start_us = ti_mono_us();
  c->thread = atomic_fetch_add_explicit(&g->next_thread, 1, memory_order_relaxed);
  snprintf(c->url, sizeof c->url, "%.*s", (int)sizeof c->url - 1, url);
  snprintf(c->method, sizeof c->method, "%.*s", (int)sizeof c->method - 1, method);
  ti_buf_init(&c->body, g->cfg.max_body_bytes);
  ti_buf_init(&c->out, OUT_MAX_BYTES);
  pthread_mutex_init(&c->lock, NULL);
  pthread_mutex_lock(&g->lock);
  c->next = g->calls;
  if (c->next) c->next->prev = c;
  g->calls = c;
  pthread_mutex_unlock(&g->lock);
  return c;
}

ti_call *ti_call_hold(ti_call *c) {
  atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
  return c;
}

void ti_call_rele(ti_call *c) {
  ti_gateway *g = c->gw;
  if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1) return;
  pthread_mutex_lock(&g->lock);
  if (c->prev) c->prev->next = c->next;
  if (c->next) c->next->prev = c->prev;
  if (g->calls == c) g->calls = c->next;
  pthread_mutex_unlock(&g->lock);
  ti_call_drop_body(c);
  ti_buf_fini(&c->out);
  pthread_mutex_destroy(&c->lock);
  free(c);
}

void ti_call_drop_body(ti_call *c) {
  atomic_fetch_sub_explicit(&c->gw->body_bytes, c->body.len, memory_order_relaxed);
  ti_buf_fini(&c->body);
  c->body.len = 0;
}

void ti_call_event(ti_call *c, unsigned event) {
  if (atomic_fetch_or_explicit(&c->events, event, memory_order_acq_rel) != 0) return;  // it is in the inbox already
  ti_text_post(c->gw->pool, c->thread, &ti_call_hold(c)->job);
}

void ti_call_reply(ti_call *c, unsigned status, const char *content_type, ti_buf *body) {
  pthread_mutex_lock(&c->lock);
  if (!c->answered) {
    c->answered = true;
    c->state = TI_CALL_REPLY;
    c->status = status;
    c->content_type = content_type;
    ti_buf_fini(&c->out);
    c->out = *body;
    *body = (ti_buf){0};
    if (c->suspended) {
      c->suspended = false;
      MHD_resume_connection(c->conn);
    }
  }
  pthread_mutex_unlock(&c->lock);
  ti_buf_fini(body);
}

void ti_call_fail(ti_call *c, unsigned status, const char *param, const char *code, const char *fmt, ...) {
  char message[600];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  ti_buf b;
  ti_buf_init(&b, 16384);
  ti_api_error_write(&b, status, param, code, message);
  ti_call_reply(c, status, "application/json", &b);
}

void ti_call_fail_error(ti_call *c, const ti_error *err) {
  char param[64];
  ti_api_param_of(err->text, param, sizeof param);
  ti_call_fail(c, ti_api_status_of(err->code), param, err->code == TI_ERR_FULL ? "context_length_exceeded" : NULL, "%s", err->text);
}

static void wake_later(ti_call *c, ti_text_thread *th) {
  if (!c->flush.queued) ti_text_after(th, &ti_call_hold(c)->flush);
}

bool ti_call_write(ti_call *c, ti_text_thread *th, const char *data, size_t n) {
  pthread_mutex_lock(&c->lock);
  if (c->state == TI_CALL_WORKING && !c->answered) {
    c->answered = true;
    c->state = TI_CALL_STREAM;
    c->status = 200;
    c->content_type = "text/event-stream; charset=utf-8";
  }
  bool ok = c->state == TI_CALL_STREAM && !c->ended && !c->cut;
  if (ok && c->out_at == c->out.len) {
    ti_buf_reset(&c->out);
    c->out_at = 0;
  }
  ok = ok && ti_buf_append(&c->out, data, n) == TI_OK;
  pthread_mutex_unlock(&c->lock);
  if (ok) wake_later(c, th);
  return ok;
}

void ti_call_end(ti_call *c, ti_text_thread *th) {
  pthread_mutex_lock(&c->lock);
  c->ended = true;
  pthread_mutex_unlock(&c->lock);
  wake_later(c, th);
}

void ti_call_cut(ti_call *c, ti_text_thread *th) {
  pthread_mutex_lock(&c->lock);
  c->cut = true;
  pthread_mutex_unlock(&c->lock);
  wake_later(c, th);
}

bool ti_call_is_full(ti_call *c) {
  pthread_mutex_lock(&c->lock);
  const bool full = c->state == TI_CALL_STREAM && c->out.len - c->out_at >= TI_OUT_HIGH;
  c->stalled = full;
  pthread_mutex_unlock(&c->lock);
  return full;
}
