#include "tests/golden/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "tests/golden/late.h"

int fixture_open(fixture *f, const char *model) {
  ti_error err = {0};
  char path[640];
  memset(f, 0, sizeof *f);
  snprintf(f->dir, sizeof f->dir, "%s/models/%s", TI_SOURCE_DIR, model);
  ti_status st = ti_config_load(f->dir, &f->cfg, &err);
  if (!st) st = ti_checkpoint_open(f->dir, &f->cfg, &f->ckpt, &err);
  snprintf(path, sizeof path, "%s/golden.safetensors", f->dir);
  if (!st) st = ti_checkpoint_open(path, NULL, &f->golden, &err);
  snprintf(path, sizeof path, "%s/golden.json", f->dir);
  if (!st) st = ti_json_load_file(path, 16 << 20, &f->json, &err);
  if (st) fprintf(stderr, "%s: %s\n", model, err.text);
  return st != TI_OK;
}

void fixture_close(fixture *f) {
  ti_checkpoint_close(f->ckpt);
  ti_checkpoint_close(f->golden);
  json_decref(f->json);
}

static const ti_kernels *unfused(void) {
  static ti_kernels k;
  k = *ti_kernels_cpu();
  k.int8_out = false;
  k.rope_append = NULL;
  return &k;
}

const ti_kernels *fixture_backend(const char *name) {
  if (strcmp(name, "unfused") == 0) return unfused();
  return strcmp(name, "late") == 0 ? late_kernels() : ti_kernels_find(name);
}

ti_engine *fixture_engine(const fixture *f, const engine_spec *s) {
  const ti_kernels *k = s->kernels ? s->kernels : fixture_backend(s->backend);
  if (!k) return fprintf(stderr, "no backend %s here\n", s->backend), NULL;
  const ti_engine_config c = {.model = &f->cfg, .ckpt = f->ckpt, .kernels = k, .dev = {.threads = s->threads ? s->threads : 1, .deterministic = !s->relaxed, .act_quant = s->fp8 ? TI_ACT_FP8 : s->act_quant},
                              .mesh = s->mesh, .worker = s->worker, .tp = s->tp, .world = s->world, .max_num_seqs = s->max_seqs, .max_num_batched_tokens = s->max_rows,
                              .max_model_len = s->max_len, .page_tokens = s->page_tokens, .kv_dtype = s->kv_bf16 ? TI_BF16 : k->act, .kv_bytes = 96u << 20, .eager = s->eager, .quantize_fp8 = s->fp8, .mtp = s->mtp, .deterministic = !s->relaxed,
                              .overlap = s->overlap, .n_redundant = s->n_redundant, .drafter = s->drafter, .tap = s->tap, .tap_arg = s->tap_arg};
  ti_error err = {0};
  ti_engine *e = NULL;
  if (ti_engine_create(&c, &e, &err)) fprintf(stderr, "engine: %s\n", err.text);
  return e;
}

uint32_t *fixture_ids(const fixture *f, size_t prompt, const char *key, uint32_t *n) {
  const json_t *a = json_object_get(json_array_get(f->json, prompt), key);
  *n = (uint32_t)json_array_size(a);
  uint32_t *ids = calloc(*n + 1, sizeof *ids);
  for (uint32_t i = 0; ids && i < *n; i++) ids[i] = (uint32_t)json_integer_value(json_array_get(a, i));
  return ids;
}

double fixture_real(const fixture *f, size_t prompt, const char *key, size_t i) { return json_number_value(json_array_get(json_object_get(json_array_get(f->json, prompt), key), i)); }

drive_seq *fixture_prompts(const fixture *f, uint32_t copies, uint32_t *n) {
  const uint32_t k = (uint32_t)json_array_size(f->json);
  drive_seq *s = calloc((size_t)k * copies, sizeof *s);
  *n = k * copies;
  for (uint32_t i = 0; i < *n; i++) {
    uint32_t n_out;
    s[i].prompt = fixture_ids(f, i % k, "prompt_ids", &s[i].n_prompt);
    free(fixture_ids(f, i % k, "greedy_ids", &n_out));
    s[i].max_tokens = n_out;
    s[i].golden = i % k;
    s[i].sampling = drive_greedy();
    s[i].sampling.n_logprob = 0;
  }
  return s;
}

int fixture_check_greedy(const fixture *f, const drive_seq *seq, uint32_t n, double tol, const char *what, uint32_t *compared) {
  int bad = 0;
  *compared = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t n_gold, *gold = fixture_ids(f, seq[i].golden, "greedy_ids", &n_gold);
    for (uint32_t j = 0; j < n_gold && j < seq[i].max_tokens; j++) {
      if (fixture_real(f, seq[i].golden, "margin", j) <= tol) break;
      ++*compared;
      if (j < seq[i].n_out && seq[i].out[j] == gold[j]) continue;
      printf("  %s: prompt %u step %u: got %d, golden %u, margin %.5f\n", what, seq[i].golden, j, j < seq[i].n_out ? (int)seq[i].out[j] : -1, gold[j], fixture_real(f, seq[i].golden, "margin", j));
      bad++;
      break;
    }
    free(gold);
  }
  return bad;
}
