// Attention over the paged KV cache, GQA and absorbed MLA. Included by attention_avx2.c and attention_avx512.c.
//
// Online softmax (Milakov and Gimelshein; FlashAttention) over spans of 64 places that begin at multiples of 64, whatever the page size or the batch.
// For one query vector (a row and a head) and one span, in this order:
//   s[j] = scale * (q . k[j])       VL lanes over the dimension, one chain a lane, then the lanes' tree
//   m'   = max(m, s);  c = exp(m - m');  p[j] = exp(s[j] - m');  l = l * c + sum p (lanes, then tree)
//   acc  = acc * c, then fma(p[j], v[j], acc) for j ascending
// and out = acc / l at the end. Places that a row does not attend take no part, so the bits of a row do not depend on the rows beside it.
//
// A work item is up to ATT_ROWS query vectors of one sequence and one KV head: they share the span's keys and values, which are used where they lie
// in the cache when that is fp32 and unpacked into scratch otherwise. Items are handed out one by one. Nothing past a sequence's last place is read.
#include <string.h>

#include "base/half.h"
#include "kernels/cpu/cpu_priv.h"

#define SPAN TI_CPU_SPAN
#define ROWS TI_CPU_ATT_ROWS

typedef struct att {  // both kinds
  ti_dev *d;
  const ti_batch *b;
  const ti_kv_layout *l;
  const void *kv;
  int layer, group, n_kv;  // group: query heads a KV head
  int dk, dv, window;
  float scale;
  const float *q;  // [n_row, n_head, dk] (MLA: the latent part)
  int64_t ldq, hdq;
  const float *q2;  // MLA: [n_row, n_head, rope], else NULL
  int64_t ldq2, hdq2;
  float *out;
  int64_t ldo;
  int seq0, seq1;                // sequences of this call
  const ti_mla_tile_args *tile;  // expanded MLA: keys and values stand there, not in the cache; NULL otherwise
} att;

typedef struct query {
  int row, lo, hi;  // places lo <= p < hi
  uint64_t mask;    // which of the batch's own places
  float m, l;
} query;

typedef struct block {
  const att *a;
  int seq, kv_head, n;  // query vectors
  int own0, own1;       // places of the sequence's rows in this batch
  int dk, dv;           // padded to VL
  query info[ROWS];
  const float *k[SPAN], *v[SPAN];
  float *q, *acc, *kbuf, *vbuf, *p;  // [ROWS, dk], [ROWS, dv], [SPAN, dk], [SPAN, dv], [ROWS, SPAN]
} block;

_Static_assert(sizeof(block) + sizeof(float) * (ROWS * 3 * TI_CPU_MAX_DIM + SPAN * 3 * TI_CPU_MAX_DIM + ROWS * SPAN) <= (size_t)5 << 18,
               "ti_cpu_scratch_need");

// ---- keys and values of a span ----

static void unpack(ti_dtype t, const uint8_t *src, int n, float scale, float *dst) {
  int i = 0;
  const vf s = vf_set1(scale);
  if (t == TI_F32) {
    memcpy(dst, src, (size_t)n * sizeof *dst);
  } else if (t == TI_BF16) {
    for (; i + VL <= n; i += VL) vf_store(dst + i, vf_from_bf16((const uint16_t *)(const void *)src + i));
    for (; i < n; i++) dst[i] = ti_bf16_to_f32(((const uint16_t *)(const void *)src)[i]);
  } else {
    for (; i + VL <= n; i += VL) vf_store(dst + i, vf_mul(vf_from_e4m3(src + i), s));
    for (; i < n; i++) dst[i] = ti_e4m3_to_f32(src[i]) * scale;
  }
}

static float scale_at(const uint8_t *p) {
  float s;
  memcpy(&s, p, sizeof s);
  return s;
}

