// Sampling of every backend, and where its tokens go: penalties and log-probabilities against fp64, filters against a sort, draws against the formula
// and, 20,000 of them, against the softmax (chi-square, fixed seeds). Choices that fp32 may make otherwise (a near tie, a filter's boundary) are left
// out by a stated margin.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "conformance.h"

static const ti_sample_params plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition = 1.0f, .n_logprob = -1};

// ---- penalties ----

Test(penalties, match_their_definition) {
  enum { ROWS = 5, SLOTS = 7, VOCAB = 129, FIRST = 40, N = 65, N_BIAS = 6 };
  static const int32_t bias_id[N_BIAS] = {40, 104, 39, 105, 50, 60};  // the first two inside the shard, the next two outside
  static const float bias_value[N_BIAS] = {3.5f, -2.0f, 9.0f, 9.0f, -INFINITY, -100.0f};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, penalties)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    const float *logits = cf_floats(d, ROWS * N, 1, 3.0f);
    uint16_t *count = cf_host(d, SLOTS * VOCAB * sizeof *count);
    uint8_t *prompt = cf_host(d, SLOTS * VOCAB);
    const int32_t *noise = cf_ints(d, SLOTS * VOCAB, 2, 12);
    for (int i = 0; i < SLOTS * VOCAB; i++) {
      count[i] = noise[i] < 4 ? (uint16_t)(noise[i] * noise[i] * 100) : 0;
      prompt[i] = noise[i] % 3 == 0;
    }
    ti_sample_params p[ROWS];
    for (int r = 0; r < ROWS; r++) {
      p[r] = plain;
      p[r].slot = SLOTS - 1 - r;
      p[r].repetition = r == 0 ? 1.0f : 1.0f + 0.3f * (float)r;
      p[r].frequency = r == 0 ? 0.0f : 0.01f;
      p[r].presence = r == 0 ? 0.0f : 0.5f - 0.3f * (float)r;
      p[r].n_bias = r == 1 ? 0 : N_BIAS;
      p[r].suppress_eos = r % 2 == 0;
    }
    void *dl = cf_up(d, logits, ROWS * N * sizeof *logits);
    const ti_penalty_args a = {.logits = dl,
                               .params = cf_up(d, p, sizeof p),
                               .out_count = cf_up(d, count, SLOTS * VOCAB * sizeof *count),
                               .in_prompt = cf_up(d, prompt, SLOTS * VOCAB),
                               .bias_id = cf_up(d, bias_id, sizeof bias_id),
                               .bias_value = cf_up(d, bias_value, sizeof bias_value),
                               .n_row = ROWS,
                               .n_id = N,
                               .first_id = FIRST,
                               .vocab = VOCAB};
    cf_ok(d, "penalties", k->penalties(d->d, &a));
    const float *got = cf_down_f32(d, dl, ROWS * N);
    for (int r = 0; r < ROWS; r++) {
      double want[N];
      for (int i = 0; i < N; i++) {
        const int at = p[r].slot * VOCAB + FIRST + i;
        want[i] = (double)logits[r * N + i];
        if (count[at] || prompt[at]) want[i] = want[i] > 0 ? want[i] / (double)p[r].repetition : want[i] * (double)p[r].repetition;
        if (count[at]) want[i] -= (double)p[r].frequency * count[at] + (double)p[r].presence;
      }
      for (int b = 0; b < p[r].n_bias; b++) {
        const int at = bias_id[b] - FIRST;
        if (at >= 0 && at < N && (p[r].suppress_eos || isfinite(bias_value[b]))) want[at] += (double)bias_value[b];
      }
      double mag[N];
      for (int i = 0; i < N; i++) mag[i] = 10.0 + fabs(want[i]);
      cf_close_to(d, "penalties", CF_LOGIT, got + r * N, want, mag, N);
    }
    cf_close(d);
  }
}

// ---- log-probabilities ----

