// Matrix products over packed weights. Included by gemm_avx2.c and gemm_avx512.c.
//
// Every output is summed in one order, whatever m, the tile or the thread:
//   F32, BF16, F16   one FMA chain over k ascending, starting from bias + (out when accumulating)
//   block types      as fp32 weights; with int8 activations as gemm_block_body.h says
//   E4M3             a chain from zero inside each run of k (runs end at multiples of 128 and at scale chunks), then out = fma(scale, chain, out)
// So a tile may stop at any run's end and go on from what it wrote: blocking over K costs no bits.
//
// Loops: up to MR rows stream whole panels (decode: several panels at once hide the FMA's latency). More rows go in blocks: KB of K (the panel's
// piece stays in L1), MB rows (their piece of x stays in L2), panels, tiles of MR x NR. F16 and E4M3 pieces are then converted to fp32 once a block;
// E4M3 with a NaN in it goes that way always, because the tiles' own conversion takes none. Work is split over threads by panels, weighed by rows;
// few panels and many rows: by rows too. No locks, no allocation; scratch is the thread's.
#include <string.h>

#include "base/half.h"
#include "kernels/cpu/block.h"

#define NR (2 * VL)
#define MR 6
#define KB 256
#define MB 96
#define X_FLOATS (MB * KB)

// RUNS: E4M3 converted to floats. BLOCK has no tiles here: it is converted, or goes through gemm_block_body.h.
typedef enum form { FORM_F32, FORM_BF16, FORM_F16, FORM_E4M3, FORM_F32_RUNS, FORM_COUNT, FORM_BLOCK = FORM_COUNT } form;

typedef struct tile {
  const float *x;  // [rows, ldx], from k0
  int64_t ldx;
  const uint8_t *w;  // piece of the first panel, from k0
  size_t w_stride;   // bytes from panel to panel
  const float *ws;   // E4M3: scales of the first panel, [chunk][NR]
  size_t ws_stride;  // floats from panel to panel
  const float *xs;   // scales of x [rows, ldxs] by k / 128, or NULL
  int64_t ldxs;
  const int8_t *xq;  // int8 activations [rows, KQ] with scales xs and sums (of struct quantised) [rows, KQ / 32], from k0
  const float *xsum;
  int64_t k0, k1;
  int64_t col0, block_k;
  float *out;
  int64_t ldo;
  bool zero;  // start from zero, not from out
} tile;
typedef void (*tile_fn)(const tile *t);

TI_INLINE void load_weights(const form f, const uint8_t *p, vf *a, vf *b) {
  if (f == FORM_BF16) {
    vw_bf16(p, a, b);
  } else if (f == FORM_F16) {
    vw_f16(p, a, b);
  } else if (f == FORM_E4M3) {
    vw_e4m3(p, a, b);
  } else {
    vw_f32(p, a, b);
  }
}
TI_INLINE size_t form_bytes(const form f) { return f == FORM_E4M3 || f == FORM_BLOCK ? 1 : f == FORM_BF16 || f == FORM_F16 ? 2 : 4; }

