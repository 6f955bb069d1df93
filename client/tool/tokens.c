// `titan tokenize` and `titan detokenize`: with --model DIR by the tokenizer itself, without a server; else by the server's routes.
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/tool/tool.h"
#include "model/tokenizer.h"

enum { TEXT_MAX = 64 << 20, IDS_MAX = 64 << 20 };

// A token's text in quotes, for the table.
static void print_piece(const char *s, size_t n) {
  ti_buf b;
  ti_buf_init(&b, 1 << 20);
  ti_buf_json_string(&b, s, n);
  printf("%s\n", ti_buf_str(&b));
  ti_buf_fini(&b);
}

static ti_status encode_offline(const char *model, bool special, bool parse, bool ids_only, bool count, const ti_buf *text, ti_error *err) {
  ti_tokenizer *t = NULL;
  ti_tok_scratch *scratch = NULL;
  ti_ids ids;
  ti_ids_init(&ids, IDS_MAX);
  ti_status st = ti_tokenizer_load(model, &t, err);
  if (!ti_failed(st)) st = ti_tok_scratch_create(&scratch);
  const unsigned flags = (special ? TI_TOK_ADD_SPECIAL : 0) | (parse ? TI_TOK_PARSE_SPECIAL : 0);
  if (!ti_failed(st)) st = ti_tokenizer_encode(t, scratch, ti_buf_str(text), text->len, flags, &ids, err);
  if (!ti_failed(st) && count) {
    printf("%zu\n", ids.n);
  } else if (!ti_failed(st)) {
    for (size_t i = 0; i < ids.n; i++) {
      if (ids_only) {
        printf("%s%d", i ? " " : "", ids.v[i]);
      } else {
        const ti_tok_text piece = ti_tokenizer_piece(t, ids.v[i]);
        printf("%8d  ", ids.v[i]);
        print_piece(piece.n ? piece.s : ti_tokenizer_spelling(t, ids.v[i]).s, piece.n ? piece.n : ti_tokenizer_spelling(t, ids.v[i]).n);
      }
    }
    if (ids_only) printf("\n");
  }
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(scratch);
  ti_tokenizer_destroy(t);
  return st;
}

static ti_status encode_online(const ti_server *s, bool special, bool ids_only, bool count, const ti_buf *text, ti_error *err) {
  ti_http_url url;
  json_t *doc = NULL;
  ti_status st = ti_http_url_parse(s->url, &url, err);
  if (ti_failed(st)) return st;
  json_t *prompt = json_stringn(ti_buf_str(text), text->len);
  if (!prompt) return ti_error_set(err, TI_ERR_FORMAT, "the text is not UTF-8");
  json_t *body = json_pack("{s:o, s:b, s:b}", "prompt", prompt, "add_special_tokens", special, "return_token_strs", !ids_only);
  st = ti_tool_json(s, &url, "/tokenize", body, &doc, err);
  if (ti_failed(st)) return st;
  const json_t *ids = json_object_get(doc, "tokens"), *strs = json_object_get(doc, "token_strs");
  const size_t n = json_array_size(ids);
  if (!json_is_array(ids)) st = ti_error_set(err, TI_ERR_FORMAT, "/tokenize: no \"tokens\" in the answer");
  if (count) printf("%zu\n", n);
  for (size_t i = 0; i < n && !count; i++) {
    const long long id = json_integer_value(json_array_get(ids, i));
    const json_t *piece = json_array_get(strs, i);
    if (ids_only)
      printf("%s%lld", i ? " " : "", id);
    else if (!piece)
      printf("%8lld\n", id);
    else {
      printf("%8lld  ", id);
      print_piece(json_string_value(piece), json_string_length(piece));
    }
  }
  if (ids_only && !count) printf("\n");
  json_decref(doc);
  return st;
}

int ti_tool_tokenize(int argc, char **argv) {
  ti_server s = TI_SERVER_DEFAULT;
  const char *model = NULL;
  bool no_special = false, parse = false, ids_only = false, count = false;
  const ti_opt opts[] = {
      {"model", "DIR", "a model's folder, or its tokenizer.json: no server is needed", .kind = TI_OPT_TEXT, .target = &model},
      {"no-special", NULL, "no tokens around the text (BOS ...)", .kind = TI_OPT_FLAG, .target = &no_special},
      {"parse-special", NULL, "special tokens spelled in the text become their ids (offline only)", .kind = TI_OPT_FLAG, .target = &parse},
      {"ids", NULL, "ids only, on one line", .kind = TI_OPT_FLAG, .target = &ids_only},
      {"count", NULL, "only how many", .kind = TI_OPT_FLAG, .target = &count},
      TI_SERVER_OPTS(s)};
  const ti_command cmd = {"tokenize",
                          "[FILE]",
                          "Prints the tokens of a text (FILE or stdin; every byte of it counts, a last newline too).",
                          "example: printf 'hello' | titan tokenize --model models/titan-tiny-dense --no-special --ids",
                          0,
                          1};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  ti_buf text;
  ti_buf_init(&text, TEXT_MAX);
  ti_status st = ti_tool_read_file(argv[first] ? argv[first] : "-", TEXT_MAX, &text, &err);
  if (!ti_failed(st) && model)
    st = encode_offline(model, !no_special, parse, ids_only, count, &text, &err);
  else if (!ti_failed(st))
    st = encode_online(&s, !no_special, ids_only, count, &text, &err);
  ti_buf_fini(&text);
  return ti_failed(st) ? ti_tool_fail("tokenize", &err) : 0;
}

