#include "tests/golden/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct live {  // a running sequence
  drive_seq *s;
  uint32_t slot, n_kv, n_ids, pages[4096], n_page;
  bool assigned;
} live;

typedef struct drive {
  ti_engine *e;
  ti_engine_facts f;
  const drive_options *o;
  uint32_t *free_page, n_free;
  live *run;
  uint32_t n_run, step;
  ti_arena plan_mem, result_mem;
} drive;

ti_sampling drive_greedy(void) { return (ti_sampling){.temperature = 0, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}; }

static void add_release(ti_step_plan *p, uint32_t slot) { ((uint32_t *)p->release.v)[p->release.n++] = slot; }

static void give_back(drive *d, live *l) {
  while (l->n_page) d->free_page[d->n_free++] = l->pages[--l->n_page];
  l->n_kv = 0;
  l->assigned = false;
}

static void assign(drive *d, ti_step_plan *p, live *l) {
  uint32_t *ids = ti_arena_alloc(&d->plan_mem, l->n_ids * sizeof *ids);
  memcpy(ids, l->s->prompt, l->s->n_prompt * sizeof *ids);
  memcpy(ids + l->s->n_prompt, l->s->out, (l->n_ids - l->s->n_prompt) * sizeof *ids);
  p->assign[p->n_assign++] = (ti_slot_assign){.slot = l->slot, .request = l->slot, .ids = {ids, l->n_ids}, .n_prompt = l->s->n_prompt, .max_tokens = l->s->max_tokens,
                                              .ignore_eos = l->s->ignore_eos, .sampling = l->s->sampling};
  l->assigned = true;
}

static void add_row(drive *d, ti_step_plan *p, live *l) {
  const uint32_t left = l->n_ids - l->n_kv, n = d->o->chunk && left > d->o->chunk ? d->o->chunk : left;
  const uint32_t draft = left == 1 ? d->o->max_draft : 0;
  const uint32_t need = (l->n_kv + n + draft + d->o->lookahead + d->f.page_tokens - 1) / d->f.page_tokens;
  if (need > l->n_page) {
    ti_slot_pages *sp = &p->pages[p->n_pages++];
    *sp = (ti_slot_pages){.slot = l->slot, .first = l->n_page, .pages = {&l->pages[l->n_page], need - l->n_page}};
    while (l->n_page < need) l->pages[l->n_page++] = d->free_page[--d->n_free];
  }
  p->row[p->n_row++] = (ti_plan_row){.slot = l->slot, .n_token = n, .decode = left == 1, .sample = n == left, .max_draft = draft};
  if (n > 1) p->form = TI_FORM_PREFILL;
  l->n_kv += n;
}

static void take_row(live *l, const ti_result_row *r) {
  drive_seq *s = l->s;
  for (uint32_t i = 0; i < r->prompt_logprob.n; i++) s->prompt_nll -= r->prompt_logprob.v[i];
  for (uint32_t i = 0; i < r->token.n; i++) {
    if (r->logprob.n) s->logprob[s->n_out] = r->logprob.v[i];
    s->out[s->n_out++] = r->token.v[i];
    l->n_ids++;
  }
  l->n_kv += r->n_accepted;
  s->n_accepted += r->n_accepted;
  s->finish = r->finish;
}

