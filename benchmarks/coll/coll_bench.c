// all_reduce, all_gather and barrier against MPI's own under the same progress (nonblocking + MPI_Test, 50 tests, then 20 us pauses).
//
//   mpirun -np 2 coll_bench [--json FILE]
//
// Validates before it times (the sum is checked), reports the median over rounds of the slowest rank's mean.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "parallel/coll.h"

#define ROUNDS 9

static int rank, size;

static void mpi_wait(MPI_Request *req) {
  int done = 0;
  for (unsigned k = 0; !done; k++) {
    MPI_Test(req, &done, MPI_STATUS_IGNORE);
    if (!done && k >= 50) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
}

typedef enum what { REDUCE, GATHER, BARRIER } what;
typedef struct bench {
  ti_coll *coll;
  float *x, *y;
  size_t n, *counts;
  int *int_counts, *displs;
} bench;

static int ours(bench *b, what w) {
  if (w == REDUCE) return ti_coll_all_reduce(b->coll, b->x, b->n, TI_F32);
  if (w == GATHER) return ti_coll_all_gather(b->coll, b->x, b->y, b->counts, TI_F32);
  return ti_coll_barrier(b->coll);
}

static int theirs(bench *b, what w) {
  MPI_Request req;
  if (w == REDUCE)
    MPI_Iallreduce(MPI_IN_PLACE, b->x, (int)b->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &req);
  else if (w == GATHER)
    MPI_Iallgatherv(b->x, b->int_counts[rank], MPI_FLOAT, b->y, b->int_counts, b->displs, MPI_FLOAT, MPI_COMM_WORLD, &req);
  else
    MPI_Ibarrier(MPI_COMM_WORLD, &req);
  mpi_wait(&req);
  return 0;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Microseconds an operation: median over rounds of the slowest rank's mean.
static double measure(bench *b, what w, int (*fn)(bench *, what), int iters) {
  double us[ROUNDS];
  for (int r = 0; r < ROUNDS; r++) {
    MPI_Barrier(MPI_COMM_WORLD);
    const uint64_t start = ti_mono_ns();
    for (int i = 0; i < iters; i++) {
      if (fn(b, w)) MPI_Abort(MPI_COMM_WORLD, 1);
    }
    const double mine = (double)(ti_mono_ns() - start) / 1e3 / iters;
    MPI_Allreduce(&mine, &us[r], 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  }
  qsort(us, ROUNDS, sizeof *us, by_value);
  return us[ROUNDS / 2];
}

static void validate(bench *b) {
  for (size_t i = 0; i < b->n; i++) b->x[i] = (float)((size_t)rank + i % 7);
  if (ours(b, REDUCE)) MPI_Abort(MPI_COMM_WORLD, 1);
  for (size_t i = 0; i < b->n; i++) {
    const float want = (float)(size * (size - 1) / 2) + (float)size * (float)(i % 7);
    if (b->x[i] < want || b->x[i] > want) {
      fprintf(stderr, "rank %d: all_reduce of %zu: element %zu is %g, not %g\n", rank, b->n, i, (double)b->x[i], (double)want);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }
  memset(b->x, 0, b->n * sizeof *b->x);
}

int main(int argc, char **argv) {
  static const size_t bytes[] = {256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304};
  enum { N = sizeof bytes / sizeof *bytes };
  const size_t max = bytes[N - 1];
  static const char *names[] = {"all_reduce", "all_gather", "barrier"};
  int provided, list[64];
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  FILE *json = rank == 0 && argc == 3 && strcmp(argv[1], "--json") == 0 ? fopen(argv[2], "w") : NULL;
  for (int i = 0; i < size && i < 64; i++) list[i] = i;
  bench b = {.x = malloc(max),
             .y = malloc(max),
             .counts = calloc(64, sizeof(size_t)),
             .int_counts = calloc(64, sizeof(int)),
             .displs = calloc(64, sizeof(int))};
  ti_error err = {0};
  if (size > 64 || ti_coll_mpi_create(list, size, 1, &b.coll, &err) || b.coll->ops->reserve(b.coll, max, 1)) {
    fprintf(stderr, "rank %d: %s\n", rank, err.text);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  if (rank == 0) printf("%-11s %2s %9s %10s %10s %6s\n", "op", "np", "bytes", "ours us", "mpi us", "ratio");
  if (json) fprintf(json, "[");
  for (int w = REDUCE; w <= BARRIER; w++)
    for (int k = 0; k < (w == BARRIER ? 1 : N); k++) {
      b.n = w == BARRIER ? 0 : bytes[k] / sizeof(float);
      for (int i = 0; i < size; i++) {
        long from, to;
        ti_split((long)b.n, size, i, &from, &to);
        b.counts[i] = (size_t)(to - from);
        b.int_counts[i] = (int)(to - from);
        b.displs[i] = (int)from;
      }
      validate(&b);
      const int iters = bytes[k] <= 16384 ? 200 : bytes[k] <= 262144 ? 50 : 8;
      const double mine = measure(&b, (what)w, ours, iters), mpi = measure(&b, (what)w, theirs, iters);
      if (rank == 0) printf("%-11s %2d %9zu %10.1f %10.1f %6.2f\n", names[w], size, b.n * 4, mine, mpi, mine / mpi);
      if (json)
        fprintf(json, "%s\n{\"op\":\"%s\",\"np\":%d,\"bytes\":%zu,\"us\":%.2f,\"mpi_us\":%.2f}", w + k ? "," : "", names[w], size, b.n * 4, mine,
                mpi);
    }
  if (json) {
    fprintf(json, "\n]\n");
    fclose(json);
  }
  ti_coll_destroy(b.coll);
  free(b.x);
  free(b.y);
  free(b.counts);
  free(b.int_counts);
  free(b.displs);
  MPI_Finalize();
  return 0;
}
