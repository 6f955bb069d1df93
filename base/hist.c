// The log-linear histogram (see hist.h). A zeroed one is empty.
//
//   bucket  0..15: the values 0..15        16 + 16 e + m: [(16 + m) << e, (17 + m) << e), for e = 0..59
#include "base/hist.h"

#include <string.h>

void ti_hist_reset(ti_hist *h) { memset(h, 0, sizeof(*h)); }

static int bucket_of(uint64_t v) {
  if (v < 16) return (int)v;
  const int e = 59 - __builtin_clzll(v);
  return 16 + 16 * e + (int)((v >> e) & 15);
}

// The middle of the bucket.
static uint64_t bucket_value(int b) {
  if (b < 16) return (uint64_t)b;
  const int e = (b - 16) / 16;
  const uint64_t width = (uint64_t)1 << e;
  return ((uint64_t)(16 + (b & 15)) << e) + (width - 1) / 2;
}

static void bump(uint32_t *bucket, uint32_t n) {
  if (__builtin_add_overflow(*bucket, n, bucket)) *bucket = UINT32_MAX;
}

void ti_hist_add(ti_hist *h, uint64_t v) {
  if (h->count == 0 || v < h->min) h->min = v;
  if (v > h->max) h->max = v;
  h->count++;
  h->sum += v;
  bump(&h->bucket[bucket_of(v)], 1);
}

void ti_hist_merge(ti_hist *into, const ti_hist *from) {
  if (from->count == 0) return;
  if (into->count == 0 || from->min < into->min) into->min = from->min;
  if (from->max > into->max) into->max = from->max;
  into->count += from->count;
  into->sum += from->sum;
  for (int i = 0; i < TI_HIST_BUCKETS; i++) bump(&into->bucket[i], from->bucket[i]);
}

uint64_t ti_hist_quantile(const ti_hist *h, double q) {
  if (h->count == 0) return 0;
  const double rank = q * (double)h->count;  // the first value at which at least this many are at or below
  uint64_t below = 0, v = h->max;
  for (int i = 0; i < TI_HIST_BUCKETS; i++) {
    below += h->bucket[i];
    if (below == 0 || (double)below < rank) continue;
    v = bucket_value(i);
    break;
  }
  return v < h->min ? h->min : v > h->max ? h->max : v;
}

double ti_hist_mean(const ti_hist *h) { return h->count ? (double)h->sum / (double)h->count : 0; }
