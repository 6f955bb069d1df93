// Copies of experts in one engine: loaded in the background, in force when a plan names them, refused when they do not fit.
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "worker/engine.h"

#define MODEL                                                                                                                                \
  "random:deepseek_v3?layers=3&heads=2&hidden=128&ffn=128&vocab=256&q_lora_rank=64&kv_lora_rank=64&qk_nope_head_dim=32&qk_rope_head_dim=16&" \
  "v_head_dim=32&experts=4&n_group=1&topk_group=1&top_k=2&moe_ffn=128&first_k_dense_replace=1"
enum { EXPERTS = 4, REDUNDANT = 2, SLOTS = EXPERTS + REDUNDANT, LAYERS = 2, PROMPT = 24 };

typedef struct world {
  ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *self;
  ti_engine *e;
  ti_arena arena;
  uint64_t step;
  uint32_t routed[LAYERS][EXPERTS];  // by the router, in the last step
} world;

static void on_tap(void *arg, const char *what, int layer, const void *data, int n_row, int n_top) {
  world *w = arg;
  for (int i = 0; strcmp(what, "moe.experts") == 0 && i < n_row * n_top; i++) w->routed[layer][((const int32_t *)data)[i]]++;
}

static void open_world(world *w) {
  uint64_t seed;
  ti_error err = {0};
  *w = (world){0};
  cr_assert_eq(ti_config_random(MODEL, &w->model, &seed, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_checkpoint_open(MODEL, &w->model, &w->ckpt, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_coll_self_create(&w->self), TI_OK);
  const ti_engine_config c = {.model = &w->model,
                              .ckpt = w->ckpt,
                              .kernels = ti_kernels_cpu(),
                              .dev = {.threads = 1, .deterministic = true},
                              .mesh = {.workers = 1, .tp = 1, .dp = 1, .ep = 1, .etp = 1},
                              .tp = w->self,
                              .world = w->self,
                              .max_num_seqs = 2,
                              .max_num_batched_tokens = 64,
                              .max_model_len = 128,
                              .page_tokens = 16,
                              .kv_dtype = TI_F32,
                              .kv_bytes = 1 << 20,
                              .n_redundant = REDUNDANT,
                              .tap = on_tap,
                              .tap_arg = w,
                              .deterministic = true};
  cr_assert_eq(ti_engine_create(&c, &w->e, &err), TI_OK, "%s", err.text);
  ti_arena_init(&w->arena, 1 << 24);
}

static void close_world(world *w) {
  ti_engine_destroy(w->e);
  ti_checkpoint_close(w->ckpt);
  ti_coll_destroy(w->self);
  ti_arena_fini(&w->arena);
}

static const uint32_t copies[LAYERS * SLOTS] = {0, 1, 2, 3, 3, 1, 0, 1, 2, 3, 2, 3};  // of version 1

// The load that a step reports is what its routers chose: each layer's rows, and under the known placement each expert's.
static void check_load(const world *w, ti_u32s load, bool by_expert) {
  cr_assert_eq(load.n, LAYERS * SLOTS);
  for (uint32_t l = 0; l < LAYERS; l++) {
    uint32_t rows[EXPERTS] = {0}, sum = 0;
    for (uint32_t i = l * SLOTS; i < (l + 1) * SLOTS; i++) {
      rows[copies[i]] += load.v[i];
      sum += load.v[i];
    }
    cr_expect_eq(sum, PROMPT * 2, "layer %u: %u rows", l, sum);
    for (uint32_t e = 0; e < EXPERTS && by_expert; e++)
      cr_expect_eq(rows[e], w->routed[l][e], "layer %u, expert %u: %u rows, %u routed", l, e, rows[e], w->routed[l][e]);
  }
}

// Prefills a fixed prompt under that placement: the greedy token and its logprob's bits; *ready: the version that is here.
static ti_status prefill(world *w, uint32_t placement, uint32_t *token, float *logprob, uint32_t *ready, ti_error *err) {
  static const uint32_t pages[3] = {0, 1, 2};
  uint32_t ids[PROMPT];
  for (uint32_t i = 0; i < PROMPT; i++) ids[i] = 2 + i * 7 % 200;
  ti_slot_assign a = {.ids = {ids, PROMPT}, .n_prompt = PROMPT, .max_tokens = 1, .ignore_eos = true};
  a.sampling = (ti_sampling){.top_p = 1, .repetition = 1, .n_logprob = 0, .n_prompt_logprob = -1};
  ti_slot_pages sp = {.pages = {pages, 3}};
  ti_plan_row row = {.n_token = PROMPT, .sample = true};
  const uint32_t slot = 0;
  ti_step_plan p = {.step = w->step, .placement = placement, .form = TI_FORM_PREFILL, .max_rows = PROMPT, .n_micro = 1, .gather_logits = true};
  if (w->step) p.release = (ti_u32s){&slot, 1};
  p.assign = &a, p.pages = &sp, p.row = &row;
  p.n_assign = p.n_pages = p.n_row = 1;
  ti_step_result r;
  ti_arena_reset(&w->arena);
  memset(w->routed, 0, sizeof w->routed);
  const ti_status st = ti_engine_step(w->e, &p, &w->arena, &r, err);
  if (st) return st;
  w->step++;
  *token = r.row[0].token.v[0];
  *logprob = r.row[0].logprob.v[0];
  *ready = r.placement;
  check_load(w, r.expert_load, placement == 1);
  return TI_OK;
}

static ti_status stage(world *w, const uint32_t *slots, uint32_t n, ti_error *err) {
  return ti_engine_stage(w->e, &(ti_msg_placement){.version = 1, .n_layer = LAYERS, .slot_expert = {slots, n}}, err);
}

Test(replicas, a_plan_puts_them_in_force_and_no_bit_changes) {
  world w;
  ti_error err = {0};
  uint32_t token, again, ready = 0;
  float lp, lp2;
  open_world(&w);
  cr_assert_eq(prefill(&w, 0, &token, &lp, &ready, &err), TI_OK, "%s", err.text);
  cr_expect_eq(ready, 0);
  cr_assert_eq(stage(&w, copies, LAYERS * SLOTS, &err), TI_OK, "%s", err.text);
  for (int i = 0; i < 2000 && ready != 1; i++) {
    cr_assert_eq(prefill(&w, 0, &again, &lp2, &ready, &err), TI_OK, "%s", err.text);
    cr_assert(again == token && memcmp(&lp, &lp2, sizeof lp) == 0, "while they load");
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
  }
  cr_assert_eq(ready, 1);
  cr_assert_eq(prefill(&w, 1, &again, &lp2, &ready, &err), TI_OK, "%s", err.text);
  cr_expect(again == token && memcmp(&lp, &lp2, sizeof lp) == 0);
  cr_expect_eq(ready, 1);
  close_world(&w);
}

Test(replicas, what_does_not_fit_is_named) {
  static const uint32_t moved[LAYERS * SLOTS] = {0, 1, 2, 3, 3, 1, 1, 0, 2, 3, 2, 3};
  world w;
  ti_error err = {0};
  uint32_t token, ready;
  float lp;
  open_world(&w);
  cr_expect_eq(stage(&w, moved, SLOTS, &err), TI_ERR_FORMAT);
  cr_expect_str_eq(err.text, "Placement.slot_expert: 6 elements, expected 2 layers x 6 slots");
  cr_expect_eq(stage(&w, moved, LAYERS * SLOTS, &err), TI_ERR_FORMAT);
  cr_expect_str_eq(err.text, "Placement: layer 1, slot 0: expert 1, expected 0, which is at home there");
  cr_expect_eq(prefill(&w, 7, &token, &lp, &ready, &err), TI_ERR_FORMAT, "a version that was never sent");
  cr_expect(strstr(err.text, "plan.placement: version 7"), "%s", err.text);
  close_world(&w);
}
