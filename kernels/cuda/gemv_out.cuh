// Where the sums of the bf16 gemv kernels go.
#ifndef TI_KERNELS_CUDA_GEMV_OUT_CUH
#define TI_KERNELS_CUDA_GEMV_OUT_CUH
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemv_bf16.h"

struct ti_gemv_out {
  void *out;
  const float *bias;
  int m;
  int64_t n, ldo;
  int64_t half;                 // rows of the gate where W is interleaved, else 0
  bool f32, accumulate, pairs;  // pairs: two neighbours are written as one
};

static inline ti_gemv_out ti_gemv_out_of(const ti_gemv_bf16_args *a) {
  const int64_t ldo = a->ldo ? a->ldo : a->silu_mul ? a->n / 2 : a->n;
  return {.out = a->out,
          .bias = a->bias,
          .m = a->m,
          .n = a->n,
          .ldo = ldo,
          .half = a->gate_up && !a->silu_mul ? a->n / 2 : 0,
          .f32 = a->out_f32,
          .accumulate = a->accumulate,
          .pairs = ldo % 2 == 0 && (uintptr_t)a->out % (a->out_f32 ? 8 : 4) == 0};
}

// Row r of W is this column of out.
static __device__ __forceinline__ int64_t ti_gemv_column(int64_t r, int64_t half) {
  enum { RUN = TI_CUDA_GATE_RUN };
  if (!half) return r;
  return r / (2 * RUN) * RUN + r % RUN + (r % (2 * RUN) >= RUN ? half : 0);
}

// Two neighbouring rows' sums for one token; row is even. What is added to comes from L2: gemv_chain.cu's blocks may just have written it.
static __device__ __forceinline__ void ti_gemv_put(const ti_gemv_out &a, int token, int64_t row, float2 v) {
  const int64_t c = ti_gemv_column(row, a.half), i = token * a.ldo + c;
  const bool two = row + 1 < a.n;
  if (a.bias) {
    v.x += a.bias[c];
    if (two) v.y += a.bias[c + 1];
  }
  if (a.f32) {
    float *o = static_cast<float *>(a.out) + i;
    if (a.accumulate) {
      v.x += __ldcg(o);
      if (two) v.y += __ldcg(o + 1);
    }
    if (two && a.pairs) {
      *reinterpret_cast<float2 *>(o) = v;
    } else {
      o[0] = v.x;
      if (two) o[1] = v.y;
    }
  } else {
    bf16 *o = static_cast<bf16 *>(a.out) + i;
    if (a.accumulate) {
      v.x += __bfloat162float(__ldcg(o));
      if (two) v.y += __bfloat162float(__ldcg(o + 1));
    }
    if (two && a.pairs) {
      *reinterpret_cast<uint32_t *>(o) = ti_bf16x2(v.x, v.y);
    } else {
      o[0] = __float2bfloat16_rn(v.x);
      if (two) o[1] = __float2bfloat16_rn(v.y);
    }
  }
}

#endif
