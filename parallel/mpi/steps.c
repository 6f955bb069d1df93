// Which messages each collective sends, phase by phase.
//
//   all_reduce, small:  everything to everybody, each sums in rank order                      1 phase,  (size - 1) * n  out
//   all_reduce, large:  slice r to rank r, which sums it in rank order | the sums to everybody  2 phases, ~2 * n         out
//   reduce_scatter:     the first phase of the large one, with the caller's counts
//   broadcast:          root to everybody; barrier: an empty message to everybody
//
// Both all_reduce forms add the same numbers in the same order, so that the size where one takes over shows in no bit. Messages of a pair keep their
// order (MPI), so that the tag only guards against ranks whose sequences of operations differ.
#include <limits.h>
#include <string.h>

#include "base/log.h"
#include "parallel/mpi/mpi_priv.h"

#define SMALL_BYTES 65536  // all_reduce: bytes a rank sends in the one-phase form

static size_t width_of(const ti_coll_op *op) { return (size_t)ti_dtype_block_bytes(op->dtype); }

static size_t total(const size_t *counts, int n) {
  size_t sum = 0;
  for (int i = 0; i < n; i++) sum += counts[i];
  return sum;
}

ti_status ti_mpi_steps_check(const ti_mpi_coll *m, const ti_coll_op *op) {
  if ((unsigned)op->dtype >= TI_DTYPE_COUNT || ti_dtype_block(op->dtype) != 1) return TI_ERR_ARG;
  if ((op->kind == TI_COLL_ALL_REDUCE || op->kind == TI_COLL_REDUCE_SCATTER) && op->dtype != TI_F32 && op->dtype != TI_BF16) return TI_ERR_ARG;
  size_t n = op->n;
  const int size = m->head.size, rank = m->head.rank;
  if (op->kind == TI_COLL_BARRIER) return TI_OK;
  if (op->kind == TI_COLL_BROADCAST && (op->root < 0 || op->root >= size)) return TI_ERR_ARG;
  if (op->kind == TI_COLL_ALL_GATHER || op->kind == TI_COLL_REDUCE_SCATTER) n = total(op->counts, size);
  if (op->kind == TI_COLL_ALL_TO_ALL) {
    if (op->got ? op->send_counts[rank] > op->recv_counts[rank] : op->send_counts[rank] != op->recv_counts[rank]) return TI_ERR_ARG;
    const size_t out = total(op->send_counts, size), in = total(op->recv_counts, size);
    n = out > in ? out : in;
  }
  if (n > m->max_bytes / width_of(op)) return TI_ERR_RANGE;
  if (op->kind == TI_COLL_REDUCE_SCATTER && op->counts[rank] * (size_t)size * width_of(op) > m->stage_bytes) return TI_ERR_RANGE;
  return TI_OK;
}

static ti_status failed(const ti_mpi_coll *m, int peer, int code) {
  ti_log_error("parallel: message could not be posted peer=%d world_rank=%d mpi_error=%d", peer, m->world[peer], code);
  return TI_ERR_PEER;
}

static ti_status add_recv(ti_mpi_coll *m, ti_mpi_slot *s, int peer, void *to, size_t bytes) {
  if (bytes > INT_MAX) return TI_ERR_RANGE;
  const int code = MPI_Irecv(to, (int)bytes, MPI_BYTE, peer, s->tag, m->comm, &s->req[s->n_req]);
  if (code != MPI_SUCCESS) return failed(m, peer, code);
  s->peer[s->n_req] = peer;
  s->bytes[s->n_req++] = bytes;
  s->n_recv++;
  s->n_open++;
  return TI_OK;
}

static ti_status add_send(ti_mpi_coll *m, ti_mpi_slot *s, int peer, const void *from, size_t bytes) {
  if (bytes > INT_MAX) return TI_ERR_RANGE;
  const int code = MPI_Isend(from, (int)bytes, MPI_BYTE, peer, s->tag, m->comm, &s->req[s->n_req]);
  if (code != MPI_SUCCESS) return failed(m, peer, code);
  s->peer[s->n_req] = peer;
  s->bytes[s->n_req++] = bytes;
  s->n_open++;
  return TI_OK;
}

// What rank p is sent and what it sends here, in bytes.
typedef struct ti_message {
  const char *from;
  char *to;
  size_t send, recv;
} ti_message;
typedef void (*message_fn)(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out);

// Receives first, then sends; each rank starts with its right neighbour, so that not everybody writes to rank 0 at once.
static ti_status post_all(ti_mpi_coll *m, ti_mpi_slot *s, const ti_coll_op *op, message_fn fn) {
  const int size = m->head.size, rank = m->head.rank;
  const bool always = op->kind == TI_COLL_BARRIER || (op->kind == TI_COLL_ALL_TO_ALL && op->got);  // empty messages travel too
  ti_status st = TI_OK;
  ti_message msg;
  s->n_req = s->n_recv = s->n_open = 0;
  for (int i = 1; i < size && !st; i++) {
    const int p = (rank + size - i) % size;
    fn(m, s, op, p, &msg);
    if (msg.recv || always) st = add_recv(m, s, p, msg.to, msg.recv);
  }
  for (int i = 1; i < size && !st; i++) {
    const int p = (rank + i) % size;
    fn(m, s, op, p, &msg);
    if (msg.send || always) st = add_send(m, s, p, msg.from, msg.send);
  }
  if (st) return st;
  return s->n_open ? TI_INPROGRESS : TI_OK;
}

