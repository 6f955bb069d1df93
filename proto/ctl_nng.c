// The control transport over NNG (see ctl.h): a pair0 socket an address, asynchronous both ways, no thread of our own.
//
// A channel is one socket with what belongs to its present connection ("pipe" in NNG's words):
//
//   send --> [msg|msg|...] ring, at most `queue` --> one aio in flight --> pair0 --> pipe
//   sink <-- UP | MESSAGE... | GONE            <-- one aio always waiting <--'
//
// Why the ring is ours. pair0 has a send buffer, but it belongs to the socket: what waited for a dead worker would be sent to whoever connects next,
// before it has proved who it is. Hence also the rule that a pipe is admitted (ADD_PRE) only after its predecessor's REM_POST has emptied the ring
// and aborted the aio. A dialler that came too early is cut off and dials again 10 ms later.
//
// Order of events. ADD_POST, the first message and REM_POST come on different threads. The lock, the pipe's id in each message and `up` restore the
// order: a message that overtakes ADD_POST announces UP itself; one of an earlier pipe is dropped. GONE is allocated along with UP: it cannot fail.
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/supplemental/util/platform.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/ctl.h"
#include "proto/wire.h"

// TMPDIR_MAX: with the rest of the path a socket address holds 107 bytes
enum { QUEUE_DEFAULT = 64, WORKERS_MAX = 4096, ADDRESS_BYTES = 128, TMPDIR_MAX = 60, REDIAL_MIN_MS = 10, REDIAL_MAX_MS = 200, FLUSH_MS = 200, LINGER_MS = 20 };

typedef struct channel {
  pthread_mutex_t lock;  // guards what follows up to ring; held while the sink runs
  nng_pipe pipe;         // id 0: no connection
  uint32_t conn;
  bool open;     // connections are accepted
  bool up;       // UP has been given to the sink, GONE has not
  bool sending;  // tx is in flight
  bool ever_sent;
  ti_ctl_event *gone;  // while up
  nng_msg **ring;      // [queue], waiting ones: ring[(head + i) % queue], i < n
  uint32_t head, n, queue;

  nng_socket sock;
  nng_aio *rx, *tx;
  uint32_t rank;
  size_t max_bytes;
  ti_ctl_sink sink;
  void *arg;
} channel;

static ti_ctl_event *event_new(const channel *c, ti_ctl_event_kind kind, const void *data, size_t n) {
  ti_ctl_event *ev = malloc(sizeof *ev + n);
  if (!ev) return NULL;
  ev->kind = kind;
  ev->rank = c->rank;
  ev->conn = c->conn;
  ev->len = n;
  if (n) memcpy(ev->data, data, n);
  return ev;
}

// The lock is held. false: no memory; the pipe is then closed, and the owner never hears of it.
static bool announce(channel *c) {
  if (c->up) return true;
  ti_ctl_event *ev = event_new(c, TI_CTL_EV_UP, NULL, 0);
  c->gone = event_new(c, TI_CTL_EV_GONE, NULL, 0);
  if (!ev || !c->gone) {
    free(ev);
    free(c->gone);
    c->gone = NULL;
    nng_pipe_close(c->pipe);
    return false;
  }
  c->up = true;
  c->sink(c->arg, ev);
  return true;
}

static void drop_waiting(channel *c) {
  for (; c->n > 0; c->n--) {
    nng_msg_free(c->ring[c->head]);
    c->head = (c->head + 1) % c->queue;
  }
}

static void on_pipe(nng_pipe p, nng_pipe_ev what, void *arg) {
  channel *c = arg;
  bool refuse = false;
  pthread_mutex_lock(&c->lock);
  if (what == NNG_PIPE_EV_ADD_PRE) {
    refuse = !c->open || nng_pipe_id(c->pipe) > 0;
    if (!refuse) {
      c->pipe = p;
      c->conn++;
    }
  } else if (nng_pipe_id(p) == nng_pipe_id(c->pipe)) {
    if (what == NNG_PIPE_EV_ADD_POST) {
      announce(c);
    } else if (what == NNG_PIPE_EV_REM_POST) {
      if (c->sending) nng_aio_abort(c->tx, NNG_ECANCELED);
      drop_waiting(c);
      c->pipe = (nng_pipe)NNG_PIPE_INITIALIZER;
      if (c->up) c->sink(c->arg, c->gone);
      c->up = false;
      c->gone = NULL;
    }
  }
  pthread_mutex_unlock(&c->lock);
  if (refuse) nng_pipe_close(p);
}

