// Activation quantisation: e4m3 with a scale over 128 numbers, int8 with a scale over 32.
//
//   e4m3: s = max(amax, 1e-4) / 448, code = e4m3(x / s)          the clamp keeps a row of zeros from dividing by zero
//   int8: s = amax / 127, code = round(x / s) half away from 0   a block of zeros has s = 0 and codes 0
#include <math.h>

#include "base/half.h"
#include "kernels/ref/ref_priv.h"

static float amax_of(const float *x, int n) {
  float amax = 0.0f;
  for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
  return amax;
}

void ref_quant_block_fp8(const float *x, int n, float *scale, uint8_t *q) {
  const float s = fmaxf(amax_of(x, n), 1e-4f) / 448.0f;
  for (int i = 0; i < n; i++) q[i] = ti_f32_to_e4m3(x[i] / s);
  *scale = s;
}

void ref_quant_row_fp8(const float *x, int64_t k, float *codes, float *scale) {
  uint8_t q[REF_FP8_BLOCK];
  for (int64_t c = 0; c < k; c += REF_FP8_BLOCK) {
    const int n = k - c < REF_FP8_BLOCK ? (int)(k - c) : REF_FP8_BLOCK;
    ref_quant_block_fp8(x + c, n, &scale[c / REF_FP8_BLOCK], q);
    for (int i = 0; i < n; i++) codes[c + i] = ti_e4m3_to_f32(q[i]);
  }
}

void ref_quant_row_int8(const float *x, int64_t k, float *codes, float *scale) {
  for (int64_t c = 0; c < k; c += REF_INT8_BLOCK) {
    const int n = k - c < REF_INT8_BLOCK ? (int)(k - c) : REF_INT8_BLOCK;
    const float s = amax_of(x + c, n) / 127.0f, inv = s > 0.0f ? 1.0f / s : 0.0f;
    for (int i = 0; i < n; i++) codes[c + i] = roundf(x[c + i] * inv);
    scale[c / REF_INT8_BLOCK] = s;
  }
}

ti_status ref_quant_fp8(ti_dev *d, const ti_quant_fp8_args *a) {
  const int64_t n_block = (a->k + REF_FP8_BLOCK - 1) / REF_FP8_BLOCK;
  for (int r = 0; r < a->n_row; r++) {
    const float *x = (const float *)a->x + r * ref_ld(a->ldx, a->k);
    for (int b = 0; b < n_block; b++) {
      const int c = b * REF_FP8_BLOCK, n = a->k - c < REF_FP8_BLOCK ? a->k - c : REF_FP8_BLOCK;
      ref_quant_block_fp8(x + c, n, &a->scale[r * n_block + b], a->q + (int64_t)r * a->k + c);
    }
  }
  return TI_OK;
}
