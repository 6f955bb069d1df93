#include "worker/slots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

// One allocation: [ti_slot x n][ids][tables][stop][bias ids][bias values]; calloc gives zero pages, so what is not used is not touched.
ti_status ti_slots_init(ti_slots *s, uint32_t n_slot, uint32_t max_context, uint32_t page_tokens, uint32_t n_page, uint32_t vocab) {
  *s = (ti_slots){.n_slot = n_slot, .max_context = max_context, .page_tokens = page_tokens, .n_page = n_page, .vocab = vocab};
  s->max_pages = (max_context + page_tokens - 1) / page_tokens + 8;  // room for drafts that reach over the end
  const size_t per = sizeof(ti_slot) + 4 * ((size_t)max_context + s->max_pages + TI_SLOT_STOP_IDS + 2 * TI_SLOT_BIAS);
  size_t bytes;
  if (!ti_size_mul(per, n_slot, &bytes)) return TI_ERR_NOMEM;
  s->mem = calloc(1, bytes);
  if (!s->mem) return TI_ERR_NOMEM;
  s->slot = s->mem;
  int32_t *at = (int32_t *)(s->slot + n_slot);
  for (uint32_t i = 0; i < n_slot; i++) {
    ti_slot *t = &s->slot[i];
    t->ids = at;
    t->table = t->ids + max_context;
    t->stop = (uint32_t *)(t->table + s->max_pages);
    t->bias_id = (int32_t *)(t->stop + TI_SLOT_STOP_IDS);
    t->bias_value = (float *)(t->bias_id + TI_SLOT_BIAS);
    at = (int32_t *)(t->bias_value + TI_SLOT_BIAS);
  }
  return TI_OK;
}

void ti_slots_fini(ti_slots *s) {
  free(s->mem);
  *s = (ti_slots){0};
}

static void slot_release(ti_slots *s, uint32_t i) {
  ti_slot *t = &s->slot[i];
  t->used = t->finished = t->stopped = t->penalised = false;
  t->life++;
  t->row_step = 0;
  t->n_ids = t->n_kv = t->n_prompt = t->n_page = t->n_stop = t->n_bias = t->n_draft = t->draft_len = t->n_pending = 0;
}

void ti_slots_reset(ti_slots *s) {
  for (uint32_t i = 0; i < s->n_slot; i++) slot_release(s, i);
}

static ti_status check_assign(const ti_slots *s, const ti_slot_assign *a, uint32_t i, ti_error *err) {
  if (a->slot >= s->n_slot) return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u].slot %u is out of 0..%u", i, a->slot, s->n_slot - 1);
  if (s->slot[a->slot].used) return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u]: slot %u is in use by request %lu", i, a->slot, (unsigned long)s->slot[a->slot].request);
  if (a->ids.n == 0 || a->ids.n > s->max_context)
    return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u]: %u ids, expected 1..%u", i, a->ids.n, s->max_context);
  if (a->n_prompt == 0 || a->n_prompt > a->ids.n || a->n_cached >= a->ids.n)
    return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u]: n_prompt %u and n_cached %u do not fit %u ids", i, a->n_prompt, a->n_cached, a->ids.n);
  if (a->stop_id.n > TI_SLOT_STOP_IDS || a->sampling.bias_id.n > TI_SLOT_BIAS || a->sampling.bias_id.n != a->sampling.bias_value.n)
    return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u]: %u stop ids (at most %d), %u bias entries (at most %d)", i, a->stop_id.n, TI_SLOT_STOP_IDS,
                        a->sampling.bias_id.n, TI_SLOT_BIAS);
  for (uint32_t k = 0; k < a->ids.n; k++)
    if (a->ids.v[k] >= s->vocab) return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u].ids[%u]: %u is not below the vocabulary of %u", i, k, a->ids.v[k], s->vocab);
  for (uint32_t k = 0; k < a->sampling.bias_id.n; k++)
    if (a->sampling.bias_id.v[k] >= s->vocab) return ti_error_set(err, TI_ERR_FORMAT, "plan: assign[%u].bias_id[%u]: %u is not below %u", i, k, a->sampling.bias_id.v[k], s->vocab);
  return TI_OK;
}

