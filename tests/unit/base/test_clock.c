#include <criterion/criterion.h>

#include "base/clock.h"

Test(clock, virtual_time_moves_only_when_told) {
  ti_clock_virtual v;
  ti_clock_virtual_init(&v, 100);
  const ti_clock *c = &v.base;
  cr_assert_eq(ti_now_us(c), 100);
  cr_assert_eq(ti_now_us(c), 100);
  ti_clock_virtual_advance(&v, 23);
  cr_assert_eq(ti_now_us(c), 123);
}

Test(clock, real_time_is_monotonic_and_in_its_units) {
  const uint64_t us = ti_now_us(ti_clock_real()), ns = ti_mono_ns(), us2 = ti_mono_us();
  cr_assert_leq(us, us2);
  cr_assert_leq(us, ns / 1000);
  cr_assert_leq(ns / 1000, us2);
  cr_assert_gt(ti_wall_s(), 1600000000u);
}
