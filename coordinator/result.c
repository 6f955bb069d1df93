// Checking and applying a step's result (see result.h).
#include "coordinator/result.h"

#include <math.h>

// How many prompt logprobs the row's chunk yields: one for each place whose next token is a prompt token.
static uint32_t n_scores(const ti_plan_kept *k, const ti_plan_row *row) {
  const uint32_t last = k->seq->req->spec->n_prompt - 1;
  if (k->place0 >= last) return 0;
  return row->n_token < last - k->place0 ? row->n_token : last - k->place0;
}

static ti_status check_row(const ti_plan *p, uint32_t i, const ti_result_row *r, ti_error *err) {
  const ti_plan_row *row = &p->msg.row[i];
  const ti_seq *s = p->kept[i].seq;
  if (r->slot != row->slot)
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.row[%u].slot: %u, but the plan has slot %u there", i, r->slot, row->slot);
  const uint32_t most = row->sample ? 1 + row->max_draft : 0, least = row->sample && s->state != TI_SEQ_DONE ? 1 : 0;
  if (r->token.n < least || r->token.n > most)
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.row[%u].token: %u tokens, expected %u..%u", i, r->token.n, least, most);
  const uint32_t scores = n_scores(&p->kept[i], row);
  if (r->prompt_logprob.n > scores || (s->state != TI_SEQ_DONE && s->scoring && r->prompt_logprob.n != scores))
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.row[%u].prompt_logprob: %u entries, expected %u", i, r->prompt_logprob.n, scores);
  return TI_OK;
}

static ti_status check(const ti_group *g, const ti_step_result *res, ti_error *err) {
  const ti_plan *p = &g->plan[g->oldest];
  if (g->n_flight == 0 || res->step != p->msg.step)
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.step: %lu, expected %ld", (unsigned long)res->step, g->n_flight ? (long)p->msg.step : -1L);
  if (res->n_row != p->msg.n_row) return ti_error_set(err, TI_ERR_FORMAT, "StepResult.row: %u rows, the plan has %u", res->n_row, p->msg.n_row);
  for (uint32_t i = 0; i < res->n_row; i++) {
    const ti_status st = check_row(p, i, &res->row[i], err);
    if (st) return st;
  }
  return TI_OK;
}

// Prompt logprobs go to all choices' logs: the prompt is theirs too. Those of a chunk that was computed before a preemption are there already.
static void apply_scores(ti_request *r, const ti_plan_kept *k, const ti_result_row *row) {
  static const float nothing = NAN;
  const uint32_t n = row->prompt_logprob.n, first = k->place0 + 1;
  if (r->spec->sampling.n_prompt_logprob < 0) return;
  const bool begin = r->n_scored == 0 && k->place0 == 0;
  const uint32_t have = begin ? 1 : r->n_scored, skip = have > first ? have - first : 0;
  if (have < first) return;
  for (uint32_t i = 0; i < r->spec->n_choice; i++) {
    ti_tokenlog *l = r->seq[i].log;
    ti_status st = begin ? ti_tokenlog_append_prompt(l, 1, &nothing, NULL, NULL) : TI_OK;
    if (!st && skip < n) {
      st = ti_tokenlog_append_prompt(l, n - skip, row->prompt_logprob.v + skip, row->prompt_rank.n ? row->prompt_rank.v + skip : NULL,
                                     row->n_prompt_top ? row->prompt_top + skip : NULL);
    }
    if (!st) ti_tokenlog_ring(l);  // FULL: its maker did not ask for any; CLOSED: that choice has ended
  }
  r->n_scored = skip < n ? first + n : have;
}

static void time_tokens(ti_coord *c, ti_seq *s) {
  if (s->last_token_us) {
    ti_meter_observe_us(c->meter.itl, c->now_us - s->last_token_us);
  } else {
    ti_meter_observe_us(c->meter.ttft, ti_coord_since(c, s->req->submit_us));
  }
  s->last_token_us = c->now_us;
}

static void apply_tokens(ti_coord *c, ti_seq *s, const ti_plan_kept *k, const ti_result_row *r) {
  const ti_request_spec *q = s->req->spec;
  if (k->ends) {
    ti_seq_end(c, s, TI_FINISH_LENGTH, 0, NULL);
    return;
  }
  if (r->token.n) {
    const ti_status st = ti_tokenlog_append(s->log, r->token.v, r->token.n, r->logprob.v, r->rank.v, r->top);
    if (st) {  // the log was made for fewer tokens than the request asks for
      ti_seq_end(c, s, TI_FINISH_LENGTH, s->n_gen, NULL);
      return;
    }
    s->n_gen += r->token.n;
    s->n_pending--;
    if (s->state == TI_SEQ_RUNNING) s->n_kv += r->token.n - 1;  // drafts that stay
    c->now.generation_tokens += r->token.n;
    time_tokens(c, s);
  }
  if (r->finish != TI_FINISH_NONE) {
    ti_seq_end(c, s, (ti_finish)r->finish, s->n_gen, r->finish == TI_FINISH_ERROR ? "the worker could not compute the next token" : NULL);
  } else if (r->token.n && s->n_gen >= q->max_tokens) {
    ti_seq_end(c, s, TI_FINISH_LENGTH, s->n_gen, NULL);
  } else {
    ti_tokenlog_ring(s->log);
    if (s->state == TI_SEQ_PREEMPTED && s->inflight == 0) ti_seq_enqueue(c, s);
  }
}

ti_status ti_result_apply(ti_coord *c, ti_group *g, const ti_step_result *res, ti_error *err) {
  const ti_status st = check(g, res, err);
  if (st) return st;
  const ti_plan *p = &g->plan[g->oldest];
  g->oldest = (g->oldest + 1) % c->cfg.steps_in_flight;
  g->n_flight--;
  g->oldest_us = c->now_us;
  if (!c->cfg.lockstep || g->index == 0) c->now.steps++;
  uint32_t n_token = 0, n_draft = 0, n_kept = 0;
  for (uint32_t i = 0; i < res->n_row; i++) {
    const ti_plan_kept *k = &p->kept[i];
    ti_seq *s = k->seq;
    ti_request *r = s->req;
    s->inflight--;
    r->inflight--;
    if (s->state == TI_SEQ_RUNNING) s->n_draft -= p->msg.row[i].max_draft;
    n_token += res->row[i].token.n;
    n_draft += res->row[i].n_draft;
    n_kept += res->row[i].n_accepted;
    if (res->row[i].prompt_logprob.n || (s->scoring && k->place0 == 0)) apply_scores(r, k, &res->row[i]);
    if (s->state != TI_SEQ_DONE) apply_tokens(c, s, k, &res->row[i]);
    ti_request_unref(c, r);
  }
  if (c->cfg.max_draft) {
    if (!p->prefill) ti_draft_switch_learn(&g->draft, p->drafting, n_token, res->times.total_us);
    ti_meter_add(c->meter.draft_tokens, n_draft);
    ti_meter_add(c->meter.accepted_tokens, n_kept);
  }
  ti_meter_observe_us(c->meter.step, res->times.total_us);
  ti_meter_add(c->meter.in_flight, -1);
  if (c->cfg.lockstep) {
    ti_meter_observe_us(c->meter.dispatch, res->times.dispatch_us);
    ti_meter_observe_us(c->meter.expert, res->times.expert_us);
    ti_meter_observe_us(c->meter.combine, res->times.combine_us);
    ti_meter_observe_us(c->meter.exposed, res->times.exposed_us);
  }
  return TI_OK;
}
