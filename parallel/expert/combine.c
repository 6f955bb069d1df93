// Combine: the experts' rows back to their sources, and the weighted sums there.
//
//   deterministic   an ep group returns one row a route, sorted by (slot, row): the parts of its blocks that came from a source, copied as they
//                   stand.
//                   out[r] = sum over j ascending, etp ascending of weight * row: no bit depends on which rank held the expert.
//   else            each rank sums its own experts' rows first (j ascending, rounded to the wire's type) and returns one row a row it was sent.
//                   out[r] = sum over ranks ascending.
//
// A source that sees our window reads the rows there, in both forms, and is only told where its parts of the blocks begin; in the second form it
// makes the rank's sums itself, in the same order and with the same roundings. Rows of our own experts are read where they stand in y.
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "parallel/expert/exchange_priv.h"

static void add_term(ti_exchange *x, const void *row, float weight) {
  x->sum.term[x->sum.n] = row;
  x->sum.weight[x->sum.n++] = weight;
}

// The sum over this rank's experts of a row of source s, whose routes start at *route; moves *route on.
static void sum_own_experts(ti_exchange *x, const ti_micro *m, int s, int *route, void *out) {
  const ti_source *src = &m->source[s];
  const int32_t *place = m->place + (size_t)s * x->route_cap;
  int i = *route;
  x->sum.n = x->sum.n_part = 0;
  do add_term(x, m->y + (size_t)place[i] * x->row_bytes, src->weights[i]);
  while (++i < src->n_route && !(src->routes[i] & TI_ROUTE_FIRST));
  *route = i;
  ti_rows_sum(out, &x->sum, x->cfg.dim, x->cfg.dtype, false);
}

// Source s sees our window: its parts of y, at their places there, and where they begin into the message.
static void show(ti_exchange *x, ti_micro *m, int s) {
  char *to = ti_exchange_y(x, (int)(m - x->micro));
  const int32_t *begin = m->begin_of + (size_t)s * x->max_local, *rows = m->rows_of + (size_t)s * x->max_local;
  memcpy(m->back_send + (size_t)s * x->back_bytes, begin, (size_t)x->n_local * sizeof *begin);
  for (int e = 0; e < x->n_local && m->y != to; e++)
    memcpy(to + (size_t)begin[e] * x->row_bytes, m->y + (size_t)begin[e] * x->row_bytes, (size_t)rows[e] * x->row_bytes);
}

static void pack_for(ti_exchange *x, ti_micro *m, int s) {
  char *to = m->back_send + (size_t)s * x->back_bytes;
  if (!x->cfg.deterministic) {
    for (int k = 0, route = 0; k < m->source[s].n_row; k++) sum_own_experts(x, m, s, &route, to + (size_t)k * x->row_bytes);
    return;
  }
  for (int e = 0; e < x->n_local; e++) {
    const size_t bytes = (size_t)m->rows_of[(size_t)s * x->max_local + e] * x->row_bytes;
    memcpy(to, m->y + (size_t)m->begin_of[(size_t)s * x->max_local + e] * x->row_bytes, bytes);
    to += bytes;
  }
}

// Bytes of the message that answers `rows` rows.
static size_t answer_bytes(const ti_exchange *x, int rows, bool in_place) {
  return rows == 0 ? 0 : in_place ? (size_t)x->max_local * sizeof(int32_t) : (size_t)rows * x->row_bytes;
}

ti_status ti_exchange_combine_post(ti_exchange *x, int micro, const void *y) {
  ti_micro *m = &x->micro[micro];
  if (m->phase == TI_MICRO_FAILED) return m->status;
  if (m->phase != TI_MICRO_PLACED) return TI_ERR_ARG;
  const int W = x->cfg.mesh.workers, self = x->cfg.worker, etp = x->cfg.mesh.etp;
  const uint64_t start = ti_mono_ns();
  m->y = y;
  for (int d = 0; d < W; d++) {
    const int here = d == self ? 0 : x->cfg.deterministic ? m->source[d].n_route : m->source[d].n_row;
    const int there = d == self ? 0 : x->cfg.deterministic ? m->group_routes[d / etp] : m->group_rows[d / etp];
    m->send_at[d] = m->recv_at[d] = (size_t)d * x->back_bytes;
    m->send_n[d] = answer_bytes(x, here, x->window.seen[d]);
    m->recv_n[d] = answer_bytes(x, there, x->window.peer[d] != NULL);
    x->stats.bytes_sent += answer_bytes(x, here, false);
    if (here == 0) continue;
    if (x->window.seen[d])
      show(x, m, d);
    else
      pack_for(x, m, d);
  }
  m->phase = TI_MICRO_COMBINE;
  const ti_status st = ti_exchange_post(x, m, TI_U8, m->back_send, m->back_recv, false);
  x->stats.combine_ns += ti_mono_ns() - start;
  return st ? ti_exchange_fail(x, m, st, "combine") : TI_OK;
}

