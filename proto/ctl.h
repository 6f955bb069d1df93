// The control transport as ops tables: how the coordinator's loop and the workers reach each other. Two implementations, one conformance suite
// (tests/conformance/test_ctl.c): over NNG (ctl_nng.c) and inside one process (ctl_local.c), on which a whole coordinator runs on virtual time.
//
//   ti_ctl_host (rank 0)                      ti_ctl_peer (a worker)
//     address[1] <=== one connection ===>  rank 1
//     address[2] <=== one connection ===>  rank 2      one address a worker: each serves one connection at a time
//
// Events. What happens arrives as ti_ctl_event, given to the owner's sink. For each connection: UP, any number of MESSAGE in the order they were
// sent, GONE. The sink takes the event (ti_ctl_event_free, any thread) and must be short: it pushes &ev->node to an inbox. It runs on threads of the
// transport (NNG) or inside ti_ctl_local_pump, with the transport's lock held: it must not call back into the transport.
//
// send never blocks. At most `queue` messages a connection wait to be sent; the next one gets TI_ERR_FULL: a peer that is stopped costs a bounded
// amount of memory. What waits when a connection ends is dropped, and never reaches the next connection to that address: the owner starts over on UP.
//
// The transport knows nothing of messages: who the peer really is, proto/handshake.h decides. Until then the owner sends nothing but the challenge,
// and drops the connection when the answer is wrong or late; the address stays open for the next one.
#ifndef TI_PROTO_CTL_H
#define TI_PROTO_CTL_H
#include <stddef.h>
#include <stdint.h>

#include "base/inbox.h"
#include "base/status.h"

typedef enum ti_ctl_event_kind { TI_CTL_EV_UP, TI_CTL_EV_MESSAGE, TI_CTL_EV_GONE } ti_ctl_event_kind;
typedef struct ti_ctl_event {
  ti_inbox_node node;  // the first member: for the owner's inbox
  ti_ctl_event_kind kind;
  uint32_t rank;  // host: the worker's address it came in at, 1..n_worker; peer: 0
  uint32_t conn;  // counts the connections of this address from 1: a late event of an earlier connection can be told
  size_t len;
  uint8_t data[];  // [len] MESSAGE
} ti_ctl_event;
void ti_ctl_event_free(ti_ctl_event *ev);  // NULL is fine

typedef void (*ti_ctl_sink)(void *arg, ti_ctl_event *ev);  // takes ev

// ---- the coordinator's side ----
typedef struct ti_ctl_host ti_ctl_host;
typedef struct ti_ctl_host_ops {  // all mandatory
  ti_status (*start)(ti_ctl_host *h, ti_ctl_sink sink, void *arg);
  ti_status (*send)(ti_ctl_host *h, uint32_t rank, const void *data, size_t n);
  void (*drop)(ti_ctl_host *h, uint32_t rank);
  const char *(*address)(const ti_ctl_host *h, uint32_t rank);
  void (*close)(ti_ctl_host *h);
} ti_ctl_host_ops;
struct ti_ctl_host {  // embedded first by implementations
  const ti_ctl_host_ops *ops;
  uint32_t n_worker;
};

// From here on connections are accepted and events flow to sink, which must stay valid until close returns. Once. Peers may dial before; they wait.
static inline ti_status ti_ctl_host_start(ti_ctl_host *h, ti_ctl_sink sink, void *arg) { return h->ops->start(h, sink, arg); }
// Copies data[n]; any thread; never blocks. TI_ERR_PEER: no connection. TI_ERR_FULL: `queue` messages wait already. TI_ERR_RANGE: n beyond max_bytes.
// TI_ERR_ARG: rank is not 1..n_worker. TI_ERR_NOMEM.
static inline ti_status ti_ctl_host_send(ti_ctl_host *h, uint32_t rank, const void *data, size_t n) { return h->ops->send(h, rank, data, n); }
// Ends the present connection (GONE follows); the address goes on accepting. For a peer that fails the handshake or talks nonsense.
static inline void ti_ctl_host_drop(ti_ctl_host *h, uint32_t rank) { h->ops->drop(h, rank); }
// What the worker of that rank dials; lives as long as h. NULL when rank is not 1..n_worker.
static inline const char *ti_ctl_host_address(const ti_ctl_host *h, uint32_t rank) { return h->ops->address(h, rank); }
// Ends all connections, waits until no sink runs any more, frees h. NULL is fine. What was sent last may be lost.
static inline void ti_ctl_host_close(ti_ctl_host *h) {
  if (h) h->ops->close(h);
}

