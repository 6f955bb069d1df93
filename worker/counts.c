#include "worker/counts.h"

#include <stdlib.h>
#include <string.h>

ti_status ti_counts_init(ti_counts *c, const ti_kernels *k, ti_dev *d, uint32_t n_slot, uint32_t vocab) {
  const size_t cells = (size_t)n_slot * vocab;
  *c = (ti_counts){.k = k, .d = d, .n_slot = n_slot, .vocab = vocab, .device_bytes = 3 * cells + 5 * (uint64_t)n_slot};
  c->out_count = k->alloc(d, cells * sizeof *c->out_count);
  c->in_prompt = k->alloc(d, cells);
  c->counted = k->alloc(d, n_slot);
  c->last = k->alloc(d, n_slot * sizeof *c->last);
  c->h_counted = calloc(n_slot, 1);
  c->stage = malloc(3 * (size_t)vocab);
  if (c->out_count && c->in_prompt && c->counted && c->last && c->h_counted && c->stage) return TI_OK;
  ti_counts_fini(c);
  return TI_ERR_NOMEM;
}

void ti_counts_fini(ti_counts *c) {
  void *p[] = {c->out_count, c->in_prompt, c->counted, c->last};
  for (size_t i = 0; i < sizeof p / sizeof *p; i++)
    if (p[i]) c->k->free(c->d, p[i]);
  free(c->h_counted);
  free(c->stage);
  *c = (ti_counts){0};
}

static ti_status forget(ti_counts *c, uint32_t slot) {
  if (!c->h_counted[slot]) return TI_OK;
  c->h_counted[slot] = 0;
  c->n_counted--;
  const size_t at = (size_t)slot * c->vocab;
  const ti_status st = c->k->zero(c->d, c->out_count + at, c->vocab * sizeof *c->out_count);
  return st ? st : c->k->zero(c->d, c->in_prompt + at, c->vocab);
}

static ti_status learn(ti_counts *c, const ti_slot *t, uint32_t slot) {
  uint16_t *count = (uint16_t *)(void *)c->stage;
  uint8_t *seen = c->stage + c->vocab * sizeof *count;
  memset(c->stage, 0, 3 * (size_t)c->vocab);
  for (uint32_t i = 0; i < t->n_prompt; i++) seen[t->ids[i]] = 1;
  for (uint32_t i = t->n_prompt; i < t->n_ids; i++) count[t->ids[i]] = (uint16_t)(count[t->ids[i]] + (count[t->ids[i]] < UINT16_MAX));
  c->h_counted[slot] = 1;
  c->n_counted++;
  const size_t at = (size_t)slot * c->vocab;
  const ti_status st = c->k->upload(c->d, c->out_count + at, count, c->vocab * sizeof *count);
  return st ? st : c->k->upload(c->d, c->in_prompt + at, seen, c->vocab);
}

ti_status ti_counts_apply(ti_counts *c, const ti_slots *s, const ti_step_plan *plan) {
  bool changed = false;
  ti_status st = TI_OK;
  for (uint32_t i = 0; !st && i < plan->release.n; i++) {
    changed |= c->h_counted[plan->release.v[i]] != 0;
    st = forget(c, plan->release.v[i]);
  }
  for (uint32_t i = 0; !st && i < plan->n_assign; i++) {
    const uint32_t slot = plan->assign[i].slot;
    if (!s->slot[slot].penalised) continue;
    changed = true;
    st = learn(c, &s->slot[slot], slot);
  }
  return st || !changed ? st : c->k->upload(c->d, c->counted, c->h_counted, c->n_slot);
}

ti_status ti_counts_reset(ti_counts *c) {
  ti_status st = TI_OK;
  for (uint32_t i = 0; !st && i < c->n_slot; i++) st = forget(c, i);
  return st ? st : c->k->upload(c->d, c->counted, c->h_counted, c->n_slot);
}