static void unpack_gqa(block *b, const uint8_t *page, int slot, int j) {
  const ti_kv_layout *l = b->a->l;
  const uint8_t *k = page + (size_t)b->kv_head * l->head_stride + (size_t)slot * l->token_stride, *v = k + l->v_offset;
  float ks = 1.0f, vs = 1.0f;
  if (l->dtype == TI_E4M3) {
    const size_t at = ((size_t)b->kv_head * (size_t)l->page_tokens + (size_t)slot) * sizeof(float);
    ks = scale_at(page + l->k_scale_offset + at);
    vs = scale_at(page + l->v_scale_offset + at);
  }
  float *kd = b->kbuf + j * b->dk, *vd = b->vbuf + j * b->dv;
  unpack(l->dtype, k, l->head_dim, ks, kd);
  unpack(l->dtype, v, l->head_dim, vs, vd);
  for (int i = l->head_dim; i < b->dk; i++) kd[i] = vd[i] = 0.0f;
  b->k[j] = kd;
  b->v[j] = vd;
}

// One place's latent and rotary key.
static void unpack_entry(const ti_kv_layout *l, const uint8_t *src, float *latent, float *rope) {
  if (l->dtype != TI_E4M3) {
    unpack(l->dtype, src, l->latent, 1.0f, latent);
    unpack(l->dtype, src + (size_t)l->latent * (l->dtype == TI_F32 ? 4 : 2), l->rope, 1.0f, rope);
    return;
  }
  for (int c = 0; c < l->latent; c += TI_CPU_FP8_BLOCK)
    unpack(TI_E4M3, src + c, TI_CPU_FP8_BLOCK, scale_at(src + l->latent + c / TI_CPU_FP8_BLOCK * 4), latent + c);
  unpack(TI_BF16, src + l->latent + l->latent / TI_CPU_FP8_BLOCK * 4, l->rope, 1.0f, rope);
}

static void unpack_mla(block *b, const uint8_t *page, int slot, int j) {
  const ti_kv_layout *l = b->a->l;
  const int dim = l->latent + l->rope;
  b->k[j] = b->v[j] = b->kbuf + j * b->dk;
  float *dst = b->kbuf + j * b->dk;
  unpack_entry(l, page + (size_t)slot * l->token_stride, dst, dst + l->latent);
  for (int i = dim; i < b->dk; i++) dst[i] = 0.0f;
  if (b->dv == l->latent) return;
  float *vd = b->vbuf + j * b->dv;
  memcpy(vd, dst, (size_t)l->latent * sizeof *vd);
  for (int i = l->latent; i < b->dv; i++) vd[i] = 0.0f;
  b->v[j] = vd;
}

// The tile's keys [k_nope | k_rope] side by side, its values where they lie.
static void load_tile(block *b, int p0, int lo, int hi) {
  const ti_mla_tile_args *t = b->a->tile;
  const int64_t head = t->nope + t->v_dim;
  for (int j = lo; j < hi; j++) {
    const int64_t i = p0 + j - t->place0;
    const float *src = (const float *)t->kv + (i * t->n_head + b->kv_head) * head;
    float *k = b->kbuf + j * b->dk;
    memcpy(k, src, (size_t)t->nope * sizeof *k);
    memcpy(k + t->nope, (const float *)t->k_rope + i * t->rope, (size_t)t->rope * sizeof *k);
    for (int c = t->nope + t->rope; c < b->dk; c++) k[c] = 0.0f;
    b->k[j] = k;
    b->v[j] = src + t->nope;
    if (b->dv == t->v_dim) continue;
    float *v = b->vbuf + j * b->dv;
    memcpy(v, src + t->nope, (size_t)t->v_dim * sizeof *v);
    for (int c = t->v_dim; c < b->dv; c++) v[c] = 0.0f;
    b->v[j] = v;
  }
}

