// golden_engine MODEL BACKEND [--quick]: one rank's engine against the model's golden outputs.
//
//   hidden      every layer's hidden states and the logits of prompts 0 and 3; for a MoE its routing
//   greedy      golden ids wherever the margin exceeds the bound, over pages, chunks, batches and preemption, and the same BITS among all of those
//   expanded    MLA's expanded form against the absorbed one
//   forced      along golden's own ids, each of them ranks first wherever the margin exceeds the bound
//   nll         exact NLL of 200 stories (not with --quick)
//   mtp         the MTP head's top-1 at each prompt position
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "tests/golden/fixture.h"
#include "tests/golden/late.h"

#define ROUTE_TOL 1e-5

// Bounds by the backend's activations; with bf16 a gross one on hidden states, which hidden_bf16.c checks number by number. With bf16, KV included, only
// what the arithmetic promises can be compared in bits: the same rows in other batches, recorded or not. How a prompt is cut into chunks decides which
// attention kernel sees a row.
typedef struct bounds {
  double hidden, margin, nll;  // worst of a story, a token
  bool exact;                  // bits do not depend on the cut of a prompt
} bounds;
static bounds bound;
static bounds bounds_of(const ti_kernels *k) { return k->act == TI_F32 ? (bounds){2e-4, 1e-3, 1e-3, true} : (bounds){0.5, 0.1, 0.05, false}; }

static int failures;
#define check(ok, ...)                                 \
  do {                                                 \
    printf("%s ", (ok) ? "ok    " : "FAILED");         \
    printf(__VA_ARGS__);                               \
    printf("\n");                                      \
    failures += !(ok);                                 \
  } while (0)

typedef struct taps {
  const fixture *f;
  int prompt;
  double worst_hidden, worst_weight, worst_logit;
  int n_hidden, n_moe, bad_experts;
  int32_t mtp[8192];
  int n_mtp;
} taps;

static const float *golden(const taps *t, const char *name, int n_row, int dim) {
  char full[64];
  ti_tensor x;
  snprintf(full, sizeof full, "p%d.%s", t->prompt, name);
  if (ti_checkpoint_find(t->f->golden, full, &x) || x.n_dim != 2 || x.shape[0] != n_row || x.shape[1] != dim) return NULL;
  return x.data;
}

static double worst_of(const float *a, const float *b, size_t n, double worst) {
  for (size_t i = 0; i < n; i++) worst = fmax(worst, isnan(a[i]) ? INFINITY : fabs((double)a[i] - b[i]));
  return worst;
}

static void on_tap(void *arg, const char *what, int layer, const void *data, int n_row, int dim) {
  taps *t = arg;
  char name[48];
  const size_t n = (size_t)n_row * (size_t)dim;
  if (!strcmp(what, "mtp")) {
    memcpy(t->mtp + t->n_mtp, data, n * sizeof(int32_t));
    t->n_mtp += n_row;
    return;
  }
  if (t->prompt < 0) return;
  snprintf(name, sizeof name, !strcmp(what, "hidden") ? "hidden.%d" : !strcmp(what, "moe.experts") ? "moe%d.experts" : "moe%d.weights", layer);
  const float *g = golden(t, name, n_row, dim);
  if (!g) return;
  if (!strcmp(what, "hidden")) {
    t->worst_hidden = worst_of(data, g, n, t->worst_hidden);
    t->n_hidden++;
  } else if (!strcmp(what, "moe.weights")) {
    t->worst_weight = worst_of(data, g, n, t->worst_weight);
    t->n_moe++;
  } else if (!strcmp(what, "moe.experts")) {
    for (size_t i = 0; i < n; i++) t->bad_experts += ((const int32_t *)data)[i] != ((const int32_t *)g)[i];
  }
}

