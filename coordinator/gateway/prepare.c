// Prompts -> ids -> request specs (see prepare.h). No state; any text thread.
#include "coordinator/gateway/prepare.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

// A text longer than this is judged by its beginning first: tens of megabytes take seconds, in which the thread's streams would stand still. The cut
// may change a few tokens beside it.
enum { PROBE_BYTES = 1 << 20, PROBE_SLACK = 16 };

static ti_status too_long(ti_error *err, uint32_t max, size_t n) {
  return ti_error_set(err, TI_ERR_FULL, "prompt: the model's context is %u tokens, but the prompt has %zu", max, n);
}

size_t ti_prepare_max_ids(const ti_gen_limits *lim) {
  const size_t n = 4 * (size_t)lim->max_model_len;
  return n > 65536 ? n : 65536;
}

ti_status ti_prepare_text(const ti_prompt_source *m, ti_tok_scratch *scratch, const char *text, size_t n, bool add_special, ti_ids *out,
                          ti_error *err) {
  if (!m->tokenizer) return ti_error_set(err, TI_ERR_UNSUPPORTED, "prompt: this model has no tokenizer; send an array of token ids");
  const unsigned flags = TI_TOK_PARSE_SPECIAL | (add_special ? TI_TOK_ADD_SPECIAL : 0u);
  ti_status st = n > PROBE_BYTES ? ti_tokenizer_encode(m->tokenizer, scratch, text, PROBE_BYTES, flags, out, err) : TI_OK;
  if (!st && out->n > (size_t)m->lim.max_model_len + PROBE_SLACK)  // its beginning alone is too long
    return ti_error_set(err, TI_ERR_FULL, "prompt: the model's context is %u tokens, but the prompt has more than %zu", m->lim.max_model_len,
                        out->n - PROBE_SLACK);
  out->n = 0;
  if (!st) st = ti_tokenizer_encode(m->tokenizer, scratch, text, n, flags, out, err);
  if (st == TI_ERR_FULL)
    return ti_error_set(err, TI_ERR_FULL, "prompt: the model's context is %u tokens, but the prompt has more than %zu", m->lim.max_model_len,
                        out->max);
  if (st == TI_ERR_RANGE) return ti_error_prefix(err, "prompt");
  if (!st && out->n > m->lim.max_model_len) st = too_long(err, m->lim.max_model_len, out->n);
  return st;
}

ti_status ti_prepare_chat(const ti_prompt_source *m, const json_t *vars, ti_buf *out, ti_error *err) {
  if (!m->chat)
    return ti_error_set(err, TI_ERR_UNSUPPORTED,
                        "messages: this model has no chat template; start the server with --chat-template, or use /v1/completions");
  json_t *all = json_object();
  if (!all) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  if (m->special_tokens) json_object_update(all, (json_t *)(uintptr_t)m->special_tokens);
  json_object_update(all, (json_t *)(uintptr_t)vars);
  const ti_status st = ti_chat_render(m->chat, all, NULL, (int64_t)ti_wall_s(), out, err);
  if (st) ti_error_prefix(err, "messages");
  json_decref(all);
  return st;
}

static ti_status decide_max_tokens(const ti_prepare *p, uint32_t *max_tokens, ti_error *err) {
  const uint32_t len = p->lim->max_model_len, n = p->n_ids;
  if (n == 0) return ti_error_set(err, TI_ERR_RANGE, "prompt: is empty");
  if (n > len) return too_long(err, len, n);
  if (!p->gen->has_max_tokens) {
    if (n == len) return ti_error_set(err, TI_ERR_FULL, "prompt: the model's context is %u tokens, and the prompt's %u leave no room", len, n);
    *max_tokens = len - n;
  } else {
    if (p->gen->max_tokens > len - n)
      return ti_error_set(err, TI_ERR_FULL,
                          "max_tokens: the model's context is %u tokens, but the prompt has %u and max_tokens is %u: at most %u are left", len, n,
                          p->gen->max_tokens, len - n);
    *max_tokens = p->gen->max_tokens;
  }
  if (p->gen->min_tokens > *max_tokens)
    return ti_error_set(err, TI_ERR_RANGE, "min_tokens: %u is more than the %u tokens that may be generated", p->gen->min_tokens, *max_tokens);
  return TI_OK;
}

