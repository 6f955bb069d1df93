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
#include "worker/engine.h"

enum {
  PAGE_TOKENS = 16,
  N_DECODE = 15,
  N_LENGTH = 8,
  MAX_BATCH = 64,
  MAX_TOKENS = 4096,
  MAX_PAGES = MAX_TOKENS / PAGE_TOKENS + 2,
  MAX_ROWS = 8192,
  TRIES = 3
};

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
  ti_arena arena;
} live;

static uint32_t prompts[MAX_BATCH][MAX_TOKENS + 1];
static uint32_t prompt_id(uint32_t sequence, uint32_t at) { return 4 + (sequence * 131 + at * 17) % 256; }

static int fail(const char *what, const char *why) {
  fprintf(stderr, "kv_worth: %s: %s\n", what, why);
  return 1;
}

static void close_live(live *l) {
  ti_arena_fini(&l->arena);
  ti_engine_destroy(l->engine);
  ti_checkpoint_close(l->ckpt);
  if (l->self) ti_coll_destroy(l->self);
}

static int open_live(const options *o, live *l) {
  ti_error err = {0};
  uint64_t seed;
  *l = (live){0};
  ti_arena_init(&l->arena, 1 << 26);
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
                              .max_num_batched_tokens = MAX_ROWS,
                              .max_model_len = o->tokens + N_DECODE + PAGE_TOKENS,
                              .page_tokens = PAGE_TOKENS,
                              .kv_dtype = k->act,
                              .kv_bytes = (uint64_t)most * ((o->tokens + N_DECODE) / PAGE_TOKENS + 3) * layout.page_bytes};
  st = ti_engine_create(&c, &l->engine, &err);
  return st ? fail(o->model, err.text) : 0;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

// One plan: *ms of the step goes up, token[] takes what rows sampled.
static int step(live *l, ti_step_plan *p, double *ms, uint32_t *token) {
  ti_step_result r;
  ti_error err = {0};
  ti_arena_reset(&l->arena);
  const uint64_t t0 = ti_mono_ns();
  if (ti_engine_step(l->engine, p, &l->arena, &r, &err)) return fail("step", err.text);
  *ms += (double)(ti_mono_ns() - t0) / 1e6;
  for (uint32_t i = 0; i < r.n_row; i++) {
    if (r.row[i].token.n) token[i] = r.row[i].token.v[0];
  }
  p->step++;
  return 0;
}

// The batch from nothing: contexts of n ids, one token sampled. *ms: the sum of its steps, 8,192 rows each at most.
static int prefill(live *l, uint32_t batch, uint32_t n, double *ms, uint32_t *token) {
  static ti_slot_assign assign[MAX_BATCH];
  static ti_slot_pages pages[MAX_BATCH];
  static uint32_t page[MAX_BATCH][MAX_PAGES];
  static ti_plan_row row[MAX_BATCH];
  const uint32_t n_page = (n + N_DECODE + PAGE_TOKENS) / PAGE_TOKENS, chunk = MAX_ROWS / batch;
  const ti_sampling greedy = {.temperature = 0, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1};
  for (uint32_t s = 0; s < batch; s++) {
    for (uint32_t i = 0; i < n_page; i++) page[s][i] = s * n_page + i;
    assign[s] = (ti_slot_assign){
        .slot = s, .request = s, .ids = {prompts[s], n}, .n_prompt = n, .max_tokens = N_DECODE + 2, .ignore_eos = true, .sampling = greedy};
    pages[s] = (ti_slot_pages){.slot = s, .pages = {page[s], n_page}};
  }
  ti_step_plan p = {.n_micro = 1,
                    .form = TI_FORM_PREFILL,
                    .gather_logits = true,
                    .assign = assign,
                    .n_assign = batch,
                    .pages = pages,
                    .n_pages = batch,
                    .row = row,
                    .n_row = batch};
  ti_engine_reset(l->engine);
  *ms = 0;
  for (uint32_t at = 0, now; at < n; at += now) {
    now = n - at < chunk ? n - at : chunk;
    for (uint32_t s = 0; s < batch; s++) row[s] = (ti_plan_row){.slot = s, .n_token = now, .sample = at + now == n};
    if (step(l, &p, ms, token)) return 1;
    p.n_assign = p.n_pages = 0;
  }
  return 0;
}

// A decode step of the batch behind a prefill: *ms is the median of N_DECODE; token[] takes the first one's.
static int decode(live *l, uint32_t batch, double *ms, uint32_t *token) {
  static ti_plan_row row[MAX_BATCH];
  double each[N_DECODE] = {0};
  uint32_t later[MAX_BATCH];
  for (uint32_t s = 0; s < batch; s++) row[s] = (ti_plan_row){.slot = s, .n_token = 1, .decode = true, .sample = true};
  ti_step_plan p = {.step = MAX_TOKENS, .n_micro = 1, .form = TI_FORM_DECODE, .gather_logits = true, .row = row, .n_row = batch};
  for (int i = 0; i < N_DECODE; i++) {
    if (step(l, &p, &each[i], i ? later : token)) return 1;
  }
  qsort(each, N_DECODE, sizeof *each, by_value);
  *ms = each[N_DECODE / 2];
  return 0;
}

typedef struct outcome {
  double cached[N_LENGTH + 1], again[N_LENGTH + 1];  // ms a token of every sequence, at length i * tokens / N_LENGTH
  uint32_t same, compared;
} outcome;

static int measure(live *l, const options *o, uint32_t batch, outcome *r) {
  uint32_t first[MAX_BATCH], second[MAX_BATCH], again[MAX_BATCH];
  *r = (outcome){0};
  printf("\nbatch %u, ms a step\n%8s %10s %12s %8s\n", batch, "length", "cache", "recompute", "factor");
  for (uint32_t i = 1; i <= N_LENGTH; i++) {
    const uint32_t n = o->tokens * i / N_LENGTH;
    double tries[TRIES];
    for (int t = 0; t < TRIES; t++) {
      if (prefill(l, batch, n, &tries[t], first)) return 1;
    }
    qsort(tries, TRIES, sizeof *tries, by_value);
    r->again[i] = tries[TRIES / 2];
    if (decode(l, batch, &r->cached[i], second)) return 1;
    for (uint32_t s = 0; s < batch; s++) prompts[s][n] = first[s];  // the context and its first token, from nothing: the second token again
    if (prefill(l, batch, n + 1, &tries[0], again)) return 1;
    for (uint32_t s = 0; s < batch; s++) {
      r->same += again[s] == second[s];
      r->compared++;
      prompts[s][n] = prompt_id(s, n);
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
    o.model = strcmp(o.device, "cuda") ? "random:llama?layers=2&hidden=128&heads=4&kv_heads=2&ffn=384&vocab=1024" : "random:tinyllama-1.1b";
  for (uint32_t i = 0; i < MAX_BATCH; i++)
    for (uint32_t j = 0; j < MAX_TOKENS; j++) prompts[i][j] = prompt_id(i, j);
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
