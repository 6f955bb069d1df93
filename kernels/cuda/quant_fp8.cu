// bf16 rows to e4m3: s = max(amax, 1e-4) / 448 over 128 numbers, code = e4m3(x / s); alone, or behind RMSNorm or silu-mul.
//
//   quantise, silu-mul     a warp takes 8 blocks of 128 of a row, 4 at a time: 8 lanes a block, 2 x 8 numbers a lane
//                            lane   0    1  ..  7 |  8  ..          first half of its block, then the second: whole lines of 128 bytes
//                          a thread block has 8 rows of the same blocks, whose scales share a sector (scales stand block by block, rows side by side)
//   RMSNorm                a thread block a row, which stays in registers between the sum and the codes; 16 lanes a block of 128. With many rows a
//                          block has several, and bulk copies bring the next three into shared memory
//
// x / s is the IEEE quotient as far as the code can tell: q = x r + (x - x r s) r with r = 1 / s rounded. Every boundary between two codes has 5
// bits, x has 8: all pairs of them, each with the 17 scales nearest to their quotient, fall on the same side as x / s does (exhaustive; the lab
// repeats it on the device over all of bf16). Three operations where a division takes nine: the division alone would bound this kernel.
//
// Bound by memory: a number is 2 bytes in and 1 out (RMSNorm with residual: 6 and 1; silu-mul: 4 and 1). H200, copy 4.255 TB/s, lab_quant, 2.8 us of
// an empty kernel included:
//                     4096 x 7168         4096 x 14336        1 x 7168
//   quantise          26.4 us, 79%        49.2 us, 85%        4.7 us
//   RMSNorm           62.8 us, 77%        137.5 us, 71%       6.1 us
//   silu-mul          42.3 us, 82%        79.4 us, 88%        5.5 us
// What is left above is the launch, the first loads and the last stores. RMSNorm: two blocks an SM (one above 7168) that wait at a barrier once a
// row; three rows on their way brought it from 64 to 77%; the next 10% would take a block's sum without all its warps waiting (a warp ahead for the
// next row). One row: three trips to memory or L2, one after the other, probably bound it.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/quant_fp8.h"

enum { BLOCK = 128, WARPS = 8, NORM_THREADS = TI_NORM_THREADS, NORM_STAGES = 3 };

// ---- codes ----

struct divisor {
  float s, r;
};
static __device__ __forceinline__ divisor divisor_of(float amax) {
  const float s = ti_fp8_scale(amax);
  return {s, __frcp_rn(s)};
}
static __device__ __forceinline__ float divide(float x, divisor d) {
  const float q = x * d.r;
  return copysignf(fmaf(fmaf(-q, d.s, x), d.r, q), x);  // the correction loses the sign of -0
}
static __device__ __forceinline__ uint32_t e4m3x4(const float v[4], divisor d) {
  float q[4];
#pragma unroll
  for (int i = 0; i < 4; i++) q[i] = d.r > 0.0f ? divide(v[i], d) : v[i] / d.s;  // an infinite amax: 0, NaN where x is infinite
  const uint32_t lo = __nv_cvt_float2_to_fp8x2(make_float2(q[0], q[1]), __NV_SATFINITE, __NV_E4M3);
  const uint32_t hi = __nv_cvt_float2_to_fp8x2(make_float2(q[2], q[3]), __NV_SATFINITE, __NV_E4M3);
  return lo | hi << 16;
}
static __device__ __forceinline__ uint2 e4m3x8(const float v[8], divisor d) { return make_uint2(e4m3x4(v, d), e4m3x4(v + 4, d)); }

