// Inside the gateway: the call (one request on a connection) and what its halves say to each other.
//
//   MHD thread: receives the body -> suspends -> text thread: parses, submits, writes c->out -> resumes -> MHD thread: copies c->out to the socket
//
// Everything under "shared" is guarded by c->lock. A suspended connection cannot end, so `suspended` also means that c->conn is alive. Whoever clears
// `suspended` calls MHD_resume_connection, under the lock.
#ifndef TI_COORDINATOR_GATEWAY_PRIV_H
#define TI_COORDINATOR_GATEWAY_PRIV_H
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "coordinator/gateway/gateway.h"

typedef struct ti_call ti_call;
typedef struct ti_gen ti_gen;
typedef struct ti_watch ti_watch;
typedef struct ti_conn ti_conn;

typedef struct ti_route {
  const char *path;
  bool prefix;  // path is followed by something ("/v1/models/")
  bool get, post;
  bool open;  // no key wanted
  // Exactly one: quick answers at once on the MHD thread (no text work); slow runs on the call's text thread once the body is here.
  void (*quick)(ti_call *c);
  void (*slow)(ti_call *c, ti_text_thread *th);
} ti_route;

typedef enum ti_call_state { TI_CALL_RECEIVING, TI_CALL_WORKING, TI_CALL_REPLY, TI_CALL_STREAM } ti_call_state;
enum { TI_EVENT_WORK = 1, TI_EVENT_GONE = 2, TI_EVENT_DRAINED = 4, TI_EVENT_STOP = 8 };

struct ti_call {
  ti_job job;  // first: events to the text thread
  ti_after flush;
  ti_gateway *gw;
  ti_call *prev, *next;  // in gw's list, under gw->lock
  atomic_uint refs, events;
  const ti_route *route;
  uint32_t thread;
  char request_id[72], url[96], method[12], peer[48];
  uint64_t start_us;
  bool http10;
  ti_buf body;
  bool too_large;
  size_t swallowed;
  ti_conn *watched;
  // the text thread's
  ti_gen *gen;
  atomic_uint n_prompt_tokens, n_tokens;  // for the access log
  // shared
  pthread_mutex_t lock;
  struct MHD_Connection *conn;
  ti_call_state state;
  bool suspended, ended, cut, stalled, answered;
  ti_buf out;
  size_t out_at;  // bytes of out that are sent
  unsigned status;
  const char *content_type, *allow;  // static
  unsigned retry_after_s;
};

struct ti_gateway {
  ti_gateway_config cfg;
  struct MHD_Daemon *daemon;
  int listen_fd;
  uint16_t port;
  ti_pool *pool;
  bool own_pool;
  ti_watch *watch;
  uint64_t created_s;
  size_t api_key_len;
  atomic_bool stopping, closing;  // stopping: requests are refused, what runs is told to end; closing: nothing may be suspended any more
  atomic_uint next_thread;
  atomic_size_t body_bytes;  // of all bodies held
  pthread_mutex_t lock;
  ti_call *calls;
  ti_metric *disconnects, *connections, *answers[6];  // by the status' first digit
};

// ---- call.c ----
ti_call *ti_call_create(ti_gateway *g, struct MHD_Connection *conn, const char *url, const char *method);  // one reference; NULL: no memory
ti_call *ti_call_hold(ti_call *c);
void ti_call_rele(ti_call *c);
void ti_call_event(ti_call *c, unsigned event);  // any thread
void ti_call_drop_body(ti_call *c);              // once it is parsed
// The whole answer; takes body's bytes (body is empty afterwards). content_type is static. Any thread; the first answer counts.
void ti_call_reply(ti_call *c, unsigned status, const char *content_type, ti_buf *body);
// An error object as the answer. param, code: NULL = null.
void ti_call_fail(ti_call *c, unsigned status, const char *param, const char *code, const char *fmt, ...) TI_PRINTF(5, 6);
// As ti_call_fail, from what a parser said: the status follows from err->code, the field from the text's beginning.
void ti_call_fail_error(ti_call *c, const ti_error *err);
// ---- streams: on the call's text thread ----
// Appends to the stream, which begins with the first write. The socket hears of it when the thread's turn ends. false: the stream is cut off.
bool ti_call_write(ti_call *c, ti_text_thread *th, const char *data, size_t n);
void ti_call_end(ti_call *c, ti_text_thread *th);
void ti_call_cut(ti_call *c, ti_text_thread *th);  // closes the connection without an ending
bool ti_call_is_full(ti_call *c);                  // above the high-water mark: TI_EVENT_DRAINED comes when it is below the low one
enum { TI_OUT_HIGH = 64 * 1024, TI_OUT_LOW = 16 * 1024 };

// ---- errors.c ----
void ti_api_error_write(ti_buf *out, unsigned status, const char *param, const char *code, const char *message);
unsigned ti_api_status_of(ti_status st);                        // 400, 404, 503 ...
void ti_api_param_of(const char *text, char *out, size_t cap);  // "temperature: expected ..." -> "temperature"; "" when there is none

// ---- http.c, router.c ----
const ti_route *ti_router_find(const char *path);
// 0: go on. Else the HTTP status that refuses it (401, 404, 405), with the answer made.
unsigned ti_router_admit(ti_call *c, const char *path, const char *method, const char *authorization);
enum MHD_Result ti_http_answer(void *gw, struct MHD_Connection *conn, const char *url, const char *method, const char *version, const char *data,
                               size_t *size, void **ctx);
void ti_http_completed(void *gw, struct MHD_Connection *conn, void **ctx, enum MHD_RequestTerminationCode why);
void ti_http_connection(void *gw, struct MHD_Connection *conn, void **ctx, enum MHD_ConnectionNotificationCode what);

// ---- watch.c: one thread that sees clients leave ----
ti_status ti_watch_create(ti_watch **out, ti_error *err) TI_MUST_CHECK;
void ti_watch_destroy(ti_watch *w);
ti_conn *ti_watch_add(ti_watch *w, int fd, uint64_t deadline_us);  // NULL: no memory (the connection is then not watched)
void ti_watch_remove(ti_watch *w, ti_conn *c);                     // before the socket is closed; NULL is fine
// From now on this call hears TI_EVENT_GONE when the client hangs up (at once, if it already did); NULL: nobody. deadline_us: when the socket is shut
// unless told otherwise before (UINT64_MAX: never).
void ti_watch_set(ti_watch *w, ti_conn *c, ti_call *call, uint64_t deadline_us);

// ---- the routes ----
void ti_route_health(ti_call *c);
void ti_route_ping(ti_call *c);
void ti_route_version(ti_call *c);
void ti_route_metrics(ti_call *c);
void ti_route_models(ti_call *c);
void ti_route_model(ti_call *c);
void ti_route_page(ti_call *c);
void ti_route_tokenize(ti_call *c, ti_text_thread *th);
void ti_route_detokenize(ti_call *c, ti_text_thread *th);
void ti_route_completions(ti_call *c, ti_text_thread *th);
void ti_route_chat(ti_call *c, ti_text_thread *th);
// 404 unless name is NULL or one of ours.
bool ti_model_is_served(ti_call *c, const char *name);

// ---- generate.c: events of a call that generates ----
void ti_gen_gone(ti_gen *g, ti_text_thread *th);     // the client left: cancel, free
void ti_gen_drained(ti_gen *g, ti_text_thread *th);  // the reader caught up
void ti_gen_stop(ti_gen *g, ti_text_thread *th);     // the gateway stops: answer with an error

#endif
