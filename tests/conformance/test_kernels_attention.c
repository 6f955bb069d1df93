// Paged attention of every backend, GQA and absorbed MLA: against fp64 over head shapes, cache types, windows, trees and MTP's first place; and the
// determinism contract: the bits of a row do not depend on its batch, the page size, the chunking or the threads. Unwritten cache is NaN throughout.
#include <criterion/criterion.h>
#include <string.h>

#include "kv_scenario.h"

static const ti_dtype kv_dtypes[] = {TI_F32, TI_BF16, TI_E4M3};

static bool has_op(const ti_kernels *k, const cf_case *c) {
  return k->kv_append && (c->kind == TI_KV_GQA ? k->attention != NULL : k->mla_attention != NULL);
}

static void check_all_types(const ti_kernels *k, const char *what, cf_case c) {
  if (!has_op(k, &c)) {
    printf("%s: no %s, skipped\n", k->name, what);
    return;
  }
  cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
  for (int t = 0; t < 3; t++, cf_reset(d)) {
    c.dtype = kv_dtypes[t];
    cf_case_check(d, what, &c);
  }
  cf_close(d);
}

static const cf_seq mixed[] = {
    {.id = 1, .past = 0, .rows = 1}, {.id = 2, .past = 0, .rows = 33}, {.id = 3, .past = 16, .rows = 1},  {.id = 4, .past = 99, .rows = 1},
    {.id = 5, .past = 7, .rows = 5}, {.id = 6, .past = 64, .rows = 7}, {.id = 7, .past = 300, .rows = 1}, {.id = 8, .past = 15, .rows = 2},
};
static const cf_case gqa = {
    .kind = TI_KV_GQA, .dtype = TI_F32, .page_tokens = 16, .n_kv_head = 2, .head_dim = 64, .n_head = 4, .seq = mixed, .n_seq = 8};
static const cf_case mla = {.kind = TI_KV_MLA, .dtype = TI_F32, .page_tokens = 16, .latent = 512, .rope = 64, .n_head = 3, .seq = mixed, .n_seq = 8};

Test(attention, matches_fp64_over_head_shapes) {
  static const int shapes[][3] = {{1, 1, 64}, {4, 2, 64}, {8, 1, 128}, {6, 2, 80},
                                  {3, 3, 96}, {5, 1, 33}, {4, 2, 256}, {2, 1, 1}};  // heads, kv heads, dim
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 8; i++) {
      cf_case c = gqa;
      c.n_head = shapes[i][0];
      c.n_kv_head = shapes[i][1];
      c.head_dim = shapes[i][2];
      check_all_types(k, "attention", c);
    }
  }
}

Test(attention, absorbed_mla_matches_fp64) {
  static const int heads[] = {1, 4, 9};
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 3; i++) {
      cf_case c = mla;
      c.n_head = heads[i];
      check_all_types(k, "mla_attention", c);
    }
  }
}

Test(attention, sliding_window) {
  CF_EACH_BACKEND(k) {
    for (int window = 1; window <= 64; window = window * 3 + 1) {
      cf_case c = gqa;
      c.window = window;
      check_all_types(k, "attention with a window", c);
    }
  }
}

Test(attention, tree_rows_see_their_ancestors_only) {
  static const cf_seq trees[] = {
      {.id = 1, .past = 20, .rows = 12}, {.id = 2, .past = 0, .rows = 5}, {.id = 3, .past = 130, .rows = 64}, {.id = 4, .past = 31, .rows = 1}};
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 2; i++) {
      cf_case c = i ? mla : gqa;
      c.seq = trees;
      c.n_seq = 4;
      c.tree = true;
      check_all_types(k, "attention with masks", c);
    }
  }
}

Test(attention, kv_may_start_at_a_later_place) {
  static const cf_seq mtp[] = {{.id = 1, .past = 1, .rows = 8, .first = 1},
                               {.id = 2, .past = 50, .rows = 1, .first = 1},
                               {.id = 3, .past = 40, .rows = 3, .first = 33},
                               {.id = 4, .past = 9, .rows = 2}};
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 2; i++) {
      cf_case c = i ? mla : gqa;
      c.seq = mtp;
      c.n_seq = 4;
      check_all_types(k, "attention with kv_first", c);
    }
  }
}

Test(attention, a_row_without_kv_gives_zeros) {
  static const cf_seq some[] = {
      {.id = 1, .past = 0, .rows = 1, .empty = true}, {.id = 2, .past = 20, .rows = 2}, {.id = 3, .past = 0, .rows = 3, .empty = true}};
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 2; i++) {
      cf_case c = i ? mla : gqa;
      c.seq = some;
      c.n_seq = 3;
      check_all_types(k, "attention without KV", c);
    }
  }
}

