// A tokenizer from GGUF's tables: the same structs as tokenizer.json gives, with the pipeline that the pre-tokenizer's name stands for.
//
// "llama" files carry scores instead of merges. SentencePiece merges the pair whose result scores best, so the merges are all splits of every
// token into two tokens, best score first: 32,000 tokens give about 60,000.
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6, MAX_MERGES = 1 << 22 };

#define RE_LLAMA3(digits)                                              \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|"         \
  "\\s+"

static const struct {
  const char *name;
  const char *splits[3];  // in order, matches isolated
  bool nfc, ignore_merges;
} pres[] = {
    {"gpt-2", {TOK_RE_GPT2}, false, false},
    {"smollm", {"\\p{N}", TOK_RE_GPT2}, false, false},
    {"llama-bpe", {RE_LLAMA3("\\p{N}{1,3}")}, false, true},
    {"qwen2", {RE_LLAMA3("\\p{N}")}, true, false},
    {"deepseek-v3",
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|"
      "\\s+(?!\\S)|\\s+"},
     false,
     false},
};

static ti_status byte_level_pipeline(ti_tokenizer *t, const char *pre, ti_error *err) {
  size_t k = 0, n = sizeof pres / sizeof *pres;
  while (k < n && (!pre || strcmp(pre, pres[k].name) != 0)) k++;
  if (k == n)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "tokenizer.ggml.pre: \"%.64s\"; gpt-2, smollm, llama-bpe, qwen2 and deepseek-v3 are served",
                        pre ? pre : "");
  t->bpe.byte_level = t->decoder.byte_level = true;
  t->bpe.ignore_merges = pres[k].ignore_merges;
  ti_status st = pres[k].nfc ? ti_tok_add_nfc(&t->norm, err) : TI_OK;
  for (size_t i = 0; i < 3 && pres[k].splits[i] && st == TI_OK; i++) st = ti_tok_add_regex_split(t, pres[k].splits[i], err);
  return st;
}

static ti_status sentencepiece_pipeline(ti_tokenizer *t, bool space_prefix, ti_error *err) {
  static const char mark[] = "\xE2\x96\x81";
  tok_pattern space = {0};
  t->bpe.byte_fallback = t->bpe.fuse_unk = t->decoder.byte_fallback = true;
  ti_status st = space_prefix ? ti_tok_add_prepend(&t->norm, mark, 3, false, false, err) : TI_OK;
  if (st == TI_OK) st = ti_tok_pattern_literal(&space, " ", 1, err);
  if (st == TI_OK) st = ti_tok_add_replace(&t->norm, &space, mark, 3, err);
  if (st == TI_OK) st = ti_tok_add_decoder_replace(&t->decoder, mark, 3, " ", 1, err);
  t->decoder.strip_char = ' ';
  t->decoder.strip_start = space_prefix ? 1 : 0;
  return st;
}

// ---- tokens ----

static ti_status read_tokens(const ti_tokenizer_parts *p, ti_tokenizer *t, tok_build *b, ti_error *err) {
  size_t n_added = 0;
  for (size_t i = 0; i < p->n_tokens; i++) {
    int32_t type = p->types ? p->types[i] : TYPE_NORMAL;
    bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN, added = special || type == TYPE_USER;
    const ti_tok_text *s = &p->tokens[i];
    if (!ti_utf8_valid(s->s, s->n)) return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.tokens[%zu]: not valid UTF-8", i);
    n_added += added && s->n > 0;
    ti_status st = ti_tok_build_put(b, (int64_t)i, s->s, s->n, (uint8_t)(TOK_PRESENT | (added ? TOK_ADDED : 0) | (special ? TOK_SPECIAL : 0)), err);
    if (st != TI_OK) return ti_error_prefix(err, "tokenizer.ggml.tokens");
  }
  t->added = calloc(n_added + 1, sizeof *t->added);
  if (!t->added) return ti_error_set(err, TI_ERR_NOMEM, "tokenizer.ggml.tokens: out of memory");
  for (uint32_t i = 0; i < b->n; i++) {
    if ((b->flags[i] & TOK_ADDED) && b->items[i].n > 0)
      t->added[t->n_added++] = (tok_added){.id = (int32_t)i, .special = (b->flags[i] & TOK_SPECIAL) != 0};
  }
  return ti_tok_vocab_init(&t->vocab, b->items, b->flags, b->n, err);
}

// ---- merges ----

static ti_status read_merges(const ti_tokenizer_parts *p, ti_tokenizer *t, ti_error *err) {
  if (p->n_merges > MAX_MERGES) return ti_error_set(err, TI_ERR_RANGE, "tokenizer.ggml.merges: %zu; at most %d are allowed", p->n_merges, MAX_MERGES);
  if (ti_tok_bpe_init(&t->bpe, (uint32_t)p->n_merges) != TI_OK) return ti_error_set(err, TI_ERR_NOMEM, "tokenizer.ggml.merges: out of memory");
  for (size_t i = 0; i < p->n_merges; i++) {
    const ti_tok_text *m = &p->merges[i];
    const char *space = m->n ? memchr(m->s, ' ', m->n) : NULL;
    if (!space) return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.merges[%zu]: expected \"left right\"", i);
    size_t left = (size_t)(space - m->s);
    if (ti_tok_build_merge(t, m->s, left, space + 1, m->n - left - 1, err) != TI_OK) return ti_error_prefix(err, "tokenizer.ggml.merges[%zu]", i);
  }
  return TI_OK;
}

typedef struct scored {
  float score;
  int32_t left, right, result;
} scored;

