// Where a model's template and its special tokens are read from.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/chat.h"
#include "model/gguf/gguf_model.h"

#define MAX_CONFIG_BYTES ((size_t)64 << 20)  // tokenizer_config.json lists every added token

// The whole file in *out (malloc). TI_ERR_NOTFOUND when there is none.
static ti_status read_file(const char *path, char **out, size_t *n, ti_error *err) {
  FILE *f = fopen(path, "rb");
  if (!f) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  ti_status st = TI_OK;
  char *p = malloc(TI_CHAT_MAX_SOURCE + 1);
  if (!p) {
    st = ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", path);
    goto done;
  }
  size_t k = fread(p, 1, TI_CHAT_MAX_SOURCE + 1, f);
  if (ferror(f))
    st = ti_error_set(err, TI_ERR_IO, "%s: %s", path, strerror(errno));
  else if (k > TI_CHAT_MAX_SOURCE)
    st = ti_error_set(err, TI_ERR_RANGE, "%s: a chat template above the limit of %zu bytes", path, TI_CHAT_MAX_SOURCE);
  if (st) goto done;
  *out = p;
  *n = k;
  p = NULL;
done:
  free(p);
  fclose(f);
  return st;
}

static ti_status from_file(const char *path, ti_chat_template **out, ti_error *err) {
  char *p = NULL;
  size_t n = 0;
  ti_status st = read_file(path, &p, &n, err);
  if (st) return st;
  st = ti_chat_template_create(p, n, path, out, err);
  free(p);
  return st;
}

// tokenizer_config.json's object; TI_ERR_NOTFOUND when there is no such file.
static ti_status load_config(const char *model_dir, char path[4096], json_t **out, ti_error *err) {
  int n = snprintf(path, 4096, "%s/tokenizer_config.json", model_dir);
  if (n < 0 || n >= 4096) return ti_error_set(err, TI_ERR_RANGE, "the model's path is longer than 4000 bytes");
  FILE *f = fopen(path, "rb");
  if (!f) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  fclose(f);
  ti_status st = ti_json_load_file(path, MAX_CONFIG_BYTES, out, err);
  if (st) return st;
  if (json_is_object(*out)) return TI_OK;
  json_decref(*out);
  return ti_error_set(err, TI_ERR_FORMAT, "%s: expected an object", path);
}

// "chat_template": a text, or a list of {"name", "template"} of which "default" (else the first) is taken.
static const json_t *config_template(const json_t *config) {
  const json_t *t = json_object_get(config, "chat_template"), *found = NULL;
  if (json_is_string(t)) return t;
  for (size_t i = 0; i < json_array_size(t); i++) {
    const json_t *e = json_array_get(t, i), *name = json_object_get(e, "name"), *text = json_object_get(e, "template");
    if (!json_is_string(text)) continue;
    if (!found || (json_is_string(name) && strcmp(json_string_value(name), "default") == 0)) found = text;
  }
  return found;
}

// A .gguf file carries its template.
static ti_status from_gguf(const char *path, ti_chat_template **out, ti_error *err) {
  ti_gguf *g;
  ti_tok_text t;
  ti_status st = ti_gguf_open(path, &g, err);
  if (st) return st;
  st = ti_gguf_chat_template(g, &t, err);
  if (st == TI_ERR_NOTFOUND)
    ti_error_set(err, st, "%s: the file has no chat template (tokenizer.chat_template); give one with --chat-template: a file or one of %s", path,
                 ti_chat_template_builtin_names());
  else if (st)
    ti_error_prefix(err, "%s", path);
  else
    st = ti_chat_template_create(t.s, t.n, path, out, err);
  ti_gguf_close(g);
  return st;
}

static ti_status from_model(const char *model_dir, ti_chat_template **out, ti_error *err) {
  char path[4096];
  if (ti_gguf_is_file(model_dir)) return from_gguf(model_dir, out, err);
  int n = snprintf(path, sizeof path, "%s/chat_template.jinja", model_dir);
  if (n < 0 || n >= (int)sizeof path) return ti_error_set(err, TI_ERR_RANGE, "the model's path is longer than 4000 bytes");
  ti_status st = from_file(path, out, err);
  if (st != TI_ERR_NOTFOUND) return st;
  json_t *config = NULL;
  st = load_config(model_dir, path, &config, err);
  const json_t *text = st ? NULL : config_template(config);
  if (st == TI_ERR_NOTFOUND || (!st && !text))
    st = ti_error_set(err, TI_ERR_NOTFOUND,
                      "%s: the model has no chat template (neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json); "
                      "give one with --chat-template: a file or one of %s",
                      model_dir, ti_chat_template_builtin_names());
  else if (!st)
    st = ti_chat_template_create(json_string_value(text), json_string_length(text), path, out, err);
  json_decref(config);
  return st;
}

ti_status ti_chat_template_open(const char *spec, const char *model_dir, ti_chat_template **out, ti_error *err) {
  if (!spec || !*spec) {
    if (!model_dir) return ti_error_set(err, TI_ERR_ARG, "no chat template and no model to take it from");
    return from_model(model_dir, out, err);
  }
  const char *source = ti_chat_template_builtin(spec);
  if (source) return ti_chat_template_create(source, strlen(source), spec, out, err);
  ti_status st = from_file(spec, out, err);
  if (st == TI_ERR_NOTFOUND)
    ti_error_set(err, st, "chat template '%s': neither a file nor one of the built-in %s", spec, ti_chat_template_builtin_names());
  return st;
}

static ti_status gguf_special_tokens(const char *path, json_t **out, ti_error *err) {
  static const char *const names[][2] = {{"bos", "bos_token"},     {"eos", "eos_token"}, {"unknown", "unk_token"}, {"seperator", "sep_token"},
                                         {"padding", "pad_token"}, {"cls", "cls_token"}, {"mask", "mask_token"}};  // spelled as GGUF does
  ti_gguf *g;
  ti_status st = ti_gguf_open(path, &g, err);
  if (st) return st;
  json_t *vars = json_object();
  for (size_t i = 0; !st && i < sizeof names / sizeof names[0]; i++) {
    ti_tok_text t;
    st = ti_gguf_special_token(g, names[i][0], &t, err);
    if (st == TI_ERR_NOTFOUND)
      st = TI_OK;
    else if (st)
      ti_error_prefix(err, "%s", path);
    else if (json_object_set_new(vars, names[i][1], json_stringn(t.s, t.n)))
      st = ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory for the special tokens", path);
  }
  ti_gguf_close(g);
  if (!st)
    *out = vars;
  else
    json_decref(vars);
  return st;
}

ti_status ti_chat_special_tokens(const char *model_dir, json_t **out, ti_error *err) {
  static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
  char path[4096];
  if (ti_gguf_is_file(model_dir)) return gguf_special_tokens(model_dir, out, err);
  json_t *config = NULL, *vars = json_object();
  if (!vars) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for the special tokens");
  ti_status st = load_config(model_dir, path, &config, err);
  if (st == TI_ERR_NOTFOUND) st = TI_OK;
  for (size_t i = 0; !st && i < sizeof names / sizeof names[0]; i++) {
    json_t *t = json_object_get(config, names[i]);
    if (json_is_object(t)) t = json_object_get(t, "content");
    if (json_is_string(t) && json_object_set(vars, names[i], t)) st = ti_error_set(err, TI_ERR_NOMEM, "out of memory for the special tokens");
  }
  json_decref(config);
  if (st) {
    json_decref(vars);
    return st;
  }
  *out = vars;
  return TI_OK;
}
