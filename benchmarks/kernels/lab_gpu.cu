// The harness of the CUDA labs (lab_gpu.h).
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"

// ---- device code ----------------------------------------------------------------------------------------------------------------------------------

static __global__ void empty_kernel() {}

static __global__ void write_kernel(uint4 *p, size_t n, uint32_t v) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = make_uint4(v, v, v, v);
}
static __global__ void read_kernel(const uint4 *p, size_t n, uint32_t *sink) {
  uint32_t x = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    const uint4 v = p[i];
    x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (x == 0x9e3779b9u) *sink = x;
}

static __device__ uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
static __device__ void put(void *p, ti_dtype type, size_t i, float v) {
  if (type == TI_F32) ((float *)p)[i] = v;
  if (type == TI_BF16) ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
  if (type == TI_E4M3) ((uint8_t *)p)[i] = (uint8_t)__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}
static __device__ float get(const void *p, ti_dtype type, size_t i) {
  if (type == TI_F32) return ((const float *)p)[i];
  if (type == TI_BF16) return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(((const uint8_t *)p)[i], __NV_E4M3)));
}
static __global__ void fill_kernel(void *p, ti_dtype type, size_t n, uint64_t seed, float amp) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    put(p, type, i, amp * ((float)(mix(seed * 0x100000001b3ull + i) >> 40) * 0x1p-23f - 1.0f));
  }
}
static __global__ void fill_scale_kernel(float *p, size_t n, uint64_t seed, float lo) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    p[i] = lo * exp2f((float)(mix(seed * 0x100000001b3ull + i) >> 40) * 0x1p-23f);
  }
}

static __device__ double element(const lab_mat &a, int64_t r, int64_t c) {
  const double v = get(a.data, a.type, (size_t)(r * a.ld + c));
  return a.scale ? v * (double)a.scale[r / a.sr * a.s_ld + c / a.sc * a.s_step] : v;
}

enum { TILE = 16 };
static __global__ void ref_kernel(lab_mat x, lab_mat w, int m, int64_t n, int64_t k, double *ref, double *mag) {
  __shared__ double xs[TILE][TILE + 1], ws[TILE][TILE + 1];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t c0 = (int64_t)blockIdx.x * TILE, r0 = (int64_t)blockIdx.y * TILE;
  double sum = 0.0, abs_sum = 0.0;
  for (int64_t k0 = 0; k0 < k; k0 += TILE) {
    const bool in = k0 + tx < k;
    xs[ty][tx] = in && r0 + ty < m ? element(x, r0 + ty, k0 + tx) : 0.0;
    ws[ty][tx] = in && c0 + ty < n ? element(w, c0 + ty, k0 + tx) : 0.0;
    __syncthreads();
    for (int i = 0; i < TILE; i++) {
      const double p = xs[ty][i] * ws[tx][i];
      sum += p;
      abs_sum += fabs(p);
    }
    __syncthreads();
  }
  if (r0 + ty < m && c0 + tx < n) {
    ref[(r0 + ty) * n + c0 + tx] = sum;
    if (mag) mag[(r0 + ty) * n + c0 + tx] = abs_sum;
  }
}

