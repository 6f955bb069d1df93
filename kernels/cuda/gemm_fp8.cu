// FP8 products of any m: which kernel, which tile. Up to 128 rows: gemm_fp8_mid.cu where it has a plan; else the tile kernel, gemm_fp8_tile.cuh.
// gemm.c sends up to 64 rows to gemm_fp8_small.cu, and what is not plain bf16, and all of a deterministic device's.
//
// H200, lab_gemm_fp8, microseconds of the tile kernel (x cuBLASLt with the same scales; of the copy's bandwidth):
//
//     n, k            m 128                  m 4096
//      4096,  7168    (gemm_fp8_mid.cu)     177.4 (1.06x, 1,356 TFLOP/s)
//      7168, 16384    (gemm_fp8_mid.cu)     671.3 (1.09x, 1,433)
//     24576,  1536    16.7 (1.04x, 62%)     252.8 (1.04x, 1,223)
//     32768,   512    11.2 (1.03x, 53%)     147.1 (1.15x,   934)
//      7168,  2048    10.6 (1.10x, 37%)      96.9 (1.09x, 1,241)
//      2112,  7168    (gemm_fp8_mid.cu)     103.2 (1.09x, 1,201)
//     28672,  4096    (gemm_fp8_mid.cu)     724.1 (1.18x, 1,329)
//      4096, 14336    (gemm_fp8_mid.cu)     339.1 (1.08x, 1,419)
//
// At m 128 a tile waits for its stages one after the other: a block of K takes 64 columns 500 cycles and 128 columns 632, where the products alone
// would be 256 and 512; a launch costs 2.9 us and 1.3 to its first product.
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_fp8_mid.h"
#include "kernels/cuda/gemm_fp8_tile.cuh"

// A tile's shape and what it costs (microseconds, H200, lab_gemm_fp8): a block of 128 of K while all SMs work, and a tile's end.
typedef struct shape {
  int bm, bn, cl, ks;
  int fit;  // clusters that run at the same time on 132 SMs (a cluster's SMs share a GPC)
  float block_us, tile_us;
  ti_status (*launch)(ti_dev *d, const char *op, const fp8_problem &p, void *out, int64_t ldo, const void *q, const float *scale, const void *w,
                      int rows);
} shape;

static const shape shapes[] = {
    {256, 128, 2, 1, 66, 0.707f, 1.5f, fp8_launch<fp8_tile<2, 128, 3, 2>>},
    {128, 192, 1, 1, 132, 0.545f, 0.75f, fp8_launch<fp8_tile<1, 192, 4, 1>>},
    {128, 128, 1, 1, 132, 0.400f, 0.45f, fp8_launch<fp8_tile<1, 128, 5, 1>>},
    {128, 64, 1, 1, 132, 0.283f, 0.25f, fp8_launch<fp8_tile<1, 64, 8, 1>>},
    {128, 128, 1, 2, 66, 0.400f, 2.4f, fp8_launch<fp8_tile<1, 128, 5, 1, 2>>},
    {128, 64, 1, 2, 66, 0.283f, 1.7f, fp8_launch<fp8_tile<1, 64, 8, 1, 2>>},
    {128, 128, 1, 4, 31, 0.400f, 3.7f, fp8_launch<fp8_tile<1, 128, 5, 1, 4>>},
    {128, 64, 1, 4, 31, 0.283f, 2.2f, fp8_launch<fp8_tile<1, 64, 8, 1, 4>>},
};

// Rounds of tiles, or the time that W takes out of memory where that is longer (few rows).
static float cost_us(const shape *s, const ti_gemm_fp8_args *a, int n_sm) {
  const int64_t clusters = (int64_t)((a->m + s->bm - 1) / s->bm) * ((a->n + s->bn * s->cl - 1) / (s->bn * s->cl));
  const int64_t fit = n_sm >= 132 ? s->fit : n_sm / (s->cl * s->ks), rounds = (clusters + fit - 1) / fit;
  const int n_k = (a->k + 127) / 128, blocks = (n_k + s->ks - 1) / s->ks;
  const float work = (float)rounds * ((float)blocks * s->block_us + s->tile_us), memory = (float)a->n * (float)a->k / 4.0e6f + s->tile_us;
  return work > memory ? work : memory;
}

extern "C" ti_status ti_cuda_gemm_fp8(ti_dev *d, const ti_gemm_fp8_args *a) {
  const ti_fp8_mid_plan mid = ti_cuda_fp8_mid_plan(a->m, a->n, a->k, d->deterministic, d->n_sm);
  if (mid.columns != 0) return ti_cuda_fp8_mid(d, a, &mid);
  const shape *best = NULL;
  float best_us = 0;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    if (d->deterministic && shapes[i].ks > 1) continue;  // a split K is another order of sums
    const float us = cost_us(&shapes[i], a, d->n_sm);
    if (!best || us < best_us) best = &shapes[i], best_us = us;
  }
  fp8_problem p = {};
  p.w_scale = a->w_scale;
  p.scale_ld = a->w_scale_ld;
  p.m = a->m;
  p.n = a->n;
  p.k = a->k;
  p.n_expert = 1;
  return best->launch(d, "gemm_fp8", p, a->out, a->ldo, a->q, a->scale, a->w, a->m);
}
