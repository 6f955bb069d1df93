// One suite for every implementation of coll.h: each collective x sizes x types x zero counts x in place, against loops over what each rank is known
// to send; bits, not tolerances. Then the ways to end badly: a rank that never posts, abort in mid-flight, wrong sizes. Run under mpirun -np 1..4.
#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/log.h"
#include "check.h"
#include "parallel/coll.h"

#define MAX_N 100003
#define MAX_SIZE 8

static const size_t sizes[] = {0, 1, 3, 1000, 100003};
static const int n_sizes = sizeof sizes / sizeof *sizes;
static int world_list[MAX_SIZE] = {0, 1, 2, 3, 4, 5, 6, 7};

static ti_status run(ti_coll *c, ti_coll_op op) {
  ti_status st = c->ops->post(c, &op);
  return st ? st : c->ops->wait(c, &op, 20000000);
}

static void put(void *buf, ti_dtype t, size_t i, float v) {
  if (t == TI_F32)
    ((float *)buf)[i] = v;
  else
    ((uint16_t *)buf)[i] = ti_f32_to_bf16(v);
}

static float get(const void *buf, ti_dtype t, size_t i) { return t == TI_F32 ? ((const float *)buf)[i] : ti_bf16_to_f32(((const uint16_t *)buf)[i]); }

static float as(ti_dtype t, float v) { return t == TI_F32 ? v : ti_bf16_to_f32(ti_f32_to_bf16(v)); }

// The naive sum: rank by rank in fp32, rounded once.
static float naive_sum(ti_dtype t, uint32_t seed, int size, size_t i) {
  float acc = as(t, check_value(seed, 0, i));
  for (int r = 1; r < size; r++) acc += as(t, check_value(seed, r, i));
  return as(t, acc);
}

static void fill(void *buf, ti_dtype t, uint32_t seed, int rank, size_t n) {
  for (size_t i = 0; i < n; i++) put(buf, t, i, check_value(seed, rank, i));
}

static int same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

static void test_all_reduce(ti_coll *c, char *a, char *b, ti_dtype t, size_t n, uint32_t seed) {
  for (int in_place = 0; in_place < 2; in_place++) {
    fill(a, t, seed, c->rank, n);
    void *recv = in_place ? a : b;
    const ti_status st = run(c, (ti_coll_op){.kind = TI_COLL_ALL_REDUCE, .dtype = t, .send = a, .recv = recv, .n = n});
    CHECK(st == TI_OK, "all_reduce %zu: %s", n, ti_status_name(st));
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) bad += !same(get(recv, t, i), naive_sum(t, seed, c->size, i));
    CHECK(bad == 0, "all_reduce %s %zu in_place=%d: %zu differ", ti_dtype_name(t), n, in_place, bad);
  }
}

// Uneven counts with zeros: rank 1 gets nothing, the last one most.
static void uneven(size_t n, int size, size_t *counts) {
  size_t left = n;
  for (int r = 0; r < size; r++) {
    counts[r] = r == size - 1 ? left : r == 1 ? 0 : left / 3;
    left -= counts[r];
  }
}

static void test_reduce_scatter(ti_coll *c, char *a, char *b, ti_dtype t, size_t n, uint32_t seed) {
  size_t counts[MAX_SIZE], at = 0, bad = 0;
  uneven(n, c->size, counts);
  for (int r = 0; r < c->rank; r++) at += counts[r];
  fill(a, t, seed, c->rank, n);
  const ti_status st = run(c, (ti_coll_op){.kind = TI_COLL_REDUCE_SCATTER, .dtype = t, .send = a, .recv = b, .counts = counts});
  CHECK(st == TI_OK, "reduce_scatter %zu: %s", n, ti_status_name(st));
  for (size_t i = 0; i < counts[c->rank]; i++) bad += !same(get(b, t, i), naive_sum(t, seed, c->size, at + i));
  CHECK(bad == 0, "reduce_scatter %s %zu: %zu differ", ti_dtype_name(t), n, bad);
}

static void test_all_gather(ti_coll *c, char *a, char *b, ti_dtype t, size_t n, uint32_t seed) {
  size_t counts[MAX_SIZE], own = 0;
  uneven(n, c->size, counts);
  for (int r = 0; r < c->rank; r++) own += counts[r];
  for (int in_place = 0; in_place < 2; in_place++) {
    char *send = in_place ? b + own * (size_t)ti_dtype_block_bytes(t) : a;
    fill(send, t, seed, c->rank, counts[c->rank]);
    const ti_status st = run(c, (ti_coll_op){.kind = TI_COLL_ALL_GATHER, .dtype = t, .send = send, .recv = b, .counts = counts});
    CHECK(st == TI_OK, "all_gather %zu: %s", n, ti_status_name(st));
    size_t bad = 0, at = 0;
    for (int r = 0; r < c->size; at += counts[r++])
      for (size_t i = 0; i < counts[r]; i++) bad += !same(get(b, t, at + i), as(t, check_value(seed, r, i)));
    CHECK(bad == 0, "all_gather %s %zu: %zu differ", ti_dtype_name(t), n, bad);
  }
}

