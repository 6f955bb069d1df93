// A generating call on its text thread: prompts x n choices, each with a log that it reads and a text that it writes.
#ifndef TI_COORDINATOR_GATEWAY_GENERATE_PRIV_H
#define TI_COORDINATOR_GATEWAY_GENERATE_PRIV_H
#include "coordinator/gateway/gateway_priv.h"
#include "coordinator/gateway/textstream.h"

typedef struct ti_gen_prompt {
  const uint32_t *ids;  // [n_ids], in `owned` or the request's
  uint32_t n_ids;
  ti_ids owned;
  ti_buf text;       // echo: what is echoed
  uint32_t *offset;  // [n_ids], echo + logprobs: characters before each token
  uint64_t id;       // at the backend
  bool submitted;
  uint32_t n_done;  // of its n choices
} ti_gen_prompt;

typedef struct ti_choice {
  ti_sink sink;  // first
  ti_gen *gen;
  uint32_t index, prompt, k;  // index = prompt * n + k
  ti_tokenlog *log;           // held; NULL: nothing is generated
  ti_textstream *stream;
  uint32_t seen;       // tokens read
  bool opened, done;   // opened: its first chunk is out
  const char *finish;  // once done: "stop", "length"
  ti_textstream_state end;
  ti_buf text;       // not streamed: so far
  uint32_t *offset;  // [max_tokens], completions with logprobs: characters before each token
} ti_choice;

struct ti_gen {
  ti_call *call;  // held
  ti_api_request req;
  char id[96];
  uint64_t created;
  ti_buf head;   // what each chunk begins with: data: {"id":...,"choices":[
  ti_buf piece;  // text of the turn
  ti_buf chunk;
  ti_gen_prompt *prompt;  // [n_prompt]
  uint32_t n_prompt;
  ti_choice *choice;  // [n_choice]
  uint32_t n_choice, n_done;
  uint64_t last_write_us;
};

// Tokens with their scores, for a logprobs object.
typedef struct ti_scores {
  const uint32_t *ids;        // [n]
  const float *logprob;       // [n]; NAN: null
  const ti_top_logprob *top;  // [n] or NULL
  const uint32_t *offset;     // [n], completions: characters before each token
  uint32_t n, base;           // base: added to the offsets
} ti_scores;

// ---- logprobs_json.c ----
void ti_logprobs_completion(const ti_gen *g, const ti_scores *part, uint32_t n_part, ti_buf *out);
void ti_logprobs_chat(const ti_gen *g, const ti_scores *part, ti_buf *out);
ti_scores ti_scores_of(const ti_choice *c, uint32_t from, uint32_t to);  // generated tokens from..to-1
ti_scores ti_scores_of_prompt(const ti_choice *c);

// ---- respond_json.c ----
void ti_respond_usage(const ti_gen *g, ti_buf *out);  // {"prompt_tokens":...}
void ti_respond_ids(const uint32_t *ids, uint32_t n, ti_buf *out);
void ti_respond_end(const ti_choice *c, ti_buf *out);  // "finish_reason":...,"stop_reason":...
void ti_respond_json(const ti_gen *g, ti_buf *out);    // the whole answer

// ---- respond_sse.c ----
void ti_sse_head(ti_gen *g);
// One event: text[n] and the tokens from..to-1 of c. The first of a choice opens it (role, echo, prompt ids); once c->done it carries the reason.
void ti_sse_chunk(ti_gen *g, ti_choice *c, const char *text, size_t n, uint32_t from, uint32_t to, ti_buf *out);
void ti_sse_last(ti_gen *g, ti_buf *out);  // the usage chunk if asked for, and [DONE]

#endif