static void logprobs_once(cf_dev *d, int vocab, int n_row) {
  const int ld = vocab + 3;
  float *x = cf_floats(d, (size_t)(n_row * ld), (uint64_t)vocab, 4.0f);
  int32_t *target = cf_ints(d, (size_t)n_row, 5, vocab);
  target[0] = -1;
  for (int i = 0; i < n_row * ld; i++) x[i] = i % ld < vocab ? x[i] : 1e30f;  // between rows: not to be read
  for (int i = 0; i < vocab; i += 3) x[(n_row - 1) * ld + i] = 1.0f;  // ties by the dozen in the last row
  if (vocab > 8) x[(n_row - 1) * ld + 7] = -INFINITY;
  const size_t n = (size_t)n_row, n_top = n * TI_TOP_LOGPROBS;
  const ti_logprob_args a = {.logits = cf_up(d, x, (size_t)(n_row * ld) * 4),
                             .target = cf_up(d, target, n * 4),
                             .logprob = cf_out_f32(d, n),
                             .rank = cf_up(d, target, n * 4),
                             .top_id = cf_up(d, cf_host(d, n_top * 4), n_top * 4),
                             .top_logprob = cf_out_f32(d, n_top),
                             .n_row = n_row,
                             .vocab = vocab,
                             .ld = ld};
  cf_ok(d, "logprobs", d->k->logprobs(d->d, &a));
  int32_t *rank = cf_host(d, n * 4), *top_id = cf_host(d, n_top * 4);
  cf_down(d, rank, a.rank, n * 4);
  cf_down(d, top_id, a.top_id, n_top * 4);
  const float *logprob = cf_down_f32(d, a.logprob, n), *top = cf_down_f32(d, a.top_logprob, n_top);
  bool *used = cf_host(d, (size_t)vocab);
  for (int r = 0; r < n_row; r++) {
    const float *row = x + r * ld;
    double sum = 0.0, lse, want;
    for (int i = 0; i < vocab; i++) sum += exp((double)row[i]);
    lse = log(sum);
    memset(used, 0, (size_t)vocab);
    for (int j = 0; j < TI_TOP_LOGPROBS; j++) {
      int best = -1;
      for (int i = 0; i < vocab; i++) {
        if (!used[i] && (best < 0 || row[i] > row[best])) best = i;
      }
      if (best >= 0) used[best] = true;
      const int at = r * TI_TOP_LOGPROBS + j;
      cr_assert(top_id[at] == best, "%s: logprobs row %d, place %d of %d ids: %d, want %d", d->k->name, r, j, vocab, top_id[at], best);
      want = best < 0 ? -INFINITY : (double)row[best] - lse;
      cf_close_to(d, "top log-probability", CF_LOGPROB, &top[at], &want, NULL, 1);
    }
    const int t = target[r];
    int place = 0;
    for (int i = 0; t >= 0 && i < vocab; i++) place += row[i] > row[t] || (row[i] == row[t] && i <= t);
    cr_assert(rank[r] == place, "%s: rank of row %d is %d, want %d", d->k->name, r, rank[r], place);
    want = t < 0 ? 0.0 : (double)row[t] - lse;
    cf_close_to(d, "log-probability", CF_LOGPROB, &logprob[r], &want, NULL, 1);
  }
}

Test(logprobs, match_fp64_with_ranks_and_ties) {
  static const int vocabs[] = {1, 3, 17, 20, 21, 129, 1000, 4096};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, logprobs)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < 8; i++, cf_reset(d)) {
      logprobs_once(d, vocabs[i], 1);
      logprobs_once(d, vocabs[i], 7);
    }
    cf_close(d);
  }
}

Test(logprobs, the_top_list_may_be_left_out) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, logprobs)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    static const float x[3] = {1, 2, 3};
    static const int32_t target[1] = {1};
    const ti_logprob_args a = {.logits = cf_up(d, x, sizeof x),
                               .target = cf_up(d, target, 4),
                               .logprob = cf_out_f32(d, 1),
                               .rank = cf_up(d, target, 4),
                               .n_row = 1,
                               .vocab = 3};
    cf_ok(d, "logprobs", k->logprobs(d->d, &a));
    const double want = 2.0 - log(exp(1.0) + exp(2.0) + exp(3.0));
    cf_close_to(d, "log-probability", CF_LOGPROB, cf_down_f32(d, a.logprob, 1), &want, NULL, 1);
    cf_close(d);
  }
}

typedef struct logprob_results {
  float *logprob, *top;
  int32_t *rank, *top_id;
} logprob_results;

