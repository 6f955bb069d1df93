// What every CUDA lab shares: the device and its measured limits, random inputs, an fp64 oracle, timing with a cold L2, a table and a JSON file.
//
// A lab is a program with one `lab`, on one thread. Whatever goes wrong in it (no GPU, no memory, a CUDA error) is a line on stderr and exit(1): a
// lab has nothing to clean up. A check that fails is counted, printed, and makes lab_close return 1, so that the other rows are still seen.
//
// Timing. Before each run 3x the L2 is written and then 2x the L2 of other memory is read: the op finds neither its operands nor dirty lines, whose
// write-back would count against it. Events stand around the op alone; the device is still busy with the flush when the op is enqueued, so the host's
// launch time is hidden, the device's own (`empty_us`, in the table's head) is not. Figures are medians.
#ifndef TI_BENCHMARKS_KERNELS_LAB_GPU_H
#define TI_BENCHMARKS_KERNELS_LAB_GPU_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/dtype.h"
#include "base/status.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_priv.h"

typedef struct lab {
  const char *name;
  ti_dev dev;           // what ops take; stream, scratch (64 MiB), blas
  cudaStream_t stream;  // dev's
  char gpu[256];
  size_t memory_bytes;
  double copy_gbs;  // device-to-device copy of 1 GiB: bytes read + written
  double empty_us;  // an empty kernel, timed like an op
  bool quick;       // --quick: fewer shapes and runs
  int runs;         // 21, quick 7
  int failed;       // checks
  ti_blas *blas;    // NULL where cuBLASLt was not found
  void *flush;      // lab_gpu.cu's own
  size_t flush_bytes;
  cudaEvent_t t0, t1;
  double *sums;
  FILE *json;
  int n_json;
} lab;

// Options: --quick, --json FILE; *argc and argv keep the lab's own. cuBLASLt: $CUBLASLT or ti_blas_open's search.
void lab_open(lab *l, const char *name, int *argc, char **argv);
int lab_close(lab *l);  // the exit status
void lab_ok(const lab *l, cudaError_t e, const char *what);
void lab_op(const lab *l, ti_status st, const char *what);  // an op's status: says d->last_error
void lab_sync(const lab *l, const char *what);

// ---- memory ----

void *lab_alloc(const lab *l, size_t bytes);  // device, poisoned
void lab_free(const lab *l, void *p);
void lab_poison(const lab *l, void *p, size_t bytes);  // 0xff: a NaN in bf16, fp32 and e4m3, -1 in int32
// Uniform in [-amp, amp] by (seed, index): F32, BF16 or E4M3 (rounded).
void lab_fill(const lab *l, void *p, ti_dtype type, size_t n, uint64_t seed, float amp);
// Scales: lo * 2^u, u uniform in [0, 2].
void lab_fill_scale(const lab *l, float *p, size_t n, uint64_t seed, float lo);
bool lab_same(const lab *l, const void *a, const void *b, size_t bytes);
bool lab_is_poison(const lab *l, const void *p, size_t bytes);  // every byte still 0xff
uint64_t lab_hash(const lab *l, const void *p, size_t bytes);

// ---- the oracle ----

// A matrix as its op reads it: element (r, c) = data[r * ld + c] * scale[(r / sr) * s_ld + (c / sc) * s_step]; scale NULL: 1.
//   per tensor: sr, sc huge.  per row: sr 1, sc huge, s_ld 1.  1x128 K-block-major: sr 1, sc 128, s_ld 1, s_step = rows rounded up to 4.
//   128x128: sr 128, sc 128, s_ld = blocks a row, s_step 1.
typedef struct lab_mat {
  const void *data;
  ti_dtype type;  // F32, BF16, E4M3
  int64_t ld;
  const float *scale;
  int64_t sr, sc, s_ld, s_step;
} lab_mat;

// ref[m, n] = x w^T, mag[m, n] = |x| |w|^T (the bound's measure; NULL: not wanted), both in fp64, K ascending.
void lab_gemm_ref(const lab *l, const lab_mat *x, const lab_mat *w, int m, int64_t n, int64_t k, double *ref, double *mag);

typedef struct lab_error {
  double diff;   // 1 - 2 sum(xy) / sum(x^2 + y^2)
  double worst;  // the largest |out - ref| / (acc * mag + rounding of the output type): at most 1 is inside the bound; NaN counts as infinite
  double rel;    // |out - ref|_2 / |ref|_2
  int64_t at;    // the worst one's index
} lab_error;
// acc: the relative error of the accumulation, e.g. lab_fp32_bound(k).
lab_error lab_compare(const lab *l, const void *out, ti_dtype type, int64_t ldo, const double *ref, const double *mag, int m, int64_t n, double acc);
// Sums of k products in fp32, whatever the order, with products exact: k 2^-24 (first order).
double lab_fp32_bound(int64_t k);
// Counts a failure and prints what; returns ok.
bool lab_expect(lab *l, bool ok, const char *fmt, ...) TI_PRINTF(3, 4);

// ---- time and tables ----

typedef void (*lab_run)(void *arg);  // enqueues the op on the lab's stream
double lab_time_us(lab *l, lab_run run, void *arg);
// `run` enqueues n ops that stand in one graph: the time of one of them with the operands that `run` rotates through; nothing is flushed between.
double lab_time_chain_us(lab *l, lab_run run, void *arg, int n);

void lab_head(const char *title);
typedef struct lab_row {
  const char *op, *variant;
  int64_t m, n, k;
  double us;
  double flop, bytes;  // 0: column left out
  const char *peer;
  double peer_us;   // 0: no peer
  double floor_us;  // of reading what must be read (lab_floor.h); 0: column left out
} lab_row;
void lab_print(lab *l,
               const lab_row *r);  // us, TFLOP/s, GB/s, % of copy, peer and ratio (peer / ours: above 1 is faster), floor and its %; a JSON object

#ifdef __cplusplus
}
#endif
#endif
