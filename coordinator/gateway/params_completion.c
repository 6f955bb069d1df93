// Bodies of /v1/completions, and of /tokenize and /detokenize, which have prompts as well (see params.h).
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/gateway/params_priv.h"

// One prompt: a string, or an array of ids.
static ti_status read_prompt(const json_t *v, const ti_gen_limits *lim, ti_prompt *out, ti_error *err) {
  if (json_is_string(v)) {
    if (!lim->has_tokenizer) return ti_error_set(err, TI_ERR_UNSUPPORTED, "prompt: this model has no tokenizer; send an array of token ids");
    *out = (ti_prompt){.text = json_string_value(v), .n_text = json_string_length(v)};
    return TI_OK;
  }
  if (json_is_array(v)) {
    if (json_array_size(v) == 0) return ti_error_set(err, TI_ERR_RANGE, "prompt: is empty");
    // longer than any context is still counted, so that the error can say how long it was
    return ti_api_ids(v, "prompt", lim->vocab, UINT32_MAX / 4, &out->ids, &out->n_ids, err);
  }
  return ti_error_set(err, TI_ERR_FORMAT, "prompt: expected a string, an array of token ids, or an array of either, got %s", ti_json_kind(v));
}

static ti_status read_prompts(ti_api_request *r, const ti_gen_limits *lim, ti_error *err) {
  const json_t *v = json_object_get(r->root, "prompt");
  if (!v || json_is_null(v)) return ti_error_set(err, TI_ERR_FORMAT, "prompt: is required");
  if (json_is_array(v) && json_array_size(v) == 0) return ti_error_set(err, TI_ERR_RANGE, "prompt: is an empty array");
  const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
  const bool many = first && !json_is_integer(first);
  const size_t n = many ? json_array_size(v) : 1;
  if (n * r->gen.n > TI_GEN_MAX_CHOICES)
    return ti_error_set(err, TI_ERR_RANGE, "prompt: %zu prompts of %u choices are more than %d choices in one request", n, r->gen.n,
                        TI_GEN_MAX_CHOICES);
  r->prompt = calloc(n, sizeof *r->prompt);
  if (!r->prompt) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  r->n_prompt = (uint32_t)n;
  for (size_t i = 0; i < n; i++) {
    const ti_status st = read_prompt(many ? json_array_get(v, i) : v, lim, &r->prompt[i], err);
    if (st) return st;
  }
  return TI_OK;
}

ti_status ti_api_parse_completion(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *r, ti_error *err) {
  ti_status st = ti_api_open(r, TI_API_COMPLETION, body, n, err);
  if (!st) st = ti_api_parse_common(r, lim, err);
  if (!st) st = ti_json_bool(r->root, "echo", &r->echo, err);
  if (st) return st;
  int64_t logprobs = -1;
  const json_t *lp = json_object_get(r->root, "logprobs");
  if (json_is_boolean(lp)) return ti_error_set(err, TI_ERR_FORMAT, "logprobs: expected an integer in 0..%d, got %s", TI_TOP_MAX, ti_json_kind(lp));
  st = ti_json_int(r->root, "logprobs", 0, TI_TOP_MAX, &logprobs, err);
  if (st) return st;
  r->logprobs = logprobs >= 0;
  r->gen.sampling.n_logprob = (int32_t)logprobs;
  if (r->echo) r->gen.sampling.n_prompt_logprob = (int32_t)logprobs;
  if (!r->gen.has_max_tokens) r->gen.max_tokens = 16;  // OpenAI's default
  r->gen.has_max_tokens = true;
  if (r->gen.max_tokens == 0 && !r->echo) return ti_error_set(err, TI_ERR_RANGE, "max_tokens: 0 is only of use with echo; expected at least 1");
  if (r->gen.min_tokens > r->gen.max_tokens)
    return ti_error_set(err, TI_ERR_RANGE, "min_tokens: %u is more than max_tokens, %u", r->gen.min_tokens, r->gen.max_tokens);
  return read_prompts(r, lim, err);
}

ti_status ti_api_parse_tokenize(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *r, ti_error *err) {
  ti_status st = ti_api_open(r, TI_API_TOKENIZE, body, n, err);
  if (st) return st;
  const json_t *messages = json_object_get(r->root, "messages");
  const bool chat = messages && !json_is_null(messages);
  r->add_special_tokens = !chat;
  st = ti_json_bool(r->root, "add_special_tokens", &r->add_special_tokens, err);
  if (!st) st = ti_json_bool(r->root, "return_token_strs", &r->return_token_strs, err);
  if (st) return st;
  if (chat) return ti_api_chat_vars(r, err);
  const json_t *prompt = json_object_get(r->root, "prompt");
  if (!json_is_string(prompt)) return ti_error_set(err, TI_ERR_FORMAT, "prompt: expected a string (or messages), got %s", ti_json_kind(prompt));
  return read_prompts(r, lim, err);
}

ti_status ti_api_parse_detokenize(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *r, ti_error *err) {
  ti_status st = ti_api_open(r, TI_API_DETOKENIZE, body, n, err);
  if (!st) st = ti_json_bool(r->root, "skip_special_tokens", &r->gen.skip_special, err);
  if (st) return st;
  const json_t *v = json_object_get(r->root, "tokens");
  if (!json_is_array(v)) return ti_error_set(err, TI_ERR_FORMAT, "tokens: expected an array of token ids, got %s", ti_json_kind(v));
  r->prompt = calloc(1, sizeof *r->prompt);
  if (!r->prompt) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  r->n_prompt = 1;
  return ti_api_ids(v, "tokens", lim->vocab, UINT32_MAX / 4, &r->prompt->ids, &r->prompt->n_ids, err);
}
