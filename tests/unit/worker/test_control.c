// A worker against a scripted coordinator, in one process over ipc: the handshake, plans and results, every way it ends.
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "proto/ctl.h"
#include "proto/handshake.h"
#include "tests/golden/late.h"
#include "worker/control.h"
#include "worker/worker.h"

enum { WAIT_MS = 10000, EPOCH = 3, PAGES = 64, SLOTS = 4, ROWS = 128, CONTEXT = 256 };
static const uint8_t secret[32] = "the job's secret";

static ti_config model;
static ti_checkpoint *ckpt;
static const ti_kernels *ops;  // the CPU's unless a test says otherwise
static ti_coll *self;
static ti_worker *worker;
static ti_ctl_host *host;
static ti_inbox inbox;
static pthread_t thread;
static ti_status ended;
static ti_error end_error;
static ti_arena arena;
static ti_buf out;
static uint32_t *prompt, *golden, n_prompt, n_golden;

static void keep(void *arg, ti_ctl_event *ev) { ti_inbox_push(arg, &ev->node); }
static void *run(void *arg) {
  ended = ti_worker_run(worker, &end_error);
  return NULL;
}
static uint32_t *ids(const json_t *j, const char *key, uint32_t *n) {
  const json_t *a = json_object_get(json_array_get(j, 0), key);
  *n = (uint32_t)json_array_size(a);
  uint32_t *v = calloc(*n, sizeof *v);
  for (uint32_t i = 0; i < *n; i++) v[i] = (uint32_t)json_integer_value(json_array_get(a, i));
  return v;
}

static void open_all(void) {
  const char *dir = TI_SOURCE_DIR "/models/titan-tiny-draft";
  ti_error err = {0};
  json_t *j;
  ops = ti_kernels_cpu();
  cr_assert_eq(ti_config_load(dir, &model, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_checkpoint_open(dir, &model, &ckpt, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_json_load_file(TI_SOURCE_DIR "/models/titan-tiny-draft/golden.json", 1 << 20, &j, &err), TI_OK, "%s", err.text);
  prompt = ids(j, "prompt_ids", &n_prompt);
  golden = ids(j, "greedy_ids", &n_golden);
  json_decref(j);
  cr_assert_eq(ti_coll_self_create(&self), TI_OK);
  uint64_t job;
  cr_assert_eq(ti_wire_random(&job, sizeof job), TI_OK);
  cr_assert_eq(ti_ctl_nng_host_open(&(ti_ctl_nng_config){.n_worker = 1, .job = job}, &host, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_inbox_init(&inbox), TI_OK);
  cr_assert_eq(ti_ctl_host_start(host, keep, &inbox), TI_OK);
  ti_arena_init(&arena, 1 << 22);
  ti_buf_init(&out, 1 << 22);
}

static void start(const uint8_t *with) {
  ti_error err = {0};
  const ti_worker_config cfg = {.rank = 1,
                                .address = ti_ctl_host_address(host, 1),
                                .secret = with,
                                .secret_len = sizeof secret,
                                .device = "cpu",
                                .host = "here",
                                .heartbeat_us = 50000,
                                .engine = {.model = &model,
                                           .ckpt = ckpt,
                                           .kernels = ops,
                                           .dev = {.threads = 1, .deterministic = true},
                                           .mesh = {1, 1, 1, 1, 1},
                                           .tp = self,
                                           .max_num_seqs = SLOTS,
                                           .max_num_batched_tokens = ROWS,
                                           .max_model_len = CONTEXT,
                                           .page_tokens = 16,
                                           .kv_dtype = TI_F32,
                                           .kv_bytes = PAGES * 2 * 2 * 2 * 64 * 16 * 4,
                                           .deterministic = true}};
  cr_assert_eq(ti_worker_create(&cfg, &worker, &err), TI_OK, "%s", err.text);
  cr_assert_eq(pthread_create(&thread, NULL, run, NULL), 0);
}
static ti_status end(void) {
  pthread_join(thread, NULL);
  return ended;
}
static void close_all(void) {
  ti_worker_destroy(worker);
  ti_ctl_host_close(host);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&inbox));) ti_ctl_event_free((ti_ctl_event *)n);
  ti_inbox_fini(&inbox);
  ti_checkpoint_close(ckpt);
  ti_coll_destroy(self);
  ti_arena_fini(&arena);
  ti_buf_fini(&out);
  free(prompt);
  free(golden);
}
TestSuite(worker, .init = open_all, .fini = close_all, .timeout = 120);

