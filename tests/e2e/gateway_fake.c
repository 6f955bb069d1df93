// gateway_fake [flags]: the HTTP gateway over a backend without a model, for tests that speak real HTTP and for the benchmark of many clients.
//
// Prints "port N" once it serves. SIGTERM or SIGINT: ends, printing what is left running. SIGUSR1: unhealthy from now on. SIGUSR2: draining from now
// on.
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/gateway/gateway.h"
#include "fake_backend.h"

typedef struct fake_args {
  const char *model, *chat_template;
  ti_fake_options fake;
  ti_gateway_config gw;
  uint32_t max_len;
} fake_args;

static bool parse(int argc, char **argv, fake_args *a) {
  enum { MODEL, PORT, KEY, TPS, PREFILL, MAX, BODY, CORS, LEN, IDLE, RECEIVE, PING, TEXT, HTTP, LOG, UI, CHAT };
  static const struct option options[] = {{"model", 1, 0, MODEL},
                                          {"port", 1, 0, PORT},
                                          {"api-key", 1, 0, KEY},
                                          {"tps", 1, 0, TPS},
                                          {"prefill-ms", 1, 0, PREFILL},
                                          {"max-requests", 1, 0, MAX},
                                          {"max-body-bytes", 1, 0, BODY},
                                          {"cors", 1, 0, CORS},
                                          {"max-model-len", 1, 0, LEN},
                                          {"idle-timeout", 1, 0, IDLE},
                                          {"receive-timeout", 1, 0, RECEIVE},
                                          {"ping", 1, 0, PING},
                                          {"text-threads", 1, 0, TEXT},
                                          {"http-threads", 1, 0, HTTP},
                                          {"access-log", 0, 0, LOG},
                                          {"ui", 0, 0, UI},
                                          {"chat-template", 1, 0, CHAT},
                                          {0}};
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    const unsigned long n = optarg ? strtoul(optarg, NULL, 10) : 0;
    switch (c) {
      case MODEL:
        a->model = optarg;
        break;
      case PORT:
        a->gw.port = (uint16_t)n;
        break;
      case KEY:
        a->gw.api_key = optarg;
        break;
      case TPS:
        a->fake.tokens_per_s = strtod(optarg, NULL);
        break;
      case PREFILL:
        a->fake.prefill_ms = (uint32_t)n;
        break;
      case MAX:
        a->fake.max_requests = (uint32_t)n;
        break;
      case BODY:
        a->gw.max_body_bytes = n;
        break;
      case CORS:
        a->gw.cors_origin = optarg;
        break;
      case LEN:
        a->max_len = (uint32_t)n;
        break;
      case IDLE:
        a->gw.idle_timeout_s = n;
        break;
      case RECEIVE:
        a->gw.receive_timeout_s = n;
        break;
      case PING:
        a->gw.ping_interval_s = n;
        break;
      case TEXT:
        a->gw.text_threads = (uint32_t)n;
        break;
      case HTTP:
        a->gw.http_threads = (uint32_t)n;
        break;
      case LOG:
        a->gw.access_log = true;
        break;
      case CHAT:
        a->chat_template = optarg;
        break;
      case UI:
        a->gw.ui = true;
        break;
      default:
        return false;
    }
  }
  return optind == argc;
}

// The model's text side; without one: 1,000 ids and no tokenizer.
static ti_status load_text(const char *dir, const char *chat_template, uint32_t max_len, ti_prompt_source *m, ti_error *err) {
  *m = (ti_prompt_source){.lim = {.vocab = 1000, .max_model_len = max_len}};
  if (!dir) return TI_OK;
  ti_tokenizer *tok;
  ti_chat_template *chat = NULL;
  json_t *special = NULL;
  ti_status st = ti_tokenizer_load(dir, &tok, err);
  if (!st) st = ti_chat_template_open(chat_template, dir, &chat, err);
  if (!st) st = ti_chat_special_tokens(dir, &special, err);
  if (st) return st;
  *m = (ti_prompt_source){.tokenizer = tok,
                          .chat = chat,
                          .special_tokens = special,
                          .lim = {.vocab = (uint32_t)ti_tokenizer_vocab_size(tok), .max_model_len = max_len, .has_tokenizer = true}};
  return TI_OK;
}

int main(int argc, char **argv) {
  static const char *const names[] = {"fake-model", "alias"};
  fake_args a = {.max_len = 4096};
  if (!parse(argc, argv, &a)) {
    fprintf(stderr, "usage: %s [--model DIR] [--port N] [--tps X] ...\n", argv[0]);
    return 2;
  }
  sigset_t set;
  sigemptyset(&set);
  for (int s = 0; s < 4; s++) sigaddset(&set, (int[]){SIGTERM, SIGINT, SIGUSR1, SIGUSR2}[s]);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  ti_error err = {0};
  ti_gateway *g = NULL;
  ti_fake *fake = NULL;
  ti_metrics *metrics = NULL;
  ti_status st = load_text(a.model, a.chat_template, a.max_len, &a.gw.model, &err);
  if (!st) st = ti_metrics_create(&metrics);
  if (!st) {
    const ti_tokenizer *tok = a.gw.model.tokenizer;
    const int32_t *eos;
    a.fake.vocab = a.gw.model.lim.vocab;
    a.fake.eos = tok && ti_tokenizer_eos(tok, &eos) ? eos[0] : -1;
    a.fake.metrics = a.gw.metrics = metrics;
    fake = ti_fake_create(&a.fake);
    a.gw.backend = ti_fake_backend(fake);
    a.gw.model_names = names;
    a.gw.n_model_names = 2;
    st = ti_gateway_start(&a.gw, &g, &err);
  }
  if (st) {
    fprintf(stderr, "gateway_fake: %s\n", err.text);
    return 3;
  }
  printf("port %u\n", ti_gateway_port(g));
  fflush(stdout);
  for (int sig = 0; sig != SIGTERM && sig != SIGINT;) {
    sigwait(&set, &sig);
    if (sig == SIGUSR1) ti_fake_set_health(fake, false);
    if (sig == SIGUSR2) ti_fake_drain(fake);
  }
  const uint64_t t0 = ti_mono_us();
  ti_fake_halt(fake);
  ti_gateway_stop(g);
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  printf("stopped ms %lu running %u cpu_s %.2f rss_kb %ld\n", (unsigned long)((ti_mono_us() - t0) / 1000), ti_fake_running(fake),
         (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6, u.ru_maxrss);
  fflush(stdout);
  ti_fake_destroy(fake);
  ti_metrics_destroy(metrics);
  ti_chat_template_destroy((ti_chat_template *)(uintptr_t)a.gw.model.chat);
  ti_tokenizer_destroy((ti_tokenizer *)(uintptr_t)a.gw.model.tokenizer);
  json_decref((json_t *)(uintptr_t)a.gw.model.special_tokens);
  return 0;
}
