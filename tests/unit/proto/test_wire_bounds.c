// Outside input: every bound violated once is refused by name; cut, mutated and swollen messages are errors, never crashes.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "wire_samples.h"

static ti_arena arena;
static ti_buf buf;
static ti_error err;
static void setup(void) {
  ti_arena_init(&arena, 1 << 20);
  ti_buf_init(&buf, 4 << 20);
}
static void teardown(void) {
  ti_arena_fini(&arena);
  ti_buf_fini(&buf);
}
TestSuite(wire_bounds, .init = setup, .fini = teardown);

static ti_status decode_control(ti_control *out) {
  ti_arena_reset(&arena);
  err = (ti_error){0};
  return ti_wire_decode_control(buf.data, buf.len, &sample_limits, &arena, out, &err);
}

static void expect_refused(ti_status st, const char *text) {
  cr_assert(st == TI_ERR_RANGE || st == TI_ERR_FORMAT, "%s: accepted", text);
  cr_assert_eq(st, err.code);
  cr_assert_not_null(strstr(err.text, text), "'%s' lacks '%s'", err.text, text);
}

#define REFUSED(kind, change, text)                        \
  do {                                                     \
    ti_control c = sample_control(kind), out_;             \
    change;                                                \
    ti_buf_reset(&buf);                                    \
    cr_assert_eq(ti_wire_encode_control(&c, &buf), TI_OK); \
    expect_refused(decode_control(&out_), text);           \
  } while (0)
#define ACCEPTED(kind, change)                                  \
  do {                                                          \
    ti_control c = sample_control(kind), out_;                  \
    change;                                                     \
    ti_buf_reset(&buf);                                         \
    cr_assert_eq(ti_wire_encode_control(&c, &buf), TI_OK);      \
    cr_assert_eq(decode_control(&out_), TI_OK, "%s", err.text); \
  } while (0)

static uint32_t many[512];
static float many_f[512];
#define MANY(k) ((ti_u32s){many, (k)})
#define MANY_F(k) ((ti_f32s){many_f, (k)})
static const uint32_t bad_token[] = {1, 2, 1000}, bad_slot[] = {0, 16}, bad_page[] = {64}, bad_rank[] = {8}, far_expert[] = {0, 65536};
static const float bad_float[] = {0, NAN, 0}, bad_inf[] = {-INFINITY, 0, 0};
static ti_slot_assign assigns[17];
static ti_slot_pages pages[65];
static ti_page_copy copies[65];
static ti_plan_row rows[65];
static ti_result_row results[65];
static char long_text[5000];

Test(wire_bounds, a_plan_s_every_bound) {
  REFUSED(TI_CTL_PLAN, c.plan.form = 2, "StepPlan.form: 2 is out of 0..1");
  REFUSED(TI_CTL_PLAN, c.plan.max_rows = 65, "StepPlan.max_rows: 65 is out of 0..64");
  REFUSED(TI_CTL_PLAN, c.plan.n_micro = 0, "StepPlan.n_micro");
  REFUSED(TI_CTL_PLAN, c.plan.n_micro = 3, "StepPlan.n_micro");
  REFUSED(TI_CTL_PLAN, (c.plan.release = (ti_u32s){bad_slot, 2}), "StepPlan.release[1]: 16 is out of 0..15");
  REFUSED(TI_CTL_PLAN, c.plan.release = MANY(17), "StepPlan.release: 17 elements are more than 16");
  REFUSED(TI_CTL_PLAN, (c.plan.assign = assigns, c.plan.n_assign = 17), "StepPlan.assign: 17 elements");
  REFUSED(TI_CTL_PLAN, (c.plan.pages = pages, c.plan.n_pages = 65), "StepPlan.pages: 65 elements");
  REFUSED(TI_CTL_PLAN, (c.plan.copy = copies, c.plan.n_copy = 65), "StepPlan.copy: 65 elements");
  REFUSED(TI_CTL_PLAN, (c.plan.row = rows, c.plan.n_row = 65), "StepPlan.row: 65 elements");
  REFUSED(TI_CTL_PLAN, c.plan.max_rows = 63, "StepPlan.row: 64 tokens in all, more than max_rows 63");
}

