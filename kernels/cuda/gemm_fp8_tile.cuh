// The FP8 GEMM of large tiles: out[m, n] bf16 = A e4m3 [m, k] (a scale a row and 128 of K) x W e4m3 [n, k]^T (a scale a 128x128 block). One kernel
// template for the dense product (gemm_fp8.cu) and for rows sorted by expert (gemm_fp8_grouped.cu).
//
//   block: 3 warpgroups, persistent                       tile: BM = 128 MT rows x BN columns
//                                                             .-- BN --.
//     producer (1 thread) --TMA--> ring of STAGES:        WG 0 | MT x 64 rows
//        A [BM, 128]  half of it from each block of        WG 1 | MT x 64 rows
//                     the pair, multicast to both
//        W [BN, 128]                                       pair of blocks (a cluster): the same rows, neighbouring columns
//        scales of A [BM]
//     WG 0, WG 1: a stage at a time, for each of its MT bands of 64 rows
//        acc = 4 wgmma m64 BN k32;  wait;  sum += acc * (scale of the row * scale of the 128x128 block)
//        while one warpgroup promotes, the other one's products keep the tensor cores busy
//     end of a tile: bf16 into boxes of shared memory, a warp its own, and out by TMA; the producer is already loading the next tile
//
// K beyond the end reads as zeros (TMA), so that a partial last block counts what there is; rows beyond the end are not written. The order of every
// sum is K's, whatever m and the tile are (but for KS > 1, where the blocks of a cluster share K).
//
// What bounds it (H200, m 4096, 256 x 128 tiles): power. lab_gemm_fp8's long run has (4096, 7168) at 1,356 TFLOP/s and (7168, 16384) at 1,433, 1.06
// and 1.09 of cuBLASLt with the same scales; a chip less warm gave 1,410 and 1,477, the tensor cores busy for 84% of the cycles at 1.59 GHz and 88%
// at 1.54 GHz (by clocks in the kernel; it idles at 1.98). A block of K takes 1,124 cycles where its products alone take 1,024: without the promotion
// it is 1,043, without TMA's loads 1,126. So the promotion does not hide completely, and neither way around it helped: the next product begun before
// this one is promoted was 4 to 8% slower (128 x 128 tiles), warpgroups that take turns by barriers 4%. A tile's end costs 2,450 cycles, a launch
// 2,300 to its first product. A in registers (RS) for two products of 128 columns was 9 to 20% slower than A in shared memory; sharing A within a
// pair is worth 1 to 2%. The next 10% would need fewer joules a product, or the promotion in fewer register reads.
#ifndef TI_KERNELS_CUDA_GEMM_FP8_TILE_CUH
#define TI_KERNELS_CUDA_GEMM_FP8_TILE_CUH
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_map.h"

// What every block needs besides the tensor maps. Rows: one block of m rows, or n_expert blocks [offset[e], offset[e] + count[e]), 128-row aligned.
typedef struct fp8_problem {
  const float *w_scale;       // [n_expert][ceil(n / 128), scale_ld]
  int64_t scale_ld, scale_e;  // elements from one row of it to the next, from one expert to the next
  const int32_t *count, *offset;
  int m, n, k, n_expert;
  int load_rows;  // of a tile: fewer than its BM where m is, since TMA is slow at rows that are not there (fp8_launch sets it)
} fp8_problem;

