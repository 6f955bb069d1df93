// Collectives over a set of ranks: an ops table with self/ (one rank), mpi/ (nonblocking MPI, host memory) and nccl/ (streams).
//
// Life of one operation: init (fill ti_coll_op) -> post -> test or wait -> done. post never blocks. Every rank of a communicator posts the same
// sequence.
//
//   rank r        post(all_reduce)  ....computes....  wait ----> TI_OK | TI_ERR_ABORTED | TI_ERR_TIMEOUT
//
// - wait (host memory): progresses until done, aborted or past its bound; MPI never reports a dead rank, so whoever learns of one calls abort. After
//   anything but TI_OK the communicator is of no use but for fini.
// - stream-ordered implementations (nccl): post enqueues on op->stream, wait makes that stream wait; sums and copies are done by the device.
// - abort and time-out: receives that have not begun are cancelled, so that nothing is written to their buffers later; see `abandoned` for the rest.
// - all_reduce returns the same bits on every rank: partial sums are added in rank order, whatever the size.
// - No allocation after `reserve`; one thread per communicator.
#ifndef TI_PARALLEL_COLL_H
#define TI_PARALLEL_COLL_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/mesh.h"
#include "base/status.h"

typedef enum ti_coll_kind {
  TI_COLL_ALL_REDUCE,      // recv[n] = sum over ranks of send[n]; in place allowed (send == recv); F32 and BF16 (summed in fp32)
  TI_COLL_REDUCE_SCATTER,  // recv[counts[rank]] = the rank's share of the sum; send[sum of counts]
  TI_COLL_ALL_GATHER,      // recv = concatenation in rank order; rank i gives counts[i]; in place allowed (send at its own place in recv)
  TI_COLL_ALL_TO_ALL,      // counts form: send_counts[i] elements from send + send_offsets[i] to rank i, and the mirror
  TI_COLL_BROADCAST,       // recv[n] of every rank = the root's send[n]; the others' send is not read; in place allowed
  TI_COLL_BARRIER
} ti_coll_kind;

typedef struct ti_coll_op {
  ti_coll_kind kind;
  ti_dtype dtype;  // element; sums: F32 or BF16; moves: any plain type
  const void *send;
  void *recv;
  size_t n;                                                               // ALL_REDUCE, BROADCAST: elements
  const size_t *counts;                                                   // [size] REDUCE_SCATTER, ALL_GATHER: elements a rank (host)
  const size_t *send_counts, *send_offsets, *recv_counts, *recv_offsets;  // [size] ALL_TO_ALL, elements (host)
  // ALL_TO_ALL over host memory, [size] or NULL. Set: recv_counts are upper bounds, every pair sends a message, and its length is put here.
  size_t *got;
  int root;
  void *stream;        // the device's stream; NULL on CPUs
  uint64_t state[24];  // the implementation's, valid from post to done
} ti_coll_op;

typedef struct ti_coll ti_coll;
typedef struct ti_coll_ops {
  const char *name;  // "self", "mpi", "nccl"
  // Largest operation in bytes (send or recv side) and operations in flight at once (1..4). Set-up only; collective. May be called again, with
  // nothing in flight; it only grows. An operation beyond it: TI_ERR_RANGE; one more in flight: TI_ERR_FULL.
  // One message is below 2 GiB. REDUCE_SCATTER: counts may be uneven as long as size * counts[rank] is at most max_bytes + 64 MiB.
  ti_status (*reserve)(ti_coll *c, size_t max_bytes, int max_in_flight);
  ti_status (*post)(ti_coll *c, ti_coll_op *op);
  ti_status (*test)(ti_coll *c, ti_coll_op *op);  // TI_OK done, TI_INPROGRESS, or an error
  ti_status (*wait)(ti_coll *c, ti_coll_op *op, uint64_t timeout_us);
  // A communicator of the listed ranks of this one (same list on each of them, this rank among them). Collective over those ranks; bounded.
  ti_status (*subset)(ti_coll *c, const int *ranks, int n, ti_coll **out, ti_error *err);
  // From any thread: makes test and wait return TI_ERR_ABORTED soon (here and in subsets made from this one).
  void (*abort)(ti_coll *c);
  void (*fini)(ti_coll *c);  // frees; never blocks on peers
} ti_coll_ops;

struct ti_coll {  // the head of each implementation's struct
  const ti_coll_ops *ops;
  int rank, size;
  _Atomic int aborted;
  uint64_t wait_ns;  // time spent in wait since the owner last zeroed it (exposed communication)
  int late_rank;     // whom the last operation that had to wait, failed or timed out was waiting for in the end; -1: nobody
  // Operations given up while a transfer was under way (a peer died or was aborted in the middle of a large message). When it is not 0, the transport
  // may still touch these operations' buffers: their owner must never free or reuse them (leaking them on purpose is right; it happens once an epoch
  // at most). Written by the thread that waits. A worker's process ends with _exit then, without unwinding (launch/work.c).
  int abandoned;
};

// One rank: every operation is a copy. Never fails but for NOMEM.
ti_status ti_coll_self_create(ti_coll **out) TI_MUST_CHECK;
// Over MPI (MPI_Init_thread done by the caller with MPI_THREAD_MULTIPLE). world_ranks: MPI_COMM_WORLD ranks of this communicator's ranks, in order.
// Made with MPI_Comm_create_group, so only those ranks take part. tag tells concurrent creations apart.
ti_status ti_coll_mpi_create(const int *world_ranks, int n, int tag, ti_coll **out, ti_error *err) TI_MUST_CHECK;

// Shorthands: post + wait with the default bound (30 s, or what ti_coll_set_timeout said).
void ti_coll_set_timeout(uint64_t us);
uint64_t ti_coll_get_timeout(void);
ti_status ti_coll_all_reduce(ti_coll *c, void *x, size_t n, ti_dtype dtype) TI_MUST_CHECK;
ti_status ti_coll_all_gather(ti_coll *c, const void *send, void *recv, const size_t *counts, ti_dtype dtype) TI_MUST_CHECK;
ti_status ti_coll_broadcast(ti_coll *c, void *x, size_t n, ti_dtype dtype, int root) TI_MUST_CHECK;
ti_status ti_coll_barrier(ti_coll *c) TI_MUST_CHECK;
static inline void ti_coll_destroy(ti_coll *c) {
  if (c) c->ops->fini(c);
}

#endif
