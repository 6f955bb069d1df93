// Odd numbers of rows for every op that works row by row: 1, 127, 128, 129 and more than a device has processors. A row must have the bits that it
// has alone, numbers behind the last row are NaN and may not be read, and what lies behind the outputs may not be written.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "conformance.h"

enum { TAIL = 3, DIM = 200, HEADS = 3, HEAD_DIM = 64 };
static const int row_counts[] = {1, 2, 127, 128, 129, 300};  // the first is the form that others are held to
enum { N_COUNT = sizeof row_counts / sizeof *row_counts, MOST = 300 };

typedef struct job {  // one op over rows
  cf_dev *d;
  const ti_weight *w;
  int n_row;
  void *x, *y, *out;  // [n_row + TAIL, ..] act
  int32_t *ids;       // [n_row + TAIL]
  const float *vector;
} job;

typedef struct op {
  const char *name;
  int x_dim, y_dim, out_dim;  // y is written too where the op does (y_out)
  bool y_out, in_place;
  ti_status (*run)(const job *j);
  bool (*has)(const ti_kernels *k);
} op;

static ti_status run_embed(const job *j) {
  return j->d->k->embed(j->d->d,
                        &(ti_embed_args){.out = j->out, .ids = j->ids, .table = j->w, .n_row = j->n_row, .hidden = DIM, .n_id = (int)j->w->n});
}
static ti_status run_norm(const job *j) {
  return j->d->k->rmsnorm(
      j->d->d, &(ti_rmsnorm_args){.out = j->out, .x = j->x, .residual = j->y, .weight = j->vector, .n_row = j->n_row, .dim = DIM, .eps = 1e-5f});
}
static ti_status run_rope(const job *j) {
  return j->d->k->rope(j->d->d, &(ti_rope_args){.x = j->out,
                                                .position = j->ids,
                                                .inv_freq = j->vector,
                                                .n_row = j->n_row,
                                                .n_head = HEADS,
                                                .head_dim = HEAD_DIM,
                                                .rope_dim = HEAD_DIM,
                                                .attn_factor = 1});
}
static ti_status run_silu(const job *j) {
  return j->d->k->silu_mul(j->d->d, &(ti_silu_mul_args){.out = j->out, .gate_up = j->x, .n_row = j->n_row, .dim = DIM});
}
static ti_status run_add(const job *j) { return j->d->k->add(j->d->d, &(ti_add_args){.x = j->out, .y = j->y, .n = (size_t)j->n_row * DIM}); }
static ti_status run_gemm(const job *j) {
  return j->d->k->gemm(j->d->d, &(ti_gemm_args){.out = j->out, .x = j->x, .w = j->w, .m = j->n_row, .out_dtype = j->d->k->act});
}
static ti_status run_permute(const job *j) {  // rows in another order: ids name them
  return j->d->k->permute(j->d->d, &(ti_permute_args){.out = j->out, .x = j->x, .src = j->ids, .n_out = j->n_row, .n_top = 1, .dim = DIM});
}
static bool has_embed(const ti_kernels *k) { return k->embed; }
static bool has_norm(const ti_kernels *k) { return k->rmsnorm; }
static bool has_rope(const ti_kernels *k) { return k->rope; }
static bool has_silu(const ti_kernels *k) { return k->silu_mul; }
static bool has_add(const ti_kernels *k) { return k->add; }
static bool has_gemm(const ti_kernels *k) { return k->gemm; }
static bool has_permute(const ti_kernels *k) { return k->permute; }

static const op ops[] = {
    {"embed", 0, 0, DIM, false, false, run_embed, has_embed},
    {"rmsnorm", DIM, DIM, DIM, true, false, run_norm, has_norm},
    {"rope", 0, 0, HEADS *HEAD_DIM, false, true, run_rope, has_rope},
    {"silu_mul", 2 * DIM, 0, DIM, false, false, run_silu, has_silu},
    {"add", 0, DIM, DIM, false, true, run_add, has_add},
    {"gemm", DIM, 0, DIM, false, false, run_gemm, has_gemm},
    {"permute", DIM, 0, DIM, false, false, run_permute, has_permute},
};

// Rows [first, first + n) of x, then NaN.
static void *with_tail(cf_dev *d, const float *x, int first, int n, int dim) {
  float *y = cf_host(d, (size_t)(n + TAIL) * (size_t)dim * sizeof *y);
  for (int i = 0; i < (n + TAIL) * dim; i++) y[i] = i < n * dim ? x[first * dim + i] : NAN;
  return cf_up_act(d, y, (size_t)(n + TAIL) * (size_t)dim);
}

typedef struct results {
  float *out, *y;
} results;

