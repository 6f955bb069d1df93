// moe_gguf BACKEND: titan-tiny-moe as deepseek2 GGUF files, made here: F32, Q8_0 and Q4_K (with Q8_0 where rows are no whole blocks, as converters
// do), kv_b whole and as halves, experts stacked. Texts are forced, logits compared:
//
//   same numbers   a file in F32 against the model itself, and a quantised file against one that holds its numbers as F32: SAME, whether attention is
//                  absorbed (kv_b head by head, W_UK transposed) or expanded (kv_b as one matrix)
//   shares         what each of two tensor-parallel ranks loads of kv_b, in all its forms: the same numbers from a file with it whole and as halves
//   what it costs  nats a token that a quantised file loses against the model, with fp32 and with int8 activations: LOSS
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/placement.h"
#include "model/gguf/gguf_model.h"
#include "tests/golden/forced.h"
#include "tests/golden/moe_gguf_file.h"
#include "worker/weights.h"

#define SAME 1e-3
enum { TEXTS = 2, LONG = 200 };  // the first text is long enough to be expanded

typedef struct job {
  const fixture *f;
  engine_spec spec;
  const forced_text *text;
} job;

// Makes a file of f's model and opens it in its place; the caller closes f->ckpt and frees the file. NULL with a printed error.
static unsigned char *open_file(fixture *f, const moe_gguf_options *o) {
  ti_error err = {0};
  ti_gguf *g;
  size_t size;
  unsigned char *file = moe_gguf_make(&f->cfg, f->ckpt, o, &size);
  if (!file) return NULL;
  ti_status st = ti_gguf_open_memory(file, size, "moe.gguf", &g, &err);
  if (!st) st = ti_gguf_config(g, &f->cfg, &err);
  if (!st) st = ti_gguf_checkpoint(g, &f->cfg, &f->ckpt, &err);
  if (!st) return file;
  fprintf(stderr, "%s\n", err.text);
  free(file);
  return NULL;
}

// The logits of a file.
static int run_file(const job *j, const moe_gguf_options *o, bool expanded, ti_act_quant act, forced_logits *out) {
  fixture f = *j->f;
  unsigned char *file = open_file(&f, o);
  if (!file) return 1;
  engine_spec spec = j->spec;
  spec.relaxed = expanded;
  spec.act_quant = act;
  const int bad = forced_run(&f, spec, j->text, TEXTS, out);
  ti_checkpoint_close(f.ckpt);
  free(file);
  return bad;
}

static int same(const char *what, const forced_logits *a, const forced_logits *b) {
  int rows;
  const double apart = forced_apart(a, b, SAME, &rows);
  printf("%s %s: %d rows, at most %.1e apart (bound %.0e)\n", apart <= SAME ? "ok    " : "FAILED", what, a->n_row, apart, SAME);
  return apart > SAME;
}

static int lost(const char *what, const job *j, const forced_logits *l, double model_nll, double bound) {
  const double loss = forced_nll(l, j->text, TEXTS) - model_nll;
  printf("%s %s: loses %.4f nats a token (bound %.3f)\n", loss < bound ? "ok    " : "FAILED", what, loss, bound);
  return !(loss < bound);
}

static int check_type(const job *j, ti_dtype type, double loss, double model_nll) {
  int bad = 0, rows;
  char what[96];
  forced_logits quant[4], plain, int8, unfused;
  for (int i = 0; i < 4; i++) {
    const bool split = i & 1, expanded = i & 2;
    snprintf(what, sizeof what, "%s, kv_b %s, %s", ti_dtype_name(type), split ? "as halves" : "whole", expanded ? "expanded" : "absorbed");
    if (run_file(j, &(moe_gguf_options){.type = type, .split = split}, expanded, TI_ACT_NONE, &quant[i])) return 1;
    if (run_file(j, &(moe_gguf_options){.type = type, .split = split, .numbers = true}, expanded, TI_ACT_NONE, &plain)) return 1;
    bad += same(what, &quant[i], &plain) + lost(what, j, &quant[i], model_nll, loss);
    free(plain.v);
  }
  for (int i = 0; i < 2; i++) {  // both forms agree, and are two
    bad += same(i ? "as halves, expanded and absorbed" : "whole, expanded and absorbed", &quant[i], &quant[i + 2]);
    bad += forced_apart(&quant[i], &quant[i + 2], 0, &rows) == 0;
  }
  for (int i = 0; i < 4; i++) free(quant[i].v);
  if (run_file(j, &(moe_gguf_options){.type = type, .split = true}, false, TI_ACT_INT8, &int8)) return 1;
  snprintf(what, sizeof what, "%s, int8 activations", ti_dtype_name(type));
  bad += lost(what, j, &int8, model_nll, loss);
  job apart = *j;
  apart.spec.backend = "unfused";
  if (run_file(&apart, &(moe_gguf_options){.type = type, .split = true}, false, TI_ACT_INT8, &unfused)) return 1;
  bad += same("int8 codes handed on, or made in every product", &int8, &unfused) + (forced_apart(&int8, &unfused, 0, &rows) != 0);
  free(int8.v);
  free(unfused.v);
  return bad;
}

// ---- shares of kv_b ----

typedef struct numbers {
  float *v;
  size_t n;
} numbers;