// ---- a worker's side ----
typedef struct ti_ctl_peer ti_ctl_peer;
typedef struct ti_ctl_peer_ops {  // all mandatory
  ti_status (*send)(ti_ctl_peer *p, const void *data, size_t n);
  void (*close)(ti_ctl_peer *p);
} ti_ctl_peer_ops;
struct ti_ctl_peer {
  const ti_ctl_peer_ops *ops;
};
// As ti_ctl_host_send.
static inline ti_status ti_ctl_peer_send(ti_ctl_peer *p, const void *data, size_t n) { return p->ops->send(p, data, n); }
// Gives what waits to be sent at most 200 ms, then as ti_ctl_host_close. A last word (Abort, a final result) arrives.
static inline void ti_ctl_peer_close(ti_ctl_peer *p) {
  if (p) p->ops->close(p);
}

// ---- over NNG ----
typedef struct ti_ctl_nng_config {
  uint32_t n_worker;  // 1..4096
  const char *ip;     // tcp://<ip>:<a free port> for each; NULL: ipc in a fresh directory of mode 0700, when all ranks share a host
  uint64_t job;       // random; names the directory: $TMPDIR (if short), else /tmp, /titan-<uid>-<job>/w<rank>.ipc
  uint32_t queue;     // messages that may wait a connection; 0: 64
  size_t max_bytes;   // of one message, either way; a peer that announces more is cut off. 0: TI_WIRE_MAX_BYTES
} ti_ctl_nng_config;
// Listens on every address (ti_ctl_host_address tells them). TI_ERR_EXISTS: that job's directory exists. TI_ERR_IO: err says which address and why.
ti_status ti_ctl_nng_host_open(const ti_ctl_nng_config *cfg, ti_ctl_host **out, ti_error *err) TI_MUST_CHECK;
// Dials address and goes on dialling whenever the connection is lost, until close. Returns at once; UP says when it stands.
// queue, max_bytes: as in the config.
ti_status ti_ctl_nng_peer_open(const char *address, uint32_t queue, size_t max_bytes, ti_ctl_sink sink, void *arg, ti_ctl_peer **out,
                               ti_error *err) TI_MUST_CHECK;

// ---- inside one process ----
// One thread. Everything is queued in the order of the calls and delivered by pump, so a run is a pure function of its inputs.
typedef struct ti_ctl_local ti_ctl_local;
// queue, max_bytes as above (0: the same defaults).
ti_status ti_ctl_local_create(uint32_t n_worker, uint32_t queue, size_t max_bytes, ti_ctl_local **out) TI_MUST_CHECK;
void ti_ctl_local_destroy(ti_ctl_local *net);       // after its host and peers are closed
ti_ctl_host *ti_ctl_local_host(ti_ctl_local *net);  // ti_ctl_host_close closes it; net stays
// Connects as `rank` (1..n_worker). TI_ERR_EXISTS: that address has a connection. TI_ERR_CLOSED: the host is closed.
ti_status ti_ctl_local_peer_open(ti_ctl_local *net, uint32_t rank, ti_ctl_sink sink, void *arg, ti_ctl_peer **out) TI_MUST_CHECK;
// The death of a process: what the peer sent and nobody took is lost, the host gets GONE. The handle stays the caller's to close.
void ti_ctl_local_kill(ti_ctl_local *net, uint32_t rank);
// Delivers what is queued now, at most `most` events (0: until nothing is left); returns how many.
uint32_t ti_ctl_local_pump(ti_ctl_local *net, uint32_t most);

#endif
