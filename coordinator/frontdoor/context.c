// Contexts: NNG's half of a request. Each context is always in one of three places:
//
//   receiving (NNG) -> in hand (a text thread) -> sending (NNG) -> receiving ...
//
// Callbacks run on NNG's threads: they decode, post, and never wait.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/frontdoor/door_priv.h"
#include "coordinator/gateway/params.h"

static void receive(ti_door_context *c) {
  c->sending = false;
  atomic_fetch_add(&c->d->n_receiving, 1);
  nng_ctx_recv(c->ctx, c->aio);
}

static void send_bytes(ti_door_context *c, const ti_buf *bytes) {
  nng_msg *msg = NULL;
  ti_arena_reset(&c->arena);
  c->sending = true;
  if (bytes->failed || nng_msg_alloc(&msg, bytes->len) != 0) {
    receive(c);  // no memory for an answer: the client asks again
    return;
  }
  memcpy(nng_msg_body(msg), bytes->data, bytes->len);
  nng_aio_set_msg(c->aio, msg);
  nng_ctx_send(c->ctx, c->aio);
}

// "SubmitRequest.sampling.temperature: 101 is ..." -> "temperature"; "" when the text names no field.
static void field_of(const char *text, char *out, size_t size) {
  const size_t n = strcspn(text, ": ");
  size_t from = n;
  while (from && text[from - 1] != '.') from--;
  const bool named = text[n] == ':' && from > 0 && n - from < size;
  snprintf(out, size, "%.*s", named ? (int)strcspn(text + from, ":[") : 0, text + from);
}

// Bytes that are no request: refused here, for there is nothing to do for a text thread.
static void refuse_malformed(ti_door_context *c, const ti_error *why) {
  if (c->d->malformed) ti_metric_add(c->d->malformed, 1);
  ti_buf bytes;
  char param[64];
  ti_buf_init(&bytes, 4096);
  field_of(why->text, param, sizeof(param));
  ti_client_reply reply = {.kind = TI_CLI_ERROR};
  reply.error = (ti_msg_error){.http_code = 400, .type = "invalid_request_error", .message = why->text, .param = param};
  if (ti_failed(ti_wire_encode_reply(&reply, &bytes))) ti_buf_reset(&bytes);
  send_bytes(c, &bytes);
  ti_buf_fini(&bytes);
}

static void received(ti_door_context *c) {
  nng_msg *msg = nng_aio_get_msg(c->aio);
  ti_error err = {0};
  const ti_status st = ti_wire_decode_request(nng_msg_body(msg), nng_msg_len(msg), &c->d->lim, &c->arena, &c->request, &err);
  nng_msg_free(msg);
  if (c->d->requests) ti_metric_add(c->d->requests, 1);
  if (ti_failed(st)) {
    refuse_malformed(c, &err);
    return;
  }
  atomic_fetch_add(&c->d->n_in_hand, 1);
  ti_text_post(c->d->pool, ti_door_thread_of(c->d, &c->request), &c->job);
}

static void on_aio(void *arg) {
  ti_door_context *c = arg;
  const int rv = nng_aio_result(c->aio);
  if (c->sending) {
    if (rv) nng_msg_free(nng_aio_get_msg(c->aio));  // the client is gone: it asks again
    if (rv != NNG_ECLOSED && !atomic_load(&c->d->stopping)) receive(c);
    return;
  }
  atomic_fetch_sub(&c->d->n_receiving, 1);
  if (rv == 0)
    received(c);
  else if (rv != NNG_ECLOSED && rv != NNG_ECANCELED && !atomic_load(&c->d->stopping))
    receive(c);
}

void ti_door_answer(ti_door_thread *t, ti_door_context *c, ti_client_reply *reply) {
  reply->id = c->request.id;
  ti_buf_reset(&t->reply);
  const ti_status st = ti_wire_encode_reply(reply, &t->reply);
  if (ti_failed(st)) {
    ti_log_error("frontdoor: an answer cannot be encoded status=%s kind=%d", ti_status_name(st), (int)reply->kind);
    t->reply.failed = true;
  }
  send_bytes(c, &t->reply);
  if (t->reply.cap > (1u << 20)) {  // one large answer does not make a thread large for good
    const size_t max = t->reply.max;
    ti_buf_fini(&t->reply);
    ti_buf_init(&t->reply, max);
  }
  atomic_fetch_sub(&t->d->n_in_hand, 1);
}

void ti_door_refuse(ti_door_thread *t, ti_door_context *c, uint32_t http_code, const char *param, const char *fmt, ...) {
  char text[480];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof(text), fmt, ap);
  va_end(ap);
  ti_client_reply reply = {.kind = TI_CLI_ERROR};
  reply.error = (ti_msg_error){.http_code = http_code, .type = ti_api_error_type(http_code), .message = text, .param = param};
  ti_door_answer(t, c, &reply);
}

ti_status ti_door_contexts_start(ti_frontdoor *d, ti_error *err) {
  d->context = calloc(d->cfg.contexts, sizeof(*d->context));
  if (!d->context) return ti_error_set(err, TI_ERR_NOMEM, "frontdoor: no memory for %u contexts", d->cfg.contexts);
  for (uint32_t i = 0; i < d->cfg.contexts; i++) {
    ti_door_context *c = &d->context[i];
    c->d = d;
    c->job.run = ti_door_serve;
    ti_arena_init(&c->arena, 4 * d->cfg.max_message_bytes + (1u << 16));
    int rv = nng_aio_alloc(&c->aio, on_aio, c);
    if (!rv) rv = nng_ctx_open(&c->ctx, d->socket);
    c->open = !rv;
    if (rv) return ti_error_set(err, TI_ERR_NOMEM, "frontdoor: context %u of %u: %s", i, d->cfg.contexts, nng_strerror(rv));
  }
  for (uint32_t i = 0; i < d->cfg.contexts; i++) receive(&d->context[i]);
  return TI_OK;
}

void ti_door_contexts_stop(ti_frontdoor *d) {
  for (uint32_t i = 0; d->context && i < d->cfg.contexts; i++)
    if (d->context[i].aio) nng_aio_stop(d->context[i].aio);
  for (uint32_t i = 0; d->context && i < d->cfg.contexts; i++) {
    ti_door_context *c = &d->context[i];
    if (c->aio) nng_aio_free(c->aio);
    ti_arena_fini(&c->arena);
  }
  free(d->context);
  d->context = NULL;
}
