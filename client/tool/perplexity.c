// `titan perplexity`: exp of the mean negative log-likelihood of a text under the served model, as llama.cpp's tool counts it.
//
//   ids:  | chunk 0: first half gives context, second half counts | chunk 1 | ...
//                              c/2 + 1 .. c - 1 of each chunk: 255 tokens of 512
//
// A chunk is one request: its ids as prompt, echo, logprobs 0 and max_tokens 0 return the logprob of every prompt token.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/tool/tool.h"
#include "model/tokenizer.h"

enum { TEXT_MAX = 64 << 20 };

typedef struct job {
  ti_server s;
  ti_http_url url;
  const char *model_dir;  // tokenizes here; NULL: the server does
  char *name;
  bool no_special, verbose;
  int64_t chunk, max_chunks;
  int64_t bos;  // -1: none
  json_t *ids;
} job;

static ti_status tokenize_here(job *j, const ti_buf *text, ti_error *err) {
  ti_tokenizer *t = NULL;
  ti_tok_scratch *scratch = NULL;
  ti_ids ids;
  ti_ids_init(&ids, TEXT_MAX);
  ti_status st = ti_tokenizer_load(j->model_dir, &t, err);
  if (!ti_failed(st)) st = ti_tok_scratch_create(&scratch);
  if (!ti_failed(st)) st = ti_tokenizer_encode(t, scratch, ti_buf_str(text), text->len, 0, &ids, err);
  for (size_t i = 0; i < ids.n && !ti_failed(st); i++) json_array_append_new(j->ids, json_integer(ids.v[i]));
  if (!ti_failed(st) && !j->no_special && ti_tokenizer_adds_bos(t)) j->bos = ti_tokenizer_bos(t);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(scratch);
  ti_tokenizer_destroy(t);
  return st;
}

static ti_status ask_tokens(job *j, const char *text, size_t n, bool special, json_t **out, ti_error *err) {
  json_t *prompt = json_stringn(text, n), *doc = NULL;
  if (!prompt) return ti_error_set(err, TI_ERR_FORMAT, "the text is not UTF-8");
  const ti_status st = ti_tool_json(&j->s, &j->url, "/tokenize", json_pack("{s:o, s:b}", "prompt", prompt, "add_special_tokens", special), &doc, err);
  if (ti_failed(st)) return st;
  *out = json_incref(json_object_get(doc, "tokens"));
  json_decref(doc);
  return json_is_array(*out) ? TI_OK : ti_error_set(err, TI_ERR_FORMAT, "/tokenize: no \"tokens\" in the answer; give --tokenizer DIR");
}

static ti_status tokenize_there(job *j, const ti_buf *text, ti_error *err) {
  json_t *ids = NULL, *empty = NULL;
  ti_status st = ask_tokens(j, ti_buf_str(text), text->len, false, &ids, err);
  if (!ti_failed(st)) json_array_extend(j->ids, ids);
  if (!ti_failed(st) && !j->no_special) {  // what is put before an empty text is the BOS
    st = ask_tokens(j, "a", 1, true, &empty, err);
    json_t *plain = NULL;
    if (!ti_failed(st)) st = ask_tokens(j, "a", 1, false, &plain, err);
    if (!ti_failed(st) && json_array_size(empty) > json_array_size(plain)) j->bos = json_integer_value(json_array_get(empty, 0));
    json_decref(plain);
  }
  json_decref(ids);
  json_decref(empty);
  return st;
}

