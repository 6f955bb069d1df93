// The choice of a token and log-probabilities. Included by sample_avx2.c and sample_avx512.c.
//
// A draw needs a Gumbel number an id, ten rounds of Philox and two logarithms each; but no Gumbel number exceeds GUMBEL_MAX, so vectors of ids whose
// best logit cannot beat the leader any more are skipped. Which ids a row's filters keep is one threshold on the logit: candidates near the top go
// into a heap and are popped until the filter is satisfied; a row so flat that they do not suffice is done again with all its ids.
#include <string.h>

#include "base/rng.h"
#include "kernels/cpu/cpu_priv.h"

#define GUMBEL_MAX 17.0f  // -ln(-ln(1 - 2^-24)) is 16.64
#define NEAR_TOP 12.0     // candidates: exp(-12) of the best or more

typedef struct sample_run {
  ti_dev *d;
  const void *a;
} sample_run;

// u = unit(philox(seed, (id, position, choice, 1))[0]) of VL ids -> -ln(-ln u).
static vf gumbel(const ti_sample_params *p, vi id) {
  const vi m0 = vi_set1((int32_t)0xD2511F53u), m1 = vi_set1((int32_t)0xCD9E8D57u);
  uint32_t k0 = (uint32_t)p->seed, k1 = (uint32_t)(p->seed >> 32);
  vi c0 = id, c1 = vi_set1((int32_t)p->position), c2 = vi_set1((int32_t)p->choice), c3 = vi_set1(1);
  for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    vi h0, l0, h1, l1;
    vi_mulhilo(m0, c0, &h0, &l0);
    vi_mulhilo(m1, c2, &h1, &l1);
    c0 = vi_xor(vi_xor(h1, c1), vi_set1((int32_t)k0));
    c2 = vi_xor(vi_xor(h0, c3), vi_set1((int32_t)k1));
    c1 = l1;
    c3 = l0;
  }
  const vf u = vf_mul(vf_add(vi_to_float(vi_shr(c0, 9)), vf_set1(0.5f)), vf_set1(1.0f / 8388608.0f));
  return vf_sub(vf_zero(), vf_log(vf_sub(vf_zero(), vf_log(u))));
}

TI_INLINE vf load_logits(const float *x, int i, int n) {  // -inf behind the end, and for NaN: a maximum is its second operand where the first is NaN
  const vf none = vf_set1(-INFINITY);
  if (i + VL <= n) return vf_max(vf_load(x + i), none);
  return vf_blend(none, vf_max(vf_load_n(x + i, n - i), none), vi_gt(vi_set1(n - i), vi_iota()));
}

static float max_of(const float *x, int n) {  // -inf when there is no number
  vf top = vf_set1(-INFINITY);
  for (int i = 0; i < n; i += VL) top = vf_max(load_logits(x, i, n), top);
  return vf_hmax(top);
}

// Sum of exp((x - max) / t), in double above chunks of 64 vectors.
static double mass_of(const float *x, int n, float max, float t) {
  double sum = 0.0;
  for (int i = 0; i < n;) {
    vf s = vf_zero();
    for (int end = ti_cpu_min(n, i + 64 * VL); i < end; i += VL)
      s = vf_add(s, vf_exp(vf_div(vf_sub(load_logits(x, i, n), vf_set1(max)), vf_set1(t))));
    sum += (double)vf_hsum(s);
  }
  return sum;
}

static int gather(const float *x, int n, float above, float *out) {  // logits > above
  int have = 0;
  for (int i = 0; i < n; i += VL) {
    for (unsigned bits = vm_bits(vf_gt(load_logits(x, i, n), vf_set1(above))); bits; bits &= bits - 1) out[have++] = x[i + __builtin_ctz(bits)];
  }
  return have;
}

// ---- a max-heap of floats ----

static void sift_down(float *v, int i, int n) {
  const float x = v[i];
  for (int c; (c = 2 * i + 1) < n; i = c) {
    if (c + 1 < n && v[c + 1] > v[c]) c++;
    if (!(v[c] > x)) break;
    v[i] = v[c];
  }
  v[i] = x;
}

static float pop(float *v, int *n) {
  const float x = v[0];
  v[0] = v[--*n];
  sift_down(v, 0, *n);
  v[*n] = x;  // popped ones lie behind the heap, the best last
  return x;
}

