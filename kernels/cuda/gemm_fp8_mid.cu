// FP8 GEMM of up to 128 rows (gemm.c sends 65 and more here, gemm_fp8_small.cu takes the others): W is read once, and all else hides behind it.
//
//   grid (split, n / NT): the `split` blocks of a cluster share a tile of out and cut K
//
//                K ->                       a block: 8 math warps, one that loads
//            +---------+---------+            one thread  --TMA--> ring, all of shared memory:  W [NT][128]   wgmma's B
//   NT rows  | block 0 | block 1 |                                                              x [128][128]  wgmma's A, 64 rows a warpgroup
//   of W     +---------+---------+                                                              128 scales of x
//              |  sums   |                    warpgroups 0, 1, a stage at a time:
//              v  fp32   v                      the next stage's 4 wgmma begin | wait for this one's | sum += acc * (scale of the row * of the block)
//            columns     columns
//            0..NT/2-1   NT/2..               split 2: a block sends the columns that it does not own from registers (st.async), adds what comes, and
//                                             writes bf16, 16 bytes a lane. More: groups of 8 columns in turn, all parts by way of shared memory.
//                                             Whole K: no exchange, and where the tiles are more than the SMs a block takes several of them.
//
// Bits: the order of sums depends on `split` alone; whole K is gemm_fp8_tile.cuh's order.
// Latency: one thread begins the loads, with nothing before them but the barriers that they need; with d->pdl W's first ring goes out before the op
// before has ended. The scales of x are plain copies: a tensor map less to be fetched before the first product.
//
// H200, lab_gemm_fp8, m 128: us (x cuBLASLt with the same scales; of the copy), and what gemm_fp8_tile.cuh took in the same session:
//      4096,  7168   14.6 (1.35x, 51%)  16.1        28672,  4096   35.9 (0.99x, 83%)  37.9        2112,  7168   12.3 (1.50x, 32%)  14.1
//      6144,  4096   13.7 (1.24x, 47%)  15.4         4096,  4096   11.5 (1.45x, 38%)  12.3        2048,  5632   11.5 (1.49x, 26%)  12.5
//      4096, 14336   21.7 (1.10x, 67%)  24.7        11264,  2048   12.8 (0.96x, 48%)  13.1        2560,  2048    8.2 (1.37x, 18%)   9.1
//      7168, 16384   36.2 (1.09x, 79%)  38.3          576,  7168    9.2 (1.88x, 13%)  10.3        2048,  2048    8.5 (1.30x, 14%)   9.0
// What bounds it, by clocks in the kernel at 1.7 GHz, before the last two changes ((4096, 7168), 64 columns, split 2): of 11.7 us in the blocks 3.8
// passed before the first product (2.5 where everything lies in L2 and x is not waited for: barriers, tensor maps, cold code), 28 stages took 414
// cycles each (354 without their loads, 256 in the tensor cores alone), the end 1,900: 350 to send, 850 until the other block's sums were there, 700
// to write. Loads without products took 9.0 us, as a plain read does: the products hide, the ends do not.
// Tried and left: x by multicast to two or four tiles (nothing to 4 % slower); larger tiles with K cut in three or four (the exchange: st.async moves
// 23 bytes a cycle and SM, 18 us where 64 columns take 15; clusters of 4 fit 30 times, of 3 39 times); the sums' exchange by bulk copies (0.1 us
// either way); two accumulators less (630 to 720 cycles a stage of 72 columns); scales by shuffles and selects a group of columns (the same); W into
// L2 ahead by bulk prefetch (0.1 us while the first load was late, nothing since); tiles of 192 to 256 columns in two products (slower than several
// of 96 to 128). The next 10 %: the start. W's first stage would have to be asked for without a tensor map, and the code to be there; and 132 SMs in
// place of 128.
#include "kernels/cuda/gemm_fp8_mid.h"

#include <assert.h>
#include <cuda_runtime.h>

#include "kernels/cuda/fp8_swap.cuh"
#include "kernels/cuda/tensor_map.h"

#define MID_K 128      // a stage's K: a swizzled row, and the scales' block
#define MID_ROWS 128   // of out
#define MID_MATH 256   // threads that multiply: two warpgroups, 64 rows each
#define MID_STAGES 16  // at most
#define MID_MOST_K 262144

