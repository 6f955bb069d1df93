// A small HTTP/1.1 client: what the `titan` command needs to talk to any OpenAI-compatible server, and nothing else.
//
// Plain http only (TLS is a reverse proxy's, or NNG's with tls+tcp://). Four layers, each usable alone:
//
//   ti_http_url       "http://host:port/base" taken apart
//   ti_http_parser    bytes -> status, headers that matter, body pieces; no sockets, bounded, resumable at any byte
//   ti_sse            body pieces -> "data:" events
//   ti_http_perform   one blocking exchange with timeouts, over the layers above
//
// Everything a server sends is bounded: header lines 16 KiB, 256 headers, an event 4 MiB, a collected body as the caller says. No global state; any
// thread.
#ifndef TI_CLIENT_HTTP_H
#define TI_CLIENT_HTTP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

#define TI_HTTP_LINE_MAX 16384
#define TI_HTTP_HEADERS_MAX 256
#define TI_SSE_EVENT_MAX (4u << 20)

// ---- URL ----

typedef struct ti_http_url {
  char host[256];  // a name, an IPv4 address, or an IPv6 address without its brackets
  char port[6];    // "80" when the URL names none
  char base[512];  // path prefix without a trailing '/': "" or "/v"
} ti_http_url;

// "http://host[:port][/base]", or the same without "http://". TI_ERR_UNSUPPORTED: another scheme; TI_ERR_ARG names what is wrong.
ti_status ti_http_url_parse(const char *text, ti_http_url *out, ti_error *err) TI_MUST_CHECK;

// ---- one response, from bytes ----

// Takes a piece of the body. Anything but TI_OK ends the parsing with that status.
typedef ti_status (*ti_http_sink)(void *arg, const char *bytes, size_t n);

typedef struct ti_http_parser {
  ti_http_sink sink;
  void *arg;
  int status;            // 0 until the status line is there
  bool headers_done;     // status and the fields below are final
  bool done;             // the whole response was seen
  bool keep_alive;       // the connection may carry another request
  bool event_stream;     // Content-Type: text/event-stream
  double retry_after_s;  // of Retry-After in seconds; -1: none
  // private
  int state, n_header;
  bool chunked, has_length, http10;
  uint64_t left;  // of the body or the chunk
  ti_buf line;
} ti_http_parser;

void ti_http_parser_init(ti_http_parser *p, ti_http_sink sink, void *arg);
void ti_http_parser_fini(ti_http_parser *p);   // safe on a zeroed one
void ti_http_parser_reset(ti_http_parser *p);  // for the next response on the connection; memory is kept
// Feeds bytes[n]; *used (may be NULL) is how many belonged to this response. 1xx responses are skipped. TI_ERR_FORMAT, TI_ERR_RANGE, or the sink's.
ti_status ti_http_parser_feed(ti_http_parser *p, const char *bytes, size_t n, size_t *used, ti_error *err) TI_MUST_CHECK;
// The connection ended: TI_OK when that ends the response (now done), TI_ERR_PEER when something is missing.
ti_status ti_http_parser_eof(ti_http_parser *p, ti_error *err) TI_MUST_CHECK;

// ---- server-sent events ----

// data[n] of one event (lines joined by '\n'); data[n] is NUL.
typedef ti_status (*ti_sse_sink)(void *arg, const char *data, size_t n);

typedef struct ti_sse {
  ti_sse_sink sink;
  void *arg;
  ti_buf line, data;
  bool has_data, was_cr;
} ti_sse;

void ti_sse_init(ti_sse *s, ti_sse_sink sink, void *arg);
void ti_sse_fini(ti_sse *s);
void ti_sse_reset(ti_sse *s);
// Comments, ids, names and retry fields are dropped. TI_ERR_RANGE: an event beyond TI_SSE_EVENT_MAX; or the sink's status. A ti_http_sink with arg =
// s.
ti_status ti_sse_feed(void *s, const char *bytes, size_t n) TI_MUST_CHECK;

// ---- exchanges ----

typedef struct ti_http_request {
  const char *method;   // "GET", "POST"
  const char *path;     // below the URL's base: "/v1/models"
  const char *api_key;  // NULL or "": none
  const char *body;     // JSON; NULL: none
  size_t n_body;
  bool close;  // Connection: close
  // for ti_http_perform
  uint32_t timeout_ms;   // longest silence while connecting, sending, waiting and reading; 0: 600 s
  size_t max_body;       // of the collected body; 0: 64 MiB
  ti_http_sink on_body;  // takes the body of a 2xx response piece by piece in place of collecting it; NULL: collect
  void *arg;
} ti_http_request;

// Appends the request's head and body. TI_ERR_ARG: a control character in path or key.
ti_status ti_http_format(const ti_http_url *url, const ti_http_request *r, ti_buf *out) TI_MUST_CHECK;
// A connected, nonblocking, TCP_NODELAY socket in *fd, tried over all addresses of the host, timeout_ms each. The caller closes it.
ti_status ti_http_connect(const ti_http_url *url, uint32_t timeout_ms, int *fd, ti_error *err) TI_MUST_CHECK;

typedef struct ti_http_reply {
  int status;
  double retry_after_s;
  ti_buf body;  // collected; of an error response at any rate
} ti_http_reply;
void ti_http_reply_fini(ti_http_reply *r);  // safe on a zeroed one

// One request on a connection of its own. TI_OK: a whole response came, whatever its status. Fini *out in any case.
// TI_ERR_PEER: refused, or ended early; TI_ERR_TIMEOUT; TI_ERR_NOTFOUND: no such host; TI_ERR_FORMAT; the sink's status.
ti_status ti_http_perform(const ti_http_url *url, const ti_http_request *r, ti_http_reply *out, ti_error *err) TI_MUST_CHECK;
// The message of an error body ({"error": {"message": ...}}, {"message"}, {"detail"}, or its first 300 bytes) as "HTTP 400: message".
ti_status ti_http_refusal(int status, const char *body, size_t n, ti_error *err);

#endif
