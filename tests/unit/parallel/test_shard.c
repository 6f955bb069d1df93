// Shards against a naive walk over the whole tensor: a checkpoint of two tensors in memory, mmapped, misaligned or generated.
#include <criterion/criterion.h>
#include <string.h>

#include "base/half.h"
#include "parallel/shard.h"

enum { ROWS = 300, COLS = 400, BLOCK = 128, SCALE_ROWS = 3, SCALE_COLS = 4 };

typedef enum kind { MAPPED, MISALIGNED, GENERATED } kind;
typedef struct fake {
  ti_checkpoint base;
  kind kind;
  ti_dtype dtype;
  int no_scale;
} fake;

static _Alignas(64) char mapped[ROWS * COLS * 4 + 64];
static _Alignas(64) float scale_data[SCALE_ROWS * SCALE_COLS];
static uint16_t norm[COLS];

// The number that stands at (r, c): exact in every type.
static float value(int64_t r, int64_t c) { return (float)((r * 7 + c * 3) % 16); }
static void put(void *p, ti_dtype t, size_t i, float v) {
  if (t == TI_F32) ((float *)p)[i] = v;
  if (t == TI_BF16) memcpy((char *)p + 2 * i, &(uint16_t){ti_f32_to_bf16(v)}, 2);
  if (t == TI_E4M3) ((uint8_t *)p)[i] = ti_f32_to_e4m3(v);
}
static float get(const void *p, ti_dtype t, int64_t i) {
  if (t == TI_F32) return ((const float *)p)[i];
  if (t == TI_BF16) return ti_bf16_to_f32(((const uint16_t *)p)[i]);
  return ti_e4m3_to_f32(((const uint8_t *)p)[i]);
}

static ti_status fake_find(const ti_checkpoint *c, const char *name, ti_tensor *out) {
  const fake *f = (const fake *)c;
  *out = (ti_tensor){.name = name, .n_dim = 2};
  if (strcmp(name, "w.weight") == 0) {
    *out = (ti_tensor){.name = name, .dtype = f->dtype, .n_dim = 2, .shape = {ROWS, COLS}};
    if (f->kind != GENERATED) out->data = mapped + (f->kind == MISALIGNED);
    out->bytes = (size_t)ROWS * COLS * (size_t)ti_dtype_block_bytes(f->dtype);
    return TI_OK;
  }
  if (strcmp(name, "w.weight_scale_inv") == 0 && !f->no_scale) {
    *out = (ti_tensor){.name = name, .dtype = TI_F32, .n_dim = 2, .shape = {SCALE_ROWS, SCALE_COLS}, .data = scale_data, .bytes = sizeof scale_data};
    return TI_OK;
  }
  if (strcmp(name, "norm.weight") == 0) {
    *out = (ti_tensor){.name = name, .dtype = TI_BF16, .n_dim = 1, .shape = {COLS}, .data = norm, .bytes = sizeof norm};
    return TI_OK;
  }
  return TI_ERR_NOTFOUND;
}

static void fake_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  for (int64_t r = 0; r < rn; r++)
    for (int64_t k = 0; k < cn; k++) {
      if (t->data == norm)
        put(dst, TI_BF16, (size_t)k, value(0, c0 + k));
      else
        put(dst, t->dtype, (size_t)(r * cn + k), value(r0 + r, c0 + k));
    }
}
static const ti_checkpoint_ops fake_ops = {.name = "fake", .find = fake_find, .read = fake_read};

static fake make(kind k, ti_dtype t) {
  for (int64_t i = 0; i < ROWS * COLS; i++) put(mapped + (k == MISALIGNED && t == TI_E4M3 ? 1 : 0), t, (size_t)i, value(i / COLS, i % COLS));
  if (k == MISALIGNED && t != TI_E4M3) memmove(mapped + 1, mapped, (size_t)ROWS * COLS * (size_t)ti_dtype_block_bytes(t));
  for (int i = 0; i < SCALE_ROWS * SCALE_COLS; i++) scale_data[i] = (float)(i + 1);
  for (int i = 0; i < COLS; i++) norm[i] = ti_f32_to_bf16(value(0, i));
  return (fake){.base = {.ops = &fake_ops}, .kind = k, .dtype = t};
}

static const ti_config fp8 = {.fp8_block_n = BLOCK, .fp8_block_k = BLOCK};

static void check(kind k, ti_dtype t, ti_slice s) {
  fake f = make(k, t);
  ti_arena mem;
  ti_arena_init(&mem, 1 << 22);
  ti_weight_src w;
  ti_error err = {0};
  cr_assert_eq(ti_shard_source(&f.base, &fp8, "w.weight", &s, &mem, &w, &err), TI_OK, "%s", err.text);
  cr_expect_eq(w.n, s.rn);
  cr_expect_eq(w.k, s.cn);
  if (k == MAPPED) cr_expect_eq(mem.used, 0, "a mapped tensor is not copied");
  int bad = 0;
  for (int64_t r = 0; r < s.rn; r++)
    for (int64_t c = 0; c < s.cn; c++) {
      const float v = get(w.data, t, r * w.ld + c), want = value(s.r0 + r, s.c0 + c);
      bad += v < want || v > want;
      if (t != TI_E4M3) continue;
      const float scale = w.scale[(w.row0 + r) / w.block_n * w.scale_ld + (w.col0 + c) / w.block_k];
      const float scale_want = scale_data[(s.r0 + r) / BLOCK * SCALE_COLS + (s.c0 + c) / BLOCK];
      bad += scale < scale_want || scale > scale_want;
    }
  cr_expect_eq(bad, 0, "kind %d %s: %d differ", (int)k, ti_dtype_name(t), bad);
  ti_arena_fini(&mem);
}