// What a launch tells its blocks.
typedef struct mid_params {
  void *out;
  const float *x_scale, *w_scale;  // [n_kb, x_ld], [ceil(n / 128), w_ld]
  int64_t ldo, w_ld;
  int m, n, x_ld;
  int load_rows;       // of x that a stage holds: m, or a few more
  int split;           // the cluster's size
  int n_kb, n_longer;  // stages along K of a block; the first n_longer blocks of a cluster have one more
  int n_tile, n_more;  // tiles of a block, gridDim.y apart; the first n_more have one more
  int per, inv;        // groups of 8 columns that a block of a split tile sums up, at most; 65536 / split, rounded up
  int stages;
  int xs, ws, bars, red;  // byte offsets behind the ring's stages: scales of x and of W, barriers, partial sums of the cluster's blocks
  bool early;             // W before the ops before this one have ended
} mid_params;

// As ti_mbar_wait, by address.
TI_DEV void mid_wait(uint32_t bar, uint32_t parity) {
  for (uint32_t left = TI_MBAR_TRIES; !ti_swap_try(bar, parity); left--) {
    if (left == 0) asm volatile("st.shared.u32 [%0], %0;" ::"r"(0xfffffff0) : "memory");
  }
}

template <int V>
struct mid_const {
  static constexpr int value = V;
};

template <int NT_>
struct mid_tile {
  static constexpr int NT = NT_;
  static constexpr bool HEAVY = NT > 88;  // needs more registers than a launch gives evenly
  static constexpr int THREADS = MID_MATH + (HEAVY ? 128 : 32);
  static constexpr int W_BYTES = NT * MID_K, X_BYTES = MID_ROWS * MID_K, S_BYTES = MID_ROWS * 4, STAGE = W_BYTES + X_BYTES;
  static constexpr int RUN = NT % 128 == 0 ? 128 : NT % 64 == 0 ? 64 : NT % 32 == 0 ? 32 : NT % 16 == 0 ? 16 : 8;  // columns that never part
  static constexpr int BLOCKS = (NT + 128 - RUN + 127) / 128;  // of the weight's scales that a tile may meet
  static constexpr int GROUPS = NT / 8;                        // four sums of a thread each
  static constexpr int HALF = (GROUPS + 1) / 2;
};

// Where a block stands.
typedef struct mid_block {
  int part;                // in the cluster
  int n0, n_step, n_tile;  // first column of the first tile, columns from one to the next
  int kb0, n_kb;
} mid_block;

// What the loading thread needs.
typedef struct mid_loader {
  const CUtensorMap *w, *x;
  uint32_t base, full;
} mid_loader;

TI_DEV void mid_load_w(const mid_loader &l, uint32_t stage, uint32_t bar, int kb, int n0) {
  ti_swap_load(stage, l.w, bar, kb * MID_K, n0, TI_L2_EVICT_FIRST);
}
// x, and its scales: a line of plain memory, which needs no tensor map.
template <class T>
TI_DEV void mid_load_x(const mid_params &p, const mid_loader &l, uint32_t stage, uint32_t bar, int at, int kb) {
  ti_swap_load(stage + T::W_BYTES, l.x, bar, kb * MID_K, 0, TI_L2_EVICT_LAST);
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                   l.base + (uint32_t)(p.xs + at * T::S_BYTES)),
               "l"(p.x_scale + (int64_t)kb * p.x_ld), "r"(p.x_ld * 4), "r"(bar), "l"(TI_L2_EVICT_LAST)
               : "memory");
}
template <class T>
TI_DEV uint32_t mid_bytes(const mid_params &p) {
  return (uint32_t)(T::W_BYTES + p.load_rows * MID_K + p.x_ld * 4);
}

// Where a loading thread stands: the tile's first column, and the stage of its K.
typedef struct mid_walk {
  int n0, kb;
} mid_walk;
TI_DEV void mid_next(mid_walk *w, const mid_block &b) {
  if (++w->kb == b.n_kb) w->kb = 0, w->n0 += b.n_step;
}

