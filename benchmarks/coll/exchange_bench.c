// Dispatch + combine against MPI_Ialltoallv of the same remote bytes under the same progress (MPI_Test, 50 tests, then 100 that yield, then 20 us
// pauses).
//
//   mpirun -np 4 exchange_bench [--json FILE] [--top N] [--dim N]
//
//   whole      dispatch_post .. combine_wait: packing, transport, blocks, sums
//   transport  the two all-to-alls alone, over ti_coll, of the same bytes a pair
//   permute    what one rank does without any transport (self): blocks and sums of n_row rows with all their routes
//   mpi        two MPI_Ialltoallv of the same bytes a pair
//
// The result is checked (experts that return their input: out = x * sum of weights) before anything is timed. Medians of the slowest rank.
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "parallel/coll.h"
#include "parallel/expert/exchange.h"
#include "base/placement.h"

enum { N_EXPERT = 64, MAX_ROW = 4096, MAX_W = 16, MAX_TOP = 8, ROUNDS = 7 };

static int rank, W, n_top = 2, dim = 1024;

typedef struct bench {
  ti_exchange *x, *self;
  ti_coll *coll;
  float *rows, *out, *weights;
  int32_t *experts;
  int n_row;
  bool padded;
  size_t n_out[2][MAX_W], n_in[2][MAX_W], at[MAX_W], self_row;  // bytes a pair: dispatch, combine
  char *send, *recv;
} bench;

static void die(const char *what, int st) {
  fprintf(stderr, "rank %d: %s: %s\n", rank, what, ti_status_name((ti_status)st));
  MPI_Abort(MPI_COMM_WORLD, 1);
}

static void whole_of(bench *b, ti_exchange *x) {
  ti_dispatch_out o;
  const ti_dispatch_args a = {.x = b->rows, .experts = b->experts, .weights = b->weights, .n_row = b->n_row, .padded = b->padded};
  ti_status st = ti_exchange_dispatch_post(x, &a);
  if (!st) st = ti_exchange_dispatch_wait(x, 0, &o);
  if (!st) st = ti_exchange_combine_post(x, 0, o.rows);  // experts that return their input
  if (!st) st = ti_exchange_combine_wait(x, 0, b->out, false);
  if (st) die("exchange", st);
}
static void whole(bench *b) { whole_of(b, b->x); }
static void permute(bench *b) { whole_of(b, b->self); }

static void transport(bench *b) {
  for (int k = 0; k < 2; k++) {
    ti_coll_op op = {.kind = TI_COLL_ALL_TO_ALL,
                     .dtype = TI_U8,
                     .send = b->send,
                     .recv = b->recv,
                     .send_counts = b->n_out[k],
                     .send_offsets = b->at,
                     .recv_counts = b->n_in[k],
                     .recv_offsets = b->at};
    ti_status st = b->coll->ops->post(b->coll, &op);
    if (!st) st = b->coll->ops->wait(b->coll, &op, 30000000);
    if (st) die("transport", st);
  }
}

