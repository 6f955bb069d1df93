// The switch of drafting: it stays where steps are cheaper by the token, changes sides when the other way is 5% better, and not for less.
#include <criterion/criterion.h>

#include "coordinator/sched/draft.h"

// n steps; a drafting one gives on_tokens in on_us, another off_tokens in off_us. How many drafted.
static uint32_t steps(ti_draft_switch *d, uint32_t n, uint32_t on_tokens, uint32_t on_us, uint32_t off_tokens, uint32_t off_us) {
  uint32_t drafted = 0;
  for (uint32_t i = 0; i < n; i++) {
    const bool on = ti_draft_switch_next(d);
    drafted += on;
    ti_draft_switch_learn(d, on, on ? on_tokens : off_tokens, on ? on_us : off_us);
  }
  return drafted;
}

Test(draft, stays_on_where_it_gains_and_probes_the_other_way) {
  ti_draft_switch d;
  ti_draft_switch_init(&d);
  const uint32_t drafted = steps(&d, 640, 3, 150, 1, 100);
  cr_assert(d.on);
  cr_assert(drafted < 640 && drafted > 560, "%u of 640", drafted);
}
Test(draft, goes_off_where_it_loses_and_comes_back_when_text_repeats) {
  ti_draft_switch d;
  ti_draft_switch_init(&d);
  steps(&d, 200, 64, 1500, 64, 1000);
  cr_assert(!d.on);
  cr_assert_lt(steps(&d, 640, 64, 1500, 64, 1000), 100, "only probes draft");
  steps(&d, 640, 150, 1500, 64, 1000);
  cr_assert(d.on);
}
Test(draft, does_not_change_sides_for_less_than_the_hysteresis) {
  ti_draft_switch d;
  ti_draft_switch_init(&d);
  steps(&d, 2000, 100, 1000, 103, 1000);
  cr_assert(d.on, "off is 3%% better, which is no reason");
  steps(&d, 2000, 100, 1000, 110, 1000);
  cr_assert(!d.on, "10%% is");
  steps(&d, 2000, 113, 1000, 110, 1000);
  cr_assert(!d.on, "3%% is none for the way back either");
}
Test(draft, steps_without_tokens_or_time_teach_nothing) {
  ti_draft_switch d;
  ti_draft_switch_init(&d);
  for (int i = 0; i < 300; i++) {
    const bool on = ti_draft_switch_next(&d);
    ti_draft_switch_learn(&d, on, 0, 1000);
    ti_draft_switch_learn(&d, on, 1, 0);
  }
  cr_assert(d.on && d.rate[0] == 0 && d.rate[1] == 0);
}
Test(draft, one_slow_step_changes_nothing) {
  ti_draft_switch d;
  ti_draft_switch_init(&d);
  steps(&d, 128, 3, 150, 1, 100);
  ti_draft_switch_learn(&d, true, 3, 15000);
  cr_assert(d.on, "the scheduler took the CPU once");
}
Test(draft, a_change_of_sides_ends_its_probe) {
  ti_draft_switch d;
  uint32_t n = 0;
  ti_draft_switch_init(&d);
  for (; d.on && n < 1000; n++) steps(&d, 1, 64, 1500, 64, 1000);
  cr_assert(!d.on && n < 1000);
  cr_assert_eq(steps(&d, 60, 64, 1500, 64, 1000), 0, "60 steps go the new way before the old one is probed");
  cr_assert_eq(steps(&d, 4, 64, 1500, 64, 1000), 4);
}