static void on_received(void *arg) {
  channel *c = arg;
  if (nng_aio_result(c->rx) != 0) return;  // only closing ends the wait
  nng_msg *m = nng_aio_get_msg(c->rx);
  pthread_mutex_lock(&c->lock);
  if (nng_pipe_id(nng_msg_get_pipe(m)) == nng_pipe_id(c->pipe) && announce(c)) {
    ti_ctl_event *ev = event_new(c, TI_CTL_EV_MESSAGE, nng_msg_body(m), nng_msg_len(m));
    if (ev) c->sink(c->arg, ev);
    if (!ev) nng_pipe_close(c->pipe);  // no memory: a gap in the order is worse than a lost connection
  }
  pthread_mutex_unlock(&c->lock);
  nng_msg_free(m);
  nng_recv_aio(c->sock, c->rx);
}

static void on_sent(void *arg) {
  channel *c = arg;
  pthread_mutex_lock(&c->lock);
  if (nng_aio_result(c->tx) != 0) nng_msg_free(nng_aio_get_msg(c->tx));  // the connection ended: ours again
  c->sending = c->n > 0;
  if (c->sending) {
    nng_aio_set_msg(c->tx, c->ring[c->head]);
    c->head = (c->head + 1) % c->queue;
    c->n--;
    nng_send_aio(c->sock, c->tx);
  }
  pthread_mutex_unlock(&c->lock);
}

static ti_status channel_send(channel *c, const void *data, size_t n) {
  if (n > c->max_bytes) return TI_ERR_RANGE;
  nng_msg *m;
  if (nng_msg_alloc(&m, n) != 0) return TI_ERR_NOMEM;
  if (n) memcpy(nng_msg_body(m), data, n);
  ti_status st = TI_OK;
  pthread_mutex_lock(&c->lock);
  if (!c->up || !c->open) {
    st = TI_ERR_PEER;
  } else if (c->n == c->queue) {
    st = TI_ERR_FULL;
  } else if (c->sending) {
    c->ring[(c->head + c->n++) % c->queue] = m;
  } else {
    c->sending = c->ever_sent = true;
    nng_aio_set_msg(c->tx, m);
    nng_send_aio(c->sock, c->tx);
  }
  pthread_mutex_unlock(&c->lock);
  if (st != TI_OK) nng_msg_free(m);
  return st;
}

static void channel_drop(channel *c) {
  pthread_mutex_lock(&c->lock);
  const nng_pipe p = c->pipe;
  pthread_mutex_unlock(&c->lock);
  if (nng_pipe_id(p) > 0) nng_pipe_close(p);
}

// Safe on a zeroed or half-built channel.
static void channel_fini(channel *c) {
  if (!c->ring) return;
  pthread_mutex_lock(&c->lock);
  c->open = false;
  pthread_mutex_unlock(&c->lock);
  if (nng_socket_id(c->sock) > 0) nng_close(c->sock);  // returns after the last REM_POST
  if (c->rx) nng_aio_free(c->rx);                      // stops it first
  if (c->tx) nng_aio_free(c->tx);
  drop_waiting(c);
  pthread_mutex_destroy(&c->lock);
  free(c->ring);
  c->ring = NULL;
}

