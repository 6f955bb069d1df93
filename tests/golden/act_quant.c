// act_quant MODEL: FP8 activations (--activation-quant fp8) on the cpu backend against ref, teacher-forced over the golden texts.
//
//   logits   equal to SAME until the first activation whose sum, taken in another order, falls on the other side of a rounding boundary of its code.
//            From there on a text's logits are apart by what FP8 itself moves them (measured: 0.5 at most; FP8 against fp32: 1.1), as its KV is:
//            so at least a third of the rows must be the same, and all within FAR
//   ids      the same greedy choice wherever the reference's margin exceeds MARGIN
//   effect   the option reaches the kernels: with fp32 activations hardly any row is the same
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/golden/forced.h"

#define SAME 1e-3
#define FAR 1.0
#define MARGIN 0.5
enum { PROMPTS = 4, TOKENS = 12 };

static int argmax(const float *v, int n, float *margin) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (v[i] > v[best]) best = i;
  *margin = INFINITY;
  for (int i = 0; i < n; i++)
    if (i != best && v[best] - v[i] < *margin) *margin = v[best] - v[i];
  return best;
}

static int other_choices(const forced_logits *a, const forced_logits *b, int *compared) {
  int bad = 0;
  *compared = 0;
  for (int r = 0; r < a->n_row; r++) {
    float margin, other;
    const size_t at = (size_t)r * (size_t)a->dim;
    const int best = argmax(a->v + at, a->dim, &margin);
    if (margin <= MARGIN) continue;
    ++*compared;
    bad += argmax(b->v + at, a->dim, &other) != best;
  }
  return bad;
}

int main(int argc, char **argv) {
  if (argc < 2) return fprintf(stderr, "usage: act_quant MODEL\n"), 2;
  if (!ti_kernels_find("cpu")) return printf("skipped: no cpu backend on this processor\n"), 77;
  fixture f;
  ti_coll *self;
  forced_logits ref, cpu, plain;
  forced_text text[PROMPTS];
  if (ti_coll_self_create(&self) || fixture_open(&f, argv[1])) return 1;
  for (size_t i = 0; i < PROMPTS; i++) text[i] = forced_golden(&f, i, TOKENS);
  engine_spec spec = {.backend = "ref",
                      .mesh = {1, 1, 1, 1, 1},
                      .tp = self,
                      .world = self,
                      .page_tokens = 16,
                      .max_rows = 64,
                      .max_seqs = 1,
                      .max_len = 128,
                      .act_quant = TI_ACT_FP8};
  if (forced_run(&f, spec, text, PROMPTS, &ref)) return 1;
  spec.backend = "cpu";
  if (forced_run(&f, spec, text, PROMPTS, &cpu)) return 1;
  spec.act_quant = TI_ACT_NONE;
  if (forced_run(&f, spec, text, PROMPTS, &plain)) return 1;
  int compared, same, unmoved;
  const double apart = forced_apart(&ref, &cpu, SAME, &same), effect = forced_apart(&cpu, &plain, SAME, &unmoved);
  const int other = other_choices(&ref, &cpu, &compared);
  printf(
      "%d rows: %d the same on ref and cpu, the others up to %.3f apart (bound %.1f); %d of %d choices differ; FP8 moves all but %d rows, by up to "
      "%.3f\n",
      ref.n_row, same, apart, FAR, other, compared, unmoved, effect);
  const int bad = ref.n_row < PROMPTS * TOKENS || cpu.n_row != ref.n_row || 3 * same < ref.n_row || apart > FAR || other != 0 ||
                  3 * compared < ref.n_row || 10 * unmoved > ref.n_row;
  free(ref.v);
  free(cpu.v);
  free(plain.v);
  for (size_t i = 0; i < PROMPTS; i++) free(text[i].ids);
  fixture_close(&f);
  ti_coll_destroy(self);
  return bad;
}
