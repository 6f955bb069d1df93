// One row of fp32 logits shared out to blocks, and what the blocks of a cluster tell each other about it: what `sample` and `logprobs` stand on.
//
//   row       ..|  x0 x1 x2 ................................................ x(n-1) |..      any alignment
//   groups      |g0 |g1 |g2 |  ..  4 floats, 16-byte aligned; of the first and the last only the row's own elements are read, the others are -inf
//   block 0     [g0 ..          |
//   block 1                     [ ..            |       a thread takes every 1,024th group of its block's share
//   ..
//
// A row is passed over several times; it comes from memory once and from L2 afterwards (64 rows of 128,256 are 33 MB). Blocks talk through each
// other's shared memory: slots that peers write, then a cluster barrier. All sums are of integers, and all choices are maxima of (key, lower id
// first): the result does not depend on alignment, on the number of blocks, on who adds first, or on other rows.
#ifndef TI_KERNELS_CUDA_ROW_CLUSTER_CUH
#define TI_KERNELS_CUDA_ROW_CLUSTER_CUH
#include <math_constants.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"

#define ROW_MAX_BLOCKS 8
#define ROW_THREADS 1024
#define ROW_WARPS (ROW_THREADS / 32)
#define ROW_EXCHANGES 4
#define ROW_BATCH 4           // groups that a thread has in flight
#define ROW_MAX_SHARE 131064  // ids of a block: row_search adds up as many in 32 bits

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

// A cluster of one block, where the device has no others (before sm_90): its peers are the block itself.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define ROW_PEER "shared"
TI_DEV uint32_t row_rank() { return 0; }
TI_DEV uint32_t row_peer(uint32_t addr, uint32_t rank) { return addr; }
TI_DEV void row_arrive() {}
TI_DEV void row_wait() { __syncthreads(); }
TI_DEV void row_sync() { __syncthreads(); }
#else
#define ROW_PEER "shared::cluster"
TI_DEV uint32_t row_rank() { return ti_cluster_rank(); }
TI_DEV uint32_t row_peer(uint32_t addr, uint32_t rank) { return ti_mapa(addr, rank); }
// The cluster's barrier. A releasing arrival costs every thread a full memory fence, so the block gathers first and one warp fences for all.
TI_DEV void row_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
TI_DEV void row_wait() { ti_cluster_wait(); }
TI_DEV void row_sync() {
  __syncthreads();
  if (threadIdx.x < 32) asm volatile("fence.acq_rel.cluster;" ::: "memory");
  row_arrive();
  ti_cluster_wait();
}
#endif
TI_DEV uint32_t peer_load(uint32_t addr) {
  uint32_t v;
  asm volatile("ld." ROW_PEER ".u32 %0, [%1];" : "=r"(v) : "r"(addr) : "memory");
  return v;
}
TI_DEV uint64_t peer_load64(uint32_t addr) {
  uint64_t v;
  asm volatile("ld." ROW_PEER ".u64 %0, [%1];" : "=l"(v) : "r"(addr) : "memory");
  return v;
}
TI_DEV void peer_store64(uint32_t addr, uint64_t v) { asm volatile("st." ROW_PEER ".u64 [%0], %1;" ::"r"(addr), "l"(v) : "memory"); }
TI_DEV uint32_t peer_add(uint32_t addr, uint32_t v) {
  uint32_t old;
  asm volatile("atom." ROW_PEER ".add.u32 %0, [%1], %2;" : "=r"(old) : "r"(addr), "r"(v) : "memory");
  return old;
}

struct row_part {   // a block's share of the row
  const float4 *v;  // its first group
  int groups;
  int full0, full1;  // groups that are the row's as a whole
  int first;         // index in the row of v[0].x; may be negative
  int begin, end;    // indices in the row that are this block's
  uint32_t rank, blocks;
};
TI_DEV row_part row_share(const float *x, int n, uint32_t rank, uint32_t blocks) {
  const int shift = (int)((uintptr_t)x % 16 / 4), groups = (shift + n + 3) / 4, share = (groups + (int)blocks - 1) / (int)blocks;
  const int g0 = min((int)rank * share, groups), g1 = min(g0 + share, groups), first = g0 * 4 - shift;
  return {(const float4 *)(x - shift) + g0, g1 - g0, max(g0, shift ? 1 : 0) - g0,
          min(g1, (shift + n) / 4) - g0,    first,   max(first, 0),
          min(g1 * 4 - shift, n),           rank,    blocks};
}
// Group g; -inf where it is not the block's.
TI_DEV float4 row_load(const row_part &p, int g) {
  if (g >= p.full0 && g < p.full1) return __ldg(p.v + g);
  float4 v = make_float4(-CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F);
  if (g < p.groups) {
    const float *x = (const float *)(p.v + g);
    const int at = p.first + g * 4;
    if (at >= p.begin && at < p.end) v.x = __ldg(x);
    if (at + 1 >= p.begin && at + 1 < p.end) v.y = __ldg(x + 1);
    if (at + 2 >= p.begin && at + 2 < p.end) v.z = __ldg(x + 2);
    if (at + 3 >= p.begin && at + 3 < p.end) v.w = __ldg(x + 3);
  }
  return v;
}
// ROW_BATCH groups, g, g + threads, ..
TI_DEV void row_load_batch(const row_part &p, int g, int threads, float (&f)[ROW_BATCH][4]) {
#pragma unroll
  for (int b = 0; b < ROW_BATCH; b++) {
    const float4 v = row_load(p, g + b * threads);
    f[b][0] = v.x, f[b][1] = v.y, f[b][2] = v.z, f[b][3] = v.w;
  }
}

