// Grouped FP8 GEMM over fixed slots (kernels/cuda/gemm_fp8_masked.cu): jittered counts with empty experts, poisoned slots, every tile, with and
// without silu-mul + quantise, the same bits from run to run; then the table. cuBLASLt has no such product: the peer column is the copy bandwidth.
//
//   lab_gemm_fp8_masked [--quick] [--json FILE]
#include <math.h>

#include "benchmarks/kernels/fp8_inputs.cuh"
#include "kernels/cuda/gemm_fp8_masked.h"

#define FP8_BOUND 0x1p-13  // as in lab_gemm_fp8_small.cu

enum { MAX_EXPERT = 64 };

typedef struct fixture {
  lab *l;
  fp8_operand x, w;  // [n_expert * max_m, k], [n_expert * n, k]
  int32_t count[MAX_EXPERT], *count_dev;
  void *out, *again;
  uint8_t *q;
  float *q_scale;
  double *ref, *mag;  // [n_expert * max_m, n]
  ti_fp8_masked_args a;
} fixture;

static fixture fixture_make(lab *l, int n_expert, int max_m, int n, int k, bool ref) {
  fixture f = {};
  const size_t slots = (size_t)n_expert * (size_t)max_m;
  f.l = l;
  f.x = fp8_make(l, (int64_t)slots, k, 1, 1, false);
  f.w = fp8_make(l, (int64_t)n_expert * n, k, 128, 2, false);
  f.count_dev = (int32_t *)lab_alloc(l, sizeof f.count);
  f.out = lab_alloc(l, slots * (size_t)n * 2);
  f.again = lab_alloc(l, slots * (size_t)n * 2);
  f.q = (uint8_t *)lab_alloc(l, slots * (size_t)n / 2);
  f.q_scale = (float *)lab_alloc(l, slots * (size_t)n / 256 * 4);
  if (ref) {
    f.ref = (double *)lab_alloc(l, slots * (size_t)n * 8);
    f.mag = (double *)lab_alloc(l, slots * (size_t)n * 8);
  }
  ti_fp8_masked_args *a = &f.a;
  a->x = f.x.q, a->x_scale = f.x.scale, a->w = f.w.q, a->w_scale = f.w.scale, a->count = f.count_dev;
  a->n_expert = n_expert, a->max_m = max_m, a->n = n, a->k = k;
  return f;
}
static void fixture_free(fixture *f) {
  fp8_free(f->l, &f->x);
  fp8_free(f->l, &f->w);
  void *const all[] = {f->count_dev, f->out, f->again, f->q, f->q_scale, f->ref, f->mag};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(f->l, all[i]);
}
static void fixture_counts(fixture *f) {
  lab_ok(f->l, cudaMemcpyAsync(f->count_dev, f->count, sizeof f->count, cudaMemcpyHostToDevice, f->l->stream), "counts");
  lab_sync(f->l, "counts");
}
static lab_mat part(lab_mat m, int64_t rows0) {
  m.data = (const uint8_t *)m.data + rows0 * m.ld;
  m.scale += rows0 / m.sr * m.s_ld;
  return m;
}

// ref [m, 2 dim] gate | up in runs of 64, or one behind the other -> act [m, dim] as fp32; 1 for the bound's measure: a silu bends errors, what is
// left is compared by diff.
static __global__ void silu_kernel(const double *gate_up, double *act, double *mag, int64_t n, int dim, bool stacked) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
    const double *g = gate_up + i / dim * 2 * dim + (stacked ? i % dim : i % dim / 64 * 128 + i % 64);
    act[i] = g[0] / (1.0 + exp(-g[0])) * g[stacked ? dim : 64];
    mag[i] = 1.0;
  }
}