// Rank i sends rank j (i * 7 + j * 3) % 5 fifths of its share: zero for some pairs.
static size_t pair_count(size_t n, int size, int i, int j) { return n / (size_t)size * (size_t)((i * 7 + j * 3) % 5) / 5; }

static void test_all_to_all(ti_coll *c, char *a, char *b, ti_dtype t, size_t n, uint32_t seed) {
  size_t sc[MAX_SIZE], so[MAX_SIZE], rc[MAX_SIZE], ro[MAX_SIZE], s = 0, r = 0, bad = 0;
  for (int p = 0; p < c->size; p++) {
    so[p] = s;
    ro[p] = r;
    s += sc[p] = pair_count(n, c->size, c->rank, p);
    r += rc[p] = pair_count(n, c->size, p, c->rank);
    for (size_t i = 0; i < sc[p]; i++) put(a, t, so[p] + i, check_value(seed + (uint32_t)p, c->rank, i));
  }
  const ti_status st = run(c, (ti_coll_op){
                                  .kind = TI_COLL_ALL_TO_ALL,
                                  .dtype = t,
                                  .send = a,
                                  .recv = b,
                                  .send_counts = sc,
                                  .send_offsets = so,
                                  .recv_counts = rc,
                                  .recv_offsets = ro,
                              });
  CHECK(st == TI_OK, "all_to_all %zu: %s", n, ti_status_name(st));
  for (int p = 0; p < c->size; p++)
    for (size_t i = 0; i < rc[p]; i++) bad += !same(get(b, t, ro[p] + i), as(t, check_value(seed + (uint32_t)c->rank, p, i)));
  CHECK(bad == 0, "all_to_all %s %zu: %zu differ", ti_dtype_name(t), n, bad);
}

// Receives with an upper bound only: each pair's message says by itself how long it is.
static void test_all_to_all_bounded(ti_coll *c) {
  char a[MAX_SIZE * 64], b[MAX_SIZE * 64];
  size_t sc[MAX_SIZE], at[MAX_SIZE], rc[MAX_SIZE], got[MAX_SIZE];
  for (int p = 0; p < c->size; p++) {
    at[p] = (size_t)p * 64;
    sc[p] = (size_t)((c->rank * 5 + p * 3) % 7);
    rc[p] = 64;
    memset(a + at[p], 'a' + c->rank, 64);
  }
  memset(b, 0, sizeof b);
  const ti_status st = run(c, (ti_coll_op){
                                  .kind = TI_COLL_ALL_TO_ALL,
                                  .dtype = TI_U8,
                                  .send = a,
                                  .recv = b,
                                  .send_counts = sc,
                                  .send_offsets = at,
                                  .recv_counts = rc,
                                  .recv_offsets = at,
                                  .got = got,
                              });
  CHECK(st == TI_OK, "bounded all_to_all: %s", ti_status_name(st));
  for (int p = 0; p < c->size; p++) {
    CHECK(got[p] == (size_t)((p * 5 + c->rank * 3) % 7), "from %d: %zu", p, got[p]);
    for (size_t i = 0; i < 64; i++) CHECK(b[at[p] + i] == (i < got[p] ? 'a' + p : 0), "from %d, byte %zu", p, i);
  }
}

static void test_broadcast(ti_coll *c, char *a, ti_dtype t, size_t n, uint32_t seed) {
  for (int root = 0; root < c->size; root++) {
    fill(a, t, seed, c->rank, n);
    const ti_status st = run(c, (ti_coll_op){.kind = TI_COLL_BROADCAST, .dtype = t, .send = a, .recv = a, .n = n, .root = root});
    CHECK(st == TI_OK, "broadcast %zu: %s", n, ti_status_name(st));
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) bad += !same(get(a, t, i), as(t, check_value(seed, root, i)));
    CHECK(bad == 0, "broadcast %s %zu root=%d: %zu differ", ti_dtype_name(t), n, root, bad);
  }
}

