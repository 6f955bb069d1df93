// cuBLASLt, opened at run time: the GEMM of large batches until a kernel of ours is faster, and the peer that the labs print.
//
// Nothing links to the library: ti_blas_open finds libcublasLt.so.13 on the loader's path or takes the file that it is told. One ti_blas a device,
// used by the device's thread. A product is stream-ordered; the first one of a shape asks the heuristic (tens of microseconds, allocates), later ones
// find its choice in a table. Products may be recorded into a CUDA graph.
//
// Bits. Not deterministic: the pick depends on m. Deterministic: one algorithm a weight shape (chosen at m = 128), no split-K, for every m.
#ifndef TI_KERNELS_CUDA_BLAS_H
#define TI_KERNELS_CUDA_BLAS_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/dtype.h"
#include "base/status.h"

typedef struct ti_blas ti_blas;

// Where the scales of FP8 operands stand; W[n, k] and x[m, k] are both e4m3 then.
typedef enum ti_blas_scale {
  TI_BLAS_NONE,    // bf16 operands
  TI_BLAS_TENSOR,  // w_scale[1], x_scale[1] (NULL: 1)
  TI_BLAS_ROW,     // w_scale[n], x_scale[m]; out bf16
  TI_BLAS_BLOCK    // w_scale[ceil(n / 128), w_scale_ld]: 128x128, w_scale_ld = ceil(k / 128) rounded up to 4; x_scale[ceil(k / 128), m];
                   // m a multiple of 4 (the library has nothing for others)
} ti_blas_scale;

typedef struct ti_blas_args {  // out[m, n] = x[m, k] * W[n, k]^T (+ bias) (+ out when accumulate), fp32 accumulation
  void *out;                   // [m, ldo] of out_dtype: BF16 or F32
  const void *x;               // [m, ldx] bf16 or e4m3
  const void *w;               // [n, k] bf16 or e4m3, packed
  const float *x_scale, *w_scale;
  const float *bias;  // [n] or NULL: rounded to out_dtype into out first (exact for a bias that the checkpoint keeps in bf16)
  int m;
  int64_t n, k, ldx, ldo;  // 0: packed. FP8 wants k a multiple of 16
  ti_blas_scale scale;
  ti_dtype out_dtype;
  bool accumulate;
} ti_blas_args;

// path NULL: $TITAN_CUBLASLT, else the loader's path. TI_ERR_NOTFOUND: no such file; TI_ERR_UNSUPPORTED: it is no library, lacks an entry or is too
// old (the text says which file and what to do). The device must be current.
ti_status ti_blas_open(const char *path, bool deterministic, ti_blas **out, ti_error *err) TI_MUST_CHECK;
void ti_blas_close(ti_blas *b);            // NULL is fine
size_t ti_blas_version(const ti_blas *b);  // 130100 and the like

// TI_ERR_UNSUPPORTED: the library has no algorithm for the shape or the scales; TI_ERR_INTERNAL: ti_blas_error has its word.
ti_status ti_blas_gemm(ti_blas *b, cudaStream_t stream, const ti_blas_args *a) TI_MUST_CHECK;
const char *ti_blas_error(const ti_blas *b);

#ifdef __cplusplus
}
#endif
#endif
