// The loop: events, mail, timers, plans; asleep when there is nothing to do. One thread.
//
//   turn:  ctl events (results first: they make room) -> mail (submit, cancel, finish, drain) -> deadlines, health -> plans -> status
//
// Two steps in flight: the next plan is sealed while one executes, with decode rows for sequences whose token is not known yet. With lockstep all
// groups have the same steps in flight; else each goes at its own pace.
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/control.h"
#include "coordinator/mail.h"
#include "coordinator/sched/sched.h"
#include "coordinator/status.h"

// The global part of a step: what every rank's sequence of collectives follows from.
typedef struct step_head {
  uint32_t max_rows, n_micro;
  bool prefill, gather;
} step_head;

// How many micro-batches a step is split into, from what all ranks know alike.
static uint32_t plan_micro(const ti_coord_config *cfg, uint32_t max_rows) { return cfg->two_batch_rows && max_rows >= cfg->two_batch_rows ? 2 : 1; }

static void head_add(step_head *h, const ti_plan *p) {
  if (p->n_token > h->max_rows) h->max_rows = p->n_token;
  h->prefill |= p->prefill;
  h->gather |= p->gather;
}

static ti_plan *next_plan(const ti_coord *c, ti_group *g) { return &g->plan[(g->oldest + g->n_flight) % c->cfg.steps_in_flight]; }

// Encodes and sends; from here on the plan's rows are in flight and its pages count as written.
static void seal(ti_coord *c, ti_group *g, const step_head *h) {
  ti_plan *p = next_plan(c, g);
  p->msg.epoch = c->epoch;
  p->msg.step = g->next_step++;
  p->msg.placement = c->balance.version;
  p->msg.form = h->prefill ? TI_FORM_PREFILL : TI_FORM_DECODE;
  p->msg.max_rows = h->max_rows;
  p->msg.n_micro = h->n_micro;
  p->msg.gather_logits = h->gather;
  const ti_control m = {.kind = TI_CTL_PLAN, .plan = p->msg};
  ti_buf_reset(&c->out);
  const ti_status st = ti_wire_encode_control(&m, &c->out);
  if (g->n_flight++ == 0) g->oldest_us = c->now_us;
  ti_meter_add(c->meter.in_flight, 1);
  for (uint32_t i = 0; i < p->msg.n_row; i++) {
    ti_seq *s = p->kept[i].seq;
    s->inflight++;
    s->req->inflight++;
    s->kv_sent = s->n_kv;
    if (s->kv_sent >= s->req->spec->n_prompt) ti_request_release_held(c, s->req, s->req->spec->n_choice);
  }
  if (st) {
    ti_control_lost(c, 1 + (uint32_t)ti_mesh_worker(&c->cfg.mesh, (int)g->index, 0), "cannot be sent a plan: it is too large");
  } else {
    ti_control_send_plan(c, g);
  }
}

static bool plan_lockstep(ti_coord *c) {
  step_head h = {0};
  bool rows = false;
  for (uint32_t i = 0; i < c->n_group; i++) {
    if (c->group[i].n_flight >= c->cfg.steps_in_flight) return false;
  }
  for (uint32_t i = 0; i < c->n_group; i++) {
    ti_plan *p = next_plan(c, &c->group[i]);
    ti_plan_clear(p);
    ti_sched_fill(c, &c->group[i], p);
    head_add(&h, p);
    rows |= p->msg.n_row > 0;
  }
  if (!rows) return false;
  ti_balance_switch(&c->balance, c->group[0].next_step);
  h.n_micro = plan_micro(&c->cfg, h.max_rows);
  for (uint32_t i = 0; i < c->n_group && !c->failed; i++) seal(c, &c->group[i], &h);
  return true;
}

static bool plan_group(ti_coord *c, ti_group *g) {
  if (g->n_flight >= c->cfg.steps_in_flight) return false;
  ti_plan *p = next_plan(c, g);
  ti_plan_clear(p);
  ti_sched_fill(c, g, p);
  if (p->msg.n_row == 0) return false;
  step_head h = {.n_micro = plan_micro(&c->cfg, p->n_token)};
  head_add(&h, p);
  seal(c, g, &h);
  return true;
}

// Copies of hot experts: workers load them while steps go on.
static void balance(ti_coord *c) {
  if (!c->ready || c->stopped || !c->cfg.balance_tokens) return;
  ti_control m = {.kind = TI_CTL_PLACEMENT};
  if (!ti_balance_tick(&c->balance, &m.placement)) return;
  ti_buf_reset(&c->out);
  if (ti_wire_encode_control(&m, &c->out) == TI_OK) ti_control_broadcast(c, 0);
}