Test(wire_bounds, a_plan_s_rows_pages_and_copies) {
  const ti_plan_row row = some_rows[1];
  REFUSED(TI_CTL_PLAN, some_rows[1].slot = 16, "StepPlan.row[1].slot: 16 is out of 0..15");
  some_rows[1] = row;
  REFUSED(TI_CTL_PLAN, some_rows[1].n_token = 0, "StepPlan.row[1].n_token: 0 is out of 1..64");
  REFUSED(TI_CTL_PLAN, some_rows[1].n_token = 65, "StepPlan.row[1].n_token");
  some_rows[1] = row;
  REFUSED(TI_CTL_PLAN, some_rows[1].max_draft = 64, "StepPlan.row[1].max_draft: 64 is out of 0..63");
  REFUSED(TI_CTL_PLAN, some_rows[1].max_draft = 1, "StepPlan.row: 65 tokens in all, more than max_rows 64");
  some_rows[1] = row;
  const ti_slot_pages page = some_pages[0];
  REFUSED(TI_CTL_PLAN, some_pages[0].slot = 99, "StepPlan.pages[0].slot: 99");
  some_pages[0] = page;
  REFUSED(TI_CTL_PLAN, some_pages[0].first = 257, "StepPlan.pages[0].first");
  REFUSED(TI_CTL_PLAN, some_pages[0].first = 254, "StepPlan.pages[0].first: 257 is out of 0..256");
  some_pages[0] = page;
  REFUSED(TI_CTL_PLAN, (some_pages[0].pages = (ti_u32s){bad_page, 1}), "StepPlan.pages[0].pages[0]: 64 is out of 0..63");
  REFUSED(TI_CTL_PLAN, some_pages[0].pages = MANY(257), "StepPlan.pages[0].pages: 257 elements");
  some_pages[0] = page;
  const ti_page_copy copy = some_copy[1];
  REFUSED(TI_CTL_PLAN, some_copy[1].src = 64, "StepPlan.copy[1].src");
  some_copy[1] = copy;
  REFUSED(TI_CTL_PLAN, some_copy[1].dst = 64, "StepPlan.copy[1].dst");
  some_copy[1] = copy;
  REFUSED(TI_CTL_PLAN, some_copy[1].n_token = 0, "StepPlan.copy[1].n_token");
  some_copy[1] = copy;
  ACCEPTED(TI_CTL_PLAN, (void)0);
}

