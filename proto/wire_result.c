// Tables of step results, and what must hold between their fields.
#include "proto/wire_priv.h"
#include "titan.pb-c.h"

enum { EXPERT_LOAD_MAX = 1 << 20 };

static const wire_field top_fields[] = {
    {.name = "id",
     .at = offsetof(ti_top_logprob, id),
     .n_at = offsetof(ti_top_logprob, n),
     .shape = WS_INLINE,
     .limit = WL_TOKEN,
     .n_limit = WL_RANGE,
     .n_max = TI_TOP_MAX},
    {.name = "logprob",
     .at = offsetof(ti_top_logprob, logprob),
     .n_at = offsetof(ti_top_logprob, n),
     .shape = WS_INLINE_MORE,
     .limit = WL_RANGE,
     .lo = -FLT_MAX,
     .hi = FLT_MAX,
     .n_limit = WL_RANGE,
     .n_max = TI_TOP_MAX},
};
static W_MSG(top_msg, titan__top_logprob__descriptor, ti_top_logprob, top_fields, NULL);

static const wire_field row_fields[] = {
    W_LIMIT(ti_result_row, slot, WL_SLOT, 0),
    W_U32S(ti_result_row, token, WL_TOKEN, WL_RANGE, WIRE_DRAFT_MAX + 1),
    W_F32S(ti_result_row, logprob, -FLT_MAX, FLT_MAX, WL_RANGE, WIRE_DRAFT_MAX + 1),
    W_MANY(ti_result_row, top, n_top, &top_msg, WL_RANGE, WIRE_DRAFT_MAX + 1),
    W_RANGE(ti_result_row, finish, 0, TI_FINISH_COUNT - 1),
    W_F32S(ti_result_row, prompt_logprob, -FLT_MAX, FLT_MAX, WL_ROWS, 0),
    W_MANY(ti_result_row, prompt_top, n_prompt_top, &top_msg, WL_ROWS, 0),
    W_RANGE(ti_result_row, n_draft, 0, WIRE_DRAFT_MAX),
    W_RANGE(ti_result_row, n_accepted, 0, WIRE_DRAFT_MAX),
    W_U32S(ti_result_row, rank, WL_ANY, WL_RANGE, WIRE_DRAFT_MAX + 1),
    W_U32S(ti_result_row, prompt_rank, WL_ANY, WL_ROWS, 0),
};

static bool check_row(wire_reader *r, const void *m, const wire_path *path) {
  const ti_result_row *row = m;
  const uint32_t n = row->token.n, n_prompt = row->prompt_logprob.n;
  return ti_wire_check_same(r, path, "logprob", row->logprob.n, "token", n, true) &&
         ti_wire_check_same(r, path, "rank", row->rank.n, "token", n, true) && ti_wire_check_same(r, path, "top", row->n_top, "token", n, true) &&
         ti_wire_check_same(r, path, "prompt_rank", row->prompt_rank.n, "prompt_logprob", n_prompt, true) &&
         ti_wire_check_same(r, path, "prompt_top", row->n_prompt_top, "prompt_logprob", n_prompt, true) &&
         ti_wire_check_range(r, path, "n_accepted", row->n_accepted, 0, row->n_draft);
}
static W_MSG(row_msg, titan__result_row__descriptor, ti_result_row, row_fields, check_row);

static const wire_field times_fields[] = {
    W_ANY(ti_step_times, total_us),     W_ANY(ti_step_times, dispatch_us), W_ANY(ti_step_times, expert_us),
    W_ANY(ti_step_times, combine_us),   W_ANY(ti_step_times, exposed_us),  W_ANY(ti_step_times, wait_us),
    W_ANY(ti_step_times, attention_us), W_ANY(ti_step_times, sample_us),   W_LIMIT(ti_step_times, slowest_peer, WL_RANK, 0),
    W_ANY(ti_step_times, slowest_us),
};
static W_MSG(times_msg, titan__step_times__descriptor, ti_step_times, times_fields, NULL);

static const wire_field result_fields[] = {
    W_ANY(ti_step_result, epoch),
    W_ANY(ti_step_result, step),
    W_MANY(ti_step_result, row, n_row, &row_msg, WL_ROWS, 0),
    W_ONE(ti_step_result, times, &times_msg),
    W_U32S(ti_step_result, expert_load, WL_ANY, WL_RANGE, EXPERT_LOAD_MAX),
    W_LIMIT(ti_step_result, n_token, WL_ROWS, 0),
    W_ANY(ti_step_result, placement),
};
W_MSG(ti_wire_result_msg, titan__step_result__descriptor, ti_step_result, result_fields, NULL);
