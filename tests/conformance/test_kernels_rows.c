// Row-wise ops of every backend against fp64: embedding, RMSNorm, RoPE, SwiGLU's product, addition, fp8 quantisation. Each row also alone: same bits.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "weights.h"

static const int dims[] = {1, 3, 17, 33, 65, 128, 129, 576};
enum { N_DIM = sizeof dims / sizeof *dims, M = 33 };

Test(backends, say_which_are_missing_here) {
  static const char *const names[] = {"cpu-avx2", "cpu-avx512", "cpu-vnni", "cuda"};
  cr_assert(ti_kernels_find("ref") == ti_kernels_ref());
  cr_assert(ti_kernels_find("nonsense") == NULL);
  cr_assert(ti_kernels_cpu() != NULL);
  for (int i = 0; i < 4; i++) {
    if (!ti_kernels_find(names[i])) printf("backend %s: not in this build or not on this processor, skipped\n", names[i]);
  }
}

Test(embed, rows_of_the_table_and_zeros_outside_the_shard) {
  static const ti_dtype types[] = {TI_F32, TI_BF16, TI_F16, TI_E4M3, TI_Q8_0, TI_Q6_K};
  enum { HIDDEN = 256, FIRST = 100, N = 50 };
  static const int32_t ids[] = {100, 149, 99, 150, 0, 123, -1, 100};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, embed)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int t = 0; t < 6; t++, cf_reset(d)) {
      const ti_weight_src src = cf_weight_src(d, types[t], N, HIDDEN, 0, 0, 3);
      ti_weight table;
      if (!cf_weight(d, &src, 1, TI_WEIGHT_EXACT, &table)) continue;
      const double *values = cf_weight_values(d, &src);
      void *out = cf_out_act(d, 8 * HIDDEN);
      const ti_embed_args a = {
          .out = out, .ids = cf_up(d, ids, sizeof ids), .table = &table, .n_row = 8, .hidden = HIDDEN, .first_id = FIRST, .n_id = N};
      cf_ok(d, "embed", k->embed(d->d, &a));
      const float *got = cf_down_act(d, out, 8 * HIDDEN);
      for (int r = 0; r < 8; r++) {
        const bool in = ids[r] >= FIRST && ids[r] < FIRST + N;
        const double zero[HIDDEN] = {0};
        cf_close_to(d, "embed", CF_LOGIT, got + r * HIDDEN, in ? values + (ids[r] - FIRST) * HIDDEN : zero, NULL, HIDDEN);
      }
    }
    cf_close(d);
  }
}

static void norm_once(cf_dev *d, int dim, bool residual) {
  const int ldx = dim + 5, ldo = dim + 3;
  const size_t n = (size_t)(M * dim);
  const float *x = cf_floats(d, (size_t)(M * ldx), 1, 1.0f), *res = cf_floats(d, n, 2, 1.0f), *weight = cf_floats(d, (size_t)dim, 3, 1.0f);
  void *out = cf_out_act(d, (size_t)(M * ldo)), *alone = cf_out_act(d, (size_t)dim), *dres = residual ? cf_up_act(d, res, n) : NULL;
  const float *dw = cf_up(d, weight, (size_t)dim * sizeof *weight);
  const void *dx = cf_up_act(d, x, (size_t)(M * ldx));
  ti_rmsnorm_args a = {.out = out, .x = dx, .residual = dres, .weight = dw, .n_row = M, .dim = dim, .ldx = ldx, .ldo = ldo, .eps = 1e-5f};
  cf_ok(d, "rmsnorm", d->k->rmsnorm(d->d, &a));
  const float *got = cf_down_act(d, out, (size_t)(M * ldo));
  double *want = cf_host(d, (size_t)dim * sizeof *want), *sum = cf_host(d, (size_t)dim * sizeof *sum);
  for (int r = 0; r < M; r++) {
    double sq = 0.0;
    for (int i = 0; i < dim; i++) {
      sum[i] = (double)(residual ? x[r * ldx + i] + res[r * dim + i] : x[r * ldx + i]);
      sq += sum[i] * sum[i];
    }
    for (int i = 0; i < dim; i++) want[i] = sum[i] / sqrt(sq / dim + 1e-5) * (double)weight[i];
    cf_close_to(d, "rmsnorm", CF_NORM, got + r * ldo, want, NULL, (size_t)dim);
    if (residual) cf_close_to(d, "rmsnorm's residual", CF_LOGIT, cf_down_act(d, dres, n) + r * dim, sum, NULL, (size_t)dim);
  }
  if (d->k->fp8_out) {  // codes beside the row, and alone: those of the row as rounded
    float *row = cf_host(d, n * sizeof *row);
    for (int r = 0; r < M; r++) memcpy(row + r * dim, got + r * ldo, (size_t)dim * sizeof *row);
    for (int with = 0; with < 2; with++) {
      ti_rmsnorm_args b = a;
      b.out = with ? cf_out_act(d, (size_t)(M * ldo)) : NULL;
      b.residual = residual ? cf_up_act(d, res, n) : NULL;
      b.q = cf_up(d, cf_host(d, n), n);
      b.q_scale = cf_out_f32(d, cf_scales(d, M, dim));
      cf_ok(d, "rmsnorm", d->k->rmsnorm(d->d, &b));
      cf_codes_of(d, "rmsnorm's codes", b.q, b.q_scale, row, M, dim);
      if (with) cf_same_bits(d, "rmsnorm beside its codes", cf_down_act(d, b.out, (size_t)dim), got, (size_t)dim * sizeof(float));
    }
  }
  const int last = M - 1;  // alone, from fresh memory
  a.out = alone;
  a.x = cf_up_act(d, x + last * ldx, (size_t)dim);
  a.residual = residual ? cf_up_act(d, res + last * dim, (size_t)dim) : NULL;
  a.n_row = 1;
  a.ldx = a.ldo = 0;
  cf_ok(d, "rmsnorm", d->k->rmsnorm(d->d, &a));
  cf_same_bits(d, "rmsnorm of one row", cf_down_act(d, alone, (size_t)dim), got + last * ldo, (size_t)dim * sizeof(float));
}

