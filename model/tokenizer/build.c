// What every source of a tokenizer (tokenizer.json, GGUF tables) shares: collect tokens by id, then merges, then make the derived tables.
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"

ti_status ti_tok_build_put(tok_build *b, int64_t id, const char *s, size_t n, uint8_t flags, ti_error *err) {
  if (id < 0 || id >= TI_TOK_MAX_VOCAB)
    return ti_error_set(err, TI_ERR_RANGE, "token \"%.*s\": id %lld; 0..%d are allowed", (int)(n < 64 ? n : 64), s, (long long)id,
                        TI_TOK_MAX_VOCAB - 1);
  if (n > TI_TOK_MAX_TOKEN_BYTES)
    return ti_error_set(err, TI_ERR_RANGE, "token %lld: %zu bytes; at most %d are allowed", (long long)id, n, TI_TOK_MAX_TOKEN_BYTES);
  if (id >= b->cap) {
    uint32_t cap = b->cap ? b->cap : 1024;
    while (cap <= id) cap *= 2;
    ti_tok_text *items = realloc(b->items, cap * sizeof *items);
    if (items) b->items = items;
    uint8_t *fl = realloc(b->flags, cap);
    if (fl) b->flags = fl;
    if (!items || !fl) return ti_error_set(err, TI_ERR_NOMEM, "vocabulary of %u tokens: out of memory", cap);
    memset(b->flags + b->cap, 0, cap - b->cap);
    b->cap = cap;
  }
  if (b->flags[id])
    return ti_error_set(err, TI_ERR_FORMAT, "id %lld has two tokens, \"%.*s\" and \"%.*s\"", (long long)id,
                        (int)(b->items[id].n < 64 ? b->items[id].n : 64), b->items[id].s, (int)(n < 64 ? n : 64), s);
  b->items[id] = (ti_tok_text){s, n};
  b->flags[id] = flags;
  if (b->n <= id) b->n = (uint32_t)id + 1;
  return TI_OK;
}

void ti_tok_build_fini(tok_build *b) {
  free(b->items);
  free(b->flags);
  *b = (tok_build){0};
}

ti_tokenizer *ti_tok_alloc(void) {
  static atomic_uint_fast64_t serial;
  ti_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->serial = atomic_fetch_add(&serial, 1) + 1;
  t->bos = t->pad = t->bpe.unk = -1;
  return t;
}

void ti_tokenizer_destroy(ti_tokenizer *t) {
  if (!t) return;
  ti_tok_vocab_fini(&t->vocab);
  free(t->piece.data);
  free(t->piece.off);
  ti_tok_bpe_fini(&t->bpe);
  ti_tok_norms_fini(&t->norm);
  ti_tok_norms_fini(&t->pre_norm);
  for (size_t i = 0; i < t->n_splits; i++) ti_tok_pattern_fini(&t->splits[i].pattern);
  ti_tok_trie_fini(&t->raw);
  ti_tok_trie_fini(&t->normalized);
  free(t->added);
  for (size_t i = 0; i < t->decoder.n_replace; i++) {
    free((char *)t->decoder.replace[i].from.s);
    free((char *)t->decoder.replace[i].to.s);
  }
  free(t);
}

