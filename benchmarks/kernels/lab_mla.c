// MLA's two forms over context lengths: what justifies the rule of worker/graph/attention_mla.c.
//
//   lab_mla [--threads N] [--heads N] [--max-context N] [--reps N] [--json FILE]
//
//   absorbed  q_nope W_UK -> attention over latents (576 numbers a score, 512 a value) -> W_UV
//   expanded  latents of a tile -> one GEMM with kv_b_proj -> attention over keys of 192 and values of 128, tiles merged by log-sum-exp
//
// DeepSeek-V3's head: nope 128, rope 64, value 128, latent 512; bf16 weights, fp32 cache. A chunk of `rows` tokens stands at the end of its context.
// The outputs must agree within 1e-4 before anything is timed. Prints the best of --reps and their ratio.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rng.h"
#include "kernels/kernel.h"

enum { NOPE = 128, ROPE = 64, V = 128, LATENT = 512, DIM = NOPE + ROPE, PAGE = 64, TILE = 512, MAX_ROWS = 512, MAX_HEADS = 128 };
static const int rows_tried[] = {32, 64, 128, 192, 256, 512};
enum { N_ROWS = sizeof rows_tried / sizeof *rows_tried };

typedef struct lab {
  const ti_kernels *k;
  ti_dev *d;
  int heads, max_context, reps;
  ti_weight uk[MAX_HEADS], uv[MAX_HEADS], kv_b;
  ti_kv_layout layout;
  ti_batch batch;
  int32_t *position, *place, *seq, *row0, *len, *table;
  void *pool;
  float *q, *q_lat, *o_lat, *latent, *k_rope, *tile, *acc, *state, *out[2];  // out: absorbed, expanded
} lab;

static void *must(void *p) {
  if (p) return p;
  fprintf(stderr, "lab_mla: out of memory\n");
  exit(1);
}
static void ok(ti_status st, const char *what) {
  if (st == TI_OK) return;
  fprintf(stderr, "lab_mla: %s: %s\n", what, ti_status_text(st));
  exit(1);
}
static void *numbers(lab *l, size_t n) { return must(l->k->alloc(l->d, n * 4)); }

static float noise(uint32_t a, uint32_t b) {
  uint32_t r[4];
  ti_philox4x32((uint32_t[2]){7, a}, (uint32_t[4]){b, 0, 0, 0}, r);
  return 2.0f * ti_u32_to_unit(r[0]) - 1.0f;
}

static void prepare(lab *l, const uint16_t *data, int64_t n, unsigned flags, ti_weight *out) {
  const ti_weight_src src = {.data = data, .dtype = TI_BF16, .n = n, .k = LATENT};
  size_t bytes = 0;
  ok(l->k->weight_size(l->d, &src, 1, flags, &bytes), "weight_size");
  ok(l->k->weight_prepare(l->d, &src, 1, flags, bytes ? must(l->k->alloc(l->d, bytes)) : NULL, out), "weight_prepare");
}

static void make(lab *l) {
  ti_error err;
  const int64_t n = (int64_t)l->heads * (NOPE + V);
  uint16_t *w = must(malloc((size_t)(n * LATENT) * sizeof *w));  // kept until the program ends: a backend may use it as stored
  for (int64_t i = 0; i < n * LATENT; i++) w[i] = ti_f32_to_bf16(0.05f * noise(1, (uint32_t)i));
  prepare(l, w, n, TI_WEIGHT_EXACT, &l->kv_b);
  for (int h = 0; h < l->heads; h++) {
    prepare(l, w + (int64_t)h * (NOPE + V) * LATENT, NOPE, TI_WEIGHT_TRANSPOSE | TI_WEIGHT_EXACT, &l->uk[h]);
    prepare(l, w + ((int64_t)h * (NOPE + V) + NOPE) * LATENT, V, TI_WEIGHT_EXACT, &l->uv[h]);
  }
  l->layout = (ti_kv_layout){.kind = TI_KV_MLA, .dtype = TI_F32, .page_tokens = PAGE, .latent = LATENT, .rope = ROPE, .n_layer = 1};
  ok(ti_kv_layout_init(&l->layout, &err), "layout");
  const int pages = (l->max_context + PAGE - 1) / PAGE;
  l->pool = must(l->k->alloc(l->d, (size_t)pages * l->layout.page_bytes));
  l->table = numbers(l, (size_t)pages);
  for (int p = 0; p < pages; p++) l->table[p] = (int32_t)((int64_t)p * 7919 % pages);
  l->position = numbers(l, MAX_ROWS), l->place = numbers(l, MAX_ROWS), l->seq = numbers(l, MAX_ROWS), l->row0 = numbers(l, 2), l->len = numbers(l, 1);
  l->batch = (ti_batch){.n_seq = 1,
                        .position = l->position,
                        .place = l->place,
                        .seq = l->seq,
                        .seq_row0 = l->row0,
                        .seq_kv_len = l->len,
                        .block_table = l->table,
                        .table_stride = pages};
  const size_t h = (size_t)l->heads;
  l->q = numbers(l, MAX_ROWS * h * DIM), l->q_lat = numbers(l, MAX_ROWS * h * LATENT), l->o_lat = numbers(l, MAX_ROWS * h * LATENT);
  l->latent = numbers(l, TILE * LATENT), l->k_rope = numbers(l, TILE * ROPE), l->tile = numbers(l, TILE * h * (NOPE + V));
  l->acc = numbers(l, MAX_ROWS * h * V), l->state = numbers(l, MAX_ROWS * h * 2);
  for (int i = 0; i < 2; i++) l->out[i] = numbers(l, MAX_ROWS * h * V);
  for (size_t i = 0; i < MAX_ROWS * h * DIM; i++) l->q[i] = noise(2, (uint32_t)i);
}