// Places p0 + [lo, hi); the pointers beside them are made valid up to the next multiple of 8, for the tiles' sake.
static void load_span(block *b, int p0, int lo, int hi) {
  const att *a = b->a;
  const ti_kv_layout *l = a->l;
  const bool in_place = !a->tile && l->dtype == TI_F32 && b->dk == a->dk && b->dv == a->dv;
  if (a->tile) load_tile(b, p0, lo, hi);
  for (int j = a->tile ? hi : lo, slot; j < hi;) {
    const uint8_t *page = ti_cpu_kv_page(a->kv, l, a->layer, a->b, b->seq, p0 + j, &slot);
    const int end = ti_cpu_min(hi, j + l->page_tokens - slot);
    if (in_place) {
      const uint8_t *k = page + (size_t)b->kv_head * l->head_stride + (size_t)slot * l->token_stride,
                    *v = k + l->v_offset;  // MLA: both strides are 0
      for (; j < end; j++, k += l->token_stride, v += l->token_stride) {
        b->k[j] = (const float *)(const void *)k;
        b->v[j] = (const float *)(const void *)v;
      }
    }
    for (; j < end; j++, slot++) {
      if (a->q2) {
        unpack_mla(b, page, slot, j);
      } else {
        unpack_gqa(b, page, slot, j);
      }
    }
  }
  for (int j = lo & ~7; j < lo; j++) b->k[j] = b->k[lo];
  for (int j = hi; j & 7; j++) b->k[j] = b->k[hi - 1];
}

// ---- the two products ----

TI_INLINE void score_tile(const int Q, const int P, const float *q, const float *const *k, int dim, float *out) {
  vf acc[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) acc[i] = vf_zero();
  for (int c = 0; c < dim; c += VL) {
    vf kv[8];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) kv[p] = vf_load(k[p] + c);
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++) {
      vf v = vf_load(q + i * dim + c);
      VF_IN_REGISTER(v);
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) acc[i * P + p] = vf_fma(v, kv[p], acc[i * P + p]);
    }
  }
  float s[8];
  vf_hsum8(acc, s);
#pragma GCC unroll 8
  for (int i = 0; i < Q; i++) memcpy(out + i * SPAN, s + i * P, (size_t)P * sizeof *s);
}

// Scores of n (1, 2 or 4) vectors from i on, of the places lo..hi that one of them may attend.
static void scores(block *b, int i, int n, int lo, int hi) {
  const float *q = b->q + i * b->dk;
  float *p = b->p + i * SPAN;
  lo &= ~7;
  if (n == 4) {
    for (int j = lo; j < hi; j += 2) score_tile(4, 2, q, b->k + j, b->dk, p + j);
  } else if (n == 2) {
    for (int j = lo; j < hi; j += 4) score_tile(2, 4, q, b->k + j, b->dk, p + j);
  } else {
    for (int j = lo; j < hi; j += 8) score_tile(1, 8, q, b->k + j, b->dk, p + j);
  }
}

