// What a plan may do to slots: the entries that contradict them are refused by name.
#include <criterion/criterion.h>
#include <string.h>

#include "worker/slots.h"

enum { SLOTS = 4, CONTEXT = 64, PAGE = 8, PAGES = 16, VOCAB = 100 };

static ti_slots slots;
static ti_error err;

static void open_slots(void) { cr_assert_eq(ti_slots_init(&slots, SLOTS, CONTEXT, PAGE, PAGES, VOCAB), TI_OK); }
static void close_slots(void) { ti_slots_fini(&slots); }
TestSuite(slots, .init = open_slots, .fini = close_slots);

static uint32_t ids[3] = {5, 6, 7}, pages[1] = {2};
static ti_slot_assign assignment(uint32_t slot) {
  return (ti_slot_assign){.slot = slot,
                          .request = 9,
                          .ids = {ids, 3},
                          .n_prompt = 3,
                          .max_tokens = 4,
                          .sampling = {.top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}};
}

Test(slots, an_assignment_and_its_pages_are_kept) {
  ti_slot_assign a = assignment(1);
  ti_slot_pages p = {.slot = 1, .first = 0, .pages = {pages, 1}};
  const ti_step_plan plan = {.assign = &a, .n_assign = 1, .pages = &p, .n_pages = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  const ti_slot *t = &slots.slot[1];
  cr_assert(t->used && t->n_ids == 3 && t->n_kv == 0 && t->n_page == 1 && t->table[0] == 2 && t->ids[2] == 7);
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "slot 1 is in use by request 9"), "%s", err.text);
}

Test(slots, a_step_gives_a_slot_one_row) {
  ti_slot_assign a = assignment(1);
  ti_plan_row rows[] = {{.slot = 1, .n_token = 1}, {.slot = 1, .n_token = 1}};
  ti_step_plan plan = {.step = 0, .assign = &a, .n_assign = 1, .row = rows, .n_row = 2};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "row[1]: a second row of slot 1"), "%s", err.text);
  ti_slots_reset(&slots);
  plan.n_row = 1;
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  plan.n_assign = 0;
  plan.step = 1;
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "the next step gives it its next: %s", err.text);
}

Test(slots, pages_beyond_the_table_are_refused) {
  ti_slot_assign a = assignment(0);
  ti_slot_pages p = {.slot = 0, .first = 1, .pages = {pages, 1}};
  const ti_step_plan plan = {.assign = &a, .n_assign = 1, .pages = &p, .n_pages = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "pages[0]: entries 1..2 of slot 0, which has 0"), "%s", err.text);
}

Test(slots, min_tokens_outranks_stop_ids_and_length_ends) {
  ti_slot_assign a = assignment(2);
  uint32_t stop[] = {8};
  const int eos[] = {1};
  a.stop_id = (ti_u32s){stop, 1};
  a.min_tokens = 2;
  const ti_step_plan plan = {.assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_slot_push(&slots, 2, 8, eos, 1), TI_FINISH_NONE);
  cr_assert_eq(ti_slot_push(&slots, 2, 8, eos, 1), TI_FINISH_STOP);
  slots.slot[2].finished = false;
  cr_assert_eq(ti_slot_push(&slots, 2, 9, eos, 1), TI_FINISH_NONE);
  cr_assert_eq(ti_slot_push(&slots, 2, 9, eos, 1), TI_FINISH_LENGTH);
}