static engine_spec spec_of(const char *backend, ti_coll *self, uint32_t page) {
  return (engine_spec){.backend = backend, .mesh = {1, 1, 1, 1, 1}, .tp = self, .world = self, .page_tokens = page, .max_rows = 512, .max_seqs = 16, .max_len = 1024, .threads = 1};
}

static void check_hidden(const fixture *f, const char *backend, ti_coll *self) {
  static taps t;
  t = (taps){.f = f};
  engine_spec s = spec_of(backend, self, 16);
  s.tap = on_tap;
  s.tap_arg = &t;
  ti_engine *e = fixture_engine(f, &s);
  if (!e) exit(1);
  static const int prompts[] = {0, 3};
  for (int i = 0; i < 2; i++) {
    drive_seq q = {.max_tokens = 1, .sampling = drive_greedy()};
    q.prompt = fixture_ids(f, (size_t)prompts[i], "prompt_ids", &q.n_prompt);
    t.prompt = prompts[i];
    if (drive_run(e, &q, 1, &(drive_options){.batch = 1})) exit(1);
    drive_free(&q, 1);
    free((void *)q.prompt);
  }
  ti_engine_destroy(e);
  check(t.n_hidden == 2 * (f->cfg.n_layer + 1) && t.worst_hidden <= bound.hidden, "hidden states: %d layers compared, worst %.2e (bound %.0e)", t.n_hidden, t.worst_hidden, bound.hidden);
  if (!f->cfg.moe.n_expert) return;
  const int want = 2 * (f->cfg.n_layer - f->cfg.moe.n_dense_layer);
  check(t.n_moe == want && t.bad_experts == 0 && t.worst_weight <= ROUTE_TOL, "routing: %d layers compared, %d experts differ, weights worst %.2e (bound %.0e)", t.n_moe, t.bad_experts, t.worst_weight,
        ROUTE_TOL);
}

// Every layer's hidden states along a long prompt, against the cpu's: rows, not a choice of them.
typedef struct states {
  float *v;       // [n_layer + 1][n_row][dim]
  float *logits;  // [n_seq][vocab]
  int n_layer, n_row, n_seq, dim;
} states;

static void keep_states(void *arg, const char *what, int layer, const void *data, int n_row, int dim) {
  states *s = arg;
  if (strcmp(what, "logits") == 0 && n_row == s->n_seq) memcpy(s->logits, data, (size_t)n_row * (size_t)dim * sizeof *s->logits);
  if (strcmp(what, "hidden") != 0 || layer > s->n_layer || n_row != s->n_row) return;
  s->dim = dim;
  memcpy(s->v + (size_t)layer * (size_t)n_row * (size_t)dim, data, (size_t)n_row * (size_t)dim * sizeof *s->v);
}

// Of a step that prefills ids `copies` times.
static states states_of(const fixture *f, const char *backend, ti_coll *self, const uint32_t *ids, uint32_t n, uint32_t copies) {
  states s = {.n_layer = f->cfg.n_layer, .n_row = (int)(n * copies), .n_seq = (int)copies};
  s.logits = calloc((size_t)copies * (size_t)f->cfg.vocab, sizeof *s.logits);
  s.v = calloc((size_t)(s.n_layer + 1) * n * copies * (size_t)f->cfg.hidden, sizeof *s.v);
  engine_spec spec = spec_of(backend, self, 64);
  spec.max_seqs = copies;
  spec.max_rows = n * copies;
  spec.tap = keep_states;
  spec.tap_arg = &s;
  ti_engine *e = fixture_engine(f, &spec);
  drive_seq *q = calloc(copies, sizeof *q);
  for (uint32_t i = 0; i < copies; i++) q[i] = (drive_seq){.prompt = ids, .n_prompt = n, .max_tokens = 1, .sampling = drive_greedy()};
  if (!e || drive_run(e, q, copies, &(drive_options){.batch = copies})) exit(1);
  drive_free(q, copies);
  free(q);
  ti_engine_destroy(e);
  return s;
}

static void free_states(const states *s) {
  free(s->v);
  free(s->logits);
}

