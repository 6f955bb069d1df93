// out [m, n] = x [m, k] * W [n, k]^T for every shape, alignment and stored type, in tiles of 64 x 64: the form that others are checked against.
//
//             W rows n0 .. n0 + 63
//            +-----------+-----------+      4 warps, each 32 x 32 of the tile by mma.m16n8k16 (bf16 in, fp32 sums); x and W go through shared
//   x rows   | warp 0    | warp 1    |      memory, 32 of K at a time, the next 32 on their way in registers; e4m3 codes become bf16 there, exactly.
//   m0 ..    +-----------+-----------+
//   m0 + 63  | warp 2    | warp 3    |      Runs of K over which all scales are constant (128, less where a shard starts inside a block): the codes'
//            +-----------+-----------+      products are summed, then total += (s_x s_w) sum, in fp32.
//
// Every sum runs over K ascending whatever m is, so a row's bits depend on it alone. Tails of m, n and k are zeros in shared memory: what stands
// behind a tensor is never read. Bound by latency and by mma.sync's rate (half of wgmma's); the tuned kernels beside it take the shapes that matter.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm_tile.h"

enum { BM = 64, BN = 64, BK = 32, LD = BK + 8, THREADS = 128 };  // a row of 80 bytes: ldmatrix meets no bank twice

struct product {
  void *out;
  const void *x, *w;
  const float *xs, *ws, *bias;
  int m, n, k;
  int64_t ldx, ldo, xs_ld, ws_ld;
  int block_n, block_k, col0;  // of ws; block_k 0: one scale a row
  int half;                    // rows of the gate where W is interleaved, else 0
  bool x_vec, w_vec, out_f32, accumulate;
};

// Where the run of constant scales that holds c ends.
static __device__ __forceinline__ int run_end(const product &a, int c) {
  int end = a.k;
  if (a.xs) end = min(end, (c / 128 + 1) * 128);
  if (a.ws && a.block_k) end = min(end, ((a.col0 + c) / a.block_k + 1) * a.block_k - a.col0);
  return end;
}

// The column of out that row r of W gives.
static __device__ __forceinline__ int column(const product &a, int r) {
  enum { RUN = TI_CUDA_GATE_RUN };
  if (!a.half) return r;
  return r / (2 * RUN) * RUN + r % RUN + (r % (2 * RUN) >= RUN ? a.half : 0);
}

static __device__ __forceinline__ bf16 widen(bf16 v) { return v; }
static __device__ __forceinline__ bf16 widen(uint8_t v) { return __float2bfloat16_rn(ti_from_e4m3(v)); }

static __device__ __forceinline__ void load_vec(const bf16 *p, bf16 v[8]) { *reinterpret_cast<uint4 *>(v) = *reinterpret_cast<const uint4 *>(p); }
static __device__ __forceinline__ void load_vec(const uint8_t *p, bf16 v[8]) {
  const uint2 u = *reinterpret_cast<const uint2 *>(p);
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = widen((uint8_t)((i < 4 ? u.x : u.y) >> (8 * (i % 4))));
}

// Numbers [c, c + 8) of a row, zeros from `end` on.
template <typename T>
static __device__ __forceinline__ void load8(const T *row, int c, int end, bool vec, bf16 v[8]) {
  if (vec && c % 8 == 0 && c + 8 <= end) {
    load_vec(row + c, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = c + i < end ? widen(row[c + i]) : __float2bfloat16_rn(0.0f);
}

struct alignas(16) vec8 {
  bf16 v[8];
};

static __device__ __forceinline__ void ldmatrix4(uint32_t r[4], const bf16 *p) {
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
static __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void store(const product &a, int row, int r, float v) {
  if (row >= a.m || r >= a.n) return;
  const int c = column(a, r);
  if (a.bias) v += a.bias[c];
  if (a.out_f32) {
    float *p = (float *)a.out + row * a.ldo + c;
    *p = a.accumulate ? *p + v : v;
  } else {
    bf16 *p = (bf16 *)a.out + row * a.ldo + c;
    *p = __float2bfloat16_rn(a.accumulate ? __bfloat162float(*p) + v : v);
  }
}

template <typename X, typename W>
static __global__ void __launch_bounds__(THREADS) tile_kernel(const product a) {
  __shared__ __align__(16) bf16 xt[BM][LD], wt[BN][LD];
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, lane = threadIdx.x % 32, wm = threadIdx.x / 64 * 32, wn = threadIdx.x / 32 % 2 * 32;
  const X *x = static_cast<const X *>(a.x);
  const W *w = static_cast<const W *>(a.w);
  float acc[2][4][4] = {}, total[2][4][4] = {};
  vec8 xr[2], wr[2];
  const auto load = [&](int c, int end) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = threadIdx.x + i * THREADS, row = at / 4, kc = c + at % 4 * 8;
      load8(x + (int64_t)(m0 + row) * a.ldx, kc, m0 + row < a.m ? end : 0, a.x_vec, xr[i].v);
      load8(w + (int64_t)(n0 + row) * a.k, kc, n0 + row < a.n ? end : 0, a.w_vec, wr[i].v);
    }
  };
  ti_pdl_wait();
  ti_pdl_launch();
  int c = 0, end = run_end(a, 0);
  load(0, end);
  while (c < a.k) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = threadIdx.x + i * THREADS;
      *reinterpret_cast<vec8 *>(&xt[at / 4][at % 4 * 8]) = xr[i];
      *reinterpret_cast<vec8 *>(&wt[at / 4][at % 4 * 8]) = wr[i];
    }
    __syncthreads();
    const int run = c;  // inside the run whose scales apply
    const bool last = c + BK >= end;
    c = last ? end : c + BK;
    if (last && c < a.k) end = run_end(a, c);
    if (c < a.k) load(c, end);
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      uint32_t fx[2][4], fw[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ldmatrix4(fx[i], &xt[wm + 16 * i + lane % 16][kk + lane / 16 * 8]);
        ldmatrix4(fw[i], &wt[wn + 16 * i + lane % 8 + lane / 16 * 8][kk + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) mma(acc[i][j], fx[i], fw[j / 2][j % 2 * 2], fw[j / 2][j % 2 * 2 + 1]);
      }
    }
    if (!last) continue;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int row = min(m0 + wm + 16 * i + lane / 4 + e / 2 * 8, a.m - 1), r = min(n0 + wn + 8 * j + lane % 4 * 2 + e % 2, a.n - 1);
          float s = a.xs ? a.xs[run / 128 * a.xs_ld + row] : 1.0f;
          if (a.ws) s *= a.block_k ? a.ws[(int64_t)(r / a.block_n) * a.ws_ld + (a.col0 + run) / a.block_k] : a.ws[r];
          total[i][j][e] += s * acc[i][j][e];
          acc[i][j][e] = 0.0f;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) store(a, m0 + wm + 16 * i + lane / 4 + e / 2 * 8, n0 + wn + 8 * j + lane % 4 * 2 + e % 2, total[i][j][e]);
    }
  }
}

