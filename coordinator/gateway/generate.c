// Generating calls: from the body to the last token, on one text thread. Owns ti_gen: made by a route, destroyed when all choices are done, when the
// client left, or when something failed; c->gen is then NULL and later events find nothing.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/gateway/generate_priv.h"

enum { SLICE_TOKENS = 512 };  // read at once: a reader that catches up gets chunks, not one enormous event

static ti_gateway *gw_of(const ti_gen *g) { return g->call->gw; }
static const ti_backend *backend_of(const ti_gen *g) { return &g->call->gw->cfg.backend; }

static void count_tokens(ti_gen *g) {
  uint32_t n = 0;
  for (uint32_t i = 0; g->choice && i < g->n_choice; i++) n += g->choice[i].seen;
  atomic_store(&g->call->n_tokens, n);
}

static void gen_destroy(ti_gen *g, ti_text_thread *th) {
  count_tokens(g);
  for (uint32_t i = 0; g->choice && i < g->n_choice; i++) {
    ti_choice *c = &g->choice[i];
    ti_sink_remove(th, &c->sink);
    ti_tokenlog_rele(c->log);
    ti_textstream_destroy(c->stream);
    ti_buf_fini(&c->text);
    free(c->offset);
  }
  for (uint32_t i = 0; g->prompt && i < g->n_prompt; i++) {
    ti_ids_fini(&g->prompt[i].owned);
    ti_buf_fini(&g->prompt[i].text);
    free(g->prompt[i].offset);
  }
  free(g->choice);
  free(g->prompt);
  ti_buf_fini(&g->head);
  ti_buf_fini(&g->piece);
  ti_buf_fini(&g->chunk);
  ti_api_request_fini(&g->req);
  g->call->gen = NULL;
  ti_call_rele(g->call);
  free(g);
}

static void cancel_all(ti_gen *g) {
  for (uint32_t i = 0; i < g->n_prompt; i++) {
    if (g->prompt[i].submitted && g->prompt[i].n_done < g->req.gen.n) backend_of(g)->cancel(backend_of(g)->self, g->prompt[i].id);
  }
}

static bool stream_begun(const ti_gen *g) { return g->last_write_us != 0; }

// Cancels, answers with an error (or, within a stream, an error event), and destroys g.
static void gen_fail(ti_gen *g, ti_text_thread *th, unsigned status, const char *message) {
  cancel_all(g);
  if (stream_begun(g)) {
    ti_buf_reset(&g->chunk);
    ti_buf_puts(&g->chunk, "data: ");
    ti_api_error_write(&g->chunk, status, NULL, NULL, message);
    ti_buf_puts(&g->chunk, "\n\ndata: [DONE]\n\n");
    if (ti_call_write(g->call, th, ti_buf_str(&g->chunk), g->chunk.len)) {
      ti_call_end(g->call, th);
    } else {
      ti_call_cut(g->call, th);
    }
  } else {
    ti_call_fail(g->call, status, NULL, NULL, "%s", message);
  }
  gen_destroy(g, th);
}

void ti_gen_gone(ti_gen *g, ti_text_thread *th) {
  cancel_all(g);
  if (stream_begun(g)) {
    ti_call_cut(g->call, th);
  } else {
    ti_call_fail(g->call, 499, NULL, NULL, "the client left");  // nobody reads it; the connection must wake up to close
  }
  gen_destroy(g, th);
}

void ti_gen_stop(ti_gen *g, ti_text_thread *th) { gen_fail(g, th, 503, "the server is shutting down"); }

// ---- reading ----

// The last choice is done: the whole answer, or the stream's end. Destroys g.
static void gen_complete(ti_gen *g, ti_text_thread *th) {
  count_tokens(g);  // before the answer: the access log reads it
  if (!g->req.stream) {
    ti_buf body;
    ti_buf_init(&body, gw_of(g)->cfg.max_answer_bytes);
    ti_respond_json(g, &body);
    if (body.failed) {
      ti_buf_fini(&body);
      ti_call_fail(g->call, 500, NULL, NULL, "the answer is larger than %zu bytes: ask for less at once, or stream", gw_of(g)->cfg.max_answer_bytes);
    } else {
      ti_call_reply(g->call, 200, "application/json", &body);
    }
  } else {
    ti_buf_reset(&g->chunk);
    ti_sse_last(g, &g->chunk);
    ti_call_write(g->call, th, g->chunk.data, g->chunk.len);
    ti_call_end(g->call, th);
  }
  gen_destroy(g, th);
}

