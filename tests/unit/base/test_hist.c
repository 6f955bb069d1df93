#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/hist.h"

Test(hist, empty) {
  ti_hist h = {0};
  cr_assert_eq(ti_hist_quantile(&h, 0.5), 0);
  cr_assert_eq(ti_hist_mean(&h), 0);
}

Test(hist, small_values_are_exact) {
  ti_hist h;
  ti_hist_reset(&h);
  for (uint64_t v = 0; v < 16; v++) ti_hist_add(&h, v);
  cr_assert_eq(ti_hist_quantile(&h, 0), 0);
  cr_assert_eq(ti_hist_quantile(&h, 0.5), 7);
  cr_assert_eq(ti_hist_quantile(&h, 1), 15);
  cr_assert_float_eq(ti_hist_mean(&h), 7.5, 1e-12);
}

Test(hist, extremes_have_buckets) {
  ti_hist h;
  ti_hist_reset(&h);
  ti_hist_add(&h, UINT64_MAX);
  cr_assert_eq(ti_hist_quantile(&h, 0.5), UINT64_MAX, "clamped to min");
  for (int b = 0; b < 64; b++) ti_hist_add(&h, (uint64_t)1 << b);
  cr_assert_eq(h.count, 65);
}

static int by_value(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

Test(hist, quantiles_against_a_sorted_array) {
  enum { N = 5000 };
  static uint64_t v[N];
  ti_hist h, left, right;
  ti_hist_reset(&h);
  ti_hist_reset(&left);
  ti_hist_reset(&right);
  uint64_t x = 88172645463325252ull;
  for (int i = 0; i < N; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    v[i] = x >> (8 + x % 50);
    ti_hist_add(&h, v[i]);
    ti_hist_add(i % 3 ? &left : &right, v[i]);
  }
  qsort(v, N, sizeof(v[0]), by_value);
  ti_hist_merge(&left, &right);
  for (int q = 0; q <= 100; q++) {
    const int rank = q * N / 100;
    const double want = (double)v[rank ? rank - 1 : 0], got = (double)ti_hist_quantile(&h, q / 100.0);
    cr_assert_leq(got, want * 1.07 + 1, "q %d: %g, not %g", q, got, want);
    cr_assert_geq(got, want * 0.93 - 1, "q %d: %g, not %g", q, got, want);
    cr_assert_eq(ti_hist_quantile(&left, q / 100.0), ti_hist_quantile(&h, q / 100.0));
  }
  cr_assert_eq(left.sum, h.sum);
  cr_assert_eq(left.min, v[0]);
  cr_assert_eq(left.max, v[N - 1]);
}