template <int MT_, int BN_, int STAGES_, int CL_, int KS_ = 1, bool GROUPED_ = false>
struct fp8_tile {
  static constexpr int MT = MT_, BN = BN_, STAGES = STAGES_, CL = CL_, KS = KS_, OUT = BN / KS;
  static constexpr bool GROUPED = GROUPED_;
  static constexpr int BM = 128 * MT, WG_ROWS = 64 * MT;
  static constexpr int BOX = OUT % 64 == 0 ? 64 : OUT % 32 == 0 ? 32 : 16;  // columns of a box of the output: 128, 64 or 32 bytes, the swizzle
  static constexpr int BOXES = MT * OUT / BOX;                              // a warp's
  static constexpr int A_BYTES = BM * 128, W_BYTES = BN * 128, S_BYTES = BM * 4, BOX_BYTES = 16 * BOX * 2;
  static constexpr int RASTER = BM == 256 ? 8 : 16;  // tiles along m that are in flight together: their W columns come out of L2
  static constexpr bool TWO = 128 % BN != 0;         // a tile's columns may lie in two blocks of the scales
  // shared memory: A | W | boxes of the output, a warp's together | scales of A | full, empty
  static constexpr int AT_W = STAGES * A_BYTES, AT_BOX = AT_W + STAGES * W_BYTES, AT_S = AT_BOX + 8 * BOXES * BOX_BYTES,
                       AT_BAR = AT_S + STAGES * S_BYTES, BYTES = AT_BAR + STAGES * 16;
  static_assert(CL * KS <= 8, "a portable cluster");
  static_assert(KS == 1 || BM * BN * 4 <= AT_BOX, "the parts of a split tile fit over the ring");
  static_assert(BYTES <= 227 * 1024, "shared memory");
  static_assert(128 % BN == 0 || BN == 192, "a tile meets one block of the scales, or two that part at a multiple of 64 columns");
};

// Walks the tiles of this cluster: pairs of columns, RASTER row tiles at a time, expert after expert.
template <class T>
struct fp8_walk {
  int next, step, n_pair, first, expert;  // first: number of the expert's first tile
  int m0, n0, end;                        // this tile: rows [m0, end) of at most BM, columns from n0
  __device__ fp8_walk(const fp8_problem &p)
      : next(blockIdx.x / (T::CL * T::KS)),
        step(gridDim.x / (T::CL * T::KS)),
        n_pair((p.n + T::BN * T::CL - 1) / (T::BN * T::CL)),
        first(0),
        expert(0) {}
  __device__ bool go(const fp8_problem &p, int rank) {
    int rows = p.m, base = 0;
    if constexpr (T::GROUPED) {
      for (;; expert++) {
        if (expert >= p.n_expert) return false;
        rows = p.count[expert];
        const int n = (rows + T::BM - 1) / T::BM * n_pair;
        if (next < first + n) break;
        first += n;
      }
      base = p.offset[expert];
    }
    const int n_m = (rows + T::BM - 1) / T::BM, i = next - first;
    if (!T::GROUPED && i >= n_m * n_pair) return false;
    const int group = i / (T::RASTER * n_pair), at = group * T::RASTER, high = min(T::RASTER, n_m - at), j = i - at * n_pair;
    m0 = base + (at + j % high) * T::BM;
    n0 = (j / high * T::CL + rank) * T::BN;
    end = base + rows;
    next += step;
    return true;
  }
};

// A ring's place and the parity of its turn.
template <int STAGES>
struct fp8_ring {
  int at = 0;
  uint32_t parity = 0;
  __device__ void step() {
    if (++at == STAGES) at = 0, parity ^= 1;
  }
};

// This block's place in its cluster: `column` of CL tiles side by side, which share their rows; `part` of KS parts of K, blocks [first, end).
template <class T>
struct fp8_place {
  int column, part, first, end;
  __device__ fp8_place(const fp8_problem &p) {
    const int rank = T::CL * T::KS > 1 ? (int)ti_cluster_rank() : 0, n_k = (p.k + 127) / 128;
    column = rank % T::CL;
    part = rank / T::CL;
    first = n_k * part / T::KS;
    end = n_k * (part + 1) / T::KS;
  }
};

template <class T>
struct fp8_loader {
  char *smem;
  uint64_t *full, *empty;
  const CUtensorMap &a, &w, &s;
  const fp8_problem &p;
  fp8_place<T> k;
  fp8_walk<T> walk;
  bool more;
  int ahead;  // stages whose weights are on their way already

  __device__ fp8_loader(char *smem_, const CUtensorMap &a_, const CUtensorMap &w_, const CUtensorMap &s_, const fp8_problem &p_)
      : smem(smem_),
        full((uint64_t *)(smem_ + T::AT_BAR)),
        empty(full + T::STAGES),
        a(a_),
        w(w_),
        s(s_),
        p(p_),
        k(p_),
        walk(p_),
        more(false),
        ahead(0) {}