static int best_first(const void *a, const void *b) {
  const scored *x = a, *y = b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  if (x->result != y->result) return x->result < y->result ? -1 : 1;
  return x->left < y->left ? -1 : x->left > y->left;
}

// The splits of token id into two mergeable tokens; returns how many, stored at out when it is not NULL.
static size_t splits_of(const ti_tokenizer *t, uint32_t id, float score, scored *out) {
  const tok_vocab *v = &t->vocab;
  ti_tok_text s = ti_tok_blob_get(&v->spell, id);
  size_t n = 0;
  if (v->flags[id] != TOK_PRESENT || ti_tok_byte_token(s.s, s.n) >= 0) return 0;
  for (size_t cut = 1; cut < s.n; cut++) {
    if (((unsigned char)s.s[cut] & 0xC0) == 0x80) continue;
    int32_t l = ti_tok_vocab_find(v, s.s, cut), r = ti_tok_vocab_find(v, s.s + cut, s.n - cut);
    if (l < 0 || r < 0 || v->flags[l] != TOK_PRESENT || v->flags[r] != TOK_PRESENT) continue;
    if (out) out[n] = (scored){score, l, r, (int32_t)id};
    n++;
  }
  return n;
}

static ti_status merges_from_scores(const ti_tokenizer_parts *p, ti_tokenizer *t, ti_error *err) {
  size_t n = 0, at = 0, bytes;
  if (!p->scores) return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.scores: missing");
  for (uint32_t i = 0; i < t->vocab.n; i++) {
    if (p->scores[i] != p->scores[i]) return ti_error_set(err, TI_ERR_FORMAT, "tokenizer.ggml.scores[%u]: not a number", i);
    n += splits_of(t, i, p->scores[i], NULL);
  }
  if (n > MAX_MERGES) return ti_error_set(err, TI_ERR_RANGE, "tokenizer.ggml.tokens: they make %zu merges; at most %d are allowed", n, MAX_MERGES);
  scored *all = ti_size_mul(n + 1, sizeof *all, &bytes) ? malloc(bytes) : NULL;
  if (!all || ti_tok_bpe_init(&t->bpe, (uint32_t)n) != TI_OK) {
    free(all);
    return ti_error_set(err, TI_ERR_NOMEM, "tokenizer.ggml.scores: out of memory");
  }
  for (uint32_t i = 0; i < t->vocab.n; i++) at += splits_of(t, i, p->scores[i], all + at);
  qsort(all, n, sizeof *all, best_first);
  for (size_t i = 0; i < n; i++) ti_tok_bpe_add(&t->bpe, all[i].left, all[i].right, all[i].result);
  free(all);
  return TI_OK;
}

// ---- the whole ----

static ti_status check_id(const ti_tokenizer *t, const char *key, int32_t id, ti_error *err) {
  if (id < 0 || ((uint32_t)id < t->vocab.n && t->vocab.flags[id])) return TI_OK;
  return ti_error_set(err, TI_ERR_RANGE, "tokenizer.ggml.%s_token_id: %d; there are %u tokens", key, id, t->vocab.n);
}

static ti_status set_specials(const ti_tokenizer_parts *p, ti_tokenizer *t, ti_error *err) {
  ti_status st = check_id(t, "bos", p->bos, err);
  if (st == TI_OK) st = check_id(t, "eos", p->eos, err);
  if (st == TI_OK) st = check_id(t, "padding", p->pad, err);
  if (st == TI_OK) st = check_id(t, "unknown", p->unk, err);
  if (st != TI_OK) return st;
  t->bos = p->bos;
  t->pad = p->pad;
  t->bpe.unk = t->bpe.byte_fallback ? p->unk : -1;  // a byte-level tokenizer knows every byte
  st = ti_tok_add_eos(t, p->eos);
  for (size_t i = 0; i < p->n_more_eos && st == TI_OK; i++) {
    st = check_id(t, "eot", p->more_eos[i], err);
    if (st == TI_OK) st = ti_tok_add_eos(t, p->more_eos[i]);
  }
  if (p->add_bos && p->bos >= 0) t->prefix[t->n_prefix++] = p->bos;
  if (p->add_eos && p->eos >= 0) t->suffix[t->n_suffix++] = p->eos;
  return st;
}

ti_status ti_tokenizer_create_parts(const ti_tokenizer_parts *p, ti_tokenizer **out, ti_error *err) {
  bool llama = p->model && strcmp(p->model, "llama") == 0;
  if (!llama && (!p->model || strcmp(p->model, "gpt2") != 0))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "tokenizer.ggml.model: \"%.64s\"; gpt2 and llama are served", p->model ? p->model : "");
  if (p->n_tokens == 0 || p->n_tokens > TI_TOK_MAX_VOCAB)
    return ti_error_set(err, TI_ERR_RANGE, "tokenizer.ggml.tokens: %zu; 1..%d are allowed", p->n_tokens, TI_TOK_MAX_VOCAB);
  tok_build b = {0};
  ti_tokenizer *t = ti_tok_alloc();
  if (!t) return ti_error_set(err, TI_ERR_NOMEM, "tokenizer: out of memory");
  ti_status st = read_tokens(p, t, &b, err);
  if (st == TI_OK) st = llama ? sentencepiece_pipeline(t, p->add_space_prefix, err) : byte_level_pipeline(t, p->pre, err);
  if (st == TI_OK) st = set_specials(p, t, err);
  if (st == TI_OK) st = llama ? merges_from_scores(p, t, err) : read_merges(p, t, err);
  if (st == TI_OK) st = ti_tok_build_finish(t, err);
  ti_tok_build_fini(&b);
  if (st != TI_OK) {
    ti_tokenizer_destroy(t);
    return st;
  }
  *out = t;
  return TI_OK;
}