// c ends with what it has read. The text's own end wins over the log's: a stop string is found before the worker hears of it.
static void close_choice(ti_choice *c, ti_text_thread *th, const ti_tokenlog_state *log) {
  ti_gen *g = c->gen;
  c->end = ti_textstream_peek(c->stream);
  c->finish = c->end.end != TI_TEXT_GOES_ON || log->finish == TI_FINISH_STOP ? "stop" : "length";
  c->done = true;
  if (c->end.end != TI_TEXT_GOES_ON && log->finish == TI_FINISH_NONE)
    backend_of(g)->finish(backend_of(g)->self, g->prompt[c->prompt].id, c->k, TI_FINISH_STOP, c->end.n_token);
  ti_sink_remove(th, &c->sink);
  g->n_done++;
  g->prompt[c->prompt].n_done++;
}

static bool write_chunk(ti_choice *c, ti_text_thread *th, uint32_t from, uint32_t to) {
  ti_gen *g = c->gen;
  ti_buf_reset(&g->chunk);
  ti_sse_chunk(g, c, ti_buf_str(&g->piece), g->piece.len, from, to, &g->chunk);
  if (g->chunk.failed || !ti_call_write(g->call, th, g->chunk.data, g->chunk.len)) return false;
  g->last_write_us = ti_mono_us();
  return true;
}

// Reads what c's log has. Returns false when g is destroyed.
static bool choice_advance(ti_choice *c, ti_text_thread *th) {
  ti_gen *g = c->gen;
  while (!c->done) {
    if (g->req.stream && ti_call_is_full(g->call)) return true;  // DRAINED comes
    const ti_tokenlog_state log = ti_tokenlog_peek(c->log);
    if (log.finish == TI_FINISH_ERROR || log.finish == TI_FINISH_CANCEL) {
      gen_fail(g, th, log.finish == TI_FINISH_ERROR ? 500 : 503, log.error ? log.error : "the request was cancelled by the server");
      return false;
    }
    const bool scored = !g->req.echo || !g->req.logprobs || log.n_prompt >= g->prompt[c->prompt].n_ids;
    if (!scored && log.finish == TI_FINISH_NONE) return true;
    if (!scored) {
      gen_fail(g, th, 500, "the prompt's logprobs did not come");
      return false;
    }
    const uint32_t from = c->seen;
    uint32_t n = log.length > from ? log.length - from : 0;
    const bool last = n <= SLICE_TOKENS;
    if (!last) n = SLICE_TOKENS;
    if (n == 0 && log.finish == TI_FINISH_NONE) return true;
    ti_buf *text = g->req.stream ? &g->piece : &c->text;
    ti_buf_reset(&g->piece);
    ti_status st = ti_textstream_push(c->stream, ti_tokenlog_ids(c->log) + from, n, c->offset ? c->offset + from : NULL, text);
    const ti_textstream_state at = ti_textstream_peek(c->stream);
    c->seen = at.n_token;
    const bool ends = at.end != TI_TEXT_GOES_ON || (last && log.finish != TI_FINISH_NONE);
    if (!st && ends) st = ti_textstream_finish(c->stream, text);
    if (st) {
      gen_fail(g, th, 500, st == TI_ERR_FULL ? "the answer's text is larger than the server's limit" : "out of memory");
      return false;
    }
    if (ends) close_choice(c, th, &log);
    const bool tokens_shown = g->req.logprobs || g->req.return_token_ids;
    const bool worth = ends || g->piece.len || (tokens_shown && c->seen > from) || (!c->opened && (g->req.echo || g->req.kind == TI_API_CHAT));
    if (g->req.stream && worth && !write_chunk(c, th, from, c->seen)) {
      ti_gen_gone(g, th);
      return false;
    }
    if (ends && g->n_done == g->n_choice) {
      gen_complete(g, th);
      return false;
    }
  }
  return true;
}

static void choice_moved(ti_sink *s, ti_text_thread *th) { choice_advance((ti_choice *)(void *)s, th); }

static void choice_tick(ti_sink *s, ti_text_thread *th, uint64_t now_us) {
  ti_gen *g = ((ti_choice *)(void *)s)->gen;
  static const char ping[] = ": ping\n\n";
  const uint64_t since = g->last_write_us ? g->last_write_us : g->call->start_us;
  if (!g->req.stream || now_us - since < gw_of(g)->cfg.ping_interval_s * 1000000 || ti_call_is_full(g->call)) return;
  if (ti_call_write(g->call, th, ping, sizeof ping - 1)) g->last_write_us = now_us;
}

void ti_gen_drained(ti_gen *g, ti_text_thread *th) {
  for (uint32_t i = 0; i < g->n_choice; i++) {
    if (!g->choice[i].done && !choice_advance(&g->choice[i], th)) return;
  }
}

// ---- starting ----