  __device__ void load_w(int at, int kb) {
    ti_mbar_expect(&full[at], p.load_rows * (128 + 4) + T::W_BYTES);
    ti_tma_load_3d(smem + T::AT_W + at * T::W_BYTES, &w, &full[at], kb * 128, walk.n0, walk.expert);
  }
  // The first tile's first weights need neither the cluster's other blocks nor the kernel before this one.
  __device__ void begin() {
    if (T::GROUPED) return;  // count and offset are the kernel before's
    more = walk.go(p, k.column);
    if (!more) return;
    for (; ahead < T::STAGES && k.first + ahead < k.end; ahead++) load_w(ahead, k.first + ahead);
  }
  __device__ void run() {
    if (T::GROUPED) more = walk.go(p, k.column);
    fp8_ring<T::STAGES> r;
    for (; more; more = walk.go(p, k.column)) {
      for (int kb = k.first; kb < k.end; kb++, r.step()) {
        if (ahead > 0) {
          ahead--;
        } else {
          ti_mbar_wait(&empty[r.at], r.parity ^ 1);
          load_w(r.at, kb);
        }
        char *to = smem + r.at * T::A_BYTES;
        if constexpr (T::CL > 1) {
          const int share = k.column * (p.load_rows / T::CL);
          ti_tma_load_2d_multicast(to + share * 128, &a, &full[r.at], ((1 << T::CL) - 1) << k.part * T::CL, kb * 128, walk.m0 + share);
        } else {
          ti_tma_load_2d(to, &a, &full[r.at], kb * 128, walk.m0);
        }
        ti_tma_load_2d(smem + T::AT_S + r.at * T::S_BYTES, &s, &full[r.at], walk.m0, kb);
      }
    }
    for (int i = 0; i < T::STAGES; i++, r.step()) ti_mbar_wait(&empty[r.at], r.parity ^ 1);  // peers arrive here: stay until they have
  }
};

// sum += acc * scale: the first SPLIT groups of 8 columns with w0, the others with w1; rows r and r + 8 with a0 and a1.
template <int BN, int SPLIT>
__device__ __forceinline__ void fp8_promote(float (&sum)[BN / 2], const float (&acc)[BN / 2], float a0, float a1, float w0, float w1) {
  const float s00 = a0 * w0, s10 = a1 * w0, s01 = a0 * w1, s11 = a1 * w1;
#pragma unroll
  for (int j = 0; j < BN / 8; j++) {
    const float s0 = j < SPLIT ? s00 : s01, s1 = j < SPLIT ? s10 : s11;
    sum[4 * j + 0] += s0 * acc[4 * j + 0];
    sum[4 * j + 1] += s0 * acc[4 * j + 1];
    sum[4 * j + 2] += s1 * acc[4 * j + 2];
    sum[4 * j + 3] += s1 * acc[4 * j + 3];
  }
}

// This warp's 16 rows of each of a tile's bands to memory: bf16 by stmatrix into boxes of [16 rows][BOX columns] (swizzled in chunks of 8), which TMA
// stores while the next tile is multiplied. No other warp is waited for.
template <class T>
__device__ __forceinline__ void fp8_store(char *boxes, const float (&sum)[T::MT][T::OUT / 2], const CUtensorMap &out, int row, int end, int n0) {
  const int lane = threadIdx.x % 32, r = lane % 16, high = lane / 16;  // stmatrix: this thread's row of the box, and which of two chunks of 8 columns
  if (lane == 0) ti_tma_store_wait_read<0>();
  __syncwarp();
#pragma unroll
  for (int i = 0; i < T::BOXES; i++) {
    const float *band = sum[i / (T::OUT / T::BOX)] + i % (T::OUT / T::BOX) * (T::BOX / 2);
#pragma unroll
    for (int c = 0; c < T::BOX / 16; c++) {
      const int chunk = 2 * c + high;
      const int swizzled = T::BOX == 64 ? chunk ^ (r & 7) : T::BOX == 32 ? chunk ^ (r >> 1 & 3) : chunk ^ (r >> 2 & 1);
      const float *d = band + c * 8;
      ti_stmatrix_x4(boxes + i * T::BOX_BYTES + r * (2 * T::BOX) + swizzled * 16, ti_pack_bf16(d[0], d[1]), ti_pack_bf16(d[2], d[3]),
                     ti_pack_bf16(d[4], d[5]), ti_pack_bf16(d[6], d[7]));
    }
  }
  ti_fence_proxy_async();
  __syncwarp();
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < T::BOXES; i++) {
      const int at = row + i / (T::OUT / T::BOX) * 64;
      if (at < end) ti_tma_store_2d(&out, boxes + i * T::BOX_BYTES, n0 + i % (T::OUT / T::BOX) * T::BOX, at);
    }
    ti_tma_store_commit();
  }
  __syncwarp();
}