static void plan_all(ti_coord *c) {
  if (!c->ready || c->stopped) return;
  const uint64_t t0 = c->cfg.trace || c->meter.plan_us ? ti_mono_ns() : 0;
  uint32_t n = 0;
  if (c->cfg.lockstep) {
    while (!c->failed && plan_lockstep(c)) n++;
  } else {
    for (uint32_t i = 0; i < c->n_group; i++) {
      while (!c->failed && plan_group(c, &c->group[i])) n++;
    }
  }
  if (!n || !t0) return;
  const uint64_t t1 = ti_mono_ns();
  ti_meter_observe_us(c->meter.plan_us, (t1 - t0) / 1000);
  ti_trace_span(c->cfg.trace, 0, "plan", "coordinator", t0, t1, (int64_t)c->group[0].next_step - 1, -1);
}

static void check_deadlines(ti_coord *c, uint64_t *next_us) {
  ti_heap_node *n;
  while ((n = ti_heap_top(&c->deadlines)) != NULL) {
    ti_request *r = ti_request_of_deadline(n);
    if (r->spec->deadline_us > c->now_us) {
      if (r->spec->deadline_us < *next_us) *next_us = r->spec->deadline_us;
      return;
    }
    ti_request_end(c, r, TI_FINISH_CANCEL, "the request's deadline has passed");
  }
}

static bool anyone_alive(const ti_coord *c) {
  for (const ti_request *r = c->all; r; r = r->all_next) {
    if (r->n_done < r->spec->n_choice) return true;
  }
  return false;
}

// TI_OK when the drain is over.
static ti_status check_drain(ti_coord *c, uint64_t *next_us) {
  if (!c->draining || c->failed) return TI_INPROGRESS;
  if (anyone_alive(c) || atomic_load(&c->n_entering)) {
    if (c->now_us < c->drain_until_us) {
      if (c->drain_until_us < *next_us) *next_us = c->drain_until_us;
      return TI_INPROGRESS;
    }
    ti_coord_end_all(c, TI_FINISH_ERROR, "the server is shutting down");
  }
  if (!c->stopped) {
    c->stopped = true;
    const ti_control m = {.kind = TI_CTL_DRAIN};
    ti_buf_reset(&c->out);
    if (ti_wire_encode_control(&m, &c->out) == TI_OK) ti_control_broadcast(c, 0);
    c->published_us = 0;
  }
  return TI_OK;
}

ti_status ti_coord_turn(ti_coord *c, uint64_t *next_us, ti_error *err) {
  const bool was = c->failed;
  c->now_us = ti_now_us(c->cfg.clock);
  *next_us = UINT64_MAX;
  ti_inbox_clear(&c->events);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&c->events)) != NULL;) {
    ti_ctl_event *ev = (ti_ctl_event *)n;
    ti_control_event(c, ev);
    ti_ctl_event_free(ev);
  }
  ti_inbox_clear(&c->mail);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&c->mail)) != NULL;) ti_mail_take(c, (ti_mail *)n);
  check_deadlines(c, next_us);
  ti_control_check(c, next_us);
  balance(c);
  plan_all(c);
  const ti_status st = check_drain(c, next_us);
  if (c->failed && !was) c->published_us = 0;
  ti_status_publish(c, next_us);
  if (st == TI_OK) return TI_OK;
  if (!c->failed) return TI_INPROGRESS;
  const uint64_t until = c->failed_us + c->cfg.linger_us;
  if (c->now_us < until) {
    if (until < *next_us) *next_us = until;
    return TI_INPROGRESS;
  }
  return ti_error_set(err, c->failure.code, "%s", c->failure.text);
}

ti_status ti_coord_run(ti_coord *c, ti_error *err) {
  struct pollfd fds[2] = {{.fd = ti_inbox_fd(&c->events), .events = POLLIN}, {.fd = ti_inbox_fd(&c->mail), .events = POLLIN}};
  for (;;) {
    uint64_t next_us;
    const ti_status st = ti_coord_turn(c, &next_us, err);
    if (st != TI_INPROGRESS) return st;
    const uint64_t now = ti_now_us(c->cfg.clock), wait = next_us > now ? next_us - now : 0;
    const struct timespec t = {.tv_sec = (time_t)(wait / 1000000), .tv_nsec = (long)(wait % 1000000) * 1000};
    ppoll(fds, 2, next_us == UINT64_MAX ? NULL : &t, NULL);  // a signal ends it early: one more turn
  }
}