// The batch of `n` rows that end at `context`.
static void stand(lab *l, int context, int n) {
  for (int i = 0; i < n; i++) l->position[i] = l->place[i] = context - n + i, l->seq[i] = 0;
  l->row0[0] = 0, l->row0[1] = n, l->len[0] = context;
  l->batch.n_row = l->batch.max_seq_rows = n;
}

static void fill(lab *l) {
  for (int at = 0; at < l->max_context; at += MAX_ROWS) {
    const int n = l->max_context - at < MAX_ROWS ? l->max_context - at : MAX_ROWS;
    stand(l, at + n, n);
    for (int i = 0; i < n * LATENT; i++) l->q_lat[i] = noise(3, (uint32_t)(at * LATENT + i));
    for (int i = 0; i < n * ROPE; i++) l->o_lat[i] = noise(4, (uint32_t)(at * ROPE + i));
    ok(l->k->kv_append(l->d, &(ti_kv_append_args){.layout = &l->layout, .kv = l->pool, .batch = &l->batch, .k = l->q_lat, .v = l->o_lat}),
       "kv_append");
  }
}

static const float scale = 0.1352f;

static void absorbed(lab *l) {
  const ti_kernels *k = l->k;
  const int n = l->batch.n_row, h = l->heads;
  ok(k->gemm_heads(l->d, &(ti_gemm_heads_args){.out = l->q_lat,
                                               .x = l->q,
                                               .w = l->uk,
                                               .m = n,
                                               .n_head = h,
                                               .ldx = (int64_t)h * DIM,
                                               .hdx = DIM,
                                               .ldo = (int64_t)h * LATENT,
                                               .hdo = LATENT}),
     "W_UK");
  ok(k->mla_attention(l->d, &(ti_mla_attention_args){.out = l->o_lat,
                                                     .q_lat = l->q_lat,
                                                     .q_rope = l->q + NOPE,
                                                     .kv = l->pool,
                                                     .layout = &l->layout,
                                                     .batch = &l->batch,
                                                     .n_head = h,
                                                     .scale = scale,
                                                     .ldr = (int64_t)h * DIM,
                                                     .hdr = DIM}),
     "mla_attention");
  ok(k->gemm_heads(l->d, &(ti_gemm_heads_args){.out = l->out[0],
                                               .x = l->o_lat,
                                               .w = l->uv,
                                               .m = n,
                                               .n_head = h,
                                               .ldx = (int64_t)h * LATENT,
                                               .hdx = LATENT,
                                               .ldo = (int64_t)h * V,
                                               .hdo = V}),
     "W_UV");
}