// The parts of a tile whose K was split over the cluster: block b of it sums columns [b OUT, (b + 1) OUT), part 0 first. Parts travel over the ring:
// [KS parts][MT OUT / 8][256 threads] float4, once every block is done with its own stages.
template <class T>
__device__ __forceinline__ void fp8_reduce(char *smem, const float (&sum)[T::MT][T::BN / 2], float (&part)[T::MT][T::OUT / 2], int column,
                                           int which) {
  constexpr int Q = T::OUT / 8;  // float4 of a band
  const uint32_t mine = ti_smem(smem) + (which * T::MT * Q * 256 + threadIdx.x) * 16;
  ti_cluster_arrive_relaxed();
  ti_cluster_wait();
#pragma unroll
  for (int b = 0; b < T::KS; b++) {
    const uint32_t to = ti_mapa(mine, b * T::CL + column);
#pragma unroll
    for (int i = 0; i < T::MT * Q; i++) {
      const float *d = &sum[i / Q][b * (T::OUT / 2) + i % Q * 4];
      ti_store_at(to + i * 4096, d[0], d[1], d[2], d[3]);
    }
  }
  ti_cluster_sync();
  const float4 *in = (const float4 *)smem + threadIdx.x;
#pragma unroll
  for (int i = 0; i < T::MT * Q; i++) {
    float4 v = in[i * 256];
#pragma unroll
    for (int b = 1; b < T::KS; b++) {
      const float4 u = in[(b * T::MT * Q + i) * 256];
      v.x += u.x, v.y += u.y, v.z += u.z, v.w += u.w;
    }
    float *d = &part[i / Q][i % Q * 4];
    d[0] = v.x, d[1] = v.y, d[2] = v.z, d[3] = v.w;
  }
}

template <int V>
struct fp8_const {
  static constexpr int value = V;
};

