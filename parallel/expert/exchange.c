// The exchange's life: memory, communicators, waiting, failing, stats. dispatch.c and combine.c do the work. One thread: the worker's step loop.
#include "parallel/expert/exchange.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/placement.h"
#include "base/size.h"
#include "parallel/expert/exchange_priv.h"
#include "parallel/lazy.h"

#define MAX_TERMS 4096  // n_top * etp

ti_status ti_exchange_fail(ti_exchange *x, ti_micro *m, ti_status st, const char *doing) {
  if (m->phase == TI_MICRO_FAILED) return m->status;
  m->phase = TI_MICRO_FAILED;
  m->status = st;
  if (st != TI_ERR_RANGE)  // else the line that named the peer's fault has been written
    ti_log_error("exchange: %s ended: %s peer=%d", doing, ti_status_text(st), m->coll->late_rank);
  return st;
}

ti_status ti_exchange_bad_peer(int peer, const char *what, long value, long limit) {
  ti_log_error("exchange: peer=%d sent %s=%ld, limit=%ld", peer, what, value, limit);
  return TI_ERR_RANGE;
}

// The fence: whatever we wrote into our window, or read from others', is over before the message that says so.
ti_status ti_exchange_post(ti_exchange *x, ti_micro *m, ti_dtype type, const void *send, void *recv, bool bounded) {
  m->op = (ti_coll_op){
      .kind = TI_COLL_ALL_TO_ALL,
      .dtype = type,
      .send = send,
      .recv = recv,
      .send_counts = m->send_n,
      .send_offsets = m->send_at,
      .recv_counts = m->recv_n,
      .recv_offsets = m->recv_at,
      .got = bounded ? m->got : NULL,
  };
  atomic_thread_fence(memory_order_seq_cst);
  return m->coll->ops->post(m->coll, &m->op);
}

ti_status ti_exchange_wait_op(ti_exchange *x, ti_micro *m, const char *doing) {
  const uint64_t start = ti_mono_ns();
  const ti_status st = m->coll->ops->wait(m->coll, &m->op, ti_coll_get_timeout());
  const uint64_t ns = ti_mono_ns() - start;
  atomic_thread_fence(memory_order_seq_cst);
  x->stats.exposed_ns += ns;
  if (m->coll->late_rank >= 0) x->late_ns[m->coll->late_rank] += ns;
  return st ? ti_exchange_fail(x, m, st, doing) : TI_OK;
}

ti_status ti_exchange_progress(ti_exchange *x) {
  ti_status result = TI_OK;
  for (int i = 0; i < 2; i++) {
    ti_micro *m = &x->micro[i];
    if (m->phase != TI_MICRO_COUNTS && m->phase != TI_MICRO_ROWS && m->phase != TI_MICRO_COMBINE) continue;
    ti_status st = m->coll->ops->test(m->coll, &m->op);
    if (st == TI_OK && m->phase == TI_MICRO_COUNTS) {
      st = ti_dispatch_counts_done(x, m);
      if (st == TI_OK) st = TI_INPROGRESS;
    }
    if (ti_failed(st)) return ti_exchange_fail(x, m, st, "progress");
    if (st == TI_INPROGRESS) result = st;
  }
  return result;
}

ti_status ti_exchange_set_placement(ti_exchange *x, int layer, const ti_placement *p) {
  if (p->n_slot != x->n_slot || p->n_expert != x->n_expert) {
    ti_log_error("exchange: placement of %d slots, %d experts; made for %d, %d", p->n_slot, p->n_expert, x->n_slot, x->n_expert);
    return TI_ERR_ARG;
  }
  if (layer < 0 || layer >= x->cfg.n_layer) {
    ti_log_error("exchange: placement of layer=%d, limit=%d", layer, x->cfg.n_layer - 1);
    return TI_ERR_ARG;
  }
  int32_t *slot_of = x->slot_of + (size_t)layer * (size_t)x->n_expert;
  for (int e = 0; e < x->n_expert; e++) slot_of[e] = ti_placement_slot(p, &x->cfg.mesh, e, x->cfg.worker);
  return TI_OK;
}

static void lay_out_slots(ti_exchange *x) {
  const int ep = x->cfg.mesh.ep;
  for (int g = 0; g < ep; g++) {
    long begin, end;
    ti_split(x->n_slot, ep, g, &begin, &end);
    x->group_first[g] = (int)begin;
    for (long s = begin; s < end; s++) {
      x->slot_group[s] = g;
      x->slot_local[s] = (int)(s - begin);
    }
  }
  x->group_first[ep] = x->n_slot;
  x->group = ti_mesh_ep_of(&x->cfg.mesh, x->cfg.worker);
  x->n_local = x->group_first[x->group + 1] - x->group_first[x->group];
  x->max_local = x->group_first[1];
}

