// Expanded MLA: the ops against fp64, tile by tile in any cut, and the whole form against the absorbed one.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "weights.h"

enum {
  HEADS = 3,
  NOPE = 32,
  ROPE = 16,
  V = 24,
  LATENT = 128,
  PAGE = 16,
  DIM = NOPE + ROPE,
  SEQS = 3,
  ROWS = 20 + 1 + 5,
  PAGES = 24,
  STRIDE = 12,
  TAIL = 64
};
static const int past[SEQS] = {130, 64, 0}, run[SEQS] = {20, 1, 5}, first_place[SEQS] = {0, 3, 1};

// The pool with all places appended, the batch of the last rows, q and the weights.
typedef struct scene {
  cf_dev *d;
  ti_kv_layout layout;
  void *kv;
  ti_batch batch;
  const float *latent[SEQS], *rope[SEQS];  // host, before the cache's rounding
  const float *q, *uk, *uv;                // host: [ROWS, HEADS, DIM], [HEADS, NOPE, LATENT], [HEADS, V, LATENT]
  void *dq;
} scene;

static ti_batch batch_of(cf_dev *d, int s0, int n_seq, const int *from, const int *n) {
  int32_t place[256], seq[256], row0[SEQS + 1] = {0}, len[SEQS], first[SEQS], table[SEQS * STRIDE];
  int row = 0, most = 0;
  for (int s = 0; s < n_seq; s++) {
    for (int i = 0; i < n[s]; i++, row++) place[row] = from[s] + i, seq[row] = s;
    row0[s + 1] = row;
    len[s] = from[s] + n[s];
    first[s] = first_place[s0 + s];
    most = n[s] > most ? n[s] : most;
    for (int p = 0; p < STRIDE; p++) table[s * STRIDE + p] = ((s0 + s) * 7 + p * 5) % PAGES;  // see the pages' use in `append`
  }
  return (ti_batch){.n_row = row,
                    .n_seq = n_seq,
                    .max_seq_rows = most,
                    .table_stride = STRIDE,
                    .position = cf_up(d, place, sizeof(int32_t) * (size_t)row),
                    .place = cf_up(d, place, sizeof(int32_t) * (size_t)row),
                    .seq = cf_up(d, seq, sizeof(int32_t) * (size_t)row),
                    .seq_row0 = cf_up(d, row0, sizeof(int32_t) * (size_t)(n_seq + 1)),
                    .seq_kv_len = cf_up(d, len, sizeof(int32_t) * (size_t)n_seq),
                    .kv_first = cf_up(d, first, sizeof(int32_t) * (size_t)n_seq),
                    .block_table = cf_up(d, table, sizeof(int32_t) * (size_t)(n_seq * STRIDE))};
}

// One sequence at a time has the pool: pages of different sequences may be the same.
static void append(scene *s, int i) {
  const int n = past[i] + run[i], from = 0;
  const ti_batch b = batch_of(s->d, i, 1, &from, &n);
  const ti_kv_append_args a = {.layout = &s->layout,
                               .kv = s->kv,
                               .batch = &b,
                               .k = cf_up_act(s->d, s->latent[i], (size_t)(n * LATENT)),
                               .v = cf_up_act(s->d, s->rope[i], (size_t)(n * ROPE))};
  cf_ok(s->d, "kv_append", s->d->k->kv_append(s->d->d, &a));
}

static scene set_up(cf_dev *d, ti_dtype dtype, int i) {
  scene s = {.d = d, .layout = {.kind = TI_KV_MLA, .dtype = dtype, .page_tokens = PAGE, .latent = LATENT, .rope = ROPE, .n_layer = 1}};
  ti_error err;
  cr_assert_eq(ti_kv_layout_init(&s.layout, &err), TI_OK);
  void *poison = cf_host(d, PAGES * s.layout.page_bytes);
  memset(poison, 0xff, PAGES * s.layout.page_bytes);
  s.kv = cf_up(d, poison, PAGES * s.layout.page_bytes);
  for (int j = 0; j < SEQS; j++) {
    s.latent[j] = cf_floats(d, (size_t)((past[j] + run[j]) * LATENT), 10 + (uint64_t)j, 1.0f);
    s.rope[j] = cf_floats(d, (size_t)((past[j] + run[j]) * ROPE), 20 + (uint64_t)j, 1.0f);
  }
  append(&s, i);
  s.batch = batch_of(d, i, 1, &past[i], &run[i]);
  s.q = cf_floats(d, (size_t)(run[i] * HEADS * DIM), 30 + (uint64_t)i, 1.0f);
  s.uk = cf_floats(d, HEADS * NOPE * LATENT, 40, 0.1f);
  s.uv = cf_floats(d, HEADS * V * LATENT, 41, 0.1f);
  s.dq = cf_up_act(d, s.q, (size_t)(run[i] * HEADS * DIM));
  return s;
}

