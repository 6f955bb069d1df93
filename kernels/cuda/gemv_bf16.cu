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
// W depends on no other op: under programmatic dependent launch the ring is filled before the wait for the predecessor, and only x comes after it.
// Where no predecessor can overlap, x goes first: behind a ring of W it would come 3 us later.
//
// Bound by reading W. H200, copy 4.255 TB/s, lab_gemv_bf16, m = 1 (16):
//                      alone, cold L2                        in a row with dependent launch
//   (28672,4096)       62.8 (63.8) us, 88 (87)% of copy      59.3 (60.4) us, 93 (92)%; cuBLASLt 55.7 to 61.3
//   (4096,14336)       34.5 (34.1) us, 80 (81)%              29.1 (29.4) us, 95 (95)%; cuBLASLt 31.1 (31.8)
//   (128256,4096)      253.6 (254.5) us, 97 (97)%            245.5 (245.8) us, 101 (101)%
//   (32000,2048)       37.8 (38.4) us, 82 (81)%              31.3 (32.0) us, 98 (97)%; cuBLASLt 34.3 (35.3)
//   (4096,4096)        13.9 us at 16, 57%                    10.3 us at 16, 77%; cuBLASLt 12.8
// The four products of a layer of Llama-3-8B: 110.5 us (93% of copy; cuBLASLt 117.8) at 1 row, 115.0 (118.1) at 16, 124.7 (124.2) at 64.
//
// Alone, a product costs W's bytes at the copy's rate and 6 us: 2.8 are an empty kernel's, 1.5 the first bytes' way, 1 the exchange in the cluster,
// the rest blocks that end apart (a plain read of (4096,4096) takes 12.5 us there, which is 63% of copy). In a row all but 1 to 3 us of it are
// hidden. From 48 rows on it is probably x's traffic from L2 that shows, as much as W's in bands of 64 rows: a multicast of x over neighbouring bands
// would cut it to a quarter, and is the next 10% there. Below, the next 10% are the ends of small products: one launch for several of them.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemv_bf16.h"
#include "kernels/cuda/gemv_out.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_map.h"

enum { BK = 64, ROWS = 64, MAX_TOKENS = 64, MAX_SPLIT = 8, MAX_STAGES = 24, SMEM = 226 << 10, DIRECT_BYTES = 64 << 20 };

// ---- the sums' way out ----

// Part r of the cluster finishes the r-th share of the band's rows, for all tokens. Every part writes its own sums of those rows into the finisher's
// shared memory: inbox[part][token][LD], a token's rows of the share side by side (silu-mul: gate's, then up's) and 4 more numbers, so that neither
// the writing nor the reading warp meets a bank twice.
template <int G, int NT, bool SILU>
struct ti_inbox {
  enum { OWN = SILU ? ROWS : G * ROWS, WIDE = SILU ? 2 : 1 };  // rows that are shared out; numbers for each
  float *p;
  int rows, shift, ld;  // a share: rows = 1 << shift

  __device__ __forceinline__ ti_inbox(float *at, int split) : p(at), rows(OWN / split), shift(0), ld(WIDE * rows + 4) {
    while (1 << shift < rows) shift++;
  }
  // Where this block's sum of row r of the band and token 0 goes: an address in the cluster.
  __device__ __forceinline__ uint32_t address(int r, int part) const {
    const int own = SILU ? r % ROWS : r, up = SILU && r >= ROWS ? rows : 0;
    return ti_mapa(ti_smem(p + part * NT * ld + up + (own & (rows - 1))), (uint32_t)(own >> shift));
  }
};

static __device__ __forceinline__ void store_peer(uint32_t addr, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(addr), "f"(v) : "memory");
}

