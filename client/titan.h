/* libtitan: generations of a TitanInfer cluster from C, over NNG (tcp, ipc, tls+tcp).
 *
 *   titan_open -> titan_submit -> titan_next, titan_next, ... until finish -> titan_close
 *
 * A generation lives in the server, and its tokens are an append-only log there. titan_next asks for what stands behind a cursor: reading consumes
 * nothing, an answer that was lost is asked for again, and a client that was killed goes on with the generation's handle and its cursor
 * (both plain bytes: write them to a file). A submission is named by (client id, nonce): sent twice, it runs once.
 *
 *   log:   t0 t1 t2 t3 t4 . .          titan_next with cursor.token = 2  ->  t2 t3 t4, and the cursor stands at 5
 *
 * Threads: every function may be called from any thread, several at a time on one titan, except titan_close, which ends all use.
 * Processes: NNG does not survive fork(); open after it, or use posix_spawn.
 * Ownership: what you pass is borrowed for the call; what a function gives out is yours, and its *_free releases it (NULL is fine).
 * Errors: a titan_status, and in *err (which may be NULL) what went wrong in words. Output arguments are set on TITAN_OK only.
 * Blocking: each call waits for the server at most its own wait plus the timeout of titan_options; lost connections are dialled again meanwhile.
 *
 * Link: pkg-config libtitan, or CMake's find_package(titan) and titan::titan. C99 or later; C++ is fine. */
#ifndef TITAN_H
#define TITAN_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TITAN_API __attribute__((visibility("default")))
#else
#define TITAN_API
#endif

typedef struct titan titan; /* a connection to a cluster */

typedef enum titan_status {
  TITAN_OK = 0,
  TITAN_ERR_ARG,         /* an argument of the call, or a field that the server refused (400) */
  TITAN_ERR_NOMEM,       /* out of memory */
  TITAN_ERR_CONNECT,     /* nobody answers at this address */
  TITAN_ERR_TLS,         /* certificates: unreadable, or the server's does not verify */
  TITAN_ERR_TIMEOUT,     /* no answer in time */
  TITAN_ERR_AUTH,        /* wrong API key or capability (401, 403) */
  TITAN_ERR_NOTFOUND,    /* no such generation, or no longer (404) */
  TITAN_ERR_CURSOR,      /* a cursor past the end, of tokens or of text (416) */
  TITAN_ERR_BUSY,        /* too many requests wait (429): try later */
  TITAN_ERR_UNAVAILABLE, /* the server is draining or lost a rank (503) */
  TITAN_ERR_PROTOCOL,    /* the server's answer cannot be understood */
  TITAN_ERR_SERVER,      /* the server failed (5xx) */
  TITAN_ERR_INTERNAL
} titan_status;

typedef struct titan_error {
  titan_status code;
  int http_code;     /* the server's, or 0 */
  char type[64];     /* the server's kind of error, as in OpenAI's error objects */
  char param[64];    /* the field that is wrong, or "" */
  char message[512]; /* in words */
} titan_error;

/* "TITAN_ERR_BUSY"; never NULL. */
TITAN_API const char *titan_status_name(titan_status st);
/* "0.1.0" */
TITAN_API const char *titan_version(void);

/* ---- connection ---- */

typedef struct titan_options {
  const char *url;             /* "tcp://host:port", "ipc:///path" or "tls+tcp://host:port" */
  const char *api_key;         /* NULL: none */
  const char *ca_file;         /* PEM: whom to trust; wanted by tls+tcp:// */
  const char *cert_file;       /* PEM: own certificate, where the server wants one; with key_file */
  const char *key_file;        /* PEM */
  const char *server_name;     /* that the server's certificate must bear; NULL: the host of the url */
  const char *client_id;       /* 1..128 bytes that name this client in submissions; NULL: random. Give it (with nonces) to replay after a restart */
  uint32_t connect_timeout_ms; /* of titan_open; 0: 5000 */
  uint32_t timeout_ms;         /* of each call, beside its own wait; 0: 30000 */
} titan_options;

/* Connects. TITAN_ERR_CONNECT, TITAN_ERR_TLS, TITAN_ERR_TIMEOUT, TITAN_ERR_ARG, TITAN_ERR_NOMEM. A connection that is lost later is dialled again. */
TITAN_API titan_status titan_open(const titan_options *options, titan **out, titan_error *err);
/* Ends all use; generations go on in the server. NULL is fine. */
TITAN_API void titan_close(titan *t);

/* ---- generations ---- */