Test(wire_bounds, an_assignment_s_every_bound) {
#define A some_assign[1]
  REFUSED(TI_CTL_PLAN, A.slot = 16, "StepPlan.assign[1].slot");
  REFUSED(TI_CTL_PLAN, (A.ids = (ti_u32s){bad_token, 3}), "StepPlan.assign[1].ids[2]: 1000 is out of 0..999");
  REFUSED(TI_CTL_PLAN, A.ids = MANY(257), "assign[1].ids: 257 elements are more than 256");
  REFUSED(TI_CTL_PLAN, A.n_prompt = 0, "assign[1].n_prompt: 0 is out of 1..");
  REFUSED(TI_CTL_PLAN, A.n_prompt = 7, "assign[1].n_prompt: 7 is out of 1..6");
  REFUSED(TI_CTL_PLAN, A.n_cached = 7, "assign[1].n_cached: 7 is out of 0..6");
  REFUSED(TI_CTL_PLAN, A.max_tokens = 257, "assign[1].max_tokens");
  REFUSED(TI_CTL_PLAN, A.min_tokens = 201, "assign[1].min_tokens: 201 is out of 0..200");
  REFUSED(TI_CTL_PLAN, (A.stop_id = (ti_u32s){bad_token, 3}), "assign[1].stop_id[2]");
  REFUSED(TI_CTL_PLAN, A.stop_id = MANY(65), "assign[1].stop_id: 65 elements");
  REFUSED(TI_CTL_PLAN, A.sampling.temperature = NAN, "assign[1].sampling.temperature: nan");
  REFUSED(TI_CTL_PLAN, A.sampling.temperature = -1, "sampling.temperature: -1 is out of 0..100");
  REFUSED(TI_CTL_PLAN, A.sampling.temperature = INFINITY, "sampling.temperature: inf");
  REFUSED(TI_CTL_PLAN, A.sampling.top_p = 1.5f, "sampling.top_p");
  REFUSED(TI_CTL_PLAN, A.sampling.min_p = -0.5f, "sampling.min_p");
  REFUSED(TI_CTL_PLAN, A.sampling.top_k = -2, "sampling.top_k: -2 is out of -1..1000");
  REFUSED(TI_CTL_PLAN, A.sampling.top_k = 1001, "sampling.top_k");
  REFUSED(TI_CTL_PLAN, A.sampling.repetition = 0, "sampling.repetition");
  REFUSED(TI_CTL_PLAN, A.sampling.frequency = 2.5f, "sampling.frequency");
  REFUSED(TI_CTL_PLAN, A.sampling.presence = -2.5f, "sampling.presence");
  REFUSED(TI_CTL_PLAN, A.sampling.choice = 128, "sampling.choice");
  REFUSED(TI_CTL_PLAN, A.sampling.n_logprob = 21, "sampling.n_logprob");
  REFUSED(TI_CTL_PLAN, A.sampling.n_prompt_logprob = -2, "sampling.n_prompt_logprob");
  REFUSED(TI_CTL_PLAN, (A.sampling.bias_id = (ti_u32s){bad_token, 3}), "sampling.bias_id[2]");
  REFUSED(TI_CTL_PLAN, (A.sampling.bias_id = MANY(3), A.sampling.bias_value = (ti_f32s){bad_float, 3}), "sampling.bias_value[1]: nan");
  REFUSED(TI_CTL_PLAN, A.sampling.bias_value.n = 1, "sampling.bias_value: 1 elements, but bias_id has 2");
#undef A
}

Test(wire_bounds, a_result_s_every_bound) {
#define R some_results[0]
  REFUSED(TI_CTL_RESULT, (c.result.row = results, c.result.n_row = 65), "StepResult.row: 65 elements");
  REFUSED(TI_CTL_RESULT, c.result.n_token = 65, "StepResult.n_token");
  REFUSED(TI_CTL_RESULT, c.result.times.slowest_peer = 8, "StepResult.times.slowest_peer: 8 is out of 0..7");
  REFUSED(TI_CTL_RESULT, R.slot = 16, "StepResult.row[0].slot");
  REFUSED(TI_CTL_RESULT, (R.token = (ti_u32s){bad_token, 3}), "row[0].token[2]");
  REFUSED(TI_CTL_RESULT, R.token = MANY(65), "row[0].token: 65 elements are more than 64");
  REFUSED(TI_CTL_RESULT, (R.logprob = (ti_f32s){bad_float, 3}), "row[0].logprob[1]: nan");
  REFUSED(TI_CTL_RESULT, (R.logprob = (ti_f32s){bad_inf, 3}), "row[0].logprob[0]: -inf");
  REFUSED(TI_CTL_RESULT, R.logprob.n = 2, "row[0].logprob: 2 elements, but token has 3");
  REFUSED(TI_CTL_RESULT, R.rank.n = 2, "row[0].rank: 2 elements");
  REFUSED(TI_CTL_RESULT, R.n_top = 2, "row[0].top: 2 elements");
  REFUSED(TI_CTL_RESULT, R.finish = TI_FINISH_COUNT, "row[0].finish");
  REFUSED(TI_CTL_RESULT, (R.prompt_logprob = (ti_f32s){bad_float, 3}), "row[0].prompt_logprob[1]");
  REFUSED(TI_CTL_RESULT, R.prompt_logprob = MANY_F(65), "row[0].prompt_logprob: 65 elements");
  REFUSED(TI_CTL_RESULT, R.prompt_rank.n = 1, "row[0].prompt_rank: 1 elements");
  REFUSED(TI_CTL_RESULT, R.n_prompt_top = 3, "row[0].prompt_top: 3 elements");
  REFUSED(TI_CTL_RESULT, R.n_accepted = 5, "row[0].n_accepted: 5 is out of 0..4");
  REFUSED(TI_CTL_RESULT, R.n_draft = 64, "row[0].n_draft");
  some_tops[0].id[1] = 1000;
  REFUSED(TI_CTL_RESULT, (void)0, "row[0].top[0].id[1]: 1000 is out of 0..999");
  some_tops[0].id[1] = 999;
  some_tops[2].logprob[0] = NAN;
  REFUSED(TI_CTL_RESULT, (void)0, "row[0].top[2].logprob[0]: nan");
  some_tops[2].logprob[0] = 0;
  ACCEPTED(TI_CTL_RESULT, (R.logprob.n = 0, R.rank.n = 0, R.n_top = 0));
#undef R
}