// Contexts that end before, at and behind the edges of pages (16), spans (128) and chunks (512), attended by one row, by a draft's and by a prompt's;
// the first row of a sequence has a context of 1.
Test(attention, contexts_at_the_edges_of_pages_spans_and_chunks) {
  static const int contexts[] = {1, 15, 16, 17, 127, 128, 129, 511, 512, 513, 1024, 1025}, rows[] = {1, 5, 127, 129};
  enum { N = sizeof contexts / sizeof *contexts };
  CF_EACH_BACKEND(k) {
    for (int r = 0; r < 4; r++) {
      for (int i = 0; i < N; i++) {
        const int past = contexts[i] - rows[r];
        if ((past < 0 && i > 0) || (rows[r] > 5 && contexts[i] != 129 && contexts[i] != 513)) continue;  // fp64 takes its time
        const cf_seq one = {.id = 3 + i, .past = past > 0 ? past : 0, .rows = rows[r]};
        cf_case c = gqa;
        c.seq = &one;
        c.n_seq = 1;
        if (contexts[i] == 513) c.n_head = 8;  // a group of four
        check_all_types(k, "attention at an edge", c);
      }
    }
  }
}

Test(attention, a_context_of_131072) {
  static const cf_seq far[] = {{.id = 5, .past = 131070, .rows = 2}, {.id = 6, .past = 0, .rows = 1}};
  CF_EACH_BACKEND(k) {
    cf_case c = gqa;
    c.seq = far;
    c.n_seq = 2;
    c.n_kv_head = 1;
    c.n_head = 1;
    c.page_tokens = 64;
    if (!has_op(k, &c)) continue;
    cf_dev *d = cf_open(k, TI_ACT_NONE, 2);
    for (int t = 1; t < 3; t++, cf_reset(d)) {
      c.dtype = kv_dtypes[t];
      cf_case_check(d, "attention over 131,072 places", &c);
    }
    cf_close(d);
  }
}

// ---- the determinism contract ----

static size_t row_bytes(const cf_case *c) { return (size_t)(c->n_head * cf_case_value_dim(c)) * sizeof(float); }

static void same_as(const ti_kernels *k, const char *what, const cf_case *base, const cf_case *other, int threads) {
  if (!has_op(k, base)) return;
  cf_dev *d = cf_open(k, TI_ACT_NONE, 1), *e = cf_open(k, TI_ACT_NONE, threads);
  cf_same_bits(e, what, cf_case_run(e, other), cf_case_run(d, base), row_bytes(base) * (size_t)cf_case_rows(base));
  cf_close(d);
  cf_close(e);
}

static const cf_seq prompts[] = {{.id = 1, .past = 0, .rows = 70}, {.id = 2, .past = 37, .rows = 20}, {.id = 3, .past = 150, .rows = 1}};

static cf_case variant(int i) {  // 6 of them: two kinds, three cache types
  cf_case c = i / 3 ? mla : gqa;
  c.dtype = kv_dtypes[i % 3];
  c.seq = prompts;
  c.n_seq = 3;
  return c;
}

Test(attention, page_size_does_not_change_the_bits) {
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 6; i++) {
      const cf_case base = variant(i);
      cf_case c = base;
      c.page_tokens = 8;
      same_as(k, "attention with pages of 8", &base, &c, 1);
      c.page_tokens = 64;
      same_as(k, "attention with pages of 64", &base, &c, 1);
    }
  }
}

Test(attention, chunked_and_whole_prefill_have_the_same_bits) {
  static const int splits[] = {1, 7, 16, 33};
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 6; i++) {
      const cf_case base = variant(i);
      for (int s = 0; s < 4; s++) {
        cf_case c = base;
        c.split = splits[s];
        same_as(k, "attention in chunks", &base, &c, 1);
      }
    }
  }
}

Test(attention, threads_do_not_change_the_bits) {
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 6; i++) {
      const cf_case base = variant(i);
      same_as(k, "attention with 3 threads", &base, &base, 3);
    }
  }
}

Test(attention, a_row_alone_has_the_bits_it_has_in_a_batch) {
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 6; i++) {
      cf_case all = variant(i);
      all.seq = mixed;
      all.n_seq = 8;
      if (!has_op(k, &all)) continue;
      cf_dev *d = cf_open(k, TI_ACT_NONE, 1), *e = cf_open(k, TI_ACT_NONE, 1);
      const float *batch = cf_case_run(d, &all);
      size_t at = 0;
      for (int s = 0; s < all.n_seq; s++, cf_reset(e)) {
        cf_case one = all;
        one.seq = &mixed[s];
        one.n_seq = 1;
        one.split = 1;
        one.kv_first = true;  // and an array of zeros is the same as none
        const size_t n = row_bytes(&all) * (size_t)mixed[s].rows;
        cf_same_bits(e, "attention of one sequence", cf_case_run(e, &one), batch + at / sizeof(float), n);
        at += n;
      }
      cf_close(d);
      cf_close(e);
    }
  }
}

// A chain of drafts as a tree without branches is plain causal attention.
Test(attention, a_full_mask_has_the_bits_of_causal) {
  CF_EACH_BACKEND(k) {
    for (int i = 0; i < 6; i++) {
      static const cf_seq one[] = {{.id = 9, .past = 77, .rows = 1}, {.id = 4, .past = 5, .rows = 1}};
      cf_case base = variant(i);
      base.seq = one;
      base.n_seq = 2;
      cf_case c = base;
      c.tree = true;
      same_as(k, "attention with its own bit", &base, &c, 1);
    }
  }
}
