// bf16 products of few rows (decode): bound by reading W once. One kernel for every m; 64 rows of x a pass.
#ifndef TI_KERNELS_CUDA_GEMV_BF16_H
#define TI_KERNELS_CUDA_GEMV_BF16_H
#include "kernels/cuda/cuda_priv.h"

#ifdef __cplusplus
extern "C" {
#endif

// How a matrix is cut: bands of 64 * groups rows of W, K in `split` parts (the blocks of a cluster), and how much of W and x a block keeps on its
// way.
typedef struct ti_gemv_bf16_tile {
  int groups;   // 1, 2
  int split;    // 1, 2, 4, 8
  int ring_kb;  // up to 192; the bits do not depend on it
} ti_gemv_bf16_tile;

typedef struct ti_gemv_bf16_args {  // out[m, n] = x[m, k] * W[n, k]^T (+ bias) (+ out); silu_mul: out[m, n / 2] = silu(gate) * up
  void *out;                        // [m, ldo] bf16, or fp32 when out_f32
  const void *x;                    // [m, ldx] bf16, 16-byte aligned, ldx a multiple of 8
  const void *w;                    // [n, k] bf16, packed, 16-byte aligned; k a multiple of 8
  const float *bias;                // [n] or NULL; not with silu_mul
  int m;
  int64_t n, k, ldx, ldo;  // ldx, ldo 0: packed
  bool out_f32, accumulate;
  bool gate_up;                   // W is TI_CUDA_GATE_UP, n / 2 a multiple of TI_CUDA_GATE_RUN; columns of out stay gate | up
  bool silu_mul;                  // with gate_up: the product of the halves, bf16 out
  const ti_gemv_bf16_tile *tile;  // NULL: ti_gemv_bf16_pick
} ti_gemv_bf16_args;

// True where ti_cuda_gemv_bf16 takes the shape and the addresses (those named above).
bool ti_gemv_bf16_takes(const ti_gemv_bf16_args *a);
// The tile that measured best. It depends on the matrix and the device alone.
ti_gemv_bf16_tile ti_gemv_bf16_pick(const ti_dev *d, int64_t n, int64_t k, bool silu_mul);
// One launch, no scratch. Above 64 rows W is read once for each 64. The order of sums is a function of (n, k): a row's bits are the same for every m,
// but that up to 8 rows of a matrix of up to 64 MB take ti_cuda_gemv_bf16_direct, unless the device is deterministic or launches dependently (pdl),
// `tile` is set, or with silu_mul.
ti_status ti_cuda_gemv_bf16(ti_dev *d, const ti_gemv_bf16_args *a);
// By another kernel, for m <= TI_GEMV_BF16_DIRECT_ROWS and without silu_mul: sooner done with small matrices; its order is a function of k alone.
#define TI_GEMV_BF16_DIRECT_ROWS 8
ti_status ti_cuda_gemv_bf16_direct(ti_dev *d, const ti_gemv_bf16_args *a);

#ifdef __cplusplus
}
#endif
#endif
