// Life of an operation over MPI: slots, test, wait, abort. One thread owns a communicator; abort alone may come from another.
//
// Giving up. MPI reports no death, so a wait ends by abort or by its bound, with requests still open. MPI may write to a receive's buffer as long as
// the request lives. give_up cancels the receives (one whose message has not begun ends at once), then tests for a short while so that transfers
// under way can end. What is still open after that is abandoned: its slot is never freed, nor is the communicator, and `abandoned` tells the owner of
// the buffers.
#include "parallel/coll.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "parallel/lazy.h"
#include "parallel/mpi/mpi_priv.h"

#define GIVE_UP_US 20000
#define STAGE_SLACK ((size_t)64 << 20)

static ti_mpi_coll *impl(ti_coll *c) { return (ti_mpi_coll *)c; }  // head is the first member

static bool is_aborted(const ti_mpi_coll *m) {
  for (const ti_abort_node *n = m->node; n; n = n->parent)
    if (atomic_load_explicit(&n->aborted, memory_order_relaxed)) return true;
  return false;
}

static void node_rele(ti_abort_node *n) {
  while (n && atomic_fetch_sub(&n->refs, 1) == 1) {
    ti_abort_node *parent = n->parent;
    free(n);
    n = parent;
  }
}

static ti_status bad_message(const ti_mpi_coll *m, int peer, size_t want, int got, int code) {
  if (code == MPI_SUCCESS || code == MPI_ERR_TRUNCATE) {
    ti_log_error("parallel: message of another size than agreed peer=%d world_rank=%d expected=%zu got=%s%d", peer, m->world[peer], want,
                 code == MPI_SUCCESS ? "" : "more than ", code == MPI_SUCCESS ? got : (int)want);
    return TI_ERR_RANGE;
  }
  ti_log_error("parallel: transfer failed peer=%d world_rank=%d mpi_error=%d", peer, m->world[peer], code);
  return TI_ERR_PEER;
}

// Progresses the slot's requests; TI_OK when all are complete. sizes: where receives may be shorter than agreed, what came from each rank.
static ti_status progress(ti_mpi_coll *m, ti_mpi_slot *s, size_t *sizes) {
  int n_done = 0;
  const int code = MPI_Testsome(s->n_req, s->req, &n_done, m->done, m->status);
  if (n_done == MPI_UNDEFINED) n_done = 0;
  ti_status st = TI_OK;
  for (int i = 0; i < n_done; i++) {
    const int k = m->done[i], error = code == MPI_ERR_IN_STATUS ? m->status[i].MPI_ERROR : MPI_SUCCESS;
    s->n_open--;
    if (k < s->n_recv) m->head.late_rank = s->peer[k];
    int got = 0;
    if (error == MPI_SUCCESS && k < s->n_recv) MPI_Get_count(&m->status[i], MPI_BYTE, &got);
    if (sizes && k < s->n_recv) sizes[s->peer[k]] = (size_t)got;  // in bytes until finish
    if (error != MPI_SUCCESS || (k < s->n_recv && !sizes && (size_t)got != s->bytes[k])) st = bad_message(m, s->peer[k], s->bytes[k], got, error);
  }
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) st = bad_message(m, s->peer[0], s->bytes[0], 0, code);
  if (st) return st;
  return s->n_open ? TI_INPROGRESS : TI_OK;
}

static void give_up(ti_mpi_coll *m, ti_mpi_slot *s) {
  for (int i = 0; i < s->n_recv; i++)
    if (s->req[i] != MPI_REQUEST_NULL) MPI_Cancel(&s->req[i]);
  const uint64_t deadline = ti_mono_us() + GIVE_UP_US;
  int done = 0;
  for (unsigned k = 0; !done && (k < 2 || ti_mono_us() < deadline); k++) {
    MPI_Testall(s->n_req, s->req, &done, MPI_STATUSES_IGNORE);
    if (!done) ti_mpi_pause(k);
  }
  if (done) {
    s->busy = false;
    return;
  }
  m->head.abandoned++;
  ti_log_warn("parallel: operation abandoned with a transfer under way peer=%d world_rank=%d", m->head.late_rank,
              m->head.late_rank < 0 ? -1 : m->world[m->head.late_rank]);
}

// The first rank whose message has not come.
static void name_late(ti_mpi_coll *m, const ti_mpi_slot *s) {
  for (int i = 0; i < s->n_req; i++) {
    if (s->req[i] == MPI_REQUEST_NULL) continue;
    m->head.late_rank = s->peer[i];
    return;
  }
}

