// Which rank holds which expert, and which replica a row uses.
//
//   n_expert 6, redundant 2, ep 4:   slot            0  1   2  3   4  5   6  7       slots of ep group g: ti_split(n_slot, ep, g)
//                                    slot_expert     5  2   5  0   1  3   4  1
//   EPLB (deepseek-ai/EPLB): 1. (hierarchical) expert groups are packed onto nodes; 2. each redundant slot goes to the expert whose load a copy is
//   largest;
//   3. copies are packed onto ranks, heaviest first, each onto the lightest rank with a free slot.
//
// Pure functions; a placement is immutable once made.
#ifndef TI_BASE_PLACEMENT_H
#define TI_BASE_PLACEMENT_H
#include <stdint.h>

#include "base/mesh.h"
#include "base/status.h"

// Which rank's slot holds which expert: `slots` physical experts, some of them replicas. Arrays owned by the placement's maker.
typedef struct ti_placement {
  uint32_t version;
  int n_expert, n_slot;          // n_slot = n_expert + redundant
  const int32_t *slot_expert;    // [n_slot] logical expert of each physical slot; slots of ep group g are ti_split(n_slot, ep, g)
  const int32_t *replica_first;  // [n_expert + 1] into replica_slot
  const int32_t *replica_slot;   // [n_slot] slots of each expert, ascending
} ti_placement;

typedef struct ti_placement_args {
  const float *load;     // [n_expert] rows of the preceding window
  int n_expert, n_slot;  // n_slot >= n_expert
  int ep;                // ep groups that share the slots
  int n_group, n_node;   // hierarchical where n_node divides n_group, n_slot and ep; else (or 0, 0) global: one group, one node
  uint32_t version;
} ti_placement_args;

// Slot i holds expert i.
ti_status ti_placement_identity(int n_expert, uint32_t version, ti_placement **out, ti_error *err) TI_MUST_CHECK;
// O(n_slot * (n_expert + ep)). Ties: the lower index first.
ti_status ti_placement_balance(const ti_placement_args *a, ti_placement **out, ti_error *err) TI_MUST_CHECK;
// Experts stay where identity puts them, in each rank's first slots; only its redundant slots, the last ones, are chosen: one after another the lightest
// rank with room gets the copy that lowers the sum of squares of the ranks' loads most. What a running server can change by loading copies alone.
// Every redundant slot is filled; a rank holds an expert twice only when it holds all. Groups and nodes are not looked at. O(redundant * n_expert * ep).
ti_status ti_placement_replicate(const ti_placement_args *a, ti_placement **out, ti_error *err) TI_MUST_CHECK;
// From a list of experts by slot (a plan's). TI_ERR_RANGE: an expert out of range; TI_ERR_FORMAT: an expert without a slot.
ti_status ti_placement_from_slots(const int32_t *slot_expert, int n_slot, int n_expert, uint32_t version, ti_placement **out,
                                  ti_error *err) TI_MUST_CHECK;
void ti_placement_destroy(ti_placement *p);  // NULL is fine

// The slot that worker `source` uses for expert e: a replica in its own ep group if there is one; the workers without take turns, in their order,
// over all replicas. Constant for a placement, so that a row's arithmetic does not depend on what else is in the batch. O(workers * copies).
int ti_placement_slot(const ti_placement *p, const ti_mesh *mesh, int e, int source);
// The heaviest rank's load over the mean, 1 = even: what a placement is judged by. load as in the arguments; copies share evenly.
double ti_placement_imbalance(const ti_placement *p, int ep, const float *load);

#endif
