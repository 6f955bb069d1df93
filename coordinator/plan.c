// Building a step's plan in memory made at start (see plan.h).
#include "coordinator/plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// Ids assigned by one plan (a bias entry counts as two): 4 bytes each on the wire, 16 MB of its 64; the rest is admitted by the next.
enum { PLAN_MAX_IDS = 4 << 20 };

static uint32_t assign_ids(const ti_seq *s) {
  const ti_request_spec *q = s->req->spec;
  return ti_seq_known(s) + 2 * q->sampling.bias_id.n + q->n_stop_id;
}

ti_status ti_plan_init(ti_plan *p, uint32_t max_seqs, uint32_t max_context) {
  const size_t n = max_seqs;
  const size_t each =
      sizeof(ti_slot_assign) + sizeof(ti_plan_kept) + sizeof(ti_slot_pages) + sizeof(ti_plan_row) + sizeof(ti_page_copy) + sizeof(uint32_t);
  *p = (ti_plan){.max_ids = max_context < PLAN_MAX_IDS / 2 ? 2 * max_context : max_context};
  p->mem = calloc(n, each);
  p->ids = malloc((size_t)p->max_ids * sizeof *p->ids);
  if (!p->mem || !p->ids) {
    ti_plan_fini(p);
    return TI_ERR_NOMEM;
  }
  p->msg.assign = p->mem;
  p->kept = (ti_plan_kept *)(p->msg.assign + n);
  p->msg.pages = (ti_slot_pages *)(p->kept + n);
  p->msg.row = (ti_plan_row *)(p->msg.pages + n);
  p->msg.copy = (ti_page_copy *)(p->msg.row + n);
  p->msg.release.v = (uint32_t *)(p->msg.copy + n);
  return TI_OK;
}

void ti_plan_fini(ti_plan *p) {
  free(p->mem);
  free(p->ids);
  *p = (ti_plan){0};
}

void ti_plan_clear(ti_plan *p) {
  p->msg.release.n = p->msg.n_assign = p->msg.n_pages = p->msg.n_copy = p->msg.n_row = 0;
  p->n_token = p->n_ids = p->n_assigned = 0;
  p->prefill = p->gather = p->drafting = false;
}

bool ti_plan_has_room(const ti_plan *p, const ti_seq *s) {
  const uint32_t n = ti_seq_known(s);
  if (s->n_gen && n > p->max_ids - p->n_ids) return false;
  return p->n_assigned == 0 || assign_ids(s) + p->n_assigned <= PLAN_MAX_IDS;
}

void ti_plan_add_assign(ti_plan *p, const ti_seq *s, uint32_t n_cached) {
  const ti_request_spec *q = s->req->spec;
  ti_slot_assign *a = &p->msg.assign[p->msg.n_assign++];
  *a = (ti_slot_assign){.slot = s->slot,
                        .request = q->id,
                        .ids = {q->ids, q->n_prompt},
                        .n_prompt = q->n_prompt,
                        .n_cached = n_cached,
                        .max_tokens = q->max_tokens,
                        .min_tokens = q->min_tokens,
                        .ignore_eos = q->ignore_eos,
                        .stop_id = {q->stop_id, q->n_stop_id},
                        .sampling = q->sampling};
  a->sampling.choice = s->choice;
  if (!s->scoring) a->sampling.n_prompt_logprob = -1;
  if (s->n_gen) {
    uint32_t *ids = p->ids + p->n_ids;
    memcpy(ids, q->ids, q->n_prompt * sizeof *ids);
    memcpy(ids + q->n_prompt, ti_tokenlog_ids(s->log), s->n_gen * sizeof *ids);
    a->ids = (ti_u32s){ids, q->n_prompt + s->n_gen};
    p->n_ids += a->ids.n;
  }
  p->n_assigned += assign_ids(s);
}

void ti_plan_add_pages(ti_plan *p, const ti_seq *s, uint32_t first) {
  p->msg.pages[p->msg.n_pages++] = (ti_slot_pages){.slot = s->slot, .first = first, .pages = {s->page + first, s->n_page - first}};
}

void ti_plan_add_copy(ti_plan *p, uint32_t src, uint32_t dst, uint32_t n_token) {
  p->msg.copy[p->msg.n_copy++] = (ti_page_copy){.src = src, .dst = dst, .n_token = n_token};
}

void ti_plan_add_row(ti_plan *p, ti_seq *s, uint32_t n_token, bool decode, uint32_t max_draft) {
  const bool complete = decode || s->n_kv + n_token == s->n_fill;
  const bool sample = complete && s->req->spec->max_tokens > 0;
  p->kept[p->msg.n_row] = (ti_plan_kept){.seq = s, .place0 = s->n_kv, .ends = complete && !sample};
  p->msg.row[p->msg.n_row++] = (ti_plan_row){.slot = s->slot, .n_token = n_token, .decode = decode, .sample = sample, .max_draft = max_draft};
  p->n_token += n_token + max_draft;
  p->prefill |= !decode;
  p->gather |= (sample || s->scoring) && ti_seq_needs_gather(s);
  s->n_kv += n_token;
  s->n_pending += sample;
  s->n_draft += max_draft;
}