static logprob_results logprobs_of(cf_dev *d, const float *x, const int32_t *target, int n_row, int vocab) {
  const size_t n = (size_t)n_row, n_top = n * TI_TOP_LOGPROBS;
  const ti_logprob_args a = {.logits = cf_up(d, x, n * (size_t)vocab * 4),
                             .target = cf_up(d, target, n * 4),
                             .logprob = cf_out_f32(d, n),
                             .rank = cf_up(d, target, n * 4),
                             .top_id = cf_up(d, cf_host(d, n_top * 4), n_top * 4),
                             .top_logprob = cf_out_f32(d, n_top),
                             .n_row = n_row,
                             .vocab = vocab};
  cf_ok(d, "logprobs", d->k->logprobs(d->d, &a));
  logprob_results r = {cf_down_f32(d, a.logprob, n), cf_down_f32(d, a.top_logprob, n_top), cf_host(d, n * 4), cf_host(d, n_top * 4)};
  cf_down(d, r.rank, a.rank, n * 4);
  cf_down(d, r.top_id, a.top_id, n_top * 4);
  return r;
}

// Some ids of each row NaN (all of the last row), against the same ids -inf.
static float *with_nan(cf_dev *d, int n_row, int n, float **plain_x) {
  float *x = cf_floats(d, (size_t)(n_row * n), (uint64_t)n + 3, 4.0f);
  *plain_x = cf_host(d, (size_t)(n_row * n) * 4);
  for (int i = 0; i < n_row * n; i++) {
    const bool nan = i % 5 == 1 || i % 11 == 0 || i / n == n_row - 1;
    if (i % 13 == 2) x[i] = -INFINITY;
    (*plain_x)[i] = nan ? -INFINITY : x[i];
    if (nan) x[i] = i % 2 ? NAN : -NAN;
  }
  return x;
}

Test(logprobs, nan_counts_as_nothing) {
  static const int vocabs[] = {9, 129, 1000, 50257};
  enum { ROWS = 6 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, logprobs)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int v = 0; v < 4; v++, cf_reset(d)) {
      const int n = vocabs[v];
      float *plain_x, *x = with_nan(d, ROWS, n, &plain_x);
      const int32_t target[ROWS] = {0, 1, 3, n - 1, -1, 2};  // numbers and NaN
      const logprob_results got = logprobs_of(d, x, target, ROWS, n), want = logprobs_of(d, plain_x, target, ROWS, n);
      cf_same_bits(d, "log-probabilities with NaN", got.logprob, want.logprob, ROWS * 4);
      cf_same_bits(d, "ranks with NaN", got.rank, want.rank, ROWS * 4);
      for (int i = 0; i < ROWS * TI_TOP_LOGPROBS; i++) {  // -inf may be listed, NaN is not
        const int r = i / TI_TOP_LOGPROBS;
        const bool number = want.top_id[i] >= 0 && plain_x[r * n + want.top_id[i]] > -INFINITY;
        if (number) cr_assert(got.top_id[i] == want.top_id[i] && got.top[i] == want.top[i], "%s: place %d lists id %d", k->name, i, got.top_id[i]);
        cr_assert(got.top_id[i] < 0 || !(x[r * n + got.top_id[i]] != x[r * n + got.top_id[i]]), "%s: NaN is listed", k->name);
        if (!number) cr_assert(got.top[i] == -INFINITY, "%s: place %d has %g", k->name, i, (double)got.top[i]);
      }
    }
    cf_close(d);
  }
}

// ---- the draw ----

static double gumbel(const ti_sample_params *p, int id) {
  const uint32_t key[2] = {(uint32_t)p->seed, (uint32_t)(p->seed >> 32)}, ctr[4] = {(uint32_t)id, p->position, p->choice, 1};
  uint32_t out[4];
  ti_philox4x32(key, ctr, out);
  return -log(-log((double)ti_u32_to_unit(out[0])));
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? 1 : x > y ? -1 : 0;
}

