// libtitan: the calls of titan.h. Each is one request and one reply of proto/wire.h; link.c carries them.
//
// Results that hold arrays (chunks, cluster status) live in one arena, whose owner is the first member of what the caller gets.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/link.h"

enum { WAIT_MAX_MS = 60000, REPLY_ARENA = 256 << 20 };

struct titan {
  ti_link *link;
  char client_id[129];
  char *api_key;
  uint32_t timeout_ms;
};

typedef struct chunk_box {
  titan_chunk out;  // first
  ti_arena arena;
} chunk_box;

typedef struct cluster_box {
  titan_cluster out;  // first
  ti_arena arena;
} cluster_box;

static const char *const names[] = {"TITAN_OK",         "TITAN_ERR_ARG",     "TITAN_ERR_NOMEM",       "TITAN_ERR_CONNECT",
                                    "TITAN_ERR_TLS",    "TITAN_ERR_TIMEOUT", "TITAN_ERR_AUTH",        "TITAN_ERR_NOTFOUND",
                                    "TITAN_ERR_CURSOR", "TITAN_ERR_BUSY",    "TITAN_ERR_UNAVAILABLE", "TITAN_ERR_PROTOCOL",
                                    "TITAN_ERR_SERVER", "TITAN_ERR_INTERNAL"};

const char *titan_status_name(titan_status st) { return (unsigned)st < sizeof(names) / sizeof(*names) ? names[st] : "TITAN_ERR_UNKNOWN"; }

const char *titan_version(void) { return TI_VERSION; }

titan_status titan_open(const titan_options *o, titan **out, titan_error *err) {
  if (!o || !o->url || !out) return ti_link_fail(err, TITAN_ERR_ARG, "titan_open: url and out are wanted");
  if (o->client_id && (!o->client_id[0] || strlen(o->client_id) > 128)) return ti_link_fail(err, TITAN_ERR_ARG, "client_id: expected 1..128 bytes");
  titan *t = calloc(1, sizeof(*t));
  if (!t) return ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  t->timeout_ms = o->timeout_ms ? o->timeout_ms : 30000;
  titan_status st = TITAN_OK;
  if (o->client_id) {
    snprintf(t->client_id, sizeof(t->client_id), "%s", o->client_id);
  } else {
    uint8_t r[16];
    if (ti_failed(ti_wire_random(r, sizeof(r)))) st = ti_link_fail(err, TITAN_ERR_INTERNAL, "the kernel gives no random bytes");
    for (size_t i = 0; i < sizeof(r) && !st; i++) snprintf(t->client_id + 2 * i, 3, "%02x", r[i]);
  }
  if (!st && o->api_key && !(t->api_key = strdup(o->api_key))) st = ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  if (!st) st = ti_link_open(o, &t->link, err);
  if (st) {
    titan_close(t);
    return st;
  }
  *out = t;
  return TITAN_OK;
}

void titan_close(titan *t) {
  if (!t) return;
  ti_link_close(t->link);
  free(t->api_key);
  free(t);
}

void titan_request_init(titan_request *r) {
  memset(r, 0, sizeof(*r));
  r->max_tokens = 256;
  r->temperature = r->top_p = r->repetition_penalty = 1;
  r->n = 1;
}

static titan_status check_request(const titan_request *r, titan_error *err) {
  const int given = (r->prompt != NULL) + (r->n_prompt_ids > 0) + (r->messages_json != NULL);
  if (given != 1) return ti_link_fail(err, TITAN_ERR_ARG, "prompt: %d of prompt, prompt_ids and messages_json given, exactly 1 belongs", given);
  if (r->n_stop > 64) return ti_link_fail(err, TITAN_ERR_ARG, "stop: %zu texts, at most 64", r->n_stop);
  if (r->n_stop_ids > 64) return ti_link_fail(err, TITAN_ERR_ARG, "stop_ids: %zu, at most 64", r->n_stop_ids);
  if (r->n_prompt_ids > UINT32_MAX || r->n_bias > UINT32_MAX) return ti_link_fail(err, TITAN_ERR_ARG, "prompt_ids, bias_ids: too many");
  if (r->n == 0) return ti_link_fail(err, TITAN_ERR_ARG, "n: 0, at least 1");
  return TITAN_OK;
}

