// Weights to e4m3 with a scale for each 128 x 128: of a block, scale = max(amax, 1e-4) / 448, code = e4m3(w / scale), the rule of quant_fp8 over two
// dimensions. At load time; any thread.
#include "kernels/to_fp8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/size.h"

#define BLOCK 128

static bool converts(const ti_weight_src *p, unsigned flags) {
  return (flags & TI_WEIGHT_TO_FP8) && !(flags & TI_WEIGHT_TRANSPOSE) && (p->dtype == TI_F32 || p->dtype == TI_F16 || p->dtype == TI_BF16);
}

static float value(const ti_weight_src *p, int64_t r, int64_t c) {
  const int64_t at = r * (p->ld ? p->ld : p->k) + c;
  if (p->dtype == TI_F32) return ((const float *)p->data)[at];
  const uint16_t h = ((const uint16_t *)p->data)[at];
  return p->dtype == TI_BF16 ? ti_bf16_to_f32(h) : ti_f16_to_f32(h);
}

static float quantise_block(const ti_weight_src *p, int64_t r0, int64_t c0, uint8_t *code) {  // code: [n, k] of the part
  const int64_t r1 = r0 + BLOCK < p->n ? r0 + BLOCK : p->n, c1 = c0 + BLOCK < p->k ? c0 + BLOCK : p->k;
  float amax = 1e-4f;
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t c = c0; c < c1; c++) amax = fmaxf(amax, fabsf(value(p, r, c)));
  }
  const float scale = amax / 448.0f;
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t c = c0; c < c1; c++) code[r * p->k + c] = ti_f32_to_e4m3(value(p, r, c) / scale);
  }
  return scale;
}

static int64_t blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

// Bytes of a part's codes (rounded up to where its scales stand) and scales.
static bool part_bytes(const ti_weight_src *p, size_t *code, size_t *all) {
  size_t scale;
  if (p->n < 1 || p->k < 1 || !ti_size_mul((size_t)p->n, (size_t)p->k, code) || *code > SIZE_MAX / 2) return false;
  *code = ti_size_align(*code, 64);
  return ti_size_mul((size_t)blocks(p->n) * sizeof(float), (size_t)blocks(p->k), &scale) && ti_size_add(*code, ti_size_align(scale, 64), all);
}

ti_status ti_fp8_parts_init(ti_fp8_parts *f, const ti_weight_src *parts, int n_part, unsigned flags, bool values) {
  if (n_part < 1 || n_part > TI_WEIGHT_PARTS) return TI_ERR_ARG;
  *f = (ti_fp8_parts){0};
  size_t total = 0, code = 0, all = 0;
  for (int i = 0; i < n_part; i++) {
    f->part[i] = parts[i];
    if (!converts(&parts[i], flags)) continue;
    if (!part_bytes(&parts[i], &code, &all) || !ti_size_add(total, all, &total)) return TI_ERR_ARG;
    f->part[i] = (ti_weight_src){.data = parts[i].data,
                                 .dtype = TI_E4M3,
                                 .n = parts[i].n,
                                 .k = parts[i].k,
                                 .scale = (const float *)parts[i].data,  // not NULL: has scales
                                 .scale_ld = blocks(parts[i].k),
                                 .block_n = BLOCK,
                                 .block_k = BLOCK};
  }
  if (!values || total == 0) return TI_OK;
  uint8_t *at = f->mem = malloc(total);
  if (!at) return TI_ERR_NOMEM;
  for (int i = 0; i < n_part; i++) {
    if (!converts(&parts[i], flags)) continue;
    (void)part_bytes(&parts[i], &code, &all);
    float *scale = (float *)(void *)(at + code);
    for (int64_t r = 0; r < parts[i].n; r += BLOCK) {
      for (int64_t c = 0; c < parts[i].k; c += BLOCK) scale[r / BLOCK * blocks(parts[i].k) + c / BLOCK] = quantise_block(&parts[i], r, c, at);
    }
    f->part[i].data = at;
    f->part[i].scale = scale;
    at += all;
  }
  return TI_OK;
}

void ti_fp8_parts_fini(ti_fp8_parts *f) {
  free(f->mem);
  f->mem = NULL;
}