// The cache's numbers as the backend gives them back.
static void gather(scene *s, int place0, int n, float **latent, float **rope) {
  void *dl = cf_out_act(s->d, (size_t)(n * LATENT)), *dr = cf_out_act(s->d, (size_t)(n * ROPE));
  const ti_mla_gather_args a = {.latent = dl, .k_rope = dr, .kv = s->kv, .layout = &s->layout, .batch = &s->batch, .place0 = place0, .n = n};
  cf_ok(s->d, "mla_gather", s->d->k->mla_gather(s->d->d, &a));
  *latent = cf_down_act(s->d, dl, (size_t)(n * LATENT));
  *rope = cf_down_act(s->d, dr, (size_t)(n * ROPE));
}

// [n, HEADS, NOPE + V] of n latents, rounded to the backend's type.
static float *expand(scene *s, const float *latent, int n) {
  float *kv = cf_host(s->d, (size_t)(n * HEADS * (NOPE + V)) * sizeof *kv);
  for (int i = 0; i < n; i++)
    for (int h = 0; h < HEADS; h++)
      for (int c = 0; c < NOPE + V; c++) {
        const float *w = c < NOPE ? s->uk + (h * NOPE + c) * LATENT : s->uv + (h * V + c - NOPE) * LATENT;
        double sum = 0;
        for (int j = 0; j < LATENT; j++) sum += (double)w[j] * (double)latent[i * LATENT + j];
        kv[(i * HEADS + h) * (NOPE + V) + c] = (float)sum;
      }
  return kv;
}

static void want_of(const scene *s, int i, const float *kv, const float *rope, double *want, double *magnitude) {
  for (int r = 0; r < run[i]; r++)
    for (int h = 0; h < HEADS; h++) {
      double score[256], top = -INFINITY, sum = 0, *out = want + (r * HEADS + h) * V;
      const int hi = past[i] + r + 1;
      const float *q = s->q + (r * HEADS + h) * DIM;
      for (int p = first_place[i]; p < hi; p++) {
        score[p] = 0;
        for (int c = 0; c < NOPE; c++) score[p] += (double)q[c] * (double)kv[(p * HEADS + h) * (NOPE + V) + c];
        for (int c = 0; c < ROPE; c++) score[p] += (double)q[NOPE + c] * (double)rope[p * ROPE + c];
        score[p] *= 0.125;
        top = fmax(top, score[p]);
      }
      memset(out, 0, V * sizeof *out);
      for (int p = first_place[i]; p < hi; p++) {
        const double e = exp(score[p] - top);
        sum += e;
        for (int c = 0; c < V; c++) {
          const double v = (double)kv[(p * HEADS + h) * (NOPE + V) + NOPE + c];
          out[c] += e * v;
          magnitude[(r * HEADS + h) * V + c] = fmax(magnitude[(r * HEADS + h) * V + c], fabs(v));
        }
      }
      for (int c = 0; c < V && sum > 0; c++) out[c] /= sum;
    }
}

// The run over tiles of `size` places.
static float *tiled(scene *s, int i, const float *kv, const float *rope, int size) {
  const int n = past[i] + run[i];
  cf_dev *d = s->d;
  void *out = cf_out_act(d, (size_t)(run[i] * HEADS * V));
  float *acc = cf_out_f32(d, (size_t)(run[i] * HEADS * V)), *state = cf_out_f32(d, (size_t)(run[i] * HEADS * 2));
  for (int p = 0; p < n; p += size) {
    const int m = p + size < n ? size : n - p;
    float *tile = cf_host(d, (size_t)((m + TAIL) * HEADS * (NOPE + V)) * sizeof *tile), *tr = cf_host(d, (size_t)((m + TAIL) * ROPE) * sizeof *tr);
    memset(tile, 0xff, (size_t)((m + TAIL) * HEADS * (NOPE + V)) * sizeof *tile);
    memset(tr, 0xff, (size_t)((m + TAIL) * ROPE) * sizeof *tr);
    memcpy(tile, kv + p * HEADS * (NOPE + V), (size_t)(m * HEADS * (NOPE + V)) * sizeof *tile);
    memcpy(tr, rope + p * ROPE, (size_t)(m * ROPE) * sizeof *tr);
    const ti_mla_tile_args a = {.out = out,
                                .acc = acc,
                                .state = state,
                                .q = s->dq,
                                .kv = cf_up_act(d, tile, (size_t)((m + TAIL) * HEADS * (NOPE + V))),
                                .k_rope = cf_up_act(d, tr, (size_t)((m + TAIL) * ROPE)),
                                .batch = &s->batch,
                                .place0 = p,
                                .n = m,
                                .n_head = HEADS,
                                .nope = NOPE,
                                .rope = ROPE,
                                .v_dim = V,
                                .scale = 0.125f,
                                .first = p == 0,
                                .last = p + m == n};
    cf_ok(d, "mla_tile", d->k->mla_tile(d->d, &a));
  }
  return cf_down_act(d, out, (size_t)(run[i] * HEADS * V));
}

