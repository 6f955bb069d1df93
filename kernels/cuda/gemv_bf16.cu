// bf16 products of few rows: W streams once through shared memory into wgmma, whose narrow side are the tokens.
//
//        K ->   part 0     part 1   ..  part split - 1      the parts of a band of rows are the blocks of one cluster
//      +-----+----------+----------+--
//   W  | 64  |##########|          |          a block: a producer warp keeps `stages` boxes of W (64 * groups rows x 64 of K, TMA, 128-byte swizzle,
//  rows| to  |          |          |          evict first) and of x (NT tokens x 64 of K) on their way; a warpgroup a 64 rows multiplies:
//      | 128 |          |          |          D [64 rows of W, NT tokens] += W-box x-box^T, 4 wgmma a stage
//      +-----+----------+----------+--
//   Then every block lays its sums into shared memory, and block r of the cluster adds the r-th share of the outputs over parts 0, 1, .. through
//   distributed shared memory: no scratch, no atomics, one order. The order is a function of (n, k): a row has the same bits whatever m is.
//
// W depends on no other op: under programmatic dependent launch the ring is filled before the wait for the predecessor, and only x comes after it. A
// ring of 48 KB leaves room on an SM for this kernel and its successor, so the successor's first 6 MB of W are on their way before this one ends.
//
// Bound by reading W.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemv_bf16.h"
#include "kernels/cuda/gemv_out.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_map.h"

enum { BK = 64, ROWS = 64, MAX_TOKENS = 64, MAX_STAGES = 24 };

// ---- the sums' way out ----

// Of a band's [tokens, rows] sums, part r of the cluster finishes the r-th share. An item is a token and two neighbouring rows (silu-mul: and the
// same two of up): WIDTH numbers. Every part writes its own sums of the item into the finisher's shared memory: inbox[part][item of the
// share][WIDTH].
template <int G, bool SILU>
struct item {
  enum { PAIRS = SILU ? ROWS / 2 : G * ROWS / 2, WIDTH = SILU ? 4 : 2 };  // PAIRS a token: a multiple of 32, so that all shares are equal
};

static __device__ __forceinline__ void store_peer(uint32_t addr, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(addr), "f"(v) : "memory");
}

// One sum of this block, row r of the band.
template <int G, bool SILU>
static __device__ __forceinline__ void send(float *inbox, int token, int r, float v, int share, int part, int split) {
  typedef item<G, SILU> it;
  const int up = SILU && r >= ROWS, row = SILU ? r % ROWS : r, i = token * it::PAIRS + row / 2;
  const int to = split == 1 ? 0 : i / share;
  float *p = inbox + (part * share + i - to * share) * it::WIDTH + 2 * up + row % 2;
  if (split == 1) {
    *p = v;
  } else {
    store_peer(ti_mapa(ti_smem(p), (uint32_t)to), v);
  }
}

// The share of this part, over parts in order.
template <int G, bool SILU>
static __device__ __forceinline__ void finish(const ti_gemv_out &a, const float *inbox, int64_t row0, int token0, int share, int part, int split) {
  typedef item<G, SILU> it;
  for (int i = threadIdx.x; i < share; i += blockDim.x) {
    float v[it::WIDTH] = {};
    for (int p = 0; p < split; p++) {
#pragma unroll
      for (int j = 0; j < it::WIDTH; j++) v[j] += inbox[(p * share + i) * it::WIDTH + j];
    }
    const int at = part * share + i, token = token0 + at / it::PAIRS, r = at % it::PAIRS * 2;
    if constexpr (SILU) {
      bf16 *o = static_cast<bf16 *>(a.out) + token * a.ldo + row0 / 2 + r;
      *reinterpret_cast<uint32_t *>(o) = ti_bf16x2(ti_silu_mul(v[0], v[2]), ti_silu_mul(v[1], v[3]));
    } else if (row0 + r < a.n) {
      ti_gemv_put(a, token, row0 + r, make_float2(v[0], v[1]));
    }
  }
}

// ---- the kernel ----

