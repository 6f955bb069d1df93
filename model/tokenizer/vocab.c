// The vocabulary: one blob of spellings in id order and an open-addressed index over it. Written at load, then read by any thread.
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/tokenizer/tok_priv.h"

static uint64_t hash_bytes(const char *s, size_t n) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ n, w;
  for (; n >= 8; s += 8, n -= 8) {
    memcpy(&w, s, 8);
    h = ti_tok_mix(h ^ w);
  }
  w = 0;
  if (n) memcpy(&w, s, n);
  return ti_tok_mix(ti_tok_mix(h ^ w));
}

ti_tok_text ti_tok_blob_get(const tok_blob *b, uint32_t i) { return (ti_tok_text){b->data + b->off[i], b->off[i + 1] - b->off[i]}; }

ti_status ti_tok_index_init(tok_index *x, uint32_t n_items) {
  uint32_t size = 16;
  while (size < 2 * (n_items + 1)) size *= 2;  // n_items <= TI_TOK_MAX_VOCAB: no overflow
  x->slots = calloc(size, sizeof *x->slots);
  if (!x->slots) return TI_ERR_NOMEM;
  x->mask = size - 1;
  return TI_OK;
}

// The slot of the item equal to s[n], or the free one where it belongs.
static uint32_t *slot_of(const tok_index *x, const tok_blob *b, const char *s, size_t n) {
  for (uint32_t at = (uint32_t)hash_bytes(s, n) & x->mask;; at = (at + 1) & x->mask) {
    if (!x->slots[at]) return &x->slots[at];
    ti_tok_text t = ti_tok_blob_get(b, x->slots[at] - 1);
    if (t.n == n && memcmp(t.s, s, n) == 0) return &x->slots[at];
  }
}

uint32_t ti_tok_index_put(tok_index *x, const tok_blob *b, uint32_t i) {
  ti_tok_text t = ti_tok_blob_get(b, i);
  uint32_t *slot = slot_of(x, b, t.s, t.n);
  if (!*slot) *slot = i + 1;
  return *slot - 1;
}

int32_t ti_tok_index_find(const tok_index *x, const tok_blob *b, const char *s, size_t n) { return (int32_t)*slot_of(x, b, s, n) - 1; }

static ti_status fill_blob(tok_vocab *v, const ti_tok_text *items, const uint8_t *flags) {
  size_t total = 0;
  for (uint32_t i = 0; i < v->n; i++) total += flags[i] ? items[i].n : 0;
  v->spell.off = malloc((v->n + (size_t)1) * sizeof *v->spell.off);
  v->spell.data = malloc(total + 1);
  if (!v->spell.off || !v->spell.data || total > UINT32_MAX) return TI_ERR_NOMEM;
  size_t at = 0;
  for (uint32_t i = 0; i < v->n; i++) {
    v->spell.off[i] = (uint32_t)at;
    if (!flags[i]) continue;
    memcpy(v->spell.data + at, items[i].s, items[i].n);
    at += items[i].n;
  }
  v->spell.off[v->n] = (uint32_t)at;
  return TI_OK;
}

ti_status ti_tok_vocab_init(tok_vocab *v, const ti_tok_text *items, const uint8_t *flags, uint32_t n, ti_error *err) {
  v->n = n;
  v->flags = malloc(n ? n : 1);
  if (!v->flags || fill_blob(v, items, flags) != TI_OK || ti_tok_index_init(&v->index, n) != TI_OK)
    return ti_error_set(err, TI_ERR_NOMEM, "vocabulary of %u tokens: out of memory", n);
  if (n) memcpy(v->flags, flags, n);
  for (uint32_t i = 0; i < n; i++) {
    if (!flags[i]) continue;
    ti_tok_text t = ti_tok_blob_get(&v->spell, i);
    uint32_t first = ti_tok_index_put(&v->index, &v->spell, i);
    if (first != i) return ti_error_set(err, TI_ERR_FORMAT, "token \"%.*s\" has two ids, %u and %u", (int)(t.n < 64 ? t.n : 64), t.s, first, i);
  }
  return TI_OK;
}

void ti_tok_vocab_fini(tok_vocab *v) {
  free(v->flags);
  free(v->spell.data);
  free(v->spell.off);
  free(v->index.slots);
  *v = (tok_vocab){0};
}

int32_t ti_tok_vocab_find(const tok_vocab *v, const char *s, size_t n) { return ti_tok_index_find(&v->index, &v->spell, s, n); }

void ti_ids_init(ti_ids *ids, size_t max_ids) { *ids = (ti_ids){.max = max_ids}; }

void ti_ids_fini(ti_ids *ids) {
  free(ids->v);
  *ids = (ti_ids){0};
}

ti_status ti_ids_push(ti_ids *ids, int32_t id) {
  if (ids->n >= ids->max) return TI_ERR_FULL;
  if (ids->n == ids->cap) {
    size_t cap = ti_size_min(ids->cap ? ids->cap * 2 : 64, ids->max), bytes;
    if (!ti_size_mul(cap, sizeof *ids->v, &bytes)) return TI_ERR_NOMEM;
    int32_t *v = realloc(ids->v, bytes);
    if (!v) return TI_ERR_NOMEM;
    ids->v = v;
    ids->cap = cap;
  }
  ids->v[ids->n++] = id;
  return TI_OK;
}
