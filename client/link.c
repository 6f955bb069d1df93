// How libtitan's messages travel (see link.h). NNG's req protocol sends a request again when its connection is lost, and after RESEND_MS without an
// answer; the server knows replays by their ids, cursors and nonces.
//
// The first dial runs in a thread of its own, because nng_dialer_start tells why it failed only when it blocks, and then without a bound: closing the
// socket ends it.
#include "client/link.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

enum { RESEND_MS = 10000, RECONNECT_MIN_MS = 10, RECONNECT_MAX_MS = 200, DIAL_PAUSE_MS = 30, PEM_MAX = 1 << 20 };

struct ti_link {
  nng_socket socket;
  nng_dialer dialer;
  nng_tls_config *tls;
  char *url;
  atomic_uint_fast64_t next_id;
  bool open;
};

titan_status ti_link_fail(titan_error *err, titan_status code, const char *fmt, ...) {
  if (!err) return code;
  memset(err, 0, sizeof(*err));
  err->code = code;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(err->message, sizeof(err->message), fmt, ap);
  va_end(ap);
  return code;
}

// ---- TLS ----

static titan_status read_pem(const char *path, ti_buf *out, titan_error *err) {
  FILE *f = fopen(path, "re");
  if (!f) return ti_link_fail(err, TITAN_ERR_TLS, "%s: %s", path, strerror(errno));
  char *room = NULL;
  titan_status st = TITAN_OK;
  if (ti_failed(ti_buf_reserve(out, PEM_MAX, &room))) {
    st = ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  } else {
    ti_buf_commit(out, fread(room, 1, PEM_MAX, f));
    if (ferror(f) || !feof(f)) st = ti_link_fail(err, TITAN_ERR_TLS, "%s: cannot be read, or has more than %d bytes", path, PEM_MAX);
  }
  fclose(f);
  return st;
}

static bool host_of(const char *url, char *out, size_t size) {
  nng_url *u;
  if (nng_url_parse(&u, url) != 0) return false;
  snprintf(out, size, "%s", u->u_hostname ? u->u_hostname : "");
  nng_url_free(u);
  return true;
}

static titan_status own_certificate(ti_link *l, const titan_options *o, titan_error *err) {
  ti_buf cert, key;
  ti_buf_init(&cert, PEM_MAX + 1);
  ti_buf_init(&key, PEM_MAX + 1);
  titan_status st = read_pem(o->cert_file, &cert, err);
  if (!st) st = read_pem(o->key_file, &key, err);
  const int rv = st ? 0 : nng_tls_config_own_cert(l->tls, ti_buf_str(&cert), ti_buf_str(&key), NULL);
  if (rv) st = ti_link_fail(err, TITAN_ERR_TLS, "%s, %s: no certificate with its key: %s", o->cert_file, o->key_file, nng_strerror(rv));
  ti_buf_fini(&key);
  ti_buf_fini(&cert);
  return st;
}

static titan_status set_tls(ti_link *l, const titan_options *o, titan_error *err) {
  char host[256];
  if (!o->ca_file) return ti_link_fail(err, TITAN_ERR_TLS, "ca_file: tls+tcp:// wants the certificates to trust");
  if (!o->cert_file != !o->key_file) return ti_link_fail(err, TITAN_ERR_ARG, "cert_file and key_file belong together");
  if (!host_of(o->url, host, sizeof(host))) return ti_link_fail(err, TITAN_ERR_ARG, "url: '%s' cannot be parsed", o->url);
  int rv = nng_tls_config_alloc(&l->tls, NNG_TLS_MODE_CLIENT);
  if (!rv) rv = nng_tls_config_auth_mode(l->tls, NNG_TLS_AUTH_MODE_REQUIRED);
  if (!rv) rv = nng_tls_config_server_name(l->tls, o->server_name ? o->server_name : host);
  if (rv) return ti_link_fail(err, TITAN_ERR_TLS, "TLS: %s", nng_strerror(rv));
  rv = nng_tls_config_ca_file(l->tls, o->ca_file);
  if (rv) return ti_link_fail(err, TITAN_ERR_TLS, "%s: no certificates: %s", o->ca_file, nng_strerror(rv));
  if (o->cert_file) {
    const titan_status st = own_certificate(l, o, err);
    if (st) return st;
  }
  rv = nng_dialer_set_ptr(l->dialer, NNG_OPT_TLS_CONFIG, l->tls);
  return rv ? ti_link_fail(err, TITAN_ERR_TLS, "TLS: %s", nng_strerror(rv)) : TITAN_OK;
}

// ---- dialling ----

typedef struct dial {
  nng_dialer dialer;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  bool done, give_up;
  int rv;
} dial;

static bool is_worth_again(int rv) { return rv == NNG_ECONNREFUSED || rv == NNG_ENOENT || rv == NNG_EUNREACHABLE || rv == NNG_EAGAIN; }