static ti_status channel_init(channel *c, uint32_t rank, uint32_t queue, size_t max_bytes, ti_error *err) {
  *c = (channel){.rank = rank, .queue = queue ? queue : QUEUE_DEFAULT, .max_bytes = max_bytes ? max_bytes : TI_WIRE_MAX_BYTES};
  c->ring = calloc(c->queue, sizeof *c->ring);
  if (!c->ring) return ti_error_set(err, TI_ERR_NOMEM, "control: no memory for a queue of %u messages", c->queue);
  pthread_mutex_init(&c->lock, NULL);
  int rv = nng_pair0_open(&c->sock);
  if (rv == 0) rv = nng_socket_set_size(c->sock, NNG_OPT_RECVMAXSZ, c->max_bytes);
  if (rv == 0) rv = nng_socket_set_ms(c->sock, NNG_OPT_RECONNMINT, REDIAL_MIN_MS);
  if (rv == 0) rv = nng_socket_set_ms(c->sock, NNG_OPT_RECONNMAXT, REDIAL_MAX_MS);
  for (int ev = NNG_PIPE_EV_ADD_PRE; ev < NNG_PIPE_EV_NUM && rv == 0; ev++) rv = nng_pipe_notify(c->sock, (nng_pipe_ev)ev, on_pipe, c);
  if (rv == 0) rv = nng_aio_alloc(&c->rx, on_received, c);
  if (rv == 0) rv = nng_aio_alloc(&c->tx, on_sent, c);
  if (rv == 0) return TI_OK;
  channel_fini(c);
  return ti_error_set(err, TI_ERR_IO, "control: no NNG socket: %s", nng_strerror(rv));
}

static void channel_open(channel *c, ti_ctl_sink sink, void *arg) {
  c->sink = sink;
  c->arg = arg;
  nng_recv_aio(c->sock, c->rx);
  pthread_mutex_lock(&c->lock);
  c->open = true;
  pthread_mutex_unlock(&c->lock);
}

// ---- the coordinator's side ----

typedef struct host {
  ti_ctl_host base;
  char dir[ADDRESS_BYTES];  // to be removed; "": none
  char (*address)[ADDRESS_BYTES];
  channel *chan;  // [n_worker], rank - 1
} host;

static channel *host_channel(const ti_ctl_host *h, uint32_t rank) {
  return rank >= 1 && rank <= h->n_worker ? &((const host *)h)->chan[rank - 1] : NULL;
}

static ti_status host_start(ti_ctl_host *h, ti_ctl_sink sink, void *arg) {
  for (uint32_t r = 1; r <= h->n_worker; r++) channel_open(host_channel(h, r), sink, arg);
  return TI_OK;
}

static ti_status host_send(ti_ctl_host *h, uint32_t rank, const void *data, size_t n) {
  channel *c = host_channel(h, rank);
  return c ? channel_send(c, data, n) : TI_ERR_ARG;
}

static void host_drop(ti_ctl_host *h, uint32_t rank) {
  channel *c = host_channel(h, rank);
  if (c) channel_drop(c);
}

static const char *host_address(const ti_ctl_host *h, uint32_t rank) { return host_channel(h, rank) ? ((const host *)h)->address[rank - 1] : NULL; }

static void host_close(ti_ctl_host *base) {
  host *h = (host *)base;
  for (uint32_t i = 0; h->chan && i < base->n_worker; i++) channel_fini(&h->chan[i]);
  if (h->dir[0]) rmdir(h->dir);
  free(h->chan);
  free(h->address);
  free(h);
}

static const ti_ctl_host_ops host_ops = {.start = host_start, .send = host_send, .drop = host_drop, .address = host_address, .close = host_close};

static ti_status listen_on(channel *c, const ti_ctl_nng_config *cfg, const char *dir, char address[ADDRESS_BYTES], ti_error *err) {
  if (cfg->ip) {
    snprintf(address, ADDRESS_BYTES, "tcp://%s:0", cfg->ip);
  } else {
    snprintf(address, ADDRESS_BYTES, "ipc://%.100s/w%u.ipc", dir, c->rank);
  }
  nng_listener l;
  int port = 0, rv = nng_listen(c->sock, address, &l, 0);
  if (rv == 0 && cfg->ip) rv = nng_listener_get_int(l, NNG_OPT_TCP_BOUND_PORT, &port);
  if (rv != 0) return ti_error_set(err, TI_ERR_IO, "control: cannot listen on %s: %s", address, nng_strerror(rv));
  if (cfg->ip) snprintf(address, ADDRESS_BYTES, "tcp://%s:%d", cfg->ip, port);
  return TI_OK;
}

