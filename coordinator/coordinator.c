// Making and unmaking the coordinator: its numbers checked, all memory that the loop will use (see coordinator.h).
#include "coordinator/coordinator.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/coord_priv.h"
#include "coordinator/mail.h"

enum { OUT_MAX = TI_WIRE_MAX_BYTES, IN_MAX = TI_WIRE_MAX_BYTES };

static ti_status check_number(const char *name, uint64_t v, uint64_t lo, uint64_t hi, ti_error *err) {
  if (v >= lo && v <= hi) return TI_OK;
  return ti_error_set(err, TI_ERR_ARG, "coordinator: %s %lu is out of %lu..%lu", name, (unsigned long)v, (unsigned long)lo, (unsigned long)hi);
}

static ti_status check_config(const ti_coord_config *k, ti_error *err) {
  const struct {
    const char *name;
    uint64_t v, lo, hi;
  } number[] = {
      {"workers", (uint64_t)k->mesh.workers, 1, TI_COORD_RANKS},
      {"vocab", k->vocab, 1, 1u << 24},
      {"page_tokens", k->page_tokens, 1, 4096},
      {"max_model_len", k->max_model_len, 1, 1u << 23},  // its ids, 4 bytes each, fit a plan
      {"max_num_seqs", k->max_num_seqs, 1, 65536},
      {"max_num_batched_tokens", k->max_num_batched_tokens, k->max_num_seqs, 1u << 20},
      {"max_waiting", k->max_waiting, 1, 1u << 30},
      {"steps_in_flight", k->steps_in_flight, 1, TI_COORD_FLIGHT},
      {"lookahead", k->lookahead, 0, 256},
      {"max_draft", k->max_draft, 0, 16},
      {"secret_len", k->secret_len, 1, 4096},
      {"heartbeat_us", k->heartbeat_us, 1, UINT64_MAX},
      {"step_limit_us", k->step_limit_us, 1, UINT64_MAX},
      {"start_limit_us", k->start_limit_us, 1, UINT64_MAX / 2},
      {"linger_us", k->linger_us, 0, UINT64_MAX / 2},
  };
  for (size_t i = 0; i < sizeof number / sizeof number[0]; i++) {
    const ti_status st = check_number(number[i].name, number[i].v, number[i].lo, number[i].hi, err);
    if (st) return st;
  }
  if (!k->clock || !k->ctl || !k->secret) return ti_error_set(err, TI_ERR_ARG, "coordinator: clock, ctl and secret are needed");
  if (k->mesh.tp * k->mesh.dp != k->mesh.workers || k->ctl->n_worker != (uint32_t)k->mesh.workers)
    return ti_error_set(err, TI_ERR_ARG, "coordinator: %d workers, but tp %d x dp %d and %u control addresses", k->mesh.workers, k->mesh.tp,
                        k->mesh.dp, k->ctl->n_worker);
  return TI_OK;
}

static ti_status group_init(ti_coord *c, uint32_t index) {
  ti_group *g = &c->group[index];
  g->index = index;
  ti_heap_init(&g->waiting, c->policy->before);
  g->free_slot = malloc(c->cfg.max_num_seqs * sizeof *g->free_slot);
  g->release = malloc(c->cfg.max_num_seqs * sizeof *g->release);
  if (!g->free_slot || !g->release) return TI_ERR_NOMEM;
  for (uint32_t i = 0; i < c->cfg.max_num_seqs; i++) g->free_slot[i] = c->cfg.max_num_seqs - 1 - i;  // slot 0 goes first
  g->n_free_slot = c->cfg.max_num_seqs;
  ti_draft_switch_init(&g->draft);
  for (uint32_t i = 0; i < c->cfg.steps_in_flight; i++) {
    const ti_status st = ti_plan_init(&g->plan[i], c->cfg.max_num_seqs, c->cfg.max_model_len);
    if (st) return st;
  }
  return TI_OK;
}

static void group_fini(ti_group *g) {
  for (uint32_t i = 0; i < TI_COORD_FLIGHT; i++) ti_plan_fini(&g->plan[i]);
  ti_pages_destroy(g->pages);
  free(g->free_slot);
  free(g->release);
}

static void sink(void *arg, ti_ctl_event *ev) {
  ti_coord *c = arg;
  ti_inbox_push(&c->events, &ev->node);
}