ti_status ti_tok_build_merge(ti_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, ti_error *err) {
  char both[2 * TI_TOK_MAX_TOKEN_BYTES];
  if (n_left == 0 || n_right == 0 || n_left > TI_TOK_MAX_TOKEN_BYTES || n_right > TI_TOK_MAX_TOKEN_BYTES)
    return ti_error_set(err, TI_ERR_FORMAT, "expected two tokens of 1..%d bytes", TI_TOK_MAX_TOKEN_BYTES);
  memcpy(both, left, n_left);
  memcpy(both + n_left, right, n_right);
  int32_t l = ti_tok_vocab_find(&t->vocab, left, n_left), r = ti_tok_vocab_find(&t->vocab, right, n_right),
          made = ti_tok_vocab_find(&t->vocab, both, n_left + n_right);
  if (l < 0) return ti_error_set(err, TI_ERR_FORMAT, "\"%.*s\" is not in the vocabulary", (int)(n_left < 64 ? n_left : 64), left);
  if (r < 0) return ti_error_set(err, TI_ERR_FORMAT, "\"%.*s\" is not in the vocabulary", (int)(n_right < 64 ? n_right : 64), right);
  if (made < 0)
    return ti_error_set(err, TI_ERR_FORMAT, "its result \"%.*s\" is not in the vocabulary", (int)(n_left + n_right < 64 ? n_left + n_right : 64),
                        both);
  // A special token never comes out of merging text: only asking for it (TI_TOK_PARSE_SPECIAL) makes one.
  if ((t->vocab.flags[made] & TOK_SPECIAL) == 0) ti_tok_bpe_add(&t->bpe, l, r, made);
  return TI_OK;
}

// An added token that is looked for in normalized text is itself normalized first.
static ti_status put_added(ti_tokenizer *t, ti_tok_scratch *s, size_t i) {
  const tok_added *a = &t->added[i];
  ti_tok_text text = ti_tok_blob_get(&t->vocab.spell, (uint32_t)a->id);
  if (!a->normalized) return ti_tok_trie_put(&t->raw, text.s, text.n, (int32_t)i);
  ti_status st = ti_tok_normalize(&t->norm, s, s->norm, true, &text);
  return st == TI_OK ? ti_tok_trie_put(&t->normalized, text.s, text.n, (int32_t)i) : st;
}

ti_status ti_tok_build_finish(ti_tokenizer *t, ti_error *err) {
  ti_tok_scratch *s;
  ti_status st = ti_tok_scratch_create(&s);
  if (st != TI_OK) return ti_error_set(err, st, "added_tokens: out of memory");
  t->raw.added = t->normalized.added = t->added;
  for (size_t i = 0; i < t->n_added && st == TI_OK; i++) {
    st = put_added(t, s, i);
    if (st != TI_OK) ti_error_set(err, st, "added_tokens[%zu]: %s", i, ti_status_text(st));
  }
  ti_tok_scratch_destroy(s);
  if (st == TI_OK) st = ti_tok_pieces_init(t, err);
  if (st == TI_OK) st = ti_tok_bpe_finish(t, err);
  return st;
}

ti_status ti_tok_add_eos(ti_tokenizer *t, int32_t id) {
  if (id < 0 || ti_tokenizer_is_eos(t, id)) return TI_OK;
  if (t->n_eos == TI_TOK_MAX_EOS) return TI_ERR_FULL;
  t->eos[t->n_eos++] = id;
  return TI_OK;
}

// ---- pipeline steps ----

ti_status ti_tok_add_split(ti_tokenizer *t, tok_pattern *take, tok_behavior behavior, bool invert, ti_error *err) {
  if (t->n_splits == TOK_MAX_STEPS) {
    ti_tok_pattern_fini(take);
    return ti_error_set(err, TI_ERR_RANGE, "more than %d splits", TOK_MAX_STEPS);
  }
  t->splits[t->n_splits++] = (tok_split){*take, behavior, invert};
  return TI_OK;
}

ti_status ti_tok_add_regex_split(ti_tokenizer *t, const char *re, ti_error *err) {
  tok_pattern p = {0};
  ti_status st = ti_tok_pattern_regex(&p, re, strlen(re), err);
  return st == TI_OK ? ti_tok_add_split(t, &p, TOK_ISOLATED, false, err) : st;
}

static char *copy(const char *s, size_t n) {
  char *p = malloc(n + 1);
  if (!p) return NULL;
  if (n) memcpy(p, s, n);
  p[n] = 0;
  return p;
}

