// What a tokenizer.json says is what encoding and decoding do, and what it may not say is refused by field.
#include <criterion/criterion.h>

#include "tok_json.h"

static const char *const merges[] = {"a b", "ab c", "Ġ a", NULL};  // ids 256, 257, 258
static const char *const no_merges[] = {NULL};

static ti_tokenizer *make(const char *const *m, const char *model_rest, const char *rest) {
  ti_buf b;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  tok_json(&b, m, model_rest, rest);
  cr_assert_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_OK, "%s", err.text);
  ti_buf_fini(&b);
  return t;
}

static void expect_ids(const ti_tokenizer *t, const char *text, unsigned flags, const char *want) {
  char got[512];
  cr_expect_str_eq(tok_ids(t, text, strlen(text), flags, got), want, "\"%s\": %s, expected %s", text, got, want);
}

static void expect_text(const ti_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, const char *want) {
  ti_buf b;
  ti_error err = {0};
  ti_buf_init(&b, 4096);
  cr_expect_eq(ti_tokenizer_decode(t, ids, n, flags, &b, &err), TI_OK, "%s", err.text);
  cr_expect_str_eq(ti_buf_str(&b), want);
  ti_buf_fini(&b);
}

Test(tokenizer, merges_the_lowest_rank_first) {
  ti_tokenizer *t = make(merges, "", TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "abc", 0, "257");
  expect_ids(t, "ababc b", 0, "256 257 32 98");
  expect_ids(t, " abc", 0, "32 257");  // "ab" ranks before "Ġa"
  expect_ids(t, "", 0, "");
  expect_text(t, (int32_t[]){258, 98, 257}, 3, 0, " ababc");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, ignore_merges_takes_a_whole_pre_token) {
  static const char *const m[] = {"b c", "a b", "a bc", NULL};
  // "ab" + "c" has no merge, "bc" comes first: so "abc" = a + bc -> 258 anyway; "xab" is not a token
  ti_tokenizer *plain = make((const char *const[]){"a b", "b c", "a bc", NULL}, "", TOK_JSON_BYTE_LEVEL);
  ti_tokenizer *whole = make((const char *const[]){"a b", "b c", "a bc", NULL}, ", \"ignore_merges\": true", TOK_JSON_BYTE_LEVEL);
  expect_ids(plain, "abc", 0, "256 99");
  expect_ids(whole, "abc", 0, "258");
  ti_tokenizer *other = make(m, "", TOK_JSON_BYTE_LEVEL);
  expect_ids(other, "abc", 0, "258");
  ti_tokenizer_destroy(plain);
  ti_tokenizer_destroy(whole);
  ti_tokenizer_destroy(other);
}

#define ADDED                                                                                        \
  ", \"added_tokens\": [{\"id\": 300, \"content\": \"<s>\", \"special\": true},"                     \
  "{\"id\": 301, \"content\": \"<tool>\", \"special\": false},"                                      \
  "{\"id\": 302, \"content\": \"<tool>x\", \"special\": false},"                                     \
  "{\"id\": 303, \"content\": \"<strip>\", \"special\": false, \"lstrip\": true, \"rstrip\": true}," \
  "{\"id\": 304, \"content\": \"word\", \"special\": false, \"single_word\": true}]"

Test(tokenizer, special_tokens_never_come_from_text_unless_asked) {
  ti_tokenizer *t = make(merges, "", ADDED TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "<s>", 0, "60 115 62");
  expect_ids(t, "<s>", TI_TOK_PARSE_SPECIAL, "300");
  expect_ids(t, "a<s>b", TI_TOK_PARSE_SPECIAL, "97 300 98");
  cr_expect(ti_tokenizer_is_special(t, 300) && !ti_tokenizer_is_special(t, 301));
  expect_text(t, (int32_t[]){97, 300, 98}, 3, 0, "a<s>b");
  expect_text(t, (int32_t[]){97, 300, 98}, 3, TI_TOK_SKIP_SPECIAL, "ab");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, added_tokens_match_longest_and_strip_and_stand_alone) {
  ti_tokenizer *t = make(merges, "", ADDED TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "<tool>", 0, "301");
  expect_ids(t, "<tool>x<tool", 0, "302 60 116 111 111 108");
  expect_ids(t, "z  <strip> \n z", 0, "122 303 122");
  expect_ids(t, "word", 0, "304");
  expect_ids(t, "a word.", 0, "97 32 304 46");
  expect_ids(t, "swords", 0, "115 119 111 114 100 115");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, a_merge_never_makes_a_special_token) {
  static const char *const m[] = {"< s", "<s >", NULL};
  ti_tokenizer *t = make(m, "",
                         ", \"added_tokens\": [{\"id\": 257, \"content\": \"<s>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                         "\"add_prefix_space\": false, \"use_regex\": false}");
  expect_ids(t, "<s>", 0, "256 62");
  expect_ids(t, "<s>", TI_TOK_PARSE_SPECIAL, "257");
  ti_tokenizer_destroy(t);
}

