// Log-probabilities of raw logits: log-softmax of the target, its rank, the best 20. Up to eight blocks a row (row_cluster.cuh), which pass over it
// four or five times, once from memory and then from L2:
//
//   the maximum, and how many beat the target | the sum of exp, and level 1 of .. | the 20th key (row_search.cuh) | gather, order 20 by counting
//
// NaN is -inf to the maximum, the sum and the rank, and is left out of the list. Ties at the 20th key: the lower ids. Blocks hold ascending ids, so
// a block's share of the ties follows from the counts of the blocks before it.
#include "kernels/cuda/row_search.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define TOP TI_TOP_LOGPROBS

struct logprob_shared {
  row_shared row;
  search_shared search;
  uint64_t top[TOP];  // block 0's is filled by all
  uint32_t n_top;
};

static __device__ __forceinline__ float logprob_of(float x, double lse) { return x > -CUDART_INF_F ? (float)((double)x - lse) : -CUDART_INF_F; }

static __device__ void put(logprob_shared *s, float x, int id) {
  const uint32_t at = peer_add(row_peer(ti_smem(&s->n_top), 0), 1);
  if (at < TOP) peer_store64(row_peer(ti_smem(&s->top[at]), 0), row_pack(x, id));
}

// The first `need` elements equal to `key` of this block, in the order of their ids; one warp.
static __device__ void put_ties(logprob_shared *s, const row_part &part, uint32_t key, int need) {
  const int lane = (int)threadIdx.x % 32;
  for (int g0 = 0; need > 0 && g0 < part.groups; g0 += 32) {
    const int g = g0 + lane;
    const float4 v = row_load(part, g);
    const float f[4] = {v.x, v.y, v.z, v.w};
    int mine = 0, before = 0;
    const int id = part.first + g * 4;
    for (int i = 0; i < 4; i++) mine += row_key(f[i]) == key && id + i >= part.begin && id + i < part.end;
    int sum = mine;
    for (int o = 1; o < 32; o <<= 1) {
      const int up = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += up;
    }
    before = sum - mine;
    for (int i = 0; i < 4; i++) {
      if (row_key(f[i]) == key && id + i >= part.begin && id + i < part.end && before++ < need) put(s, f[i], id + i);
    }
    need -= __shfl_sync(0xffffffffu, sum, 31);
  }
}

// All elements above the cut, and as many equal to it as there is room for, into block 0's list.
static __device__ void gather_top(logprob_shared *s, const row_part &part, const search_result &cut) {
  const uint64_t room = TOP - cut.above_count;  // cut.count <= TOP: no ties to choose among
  const bool choose = cut.count > TOP;
  uint64_t ties = 0;
#pragma unroll 1
  for (int g = (int)threadIdx.x; g < part.groups; g += ROW_BATCH * ROW_THREADS) {
    float f[ROW_BATCH][4];
    row_load_batch(part, g, ROW_THREADS, f);
#pragma unroll
    for (int j = 0; j < ROW_BATCH * 4; j++) {
      const float x = f[j / 4][j % 4];
      const uint32_t key = row_key(x);
      const int id = part.first + (g + j / 4 * ROW_THREADS) * 4 + j % 4;
      if (x != x || key < cut.key || id < part.begin || id >= part.end) continue;
      if (choose && key == cut.key) {
        ties++;
      } else {
        put(s, x, id);
      }
    }
  }
  if (!choose) return;
  __syncthreads();
  row_give(&s->row, 3, part, row_block_sum(s->row.warp, ties));
  row_sync();
  uint64_t before = 0;
  for (uint32_t r = 0; r < part.rank; r++) before += s->row.slot[3][r];
  if (before < room && threadIdx.x < 32) put_ties(s, part, cut.key, (int)(room - before));
}

__global__ void __launch_bounds__(ROW_THREADS, 1) logprobs_kernel(ti_logprob_args a, int64_t ld) {
  __shared__ logprob_shared s;
  if (threadIdx.x == 0) s.n_top = 0;
  row_arrive();  // with the wait below: every block has started before peers reach it
  ti_pdl_wait();
  ti_pdl_launch();
  const int r = (int)blockIdx.y, n = a.vocab, tid = (int)threadIdx.x, target = a.target[r];
  const float *x = a.logits + r * ld;
  const row_part part = row_share(x, n, row_rank(), gridDim.x);
  const float xt = target >= 0 ? fmaxf(x[target], -CUDART_INF_F) : CUDART_INF_F;  // the larger of NaN and a number is the number
  float max = -CUDART_INF_F;
  uint32_t better = 0;
#pragma unroll 1
  for (int g = tid; g < part.groups; g += ROW_BATCH * ROW_THREADS) {
    float f[ROW_BATCH][4];
    row_load_batch(part, g, ROW_THREADS, f);
#pragma unroll
    for (int j = 0; j < ROW_BATCH * 4; j++) {
      const float y = fmaxf(f[j / 4][j % 4], -CUDART_INF_F);
      const int id = part.first + (g + j / 4 * ROW_THREADS) * 4 + j % 4;
      max = fmaxf(max, y);
      better += y > xt || (y == xt && id >= part.begin && id < min(target, part.end));
    }
  }
  row_wait();
  const uint64_t best = row_max(&s.row, 0, part, row_pack(max, 0));
  const uint64_t rank = 1 + row_sum(&s.row, 1, part, better);
  max = row_value(best);
  double lse = -CUDART_INF;
  search_result cut = {row_key(-CUDART_INF_F), 0, ~0ull, 0};
  if (max > -CUDART_INF_F) {
    const search_row row = {&part, max, 1.0f, (SEARCH_BINS - 1) / SEARCH_SPAN, true, true};
    search_begin(&s.search, row);
    lse = (double)max + log((double)search_total(&s.search, part) / (double)MASS_ONE);
    if (a.top_id) cut = search_key(&s.search, row, false, TOP);
  }
  if (a.top_id) gather_top(&s, part, cut);
  row_sync();
  if (part.rank == 0) {
    if (tid == 0) {
      a.logprob[r] = target >= 0 ? logprob_of(xt, lse) : 0.0f;
      a.rank[r] = target >= 0 ? (int32_t)rank : 0;
    }
    const int have = min((int)s.n_top, TOP);
    if (a.top_id && tid < TOP) {
      int at = 0;
      for (int i = 0; i < have; i++) at += tid < have && s.top[i] > s.top[tid];
      if (tid >= have) at = tid;
      a.top_id[r * TOP + at] = tid < have ? row_id(s.top[tid]) : -1;
      a.top_logprob[r * TOP + at] = tid < have ? logprob_of(row_value(s.top[tid]), lse) : -CUDART_INF_F;
    }
  }
}

extern "C" ti_status ti_cuda_logprobs(ti_dev *d, const ti_logprob_args *a) {
  assert(a->vocab > 0 && a->vocab <= TI_CUDA_MAX_VOCAB);
  return row_launch(d, "logprobs", logprobs_kernel, a->vocab, a->n_row, *a, a->ld ? a->ld : (int64_t)a->vocab);
}