Test(wire_bounds, the_small_messages) {
  memset(long_text, 'x', sizeof long_text - 1);
  REFUSED(TI_CTL_HELLO, c.hello.rank = 8, "Hello.rank: 8 is out of 0..7");
  REFUSED(TI_CTL_HELLO, c.hello.n_slot = 65537, "Hello.n_slot");
  REFUSED(TI_CTL_HELLO, c.hello.n_page = (1u << 28) + 1, "Hello.n_page");
  REFUSED(TI_CTL_HELLO, c.hello.page_tokens = 4097, "Hello.page_tokens");
  REFUSED(TI_CTL_HELLO, c.hello.max_rows = (1u << 20) + 1, "Hello.max_rows");
  REFUSED(TI_CTL_HELLO, c.hello.max_context = (1u << 24) + 1, "Hello.max_context");
  REFUSED(TI_CTL_HELLO, c.hello.vocab = (1u << 24) + 1, "Hello.vocab");
  REFUSED(TI_CTL_HELLO, c.hello.device = long_text, "Hello.device: 4999 bytes are out of 0..256");
  REFUSED(TI_CTL_HELLO, c.hello.host = "\xC0\x80", "Hello.host: not valid UTF-8");
  REFUSED(TI_CTL_WELCOME, c.welcome.n_page = 65, "Welcome.n_page");
  REFUSED(TI_CTL_HEARTBEAT, c.heartbeat.doing = "\xED\xA0\x80", "Heartbeat.doing: not valid UTF-8");
  REFUSED(TI_CTL_EPOCH, (c.epoch.ranks = (ti_u32s){bad_rank, 1}), "Epoch.ranks[0]: 8 is out of 0..7");
  REFUSED(TI_CTL_EPOCH, c.epoch.ranks = MANY(9), "Epoch.ranks: 9 elements");
  REFUSED(TI_CTL_ABORT, c.abort.status = TI_STATUS_COUNT, "Abort.status");
  REFUSED(TI_CTL_ABORT, c.abort.message = long_text, "Abort.message");
  REFUSED(TI_CTL_ABORT, c.abort.message = "caf\xE9", "Abort.message: not valid UTF-8");
  REFUSED(TI_CTL_DRAIN, c.drain.timeout_ms = 86400001, "Drain.timeout_ms");
  REFUSED(TI_CTL_PLACEMENT, c.placement.n_layer = 0, "Placement.slot_expert: 4 elements, not as many in each of n_layer 0");
  REFUSED(TI_CTL_PLACEMENT, c.placement.n_layer = 1025, "Placement.n_layer: 1025 is out of 0..1024");
  REFUSED(TI_CTL_PLACEMENT, c.placement.n_layer = 3, "Placement.slot_expert: 4 elements, not as many in each of n_layer 3");
  REFUSED(TI_CTL_PLACEMENT, (c.placement.slot_expert = (ti_u32s){far_expert, 2}), "Placement.slot_expert[1]: 65536 is out of 0..65535");
}