typedef struct titan_request {
  /* exactly one of the three */
  const char *prompt;         /* text, UTF-8 */
  const uint32_t *prompt_ids; /* [n_prompt_ids] */
  size_t n_prompt_ids;
  const char *messages_json; /* a JSON array of OpenAI's chat messages */
  const char *tools_json;    /* with messages_json; or NULL */

  uint32_t max_tokens, min_tokens;
  int ignore_eos;
  const char *const *stop; /* [n_stop] texts that end a generation, at most 64 of at most 4096 bytes */
  size_t n_stop;
  const uint32_t *stop_ids; /* [n_stop_ids] tokens that do */
  size_t n_stop_ids;
  float temperature, top_p, min_p;
  int32_t top_k; /* 0: off */
  float repetition_penalty, frequency_penalty, presence_penalty;
  int has_seed; /* else the server draws one */
  uint64_t seed;
  int logprobs;             /* 1: titan_chunk.logprobs is filled in */
  const uint32_t *bias_ids; /* [n_bias] */
  const float *bias_values; /* [n_bias] added to logits */
  size_t n_bias;
  uint32_t n;          /* choices */
  int32_t priority;    /* lower runs first */
  uint32_t timeout_ms; /* the server cancels it then; 0: never */
  uint64_t nonce;      /* names this submission of this client; 0: random */
} titan_request;

/* Defaults: max_tokens 256, temperature 1, top_p 1, no penalties, n 1. Always start from it: later versions may add fields. */
TITAN_API void titan_request_init(titan_request *r);

/* What is needed to go on reading: plain bytes, to be copied and stored freely. Whoever has it can read and cancel the generation. */
typedef struct titan_generation {
  uint64_t id;
  uint8_t capability[16];
  uint32_t n_prompt; /* prompt tokens */
} titan_generation;

/* Starts a generation. */
TITAN_API titan_status titan_submit(titan *t, const titan_request *r, titan_generation *out, titan_error *err);

/* Where a reader stands. Zeroed: at the beginning. Plain bytes, too. */
typedef struct titan_cursor {
  uint32_t token; /* tokens read */
  uint32_t text;  /* bytes of text read */
} titan_cursor;

typedef enum titan_finish { TITAN_FINISH_NONE, TITAN_FINISH_STOP, TITAN_FINISH_LENGTH, TITAN_FINISH_CANCEL, TITAN_FINISH_ERROR } titan_finish;

typedef struct titan_chunk {
  const uint32_t *tokens; /* [n_tokens] */
  size_t n_tokens;
  const float *logprobs; /* [n_tokens], or NULL */
  const char *text;      /* [n_text] whole UTF-8 characters, followed by a NUL. Text lags behind tokens while a stop string may begin in it */
  size_t n_text;
  titan_finish finish;     /* not NONE: all tokens and all text up to the end are read */
  const char *stop_reason; /* the stop string or the error, or NULL */
  uint32_t total;          /* tokens of this choice so far */
} titan_chunk;

/* What stands behind *cursor of a choice; waits up to wait_ms (at most 60000) for the first of it, else the chunk is empty. Moves *cursor on
 * TITAN_OK. TITAN_ERR_CURSOR: it points past the end. */
TITAN_API titan_status titan_next(titan *t, const titan_generation *g, uint32_t choice, titan_cursor *cursor, uint32_t wait_ms, titan_chunk **out,
                                  titan_error *err);
TITAN_API void titan_chunk_free(titan_chunk *c);

/* Ends it. *found (may be NULL): 0 when the server does not know it. */
TITAN_API titan_status titan_cancel(titan *t, const titan_generation *g, int *found, titan_error *err);

/* ---- the cluster ---- */

typedef struct titan_rank {
  uint32_t rank;
  int healthy;
  uint64_t step;
  uint32_t age_ms;  /* since it was last heard */
  uint32_t step_us; /* its last step took so long */
  const char *device, *host, *doing;
} titan_rank;

typedef struct titan_cluster {
  const char *model, *version;
  int healthy;
  const titan_rank *ranks; /* [n_ranks] */
  size_t n_ranks;
  uint32_t running, waiting, pages_used, pages;
  uint64_t tokens;
  const char *metrics; /* Prometheus' text, or NULL */
} titan_cluster;

/* metrics: 1 asks for titan_cluster.metrics. */
TITAN_API titan_status titan_cluster_status(titan *t, int metrics, titan_cluster **out, titan_error *err);
TITAN_API void titan_cluster_free(titan_cluster *c);

#ifdef __cplusplus
}
#endif
#endif
