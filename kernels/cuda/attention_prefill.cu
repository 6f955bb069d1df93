// Prefill: runs of many rows over paged KV by wgmma. Bound by the tensor cores and, beside them, by exp2.
//
//   warps 0-3, 4-7   math: 64 packed rows (row x q head of a kv head) each         ring:  | K0 | V0 | K1 | V1 |   128 places a stage, TMA, a box a
//   page warp 8           fetches K and V as the ring has room                          Q: 128 rows x head; the rows' sums so far
//
//   a warpgroup and span:   softmax(s)   | o = p V (s)  ->  x = Q K (s + 1)  | fold o while x runs |   x 64, o 64, chunk 64, p 32 registers at dim
//   128
//                           (registers)  | wgmma, p from registers           |                     |   the row's sum, touched once in 4 spans: shared
//
// Every span's o starts from zero and is folded (attention.cuh): one multiplication more a number than to rescale a running sum, and the price of
// having decode's bits: wgmma's and mma.sync's sums over 16 places came out the same on the H200 (the lab compares rows at dim 64 and 128), and the
// order above them is one.
//
// Blocks stay: one a multiprocessor, items (tile, kv head) in turn from the last tile, which has the most to do under causality, to the first. Warp 8
// fetches K and V of the next tile, warps 9-11 its Q (by TMA, a box of 128 packed rows) and what its rows attend, while the math warps end this one.
//
// Measured on an H200 (lab_attention, causal, TFLOP/s of the products that causality leaves):
//   dim 128: 16,384 rows, 16/16 heads 543-555; 4,096 rows, 32/8 487-489; 8 x 2,048, 32/8 333-363; 512 behind 7,680 places 438-480; 512 alone 97-107
//   dim 64:  8 x 2,048, 32/4 234-257           (two runs; a block a tile, as before: 561, 432, 318-328, 466-488, 96-100; 221-238)
// Stamps of %clock, cycles of a span at dim 128: 1,030 softmax, 1,230 to issue p V and Q K (the two groups share the tensor cores: they need 2,048
// for both), 460 fold, 900 waits and bookkeeping; every fourth span 1,200 more to fold the chunk into shared memory. A tile's change costs 3,000
// (11,000 when loading Q divided by the group for each 16 bytes and masks were 64-bit shifts). Tried and left: turns at the tensor cores by named
// barriers (softmax alone then takes 1,330: 493, 340 and 444 at 4,096, 8 x 2,048 and 7,680; dim 64 236); Q K (s + 1) before p V (s), so that softmax
// runs over p V (spills at dim 128; 412; dim 64 202). The compiler must not know the wgmma descriptors (`opaque`): else it keeps one a step and
// spills. The next 10%: the chunk's fold without shared memory (no room in registers at dim 128), or softmax's maxima of one row under the
// exponentials of another. E4M3 and dim 256 take decode's form for chunks.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/tensor_map.h"

enum { GROUPS = 2, GROUP_ROWS = 64, ROWS = GROUPS * GROUP_ROWS, MATH = 128 * GROUPS, THREADS = MATH + 128, LOADERS = 96 };

struct shared {
  attn_tile t[2];  // this tile and the next one, by turns; all down to mask written by the loading warps
  int head[2];
  bool end;                // no more tiles
  int lo[ROWS], hi[ROWS];  // places that a row of the tile whose q is here attends
  uint64_t mask[ROWS];
  uint64_t full[8], empty[8], tile_full, tile_empty;
};

// This block's tiles: runs of more than short_rows rows are cut into tiles of ROWS packed rows, numbered in order; a tile is n_kv_head items. Items
// go from the last tile, which has the most to do, to the first, to the blocks in turn, there and back: 0 1 2 .. 131, 131 .. 1 0, 0 1 ..
struct tiles {
  int n_item, turn;
};

