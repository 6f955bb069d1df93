// `titan render`: a chat template applied to a JSON object from stdin, without a server. Whatever is wrong is told on stderr, with exit status 2.
//
// messages, tools, documents and add_generation_prompt are what transformers passes (null or false when absent); every other key is a variable of
// that name, and wins over the special tokens of --model.
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "client/tool/tool.h"
#include "model/chat.h"

enum { INPUT_MAX = 64 << 20 };

// "YYYY-MM-DD HH:MM:SS" in this process's zone.
static ti_status parse_now(const char *text, int64_t *out, ti_error *err) {
  struct tm tm = {.tm_isdst = -1};
  const char *end = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
  if (!end || *end) return ti_error_set(err, TI_ERR_ARG, "--now: expected 'YYYY-MM-DD HH:MM:SS', got '%s'", text);
  tm.tm_isdst = -1;
  *out = (int64_t)mktime(&tm);
  return TI_OK;
}

static void set_default(json_t *vars, const char *key, json_t *value) {
  if (json_object_get(vars, key))
    json_decref(value);
  else
    json_object_set_new(vars, key, value);
}

static ti_status render(const char *spec, const char *model, int64_t now, const ti_buf *in, ti_buf *out, ti_error *err) {
  ti_chat_template *t = NULL;
  json_t *vars = NULL, *special = NULL;
  ti_status st = ti_chat_template_open(spec, model, &t, err);
  if (!ti_failed(st)) st = ti_json_parse(ti_buf_str(in), in->len, &vars, err);
  if (!ti_failed(st) && !json_is_object(vars)) st = ti_error_set(err, TI_ERR_FORMAT, "stdin: expected a JSON object with messages");
  if (!ti_failed(st) && model) st = ti_chat_special_tokens(model, &special, err);
  if (!ti_failed(st)) {
    if (special) json_object_update_missing(vars, special);
    set_default(vars, "tools", json_null());
    set_default(vars, "documents", json_null());
    set_default(vars, "add_generation_prompt", json_false());
    st = ti_chat_render(t, vars, NULL, now, out, err);
  }
  json_decref(special);
  json_decref(vars);
  ti_chat_template_destroy(t);
  return st;
}

int ti_tool_render(int argc, char **argv) {
  const char *spec = NULL, *model = NULL, *now_text = NULL;
  const ti_opt opts[] = {
      {"chat-template", "FILE", "a Jinja file, or the name of a built-in family", .kind = TI_OPT_TEXT, .target = &spec},
      {"model", "DIR", "a model's folder: its template and its special tokens", .kind = TI_OPT_TEXT, .target = &model},
      {"now", "'YYYY-MM-DD HH:MM:SS'", "what strftime_now formats, in place of the time", .kind = TI_OPT_TEXT, .target = &now_text}};
  const ti_command cmd = {"render",
                          NULL,
                          "Renders a chat template with a JSON object from stdin: messages, add_generation_prompt, tools, bos_token, eos_token; "
                          "every other key is a variable.",
                          "example: echo '{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"add_generation_prompt\": true}' | titan "
                          "render --chat-template chatml",
                          0,
                          0};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  ti_buf in, out;
  ti_buf_init(&in, INPUT_MAX);
  ti_buf_init(&out, (size_t)1 << 30);
  int64_t now = (int64_t)time(NULL);
  ti_status st = TI_OK;
  if (!spec && !model) st = ti_error_set(&err, TI_ERR_ARG, "give --chat-template FILE or --model DIR");
  if (!ti_failed(st) && now_text) st = parse_now(now_text, &now, &err);
  if (!ti_failed(st)) st = ti_tool_read(stdin, INPUT_MAX, &in, &err);
  if (!ti_failed(st)) st = render(spec, model, now, &in, &out, &err);
  if (!ti_failed(st) && fwrite(ti_buf_str(&out), 1, out.len, stdout) != out.len) st = ti_error_set(&err, TI_ERR_IO, "writing stdout");
  ti_buf_fini(&out);
  ti_buf_fini(&in);
  if (!ti_failed(st)) return 0;
  ti_tool_fail("render", &err);
  return 2;
}
