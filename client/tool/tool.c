// Helpers of the commands (see tool.h): one JSON exchange, a streamed one, reading files. Main thread only.
#include "client/tool/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int ti_tool_fail(const char *command, const ti_error *err) {
  fflush(stdout);
  fprintf(stderr, "titan %s: %s\n", command, err->text[0] ? err->text : ti_status_text(err->code));
  switch (err->code) {
    case TI_ERR_ARG:
    case TI_ERR_FORMAT:
    case TI_ERR_RANGE:
    case TI_ERR_UNSUPPORTED:
    case TI_ERR_NOTFOUND:
      return 2;
    default:
      return 1;
  }
}

ti_status ti_tool_read(FILE *f, size_t max, ti_buf *out, ti_error *err) {
  for (;;) {
    char *room;
    const size_t want = max - out->len < 65536 ? max - out->len + 1 : 65536;
    char over[65536];
    const size_t n = fread(over, 1, want, f);
    if (n == 0) break;
    if (n > max - out->len) return ti_error_set(err, TI_ERR_RANGE, "the input has more than %zu bytes", max);
    if (ti_failed(ti_buf_reserve(out, n, &room))) return ti_error_set(err, TI_ERR_NOMEM, "no memory for %zu bytes of input", out->len + n);
    memcpy(room, over, n);
    ti_buf_commit(out, n);
  }
  return ferror(f) ? ti_error_set(err, TI_ERR_IO, "reading: %s", strerror(errno)) : TI_OK;
}

ti_status ti_tool_read_file(const char *path, size_t max, ti_buf *out, ti_error *err) {
  if (strcmp(path, "-") == 0) return ti_tool_read(stdin, max, out, err);
  FILE *f = fopen(path, "re");
  if (!f) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  const ti_status st = ti_tool_read(f, max, out, err);
  fclose(f);
  return ti_failed(st) ? ti_error_prefix(err, "%s", path) : TI_OK;
}

bool ti_tool_is_http(const char *url) { return strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0 || !strstr(url, "://"); }

void ti_tool_put_sampling(const ti_sampling_flags *f, json_t *body) {
  if (f->temperature >= 0) json_object_set_new(body, "temperature", json_real(f->temperature));
  if (f->top_p >= 0) json_object_set_new(body, "top_p", json_real(f->top_p));
  if (f->top_k >= -1) json_object_set_new(body, "top_k", json_integer(f->top_k));
  if (f->min_p >= 0) json_object_set_new(body, "min_p", json_real(f->min_p));
  if (f->repetition > 0) json_object_set_new(body, "repetition_penalty", json_real(f->repetition));
  if (f->frequency != 0) json_object_set_new(body, "frequency_penalty", json_real(f->frequency));
  if (f->presence != 0) json_object_set_new(body, "presence_penalty", json_real(f->presence));
  if (f->seed >= 0) json_object_set_new(body, "seed", json_integer(f->seed));
  if (f->max_tokens > 0) json_object_set_new(body, "max_tokens", json_integer(f->max_tokens));
  if (f->min_tokens > 0) json_object_set_new(body, "min_tokens", json_integer(f->min_tokens));
  if (f->ignore_eos) json_object_set_new(body, "ignore_eos", json_true());
  if (f->stop.n) {
    json_t *list = json_array();
    for (int i = 0; i < f->stop.n; i++) json_array_append_new(list, json_string(f->stop.v[i]));
    json_object_set_new(body, "stop", list);
  }
}

static uint32_t timeout_ms(const ti_server *s) { return (uint32_t)(s->timeout_s * 1000); }

ti_status ti_tool_get(const ti_server *s, const ti_http_url *url, const char *path, ti_http_reply *out, ti_error *err) {
  const ti_http_request r = {.method = "GET", .path = path, .api_key = s->api_key, .timeout_ms = timeout_ms(s)};
  return ti_http_perform(url, &r, out, err);
}

ti_status ti_tool_json(const ti_server *s, const ti_http_url *url, const char *path, json_t *body, json_t **out, ti_error *err) {
  char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
  ti_http_reply reply = {0};
  ti_status st = TI_OK;
  if (body && !text) st = ti_error_set(err, TI_ERR_FORMAT, "the request is no valid JSON (is its text UTF-8?)");
  json_decref(body);
  const ti_http_request r = {.method = text ? "POST" : "GET",
                             .path = path,
                             .api_key = s->api_key,
                             .body = text,
                             .n_body = text ? strlen(text) : 0,
                             .timeout_ms = timeout_ms(s)};
  if (!ti_failed(st)) st = ti_http_perform(url, &r, &reply, err);
  if (!ti_failed(st) && reply.status / 100 != 2) st = ti_http_refusal(reply.status, ti_buf_str(&reply.body), reply.body.len, err);
  if (!ti_failed(st) && ti_failed(ti_json_parse(ti_buf_str(&reply.body), reply.body.len, out, err)))
    st = ti_error_prefix(err, "%s: the answer", path);
  ti_http_reply_fini(&reply);
  free(text);
  return st;
}