// Adds the counted tokens of chunk k.
static ti_status score(job *j, size_t k, double *nll, uint64_t *n, ti_error *err) {
  const size_t c = (size_t)j->chunk;
  json_t *prompt = json_array(), *doc = NULL;
  for (size_t i = 0; i < c; i++)
    json_array_append_new(prompt, json_integer(i == 0 && j->bos >= 0 ? j->bos : json_integer_value(json_array_get(j->ids, k * c + i))));
  json_t *body =
      json_pack("{s:s, s:o, s:b, s:i, s:i, s:i}", "model", j->name, "prompt", prompt, "echo", 1, "logprobs", 0, "max_tokens", 0, "temperature", 0);
  ti_status st = ti_tool_json(&j->s, &j->url, "/v1/completions", body, &doc, err);
  if (ti_failed(st)) return st;
  const json_t *list = json_object_get(json_object_get(json_array_get(json_object_get(doc, "choices"), 0), "logprobs"), "token_logprobs");
  if (json_array_size(list) != c)
    st = ti_error_set(err, TI_ERR_FORMAT, "chunk %zu: %zu logprobs for %zu prompt tokens; does the server do echo with logprobs?", k,
                      json_array_size(list), c);
  for (size_t i = c / 2 + 1; i < c && !ti_failed(st); i++) {
    const json_t *v = json_array_get(list, i);
    if (!json_is_number(v)) st = ti_error_set(err, TI_ERR_FORMAT, "chunk %zu: token %zu has no logprob", k, i);
    *nll -= json_number_value(v);
    ++*n;
  }
  json_decref(doc);
  return st;
}

static ti_status run(job *j, const char *file, ti_error *err) {
  ti_buf text;
  double nll = 0;
  uint64_t n = 0;
  ti_buf_init(&text, TEXT_MAX);
  ti_status st = ti_http_url_parse(j->s.url, &j->url, err);
  if (!ti_failed(st)) st = ti_tool_read_file(file, TEXT_MAX, &text, err);
  if (!ti_failed(st)) st = ti_tool_model_name(&j->s, &j->url, &j->name, err);
  if (!ti_failed(st)) st = j->model_dir ? tokenize_here(j, &text, err) : tokenize_there(j, &text, err);
  const size_t n_ids = json_array_size(j->ids);
  size_t chunks = n_ids / (size_t)j->chunk;
  if (!ti_failed(st) && !chunks)
    st = ti_error_set(err, TI_ERR_RANGE, "%s: %zu tokens are less than a chunk of %lld", file, n_ids, (long long)j->chunk);
  if (j->max_chunks && chunks > (size_t)j->max_chunks) chunks = (size_t)j->max_chunks;
  for (size_t k = 0; k < chunks && !ti_failed(st); k++) {
    st = score(j, k, &nll, &n, err);
    if (!ti_failed(st) && j->verbose) fprintf(stderr, "chunk %zu of %zu: %.4f so far\n", k + 1, chunks, exp(nll / (double)n));
  }
  if (!ti_failed(st))
    printf("{\"perplexity\": %.6f, \"nll\": %.8f, \"tokens\": %llu, \"chunks\": %zu, \"chunk\": %lld, \"text_tokens\": %zu}\n", exp(nll / (double)n),
           nll / (double)n, (unsigned long long)n, chunks, (long long)j->chunk, n_ids);
  ti_buf_fini(&text);
  return st;
}

int ti_tool_perplexity(int argc, char **argv) {
  job j = {.s = TI_SERVER_DEFAULT, .chunk = 512, .max_chunks = 20, .bos = -1};
  const ti_opt opts[] = {
      TI_SERVER_OPTS(j.s),
      TI_MODEL_OPT(j.s),
      {"tokenizer", "DIR", "tokenize here with a model's folder, not on the server", .kind = TI_OPT_TEXT, .target = &j.model_dir},
      {"chunk", "N", "tokens of a chunk; the second half of each counts", .kind = TI_OPT_INT, .target = &j.chunk, .lo = 4, .hi = 1e6},
      {"max-chunks", "N", "at most so many chunks (0: all)", .kind = TI_OPT_INT, .target = &j.max_chunks, .lo = 0, .hi = 1e9},
      {"no-special", NULL, "no BOS in place of each chunk's first token", .kind = TI_OPT_FLAG, .target = &j.no_special},
      {"verbose", NULL, "a line a chunk on stderr", .kind = TI_OPT_FLAG, .target = &j.verbose, .letter = 'v'}};
  const ti_command cmd = {"perplexity",
                          "FILE",
                          "Perplexity of a text ('-': stdin) under the served model; one line of JSON.",
                          "Token c/2 + 1 up to the last of each chunk of c tokens count, as in llama.cpp's tool.",
                          1,
                          1};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  j.ids = json_array();
  const ti_status st = run(&j, argv[first], &err);
  json_decref(j.ids);
  free(j.name);
  return ti_failed(st) ? ti_tool_fail("perplexity", &err) : 0;
}
