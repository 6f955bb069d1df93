// The harness of the kernels' conformance suite: which backends there are, a device with the memory of one test, the table of tolerances,
// comparisons.
//
// Data goes to and from the device through the ops table alone, and activations are rounded to the backend's type before any formula sees them, so
// that a backend with device memory or bf16 activations joins by being found. Everything a cf_dev hands out lives until cf_reset or cf_close.
#ifndef TI_CONFORMANCE_H
#define TI_CONFORMANCE_H
#include <stdio.h>

#include "kernels/kernel.h"

// for (const ti_kernels *k, each backend of this build and processor)
const ti_kernels *cf_backend(int i);  // NULL behind the last
// TI_CONFORMANCE_BACKEND=name in the environment leaves that one alone.
#define CF_EACH_BACKEND(k) for (const ti_kernels *k = cf_backend(0); k; k = cf_next(k))
const ti_kernels *cf_next(const ti_kernels *k);
// An op that the backend leaves NULL is no failure; the log says so.
#define CF_SKIP_WITHOUT(k, op)                      \
  if (!(k)->op) {                                   \
    printf("%s: no " #op ", skipped\n", (k)->name); \
    continue;                                       \
  }

typedef struct cf_dev {
  const ti_kernels *k;
  ti_dev *d;
  void **device, **host;
  size_t *device_bytes;  // as asked for: on a device with memory of its own CF_GUARD bytes of NaN lie behind
  int n_device, n_host;
  bool bf16;  // what cf_floats gives is representable in bf16; set by cf_open where activations are
} cf_dev;
#define CF_GUARD 4096   // what is read there shows in results, what is written there when the memory is freed; none with TI_CONFORMANCE_GUARD=0
#define CF_MAX_ROW 160  // what cf_open reserves
#define CF_MAX_K 4096
#define CF_MAX_VOCAB 50258

cf_dev *cf_open(const ti_kernels *k, ti_act_quant q, int threads);  // deterministic
cf_dev *cf_open_as(const ti_kernels *k, ti_act_quant q, int threads, bool deterministic);
void cf_reset(cf_dev *d);  // frees the memory, keeps the device
void cf_close(cf_dev *d);

void *cf_host(cf_dev *d, size_t bytes);  // zeroed host memory
void *cf_up(cf_dev *d, const void *host, size_t bytes);
void cf_down(cf_dev *d, void *host, const void *src, size_t bytes);
void cf_put(cf_dev *d, void *dst, const void *host, size_t bytes);  // overwrites what cf_up gave

// n numbers around 0 with the given spread, the same for the same seed, representable in the backend's activation type. Host memory.
float *cf_floats(cf_dev *d, size_t n, uint64_t seed, float spread);
int32_t *cf_ints(cf_dev *d, size_t n, uint64_t seed, int32_t below);  // 0 <= x < below
void *cf_up_act(cf_dev *d, const float *host, size_t n);
void *cf_out_act(cf_dev *d, size_t n);  // NaN everywhere: an element that is not written shows
void *cf_out_f32(cf_dev *d, size_t n);
float *cf_down_act(cf_dev *d, const void *src, size_t n);
float *cf_down_f32(cf_dev *d, const void *src, size_t n);

// ---- tolerances ----
// |got - want| <= rel * magnitude + abs, magnitude being |want| unless the test knows better. With bf16 activations 2^-7 |want| (attention: of the
// magnitude) comes on top. docs/numerics.md says where the numbers come from.
typedef enum cf_tol { CF_GEMM, CF_NORM, CF_ROPE, CF_SILU, CF_ATTENTION, CF_ROUTER, CF_UNPERMUTE, CF_LOGPROB, CF_LOGIT, CF_TOL_COUNT } cf_tol;
typedef struct cf_tolerance {
  double rel, abs;
} cf_tolerance;
extern const cf_tolerance cf_tolerances[CF_TOL_COUNT];
double cf_gemm_growth(int64_t k);  // factor on CF_GEMM: how far a sum of k products may stray, in units of its absolute addends

// A backend whose activations are bf16 may keep fp32 and fp16 weights (but for EXACT fp32 ones) and transposed ones in bf16: k rounding errors of
// 2^-9.
void cf_allow_bf16(const cf_dev *d, double *magnitude, size_t n, int64_t k);
// FP8 tensor cores add a block's products with 13 bits behind the largest one (docs/numerics.md): 2^-12 of sum |x w|.
void cf_allow_fp8_sums(const cf_dev *d, double *magnitude, size_t n, int64_t k);
// quant_fp8's scales of [m, k]: how many floats, and where that of row r and block b stands.
size_t cf_scales(const cf_dev *d, int m, int k);
size_t cf_scale_at(const cf_dev *d, int m, int k, int r, int b);

// That q and scale (device) are what quant_fp8 makes of host's [m, k], bit by bit.
void cf_codes_of(cf_dev *d, const char *what, const uint8_t *q, const float *scale, const float *host, int m, int k);

void cf_close_to(const cf_dev *d, const char *what, cf_tol tol, const float *got, const double *want, const double *magnitude, size_t n);
void cf_same_bits(const cf_dev *d, const char *what, const void *got, const void *want, size_t bytes);
void cf_ok(const cf_dev *d, const char *what, ti_status st);

#endif
