// door_bench URL REQUESTS OUTSTANDING: how many generations of one token a second the front door takes, through libtitan. Prints one line of JSON.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "client/titan.h"

typedef struct worker {
  titan *t;
  int n;
  int failed;
} worker;

static void *run(void *arg) {
  worker *w = arg;
  const uint32_t ids[4] = {5, 6, 7, 8};
  titan_request r;
  titan_request_init(&r);
  r.prompt_ids = ids;
  r.n_prompt_ids = 4;
  r.max_tokens = 1;
  r.temperature = 0;
  r.ignore_eos = 1;
  for (int i = 0; i < w->n; i++) {
    titan_generation g;
    titan_cursor at = {0};
    titan_chunk *c = NULL;
    titan_error err = {0};
    if (titan_submit(w->t, &r, &g, &err) || titan_next(w->t, &g, 0, &at, 5000, &c, &err) || c->n_tokens != 1 || c->tokens[0] != 5 ||
        c->finish != TITAN_FINISH_LENGTH) {
      if (!w->failed++) fprintf(stderr, "door_bench: %s %s\n", titan_status_name(err.code), err.message);
    }
    titan_chunk_free(c);
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s URL REQUESTS OUTSTANDING\n", argv[0]);
    return 2;
  }
  const int n = (int)strtol(argv[2], NULL, 10), k = (int)strtol(argv[3], NULL, 10);
  const titan_options o = {.url = argv[1]};
  titan *t;
  titan_error err;
  if (n < 1 || k < 1 || k > 1024 || titan_open(&o, &t, &err)) {
    fprintf(stderr, "door_bench: cannot start\n");
    return 1;
  }
  pthread_t thread[1024];
  worker w[1024];
  int failed = 0;
  const uint64_t t0 = ti_mono_us();
  for (int i = 0; i < k; i++) {
    w[i] = (worker){.t = t, .n = n / k};
    if (pthread_create(&thread[i], NULL, run, &w[i]) != 0) return 1;
  }
  for (int i = 0; i < k; i++) {
    pthread_join(thread[i], NULL);
    failed += w[i].failed;
  }
  const double s = (double)(ti_mono_us() - t0) / 1e6;
  printf("{\"requests\": %d, \"failed\": %d, \"seconds\": %.3f, \"per_s\": %.0f}\n", n / k * k, failed, s, n / k * k / s);
  titan_close(t);
  return failed != 0;
}
