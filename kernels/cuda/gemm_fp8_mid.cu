// FP8 GEMM of up to 128 rows (gemm_fp8_small.cu takes 64 and fewer): W is read once, in one wave of blocks, and the products hide behind the reading.
//
//   grid (split, n / NT): the `split` blocks of a cluster share a tile of out and cut K
//
//                K ->                       a block: 9 warps
//            +---------+---------+            one thread  --TMA--> ring, all of shared memory:  W [NT][128]   wgmma's B: its columns are out's
//   NT rows  | block 0 | block 1 |                                                              x [128][128]  wgmma's A: 64 rows a warpgroup
//   of W     +---------+---------+                                                              128 scales of x
//              |   sums    |                  warpgroups 0, 1: for each stage
//              v   fp32    v                    the next stage's 4 wgmma begin | wait for this one's | sum += acc * (scale of the row * of the block)
//            columns     columns
//            0..NT/2-1   NT/2..               split 2: a block sends the columns that it does not own from registers (st.async), adds what comes,
//                                             and writes bf16. Larger splits: groups of 8 columns in turn, all parts through shared memory.
//
// Bits: the order of sums depends on `split` alone; whole K is gemm_fp8_tile.cuh's order.
// Latency: one thread begins the loads with nothing before them but the barriers they need; with d->pdl W's first ring goes out before the op before
// has ended. The scales of x are plain copies, and W's lie in shared memory: each tensor map less is a read of memory less before the first product.
//
// What bounds it (H200, m 128, by clocks in the kernel at 1.7 GHz; (4096, 7168), 64 columns, split 2): of 11.7 us in the blocks 3.4 pass before the
// first products (2.2 where W and x lie in L2), 28 stages take 414 cycles each (354 without their loads, 256 in the tensor cores alone), the end
// 1,900: 350 to send, 850 until the other block's sums are there, 700 to write (since then 16 bytes a lane). Loads alone, without products, take 9.0
// us, as a plain read does.
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
  int part;  // in the cluster
  int n0, kb0, n_kb;
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

// The first ring, by one thread and before anything else in the block: W alone where another op may still write x.
template <class T>
TI_DEV void mid_load_first(const mid_params &p, const mid_block &b, const mid_loader &l) {
  const int ring = b.n_kb < p.stages ? b.n_kb : p.stages;
#pragma unroll 1
  for (int kb = 0; kb < ring; kb++) {
    const uint32_t stage = l.base + (uint32_t)(kb * T::STAGE), bar = l.full + 8u * (uint32_t)kb;
    ti_swap_expect(bar, mid_bytes<T>(p));
    mid_load_w(l, stage, bar, b.kb0 + kb, b.n0);
    if (!p.early) mid_load_x<T>(p, l, stage, bar, kb, b.kb0 + kb);
  }
}

