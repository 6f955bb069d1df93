#include "worker/flight.h"

#include <stdlib.h>

#include "worker/spec/draft.h"

ti_status ti_flight_init(ti_flight *f, const ti_kernels *k, ti_dev *d, uint32_t max_rows, uint32_t max_seqs) {
  *f = (ti_flight){0};
  f->slot = calloc(max_seqs, sizeof *f->slot);
  f->row = calloc(max_seqs, sizeof *f->row);
  f->job = calloc(max_rows, sizeof *f->job);
  const ti_status st = ti_sample_out_init(&f->out, k, d, (int)max_rows);
  if (!st && f->slot && f->row && f->job) return TI_OK;
  ti_flight_fini(f, k, d);
  return TI_ERR_NOMEM;
}

void ti_flight_fini(ti_flight *f, const ti_kernels *k, ti_dev *d) {
  ti_sample_out_fini(&f->out, k, d);
  free(f->slot);
  free(f->row);
  free(f->job);
  *f = (ti_flight){0};
}

void ti_flight_begin(ti_flight *f, const ti_step_plan *plan) {
  f->epoch = plan->epoch;
  f->step = plan->step;
  f->n_plan_row = plan->n_row;
  f->n_token = 0;
  f->n_row = f->n_job = 0;
  f->drafted = false;
  for (uint32_t i = 0; i < plan->n_row; i++) f->slot[i] = plan->row[i].slot;
}

// Logprobs of a chunk's prompt tokens: row i predicts token place0 + i + 1.
static void add_prompt(ti_flight *f, const ti_slot *t, const ti_seq_ref *q, int row0, ti_flight_row *r) {
  if (t->sampling.n_prompt_logprob < 0 || q->place0 + 1 >= t->n_prompt) return;
  const uint32_t n = q->place0 + q->n_row < t->n_prompt ? q->n_row : t->n_prompt - 1 - q->place0;
  r->prompt = f->n_job;
  r->n_prompt = (int)n;
  for (uint32_t i = 0; i < n; i++)
    f->job[f->n_job++] = (ti_sample_job){.row = row0 + (int)i,
                                         .slot = q->slot,
                                         .target = t->ids[q->place0 + i + 1],
                                         .position = q->place0 + i + 1,
                                         .n_logprob = t->sampling.n_prompt_logprob};
}

void ti_flight_add(ti_flight *f, ti_slots *s, const ti_step_batch *b, int *first) {
  const int row0 = f->n_row;
  *first = f->n_job;
  f->n_token += (uint32_t)b->n_token;
  for (int q = 0; q < b->n_seq; q++) {
    const ti_seq_ref *ref = &b->seq[q];
    ti_slot *t = &s->slot[ref->slot];
    ti_flight_row *r = &f->row[f->n_row++];
    *r = (ti_flight_row){.slot = ref->slot, .plan_row = ref->plan_row, .life = t->life, .n_draft = ref->n_draft, .draw = -1};
    t->n_kv += ref->n_row - ref->n_draft;
    f->drafted |= ref->n_draft > 0;
    add_prompt(f, t, ref, b->h_row0[q], r);
  }
  for (int q = 0; q < b->n_seq; q++) {
    const ti_seq_ref *ref = &b->seq[q];
    if (!ref->sample) continue;
    ti_flight_row *r = &f->row[row0 + q];
    r->draw = f->n_job;
    r->place = ti_slot_expect(s, ref->slot);
    for (uint32_t j = 0; j <= ref->n_draft; j++)
      f->job[f->n_job++] = (ti_sample_job){.row = b->h_row0[q] + (int)(ref->n_row - 1 - (ref->n_draft - j)),
                                           .slot = ref->slot,
                                           .target = -1,
                                           .position = r->place + j,
                                           .n_logprob = s->slot[ref->slot].sampling.n_logprob};
  }
}

