// Mixture of experts of every backend: routing against fp64 and exact ties, sorting with empty and foreign experts, gather, grouped products,
// scatter.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "weights.h"

static const int row_counts[] = {1, 2, 3, 5, 8, 33, 130};
enum { N_ROWS = 7, MAX_EXPERT = 256, MAX_TOP = 8 };

typedef struct routing {
  int32_t experts[MAX_TOP];
  double weights[MAX_TOP];
  double margin;  // between the last chosen selection score and the next, or the last kept group and the next: below it the choice is open
} routing;

static int argmax(const double *v, const bool *taken, int n) {
  int best = -1;
  for (int i = 0; i < n; i++) {
    if (!taken[i] && (best < 0 || v[i] > v[best])) best = i;
  }
  return best;
}

static void keep_groups(const ti_router_args *a, double *choice, routing *out) {
  if (a->n_group <= 1) return;
  const int size = a->n_expert / a->n_group;
  double group[MAX_EXPERT];
  bool kept[MAX_EXPERT] = {false};
  for (int g = 0; g < a->n_group; g++) {
    bool taken[MAX_EXPERT] = {false};
    const int first = argmax(choice + g * size, taken, size);
    taken[first] = true;
    group[g] = choice[g * size + first];
    if (a->group_top2) group[g] += choice[g * size + argmax(choice + g * size, taken, size)];
  }
  double last = 0.0;
  for (int i = 0; i < a->n_top_group; i++) {
    const int g = argmax(group, kept, a->n_group);
    kept[g] = true;
    last = group[g];
  }
  const int next = argmax(group, kept, a->n_group);
  if (next >= 0) out->margin = fmin(out->margin, last - group[next]);
  for (int e = 0; e < a->n_expert; e++) {
    if (!kept[e / size]) choice[e] = -INFINITY;
  }
}

static void route(const ti_router_args *a, const float *logits, const float *bias, routing *out) {
  double score[MAX_EXPERT], choice[MAX_EXPERT], sum = 0.0, max = -INFINITY;
  bool taken[MAX_EXPERT] = {false};
  out->margin = INFINITY;
  for (int e = 0; e < a->n_expert; e++) max = fmax(max, (double)logits[e]);
  for (int e = 0; e < a->n_expert; e++) sum += exp((double)logits[e] - max);
  for (int e = 0; e < a->n_expert; e++) {
    score[e] = a->sigmoid ? 1.0 / (1.0 + exp(-(double)logits[e])) : exp((double)logits[e] - max) / sum;
    choice[e] = score[e] + (bias ? (double)bias[e] : 0.0);
  }
  keep_groups(a, choice, out);
  sum = 0.0;
  double last = INFINITY;
  for (int j = 0; j < a->n_top; j++) {
    const int e = argmax(choice, taken, a->n_expert);
    taken[e] = true;
    out->experts[j] = e;
    out->weights[j] = score[e];
    out->margin = fmin(out->margin, last - choice[e]);
    last = choice[e];
    sum += score[e];
  }
  const int next = argmax(choice, taken, a->n_expert);
  if (next >= 0) out->margin = fmin(out->margin, last - choice[next]);
  for (int j = 0; j < a->n_top; j++) out->weights[j] *= (double)a->scale / (a->norm ? sum + 1e-20 : 1.0);
}

static void router_once(cf_dev *d, ti_router_args a, bool with_bias, int n_row, uint64_t seed) {
  const size_t n = (size_t)(n_row * a.n_expert), n_out = (size_t)(n_row * a.n_top);
  float *logits = cf_host(d, n * sizeof *logits), *bias = cf_floats(d, (size_t)a.n_expert, seed + 1, 0.05f);
  memcpy(logits, cf_floats(d, n, seed, 2.0f), n * sizeof *logits);
  a.n_row = n_row;
  a.logits = cf_up(d, logits, n * sizeof *logits);
  a.bias = with_bias ? cf_up(d, bias, (size_t)a.n_expert * sizeof *bias) : NULL;
  a.experts = cf_up(d, cf_host(d, n_out * 4), n_out * 4);
  a.weights = cf_out_f32(d, n_out);
  cf_ok(d, "router", d->k->router(d->d, &a));
  int32_t *experts = cf_host(d, n_out * 4);
  cf_down(d, experts, a.experts, n_out * 4);
  const float *weights = cf_down_f32(d, a.weights, n_out);
  for (int r = 0; r < n_row; r++) {
    routing want;
    route(&a, logits + r * a.n_expert, with_bias ? bias : NULL, &want);
    if (want.margin < 1e-6) continue;  // fp32 may choose otherwise
    for (int j = 0; j < a.n_top; j++)
      cr_assert(experts[r * a.n_top + j] == want.experts[j], "%s: router row %d choice %d is %d, want %d", d->k->name, r, j, experts[r * a.n_top + j],
                want.experts[j]);
    cf_close_to(d, "router weights", CF_ROUTER, weights + r * a.n_top, want.weights, NULL, (size_t)a.n_top);
  }
}

