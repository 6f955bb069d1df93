// Matrix products of every backend: against fp64 on odd shapes and every stored type; bits of a row whatever rows stand beside it; quantised
// activations against the exact product of the quantised numbers and inside the bound that quantisation allows.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "weights.h"

static const int ns[] = {1, 3, 17, 33, 65, 129}, ks[] = {1, 31, 32, 100, 128, 576}, ms[] = {1, 2, 3, 4, 5, 7, 8, 16, 33};
enum { N_NS = 6, N_KS = 6, N_MS = 9, BIG_M = 130 };
static const ti_dtype dtypes[] = {TI_F32, TI_F16, TI_BF16, TI_E4M3, TI_Q4_0, TI_Q4_1, TI_Q5_0, TI_Q5_1, TI_Q8_0, TI_Q4_K, TI_Q5_K, TI_Q6_K};
enum { N_DTYPE = sizeof dtypes / sizeof *dtypes };

// want[m, n] and magnitude (sum |x w| times the growth) of x [m, k] and w [n, k].
static void product(const double *x, const double *w, int m, int64_t n, int64_t k, double *want, double *magnitude) {
  for (int r = 0; r < m; r++) {
    for (int64_t c = 0; c < n; c++) {
      double sum = 0.0, abs = 0.0;
      for (int64_t i = 0; i < k; i++) {
        const double p = x[r * k + i] * w[c * k + i];
        sum += p;
        abs += fabs(p);
      }
      want[r * n + c] = sum;
      magnitude[r * n + c] = abs * cf_gemm_growth(k);
    }
  }
}

static double *widen(cf_dev *d, const float *x, size_t n) {
  double *y = cf_host(d, n * sizeof *y);
  for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
  return y;
}

// out fp32 [m, n], downloaded.
static float *run(cf_dev *d, const ti_weight *w, const void *x, int m) {
  void *out = cf_out_f32(d, (size_t)(m * w->n));
  const ti_gemm_args a = {.out = out, .x = x, .w = w, .m = m, .out_dtype = TI_F32};
  cf_ok(d, "gemm", d->k->gemm(d->d, &a));
  return cf_down_f32(d, out, (size_t)(m * w->n));
}

static void one_shape(cf_dev *d, ti_dtype t, int64_t n, int64_t k) {
  const ti_weight_src src = cf_weight_src(d, t, n, k, t == TI_E4M3 ? 100 : 0, t == TI_E4M3 && k > 31 ? 32 : 0, (uint64_t)(n * 1000 + k));
  ti_weight w;
  if (!cf_weight(d, &src, 1, 0, &w)) return;
  char what[96];
  snprintf(what, sizeof what, "gemm %s n %d k %d", ti_dtype_name(t), (int)n, (int)k);
  cr_assert(w.n == n && w.k == k, "%s: %s: the prepared weight is [%d, %d]", d->k->name, what, (int)w.n, (int)w.k);
  const float *x = cf_floats(d, (size_t)(BIG_M * k), (uint64_t)(7 + n + k), 1.0f);
  double *want = cf_host(d, (size_t)(BIG_M * n) * sizeof *want), *mag = cf_host(d, (size_t)(BIG_M * n) * sizeof *mag);
  product(widen(d, x, (size_t)(BIG_M * k)), cf_weight_values(d, &src), BIG_M, n, k, want, mag);
  if (t == TI_F32 || t == TI_F16) cf_allow_bf16(d, mag, (size_t)(BIG_M * n), k);
  void *dx = cf_up_act(d, x, (size_t)(BIG_M * k));
  const float *big = run(d, &w, dx, BIG_M);
  cf_close_to(d, what, CF_GEMM, big, want, mag, (size_t)(BIG_M * n));
  for (int i = 0; i < N_MS; i++) cf_same_bits(d, what, run(d, &w, dx, ms[i]), big, (size_t)(ms[i] * n) * sizeof(float));
}

