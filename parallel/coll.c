// The blocking shorthands over the ops table: post + wait under one default bound. Any thread that owns the communicator.
#include "parallel/coll.h"

#define DEFAULT_TIMEOUT_US 30000000u

static _Atomic uint64_t timeout_us = DEFAULT_TIMEOUT_US;

void ti_coll_set_timeout(uint64_t us) { atomic_store(&timeout_us, us); }
uint64_t ti_coll_get_timeout(void) { return atomic_load(&timeout_us); }

static ti_status run(ti_coll *c, ti_coll_op *op) {
  const ti_status st = c->ops->post(c, op);
  return st ? st : c->ops->wait(c, op, ti_coll_get_timeout());
}

ti_status ti_coll_all_reduce(ti_coll *c, void *x, size_t n, ti_dtype dtype) {
  ti_coll_op op = {.kind = TI_COLL_ALL_REDUCE, .dtype = dtype, .send = x, .recv = x, .n = n};
  return run(c, &op);
}

ti_status ti_coll_all_gather(ti_coll *c, const void *send, void *recv, const size_t *counts, ti_dtype dtype) {
  ti_coll_op op = {.kind = TI_COLL_ALL_GATHER, .dtype = dtype, .send = send, .recv = recv, .counts = counts};
  return run(c, &op);
}

ti_status ti_coll_broadcast(ti_coll *c, void *x, size_t n, ti_dtype dtype, int root) {
  ti_coll_op op = {.kind = TI_COLL_BROADCAST, .dtype = dtype, .send = x, .recv = x, .n = n, .root = root};
  return run(c, &op);
}

ti_status ti_coll_barrier(ti_coll *c) {
  ti_coll_op op = {.kind = TI_COLL_BARRIER, .dtype = TI_U8};
  return run(c, &op);
}
