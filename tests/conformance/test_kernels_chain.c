// Chains of products (ti_kernels.chain): a link is its ops one by one, up to the order of sums; a chain is its links one by one, to the bit; a row's
// bits do not depend on how many rows there are; what is refused has done nothing.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "weights.h"

#define EPS 1e-5f
enum { MAX_M = 8, NQ = 4, NKV = 2, PAGE = 16, POOL_PAGES = 12, LAYER = 1 };

// A layer's tail and the next one's head: o, gate and up, down, qkv.
typedef struct layer {
  int64_t hidden, attn, ffn;
  int dim, m;
  bool bias;
  ti_weight o, gate_up, down, qkv;
  const float *ffn_norm, *attn_norm, *qkv_bias;
  ti_kv_layout l;
  ti_batch b;
  const float *inv_freq;
  size_t kv_bytes;
} layer;

typedef struct state {  // what a run starts from and leaves
  void *h, *att, *act, *qkv, *kv;
} state;

static ti_weight weight(cf_dev *d, int64_t n, int64_t k, int n_part, unsigned flags, uint64_t seed) {
  const ti_weight_src src[2] = {cf_weight_src(d, TI_BF16, n / n_part, k, 0, 0, seed), cf_weight_src(d, TI_BF16, n / n_part, k, 0, 0, seed + 1)};
  ti_weight w;
  cr_assert(cf_weight(d, src, n_part, flags, &w));
  return w;
}
static const float *ups(cf_dev *d, int64_t n, uint64_t seed) { return cf_up(d, cf_floats(d, (size_t)n, seed, 1.0f), (size_t)n * sizeof(float)); }

static layer layer_of(cf_dev *d, int64_t hidden, int64_t ffn, int dim, bool bias) {
  const int64_t width = (NQ + 2 * NKV) * dim;
  layer y = {.hidden = hidden, .attn = NQ * dim, .ffn = ffn, .dim = dim, .m = MAX_M, .bias = bias};
  y.o = weight(d, hidden, y.attn, 1, 0, 1);
  y.gate_up = weight(d, 2 * ffn, hidden, 2, TI_WEIGHT_GATE_UP, 3);
  y.down = weight(d, hidden, ffn, 1, 0, 5);
  y.qkv = weight(d, width, hidden, 1, 0, 7);
  y.ffn_norm = ups(d, hidden, 8);
  y.attn_norm = ups(d, hidden, 9);
  y.qkv_bias = bias ? ups(d, width, 10) : NULL;
  y.l = (ti_kv_layout){.kind = TI_KV_GQA, .dtype = TI_BF16, .page_tokens = PAGE, .n_kv_head = NKV, .head_dim = dim, .n_layer = 2};
  cr_assert_eq(ti_kv_layout_init(&y.l, NULL), TI_OK);
  y.kv_bytes = y.l.page_bytes * POOL_PAGES;
  // a sequence a row; the fourth is padding, whose table holds nonsense
  int32_t position[MAX_M], place[MAX_M], seq[MAX_M], row0[MAX_M + 1], len[MAX_M], table[MAX_M][2];
  float freq[128];
  for (int i = 0; i < MAX_M; i++) {
    position[i] = 3 + 4 * i, place[i] = i == 3 ? -1 : position[i], seq[i] = row0[i] = i, len[i] = place[i] + 1;
    table[i][0] = i == 3 ? 1 << 30 : i, table[i][1] = i == 3 ? -1 : i < 4 ? 8 + i : 8 + i - 4;
  }
  row0[MAX_M] = MAX_M;
  for (int i = 0; i < dim / 2; i++) freq[i] = 1.0f / (float)(1 + i * i);
  y.inv_freq = cf_up(d, freq, sizeof freq);
  y.b = (ti_batch){.n_row = MAX_M, .n_seq = MAX_M, .max_seq_rows = 1, .table_stride = 2, .max_kv_len = 2 * PAGE};
  y.b.position = cf_up(d, position, sizeof position);
  y.b.place = cf_up(d, place, sizeof place);
  y.b.seq = cf_up(d, seq, sizeof seq);
  y.b.seq_row0 = cf_up(d, row0, sizeof row0);
  y.b.seq_kv_len = cf_up(d, len, sizeof len);
  y.b.block_table = cf_up(d, table, sizeof table);
  return y;
}