static void all_shapes(ti_dtype t) {
  const int block = ti_dtype_block(t);
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < N_NS; i++) {
      for (int j = 0; j < N_KS; j++) {
        if ((block == 32 && ks[j] % 32 != 0) || (block == 256 && j >= 3)) continue;
        one_shape(d, t, ns[i], block == 256 ? 256 * (j % 3 + 1) : ks[j]);
        cf_reset(d);
      }
    }
    cf_close(d);
  }
}

Test(gemm, fp32_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_F32); }
Test(gemm, f16_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_F16); }
Test(gemm, bf16_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_BF16); }
Test(gemm, e4m3_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_E4M3); }
Test(gemm, q4_0_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q4_0); }
Test(gemm, q4_1_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q4_1); }
Test(gemm, q5_0_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q5_0); }
Test(gemm, q5_1_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q5_1); }
Test(gemm, q8_0_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q8_0); }
Test(gemm, q4_k_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q4_K); }
Test(gemm, q5_k_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q5_K); }
Test(gemm, q6_k_weights_match_fp64_and_rows_stand_alone) { all_shapes(TI_Q6_K); }

Test(gemm, threads_do_not_change_the_bits) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    for (int t = 0, a = 0; t < N_DTYPE; t += a, a = !a) {  // a: int8 activations
      const float *out[2];
      cf_dev *d[2];
      for (int i = 0; i < 2; i++) {
        d[i] = cf_open(k, a ? TI_ACT_INT8 : TI_ACT_NONE, i ? 3 : 1);
        const ti_weight_src src = cf_weight_src(d[i], dtypes[t], 129, 768, 0, 0, 5);
        ti_weight w;
        out[i] = cf_weight(d[i], &src, 1, 0, &w) ? run(d[i], &w, cf_up_act(d[i], cf_floats(d[i], BIG_M * 768, 6, 1.0f), BIG_M * 768), BIG_M) : NULL;
      }
      if (out[0]) cf_same_bits(d[1], "gemm with 3 threads", out[1], out[0], BIG_M * 129 * sizeof(float));
      cf_close(d[0]);
      cf_close(d[1]);
    }
  }
}

// bias, accumulate and row strides, together; columns between n and ldo stay as they were.
Test(gemm, bias_accumulate_and_strides) {
  enum { M = 5, N = 33, K = 100, LDX = 107, LDO = 40 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    const ti_weight_src src = cf_weight_src(d, TI_BF16, N, K, 0, 0, 1);
    ti_weight w;
    if (cf_weight(d, &src, 1, 0, &w)) {
      const float *x = cf_floats(d, M * LDX, 2, 1.0f), *bias = cf_floats(d, N, 3, 1.0f), *old = cf_floats(d, M * LDO, 4, 1.0f);
      double *want = cf_host(d, M * N * sizeof *want), *mag = cf_host(d, M * N * sizeof *mag), *packed = cf_host(d, M * K * sizeof *packed);
      for (int r = 0; r < M; r++) {
        for (int c = 0; c < K; c++) packed[r * K + c] = (double)x[r * LDX + c];
      }
      product(packed, cf_weight_values(d, &src), M, N, K, want, mag);
      void *out = cf_up(d, old, M * LDO * sizeof *old);
      const ti_gemm_args a = {.out = out,
                              .x = cf_up_act(d, x, M * LDX),
                              .w = &w,
                              .bias = cf_up(d, bias, N * sizeof *bias),
                              .m = M,
                              .ldx = LDX,
                              .ldo = LDO,
                              .out_dtype = TI_F32,
                              .accumulate = true};
      cf_ok(d, "gemm", k->gemm(d->d, &a));
      const float *got = cf_down_f32(d, out, M * LDO);
      for (int r = 0; r < M; r++) {
        for (int c = 0; c < N; c++) {
          want[r * N + c] += (double)bias[c] + (double)old[r * LDO + c];
          mag[r * N + c] += 8.0 * (fabs((double)bias[c]) + fabs((double)old[r * LDO + c]));
        }
        cf_close_to(d, "gemm with bias and accumulate", CF_GEMM, got + r * LDO, want + r * N, mag + r * N, N);
        cf_same_bits(d, "gemm beyond its columns", got + r * LDO + N, old + r * LDO + N, (LDO - N) * sizeof(float));
      }
    }
    cf_close(d);
  }
}

