// Generations: made by a submit, read by cursor, forgotten keep_us after their end. All on one text thread (see door_priv.h).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "coordinator/frontdoor/door_priv.h"
#include "coordinator/gateway/params.h"

enum { SLICE_TOKENS = 512, TEXT_BYTES_MAX = 64 << 20 };

// ---- tables ----

static uint32_t id_bucket(const ti_door_thread *t, uint64_t id) { return (uint32_t)(id / t->d->n_thread) & (t->buckets - 1); }
static uint32_t key_bucket(const ti_door_thread *t, uint64_t key) { return (uint32_t)(key >> 20) & (t->buckets - 1); }

ti_door_gen *ti_door_gen_find(const ti_door_thread *t, uint64_t id) {
  ti_door_gen *g = t->by_id[id_bucket(t, id)];
  while (g && g->id != id) g = g->next_by_id;
  return g;
}

ti_door_gen *ti_door_gen_replayed(const ti_door_thread *t, const char *client_id, uint64_t nonce) {
  const uint64_t key = ti_door_key(client_id, nonce);
  ti_door_gen *g = t->by_key[key_bucket(t, key)];
  while (g && !(g->key == key && g->nonce == nonce && strcmp(g->client_id, client_id) == 0)) g = g->next_by_key;
  return g;
}

static void enter(ti_door_thread *t, ti_door_gen *g) {
  ti_door_gen **by_id = &t->by_id[id_bucket(t, g->id)], **by_key = &t->by_key[key_bucket(t, g->key)];
  g->next_by_id = *by_id;
  *by_id = g;
  g->next_by_key = *by_key;
  *by_key = g;
  t->n_gen++;
  if (t->d->generations) ti_metric_add(t->d->generations, 1);
}

static void leave(ti_door_thread *t, ti_door_gen *g) {
  ti_door_gen **at = &t->by_id[id_bucket(t, g->id)];
  while (*at && *at != g) at = &(*at)->next_by_id;
  if (!*at) return;  // it never entered
  *at = g->next_by_id;
  at = &t->by_key[key_bucket(t, g->key)];
  while (*at && *at != g) at = &(*at)->next_by_key;
  if (*at) *at = g->next_by_key;
  t->n_gen--;
  if (t->d->generations) ti_metric_add(t->d->generations, -1);
}

// ---- the end ----

static void unlist(ti_door_thread *t, ti_door_gen *g) {
  if (!g->expires_us) return;
  *(g->older ? &g->older->newer : &t->oldest) = g->newer;
  *(g->newer ? &g->newer->older : &t->newest) = g->older;
  g->expires_us = 0;
}

static void ended(ti_door_thread *t, ti_door_gen *g) {
  g->expires_us = ti_mono_us() + t->d->cfg.keep_us;
  g->older = t->newest;
  g->newer = NULL;
  *(t->newest ? &t->newest->newer : &t->oldest) = g;
  t->newest = g;
  if (g->expires_us < t->alarm.at_us) ti_text_alarm(t->th, &t->alarm, g->expires_us);
}

static void free_choice(ti_door_thread *t, ti_door_choice *c) {
  ti_sink_remove(t->th, &c->sink);
  ti_tokenlog_rele(c->log);
  ti_textstream_destroy(c->stream);
  ti_buf_fini(&c->text);
}

void ti_door_gen_destroy(ti_door_thread *t, ti_door_gen *g) {
  if (g->request && g->n_done < g->n_choice) t->d->cfg.backend.cancel(t->d->cfg.backend.self, g->request);
  leave(t, g);
  unlist(t, g);
  for (uint32_t i = 0; i < g->n_choice; i++) free_choice(t, &g->choice[i]);
  for (uint32_t i = 0; i < g->n_stop; i++) free(g->stop[i]);
  free(g->stop);
  free(g);
}

void ti_door_gen_expire(ti_door_thread *t, uint64_t now_us, bool at_least_one) {
  while (t->oldest && (at_least_one || t->oldest->expires_us <= now_us)) {
    ti_door_gen_destroy(t, t->oldest);
    at_least_one = false;
  }
}