#define BYTES(...)                                           \
  do {                                                       \
    static const uint8_t b_[] = {__VA_ARGS__};               \
    ti_buf_reset(&buf);                                      \
    cr_assert_eq(ti_buf_append(&buf, b_, sizeof b_), TI_OK); \
  } while (0)

Test(wire_bounds, what_only_a_stranger_would_write) {
  ti_control out;
  BYTES(0x0a, 7, 0x0a, 3, 'a', 'b', 'c', 0x10, 1);
  expect_refused(decode_control(&out), "Challenge.nonce: 3 bytes where 32 belong");
  BYTES(0x2a, 16, 8, 1, 16, 1, 0x1a, 10, 8, 0, 0x12, 1, 5, 0x22, 3, 0x0a, 1, 1);
  expect_refused(decode_control(&out), "StepResult.row[0].top[0].logprob: 0 elements, but id has 1");
  BYTES(0x42, 6, 8, 1, 16, 1, 0x1a, 0);  // Abort
  cr_assert_eq(decode_control(&out), TI_OK, "%s", err.text);
  BYTES(0x42, 9, 8, 1, 16, 1, 0x1a, 3, 'a', 0, 'b');
  expect_refused(decode_control(&out), "Abort.message: not valid UTF-8, or with a NUL inside");
  BYTES(0x42, 2, 8, 1);
  expect_refused(decode_control(&out), "lack a required field");
  BYTES(0x7a, 0);  // a field number of the future
  expect_refused(decode_control(&out), "no body of a known kind");
  ti_buf_reset(&buf);
  cr_assert_eq(ti_buf_append(&buf, "", 0), TI_OK);
  expect_refused(decode_control(&out), "no body of a known kind");
  cr_assert_eq(ti_wire_decode_control(long_text, (size_t)TI_WIRE_MAX_BYTES + 1, &sample_limits, &arena, &out, &err), TI_ERR_RANGE);
}

Test(wire_bounds, a_zero_limit_lets_only_zero_pass) {
  static const ti_wire_limits nothing = {0};
  ti_control out;
  const ti_control hello = sample_control(TI_CTL_HELLO), plan = sample_plan();
  cr_assert_eq(ti_wire_encode_control(&hello, &buf), TI_OK);
  expect_refused(ti_wire_decode_control(buf.data, buf.len, &nothing, &arena, &out, &err), "Hello.rank: 7 is out of 0..0");
  ti_buf_reset(&buf);
  cr_assert_eq(ti_wire_encode_control(&plan, &buf), TI_OK);
  expect_refused(ti_wire_decode_control(buf.data, buf.len, &nothing, &arena, &out, &err), "StepPlan.");
}

// ---- the client plane ----
static ti_client_request request_out;
static ti_client_reply reply_out;
#define REQUEST_REFUSED(kind_, change, text)                                                                     \
  do {                                                                                                           \
    ti_client_request q = sample_request(kind_);                                                                 \
    change;                                                                                                      \
    ti_buf_reset(&buf);                                                                                          \
    cr_assert_eq(ti_wire_encode_request(&q, &buf), TI_OK);                                                       \
    expect_refused(ti_wire_decode_request(buf.data, buf.len, &sample_limits, &arena, &request_out, &err), text); \
  } while (0)
#define REPLY_REFUSED(kind_, change, text)                                                   \
  do {                                                                                       \
    ti_client_reply q = sample_reply(kind_);                                                 \
    change;                                                                                  \
    ti_buf_reset(&buf);                                                                      \
    cr_assert_eq(ti_wire_encode_reply(&q, &buf), TI_OK);                                     \
    expect_refused(ti_wire_decode_reply(buf.data, buf.len, &arena, &reply_out, &err), text); \
  } while (0)

