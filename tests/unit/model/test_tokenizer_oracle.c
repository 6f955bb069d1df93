// The clever parts against trivial ones on random input: heap merging and cutting against a rescan for every merge, NFC against utf8proc's own
// ordering, a tokenizer from parts against the same one from JSON.
#include <criterion/criterion.h>
#include <utf8proc.h>

#include "tok_json.h"

static unsigned state;
static unsigned rnd(unsigned n) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % n;
}

// ---- BPE ----

enum { MAX_TOKENS = 200, TEXT = 64 };
typedef struct bpe_case {
  char tokens[MAX_TOKENS][20];
  char merges[MAX_TOKENS][2][20];
  int n_tokens, n_merges;
} bpe_case;

static int find(const bpe_case *c, const char *s) {
  for (int i = 0; i < c->n_tokens; i++)
    if (strcmp(c->tokens[i], s) == 0) return i;
  return -1;
}

// Random merges over a small alphabet, one character of which is not ASCII.
static void make_case(bpe_case *c, int letters) {
  static const char *const alphabet[] = {"a", "b", "\xE2\x96\x81", "c", "d", "e", "f", "g"};
  *c = (bpe_case){0};
  for (int i = 0; i < letters; i++) snprintf(c->tokens[c->n_tokens++], 20, "%s", alphabet[i]);
  for (int tries = 0; tries < 120; tries++) {
    char l[20], r[20], both[40];
    memcpy(l, c->tokens[rnd((unsigned)c->n_tokens)], 20);
    memcpy(r, c->tokens[rnd((unsigned)c->n_tokens)], 20);
    snprintf(both, sizeof both, "%s%s", l, r);
    if (strlen(both) > 12) continue;
    if (find(c, both) < 0) memcpy(c->tokens[c->n_tokens++], both, 20);
    memcpy(c->merges[c->n_merges][0], l, 20);
    memcpy(c->merges[c->n_merges++][1], r, 20);
  }
}

static ti_tokenizer *from_case(const bpe_case *c) {
  ti_buf b;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  ti_buf_init(&b, 1 << 20);
  ti_buf_puts(&b, "{\"model\": {\"type\": \"BPE\", \"vocab\": {");
  for (int i = 0; i < c->n_tokens; i++) ti_buf_printf(&b, "%s\"%s\": %d", i ? "," : "", c->tokens[i], i);
  ti_buf_puts(&b, "}, \"merges\": [");
  for (int i = 0; i < c->n_merges; i++) ti_buf_printf(&b, "%s[\"%s\", \"%s\"]", i ? "," : "", c->merges[i][0], c->merges[i][1]);
  ti_buf_puts(&b, "]}}");
  cr_assert_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_OK, "%s", err.text);
  ti_buf_fini(&b);
  return t;
}

// Rescan for the best pair after every merge; a pair given twice has its last rank.
static void naive(const bpe_case *c, const char *text, char out[512]) {
  char syms[TEXT][20];
  int n = 0;
  for (const char *p = text; *p; n++) {
    int k = *p == '\xE2' ? 3 : 1;
    snprintf(syms[n], 20, "%.*s", k, p);
    p += k;
  }
  for (;;) {
    int best = -1, at = -1;
    for (int i = 0; i + 1 < n; i++) {
      int rank = -1;
      for (int m = 0; m < c->n_merges; m++)
        if (strcmp(c->merges[m][0], syms[i]) == 0 && strcmp(c->merges[m][1], syms[i + 1]) == 0) rank = m;
      if (rank >= 0 && (best < 0 || rank < best)) best = rank, at = i;
    }
    if (best < 0) break;
    size_t left = strlen(syms[at]);
    for (size_t i = 0; left + i < 19; i++) syms[at][left + i] = syms[at + 1][i];  // no token is longer than 12
    memmove(syms[at + 1], syms[at + 2], (size_t)(n - at - 2) * sizeof syms[0]);
    n--;
  }
  size_t pos = 0;
  out[0] = 0;
  for (int i = 0; i < n; i++) pos += (size_t)snprintf(out + pos, 512 - pos, "%s%d", i ? " " : "", find(c, syms[i]));
}