static int one_step(drive *d) {
  ti_arena_reset(&d->plan_mem);
  ti_arena_reset(&d->result_mem);
  const uint32_t n = d->o->batch;
  ti_step_plan p = {.step = d->step, .n_micro = d->o->n_micro ? d->o->n_micro : 1, .gather_logits = true, .release.v = ti_arena_calloc(&d->plan_mem, n, 4)};
  p.assign = ti_arena_calloc(&d->plan_mem, n, sizeof *p.assign);
  p.pages = ti_arena_calloc(&d->plan_mem, n, sizeof *p.pages);
  p.row = ti_arena_calloc(&d->plan_mem, n, sizeof *p.row);
  if (d->o->preempt && d->n_run && d->step % d->o->preempt == d->o->preempt - 1) {
    live *l = &d->run[(d->step / d->o->preempt) % d->n_run];
    if (l->assigned && l->n_ids - l->n_kv == 1) {  // one that decodes: all get on, however short the chunks
      add_release(&p, l->slot);
      give_back(d, l);
    }
  }
  for (uint32_t i = 0; i < d->n_run; i++)
    if (!d->run[i].assigned) assign(d, &p, &d->run[i]);
  for (uint32_t i = 0; i < d->n_run; i++) add_row(d, &p, &d->run[i]);
  ti_step_result r;
  ti_error err = {0};
  if (ti_engine_step(d->e, &p, &d->result_mem, &r, &err)) {
    fprintf(stderr, "driver: step %u: %s\n", d->step, err.text);
    return 1;
  }
  for (uint32_t i = 0; i < r.n_row; i++) take_row(&d->run[i], &r.row[i]);
  d->step++;
  return 0;
}

// Sequences that ended leave; their slots are released by an own, empty plan.
static int retire(drive *d, uint32_t *free_slot, uint32_t *n_free_slot) {
  uint32_t slots[4096], k = 0;
  for (uint32_t i = 0; i < d->n_run;) {
    live *l = &d->run[i];
    if (l->s->finish == TI_FINISH_NONE) {
      i++;
      continue;
    }
    slots[k++] = l->slot;
    free_slot[(*n_free_slot)++] = l->slot;
    give_back(d, l);
    d->run[i] = d->run[--d->n_run];
  }
  if (k == 0) return 0;
  ti_arena_reset(&d->result_mem);
  ti_step_result r;
  ti_error err = {0};
  const ti_step_plan p = {.step = d->step++, .n_micro = 1, .gather_logits = true, .release = {slots, k}};
  const ti_status st = ti_engine_step(d->e, &p, &d->result_mem, &r, &err);
  if (st) fprintf(stderr, "driver: release: %s\n", err.text);
  return st != TI_OK;
}

int drive_run(ti_engine *e, drive_seq *seq, uint32_t n_seq, const drive_options *o) {
  drive d = {.e = e, .o = o};
  ti_engine_get_facts(e, &d.f);
  ti_engine_reset(e);
  ti_arena_init(&d.plan_mem, 1 << 28);
  ti_arena_init(&d.result_mem, 1 << 28);
  d.free_page = calloc(d.f.n_page, sizeof *d.free_page);
  d.run = calloc(o->batch, sizeof *d.run);
  uint32_t *slot = calloc(o->batch, sizeof *slot), n_slot = 0, next = 0;
  for (uint32_t i = 0; i < d.f.n_page; i++) d.free_page[d.n_free++] = o->scatter ? (uint32_t)((i * 7919ull) % d.f.n_page) : d.f.n_page - 1 - i;
  if (o->scatter && d.f.n_page % 7919 == 0) return fprintf(stderr, "driver: page count divides by 7919\n"), 1;
  for (uint32_t i = 0; i < o->batch; i++) slot[n_slot++] = i;
  int bad = 0;
  while (!bad && (next < n_seq || d.n_run)) {
    while (next < n_seq && d.n_run < o->batch) {
      drive_seq *s = &seq[next++];
      s->out = calloc(s->max_tokens + 1, sizeof *s->out);
      s->logprob = calloc(s->max_tokens + 1, sizeof *s->logprob);
      s->n_out = 0;
      s->prompt_nll = 0;
      s->finish = TI_FINISH_NONE;
      d.run[d.n_run] = (live){.s = s, .slot = slot[--n_slot], .n_ids = s->n_prompt};
      d.n_run++;
    }
    bad = one_step(&d) || retire(&d, slot, &n_slot);
  }
  free(slot);
  free(d.run);
  free(d.free_page);
  ti_arena_fini(&d.plan_mem);
  ti_arena_fini(&d.result_mem);
  return bad;
}

void drive_free(drive_seq *seq, uint32_t n_seq) {
  for (uint32_t i = 0; i < n_seq; i++) {
    free(seq[i].out);
    free(seq[i].logprob);
    seq[i].out = NULL;
    seq[i].logprob = NULL;
  }
}
