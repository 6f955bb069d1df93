// The KV pool of every backend: layout arithmetic, append against the reference's bytes, partial page copies.
#include <criterion/criterion.h>
#include <string.h>

#include "kv_scenario.h"

static const cf_seq seqs[] = {{.id = 1, .past = 40, .rows = 0}, {.id = 2, .past = 1, .rows = 0}, {.id = 3, .past = 17, .rows = 0, .first = 1}};
static const cf_case gqa = {.kind = TI_KV_GQA, .n_kv_head = 3, .head_dim = 33, .n_head = 3, .seq = seqs, .n_seq = 3};
static const cf_case mla = {.kind = TI_KV_MLA, .latent = 512, .rope = 64, .n_head = 1, .seq = seqs, .n_seq = 3};
static const ti_dtype dtypes[] = {TI_F32, TI_BF16, TI_E4M3};

// Every byte of the pool, those that must stay NaN included.
Test(kv_append, writes_the_reference_bytes) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, kv_append)
    for (int i = 0; i < 18; i++) {
      cf_case c = i % 2 ? mla : gqa;
      c.dtype = dtypes[i / 2 % 3];
      c.page_tokens = 8 << (i / 6);
      cf_dev *d = cf_open(k, TI_ACT_NONE, 3), *r = cf_open(ti_kernels_ref(), TI_ACT_NONE, 1);
      r->bf16 = d->bf16;
      size_t n, n_ref;
      const uint8_t *got = cf_case_pool(d, &c, &n), *want = cf_case_pool(r, &c, &n_ref);
      cr_assert_eq(n, n_ref);
      cf_same_bits(d, "the pool after kv_append", got, want, n);
      cf_close(d);
      cf_close(r);
    }
  }
}

// ---- rope_append, padding rows ----

enum { NQ = 4, NKV = 2, ROWS = 5, PAGE = 16, POOL_PAGES = 6 };

// Two sequences and, as a recorded graph's last rows, padding: a sequence of its own without KV, whose table holds nonsense.
static ti_batch small_batch(cf_dev *d, int n_row) {
  static const int32_t position[ROWS] = {17, 18, 40, 0, 7}, place[ROWS] = {17, 18, 40, -1, -1}, seq[ROWS] = {0, 0, 1, 2, 3};
  static const int32_t row0[5] = {0, 2, 3, 4, 5}, kv_len[4] = {19, 41, 0, 0};
  static const int32_t table[4][3] = {{3, 1, -9}, {5, 2, 4}, {1 << 30, -1, 77}, {1 << 30, -1, 77}};
  return (ti_batch){.n_row = n_row,
                    .n_seq = n_row - 1,
                    .max_seq_rows = 2,
                    .position = cf_up(d, position, sizeof position),
                    .place = cf_up(d, place, sizeof place),
                    .seq = cf_up(d, seq, sizeof seq),
                    .seq_row0 = cf_up(d, row0, sizeof row0),
                    .seq_kv_len = cf_up(d, kv_len, sizeof kv_len),
                    .block_table = cf_up(d, table, sizeof table),
                    .table_stride = 3,
                    .max_kv_len = 41};
}

static ti_kv_layout small_layout(ti_dtype t, int dim) {
  ti_kv_layout l = {.kind = TI_KV_GQA, .dtype = t, .page_tokens = PAGE, .n_kv_head = NKV, .head_dim = dim, .n_layer = 2};
  cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
  return l;
}

static uint8_t *pool_bytes(cf_dev *d, const void *kv, size_t n) {
  uint8_t *p = cf_host(d, n);
  cf_down(d, p, kv, n);
  return p;
}

static void rope_append_once(cf_dev *d, ti_dtype t, int dim, int rope_dim, bool interleaved, int extra) {
  const ti_kv_layout l = small_layout(t, dim);
  const int ld = (NQ + 2 * NKV) * dim + extra;
  const size_t n = (size_t)(ROWS * ld), bytes = l.page_bytes * POOL_PAGES, el = d->k->act == TI_F32 ? 4 : 2;
  const ti_batch b = small_batch(d, ROWS);
  float inv_freq[128];
  for (int i = 0; i < rope_dim / 2; i++) inv_freq[i] = 1.0f / (float)(1 + i * i);
  const float *x = cf_floats(d, n, 3, 1.0f);
  uint8_t *poison = cf_host(d, bytes);
  memset(poison, 0xff, bytes);
  void *row[2];
  const uint8_t *pool[2];
  for (int fused = 0; fused < 2; fused++) {
    uint8_t *rows = row[fused] = cf_up_act(d, x, n), *kv = cf_up(d, poison, bytes), *k = rows + (size_t)(NQ * dim) * el;
    const ti_rope_append_args a = {
        .rope = {.x = rows,
                 .position = b.position,
                 .inv_freq = cf_up(d, inv_freq, sizeof inv_freq),
                 .n_row = ROWS,
                 .n_head = NQ + NKV,
                 .head_dim = dim,
                 .rope_dim = rope_dim,
                 .ld = ld,
                 .attn_factor = 1.1f,
                 .interleaved = interleaved},
        .kv = {.layout = &l, .kv = kv, .layer = 1, .batch = &b, .k = k, .v = k + (size_t)(NKV * dim) * el, .ldk = ld, .ldv = ld}};
    if (fused) {
      cf_ok(d, "rope_append", d->k->rope_append(d->d, &a));
    } else {
      cf_ok(d, "rope", d->k->rope(d->d, &a.rope));
      cf_ok(d, "kv_append", d->k->kv_append(d->d, &a.kv));
    }
    pool[fused] = pool_bytes(d, kv, bytes);
  }
  cf_same_bits(d, "the pool after rope_append", pool[1], pool[0], bytes);
  const float *want = cf_down_act(d, row[0], n), *got = cf_down_act(d, row[1], n);
  for (int r = 0; r < ROWS; r++) {  // k may stay as it was, or not
    cf_same_bits(d, "q after rope_append", got + r * ld, want + r * ld, (size_t)(NQ * dim) * sizeof(float));
    const int v = (NQ + NKV) * dim;
    cf_same_bits(d, "v and beyond after rope_append", got + r * ld + v, x + r * ld + v, (size_t)(ld - v) * sizeof(float));
  }
}