// Appends a prepared matrix, row by row.
static ti_status append(const ti_kernels *k, ti_dev *d, const ti_weight *w, numbers *out) {
  float *v = realloc(out->v, (out->n + (size_t)(w->n * w->k)) * sizeof *v);
  int32_t *ids = calloc((size_t)w->n, sizeof *ids);
  if (!v || !ids) abort();
  for (int i = 0; i < w->n; i++) ids[i] = i;
  const ti_status st =
      k->embed(d, &(ti_embed_args){.out = v + out->n, .ids = ids, .table = w, .n_row = (int)w->n, .hidden = (int)w->k, .n_id = (int)w->n});
  free(ids);
  out->v = v;
  out->n += (size_t)(w->n * w->k);
  return st;
}

// W_UK and W_UV of this rank's heads, then kv_b, layer by layer.
static int load_share(const job *j, bool split, int rank, numbers *out) {
  fixture f = *j->f;
  unsigned char *file = open_file(&f, &(moe_gguf_options){.type = TI_F32, .split = split});
  const ti_kernels *k = ti_kernels_find(j->spec.backend);
  ti_dev *d = NULL;
  ti_placement *p = NULL, *layers[16];
  ti_weights w = {0};
  ti_error err = {0};
  *out = (numbers){0};
  if (!file || f.cfg.n_layer > 16) return 1;
  ti_status st = k->open(&(ti_dev_options){.threads = 1}, &d, &err);
  if (!st) st = ti_placement_identity(f.cfg.moe.n_expert, 0, &p, &err);
  for (int i = 0; i < 16; i++) layers[i] = p;
  const ti_weights_options o = {
      .model = &f.cfg, .ckpt = f.ckpt, .kernels = k, .dev = d, .mesh = {2, 2, 1, 2, 1}, .worker = rank, .placement = layers, .expanded = true};
  if (!st) st = ti_weights_load(&o, &w, &err);
  for (int l = 0; !st && l < f.cfg.n_layer; l++) {
    const ti_layer_weights *lw = &w.layer[l];
    for (int h = 0; !st && h < w.heads.n_head; h++) {
      st = append(k, d, &lw->uk[h], out);
      if (!st) st = append(k, d, &lw->uv[h], out);
    }
    if (!st) st = append(k, d, &lw->kv_b, out);
  }
  if (st) fprintf(stderr, "rank %d's share: %s\n", rank, err.text);
  ti_weights_fini(&w);
  ti_placement_destroy(p);
  k->close(d);
  ti_checkpoint_close(f.ckpt);
  free(file);
  return st != TI_OK;
}

static int check_shares(const job *j) {
  numbers n[2][2];  // [rank][split]
  for (int i = 0; i < 4; i++)
    if (load_share(j, i & 1, i / 2, &n[i / 2][i & 1])) return 1;
  int bad = n[0][0].n == n[1][0].n && memcmp(n[0][0].v, n[1][0].v, n[0][0].n * sizeof(float)) == 0;  // ranks have different heads
  for (int r = 0; r < 2; r++) bad += n[r][0].n != n[r][1].n || memcmp(n[r][0].v, n[r][1].v, n[r][0].n * sizeof(float)) != 0;
  printf("%s kv_b whole and as halves: the same %zu numbers on each of 2 ranks\n", bad ? "FAILED" : "ok    ", n[0][0].n);
  for (int i = 0; i < 4; i++) free(n[i / 2][i & 1].v);
  return bad;
}

static int check_all(const job *j) {
  forced_logits model, plain;
  if (forced_run(j->f, j->spec, j->text, TEXTS, &model)) return 1;
  const double nll = forced_nll(&model, j->text, TEXTS);
  printf("       the model: %.4f nats a token\n", nll);
  int bad = 0;
  for (int split = 0; split < 2; split++) {
    if (run_file(j, &(moe_gguf_options){.type = TI_F32, .split = split}, false, TI_ACT_NONE, &plain)) return 1;
    bad += same(split ? "F32, kv_b as halves, and the model" : "F32, kv_b whole, and the model", &plain, &model);
    free(plain.v);
  }
  free(model.v);
  bad += check_shares(j);
  bad += check_type(j, TI_Q8_0, 0.005, nll);
  return bad + check_type(j, TI_Q4_K, 0.02, nll);
}

// Golden texts one behind the other, `n` ids.
static forced_text long_text(const fixture *f, uint32_t n) {
  forced_text all = {.ids = calloc(n, sizeof *all.ids)};
  for (size_t i = 0; all.n < n; i++) {
    forced_text t = forced_golden(f, i % 8, 96);
    for (uint32_t k = 0; k < t.n && all.n < n; k++) all.ids[all.n++] = t.ids[k];
    free(t.ids);
  }
  return all;
}

int main(int argc, char **argv) {
  if (argc < 2) return fprintf(stderr, "usage: moe_gguf BACKEND\n"), 2;
  if (!ti_kernels_find(argv[1])) return printf("skipped: no backend %s on this processor\n", argv[1]), 77;
  fixture f;
  ti_coll *self;
  if (ti_coll_self_create(&self) || fixture_open(&f, "titan-tiny-moe")) return 1;
  const forced_text text[TEXTS] = {long_text(&f, LONG), forced_golden(&f, 3, 40)};
  const job j = {.f = &f,
                 .spec = {.backend = argv[1],
                          .mesh = {1, 1, 1, 1, 1},
                          .tp = self,
                          .world = self,
                          .page_tokens = 16,
                          .max_rows = 256,
                          .max_seqs = 1,
                          .max_len = 256,
                          .threads = 2},
                 .text = text};
  const int bad = check_all(&j);
  for (int i = 0; i < TEXTS; i++) free(text[i].ids);
  fixture_close(&f);
  ti_coll_destroy(self);
  return bad != 0;
}
