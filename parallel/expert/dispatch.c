// Dispatch: pack rows by ep group, exchange, list what came in blocks. The caller's thread; nothing allocates.
//
//   post: route (slot of each (row, j)) -> pack one message a group -> padded: rows op | counted: counts op, then rows op
//   wait: sources 0..W-1 in order: check, and list each row in each of its blocks
//
// Copies of a row: one into the message of each group that has ranks on other hosts; one into our window, unless it stands there, when other ranks of
// this host have a route of it. None at the receiver, and none of rows for ourselves.
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "parallel/expert/exchange_priv.h"

static size_t numbers_at(const ti_exchange *x, int n_route) {
  return TI_MESSAGE_HEAD + (size_t)n_route * (x->cfg.deterministic ? sizeof(uint32_t) : sizeof(uint32_t) + sizeof(float));
}
static size_t rows_at(const ti_exchange *x, int n_row, int n_route) {
  return ti_size_align(numbers_at(x, n_route) + (size_t)n_row * sizeof(int32_t), 64);
}
// in_place: the reader finds the rows in the sender's window.
static size_t message_bytes(const ti_exchange *x, int n_row, int n_route, bool in_place) {
  return rows_at(x, n_row, n_route) + (in_place ? 0 : (size_t)n_row * x->row_bytes);
}

// Slots and counts of this batch's routes.
static ti_status route(ti_exchange *x, ti_micro *m, const ti_dispatch_args *a) {
  const int n_top = x->cfg.n_top, ep = x->cfg.mesh.ep;
  const int32_t *slot_of = x->slot_of + (size_t)a->layer * (size_t)x->n_expert;
  memset(m->slot_rows, 0, (size_t)x->n_slot * sizeof *m->slot_rows);
  memset(m->group_rows, 0, (size_t)ep * sizeof *m->group_rows);
  memset(m->group_routes, 0, (size_t)ep * sizeof *m->group_routes);
  for (int r = 0; r < a->n_row; r++)
    for (int j = 0; j < n_top; j++) {
      const int i = r * n_top + j, e = a->experts[i];
      if (e >= x->n_expert) {
        ti_log_error("exchange: row=%d routes to expert=%d, limit=%d", r, e, x->n_expert - 1);
        return TI_ERR_RANGE;
      }
      m->slot[i] = e < 0 ? -1 : slot_of[e];
      m->weight[i] = a->weights ? a->weights[i] : 1.0f;
      if (e < 0) continue;
      const int g = x->slot_group[m->slot[i]], n = m->group_rows[g];
      m->index[i] = m->slot_rows[m->slot[i]]++;
      m->group_routes[g]++;
      if (n == 0 || m->send_row[(size_t)g * x->cfg.max_row + n - 1] != r) {
        m->send_row[(size_t)g * x->cfg.max_row + n] = r;
        m->group_rows[g]++;
      }
    }
  for (int g = 0; g < ep; g++) {
    if (m->group_routes[g] > x->route_cap) {
      ti_log_error("exchange: routes=%d to ep group %d, limit=%d: rows name an expert more than once", m->group_routes[g], g, x->route_cap);
      return TI_ERR_RANGE;
    }
    for (int s = x->group_first[g], at = 0; s < x->group_first[g + 1]; s++) {
      m->slot_begin[s] = at;
      at += m->slot_rows[s];
    }
  }
  return TI_OK;
}

// Rows that other ranks of this host will read, into the window, each at its own number.
static void fill_window(ti_exchange *x, ti_micro *m) {
  const int n_top = x->cfg.n_top;
  char *to = ti_exchange_x(x, (int)(m - x->micro));
  if (m->x == to) return;
  for (int r = 0; r < m->n_row; r++) {
    bool read = false;
    for (int i = r * n_top; i < (r + 1) * n_top && !read; i++) read = m->slot[i] >= 0 && x->group_sees[x->slot_group[m->slot[i]]];
    if (read) memcpy(to + (size_t)r * x->row_bytes, m->x + (size_t)r * x->row_bytes, x->row_bytes);
  }
}

