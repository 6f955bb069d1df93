// bf16 rows to e4m3 (kernels/cuda/quant_fp8.cu): bit for bit against base/half.h, then against the copy bandwidth.
//
//   lab_quant [--quick] [--json FILE] [check | time]...      (no word: both)
//
//   check  every number of rows in 1..130, odd widths and strides with poison behind them; all bf16 values under many scales; RMSNorm against fp64,
//   and
//          fused forms against their parts; the same bits again
//   time   1 .. 4096 rows
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"
#include "kernels/cuda/quant_fp8.h"
extern "C" {
#include "base/half.h"
}

enum { MAX_M = 130 };

static int up4(int n) { return (n + 3) / 4 * 4; }
static float f32_of(uint16_t v) {
  const uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static void *host(const lab *l, size_t n) {
  void *p = malloc(n ? n : 1);
  if (!p) lab_op(l, TI_ERR_NOMEM, "host memory");
  return p;
}
static void *download(const lab *l, const void *p, size_t n) {
  void *h = host(l, n);
  lab_sync(l, "before a copy");
  lab_ok(l, cudaMemcpy(h, p, n, cudaMemcpyDeviceToHost), "copy");
  return h;
}

// Codes and scales of m rows as the rule has them; where the first difference is, or -1.
static int64_t differs(const uint16_t *x, int64_t ldx, int m, int k, const uint8_t *q, const float *scale) {
  for (int r = 0; r < m; r++) {
    for (int b = 0; b * 128 < k; b++) {
      const int n = k - b * 128 < 128 ? k - b * 128 : 128;
      float amax = 0.0f;
      for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(f32_of(x[r * ldx + b * 128 + i])));
      const float s = fmaxf(amax, 1e-4f) / 448.0f;
      if (memcmp(&s, &scale[(int64_t)b * up4(m) + r], 4) != 0) return (int64_t)r * k + b * 128;
      for (int i = 0; i < n; i++) {
        const int64_t c = b * 128 + i;
        if (ti_f32_to_e4m3(f32_of(x[r * ldx + c]) / s) != q[(int64_t)r * k + c]) return (int64_t)r * k + c;
      }
    }
  }
  return -1;
}

// ---- plain ----

static void check_plain(lab *l, const uint16_t *x, int64_t ldx, int m, int k, const char *what) {
  const size_t nq = (size_t)m * (size_t)k, ns = (size_t)((k + 127) / 128) * (size_t)up4(m);
  uint8_t *q = (uint8_t *)lab_alloc(l, nq + 64);
  float *s = (float *)lab_alloc(l, ns * 4 + 64);
  ti_quant_fp8_args a = {};
  a.q = q, a.scale = s, a.x = x, a.n_row = m, a.k = k, a.ldx = ldx;
  lab_op(l, ti_cuda_quant_fp8(&l->dev, &a), "quant_fp8");
  const uint64_t once = lab_hash(l, q, nq);
  lab_expect(l, lab_is_poison(l, q + nq, 64) && lab_is_poison(l, s + ns, 64), "%s m %d k %d: writes behind the end", what, m, k);
  uint16_t *hx = (uint16_t *)download(l, x, (size_t)m * (size_t)ldx * 2);
  uint8_t *hq = (uint8_t *)download(l, q, nq);
  float *hs = (float *)download(l, s, ns * 4);
  const int64_t at = differs(hx, ldx, m, k, hq, hs);
  lab_expect(l, at < 0, "%s m %d k %d: row %lld column %lld is not the reference's", what, m, k, (long long)(at / k), (long long)(at % k));
  lab_op(l, ti_cuda_quant_fp8(&l->dev, &a), "quant_fp8");
  lab_expect(l, lab_hash(l, q, nq) == once, "%s m %d k %d: other bits in the second run", what, m, k);
  free(hx);
  free(hq);
  free(hs);
  lab_free(l, q);
  lab_free(l, s);
}

