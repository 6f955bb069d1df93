// Combine: the experts' rows back to their sources, and the weighted sums there.
//
//   deterministic   an ep group returns one row a route, sorted by (slot, row): the parts of its blocks that came from a source, copied as they
//   stand.
//                   out[r] = sum over j ascending, etp ascending of weight * row: no bit depends on which rank held the expert.
//   else            each rank sums its own experts' rows first (j ascending, rounded to the wire's type) and returns one row a row it was sent.
//                   out[r] = sum over ranks ascending.
//
// Rows of our own experts are read where they stand in y.
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "parallel/expert/exchange_priv.h"

// The sum over this rank's experts of row k of source s, whose routes start at *route; moves *route on.
static void sum_own_experts(ti_exchange *x, const ti_micro *m, int s, int *route, void *out) {
  const ti_source *src = &m->source[s];
  const int32_t *place = m->place + (size_t)s * x->route_cap;
  int n = 0, i = *route;
  do {
    x->term[n] = m->y + (size_t)place[i] * x->row_bytes;
    x->term_weight[n++] = src->weights[i++];
  } while (i < src->n_route && !(src->routes[i] & TI_ROUTE_FIRST));
  *route = i;
  ti_rows_sum(out, x->term, x->term_weight, n, x->cfg.dim, x->cfg.dtype, false);
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

ti_status ti_exchange_combine_post(ti_exchange *x, int micro, const void *y) {
  ti_micro *m = &x->micro[micro];
  if (m->phase == TI_MICRO_FAILED) return m->status;
  if (m->phase != TI_MICRO_PLACED) return TI_ERR_ARG;
  const int W = x->cfg.mesh.workers, self = x->cfg.worker, etp = x->cfg.mesh.etp;
  const uint64_t start = ti_mono_ns();
  m->y = y;
  for (int d = 0; d < W; d++) {
    const int here = x->cfg.deterministic ? m->source[d].n_route : m->source[d].n_row;
    const int there = x->cfg.deterministic ? m->group_routes[d / etp] : m->group_rows[d / etp];
    m->send_at[d] = m->recv_at[d] = (size_t)d * x->back_bytes;
    m->send_n[d] = d == self ? 0 : (size_t)here * x->row_bytes;
    m->recv_n[d] = d == self ? 0 : (size_t)there * x->row_bytes;
    if (d != self) pack_for(x, m, d);
    x->stats.bytes_sent += m->send_n[d];
  }
  m->phase = TI_MICRO_COMBINE;
  const ti_status st = ti_exchange_post(x, m, TI_U8, m->back_send, m->back_recv, false);
  x->stats.combine_ns += ti_mono_ns() - start;
  return st ? ti_exchange_fail(x, m, st, "combine") : TI_OK;
}

static void sum_by_expert(ti_exchange *x, ti_micro *m, char *out, bool accumulate) {
  const int n_top = x->cfg.n_top, etp = x->cfg.mesh.etp, self = x->cfg.worker;
  for (int r = 0; r < m->n_row; r++) {
    int n = 0;
    for (int i = r * n_top; i < (r + 1) * n_top; i++) {
      const int slot = m->slot[i];
      if (slot < 0) continue;
      const int g = x->slot_group[slot];
      for (int d = g * etp; d < (g + 1) * etp; d++) {
        const char *base = d == self ? m->y + (size_t)m->begin_of[(size_t)self * x->max_local + x->slot_local[slot]] * x->row_bytes
                                     : m->back_recv + (size_t)d * x->back_bytes + (size_t)m->slot_begin[slot] * x->row_bytes;
        x->term[n] = base + (size_t)m->index[i] * x->row_bytes;
        x->term_weight[n++] = m->weight[i];
      }
    }
    ti_rows_sum(out + (size_t)r * x->row_bytes, x->term, x->term_weight, n, x->cfg.dim, x->cfg.dtype, accumulate);
  }
}

// Our own partial sum uses the term arrays, so it comes before the row's terms are listed.
static void sum_by_rank(ti_exchange *x, ti_micro *m, char *out, bool accumulate) {
  const int etp = x->cfg.mesh.etp, W = x->cfg.mesh.workers, self = x->cfg.worker;
  int32_t *next = x->cursor;  // [ep] each group's next row of ours
  memset(next, 0, (size_t)x->cfg.mesh.ep * sizeof *next);
  for (int r = 0, route = 0; r < m->n_row; r++) {
    const int own = next[x->group];
    if (own < m->group_rows[x->group] && m->send_row[(size_t)x->group * x->cfg.max_row + own] == r) sum_own_experts(x, m, self, &route, x->own_part);
    int n = 0;
    for (int g = 0; g < W / etp; g++) {
      const int k = next[g];
      if (k >= m->group_rows[g] || m->send_row[(size_t)g * x->cfg.max_row + k] != r) continue;
      next[g]++;
      for (int d = g * etp; d < (g + 1) * etp; d++) {
        x->term[n] = d == self ? x->own_part : m->back_recv + (size_t)d * x->back_bytes + (size_t)k * x->row_bytes;
        x->term_weight[n++] = 1.0f;
      }
    }
    ti_rows_sum(out + (size_t)r * x->row_bytes, x->term, x->term_weight, n, x->cfg.dim, x->cfg.dtype, accumulate);
  }
}

ti_status ti_exchange_combine_wait(ti_exchange *x, int micro, void *out, bool accumulate) {
  ti_micro *m = &x->micro[micro];
  if (m->phase == TI_MICRO_FAILED) return m->status;
  if (m->phase != TI_MICRO_COMBINE) return TI_ERR_ARG;
  const uint64_t start = ti_mono_ns();
  const ti_status st = ti_exchange_wait_op(x, m, "combine");
  if (st) return ti_exchange_fail(x, m, st, "combine");
  if (x->cfg.deterministic)
    sum_by_expert(x, m, out, accumulate);
  else
    sum_by_rank(x, m, out, accumulate);
  m->phase = TI_MICRO_IDLE;
  x->stats.combine_ns += ti_mono_ns() - start;
  return TI_OK;
}
