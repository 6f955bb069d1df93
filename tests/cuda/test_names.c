// Profilers and the timeline call a step's pieces by the same names.
//
//   engine (CPU kernels) -> span_begin "qkv" -> the CUDA backend's own, which needs no GPU for names  -> NVTX -> nvtx_recorder.c
//                                            \  noted, given out as the device's spans              -> trace file
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/cuda/cuda_priv.h"
#include "parallel/coll.h"
#include "worker/engine.h"

enum { SPANS = 4096, STEPS = 3, PROMPT = 5 };
static struct ti_dev names_only;  // no device
static ti_dev_span span[SPANS];
static int n_span, n_told;

static ti_status begin(ti_dev *d, const char *name, int layer) {
  cr_assert(n_span < SPANS);
  span[n_span] = (ti_dev_span){.name = name, .layer = layer, .begin_ns = ti_mono_ns()};
  return ti_cuda_span_begin(&names_only, name, layer);
}

static ti_status end(ti_dev *d) {
  span[n_span].end_ns = ti_mono_ns() + 1;
  n_span++;
  return ti_cuda_span_end(&names_only);
}

static void step(ti_dev *d, int64_t s) { ti_cuda_span_step(&names_only, -1); }

static int spans(ti_dev *d, ti_dev_span *out, int cap) {
  int n = 0;
  while (n < cap && n_told < n_span) out[n++] = span[n_told++];
  return n;
}

static void run_engine(ti_trace *trace) {
  static ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *self;
  ti_engine *e;
  ti_error err = {0};
  ti_kernels k = *ti_kernels_cpu();
  k.span_begin = begin;
  k.span_end = end;
  k.span_step = step;
  k.spans = spans;
  const char *dir = TI_SOURCE_DIR "/models/titan-tiny-dense";
  cr_assert(!ti_config_load(dir, &model, &err) && !ti_checkpoint_open(dir, &model, &ckpt, &err), "%s", err.text);
  cr_assert(!ti_coll_self_create(&self));
  const ti_engine_config cfg = {.model = &model,
                                .ckpt = ckpt,
                                .kernels = &k,
                                .dev = {.threads = 1},
                                .mesh = {1, 1, 1, 1, 1},
                                .tp = self,
                                .world = self,
                                .max_num_seqs = 2,
                                .max_num_batched_tokens = 16,
                                .max_model_len = 64,
                                .page_tokens = 16,
                                .kv_dtype = TI_F32,
                                .kv_bytes = 1 << 20,
                                .trace = trace};
  cr_assert(!ti_engine_create(&cfg, &e, &err), "%s", err.text);
  ti_arena arena;
  ti_arena_init(&arena, 1 << 20);
  uint32_t ids[PROMPT] = {5, 6, 7, 8, 9}, page = 0;
  for (uint64_t i = 0; i < STEPS; i++) {
    ti_plan_row row = {.slot = 0, .n_token = i ? 1 : PROMPT, .decode = i > 0, .sample = true};
    ti_slot_assign assign = {.slot = 0,
                             .request = 1,
                             .ids = {ids, PROMPT},
                             .n_prompt = PROMPT,
                             .max_tokens = 8,
                             .ignore_eos = true,
                             .sampling = {.top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}};
    ti_slot_pages pages = {.slot = 0, .first = 0, .pages = {&page, 1}};
    const ti_step_plan plan = {.step = i,
                               .n_micro = 1,
                               .max_rows = row.n_token,
                               .row = &row,
                               .n_row = 1,
                               .assign = &assign,
                               .n_assign = !i,
                               .pages = &pages,
                               .n_pages = !i,
                               .form = i ? TI_FORM_DECODE : TI_FORM_PREFILL};
    ti_step_result r;
    ti_arena_reset(&arena);
    cr_assert(!ti_engine_step(e, &plan, &arena, &r, &err), "%s", err.text);
  }
  ti_engine_destroy(e);
  ti_checkpoint_close(ckpt);
  ti_coll_destroy(self);
  ti_arena_fini(&arena);
}

Test(nvtx, ranges_have_the_names_of_the_timelines_spans) {
  char file[] = "/tmp/ti_names_XXXXXX", line[4096];
  close(mkstemp(file));
  setenv("NVTX_INJECTION64_PATH", TI_NVTX_LIB, 1);
  ti_trace *trace;
  ti_error err = {0};
  cr_assert(!ti_trace_create(file, 0, &trace));
  run_engine(trace);
  ti_trace_destroy(trace);
  cr_assert(!ti_trace_join(file, 1, &err), "%s", err.text);
  void *lib = dlopen(TI_NVTX_LIB, RTLD_NOW | RTLD_NOLOAD);
  cr_assert(lib, "nobody has loaded the recorder");
  const char *(*recorded)(int, int *) = (const char *(*)(int, int *))dlsym(lib, "nvtx_recorded");
  int n = 0, open = 0;
  bool seen_qkv = false;
  FILE *f = fopen(file, "r");
  while (fgets(line, sizeof line, f)) {
    if (!strstr(line, "\"cat\":\"device\"")) continue;
    const char *name = recorded(n++, &open);
    char want[64];
    snprintf(want, sizeof want, "{\"name\":\"%s\",", name ? name : "");
    cr_assert(name && strncmp(line, want, strlen(want)) == 0, "range %d is \"%s\"; the timeline has %.80s", n - 1, name ? name : "none", line);
    seen_qkv |= strcmp(name, "qkv") == 0;
  }
  fclose(f);
  unlink(file);
  cr_assert_null(recorded(n, &open), "ranges that are in no timeline, the first \"%s\"", recorded(n, &open));
  cr_assert(n > 10 * STEPS && seen_qkv && open == 0, "%d names, %d open", n, open);
}