// The messages of all groups; rows only for ranks that do not see our window.
static void pack(ti_exchange *x, ti_micro *m) {
  const int n_top = x->cfg.n_top, ep = x->cfg.mesh.ep;
  for (int g = 0; g < ep; g++) {
    char *msg = m->send + (size_t)g * x->region_bytes;
    const int n_row = m->group_rows[g], n_route = m->group_routes[g];
    memset(msg, 0, TI_MESSAGE_HEAD);
    memcpy(msg, (int32_t[2]){n_row, n_route}, 8);
    uint32_t *routes = (uint32_t *)(msg + TI_MESSAGE_HEAD);
    float *weights = (float *)(routes + n_route);
    char *rows = msg + rows_at(x, n_row, n_route);
    const int32_t *list = m->send_row + (size_t)g * x->cfg.max_row;
    memcpy(msg + numbers_at(x, n_route), list, (size_t)n_row * sizeof *list);
    for (int k = 0, at = 0; k < n_row; k++) {
      uint32_t first = TI_ROUTE_FIRST;
      for (int i = list[k] * n_top; i < (list[k] + 1) * n_top; i++) {
        if (m->slot[i] < 0 || x->slot_group[m->slot[i]] != g) continue;
        routes[at] = (uint32_t)x->slot_local[m->slot[i]] | first;
        if (!x->cfg.deterministic) weights[at] = m->weight[i];
        first = 0;
        at++;
      }
      if (x->group_waits[g]) memcpy(rows + (size_t)k * x->row_bytes, m->x + (size_t)list[k] * x->row_bytes, x->row_bytes);
    }
  }
}

static ti_status post_rows(ti_exchange *x, ti_micro *m) {
  const int etp = x->cfg.mesh.etp, self = x->cfg.worker;
  for (int d = 0; d < x->cfg.mesh.workers; d++) {
    const int g = d / etp;
    m->send_at[d] = (size_t)g * x->region_bytes;
    m->recv_at[d] = (size_t)d * x->region_bytes;
    m->send_n[d] = d == self ? 0 : message_bytes(x, m->group_rows[g], m->group_routes[g], x->window.seen[d]);
    if (d == self)
      m->recv_n[d] = 0;
    else if (m->padded)
      m->recv_n[d] = x->region_bytes;  // counted: ti_dispatch_counts_done knows
    x->stats.bytes_sent += d == self ? 0 : message_bytes(x, m->group_rows[g], m->group_routes[g], false);
    x->stats.rows_sent += d == self ? 0u : (uint64_t)m->group_rows[g];
  }
  m->phase = TI_MICRO_ROWS;
  return ti_exchange_post(x, m, TI_U8, m->send, m->recv, m->padded);
}

static ti_status post_counts(ti_exchange *x, ti_micro *m) {
  const int W = x->cfg.mesh.workers, etp = x->cfg.mesh.etp, stride = 1 + x->max_local;
  for (int d = 0; d < W; d++) {
    const int g = d / etp, first = x->group_first[g];
    int32_t *out = m->count_send + (size_t)d * stride;
    memset(out, 0, (size_t)stride * sizeof *out);
    out[0] = m->group_rows[g];
    for (int s = first; s < x->group_first[g + 1]; s++) out[1 + s - first] = m->slot_rows[s];
    m->send_at[d] = m->recv_at[d] = (size_t)d * stride;
    m->send_n[d] = m->recv_n[d] = (size_t)stride;
  }
  m->phase = TI_MICRO_COUNTS;
  return ti_exchange_post(x, m, TI_I32, m->count_send, m->count_recv, false);
}

ti_status ti_exchange_dispatch_post(ti_exchange *x, const ti_dispatch_args *a) {
  if (a->micro < 0 || a->micro > 1 || a->layer < 0 || a->layer >= x->cfg.n_layer || a->n_row < 0 || a->n_row > x->cfg.max_row) {
    ti_log_error("exchange: dispatch of n_row=%d, limit=%d, micro=%d, layer=%d", a->n_row, x->cfg.max_row, a->micro, a->layer);
    return TI_ERR_RANGE;
  }
  ti_micro *m = &x->micro[a->micro];
  if (m->phase != TI_MICRO_IDLE) return m->phase == TI_MICRO_FAILED ? m->status : TI_ERR_ARG;  // until our results are here, others may read x
  const uint64_t start = ti_mono_ns();
  m->x = a->x;
  m->n_row = a->n_row;
  m->padded = a->padded;
  m->own_placed = false;
  ti_status st = route(x, m, a);
  if (st) return st;
  fill_window(x, m);
  pack(x, m);
  const char *own = m->send + (size_t)x->group * x->region_bytes;
  ti_source *s = &m->source[x->cfg.worker];
  *s = (ti_source){.n_row = m->group_rows[x->group],
                   .n_route = m->group_routes[x->group],
                   .routes = (const uint32_t *)(own + TI_MESSAGE_HEAD),
                   .rows = m->x,
                   .number = m->send_row + (size_t)x->group * x->cfg.max_row};
  s->weights = (const float *)(s->routes + s->n_route);
  st = x->cfg.mesh.workers == 1 || a->padded ? post_rows(x, m) : post_counts(x, m);
  x->stats.dispatch_ns += ti_mono_ns() - start;
  return st ? ti_exchange_fail(x, m, st, "dispatch") : TI_OK;
}