// Rows of q, k and v in one weight, or one stored matrix after another: the same numbers.
Test(gemm, stacked_parts_equal_the_parts) {
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_E4M3, TI_Q4_0, TI_Q4_K, TI_Q6_K};
  enum { M = 4, K = 256 };
  static const int n[3] = {64, 17, 129};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int t = 0; t < 6; t++, cf_reset(d)) {
      ti_weight_src src[3];
      for (int i = 0; i < 3; i++) src[i] = cf_weight_src(d, types[t], n[i], K, i * 40, 0, (uint64_t)(10 + i));
      ti_weight all, one;
      if (!cf_weight(d, src, 3, 0, &all)) continue;
      cr_assert_eq(all.n, 64 + 17 + 129);
      void *x = cf_up_act(d, cf_floats(d, M * K, 9, 1.0f), M * K);
      const float *got = run(d, &all, x, M);
      for (int i = 0, at = 0; i < 3; at += n[i], i++) {
        cr_assert(cf_weight(d, &src[i], 1, 0, &one));
        const float *want = run(d, &one, x, M);
        for (int r = 0; r < M; r++) {
          for (int c = 0; c < n[i]; c++) {
            const float g = got[r * all.n + at + c], e = want[r * n[i] + c];
            cr_assert(fabsf(g - e) <= 1e-5f * (1.0f + fabsf(e)), "%s: %s part %d [%d, %d]: %g, want %g", k->name, ti_dtype_name(types[t]), i, r, c,
                      (double)g, (double)e);
          }
        }
      }
    }
    cf_close(d);
  }
}

// A source used as [k, n], and rows that are a window of a wider matrix.
Test(gemm, transposed_and_strided_sources) {
  enum { M = 3, N = 70, K = 128 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int t = 0; t < 4; t++, cf_reset(d)) {  // F32, F16, BF16, E4M3
      const ti_weight_src wide = cf_weight_src(d, dtypes[t], N, 2 * K, 0, 0, 21);
      ti_weight_src src = wide;
      src.k = K;
      src.ld = 2 * K;
      const double *values = cf_weight_values(d, &src);
      double *turned = cf_host(d, N * K * sizeof *turned), *want = cf_host(d, M * K * sizeof *want), *mag = cf_host(d, M * K * sizeof *mag);
      for (int r = 0; r < N; r++) {
        for (int c = 0; c < K; c++) turned[c * N + r] = values[r * K + c];
      }
      ti_weight w;
      if (!cf_weight(d, &src, 1, 0, &w)) continue;
      const float *x = cf_floats(d, M * K, 22, 1.0f);
      product(widen(d, x, M * K), values, M, N, K, want, mag);
      if (t < 2) cf_allow_bf16(d, mag, M * N, K);
      cf_close_to(d, "gemm of a strided source", CF_GEMM, run(d, &w, cf_up_act(d, x, M * K), M), want, mag, M * N);
      if (!cf_weight(d, &src, 1, TI_WEIGHT_TRANSPOSE, &w)) continue;
      cr_assert(w.n == K && w.k == N, "%s: transposed [%d, %d]", k->name, (int)w.n, (int)w.k);
      product(widen(d, x, M * N), turned, M, K, N, want, mag);
      cf_allow_bf16(d, mag, M * K, N);
      cf_close_to(d, "gemm of a transposed source", CF_GEMM, run(d, &w, cf_up_act(d, x, M * N), M), want, mag, M * K);
    }
    cf_close(d);
  }
}

