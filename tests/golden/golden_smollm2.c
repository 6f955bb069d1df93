// golden_smollm2 BACKEND [PROMPTS [TOKENS]]: a real model, from its GGUF file to its greedy text, against llama.cpp on dequantised fp32 weights.
//
// Ids are equal wherever golden's margin exceeds 0.002, and their logprobs within 0.002. PROMPTS 2 and TOKENS 32 unless given (the reference backend
// takes about a second for five tokens); 8 and 64 are all there are. Skipped (77) without the file in the cache folder (launch/fetch-model.sh
// smollm2) or without the golden values. On cpu also: fused ops give the unfused ones' bits.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/golden/fixture.h"

#define TOL 2e-3

// The first n entries of an array.
static json_t *head(const json_t *a, size_t n) {
  json_t *out = json_array();
  for (size_t i = 0; i < n && i < json_array_size(a); i++) json_array_append(out, json_array_get(a, i));
  return out;
}

// smollm2_golden.json in the shape of a bundled model's golden.json.
static json_t *flatten(const json_t *golden, size_t n_prompt, size_t n_token) {
  json_t *out = json_array();
  size_t i;
  json_t *v;
  json_array_foreach(json_object_get(golden, "chat"), i, v) {
    const json_t *f32 = json_object_get(v, "f32");
    if (i >= n_prompt) break;
    json_array_append_new(out, json_pack("{s:O, s:o, s:o, s:o}", "prompt_ids", json_object_get(v, "prompt_ids"), "greedy_ids",
                                         head(json_object_get(f32, "greedy_ids"), n_token), "margin", head(json_object_get(f32, "margin"), n_token),
                                         "logprob", head(json_object_get(f32, "logprob"), n_token)));
  }
  return out;
}

static int open_model(fixture *f, const char *path, size_t n_prompt, size_t n_token) {
  ti_error err = {0};
  json_t *golden;
  memset(f, 0, sizeof *f);
  ti_status st = ti_config_load(path, &f->cfg, &err);
  if (!st) st = ti_checkpoint_open(path, &f->cfg, &f->ckpt, &err);
  if (!st) st = ti_json_load_file(TI_SHARED_DIR "/models/smollm2_golden.json", 4 << 20, &golden, &err);
  if (st) return fprintf(stderr, "%s\n", err.text), 1;
  f->json = flatten(golden, n_prompt, n_token);
  json_decref(golden);
  return 0;
}

// The worst difference of logprobs of the ids that both have, up to the first that they do not share.
static double worst_logprob(const fixture *f, const drive_seq *q, uint32_t n) {
  double worst = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t n_gold, *gold = fixture_ids(f, i, "greedy_ids", &n_gold);
    for (uint32_t j = 0; j < n_gold && j < q[i].n_out && q[i].out[j] == gold[j]; j++) {
      const double d = fabs((double)q[i].logprob[j] - fixture_real(f, i, "logprob", j));
      worst = fmax(worst, isnan(d) ? INFINITY : d);
    }
    free(gold);
  }
  return worst;
}

// Ids and logprobs with int8 activations, as codes that one op hands to the next, and without: the same bits.
static int compare_fused(const fixture *f, ti_coll *self) {
  drive_seq *q[2];
  uint32_t n = 0;
  int bad = 0;
  for (int i = 0; i < 2; i++) {
    const engine_spec s = {.backend = i ? "unfused" : "cpu",
                           .mesh = {1, 1, 1, 1, 1},
                           .tp = self,
                           .world = self,
                           .page_tokens = 16,
                           .max_rows = 64,
                           .max_seqs = 8,
                           .max_len = 128,
                           .threads = 2,
                           .act_quant = TI_ACT_INT8};
    ti_engine *e = fixture_engine(f, &s);
    q[i] = fixture_prompts(f, 1, &n);
    bad += !e || drive_run(e, q[i], n, &(drive_options){.batch = 4, .chunk = 12});
    ti_engine_destroy(e);
  }
  for (uint32_t i = 0; !bad && i < n; i++)
    bad = q[0][i].n_out != q[1][i].n_out || memcmp(q[0][i].out, q[1][i].out, q[0][i].n_out * sizeof *q[0][i].out) ||
          memcmp(q[0][i].logprob, q[1][i].logprob, q[0][i].n_out * sizeof *q[0][i].logprob);
  printf("%s int8 codes handed on and made in every product: the same ids and logprobs\n", bad ? "FAILED" : "ok    ");
  for (int i = 0; i < 2; i++) {
    for (uint32_t j = 0; j < n; j++) free((void *)(uintptr_t)q[i][j].prompt);
    drive_free(q[i], n);
    free(q[i]);
  }
  return bad;
}

static int compare(const fixture *f, const char *backend, ti_coll *self, int threads) {
  uint32_t n, compared;
  const engine_spec s = {.backend = backend,
                         .mesh = {1, 1, 1, 1, 1},
                         .tp = self,
                         .world = self,
                         .page_tokens = 16,
                         .max_rows = 64,
                         .max_seqs = 8,
                         .max_len = 128,
                         .threads = threads,
                         .act_quant = TI_ACT_NONE};
  ti_engine *e = fixture_engine(f, &s);
  if (!e) return 1;
  drive_seq *q = fixture_prompts(f, 1, &n);
  int bad = drive_run(e, q, n, &(drive_options){.batch = 1});
  if (!bad) {
    const int differ = fixture_check_greedy(f, q, n, TOL, backend, &compared);
    const double worst = worst_logprob(f, q, n);
    bad = differ || compared == 0 || worst > TOL;
    printf("%s %s: %u tokens of %u prompts compared, %d texts differ, worst logprob off by %.2e (bound %.0e)\n", bad ? "FAILED" : "ok    ", backend,
           compared, n, differ, worst, TOL);
  }
  for (uint32_t i = 0; i < n; i++) free((void *)(uintptr_t)q[i].prompt);
  drive_free(q, n);
  free(q);
  ti_engine_destroy(e);
  return bad;
}

int main(int argc, char **argv) {
  char path[4096];
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  const bool own = cache && *cache;
  if (argc < 2) return fprintf(stderr, "usage: golden_smollm2 BACKEND [PROMPTS [TOKENS]]\n"), 2;
  snprintf(path, sizeof path, "%s%s/titaninfer/SmolLM2-135M-Instruct.Q4_1.gguf", own ? cache : home ? home : "", own ? "" : "/.cache");
  if (!ti_kernels_find(argv[1])) return printf("skipped: no backend %s on this processor\n", argv[1]), 77;
  if (access(path, R_OK)) return printf("skipped: no %s (launch/fetch-model.sh smollm2)\n", path), 77;
  if (access(TI_SHARED_DIR "/models/smollm2_golden.json", R_OK)) return printf("skipped: no smollm2_golden.json\n"), 77;
  const size_t prompts = argc > 2 ? strtoul(argv[2], NULL, 10) : 2, tokens = argc > 3 ? strtoul(argv[3], NULL, 10) : 32;
  fixture f;
  ti_coll *self;
  if (open_model(&f, path, prompts, tokens) || ti_coll_self_create(&self)) return 1;
  int bad = compare(&f, argv[1], self, 2);
  if (strcmp(argv[1], "cpu") == 0) bad += compare_fused(&f, self);
  ti_coll_destroy(self);
  fixture_close(&f);
  return bad;
}