// The same prompt alone and with 63 others in a step: the bits of a row do not depend on how many there are, nor on where it stands.
static void check_width(const fixture *f, const char *backend, ti_coll *self) {
  enum { COPIES = 64 };
  uint32_t n, *ids = fixture_ids(f, 0, "prompt_ids", &n);
  const states a = states_of(f, backend, self, ids, n, 1), b = states_of(f, backend, self, ids, n, COPIES);
  const size_t row = (size_t)n * (size_t)a.dim;
  const size_t vocab = (size_t)f->cfg.vocab;
  int other = 0, layer = -1, copy = -1, heads = 0;
  for (int l = 0; l <= a.n_layer; l++)
    for (int c = 0; c < COPIES; c++) {
      if (!memcmp(a.v + (size_t)l * row, b.v + ((size_t)l * COPIES + (size_t)c) * row, row * sizeof *a.v)) continue;
      if (!other++) layer = l, copy = c;
    }
  for (int c = 0; c < COPIES; c++) heads += memcmp(a.logits, b.logits + (size_t)c * vocab, vocab * sizeof *a.logits) != 0;
  check(other == 0 && heads == 0, "%u rows alone and %d times as many: hidden states of %d layers and copies differ in bits, the first in layer %d, copy %d; logits of %d", n, COPIES, other, layer,
        copy, heads);
  free_states(&a);
  free_states(&b);
  free(ids);
}

static void check_long(const fixture *f, const char *backend, ti_coll *self) {
  uint32_t n, ids[1024], len = 0;
  for (size_t i = 0; i < 8 && len < 300; i++) {
    const char *keys[] = {"prompt_ids", "greedy_ids"};
    for (int k = 0; k < 2; k++) {
      uint32_t *v = fixture_ids(f, i, keys[k], &n);
      for (uint32_t j = 0; j < n && len < 300; j++) ids[len++] = v[j];
      free(v);
    }
  }
  const states a = states_of(f, "cpu", self, ids, len, 1), b = states_of(f, backend, self, ids, len, 1);
  double worst = 0, scale = 0;
  int bad = 0, first = -1, at = -1;
  for (int l = 0; l <= a.n_layer; l++)
    for (int r = 0; r < a.n_row; r++) {
      double row = 0;
      const size_t base = ((size_t)l * (size_t)a.n_row + (size_t)r) * (size_t)a.dim;
      for (int i = 0; i < a.dim; i++) {
        row = fmax(row, isnan(b.v[base + (size_t)i]) ? INFINITY : fabs((double)a.v[base + (size_t)i] - b.v[base + (size_t)i]));
        scale = fmax(scale, fabs((double)a.v[base + (size_t)i]));
      }
      if (row > bound.hidden && first < 0) first = r, at = l;
      bad += row > bound.hidden;
      worst = fmax(worst, row);
    }
  check(bad == 0, "hidden states of %u rows: worst %.2e (bound %.0e, values up to %.1f), %d beyond it, the first in layer %d, row %d", len, worst, bound.hidden, scale, bad, at, first);
  free_states(&a);
  free_states(&b);
}

// One configuration: golden ids, and the bits of `first` (its ids and logprobs), which the first call fills.
typedef struct variant { uint32_t page, chunk, batch, preempt, micro; int threads; bool scatter; uint32_t max_draft, flight; bool eager; } variant;

// Where two runs of a text part, printed once a run.
static void tell_difference(const drive_seq *a, const drive_seq *b, uint32_t i) {
  uint32_t j = 0;
  while (j < a->n_out && j < b->n_out && a->out[j] == b->out[j] && a->logprob[j] == b->logprob[j]) j++;
  if (j < a->n_out && j < b->n_out)
    printf("  text %u, token %u: id %u, logprob %.9g in the first run; id %u, logprob %.9g\n", i, j, a->out[j], (double)a->logprob[j], b->out[j], (double)b->logprob[j]);
}