static ti_status make_dir(uint64_t job, char dir[ADDRESS_BYTES], ti_error *err) {
  char path[ADDRESS_BYTES];
  const char *tmp = getenv("TMPDIR");
  if (!tmp || !*tmp || strlen(tmp) > TMPDIR_MAX) tmp = P_tmpdir;
  snprintf(path, sizeof path, "%s/titan-%u-%016llx", tmp, (unsigned)getuid(), (unsigned long long)job);
  if (mkdir(path, 0700) != 0) return ti_error_set(err, errno == EEXIST ? TI_ERR_EXISTS : TI_ERR_IO, "control: mkdir %s: %s", path, strerror(errno));
  memcpy(dir, path, sizeof path);
  return TI_OK;
}

ti_status ti_ctl_nng_host_open(const ti_ctl_nng_config *cfg, ti_ctl_host **out, ti_error *err) {
  if (cfg->n_worker < 1 || cfg->n_worker > WORKERS_MAX) {
    return ti_error_set(err, TI_ERR_ARG, "control: %u workers are out of 1..%d", cfg->n_worker, WORKERS_MAX);
  }
  if (cfg->ip && strlen(cfg->ip) > ADDRESS_BYTES - 16) return ti_error_set(err, TI_ERR_ARG, "control: the address %.60s... is too long", cfg->ip);
  host *h = calloc(1, sizeof *h);
  if (!h) return ti_error_set(err, TI_ERR_NOMEM, "control: no memory");
  h->base = (ti_ctl_host){.ops = &host_ops, .n_worker = cfg->n_worker};
  h->chan = calloc(cfg->n_worker, sizeof *h->chan);
  h->address = calloc(cfg->n_worker, sizeof *h->address);
  ti_status st = h->chan && h->address ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "control: no memory for %u workers", cfg->n_worker);
  if (st == TI_OK && !cfg->ip) st = make_dir(cfg->job, h->dir, err);
  for (uint32_t i = 0; i < cfg->n_worker && st == TI_OK; i++) {
    st = channel_init(&h->chan[i], i + 1, cfg->queue, cfg->max_bytes, err);
    if (st == TI_OK) st = listen_on(&h->chan[i], cfg, h->dir, h->address[i], err);
  }
  if (st != TI_OK) {
    host_close(&h->base);
    return st;
  }
  *out = &h->base;
  return TI_OK;
}

// ---- a worker's side ----

typedef struct peer {
  ti_ctl_peer base;
  channel chan;
} peer;

static ti_status peer_send(ti_ctl_peer *base, const void *data, size_t n) { return channel_send(&((peer *)base)->chan, data, n); }

static bool busy(channel *c) {
  pthread_mutex_lock(&c->lock);
  const bool yes = nng_pipe_id(c->pipe) > 0 && (c->sending || c->n > 0);
  pthread_mutex_unlock(&c->lock);
  return yes;
}

static void peer_close(ti_ctl_peer *base) {
  channel *c = &((peer *)base)->chan;
  for (int ms = 0; ms < FLUSH_MS && busy(c); ms++) nng_msleep(1);
  if (c->ever_sent) nng_msleep(LINGER_MS);  // pair0 says "sent" when the message is with the pipe; the socket may still have to take it
  channel_fini(c);
  free(base);
}

static const ti_ctl_peer_ops peer_ops = {.send = peer_send, .close = peer_close};

ti_status ti_ctl_nng_peer_open(const char *address, uint32_t queue, size_t max_bytes, ti_ctl_sink sink, void *arg, ti_ctl_peer **out, ti_error *err) {
  peer *p = calloc(1, sizeof *p);
  if (!p) return ti_error_set(err, TI_ERR_NOMEM, "control: no memory");
  p->base.ops = &peer_ops;
  ti_status st = channel_init(&p->chan, 0, queue, max_bytes, err);
  if (st != TI_OK) goto err_free;
  channel_open(&p->chan, sink, arg);
  const int rv = nng_dial(p->chan.sock, address, NULL, NNG_FLAG_NONBLOCK);
  if (rv != 0) {
    st = ti_error_set(err, TI_ERR_IO, "control: cannot dial %s: %s", address, nng_strerror(rv));
    goto err_channel;
  }
  *out = &p->base;
  return TI_OK;

err_channel:
  channel_fini(&p->chan);
err_free:
  free(p);
  return st;
}
