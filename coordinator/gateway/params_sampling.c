// The fields that say how to sample and when to stop (see params.h), shared by completions and chat.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/gateway/params_priv.h"

void ti_gen_params_init(ti_gen_params *p) {
  *p = (ti_gen_params){
      .sampling = {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}, .n = 1, .skip_special = true};
}

void ti_gen_params_fini(ti_gen_params *p) {
  free((void *)(uintptr_t)p->sampling.bias_id.v);
  free((void *)(uintptr_t)p->sampling.bias_value.v);
  free(p->stop);
  free(p->stop_id);
  *p = (ti_gen_params){0};
}

const char *ti_json_kind(const json_t *v) {
  static const char *const names[] = {"an object", "an array", "a string", "an integer", "a number", "true", "false", "null"};
  return v ? names[json_typeof(v)] : "nothing";
}

static ti_status check_real(const char *name, double v, double lo, double hi, ti_error *err) {
  if (isfinite(v) && v >= lo && v <= hi) return TI_OK;
  return ti_error_set(err, TI_ERR_RANGE, "%s: expected a number in %g..%g, got %g", name, lo, hi, v);
}

static ti_status check_stop(const ti_gen_params *p, const ti_gen_limits *lim, ti_error *err) {
  if (p->n_stop && !lim->has_tokenizer)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "stop: this model has no tokenizer, so there is no text to look for strings in; use stop_token_ids");
  if (p->n_stop > TI_GEN_MAX_STOP) return ti_error_set(err, TI_ERR_RANGE, "stop: %u strings, at most %d are served", p->n_stop, TI_GEN_MAX_STOP);
  for (uint32_t i = 0; i < p->n_stop; i++) {
    if (p->stop[i].n == 0) return ti_error_set(err, TI_ERR_RANGE, "stop: string %u is empty", i);
    if (p->stop[i].n > TI_GEN_MAX_STOP_BYTES)
      return ti_error_set(err, TI_ERR_RANGE, "stop: string %u has %zu bytes, at most %d are served", i, p->stop[i].n, TI_GEN_MAX_STOP_BYTES);
  }
  if (p->n_stop_id > TI_GEN_MAX_STOP_ID)
    return ti_error_set(err, TI_ERR_RANGE, "stop_token_ids: %u ids, at most %d are served", p->n_stop_id, TI_GEN_MAX_STOP_ID);
  for (uint32_t i = 0; i < p->n_stop_id; i++) {
    if (p->stop_id[i] >= lim->vocab)
      return ti_error_set(err, TI_ERR_RANGE, "stop_token_ids: %u is not below the vocabulary's %u", p->stop_id[i], lim->vocab);
  }
  return TI_OK;
}

ti_status ti_gen_params_check(const ti_gen_params *p, const ti_gen_limits *lim, ti_error *err) {
  const ti_sampling *s = &p->sampling;
  ti_status st = check_real("temperature", s->temperature, 0, 100, err);
  if (!st) st = check_real("top_p", s->top_p, 1e-9, 1, err);
  if (!st) st = check_real("min_p", s->min_p, 0, 1, err);
  if (!st) st = check_real("repetition_penalty", s->repetition, 1e-3, 100, err);
  if (!st) st = check_real("frequency_penalty", s->frequency, -2, 2, err);
  if (!st) st = check_real("presence_penalty", s->presence, -2, 2, err);
  if (st) return st;
  if (s->top_k < -1) return ti_error_set(err, TI_ERR_RANGE, "top_k: expected -1 or 0 (all), or a count, got %d", s->top_k);
  if (p->n < 1 || p->n > TI_GEN_MAX_N) return ti_error_set(err, TI_ERR_RANGE, "n: expected an integer in 1..%d, got %u", TI_GEN_MAX_N, p->n);
  if (s->n_logprob < -1 || s->n_logprob > TI_TOP_MAX)
    return ti_error_set(err, TI_ERR_RANGE, "logprobs: expected an integer in 0..%d, got %d", TI_TOP_MAX, s->n_logprob);
  if (s->bias_id.n > TI_GEN_MAX_BIAS)
    return ti_error_set(err, TI_ERR_RANGE, "logit_bias: %u entries, at most %d are served", s->bias_id.n, TI_GEN_MAX_BIAS);
  for (uint32_t i = 0; i < s->bias_id.n; i++) {
    if (s->bias_id.v[i] >= lim->vocab)
      return ti_error_set(err, TI_ERR_RANGE, "logit_bias: %u is not below the vocabulary's %u", s->bias_id.v[i], lim->vocab);
    st = check_real("logit_bias", s->bias_value.v[i], -100, 100, err);
    if (st) return st;
  }
  if (p->has_max_tokens && p->min_tokens > p->max_tokens)
    return ti_error_set(err, TI_ERR_RANGE, "min_tokens: %u is more than max_tokens, %u", p->min_tokens, p->max_tokens);
  return check_stop(p, lim, err);
}

