// Filling a plan (see sched.h).
#include "coordinator/sched/sched.h"

#include <assert.h>

typedef struct fill {
  ti_coord *c;
  ti_group *g;
  ti_plan *p;
  uint32_t budget;
  bool closed;  // somebody was preempted or sits out: no admissions
} fill;

static uint32_t pages_for(const ti_coord *c, uint32_t places) { return (places + c->cfg.lookahead + c->cfg.page_tokens - 1) / c->cfg.page_tokens; }
static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void list_insert(const ti_coord *c, ti_group *g, ti_seq *s) {
  ti_seq *after = g->tail;
  while (after && c->policy->before(&s->wait, &after->wait)) after = after->prev;
  s->prev = after;
  s->next = after ? after->next : g->head;
  *(after ? &after->next : &g->head) = s;
  *(s->next ? &s->next->prev : &g->tail) = s;
  g->n_running++;
}

void ti_sched_remove(ti_group *g, ti_seq *s) {
  *(s->prev ? &s->prev->next : &g->head) = s->next;
  *(s->next ? &s->next->prev : &g->tail) = s->prev;
  s->prev = s->next = NULL;
  g->n_running--;
  for (uint32_t i = s->n_page; i-- > 0;) ti_pages_rele(g->pages, s->page[i]);
  s->n_page = 0;
  g->release[g->n_release++] = s->slot;
  g->free_slot[g->n_free_slot++] = s->slot;
}

// The last sequence after s without a row in this plan loses its pages. Its rows in flight still come back.
static bool preempt_after(fill *f, const ti_seq *s) {
  ti_seq *v = f->g->tail;
  while (v != s && v->planned == f->g->tick) v = v->prev;
  if (v == s) return false;
  ti_sched_remove(f->g, v);
  f->closed = true;
  ti_meter_add(f->c->meter.preemptions, 1);
  f->c->now.preempted++;
  if (v->inflight) {
    v->state = TI_SEQ_PREEMPTED;
  } else {
    ti_seq_enqueue(f->c, v);
  }
  return true;
}

static void add_row(fill *f, ti_seq *s, uint32_t n, bool decode, uint32_t max_draft) {
  ti_plan_add_row(f->p, s, n, decode, max_draft);
  s->planned = f->g->tick;
  f->budget -= n + max_draft;
}

// Pages for s to hold `need` of them; they must be free.
static void take_pages(fill *f, ti_seq *s, uint32_t need) {
  if (need <= s->n_page) return;
  const ti_status st = ti_pages_alloc(f->g->pages, need - s->n_page, s->page + s->n_page);
  assert(st == TI_OK);
  (void)st;
  s->n_page = need;
}

static void grow(fill *f, ti_seq *s, uint32_t need) {
  const uint32_t first = s->n_page;
  take_pages(f, s, need);
  if (s->n_page > first) ti_plan_add_pages(f->p, s, first);
}

// How many drafts the row may bring: what budget (one token each for the sequences behind it first) and the free pages allow, or none. The worker
// never drafts beyond the pages it has.
static uint32_t drafts(fill *f, ti_seq *s) {
  if (!f->p->drafting || f->budget < f->g->n_running + f->c->cfg.max_draft) return 0;
  const uint32_t most = f->c->cfg.max_draft, want = min_u32(pages_for(f->c, s->n_kv + s->n_draft + 1 + most), s->req->max_pages);
  if (want > s->n_page + ti_pages_free_count(f->g->pages) / 2) return 0;
  take_pages(f, s, want);
  return most;
}

static void fill_decodes(fill *f) {
  for (ti_seq *s = f->g->head; s && f->budget; s = s->next) {
    if (s->n_kv < s->n_fill || s->n_gen + s->n_pending >= s->req->spec->max_tokens) continue;
    const uint32_t need = min_u32(pages_for(f->c, s->n_kv + s->n_draft + 1), s->req->max_pages);  // drafts in flight may all stay
    bool fits;
    while (!(fits = need <= s->n_page + ti_pages_free_count(f->g->pages)) && preempt_after(f, s)) continue;
    if (!fits) {
      f->closed = true;
      continue;
    }
    const uint32_t first = s->n_page;
    take_pages(f, s, need);
    const uint32_t n_draft = drafts(f, s);
    if (s->n_page > first) ti_plan_add_pages(f->p, s, first);
    add_row(f, s, 1, true, n_draft);
  }
}

// How many places beyond n_kv the pages held and free have room for.
static uint32_t room(const fill *f, const ti_seq *s) {
  const uint64_t places = ((uint64_t)s->n_page + ti_pages_free_count(f->g->pages)) * f->c->cfg.page_tokens, used = s->n_kv + f->c->cfg.lookahead;
  return places <= used ? 0 : places - used > UINT32_MAX ? UINT32_MAX : (uint32_t)(places - used);
}

