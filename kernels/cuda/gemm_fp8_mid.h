// FP8 GEMM of up to 128 rows: W is read once. gemm_fp8_mid.cu has the picture and the figures; gemm_fp8.cu chooses between this and the large tiles.
#ifndef TI_KERNELS_CUDA_GEMM_FP8_MID_H
#define TI_KERNELS_CUDA_GEMM_FP8_MID_H
#include "kernels/cuda/gemm_fp8.h"

#ifdef __cplusplus
extern "C" {
#endif

// How the work is cut. The bits of `out` depend on `split` alone.
typedef struct ti_fp8_mid_plan {
  int columns;  // of a tile
  int split;    // blocks that share a tile's K, a cluster of 1..8
} ti_fp8_mid_plan;

// The measured choice; columns 0: this kernel is not for the shape. deterministic: whole K, whose sums are gemm_fp8.cu's, bit by bit.
ti_fp8_mid_plan ti_cuda_fp8_mid_plan(int m, int n, int k, bool deterministic, int n_sm);
bool ti_cuda_fp8_mid_takes(const ti_fp8_mid_plan *p);
// One launch, no scratch; m <= 128. With d->pdl W is prefetched before the op before has ended: W is never written by an op.
ti_status ti_cuda_fp8_mid(ti_dev *d, const ti_gemm_fp8_args *a, const ti_fp8_mid_plan *plan);
#ifdef __cplusplus
}
#endif
#endif
