// The tokenizer's tables of a GGUF file, handed to model/tokenizer (ti_tokenizer_create_parts), and the chat template. Defaults of absent keys are
// llama.cpp's, which wrote most files. See gguf_model.h.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf/gguf_model.h"

enum { MAX_PRE = 64 };

typedef struct tables {
  ti_tok_text *tokens, *merges;
  float *scores;
  int32_t *types, ends[2];
  size_t n_scores, n_types;
  char model[MAX_PRE], pre[MAX_PRE];
} tables;

// Converters' other names for a pre-tokenizer.
static const char *pre_alias(const char *pre) {
  static const char *const alias[][2] = {{"llama-v3", "llama-bpe"}, {"llama3", "llama-bpe"}, {"deepseek-r1-qwen", "qwen2"}, {"default", "gpt-2"}};
  for (size_t i = 0; i < sizeof(alias) / sizeof(alias[0]); i++)
    if (strcmp(pre, alias[i][0]) == 0) return alias[i][1];
  return pre;
}

static ti_status short_string(const ti_gguf *g, const char *key, char out[MAX_PRE], ti_error *err) {
  ti_tok_text t = {"", 0};
  const ti_status st = ti_gguf_string(g, key, &t, err);
  if (st != TI_OK) return st;
  if (t.n >= MAX_PRE) return ti_error_set(err, TI_ERR_RANGE, "%s: %zu bytes, the limit is %d", key, t.n, MAX_PRE - 1);
  snprintf(out, MAX_PRE, "%.*s", (int)t.n, t.s);
  return TI_OK;
}

static ti_status token_id(const ti_gguf *g, const char *what, size_t n_tokens, int32_t *out, ti_error *err) {
  char key[80];
  int64_t id = *out;
  snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", what);
  const ti_status st = ti_gguf_int(g, key, 0, (int64_t)n_tokens - 1, &id, err);
  if (st == TI_OK) *out = (int32_t)id;
  return st;
}

static ti_status read_arrays(const ti_gguf *g, tables *t, ti_tokenizer_parts *p, ti_error *err) {
  ti_status st = ti_gguf_strings(g, "tokenizer.ggml.tokens", &t->tokens, &p->n_tokens, err);
  if (st == TI_OK && p->n_tokens == 0) return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.tokens: missing or empty");
  if (st == TI_OK) st = ti_gguf_strings(g, "tokenizer.ggml.merges", &t->merges, &p->n_merges, err);
  if (st == TI_OK) st = ti_gguf_floats(g, "tokenizer.ggml.scores", &t->scores, &t->n_scores, err);
  if (st == TI_OK) st = ti_gguf_ints(g, "tokenizer.ggml.token_type", &t->types, &t->n_types, err);
  if (st != TI_OK) return st;
  if (t->scores && t->n_scores != p->n_tokens)
    return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.scores: %zu, but there are %zu tokens", t->n_scores, p->n_tokens);
  if (t->types && t->n_types != p->n_tokens)
    return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.token_type: %zu, but there are %zu tokens", t->n_types, p->n_tokens);
  for (size_t i = 0; i < t->n_types; i++)
    if (t->types[i] < 1 || t->types[i] > 6)
      return ti_error_set(err, TI_ERR_RANGE, "tokenizer.ggml.token_type[%zu]: expected 1..6, got %d", i, t->types[i]);
  p->tokens = t->tokens;
  p->merges = t->merges;
  p->scores = t->scores;
  p->types = t->types;
  return TI_OK;
}

static ti_status read_specials(const ti_gguf *g, tables *t, ti_tokenizer_parts *p, ti_error *err) {
  const bool llama = strcmp(t->model, "llama") == 0;
  int32_t *ends = t->ends;
  ends[0] = ends[1] = -1;
  p->bos = p->eos = p->pad = p->unk = -1;
  if (llama && p->n_tokens > 2) {
    p->unk = 0;
    p->bos = 1;
    p->eos = 2;
  }
  p->add_bos = llama || strcmp(p->pre, "llama-bpe") == 0;
  p->add_space_prefix = true;
  ti_status st = token_id(g, "bos", p->n_tokens, &p->bos, err);
  if (st == TI_OK) st = token_id(g, "eos", p->n_tokens, &p->eos, err);
  if (st == TI_OK) st = token_id(g, "padding", p->n_tokens, &p->pad, err);
  if (st == TI_OK) st = token_id(g, "unknown", p->n_tokens, &p->unk, err);
  if (st == TI_OK) st = token_id(g, "eot", p->n_tokens, &ends[0], err);
  if (st == TI_OK) st = token_id(g, "eom", p->n_tokens, &ends[1], err);
  if (st == TI_OK) st = ti_gguf_bool(g, "tokenizer.ggml.add_bos_token", &p->add_bos, err);
  if (st == TI_OK) st = ti_gguf_bool(g, "tokenizer.ggml.add_eos_token", &p->add_eos, err);
  if (st == TI_OK) st = ti_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &p->add_space_prefix, err);
  p->more_eos = ends;
  p->n_more_eos = 2;
  return st;
}

static ti_status read_tables(const ti_gguf *g, tables *t, ti_tokenizer_parts *p, ti_error *err) {
  ti_status st = short_string(g, "tokenizer.ggml.model", t->model, err);
  if (st == TI_OK) st = short_string(g, "tokenizer.ggml.pre", t->pre, err);
  if (st != TI_OK) return st;
  if (!t->model[0]) return ti_error_set(err, TI_ERR_NOTFOUND, "tokenizer.ggml.model: missing: the file has no tokenizer");
  p->model = t->model;
  p->pre = pre_alias(t->pre);
  st = read_arrays(g, t, p, err);
  if (st == TI_OK && strcmp(t->model, "gpt2") == 0 && p->n_merges == 0)
    return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.merges: missing or empty; a gpt2 tokenizer needs them");
  return st == TI_OK ? read_specials(g, t, p, err) : st;
}

ti_status ti_gguf_tokenizer(const ti_gguf *g, ti_tokenizer **out, ti_error *err) {
  tables t = {0};
  ti_tokenizer_parts parts = {0};
  ti_status st = read_tables(g, &t, &parts, err);
  if (st == TI_OK) st = ti_tokenizer_create_parts(&parts, out, err);
  free(t.tokens);
  free(t.merges);
  free(t.scores);
  free(t.types);
  return st;
}

ti_status ti_gguf_chat_template(const ti_gguf *g, ti_tok_text *out, ti_error *err) {
  ti_tok_text t = {NULL, 0};
  const ti_status st = ti_gguf_string(g, "tokenizer.chat_template", &t, err);
  if (st != TI_OK) return st;
  if (!t.s) return ti_error_set(err, TI_ERR_NOTFOUND, "tokenizer.chat_template: missing");
  *out = t;
  return TI_OK;
}

ti_status ti_gguf_special_token(const ti_gguf *g, const char *what, ti_tok_text *out, ti_error *err) {
  ti_tok_text *tokens = NULL;
  size_t n = 0;
  int32_t id = -1;
  ti_status st = ti_gguf_strings(g, "tokenizer.ggml.tokens", &tokens, &n, err);
  if (st == TI_OK) st = token_id(g, what, n, &id, err);
  if (st == TI_OK && id < 0) st = TI_ERR_NOTFOUND;
  if (st == TI_OK) *out = tokens[id];
  free(tokens);
  return st;
}
