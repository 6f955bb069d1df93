// The copies of hot experts on this rank: loaded in the background, put in place at a step boundary.
//
//   step loop                              loader thread (one a placement)
//     stage(version, slots) ------------->   weights of the redundant slots, from the checkpoint into memory of their own
//     ready() == version     <-----------    done
//     swap(): the layers' weight tables and the exchange; the set before is freed
//
// A copy takes the memory of one expert of one layer (of this rank's width); while a set is being loaded both it and the one in use are held. Experts
// at home never move. The loader has a device handle of its own: one thread a handle.
#ifndef TI_WORKER_REPLICAS_H
#define TI_WORKER_REPLICAS_H
#include "base/placement.h"
#include "parallel/expert/exchange.h"
#include "worker/weights.h"

typedef struct ti_replicas ti_replicas;

// o, w and its placements are borrowed and outlive it; dev: options of the loader's handle, one thread. Loads the copies that o->placement names,
// before it returns, and puts them into w's tables. n_layer: MoE layers of the model, without MTP.
ti_status ti_replicas_create(const ti_weights_options *o, const ti_dev_options *dev, ti_weights *w, int n_layer, ti_replicas **out,
                             ti_error *err) TI_MUST_CHECK;
void ti_replicas_destroy(ti_replicas *r);  // waits for a loader that runs (bounded by its loading); NULL is fine
// slot_expert [n_layer, n_slot]. TI_ERR_FORMAT, TI_ERR_RANGE: it does not fit, moves an expert from its home, or comes while
// another is being loaded.
ti_status ti_replicas_stage(ti_replicas *r, uint32_t version, const uint32_t *slot_expert, uint32_t n, ti_error *err) TI_MUST_CHECK;
// The newest version whose copies are here. TI_OK, or why the loading failed (once; the version in use stays).
ti_status ti_replicas_ready(ti_replicas *r, uint32_t *version, ti_error *err) TI_MUST_CHECK;
// Puts `version`, which is ready, in force: placement [n_layer] are replaced and the old ones destroyed. TI_ERR_FORMAT: it is not the one that is
// ready.
ti_status ti_replicas_swap(ti_replicas *r, uint32_t version, ti_exchange *x, ti_placement **placement, ti_error *err) TI_MUST_CHECK;

#endif