// kept[n] by a sort; false when a boundary is so near that fp32 may put it elsewhere.
static bool filter(const float *x, int n, const ti_sample_params *p, bool *kept) {
  static double v[CF_MAX_VOCAB];
  const double edge = 3e-6, t = (double)p->temperature;
  for (int i = 0; i < n; i++) v[i] = (double)x[i];
  qsort(v, (size_t)n, sizeof *v, by_value);
  int have = n;
  if (p->top_k > 0 && p->top_k < n) {
    for (have = p->top_k; have < n && v[have] == v[have - 1]; have++) {}
  }
  double sum = 0.0, mass = 0.0;
  for (int i = 0; i < have; i++) sum += exp((v[i] - v[0]) / t);
  if (p->top_p < 1.0f) {
    int c = 0;
    while (c < have && mass / sum < (double)p->top_p) {
      mass += exp((v[c++] - v[0]) / t);
      if (fabs(mass / sum - (double)p->top_p) < edge) return false;
    }
    for (; c < have && v[c] == v[c - 1]; c++) {}
    have = c;
  }
  if (p->min_p > 0.0f) {
    for (int i = 0; i < have; i++) {
      if (v[i] < v[0] && fabs(exp((v[i] - v[0]) / t) - (double)p->min_p) < edge * (double)p->min_p) return false;
    }
    while (have > 1 && exp((v[have - 1] - v[0]) / t) < (double)p->min_p) have--;
  }
  for (int i = 0; i < n; i++) kept[i] = (double)x[i] >= v[have - 1];
  return true;
}

// The id that the contract asks for, or -1 when the two best are too near to tell; *value the winner's.
static int choose(const float *x, int n, int first, const ti_sample_params *p, const bool *kept, double *value) {
  int best = -1;
  double top = -INFINITY, second = -INFINITY;
  for (int i = 0; i < n; i++) {
    if ((kept && !kept[i]) || x[i] == -INFINITY) continue;
    const double v = p->temperature > 0.0f ? (double)x[i] / (double)p->temperature + gumbel(p, first + i) : (double)x[i];
    if (v > top) {
      second = top;
      top = v;
      best = i;
    } else if (v > second) {
      second = v;
    }
  }
  *value = top;
  return p->temperature > 0.0f && top - second < 1e-4 * (1.0 + fabs(top)) ? -1 : first + best;
}

static int32_t *draw(cf_dev *d, const float *logits, const ti_sample_params *p, int rows, int n, int first, float **value) {
  const size_t bytes = (size_t)rows * 4;
  const ti_sample_args a = {.logits = cf_up(d, logits, (size_t)(rows * n) * 4),
                            .params = cf_up(d, p, (size_t)rows * sizeof *p),
                            .id = cf_up(d, cf_host(d, bytes), bytes),
                            .value = cf_out_f32(d, (size_t)rows),
                            .n_row = rows,
                            .n_id = n,
                            .first_id = first};
  cf_ok(d, "sample", d->k->sample(d->d, &a));
  int32_t *id = cf_host(d, bytes);
  cf_down(d, id, a.id, bytes);
  *value = cf_down_f32(d, a.value, (size_t)rows);
  return id;
}

static void filters_once(cf_dev *d, int n, const ti_sample_params *base) {
  enum { ROWS = 40 };
  float *logits = cf_floats(d, (size_t)(ROWS * n), (uint64_t)n + 11, 2.5f), *value;
  ti_sample_params p[ROWS];
  int checked = 0;
  for (int r = 0; r < ROWS; r++) {
    p[r] = *base;
    p[r].seed = 0x123456789abcdefull * (uint64_t)(r + 1);
    p[r].position = (uint32_t)(r * 7);
    p[r].choice = (uint32_t)(r % 3);
    if (r % 4 == 1) p[r].temperature *= 0.5f;
    if (r % 5 == 2) {
      for (int i = 0; i < n; i++) logits[r * n + i] = (float)(int)(logits[r * n + i] * 2.0f);  // many ties
    }
    if (r % 7 == 3 && n > 3) logits[r * n + 2] = -INFINITY;
  }
  const int32_t *id = draw(d, logits, p, ROWS, n, 0, &value);
  bool *kept = cf_host(d, (size_t)n);
  for (int r = 0; r < ROWS; r++) {
    double want_value;
    if (!filter(logits + r * n, n, &p[r], kept)) continue;
    cr_assert(kept[id[r]], "%s: sample took id %d of %d, which top_k %d top_p %g min_p %g drop", d->k->name, id[r], n, p[r].top_k, (double)p[r].top_p,
              (double)p[r].min_p);
    const int want = choose(logits + r * n, n, 0, &p[r], kept, &want_value);
    if (want < 0) continue;
    cr_assert(id[r] == want, "%s: sample row %d of %d ids (top_k %d top_p %g min_p %g): %d, want %d", d->k->name, r, n, p[r].top_k,
              (double)p[r].top_p, (double)p[r].min_p, id[r], want);
    cr_assert(fabs((double)value[r] - want_value) <= 1e-4 * (1.0 + fabs(want_value)), "%s: sample's value is %g, want %g", d->k->name,
              (double)value[r], want_value);
    checked++;
  }
  cr_assert(checked > ROWS / 2, "%s: only %d of %d rows of %d ids could be checked (top_k %d top_p %g min_p %g)", d->k->name, checked, ROWS, n,
            base->top_k, (double)base->top_p, (double)base->min_p);
}