static void check(lab *l, int n_expert, int max_m, int n, int k, ti_fp8_masked_plan plan, bool silu, bool stacked) {
  fixture f = fixture_make(l, n_expert, max_m, n, k, true);
  const int dim = silu ? n / 2 : n, n_kb = (k + 127) / 128;
  const int64_t slots = (int64_t)n_expert * max_m;
  for (int e = 0; e < n_expert; e++) {
    f.count[e] = e % 3 == 1 ? 0 : e % 5 == 4 ? max_m : (e * 37 + 11) % max_m + 1;
    const lab_mat x = part(f.x.dequantised, (int64_t)e * max_m), w = part(f.w.dequantised, (int64_t)e * n);
    lab_gemm_ref(l, &x, &w, max_m, n, k, f.ref + (int64_t)e * max_m * n, f.mag + (int64_t)e * max_m * n);
  }
  fixture_counts(&f);
  for (int e = 0; e < n_expert; e++) {  // slots that hold no token
    const int64_t at = (int64_t)e * max_m + f.count[e];
    const size_t left = (size_t)(max_m - f.count[e]);
    if (left == 0) continue;
    lab_poison(l, f.x.q + at * k, left * (size_t)k);
    lab_ok(l, cudaMemset2DAsync(f.x.scale + at, (size_t)slots * 4, 0xff, left * 4, (size_t)n_kb, l->stream), "poison");
  }
  f.a.plan = plan, f.a.silu = silu, f.a.stacked = stacked;
  if (silu) f.a.q = f.q, f.a.q_scale = f.q_scale;
  const size_t bytes = (size_t)slots * (size_t)dim * 2;
  for (int i = 0; i < 2; i++) {
    f.a.out = i ? f.again : f.out;
    lab_poison(l, f.a.out, bytes);
    lab_op(l, ti_cuda_fp8_masked(&l->dev, &f.a), "check");
  }
  lab_expect(l, lab_same(l, f.out, f.again, bytes), "masked: bits differ between two runs");
  double worst = 0, diff = 0, q_diff = 0;
  double *act = silu ? (double *)lab_alloc(l, (size_t)slots * (size_t)dim * 16) : NULL;
  for (int e = 0; e < n_expert; e++) {
    const int64_t row = (int64_t)e * max_m;
    uint16_t *out = (uint16_t *)f.out + row * dim;
    const int c = f.count[e];
    lab_expect(l, lab_is_poison(l, out + (int64_t)c * dim, (size_t)(max_m - c) * (size_t)dim * 2), "masked: a slot without a token was written");
    if (c == 0) continue;
    const double *ref = f.ref + row * n, *mag = f.mag + row * n;
    if (silu) {
      silu_kernel<<<256, 256, 0, l->stream>>>(ref, act, act + (int64_t)c * dim, (int64_t)c * dim, dim, stacked);
      ref = act, mag = act + (int64_t)c * dim;
    }
    const lab_error err = lab_compare(l, out, TI_BF16, dim, ref, mag, c, dim, silu ? 1e30 : FP8_BOUND);
    worst = err.worst > worst ? err.worst : worst, diff = err.diff > diff ? err.diff : diff;
    if (!silu) continue;
    lab_mat q = {f.q + row * dim, TI_E4M3, dim, f.q_scale + row, 1, 128, 1, slots}, one = {};  // q, dequantised by a product with the unit matrix
    float *unit = (float *)lab_alloc(l, (size_t)dim * (size_t)dim * 4);
    lab_ok(l, cudaMemsetAsync(unit, 0, (size_t)dim * (size_t)dim * 4, l->stream), "unit");
    const float v = 1.0f;
    for (int i = 0; i < dim; i++) lab_ok(l, cudaMemcpyAsync(unit + (int64_t)i * dim + i, &v, 4, cudaMemcpyHostToDevice, l->stream), "unit");
    one.data = unit, one.type = TI_F32, one.ld = dim;
    double *back = (double *)lab_alloc(l, (size_t)c * (size_t)dim * 8);
    lab_gemm_ref(l, &q, &one, c, dim, dim, back, NULL);
    const lab_error qe = lab_compare(l, out, TI_BF16, dim, back, NULL, c, dim, 1e30);
    q_diff = qe.diff > q_diff ? qe.diff : q_diff;
    lab_free(l, unit);
    lab_free(l, back);
  }
  lab_expect(l, worst <= 1.0 && diff < 1e-4 && q_diff < 1e-3, "masked %d x %d (%d, %d): %.3g of the bound, diff %.2e, codes %.2e", n_expert, max_m, n,
             k, worst, diff, q_diff);
  printf("%2d experts of %3d slots (%d, %d), rows %d tokens %d%s: %.2g of the bound, diff %.1e%s", n_expert, max_m, n, k, plan.rows, plan.tokens,
         silu ? ", silu" : "", silu ? 0.0 : worst, diff, silu ? "" : "\n");
  if (silu) printf(", codes %.1e\n", q_diff);
  if (act) lab_free(l, act);
  fixture_free(&f);
}

