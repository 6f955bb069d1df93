// Every type's bad numbers are found where they stand, and what is only large is none.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/finite.h"

static ti_error err;

Test(finite, plain_types) {
  float f[6] = {1, -3e38f, 0, 5, 1e-40f, 2};
  uint16_t b[6] = {0x3f80, 0x7f7f, 0xff7f, 0, 1, 0x8000}, h[6] = {0x3c00, 0x7bff, 0xfbff, 0, 1, 0x8000};
  uint8_t e[6] = {0x7e, 0xfe, 0, 1, 0x80, 0x38};
  ti_weight_src s[4] = {{.data = f, .dtype = TI_F32, .n = 2, .k = 3},
                        {.data = b, .dtype = TI_BF16, .n = 2, .k = 3},
                        {.data = h, .dtype = TI_F16, .n = 2, .k = 3},
                        {.data = e, .dtype = TI_E4M3, .n = 2, .k = 3}};
  for (int i = 0; i < 4; i++) cr_assert_eq(ti_weight_check_finite(&s[i], "w", &err), TI_OK, "%s", err.text);
  f[4] = NAN, b[4] = 0xff80, h[4] = 0x7c00, e[4] = 0xff;
  for (int i = 0; i < 4; i++) {
    cr_assert_eq(ti_weight_check_finite(&s[i], "w", &err), TI_ERR_FORMAT);
    cr_assert(strstr(err.text, "w: the weight in row 1, column 1"), "%s", err.text);
  }
}

Test(finite, columns_beyond_the_shard_are_not_looked_at) {
  float f[6] = {1, 2, NAN, 3, 4, NAN};
  cr_assert_eq(ti_weight_check_finite(&(ti_weight_src){.data = f, .dtype = TI_F32, .n = 2, .k = 2, .ld = 3}, "w", &err), TI_OK, "%s", err.text);
}

Test(finite, the_scales_inside_blocks) {
  static const struct {
    ti_dtype t;
    int at[2];
  } types[] = {{TI_Q4_0, {0, 0}}, {TI_Q4_1, {0, 2}}, {TI_Q5_0, {0, 0}}, {TI_Q5_1, {0, 2}},
               {TI_Q8_0, {0, 0}}, {TI_Q4_K, {0, 2}}, {TI_Q5_K, {0, 2}}, {TI_Q6_K, {208, 208}}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    const int block = ti_dtype_block(types[i].t), bytes = ti_dtype_block_bytes(types[i].t);
    for (int k = 0; k < 2; k++) {
      uint8_t w[4 * 256];
      memset(w, 0x7b, sizeof w);  // codes may be any bits; as F16 it is 61,000
      ti_weight_src s = {.data = w, .dtype = types[i].t, .n = 2, .k = 2 * block};
      cr_assert_eq(ti_weight_check_finite(&s, "w", &err), TI_OK, "%s", err.text);
      memcpy(w + 3 * bytes + types[i].at[k], "\x01\x7e", 2);
      cr_assert_eq(ti_weight_check_finite(&s, "w", &err), TI_ERR_FORMAT, "%s", ti_dtype_name(types[i].t));
      char want[64];
      snprintf(want, sizeof want, "block in row 1, column %d ", block);
      cr_assert(strstr(err.text, want), "%s", err.text);
    }
  }
}

Test(finite, scales_of_the_shard_and_no_others) {
  uint8_t codes[4 * 4] = {0};
  float scale[2 * 3] = {1, 1, NAN, 1, 1, NAN};
  ti_weight_src s = {
      .data = codes, .dtype = TI_E4M3, .n = 4, .k = 4, .scale = scale, .scale_ld = 3, .block_n = 4, .block_k = 4, .row0 = 2, .col0 = 3};
  cr_assert_eq(ti_weight_check_finite(&s, "w", &err), TI_OK, "%s", err.text);
  scale[4] = INFINITY;
  cr_assert_eq(ti_weight_check_finite(&s, "w", &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "w_scale_inv") && strstr(err.text, "block row 1"), "%s", err.text);
}