static void test_values(ti_coll *c) {
  char *a = malloc(MAX_N * 4 + 64), *b = malloc(MAX_N * 4 + 64);
  CHECK(a && b, "memory");
  CHECK(c->ops->reserve(c, MAX_N * 4, 4) == TI_OK, "reserve");
  for (int k = 0; k < n_sizes; k++)
    for (int t = 0; t < 2; t++) {
      const ti_dtype dtype = t ? TI_BF16 : TI_F32;
      const uint32_t seed = (uint32_t)(k * 10 + t + 1);
      test_all_reduce(c, a, b, dtype, sizes[k], seed);
      test_reduce_scatter(c, a, b, dtype, sizes[k], seed);
      test_all_gather(c, a, b, dtype, sizes[k], seed);
      test_all_to_all(c, a, b, dtype, sizes[k], seed);
      test_broadcast(c, a, dtype, sizes[k], seed);
      CHECK(ti_coll_barrier(c) == TI_OK, "barrier");
    }
  free(a);
  free(b);
}

// A part of a vector has the same bits whichever form (one phase, two phases) sums it.
static void test_same_bits_at_every_size(ti_coll *c) {
  float *a = malloc(MAX_N * 4), *b = malloc(MAX_N * 4);
  fill(a, TI_F32, 5, c->rank, MAX_N);
  memcpy(b, a, 1000 * 4);
  CHECK(ti_coll_all_reduce(c, a, MAX_N, TI_F32) == TI_OK && ti_coll_all_reduce(c, b, 1000, TI_F32) == TI_OK, "all_reduce");
  CHECK(memcmp(a, b, 4000) == 0, "the large and the small form differ");
  free(a);
  free(b);
}

static void test_in_flight_and_limits(ti_coll *c) {
  float x[4][64];
  ti_coll_op op[5];
  for (int k = 0; k < 4; k++) {
    fill(x[k], TI_F32, (uint32_t)k, c->rank, 64);
    op[k] = (ti_coll_op){.kind = TI_COLL_ALL_REDUCE, .dtype = TI_F32, .send = x[k], .recv = x[k], .n = 64};
    CHECK(c->ops->post(c, &op[k]) == TI_OK, "post %d", k);
  }
  op[4] = op[0];
  if (c->size > 1) CHECK(c->ops->post(c, &op[4]) == TI_ERR_FULL, "a fifth operation");
  for (int k = 3; k >= 0; k--) {
    CHECK(c->ops->wait(c, &op[k], 10000000) == TI_OK, "wait %d", k);
    CHECK(c->ops->test(c, &op[k]) == TI_OK, "test after the end");
    for (size_t i = 0; i < 64; i++) CHECK(same(x[k][i], naive_sum(TI_F32, (uint32_t)k, c->size, i)), "op %d element %zu", k, i);
  }
  if (c->size > 1) {
    CHECK(run(c, (ti_coll_op){.kind = TI_COLL_ALL_REDUCE, .dtype = TI_F32, .send = x, .recv = x, .n = MAX_N + 1}) == TI_ERR_RANGE, "too large");
    CHECK(run(c, (ti_coll_op){.kind = TI_COLL_ALL_REDUCE, .dtype = TI_I32, .send = x, .recv = x, .n = 1}) == TI_ERR_ARG, "sum of integers");
  }
}

static void *abort_later(void *arg) {
  usleep(50000);
  ti_coll *c = arg;
  c->ops->abort(c);
  return NULL;
}

