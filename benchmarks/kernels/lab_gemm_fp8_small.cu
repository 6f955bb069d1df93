// FP8 GEMM for few tokens (kernels/cuda/gemm_fp8_small.cu) beside cuBLASLt's block128: every m of 1..130, every cut of the work, poisoned padding,
// the same bits from run to run; silu with codes against the fp32 product; then the table, with the figure of --deterministic (no split of K) and,
// for m = 1, 16, 64, of an op in a chain of them under programmatic dependent launch, as the engine runs it; last, every gate of the bandwidth that
// was missed, beside the plain read of the same bytes (lab_floor.h).
//
//   lab_gemm_fp8_small [--quick] [--json FILE]
#include "benchmarks/kernels/fp8_inputs.cuh"
#include "benchmarks/kernels/lab_floor.h"
#include "kernels/cuda/gemm_fp8_small.h"

// The tensor core sums 32 products with about 14 bits; 4 such sums make a block of K, and blocks are added in fp32.
#define FP8_BOUND 0x1p-13

enum { MAX_M = 130 };

typedef struct fixture {
  lab *l;
  fp8_operand x, w;  // x: MAX_M rows
  uint8_t *xq;       // [MAX_M, k] of m rows, poison behind
  float *xs;         // [k / 128, m rounded up to 4], poison behind m
  uint16_t *out, *again;
  double *ref, *mag;
  ti_fp8_small_args a;
} fixture;

static __global__ void take_scales(float *to, const float *from, int m, int ld, int from_ld, int n_kb) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n_kb * ld) to[i] = i % ld < m ? from[i / ld * from_ld + i % ld] : __int_as_float(-1);
}

static fixture fixture_make(lab *l, int n, int k, int max_m, bool ref) {
  fixture f = {};
  f.l = l;
  f.x = fp8_make(l, max_m, k, 1, 1, ref);
  f.w = fp8_make(l, n, k, 128, 2, ref);
  f.xq = (uint8_t *)lab_alloc(l, (size_t)max_m * k);
  f.xs = (float *)lab_alloc(l, (size_t)(max_m + 3) * ((k + 127) / 128) * 4);
  f.out = (uint16_t *)lab_alloc(l, (size_t)(max_m + 1) * n * 2);
  f.again = (uint16_t *)lab_alloc(l, (size_t)(max_m + 1) * n * 2);
  if (ref) {
    f.ref = (double *)lab_alloc(l, (size_t)max_m * n * 8);
    f.mag = (double *)lab_alloc(l, (size_t)max_m * n * 8);
  }
  f.a.x = f.xq, f.a.x_scale = f.xs, f.a.w = f.w.q, f.a.w_scale = f.w.scale, f.a.n = n, f.a.k = k;
  return f;
}
static void fixture_free(fixture *f) {
  fp8_free(f->l, &f->x);
  fp8_free(f->l, &f->w);
  void *const all[] = {f->xq, f->xs, f->out, f->again, f->ref, f->mag};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(f->l, all[i]);
}
// The first m rows of x, as quant_fp8 would have left them for m rows.
static void fixture_rows(fixture *f, int m) {
  const int k = f->a.k, n_kb = (k + 127) / 128, ld = (m + 3) & ~3, from = ((int)f->x.rows + 3) & ~3;
  lab_poison(f->l, f->xq, (size_t)f->x.rows * k);
  lab_ok(f->l, cudaMemcpyAsync(f->xq, f->x.q, (size_t)m * k, cudaMemcpyDeviceToDevice, f->l->stream), "x");
  take_scales<<<(n_kb * ld + 255) / 256, 256, 0, f->l->stream>>>(f->xs, f->x.scale, m, ld, from, n_kb);
  f->a.m = m;
}
// One launch into poison: inside the bound, nothing written behind the rows, the same bits again.
static lab_error fixture_check(fixture *f, const char *what) {
  lab *l = f->l;
  const size_t row = (size_t)f->a.n * 2, bytes = row * (size_t)(f->a.m + 1);
  for (int i = 0; i < 2; i++) {
    f->a.out = i ? f->again : f->out;
    lab_poison(l, f->a.out, bytes);
    lab_op(l, ti_cuda_fp8_small(&l->dev, &f->a), what);
  }
  const lab_error e = lab_compare(l, f->out, TI_BF16, f->a.n, f->ref, f->mag, f->a.m, f->a.n, FP8_BOUND);
  const ti_fp8_small_plan *p = &f->a.plan;
  lab_expect(l, e.worst <= 1.0 && e.diff < 1e-4, "%s: m %d n %d k %d (rows %d split %d tokens %d): %.3g of the bound at %lld, diff %.2e", what,
             f->a.m, f->a.n, f->a.k, p->rows, p->split, p->tokens, e.worst, (long long)e.at, e.diff);
  lab_expect(l, lab_is_poison(l, (uint8_t *)f->out + row * (size_t)f->a.m, row), "%s: m %d n %d: the row behind the last was written", what, f->a.m,
             f->a.n);
  lab_expect(l, lab_same(l, f->out, f->again, bytes), "%s: m %d n %d k %d: bits differ between two runs", what, f->a.m, f->a.n, f->a.k);
  return e;
}