// Integers between blanks, commas and brackets.
static ti_status parse_ids(const char *s, ti_ids *out, ti_error *err) {
  static const char between[] = " \t\r\n,[]";
  for (s += strspn(s, between); *s; s += strspn(s, between)) {
    char *end;
    errno = 0;
    const long v = strtol(s, &end, 10);
    if (end == s || errno || v < 0 || v > INT32_MAX || (*end && !strchr(between, *end)))
      return ti_error_set(err, TI_ERR_FORMAT, "id %zu: expected an integer in 0..%d, got '%.20s'", out->n, INT32_MAX, s);
    if (ti_failed(ti_ids_push(out, (int32_t)v))) return ti_error_set(err, TI_ERR_RANGE, "more than %d ids", IDS_MAX);
    s = end;
  }
  return TI_OK;
}

static ti_status decode_offline(const char *model, bool skip, const ti_ids *ids, ti_error *err) {
  ti_tokenizer *t = NULL;
  ti_buf text;
  ti_buf_init(&text, (size_t)1 << 30);
  ti_status st = ti_tokenizer_load(model, &t, err);
  if (!ti_failed(st)) st = ti_tokenizer_decode(t, ids->v, ids->n, skip ? TI_TOK_SKIP_SPECIAL : 0, &text, err);
  if (!ti_failed(st)) fwrite(ti_buf_str(&text), 1, text.len, stdout);
  ti_buf_fini(&text);
  ti_tokenizer_destroy(t);
  return st;
}

static ti_status decode_online(const ti_server *s, const ti_ids *ids, ti_error *err) {
  ti_http_url url;
  json_t *doc = NULL;
  ti_status st = ti_http_url_parse(s->url, &url, err);
  if (ti_failed(st)) return st;
  json_t *list = json_array();
  for (size_t i = 0; i < ids->n; i++) json_array_append_new(list, json_integer(ids->v[i]));
  st = ti_tool_json(s, &url, "/detokenize", json_pack("{s:o}", "tokens", list), &doc, err);
  if (ti_failed(st)) return st;
  const json_t *text = json_object_get(doc, "prompt");
  if (json_is_string(text))
    fwrite(json_string_value(text), 1, json_string_length(text), stdout);
  else
    st = ti_error_set(err, TI_ERR_FORMAT, "/detokenize: no \"prompt\" in the answer");
  json_decref(doc);
  return st;
}

int ti_tool_detokenize(int argc, char **argv) {
  ti_server s = TI_SERVER_DEFAULT;
  const char *model = NULL;
  bool skip = false;
  const ti_opt opts[] = {{"model", "DIR", "a model's folder, or its tokenizer.json: no server is needed", .kind = TI_OPT_TEXT, .target = &model},
                         {"skip-special", NULL, "special tokens have no text (offline only)", .kind = TI_OPT_FLAG, .target = &skip},
                         TI_SERVER_OPTS(s)};
  const ti_command cmd = {"detokenize",
                          "[FILE]",
                          "Prints the text of token ids (FILE or stdin; integers between blanks, commas, brackets), with nothing added.",
                          "example: echo '15 27 3' | titan detokenize --model models/titan-tiny-dense",
                          0,
                          1};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  ti_buf text;
  ti_ids ids;
  ti_buf_init(&text, (size_t)1 << 30);
  ti_ids_init(&ids, IDS_MAX);
  ti_status st = ti_tool_read_file(argv[first] ? argv[first] : "-", (size_t)1 << 30, &text, &err);
  if (!ti_failed(st)) st = parse_ids(ti_buf_str(&text), &ids, &err);
  if (!ti_failed(st)) st = model ? decode_offline(model, skip, &ids, &err) : decode_online(&s, &ids, &err);
  ti_ids_fini(&ids);
  ti_buf_fini(&text);
  return ti_failed(st) ? ti_tool_fail("detokenize", &err) : 0;
}