static ti_status add_step(tok_norms *to, tok_norm step, const char *text, size_t n, ti_error *err) {
  if (to->n == TOK_MAX_STEPS) return ti_error_set(err, TI_ERR_RANGE, "more than %d steps", TOK_MAX_STEPS);
  if (n > TI_TOK_MAX_TOKEN_BYTES) return ti_error_set(err, TI_ERR_RANGE, "a text of %zu bytes; at most %d are allowed", n, TI_TOK_MAX_TOKEN_BYTES);
  step.text = copy(text, n);
  step.n_text = n;
  if (!step.text) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  to->v[to->n++] = step;
  return TI_OK;
}

ti_status ti_tok_add_prepend(tok_norms *to, const char *s, size_t n, bool unless_there, bool first_only, ti_error *err) {
  return add_step(to, (tok_norm){.kind = TOK_NORM_PREPEND, .unless_there = unless_there, .first_only = first_only}, s, n, err);
}

ti_status ti_tok_add_replace(tok_norms *to, tok_pattern *take, const char *with, size_t n, ti_error *err) {
  ti_status st = add_step(to, (tok_norm){.kind = TOK_NORM_REPLACE, .pattern = *take}, with, n, err);
  if (st != TI_OK) ti_tok_pattern_fini(take);
  return st;
}

ti_status ti_tok_add_nfc(tok_norms *to, ti_error *err) { return add_step(to, (tok_norm){.kind = TOK_NORM_NFC}, "", 0, err); }

ti_status ti_tok_add_decoder_replace(tok_decoder *d, const char *from, size_t n_from, const char *with, size_t n_with, ti_error *err) {
  if (d->n_replace == TOK_MAX_REPLACE) return ti_error_set(err, TI_ERR_RANGE, "more than %d Replace decoders", TOK_MAX_REPLACE);
  if (n_from == 0 || n_from > 64 || n_with > 64) return ti_error_set(err, TI_ERR_RANGE, "Replace: texts of 1..64 bytes are allowed");
  d->replace[d->n_replace].from = (ti_tok_text){copy(from, n_from), n_from};
  d->replace[d->n_replace].to = (ti_tok_text){copy(with, n_with), n_with};
  d->n_replace++;
  if (!d->replace[d->n_replace - 1].from.s || !d->replace[d->n_replace - 1].to.s) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  return TI_OK;
}

// ---- what callers ask about the vocabulary ----

size_t ti_tokenizer_vocab_size(const ti_tokenizer *t) { return t->vocab.n; }

ti_tok_text ti_tokenizer_piece(const ti_tokenizer *t, int32_t id) {
  return id >= 0 && (uint32_t)id < t->vocab.n ? ti_tok_blob_get(&t->piece, (uint32_t)id) : (ti_tok_text){"", 0};
}

ti_tok_text ti_tokenizer_spelling(const ti_tokenizer *t, int32_t id) {
  return id >= 0 && (uint32_t)id < t->vocab.n ? ti_tok_blob_get(&t->vocab.spell, (uint32_t)id) : (ti_tok_text){"", 0};
}

int32_t ti_tokenizer_id(const ti_tokenizer *t, const char *spelling, size_t n) { return ti_tok_vocab_find(&t->vocab, spelling, n); }

bool ti_tokenizer_is_special(const ti_tokenizer *t, int32_t id) {
  return id >= 0 && (uint32_t)id < t->vocab.n && (t->vocab.flags[id] & TOK_SPECIAL) != 0;
}

int32_t ti_tokenizer_bos(const ti_tokenizer *t) { return t->bos; }
int32_t ti_tokenizer_pad(const ti_tokenizer *t) { return t->pad; }

size_t ti_tokenizer_eos(const ti_tokenizer *t, const int32_t **out) {
  *out = t->eos;
  return t->n_eos;
}

bool ti_tokenizer_is_eos(const ti_tokenizer *t, int32_t id) {
  for (size_t i = 0; i < t->n_eos; i++)
    if (t->eos[i] == id) return true;
  return false;
}

bool ti_tokenizer_adds_bos(const ti_tokenizer *t) { return t->n_prefix > 0 && t->prefix[0] == t->bos; }
