// The choice of a token, one launch whatever the rows ask for: a cluster of up to eight blocks holds a row in its shared memory (row_cluster.cuh).
//
//   greedy, or a draw without filters:  the row as it arrives -> the best of a thread, a warp, a block, the cluster
//   with filters:                       arrival: the maximum | level 1 .. (row_search.cuh): the cut | the draw among what is kept
//
// The draw is an argmax of x / t + Gumbel(philox(id)), so blocks, shards and skipped ids do not matter: an id is drawn for only where it can still
// win. Bounds: no Gumbel number exceeds 16.64, which needs no Philox; and ln(u / (1 - u)) <= -ln(-ln u) <= -ln(1 - u), which needs the fast logarithm
// only. The lower bounds make a value that the block has reached; where an upper bound beats it, division and logarithms are done as the reference
// does them: for one or two ids a warp.
#include "kernels/cuda/row_search.cuh"

extern "C" {
#include "kernels/cuda/sample.h"
}

#define GUMBEL_MAX 16.7f
#define SLACK 4e-7f  // relative, for x * (1 / t) in place of x / t

struct sample_shared {
  row_shared row;
  search_shared search;
  uint32_t lead;  // key of a value that some id of the block reaches
};

// Philox4x32-10's first word (base/rng.h), counter {id, position, choice, 1}.
static __device__ __forceinline__ uint32_t philox(const ti_sample_params &p, uint32_t id) {
  uint32_t k0 = (uint32_t)p.seed, k1 = (uint32_t)(p.seed >> 32), c0 = id, c1 = p.position, c2 = p.choice, c3 = 1;
#pragma unroll
  for (int r = 0; r < 10; r++) {
    const uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c2 = h0 ^ c3 ^ k1;
    c1 = l1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}
static __device__ __forceinline__ float unit(uint32_t x) { return ((float)(x >> 9) + 0.5f) * (1.0f / 8388608.0f); }

// A search for the largest x / t + Gumbel among elements >= keep: the thread's best, and a value that the block has reached already.
static __device__ __forceinline__ void draw_group(uint64_t &best, uint32_t *lead, const ti_sample_params &p, float4 v, float keep, float inv_t,
                                                  int id) {
  const float f[4] = {v.x, v.y, v.z, v.w}, had = row_unkey(*(volatile uint32_t *)lead);
  float y[4], top = -CUDART_INF_F, reach = -CUDART_INF_F;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    y[i] = f[i] >= keep && f[i] > -CUDART_INF_F ? f[i] * inv_t : -CUDART_INF_F;
    top = fmaxf(top, y[i] + fabsf(y[i]) * SLACK);
  }
  if (!__any_sync(0xffffffffu, top > -CUDART_INF_F && top + GUMBEL_MAX >= had)) return;
  float w[4];  // 1 - u, exactly
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[i] = unit(~philox(p, (uint32_t)(id + i)));
    const float g = -__logf(w[i]), slack = fabsf(y[i]) * SLACK + 1e-3f;
    reach = fmaxf(reach, y[i] + g + __logf(1.0f - w[i]) - slack);  // ln u - ln(1 - u) <= Gumbel
    y[i] = y[i] > -CUDART_INF_F ? y[i] + g + slack : y[i];
  }
  const float beat = fmaxf(had, row_unkey(__reduce_max_sync(0xffffffffu, row_key(reach))));
  if (threadIdx.x % 32 == 0 && beat > had) atomicMax(lead, row_key(beat));
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (y[i] > -CUDART_INF_F && y[i] >= beat) {
      const uint64_t q = row_pack(__fadd_rn(__fdiv_rn(f[i], p.temperature), -logf(-logf(unit(philox(p, (uint32_t)(id + i)))))), id + i);
      if (q > best) best = q;
    }
  }
}

// The smallest logit that stays.
static __device__ float keep_from(sample_shared *s, const row_part &part, const ti_sample_params &p, int n, float max) {
  const bool top_k = p.top_k > 0 && p.top_k < n, top_p = p.top_p < 1.0f;
  float keep = -CUDART_INF_F;
  if (top_k || top_p) {
    const search_row r = {&part, max, 1.0f / p.temperature, (SEARCH_BINS - 1) / (SEARCH_SPAN * p.temperature), top_k, top_p};
    uint32_t key = 0;
    search_begin(&s->search, r);
    uint64_t mass = top_p ? search_total(&s->search, part) : 0;
    if (top_k) {
      const search_result f = search_key(&s->search, r, false, (uint64_t)p.top_k);
      key = f.key;
      mass = f.mass;
    }
    if (top_p) {
      const uint64_t target = (uint64_t)ceil((double)p.top_p * (double)mass);
      const search_result f = search_key(&s->search, r, true, target > 1 ? target : 1);
      key = f.key > key ? f.key : key;
    }
    keep = row_unkey(key);
  }
  if (p.min_p > 0.0f) keep = fmaxf(keep, p.min_p >= 1.0f ? max : (float)((double)max + (double)p.temperature * log((double)p.min_p)));
  return keep;
}

__global__ void __launch_bounds__(ROW_THREADS, 2) sample_kernel(ti_sample_args a, int64_t ld) {
  extern __shared__ __align__(128) float4 buf[];
  __shared__ sample_shared s;
  const int r = (int)blockIdx.y, n = a.n_id, tid = (int)threadIdx.x;
  if (tid == 0) s.lead = row_key(-CUDART_INF_F);
  const row_part part = row_fetch(&s.row, buf, a.logits + r * ld, n);
  const ti_sample_params p = a.params[r];
  const bool greedy = p.temperature == 0.0f, filters = !greedy && (p.top_k > 0 || p.top_p < 1.0f || p.min_p > 0.0f);
  const float inv_t = 1.0f / p.temperature;
  uint64_t best = 0;
  float max = -CUDART_INF_F;
  int at = 0;
  for (int i = 0; i < part.pieces; i++) {
    row_wait(&s.row, i);
    const float4 v = part.v[i * ROW_THREADS + tid];
    const int first = part.first + (i * ROW_THREADS + tid) * 4;
    if (!greedy && !filters) {
      draw_group(best, &s.lead, p, v, -CUDART_INF_F, inv_t, a.first_id + first);
      continue;
    }
    const float f[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (f[j] > max) {
        max = f[j];
        at = first + j;
      }
    }
  }
  row_meet();
  if (max > -CUDART_INF_F) best = row_pack(max, a.first_id + at);
  best = row_max(&s.row, 0, part, best);
  if (filters && best) {
    const float keep = keep_from(&s, part, p, n, row_value(best));
    best = 0;
    for (int i = 0; i < part.pieces; i++) {
      draw_group(best, &s.lead, p, part.v[i * ROW_THREADS + tid], keep, inv_t, a.first_id + part.first + (i * ROW_THREADS + tid) * 4);
    }
    best = row_max(&s.row, 1, part, best);
  }
  if (part.rank == 0 && tid == 0) {
    a.id[r] = best ? row_id(best) : a.first_id;
    a.value[r] = best ? row_value(best) : -CUDART_INF_F;
  }
  ti_cluster_sync();  // nobody leaves while a peer reads
}

extern "C" ti_status ti_cuda_sample(ti_dev *d, const ti_sample_args *a) {
  assert(a->n_id > 0 && a->n_id <= TI_CUDA_MAX_VOCAB);
  return row_launch(d, "sample", sample_kernel, a->n_id, a->n_row, *a, a->ld ? a->ld : (int64_t)a->n_id);
}