// The share of this part: parts are added in order. Threads [0, 128 G).
template <int G, int NT, bool SILU>
static __device__ __forceinline__ void finish(const ti_gemv_out &a, const ti_inbox<G, NT, SILU> &in, int64_t row0, int token0, int n_token, int part,
                                              int split) {
  const int pairs = in.rows / 2, pair = threadIdx.x & (pairs - 1), step = 128 * G / pairs;
  const int r = part * in.rows + 2 * pair;
#pragma unroll 2
  for (int t = threadIdx.x / pairs; t < n_token; t += step) {
    const float *p = in.p + t * in.ld + 2 * pair;
    float2 v = *reinterpret_cast<const float2 *>(p), u = make_float2(0.0f, 0.0f);
    if (SILU) u = *reinterpret_cast<const float2 *>(p + in.rows);
#pragma unroll
    for (int i = 1; i < MAX_SPLIT; i++) {
      if (i >= split) break;
      const float *q = p + i * NT * in.ld;
      const float2 x = *reinterpret_cast<const float2 *>(q);
      v.x += x.x, v.y += x.y;
      if (SILU) {
        const float2 y = *reinterpret_cast<const float2 *>(q + in.rows);
        u.x += y.x, u.y += y.y;
      }
    }
    if constexpr (SILU) {
      bf16 *o = static_cast<bf16 *>(a.out) + (token0 + t) * a.ldo + row0 / 2 + r;
      *reinterpret_cast<uint32_t *>(o) = ti_bf16x2(ti_silu_mul(v.x, u.x), ti_silu_mul(v.y, u.y));
    } else if (row0 + r < a.n) {
      ti_gemv_put(a, token0 + t, row0 + r, v);
    }
  }
}

// ---- the kernel ----

static __device__ __forceinline__ void arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }

// grid: (split, bands of rows, passes of MAX_TOKENS tokens), clusters of `split` along x. Shared memory: ring[stages], then the inbox.
template <int G, int NT, bool SILU>
static __global__ void __launch_bounds__(128 * G + 32) gemv_kernel(const __grid_constant__ CUtensorMap wmap, const __grid_constant__ CUtensorMap xmap,
                                                                   ti_gemv_out a, int n_block, int stages, bool early) {
  enum { W_BYTES = G * ROWS * BK * 2, X_BYTES = NT * BK * 2, STAGE = W_BYTES + X_BYTES };
  extern __shared__ __align__(1024) uint8_t ring[];
  __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES];
  const int split = gridDim.x, part = blockIdx.x, group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int64_t row0 = (int64_t)blockIdx.y * G * ROWS;
  const int token0 = blockIdx.z * MAX_TOKENS, first = (int)((int64_t)n_block * part / split);
  const int count = (int)((int64_t)n_block * (part + 1) / split) - first, ahead = min(count, stages);
  const ti_inbox<G, NT, SILU> inbox(reinterpret_cast<float *>(ring + stages * STAGE), split);
  const int n_token = min(NT, a.m - token0);

  if (threadIdx.x == 128 * G) {  // the producer
    for (int i = 0; i < ahead; i++) ti_mbar_init(&full[i], 1);
    ti_fence_mbar_init();
    if (!early) ti_griddep_wait();
    for (int i = 0; i < ahead; i++) {
      ti_mbar_expect(&full[i], STAGE);
      if (!early) ti_tma_load_2d(ring + i * STAGE + W_BYTES, &xmap, &full[i], (first + i) * BK, token0, TI_L2_EVICT_LAST);
      ti_tma_load_2d(ring + i * STAGE, &wmap, &full[i], (first + i) * BK, (int)row0, TI_L2_EVICT_FIRST);
    }
    for (int i = 0; i < ahead; i++) ti_mbar_init(&empty[i], 4 * G);
  }
  __syncwarp();
  ti_griddep_launch();
  if (split > 1) arrive_relaxed();  // this block is there; the wait stands before the first store to a peer
  __syncthreads();
  ti_griddep_wait();

  float d[NT / 2];
  if (group == G) {
    if (lane == 0) {
      for (int i = 0; early && i < ahead; i++)
        ti_tma_load_2d(ring + i * STAGE + W_BYTES, &xmap, &full[i], (first + i) * BK, token0, TI_L2_EVICT_LAST);
      for (int i = ahead, s = 0, phase = 0; i < count; i++) {
        ti_mbar_wait(&empty[s], (uint32_t)phase);
        ti_mbar_expect(&full[s], STAGE);
        ti_tma_load_2d(ring + s * STAGE + W_BYTES, &xmap, &full[s], (first + i) * BK, token0, TI_L2_EVICT_LAST);
        ti_tma_load_2d(ring + s * STAGE, &wmap, &full[s], (first + i) * BK, (int)row0, TI_L2_EVICT_FIRST);
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
    const uint32_t to[2] = {inbox.address(r, part), inbox.address(r + 8, part)}, ld = (uint32_t)inbox.ld * 4;
#pragma unroll
    for (int j = 0; j < NT / 8; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int token = 8 * j + 2 * (lane % 4) + i % 2;
        if (token < n_token) store_peer(to[i / 2] + (uint32_t)token * ld, d[4 * j + i]);
      }
    }
  }
  if (split > 1) {
    ti_cluster_sync();
  } else {
    __syncthreads();
  }
  if (group < G) finish<G, NT, SILU>(a, inbox, row0, token0, n_token, part, split);
}

