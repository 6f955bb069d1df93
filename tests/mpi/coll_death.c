// A rank is killed while the others wait for it: they come back on abort, a communicator that lists the dead rank is refused in bounded time, and one
// of the survivors works. Needs mpirun --enable-recovery; nobody calls MPI_Finalize after a death (DESIGN 9), so rank 0 prints the verdict.
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "check.h"
#include "parallel/coll.h"

enum { N = 200000, MAX_W = 8 };

static void *abort_later(void *arg) {
  usleep(100000);  // the control plane learns of a death in about 1 ms
  ti_coll *c = arg;
  c->ops->abort(c);
  return NULL;
}

int main(int argc, char **argv) {
  int provided, size, list[MAX_W] = {0, 1, 2, 3, 4, 5, 6, 7};
  signal(SIGPIPE, SIG_IGN);
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &check_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  ti_log_set_rank(check_rank);
  ti_error err = {0};
  ti_coll *world = NULL, *next = NULL;
  float *x = calloc(N, sizeof *x);  // never freed: an abandoned transfer may still touch it
  CHECK(ti_coll_mpi_create(list, size, 1, &world, &err) == TI_OK, "create: %s", err.text);
  CHECK(world->ops->reserve(world, N * sizeof *x, 1) == TI_OK, "reserve");
  CHECK(ti_coll_all_reduce(world, x, N, TI_F32) == TI_OK, "before the death");
  if (check_rank == size - 1) {
    raise(SIGKILL);
    return 1;
  }
  pthread_t th;
  pthread_create(&th, NULL, abort_later, world);
  const uint64_t start = ti_mono_us();
  const ti_status st = ti_coll_all_reduce(world, x, N, TI_F32);
  CHECK(st == TI_ERR_ABORTED || st == TI_ERR_PEER, "%s", ti_status_name(st));
  CHECK(ti_mono_us() - start < 1000000, "took %llu us", (unsigned long long)(ti_mono_us() - start));
  pthread_join(th, NULL);
  ti_coll_destroy(world);

  ti_coll_set_timeout(300000);
  CHECK(ti_coll_mpi_create(list, size, 2, &next, &err) == TI_ERR_TIMEOUT, "a communicator with a dead rank: %s", err.text);
  ti_coll_set_timeout(5000000);
  const uint64_t again = ti_mono_us();
  CHECK(ti_coll_mpi_create(list, size - 1, 3, &next, &err) == TI_OK, "survivors: %s", err.text);
  if (next) {
    CHECK(ti_mono_us() - again < 2000000, "took %llu us", (unsigned long long)(ti_mono_us() - again));
    CHECK(next->ops->reserve(next, 64, 1) == TI_OK, "reserve");
    float y = 1;
    CHECK(ti_coll_all_reduce(next, &y, 1, TI_F32) == TI_OK && y > (float)size - 1.5f && y < (float)size - 0.5f, "sum %g", (double)y);
    float failed = (float)check_failed;
    CHECK(ti_coll_all_reduce(next, &failed, 1, TI_F32) == TI_OK && failed < 0.5f, "%g checks did not hold elsewhere", (double)failed);
  }
  check_end("coll_death");
  if (check_rank == 0 && check_failed == 0) printf("survivors go on\n");
  fflush(stdout);
  _exit(check_failed != 0);
}