// ---- reading ----

static void close_choice(ti_door_choice *c, ti_door_thread *t, const ti_tokenlog_state *log) {
  ti_door_gen *g = c->gen;
  const ti_textstream_state end = ti_textstream_peek(c->stream);
  const ti_backend *be = &t->d->cfg.backend;
  if (end.end != TI_TEXT_GOES_ON) {
    c->finish = TI_FINISH_STOP;
    if (end.end == TI_TEXT_STOP_STRING && end.stop_index < g->n_stop) c->reason = g->stop[end.stop_index];
    if (log->finish == TI_FINISH_NONE) be->finish(be->self, g->request, c->index, TI_FINISH_STOP, end.n_token);
  } else {
    c->finish = log->finish;
    c->reason = log->error;
  }
  ti_sink_remove(t->th, &c->sink);
  ti_textstream_destroy(c->stream);
  c->stream = NULL;
  if (++g->n_done == g->n_choice) ended(t, g);
}

static void fail_choice(ti_door_choice *c, ti_door_thread *t, const char *why) {
  const ti_backend *be = &t->d->cfg.backend;
  const ti_tokenlog_state failed = {.finish = TI_FINISH_ERROR, .error = why};
  be->finish(be->self, c->gen->request, c->index, TI_FINISH_ERROR, c->seen);
  close_choice(c, t, &failed);
}

void ti_door_choice_advance(ti_door_choice *c, ti_door_thread *t) {
  while (c->finish == TI_FINISH_NONE) {
    const ti_tokenlog_state log = ti_tokenlog_peek(c->log);
    uint32_t n = log.length > c->seen ? log.length - c->seen : 0;
    const bool last = n <= SLICE_TOKENS;
    if (!last) n = SLICE_TOKENS;
    if (n == 0 && log.finish == TI_FINISH_NONE) break;
    ti_status st = ti_textstream_push(c->stream, ti_tokenlog_ids(c->log) + c->seen, n, NULL, &c->text);
    const ti_textstream_state at = ti_textstream_peek(c->stream);
    if (!st) c->seen = at.n_token;
    const bool ends = at.end != TI_TEXT_GOES_ON || (last && log.finish != TI_FINISH_NONE);
    if (!st && ends) st = ti_textstream_finish(c->stream, &c->text);
    if (st)
      fail_choice(c, t, st == TI_ERR_FULL ? "the text is larger than the server's limit" : "out of memory");
    else if (ends)
      close_choice(c, t, &log);
  }
  for (ti_door_context *w = c->waiting, *next; w; w = next) {
    next = w->next_of_choice;
    if (ti_door_has_news(w, c)) ti_door_answer_tokens(t, w, c);
  }
}

static void moved(ti_sink *s, ti_text_thread *th) {
  ti_door_choice *c = (ti_door_choice *)(void *)s;
  ti_door_choice_advance(c, c->gen->thread);
}

// ---- making ----

static void *copy(const void *from, size_t n, size_t each) {
  void *v = n ? malloc(n * each) : NULL;
  if (v) memcpy(v, from, n * each);
  return v;
}

// The wire's message as the gateway's parameters: both doors are judged by the same rules.
static ti_status params_of(const ti_msg_submit *m, ti_gen_params *p) {
  ti_gen_params_init(p);
  p->sampling = m->sampling;
  p->sampling.bias_id.v = copy(m->sampling.bias_id.v, m->sampling.bias_id.n, sizeof(uint32_t));
  p->sampling.bias_value.v = copy(m->sampling.bias_value.v, m->sampling.bias_value.n, sizeof(float));
  p->sampling.n_prompt_logprob = -1;  // there is no reply for them
  p->has_seed = m->has_seed;
  p->has_max_tokens = m->max_tokens > 0;  // 0: what the context leaves
  p->max_tokens = m->max_tokens;
  p->min_tokens = m->min_tokens;
  p->ignore_eos = m->ignore_eos;
  p->n = m->n;
  p->priority = m->priority;
  p->stop_id = copy(m->stop_id.v, m->stop_id.n, sizeof(uint32_t));
  p->n_stop_id = m->stop_id.n;
  p->stop = m->stop.n ? calloc(m->stop.n, sizeof(*p->stop)) : NULL;
  for (uint32_t i = 0; i < m->stop.n && p->stop; i++) p->stop[i] = (ti_tok_text){m->stop.v[i], strlen(m->stop.v[i])};
  p->n_stop = p->stop ? m->stop.n : 0;
  const bool ok =
      (!m->sampling.bias_id.n || (p->sampling.bias_id.v && p->sampling.bias_value.v)) && (!m->stop_id.n || p->stop_id) && (!m->stop.n || p->stop);
  if (ok) return TI_OK;
  p->sampling.bias_id.n = p->sampling.bias_value.n = p->n_stop_id = 0;
  return TI_ERR_NOMEM;
}