static void check_variant(const fixture *f, const char *backend, ti_coll *self, const variant *v, drive_seq *first) {
  char what[128];
  snprintf(what, sizeof what, "page %u chunk %u batch %u preempt %u micro %u threads %d drafts %u flight %u%s", v->page, v->chunk, v->batch, v->preempt, v->micro, v->threads, v->max_draft,
           v->flight, v->eager ? " eager" : "");
  engine_spec s = spec_of(backend, self, v->page);
  s.overlap = v->micro == 2;
  s.threads = v->threads;
  s.eager = v->eager;
  if (v->batch > s.max_seqs) s.max_seqs = v->batch, s.max_rows = 64 * v->batch;
  ti_ngram_drafter ngram;
  ti_ngram_drafter_init(&ngram, 1, 3);
  s.drafter = &ngram.base;
  ti_engine *e = fixture_engine(f, &s);
  if (!e) exit(1);
  uint32_t n, compared;
  drive_seq *q = fixture_prompts(f, v->batch > 8 ? v->batch / 8 : 1, &n);
  if (drive_run(e, q, n, &(drive_options){.chunk = v->chunk, .batch = v->batch, .preempt = v->preempt, .n_micro = v->micro, .scatter = v->scatter, .max_draft = v->max_draft, .flight = v->flight})) exit(1);
  const int bad = fixture_check_greedy(f, q, n, bound.margin, what, &compared);
  int bits = 0;
  uint32_t accepted = 0;
  for (uint32_t i = 0; i < n; i++) accepted += q[i].n_accepted;
  if (v->max_draft) check(accepted > n, "drafts, %s: %u kept", what, accepted);
  for (uint32_t i = 0; i < n; i++) {
    drive_seq *g = &first[i % 8];
    if (!g->out) {
      *g = q[i];
      q[i].out = NULL;
      q[i].logprob = NULL;
      q[i].prompt_rank = NULL;
      continue;
    }
    const bool other = g->n_out != q[i].n_out || memcmp(g->out, q[i].out, g->n_out * 4) || memcmp(g->logprob, q[i].logprob, g->n_out * 4);
    if (other && bits < 3) tell_difference(g, &q[i], i);
    bits += other;
  }
  const bool same = bound.exact || (v->chunk == 0 && v->preempt == 0 && v->max_draft == 0);
  check(!bad && (!bits || !same), "greedy, %s: %u tokens equal golden, %d of %u texts leave it; %d differ in bits from the first run", what, compared, bad, n, bits);
  for (uint32_t i = 0; i < n; i++)
    if (q[i].prompt != first[i % 8].prompt) free((void *)q[i].prompt);
  drive_free(q, n);
  free(q);
  ti_engine_destroy(e);
}

static void check_greedy(const fixture *f, const char *backend, ti_coll *self, bool quick) {
  static const variant all[] = {{16, 0, 1, 0, 1, 1, 0, 0, 1, 0},  {8, 3, 16, 5, 1, 1, 1, 0, 2, 0},  {8, 0, 1, 0, 1, 1, 1, 7, 1, 0}, {64, 7, 16, 0, 1, 2, 1, 0, 2, 1},
                                {16, 0, 16, 3, 1, 1, 0, 0, 2, 0}, {16, 3, 16, 5, 1, 1, 0, 4, 1, 0}, {64, 3, 5, 7, 1, 1, 0, 0, 2, 0}, {16, 5, 16, 0, 2, 1, 1, 0, 1, 0}};
  static const variant wide[] = {{64, 0, 1, 0, 1, 1, 0, 0, 1, 0}, {64, 0, 16, 0, 1, 1, 0, 0, 2, 0}, {64, 0, 16, 0, 1, 1, 0, 0, 2, 1}, {64, 0, 64, 0, 1, 1, 0, 0, 2, 0}, {64, 0, 64, 0, 1, 1, 0, 0, 1, 1}};
  drive_seq first[8] = {{0}};
  for (size_t i = 0; i < sizeof wide / sizeof *wide && !quick; i++) check_variant(f, backend, self, &wide[i], first);
  for (size_t i = 0; i < (quick ? 3 : sizeof all / sizeof *all); i++) check_variant(f, backend, self, &all[i], first);
  for (int i = 0; i < 8; i++) free((void *)first[i].prompt);
  drive_free(first, 8);
}