// The rest, by one warp.
template <class T>
TI_DEV void mid_load(const mid_params &p, const mid_block &b, const mid_loader &l) {
  const uint32_t empty = l.full + 8u * (uint32_t)p.stages;
  ti_griddep_wait();
  int at = 0;
  uint32_t parity = p.early;
#pragma unroll 1
  for (int kb = p.early ? 0 : p.stages; kb < b.n_kb; kb++) {
    const uint32_t stage = l.base + (uint32_t)(at * T::STAGE), bar = l.full + 8u * (uint32_t)at;
    const bool later = kb >= p.stages;
    if (later) mid_wait(empty + 8u * (uint32_t)at, parity);
    if (ti_elect()) {
      if (later) ti_swap_expect(bar, mid_bytes<T>(p));
      mid_load_x<T>(p, l, stage, bar, at, b.kb0 + kb);
      if (later) mid_load_w(l, stage, bar, b.kb0 + kb, b.n0);
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

// The block's stages: sum = x W^T.
template <class T>
TI_DEV void mid_multiply(uint32_t base, const mid_params &p, const mid_block &b, int warp_row, int wg, float (&sum)[4 * T::GROUPS]) {
  const int lane = (int)threadIdx.x & 31, off = b.n0 % 128, n_kb = b.n_kb, stages = p.stages;
  const uint32_t full = mid_keep(base + (uint32_t)p.bars), xs0 = base + (uint32_t)(p.xs + (warp_row + lane / 4) * 4);
  const uint32_t to_empty = mid_keep(8u * (uint32_t)stages), end = full + to_empty, x_at = T::W_BYTES + (uint32_t)(wg * 64 * MID_K);
  uint32_t ws = mid_keep(base + (uint32_t)p.ws);
  const int n_tell = lane == 0 ? n_kb - stages : 0;  // stages that will be loaded again
  mid_pos at = {base, full, xs0, 0};
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
}

// Whole K here: out through the ring, which is empty once both warpgroups are here.
template <class T>
TI_DEV void mid_store(uint8_t *smem, const mid_params &p, const float (&sum)[4 * T::GROUPS], int warp_row, int n0) {
  ti_bar_sync(1, MID_MATH);
  mid_write<T::GROUPS>(smem + threadIdx.x / 32 * (T::HALF * 512), 512, sum, p, warp_row, n0);
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
  for (int i = (int)threadIdx.x; i < b.n_kb * T::BLOCKS; i += MID_MATH) {
    const int block = b.n0 / 128 + i % T::BLOCKS;
    ws[i] = __ldg(p.w_scale + (block < last_n ? block : last_n) * p.w_ld + b.kb0 + i / T::BLOCKS);
  }
  float sum[4 * T::GROUPS];
#pragma unroll
  for (int i = 0; i < 4 * T::GROUPS; i++) sum[i] = 0;
  if (p.split > 1) ti_cluster_wait();
  ti_bar_sync(1, MID_MATH);
  mid_multiply<T>(base, p, b, warp_row, wg, sum);
  ti_griddep_wait();
  if (p.split == 1) {
    mid_store<T>(smem, p, sum, warp_row, b.n0);
  } else if (p.split > 2) {
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
  b.n0 = (int)blockIdx.y * T::NT;
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

#define MID_LIST(X) X(64) X(80) X(96) X(128)

static mid_kernel kernel_for(int columns) {
#define MID_CASE(nt) \
  if (columns == nt) return {fp8_mid<mid_tile<nt>>, mid_tile<nt>::THREADS, mid_tile<nt>::BLOCKS};
  MID_LIST(MID_CASE)
  return {NULL, 0, 0};
}

extern "C" bool ti_cuda_fp8_mid_takes(const ti_fp8_mid_plan *p) { return kernel_for(p->columns).run != NULL && p->split >= 1 && p->split <= 8; }

// Measured on an H200 (lab_gemm_fp8): a stage of K while all SMs work, a launch's rest, and what a cut of K adds to it, microseconds.
static const struct {
  int columns;
  float stage_us, rest_us;
} costs[] = {{64, 0.268f, 6.0f}, {80, 0.29f, 6.4f}, {96, 0.31f, 6.6f}, {128, 0.38f, 7.2f}};
static const float split_us[] = {0, 0, 1.0f, 1.2f, 1.9f};
static const int fit[] = {0, 132, 66, 39, 30};  // clusters that run at once on 132 SMs: a cluster's SMs share a GPC
#define MID_LEAST 5000000                       // weights below it: gemm_fp8.cu's tiles
#define MID_RATE 4.0e6f                         // bytes of W a microsecond

extern "C" ti_fp8_mid_plan ti_cuda_fp8_mid_plan(int m, int n, int k, bool deterministic, int n_sm) {
  ti_fp8_mid_plan best = {};
  float best_us = 0;
  if (m > MID_ROWS || k > MID_MOST_K || (int64_t)n * k < MID_LEAST) return best;
  for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) {
    const int tiles = (n + costs[i].columns - 1) / costs[i].columns, stages = (k + MID_K - 1) / MID_K;
    for (int split = 1; split <= (deterministic ? 1 : 4) && 2 * split <= stages; split++) {
      if (tiles > fit[split] * n_sm / 132) continue;  // one wave
      const float work = (float)((stages + split - 1) / split) * costs[i].stage_us, memory = (float)n * (float)k / MID_RATE;
      const float us = (work > memory ? work : memory) + costs[i].rest_us + split_us[split];
      if (best.columns == 0 || us < best_us) best = {costs[i].columns, split}, best_us = us;
    }
  }
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
  const int stage = nt * MID_K + MID_ROWS * MID_K, scales = (kb_most * kernel.blocks * 4 + 127) & ~127;
  const int red = p.split == 1 ? 0 : (p.split == 2 ? 1 : p.split) * p.per * MID_MATH * 16;
  const int room = SMEM_BLOCK - 256 - red - scales, most = room / (stage + MID_ROWS * 4 + 16);
  p.stages = most < MID_STAGES ? most : MID_STAGES;
  if (p.stages > kb_most) p.stages = kb_most;
  const int ring = p.stages * stage;  // of whole K its outputs are 256 bytes a column: no more than a stage
  p.xs = ring, p.ws = p.xs + p.stages * MID_ROWS * 4, p.bars = p.ws + scales;
  p.red = (p.bars + 16 * p.stages + 8 + 127) & ~127;
  const int smem = p.red + red;
  assert((p.stages >= 2 || kb_most == 1) && smem <= SMEM_BLOCK);

  CUtensorMap w, x;
  const int64_t dim_w[] = {a->k, a->n}, dim_x[] = {a->k, a->m}, ld = a->k;
  const int box_w[] = {MID_K, nt}, box_x[] = {MID_K, p.load_rows};
  if (ti_tensor_map_2d(&w, TI_TMA_U8, a->w, dim_w, &ld, box_w, TI_TMA_128B) != TI_OK ||
      ti_tensor_map_2d(&x, TI_TMA_U8, a->q, dim_x, &ld, box_x, TI_TMA_128B) != TI_OK) {
    return TI_ERR_ARG;
  }
  cudaLaunchAttribute at[2];
  cudaLaunchConfig_t l = {};
  l.gridDim = dim3((unsigned)p.split, (unsigned)((a->n + nt - 1) / nt));
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