Test(shard, sources_hold_exactly_the_slice) {
  const ti_dtype types[] = {TI_F32, TI_BF16, TI_E4M3};
  for (int t = 0; t < 3; t++)
    for (int k = MAPPED; k <= GENERATED; k++) {
      check((kind)k, types[t], ti_slice_all(ROWS, COLS));
      check((kind)k, types[t], ti_slice_rows(ROWS, COLS, 150, 150));
      check((kind)k, types[t], ti_slice_cols(ROWS, COLS, 200, 200));
      check((kind)k, types[t], (ti_slice){ROWS, COLS, 127, 2, 255, 130});
      check((kind)k, types[t], (ti_slice){ROWS, COLS, 299, 1, 399, 1});
    }
}

Test(shard, refuses_bad_slices_shapes_and_missing_scales) {
  fake f = make(MAPPED, TI_E4M3);
  ti_arena mem;
  ti_arena_init(&mem, 1 << 20);
  ti_weight_src w;
  ti_error err = {0};
  ti_slice s = ti_slice_rows(ROWS, COLS, 200, 101);
  cr_expect_eq(ti_shard_source(&f.base, &fp8, "w.weight", &s, &mem, &w, &err), TI_ERR_ARG);
  s = ti_slice_cols(ROWS, COLS, -1, 2);
  cr_expect_eq(ti_shard_source(&f.base, &fp8, "w.weight", &s, &mem, &w, &err), TI_ERR_ARG);
  s = ti_slice_all(COLS, ROWS);
  cr_expect(ti_failed(ti_shard_source(&f.base, &fp8, "w.weight", &s, &mem, &w, &err)));
  s = ti_slice_all(ROWS, COLS);
  cr_expect(ti_failed(ti_shard_source(&f.base, &fp8, "x.weight", &s, &mem, &w, &err)));
  cr_expect(strstr(err.text, "x.weight") != NULL, "%s", err.text);
  cr_expect_eq(ti_shard_source(&f.base, &(ti_config){0}, "w.weight", &s, &mem, &w, &err), TI_ERR_FORMAT);
  f.no_scale = 1;
  cr_expect(ti_failed(ti_shard_source(&f.base, &fp8, "w.weight", &s, &mem, &w, &err)));
  cr_expect(strstr(err.text, "w.weight_scale_inv") != NULL, "%s", err.text);
  ti_arena_fini(&mem);
  fake g = make(GENERATED, TI_F32);
  ti_arena_init(&mem, 1000);
  cr_expect_eq(ti_shard_source(&g.base, &fp8, "w.weight", &s, &mem, &w, &err), TI_ERR_NOMEM);
  ti_arena_fini(&mem);
}

Test(shard, vectors_widen_to_fp32) {
  fake f = make(MAPPED, TI_F32);
  float v[COLS];
  ti_error err = {0};
  cr_assert_eq(ti_shard_vector(&f.base, "norm.weight", COLS, 5, 100, v, &err), TI_OK, "%s", err.text);
  for (int i = 0; i < 100; i++) cr_expect_float_eq(v[i], value(0, 5 + i), 0);
  cr_expect_eq(ti_shard_vector(&f.base, "norm.weight", COLS, 301, 100, v, &err), TI_ERR_ARG);
}

Test(shard, heads_are_divided_or_shared) {
  ti_shard_heads h;
  cr_assert_eq(ti_shard_heads_of(32, 8, 4, 3, &h, NULL), TI_OK);
  cr_expect(h.head0 == 24 && h.n_head == 8 && h.kv0 == 6 && h.n_kv == 2 && h.kv_copies == 1);
  cr_assert_eq(ti_shard_heads_of(32, 8, 16, 5, &h, NULL), TI_OK);
  cr_expect(h.head0 == 10 && h.n_head == 2 && h.kv0 == 2 && h.n_kv == 1 && h.kv_copies == 2);
  // Every query head meets the KV head it had before.
  for (int n_kv = 1; n_kv <= 12; n_kv++)
    for (int tp = 1; tp <= 12; tp++) {
      if (12 % n_kv || ti_shard_heads_of(12, n_kv, tp, 0, &h, NULL)) continue;
      for (int i = 0; i < tp; i++) {
        cr_assert_eq(ti_shard_heads_of(12, n_kv, tp, i, &h, NULL), TI_OK);
        for (int q = 0; q < h.n_head; q++) cr_expect_eq(h.kv0 + q / (h.n_head / h.n_kv), (h.head0 + q) / (12 / n_kv));
      }
    }
  ti_error err = {0};
  cr_expect_eq(ti_shard_heads_of(12, 4, 5, 0, &h, &err), TI_ERR_ARG);
  cr_expect_str_eq(err.text, "tensor-parallel-size 5 does not divide 12 attention heads with 4 KV heads; these would do: 1, 2, 4, 12");
}

Test(shard, widths_keep_whole_blocks) {
  int64_t at, n, sum = 0;
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(ti_shard_width("w", 1000, 3, i, 128, &at, &n, NULL), TI_OK);
    cr_expect_eq(at, sum);
    cr_expect_eq(at % 128, 0);
    sum += n;
  }
  cr_expect_eq(sum, 1000);
  ti_error err = {0};
  cr_assert_eq(ti_shard_width("w", 96, 3, 2, 128, &at, &n, &err), TI_OK);
  cr_expect(at == 64 && n == 32);
  cr_expect_eq(ti_shard_width("intermediate_size", 10, 3, 0, 1, &at, &n, &err), TI_ERR_ARG);
  cr_expect_str_eq(err.text, "intermediate_size 10 cannot be divided among 3 ranks; these would do: 1, 2, 5, 10");
}
