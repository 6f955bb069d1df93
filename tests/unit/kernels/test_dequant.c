// Dequantisation of the block types against golden values that ggml's own Python package (gguf 0.19) computed from the same bytes.
#include <criterion/criterion.h>
#include <math.h>

#include "kernels/ref/dequant.h"

typedef struct golden {
  ti_dtype type;
  int n_half;
  int half[2][2];   // offset, fp16 bits written over the formula's bytes: the block's scale and minimum
  double value[5];  // elements 0, 1, n/2 - 1, n/2, n - 1
  double sum;       // of (i + 1) * x[i]
} golden;

static const golden goldens[] = {
    {TI_Q4_0, 1, {{0, 0x2c66}}, {-0.137451172, -0.274902344, 0.481079102, 0.0687255859, 0.481079102}, 30.8577881},
    {TI_Q4_1, 2, {{0, 0x2c66}, {2, 0xb800}}, {0.393432617, 0.530883789, -0.362548828, -0.15637207, -0.5}, -34.5939941},
    {TI_Q5_0, 1, {{0, 0x2c66}}, {-0.274902344, -0.962158203, -0.206176758, -0.962158203, 0}, -34.2253418},
    {TI_Q5_1, 2, {{0, 0x2c66}, {2, 0xb800}}, {0.805786133, 1.49304199, -0.15637207, 0.599609375, 0.737060547}, 253.503662},
    {TI_Q8_0, 1, {{0, 0x2c66}}, {3.98608398, -8.24707031, -6.39147949, 1.03088379, 6.73510742}, 425.548828},
    {TI_Q4_K, 2, {{0, 0x1c66}, {2, 0x2800}}, {-0.647659302, -0.604705811, -0.757217407, -0.488418579, -0.96875}, 11765.923},
    {TI_Q5_K, 2, {{0, 0x1c66}, {2, 0x2800}}, {1.4901886, 3.29423523, 1.23295593, -0.874252319, -0.189361572}, 20444.5282},
    {TI_Q6_K, 1, {{208, 0x1c66}}, {5.18448639, -7.62424469, 7.42236328, 9.20063782, -4.18796539}, 11837.9607},
};

Test(dequant, block_types_match_ggml) {
  for (int g = 0; g < (int)(sizeof goldens / sizeof *goldens); g++) {
    const golden *t = &goldens[g];
    uint8_t bytes[256];
    float x[256];
    const int n = ti_dtype_block(t->type), at[5] = {0, 1, n / 2 - 1, n / 2, n - 1};
    for (int i = 0; i < ti_dtype_block_bytes(t->type); i++) bytes[i] = (uint8_t)(i * 73 + 41 * g + i * i % 251);
    for (int h = 0; h < t->n_half; h++) {
      bytes[t->half[h][0]] = (uint8_t)t->half[h][1];
      bytes[t->half[h][0] + 1] = (uint8_t)(t->half[h][1] >> 8);
    }
    ti_ref_dequant_row(t->type, bytes, x, (size_t)n);
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (i + 1) * (double)x[i];
    for (int i = 0; i < 5; i++)
      cr_assert(fabs((double)x[at[i]] - t->value[i]) < 1e-6 * (1.0 + fabs(t->value[i])), "%s[%d] is %.9g, want %.9g", ti_dtype_name(t->type), at[i],
                (double)x[at[i]], t->value[i]);
    cr_assert(fabs(sum - t->sum) < 1e-5 * (1.0 + fabs(t->sum)), "%s: sum is %.9g, want %.9g", ti_dtype_name(t->type), sum, t->sum);
  }
}

Test(dequant, knows_what_it_cannot_read) {
  cr_assert(ti_ref_can_dequant(TI_F32) && ti_ref_can_dequant(TI_E4M3) && ti_ref_can_dequant(TI_Q6_K));
  cr_assert(!ti_ref_can_dequant(TI_I8) && !ti_ref_can_dequant(TI_U8) && !ti_ref_can_dequant(TI_I32) && !ti_ref_can_dequant(TI_I64));
}
