// Byte-pair merging: of all adjacent pairs, merge the one of lowest rank, leftmost first, until no pair has a merge.
//
//   symbols, a linked list in an array:   [h]<->[e]<->[l]<->[l]<->[o]        id -1 = merged into its left neighbour
//   heap of rank << 32 | position:        smallest = next merge; an entry whose pair has changed since is dropped when it comes up
//
// Each merge adds at most two entries, so a pre-token of n symbols takes O(n log n) whatever it holds (a million times one letter included).
// Recent short pre-tokens are looked up in the scratch's cache first: one 64-byte slot a hash, replaced on collision.
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

// ---- tables ----

ti_status ti_tok_bpe_init(tok_bpe *b, uint32_t max_merges) {
  uint32_t size = 16;
  while (size < 2 * (max_merges + 1)) size *= 2;  // max_merges is bounded by the caller: no overflow
  b->pairs = malloc(size * sizeof *b->pairs);
  b->result = malloc((max_merges + (size_t)1) * sizeof *b->result);
  b->parents = malloc((max_merges + (size_t)1) * sizeof *b->parents);
  if (!b->pairs || !b->result || !b->parents) return TI_ERR_NOMEM;
  for (uint32_t i = 0; i < size; i++) b->pairs[i].left = -1;
  b->mask = size - 1;
  return TI_OK;
}

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

// The slot of (left, right), or the free one where it belongs.
static tok_pair *pair_slot(const tok_bpe *b, int32_t left, int32_t right) {
  uint32_t at = (uint32_t)ti_tok_mix(pair_key(left, right) * 0x9E3779B97F4A7C15u) & b->mask;
  while (b->pairs[at].left >= 0 && (b->pairs[at].left != left || b->pairs[at].right != right)) at = (at + 1) & b->mask;
  return &b->pairs[at];
}

void ti_tok_bpe_add(tok_bpe *b, int32_t left, int32_t right, int32_t result) {
  uint32_t rank = b->n_ranks++;
  b->result[rank] = result;
  b->parents[rank] = pair_key(left, right);
  *pair_slot(b, left, right) = (tok_pair){left, right, result, rank};
}

void ti_tok_bpe_fini(tok_bpe *b) {
  free(b->pairs);
  free(b->result);
  free(b->parents);
  free(b->whole.slots);
  free(b->joins);
  *b = (tok_bpe){0};
}

// ---- cutting long texts where no merge can reach across ----
//
// A merge makes a token of the vocabulary, so it can only join characters a|b that stand side by side inside some merge's result. All such
// pairs go through a 64 Ki-bit filter; where a text's pair is not in it, the text can be cut without changing its ids (a false positive only
// makes a longer chunk). Without this a SentencePiece-style tokenizer, which has no pre-tokenizer, would see a whole document as one word.

static uint32_t join_bit(uint32_t a, uint32_t b) { return (uint32_t)(ti_tok_mix(((uint64_t)a << 32 | b) * 0x9E3779B97F4A7C15u) & 0xFFFF); }

static ti_status joins_init(tok_bpe *b, const tok_vocab *v) {
  b->joins = calloc(1024, sizeof *b->joins);
  if (!b->joins) return TI_ERR_NOMEM;
  for (uint32_t r = 0; r < b->n_ranks; r++) {
    ti_tok_text t = ti_tok_blob_get(&v->spell, (uint32_t)b->result[r]);
    uint32_t prev = 0, cp = 0;
    for (size_t i = 0; i < t.n; prev = cp) {
      int k = ti_utf8_scan((const unsigned char *)t.s + i, t.n - i, &cp);
      if (k <= 0) break;  // spellings are valid UTF-8 (jansson, parts.c)
      if (i > 0) b->joins[join_bit(prev, cp) >> 6] |= 1ull << (join_bit(prev, cp) & 63);
      i += (size_t)k;
    }
  }
  return TI_OK;
}

// Cutting is exact only when a chunk's ids do not depend on its neighbours (no run of unknowns to fuse) and spellings are text (no merge of
// "<0x0A>").
static bool may_cut(const tok_bpe *b, const tok_vocab *v) {
  bool all_bytes = b->byte_fallback;
  for (int i = 0; i < 256; i++) all_bytes = all_bytes && b->byte_id[i] >= 0;
  if (b->byte_level || b->ignore_merges || (b->unk >= 0 && b->fuse_unk && !all_bytes)) return false;
  for (uint32_t r = 0; r < b->n_ranks; r++) {
    ti_tok_text l = ti_tok_blob_get(&v->spell, (uint32_t)(b->parents[r] >> 32)), rt = ti_tok_blob_get(&v->spell, (uint32_t)b->parents[r]);
    if (ti_tok_byte_token(l.s, l.n) >= 0 || ti_tok_byte_token(rt.s, rt.n) >= 0) return false;
  }
  return true;
}

