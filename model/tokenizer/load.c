// tokenizer.json -> ti_tokenizer: vocabulary, added tokens, merges, then the pipeline's sections (load_pipeline.c) and the derived tables (build.c).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "model/gguf/gguf_model.h"
#include "model/tokenizer/tok_priv.h"

enum { MAX_MERGES = 1 << 22, MAX_ADDED = 1 << 18 };

// The model section of a file that is no BPE, or uses BPE options that are not served, is refused.
static ti_status check_model(const json_t *model, ti_error *err) {
  const char *type = "BPE";
  if (!json_is_object(model)) return ti_error_set(err, TI_ERR_FORMAT, "model: expected an object");
  ti_status st = ti_json_str(model, "type", &type, err);
  if (st != TI_OK) return ti_error_prefix(err, "model");
  if (strcmp(type, "BPE") != 0) return ti_error_set(err, TI_ERR_UNSUPPORTED, "model: unknown kind \"%.64s\"; BPE is served", type);
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (int i = 0; i < 2; i++) {
    const json_t *v = json_object_get(model, affixes[i]);
    if (json_is_string(v) && json_string_length(v) > 0)
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "model.%s: \"%.64s\"", affixes[i], json_string_value(v));
  }
  const json_t *dropout = json_object_get(model, "dropout");
  if (json_is_number(dropout) && json_number_value(dropout) != 0) return ti_error_set(err, TI_ERR_UNSUPPORTED, "model.dropout: only 0 or null");
  return TI_OK;
}

static ti_status read_vocab(const json_t *model, tok_build *b, ti_error *err) {
  json_t *vocab = json_object_get(model, "vocab");
  if (!json_is_object(vocab)) return ti_error_set(err, TI_ERR_FORMAT, "model.vocab: expected an object of token: id");
  for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
    const char *key = json_object_iter_key(it);
    const json_t *id = json_object_iter_value(it);
    if (!json_is_integer(id)) return ti_error_set(err, TI_ERR_FORMAT, "model.vocab[\"%.64s\"]: expected an id", key);
    ti_status st = ti_tok_build_put(b, json_integer_value(id), key, strlen(key), TOK_PRESENT, err);
    if (st != TI_OK) return ti_error_prefix(err, "model.vocab");
  }
  return TI_OK;
}

// One added token: into the build (or the vocabulary's entry of that id, which must have the same text) and into t->added.
static ti_status read_added_one(ti_tokenizer *t, tok_build *b, const json_t *j, ti_error *err) {
  tok_added a = {0};
  int64_t id = -1;
  const json_t *content = json_object_get(j, "content");
  if (!json_is_object(j)) return ti_error_set(err, TI_ERR_FORMAT, "expected an object");
  a.normalized = true;
  ti_status st = ti_json_int(j, "id", 0, TI_TOK_MAX_VOCAB - 1, &id, err);
  if (st == TI_OK) st = ti_json_bool(j, "special", &a.special, err);
  if (st == TI_OK && a.special) a.normalized = false;
  if (st == TI_OK) st = ti_json_bool(j, "normalized", &a.normalized, err);
  if (st == TI_OK) st = ti_json_bool(j, "lstrip", &a.lstrip, err);
  if (st == TI_OK) st = ti_json_bool(j, "rstrip", &a.rstrip, err);
  if (st == TI_OK) st = ti_json_bool(j, "single_word", &a.single_word, err);
  if (st != TI_OK) return st;
  if (id < 0) return ti_error_set(err, TI_ERR_FORMAT, "id: missing");
  if (!json_is_string(content) || json_string_length(content) == 0) return ti_error_set(err, TI_ERR_FORMAT, "content: expected a text");
  const char *s = json_string_value(content);
  size_t n = json_string_length(content);
  uint8_t flags = TOK_PRESENT | TOK_ADDED | (a.special ? TOK_SPECIAL : 0);
  if (id < b->n && b->flags[id] == TOK_PRESENT && b->items[id].n == n && memcmp(b->items[id].s, s, n) == 0) {
    b->flags[id] = flags;
  } else {
    st = ti_tok_build_put(b, id, s, n, flags, err);
  }
  a.id = (int32_t)id;
  if (st == TI_OK) t->added[t->n_added++] = a;
  return st;
}

