// Start and stop of the HTTP front (see gateway.h): the listening socket, MHD's daemon, the pool, the watcher.
#include "coordinator/gateway/gateway.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/gateway/gateway_priv.h"

enum { BACKLOG = 1024, SETTLE_MS = 500, STOP_WAIT_MS = 2000 };

static void apply_defaults(ti_gateway_config *c) {
  if (!c->host) c->host = "127.0.0.1";
  if (!c->text_threads) c->text_threads = 2;
  if (!c->http_threads) c->http_threads = 1;
  if (!c->max_connections) c->max_connections = 4096;
  if (!c->max_body_bytes) c->max_body_bytes = (size_t)32 << 20;
  if (!c->max_answer_bytes) c->max_answer_bytes = (size_t)256 << 20;
  if (!c->idle_timeout_s) c->idle_timeout_s = 60;
  if (!c->receive_timeout_s) c->receive_timeout_s = 60;
  if (!c->ping_interval_s) c->ping_interval_s = 10;
}

// ---- the listening socket: bound here and not by MHD, so that the error says why ----

static ti_status bind_one(const struct addrinfo *a, const ti_gateway_config *cfg, int *out, ti_error *err) {
  const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0) return ti_error_set(err, TI_ERR_IO, "http: no socket for %s: %s", cfg->host, strerror(errno));
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
    *out = fd;
    return TI_OK;
  }
  const int e = errno;
  close(fd);
  if (e == EADDRINUSE)
    return ti_error_set(err, TI_ERR_EXISTS, "http: port %u of %s is in use; stop what listens there, or choose another with --port", cfg->port,
                        cfg->host);
  return ti_error_set(err, TI_ERR_IO, "http: cannot listen on %s port %u: %s", cfg->host, cfg->port, strerror(e));
}

static ti_status listen_on(const ti_gateway_config *cfg, int *fd, uint16_t *port, ti_error *err) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *list = NULL;
  char service[8];
  snprintf(service, sizeof service, "%u", cfg->port);
  const int rc = getaddrinfo(cfg->host, service, &hints, &list);
  if (rc != 0) return ti_error_set(err, TI_ERR_IO, "http: --host %s: %s", cfg->host, gai_strerror(rc));
  ti_status st = TI_ERR_IO;
  for (const struct addrinfo *a = list; a && st; a = a->ai_next) st = bind_one(a, cfg, fd, err);
  freeaddrinfo(list);
  if (st) return st;
  struct sockaddr_storage at;
  socklen_t n = sizeof at;
  if (getsockname(*fd, (struct sockaddr *)&at, &n) != 0) {
    close(*fd);
    return ti_error_set(err, TI_ERR_IO, "http: getsockname: %s", strerror(errno));
  }
  *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port : ((struct sockaddr_in *)&at)->sin_port);
  return TI_OK;
}

// ---- MHD ----

static void __attribute__((format(printf, 2, 0))) on_mhd_log(void *cls, const char *fmt, va_list ap) {
  char line[300];
  vsnprintf(line, sizeof line, fmt, ap);
  line[strcspn(line, "\n")] = '\0';
  ti_log_debug("gateway: mhd: %s", line);
}

static struct MHD_Daemon *start_mhd(ti_gateway *g) {
  const ti_gateway_config *c = &g->cfg;
  struct MHD_OptionItem more[] = {{c->http_threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)c->http_threads, NULL},
                                  {MHD_OPTION_END, 0, NULL}};
  return MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, ti_http_answer, g,
                          MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, g->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
                          (unsigned)c->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)c->idle_timeout_s, MHD_OPTION_NOTIFY_COMPLETED,
                          ti_http_completed, g, MHD_OPTION_NOTIFY_CONNECTION, ti_http_connection, g, MHD_OPTION_ARRAY, more, MHD_OPTION_END);
}

static ti_status add_metrics(ti_gateway *g, ti_error *err) {
  ti_metrics *m = g->cfg.metrics;
  if (!m) return TI_OK;
  ti_status st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_http_connections", NULL, "Open HTTP connections", &g->connections);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_http_disconnects_total", NULL, "Requests whose client left before the end", &g->disconnects);
  for (int i = 2; i < 6 && !st; i++) {
    static const char *const label[] = {"", "", "code=\"2xx\"", "code=\"3xx\"", "code=\"4xx\"", "code=\"5xx\""};
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_http_requests_total", label[i], "Requests answered", &g->answers[i]);
  }
  return st ? ti_error_set(err, st, "gateway: metrics: %s", ti_status_text(st)) : TI_OK;
}

