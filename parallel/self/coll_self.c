// Collectives of one rank: every operation is a copy, done in post. The whole contract of coll.h in its shortest form.
#include <stdlib.h>
#include <string.h>

#include "parallel/coll.h"

static ti_status self_reserve(ti_coll *c, size_t max_bytes, int max_in_flight) { return max_in_flight < 1 || max_in_flight > 4 ? TI_ERR_ARG : TI_OK; }

static void copy(ti_coll_op *op, size_t send_at, size_t recv_at, size_t n) {
  const size_t width = (size_t)ti_dtype_block_bytes(op->dtype);
  const char *from = (const char *)op->send + send_at * width;
  char *to = (char *)op->recv + recv_at * width;
  if (n > 0 && from != to) memmove(to, from, n * width);
}

static ti_status self_post(ti_coll *c, ti_coll_op *op) {
  if (atomic_load_explicit(&c->aborted, memory_order_relaxed)) return TI_ERR_ABORTED;
  switch (op->kind) {
    case TI_COLL_BROADCAST:
    case TI_COLL_ALL_REDUCE:
      copy(op, 0, 0, op->n);
      break;
    case TI_COLL_REDUCE_SCATTER:
    case TI_COLL_ALL_GATHER:
      copy(op, 0, 0, op->counts[0]);
      break;
    case TI_COLL_ALL_TO_ALL:
      if (op->got ? op->send_counts[0] > op->recv_counts[0] : op->send_counts[0] != op->recv_counts[0]) return TI_ERR_ARG;
      if (op->got) op->got[0] = op->send_counts[0];
      copy(op, op->send_offsets[0], op->recv_offsets[0], op->send_counts[0]);
      break;
    case TI_COLL_BARRIER:
      break;
  }
  return TI_OK;
}

static ti_status self_test(ti_coll *c, ti_coll_op *op) { return atomic_load_explicit(&c->aborted, memory_order_relaxed) ? TI_ERR_ABORTED : TI_OK; }
static ti_status self_wait(ti_coll *c, ti_coll_op *op, uint64_t timeout_us) { return self_test(c, op); }

static ti_status self_subset(ti_coll *c, const int *ranks, int n, ti_coll **out, ti_error *err) {
  if (n != 1 || ranks[0] != 0) return ti_error_set(err, TI_ERR_ARG, "subset of %d ranks of a communicator of one: only {0} will do", n);
  const ti_status st = ti_coll_self_create(out);
  return st ? ti_error_set(err, st, "subset: out of memory") : TI_OK;
}

static void self_abort(ti_coll *c) { atomic_store(&c->aborted, 1); }
static void self_fini(ti_coll *c) { free(c); }

static const ti_coll_ops self_ops = {
    .name = "self",
    .reserve = self_reserve,
    .post = self_post,
    .test = self_test,
    .wait = self_wait,
    .subset = self_subset,
    .abort = self_abort,
    .fini = self_fini,
};

ti_status ti_coll_self_create(ti_coll **out) {
  ti_coll *c = calloc(1, sizeof *c);
  if (!c) return TI_ERR_NOMEM;
  c->ops = &self_ops;
  c->size = 1;
  c->late_rank = -1;
  *out = c;
  return TI_OK;
}
