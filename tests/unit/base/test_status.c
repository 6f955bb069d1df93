#include <criterion/criterion.h>
#include <string.h>

#include "base/status.h"

Test(status, every_value_has_name_and_text) {
  for (int i = 0; i < TI_STATUS_COUNT; i++) {
    cr_assert_eq(strncmp(ti_status_name((ti_status)i), "TI_", 3), 0);
    cr_assert_gt(strlen(ti_status_text((ti_status)i)), 0);
  }
  cr_assert_str_eq(ti_status_name(TI_ERR_RANGE), "TI_ERR_RANGE");
  cr_assert_str_eq(ti_status_text(TI_ERR_STALE), "of another epoch");
  cr_assert_not_null(ti_status_name((ti_status)-1));
  cr_assert_not_null(ti_status_text((ti_status)99));
}

Test(status, in_progress_and_again_are_no_errors) {
  cr_assert_not(ti_failed(TI_OK) || ti_failed(TI_INPROGRESS) || ti_failed(TI_AGAIN));
  cr_assert(ti_failed(TI_ERR_ARG));
}

Test(status, set_and_prefix) {
  ti_error e = {0};
  cr_assert_eq(ti_error_set(&e, TI_ERR_RANGE, "x is %d", 7), TI_ERR_RANGE);
  cr_assert_eq(ti_error_prefix(&e, "file %s", "a"), TI_ERR_RANGE);
  cr_assert_str_eq(e.text, "file a: x is 7");
  cr_assert_eq(ti_error_set(NULL, TI_ERR_IO, "dropped"), TI_ERR_IO);
}

Test(status, an_error_may_be_built_from_its_own_text) {
  ti_error e = {0};
  ti_error_set(&e, TI_ERR_IO, "inner");
  ti_error_set(&e, TI_ERR_IO, "outer(%s)", e.text);
  cr_assert_str_eq(e.text, "outer(inner)");
}

Test(status, long_texts_are_cut_and_terminated) {
  char big[2000];
  memset(big, 'x', sizeof(big) - 1);
  big[sizeof(big) - 1] = 0;
  ti_error e = {0};
  ti_error_set(&e, TI_ERR_IO, "%s", big);
  cr_assert_eq(strlen(e.text), sizeof(e.text) - 1);
  ti_error_prefix(&e, "front");
  cr_assert_eq(strncmp(e.text, "front: xxx", 10), 0);
  cr_assert_eq(strlen(e.text), sizeof(e.text) - 1);
  ti_error_prefix(&e, "%s", big);
  cr_assert_lt(strlen(e.text), sizeof(e.text));
}
