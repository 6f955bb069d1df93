// The harness behind conformance.h.
#include "conformance.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"

static const char *const backend_names[] = {"ref", "cpu-avx2", "cpu-avx512", "cpu-vnni", "cuda"};
enum { N_NAME = sizeof backend_names / sizeof *backend_names };

const cf_tolerance cf_tolerances[CF_TOL_COUNT] = {
    [CF_GEMM] = {0x1p-24, 1e-30},    // times cf_gemm_growth(k) times sum |x w|
    [CF_NORM] = {4e-6, 1e-7},        // of |x inv w|; the sum of squares is fp32
    [CF_ROPE] = {2e-6, 1e-7},        // of |u| + |v|
    [CF_SILU] = {2e-6, 1e-7},        // of |silu(g) u|
    [CF_ATTENTION] = {2e-5, 1e-7},   // of the largest |v| attended
    [CF_ROUTER] = {1e-5, 1e-7},      // of the weight
    [CF_UNPERMUTE] = {1e-6, 1e-30},  // of sum |w y|
    [CF_LOGPROB] = {2e-6, 2e-5},     // of the log-probability
    [CF_LOGIT] = {1e-6, 1e-6},       // of the logit
};

const ti_kernels *cf_backend(int i) {
  const char *only = getenv("TI_CONFORMANCE_BACKEND");
  for (int n = 0; n < N_NAME; n++) {
    if (only && strcmp(only, backend_names[n]) != 0) continue;
    const ti_kernels *k = ti_kernels_find(backend_names[n]);
    if (k && i-- == 0) return k;
  }
  return NULL;
}

const ti_kernels *cf_next(const ti_kernels *k) {
  for (int i = 0; cf_backend(i); i++) {
    if (cf_backend(i) == k) return cf_backend(i + 1);
  }
  return NULL;
}

cf_dev *cf_open(const ti_kernels *k, ti_act_quant q, int threads) { return cf_open_as(k, q, threads, true); }

cf_dev *cf_open_as(const ti_kernels *k, ti_act_quant q, int threads, bool deterministic) {
  cf_dev *d = calloc(1, sizeof *d);
  cr_assert(d);
  d->k = k;
  d->bf16 = k->act == TI_BF16;
  ti_error err = {0};
  const ti_dev_options o = {.threads = threads, .act_quant = q, .deterministic = deterministic};
  cr_assert_eq(k->open(&o, &d->d, &err), TI_OK, "%s: open: %s", k->name, err.text);
  cf_ok(d, "reserve", k->reserve(d->d, CF_MAX_ROW, CF_MAX_K, 1024, CF_MAX_VOCAB));
  return d;
}

// Memory checkers of the host and of the device see for themselves what lies outside.
static size_t guard_of(const cf_dev *d) {
  const char *no = getenv("TI_CONFORMANCE_GUARD");
  return d->k->async && !(no && strcmp(no, "0") == 0) ? CF_GUARD : 0;
}

static void check_guard(cf_dev *d, int i) {
  uint8_t after[CF_GUARD];
  const size_t guard = guard_of(d);
  if (!guard) return;
  cf_down(d, after, (const char *)d->device[i] + d->device_bytes[i], guard);
  for (size_t b = 0; b < guard; b++)
    cr_assert(after[b] == 0xff, "%s: byte %zu behind the %zu of allocation %d was written", d->k->name, b, d->device_bytes[i], i);
}

void cf_reset(cf_dev *d) {
  for (int i = 0; i < d->n_device; i++) check_guard(d, i);
  for (int i = 0; i < d->n_device; i++) d->k->free(d->d, d->device[i]);
  for (int i = 0; i < d->n_host; i++) free(d->host[i]);
  d->n_device = d->n_host = 0;
}

void cf_close(cf_dev *d) {
  cf_reset(d);
  d->k->close(d->d);
  free(d->device);
  free(d->device_bytes);
  free(d->host);
  free(d);
}

static void keep(void ***list, int *n, void *p) {
  if ((*n & (*n - 1)) == 0) {  // 0, 1, 2, 4, ..: room for twice as many
    *list = realloc(*list, sizeof **list * (size_t)(*n ? 2 * *n : 1));
    cr_assert(*list);
  }
  (*list)[(*n)++] = p;
}