static bool deadline_before(const ti_heap_node *x, const ti_heap_node *y) {
  const ti_request_spec *a = ti_request_of_deadline(x)->spec, *b = ti_request_of_deadline(y)->spec;
  return a->deadline_us != b->deadline_us ? a->deadline_us < b->deadline_us : a->id < b->id;
}

// Everything but the transport; what fails half-way is undone by destroy.
static ti_status init(ti_coord *c, const ti_coord_config *cfg, ti_error *err) {
  c->cfg = *cfg;
  c->epoch = 1;
  c->n_rank = (uint32_t)cfg->mesh.workers;
  c->now_us = c->started_us = ti_now_us(cfg->clock);
  atomic_init(&c->next_id, 1);
  ti_heap_init(&c->deadlines, deadline_before);
  ti_buf_init(&c->out, OUT_MAX);
  ti_arena_init(&c->in, IN_MAX);
  pthread_mutex_init(&c->status_lock, NULL);
  ti_status st = ti_sched_policy_find(cfg->policy, &c->policy, err);
  if (st) return st;
  st = ti_meter_init(&c->meter, cfg->metrics, c->n_rank, (uint32_t)cfg->mesh.dp, err);
  if (st) return st;
  st = ti_load_init(&c->load, cfg->metrics, cfg->n_moe_layer, cfg->n_expert, cfg->mesh.ep, err);
  if (!st) st = ti_balance_init(&c->balance, &cfg->mesh, cfg->n_moe_layer, cfg->n_expert, cfg->n_redundant, cfg->n_top, cfg->balance_tokens, err);
  if (st) return st;
  c->group = calloc((size_t)cfg->mesh.dp, sizeof *c->group);
  if (!c->group) return ti_error_set(err, TI_ERR_NOMEM, "coordinator: no memory for %d groups", cfg->mesh.dp);
  c->n_group = (uint32_t)cfg->mesh.dp;
  for (uint32_t i = 0; i < c->n_group; i++) {
    if (group_init(c, i))
      return ti_error_set(err, TI_ERR_NOMEM, "coordinator: no memory for %u sequences of %u tokens", cfg->max_num_seqs, cfg->max_model_len);
  }
  if (ti_inbox_init(&c->events) || ti_inbox_init(&c->mail)) return ti_error_set(err, TI_ERR_IO, "coordinator: no eventfd");
  return TI_OK;
}

ti_status ti_coord_create(const ti_coord_config *cfg, ti_coord **out, ti_error *err) {
  ti_status st = check_config(cfg, err);
  if (st) return st;
  ti_coord *c = calloc(1, sizeof *c);
  if (!c) return ti_error_set(err, TI_ERR_NOMEM, "coordinator: no memory");
  st = init(c, cfg, err);
  if (!st) {
    st = ti_ctl_host_start(cfg->ctl, sink, c);
    if (st) ti_error_set(err, st, "coordinator: the control transport does not start: %s", ti_status_text(st));
  }
  if (st) {
    ti_coord_destroy(c);
    return st;
  }
  *out = c;
  return TI_OK;
}

void ti_coord_destroy(ti_coord *c) {
  if (!c) return;
  atomic_store(&c->closed, true);
  c->stopped = c->closing = true;
  for (ti_inbox_node *n; c->events.tail && (n = ti_inbox_pop(&c->events)) != NULL;) ti_ctl_event_free((ti_ctl_event *)n);
  for (ti_inbox_node *n; c->mail.tail && (n = ti_inbox_pop(&c->mail)) != NULL;) ti_mail_take(c, (ti_mail *)n);
  ti_coord_end_all(c, TI_FINISH_ERROR, "the server is shutting down");
  for (ti_request *r = c->all, *next; r; r = next) {  // rows in flight that nobody will answer
    next = r->all_next;
    ti_request_destroy(r);
  }
  for (uint32_t i = 0; i < c->n_group; i++) group_fini(&c->group[i]);
  free(c->group);
  ti_inbox_fini(&c->events);
  ti_inbox_fini(&c->mail);
  ti_buf_fini(&c->out);
  ti_arena_fini(&c->in);
  ti_load_fini(&c->load);
  ti_balance_fini(&c->balance);
  pthread_mutex_destroy(&c->status_lock);
  free(c);
}
