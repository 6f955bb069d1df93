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
