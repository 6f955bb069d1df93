// The four optional sections of tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder. Each is a tree of {"type": ..., ...} nodes;
// Sequence nodes hold others. A kind that is not served is refused by name and place: an unknown step silently skipped would give wrong ids.
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

typedef ti_status (*load_node)(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);

enum { WHERE_BYTES = 160 };

static ti_status node_type(const json_t *j, const char *where, const char **type, ti_error *err) {
  *type = NULL;
  if (!json_is_object(j)) return ti_error_set(err, TI_ERR_FORMAT, "%s: expected an object", where);
  ti_status st = ti_json_str(j, "type", type, err);
  if (st != TI_OK) return ti_error_prefix(err, "%s", where);
  return *type ? TI_OK : ti_error_set(err, TI_ERR_FORMAT, "%s: \"type\" is missing", where);
}

static ti_status unknown_kind(const char *where, const char *type, ti_error *err) {
  return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: unknown kind \"%.64s\"", where, type);
}

static ti_status each(ti_tokenizer *t, const json_t *j, const char *key, const char *where, load_node load, ti_error *err) {
  const json_t *list = json_object_get(j, key);
  if (!json_is_array(list)) return ti_error_set(err, TI_ERR_FORMAT, "%s.%s: expected a list", where, key);
  for (size_t i = 0; i < json_array_size(list); i++) {
    char at[WHERE_BYTES];
    snprintf(at, sizeof at, "%s.%s[%zu]", where, key, i);
    ti_status st = load(t, json_array_get(list, i), at, err);
    if (st != TI_OK) return st;
  }
  return TI_OK;
}

// A string member that must be there. NUL bytes inside are kept.
static ti_status need_text(const json_t *j, const char *key, const char *where, ti_tok_text *out, ti_error *err) {
  const json_t *s = json_object_get(j, key);
  if (!json_is_string(s)) return ti_error_set(err, TI_ERR_FORMAT, "%s.%s: expected a string", where, key);
  *out = (ti_tok_text){json_string_value(s), json_string_length(s)};
  return TI_OK;
}

static ti_status need_bool(const json_t *j, const char *key, bool fallback, const char *where, bool *out, ti_error *err) {
  *out = fallback;
  return ti_json_bool(j, key, out, err) == TI_OK ? TI_OK : ti_error_prefix(err, "%s", where);
}

// {"String": "..."} or {"Regex": "..."}
static ti_status load_pattern(const json_t *j, const char *where, tok_pattern *out, ti_error *err) {
  const json_t *p = json_object_get(j, "pattern"), *re = json_object_get(p, "Regex"), *str = json_object_get(p, "String");
  ti_status st;
  if (json_is_string(re)) {
    st = ti_tok_pattern_regex(out, json_string_value(re), json_string_length(re), err);
  } else if (json_is_string(str)) {
    st = ti_tok_pattern_literal(out, json_string_value(str), json_string_length(str), err);
  } else {
    return ti_error_set(err, TI_ERR_FORMAT, "%s.pattern: expected {\"Regex\": text} or {\"String\": text}", where);
  }
  return st == TI_OK ? TI_OK : ti_error_prefix(err, "%s.pattern", where);
}

// ---- normalizer ----

ti_status ti_tok_load_normalizer(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  const char *type;
  ti_tok_text text = {0};
  ti_status st = node_type(j, where, &type, err);
  if (st != TI_OK) return st;
  if (strcmp(type, "Sequence") == 0) return each(t, j, "normalizers", where, ti_tok_load_normalizer, err);
  if (strcmp(type, "Prepend") == 0) {
    st = need_text(j, "prepend", where, &text, err);
    if (st != TI_OK) return st;
    st = ti_tok_add_prepend(&t->norm, text.s, text.n, false, false, err);
  } else if (strcmp(type, "Replace") == 0) {
    tok_pattern p = {0};
    st = need_text(j, "content", where, &text, err);
    if (st == TI_OK) st = load_pattern(j, where, &p, err);
    if (st != TI_OK) return st;
    st = ti_tok_add_replace(&t->norm, &p, text.s, text.n, err);
  } else if (strcmp(type, "NFC") == 0) {
    st = ti_tok_add_nfc(&t->norm, err);
  } else {
    return unknown_kind(where, type, err);
  }
  return st == TI_OK ? TI_OK : ti_error_prefix(err, "%s", where);
}

// ---- pre_tokenizer ----

static ti_status load_split(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const char *name = NULL;
  bool invert;
  ti_status st = need_bool(j, "invert", false, where, &invert, err);
  if (st == TI_OK && ti_json_str(j, "behavior", &name, err) != TI_OK) return ti_error_prefix(err, "%s", where);
  if (st != TI_OK) return st;
  size_t k = 0;
  while (k < 5 && (!name || strcmp(name, names[k]) != 0)) k++;
  if (k == 5) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s.behavior: unknown kind \"%.64s\"", where, name ? name : "");
  tok_pattern p = {0};
  st = load_pattern(j, where, &p, err);
  return st == TI_OK ? ti_tok_add_split(t, &p, (tok_behavior)k, invert, err) : st;
}