static ti_status parse_array(const char *text, const char *name, json_t **out, ti_error *err) {
  const ti_status st = ti_json_parse(text, strlen(text), out, err);
  if (st) return ti_error_prefix(err, "%s", name);
  return json_is_array(*out) ? TI_OK : ti_error_set(err, TI_ERR_FORMAT, "%s: expected an array", name);
}

static ti_status render_chat(const ti_door_thread *t, const ti_msg_submit *m, ti_buf *out, ti_error *err) {
  json_t *given = NULL, *messages = NULL, *tools = NULL;
  ti_status st = parse_array(m->messages_json, "messages_json", &given, err);
  if (!st) st = ti_chat_messages(given, &messages, err);
  if (!st && m->tools_json && m->tools_json[0]) st = parse_array(m->tools_json, "tools_json", &tools, err);
  if (!st) {
    json_t *vars = json_pack("{s:O, s:O?, s:n, s:b}", "messages", messages, "tools", tools, "documents", "add_generation_prompt", 1);
    st = vars ? ti_prepare_chat(&t->d->cfg.model, vars, out, err) : ti_error_set(err, TI_ERR_NOMEM, "out of memory");
    json_decref(vars);
  }
  json_decref(tools);
  json_decref(messages);
  json_decref(given);
  return st;
}

static ti_status prompt_ids(ti_door_thread *t, const ti_msg_submit *m, ti_ids *ids, ti_error *err) {
  const ti_prompt_source *src = &t->d->cfg.model;
  if (m->prompt) return ti_prepare_text(src, ti_text_scratch(t->th), m->prompt, strlen(m->prompt), true, ids, err);
  if (m->prompt_ids.n) {
    for (uint32_t i = 0; i < m->prompt_ids.n; i++)
      if (ti_failed(ti_ids_push(ids, (int32_t)m->prompt_ids.v[i]))) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
    return TI_OK;
  }
  ti_buf text;
  ti_buf_init(&text, TI_TOK_MAX_TEXT_BYTES);
  ti_status st = render_chat(t, m, &text, err);
  if (!st) st = ti_prepare_text(src, ti_text_scratch(t->th), ti_buf_str(&text), text.len, false, ids, err);
  ti_buf_fini(&text);
  return st;
}

static ti_status keep_stops(ti_door_gen *g, const ti_gen_params *p) {
  if (!p->n_stop) return TI_OK;
  if (!(g->stop = calloc(p->n_stop, sizeof(*g->stop)))) return TI_ERR_NOMEM;
  for (uint32_t i = 0; i < p->n_stop; i++) {
    if (!(g->stop[i] = strndup(p->stop[i].s, p->stop[i].n))) return TI_ERR_NOMEM;
    g->n_stop++;
  }
  return TI_OK;
}

