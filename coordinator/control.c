// Workers over cfg.ctl (see control.h).
#include "coordinator/control.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/result.h"
#include "proto/handshake.h"

enum { HELLO_LIMIT_US = 5000000 };  // from Challenge to Hello

static void set_state(ti_coord *c, ti_rank *r, ti_rank_state state) {
  r->state = state;
  r->since_us = r->heard_us = c->now_us;
}

static void copy_text(char *out, size_t size, const char *text) { snprintf(out, size, "%s", text ? text : ""); }

void ti_control_broadcast(ti_coord *c, uint32_t except) {
  for (uint32_t i = 1; i <= c->n_rank; i++) {
    if (i == except || c->rank[i].state < TI_RANK_HELLO) continue;
    const ti_status st = ti_ctl_host_send(c->cfg.ctl, i, c->out.data, c->out.len);
    if (st) ti_log_debug("coordinator: broadcast to rank %u: %s", i, ti_status_text(st));
  }
}

// "in step 118 (moe: dispatch)", or where it was between steps.
static void describe(ti_coord *c, uint32_t rank, char *out, size_t size) {
  const ti_rank *r = &c->rank[rank];
  const ti_group *g = ti_coord_group_of_rank(c, rank);
  if (!c->ready) {
    snprintf(out, size, "before all ranks were ready");
  } else if (g->n_flight) {
    const uint64_t oldest = g->plan[g->oldest].msg.step;
    snprintf(out, size, "in step %" PRIu64 "%s%s%s", r->step > oldest ? r->step : oldest, r->doing[0] ? " (" : "", r->doing, r->doing[0] ? ")" : "");
  } else {
    snprintf(out, size, "while idle after step %" PRIu64, r->step);
  }
}

// c->failure says why. Requests end, submits are refused; the loop returns after the linger.
static void give_up(ti_coord *c) {
  ti_log_error("coordinator: %s; ending %u requests", c->failure.text, c->n_live);
  c->failed = true;
  c->failed_us = c->now_us;
  atomic_store(&c->closed, true);
  ti_coord_end_all(c, TI_FINISH_ERROR, c->failure.text);
}

void ti_control_lost(ti_coord *c, uint32_t rank, const char *why) {
  if (c->failed) return;
  char where[128];
  describe(c, rank, where, sizeof where);
  const ti_rank *r = &c->rank[rank];
  ti_error_set(&c->failure, TI_ERR_PEER, "worker rank %u %s %s on %s", rank, why, where, r->host[0] ? r->host : "its host");
  give_up(c);
  ti_meter_set(c->meter.rank_up[rank], 0);
  const ti_control m = {.kind = TI_CTL_ABORT, .abort = {.epoch = c->epoch, .status = TI_ERR_PEER, .message = c->failure.text}};
  ti_buf_reset(&c->out);
  if (ti_wire_encode_control(&m, &c->out) == TI_OK) ti_control_broadcast(c, rank);
}

void ti_control_send_plan(ti_coord *c, const ti_group *g) {
  for (int i = 0; i < c->cfg.mesh.tp && !c->failed; i++) {
    const uint32_t rank = 1 + (uint32_t)ti_mesh_worker(&c->cfg.mesh, (int)g->index, i);
    const ti_status st = ti_ctl_host_send(c->cfg.ctl, rank, c->out.data, c->out.len);
    if (st == TI_OK || st == TI_ERR_PEER) continue;  // PEER: its GONE is on the way
    ti_control_lost(c, rank, st == TI_ERR_FULL ? "takes no messages" : "cannot be sent a plan");
  }
}

static void bad_message(ti_coord *c, uint32_t rank, const ti_error *err) {
  ti_meter_add(c->meter.bad_messages, 1);
  ti_log_warn("coordinator: dropped a message of rank %u: %s", rank, err->text);
}