// A number that fits a float (NaN cannot be written in JSON; 1e300 can).
static ti_status read_float(const json_t *o, const char *key, float *out, ti_error *err) {
  double v = *out;
  const ti_status st = ti_json_real(o, key, -1e30, 1e30, &v, err);
  if (!st) *out = (float)v;
  return st;
}

ti_status ti_api_ids(const json_t *array, const char *name, uint32_t vocab, size_t max, uint32_t **ids, uint32_t *n, ti_error *err) {
  const size_t count = json_array_size(array);
  if (count > max) return ti_error_set(err, TI_ERR_RANGE, "%s: %zu ids, at most %zu are served", name, count, max);
  uint32_t *v = count ? malloc(count * sizeof *v) : NULL;
  if (count && !v) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  for (size_t i = 0; i < count; i++) {
    const json_t *x = json_array_get(array, i);
    const json_int_t id = json_integer_value(x);
    if (!json_is_integer(x) || id < 0 || id >= (json_int_t)vocab) {
      free(v);
      if (!json_is_integer(x)) return ti_error_set(err, TI_ERR_FORMAT, "%s: entry %zu: expected a token id, got %s", name, i, ti_json_kind(x));
      return ti_error_set(err, TI_ERR_RANGE, "%s: entry %zu: %lld is not a token id of this model (0..%u)", name, i, (long long)id, vocab - 1);
    }
    v[i] = (uint32_t)id;
  }
  *ids = v;
  *n = (uint32_t)count;
  return TI_OK;
}

static ti_status parse_stop(const json_t *body, ti_gen_params *p, ti_error *err) {
  const json_t *stop = json_object_get(body, "stop");
  if (!stop || json_is_null(stop)) return TI_OK;
  const bool one = json_is_string(stop);
  if (!one && !json_is_array(stop))
    return ti_error_set(err, TI_ERR_FORMAT, "stop: expected a string or an array of strings, got %s", ti_json_kind(stop));
  const size_t n = one ? 1 : json_array_size(stop);
  if (n > TI_GEN_MAX_STOP) return ti_error_set(err, TI_ERR_RANGE, "stop: %zu strings, at most %d are served", n, TI_GEN_MAX_STOP);
  if (n == 0) return TI_OK;
  p->stop = calloc(n, sizeof *p->stop);
  if (!p->stop) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  for (size_t i = 0; i < n; i++) {
    const json_t *s = one ? stop : json_array_get(stop, i);
    if (!json_is_string(s)) return ti_error_set(err, TI_ERR_FORMAT, "stop: entry %zu: expected a string, got %s", i, ti_json_kind(s));
    if (one && json_string_length(s) == 0) return TI_OK;  // "" asks for nothing, as elsewhere
    p->stop[i] = (ti_tok_text){json_string_value(s), json_string_length(s)};
    p->n_stop = (uint32_t)i + 1;
  }
  return TI_OK;
}

static ti_status parse_bias(const json_t *body, const ti_gen_limits *lim, ti_gen_params *p, ti_error *err) {
  const json_t *bias = json_object_get(body, "logit_bias");
  if (!bias || json_is_null(bias)) return TI_OK;
  if (!json_is_object(bias))
    return ti_error_set(err, TI_ERR_FORMAT, "logit_bias: expected an object of token ids and numbers, got %s", ti_json_kind(bias));
  const size_t n = json_object_size(bias);
  if (n > TI_GEN_MAX_BIAS) return ti_error_set(err, TI_ERR_RANGE, "logit_bias: %zu entries, at most %d are served", n, TI_GEN_MAX_BIAS);
  if (n == 0) return TI_OK;
  uint32_t *id = malloc(n * sizeof *id);
  float *value = malloc(n * sizeof *value);
  p->sampling.bias_id = (ti_u32s){id, 0};
  p->sampling.bias_value = (ti_f32s){value, 0};
  if (!id || !value) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  const char *key;
  json_t *v;
  uint32_t i = 0;
  json_object_foreach((json_t *)(uintptr_t)bias, key, v) {
    char *end;
    const unsigned long long k = strtoull(key, &end, 10);
    if (*key < '0' || *key > '9' || *end || k >= lim->vocab)
      return ti_error_set(err, TI_ERR_RANGE, "logit_bias: \"%.32s\" is not a token id of this model (0..%u)", key, lim->vocab - 1);
    if (!json_is_number(v)) return ti_error_set(err, TI_ERR_FORMAT, "logit_bias: \"%.32s\": expected a number, got %s", key, ti_json_kind(v));
    const ti_status st = check_real("logit_bias", json_number_value(v), -100, 100, err);
    if (st) return st;
    id[i] = (uint32_t)k;
    value[i++] = (float)json_number_value(v);
  }
  p->sampling.bias_id.n = p->sampling.bias_value.n = i;
  return TI_OK;
}

