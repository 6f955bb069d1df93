// Prompt lookup (see drafter.h). The longest suffix wins; of equal lengths the latest occurrence, since text repeats what it just said.
#include "worker/spec/drafter.h"

#include <string.h>

// How many tokens before ids[end) equal the last ones of ids[n), at most `most`.
static uint32_t match_length(const int32_t *ids, uint32_t n, uint32_t end, uint32_t most) {
  uint32_t k = 0;
  while (k < most && k < end && ids[end - 1 - k] == ids[n - 1 - k]) k++;
  return k;
}

static uint32_t propose(const ti_drafter *base, const int32_t *ids, uint32_t n, uint32_t most, int32_t *out) {
  const ti_ngram_drafter *d = (const ti_ngram_drafter *)base;
  if (n <= d->min_n || most == 0) return 0;
  const int32_t last = ids[n - 1];
  uint32_t best = 0, best_end = 0;
  for (uint32_t end = n - 1; end >= d->min_n && best < d->max_n; end--) {  // ids[end - 1] is a candidate for the suffix's last token
    if (ids[end - 1] != last) continue;
    const uint32_t k = match_length(ids, n, end, d->max_n);
    if (k > best) {
      best = k;
      best_end = end;
    }
  }
  if (best < d->min_n) return 0;
  const uint32_t there = n - best_end, take = there < most ? there : most;
  memcpy(out, ids + best_end, take * sizeof *out);
  return take;
}

void ti_ngram_drafter_init(ti_ngram_drafter *d, uint32_t min_n, uint32_t max_n) {
  *d = (ti_ngram_drafter){.base = {"ngram", propose}, .min_n = min_n, .max_n = max_n};
}
