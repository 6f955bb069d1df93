// What the commands of `titan` share: their entry points, the server's address, and small helpers. One file a command.
//
// Exit statuses: 0 fine, 1 the server or the network failed, 2 usage or bad input. Errors go to stderr as "titan COMMAND: ...", answers to stdout.
#ifndef TI_CLIENT_TOOL_TOOL_H
#define TI_CLIENT_TOOL_TOOL_H
#include <jansson.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "client/http.h"
#include "client/tool/opt.h"

typedef int (*ti_tool_fn)(int argc, char **argv);  // argv[0] is the command's name
int ti_tool_complete(int argc, char **argv);
int ti_tool_chat(int argc, char **argv);
int ti_tool_tokenize(int argc, char **argv);
int ti_tool_detokenize(int argc, char **argv);
int ti_tool_render(int argc, char **argv);
int ti_tool_perplexity(int argc, char **argv);
int ti_tool_status(int argc, char **argv);
int ti_tool_top(int argc, char **argv);
int ti_tool_trace_report(int argc, char **argv);
int ti_tool_bench(int argc, char **argv);

// ---- the server ----

typedef struct ti_server {
  const char *url;  // http://..., or one of the NNG door: tcp://, ipc://, tls+tcp://
  const char *api_key;
  const char *model;                          // NULL: asked of the server
  const char *ca, *cert, *key, *server_name;  // files in PEM, and the name in the server's certificate, for tls+tcp://
  double timeout_s;                           // longest silence
} ti_server;

#define TI_SERVER_DEFAULT \
  { .url = "http://127.0.0.1:8000", .timeout_s = 600 }
// Rows for the table of a command; s is a ti_server.
#define TI_SERVER_OPTS(s)                                                                                                        \
  {"url", "URL", "the server", .kind = TI_OPT_TEXT, .target = &(s).url, .letter = 'u', .env = true},                             \
      {"api-key", "KEY", "sent as bearer token", .kind = TI_OPT_TEXT, .target = &(s).api_key, .env = true}, {                    \
    "timeout", "SECONDS", "longest silence of the server", .kind = TI_OPT_REAL, .target = &(s).timeout_s, .lo = 0.1, .hi = 86400 \
  }
#define TI_SERVER_TLS_OPTS(s)                                                                                                           \
  {"tls-ca", "FILE", "trusted certificates (PEM), for tls+tcp://", .kind = TI_OPT_TEXT, .target = &(s).ca, .env = true},                \
      {"tls-cert", "FILE", "own certificate (PEM), where the server wants one", .kind = TI_OPT_TEXT, .target = &(s).cert, .env = true}, \
      {"tls-key", "FILE", "its private key (PEM)", .kind = TI_OPT_TEXT, .target = &(s).key, .env = true}, {                             \
    "tls-server-name", "NAME", "the name that the server's certificate must bear", .kind = TI_OPT_TEXT, .target = &(s).server_name      \
  }
#define TI_MODEL_OPT(s) \
  { "model", "NAME", "served model's name (asked of the server if not given)", .kind = TI_OPT_TEXT, .target = &(s).model }

typedef struct ti_sampling_flags {
  double temperature, top_p, min_p, repetition, frequency, presence;
  int64_t top_k, seed, max_tokens, min_tokens;
  bool ignore_eos;
  ti_opt_texts stop;
} ti_sampling_flags;
#define TI_SAMPLING_DEFAULT \
  { .temperature = -1, .top_p = -1, .min_p = -1, .repetition = -1, .top_k = -2, .seed = -1 }
