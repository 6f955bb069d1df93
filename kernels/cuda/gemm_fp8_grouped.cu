// FP8 products of rows sorted by expert (prefill of a mixture of experts): the tile kernel (gemm_fp8_tile.cuh) with a walk over the experts' tiles.
// Counts and offsets stay on the device: every block reads them and finds its own tiles, so that nobody waits for the host, and an expert without
// rows is one comparison. A warpgroup whose 64 or 128 rows are all padding multiplies nothing, 16 rows of padding are not stored.
//
// H200, lab_gemm_fp8, TFLOP/s of the rows that count: 8 x 4096 rows (4096, 7168) 1,378, (7168, 2048) 1,213, 4 x 8192 the same: power, as the dense
// product. 64 experts of 252 rows in the mean: 870; the rest goes into rows that fill up tiles of 128 and into reading 64 matrices (52% of the copy's
// bandwidth).
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_fp8_tile.cuh"

extern "C" ti_status ti_cuda_gemm_fp8_grouped(ti_dev *d, const ti_gemm_fp8_grouped_args *a) {
  fp8_problem p = {};
  p.w_scale = a->w_scale;
  p.scale_ld = a->w_scale_ld;
  p.scale_e = (a->n + 127) / 128 * a->w_scale_ld;
  p.count = a->count;
  p.offset = a->offset;
  p.n = a->n;
  p.k = a->k;
  p.n_expert = a->n_expert;
  // Rows an expert, as far as the host knows: tall tiles waste the half of a short block.
  typedef fp8_tile<2, 128, 3, 2, 1, true> tall;
  typedef fp8_tile<1, 128, 5, 2, 1, true> flat;
  const auto launch = a->capacity / a->n_expert >= 512 ? fp8_launch<tall> : fp8_launch<flat>;
  return launch(d, "gemm_fp8_grouped", p, a->out, a->n, a->q, a->scale, a->w, a->capacity);
}
