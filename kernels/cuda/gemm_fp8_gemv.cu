#include <assert.h>
#include <cuda_runtime.h>

#include "kernels/cuda/gemm_fp8_small.h"
#include "kernels/cuda/hopper.cuh"

typedef struct gemv_params {
  void *out;
  const uint8_t *w, *x;
  const float *w_scale, *x_scale, *bias;
  int64_t ldx, ldo, w_scale_ld;
  int m, n, k, n_kb, ld_scale;
  bool out_f32, accumulate;
} gemv_params;

// What a warp holds of one 128 of K: 16 bytes of K a lane and row.
template <int G>
struct gemv_step {
  uint4 w[G][2][2];  // [16 rows][row, row + 8][64 of K]
  uint4 x[2];
  float2 sx;
  float sw;
};

TI_DEV uint4 load_w(const uint8_t *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p), "l"(TI_L2_EVICT_FIRST));
  return v;
}

template <int G>
TI_DEV void load_weights(gemv_step<G> &s, const gemv_params &p, int n0, int kb) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int g = 0; g < G; g++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = n0 + 16 * g + 8 * r + lane / 4;
      row = row < p.n ? row : p.n - 1;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int c = kb * 128 + 64 * h + 16 * (lane & 3);
        s.w[g][r][h] = c < p.k ? load_w(p.w + (int64_t)row * p.k + c) : make_uint4(0, 0, 0, 0);
      }
    }
  }
  s.sw = __ldg(p.w_scale + n0 / 128 * p.w_scale_ld + kb);
}

template <int G>
TI_DEV void load_tokens(gemv_step<G> &s, const gemv_params &p, int kb) {
  const int lane = threadIdx.x & 31, tok = lane / 4, c2 = 2 * (lane & 3);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int c = kb * 128 + 64 * h + 16 * (lane & 3);
    s.x[h] = tok < p.m && c < p.k ? *(const uint4 *)(p.x + tok * p.ldx + c) : make_uint4(0, 0, 0, 0);
  }
  s.sx = c2 < p.m ? *(const float2 *)(p.x_scale + (int64_t)kb * p.ld_scale + c2) : make_float2(0.0f, 0.0f);
}

TI_DEV uint32_t half_pair(uint32_t word, bool high) {
  uint32_t r;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"((uint16_t)(high ? word >> 16 : word)));
  return r;
}

template <int G>
TI_DEV void multiply(const gemv_step<G> &s, float (&sum)[G][4]) {
  float acc[G][4] = {};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t xw[4] = {s.x[h].x, s.x[h].y, s.x[h].z, s.x[h].w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t b0 = half_pair(xw[i], false), b1 = half_pair(xw[i], true);
#pragma unroll
      for (int g = 0; g < G; g++) {
        const uint4 &u = s.w[g][0][h], &v = s.w[g][1][h];
        const uint32_t up = i == 0 ? u.x : i == 1 ? u.y : i == 2 ? u.z : u.w, lo = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(acc[g][0]), "+f"(acc[g][1]), "+f"(acc[g][2]), "+f"(acc[g][3])
                     : "r"(half_pair(up, false)), "r"(half_pair(lo, false)), "r"(half_pair(up, true)), "r"(half_pair(lo, true)), "r"(b0), "r"(b1));
      }
    }
  }
  const float s0 = s.sw * s.sx.x, s1 = s.sw * s.sx.y;
#pragma unroll
  for (int g = 0; g < G; g++) {
    sum[g][0] += acc[g][0] * s0, sum[g][1] += acc[g][1] * s1;
    sum[g][2] += acc[g][2] * s0, sum[g][3] += acc[g][3] * s1;
  }
}

