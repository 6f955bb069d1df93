// Paged-attention scenarios: see kv_scenario.h.
//
// Page 0 is never handed out and stays NaN: table entries behind a sequence's pages point there. Pages are dealt to the sequences in turn, so that no
// sequence's pages are neighbours. Layer 1 of 2 is used; layer 0 stays NaN.
#include "kv_scenario.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/half.h"

enum { N_LAYER = 2, LAYER = 1, MAX_SEQ = 32, STEP_ROWS = 128 };

typedef struct world {
  cf_dev *d;
  const cf_case *c;
  ti_kv_layout l;
  void *pool;
  size_t pool_bytes;
  int32_t *table;
  int table_stride;
  int n_kv, kd, vd;                                   // heads, numbers of a key and of a value (MLA: 1, latent + rope, latent)
  const float *k[MAX_SEQ], *v[MAX_SEQ], *q[MAX_SEQ];  // [place, n_kv, kd], [place, n_kv, vd] (GQA), [place, n_head, kd]
  uint64_t *mask[MAX_SEQ];                            // [rows]
} world;

int cf_case_rows(const cf_case *c) {
  int n = 0;
  for (int s = 0; s < c->n_seq; s++) n += c->seq[s].rows;
  return n;
}
int cf_case_value_dim(const cf_case *c) { return c->kind == TI_KV_GQA ? c->head_dim : c->latent; }
static int places(const cf_seq *s) { return s->past + s->rows; }

static void make_data(world *w) {
  const cf_case *c = w->c;
  w->n_kv = c->kind == TI_KV_GQA ? c->n_kv_head : 1;
  w->vd = cf_case_value_dim(c);
  w->kd = c->kind == TI_KV_GQA ? c->head_dim : c->latent + c->rope;
  for (int s = 0; s < c->n_seq; s++) {
    const size_t n = (size_t)places(&c->seq[s]);
    const uint64_t seed = (uint64_t)c->seq[s].id * 100;
    w->k[s] = cf_floats(w->d, n * (size_t)(w->n_kv * w->kd), seed + 1, 1.0f);
    w->v[s] = cf_floats(w->d, n * (size_t)(w->n_kv * w->vd), seed + 2, 1.0f);
    w->q[s] = cf_floats(w->d, n * (size_t)(c->n_head * w->kd), seed + 3, 1.0f);
    w->mask[s] = cf_host(w->d, (size_t)c->seq[s].rows * 8 + 8);
    const int32_t *parent = cf_ints(w->d, (size_t)c->seq[s].rows, seed + 4, 1 << 20);
    for (int r = 0; r < c->seq[s].rows && c->tree; r++) {
      const int p = parent[r] % (r + 1) - 1;  // -1: a child of the past's last token
      w->mask[s][r] = 1ull << r | (p >= 0 ? w->mask[s][p] : 0);
    }
  }
}

static void make_pool(world *w) {
  const cf_case *c = w->c;
  w->l = (ti_kv_layout){.kind = c->kind,
                        .dtype = c->dtype,
                        .page_tokens = c->page_tokens,
                        .n_kv_head = c->n_kv_head,
                        .head_dim = c->head_dim,
                        .latent = c->latent,
                        .rope = c->rope,
                        .n_layer = N_LAYER};
  ti_error err = {0};
  cr_assert_eq(ti_kv_layout_init(&w->l, &err), TI_OK, "%s", err.text);
  for (int s = 0; s < c->n_seq; s++) {
    const int n = (places(&c->seq[s]) + c->page_tokens - 1) / c->page_tokens + 2;  // two poisoned entries
    if (n > w->table_stride) w->table_stride = n;
  }
  w->table = cf_host(w->d, (size_t)(c->n_seq * w->table_stride) * 4);
  int next = 1;
  for (int i = 0; i < w->table_stride; i++) {
    for (int s = c->n_seq - 1; s >= 0; s--) {
      if (i * c->page_tokens < places(&c->seq[s])) w->table[s * w->table_stride + i] = next++;
    }
  }
  w->pool_bytes = w->l.page_bytes * (size_t)next;
  uint8_t *poison = cf_host(w->d, w->pool_bytes);
  memset(poison, 0xff, w->pool_bytes);  // NaN in fp32, bf16 and e4m3
  w->pool = cf_up(w->d, poison, w->pool_bytes);
}