static ti_status check_config(const ti_exchange_config *c, const ti_coll *world, const ti_placement *p, ti_error *err) {
  const ti_mesh *m = &c->mesh;
  if (m->workers < 1 || m->ep < 1 || m->etp < 1 || m->ep * m->etp != m->workers)
    return ti_error_set(err, TI_ERR_ARG, "exchange: ep %d x etp %d is not %d workers", m->ep, m->etp, m->workers);
  if (world->size != m->workers || world->rank != c->worker)
    return ti_error_set(err, TI_ERR_ARG, "exchange: communicator has rank %d of %d, the mesh has worker %d of %d", world->rank, world->size,
                        c->worker, m->workers);
  if (c->dim < 1 || c->n_top < 1 || c->n_top * m->etp > MAX_TERMS || c->max_row < 1 || c->align < 1)
    return ti_error_set(err, TI_ERR_ARG, "exchange: dim %d, n_top %d, max_row %d, align %d", c->dim, c->n_top, c->max_row, c->align);
  if (c->dtype != TI_F32 && c->dtype != TI_BF16)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "exchange: rows of %s; F32 and BF16 are known", ti_dtype_name(c->dtype));
  if (p->n_slot < p->n_expert || p->n_expert < 1) return ti_error_set(err, TI_ERR_ARG, "exchange: %d slots for %d experts", p->n_slot, p->n_expert);
  return TI_OK;
}

// Sizes of the regions; TI_ERR_RANGE where a message or a row number would not fit.
static ti_status size_up(ti_exchange *x, ti_error *err) {
  const ti_exchange_config *c = &x->cfg;
  const size_t W = (size_t)c->mesh.workers, row = (size_t)c->dim * (size_t)ti_dtype_block_bytes(c->dtype);
  const size_t routes = (size_t)c->max_row * (size_t)c->n_top;
  const size_t cap = (size_t)c->max_row * (size_t)(c->n_top < x->max_local ? c->n_top : x->max_local);  // a row's experts are distinct
  const size_t blocks = W * cap + (size_t)x->n_local * (size_t)c->align;
  x->row_bytes = row;
  x->region_bytes = ti_size_align(TI_MESSAGE_HEAD + routes * 8 + (size_t)c->max_row * 4, 64) + ti_size_align((size_t)c->max_row * row, 64);
  x->back_bytes = ti_size_align(ti_size_max((c->deterministic ? cap : (size_t)c->max_row) * row, (size_t)x->max_local * sizeof(int32_t)), 64);
  if (blocks > INT_MAX || x->region_bytes > INT_MAX || x->back_bytes > INT_MAX)
    return ti_error_set(err, TI_ERR_RANGE, "exchange: %d rows of %zu bytes with %d experts each: a peer's message would exceed 2 GiB; lower max_row",
                        c->max_row, row, c->n_top);
  x->route_cap = (int)cap;
  x->capacity = (int)blocks;
  x->x_bytes = ti_size_align((size_t)c->max_row * row, 4096);
  x->y_bytes = ti_size_align((W * cap + (size_t)x->max_local * (size_t)c->align) * row, 4096);  // the same on all ranks
  x->place_bytes = c->deterministic ? 0 : W * cap * sizeof(int32_t);
  return TI_OK;
}

// Hands out pieces of one zeroed block; the first pass (base NULL) only measures.
typedef struct ti_pieces {
  char *base;
  size_t at;
} ti_pieces;
static void *piece(ti_pieces *p, size_t n, size_t width) {
  void *out = p->base ? p->base + p->at : NULL;
  p->at = ti_size_align(p->at + n * width, 64);
  return out;
}

