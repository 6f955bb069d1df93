// overlap_bench [DP TP EP ETP]: do two micro-batches pay? (mpirun; default: attention data-parallel, experts spread over all ranks)
//
// Runs titan-tiny-moe's engines on a mesh and prints, for prefill and decode steps of growing row counts a group, the time of a step as one batch and
// as two that alternate, taken in turns; the best of each. The row count from which the ratio stays below 1 is what `--enable-two-batch-overlap auto`
// waits for (TWO_BATCH_AUTO_ROWS in launch/settings.c). The texts of both are compared: a benchmark of wrong results is none.
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/golden/fixture.h"

enum { TRIES = 7, MAX_SEQ = 64, MAX_ROW = 2048 };

static int rank;

// One run of n sequences: [0] as one batch, [1] as two. Prompts of `len` ids, then `tokens` greedy ones.
static double run(ti_engine *e, ti_coll *world, uint32_t n, uint32_t len, uint32_t tokens, uint32_t n_micro, uint32_t *text) {
  static uint32_t ids[MAX_SEQ][MAX_ROW];
  drive_seq q[MAX_SEQ];
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t j = 0; j < len; j++) ids[i][j] = 4 + (i * 131 + j * 17) % 4000;
    q[i] = (drive_seq){.prompt = ids[i], .n_prompt = len, .max_tokens = tokens, .ignore_eos = true, .sampling = drive_greedy()};
  }
  MPI_Barrier(MPI_COMM_WORLD);
  const uint64_t t0 = ti_mono_ns();
  if (drive_run(e, q, n, &(drive_options){.batch = MAX_SEQ, .n_micro = n_micro, .world = world})) MPI_Abort(MPI_COMM_WORLD, 1);
  const double ms = (double)(ti_mono_ns() - t0) / 1e6;
  *text = 0;
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t j = 0; j < q[i].n_out; j++) *text = *text * 31 + q[i].out[j];
  drive_free(q, n);
  return ms;
}

static void compare(ti_engine *e, ti_coll *world, const char *what, uint32_t n, uint32_t len, uint32_t tokens) {
  double best[2] = {1e9, 1e9};
  uint32_t text[2];
  for (int i = 0; i < TRIES; i++)
    for (uint32_t m = 0; m < 2; m++) {
      const double ms = run(e, world, n, len, tokens, 1 + m, &text[m]);
      if (ms < best[m]) best[m] = ms;
    }
  if (text[0] != text[1]) {
    fprintf(stderr, "rank %d: two micro-batches give another text\n", rank);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  if (rank == 0) printf("%-8s %6u %9.2f %9.2f %7.2f\n", what, tokens > 1 ? n : n * len, best[0] / tokens, best[1] / tokens, best[1] / best[0]);
}

int main(int argc, char **argv) {
  int provided, size, list[64];
  ti_mesh mesh;
  ti_error err = {0};
  ti_coll *world, *tp;
  fixture f;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  int v[4] = {0};
  for (int i = 1; i < argc && i < 5; i++) v[i - 1] = (int)strtol(argv[i], NULL, 10);
  if (size > 64 || ti_mesh_init(&mesh, size, v[1], v[0], v[2], v[3], &err)) return fprintf(stderr, "mesh: %s\n", err.text), 2;
  for (int i = 0; i < size; i++) list[i] = i;
  ti_status st = ti_coll_mpi_create(list, size, 1, &world, &err);
  if (!st) st = world->ops->reserve(world, (size_t)size * 12, 1);
  for (int i = 0; i < mesh.tp; i++) list[i] = ti_mesh_worker(&mesh, ti_mesh_dp_of(&mesh, rank), i);
  if (!st) st = world->ops->subset(world, list, mesh.tp, &tp, &err);
  if (st || fixture_open(&f, "titan-tiny-moe")) return fprintf(stderr, "%s\n", err.text), 1;
  const engine_spec spec = {.backend = ti_kernels_find("cpu") ? "cpu" : "ref",
                            .mesh = mesh,
                            .worker = rank,
                            .tp = tp,
                            .world = world,
                            .page_tokens = 16,
                            .max_rows = MAX_ROW,
                            .max_seqs = MAX_SEQ,
                            .max_len = MAX_ROW,
                            .overlap = 1};
  ti_engine *e = fixture_engine(&f, &spec);
  if (!e) return 1;
  if (rank == 0) printf("dp %d tp %d ep %d etp %d\nstep       rows   one ms    two ms   ratio\n", mesh.dp, mesh.tp, mesh.ep, mesh.etp);
  for (uint32_t rows = 16; rows <= 1024; rows *= 4) compare(e, world, "prefill", 8, rows / 8, 1);
  for (uint32_t n = 4; n <= MAX_SEQ; n *= 4) compare(e, world, "decode", n, 1, 8);
  ti_engine_destroy(e);
  fixture_close(&f);
  ti_coll_destroy(tp);
  ti_coll_destroy(world);
  MPI_Finalize();
  return 0;
}