Test(sample, filters_and_draws_are_those_of_a_sort) {
  static const int vocabs[] = {1, 3, 17, 129, 1000, 4096};
  static const float forms[][4] = {// temperature, top_k, top_p, min_p
                                   {1, 0, 1, 0},     {0.7f, 0, 1, 0}, {1, 1, 1, 0},          {1, 5, 1, 0},
                                   {1, 50, 1, 0},    {1, 3, 0.5f, 0}, {1, 0, 0.9f, 0},       {1.5f, 0, 0.5f, 0},
                                   {1, 0, 0.01f, 0}, {1, 0, 1, 0.1f}, {2, 40, 0.95f, 0.05f}, {1, 100000, 0.9f, 1.0f}};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    for (int threads = 1; threads <= 3; threads += 2) {
      cf_dev *d = cf_open(k, TI_ACT_NONE, threads);
      for (int f = 0; f < 12; f++) {
        for (int i = 0; i < 6; i++, cf_reset(d)) {
          ti_sample_params p = plain;
          p.temperature = forms[f][0];
          p.top_k = (int32_t)forms[f][1];
          p.top_p = forms[f][2];
          p.min_p = forms[f][3];
          filters_once(d, vocabs[i], &p);
        }
      }
      cf_close(d);
    }
  }
}

Test(sample, nan_counts_as_nothing) {
  static const float forms[][4] = {{0, 0, 1, 0}, {1, 0, 1, 0}, {1, 7, 1, 0}, {0.7f, 0, 0.9f, 0}, {1, 40, 0.95f, 0.05f}};
  static const int vocabs[] = {9, 1000, 50257};
  enum { ROWS = 6 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < 15; i++, cf_reset(d)) {
      const float *f = forms[i / 3];
      const int n = vocabs[i % 3];
      float *plain_x, *x = with_nan(d, ROWS, n, &plain_x), *got_value, *want_value;
      ti_sample_params p[ROWS];
      for (int r = 0; r < ROWS; r++) {
        p[r] = plain;
        p[r].temperature = f[0], p[r].top_k = (int32_t)f[1], p[r].top_p = f[2], p[r].min_p = f[3];
        p[r].seed = 99 * (uint64_t)(r + 1);
      }
      const int32_t *got = draw(d, x, p, ROWS, n, 0, &got_value), *want = draw(d, plain_x, p, ROWS, n, 0, &want_value);
      cf_same_bits(d, "choices with NaN", got, want, ROWS * 4);
      cf_same_bits(d, "their values", got_value, want_value, ROWS * 4);
      cr_assert(got[ROWS - 1] == 0 && got_value[ROWS - 1] == -INFINITY, "%s: a row of NaN gives id %d, value %g", k->name, got[ROWS - 1],
                (double)got_value[ROWS - 1]);
    }
    cf_close(d);
  }
}

// A vocabulary of several blocks of any backend, with rows that do not start at multiples of 16 bytes.
Test(sample, filters_hold_over_a_large_vocabulary) {
  static const float forms[][4] = {{1, 0, 1, 0}, {0.7f, 40, 1, 0}, {1, 0, 0.9f, 0}, {1.5f, 300, 0.95f, 0.01f}};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 2);
    for (int f = 0; f < 4; f++, cf_reset(d)) {
      ti_sample_params p = plain;
      p.temperature = forms[f][0];
      p.top_k = (int32_t)forms[f][1];
      p.top_p = forms[f][2];
      p.min_p = forms[f][3];
      filters_once(d, CF_MAX_VOCAB - 1, &p);
    }
    cf_close(d);
  }
}

