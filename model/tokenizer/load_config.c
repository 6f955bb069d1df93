// bos, eos, pad and add_bos_token: what the files beside tokenizer.json say. Each file may be missing.
//
//   generation_config.json   bos_token_id, eos_token_id (one or a list), pad_token_id
//   tokenizer_config.json    bos_token, eos_token, pad_token (a text, or {"content": text}), add_bos_token, add_eos_token
//   special_tokens_map.json  the same three tokens, asked last
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "model/tokenizer/tok_priv.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

// *out = NULL when there is no such file.
static ti_status open_config(const char *dir, const char *name, json_t **out, ti_error *err) {
  char path[4096];
  *out = NULL;
  if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) return ti_error_set(err, TI_ERR_RANGE, "%s: the path is too long", name);
  if (access(path, F_OK) != 0) return TI_OK;
  ti_status st = ti_json_load_file(path, MAX_CONFIG_BYTES, out, err);
  if (st != TI_OK) return ti_error_prefix(err, "%s", name);
  if (json_is_object(*out)) return TI_OK;
  json_decref(*out);
  *out = NULL;
  return ti_error_set(err, TI_ERR_FORMAT, "%s: expected an object", name);
}

// A token given by text, or as {"content": text}; null and a missing key are none. A text that is no token is an error.
static ti_status token_of(const ti_tokenizer *t, const json_t *j, const char *key, int32_t *id, ti_error *err) {
  const json_t *v = json_object_get(j, key);
  if (!v || json_is_null(v)) return TI_OK;
  if (json_is_object(v)) v = json_object_get(v, "content");
  if (!json_is_string(v)) return ti_error_set(err, TI_ERR_FORMAT, "%s: expected a token's text", key);
  int32_t found = ti_tok_vocab_find(&t->vocab, json_string_value(v), json_string_length(v));
  if (found < 0) return ti_error_set(err, TI_ERR_FORMAT, "%s: \"%.64s\" is not in the vocabulary", key, json_string_value(v));
  *id = found;
  return TI_OK;
}

static ti_status eos_id(ti_tokenizer *t, const json_t *v, ti_error *err) {
  json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
  if (id < 0 || id >= TI_TOK_MAX_VOCAB) return ti_error_set(err, TI_ERR_RANGE, "eos_token_id: expected ids in 0..%d", TI_TOK_MAX_VOCAB - 1);
  if (ti_tok_add_eos(t, (int32_t)id) != TI_OK) return ti_error_set(err, TI_ERR_RANGE, "eos_token_id: more than %d ids", TI_TOK_MAX_EOS);
  return TI_OK;
}

static ti_status one_id(const json_t *j, const char *key, int32_t *id, ti_error *err) {
  int64_t v = *id;
  if (!json_is_integer(json_object_get(j, key))) return TI_OK;  // null, or a list (some files' bos): the tokenizer's own files decide
  ti_status st = ti_json_int(j, key, -1, TI_TOK_MAX_VOCAB - 1, &v, err);
  if (st == TI_OK) *id = (int32_t)v;
  return st;
}

static ti_status read_generation(ti_tokenizer *t, const json_t *j, ti_error *err) {
  const json_t *eos = json_object_get(j, "eos_token_id");
  ti_status st = one_id(j, "bos_token_id", &t->bos, err);
  if (st == TI_OK) st = one_id(j, "pad_token_id", &t->pad, err);
  if (st != TI_OK || !eos || json_is_null(eos)) return st;
  if (!json_is_array(eos)) return eos_id(t, eos, err);
  for (size_t i = 0; i < json_array_size(eos) && st == TI_OK; i++) st = eos_id(t, json_array_get(eos, i), err);
  return st;
}

static ti_status read_tokens(ti_tokenizer *t, const json_t *j, ti_error *err) {
  int32_t eos = -1;
  ti_status st = token_of(t, j, "bos_token", &t->bos, err);
  if (st == TI_OK) st = token_of(t, j, "pad_token", &t->pad, err);
  if (st == TI_OK) st = token_of(t, j, "eos_token", &eos, err);
  if (st == TI_OK && ti_tok_add_eos(t, eos) != TI_OK) return ti_error_set(err, TI_ERR_RANGE, "eos_token: more than %d ids", TI_TOK_MAX_EOS);
  return st;
}

// Without a template in tokenizer.json the flags decide, as the reference's Llama and GPT-2 classes do.
static ti_status read_adds(ti_tokenizer *t, const json_t *j, ti_error *err) {
  bool bos = false, eos = false;
  int32_t eos_token = -1;
  ti_status st = ti_json_bool(j, "add_bos_token", &bos, err);
  if (st == TI_OK) st = ti_json_bool(j, "add_eos_token", &eos, err);
  if (st == TI_OK) st = token_of(t, j, "eos_token", &eos_token, err);
  if (st != TI_OK || t->has_template) return st;
  if (bos && t->bos < 0) return ti_error_set(err, TI_ERR_FORMAT, "add_bos_token is true but there is no bos_token");
  if (eos && eos_token < 0) return ti_error_set(err, TI_ERR_FORMAT, "add_eos_token is true but there is no eos_token");
  if (bos) t->prefix[t->n_prefix++] = t->bos;
  if (eos) t->suffix[t->n_suffix++] = eos_token;
  return TI_OK;
}

ti_status ti_tok_load_configs(ti_tokenizer *t, const char *dir, ti_error *err) {
  static const char *const names[] = {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json"};
  for (int i = 0; i < 3; i++) {
    json_t *j;
    ti_status st = open_config(dir, names[i], &j, err);
    if (st != TI_OK) return st;
    if (!j) continue;
    int32_t bos = t->bos, pad = t->pad;
    st = i == 0 ? read_generation(t, j, err) : read_tokens(t, j, err);
    if (i == 2 && bos >= 0) t->bos = bos;  // the map only fills what is still open
    if (i == 2 && pad >= 0) t->pad = pad;
    if (st == TI_OK && i == 1) st = read_adds(t, j, err);
    json_decref(j);
    if (st != TI_OK) return ti_error_prefix(err, "%s", names[i]);
  }
  return TI_OK;
}