// Places [from[s], to[s]) of every sequence as one batch, with the host's view of which rows these are. Device arrays live until cf_reset.
typedef struct step {
  ti_batch b;
  int seq[CF_MAX_ROW], place[CF_MAX_ROW];
} step;

static void make_step(world *w, const int *from, const int *to, bool masks, step *st) {
  const cf_case *c = w->c;
  int32_t position[CF_MAX_ROW], row0[MAX_SEQ + 1] = {0}, kv_len[MAX_SEQ], first[MAX_SEQ];
  uint64_t mask[CF_MAX_ROW];
  int n = 0, longest = 0;
  bool any_first = c->kv_first;
  for (int s = 0; s < c->n_seq; s++) {
    for (int p = from[s]; p < to[s]; p++, n++) {
      cr_assert(n < CF_MAX_ROW);
      st->seq[n] = s;
      st->place[n] = p;
      position[n] = p - c->seq[s].first;
      mask[n] = masks ? w->mask[s][p - c->seq[s].past] : 0;
    }
    row0[s + 1] = n;
    kv_len[s] = c->seq[s].empty ? 0 : to[s];
    first[s] = c->seq[s].first;
    any_first = any_first || first[s] > 0;
    if (to[s] - from[s] > longest) longest = to[s] - from[s];
  }
  cf_dev *d = w->d;
  const size_t rows = (size_t)n * 4, seqs = (size_t)c->n_seq * 4;
  st->b = (ti_batch){.n_row = n,
                     .n_seq = c->n_seq,
                     .max_seq_rows = longest,
                     .position = cf_up(d, position, rows),
                     .place = cf_up(d, st->place, rows),
                     .seq = cf_up(d, st->seq, rows),
                     .seq_row0 = cf_up(d, row0, seqs + 4),
                     .seq_kv_len = cf_up(d, kv_len, seqs),
                     .kv_first = any_first ? cf_up(d, first, seqs) : NULL,
                     .block_table = cf_up(d, w->table, (size_t)(c->n_seq * w->table_stride) * 4),
                     .table_stride = w->table_stride,
                     .mask = masks ? cf_up(d, mask, (size_t)n * 8) : NULL};
}

// [n_row, width] of per-sequence data at the step's places.
static void *gather(world *w, const step *st, const float *const *data, size_t width) {
  float *x = cf_host(w->d, (size_t)st->b.n_row * width * sizeof *x);
  for (int r = 0; r < st->b.n_row; r++) memcpy(x + (size_t)r * width, data[st->seq[r]] + (size_t)st->place[r] * width, width * sizeof *x);
  return cf_up_act(w->d, x, (size_t)st->b.n_row * width);
}

static void append(world *w, const step *st) {
  if (st->b.n_row == 0) return;
  const size_t el = w->d->k->act == TI_F32 ? 4 : 2;
  char *k = gather(w, st, w->k, (size_t)(w->n_kv * w->kd));
  ti_kv_append_args a = {.layout = &w->l, .kv = w->pool, .layer = LAYER, .batch = &st->b, .k = k};
  if (w->c->kind == TI_KV_GQA) {
    a.v = gather(w, st, w->v, (size_t)(w->n_kv * w->vd));
  } else {  // latent and rope side by side
    a.v = k + (size_t)w->c->latent * el;
    a.ldk = a.ldv = w->kd;
  }
  cf_ok(w->d, "kv_append", w->d->k->kv_append(w->d->d, &a));
}

static void append_past(world *w) {
  int from[MAX_SEQ], to[MAX_SEQ];
  for (int s = 0; s < w->c->n_seq; s++) {
    for (int i = 0; i < w->c->n_seq; i++) from[i] = to[i] = 0;
    for (int p = w->c->seq[s].first; p < w->c->seq[s].past && !w->c->seq[s].empty; p = to[s]) {
      from[s] = p;
      to[s] = p + STEP_ROWS < w->c->seq[s].past ? p + STEP_ROWS : w->c->seq[s].past;
      step st;
      make_step(w, from, to, false, &st);
      append(w, &st);
    }
  }
}

