// The control transport inside one process (see ctl.h): one queue of events for the whole net, delivered in the order in which they were caused.
// No threads, no clock: the same calls give the same events, which is what lets the coordinator's loop be tested on virtual time.
//
//   send, open, close, kill --> [ev to host][ev to 2][ev to host]... --pump--> sinks
#include <stdlib.h>
#include <string.h>

#include "proto/ctl.h"
#include "proto/wire.h"

enum { QUEUE_DEFAULT = 64 };

typedef struct link link;
typedef struct pending {
  struct pending *next;
  link *at;
  bool to_host;
  ti_ctl_event *ev;
} pending;

typedef struct local_peer {
  ti_ctl_peer base;
  ti_ctl_local *net;
  link *at;
  ti_ctl_sink sink;
  void *arg;
} local_peer;

struct link {
  local_peer *peer;  // NULL: nobody has opened this address
  uint32_t rank, conn;
  bool live;                  // connected
  uint32_t to_host, to_peer;  // messages that wait
};

struct ti_ctl_local {
  ti_ctl_host host;
  bool closed;
  ti_ctl_sink sink;  // NULL: not started
  void *arg;
  uint32_t queue;
  size_t max_bytes;
  pending *first, **last;
  link link[];  // [n_worker], rank - 1
};

static link *link_of(ti_ctl_local *net, uint32_t rank) { return rank >= 1 && rank <= net->host.n_worker ? &net->link[rank - 1] : NULL; }

static ti_status enqueue(ti_ctl_local *net, link *at, bool to_host, ti_ctl_event_kind kind, const void *data, size_t n) {
  pending *p = malloc(sizeof *p);
  ti_ctl_event *ev = malloc(sizeof *ev + n);
  if (!p || !ev) {
    free(p);
    free(ev);
    return TI_ERR_NOMEM;
  }
  ev->kind = kind;
  ev->rank = to_host ? at->rank : 0;
  ev->conn = at->conn;
  ev->len = n;
  if (n) memcpy(ev->data, data, n);
  *p = (pending){.at = at, .to_host = to_host, .ev = ev};
  if (kind == TI_CTL_EV_MESSAGE) ++*(to_host ? &at->to_host : &at->to_peer);
  *net->last = p;
  net->last = &p->next;
  return TI_OK;
}

static void discard(pending *p) {
  if (p->ev && p->ev->kind == TI_CTL_EV_MESSAGE) --*(p->to_host ? &p->at->to_host : &p->at->to_peer);
  ti_ctl_event_free(p->ev);
  free(p);
}

// Forgets what waits at this link in one direction: its messages, or everything.
static void forget(ti_ctl_local *net, const link *at, bool to_host, bool everything) {
  net->last = &net->first;
  for (pending *p = net->first, *next; p; p = next) {
    next = p->next;
    if (p->at == at && p->to_host == to_host && (everything || p->ev->kind == TI_CTL_EV_MESSAGE)) {
      discard(p);
    } else {
      *net->last = p;
      net->last = &p->next;
    }
  }
  *net->last = NULL;
}

static ti_status send_over(ti_ctl_local *net, link *at, bool to_host, const void *data, size_t n) {
  if (n > net->max_bytes) return TI_ERR_RANGE;
  if (!at->live) return TI_ERR_PEER;
  if ((to_host ? at->to_host : at->to_peer) == net->queue) return TI_ERR_FULL;
  return enqueue(net, at, to_host, TI_CTL_EV_MESSAGE, data, n);
}

static ti_status connect_link(ti_ctl_local *net, link *at) {
  at->conn++;
  at->live = true;
  ti_status st = enqueue(net, at, true, TI_CTL_EV_UP, NULL, 0);
  if (st == TI_OK) st = enqueue(net, at, false, TI_CTL_EV_UP, NULL, 0);
  if (st != TI_OK) {
    forget(net, at, true, true);
    at->live = false;
  }
  return st;
}

// ---- the coordinator's side ----

static ti_status host_start(ti_ctl_host *h, ti_ctl_sink sink, void *arg) {
  ti_ctl_local *net = (ti_ctl_local *)h;
  net->sink = sink;
  net->arg = arg;
  for (uint32_t i = 0; i < h->n_worker; i++) {
    const ti_status st = net->link[i].peer ? connect_link(net, &net->link[i]) : TI_OK;
    if (st != TI_OK) return st;
  }
  return TI_OK;
}

static ti_status host_send(ti_ctl_host *h, uint32_t rank, const void *data, size_t n) {
  ti_ctl_local *net = (ti_ctl_local *)h;
  link *at = link_of(net, rank);
  return at ? send_over(net, at, false, data, n) : TI_ERR_ARG;
}