static void expect_split(const char *split, const char *text, const char *want) {
  char rest[600];
  snprintf(rest, sizeof rest,
           ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [%s, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
           "\"use_regex\": false}]}",
           split);
  // every pair of a, b and - merges, so that only the cuts keep things apart: a- 256, -a 257, -- 258, aa 259
  ti_tokenizer *t = make((const char *const[]){"a -", "- a", "- -", "a a", NULL}, "", rest);
  expect_ids(t, text, 0, want);
  ti_tokenizer_destroy(t);
}

#define SPLIT(behavior, invert) "{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"" behavior "\", \"invert\": " invert "}"

Test(tokenizer, split_behaviours) {
  expect_split(SPLIT("Isolated", "false"), "aa--a", "259 45 45 97");
  expect_split(SPLIT("Removed", "false"), "aa--a", "259 97");
  expect_split(SPLIT("Removed", "true"), "aa--a", "45 45");
  expect_split(SPLIT("MergedWithPrevious", "false"), "a--a", "256 45 97");
  expect_split(SPLIT("MergedWithNext", "false"), "a--a", "97 45 257");
  expect_split(SPLIT("Contiguous", "false"), "aa--a", "259 258 97");
}

Test(tokenizer, digits_and_prefix_space) {
  static const char *const m[] = {"1 2", "Ġ a", NULL};
  ti_tokenizer *t = make(m, "",
                         ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true},"
                         "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}]}");
  expect_ids(t, "12", 0, "49 50");
  ti_tokenizer_destroy(t);
  t = make(m, "", ", \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}");
  expect_ids(t, "a12", 0, "257 256");
  expect_ids(t, " a", 0, "257");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, template_puts_special_tokens_around) {
  ti_tokenizer *t =
      make(merges, "",
           ", \"added_tokens\": [{\"id\": 300, \"content\": \"<s>\", \"special\": true}, {\"id\": 301, \"content\": \"</s>\", \"special\": true}],"
           "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},"
           "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"</s>\", \"type_id\": 0}}],"
           "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [300]}, \"</s>\": {\"id\": \"</s>\", \"ids\": [301]}}}" TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "abc", TI_TOK_ADD_SPECIAL, "300 257 301");
  expect_ids(t, "abc", 0, "257");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, nfc_composes_and_orders_marks) {
  ti_tokenizer *t = make(no_merges, "", ", \"normalizer\": {\"type\": \"NFC\"}" TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "e\xCC\x81", 0, "195 169");                      // e + acute -> U+00E9
  expect_ids(t, "q\xCC\x81\xCC\xA3", 0, "113 204 163 204 129");  // acute, dot below -> dot below first
  expect_ids(t, "\xE1\x84\x80\xE1\x85\xA1", 0, "234 176 128");   // Hangul: U+AC00
  ti_tokenizer_destroy(t);
}

Test(tokenizer, invalid_utf8_becomes_replacement_characters) {
  ti_tokenizer *t = make(no_merges, "", TOK_JSON_BYTE_LEVEL);
  expect_ids(t, "a\xFF", 0, "97 239 191 189");
  expect_ids(t, "\xE6\x97", 0, "239 191 189");
  ti_tokenizer_destroy(t);
}

#define SP_MODEL                                                                                                                    \
  "{\"model\": {\"type\": \"BPE\", \"byte_fallback\": %s, \"fuse_unk\": true, \"unk_token\": \"<unk>\", \"vocab\": {\"<unk>\": 0, " \
  "\"<0xC3>\": 1, \"<0xA9>\": 2, \"\xE2\x96\x81\": 3, \"a\": 4, \"\xE2\x96\x81"                                                     \
  "a\": 5}, \"merges\": [[\"\xE2\x96\x81\", \"a\"]]},"                                                                              \
  "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"},"              \
  "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}]},"                                     \
  "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": \"\xE2\x96\x81\"}, "      \
  "\"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}}"

static ti_tokenizer *sentencepiece(const char *fallback) {
  char json[2048];
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  int n = snprintf(json, sizeof json, SP_MODEL, fallback);
  cr_assert_eq(ti_tokenizer_create(json, (size_t)n, &t, &err), TI_OK, "%s", err.text);
  return t;
}