Test(gemm, heads_are_separate_products_with_their_strides) {
  enum { M = 5, H = 3, N = 65, K = 96, HDX = 100, LDX = 320, HDO = 70, LDO = 220 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm_heads)
    cf_dev *d = cf_open(k, TI_ACT_FP8, 1);  // which gemm_heads ignores
    ti_weight w[H];
    ti_weight_src src[H];
    bool have = true;
    for (int h = 0; h < H; h++) {
      src[h] = cf_weight_src(d, TI_BF16, N, K, 0, 0, (uint64_t)(30 + h));
      have = have && cf_weight(d, &src[h], 1, 0, &w[h]);
    }
    if (have) {
      const float *x = cf_floats(d, M * LDX, 33, 1.0f);
      const void *dx = cf_up_act(d, x, M * LDX);
      void *out = cf_out_act(d, M * LDO), *alone = cf_out_act(d, LDO);
      ti_gemm_heads_args a = {.out = out, .x = dx, .w = w, .m = M, .n_head = H, .ldx = LDX, .hdx = HDX, .ldo = LDO, .hdo = HDO};
      cf_ok(d, "gemm_heads", k->gemm_heads(d->d, &a));
      const float *got = cf_down_act(d, out, M * LDO);
      a.out = alone;
      a.m = 1;
      cf_ok(d, "gemm_heads", k->gemm_heads(d->d, &a));
      const float *first = cf_down_act(d, alone, LDO);
      double xr[K], want[N], mag[N];
      for (int h = 0; h < H; h++) {
        const double *values = cf_weight_values(d, &src[h]);
        for (int r = 0; r < M; r++) {
          for (int c = 0; c < K; c++) xr[c] = (double)x[r * LDX + h * HDX + c];
          product(xr, values, 1, N, K, want, mag);
          cf_close_to(d, "gemm_heads", CF_GEMM, got + r * LDO + h * HDO, want, mag, N);
        }
        cf_same_bits(d, "gemm_heads of one row", first + h * HDO, got + h * HDO, N * sizeof(float));
      }
    }
    cf_close(d);
  }
}

// ---- quantised activations ----

// x as quant_fp8 leaves it, in fp64.
static double *fp8_values(cf_dev *d, const float *x, int m, int k) {
  double *y = cf_host(d, (size_t)(m * k) * sizeof *y);
  for (int r = 0; r < m; r++) {
    for (int c = 0; c < k; c += 128) {
      const int n = k - c < 128 ? k - c : 128;
      float amax = 1e-4f;
      for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[r * k + c + i]));
      const float s = amax / 448.0f;
      for (int i = 0; i < n; i++) y[r * k + c + i] = (double)ti_e4m3_to_f32(ti_f32_to_e4m3(x[r * k + c + i] / s)) * (double)s;
    }
  }
  return y;
}

Test(gemm, fp8_activations_match_the_product_of_what_was_quantised) {
  static const int shapes[][4] = {{65, 128, 0, 0},  {129, 576, 100, 0}, {33, 320, 5, 64},  {17, 100, 0, 0},  {1, 1024, 0, 0},
                                  {576, 512, 0, 0}, {264, 1040, 0, 0},  {192, 2048, 0, 0}, {128, 4096, 0, 0}};  // n, k, row0, col0
  enum { M = 33 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_FP8, 1);
    for (int s = 0; s < 9; s++, cf_reset(d)) {
      const int n = shapes[s][0], kk = shapes[s][1];
      const ti_weight_src src = cf_weight_src(d, TI_E4M3, n, kk, shapes[s][2], shapes[s][3], (uint64_t)(40 + s));
      ti_weight w;
      if (!cf_weight(d, &src, 1, 0, &w)) continue;
      const float *x = cf_floats(d, (size_t)(M * kk), 41, 1.0f);
      double *want = cf_host(d, (size_t)(M * n) * sizeof *want), *mag = cf_host(d, (size_t)(M * n) * sizeof *mag);
      const double *values = cf_weight_values(d, &src);
      product(fp8_values(d, x, M, kk), values, M, n, kk, want, mag);
      cf_allow_fp8_sums(d, mag, (size_t)(M * n), kk);
      void *dx = cf_up_act(d, x, (size_t)(M * kk));
      const float *big = run(d, &w, dx, M);
      cf_close_to(d, "gemm with fp8 activations", CF_GEMM, big, want, mag, (size_t)(M * n));
      for (int i = 0; i < N_MS; i++) cf_same_bits(d, "gemm with fp8 activations", run(d, &w, dx, ms[i]), big, (size_t)(ms[i] * n) * sizeof(float));
      if (k->quant_fp8) {  // quantised beforehand: the same bits
        uint8_t *q = cf_up(d, cf_host(d, (size_t)(M * kk)), (size_t)(M * kk));
        float *scale = cf_out_f32(d, cf_scales(d, M, kk));
        const ti_quant_fp8_args qa = {.q = q, .scale = scale, .x = dx, .n_row = M, .k = kk};
        cf_ok(d, "quant_fp8", k->quant_fp8(d->d, &qa));
        void *out = cf_out_f32(d, (size_t)(M * n));
        const ti_gemm_args a = {.out = out, .x = q, .x_scale = scale, .w = &w, .m = M, .out_dtype = TI_F32};
        cf_ok(d, "gemm", k->gemm(d->d, &a));
        cf_same_bits(d, "gemm of what quant_fp8 gave", cf_down_f32(d, out, (size_t)(M * n)), big, (size_t)(M * n) * sizeof(float));
      }
      if (!cf_weight(d, &src, 1, TI_WEIGHT_EXACT, &w)) continue;
      product(widen(d, x, (size_t)(M * kk)), values, M, n, kk, want, mag);
      cf_close_to(d, "gemm of an EXACT weight", CF_GEMM, run(d, &w, dx, M), want, mag, (size_t)(M * n));
    }
    cf_close(d);
  }
}