// Characters before each prompt token, for text_offset.
static ti_status prompt_offsets(const ti_gen *g, ti_gen_prompt *p, bool skip_special) {
  const ti_tokenizer *tok = gw_of(g)->cfg.model.tokenizer;
  p->offset = calloc(p->n_ids, sizeof *p->offset);
  if (!p->offset) return TI_ERR_NOMEM;
  if (!tok) return TI_OK;
  ti_detok d;
  ti_buf b;
  size_t chars = 0;
  ti_status st = TI_OK;
  ti_detok_init(&d, tok, skip_special ? TI_TOK_SKIP_SPECIAL : 0);
  ti_buf_init(&b, 4 * TI_TOK_MAX_TOKEN_BYTES);
  for (uint32_t i = 0; i < p->n_ids && !st; i++) {
    p->offset[i] = (uint32_t)chars;
    ti_buf_reset(&b);
    st = ti_detok_push(&d, (int32_t)p->ids[i], &b);
    chars += ti_utf8_count(b.data, b.len);
  }
  ti_buf_fini(&b);
  return st;
}

static ti_status echo_text(const ti_gen *g, ti_gen_prompt *p, const ti_prompt *from, ti_error *err) {
  const ti_tokenizer *tok = gw_of(g)->cfg.model.tokenizer;
  ti_status st = TI_OK;
  ti_buf_init(&p->text, 2 * (size_t)TI_TOK_MAX_TEXT_BYTES);
  if (from->text) {
    st = ti_buf_append(&p->text, from->text, from->n_text);
  } else if (tok) {
    st = ti_tokenizer_decode(tok, (const int32_t *)p->ids, p->n_ids, 0, &p->text, err);
  }
  if (!st && g->req.logprobs) st = prompt_offsets(g, p, from->text != NULL);
  return st ? ti_error_set(err, st, "prompt: cannot be echoed: %s", ti_status_text(st)) : TI_OK;
}

static ti_status make_prompts(ti_gen *g, ti_text_thread *th, ti_error *err) {
  const ti_prompt_source *m = &gw_of(g)->cfg.model;
  g->n_prompt = g->req.kind == TI_API_CHAT ? 1 : g->req.n_prompt;
  g->prompt = calloc(g->n_prompt, sizeof *g->prompt);
  if (!g->prompt) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  ti_buf chat;
  ti_buf_init(&chat, TI_TOK_MAX_TEXT_BYTES);
  ti_status st = g->req.kind == TI_API_CHAT ? ti_prepare_chat(m, g->req.vars, &chat, err) : TI_OK;
  for (uint32_t i = 0; i < g->n_prompt && !st; i++) {
    ti_gen_prompt *p = &g->prompt[i];
    const ti_prompt rendered = {.text = ti_buf_str(&chat), .n_text = chat.len};
    const ti_prompt *from = g->req.kind == TI_API_CHAT ? &rendered : &g->req.prompt[i];
    ti_ids_init(&p->owned, ti_prepare_max_ids(&m->lim));
    if (from->text) st = ti_prepare_text(m, ti_text_scratch(th), from->text, from->n_text, g->req.add_special_tokens, &p->owned, err);
    p->ids = from->text ? (const uint32_t *)p->owned.v : from->ids;
    p->n_ids = from->text ? (uint32_t)p->owned.n : from->n_ids;
    if (!st && g->req.echo) st = echo_text(g, p, from, err);
  }
  ti_buf_fini(&chat);
  return st;
}

static ti_status make_choices(ti_gen *g, ti_text_thread *th, ti_error *err) {
  const uint32_t n = g->req.gen.n;
  g->choice = calloc((size_t)g->n_prompt * n, sizeof *g->choice);
  if (!g->choice) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  g->n_choice = g->n_prompt * n;
  for (uint32_t i = 0; i < g->n_choice; i++) {
    ti_choice *c = &g->choice[i];
    *c = (ti_choice){.sink = {.moved = choice_moved, .tick = choice_tick}, .gen = g, .index = i, .prompt = i / n, .k = i % n};
    ti_buf_init(&c->text, gw_of(g)->cfg.max_answer_bytes);
    ti_status st = ti_sink_add(th, &c->sink);
    if (!st) st = ti_textstream_create(gw_of(g)->cfg.model.tokenizer, &g->req.gen, &c->stream);
    const ti_gen_prompt *p = &g->prompt[c->prompt];
    if (!st && g->req.echo && !g->req.stream) st = ti_buf_append(&c->text, p->text.data, p->text.len);
    if (st) return ti_error_set(err, st, "%s", ti_status_text(st));
  }
  return TI_OK;
}

