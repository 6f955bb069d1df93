// The choice of a token in two launches, whatever the rows ask for.
//
//   scan   blocks of 8,192 ids       greedy rows: the block's best logit; rows without filters: its best draw; others: its best logit
//   pick   up to eight blocks a row  the best of the scan's parts is the choice; rows with filters look for the cut (row_search.cuh) and draw
//                                    among what is kept
//
// The draw is an argmax of x / t + Gumbel(philox(id)), so blocks, shards and skipped ids do not matter: an id is drawn for only where it can still
// win. Bounds: no Gumbel number exceeds 16.64, which needs no Philox; and ln(u / (1 - u)) <= -ln(-ln u) <= -ln(1 - u), which needs the fast logarithm
// only. The lower bounds make a value that the block has reached; where an upper bound beats it, division and logarithms are done as the reference
// does them: for one or two ids a warp.
//
// H200, cold L2, us (share of what reading the logits once takes at the copy's bandwidth, 4,243 GB/s); flat noise, and rows with few high ids:
//                    64 x 128256 flat   peaked      256 x 32000 flat   1 x 32000 flat
//   greedy           15.6 (50%)         16.7        16.8 (46%)          7.6
//   temperature      40.8 (19%)         39.4        41.6 (19%)         13.7
//   top-k 50         56.2 (14%)         49.3        62.4 (12%)         26.3
//   top-p 0.9        83.2 (9%)          56.1        89.9 (9%)          38.0
// The draw issues about 60 instructions an id, 40 of them Philox (SASS). Filters go level by level: a pass, a cluster barrier, a look at the peers'
// sums; one row of 32,000 pays 14 us for top-k's over min-p, which has none. An earlier form kept rows in shared memory: fewer bytes from L2, but 64
// rows took three rounds of clusters (131 us for flat top-p). Next: a cut guessed from the scan's maxima, so that level 1 sees few ids.
#include "kernels/cuda/row_search.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define GUMBEL_MAX 16.7f
#define GUMBEL_MIN -2.9f
#define SLACK 4e-7f  // relative, for x * (1 / t) in place of x / t
#define SCAN_THREADS 256
#define SCAN_IDS (SCAN_THREADS * 4 * 8)

struct pick_shared {
  row_shared row;
  search_shared search;
  uint32_t lead;
};

// Philox4x32-10's first word (base/rng.h), counter {id, position, choice, 1}.
static __device__ __forceinline__ uint32_t philox(uint64_t seed, uint32_t position, uint32_t choice, uint32_t id) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32), c0 = id, c1 = position, c2 = choice, c3 = 1;
#pragma unroll
  for (int r = 0; r < 10; r++) {
    uint64_t p0, p1;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p0) : "r"(c0), "r"(0xD2511F53u));
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p1) : "r"(c2), "r"(0xCD9E8D57u));
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}
// ((x >> 9) + 0.5) * 2^-23 without a conversion: 1 + (x >> 9) * 2^-23, less 1 - 2^-24; both steps are exact.
static __device__ __forceinline__ float unit(uint32_t x) { return __uint_as_float(0x3f800000u | x >> 9) - 0x1.fffffep-1f; }

static __device__ __forceinline__ bool greedy(const ti_sample_params &p) { return p.temperature == 0.0f; }
static __device__ __forceinline__ bool filters(const ti_sample_params &p) {
  return p.temperature != 0.0f && (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f);
}

// x / t + Gumbel(u), rounded step by step as the reference does it.
static __device__ __noinline__ float draw_exactly(float x, float t, uint32_t c) { return __fadd_rn(__fdiv_rn(x, t), -logf(-logf(unit(c)))); }

