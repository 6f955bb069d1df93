// Weights from the checkpoint's type to the backend's, on the device, a band of rows at a time.
#ifndef TI_KERNELS_CUDA_CONVERT_H
#define TI_KERNELS_CUDA_CONVERT_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ti_cuda_convert_args {
  const void *src;  // [n, k] of `from` (F32, F16, BF16, E4M3 without scales), packed
  ti_dtype from;
  int64_t n, k;
  int64_t row;   // the band's first row in its part
  int64_t base;  // the part's first row in the matrix
  int gate_up;   // 0: row r of the part is row base + r of the matrix; 1: the matrix is TI_CUDA_GATE_UP and this is the gate; 2: this is up
  void *dst;     // the matrix, [.., k] BF16 or E4M3
  // TO_FP8: 128x128 blocks counted from the part's first row; row is a multiple of 128. scale_rows: a scale a row instead of one a block of rows.
  float *scale;
  int64_t scale_ld;
  bool scale_rows;
} ti_cuda_convert_args;

ti_status ti_cuda_to_bf16(ti_dev *d, const ti_cuda_convert_args *a);
ti_status ti_cuda_to_fp8(ti_dev *d, const ti_cuda_convert_args *a);

#ifdef __cplusplus
}
#endif
#endif