Test(router, matches_fp64) {
  static const ti_router_args forms[] = {
      {.n_expert = 256, .n_top = 8, .n_group = 8, .n_top_group = 4, .sigmoid = true, .group_top2 = true, .norm = true, .scale = 2.5f},
      {.n_expert = 16, .n_top = 4, .n_group = 4, .n_top_group = 2, .sigmoid = true, .group_top2 = true, .norm = true, .scale = 2.5f},
      {.n_expert = 160, .n_top = 6, .n_group = 8, .n_top_group = 3, .scale = 16.0f},
      {.n_expert = 64, .n_top = 8, .n_group = 1, .n_top_group = 1, .norm = true, .scale = 1.0f},
      {.n_expert = 7, .n_top = 7, .scale = 1.0f},
      {.n_expert = 1, .n_top = 1, .norm = true, .scale = 1.0f},
  };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, router)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int f = 0; f < 6; f++) {
      for (int i = 0; i < N_ROWS; i++, cf_reset(d)) router_once(d, forms[f], forms[f].sigmoid, row_counts[i], (uint64_t)(60 + f));
    }
    cf_close(d);
  }
}

// All scores equal, groups too: the lower index wins everywhere. Negative biases: a dropped group stays behind every kept one.
Test(router, ties_go_to_the_lower_index_and_dropped_groups_stay_out) {
  enum { E = 16, TOP = 4 };
  static const int32_t all_equal[TOP] = {0, 1, 2, 3}, negative[TOP] = {12, 13, 14, 15};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, router)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    const float logits[E] = {0};
    float bias[E];
    ti_router_args a = {.experts = cf_up(d, logits, TOP * 4),
                        .weights = cf_out_f32(d, TOP),
                        .logits = cf_up(d, logits, sizeof logits),
                        .n_row = 1,
                        .n_expert = E,
                        .n_top = TOP,
                        .n_group = 4,
                        .n_top_group = 1,
                        .sigmoid = true,
                        .group_top2 = true,
                        .norm = true,
                        .scale = 1.0f};
    int32_t got[TOP];
    cf_ok(d, "router", k->router(d->d, &a));
    cf_down(d, got, a.experts, sizeof got);
    cf_same_bits(d, "router of equal scores", got, all_equal, sizeof got);
    for (int e = 0; e < E; e++) bias[e] = e >= 12 ? -2.0f : -3.0f;  // every selection score is below zero
    a.bias = cf_up(d, bias, sizeof bias);
    cf_ok(d, "router", k->router(d->d, &a));
    cf_down(d, got, a.experts, sizeof got);
    cf_same_bits(d, "router of negative scores", got, negative, sizeof got);
    cf_close(d);
  }
}

// ---- sort, permute, grouped gemm, unpermute ----

typedef struct sorted {
  ti_moe_sort_args a;
  int32_t *experts, *count, *offset, *src, *dst;  // host
} sorted;

