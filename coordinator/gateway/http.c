// The glue to libmicrohttpd: bodies in, answers out. Runs on MHD's threads, moves bytes only, never waits: a call that needs text work is suspended
// and handed to its text thread, which resumes it.
#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/gateway/gateway_priv.h"
#include "proto/wire.h"

// A body beyond the limit is read and dropped up to this, so that a client that sends first and reads later still gets its 413; beyond it, or where
// the client asked first (Expect: 100-continue), the answer comes at once and the connection closes.
#define SWALLOW_MAX_BYTES ((size_t)256 << 20)
#define ALL_BODIES_MAX_BYTES ((size_t)1 << 30)
enum { STREAM_BLOCK_BYTES = 16 * 1024 };

static const char *header(struct MHD_Connection *conn, const char *name) { return MHD_lookup_connection_value(conn, MHD_HEADER_KIND, name); }

static void name_call(ti_call *c, struct MHD_Connection *conn) {
  const char *given = header(conn, "X-Request-Id");
  size_t n = 0;
  while (given && n < sizeof c->request_id && (isalnum((unsigned char)given[n]) || (given[n] && strchr("-_.:", given[n])))) n++;
  if (given && n > 0 && n < sizeof c->request_id && given[n] == '\0') {
    memcpy(c->request_id, given, n + 1);
  } else {
    uint64_t r[2] = {0, 0};
    if (ti_wire_random(r, sizeof r) != TI_OK) r[0] = ti_mono_ns();
    snprintf(c->request_id, sizeof c->request_id, "%016" PRIx64 "%016" PRIx64, r[0], r[1]);
  }
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  const struct sockaddr *a = info ? info->client_addr : NULL;
  const void *ip = !a                         ? NULL
                   : a->sa_family == AF_INET  ? (const void *)&((const struct sockaddr_in *)(const void *)a)->sin_addr
                   : a->sa_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr
                                              : NULL;
  if (!ip || !inet_ntop(a->sa_family, ip, c->peer, sizeof c->peer)) snprintf(c->peer, sizeof c->peer, "-");
}

// ---- answers ----

static void add_headers(ti_call *c, struct MHD_Response *r) {
  const char *cors = c->gw->cfg.cors_origin;
  MHD_add_response_header(r, "X-Request-Id", c->request_id);
  if (c->content_type) MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, c->content_type);
  if (c->allow) MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, c->allow);
  if (c->status == 401) MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
  if (c->retry_after_s) {
    char s[16];
    snprintf(s, sizeof s, "%u", c->retry_after_s);
    MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, s);
  }
  if (!cors) return;
  MHD_add_response_header(r, "Access-Control-Allow-Origin", cors);
  MHD_add_response_header(r, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  if (strcmp(cors, "*") != 0) MHD_add_response_header(r, "Vary", "Origin");
  if (c->status == 204) {
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    MHD_add_response_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
    MHD_add_response_header(r, "Access-Control-Max-Age", "86400");
  }
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max) {
  ti_call *c = cls;
  pthread_mutex_lock(&c->lock);
  ssize_t n = 0;
  if (c->cut) {
    n = MHD_CONTENT_READER_END_WITH_ERROR;
  } else if (c->out.len > c->out_at) {
    n = (ssize_t)(c->out.len - c->out_at < max ? c->out.len - c->out_at : max);
    memcpy(buf, c->out.data + c->out_at, (size_t)n);
    c->out_at += (size_t)n;
    if (c->stalled && c->out.len - c->out_at < TI_OUT_LOW) {
      c->stalled = false;
      ti_call_event(c, TI_EVENT_DRAINED);
    }
  } else if (c->ended || atomic_load(&c->gw->closing)) {
    n = MHD_CONTENT_READER_END_OF_STREAM;
  } else {
    c->suspended = true;
    MHD_suspend_connection(c->conn);
  }
  pthread_mutex_unlock(&c->lock);
  return n;
}

static void stream_over(void *cls) { ti_call_rele(cls); }