static results run_op(const op *o, cf_dev *d, const ti_weight *w, const float *vector, const float *const data[3], const int32_t *ids, int first,
                      int n) {
  job j = {.d = d, .w = w, .n_row = n, .vector = vector};
  if (o->x_dim) j.x = with_tail(d, data[0], o->run == run_permute ? 0 : first, o->run == run_permute ? MOST : n, o->x_dim);
  if (o->y_dim) j.y = with_tail(d, data[1], first, n, o->y_dim);
  const size_t n_out = (size_t)(n + TAIL) * (size_t)o->out_dim;
  j.out = o->in_place ? with_tail(d, data[2], first, n, o->out_dim) : cf_out_act(d, n_out);
  int32_t *some = cf_host(d, (size_t)(n + TAIL) * 4);
  for (int i = 0; i < n + TAIL; i++) some[i] = i < n ? ids[first + i] : 1 << 30;  // an index that faults
  j.ids = cf_up(d, some, (size_t)(n + TAIL) * 4);
  cf_ok(d, o->name, o->run(&j));
  results r = {.out = cf_down_act(d, j.out, n_out), .y = o->y_out ? cf_down_act(d, j.y, (size_t)(n + TAIL) * (size_t)o->y_dim) : NULL};
  for (int i = n * o->out_dim; i < (n + TAIL) * o->out_dim; i++)
    cr_assert(isnan(r.out[i]), "%s: %s of %d rows writes behind them", d->k->name, o->name, n);
  for (int i = n * o->y_dim; r.y && i < (n + TAIL) * o->y_dim; i++)
    cr_assert(isnan(r.y[i]), "%s: %s of %d rows writes behind them", d->k->name, o->name, n);
  return r;
}

static void check_op(const op *o, cf_dev *d) {
  const ti_weight_src src = {.data = cf_floats(d, DIM * DIM, 4, 0.1f), .dtype = TI_F32, .n = DIM, .k = DIM};
  ti_weight w;
  size_t bytes;
  cf_ok(d, "weight_size", d->k->weight_size(d->d, &src, 1, 0, &bytes));
  cf_ok(d, "weight_prepare", d->k->weight_prepare(d->d, &src, 1, 0, bytes ? cf_up(d, cf_host(d, bytes), bytes) : NULL, &w));
  const float *data[3] = {cf_floats(d, MOST * 2 * DIM, 5, 1.0f), cf_floats(d, MOST * DIM, 6, 1.0f), cf_floats(d, MOST * DIM, 7, 1.0f)};
  const int32_t *ids = cf_ints(d, MOST, 8, DIM);
  const float *vector = cf_up(d, cf_floats(d, DIM, 9, 0.5f), DIM * sizeof(float));
  for (int c = 1; c < N_COUNT; c++) {
    const int n = row_counts[c];
    const results all = run_op(o, d, &w, vector, data, ids, 0, n);
    for (int i = 0; i < n * o->out_dim; i++)
      cr_assert(isfinite(all.out[i]), "%s: %s of %d rows: element %d is %g", d->k->name, o->name, n, i, (double)all.out[i]);
    for (int r = 0; r < n; r += r == 0 || r + 20 >= n ? 1 : n - 21 < 60 ? n - 21 : 60) {  // the first, the last, some between
      const results one = run_op(o, d, &w, vector, data, ids, r, 1);
      cf_same_bits(d, o->name, all.out + r * o->out_dim, one.out, (size_t)o->out_dim * sizeof(float));
      if (one.y) cf_same_bits(d, o->name, all.y + r * o->y_dim, one.y, (size_t)o->y_dim * sizeof(float));
    }
  }
}

Test(shapes, odd_numbers_of_rows_have_the_bits_of_single_ones) {
  CF_EACH_BACKEND(k) {
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    cf_ok(d, "reserve", k->reserve(d->d, MOST, CF_MAX_K, 1024, CF_MAX_VOCAB));
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++, cf_reset(d)) {
      if (ops[i].has(k)) check_op(&ops[i], d);
    }
    cf_close(d);
  }
}

// Codes of x are those of its rows alone.
Test(shapes, quant_fp8_of_odd_numbers_of_rows) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, quant_fp8)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 3);
    for (int c = 0; c < N_COUNT; c++, cf_reset(d)) {
      const int n = row_counts[c];
      const float *x = cf_floats(d, (size_t)(n * DIM), 5, 1.0f);
      const size_t bytes = (size_t)((n + TAIL) * DIM);
      uint8_t *old = cf_host(d, bytes), *after = cf_host(d, bytes);
      memset(old, 0xab, bytes);
      const ti_quant_fp8_args a = {
          .q = cf_up(d, old, bytes), .scale = cf_out_f32(d, cf_scales(d, n, DIM)), .x = with_tail(d, x, 0, n, DIM), .n_row = n, .k = DIM};
      cf_ok(d, "quant_fp8", k->quant_fp8(d->d, &a));
      cf_codes_of(d, "quant_fp8", a.q, a.scale, x, n, DIM);
      cf_down(d, after, a.q, bytes);
      cf_same_bits(d, "what lies behind the codes", after + n * DIM, old + n * DIM, (size_t)(TAIL * DIM));
    }
    cf_close(d);
  }
}