static void challenge(ti_coord *c, uint32_t rank, uint32_t conn) {
  ti_rank *r = &c->rank[rank];
  r->conn = conn;
  set_state(c, r, TI_RANK_CHALLENGED);
  ti_buf_reset(&c->out);
  ti_status st = ti_handshake_challenge(r->nonce, &c->out);
  if (!st) st = ti_ctl_host_send(c->cfg.ctl, rank, c->out.data, c->out.len);
  if (!st) return;
  ti_log_warn("coordinator: cannot challenge rank %u: %s", rank, ti_status_text(st));
  ti_ctl_host_drop(c->cfg.ctl, rank);
}

// What a worker offers must be what the plans will assume.
static ti_status check_hello(const ti_coord *c, const ti_msg_hello *h, ti_error *err) {
  const ti_coord_config *k = &c->cfg;
  const struct {
    const char *name;
    uint32_t has, wants;
    bool exact;
  } need[] = {{"n_slot", h->n_slot, k->max_num_seqs, false},
              {"max_rows", h->max_rows, k->max_num_batched_tokens, false},
              {"max_context", h->max_context, k->max_model_len, false},
              {"page_tokens", h->page_tokens, k->page_tokens, true},
              {"vocab", h->vocab, k->vocab, true},
              {"n_page", h->n_page, 1, false}};
  for (size_t i = 0; i < sizeof need / sizeof need[0]; i++) {
    if (need[i].exact ? need[i].has != need[i].wants : need[i].has < need[i].wants)
      return ti_error_set(err, TI_ERR_RANGE, "Hello.%s of rank %u: %u, expected %s%u", need[i].name, h->rank, need[i].has,
                          need[i].exact ? "" : "at least ", need[i].wants);
  }
  return TI_OK;
}

// All ranks are there: page counts are known, pages are made, everybody is welcome.
static void welcome_all(ti_coord *c) {
  uint32_t least = UINT32_MAX;
  for (uint32_t g = 0; g < c->n_group; g++) {
    uint32_t n = c->cfg.n_page ? c->cfg.n_page : UINT32_MAX;
    for (int i = 0; i < c->cfg.mesh.tp; i++) {
      const uint32_t has = c->rank[1 + ti_mesh_worker(&c->cfg.mesh, (int)g, i)].hello.n_page;
      if (has < n) n = has;
    }
    if (ti_pages_create(n, &c->group[g].pages) != TI_OK) {
      ti_control_lost(c, 1 + (uint32_t)ti_mesh_worker(&c->cfg.mesh, (int)g, 0), "has more pages than there is memory to count");
      return;
    }
    for (int i = 0; i < c->cfg.mesh.tp; i++) {
      const uint32_t rank = 1 + (uint32_t)ti_mesh_worker(&c->cfg.mesh, (int)g, i);
      const ti_control m = {.kind = TI_CTL_WELCOME, .welcome = {.epoch = c->epoch, .n_page = n, .clock_us = (int64_t)c->now_us}};
      ti_buf_reset(&c->out);
      ti_status st = ti_wire_encode_control(&m, &c->out);
      if (!st) st = ti_ctl_host_send(c->cfg.ctl, rank, c->out.data, c->out.len);
      if (st) ti_log_warn("coordinator: cannot welcome rank %u: %s", rank, ti_status_text(st));
      set_state(c, &c->rank[rank], TI_RANK_UP);
      ti_meter_set(c->meter.rank_up[rank], 1);
    }
    c->now.pages += n;
    if (n < least) least = n;
  }
  ti_meter_set(c->meter.pages_total, c->now.pages);
  atomic_store(&c->n_page, least);
  c->ready = true;
  c->published_us = 0;
  ti_log_info("coordinator: ready ranks=%u groups=%u pages=%u", c->n_rank, c->n_group, c->now.pages);
  for (ti_request *r = c->all, *next; r; r = next) {  // those that came before the page count was known
    next = r->all_next;
    if (r->max_pages > ti_pages_total(c->group[r->group].pages))
      ti_request_end(c, r, TI_FINISH_ERROR, "the request needs more KV pages than there are");
  }
}

