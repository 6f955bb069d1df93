#include <criterion/criterion.h>
#include <stdint.h>

#include "base/dtype.h"

Test(dtype, names_go_both_ways) {
  for (int i = 0; i < TI_DTYPE_COUNT; i++) {
    ti_dtype t;
    cr_assert_eq(ti_dtype_parse(ti_dtype_name((ti_dtype)i), &t), TI_OK);
    cr_assert_eq((int)t, i);
  }
  ti_dtype t;
  cr_assert_eq(ti_dtype_parse("BF17", &t), TI_ERR_NOTFOUND);
  cr_assert_str_eq(ti_dtype_name(TI_DTYPE_COUNT), "?");
}

Test(dtype, sizes) {
  size_t n = 0;
  cr_assert_eq(ti_dtype_size(TI_BF16, 10, &n), TI_OK);
  cr_assert_eq(n, 20);
  cr_assert_eq(ti_dtype_size(TI_E4M3, 10, &n), TI_OK);
  cr_assert_eq(n, 10);
  cr_assert_eq(ti_dtype_size(TI_Q4_K, 512, &n), TI_OK);
  cr_assert_eq(n, 288);
  cr_assert_eq(ti_dtype_size(TI_Q8_0, 32, &n), TI_OK);
  cr_assert_eq(n, 34);
  cr_assert_eq(ti_dtype_size(TI_F32, 0, &n), TI_OK);
  cr_assert_eq(n, 0);
  cr_assert_eq(ti_dtype_size(TI_Q4_0, 33, &n), TI_ERR_ARG);
  cr_assert_eq(ti_dtype_size(TI_DTYPE_COUNT, 32, &n), TI_ERR_ARG);
  cr_assert_eq(ti_dtype_size(TI_I64, SIZE_MAX / 4, &n), TI_ERR_RANGE);
  cr_assert_eq(n, 0, "set only on success");
}

// block bytes from the formats' definitions: scales and minima as f16, quants by their bits
Test(dtype, block_layouts_add_up) {
  cr_assert_eq(ti_dtype_block_bytes(TI_Q4_0), 2 + 32 * 4 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q4_1), 4 + 32 * 4 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q5_0), 2 + 32 * 5 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q5_1), 4 + 32 * 5 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q8_0), 2 + 32);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q4_K), 4 + 12 + 256 * 4 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q5_K), 4 + 12 + 256 * 5 / 8);
  cr_assert_eq(ti_dtype_block_bytes(TI_Q6_K), 2 + 16 + 256 * 6 / 8);
  cr_assert_eq(ti_dtype_block(TI_Q6_K), 256);
}