static void check_every_m(lab *l, int n, int k) {
  fixture f = fixture_make(l, n, k, MAX_M, true);
  double worst = 0, diff = 0, plain = 0;
  for (int m = 1; m <= MAX_M; m += l->quick ? 7 : 1) {
    fixture_rows(&f, m);
    lab_gemm_ref(l, &f.x.dequantised, &f.w.dequantised, m, n, k, f.ref, f.mag);
    const lab_error e = fixture_check(&f, "every m");
    lab_gemm_ref(l, &f.x.exact, &f.w.exact, m, n, k, f.ref, f.mag);
    const lab_error u = lab_compare(l, f.out, TI_BF16, n, f.ref, f.mag, m, n, FP8_BOUND);
    lab_expect(l, u.diff < 1e-3, "m %d n %d k %d: diff %.2e from the unquantised product", m, n, k, u.diff);
    worst = e.worst > worst ? e.worst : worst, diff = e.diff > diff ? e.diff : diff, plain = u.diff > plain ? u.diff : plain;
  }
  printf("m 1..%d, (%d, %d): %.2f of the bound, diff %.1e; from the unquantised product %.1e\n", MAX_M, n, k, worst, diff, plain);
  fixture_free(&f);
}

static void check_plans(lab *l, int n, int k) {
  static const int ms[] = {1, 7, 16, 33, 64, 65, 129}, rows[] = {64, 128, 192, 256};
  fixture f = fixture_make(l, n, k, MAX_M, true);
  for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
    fixture_rows(&f, ms[i]);
    lab_gemm_ref(l, &f.x.dequantised, &f.w.dequantised, ms[i], n, k, f.ref, f.mag);
    const int tokens = ms[i] <= 8 ? 8 : ms[i] <= 16 ? 16 : ms[i] <= 32 ? 32 : ms[i] <= 64 ? 64 : 128;
    for (int v = 0; v < 4 * 8 * 2; v++) {
      const ti_fp8_small_plan p = {rows[v % 4], 1 + v / 4 % 8, tokens, 1 + v / 32};
      if (!ti_cuda_fp8_small_takes(&p)) continue;
      f.a.plan = p;
      fixture_check(&f, "plans");
    }
    f.a.plan = (ti_fp8_small_plan){};
  }
  fixture_free(&f);
}

