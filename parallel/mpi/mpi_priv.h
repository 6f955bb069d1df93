// Inside of the MPI collectives. Point-to-point messages on a communicator of our own, not MPI's collectives: a message knows its peer, so that a
// wait can say for whom it waited and an error whose message was wrong; receives can be cancelled; and the order of every sum is ours.
//
//   ti_coll_op --post--> slot: requests [receives | sends], phase --test--> next phase or done
//
// Files: coll_mpi.c (life, test, wait, abort), steps.c (which messages a kind sends, phase by phase), sum.c (sums in rank order), create.c
// (communicators).
#ifndef TI_PARALLEL_MPI_PRIV_H
#define TI_PARALLEL_MPI_PRIV_H
#include <mpi.h>
#include <stdbool.h>

#include "parallel/coll.h"

#define TI_MPI_SLOTS 4

// The abort flag of a communicator, shared with the subsets made from it, which may outlive it.
typedef struct ti_abort_node {
  _Atomic int refs, aborted;
  struct ti_abort_node *parent;
} ti_abort_node;

typedef struct ti_mpi_slot {  // one operation in flight
  bool busy;
  int phase;  // of the kind's steps
  int tag;
  int n_req, n_recv, n_open;  // requests, of which receives (they come first), not yet complete
  MPI_Request *req;           // [2 * size]
  int *peer;                  // [2 * size] rank of each request
  size_t *bytes;              // [2 * size] expected
  char *stage;                // [stage_bytes] where a sum's inputs land
} ti_mpi_slot;

typedef struct ti_mpi_coll {
  ti_coll head;
  ti_abort_node *node;
  MPI_Comm comm;
  int *world;    // [size] MPI_COMM_WORLD ranks
  int tag;       // of the creation
  uint32_t seq;  // operations posted: the message tag
  size_t max_bytes, stage_bytes;
  int n_slot;
  ti_mpi_slot slot[TI_MPI_SLOTS];
  const void **src;    // [size] inputs of a sum
  int *done;           // [2 * size] MPI_Testsome's output
  MPI_Status *status;  // [2 * size]
} ti_mpi_coll;

// steps.c. Posts the first messages of op; TI_OK when there is nothing to wait for, TI_INPROGRESS, or an error.
ti_status ti_mpi_steps_begin(ti_mpi_coll *m, ti_mpi_slot *s, ti_coll_op *op);
// All messages of the phase are complete: computes, and posts the next phase (TI_INPROGRESS) or ends (TI_OK).
ti_status ti_mpi_steps_next(ti_mpi_coll *m, ti_mpi_slot *s, ti_coll_op *op);
// TI_ERR_RANGE when op is larger than what was reserved, TI_ERR_ARG for a type that cannot be summed.
ti_status ti_mpi_steps_check(const ti_mpi_coll *m, const ti_coll_op *op);

// sum.c. dst[n] = src[0] + src[1] + ...: left to right, in fp32, one rounding for BF16. dst may be one of the sources, or lie below it in one array.
void ti_sum_f32(float *dst, const float *const *src, int n_src, size_t n);
void ti_sum_bf16(uint16_t *dst, const uint16_t *const *src, int n_src, size_t n);

// create.c. A communicator of world_ranks (this process among them), and this process's rank in it.
ti_status ti_mpi_comm_create(const int *world_ranks, int n, int tag, MPI_Comm *out, int *rank, ti_error *err);

// Between tests: 50 at once, then 100 that yield the core, then 20 us pauses that grow to 1 ms. n_test counts the caller's tests.
void ti_mpi_pause(unsigned n_test);

#endif