static ti_ctl_event *await_event(void) {
  for (int ms = 0; ms < WAIT_MS; ms++) {
    ti_ctl_event *ev = (ti_ctl_event *)ti_inbox_pop(&inbox);
    if (ev) return ev;
    usleep(1000);
  }
  return NULL;
}
// The next message of that kind; heartbeats are passed over unless they are what is wanted. In the arena until the next call.
static ti_control await(ti_control_kind kind) {
  const ti_wire_limits lim = {
      .n_rank = 2, .n_slot = SLOTS, .n_page = PAGES, .vocab = (uint32_t)model.vocab, .max_rows = ROWS, .max_context = CONTEXT};
  for (;;) {
    ti_ctl_event *ev = await_event();
    cr_assert_not_null(ev, "no message of kind %d", (int)kind);
    cr_assert_eq(ev->kind, TI_CTL_EV_MESSAGE, "the connection ended where kind %d belongs", (int)kind);
    ti_control m;
    ti_error err = {0};
    ti_arena_reset(&arena);
    cr_assert_eq(ti_wire_decode_control(ev->data, ev->len, &lim, &arena, &m, &err), TI_OK, "%s", err.text);
    ti_ctl_event_free(ev);
    if (m.kind == kind) return m;
    cr_assert_eq(m.kind, TI_CTL_HEARTBEAT, "kind %d where %d belongs", (int)m.kind, (int)kind);
  }
}
static void send(const ti_control *m) {
  ti_buf_reset(&out);
  cr_assert_eq(ti_wire_encode_control(m, &out), TI_OK);
  cr_assert_eq(ti_ctl_host_send(host, 1, out.data, out.len), TI_OK);
}
static bool admit(void) {
  uint8_t nonce[TI_NONCE_BYTES];
  ti_msg_hello hello;
  ti_error err = {0};
  ti_ctl_event *ev = await_event();
  cr_assert(ev && ev->kind == TI_CTL_EV_UP);
  ti_ctl_event_free(ev);
  ti_buf_reset(&out);
  cr_assert_eq(ti_handshake_challenge(nonce, &out), TI_OK);
  cr_assert_eq(ti_ctl_host_send(host, 1, out.data, out.len), TI_OK);
  ev = await_event();
  cr_assert(ev && ev->kind == TI_CTL_EV_MESSAGE);
  const ti_status st = ti_handshake_verify(ev->data, ev->len, secret, sizeof secret, nonce, 1, 2, &arena, &hello, &err);
  ti_ctl_event_free(ev);
  if (st) return ti_ctl_host_drop(host, 1), false;
  cr_assert_eq(hello.n_page, PAGES);
  cr_assert_str_eq(hello.device, "cpu");
  send(&(ti_control){.kind = TI_CTL_WELCOME, .welcome = {.epoch = EPOCH, .n_page = PAGES, .clock_us = (int64_t)ti_mono_us()}});
  return true;
}

