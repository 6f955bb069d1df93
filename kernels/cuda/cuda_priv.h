// What the files of the CUDA backend share: the device and the list of ops (kernel.h holds their contracts). C and CUDA C++ both include it.
//
// Every op is one or a few launches on d->stream and returns the launch's error as TI_ERR_INTERNAL (d->last_error has CUDA's word for it and the op's
// name, for the step's error). No op allocates: scratch comes from d->scratch, which `reserve` sized; an op that needs more than its share asserts.
// Programmatic dependent launch: every kernel of the decode path calls ti_pdl_wait() (device.cuh) before it reads what an earlier op wrote, and may
// prefetch weights before.
#ifndef TI_KERNELS_CUDA_PRIV_H
#define TI_KERNELS_CUDA_PRIV_H
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/kernel.h"

struct ti_dev {
  cudaStream_t stream;
  int index, n_sm;
  int major, minor;       // compute capability
  size_t l2_bytes;
  ti_act_quant act_quant;
  bool deterministic;     // one kernel and one order of sums a weight shape, for every m
  bool pdl;               // programmatic dependent launch between ops
  void *scratch;          // [scratch_bytes] stream-ordered: an op may use all of it, nothing survives the op
  size_t scratch_bytes;
  void *blas;             // cuBLASLt's state (blas.cu), NULL where the library was not found
  void *staging;          // dev.cu's own: pinned ring, marks, spans
  char last_error[160];
};

// ti_weight of this backend: dtype says what data holds (BF16, F32, E4M3), rows packed (ld = k), 16-byte aligned.
//   E4M3: scale [ceil(n / 128), scale_ld] of whole 128x128 blocks (parts that start inside a block were given blocks of their own where they fit, else
//   the matrix was widened to BF16), or one scale a row (block_k 0).
enum {
  TI_CUDA_ROWS = 0,      // as stored, row by row
  TI_CUDA_GATE_UP = 1,   // gate and up rows interleaved in runs of TI_CUDA_GATE_RUN: gate 0..63, up 0..63, gate 64..127 ..
  TI_CUDA_EXACT = 0x100  // or-ed in: never meets quantised activations
};
#define TI_CUDA_GATE_RUN 64

// dev.cu
ti_status ti_cuda_check(ti_dev *d, const char *op);  // the last launch's error, named
#ifdef __cplusplus
}
#endif
#endif
