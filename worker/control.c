// The control link (see control.h).
#include "worker/control.h"

#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/inbox.h"
#include "base/log.h"
#include "proto/ctl.h"
#include "proto/handshake.h"

enum {
  REFUSALS = 3,         // connections that end before Welcome: then the coordinator does not want this worker
  REDIAL_US = 2000000,  // a coordinator that lives is reached again well within
  HEARTBEAT_BYTES = 4096,
};

struct ti_worker_link {
  ti_worker_link_config cfg;
  ti_ctl_peer *peer;
  ti_inbox inbox;
  _Atomic uint64_t lost_us;
  _Atomic bool welcome;
  _Atomic uint64_t epoch;
  // the step loop's
  ti_wire_limits limits;
  ti_buf out;
  uint64_t opened_us, gone_us;  // gone_us: since when there is no connection, before Welcome; 0: there is one
  int refusals;
  bool met, answered;  // there has been a connection; the present one's Challenge is answered
  uint64_t n_stale;
  // the heartbeat thread's
  ti_buf beat;
};

// NNG's threads.
static void on_event(void *arg, ti_ctl_event *ev) {
  ti_worker_link *l = arg;
  const bool said = ev->kind == TI_CTL_EV_MESSAGE && ti_wire_control_kind(ev->data, ev->len) == TI_CTL_ABORT;
  if (said || (ev->kind == TI_CTL_EV_GONE && atomic_load(&l->welcome))) {
    uint64_t never = 0;
    atomic_compare_exchange_strong(&l->lost_us, &never, ti_mono_us());
    for (int i = 0; i < 2; i++)
      if (l->cfg.coll[i]) l->cfg.coll[i]->ops->abort(l->cfg.coll[i]);
  }
  ti_inbox_push(&l->inbox, &ev->node);
}

ti_status ti_worker_link_open(const ti_worker_link_config *cfg, ti_worker_link **out, ti_error *err) {
  ti_worker_link *l = calloc(1, sizeof *l);
  if (!l) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the control link");
  l->cfg = *cfg;
  const ti_msg_hello *h = &cfg->hello;
  l->limits = (ti_wire_limits){
      .n_rank = UINT32_MAX, .n_slot = h->n_slot, .n_page = h->n_page, .vocab = h->vocab, .max_rows = h->max_rows, .max_context = h->max_context};
  l->opened_us = l->gone_us = ti_mono_us();
  ti_buf_init(&l->out, TI_WIRE_MAX_BYTES);
  ti_buf_init(&l->beat, HEARTBEAT_BYTES);
  ti_status st = ti_inbox_init(&l->inbox);
  if (st) {
    ti_error_set(err, st, "control link: no eventfd: %s", ti_status_text(st));
    goto err_inbox;
  }
  st = ti_ctl_nng_peer_open(cfg->address, 0, 0, on_event, l, &l->peer, err);
  if (st) goto err_peer;
  *out = l;
  return TI_OK;
err_peer:
  ti_inbox_fini(&l->inbox);
err_inbox:
  free(l);
  return st;
}

void ti_worker_link_close(ti_worker_link *l) {
  if (!l) return;
  ti_ctl_peer_close(l->peer);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&l->inbox)) != NULL;) ti_ctl_event_free((ti_ctl_event *)n);
  ti_inbox_fini(&l->inbox);
  ti_buf_fini(&l->out);
  ti_buf_fini(&l->beat);
  free(l);
}

uint64_t ti_worker_link_lost_us(const ti_worker_link *l) { return atomic_load(&l->lost_us); }

static ti_status answer(ti_worker_link *l, const ti_ctl_event *ev, ti_arena *arena, ti_error *err) {
  ti_buf_reset(&l->out);
  ti_status st = ti_handshake_answer(ev->data, ev->len, l->cfg.secret, l->cfg.secret_len, &l->cfg.hello, arena, &l->out, err);
  if (st) return st;
  l->answered = true;
  st = ti_ctl_peer_send(l->peer, l->out.data, l->out.len);
  return st == TI_ERR_PEER ? TI_OK : st;  // its GONE is on the way
}

static ti_status gone(ti_worker_link *l, ti_error *err) {
  if (atomic_load(&l->welcome)) return ti_error_set(err, TI_ERR_PEER, "the coordinator is gone: its connection ended");
  l->gone_us = ti_mono_us();
  if (!l->answered || ++l->refusals < REFUSALS) return TI_OK;
  return ti_error_set(err, TI_ERR_PEER, "the coordinator at %s refuses this worker: its log says why", l->cfg.address);
}

// TI_AGAIN: taken care of, nothing for the step loop.
static ti_status take(ti_worker_link *l, const ti_ctl_event *ev, ti_arena *arena, ti_control *out, ti_error *err) {
  if (ev->kind == TI_CTL_EV_UP) {
    l->gone_us = 0;
    l->met = true;
    l->answered = false;
    return TI_AGAIN;
  }
  ti_status st;
  if (ev->kind == TI_CTL_EV_GONE) return (st = gone(l, err)) ? st : TI_AGAIN;
  if (ti_wire_control_kind(ev->data, ev->len) == TI_CTL_CHALLENGE) return (st = answer(l, ev, arena, err)) ? st : TI_AGAIN;
  ti_control m;
  st = ti_wire_decode_control(ev->data, ev->len, &l->limits, arena, &m, err);
  if (st) return st;
  switch (m.kind) {
    case TI_CTL_WELCOME:
      atomic_store(&l->epoch, m.welcome.epoch);
      atomic_store(&l->welcome, true);
      break;
    case TI_CTL_PLAN:
      if (m.plan.epoch == atomic_load(&l->epoch)) break;
      l->n_stale++;
      ti_log_debug("worker: dropped the plan of step %" PRIu64 ", of epoch %" PRIu64, m.plan.step, m.plan.epoch);
      return TI_AGAIN;
    case TI_CTL_ABORT:
      return ti_error_set(err, TI_ERR_ABORTED, "told to stop: %s", m.abort.message ? m.abort.message : ti_status_text((ti_status)m.abort.status));
    case TI_CTL_DRAIN:
    case TI_CTL_PLACEMENT:
      break;
    default:
      return ti_error_set(err, TI_ERR_FORMAT, "the coordinator sent a message of kind %d, which a worker does not take", (int)m.kind);
  }
  *out = m;
  return TI_OK;
}