// Shapes of small models, every form of few and many rows: a row's bits depend on that row alone, in fp32 and in act.
static void rows_once(cf_dev *d, ti_dtype t, int n, int k) {
  static const int rows[] = {1, 7, 16, 17, 32, 64, 65, 127, 129};
  enum { ALL = CF_MAX_ROW };
  const ti_weight_src src = cf_weight_src(d, t, n, k, 0, 0, (uint64_t)(n + k));
  ti_weight w;
  if (!cf_weight(d, &src, 1, 0, &w)) return;
  void *x = cf_up_act(d, cf_floats(d, (size_t)ALL * (size_t)k, 35, 1.0f), (size_t)ALL * (size_t)k);
  for (int f = 0; f < 2; f++) {
    const float *want = NULL;
    for (int i = 9; i >= 0; i--) {
      const int m = i == 9 ? ALL : rows[i];
      const size_t mn = (size_t)m * (size_t)n;
      void *out = f ? cf_out_f32(d, mn) : cf_out_act(d, mn);
      const ti_gemm_args a = {.out = out, .x = x, .w = &w, .m = m, .out_dtype = f ? TI_F32 : d->k->act};
      cf_ok(d, "gemm", d->k->gemm(d->d, &a));
      const float *got = f ? cf_down_f32(d, out, mn) : cf_down_act(d, out, mn);
      char what[96];
      snprintf(what, sizeof what, "gemm %s n %d k %d of %d rows", ti_dtype_name(t), n, k, m);
      if (want) cf_same_bits(d, what, got, want, mn * sizeof *got);
      if (!want) want = got;
    }
  }
}

Test(gemm, rows_stand_alone_in_models_shapes) {
  static const int shapes[][2] = {{512, 256}, {256, 768}, {4096, 256}, {1024, 1024}, {256, 4096}, {2048, 2048}};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_FP8, 3);
    for (int s = 0; s < (k->async ? 6 : 3); s++) {  // the larger ones take seconds on a CPU
      rows_once(d, TI_BF16, shapes[s][0], shapes[s][1]);
      rows_once(d, TI_E4M3, shapes[s][0], shapes[s][1]);
      cf_reset(d);
    }
    cf_close(d);
  }
}

