// The n-gram drafter against a search that tries every length and place, longest and latest first, over random ids of small alphabets.
#include <criterion/criterion.h>
#include <string.h>

#include "worker/spec/drafter.h"

enum { LEN = 60, RUNS = 20000 };
static uint64_t rng = 88172645463325252u;
static uint32_t draw(uint32_t n) {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  rng ^= rng << 17;
  return (uint32_t)(rng >> 32) % n;
}

static uint32_t naive(const int32_t *ids, uint32_t n, uint32_t min_n, uint32_t max_n, uint32_t most, int32_t *out) {
  for (uint32_t k = max_n; k >= min_n; k--) {
    if (k >= n) continue;
    for (uint32_t at = n - k; at-- > 0;) {  // an occurrence that begins earlier than the suffix itself
      if (memcmp(ids + at, ids + n - k, k * sizeof *ids)) continue;
      uint32_t took = 0;
      while (took < most && at + k + took < n) out[took] = ids[at + k + took], took++;
      return took;
    }
  }
  return 0;
}

Test(ngram, proposes_what_a_naive_search_finds) {
  uint32_t found = 0, nothing = 0;
  for (int run = 0; run < RUNS; run++) {
    int32_t ids[LEN + TI_DRAFT_MAX], want[TI_DRAFT_MAX], got[TI_DRAFT_MAX];
    const uint32_t n = 1 + draw(LEN), letters = 1 + draw(6), min_n = 1 + draw(4), max_n = min_n + draw(4), most = draw(TI_DRAFT_MAX + 1);
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)draw(letters);
    ti_ngram_drafter d;
    ti_ngram_drafter_init(&d, min_n, max_n);
    const uint32_t a = naive(ids, n, min_n, max_n, most, want), b = d.base.propose(&d.base, ids, n, most, got);
    cr_assert_eq(a, b, "run %d: %u drafts, naive %u", run, b, a);
    cr_assert_eq(memcmp(want, got, a * sizeof *want), 0, "run %d", run);
    *(a ? &found : &nothing) += 1;
    // the place that the engine gives it: right behind the ids
    cr_assert_eq(d.base.propose(&d.base, ids, n, most, ids + n), a);
    cr_assert_eq(memcmp(want, ids + n, a * sizeof *want), 0, "run %d, in place", run);
  }
  cr_assert(found > RUNS / 10 && nothing > RUNS / 10, "%u with drafts, %u without", found, nothing);
}
