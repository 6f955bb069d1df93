// hidden_bf16 MODEL BACKEND [ROWS] [--faults]: hidden states against the reference's, each layer within a bound that is derived, number by number.
//
//   MODEL     random:llama?.., or a bundled dense model
//   BACKEND   cuda      bf16 everywhere: the whole prompt in one step, in chunks and row by row, relaxed and --deterministic
//             rounded   the same arithmetic on this processor (rounding.h): the bound can be checked without a GPU
//             cpu, ref  fp32 activations over a bf16 KV cache
//   --faults  and then with faults, each of which must be found: in the arithmetic (rounded), or a model that is a little wrong
//
// docs/numerics.md, "Hidden states in bf16", derives the standard deviation s of each number's error. Of a layer's N numbers z = error / s is checked:
//
//   spread   sqrt(mean error^2 / mean s^2), which is 1 if the derivation is right: a bug makes it larger, a rounding that is not there smaller
//   largest  max |z|: one wrong head, row or place
//   bias     the error's component along the layer's own update: what is 1% too large moves it by 0.01, rounding hardly at all
//   apart    cuda only: how far it is from `rounded`, as a share of the derived error: small while only the order of a sum tips a rounding here and
//            there; sqrt(2) for independent runs
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/fixture.h"
#include "tests/golden/rounding.h"

typedef struct states {
  float *v, *var;  // [n_layer + 1][n_row][dim]; var NULL: not analysed
  int n_layer, n_row, dim, *seen;
} states;

typedef struct bounds {
  double least, most, largest, bias, apart;
} bounds;

static void keep(void *arg, const char *what, int layer, const void *data, int n_row, int dim) {
  states *s = arg;
  if (strcmp(what, "hidden") != 0 || s->seen[layer] + n_row > s->n_row) return;
  const size_t at = ((size_t)layer * (size_t)s->n_row + (size_t)s->seen[layer]) * (size_t)dim, n = (size_t)n_row * (size_t)dim;
  memcpy(s->v + at, data, n * sizeof *s->v);
  if (s->var) memcpy(s->var + at, rounding_variance(), n * sizeof *s->var);
  s->seen[layer] += n_row;
}

static void states_free(states *s) {
  free(s->v);
  free(s->var);
  free(s->seen);
}

// The hidden states of ids, prefilled in chunks (0: in one step).
static int run(const fixture *f, engine_spec spec, const uint32_t *ids, uint32_t n, uint32_t chunk, bool analysed, states *s) {
  const size_t size = (size_t)(f->cfg.n_layer + 1) * n * (size_t)f->cfg.hidden;
  *s = (states){.n_layer = f->cfg.n_layer, .n_row = (int)n, .dim = f->cfg.hidden, .seen = calloc((size_t)f->cfg.n_layer + 1, sizeof *s->seen)};
  s->v = malloc(size * sizeof *s->v);
  if (analysed) s->var = malloc(size * sizeof *s->var);
  spec.max_rows = n;
  spec.max_seqs = 1;
  spec.max_len = 1024;
  spec.page_tokens = 64;
  spec.mesh = (ti_mesh){1, 1, 1, 1, 1};
  spec.threads = 2;
  spec.tap = keep;
  spec.tap_arg = s;
  ti_engine *e = fixture_engine(f, &spec);
  drive_seq q = {.prompt = ids, .n_prompt = n, .max_tokens = 1, .sampling = drive_greedy()};
  const int bad = !e || drive_run(e, &q, 1, &(drive_options){.chunk = chunk, .batch = 1});
  drive_free(&q, 1);
  ti_engine_destroy(e);
  for (int l = 0; !bad && l <= s->n_layer; l++)
    if (s->seen[l] != s->n_row) return printf("FAILED layer %d gave %d of %d rows\n", l, s->seen[l], s->n_row), 1;
  return bad;
}

typedef struct verdict {
  double error, derived, scale, spread, largest, bias, worst, apart;  // error, derived, scale: rms
} verdict;