// Experts 0 .. n_expert - 1 with holes: expert 1 never, and a sixth of the choices are another rank's.
static sorted sort_once(cf_dev *d, int n_row, int n_top, int n_expert, int align) {
  const int n = n_row * n_top, capacity = (n / align + n_expert + 1) * align;
  sorted s = {.experts = cf_ints(d, (size_t)n, (uint64_t)(n_row + 70), n_expert + n_expert / 6 + 1)};
  for (int i = 0; i < n; i++) {
    if (s.experts[i] >= n_expert || s.experts[i] == 1) s.experts[i] = -1;
  }
  const size_t cap = (size_t)capacity;
  s.count = cf_host(d, (size_t)n_expert * 4);
  s.offset = cf_host(d, (size_t)(n_expert + 1) * 4);
  s.src = cf_host(d, cap * 4);
  s.dst = cf_host(d, (size_t)n * 4);
  memset(s.src, 0x55, cap * 4);
  s.a = (ti_moe_sort_args){.count = cf_up(d, s.count, (size_t)n_expert * 4),
                           .offset = cf_up(d, s.offset, (size_t)(n_expert + 1) * 4),
                           .src = cf_up(d, s.src, cap * 4),
                           .dst = cf_up(d, s.dst, (size_t)n * 4),
                           .experts = cf_up(d, s.experts, (size_t)n * 4),
                           .n_row = n_row,
                           .n_top = n_top,
                           .n_expert = n_expert,
                           .align = align,
                           .capacity = capacity};
  cf_ok(d, "moe_sort", d->k->moe_sort(d->d, &s.a));
  cf_down(d, s.count, s.a.count, (size_t)n_expert * 4);
  cf_down(d, s.offset, s.a.offset, (size_t)(n_expert + 1) * 4);
  cf_down(d, s.src, s.a.src, cap * 4);
  cf_down(d, s.dst, s.a.dst, (size_t)n * 4);
  return s;
}

Test(moe_sort, blocks_are_aligned_ascending_and_complete) {
  static const int forms[][3] = {{1, 4, 1}, {4, 16, 8}, {8, 256, 1}, {6, 7, 64}};  // n_top, n_expert, align
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, moe_sort)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int f = 0; f < 4; f++) {
      for (int i = 0; i < N_ROWS; i++, cf_reset(d)) {
        const int n_top = forms[f][0], n_expert = forms[f][1], align = forms[f][2], n = row_counts[i] * n_top;
        const sorted s = sort_once(d, row_counts[i], n_top, n_expert, align);
        int at = 0;
        for (int e = 0; e < n_expert; e++) {
          cr_assert(s.offset[e] == at, "%s: offset[%d] is %d, want %d", k->name, e, s.offset[e], at);
          int c = 0;
          for (int x = 0; x < n; x++) {
            if (s.experts[x] != e) continue;
            cr_assert(s.src[at + c] == x && s.dst[x] == at + c, "%s: expert %d, item %d: src %d, dst %d, want %d at %d", k->name, e, c, s.src[at + c],
                      s.dst[x], x, at + c);
            c++;
          }
          cr_assert(s.count[e] == c, "%s: count[%d] is %d, want %d", k->name, e, s.count[e], c);
          const int end = at + (c + align - 1) / align * align;
          for (at += c; at < end; at++) cr_assert(s.src[at] == -1, "%s: padding at %d is %d", k->name, at, s.src[at]);
        }
        cr_assert(s.offset[n_expert] == at, "%s: the last offset is %d, want %d", k->name, s.offset[n_expert], at);
        for (; at < s.a.capacity; at++) cr_assert(s.src[at] == -1, "%s: behind the last block, at %d: %d", k->name, at, s.src[at]);
        for (int x = 0; x < n; x++) cr_assert(s.experts[x] >= 0 || s.dst[x] == -1, "%s: dst of a foreign expert is %d", k->name, s.dst[x]);
      }
    }
    cf_close(d);
  }
}

Test(permute, gathers_rows_and_zeros) {
  enum { TOP = 4, E = 16, DIM = 33 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, moe_sort)
    CF_SKIP_WITHOUT(k, permute)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < N_ROWS; i++, cf_reset(d)) {
      const sorted s = sort_once(d, row_counts[i], TOP, E, 8);
      const size_t n = (size_t)(s.a.capacity * DIM);
      const float *x = cf_floats(d, (size_t)(row_counts[i] * DIM), 80, 1.0f);
      void *out = cf_out_act(d, n);
      const ti_permute_args a = {
          .out = out, .x = cf_up_act(d, x, (size_t)(row_counts[i] * DIM)), .src = s.a.src, .n_out = s.a.capacity, .n_top = TOP, .dim = DIM};
      cf_ok(d, "permute", k->permute(d->d, &a));
      const float *got = cf_down_act(d, out, n), zero[DIM] = {0};
      for (int r = 0; r < s.a.capacity; r++)
        cf_same_bits(d, "permute", got + r * DIM, s.src[r] < 0 ? zero : x + s.src[r] / TOP * DIM, DIM * sizeof(float));
    }
    cf_close(d);
  }
}