// Slice r of a sum: [*at, *at + *n) elements.
static void slice_of(const ti_mpi_coll *m, const ti_coll_op *op, int r, size_t *at, size_t *n) {
  if (op->kind == TI_COLL_REDUCE_SCATTER) {
    *at = total(op->counts, r);
    *n = op->counts[r];
    return;
  }
  long b, e;
  ti_split((long)op->n, m->head.size, r, &b, &e);
  *at = (size_t)b;
  *n = (size_t)(e - b);
}

static bool one_phase(const ti_mpi_coll *m, const ti_coll_op *op) { return op->n * width_of(op) * (size_t)(m->head.size - 1) <= SMALL_BYTES; }

static void msg_everything(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  const size_t bytes = op->n * width_of(op);
  *out = (ti_message){op->send, s->stage + (size_t)p * bytes, bytes, bytes};
}

static void msg_scatter(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  size_t at, n, own_at, own;
  slice_of(m, op, p, &at, &n);
  slice_of(m, op, m->head.rank, &own_at, &own);
  const size_t w = width_of(op);
  *out = (ti_message){(const char *)op->send + at * w, s->stage + (size_t)p * own * w, n * w, own * w};
}

static void msg_sums(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  size_t at, n, own_at, own;
  slice_of(m, op, p, &at, &n);
  slice_of(m, op, m->head.rank, &own_at, &own);
  const size_t w = width_of(op);
  *out = (ti_message){(const char *)op->recv + own_at * w, (char *)op->recv + at * w, own * w, n * w};
}

static void msg_gather(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  const size_t w = width_of(op);
  *out = (ti_message){op->send, (char *)op->recv + total(op->counts, p) * w, op->counts[m->head.rank] * w, op->counts[p] * w};
}

static void msg_all_to_all(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  const size_t w = width_of(op);
  *out = (ti_message){(const char *)op->send + op->send_offsets[p] * w, (char *)op->recv + op->recv_offsets[p] * w, op->send_counts[p] * w,
                      op->recv_counts[p] * w};
}

static void msg_broadcast(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) {
  const size_t bytes = op->n * width_of(op);
  *out = (ti_message){op->send, op->recv, m->head.rank == op->root ? bytes : 0, p == op->root ? bytes : 0};
}

static void msg_empty(const ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, int p, ti_message *out) { *out = (ti_message){0}; }

static void move(const ti_coll_op *op, size_t send_at, size_t recv_at, size_t n) {
  const size_t w = width_of(op);
  const char *from = (const char *)op->send + send_at * w;
  char *to = (char *)op->recv + recv_at * w;
  if (n > 0 && from != to) memmove(to, from, n * w);
}

// dst[n] = sum by rank of the stage's rows, this rank's own row standing at `own`.
static void sum_stage(ti_mpi_coll *m, const ti_mpi_slot *s, const ti_coll_op *op, const void *own, void *dst, size_t n) {
  for (int r = 0; r < m->head.size; r++) m->src[r] = r == m->head.rank ? own : s->stage + (size_t)r * n * width_of(op);
  if (op->dtype == TI_F32)
    ti_sum_f32(dst, (const float *const *)m->src, m->head.size, n);
  else
    ti_sum_bf16(dst, (const uint16_t *const *)m->src, m->head.size, n);
}

ti_status ti_mpi_steps_begin(ti_mpi_coll *m, ti_mpi_slot *s, ti_coll_op *op) {
  const int rank = m->head.rank;
  ti_status st;
  switch (op->kind) {
    case TI_COLL_ALL_REDUCE:
      st = post_all(m, s, op, one_phase(m, op) ? msg_everything : msg_scatter);
      break;
    case TI_COLL_REDUCE_SCATTER:
      st = post_all(m, s, op, msg_scatter);
      break;
    case TI_COLL_ALL_GATHER:
      st = post_all(m, s, op, msg_gather);
      if (!ti_failed(st)) move(op, 0, total(op->counts, rank), op->counts[rank]);
      return st;
    case TI_COLL_ALL_TO_ALL:
      st = post_all(m, s, op, msg_all_to_all);
      if (!ti_failed(st)) move(op, op->send_offsets[rank], op->recv_offsets[rank], op->send_counts[rank]);
      return st;
    case TI_COLL_BROADCAST:
      st = post_all(m, s, op, msg_broadcast);
      if (!ti_failed(st) && rank == op->root) move(op, 0, 0, op->n);
      return st;
    case TI_COLL_BARRIER:
      return post_all(m, s, op, msg_empty);
    default:
      return TI_ERR_ARG;
  }
  return st == TI_OK ? ti_mpi_steps_next(m, s, op) : st;  // no messages: one rank, or nothing to sum
}

ti_status ti_mpi_steps_next(ti_mpi_coll *m, ti_mpi_slot *s, ti_coll_op *op) {
  if (op->kind != TI_COLL_ALL_REDUCE && op->kind != TI_COLL_REDUCE_SCATTER) return TI_OK;
  if (s->phase == 1) return TI_OK;
  const bool whole = op->kind == TI_COLL_ALL_REDUCE && one_phase(m, op);
  size_t at = 0, n = op->n;
  if (!whole) slice_of(m, op, m->head.rank, &at, &n);
  const size_t to = op->kind == TI_COLL_REDUCE_SCATTER ? 0 : at, w = width_of(op);
  sum_stage(m, s, op, (const char *)op->send + at * w, (char *)op->recv + to * w, n);
  if (whole || op->kind == TI_COLL_REDUCE_SCATTER) return TI_OK;
  s->phase = 1;
  return post_all(m, s, op, msg_sums);
}