static void send_prefill(uint64_t epoch, uint64_t step, uint32_t page) {
  ti_slot_assign a = {.slot = 2,
                      .request = 7,
                      .ids = {prompt, n_prompt},
                      .n_prompt = n_prompt,
                      .max_tokens = 50,
                      .sampling = {.temperature = 0, .top_p = 1, .top_k = -1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}};
  const uint32_t pages[4] = {page, page + 1, page + 2, page + 3};
  ti_slot_pages p = {.slot = 2, .first = 0, .pages = {pages, 4}};
  ti_plan_row r = {.slot = 2, .n_token = n_prompt, .sample = true};
  send(&(ti_control){.kind = TI_CTL_PLAN,
                     .plan = {.epoch = epoch,
                              .step = step,
                              .form = TI_FORM_PREFILL,
                              .max_rows = n_prompt,
                              .n_micro = 1,
                              .assign = &a,
                              .n_assign = 1,
                              .pages = &p,
                              .n_pages = 1,
                              .row = &r,
                              .n_row = 1}});
}
static void send_decode(uint64_t step, uint32_t slot) {
  ti_plan_row r = {.slot = slot, .n_token = 1, .decode = true, .sample = true};
  send(&(ti_control){.kind = TI_CTL_PLAN, .plan = {.epoch = EPOCH, .step = step, .max_rows = 1, .n_micro = 1, .row = &r, .n_row = 1}});
}
static void expect_token(uint64_t step, uint32_t id) {
  const ti_control m = await(TI_CTL_RESULT);
  cr_assert_eq(m.result.epoch, EPOCH);
  cr_assert_eq(m.result.step, step);
  cr_assert_eq(m.result.n_row, 1);
  cr_assert_eq(m.result.row[0].token.n, 1);
  cr_assert_eq(m.result.row[0].token.v[0], id, "step %lu: token %u, golden %u", (unsigned long)step, m.result.row[0].token.v[0], id);
}

Test(worker, runs_plans_that_were_sent_ahead_and_leaves_on_drain) {
  start(secret);
  cr_assert(admit());
  send_prefill(EPOCH, 0, 0);
  for (uint64_t s = 1; s < 8; s++) send_decode(s, 2);
  send(&(ti_control){.kind = TI_CTL_DRAIN, .drain = {.timeout_ms = 1000}});
  for (uint64_t s = 0; s < 8; s++) expect_token(s, golden[s]);
  cr_assert_eq(end(), TI_OK, "%s", end_error.text);
}

Test(worker, keeps_two_steps_in_flight_on_a_device_that_runs_beside_it) {
  ops = late_kernels();
  start(secret);
  cr_assert(admit());
  send_prefill(EPOCH, 0, 0);
  for (uint64_t s = 1; s < 24; s++) send_decode(s, 2);
  for (uint64_t s = 0; s < 24; s++) expect_token(s, golden[s]);
  usleep(2000);  // naps, then goes on
  send_decode(24, 2);
  send(&(ti_control){.kind = TI_CTL_DRAIN, .drain = {.timeout_ms = 1000}});
  expect_token(24, golden[24]);
  cr_assert_eq(end(), TI_OK, "%s", end_error.text);
  cr_assert_gt(late_most_ahead(), 1, "no step was submitted before the one before had run");
  cr_assert_gt(late_launches(), 10, "decode steps are recorded once and launched");
}

Test(worker, launches_op_by_op_where_a_step_cannot_be_recorded) {
  ops = late_kernels();
  late_refuse_recording(true);
  start(secret);
  cr_assert(admit());
  send_prefill(EPOCH, 0, 0);
  for (uint64_t s = 1; s < 6; s++) send_decode(s, 2);
  send(&(ti_control){.kind = TI_CTL_DRAIN, .drain = {.timeout_ms = 1000}});
  for (uint64_t s = 0; s < 6; s++) expect_token(s, golden[s]);
  cr_assert_eq(end(), TI_OK, "%s", end_error.text);
  cr_assert_eq(late_launches(), 0);
}

Test(worker, drops_plans_of_another_epoch) {
  start(secret);
  cr_assert(admit());
  send_prefill(EPOCH - 1, 0, 0);
  send_prefill(EPOCH + 1, 0, 0);
  send_prefill(EPOCH, 0, 0);
  expect_token(0, golden[0]);
  send(&(ti_control){.kind = TI_CTL_DRAIN});
  cr_assert_eq(end(), TI_OK);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&inbox)); ti_ctl_event_free((ti_ctl_event *)n)) {
    const ti_ctl_event *ev = (ti_ctl_event *)n;
    cr_assert(ev->kind != TI_CTL_EV_MESSAGE || ti_wire_control_kind(ev->data, ev->len) != TI_CTL_RESULT, "a plan of another epoch had a result");
  }
}

