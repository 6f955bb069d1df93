#include "tests/golden/forced.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

forced_text forced_golden(const fixture *f, size_t i, uint32_t n_token) {
  uint32_t n_prompt, n_gold, *prompt = fixture_ids(f, i, "prompt_ids", &n_prompt), *gold = fixture_ids(f, i, "greedy_ids", &n_gold);
  if (n_token > n_gold) n_token = n_gold;
  forced_text t = {.ids = malloc((n_prompt + n_token) * sizeof *t.ids), .n = n_prompt + n_token};
  memcpy(t.ids, prompt, n_prompt * sizeof *t.ids);
  memcpy(t.ids + n_prompt, gold, n_token * sizeof *t.ids);
  free(prompt);
  free(gold);
  return t;
}

static void on_tap(void *arg, const char *what, int layer, const void *data, int n_row, int dim) {
  forced_logits *l = arg;
  if (strcmp(what, "logits") != 0 || l->n_row + n_row > l->cap) return;
  memcpy(l->v + (size_t)l->n_row * (size_t)dim, data, (size_t)n_row * (size_t)dim * sizeof *l->v);
  l->n_row += n_row;
  l->dim = dim;
}

int forced_run(const fixture *f, engine_spec spec, const forced_text *text, size_t n_text, forced_logits *out) {
  *out = (forced_logits){0};
  for (size_t i = 0; i < n_text; i++) out->cap += (int)text[i].n;
  out->v = calloc((size_t)out->cap * (size_t)f->cfg.vocab, sizeof(float));
  spec.tap = on_tap;
  spec.tap_arg = out;
  ti_engine *e = fixture_engine(f, &spec);
  int bad = !e || !out->v;
  for (size_t i = 0; !bad && i < n_text; i++) {
    drive_seq q = {.prompt = text[i].ids, .n_prompt = text[i].n, .max_tokens = 1, .sampling = drive_greedy()};
    q.sampling.n_prompt_logprob = 0;
    bad = drive_run(e, &q, 1, &(drive_options){.batch = 1});
    drive_free(&q, 1);
  }
  ti_engine_destroy(e);
  return bad;
}

double forced_apart(const forced_logits *a, const forced_logits *b, double tol, int *same) {
  double worst = a->n_row == b->n_row && a->n_row > 0 ? 0 : INFINITY;
  *same = 0;
  for (int r = 0; r < a->n_row && r < b->n_row; r++) {
    double row = 0;
    for (size_t i = (size_t)r * (size_t)a->dim; i < (size_t)(r + 1) * (size_t)a->dim; i++)
      row = fmax(row, isnan(a->v[i]) || isnan(b->v[i]) ? INFINITY : fabs((double)a->v[i] - b->v[i]));
    *same += row <= tol;
    worst = fmax(worst, row);
  }
  return worst;
}

static double nll_of(const float *v, int n, uint32_t id) {
  double top = -INFINITY, sum = 0;
  for (int i = 0; i < n; i++) top = fmax(top, (double)v[i]);
  for (int i = 0; i < n; i++) sum += exp((double)v[i] - top);
  return top + log(sum) - (double)v[id];
}

double forced_nll(const forced_logits *l, const forced_text *text, size_t n_text) {
  double sum = 0;
  size_t row = 0, n = 0;
  for (size_t t = 0; t < n_text; t++, row++)
    for (uint32_t i = 1; i < text[t].n; i++, row++, n++) sum += nll_of(l->v + row * (size_t)l->dim, l->dim, text[t].ids[i]);
  return n ? sum / (double)n : 0;
}
