// The one place that knows what Hugging Face calls the tensors of a model, and which exist with which shape and dtype for a given config.
//
//   model.layers.3.mlp.experts.17.gate_proj.weight_scale_inv
//   |layer       |part                     |field
//
// Used by the loader (names), the generator of synthetic weights and the planner (all of it). Pure functions; any thread.
#ifndef TI_MODEL_NAMES_H
#define TI_MODEL_NAMES_H
#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

// part, name within its place, Mixtral's name where another. The order is the order of enumeration.
#define TI_PART_MAP(X)                                                           \
  X(TI_PART_EMBED, "model.embed_tokens", NULL) /* [vocab, hidden] */             \
  X(TI_PART_FINAL_NORM, "model.norm", NULL)                                      \
  X(TI_PART_HEAD, "lm_head", NULL) /* [vocab, hidden]; absent when tied */       \
  X(TI_PART_ENORM, "enorm", NULL)  /* the MTP layer's own */                     \
  X(TI_PART_HNORM, "hnorm", NULL)                                                \
  X(TI_PART_EH_PROJ, "eh_proj", NULL) /* [hidden, 2 hidden] */                   \
  X(TI_PART_SHARED_HEAD_NORM, "shared_head.norm", NULL)                          \
  X(TI_PART_ATTN_NORM, "input_layernorm", NULL)                                  \
  X(TI_PART_FFN_NORM, "post_attention_layernorm", NULL)                          \
  X(TI_PART_Q, "self_attn.q_proj", NULL) /* [heads * head_dim, hidden] */        \
  X(TI_PART_K, "self_attn.k_proj", NULL)                                         \
  X(TI_PART_V, "self_attn.v_proj", NULL)                                         \
  X(TI_PART_O, "self_attn.o_proj", NULL)                                         \
  X(TI_PART_Q_NORM, "self_attn.q_norm", NULL)                                    \
  X(TI_PART_K_NORM, "self_attn.k_norm", NULL)                                    \
  X(TI_PART_Q_A, "self_attn.q_a_proj", NULL) /* MLA */                           \
  X(TI_PART_Q_A_NORM, "self_attn.q_a_layernorm", NULL)                           \
  X(TI_PART_Q_B, "self_attn.q_b_proj", NULL)                                     \
  X(TI_PART_KV_A, "self_attn.kv_a_proj_with_mqa", NULL)                          \
  X(TI_PART_KV_A_NORM, "self_attn.kv_a_layernorm", NULL)                         \
  X(TI_PART_KV_B, "self_attn.kv_b_proj", NULL)                                   \
  X(TI_PART_GATE, "mlp.gate_proj", NULL) /* a dense FFN */                       \
  X(TI_PART_UP, "mlp.up_proj", NULL)                                             \
  X(TI_PART_DOWN, "mlp.down_proj", NULL)                                         \
  X(TI_PART_ROUTER, "mlp.gate", "block_sparse_moe.gate") /* [experts, hidden] */ \
  X(TI_PART_SHARED_GATE, "mlp.shared_experts.gate_proj", NULL)                   \
  X(TI_PART_SHARED_UP, "mlp.shared_experts.up_proj", NULL)                       \
  X(TI_PART_SHARED_DOWN, "mlp.shared_experts.down_proj", NULL)                   \
  X(TI_PART_EXPERT_GATE, "gate_proj", "w1") /* one routed expert */              \
  X(TI_PART_EXPERT_UP, "up_proj", "w3")                                          \
  X(TI_PART_EXPERT_DOWN, "down_proj", "w2")

typedef enum ti_part {
#define TI_X(part, name, mixtral) part,
  TI_PART_MAP(TI_X)
#undef TI_X
      TI_PART_COUNT
} ti_part;

typedef enum ti_field {
  TI_FIELD_WEIGHT,
  TI_FIELD_SCALE,       // weight_scale_inv, fp32 [ceil(rows / block), ceil(cols / block)]
  TI_FIELD_BIAS,        // [rows]
  TI_FIELD_SCORE_BIAS,  // the router's e_score_correction_bias, fp32
  TI_FIELD_COUNT
} ti_field;

#define TI_TENSOR_NAME_MAX 128

typedef struct ti_tensor_spec {
  char name[TI_TENSOR_NAME_MAX];
  ti_part part;
  ti_field field;
  int layer, expert;  // -1: none. Layers from n_layer on are the MTP's
  ti_dtype dtype;     // as checkpoints have it: FP8 for the quantised parts; what a file says counts more
  int n_dim;
  int64_t rows, cols;  // a vector: 1, n
} ti_tensor_spec;

// The tensor for these; TI_ERR_NOTFOUND when this config has none such (a tied head, no bias, a dense part in a MoE layer...).
// layer is ignored for EMBED, FINAL_NORM, HEAD; expert for all but EXPERT_*.
ti_status ti_tensor_spec_of(const ti_config *c, ti_part part, ti_field field, int layer, int expert, ti_tensor_spec *out) TI_MUST_CHECK;
// Calls visit for every tensor of the model in a fixed order; stops at, and returns, the first status that is not TI_OK.
typedef ti_status (*ti_tensor_visit)(void *user, const ti_tensor_spec *spec);
ti_status ti_tensor_each(const ti_config *c, ti_tensor_visit visit, void *user) TI_MUST_CHECK;

#endif
