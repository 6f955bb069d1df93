// Routing, sorting rows by expert, gathering them: little arithmetic, plain C.
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_priv.h"

#define MAX_EXPERT 1024
#define MAX_GROUP 64

typedef struct moe_run {
  const void *a;
} moe_run;

// Index of the largest of v[n] among those not taken, the lower one among equals; the first free one when nothing compares (NaN).
static int best_of(const float *v, const bool *taken, int n) {
  int best = -1;
  for (int i = 0; i < n; i++)
    if (!taken[i] && (best < 0 || v[i] > v[best])) best = i;
  return best;
}

static void score_row(const ti_router_args *a, const float *logits, float *score) {
  if (a->sigmoid) {
    for (int e = 0; e < a->n_expert; e++) score[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float max = -INFINITY, sum = 0.0f;
  for (int e = 0; e < a->n_expert; e++) max = logits[e] > max ? logits[e] : max;
  for (int e = 0; e < a->n_expert; e++) sum += score[e] = expf(logits[e] - max);
  for (int e = 0; e < a->n_expert; e++) score[e] /= sum;
}

// Lowers the selection scores of all but the best n_top_group groups to -inf.
static void drop_groups(const ti_router_args *a, float *choice) {
  const int size = a->n_expert / a->n_group;
  float group[MAX_GROUP];
  bool kept[MAX_GROUP] = {false};
  for (int g = 0; g < a->n_group; g++) {
    float first = -INFINITY, second = -INFINITY;
    for (const float *c = choice + g * size, *end = c + size; c < end; c++) {
      if (*c > first) {
        second = first;
        first = *c;
      } else if (*c > second) {
        second = *c;
      }
    }
    group[g] = a->group_top2 ? first + second : first;
  }
  for (int i = 0; i < a->n_top_group; i++) kept[best_of(group, kept, a->n_group)] = true;
  for (int e = 0; e < a->n_expert; e++)
    if (!kept[e / size]) choice[e] = -INFINITY;
}

static void route_rows(void *arg, int thread, int n_threads) {
  const ti_router_args *a = ((moe_run *)arg)->a;
  float score[MAX_EXPERT], choice[MAX_EXPERT];
  bool taken[MAX_EXPERT];
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    int32_t *experts = a->experts + (int64_t)r * a->n_top;
    float *weights = a->weights + (int64_t)r * a->n_top, sum = 0.0f;
    memset(taken, 0, (size_t)a->n_expert);
    score_row(a, a->logits + (int64_t)r * a->n_expert, score);
    for (int e = 0; e < a->n_expert; e++) choice[e] = a->bias ? score[e] + a->bias[e] : score[e];
    if (a->n_group > 1 && a->n_top_group < a->n_group) drop_groups(a, choice);
    for (int j = 0; j < a->n_top; j++) {
      experts[j] = best_of(choice, taken, a->n_expert);
      taken[experts[j]] = true;
      weights[j] = score[experts[j]];
      sum += weights[j];
    }
    for (int j = 0; j < a->n_top; j++) weights[j] = (a->norm ? weights[j] / (sum + 1e-20f) : weights[j]) * a->scale;
  }
}

ti_status ti_cpu_router(ti_dev *d, const ti_router_args *a) {
  assert(a->n_expert <= MAX_EXPERT && a->n_group <= MAX_GROUP && a->n_top <= a->n_expert);
  assert(a->n_group <= 1 || a->n_expert % a->n_group == 0);
  ti_cpu_run(d, (double)a->n_row * a->n_expert * (5.0 + a->n_top), route_rows, &(moe_run){a});
  return TI_OK;
}

ti_status ti_cpu_moe_sort(ti_dev *d, const ti_moe_sort_args *a) {
  const int n = a->n_row * a->n_top;
  int at = 0;
  memset(a->count, 0, (size_t)a->n_expert * sizeof *a->count);
  for (int i = 0; i < n; i++)
    if (a->experts[i] >= 0) a->count[a->experts[i]]++;
  for (int e = 0; e < a->n_expert; e++) {
    a->offset[e] = at;
    at += (a->count[e] + a->align - 1) / a->align * a->align;
  }
  assert(at <= a->capacity);
  a->offset[a->n_expert] = at;
  memset(a->src, 0xff, (size_t)a->capacity * sizeof *a->src);  // -1
  for (int i = 0; i < n; i++) {                                // offset[e] runs ahead to the next free place, then is set back
    const int e = a->experts[i];
    a->dst[i] = e < 0 ? -1 : a->offset[e]++;
    if (e >= 0) a->src[a->dst[i]] = i;
  }
  for (int e = 0; e < a->n_expert; e++) a->offset[e] -= a->count[e];
  return TI_OK;
}

static void permute_rows(void *arg, int thread, int n_threads) {
  const ti_permute_args *a = ((moe_run *)arg)->a;
  const size_t bytes = (size_t)a->dim * sizeof(float);
  int lo, hi;
  ti_cpu_share(a->n_out, thread, n_threads, &lo, &hi);
  for (int i = lo; i < hi; i++) {
    float *out = (float *)a->out + (int64_t)i * a->dim;
    if (a->src[i] < 0) {
      memset(out, 0, bytes);
    } else {
      memcpy(out, (const float *)a->x + (int64_t)(a->src[i] / a->n_top) * a->dim, bytes);
    }
  }
}

ti_status ti_cpu_permute(ti_dev *d, const ti_permute_args *a) {
  ti_cpu_run(d, 0.3 * a->n_out * a->dim, permute_rows, &(moe_run){a});
  return TI_OK;
}
