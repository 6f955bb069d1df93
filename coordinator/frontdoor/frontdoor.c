// Start and stop of the front door: the socket, certificates, contexts, threads' tables (see frontdoor.h and door_priv.h).
#include "coordinator/frontdoor/frontdoor.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/supplemental/tls/tls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/frontdoor/door_priv.h"

enum { PEM_MAX = 1 << 20, STOP_WAIT_US = 2000000, STOP_POLL_US = 1000 };

// ---- certificates ----

static ti_status read_pem(const char *path, ti_buf *out, ti_error *err) {
  char *room = NULL;
  FILE *f = fopen(path, "re");
  if (!f) return ti_error_set(err, TI_ERR_ARG, "%s: %s", path, strerror(errno));
  ti_status st = ti_buf_reserve(out, PEM_MAX, &room);
  if (!st) {
    ti_buf_commit(out, fread(room, 1, PEM_MAX, f));
    if (ferror(f) || !feof(f)) st = ti_error_set(err, TI_ERR_IO, "%s: cannot be read, or has more than %d bytes", path, PEM_MAX);
  }
  fclose(f);
  return st;
}

static ti_status set_tls(ti_frontdoor *d, ti_error *err) {
  const ti_frontdoor_config *c = &d->cfg;
  ti_buf cert, key, ca;
  if (!c->tls_cert || !c->tls_key) return ti_error_set(err, TI_ERR_ARG, "%s: wants a certificate and its private key", c->url);
  ti_buf_init(&cert, PEM_MAX + 1);
  ti_buf_init(&key, PEM_MAX + 1);
  ti_buf_init(&ca, PEM_MAX + 1);
  ti_status st = read_pem(c->tls_cert, &cert, err);
  if (!st) st = read_pem(c->tls_key, &key, err);
  if (!st && c->tls_client_ca) st = read_pem(c->tls_client_ca, &ca, err);
  int rv = 0;
  if (!st) rv = nng_tls_config_alloc(&d->tls, NNG_TLS_MODE_SERVER);
  if (!st && !rv && (rv = nng_tls_config_own_cert(d->tls, ti_buf_str(&cert), ti_buf_str(&key), NULL)))
    st = ti_error_set(err, TI_ERR_ARG, "%s, %s: no certificate with its key: %s", c->tls_cert, c->tls_key, nng_strerror(rv));
  if (!st && !rv && c->tls_client_ca && (rv = nng_tls_config_ca_chain(d->tls, ti_buf_str(&ca), NULL)))
    st = ti_error_set(err, TI_ERR_ARG, "%s: no certificates: %s", c->tls_client_ca, nng_strerror(rv));
  if (!st && !rv) rv = nng_tls_config_auth_mode(d->tls, c->tls_client_ca ? NNG_TLS_AUTH_MODE_REQUIRED : NNG_TLS_AUTH_MODE_NONE);
  if (!st && !rv) rv = nng_listener_set_ptr(d->listener, NNG_OPT_TLS_CONFIG, d->tls);
  if (!st && rv) st = ti_error_set(err, TI_ERR_ARG, "%s: TLS: %s", c->url, nng_strerror(rv));
  ti_buf_fini(&ca);
  ti_buf_fini(&key);
  ti_buf_fini(&cert);
  return st;
}

// ---- the socket ----

static void on_pipe(nng_pipe p, nng_pipe_ev ev, void *arg) {
  ti_frontdoor *d = arg;
  if (ev == NNG_PIPE_EV_ADD_PRE) {
    const uint32_t n = atomic_fetch_add(&d->n_connection, 1) + 1;
    if (d->connections) ti_metric_set(d->connections, n);
    if (n > d->cfg.max_connections) nng_pipe_close(p);  // REM_POST follows
  } else {
    const uint32_t n = atomic_fetch_sub(&d->n_connection, 1) - 1;
    if (d->connections) ti_metric_set(d->connections, n);
  }
}