// The first ring, by one thread and before anything else in the block: W alone where another op may still write x.
template <class T>
TI_DEV void mid_load_first(const mid_params &p, const mid_block &b, const mid_loader &l) {
  const int total = b.n_kb * b.n_tile, ring = total < p.stages ? total : p.stages;
  mid_walk to = {b.n0, 0};
#pragma unroll 1
  for (int i = 0; i < ring; i++, mid_next(&to, b)) {
    const uint32_t stage = l.base + (uint32_t)(i * T::STAGE), bar = l.full + 8u * (uint32_t)i;
    ti_swap_expect(bar, mid_bytes<T>(p));
    mid_load_w(l, stage, bar, b.kb0 + to.kb, to.n0);
    if (!p.early) mid_load_x<T>(p, l, stage, bar, i, b.kb0 + to.kb);
  }
}

// The rest, by one warp.
template <class T>
TI_DEV void mid_load(const mid_params &p, const mid_block &b, const mid_loader &l) {
  const uint32_t empty = l.full + 8u * (uint32_t)p.stages;
  const int total = b.n_kb * b.n_tile;
  mid_walk to = {b.n0, 0};
  int at = 0;
  uint32_t parity = 1;
  ti_griddep_wait();
#pragma unroll 1
  for (int i = 0; i < total; i++, mid_next(&to, b)) {
    const uint32_t stage = l.base + (uint32_t)(at * T::STAGE), bar = l.full + 8u * (uint32_t)at;
    const bool later = i >= p.stages;
    if (later) mid_wait(empty + 8u * (uint32_t)at, parity);
    if ((later || p.early) && ti_elect()) {
      if (later) ti_swap_expect(bar, mid_bytes<T>(p));
      mid_load_x<T>(p, l, stage, bar, at, b.kb0 + to.kb);
      if (later) mid_load_w(l, stage, bar, b.kb0 + to.kb, to.n0);
    }
    __syncwarp();
    if (++at == p.stages) at = 0, parity ^= 1;
  }
}

// A stage's scales: of this thread's two rows times each block of W's.
template <class T>
struct mid_scales {
  float s0[T::BLOCKS], s1[T::BLOCKS];
};

// sum += acc * scale; off: the tile's first column in its first block of W's scales.
template <class T>
TI_DEV void mid_promote(float (&sum)[4 * T::GROUPS], const float (&acc)[4 * T::GROUPS], const mid_scales<T> &s, int off) {
#pragma unroll
  for (int j = 0; j < T::GROUPS; j++) {
    const int run = 8 * j / T::RUN * T::RUN;
    float s0 = s.s0[0], s1 = s.s1[0];
#pragma unroll
    for (int b = 1; b < T::BLOCKS; b++) {
      const bool past = (T::RUN == 128 ? run : off + run) >= 128 * b;
      s0 = past ? s.s0[b] : s0, s1 = past ? s.s1[b] : s1;
    }
    sum[4 * j + 0] += s0 * acc[4 * j + 0];
    sum[4 * j + 1] += s0 * acc[4 * j + 1];
    sum[4 * j + 2] += s1 * acc[4 * j + 2];
    sum[4 * j + 3] += s1 * acc[4 * j + 3];
  }
}

// A value that the compiler is to keep in a register rather than make again from the launch's parameters.
TI_DEV uint32_t mid_keep(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

TI_DEV float mid_shared(uint32_t at) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  return v;
}

// Where a math warp stands in the ring.
typedef struct mid_pos {
  uint32_t stage, bar, xs;  // addresses
  uint32_t parity;
} mid_pos;