static float *attend(world *w, const step *st) {
  const cf_case *c = w->c;
  const int dim = cf_case_value_dim(c);
  const size_t n = (size_t)(st->b.n_row * c->n_head * dim);
  const float scale = 1.0f / sqrtf((float)w->kd);
  char *q = gather(w, st, w->q, (size_t)(c->n_head * w->kd));
  void *out = cf_out_act(w->d, n);
  if (c->kind == TI_KV_GQA) {
    const ti_attention_args a = {.out = out,
                                 .q = q,
                                 .kv = w->pool,
                                 .layout = &w->l,
                                 .batch = &st->b,
                                 .layer = LAYER,
                                 .n_head = c->n_head,
                                 .scale = scale,
                                 .window = c->window};
    cf_ok(w->d, "attention", w->d->k->attention(w->d->d, &a));
    return cf_down_act(w->d, out, n);
  }
  float *lat = cf_host(w->d, n * sizeof *lat);
  for (int r = 0; r < st->b.n_row; r++) {
    for (int h = 0; h < c->n_head; h++) {
      memcpy(lat + (size_t)(r * c->n_head + h) * (size_t)dim, w->q[st->seq[r]] + (size_t)(st->place[r] * c->n_head + h) * (size_t)w->kd,
             (size_t)dim * sizeof *lat);
    }
  }
  const ti_mla_attention_args a = {.out = out,
                                   .q_lat = cf_up_act(w->d, lat, n),
                                   .q_rope = q + (size_t)dim * (w->d->k->act == TI_F32 ? 4 : 2),
                                   .kv = w->pool,
                                   .layout = &w->l,
                                   .batch = &st->b,
                                   .layer = LAYER,
                                   .n_head = c->n_head,
                                   .scale = scale,
                                   .hdr = w->kd,
                                   .ldr = (int64_t)c->n_head * w->kd};
  cf_ok(w->d, "mla_attention", w->d->k->mla_attention(w->d->d, &a));
  return cf_down_act(w->d, out, n);
}

static void make_world(world *w, cf_dev *d, const cf_case *c) {
  cr_assert(c->n_seq <= MAX_SEQ);
  *w = (world){.d = d, .c = c};
  make_data(w);
  make_pool(w);
  append_past(w);
}

float *cf_case_run(cf_dev *d, const cf_case *c) {
  world w;
  make_world(&w, d, c);
  const size_t width = (size_t)(c->n_head * w.vd);
  float *all = cf_host(d, (size_t)cf_case_rows(c) * width * sizeof *all);
  for (int done = 0, more = 1; more; done += c->split) {
    int from[MAX_SEQ], to[MAX_SEQ];
    more = 0;
    for (int s = 0; s < c->n_seq; s++) {
      const cf_seq *q = &c->seq[s];
      const int n = c->split ? c->split : q->rows;
      from[s] = q->past + (done < q->rows ? done : q->rows);
      to[s] = q->past + (done + n < q->rows ? done + n : q->rows);
      more |= to[s] < places(q);
    }
    step st;
    make_step(&w, from, to, c->tree, &st);
    if (st.b.n_row == 0) break;
    bool any_empty = false;
    for (int s = 0; s < c->n_seq; s++) any_empty = any_empty || c->seq[s].empty;
    if (!any_empty) {
      append(&w, &st);
    } else {  // only those that hold something
      int end[MAX_SEQ];
      for (int s = 0; s < c->n_seq; s++) end[s] = c->seq[s].empty ? from[s] : to[s];
      step some;
      make_step(&w, from, end, c->tree, &some);
      append(&w, &some);
    }
    const float *out = attend(&w, &st);
    for (int r = 0; r < st.b.n_row; r++) {
      int at = st.place[r] - c->seq[st.seq[r]].past;
      for (int s = 0; s < st.seq[r]; s++) at += c->seq[s].rows;
      memcpy(all + (size_t)at * width, out + (size_t)r * width, width * sizeof *all);
    }
    if (!c->split) break;
  }
  return all;
}

uint8_t *cf_case_pool(cf_dev *d, const cf_case *c, size_t *bytes) {
  world w;
  make_world(&w, d, c);
  uint8_t *pool = cf_host(d, w.pool_bytes);
  cf_down(d, pool, w.pool, w.pool_bytes);
  *bytes = w.pool_bytes;
  return pool;
}

// ---- the same in fp64 ----

static double round_bf16(float x) { return (double)ti_bf16_to_f32(ti_f32_to_bf16(x)); }

static void round_fp8(const float *x, int n, double *y) {
  float amax = 1e-4f;
  for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
  const float s = amax / 448.0f;
  for (int i = 0; i < n; i++) y[i] = (double)(ti_e4m3_to_f32(ti_f32_to_e4m3(x[i] / s)) * s);
}