Test(sample, greedy_takes_the_largest_and_the_lower_id_of_equals) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    static const int vocabs[] = {1, 3, 17, 129, 4096};
    for (int i = 0; i < 5; i++, cf_reset(d)) {
      const int n = vocabs[i];
      float *x = cf_floats(d, (size_t)n, 3, 1.0f), *value;
      const int lo = n / 3, hi = n - 1;
      x[lo] = x[hi] = 50.0f;
      ti_sample_params p = plain;
      p.temperature = 0.0f;
      p.top_k = 2;
      const int32_t *id = draw(d, x, &p, 1, n, 1000, &value);
      cr_assert(id[0] == 1000 + lo && value[0] == 50.0f, "%s: greedy of %d ids: %d (%g), want %d", k->name, n, id[0], (double)value[0], 1000 + lo);
      for (int c = 0; c < n; c++) x[c] = -INFINITY;
      id = draw(d, x, &p, 1, n, 1000, &value);
      cr_assert(id[0] == 1000 && value[0] == -INFINITY, "%s: nothing to choose from: %d (%g)", k->name, id[0], (double)value[0]);
    }
    cf_close(d);
  }
}

// The argmax over shards is the unsharded choice, values included to the bit: what tensor parallelism relies on. And a row alone is the row in a
// batch.
Test(sample, shards_and_single_rows_give_the_same_choice) {
  enum { ROWS = 33, N = 1000, CUT = 389 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    const float *x = cf_floats(d, ROWS * N, 4, 2.0f);
    float *left = cf_host(d, ROWS * CUT * 4), *right = cf_host(d, ROWS * (N - CUT) * 4), *v, *vl, *vr, *v1;
    ti_sample_params p[ROWS];
    for (int r = 0; r < ROWS; r++) {
      p[r] = plain;
      p[r].seed = (uint64_t)r * 77 + 5;
      p[r].temperature = r % 2 ? 0.8f : 1.0f;
      memcpy(left + r * CUT, x + r * N, CUT * 4);
      memcpy(right + r * (N - CUT), x + r * N + CUT, (N - CUT) * 4);
    }
    const int32_t *id = draw(d, x, p, ROWS, N, 0, &v), *il = draw(d, left, p, ROWS, CUT, 0, &vl), *ir = draw(d, right, p, ROWS, N - CUT, CUT, &vr);
    for (int r = 0; r < ROWS; r++) {
      const bool l = vl[r] >= vr[r];
      cr_assert(id[r] == (l ? il[r] : ir[r]), "%s: row %d: %d whole, %d or %d in shards", k->name, r, id[r], il[r], ir[r]);
      cf_same_bits(d, "the winner's value", l ? &vl[r] : &vr[r], &v[r], 4);
      const int32_t *one = draw(d, x + r * N, &p[r], 1, N, 0, &v1);
      cr_assert_eq(one[0], id[r]);
      cf_same_bits(d, "the value of a row alone", v1, &v[r], 4);
    }
    cf_close(d);
  }
}

// 20,000 positions of one seed against the softmax over 20 ids: chi-square with 19 degrees of freedom stays below 43.8 (p = 0.001).
Test(sample, draws_follow_the_softmax) {
  enum { N = 20, DRAWS = 20000, BATCH = 125 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, sample)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    float row[N], logits[BATCH * N], *value;
    double want[N], sum = 0.0, chi = 0.0;
    int seen[N] = {0};
    for (int i = 0; i < N; i++) {
      row[i] = (float)(i % 7) * 0.5f;
      sum += want[i] = exp((double)row[i] / 0.8);
    }
    for (int r = 0; r < BATCH; r++) memcpy(logits + r * N, row, sizeof row);
    for (int at = 0; at < DRAWS; at += BATCH, cf_reset(d)) {
      ti_sample_params p[BATCH];
      for (int r = 0; r < BATCH; r++) {
        p[r] = plain;
        p[r].temperature = 0.8f;
        p[r].seed = 42;
        p[r].position = (uint32_t)(at + r);
      }
      const int32_t *id = draw(d, logits, p, BATCH, N, 0, &value);
      for (int r = 0; r < BATCH; r++) seen[id[r]]++;
    }
    for (int i = 0; i < N; i++) {
      const double expect = want[i] / sum * DRAWS;
      chi += (seen[i] - expect) * (seen[i] - expect) / expect;
    }
    cr_assert(chi < 43.8, "%s: chi-square of %d draws is %.1f, limit 43.8", k->name, DRAWS, chi);
    cf_close(d);
  }
}