static ti_status land_prompt(const ti_flight *f, const ti_flight_row *r, ti_arena *arena, ti_result_row *out, ti_error *err) {
  if (r->n_prompt == 0) return TI_OK;
  const uint32_t n = (uint32_t)r->n_prompt;
  const bool best = f->job[r->prompt].n_logprob > 0;
  float *lp = ti_arena_calloc(arena, n, sizeof *lp);
  uint32_t *rank = ti_arena_calloc(arena, n, sizeof *rank);
  ti_top_logprob *top = best ? ti_arena_calloc(arena, n, sizeof *top) : NULL;
  if (!lp || !rank || (best && !top)) return ti_error_set(err, TI_ERR_NOMEM, "prompt logprobs of %u tokens", n);
  for (uint32_t i = 0; i < n; i++) {
    const ti_sampled x = ti_sample_result(&f->out, f->job, r->prompt + (int)i);
    lp[i] = x.logprob;
    rank[i] = (uint32_t)x.rank;
    if (top) ti_sample_top(&f->out, f->job, r->prompt + (int)i, &top[i]);
  }
  out->prompt_logprob = (ti_f32s){lp, n};
  out->prompt_rank = (ti_u32s){rank, n};
  out->prompt_top = top;
  out->n_prompt_top = top ? n : 0;
  return TI_OK;
}

// The drawn tokens of one sequence into its slot and its result row. Draft i is kept while it is what row i drew; the first that is not is replaced
// by the draw, and what was drawn after it is void.
static ti_status land_draws(const ti_flight *f, const ti_flight_row *r, ti_slots *s, const ti_config *model, ti_arena *arena, ti_result_row *out,
                            ti_error *err) {
  const uint32_t most = r->n_draft + 1;
  const int n_logprob = f->job[r->draw].n_logprob;
  ti_slot *t = &s->slot[r->slot];
  uint32_t *token = ti_arena_calloc(arena, 2 * (size_t)most, sizeof *token), *rank = token + most, n = 0;
  float *lp = ti_arena_calloc(arena, most, sizeof *lp);
  ti_top_logprob *top = n_logprob > 0 ? ti_arena_calloc(arena, most, sizeof *top) : NULL;
  if (!token || !lp || (n_logprob > 0 && !top)) return ti_error_set(err, TI_ERR_NOMEM, "results");
  for (bool right = true; right; n++) {
    const ti_sampled x = ti_sample_result(&f->out, f->job, r->draw + (int)n);
    const uint32_t place = n ? ti_slot_expect(s, r->slot) : r->place;
    const int32_t draft = n < r->n_draft ? t->ids[place] : -1;
    token[n] = (uint32_t)x.id;
    rank[n] = (uint32_t)x.rank;
    lp[n] = x.logprob;
    if (top) ti_sample_top(&f->out, f->job, r->draw + (int)n, &top[n]);
    out->finish = ti_slot_fill(s, r->slot, place, x.id, model->eos, model->n_eos);
    if (x.lost) {
      t->finished = t->stopped = true;
      out->finish = TI_FINISH_ERROR;
    }
    right = out->finish == TI_FINISH_NONE && x.id == draft;
  }
  t->n_kv += n - 1;  // the drafts that were fed and stay
  out->token = (ti_u32s){token, n};
  out->n_draft = r->n_draft;
  out->n_accepted = n - 1;
  ti_draft_learn(t, n - 1);
  if (n_logprob >= 0) {
    out->logprob = (ti_f32s){lp, n};
    out->rank = (ti_u32s){rank, n};
    out->top = top;
    out->n_top = top ? n : 0;
  }
  return TI_OK;
}

ti_status ti_flight_land(ti_flight *f, ti_slots *s, const ti_config *model, ti_arena *arena, ti_result_row **rows, ti_error *err) {
  ti_result_row *v = ti_arena_calloc(arena, f->n_plan_row ? f->n_plan_row : 1, sizeof *v);
  if (!v) return ti_error_set(err, TI_ERR_NOMEM, "plan: %u rows do not fit the step's arena", f->n_plan_row);
  for (uint32_t i = 0; i < f->n_plan_row; i++) v[i].slot = f->slot[i];
  ti_status st = TI_OK;
  for (int i = 0; !st && i < f->n_row; i++) {
    const ti_flight_row *r = &f->row[i];
    const ti_slot *t = &s->slot[r->slot];
    st = land_prompt(f, r, arena, &v[r->plan_row], err);
    if (!st && r->draw >= 0 && t->life == r->life && !t->stopped) st = land_draws(f, r, s, model, arena, &v[r->plan_row], err);
  }
  if (!st) *rows = v;
  return st;
}