Test(rmsnorm, matches_fp64_with_and_without_residual) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, rmsnorm)
    for (int threads = 1; threads <= 3; threads += 2) {
      cf_dev *d = cf_open(k, TI_ACT_NONE, threads);
      for (int i = 0; i < N_DIM; i++, cf_reset(d)) {
        norm_once(d, dims[i], false);
        norm_once(d, dims[i], true);
      }
      cf_close(d);
    }
  }
}

Test(rmsnorm, may_write_over_its_input) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, rmsnorm)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    enum { DIM = 65 };
    const float *x = cf_floats(d, M * DIM, 1, 1.0f);
    const float *weight = cf_up(d, cf_floats(d, DIM, 3, 1.0f), DIM * sizeof(float));
    void *apart = cf_out_act(d, M * DIM), *dx = cf_up_act(d, x, M * DIM);
    ti_rmsnorm_args a = {.out = apart, .x = dx, .weight = weight, .n_row = M, .dim = DIM, .eps = 1e-5f};
    cf_ok(d, "rmsnorm", k->rmsnorm(d->d, &a));
    a.out = dx;
    cf_ok(d, "rmsnorm", k->rmsnorm(d->d, &a));
    cf_same_bits(d, "rmsnorm in place", cf_down_act(d, dx, M * DIM), cf_down_act(d, apart, M * DIM), M * DIM * sizeof(float));
    cf_close(d);
  }
}

static void rope_once(cf_dev *d, bool interleaved, int head_dim, int rope_dim, int offset) {
  enum { H = 3 };
  const int ld = H * head_dim + 7, half = rope_dim / 2;
  const float *x = cf_floats(d, (size_t)(M * ld), 4, 1.0f), factor = 1.1f;
  int32_t position[M];
  float *inv_freq = cf_host(d, (size_t)half * sizeof *inv_freq);
  for (int r = 0; r < M; r++) position[r] = r * r * 31;  // up to 31744
  for (int i = 0; i < half; i++) inv_freq[i] = powf(10000.0f, -(float)i / (float)half);
  void *dx = cf_up_act(d, x, (size_t)(M * ld));
  const ti_rope_args a = {.x = dx,
                          .position = cf_up(d, position, sizeof position),
                          .inv_freq = cf_up(d, inv_freq, (size_t)half * sizeof *inv_freq),
                          .n_row = M,
                          .n_head = H,
                          .head_dim = head_dim,
                          .rope_dim = rope_dim,
                          .offset = offset,
                          .ld = ld,
                          .attn_factor = factor,
                          .interleaved = interleaved};
  cf_ok(d, "rope", d->k->rope(d->d, &a));
  const float *got = cf_down_act(d, dx, (size_t)(M * ld));
  double *want = cf_host(d, (size_t)ld * sizeof *want), *mag = cf_host(d, (size_t)ld * sizeof *mag);
  for (int r = 0; r < M; r++) {
    for (int i = 0; i < ld; i++) {
      want[i] = (double)x[r * ld + i];
      mag[i] = 0.0;
    }
    for (int h = 0; h < H; h++) {
      for (int i = 0; i < half; i++) {
        const double angle = (double)position[r] * (double)inv_freq[i];  // backends may round it to fp32, as training code does, or not
        const int p = h * head_dim + offset + (interleaved ? 2 * i : i), q = interleaved ? p + 1 : p + half;
        const double u = want[p], v = want[q];
        want[p] = (u * cos(angle) - v * sin(angle)) * (double)factor;
        want[q] = (v * cos(angle) + u * sin(angle)) * (double)factor;
        mag[p] = mag[q] = (fabs(u) + fabs(v)) * (1.0 + angle * 0x1p-24 / cf_tolerances[CF_ROPE].rel);  // the angle's own rounding
      }
    }
    cf_close_to(d, interleaved ? "interleaved rope" : "half-split rope", CF_ROPE, got + r * ld, want, mag, (size_t)ld);
  }
}