// R rows x P panels; R, P and f are constants wherever this is inlined.
TI_INLINE void run_tile(const int R, const int P, const form f, const tile *t) {
  const bool runs = f == FORM_E4M3 || f == FORM_F32_RUNS;
  const size_t step = NR * form_bytes(f);
  const int64_t ldx = t->ldx, ldo = t->ldo;
  bool zero = t->zero;
  for (int64_t k = t->k0; k < t->k1;) {
    int64_t end = t->k1;
    if (runs) {
      const int64_t mine = (k / TI_CPU_FP8_BLOCK + 1) * TI_CPU_FP8_BLOCK, chunk = ((t->col0 + k) / t->block_k + 1) * t->block_k - t->col0;
      if (mine < end) end = mine;
      if (chunk < end) end = chunk;
    }
    vf acc[6][4][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        const float *o = t->out + r * ldo + p * NR;
        acc[r][p][0] = runs || zero ? vf_zero() : vf_load(o);
        acc[r][p][1] = runs || zero ? vf_zero() : vf_load(o + VL);
      }
    }
    const float *x = t->x + (k - t->k0);
    const uint8_t *w = t->w + (size_t)(k - t->k0) * step;
#pragma GCC unroll 2
    for (int64_t n = end - k; n > 0; n--, x++, w += step) {
      vf w0[4], w1[4];
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) load_weights(f, w + (size_t)p * t->w_stride, &w0[p], &w1[p]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const vf v = vf_set1(x[r * ldx]);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
          acc[r][p][0] = vf_fma(v, w0[p], acc[r][p][0]);
          acc[r][p][1] = vf_fma(v, w1[p], acc[r][p][1]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        float *o = t->out + r * ldo + p * NR;
        if (runs) {
          const float *s = t->ws + (size_t)p * t->ws_stride + (t->col0 + k) / t->block_k * NR;
          const vf xs = vf_set1(t->xs ? t->xs[r * t->ldxs + k / TI_CPU_FP8_BLOCK] : 1.0f);
          acc[r][p][0] = vf_fma(vf_mul(xs, vf_load(s)), acc[r][p][0], zero ? vf_zero() : vf_load(o));
          acc[r][p][1] = vf_fma(vf_mul(xs, vf_load(s + VL)), acc[r][p][1], zero ? vf_zero() : vf_load(o + VL));
        }
        vf_store(o, acc[r][p][0]);
        vf_store(o + VL, acc[r][p][1]);
      }
    }
    zero = false;
    k = end;
  }
}

#define TILE(f, R, P) \
  static void tile_##f##_##R##_##P(const tile *t) { run_tile(R, P, f, t); }