// fp32 weights (routers): a thread an output, 16 x 16 a block, fp32 multiply and add.
static __global__ void __launch_bounds__(256) f32_kernel(const product a) {
  enum { T = 16, K = 32 };
  __shared__ float xt[T][K + 1], wt[T][K + 1];
  const int m0 = blockIdx.y * T, n0 = blockIdx.x * T, i = threadIdx.x / T, j = threadIdx.x % T;
  float acc = 0.0f;
  ti_pdl_wait();
  ti_pdl_launch();
  for (int c = 0; c < a.k; c += K) {
    __syncthreads();
#pragma unroll
    for (int at = threadIdx.x; at < T * K; at += 256) {
      const int row = at / K, kc = c + at % K;
      xt[row][at % K] = m0 + row < a.m && kc < a.k ? __bfloat162float(((const bf16 *)a.x)[(m0 + row) * a.ldx + kc]) : 0.0f;
      wt[row][at % K] = n0 + row < a.n && kc < a.k ? ((const float *)a.w)[(int64_t)(n0 + row) * a.k + kc] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < K; kk++) acc = fmaf(xt[i][kk], wt[j][kk], acc);
  }
  store(a, m0 + i, n0 + j, acc);
}

ti_status ti_cuda_gemm_tile(ti_dev *d, const ti_cuda_tile_args *a) {
  const ti_weight *w = a->w;
  assert(w->n <= INT32_MAX && w->k <= INT32_MAX && !(a->x_scale && w->dtype != TI_E4M3));
  if (a->m == 0) return TI_OK;
  product p = {};
  p.out = a->out;
  p.x = a->x;
  p.w = w->data;
  p.xs = a->x_scale;
  p.ws = w->dtype == TI_E4M3 ? w->scale : nullptr;
  p.bias = a->bias;
  p.m = a->m;
  p.n = (int)w->n;
  p.k = (int)w->k;
  p.ldx = a->ldx ? a->ldx : w->k;
  p.ldo = a->ldo ? a->ldo : w->n;
  p.xs_ld = (a->m + 3) / 4 * 4;
  p.ws_ld = w->scale_ld;
  p.block_n = w->block_n;
  p.block_k = w->block_k;
  p.col0 = w->col0;
  p.half = (w->layout & ~TI_CUDA_EXACT) == TI_CUDA_GATE_UP ? (int)(w->n / 2) : 0;
  p.x_vec = p.ldx % 8 == 0 && ti_aligned16(a->x);
  p.w_vec = w->k % 8 == 0 && ti_aligned16(w->data);
  p.out_f32 = a->out_f32;
  p.accumulate = a->accumulate;
  if (w->dtype == TI_F32) return ti_launch(d, "gemm f32", f32_kernel, dim3(ti_ceil_div(w->n, 16), ti_ceil_div(a->m, 16)), 256, 0, p);
  auto *kernel = w->dtype == TI_BF16 ? tile_kernel<bf16, bf16> : a->x_scale ? tile_kernel<uint8_t, uint8_t> : tile_kernel<bf16, uint8_t>;
  return ti_launch(d, "gemm tile", kernel, dim3(ti_ceil_div(w->n, BN), ti_ceil_div(a->m, BM)), THREADS, 0, p);
}