void *cf_host(cf_dev *d, size_t bytes) {
  void *p = calloc(1, bytes ? bytes : 1);
  cr_assert(p);
  keep(&d->host, &d->n_host, p);
  return p;
}

void cf_put(cf_dev *d, void *dst, const void *host, size_t bytes) { cf_ok(d, "upload", d->k->upload(d->d, dst, host, bytes)); }

void *cf_up(cf_dev *d, const void *host, size_t bytes) {
  static const uint8_t nan[CF_GUARD] = {[0 ... CF_GUARD - 1] = 0xff};  // in fp32, bf16 and e4m3
  const size_t guard = guard_of(d);
  void *p = d->k->alloc(d->d, bytes + guard ? bytes + guard : 1);
  cr_assert(p, "%s: alloc(%zu)", d->k->name, bytes);
  cr_assert_eq((uintptr_t)p % 64, 0, "%s: alloc is not 64-byte aligned", d->k->name);
  d->device_bytes = realloc(d->device_bytes, ((size_t)d->n_device + 1) * sizeof *d->device_bytes);
  cr_assert(d->device_bytes);
  d->device_bytes[d->n_device] = bytes;
  keep(&d->device, &d->n_device, p);
  cf_put(d, p, host, bytes);
  if (guard) cf_put(d, (char *)p + bytes, nan, guard);
  return p;
}

void cf_down(cf_dev *d, void *host, const void *src, size_t bytes) {
  cf_ok(d, "download", d->k->download(d->d, host, src, bytes));
  cf_ok(d, "sync", d->k->sync(d->d));
}

static void draw(uint64_t seed, uint64_t i, uint32_t out[4]) {
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, ctr[4] = {(uint32_t)i, (uint32_t)(i >> 32), 0, 77};
  ti_philox4x32(key, ctr, out);
}

float *cf_floats(cf_dev *d, size_t n, uint64_t seed, float spread) {
  float *x = cf_host(d, n * sizeof *x);
  for (size_t i = 0; i < n; i++) {  // the sum of three uniforms: near enough to a normal one
    uint32_t r[4];
    draw(seed, i, r);
    x[i] = 2.0f * (ti_u32_to_unit(r[0]) + ti_u32_to_unit(r[1]) + ti_u32_to_unit(r[2]) - 1.5f) * spread;
    if (d->bf16) x[i] = ti_bf16_to_f32(ti_f32_to_bf16(x[i]));
  }
  return x;
}

int32_t *cf_ints(cf_dev *d, size_t n, uint64_t seed, int32_t below) {
  int32_t *x = cf_host(d, n * sizeof *x);
  for (size_t i = 0; i < n; i++) {
    uint32_t r[4];
    draw(seed, i, r);
    x[i] = (int32_t)(r[3] % (uint32_t)below);
  }
  return x;
}

void *cf_up_act(cf_dev *d, const float *host, size_t n) {
  if (d->k->act == TI_F32) return cf_up(d, host, n * sizeof *host);
  uint16_t *h = cf_host(d, n * sizeof *h);
  for (size_t i = 0; i < n; i++) h[i] = ti_f32_to_bf16(host[i]);
  return cf_up(d, h, n * sizeof *h);
}

static float *nans(cf_dev *d, size_t n) {
  float *x = cf_host(d, n * sizeof *x);
  for (size_t i = 0; i < n; i++) x[i] = NAN;
  return x;
}
void *cf_out_act(cf_dev *d, size_t n) { return cf_up_act(d, nans(d, n), n); }
void *cf_out_f32(cf_dev *d, size_t n) { return cf_up(d, nans(d, n), n * sizeof(float)); }

float *cf_down_f32(cf_dev *d, const void *src, size_t n) {
  float *x = cf_host(d, n * sizeof *x);
  cf_down(d, x, src, n * sizeof *x);
  return x;
}