// Kernels that a device picks by the number of rows when it need not be deterministic: into fp32 with bias and accumulate, and plainly into act.
static void free_once(cf_dev *d, ti_dtype t, ti_act_quant q, int n, int k, int m) {
  const ti_weight_src src = cf_weight_src(d, t, n, k, 0, 0, (uint64_t)(n + k));
  ti_weight w;
  if (!cf_weight(d, &src, 1, 0, &w)) return;
  const size_t mn = (size_t)(m * n);
  const float *x = cf_floats(d, (size_t)(m * k), 31, 1.0f), *bias = cf_floats(d, (size_t)n, 32, 1.0f), *old = cf_floats(d, mn, 33, 1.0f);
  double *want = cf_host(d, mn * sizeof *want), *mag = cf_host(d, mn * sizeof *mag);
  const bool codes = q == TI_ACT_FP8 && t == TI_E4M3;
  product(codes ? fp8_values(d, x, m, k) : widen(d, x, (size_t)(m * k)), cf_weight_values(d, &src), m, n, k, want, mag);
  if (codes) cf_allow_fp8_sums(d, mag, mn, k);
  const void *dx = cf_up_act(d, x, (size_t)(m * k));
  void *out = cf_out_act(d, mn);
  ti_gemm_args a = {.out = out, .x = dx, .w = &w, .m = m, .out_dtype = d->k->act};
  char what[96];
  snprintf(what, sizeof what, "gemm %s m %d n %d k %d, any kernel", ti_dtype_name(t), m, n, k);
  cf_ok(d, what, d->k->gemm(d->d, &a));
  cf_close_to(d, what, CF_GEMM, cf_down_act(d, out, mn), want, mag, mn);
  a.out = cf_up(d, old, mn * sizeof *old);
  a.out_dtype = TI_F32;
  a.accumulate = true;
  a.bias = cf_up(d, bias, (size_t)n * sizeof *bias);
  cf_ok(d, what, d->k->gemm(d->d, &a));
  for (size_t i = 0; i < mn; i++) {
    want[i] += (double)bias[i % (size_t)n] + (double)old[i];
    mag[i] += 8.0 * (fabs((double)bias[i % (size_t)n]) + fabs((double)old[i]));
  }
  cf_close_to(d, what, CF_GEMM, cf_down_f32(d, a.out, mn), want, mag, mn);
}

Test(gemm, kernels_chosen_by_the_number_of_rows_match_fp64) {
  static const int rows[] = {1, 3, 16, 64, 65, 127, 129, 160}, shapes[][2] = {{128, 128}, {256, 512}, {200, 400}, {72, 1040}, {136, 264}, {64, 4096}};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open_as(k, TI_ACT_FP8, 3, false);
    for (int s = 0; s < 6; s++) {
      for (int i = 0; i < 8; i++, cf_reset(d)) {
        free_once(d, TI_BF16, TI_ACT_FP8, shapes[s][0], shapes[s][1], rows[i]);
        free_once(d, TI_E4M3, TI_ACT_FP8, shapes[s][0], shapes[s][1], rows[i]);
      }
    }
    cf_close(d);
  }
}

// |out - exact| <= sum over blocks of d / 2 * sum |w|: each code is off by half a step at most (docs/numerics.md), and fp32 rounding on top.
Test(gemm, int8_activations_stay_inside_their_bound) {
  enum { M = 33, N = 65, K = 512 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    cf_dev *d = cf_open(k, TI_ACT_INT8, 1);
    for (int t = 4; t < N_DTYPE; t++, cf_reset(d)) {
      const ti_weight_src src = cf_weight_src(d, dtypes[t], N, K, 0, 0, (uint64_t)(50 + t));
      ti_weight w;
      if (!cf_weight(d, &src, 1, 0, &w)) continue;
      const float *x = cf_floats(d, M * K, 51, 1.0f);
      double *want = cf_host(d, M * N * sizeof *want), *mag = cf_host(d, M * N * sizeof *mag);
      const double *values = cf_weight_values(d, &src);
      product(widen(d, x, M * K), values, M, N, K, want, mag);
      void *dx = cf_up_act(d, x, M * K);
      const float *got = run(d, &w, dx, M);
      for (int r = 0; r < M; r++) {
        for (int c = 0; c < N; c++) {
          double bound = mag[r * N + c] * 0x1p-22;
          for (int b = 0; b < K; b += 32) {
            double amax = 0.0, sum = 0.0;
            for (int i = b; i < b + 32; i++) {
              amax = fmax(amax, fabs((double)x[r * K + i]));
              sum += fabs(values[c * K + i]);
            }
            bound += amax / 127.0 * 0.5001 * sum;
          }
          const double err = fabs((double)got[r * N + c] - want[r * N + c]);
          cr_assert(err <= bound, "%s: int8 activations with %s: [%d, %d] is off by %g, bound %g", k->name, ti_dtype_name(dtypes[t]), r, c, err,
                    bound);
        }
      }
      for (int i = 0; i < N_MS; i++) cf_same_bits(d, "gemm with int8 activations", run(d, &w, dx, ms[i]), got, (size_t)(ms[i] * N) * sizeof(float));
      if (!cf_weight(d, &src, 1, TI_WEIGHT_EXACT, &w)) continue;
      cf_close_to(d, "gemm of an EXACT weight", CF_GEMM, run(d, &w, dx, M), want, mag, M * N);
    }
    cf_close(d);
  }
}

