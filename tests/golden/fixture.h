// Opens a bundled model and makes an engine on it; reads golden.json. For golden_engine.c (one rank) and mpi/engine_mesh.c (a mesh).
#ifndef TI_TESTS_GOLDEN_FIXTURE_H
#define TI_TESTS_GOLDEN_FIXTURE_H
#include "base/json.h"
#include "tests/golden/driver.h"

typedef struct fixture {
  char dir[512];
  ti_config cfg;
  ti_checkpoint *ckpt;
  ti_checkpoint *golden;  // golden.safetensors
  json_t *json;           // golden.json: an array of prompts
} fixture;

typedef struct engine_spec {
  const char *backend;
  const ti_kernels *kernels;  // NULL: backend's
  ti_mesh mesh;
  int worker;
  ti_coll *tp, *world;
  uint32_t page_tokens, max_rows, max_seqs, max_len;
  bool mtp, relaxed, eager, fp8, kv_bf16;  // relaxed: not deterministic; eager: nothing is recorded; fp8: weights and activations
  int overlap, threads, n_redundant;
  const ti_drafter *drafter;
  ti_act_quant act_quant;
  ti_engine_tap tap;
  void *tap_arg;
} engine_spec;

// "ref", "cpu", "cuda", "late" (late.h), or "unfused": the cpu's without the ops and codes that stand for several; NULL: not here.
const ti_kernels *fixture_backend(const char *name);
int fixture_open(fixture *f, const char *model);  // "titan-tiny-dense"; 0 or a printed error
void fixture_close(fixture *f);
ti_engine *fixture_engine(const fixture *f, const engine_spec *s);  // NULL with a printed error
// A malloc'ed copy of an integer array of golden.json's prompt i.
uint32_t *fixture_ids(const fixture *f, size_t prompt, const char *key, uint32_t *n);
double fixture_real(const fixture *f, size_t prompt, const char *key, size_t i);
// Greedy sequences for all golden prompts, `copies` times each.
drive_seq *fixture_prompts(const fixture *f, uint32_t copies, uint32_t *n);
// Compares outputs with greedy_ids up to the first step whose margin is within `tol`; returns how many differ, printing each. *compared: tokens checked.
int fixture_check_greedy(const fixture *f, const drive_seq *seq, uint32_t n, double tol, const char *what, uint32_t *compared);

#endif