static state state_of(cf_dev *d, const layer *y) {
  uint8_t *poison = cf_host(d, y->kv_bytes);
  memset(poison, 0xff, y->kv_bytes);
  return (state){.h = cf_up_act(d, cf_floats(d, (size_t)(MAX_M * y->hidden), 20, 1.0f), (size_t)(MAX_M * y->hidden)),
                 .att = cf_up_act(d, cf_floats(d, (size_t)(MAX_M * y->attn), 21, 1.0f), (size_t)(MAX_M * y->attn)),
                 .act = cf_out_act(d, (size_t)(MAX_M * y->ffn)),
                 .qkv = cf_out_act(d, (size_t)(MAX_M * (NQ + 2 * NKV) * y->dim)),
                 .kv = cf_up(d, poison, y->kv_bytes)};
}

typedef struct args {
  ti_gemm_args o, down, qkv;
  ti_gemm_silu_mul_args gate_up;
  ti_rope_append_args rope;
  ti_batch b;
  ti_link link[4];
} args;

static void args_of(cf_dev *d, const layer *y, const state *s, int m, args *a) {
  const size_t el = d->k->act == TI_F32 ? 4 : 2;
  const int64_t width = (NQ + 2 * NKV) * y->dim;
  uint8_t *k = (uint8_t *)s->qkv + (size_t)(NQ * y->dim) * el;
  *a = (args){.o = {.out = s->h, .x = s->att, .w = &y->o, .m = m, .out_dtype = d->k->act, .accumulate = true},
              .down = {.out = s->h, .x = s->act, .w = &y->down, .m = m, .out_dtype = d->k->act, .accumulate = true},
              .qkv = {.out = s->qkv, .x = s->h, .w = &y->qkv, .bias = y->qkv_bias, .m = m, .out_dtype = d->k->act},
              .gate_up = {.out = s->act, .x = s->h, .w = &y->gate_up, .m = m},
              .b = y->b};
  a->b.n_row = a->b.n_seq = m;
  a->rope = (ti_rope_append_args){
      .rope = {.x = s->qkv,
               .position = a->b.position,
               .inv_freq = y->inv_freq,
               .n_row = m,
               .n_head = NQ + NKV,
               .head_dim = y->dim,
               .rope_dim = y->dim,
               .attn_factor = 1.1f,
               .ld = width},
      .kv = {.layout = &y->l, .kv = s->kv, .layer = LAYER, .batch = &a->b, .k = k, .v = k + (size_t)(NKV * y->dim) * el, .ldk = width, .ldv = width}};
  a->link[0] = (ti_link){.gemm = &a->o};
  a->link[1] = (ti_link){.silu_mul = &a->gate_up, .norm = y->ffn_norm, .eps = EPS};
  a->link[2] = (ti_link){.gemm = &a->down};
  a->link[3] = (ti_link){.gemm = &a->qkv, .norm = y->attn_norm, .eps = EPS, .rope = &a->rope};
}

// The most rows that are taken.
static int most(cf_dev *d, const layer *y) {
  for (int m = MAX_M; m > 0; m--) {
    const state s = state_of(d, y);
    args a;
    args_of(d, y, &s, m, &a);
    const ti_status st = d->k->chain(d->d, a.link, 4);
    if (st == TI_ERR_UNSUPPORTED) continue;
    cf_ok(d, "chain", st);
    return m;
  }
  cr_assert(false, "%s: chain takes not even one row", d->k->name);
  return 0;
}

// ---- a link against its ops ----

static const void *normed(cf_dev *d, const layer *y, const void *x, const float *norm, int m) {
  void *xn = cf_out_act(d, (size_t)(m * y->hidden));
  cf_ok(d, "rmsnorm", d->k->rmsnorm(d->d, &(ti_rmsnorm_args){.out = xn, .x = x, .weight = norm, .n_row = m, .dim = (int)y->hidden, .eps = EPS}));
  return xn;
}