// n numbers of a key or value as the cache keeps them; the first n_fp8 of them may be fp8, a scale over `block`.
static void round_kv(ti_dtype t, const float *x, int n, int n_fp8, int block, double *y) {
  for (int i = 0; i < n; i++) y[i] = t == TI_F32 ? (double)x[i] : round_bf16(x[i]);
  for (int i = 0; t == TI_E4M3 && i < n_fp8; i += block) round_fp8(x + i, block, y + i);
}

typedef struct attended {
  const double *k, *v;  // [place, n_kv, kd], [place, n_kv, vd], rounded
} attended;

static attended round_all(const world *w, int s) {
  const size_t n = (size_t)(places(&w->c->seq[s]) * w->n_kv);
  double *k = cf_host(w->d, n * (size_t)w->kd * sizeof *k), *v = cf_host(w->d, n * (size_t)w->vd * sizeof *v);
  const bool gqa = w->c->kind == TI_KV_GQA;
  for (size_t i = 0; i < n; i++) {
    round_kv(w->c->dtype, w->k[s] + i * (size_t)w->kd, w->kd, w->vd, gqa ? w->vd : 128, k + i * (size_t)w->kd);
    if (gqa) {
      round_kv(w->c->dtype, w->v[s] + i * (size_t)w->vd, w->vd, w->vd, w->vd, v + i * (size_t)w->vd);
    } else {
      memcpy(v + i * (size_t)w->vd, k + i * (size_t)w->kd, (size_t)w->vd * sizeof *v);
    }
  }
  return (attended){k, v};
}

static bool sees(const world *w, int s, int row, int p) {
  const cf_seq *q = &w->c->seq[s];
  const int place = q->past + row;
  if (q->empty || p > place || p < q->first || (w->c->window && p <= place - w->c->window)) return false;
  return !w->c->tree || p < q->past || (w->mask[s][row] >> (p - q->past) & 1);
}

static void want_head(const world *w, const attended *kv, int s, int row, int head, double *out, double *magnitude) {
  const int place = w->c->seq[s].past + row, kvh = head / (w->c->n_head / w->n_kv);
  const float *q = w->q[s] + (size_t)(place * w->c->n_head + head) * (size_t)w->kd;
  const double scale = (double)(1.0f / sqrtf((float)w->kd));
  double *score = cf_host(w->d, (size_t)(place + 1) * sizeof *score), max = -INFINITY, sum = 0.0, top = 0.0;
  for (int p = 0; p <= place; p++) {
    if (!sees(w, s, row, p)) continue;
    const double *k = kv->k + (size_t)(p * w->n_kv + kvh) * (size_t)w->kd;
    for (int i = 0; i < w->kd; i++) score[p] += (double)q[i] * k[i];
    score[p] *= scale;
    max = fmax(max, score[p]);
  }
  for (int i = 0; i < w->vd; i++) out[i] = 0.0;
  for (int p = 0; p <= place; p++) {
    if (!sees(w, s, row, p)) continue;
    const double *v = kv->v + (size_t)(p * w->n_kv + kvh) * (size_t)w->vd, e = exp(score[p] - max);
    sum += e;
    for (int i = 0; i < w->vd; i++) {
      out[i] += e * v[i];
      top = fmax(top, fabs(v[i]));
    }
  }
  for (int i = 0; i < w->vd; i++) {
    if (sum > 0.0) out[i] /= sum;
    magnitude[i] = top;
  }
}

double *cf_case_want(cf_dev *d, const cf_case *c, double **magnitude) {
  world w = {.d = d, .c = c};
  make_data(&w);
  const size_t n = (size_t)(cf_case_rows(c) * c->n_head * w.vd);
  double *want = cf_host(d, n * sizeof *want), *mag = cf_host(d, n * sizeof *mag);
  size_t at = 0;
  for (int s = 0; s < c->n_seq; s++) {
    const attended kv = round_all(&w, s);
    for (int r = 0; r < c->seq[s].rows; r++) {
      for (int h = 0; h < c->n_head; h++, at += (size_t)w.vd) want_head(&w, &kv, s, r, h, want + at, mag + at);
    }
  }
  *magnitude = mag;
  return want;
}

void cf_case_check(cf_dev *d, const char *what, const cf_case *c) {
  double *mag;
  const double *want = cf_case_want(d, c, &mag);
  cf_close_to(d, what, CF_ATTENTION, cf_case_run(d, c), want, mag, (size_t)(cf_case_rows(c) * c->n_head * cf_case_value_dim(c)));
}