// The smallest logit that top-k, then top-p keep among `have` candidates, or false when these are too few to tell. mass: of all ids, for top-p alone.
static bool cut_candidates(float *v, int have, int top_k, double top_p, double max, double t, double mass, float *out) {
  const int all = have;
  for (int i = have / 2 - 1; i >= 0; i--) sift_down(v, i, have);
  float last = -INFINITY;
  if (top_k > 0) {
    if (have < top_k) return false;
    for (int i = 0; i < top_k || (have > 0 && v[0] == last); i++) last = pop(v, &have);
    mass = 0.0;
    for (int i = all - 1; i >= have; i--) mass += exp(((double)v[i] - max) / t);
  }
  if (top_p < 1.0) {
    double sum = 0.0;
    last = (float)max;  // whatever top_p is, the best stays
    for (int i = all - 1; sum < top_p * mass; i--) {
      if (i < have) {
        if (top_k > 0) break;  // rounding: all of them
        if (have == 0) return false;
        pop(v, &have);
      }
      last = v[i];
      sum += exp(((double)last - max) / t);
    }
  }
  *out = last;
  return true;
}

static float keep_threshold(const float *x, int n, float max, const ti_sample_params *p, float *buf) {
  const int top_k = p->top_k > 0 && p->top_k < n ? p->top_k : 0;
  float keep = -INFINITY;
  if (top_k > 0 || p->top_p < 1.0f) {
    const double mass = p->top_p < 1.0f && top_k == 0 ? mass_of(x, n, max, p->temperature) : 0.0;
    const int near = gather(x, n, (float)((double)max - NEAR_TOP * (double)p->temperature), buf);
    if (!cut_candidates(buf, near, top_k, (double)p->top_p, (double)max, (double)p->temperature, mass, &keep)) {
      const int have = gather(x, n, -INFINITY, buf);
      // Fewer finite ids than top_k, or mass that rounding keeps out of reach: everything stays.
      if (!cut_candidates(buf, have, top_k < have ? top_k : 0, (double)p->top_p, (double)max, (double)p->temperature,
                          mass > 0.0 ? mass : mass_of(x, n, max, p->temperature), &keep))
        keep = -INFINITY;
    }
  }
  if (p->min_p > 0.0f) {
    const float floor = p->min_p >= 1.0f ? max : (float)((double)max + (double)p->temperature * log((double)p->min_p));
    if (floor > keep) keep = floor;
  }
  return keep;
}

// ---- the choice ----

static int first_equal(const float *x, int n, float v) {
  for (int i = 0; i < n; i += VL) {
    const unsigned bits = vm_bits(vf_eq(load_logits(x, i, n), vf_set1(v)));
    if (bits) return i + __builtin_ctz(bits);
  }
  return 0;
}

static void draw(const float *x, int n, int first_id, float keep, const ti_sample_params *p, int *best_id, float *best_value) {
  const vf t = vf_set1(p->temperature), at_least = vf_set1(keep), none = vf_set1(-INFINITY);
  float value = -INFINITY;
  int best = 0;
  for (int i = 0; i < n; i += VL) {
    const vf logit = load_logits(x, i, n);
    vf v = vf_blend(none, vf_div(logit, t), vf_ge(logit, at_least));
    if (!vm_bits(vf_gt(vf_add(v, vf_set1(GUMBEL_MAX)), vf_set1(value)))) continue;
    v = vf_add(v, gumbel(p, vi_add(vi_iota(), vi_set1(first_id + i))));
    for (unsigned bits = vm_bits(vf_gt(v, vf_set1(value))); bits; bits &= bits - 1) {
      float lane[VL];
      vf_store(lane, v);
      const int j = __builtin_ctz(bits);
      if (lane[j] > value) {
        value = lane[j];
        best = i + j;
      }
    }
  }
  *best_id = best;
  *best_value = value;
}