// Every bf16 value, 127 in a block behind one of 512 block maxima: exponents of all sizes, and blocks of nothing but small numbers.
static void check_values(lab *l) {
  enum { ROWS = 520, K = 128 * 8 };
  uint16_t *h = (uint16_t *)host(l, (size_t)ROWS * K * 2);
  for (int i = 0; i < ROWS * K; i++) {
    h[i] = (uint16_t)((i * 40503u) & 0xffff);
    if ((h[i] & 0x7f80) == 0x7f80 && (h[i] & 0x7f))
      h[i] |= 0x40;  // quiet: libm's fmaxf, and so the reference, forgets its maximum at a signalling NaN
  }
  for (int b = 0; b < ROWS * K / 128; b++) {  // most blocks: finite numbers no larger than their first
    const uint16_t top = (uint16_t)((b * 37) % 0x7f80);
    if (b % 16 == 15) continue;  // infinities and NaNs stay in every sixteenth
    for (int i = 0; i < 128; i++) {
      uint16_t mag = (uint16_t)(h[b * 128 + i] & 0x7fff);
      if (top) mag = (uint16_t)(top > 0x600 && b % 2 ? top - mag % 0x600 : mag % (top + 1));  // near the maximum, or anywhere below
      if (!top) mag = 0;
      h[b * 128 + i] = (uint16_t)(mag | (h[b * 128 + i] & 0x8000));
    }
    h[b * 128] = top;
  }
  uint16_t *x = (uint16_t *)lab_alloc(l, (size_t)ROWS * K * 2);
  lab_ok(l, cudaMemcpy(x, h, (size_t)ROWS * K * 2, cudaMemcpyHostToDevice), "copy");
  check_plain(l, x, K, ROWS, K, "all values");
  lab_free(l, x);
  free(h);
}

// ---- fused ----

