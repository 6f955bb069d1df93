// Weights that are changed at load: quantised to e4m3 with 128x128 scales, gate and up as one matrix.
#include <criterion/criterion.h>
#include <math.h>

#include "base/half.h"
#include "weights.h"

static double *widen(cf_dev *d, const float *x, size_t n) {
  double *y = cf_host(d, n * sizeof *y);
  for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
  return y;
}

// What TI_WEIGHT_TO_FP8 makes of a source: blocks of 128 x 128 from its own first row.
static double *fp8_values(cf_dev *d, const ti_weight_src *s) {
  double *w = cf_weight_values(d, s);
  for (int64_t r0 = 0; r0 < s->n; r0 += 128) {
    for (int64_t c0 = 0; c0 < s->k; c0 += 128) {
      float amax = 1e-4f;
      for (int64_t r = r0; r < s->n && r < r0 + 128; r++) {
        for (int64_t c = c0; c < s->k && c < c0 + 128; c++) amax = fmaxf(amax, fabsf((float)w[r * s->k + c]));
      }
      const float scale = amax / 448.0f;
      for (int64_t r = r0; r < s->n && r < r0 + 128; r++) {
        for (int64_t c = c0; c < s->k && c < c0 + 128; c++)
          w[r * s->k + c] = (double)ti_e4m3_to_f32(ti_f32_to_e4m3((float)w[r * s->k + c] / scale)) * (double)scale;
      }
    }
  }
  return w;
}

static double *fp8_rows(cf_dev *d, const float *x, int m, int k) {
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

// want[r * ld + c] and its magnitude for the rows of one part.
static void product(const double *x, const double *w, int m, int n, int k, double *want, double *mag, int ld) {
  for (int r = 0; r < m; r++) {
    for (int c = 0; c < n; c++) {
      double sum = 0.0, abs = 0.0;
      for (int i = 0; i < k; i++) {
        sum += x[r * k + i] * w[c * k + i];
        abs += fabs(x[r * k + i] * w[c * k + i]);
      }
      want[r * ld + c] = sum;
      mag[r * ld + c] = abs * cf_gemm_growth(k);
    }
  }
}

static void to_fp8_once(cf_dev *d, ti_act_quant q, ti_dtype t, const int *n, int n_part, int k) {
  enum { M = 5 };
  ti_weight_src src[3];
  int total = 0;
  for (int i = 0; i < n_part; i++) {
    src[i] = cf_weight_src(d, t, n[i], k, 0, 0, (uint64_t)(80 + i));
    total += n[i];
  }
  ti_weight w;
  cr_assert(cf_weight(d, src, n_part, TI_WEIGHT_TO_FP8, &w));
  cr_assert(w.n == total && w.k == k);
  const float *x = cf_floats(d, (size_t)(M * k), 4, 1.0f);
  const double *xv = q == TI_ACT_FP8 ? fp8_rows(d, x, M, k) : widen(d, x, (size_t)(M * k));
  double *want = cf_host(d, (size_t)(M * total) * sizeof *want), *mag = cf_host(d, (size_t)(M * total) * sizeof *mag);
  for (int i = 0, at = 0; i < n_part; at += n[i++]) product(xv, fp8_values(d, &src[i]), M, n[i], k, want + at, mag + at, total);
  if (q == TI_ACT_FP8) cf_allow_fp8_sums(d, mag, (size_t)(M * total), k);
  void *out = cf_out_f32(d, (size_t)(M * total));
  const ti_gemm_args a = {.out = out, .x = cf_up_act(d, x, (size_t)(M * k)), .w = &w, .m = M, .out_dtype = TI_F32};
  cf_ok(d, "gemm", d->k->gemm(d->d, &a));
  cf_close_to(d, "gemm of a weight made e4m3", CF_GEMM, cf_down_f32(d, out, (size_t)(M * total)), want, mag, (size_t)(M * total));
}

Test(to_fp8, codes_and_scales_are_those_of_the_rule) {
  static const ti_dtype types[] = {TI_F32, TI_F16, TI_BF16};
  static const int parts[][4] = {{1, 128}, {1, 129}, {3, 256, 128, 128}, {2, 100, 130}, {1, 3}};  // how many, rows
  static const int ks[] = {128, 200, 576, 1};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    for (int q = 0; q < 2; q++) {
      cf_dev *d = cf_open(k, q ? TI_ACT_FP8 : TI_ACT_NONE, 3);
      for (int i = 0; i < 3 * 5 * 4; i++, cf_reset(d))
        to_fp8_once(d, q ? TI_ACT_FP8 : TI_ACT_NONE, types[i % 3], &parts[i / 3 % 5][1], parts[i / 3 % 5][0], ks[i / 15]);
      cf_close(d);
    }
  }
}

static double silu(double g) { return g / (1.0 + exp(-g)); }