static void fill_byte_ids(tok_bpe *b, const tok_vocab *v) {
  static const char hex[] = "0123456789ABCDEF";
  for (unsigned i = 0; i < 256; i++) {
    char s[6] = {'<', '0', 'x', hex[i >> 4], hex[i & 15], '>'};
    size_t n = b->byte_level ? ti_utf8_put(ti_tok_byte_char((unsigned char)i), s) : sizeof s;
    int32_t id = b->byte_level || b->byte_fallback ? ti_tok_vocab_find(v, s, n) : -1;
    b->byte_id[i] = id >= 0 && (v->flags[id] & TOK_SPECIAL) == 0 ? id : -1;
  }
}

ti_status ti_tok_bpe_finish(ti_tokenizer *t, ti_error *err) {
  tok_bpe *b = &t->bpe;
  const tok_vocab *v = &t->vocab;
  fill_byte_ids(b, v);
  if (may_cut(b, v) && joins_init(b, v) != TI_OK) return ti_error_set(err, TI_ERR_NOMEM, "merges: out of memory");
  if (!b->ignore_merges) return TI_OK;
  if (ti_tok_index_init(&b->whole, v->n) != TI_OK) return ti_error_set(err, TI_ERR_NOMEM, "ignore_merges: out of memory");
  for (uint32_t i = 0; i < v->n; i++) {
    if (v->flags[i] == TOK_PRESENT && ti_tok_blob_get(&t->piece, i).n > 0) ti_tok_index_put(&b->whole, &t->piece, i);
  }
  return TI_OK;
}

// ---- symbols of a pre-token ----

static ti_status syms_reserve(ti_tok_scratch *s, size_t n) {
  if (n <= s->cap_syms) return TI_OK;
  size_t cap = n + n / 2 + 64;
  free(s->syms);
  s->syms = malloc(cap * sizeof *s->syms);
  s->cap_syms = s->syms ? cap : 0;
  return s->syms ? TI_OK : TI_ERR_NOMEM;
}

static size_t bytes_to_syms(const tok_bpe *b, const unsigned char *p, size_t n, tok_sym *syms) {
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    int32_t id = b->byte_id[p[i]] >= 0 ? b->byte_id[p[i]] : b->unk;
    if (id < 0 || (id == b->unk && b->fuse_unk && m > 0 && syms[m - 1].id == id)) continue;  // like the reference: no token, no id
    syms[m++].id = id;
  }
  return m;
}

static bool has_all_bytes(const tok_bpe *b, const unsigned char *p, int k) {
  for (int i = 0; i < k; i++)
    if (b->byte_id[p[i]] < 0) return false;
  return true;
}

// A character is its own token, else its bytes' tokens, else unknown (a run of unknowns is one when fuse_unk says so), else nothing.
static size_t chars_to_syms(const ti_tokenizer *t, const unsigned char *p, size_t n, tok_sym *syms) {
  const tok_bpe *b = &t->bpe;
  size_t m = 0;
  bool after_unk = false;
  for (size_t i = 0; i < n;) {
    int k = ti_utf8_scan(p + i, n - i, NULL);
    if (k <= 0) k = 1;  // callers pass valid UTF-8
    int32_t id = ti_tok_vocab_find(&t->vocab, (const char *)p + i, (size_t)k);
    bool unknown = id < 0 || (t->vocab.flags[id] & TOK_SPECIAL) != 0;
    bool as_bytes = unknown && b->byte_fallback && has_all_bytes(b, p + i, k);
    if (!unknown) {
      syms[m++].id = id;
    } else if (as_bytes) {
      for (int j = 0; j < k; j++) syms[m++].id = b->byte_id[p[i + (size_t)j]];
    } else if (b->unk >= 0 && !(after_unk && b->fuse_unk)) {
      syms[m++].id = b->unk;
    }
    after_unk = unknown && !as_bytes;
    i += (size_t)k;
  }
  return m;
}

// ---- the heap ----

