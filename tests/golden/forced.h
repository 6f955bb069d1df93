// Teacher-forced logits: fixed texts through an engine, a row of logits a token; and how far two such runs are apart.
#ifndef TI_TESTS_GOLDEN_FORCED_H
#define TI_TESTS_GOLDEN_FORCED_H
#include "tests/golden/fixture.h"

typedef struct forced_text {
  uint32_t *ids;  // malloc'ed
  uint32_t n;
} forced_text;

typedef struct forced_logits {
  float *v;  // [n_row, dim], malloc'ed
  int n_row, cap, dim;
} forced_logits;

// Golden prompt i and the first n_token ids of its greedy text.
forced_text forced_golden(const fixture *f, size_t i, uint32_t n_token);
// All texts, one after the other, under `spec` (its tap is ours). 0, or a printed error. out: the caller frees v.
int forced_run(const fixture *f, engine_spec spec, const forced_text *text, size_t n_text, forced_logits *out);
// The largest difference of any two logits (infinite where one is NaN); *same: rows that agree to `tol`.
double forced_apart(const forced_logits *a, const forced_logits *b, double tol, int *same);
// Nats a token: of each text the ids but the first, each under the row before it.
double forced_nll(const forced_logits *l, const forced_text *text, size_t n_text);

#endif
