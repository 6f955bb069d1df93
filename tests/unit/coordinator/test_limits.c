// What submit lets pass must be what a worker's decoder lets pass: a plan that is refused there ends the cluster. Each number of a request at its
// ends and beyond them; the fake workers decode every plan with a worker's limits (fake.h).
#include <criterion/criterion.h>

#include "coordinator/plan.h"
#include "fake.h"

enum { VOCAB = 2000, BIAS = 1024 };
static fake f;
static uint32_t bias_id[BIAS + 1];
static float bias_value[BIAS + 1];

static void up(void) {
  const fake_config k = {.mesh = {1, 1, 1, 1, 1},
                         .vocab = VOCAB,
                         .page_tokens = 4,
                         .max_model_len = 128,
                         .max_num_seqs = 8,
                         .budget = 16,
                         .n_page = 64,
                         .check_kv = true};
  fake_up(&f, &k);
  for (uint32_t i = 0; i <= BIAS; i++) bias_id[i] = VOCAB - 1 - i % VOCAB;
}
static void down(void) { fake_down(&f); }
TestSuite(limits, .init = up, .fini = down, .timeout = 60);

static ti_sampling plain(void) { return (ti_sampling){.temperature = 1, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}; }

static void *copy(const void *from, size_t n) {
  void *p = malloc(n ? n : 1);
  memcpy(p, from, n);
  return p;
}

// One request with these numbers, run to its end when it is taken.
static ti_status try(const ti_sampling *s) {
  ti_request_spec *q = ti_request_spec_create();
  ti_tokenlog *log;
  const ti_tokenlog_options o = {.max_tokens = 2, .n_logprob = -1, .n_prompt_logprob = -1};
  cr_assert_eq(ti_tokenlog_create(&o, &log), TI_OK);
  q->log = malloc(sizeof *q->log);
  q->log[0] = ti_tokenlog_hold(log);
  q->n_choice = 1;
  q->ids = calloc(3, sizeof *q->ids);
  q->n_prompt = 3;
  q->max_tokens = 2;
  q->ignore_eos = true;
  q->sampling = *s;
  if (s->bias_id.n) q->sampling.bias_id.v = copy(s->bias_id.v, s->bias_id.n * 4);
  if (s->bias_value.n) q->sampling.bias_value.v = copy(s->bias_value.v, s->bias_value.n * 4);
  uint64_t id;
  const ti_status st = ti_coord_submit(f.coord, q, &id);
  if (st) ti_request_spec_destroy(q);
  fake_settle(&f, 20);
  cr_assert_str_empty(f.wrong, "a worker refuses: %s", f.wrong);
  if (!st) cr_assert_eq(ti_tokenlog_peek(log).finish, TI_FINISH_LENGTH);
  ti_tokenlog_rele(log);
  return st;
}

#define WITH(change, status)                                           \
  do {                                                                 \
    ti_sampling s = plain();                                           \
    change;                                                            \
    cr_assert_eq(try(&s), (status), "%s: expected " #status, #change); \
  } while (0)

Test(limits, numbers_of_sampling_at_their_ends) {
  WITH((s.temperature = 0, s.top_k = VOCAB), TI_OK);
  WITH((s.temperature = 100, s.top_p = 0, s.min_p = 1), TI_OK);
  WITH((s.top_k = -1, s.repetition = 1e-3f, s.frequency = -2, s.presence = 2), TI_OK);
  WITH((s.repetition = 100, s.n_prompt_logprob = 20), TI_OK);
  WITH((s.bias_id = (ti_u32s){bias_id, BIAS}, s.bias_value = (ti_f32s){bias_value, BIAS}), TI_OK);
}

Test(limits, numbers_of_sampling_beyond_their_ends) {
  WITH(s.temperature = -1, TI_ERR_RANGE);
  WITH(s.temperature = 101, TI_ERR_RANGE);
  WITH(s.temperature = NAN, TI_ERR_RANGE);
  WITH(s.top_p = 1.1f, TI_ERR_RANGE);
  WITH(s.min_p = -0.1f, TI_ERR_RANGE);
  WITH(s.top_k = VOCAB + 1, TI_ERR_RANGE);
  WITH(s.top_k = -2, TI_ERR_RANGE);
  WITH(s.repetition = 0, TI_ERR_RANGE);
  WITH(s.frequency = 2.1f, TI_ERR_RANGE);
  WITH(s.presence = NAN, TI_ERR_RANGE);
  WITH(s.n_logprob = 21, TI_ERR_RANGE);
  WITH(s.n_prompt_logprob = -2, TI_ERR_RANGE);
  WITH((s.bias_id = (ti_u32s){bias_id, BIAS + 1}, s.bias_value = (ti_f32s){bias_value, BIAS + 1}), TI_ERR_RANGE);
  WITH((s.bias_id = (ti_u32s){bias_id, 2}, s.bias_value = (ti_f32s){bias_value, 1}), TI_ERR_RANGE);
  const uint32_t beyond = VOCAB;
  const float infinite = -INFINITY;
  WITH((s.bias_id = (ti_u32s){&beyond, 1}, s.bias_value = (ti_f32s){bias_value, 1}), TI_ERR_RANGE);
  WITH((s.bias_id = (ti_u32s){bias_id, 1}, s.bias_value = (ti_f32s){&infinite, 1}), TI_ERR_RANGE);
}

Test(limits, a_plan_never_outgrows_a_message) {
  enum { SEQS = 9000 };
  ti_plan p;
  cr_assert_eq(ti_plan_init(&p, SEQS, 128), TI_OK);
  for (uint32_t i = 0; i < BIAS; i++) bias_id[i] = (1u << 24) - 1;
  uint32_t ids[4] = {0};
  ti_request_spec q = {.id = 1, .ids = ids, .n_prompt = 4, .n_choice = 1, .max_tokens = 2, .sampling = plain()};
  q.sampling.bias_id = (ti_u32s){bias_id, BIAS};
  q.sampling.bias_value = (ti_f32s){bias_value, BIAS};
  ti_request *r = calloc(1, sizeof *r + sizeof(ti_seq));
  r->spec = &q;
  r->seq[0].req = r;
  uint32_t n = 0;
  for (; n < SEQS && ti_plan_has_room(&p, &r->seq[0]); n++) ti_plan_add_assign(&p, &r->seq[0], 0);
  cr_assert_gt(n, 1000);
  const ti_control m = {.kind = TI_CTL_PLAN, .plan = p.msg};
  ti_buf out;
  ti_buf_init(&out, 128u << 20);
  cr_assert_eq(ti_wire_encode_control(&m, &out), TI_OK);
  cr_assert_leq(out.len, TI_WIRE_MAX_BYTES, "%u assignments are %zu bytes", n, out.len);
  ti_buf_fini(&out);
  free(r);
  ti_plan_fini(&p);
}