static void hand_out(ti_exchange *x, ti_pieces *p) {
  const ti_exchange_config *c = &x->cfg;
  const size_t W = (size_t)c->mesh.workers, ep = (size_t)c->mesh.ep, rows = (size_t)c->max_row, routes = rows * (size_t)c->n_top;
  const size_t local = (size_t)x->max_local, slots = (size_t)x->n_slot, terms = ti_size_max((size_t)c->n_top * (size_t)c->mesh.etp, W);
  x->cursor = piece(p, ti_size_max(slots, W), sizeof *x->cursor);
  x->sum.term = piece(p, terms, sizeof *x->sum.term);
  x->sum.weight = piece(p, terms, sizeof *x->sum.weight);
  x->sum.part_end = piece(p, W, sizeof *x->sum.part_end);
  x->group_sees = piece(p, ep, sizeof *x->group_sees);
  x->group_waits = piece(p, ep, sizeof *x->group_waits);
  x->late_ns = piece(p, W, sizeof *x->late_ns);
  x->load = piece(p, local, sizeof *x->load);
  for (int i = 0; i < 2; i++) {
    ti_micro *m = &x->micro[i];
    m->slot = piece(p, routes, sizeof *m->slot);
    m->index = piece(p, routes, sizeof *m->index);
    m->weight = piece(p, routes, sizeof *m->weight);
    m->slot_rows = piece(p, slots, sizeof *m->slot_rows);
    m->slot_begin = piece(p, slots, sizeof *m->slot_begin);
    m->group_rows = piece(p, ep, sizeof *m->group_rows);
    m->group_routes = piece(p, ep, sizeof *m->group_routes);
    m->send_row = piece(p, ep * rows, sizeof *m->send_row);
    m->source = piece(p, W, sizeof *m->source);
    m->count = piece(p, local, sizeof *m->count);
    m->offset = piece(p, local + 1, sizeof *m->offset);
    m->rows_of = piece(p, W * local, sizeof *m->rows_of);
    m->begin_of = piece(p, W * local, sizeof *m->begin_of);
    m->count_send = piece(p, W * (local + 1), sizeof *m->count_send);
    m->count_recv = piece(p, W * (local + 1), sizeof *m->count_recv);
    m->send_n = piece(p, W, sizeof *m->send_n);
    m->send_at = piece(p, W, sizeof *m->send_at);
    m->recv_n = piece(p, W, sizeof *m->recv_n);
    m->recv_at = piece(p, W, sizeof *m->recv_at);
    m->got = piece(p, W, sizeof *m->got);
  }
}

static ti_status make_micro(ti_exchange *x, ti_micro *m, ti_coll *world, const int *all, ti_error *err) {
  const size_t W = (size_t)x->cfg.mesh.workers, groups = (size_t)x->cfg.mesh.ep;
  ti_status st = world->ops->subset(world, all, (int)W, &m->coll, err);
  if (st) return ti_error_prefix(err, "exchange");
  const size_t counts = W * ti_size_max((size_t)(1 + x->max_local) * sizeof(int32_t), ti_size_max(W, 64));  // or the window's
  st = m->coll->ops->reserve(m->coll, ti_size_max(W * ti_size_max(x->region_bytes, x->back_bytes), counts), 1);
  m->send = ti_lazy_alloc(groups * x->region_bytes);
  m->recv = ti_lazy_alloc(W * x->region_bytes);
  m->row = ti_lazy_alloc((size_t)x->capacity * sizeof *m->row);
  m->back_send = ti_lazy_alloc(W * x->back_bytes);
  m->back_recv = ti_lazy_alloc(W * x->back_bytes);
  if (x->place_bytes) m->place = ti_lazy_alloc(x->place_bytes);
  if (st || !m->send || !m->recv || !m->row || !m->back_send || !m->back_recv || (x->place_bytes && !m->place))
    return ti_error_set(err, st ? st : TI_ERR_NOMEM, "exchange: no room for regions of %zu bytes a peer", x->region_bytes + x->back_bytes);
  return TI_OK;
}

// Who of each group reads our rows where they stand, and who needs them in messages.
static ti_status make_window(ti_exchange *x, ti_error *err) {
  ti_coll *c = x->micro[0].coll;
  ti_status st = ti_window_create(c, 2 * (x->x_bytes + x->y_bytes), x->cfg.host_ranks, &x->window, err);
  if (st) return ti_error_prefix(err, "exchange");
  if (x->cfg.mesh.workers > 1)
    ti_log_info("exchange: rows of %d ranks are read where they stand, those of %d come in messages", x->window.n_peer,
                c->size - 1 - x->window.n_peer);
  for (int d = 0; d < x->cfg.mesh.workers; d++) {
    if (d == x->cfg.worker) continue;
    bool *group = x->window.seen[d] ? x->group_sees : x->group_waits;
    group[d / x->cfg.mesh.etp] = true;
  }
  return TI_OK;
}