static ti_status submit_prompt(ti_gen *g, ti_text_thread *th, uint32_t i, bool *refused, ti_error *err) {
  const ti_gateway_config *cfg = &gw_of(g)->cfg;
  ti_gen_prompt *p = &g->prompt[i];
  void *owner[TI_GEN_MAX_N];
  ti_tokenlog *log[TI_GEN_MAX_N];
  const uint32_t n = g->req.gen.n;
  for (uint32_t k = 0; k < n; k++) owner[k] = g->choice[i * n + k].sink.handle;
  const ti_prepare prep = {.gen = &g->req.gen,
                           .lim = &cfg->model.lim,
                           .tokenizer = cfg->model.tokenizer,
                           .ids = p->ids,
                           .n_ids = p->n_ids,
                           .subscriber = ti_text_logs(th),
                           .owner = owner};
  ti_request_spec *spec = NULL;
  uint32_t max_tokens = 0;
  ti_status st = ti_prepare_spec(&prep, &spec, log, &max_tokens, err);
  if (st) return st;
  for (uint32_t k = 0; k < n; k++) {
    ti_choice *c = &g->choice[i * n + k];
    c->log = log[k];
    if (g->req.kind == TI_API_COMPLETION && g->req.logprobs && max_tokens) {
      c->offset = malloc(max_tokens * sizeof *c->offset);
      if (!c->offset) st = TI_ERR_NOMEM;
    }
  }
  if (!st) st = cfg->backend.submit(cfg->backend.self, spec, &p->id);
  if (st) {
    ti_request_spec_destroy(spec);
    *refused = true;
    return ti_error_set(err, st, "%s", ti_status_text(st));
  }
  p->submitted = true;
  return TI_OK;
}

static void refuse(ti_gen *g, ti_text_thread *th, const ti_error *err, bool by_backend) {
  ti_call *c = g->call;
  cancel_all(g);
  if (!by_backend) {
    ti_call_fail_error(c, err);
  } else if (err->code == TI_ERR_FULL) {
    c->retry_after_s = 1;
    ti_call_fail(c, 429, NULL, "queue_full", "too many requests are waiting; try again in a moment");
  } else if (err->code == TI_ERR_CLOSED) {
    c->retry_after_s = 5;
    ti_call_fail(c, 503, NULL, NULL, "the server takes no requests: it is starting, shutting down, or a worker is gone");
  } else if (err->code == TI_ERR_RANGE) {
    ti_call_fail(c, 400, NULL, "context_length_exceeded", "prompt and max_tokens need more KV cache than the server has");
  } else {
    ti_call_fail(c, 503, NULL, NULL, "%s", err->text);
  }
  gen_destroy(g, th);
}

// echo with max_tokens 0 and without logprobs: the answer is known.
static void echo_only(ti_gen *g, ti_text_thread *th) {
  for (uint32_t i = 0; i < g->n_choice; i++) {
    ti_choice *c = &g->choice[i];
    c->done = true;
    c->finish = "length";
    if (g->req.stream && !write_chunk(c, th, 0, 0)) {
      ti_gen_gone(g, th);
      return;
    }
  }
  g->n_done = g->n_choice;
  gen_complete(g, th);
}

static void run(ti_call *call, ti_text_thread *th, ti_status (*parse)(const char *, size_t, const ti_gen_limits *, ti_api_request *, ti_error *)) {
  ti_gateway *gw = call->gw;
  ti_gen *g = calloc(1, sizeof *g);
  if (!g) {
    ti_call_fail(call, 503, NULL, NULL, "out of memory");
    return;
  }
  g->call = ti_call_hold(call);
  call->gen = g;
  ti_error err = {0};
  bool refused = false;
  ti_status st = parse(ti_buf_str(&call->body), call->body.len, &gw->cfg.model.lim, &g->req, &err);
  ti_call_drop_body(call);
  if (!st && !ti_model_is_served(call, g->req.model)) {
    gen_destroy(g, th);
    return;
  }
  g->created = ti_wall_s();
  snprintf(g->id, sizeof g->id, "%s-%s", g->req.kind == TI_API_CHAT ? "chatcmpl" : "cmpl", call->request_id);
  ti_buf_init(&g->head, 8192);
  ti_buf_init(&g->piece, gw->cfg.max_answer_bytes);
  ti_buf_init(&g->chunk, gw->cfg.max_answer_bytes);
  if (!st) st = make_prompts(g, th, &err);
  if (!st) st = make_choices(g, th, &err);
  if (!st && g->req.stream) ti_sse_head(g);
  const bool nothing = !st && g->req.gen.max_tokens == 0 && g->req.gen.has_max_tokens && !g->req.logprobs;
  uint32_t n = 0;
  for (uint32_t i = 0; i < g->n_prompt && !st; i++) {
    n += g->prompt[i].n_ids;
    if (!nothing) st = submit_prompt(g, th, i, &refused, &err);
  }
  atomic_store(&call->n_prompt_tokens, n);
  if (st) {
    refuse(g, th, &err, refused);
  } else if (nothing) {
    echo_only(g, th);
  }
}

void ti_route_completions(ti_call *c, ti_text_thread *th) { run(c, th, ti_api_parse_completion); }
void ti_route_chat(ti_call *c, ti_text_thread *th) { run(c, th, ti_api_parse_chat); }
