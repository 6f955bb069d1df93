// This rank's share of the weights, prepared for its device: what the graph multiplies with.
//
// Cut from the checkpoint by parallel/shard.h: attention heads and FFN widths over tp, the vocabulary over tp, experts over ep and their width over etp
// (MLA's down-projections, norms, router and shared experts are whole on every rank). Owned by the engine; read-only after load.
#ifndef TI_WORKER_WEIGHTS_H
#define TI_WORKER_WEIGHTS_H
#include <stdint.h>

#include "base/arena.h"
#include "base/mesh.h"
#include "base/status.h"
#include "kernels/kernel.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "parallel/expert/exchange.h"
#include "parallel/shard.h"

typedef struct ti_expert_weights {
  ti_weight *gate_up;  // [n_local] each [2 * width, hidden]
  ti_weight *down;     // [n_local] each [hidden, width]
} ti_expert_weights;

typedef struct ti_layer_weights {
  float *attn_norm, *ffn_norm;          // [hidden]
  // GQA
  ti_weight qkv;                        // [(n_head + 2 * n_kv) * head_dim, hidden]
  float *qkv_bias, *o_bias;             // NULL: none
  float *q_norm, *k_norm;               // [head_dim] (Qwen3), NULL: none
  // MLA
  ti_weight q_a, q_b;                   // [q_lora, hidden], [n_head * (nope + rope), q_lora]; q_lora 0: q_b is [.., hidden]
  ti_weight kv_a;                       // [latent + rope, hidden]
  float *q_a_norm, *kv_a_norm;
  ti_weight *uk, *uv;                   // [n_head] W_UK^T [latent, nope] and W_UV [v, latent], of each head
  ti_weight kv_b;                       // [n_head * (nope + v), latent], both of all heads: the expanded form's; n == 0: not loaded
  ti_weight o;                          // [hidden, n_head * head_dim or v]
  // dense FFN, or the shared expert of a MoE layer
  ti_weight gate_up, down;              // n == 0: none
  // MoE
  ti_weight router;                     // [n_expert, hidden]
  float *router_bias;                   // [n_expert] or NULL
  ti_expert_weights experts;
} ti_layer_weights;

typedef struct ti_mtp_weights {
  float *enorm, *hnorm, *norm;          // [hidden]
  ti_weight eh_proj;                    // [hidden, 2 * hidden]
  ti_layer_weights layer;
} ti_mtp_weights;

typedef struct ti_weights {
  ti_weight embed;                      // [n_vocab, hidden], this rank's ids
  ti_weight lm_head;                    // the same matrix when embeddings are tied
  int vocab0, n_vocab;
  float *norm;                          // [hidden]
  ti_layer_weights *layer;              // [n_layer]
  ti_mtp_weights *mtp;                  // [n_mtp] or NULL
  ti_shard_heads heads;
  int ffn_width, expert_width;          // of this rank
  uint64_t bytes;                       // prepared and used as stored
  // owned
  ti_arena host;                        // tables of ti_weight
  ti_arena *kept;                       // [n_kept] generated tensors used as stored
  int n_kept;
  const ti_kernels *kernels;
  ti_dev *dev;
  void **mem;                           // device blocks
  int n_mem, cap_mem;
} ti_weights;

typedef struct ti_weights_options {
  const ti_config *model;
  const ti_checkpoint *ckpt;
  const ti_kernels *kernels;
  ti_dev *dev;
  ti_mesh mesh;
  int worker;
  ti_placement *const *placement;       // [MoE layers, MTP's behind the main ones] which experts this rank holds; NULL for dense models
  bool mtp;
  bool to_fp8;                          // linear layers of wider types become E4M3 (--quantization fp8)
  bool expanded;                        // load kv_b too
  bool allow_nan;                       // else a weight or scale that is NaN or infinite is TI_ERR_FORMAT
} ti_weights_options;

// Errors name the tensor. On failure everything is freed. Of experts only those at home are loaded: the tables have room for the redundant slots behind
// them, which ti_replicas fills (MTP layers: all slots).
ti_status ti_weights_load(const ti_weights_options *o, ti_weights *out, ti_error *err) TI_MUST_CHECK;
// One expert's part for this rank, at its layer, into memory that *own keeps (zeroed before the first call; ti_weights_fini frees it). From any one thread
// with a device handle (o->dev) of its own.
ti_status ti_weights_load_expert(const ti_weights_options *o, ti_weights *own, int layer, int expert, ti_weight *gate_up, ti_weight *down,
                                 ti_error *err) TI_MUST_CHECK;
void ti_weights_fini(ti_weights *w);  // safe on a zeroed struct

#endif