// Tiles of runs s0 .. s0 + 31, a lane each, and their sum up to this lane.
static __device__ __forceinline__ int count_tiles(const attn &a, int s0, int *sum) {
  const int lane = threadIdx.x % 32, s = s0 + lane, rows = s < a.n_seq ? a.seq_row0[s + 1] - a.seq_row0[s] : 0;
  const int n = rows > a.short_rows ? (rows * a.group + ROWS - 1) / ROWS : 0;
  *sum = n;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const int v = __shfl_up_sync(0xffffffffu, *sum, o);
    if (lane >= o) *sum += v;
  }
  return n;
}
static __device__ __forceinline__ tiles all_tiles(const attn &a) {
  int n = 0;
  for (int s0 = 0; s0 < a.n_seq; s0 += 32) {
    int sum;
    count_tiles(a, s0, &sum);
    n += __shfl_sync(0xffffffffu, sum, 31);
  }
  return {n * a.n_kv_head, 0};
}
static __device__ __forceinline__ bool next_tile(const attn &a, tiles *w, attn_tile *t, int *head) {
  int item = w->n_item;
  while (item >= w->n_item) {
    if (w->turn * (int)gridDim.x >= w->n_item) return false;
    item = w->turn * gridDim.x + (w->turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    w->turn++;
  }
  const int tile = w->n_item / a.n_kv_head - 1 - item / a.n_kv_head;
  *head = item % a.n_kv_head;
  for (int s0 = 0, before = 0;; s0 += 32) {
    int sum;
    const int n = count_tiles(a, s0, &sum);
    const uint32_t hit = __ballot_sync(0xffffffffu, before + sum > tile);
    if (hit) {
      const int l = __ffs(hit) - 1;
      tile_of(a, s0 + l, (tile - before - __shfl_sync(0xffffffffu, sum - n, l)) * ROWS, ROWS, t);
      return true;
    }
    before += __shfl_sync(0xffffffffu, sum, 31);
  }
}

// What the rows of a tile attend, and Q of its packed rows as wgmma's A operand: by TMA, a box of 128 packed rows and 64 numbers (what stands behind
// the run's last row is another run's, or zeros, and goes nowhere), where a row's heads fill such a box; else number by number. LOADERS threads, each
// arrives at tile_full.
template <int DIM>
static __device__ __forceinline__ void load_tile(const attn &a, const CUtensorMap &q_map, const attn_tile &t, int head, int turn, uint8_t *q,
                                                 shared *sh) {
  constexpr int COLS = DIM / 8, HALVES = (DIM + 63) / 64;
  const int thread = threadIdx.x - (THREADS - LOADERS);
  const bool boxes = ROWS % a.group == 0;
  if (thread == 0) sh->t[turn] = t, sh->head[turn] = head;
  for (int r = thread; r < ROWS; r += LOADERS) {
    const int row = t.row0 + row_of(a, min(t.first + r, t.n - 1));
    const row_span rs = row_limits(a, t.seq, row);
    sh->lo[r] = rs.lo, sh->hi[r] = rs.hi;
    if (a.mask) sh->mask[r] = a.mask[row];
  }
  if (!boxes) {
    for (int i = thread; i < ROWS * COLS; i += LOADERS) {
      const int r = i / COLS, c = i % COLS, packed = t.first + r, row = row_of(a, packed), h = head * a.group + packed - row * a.group;
      const bf16 *src = a.q + (int64_t)(t.row0 + row) * a.ldq + (int64_t)h * DIM + 8 * c;
      *(uint4 *)(q + c / 8 * (ROWS * 128) + r * 128 + (((c ^ r) & 7) << 4)) = packed < t.n ? *(const uint4 *)src : make_uint4(0, 0, 0, 0);
    }
    ti_fence_proxy_async();
  }
  if (!boxes || thread != 0) {
    ti_mbar_arrive(&sh->tile_full);
    return;
  }
  ti_mbar_expect(&sh->tile_full, HALVES * ROWS * 128);
#pragma unroll
  for (int h = 0; h < HALVES; h++) ti_tma_load_3d(q + h * ROWS * 128, &q_map, &sh->tile_full, 64 * h, head * a.group, t.row0 + row_of(a, t.first));
}

// A descriptor that the compiler does not know: else it keeps one for each step of the products, in registers that are not there.
static __device__ __forceinline__ uint64_t opaque(uint64_t desc) {
  asm volatile("" : "+l"(desc));
  return desc;
}

template <int DIM>
static __device__ __forceinline__ void scores(float (&x)[64], const uint8_t *q, const uint8_t *k) {
  const uint64_t q_desc = opaque(ti_wgmma_desc(q)), k_desc = opaque(ti_wgmma_desc(k));
  ti_wgmma_fence();
#pragma unroll
  for (int i = 0; i < DIM / 16; i++) {
    ti_wgmma_bf16<SPAN>(x, q_desc + (i / 4 * (ROWS * 128) >> 4) + 2 * (i % 4), k_desc + (i / 4 * (SPAN * 128) >> 4) + 2 * (i % 4), i > 0);
  }
  ti_wgmma_commit();
}

template <int DIM>
static __device__ __forceinline__ void values(float (&o)[DIM / 2], const uint32_t (&p)[8][4], const uint8_t *v) {
  const uint64_t desc = opaque(ti_wgmma_desc_of(v, SPAN * 128, 1024, 1));
  ti_wgmma_fence();
#pragma unroll
  for (int i = 0; i < SPAN / 16; i++) ti_wgmma_bf16_ra<DIM, 1>(o, p[i], desc + 128 * i, i > 0);
  ti_wgmma_commit();
}

struct yes {
  static constexpr bool value = true;
};
struct no {
  static constexpr bool value = false;
};

// x: this thread's part of rows r0 and r0 + 8 of the tile.
static __device__ __forceinline__ void mask_out(float (&x)[64], const shared *sh, int r0, int first_place, int own0, bool tree) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int lo = sh->lo[r0 + 8 * r], at = first_place - lo, n = max(sh->hi[r0 + 8 * r] - lo + 1, 0);
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) drop_outside(x[4 * j + 2 * r + i], at + 8 * j + i, n);
    }
    if (!tree || first_place + SPAN <= own0) continue;
    const uint64_t mask = sh->mask[r0 + 8 * r];
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int own = first_place + 8 * j + i - own0;
        if (own >= 0 && own < 64 && !(mask >> own & 1)) x[4 * j + 2 * r + i] = -CUDART_INF_F;
      }
    }
  }
}

