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
// Blocks: (tile, kv head), the last tiles first: under causality they have the most to do.
//
// Measured on an H200 (lab_attention, causal, TFLOP/s of the products that causality leaves):
//   dim 128: 16,384 rows, 16/16 heads 562; 4,096 rows, 32/8 432; 8 x 2,048, 32/8 328; 512 rows behind 7,680 places 488; 512 rows alone 100
//   dim 64:  8 x 2,048, 32/4 238
// Two lines through these figures: about 2.1 us a span (the tensor cores need half of it) and 6 us a block beside its spans (find the tile, Q, the
// first K; the epilogue), which short prompts pay most. To make the two warpgroups take turns at the tensor cores (named barriers) was no gain beyond
// noise (430 for 431; dim 64: 243 for 237). Not measured: a block that stays and fetches its next tile's Q, K and V during the epilogue; p V of one
// span under the softmax of the next (registers allow it at dim 64); parts of the sequence for few tiles, as decode has. No profile was taken: what
// fills the other half of a span is not known. E4M3 and dim 256 take decode's form for chunks: with bf16 at dim 128, 2,048 rows, that is 128.
#include "kernels/cuda/attention.cuh"

enum { GROUPS = 2, GROUP_ROWS = 64, ROWS = GROUPS * GROUP_ROWS, MATH = 128 * GROUPS, THREADS = MATH + 128 };

struct shared {
  int lo[ROWS], hi[ROWS];  // places that a row attends
  uint64_t mask[ROWS];
  uint64_t full[8], empty[8];
};

// The run and packed rows of tile `at`: runs of more than short_rows rows are cut into tiles of ROWS packed rows, in order.
static __device__ __forceinline__ bool find_tile(const attn &a, int at, attn_tile *t) {
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int s0 = 0; s0 < a.n_seq; s0 += 32) {
    const int s = s0 + lane, rows = s < a.n_seq ? a.seq_row0[s + 1] - a.seq_row0[s] : 0;
    const int n = rows > a.short_rows ? (rows * a.group + ROWS - 1) / ROWS : 0;
    int sum = n;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int v = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += v;
    }
    const uint32_t hit = __ballot_sync(0xffffffffu, before + sum > at);
    if (hit) {
      const int l = __ffs(hit) - 1;
      tile_of(a, s0 + l, (at - before - __shfl_sync(0xffffffffu, sum - n, l)) * ROWS, ROWS, t);
      return true;
    }
    before += __shfl_sync(0xffffffffu, sum, 31);
  }
  return false;
}

// Q of the tile's packed rows, zeros behind the run's last, as wgmma's A operand.
template <int DIM>
static __device__ __forceinline__ void load_q(const attn &a, const attn_tile &t, int head, uint8_t *dst) {
  constexpr int COLS = DIM / 8;
  for (int i = threadIdx.x; i < ROWS * COLS; i += MATH) {
    const int r = i / COLS, c = i % COLS, packed = t.first + r;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (packed < t.n) {
      const int row = t.row0 + packed / a.group, h = head * a.group + packed % a.group;
      v = *(const uint4 *)(a.q + (int64_t)row * a.ldq + (int64_t)h * DIM + 8 * c);
    }
    *(uint4 *)(dst + c / 8 * (ROWS * 128) + r * 128 + (((c ^ r) & 7) << 4)) = v;
  }
}

template <int DIM>
static __device__ __forceinline__ void scores(float (&x)[64], const uint8_t *q, const uint8_t *k) {
  ti_wgmma_fence();
#pragma unroll
  for (int i = 0; i < DIM / 16; i++) {
    ti_wgmma_bf16<SPAN>(x, ti_wgmma_desc(q + i / 4 * (ROWS * 128)) + 2 * (i % 4), ti_wgmma_desc(k + i / 4 * (SPAN * 128)) + 2 * (i % 4), i > 0);
  }
  ti_wgmma_commit();
}

template <int DIM>
static __device__ __forceinline__ void values(float (&o)[DIM / 2], const uint32_t (&p)[8][4], const uint8_t *v) {
  const uint64_t desc = ti_wgmma_desc_of(v, SPAN * 128, 1024, 1);
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
static __device__ __forceinline__ void mask_out(float (&x)[64], const shared *sh, int r0, int first_place, int own0) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int lo = sh->lo[r0 + 8 * r], hi = sh->hi[r0 + 8 * r];
    const uint64_t mask = sh->mask[r0 + 8 * r];
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int p = first_place + 8 * j + i, own = p - own0;
        const bool sees = p >= lo && p <= hi && (own < 0 || own > 63 || (mask >> own & 1));
        if (!sees) x[4 * j + 2 * r + i] = -CUDART_INF_F;
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
    const int row = t.row0 + packed / a.group, h = head * a.group + packed % a.group;
    const float inv = inverse(row_l[r]);
    bf16 *dst = a.out + (int64_t)row * a.ldo + (int64_t)h * DIM + 2 * q4;
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) {
      *(uint32_t *)(dst + 8 * j) = ti_pack_bf16(row_o[(4 * j + 2 * r) * MATH] * inv, row_o[(4 * j + 2 * r + 1) * MATH] * inv);
    }
  }
}