// The stages of the block's tile `tile`, which begin at `at`: sum = x W^T.
template <class T>
TI_DEV void mid_multiply(uint32_t base, const mid_params &p, const mid_block &b, int tile, mid_pos &at, int warp_row, int wg,
                         float (&sum)[4 * T::GROUPS]) {
  const int lane = (int)threadIdx.x & 31, off = (b.n0 + tile * b.n_step) % 128, n_kb = b.n_kb, stages = p.stages;
  const uint32_t full = mid_keep(base + (uint32_t)p.bars), xs0 = base + (uint32_t)(p.xs + (warp_row + lane / 4) * 4);
  const uint32_t to_empty = mid_keep(8u * (uint32_t)stages), end = full + to_empty, x_at = T::W_BYTES + (uint32_t)(wg * 64 * MID_K);
  uint32_t ws = mid_keep(base + (uint32_t)(p.ws + tile * n_kb * (4 * T::BLOCKS)));
  const int n_tell = lane == 0 ? n_kb * (b.n_tile - tile) - stages : 0;  // stages that will be loaded again
#pragma unroll
  for (int i = 0; i < 4 * T::GROUPS; i++) sum[i] = 0;
  const auto next = [&](mid_pos &q) {
    q.stage += T::STAGE, q.bar += 8, q.xs += T::S_BYTES;
    if (q.bar == end) q.stage = base, q.bar = full, q.xs = xs0, q.parity ^= 1;
  };
  const auto issue = [&](float(&acc)[4 * T::GROUPS], const mid_pos &q) {
    mid_wait(q.bar, q.parity);
    ti_wgmma_hold(acc);
    ti_wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) ti_wgmma_e4m3<T::NT>(acc, ti_swap_desc(q.stage + x_at, k), ti_swap_desc(q.stage, k), k > 0);
    ti_wgmma_commit();
  };
  const auto scales = [&](const mid_pos &q) {  // once a stage, in their order
    const float a0 = mid_shared(q.xs), a1 = mid_shared(q.xs + 32);
    mid_scales<T> v;
#pragma unroll
    for (int i = 0; i < T::BLOCKS; i++) {
      const float w = mid_shared(ws + 4 * i);
      v.s0[i] = a0 * w, v.s1[i] = a1 * w;
    }
    ws += 4 * T::BLOCKS;
    return v;
  };
  const auto promote = [&](auto left, float(&acc)[4 * T::GROUPS], const mid_pos &q, const mid_scales<T> &v, int kb) {
    ti_wgmma_wait<decltype(left)::value>();
    ti_wgmma_hold(acc);
    if (kb < n_tell) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(q.bar + to_empty) : "memory");
    mid_promote<T>(sum, acc, v, off);
  };
  const mid_const<0> none = {};
  const mid_const<1> one = {};
  float a[4 * T::GROUPS], c[4 * T::GROUPS];
  mid_pos q = at;  // the stage whose products are open
  int kb = 0;      // its number
  issue(a, at);
  const auto step = [&](float(&open)[4 * T::GROUPS], float(&acc)[4 * T::GROUPS]) {  // the next stage's products begin, then this one's are added
    const mid_scales<T> v = scales(q);
    next(at);
    issue(open, at);
    promote(one, acc, q, v, kb++);
    q = at;
  };
#pragma unroll 1
  while (kb + 2 < n_kb) {
    step(c, a);
    step(a, c);
  }
  if (kb + 1 < n_kb) {
    step(c, a);
    promote(none, c, q, scales(q), kb);
  } else {
    promote(none, a, q, scales(q), kb);
  }
  next(at);
}

// A warp's 16 rows of N groups of 8 columns to out, as bf16 and 16 bytes a lane, through pieces of 512 bytes of its own, `stride` apart, that hold
// two groups of each row.
template <int N>
TI_DEV void mid_write(uint8_t *piece, int stride, const float (&v)[4 * N], const mid_params &p, int row0, int col0) {
  const int lane = (int)threadIdx.x & 31;
  uint8_t *to = piece + lane % 16 * 32 + lane / 16 * 16;
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const uint32_t a = ti_pack_bf16(v[4 * i], v[4 * i + 1]), b = ti_pack_bf16(v[4 * i + 2], v[4 * i + 3]);
    if (i + 1 < N) {
      ti_stmatrix_x4(to + i / 2 * stride, a, b, ti_pack_bf16(v[4 * i + 4], v[4 * i + 5]), ti_pack_bf16(v[4 * i + 6], v[4 * i + 7]));
    } else {
      ti_stmatrix_x2(to + i / 2 * stride, a, b);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < (N + 1) / 2; i++) {
    const int c = i * 32 + lane, row = c / N, group = c % N;
    if (c < 16 * N && row0 + row < p.m && col0 + 8 * group < p.n) {
      *(uint4 *)((uint16_t *)p.out + (row0 + row) * p.ldo + col0 + 8 * group) =
          *(const uint4 *)(piece + group / 2 * stride + row * 32 + group % 2 * 16);
    }
  }
  __syncwarp();
}