// Scores become bf16 p, packed as wgmma's A; m and this lane's part of l a row.
static __device__ __forceinline__ void softmax(const float (&x)[64], float c, uint32_t (&p)[8][4], float (&m)[2], float (&l)[2]) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    m[r] = fmaxf(x[2 * r], x[2 * r + 1]);
#pragma unroll
    for (int j = 1; j < 16; j++) m[r] = fmaxf(m[r], fmaxf(x[4 * j + 2 * r], x[4 * j + 2 * r + 1]));
    m[r] = __fmul_rn(quad_max(m[r]), c);
    const float ref = m[r] == -CUDART_INF_F ? 0.0f : m[r];
    float sum[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
      sum[w] = 0.0f;
#pragma unroll
      for (int j = 4 * w; j < 4 * w + 4; j++) {
        const float p0 = exp2_fast(__fmaf_rn(x[4 * j + 2 * r], c, -ref)), p1 = exp2_fast(__fmaf_rn(x[4 * j + 2 * r + 1], c, -ref));
        sum[w] += p0;
        sum[w] += p1;
        p[j / 2][r + j % 2 * 2] = ti_pack_bf16(p0, p1);
      }
    }
    l[r] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
}

// row_o: [numbers][MATH], this thread's.
template <int DIM>
static __device__ __forceinline__ void put_out(const attn &a, const attn_tile &t, int head, const float *row_o, const float (&row_l)[2]) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q4 = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int packed = t.first + 16 * warp + g + 8 * r;
    if (packed >= t.n) continue;
    const int row = row_of(a, packed), h = head * a.group + packed - row * a.group;
    const float inv = inverse(row_l[r]);
    bf16 *dst = a.out + (int64_t)(t.row0 + row) * a.ldo + (int64_t)h * DIM + 2 * q4;
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) {
      *(uint32_t *)(dst + 8 * j) = ti_pack_bf16(row_o[(4 * j + 2 * r) * MATH] * inv, row_o[(4 * j + 2 * r + 1) * MATH] * inv);
    }
  }
}

template <int DIM>
static __device__ __forceinline__ void fetch_role(const attn &a, const CUtensorMap &map, uint8_t *ring, int n_stage, shared *sh) {
  constexpr int HALVES = (DIM + 63) / 64;
  tiles all = all_tiles(a);
  attn_tile t;
  int head, stage = 0;
  uint32_t phase = 1;
  while (next_tile(a, &all, &t, &head)) {
    const int s0 = t.lo / SPAN, s1 = t.hi < t.lo ? s0 - 1 : t.hi / SPAN;
    attn_fetch<HALVES>(a, &map, t, head, s0, s1, ring, n_stage, sh->full, sh->empty, stage, phase);
  }
}

