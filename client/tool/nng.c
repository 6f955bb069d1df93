// `titan complete` and `titan chat` over the NNG door (see nng.h).
#include "client/tool/nng.h"

#include <string.h>

enum { WAIT_MS = 5000 };

ti_status ti_tool_nng_error(const titan_error *from, ti_error *err) {
  static const ti_status codes[] = {TI_OK,           TI_ERR_ARG,   TI_ERR_NOMEM, TI_ERR_PEER,   TI_ERR_AUTH,   TI_ERR_TIMEOUT, TI_ERR_AUTH,
                                    TI_ERR_NOTFOUND, TI_ERR_RANGE, TI_ERR_FULL,  TI_ERR_CLOSED, TI_ERR_FORMAT, TI_ERR_PEER,    TI_ERR_INTERNAL};
  const ti_status code = (unsigned)from->code < sizeof(codes) / sizeof(*codes) ? codes[from->code] : TI_ERR_INTERNAL;
  return ti_error_set(err, code, "%s", from->message);
}

ti_status ti_tool_nng_open(const ti_server *s, titan **out, ti_error *err) {
  titan_error why = {0};
  const titan_options o = {.url = s->url,
                           .api_key = s->api_key,
                           .ca_file = s->ca,
                           .cert_file = s->cert,
                           .key_file = s->key,
                           .server_name = s->server_name,
                           .timeout_ms = (uint32_t)(s->timeout_s * 1000)};
  return titan_open(&o, out, &why) ? ti_tool_nng_error(&why, err) : TI_OK;
}

static void set_request(titan_request *r, const ti_sampling_flags *f) {
  titan_request_init(r);
  if (f->max_tokens > 0) r->max_tokens = (uint32_t)f->max_tokens;
  r->min_tokens = (uint32_t)f->min_tokens;
  r->ignore_eos = f->ignore_eos;
  r->stop = f->stop.v;
  r->n_stop = (size_t)f->stop.n;
  if (f->temperature >= 0) r->temperature = (float)f->temperature;
  if (f->top_p >= 0) r->top_p = (float)f->top_p;
  if (f->min_p >= 0) r->min_p = (float)f->min_p;
  if (f->top_k > 0) r->top_k = (int32_t)f->top_k;
  if (f->repetition > 0) r->repetition_penalty = (float)f->repetition;
  r->frequency_penalty = (float)f->frequency;
  r->presence_penalty = (float)f->presence;
  r->has_seed = f->seed >= 0;
  r->seed = f->seed >= 0 ? (uint64_t)f->seed : 0;
}

static const char *finish_name(titan_finish f) {
  static const char *const n[] = {"", "stop", "length", "cancel", "error"};
  return (unsigned)f < sizeof(n) / sizeof(*n) ? n[f] : "error";
}

ti_status ti_tool_nng_generate(titan *t, const ti_server *s, const ti_sampling_flags *f, const char *prompt, const char *messages_json,
                               ti_text_fn on_text, void *arg, ti_stream_result *out, ti_error *err) {
  titan_request r;
  titan_generation g;
  titan_cursor at = {0};
  titan_error why = {0};
  set_request(&r, f);
  r.prompt = prompt;
  r.messages_json = messages_json;
  *out = (ti_stream_result){.prompt_tokens = -1, .completion_tokens = -1};
  if (titan_submit(t, &r, &g, &why)) return ti_tool_nng_error(&why, err);
  out->prompt_tokens = g.n_prompt;
  ti_status st = TI_OK;
  for (titan_finish end = TITAN_FINISH_NONE; end == TITAN_FINISH_NONE && !ti_failed(st);) {
    titan_chunk *c = NULL;
    if (titan_next(t, &g, 0, &at, WAIT_MS, &c, &why)) return ti_tool_nng_error(&why, err);
    end = c->finish;
    if (c->n_text) st = on_text(arg, c->text, c->n_text);
    if (end) snprintf(out->finish_reason, sizeof(out->finish_reason), "%s", finish_name(end));
    if (end == TITAN_FINISH_ERROR)
      st = ti_error_set(err, TI_ERR_ABORTED, "the server ended it: %s", c->stop_reason ? c->stop_reason : "(no reason given)");
    titan_chunk_free(c);
  }
  out->completion_tokens = at.token;
  if (ti_failed(st)) titan_cancel(t, &g, NULL, NULL);
  return st;
}

ti_status ti_tool_nng_complete(const ti_server *s, const ti_sampling_flags *f, const char *prompt, size_t n, bool echo, ti_stream_result *out,
                               ti_error *err) {
  titan *t = NULL;
  if (strlen(prompt) != n) return ti_error_set(err, TI_ERR_FORMAT, "the prompt holds a NUL byte");
  ti_status st = ti_tool_nng_open(s, &t, err);
  if (!ti_failed(st) && echo) st = ti_tool_print(NULL, prompt, n);
  if (!ti_failed(st)) st = ti_tool_nng_generate(t, s, f, prompt, NULL, ti_tool_print, NULL, out, err);
  titan_close(t);
  return st;
}
