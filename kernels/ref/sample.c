// Penalties, log-probabilities, the draw, and what becomes of the drawn ids. Sums over the vocabulary are in fp64: a hundred thousand addends are
// where fp32 would show.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/ref/ref_priv.h"

static void penalise_row(const ti_penalty_args *a, const ti_sample_params *p, float *logits) {
  const uint16_t *count = a->out_count ? a->out_count + (int64_t)p->slot * a->vocab : NULL;
  const uint8_t *prompt = a->in_prompt ? a->in_prompt + (int64_t)p->slot * a->vocab : NULL;
  for (int i = 0; i < a->n_id; i++) {
    const int id = a->first_id + i, n = count ? count[id] : 0;
    if (n > 0 || (prompt && prompt[id])) logits[i] = logits[i] > 0.0f ? logits[i] / p->repetition : logits[i] * p->repetition;
    if (n > 0) logits[i] = logits[i] - p->frequency * (float)n - p->presence;
  }
  for (int i = p->bias0; i < p->bias0 + p->n_bias; i++) {
    const int at = a->bias_id[i] - a->first_id;
    if (at < 0 || at >= a->n_id) continue;
    if (isinf(a->bias_value[i]) && !p->suppress_eos) continue;
    logits[at] += a->bias_value[i];
  }
}

ti_status ref_penalties(ti_dev *d, const ti_penalty_args *a) {
  for (int r = 0; r < a->n_row; r++) penalise_row(a, &a->params[r], a->logits + (int64_t)r * a->n_id);
  return TI_OK;
}

static float number(float x) { return isnan(x) ? -INFINITY : x; }

static double log_sum_exp(const float *x, int n) {
  float max = -INFINITY;
  double sum = 0.0;
  for (int i = 0; i < n; i++) max = fmaxf(max, x[i]);
  if (!(max > -INFINITY)) return -INFINITY;
  for (int i = 0; i < n; i++) sum += exp((double)number(x[i]) - (double)max);
  return (double)max + log(sum);
}

static float logprob_of(float x, double lse) { return x > -INFINITY ? (float)((double)x - lse) : -INFINITY; }

// The best TI_TOP_LOGPROBS, by insertion: an equal value goes behind the one that came first.
static void top_of(const float *x, int n, double lse, int32_t *id, float *logprob) {
  float best[TI_TOP_LOGPROBS];
  int have = 0;
  for (int i = 0; i < n; i++) {
    if (isnan(x[i]) || (have == TI_TOP_LOGPROBS && x[i] <= best[have - 1])) continue;
    int at = have < TI_TOP_LOGPROBS ? have++ : have - 1;
    for (; at > 0 && x[i] > best[at - 1]; at--) {
      best[at] = best[at - 1];
      id[at] = id[at - 1];
    }
    best[at] = x[i];
    id[at] = i;
  }
  for (int i = 0; i < TI_TOP_LOGPROBS; i++) {
    if (i >= have) id[i] = -1;
    logprob[i] = i < have ? logprob_of(best[i], lse) : -INFINITY;
  }
}

ti_status ref_logprobs(ti_dev *d, const ti_logprob_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    const float *x = a->logits + r * ref_ld(a->ld, a->vocab);
    const int target = a->target[r];
    const double lse = log_sum_exp(x, a->vocab);
    a->logprob[r] = 0.0f;
    a->rank[r] = 0;
    if (target >= 0) {
      int rank = 1;
      const float mine = number(x[target]);
      for (int i = 0; i < a->vocab; i++) rank += number(x[i]) > mine || (number(x[i]) == mine && i < target);
      a->logprob[r] = logprob_of(mine, lse);
      a->rank[r] = rank;
    }
    if (a->top_id) top_of(x, a->vocab, lse, a->top_id + (int64_t)r * TI_TOP_LOGPROBS, a->top_logprob + (int64_t)r * TI_TOP_LOGPROBS);
  }
  return TI_OK;
}