// Prompt and golden text as one prompt: a golden id that does not rank first where golden was sure is an error whatever came before.
static void check_forced(const fixture *f, const char *backend, ti_coll *self) {
  uint32_t n, compared = 0, other = 0;
  engine_spec s = spec_of(backend, self, 64);
  ti_engine *e = fixture_engine(f, &s);
  if (!e) exit(1);
  drive_seq *q = fixture_prompts(f, 1, &n);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t n_gold, *gold = fixture_ids(f, i, "greedy_ids", &n_gold), *all = calloc(q[i].n_prompt + n_gold, sizeof *all);
    memcpy(all, q[i].prompt, q[i].n_prompt * sizeof *all);
    memcpy(all + q[i].n_prompt, gold, n_gold * sizeof *all);
    free((void *)q[i].prompt);
    free(gold);
    q[i].golden = q[i].n_prompt;  // where golden's text begins
    q[i].prompt = all;
    q[i].n_prompt += n_gold;
    q[i].max_tokens = 1;
    q[i].sampling.n_prompt_logprob = 0;
  }
  if (drive_run(e, q, n, &(drive_options){.batch = 4, .flight = 2})) exit(1);
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t j = q[i].golden; j < q[i].n_prompt; j++) {
      if (fixture_real(f, i, "margin", j - q[i].golden) <= bound.margin) continue;
      compared++;
      other += j - 1 >= q[i].n_prompt_rank || q[i].prompt_rank[j - 1] != 1;
    }
    free((void *)q[i].prompt);
  }
  check(compared > 0 && other == 0, "forced: %u golden ids with a margin above %.3f, %u do not rank first", compared, bound.margin, other);
  drive_free(q, n);
  free(q);
  ti_engine_destroy(e);
}

// Where bits need not be those of any number of rows, few rows run as chains of products (worker/graph/chain.c): the cpu's ids, and the same bits at
// batch 1 and 5, recorded and eager, with rows a step that stay few.
static void check_chained(const fixture *f, ti_coll *self) {
  static const struct {
    const char *backend;
    uint32_t batch;
    bool eager;
  } ways[] = {{"cpu", 5, false}, {"late", 1, false}, {"late", 5, false}, {"late", 5, true}};
  drive_seq *q[4];
  uint32_t n, ids = 0, bits = 0;
  for (int i = 0; i < 4; i++) {
    engine_spec s = spec_of(ways[i].backend, self, 16);
    s.relaxed = true;
    s.eager = ways[i].eager;
    s.max_rows = 8;
    ti_engine *e = fixture_engine(f, &s);
    if (!e) exit(1);
    q[i] = fixture_prompts(f, 1, &n);
    if (drive_run(e, q[i], n, &(drive_options){.batch = ways[i].batch, .chunk = 1, .flight = 2})) exit(1);
    ti_engine_destroy(e);
  }
  for (uint32_t i = 0; i < n; i++) {
    ids += q[0][i].n_out != q[1][i].n_out || memcmp(q[0][i].out, q[1][i].out, q[0][i].n_out * 4) != 0;
    for (int k = 2; k < 4; k++)
      bits += q[1][i].n_out != q[k][i].n_out || memcmp(q[1][i].out, q[k][i].out, q[1][i].n_out * 4) || memcmp(q[1][i].logprob, q[k][i].logprob, q[1][i].n_out * 4);
    for (int k = 0; k < 4; k++) free((void *)q[k][i].prompt);
  }
  check(ids == 0 && bits == 0 && late_chains() > 0, "%d chains of products: %u of %u texts leave the cpu's, %u of %u differ in bits from batch 1", late_chains(), ids, n,
        bits, 2 * n);
  for (int k = 0; k < 4; k++) {
    drive_free(q[k], n);
    free(q[k]);
  }
}