// Parts of several block types in one weight (as in Q4_K_M files) equal the parts, with and without int8 activations; K beyond what a backend
// quantises at a time, many rows, bias and accumulate.
Test(gemm, mixed_block_parts_equal_the_parts) {
  static const ti_dtype types[3] = {TI_Q4_K, TI_Q6_K, TI_Q8_0};
  enum { M = 70, K = 2304 };
  static const int n[3] = {20, 33, 7};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    for (int a = 0; a < 2; a++) {
      cf_dev *d = cf_open(k, a ? TI_ACT_INT8 : TI_ACT_NONE, 3);
      ti_weight_src src[3];
      for (int i = 0; i < 3; i++) src[i] = cf_weight_src(d, types[i], n[i], K, 0, 0, (uint64_t)(60 + i));
      ti_weight all, one;
      if (cf_weight(d, src, 3, 0, &all)) {
        cr_assert_eq(all.n, 60);
        const float *x = cf_floats(d, M * K, 9, 1.0f), *bias = cf_floats(d, 60, 3, 1.0f), *old = cf_floats(d, M * 60, 4, 1.0f);
        void *dx = cf_up_act(d, x, M * K);
        ti_gemm_args g = {.out = cf_up(d, old, M * 60 * sizeof *old),
                          .x = dx,
                          .w = &all,
                          .bias = cf_up(d, bias, 60 * sizeof *bias),
                          .m = M,
                          .out_dtype = TI_F32,
                          .accumulate = true};
        cf_ok(d, "gemm", k->gemm(d->d, &g));
        const float *got = cf_down_f32(d, g.out, M * 60);
        g.out = cf_up(d, old, 60 * sizeof *old);
        g.m = 1;
        cf_ok(d, "gemm", k->gemm(d->d, &g));
        cf_same_bits(d, "gemm of mixed parts, one row", cf_down_f32(d, g.out, 60), got, 60 * sizeof(float));
        for (int i = 0, at = 0; i < 3; at += n[i], i++) {
          cr_assert(cf_weight(d, &src[i], 1, 0, &one));
          const float *want = run(d, &one, dx, M);
          for (int r = 0; r < M; r++) {
            for (int c = 0; c < n[i]; c++) {
              const float v = got[r * 60 + at + c], e = want[r * n[i] + c] + bias[at + c] + old[r * 60 + at + c];
              cr_assert(fabsf(v - e) <= 1e-4f * (1.0f + fabsf(e)), "%s: %s part [%d, %d]: %g, want %g", k->name, ti_dtype_name(types[i]), r, c,
                        (double)v, (double)e);
            }
          }
        }
      }
      cf_close(d);
    }
  }
}

Test(gemm, parts_that_do_not_fit_are_refused) {
  CF_EACH_BACKEND(k) {
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    ti_weight_src src[2] = {cf_weight_src(d, TI_F32, 4, 64, 0, 0, 1), cf_weight_src(d, TI_BF16, 4, 64, 0, 0, 1)};
    size_t bytes = 77;
    cr_assert(k->weight_size(d->d, src, 2, 0, &bytes) == TI_ERR_UNSUPPORTED, "%s: two dtypes in one weight", k->name);
    cr_assert_eq(bytes, 77);
    src[0].dtype = TI_I64;
    cr_assert(k->weight_size(d->d, src, 1, 0, &bytes) == TI_ERR_UNSUPPORTED, "%s: I64 weights", k->name);
    cf_close(d);
  }
}