static void expanded(lab *l) {
  const ti_kernels *k = l->k;
  const int context = l->len[0], h = l->heads;
  for (int p = 0; p < context; p += TILE) {
    const int n = context - p < TILE ? context - p : TILE;
    ok(k->mla_gather(l->d,
                     &(ti_mla_gather_args){
                         .latent = l->latent, .k_rope = l->k_rope, .kv = l->pool, .layout = &l->layout, .batch = &l->batch, .place0 = p, .n = n}),
       "mla_gather");
    ok(k->gemm(l->d, &(ti_gemm_args){.out = l->tile, .x = l->latent, .w = &l->kv_b, .m = n, .out_dtype = k->act}), "kv_b");
    ok(k->mla_tile(l->d, &(ti_mla_tile_args){.out = l->out[1],
                                             .acc = l->acc,
                                             .state = l->state,
                                             .q = l->q,
                                             .kv = l->tile,
                                             .k_rope = l->k_rope,
                                             .batch = &l->batch,
                                             .place0 = p,
                                             .n = n,
                                             .n_head = h,
                                             .nope = NOPE,
                                             .rope = ROPE,
                                             .v_dim = V,
                                             .scale = scale,
                                             .first = p == 0,
                                             .last = p + n == context}),
       "mla_tile");
  }
}

static double difference(const lab *l) {
  double worst = 0, most = 0;
  const size_t n = (size_t)(l->batch.n_row * l->heads * V);
  for (size_t i = 0; i < n; i++) {
    worst = fmax(worst, fabs((double)(l->out[0][i] - l->out[1][i])));
    most = fmax(most, fabs((double)l->out[0][i]));
  }
  return worst / most;
}

static void measure(lab *l, double best[2]) {
  void (*const fn[2])(lab *) = {absorbed, expanded};
  best[0] = best[1] = INFINITY;
  for (int r = 0; r < l->reps; r++)
    for (int i = 0; i < 2; i++) {
      const uint64_t t = ti_mono_ns();
      fn[i](l);
      best[i] = fmin(best[i], (double)(ti_mono_ns() - t) / 1e6);
    }
}

int main(int argc, char **argv) {
  lab l = {.k = ti_kernels_cpu(), .heads = 4, .max_context = 32768, .reps = 3};
  const char *json_path = NULL;
  long threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    const long v = strtol(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--threads") == 0) threads = v;
    if (strcmp(argv[i], "--heads") == 0) l.heads = (int)v;
    if (strcmp(argv[i], "--max-context") == 0) l.max_context = (int)v;
    if (strcmp(argv[i], "--reps") == 0) l.reps = (int)v;
    if (strcmp(argv[i], "--json") == 0) json_path = argv[i + 1];
  }
  if (threads < 1 || threads > 256 || l.heads < 1 || l.heads > MAX_HEADS || l.max_context < 128 || l.reps < 1) {
    fprintf(stderr, "lab_mla: --threads 1..256, --heads 1..%d, --max-context from 128, --reps from 1\n", MAX_HEADS);
    return 1;
  }
  ok(l.k->open(&(ti_dev_options){.threads = (int)threads}, &l.d, NULL), "open");
  ok(l.k->reserve(l.d, MAX_ROWS, (int64_t)l.heads * (NOPE + V), 1024, 1024), "reserve");
  make(&l);
  fill(&l);
  json_t *table = json_array();
  int failed = 0;
  printf("%s, %ld threads, %d heads: ms absorbed / expanded (their ratio), by rows of the chunk\n%8s", l.k->name, threads, l.heads, "context");
  for (int r = 0; r < N_ROWS; r++) printf(" %22d", rows_tried[r]);
  printf("\n");
  for (int context = 128; context <= l.max_context; context *= 4) {
    printf("%8d", context);
    for (int r = 0; r < N_ROWS; r++) {
      if (rows_tried[r] > context) {
        printf(" %22s", "-");
        continue;
      }
      double ms[2];
      stand(&l, context, rows_tried[r]);
      absorbed(&l);
      expanded(&l);
      const double off = difference(&l);
      if (!(off <= 1e-4)) {
        printf(" WRONG: %.2g apart", off);
        failed = 1;
        continue;
      }
      measure(&l, ms);
      printf(" %8.2f /%7.2f (%.2f)", ms[0], ms[1], ms[0] / ms[1]);
      fflush(stdout);
      json_array_append_new(table, json_pack("{s:i,s:i,s:f,s:f,s:f}", "context", context, "rows", rows_tried[r], "absorbed_ms", ms[0], "expanded_ms",
                                             ms[1], "difference", off));
    }
    printf("\n");
  }
  if (json_path && json_dump_file(table, json_path, JSON_INDENT(1))) fprintf(stderr, "lab_mla: cannot write %s\n", json_path);
  json_decref(table);
  l.k->close(l.d);
  return failed;
}
