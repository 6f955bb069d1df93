// Added tokens ("<|im_start|>", "<tool_call>") in a text: a trie of bytes, walked from every position whose byte starts one; the longest match
// at the leftmost place wins. O(n) for real sets, O(n * longest token) at worst. Built at load, then read-only.
#include <stdlib.h>
#include <utf8proc.h>

#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

static ti_status new_node(tok_trie *t, unsigned char byte, uint32_t *out) {
  if (t->n == t->cap) {
    uint32_t cap = t->cap ? t->cap * 2 : 256;
    tok_trie_node *nodes = realloc(t->nodes, cap * sizeof *nodes);
    if (!nodes) return TI_ERR_NOMEM;
    t->nodes = nodes;
    t->cap = cap;
    if (t->n == 0) t->nodes[t->n++] = (tok_trie_node){.added = -1};
  }
  t->nodes[t->n] = (tok_trie_node){.added = -1, .byte = byte};
  *out = t->n++;
  return TI_OK;
}

static uint32_t child_of(const tok_trie *t, uint32_t node, unsigned char byte) {
  uint32_t c = t->nodes[node].child;
  while (c && t->nodes[c].byte != byte) c = t->nodes[c].sibling;
  return c;
}

ti_status ti_tok_trie_put(tok_trie *t, const char *s, size_t n, int32_t added) {
  uint32_t node = 0;
  for (size_t i = 0; i < n; i++) {
    unsigned char b = (unsigned char)s[i];
    uint32_t next = i == 0 ? t->root[b] : child_of(t, node, b);
    if (!next) {
      ti_status st = new_node(t, b, &next);
      if (st != TI_OK) return st;
      if (i == 0) {
        t->root[b] = next;
      } else {
        t->nodes[next].sibling = t->nodes[node].child;
        t->nodes[node].child = next;
      }
    }
    node = next;
  }
  if (node) t->nodes[node].added = added;
  return TI_OK;
}

void ti_tok_trie_fini(tok_trie *t) {
  free(t->nodes);
  *t = (tok_trie){0};
}

static bool is_space(uint32_t cp) {
  return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 ||
         cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static bool is_word(uint32_t cp) {
  utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
  return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ND) || c == UTF8PROC_CATEGORY_PC;
}

// The character that ends at text[end], end > from; *start is where it begins.
static uint32_t char_before(const char *text, size_t from, size_t end, size_t *start) {
  size_t i = end - 1;
  while (i > from && ((unsigned char)text[i] & 0xC0) == 0x80) i--;
  uint32_t cp = 0;
  ti_utf8_scan((const unsigned char *)text + i, end - i, &cp);
  *start = i;
  return cp;
}

static uint32_t char_at(const char *text, size_t n, size_t i, size_t *end) {
  uint32_t cp = 0;
  int k = ti_utf8_scan((const unsigned char *)text + i, n - i, &cp);
  *end = i + (size_t)(k > 0 ? k : 1);
  return cp;
}

static bool stands_alone(const char *text, size_t n, const tok_hit *h) {
  size_t unused;
  if (h->start > 0 && is_word(char_before(text, 0, h->start, &unused))) return false;
  return h->end == n || !is_word(char_at(text, n, h->end, &unused));
}

static void widen(const tok_added *a, const char *text, size_t n, size_t from, tok_hit *h) {
  size_t at;
  while (a->lstrip && h->start > from && is_space(char_before(text, from, h->start, &at))) h->start = at;
  while (a->rstrip && h->end < n && is_space(char_at(text, n, h->end, &at))) h->end = at;
}

bool ti_tok_trie_next(const tok_trie *t, const char *text, size_t n, size_t from, bool parse_special, tok_hit *hit) {
  if (t->n == 0) return false;
  for (size_t i = from; i < n; i++) {
    uint32_t node = t->root[(unsigned char)text[i]];
    int32_t best = -1;
    size_t end = i;
    for (size_t j = i + 1; node; j++) {
      int32_t a = t->nodes[node].added;
      if (a >= 0 && (parse_special || !t->added[a].special)) best = a, end = j;
      node = j < n ? child_of(t, node, (unsigned char)text[j]) : 0;
    }
    if (best < 0) continue;
    const tok_added *a = &t->added[best];
    *hit = (tok_hit){i, end, a->id};
    if (a->single_word && !stands_alone(text, n, hit)) {
      i = end - 1;
      continue;
    }
    widen(a, text, n, from, hit);
    return true;
  }
  return false;
}
