// The load of experts, from what results say of it: rows a local expert and MoE layer since the worker's last report.
//
//   window [n_layer, n_expert]   what came in since the last publication
//     -> titan_expert_load_ratio{layer}: the busiest expert's rows over the mean (1: balanced; the load-balance loss of training, seen from serving)
//     -> titan_expert_rows_total{expert}: summed over layers
//
// The loop thread; add is O(layers * local experts) a result, no allocation.
#ifndef TI_COORDINATOR_LOAD_H
#define TI_COORDINATOR_LOAD_H
#include "base/mesh.h"
#include "base/metrics.h"
#include "proto/wire.h"

typedef struct ti_load {
  uint32_t n_layer, n_expert;
  uint64_t *window;
  ti_metric **ratio, **rows;  // [n_layer], [n_expert]
} ti_load;

// Nothing is kept when m is NULL or a count is 0: every other call is a no-op then.
ti_status ti_load_init(ti_load *l, ti_metrics *m, uint32_t n_layer, uint32_t n_expert, ti_error *err) TI_MUST_CHECK;
void ti_load_fini(ti_load *l);
// load [n_layer, experts of that worker]; only the first rank of an expert's tensor-parallel ranks counts, as all of them see the same rows.
// TI_ERR_FORMAT: another length (err says which).
ti_status ti_load_add(ti_load *l, const ti_mesh *mesh, int worker, ti_u32s load, ti_error *err) TI_MUST_CHECK;
// The window into the metrics; starts a new one.
void ti_load_publish(ti_load *l);

#endif