// op->state: [0] slot + 1 while in flight, [1] the status once it is over.
static ti_status finish(ti_mpi_coll *m, ti_coll_op *op, ti_status st) {
  ti_mpi_slot *s = &m->slot[op->state[0] - 1];
  if (st == TI_OK) {
    s->busy = false;
    if (op->kind == TI_COLL_ALL_TO_ALL && op->got) {
      for (int r = 0; r < m->head.size; r++)
        op->got[r] = r == m->head.rank ? op->send_counts[r] : op->got[r] / (size_t)ti_dtype_block_bytes(op->dtype);
    }
  } else {
    name_late(m, s);
    give_up(m, s);
  }
  op->state[0] = 0;
  op->state[1] = (uint64_t)st;
  return st;
}

static ti_status mpi_reserve(ti_coll *c, size_t max_bytes, int max_in_flight) {
  ti_mpi_coll *m = impl(c);
  if (max_in_flight < 1 || max_in_flight > TI_MPI_SLOTS) return TI_ERR_ARG;
  for (int i = 0; i < m->n_slot; i++)
    if (m->slot[i].busy) return TI_ERR_ARG;
  const size_t size = (size_t)c->size;
  if (max_bytes < m->max_bytes) max_bytes = m->max_bytes;
  if (max_in_flight < m->n_slot) max_in_flight = m->n_slot;
  size_t stage;
  if (max_bytes > SIZE_MAX / 2 / size) return TI_ERR_RANGE;
  stage = max_bytes + ti_size_min((size - 1) * max_bytes, STAGE_SLACK);
  for (int i = 0; i < max_in_flight; i++) {
    ti_mpi_slot *s = &m->slot[i];
    if (!s->req) s->req = malloc(2 * size * sizeof *s->req);
    if (!s->peer) s->peer = calloc(2 * size, sizeof *s->peer);
    if (!s->bytes) s->bytes = calloc(2 * size, sizeof *s->bytes);
    if (!s->stage || stage > m->stage_bytes) {
      ti_lazy_free(s->stage, m->stage_bytes);
      s->stage = ti_lazy_alloc(stage);
    }
    if (!s->req || !s->peer || !s->bytes || !s->stage) return TI_ERR_NOMEM;
  }
  m->max_bytes = max_bytes;
  m->stage_bytes = stage;
  m->n_slot = max_in_flight;
  return TI_OK;
}

static ti_status mpi_post(ti_coll *c, ti_coll_op *op) {
  ti_mpi_coll *m = impl(c);
  if (is_aborted(m)) return TI_ERR_ABORTED;
  ti_status st = ti_mpi_steps_check(m, op);
  if (st) return st;
  int k = 0;
  while (k < m->n_slot && m->slot[k].busy) k++;
  if (k == m->n_slot) return TI_ERR_FULL;
  ti_mpi_slot *s = &m->slot[k];
  s->phase = 0;
  s->tag = (int)(m->seq++ & 0xffffff);
  s->busy = true;
  op->state[0] = (uint64_t)k + 1;
  st = ti_mpi_steps_begin(m, s, op);
  if (st == TI_INPROGRESS) return TI_OK;
  return finish(m, op, st);
}

static ti_status mpi_test(ti_coll *c, ti_coll_op *op) {
  ti_mpi_coll *m = impl(c);
  if (op->state[0] == 0) return (ti_status)op->state[1];
  if (is_aborted(m)) return finish(m, op, TI_ERR_ABORTED);
  ti_mpi_slot *s = &m->slot[op->state[0] - 1];
  ti_status st = progress(m, s, op->kind == TI_COLL_ALL_TO_ALL ? op->got : NULL);
  if (st == TI_OK) st = ti_mpi_steps_next(m, s, op);
  return st == TI_INPROGRESS ? st : finish(m, op, st);
}

static ti_status mpi_wait(ti_coll *c, ti_coll_op *op, uint64_t timeout_us) {
  if (op->state[0] == 0) return (ti_status)op->state[1];
  const uint64_t start = ti_mono_ns();
  ti_status st;
  for (unsigned k = 0; (st = mpi_test(c, op)) == TI_INPROGRESS; k++) {
    if (k % 16 == 15 && (ti_mono_ns() - start) / 1000 > timeout_us) {
      st = finish(impl(c), op, TI_ERR_TIMEOUT);
      break;
    }
    ti_mpi_pause(k);
  }
  c->wait_ns += ti_mono_ns() - start;
  return st;
}

static void mpi_abort(ti_coll *c) {
  atomic_store(&c->aborted, 1);
  atomic_store(&impl(c)->node->aborted, 1);
}

