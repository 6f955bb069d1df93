// same_bits MODEL BACKEND [PROMPTS] [--fp8]: --deterministic's promise about whole texts, to the bit.
//
// Prompts of 5 to 133 tokens, 24 tokens each, greedy with log-probabilities, run at batch 1, 16 and 64, with recorded steps and without, one and two
// steps in flight: ids and log-probabilities of every text must be the same bits every time. --fp8: weights and activations in e4m3.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/fixture.h"

enum { TOKENS = 24, MOST = 64 };

typedef struct way { uint32_t batch, flight; bool eager; } way;

static drive_seq *texts(const fixture *f, uint32_t n) {
  drive_seq *q = calloc(n, sizeof *q);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t *ids = calloc(133, sizeof *ids);
    q[i] = (drive_seq){.prompt = ids, .n_prompt = 5 + i * 37 % 129, .max_tokens = TOKENS, .ignore_eos = true, .sampling = drive_greedy()};
    q[i].sampling.n_logprob = 0;
    for (uint32_t j = 0; j < q[i].n_prompt; j++) ids[j] = 3 + (i * 7919u + j * 104729u) % ((uint32_t)f->cfg.vocab - 3);
  }
  return q;
}

static void drop(drive_seq *q, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) free((void *)q[i].prompt);
  drive_free(q, n);
  free(q);
}

static int run(const fixture *f, const char *backend, ti_coll *self, bool fp8, const way *w, drive_seq *q, uint32_t n) {
  const engine_spec s = {.backend = backend, .mesh = {1, 1, 1, 1, 1}, .tp = self, .world = self, .page_tokens = 64, .max_rows = 1024, .max_seqs = w->batch, .max_len = 256, .eager = w->eager, .fp8 = fp8, .threads = 2};
  ti_engine *e = fixture_engine(f, &s);
  const int bad = !e || drive_run(e, q, n, &(drive_options){.batch = w->batch, .chunk = 1024 / w->batch, .flight = w->flight});
  ti_engine_destroy(e);
  return bad;
}

int main(int argc, char **argv) {
  static const way ways[] = {{1, 1, false}, {1, 2, true}, {16, 1, false}, {16, 2, true}, {64, 2, false}, {64, 1, true}};
  if (argc < 3) return fprintf(stderr, "usage: same_bits MODEL BACKEND [PROMPTS] [--fp8]\n"), 2;
  const bool fp8 = !strcmp(argv[argc - 1], "--fp8");
  const uint32_t n = argc > 3 && argv[3][0] != '-' ? (uint32_t)strtoul(argv[3], NULL, 10) : MOST;
  if (!fixture_backend(argv[2])) return printf("skipped: no backend %s here\n", argv[2]), 77;
  setvbuf(stdout, NULL, _IOLBF, 0);
  fixture f = {0};
  ti_error err = {0};
  ti_coll *self;
  if (n < 1 || n > MOST || ti_coll_self_create(&self)) return 2;
  if (ti_config_load(argv[1], &f.cfg, &err) || ti_checkpoint_open(argv[1], &f.cfg, &f.ckpt, &err)) return fprintf(stderr, "%s\n", err.text), 1;
  drive_seq *first = NULL;
  int failures = 0;
  for (size_t v = 0; v < sizeof ways / sizeof *ways; v++) {
    drive_seq *q = texts(&f, n);
    if (run(&f, argv[2], self, fp8, &ways[v], q, n)) return 1;
    uint32_t other = 0;
    for (uint32_t i = 0; i < n; i++) {
      if (q[i].n_out != TOKENS) failures++;
      if (first) other += memcmp(first[i].out, q[i].out, TOKENS * 4) || memcmp(first[i].logprob, q[i].logprob, TOKENS * 4);
    }
    printf("%s batch %2u, %u in flight, %s: %u texts of %u tokens, %u differ in bits from the first way\n", other ? "FAILED" : "ok    ", ways[v].batch, ways[v].flight,
           ways[v].eager ? "eager" : "recorded", n, TOKENS, other);
    failures += other != 0;
    if (first) {
      drop(q, n);
    } else {
      first = q;
    }
  }
  drop(first, n);
  ti_checkpoint_close(f.ckpt);
  ti_coll_destroy(self);
  return failures != 0;
}