static void fill_prefills(fill *f) {
  for (ti_seq *s = f->g->head; s && f->budget; s = s->next) {
    if (s->n_kv >= s->n_fill) continue;
    uint32_t fits;
    while ((fits = room(f, s)) == 0 && preempt_after(f, s)) continue;
    const uint32_t n = min_u32(min_u32(s->n_fill - s->n_kv, f->budget), fits);
    if (n < min_u32(s->n_fill - s->n_kv, f->budget)) f->closed = true;
    if (n == 0) continue;
    grow(f, s, pages_for(f->c, s->n_kv + n));
    add_row(f, s, n, false, 0);
  }
}

// A running choice of the same request whose whole prompt has KV by plans that are sent. O(choices), once an admission.
static const ti_seq *find_donor(const ti_seq *s) {
  const ti_request *r = s->req;
  for (uint32_t i = 0; i < r->spec->n_choice; i++) {
    const ti_seq *t = &r->seq[i];
    if (t != s && t->state == TI_SEQ_RUNNING && t->kv_sent >= r->spec->n_prompt) return t;
  }
  return NULL;
}

// Shares the donor's pages: all but the prompt's last token is cached, so that one is left to compute logits from. Whole pages by reference; the
// tokens of a partial last page go to a page of its own. With an MTP layer the last token's place is copied too: its entry there belongs to the token
// before.
//
//   donor   [ 4 | 9 | 2 | ... ]     n_prompt 37, pages of 16: pages 4 and 9 are held, 4 tokens of page 2 are copied
//   s       [ 4 | 9 | 7 ]
static uint32_t share(fill *f, ti_seq *s, const ti_seq *donor) {
  const uint32_t cached = s->req->spec->n_prompt - 1, pt = f->c->cfg.page_tokens;
  for (s->n_page = 0; s->n_page < cached / pt; s->n_page++) {
    s->page[s->n_page] = donor->page[s->n_page];
    ti_pages_hold(f->g->pages, s->page[s->n_page]);
  }
  return cached;
}

static void start(ti_coord *c, ti_request *r) {
  if (r->started) return;
  r->started = true;
  ti_meter_observe_us(c->meter.queue_time, ti_coord_since(c, r->submit_us));
  atomic_fetch_sub_explicit(&c->n_waiting, 1, memory_order_relaxed);
}

static bool admit_next(fill *f) {
  ti_coord *c = f->c;
  ti_group *g = f->g;
  ti_seq *s = ti_seq_of_wait(ti_heap_top(&g->waiting));
  const ti_request_spec *q = s->req->spec;
  const uint32_t known = ti_seq_known(s), pt = c->cfg.page_tokens;
  const ti_seq *donor = find_donor(s);
  const uint32_t cached = donor ? q->n_prompt - 1 : 0, shared = cached / pt;
  const uint32_t n = min_u32(known - cached, f->budget);
  const bool resumed = s->n_gen > 0;
  const uint32_t need = pages_for(c, cached + n), want = resumed ? min_u32(pages_for(c, known), s->req->max_pages) : need;
  if (want - shared > ti_pages_free_count(g->pages) || !ti_plan_has_room(f->p, s)) return false;
  ti_heap_remove(&g->waiting, &s->wait);
  start(c, s->req);
  s->state = TI_SEQ_RUNNING;
  s->slot = g->free_slot[--g->n_free_slot];
  s->scoring = q->sampling.n_prompt_logprob >= 0 && s->req->n_scored < q->n_prompt && !donor;
  s->n_fill = known;
  s->n_draft = 0;
  s->n_page = 0;
  s->n_kv = s->kv_sent = donor ? share(f, s, donor) : 0;
  take_pages(f, s, need);
  ti_plan_add_assign(f->p, s, cached);
  ti_plan_add_pages(f->p, s, 0);
  const uint32_t n_copy = cached % pt + (donor && c->cfg.lookahead ? 1 : 0);
  if (n_copy) ti_plan_add_copy(f->p, donor->page[shared], s->page[shared], n_copy);
  list_insert(c, g, s);
  add_row(f, s, n, false, 0);
  return true;
}

void ti_sched_fill(ti_coord *c, ti_group *g, ti_plan *p) {
  fill f = {.c = c, .g = g, .p = p, .budget = c->cfg.max_num_batched_tokens};
  g->tick++;
  p->drafting = c->cfg.max_draft && ti_draft_switch_next(&g->draft);
  fill_decodes(&f);
  fill_prefills(&f);
  while (!f.closed && f.budget && g->n_free_slot && ti_heap_top(&g->waiting) && !c->failed) {
    if (!admit_next(&f)) break;
  }
  if (p->msg.n_row == 0) return;
  uint32_t *release = (uint32_t *)(uintptr_t)p->msg.release.v;
  for (uint32_t i = 0; i < g->n_release; i++) release[i] = g->release[i];
  p->msg.release.n = g->n_release;
  g->n_release = 0;
}
