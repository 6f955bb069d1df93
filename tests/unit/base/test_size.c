#include <criterion/criterion.h>
#include <stdint.h>

#include "base/size.h"

Test(size, overflow_is_refused_and_leaves_out_alone) {
  size_t r = 7;
  cr_assert(ti_size_mul(SIZE_MAX / 2, 2, &r));
  cr_assert_eq(r, SIZE_MAX - 1);
  cr_assert_not(ti_size_mul(SIZE_MAX / 2 + 1, 2, &r));
  cr_assert_not(ti_size_add(SIZE_MAX, 1, &r));
  cr_assert_eq(r, SIZE_MAX - 1);
  cr_assert(ti_size_add(SIZE_MAX - 1, 1, &r));
  cr_assert_eq(r, SIZE_MAX);
}

Test(size, align) {
  cr_assert_eq(ti_size_align(0, 64), 0);
  cr_assert_eq(ti_size_align(1, 64), 64);
  cr_assert_eq(ti_size_align(64, 64), 64);
  cr_assert_eq(ti_size_align(SIZE_MAX, 64), SIZE_MAX - 63);
  cr_assert_eq(ti_size_min(1, 2) + ti_size_max(1, 2), 3);
}
