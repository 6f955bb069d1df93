// The HTTP front: OpenAI's routes over a backend (see backend.h). docs/article: docs/architecture.md, "Text and API".
//
//   socket <-> MHD threads (bytes only) <-> call <-> text thread (JSON, templates, tokens, SSE) <-> backend (ids only)
//
// GET /health /ping /version /metrics /v1/models / ; POST /v1/completions /v1/chat/completions /tokenize /detokenize.
#ifndef TI_COORDINATOR_GATEWAY_GATEWAY_H
#define TI_COORDINATOR_GATEWAY_GATEWAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "base/status.h"
#include "coordinator/gateway/backend.h"
#include "coordinator/gateway/pool.h"
#include "coordinator/gateway/prepare.h"

typedef struct ti_gateway ti_gateway;

typedef struct ti_gateway_config {  // all pointers are borrowed until ti_gateway_stop; 0 = the default in brackets
  const char *host;                 // address or name to bind [127.0.0.1]
  uint16_t port;                    // 0: any free one
  const char *api_key;              // NULL or "": no key; else every route but /health and / wants "Authorization: Bearer <key>"
  const char *const *model_names;   // [n_model_names]: names a request may use; the first is what answers say
  uint32_t n_model_names;
  ti_prompt_source model;  // tokenizer, chat template, vocabulary, context
  ti_backend backend;
  ti_pool *pool;               // shared with the other door; NULL: one of its own with text_threads
  uint32_t text_threads;       // [2]
  uint32_t http_threads;       // [1]: they only move bytes
  uint32_t max_connections;    // [4096]
  size_t max_body_bytes;       // [32 MiB]; beyond it 413
  size_t max_answer_bytes;     // [256 MiB] of one answer that is not streamed
  uint64_t idle_timeout_s;     // [60] a connection on which nothing moves, though not for want of our answer: idle clients, streams that nobody reads
  uint64_t receive_timeout_s;  // [60] from accept to the end of the headers, and again for the body
  uint64_t ping_interval_s;    // [10] of silence on a stream: a comment line is sent
  const char *cors_origin;     // NULL: no CORS headers; "*" or one origin
  bool ui;                     // serve the page at /
  bool access_log;             // one line a request
  ti_metrics *metrics;         // rendered by /metrics; NULL: that route is 404
} ti_gateway_config;

// Binds, starts the threads, serves. TI_ERR_EXISTS: the port is in use; TI_ERR_IO: it cannot be bound; the text names host and port.
ti_status ti_gateway_start(const ti_gateway_config *cfg, ti_gateway **out, ti_error *err) TI_MUST_CHECK;
uint16_t ti_gateway_port(const ti_gateway *g);
// Takes no more connections, answers what still runs with 503 or an error event, closes everything. Returns within about 4 s. A graceful end is
// ti_coord_drain before it. The backend's loop must have ended: logs ring the pool's inboxes, which end here (unless cfg.pool is the caller's).
void ti_gateway_stop(ti_gateway *g);  // NULL is fine

#endif
