// Packing: every element of every kind of source comes back through embed, at its place; sizes are what prepare writes; bad sources are refused.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "kernels/kernel.h"
#include "kernels/ref/dequant.h"

static ti_dev *open_dev(const ti_kernels *k) {
  ti_dev *d = NULL;
  ti_error err = {0};
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &d, &err), TI_OK, "%s", err.text);
  return d;
}

static float value(ti_dtype t, const void *p, int64_t i) {
  if (t == TI_F32) return ((const float *)p)[i];
  if (t == TI_BF16) return ti_bf16_to_f32(((const uint16_t *)p)[i]);
  if (t == TI_F16) return ti_f16_to_f32(((const uint16_t *)p)[i]);
  return ti_e4m3_to_f32(((const uint8_t *)p)[i]);
}

static float element(const ti_weight_src *s, int64_t r, int64_t c) {
  const float v = value(s->dtype, s->data, r * (s->ld ? s->ld : s->k) + c);
  return s->scale ? v * s->scale[(s->row0 + r) / s->block_n * s->scale_ld + (s->col0 + c) / s->block_k] : v;
}

// Prepares, with a guard behind the memory, and compares every row that embed reads back.
static void check(const ti_kernels *k, ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags) {
  enum { GUARD = 64 };
  size_t size = 0;
  cr_assert_eq(k->weight_size(d, parts, n_part, flags, &size), TI_OK);
  uint8_t *mem = k->alloc(d, size + GUARD);
  memset(mem + size, 0xa5, GUARD);
  ti_weight w;
  cr_assert_eq(k->weight_prepare(d, parts, n_part, flags, mem, &w), TI_OK);
  for (int i = 0; i < GUARD; i++) cr_assert_eq(mem[size + (size_t)i], 0xa5, "prepare wrote past the size it asked for");
  float *out = calloc((size_t)w.k, sizeof *out);
  int64_t part = 0, row0 = 0;
  for (int32_t r = 0; r < w.n; r++) {
    cr_assert_eq(k->embed(d, &(ti_embed_args){.out = out, .ids = &r, .table = &w, .n_row = 1, .hidden = (int)w.k, .n_id = (int)w.n}), TI_OK);
    if (!(flags & TI_WEIGHT_TRANSPOSE) && r - row0 == parts[part].n) row0 += parts[part++].n;
    for (int64_t c = 0; c < w.k; c++) {
      const float want = flags & TI_WEIGHT_TRANSPOSE ? element(parts, c, r) : element(&parts[part], r - row0, c);
      cr_assert(isnan(want) ? isnan(out[c]) : out[c] == want, "%s [%d, %d]: %g, want %g", ti_dtype_name(parts->dtype), r, (int)c, (double)out[c],
                (double)want);
    }
  }
  free(out);
  k->free(d, mem);
}

static const ti_dtype types[] = {TI_F32, TI_F16, TI_BF16, TI_E4M3};

// Bytes that are small finite numbers in every type (e4m3 keeps its subnormals and, on demand, NaN).
static void *bytes_of(ti_dtype t, size_t n, unsigned seed, bool nan) {
  uint8_t *p = malloc(n * 4);
  for (size_t i = 0; i < n; i++) {
    const float v = (float)((i * 7919u + seed) % 2003u) / 500.0f - 2.0f;
    if (t == TI_F32) ((float *)(void *)p)[i] = v;
    if (t == TI_F16) ((uint16_t *)(void *)p)[i] = ti_f32_to_f16(v);
    if (t == TI_BF16) ((uint16_t *)(void *)p)[i] = ti_f32_to_bf16(v);
    if (t == TI_E4M3) p[i] = nan && i == n / 2 ? 0xff : ti_f32_to_e4m3(v * v * v * 0.02f);
  }
  return p;
}