Test(tokenizer, byte_fallback_and_unknowns) {
  ti_tokenizer *t = sentencepiece("true");
  expect_ids(t, "a a", 0, "5 5");
  expect_ids(t, "\xC3\xA9", 0, "3 1 2");
  expect_ids(t, "xyz", 0, "3 0");  // no <0x78>: unknown, and a run of them is one
  expect_text(t, (int32_t[]){5, 1, 2, 3, 4}, 5, 0, "a\xC3\xA9 a");
  expect_text(t, (int32_t[]){5, 4}, 2, TI_TOK_CONTINUE, " aa");
  expect_text(t, (int32_t[]){1}, 1, 0, "\xEF\xBF\xBD");
  ti_tokenizer_destroy(t);
  t = sentencepiece("false");
  expect_ids(t, "\xC3\xA9", 0, "3 0");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, metaspace_prepends_and_cuts_before_the_mark) {
  static const char json[] =
      "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"\xE2\x96\x81\": 0, \"a\": 1, \"\xE2\x96\x81"
      "a\": 2, \"a\xE2\x96\x81\": 3},"
      "\"merges\": [[\"a\", \"\xE2\x96\x81\"], [\"\xE2\x96\x81\", \"a\"]]}, \"pre_tokenizer\": {\"type\": \"Metaspace\","
      "\"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"first\"}, \"decoder\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"first\"}}";
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  cr_assert_eq(ti_tokenizer_create(json, sizeof json - 1, &t, &err), TI_OK, "%s", err.text);
  expect_ids(t, "a a", 0, "2 2");  // the cut keeps "a▁", the better merge, from being made
  expect_text(t, (int32_t[]){2, 2}, 2, 0, "a a");
  ti_tokenizer_destroy(t);
}

Test(tokenizer, a_full_list_leaves_the_output_as_it_was) {
  ti_tokenizer *t = make(merges, "", TOK_JSON_BYTE_LEVEL);
  ti_tok_scratch *s = NULL;
  ti_ids ids;
  ti_error err = {0};
  cr_assert_eq(ti_tok_scratch_create(&s), TI_OK);
  ti_ids_init(&ids, 3);
  cr_assert_eq(ti_tokenizer_encode(t, s, "z", 1, 0, &ids, &err), TI_OK);
  cr_expect_eq(ti_tokenizer_encode(t, s, "x y z", 5, 0, &ids, &err), TI_ERR_FULL);
  cr_expect_eq(ids.n, 1);
  cr_expect(strstr(err.text, "more than 2 tokens") != NULL, "%s", err.text);
  ti_buf b;
  ti_buf_init(&b, 4096);
  cr_expect_eq(ti_tokenizer_decode(t, (int32_t[]){97, 70000}, 2, 0, &b, &err), TI_ERR_RANGE);
  cr_expect_eq(b.len, 0);
  cr_expect(strstr(err.text, "70000") != NULL, "%s", err.text);
  ti_buf_fini(&b);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(s);
  ti_tokenizer_destroy(t);
}

Test(tokenizer, one_scratch_serves_two_tokenizers) {
  ti_tokenizer *one = make(merges, "", TOK_JSON_BYTE_LEVEL), *two = make(no_merges, "", TOK_JSON_BYTE_LEVEL);
  ti_tok_scratch *s = NULL;
  ti_ids ids;
  cr_assert_eq(ti_tok_scratch_create(&s), TI_OK);
  ti_ids_init(&ids, 100);
  cr_assert_eq(ti_tokenizer_encode(one, s, "abc", 3, 0, &ids, NULL), TI_OK);
  cr_assert_eq(ti_tokenizer_encode(two, s, "abc", 3, 0, &ids, NULL), TI_OK);
  cr_assert_eq(ti_tokenizer_encode(one, s, "abc", 3, 0, &ids, NULL), TI_OK);
  cr_expect_eq(ids.n, 5);  // 257, then 97 98 99, then 257: the cache belongs to one tokenizer
  cr_expect_eq(ids.v[4], 257);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(s);
  ti_tokenizer_destroy(one);
  ti_tokenizer_destroy(two);
}

// ---- refused files: each error names the field ----