// Sums of bf16 products in another order, rounded to bf16: a unit in the last place, and what rounding of a sum near zero leaves.
static void near(const cf_dev *d, const char *what, const float *got, const float *want, size_t n, double scale) {
  for (size_t i = 0; i < n; i++) {
    if (isnan(want[i]) && isnan(got[i])) continue;
    const double limit = 0x1p-7 * fabs((double)want[i]) + 0x1p-16 * scale;
    cr_assert(fabs((double)got[i] - (double)want[i]) <= limit, "%s: %s [%d] is %g, want %g +- %g", d->k->name, what, (int)i, (double)got[i],
              (double)want[i], limit);
  }
}

static void links_once(cf_dev *d, const layer *y, int m) {
  const size_t nh = (size_t)(MAX_M * y->hidden), na = (size_t)(MAX_M * y->ffn), width = (size_t)((NQ + 2 * NKV) * y->dim), nq = MAX_M * width;
  state s = state_of(d, y), t = state_of(d, y);
  args a, b;
  args_of(d, y, &s, m, &a);
  args_of(d, y, &t, m, &b);
  cf_ok(d, "gemm", d->k->gemm(d->d, &b.o));
  cf_ok(d, "chain of o", d->k->chain(d->d, &a.link[0], 1));
  near(d, "o", cf_down_act(d, s.h, nh), cf_down_act(d, t.h, nh), nh, (double)y->attn);
  cf_ok(d, "copy", d->k->copy(d->d, s.h, t.h, nh * 2));
  b.gate_up.x = normed(d, y, t.h, y->ffn_norm, m);
  b.gate_up.tmp = cf_out_act(d, 2 * na);
  cf_ok(d, "gemm_silu_mul", d->k->gemm_silu_mul(d->d, &b.gate_up));
  cf_ok(d, "chain of gate and up", d->k->chain(d->d, &a.link[1], 1));
  near(d, "gate and up", cf_down_act(d, s.act, na), cf_down_act(d, t.act, na), na, (double)(y->hidden * y->hidden));
  b.qkv.x = normed(d, y, t.h, y->attn_norm, m);
  cf_ok(d, "gemm", d->k->gemm(d->d, &b.qkv));
  cf_ok(d, "rope", d->k->rope(d->d, &b.rope.rope));
  cf_ok(d, "kv_append", d->k->kv_append(d->d, &b.rope.kv));
  cf_ok(d, "chain of qkv", d->k->chain(d->d, &a.link[3], 1));
  const float *got = cf_down_act(d, s.qkv, nq), *want = cf_down_act(d, t.qkv, nq);
  for (int r = 0; r < MAX_M; r++) near(d, "q", got + (size_t)r * width, want + (size_t)r * width, (size_t)(NQ * y->dim), (double)(256 * y->hidden));
  near(d, "the pool", cf_down_act(d, s.kv, y->kv_bytes / 2), cf_down_act(d, t.kv, y->kv_bytes / 2), y->kv_bytes / 2, (double)(256 * y->hidden));
}

// ---- a chain against its links ----

typedef struct left {
  const float *h, *act, *q;
  uint8_t *kv;
} left;
static left run(cf_dev *d, const layer *y, int m, bool whole, int n) {
  const state s = state_of(d, y);
  args a;
  args_of(d, y, &s, m, &a);
  for (int i = 0; i < n; i += whole ? n : 1) cf_ok(d, "chain", d->k->chain(d->d, &a.link[i], whole ? n : 1));
  left out = {.h = cf_down_act(d, s.h, (size_t)(MAX_M * y->hidden)),
              .act = cf_down_act(d, s.act, (size_t)(MAX_M * y->ffn)),
              .q = cf_down_act(d, s.qkv, (size_t)(MAX_M * (NQ + 2 * NKV) * y->dim)),
              .kv = cf_host(d, y->kv_bytes)};
  cf_down(d, out.kv, s.kv, y->kv_bytes);
  return out;
}
static void same(cf_dev *d, const layer *y, const char *what, const left *got, const left *want, int m) {
  cf_same_bits(d, what, got->h, want->h, (size_t)(m * y->hidden) * sizeof(float));
  cf_same_bits(d, what, got->act, want->act, (size_t)(m * y->ffn) * sizeof(float));
  for (int r = 0; r < m; r++)
    cf_same_bits(d, what, got->q + r * (NQ + 2 * NKV) * y->dim, want->q + r * (NQ + 2 * NKV) * y->dim, (size_t)(NQ * y->dim) * sizeof(float));
}