// No memory for a GONE: the event is lost, which a test that injects it must expect.
static void host_drop(ti_ctl_host *h, uint32_t rank) {
  ti_ctl_local *net = (ti_ctl_local *)h;
  link *at = link_of(net, rank);
  if (!at || !at->live) return;
  at->live = false;
  forget(net, at, true, false);
  forget(net, at, false, false);
  (void)enqueue(net, at, true, TI_CTL_EV_GONE, NULL, 0);
  (void)enqueue(net, at, false, TI_CTL_EV_GONE, NULL, 0);
}

static const char *host_address(const ti_ctl_host *h, uint32_t rank) { return rank >= 1 && rank <= h->n_worker ? "local" : NULL; }

static void host_close(ti_ctl_host *h) {
  ti_ctl_local *net = (ti_ctl_local *)h;
  for (uint32_t r = 1; r <= h->n_worker; r++) host_drop(h, r);
  for (uint32_t i = 0; i < h->n_worker; i++) forget(net, &net->link[i], true, true);
  net->closed = true;
}

static const ti_ctl_host_ops host_ops = {.start = host_start, .send = host_send, .drop = host_drop, .address = host_address, .close = host_close};

// ---- a worker's side ----

static ti_status peer_send(ti_ctl_peer *base, const void *data, size_t n) {
  local_peer *p = (local_peer *)base;
  return send_over(p->net, p->at, true, data, n);
}

static void peer_close(ti_ctl_peer *base) {
  local_peer *p = (local_peer *)base;
  forget(p->net, p->at, false, true);
  if (p->at->live) (void)enqueue(p->net, p->at, true, TI_CTL_EV_GONE, NULL, 0);
  p->at->live = false;
  p->at->peer = NULL;
  free(p);
}

static const ti_ctl_peer_ops peer_ops = {.send = peer_send, .close = peer_close};

ti_status ti_ctl_local_peer_open(ti_ctl_local *net, uint32_t rank, ti_ctl_sink sink, void *arg, ti_ctl_peer **out) {
  link *at = link_of(net, rank);
  if (!at) return TI_ERR_ARG;
  if (net->closed) return TI_ERR_CLOSED;
  if (at->peer) return TI_ERR_EXISTS;
  local_peer *p = malloc(sizeof *p);
  if (!p) return TI_ERR_NOMEM;
  *p = (local_peer){.base = {&peer_ops}, .net = net, .at = at, .sink = sink, .arg = arg};
  const ti_status st = net->sink ? connect_link(net, at) : TI_OK;
  if (st != TI_OK) {
    free(p);
    return st;
  }
  at->peer = p;
  *out = &p->base;
  return TI_OK;
}

// ---- the net ----

ti_status ti_ctl_local_create(uint32_t n_worker, uint32_t queue, size_t max_bytes, ti_ctl_local **out) {
  ti_ctl_local *net = calloc(1, sizeof *net + (size_t)n_worker * sizeof(link));
  if (!net) return TI_ERR_NOMEM;
  net->host = (ti_ctl_host){.ops = &host_ops, .n_worker = n_worker};
  net->queue = queue ? queue : QUEUE_DEFAULT;
  net->max_bytes = max_bytes ? max_bytes : TI_WIRE_MAX_BYTES;
  net->last = &net->first;
  for (uint32_t i = 0; i < n_worker; i++) net->link[i].rank = i + 1;
  *out = net;
  return TI_OK;
}

void ti_ctl_local_destroy(ti_ctl_local *net) {
  if (!net) return;
  for (pending *p = net->first, *next; p; p = next) {
    next = p->next;
    discard(p);
  }
  free(net);
}

ti_ctl_host *ti_ctl_local_host(ti_ctl_local *net) { return &net->host; }

void ti_ctl_local_kill(ti_ctl_local *net, uint32_t rank) {
  link *at = link_of(net, rank);
  if (!at || !at->live) return;
  at->live = false;
  forget(net, at, true, false);
  forget(net, at, false, true);
  (void)enqueue(net, at, true, TI_CTL_EV_GONE, NULL, 0);
}

uint32_t ti_ctl_local_pump(ti_ctl_local *net, uint32_t most) {
  uint32_t n = 0;
  for (; net->first && (most == 0 || n < most); n++) {
    pending *p = net->first;
    net->first = p->next;
    if (!net->first) net->last = &net->first;
    ti_ctl_event *ev = p->ev;
    link *at = p->at;
    const bool to_host = p->to_host;
    if (ev->kind == TI_CTL_EV_MESSAGE) --*(to_host ? &at->to_host : &at->to_peer);
    free(p);
    if (to_host) {
      net->sink(net->arg, ev);
    } else {
      at->peer->sink(at->peer->arg, ev);  // close and kill have taken away what was for a peer that is not there
    }
  }
  return n;
}