// The thread's best x / t + Gumbel of the block's part, among elements >= keep. *lead is the key of a value that some id has reached already: eight
// ids at a time are passed over when the best of their logits with the best of their draws stays below it.
template <int THREADS>
static __device__ __forceinline__ uint64_t draw_part(uint32_t *lead, const ti_sample_params &p, const row_part &part, float keep, int first_id) {
  const float t = p.temperature, inv_t = 1.0f / t;
  uint64_t best = 0;
  float4 v[2] = {row_load(part, (int)threadIdx.x), row_load(part, (int)threadIdx.x + THREADS)};
  const int rounds = (part.groups + 2 * THREADS - 1) / (2 * THREADS);
#pragma unroll 1
  for (int round = 0; round < rounds; round++) {
    const int g = round * 2 * THREADS + (int)threadIdx.x, id = first_id + part.first + g * 4;
    const float f[8] = {v[0].x, v[0].y, v[0].z, v[0].w, v[1].x, v[1].y, v[1].z, v[1].w}, had = row_unkey(*(volatile uint32_t *)lead);
    v[0] = row_load(part, g + 2 * THREADS);
    v[1] = row_load(part, g + 3 * THREADS);
    float top = -CUDART_INF_F;
#pragma unroll
    for (int i = 0; i < 8; i++) top = fmaxf(top, f[i] >= keep ? f[i] : -CUDART_INF_F);
    top = top * inv_t;
    top = top + fabsf(top) * SLACK + 1e-3f;  // NaN for -inf: no comparison holds
    if (!__any_sync(0xffffffffu, top + GUMBEL_MAX >= had)) continue;
    uint32_t c[8], draw = 0;
    float x = 0.0f;  // of the best draw
#pragma unroll
    for (int i = 0; i < 8; i++) {
      c[i] = philox(p.seed, p.position, p.choice, (uint32_t)(id + i % 4 + i / 4 * THREADS * 4));
      x = c[i] >= draw ? f[i] : x;
      draw = max(draw, c[i]);
    }
    const bool hope = unit(~draw) <= __expf(top - had);
    if (!__any_sync(0xffffffffu, hope)) continue;
    float reach = -CUDART_INF_F;
    if (hope && x >= keep && x > -CUDART_INF_F) {
      const float w = unit(~draw), y = x * inv_t;  // 1 - u, exactly
      reach = y - fabsf(y) * SLACK - 1e-3f + __logf(1.0f - w) - __logf(w);
    }
    const float beat = fmaxf(had, row_unkey(__reduce_max_sync(0xffffffffu, row_key(reach))));
    if (threadIdx.x % 32 == 0 && beat > had) atomicMax(lead, row_key(beat));
    if (!hope) continue;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float y = f[i] * inv_t;
      if (f[i] >= keep && f[i] > -CUDART_INF_F && y + fabsf(y) * SLACK + 1e-3f - __logf(unit(~c[i])) >= beat) {
        const uint64_t q = row_pack(draw_exactly(f[i], t, c[i]), id + i % 4 + i / 4 * THREADS * 4);
        best = q > best ? q : best;
      }
    }
  }
  return best;
}
// The thread's largest logit of the block's part.
static __device__ __forceinline__ uint64_t max_part(const row_part &part, int first_id) {
  float max = -CUDART_INF_F;
  int at = 0;
#pragma unroll 1
  for (int g = (int)threadIdx.x; g < part.groups; g += ROW_BATCH * SCAN_THREADS) {
    float f[ROW_BATCH][4];
    row_load_batch(part, g, SCAN_THREADS, f);
#pragma unroll
    for (int b = 0; b < ROW_BATCH; b++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (f[b][i] > max) {
          max = f[b][i];
          at = (g + b * SCAN_THREADS) * 4 + i;
        }
      }
    }
  }
  return max > -CUDART_INF_F ? row_pack(max, first_id + part.first + at) : 0;
}

// best: [n_row, gridDim.x]
__global__ void __launch_bounds__(SCAN_THREADS, 4) scan_kernel(ti_sample_args a, int64_t ld, uint64_t *best) {
  __shared__ uint64_t warp[SCAN_THREADS / 32];
  __shared__ uint32_t lead;
  const int r = (int)blockIdx.y;
  if (threadIdx.x == 0) lead = row_key(-CUDART_INF_F);
  ti_pdl_wait();
  ti_pdl_launch();
  __syncthreads();
  const row_part part = row_share(a.logits + r * ld, a.n_id, blockIdx.x, gridDim.x);
  const ti_sample_params p = a.params[r];
  const bool by_logit = greedy(p) || filters(p);
  const uint64_t v = by_logit ? max_part(part, a.first_id) : draw_part<SCAN_THREADS>(&lead, p, part, -CUDART_INF_F, a.first_id);
  const uint64_t all = row_block_max(warp, v);
  if (threadIdx.x == 0) best[(int64_t)r * gridDim.x + blockIdx.x] = all;
}