// grid: (split, bands of rows, passes of MAX_TOKENS tokens), clusters of `split` along x. Shared memory: ring[stages], then the inbox.
template <int G, int NT, bool SILU>
static __global__ void __launch_bounds__(128 * G + 32)
    gemv_kernel(const __grid_constant__ CUtensorMap wmap, const __grid_constant__ CUtensorMap xmap, ti_gemv_out a, int n_block, int stages) {
  enum { W_BYTES = G * ROWS * BK * 2, X_BYTES = NT * BK * 2, STAGE = W_BYTES + X_BYTES };
  extern __shared__ __align__(1024) uint8_t ring[];
  __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES];
  const int split = gridDim.x, part = blockIdx.x, group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int64_t row0 = (int64_t)blockIdx.y * G * ROWS;
  const int token0 = blockIdx.z * MAX_TOKENS, first = (int)((int64_t)n_block * part / split);
  const int count = (int)((int64_t)n_block * (part + 1) / split) - first, ahead = min(count, stages);
  float *inbox = reinterpret_cast<float *>(ring + stages * STAGE);
  const int n_token = min(NT, a.m - token0), share = n_token * item<G, SILU>::PAIRS / split;

  if (threadIdx.x == 128 * G) {  // the producer: W is on its way before anything else
    for (int i = 0; i < ahead; i++) ti_mbar_init(&full[i], 1);
    ti_fence_mbar_init();
    for (int i = 0; i < ahead; i++) {
      ti_mbar_expect(&full[i], STAGE);
      ti_tma_load_2d(ring + i * STAGE, &wmap, &full[i], (first + i) * BK, (int)row0, TI_L2_EVICT_FIRST);
    }
    for (int i = 0; i < ahead; i++) ti_mbar_init(&empty[i], 4 * G);
  }
  __syncwarp();
  ti_griddep_launch();
  if (split > 1) ti_cluster_arrive();  // this block is there; the wait stands before the first letter to a peer
  __syncthreads();
  ti_griddep_wait();

  float d[NT / 2];
  if (group == G) {
    if (lane == 0) {
      for (int i = 0; i < ahead; i++) ti_tma_load_2d(ring + i * STAGE + W_BYTES, &xmap, &full[i], (first + i) * BK, token0, TI_L2_EVICT_LAST);
      for (int i = ahead, s = 0, phase = 0; i < count; i++) {
        ti_mbar_wait(&empty[s], (uint32_t)phase);
        ti_mbar_expect(&full[s], STAGE);
        ti_tma_load_2d(ring + s * STAGE, &wmap, &full[s], (first + i) * BK, (int)row0, TI_L2_EVICT_FIRST);
        ti_tma_load_2d(ring + s * STAGE + W_BYTES, &xmap, &full[s], (first + i) * BK, token0, TI_L2_EVICT_LAST);
        if (++s == stages) s = 0, phase ^= 1;
      }
    }
    __syncwarp();
  } else {
#pragma unroll
    for (int i = 0; i < NT / 2; i++) d[i] = 0.0f;
    for (int i = 0, s = 0, last = 0, phase = 0; i < count; i++) {
      ti_mbar_wait(&full[s], (uint32_t)phase);
      const uint64_t wd = ti_wgmma_desc(ring + s * STAGE + group * (ROWS * BK * 2)), xd = ti_wgmma_desc(ring + s * STAGE + W_BYTES);
      ti_wgmma_hold(d);
      ti_wgmma_fence();
#pragma unroll
      for (int k = 0; k < BK / 16; k++) ti_wgmma_bf16<NT>(d, wd + 2 * k, xd + 2 * k, true);
      ti_wgmma_commit();
      ti_wgmma_hold(d);
      ti_wgmma_wait<1>();  // the stage before is read
      if (i > 0 && lane == 0) ti_mbar_arrive(&empty[last]);
      last = s;
      if (++s == stages) s = 0, phase ^= 1;
    }
    ti_wgmma_wait<0>();
    ti_wgmma_hold(d);
  }
  if (split > 1) ti_cluster_wait();
  if (group < G) {
    const int r = group * ROWS + threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < NT / 8; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int token = 8 * j + 2 * (lane % 4) + i % 2;
        if (token < n_token) send<G, SILU>(inbox, token, r + i / 2 * 8, d[4 * j + i], share, part, split);
      }
    }
  }
  if (split > 1) {
    ti_cluster_sync();
  } else {
    __syncthreads();
  }
  finish<G, SILU>(a, inbox, row0, token0, share, part, split);
}

// ---- launching ----

typedef void (*gemv_fn)(CUtensorMap, CUtensorMap, ti_gemv_out, int, int);

template <int G, bool SILU>
static gemv_fn pick_tokens(int nt) {
  switch (nt) {
    case 8:
      return gemv_kernel<G, 8, SILU>;
    case 16:
      return gemv_kernel<G, 16, SILU>;
    case 32:
      return gemv_kernel<G, 32, SILU>;
    default:
      return gemv_kernel<G, 64, SILU>;
  }
}

