// How many drafts a decode row brings: each limit is met to the token, and none come where a token's logits depend on those before it.
#include <criterion/criterion.h>

#include "worker/spec/draft.h"

enum { SLOTS = 2, CONTEXT = 64, PAGE = 8, MOST = 12 };

static ti_slots slots;
static ti_slot *t;

// Proposes all that it may, counting up from 100.
static uint32_t propose(const ti_drafter *d, const int32_t *ids, uint32_t n, uint32_t most, int32_t *out) {
  for (uint32_t i = 0; i < most; i++) out[i] = 100 + (int32_t)i;
  return most;
}
static const ti_drafter eager = {"eager", propose};

// A sequence with 10 ids of its prompt and one of its text, room for everything.
static void setup(void) {
  cr_assert_eq(ti_slots_init(&slots, SLOTS, CONTEXT, PAGE, 64, 1000), TI_OK);
  t = &slots.slot[1];
  t->used = true;
  t->n_prompt = t->n_kv = 10;
  t->n_ids = 11;
  t->max_tokens = 50;
  t->n_page = CONTEXT / PAGE;
  t->draft_len = TI_DRAFT_MAX;
}
static void teardown(void) { ti_slots_fini(&slots); }
TestSuite(draft, .init = setup, .fini = teardown);

static uint32_t drafts_of(ti_plan_row row, const ti_drafter *d) {
  t->n_draft = 99;
  ti_draft_plan(&slots, d, &(ti_step_plan){.row = &row, .n_row = 1});
  return t->n_draft;
}
static uint32_t drafts(void) { return drafts_of((ti_plan_row){.slot = 1, .n_token = 1, .decode = true, .sample = true, .max_draft = MOST}, &eager); }

Test(draft, they_stand_behind_the_ids) {
  cr_assert_eq(drafts(), MOST);
  for (int i = 0; i < MOST; i++) cr_assert_eq(t->ids[11 + i], 100 + i);
  cr_assert_eq(t->n_ids, 11);
}

Test(draft, rows_that_do_not_decode_have_none) {
  const ti_plan_row row = {.slot = 1, .n_token = 1, .decode = true, .sample = true, .max_draft = MOST};
  ti_plan_row r = row;
  cr_assert_eq(drafts_of(row, NULL), 0);
  r.decode = false;
  cr_assert_eq(drafts_of(r, &eager), 0);
  r = row;
  r.sample = false;
  cr_assert_eq(drafts_of(r, &eager), 0);
  r = row;
  r.max_draft = 0;
  cr_assert_eq(drafts_of(r, &eager), 0);
  t->n_kv = 9;  // a step in flight draws the token that this row feeds
  cr_assert_eq(drafts_of(row, &eager), 0);
  t->n_kv = 10;
  t->finished = true;
  cr_assert_eq(drafts_of(row, &eager), 0);
  t->finished = false;
  cr_assert_eq(drafts_of(row, &eager), MOST);
}

Test(draft, logits_that_depend_on_the_tokens_before_forbid_them) {
  t->penalised = true;
  cr_assert_eq(drafts(), 0);
  t->penalised = false;
  t->min_tokens = 2;
  cr_assert_eq(drafts(), 0, "the next token is the first of 2 that may not end the text");
  t->min_tokens = 1;
  cr_assert_eq(drafts(), MOST);
}

// With the row's own token every draft may stay: the text must not grow beyond max_tokens, nor the ids beyond context and pages.
Test(draft, no_limit_is_passed) {
  for (uint32_t max = 1; max <= 16; max++) {  // 1 is generated
    t->max_tokens = max;
    cr_assert_eq(drafts(), max < 2 ? 0 : max - 2 < MOST ? max - 2 : MOST, "max_tokens %u", max);
  }
  t->max_tokens = 1000;
  for (uint32_t n = CONTEXT - 14; n <= CONTEXT; n++) {
    t->n_ids = n;
    t->n_kv = n - 1;
    cr_assert_eq(drafts(), n + 1 >= CONTEXT ? 0 : CONTEXT - 1 - n < MOST ? CONTEXT - 1 - n : MOST, "%u of %d ids of context", n, CONTEXT);
  }
  for (uint32_t n = 10; n <= 24; n++) {
    t->n_ids = n;
    t->n_kv = n - 1;
    t->n_page = 3;
    cr_assert_eq(drafts(), 3 * PAGE - n < MOST ? 3 * PAGE - n : MOST, "%u ids on 3 pages of %d", n, PAGE);
  }
}

Test(draft, their_number_follows_what_is_kept) {
  const uint32_t kept[] = {4, 8, 3, 0, 0, 0, 0, 1}, next[] = {8, 12, 12, 8, 4, 2, 1, 2};  // 12 is MOST; a length is 16 there
  t->draft_len = 0;
  cr_assert_eq(drafts(), 4, "what a sequence starts with");
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    ti_draft_learn(t, kept[i]);
    cr_assert_eq(drafts(), next[i], "step %zu: %u drafts", i, t->n_draft);
  }
  t->n_draft = 0;
  ti_draft_learn(t, 0);
  cr_assert_eq(drafts(), 2, "a row without drafts teaches nothing");
}