// want's update in layer l is what it adds to the residual stream; the last norm's output stands for itself.
static verdict judge(const states *want, const states *got, const states *twin, int l) {
  const size_t n = (size_t)want->n_row * (size_t)want->dim, at = (size_t)l * n;
  const bool inside = l > 0 && l < want->n_layer;
  double ee = 0, vv = 0, ww = 0, eu = 0, uu = 0, tt = 0;
  verdict r = {0};
  for (size_t i = at; i < at + n; i++) {
    const double w = want->v[i], e = (double)got->v[i] - w, s2 = want->var[i] + 1e-12 * w * w + 1e-14, u = inside ? w - want->v[i - n] : w;  // 1e-6 of w: fp32's own
    if (twin) tt += ((double)got->v[i] - twin->v[i]) * ((double)got->v[i] - twin->v[i]);
    ee += e * e, vv += s2, ww += w * w, eu += e * u, uu += u * u;
    const double z = fabs(e) / sqrt(s2);
    if (!(z <= r.largest)) r.largest = z;
    if (!(fabs(e) <= r.worst)) r.worst = fabs(e);
  }
  r.error = sqrt(ee / (double)n), r.derived = sqrt(vv / (double)n), r.scale = sqrt(ww / (double)n), r.spread = sqrt(ee / vv), r.bias = eu / uu, r.apart = sqrt(tt / vv);
  return r;
}

// Prints a row a layer; how many layers are outside.
static int compare(const states *want, const states *got, const states *twin, const bounds *b, const char *what) {
  int bad = 0;
  for (int l = 0; l <= want->n_layer; l++) {
    const verdict v = judge(want, got, twin, l);
    const bool in = v.spread <= b->most && (l == 0 || v.spread >= b->least) && v.largest <= b->largest && fabs(v.bias) <= b->bias && v.apart <= b->apart;
    bad += !in;
    printf("%s layer %2d  rms %6.3f  error %.2e, derived %.2e (worst %.1e)  spread %.3f  largest %5.2f  bias %+.1e", in ? "ok    " : "FAILED", l, v.scale, v.error, v.derived, v.worst,
           v.spread, v.largest, v.bias);
    printf(twin ? "  apart %.2f\n" : "\n", v.apart);
  }
  printf("%s %s\n", bad ? "FAILED" : "ok    ", what);
  return bad;
}

static uint32_t *prompt_of(const fixture *f, uint32_t n) {
  uint32_t *ids = malloc(n * sizeof *ids), have = 0;
  for (size_t i = 0; f->json && have < n; i = (i + 1) % 8) {
    const char *keys[] = {"prompt_ids", "greedy_ids"};
    for (int k = 0; k < 2; k++) {
      uint32_t m, *v = fixture_ids(f, i, keys[k], &m);
      for (uint32_t j = 0; j < m && have < n; j++) ids[have++] = v[j];
      free(v);
    }
  }
  for (uint32_t i = have; i < n; i++) ids[i] = 3 + i * 2654435761u % ((uint32_t)f->cfg.vocab - 3);
  return ids;
}

typedef struct setting {
  fixture f;
  ti_coll *self;
  const char *model, *backend;
  const ti_kernels *kernels;  // NULL: rounded
  uint32_t *ids, n;
  bounds b;
} setting;

static int run_with(const setting *s, const ti_kernels *k, bool analysed, states *out) {
  return run(&s->f, (engine_spec){.kernels = k, .tp = s->self, .world = s->self}, s->ids, s->n, 0, analysed, out);
}

// The emulation alone, right and with each fault.
static int check_rounded(const setting *s, const states *want, unsigned places, bool faults) {
  int failures = 0;
  for (int i = 0; i < (faults ? FAULT_COUNT : 1); i++) {
    states got;
    if (run_with(s, rounding_rounded(places, (rounding_fault)i), false, &got)) return 1;
    printf("--- rounded, fault: %s\n", rounding_fault_names[i]);
    const int bad = compare(want, &got, NULL, &s->b, s->model);
    failures += i ? !bad : bad;
    states_free(&got);
  }
  return failures;
}

