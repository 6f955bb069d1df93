#include "worker/spec/draft.h"

enum { FIRST_LEN = 4 };  // what a sequence starts with

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

// How many drafts there is room for.
static uint32_t room(const ti_slots *s, const ti_slot *t, uint32_t most) {
  const uint32_t generated = ti_slot_generated(t), places = t->n_page * s->page_tokens;
  if (t->penalised || generated < t->min_tokens || generated + 1 >= t->max_tokens || t->n_ids + 1 >= s->max_context || t->n_ids >= places) return 0;
  most = min_u32(min_u32(most, TI_DRAFT_MAX), t->draft_len ? t->draft_len : FIRST_LEN);
  most = min_u32(most, t->max_tokens - generated - 1);
  return min_u32(most, min_u32(s->max_context - t->n_ids - 1, places - t->n_ids));
}

void ti_draft_plan(ti_slots *s, const ti_drafter *d, const ti_step_plan *plan) {
  for (uint32_t i = 0; i < plan->n_row; i++) {
    const ti_plan_row *r = &plan->row[i];
    if (r->slot >= s->n_slot) continue;  // the batch refuses it
    ti_slot *t = &s->slot[r->slot];
    t->n_draft = 0;
    if (!d || !t->used || t->finished || !r->decode || !r->sample || r->max_draft == 0 || t->n_ids - t->n_kv != 1) continue;
    const uint32_t most = room(s, t, r->max_draft);
    if (most) t->n_draft = d->propose(d, t->ids, t->n_ids, most, t->ids + t->n_ids);
  }
}

void ti_draft_learn(ti_slot *t, uint32_t kept) {
  if (t->n_draft == 0) return;
  const uint32_t len = t->draft_len ? t->draft_len : FIRST_LEN;
  if (kept == t->n_draft) {
    t->draft_len = min_u32(2 * len, TI_DRAFT_MAX);
  } else {
    t->draft_len = kept == 0 ? (len > 1 ? len / 2 : 1) : len;
  }
}