Test(worker, says_abort_and_why_when_the_engine_refuses_a_plan) {
  start(secret);
  cr_assert(admit());
  send_decode(0, 1);  // nothing was assigned to slot 1
  const ti_control m = await(TI_CTL_ABORT);
  cr_assert_eq(m.abort.status, TI_ERR_FORMAT);
  cr_assert(strstr(m.abort.message, "step 0") && strstr(m.abort.message, "slot"), "%s", m.abort.message);
  cr_assert_eq(end(), TI_ERR_FORMAT);
}

Test(worker, says_abort_when_a_message_is_none) {
  start(secret);
  cr_assert(admit());
  cr_assert_eq(ti_ctl_host_send(host, 1, "\x22\x03xyz", 5), TI_OK);
  cr_assert_eq(await(TI_CTL_ABORT).abort.status, TI_ERR_FORMAT);
  cr_assert_eq(end(), TI_ERR_FORMAT);
}

Test(worker, aborts_its_collectives_and_leaves_when_told_to) {
  start(secret);
  cr_assert(admit());
  send(&(ti_control){.kind = TI_CTL_ABORT, .abort = {.epoch = EPOCH, .status = TI_ERR_PEER, .message = "worker rank 2 died"}});
  const uint64_t t0 = ti_mono_us();
  cr_assert_eq(end(), TI_ERR_ABORTED);
  cr_assert_lt(ti_mono_us() - t0, 2000000u);
  cr_assert(strstr(end_error.text, "worker rank 2 died"), "%s", end_error.text);
  cr_assert(self->aborted);
}

Test(worker, leaves_within_two_seconds_of_its_coordinator) {
  start(secret);
  cr_assert(admit());
  await(TI_CTL_HEARTBEAT);
  const uint64_t t0 = ti_mono_us();
  ti_ctl_host_close(host);
  host = NULL;
  cr_assert_eq(end(), TI_ERR_PEER);
  cr_assert_lt(ti_mono_us() - t0, 2000000u);
  cr_assert(self->aborted);
}

Test(worker, heartbeats_tell_the_epoch_and_what_it_does) {
  start(secret);
  cr_assert(admit());
  const ti_control m = await(TI_CTL_HEARTBEAT);
  cr_assert_eq(m.heartbeat.epoch, EPOCH);
  cr_assert_gt(m.heartbeat.rss_bytes, 1u << 20);
  cr_assert_gt(strlen(m.heartbeat.doing), 0u);
  send(&(ti_control){.kind = TI_CTL_DRAIN});
  cr_assert_eq(end(), TI_OK);
}

Test(worker, gives_up_when_it_is_refused) {
  static const uint8_t wrong[32] = "another secret";
  start(wrong);
  uint8_t nonce[TI_NONCE_BYTES];
  for (int refused = 0; refused < 3;) {  // an address whose last connection is still closing may flicker
    ti_ctl_event *ev = await_event();
    cr_assert_not_null(ev);
    if (ev->kind == TI_CTL_EV_UP) {
      ti_buf_reset(&out);
      cr_assert_eq(ti_handshake_challenge(nonce, &out), TI_OK);
      cr_assert_neq(ti_ctl_host_send(host, 1, out.data, out.len), TI_ERR_FULL);
    } else if (ev->kind == TI_CTL_EV_MESSAGE) {
      ti_msg_hello hello;
      cr_assert_eq(ti_handshake_verify(ev->data, ev->len, secret, sizeof secret, nonce, 1, 2, &arena, &hello, NULL), TI_ERR_AUTH);
      ti_ctl_host_drop(host, 1);
      refused++;
    }
    ti_ctl_event_free(ev);
  }
  cr_assert_eq(end(), TI_ERR_PEER);
  cr_assert(strstr(end_error.text, "refuses"), "%s", end_error.text);
}