// base/rng.h promises numbers inside (0, 1): at 1 the Gumbel noise would be infinite and any id would win.
Test(sample, the_noise_is_finite_at_both_ends) {
  cr_assert(ti_u32_to_unit(0) > 0.0f && ti_u32_to_unit(0xffffffffu) < 1.0f);
  cr_assert(isfinite(-logf(-logf(ti_u32_to_unit(0xffffffffu)))) && isfinite(-logf(-logf(ti_u32_to_unit(0)))));
}

// ---- the drawn ids, and into the next rows ----

Test(tokens, land_in_their_slots_and_are_counted_where_asked) {
  enum { N = 7, SLOTS = 5, VOCAB = 11 };
  static const int32_t id[N] = {3, -1, 10, 3, 0, 7, 3}, slot[N] = {4, 0, 2, -1, 1, 2, 4};  // slots 2 and 4 twice: the last row stands
  static const uint8_t counted[SLOTS] = {1, 0, 1, 1, 1};
  static const int32_t want_last[SLOTS] = {-5, 0, 7, -5, 3};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, tokens)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int with = 0; with < 3; with++, cf_reset(d)) {  // no counters, nobody counted, some
      uint16_t count[SLOTS * VOCAB] = {0}, want[SLOTS * VOCAB] = {0}, got[SLOTS * VOCAB];
      int32_t last[SLOTS] = {-5, -5, -5, -5, -5};
      count[2 * VOCAB + 10] = want[2 * VOCAB + 10] = UINT16_MAX;  // stays
      count[4 * VOCAB + 3] = want[4 * VOCAB + 3] = UINT16_MAX - 1;
      if (with == 2) want[4 * VOCAB + 3] = UINT16_MAX, want[2 * VOCAB + 7] = 1;
      const ti_token_args a = {.id = cf_up(d, id, sizeof id),
                               .slot = cf_up(d, slot, sizeof slot),
                               .last = cf_up(d, last, sizeof last),
                               .out_count = with ? cf_up(d, count, sizeof count) : NULL,
                               .counted = with == 2 ? cf_up(d, counted, sizeof counted) : NULL,
                               .n = N,
                               .vocab = VOCAB};
      cf_ok(d, "tokens", k->tokens(d->d, &a));
      cf_down(d, last, a.last, sizeof last);
      cf_same_bits(d, "last tokens", last, want_last, sizeof last);
      if (!with) continue;
      cf_down(d, got, a.out_count, sizeof got);
      cf_same_bits(d, "counts", got, want, sizeof got);
    }
    cf_close(d);
  }
}

Test(feed, fills_in_the_ids_that_were_still_in_flight) {
  enum { N = 600, SLOTS = 9 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, feed)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    int32_t *ids = cf_ints(d, N, 1, 4), *want = cf_host(d, N * sizeof *want), *got = cf_host(d, N * sizeof *got);
    const int32_t *slot = cf_ints(d, N, 2, SLOTS), *last = cf_ints(d, SLOTS, 3, 1000);
    for (int i = 0; i < N; i++) {
      if (ids[i] == 0) ids[i] = -1;
      want[i] = ids[i] == -1 ? last[slot[i]] : ids[i];
    }
    const ti_feed_args a = {
        .ids = cf_up(d, ids, N * sizeof *ids), .slot = cf_up(d, slot, N * sizeof *slot), .last = cf_up(d, last, SLOTS * sizeof *last), .n = N};
    cf_ok(d, "feed", k->feed(d->d, &a));
    cf_down(d, got, a.ids, N * sizeof *got);
    cf_same_bits(d, "fed ids", got, want, N * sizeof *got);
    cf_close(d);
  }
}
