// Where copies of hot experts stand, from the loads of the window before (DESIGN 7). Experts stay where they are; only the redundant slots change
// hands.
//
//   COLLECT  rows by expert, until the window has enough tokens
//   COMPUTE  one layer a tick (ti_placement_replicate), so that no turn takes long
//   WAIT     the placement is sent; workers load the copies beside the old ones and say in their results which version they have
//   switch   once all have it, the next step's plans name it: the same step on all ranks. The window is halved, so that it slides
//
// A layer has a placement of its own: real routing differs so much between layers that one for all evens out nothing (benchmarks/coll/balance_bench).
// The loop thread. Without redundant slots only the placement in force is kept, for the load metrics.
#ifndef TI_COORDINATOR_BALANCE_H
#define TI_COORDINATOR_BALANCE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/mesh.h"
#include "base/placement.h"
#include "proto/wire.h"

enum { TI_BALANCE_RANKS = 64 };
typedef enum ti_balance_phase { TI_BALANCE_COLLECT, TI_BALANCE_COMPUTE, TI_BALANCE_WAIT } ti_balance_phase;

typedef struct ti_balance {
  uint32_t n_layer, n_expert, n_slot;
  ti_mesh mesh;
  ti_balance_phase phase;
  uint64_t rows, window_rows;            // in the window, of all layers
  float *seen;                           // [n_layer, n_expert]
  uint32_t version, layer;               // in force; COMPUTE's next layer
  uint64_t since_step;                   // the first step under `now`
  ti_placement **now, **before, **next;  // [n_layer]
  uint32_t *slots;                       // [n_layer, n_slot] of next, as the message has them
  bool ready[TI_BALANCE_RANKS];          // workers that have next
} ti_balance;

// n_layer 0: a model without experts, every other call is a no-op. window_tokens: routed tokens a window.
ti_status ti_balance_init(ti_balance *b, const ti_mesh *mesh, uint32_t n_layer, uint32_t n_expert, uint32_t n_redundant, uint32_t n_top,
                          uint32_t window_tokens, ti_error *err) TI_MUST_CHECK;
void ti_balance_fini(ti_balance *b);
// The placements [n_layer] that the step ran under; NULL without experts.
ti_placement *const *ti_balance_at(const ti_balance *b, uint64_t step);
// load: of a result whose length ti_load_add or the caller has checked; others are passed over.
void ti_balance_add(ti_balance *b, int worker, uint64_t step, ti_u32s load);
// One layer's worth of work. true: *out is to be sent to all workers, and borrowed from b until the next tick.
bool ti_balance_tick(ti_balance *b, ti_msg_placement *out);
// The worker has loaded that version.
void ti_balance_ready(ti_balance *b, int worker, uint32_t version);
// Before the plans of `step` are sealed: the version that they name.
uint32_t ti_balance_switch(ti_balance *b, uint64_t step);

#endif