static void *dial_main(void *arg) {
  dial *d = arg;
  pthread_mutex_lock(&d->lock);
  do {
    pthread_mutex_unlock(&d->lock);
    const int rv = nng_dialer_start(d->dialer, 0);
    pthread_mutex_lock(&d->lock);
    d->rv = rv;
    if (!is_worth_again(rv)) break;
    pthread_mutex_unlock(&d->lock);
    usleep(DIAL_PAUSE_MS * 1000);
    pthread_mutex_lock(&d->lock);
  } while (!d->give_up);
  d->done = true;
  pthread_cond_signal(&d->ended);
  pthread_mutex_unlock(&d->lock);
  return NULL;
}

static titan_status dial_error(const char *url, int rv, uint32_t timeout_ms, titan_error *err) {
  if (rv == NNG_ECRYPTO || rv == NNG_EPEERAUTH)
    return ti_link_fail(err, TITAN_ERR_TLS, "%s: the server's certificate does not verify: %s", url, nng_strerror(rv));
  if (rv == NNG_EINVAL || rv == NNG_EADDRINVAL || rv == NNG_ENOTSUP) return ti_link_fail(err, TITAN_ERR_ARG, "url: '%s': %s", url, nng_strerror(rv));
  if (rv == NNG_ECLOSED || rv == NNG_ECONNSHUT)
    return ti_link_fail(err, TITAN_ERR_CONNECT, "%s: the server closed the connection (does it speak this protocol?)", url);
  return ti_link_fail(err, TITAN_ERR_CONNECT, "%s: %s (tried for %u ms)", url, rv ? nng_strerror(rv) : "no connection", timeout_ms);
}

static titan_status connect_within(ti_link *l, uint32_t timeout_ms, titan_error *err) {
  dial d = {.dialer = l->dialer, .rv = 0};
  pthread_t thread;
  struct timespec until;
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&d.lock, NULL);
  pthread_cond_init(&d.ended, &attr);
  pthread_condattr_destroy(&attr);
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  titan_status st = TITAN_OK;
  if (pthread_create(&thread, NULL, dial_main, &d) != 0) {
    st = ti_link_fail(err, TITAN_ERR_NOMEM, "no thread for dialling");
  } else {
    pthread_mutex_lock(&d.lock);
    while (!d.done && pthread_cond_timedwait(&d.ended, &d.lock, &until) == 0) continue;
    const bool late = !d.done;
    const int rv = d.rv;  // of the last attempt
    d.give_up = true;
    pthread_mutex_unlock(&d.lock);
    if (late) {
      nng_close(l->socket);
      l->open = false;
    }
    pthread_join(thread, NULL);
    if (late || rv) st = dial_error(l->url, rv, timeout_ms, err);
  }
  pthread_cond_destroy(&d.ended);
  pthread_mutex_destroy(&d.lock);
  return st;
}

