// Opening the gateway (see doors.h). Rank 0's main thread, at start and end.
#include "launch/doors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/frontdoor/frontdoor.h"
#include "coordinator/gateway/gateway.h"
#include "model/chat.h"
#include "model/tokenizer.h"

enum { TEXT_THREADS = 2 };

struct ti_text {
  ti_tokenizer *tokenizer;
  ti_chat_template *chat;
  json_t *special;
  const ti_config *model;
};

struct ti_doors {
  ti_pool *pool;  // both doors' text threads
  ti_gateway *http;
  ti_frontdoor *nng;     // NULL: no --client-url
  const char *names[2];  // the gateway borrows them
  char url[192];
};

static ti_status open_tokenizer(const ti_settings *job, ti_text *t, ti_error *err) {
  const ti_status st = ti_tokenizer_load(job->flags.model, &t->tokenizer, err);
  if (st) return st;
  const size_t n = ti_tokenizer_vocab_size(t->tokenizer);
  if (n <= (size_t)t->model->vocab) return TI_OK;
  return ti_error_set(err, TI_ERR_FORMAT, "%s: tokenizer.json has ids up to %zu, but config.json says vocab_size %d: they are of different models",
                      job->flags.model, n - 1, t->model->vocab);
}

ti_status ti_text_open(const ti_settings *job, const ti_config *model, ti_text **out, ti_error *err) {
  const ti_flags *f = &job->flags;
  ti_text *t = calloc(1, sizeof *t);
  if (!t) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the tokenizer");
  t->model = model;
  ti_status st = TI_OK;
  if (!model->synthetic) {
    st = open_tokenizer(job, t, err);
    if (!st) st = ti_chat_special_tokens(f->model, &t->special, err);
    if (!st) st = ti_chat_template_open(f->chat_template, f->model, &t->chat, err);
    if (st == TI_ERR_NOTFOUND && t->tokenizer && !f->chat_template[0]) {
      ti_log_info("coordinator: the model has no chat template: completions only (--chat-template gives one)");
      st = TI_OK;
    }
  }
  if (st) {
    ti_text_close(t);
    return st;
  }
  *out = t;
  return TI_OK;
}

void ti_text_close(ti_text *t) {
  if (!t) return;
  ti_chat_template_destroy(t->chat);
  ti_tokenizer_destroy(t->tokenizer);
  json_decref(t->special);
  free(t);
}

ti_status ti_doors_open(const ti_settings *job, const ti_text *t, ti_coord *coord, ti_metrics *metrics, ti_doors **out, ti_error *err) {
  const ti_flags *f = &job->flags;
  ti_doors *d = calloc(1, sizeof *d);
  if (!d) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the gateway");
  d->names[0] = ti_settings_model_name(f);
  d->names[1] = f->model;
  const ti_prompt_source text = {
      .tokenizer = t->tokenizer,
      .chat = t->chat,
      .special_tokens = t->special,
      .lim = {.vocab = (uint32_t)t->model->vocab, .max_model_len = job->max_model_len, .has_tokenizer = t->tokenizer != NULL,
              .has_seed = f->seed >= 0,
              .seed = (uint64_t)f->seed}};
  ti_status st = ti_pool_create(TEXT_THREADS, &d->pool, err);
  const ti_gateway_config cfg = {.host = f->host,
                                 .port = (uint16_t)f->port,
                                 .api_key = f->api_key,
                                 .model_names = d->names,
                                 .n_model_names = strcmp(d->names[0], d->names[1]) ? 2 : 1,
                                 .model = text,
                                 .pool = d->pool,
                                 .backend = ti_backend_of_coord(coord),
                                 .ui = f->ui,
                                 .access_log = f->log_level >= TI_LOG_DEBUG,
                                 .metrics = metrics};
  if (!st) st = ti_gateway_start(&cfg, &d->http, err);
  const ti_frontdoor_config door = {.url = f->client_url,
                                    .tls_cert = f->client_tls_cert[0] ? f->client_tls_cert : NULL,
                                    .tls_key = f->client_tls_key[0] ? f->client_tls_key : NULL,
                                    .tls_client_ca = f->client_tls_ca[0] ? f->client_tls_ca : NULL,
                                    .api_key = f->api_key,
                                    .model_name = d->names[0],
                                    .model = text,
                                    .backend = cfg.backend,
                                    .pool = d->pool,
                                    .metrics = metrics};
  if (!st && f->client_url[0]) st = ti_frontdoor_start(&door, &d->nng, err);
  if (st) {
    ti_doors_close(d);
    return st;
  }
  const bool any = !strcmp(f->host, "0.0.0.0") || !strcmp(f->host, "::"), v6 = strchr(f->host, ':') && !any;
  snprintf(d->url, sizeof d->url, "http://%s%s%s:%u", v6 ? "[" : "", any ? "127.0.0.1" : f->host, v6 ? "]" : "", ti_gateway_port(d->http));
  *out = d;
  return TI_OK;
}

const char *ti_doors_url(const ti_doors *d) { return d->url; }

void ti_doors_close(ti_doors *d) {
  if (!d) return;
  ti_frontdoor_stop(d->nng);
  ti_gateway_stop(d->http);
  ti_pool_destroy(d->pool);
  free(d);
}
