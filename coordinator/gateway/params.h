// What a request asks for, parsed and checked: the OpenAI bodies as plain structs. No tokens yet, no sockets; any thread.
//
// ti_gen_params is what both doors share (HTTP and NNG); ti_api_request adds what only an OpenAI body has. Unknown fields are ignored, as vLLM does;
// a known field with a wrong type or value is refused with a text that begins with its name: "temperature: expected a number in 0..100, got -1".
#ifndef TI_COORDINATOR_GATEWAY_PARAMS_H
#define TI_COORDINATOR_GATEWAY_PARAMS_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/tokenizer.h"
#include "proto/wire.h"

// What one request may ask for. The wire's own limits (proto/wire_priv.h) are the same or wider.
#define TI_GEN_MAX_N 128         // choices of one prompt
#define TI_GEN_MAX_CHOICES 1024  // choices of one request: prompts x n
#define TI_GEN_MAX_STOP 64       // stop strings
#define TI_GEN_MAX_STOP_BYTES 4096
#define TI_GEN_MAX_STOP_ID 48  // the rest of the coordinator's 64 is for the model's own EOS ids
#define TI_GEN_MAX_BIAS 1024

typedef struct ti_gen_limits {
  uint32_t vocab;          // ids are below it
  uint32_t max_model_len;  // prompt + generated tokens
  bool has_tokenizer;      // else prompts are ids, and there are no stop strings
  bool has_seed;           // requests that bring no seed get `seed`; else a random one each
  uint64_t seed;
} ti_gen_limits;

typedef struct ti_gen_params {
  ti_sampling sampling;  // bias arrays malloc'ed, owned; choice is unused; seed counts when has_seed
  bool has_seed, has_max_tokens, ignore_eos;
  bool include_stop;  // the stop string stays in the text
  bool skip_special;  // special tokens have no text
  uint32_t n, max_tokens, min_tokens;
  ti_tok_text *stop;  // [n_stop] malloc'ed, owned; the texts are borrowed (from the request's document or message)
  uint32_t n_stop;
  uint32_t *stop_id;  // [n_stop_id] malloc'ed, owned
  uint32_t n_stop_id;
  int32_t priority;
} ti_gen_params;

void ti_gen_params_init(ti_gen_params *p);  // OpenAI's defaults: temperature 1, top_p 1, n 1, no logprobs
void ti_gen_params_fini(ti_gen_params *p);  // safe on a zeroed one
// Every range that needs no prompt. TI_ERR_RANGE, TI_ERR_UNSUPPORTED (stop strings without a tokenizer).
ti_status ti_gen_params_check(const ti_gen_params *p, const ti_gen_limits *lim, ti_error *err) TI_MUST_CHECK;
// Reads the fields that completions and chat share: n, stop, stop_token_ids, min_tokens, temperature, ... *p was init'ed; fini it also on an error.
ti_status ti_gen_params_parse(const json_t *body, const ti_gen_limits *lim, ti_gen_params *p, ti_error *err) TI_MUST_CHECK;

typedef struct ti_prompt {  // text, or ids
  const char *text;         // borrowed from the document; NULL: ids
  size_t n_text;
  uint32_t *ids;  // [n_ids] malloc'ed, owned by the ti_api_request
  uint32_t n_ids;
} ti_prompt;

typedef enum ti_api_kind { TI_API_COMPLETION, TI_API_CHAT, TI_API_TOKENIZE, TI_API_DETOKENIZE } ti_api_kind;

typedef struct ti_api_request {
  ti_api_kind kind;
  json_t *root;       // owned: the body; what is borrowed below lies in it
  const char *model;  // NULL: not named
  ti_gen_params gen;
  bool stream, include_usage, continuous_usage;
  bool echo, logprobs;  // logprobs: asked for (gen.sampling.n_logprob says how many)
  bool return_token_ids, tokens_as_ids;
  bool add_special_tokens, return_token_strs;
  ti_prompt *prompt;  // [n_prompt], completions, tokenize, detokenize
  uint32_t n_prompt;
  json_t *vars;  // owned: the chat template's variables (messages, tools, add_generation_prompt, ...); NULL: no chat
} ti_api_request;

// body[n] -> *out. Fini *out in any case. Errors: TI_ERR_FORMAT, TI_ERR_RANGE, TI_ERR_UNSUPPORTED, TI_ERR_NOMEM; the text begins with the field.
ti_status ti_api_parse_completion(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_api_parse_chat(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_api_parse_tokenize(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_api_parse_detokenize(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *out, ti_error *err) TI_MUST_CHECK;
void ti_api_request_fini(ti_api_request *r);  // safe on a zeroed one

// Messages as templates want them, from OpenAI's: content parts joined, tool arguments as objects, developer as system. *out: a new array.
// The front door takes messages_json through it too.
ti_status ti_chat_messages(const json_t *messages, json_t **out, ti_error *err) TI_MUST_CHECK;

// OpenAI's error type for an HTTP status ("rate_limit_error" for 429), a static text. Both doors' error objects carry it. errors.c.
const char *ti_api_error_type(unsigned status);

#endif