// Rank 0 never posts. The others: ABORTED soon after abort (of the communicator or of its parent), else TIMEOUT, and rank 0 is named.
static void test_missing_rank(ti_coll *world, size_t n, int by_parent) {
  ti_coll *parent = NULL, *c = NULL;
  ti_error err = {0};
  int all[MAX_SIZE] = {0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(world->ops->subset(world, all, world->size, &parent, &err) == TI_OK, "subset: %s", err.text);
  CHECK(parent->ops->subset(parent, all, world->size, &c, &err) == TI_OK, "subset: %s", err.text);
  CHECK(c->ops->reserve(c, n * 4, 1) == TI_OK, "reserve");
  float *x = malloc(n * 4);
  for (int i = 0; i < 2 && world->rank != 0; i++) {
    const int with_abort = i == 1;
    if (with_abort != (by_parent >= 0)) continue;
    pthread_t th;
    fill(x, TI_F32, 1, c->rank, n);
    ti_coll_op op = {.kind = TI_COLL_ALL_REDUCE, .dtype = TI_F32, .send = x, .recv = x, .n = n};
    CHECK(c->ops->post(c, &op) == TI_OK, "post");
    if (with_abort) pthread_create(&th, NULL, abort_later, by_parent ? parent : c);
    const uint64_t start = ti_mono_us();
    const ti_status st = c->ops->wait(c, &op, with_abort ? 5000000 : 100000);
    const uint64_t us = ti_mono_us() - start;
    if (with_abort) pthread_join(th, NULL);
    CHECK(st == (with_abort ? TI_ERR_ABORTED : TI_ERR_TIMEOUT), "got %s", ti_status_name(st));
    CHECK(us < 150000 + (with_abort ? 0u : 60000u), "returned after %llu us", (unsigned long long)us);
    CHECK(c->late_rank == 0, "late_rank %d", c->late_rank);
    if (with_abort) CHECK(c->ops->post(c, &op) == TI_ERR_ABORTED, "post after abort");
  }
  if (world->rank == 0) {  // comes too late: what it sends must reach nobody's buffer
    memset(x, 0x7f, n * 4);
    usleep(250000);
    ti_coll_op op = {.kind = TI_COLL_ALL_REDUCE, .dtype = TI_F32, .send = x, .recv = x, .n = n};
    CHECK(c->ops->post(c, &op) == TI_OK, "post");
    const ti_status st = c->ops->wait(c, &op, 50000);
    CHECK(st == TI_ERR_TIMEOUT || (st == TI_OK && n * 4 <= 4096), "late rank: %s", ti_status_name(st));
  }
  const int abandoned = c->abandoned;
  MPI_Barrier(MPI_COMM_WORLD);
  for (size_t i = 0; i < n && world->rank != 0 && abandoned == 0; i++)
    if (memcmp(&x[i], "\x7f\x7f\x7f\x7f", 4) == 0) {
      CHECK(0, "a buffer was written after the end of its operation");
      break;
    }
  c->ops->fini(c);
  parent->ops->fini(parent);
  if (abandoned == 0) free(x);
}

// Ranks that disagree about a size find out, each with the peer's name.
static void test_wrong_size(ti_coll *world) {
  ti_coll *c = NULL;
  ti_error err = {0};
  CHECK(world->ops->subset(world, world_list, world->size, &c, &err) == TI_OK, "subset: %s", err.text);
  CHECK(c->ops->reserve(c, 4096, 1) == TI_OK, "reserve");
  static float x[1024];
  const size_t n = c->rank == 0 ? 100 : 64;
  ti_log_set_level(TI_LOG_ERROR);
  const ti_status st = run(c, (ti_coll_op){.kind = TI_COLL_ALL_REDUCE, .dtype = TI_F32, .send = x, .recv = x, .n = n});
  CHECK(st == TI_ERR_RANGE, "rank %d: %s", c->rank, ti_status_name(st));
  c->ops->abort(c);
  MPI_Barrier(MPI_COMM_WORLD);
  c->ops->fini(c);
}

static void test_subsets(ti_coll *world) {
  const int half = (world->size + 1) / 2, low = world->rank < half;
  int list[MAX_SIZE], n = 0;
  for (int r = world->size - 1; r >= 0; r--)  // reversed: order is the caller's
    if ((r < half) == low) list[n++] = r;
  ti_coll *c = NULL;
  ti_error err = {0};
  CHECK(world->ops->subset(world, list, n, &c, &err) == TI_OK, "subset: %s", err.text);
  CHECK(c->size == n && list[c->rank] == world->rank, "rank %d of %d", c->rank, c->size);
  CHECK(c->ops->reserve(c, 64, 1) == TI_OK, "reserve");
  float x = (float)world->rank, want = 0;
  for (int i = 0; i < n; i++) want += (float)list[i];
  CHECK(ti_coll_all_reduce(c, &x, 1, TI_F32) == TI_OK && same(x, want), "sum %g, expected %g", (double)x, (double)want);
  c->ops->fini(c);
  list[0] = world->size;
  CHECK(world->ops->subset(world, list, n, &c, &err) == TI_ERR_ARG, "a rank that does not exist");
}

static void suite(ti_coll *c) {
  test_values(c);
  test_same_bits_at_every_size(c);
  test_all_to_all_bounded(c);
  test_in_flight_and_limits(c);
}

int main(int argc, char **argv) {
  int provided;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  int size;
  MPI_Comm_rank(MPI_COMM_WORLD, &check_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  ti_coll_set_timeout(20000000);
  ti_log_set_rank(check_rank);
  ti_coll *self = NULL, *world = NULL;
  ti_error err = {0};
  CHECK(ti_coll_self_create(&self) == TI_OK, "self");
  suite(self);
  ti_coll_destroy(self);
  CHECK(ti_coll_mpi_create(world_list, size, 1, &world, &err) == TI_OK, "create: %s", err.text);
  if (world) {
    suite(world);
    test_subsets(world);
    for (int by = -1; by < 2 && size > 1; by++) {
      test_missing_rank(world, 100, by);
      test_missing_rank(world, 1000000, by);
    }
    if (size > 1) test_wrong_size(world);
    ti_coll_destroy(world);
  }
  int failed = check_end("coll"), any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