template <class T>
__device__ __forceinline__ void fp8_consume(char *smem, const CUtensorMap &out, const fp8_problem &p, int wg) {
  uint64_t *full = (uint64_t *)(smem + T::AT_BAR), *empty = full + T::STAGES;
  const int lane = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0), warp_row = wg * T::WG_ROWS + warp % 4 * 16;
  const int last_k = (p.k - 1) / 128, last_n = (p.n - 1) / 128;
  const fp8_place<T> k(p);
  const uint64_t a_desc = ti_wgmma_desc(smem + wg * T::WG_ROWS * 128), w_desc = ti_wgmma_desc(smem + T::AT_W);
  const auto release = [&](int at) {
    if constexpr (T::CL > 1) {
      if (lane < T::CL) ti_mbar_arrive_at(&empty[at], k.part * T::CL + lane);
    } else {
      if (lane == 0) ti_mbar_arrive(&empty[at]);
    }
  };
  // The scales of W, 32 blocks of K at a time, a lane each; the next 32 (or the next tile's first) are on their way.
  const float *ws0 = p.w_scale, *ws1 = p.w_scale;
  float next0 = 0, next1 = 0;
  const auto scales_of = [&](const fp8_walk<T> &t) {
    const float *ws = p.w_scale + t.expert * p.scale_e;
    ws0 = ws + min(t.n0 / 128, last_n) * p.scale_ld;
    ws1 = ws + min(t.n0 / 128 + 1, last_n) * p.scale_ld;
    next0 = __ldg(ws0 + min(k.first + lane, last_k));
    if (T::TWO) next1 = __ldg(ws1 + min(k.first + lane, last_k));
  };
  fp8_ring<T::STAGES> r;
  fp8_walk<T> walk(p);
  bool more = walk.go(p, k.column);
  if (more) scales_of(walk);
  while (more) {
    const int m0 = walk.m0, n0 = walk.n0, end = walk.end;
    if (T::KS == 1 && m0 + wg * T::WG_ROWS >= end) {  // nothing of this warpgroup's rows is there: let the stages pass
      for (int kb = k.first; kb < k.end; kb++, r.step()) {
        ti_mbar_wait(&full[r.at], r.parity);
        release(r.at);
      }
      more = walk.go(p, k.column);
      if (more) scales_of(walk);
      continue;
    }
    float w0 = 0, w1 = 0, sum[T::MT][T::BN / 2];
#pragma unroll
    for (int i = 0; i < T::MT; i++) {
#pragma unroll
      for (int j = 0; j < T::BN / 2; j++) sum[i][j] = 0;
    }
    // The scales of the columns for block kb of K, by one lane's word.
    const auto column_scales = [&](int kb, float &s0, float &s1) {
      const int i32 = (kb - k.first) % 32;
      if (i32 == 0) {
        const int at = min(kb + 32 + lane, last_k);
        w0 = next0, w1 = next1;
        next0 = __ldg(ws0 + at);
        if (T::TWO) next1 = __ldg(ws1 + at);
      }
      s0 = __shfl_sync(~0u, w0, i32);
      if (T::TWO) s1 = __shfl_sync(~0u, w1, i32);
    };
    const auto start = [&](float(&acc)[T::BN / 2], int at, int band) {
      const uint64_t a = a_desc + at * (T::A_BYTES / 16) + band * (64 * 128 / 16), w = w_desc + at * (T::W_BYTES / 16);
      ti_wgmma_fence();
#pragma unroll
      for (int j = 0; j < 4; j++) ti_wgmma_e4m3<T::BN>(acc, a + 2 * j, w + 2 * j, j > 0);
      ti_wgmma_commit();
    };
    const auto row_scales = [&](int at) { return (const float *)(smem + T::AT_S + at * T::S_BYTES) + warp_row + lane / 4; };
    const auto multiply = [&](auto split) {
      float acc[T::BN / 2], s0, s1 = 0;
      for (int kb = k.first; kb < k.end; kb++, r.step()) {
        column_scales(kb, s0, s1);
        const float *sa = row_scales(r.at);
        ti_mbar_wait(&full[r.at], r.parity);
#pragma unroll
        for (int i = 0; i < T::MT; i++) {
          const float a0 = sa[i * 64], a1 = sa[i * 64 + 8];
          start(acc, r.at, i);
          ti_wgmma_wait<0>();
          ti_wgmma_hold(acc);
          if (i == T::MT - 1) release(r.at);
          fp8_promote<T::BN, decltype(split)::value>(sum[i], acc, a0, a1, s0, s1);
        }
      }
    };
    if (T::TWO && n0 % 128 == 64) {
      multiply(fp8_const<8>());
    } else {
      multiply(fp8_const<16>());
    }
    more = walk.go(p, k.column);
    if (more) scales_of(walk);
    char *boxes = smem + T::AT_BOX + warp * T::BOXES * T::BOX_BYTES;
    if constexpr (T::KS > 1) {
      float part[T::MT][T::OUT / 2];
      fp8_reduce<T>(smem, sum, part, k.column, k.part);
      fp8_store<T>(boxes, part, out, m0 + warp_row, end, n0 + k.part * T::OUT);
    } else {
      fp8_store<T>(boxes, sum, out, m0 + warp_row, end, n0);
    }
  }
  if (lane == 0) ti_tma_store_wait<0>();
}

template <class T>
__global__ void __launch_bounds__(384, 1)
    fp8_tile_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap s,
                    const __grid_constant__ CUtensorMap out, const __grid_constant__ fp8_problem p) {
  extern __shared__ __align__(1024) char smem[];
  const int wg = __shfl_sync(~0u, threadIdx.x / 128, 0);
  fp8_loader<T> loader(smem, a, w, s, p);
  if (threadIdx.x == 256) {
    for (int i = 0; i < T::STAGES; i++) {
      ti_mbar_init(&loader.full[i], 1);
      ti_mbar_init(&loader.empty[i], T::CL * 8);  // the math warps of the blocks that share rows
    }
    ti_fence_mbar_init();
    ti_fence_proxy_async();
    loader.begin();
  }
  __syncwarp();
  if constexpr (T::CL * T::KS > 1) {
    ti_cluster_arrive_relaxed();
    ti_cluster_wait();
  } else {
    __syncthreads();
  }
  ti_griddep_launch();
  if (T::GROUPED) ti_griddep_wait();  // count and offset
  if (wg == 2) {
    ti_reg_dealloc<40>();
    if (threadIdx.x == 256) {
      ti_griddep_wait();
      loader.run();
    }
    if constexpr (T::KS > 1) {  // the two barriers of fp8_reduce
      __syncwarp();
      ti_cluster_arrive_relaxed();
      ti_cluster_wait();
      ti_cluster_sync();
    }
  } else {
    ti_reg_alloc<232>();
    fp8_consume<T>(smem, out, p, wg);
  }
}

