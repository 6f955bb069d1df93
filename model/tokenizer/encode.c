// Encoding, the order of things, and the scratch that it works in:
//
//   text -> valid UTF-8 -> segments between added tokens (raw) -> normalize -> segments between added tokens (normalized)
//        -> pre-tokenize -> BPE -> ids
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

enum { KEEP_BYTES = 4 << 20 };  // a scratch buffer larger than this is given back after the text that wanted it

ti_status ti_tok_scratch_create(ti_tok_scratch **out) {
  ti_tok_scratch *s = calloc(1, sizeof *s);
  if (!s) return TI_ERR_NOMEM;
  s->cache = calloc(CACHE_SLOTS, sizeof *s->cache);
  s->match = pcre2_match_data_create(1, NULL);
  s->context = pcre2_match_context_create(NULL);
  s->jit_stack = pcre2_jit_stack_create(32 << 10, 1 << 20, NULL);
  if (!s->cache || !s->match || !s->context || !s->jit_stack) {
    ti_tok_scratch_destroy(s);
    return TI_ERR_NOMEM;
  }
  pcre2_jit_stack_assign(s->context, NULL, s->jit_stack);
  pcre2_set_heap_limit(s->context, 64 << 10);  // KiB, for the interpreter
  ti_buf *bufs[] = {&s->text, &s->norm[0], &s->norm[1], &s->pre[0], &s->pre[1]};
  for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) ti_buf_init(bufs[i], 4 * (size_t)TI_TOK_MAX_TEXT_BYTES - 1);
  *out = s;
  return TI_OK;
}

static void trim(ti_tok_scratch *s, size_t keep) {
  ti_buf *bufs[] = {&s->text, &s->norm[0], &s->norm[1], &s->pre[0], &s->pre[1]};
  for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) {
    size_t max = bufs[i]->max;
    if (bufs[i]->cap <= keep) continue;
    ti_buf_fini(bufs[i]);
    ti_buf_init(bufs[i], max);
  }
  for (int i = 0; i < 2; i++) {
    if (s->spans[i].cap * sizeof *s->spans[i].v <= keep) continue;
    free(s->spans[i].v);
    s->spans[i] = (tok_spans){0};
  }
  if (s->cap_syms * sizeof *s->syms > keep) {
    free(s->syms);
    s->syms = NULL, s->cap_syms = 0;
  }
  if (s->cap_heap * sizeof *s->heap > keep) {
    free(s->heap);
    s->heap = NULL, s->cap_heap = 0;
  }
}

void ti_tok_scratch_destroy(ti_tok_scratch *s) {
  if (!s) return;
  trim(s, 0);
  free(s->cache);
  pcre2_match_data_free(s->match);
  pcre2_match_context_free(s->context);
  pcre2_jit_stack_free(s->jit_stack);
  free(s);
}

static ti_status encode_plain(const ti_tokenizer *t, ti_tok_scratch *s, ti_tok_text seg, bool first, ti_ids *out) {
  ti_status st = ti_tok_normalize(&t->pre_norm, s, s->pre, first, &seg);
  const tok_spans *spans = NULL;
  if (st == TI_OK) st = ti_tok_pretokenize(t, s, seg.s, seg.n, &spans);
  for (size_t i = 0; st == TI_OK && i < spans->n; i++) st = ti_tok_bpe_encode(t, s, seg.s + spans->v[i].off, spans->v[i].len, out);
  return st;
}

// A segment without raw added tokens: normalize it, then cut out those that are looked for in normalized text.
static ti_status encode_segment(const ti_tokenizer *t, ti_tok_scratch *s, ti_tok_text seg, bool first, bool special, ti_ids *out) {
  if (seg.n == 0) return TI_OK;
  ti_status st = ti_tok_normalize(&t->norm, s, s->norm, first, &seg);
  size_t at = 0;
  tok_hit hit;
  while (st == TI_OK && ti_tok_trie_next(&t->normalized, seg.s, seg.n, at, special, &hit)) {
    if (hit.start > at) st = encode_plain(t, s, (ti_tok_text){seg.s + at, hit.start - at}, first && at == 0, out);
    if (st == TI_OK) st = ti_ids_push(out, hit.id);
    at = hit.end;
  }
  if (st == TI_OK && at < seg.n) st = encode_plain(t, s, (ti_tok_text){seg.s + at, seg.n - at}, first && at == 0, out);
  return st;
}

static ti_status encode_text(const ti_tokenizer *t, ti_tok_scratch *s, const char *text, size_t n, bool special, ti_ids *out) {
  size_t at = 0;
  tok_hit hit;
  ti_status st = TI_OK;
  while (st == TI_OK && ti_tok_trie_next(&t->raw, text, n, at, special, &hit)) {
    st = encode_segment(t, s, (ti_tok_text){text + at, hit.start - at}, at == 0, special, out);
    if (st == TI_OK) st = ti_ids_push(out, hit.id);
    at = hit.end;
  }
  return st == TI_OK ? encode_segment(t, s, (ti_tok_text){text + at, n - at}, at == 0, special, out) : st;
}

static ti_status push_ids(ti_ids *out, const int32_t *ids, size_t n) {
  ti_status st = TI_OK;
  for (size_t i = 0; i < n && st == TI_OK; i++) st = ti_ids_push(out, ids[i]);
  return st;
}

ti_status ti_tokenizer_encode(const ti_tokenizer *t, ti_tok_scratch *s, const char *text, size_t n, unsigned flags, ti_ids *out, ti_error *err) {
  if (n > TI_TOK_MAX_TEXT_BYTES)
    return ti_error_set(err, TI_ERR_RANGE, "text of %zu bytes: at most %u are tokenized at once", n, TI_TOK_MAX_TEXT_BYTES);
  if (s->serial != t->serial) {
    memset(s->cache, 0, CACHE_SLOTS * sizeof *s->cache);
    s->serial = t->serial;
  }
  size_t before = out->n;
  ti_status st = TI_OK;
  if (!ti_utf8_valid(text, n)) {
    ti_buf_reset(&s->text);
    st = ti_utf8_append_lossy(&s->text, text, n);
    text = ti_buf_str(&s->text);
    n = s->text.len;
  }
  if (st == TI_OK && (flags & TI_TOK_ADD_SPECIAL)) st = push_ids(out, t->prefix, t->n_prefix);
  if (st == TI_OK) st = encode_text(t, s, text, n, (flags & TI_TOK_PARSE_SPECIAL) != 0, out);
  if (st == TI_OK && (flags & TI_TOK_ADD_SPECIAL)) st = push_ids(out, t->suffix, t->n_suffix);
  trim(s, KEEP_BYTES);
  if (st == TI_OK) return TI_OK;
  out->n = before;
  if (st == TI_ERR_FULL) return ti_error_set(err, st, "the text has more than %zu tokens", out->max - before);
  if (st == TI_ERR_RANGE) return ti_error_set(err, st, "a pre-tokenizer pattern took too many steps on this text");
  return ti_error_set(err, st, "tokenizing %zu bytes: %s", n, ti_status_text(st));
}