static void run(void *arg) {
  fixture *f = (fixture *)arg;
  lab_op(f->l, ti_cuda_fp8_masked(&f->l->dev, &f->a), "timed");
}

// taken: tokens an expert; jitter: counts spread evenly over 0.7 .. 1.3 of it; every `empty`th expert has none.
static void time_shape(lab *l, int n_expert, int taken, int n, int k, const char *variant, bool jitter, int empty, bool silu) {
  fixture f = fixture_make(l, n_expert, ((jitter ? taken * 13 / 10 : taken) + 3) & ~3, n, k, false);
  double rows = 0, live = 0;
  for (int e = 0; e < n_expert; e++) {
    f.count[e] = empty && e % empty == 0 ? 0 : jitter ? taken * (70 + e * 17 % 61) / 100 : taken;
    rows += f.count[e], live += f.count[e] > 0;
  }
  fixture_counts(&f);
  f.a.out = silu ? NULL : f.out, f.a.expected_m = taken, f.a.silu = silu;
  if (silu) f.a.q = f.q, f.a.q_scale = f.q_scale;
  lab_row r = {"gemm_fp8_masked",
               variant,
               taken,
               n,
               k,
               lab_time_us(l, run, &f),
               2.0 * rows * n * k,
               live * n * k + rows * k + rows * n * (silu ? 0.5 : 2.0),
               NULL,
               0,
               0};
  lab_print(l, &r);
  fixture_free(&f);
}

int main(int argc, char **argv) {
  static const int groups[][2] = {{32, 20}, {6, 20}, {32, 192}, {6, 1024}}, nk[][2] = {{4096, 7168}, {7168, 2048}};
  static const ti_fp8_masked_plan plans[] = {{128, 8, 2}, {128, 16, 2}, {256, 32, 1}, {128, 64, 2}, {128, 64, 1}, {256, 64, 1}, {128, 192, 1}};
  lab l;
  lab_open(&l, "lab_gemm_fp8_masked", &argc, argv);
  for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) check(&l, 9, 132, 512, 1168, plans[i], false, false);
  check(&l, 6, 300, 512, 1168, plans[6], false, false);
  check(&l, 40, 12, 256, 512, plans[2], false, false);
  check(&l, 12, 36, 512, 2048, plans[2], true, false);
  check(&l, 12, 36, 512, 2048, plans[2], true, true);
  check(&l, 12, 100, 512, 1024, plans[5], true, true);
  for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
    char title[80];
    snprintf(title, sizeof title, "%d experts, m: tokens each", groups[g][0]);
    lab_head(title);
    for (size_t s = 0; s < sizeof nk / sizeof *nk; s++) {
      const int e = groups[g][0], m = groups[g][1], n = nk[s][0], k = nk[s][1];
      time_shape(&l, e, m, n, k, "even", false, 0, false);
      time_shape(&l, e, m, n, k, "jittered", true, 0, false);
      if (e > 8) time_shape(&l, e, m, n, k, "every 4th empty", false, 4, false);
      if (m <= 64) time_shape(&l, e, m, n, k, "silu, quantise", false, 0, true);
    }
  }
  return lab_close(&l);
}
