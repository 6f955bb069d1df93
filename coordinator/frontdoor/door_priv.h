// Inside the front door: contexts (a request in hand) and generations (what is read by cursor).
//
// Who owns what:
//   a context belongs to NNG's callback while it receives and sends, and to one text thread in between (`post` ... `answer`)
//   a generation belongs to one text thread for good: id % threads; so does the table that it is in. Nothing here takes a lock
//
//   (client_id, nonce) --hash--> thread --table--> generation      a replay finds what it made; ids carry the thread: id = serial * threads + thread
#ifndef TI_COORDINATOR_FRONTDOOR_DOOR_PRIV_H
#define TI_COORDINATOR_FRONTDOOR_DOOR_PRIV_H
#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/arena.h"
#include "coordinator/frontdoor/frontdoor.h"
#include "coordinator/gateway/textstream.h"
#include "proto/wire.h"

typedef struct ti_door_context ti_door_context;
typedef struct ti_door_gen ti_door_gen;
typedef struct ti_door_thread ti_door_thread;

typedef struct ti_door_choice {
  ti_sink sink;  // first
  ti_door_gen *gen;
  uint32_t index;
  ti_tokenlog *log;          // held
  ti_textstream *stream;     // NULL once done
  ti_buf text;               // all of it so far
  uint32_t seen;             // tokens that the text contains; what readers may have
  ti_finish finish;          // NONE: goes on
  const char *reason;        // the stop string (gen's), an error (static), or NULL
  ti_door_context *waiting;  // who polls this choice
} ti_door_choice;

struct ti_door_gen {
  ti_door_thread *thread;
  ti_door_gen *next_by_id, *next_by_key;  // chains of the tables
  ti_door_gen *older, *newer;             // in the list of ended ones
  uint64_t id, nonce, key, request;       // request: the backend's
  char client_id[129];
  uint8_t capability[TI_CAPABILITY_BYTES];
  uint32_t n_prompt, n_choice, n_done;
  uint64_t expires_us;  // once ended
  char **stop;          // [n_stop] malloc'ed texts, for reasons
  uint32_t n_stop;
  ti_door_choice choice[];  // [n_choice]
};

struct ti_door_thread {
  ti_frontdoor *d;
  uint32_t index;
  ti_text_thread *th;  // set by the first job
  ti_alarm alarm;
  bool stopping;
  ti_door_gen **by_id, **by_key;  // [buckets]
  uint32_t n_gen, max_gen, buckets;
  uint64_t serial;
  ti_door_gen *oldest, *newest;   // ended, in the order of their expiry
  ti_door_context *first, *last;  // waiting, the longest first
  ti_buf reply;                   // encoded
  ti_job stop_job;
};

struct ti_door_context {
  ti_job job;  // first
  ti_frontdoor *d;
  nng_ctx ctx;
  nng_aio *aio;
  bool open, sending;
  ti_arena arena;  // the request, and what the reply points at
  ti_client_request request;
  // while it waits: on a text thread
  ti_door_choice *choice;  // NULL: it does not
  uint64_t deadline_us;
  ti_door_context *prev, *next;  // of its thread
  ti_door_context *prev_of_choice, *next_of_choice;
};

struct ti_frontdoor {
  ti_frontdoor_config cfg;
  size_t api_key_len;
  nng_socket socket;
  nng_listener listener;
  nng_tls_config *tls;
  bool socket_open, own_pool;
  char url[512];
  ti_pool *pool;
  ti_door_thread *thread;  // [n_thread]
  uint32_t n_thread;
  ti_door_context *context;  // [cfg.contexts]
  atomic_uint n_receiving;   // contexts that wait for a request
  atomic_uint n_in_hand;     // contexts on text threads
  atomic_uint n_connection, n_stopped;
  atomic_bool stopping;
  ti_wire_limits lim;
  ti_metric *requests, *malformed, *generations, *connections;
};

// ---- context.c: NNG's side ----
ti_status ti_door_contexts_start(ti_frontdoor *d, ti_error *err) TI_MUST_CHECK;
void ti_door_contexts_stop(ti_frontdoor *d);  // after nng_close; waits for callbacks
// Sends the reply (id is set here) and gives the context back to NNG. On a text thread.
void ti_door_answer(ti_door_thread *t, ti_door_context *c, ti_client_reply *reply);
// An ErrorReply. param NULL: none.
void ti_door_refuse(ti_door_thread *t, ti_door_context *c, uint32_t http_code, const char *param, const char *fmt, ...) TI_PRINTF(5, 6);

// ---- serve.c: a request on its text thread ----
void ti_door_serve(ti_job *j, ti_text_thread *th);
uint32_t ti_door_thread_of(const ti_frontdoor *d, const ti_client_request *q);
uint64_t ti_door_key(const char *client_id, uint64_t nonce);
void ti_door_stop_thread(ti_job *j, ti_text_thread *th);

// ---- generation.c: on its text thread ----
ti_door_gen *ti_door_gen_find(const ti_door_thread *t, uint64_t id);
ti_door_gen *ti_door_gen_replayed(const ti_door_thread *t, const char *client_id, uint64_t nonce);
// Makes and submits it. On an error *http_code is what to answer.
ti_status ti_door_gen_create(ti_door_thread *t, const ti_msg_submit *m, ti_arena *arena, ti_door_gen **out, uint32_t *http_code,
                             ti_error *err) TI_MUST_CHECK;
void ti_door_gen_destroy(ti_door_thread *t, ti_door_gen *g);  // cancels what runs; nobody may wait for it
// Forgets ended generations whose time is over; at_least_one: the oldest in any case.
void ti_door_gen_expire(ti_door_thread *t, uint64_t now_us, bool at_least_one);
// Something of the choice moved: answers who waits for it.
void ti_door_choice_advance(ti_door_choice *c, ti_door_thread *t);

// ---- wait.c: long polls ----
void ti_door_wait(ti_door_thread *t, ti_door_context *c, ti_door_choice *choice, uint32_t wait_ms);
// Answers c with what its choice has behind the cursors, be it nothing. c may wait.
void ti_door_answer_tokens(ti_door_thread *t, ti_door_context *c, ti_door_choice *choice);
bool ti_door_has_news(const ti_door_context *c, const ti_door_choice *choice);
void ti_door_unwait(ti_door_thread *t, ti_door_context *c);  // it need not wait
void ti_door_set_alarm(ti_door_thread *t);
void ti_door_ring(ti_alarm *a, ti_text_thread *th, uint64_t now_us);

#endif