Test(wire_bounds, a_submission_s_every_bound) {
  static const char *stops[65], *bad_stops[] = {"ok", "\xff"}, *empty_stops[] = {""};
  memset(long_text, 'x', sizeof long_text - 1);
  for (int i = 0; i < 65; i++) stops[i] = "s";
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.client_id = "", "SubmitRequest.client_id: 0 bytes are out of 1..128");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.client_id = long_text, "SubmitRequest.client_id");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.prompt_ids = (ti_u32s){bad_token, 3}), "SubmitRequest.prompt_ids[2]");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.prompt_ids = MANY(257), "SubmitRequest.prompt_ids: 257 elements");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.prompt = "both", "SubmitRequest.prompt: 2 of prompt");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.prompt_ids.n = 0, "SubmitRequest.prompt: 0 of prompt");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.prompt_ids.n = 0, q.submit.prompt = "\xff"), "SubmitRequest.prompt: not valid UTF-8");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.prompt_ids.n = 0, q.submit.messages_json = ""), "SubmitRequest.messages_json");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.tools_json = "\xff", "SubmitRequest.tools_json");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.max_tokens = 257, "SubmitRequest.max_tokens");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.min_tokens = 21, "SubmitRequest.min_tokens: 21 is out of 0..20");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.stop = (ti_strs){stops, 65}), "SubmitRequest.stop: 65 elements are more than 64");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.stop = (ti_strs){bad_stops, 2}), "SubmitRequest.stop[1]: not valid UTF-8");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (q.submit.stop = (ti_strs){empty_stops, 1}), "SubmitRequest.stop[0]: 0 bytes");
  REQUEST_REFUSED(TI_CLI_SUBMIT, (stops[1] = long_text, q.submit.stop = (ti_strs){stops, 2}), "SubmitRequest.stop[1]: 4999 bytes");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.stop_id = MANY(65), "SubmitRequest.stop_id");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.sampling.top_p = NAN, "SubmitRequest.sampling.top_p");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.n = 0, "SubmitRequest.n: 0 is out of 1..128");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.timeout_ms = 86400001, "SubmitRequest.timeout_ms");
  REQUEST_REFUSED(TI_CLI_SUBMIT, q.submit.api_key = long_text, "SubmitRequest.api_key");
  REQUEST_REFUSED(TI_CLI_NEXT, q.next.choice = 128, "NextRequest.choice");
  REQUEST_REFUSED(TI_CLI_NEXT, q.next.wait_ms = 60001, "NextRequest.wait_ms");
  REQUEST_REFUSED(TI_CLI_STATUS, q.status.api_key = "\xff", "StatusRequest.api_key");
}

Test(wire_bounds, a_reply_s_every_bound) {
  memset(long_text, 'x', sizeof long_text - 1);
  REPLY_REFUSED(TI_CLI_NEXT, q.next.finish = TI_FINISH_COUNT, "NextReply.finish");
  REPLY_REFUSED(TI_CLI_NEXT, (q.next.logprob = (ti_f32s){bad_float, 3}), "NextReply.logprob[1]");
  REPLY_REFUSED(TI_CLI_NEXT, q.next.logprob.n = 2, "NextReply.logprob: 2 elements, but token has 3");
  REPLY_REFUSED(TI_CLI_NEXT, q.next.stop_reason = "\xff", "NextReply.stop_reason");
  REPLY_REFUSED(TI_CLI_STATUS, q.status.model = "\xff", "StatusReply.model");
  REPLY_REFUSED(TI_CLI_STATUS, q.status.version = long_text, "StatusReply.version");
  REPLY_REFUSED(TI_CLI_STATUS, q.status.metrics = "\xff", "StatusReply.metrics");
  REPLY_REFUSED(TI_CLI_STATUS, some_ranks[1].doing = long_text, "StatusReply.rank[1].doing");
  some_ranks[1].doing = NULL;
  REPLY_REFUSED(TI_CLI_STATUS, some_ranks[1].rank = 65536, "StatusReply.rank[1].rank");
  REPLY_REFUSED(TI_CLI_ERROR, q.error.http_code = 200, "ErrorReply.http_code: 200 is out of 400..599");
  REPLY_REFUSED(TI_CLI_ERROR, q.error.type = long_text, "ErrorReply.type");
  REPLY_REFUSED(TI_CLI_ERROR, q.error.message = "\xff", "ErrorReply.message");
  REPLY_REFUSED(TI_CLI_ERROR, q.error.param = "\xff", "ErrorReply.param");
}