// Until when the present wait may last; UINT64_MAX once welcome: the transport tells of the end.
static uint64_t wait_until(const ti_worker_link *l) {
  if (atomic_load(&l->welcome)) return UINT64_MAX;
  const uint64_t start = l->opened_us + l->cfg.start_us, redial = l->met ? l->gone_us + REDIAL_US : UINT64_MAX;
  return l->gone_us && redial < start ? redial : start;
}

static ti_status expired(const ti_worker_link *l, ti_error *err) {
  if (l->gone_us && l->met)
    return ti_error_set(err, TI_ERR_PEER, "the coordinator at %s is gone: it did not come back within %d s", l->cfg.address, REDIAL_US / 1000000);
  return ti_error_set(err, TI_ERR_TIMEOUT,
                      "the coordinator at %s said no Welcome within %" PRIu64 " s: another rank may still be loading or have failed; its log says",
                      l->cfg.address, l->cfg.start_us / 1000000);
}

// Takes what is in the inbox. TI_AGAIN: nothing for the step loop.
static ti_status take_waiting(ti_worker_link *l, ti_arena *arena, ti_control *out, ti_error *err) {
  ti_inbox_clear(&l->inbox);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&l->inbox)) != NULL;) {
    ti_ctl_event *ev = (ti_ctl_event *)n;
    const ti_control_kind kind = ti_wire_control_kind(ev->data, ev->len);
    const bool end = ev->kind == TI_CTL_EV_GONE || kind == TI_CTL_ABORT || kind == TI_CTL_DRAIN;
    ti_status st = TI_AGAIN;
    if (end || !atomic_load(&l->lost_us)) {  // plans that wait before the end are not begun any more
      ti_arena_reset(arena);
      st = take(l, ev, arena, out, err);
    }
    ti_ctl_event_free(ev);
    if (st != TI_AGAIN) return st;
  }
  return TI_AGAIN;
}

// Asleep until something comes, `until` (monotonic us) at most.
static void sleep_until(const ti_worker_link *l, uint64_t until) {
  const uint64_t now = ti_mono_us(), wait = until > now ? until - now : 0;
  const struct timespec t = {.tv_sec = (time_t)(wait / 1000000), .tv_nsec = (long)(wait % 1000000) * 1000};
  ppoll(&(struct pollfd){.fd = ti_inbox_fd(&l->inbox), .events = POLLIN}, 1, until == UINT64_MAX ? NULL : &t, NULL);
}

ti_status ti_worker_link_next(ti_worker_link *l, ti_arena *arena, ti_control *out, ti_error *err) {
  for (;;) {
    const ti_status st = take_waiting(l, arena, out, err);
    if (st != TI_AGAIN) return st;
    const uint64_t until = wait_until(l);
    if (ti_mono_us() >= until) return expired(l, err);
    sleep_until(l, until);
  }
}

ti_status ti_worker_link_try_next(ti_worker_link *l, ti_arena *arena, uint64_t wait_us, ti_control *out, ti_error *err) {
  const ti_status st = take_waiting(l, arena, out, err);
  if (st != TI_AGAIN || wait_us == 0) return st;
  sleep_until(l, ti_mono_us() + wait_us);
  return take_waiting(l, arena, out, err);
}

ti_status ti_worker_link_result(ti_worker_link *l, const ti_step_result *r) {
  const ti_control m = {.kind = TI_CTL_RESULT, .result = *r};
  ti_buf_reset(&l->out);
  const ti_status st = ti_wire_encode_control(&m, &l->out);
  return st ? st : ti_ctl_peer_send(l->peer, l->out.data, l->out.len);
}

void ti_worker_link_abort(ti_worker_link *l, const ti_error *why) {
  const ti_control m = {.kind = TI_CTL_ABORT, .abort = {.epoch = atomic_load(&l->epoch), .status = why->code, .message = why->text}};
  ti_buf_reset(&l->out);
  ti_status st = ti_wire_encode_control(&m, &l->out);
  if (!st) st = ti_ctl_peer_send(l->peer, l->out.data, l->out.len);
  if (st) ti_log_debug("worker: the coordinator cannot be told: %s", ti_status_text(st));
}

void ti_worker_link_heartbeat(ti_worker_link *l, const ti_msg_heartbeat *h) {
  if (!atomic_load(&l->welcome)) return;
  ti_control m = {.kind = TI_CTL_HEARTBEAT, .heartbeat = *h};
  m.heartbeat.epoch = atomic_load(&l->epoch);
  ti_buf_reset(&l->beat);
  ti_status st = ti_wire_encode_control(&m, &l->beat);
  if (!st) st = ti_ctl_peer_send(l->peer, l->beat.data, l->beat.len);
  if (st) ti_log_debug("worker: no heartbeat: %s", ti_status_text(st));
}