bool ti_gemv_bf16_takes(const ti_gemv_bf16_args *a) {
  if (a->k % 8 || a->ldx % 8 || !ti_aligned16(a->x) || !ti_aligned16(a->w) || a->n > INT32_MAX || a->k > INT32_MAX) return false;
  if (a->gate_up && a->n % (2 * TI_CUDA_GATE_RUN)) return false;
  return !a->silu_mul || (a->gate_up && !a->bias && !a->out_f32 && !a->accumulate && a->ldo % 2 == 0);
}

ti_gemv_bf16_tile ti_gemv_bf16_pick(const ti_dev *d, int64_t n, int64_t k, bool silu_mul) {
  // About a block an SM or two, whose rings together hold 100 to 160 KB an SM: less leaves memory idle, more makes its pages thrash.
  ti_gemv_bf16_tile t = {silu_mul || n >= 16384 ? 2 : 1, 1, 0};
  const int64_t blocks = (k + BK - 1) / BK, bands = (n + ROWS * t.groups - 1) / (ROWS * t.groups);
  while (t.split < 4 && bands * t.split * 10 < d->n_sm * 7 && blocks / (2 * t.split) >= 4) t.split *= 2;
  t.ring_kb = t.groups == 2 ? 96 : bands * t.split <= d->n_sm ? 128 : 80;
  return t;
}

ti_status ti_cuda_gemv_bf16(ti_dev *d, const ti_gemv_bf16_args *a) {
  assert(ti_gemv_bf16_takes(a));
  if (a->m == 0) return TI_OK;
  const ti_gemv_bf16_tile t = a->tile ? *a->tile : ti_gemv_bf16_pick(d, a->n, a->k, a->silu_mul);
  assert((t.groups == 1 || t.groups == 2) && t.split >= 1 && t.split <= 8 && t.ring_kb >= 0 && t.ring_kb <= 192);
  assert(!a->silu_mul || t.groups == 2);
  const int64_t ldx = a->ldx ? a->ldx : a->k;
  const int nt = a->m <= 8 ? 8 : a->m <= 16 ? 16 : a->m <= 32 ? 32 : 64, rows = ROWS * t.groups;
  const int stage = (rows + nt) * BK * 2, fit = (t.ring_kb << 10) / stage, stages = fit < 2 ? 2 : fit > MAX_STAGES ? MAX_STAGES : fit;

  CUtensorMap wmap, xmap;
  const int64_t wdim[2] = {a->k, a->n}, xdim[2] = {a->k, a->m};
  const int wbox[2] = {BK, rows}, xbox[2] = {BK, nt};
  if (ti_tensor_map_2d(&wmap, TI_TMA_BF16, a->w, wdim, &a->k, wbox, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_2d(&xmap, TI_TMA_BF16, a->x, xdim, &ldx, xbox, TI_TMA_128B) != TI_OK) {
    return ti_cuda_result(d, "gemv_bf16", cudaErrorInvalidValue);
  }
  const ti_gemv_out o = ti_gemv_out_of(a);
  const gemv_fn fn = a->silu_mul ? pick_tokens<2, true>(nt) : t.groups == 2 ? pick_tokens<2, false>(nt) : pick_tokens<1, false>(nt);
  const size_t smem = (size_t)(stages * stage + nt * rows * 4);
  cudaError_t e = cudaFuncSetAttribute(fn, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
  if (e != cudaSuccess) return ti_cuda_result(d, "gemv_bf16", e);

  cudaLaunchAttribute attr[2] = {};
  attr[0].id = cudaLaunchAttributeClusterDimension;
  attr[0].val.clusterDim.x = (unsigned)t.split;
  attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
  attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)t.split, (unsigned)ti_ceil_div(a->n, rows), (unsigned)ti_ceil_div(a->m, MAX_TOKENS));
  c.blockDim = dim3((unsigned)(128 * t.groups + 32));
  c.dynamicSmemBytes = smem;
  c.stream = d->stream;
  c.attrs = attr;
  c.numAttrs = d->pdl ? 2 : 1;
  d->last_op = "gemv_bf16";
  e = cudaLaunchKernelEx(&c, fn, wmap, xmap, o, (int)ti_ceil_div(a->k, BK), stages);
  return e == cudaSuccess ? TI_OK : ti_cuda_result(d, "gemv_bf16", e);
}
