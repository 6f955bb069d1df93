// The draw against the reference: same id for thousands of random rows, with ties, -inf, every filter and their combinations, and shards of a
// vocabulary.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "kernels/kernel.h"

static uint32_t next(uint32_t *s) { return (*s = *s * 1664525u + 1013904223u) >> 8; }
static float unit(uint32_t *s) { return (float)next(s) / 16777216.0f; }

static const float temperatures[] = {0.0f, 0.3f, 1.0f, 2.5f}, top_ps[] = {1.0f, 0.999f, 0.9f, 0.3f, 0.0f}, min_ps[] = {0.0f, 0.05f, 1.0f};
static const int top_ks[] = {0, 1, 5, 50, 5000};

static void fill(float *x, int n, int kind, uint32_t *seed) {
  for (int i = 0; i < n; i++) {
    x[i] = (unit(seed) - 0.5f) * 20.0f;
    if (kind == 1) x[i] = (float)(int)x[i];                   // many ties
    if (kind == 2 && next(seed) % 3) x[i] = -INFINITY;        // masked
    if (kind == 3) x[i] = -INFINITY;                          // all masked
    if (kind == 4) x[i] *= 0.001f;                            // flat: the candidates near the top are everything
    if (kind == 5) x[i] = i == n / 3 ? 30.0f : x[i] - 40.0f;  // one winner
  }
}

// A filter's boundary may fall on a sum that two roundings see differently: such rows (next to none) are told by the values being tied in mass.
Test(cpu_sample, chooses_what_the_reference_chooses) {
  const ti_kernels *ks[2] = {ti_kernels_ref(), ti_kernels_cpu()};
  ti_dev *d[2];
  for (int i = 0; i < 2; i++) {
    cr_assert_eq(ks[i]->open(&(ti_dev_options){.threads = 2}, &d[i], NULL), TI_OK);
    cr_assert_eq(ks[i]->reserve(d[i], 8, 64, 64, 1000), TI_OK);
  }
  static const int sizes[] = {1, 7, 8, 17, 400, 1000};
  uint32_t seed = 5;
  int rows = 0, differ = 0;
  float x[1000];
  for (int trial = 0; trial < 8000; trial++) {
    const int n = sizes[trial % 6];
    fill(x, n, trial / 6 % 6, &seed);
    const ti_sample_params p = {.temperature = temperatures[next(&seed) % 4],
                                .top_p = top_ps[next(&seed) % 5],
                                .min_p = min_ps[next(&seed) % 3],
                                .top_k = top_ks[next(&seed) % 5],
                                .repetition = 1.0f,
                                .seed = (uint64_t)next(&seed) << 32 | next(&seed),
                                .choice = next(&seed) % 3,
                                .position = next(&seed)};
    int32_t id[2];
    float value[2];
    for (int i = 0; i < 2; i++) {
      const ti_sample_args a = {.logits = x, .params = &p, .id = &id[i], .value = &value[i], .n_row = 1, .n_id = n, .first_id = trial % 2 ? 3000 : 0};
      cr_assert_eq(ks[i]->sample(d[i], &a), TI_OK);
    }
    rows++;
    if (id[0] != id[1]) {
      differ++;
      printf("n %d kind %d t %g top_p %g min_p %g top_k %d: %d (%g), reference %d (%g)\n", n, trial / 6 % 6, (double)p.temperature, (double)p.top_p,
             (double)p.min_p, p.top_k, id[1], (double)value[1], id[0], (double)value[0]);
    } else {
      cr_assert(value[0] == value[1] || fabsf(value[0] - value[1]) <= 1e-5f * fmaxf(1.0f, fabsf(value[0])), "%g, reference %g", (double)value[1],
                (double)value[0]);
    }
  }
  cr_assert_leq(differ, 2, "%d of %d rows differ", differ, rows);
  for (int i = 0; i < 2; i++) ks[i]->close(d[i]);
}

Test(cpu_sample, logprobs_and_ranks_match_the_reference) {
  const ti_kernels *ks[2] = {ti_kernels_ref(), ti_kernels_cpu()};
  ti_dev *d[2];
  for (int i = 0; i < 2; i++) cr_assert_eq(ks[i]->open(&(ti_dev_options){.threads = 1}, &d[i], NULL), TI_OK);
  uint32_t seed = 8;
  float x[403];
  for (int trial = 0; trial < 600; trial++) {
    const int n = 1 + (int)(next(&seed) % 403);
    fill(x, n, trial % 6, &seed);
    const int32_t target = trial % 7 == 0 ? -1 : (int32_t)(next(&seed) % (uint32_t)n);
    float logprob[2], top_logprob[2][TI_TOP_LOGPROBS];
    int32_t rank[2], top_id[2][TI_TOP_LOGPROBS];
    for (int i = 0; i < 2; i++) {
      const ti_logprob_args a = {.logits = x,
                                 .target = &target,
                                 .logprob = &logprob[i],
                                 .rank = &rank[i],
                                 .top_id = top_id[i],
                                 .top_logprob = top_logprob[i],
                                 .n_row = 1,
                                 .vocab = n};
      cr_assert_eq(ks[i]->logprobs(d[i], &a), TI_OK);
    }
    cr_assert_eq(rank[0], rank[1], "kind %d n %d", trial % 6, n);
    cr_assert(logprob[0] == logprob[1] || fabsf(logprob[0] - logprob[1]) < 2e-5f, "%g, reference %g", (double)logprob[1], (double)logprob[0]);
    for (int t = 0; t < TI_TOP_LOGPROBS; t++) {
      cr_assert_eq(top_id[0][t], top_id[1][t], "kind %d n %d place %d", trial % 6, n, t);
      cr_assert(top_logprob[0][t] == top_logprob[1][t] || fabsf(top_logprob[0][t] - top_logprob[1][t]) < 2e-5f);
    }
  }
  for (int i = 0; i < 2; i++) ks[i]->close(d[i]);
}