template <int DIM>
static __device__ __forceinline__ void load_role(const attn &a, const CUtensorMap &q_map, uint8_t *q, shared *sh) {
  tiles all = all_tiles(a);
  attn_tile t;
  int head;
  uint32_t turn = 1;
  while (next_tile(a, &all, &t, &head)) {
    ti_mbar_wait(&sh->tile_empty, turn);
    turn ^= 1;
    load_tile<DIM>(a, q_map, t, head, turn, q, sh);
  }
  ti_mbar_wait(&sh->tile_empty, turn);
  if (threadIdx.x == THREADS - LOADERS) sh->end = true;
  ti_mbar_arrive(&sh->tile_full);
}

static __device__ __forceinline__ void init_barriers(shared *sh, int n_stage, const CUtensorMap &map, const CUtensorMap &q_map) {
  ti_tma_prefetch_map(&map);
  ti_tma_prefetch_map(&q_map);
  for (int i = 0; i < n_stage; i++) {
    ti_mbar_init(&sh->full[i], 1);
    ti_mbar_init(&sh->empty[i], MATH / 32);
  }
  ti_mbar_init(&sh->tile_full, LOADERS);
  ti_mbar_init(&sh->tile_empty, MATH / 32);
  ti_fence_mbar_init();
  sh->end = false;
}

template <int DIM>
static __global__ void __launch_bounds__(THREADS, 1)
    prefill_kernel(const __grid_constant__ attn a, const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap q_map, int n_stage) {
  constexpr int HALVES = (DIM + 63) / 64, STAGE = HALVES * SPAN * 128, N_O = DIM / 2;
  extern __shared__ __align__(1024) uint8_t mem[];
  uint8_t *const q = mem, *const ring = mem + HALVES * ROWS * 128;
  float *const row_o = (float *)(ring + (size_t)n_stage * STAGE) + threadIdx.x;  // [N_O][MATH]
  shared *const sh = (shared *)(ring + (size_t)n_stage * STAGE + N_O * MATH * 4);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q4 = lane % 4;
  if (threadIdx.x == MATH) init_barriers(sh, n_stage, map, q_map);
  __syncthreads();
  ti_pdl_wait();
  ti_pdl_launch();
  if (group == GROUPS) {
    ti_reg_dealloc<24>();
    if (warp == MATH / 32) {
      fetch_role<DIM>(a, map, ring, n_stage, sh);
    } else {
      load_role<DIM>(a, q_map, q, sh);
    }
    return;
  }
  ti_reg_alloc<240>();

  const uint8_t *my_q = q + group * GROUP_ROWS * 128;
  float x[64], o[N_O], chunk_o[N_O], chunk_m[2], chunk_l[2], row_m[2], row_l[2];
  int stage = 0;
  uint32_t phase = 0, turn = 0;
  // s: span; t: read again where it is wanted, registers are dear
  auto step = [&](int s, const attn_tile &t, auto more_) __attribute__((always_inline)) {
    constexpr bool more = decltype(more_)::value;
    if (s * SPAN < t.lo_all || s * SPAN + SPAN > t.hi_plain + 1) mask_out(x, sh, 16 * warp + g, s * SPAN + 2 * q4, t.own0, a.mask != nullptr);
    if constexpr (!more) {  // q and the rows' limits are read no more
      __syncwarp();
      if (lane == 0) ti_mbar_arrive(&sh->tile_empty);
    }
    uint32_t p[8][4];
    float m[2], l[2];
    softmax(x, a.c, p, m, l);
    ti_mbar_wait(&sh->full[stage], phase);
    const int v_stage = stage;
    if (s * SPAN < t.lo || s * SPAN + SPAN - 1 > t.hi) {
      attn_clear_outside<HALVES, SPAN, 128>(ring + (size_t)stage * STAGE, s, t.lo, t.hi, threadIdx.x % 128);  // both groups write the same zeros
      ti_fence_proxy_async();
      ti_bar_sync(1 + group, 128);
    }
    values<DIM>(o, p, ring + (size_t)stage * STAGE);
    if (++stage == n_stage) stage = 0, phase ^= 1;
    const int k_stage = stage;
    if constexpr (more) {
      ti_mbar_wait(&sh->full[stage], phase);
      scores<DIM>(x, my_q, ring + (size_t)stage * STAGE);
      if (++stage == n_stage) stage = 0, phase ^= 1;
      ti_wgmma_wait<1>();
    } else {
      ti_wgmma_wait<0>();
    }
    ti_wgmma_hold(o);
    if (lane == 0) ti_mbar_arrive(&sh->empty[v_stage]);
    const bool last = !more || s % CHUNK_SPANS == CHUNK_SPANS - 1;
    fold_factors f[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      f[r] = fold_of(chunk_m[r], m[r]);
      chunk_m[r] = f[r].max;
      chunk_l[r] = fold(chunk_l[r], l[r], f[r]);
    }
#pragma unroll
    for (int i = 0; i < N_O; i++) chunk_o[i] = fold(chunk_o[i], o[i], f[i / 2 % 2]);
    if (last) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        f[r] = fold_of(row_m[r], chunk_m[r]);
        row_m[r] = f[r].max;
        row_l[r] = fold(row_l[r], quad_sum(chunk_l[r]), f[r]);
        chunk_m[r] = -CUDART_INF_F, chunk_l[r] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < N_O; i++) {
        row_o[i * MATH] = fold(row_o[i * MATH], chunk_o[i], f[i / 2 % 2]);
        chunk_o[i] = 0.0f;
      }
    }
    if constexpr (more) {
      ti_wgmma_wait<0>();
      ti_wgmma_hold(x);
      if (lane == 0) ti_mbar_arrive(&sh->empty[k_stage]);
    }
  };
  for (;; turn ^= 1) {
    ti_mbar_wait(&sh->tile_full, turn);
    if (sh->end) return;
    const attn_tile &t = sh->t[turn];
    const int s0 = t.lo / SPAN, s1 = t.hi < t.lo ? s0 - 1 : t.hi / SPAN;
    chunk_m[0] = chunk_m[1] = row_m[0] = row_m[1] = -CUDART_INF_F;
    chunk_l[0] = chunk_l[1] = row_l[0] = row_l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < N_O; i++) chunk_o[i] = 0.0f, row_o[i * MATH] = 0.0f;
    if (s0 <= s1) {
      ti_mbar_wait(&sh->full[stage], phase);
      scores<DIM>(x, my_q, ring + (size_t)stage * STAGE);
      ti_wgmma_wait<0>();
      ti_wgmma_hold(x);
      if (lane == 0) ti_mbar_arrive(&sh->empty[stage]);
      if (++stage == n_stage) stage = 0, phase ^= 1;
      for (int s = s0; s < s1; s++) step(s, t, yes{});
      step(s1, t, no{});
    } else {
      __syncwarp();
      if (lane == 0) ti_mbar_arrive(&sh->tile_empty);
    }
    put_out<DIM>(a, t, sh->head[turn], row_o, row_l);
  }
}