// sums: xy, xx, yy, squared error, the worst ratio; then its index as an integer.
static __global__ void compare_kernel(const void *out, ti_dtype type, int64_t ldo, const double *ref, const double *mag, int m, int64_t n, double acc,
                                      double *sums) {
  __shared__ double s[4][256], worst[256];
  __shared__ long long at[256];
  const double half_ulp = type == TI_F32 ? 0x1p-24 : 0x1p-8;  // of the value, at most
  double xy = 0, xx = 0, yy = 0, ee = 0, w = 0;
  long long where = 0;
  for (int64_t i = threadIdx.x + (int64_t)blockIdx.x * 256; i < m * n; i += (int64_t)gridDim.x * 256) {
    const double y = ref[i], x = get(out, type, (size_t)(i / n * ldo + i % n)), e = fabs(x - y);
    double r = e / (acc * (mag ? mag[i] : fabs(y)) + half_ulp * (fabs(y) + acc * (mag ? mag[i] : 0.0)) + 1e-37);
    if (!(r < 1e30)) r = 1e30;
    xy += x * y, xx += x * x, yy += y * y, ee += e * e;
    if (r > w) w = r, where = i;
  }
  const int t = threadIdx.x;
  s[0][t] = xy, s[1][t] = xx, s[2][t] = yy, s[3][t] = ee, worst[t] = w, at[t] = where;
  __syncthreads();
  if (t == 0) {
    for (int i = 1; i < 256; i++) {
      for (int j = 0; j < 4; j++) s[j][0] += s[j][i];
      if (worst[i] > worst[0]) worst[0] = worst[i], at[0] = at[i];
    }
    double *o = sums + 6 * blockIdx.x;
    for (int j = 0; j < 4; j++) o[j] = s[j][0];
    o[4] = worst[0];
    o[5] = (double)at[0];
  }
}

static __global__ void hash_kernel(const uint8_t *p, size_t n, unsigned long long *out) {
  unsigned long long h = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) h += mix(i * 256 + p[i]);
  atomicAdd(out, h);  // integers: any order
}
static __global__ void differ_kernel(const uint8_t *a, const uint8_t *b, size_t n, unsigned long long *out) {
  unsigned long long bad = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) bad += a[i] != (b ? b[i] : 0xff);
  if (bad) atomicAdd(out, bad);
}

// ---- set-up ---------------------------------------------------------------------------------------------------------------------------------------

void lab_ok(const lab *l, cudaError_t e, const char *what) {
  if (e == cudaSuccess) return;
  fflush(stdout);
  fprintf(stderr, "%s: %s: %s\n", l->name, what, cudaGetErrorString(e));
  exit(1);
}
void lab_op(const lab *l, ti_status st, const char *what) {
  if (st == TI_OK) return;
  fflush(stdout);
  fprintf(stderr, "%s: %s: %s; %s\n", l->name, what, ti_status_text(st), l->dev.last_error);
  exit(1);
}
void lab_sync(const lab *l, const char *what) {
  lab_ok(l, cudaGetLastError(), what);
  lab_ok(l, cudaStreamSynchronize(l->stream), what);
}

static void options(lab *l, int *argc, char **argv) {
  int n = 1;
  for (int i = 1; i < *argc; i++) {
    if (!strcmp(argv[i], "--quick")) {
      l->quick = true;
    } else if (!strcmp(argv[i], "--json") && i + 1 < *argc) {
      const char *path = argv[++i];
      l->json = fopen(path, "w");
      if (!l->json) {
        fprintf(stderr, "%s: --json %s: cannot be written\n", l->name, path);
        exit(1);
      }
    } else {
      argv[n++] = argv[i];
    }
  }
  *argc = n;
}

static void run_empty(void *arg) { empty_kernel<<<1, 32, 0, ((lab *)arg)->stream>>>(); }

static void measure_limits(lab *l) {
  const size_t bytes = (size_t)1 << 30;
  void *a = lab_alloc(l, bytes), *b = lab_alloc(l, bytes);
  lab_fill(l, a, TI_F32, bytes / 4, 1, 1.0f);
  float best = 0.0f;
  for (int i = 0; i < 6; i++) {
    float ms;
    lab_ok(l, cudaEventRecord(l->t0, l->stream), "copy");
    lab_ok(l, cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, l->stream), "copy");
    lab_ok(l, cudaEventRecord(l->t1, l->stream), "copy");
    lab_sync(l, "copy");
    lab_ok(l, cudaEventElapsedTime(&ms, l->t0, l->t1), "copy");
    if (best == 0.0f || ms < best) best = ms;
  }
  l->copy_gbs = 2.0 * (double)bytes / best * 1e-6;
  lab_free(l, a);
  lab_free(l, b);
  l->empty_us = lab_time_us(l, run_empty, l);
}