// Values that stand for "not given" are outside their range, and not sent.
#define TI_SAMPLING_OPTS(f)                                                                                                                          \
  {"temperature", "T", "0: greedy (-1: the server's default)", .kind = TI_OPT_REAL, .target = &(f).temperature, .lo = -1, .hi = 100, .letter = 't'}, \
      {"top-p", "P", "nucleus (-1: the server's default)", .kind = TI_OPT_REAL, .target = &(f).top_p, .lo = -1, .hi = 1},                            \
      {"top-k", "K", "0: off (-2: the server's default)", .kind = TI_OPT_INT, .target = &(f).top_k, .lo = -2, .hi = 1e6},                            \
      {"min-p", "P", "(-1: the server's default)", .kind = TI_OPT_REAL, .target = &(f).min_p, .lo = -1, .hi = 1},                                    \
      {"repetition-penalty", "R", "(-1: the server's default)", .kind = TI_OPT_REAL, .target = &(f).repetition, .lo = -1, .hi = 100},                \
      {"frequency-penalty", "F", "", .kind = TI_OPT_REAL, .target = &(f).frequency, .lo = -2, .hi = 2},                                              \
      {"presence-penalty", "F", "", .kind = TI_OPT_REAL, .target = &(f).presence, .lo = -2, .hi = 2},                                                \
      {"seed", "N", "the same seed gives the same text (-1: random)", .kind = TI_OPT_INT, .target = &(f).seed, .lo = -1, .hi = 9007199254740992.0},  \
      {"max-tokens", "N", "generated tokens at most", .kind = TI_OPT_INT, .target = &(f).max_tokens, .lo = 0, .hi = 1e9, .letter = 'n'},             \
      {"min-tokens", "N", "no end before", .kind = TI_OPT_INT, .target = &(f).min_tokens, .lo = 0, .hi = 1e9},                                       \
      {"ignore-eos", NULL, "go on after the end-of-text token", .kind = TI_OPT_FLAG, .target = &(f).ignore_eos}, {                                   \
    "stop", "TEXT", "end at this text (may be given again)", .kind = TI_OPT_TEXTS, .target = &(f).stop                                               \
  }
// Puts them into a request's JSON.
void ti_tool_put_sampling(const ti_sampling_flags *f, json_t *body);

bool ti_tool_is_http(const char *url);
// The name of the first model of /v1/models, malloc'ed.
ti_status ti_tool_model_name(const ti_server *s, const ti_http_url *url, char **out, ti_error *err) TI_MUST_CHECK;
// One JSON exchange: POST of body (taken), or GET where it is NULL. *out: a new document. A status other than 2xx is an error with the server's
// message.
ti_status ti_tool_json(const ti_server *s, const ti_http_url *url, const char *path, json_t *body, json_t **out, ti_error *err) TI_MUST_CHECK;
// GET of a text.
ti_status ti_tool_get(const ti_server *s, const ti_http_url *url, const char *path, ti_http_reply *out, ti_error *err) TI_MUST_CHECK;

// A streamed completion: POST body (with "stream": true) to path; text pieces of choice 0 go to on_text. Completions and chat alike.
typedef struct ti_stream_result {
  char finish_reason[32];                    // "" until it came
  int64_t prompt_tokens, completion_tokens;  // of the usage chunk; -1: none came
} ti_stream_result;
typedef ti_status (*ti_text_fn)(void *arg, const char *text, size_t n);
ti_status ti_tool_stream(const ti_server *s, const ti_http_url *url, const char *path, const json_t *body, ti_text_fn on_text, void *arg,
                         ti_stream_result *out, ti_error *err) TI_MUST_CHECK;
// Writes text to stdout at once; a ti_text_fn.
ti_status ti_tool_print(void *arg, const char *text, size_t n);

// ---- small things ----

// Says "titan COMMAND: text" and returns the exit status that fits: 2 for bad input, 1 otherwise.
int ti_tool_fail(const char *command, const ti_error *err);
// Everything of a stream or a file ("-": stdin), at most max bytes.
ti_status ti_tool_read(FILE *f, size_t max, ti_buf *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_tool_read_file(const char *path, size_t max, ti_buf *out, ti_error *err) TI_MUST_CHECK;

#endif
