// What the KV cache is worth: the next token with the cache, and the same token from its whole context again.
//
//   kv_worth [--device cpu|ref|cuda] [--model random:..] [--tokens 512] [--batches 1,64] [--threads N] [--json FILE]
//
// At lengths 1/8 .. 8/8 of --tokens it times, through the engine, a decode step of the batch (cache), and a prefill of the batch's whole contexts
// with one token sampled (what a server without a cache would do for every token). The sums over a whole generation, from the first token to the
// last, are the trapezoids over these lengths. Both ways choose greedily and must choose the same tokens: on cuda, where a prefill adds in another
// order, the share that agrees is printed instead.
//
// A decode step reads the weights once and the context's keys and values; recomputing multiplies the weights with every position. While a step is
// bound by reading weights (batch 1 on a GPU), 512 positions are nearly as cheap as one: the factor is the smallest there. With the batch it grows
// towards the length itself.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "parallel/coll.h"
#include "tests/golden/driver.h"

enum { PAGE_TOKENS = 16, N_DECODE = 8, N_LENGTH = 8, MAX_BATCH = 64, MAX_TOKENS = 4096, TRIES = 3 };

typedef struct options {
  const char *device, *model;
  uint32_t tokens, batch[4], n_batch;
  int threads;
  FILE *json;
} options;

typedef struct live {  // an engine and what it stands on
  ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *self;
  ti_engine *engine;
} live;

static uint32_t prompts[MAX_BATCH][MAX_TOKENS + N_DECODE];

static int fail(const char *what, const char *why) {
  fprintf(stderr, "kv_worth: %s: %s\n", what, why);
  return 1;
}

static void close_live(live *l) {
  ti_engine_destroy(l->engine);
  ti_checkpoint_close(l->ckpt);
  if (l->self) ti_coll_destroy(l->self);
}

static int open_live(const options *o, live *l) {
  ti_error err = {0};
  uint64_t seed;
  *l = (live){0};
  const ti_kernels *k = ti_kernels_find(o->device);
  if (!k) return fail(o->device, "not in this build, or not on this host");
  ti_status st = ti_config_random(o->model, &l->model, &seed, &err);
  if (!st) st = ti_checkpoint_open(o->model, &l->model, &l->ckpt, &err);
  if (!st) st = ti_coll_self_create(&l->self);
  uint32_t most = 0;
  for (uint32_t i = 0; i < o->n_batch; i++) most = o->batch[i] > most ? o->batch[i] : most;
  ti_kv_layout layout = {.kind = TI_KV_GQA,
                         .dtype = k->act,
                         .page_tokens = PAGE_TOKENS,
                         .n_kv_head = l->model.n_kv_head,
                         .head_dim = l->model.head_dim,
                         .n_layer = l->model.n_layer};
  if (!st) st = ti_kv_layout_init(&layout, &err);
  if (st) return fail(o->model, err.text);
  const ti_engine_config c = {.model = &l->model,
                              .ckpt = l->ckpt,
                              .kernels = k,
                              .dev = {.threads = o->threads},
                              .mesh = {.workers = 1, .tp = 1, .dp = 1, .ep = 1, .etp = 1},
                              .tp = l->self,
                              .world = l->self,
                              .max_num_seqs = most,
                              .max_num_batched_tokens = 8192,
                              .max_model_len = o->tokens + N_DECODE,
                              .page_tokens = PAGE_TOKENS,
                              .kv_dtype = k->act,
                              .kv_bytes = (uint64_t)most * ((o->tokens + N_DECODE) / PAGE_TOKENS + 2) * layout.page_bytes};
  st = ti_engine_create(&c, &l->engine, &err);
  return st ? fail(o->model, err.text) : 0;
}

// The best of TRIES runs of the batch: prompts of n ids, then `tokens` greedy ones, which stand in out[batch][tokens]. Milliseconds, or -1.
static double run(live *l, uint32_t batch, uint32_t n, uint32_t tokens, uint32_t *out) {
  double best = -1;
  for (int t = 0; t < TRIES; t++) {
    drive_seq q[MAX_BATCH];
    for (uint32_t i = 0; i < batch; i++)
      q[i] = (drive_seq){.prompt = prompts[i], .n_prompt = n, .max_tokens = tokens, .ignore_eos = true, .sampling = drive_greedy()};
    const uint64_t t0 = ti_mono_ns();
    if (drive_run(l->engine, q, batch, &(drive_options){.batch = batch, .chunk = 8192 / batch})) return -1;
    const double ms = (double)(ti_mono_ns() - t0) / 1e6;
    for (uint32_t i = 0; i < batch; i++) memcpy(out + i * tokens, q[i].out, tokens * sizeof *out);
    drive_free(q, batch);
    if (best < 0 || ms < best) best = ms;
  }
  return best;
}

typedef struct outcome {
  double cached[N_LENGTH + 1], again[N_LENGTH + 1];  // ms a token of every sequence, at length i * tokens / N_LENGTH
  uint32_t same, compared;
} outcome;