// With the port that the kernel chose.
static void set_url(ti_frontdoor *d) {
  int port = 0;
  snprintf(d->url, sizeof(d->url), "%s", d->cfg.url);
  char *colon = strrchr(d->url, ':');
  if (strncmp(d->url, "ipc", 3) == 0 || !colon || strcmp(colon, ":0") != 0) return;
  if (nng_listener_get_int(d->listener, NNG_OPT_TCP_BOUND_PORT, &port) == 0) snprintf(colon, sizeof(d->url) - (size_t)(colon - d->url), ":%d", port);
}

static ti_status listen_at(ti_frontdoor *d, ti_error *err) {
  const char *url = d->cfg.url;
  const bool tls = strncmp(url, "tls+tcp", 7) == 0;
  if (!tls && strncmp(url, "tcp", 3) != 0 && strncmp(url, "ipc://", 6) != 0)
    return ti_error_set(err, TI_ERR_ARG, "client url: expected ipc://PATH, tcp://HOST:PORT or tls+tcp://HOST:PORT, got '%s'", url);
  int rv = nng_rep0_open(&d->socket);
  d->socket_open = !rv;
  if (!rv) rv = nng_socket_set_size(d->socket, NNG_OPT_RECVMAXSZ, d->cfg.max_message_bytes);
  if (!rv) rv = nng_pipe_notify(d->socket, NNG_PIPE_EV_ADD_PRE, on_pipe, d);
  if (!rv) rv = nng_pipe_notify(d->socket, NNG_PIPE_EV_REM_POST, on_pipe, d);
  if (!rv) rv = nng_listener_create(&d->listener, d->socket, url);
  if (!rv && strncmp(url, "ipc", 3) == 0) rv = nng_listener_set_int(d->listener, NNG_OPT_IPC_PERMISSIONS, 0600);
  if (rv) return ti_error_set(err, TI_ERR_ARG, "%s: %s", url, nng_strerror(rv));
  if (tls) {
    const ti_status st = set_tls(d, err);
    if (st) return st;
  }
  ti_status st = ti_door_contexts_start(d, err);  // before the first request can come
  if (st) return st;
  rv = nng_listener_start(d->listener, 0);
  if (rv) return ti_error_set(err, rv == NNG_EADDRINUSE ? TI_ERR_EXISTS : TI_ERR_IO, "%s: %s", url, nng_strerror(rv));
  set_url(d);
  return TI_OK;
}

// ---- start, stop ----

static uint32_t power_of_two(uint32_t n) {
  uint32_t p = 16;
  while (p < n) p *= 2;
  return p;
}

static ti_status threads_start(ti_frontdoor *d, ti_error *err) {
  d->n_thread = ti_pool_size(d->pool);
  d->thread = calloc(d->n_thread, sizeof(*d->thread));
  if (!d->thread) return ti_error_set(err, TI_ERR_NOMEM, "frontdoor: out of memory");
  for (uint32_t i = 0; i < d->n_thread; i++) {
    ti_door_thread *t = &d->thread[i];
    t->d = d;
    t->index = i;
    t->max_gen = (d->cfg.max_generations + d->n_thread - 1) / d->n_thread;
    t->buckets = power_of_two(t->max_gen);
    t->by_id = calloc(t->buckets, sizeof(*t->by_id));
    t->by_key = calloc(t->buckets, sizeof(*t->by_key));
    t->alarm = (ti_alarm){.run = ti_door_ring, .at_us = UINT64_MAX};
    t->stop_job.run = ti_door_stop_thread;
    ti_buf_init(&t->reply, TI_WIRE_MAX_BYTES);
    if (!t->by_id || !t->by_key) return ti_error_set(err, TI_ERR_NOMEM, "frontdoor: no memory for %u generations", d->cfg.max_generations);
  }
  return TI_OK;
}

