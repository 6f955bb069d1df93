// Communicators of a given list of ranks. MPI_Comm_create_group blocks and never notices a dead rank, so a handshake comes first: an empty message to
// and from everybody, tested with a deadline. Only when all have answered, which is when all are on their way into create_group (0.2-6 ms), do we
// enter it. A rank that dies within those milliseconds leaves the others in it; the coordinator's own limit on recovery then ends the process (DESIGN
// 9).
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "parallel/mpi/mpi_priv.h"

#define SPINS 50
#define YIELDS 100
#define PAUSE_NS 20000
#define MAX_PAUSE_NS 1000000
#define HANDSHAKE_TAG 0x40000000  // above every tag that others use on MPI_COMM_WORLD

void ti_mpi_pause(unsigned n_test) {
  static _Thread_local bool slack_set;
  if (n_test < SPINS) return;
  if (n_test < SPINS + YIELDS) {  // some 50 us in which a peer that shares our core gets it, and one on another core is seen at once
    sched_yield();
    return;
  }
  n_test -= YIELDS;
  if (!slack_set) {  // the kernel's default adds 50 us to every sleep
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    slack_set = true;
  }
  // 20 us for the first 5 ms or so, then a slow growth: whoever waits that long waits for a sick or busy peer.
  const unsigned slow = n_test - SPINS < 200 ? 0 : n_test - SPINS - 200;
  long ns = PAUSE_NS + (long)(slow > 1000 ? 1000 : slow) * 1000;
  if (ns > MAX_PAUSE_NS) ns = MAX_PAUSE_NS;
  nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static ti_status handshake(const int *world_ranks, int n, int self, int tag, uint64_t timeout_us, ti_error *err) {
  MPI_Request *req = malloc((size_t)n * 2 * sizeof *req);
  if (!req) return ti_error_set(err, TI_ERR_NOMEM, "communicator of %d ranks: out of memory", n);
  ti_status st = TI_OK;
  for (int i = 0; i < 2 * n; i++) req[i] = MPI_REQUEST_NULL;
  for (int i = 0; i < n; i++) {
    if (world_ranks[i] == self) continue;
    if (MPI_Irecv(NULL, 0, MPI_BYTE, world_ranks[i], HANDSHAKE_TAG | tag, MPI_COMM_WORLD, &req[i]) != MPI_SUCCESS ||
        MPI_Isend(NULL, 0, MPI_BYTE, world_ranks[i], HANDSHAKE_TAG | tag, MPI_COMM_WORLD, &req[n + i]) != MPI_SUCCESS) {
      st = ti_error_set(err, TI_ERR_PEER, "communicator of %d ranks: world rank %d cannot be reached", n, world_ranks[i]);
      break;
    }
  }
  const uint64_t deadline = ti_mono_us() + timeout_us;
  for (unsigned k = 0; !st; k++) {
    int done = 0;
    if (MPI_Testall(2 * n, req, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS)
      st = ti_error_set(err, TI_ERR_PEER, "communicator of %d ranks: a peer broke off", n);
    if (done) break;
    if (!st && ti_mono_us() > deadline) {
      int late = 0;
      for (int i = 0; i < n; i++) {
        int flag = 1;
        if (req[i] != MPI_REQUEST_NULL) MPI_Request_get_status(req[i], &flag, MPI_STATUS_IGNORE);
        if (!flag) late = world_ranks[i];
      }
      st = ti_error_set(err, TI_ERR_TIMEOUT, "communicator of %d ranks: world rank %d did not answer within %llu ms", n, late,
                        (unsigned long long)timeout_us / 1000);
    }
    ti_mpi_pause(k);
  }
  for (int i = 0; i < 2 * n && st; i++) {  // nobody's memory hangs on an empty message: cancel and forget
    if (req[i] == MPI_REQUEST_NULL) continue;
    if (i < n) MPI_Cancel(&req[i]);
    MPI_Request_free(&req[i]);
  }
  free(req);
  return st;
}

ti_status ti_mpi_comm_create(const int *world_ranks, int n, int tag, MPI_Comm *out, int *rank, ti_error *err) {
  int self, world_size, found = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &self);
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  for (int i = 0; i < n; i++) {
    if (world_ranks[i] < 0 || world_ranks[i] >= world_size)
      return ti_error_set(err, TI_ERR_ARG, "communicator: world rank %d of %d does not exist", world_ranks[i], world_size);
    found += world_ranks[i] == self;
  }
  if (found != 1) return ti_error_set(err, TI_ERR_ARG, "communicator: world rank %d stands %d times in the list of %d", self, found, n);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // a peer's death must not be fatal here
  tag &= HANDSHAKE_TAG - 1;
  ti_status st = handshake(world_ranks, n, self, tag, ti_coll_get_timeout(), err);
  if (st) return st;
  MPI_Group world, group;
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, n, world_ranks, &group);
  if (MPI_Comm_create_group(MPI_COMM_WORLD, group, tag, &comm) != MPI_SUCCESS || comm == MPI_COMM_NULL)
    st = ti_error_set(err, TI_ERR_PEER, "communicator of %d ranks: MPI_Comm_create_group failed", n);
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  if (st) return st;
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm, rank);
  *out = comm;
  return TI_OK;
}