static void compare_case(int letters) {
  bpe_case *c = malloc(sizeof *c);
  make_case(c, letters);
  ti_tokenizer *t = from_case(c);
  for (int round = 0; round < 100; round++) {
    char text[TEXT * 3 + 1] = "", got[512], want[512];
    int n = (int)rnd(TEXT);
    size_t len = 0;
    for (int i = 0; i < n; i++) {
      const char *s = c->tokens[rnd((unsigned)letters)];
      memcpy(text + len, s, strlen(s) + 1);
      len += strlen(s);
    }
    naive(c, text, want);
    tok_ids(t, text, len, 0, got);
    cr_assert_str_eq(got, want, "\"%s\": %s, expected %s", text, got, want);
  }
  ti_tokenizer_destroy(t);
  free(c);
}

Test(tokenizer_oracle, heap_merging_equals_rescanning) {
  for (unsigned seed = 1; seed < 15; seed++) {
    state = seed;
    compare_case(3);  // dense: hardly a place to cut
    compare_case(8);  // sparse: cuts nearly everywhere
  }
}

// ---- NFC ----

static ti_tokenizer *nfc_tokenizer(void) {
  static const char *const none[] = {NULL};
  ti_buf b;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  tok_json(&b, none, "", ", \"normalizer\": {\"type\": \"NFC\"}" TOK_JSON_BYTE_LEVEL);
  cr_assert_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_OK, "%s", err.text);
  ti_buf_fini(&b);
  return t;
}

// Letters, marks of many classes, Hangul, singletons, composition exclusions.
static utf8proc_int32_t random_char(void) {
  static const struct {
    int from, n;
  } ranges[] = {{'a', 26},       {0xC0, 0x140},   {0x300, 0x70},   {0x300, 0x70}, {0x591, 0x30},   {0x915, 0x40},  {0x1100, 0x80}, {0x1160, 0x90},
                {0xAC00, 0x400}, {0x1E00, 0x100}, {0x1F00, 0x100}, {0x2126, 6},   {0xF900, 0x100}, {0xFB1D, 0x30}, {0x1D15E, 7},   {0x1D165, 5}};
  unsigned k = rnd(sizeof ranges / sizeof *ranges);
  return ranges[k].from + (int)rnd((unsigned)ranges[k].n);
}

Test(tokenizer_oracle, nfc_equals_utf8proc) {
  ti_tokenizer *t = nfc_tokenizer();
  ti_tok_scratch *s = NULL;
  ti_ids ids;
  ti_buf back;
  cr_assert_eq(ti_tok_scratch_create(&s), TI_OK);
  ti_ids_init(&ids, 10000);
  ti_buf_init(&back, 10000);
  state = 7;
  for (int round = 0; round < 6000; round++) {
    char text[256];
    size_t n = 0;
    for (unsigned i = 0, m = 1 + rnd(12); i < m; i++) n += (size_t)utf8proc_encode_char(random_char(), (utf8proc_uint8_t *)text + n);
    text[n] = 0;
    utf8proc_uint8_t *want = utf8proc_NFC((const utf8proc_uint8_t *)text);
    ids.n = 0;
    ti_buf_reset(&back);
    cr_assert_eq(ti_tokenizer_encode(t, s, text, n, 0, &ids, NULL), TI_OK);
    cr_assert_eq(ti_tokenizer_decode(t, ids.v, ids.n, 0, &back, NULL), TI_OK);
    cr_assert_str_eq(ti_buf_str(&back), (const char *)want);
    free(want);
  }
  ti_ids_fini(&ids);
  ti_buf_fini(&back);
  ti_tok_scratch_destroy(s);
  ti_tokenizer_destroy(t);
}

// ---- parts ----

static const char *const part_merges[] = {"a b", "ab c", "1 2", "\xC4\xA0 a", "i n", "l l", "x y", NULL};