static void set_defaults(ti_frontdoor *d) {
  ti_frontdoor_config *c = &d->cfg;
  if (!c->text_threads) c->text_threads = 2;
  if (!c->contexts) c->contexts = 512;
  if (!c->max_connections) c->max_connections = 1024;
  if (!c->max_generations) c->max_generations = 4096;
  if (!c->keep_us) c->keep_us = 60000000;
  if (!c->max_message_bytes) c->max_message_bytes = (1u << 20) + 64 * (size_t)c->model.lim.max_model_len;
  if (c->max_message_bytes > TI_WIRE_MAX_BYTES) c->max_message_bytes = TI_WIRE_MAX_BYTES;
  d->api_key_len = c->api_key ? strlen(c->api_key) : 0;
  d->lim = (ti_wire_limits){.vocab = c->model.lim.vocab, .max_context = c->model.lim.max_model_len};
}

static ti_status add_metrics(ti_frontdoor *d, ti_error *err) {
  ti_metrics *m = d->cfg.metrics;
  if (!m) return TI_OK;
  ti_status st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_frontdoor_requests_total", NULL, "Messages of NNG clients.", &d->requests);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_frontdoor_malformed_total", NULL, "Messages that were no request, and were refused.",
                        &d->malformed);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_frontdoor_generations", NULL, "Generations in memory, ended ones included.", &d->generations);
  if (!st) st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_frontdoor_connections", NULL, "Connections of NNG clients.", &d->connections);
  return st ? ti_error_set(err, st, "frontdoor: metrics cannot be registered") : TI_OK;
}

ti_status ti_frontdoor_start(const ti_frontdoor_config *cfg, ti_frontdoor **out, ti_error *err) {
  ti_frontdoor *d = calloc(1, sizeof(*d));
  if (!d) return ti_error_set(err, TI_ERR_NOMEM, "frontdoor: out of memory");
  d->cfg = *cfg;
  set_defaults(d);
  d->pool = cfg->pool;
  d->own_pool = !cfg->pool;
  ti_status st = add_metrics(d, err);
  if (!st && d->own_pool) st = ti_pool_create(d->cfg.text_threads, &d->pool, err);
  if (!st) st = threads_start(d, err);
  if (!st) st = listen_at(d, err);
  if (st) {
    ti_frontdoor_stop(d);
    return st;
  }
  ti_log_info("frontdoor: serves url=%s", d->url);
  *out = d;
  return TI_OK;
}

const char *ti_frontdoor_url(const ti_frontdoor *d) { return d->url; }

static bool wait_for(atomic_uint *counter, uint32_t value) {
  const uint64_t end = ti_mono_us() + STOP_WAIT_US;
  while (atomic_load(counter) != value && ti_mono_us() < end) usleep(STOP_POLL_US);
  return atomic_load(counter) == value;
}

void ti_frontdoor_stop(ti_frontdoor *d) {
  if (!d) return;
  const bool served = d->context != NULL;
  atomic_store(&d->stopping, true);
  for (uint32_t i = 0; served && i < d->n_thread; i++) ti_text_post(d->pool, i, &d->thread[i].stop_job);
  const bool stopped = !served || (wait_for(&d->n_stopped, d->n_thread) && wait_for(&d->n_in_hand, 0));
  if (d->socket_open) nng_close(d->socket);
  if (!stopped || !wait_for(&d->n_in_hand, 0)) {
    ti_log_error("frontdoor: a text thread does not end; its memory is left alone");
    return;
  }
  ti_door_contexts_stop(d);
  if (d->tls) nng_tls_config_free(d->tls);
  for (uint32_t i = 0; d->thread && i < d->n_thread; i++) {
    free(d->thread[i].by_id);
    free(d->thread[i].by_key);
    ti_buf_fini(&d->thread[i].reply);
  }
  free(d->thread);
  if (d->own_pool) ti_pool_destroy(d->pool);
  free(d);
}