// out = silu(gate) * up against fp64; where gate and up are rounded to bf16 in between, each is off by 2^-9. Codes are those of out.
static void check_silu_mul(cf_dev *d, const ti_weight *w, const void *x, int m, int dim, const double *want, const double *mag) {
  void *out = cf_out_act(d, (size_t)(m * dim)), *tmp = cf_out_act(d, (size_t)(m * 2 * dim));
  const ti_gemm_silu_mul_args a = {.out = out, .tmp = tmp, .x = x, .w = w, .m = m};
  cf_ok(d, "gemm_silu_mul", d->k->gemm_silu_mul(d->d, &a));
  const float *got = cf_down_act(d, out, (size_t)(m * dim));
  const double eps = d->k->act == TI_BF16 ? 0x1p-8 : 1e-6;
  for (int r = 0; r < m; r++) {
    for (int c = 0; c < dim; c++) {
      const int at = r * 2 * dim + c;
      const double g = want[at], u = want[at + dim], sum = 0x1p-24 * (mag[at] * fabs(u) + mag[at + dim] * fabs(silu(g)));
      const double limit = 1.1 * (sum + eps * (fabs(g * u) + 2.0 * fabs(silu(g) * u))) + 1e-6;
      cr_assert(fabs((double)got[r * dim + c] - silu(g) * u) <= limit, "%s: gemm_silu_mul [%d, %d] of %d is %g, want %g +- %g", d->k->name, r, c, dim,
                (double)got[r * dim + c], silu(g) * u, limit);
    }
  }
  if (!d->k->fp8_out) return;
  ti_gemm_silu_mul_args b = a;
  b.out = cf_out_act(d, (size_t)(m * dim));
  b.q = cf_up(d, cf_host(d, (size_t)(m * dim)), (size_t)(m * dim));
  b.q_scale = cf_out_f32(d, cf_scales(d, m, dim));
  cf_ok(d, "gemm_silu_mul", d->k->gemm_silu_mul(d->d, &b));
  const float *again = cf_down_act(d, b.out, (size_t)(m * dim));
  cf_codes_of(d, "gemm_silu_mul's codes", b.q, b.q_scale, again, m, dim);
  b.out = NULL;
  b.q = cf_up(d, cf_host(d, (size_t)(m * dim)), (size_t)(m * dim));
  b.q_scale = cf_out_f32(d, cf_scales(d, m, dim));
  cf_ok(d, "gemm_silu_mul", d->k->gemm_silu_mul(d->d, &b));
  cf_codes_of(d, "gemm_silu_mul's codes alone", b.q, b.q_scale, again, m, dim);
}

static void gate_up_once(cf_dev *d, ti_act_quant q, ti_dtype t, unsigned flags, int dim, int k, int m) {
  const ti_weight_src src[2] = {cf_weight_src(d, t, dim, k, 0, 0, 90), cf_weight_src(d, t, dim, k, 0, 0, 91)};
  ti_weight w;
  if (!cf_weight(d, src, 2, flags | TI_WEIGHT_GATE_UP, &w)) return;
  cr_assert(w.n == 2 * dim && w.k == k);
  const float *x = cf_floats(d, (size_t)(m * k), 4, 1.0f);
  const size_t n = (size_t)(m * 2 * dim);
  double *want = cf_host(d, n * sizeof *want), *mag = cf_host(d, n * sizeof *mag);
  const bool codes = q == TI_ACT_FP8 && (t == TI_E4M3 || (flags & TI_WEIGHT_TO_FP8));
  for (int i = 0; i < 2; i++) {
    const double *v = flags & TI_WEIGHT_TO_FP8 ? fp8_values(d, &src[i]) : cf_weight_values(d, &src[i]);
    product(codes ? fp8_rows(d, x, m, k) : widen(d, x, (size_t)(m * k)), v, m, dim, k, want + i * dim, mag + i * dim, 2 * dim);
  }
  if (codes) cf_allow_fp8_sums(d, mag, n, k);
  if (t == TI_F32 && !(flags & TI_WEIGHT_TO_FP8)) cf_allow_bf16(d, mag, n, k);
  void *out = cf_out_f32(d, n), *dx = cf_up_act(d, x, (size_t)(m * k));
  const ti_gemm_args a = {.out = out, .x = dx, .w = &w, .m = m, .out_dtype = TI_F32};
  cf_ok(d, "gemm", d->k->gemm(d->d, &a));
  cf_close_to(d, "gemm of gate and up", CF_GEMM, cf_down_f32(d, out, n), want, mag, n);
  if (d->k->gemm_silu_mul) check_silu_mul(d, &w, dx, m, dim, want, mag);
}

Test(gate_up, columns_stay_gate_then_up_and_the_fused_form_is_their_product) {
  static const int dims[] = {64, 128, 192, 256, 100, 1}, ms[] = {1, 5, 70};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, gemm)
    for (int a = 0; a < 3; a++) {
      const ti_act_quant q = a ? TI_ACT_FP8 : TI_ACT_NONE;
      cf_dev *d = cf_open_as(k, q, 3, a < 2);
      for (int i = 0; i < 6 * 3; i++) {
        const int dim = dims[i % 6], m = ms[i / 6];
        gate_up_once(d, q, TI_BF16, 0, dim, 128, m);
        gate_up_once(d, q, TI_F32, 0, dim, 200, m);
        gate_up_once(d, q, TI_BF16, TI_WEIGHT_TO_FP8, dim, 256, m);
        gate_up_once(d, q, TI_E4M3, 0, dim, 384, m);
        cf_reset(d);
      }
      cf_close(d);
    }
  }
}

Test(gate_up, takes_two_parts_of_one_shape) {
  CF_EACH_BACKEND(k) {
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    const ti_weight_src src[2] = {cf_weight_src(d, TI_BF16, 4, 64, 0, 0, 1), cf_weight_src(d, TI_BF16, 5, 64, 0, 0, 1)};
    size_t bytes;
    cr_assert(k->weight_size(d->d, src, 2, TI_WEIGHT_GATE_UP, &bytes) == TI_ERR_ARG, "%s: gate and up of two shapes", k->name);
    cr_assert(k->weight_size(d->d, src, 1, TI_WEIGHT_GATE_UP, &bytes) == TI_ERR_ARG, "%s: gate without up", k->name);
    cf_close(d);
  }
}