// A generation with its choices ready to be advanced; not submitted.
static ti_status make(ti_door_thread *t, const ti_msg_submit *m, const ti_gen_params *p, ti_door_gen **out) {
  ti_door_gen *g = calloc(1, sizeof(*g) + p->n * sizeof(g->choice[0]));
  if (!g) return TI_ERR_NOMEM;
  g->thread = t;
  ti_status st = keep_stops(g, p);
  for (uint32_t i = 0; i < p->n && !st; i++) {
    ti_door_choice *c = &g->choice[i];
    *c = (ti_door_choice){.sink = {.moved = moved}, .gen = g, .index = i};
    ti_buf_init(&c->text, TEXT_BYTES_MAX);
    g->n_choice++;
    st = ti_sink_add(t->th, &c->sink);
    if (!st) st = ti_textstream_create(t->d->cfg.model.tokenizer, p, &c->stream);
  }
  if (!st) st = ti_wire_random(g->capability, sizeof(g->capability));
  snprintf(g->client_id, sizeof(g->client_id), "%s", m->client_id);
  g->nonce = m->nonce;
  g->key = ti_door_key(m->client_id, m->nonce);
  g->id = ++t->serial * t->d->n_thread + t->index;
  if (st)
    ti_door_gen_destroy(t, g);
  else
    *out = g;
  return st;
}

static ti_status submit(ti_door_thread *t, const ti_msg_submit *m, const ti_gen_params *p, const ti_ids *ids, ti_door_gen *g, uint32_t *http_code,
                        ti_error *err) {
  void *owner[TI_GEN_MAX_N];
  ti_tokenlog *log[TI_GEN_MAX_N];
  uint32_t max_tokens;
  ti_request_spec *spec = NULL;
  for (uint32_t i = 0; i < g->n_choice; i++) owner[i] = g->choice[i].sink.handle;
  const ti_prepare prep = {.gen = p,
                           .lim = &t->d->cfg.model.lim,
                           .tokenizer = t->d->cfg.model.tokenizer,
                           .ids = (const uint32_t *)ids->v,
                           .n_ids = (uint32_t)ids->n,
                           .subscriber = ti_text_logs(t->th),
                           .owner = owner,
                           .deadline_us = m->timeout_ms ? ti_mono_us() + m->timeout_ms * 1000ull : 0};
  ti_status st = ti_prepare_spec(&prep, &spec, log, &max_tokens, err);
  if (st) return st;
  for (uint32_t i = 0; i < g->n_choice; i++) g->choice[i].log = log[i];
  st = t->d->cfg.backend.submit(t->d->cfg.backend.self, spec, &g->request);
  if (!st) return TI_OK;
  ti_request_spec_destroy(spec);
  g->request = 0;
  *http_code = st == TI_ERR_FULL ? 429 : st == TI_ERR_RANGE ? 400 : 503;
  return ti_error_set(err, st, "%s",
                      st == TI_ERR_FULL    ? "too many requests are waiting; try again in a moment"
                      : st == TI_ERR_RANGE ? "prompt and max_tokens need more KV cache than the server has"
                                           : "the server takes no requests: it is starting, shutting down, or a worker is gone");
}

ti_status ti_door_gen_create(ti_door_thread *t, const ti_msg_submit *m, ti_arena *arena, ti_door_gen **out, uint32_t *http_code, ti_error *err) {
  ti_gen_params p;
  ti_ids ids;
  ti_door_gen *g = NULL;
  ti_ids_init(&ids, TI_TOK_MAX_TEXT_BYTES);
  *http_code = 0;
  ti_status st = params_of(m, &p);
  if (st) ti_error_set(err, st, "out of memory");
  if (!st) st = ti_gen_params_check(&p, &t->d->cfg.model.lim, err);
  if (!st) st = prompt_ids(t, m, &ids, err);
  if (!st && (st = make(t, m, &p, &g))) ti_error_set(err, st, "%s", ti_status_text(st));
  if (!st) st = submit(t, m, &p, &ids, g, http_code, err);
  if (!st) {
    g->n_prompt = (uint32_t)ids.n;
    enter(t, g);
    *out = g;
  } else if (g) {
    ti_door_gen_destroy(t, g);
  }
  if (st && !*http_code) *http_code = st == TI_ERR_NOMEM ? 503 : st == TI_ERR_IO || st == TI_ERR_INTERNAL ? 500 : 400;
  ti_ids_fini(&ids);
  ti_gen_params_fini(&p);
  return st;
}