template <int G, int D, int WARPS>
static __global__ void __launch_bounds__(WARPS * 32, 1) fp8_gemv(const __grid_constant__ gemv_params p) {
  __shared__ float red[WARPS][8][16 * G + 4];
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, n0 = (int)blockIdx.x * 16 * G;
  const int n_step = (p.n_kb - warp + WARPS - 1) / WARPS;
  gemv_step<G> s[D];
  float sum[G][4] = {};
#pragma unroll
  for (int d = 0; d < D; d++) {
    if (d < n_step) load_weights<G>(s[d], p, n0, warp + d * WARPS);
  }
  ti_griddep_launch();
  ti_griddep_wait();
#pragma unroll
  for (int d = 0; d < D; d++) {
    if (d < n_step) load_tokens<G>(s[d], p, warp + d * WARPS);
  }
  for (int i = 0; i < n_step; i += D) {
#pragma unroll
    for (int d = 0; d < D; d++) {
      if (i + d < n_step) {
        multiply<G>(s[d], sum);
        if (i + d + D < n_step) {
          load_weights<G>(s[d], p, n0, warp + (i + d + D) * WARPS);
          load_tokens<G>(s[d], p, warp + (i + d + D) * WARPS);
        }
      }
    }
  }
#pragma unroll
  for (int g = 0; g < G; g++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int tok = 2 * (lane & 3) + (i & 1);
      if (tok < p.m) red[warp][tok][16 * g + 8 * (i / 2) + lane / 4] = sum[g][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * G * p.m; i += WARPS * 32) {
    const int tok = i / (16 * G), r = i % (16 * G), n = n0 + r;
    if (n >= p.n) continue;
    float v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) v += red[w][tok][r];
    if (p.bias != NULL) v += p.bias[n];
    const int64_t at = tok * p.ldo + n;
    if (p.out_f32) {
      float *o = (float *)p.out + at;
      *o = p.accumulate ? v + *o : v;
    } else {
      uint16_t *o = (uint16_t *)p.out + at;
      if (p.accumulate) v += __uint_as_float((uint32_t)*o << 16);
      *o = (uint16_t)ti_pack_bf16(v, 0.0f);
    }
  }
}

typedef void (*gemv_kernel)(gemv_params);

extern "C" ti_status ti_cuda_fp8_gemv(ti_dev *d, const ti_fp8_small_args *a, int groups, int depth, int warps) {
  gemv_kernel kernel = NULL;
  const int key = groups * 10000 + depth * 100 + warps;
  switch (key) {
    case 10408: kernel = fp8_gemv<1, 4, 8>; break;
    case 10404: kernel = fp8_gemv<1, 4, 4>; break;
    case 10608: kernel = fp8_gemv<1, 6, 8>; break;
    case 20208: kernel = fp8_gemv<2, 2, 8>; break;
    case 20204: kernel = fp8_gemv<2, 2, 4>; break;
    case 20308: kernel = fp8_gemv<2, 3, 8>; break;
    case 20416: kernel = fp8_gemv<2, 2, 16>; break;
    default: return TI_ERR_ARG;
  }
  assert(a->m <= 8 && a->k % 16 == 0);
  gemv_params p = {};
  p.out = a->out, p.w = a->w, p.x = a->x, p.w_scale = a->w_scale, p.x_scale = a->x_scale, p.bias = a->bias;
  p.m = a->m, p.n = a->n, p.k = a->k, p.n_kb = (a->k + 127) / 128, p.ld_scale = (a->m + 3) & ~3;
  p.ldx = a->ldx ? a->ldx : a->k, p.ldo = a->ldo ? a->ldo : a->n, p.w_scale_ld = a->w_scale_ld ? a->w_scale_ld : p.n_kb;
  p.out_f32 = a->out_f32, p.accumulate = a->accumulate;
  cudaLaunchAttribute at[1];
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)((a->n + 16 * groups - 1) / (16 * groups)));
  c.blockDim = dim3((unsigned)(warps * 32));
  c.stream = d->stream;
  c.attrs = at;
  if (d->pdl) {
    at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[0].val.programmaticStreamSerializationAllowed = 1;
    c.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&c, kernel, p) == cudaSuccess ? TI_OK : TI_ERR_INTERNAL;
}