static void slot_assign(ti_slots *s, const ti_slot_assign *a) {
  ti_slot *t = &s->slot[a->slot];
  t->used = true;
  t->life++;
  t->request = a->request;
  t->n_ids = a->ids.n;
  t->n_kv = a->n_cached;
  t->n_prompt = a->n_prompt;
  t->max_tokens = a->max_tokens;
  t->min_tokens = a->min_tokens;
  t->ignore_eos = a->ignore_eos;
  t->sampling = a->sampling;
  if (t->sampling.temperature < TI_SLOT_COLD) t->sampling.temperature = 0;
  t->n_stop = a->stop_id.n;
  t->n_bias = a->sampling.bias_id.n;
  memcpy(t->ids, a->ids.v, a->ids.n * sizeof *t->ids);
  if (t->n_stop) memcpy(t->stop, a->stop_id.v, t->n_stop * sizeof *t->stop);
  if (t->n_bias) {
    memcpy(t->bias_id, a->sampling.bias_id.v, t->n_bias * sizeof *t->bias_id);
    memcpy(t->bias_value, a->sampling.bias_value.v, t->n_bias * sizeof *t->bias_value);
  }
  t->penalised = a->sampling.repetition != 1.0f || a->sampling.frequency != 0.0f || a->sampling.presence != 0.0f;
}

ti_status ti_slots_apply(ti_slots *s, const ti_step_plan *plan, ti_error *err) {
  for (uint32_t i = 0; i < plan->release.n; i++) {
    const uint32_t k = plan->release.v[i];
    if (k >= s->n_slot) return ti_error_set(err, TI_ERR_FORMAT, "plan: release[%u]: %u is out of 0..%u", i, k, s->n_slot - 1);
    slot_release(s, k);
  }
  for (uint32_t i = 0; i < plan->n_assign; i++) {
    const ti_status st = check_assign(s, &plan->assign[i], i, err);
    if (st) return st;
    slot_assign(s, &plan->assign[i]);
  }
  for (uint32_t i = 0; i < plan->n_pages; i++) {
    const ti_slot_pages *p = &plan->pages[i];
    if (p->slot >= s->n_slot || !s->slot[p->slot].used) return ti_error_set(err, TI_ERR_FORMAT, "plan: pages[%u]: slot %u is not assigned", i, p->slot);
    ti_slot *t = &s->slot[p->slot];
    if (p->first > t->n_page || p->pages.n > s->max_pages - p->first)
      return ti_error_set(err, TI_ERR_FORMAT, "plan: pages[%u]: entries %u..%u of slot %u, which has %u of at most %u", i, p->first, p->first + p->pages.n, p->slot, t->n_page, s->max_pages);
    for (uint32_t k = 0; k < p->pages.n; k++) {
      if (p->pages.v[k] >= s->n_page) return ti_error_set(err, TI_ERR_FORMAT, "plan: pages[%u].pages[%u]: %u is out of 0..%u", i, k, p->pages.v[k], s->n_page - 1);
      t->table[p->first + k] = (int32_t)p->pages.v[k];
    }
    t->n_page = p->first + p->pages.n;
  }
  for (uint32_t i = 0; i < plan->n_row; i++) {
    if (plan->row[i].slot >= s->n_slot) continue;  // the batch refuses it
    ti_slot *t = &s->slot[plan->row[i].slot];
    if (t->row_step == plan->step + 1) return ti_error_set(err, TI_ERR_FORMAT, "plan: row[%u]: a second row of slot %u", i, plan->row[i].slot);
    t->row_step = plan->step + 1;
  }
  return TI_OK;
}

static bool is_last(const ti_slots *s, const ti_slot *t, uint32_t place) { return place + 1 - t->n_prompt >= t->max_tokens || place + 1 >= s->max_context; }

uint32_t ti_slot_expect(ti_slots *s, uint32_t slot) {
  ti_slot *t = &s->slot[slot];
  const uint32_t place = t->n_ids++;
  if (t->n_draft == 0) t->ids[place] = TI_SLOT_PENDING;
  t->n_pending++;
  t->finished |= is_last(s, t, place);
  return place;
}

ti_finish ti_slot_fill(ti_slots *s, uint32_t slot, uint32_t place, int32_t id, const int *eos, int n_eos) {
  ti_slot *t = &s->slot[slot];
  t->ids[place] = id;
  t->n_pending--;
  bool stop = false;
  if (place + 1 - t->n_prompt >= t->min_tokens) {
    for (int k = 0; k < n_eos && !t->ignore_eos; k++) stop |= id == eos[k];
    for (uint32_t k = 0; k < t->n_stop; k++) stop |= (uint32_t)id == t->stop[k];
  }
  if (stop) t->finished = t->stopped = true;
  return stop ? TI_FINISH_STOP : is_last(s, t, place) ? TI_FINISH_LENGTH : TI_FINISH_NONE;
}