static const struct shape {
  int64_t hidden, ffn;
  int dim;
  bool bias;
} shapes[] = {{256, 768, 64, false}, {2048, 5632, 64, false}, {520, 192, 32, true}, {1024, 64, 128, true}, {72, 128, 16, false}};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

Test(chain, a_link_is_its_ops) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, chain)
    cf_dev *d = cf_open_as(k, TI_ACT_NONE, 1, false);
    for (int i = 0; i < N_SHAPE; i++) {
      const layer y = layer_of(d, shapes[i].hidden, shapes[i].ffn, shapes[i].dim, shapes[i].bias);
      for (int m = most(d, &y); m > 0; m--) links_once(d, &y, m);
      cf_reset(d);
    }
    cf_close(d);
  }
}

Test(chain, a_chain_is_its_links_and_rows_stand_alone) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, chain)
    cf_dev *d = cf_open_as(k, TI_ACT_NONE, 1, false);
    for (int i = 0; i < N_SHAPE; i++, cf_reset(d)) {
      const layer y = layer_of(d, shapes[i].hidden, shapes[i].ffn, shapes[i].dim, shapes[i].bias);
      const int top = most(d, &y);
      const left all = run(d, &y, top, false, 4);
      for (int m = 1; m <= top; m++) {
        const left whole = run(d, &y, m, true, 4);
        same(d, &y, "a chain of four links", &whole, &all, m);
        if (m == top) cf_same_bits(d, "the pool after a chain", whole.kv, all.kv, y.kv_bytes);
      }
      const left three = run(d, &y, top, true, 3);
      cf_same_bits(d, "h after three links", three.h, all.h, (size_t)(top * y.hidden) * sizeof(float));
    }
    cf_close(d);
  }
}

// Blocks meet in every one of them: a race would show.
Test(chain, a_hundred_times_the_same_bits) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, chain)
    cf_dev *d = cf_open_as(k, TI_ACT_NONE, 1, false);
    const layer y = layer_of(d, 2048, 5632, 64, false);
    state s[2];
    for (int i = 0; i < 2; i++) {
      s[i] = state_of(d, &y);
      args a;
      args_of(d, &y, &s[i], 1, &a);
      a.o.accumulate = false;  // or h would grow
      for (int r = 0; r < 100; r++) cf_ok(d, "chain", k->chain(d->d, a.link, 4));
    }
    const size_t n = (size_t)y.hidden;
    cf_same_bits(d, "h after 100 chains", cf_down_act(d, s[1].h, n), cf_down_act(d, s[0].h, n), n * sizeof(float));
    cf_close(d);
  }
}

Test(chain, what_is_refused_has_done_nothing) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, chain)
    for (int i = 0; i < 3; i++) {  // a deterministic device, a cache of another type, RoPE in pairs of neighbours
      cf_dev *d = cf_open_as(k, TI_ACT_NONE, 1, i == 0);
      layer y = layer_of(d, 256, 128, 64, false);
      if (i == 1) {
        y.l.dtype = TI_E4M3;
        cr_assert_eq(ti_kv_layout_init(&y.l, NULL), TI_OK);
      }
      const state s = state_of(d, &y);
      args a;
      args_of(d, &y, &s, 1, &a);
      a.rope.rope.interleaved = i == 2;
      const size_t n = (size_t)y.hidden;
      const float *before = cf_down_act(d, s.h, n);
      const ti_status st = k->chain(d->d, a.link, 4);
      if (st == TI_ERR_UNSUPPORTED)
        cf_same_bits(d, "h of a refused chain", cf_down_act(d, s.h, n), before, n * sizeof(float));
      else
        cf_ok(d, "chain", st);
      cf_close(d);
    }
  }
}
