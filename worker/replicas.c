// Copies of hot experts (see replicas.h).
#include "worker/replicas.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

typedef struct copies {  // one version's, of all layers
  uint32_t version;
  ti_placement **placement;   // [n_layer]
  ti_weights mem;             // owns what the weights stand in
  ti_weight *gate_up, *down;  // [n_layer, n_copy]
} copies;

struct ti_replicas {
  ti_weights_options o;  // dev is the loader's
  ti_weights *w;
  int n_layer, n_copy, n_home;  // copies and experts at home a layer, here
  long slot0;
  copies now, next;
  bool staged;
  pthread_t thread;
  _Atomic int state;  // 0: loading, 1: loaded, 2: failed
  ti_error err;
};

static void copies_fini(ti_replicas *r, copies *c) {
  for (int i = 0; c->placement && i < r->n_layer; i++) ti_placement_destroy(c->placement[i]);
  free(c->placement);
  free(c->gate_up);
  free(c->down);
  if (c->mem.kernels) ti_weights_fini(&c->mem);
  *c = (copies){0};
}

static ti_status copies_load(ti_replicas *r, copies *c, ti_placement *const *placement, ti_error *err) {
  const size_t n = (size_t)r->n_layer * (size_t)r->n_copy;
  c->gate_up = calloc(n + 1, sizeof *c->gate_up);
  c->down = calloc(n + 1, sizeof *c->down);
  ti_status st = c->gate_up && c->down ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "no memory for tables of %zu copies", n);
  for (int i = 0; !st && i < r->n_layer; i++)
    for (int k = 0; !st && k < r->n_copy; k++) {
      const size_t at = (size_t)i * (size_t)r->n_copy + (size_t)k;
      st = ti_weights_load_expert(&r->o, &c->mem, r->o.model->moe.n_dense_layer + i, placement[i]->slot_expert[r->slot0 + r->n_home + k],
                                  &c->gate_up[at], &c->down[at], err);
    }
  return st;
}

static void put_in_place(ti_replicas *r, const copies *c) {
  for (int i = 0; i < r->n_layer; i++) {
    ti_expert_weights *e = &r->w->layer[r->o.model->moe.n_dense_layer + i].experts;
    memcpy(e->gate_up + r->n_home, c->gate_up + (size_t)i * (size_t)r->n_copy, (size_t)r->n_copy * sizeof *e->gate_up);
    memcpy(e->down + r->n_home, c->down + (size_t)i * (size_t)r->n_copy, (size_t)r->n_copy * sizeof *e->down);
  }
}

ti_status ti_replicas_create(const ti_weights_options *o, const ti_dev_options *dev, ti_weights *w, int n_layer, ti_replicas **out, ti_error *err) {
  ti_replicas *r = calloc(1, sizeof *r);
  if (!r) return ti_error_set(err, TI_ERR_NOMEM, "no memory for redundant experts");
  const ti_placement *p = o->placement[0];
  const int group = ti_mesh_ep_of(&o->mesh, o->worker);
  long s1, e0, e1;
  ti_split(p->n_slot, o->mesh.ep, group, &r->slot0, &s1);
  ti_split(p->n_expert, o->mesh.ep, group, &e0, &e1);
  r->o = *o;
  r->w = w;
  r->n_layer = n_layer;
  r->n_home = (int)(e1 - e0);
  r->n_copy = (int)(s1 - r->slot0) - r->n_home;
  ti_status st = o->kernels->open(dev, &r->o.dev, err);
  if (st) goto err_free;
  st = copies_load(r, &r->now, o->placement, err);
  if (st) goto err_close;
  put_in_place(r, &r->now);
  w->bytes += r->now.mem.bytes;
  *out = r;
  return TI_OK;
err_close:
  copies_fini(r, &r->now);
  o->kernels->close(r->o.dev);
err_free:
  free(r);
  return st;
}

void ti_replicas_destroy(ti_replicas *r) {
  if (!r) return;
  if (r->staged) pthread_join(r->thread, NULL);
  copies_fini(r, &r->next);
  copies_fini(r, &r->now);
  r->o.kernels->close(r->o.dev);
  free(r);
}