template <int DIM>
static __global__ void __launch_bounds__(THREADS, 1)
    prefill_kernel(const __grid_constant__ attn a, const __grid_constant__ CUtensorMap map, int n_stage) {
  constexpr int HALVES = (DIM + 63) / 64, STAGE = HALVES * SPAN * 128, N_O = DIM / 2;
  extern __shared__ __align__(1024) uint8_t mem[];
  uint8_t *const q = mem, *const ring = mem + HALVES * ROWS * 128;
  float *const row_o = (float *)(ring + (size_t)n_stage * STAGE) + threadIdx.x;  // [N_O][MATH]
  shared *const sh = (shared *)(ring + (size_t)n_stage * STAGE + N_O * MATH * 4);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q4 = lane % 4, head = blockIdx.y;
  if (threadIdx.x == MATH) {
    ti_tma_prefetch_map(&map);
    for (int i = 0; i < n_stage; i++) {
      ti_mbar_init(&sh->full[i], 1);
      ti_mbar_init(&sh->empty[i], MATH / 32);
    }
    ti_fence_mbar_init();
  }
  __syncthreads();
  ti_pdl_wait();
  ti_pdl_launch();
  attn_tile t;
  if (!find_tile(a, gridDim.x - 1 - blockIdx.x, &t)) return;
  const int s0 = t.lo / SPAN, s1 = t.hi < t.lo ? s0 - 1 : t.hi / SPAN;
  if (group == GROUPS) {
    ti_reg_dealloc<24>();
    int stage = 0;
    uint32_t phase = 1;
    if (warp == MATH / 32) attn_fetch<HALVES, 0, 64>(a, &map, t, head, s0, s1, ring, n_stage, sh->full, sh->empty, stage, phase);
    return;
  }
  ti_reg_alloc<240>();
  load_q<DIM>(a, t, head, q);
  if (threadIdx.x < ROWS) {
    const int row = t.row0 + min(t.first + (int)threadIdx.x, t.n - 1) / a.group;
    const row_span rs = row_limits(a, t.seq, row);
    sh->lo[threadIdx.x] = rs.lo, sh->hi[threadIdx.x] = rs.hi;
    sh->mask[threadIdx.x] = a.mask ? a.mask[row] : ~0ull;
  }
  ti_fence_proxy_async();
  ti_bar_sync(1, MATH);

  const uint8_t *my_q = q + group * GROUP_ROWS * 128;
  float x[64], o[N_O], chunk_o[N_O];
  float chunk_m[2] = {-CUDART_INF_F, -CUDART_INF_F}, chunk_l[2] = {0, 0}, row_m[2] = {-CUDART_INF_F, -CUDART_INF_F}, row_l[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < N_O; i++) chunk_o[i] = 0.0f, row_o[i * MATH] = 0.0f;
  int stage = 0;
  uint32_t phase = 0;
  if (s0 <= s1) {
    ti_mbar_wait(&sh->full[0], 0);
    scores<DIM>(x, my_q, ring);
    ti_wgmma_wait<0>();
    ti_wgmma_hold(x);
    if (lane == 0) ti_mbar_arrive(&sh->empty[0]);
    stage = 1;
  }
  auto step = [&](int s, auto more_) __attribute__((always_inline)) {
    constexpr bool more = decltype(more_)::value;
    if (s * SPAN < t.lo_all || s * SPAN + SPAN > t.hi_plain + 1) mask_out(x, sh, 16 * warp + g, s * SPAN + 2 * q4, t.own0);
    uint32_t p[8][4];
    float m[2], l[2];
    softmax(x, a.c, p, m, l);
    ti_mbar_wait(&sh->full[stage], phase);
    const int v_stage = stage;
    if (s * SPAN < t.lo || s * SPAN + SPAN - 1 > t.hi) {
      attn_clear_outside<HALVES, MATH>(ring + (size_t)stage * STAGE, s, t.lo, t.hi);
      ti_fence_proxy_async();
      ti_bar_sync(1, MATH);
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
  for (int s = s0; s < s1; s++) step(s, yes{});
  if (s0 <= s1) step(s1, no{});
  put_out<DIM>(a, t, head, row_o, row_l);
}

template <int DIM>
static ti_status launch(ti_dev *d, const attn *a, const CUtensorMap *map) {
  constexpr int HALVES = (DIM + 63) / 64, STAGE = HALVES * SPAN * 128;
  const int n_stage = 4, tiles = ti_ceil_div((int64_t)a->n_row * a->group, ROWS) + a->n_seq;
  const size_t smem = (size_t)HALVES * ROWS * 128 + (size_t)n_stage * STAGE + DIM / 2 * MATH * 4 + sizeof(shared);
  static uint64_t allowed;
  const ti_status st = attn_allow_smem(d, (const void *)prefill_kernel<DIM>, smem, &allowed);
  if (st != TI_OK) return st;
  return ti_launch(d, "attention of chunks", prefill_kernel<DIM>, dim3((unsigned)tiles, (unsigned)a->n_kv_head), THREADS, smem, *a, *map, n_stage);
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
