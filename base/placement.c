// Expert placement: greedy replication and balanced packing as in EPLB, with shares that may differ by one slot. Runs when a placement is made, never
// in a step. Loads are summed in double: EPLB's fp32 gives the same placements where loads differ by more than rounding.
#include "base/placement.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

// One block: the head, then its three arrays.
static ti_placement *alloc_placement(int n_expert, int n_slot, int32_t **slot_expert, int32_t **first, int32_t **slots) {
  const size_t ints = (size_t)n_slot * 2 + (size_t)n_expert + 1;
  ti_placement *p = calloc(1, sizeof *p + ints * sizeof(int32_t));
  if (!p) return NULL;
  *slot_expert = (int32_t *)(p + 1);
  *first = *slot_expert + n_slot;
  *slots = *first + n_expert + 1;
  p->n_expert = n_expert;
  p->n_slot = n_slot;
  p->slot_expert = *slot_expert;
  p->replica_first = *first;
  p->replica_slot = *slots;
  return p;
}

ti_status ti_placement_from_slots(const int32_t *slot_expert, int n_slot, int n_expert, uint32_t version, ti_placement **out, ti_error *err) {
  if (n_expert < 1 || n_slot < n_expert || n_slot > 1 << 20)
    return ti_error_set(err, TI_ERR_ARG, "placement: %d slots for %d experts", n_slot, n_expert);
  int32_t *se, *first, *slots;
  ti_placement *p = alloc_placement(n_expert, n_slot, &se, &first, &slots);
  if (!p) return ti_error_set(err, TI_ERR_NOMEM, "placement of %d slots: out of memory", n_slot);
  ti_status st = TI_OK;
  for (int i = 0; i < n_slot; i++) {
    if (slot_expert[i] < 0 || slot_expert[i] >= n_expert) {
      st = ti_error_set(err, TI_ERR_RANGE, "placement: slot %d holds expert %d of %d", i, slot_expert[i], n_expert);
      goto err_free;
    }
    se[i] = slot_expert[i];
    first[se[i] + 1]++;
  }
  for (int e = 0; e < n_expert; e++) {
    if (first[e + 1] == 0) {
      st = ti_error_set(err, TI_ERR_FORMAT, "placement: expert %d has no slot", e);
      goto err_free;
    }
    first[e + 1] += first[e];
  }
  for (int i = n_slot; i-- > 0;) slots[--first[se[i] + 1]] = i;  // from the end, so that slots ascend; first[e + 1] sinks to the start of e
  for (int e = 0; e < n_expert; e++) first[e] = first[e + 1];
  first[n_expert] = n_slot;
  p->version = version;
  *out = p;
  return TI_OK;

err_free:
  free(p);
  return st;
}

ti_status ti_placement_identity(int n_expert, uint32_t version, ti_placement **out, ti_error *err) {
  if (n_expert < 1) return ti_error_set(err, TI_ERR_ARG, "placement: %d experts", n_expert);
  int32_t *slots = malloc((size_t)n_expert * sizeof *slots);
  if (!slots) return ti_error_set(err, TI_ERR_NOMEM, "placement of %d experts: out of memory", n_expert);
  for (int i = 0; i < n_expert; i++) slots[i] = i;
  const ti_status st = ti_placement_from_slots(slots, n_expert, n_expert, version, out, err);
  free(slots);
  return st;
}

void ti_placement_destroy(ti_placement *p) { free(p); }

typedef struct ti_weighted {
  double weight;
  int index;
} ti_weighted;

static int heavier_first(const void *a, const void *b) {
  const ti_weighted *x = a, *y = b;
  if (x->weight < y->weight) return 1;
  if (x->weight > y->weight) return -1;
  return (x->index > y->index) - (x->index < y->index);
}

// Items onto packs of ti_split(n, n_pack) items, heaviest first, each onto the lightest pack with room. place[i]: the item's place, packs one after
// another. Packs of one item each keep the items' order, as EPLB does. sort: [n], total and used: [n_pack], scratch.
static void pack(const double *weight, int n, int n_pack, int32_t *place, ti_weighted *sort, double *total, int *used) {
  if (n == n_pack) {
    for (int i = 0; i < n; i++) place[i] = i;
    return;
  }
  for (int i = 0; i < n; i++) sort[i] = (ti_weighted){weight[i], i};
  qsort(sort, (size_t)n, sizeof *sort, heavier_first);
  for (int p = 0; p < n_pack; p++) {
    total[p] = 0;
    used[p] = 0;
  }
  for (int i = 0; i < n; i++) {
    int best = -1;
    long begin, end;
    for (int p = 0; p < n_pack; p++) {
      ti_split(n, n_pack, p, &begin, &end);
      if (used[p] < end - begin && (best < 0 || total[p] < total[best])) best = p;
    }
    ti_split(n, n_pack, best, &begin, &end);
    place[sort[i].index] = (int32_t)begin + used[best]++;
    total[best] += sort[i].weight;
  }
}