static ti_status read_added(ti_tokenizer *t, tok_build *b, const json_t *root, ti_error *err) {
  const json_t *list = json_object_get(root, "added_tokens");
  if (!list || json_is_null(list)) return TI_OK;
  if (!json_is_array(list)) return ti_error_set(err, TI_ERR_FORMAT, "added_tokens: expected a list");
  size_t n = json_array_size(list);
  if (n > MAX_ADDED) return ti_error_set(err, TI_ERR_RANGE, "added_tokens: %zu; at most %d are allowed", n, MAX_ADDED);
  t->added = calloc(n + 1, sizeof *t->added);
  if (!t->added) return ti_error_set(err, TI_ERR_NOMEM, "added_tokens: out of memory");
  for (size_t i = 0; i < n; i++) {
    if (read_added_one(t, b, json_array_get(list, i), err) != TI_OK) return ti_error_prefix(err, "added_tokens[%zu]", i);
  }
  return TI_OK;
}

// "left right" or [left, right]
static ti_status read_merge(ti_tokenizer *t, const json_t *m, ti_error *err) {
  if (json_is_string(m)) {
    const char *s = json_string_value(m), *space = strchr(s, ' ');
    if (!space) return ti_error_set(err, TI_ERR_FORMAT, "expected \"left right\", got \"%.64s\"", s);
    return ti_tok_build_merge(t, s, (size_t)(space - s), space + 1, strlen(space + 1), err);
  }
  const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);
  if (json_array_size(m) != 2 || !json_is_string(l) || !json_is_string(r))
    return ti_error_set(err, TI_ERR_FORMAT, "expected \"left right\" or [left, right]");
  return ti_tok_build_merge(t, json_string_value(l), json_string_length(l), json_string_value(r), json_string_length(r), err);
}

static ti_status read_merges(ti_tokenizer *t, const json_t *model, ti_error *err) {
  const json_t *list = json_object_get(model, "merges");
  if (!json_is_array(list)) return ti_error_set(err, TI_ERR_FORMAT, "model.merges: expected a list");
  size_t n = json_array_size(list);
  if (n > MAX_MERGES) return ti_error_set(err, TI_ERR_RANGE, "model.merges: %zu; at most %d are allowed", n, MAX_MERGES);
  if (ti_tok_bpe_init(&t->bpe, (uint32_t)n) != TI_OK) return ti_error_set(err, TI_ERR_NOMEM, "model.merges: out of memory");
  for (size_t i = 0; i < n; i++) {
    if (read_merge(t, json_array_get(list, i), err) != TI_OK) return ti_error_prefix(err, "model.merges[%zu]", i);
  }
  return TI_OK;
}

static ti_status read_options(ti_tokenizer *t, const json_t *model, ti_error *err) {
  const char *unk = NULL;
  ti_status st = ti_json_bool(model, "byte_fallback", &t->bpe.byte_fallback, err);
  if (st == TI_OK) st = ti_json_bool(model, "fuse_unk", &t->bpe.fuse_unk, err);
  if (st == TI_OK) st = ti_json_bool(model, "ignore_merges", &t->bpe.ignore_merges, err);
  if (st == TI_OK && !json_is_null(json_object_get(model, "unk_token"))) st = ti_json_str(model, "unk_token", &unk, err);
  if (st != TI_OK) return ti_error_prefix(err, "model");
  if (!unk) return TI_OK;
  t->bpe.unk = ti_tok_vocab_find(&t->vocab, unk, strlen(unk));
  return t->bpe.unk >= 0 ? TI_OK : ti_error_set(err, TI_ERR_FORMAT, "model.unk_token: \"%.64s\" is not in the vocabulary", unk);
}