static ti_status heap_push(ti_tok_scratch *s, uint64_t e) {
  if (s->n_heap == s->cap_heap) {
    size_t cap = s->cap_heap ? s->cap_heap * 2 : 256;
    uint64_t *h = realloc(s->heap, cap * sizeof *h);
    if (!h) return TI_ERR_NOMEM;
    s->heap = h;
    s->cap_heap = cap;
  }
  size_t i = s->n_heap++;
  for (; i > 0 && s->heap[(i - 1) / 2] > e; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
  s->heap[i] = e;
  return TI_OK;
}

static uint64_t heap_pop(ti_tok_scratch *s) {
  uint64_t top = s->heap[0], last = s->heap[--s->n_heap];
  size_t i = 0;
  for (size_t c = 1; c < s->n_heap; c = 2 * i + 1) {
    if (c + 1 < s->n_heap && s->heap[c + 1] < s->heap[c]) c++;
    if (s->heap[c] >= last) break;
    s->heap[i] = s->heap[c];
    i = c;
  }
  s->heap[i] = last;
  return top;
}

static ti_status push_pair(const tok_bpe *b, ti_tok_scratch *s, int32_t left, int32_t right) {
  if (left < 0 || right < 0) return TI_OK;
  const tok_pair *p = pair_slot(b, s->syms[left].id, s->syms[right].id);
  return p->left < 0 ? TI_OK : heap_push(s, (uint64_t)p->rank << 32 | (uint32_t)left);
}

static ti_status merge_all(const tok_bpe *b, ti_tok_scratch *s, size_t n) {
  tok_sym *y = s->syms;
  ti_status st = TI_OK;
  s->n_heap = 0;
  for (size_t i = 0; i < n; i++) {
    y[i].prev = (int32_t)i - 1;
    y[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
  }
  for (size_t i = 0; i + 1 < n && st == TI_OK; i++) st = push_pair(b, s, (int32_t)i, (int32_t)i + 1);
  while (s->n_heap > 0 && st == TI_OK) {
    uint64_t e = heap_pop(s);
    uint32_t rank = (uint32_t)(e >> 32);
    int32_t at = (int32_t)(uint32_t)e, next = y[at].next;
    if (y[at].id < 0 || next < 0 || pair_key(y[at].id, y[next].id) != b->parents[rank]) continue;
    y[at].id = b->result[rank];
    y[at].next = y[next].next;
    if (y[next].next >= 0) y[y[next].next].prev = at;
    y[next].id = -1;
    st = push_pair(b, s, y[at].prev, at);
    if (st == TI_OK) st = push_pair(b, s, at, y[at].next);
  }
  return st;
}

// ---- one chunk ----

static tok_cached *cache_slot(ti_tok_scratch *s, const char *p, size_t n) {
  uint64_t h = n, w;
  for (size_t i = 0; i < n; i += 8) {
    w = 0;
    memcpy(&w, p + i, n - i < 8 ? n - i : 8);
    h = ti_tok_mix((h ^ w) * 0x9E3779B97F4A7C15u);
  }
  return &s->cache[h & (CACHE_SLOTS - 1)];
}

static ti_status push_all(ti_ids *out, const int32_t *ids, size_t n) {
  ti_status st = TI_OK;
  for (size_t i = 0; i < n && st == TI_OK; i++) st = ti_ids_push(out, ids[i]);
  return st;
}

static ti_status encode_chunk(const ti_tokenizer *t, ti_tok_scratch *s, const char *p, size_t n, ti_ids *out) {
  const tok_bpe *b = &t->bpe;
  if (b->byte_level && n == 1 && b->byte_id[(unsigned char)*p] >= 0) return ti_ids_push(out, b->byte_id[(unsigned char)*p]);
  tok_cached *c = n > 0 && n <= CACHE_KEY ? cache_slot(s, p, n) : NULL;
  if (c && c->n_key == n && memcmp(c->key, p, n) == 0) return push_all(out, c->ids, c->n_ids);
  if (b->ignore_merges) {
    int32_t id = ti_tok_index_find(&b->whole, &t->piece, p, n);
    if (id >= 0) return ti_ids_push(out, id);
  }
  ti_status st = syms_reserve(s, n);
  if (st != TI_OK) return st;
  size_t m = b->byte_level ? bytes_to_syms(b, (const unsigned char *)p, n, s->syms) : chars_to_syms(t, (const unsigned char *)p, n, s->syms);
  st = merge_all(b, s, m);
  size_t first = out->n;
  for (int32_t i = m ? 0 : -1; i >= 0 && st == TI_OK; i = s->syms[i].next) st = ti_ids_push(out, s->syms[i].id);
  size_t made = out->n - first;
  if (st == TI_OK && c && made <= CACHE_IDS) {
    c->n_key = (uint8_t)n;
    c->n_ids = (uint8_t)made;
    memcpy(c->key, p, n);
    if (made) memcpy(c->ids, out->v + first, made * sizeof *c->ids);
  }
  return st;
}

ti_status ti_tok_bpe_encode(const ti_tokenizer *t, ti_tok_scratch *s, const char *p, size_t n, ti_ids *out) {
  const uint64_t *joins = t->bpe.joins;
  if (!joins) return encode_chunk(t, s, p, n, out);
  ti_status st = TI_OK;
  uint32_t prev = 0, cp = 0;
  size_t from = 0;
  for (size_t i = 0; i < n && st == TI_OK; prev = cp) {
    int k = ti_utf8_scan((const unsigned char *)p + i, n - i, &cp);
    if (k <= 0) k = 1;
    if (i > from && !(joins[join_bit(prev, cp) >> 6] >> (join_bit(prev, cp) & 63) & 1)) {
      st = encode_chunk(t, s, p + from, i - from, out);
      from = i;
    }
    i += (size_t)k;
  }
  return st == TI_OK && from < n ? encode_chunk(t, s, p + from, n - from, out) : st;
}
