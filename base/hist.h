// A log-linear histogram of unsigned values (16 buckets a power of two: 6% wide), for latencies and sizes. One writer, or the caller's lock.
#ifndef TI_BASE_HIST_H
#define TI_BASE_HIST_H
#include <stdint.h>

#define TI_HIST_BUCKETS (16 + 60 * 16)

typedef struct ti_hist {
  uint64_t count, sum, min, max;
  uint32_t bucket[TI_HIST_BUCKETS];
} ti_hist;

void ti_hist_reset(ti_hist *h);
void ti_hist_add(ti_hist *h, uint64_t v);                // O(1)
void ti_hist_merge(ti_hist *into, const ti_hist *from);
uint64_t ti_hist_quantile(const ti_hist *h, double q);   // 0 <= q <= 1; 0 when empty; clamped to [min, max]
double ti_hist_mean(const ti_hist *h);

#endif