static ti_status read_pipeline(ti_tokenizer *t, const json_t *root, ti_error *err) {
  static const struct {
    const char *key;
    ti_status (*load)(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);
  } sections[] = {{"normalizer", ti_tok_load_normalizer},
                  {"pre_tokenizer", ti_tok_load_pre_tokenizer},
                  {"post_processor", ti_tok_load_post_processor},
                  {"decoder", ti_tok_load_decoder}};
  for (int i = 0; i < 4; i++) {
    const json_t *j = json_object_get(root, sections[i].key);
    if (!j || json_is_null(j)) continue;
    ti_status st = sections[i].load(t, j, sections[i].key, err);
    if (st != TI_OK) return st;
  }
  return TI_OK;
}

static ti_status from_json(const json_t *root, ti_tokenizer **out, ti_error *err) {
  const json_t *model = json_object_get(root, "model");
  ti_status st = check_model(model, err);
  if (st != TI_OK) return st;
  tok_build b = {0};
  ti_tokenizer *t = ti_tok_alloc();
  if (!t) return ti_error_set(err, TI_ERR_NOMEM, "tokenizer: out of memory");
  st = read_vocab(model, &b, err);
  if (st == TI_OK) st = read_added(t, &b, root, err);
  if (st == TI_OK) st = ti_tok_vocab_init(&t->vocab, b.items, b.flags, b.n, err);
  if (st == TI_OK) st = read_options(t, model, err);
  if (st == TI_OK) st = read_merges(t, model, err);
  if (st == TI_OK) st = read_pipeline(t, root, err);
  if (st == TI_OK) st = ti_tok_build_finish(t, err);
  ti_tok_build_fini(&b);
  if (st != TI_OK) {
    ti_tokenizer_destroy(t);
    return st;
  }
  *out = t;
  return TI_OK;
}

ti_status ti_tokenizer_create(const char *json, size_t n, ti_tokenizer **out, ti_error *err) {
  json_t *root;
  if (n > TI_TOK_MAX_FILE_BYTES)
    return ti_error_set(err, TI_ERR_RANGE, "tokenizer.json: %zu bytes; at most %u are allowed", n, TI_TOK_MAX_FILE_BYTES);
  ti_status st = ti_json_parse(json, n, &root, err);
  if (st == TI_OK) {
    st = from_json(root, out, err);
    json_decref(root);
  }
  return st == TI_OK ? TI_OK : ti_error_prefix(err, "tokenizer.json");
}

static ti_status load_gguf(const char *path, ti_tokenizer **out, ti_error *err) {
  ti_gguf *g;
  ti_status st = ti_gguf_open(path, &g, err);
  if (st != TI_OK) return st;
  if ((st = ti_gguf_tokenizer(g, out, err)) != TI_OK) ti_error_prefix(err, "%s", path);
  ti_gguf_close(g);
  return st;
}

ti_status ti_tokenizer_load(const char *path, ti_tokenizer **out, ti_error *err) {
  char file[4096], dir[4096];
  struct stat sb;
  bool is_dir = stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
  if (!is_dir && ti_gguf_is_file(path)) return load_gguf(path, out, err);
  const char *slash = strrchr(path, '/');
  int n = is_dir ? snprintf(file, sizeof file, "%s/tokenizer.json", path) : snprintf(file, sizeof file, "%s", path);
  int m = is_dir  ? snprintf(dir, sizeof dir, "%s", path)
          : slash ? snprintf(dir, sizeof dir, "%.*s", (int)(slash - path) + 1, path)
                  : snprintf(dir, sizeof dir, ".");
  if (n >= (int)sizeof file || m >= (int)sizeof dir) return ti_error_set(err, TI_ERR_RANGE, "tokenizer: the path is too long");
  json_t *root = NULL;
  ti_tokenizer *t = NULL;
  ti_status st = ti_json_load_file(file, TI_TOK_MAX_FILE_BYTES, &root, err);
  if (st != TI_OK) return st;
  st = from_json(root, &t, err);
  json_decref(root);
  if (st == TI_OK) st = ti_tok_load_configs(t, dir, err);
  if (st != TI_OK) {
    ti_tokenizer_destroy(t);
    return ti_error_prefix(err, "%s", file);
  }
  *out = t;
  return TI_OK;
}
