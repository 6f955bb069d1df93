// Sums in rank order. Plain loops over a block that stays in the first-level cache; the compiler turns them into vectors. Elements never meet, so
// that the result has the same bits in whatever slices it is computed.
#include <string.h>

#include "base/half.h"
#include "parallel/mpi/mpi_priv.h"

#define BLOCK 512

void ti_sum_f32(float *dst, const float *const *src, int n_src, size_t n) {
  float acc[BLOCK];
  for (size_t at = 0; at < n; at += BLOCK) {
    const size_t len = n - at < BLOCK ? n - at : BLOCK;
    memcpy(acc, src[0] + at, len * sizeof *acc);
    for (int r = 1; r < n_src; r++) {
      const float *x = src[r] + at;
      for (size_t i = 0; i < len; i++) acc[i] += x[i];
    }
    memcpy(dst + at, acc, len * sizeof *acc);
  }
}

void ti_sum_bf16(uint16_t *dst, const uint16_t *const *src, int n_src, size_t n) {
  float acc[BLOCK];
  for (size_t at = 0; at < n; at += BLOCK) {
    const size_t len = n - at < BLOCK ? n - at : BLOCK;
    for (size_t i = 0; i < len; i++) acc[i] = ti_bf16_to_f32(src[0][at + i]);
    for (int r = 1; r < n_src; r++) {
      const uint16_t *x = src[r] + at;
      for (size_t i = 0; i < len; i++) acc[i] += ti_bf16_to_f32(x[i]);
    }
    for (size_t i = 0; i < len; i++) dst[at + i] = ti_f32_to_bf16(acc[i]);
  }
}