float *cf_down_act(cf_dev *d, const void *src, size_t n) {
  if (d->k->act == TI_F32) return cf_down_f32(d, src, n);
  uint16_t *h = cf_host(d, n * sizeof *h);
  float *x = cf_host(d, n * sizeof *x);
  cf_down(d, h, src, n * sizeof *h);
  for (size_t i = 0; i < n; i++) x[i] = ti_bf16_to_f32(h[i]);
  return x;
}

// In any order of summation the worst case is k; rounding errors of random sign grow with the root, and 8 covers the short sums.
double cf_gemm_growth(int64_t k) { return 8.0 + 2.0 * sqrt((double)k); }

void cf_allow_bf16(const cf_dev *d, double *magnitude, size_t n, int64_t k) {
  for (size_t i = 0; d->k->act == TI_BF16 && i < n; i++) magnitude[i] *= 0x1p16 / cf_gemm_growth(k);
}

void cf_allow_fp8_sums(const cf_dev *d, double *magnitude, size_t n, int64_t k) {
  for (size_t i = 0; d->k->act == TI_BF16 && i < n; i++) magnitude[i] *= 0x1p12 / cf_gemm_growth(k);
}

size_t cf_scales(const cf_dev *d, int m, int k) {
  const size_t rows = (size_t)(d->k->scale_by_k ? (m + 3) / 4 * 4 : m);
  return rows * (size_t)((k + 127) / 128);
}

size_t cf_scale_at(const cf_dev *d, int m, int k, int r, int b) {
  return d->k->scale_by_k ? (size_t)(b * ((m + 3) / 4 * 4) + r) : (size_t)(r * ((k + 127) / 128) + b);
}

void cf_codes_of(cf_dev *d, const char *what, const uint8_t *q, const float *scale, const float *host, int m, int k) {
  uint8_t *code = cf_host(d, (size_t)(m * k));
  cf_down(d, code, q, (size_t)(m * k));
  const float *s = cf_down_f32(d, scale, cf_scales(d, m, k));
  for (int r = 0; r < m; r++) {
    for (int c0 = 0; c0 < k; c0 += 128) {
      const int n = k - c0 < 128 ? k - c0 : 128;
      const float *x = host + r * k + c0, got = s[cf_scale_at(d, m, k, r, c0 / 128)];
      float amax = 1e-4f;
      for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
      const float want = amax / 448.0f;
      cr_assert(got == want, "%s: %s: scale [%d, %d] is %.9g, want %.9g", d->k->name, what, r, c0 / 128, (double)got, (double)want);
      for (int i = 0; i < n; i++) {
        const uint8_t e = ti_f32_to_e4m3(x[i] / want), g = code[r * k + c0 + i];
        cr_assert(g == e, "%s: %s: code [%d, %d] is %02x, want %02x", d->k->name, what, r, c0 + i, g, e);
      }
    }
  }
}

void cf_close_to(const cf_dev *d, const char *what, cf_tol tol, const float *got, const double *want, const double *magnitude, size_t n) {
  const cf_tolerance t = cf_tolerances[tol];
  const double act = d->k->act == TI_BF16 ? 0x1p-7 : 0.0;
  for (size_t i = 0; i < n; i++) {
    const double limit = t.rel * (magnitude ? magnitude[i] : fabs(want[i])) + t.abs + act * (tol == CF_ATTENTION ? magnitude[i] : fabs(want[i]));
    if (isinf(want[i]) && (double)got[i] == want[i]) continue;
    cr_assert(fabs((double)got[i] - want[i]) <= limit, "%s: %s: element %zu of %zu is %.9g, want %.9g +- %.3g", d->k->name, what, i, n,
              (double)got[i], want[i], limit);
  }
}

void cf_same_bits(const cf_dev *d, const char *what, const void *got, const void *want, size_t bytes) {
  const unsigned char *g = got, *w = want;
  for (size_t i = 0; i < bytes; i++) cr_assert(g[i] == w[i], "%s: %s: byte %zu of %zu is %02x, want %02x", d->k->name, what, i, bytes, g[i], w[i]);
}

void cf_ok(const cf_dev *d, const char *what, ti_status st) { cr_assert(st == TI_OK, "%s: %s: %s", d->k->name, what, ti_status_text(st)); }