void lab_open(lab *l, const char *name, int *argc, char **argv) {
  memset(l, 0, sizeof *l);
  l->name = name;
  options(l, argc, argv);
  l->runs = l->quick ? 7 : 21;
  cudaDeviceProp p;
  lab_ok(l, cudaGetDeviceProperties(&p, 0), "no GPU");
  snprintf(l->gpu, sizeof l->gpu, "%s", p.name);
  l->memory_bytes = p.totalGlobalMem;
  l->dev.n_sm = p.multiProcessorCount;
  l->dev.major = p.major;
  l->dev.minor = p.minor;
  l->dev.l2_bytes = (size_t)p.l2CacheSize;
  lab_ok(l, cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "stream");
  l->dev.stream = l->stream;
  lab_ok(l, cudaEventCreate(&l->t0), "event");
  lab_ok(l, cudaEventCreate(&l->t1), "event");
  lab_ok(l, cudaMalloc((void **)&l->sums, 6 * 1024 * sizeof(double)), "memory");
  l->dev.scratch_bytes = (size_t)64 << 20;
  l->dev.scratch = lab_alloc(l, l->dev.scratch_bytes);
  lab_ok(l, cudaMemset(l->dev.scratch, 0, l->dev.scratch_bytes), "memory");
  l->flush_bytes = 5 * l->dev.l2_bytes;
  l->flush = lab_alloc(l, l->flush_bytes);
  measure_limits(l);
  ti_error err = {};
  if (ti_blas_open(getenv("CUBLASLT"), false, &l->blas, &err) != TI_OK) printf("no peer: %s\n", err.text);
  l->dev.blas = l->blas;
  printf("%s on %s: %d SMs, L2 %zu MiB, copy %.0f GB/s, empty kernel %.2f us%s\n", name, l->gpu, l->dev.n_sm, l->dev.l2_bytes >> 20, l->copy_gbs,
         l->empty_us, l->quick ? ", quick" : "");
  if (l->json) {
    fprintf(l->json, "{\"lab\": \"%s\", \"gpu\": \"%s\", \"n_sm\": %d, \"copy_gbs\": %.1f, \"empty_us\": %.3f, \"rows\": [", name, l->gpu,
            l->dev.n_sm, l->copy_gbs, l->empty_us);
  }
}

int lab_close(lab *l) {
  lab_sync(l, "last");
  if (l->json) {
    fprintf(l->json, "\n], \"failed\": %d}\n", l->failed);
    if (fclose(l->json) != 0) l->failed++;
  }
  ti_blas_close(l->blas);
  printf("%s: %s\n", l->name, l->failed ? "FAILED" : "all checks passed");
  return l->failed ? 1 : 0;
}

// ---- memory ---------------------------------------------------------------------------------------------------------------------------------------

enum { BLOCKS = 1024, THREADS = 256 };

void *lab_alloc(const lab *l, size_t bytes) {
  void *p = NULL;
  lab_ok(l, cudaMalloc(&p, bytes ? bytes : 1), "memory");
  lab_poison(l, p, bytes);
  return p;
}
void lab_free(const lab *l, void *p) {
  lab_sync(l, "free");
  lab_ok(l, cudaFree(p), "free");
}
void lab_poison(const lab *l, void *p, size_t bytes) { lab_ok(l, cudaMemsetAsync(p, 0xff, bytes, l->stream), "poison"); }
void lab_fill(const lab *l, void *p, ti_dtype type, size_t n, uint64_t seed, float amp) {
  fill_kernel<<<BLOCKS, THREADS, 0, l->stream>>>(p, type, n, seed, amp);
}
void lab_fill_scale(const lab *l, float *p, size_t n, uint64_t seed, float lo) {
  fill_scale_kernel<<<BLOCKS, THREADS, 0, l->stream>>>(p, n, seed, lo);
}