// --quantization fp8: activations as codes from the op before are what the products would have made of them.
static void check_codes(const fixture *f, const char *backend, ti_coll *self) {
  const char *both[] = {"cpu", backend};
  drive_seq *q[2];
  uint32_t n, other = 0;
  for (int i = 0; i < 2; i++) {
    engine_spec s = spec_of(both[i], self, 16);
    s.fp8 = true;
    ti_engine *e = fixture_engine(f, &s);
    if (!e) exit(1);
    q[i] = fixture_prompts(f, 1, &n);
    if (drive_run(e, q[i], n, &(drive_options){.batch = 3, .chunk = 9, .flight = 2})) exit(1);
    ti_engine_destroy(e);
  }
  for (uint32_t i = 0; i < n; i++) {
    other += q[0][i].n_out != q[1][i].n_out || memcmp(q[0][i].out, q[1][i].out, q[0][i].n_out * 4) || memcmp(q[0][i].logprob, q[1][i].logprob, q[0][i].n_out * 4);
    for (int k = 0; k < 2; k++) free((void *)q[k][i].prompt);
  }
  check(other == 0, "fp8 weights and activations: %u of %u texts differ in bits from the cpu's", other, n);
  for (int k = 0; k < 2; k++) {
    drive_free(q[k], n);
    free(q[k]);
  }
}

// Drawn tokens under penalties, seeds and a floor: the same whatever else runs, also when a step is planned before the one before has come back.
static void check_drawn(const fixture *f, const char *backend, ti_coll *self) {
  static const drive_options all[] = {{.batch = 1}, {.batch = 16, .chunk = 5, .preempt = 4, .flight = 2}, {.batch = 5, .flight = 2}, {.batch = 16, .flight = 1}};
  drive_seq *first = NULL;
  uint32_t n, other = 0, drawn = 0;
  engine_spec s = spec_of(backend, self, 16);
  ti_engine *e = fixture_engine(f, &s);
  if (!e) exit(1);
  for (size_t v = 0; v < sizeof all / sizeof *all; v++) {
    drive_seq *q = fixture_prompts(f, 2, &n);
    for (uint32_t i = 0; i < n; i++) {
      q[i].sampling = (ti_sampling){.temperature = 0.9f, .top_p = 0.95f, .top_k = 50, .repetition = 1.1f, .frequency = i % 2 ? 0.5f : 0, .presence = 0.3f, .seed = 77 + i, .n_logprob = 0,
                                    .n_prompt_logprob = -1};
      if (i % 3 == 0) q[i].sampling = drive_greedy();
    }
    if (drive_run(e, q, n, &all[v])) exit(1);
    for (uint32_t i = 0; i < n; i++) {
      if (first) other += first[i].n_out != q[i].n_out || memcmp(first[i].out, q[i].out, q[i].n_out * 4) || first[i].finish != q[i].finish;
      drawn += q[i].n_out;
    }
    if (!first) {
      first = q;
      continue;
    }
    for (uint32_t i = 0; i < n; i++) free((void *)q[i].prompt);
    drive_free(q, n);
    free(q);
  }
  check(drawn > 0 && (other == 0 || !bound.exact), "drawn under penalties: %u tokens, %u texts differ between ways of running them", drawn, other);
  for (uint32_t i = 0; i < n; i++) free((void *)first[i].prompt);
  drive_free(first, n);
  free(first);
  ti_engine_destroy(e);
}