#define TILES(f) TILE(f, 1, 1) TILE(f, 1, 4) TILE(f, 2, 1) TILE(f, 2, 2) TILE(f, 3, 1) TILE(f, 3, 2) TILE(f, 4, 1) TILE(f, 5, 1) TILE(f, 6, 1)
TILES(FORM_F32)
TILES(FORM_BF16)
TILES(FORM_F16)
TILES(FORM_E4M3)
TILES(FORM_F32_RUNS)
#define ROW(f)                                                                                                                                  \
  {                                                                                                                                             \
    {NULL, NULL}, {tile_##f##_1_1, tile_##f##_1_4}, {tile_##f##_2_1, tile_##f##_2_2}, {tile_##f##_3_1, tile_##f##_3_2}, {tile_##f##_4_1, NULL}, \
        {tile_##f##_5_1, NULL}, {                                                                                                               \
      tile_##f##_6_1, NULL                                                                                                                      \
    }                                                                                                                                           \
  }
static const tile_fn tiles[FORM_COUNT][MR + 1][2] = {ROW(FORM_F32), ROW(FORM_BF16), ROW(FORM_F16), ROW(FORM_E4M3), ROW(FORM_F32_RUNS)};
static const int wide[MR + 1] = {1, 4, 2, 2, 1, 1, 1};  // panels at once of the second form

#include "kernels/cpu/gemm_block_body.h"

// ---- one matrix, some of its panels ----

typedef struct mat {
  const ti_weight *w;
  const float *x;            // [m, ldx], or NULL with xq or rows
  const float *const *rows;  // [m] where each row of x stands, or NULL
  const uint8_t *xq;         // [m, ldx] e4m3, or int8 with block weights, with scales xs [m, ldxs]
  const float *xs;
  int64_t ldx, ldxs;
  bool quantise;  // x is quantised on the way: to int8 for block weights, to e4m3 for E4M3
  const float *bias;
  bool accumulate;
  float *out;
  int64_t ldo;
  int m;
} mat;

typedef struct scratch {
  float w[KB * NR];
  float x[X_FLOATS];  // a block of x: [MB, KB], or all of a few rows
  float xs[MB * (KB / TI_CPU_FP8_BLOCK)];
  float edge[MR * NR];  // the last, partial panel's outputs
  uint8_t q[KB];
  quantised block;
} scratch;

static form form_of(const ti_weight *w) {
  switch (w->dtype) {
    case TI_F32:
      return FORM_F32;
    case TI_BF16:
      return FORM_BF16;
    case TI_F16:
      return FORM_F16;
    case TI_E4M3:
      return FORM_E4M3;
    default:
      return FORM_BLOCK;
  }
}

static const float *x_row(const mat *m, int r) { return m->rows ? m->rows[r] : m->x + r * m->ldx; }

// From the first byte of a panel to where k (a multiple of 32) starts in it.
static size_t panel_offset(const ti_weight *w, int64_t k) {
  const form f = form_of(w);
  return f == FORM_BLOCK ? (size_t)(k / QB) * ti_cpu_block_bytes(ti_cpu_forms[ti_cpu_form_of(w)], NR) : (size_t)k * NR * form_bytes(f);
}

// Runs a tile on a panel of which only `cols` outputs exist.
static void run_edge(tile_fn fn, tile *t, int rows, int cols, float *edge) {
  float *out = t->out;
  const int64_t ldo = t->ldo;
  for (int r = 0; r < rows && !t->zero; r++) memcpy(edge + r * NR, out + r * ldo, (size_t)cols * sizeof *out);
  t->out = edge;
  t->ldo = NR;
  fn(t);
  for (int r = 0; r < rows; r++) memcpy(out + r * ldo, edge + r * NR, (size_t)cols * sizeof *out);
  t->out = out;
  t->ldo = ldo;
}

static void start_out(const mat *m, int64_t n0, int64_t n1) {  // out = (out) + bias
  for (int r = 0; r < m->m; r++) {
    float *o = m->out + r * m->ldo;
    if (!m->accumulate) {
      memcpy(o + n0, m->bias + n0, (size_t)(n1 - n0) * sizeof *o);
    } else if (m->bias) {
      for (int64_t n = n0; n < n1; n++) o[n] += m->bias[n];
    }
  }
}

// x[rows, k0..k1) of the block as floats with scales, where it is not used in place.
static void fetch_x(const mat *m, int r0, int rows, int64_t k0, int64_t k1, scratch *s) {
  const int n_scale = KB / TI_CPU_FP8_BLOCK;
  for (int r = 0; r < rows; r++) {
    for (int64_t k = k0; k < k1; k += TI_CPU_FP8_BLOCK) {
      const int n = (int)(k1 - k < TI_CPU_FP8_BLOCK ? k1 - k : TI_CPU_FP8_BLOCK), c = (int)(k - k0) / TI_CPU_FP8_BLOCK;
      float *dst = s->x + r * KB + (k - k0);
      const uint8_t *q = s->q;
      if (m->xq) {
        q = m->xq + (r0 + r) * m->ldx + k;
        s->xs[r * n_scale + c] = m->xs[(r0 + r) * m->ldxs + k / TI_CPU_FP8_BLOCK];
      } else {
        TI_ISA(ti_cpu_quant_block)(x_row(m, r0 + r) + k, n, &s->xs[r * n_scale + c], s->q);
      }
      int i = 0;
      for (; i + VL <= n; i += VL) vf_store(dst + i, vf_from_e4m3(q + i));
      if (i < n) {
        uint8_t tail[VL] = {0};
        float f[VL];
        memcpy(tail, q + i, (size_t)(n - i));
        vf_store(f, vf_from_e4m3(tail));
        memcpy(dst + i, f, (size_t)(n - i) * sizeof(float));
      }
    }
  }
}

// The same rows side by side, as they are, where they stand apart: the tiles go from row to row by a stride.
static void gather_x(const mat *m, int r0, int rows, tile *t, scratch *s) {
  t->x = s->x;
  t->ldx = t->k1 - t->k0;
  for (int r = 0; r < rows; r++) memcpy(s->x + r * t->ldx, m->rows[r0 + r] + t->k0, (size_t)t->ldx * sizeof *s->x);
}

static void convert_panel(form f, const uint8_t *src, int64_t n, float *dst) {
  const size_t step = NR * form_bytes(f);
  for (int64_t k = 0; k < n; k++, src += step, dst += NR) {
    vf a, b;
    if (f == FORM_F16) {
      vw_f16(src, &a, &b);
    } else {
      vw_e4m3_nan(src, &a, &b);
    }
    vf_store(dst, a);
    vf_store(dst + VL, b);
  }
}

static void few_rows(const mat *m, int64_t p0, int64_t p1, tile *t, scratch *s) {
  const ti_weight *w = m->w;
  const form f = form_of(w);
  const int rows = m->m, many = tiles[f][rows][1] ? wide[rows] : 1;
  for (int64_t p = p0; p < p1;) {
    const int n = p + many <= p1 && (p + many) * NR <= w->n ? many : 1;
    const tile_fn fn = tiles[f][rows][n > 1];
    const int64_t cols = w->n - p * NR;
    t->w = (const uint8_t *)w->data + (size_t)p * t->w_stride + panel_offset(w, t->k0);
    t->ws = w->scale ? w->scale + (size_t)p * t->ws_stride : NULL;
    t->out = m->out + p * NR;
    if (n == 1 && cols < NR) {
      run_edge(fn, t, rows, (int)cols, s->edge);
    } else {
      fn(t);
    }
    p += n;
  }
}

static void block_rows(const mat *m, int64_t p0, int64_t p1, int r0, int rows, tile *t, scratch *s) {
  const ti_weight *w = m->w;
  const form stored = form_of(w);
  form f = stored;
  if ((rows > 3 * MR && stored == FORM_F16) || stored == FORM_BLOCK) f = FORM_F32;
  if (stored == FORM_E4M3 && (rows > MR || w->layout & TI_CPU_NAN)) f = FORM_F32_RUNS;
  const int n_tile = (rows + MR - 1) / MR;
  for (int64_t p = p0; p < p1; p++) {
    const int64_t cols = w->n - p * NR;
    t->w = (const uint8_t *)w->data + (size_t)p * t->w_stride + panel_offset(w, t->k0);
    t->ws = w->scale ? w->scale + (size_t)p * t->ws_stride : NULL;
    if (stored == FORM_BLOCK) {
      convert_block(ti_cpu_form_of(w), t->w, t->k1 - t->k0, s->w);
      t->w = (const uint8_t *)s->w;
    } else if (f != stored) {
      convert_panel(stored, t->w, t->k1 - t->k0, s->w);
      t->w = (const uint8_t *)s->w;
    }
    const float *x = t->x, *xs = t->xs;
    for (int i = 0; i < n_tile; i++) {
      int lo, hi;
      ti_cpu_share(rows, i, n_tile, &lo, &hi);
      t->x = x + lo * t->ldx;
      t->xs = xs ? xs + lo * t->ldxs : NULL;
      t->out = m->out + (r0 + lo) * m->ldo + p * NR;
      if (cols < NR) {
        run_edge(tiles[f][hi - lo][0], t, hi - lo, (int)cols, s->edge);
      } else {
        tiles[f][hi - lo][0](t);
      }
    }
    t->x = x;
    t->xs = xs;
  }
}

// Block weights with int8 activations: MQ rows and KQ of K are quantised (or fetched as codes), then meet every panel in tiles of RQ rows.
static void quant_panels(const mat *m, int64_t p0, int64_t p1, tile *t, scratch *s) {
  const ti_weight *w = m->w;
  const int kind = ti_cpu_form_of(w), zero = zero_of(ti_cpu_forms[kind]), per_row = KQ / QB;
  quantised *q = &s->block;
  for (t->k0 = 0; t->k0 < w->k; t->k0 = t->k1, t->zero = false) {
    t->k1 = t->k0 + KQ < w->k ? t->k0 + KQ : w->k;
    const int n_block = (int)(t->k1 - t->k0) / QB;
    for (int r0 = 0; r0 < m->m; r0 += MQ) {
      const int rows = ti_cpu_min(MQ, m->m - r0), n_tile = (rows + RQ - 1) / RQ;
      for (int r = 0; r < rows; r++) {
        const int64_t at = (r0 + r) * m->ldx + t->k0;
        for (int b = 0; b < n_block; b++) {
          int8_t *code = q->code + r * KQ + b * QB;
          float *d = q->d + r * per_row + b, *sum = q->sum + r * per_row + b;
          if (m->xq)
            take_block((const int8_t *)m->xq + at + b * QB, m->xs[(r0 + r) * m->ldxs + t->k0 / QB + b], zero, code, d, sum);
          else
            quantise_block(x_row(m, r0 + r) + t->k0 + b * QB, zero, code, d, sum);
        }
      }
      for (int64_t p = p0; p < p1; p++) {
        const int64_t cols = w->n - p * NR;
        t->w = (const uint8_t *)w->data + (size_t)p * t->w_stride + panel_offset(w, t->k0);
        for (int i = 0, lo, hi; i < n_tile; i++) {
          ti_cpu_share(rows, i, n_tile, &lo, &hi);
          t->xq = q->code + lo * KQ;
          t->xs = q->d + lo * per_row;
          t->xsum = q->sum + lo * per_row;
          t->out = m->out + (r0 + lo) * m->ldo + p * NR;
          if (cols < NR) {
            run_edge(quant_tiles[kind][hi - lo], t, hi - lo, (int)cols, s->edge);
          } else {
            quant_tiles[kind][hi - lo](t);
          }
        }
      }
    }
  }
}

static void run_panels(const mat *m, int64_t p0, int64_t p1, scratch *s) {
  const ti_weight *w = m->w;
  const int64_t n1 = p1 * NR < w->n ? p1 * NR : w->n;
  const bool fetched = m->xq || m->quantise;
  tile t = {.ldx = m->ldx,
            .w_stride = (size_t)w->ld * form_bytes(form_of(w)),
            .ws_stride = (size_t)w->scale_ld * NR,
            .col0 = w->col0,
            .block_k = w->block_k,
            .ldo = m->ldo,
            .zero = !m->bias && !m->accumulate};
  if (!t.zero) start_out(m, p0 * NR, n1);
  if (form_of(w) == FORM_BLOCK && fetched) {
    quant_panels(m, p0, p1, &t, s);
    return;
  }
  if (m->m <= MR && !fetched && !(w->layout & TI_CPU_NAN) && form_of(w) != FORM_BLOCK) {
    const int64_t most = m->rows && m->m > 1 ? X_FLOATS / m->m / KB * KB : w->k;  // of K at once: what can be gathered
    for (; t.k0 < w->k && m->m > 0; t.k0 = t.k1, t.zero = false) {
      t.k1 = t.k0 + most < w->k ? t.k0 + most : w->k;
      if (m->rows && m->m > 1)
        gather_x(m, 0, m->m, &t, s);
      else
        t.x = x_row(m, 0) + t.k0;
      few_rows(m, p0, p1, &t, s);
    }
    return;
  }
  const int64_t kb = KB;
  for (int64_t k = 0; k < w->k; k += kb) {
    for (int r0 = 0; r0 < m->m; r0 += MB) {
      const int rows = ti_cpu_min(MB, m->m - r0);
      t.k0 = k;
      t.k1 = k + kb < w->k ? k + kb : w->k;
      if (fetched) {
        fetch_x(m, r0, rows, k, t.k1, s);
        t.x = s->x;
        t.ldx = KB;
        t.xs = s->xs - k / TI_CPU_FP8_BLOCK;
        t.ldxs = KB / TI_CPU_FP8_BLOCK;
      } else if (m->rows) {
        gather_x(m, r0, rows, &t, s);
      } else {
        t.x = m->x + r0 * m->ldx + k;
      }
      block_rows(m, p0, p1, r0, rows, &t, s);
    }
    t.zero = false;
  }
}

// ---- several matrices over the team ----

typedef struct gemm_run {
  ti_dev *d;
  void (*get)(const void *args, const ti_dev *d, int i, mat *m);  // matrix i of n
  const void *args;
  int n;
  int parts;   // row parts of each matrix
  int chunks;  // of equal cost, >= threads
} gemm_run;

static void get_part(const gemm_run *run, int i, mat *m) {
  run->get(run->args, run->d, i / run->parts, m);
  if (run->parts == 1) return;
  int lo, hi;
  ti_cpu_share(m->m, i % run->parts, run->parts, &lo, &hi);
  m->x = m->x ? m->x + lo * m->ldx : NULL;
  m->rows = m->rows ? m->rows + lo : NULL;
  m->xq = m->xq ? m->xq + lo * m->ldx : NULL;
  m->xs = m->xs ? m->xs + lo * m->ldxs : NULL;
  m->out += lo * m->ldo;
  m->m = hi - lo;
}

static int64_t panels_of(const mat *m) { return (m->w->n + NR - 1) / NR; }
// Work of a panel: its rows, and the reading of the weights, which costs as much as a few.
static int64_t panel_cost(const mat *m) { return m->m > 0 ? (m->m + 3) * m->w->k : 0; }

static int64_t clamp_panel(int64_t cost, int64_t unit, int64_t n) {
  const int64_t p = cost <= 0 ? 0 : (cost + unit - 1) / unit;
  return p < n ? p : n;
}

// The panels of chunk c of n, which cost all the same.
static void run_chunk(const gemm_run *run, int c, int n_chunk, int64_t total, scratch *s) {
  const int64_t lo = total / n_chunk * c, hi = c + 1 == n_chunk ? INT64_MAX : total / n_chunk * (c + 1);
  int64_t at = 0;
  mat m = {0};
  for (int i = 0; i < run->n * run->parts && at < hi; i++) {
    get_part(run, i, &m);
    const int64_t unit = panel_cost(&m), n = panels_of(&m);
    if (unit == 0) continue;
    const int64_t p0 = clamp_panel(lo - at, unit, n), p1 = hi == INT64_MAX ? n : clamp_panel(hi - at, unit, n);
    if (p0 < p1) run_panels(&m, p0, p1, s);
    at += unit * n;
  }
}

static void gemm_thread(void *arg, int thread, int n_threads) {
  const gemm_run *run = arg;
  const int n_chunk = n_threads > 1 ? run->chunks : 1;
  scratch *s = ti_cpu_scratch(run->d, thread);
  mat m = {0};
  int64_t total = 0;
  for (int i = 0; n_chunk > 1 && i < run->n * run->parts; i++) {
    get_part(run, i, &m);
    total += panel_cost(&m) * panels_of(&m);
  }
  if (n_chunk == n_threads) {
    run_chunk(run, thread, n_chunk, total, s);
    return;
  }
  for (int c; (c = atomic_fetch_add_explicit(&run->d->next, 1, memory_order_relaxed)) < n_chunk;) run_chunk(run, c, n_chunk, total, s);
}

// Long runs are handed out in smaller chunks, so that a thread whose CPU is taken away holds up little. bytes: of the weights, read once. Many rows
// of int8 activations are split by rows alone, so that each is quantised once.
static void run_gemms(gemm_run *run, int64_t panels, int rows, bool int8, double flops, double bytes) {
  const int threads = run->d->threads;
  const double ns = flops / (int8 ? 120.0 : 80.0) + bytes / 40.0;
  run->parts = panels < 4 * threads && rows >= 4 * MR * threads ? threads : 1;
  run->chunks = ns > 2e5 && panels >= 8 * threads ? 4 * threads : threads;
  if (int8 && rows >= 4 * RQ * threads) {
    run->parts = ti_cpu_max(1, ti_cpu_min(rows / MQ, 4 * threads) / threads) * threads;
    run->chunks = run->parts;
  }
  atomic_store_explicit(&run->d->next, 0, memory_order_relaxed);
  ti_cpu_run(run->d, ns, gemm_thread, run);
}

static double weight_bytes(const ti_weight *w) {
  if (form_of(w) == FORM_BLOCK) return (double)((w->n + NR - 1) / NR) * (double)w->ld;
  return (double)w->n * (double)w->k * (double)form_bytes(form_of(w));
}

static bool quantises(const ti_dev *d, const ti_weight *w) {
  const form f = form_of(w);
  if (w->layout & TI_CPU_EXACT) return false;
  return (f == FORM_E4M3 && d->act_quant == TI_ACT_FP8) || (f == FORM_BLOCK && d->act_quant == TI_ACT_INT8);
}

static void set_x(const ti_dev *d, mat *m, const void *x, const float *x_scale) {
  const bool blocks = form_of(m->w) == FORM_BLOCK;
  assert(!x_scale || (blocks ? quantises(d, m->w) : m->w->dtype == TI_E4M3 && !(m->w->layout & TI_CPU_EXACT)));
  m->x = x_scale ? NULL : x;
  m->xq = x_scale ? x : NULL;
  m->xs = x_scale;
  m->ldxs = blocks ? m->w->k / QB : (m->w->k + TI_CPU_FP8_BLOCK - 1) / TI_CPU_FP8_BLOCK;
  m->quantise = !x_scale && quantises(d, m->w);
}

static void get_gemm(const void *args, const ti_dev *d, int i, mat *m) {
  const ti_gemm_args *a = args;
  *m = (mat){.w = a->w,
             .ldx = ti_cpu_ld(a->ldx, a->w->k),
             .bias = a->bias,
             .accumulate = a->accumulate,
             .out = a->out,
             .ldo = ti_cpu_ld(a->ldo, a->w->n),
             .m = a->m};
  set_x(d, m, a->x, a->x_scale);
}

ti_status TI_ISA(ti_cpu_gemm)(ti_dev *d, const ti_gemm_args *a) {
  assert(a->out_dtype == TI_F32);
  _Static_assert(sizeof(scratch) <= (size_t)5 << 18, "ti_cpu_scratch_need");
  gemm_run run = {.d = d, .get = get_gemm, .args = a, .n = 1};
  const bool int8 = form_of(a->w) == FORM_BLOCK && quantises(d, a->w);
  run_gemms(&run, (a->w->n + NR - 1) / NR, a->m, int8, 2.0 * a->m * (double)(a->w->n * a->w->k), weight_bytes(a->w));
  return TI_OK;
}

static void get_head(const void *args, const ti_dev *d, int h, mat *m) {
  const ti_gemm_heads_args *a = args;
  const ti_weight *w = &a->w[h];
  const int64_t hdx = ti_cpu_ld(a->hdx, w->k), hdo = ti_cpu_ld(a->hdo, w->n);
  *m = (mat){.w = w,
             .x = (const float *)a->x + h * hdx,
             .ldx = ti_cpu_ld(a->ldx, a->n_head * hdx),
             .out = (float *)a->out + h * hdo,
             .ldo = ti_cpu_ld(a->ldo, a->n_head * hdo),
             .m = a->m};
}

ti_status TI_ISA(ti_cpu_gemm_heads)(ti_dev *d, const ti_gemm_heads_args *a) {
  gemm_run run = {.d = d, .get = get_head, .args = a, .n = a->n_head};
  const int64_t panels = (a->w->n + NR - 1) / NR * a->n_head;
  run_gemms(&run, panels, a->m, false, 2.0 * a->m * a->n_head * (double)(a->w->n * a->w->k), a->n_head * weight_bytes(a->w));
  return TI_OK;
}

static void get_expert(const void *args, const ti_dev *d, int e, mat *m) {
  const ti_grouped_gemm_args *a = args;
  const ti_weight *w = &a->w[e];
  *m = (mat){.w = w, .ldx = w->k, .out = (float *)a->out + (int64_t)a->offset[e] * w->n, .ldo = w->n, .m = a->count[e]};
  set_x(d, m, a->rows ? NULL : (const float *)a->x + (int64_t)a->offset[e] * w->k, NULL);
  if (a->rows) m->rows = (const float *const *)a->rows + a->offset[e];
}

ti_status TI_ISA(ti_cpu_grouped_gemm)(ti_dev *d, const ti_grouped_gemm_args *a) {
  gemm_run run = {.d = d, .get = get_expert, .args = a, .n = a->n_expert};
  double flops = 0.0, bytes = 0.0;
  for (int e = 0; e < a->n_expert; e++) {
    assert(a->offset[e] + a->count[e] <= a->capacity);
    if (a->count[e] <= 0) continue;
    flops += 2.0 * a->count[e] * (double)(a->w[e].n * a->w[e].k);
    bytes += weight_bytes(&a->w[e]);
  }
  run_gemms(&run, INT64_MAX, 0, false, flops, bytes);
  return TI_OK;
}
