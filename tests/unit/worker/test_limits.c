// What clients may ask for at most, against a real engine without a coordinator: a plan that submit and the wire let pass must never be refused here,
// for a refusal ends the whole cluster.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "worker/batch.h"
#include "worker/counts.h"
#include "worker/engine.h"
#include "worker/slots.h"

enum { BIAS = 1024, STOPS = 64, N_PROMPT = 5 };
static ti_config model;
static ti_checkpoint *ckpt;
static ti_coll *self;
static ti_engine *engine;
static ti_arena arena;
static ti_kernels ops;  // the CPU's table, of which a test may replace an entry
static uint32_t prompt[N_PROMPT] = {11, 12, 13, 14, 15};

static void open_all(void) {
  const char *dir = TI_SOURCE_DIR "/models/titan-tiny-draft";
  ti_error err = {0};
  cr_assert_eq(ti_config_load(dir, &model, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_checkpoint_open(dir, &model, &ckpt, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_coll_self_create(&self), TI_OK);
  ti_arena_init(&arena, 1 << 22);
  ops = *ti_kernels_cpu();
}

static void start(void) {
  ti_error err = {0};
  const ti_engine_config cfg = {.model = &model,
                                .ckpt = ckpt,
                                .kernels = &ops,
                                .dev = {.threads = 1, .deterministic = true},
                                .mesh = {1, 1, 1, 1, 1},
                                .tp = self,
                                .max_num_seqs = 2,
                                .max_num_batched_tokens = 64,
                                .max_model_len = 64,
                                .page_tokens = 16,
                                .kv_dtype = TI_F32,
                                .kv_bytes = 1 << 22,
                                .deterministic = true};
  cr_assert_eq(ti_engine_create(&cfg, &engine, &err), TI_OK, "%s", err.text);
}

static void close_all(void) {
  ti_engine_destroy(engine);
  ti_checkpoint_close(ckpt);
  ti_coll_destroy(self);
  ti_arena_fini(&arena);
}
TestSuite(limits, .init = open_all, .fini = close_all, .timeout = 60);

static ti_sampling plain(void) { return (ti_sampling){.top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}; }

// The prompt's prefill and its first token.
static ti_result_row first_token(const ti_slot_assign *with) {
  ti_slot_assign a = *with;
  a.ids = (ti_u32s){prompt, N_PROMPT};
  a.n_prompt = N_PROMPT;
  const uint32_t page = 0;
  ti_slot_pages p = {.pages = {&page, 1}};
  ti_plan_row r = {.n_token = N_PROMPT, .sample = true};
  const ti_step_plan plan = {
      .form = TI_FORM_PREFILL, .max_rows = N_PROMPT, .n_micro = 1, .assign = &a, .n_assign = 1, .pages = &p, .n_pages = 1, .row = &r, .n_row = 1};
  ti_step_result out;
  ti_error err = {0};
  ti_arena_reset(&arena);
  cr_assert_eq(ti_engine_step(engine, &plan, &arena, &out, &err), TI_OK, "%s", err.text);
  cr_assert_eq(out.n_row, 1);
  cr_assert_eq(out.row[0].token.n, 1);
  return out.row[0];
}

Test(limits, as_many_bias_entries_and_stop_ids_as_the_wire_carries_are_served) {
  start();
  static uint32_t id[BIAS], stop[STOPS];
  static float value[BIAS];
  for (uint32_t i = 0; i < BIAS; i++) {
    id[i] = i;
    value[i] = i == 700 ? 100 : -100;
  }
  for (uint32_t i = 0; i < STOPS; i++) stop[i] = i;
  cr_assert_gt(model.vocab, BIAS);
  ti_slot_assign a = {.max_tokens = 8, .min_tokens = 4, .stop_id = {stop, STOPS}, .sampling = plain()};
  a.sampling.bias_id = (ti_u32s){id, BIAS};
  a.sampling.bias_value = (ti_f32s){value, BIAS};
  cr_assert_eq(first_token(&a).token.v[0], 700);
}

Test(limits, a_temperature_that_divides_to_infinity_is_greedy) {
  start();
  ti_slot_assign a = {.max_tokens = 8, .sampling = plain()};
  const uint32_t greedy = first_token(&a).token.v[0];
  ti_engine_reset(engine);
  a.sampling.temperature = 1e-39f;
  cr_assert_eq(first_token(&a).token.v[0], greedy);
}

static ti_status no_numbers(ti_dev *d, const ti_gemm_args *a) {
  const ti_status st = ti_kernels_cpu()->gemm(d, a);
  for (int64_t i = 0; a->out_dtype == TI_F32 && a->w->n == model.vocab && i < a->m * a->w->n; i++) ((float *)a->out)[i] = NAN;
  return st;
}

Test(limits, logits_that_are_no_numbers_end_their_sequence_with_an_error) {
  ops.gemm = no_numbers;
  start();
  ti_slot_assign a = {.max_tokens = 8, .sampling = plain()};
  a.sampling.n_logprob = 2;
  a.sampling.n_prompt_logprob = 2;
  const ti_result_row r = first_token(&a);
  cr_assert_eq(r.finish, TI_FINISH_ERROR);
  const ti_control m = {.kind = TI_CTL_RESULT, .result = {.row = &r, .n_row = 1}};
  const ti_wire_limits lim = {.n_rank = 2, .n_slot = 2, .n_page = 64, .vocab = (uint32_t)model.vocab, .max_rows = 64, .max_context = 64};
  ti_buf out;
  ti_control back;
  ti_error err = {0};
  ti_arena in;
  ti_arena_init(&in, 1 << 22);
  ti_buf_init(&out, 1 << 20);
  cr_assert_eq(ti_wire_encode_control(&m, &out), TI_OK);
  cr_assert_eq(ti_wire_decode_control(out.data, out.len, &lim, &in, &back, &err), TI_OK, "the coordinator would drop it: %s", err.text);
  ti_buf_fini(&out);
  ti_arena_fini(&in);
}

Test(limits, counts_of_generated_ids_saturate_after_a_preemption_as_before) {
  enum { N = 70000 };
  ti_slots s;
  ti_error err = {0};
  cr_assert_eq(ti_slots_init(&s, 1, N + 8, 16, 8, 32), TI_OK);
  uint32_t *ids = calloc(N, sizeof *ids);
  for (uint32_t i = 0; i < N; i++) ids[i] = 7;
  ti_slot_assign a = {.ids = {ids, N}, .n_prompt = 1, .max_tokens = N + 1, .sampling = plain()};
  a.sampling.frequency = 1;
  const ti_step_plan plan = {.assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&s, &plan, &err), TI_OK, "%s", err.text);
  ti_counts c;
  ti_dev *dev;
  cr_assert_eq(ops.open(&(ti_dev_options){.threads = 1}, &dev, &err), TI_OK);
  cr_assert_eq(ti_counts_init(&c, &ops, dev, 1, 32), TI_OK);
  cr_assert_eq(ti_counts_apply(&c, &s, &plan), TI_OK);
  cr_assert(c.out_count[7] == UINT16_MAX && c.in_prompt[7] == 1 && c.counted[0] == 1);
  const uint32_t gone[] = {0};
  const ti_step_plan last = {.release = {gone, 1}};
  cr_assert_eq(ti_counts_apply(&c, &s, &last), TI_OK);
  cr_assert(c.out_count[7] == 0 && c.in_prompt[7] == 0 && c.counted[0] == 0);
  ti_counts_fini(&c);
  ops.close(dev);
  free(ids);
  ti_slots_fini(&s);
}

// A prompt that fills the context and is only scored: no token is drawn, so MTP's shift has no token after the last.
Test(limits, the_shift_for_mtp_stays_within_the_ids) {
  enum { N = 32 };
  ti_slots s;
  ti_dev *dev;
  ti_error err = {0};
  cr_assert_eq(ti_slots_init(&s, 2, N, 16, 64, 1000), TI_OK);
  s.lookahead = 1;
  cr_assert_eq(ops.open(&(ti_dev_options){.threads = 1}, &dev, &err), TI_OK);
  uint32_t ids[N];
  for (uint32_t i = 0; i < N; i++) ids[i] = 100 + i;
  const uint32_t page[3] = {61, 62, 63};
  ti_slot_assign a = {.ids = {ids, N}, .n_prompt = N, .sampling = plain()};
  ti_slot_pages p = {.pages = {page, 3}};
  ti_plan_row r = {.n_token = N};
  const ti_step_plan plan = {.assign = &a, .n_assign = 1, .pages = &p, .n_pages = 1, .row = &r, .n_row = 1};
  ti_step_batch b;
  cr_assert_eq(ti_step_batch_init(&b, &ops, dev, N, 2, (int)s.max_pages), TI_OK);
  cr_assert_eq(ti_slots_apply(&s, &plan, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_step_batch_build(&b, &ops, dev, &s, &plan, (ti_batch_span){0, 1, false}, &err), TI_OK, "%s", err.text);
  s.slot[0].n_kv = N;
  cr_assert_eq(ti_step_batch_shift(&b, &ops, dev, &s), TI_OK);
  for (int i = 0; i < N; i++) {
    cr_assert_eq(b.h_ids[i], i + 1 < N ? 101 + i : 100 + N - 1, "row %d: id %d", i, b.h_ids[i]);
    cr_assert_eq(b.h_place[i], i + 1);
    cr_assert_eq(b.h_position[i], i);
  }
  ti_step_batch_fini(&b, &ops, dev);
  ops.close(dev);
  ti_slots_fini(&s);
}