// A row of a grouped product has the bits of the plain product with that expert's matrix; padding rows are left as they were.
Test(grouped_gemm, equals_gemm_expert_by_expert) {
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_E4M3, TI_Q4_K};
  static const ti_act_quant quants[] = {TI_ACT_NONE, TI_ACT_FP8, TI_ACT_INT8};
  enum { TOP = 2, E = 5, K = 256, N = 65 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, moe_sort)
    CF_SKIP_WITHOUT(k, grouped_gemm)
    for (int c = 0; c < 12; c++) {
      cf_dev *d = cf_open(k, quants[c / 4], 3);
      for (int i = 0; i < N_ROWS; i++, cf_reset(d)) {
        ti_weight w[E];
        bool have = true;
        for (int e = 0; e < E; e++) {
          const ti_weight_src src = cf_weight_src(d, types[c % 4], N, K, 0, 0, (uint64_t)(90 + e));
          have = have && cf_weight(d, &src, 1, 0, &w[e]);
        }
        if (!have) continue;
        const sorted s = sort_once(d, row_counts[i], TOP, E, 4);
        const size_t n = (size_t)(s.a.capacity * N);
        char *x = cf_up_act(d, cf_floats(d, (size_t)(s.a.capacity * K), 91, 1.0f), (size_t)(s.a.capacity * K));
        void *out = cf_out_act(d, n), *one = cf_out_act(d, n);
        const ti_grouped_gemm_args a = {
            .out = out, .x = x, .w = w, .count = s.a.count, .offset = s.a.offset, .n_expert = E, .capacity = s.a.capacity};
        cf_ok(d, "grouped_gemm", k->grouped_gemm(d->d, &a));
        const float *got = cf_down_act(d, out, n);
        const size_t el = k->act == TI_F32 ? 4 : 2;
        // The same rows, each at a place of its own: the same bits.
        const void **rows = cf_host(d, (size_t)s.a.capacity * sizeof *rows);
        char *apart = cf_up_act(d, cf_floats(d, (size_t)(s.a.capacity * 2 * K), 92, 1.0f), (size_t)(s.a.capacity * 2 * K));
        for (int r = 0; r < s.a.capacity; r++) {
          const size_t to = (size_t)((s.a.capacity - 1 - r) * 2 + r % 2) * K * el;
          rows[r] = s.src[r] < 0 ? NULL : apart + to;
          if (rows[r]) cf_ok(d, "copy", k->copy(d->d, apart + to, x + (size_t)(r * K) * el, K * el));
        }
        void *same = cf_out_act(d, n);
        const ti_grouped_gemm_args by_row = {.out = same,
                                             .rows = cf_up(d, rows, (size_t)s.a.capacity * sizeof *rows),
                                             .w = w,
                                             .count = s.a.count,
                                             .offset = s.a.offset,
                                             .n_expert = E,
                                             .capacity = s.a.capacity};
        cf_ok(d, "grouped_gemm by rows", k->grouped_gemm(d->d, &by_row));
        const float *got_same = cf_down_act(d, same, n);
        for (int e = 0; e < E; e++) {
          const int at = s.offset[e], m = s.count[e];
          for (int p = at + m; p < s.offset[e + 1]; p++) cr_assert(isnan(got[p * N]), "%s: padding row %d was written", k->name, p);
          if (m == 0) continue;
          const ti_gemm_args g = {.out = one, .x = x + (size_t)(at * K) * el, .w = &w[e], .m = m, .out_dtype = k->act};
          cf_ok(d, "gemm", k->gemm(d->d, &g));
          cf_same_bits(d, "grouped_gemm by rows", got + at * N, got_same + at * N, (size_t)(m * N) * sizeof(float));
          cf_same_bits(d, "grouped_gemm", got + at * N, cf_down_act(d, one, (size_t)(m * N)), (size_t)(m * N) * sizeof(float));
        }
      }
      cf_close(d);
    }
  }
}