ti_status ti_gateway_start(const ti_gateway_config *cfg, ti_gateway **out, ti_error *err) {
  if (!cfg->n_model_names || !cfg->backend.submit || !cfg->model.lim.vocab || !cfg->model.lim.max_model_len)
    return ti_error_set(err, TI_ERR_ARG, "gateway: a model name, a backend, vocab and max_model_len are wanted");
  ti_gateway *g = calloc(1, sizeof *g);
  if (!g) return ti_error_set(err, TI_ERR_NOMEM, "gateway: out of memory");
  g->cfg = *cfg;
  apply_defaults(&g->cfg);
  g->created_s = ti_wall_s();
  g->api_key_len = cfg->api_key ? strlen(cfg->api_key) : 0;
  g->pool = cfg->pool;
  pthread_mutex_init(&g->lock, NULL);
  ti_status st = add_metrics(g, err);
  if (st) goto err_gateway;
  st = listen_on(&g->cfg, &g->listen_fd, &g->port, err);
  if (st) goto err_gateway;
  if (!g->pool) {
    st = ti_pool_create(g->cfg.text_threads, &g->pool, err);
    if (st) goto err_listen;
    g->own_pool = true;
  }
  st = ti_watch_create(&g->watch, err);
  if (st) goto err_pool;
  g->daemon = start_mhd(g);
  if (!g->daemon) {
    st = ti_error_set(err, TI_ERR_IO, "http: libmicrohttpd does not start: raise the limits of threads and open files (ulimit -u, -n)");
    goto err_watch;
  }
  *out = g;
  return TI_OK;

err_watch:
  ti_watch_destroy(g->watch);
err_pool:
  if (g->own_pool) ti_pool_destroy(g->pool);
err_listen:
  close(g->listen_fd);
err_gateway:
  pthread_mutex_destroy(&g->lock);
  free(g);
  return st;
}

uint16_t ti_gateway_port(const ti_gateway *g) { return g->port; }

// Waits until no call is left or the time is over. Those whose tokens are all there (the backend has ended) get SETTLE_MS to hand them out; then
// every call is told to end. Calls that come later end by themselves (see ti_http_answer).
static void end_calls(ti_gateway *g) {
  for (int ms = 0; ms < STOP_WAIT_MS; ms += 10) {
    bool busy = false;
    pthread_mutex_lock(&g->lock);
    for (ti_call *c = g->calls; c; c = c->next) {
      pthread_mutex_lock(&c->lock);
      const bool unsent = c->state != TI_CALL_RECEIVING;  // an answered call leaves the list when its last byte is out
      const bool working = c->suspended || c->state == TI_CALL_WORKING || (c->state == TI_CALL_STREAM && !c->ended && !c->cut);
      pthread_mutex_unlock(&c->lock);
      if (working && ms >= SETTLE_MS) ti_call_event(c, TI_EVENT_STOP);
      busy = busy || unsent;
    }
    pthread_mutex_unlock(&g->lock);
    if (!busy) return;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
}

// MHD aborts the process if a suspended connection is left: whatever text threads are at, nothing stays suspended.
static void resume_all(ti_gateway *g) {
  atomic_store(&g->closing, true);
  pthread_mutex_lock(&g->lock);
  for (ti_call *c = g->calls; c; c = c->next) {
    pthread_mutex_lock(&c->lock);
    if (c->suspended) {
      c->suspended = false;
      MHD_resume_connection(c->conn);
    }
    pthread_mutex_unlock(&c->lock);
  }
  pthread_mutex_unlock(&g->lock);
}

// The text threads' references are the last.
static bool wait_for_calls(ti_gateway *g) {
  for (int ms = 0; ms < STOP_WAIT_MS; ms += 10) {
    pthread_mutex_lock(&g->lock);
    const bool none = g->calls == NULL;
    pthread_mutex_unlock(&g->lock);
    if (none) return true;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  return false;
}

void ti_gateway_stop(ti_gateway *g) {
  if (!g) return;
  const MHD_socket fd = MHD_quiesce_daemon(g->daemon);
  if (fd != MHD_INVALID_SOCKET) close(fd);
  atomic_store(&g->stopping, true);
  end_calls(g);
  resume_all(g);
  MHD_stop_daemon(g->daemon);
  ti_watch_destroy(g->watch);
  if (!wait_for_calls(g)) {
    ti_log_error("gateway: a text thread did not end its work within %d ms; its memory is left alone", STOP_WAIT_MS);
    return;
  }
  if (g->own_pool) ti_pool_destroy(g->pool);
  pthread_mutex_destroy(&g->lock);
  free(g);
}