static void check_norm(lab *l, int m, int k, bool residual) {
  const int64_t ldx = k + 8;
  const size_t n = (size_t)m * (size_t)k, ns = (size_t)((k + 127) / 128) * (size_t)up4(m);
  uint16_t *x = (uint16_t *)lab_alloc(l, (size_t)m * (size_t)ldx * 2), *res = (uint16_t *)lab_alloc(l, n * 2), *out = (uint16_t *)lab_alloc(l, n * 2);
  uint16_t *res2 = (uint16_t *)lab_alloc(l, n * 2);
  float *w = (float *)lab_alloc(l, (size_t)k * 4), *s = (float *)lab_alloc(l, ns * 4), *s2 = (float *)lab_alloc(l, ns * 4);
  uint8_t *q = (uint8_t *)lab_alloc(l, n), *q2 = (uint8_t *)lab_alloc(l, n);
  for (int r = 0; r < m; r++) lab_fill(l, x + r * ldx, TI_BF16, (size_t)k, 40 + (uint64_t)r, 3.0f);
  lab_fill(l, res, TI_BF16, n, 5, 2.0f);
  lab_fill(l, res2, TI_BF16, n, 5, 2.0f);
  lab_fill(l, w, TI_F32, (size_t)k, 6, 2.0f);
  uint16_t *hx = (uint16_t *)download(l, x, (size_t)m * (size_t)ldx * 2), *hr = (uint16_t *)download(l, res, n * 2);
  float *hw = (float *)download(l, w, (size_t)k * 4);
  ti_rmsnorm_args a = {};
  a.out = out, a.x = x, a.residual = residual ? res : NULL, a.weight = w, a.n_row = m, a.dim = k, a.ldx = ldx, a.eps = 1e-5f;
  a.q = q, a.q_scale = s;
  lab_op(l, ti_cuda_rmsnorm(&l->dev, &a), "rmsnorm");
  uint16_t *ho = (uint16_t *)download(l, out, n * 2), *ho2 = (uint16_t *)download(l, res, n * 2);
  double worst = 0;
  for (int r = 0; r < m; r++) {
    double sum = 0;
    for (int c = 0; c < k; c++) {
      const double v = (double)f32_of(hx[r * ldx + c]) + (residual ? f32_of(hr[(int64_t)r * k + c]) : 0.0f);
      sum += v * v;
      if (residual) worst = fmax(worst, fabs(v - f32_of(ho2[(int64_t)r * k + c])) / (0x1p-8 * fabs(v) + 1e-30));
    }
    const double inv = 1.0 / sqrt(sum / k + 1e-5);
    for (int c = 0; c < k; c++) {
      const double v = (double)f32_of(hx[r * ldx + c]) + (residual ? f32_of(hr[(int64_t)r * k + c]) : 0.0f), want = v * inv * hw[c];
      worst = fmax(worst, fabs(want - f32_of(ho[(int64_t)r * k + c])) / ((0x1p-8 + k * 0x1p-24) * fabs(want) + 1e-30));
    }
  }
  lab_expect(l, worst <= 1.0, "rmsnorm m %d k %d residual %d: worst %.3g of the bound", m, k, residual, worst);
  uint8_t *hq = (uint8_t *)download(l, q, n);
  float *hs = (float *)download(l, s, ns * 4);
  lab_expect(l, differs(ho, k, m, k, hq, hs) < 0, "rmsnorm + quantise m %d k %d: not the codes of its own output", m, k);
  a.out = NULL, a.q = q2, a.q_scale = s2, a.residual = residual ? res2 : NULL;
  lab_op(l, ti_cuda_rmsnorm(&l->dev, &a), "rmsnorm");
  lab_expect(l, lab_same(l, q, q2, n) && lab_same(l, s, s2, ns * 4) && lab_same(l, res, res2, residual ? n * 2 : 0),
             "rmsnorm + quantise m %d k %d: other bits without out", m, k);
  void *const hosts[] = {hx, hr, hw, ho, ho2, hq, hs};
  for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
  void *const all[] = {x, res, res2, out, w, s, s2, q, q2};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

// Many rows at once and a few at a time: the same bits.
static void check_norm_many(lab *l, int k, bool residual) {
  enum { M = 3001, FEW = 97 };
  const size_t n = (size_t)M * (size_t)k;
  uint16_t *x = (uint16_t *)lab_alloc(l, n * 2), *out = (uint16_t *)lab_alloc(l, n * 2), *out2 = (uint16_t *)lab_alloc(l, n * 2);
  uint16_t *res = (uint16_t *)lab_alloc(l, n * 2), *res2 = (uint16_t *)lab_alloc(l, n * 2);
  uint8_t *q = (uint8_t *)lab_alloc(l, n), *q2 = (uint8_t *)lab_alloc(l, n);
  float *w = (float *)lab_alloc(l, (size_t)k * 4), *s = (float *)lab_alloc(l, (size_t)(up4(M) * ((k + 127) / 128)) * 4);
  lab_fill(l, x, TI_BF16, n, 70, 3.0f);
  lab_fill(l, res, TI_BF16, n, 71, 2.0f);
  lab_fill(l, res2, TI_BF16, n, 71, 2.0f);
  lab_fill(l, w, TI_F32, (size_t)k, 72, 2.0f);
  ti_rmsnorm_args a = {};
  a.out = out, a.x = x, a.residual = residual ? res : NULL, a.weight = w, a.n_row = M, a.dim = k, a.eps = 1e-5f, a.q = q, a.q_scale = s;
  lab_op(l, ti_cuda_rmsnorm(&l->dev, &a), "rmsnorm");
  for (int r = 0; r < M; r += FEW) {
    const size_t at = (size_t)r * (size_t)k;
    a.out = out2 + at, a.x = x + at, a.residual = residual ? res2 + at : NULL, a.n_row = M - r < FEW ? M - r : FEW, a.q = q2 + at;
    lab_op(l, ti_cuda_rmsnorm(&l->dev, &a), "rmsnorm");
  }
  lab_expect(l, lab_same(l, out, out2, n * 2) && lab_same(l, q, q2, n) && lab_same(l, res, res2, n * 2),
             "rmsnorm k %d residual %d: other bits when there are many rows", k, residual);
  void *const all[] = {x, out, out2, res, res2, q, q2, w, s};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(l, all[i]);
}

static void check_silu(lab *l, int m, int k) {
  const int64_t ldx = 2 * k + 8;
  const size_t n = (size_t)m * (size_t)k, ns = (size_t)((k + 127) / 128) * (size_t)up4(m);
  uint16_t *x = (uint16_t *)lab_alloc(l, (size_t)m * (size_t)ldx * 2), *out = (uint16_t *)lab_alloc(l, n * 2);
  uint8_t *q = (uint8_t *)lab_alloc(l, n);
  float *s = (float *)lab_alloc(l, ns * 4);
  for (int r = 0; r < m; r++) lab_fill(l, x + r * ldx, TI_BF16, (size_t)(2 * k), 90 + (uint64_t)r, 12.0f);
  ti_silu_mul_args a = {};
  a.out = out, a.gate_up = x, a.n_row = m, a.dim = k, a.ldx = ldx;
  lab_op(l, ti_cuda_silu_mul(&l->dev, &a), "silu_mul");
  a.out = NULL, a.q = q, a.q_scale = s;
  lab_op(l, ti_cuda_silu_mul_quant(&l->dev, &a), "silu_mul_quant");
  uint16_t *ho = (uint16_t *)download(l, out, n * 2);
  uint8_t *hq = (uint8_t *)download(l, q, n);
  float *hs = (float *)download(l, s, ns * 4);
  lab_expect(l, differs(ho, k, m, k, hq, hs) < 0, "silu_mul + quantise m %d k %d: not the codes of silu_mul's output", m, k);
  free(ho);
  free(hq);
  free(hs);
  lab_free(l, x);
  lab_free(l, out);
  lab_free(l, q);
  lab_free(l, s);
}

static void check_all(lab *l) {
  static const int ks[] = {384, 200, 7, 1000, 129, 4096};
  for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
    const int k = ks[i];
    const int64_t ldx = k + 8;
    uint16_t *x = (uint16_t *)lab_alloc(l, (size_t)(MAX_M * ldx) * 2);
    for (int r = 0; r < MAX_M; r++) lab_fill(l, x + r * ldx, TI_BF16, (size_t)k, 7 + (uint64_t)r, r % 5 ? exp2f((float)(r % 40 - 20)) : 0.0f);
    for (int m = 1; m <= MAX_M; m += i == 0 ? 1 : 13) check_plain(l, x, ldx, m, k, "uniform");
    lab_free(l, x);
    for (int m = 1; m <= MAX_M; m += i == 0 && !l->quick ? 1 : 43) {
      check_norm(l, m, k, true);
      check_norm(l, m, k, false);
      check_silu(l, m, k);
    }
  }
  check_norm(l, 3, 7168, true);
  check_norm(l, 3, 16384, true);
  check_norm(l, 2, 40000, true);
  static const int many[] = {512, 2048, 4096, 7168, 14336};
  for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
    check_norm_many(l, many[i], true);
    check_norm_many(l, many[i], false);
  }
  check_values(l);
}

