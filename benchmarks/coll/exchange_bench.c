// Dispatch + combine against MPI_Ialltoallv of the same remote bytes under the same progress (MPI_Test, 50 tests, then 100 that yield, then 20 us
// pauses), and how much of either hides under a product.
//
//   mpirun -np 4 exchange_bench [--json FILE] [--top N] [--dim N] [--percentile N]
//
//   mpi       two MPI_Ialltoallv of the bytes that each pair exchanges: the yardstick
//   user      what a program around MPI_Ialltoallv does: rows packed by destination, mpi, results packed and sent back, sums of rows
//   place     dispatch_post .. combine_wait, rows in the windows of one host (parallel/window.h), x and y written there by whoever makes them, as the
//             engine does; with one reading of every row that came, which a message's transport has done
//   message   the same, rows in messages, as between hosts
//
// Times are medians over rounds of the slowest rank (--percentile 10: what a busy machine leaves undisturbed); the four alternate within a round, and
// so do those of the overlap, whose ratio is the median of the rounds'. Results are checked (experts that return their input: out = x
// * sum of weights) before anything is timed. Ratios are to mpi; the gate is place/mpi: 1.6 at 64 KiB, 1.3 from 1 MiB.
//
// Overlap, (t_comm + t_gemm - t_fused) / min(t_comm, t_gemm), of the two mechanisms, with progress at 8 tile boundaries, beside MPI_Ialltoallv's:
// `shared` is the shared expert's product under the dispatch, `micro` two micro-batches, one travelling while the other is multiplied.
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/placement.h"
#include "kernels/kernel.h"
#include "parallel/coll.h"
#include "parallel/expert/exchange.h"

enum { N_EXPERT = 64, MAX_ROW = 4096, MAX_W = 16, MAX_TOP = 8, MAX_ROUNDS = 41, TILES = 8, PRODUCT = 64 };

static int rank, W, n_top = 2, dim = 1024, percentile = 50;

typedef struct bench {
  ti_exchange *place, *message;
  float *out, *weights;
  const float *y;  // the message form's results
  int32_t *experts;
  int n_row;
  bool padded, det;
  size_t n_out[2][MAX_W], n_in[2][MAX_W], at[MAX_W];  // bytes a pair: dispatch, combine
  size_t rows_out[MAX_W], rows_in[2][MAX_W];          // rows to and from each: dispatch; what is answered, what is summed
  char *send, *recv;
  double worst[2];  // place/mpi from 48 to 128 KiB, and from 1 MiB
  // overlap
  const ti_kernels *k;
  ti_dev *d;
  ti_weight w;
  float *product;
} bench;

static void die(const char *what, int st) {
  fprintf(stderr, "rank %d: %s: %s\n", rank, what, ti_status_name((ti_status)st));
  MPI_Abort(MPI_COMM_WORLD, 1);
}
static void ok(ti_status st, const char *what) {
  if (st) die(what, st);
}
static float *x_of(const ti_exchange *x, int micro) { return ti_exchange_x(x, micro); }

// ---- the four ----

static volatile float sink;
static void read_rows(const ti_dispatch_out *o, const float *own, int n_own) {
  float sum = 0;
  for (int e = 0; e < o->n_local; e++)
    for (int i = o->offset[e]; i < o->offset[e] + o->count[e]; i++) {
      const float *r = o->rows[i];
      if (r >= own && r < own + (size_t)n_own * (size_t)dim) continue;
      for (int j = 0; j < dim; j += 16) sum += r[j];
    }
  sink = sum;
}

static ti_status post(bench *b, ti_exchange *x, int micro, int row0, int n) {
  const ti_dispatch_args a = {.x = x_of(x, micro),
                              .experts = b->experts + row0 * n_top,
                              .weights = b->weights + row0 * n_top,
                              .n_row = n,
                              .micro = micro,
                              .padded = b->padded};
  return ti_exchange_dispatch_post(x, &a);
}

