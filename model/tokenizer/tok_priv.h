// The parts of a tokenizer, private to this folder. Each .c owns one of them:
//
//   load.c  load_pipeline.c  parts.c  build.c   a file's text -> these structs; the only writers
//   vocab.c      spelling <-> id                 added.c      added tokens in a text
//   normalize.c  Prepend, Replace, NFC           pretok.c     regex splits
//   bpe.c        merges                          encode.c     the order of all that
//   decode.c     pieces, incremental decoding
//
// After load everything here but tok_scratch is read-only.
#ifndef TI_MODEL_TOKENIZER_TOK_PRIV_H
#define TI_MODEL_TOKENIZER_TOK_PRIV_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "model/tokenizer.h"

// ---- vocab.c ----

enum { TOK_PRESENT = 1, TOK_SPECIAL = 2, TOK_ADDED = 4 };

// Item i is data[off[i] .. off[i + 1]).
typedef struct tok_blob {
  char *data;
  uint32_t *off;  // [n + 1]
} tok_blob;

// An open-addressed set of blob items: slots hold item + 1, 0 = free; at most half full.
typedef struct tok_index {
  uint32_t *slots;  // [mask + 1]
  uint32_t mask;
} tok_index;

typedef struct tok_vocab {
  uint32_t n;       // the largest id + 1
  uint8_t *flags;   // [n] TOK_*
  tok_blob spell;   // as the file spells them
  tok_index index;  // over spell
} tok_vocab;

// items: n texts, borrowed; flags as above, 0 = no such id. Two ids of one spelling: TI_ERR_FORMAT.
ti_status ti_tok_vocab_init(tok_vocab *v, const ti_tok_text *items, const uint8_t *flags, uint32_t n, ti_error *err);
void ti_tok_vocab_fini(tok_vocab *v);
int32_t ti_tok_vocab_find(const tok_vocab *v, const char *s, size_t n);  // -1: none
ti_tok_text ti_tok_blob_get(const tok_blob *b, uint32_t i);
ti_status ti_tok_index_init(tok_index *x, uint32_t n_items);
// Adds item i unless an equal one is there; returns the one that is in the set now.
uint32_t ti_tok_index_put(tok_index *x, const tok_blob *b, uint32_t i);
int32_t ti_tok_index_find(const tok_index *x, const tok_blob *b, const char *s, size_t n);  // -1: none
static inline uint64_t ti_tok_mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  return x;
}

// ---- bpe.c ----

typedef struct tok_pair {
  int32_t left, right, result;  // left < 0: a free slot
  uint32_t rank;
} tok_pair;

typedef struct tok_bpe {
  tok_pair *pairs;  // [mask + 1], open-addressed by (left, right), at most half full
  uint32_t mask;
  int32_t *result;    // [n_ranks] the token that the merge of a rank makes
  uint64_t *parents;  // [n_ranks] its left << 32 | right
  uint32_t n_ranks, n_pairs;
  bool byte_level, byte_fallback, fuse_unk, ignore_merges;
  int32_t unk;           // -1: none
  int32_t byte_id[256];  // byte level: the token of one byte; byte fallback: <0xXX>; -1: none
  tok_index whole;       // ignore_merges: over the raw pieces of ordinary tokens
  uint64_t *joins;       // a filter of 1 << 16 bits over character pairs that stand inside some mergeable token; NULL: no cutting
} tok_bpe;

typedef struct tok_sym {
  int32_t id, prev, next;  // id -1: merged away; prev, next -1: none
} tok_sym;

enum { CACHE_SLOTS = 1 << 13, CACHE_KEY = 26, CACHE_IDS = 9 };
typedef struct tok_cached {  // 64 bytes
  uint8_t n_key, n_ids;      // n_key 0: empty
  char key[CACHE_KEY];
  int32_t ids[CACHE_IDS];
} tok_cached;

ti_status ti_tok_bpe_init(tok_bpe *b, uint32_t max_merges);
// Adds the merge of the next rank. A pair given twice keeps its last rank.
void ti_tok_bpe_add(tok_bpe *b, int32_t left, int32_t right, int32_t result);
// After vocabulary, pieces and merges are there: byte ids, whole pieces, joins.
ti_status ti_tok_bpe_finish(ti_tokenizer *t, ti_error *err);
void ti_tok_bpe_fini(tok_bpe *b);
// Appends the ids of one pre-token (valid UTF-8).
ti_status ti_tok_bpe_encode(const ti_tokenizer *t, ti_tok_scratch *s, const char *p, size_t n, ti_ids *out);

