// Mixture of experts: routing, sorting rows by expert, gathering and weighted scattering. All of it by scanning; n_expert is at most a few hundred.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/ref/ref_priv.h"

#define MAX_EXPERT 1024
#define MAX_GROUP 64

// Index of the largest of v[n] that is not taken, the lower one among equals; the first free one when nothing compares (NaN).
static int best_of(const float *v, const bool *taken, int n) {
  int best = -1;
  for (int i = 0; i < n; i++) {
    if (!taken[i] && (best < 0 || v[i] > v[best])) best = i;
  }
  return best;
}

static void score_row(const ti_router_args *a, const float *logits, float *score) {
  if (a->sigmoid) {
    for (int e = 0; e < a->n_expert; e++) score[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float max = -INFINITY, sum = 0.0f;
  for (int e = 0; e < a->n_expert; e++) max = fmaxf(max, logits[e]);
  for (int e = 0; e < a->n_expert; e++) sum += score[e] = expf(logits[e] - max);
  for (int e = 0; e < a->n_expert; e++) score[e] /= sum;
}

// Lowers the selection scores of all but the best n_top_group groups to -inf.
static void drop_groups(const ti_router_args *a, float *choice) {
  if (a->n_group <= 1 || a->n_top_group >= a->n_group) return;
  const int size = a->n_expert / a->n_group;
  float group[MAX_GROUP];
  bool kept[MAX_GROUP] = {false};
  for (int g = 0; g < a->n_group; g++) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < size; i++) {
      const float c = choice[g * size + i];
      if (c > first) {
        second = first;
        first = c;
      } else if (c > second) {
        second = c;
      }
    }
    group[g] = a->group_top2 ? first + second : first;
  }
  for (int i = 0; i < a->n_top_group; i++) kept[best_of(group, kept, a->n_group)] = true;
  for (int e = 0; e < a->n_expert; e++) {
    if (!kept[e / size]) choice[e] = -INFINITY;
  }
}

ti_status ref_router(ti_dev *d, const ti_router_args *a) {
  assert(a->n_expert <= MAX_EXPERT && a->n_group <= MAX_GROUP && a->n_top <= a->n_expert);
  assert(a->n_group <= 1 || a->n_expert % a->n_group == 0);
  float score[MAX_EXPERT], choice[MAX_EXPERT];
  for (int r = 0; r < a->n_row; r++) {
    int32_t *experts = a->experts + (int64_t)r * a->n_top;
    float *weights = a->weights + (int64_t)r * a->n_top, sum = 0.0f;
    bool taken[MAX_EXPERT] = {false};
    score_row(a, a->logits + (int64_t)r * a->n_expert, score);
    for (int e = 0; e < a->n_expert; e++) choice[e] = a->bias ? score[e] + a->bias[e] : score[e];
    drop_groups(a, choice);
    for (int j = 0; j < a->n_top; j++) {
      experts[j] = best_of(choice, taken, a->n_expert);
      taken[experts[j]] = true;
      weights[j] = score[experts[j]];
      sum += weights[j];
    }
    for (int j = 0; j < a->n_top; j++) weights[j] = (a->norm ? weights[j] / (sum + 1e-20f) : weights[j]) * a->scale;
  }
  return TI_OK;
}

ti_status ref_moe_sort(ti_dev *d, const ti_moe_sort_args *a) {
  const int n = a->n_row * a->n_top;
  int at = 0;
  for (int i = 0; i < a->capacity; i++) a->src[i] = -1;
  for (int i = 0; i < n; i++) a->dst[i] = -1;
  for (int e = 0; e < a->n_expert; e++) {
    a->offset[e] = at;
    int count = 0;
    for (int i = 0; i < n; i++) {
      if (a->experts[i] != e) continue;
      assert(at + count < a->capacity);
      a->src[at + count] = i;
      a->dst[i] = at + count++;
    }
    a->count[e] = count;
    at += (count + a->align - 1) / a->align * a->align;
  }
  assert(at <= a->capacity);
  a->offset[a->n_expert] = at;
  return TI_OK;
}

ti_status ref_permute(ti_dev *d, const ti_permute_args *a) {
  const size_t bytes = (size_t)a->dim * sizeof(float);
  for (int i = 0; i < a->n_out; i++) {
    float *out = (float *)a->out + (int64_t)i * a->dim;
    if (a->src[i] < 0) {
      memset(out, 0, bytes);
    } else {
      memcpy(out, (const float *)a->x + (int64_t)(a->src[i] / a->n_top) * a->dim, bytes);
    }
  }
  return TI_OK;
}

ti_status ref_unpermute(ti_dev *d, const ti_unpermute_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    float *out = (float *)a->out + (int64_t)r * a->dim;
    const int32_t *dst = a->dst + (int64_t)r * a->n_top;
    const float *weights = a->weights + (int64_t)r * a->n_top;
    for (int i = 0; i < a->dim; i++) {
      float sum = 0.0f;
      for (int j = 0; j < a->n_top; j++) {
        if (dst[j] >= 0) sum += weights[j] * ((const float *)a->y)[(int64_t)dst[j] * a->dim + i];
      }
      out[i] = a->accumulate ? out[i] + sum : sum;
    }
  }
  return TI_OK;
}