static unsigned long long count(const lab *l, const void *a, const void *b, size_t bytes, bool hash) {
  unsigned long long *sum = (unsigned long long *)l->sums, out = 0;
  lab_ok(l, cudaMemsetAsync(sum, 0, sizeof out, l->stream), "count");
  if (hash) {
    hash_kernel<<<BLOCKS, THREADS, 0, l->stream>>>((const uint8_t *)a, bytes, sum);
  } else {
    differ_kernel<<<BLOCKS, THREADS, 0, l->stream>>>((const uint8_t *)a, (const uint8_t *)b, bytes, sum);
  }
  lab_ok(l, cudaMemcpyAsync(&out, sum, sizeof out, cudaMemcpyDeviceToHost, l->stream), "count");
  lab_sync(l, "count");
  return out;
}
bool lab_same(const lab *l, const void *a, const void *b, size_t bytes) { return count(l, a, b, bytes, false) == 0; }
bool lab_is_poison(const lab *l, const void *p, size_t bytes) { return count(l, p, NULL, bytes, false) == 0; }
uint64_t lab_hash(const lab *l, const void *p, size_t bytes) { return count(l, p, NULL, bytes, true); }

// ---- the oracle -----------------------------------------------------------------------------------------------------------------------------------

void lab_gemm_ref(const lab *l, const lab_mat *x, const lab_mat *w, int m, int64_t n, int64_t k, double *ref, double *mag) {
  const dim3 grid((unsigned)((n + TILE - 1) / TILE), (unsigned)((m + TILE - 1) / TILE));
  ref_kernel<<<grid, dim3(TILE, TILE), 0, l->stream>>>(*x, *w, m, n, k, ref, mag);
}

lab_error lab_compare(const lab *l, const void *out, ti_dtype type, int64_t ldo, const double *ref, const double *mag, int m, int64_t n, double acc) {
  enum { N = 256 };
  double s[6 * N], xy = 0, xx = 0, yy = 0, ee = 0;
  compare_kernel<<<N, 256, 0, l->stream>>>(out, type, ldo, ref, mag, m, n, acc, l->sums);
  lab_ok(l, cudaMemcpyAsync(s, l->sums, sizeof s, cudaMemcpyDeviceToHost, l->stream), "compare");
  lab_sync(l, "compare");
  lab_error e = {};
  for (int i = 0; i < N; i++) {
    xy += s[6 * i], xx += s[6 * i + 1], yy += s[6 * i + 2], ee += s[6 * i + 3];
    if (s[6 * i + 4] > e.worst) e.worst = s[6 * i + 4], e.at = (int64_t)s[6 * i + 5];
  }
  e.diff = xx + yy > 0 ? 1.0 - 2.0 * xy / (xx + yy) : 0.0;
  e.rel = yy > 0 ? sqrt(ee / yy) : sqrt(ee);
  return e;
}

double lab_fp32_bound(int64_t k) { return (double)k * 0x1p-24; }

bool lab_expect(lab *l, bool ok, const char *fmt, ...) {
  if (ok) return true;
  va_list ap;
  va_start(ap, fmt);
  printf("FAILED: ");
  vprintf(fmt, ap);
  printf("\n");
  va_end(ap);
  l->failed++;
  return false;
}

// ---- time and tables ------------------------------------------------------------------------------------------------------------------------------

static void flush_l2(lab *l) {
  const size_t write = 3 * l->dev.l2_bytes, read = l->flush_bytes - write;
  write_kernel<<<4 * l->dev.n_sm, 512, 0, l->stream>>>((uint4 *)l->flush, write / 16, 0x3f803f80u);
  read_kernel<<<4 * l->dev.n_sm, 512, 0, l->stream>>>((const uint4 *)((char *)l->flush + write), read / 16, (uint32_t *)l->sums);
}

