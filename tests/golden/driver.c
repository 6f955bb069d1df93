#include "tests/golden/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct live {  // a running sequence
  drive_seq *s;
  uint32_t slot, n_kv, n_ids, pages[4096], n_page;  // n_ids: with those that steps in flight draw
  uint32_t n_row;      // rows in flight
  uint32_t preempted;  // how often: MOST_PREEMPTIONS at most, since each computes all its tokens again
  bool assigned;
} live;

enum { MOST_PREEMPTIONS = 3, FLIGHTS = 2 };

typedef struct sent {  // a step in flight: whose rows the plan has
  live **row;
  uint32_t n_row;
} sent;

typedef struct drive {
  ti_engine *e;
  ti_engine_facts f;
  const drive_options *o;
  uint32_t *free_page, n_free;
  live *all, **run;
  uint32_t n_run, n_all, step;
  sent flight[FLIGHTS];
  uint32_t oldest, n_flight;
  uint32_t *slot, n_slot;       // free ones
  uint32_t *gone, n_gone;       // ended: released by the next plan
  ti_arena plan_mem, result_mem;
} drive;

ti_sampling drive_greedy(void) { return (ti_sampling){.temperature = 0, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}; }

static void add_release(ti_step_plan *p, uint32_t slot) { ((uint32_t *)p->release.v)[p->release.n++] = slot; }

static void give_back(drive *d, live *l) {
  while (l->n_page) d->free_page[d->n_free++] = l->pages[--l->n_page];
  l->n_kv = 0;
  l->assigned = false;
}

static uint32_t known(const live *l) { return l->s->n_prompt + l->s->n_out; }

static void assign(drive *d, ti_step_plan *p, live *l) {
  uint32_t *ids = ti_arena_alloc(&d->plan_mem, l->n_ids * sizeof *ids);
  memcpy(ids, l->s->prompt, l->s->n_prompt * sizeof *ids);
  memcpy(ids + l->s->n_prompt, l->s->out, (l->n_ids - l->s->n_prompt) * sizeof *ids);
  p->assign[p->n_assign++] = (ti_slot_assign){.slot = l->slot, .request = l->slot, .ids = {ids, l->n_ids}, .n_prompt = l->s->n_prompt, .max_tokens = l->s->max_tokens,
                                              .ignore_eos = l->s->ignore_eos, .sampling = l->s->sampling};
  l->assigned = true;
}

// Nothing to plan: all its tokens are drawn or on their way, or it waits for its rows to come back after a preemption.
static bool idle(const live *l) { return l->s->finish != TI_FINISH_NONE || l->n_ids - l->s->n_prompt >= l->s->max_tokens || (!l->assigned && l->n_row > 0); }

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
  sent *f = &d->flight[(d->oldest + d->n_flight) % FLIGHTS];
  f->row[f->n_row++] = l;
  l->n_row++;
  l->n_kv += n;
  if (n == left) l->n_ids++;
}

static void take_row(live *l, const ti_result_row *r) {
  drive_seq *s = l->s;
  for (uint32_t i = 0; i < r->prompt_logprob.n; i++) s->prompt_nll -= r->prompt_logprob.v[i];
  for (uint32_t i = 0; i < r->prompt_rank.n; i++) s->prompt_rank[s->n_prompt_rank++] = r->prompt_rank.v[i];
  for (uint32_t i = 0; i < r->token.n; i++) {
    if (r->logprob.n) s->logprob[s->n_out] = r->logprob.v[i];
    s->out[s->n_out++] = r->token.v[i];
    if (i) l->n_ids++;
  }
  l->n_kv += r->n_accepted;
  s->n_accepted += r->n_accepted;
  s->finish = r->finish;
}

#define MAX_RANKS 64