static void mpi_fini(ti_coll *c) {
  ti_mpi_coll *m = impl(c);
  for (int i = 0; i < m->n_slot; i++)
    if (m->slot[i].busy && c->abandoned == 0) give_up(m, &m->slot[i]);
  if (c->abandoned == 0) {  // else MPI may still touch them: leaked on purpose
    for (int i = 0; i < TI_MPI_SLOTS; i++) {
      ti_lazy_free(m->slot[i].stage, m->stage_bytes);
      free(m->slot[i].bytes);
      free(m->slot[i].peer);
      free(m->slot[i].req);
    }
    // Freeing is local in Open MPI, but after an abort peers may still send here: the communicator stays, as it must until then.
    if (m->comm != MPI_COMM_NULL && !is_aborted(m)) MPI_Comm_free(&m->comm);
  }
  node_rele(m->node);
  free(m->src);
  free(m->done);
  free(m->status);
  free(m->world);
  free(m);
}

static const ti_coll_ops mpi_ops;

static ti_status make(const int *world_ranks, int n, int tag, ti_abort_node *parent, ti_coll **out, ti_error *err) {
  if (n < 1) return ti_error_set(err, TI_ERR_ARG, "communicator of %d ranks: at least 1", n);
  const size_t size = (size_t)n;
  ti_mpi_coll *m = calloc(1, sizeof *m);
  if (!m) return ti_error_set(err, TI_ERR_NOMEM, "communicator of %d ranks: out of memory", n);
  ti_status st;
  m->head.ops = &mpi_ops;
  m->head.size = n;
  m->head.late_rank = -1;
  m->comm = MPI_COMM_NULL;
  m->tag = tag;
  m->node = calloc(1, sizeof *m->node);
  m->world = malloc(size * sizeof *m->world);
  m->src = malloc(size * sizeof *m->src);
  m->done = malloc(2 * size * sizeof *m->done);
  m->status = malloc(2 * size * sizeof *m->status);
  if (!m->node || !m->world || !m->src || !m->done || !m->status) {
    st = ti_error_set(err, TI_ERR_NOMEM, "communicator of %d ranks: out of memory", n);
    goto err_free;
  }
  memcpy(m->world, world_ranks, size * sizeof *m->world);
  atomic_store(&m->node->refs, 1);
  st = ti_mpi_comm_create(world_ranks, n, tag, &m->comm, &m->head.rank, err);
  if (st) goto err_free;
  m->node->parent = parent;
  if (parent) atomic_fetch_add(&parent->refs, 1);
  *out = &m->head;
  return TI_OK;

err_free:
  free(m->status);
  free(m->done);
  free(m->src);
  free(m->world);
  free(m->node);
  free(m);
  return st;
}

// The handshake's tag: the parent's and a count that its members share as long as they make the same subsets in the same order. Concurrent subsets of
// one parent have no common member, so that theirs may be equal.
static ti_status mpi_subset(ti_coll *c, const int *ranks, int n, ti_coll **out, ti_error *err) {
  ti_mpi_coll *m = impl(c);
  if (is_aborted(m)) return ti_error_set(err, TI_ERR_ABORTED, "subset of an aborted communicator");
  int *world = malloc((size_t)(n > 0 ? n : 1) * sizeof *world);
  if (!world) return ti_error_set(err, TI_ERR_NOMEM, "subset of %d ranks: out of memory", n);
  ti_status st = TI_OK;
  for (int i = 0; i < n && !st; i++) {
    if (ranks[i] < 0 || ranks[i] >= c->size)
      st = ti_error_set(err, TI_ERR_ARG, "subset: rank %d is outside 0..%d", ranks[i], c->size - 1);
    else
      world[i] = m->world[ranks[i]];
  }
  if (!st) st = make(world, n, (int)(((unsigned)m->tag * 61u + 1u + (unsigned)n) & 0x3fffffffu), m->node, out, err);
  free(world);
  return st;
}

static const ti_coll_ops mpi_ops = {
    .name = "mpi",
    .reserve = mpi_reserve,
    .post = mpi_post,
    .test = mpi_test,
    .wait = mpi_wait,
    .subset = mpi_subset,
    .abort = mpi_abort,
    .fini = mpi_fini,
};

ti_status ti_coll_mpi_create(const int *world_ranks, int n, int tag, ti_coll **out, ti_error *err) {
  if (tag < 0) return ti_error_set(err, TI_ERR_ARG, "communicator: tag %d is negative", tag);
  return make(world_ranks, n, tag, NULL, out, err);
}
