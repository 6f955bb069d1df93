// bf16 products of few rows (kernels/cuda/gemv_bf16.cu): checked against fp64, then timed beside cuBLASLt.
//
//   lab_gemv_bf16 [--quick] [--json FILE] [check | sweep | time | chain]...      (no word: all but sweep)
//
//   check  every m in 1..64 and some above, every tile, odd shapes, strides with poison behind them, every epilogue; a row's bits must not depend on
//          m nor on the run
//   sweep  the tiles of every shape at m = 1 and 16: what ti_gemv_bf16_pick is made from
//   time   shapes of Llama-3-8B and TinyLlama-1.1B
//   chain  the four products of a layer, layer after layer in a graph, with programmatic dependent launch and without
#include <math.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"
#include "kernels/cuda/gemv_bf16.h"

enum { MAX_M = 130 };
static const int64_t shapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096},
                                    {2560, 2048}, {2048, 2048}, {11264, 2048}, {2048, 5632},  {32000, 2048}};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

typedef struct job {
  lab *l;
  ti_gemv_bf16_args a;
  ti_blas_args b;
} job;
// groups 0 stands for the kernel without shared memory.
static ti_status gemv(ti_dev *d, const ti_gemv_bf16_args *a) {
  return a->tile && a->tile->groups == 0 ? ti_cuda_gemv_bf16_direct(d, a) : ti_cuda_gemv_bf16(d, a);
}
static void run_ours(void *arg) {
  job *j = (job *)arg;
  lab_op(j->l, gemv(&j->l->dev, &j->a), "gemv_bf16");
}
static void run_blas(void *arg) {
  job *j = (job *)arg;
  lab_op(j->l, ti_blas_gemm(j->l->blas, j->l->stream, &j->b), "cuBLASLt");
}