// Host: the tensor maps and the launch, on one block an SM or fewer. rows: of a, out and a_scale [ceil(k / 128), rows rounded up to 4].
template <class T>
ti_status fp8_launch(ti_dev *d, const char *op, const fp8_problem &problem, void *out, int64_t ldo, const void *q, const float *scale, const void *w,
                     int rows) {
  CUtensorMap map_a, map_w, map_s, map_out;
  fp8_problem p = problem;
  p.load_rows = rows < T::BM ? (rows + 8 * T::CL - 1) / (8 * T::CL) * (8 * T::CL) : T::BM;
  const int n_k = (p.k + 127) / 128, n_expert = T::GROUPED ? p.n_expert : 1;
  const int64_t a_dim[] = {p.k, rows}, w_dim[] = {p.k, p.n, n_expert}, s_dim[] = {rows, n_k}, out_dim[] = {p.n, rows};
  const int64_t a_ld[] = {p.k}, w_ld[] = {p.k, (int64_t)p.n * p.k}, s_ld[] = {(rows + 3) / 4 * 4}, out_ld[] = {ldo};
  const int a_box[] = {128, p.load_rows / T::CL}, w_box[] = {128, T::BN, 1}, s_box[] = {p.load_rows, 1}, out_box[] = {T::BOX, 16};
  const ti_tma_swizzle swizzle = T::BOX == 64 ? TI_TMA_128B : T::BOX == 32 ? TI_TMA_64B : TI_TMA_32B;
  if (ti_tensor_map_2d(&map_a, TI_TMA_U8, q, a_dim, a_ld, a_box, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_3d(&map_w, TI_TMA_U8, w, w_dim, w_ld, w_box, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_2d(&map_s, TI_TMA_F32, scale, s_dim, s_ld, s_box, TI_TMA_PLAIN) != TI_OK ||
      ti_tensor_map_2d(&map_out, TI_TMA_BF16, out, out_dim, out_ld, out_box, swizzle) != TI_OK) {
    return TI_ERR_ARG;
  }
  static uint64_t ready;  // devices on which the kernel may use its shared memory
  if (!(ready >> d->index & 1)) {
    if (cudaFuncSetAttribute(fp8_tile_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::BYTES) != cudaSuccess) return ti_cuda_check(d, op);
    ready |= 1ull << d->index;
  }
  constexpr int CLUSTER = T::CL * T::KS;
  const int64_t clusters = (int64_t)((p.m + T::BM - 1) / T::BM) * ((p.n + T::BN * T::CL - 1) / (T::BN * T::CL));
  const int64_t most = T::KS > 1 ? INT32_MAX / CLUSTER : d->n_sm / CLUSTER;  // a split tile's cluster ends with it
  cudaLaunchAttribute attr[2];
  attr[0].id = cudaLaunchAttributeClusterDimension;
  attr[0].val.clusterDim.x = CLUSTER, attr[0].val.clusterDim.y = 1, attr[0].val.clusterDim.z = 1;
  attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)((T::GROUPED || clusters > most ? most : clusters) * CLUSTER));
  c.blockDim = dim3(384);
  c.dynamicSmemBytes = T::BYTES;
  c.stream = d->stream;
  c.attrs = attr;
  c.numAttrs = d->pdl ? 2 : 1;
  cudaLaunchKernelEx(&c, fp8_tile_kernel<T>, map_a, map_w, map_s, map_out, p);
  return ti_cuda_check(d, op);
}
#endif
