// The front door: libtitan's side of the server, NNG req/rep over tcp, ipc or tls+tcp. docs/protocol.md, "Client plane", is its contract.
//
//   NNG threads (contexts: bytes, decoding) <-> text thread of the generation (tokens, text, waiting) <-> backend (ids only)
//
// A generation outlives the connection that asked for it: its tokens and its text are kept, and read by cursor, until keep_us after its end. So a
// client that was cut off, or killed and started again, goes on with what it has: (generation, capability, cursor).
//
// What is bounded: contexts (requests in hand, long polls included: when few are left, the oldest poll is answered early, empty), generations,
// connections, the bytes of a message, and through max_tokens the tokens and the text of each generation.
#ifndef TI_COORDINATOR_FRONTDOOR_FRONTDOOR_H
#define TI_COORDINATOR_FRONTDOOR_FRONTDOOR_H
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "base/status.h"
#include "coordinator/gateway/backend.h"
#include "coordinator/gateway/pool.h"
#include "coordinator/gateway/prepare.h"

typedef struct ti_frontdoor ti_frontdoor;

typedef struct ti_frontdoor_config {  // all pointers are borrowed until ti_frontdoor_stop; 0 = the default in brackets
  const char *url;                    // tcp://HOST:PORT (port 0: any free one), ipc://PATH (mode 0600), tls+tcp://HOST:PORT
  const char *tls_cert, *tls_key;     // PEM files, wanted by tls+tcp
  const char *tls_client_ca;          // PEM file: clients must show a certificate that it signs; NULL: they need none
  const char *api_key;                // NULL or "": none; else submit and status want it. next and cancel want the capability
  const char *model_name;             // told by status
  ti_prompt_source model;             // tokenizer, chat template, vocabulary, context
  ti_backend backend;
  ti_pool *pool;             // shared with the gateway; NULL: one of its own with text_threads
  uint32_t text_threads;     // [2]
  uint32_t contexts;         // [512]
  uint32_t max_connections;  // [1024]; more are closed at once
  uint32_t max_generations;  // [4096] in memory: running ones and ended ones that are still kept. An ended one makes room; else submit says 429
  uint64_t keep_us;          // [60 s] after the end
  size_t max_message_bytes;  // [1 MiB + 64 bytes a token of the context, at most TI_WIRE_MAX_BYTES]; a larger one ends its connection
  ti_metrics *metrics;       // titan_frontdoor_*; NULL: none
} ti_frontdoor_config;

// Listens and serves. TI_ERR_EXISTS: the address is in use; TI_ERR_ARG, TI_ERR_IO: it cannot be bound, or no certificate; the text names url or file.
ti_status ti_frontdoor_start(const ti_frontdoor_config *cfg, ti_frontdoor **out, ti_error *err) TI_MUST_CHECK;
const char *ti_frontdoor_url(const ti_frontdoor *d);  // with the port that was bound
// Answers who waits with 503, cancels what runs, closes everything. Returns within about 2 s. NULL is fine. As ti_gateway_stop: the backend's loop
// must have ended unless the pool is the caller's.
void ti_frontdoor_stop(ti_frontdoor *d);

#endif
