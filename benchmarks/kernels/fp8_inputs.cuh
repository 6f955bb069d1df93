// Operands of the FP8 labs, made as the engine makes them: random fp32, quantised with the backend's own arithmetic, so that a product can be
// compared both with the unquantised one and with that of the dequantised operands.
#ifndef TI_BENCHMARKS_KERNELS_FP8_INPUTS_CUH
#define TI_BENCHMARKS_KERNELS_FP8_INPUTS_CUH
#include <cuda_fp8.h>

#include "benchmarks/kernels/lab_gpu.h"

typedef struct fp8_operand {
  int64_t rows, k;
  int block;                   // rows a scale covers: 1 or 128
  float *plain;                // [rows, k], kept where asked
  uint8_t *q;                  // [rows, k]
  float *scale;                // block 128: [ceil(rows / 128), ceil(k / 128)]; block 1: [ceil(k / 128), rows rounded up to 4], the rest poison
  lab_mat exact, dequantised;  // for the oracle
} fp8_operand;

// A block a thread block: s = max(amax, 1e-4) / 448, code = e4m3(v / s).
static __global__ void fp8_quantise(const float *v, uint8_t *q, float *scale, int64_t rows, int64_t k, int block, int64_t s_row, int64_t s_k) {
  __shared__ float most[256];
  const int64_t r0 = (int64_t)blockIdx.y * block, c0 = (int64_t)blockIdx.x * 128, wide = k - c0 < 128 ? k - c0 : 128;
  const int64_t high = rows - r0 < block ? rows - r0 : block;
  float amax = 0.0f;
  for (int64_t i = threadIdx.x; i < high * wide; i += 256) amax = fmaxf(amax, fabsf(v[(r0 + i / wide) * k + c0 + i % wide]));
  most[threadIdx.x] = amax;
  __syncthreads();
  for (int i = 1; i < 256; i++) amax = fmaxf(amax, most[(threadIdx.x + i) % 256]);
  const float s = fmaxf(amax, 1e-4f) / 448.0f;
  for (int64_t i = threadIdx.x; i < high * wide; i += 256) {
    const int64_t at = (r0 + i / wide) * k + c0 + i % wide;
    q[at] = (uint8_t)__nv_cvt_float_to_fp8(v[at] / s, __NV_SATFINITE, __NV_E4M3);
  }
  if (threadIdx.x == 0) scale[(int64_t)blockIdx.y * s_row + (int64_t)blockIdx.x * s_k] = s;
}

static fp8_operand fp8_make(const lab *l, int64_t rows, int64_t k, int block, uint64_t seed, bool keep) {
  const int64_t kb = (k + 127) / 128, rb = (rows + block - 1) / block, up = (rows + 3) / 4 * 4;
  const int64_t s_row = block == 1 ? 1 : kb, s_k = block == 1 ? up : 1;
  const size_t n = (size_t)(rows * k);
  fp8_operand o = {};
  o.rows = rows, o.k = k, o.block = block;
  o.q = (uint8_t *)lab_alloc(l, n);
  o.scale = (float *)lab_alloc(l, (size_t)((block == 1 ? up : rb) * kb) * 4);
  o.plain = (float *)lab_alloc(l, n * 4);
  lab_fill(l, o.plain, TI_F32, n, seed, 1.0f);
  fp8_quantise<<<dim3((unsigned)kb, (unsigned)rb), 256, 0, l->stream>>>(o.plain, o.q, o.scale, rows, k, block, s_row, s_k);
  lab_sync(l, "quantise");
  o.exact.data = o.plain, o.exact.type = TI_F32, o.exact.ld = k;
  o.dequantised.data = o.q, o.dequantised.type = TI_E4M3, o.dequantised.ld = k;
  o.dequantised.scale = o.scale, o.dequantised.sr = block, o.dequantised.sc = 128, o.dequantised.s_ld = s_row, o.dequantised.s_step = s_k;
  if (!keep) {
    lab_free(l, o.plain);
    o.plain = NULL;
  }
  return o;
}
static void fp8_free(const lab *l, fp8_operand *o) {
  if (o->plain) lab_free(l, o->plain);
  lab_free(l, o->q);
  lab_free(l, o->scale);
}
#endif