// More of K than a backend may gather at once.
Test(grouped_gemm, rows_that_stand_apart_may_be_long) {
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_E4M3};
  enum { K = 9088, N = 33, MOST = 7 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, grouped_gemm)
    const size_t el = k->act == TI_F32 ? 4 : 2;
    for (int c = 0; c < 3 * MOST; c++) {
      const int m = 1 + c / 3;
      cf_dev *d = cf_open(k, TI_ACT_NONE, 2);
      const ti_weight_src src = cf_weight_src(d, types[c % 3], N, K, 0, 0, 93);
      ti_weight w;
      if (!cf_weight(d, &src, 1, 0, &w)) {
        cf_close(d);
        continue;
      }
      const size_t n = (size_t)(m * N);
      const int32_t count[] = {m}, offset[] = {0, m};
      const char *x = cf_up_act(d, cf_floats(d, (size_t)(m * K), 94, 1.0f), (size_t)(m * K));
      const void *rows[MOST];
      for (int r = 0; r < m; r++) rows[r] = x + (size_t)((r + 3) % m * K) * el;
      void *out = cf_out_act(d, n), *one = cf_out_act(d, (size_t)N);
      const ti_grouped_gemm_args a = {.out = out,
                                      .rows = cf_up(d, rows, (size_t)m * sizeof *rows),
                                      .w = &w,
                                      .count = cf_up(d, count, sizeof count),
                                      .offset = cf_up(d, offset, sizeof offset),
                                      .n_expert = 1,
                                      .capacity = m};
      cf_ok(d, "grouped_gemm", k->grouped_gemm(d->d, &a));
      const float *got = cf_down_act(d, out, n);
      for (int r = 0; r < m; r++) {
        cf_ok(d, "gemm", k->gemm(d->d, &(ti_gemm_args){.out = one, .x = rows[r], .w = &w, .m = 1, .out_dtype = k->act}));
        cf_same_bits(d, "a row", got + r * N, cf_down_act(d, one, (size_t)N), (size_t)N * sizeof(float));
      }
      cf_close(d);
    }
  }
}

Test(unpermute, sums_choices_in_order_and_skips_foreign_ones) {
  enum { TOP = 4, E = 16, DIM = 65 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, moe_sort)
    CF_SKIP_WITHOUT(k, unpermute)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int c = 0; c < 2 * N_ROWS; c++, cf_reset(d)) {
      const int n_row = row_counts[c / 2];
      const sorted s = sort_once(d, n_row, TOP, E, 8);
      const size_t n_y = (size_t)(s.a.capacity * DIM), n = (size_t)(n_row * DIM);
      float *y = cf_floats(d, n_y, 95, 1.0f), *weights = cf_floats(d, (size_t)(n_row * TOP), 96, 1.0f), *old = cf_floats(d, n, 97, 1.0f);
      for (int i = 0; i < s.a.capacity; i++) {
        for (int x = 0; x < DIM && s.src[i] < 0; x++) y[i * DIM + x] = NAN;  // padding is never read
      }
      void *out = c & 1 ? cf_up_act(d, old, n) : cf_out_act(d, n);
      const ti_unpermute_args a = {.out = out,
                                   .y = cf_up_act(d, y, n_y),
                                   .dst = s.a.dst,
                                   .weights = cf_up(d, weights, (size_t)(n_row * TOP) * 4),
                                   .n_row = n_row,
                                   .n_top = TOP,
                                   .dim = DIM,
                                   .accumulate = c & 1};
      cf_ok(d, "unpermute", k->unpermute(d->d, &a));
      double *want = cf_host(d, n * sizeof *want), *mag = cf_host(d, n * sizeof *mag);
      for (size_t i = 0; i < n; i++) {
        const size_t r = i / DIM;
        want[i] = c & 1 ? (double)old[i] : 0.0;
        mag[i] = fabs(want[i]);
        for (int j = 0; j < TOP; j++) {
          const int at = s.dst[r * TOP + (size_t)j];
          if (at < 0) continue;
          const double v = (double)weights[r * TOP + (size_t)j] * (double)y[(size_t)at * DIM + i % DIM];
          want[i] += v;
          mag[i] += fabs(v);
        }
      }
      cf_close_to(d, "unpermute", CF_UNPERMUTE, cf_down_act(d, out, n), want, mag, n);
    }
    cf_close(d);
  }
}