// A malloc'ed copy of n items; NULL for none. *ok turns false without memory.
static void *copy(const void *from, size_t n, size_t each, bool *ok) {
  if (n == 0) return NULL;
  void *v = malloc(n * each);
  if (v) memcpy(v, from, n * each);
  *ok = *ok && v;
  return v;
}

// The request's stop ids, then the tokenizer's EOS ids (the worker knows the model's own; generation_config may say more).
static bool copy_stop_ids(const ti_prepare *p, ti_request_spec *s) {
  const int32_t *eos = NULL;
  const size_t n_eos = p->tokenizer && !p->gen->ignore_eos ? ti_tokenizer_eos(p->tokenizer, &eos) : 0;
  const uint32_t n = p->gen->n_stop_id;
  if (n + n_eos == 0) return true;
  s->stop_id = malloc((n + n_eos) * sizeof *s->stop_id);
  if (!s->stop_id) return false;
  if (n) memcpy(s->stop_id, p->gen->stop_id, n * sizeof *s->stop_id);
  s->n_stop_id = n;
  for (size_t i = 0; i < n_eos; i++) {
    if (eos[i] >= 0 && (uint32_t)eos[i] < p->lim->vocab) s->stop_id[s->n_stop_id++] = (uint32_t)eos[i];
  }
  return true;
}

static ti_status make_logs(const ti_prepare *p, ti_request_spec *s, uint32_t max_tokens) {
  s->log = calloc(p->gen->n, sizeof(*s->log));
  if (!s->log) return TI_ERR_NOMEM;
  s->n_choice = p->gen->n;
  ti_tokenlog_options o = {.max_tokens = max_tokens,
                           .n_logprob = p->gen->sampling.n_logprob,
                           .n_prompt = p->n_ids,
                           .n_prompt_logprob = p->gen->sampling.n_prompt_logprob,
                           .subscriber = p->subscriber};
  ti_status st = TI_OK;
  for (uint32_t i = 0; i < p->gen->n && !st; i++) {
    o.owner = p->owner ? p->owner[i] : NULL;
    st = ti_tokenlog_create(&o, &s->log[i]);
  }
  return st;
}

ti_status ti_prepare_spec(const ti_prepare *p, ti_request_spec **spec, ti_tokenlog **log, uint32_t *max_tokens, ti_error *err) {
  uint32_t max = 0;
  ti_status st = decide_max_tokens(p, &max, err);
  if (st) return st;
  ti_request_spec *s = ti_request_spec_create();
  if (!s) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  const ti_sampling *g = &p->gen->sampling;
  bool ok = true;
  s->ids = copy(p->ids, p->n_ids, sizeof *p->ids, &ok);
  s->sampling = *g;
  s->sampling.bias_id.v = copy(g->bias_id.v, g->bias_id.n, sizeof(uint32_t), &ok);
  s->sampling.bias_value.v = copy(g->bias_value.v, g->bias_value.n, sizeof(float), &ok);
  if (!p->gen->has_seed && p->lim->has_seed) s->sampling.seed = p->lim->seed;
  if (!p->gen->has_seed && !p->lim->has_seed) st = ti_wire_random(&s->sampling.seed, sizeof s->sampling.seed);
  if (st || !ok || !copy_stop_ids(p, s)) goto err_nomem;
  s->n_prompt = p->n_ids;
  s->max_tokens = max;
  s->min_tokens = p->gen->min_tokens;
  s->ignore_eos = p->gen->ignore_eos;
  s->priority = p->gen->priority;
  s->deadline_us = p->deadline_us;
  st = make_logs(p, s, max);
  if (st) goto err_nomem;
  for (uint32_t i = 0; i < p->gen->n; i++) log[i] = ti_tokenlog_hold(s->log[i]);
  *spec = s;
  *max_tokens = max;
  return TI_OK;

err_nomem:
  ti_request_spec_destroy(s);
  return ti_error_set(err, st && st != TI_ERR_NOMEM ? st : TI_ERR_NOMEM, "%s", st ? ti_status_text(st) : "out of memory");
}