static int measure(live *l, const options *o, uint32_t batch, outcome *r) {
  static uint32_t once[MAX_BATCH], more[MAX_BATCH * (N_DECODE + 1)];
  *r = (outcome){0};
  printf("\nbatch %u, ms a step\n%8s %10s %12s %8s\n", batch, "length", "cache", "recompute", "factor");
  for (uint32_t i = 1; i <= N_LENGTH; i++) {
    const uint32_t n = o->tokens * i / N_LENGTH;
    r->again[i] = run(l, batch, n, 1, once);
    const double whole = run(l, batch, n, N_DECODE + 1, more);
    if (r->again[i] < 0 || whole < 0) return 1;
    r->cached[i] = (whole - r->again[i]) / N_DECODE;
    // The same token once more: the context and the first token as a prompt.
    for (uint32_t s = 0; s < batch; s++) prompts[s][n] = more[s * (N_DECODE + 1)];
    if (run(l, batch, n + 1, 1, once) < 0) return 1;
    for (uint32_t s = 0; s < batch; s++) {
      r->same += once[s] == more[s * (N_DECODE + 1) + 1];
      r->compared++;
      prompts[s][n] = 4 + (s * 131 + n * 17) % 256;
    }
    printf("%8u %10.3f %12.3f %8.1f\n", n, r->cached[i], r->again[i], r->again[i] / r->cached[i]);
    fflush(stdout);
  }
  r->cached[0] = r->cached[1];  // a step of a short context costs what the weights cost
  r->again[0] = r->cached[1];
  return 0;
}

static double whole(const double *ms, uint32_t tokens) {  // seconds of all steps: trapezoids
  double sum = 0;
  for (int i = 0; i < N_LENGTH; i++) sum += (ms[i] + ms[i + 1]) / 2 * tokens / N_LENGTH;
  return sum / 1e3;
}

static int options_of(int argc, char **argv, options *o) {
  for (int i = 1; i < argc; i += 2) {
    char *v = i + 1 < argc ? argv[i + 1] : (char *)"", *end;
    const long n = strtol(v, &end, 10);
    if (strcmp(argv[i], "--device") == 0 && *v)
      o->device = v;
    else if (strcmp(argv[i], "--model") == 0 && *v)
      o->model = v;
    else if (strcmp(argv[i], "--tokens") == 0 && n >= 64 && n <= MAX_TOKENS && n % 64 == 0)
      o->tokens = (uint32_t)n;
    else if (strcmp(argv[i], "--threads") == 0 && n >= 1 && n <= 256)
      o->threads = (int)n;
    else if (strcmp(argv[i], "--batches") == 0 && n >= 1) {
      o->n_batch = 0;
      for (long b = n; o->n_batch < 4 && b >= 1 && b <= MAX_BATCH; b = *end == ',' ? strtol(end + 1, &end, 10) : 0)
        o->batch[o->n_batch++] = (uint32_t)b;
      if (*end || !o->n_batch) return fail(v, "--batches takes up to four numbers of 1..64, with commas");
    } else if (strcmp(argv[i], "--json") == 0 && *v) {
      o->json = fopen(v, "w");
      if (!o->json) return fail(v, "cannot be written");
    } else {
      return fail(argv[i],
                  "[--device NAME] [--model random:..] [--tokens 64..4096, a multiple of 64] [--batches 1,64] [--threads 1..256] [--json FILE]");
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  options o = {.device = "cpu", .tokens = 512, .batch = {1, 64}, .n_batch = 2, .threads = 2};
  if (options_of(argc, argv, &o)) return 2;
  if (!o.model)
    o.model = strcmp(o.device, "cuda") ? "random:llama?layers=4&hidden=256&heads=8&kv_heads=4&ffn=768&vocab=4096" : "random:tinyllama-1.1b";
  for (uint32_t i = 0; i < MAX_BATCH; i++)
    for (uint32_t j = 0; j < MAX_TOKENS + N_DECODE; j++) prompts[i][j] = 4 + (i * 131 + j * 17) % 256;
  live l;
  outcome r;
  int bad = open_live(&o, &l);
  if (!bad) printf("%s on %s, %u tokens\n", o.model, o.device, o.tokens);
  for (uint32_t i = 0; !bad && i < o.n_batch; i++) {
    bad = measure(&l, &o, o.batch[i], &r);
    if (bad) break;
    const double with = whole(r.cached, o.tokens), without = whole(r.again, o.tokens);
    printf("all %u tokens: %.2f s with the cache, %.2f s without: %.1f times; %u of %u tokens agree\n", o.tokens, with, without, without / with,
           r.same, r.compared);
    if (o.json)
      fprintf(o.json, "{\"batch\": %u, \"tokens\": %u, \"cache_s\": %.4f, \"recompute_s\": %.4f, \"factor\": %.2f, \"at_end\": %.2f}\n", o.batch[i],
              o.tokens, with, without, without / with, r.again[N_LENGTH] / r.cached[N_LENGTH]);
    if (r.same != r.compared && strcmp(o.device, "cuda")) bad = fail("tokens", "the cache and recomputing choose differently");
  }
  if (o.json) fclose(o.json);
  close_live(&l);
  return bad;
}