static enum MHD_Result queue(ti_call *c, struct MHD_Connection *conn) {
  struct MHD_Response *r;
  if (c->state == TI_CALL_STREAM) {
    r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, ti_call_hold(c), stream_over);
    if (!r) {
      ti_call_rele(c);
      return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
  } else {
    const size_t n = c->out.len;
    r = MHD_create_response_from_buffer(n, n ? c->out.data : (void *)(uintptr_t) "", n ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    if (n) c->out = (ti_buf){0};
  }
  add_headers(c, r);
  const enum MHD_Result ok = MHD_queue_response(conn, c->status, r);
  MHD_destroy_response(r);
  return ok;
}

// ---- requests ----

static uint64_t seconds_from_now(uint64_t s) { return ti_mono_us() + s * 1000000; }

// Headers are here. What is refused without its body is answered when the body has passed by, or at once if that would take long.
static enum MHD_Result begin(ti_gateway *g, struct MHD_Connection *conn, const char *url, const char *method, const char *version, void **ctx) {
  ti_call *c = ti_call_create(g, conn, url, method);
  if (!c) return MHD_NO;
  *ctx = c;
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  c->watched = info ? info->socket_context : NULL;
  ti_watch_set(g->watch, c->watched, NULL, seconds_from_now(g->cfg.receive_timeout_s));
  name_call(c, conn);
  const char *length = header(conn, MHD_HTTP_HEADER_CONTENT_LENGTH), *expect = header(conn, MHD_HTTP_HEADER_EXPECT);
  unsigned refused = ti_router_admit(c, url, method, header(conn, MHD_HTTP_HEADER_AUTHORIZATION));
  const unsigned long long bytes = length ? strtoull(length, NULL, 10) : 0;  // MHD has checked it
  if (!refused && bytes > g->cfg.max_body_bytes) {
    ti_call_fail(c, 413, NULL, NULL, "the body has %llu bytes; the limit is %zu (--max-body-bytes)", bytes, g->cfg.max_body_bytes);
    refused = 413;
  }
  const bool has_body = bytes > 0 || header(conn, MHD_HTTP_HEADER_TRANSFER_ENCODING);
  if (refused && has_body && (expect || bytes > SWALLOW_MAX_BYTES)) return queue(c, conn);
  return MHD_YES;
}

static enum MHD_Result take_body(ti_call *c, const char *data, size_t n) {
  c->swallowed += n;
  if (c->answered) return c->swallowed > SWALLOW_MAX_BYTES ? MHD_NO : MHD_YES;
  if (c->swallowed > c->gw->cfg.max_body_bytes) {
    ti_call_drop_body(c);
    ti_call_fail(c, 413, NULL, NULL, "the body is larger than the limit of %zu bytes (--max-body-bytes)", c->gw->cfg.max_body_bytes);
  } else if (atomic_load_explicit(&c->gw->body_bytes, memory_order_relaxed) + n > ALL_BODIES_MAX_BYTES || ti_buf_append(&c->body, data, n) != TI_OK) {
    ti_call_drop_body(c);
    c->retry_after_s = 1;
    ti_call_fail(c, 503, NULL, NULL, "too many large requests are arriving at once; try again in a moment");
  } else {
    atomic_fetch_add_explicit(&c->gw->body_bytes, n, memory_order_relaxed);
  }
  return MHD_YES;
}

// The request is whole: answer, or hand it to its text thread.
static void received(ti_call *c) {
  ti_gateway *g = c->gw;
  if (atomic_load(&g->stopping)) {
    ti_call_fail(c, 503, NULL, NULL, "the server is shutting down");
  } else if (c->route->quick) {
    c->route->quick(c);
  } else {
    c->state = TI_CALL_WORKING;
    ti_call_event(c, TI_EVENT_WORK);
    ti_watch_set(g->watch, c->watched, c, UINT64_MAX);
  }
}

enum MHD_Result ti_http_answer(void *gw, struct MHD_Connection *conn, const char *url, const char *method, const char *version, const char *data,
                               size_t *size, void **ctx) {
  ti_gateway *g = gw;
  ti_call *c = *ctx;
  if (!c) return begin(g, conn, url, method, version, ctx);
  if (*size) {
    const enum MHD_Result ok = take_body(c, data, *size);
    *size = 0;
    return ok;
  }
  pthread_mutex_lock(&c->lock);
  const bool fresh = c->state == TI_CALL_RECEIVING;
  pthread_mutex_unlock(&c->lock);
  if (fresh) {
    ti_watch_set(g->watch, c->watched, NULL, UINT64_MAX);
    received(c);
  }
  enum MHD_Result ok = MHD_YES;
  pthread_mutex_lock(&c->lock);
  if (c->state == TI_CALL_WORKING && atomic_load(&g->closing)) {
    pthread_mutex_unlock(&c->lock);
    ok = MHD_NO;  // the gateway stopped before the answer was made
  } else if (c->state == TI_CALL_WORKING) {
    c->suspended = true;
    MHD_suspend_connection(conn);
    pthread_mutex_unlock(&c->lock);
    if (atomic_load(&g->stopping)) ti_call_event(c, TI_EVENT_STOP);  // stop may have walked the list before this
  } else {
    pthread_mutex_unlock(&c->lock);  // answered: nobody writes status or headers any more
    ok = queue(c, conn);
  }
  return ok;
}

void ti_http_completed(void *gw, struct MHD_Connection *conn, void **ctx, enum MHD_RequestTerminationCode why) {
  ti_gateway *g = gw;
  ti_call *c = *ctx;
  if (!c) return;
  *ctx = NULL;
  ti_watch_set(g->watch, c->watched, NULL, seconds_from_now(g->cfg.idle_timeout_s + g->cfg.receive_timeout_s));
  if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
    pthread_mutex_lock(&c->lock);
    const bool working = c->state == TI_CALL_WORKING || c->state == TI_CALL_STREAM;
    pthread_mutex_unlock(&c->lock);
    if (working) ti_call_event(c, TI_EVENT_GONE);
    if (g->disconnects) ti_metric_add(g->disconnects, 1);
  }
  ti_metric *answers = g->answers[c->status / 100 % 6];
  if (answers) ti_metric_add(answers, 1);
  if (g->cfg.access_log) {
    ti_log_site site = {0};  // its own: an access log that leaves lines out is none
    ti_log_write(&site, TI_LOG_INFO, "gateway: %s %s status=%u ms=%.1f prompt_tokens=%u tokens=%u peer=%s id=%s%s", c->method, c->url, c->status,
                 (double)(ti_mono_us() - c->start_us) * 1e-3, atomic_load(&c->n_prompt_tokens), atomic_load(&c->n_tokens), c->peer, c->request_id,
                 why == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "" : " client=left");
  }
  ti_call_rele(c);
}

void ti_http_connection(void *gw, struct MHD_Connection *conn, void **ctx, enum MHD_ConnectionNotificationCode what) {
  ti_gateway *g = gw;
  if (what == MHD_CONNECTION_NOTIFY_STARTED) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    const int on = 1;  // a peer whose host vanished is found out even if nothing is ever sent to it
    if (info) setsockopt(info->connect_fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    *ctx = info ? ti_watch_add(g->watch, info->connect_fd, seconds_from_now(g->cfg.receive_timeout_s)) : NULL;
    if (g->connections) ti_metric_add(g->connections, 1);
  } else {
    ti_watch_remove(g->watch, *ctx);
    *ctx = NULL;
    if (g->connections) ti_metric_add(g->connections, -1);
  }
}
