// One sample of every message with every field set, within `sample_limits`: shared by the wire tests.
#ifndef TI_TESTS_WIRE_SAMPLES_H
#define TI_TESTS_WIRE_SAMPLES_H
#include "proto/wire.h"

static const ti_wire_limits sample_limits = {.n_rank = 8, .n_slot = 16, .n_page = 64, .vocab = 1000, .max_rows = 64, .max_context = 256};

static const uint32_t some_loads[] = {0, 4000000000u, 1}, some_member_ranks[] = {0, 1, 7};
static const uint32_t some_slot_experts[] = {0, 1, 1, 0};
static const uint32_t some_ids[] = {5, 0, 999, 300, 127, 128};
static const float some_floats[] = {-0.5f, -3.25f, 0.0f, -1e-7f, -88.0f, -2.0f};
static const char *const some_stops[] = {"\n\n", "fin \xC3\xA9"};
#define IDS(k) ((ti_u32s){some_ids, (k)})
#define FLOATS(k) ((ti_f32s){some_floats, (k)})

static inline ti_sampling sample_sampling(void) {
  return (ti_sampling){.temperature = 0.7f,
                       .top_p = 0.9f,
                       .min_p = 0.05f,
                       .top_k = 40,
                       .repetition = 1.1f,
                       .frequency = -0.5f,
                       .presence = 0.25f,
                       .seed = 0xfedcba9876543210u,
                       .choice = 3,
                       .n_logprob = 5,
                       .n_prompt_logprob = 2,
                       .bias_id = IDS(2),
                       .bias_value = FLOATS(2)};
}
static ti_slot_assign some_assign[2];
static ti_slot_pages some_pages[] = {{3, 2, {(const uint32_t[]){1, 63, 7}, 3}}, {15, 0, {NULL, 0}}};
static ti_page_copy some_copy[] = {{1, 2, 16}, {63, 0, 1}};
static ti_plan_row some_rows[] = {{0, 1, true, true, 4}, {15, 54, false, false, 0}, {7, 3, true, false, 2}};
static const uint32_t some_slots[] = {15, 0, 4};
static ti_top_logprob some_tops[] = {{2, {1, 999}, {-0.1f, -4.0f}}, {0, {0}, {0}}, {1, {0}, {-9.5f}}};

static inline ti_control sample_plan(void) {
  for (int i = 0; i < 2; i++) {
    some_assign[i] = (ti_slot_assign){.slot = 3 + (uint32_t)i,
                                      .request = 1ull << 40,
                                      .ids = IDS(6),
                                      .n_prompt = 5,
                                      .n_cached = 4,
                                      .max_tokens = 200,
                                      .min_tokens = 7,
                                      .ignore_eos = true,
                                      .stop_id = IDS(3),
                                      .sampling = sample_sampling()};
  }
  return (ti_control){.kind = TI_CTL_PLAN,
                      .plan = {.epoch = 3,
                               .step = 1ull << 33,
                               .placement = 2,
                               .form = TI_FORM_PREFILL,
                               .max_rows = 64,
                               .n_micro = 2,
                               .gather_logits = true,
                               .release = {some_slots, 3},
                               .assign = some_assign,
                               .n_assign = 2,
                               .pages = some_pages,
                               .n_pages = 2,
                               .copy = some_copy,
                               .n_copy = 2,
                               .row = some_rows,
                               .n_row = 3}};
}

static ti_result_row some_results[2];
static inline ti_control sample_result(void) {
  some_results[0] = (ti_result_row){.slot = 15,
                                    .token = IDS(3),
                                    .logprob = FLOATS(3),
                                    .rank = IDS(3),
                                    .top = some_tops,
                                    .n_top = 3,
                                    .finish = TI_FINISH_LENGTH,
                                    .prompt_logprob = FLOATS(2),
                                    .prompt_rank = IDS(2),
                                    .prompt_top = some_tops,
                                    .n_prompt_top = 2,
                                    .n_draft = 4,
                                    .n_accepted = 2};
  some_results[1] = (ti_result_row){.slot = 1};
  return (ti_control){.kind = TI_CTL_RESULT,
                      .result = {.epoch = 3,
                                 .step = 9,
                                 .row = some_results,
                                 .n_row = 2,
                                 .times = {1, 2, 3, 4, 5, 6, 7, 8, 7, 10},
                                 .expert_load = {some_loads, 3},
                                 .n_token = 64}};
}

