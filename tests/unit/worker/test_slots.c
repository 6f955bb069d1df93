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

static ti_finish draw(uint32_t slot, int32_t id) {
  const int eos[] = {1};
  return ti_slot_fill(&slots, slot, ti_slot_expect(&slots, slot), id, eos, 1);
}

Test(slots, min_tokens_outranks_stop_ids_and_length_ends) {
  ti_slot_assign a = assignment(2);
  uint32_t stop[] = {8};
  a.stop_id = (ti_u32s){stop, 1};
  a.min_tokens = 2;
  const ti_step_plan plan = {.assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  cr_assert_eq(draw(2, 8), TI_FINISH_NONE);
  cr_assert_eq(draw(2, 8), TI_FINISH_STOP);
  cr_assert(slots.slot[2].finished && slots.slot[2].stopped);
  slots.slot[2].finished = slots.slot[2].stopped = false;
  cr_assert_eq(draw(2, 9), TI_FINISH_NONE);
  cr_assert_eq(draw(2, 9), TI_FINISH_LENGTH);
}

Test(slots, a_pending_id_takes_its_place_and_the_last_one_finishes_by_count) {
  ti_slot_assign a = assignment(2);
  a.max_tokens = 2;
  const ti_step_plan plan = {.assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  const ti_slot *t = &slots.slot[2];
  const uint32_t first = ti_slot_expect(&slots, 2);
  cr_assert(first == 3 && t->n_ids == 4 && t->ids[3] == TI_SLOT_PENDING && !t->finished && t->n_pending == 1);
  const uint32_t second = ti_slot_expect(&slots, 2);
  cr_assert(second == 4 && t->finished && !t->stopped, "the second of two tokens is the last, whatever it is");
  cr_assert_eq(ti_slot_fill(&slots, 2, first, 50, NULL, 0), TI_FINISH_NONE);
  cr_assert(t->ids[3] == 50 && t->n_pending == 1);
  cr_assert_eq(ti_slot_fill(&slots, 2, second, 51, NULL, 0), TI_FINISH_LENGTH);
}

Test(slots, an_eos_that_comes_back_stops_a_slot_whose_next_id_is_already_expected) {
  ti_slot_assign a = assignment(1);
  const int eos[] = {1};
  const ti_step_plan plan = {.assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&slots, &plan, &err), TI_OK, "%s", err.text);
  const uint32_t first = ti_slot_expect(&slots, 1), life = slots.slot[1].life;
  (void)ti_slot_expect(&slots, 1);
  cr_assert_eq(ti_slot_fill(&slots, 1, first, 1, eos, 1), TI_FINISH_STOP);
  cr_assert(slots.slot[1].stopped);
  const uint32_t gone[] = {1};
  const ti_step_plan next = {.release = {gone, 1}, .assign = &a, .n_assign = 1};
  cr_assert_eq(ti_slots_apply(&slots, &next, &err), TI_OK, "%s", err.text);
  cr_assert(slots.slot[1].life != life && !slots.slot[1].stopped && slots.slot[1].n_pending == 0);
}