#define HEAD "{\"model\": {\"type\": \"BPE\", \"vocab\": "
static const struct {
  const char *json;
  ti_status st;
  const char *names;
} bad[] = {
    {"", TI_ERR_FORMAT, "JSON"},
    {"{}", TI_ERR_FORMAT, "model"},
    {"{\"model\": {\"type\": \"Unigram\"}}", TI_ERR_UNSUPPORTED, "Unigram"},
    {"{\"model\": {\"type\": \"BPE\"}}", TI_ERR_FORMAT, "model.vocab"},
    {HEAD "[]}}", TI_ERR_FORMAT, "model.vocab"},
    {HEAD "{\"a\": \"x\"}}}", TI_ERR_FORMAT, "model.vocab[\"a\"]"},
    {HEAD "{\"a\": -1}, \"merges\": []}}", TI_ERR_RANGE, "id -1"},
    {HEAD "{\"a\": 99999999}, \"merges\": []}}", TI_ERR_RANGE, "99999999"},
    {HEAD "{\"a\": 1, \"b\": 1}, \"merges\": []}}", TI_ERR_FORMAT, "id 1 has two tokens"},
    {HEAD "{\"a\": 1}}}", TI_ERR_FORMAT, "model.merges"},
    {HEAD "{\"a\": 1}, \"merges\": [5]}}", TI_ERR_FORMAT, "model.merges[0]"},
    {HEAD "{\"a\": 1}, \"merges\": [\"ab\"]}}", TI_ERR_FORMAT, "model.merges[0]"},
    {HEAD "{\"a\": 1}, \"merges\": [\"a a\"]}}", TI_ERR_FORMAT, "its result \"aa\""},
    {HEAD "{\"a\": 1, \"\": 2}, \"merges\": [[\"\", \"a\"]]}}", TI_ERR_FORMAT, "model.merges[0]"},  // would merge for ever
    {HEAD "{\"a\": 1}, \"merges\": [], \"dropout\": 0.1}}", TI_ERR_UNSUPPORTED, "dropout"},
    {HEAD "{\"a\": 1}, \"merges\": [], \"unk_token\": \"u\"}}", TI_ERR_FORMAT, "unk_token"},
    {HEAD "{\"a\": 1}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"}}", TI_ERR_UNSUPPORTED, "end_of_word_suffix"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"added_tokens\": {}}", TI_ERR_FORMAT, "added_tokens"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"added_tokens\": [{\"id\": 1, \"content\": \"b\"}]}", TI_ERR_FORMAT, "added_tokens[0]"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"added_tokens\": [{\"id\": 2, \"content\": \"a\"}]}", TI_ERR_FORMAT, "two ids"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"added_tokens\": [{\"content\": \"b\"}]}", TI_ERR_FORMAT, "id: missing"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Lowercase\"}]}}",
     TI_ERR_UNSUPPORTED, "normalizer.normalizers[1]: unknown kind \"Lowercase\""},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Whitespace\"}}", TI_ERR_UNSUPPORTED,
     "pre_tokenizer: unknown kind \"Whitespace\""},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}}",
     TI_ERR_FORMAT, "Regex \"(\""},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Sideways\"}}",
     TI_ERR_UNSUPPORTED, "Sideways"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"post_processor\": {\"type\": \"Roberta\"}}", TI_ERR_UNSUPPORTED, "post_processor"},
    {HEAD "{\"a\": 1}, \"merges\": []}, \"decoder\": {\"type\": \"CTC\"}}", TI_ERR_UNSUPPORTED, "decoder: unknown kind \"CTC\""},
};

Test(tokenizer, refuses_bad_files_naming_the_field) {
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ti_tokenizer *t = NULL;
    ti_error err = {0};
    cr_expect_eq(ti_tokenizer_create(bad[i].json, strlen(bad[i].json), &t, &err), bad[i].st, "%s: %s", bad[i].json, err.text);
    cr_expect(strstr(err.text, bad[i].names) != NULL, "%s: \"%s\" does not name %s", bad[i].json, err.text, bad[i].names);
    cr_expect_null(t);
  }
}

Test(tokenizer, refuses_deep_nesting) {
  ti_buf b;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  ti_buf_init(&b, 1 << 20);
  for (int i = 0; i < 100000; i++) ti_buf_puts(&b, "[");
  cr_expect_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_ERR_FORMAT);
  ti_buf_fini(&b);
}

Test(tokenizer, a_runaway_pattern_ends_with_an_error) {
  ti_tokenizer *t =
      make(no_merges, "", ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a|aa)+$\"}, \"behavior\": \"Isolated\"}");
  char got[512];
  tok_ids(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 76, 0, got);
  cr_expect(strstr(got, "too many steps") != NULL, "%s", got);
  ti_tokenizer_destroy(t);
}