// copies[i]: the expert of copy i; each copy beyond the first n_expert goes to the expert with the largest load a copy.
static void replicate(const double *weight, int n_expert, int n_copy, int32_t *copy, int *count) {
  for (int e = 0; e < n_expert; e++) {
    copy[e] = e;
    count[e] = 1;
  }
  for (int i = n_expert; i < n_copy; i++) {
    int best = 0;
    for (int e = 1; e < n_expert; e++)
      if (weight[e] / count[e] > weight[best] / count[best]) best = e;
    copy[i] = best;
    count[best]++;
  }
}

typedef struct ti_balance {  // scratch of one run
  double *group_load, *load, *copy_load, *total;
  int32_t *group_place, *node_expert, *copy, *place;
  int *count, *used;
  ti_weighted *sort;
} ti_balance;

// The experts of one node, in node_expert[n], onto its slots [n_slot] of `ep` ranks.
static void balance_node(const ti_placement_args *a, ti_balance *b, const int32_t *node_expert, int n, int n_slot, int ep, int32_t *slot_expert) {
  for (int i = 0; i < n; i++) b->load[i] = (double)a->load[node_expert[i]];
  replicate(b->load, n, n_slot, b->copy, b->count);
  for (int i = 0; i < n_slot; i++) b->copy_load[i] = b->load[b->copy[i]] / b->count[b->copy[i]];
  pack(b->copy_load, n_slot, ep, b->place, b->sort, b->total, b->used);
  for (int i = 0; i < n_slot; i++) slot_expert[b->place[i]] = node_expert[b->copy[i]];
}

ti_status ti_placement_balance(const ti_placement_args *a, ti_placement **out, ti_error *err) {
  if (a->n_expert < 1 || a->n_slot < a->n_expert || a->n_slot > 1 << 20 || a->ep < 1 || a->ep > a->n_slot)
    return ti_error_set(err, TI_ERR_ARG, "placement: %d slots on %d ranks for %d experts", a->n_slot, a->ep, a->n_expert);
  int n_group = a->n_group, n_node = a->n_node;
  if (n_group < 1 || n_node < 1 || n_group % n_node || a->n_expert % n_group || a->n_slot % n_node || a->ep % n_node) n_group = n_node = 1;
  const int group_size = a->n_expert / n_group, node_experts = a->n_expert / n_node, node_slots = a->n_slot / n_node;
  const size_t n = (size_t)a->n_slot, bytes = n * (4 * sizeof(double) + 5 * sizeof(int32_t) + 2 * sizeof(int) + sizeof(ti_weighted));
  char *mem = calloc(1, bytes);
  if (!mem) return ti_error_set(err, TI_ERR_NOMEM, "placement of %d slots: out of memory", a->n_slot);
  ti_balance b;
  b.sort = (ti_weighted *)mem;  // every list has room for n_slot entries, the widest first
  b.group_load = (double *)(b.sort + n);
  b.load = b.group_load + n;
  b.copy_load = b.load + n;
  b.total = b.copy_load + n;
  b.group_place = (int32_t *)(b.total + n);
  b.node_expert = b.group_place + n;
  b.copy = b.node_expert + n;
  b.place = b.copy + n;
  int32_t *slot_expert = b.place + n;
  b.count = (int *)(slot_expert + n);
  b.used = b.count + n;

  for (int g = 0; g < n_group; g++) {
    b.group_load[g] = 0;
    for (int i = 0; i < group_size; i++) b.group_load[g] += (double)a->load[g * group_size + i];
  }
  pack(b.group_load, n_group, n_node, b.group_place, b.sort, b.total, b.used);
  for (int g = 0; g < n_group; g++)
    for (int i = 0; i < group_size; i++) b.node_expert[b.group_place[g] * group_size + i] = g * group_size + i;
  for (int k = 0; k < n_node; k++)
    balance_node(a, &b, b.node_expert + k * node_experts, node_experts, node_slots, a->ep / n_node, slot_expert + k * node_slots);
  const ti_status st = ti_placement_from_slots(slot_expert, a->n_slot, a->n_expert, a->version, out, err);
  free(mem);
  return st;
}

// ---- copies only ----

typedef struct ti_copies {  // scratch of one run
  double *rank_load;        // [ep]
  int *free_slot, *end;     // [ep] the next redundant slot of a rank, and where they end
  int *count;               // [n_expert] copies
  uint8_t *here;            // [n_expert, ep] whether a rank has one
} ti_copies;

// What the sum of squares gains when expert e gets a copy on rank g: each copy's share falls from load / n to load / (n + 1).
static double gain(const ti_placement_args *a, const ti_copies *c, int e, int g) {
  const double before = (double)a->load[e] / c->count[e], after = (double)a->load[e] / (c->count[e] + 1);
  double sum = 0;
  for (int r = 0; r < a->ep; r++) {
    const double step = (r == g ? after : 0) + c->here[e * a->ep + r] * (after - before);
    sum -= step * (2 * c->rank_load[r] + step);
  }
  return sum;
}