// Blocks from rows_of: counts, offsets, and where each source's part of each block begins.
static void lay_out(ti_exchange *x, ti_micro *m) {
  const int W = x->cfg.mesh.workers, n_local = x->n_local, align = x->cfg.align;
  int at = 0;
  for (int e = 0; e < n_local; e++) {
    m->offset[e] = at;
    int end = at;
    for (int s = 0; s < W; s++) {
      m->begin_of[s * x->max_local + e] = end;
      end += m->rows_of[s * x->max_local + e];
    }
    m->count[e] = end - at;
    x->load[e] += (uint64_t)m->count[e];
    x->stats.rows_here += (uint64_t)m->count[e];
    at += (m->count[e] + align - 1) / align * align;
  }
  m->offset[n_local] = at;
}

// One source's rows into the blocks' lists. Its rows begin where its FIRST flags are; counts were checked by whoever filled rows_of.
static void place(ti_exchange *x, ti_micro *m, int s) {
  const ti_source *src = &m->source[s];
  int32_t *cursor = x->cursor, *place_of = m->place ? m->place + (size_t)s * x->route_cap : NULL;
  memcpy(cursor, m->begin_of + (size_t)s * x->max_local, (size_t)x->n_local * sizeof *cursor);
  const char *row = NULL;
  for (int i = 0, k = 0; i < src->n_route; i++) {
    if (src->routes[i] & TI_ROUTE_FIRST) {
      row = src->rows + (size_t)(src->number ? src->number[k] : k) * x->row_bytes;
      k++;
    }
    const int32_t to = cursor[src->routes[i] & ~TI_ROUTE_FIRST]++;
    if (place_of) place_of[i] = to;
    m->row[to] = row;
  }
}

// The own rows' counts by local slot.
static void count_own(ti_exchange *x, ti_micro *m) {
  int32_t *n = m->rows_of + (size_t)x->cfg.worker * x->max_local;
  for (int e = 0; e < x->n_local; e++) n[e] = m->slot_rows[x->group_first[x->group] + e];
}

ti_status ti_dispatch_counts_done(ti_exchange *x, ti_micro *m) {
  const int W = x->cfg.mesh.workers, self = x->cfg.worker, stride = 1 + x->max_local, max_row = x->cfg.max_row;
  for (int s = 0; s < W; s++) {
    if (s == self) continue;
    const int32_t *in = m->count_recv + (size_t)s * stride;
    if (in[0] < 0 || in[0] > max_row) return ti_exchange_bad_peer(s, "n_row", in[0], max_row);
    long total = 0;
    for (int e = 0; e < x->n_local; e++) {
      if (in[1 + e] < 0 || in[1 + e] > max_row * x->cfg.n_top)
        return ti_exchange_bad_peer(s, "rows for an expert", in[1 + e], (long)max_row * x->cfg.n_top);
      m->rows_of[(size_t)s * x->max_local + e] = in[1 + e];
      total += in[1 + e];
    }
    if (total > x->route_cap || total < in[0]) return ti_exchange_bad_peer(s, "n_route", total, x->route_cap);
    m->source[s].n_row = in[0];
    m->source[s].n_route = (int)total;
    m->recv_n[s] = message_bytes(x, in[0], (int)total, x->window.peer[s] != NULL);
  }
  count_own(x, m);
  lay_out(x, m);
  const ti_status st = post_rows(x, m);
  if (st) return st;
  place(x, m, self);  // while the others' rows are on their way
  m->own_placed = true;
  return TI_OK;
}