// The smallest logit that stays.
static __device__ __forceinline__ float keep_from(pick_shared *s, const row_part &part, const ti_sample_params &p, int n, float max) {
  const bool top_k = p.top_k > 0 && p.top_k < n, top_p = p.top_p < 1.0f;
  float keep = -CUDART_INF_F;
  if (top_k || top_p) {
    const search_row r = {&part, max, 1.0f / p.temperature, (SEARCH_BINS - 1) / (SEARCH_SPAN * p.temperature), top_k, top_p};
    uint32_t key = 0;
    search_begin(&s->search, r);
    uint64_t mass = top_p ? search_total(&s->search, part) : 0;
#pragma unroll 1
    for (int by_mass = 0; by_mass < 2; by_mass++) {
      if (!(by_mass ? top_p : top_k)) continue;
      const uint64_t target = by_mass ? (uint64_t)ceil((double)p.top_p * (double)mass) : (uint64_t)p.top_k;
      const search_result f = search_key(&s->search, r, by_mass, target > 1 ? target : 1);
      key = f.key > key ? f.key : key;
      mass = f.mass;
    }
    keep = row_unkey(key);
  }
  if (p.min_p > 0.0f) keep = fmaxf(keep, p.min_p >= 1.0f ? max : (float)((double)max + (double)p.temperature * log((double)p.min_p)));
  return keep;
}

__global__ void __launch_bounds__(ROW_THREADS, 1) pick_kernel(ti_sample_args a, int64_t ld, const uint64_t *parts, int n_part) {
  __shared__ pick_shared s;
  row_arrive();  // waited for before peers are reached
  ti_pdl_wait();
  ti_pdl_launch();
  const int r = (int)blockIdx.y;
  const uint32_t rank = row_rank();
  const ti_sample_params p = a.params[r];
  uint64_t best = 0;
  for (int i = (int)threadIdx.x % 32; i < n_part; i += 32) {
    const uint64_t v = parts[(int64_t)r * n_part + i];
    best = v > best ? v : best;
  }
  best = row_warp_max(best);
  if (threadIdx.x == 0) s.lead = row_key(-CUDART_INF_F);
  row_wait();
  if (filters(p) && best) {
    const row_part part = row_share(a.logits + r * ld, a.n_id, rank, gridDim.x);
    const float max = row_value(best), least = max / p.temperature;  // what the best logit reaches at least
    if (threadIdx.x == 0) s.lead = row_key(least - fabsf(least) * SLACK + GUMBEL_MIN);
    const float keep = keep_from(&s, part, p, a.n_id, max);
    __syncthreads();
    best = row_max(&s.row, 0, part, draw_part<ROW_THREADS>(&s.lead, p, part, keep, a.first_id));
    // behind row_max's barrier each block reads its own memory only: they may leave
  }
  if (rank == 0 && threadIdx.x == 0) {
    a.id[r] = best ? row_id(best) : a.first_id;
    a.value[r] = best ? row_value(best) : -CUDART_INF_F;
  }
}

static int scan_blocks(int n) { return (n + SCAN_IDS - 1) / SCAN_IDS; }
extern "C" size_t ti_cuda_sample_scratch(int n_row, int vocab) { return (size_t)n_row * (size_t)scan_blocks(vocab) * sizeof(uint64_t); }

extern "C" ti_status ti_cuda_sample(ti_dev *d, const ti_sample_args *a) {
  assert(a->n_id > 0 && a->n_id <= TI_CUDA_MAX_VOCAB && ti_cuda_sample_scratch(a->n_row, a->n_id) <= d->scratch_bytes);
  uint64_t *parts = (uint64_t *)d->scratch;
  const int64_t ld = a->ld ? a->ld : a->n_id;
  const int n_part = scan_blocks(a->n_id);
  const ti_status st = ti_launch(d, "sample", scan_kernel, dim3((unsigned)n_part, (unsigned)a->n_row), dim3(SCAN_THREADS), 0, *a, ld, parts);
  return st != TI_OK ? st : row_launch(d, "sample", pick_kernel, a->n_id, a->n_row, *a, ld, (const uint64_t *)parts, n_part);
}