static void sample_rows(void *arg, int thread, int n_threads) {
  const sample_run *run = arg;
  const ti_sample_args *a = run->a;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    const ti_sample_params *p = &a->params[r];
    const float *x = a->logits + r * ti_cpu_ld(a->ld, a->n_id), max = max_of(x, a->n_id);
    float value = max;
    int id = 0;
    if (max == -INFINITY) {
      // nothing to choose from: the first id, as the reference does
    } else if (p->temperature == 0.0f) {
      id = first_equal(x, a->n_id, max);
    } else {
      const bool filters = p->top_k > 0 || p->top_p < 1.0f || p->min_p > 0.0f;
      assert(!filters || a->n_id <= run->d->vocab);
      const float keep = filters ? keep_threshold(x, a->n_id, max, p, run->d->sort + (size_t)thread * (size_t)run->d->vocab) : -INFINITY;
      draw(x, a->n_id, a->first_id, keep, p, &id, &value);
    }
    a->id[r] = a->first_id + id;
    a->value[r] = value;
  }
}

ti_status TI_ISA(ti_cpu_sample)(ti_dev *d, const ti_sample_args *a) {
  ti_cpu_run(d, 2.0 * a->n_row * a->n_id, sample_rows, &(sample_run){d, a});
  return TI_OK;
}

// ---- log-probabilities ----

static float logprob_of(float x, double lse) { return x > -INFINITY ? (float)((double)x - lse) : -INFINITY; }

static int rank_of(const float *x, int n, int target) {  // 1 + how many are better: larger, or equal with a lower id
  int rank = 1;
  const vf v = vf_max(vf_set1(x[target]), vf_set1(-INFINITY));
  for (int i = 0; i < n; i += VL) {
    const vf y = load_logits(x, i, n);
    unsigned better = vm_bits(vf_gt(y, v)), same = vm_bits(vf_eq(y, v));
    if (i + VL > n) {
      same &= (1u << (n - i)) - 1u;
      better &= (1u << (n - i)) - 1u;
    }
    if (i + VL > target) same &= i >= target ? 0u : (1u << (target - i)) - 1u;
    rank += __builtin_popcount(better) + __builtin_popcount(same);
  }
  return rank;
}

static void top_of(const float *x, int n, double lse, int32_t *id, float *logprob) {
  float best[TI_TOP_LOGPROBS];
  int have = 0;
  for (int i = 0; i < n; i += VL) {
    unsigned bits = (1u << ti_cpu_min(VL, n - i)) - 1u;
    if (have == TI_TOP_LOGPROBS) bits &= vm_bits(vf_gt(load_logits(x, i, n), vf_set1(best[have - 1])));
    for (; bits; bits &= bits - 1) {
      const int j = i + __builtin_ctz(bits);
      if (x[j] != x[j] || (have == TI_TOP_LOGPROBS && x[j] <= best[have - 1])) continue;
      int at = have < TI_TOP_LOGPROBS ? have++ : have - 1;
      for (; at > 0 && x[j] > best[at - 1]; at--) {
        best[at] = best[at - 1];
        id[at] = id[at - 1];
      }
      best[at] = x[j];
      id[at] = j;
    }
  }
  for (int i = 0; i < TI_TOP_LOGPROBS; i++) {
    if (i >= have) id[i] = -1;
    logprob[i] = i < have ? logprob_of(best[i], lse) : -INFINITY;
  }
}

static void logprob_rows(void *arg, int thread, int n_threads) {
  const ti_logprob_args *a = ((sample_run *)arg)->a;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    const float *x = a->logits + r * ti_cpu_ld(a->ld, a->vocab), max = max_of(x, a->vocab);
    const int target = a->target[r];
    const double lse = max > -INFINITY ? (double)max + log(mass_of(x, a->vocab, max, 1.0f)) : -INFINITY;
    a->logprob[r] = target >= 0 ? logprob_of(x[target], lse) : 0.0f;
    a->rank[r] = target >= 0 ? rank_of(x, a->vocab, target) : 0;
    if (a->top_id) top_of(x, a->vocab, lse, a->top_id + (int64_t)r * TI_TOP_LOGPROBS, a->top_logprob + (int64_t)r * TI_TOP_LOGPROBS);
  }
}

ti_status TI_ISA(ti_cpu_logprobs)(ti_dev *d, const ti_logprob_args *a) {
  ti_cpu_run(d, 2.0 * a->n_row * a->vocab, logprob_rows, &(sample_run){d, a});
  return TI_OK;
}