Test(cpu_weight, every_element_is_where_it_belongs) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = open_dev(k);
  float scale[64];
  for (int i = 0; i < 64; i++) scale[i] = 0.5f + (float)i;
  for (int t = 0; t < 4; t++) {
    for (int nan = 0; nan < (types[t] == TI_E4M3 ? 2 : 1); nan++) {
      void *a = bytes_of(types[t], 300 * 210, 1, nan), *b = bytes_of(types[t], 300 * 210, 2, false);
      for (int scaled = 0; scaled < (types[t] == TI_E4M3 ? 2 : 1); scaled++) {
        ti_weight_src parts[3] = {{.data = a, .dtype = types[t], .n = 17, .k = 200, .ld = 210},
                                  {.data = b, .dtype = types[t], .n = 130, .k = 200},
                                  {.data = a, .dtype = types[t], .n = 1, .k = 200, .ld = 200}};
        for (int i = 0; i < 3 && scaled; i++) {
          parts[i].scale = scale + i;
          parts[i].scale_ld = 3;
          parts[i].block_n = parts[i].block_k = 128;
          parts[i].row0 = 40 * i;
          parts[i].col0 = 100;
        }
        check(k, d, parts, 1, 0);
        check(k, d, parts, 3, 0);
        check(k, d, parts, 1, TI_WEIGHT_TRANSPOSE);
        check(k, d, parts + 1, 1, TI_WEIGHT_TRANSPOSE);
      }
      free(a);
      free(b);
    }
  }
  k->close(d);
}

// ---- block types ----

static const ti_dtype blocks[] = {TI_Q4_0, TI_Q4_1, TI_Q5_0, TI_Q5_1, TI_Q8_0, TI_Q4_K, TI_Q5_K, TI_Q6_K};
enum { N_BLOCK = sizeof blocks / sizeof *blocks };

// n blocks of any codes (-128 among Q8_0's) and finite scales.
static void *blocks_of(ti_dtype t, size_t n, unsigned seed) {
  const size_t bytes = (size_t)ti_dtype_block_bytes(t);
  uint8_t *p = malloc(n * bytes);
  for (size_t i = 0; i < n * bytes; i++) p[i] = (uint8_t)((i * 2654435761u + seed * 977u) >> 13);
  for (size_t i = 0; i < n; i++) {
    const uint16_t d = ti_f32_to_f16(0.013f * (float)(1 + (i + seed) % 7)), m = ti_f32_to_f16(-0.11f * (float)(i % 5));
    memcpy(p + i * bytes + (t == TI_Q6_K ? 208 : 0), &d, 2);
    if (t == TI_Q4_1 || t == TI_Q5_1 || t == TI_Q4_K || t == TI_Q5_K) memcpy(p + i * bytes + 2, &m, 2);
  }
  return p;
}

// Prepares block parts, with a guard behind the memory, and compares every row that embed reads back with the reference's, to the bit.
static void check_blocks(const ti_kernels *k, ti_dev *d, const ti_weight_src *parts, int n_part) {
  enum { GUARD = 64 };
  size_t size = 0;
  cr_assert_eq(k->weight_size(d, parts, n_part, 0, &size), TI_OK);
  uint8_t *mem = k->alloc(d, size + GUARD);
  memset(mem, 0xff, size);
  memset(mem + size, 0xa5, GUARD);
  ti_weight w;
  cr_assert_eq(k->weight_prepare(d, parts, n_part, 0, mem, &w), TI_OK);
  for (int i = 0; i < GUARD; i++) cr_assert_eq(mem[size + (size_t)i], 0xa5, "prepare wrote past the size it asked for");
  float *out = calloc((size_t)w.k, sizeof *out), *want = calloc((size_t)w.k, sizeof *want);
  int32_t id = 0;
  for (const ti_weight_src *p = parts; p < parts + n_part; p++) {
    const size_t row = (size_t)((p->ld ? p->ld : p->k) / ti_dtype_block(p->dtype) * ti_dtype_block_bytes(p->dtype));
    for (int64_t r = 0; r < p->n; r++, id++) {
      ti_ref_dequant_row(p->dtype, (const uint8_t *)p->data + (size_t)r * row, want, (size_t)p->k);
      cr_assert_eq(k->embed(d, &(ti_embed_args){.out = out, .ids = &id, .table = &w, .n_row = 1, .hidden = (int)w.k, .n_id = (int)w.n}), TI_OK);
      for (int64_t c = 0; c < w.k; c++)
        cr_assert(out[c] == want[c], "%s, output %d, k %d: %g, want %g", ti_dtype_name(p->dtype), id, (int)c, (double)out[c], (double)want[c]);
    }
  }
  cr_assert_eq(id, w.n);
  free(out);
  free(want);
  k->free(d, mem);
}

