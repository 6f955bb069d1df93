// door_fake [flags]: the front door (and the gateway beside it, on one pool) over a backend without a model, for tests and benchmarks of NNG clients.
//
// Prints "url URL" and "http PORT" once it serves. SIGTERM: ends, and says what is left running.
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fake_backend.h"
#include "coordinator/frontdoor/frontdoor.h"
#include "coordinator/gateway/gateway.h"

typedef struct args {
  const char *model;
  ti_fake_options fake;
  ti_frontdoor_config door;
  uint32_t max_len;
} args;

static bool parse(int argc, char **argv, args *a) {
  enum { URL, MODEL, KEY, TPS, CERT, PRIVATE, CA, CONTEXTS, GENERATIONS, KEEP, CONNECTIONS, LEN, MAX, BYTES };
  static const struct option options[] = {{"url", 1, 0, URL},
                                          {"model", 1, 0, MODEL},
                                          {"api-key", 1, 0, KEY},
                                          {"tps", 1, 0, TPS},
                                          {"tls-cert", 1, 0, CERT},
                                          {"tls-key", 1, 0, PRIVATE},
                                          {"tls-client-ca", 1, 0, CA},
                                          {"contexts", 1, 0, CONTEXTS},
                                          {"max-generations", 1, 0, GENERATIONS},
                                          {"keep-ms", 1, 0, KEEP},
                                          {"max-connections", 1, 0, CONNECTIONS},
                                          {"max-model-len", 1, 0, LEN},
                                          {"max-requests", 1, 0, MAX},
                                          {"max-message-bytes", 1, 0, BYTES},
                                          {0}};
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    const unsigned long n = optarg ? strtoul(optarg, NULL, 10) : 0;
    if (c == URL)
      a->door.url = optarg;
    else if (c == MODEL)
      a->model = optarg;
    else if (c == KEY)
      a->door.api_key = optarg;
    else if (c == TPS)
      a->fake.tokens_per_s = strtod(optarg, NULL);
    else if (c == CERT)
      a->door.tls_cert = optarg;
    else if (c == PRIVATE)
      a->door.tls_key = optarg;
    else if (c == CA)
      a->door.tls_client_ca = optarg;
    else if (c == CONTEXTS)
      a->door.contexts = (uint32_t)n;
    else if (c == GENERATIONS)
      a->door.max_generations = (uint32_t)n;
    else if (c == KEEP)
      a->door.keep_us = n * 1000;
    else if (c == CONNECTIONS)
      a->door.max_connections = (uint32_t)n;
    else if (c == LEN)
      a->max_len = (uint32_t)n;
    else if (c == MAX)
      a->fake.max_requests = (uint32_t)n;
    else if (c == BYTES)
      a->door.max_message_bytes = n;
    else
      return false;
  }
  return optind == argc && a->door.url;
}

int main(int argc, char **argv) {
  static const char *const names[] = {"fake-model"};
  args a = {.max_len = 4096};
  if (!parse(argc, argv, &a)) {
    fprintf(stderr, "usage: %s --url URL [--model DIR] [--tps X] ...\n", argv[0]);
    return 2;
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  ti_error err = {0};
  ti_tokenizer *tok = NULL;
  ti_chat_template *chat = NULL;
  json_t *special = NULL;
  ti_pool *pool = NULL;
  ti_metrics *metrics = NULL;
  ti_gateway *http = NULL;
  ti_frontdoor *door = NULL;
  const int32_t *eos;
  ti_status st = ti_metrics_create(&metrics);
  if (!st && a.model) st = ti_tokenizer_load(a.model, &tok, &err);
  if (!st && a.model) st = ti_chat_template_open(NULL, a.model, &chat, &err);
  if (!st && a.model) st = ti_chat_special_tokens(a.model, &special, &err);
  if (!st) st = ti_pool_create(2, &pool, &err);
  const ti_prompt_source text = {
      .tokenizer = tok,
      .chat = chat,
      .special_tokens = special,
      .lim = {.vocab = tok ? (uint32_t)ti_tokenizer_vocab_size(tok) : 1000, .max_model_len = a.max_len, .has_tokenizer = tok != NULL}};
  a.fake.vocab = text.lim.vocab;
  a.fake.eos = tok && ti_tokenizer_eos(tok, &eos) ? eos[0] : -1;
  a.fake.metrics = metrics;
  ti_fake *fake = ti_fake_create(&a.fake);
  a.door.model = text;
  a.door.model_name = names[0];
  a.door.metrics = metrics;
  a.door.pool = pool;
  a.door.backend = ti_fake_backend(fake);
  const ti_gateway_config gw = {.model = text,
                                .backend = a.door.backend,
                                .model_names = names,
                                .n_model_names = 1,
                                .pool = pool,
                                .metrics = metrics,
                                .api_key = a.door.api_key,
                                .ui = true};
  if (!st) st = ti_gateway_start(&gw, &http, &err);
  if (!st) st = ti_frontdoor_start(&a.door, &door, &err);
  if (st) {
    fprintf(stderr, "door_fake: %s: %s\n", ti_status_name(st), err.text);
    return 3;
  }
  printf("url %s\nhttp %u\n", ti_frontdoor_url(door), ti_gateway_port(http));
  fflush(stdout);
  int sig;
  sigwait(&set, &sig);
  ti_fake_halt(fake);
  ti_frontdoor_stop(door);
  ti_gateway_stop(http);
  ti_pool_destroy(pool);
  printf("running %u\n", ti_fake_running(fake));
  ti_fake_destroy(fake);
  ti_metrics_destroy(metrics);
  ti_chat_template_destroy(chat);
  ti_tokenizer_destroy(tok);
  json_decref(special);
  return 0;
}