// Rows r and r + 8 of a group of 8 columns to out.
TI_DEV void mid_put(const mid_params &p, int row, int col, float4 v) {
  uint16_t *o = (uint16_t *)p.out + row * p.ldo + col + (threadIdx.x & 3) * 2;
  if (col < p.n && row < p.m) *(uint32_t *)o = ti_pack_bf16(v.x, v.y);
  if (col < p.n && row + 8 < p.m) *(uint32_t *)(o + 8 * p.ldo) = ti_pack_bf16(v.z, v.w);
}

TI_DEV void mid_send(uint32_t at, uint32_t done, const float *d) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(at), "f"(d[0]), "f"(d[1]),
               "f"(d[2]), "f"(d[3]), "r"(done)
               : "memory");
}

// K was cut in two: this block sums up groups [OWN0, OWN1) and sends [SENT0, SENT1). A thread gets what the same thread of the other block holds:
// red[group][thread] float4.
template <class T, int OWN0, int OWN1, int SENT0, int SENT1>
TI_DEV void mid_exchange(uint8_t *smem, uint32_t base, const mid_params &p, const mid_block &b, const float (&sum)[4 * T::GROUPS], int warp_row) {
  constexpr int N = OWN1 - OWN0;
  const uint32_t red = base + (uint32_t)p.red + threadIdx.x * 16, done = base + (uint32_t)(p.bars + 16 * p.stages);
  const uint32_t to = ti_mapa(red, (uint32_t)(b.part ^ 1)), to_done = ti_mapa(done, (uint32_t)(b.part ^ 1));
#pragma unroll
  for (int g = SENT0; g < SENT1; g++) mid_send(to + (uint32_t)((g - SENT0) * (MID_MATH * 16)), to_done, &sum[4 * g]);
  mid_wait(done, 0);
  float v[4 * N];
#pragma unroll
  for (int g = 0; g < N; g++) {
    float *u = v + 4 * g;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(u[0]), "=f"(u[1]), "=f"(u[2]), "=f"(u[3])
                 : "r"(red + (uint32_t)(g * (MID_MATH * 16)))
                 : "memory");
  }
#pragma unroll
  for (int i = 0; i < 4 * N; i++) v[i] += sum[4 * OWN0 + i];
  __syncwarp();  // the warp's part of red is read
  mid_write<N>(smem + p.red + threadIdx.x / 32 * 512, MID_MATH * 16, v, p, warp_row, b.n0 + 8 * OWN0);
}

// In more parts: group g is summed up by block g % split, the parts in the order of K, its own among them: red[part][g / split][thread] float4.
template <class T>
TI_DEV void mid_reduce(uint8_t *smem, uint32_t base, const mid_params &p, const mid_block &b, const float (&sum)[4 * T::GROUPS], int row) {
  const uint32_t red = base + (uint32_t)p.red + threadIdx.x * 16, done = base + (uint32_t)(p.bars + 16 * p.stages);
#pragma unroll
  for (int g = 0; g < T::GROUPS; g++) {
    const int i = (g * p.inv) >> 16, owner = g - i * p.split;
    mid_send(ti_mapa(red + (uint32_t)(b.part * p.per + i) * (MID_MATH * 16), (uint32_t)owner), ti_mapa(done, (uint32_t)owner), &sum[4 * g]);
  }
  mid_wait(done, 0);
  const float4 *in = (const float4 *)(smem + p.red) + threadIdx.x;
#pragma unroll 2
  for (int g = b.part; g < T::GROUPS; g += p.split, in += MID_MATH) {
    const float4 *from = in;
    float4 v = *from;
#pragma unroll 4
    for (int s = 1; s < p.split; s++) {
      from += p.per * MID_MATH;
      const float4 u = *from;
      v.x += u.x, v.y += u.y, v.z += u.z, v.w += u.w;
    }
    mid_put(p, row, b.n0 + g * 8, v);
  }
}