Test(wire_bounds, client_messages_round_trip) {
  ti_buf again;
  ti_buf_init(&again, 1 << 20);
  for (int k = TI_CLI_SUBMIT; k <= TI_CLI_ERROR; k++) {
    for (int bare = 0; bare < 2; bare++) {
      ti_client_request q = bare ? (ti_client_request){.id = 1, .kind = (ti_client_kind)k} : sample_request((ti_client_kind)k);
      if (bare && k == TI_CLI_SUBMIT) q.submit = (ti_msg_submit){.client_id = "c", .prompt = "", .n = 1, .sampling = {.repetition = 1}};
      ti_client_reply p = bare ? (ti_client_reply){.id = 1, .kind = (ti_client_kind)k} : sample_reply((ti_client_kind)k);
      if (bare && k == TI_CLI_ERROR) p.error.http_code = 500;
      if (k <= TI_CLI_STATUS) {
        ti_buf_reset(&buf);
        ti_buf_reset(&again);
        cr_assert_eq(ti_wire_encode_request(&q, &buf), TI_OK);
        cr_assert_eq(ti_wire_decode_request(buf.data, buf.len, &sample_limits, &arena, &request_out, &err), TI_OK, "kind %d: %s", k, err.text);
        cr_assert_eq(request_out.id, q.id);
        cr_assert_eq(ti_wire_encode_request(&request_out, &again), TI_OK);
        cr_assert(buf.len == again.len && memcmp(buf.data, again.data, buf.len) == 0, "request kind %d", k);
      }
      ti_buf_reset(&buf);
      ti_buf_reset(&again);
      cr_assert_eq(ti_wire_encode_reply(&p, &buf), TI_OK);
      cr_assert_eq(ti_wire_decode_reply(buf.data, buf.len, &arena, &reply_out, &err), TI_OK, "kind %d: %s", k, err.text);
      cr_assert_eq(ti_wire_encode_reply(&reply_out, &again), TI_OK);
      cr_assert(buf.len == again.len && memcmp(buf.data, again.data, buf.len) == 0, "reply kind %d", k);
    }
  }
  ti_buf_fini(&again);
  const ti_client_request none = {.kind = TI_CLI_NONE}, beyond = {.kind = TI_CLI_ERROR};
  cr_assert_eq(ti_wire_encode_request(&none, &buf), TI_ERR_ARG);
  cr_assert_eq(ti_wire_encode_request(&beyond, &buf), TI_ERR_ARG);
}

// ---- hostile bytes ----

// Decodes b[n], which lies in a heap block of exactly n bytes so that ASan sees a read beyond it, as every kind of envelope.
static void decode_all(const uint8_t *b, size_t n, bool must_fail) {
  uint8_t *exact = malloc(n ? n : 1);
  memcpy(exact, b, n);
  for (int as = 0; as < 3; as++) {
    ti_control c = {.kind = TI_CTL_NONE};
    err = (ti_error){0};
    ti_arena_reset(&arena);
    const ti_status st = as == 0   ? ti_wire_decode_control(exact, n, &sample_limits, &arena, &c, &err)
                         : as == 1 ? ti_wire_decode_request(exact, n, &sample_limits, &arena, &request_out, &err)
                                   : ti_wire_decode_reply(exact, n, &arena, &reply_out, &err);
    cr_assert_not(must_fail && st == TI_OK, "envelope %d, %zu bytes", as, n);
    if (st != TI_OK) {
      cr_assert(err.text[0] != 0 && err.code == st);
      cr_assert_eq(c.kind, TI_CTL_NONE);  // out is set on success only
    }
  }
  free(exact);
}