Test(rope_append, is_rope_then_append) {
  static const int forms[][4] = {{64, 64, 0, 0},  {128, 128, 0, 8}, {128, 128, 1, 0}, {256, 256, 0, 0},
                                 {128, 64, 0, 0}, {33, 32, 0, 0},   {80, 80, 1, 3}};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, rope_append)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < 7 * 3; i++, cf_reset(d)) {
      const int *f = forms[i / 3];
      rope_append_once(d, dtypes[i % 3], f[0], f[1], f[2] != 0, f[3]);
    }
    cf_close(d);
  }
}

// The bytes of the other rows with and without padding behind them; attention of padding gives zeros and changes no other row.
Test(kv_append, padding_rows_write_nothing_and_attend_nothing) {
  static const int dims[] = {64, 128, 33};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, kv_append)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < 3 * 3; i++, cf_reset(d)) {
      const int dim = dims[i / 3];
      const ti_kv_layout l = small_layout(dtypes[i % 3], dim);
      const size_t bytes = l.page_bytes * POOL_PAGES, n = (size_t)(ROWS * NKV * dim), nq = (size_t)(ROWS * NQ * dim), live = (size_t)(3 * NQ * dim);
      const void *kd = cf_up_act(d, cf_floats(d, n, 5, 1.0f), n), *vd = cf_up_act(d, cf_floats(d, n, 6, 1.0f), n),
                 *q = cf_up_act(d, cf_floats(d, nq, 7, 1.0f), nq);
      const uint8_t *pool[2];
      const float *out[2] = {NULL, NULL};
      for (int pad = 0; pad < 2; pad++) {
        const ti_batch b = small_batch(d, pad ? ROWS : 3);
        void *kv = cf_up(d, cf_host(d, bytes), bytes), *o = cf_out_act(d, nq);
        const ti_kv_append_args a = {.layout = &l, .kv = kv, .layer = 1, .batch = &b, .k = kd, .v = vd};
        cf_ok(d, "kv_append", k->kv_append(d->d, &a));
        pool[pad] = pool_bytes(d, kv, bytes);
        if (!k->attention) continue;
        const ti_attention_args t = {.out = o, .q = q, .kv = kv, .layout = &l, .batch = &b, .layer = 1, .n_head = NQ, .scale = 0.1f};
        cf_ok(d, "attention", k->attention(d->d, &t));
        out[pad] = cf_down_act(d, o, nq);
      }
      cf_same_bits(d, "the pool with padding rows", pool[1], pool[0], bytes);
      if (!k->attention) continue;
      cf_same_bits(d, "attention beside padding rows", out[1], out[0], live * sizeof(float));
      for (size_t c = live; c < nq; c++) cr_assert(out[1][c] == 0.0f, "%s: attention of a padding row is %g", k->name, (double)out[1][c]);
    }
    cf_close(d);
  }
}

// Byte ranges of the first n tokens of a page, by the drawing in kernel.h and nothing else.
static bool in_first_tokens(const ti_kv_layout *l, size_t at, int n) {
  at %= l->layer_bytes;
  if (l->kind == TI_KV_MLA) return at < (size_t)n * l->token_stride;
  const size_t el = l->dtype == TI_F32 ? 4 : l->dtype == TI_BF16 ? 2 : 1, head = (size_t)l->page_tokens * (size_t)l->head_dim * el;
  const size_t data = 2 * (size_t)l->n_kv_head * head, scales = l->dtype == TI_E4M3 ? 2 * (size_t)l->n_kv_head * (size_t)l->page_tokens * 4 : 0;
  if (at < data) return at % head < (size_t)(n * l->head_dim) * el;
  return at < data + scales && (at - data) % ((size_t)l->page_tokens * 4) < (size_t)n * 4;
}