// The backend: all rows at once, which is how relaxed products of many rows come about, and in smaller steps.
static int check_backend(const setting *s, const states *want, unsigned places, bool fp32) {
  static const uint32_t chunks[] = {0, 16, 1};
  const bool relaxed = places & ROUND_GATE_UP;
  int failures = 0;
  states got, twin = {0};
  if (!fp32 && run_with(s, rounding_rounded(places, FAULT_NONE), false, &twin)) return 1;
  for (int c = 0; c < (fp32 || relaxed ? 1 : 3); c++) {
    const engine_spec spec = {.backend = s->backend, .relaxed = relaxed, .kv_bf16 = fp32, .tp = s->self, .world = s->self};
    if (run(&s->f, spec, s->ids, s->n, chunks[c], false, &got)) return 1;
    printf("--- %s, chunks of %u, %s\n", s->backend, chunks[c] ? chunks[c] : s->n, relaxed ? "relaxed" : "deterministic");
    failures += compare(want, &got, fp32 ? NULL : &twin, &s->b, s->model);
    states_free(&got);
  }
  states_free(&twin);
  return failures;
}

// The backend with a model that is a little wrong: every one must be found.
static int check_faults(const setting *s, const states *want, bool fp32) {
  static const char *const names[] = {"eps ten times too large", "scores 1% too large", "rotary base 1% too large"};
  int failures = 0;
  for (int i = 0; i < 3; i++) {
    fixture f = s->f;
    states got;
    if (i == 0) f.cfg.rms_eps *= 10;
    if (i == 1) f.cfg.softmax_scale *= 1.01;
    if (i == 2) f.cfg.rope.theta *= 1.01;
    if (run(&f, (engine_spec){.backend = s->backend, .kv_bf16 = fp32, .tp = s->self, .world = s->self}, s->ids, s->n, 0, false, &got)) return 1;
    printf("--- %s, fault: %s\n", s->backend, names[i]);
    failures += !compare(want, &got, NULL, &s->b, s->model);
    states_free(&got);
  }
  return failures;
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: hidden_bf16 MODEL BACKEND [ROWS] [--faults]\n"), 2;
  const bool random = !strncmp(argv[1], "random:", 7), faults = !strcmp(argv[argc - 1], "--faults"), rounded = !strcmp(argv[2], "rounded");
  setting s = {.model = argv[1], .backend = argv[2], .n = argc > 3 && argv[3][0] != '-' ? (uint32_t)strtoul(argv[3], NULL, 10) : 200};
  s.kernels = rounded ? NULL : fixture_backend(argv[2]);
  if (!rounded && !s.kernels) return printf("skipped: no backend %s here\n", argv[2]), 77;
  ti_error err = {0};
  if (ti_coll_self_create(&s.self) || (!random && fixture_open(&s.f, argv[1]))) return 1;
  if (random && (ti_config_load(argv[1], &s.f.cfg, &err) || ti_checkpoint_open(argv[1], &s.f.cfg, &s.f.ckpt, &err))) return fprintf(stderr, "%s\n", err.text), 1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  s.ids = prompt_of(&s.f, s.n);
  s.b = random ? (bounds){0.9, 1.15, 7, 5e-4, 1.5} : (bounds){0.6, 1.5, 14, 2e-3, 1.5};
  const bool fp32 = s.kernels && s.kernels->act == TI_F32;
  // Fused products keep gate and up in registers; cuBLASLt, which relaxed devices give many rows to, writes them.
  const unsigned places[] = {fp32 ? ROUND_KV : ROUND_KV | ROUND_ACT, ROUND_KV | ROUND_ACT | ROUND_GATE_UP};
  int failures = 0;
  for (int i = 0; i < (fp32 ? 1 : 2); i++) {
    states want;
    if (run_with(&s, rounding_analysed(places[i]), true, &want)) return 1;
    failures += rounded ? check_rounded(&s, &want, places[i], faults) : check_backend(&s, &want, places[i], fp32);
    if (faults && !rounded && i == 0) failures += check_faults(&s, &want, fp32);
    states_free(&want);
  }
  free(s.ids);
  ti_checkpoint_close(s.f.ckpt);
  ti_checkpoint_close(s.f.golden);
  json_decref(s.f.json);
  ti_coll_destroy(s.self);
  return failures != 0;
}