template <int DIM>
static ti_status launch(ti_dev *d, const attn *a, const CUtensorMap *map) {
  constexpr int HALVES = (DIM + 63) / 64, STAGE = HALVES * SPAN * 128;
  const int n_stage = 4, tiles = ti_ceil_div((int64_t)a->n_row * a->group, ROWS) + a->n_seq;
  const size_t smem = (size_t)HALVES * ROWS * 128 + (size_t)n_stage * STAGE + DIM / 2 * MATH * 4 + sizeof(shared);
  static uint64_t allowed;
  const ti_status st = attn_allow_smem(d, (const void *)prefill_kernel<DIM>, smem, &allowed);
  if (st != TI_OK) return st;
  const int group = ROWS % a->group == 0 ? a->group : 1;
  const int64_t dim[3] = {DIM, a->n_head, a->n_row}, stride[2] = {DIM, a->ldq};
  const int box[3] = {64, group, ROWS / group};
  CUtensorMap q_map;
  if (ti_tensor_map_3d(&q_map, TI_TMA_BF16, a->q, dim, stride, box, TI_TMA_128B) != TI_OK) return TI_ERR_UNSUPPORTED;
  const int64_t items = (int64_t)tiles * a->n_kv_head;
  return ti_launch(d, "attention of chunks", prefill_kernel<DIM>, dim3((unsigned)(items < d->n_sm ? items : d->n_sm)), THREADS, smem, *a, *map, q_map,
                   n_stage);
}

ti_status attn_prefill(ti_dev *d, const attn *a, const CUtensorMap *map, int dim) {
  switch (dim) {
    case 64:
      return launch<64>(d, a, map);
    case 80:
      return launch<80>(d, a, map);
    case 96:
      return launch<96>(d, a, map);
    case 128:
      return launch<128>(d, a, map);
    default:
      return TI_ERR_UNSUPPORTED;
  }
}