Test(copy_pages, copies_the_first_tokens_of_all_layers_and_nothing_else) {
  static const int32_t src[] = {1, 0, 4, 3}, dst[] = {2, 3, 5, 6}, n_token[] = {5, 16, 0, 1};  // page 3 is written, then read: plan order
  enum { N_PAGE = 7 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, copy_pages)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < 6; i++, cf_reset(d)) {
      ti_kv_layout l = {.kind = i % 2 ? TI_KV_MLA : TI_KV_GQA,
                        .dtype = dtypes[i / 2],
                        .page_tokens = 16,
                        .n_kv_head = 3,
                        .head_dim = 33,
                        .latent = 512,
                        .rope = 64,
                        .n_layer = 3};
      cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
      const size_t bytes = l.page_bytes * N_PAGE;
      uint8_t *want = cf_host(d, bytes), *got = cf_host(d, bytes);
      const int32_t *noise = cf_ints(d, bytes, 3, 256);
      for (size_t b = 0; b < bytes; b++) want[b] = (uint8_t)noise[b];
      void *kv = cf_up(d, want, bytes);
      const ti_copy_pages_args a = {.kv = kv, .layout = &l, .src = src, .dst = dst, .n_token = n_token, .n = 4};
      cf_ok(d, "copy_pages", k->copy_pages(d->d, &a));
      cf_down(d, got, kv, bytes);
      for (int c = 0; c < 4; c++) {
        for (size_t b = 0; b < l.page_bytes; b++) {
          if (in_first_tokens(&l, b, n_token[c])) want[(size_t)dst[c] * l.page_bytes + b] = want[(size_t)src[c] * l.page_bytes + b];
        }
      }
      for (size_t b = 0; b < bytes; b++) {  // padding behind a layer may be copied along or not
        const size_t in_layer = b % l.page_bytes % l.layer_bytes;
        const size_t used = l.kind == TI_KV_MLA ? 16 * l.token_stride : 2 * l.v_offset + (l.dtype == TI_E4M3 ? (size_t)(2 * 3 * 16 * 4) : 0);
        cr_assert(in_layer >= used || got[b] == want[b], "%s: copy_pages, form %d: byte %zu is %02x, want %02x", k->name, i, b, got[b], want[b]);
      }
    }
    cf_close(d);
  }
}

Test(kv_layout, strides_are_those_of_the_drawing) {
  ti_kv_layout l = {.kind = TI_KV_GQA, .dtype = TI_BF16, .page_tokens = 16, .n_kv_head = 2, .head_dim = 64, .n_layer = 5};
  cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
  cr_assert(l.token_stride == 128 && l.head_stride == 2048 && l.v_offset == 4096 && l.layer_bytes == 8192 && l.page_bytes == 40960);
  l.dtype = TI_E4M3;
  cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
  cr_assert(l.token_stride == 64 && l.k_scale_offset == 4096 && l.v_scale_offset == 4096 + 128 && l.layer_bytes == 4096 + 256);
  l = (ti_kv_layout){.kind = TI_KV_MLA, .dtype = TI_E4M3, .page_tokens = 64, .latent = 512, .rope = 64, .n_layer = 1};
  cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
  cr_assert(l.token_stride == 656 && l.layer_bytes == 64 * 656);
  l.dtype = TI_F32;
  cr_assert_eq(ti_kv_layout_init(&l, NULL), TI_OK);
  cr_assert(l.token_stride == 2304 && l.page_bytes == 64 * 2304);
}

Test(kv_layout, refuses_what_does_not_fit_and_names_it) {
  const ti_kv_layout good = {.kind = TI_KV_GQA, .dtype = TI_F32, .page_tokens = 16, .n_kv_head = 2, .head_dim = 64, .n_layer = 1};
  ti_kv_layout l = good;
  ti_error err;
  l.page_tokens = 24;
  cr_assert(ti_kv_layout_init(&l, &err) == TI_ERR_ARG && strstr(err.text, "page_tokens is 24"), "%s", err.text);
  l.page_tokens = 512;
  cr_assert(ti_kv_layout_init(&l, &err) == TI_ERR_ARG && strstr(err.text, "256"), "%s", err.text);
  l = good;
  l.head_dim = 0;
  cr_assert(ti_kv_layout_init(&l, &err) == TI_ERR_ARG && strstr(err.text, "head_dim is 0"), "%s", err.text);
  l = good;
  l.dtype = TI_F16;
  cr_assert(ti_kv_layout_init(&l, &err) == TI_ERR_ARG && strstr(err.text, "dtype"), "%s", err.text);
  l = (ti_kv_layout){.kind = TI_KV_MLA, .dtype = TI_E4M3, .page_tokens = 16, .latent = 500, .rope = 64, .n_layer = 1};
  cr_assert(ti_kv_layout_init(&l, &err) == TI_ERR_ARG && strstr(err.text, "latent is 500"), "%s", err.text);
}