template <class T>
TI_DEV int mid_own(const mid_params &p, int part) {
  if (p.split == 2) return part == 0 ? T::HALF : T::GROUPS - T::HALF;
  return p.split * ((T::GROUPS - part + p.split - 1) / p.split);
}

template <class T>
TI_DEV void mid_math(uint8_t *smem, uint32_t base, const mid_params &p, const mid_block &b) {
  const int lane = (int)threadIdx.x & 31, warp = (int)ti_swap_uniform(threadIdx.x / 32), wg = warp / 4;
  const int warp_row = wg * 64 + warp % 4 * 16, last_n = (p.n - 1) / 128;
  float *ws = (float *)(smem + p.ws);
  for (int i = (int)threadIdx.x; i < b.n_tile * b.n_kb * T::BLOCKS; i += MID_MATH) {
    const int stage = i / T::BLOCKS, tile = b.n_tile > 1 ? stage / b.n_kb : 0, block = (b.n0 + tile * b.n_step) / 128 + i % T::BLOCKS;
    ws[i] = __ldg(p.w_scale + (block < last_n ? block : last_n) * p.w_ld + b.kb0 + stage - tile * b.n_kb);
  }
  float sum[4 * T::GROUPS];
  mid_pos at = {base, base + (uint32_t)p.bars, base + (uint32_t)(p.xs + (warp_row + lane / 4) * 4), 0};
  if (p.split > 1) ti_cluster_wait();
  ti_bar_sync(1, MID_MATH);
  if (p.split == 1) {  // whole K: tile by tile, while the next one's stages arrive; the last one's staging may be the ring, which is then empty
#pragma unroll 1
    for (int tile = 0; tile < b.n_tile; tile++) {
      mid_multiply<T>(base, p, b, tile, at, warp_row, wg, sum);
      ti_griddep_wait();
      if (p.red == 0) ti_bar_sync(1, MID_MATH);
      mid_write<T::GROUPS>(smem + p.red + warp * (T::HALF * 512), 512, sum, p, warp_row, b.n0 + tile * b.n_step);
    }
    return;
  }
  mid_multiply<T>(base, p, b, 0, at, warp_row, wg, sum);
  ti_griddep_wait();
  if (p.split > 2) {
    mid_reduce<T>(smem, base, p, b, sum, warp_row + lane / 4);
  } else if (b.part == 0) {
    mid_exchange<T, 0, T::HALF, T::HALF, T::GROUPS>(smem, base, p, b, sum, warp_row);
  } else {
    mid_exchange<T, T::HALF, T::GROUPS, 0, T::HALF>(smem, base, p, b, sum, warp_row);
  }
}