Test(cpu_weight, blocks_come_back_as_the_reference_reads_them) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = open_dev(k);
  for (int t = 0; t < N_BLOCK; t++) {
    const ti_dtype other = blocks[(t + 3) % N_BLOCK];
    void *a = blocks_of(blocks[t], 60 * 768 / (size_t)ti_dtype_block(blocks[t]), 1),
         *b = blocks_of(other, 60 * 512 / (size_t)ti_dtype_block(other), 2);
    const ti_weight_src parts[3] = {{.data = a, .dtype = blocks[t], .n = 17, .k = 512, .ld = 768},
                                    {.data = a, .dtype = blocks[t], .n = 41, .k = 512},
                                    {.data = b, .dtype = other, .n = 5, .k = 512}};
    check_blocks(k, d, parts, 1);
    check_blocks(k, d, parts, 2);
    check_blocks(k, d, parts, 3);  // mixed
    free(a);
    free(b);
  }
  k->close(d);
}

Test(cpu_weight, block_sources_that_cut_a_block_are_refused) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = open_dev(k);
  size_t size = 77;
  uint8_t x[4096] = {0};
  const ti_weight_src good = {.data = x, .dtype = TI_Q4_1, .n = 4, .k = 64};
  ti_weight_src bad = good;
  bad.k = 48;
  cr_assert_eq(k->weight_size(d, &bad, 1, 0, &size), TI_ERR_ARG);
  bad = good;
  bad.ld = 80;
  cr_assert_eq(k->weight_size(d, &bad, 1, 0, &size), TI_ERR_ARG);
  bad = good;
  bad.dtype = TI_Q4_K;
  cr_assert_eq(k->weight_size(d, &bad, 1, 0, &size), TI_ERR_ARG);
  cr_assert_eq(k->weight_size(d, &good, 1, TI_WEIGHT_TRANSPOSE, &size), TI_ERR_UNSUPPORTED);
  const ti_weight_src mixed[2] = {good, {.data = x, .dtype = TI_F32, .n = 4, .k = 64}}, turned[2] = {mixed[1], mixed[0]};
  cr_assert_eq(k->weight_size(d, mixed, 2, 0, &size), TI_ERR_UNSUPPORTED);
  cr_assert_eq(k->weight_size(d, turned, 2, 0, &size), TI_ERR_UNSUPPORTED);
  cr_assert_eq(size, 77);
  k->close(d);
}

// Activations of NaN or infinity must show; those of a tiny block are zeros.
Test(cpu_weight, int8_activations_keep_nan_and_infinity) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = NULL;
  ti_error err = {0};
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1, .act_quant = TI_ACT_INT8}, &d, &err), TI_OK, "%s", err.text);
  enum { N = 20, K = 96 };
  for (int t = 0; t < 5; t++) {
    void *a = blocks_of(blocks[t], N * K / 32, 3);
    const ti_weight_src src = {.data = a, .dtype = blocks[t], .n = N, .k = K};
    size_t size;
    cr_assert_eq(k->weight_size(d, &src, 1, 0, &size), TI_OK);
    void *mem = k->alloc(d, size);
    ti_weight w;
    cr_assert_eq(k->weight_prepare(d, &src, 1, 0, mem, &w), TI_OK);
    const float odd[] = {NAN, -INFINITY, 1e-40f};
    for (int i = 0; i < 3; i++) {
      float x[K] = {0}, out[N];
      x[40] = odd[i];
      cr_assert_eq(k->gemm(d, &(ti_gemm_args){.out = out, .x = x, .w = &w, .m = 1, .out_dtype = TI_F32}), TI_OK);
      for (int n = 0; n < N; n++)
        cr_assert(i < 2 ? !isfinite(out[n]) : out[n] == 0.0f, "%s, x of %g: %g", ti_dtype_name(blocks[t]), (double)odd[i], (double)out[n]);
    }
    k->free(d, mem);
    free(a);
  }
  k->close(d);
}

// One row of `t` whose code bytes are all `fill`: scales 1 (K types: times 17 or 1), minima 0.
static void fill_row(ti_dtype t, int fill, int k, uint8_t *row) {
  const int bytes = ti_dtype_block_bytes(t);
  for (int i = 0; i < k / ti_dtype_block(t); i++) {
    uint8_t *p = row + i * bytes;
    memset(p, fill, (size_t)bytes);
    if (t == TI_Q6_K) {
      memset(p + 192, 1, 16);
      p += 208;
    } else if (t == TI_Q4_K || t == TI_Q5_K) {
      memset(p + 4, 0x11, 12);
    }
    if (t != TI_Q4_0 && t != TI_Q5_0 && t != TI_Q8_0 && t != TI_Q6_K) memset(p + 2, 0, 2);
    p[0] = 0;
    p[1] = 0x3c;
  }
}