static void take_hello(ti_coord *c, uint32_t rank, const ti_ctl_event *ev) {
  ti_rank *r = &c->rank[rank];
  ti_msg_hello h;
  ti_error err;
  ti_status st = ti_handshake_verify(ev->data, ev->len, c->cfg.secret, c->cfg.secret_len, r->nonce, rank, c->n_rank + 1, &c->in, &h, &err);
  const bool ours = st == TI_OK || st == TI_ERR_UNSUPPORTED;  // it knows the secret: what does not fit will not fit the next time either
  if (!st) st = check_hello(c, &h, &err);
  if (st && ours && !c->failed) {
    c->failure = err;
    give_up(c);
  }
  if (st) {
    ti_meter_add(c->meter.bad_hellos, 1);
    ti_log_warn("coordinator: dropped a connection at the address of rank %u: %s", rank, err.text);
    ti_ctl_host_drop(c->cfg.ctl, rank);
    return;
  }
  copy_text(r->device, sizeof r->device, h.device);
  copy_text(r->host, sizeof r->host, h.host);
  r->hello = h;
  r->hello.device = r->device;
  r->hello.host = r->host;
  set_state(c, r, TI_RANK_HELLO);
  ti_log_info("coordinator: rank %u is here device=\"%s\" host=%s pages=%u", rank, r->device, r->host, h.n_page);
  for (uint32_t i = 1; i <= c->n_rank; i++) {
    if (c->rank[i].state != TI_RANK_HELLO) return;
  }
  if (!c->ready) welcome_all(c);
}

static void take_result(ti_coord *c, uint32_t rank, const ti_step_result *res) {
  ti_rank *r = &c->rank[rank];
  ti_error err;
  if (res->epoch != c->epoch) {
    ti_meter_add(c->meter.stale_results, 1);
    return;
  }
  ti_status st = TI_OK;
  if (ti_mesh_tp_of(&c->cfg.mesh, (int)rank - 1) == 0) st = ti_result_apply(c, ti_coord_group_of_rank(c, rank), res, &err);
  if (!st && c->balance.n_layer) {
    st = ti_load_add(&c->load, &c->cfg.mesh, (int)rank - 1, ti_balance_at(&c->balance, res->step), res->expert_load, &err);
    ti_balance_add(&c->balance, (int)rank - 1, res->step, res->expert_load);
    ti_balance_ready(&c->balance, (int)rank - 1, res->placement);
  }
  if (st) {
    bad_message(c, rank, &err);
    return;
  }
  r->step = res->step;
  r->in_step_us = 0;
  r->step_us = res->times.total_us;
}

static void take_heartbeat(ti_rank *r, const ti_msg_heartbeat *h) {
  r->step = h->step;
  r->in_step_us = h->in_step_us;
  r->rss_bytes = h->rss_bytes;
  copy_text(r->doing, sizeof r->doing, h->doing);
}

static void take_message(ti_coord *c, uint32_t rank, const ti_ctl_event *ev) {
  ti_rank *r = &c->rank[rank];
  const uint32_t n_page = atomic_load_explicit(&c->n_page, memory_order_relaxed);
  const ti_wire_limits lim = {.n_rank = c->n_rank + 1,
                              .n_slot = c->cfg.max_num_seqs,
                              .n_page = n_page,
                              .vocab = c->cfg.vocab,
                              .max_rows = c->cfg.max_num_batched_tokens,
                              .max_context = c->cfg.max_model_len};
  ti_control m;
  ti_error err;
  const ti_status st = ti_wire_decode_control(ev->data, ev->len, &lim, &c->in, &m, &err);
  if (st) {
    bad_message(c, rank, &err);
    return;
  }
  r->heard_us = c->now_us;
  if (m.kind == TI_CTL_RESULT && r->state == TI_RANK_UP) {
    take_result(c, rank, &m.result);
  } else if (m.kind == TI_CTL_HEARTBEAT) {
    take_heartbeat(r, &m.heartbeat);
  } else if (m.kind == TI_CTL_ABORT && r->state == TI_RANK_UP) {
    char why[256];
    snprintf(why, sizeof why, "gave up (%s)", m.abort.message ? m.abort.message : ti_status_text((ti_status)m.abort.status));
    ti_control_lost(c, rank, why);
  } else {
    ti_error_set(&err, TI_ERR_FORMAT, "message kind %d has no place here", (int)m.kind);
    bad_message(c, rank, &err);
  }
}