// bos + story + eos, as nll_golden.json says.
static void story_ids(const ti_tokenizer *tok, ti_tok_scratch *scratch, const fixture *f, const char *text, drive_seq *q) {
  ti_ids ids = {.max = 1024};
  ti_error err = {0};
  if (ti_ids_push(&ids, f->cfg.bos) || ti_tokenizer_encode(tok, scratch, text, strlen(text), 0, &ids, &err) || ti_ids_push(&ids, f->cfg.eos[0])) {
    fprintf(stderr, "story: %s\n", err.text);
    exit(1);
  }
  q->prompt = (uint32_t *)ids.v;
  q->n_prompt = (uint32_t)ids.n;
  q->max_tokens = 1;
  q->sampling = drive_greedy();
  q->sampling.n_prompt_logprob = 0;
}

static void check_nll(const fixture *f, const char *model, const char *backend, ti_coll *self) {
  json_t *j;
  ti_error err = {0};
  ti_tokenizer *tok;
  ti_tok_scratch *scratch;
  if (ti_json_load_file(TI_SOURCE_DIR "/models/nll_golden.json", 4 << 20, &j, &err) || ti_tokenizer_load(f->dir, &tok, &err) || ti_tok_scratch_create(&scratch)) {
    check(false, "nll: %s", err.text);
    return;
  }
  const json_t *stories = json_object_get(j, "stories");
  const uint32_t n = (uint32_t)json_array_size(stories);
  drive_seq *q = calloc(n, sizeof *q);
  int lengths = 0;
  for (uint32_t i = 0; i < n; i++) {
    const json_t *s = json_array_get(stories, i);
    story_ids(tok, scratch, f, json_string_value(json_object_get(s, "text")), &q[i]);
    lengths += q[i].n_prompt != (uint32_t)json_integer_value(json_object_get(s, "n_ids"));
  }
  engine_spec s = spec_of(backend, self, 16);
  ti_engine *e = fixture_engine(f, &s);
  if (!e || drive_run(e, q, n, &(drive_options){.batch = 1})) exit(1);
  double sum = 0, want = 0, worst = 0;
  uint64_t tokens = 0;
  for (uint32_t i = 0; i < n; i++) {
    const double g = json_number_value(json_object_get(json_array_get(stories, i), model));
    sum += q[i].prompt_nll;
    want += g;
    tokens += q[i].n_prompt - 1;
    worst = fmax(worst, fabs(q[i].prompt_nll - g) / (q[i].n_prompt - 1));
    free((void *)q[i].prompt);
  }
  check(n == 200 && lengths == 0 && worst <= bound.nll, "nll: %.5f nats a token over %lu tokens (golden %.5f), worst story off by %.1e (bound %.0e)", sum / (double)tokens, (unsigned long)tokens,
        want / (double)tokens, worst, bound.nll);
  drive_free(q, n);
  free(q);
  ti_engine_destroy(e);
  ti_tok_scratch_destroy(scratch);
  ti_tokenizer_destroy(tok);
  json_decref(j);
}

static void check_mtp(const fixture *f, const char *backend, ti_coll *self) {
  static taps t;
  for (uint32_t chunk = 0; chunk <= 5; chunk += 5) {
    t = (taps){.f = f, .prompt = -1};
    engine_spec s = spec_of(backend, self, 16);
    s.tap = on_tap;
    s.tap_arg = &t;
    s.mtp = true;
    ti_engine *e = fixture_engine(f, &s);
    if (!e) exit(1);
    int same = 0, all = 0;
    for (size_t p = 0; p < 8; p++) {
      uint32_t n_gold, *gold = fixture_ids(f, p, "mtp_argmax", &n_gold);
      drive_seq q = {.max_tokens = 1, .sampling = drive_greedy()};
      q.prompt = fixture_ids(f, p, "prompt_ids", &q.n_prompt);
      t.n_mtp = 0;
      if (drive_run(e, &q, 1, &(drive_options){.batch = 1, .chunk = chunk, .lookahead = 1})) exit(1);
      for (uint32_t i = 0; i < n_gold && (int)i < t.n_mtp; i++) same += t.mtp[i] == (int32_t)gold[i];
      all += (int)n_gold;
      drive_free(&q, 1);
      free((void *)q.prompt);
      free(gold);
    }
    ti_engine_destroy(e);
    check(all > 0 && same == all, "mtp, chunk %u: %d of %d predictions equal golden", chunk, same, all);
  }
}