// Every control message by kind, all fields set.
static inline ti_control sample_control(ti_control_kind kind) {
  ti_control c = {.kind = kind};
  switch (kind) {
    case TI_CTL_CHALLENGE:
      for (int i = 0; i < TI_NONCE_BYTES; i++) c.challenge.nonce[i] = (uint8_t)(i * 9);
      c.challenge.version = TI_WIRE_VERSION;
      break;
    case TI_CTL_HELLO:
      c.hello = (ti_msg_hello){.rank = 7,
                               .version = 1,
                               .n_slot = 16,
                               .n_page = 64,
                               .page_tokens = 16,
                               .max_rows = 512,
                               .max_context = 4096,
                               .vocab = 1000,
                               .device = "cpu avx2",
                               .host =
                                   "n\xC3\xB8"
                                   "de1",
                               .pid = 1ull << 35,
                               .weight_bytes = 5ull << 32,
                               .kv_bytes = 6ull << 32,
                               .epoch = 4};
      for (int i = 0; i < TI_HMAC_BYTES; i++) c.hello.hmac[i] = (uint8_t)(255 - i);
      break;
    case TI_CTL_WELCOME:
      c.welcome = (ti_msg_welcome){.epoch = 2, .n_page = 64, .clock_us = -17};
      break;
    case TI_CTL_PLAN:
      return sample_plan();
    case TI_CTL_RESULT:
      return sample_result();
    case TI_CTL_HEARTBEAT:
      c.heartbeat =
          (ti_msg_heartbeat){.epoch = 1, .step = 2, .in_step_us = 3, .clock_us = 1ll << 50, .doing = "step 2: dispatch", .rss_bytes = 1u << 30};
      break;
    case TI_CTL_EPOCH:
      c.epoch = (ti_msg_epoch){.epoch = 5, .ranks = {some_member_ranks, 3}};
      break;
    case TI_CTL_ABORT:
      c.abort = (ti_msg_abort){.epoch = 5, .status = TI_ERR_PEER, .message = "rank 3 is gone"};
      break;
    case TI_CTL_DRAIN:
      c.drain = (ti_msg_drain){.timeout_ms = 30000};
      break;
    case TI_CTL_PLACEMENT:
      c.placement = (ti_msg_placement){.version = 3, .n_layer = 2, .slot_expert = {some_slot_experts, 4}};
      break;
    case TI_CTL_NONE:
      break;
  }
  return c;
}

static inline ti_client_request sample_request(ti_client_kind kind) {
  ti_client_request q = {.id = 77, .kind = kind};
  if (kind == TI_CLI_SUBMIT) {
    q.submit = (ti_msg_submit){.client_id = "me",
                               .nonce = 9,
                               .prompt_ids = IDS(6),
                               .tools_json = "[]",
                               .max_tokens = 20,
                               .min_tokens = 2,
                               .ignore_eos = true,
                               .has_seed = true,
                               .stop = {some_stops, 2},
                               .stop_id = IDS(2),
                               .sampling = sample_sampling(),
                               .n = 3,
                               .priority = -4,
                               .timeout_ms = 1000,
                               .api_key = "k"};
  } else if (kind == TI_CLI_NEXT) {
    q.next = (ti_msg_next){
        .generation = 1ull << 60, .capability = {1, 2, 3, 255}, .choice = 2, .cursor = 10, .wait_ms = 500, .max_tokens = 8, .text_cursor = 33};
  } else if (kind == TI_CLI_CANCEL) {
    q.cancel = (ti_msg_cancel){.generation = 4, .capability = {9}};
  } else if (kind == TI_CLI_STATUS) {
    q.status = (ti_msg_status){.api_key = "k", .metrics = true};
  }
  return q;
}

static ti_rank_status some_ranks[] = {{1, true, 100, 3, "cpu", "h", "idle", 200}, {2, false, 0, 9000, NULL, NULL, NULL, 0}};
static inline ti_client_reply sample_reply(ti_client_kind kind) {
  ti_client_reply p = {.id = 78, .kind = kind};
  if (kind == TI_CLI_SUBMIT) {
    p.submit = (ti_msg_submitted){.generation = 5, .n_prompt = 12, .capability = {8, 0, 8}};
  } else if (kind == TI_CLI_NEXT) {
    p.next = (ti_msg_tokens){.cursor = 4,
                             .token = IDS(3),
                             .logprob = FLOATS(3),
                             .text = "a\0b\xff",
                             .text_len = 4,
                             .text_cursor = 9,
                             .finish = TI_FINISH_STOP,
                             .n_token = 7,
                             .stop_reason = "\n"};
  } else if (kind == TI_CLI_CANCEL) {
    p.cancel = (ti_msg_cancelled){.found = true};
  } else if (kind == TI_CLI_STATUS) {
    p.status = (ti_msg_status_reply){.model = "tiny",
                                     .version = "0.1",
                                     .healthy = true,
                                     .rank = some_ranks,
                                     .n_rank = 2,
                                     .running = 3,
                                     .waiting = 4,
                                     .pages_used = 5,
                                     .pages = 6,
                                     .tokens = 7,
                                     .metrics = "# x\n"};
  } else if (kind == TI_CLI_ERROR) {
    p.error = (ti_msg_error){.http_code = 429, .type = "rate_limit", .message = "too many", .param = "n"};
  }
  return p;
}

#endif