void ti_control_event(ti_coord *c, const ti_ctl_event *ev) {
  if (ev->rank == 0 || ev->rank > c->n_rank) return;
  ti_rank *r = &c->rank[ev->rank];
  if (ev->kind == TI_CTL_EV_UP) {
    if (r->state != TI_RANK_UP && !c->failed) challenge(c, ev->rank, ev->conn);
    return;
  }
  if (ev->conn != r->conn) return;  // of an earlier connection
  if (ev->kind == TI_CTL_EV_GONE) {
    if (r->state >= TI_RANK_HELLO && !c->stopped) ti_control_lost(c, ev->rank, "died");
    set_state(c, r, TI_RANK_DOWN);
    return;
  }
  ti_arena_reset(&c->in);
  if (r->state == TI_RANK_CHALLENGED) {
    take_hello(c, ev->rank, ev);
  } else if (r->state != TI_RANK_DOWN) {
    take_message(c, ev->rank, ev);
  }
}

static void check_start(ti_coord *c, uint64_t *next_us) {
  const uint64_t limit = c->started_us + c->cfg.start_limit_us;
  if (c->now_us < limit) {
    if (limit < *next_us) *next_us = limit;
    return;
  }
  char who[200];
  size_t n = 0;
  for (uint32_t i = 1; i <= c->n_rank && n + 8 < sizeof who; i++) {
    if (c->rank[i].state != TI_RANK_HELLO) n += (size_t)snprintf(who + n, sizeof who - n, "%s%u", n ? ", " : "", i);
  }
  ti_error_set(&c->failure, TI_ERR_TIMEOUT, "worker rank %s not ready within %.0f s: see its log; a large model may need a longer start limit", who,
               (double)c->cfg.start_limit_us * 1e-6);
  give_up(c);
}

// Sums saturate: a limit of UINT64_MAX is none.
static uint64_t after(uint64_t t, uint64_t d) { return t + d < t ? UINT64_MAX : t + d; }

static void check_up(ti_coord *c, uint32_t rank, uint64_t *next_us) {
  ti_rank *r = &c->rank[rank];
  const ti_group *g = ti_coord_group_of_rank(c, rank);
  char why[96];
  const uint64_t late = after(r->heard_us, c->cfg.heartbeat_us), hung = g->n_flight ? after(g->oldest_us, c->cfg.step_limit_us) : UINT64_MAX;
  if (c->now_us >= late) {
    snprintf(why, sizeof why, "has not been heard of for %.1f s", (double)(c->now_us - r->heard_us) * 1e-6);
    ti_control_lost(c, rank, why);
  } else if (r->in_step_us > c->cfg.step_limit_us) {
    snprintf(why, sizeof why, "hangs for %.1f s", r->in_step_us * 1e-6);
    ti_control_lost(c, rank, why);
  } else if (c->now_us >= hung && ti_mesh_tp_of(&c->cfg.mesh, (int)rank - 1) == 0) {
    snprintf(why, sizeof why, "has given no result for %.1f s", (double)(c->now_us - g->oldest_us) * 1e-6);
    ti_control_lost(c, rank, why);
  }
  if (late < *next_us) *next_us = late;
  if (hung < *next_us) *next_us = hung;
}

void ti_control_check(ti_coord *c, uint64_t *next_us) {
  if (!c->ready && !c->failed) check_start(c, next_us);
  for (uint32_t i = 1; i <= c->n_rank && !c->failed; i++) {
    ti_rank *r = &c->rank[i];
    if (r->state == TI_RANK_UP) {
      check_up(c, i, next_us);
    } else if (r->state == TI_RANK_CHALLENGED) {
      const uint64_t limit = r->since_us + HELLO_LIMIT_US;
      if (c->now_us >= limit) {
        ti_meter_add(c->meter.bad_hellos, 1);
        ti_log_warn("coordinator: dropped a connection at the address of rank %u: no Hello within 5 s", i);
        set_state(c, r, TI_RANK_DOWN);
        ti_ctl_host_drop(c->cfg.ctl, i);
      } else if (limit < *next_us) {
        *next_us = limit;
      }
    }
  }
}