// Checks the message of source s and fills its view; padded: its rows_of too.
static ti_status open_message(ti_exchange *x, ti_micro *m, int s) {
  const char *msg = m->recv + (size_t)s * x->region_bytes;
  ti_source *src = &m->source[s];
  const bool in_place = x->window.peer[s] != NULL;
  int32_t head[2];
  if (m->padded && m->got[s] < TI_MESSAGE_HEAD) return ti_exchange_bad_peer(s, "bytes", (long)m->got[s], TI_MESSAGE_HEAD);
  memcpy(head, msg, sizeof head);
  if (m->padded) {
    if (head[0] < 0 || head[0] > x->cfg.max_row) return ti_exchange_bad_peer(s, "n_row", head[0], x->cfg.max_row);
    if (head[1] < head[0] || head[1] > x->route_cap) return ti_exchange_bad_peer(s, "n_route", head[1], x->route_cap);
    const size_t bytes = message_bytes(x, head[0], head[1], in_place);
    if (m->got[s] != bytes) return ti_exchange_bad_peer(s, "bytes", (long)m->got[s], (long)bytes);
  } else if (head[0] != src->n_row || head[1] != src->n_route) {
    return ti_exchange_bad_peer(s, "n_row other than its count", head[0], src->n_row);
  }
  *src = (ti_source){
      .n_row = head[0], .n_route = head[1], .routes = (const uint32_t *)(msg + TI_MESSAGE_HEAD), .rows = msg + rows_at(x, head[0], head[1])};
  src->weights = (const float *)(src->routes + src->n_route);
  if (in_place) {
    src->rows = ti_exchange_x_of(x, m, s);
    src->number = (const int32_t *)(msg + numbers_at(x, head[1]));
    for (int k = 0; k < src->n_row; k++)
      if (src->number[k] < 0 || src->number[k] >= x->cfg.max_row) return ti_exchange_bad_peer(s, "row", src->number[k], x->cfg.max_row - 1);
  }
  int32_t *n = x->cursor;
  memset(n, 0, (size_t)x->n_local * sizeof *n);
  int rows = 0;
  for (int i = 0; i < src->n_route; i++) {
    const uint32_t slot = src->routes[i] & ~TI_ROUTE_FIRST;
    if (slot >= (uint32_t)x->n_local) return ti_exchange_bad_peer(s, "slot", (long)slot, x->n_local - 1);
    n[slot]++;
    rows += (src->routes[i] & TI_ROUTE_FIRST) != 0;
  }
  if (rows != src->n_row || (rows > 0 && !(src->routes[0] & TI_ROUTE_FIRST))) return ti_exchange_bad_peer(s, "rows without routes", rows, src->n_row);
  int32_t *announced = m->rows_of + (size_t)s * x->max_local;
  for (int e = 0; e < x->n_local && !m->padded; e++)
    if (n[e] != announced[e]) return ti_exchange_bad_peer(s, "rows for an expert other than its count", n[e], announced[e]);
  memcpy(announced, n, (size_t)x->n_local * sizeof *n);
  return TI_OK;
}

ti_status ti_exchange_dispatch_wait(ti_exchange *x, int micro, ti_dispatch_out *out) {
  ti_micro *m = &x->micro[micro];
  if (m->phase == TI_MICRO_FAILED) return m->status;
  if (m->phase != TI_MICRO_COUNTS && m->phase != TI_MICRO_ROWS) return TI_ERR_ARG;
  const int W = x->cfg.mesh.workers, self = x->cfg.worker;
  const uint64_t start = ti_mono_ns();
  ti_status st = TI_OK;
  while (!st && m->phase == TI_MICRO_COUNTS) {
    st = ti_exchange_wait_op(x, m, "dispatch counts");
    if (!st) st = ti_dispatch_counts_done(x, m);
  }
  if (!st) st = ti_exchange_wait_op(x, m, "dispatch");
  for (int s = 0; s < W && !st; s++)
    if (s != self) st = open_message(x, m, s);
  if (st) return ti_exchange_fail(x, m, st, "dispatch");
  if (!m->own_placed) {
    count_own(x, m);
    lay_out(x, m);
  }
  for (int s = 0; s < W; s++)
    if (s != self || !m->own_placed) place(x, m, s);
  m->phase = TI_MICRO_PLACED;
  x->stats.dispatch_ns += ti_mono_ns() - start;
  *out = (ti_dispatch_out){m->row, m->count, m->offset, x->n_local, m->offset[x->n_local]};
  return TI_OK;
}