static void add_copy(const ti_placement_args *a, ti_copies *c, int e, int g, int32_t *slot_expert) {
  const double before = (double)a->load[e] / c->count[e], after = (double)a->load[e] / (c->count[e] + 1);
  for (int r = 0; r < a->ep; r++) c->rank_load[r] += c->here[e * a->ep + r] * (after - before);
  c->rank_load[g] += after;
  c->count[e]++;
  c->here[e * a->ep + g]++;
  slot_expert[c->free_slot[g]++] = e;
}

// The lightest rank with room gets the copy that helps most.
static void fill_lightest(const ti_placement_args *a, ti_copies *c, int32_t *slot_expert) {
  int g = -1, best = -1;
  double most = 0;
  for (int r = 0; r < a->ep; r++)
    if (c->free_slot[r] < c->end[r] && (g < 0 || c->rank_load[r] < c->rank_load[g])) g = r;
  for (int e = 0; e < a->n_expert; e++) {
    if (c->here[e * a->ep + g]) continue;
    const double x = gain(a, c, e, g);
    if (best < 0 || x > most) {
      best = e;
      most = x;
    }
  }
  add_copy(a, c, best < 0 ? 0 : best, g, slot_expert);
}

ti_status ti_placement_replicate(const ti_placement_args *a, ti_placement **out, ti_error *err) {
  if (a->n_expert < 1 || a->n_slot < a->n_expert || a->n_slot > 1 << 20 || a->ep < 1 || a->ep > a->n_slot)
    return ti_error_set(err, TI_ERR_ARG, "placement: %d slots on %d ranks for %d experts", a->n_slot, a->ep, a->n_expert);
  const size_t E = (size_t)a->n_expert, ep = (size_t)a->ep, n = (size_t)a->n_slot;
  char *mem = calloc(1, ep * (sizeof(double) + 2 * sizeof(int)) + n * sizeof(int32_t) + E * sizeof(int) + E * ep);
  if (!mem) return ti_error_set(err, TI_ERR_NOMEM, "placement of %d slots: out of memory", a->n_slot);
  ti_copies c = {.rank_load = (double *)mem};
  c.free_slot = (int *)(c.rank_load + ep);
  c.end = c.free_slot + ep;
  c.count = c.end + ep;
  int32_t *slot_expert = (int32_t *)(c.count + E);
  c.here = (uint8_t *)(slot_expert + n);
  for (int g = 0; g < a->ep; g++) {
    long s0, s1, e0, e1;
    ti_split(a->n_slot, a->ep, g, &s0, &s1);
    ti_split(a->n_expert, a->ep, g, &e0, &e1);  // never more than s1 - s0
    for (long e = e0; e < e1; e++) {
      slot_expert[s0 + e - e0] = (int32_t)e;
      c.here[e * a->ep + g] = 1;
      c.count[e] = 1;
      c.rank_load[g] += (double)a->load[e];
    }
    c.free_slot[g] = (int)(s0 + e1 - e0);
    c.end[g] = (int)s1;
  }
  for (int i = a->n_expert; i < a->n_slot; i++) fill_lightest(a, &c, slot_expert);
  const ti_status st = ti_placement_from_slots(slot_expert, a->n_slot, a->n_expert, a->version, out, err);
  free(mem);
  return st;
}

static int copy_in_group(const ti_placement *p, const ti_mesh *mesh, const int32_t *slots, int n, int group) {
  for (int i = 0; i < n; i++)
    if (ti_split_owner(p->n_slot, mesh->ep, slots[i]) == group) return slots[i];
  return -1;
}

int ti_placement_slot(const ti_placement *p, const ti_mesh *mesh, int e, int source) {
  const int32_t *slots = p->replica_slot + p->replica_first[e];
  const int n = p->replica_first[e + 1] - p->replica_first[e], own = copy_in_group(p, mesh, slots, n, ti_mesh_ep_of(mesh, source));
  if (own >= 0 || n == 1) return own >= 0 ? own : slots[0];
  int turn = 0;
  for (int w = 0; w < source; w++) turn += copy_in_group(p, mesh, slots, n, ti_mesh_ep_of(mesh, w)) < 0;
  return slots[turn % n];
}

double ti_placement_imbalance(const ti_placement *p, int ep, const float *load) {
  double heaviest = 0, sum = 0;
  for (int g = 0; g < ep; g++) {
    long begin, end;
    double here = 0;
    ti_split(p->n_slot, ep, g, &begin, &end);
    for (long s = begin; s < end; s++) {
      const int e = p->slot_expert[s];
      here += (double)load[e] / (p->replica_first[e + 1] - p->replica_first[e]);
    }
    sum += here;
    if (here > heaviest) heaviest = here;
  }
  return sum > 0 ? heaviest * ep / sum : 1;
}