static void *load(void *arg) {
  ti_replicas *r = arg;
  atomic_store(&r->state, copies_load(r, &r->next, r->next.placement, &r->err) ? 2 : 1);
  return NULL;
}

static ti_status check_home(const ti_replicas *r, const ti_placement *p, int layer, ti_error *err) {
  for (int g = 0; g < r->o.mesh.ep; g++) {
    long s0, s1, e0, e1;
    ti_split(p->n_slot, r->o.mesh.ep, g, &s0, &s1);
    ti_split(p->n_expert, r->o.mesh.ep, g, &e0, &e1);
    for (long e = e0; e < e1; e++)
      if (p->slot_expert[s0 + e - e0] != e)
        return ti_error_set(err, TI_ERR_FORMAT, "Placement: layer %d, slot %ld: expert %d, expected %ld, which is at home there", layer, s0 + e - e0,
                            p->slot_expert[s0 + e - e0], e);
  }
  return TI_OK;
}

ti_status ti_replicas_stage(ti_replicas *r, uint32_t version, const uint32_t *slot_expert, uint32_t n, ti_error *err) {
  const int n_slot = r->o.placement[0]->n_slot;
  if (r->staged) return ti_error_set(err, TI_ERR_FORMAT, "Placement: version %u comes while %u is being loaded", version, r->next.version);
  if (n != (uint64_t)r->n_layer * (uint64_t)n_slot)
    return ti_error_set(err, TI_ERR_FORMAT, "Placement.slot_expert: %u elements, expected %d layers x %d slots", n, r->n_layer, n_slot);
  r->next.version = version;
  r->next.placement = calloc((size_t)r->n_layer, sizeof *r->next.placement);
  ti_status st = r->next.placement ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "no memory for a placement");
  for (int i = 0; !st && i < r->n_layer; i++) {
    st = ti_placement_from_slots((const int32_t *)slot_expert + (size_t)i * (size_t)n_slot, n_slot, r->o.model->moe.n_expert, version,
                                 &r->next.placement[i], err);
    if (!st) st = check_home(r, r->next.placement[i], i, err);
  }
  atomic_store(&r->state, 0);
  if (!st && pthread_create(&r->thread, NULL, load, r)) st = ti_error_set(err, TI_ERR_IO, "cannot start a thread that loads experts");
  if (st) {
    copies_fini(r, &r->next);
    return st;
  }
  r->staged = true;
  return TI_OK;
}

ti_status ti_replicas_ready(ti_replicas *r, uint32_t *version, ti_error *err) {
  *version = r->now.version;
  if (!r->staged) return TI_OK;
  const int state = atomic_load(&r->state);
  if (state == 1) *version = r->next.version;
  if (state != 2) return TI_OK;
  pthread_join(r->thread, NULL);
  r->staged = false;
  copies_fini(r, &r->next);
  return ti_error_set(err, r->err.code ? r->err.code : TI_ERR_NOMEM, "redundant experts: %s", r->err.text);
}

ti_status ti_replicas_swap(ti_replicas *r, uint32_t version, ti_exchange *x, ti_placement **placement, ti_error *err) {
  if (!r->staged || atomic_load(&r->state) != 1 || r->next.version != version)
    return ti_error_set(err, TI_ERR_FORMAT, "plan.placement: version %u, but %u is in use and %u %s", version, r->now.version, r->next.version,
                        r->staged ? "is being loaded" : "was loaded");
  pthread_join(r->thread, NULL);
  r->staged = false;
  ti_status st = TI_OK;
  for (int i = 0; !st && i < r->n_layer; i++) {
    st = ti_exchange_set_placement(x, i, r->next.placement[i]);
    ti_placement *old = placement[i];
    placement[i] = r->next.placement[i];
    r->next.placement[i] = NULL;
    ti_placement_destroy(old);
  }
  put_in_place(r, &r->next);
  copies_fini(r, &r->now);
  r->now = r->next;
  r->next = (copies){0};
  ti_log_info("placement: version=%u in use, copies=%d a layer, bytes=%lu", version, r->n_copy, (unsigned long)r->now.mem.bytes);
  return st ? ti_error_set(err, st, "plan.placement: version %u does not fit the exchange", version) : TI_OK;
}
