// One row of fp32 logits spread over the shared memory of a cluster: what `sample` and `logprobs` stand on. The row is read from memory once, by
// bulk copies that are all in flight at the same time; every later look at it (histograms, sums, the draw) costs no memory traffic.
//
//   row       ..|  x0 x1 x2 ................................................ x(n-1) |..      any alignment
//   groups      |g0 |g1 |g2 |  ..  4 floats, 16-byte aligned; the first and the last may be partial and are filled up with -inf
//   block 0     [piece 0 | piece 1 | ..]   a piece: 4,096 floats, 4 a thread, its own mbarrier
//   block 1              [piece 0 | piece 1 | ..]
//   ..
//   block 7                                  [piece 0 | .. | -inf -inf]           (fewer blocks where rows are many)
//
// Blocks talk through each other's shared memory (slots that peers write, then a cluster barrier). All sums are of integers, and all choices are
// maxima of (key, lower id first): the result does not depend on alignment, on the number of blocks, on who adds first, or on other rows.
#ifndef TI_KERNELS_CUDA_ROW_CLUSTER_CUH
#define TI_KERNELS_CUDA_ROW_CLUSTER_CUH
#include <math_constants.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"

#define ROW_MAX_BLOCKS 8
#define ROW_THREADS 1024
#define ROW_WARPS (ROW_THREADS / 32)
#define ROW_PIECE (ROW_THREADS * 4)  // floats
#define ROW_MAX_PIECES 12
#define ROW_EXCHANGES 4

// Ids whose order is that of the floats: larger float, larger key. NaN is not to be asked for.
TI_DEV uint32_t row_key(float x) {
  const uint32_t b = __float_as_uint(x);
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}
TI_DEV float row_unkey(uint32_t k) { return __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k); }
// The better of two (value, id) is the larger number; 0: none.
TI_DEV uint64_t row_pack(float v, int id) { return (uint64_t)row_key(v) << 32 | (0xffffffffu - (uint32_t)id); }
TI_DEV float row_value(uint64_t p) { return row_unkey((uint32_t)(p >> 32)); }
TI_DEV int row_id(uint64_t p) { return (int)(0xffffffffu - (uint32_t)p); }

TI_DEV uint32_t peer_load(uint32_t addr) {
  uint32_t v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(addr) : "memory");
  return v;
}
TI_DEV uint64_t peer_load64(uint32_t addr) {
  uint64_t v;
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(addr) : "memory");
  return v;
}
TI_DEV void peer_store64(uint32_t addr, uint64_t v) { asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(addr), "l"(v) : "memory"); }
TI_DEV uint32_t peer_add(uint32_t addr, uint32_t v) {
  uint32_t old;
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(addr), "r"(v) : "memory");
  return old;
}

struct row_shared {
  uint64_t bar[ROW_MAX_PIECES];
  uint64_t slot[ROW_EXCHANGES][ROW_MAX_BLOCKS];  // slot[e][r]: what block r gave in exchange e; peers write it
  uint64_t warp[ROW_WARPS];
};

struct row_part {  // a block's part of the row
  float4 *v;       // [pieces * ROW_THREADS] shared
  int pieces;
  int first;       // index in the row of v[0].x; may be negative
  int begin, end;  // indices in the row that are this block's; elements outside are padding, -inf
  uint32_t rank, blocks;
};

// How many blocks a row of n takes: what fills the SMs (a block each; a few stay idle, since clusters do not straddle GPCs) in the least time. A row
// costs about as much as 16,000 ids before its first one is looked at.
static inline int row_blocks(int n, int n_row, int n_sm) {
  int best = ROW_MAX_BLOCKS;
  int64_t best_cost = INT64_MAX;
  for (int blocks = ROW_MAX_BLOCKS; blocks >= 1; blocks /= 2) {
    const int part = n / blocks, at_once = n_sm > blocks + 4 ? (n_sm - 4) / blocks : 1;
    const int64_t cost = (int64_t)((n_row + at_once - 1) / at_once) * (part + 16000);
    if (part > (ROW_MAX_PIECES - 1) * ROW_PIECE && blocks < ROW_MAX_BLOCKS) break;
    if (cost < best_cost) {
      best = blocks;
      best_cost = cost;
    }
  }
  return best;
}
// Bytes of dynamic shared memory for the parts of rows of n.
static inline size_t row_bytes(int n, int blocks) {
  const int groups = (n + 3 + 3) / 4, part = (groups + blocks - 1) / blocks;
  return (size_t)((part + ROW_THREADS - 1) / ROW_THREADS) * ROW_PIECE * sizeof(float);
}

// The cluster's barrier. A releasing arrival costs every thread a full memory fence, so the block gathers first and one warp fences for all.
TI_DEV void row_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
TI_DEV void row_sync() {
  __syncthreads();
  if (threadIdx.x < 32) asm volatile("fence.acq_rel.cluster;" ::: "memory");
  row_arrive();
  ti_cluster_wait();
}