static __device__ __forceinline__ float amax8(const float v[8]) {
  float m = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++) m = fmaxf(m, fabsf(v[i]));
  return m;
}
// The maximum over groups of LANES neighbours.
template <int LANES>
static __device__ __forceinline__ float lanes_max(float v) {
#pragma unroll
  for (int o = LANES / 2; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// Numbers [c, c + 8) of a row of n, zeros behind it.
template <bool VEC>
static __device__ __forceinline__ void load(const bf16 *row, int c, int n, float v[8]) {
  if (VEC) {
    if (c < n) {
      ti_load8(row + c, v);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = 0.0f;
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = c + i < n ? __bfloat162float(row[c + i]) : 0.0f;
  }
}
template <bool VEC>
static __device__ __forceinline__ void store(uint8_t *row, int c, int n, uint2 v) {
  if (VEC) {
    if (c < n) *reinterpret_cast<uint2 *>(row + c) = v;
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (c + i < n) row[c + i] = (uint8_t)((i < 4 ? v.x : v.y) >> (8 * (i % 4)));
    }
  }
}

// ---- quantise, silu-mul ----

struct rows {
  uint8_t *q;
  float *scale;
  const bf16 *x;
  int n_row, k, scale_ld;
  int64_t ldx;
};

enum { STEPS = 2, GROUPS = 4 * STEPS };  // of blocks of 128 a warp

template <bool VEC, bool SILU>
static __global__ void __launch_bounds__(32 * WARPS) quant_kernel(rows a) {
  ti_pdl_wait();
  ti_pdl_launch();
  const int row = blockIdx.y * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.n_row) return;
  const bf16 *x = a.x + row * a.ldx;
  float v[STEPS][2][8];
  const int c0 = (blockIdx.x * GROUPS + lane / 8) * BLOCK + lane % 8 * 8;
#pragma unroll
  for (int u = 0; u < STEPS; u++) {
#pragma unroll
    for (int h = 0; h < 2; h++) load<VEC>(x, c0 + u * 4 * BLOCK + h * 64, a.k, v[u][h]);
  }
  if (SILU) {
#pragma unroll
    for (int u = 0; u < STEPS; u++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float up[8];
        load<VEC>(x + a.k, c0 + u * 4 * BLOCK + h * 64, a.k, up);
#pragma unroll
        for (int i = 0; i < 8; i++) v[u][h][i] = ti_round_bf16(ti_silu_mul(v[u][h][i], up[i]));
      }
    }
  }
#pragma unroll
  for (int u = 0; u < STEPS; u++) {
    const divisor d = divisor_of(lanes_max<8>(fmaxf(amax8(v[u][0]), amax8(v[u][1]))));
    const int c = c0 + u * 4 * BLOCK, block = c / BLOCK;
    if (lane % 8 == 0 && block * BLOCK < a.k) a.scale[(int64_t)block * a.scale_ld + row] = d.s;
#pragma unroll
    for (int h = 0; h < 2; h++) store<VEC>(a.q + (int64_t)row * a.k, c + h * 64, a.k, e4m3x8(v[u][h], d));
  }
}

static ti_status launch_rows(ti_dev *d, const char *op, const rows *r, bool silu) {
  if (r->n_row == 0) return TI_OK;
  const bool vec = ((r->k | r->ldx) & 7) == 0 && ti_aligned16(r->x) && ((uintptr_t)r->q & 7) == 0;
  const dim3 grid((unsigned)ti_ceil_div(r->k, GROUPS * BLOCK), (unsigned)ti_ceil_div(r->n_row, WARPS));
  return ti_launch(d, op,
                   vec    ? (silu ? quant_kernel<true, true> : quant_kernel<true, false>)
                   : silu ? quant_kernel<false, true>
                          : quant_kernel<false, false>,
                   grid, 32 * WARPS, 0, *r);
}

static int up4(int n) { return (n + 3) & ~3; }

ti_status ti_cuda_quant_fp8(ti_dev *d, const ti_quant_fp8_args *a) {
  const rows r = {a->q, a->scale, (const bf16 *)a->x, a->n_row, a->k, up4(a->n_row), a->ldx ? a->ldx : a->k};
  return launch_rows(d, "quant_fp8", &r, false);
}

ti_status ti_cuda_silu_mul_quant(ti_dev *d, const ti_silu_mul_args *a) {
  assert(a->q && a->q_scale);
  const rows r = {a->q, a->q_scale, (const bf16 *)a->gate_up, a->n_row, a->dim, up4(a->n_row), a->ldx ? a->ldx : 2 * (int64_t)a->dim};
  return launch_rows(d, "silu_mul_quant", &r, true);
}

// ---- RMSNorm ----

struct norm_args {
  bf16 *out;
  const bf16 *x;
  bf16 *residual;
  const float *weight;
  uint8_t *q;
  float *scale;
  int n_row, dim, scale_ld;
  int64_t ldx, ldo;
  float eps;
};