static ti_status parse_counts(const json_t *body, const ti_gen_limits *lim, ti_gen_params *p, ti_error *err) {
  int64_t n = 1, min_tokens = 0, top_k = 0, priority = 0, seed = 0, max_tokens = -1;
  ti_status st = ti_json_int(body, "n", 1, TI_GEN_MAX_N, &n, err);
  if (!st) st = ti_json_int(body, "max_tokens", 0, INT64_MAX, &max_tokens, err);
  if (!st) st = ti_json_int(body, "max_completion_tokens", 0, INT64_MAX, &max_tokens, err);
  if (!st) st = ti_json_int(body, "min_tokens", 0, lim->max_model_len, &min_tokens, err);
  if (!st) st = ti_json_int(body, "top_k", -1, INT32_MAX, &top_k, err);
  if (!st) st = ti_json_int(body, "priority", INT32_MIN, INT32_MAX, &priority, err);
  if (!st) st = ti_json_int(body, "seed", INT64_MIN, INT64_MAX, &seed, err);
  if (st) return st;
  p->n = (uint32_t)n;
  p->has_max_tokens = max_tokens >= 0;
  p->max_tokens = max_tokens > UINT32_MAX / 2 ? UINT32_MAX / 2 : max_tokens < 0 ? 0 : (uint32_t)max_tokens;  // the prompt's length decides later
  p->min_tokens = (uint32_t)min_tokens;
  p->sampling.top_k = top_k >= (int64_t)lim->vocab ? 0 : (int32_t)top_k;
  p->priority = (int32_t)priority;
  const json_t *s = json_object_get(body, "seed");
  p->has_seed = s && !json_is_null(s);
  p->sampling.seed = (uint64_t)seed;
  return TI_OK;
}

ti_status ti_gen_params_parse(const json_t *body, const ti_gen_limits *lim, ti_gen_params *p, ti_error *err) {
  ti_sampling *s = &p->sampling;
  ti_status st = parse_counts(body, lim, p, err);
  if (!st) st = read_float(body, "temperature", &s->temperature, err);
  if (!st) st = read_float(body, "top_p", &s->top_p, err);
  if (!st) st = read_float(body, "min_p", &s->min_p, err);
  if (!st) st = read_float(body, "repetition_penalty", &s->repetition, err);
  if (!st) st = read_float(body, "frequency_penalty", &s->frequency, err);
  if (!st) st = read_float(body, "presence_penalty", &s->presence, err);
  if (!st) st = ti_json_bool(body, "ignore_eos", &p->ignore_eos, err);
  if (!st) st = ti_json_bool(body, "include_stop_str_in_output", &p->include_stop, err);
  if (!st) st = ti_json_bool(body, "skip_special_tokens", &p->skip_special, err);
  if (!st) st = parse_stop(body, p, err);
  if (!st) st = parse_bias(body, lim, p, err);
  if (st) return st;
  const json_t *ids = json_object_get(body, "stop_token_ids");
  if (ids && !json_is_null(ids)) {
    if (!json_is_array(ids)) return ti_error_set(err, TI_ERR_FORMAT, "stop_token_ids: expected an array of token ids, got %s", ti_json_kind(ids));
    st = ti_api_ids(ids, "stop_token_ids", lim->vocab, TI_GEN_MAX_STOP_ID, &p->stop_id, &p->n_stop_id, err);
    if (st) return st;
  }
  return ti_gen_params_check(p, lim, err);
}