// y holds the experts' results since `validate`: the blocks are the same in every run.
static void whole(bench *b, ti_exchange *x, bool read) {
  ti_dispatch_out o;
  ok(post(b, x, 0, 0, b->n_row), "dispatch");
  ok(ti_exchange_dispatch_wait(x, 0, &o), "dispatch");
  if (read) read_rows(&o, x_of(x, 0), b->n_row);
  ok(ti_exchange_combine_post(x, 0, ti_exchange_y(x, 0)), "combine");
  ok(ti_exchange_combine_wait(x, 0, b->out, false), "combine");
}
static void place(bench *b) { whole(b, b->place, true); }
static void message(bench *b) { whole(b, b->message, false); }

static MPI_Request start_mpi(bench *b, int k, int part) {  // part: all, or a half of the bytes
  int so[MAX_W], ro[MAX_W], at[MAX_W];
  for (int d = 0; d < W; d++) {
    so[d] = (int)b->n_out[k][d] / part;
    ro[d] = (int)b->n_in[k][d] / part;
    at[d] = (int)b->at[d];
  }
  MPI_Request req;
  MPI_Ialltoallv(b->send, so, at, MPI_BYTE, b->recv, ro, at, MPI_BYTE, MPI_COMM_WORLD, &req);
  return req;
}
static void end_mpi(MPI_Request *req) {
  int done = 0;
  for (unsigned i = 0; !done; i++) {
    MPI_Test(req, &done, MPI_STATUS_IGNORE);
    if (done || i < 50) continue;
    if (i < 150)
      sched_yield();
    else
      nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
}
static void mpi(bench *b) {
  for (int k = 0; k < 2; k++) {
    MPI_Request req = start_mpi(b, k, 1);
    end_mpi(&req);
  }
}

static void pack(bench *b, const float *from, const size_t *rows) {
  const size_t row = (size_t)dim * sizeof *from;
  for (int d = 0; d < W; d++)
    for (size_t i = 0; i < rows[d]; i++) memcpy(b->send + b->at[d] + i * row, (const char *)from + i % MAX_ROW * row, row);
}
static void user(bench *b) {
  pack(b, x_of(b->message, 0), b->rows_out);
  MPI_Request req = start_mpi(b, 0, 1);
  end_mpi(&req);
  pack(b, b->y, b->rows_in[0]);
  req = start_mpi(b, 1, 1);
  end_mpi(&req);
  size_t next[MAX_W] = {0};
  for (int r = 0; r < b->n_row; r++) {
    float *to = b->out + (size_t)r * (size_t)dim;
    bool first = true;
    for (int d = 0; d < W; d++) {  // as many terms as there are, whichever row they belong to
      for (size_t n = (b->rows_in[1][d] * (size_t)(r + 1)) / (size_t)b->n_row; next[d] < n; next[d]++, first = false) {
        const float *from = (const float *)(d == rank ? (const char *)b->y : b->recv + b->at[d]) + next[d] % MAX_ROW * (size_t)dim, w = 0.25f;
        for (int i = 0; i < dim; i++) to[i] = first ? w * from[i] : to[i] + w * from[i];
      }
    }
  }
}

// ---- overlap ----

static void multiply(bench *b, int n, void (*progress)(bench *, void *), void *arg) {
  for (int t = 0; t < TILES; t++) {
    long lo, hi;
    ti_split(n, TILES, t, &lo, &hi);
    const ti_gemm_args a = {.out = b->product, .x = x_of(b->message, 1) + lo * dim, .w = &b->w, .m = (int)(hi - lo), .out_dtype = TI_F32};
    if (hi > lo) ok(b->k->gemm(b->d, &a), "gemm");
    if (progress) progress(b, arg);
  }
}
static void gemm_alone(bench *b) { multiply(b, b->n_row, NULL, NULL); }
static void test_exchange(bench *b, void *arg) {
  if (ti_failed(ti_exchange_progress(arg))) die("progress", TI_ERR_INTERNAL);
}
static void test_mpi(bench *b, void *arg) {
  int done;
  MPI_Test(arg, &done, MPI_STATUS_IGNORE);
}

static void shared_of(bench *b, ti_exchange *x) {
  ti_dispatch_out o;
  ok(post(b, x, 0, 0, b->n_row), "dispatch");
  multiply(b, b->n_row, test_exchange, x);
  ok(ti_exchange_dispatch_wait(x, 0, &o), "dispatch");
  if (x == b->place) read_rows(&o, x_of(x, 0), b->n_row);
  ok(ti_exchange_combine_post(x, 0, ti_exchange_y(x, 0)), "combine");
  ok(ti_exchange_combine_wait(x, 0, b->out, false), "combine");
}
static void shared_place(bench *b) { shared_of(b, b->place); }
static void shared_message(bench *b) { shared_of(b, b->message); }
static void shared_mpi(bench *b) {
  MPI_Request req = start_mpi(b, 0, 1);
  multiply(b, b->n_row, test_mpi, &req);
  end_mpi(&req);
  req = start_mpi(b, 1, 1);
  end_mpi(&req);
}

// Half of the rows each: the second's dispatch travels under the first's product, the first's results under the second's.
static void micro_of(bench *b, ti_exchange *x) {
  const int half = b->n_row / 2, n[2] = {half, b->n_row - half};
  ti_dispatch_out o;
  ok(post(b, x, 0, 0, n[0]), "dispatch");
  ok(post(b, x, 1, half, n[1]), "dispatch");
  for (int m = 0; m < 2; m++) {
    ok(ti_exchange_dispatch_wait(x, m, &o), "dispatch");
    if (x == b->place) read_rows(&o, x_of(x, m), n[m]);
    multiply(b, n[m], test_exchange, x);
    ok(ti_exchange_combine_post(x, m, ti_exchange_y(x, m)), "combine");
  }
  for (int m = 0; m < 2; m++) ok(ti_exchange_combine_wait(x, m, b->out, false), "combine");
}
static void micro_place(bench *b) { micro_of(b, b->place); }
static void micro_message(bench *b) { micro_of(b, b->message); }
static void micro_mpi(bench *b) {
  const int half = b->n_row / 2;
  MPI_Request first = start_mpi(b, 0, 2), second;
  end_mpi(&first);
  second = start_mpi(b, 0, 2);
  multiply(b, half, test_mpi, &second);
  end_mpi(&second);
  first = start_mpi(b, 1, 2);
  multiply(b, b->n_row - half, test_mpi, &first);
  end_mpi(&first);
  second = start_mpi(b, 1, 2);
  end_mpi(&second);
}

// ---- measuring ----

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef void (*bench_fn)(bench *);
typedef double times[MAX_ROUNDS];
// us[f][r] of n functions, which take turns.
static void measure(bench *b, const bench_fn *fn, int n, int iters, int rounds, times *us) {
  for (int r = 0; r < rounds; r++)
    for (int f = 0; f < n; f++) {
      MPI_Barrier(MPI_COMM_WORLD);
      const uint64_t start = ti_mono_ns();
      for (int i = 0; i < iters; i++) fn[f](b);
      const double mine = (double)(ti_mono_ns() - start) / 1e3 / iters;
      MPI_Allreduce(&mine, &us[f][r], 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    }
}

static double pick(const double *us, int rounds, int at) {
  times sorted;
  memcpy(sorted, us, (size_t)rounds * sizeof *us);
  qsort(sorted, (size_t)rounds, sizeof *us, by_value);
  return sorted[rounds * at / 100];
}

// Random routes of this rank, and the bytes that each pair exchanges because of them.
static void fill(bench *b) {
  uint32_t h = (uint32_t)(rank + 1) * 2654435761u;
  float *x = x_of(b->place, 0);
  memset(b->n_out, 0, sizeof b->n_out);
  memset(b->rows_out, 0, sizeof b->rows_out);
  size_t back[MAX_W] = {0}, rows[MAX_W] = {0};  // what comes back to us
  for (int r = 0; r < b->n_row; r++) {
    size_t to[MAX_W] = {0};
    for (int j = 0; j < n_top; j++) {
      h = h * 1664525u + 1013904223u;
      const int e = (int)((h >> 16) % (N_EXPERT / (uint32_t)n_top)) + j * (N_EXPERT / n_top);  // distinct experts
      b->experts[r * n_top + j] = (e * 7 + r) % N_EXPERT;
      b->weights[r * n_top + j] = 0.25f;
      to[ti_split_owner(N_EXPERT, W, b->experts[r * n_top + j])]++;
    }
    for (int d = 0; d < W; d++) {
      rows[d] += b->det ? to[d] : to[d] > 0;
      if (d == rank || !to[d]) continue;
      b->n_out[0][d] += (size_t)dim * 4 + to[d] * 4;
      b->rows_out[d]++;
      back[d] += (size_t)dim * 4 * (b->det ? to[d] : 1);
    }
    for (int i = 0; i < dim; i++) x[(size_t)r * (size_t)dim + (size_t)i] = (float)(rank * 100 + r % 50 + i % 3);
  }
  const size_t bytes = (size_t)b->n_row * (size_t)dim * sizeof *x;
  memcpy(ti_exchange_x(b->place, 1), x, bytes);
  for (int m = 0; m < 2; m++) memcpy(ti_exchange_x(b->message, m), x, bytes);
  memcpy(b->n_in[1], back, sizeof back);
  memcpy(b->rows_in[1], rows, sizeof rows);
  MPI_Alltoall(b->n_out[0], 1, MPI_UNSIGNED_LONG, b->n_in[0], 1, MPI_UNSIGNED_LONG, MPI_COMM_WORLD);
  MPI_Alltoall(back, 1, MPI_UNSIGNED_LONG, b->n_out[1], 1, MPI_UNSIGNED_LONG, MPI_COMM_WORLD);
  MPI_Alltoall(rows, 1, MPI_UNSIGNED_LONG, b->rows_in[0], 1, MPI_UNSIGNED_LONG, MPI_COMM_WORLD);
  b->rows_in[0][rank] = 0;  // our own results are not packed
}

// Experts that return their input, so that every sum is known; y keeps what they wrote.
static void validate(bench *b, ti_exchange *x) {
  ti_dispatch_out o;
  float *y = ti_exchange_y(x, 0);
  ok(post(b, x, 0, 0, b->n_row), "dispatch");
  ok(ti_exchange_dispatch_wait(x, 0, &o), "dispatch");
  for (int e = 0; e < o.n_local; e++)
    for (int i = o.offset[e]; i < o.offset[e] + o.count[e]; i++) memcpy(y + (size_t)i * (size_t)dim, o.rows[i], (size_t)dim * sizeof *y);
  ok(ti_exchange_combine_post(x, 0, y), "combine");
  ok(ti_exchange_combine_wait(x, 0, b->out, false), "combine");
  for (size_t i = 0; i < (size_t)b->n_row * (size_t)dim; i++)
    if (fabsf(b->out[i] - x_of(x, 0)[i] * 0.25f * (float)n_top) > 1e-3f) die("a wrong sum", TI_ERR_INTERNAL);
}

static ti_exchange *make(ti_coll *c, const ti_placement *p, bool det, int host_ranks) {
  const ti_exchange_config cfg = {
      .mesh = {.workers = W, .tp = 1, .dp = W, .ep = W, .etp = 1},
      .worker = rank,
      .dim = dim,
      .n_top = n_top,
      .max_row = MAX_ROW,
      .align = 8,
      .dtype = TI_F32,
      .deterministic = det,
      .host_ranks = host_ranks,
  };
  ti_exchange *x;
  ti_error err = {0};
  if (ti_exchange_create(&cfg, c, p, &x, &err)) {
    fprintf(stderr, "%s\n", err.text);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return x;
}

static void row(bench *b, FILE *json, const char **comma) {
  static const bench_fn fn[] = {mpi, user, place, message};
  const int rounds = b->n_row <= 1024 ? MAX_ROUNDS : 11;
  times us[4];
  double t[4];
  fill(b);
  validate(b, b->message);
  validate(b, b->place);
  unsigned long mine = 0, bytes;
  for (int d = 0; d < W; d++) mine += b->n_out[0][d] + b->n_out[1][d];
  MPI_Allreduce(&mine, &bytes, 1, MPI_UNSIGNED_LONG, MPI_MAX, MPI_COMM_WORLD);
  measure(b, fn, 4, b->n_row <= 64 ? 20 : b->n_row <= 256 ? 5 : 2, rounds, us);
  for (int f = 0; f < 4; f++) t[f] = pick(us[f], rounds, percentile);
  const int gate = bytes >= 1 << 20 ? 1 : bytes >= 48 << 10 && bytes <= 128 << 10 ? 0 : -1;
  if (gate >= 0) b->worst[gate] = fmax(b->worst[gate], t[2] / t[0]);
  if (rank != 0) return;
  printf("%-4s %-7s %6d %10.1f %9.1f %9.1f %9.1f %9.1f %9.2f %8.2f %8.2f\n", b->det ? "det" : "sum", b->padded ? "padded" : "counted", b->n_row,
         (double)bytes / 1024, t[0], t[1], t[2], t[3], t[2] / t[0], t[3] / t[0], t[1] / t[0]);
  fflush(stdout);
  if (json)
    fprintf(
        json,
        "%s\n{\"np\":%d,\"det\":%d,\"padded\":%d,\"rows\":%d,\"bytes\":%lu,\"mpi_us\":%.1f,\"user_us\":%.1f,\"place_us\":%.1f,\"message_us\":%.1f}",
        *comma, W, b->det, b->padded, b->n_row, bytes, t[0], t[1], t[2], t[3]);
  *comma = ",";
}

static void overlap_row(bench *b, FILE *json, const char **comma) {
  static const bench_fn fn[] = {gemm_alone, mpi, place, message, shared_mpi, shared_place, shared_message, micro_mpi, micro_place, micro_message};
  times us[10], each;
  double t[4], ratio[2][3];
  fill(b);
  validate(b, b->message);
  validate(b, b->place);
  measure(b, fn, 10, b->n_row <= 64 ? 10 : 4, MAX_ROUNDS, us);
  for (int f = 0; f < 4; f++) t[f] = pick(us[f], MAX_ROUNDS, percentile);
  for (int i = 0; i < 6; i++) {
    for (int r = 0; r < MAX_ROUNDS; r++) each[r] = (us[1 + i % 3][r] + us[0][r] - us[4 + i][r]) / fmin(us[1 + i % 3][r], us[0][r]);
    ratio[i / 3][i % 3] = pick(each, MAX_ROUNDS, 50);
  }
  if (rank != 0) return;
  printf("%6d %9.1f %9.1f %9.1f %9.1f   %6.2f %6.2f %7.2f   %6.2f %6.2f %7.2f\n", b->n_row, t[0], t[1], t[2], t[3], ratio[0][0], ratio[0][1],
         ratio[0][2], ratio[1][0], ratio[1][1], ratio[1][2]);
  fflush(stdout);
  if (json)
    fprintf(json, "%s\n{\"np\":%d,\"rows\":%d,\"gemm_us\":%.1f,\"overlap_shared\":[%.3f,%.3f,%.3f],\"overlap_micro\":[%.3f,%.3f,%.3f]}", *comma, W,
            b->n_row, t[0], ratio[0][0], ratio[0][1], ratio[0][2], ratio[1][0], ratio[1][1], ratio[1][2]);
  *comma = ",";
}

// The product that communication hides under: about as long as it, on one thread a rank, as the ranks share the cores.
static void open_product(bench *b) {
  ti_error err = {0};
  b->k = ti_kernels_find("cpu");
  if (!b->k) b->k = ti_kernels_find("ref");
  if (b->k->open(&(ti_dev_options){.threads = 1}, &b->d, &err)) die(err.text, err.code);
  uint16_t *stored = malloc((size_t)PRODUCT * (size_t)dim * sizeof *stored);
  if (!stored) die("memory", TI_ERR_NOMEM);
  for (int i = 0; i < PRODUCT * dim; i++) stored[i] = (uint16_t)(0x3c00 + i % 509);
  const ti_weight_src src = {.data = stored, .dtype = TI_BF16, .n = PRODUCT, .k = dim};
  size_t bytes;
  ok(b->k->reserve(b->d, MAX_ROW, dim, dim, 1), "reserve");
  ok(b->k->weight_size(b->d, &src, 1, 0, &bytes), "weight");
  ok(b->k->weight_prepare(b->d, &src, 1, 0, bytes ? b->k->alloc(b->d, bytes) : NULL, &b->w), "weight");
}

static void table(bench *b, FILE *json, const char **comma) {
  static const int rows[] = {1, 4, 8, 16, 64, 128, 256, 1024, 4096};
  for (int padded = 1; padded >= 0; padded--)
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
      b->n_row = rows[k];
      b->padded = padded;
      row(b, json, comma);
    }
}

static void overlap_table(bench *b, FILE *json, const char **comma) {
  if (rank == 0)
    printf("overlap, det padded\n%6s %9s %9s %9s %9s   %-21s   %-21s\n%46s   %6s %6s %7s   %6s %6s %7s\n", "rows", "gemm us", "mpi us", "place us",
           "message", "shared expert", "two micro-batches", "", "mpi", "place", "message", "mpi", "place", "message");
  b->padded = true;
  for (b->n_row = 16; b->n_row <= 1024; b->n_row *= 4) overlap_row(b, json, comma);
}

int main(int argc, char **argv) {
  int provided, list[MAX_W];
  const char *json_path = NULL, *comma = "";
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &W);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--json") == 0) json_path = argv[i + 1];
    if (strcmp(argv[i], "--top") == 0) n_top = (int)strtol(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--percentile") == 0) percentile = (int)strtol(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--dim") == 0) dim = (int)strtol(argv[i + 1], NULL, 10);
  }
  if (percentile < 0 || percentile > 99) die("--percentile 0..99", TI_ERR_ARG);
  if (W > MAX_W || n_top < 1 || n_top > MAX_TOP || dim < 1 || dim > 1 << 16) die("--top 1..8, --dim 1..65536, ranks 1..16", TI_ERR_ARG);
  for (int i = 0; i < W; i++) list[i] = i;
  ti_log_set_level(TI_LOG_WARN);
  bench b = {0};
  ti_error err = {0};
  ti_coll *world = NULL;
  ti_placement *p = NULL;
  const size_t row_bytes = (size_t)dim * 4, region = (row_bytes * (size_t)n_top + 64) * MAX_ROW;
  float *y = calloc(MAX_ROW, row_bytes);
  b.y = y;
  b.out = malloc(MAX_ROW * row_bytes);
  b.product = malloc(MAX_ROW * row_bytes);
  b.weights = malloc(MAX_ROW * MAX_TOP * sizeof *b.weights);
  b.experts = malloc(MAX_ROW * MAX_TOP * sizeof *b.experts);
  b.send = calloc((size_t)W, region);
  b.recv = calloc((size_t)W, region);
  if (!y || !b.out || !b.product || !b.weights || !b.experts || !b.send || !b.recv) die("memory", TI_ERR_NOMEM);
  if (ti_coll_mpi_create(list, W, 1, &world, &err) || ti_placement_identity(N_EXPERT, 1, &p, &err)) die(err.text, err.code);
  for (int d = 0; d < W; d++) b.at[d] = region * (size_t)d;
  open_product(&b);
  FILE *json = rank == 0 && json_path ? fopen(json_path, "w") : NULL;
  if (json) fprintf(json, "[");
  if (rank == 0) {
    printf("np %d, dim %d fp32, top %d of %d\n", W, dim, n_top, N_EXPERT);
    printf("%-4s %-7s %6s %10s %9s %9s %9s %9s %9s %8s %8s\n", "form", "", "rows", "KiB sent", "mpi us", "user", "place", "message", "place/",
           "message/", "user/");
  }
  for (int det = 1; det >= 0; det--) {
    b.det = det;
    b.place = make(world, p, det, 0);
    b.message = make(world, p, det, 1);
    table(&b, json, &comma);
    if (det) overlap_table(&b, json, &comma);
    ti_exchange_destroy(b.place);
    ti_exchange_destroy(b.message);
  }
  if (rank == 0) printf("worst place/mpi: %.2f at about 64 KiB (gate 1.6), %.2f from 1 MiB (gate 1.3)\n", b.worst[0], b.worst[1]);
  if (json) {
    fprintf(json, "\n]\n");
    fclose(json);
  }
  ti_coll_destroy(world);
  ti_placement_destroy(p);
  free(y);
  free(b.out);
  free(b.product);
  free(b.weights);
  free(b.experts);
  free(b.send);
  free(b.recv);
  MPI_Finalize();
  return 0;
}