// The largest codes all over, with the largest activations of one sign: sums in int16 must hold them (block.h's chains).
Test(cpu_weight, sums_of_the_largest_codes_do_not_overflow) {
  static const ti_dtype kinds[] = {TI_Q4_0, TI_Q4_1, TI_Q5_0, TI_Q5_1, TI_Q8_0, TI_Q4_K, TI_Q5_K, TI_Q6_K};
  static const int fills[] = {0x00, 0x7f, 0x80, 0xff};
  static const char *const names[] = {"cpu-avx2", "cpu-avx512", "cpu-vnni"};
  enum { N = 3, K = 256, M = 5 };
  for (int i = 0; i < 8 * 4 * 3; i++) {
    const ti_dtype t = kinds[i % 8];
    const ti_kernels *k = ti_kernels_find(names[i / 32]);
    if (!k) continue;
    ti_dev *d = NULL;
    ti_error err = {0};
    cr_assert_eq(k->open(&(ti_dev_options){.threads = 1, .act_quant = TI_ACT_INT8}, &d, &err), TI_OK, "%s", err.text);
    uint8_t rows[N * K * 2];
    size_t bytes, size;
    cr_assert_eq(ti_dtype_size(t, K, &bytes), TI_OK);
    for (int n = 0; n < N; n++) fill_row(t, fills[i / 8 % 4], K, rows + (size_t)n * bytes);
    float w[K], x[M * K], out[M * N];
    ti_ref_dequant_row(t, rows, w, K);
    double want = 0;
    for (int j = 0; j < K; j++) want += (double)w[j];
    for (int j = 0; j < M * K; j++) x[j] = j / K % 2 ? -1.0f : 1.0f;
    const ti_weight_src src = {.data = rows, .dtype = t, .n = N, .k = K};
    cr_assert_eq(k->weight_size(d, &src, 1, 0, &size), TI_OK);
    void *mem = k->alloc(d, size);
    ti_weight prepared;
    cr_assert_eq(k->weight_prepare(d, &src, 1, 0, mem, &prepared), TI_OK);
    for (int m = 1; m <= M; m++) {
      cr_assert_eq(k->gemm(d, &(ti_gemm_args){.out = out, .x = x, .w = &prepared, .m = m, .out_dtype = TI_F32}), TI_OK);
      for (int j = 0; j < m * N; j++)
        cr_assert_float_eq((double)out[j], j / N % 2 ? -want : want, 1e-5 * fabs(want) + 1e-6, "%s, %s of bytes %d, %d rows: %g, not %g", k->name,
                           ti_dtype_name(t), fills[i / 8 % 4], m, (double)out[j], want);
    }
    k->free(d, mem);
    k->close(d);
  }
}

Test(cpu_weight, a_nan_weight_gives_nan_with_one_row_and_with_many) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = open_dev(k);
  enum { N = 20, K = 130, M = 40 };
  void *a = bytes_of(TI_E4M3, N * K, 1, true);
  const ti_weight_src src = {.data = a, .dtype = TI_E4M3, .n = N, .k = K};
  size_t size;
  cr_assert_eq(k->weight_size(d, &src, 1, 0, &size), TI_OK);
  void *mem = k->alloc(d, size);
  ti_weight w;
  cr_assert_eq(k->weight_prepare(d, &src, 1, 0, mem, &w), TI_OK);
  float x[M * K], out[M * N];
  for (int i = 0; i < M * K; i++) x[i] = 1.0f;
  for (int m = 1; m <= M; m += M - 1) {
    cr_assert_eq(k->gemm(d, &(ti_gemm_args){.out = out, .x = x, .w = &w, .m = m, .out_dtype = TI_F32}), TI_OK);
    for (int n = 0; n < N; n++) cr_assert_eq(isnan(out[(m - 1) * N + n]), n == N / 2, "m %d, output %d: %g", m, n, (double)out[(m - 1) * N + n]);
  }
  k->free(d, mem);
  free(a);
  k->close(d);
}

