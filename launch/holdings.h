// What a worker holds, by arithmetic alone: weights by kind, KV bytes a token. For --plan, the report at start-up and the sizes that flags leave
// open.
//
// Weights count as the checkpoint stores them; a backend may repack some (kernels/kernel.h: weight_size), which the engine's own figure includes.
#ifndef TI_LAUNCH_HOLDINGS_H
#define TI_LAUNCH_HOLDINGS_H
#include <stdint.h>

#include "base/dtype.h"
#include "base/mesh.h"
#include "model/config.h"

typedef enum ti_holding { TI_HOLD_EMBED, TI_HOLD_ATTENTION, TI_HOLD_FFN, TI_HOLD_SHARED, TI_HOLD_EXPERTS, TI_HOLD_SMALL, TI_HOLD_COUNT } ti_holding;
const char *ti_holding_name(ti_holding h);  // "embedding and head"

typedef struct ti_holdings {
  uint64_t weight[TI_HOLD_COUNT], weights;  // bytes
  uint64_t page_bytes;                      // KV of page_tokens tokens
  int heads, kv_heads, experts, expert_width;
} ti_holdings;

// n_redundant: copies of experts in each MoE layer, over all workers. TI_ERR_ARG: the mesh does not divide the model (heads by tp,
// expert width by etp): says which sizes would do.
ti_status ti_holdings_of(const ti_config *c, const ti_mesh *mesh, int n_redundant, int worker, uint32_t page_tokens, ti_dtype kv_dtype,
                         ti_holdings *out, ti_error *err) TI_MUST_CHECK;

#endif