ti_status ti_tool_model_name(const ti_server *s, const ti_http_url *url, char **out, ti_error *err) {
  json_t *doc = NULL;
  if (s->model) {
    *out = strdup(s->model);
    return *out ? TI_OK : TI_ERR_NOMEM;
  }
  ti_status st = ti_tool_json(s, url, "/v1/models", NULL, &doc, err);
  if (ti_failed(st)) return st;
  const char *name = json_string_value(json_object_get(json_array_get(json_object_get(doc, "data"), 0), "id"));
  *out = name ? strdup(name) : NULL;
  json_decref(doc);
  return *out ? TI_OK : ti_error_set(err, TI_ERR_FORMAT, "/v1/models names no model; give --model");
}

// ---- streams ----

typedef struct stream {
  ti_sse sse;
  ti_text_fn on_text;
  void *arg;
  ti_stream_result *out;
  ti_error err;
  bool ended;  // [DONE]
} stream;

static ti_status take_choice(stream *s, const json_t *choice) {
  if (!json_is_object(choice) || json_integer_value(json_object_get(choice, "index")) != 0) return TI_OK;
  const json_t *delta = json_object_get(choice, "delta");
  const json_t *text = delta ? json_object_get(delta, "content") : json_object_get(choice, "text");
  const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
  if (finish) snprintf(s->out->finish_reason, sizeof(s->out->finish_reason), "%s", finish);
  return json_is_string(text) && json_string_length(text) ? s->on_text(s->arg, json_string_value(text), json_string_length(text)) : TI_OK;
}

static ti_status take_event(void *arg, const char *data, size_t n) {
  stream *s = arg;
  if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
    s->ended = true;
    return TI_OK;
  }
  json_t *doc = NULL;
  ti_status st = ti_json_parse(data, n, &doc, &s->err);
  if (ti_failed(st)) return ti_error_prefix(&s->err, "an event of the stream");
  const json_t *error = json_object_get(doc, "error");
  const char *message = json_string_value(json_object_get(error, "message"));
  if (json_is_object(error))
    st = ti_error_set(&s->err, TI_ERR_ABORTED, "the server ended the stream: %s", message ? message : "(no message)");
  else
    st = take_choice(s, json_array_get(json_object_get(doc, "choices"), 0));
  const json_t *usage = json_object_get(doc, "usage");
  if (json_is_object(usage)) {
    s->out->prompt_tokens = json_integer_value(json_object_get(usage, "prompt_tokens"));
    s->out->completion_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
  }
  json_decref(doc);
  return st;
}

ti_status ti_tool_stream(const ti_server *s, const ti_http_url *url, const char *path, const json_t *body, ti_text_fn on_text, void *arg,
                         ti_stream_result *out, ti_error *err) {
  *out = (ti_stream_result){.prompt_tokens = -1, .completion_tokens = -1};
  char *text = json_dumps(body, JSON_COMPACT);
  if (!text) return ti_error_set(err, TI_ERR_FORMAT, "the request is no valid JSON (is its text UTF-8?)");
  stream x = {.on_text = on_text, .arg = arg, .out = out};
  ti_sse_init(&x.sse, take_event, &x);
  const ti_http_request r = {.method = "POST",
                             .path = path,
                             .api_key = s->api_key,
                             .body = text,
                             .n_body = strlen(text),
                             .timeout_ms = timeout_ms(s),
                             .on_body = ti_sse_feed,
                             .arg = &x.sse};
  ti_http_reply reply;
  ti_status st = ti_http_perform(url, &r, &reply, err);
  if (ti_failed(st) && x.err.code && err) *err = x.err;
  if (!ti_failed(st) && reply.status / 100 != 2) st = ti_http_refusal(reply.status, ti_buf_str(&reply.body), reply.body.len, err);
  if (!ti_failed(st) && !x.ended && !out->finish_reason[0]) st = ti_error_set(err, TI_ERR_PEER, "the stream ended without a finish_reason");
  ti_http_reply_fini(&reply);
  ti_sse_fini(&x.sse);
  free(text);
  return st;
}

ti_status ti_tool_print(void *arg, const char *text, size_t n) {
  if (fwrite(text, 1, n, stdout) != n || fflush(stdout) != 0) return TI_ERR_IO;
  return TI_OK;
}