// The plan's header is the same on all ranks: counted when any group's is, the largest row count. *any: some group has sequences.
static int agree(drive *d, ti_step_plan *p, bool *any) {
  int32_t mine[3] = {d->n_run > 0, p->form == TI_FORM_PREFILL, 0}, all[3 * MAX_RANKS];
  for (uint32_t i = 0; i < p->n_row; i++) mine[2] += (int32_t)p->row[i].n_token;
  size_t counts[MAX_RANKS];
  const int size = d->o->world->size;
  if (size > MAX_RANKS) return fprintf(stderr, "driver: more than %d ranks\n", MAX_RANKS), 1;
  for (int i = 0; i < size; i++) counts[i] = 3;
  const ti_status st = ti_coll_all_gather(d->o->world, mine, all, counts, TI_I32);
  if (st) return fprintf(stderr, "driver: step %u: agreeing: %s\n", d->step, ti_status_text(st)), 1;
  *any = false;
  for (int i = 0; i < size; i++) {
    *any |= all[3 * i] != 0;
    if (all[3 * i + 1]) p->form = TI_FORM_PREFILL;
    if ((uint32_t)all[3 * i + 2] > p->max_rows) p->max_rows = (uint32_t)all[3 * i + 2];
  }
  return 0;
}

static bool preempts(const drive *d, const live *l) {
  return l->assigned && l->s->finish == TI_FINISH_NONE && l->n_ids - l->n_kv == 1 && l->preempted < MOST_PREEMPTIONS;  // it decodes: all get on, however short the chunks
}

// A plan for what there is to do, in d->flight's next place. *any: it has rows, or others have (then it is run all the same).
static int make_plan(drive *d, ti_step_plan *p, bool *any) {
  ti_arena_reset(&d->plan_mem);
  const uint32_t n = d->o->batch;
  *p = (ti_step_plan){.step = d->step, .placement = d->o->placement, .n_micro = d->o->n_micro ? d->o->n_micro : 1, .gather_logits = true, .release.v = ti_arena_calloc(&d->plan_mem, 2 * n, 4)};
  p->assign = ti_arena_calloc(&d->plan_mem, n, sizeof *p->assign);
  p->pages = ti_arena_calloc(&d->plan_mem, n, sizeof *p->pages);
  p->row = ti_arena_calloc(&d->plan_mem, n, sizeof *p->row);
  while (d->n_gone) add_release(p, d->gone[--d->n_gone]);
  if (d->o->preempt && d->n_run && d->step % d->o->preempt == d->o->preempt - 1) {
    live *l = d->run[(d->step / d->o->preempt) % d->n_run];
    if (preempts(d, l)) {
      l->preempted++;
      add_release(p, l->slot);
      give_back(d, l);
    }
  }
  d->flight[(d->oldest + d->n_flight) % FLIGHTS].n_row = 0;
  for (uint32_t i = 0; i < d->n_run; i++)
    if (!d->run[i]->assigned && !idle(d->run[i])) assign(d, p, d->run[i]);
  for (uint32_t i = 0; i < d->n_run; i++)
    if (!idle(d->run[i])) add_row(d, p, d->run[i]);
  *any = d->o->world ? d->n_run > 0 : p->n_row > 0 || p->release.n > 0;
  return d->o->world ? agree(d, p, any) : 0;
}

static int collect(drive *d) {
  ti_step_result r;
  ti_error err = {0};
  sent *f = &d->flight[d->oldest];
  ti_arena_reset(&d->result_mem);
  if (ti_engine_collect(d->e, &d->result_mem, &r, &err)) return fprintf(stderr, "driver: step %u: %s\n", d->step, err.text), 1;
  for (uint32_t i = 0; i < r.n_row; i++) {
    f->row[i]->n_row--;
    if (f->row[i]->s->finish == TI_FINISH_NONE) take_row(f->row[i], &r.row[i]);  // else planned before its end was known: void
    if (!f->row[i]->assigned) f->row[i]->n_ids = known(f->row[i]);
  }
  d->oldest = (d->oldest + 1) % FLIGHTS;
  d->n_flight--;
  return 0;
}

