// Tables of the step plan and of sampling parameters, and what must hold between their fields.
#include "proto/wire_priv.h"
#include "titan.pb-c.h"

static const wire_field sampling_fields[] = {
    W_RANGE(ti_sampling, temperature, 0, 100),
    W_RANGE(ti_sampling, top_p, 0, 1),
    W_RANGE(ti_sampling, min_p, 0, 1),
    W_LIMIT(ti_sampling, top_k, WL_VOCAB, -1),  // 0 and -1: all
    W_RANGE(ti_sampling, repetition, 1e-3, 100),
    W_RANGE(ti_sampling, frequency, -2, 2),
    W_RANGE(ti_sampling, presence, -2, 2),
    W_ANY(ti_sampling, seed),
    W_RANGE(ti_sampling, choice, 0, WIRE_CHOICES_MAX - 1),
    W_RANGE(ti_sampling, n_logprob, -1, TI_TOP_MAX),
    W_RANGE(ti_sampling, n_prompt_logprob, -1, TI_TOP_MAX),
    W_U32S(ti_sampling, bias_id, WL_TOKEN, WL_RANGE, WIRE_BIAS_MAX),
    W_F32S(ti_sampling, bias_value, -FLT_MAX, FLT_MAX, WL_RANGE, WIRE_BIAS_MAX),
};

static bool check_sampling(wire_reader *r, const void *m, const wire_path *path) {
  const ti_sampling *s = m;
  return ti_wire_check_same(r, path, "bias_value", s->bias_value.n, "bias_id", s->bias_id.n, false);
}
W_MSG(ti_wire_sampling_msg, titan__sampling__descriptor, ti_sampling, sampling_fields, check_sampling);

static const wire_field assign_fields[] = {
    W_LIMIT(ti_slot_assign, slot, WL_SLOT, 0),
    W_ANY(ti_slot_assign, request),
    W_U32S(ti_slot_assign, ids, WL_TOKEN, WL_CONTEXT, 0),
    W_LIMIT(ti_slot_assign, n_prompt, WL_CONTEXT, 1),
    W_LIMIT(ti_slot_assign, n_cached, WL_CONTEXT, 0),
    W_LIMIT(ti_slot_assign, max_tokens, WL_CONTEXT, 0),
    W_LIMIT(ti_slot_assign, min_tokens, WL_CONTEXT, 0),
    W_ANY(ti_slot_assign, ignore_eos),
    W_U32S(ti_slot_assign, stop_id, WL_TOKEN, WL_RANGE, WIRE_STOP_MAX),
    W_ONE(ti_slot_assign, sampling, &ti_wire_sampling_msg),
};

static bool check_assign(wire_reader *r, const void *m, const wire_path *path) {
  const ti_slot_assign *a = m;
  return ti_wire_check_range(r, path, "n_prompt", a->n_prompt, 1, a->ids.n) && ti_wire_check_range(r, path, "n_cached", a->n_cached, 0, a->ids.n) &&
         ti_wire_check_range(r, path, "min_tokens", a->min_tokens, 0, a->max_tokens);
}
static W_MSG(assign_msg, titan__slot_assign__descriptor, ti_slot_assign, assign_fields, check_assign);

static const wire_field pages_fields[] = {
    W_LIMIT(ti_slot_pages, slot, WL_SLOT, 0),
    W_LIMIT(ti_slot_pages, first, WL_CONTEXT, 0),  // a page holds one token at least
    W_U32S(ti_slot_pages, pages, WL_PAGE, WL_CONTEXT, 0),
};

static bool check_pages(wire_reader *r, const void *m, const wire_path *path) {
  const ti_slot_pages *p = m;
  return ti_wire_check_range(r, path, "first", (double)p->first + p->pages.n, 0, r->hi[WL_CONTEXT]);
}
static W_MSG(pages_msg, titan__slot_pages__descriptor, ti_slot_pages, pages_fields, check_pages);

static const wire_field row_fields[] = {
    W_LIMIT(ti_plan_row, slot, WL_SLOT, 0),
    W_LIMIT(ti_plan_row, n_token, WL_ROWS, 1),
    W_ANY(ti_plan_row, decode),
    W_ANY(ti_plan_row, sample),
    W_RANGE(ti_plan_row, max_draft, 0, WIRE_DRAFT_MAX),
};
static W_MSG(row_msg, titan__plan_row__descriptor, ti_plan_row, row_fields, NULL);

static const wire_field copy_fields[] = {
    W_LIMIT(ti_page_copy, src, WL_PAGE, 0),
    W_LIMIT(ti_page_copy, dst, WL_PAGE, 0),
    W_LIMIT(ti_page_copy, n_token, WL_CONTEXT, 1),
};
static W_MSG(copy_msg, titan__page_copy__descriptor, ti_page_copy, copy_fields, NULL);

static const wire_field plan_fields[] = {
    W_ANY(ti_step_plan, epoch),
    W_ANY(ti_step_plan, step),
    W_ANY(ti_step_plan, placement),
    W_RANGE(ti_step_plan, form, TI_FORM_DECODE, TI_FORM_PREFILL),
    W_LIMIT(ti_step_plan, max_rows, WL_ROWS, 0),
    W_RANGE(ti_step_plan, n_micro, 1, 2),
    W_ANY(ti_step_plan, gather_logits),
    W_U32S(ti_step_plan, release, WL_SLOT, WL_SLOTS, 0),
    W_MANY(ti_step_plan, assign, n_assign, &assign_msg, WL_SLOTS, 0),
    W_MANY(ti_step_plan, pages, n_pages, &pages_msg, WL_PAGES, 0),
    W_MANY(ti_step_plan, copy, n_copy, &copy_msg, WL_PAGES, 0),
    W_MANY(ti_step_plan, row, n_row, &row_msg, WL_ROWS, 0),
};

static bool check_plan(wire_reader *r, const void *m, const wire_path *path) {
  const ti_step_plan *p = m;
  uint64_t tokens = 0;  // those that drafts may add too; far from an overflow
  for (uint32_t i = 0; i < p->n_row; i++) tokens += p->row[i].n_token + p->row[i].max_draft;
  if (tokens <= p->max_rows) return true;
  return ti_wire_fail(r, TI_ERR_RANGE, path, "row", "%llu tokens in all, more than max_rows %u", (unsigned long long)tokens, p->max_rows);
}
W_MSG(ti_wire_plan_msg, titan__step_plan__descriptor, ti_step_plan, plan_fields, check_plan);
