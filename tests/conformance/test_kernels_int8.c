// Activations that are handed on as int8 codes: RMSNorm's and SwiGLU's codes are those of the rows they write, and products take them with the same
// bits as if they had quantised the rows themselves.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "weights.h"

enum { M = 70, BLOCK = 32 };

// What docs/numerics.md says of a block: d = amax / 127, codes round(x / d) by way of 1 / d, to the nearest even.
static void check_codes(const cf_dev *d, const char *what, const int8_t *q, const float *scale, const float *row, int m, int k) {
  for (int b = 0; b < m * k / BLOCK; b++) {
    float top = 0;
    for (int i = 0; i < BLOCK; i++) top = fmaxf(top, fabsf(row[b * BLOCK + i]));
    const float want = top < 1e-35f ? 0.0f : top / 127.0f, inv = want == 0.0f ? 0.0f : 1.0f / want;
    cf_same_bits(d, what, &scale[b], &want, sizeof want);
    for (int i = 0; i < BLOCK; i++)
      cr_assert_eq(q[b * BLOCK + i], (int)lrintf(row[b * BLOCK + i] * inv), "%s: %s: block %d, code %d", d->k->name, what, b, i);
  }
}

typedef struct handed {  // device memory
  float *row;            // [M, k]
  uint8_t *q;
  float *scale;
} handed;

static handed hand(cf_dev *d, int k) {
  const size_t n = (size_t)(M * k);
  return (handed){.row = cf_out_act(d, n), .q = cf_up(d, cf_host(d, n), n), .scale = cf_out_f32(d, n / BLOCK)};
}

static void check_handed(cf_dev *d, const char *what, const handed *h, const float *want, int k) {
  const size_t n = (size_t)(M * k);
  int8_t *q = cf_host(d, n);
  cf_down(d, q, h->q, n);
  check_codes(d, what, q, cf_down_f32(d, h->scale, n / BLOCK), want, M, k);
}

// The normed rows with their codes; every kind of row: a block of zeros, one of numbers too small to count, one of numbers just large enough.
static handed normed(cf_dev *d, int k) {
  float *x = cf_floats(d, (size_t)(M * k), 5, 1.0f);
  for (int i = 0; i < BLOCK; i++) x[3 * k + i] = 0.0f;
  for (int i = 0; i < BLOCK; i++) x[4 * k + i] = 1e-37f;
  for (int i = 0; i < BLOCK; i++) x[5 * k + i] = 1e-33f;
  const float *weight = cf_up(d, cf_floats(d, (size_t)k, 6, 1.0f), (size_t)k * sizeof(float));
  const void *dx = cf_up_act(d, x, (size_t)(M * k));
  handed both = hand(d, k), alone = hand(d, k);
  ti_rmsnorm_args a = {.out = both.row, .x = dx, .weight = weight, .n_row = M, .dim = k, .eps = 1e-5f};
  cf_ok(d, "rmsnorm", d->k->rmsnorm(d->d, &a));
  const float *want = cf_down_act(d, both.row, (size_t)(M * k));
  a.out = both.row = cf_out_act(d, (size_t)(M * k));
  a.q = both.q;
  a.q_scale = both.scale;
  cf_ok(d, "rmsnorm with codes", d->k->rmsnorm(d->d, &a));
  cf_same_bits(d, "rmsnorm beside its codes", cf_down_act(d, both.row, (size_t)(M * k)), want, (size_t)(M * k) * sizeof *want);
  check_handed(d, "rmsnorm's codes", &both, want, k);
  a.out = NULL;
  a.q = alone.q;
  a.q_scale = alone.scale;
  cf_ok(d, "rmsnorm's codes alone", d->k->rmsnorm(d->d, &a));
  check_handed(d, "rmsnorm's codes alone", &alone, want, k);
  return both;
}

static void silu_once(cf_dev *d, int k) {
  const void *gate_up = cf_up_act(d, cf_floats(d, (size_t)(2 * M * k), 7, 2.0f), (size_t)(2 * M * k));
  handed h = hand(d, k);
  ti_silu_mul_args a = {.out = h.row, .gate_up = gate_up, .n_row = M, .dim = k};
  cf_ok(d, "silu_mul", d->k->silu_mul(d->d, &a));
  const float *want = cf_down_act(d, h.row, (size_t)(M * k));
  for (int with = 0; with < 2; with++) {
    a.out = with ? cf_out_act(d, (size_t)(M * k)) : NULL;
    a.q = h.q;
    a.q_scale = h.scale;
    cf_ok(d, "silu_mul with codes", d->k->silu_mul(d->d, &a));
    check_handed(d, "silu_mul's codes", &h, want, k);
    if (with) cf_same_bits(d, "silu_mul beside its codes", cf_down_act(d, a.out, (size_t)(M * k)), want, (size_t)(M * k) * sizeof *want);
  }
}

static void gemm_once(cf_dev *d, ti_dtype t, const handed *h, int m, int n, int k) {
  const ti_weight_src src = cf_weight_src(d, t, n, k, 0, 0, 9);
  ti_weight w;
  if (!cf_weight(d, &src, 1, 0, &w)) return;
  const float *bias = cf_up(d, cf_floats(d, (size_t)n, 8, 1.0f), (size_t)n * sizeof(float));
  void *out[2] = {cf_out_f32(d, (size_t)(m * n)), cf_out_f32(d, (size_t)(m * n))};
  ti_gemm_args a = {.out = out[0], .x = h->row, .w = &w, .bias = bias, .m = m, .out_dtype = TI_F32};
  cf_ok(d, "gemm", d->k->gemm(d->d, &a));
  a.out = out[1];
  a.x = h->q;
  a.x_scale = h->scale;
  cf_ok(d, "gemm of codes", d->k->gemm(d->d, &a));
  cf_same_bits(d, "gemm of codes", cf_down_f32(d, out[1], (size_t)(m * n)), cf_down_f32(d, out[0], (size_t)(m * n)), (size_t)(m * n) * sizeof(float));
}

Test(int8, codes_are_those_of_the_rows_and_products_take_them) {
  static const ti_dtype types[] = {TI_Q4_0, TI_Q4_1, TI_Q5_0, TI_Q5_1, TI_Q8_0, TI_Q4_K, TI_Q5_K, TI_Q6_K};
  static const int ks[] = {256, 2304}, ms[] = {1, 5, M};  // 2304: more than a tile's piece of K
  CF_EACH_BACKEND(k) {
    if (!k->int8_out) {
      printf("%s: no int8_out, skipped\n", k->name);
      continue;
    }
    for (int threads = 1; threads <= 3; threads += 2) {
      cf_dev *d = cf_open(k, TI_ACT_INT8, threads);
      for (int i = 0; i < 2 * 8 * 3; i++, cf_reset(d)) {
        const handed h = normed(d, ks[i % 2]);
        gemm_once(d, types[i / 2 % 8], &h, ms[i / 16], 77, ks[i % 2]);
        if (i < 2) silu_once(d, ks[i]);
      }
      cf_close(d);
    }
  }
}