// ---- added.c ----

typedef struct tok_added {
  int32_t id;
  bool special, normalized, lstrip, rstrip, single_word;
} tok_added;

typedef struct tok_trie_node {
  uint32_t child, sibling;  // 0: none
  int32_t added;            // index of the added token that ends here; -1: none
  unsigned char byte;
} tok_trie_node;

typedef struct tok_trie {
  tok_trie_node *nodes;  // nodes[0] is unused
  uint32_t n, cap;
  uint32_t root[256];  // first byte -> node; 0: none
  const tok_added *added;
} tok_trie;

typedef struct tok_hit {
  size_t start, end;
  int32_t id;
} tok_hit;

ti_status ti_tok_trie_put(tok_trie *t, const char *s, size_t n, int32_t added);
void ti_tok_trie_fini(tok_trie *t);
// The next added token in text[n] at or after from, the longest at the leftmost place; lstrip reaches back to from at most. false: none.
bool ti_tok_trie_next(const tok_trie *t, const char *text, size_t n, size_t from, bool parse_special, tok_hit *hit);

// ---- pretok.c: patterns and splits ----

typedef struct tok_pattern {
  pcre2_code *re;  // NULL: the literal
  char *literal;
  size_t n_literal;
} tok_pattern;

typedef enum tok_behavior { TOK_REMOVED, TOK_ISOLATED, TOK_MERGED_PREVIOUS, TOK_MERGED_NEXT, TOK_CONTIGUOUS } tok_behavior;

typedef struct tok_split {
  tok_pattern pattern;
  tok_behavior behavior;
  bool invert;
} tok_split;

typedef struct tok_span {
  uint32_t off, len;
} tok_span;

typedef struct tok_spans {
  tok_span *v;
  size_t n, cap;
} tok_spans;

#define TOK_RE_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

ti_status ti_tok_pattern_regex(tok_pattern *p, const char *re, size_t n, ti_error *err);
ti_status ti_tok_pattern_literal(tok_pattern *p, const char *s, size_t n, ti_error *err);
void ti_tok_pattern_fini(tok_pattern *p);
// The next match in s[n] at or after from, empty ones skipped. TI_ERR_NOTFOUND: none; TI_ERR_RANGE: beyond the match limit.
ti_status ti_tok_pattern_next(const tok_pattern *p, ti_tok_scratch *sc, const char *s, size_t n, size_t from, size_t *start, size_t *end);
// Cuts text[n] by the tokenizer's splits in order; the spans are in *out (sc->spans[0] or [1]).
ti_status ti_tok_pretokenize(const ti_tokenizer *t, ti_tok_scratch *sc, const char *text, size_t n, const tok_spans **out);

// ---- normalize.c ----

typedef enum tok_norm_kind { TOK_NORM_PREPEND, TOK_NORM_REPLACE, TOK_NORM_NFC } tok_norm_kind;

typedef struct tok_norm {
  tok_norm_kind kind;
  tok_pattern pattern;  // replace
  char *text;           // prepend, replace
  size_t n_text;
  bool unless_there;  // prepend: not when the text starts with it already
  bool first_only;    // prepend: at the start of the whole text only
} tok_norm;

enum { TOK_MAX_STEPS = 16 };
typedef struct tok_norms {
  tok_norm v[TOK_MAX_STEPS];
  size_t n;
} tok_norms;

// Runs the steps on *io, which then is as before or lies in one of bufs. first: the segment starts the whole text.
ti_status ti_tok_normalize(const tok_norms *steps, ti_tok_scratch *sc, ti_buf bufs[2], bool first, ti_tok_text *io);
void ti_tok_norms_fini(tok_norms *steps);
// Appends the NFC of s[n] (valid UTF-8) to out. nfc.c
ti_status ti_tok_nfc(ti_buf *out, const char *s, size_t n);

// ---- decode.c ----

enum { TOK_MAX_REPLACE = 4 };
typedef struct tok_decoder {
  struct {
    ti_tok_text from, to;  // owned
  } replace[TOK_MAX_REPLACE];
  size_t n_replace;
  bool byte_level, byte_fallback;
  char strip_char;  // dropped at the start of a text, at most strip_start times
  uint32_t strip_start;
} tok_decoder;

