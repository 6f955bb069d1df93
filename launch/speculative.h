// --speculative-config: vLLM's JSON, for the methods that exist here.
//
//   {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
//
// Plain data without pointers: part of ti_settings. A pure function.
#ifndef TI_LAUNCH_SPECULATIVE_H
#define TI_LAUNCH_SPECULATIVE_H
#include <stdint.h>

#include "base/status.h"

typedef struct ti_speculative {
  uint32_t max_draft;     // num_speculative_tokens, 1..16; 0: no drafts
  uint32_t min_n, max_n;  // prompt_lookup_min and _max, 1..16: one that is missing is the other, both missing: 5
} ti_speculative;

// text "" is no drafts. TI_ERR_ARG: it is no JSON object, a field is unknown, missing, of another type or out of range, or the method is not known
// here: the text names field, value and what would do.
ti_status ti_speculative_parse(const char *text, ti_speculative *out, ti_error *err) TI_MUST_CHECK;

#endif