// MLA's two forms: a long prompt in chunks that the rule expands, beside short sequences that stay absorbed, against all absorbed.
static void check_expanded(const fixture *f, const char *backend, ti_coll *self) {
  enum { LONG = 700, SHORT = 12 };
  static const uint32_t chunks[] = {0, 448};
  uint32_t ids[LONG], n_from;
  uint32_t *from = fixture_ids(f, 0, "prompt_ids", &n_from);
  for (uint32_t i = 0; i < LONG; i++) ids[i] = (from[i % n_from] + i / n_from) % (uint32_t)f->cfg.vocab;
  for (int c = 0; c < 2; c++) {
    double nll[2][2];
    for (int relaxed = 0; relaxed < 2; relaxed++) {
      engine_spec s = spec_of(backend, self, 16);
      s.max_rows = 1024;
      s.relaxed = relaxed;
      ti_engine *e = fixture_engine(f, &s);
      drive_seq q[] = {{.prompt = ids, .n_prompt = SHORT, .max_tokens = 6, .sampling = drive_greedy()}, {.prompt = ids, .n_prompt = LONG, .max_tokens = 1, .sampling = drive_greedy()}};
      for (int i = 0; i < 2; i++) q[i].sampling.n_prompt_logprob = 0;
      if (!e || drive_run(e, q, 2, &(drive_options){.chunk = chunks[c], .batch = 2})) exit(1);
      for (int i = 0; i < 2; i++) nll[relaxed][i] = q[i].prompt_nll / (q[i].n_prompt - 1);
      drive_free(q, 2);
      ti_engine_destroy(e);
    }
    const double off = fabs(nll[1][1] - nll[0][1]) / nll[0][1];
    check(off > 0 && off <= 1e-4 && fabs(nll[1][0] - nll[0][0]) <= 1e-4 * nll[0][0], "expanded attention, chunk %u: %.6f nats a token of a long prompt, %.1e from the absorbed form (bound 1e-4)", chunks[c],
          nll[1][1], off);
  }
  free(from);
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: golden_engine MODEL BACKEND [--quick]\n"), 2;
  const bool quick = argc > 3 && !strcmp(argv[3], "--quick");
  if (fixture_backend(argv[2])) bound = bounds_of(fixture_backend(argv[2]));
  if (!fixture_backend(argv[2])) return printf("skipped: no backend %s on this processor\n", argv[2]), 77;
  setvbuf(stdout, NULL, _IOLBF, 0);
  fixture f;
  ti_coll *self;
  if (fixture_open(&f, argv[1]) || ti_coll_self_create(&self)) return 1;
  check_hidden(&f, argv[2], self);
  if (strcmp(argv[2], "cpu") && !quick) check_long(&f, argv[2], self);
  check_width(&f, argv[2], self);
  check_greedy(&f, argv[2], self, quick);
  if (!quick) check_forced(&f, argv[2], self);
  if (!strcmp(argv[2], "late")) {
    if (!f.cfg.moe.n_expert) check_chained(&f, self);
    check_codes(&f, argv[2], self);
  }
  if (!quick) check_drawn(&f, argv[2], self);
  if (!quick) check_nll(&f, argv[1], argv[2], self);
  if (f.cfg.attn == TI_ATTN_MLA) check_expanded(&f, argv[2], self);
  if (f.cfg.n_mtp) check_mtp(&f, argv[2], self);
  ti_coll_destroy(self);
  fixture_close(&f);
  return failures != 0;
}