// The tables that a GGUF file of tok_json's tokenizer would hold.
static ti_tokenizer *from_parts(const char *pre) {
  static char texts[256 + 8][8];
  static ti_tok_text tokens[256 + 8], merges[8];
  static int32_t types[256 + 8];
  size_t n = 256, m = 0;
  for (unsigned i = 0; i < 256; i++) {
    unsigned cp = tok_json_byte_char(i);
    tokens[i] = (ti_tok_text){texts[i], (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)texts[i])};
    types[i] = 1;
  }
  for (; part_merges[m]; m++, n++) {
    const char *space = strchr(part_merges[m], ' ');
    merges[m] = (ti_tok_text){part_merges[m], strlen(part_merges[m])};
    snprintf(texts[n], 8, "%.*s%s", (int)(space - part_merges[m]), part_merges[m], space + 1);
    tokens[n] = (ti_tok_text){texts[n], strlen(texts[n])};
    types[n] = 1;
  }
  tokens[n] = (ti_tok_text){"<s>", 3};
  types[n++] = 3;
  ti_tokenizer_parts p = {.model = "gpt2",
                          .pre = pre,
                          .tokens = tokens,
                          .n_tokens = n,
                          .types = types,
                          .merges = merges,
                          .n_merges = m,
                          .bos = (int32_t)n - 1,
                          .eos = (int32_t)n - 1,
                          .pad = -1,
                          .unk = -1,
                          .add_bos = true};
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  cr_assert_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_OK, "%s", err.text);
  return t;
}

static ti_tokenizer *from_json(const char *pre_tokenizers) {
  ti_buf b, rest;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  ti_buf_init(&rest, 4096);
  ti_buf_printf(&rest, ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [%s]}, \"decoder\": {\"type\": \"ByteLevel\"}",
                pre_tokenizers);
  tok_json(&b, part_merges, "", ti_buf_str(&rest));
  cr_assert_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_OK, "%s", err.text);
  ti_buf_fini(&b);
  ti_buf_fini(&rest);
  return t;
}

Test(tokenizer_oracle, parts_equal_json) {
  ti_tokenizer *parts = from_parts("smollm");
  ti_tokenizer *json = from_json("{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false}");
  state = 3;
  for (int round = 0; round < 3000; round++) {
    char text[41], a[512], b[512];
    unsigned n = rnd(40);
    for (unsigned i = 0; i < n; i++) text[i] = "abc12 \nxyi'ns.ll"[rnd(16)];
    text[n] = 0;
    cr_assert_str_eq(tok_ids(parts, text, n, 0, a), tok_ids(json, text, n, 0, b), "\"%s\"", text);
  }
  char ids[512];
  cr_expect_str_eq(tok_ids(parts, "<s>abc", 6, 0, ids), "60 115 62 257");
  cr_expect_str_eq(tok_ids(parts, "<s>abc", 6, TI_TOK_ADD_SPECIAL | TI_TOK_PARSE_SPECIAL, ids), "263 263 257");
  cr_expect_eq(ti_tokenizer_bos(parts), 263);
  cr_expect(ti_tokenizer_is_eos(parts, 263) && ti_tokenizer_adds_bos(parts));
  ti_tokenizer_destroy(parts);
  ti_tokenizer_destroy(json);
}

Test(tokenizer_oracle, parts_refuse_what_is_not_served) {
  ti_tok_text tokens[2] = {{"a", 1}, {"b", 1}}, merge = {"ab", 2}, invalid = {"\xFF", 1};
  ti_tokenizer_parts ok = {.model = "gpt2", .pre = "gpt-2", .tokens = tokens, .n_tokens = 2, .bos = -1, .eos = -1, .pad = -1, .unk = -1}, p;
  ti_tokenizer *t = NULL;
  ti_error err = {0};
  cr_assert_eq(ti_tokenizer_create_parts(&ok, &t, &err), TI_OK, "%s", err.text);
  ti_tokenizer_destroy(t);
  p = ok, p.pre = "tekken";
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_UNSUPPORTED);
  cr_expect(strstr(err.text, "tekken") != NULL, "%s", err.text);
  p = ok, p.model = "t5";
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_UNSUPPORTED);
  p = ok, p.eos = 2;
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_RANGE);
  p = ok, p.merges = &merge, p.n_merges = 1;
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_FORMAT);
  cr_expect(strstr(err.text, "merges[0]") != NULL, "%s", err.text);
  p = ok, p.tokens = &invalid, p.n_tokens = 1;
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_FORMAT);
  p = ok, p.model = "llama";
  cr_expect_eq(ti_tokenizer_create_parts(&p, &t, &err), TI_ERR_FORMAT);  // no scores
}