// Steps that change the text's bytes must come before any split: later ones would work on spans.
static ti_status must_be_first(const ti_tokenizer *t, const char *where, const char *what, ti_error *err) {
  if (t->n_splits == 0 && t->pre_norm.n == 0) return TI_OK;
  return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: %s behind another pre-tokenizer", where, what);
}

static ti_status load_byte_level(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  bool prefix, regex;
  ti_status st = need_bool(j, "add_prefix_space", true, where, &prefix, err);
  if (st == TI_OK) st = need_bool(j, "use_regex", true, where, &regex, err);
  if (st == TI_OK && prefix) st = must_be_first(t, where, "add_prefix_space", err);
  if (st == TI_OK && prefix) st = ti_tok_add_prepend(&t->pre_norm, " ", 1, true, false, err);
  if (st == TI_OK && regex) st = ti_tok_add_regex_split(t, TOK_RE_GPT2, err);
  t->bpe.byte_level = true;
  return st;
}

static ti_status load_metaspace(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  ti_tok_text mark = {"\xE2\x96\x81", 3};
  const char *scheme = NULL;
  bool prefix, split;
  ti_status st = must_be_first(t, where, "Metaspace", err);
  if (st == TI_OK && json_object_get(j, "replacement")) st = need_text(j, "replacement", where, &mark, err);
  if (st == TI_OK) st = need_bool(j, "add_prefix_space", true, where, &prefix, err);
  if (st == TI_OK) st = need_bool(j, "split", true, where, &split, err);
  if (st == TI_OK && ti_json_str(j, "prepend_scheme", &scheme, err) != TI_OK) return ti_error_prefix(err, "%s", where);
  if (st != TI_OK) return st;
  if (!scheme) scheme = prefix ? "always" : "never";
  if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0) return unknown_kind(where, scheme, err);
  tok_pattern space = {0}, mark_p = {0};
  st = ti_tok_pattern_literal(&space, " ", 1, err);
  if (st == TI_OK) st = ti_tok_add_replace(&t->pre_norm, &space, mark.s, mark.n, err);
  if (st == TI_OK && strcmp(scheme, "never") != 0) st = ti_tok_add_prepend(&t->pre_norm, mark.s, mark.n, true, strcmp(scheme, "first") == 0, err);
  if (st == TI_OK && split) st = ti_tok_pattern_literal(&mark_p, mark.s, mark.n, err);
  if (st == TI_OK && split) st = ti_tok_add_split(t, &mark_p, TOK_MERGED_NEXT, false, err);
  return st == TI_OK ? TI_OK : ti_error_prefix(err, "%s", where);
}

ti_status ti_tok_load_pre_tokenizer(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  const char *type;
  ti_status st = node_type(j, where, &type, err);
  if (st != TI_OK) return st;
  if (strcmp(type, "Sequence") == 0) return each(t, j, "pretokenizers", where, ti_tok_load_pre_tokenizer, err);
  if (t->bpe.byte_level) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: \"%.64s\" behind ByteLevel", where, type);
  if (strcmp(type, "Split") == 0) return load_split(t, j, where, err);
  if (strcmp(type, "ByteLevel") == 0) return load_byte_level(t, j, where, err);
  if (strcmp(type, "Metaspace") == 0) return load_metaspace(t, j, where, err);
  if (strcmp(type, "Digits") == 0) {
    bool each_one;
    st = need_bool(j, "individual_digits", false, where, &each_one, err);
    return st == TI_OK ? ti_tok_add_regex_split(t, each_one ? "\\p{N}" : "\\p{N}+", err) : st;
  }
  return unknown_kind(where, type, err);
}

// ---- post_processor ----

// The ids of a template's special token: special_tokens[name].ids
static ti_status template_ids(const ti_tokenizer *t, const json_t *j, const json_t *special, const char *where, int32_t *to, size_t *n,
                              ti_error *err) {
  const char *name = json_string_value(json_object_get(special, "id"));
  const json_t *ids = name ? json_object_get(json_object_get(json_object_get(j, "special_tokens"), name), "ids") : NULL;
  if (!json_is_array(ids)) return ti_error_set(err, TI_ERR_FORMAT, "%s.special_tokens: no ids for \"%.64s\"", where, name ? name : "");
  for (size_t i = 0; i < json_array_size(ids); i++) {
    const json_t *id = json_array_get(ids, i);
    json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
    if (v < 0 || v >= t->vocab.n || !t->vocab.flags[v])
      return ti_error_set(err, TI_ERR_RANGE, "%s.special_tokens[\"%.64s\"].ids[%zu]: no such token", where, name, i);
    if (*n == TI_TOK_MAX_TEMPLATE) return ti_error_set(err, TI_ERR_RANGE, "%s.single: more than %d special tokens", where, TI_TOK_MAX_TEMPLATE);
    to[(*n)++] = (int32_t)v;
  }
  return TI_OK;
}