// Fills t->piece from spellings and t->decoder.
ti_status ti_tok_pieces_init(ti_tokenizer *t, ti_error *err);
// GPT-2's byte alphabet: the character that stands for a byte, and back (-1: none).
uint32_t ti_tok_byte_char(unsigned char b);
int ti_tok_char_byte(uint32_t cp);
int ti_tok_byte_token(const char *s, size_t n);  // "<0x0A>" -> 10, else -1

// ---- the whole ----

struct ti_tokenizer {
  uint64_t serial;  // unique in the process: which tokenizer a scratch's cache belongs to
  tok_vocab vocab;
  tok_blob piece;
  tok_bpe bpe;
  tok_norms norm;      // the file's normalizer
  tok_norms pre_norm;  // what the pre-tokenizer puts before or changes in a segment (add_prefix_space, Metaspace)
  tok_split splits[TOK_MAX_STEPS];
  size_t n_splits;
  tok_added *added;
  size_t n_added;
  tok_trie raw, normalized;  // added tokens looked for before, and after, normalizing
  tok_decoder decoder;
  int32_t prefix[TI_TOK_MAX_TEMPLATE], suffix[TI_TOK_MAX_TEMPLATE];
  size_t n_prefix, n_suffix;
  bool has_template;
  int32_t bos, pad, eos[TI_TOK_MAX_EOS];
  size_t n_eos;
};

struct ti_tok_scratch {
  uint64_t serial;
  tok_cached *cache;  // [CACHE_SLOTS]
  ti_buf text, norm[2], pre[2];
  tok_spans spans[2];
  tok_sym *syms;
  size_t cap_syms;
  uint64_t *heap;  // rank << 32 | position: a min-heap
  size_t n_heap, cap_heap;
  pcre2_match_data *match;
  pcre2_match_context *context;
  pcre2_jit_stack *jit_stack;
  uint32_t match_limit;  // as set in context
};

// ---- build.c: collects what a file says, then makes the tokenizer ----

typedef struct tok_build {
  ti_tok_text *items;  // [n], by id; texts borrowed from the source
  uint8_t *flags;      // [n]
  uint32_t n, cap;
} tok_build;

ti_status ti_tok_build_put(tok_build *b, int64_t id, const char *s, size_t n, uint8_t flags, ti_error *err);
void ti_tok_build_fini(tok_build *b);
ti_tokenizer *ti_tok_alloc(void);
// Merges "left right" by spelling: TI_ERR_FORMAT names what is missing.
ti_status ti_tok_build_merge(ti_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, ti_error *err);
// Pieces, tries, BPE tables, from vocabulary, added tokens, decoder and pipeline.
ti_status ti_tok_build_finish(ti_tokenizer *t, ti_error *err);
ti_status ti_tok_add_eos(ti_tokenizer *t, int32_t id);
// Takes the pattern, on failure too.
ti_status ti_tok_add_split(ti_tokenizer *t, tok_pattern *take, tok_behavior behavior, bool invert, ti_error *err);
ti_status ti_tok_add_regex_split(ti_tokenizer *t, const char *re, ti_error *err);  // matches isolated
ti_status ti_tok_add_prepend(tok_norms *to, const char *s, size_t n, bool unless_there, bool first_only, ti_error *err);
// Takes the pattern, on failure too.
ti_status ti_tok_add_replace(tok_norms *to, tok_pattern *take, const char *with, size_t n, ti_error *err);
ti_status ti_tok_add_nfc(tok_norms *to, ti_error *err);
ti_status ti_tok_add_decoder_replace(tok_decoder *d, const char *from, size_t n_from, const char *with, size_t n_with, ti_error *err);

// load_pipeline.c: the four optional sections of tokenizer.json.
ti_status ti_tok_load_normalizer(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);
ti_status ti_tok_load_pre_tokenizer(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);
ti_status ti_tok_load_post_processor(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);
ti_status ti_tok_load_decoder(ti_tokenizer *t, const json_t *j, const char *where, ti_error *err);
// load_config.c: bos, eos, pad and add_bos_token from the files beside tokenizer.json.
ti_status ti_tok_load_configs(ti_tokenizer *t, const char *dir, ti_error *err);

#endif