Test(rope, rotates_pairs_and_leaves_the_rest_alone) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, rope)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < 2; i++, cf_reset(d)) {
      rope_once(d, i, 64, 64, 0);
      rope_once(d, i, 192, 64, 128);
      rope_once(d, i, 80, 34, 0);
      rope_once(d, i, 10, 2, 3);
    }
    cf_close(d);
  }
}

Test(silu_mul, matches_fp64) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, silu_mul)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < N_DIM; i++, cf_reset(d)) {
      const int dim = dims[i], ldx = 2 * dim + 3, ldo = dim + 1;
      const float *x = cf_floats(d, (size_t)(M * ldx), 5, 20.0f);  // far into both tails
      void *out = cf_out_act(d, (size_t)(M * ldo));
      const ti_silu_mul_args a = {.out = out, .gate_up = cf_up_act(d, x, (size_t)(M * ldx)), .n_row = M, .dim = dim, .ldx = ldx, .ldo = ldo};
      cf_ok(d, "silu_mul", k->silu_mul(d->d, &a));
      const float *got = cf_down_act(d, out, (size_t)(M * ldo));
      double *want = cf_host(d, (size_t)dim * sizeof *want);
      for (int r = 0; r < M; r++) {
        for (int c = 0; c < dim; c++) {
          const double g = (double)x[r * ldx + c];
          want[c] = g / (1.0 + exp(-g)) * (double)x[r * ldx + dim + c];
        }
        cf_close_to(d, "silu_mul", CF_SILU, got + r * ldo, want, NULL, (size_t)dim);
      }
    }
    cf_close(d);
  }
}

// Gates so large that exp overflows: x * sigmoid(x) is 0 or x, never NaN.
Test(silu_mul, survives_extreme_gates) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, silu_mul)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    static const float x[10] = {-1000, 1000, -88, -200, 0, 1, 1, 1, 1, 1};
    static const double want[5] = {0, 1000, 0, 0, 0};
    void *out = cf_out_act(d, 5);
    const ti_silu_mul_args a = {.out = out, .gate_up = cf_up_act(d, x, 10), .n_row = 1, .dim = 5};
    cf_ok(d, "silu_mul", k->silu_mul(d->d, &a));
    cf_close_to(d, "silu_mul", CF_SILU, cf_down_act(d, out, 5), want, NULL, 5);
    cf_close(d);
  }
}

Test(add, adds) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, add)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < N_DIM; i++, cf_reset(d)) {
      const size_t n = (size_t)dims[i];
      const float *x = cf_floats(d, n, 6, 1.0f), *y = cf_floats(d, n, 7, 1.0f);
      double *want = cf_host(d, n * sizeof *want);
      for (size_t c = 0; c < n; c++) want[c] = (double)(x[c] + y[c]);
      void *dx = cf_up_act(d, x, n);
      const ti_add_args a = {.x = dx, .y = cf_up_act(d, y, n), .n = n};
      cf_ok(d, "add", k->add(d->d, &a));
      cf_close_to(d, "add", CF_LOGIT, cf_down_act(d, dx, n), want, NULL, n);
    }
    cf_close(d);
  }
}

// Codes and scales to the bit: they are stored and travel between ranks.
Test(quant_fp8, codes_and_scales_are_exact) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, quant_fp8)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int i = 0; i < N_DIM; i++, cf_reset(d)) {
      const int dim = dims[i], ldx = dim + 2;
      float *x = cf_floats(d, (size_t)(M * ldx), 8, 3.0f);
      const float giant = d->bf16 ? 0x1p99f : 1e30f;
      for (int c = 0; c < dim; c++) x[ldx + c] = 0.0f;  // row 1: zeros
      x[2 * ldx] = giant;                               // row 2: one giant
      uint8_t *q = cf_up(d, cf_host(d, (size_t)(M * dim)), (size_t)(M * dim));
      float *scale = cf_out_f32(d, cf_scales(d, M, dim));
      const ti_quant_fp8_args a = {.q = q, .scale = scale, .x = cf_up_act(d, x, (size_t)(M * ldx)), .n_row = M, .k = dim, .ldx = ldx};
      cf_ok(d, "quant_fp8", k->quant_fp8(d->d, &a));
      float *rows = cf_host(d, (size_t)(M * dim) * sizeof *rows);
      for (int r = 0; r < M; r++) memcpy(rows + r * dim, x + r * ldx, (size_t)dim * sizeof *rows);
      cf_codes_of(d, "quant_fp8", q, scale, rows, M, dim);
    }
    cf_close(d);
  }
}
