// Both ends of the mail inbox (see mail.h). All memory is made on the sender's thread.
#include "coordinator/mail.h"

#include <float.h>
#include <stdlib.h>

#include "base/log.h"

enum { MAX_CHOICES = 128, MAX_STOP_IDS = 64, MAX_BIAS = 1024 };

typedef struct choice_mail {
  ti_mail mail;
  uint64_t id;
  uint32_t choice, n_tokens;
  ti_finish reason;
} choice_mail;

// ---- any thread ----

static bool within(float v, float lo, float hi) { return v >= lo && v <= hi; }  // false for NaN

// The bounds that a worker's decoder has (proto/wire_plan.c): it would take a plan with a worse number for our mistake and end the cluster.
static bool sampling_servable(const ti_sampling *s, uint32_t vocab) {
  if (!within(s->temperature, 0, 100) || !within(s->top_p, 0, 1) || !within(s->min_p, 0, 1) || !within(s->repetition, 1e-3f, 100)) return false;
  if (!within(s->frequency, -2, 2) || !within(s->presence, -2, 2) || s->top_k < -1 || s->top_k > (int64_t)vocab) return false;
  if (s->n_logprob < -1 || s->n_logprob > TI_TOP_MAX || s->n_prompt_logprob < -1 || s->n_prompt_logprob > TI_TOP_MAX) return false;
  if (s->bias_id.n > MAX_BIAS || s->bias_id.n != s->bias_value.n) return false;
  for (uint32_t i = 0; i < s->bias_id.n; i++) {
    if (s->bias_id.v[i] >= vocab || !within(s->bias_value.v[i], -FLT_MAX, FLT_MAX)) return false;
  }
  return true;
}

static bool servable(const ti_coord *c, ti_request_spec *s) {
  const ti_coord_config *k = &c->cfg;
  if (!s->ids || !s->log || s->n_prompt == 0 || s->n_choice == 0 || s->n_choice > MAX_CHOICES || s->n_stop_id > MAX_STOP_IDS) return false;
  if (s->n_prompt > k->max_model_len || (s->n_prompt == k->max_model_len && s->max_tokens > 0)) return false;
  if (s->max_tokens > k->max_model_len - s->n_prompt) s->max_tokens = k->max_model_len - s->n_prompt;
  if (s->min_tokens > s->max_tokens || !sampling_servable(&s->sampling, k->vocab)) return false;
  for (uint32_t i = 0; i < s->n_prompt; i++) {
    if (s->ids[i] >= k->vocab) return false;
  }
  for (uint32_t i = 0; i < s->n_stop_id; i++) {
    if (s->stop_id[i] >= k->vocab) return false;
  }
  return true;
}

static ti_status enter(ti_coord *c, ti_request_spec *spec, uint64_t *id) {
  if (!servable(c, spec)) return TI_ERR_RANGE;
  if (atomic_fetch_add_explicit(&c->n_waiting, 1, memory_order_relaxed) >= c->cfg.max_waiting) {
    atomic_fetch_sub_explicit(&c->n_waiting, 1, memory_order_relaxed);
    return TI_ERR_FULL;
  }
  ti_request *r;
  ti_status st = ti_request_create(spec, c->cfg.page_tokens, c->cfg.lookahead, ti_now_us(c->cfg.clock), &r);
  const uint32_t n_page = atomic_load_explicit(&c->n_page, memory_order_relaxed);
  if (!st && n_page && r->max_pages > n_page) {
    r->spec = NULL;  // stays the caller's
    ti_request_destroy(r);
    st = TI_ERR_RANGE;
  }
  if (st) {
    atomic_fetch_sub_explicit(&c->n_waiting, 1, memory_order_relaxed);
    return st;
  }
  *id = spec->id = atomic_fetch_add_explicit(&c->next_id, 1, memory_order_relaxed);
  r->mail.kind = TI_MAIL_SUBMIT;
  ti_inbox_push(&c->mail, &r->mail.node);
  return TI_OK;
}

ti_status ti_coord_submit(ti_coord *c, ti_request_spec *spec, uint64_t *id) {
  atomic_fetch_add(&c->n_entering, 1);  // before the look at `closed`: a drain waits for whoever passed it
  const ti_status st = atomic_load(&c->closed) ? TI_ERR_CLOSED : enter(c, spec, id);
  if (st) atomic_fetch_sub(&c->n_entering, 1);
  return st;
}

static void send_choice(ti_coord *c, ti_mail_kind kind, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens) {
  choice_mail *m = malloc(sizeof *m);
  if (!m) {
    ti_log_error("coordinator: no memory to end request %lu early: it runs on", (unsigned long)id);
    return;
  }
  *m = (choice_mail){.mail.kind = kind, .id = id, .choice = choice, .n_tokens = n_tokens, .reason = reason};
  ti_inbox_push(&c->mail, &m->mail.node);
}

void ti_coord_cancel(ti_coord *c, uint64_t id) { send_choice(c, TI_MAIL_CANCEL, id, 0, TI_FINISH_CANCEL, 0); }

void ti_coord_finish(ti_coord *c, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens) {
  if (reason > TI_FINISH_NONE && reason < TI_FINISH_COUNT) send_choice(c, TI_MAIL_FINISH, id, choice, reason, n_tokens);
}

void ti_coord_drain(ti_coord *c, uint64_t timeout_us) {
  atomic_store(&c->closed, true);
  if (atomic_exchange(&c->drain_asked, true)) return;
  c->drain.timeout_us = timeout_us;
  c->drain.mail.kind = TI_MAIL_DRAIN;
  ti_inbox_push(&c->mail, &c->drain.mail.node);
}

// ---- the loop ----

static void take_choice(ti_coord *c, choice_mail *m) {
  ti_request *r = ti_coord_lookup(c, m->id);
  if (r && m->mail.kind == TI_MAIL_CANCEL) {
    if (r->n_done < r->spec->n_choice) ti_request_end(c, r, TI_FINISH_CANCEL, NULL);
  } else if (r && m->choice < r->spec->n_choice) {
    ti_seq_end(c, &r->seq[m->choice], m->reason, m->n_tokens, NULL);
    ti_request_unref(c, r);
  }
  free(m);
}

void ti_mail_take(ti_coord *c, ti_mail *m) {
  switch (m->kind) {
    case TI_MAIL_SUBMIT:
      ti_coord_admit(c, (ti_request *)m);
      atomic_fetch_sub(&c->n_entering, 1);
      break;
    case TI_MAIL_CANCEL:
    case TI_MAIL_FINISH:
      take_choice(c, (choice_mail *)m);
      break;
    case TI_MAIL_DRAIN:
      c->draining = true;
      c->drain_until_us = c->now_us + c->drain.timeout_us < c->now_us ? UINT64_MAX : c->now_us + c->drain.timeout_us;
      break;
  }
}