Test(cpu_weight, bad_sources_are_refused) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d = open_dev(k);
  size_t size = 77;
  float x[16] = {0};
  const ti_weight_src good = {.data = x, .dtype = TI_F32, .n = 4, .k = 4};
  ti_weight_src two[2] = {good, good};
  cr_assert_eq(k->weight_size(d, &good, 0, 0, &size), TI_ERR_ARG);
  cr_assert_eq(k->weight_size(d, &good, TI_WEIGHT_PARTS + 1, 0, &size), TI_ERR_ARG);
  cr_assert_eq(k->weight_size(d, two, 2, TI_WEIGHT_TRANSPOSE, &size), TI_ERR_ARG);
  two[1].k = 3;
  cr_assert_eq(k->weight_size(d, two, 2, 0, &size), TI_ERR_ARG);
  two[1] = good;
  two[1].dtype = TI_BF16;
  cr_assert_eq(k->weight_size(d, two, 2, 0, &size), TI_ERR_UNSUPPORTED);
  two[1] = good;
  two[1].ld = 3;
  cr_assert_eq(k->weight_size(d, two, 2, 0, &size), TI_ERR_ARG);
  two[1] = good;
  two[1].n = INT64_MAX / 8;
  cr_assert_eq(k->weight_size(d, two, 2, 0, &size), TI_ERR_RANGE);
  two[1] = good;
  two[1].dtype = TI_I64;
  cr_assert_eq(k->weight_size(d, two + 1, 1, 0, &size), TI_ERR_UNSUPPORTED);
  cr_assert_eq(size, 77, "an out parameter is set on success only");
  k->close(d);
}

Test(cpu_weight, backends_by_name) {
  cr_assert_null(ti_kernels_find("cpu-neon"));
  cr_assert_null(ti_kernels_find(""));
  cr_assert_str_eq(ti_kernels_find("ref")->name, "ref");
  cr_assert_eq(ti_kernels_find("cpu"), ti_kernels_cpu());
  static const char *const names[] = {"cpu-avx2", "cpu-avx512", "cpu-vnni"};
  for (int i = 0; i < 3; i++) {
    const ti_kernels *k = ti_kernels_find(names[i]);
    if (k) cr_assert_str_eq(k->name, names[i]);
  }
}

// Long products are handed out in chunks, few panels are split by rows: the bits stay those of one thread.
Test(cpu_weight, long_products_have_the_same_bits_on_any_team) {
  static const int shapes[][2] = {{1000, 512}, {40, 2048}};  // outputs, rows
  const ti_kernels *k = ti_kernels_cpu();
  enum { K = 300 };
  for (int i = 0; i < 4; i++) {
    const int n = shapes[i % 2][0], m = shapes[i % 2][1];
    const ti_dtype t = i < 2 ? TI_BF16 : TI_E4M3;
    void *a = bytes_of(t, (size_t)n * K, 1, false), *xs = bytes_of(TI_F32, (size_t)m * K, 2, false);
    float *out[2];
    for (int j = 0; j < 2; j++) {
      ti_dev *d = NULL;
      cr_assert_eq(k->open(&(ti_dev_options){.threads = j ? 3 : 1}, &d, NULL), TI_OK);
      const ti_weight_src src = {.data = a, .dtype = t, .n = n, .k = K};
      size_t size;
      ti_weight w;
      cr_assert_eq(k->weight_size(d, &src, 1, 0, &size), TI_OK);
      void *mem = k->alloc(d, size);
      cr_assert_eq(k->weight_prepare(d, &src, 1, 0, mem, &w), TI_OK);
      out[j] = calloc((size_t)m * (size_t)n, sizeof **out);
      cr_assert_eq(k->gemm(d, &(ti_gemm_args){.out = out[j], .x = xs, .w = &w, .m = m, .out_dtype = TI_F32}), TI_OK);
      k->free(d, mem);
      k->close(d);
    }
    cr_assert_eq(memcmp(out[0], out[1], (size_t)m * (size_t)n * sizeof **out), 0, "%s, %d outputs, %d rows", ti_dtype_name(t), n, m);
    for (int j = 0; j < n; j++) cr_assert_neq(out[0][(size_t)(m - 1) * (size_t)n + (size_t)j], 0.0f, "output %d was not computed", j);
    free(out[0]);
    free(out[1]);
    free(a);
    free(xs);
  }
}