static ti_status load_template(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  const json_t *single = json_object_get(j, "single");
  if (!json_is_array(single)) return ti_error_set(err, TI_ERR_FORMAT, "%s.single: expected a list", where);
  if (t->has_template) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: a second template", where);
  size_t texts = 0;
  for (size_t i = 0; i < json_array_size(single); i++) {
    const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
    ti_status st = TI_OK;
    if (special) {
      st = template_ids(t, j, special, where, texts ? t->suffix : t->prefix, texts ? &t->n_suffix : &t->n_prefix, err);
    } else if (json_object_get(piece, "Sequence")) {
      texts++;
    } else {
      st = ti_error_set(err, TI_ERR_FORMAT, "%s.single[%zu]: expected SpecialToken or Sequence", where, i);
    }
    if (st != TI_OK) return st;
  }
  if (texts != 1) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s.single: the text stands in it %zu times, expected once", where, texts);
  t->has_template = true;
  return TI_OK;
}

ti_status ti_tok_load_post_processor(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  const char *type;
  ti_status st = node_type(j, where, &type, err);
  if (st != TI_OK) return st;
  if (strcmp(type, "Sequence") == 0) return each(t, j, "processors", where, ti_tok_load_post_processor, err);
  if (strcmp(type, "ByteLevel") == 0) return TI_OK;  // it moves offsets only
  if (strcmp(type, "TemplateProcessing") == 0) return load_template(t, j, where, err);
  return unknown_kind(where, type, err);
}

// ---- decoder ----

static ti_status load_strip(tok_decoder *d, const json_t *j, const char *where, ti_error *err) {
  ti_tok_text c = {0};
  int64_t start = 0, stop = 0;
  ti_status st = need_text(j, "content", where, &c, err);
  if (st != TI_OK) return st;
  if (ti_json_int(j, "start", 0, 1000, &start, err) != TI_OK || ti_json_int(j, "stop", 0, 1000, &stop, err) != TI_OK)
    return ti_error_prefix(err, "%s", where);
  if (stop != 0 || c.n != 1 || d->strip_start > 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: Strip is served once, at the start, with an ASCII character", where);
  d->strip_char = *c.s;
  d->strip_start = (uint32_t)start;
  return TI_OK;
}

ti_status ti_tok_load_decoder(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err) {
  tok_decoder *d = &t->decoder;
  const char *type, *scheme = NULL;
  ti_tok_text a = {"\xE2\x96\x81", 3}, b = {0};
  ti_status st = node_type(j, where, &type, err);
  if (st != TI_OK) return st;
  if (strcmp(type, "Sequence") == 0) return each(t, j, "decoders", where, ti_tok_load_decoder, err);
  if (strcmp(type, "Fuse") == 0) return TI_OK;  // pieces are concatenated in any case
  if (strcmp(type, "Strip") == 0) return load_strip(d, j, where, err);
  if (strcmp(type, "ByteLevel") == 0) {
    d->byte_level = true;
    return TI_OK;
  }
  if (strcmp(type, "ByteFallback") == 0) {
    d->byte_fallback = true;
    return TI_OK;
  }
  if (strcmp(type, "Replace") == 0) {
    const json_t *from = json_object_get(json_object_get(j, "pattern"), "String");
    if (!json_is_string(from)) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s.pattern: expected {\"String\": text}", where);
    st = need_text(j, "content", where, &b, err);
    if (st != TI_OK) return st;
    st = ti_tok_add_decoder_replace(d, json_string_value(from), json_string_length(from), b.s, b.n, err);
    return st == TI_OK ? TI_OK : ti_error_prefix(err, "%s", where);
  }
  if (strcmp(type, "Metaspace") == 0) {
    bool prefix;
    if (json_object_get(j, "replacement")) st = need_text(j, "replacement", where, &a, err);
    if (st == TI_OK) st = need_bool(j, "add_prefix_space", true, where, &prefix, err);
    if (st == TI_OK && ti_json_str(j, "prepend_scheme", &scheme, err) != TI_OK) return ti_error_prefix(err, "%s", where);
    if (st == TI_OK) st = ti_tok_add_decoder_replace(d, a.s, a.n, " ", 1, err);
    d->strip_char = ' ';
    d->strip_start = st == TI_OK && (scheme ? strcmp(scheme, "never") != 0 : prefix) ? 1 : 0;
    return st;
  }
  return unknown_kind(where, type, err);
}