// ---- over the block, over the cluster ----

struct row_shared {
  uint64_t slot[ROW_EXCHANGES][ROW_MAX_BLOCKS];  // slot[e][r]: what block r gave in exchange e; peers write it
  uint64_t warp[ROW_WARPS];
};

TI_DEV uint64_t row_warp_max(uint64_t v) {
  const uint32_t hi = __reduce_max_sync(0xffffffffu, (uint32_t)(v >> 32));
  return (uint64_t)hi << 32 | __reduce_max_sync(0xffffffffu, (uint32_t)(v >> 32) == hi ? (uint32_t)v : 0);
}
TI_DEV uint64_t row_warp_sum(uint64_t v) {  // by 27 bits, whose sums stay below 2^32
  const uint32_t mask = (1u << 27) - 1;
  const uint64_t a = __reduce_add_sync(0xffffffffu, (uint32_t)v & mask), b = __reduce_add_sync(0xffffffffu, (uint32_t)(v >> 27) & mask);
  return a + (b << 27) + ((uint64_t)__reduce_add_sync(0xffffffffu, (uint32_t)(v >> 54)) << 54);
}
// The block's largest, sum, to every thread; warp: [blockDim.x / 32], used once.
TI_DEV uint64_t row_block_max(uint64_t *warp, uint64_t v) {
  v = row_warp_max(v);
  if (threadIdx.x % 32 == 0) warp[threadIdx.x / 32] = v;
  __syncthreads();
  return row_warp_max(threadIdx.x % 32 < blockDim.x / 32 ? warp[threadIdx.x % 32] : 0);
}
TI_DEV uint64_t row_block_sum(uint64_t *warp, uint64_t v) {
  v = row_warp_sum(v);
  if (threadIdx.x % 32 == 0) warp[threadIdx.x / 32] = v;
  __syncthreads();
  return row_warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? warp[threadIdx.x % 32] : 0);
}
// Gives the block's value to all blocks: thread r writes to peer r. The slots hold once row_sync is passed.
TI_DEV void row_give(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  if (threadIdx.x < p.blocks) peer_store64(row_peer(ti_smem(&s->slot[exchange][p.rank]), threadIdx.x), v);
}
// The largest, the sum, of all threads' v in all blocks, to every thread. Each `exchange` number serves once a kernel.
TI_DEV uint64_t row_max(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  __syncthreads();
  row_give(s, exchange, p, row_block_max(s->warp, v));
  row_sync();
  return row_warp_max(s->slot[exchange][threadIdx.x % p.blocks]);
}
TI_DEV uint64_t row_sum(row_shared *s, int exchange, const row_part &p, uint64_t v) {
  __syncthreads();
  row_give(s, exchange, p, row_block_sum(s->warp, v));
  row_sync();
  v = 0;
  for (uint32_t r = 0; r < p.blocks; r++) v += s->slot[exchange][r];
  return v;
}

// ---- launching ----

// How many blocks a row takes: as many as let all rows run at once, a block an SM. Clusters do not straddle GPCs, which leaves SMs idle: of 132, 14
// clusters of eight, 30 of four and 64 of two find room.
static inline int row_blocks(int n, int n_row, int n_sm) {
  int blocks = ROW_MAX_BLOCKS;
  while (blocks > 1 && blocks * n_row > n_sm - (blocks == 8 ? 20 : blocks == 4 ? 12 : 4) && n <= blocks / 2 * ROW_MAX_SHARE) blocks /= 2;
  return blocks;
}
// kernel<<<(blocks, n_row), ROW_THREADS>>> in clusters of a row each, with programmatic dependent launch where d has it on.
template <typename... P, typename... A>
static inline ti_status row_launch(ti_dev *d, const char *op, void (*kernel)(P...), int n, int n_row, A... args) {
  cudaLaunchAttribute attr[2] = {};  // a device without clusters takes none of the two
  attr[0].id = cudaLaunchAttributeClusterDimension;
  // Masses are summed in units that a block rounds to (row_search.cuh), so that where rows must not see each other a row has one number of blocks.
  attr[0].val.clusterDim.x = d->major < 9 ? 1 : (unsigned)row_blocks(n, d->deterministic ? 1 : n_row, d->n_sm);
  attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
  attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3(attr[0].val.clusterDim.x, (unsigned)n_row);
  c.blockDim = dim3(ROW_THREADS);
  c.stream = d->stream;
  c.attrs = attr;
  c.numAttrs = d->major < 9 ? 0 : d->pdl ? 2 : 1;
  d->last_op = op;
  const cudaError_t e = cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...);
  return e == cudaSuccess ? TI_OK : ti_cuda_result(d, op, e);
}

#endif