titan_status titan_submit(titan *t, const titan_request *r, titan_generation *out, titan_error *err) {
  if (!t || !r || !out) return ti_link_fail(err, TITAN_ERR_ARG, "titan_submit: t, r and out are wanted");
  titan_status st = check_request(r, err);
  if (st) return st;
  uint64_t nonce = r->nonce;
  if (!nonce && ti_failed(ti_wire_random(&nonce, sizeof(nonce)))) return ti_link_fail(err, TITAN_ERR_INTERNAL, "the kernel gives no random bytes");
  ti_client_request q = {.kind = TI_CLI_SUBMIT};
  q.submit = (ti_msg_submit){.client_id = t->client_id,
                             .nonce = nonce,
                             .prompt = r->prompt,
                             .prompt_ids = {r->prompt_ids, (uint32_t)r->n_prompt_ids},
                             .messages_json = r->messages_json,
                             .tools_json = r->tools_json,
                             .max_tokens = r->max_tokens,
                             .min_tokens = r->min_tokens,
                             .ignore_eos = r->ignore_eos != 0,
                             .has_seed = r->has_seed != 0,
                             .stop = {r->stop, (uint32_t)r->n_stop},
                             .stop_id = {r->stop_ids, (uint32_t)r->n_stop_ids},
                             .n = r->n,
                             .priority = r->priority,
                             .timeout_ms = r->timeout_ms,
                             .api_key = t->api_key,
                             .sampling = {.temperature = r->temperature,
                                          .top_p = r->top_p,
                                          .min_p = r->min_p,
                                          .top_k = r->top_k,
                                          .repetition = r->repetition_penalty,
                                          .frequency = r->frequency_penalty,
                                          .presence = r->presence_penalty,
                                          .seed = r->seed,
                                          .n_logprob = r->logprobs ? 0 : -1,
                                          .n_prompt_logprob = -1,
                                          .bias_id = {r->bias_ids, (uint32_t)r->n_bias},
                                          .bias_value = {r->bias_values, (uint32_t)r->n_bias}}};
  ti_client_reply reply;
  ti_arena arena;
  ti_arena_init(&arena, REPLY_ARENA);
  st = ti_link_call(t->link, &q, t->timeout_ms, &arena, &reply, err);
  if (!st) {
    out->id = reply.submit.generation;
    out->n_prompt = reply.submit.n_prompt;
    memcpy(out->capability, reply.submit.capability, sizeof(out->capability));
  }
  ti_arena_fini(&arena);
  return st;
}

titan_status titan_next(titan *t, const titan_generation *g, uint32_t choice, titan_cursor *cursor, uint32_t wait_ms, titan_chunk **out,
                        titan_error *err) {
  if (!t || !g || !cursor || !out) return ti_link_fail(err, TITAN_ERR_ARG, "titan_next: t, g, cursor and out are wanted");
  if (wait_ms > WAIT_MAX_MS) wait_ms = WAIT_MAX_MS;
  ti_client_request q = {.kind = TI_CLI_NEXT};
  q.next = (ti_msg_next){.generation = g->id, .choice = choice, .cursor = cursor->token, .text_cursor = cursor->text, .wait_ms = wait_ms};
  memcpy(q.next.capability, g->capability, sizeof(q.next.capability));
  chunk_box *box = calloc(1, sizeof(*box));
  if (!box) return ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  ti_arena_init(&box->arena, REPLY_ARENA);
  ti_client_reply reply;
  titan_status st = ti_link_call(t->link, &q, t->timeout_ms + wait_ms, &box->arena, &reply, err);
  const ti_msg_tokens *m = &reply.next;
  char *text = NULL;
  if (!st) {
    text = ti_arena_strdup(&box->arena, m->text ? m->text : "", m->text ? m->text_len : 0);
    if (!text) st = ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  }
  if (!st && (m->cursor - cursor->token != m->token.n || m->text_cursor - cursor->text != m->text_len))
    st = ti_link_fail(err, TITAN_ERR_PROTOCOL, "asked for token %u and byte %u on, the answer of %u tokens and %u bytes leads to %u and %u",
                      cursor->token, cursor->text, m->token.n, m->text_len, m->cursor, m->text_cursor);
  if (st) {
    titan_chunk_free(&box->out);
    return st;
  }
  box->out = (titan_chunk){.tokens = m->token.v,
                           .n_tokens = m->token.n,
                           .logprobs = m->logprob.n ? m->logprob.v : NULL,
                           .text = text,
                           .n_text = m->text_len,
                           .finish = (titan_finish)m->finish,
                           .stop_reason = m->stop_reason,
                           .total = m->n_token};
  cursor->token = m->cursor;
  cursor->text = m->text_cursor;
  *out = &box->out;
  return TITAN_OK;
}