// ---- time ----

typedef struct job {
  lab *l;
  ti_quant_fp8_args plain;
  ti_rmsnorm_args norm;
  ti_silu_mul_args silu;
} job;
static void run_plain(void *arg) { lab_op(((job *)arg)->l, ti_cuda_quant_fp8(&((job *)arg)->l->dev, &((job *)arg)->plain), "quant_fp8"); }
static void run_norm(void *arg) { lab_op(((job *)arg)->l, ti_cuda_rmsnorm(&((job *)arg)->l->dev, &((job *)arg)->norm), "rmsnorm_quant"); }
static void run_silu(void *arg) { lab_op(((job *)arg)->l, ti_cuda_silu_mul_quant(&((job *)arg)->l->dev, &((job *)arg)->silu), "silu_mul_quant"); }

static void time_all(lab *l) {
  static const int shapes[][2] = {{1, 7168}, {16, 7168},   {64, 7168}, {128, 7168},  {1024, 7168}, {4096, 7168},
                                  {1, 2048}, {4096, 2048}, {1, 4096},  {4096, 4096}, {1, 14336},   {4096, 14336}};
  lab_head("bf16 rows to e4m3, scales over 128");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int m = shapes[i][0], k = shapes[i][1];
    const size_t n = (size_t)m * (size_t)k;
    uint16_t *x = (uint16_t *)lab_alloc(l, n * 4), *res = (uint16_t *)lab_alloc(l, n * 2);
    float *w = (float *)lab_alloc(l, (size_t)k * 4), *s = (float *)lab_alloc(l, (size_t)((k + 127) / 128 * up4(m)) * 4);
    uint8_t *q = (uint8_t *)lab_alloc(l, n);
    lab_fill(l, x, TI_BF16, 2 * n, 1, 1.0f);
    lab_fill(l, res, TI_BF16, n, 2, 1.0f);
    lab_fill(l, w, TI_F32, (size_t)k, 3, 1.0f);
    job j = {l, {}, {}, {}};
    j.plain.q = q, j.plain.scale = s, j.plain.x = x, j.plain.n_row = m, j.plain.k = k;
    j.norm.x = x, j.norm.residual = res, j.norm.weight = w, j.norm.n_row = m, j.norm.dim = k, j.norm.eps = 1e-5f, j.norm.q = q, j.norm.q_scale = s;
    j.silu.gate_up = x, j.silu.n_row = m, j.silu.dim = k, j.silu.q = q, j.silu.q_scale = s;
    static const struct {
      const char *name;
      lab_run run;
      double bytes;
    } ops[] = {{"quantise", run_plain, 3}, {"rmsnorm + quantise", run_norm, 7}, {"silu-mul + quantise", run_silu, 5}};
    for (int o = 0; o < 3; o++) {
      lab_row r = {"quant_fp8", ops[o].name, m, 0, k, lab_time_us(l, ops[o].run, &j), 0, ops[o].bytes * (double)n + (double)n / 32, NULL, 0, 0};
      lab_print(l, &r);
    }
    void *const all[] = {x, res, w, s, q};
    for (size_t a = 0; a < sizeof all / sizeof *all; a++) lab_free(l, all[a]);
  }
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_quant", &argc, argv);
  bool check = argc == 1, time = argc == 1;
  for (int i = 1; i < argc; i++) {
    check |= !strcmp(argv[i], "check");
    time |= !strcmp(argv[i], "time");
  }
  if (check) check_all(&l);
  if (time) time_all(&l);
  return lab_close(&l);
}