template <class T>
static __global__ void __launch_bounds__(T::THREADS, 1)
    fp8_mid(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x, const __grid_constant__ mid_params p) {
  extern __shared__ __align__(1024) uint8_t smem[];
  const uint32_t base = ti_swap_uniform(ti_smem(smem));
  const int warp = (int)ti_swap_uniform(threadIdx.x / 32);
  mid_block b;
  b.part = (int)blockIdx.x;  // clusters lie along x
  b.n0 = (int)blockIdx.y * T::NT, b.n_step = (int)gridDim.y * T::NT, b.n_tile = p.n_tile + ((int)blockIdx.y < p.n_more);
  const bool longer = b.part < p.n_longer;
  b.kb0 = b.part * p.n_kb + (longer ? b.part : p.n_longer), b.n_kb = p.n_kb + longer;
  const mid_loader l = {&w, &x, base, base + (uint32_t)p.bars};
  uint64_t *full = (uint64_t *)(smem + p.bars), *empty = full + p.stages, *done = empty + p.stages;
  if (threadIdx.x == MID_MATH) {  // one thread, and nothing before its first load that can wait
    ti_tma_prefetch_map(&x);
#pragma unroll 1
    for (int i = 0; i < p.stages; i++) ti_mbar_init(full + i, 1);
    ti_fence_mbar_init();
    mid_load_first<T>(p, b, l);
  } else if (threadIdx.x == 0) {
#pragma unroll 1
    for (int i = 0; i < p.stages; i++) ti_mbar_init(empty + i, MID_MATH / 32);
    ti_mbar_init(done, 1);
    if (p.split > 1) ti_mbar_expect(done, (uint32_t)(mid_own<T>(p, b.part) * MID_MATH * 16));
    ti_fence_mbar_init();
  }
  __syncwarp();
  if (p.split > 1) ti_cluster_arrive_relaxed();
  __syncthreads();
  ti_griddep_launch();
  if (warp >= MID_MATH / 32) {
    if (T::HEAVY) ti_reg_dealloc<40>();
    if (warp == MID_MATH / 32) mid_load<T>(p, b, l);
    __syncwarp();
    if (p.split > 1) ti_cluster_wait();
  } else {
    if (T::HEAVY) ti_reg_alloc<232>();
    mid_math<T>(smem, base, p, b);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------------------------------------

#define SMEM_BLOCK 232448  // what one block may have

typedef struct mid_kernel {
  void (*run)(CUtensorMap, CUtensorMap, mid_params);
  int threads, blocks;
} mid_kernel;

#define MID_LIST(X) X(64) X(80) X(96) X(112) X(128)

static mid_kernel kernel_for(int columns) {
#define MID_CASE(nt) \
  if (columns == nt) return {fp8_mid<mid_tile<nt>>, mid_tile<nt>::THREADS, mid_tile<nt>::BLOCKS};
  MID_LIST(MID_CASE)
  return {NULL, 0, 0};
}

extern "C" bool ti_cuda_fp8_mid_takes(const ti_fp8_mid_plan *p) { return kernel_for(p->columns).run != NULL && p->split >= 1 && p->split <= 8; }

// Measured on an H200 (lab_gemm_fp8): a stage of K while all SMs work, and a launch's rest, microseconds.
static const struct {
  int columns;
  float stage_us, rest_us;
} costs[] = {{64, 0.268f, 6.0f}, {80, 0.29f, 6.4f}, {96, 0.31f, 6.6f}, {112, 0.36f, 6.9f}, {128, 0.38f, 7.2f}};
// What a cut of K adds at 64 columns, and how many clusters run at once on 132 SMs (a cluster's SMs share a GPC).
static const float split_us[] = {0, 0, 1.0f, 1.3f, 1.6f, 1.6f, 1.6f, 1.6f, 1.6f};
static const int fit[] = {0, 132, 66, 39, 30, 22, 17, 15, 15};
#define MID_RATE 4.0e6f    // bytes of W a microsecond
#define MID_LEAST 4000000  // weights below these, whole K or cut: gemm_fp8.cu's tiles are no slower
#define MID_LEAST_WHOLE 20000000
#define MID_LEAST_K 2048  // of several tiles a block

extern "C" ti_fp8_mid_plan ti_cuda_fp8_mid_plan(int m, int n, int k, bool deterministic, int n_sm) {
  ti_fp8_mid_plan best = {};
  float best_us = 0;
  if (m > MID_ROWS || k > MID_MOST_K || (int64_t)n * k < MID_LEAST) return best;
  for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) {
    const int tiles = (n + costs[i].columns - 1) / costs[i].columns, stages = (k + MID_K - 1) / MID_K;
    for (int split = 1; split <= (deterministic ? 1 : 8) && 2 * split <= stages; split++) {
      const int at_once = fit[split] * n_sm / 132, rounds = at_once > 0 ? (tiles + at_once - 1) / at_once : INT32_MAX;
      if (rounds > 1 && (split > 1 || rounds > 2 || k < MID_LEAST_K)) continue;
      const float work = (float)(rounds * ((stages + split - 1) / split)) * costs[i].stage_us, memory = (float)n * (float)k / MID_RATE;
      const float us = (work > memory ? work : memory) + costs[i].rest_us + split_us[split] * (float)costs[i].columns / 64.0f;
      if (best.columns == 0 || us < best_us) best = {costs[i].columns, split}, best_us = us;
    }
  }
  if (best.split == 1 && (int64_t)n * k < MID_LEAST_WHOLE) best.columns = 0;
  return best;
}

extern "C" ti_status ti_cuda_fp8_mid(ti_dev *d, const ti_gemm_fp8_args *a, const ti_fp8_mid_plan *plan) {
  const mid_kernel kernel = kernel_for(plan->columns);
  const int n_kb = (a->k + MID_K - 1) / MID_K, nt = plan->columns;
  assert(ti_cuda_fp8_mid_takes(plan) && a->m <= MID_ROWS && plan->split <= n_kb && a->n % 8 == 0 && a->k % 16 == 0);
  mid_params p = {};
  p.out = a->out, p.x_scale = a->scale, p.w_scale = a->w_scale, p.ldo = a->ldo, p.w_ld = a->w_scale_ld, p.x_ld = (a->m + 3) & ~3;
  p.m = a->m, p.n = a->n, p.split = plan->split, p.n_kb = n_kb / p.split, p.n_longer = n_kb % p.split, p.early = d->pdl;
  p.load_rows = (a->m + 7) / 8 * 8;
  const int groups = nt / 8, kb_most = (n_kb + p.split - 1) / p.split;
  p.per = (groups + p.split - 1) / p.split, p.inv = (65536 + p.split - 1) / p.split;
  const int tiles = (a->n + nt - 1) / nt, rounds = p.split == 1 ? (tiles + d->n_sm - 1) / d->n_sm : 1, grid = (tiles + rounds - 1) / rounds;
  p.n_tile = tiles / grid, p.n_more = tiles % grid;
  const int stage = nt * MID_K + MID_ROWS * MID_K, scales = (rounds * kb_most * kernel.blocks * 4 + 127) & ~127;
  const int red = p.split > 2 ? p.split * p.per * MID_MATH * 16 : p.split == 2 ? p.per * MID_MATH * 16 : rounds > 1 ? (nt + 8) / 16 * 4096 : 0;
  const int room = SMEM_BLOCK - 256 - red - scales, most = room / (stage + MID_ROWS * 4 + 16);
  p.stages = most < MID_STAGES ? most : MID_STAGES;
  if (p.stages > rounds * kb_most) p.stages = rounds * kb_most;
  const int ring = p.stages * stage;  // of whole K its outputs are 256 bytes a column: no more than a stage
  p.xs = ring, p.ws = p.xs + p.stages * MID_ROWS * 4, p.bars = p.ws + scales;
  const int behind = (p.bars + 16 * p.stages + 8 + 127) & ~127, smem = behind + red;
  p.red = red > 0 ? behind : 0;
  assert((p.stages >= 2 || rounds * kb_most == 1) && smem <= SMEM_BLOCK);

  CUtensorMap w, x;
  const int64_t dim_w[] = {a->k, a->n}, dim_x[] = {a->k, a->m}, ld = a->k;
  const int box_w[] = {MID_K, nt}, box_x[] = {MID_K, p.load_rows};
  if (ti_tensor_map_2d(&w, TI_TMA_U8, a->w, dim_w, &ld, box_w, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_2d(&x, TI_TMA_U8, a->q, dim_x, &ld, box_x, TI_TMA_128B) != TI_OK) {
    return TI_ERR_ARG;
  }
  cudaLaunchAttribute at[2];
  cudaLaunchConfig_t l = {};
  l.gridDim = dim3((unsigned)p.split, (unsigned)grid);
  l.blockDim = dim3((unsigned)kernel.threads);
  l.dynamicSmemBytes = (size_t)smem;
  l.stream = d->stream;
  l.attrs = at;
  if (p.split > 1) {
    at[l.numAttrs].id = cudaLaunchAttributeClusterDimension;
    at[l.numAttrs].val.clusterDim.x = (unsigned)p.split, at[l.numAttrs].val.clusterDim.y = 1, at[l.numAttrs].val.clusterDim.z = 1;
    l.numAttrs++;
  }
  if (d->pdl) {
    at[l.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[l.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    l.numAttrs++;
  }
  cudaError_t e = cudaFuncSetAttribute((const void *)kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_BLOCK);
  if (e == cudaSuccess) e = cudaLaunchKernelEx(&l, kernel.run, w, x, p);
  d->last_op = "gemm_fp8_mid";
  return ti_cuda_check(d, "gemm_fp8_mid");
}