// Heapsort, largest first: in place, no allocation, no bad case.
static void sift_down(float *v, int i, int n) {
  for (;;) {
    int child = 2 * i + 1;
    if (child >= n) return;
    if (child + 1 < n && v[child + 1] < v[child]) child++;
    if (!(v[child] < v[i])) return;
    const float t = v[i];
    v[i] = v[child];
    v[child] = t;
    i = child;
  }
}
static void sort_descending(float *v, int n) {
  for (int i = n / 2 - 1; i >= 0; i--) sift_down(v, i, n);
  for (int end = n - 1; end > 0; end--) {
    const float t = v[0];
    v[0] = v[end];
    v[end] = t;
    sift_down(v, 0, end);
  }
}

// The smallest logit that the row's filters keep: each filter keeps a prefix of the sorted row, ties at its boundary included.
static float keep_threshold(ti_dev *d, const float *x, int n, const ti_sample_params *p) {
  const bool top_k = p->top_k > 0 && p->top_k < n, top_p = p->top_p<1.0f, min_p = p->min_p> 0.0f;
  if (!top_k && !top_p && !min_p) return -INFINITY;
  assert(n <= d->vocab);
  float *v = d->sorted;
  int have = 0;
  for (int i = 0; i < n; i++) {
    if (x[i] > -INFINITY) v[have++] = x[i];
  }
  if (have == 0) return -INFINITY;
  sort_descending(v, have);
  if (top_k && p->top_k < have) {
    const float last = v[p->top_k - 1];
    int kept = p->top_k;
    while (kept < have && v[kept] == last) kept++;
    have = kept;
  }
  const double temperature = (double)p->temperature, max = (double)v[0];
  if (top_p) {
    double sum = 0.0, mass = 0.0;
    for (int i = 0; i < have; i++) sum += exp(((double)v[i] - max) / temperature);
    int kept = 0;
    while (kept < have && mass < (double)p->top_p * sum) mass += exp(((double)v[kept++] - max) / temperature);
    have = kept > 0 ? kept : 1;
  }
  while (min_p && have > 1 && exp(((double)v[have - 1] - max) / temperature) < (double)p->min_p) have--;
  return v[have - 1];
}

static float gumbel(const ti_sample_params *p, int id) {
  const uint32_t key[2] = {(uint32_t)p->seed, (uint32_t)(p->seed >> 32)}, ctr[4] = {(uint32_t)id, p->position, p->choice, 1};
  uint32_t out[4];
  ti_philox4x32(key, ctr, out);
  return -logf(-logf(ti_u32_to_unit(out[0])));
}

ti_status ref_sample(ti_dev *d, const ti_sample_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    const ti_sample_params *p = &a->params[r];
    const float *x = a->logits + r * ref_ld(a->ld, a->n_id);
    const bool greedy = p->temperature == 0.0f;
    const float threshold = greedy ? -INFINITY : keep_threshold(d, x, a->n_id, p);
    int best = 0;
    float value = -INFINITY;
    for (int i = 0; i < a->n_id; i++) {
      if (!(x[i] >= threshold) || x[i] == -INFINITY) continue;
      const float v = greedy ? x[i] : x[i] / p->temperature + gumbel(p, a->first_id + i);
      if (v > value) {
        value = v;
        best = i;
      }
    }
    a->id[r] = a->first_id + best;
    a->value[r] = value;
  }
  return TI_OK;
}

ti_status ref_tokens(ti_dev *d, const ti_token_args *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->id[i] < 0 || a->slot[i] < 0) continue;
    a->last[a->slot[i]] = a->id[i];
    if (!a->out_count || !a->counted || !a->counted[a->slot[i]]) continue;
    uint16_t *count = &a->out_count[(int64_t)a->slot[i] * a->vocab + a->id[i]];
    *count = (uint16_t)(*count + (*count < UINT16_MAX));
  }
  return TI_OK;
}

ti_status ref_feed(ti_dev *d, const ti_feed_args *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->ids[i] == -1) a->ids[i] = a->last[a->slot[i]];
  }
  return TI_OK;
}