// Where, according to rank d, which is of slot's group and whose window we see, our rows for a slot begin in its blocks.
static int32_t begin_at(const ti_exchange *x, const ti_micro *m, int d, int slot) {
  return ((const int32_t *)(m->back_recv + (size_t)d * x->back_bytes))[x->slot_local[slot]];
}

static ti_status check_begins(const ti_exchange *x, const ti_micro *m, int d) {
  const int g = d / x->cfg.mesh.etp;
  const int64_t most = (int64_t)(x->y_bytes / x->row_bytes);
  for (int s = x->group_first[g]; s < x->group_first[g + 1] && m->group_rows[g] > 0; s++) {
    const int64_t at = begin_at(x, m, d, s);
    if (m->slot_rows[s] > 0 && (at < 0 || at + m->slot_rows[s] > most))
      return ti_exchange_bad_peer(d, "place of results", at, most - m->slot_rows[s]);
  }
  return TI_OK;
}

// What rank d of its group made of route i: in its window, in our own y, or (deterministic) in the message.
static const void *result_of(const ti_exchange *x, const ti_micro *m, int d, int i) {
  const int slot = m->slot[i];
  const char *base;
  if (d == x->cfg.worker)
    base = m->y + (size_t)m->begin_of[(size_t)d * x->max_local + x->slot_local[slot]] * x->row_bytes;
  else if (x->window.peer[d])
    base = ti_exchange_y_of(x, m, d) + (size_t)begin_at(x, m, d, slot) * x->row_bytes;
  else
    base = m->back_recv + (size_t)d * x->back_bytes + (size_t)m->slot_begin[slot] * x->row_bytes;
  return base + (size_t)m->index[i] * x->row_bytes;
}

static void sum_by_expert(ti_exchange *x, ti_micro *m, char *out, bool accumulate) {
  const int n_top = x->cfg.n_top, etp = x->cfg.mesh.etp;
  x->sum.n_part = 0;
  for (int r = 0; r < m->n_row; r++) {
    x->sum.n = 0;
    for (int i = r * n_top; i < (r + 1) * n_top; i++) {
      if (m->slot[i] < 0) continue;
      const int g = x->slot_group[m->slot[i]];
      for (int d = g * etp; d < (g + 1) * etp; d++) add_term(x, result_of(x, m, d, i), m->weight[i]);
    }
    ti_rows_sum(out + (size_t)r * x->row_bytes, &x->sum, x->cfg.dim, x->cfg.dtype, accumulate);
  }
}

// A part a rank: its sum over its experts of row r, from its message, where the row is number k, or made here from its results in the same order.
static void add_part(ti_exchange *x, const ti_micro *m, int d, int r, int k) {
  const int n_top = x->cfg.n_top, g = d / x->cfg.mesh.etp;
  if (!x->window.peer[d]) add_term(x, m->back_recv + (size_t)d * x->back_bytes + (size_t)k * x->row_bytes, 1.0f);
  for (int i = r * n_top; i < (r + 1) * n_top && x->window.peer[d]; i++)
    if (m->slot[i] >= 0 && x->slot_group[m->slot[i]] == g) add_term(x, result_of(x, m, d, i), m->weight[i]);
  x->sum.part_end[x->sum.n_part++] = x->sum.n;
}

static void sum_by_rank(ti_exchange *x, ti_micro *m, char *out, bool accumulate) {
  const int etp = x->cfg.mesh.etp, ep = x->cfg.mesh.ep;
  int32_t *next = x->cursor;  // [ep] each group's next row of ours
  memset(next, 0, (size_t)ep * sizeof *next);
  for (int r = 0; r < m->n_row; r++) {
    x->sum.n = x->sum.n_part = 0;
    for (int g = 0; g < ep; g++) {
      const int k = next[g];
      if (k >= m->group_rows[g] || m->send_row[(size_t)g * x->cfg.max_row + k] != r) continue;
      next[g]++;
      for (int d = g * etp; d < (g + 1) * etp; d++) add_part(x, m, d, r, k);
    }
    ti_rows_sum(out + (size_t)r * x->row_bytes, &x->sum, x->cfg.dim, x->cfg.dtype, accumulate);
  }
}

ti_status ti_exchange_combine_wait(ti_exchange *x, int micro, void *out, bool accumulate) {
  ti_micro *m = &x->micro[micro];
  if (m->phase == TI_MICRO_FAILED) return m->status;
  if (m->phase != TI_MICRO_COMBINE) return TI_ERR_ARG;
  const uint64_t start = ti_mono_ns();
  ti_status st = ti_exchange_wait_op(x, m, "combine");
  for (int d = 0; d < x->cfg.mesh.workers && !st; d++)
    if (d != x->cfg.worker && x->window.peer[d]) st = check_begins(x, m, d);
  if (st) return ti_exchange_fail(x, m, st, "combine");
  if (x->cfg.deterministic)
    sum_by_expert(x, m, out, accumulate);
  else
    sum_by_rank(x, m, out, accumulate);
  m->phase = TI_MICRO_IDLE;
  x->stats.combine_ns += ti_mono_ns() - start;
  return TI_OK;
}