// silu(gate) * up and its codes against the fp32 product [m, 2 dim], a thread a token's 128 outputs: out within 2^-8, scale and codes out's own.
static __global__ void check_silu_kernel(const float *product, const uint16_t *out, const uint8_t *q, const float *scale, int m, int dim, int q_ld,
                                         unsigned long long *bad) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), t = i % m, b = i / m;
  if (b >= dim / 128) return;
  float top = 0.0f;
  unsigned long long wrong = 0;
  for (int c = b * 128; c < b * 128 + 128; c++) {
    const double g = product[(int64_t)t * 2 * dim + c], u = product[(int64_t)t * 2 * dim + dim + c], want = g / (1.0 + exp(-g)) * u;
    const float is = __uint_as_float((uint32_t)out[(int64_t)t * dim + c] << 16);
    wrong += !(fabs(is - want) <= 0x1p-8 * fabs(want));
    top = fmaxf(top, fabsf(is));
  }
  const float s = fmaxf(top, 1e-4f) / 448.0f;
  wrong += scale[b * q_ld + t] != s;
  for (int c = b * 128; c < b * 128 + 128; c++) {
    const float is = __uint_as_float((uint32_t)out[(int64_t)t * dim + c] << 16);
    wrong += q[(int64_t)t * dim + c] != (uint8_t)__nv_cvt_float_to_fp8(is / s, __NV_SATFINITE, __NV_E4M3);
  }
  if (wrong) atomicAdd(bad, wrong);
}
static void check_silu(lab *l, int dim, int k) {
  static const int ms[] = {1, 7, 8, 9, 16, 31, 32, 33, 64}, splits[] = {1, 3};
  fixture f = fixture_make(l, 2 * dim, k, 64, false);
  float *product = (float *)lab_alloc(l, (size_t)64 * 2 * dim * 4);
  uint8_t *q = (uint8_t *)lab_alloc(l, (size_t)64 * dim);
  float *scale = (float *)lab_alloc(l, (size_t)64 * (dim / 128) * 4);
  unsigned long long *bad = (unsigned long long *)l->sums, n = 0;
  for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
    const int m = ms[i], tokens = m <= 8 ? 8 : m <= 16 ? 16 : m <= 32 ? 32 : 64;
    fixture_rows(&f, m);
    for (size_t v = 0; v < sizeof splits / sizeof *splits; v++) {
      ti_fp8_small_args a = f.a;
      a.plan = (ti_fp8_small_plan){64, splits[v], tokens, 1};
      a.out = product, a.out_f32 = true;
      lab_op(l, ti_cuda_fp8_small(&l->dev, &a), "product");
      a.plan = (ti_fp8_small_plan){256, splits[v], tokens, 1};
      a.out = f.out, a.out_f32 = false, a.silu = a.stacked = true, a.q = q, a.q_scale = scale;
      lab_poison(l, f.out, (size_t)64 * dim * 2);
      lab_poison(l, q, (size_t)64 * dim);
      lab_poison(l, scale, (size_t)64 * (dim / 128) * 4);
      lab_op(l, ti_cuda_fp8_small(&l->dev, &a), "silu");
      lab_ok(l, cudaMemsetAsync(bad, 0, sizeof n, l->stream), "silu");
      check_silu_kernel<<<(m * (dim / 128) + 63) / 64, 64, 0, l->stream>>>(product, f.out, q, scale, m, dim, (m + 3) & ~3, bad);
      lab_ok(l, cudaMemcpyAsync(&n, bad, sizeof n, cudaMemcpyDeviceToHost, l->stream), "silu");
      lab_sync(l, "silu");
      lab_expect(l, n == 0, "silu: m %d dim %d k %d split %d: %llu outputs, scales or codes", m, dim, k, splits[v], n);
    }
  }
  lab_free(l, product);
  lab_free(l, q);
  lab_free(l, scale);
  fixture_free(&f);
}

typedef struct peer {
  lab *l;
  ti_blas_args a;
  ti_status st;
} peer;
static void run_peer(void *arg) {
  peer *p = (peer *)arg;
  p->st = ti_blas_gemm(p->l->blas, p->l->stream, &p->a);
}
static void run_small(void *arg) {
  fixture *f = (fixture *)arg;
  lab_op(f->l, ti_cuda_fp8_small(&f->l->dev, &f->a), "timed");
}

enum { CHAIN = 8 };
typedef struct chain {
  fixture *f;
  uint8_t *w;  // [CHAIN, n, k]
} chain;
static void run_chain(void *arg) {
  chain *c = (chain *)arg;
  ti_fp8_small_args a = c->f->a;
  for (int i = 0; i < CHAIN; i++) {
    a.w = c->w + (size_t)i * a.n * a.k;
    lab_op(c->f->l, ti_cuda_fp8_small(&c->f->l->dev, &a), "chain");
  }
}

static void row(fixture *f, const char *variant, double us, double peer_us, double floor_us) {
  const double m = f->a.m, n = f->a.n, k = f->a.k;
  lab_row r = {"gemm_fp8_small", variant, f->a.m, f->a.n, f->a.k, us, 2.0 * m * n * k, n * k + m * k + 2.0 * m * n, "block128", peer_us, floor_us};
  lab_print(f->l, &r);
}

// What the gates ask for: shares of the copy where W has 25 MB and more, and to be faster than the peer by a fifth.
#define GATE_BYTES 25e6
#define GATE_RATIO 1.2
typedef struct miss {
  int m, n, k;
  double us, peer_us, bytes, share;
  lab_floor floor;
} miss;
static miss missed[128];
static int n_missed;

