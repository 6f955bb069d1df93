// `titan complete`: one prompt, its continuation streamed to stdout. Over HTTP, or over the NNG door (nng.c).
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/tool/nng.h"
#include "client/tool/tool.h"

enum { PROMPT_MAX = 16 << 20 };

static ti_status over_http(const ti_server *s, const ti_sampling_flags *f, const char *prompt, size_t n, bool echo, ti_stream_result *out,
                           ti_error *err) {
  ti_http_url url;
  char *model = NULL;
  json_t *body = NULL;
  ti_status st = ti_http_url_parse(s->url, &url, err);
  if (!ti_failed(st)) st = ti_tool_model_name(s, &url, &model, err);
  if (!ti_failed(st)) {
    json_t *text = json_stringn(prompt, n);
    if (!text) st = ti_error_set(err, TI_ERR_FORMAT, "the prompt is not UTF-8");
    body = json_pack("{s:s, s:o*, s:b, s:{s:b}}", "model", model, "prompt", text, "stream", 1, "stream_options", "include_usage", 1);
  }
  if (!ti_failed(st)) {
    ti_tool_put_sampling(f, body);
    if (echo) st = ti_tool_print(NULL, prompt, n);
  }
  if (!ti_failed(st)) st = ti_tool_stream(s, &url, "/v1/completions", body, ti_tool_print, NULL, out, err);
  json_decref(body);
  free(model);
  return st;
}

int ti_tool_complete(int argc, char **argv) {
  ti_server s = TI_SERVER_DEFAULT;
  ti_sampling_flags f = TI_SAMPLING_DEFAULT;
  f.max_tokens = 256;
  bool echo = false, verbose = false;
  const char *prompt = NULL;
  const ti_opt opts[] = {
      TI_SERVER_OPTS(s),
      TI_MODEL_OPT(s),
      TI_SAMPLING_OPTS(f),
      {"prompt", "TEXT", "the prompt, in place of the argument", .kind = TI_OPT_TEXT, .target = &prompt},
      {"echo", NULL, "print the prompt first", .kind = TI_OPT_FLAG, .target = &echo},
      {"verbose", NULL, "token counts and the reason of the end, on stderr", .kind = TI_OPT_FLAG, .target = &verbose, .letter = 'v'},
      TI_SERVER_TLS_OPTS(s)};
  const ti_command cmd = {"complete",
                          "[PROMPT]",
                          "Continues a text and streams the continuation to stdout. Without PROMPT, or with '-', the text comes from stdin.",
                          "example: titan complete -n 40 -t 0 'Once upon a time'",
                          0,
                          1};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  ti_buf in;
  ti_buf_init(&in, PROMPT_MAX);
  if (prompt && argv[first]) {
    fprintf(stderr, "titan complete: --prompt '%s' and the argument '%s': expected one of them\n", prompt, argv[first]);
    return 2;
  }
  const char *arg = prompt ? prompt : argv[first];
  ti_status st = arg && strcmp(arg, "-") != 0 ? ti_buf_puts(&in, arg) : ti_tool_read(stdin, PROMPT_MAX, &in, &err);
  ti_stream_result result = {.prompt_tokens = -1, .completion_tokens = -1};
  if (!ti_failed(st)) {
    if (ti_tool_is_http(s.url))
      st = over_http(&s, &f, ti_buf_str(&in), in.len, echo, &result, &err);
    else
      st = ti_tool_nng_complete(&s, &f, ti_buf_str(&in), in.len, echo, &result, &err);
  }
  ti_buf_fini(&in);
  if (ti_failed(st)) {
    if (!err.code) ti_error_set(&err, st, "%s", ti_status_text(st));
    return ti_tool_fail("complete", &err);
  }
  if (isatty(STDOUT_FILENO)) printf("\n");
  if (verbose)
    fprintf(stderr, "finish=%s prompt_tokens=%lld completion_tokens=%lld\n", result.finish_reason, (long long)result.prompt_tokens,
            (long long)result.completion_tokens);
  return 0;
}