// Encodes sample i of all samples; false beyond the last.
static bool encode_sample(int i) {
  ti_buf_reset(&buf);
  if (i < 9) {
    const ti_control c = sample_control((ti_control_kind)(i + 1));
    return ti_wire_encode_control(&c, &buf) == TI_OK;
  }
  if (i < 13) {
    const ti_client_request q = sample_request((ti_client_kind)(i - 8));
    return ti_wire_encode_request(&q, &buf) == TI_OK;
  }
  const ti_client_reply p = sample_reply((ti_client_kind)(i - 12));
  return i < 18 && ti_wire_encode_reply(&p, &buf) == TI_OK;
}

Test(wire_bounds, a_message_cut_anywhere_is_an_error) {
  for (int i = 0; encode_sample(i); i++) {
    for (size_t n = 0; n < buf.len; n++) decode_all((const uint8_t *)buf.data, n, true);
  }
}

Test(wire_bounds, mutated_messages_never_crash) {
  uint32_t ctr[4] = {0}, r[4];
  const uint32_t key[2] = {2024, 7};
  for (int i = 0; encode_sample(i); i++) {
    for (int round = 0; round < 3000; round++) {
      encode_sample(i);
      ctr[0]++;
      ti_philox4x32(key, ctr, r);
      const uint32_t flips = 1 + r[0] % 4;
      for (uint32_t k = 0; k < flips; k++) {
        ctr[0]++;
        ti_philox4x32(key, ctr, r);
        uint8_t *p = (uint8_t *)buf.data + r[0] % buf.len;
        *p = r[1] % 3 == 0 ? (uint8_t)r[2] : r[1] % 3 == 1 ? *p ^ (uint8_t)(1u << r[2] % 8) : (uint8_t)(0xff << r[2] % 8);
      }
      decode_all((const uint8_t *)buf.data, buf.len, false);
    }
  }
}

Test(wire_bounds, swollen_messages_end_at_the_arena_s_cap) {
  // StepResult with one row of a million empty TopLogprob: 2 MiB that would unpack to 56 MiB
  const uint32_t n = 1u << 20, top = 2 * n, row = top + 2, result = 4 + 1 + 4 + row;
  uint8_t head[] = {0x2a, 0, 0, 0, 0, 8, 1, 16, 1, 0x1a, 0, 0, 0, 0, 8, 0};
  for (int i = 0; i < 4; i++) {
    head[1 + i] = (uint8_t)((result >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));
    head[10 + i] = (uint8_t)((row >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));
  }
  cr_assert_eq(ti_buf_append(&buf, head, sizeof head), TI_OK);
  for (uint32_t i = 0; i < n; i++) cr_assert_eq(ti_buf_append(&buf, "\x22\x00", 2), TI_OK);
  ti_control out;
  cr_assert_eq(decode_control(&out), TI_ERR_FULL, "%s", err.text);
  cr_assert_not_null(strstr(err.text, "1048576 bytes allowed"), "%s", err.text);
  cr_assert_leq(arena.used, arena.cap);
}

Test(wire_bounds, an_arena_too_small_by_any_amount_is_an_error) {
  ti_control out;
  for (int i = 0; i < 9; i++) {
    cr_assert(encode_sample(i));
    cr_assert_eq(decode_control(&out), TI_OK, "%s", err.text);
    const size_t used = arena.used;
    for (size_t cap = 0; cap < used; cap += 7) {
      ti_arena small;
      ti_arena_init(&small, cap);
      const ti_status st = ti_wire_decode_control(buf.data, buf.len, &sample_limits, &small, &out, &err);
      cr_assert(st == TI_ERR_FULL || (st == TI_OK && cap > used / 2), "cap %zu of %zu: %s", cap, used, err.text);  // padding depends on the chunks
      ti_arena_fini(&small);
    }
  }
}