// What follows the sum: thread t has vectors v at 8 (v blockDim + t).
template <int V>
static __device__ __forceinline__ void norm_finish(const norm_args &a, int64_t row, float x[V][8], const float w[V][8], float sum) {
  const float inv = ti_norm_inverse(sum, a.dim, a.eps);
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int c = 8 * (v * blockDim.x + threadIdx.x);
#pragma unroll
    for (int i = 0; i < 8; i++) x[v][i] = c < a.dim ? ti_norm_one(x[v][i], inv, w[v][i]) : 0.0f;
    if (a.out && c < a.dim) ti_store8(a.out + row * a.ldo + c, x[v]);
    if (!a.q) continue;
    const divisor d = divisor_of(lanes_max<16>(amax8(x[v])));
    if (threadIdx.x % 16 == 0 && c < a.dim) a.scale[(int64_t)(c / BLOCK) * a.scale_ld + row] = d.s;
    store<true>(a.q + row * a.dim, c, a.dim, e4m3x8(x[v], d));
  }
}

// x (+ residual, which is written), and this thread's part of the sum.
template <int V>
static __device__ __forceinline__ float norm_row(const norm_args &a, int64_t row, const bf16 *xrow, const bf16 *rrow, float x[V][8]) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int c = 8 * (v * blockDim.x + threadIdx.x);
    load<true>(xrow, c, a.dim, x[v]);
    if (a.residual) {
      float r[8];
      load<true>(rrow, c, a.dim, r);
#pragma unroll
      for (int i = 0; i < 8; i++) x[v][i] += r[i];
      if (c < a.dim) ti_store8(a.residual + row * a.dim + c, x[v]);
    }
    sum = ti_norm_add8(sum, x[v]);
  }
  return sum;
}

template <int V>
static __device__ __forceinline__ void norm_weights(const norm_args &a, float w[V][8]) {
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int c = 8 * (v * blockDim.x + threadIdx.x);
    if (c < a.dim) ti_load8(a.weight + c, w[v]);
  }
}

// One row a block; the weights come before the wait for the predecessor.
template <int V>
static __global__ void __launch_bounds__(NORM_THREADS) norm_kernel(norm_args a) {
  __shared__ float part[32];
  float w[V][8], x[V][8];
  const int64_t row = blockIdx.x;
  norm_weights<V>(a, w);
  ti_pdl_wait();
  ti_pdl_launch();
  const float sum = norm_row<V>(a, row, a.x + row * a.ldx, a.residual + (a.residual ? row * a.dim : 0), x);
  norm_finish<V>(a, row, x, w, ti_block_sum(sum, part));
}

// Many rows: a block has every gridDim-th, and the next ones are on their way into a ring in shared memory: [stage][x, residual][dim].
template <int V>
static __global__ void __launch_bounds__(NORM_THREADS, V < 4 ? 2 : 1) norm_many_kernel(norm_args a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // bulk copies; never launched elsewhere
  extern __shared__ __align__(16) bf16 ring[];
  __shared__ float part[2][32];
  __shared__ uint64_t full[NORM_STAGES];
  const int arrays = a.residual ? 2 : 1, bytes = 2 * a.dim;
  const auto fetch = [&](int64_t row, int s) {
    bf16 *to = ring + (int64_t)s * arrays * a.dim;
    ti_mbar_expect(&full[s], (uint32_t)(arrays * bytes));
    ti_bulk_load(to, a.x + row * a.ldx, (uint32_t)bytes, &full[s], TI_L2_EVICT_FIRST);
    if (a.residual) ti_bulk_load(to + a.dim, a.residual + row * a.dim, (uint32_t)bytes, &full[s], TI_L2_EVICT_FIRST);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < NORM_STAGES; s++) ti_mbar_init(&full[s], 1);
    ti_fence_mbar_init();
  }
  __syncthreads();
  ti_pdl_wait();
  ti_pdl_launch();
  if (threadIdx.x == 0) {
    for (int s = 0; s < NORM_STAGES && blockIdx.x + (int64_t)s * gridDim.x < a.n_row; s++) fetch(blockIdx.x + (int64_t)s * gridDim.x, s);
  }
  int s = 0, turn = 0;
  uint32_t phase = 0;
  for (int64_t row = blockIdx.x; row < a.n_row; row += gridDim.x, turn ^= 1) {
    float w[V][8], x[V][8];
    const bf16 *at = ring + (int64_t)s * arrays * a.dim;
    ti_mbar_wait(&full[s], phase);
    float sum = norm_row<V>(a, row, at, at + a.dim, x);
    norm_weights<V>(a, w);
    sum = ti_block_sum(sum, part[turn]);  // its barrier: the stage is read
    const int64_t later = row + (int64_t)NORM_STAGES * gridDim.x;
    if (threadIdx.x == 0 && later < a.n_row) fetch(later, s);
    norm_finish<V>(a, row, x, w, sum);
    if (++s == NORM_STAGES) s = 0, phase ^= 1;
  }
