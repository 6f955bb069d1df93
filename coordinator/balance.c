// Choosing copies of hot experts (see balance.h).
#include "coordinator/balance.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static void drop(ti_placement **p, uint32_t n) {
  for (uint32_t i = 0; p && i < n; i++) {
    ti_placement_destroy(p[i]);
    p[i] = NULL;
  }
}

static ti_status place(const ti_balance *b, const float *load, uint32_t version, ti_placement **out, ti_error *err) {
  const ti_placement_args a = {.load = load, .n_expert = (int)b->n_expert, .n_slot = (int)b->n_slot, .ep = b->mesh.ep, .version = version};
  return ti_placement_replicate(&a, out, err);
}

ti_status ti_balance_init(ti_balance *b, const ti_mesh *mesh, uint32_t n_layer, uint32_t n_expert, uint32_t n_redundant, uint32_t n_top,
                          uint32_t window_tokens, ti_error *err) {
  *b = (ti_balance){0};
  if (!n_layer || !n_expert) return TI_OK;
  *b = (ti_balance){.n_layer = n_layer, .n_expert = n_expert, .n_slot = n_expert + n_redundant, .mesh = *mesh};
  b->window_rows = (uint64_t)window_tokens * n_layer * n_top;
  b->seen = malloc((size_t)n_layer * n_expert * sizeof *b->seen);
  b->slots = malloc((size_t)n_layer * b->n_slot * sizeof *b->slots);
  b->now = calloc(n_layer, sizeof *b->now);
  b->before = calloc(n_layer, sizeof *b->before);
  b->next = calloc(n_layer, sizeof *b->next);
  if (!b->seen || !b->slots || !b->now || !b->before || !b->next)
    return ti_error_set(err, TI_ERR_NOMEM, "coordinator: no memory for the placement of %u experts in %u layers", n_expert, n_layer);
  for (uint32_t e = 0; e < n_expert; e++) b->seen[e] = 1;  // before any load is known: all alike, as the workers start
  ti_status st = TI_OK;
  for (uint32_t i = 0; !st && i < n_layer; i++) st = place(b, b->seen, 0, &b->now[i], err);
  memset(b->seen, 0, (size_t)n_layer * n_expert * sizeof *b->seen);
  return st;
}

void ti_balance_fini(ti_balance *b) {
  drop(b->now, b->n_layer);
  drop(b->before, b->n_layer);
  drop(b->next, b->n_layer);
  free(b->now);
  free(b->before);
  free(b->next);
  free(b->seen);
  free(b->slots);
  *b = (ti_balance){0};
}

ti_placement *const *ti_balance_at(const ti_balance *b, uint64_t step) {
  return b->n_layer && step < b->since_step && b->before[0] ? b->before : b->now;
}

void ti_balance_add(ti_balance *b, int worker, uint64_t step, ti_u32s load) {
  if (b->n_slot == b->n_expert || ti_mesh_etp_of(&b->mesh, worker) != 0) return;
  ti_placement *const *p = ti_balance_at(b, step);
  long begin, end;
  ti_split(b->n_slot, b->mesh.ep, ti_mesh_ep_of(&b->mesh, worker), &begin, &end);
  const uint32_t mine = (uint32_t)(end - begin);
  if (load.n != (uint64_t)b->n_layer * mine) return;
  for (uint32_t i = 0; i < b->n_layer; i++)
    for (uint32_t s = 0; s < mine; s++) {
      b->seen[(size_t)i * b->n_expert + (size_t)p[i]->slot_expert[begin + s]] += (float)load.v[i * mine + s];
      b->rows += load.v[i * mine + s];
    }
}

static void halve(ti_balance *b) {
  for (size_t i = 0; i < (size_t)b->n_layer * b->n_expert; i++) b->seen[i] /= 2;
  b->rows /= 2;
  b->phase = TI_BALANCE_COLLECT;
}

// All layers are there: worth sending only when some slot changes.
static bool finish(ti_balance *b, ti_msg_placement *out) {
  bool same = true;
  for (uint32_t i = 0; i < b->n_layer; i++) {
    same = same && memcmp(b->next[i]->slot_expert, b->now[i]->slot_expert, b->n_slot * sizeof(int32_t)) == 0;
    for (uint32_t s = 0; s < b->n_slot; s++) b->slots[(size_t)i * b->n_slot + s] = (uint32_t)b->next[i]->slot_expert[s];
  }
  if (same) {
    drop(b->next, b->n_layer);
    halve(b);
    return false;
  }
  memset(b->ready, 0, sizeof b->ready);
  b->phase = TI_BALANCE_WAIT;
  *out = (ti_msg_placement){.version = b->version + 1, .n_layer = b->n_layer, .slot_expert = {b->slots, b->n_layer * b->n_slot}};
  return true;
}

bool ti_balance_tick(ti_balance *b, ti_msg_placement *out) {
  if (b->n_slot == b->n_expert || b->phase == TI_BALANCE_WAIT) return false;
  if (b->phase == TI_BALANCE_COLLECT) {
    if (b->rows < b->window_rows) return false;
    b->phase = TI_BALANCE_COMPUTE;
    b->layer = 0;
  }
  ti_error err = {0};
  if (place(b, b->seen + (size_t)b->layer * b->n_expert, b->version + 1, &b->next[b->layer], &err)) {
    ti_log_warn("placement: %s", err.text);
    drop(b->next, b->n_layer);
    halve(b);
    return false;
  }
  return ++b->layer == b->n_layer && finish(b, out);
}

void ti_balance_ready(ti_balance *b, int worker, uint32_t version) {
  if (b->phase == TI_BALANCE_WAIT && version == b->version + 1 && worker >= 0 && worker < TI_BALANCE_RANKS) b->ready[worker] = true;
}

uint32_t ti_balance_switch(ti_balance *b, uint64_t step) {
  if (b->phase != TI_BALANCE_WAIT) return b->version;
  for (int w = 0; w < b->mesh.workers; w++)
    if (!b->ready[w]) return b->version;
  ti_placement **free_table = b->before;
  drop(b->before, b->n_layer);
  b->before = b->now;
  b->now = b->next;
  b->next = free_table;
  b->since_step = step;
  b->version++;
  ti_log_info("placement: version=%u from step=%lu on", b->version, (unsigned long)step);
  halve(b);
  return b->version;
}