ti_status ti_exchange_create(const ti_exchange_config *cfg, ti_coll *world, const ti_placement *p, ti_exchange **out, ti_error *err) {
  ti_status st = check_config(cfg, world, p, err);
  if (st) return st;
  const size_t n_slot = (size_t)p->n_slot, n_expert = (size_t)p->n_expert, ep = (size_t)cfg->mesh.ep, W = (size_t)cfg->mesh.workers;
  ti_exchange *x = calloc(1, sizeof *x);
  int *all = malloc(W * sizeof *all);
  if (!x || !all) {
    st = ti_error_set(err, TI_ERR_NOMEM, "exchange: out of memory");
    goto err_destroy;
  }
  for (int i = 0; i < (int)W; i++) all[i] = i;
  x->cfg = *cfg;
  if (cfg->n_layer < 1) x->cfg.n_layer = 1;
  x->n_slot = p->n_slot;
  x->n_expert = p->n_expert;
  x->slot_group = malloc((2 * n_slot + ep + 1) * sizeof(int));
  x->slot_of = calloc((size_t)x->cfg.n_layer * n_expert, sizeof *x->slot_of);
  if (!x->slot_group || !x->slot_of) {
    st = ti_error_set(err, TI_ERR_NOMEM, "exchange of %zu slots: out of memory", n_slot);
    goto err_destroy;
  }
  x->slot_local = x->slot_group + n_slot;
  x->group_first = x->slot_local + n_slot;
  lay_out_slots(x);
  st = size_up(x, err);
  if (st) goto err_destroy;
  ti_pieces pieces = {0};
  hand_out(x, &pieces);
  x->ints = calloc(1, pieces.at + 64);
  if (!x->ints) {
    st = ti_error_set(err, TI_ERR_NOMEM, "exchange: no room for %zu bytes of tables", pieces.at);
    goto err_destroy;
  }
  pieces = (ti_pieces){.base = (char *)ti_size_align((size_t)x->ints, 64)};
  hand_out(x, &pieces);
  for (int i = 0; i < 2 && !st; i++) st = make_micro(x, &x->micro[i], world, all, err);
  if (!st) st = make_window(x, err);
  for (int i = 0; i < x->cfg.n_layer && !st; i++) st = ti_exchange_set_placement(x, i, p);
  if (st) goto err_destroy;
  free(all);
  *out = x;
  return TI_OK;

err_destroy:
  free(all);
  ti_exchange_destroy(x);
  return st;
}

// What MPI may still touch after an abandoned operation is leaked on purpose (coll.h).
void ti_exchange_destroy(ti_exchange *x) {
  if (!x) return;
  const size_t W = (size_t)x->cfg.mesh.workers;
  bool leak = false;
  for (int i = 0; i < 2; i++) {
    ti_micro *m = &x->micro[i];
    ti_coll *c = m->coll;
    if (c && (m->phase == TI_MICRO_COUNTS || m->phase == TI_MICRO_ROWS || m->phase == TI_MICRO_COMBINE)) {
      c->ops->abort(c);
      (void)!c->ops->test(c, &m->op);  // gives the operation up
    }
    const bool abandoned = c && c->abandoned > 0;
    leak |= abandoned;
    ti_coll_destroy(c);
    ti_lazy_free(m->row, (size_t)x->capacity * sizeof *m->row);
    ti_lazy_free(m->place, x->place_bytes);
    if (abandoned) continue;
    ti_lazy_free(m->send, (size_t)x->cfg.mesh.ep * x->region_bytes);
    ti_lazy_free(m->recv, W * x->region_bytes);
    ti_lazy_free(m->back_send, W * x->back_bytes);
    ti_lazy_free(m->back_recv, W * x->back_bytes);
  }
  ti_window_fini(&x->window);
  if (!leak) free(x->ints);
  free(x->slot_group);
  free(x->slot_of);
  free(x);
}

int ti_exchange_capacity(const ti_exchange *x) { return x->capacity; }
void *ti_exchange_x(const ti_exchange *x, int micro) { return x->window.own + (size_t)micro * x->x_bytes; }
void *ti_exchange_y(const ti_exchange *x, int micro) { return x->window.own + 2 * x->x_bytes + (size_t)micro * x->y_bytes; }

void ti_exchange_stats_take(ti_exchange *x, ti_exchange_stats *out) {
  x->stats.slowest_peer = -1;
  x->stats.slowest_ns = 0;
  for (int r = 0; r < x->cfg.mesh.workers; r++)
    if (x->late_ns[r] > x->stats.slowest_ns) {
      x->stats.slowest_ns = x->late_ns[r];
      x->stats.slowest_peer = r;
    }
  *out = x->stats;
  memset(&x->stats, 0, sizeof x->stats);
  memset(x->late_ns, 0, (size_t)x->cfg.mesh.workers * sizeof *x->late_ns);
}

void ti_exchange_load_take(ti_exchange *x, uint64_t *rows) {
  memcpy(rows, x->load, (size_t)x->n_local * sizeof *rows);
  memset(x->load, 0, (size_t)x->n_local * sizeof *x->load);
}