static void gate(const lab *l, const fixture *f, double us, double peer_us, const lab_floor *floor) {
  const double n = f->a.n, k = f->a.k, m = f->a.m, bytes = n * k + m * k + 2.0 * m * n;
  const miss s = {f->a.m, f->a.n, f->a.k, us, peer_us, bytes, m <= 16 ? 0.6 : 0.5, *floor};
  if (n * k < GATE_BYTES || n_missed == sizeof missed / sizeof *missed) return;
  if (bytes / us * 1e-3 < s.share * l->copy_gbs || (peer_us > 0 && peer_us / us < GATE_RATIO)) missed[n_missed++] = s;
}
static void print_missed(const lab *l) {
  printf(
      "\nmissed of 60 / 50 %% of copy (m to 16 / above) and %.1f x the peer; floor: the plain read of W\n"
      "%6s %7s %7s %8s %7s %7s %7s  %8s %8s %9s  %8s  %s\n",
      GATE_RATIO, "m", "n", "k", "us", "% copy", "gate", "ratio", "floor us", "% copy", "above it", "in chain", "the readers, alone and in a chain");
  for (int i = 0; i < n_missed; i++) {
    const miss *s = &missed[i];
    const double copy_us = s->bytes / l->copy_gbs * 1e-3;
    printf("%6d %7d %7d %8.2f %7.1f %7.0f %7.2f  %8.2f %8.1f %9.2f  %8.2f  %s | %s\n", s->m, s->n, s->k, s->us, 100 * copy_us / s->us, 100 * s->share,
           s->peer_us / s->us, s->floor.us, 100 * copy_us / s->floor.us, s->us - s->floor.us, s->floor.chain_us, s->floor.name, s->floor.chain_name);
  }
}

static void time_shape(lab *l, int n, int k) {
  static const int ms[] = {1, 4, 16, 64, 128};
  fixture f = fixture_make(l, n, k, 128, false);
  const int n_kb = (k + 127) / 128, ld = (n_kb + 3) & ~3;
  float *peer_scale = (float *)lab_alloc(l, (size_t)((n + 127) / 128) * ld * 4);
  lab_fill_scale(l, peer_scale, (size_t)((n + 127) / 128) * ld, 3, 0.001f);
  chain c = {&f, (uint8_t *)lab_alloc(l, (size_t)CHAIN * n * k)};
  for (int i = 0; i < CHAIN; i++)
    lab_ok(l, cudaMemcpyAsync(c.w + (size_t)i * n * k, f.w.q, (size_t)n * k, cudaMemcpyDeviceToDevice, l->stream), "chain");
  const lab_floor floor = lab_floor_of(l, (double)n * k);
  for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
    fixture_rows(&f, ms[i]);
    f.a.out = f.out;
    peer p = {l, {}, TI_OK};
    p.a.out = f.again, p.a.x = f.xq, p.a.w = f.w.q, p.a.x_scale = f.xs, p.a.w_scale = peer_scale;
    p.a.m = ms[i], p.a.n = n, p.a.k = k, p.a.scale = TI_BLAS_BLOCK, p.a.out_dtype = TI_BF16;
    double peer_us = 0;
    if (l->blas != NULL) {
      run_peer(&p);
      if (p.st == TI_OK) peer_us = lab_time_us(l, run_peer, &p);
    }
    const double us = lab_time_us(l, run_small, &f);
    row(&f, "ours", us, peer_us, floor.us);
    if (ms[i] != 4) gate(l, &f, us, peer_us, &floor);
    l->dev.deterministic = true;
    row(&f, "deterministic", lab_time_us(l, run_small, &f), peer_us, floor.us);
    l->dev.deterministic = false;
    if (ms[i] == 1 || ms[i] == 16 || ms[i] == 64) {
      l->dev.pdl = true;
      row(&f, "in a chain", lab_time_chain_us(l, run_chain, &c, CHAIN), 0, floor.chain_us);
      if (2 * (int64_t)k < n) {  // as a gate and up of codes
        f.a.silu = f.a.stacked = true, f.a.q = (uint8_t *)f.again, f.a.q_scale = (float *)(f.again + (size_t)64 * n);
        row(&f, "silu, in a chain", lab_time_chain_us(l, run_chain, &c, CHAIN), 0, floor.chain_us);
        f.a.silu = f.a.stacked = false, f.a.q = NULL, f.a.q_scale = NULL;
      }
      l->dev.pdl = false;
    }
  }
  lab_free(l, c.w);
  lab_free(l, peer_scale);
  fixture_free(&f);
}

int main(int argc, char **argv) {
  static const int shapes[][2] = {{2112, 7168}, {576, 7168},   {24576, 1536}, {32768, 512}, {7168, 16384}, {4096, 7168},  {7168, 2048}, {2560, 2048},
                                  {2048, 2048}, {11264, 2048}, {2048, 5632},  {6144, 4096}, {4096, 4096},  {28672, 4096}, {4096, 14336}};
  lab l;
  lab_open(&l, "lab_gemm_fp8_small", &argc, argv);
  check_every_m(&l, 576, 7168);
  check_every_m(&l, 2112, 1040);
  check_plans(&l, 576, 1536);
  check_silu(&l, 1408, 2048);
  check_silu(&l, 256, 1040);
  lab_head("FP8 (1x128 x 128x128) -> bf16");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) time_shape(&l, shapes[i][0], shapes[i][1]);
  print_missed(&l);
  return lab_close(&l);
}