// The floor: 16-byte loads of W by a full device, nothing else.
static __global__ void read_kernel(const uint4 *p, size_t n, uint32_t *sink) {
  enum { U = 8 };
  uint32_t x = 0;
  for (size_t i = (size_t)blockIdx.x * U * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * U * blockDim.x) {
    uint4 v[U] = {};
#pragma unroll
    for (int u = 0; u < U; u++) {
      if (i + u * blockDim.x < n) v[u] = __ldcs(p + i + u * blockDim.x);
    }
#pragma unroll
    for (int u = 0; u < U; u++) x ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (x == 0x9e3779b9u) *sink = x;
}
static void run_read(void *arg) {
  job *j = (job *)arg;
  read_kernel<<<2 * j->l->dev.n_sm, 512, 0, j->l->stream>>>((const uint4 *)j->a.w, (size_t)(j->a.n * j->a.k / 8), (uint32_t *)j->l->sums);
}

// ---- check ----

typedef struct check {
  lab *l;
  int64_t n, k, ldx, ldo;
  uint16_t *x, *w;
  float *bias;
  void *out, *again, *all;  // all: the rows of m = MAX_M, [MAX_M, ldo]
  double *ref, *mag;
} check;

static void check_open(check *c, lab *l, int64_t n, int64_t k) {
  c->l = l, c->n = n, c->k = k, c->ldx = k + 8, c->ldo = n + 6;
  c->x = (uint16_t *)lab_alloc(l, (size_t)(MAX_M * c->ldx) * 2);
  c->w = (uint16_t *)lab_alloc(l, (size_t)(n * k) * 2 + 4096);
  c->bias = (float *)lab_alloc(l, (size_t)n * 4);
  c->out = lab_alloc(l, (size_t)(MAX_M * c->ldo) * 4);
  c->again = lab_alloc(l, (size_t)(MAX_M * c->ldo) * 4);
  c->all = lab_alloc(l, (size_t)(MAX_M * c->ldo) * 4);
  c->ref = (double *)lab_alloc(l, (size_t)(MAX_M * n) * 8);
  c->mag = (double *)lab_alloc(l, (size_t)(MAX_M * n) * 8);
  for (int r = 0; r < MAX_M; r++) lab_fill(l, c->x + r * c->ldx, TI_BF16, (size_t)k, 100 + (uint64_t)r, 1.0f);
  lab_fill(l, c->w, TI_BF16, (size_t)(n * k), 7, 1.0f);
  lab_fill(l, c->bias, TI_F32, (size_t)n, 8, 1.0f);
  const lab_mat X = {c->x, TI_BF16, c->ldx, NULL, 1, 1, 0, 0}, W = {c->w, TI_BF16, k, NULL, 1, 1, 0, 0};
  lab_gemm_ref(l, &X, &W, MAX_M, n, k, c->ref, c->mag);
}
static void check_close(check *c) {
  void *const all[] = {c->x, c->w, c->bias, c->out, c->again, c->all, c->ref, c->mag};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lab_free(c->l, all[i]);
}

static ti_gemv_bf16_args args_of(const check *c, void *out, int m, const ti_gemv_bf16_tile *t, bool f32) {
  ti_gemv_bf16_args a = {};
  a.out = out, a.x = c->x, a.w = c->w, a.m = m, a.n = c->n, a.k = c->k, a.ldx = c->ldx, a.ldo = c->ldo, a.out_f32 = f32, a.tile = t;
  return a;
}
static bool run_into(const check *c, void *out, int m, const ti_gemv_bf16_tile *t, bool f32) {
  lab_poison(c->l, out, (size_t)(MAX_M * c->ldo) * 4);
  const ti_gemv_bf16_args a = args_of(c, out, m, t, f32);
  lab_op(c->l, gemv(&c->l->dev, &a), "gemv_bf16");
  lab_sync(c->l, "gemv_bf16");
  // nothing is written behind a row nor behind the last one
  const size_t size = f32 ? 4 : 2;
  const uint8_t *o = (const uint8_t *)out;
  bool ok = lab_is_poison(c->l, o + (size_t)(m * c->ldo) * size, (size_t)((MAX_M - m) * c->ldo) * size);
  for (int r = 0; r < m && ok; r += m > 8 ? 7 : 1) ok = lab_is_poison(c->l, o + (size_t)(r * c->ldo + c->n) * size, (size_t)(c->ldo - c->n) * size);
  return ok;
}

static void check_tile(check *c, const ti_gemv_bf16_tile *t, bool every) {
  lab *l = c->l;
  const bool direct = t && t->groups == 0;
  const int top = direct ? 8 : MAX_M;
  const int g = t ? t->groups : 0, s = t ? t->split : 0, st = t ? t->ring_kb : 0;
  int bad = 0;
  double worst = 0;
  for (int f32 = 0; f32 < 2; f32++) {
    lab_expect(l, run_into(c, c->all, top, t, f32), "n %lld k %lld tile %d/%d/%d: writes outside", (long long)c->n, (long long)c->k, g, s, st);
    const ti_dtype type = f32 ? TI_F32 : TI_BF16;
    const lab_error e = lab_compare(l, c->all, type, c->ldo, c->ref, c->mag, top, c->n, lab_fp32_bound(c->k));
    worst = fmax(worst, e.worst);
    lab_expect(l, e.worst <= 1.0 && e.diff < 1e-3, "n %lld k %lld tile %d/%d/%d f32 %d: worst %.3g of the bound, diff %.2e at %lld", (long long)c->n,
               (long long)c->k, g, s, st, f32, e.worst, e.diff, (long long)e.at);
    for (int m = 1; m <= (direct ? 8 : 70) && bad < 3; m += every || m < 9 ? 1 : 11) {
      bool ok = run_into(c, c->out, m, t, f32);
      ok = ok && lab_same(l, c->out, c->all, (size_t)(m * c->ldo) * (f32 ? 4 : 2));
      ok = ok && run_into(c, c->again, m, t, f32) && lab_same(l, c->out, c->again, (size_t)(m * c->ldo) * (f32 ? 4 : 2));
      bad += !lab_expect(l, ok, "n %lld k %lld tile %d/%d/%d f32 %d m %d: bits differ from m = %d, or it writes outside", (long long)c->n,
                         (long long)c->k, g, s, st, f32, m, top);
    }
  }
  printf("  n %6lld k %6lld groups %d split %d ring %3d KB: worst %.3f of the bound%s\n", (long long)c->n, (long long)c->k, g, s, st, worst,
         bad ? ", BAD" : "");
}

static double f32_of(uint16_t v) {
  const uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// Bias, accumulation and the fused form on host copies of one shape; W's rows are read as gate and up runs.
static void check_epilogues(lab *l) {
  enum { N = 768, K = 520, M = 19 };
  check c;
  check_open(&c, l, N, K);
  static double ref[MAX_M * N], mag[MAX_M * N];
  static float bias[N], out[MAX_M * (N + 6)];
  static uint16_t out16[MAX_M * (N + 6)];
  lab_ok(l, cudaMemcpy(ref, c.ref, sizeof ref, cudaMemcpyDeviceToHost), "copy");
  lab_ok(l, cudaMemcpy(mag, c.mag, sizeof mag, cudaMemcpyDeviceToHost), "copy");
  lab_ok(l, cudaMemcpy(bias, c.bias, sizeof bias, cudaMemcpyDeviceToHost), "copy");
  for (int gate_up = 0; gate_up < 2; gate_up++) {
    for (int groups = 0; groups < 3; groups++) {
      const int rows = groups ? M : TI_GEMV_BF16_DIRECT_ROWS;
      const ti_gemv_bf16_tile t = {groups, 2, 48};
      ti_gemv_bf16_args a = args_of(&c, c.out, rows, &t, true);
      a.bias = c.bias, a.accumulate = true, a.gate_up = gate_up;
      lab_fill(l, c.out, TI_F32, MAX_M * (N + 6), 31, 4.0f);
      lab_ok(l, cudaMemcpyAsync(out, c.out, sizeof out, cudaMemcpyDeviceToHost, l->stream), "copy");
      static float before[MAX_M * (N + 6)];
      lab_sync(l, "before");
      memcpy(before, out, sizeof out);
      lab_op(l, gemv(&l->dev, &a), "gemv_bf16");
      lab_sync(l, "gemv_bf16");
      lab_ok(l, cudaMemcpy(out, c.out, sizeof out, cudaMemcpyDeviceToHost), "copy");
      double worst = 0;
      for (int m = 0; m < rows; m++) {
        for (int r = 0; r < N; r++) {
          const int col = gate_up ? r / 128 * 64 + r % 64 + (r % 128 >= 64 ? N / 2 : 0) : r;
          const double want = ref[m * N + r] + bias[col] + before[m * (N + 6) + col], got = out[m * (N + 6) + col];
          worst = fmax(worst, fabs(want - got) / ((K + 2) * 0x1p-24 * (mag[m * N + r] + 5.0)));
        }
      }
      lab_expect(l, worst <= 1.0, "bias + accumulate, gate_up %d, groups %d: worst %.3g of the bound", gate_up, groups, worst);
    }
  }
  for (int split = 1; split <= 8; split *= 2) {
    const ti_gemv_bf16_tile t = {2, split, 48};
    ti_gemv_bf16_args a = args_of(&c, c.out, M, &t, false);
    a.gate_up = a.silu_mul = true;
    a.ldo = N / 2 + 2;
    lab_poison(l, c.out, (size_t)(MAX_M * c.ldo) * 4);
    lab_op(l, ti_cuda_gemv_bf16(&l->dev, &a), "gemv_bf16");
    lab_sync(l, "gemv_bf16");
    lab_ok(l, cudaMemcpy(out16, c.out, sizeof out16, cudaMemcpyDeviceToHost), "copy");
    double worst = 0;
    for (int m = 0; m < M; m++) {
      for (int i = 0; i < N / 2; i++) {
        const int r = i / 64 * 128 + i % 64;
        const double g = ref[m * N + r], u = ref[m * N + r + 64], want = g / (1 + exp(-g)) * u, got = f32_of(out16[m * a.ldo + i]);
        const double slack = 2 * K * 0x1p-24 * (mag[m * N + r] * (fabs(u) + 1) + mag[m * N + r + 64] * (fabs(g) + 1));
        worst = fmax(worst, fabs(want - got) / (slack + 0x1p-8 * fabs(want) + 1e-20));
        if (!(got == got)) worst = 1e30;
      }
      for (int i = 0; i < 2; i++) worst = out16[m * a.ldo + N / 2 + i] == 0xffff ? worst : 1e30;
    }
    lab_expect(l, worst <= 1.0, "silu_mul, split %d: worst %.3g of the bound", split, worst);
  }
  check_close(&c);
}

static void check_all(lab *l) {
  static const int64_t odd[][2] = {{320, 2048}, {2560, 1000}, {130, 72}, {61, 8}, {1024, 4096}, {515, 14336}};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    check c;
    check_open(&c, l, odd[i][0], odd[i][1]);
    l->dev.deterministic = true;
    check_tile(&c, NULL, i < 2);
    l->dev.deterministic = false;
    const ti_gemv_bf16_tile direct = {0, 1, 0};
    check_tile(&c, &direct, true);
    for (int g = 1; g < 3; g++) {
      for (int s = 1; s <= 8; s *= 2) {
        const ti_gemv_bf16_tile t = {g, s, s == 4 ? 190 : s == 1 ? 0 : 48};
        if (i < 2 || !l->quick) check_tile(&c, &t, i == 0 && s == 2);
      }
    }
    check_close(&c);
  }
  check_epilogues(l);
}

// ---- time ----

typedef struct operands {
  void *x, *w, *out, *out2;
} operands;
static operands operands_open(lab *l, int m, int64_t n, int64_t k, int64_t n_w) {
  operands o = {lab_alloc(l, (size_t)(m * k) * 2), lab_alloc(l, (size_t)(n_w * n * k) * 2), lab_alloc(l, (size_t)(m * n) * 2),
                lab_alloc(l, (size_t)(m * n) * 2)};
  lab_fill(l, o.x, TI_BF16, (size_t)(m * k), 1, 1.0f);
  lab_fill(l, o.w, TI_BF16, (size_t)(n_w * n * k), 2, 1.0f);
  return o;
}
static void operands_close(lab *l, operands *o) {
  lab_free(l, o->x);
  lab_free(l, o->w);
  lab_free(l, o->out);
  lab_free(l, o->out2);
}
static job job_of(lab *l, const operands *o, int m, int64_t n, int64_t k) {
  job j = {l, {}, {}};
  j.a.out = o->out, j.a.x = o->x, j.a.w = o->w, j.a.m = m, j.a.n = n, j.a.k = k;
  j.b.out = o->out2, j.b.x = o->x, j.b.w = o->w, j.b.m = m, j.b.n = n, j.b.k = k, j.b.out_dtype = TI_BF16;
  return j;
}
static double bytes_of(int m, int64_t n, int64_t k) { return 2.0 * ((double)n * (double)k + (double)m * (double)(n + k)); }

// The same product over and over with other weights, in a graph with programmatic dependent launch: what it costs in a decode step.
enum { REPEAT = 12 };
static int64_t copies_of_w(int64_t n, int64_t k) {  // ten times the L2 and more
  const int64_t c = (int64_t)(6e8 / (2.0 * (double)n * (double)k)) + 1;
  return c < (int64_t)REPEAT ? c : (int64_t)REPEAT;
}

typedef struct repeat {
  job j;
  int64_t n_w;  // of W in memory
  bool blas;
} repeat;
static void run_repeat(void *arg) {
  repeat *r = (repeat *)arg;
  const uint16_t *w = (const uint16_t *)r->j.a.w;
  for (int i = 0; i < REPEAT; i++) {
    job j = r->j;
    j.a.w = j.b.w = w + i % r->n_w * j.a.n * j.a.k;
    if (r->blas) {
      run_blas(&j);
    } else {
      run_ours(&j);
    }
  }
}
static double repeat_us(lab *l, const job *j, bool blas) {
  repeat r = {*j, copies_of_w(j->a.n, j->a.k), blas};
  l->dev.pdl = !blas;
  const double us = lab_time_chain_us(l, run_repeat, &r, REPEAT);
  l->dev.pdl = false;
  return us;
}

static void sweep(lab *l) {
  static const int rings[] = {32, 48, 64, 80, 96, 128, 192};
  printf("\nsweep: us alone / us in a row with programmatic dependent launch (%% of copy), by groups, split and ring KB\n");
  for (int i = 0; i < N_SHAPE; i++) {
    const int64_t n = shapes[i][0], k = shapes[i][1];
    for (int m = 1; m <= 64; m *= m == 1 ? 16 : 4) {
      operands o = operands_open(l, m, n, k, copies_of_w(n, k));
      job j = job_of(l, &o, m, n, k);
      const double bytes = bytes_of(m, n, k);
      printf("n %lld k %lld m %d: cuBLASLt %.2f / %.2f, reading W %.2f\n", (long long)n, (long long)k, m,
             l->blas ? lab_time_us(l, run_blas, &j) : 0.0, l->blas ? repeat_us(l, &j, true) : 0.0, lab_time_us(l, run_read, &j));
      if (m <= 8) {
        const ti_gemv_bf16_tile t = {0, 1, 0};
        j.a.tile = &t;
        printf("  direct %.2f/%.2f\n", lab_time_us(l, run_ours, &j), repeat_us(l, &j, false));
      }
      for (int g = 1; g < 3; g++) {
        for (int s = 1; s <= 8; s *= 2) {
          const int64_t blocks = (n + 64 * g - 1) / (64 * g) * s;
          if ((s > 1 && blocks > 8 * l->dev.n_sm) || blocks < l->dev.n_sm / 4) continue;
          printf("  %d/%d", g, s);
          for (int r = 0; r < 7; r++) {
            if (rings[r] < 2 * g * 8 + (m > 8 ? m / 8 : 1) * 2 || blocks * rings[r] > 3 * 192 * l->dev.n_sm) continue;
            const ti_gemv_bf16_tile t = {g, s, rings[r]};
            j.a.tile = &t;
            const double us = lab_time_us(l, run_ours, &j), row = repeat_us(l, &j, false);
            printf("  %3dK %6.2f/%6.2f (%2.0f/%2.0f)", rings[r], us, row, bytes / us * 1e-1 / l->copy_gbs, bytes / row * 1e-1 / l->copy_gbs);
          }
          printf("\n");
        }
      }
      fflush(stdout);
      operands_close(l, &o);
    }
  }
}

static void time_all(lab *l) {
  static const int ms[] = {1, 2, 4, 8, 16, 24, 32, 48, 64};
  lab_head("bf16, few rows: alone with a cold L2, then in a row (a graph of products with other weights; ours with dependent launch)");
  for (int i = 0; i < N_SHAPE; i++) {
    const int64_t n = shapes[i][0], k = shapes[i][1];
    for (int q = 0; q < 9; q += l->quick ? 2 : 1) {
      const int m = ms[q];
      operands o = operands_open(l, m, n, k, copies_of_w(n, k));
      job j = job_of(l, &o, m, n, k);
      lab_row r = {"gemv_bf16", "alone", m, n, k, lab_time_us(l, run_ours, &j), 2.0 * m * (double)n * (double)k, bytes_of(m, n, k), "cuBLASLt", 0, 0};
      if (l->blas) r.peer_us = lab_time_us(l, run_blas, &j);
      lab_print(l, &r);
      r.variant = "in a row";
      r.us = repeat_us(l, &j, false);
      if (l->blas) r.peer_us = repeat_us(l, &j, true);
      lab_print(l, &r);
      operands_close(l, &o);
    }
  }
}

// ---- chain ----

enum { LAYERS = 8 };
typedef struct chain {
  lab *l;
  const int64_t (*shape)[2];
  bool blas, fused;
  int m;
  uint16_t *w[4], *x[5];
} chain;
static void run_chain(void *arg) {
  const chain *c = (const chain *)arg;
  for (int layer = 0; layer < LAYERS; layer++) {
    for (int i = 0; i < 4; i++) {
      const int64_t n = c->shape[i][0], k = c->shape[i][1];
      const uint16_t *w = c->w[i] + layer * n * k;
      if (c->blas) {
        ti_blas_args b = {};
        b.out = c->x[i + 1], b.x = c->x[i], b.w = w, b.m = c->m, b.n = n, b.k = k, b.out_dtype = TI_BF16;
        lab_op(c->l, ti_blas_gemm(c->l->blas, c->l->stream, &b), "cuBLASLt");
      } else {
        ti_gemv_bf16_args a = {};
        a.out = c->x[i + 1], a.x = c->x[i], a.w = w, a.m = c->m, a.n = n, a.k = k, a.gate_up = a.silu_mul = c->fused && i == 2;
        lab_op(c->l, ti_cuda_gemv_bf16(&c->l->dev, &a), "gemv_bf16");
      }
    }
  }
}
static void time_chains(lab *l) {
  static const int64_t layer[2][4][2] = {{{2560, 2048}, {2048, 2048}, {11264, 2048}, {2048, 5632}},
                                         {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}}};
  static const int ms[] = {1, 16, 64};
  printf("\nchains of 4 products x %d layers in a graph: us a layer (%% of copy, weights alone)\n", LAYERS);
  for (int s = 0; s < 2; s++) {
    double bytes = 0;
    chain c = {l, layer[s], false, false, 0, {}, {}};
    for (int i = 0; i < 4; i++) {
      const size_t n = (size_t)(LAYERS * layer[s][i][0] * layer[s][i][1]);
      bytes += 2.0 * (double)n / LAYERS;
      c.w[i] = (uint16_t *)lab_alloc(l, 2 * n);
      lab_fill(l, c.w[i], TI_BF16, n, 5 + (uint64_t)i, 0.02f);
    }
    for (int i = 0; i < 5; i++) {
      c.x[i] = (uint16_t *)lab_alloc(l, 64 * 28672 * 2);
      lab_fill(l, c.x[i], TI_BF16, 64 * 28672, 9 + (uint64_t)i, 1.0f);
    }
    for (int q = 0; q < 3; q++) {
      c.m = ms[q];
      double us[4] = {};
      for (int v = 0; v < 4; v++) {
        l->dev.pdl = v == 1 || v == 2;
        c.fused = v == 2;
        c.blas = v == 3;
        if (c.blas && !l->blas) continue;
        run_chain(&c);  // plans
        us[v] = lab_time_chain_us(l, run_chain, &c, LAYERS);
        lab_row r = {"chain",
                     v == 0 ? "no pdl" : v == 1 ? "pdl" : v == 2 ? "pdl, fused" : "cuBLASLt",
                     c.m,
                     layer[s][0][0],
                     layer[s][0][1],
                     us[v],
                     0,
                     bytes,
                     NULL,
                     0,
                     0};
        if (v == 0) lab_head(s ? "Llama-3-8B, a layer" : "TinyLlama-1.1B, a layer");
        lab_print(l, &r);
      }
      l->dev.pdl = false;
    }
    for (int i = 0; i < 4; i++) lab_free(l, c.w[i]);
    for (int i = 0; i < 5; i++) lab_free(l, c.x[i]);
  }
}

int main(int argc, char **argv) {
  static lab l;
  static const char *const words[] = {"check", "sweep", "time", "chain"};
  bool want[4] = {};
  lab_open(&l, "lab_gemv_bf16", &argc, argv);
  for (int i = 1; i < argc; i++) {
    for (int k = 0; k < 4; k++) want[k] |= !strcmp(argv[i], words[k]);
  }
  if (argc == 1) want[0] = want[2] = want[3] = true;
  if (want[0]) check_all(&l);
  if (want[1]) sweep(&l);
  if (want[2]) time_all(&l);
  if (want[3]) time_chains(&l);
  return lab_close(&l);
}