// Starts to fetch x[n] into buf; to be called by all threads. Waits for the kernel before this one; piece p stands once row_wait(p) is back.
TI_DEV row_part row_fetch(row_shared *s, float4 *buf, const float *x, int n) {
  const int tid = (int)threadIdx.x;
  const int shift = (int)((uintptr_t)x % 16 / 4), groups = (shift + n + 3) / 4;
  const uint32_t rank = ti_cluster_rank(), blocks = gridDim.x;
  const int share = (groups + (int)blocks - 1) / (int)blocks;
  const int g0 = min((int)rank * share, groups), g1 = min(g0 + share, groups);
  const int full0 = max(g0, shift ? 1 : 0) - g0, full1 = max(min(g1, (shift + n) / 4) - g0, full0);  // whole groups, counted from g0
  const float *base = x - shift + (int64_t)g0 * 4;
  row_part part = {buf, (g1 - g0 + ROW_THREADS - 1) / ROW_THREADS, g0 * 4 - shift, max(g0 * 4 - shift, 0), min(g1 * 4 - shift, n), rank, blocks};
  if (tid < part.pieces) ti_mbar_init(&s->bar[tid], 1);
  ti_fence_mbar_init();
  __syncthreads();
  ti_pdl_wait();
  if (tid < part.pieces) {
    const int a = max(tid * ROW_THREADS, full0), b = min((tid + 1) * ROW_THREADS, full1);
    ti_mbar_expect(&s->bar[tid], b > a ? (uint32_t)(b - a) * 16 : 0);
    if (b > a) ti_bulk_load(buf + a, base + a * 4, (uint32_t)(b - a) * 16, &s->bar[tid], TI_L2_EVICT_FIRST);
  }
  const int ends = full0 + part.pieces * ROW_THREADS - full1;  // groups before and behind the whole ones
  for (int e = tid; e < ends; e += ROW_THREADS) {
    const int g = e < full0 ? e : e - full0 + full1;
    float f[4];
    for (int i = 0; i < 4; i++) {
      const int at = part.first + g * 4 + i;
      f[i] = at >= part.begin && at < part.end ? x[at] : -CUDART_INF_F;
    }
    buf[g] = make_float4(f[0], f[1], f[2], f[3]);
  }
  __syncthreads();
  ti_pdl_launch();
  row_arrive();
  return part;
}
// Before the first exchange: every block of the cluster has started. Once a kernel.
TI_DEV void row_meet() { ti_cluster_wait(); }
TI_DEV void row_wait(row_shared *s, int piece) { ti_mbar_wait(&s->bar[piece], 0); }

// ---- over the block, over the cluster ----

TI_DEV uint64_t row_warp_max(uint64_t v) {
  const uint32_t hi = __reduce_max_sync(0xffffffffu, (uint32_t)(v >> 32));
  return (uint64_t)hi << 32 | __reduce_max_sync(0xffffffffu, (uint32_t)(v >> 32) == hi ? (uint32_t)v : 0);
}
TI_DEV uint64_t row_warp_sum(uint64_t v) {  // by 27 bits, whose sums stay below 2^32
  const uint32_t mask = (1u << 27) - 1;
  const uint64_t a = __reduce_add_sync(0xffffffffu, (uint32_t)v & mask), b = __reduce_add_sync(0xffffffffu, (uint32_t)(v >> 27) & mask);
  return a + (b << 27) + ((uint64_t)__reduce_add_sync(0xffffffffu, (uint32_t)(v >> 54)) << 54);
}
// Gives the block's value to all blocks: thread r writes to peer r. The slots hold once row_sync is passed.
TI_DEV void row_give(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  if (threadIdx.x < p.blocks) peer_store64(ti_mapa(ti_smem(&s->slot[exchange][p.rank]), threadIdx.x), v);
}
// The largest / the sum of all threads' v in all blocks, to every thread. Each `exchange` number serves once a kernel.
TI_DEV uint64_t row_max(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  v = row_warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s->warp[threadIdx.x / 32] = v;
  __syncthreads();
  v = row_warp_max(s->warp[threadIdx.x % ROW_WARPS]);
  row_give(s, exchange, p, v);
  row_sync();
  return row_warp_max(s->slot[exchange][threadIdx.x % p.blocks]);
}
// The block's own sum, to every thread.
TI_DEV uint64_t row_block_sum(row_shared *s, uint64_t v) {
  v = row_warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s->warp[threadIdx.x / 32] = v;
  __syncthreads();
  return row_warp_sum(s->warp[threadIdx.x % ROW_WARPS]);
}
TI_DEV uint64_t row_sum(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  v = row_block_sum(s, v);
  row_give(s, exchange, p, v);
  row_sync();
  v = 0;
  for (uint32_t r = 0; r < p.blocks; r++) v += s->slot[exchange][r];
  return v;
}

// ---- launching ----

// kernel<<<(blocks, n_row), ROW_THREADS>>> in clusters of a row each, with programmatic dependent launch where d has it on.
template <typename... P, typename... A>
static inline ti_status row_launch(ti_dev *d, const char *op, void (*kernel)(P...), int n, int n_row, A... args) {
  const int blocks = row_blocks(n, n_row, d->n_sm);
  const size_t smem = row_bytes(n, blocks);
  cudaLaunchAttribute attr[2] = {};
  attr[0].id = cudaLaunchAttributeClusterDimension;
  attr[0].val.clusterDim.x = (unsigned)blocks;
  attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
  attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)blocks, (unsigned)n_row);
  c.blockDim = dim3(ROW_THREADS);
  c.dynamicSmemBytes = smem;
  c.stream = d->stream;
  c.attrs = attr;
  c.numAttrs = d->pdl ? 2 : 1;
  d->last_op = op;
  cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
  if (e == cudaSuccess) e = cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...);
  return e == cudaSuccess ? TI_OK : ti_cuda_result(d, op, e);
}

#endif