void titan_chunk_free(titan_chunk *c) {
  if (!c) return;
  chunk_box *box = (chunk_box *)c;
  ti_arena_fini(&box->arena);
  free(box);
}

titan_status titan_cancel(titan *t, const titan_generation *g, int *found, titan_error *err) {
  if (!t || !g) return ti_link_fail(err, TITAN_ERR_ARG, "titan_cancel: t and g are wanted");
  ti_client_request q = {.kind = TI_CLI_CANCEL};
  q.cancel.generation = g->id;
  memcpy(q.cancel.capability, g->capability, sizeof(q.cancel.capability));
  ti_client_reply reply;
  ti_arena arena;
  ti_arena_init(&arena, REPLY_ARENA);
  const titan_status st = ti_link_call(t->link, &q, t->timeout_ms, &arena, &reply, err);
  if (!st && found) *found = reply.cancel.found;
  ti_arena_fini(&arena);
  return st;
}

static const char *or_empty(const char *s) { return s ? s : ""; }

titan_status titan_cluster_status(titan *t, int metrics, titan_cluster **out, titan_error *err) {
  if (!t || !out) return ti_link_fail(err, TITAN_ERR_ARG, "titan_cluster_status: t and out are wanted");
  ti_client_request q = {.kind = TI_CLI_STATUS};
  q.status = (ti_msg_status){.api_key = t->api_key, .metrics = metrics != 0};
  cluster_box *box = calloc(1, sizeof(*box));
  if (!box) return ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  ti_arena_init(&box->arena, REPLY_ARENA);
  ti_client_reply reply;
  titan_status st = ti_link_call(t->link, &q, t->timeout_ms, &box->arena, &reply, err);
  const ti_msg_status_reply *m = &reply.status;
  titan_rank *ranks = NULL;
  if (!st && !(ranks = ti_arena_calloc(&box->arena, m->n_rank + 1, sizeof(*ranks)))) st = ti_link_fail(err, TITAN_ERR_NOMEM, "out of memory");
  if (st) {
    titan_cluster_free(&box->out);
    return st;
  }
  for (uint32_t i = 0; i < m->n_rank; i++) {
    const ti_rank_status *r = &m->rank[i];
    ranks[i] = (titan_rank){.rank = r->rank,
                            .healthy = r->healthy,
                            .step = r->step,
                            .age_ms = r->age_ms,
                            .step_us = r->step_us,
                            .device = or_empty(r->device),
                            .host = or_empty(r->host),
                            .doing = or_empty(r->doing)};
  }
  box->out = (titan_cluster){.model = or_empty(m->model),
                             .version = or_empty(m->version),
                             .healthy = m->healthy,
                             .ranks = ranks,
                             .n_ranks = m->n_rank,
                             .running = m->running,
                             .waiting = m->waiting,
                             .pages_used = m->pages_used,
                             .pages = m->pages,
                             .tokens = m->tokens,
                             .metrics = m->metrics};
  *out = &box->out;
  return TITAN_OK;
}

void titan_cluster_free(titan_cluster *c) {
  if (!c) return;
  cluster_box *box = (cluster_box *)c;
  ti_arena_fini(&box->arena);
  free(box);
}