// q W_UK, attention in the latent space, W_UV: in fp64 but for the op.
static float *absorbed(scene *s, int i) {
  const int n = run[i];
  cf_dev *d = s->d;
  float *q_lat = cf_host(d, (size_t)(n * HEADS * LATENT) * sizeof *q_lat), *q_rope = cf_host(d, (size_t)(n * HEADS * ROPE) * sizeof *q_rope);
  for (int r = 0; r < n * HEADS; r++) {
    memcpy(q_rope + r * ROPE, s->q + r * DIM + NOPE, ROPE * sizeof *q_rope);
    for (int j = 0; j < LATENT; j++) {
      double sum = 0;
      for (int c = 0; c < NOPE; c++) sum += (double)s->q[r * DIM + c] * (double)s->uk[(r % HEADS * NOPE + c) * LATENT + j];
      q_lat[r * LATENT + j] = (float)sum;
    }
  }
  void *o = cf_out_act(d, (size_t)(n * HEADS * LATENT));
  const ti_mla_attention_args a = {.out = o,
                                   .q_lat = cf_up_act(d, q_lat, (size_t)(n * HEADS * LATENT)),
                                   .q_rope = cf_up_act(d, q_rope, (size_t)(n * HEADS * ROPE)),
                                   .kv = s->kv,
                                   .layout = &s->layout,
                                   .batch = &s->batch,
                                   .n_head = HEADS,
                                   .scale = 0.125f};
  cf_ok(d, "mla_attention", d->k->mla_attention(d->d, &a));
  const float *lat = cf_down_act(d, o, (size_t)(n * HEADS * LATENT));
  float *out = cf_host(d, (size_t)(n * HEADS * V) * sizeof *out);
  for (int r = 0; r < n * HEADS; r++)
    for (int c = 0; c < V; c++) {
      double sum = 0;
      for (int j = 0; j < LATENT; j++) sum += (double)s->uv[(r % HEADS * V + c) * LATENT + j] * (double)lat[r * LATENT + j];
      out[r * V + c] = (float)sum;
    }
  return out;
}

Test(mla, the_expanded_form_matches_fp64_and_the_absorbed_one) {
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_E4M3};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, mla_tile)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 2);
    for (int t = 0; t < 3; t++)
      for (int i = 0; i < SEQS; i++, cf_reset(d)) {
        const int n = past[i] + run[i];
        scene s = set_up(d, types[t], i);
        float *latent, *rope;
        gather(&s, first_place[i], n - first_place[i], &latent, &rope);
        float *all = cf_host(d, (size_t)(n * LATENT) * sizeof *all), *all_rope = cf_host(d, (size_t)(n * ROPE) * sizeof *all_rope);
        memcpy(all + first_place[i] * LATENT, latent, (size_t)((n - first_place[i]) * LATENT) * sizeof *all);
        memcpy(all_rope + first_place[i] * ROPE, rope, (size_t)((n - first_place[i]) * ROPE) * sizeof *all_rope);
        if (types[t] == TI_F32 && k->act == TI_F32)
          cf_same_bits(d, "mla_gather", latent, s.latent[i] + first_place[i] * LATENT, (size_t)((n - first_place[i]) * LATENT) * sizeof *latent);
        const float *kv = expand(&s, all, n);
        double *want = cf_host(d, (size_t)(run[i] * HEADS * V) * sizeof *want),
               *magnitude = cf_host(d, (size_t)(run[i] * HEADS * V) * sizeof *magnitude);
        want_of(&s, i, kv, all_rope, want, magnitude);
        const float *whole = tiled(&s, i, kv, all_rope, 256), *small = tiled(&s, i, kv, all_rope, 64), *other = absorbed(&s, i);
        cf_close_to(d, "mla_tile, one tile", CF_ATTENTION, whole, want, magnitude, (size_t)(run[i] * HEADS * V));
        cf_close_to(d, "mla_tile, tiles of 64", CF_ATTENTION, small, want, magnitude, (size_t)(run[i] * HEADS * V));
        if (k->act != TI_F32) continue;
        for (int j = 0; j < run[i] * HEADS * V; j++)
          cr_assert(fabs((double)(other[j] - whole[j])) <= 1e-4 * magnitude[j], "%s: absorbed %g, expanded %g", k->name, (double)other[j],
                    (double)whole[j]);
      }
    cf_close(d);
  }
}
