// The choice of a token, one launch whatever the rows ask for: a cluster of up to eight blocks holds a row in its shared memory (row_cluster.cuh).
//
//   greedy, or a draw without filters:  the row as it arrives -> the best of a thread, a warp, a block, the cluster
//   with filters:                       arrival: the maximum | level 1 .. (row_search.cuh): the cut | the draw among what is kept
//
// The draw is an argmax of x / t + Gumbel(philox(id)), so blocks, shards and skipped ids do not matter: an id is drawn for only where it can still
// win. Bounds: no Gumbel number exceeds 16.64, which needs no Philox; and ln(u / (1 - u)) <= -ln(-ln u) <= -ln(1 - u), which needs the fast logarithm
// only. The lower bounds make a value that the block has reached; where an upper bound beats it, division and logarithms are done as the reference
// does them: for one or two ids a warp. The last thing that blocks share is row_max, behind whose barrier each reads its own memory: they may leave.
#include "kernels/cuda/row_search.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define GUMBEL_MAX 16.7f
#define SLACK 4e-7f  // relative, for x * (1 / t) in place of x / t

struct sample_shared {
  row_shared row;
  search_shared search;
  ti_sample_params params;
  uint32_t lead;  // key of a value that some id of the block reaches
};

// Philox4x32-10's first word (base/rng.h), counter {id, position, choice, 1}.
static __device__ __forceinline__ uint32_t philox(uint64_t seed, uint32_t position, uint32_t choice, uint32_t id) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32), c0 = id, c1 = position, c2 = choice, c3 = 1;
#pragma unroll
  for (int r = 0; r < 10; r++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
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

// The thread's best x / t + Gumbel of the block's part, among elements >= keep. s->lead is a value that some id has reached already: four ids at a
// time are passed over when the best of their logits with the best of their draws stays below it.
static __device__ __forceinline__ uint64_t draw_part(sample_shared *s, const row_part &part, float keep, int first_id) {
  const uint64_t seed = s->params.seed;
  const uint32_t position = s->params.position, choice = s->params.choice;
  const float t = s->params.temperature, inv_t = 1.0f / t;
  uint64_t best = 0;
#pragma unroll 1
  for (int piece = 0; piece < part.pieces; piece++) {
    row_wait(&s->row, piece);
    const int g = piece * ROW_THREADS + (int)threadIdx.x, id = first_id + part.first + g * 4;
    const float4 v = part.v[g];
    const float f[4] = {v.x, v.y, v.z, v.w}, lead = row_unkey(*(volatile uint32_t *)&s->lead);
    float top = -CUDART_INF_F;
#pragma unroll
    for (int i = 0; i < 4; i++) top = fmaxf(top, f[i] >= keep ? f[i] : -CUDART_INF_F);
    top = top * inv_t;
    top = top + fabsf(top) * SLACK + 1e-3f;  // NaN for -inf: no comparison holds
    if (!__any_sync(0xffffffffu, top + GUMBEL_MAX >= lead)) continue;
    uint32_t c[4];
#pragma unroll
    for (int i = 0; i < 4; i++) c[i] = philox(seed, position, choice, (uint32_t)(id + i));
    const uint32_t draw = max(max(c[0], c[1]), max(c[2], c[3]));
    const bool hope = unit(~draw) <= __expf(top - lead);
    if (!__any_sync(0xffffffffu, hope)) continue;
    float reach = -CUDART_INF_F;
    if (hope) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (f[i] >= keep && f[i] > -CUDART_INF_F) {
          const float w = unit(~c[i]), y = f[i] * inv_t;
          reach = fmaxf(reach, y - fabsf(y) * SLACK - 1e-3f + __logf(1.0f - w) - __logf(w));
        }
      }
    }
    const float beat = fmaxf(lead, row_unkey(__reduce_max_sync(0xffffffffu, row_key(reach))));
    if (threadIdx.x % 32 == 0 && beat > lead) atomicMax(&s->lead, row_key(beat));
    if (!hope) continue;
#pragma unroll 1
    for (int i = 0; i < 4; i++) {
      const float x = i < 2 ? (i ? f[1] : f[0]) : (i == 2 ? f[2] : f[3]), y = x * inv_t;
      if (!(x >= keep && x > -CUDART_INF_F)) continue;
      const float u = unit(philox(seed, position, choice, (uint32_t)(id + i)));
      if (!(y + fabsf(y) * SLACK + 1e-3f - __logf(1.0f - u) >= beat)) continue;
      const uint64_t q = row_pack(__fadd_rn(__fdiv_rn(x, t), -logf(-logf(u))), id + i);
      best = q > best ? q : best;
    }
  }
  return best;
}
// The thread's largest logit of the block's part.
static __device__ __forceinline__ uint64_t max_part(sample_shared *s, const row_part &part, int first_id) {
  float max = -CUDART_INF_F;
  int at = 0;
#pragma unroll 1
  for (int piece = 0; piece < part.pieces; piece++) {
    row_wait(&s->row, piece);
    const int g = piece * ROW_THREADS + (int)threadIdx.x;
    const float4 v = part.v[g];
    const float f[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (f[j] > max) {
        max = f[j];
        at = g * 4 + j;
      }
    }
  }
  return max > -CUDART_INF_F ? row_pack(max, first_id + part.first + at) : 0;
}

// The smallest logit that stays.
static __device__ __forceinline__ float keep_from(sample_shared *s, const row_part &part, const ti_sample_params &p, int n, float max) {
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

__global__ void __launch_bounds__(ROW_THREADS, 1) sample_kernel(ti_sample_args a, int64_t ld) {
  extern __shared__ __align__(128) float4 buf[];
  __shared__ sample_shared s;
  const int r = (int)blockIdx.y, n = a.n_id, tid = (int)threadIdx.x;
  if (tid == 0) s.lead = row_key(-CUDART_INF_F);
  const row_part part = row_fetch(&s.row, buf, a.logits + r * ld, n);
  if (tid == 0) s.params = a.params[r];
  __syncthreads();
  const ti_sample_params &p = s.params;
  const bool greedy = p.temperature == 0.0f, filters = !greedy && (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f);
  uint64_t best = 0;
  float keep = -CUDART_INF_F;
  bool draw = !greedy;
  if (greedy || filters) {
    best = max_part(&s, part, a.first_id);
    row_meet();
    best = row_max(&s.row, 0, part, best);
    draw = filters && best;
    if (draw) keep = keep_from(&s, part, p, n, row_value(best));
  } else {
    row_meet();
  }
  if (draw) best = row_max(&s.row, 1, part, draw_part(&s, part, keep, a.first_id));
  if (part.rank == 0 && tid == 0) {
    a.id[r] = best ? row_id(best) : a.first_id;
    a.value[r] = best ? row_value(best) : -CUDART_INF_F;
  }
}

extern "C" ti_status ti_cuda_sample(ti_dev *d, const ti_sample_args *a) {
  assert(a->n_id > 0 && a->n_id <= TI_CUDA_MAX_VOCAB);
  return row_launch(d, "sample", sample_kernel, a->n_id, a->n_row, *a, a->ld ? a->ld : (int64_t)a->n_id);
}