static int by_value(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

double lab_time_us(lab *l, lab_run run, void *arg) {
  float ms[64];
  const int runs = l->runs < 64 ? l->runs : 64;
  for (int i = -2; i < runs; i++) {  // two to warm up
    flush_l2(l);
    lab_ok(l, cudaEventRecord(l->t0, l->stream), "time");
    run(arg);
    lab_ok(l, cudaEventRecord(l->t1, l->stream), "time");
    lab_sync(l, "timed op");
    if (i >= 0) lab_ok(l, cudaEventElapsedTime(&ms[i], l->t0, l->t1), "time");
  }
  qsort(ms, (size_t)runs, sizeof *ms, by_value);
  return ms[runs / 2] * 1e3;
}

double lab_time_chain_us(lab *l, lab_run run, void *arg, int n) {
  float ms[16];
  cudaGraph_t g;
  cudaGraphExec_t x;
  lab_ok(l, cudaStreamBeginCapture(l->stream, cudaStreamCaptureModeThreadLocal), "capture");
  run(arg);
  lab_ok(l, cudaStreamEndCapture(l->stream, &g), "capture");
  lab_ok(l, cudaGraphInstantiate(&x, g, 0), "graph");
  const int runs = l->quick ? 5 : 11;
  for (int i = -1; i < runs; i++) {
    flush_l2(l);
    lab_ok(l, cudaEventRecord(l->t0, l->stream), "time");
    lab_ok(l, cudaGraphLaunch(x, l->stream), "graph");
    lab_ok(l, cudaEventRecord(l->t1, l->stream), "time");
    lab_sync(l, "timed graph");
    if (i >= 0) lab_ok(l, cudaEventElapsedTime(&ms[i], l->t0, l->t1), "time");
  }
  lab_ok(l, cudaGraphExecDestroy(x), "graph");
  lab_ok(l, cudaGraphDestroy(g), "graph");
  qsort(ms, (size_t)runs, sizeof *ms, by_value);
  return ms[runs / 2] * 1e3 / n;
}

void lab_head(const char *title) {
  printf("\n%s\n%-22s %6s %7s %7s %9s %8s %7s %6s  %-12s %9s %6s %8s %7s\n", title, "variant", "m", "n", "k", "us", "TFLOP/s", "GB/s", "% copy",
         "peer", "us", "ratio", "floor us", "% floor");
  fflush(stdout);
}

void lab_print(lab *l, const lab_row *r) {
  const double gbs = r->bytes / r->us * 1e-3, share = 100.0 * gbs / l->copy_gbs;
  printf("%-22s %6lld %7lld %7lld %9.2f %8.1f %7.0f %6.1f", r->variant, (long long)r->m, (long long)r->n, (long long)r->k, r->us,
         r->flop / r->us * 1e-6, gbs, share);
  if (r->peer_us > 0) {
    printf("  %-12s %9.2f %6.2f", r->peer, r->peer_us, r->peer_us / r->us);
  } else if (r->floor_us > 0) {
    printf("  %-12s %9s %6s", "", "", "");
  }
  if (r->floor_us > 0) printf(" %8.2f %7.1f", r->floor_us, 100.0 * r->floor_us / r->us);
  printf("\n");
  fflush(stdout);
  if (!l->json) return;
  fprintf(l->json,
          "%s\n  {\"op\": \"%s\", \"variant\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"us\": %.3f, \"tflops\": %.2f, \"gbs\": %.1f, ",
          l->n_json++ ? "," : "", r->op, r->variant, (long long)r->m, (long long)r->n, (long long)r->k, r->us, r->flop / r->us * 1e-6, gbs);
  fprintf(l->json, "\"copy_percent\": %.2f", share);
  if (r->peer_us > 0) fprintf(l->json, ", \"peer\": \"%s\", \"peer_us\": %.3f, \"ratio\": %.3f", r->peer, r->peer_us, r->peer_us / r->us);
  if (r->floor_us > 0) fprintf(l->json, ", \"floor_us\": %.3f", r->floor_us);
  fprintf(l->json, "}");
}