// ---- launching ----

typedef void (*gemv_fn)(CUtensorMap, CUtensorMap, ti_gemv_out, int, int, bool);

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
  // A cluster of four at a block an SM leaves SMs of some GPCs empty: two must fit.
  t.ring_kb = t.groups == 2 ? 96 : t.split < 4 && bands * t.split <= d->n_sm ? 128 : 80;
  return t;
}

ti_status ti_cuda_gemv_bf16(ti_dev *d, const ti_gemv_bf16_args *a) {
  assert(ti_gemv_bf16_takes(a));
  if (a->m == 0) return TI_OK;
  // Under dependent launch the direct kernel's registers keep its successor's blocks out: a step of TinyLlama's shape took 1,019 us with it, 980 without.
  if (!a->tile && !d->deterministic && !d->pdl && a->m <= TI_GEMV_BF16_DIRECT_ROWS && !a->silu_mul && a->n * a->k * 2 <= DIRECT_BYTES) {
    return ti_cuda_gemv_bf16_direct(d, a);
  }
  const ti_gemv_bf16_tile t = a->tile ? *a->tile : ti_gemv_bf16_pick(d, a->n, a->k, a->silu_mul);
  assert((t.groups == 1 || t.groups == 2) && t.split >= 1 && t.split <= 8 && t.ring_kb >= 0 && t.ring_kb <= 192);
  assert(!a->silu_mul || t.groups == 2);
  const int64_t ldx = a->ldx ? a->ldx : a->k;
  const int nt = a->m <= 8 ? 8 : a->m <= 16 ? 16 : a->m <= 32 ? 32 : 64, rows = ROWS * t.groups;
  const int stage = (rows + nt) * BK * 2, inbox = nt * (rows + 4 * t.split) * 4, room = SMEM - inbox;
  const int fit = ((t.ring_kb << 10) < room ? t.ring_kb << 10 : room) / stage, stages = fit < 2 ? 2 : fit > MAX_STAGES ? MAX_STAGES : fit;

  CUtensorMap wmap, xmap;
  const int64_t wdim[2] = {a->k, a->n}, xdim[2] = {a->k, a->m};
  const int wbox[2] = {BK, rows}, xbox[2] = {BK, nt};
  if (ti_tensor_map_2d(&wmap, TI_TMA_BF16, a->w, wdim, &a->k, wbox, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_2d(&xmap, TI_TMA_BF16, a->x, xdim, &ldx, xbox, TI_TMA_128B) != TI_OK) {
    return ti_cuda_result(d, "gemv_bf16", cudaErrorInvalidValue);
  }
  const ti_gemv_out o = ti_gemv_out_of(a);
  const gemv_fn fn = a->silu_mul ? pick_tokens<2, true>(nt) : t.groups == 2 ? pick_tokens<2, false>(nt) : pick_tokens<1, false>(nt);
  const size_t smem = (size_t)(stages * stage + inbox);
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
  e = cudaLaunchKernelEx(&c, fn, wmap, xmap, o, (int)ti_ceil_div(a->k, BK), stages, d->pdl);
  return e == cudaSuccess ? TI_OK : ti_cuda_result(d, "gemv_bf16", e);
}