static void mpi(bench *b) {
  for (int k = 0; k < 2; k++) {
    int so[MAX_W], ro[MAX_W], at[MAX_W], done = 0;
    for (int d = 0; d < W; d++) {
      so[d] = (int)b->n_out[k][d];
      ro[d] = (int)b->n_in[k][d];
      at[d] = (int)b->at[d];
    }
    MPI_Request req;
    MPI_Ialltoallv(b->send, so, at, MPI_BYTE, b->recv, ro, at, MPI_BYTE, MPI_COMM_WORLD, &req);
    for (unsigned i = 0; !done; i++) {
      MPI_Test(&req, &done, MPI_STATUS_IGNORE);
      if (done || i < 50) continue;
      if (i < 150)
        sched_yield();
      else
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
  }
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double measure(bench *b, void (*fn)(bench *), int iters) {
  double us[ROUNDS];
  for (int r = 0; r < ROUNDS; r++) {
    MPI_Barrier(MPI_COMM_WORLD);
    const uint64_t start = ti_mono_ns();
    for (int i = 0; i < iters; i++) fn(b);
    const double mine = (double)(ti_mono_ns() - start) / 1e3 / iters;
    MPI_Allreduce(&mine, &us[r], 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  }
  qsort(us, ROUNDS, sizeof *us, by_value);
  return us[ROUNDS / 2];
}

// Random routes of this rank, and the bytes that each pair exchanges because of them.
static void fill(bench *b, bool det) {
  uint32_t h = (uint32_t)(rank + 1) * 2654435761u;
  memset(b->n_out, 0, sizeof b->n_out);
  for (int r = 0; r < b->n_row; r++) {
    int to[MAX_W] = {0};
    for (int j = 0; j < n_top; j++) {
      h = h * 1664525u + 1013904223u;
      const int e = (int)((h >> 16) % (N_EXPERT / n_top)) + j * (N_EXPERT / n_top);  // distinct experts
      b->experts[r * n_top + j] = (e * 7 + r) % N_EXPERT;
      b->weights[r * n_top + j] = 0.25f;
      to[ti_split_owner(N_EXPERT, W, b->experts[r * n_top + j])]++;
    }
    for (int d = 0; d < W; d++)
      if (d != rank && to[d]) {
        b->n_out[0][d] += (size_t)dim * 4 + (size_t)to[d] * 4;
        b->n_out[1][d] += (size_t)dim * 4 * (size_t)(det ? to[d] : 1);  // what comes back; turned round below
      }
    for (int i = 0; i < dim; i++) b->rows[(size_t)r * (size_t)dim + (size_t)i] = (float)(rank * 100 + r % 50 + i % 3);
  }
  size_t back[MAX_W];
  MPI_Alltoall(b->n_out[0], 1, MPI_UNSIGNED_LONG, b->n_in[0], 1, MPI_UNSIGNED_LONG, MPI_COMM_WORLD);
  memcpy(back, b->n_out[1], sizeof back);
  memcpy(b->n_in[1], back, sizeof back);
  MPI_Alltoall(back, 1, MPI_UNSIGNED_LONG, b->n_out[1], 1, MPI_UNSIGNED_LONG, MPI_COMM_WORLD);
}

static void validate(bench *b) {
  whole(b);
  for (size_t i = 0; i < (size_t)b->n_row * (size_t)dim; i++)
    if (fabsf(b->out[i] - b->rows[i] * 0.25f * (float)n_top) > 1e-3f) die("a wrong sum", TI_ERR_INTERNAL);
}

static ti_exchange *make(ti_coll *c, int workers, const ti_placement *p, bool det) {
  const ti_exchange_config cfg = {
      .mesh = {.workers = workers, .tp = 1, .dp = workers, .ep = workers, .etp = 1},
      .worker = c->rank,
      .dim = dim,
      .n_top = n_top,
      .max_row = MAX_ROW,
      .align = 8,
      .dtype = TI_F32,
      .deterministic = det,
  };
  ti_exchange *x;
  ti_error err = {0};
  if (ti_exchange_create(&cfg, c, p, &x, &err)) {
    fprintf(stderr, "%s\n", err.text);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return x;
}

static void row(bench *b, bool det, FILE *json, const char **comma) {
  fill(b, det);
  validate(b);
  unsigned long mine = 0, bytes;
  for (int d = 0; d < W; d++) mine += b->n_out[0][d] + b->n_out[1][d];
  MPI_Allreduce(&mine, &bytes, 1, MPI_UNSIGNED_LONG, MPI_MAX, MPI_COMM_WORLD);
  const int iters = b->n_row <= 64 ? 100 : b->n_row <= 512 ? 20 : 5;
  const double t = measure(b, whole, iters), tr = measure(b, transport, iters), pe = measure(b, permute, iters), m = measure(b, mpi, iters);
  if (rank != 0) return;
  printf("%-4s %-7s %6d %10.1f %9.1f %9.1f %9.1f %9.1f %8.2f %9.2f\n", det ? "det" : "sum", b->padded ? "padded" : "counted", b->n_row,
         (double)bytes / 1024, t, tr, pe, m, t / m, tr / m);
  if (json)
    fprintf(json,
            "%s\n{\"np\":%d,\"det\":%d,\"padded\":%d,\"rows\":%d,\"bytes\":%lu,\"whole_us\":%.1f,\"transport_us\":%.1f,\"permute_us\":%.1f,\"mpi_"
            "us\":%.1f}",
            *comma, W, det, b->padded, b->n_row, bytes, t, tr, pe, m);
  *comma = ",";
}

int main(int argc, char **argv) {
  static const int rows[] = {1, 8, 16, 64, 256, 1024, 4096};
  int provided, list[MAX_W];
  const char *json_path = NULL, *comma = "";
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &W);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--json") == 0) json_path = argv[i + 1];
    if (strcmp(argv[i], "--top") == 0) n_top = (int)strtol(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--dim") == 0) dim = (int)strtol(argv[i + 1], NULL, 10);
  }
  if (W > MAX_W || n_top < 1 || n_top > MAX_TOP || dim < 1 || dim > 1 << 16) die("--top 1..8, --dim 1..65536, ranks 1..16", TI_ERR_ARG);
  for (int i = 0; i < W; i++) list[i] = i;
  bench b = {0};
  ti_error err = {0};
  ti_coll *self = NULL, *world = NULL;
  ti_placement *p = NULL;
  const size_t row_bytes = (size_t)dim * 4, region = (row_bytes * (size_t)n_top + 64) * MAX_ROW;
  b.rows = malloc(MAX_ROW * row_bytes);
  b.out = malloc(MAX_ROW * row_bytes);
  b.weights = malloc(MAX_ROW * MAX_TOP * sizeof *b.weights);
  b.experts = malloc(MAX_ROW * MAX_TOP * sizeof *b.experts);
  b.send = malloc(region * (size_t)W);
  b.recv = malloc(region * (size_t)W);
  if (!b.rows || !b.out || !b.weights || !b.experts || !b.send || !b.recv) die("memory", TI_ERR_NOMEM);
  if (ti_coll_self_create(&self) || ti_coll_mpi_create(list, W, 1, &world, &err) || ti_placement_identity(N_EXPERT, 1, &p, &err))
    die(err.text, err.code);
  if (world->ops->subset(world, list, W, &b.coll, &err) || b.coll->ops->reserve(b.coll, region * (size_t)W, 1)) die(err.text, err.code);
  for (int d = 0; d < W; d++) b.at[d] = region * (size_t)d;
  FILE *json = rank == 0 && json_path ? fopen(json_path, "w") : NULL;
  if (json) fprintf(json, "[");
  if (rank == 0) {
    printf("np %d, dim %d fp32, top %d of %d\n", W, dim, n_top, N_EXPERT);
    printf("%-4s %-7s %6s %10s %9s %9s %9s %9s %8s %9s\n", "form", "", "rows", "KiB sent", "whole us", "transport", "permute", "mpi us", "whole/",
           "transp./");
  }
  for (int det = 1; det >= 0; det--) {
    b.x = make(world, W, p, det);
    b.self = make(self, 1, p, det);
    for (int padded = 1; padded >= 0; padded--)
      for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        b.n_row = rows[k];
        b.padded = padded;
        row(&b, det, json, &comma);
      }
    ti_exchange_destroy(b.x);
    ti_exchange_destroy(b.self);
  }
  if (json) {
    fprintf(json, "\n]\n");
    fclose(json);
  }
  ti_coll_destroy(b.coll);
  ti_coll_destroy(world);
  ti_coll_destroy(self);
  ti_placement_destroy(p);
  free(b.rows);
  free(b.out);
  free(b.weights);
  free(b.experts);
  free(b.send);
  free(b.recv);
  MPI_Finalize();
  return 0;
}