// One plan, built, agreed on and run; of the steps in flight those are collected that must be. *more: false when there is nothing left to run.
static int one_step(drive *d, bool *more) {
  ti_step_plan p;
  ti_error err = {0};
  bool any;
  if (make_plan(d, &p, &any)) return 1;
  *more = any || d->n_flight > 0;
  if (any) {
    while (!ti_engine_can_submit(d->e, &p))
      if (collect(d)) return 1;
    if (ti_engine_submit(d->e, &p, &err)) return fprintf(stderr, "driver: step %u: %s\n", d->step, err.text), 1;
    d->n_flight++;
    d->step++;
  }
  while (d->n_flight && (!any || d->n_flight >= (d->o->flight ? d->o->flight : 1))) {
    if (collect(d)) return 1;
    if (!any) break;
  }
  return 0;
}

// Sequences that ended leave; the next plan releases their slots.
static void retire(drive *d) {
  for (uint32_t i = 0; i < d->n_run;) {
    live *l = d->run[i];
    if (l->s->finish == TI_FINISH_NONE) {
      i++;
      continue;
    }
    if (l->assigned) d->gone[d->n_gone++] = l->slot;
    d->slot[d->n_slot++] = l->slot;
    give_back(d, l);
    d->run[i] = d->run[--d->n_run];
  }
}

static void admit(drive *d, drive_seq *s) {
  s->out = calloc(s->max_tokens + 1, sizeof *s->out);
  s->logprob = calloc(s->max_tokens + 1, sizeof *s->logprob);
  s->prompt_rank = calloc(s->n_prompt + 1, sizeof *s->prompt_rank);
  s->n_out = s->n_prompt_rank = 0;
  s->prompt_nll = 0;
  s->finish = TI_FINISH_NONE;
  live *l = &d->all[d->n_all++];
  *l = (live){.s = s, .slot = d->slot[--d->n_slot], .n_ids = s->n_prompt};
  d->run[d->n_run++] = l;
}

int drive_run(ti_engine *e, drive_seq *seq, uint32_t n_seq, const drive_options *o) {
  drive d = {.e = e, .o = o};
  ti_engine_get_facts(e, &d.f);
  ti_engine_reset(e);
  ti_arena_init(&d.plan_mem, 1 << 28);
  ti_arena_init(&d.result_mem, 1 << 28);
  d.free_page = calloc(d.f.n_page, sizeof *d.free_page);
  d.all = calloc(n_seq, sizeof *d.all);
  d.run = calloc(o->batch, sizeof *d.run);
  for (uint32_t i = 0; i < FLIGHTS; i++) d.flight[i].row = calloc(o->batch, sizeof *d.flight[i].row);
  d.slot = calloc(o->batch, sizeof *d.slot);
  d.gone = calloc(o->batch, sizeof *d.gone);
  uint32_t next = 0;
  for (uint32_t i = 0; i < d.f.n_page; i++) d.free_page[d.n_free++] = o->scatter ? (uint32_t)((i * 7919ull) % d.f.n_page) : d.f.n_page - 1 - i;
  if (o->scatter && d.f.n_page % 7919 == 0) return fprintf(stderr, "driver: page count divides by 7919\n"), 1;
  for (uint32_t i = 0; i < o->batch; i++) d.slot[d.n_slot++] = i;
  int bad = 0;
  for (bool more = true; !bad && more;) {
    while (next < n_seq && d.n_run < o->batch) admit(&d, &seq[next++]);
    bad = one_step(&d, &more);
    retire(&d);
  }
  for (uint32_t i = 0; i < FLIGHTS; i++) free(d.flight[i].row);
  free(d.all);
  free(d.gone);
  free(d.slot);
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
    free(seq[i].prompt_rank);
    seq[i].prompt_rank = NULL;
    seq[i].out = NULL;
    seq[i].logprob = NULL;
  }
}
