// Drafters: where the tokens come from that a decode row verifies beside its own (speculative decoding, Leviathan et al. 2023).
//
//   slot   [ ......... | last ]          the row feeds last, d1, d2, d3 in one forward (rows j = 0..3); row j samples the token after it with the
//                        d1 d2 d3        key of its own position, as it would have without drafts. d(j+1) stays while it equals the sample of row j.
//
// So greedy and sampled text is the same with drafting on or off; only the number of tokens a step differs. An ops table, chosen at set-up; NULL
// drafter = no drafts, the oracle.
#ifndef TI_WORKER_SPEC_DRAFTER_H
#define TI_WORKER_SPEC_DRAFTER_H
#include <stdint.h>

#define TI_DRAFT_MAX 16  // drafts a row at most

typedef struct ti_drafter ti_drafter;
struct ti_drafter {
  const char *name;
  // Up to `most` tokens likely to follow ids[n]; out must not overlap ids[0..n). Returns how many; no allocation. The same ids give the same drafts
  // (all ranks of a group draft on their own).
  uint32_t (*propose)(const ti_drafter *d, const int32_t *ids, uint32_t n, uint32_t most, int32_t *out);
};

// Prompt lookup: the latest earlier occurrence of the last `max_n` tokens (else of fewer, down to `min_n`), and what followed it.
// Cost: O(n) comparisons of one token, a scan backwards. Source: prompt lookup decoding (Saxena 2023); names as vLLM's ngram method.
typedef struct ti_ngram_drafter {
  ti_drafter base;
  uint32_t min_n, max_n;  // 1 <= min_n <= max_n <= 16
} ti_ngram_drafter;
void ti_ngram_drafter_init(ti_ngram_drafter *d, uint32_t min_n, uint32_t max_n);

#endif
