// The load of experts, from what results say of it: rows a local slot and MoE layer since the worker's last report.
//
//   window [n_layer, n_expert]   what came in since the last publication; a slot's rows count for the expert that stands there
//   ranks  [n_layer, ep]         the same by ep group
//     -> titan_expert_load_ratio{layer}              the busiest expert's rows over the mean (1: balanced)
//     -> titan_expert_load_squared_deviation{layer}  sum over experts of (share - 1 / n)^2 (0: balanced)
//     -> titan_expert_load_switch_loss{layer}        n * sum of share^2 (1: balanced): Switch Transformer's auxiliary loss, equation 4, with
//                                                    the share of rows in place of the router's mean probability, which serving does not keep
//     -> titan_expert_rank_load_ratio{layer}         the busiest ep group's rows over the mean: what copies of experts even out
//     -> titan_expert_load{layer, expert}            rows, of about ten windows (`titan top`'s heat map); DeepSeek-V3 has 14,848
//     -> titan_expert_rows_total{expert}             summed over layers
//
// The loop thread; add is O(layers * local slots) a result, no allocation.
#ifndef TI_COORDINATOR_LOAD_H
#define TI_COORDINATOR_LOAD_H
#include "base/mesh.h"
#include "base/metrics.h"
#include "base/placement.h"
#include "proto/wire.h"

typedef struct ti_load_layer {
  ti_metric *ratio, *squared, *switch_loss, *rank_ratio;
} ti_load_layer;

typedef struct ti_load {
  uint32_t n_layer, n_expert;
  int ep;
  uint64_t *window, *ranks;
  ti_load_layer *layer;  // [n_layer]
  ti_metric **rows;      // [n_expert]
  ti_metric **load;      // [n_layer, n_expert]
} ti_load;

// Nothing is kept when m is NULL or a count is 0: every other call is a no-op then.
ti_status ti_load_init(ti_load *l, ti_metrics *m, uint32_t n_layer, uint32_t n_expert, int ep, ti_error *err) TI_MUST_CHECK;
void ti_load_fini(ti_load *l);
// load [n_layer, slots of that worker], under `placement` [n_layer]; only the first rank of an expert's tensor-parallel ranks counts, as all of them
// see the same rows. TI_ERR_FORMAT: another length (err says which).
ti_status ti_load_add(ti_load *l, const ti_mesh *mesh, int worker, ti_placement *const *placement, ti_u32s load, ti_error *err) TI_MUST_CHECK;
// The window into the metrics; starts a new one.
void ti_load_publish(ti_load *l);

#endif