TI_INLINE void value_tile(const int Q, const int D, const float *p, const float *const *v, int lo, int hi, float *acc, int ld, int c) {
  vf a[8];
#pragma GCC unroll 8
  for (int i = 0; i < Q; i++)
#pragma GCC unroll 8
    for (int d = 0; d < D; d++) a[i * D + d] = vf_load(acc + i * ld + c + d * VL);
  for (int j = lo; j < hi; j++) {
    const float *src = v[j] + c;
    vf x[8];
#pragma GCC unroll 8
    for (int d = 0; d < D; d++) x[d] = vf_load(src + d * VL);
#pragma GCC unroll 8
    for (int i = 0; i < Q; i++) {
      const vf w = vf_set1(p[i * SPAN + j]);
#pragma GCC unroll 8
      for (int d = 0; d < D; d++) a[i * D + d] = vf_fma(w, x[d], a[i * D + d]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Q; i++)
#pragma GCC unroll 8
    for (int d = 0; d < D; d++) vf_store(acc + i * ld + c + d * VL, a[i * D + d]);
}

static void add_values(block *b, int i, int n, int lo, int hi) {  // n: 1, 2 or 4 vectors from i on
  if (lo >= hi) return;
  const float *p = b->p + i * SPAN;
  float *acc = b->acc + i * b->dv;
  const int dv = b->dv;
  int c = 0;
  if (n == 4) {
    for (; c + 2 * VL <= dv; c += 2 * VL) value_tile(4, 2, p, b->v, lo, hi, acc, dv, c);
    for (; c < dv; c += VL) value_tile(4, 1, p, b->v, lo, hi, acc, dv, c);
  } else if (n == 2) {
    for (; c + 4 * VL <= dv; c += 4 * VL) value_tile(2, 4, p, b->v, lo, hi, acc, dv, c);
    for (; c < dv; c += VL) value_tile(2, 1, p, b->v, lo, hi, acc, dv, c);
  } else {
    for (; c + 8 * VL <= dv; c += 8 * VL) value_tile(1, 8, p, b->v, lo, hi, acc, dv, c);
    for (; c + 4 * VL <= dv; c += 4 * VL) value_tile(1, 4, p, b->v, lo, hi, acc, dv, c);
    for (; c < dv; c += VL) value_tile(1, 1, p, b->v, lo, hi, acc, dv, c);
  }
}

// ---- softmax of one query vector's span ----

typedef struct range {
  int lo, hi;  // inside the span; lo >= hi: nothing
} range;

static range in_span(const query *q, int p0) { return (range){ti_cpu_max(q->lo - p0, 0), ti_cpu_min(q->hi - p0, SPAN)}; }

static bool attends(const block *b, const query *q, int p) { return p < b->own0 || p >= b->own1 || (q->mask >> (p - b->own0) & 1); }

static bool masked_here(const block *b, const query *q, int p0, range r) {  // some place of the range may be masked
  return q->mask != ~0ull && p0 + r.hi > b->own0 && p0 + r.lo < b->own1;
}

// Scores become weights, l and m move on, acc is rescaled. false: the span has nothing for this vector.
static bool soften(block *b, int i, int p0, range r) {
  query *q = &b->info[i];
  float *s = b->p + i * SPAN;
  if (r.lo >= r.hi) return false;
  if (masked_here(b, q, p0, r)) {
    for (int j = r.lo; j < r.hi; j++)
      if (!attends(b, q, p0 + j)) s[j] = -INFINITY;
  }
  const vf none = vf_set1(-INFINITY), scale = vf_set1(b->a->scale);
  const int c0 = r.lo / VL * VL;
  vf top = none;
  for (int c = c0; c < r.hi; c += VL) {
    const vi at = vi_add(vi_iota(), vi_set1(c));
    vf x = vf_mul(vf_load(s + c), scale);
    x = vf_blend(none, x, vi_gt(at, vi_set1(r.lo - 1)));
    x = vf_blend(none, x, vi_gt(vi_set1(r.hi), at));
    vf_store(s + c, x);
    top = vf_max(x, top);
  }
  const float best = vf_hmax(top), m = best > q->m ? best : q->m;
  if (m == -INFINITY) {
    bool nan = false;  // a NaN must show, not vanish
    for (int j = r.lo; j < r.hi; j++) nan |= s[j] != s[j];
    if (!nan) return false;
  }
  float c1[VL];
  vf_store(c1, vf_exp(vf_set1(q->m == m ? 0.0f : q->m - m)));
  vf sum = vf_zero();
  for (int c = c0; c < r.hi; c += VL) {
    const vf e = vf_exp(vf_sub(vf_load(s + c), vf_set1(m)));
    vf_store(s + c, e);
    sum = vf_add(sum, e);
  }
  q->l = q->l * c1[0] + vf_hsum(sum);
  q->m = m;
  if (c1[0] != 1.0f) {
    float *acc = b->acc + i * b->dv;
    for (int c = 0; c < b->dv; c += VL) vf_store(acc + c, vf_mul(vf_load(acc + c), vf_set1(c1[0])));
  }
  return true;
}

// p[j] * v[j] of one vector, over the places that it attends.
static void add_single(block *b, int i, int p0, range r) {
  const query *q = &b->info[i];
  if (!masked_here(b, q, p0, r)) {
    add_values(b, i, 1, r.lo, r.hi);
    return;
  }
  for (int j = r.lo; j < r.hi;) {
    int end = j;
    while (end < r.hi && attends(b, q, p0 + end)) end++;
    add_values(b, i, 1, j, end);
    j = end + 1;
  }
}

// Vectors i..i+n of a span: together where all of them attend, alone where not.
static void some_vectors(block *b, int i, int n, int p0) {
  range r[4], both = {0, SPAN}, any = {SPAN, 0};
  bool live[4], together = n > 1;
  for (int t = 0; t < n; t++) {
    r[t] = in_span(&b->info[i + t], p0);
    if (r[t].lo >= r[t].hi) continue;
    any.lo = ti_cpu_min(any.lo, r[t].lo);
    any.hi = ti_cpu_max(any.hi, r[t].hi);
  }
  if (any.lo >= any.hi) return;
  scores(b, i, n, any.lo, any.hi);
  for (int t = 0; t < n; t++) {
    live[t] = soften(b, i + t, p0, r[t]);
    together &= live[t] && !masked_here(b, &b->info[i + t], p0, r[t]);
    both.lo = ti_cpu_max(both.lo, r[t].lo);
    both.hi = ti_cpu_min(both.hi, r[t].hi);
  }
  together &= both.lo < both.hi;
  for (int t = 0; t < n; t++)
    if (live[t]) add_single(b, i + t, p0, together ? (range){r[t].lo, both.lo} : r[t]);
  if (!together) return;
  add_values(b, i, n, both.lo, both.hi);
  for (int t = 0; t < n; t++) add_single(b, i + t, p0, (range){both.hi, r[t].hi});
}

static void one_span(block *b, int p0, int lo, int hi) {
  load_span(b, p0, lo, hi);
  for (int i = 0; i < b->n;) {
    const int n = b->n - i >= 4 ? 4 : b->n - i >= 2 ? 2 : 1;
    some_vectors(b, i, n, p0);
    i += n;
  }
}

// ---- a work item ----

// Of expanded MLA: what the tiles before left of a vector, and what this one leaves.
static void take_state(block *b, int i, int run_row) {
  const ti_mla_tile_args *t = b->a->tile;
  const int64_t at = (int64_t)run_row * t->n_head + b->kv_head;
  if (t->first) return;
  b->info[i].m = t->state[2 * at];
  b->info[i].l = t->state[2 * at + 1];
  memcpy(b->acc + i * b->dv, t->acc + at * t->v_dim, (size_t)t->v_dim * sizeof *t->acc);
}

static void put_state(block *b, int i, int run_row) {
  const ti_mla_tile_args *t = b->a->tile;
  const int64_t at = (int64_t)run_row * t->n_head + b->kv_head;
  t->state[2 * at] = b->info[i].m;
  t->state[2 * at + 1] = b->info[i].l;
  memcpy(t->acc + at * t->v_dim, b->acc + i * b->dv, (size_t)t->v_dim * sizeof *t->acc);
}

static void run_block(const att *a, int seq, int kv_head, int first, int n, uint8_t *mem) {
  block *b = (block *)(void *)mem;
  const ti_batch *bt = a->b;
  const int row0 = bt->seq_row0[seq], n_row = bt->seq_row0[seq + 1] - row0;
  b->a = a;
  b->seq = seq;
  b->kv_head = kv_head;
  b->n = n;
  b->own0 = bt->place[row0];
  b->own1 = b->own0 + n_row;
  b->dk = (a->dk + VL - 1) / VL * VL;
  b->dv = (a->dv + VL - 1) / VL * VL;
  b->p = (float *)(void *)(mem + (sizeof(block) + 63) / 64 * 64);
  b->q = b->p + ROWS * SPAN;
  b->acc = b->q + ROWS * b->dk;
  b->kbuf = b->acc + ROWS * b->dv;
  b->vbuf = b->kbuf + SPAN * b->dk;
  memset(b->acc, 0, (size_t)(n * b->dv) * sizeof *b->acc);
  int lo = INT32_MAX, hi = 0;
  const int d1 = a->q2 ? a->dv : a->dk;
  for (int i = 0; i < n; i++) {
    const int row = row0 + (first + i) / a->group, head = kv_head * a->group + (first + i) % a->group, place = bt->place[row];
    query *q = &b->info[i];
    *q = (query){
        .row = row, .lo = bt->kv_first ? bt->kv_first[seq] : 0, .hi = ti_cpu_min(place + 1, bt->seq_kv_len[seq]), .mask = ~0ull, .m = -INFINITY};
    if (bt->mask) q->mask = bt->mask[row];
    if (a->window > 0) q->lo = ti_cpu_max(q->lo, place - a->window + 1);
    q->lo = ti_cpu_max(q->lo, 0);
    if (a->tile) {
      q->lo = ti_cpu_max(q->lo, a->tile->place0);
      q->hi = ti_cpu_min(q->hi, a->tile->place0 + a->tile->n);
      take_state(b, i, row - row0);
    }
    lo = ti_cpu_min(lo, q->lo);
    hi = ti_cpu_max(hi, q->hi);
    float *dst = b->q + i * b->dk;
    memcpy(dst, a->q + row * a->ldq + head * a->hdq, (size_t)d1 * sizeof *dst);
    if (a->q2) memcpy(dst + d1, a->q2 + row * a->ldq2 + head * a->hdq2, (size_t)(a->dk - d1) * sizeof *dst);
    for (int c = a->dk; c < b->dk; c++) dst[c] = 0.0f;
  }
  for (int p0 = lo / SPAN * SPAN; p0 < hi; p0 += SPAN) one_span(b, p0, ti_cpu_max(lo - p0, 0), ti_cpu_min(hi - p0, SPAN));
  for (int i = 0; a->tile && i < n; i++) put_state(b, i, b->info[i].row - row0);
  for (int i = 0; (!a->tile || a->tile->last) && i < n; i++) {
    const query *q = &b->info[i];
    const int head = kv_head * a->group + (first + i) % a->group;
    float *out = a->out + q->row * a->ldo + (int64_t)head * a->dv, *acc = b->acc + i * b->dv;
    const vf l = vf_set1(q->l == 0.0f ? 1.0f : q->l);
    for (int c = 0; c < b->dv; c += VL) vf_store(acc + c, vf_div(vf_load(acc + c), l));
    memcpy(out, acc, (size_t)a->dv * sizeof *out);
  }
}

static void att_thread(void *arg, int thread, int n_threads) {
  const att *a = arg;
  ti_dev *d = a->d;
  int at = 0, mine = atomic_fetch_add_explicit(&d->next, 1, memory_order_relaxed);
  for (int s = a->seq1 - 1; s >= a->seq0; s--) {
    const int vectors = (a->b->seq_row0[s + 1] - a->b->seq_row0[s]) * a->group, n = (vectors + ROWS - 1) / ROWS;
    while (mine < at + n * a->n_kv) {  // the longest first: last rows of a sequence
      const int i = mine - at, blk = n - 1 - i / a->n_kv;
      run_block(a, s, i % a->n_kv, blk * ROWS, ti_cpu_min(ROWS, vectors - blk * ROWS), ti_cpu_scratch(d, thread));
      mine = atomic_fetch_add_explicit(&d->next, 1, memory_order_relaxed);
    }
    at += n * a->n_kv;
  }
}

static ti_status run_attention(att *a) {
  const ti_batch *b = a->b;
  double flops = 0;
  for (int s = a->seq0; s < a->seq1; s++)
    flops += 2.0 * (b->seq_row0[s + 1] - b->seq_row0[s]) * (a->tile ? a->tile->n : b->seq_kv_len[s]) * a->group * a->n_kv * (a->dk + a->dv);
  atomic_store_explicit(&a->d->next, 0, memory_order_relaxed);
  ti_cpu_run(a->d, flops / 30.0, att_thread, a);
  return TI_OK;
}

ti_status TI_ISA(ti_cpu_attention)(ti_dev *d, const ti_attention_args *x) {
  const ti_kv_layout *l = x->layout;
  assert(l->kind == TI_KV_GQA && x->n_head % l->n_kv_head == 0 && l->head_dim <= TI_CPU_MAX_DIM);
  const int64_t packed = (int64_t)x->n_head * l->head_dim;
  att a = {.d = d,
           .b = x->batch,
           .seq1 = x->batch->n_seq,
           .l = l,
           .kv = x->kv,
           .layer = x->layer,
           .group = x->n_head / l->n_kv_head,
           .n_kv = l->n_kv_head,
           .dk = l->head_dim,
           .dv = l->head_dim,
           .window = x->window,
           .scale = x->scale,
           .q = x->q,
           .ldq = ti_cpu_ld(x->ldq, packed),
           .hdq = l->head_dim,
           .out = x->out,
           .ldo = ti_cpu_ld(x->ldo, packed)};
  return run_attention(&a);
}

ti_status TI_ISA(ti_cpu_mla_attention)(ti_dev *d, const ti_mla_attention_args *x) {
  const ti_kv_layout *l = x->layout;
  assert(l->kind == TI_KV_MLA && l->latent <= TI_CPU_MAX_DIM && l->rope <= TI_CPU_MAX_DIM);
  const int64_t hdr = ti_cpu_ld(x->hdr, l->rope);
  att a = {.d = d,
           .b = x->batch,
           .seq1 = x->batch->n_seq,
           .l = l,
           .kv = x->kv,
           .layer = x->layer,
           .group = x->n_head,
           .n_kv = 1,
           .dk = l->latent + l->rope,
           .dv = l->latent,
           .scale = x->scale,
           .q = x->q_lat,
           .ldq = (int64_t)x->n_head * l->latent,
           .hdq = l->latent,
           .q2 = x->q_rope,
           .ldq2 = ti_cpu_ld(x->ldr, x->n_head * hdr),
           .hdq2 = hdr,
           .out = x->out,
           .ldo = (int64_t)x->n_head * l->latent};
  return run_attention(&a);
}

ti_status TI_ISA(ti_cpu_mla_tile)(ti_dev *d, const ti_mla_tile_args *x) {
  const int dim = x->nope + x->rope;
  assert(!x->batch->mask && x->place0 % SPAN == 0 && dim <= TI_CPU_MAX_DIM && x->v_dim <= TI_CPU_MAX_DIM);
  att a = {.d = d,
           .b = x->batch,
           .seq0 = x->seq,
           .seq1 = x->seq + 1,
           .tile = x,
           .group = 1,
           .n_kv = x->n_head,
           .dk = dim,
           .dv = x->v_dim,
           .scale = x->scale,
           .q = x->q,
           .ldq = ti_cpu_ld(x->ldq, (int64_t)x->n_head * dim),
           .hdq = dim,
           .out = x->out,
           .ldo = ti_cpu_ld(x->ldo, (int64_t)x->n_head * x->v_dim)};
  return run_attention(&a);
}

static void gather_thread(void *arg, int thread, int n_threads) {
  const ti_mla_gather_args *x = arg;
  const ti_kv_layout *l = x->layout;
  const int i0 = (int)((int64_t)x->n * thread / n_threads), i1 = (int)((int64_t)x->n * (thread + 1) / n_threads);
  for (int i = i0; i < i1; i++) {
    int slot;
    const uint8_t *src = ti_cpu_kv_page(x->kv, l, x->layer, x->batch, x->seq, x->place0 + i, &slot) + (size_t)slot * l->token_stride;
    unpack_entry(l, src, (float *)x->latent + (int64_t)i * l->latent, (float *)x->k_rope + (int64_t)i * l->rope);
  }
}

ti_status TI_ISA(ti_cpu_mla_gather)(ti_dev *d, const ti_mla_gather_args *x) {
  ti_mla_gather_args copy = *x;
  ti_cpu_run(d, (double)x->n * (x->layout->latent + x->layout->rope), gather_thread, &copy);
  return TI_OK;
}