titan_status ti_link_open(const titan_options *o, ti_link **out, titan_error *err) {
  const bool tls = strncmp(o->url, "tls+tcp", 7) == 0;
  if (!tls && strncmp(o->url, "tcp", 3) != 0 && strncmp(o->url, "ipc://", 6) != 0)
    return ti_link_fail(err, TITAN_ERR_ARG, "url: expected tcp://, ipc:// or tls+tcp://, got '%s'", o->url);
  ti_link *l = calloc(1, sizeof(*l));
  if (!l) return ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  titan_status st = TITAN_OK;
  atomic_init(&l->next_id, 1);
  l->url = strdup(o->url);
  int rv = l->url ? nng_req0_open(&l->socket) : NNG_ENOMEM;
  l->open = !rv;
  if (!rv) rv = nng_socket_set_size(l->socket, NNG_OPT_RECVMAXSZ, TI_WIRE_MAX_BYTES);
  if (!rv) rv = nng_socket_set_ms(l->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
  if (!rv) rv = nng_socket_set_ms(l->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
  if (!rv) rv = nng_dialer_create(&l->dialer, l->socket, o->url);
  if (rv) st = ti_link_fail(err, rv == NNG_ENOMEM ? TITAN_ERR_NOMEM : TITAN_ERR_ARG, "url: '%s': %s", o->url, nng_strerror(rv));
  if (!st && tls) st = set_tls(l, o, err);
  if (!st) st = connect_within(l, o->connect_timeout_ms ? o->connect_timeout_ms : 5000, err);
  if (st) {
    ti_link_close(l);
    return st;
  }
  *out = l;
  return TITAN_OK;
}

void ti_link_close(ti_link *l) {
  if (!l) return;
  if (l->open) nng_close(l->socket);
  if (l->tls) nng_tls_config_free(l->tls);
  free(l->url);
  free(l);
}

// ---- calls ----

static titan_status of_http(uint32_t code) {
  switch (code) {
    case 401:
    case 403:
      return TITAN_ERR_AUTH;
    case 404:
      return TITAN_ERR_NOTFOUND;
    case 416:
      return TITAN_ERR_CURSOR;
    case 429:
      return TITAN_ERR_BUSY;
    case 503:
      return TITAN_ERR_UNAVAILABLE;
    default:
      return code < 500 ? TITAN_ERR_ARG : TITAN_ERR_SERVER;
  }
}

static titan_status refused(const ti_msg_error *m, titan_error *err) {
  const titan_status code = of_http(m->http_code);
  ti_link_fail(err, code, "%s", m->message ? m->message : "");
  if (err) {
    err->http_code = (int)m->http_code;
    snprintf(err->type, sizeof(err->type), "%s", m->type ? m->type : "");
    snprintf(err->param, sizeof(err->param), "%s", m->param ? m->param : "");
  }
  return code;
}

// Waits for what was begun on aio; the result is the aio's.
static int result_of(nng_aio *aio) {
  nng_aio_wait(aio);
  return nng_aio_result(aio);
}

static titan_status exchange(ti_link *l, const ti_buf *bytes, uint32_t timeout_ms, nng_msg **reply, titan_error *err) {
  nng_ctx ctx;
  nng_aio *aio = NULL;
  nng_msg *msg = NULL;
  int rv = nng_ctx_open(&ctx, l->socket);
  if (rv) return ti_link_fail(err, rv == NNG_ECLOSED ? TITAN_ERR_ARG : TITAN_ERR_NOMEM, "%s: %s", l->url, nng_strerror(rv));
  const uint64_t deadline = ti_mono_us() / 1000 + timeout_ms;
  rv = nng_aio_alloc(&aio, NULL, NULL);
  if (!rv) rv = nng_ctx_set_ms(ctx, NNG_OPT_REQ_RESENDTIME, (nng_duration)(timeout_ms > 3 * RESEND_MS ? timeout_ms / 3 : RESEND_MS));
  if (!rv) rv = nng_msg_alloc(&msg, 0);
  if (!rv) rv = nng_msg_append(msg, bytes->data, bytes->len);
  if (rv) {
    nng_msg_free(msg);
    goto end;
  }
  nng_aio_set_timeout(aio, (nng_duration)timeout_ms);
  nng_aio_set_msg(aio, msg);
  nng_ctx_send(ctx, aio);
  rv = result_of(aio);
  if (rv) {
    nng_msg_free(nng_aio_get_msg(aio));
    goto end;
  }
  const uint64_t now = ti_mono_us() / 1000;
  nng_aio_set_timeout(aio, now < deadline ? (nng_duration)(deadline - now) : 1);
  nng_ctx_recv(ctx, aio);
  rv = result_of(aio);
  if (!rv) *reply = nng_aio_get_msg(aio);
end:
  if (aio) nng_aio_free(aio);
  nng_ctx_close(ctx);
  if (!rv) return TITAN_OK;
  if (rv == NNG_ETIMEDOUT) return ti_link_fail(err, TITAN_ERR_TIMEOUT, "%s: no answer in %u ms", l->url, timeout_ms);
  return ti_link_fail(err, rv == NNG_ENOMEM ? TITAN_ERR_NOMEM : TITAN_ERR_CONNECT, "%s: %s", l->url, nng_strerror(rv));
}

titan_status ti_link_call(ti_link *l, ti_client_request *q, uint32_t timeout_ms, ti_arena *arena, ti_client_reply *out, titan_error *err) {
  ti_buf bytes;
  nng_msg *msg = NULL;
  ti_error why = {0};
  ti_buf_init(&bytes, TI_WIRE_MAX_BYTES);
  q->id = atomic_fetch_add(&l->next_id, 1);
  titan_status st = TITAN_OK;
  const ti_status encoded = ti_wire_encode_request(q, &bytes);
  if (ti_failed(encoded))
    st = ti_link_fail(err, encoded == TI_ERR_NOMEM ? TITAN_ERR_NOMEM : TITAN_ERR_ARG, "the request has more than %u bytes", TI_WIRE_MAX_BYTES);
  if (!st) st = exchange(l, &bytes, timeout_ms, &msg, err);
  if (!st && ti_failed(ti_wire_decode_reply(nng_msg_body(msg), nng_msg_len(msg), arena, out, &why)))
    st = ti_link_fail(err, TITAN_ERR_PROTOCOL, "%s: the answer: %s", l->url, why.text);
  if (!st && out->kind == TI_CLI_ERROR)
    st = refused(&out->error, err);
  else if (!st && (out->kind != q->kind || out->id != q->id))
    st = ti_link_fail(err, TITAN_ERR_PROTOCOL, "%s: the answer is another request's", l->url);
  nng_msg_free(msg);
  ti_buf_fini(&bytes);
  return st;
}