#endif
}

// Any dim and alignment: the row is read again for the codes, a warp a block of 128.
static __global__ void __launch_bounds__(32 * WARPS) norm_plain_kernel(norm_args a) {
  __shared__ float part[32];
  ti_pdl_wait();
  ti_pdl_launch();
  const int64_t row = blockIdx.x;
  const bf16 *x = a.x + row * a.ldx;
  bf16 *res = a.residual ? a.residual + row * a.dim : nullptr;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const float v = __bfloat162float(x[i]) + (res ? __bfloat162float(res[i]) : 0.0f);
    sum += v * v;
  }
  sum = ti_block_sum(sum, part);  // its barrier stands between these reads and the writes below (out may be x)
  const float inv = 1.0f / sqrtf(sum / (float)a.dim + a.eps);
  for (int b = threadIdx.x / 32; b * BLOCK < a.dim; b += WARPS) {
    float v[4], amax = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int c = b * BLOCK + 32 * i + threadIdx.x % 32;
      v[i] = 0.0f;
      if (c >= a.dim) continue;
      const float s = __bfloat162float(x[c]) + (res ? __bfloat162float(res[c]) : 0.0f);
      if (res) res[c] = __float2bfloat16_rn(s);
      v[i] = ti_round_bf16(s * (inv * a.weight[c]));
      if (a.out) a.out[row * a.ldo + c] = __float2bfloat16_rn(v[i]);
      amax = fmaxf(amax, fabsf(v[i]));
    }
    if (!a.q) continue;
    const divisor d = divisor_of(ti_warp_max(amax));
    const uint32_t codes = e4m3x4(v, d);
    if (threadIdx.x % 32 == 0) a.scale[(int64_t)b * a.scale_ld + row] = d.s;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int c = b * BLOCK + 32 * i + threadIdx.x % 32;
      if (c < a.dim) a.q[row * a.dim + c] = (uint8_t)(codes >> (8 * i));
    }
  }
}

ti_status ti_cuda_rmsnorm(ti_dev *d, const ti_rmsnorm_args *a) {
  assert((a->out || a->q) && (!a->q || a->q_scale));
  if (a->n_row == 0) return TI_OK;
  const norm_args n = {.out = (bf16 *)a->out,
                       .x = (const bf16 *)a->x,
                       .residual = (bf16 *)a->residual,
                       .weight = a->weight,
                       .q = a->q,
                       .scale = a->q_scale,
                       .n_row = a->n_row,
                       .dim = a->dim,
                       .scale_ld = up4(a->n_row),
                       .ldx = a->ldx ? a->ldx : a->dim,
                       .ldo = a->ldo ? a->ldo : a->dim,
                       .eps = a->eps};
  const bool vec = ((a->dim | n.ldx | n.ldo) & 7) == 0 && a->dim <= 4 * 8 * NORM_THREADS && ti_aligned16(a->x) && ti_aligned16(a->out) &&
                   ti_aligned16(a->residual) && ti_aligned16(a->weight) && ((uintptr_t)a->q & 7) == 0;
  if (!vec) return ti_launch(d, "rmsnorm", norm_plain_kernel, a->n_row, 32 * WARPS, 0, n);
  const ti_norm_shape shape = ti_norm_shape_of(a->dim);
  const int v = shape.v, threads = shape.threads;
  const int on_sm = v == 4 ? 1 : 2 * NORM_THREADS / threads < 8 ? 2 * NORM_THREADS / threads : 8;
  if (a->n_row <= 2 * on_sm * d->n_sm || d->major < 9) {
    return ti_launch(d, "rmsnorm", v == 1 ? norm_kernel<1> : v == 2 ? norm_kernel<2> : norm_kernel<4>, a->n_row, threads, 0, n);
  }
  void (*const many)(norm_args) = v == 1 ? norm_many_kernel<1> : v == 2 ? norm_many_kernel<2> : norm_many_kernel<4>;
  const size_t smem = (size_t)NORM_STAGES * (a->residual ? 2 : 1) * (size_t)a->dim * 2;
  const cudaError_t e = cudaFuncSetAttribute(many, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
  return e != cudaSuccess ? ti_cuda_result(d, "rmsnorm", e) : ti_launch(d, "rmsnorm", many, on_sm * d->n_sm, threads, smem, n);
}
