// What config.json says about a model, as plain numbers: the axes from which the graph is built. One struct for all architectures.
//
// Read from Hugging Face's config.json (both `rope_theta` + `rope_scaling` and transformers 5's `rope_parameters`), from GGUF metadata, or from a
// `random:` spec. Every field is bounds-checked; an architecture or option that changes the arithmetic and is not known is refused by name.
#ifndef TI_MODEL_CONFIG_H
#define TI_MODEL_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

typedef enum ti_attn_kind { TI_ATTN_GQA, TI_ATTN_MLA } ti_attn_kind;
typedef enum ti_rope_scaling { TI_ROPE_NONE, TI_ROPE_LINEAR, TI_ROPE_LLAMA3, TI_ROPE_YARN } ti_rope_scaling;
typedef enum ti_router_kind { TI_ROUTER_SIGMOID, TI_ROUTER_SOFTMAX } ti_router_kind;

typedef struct ti_rope_config {
  ti_rope_scaling scaling;
  bool interleaved;  // pairs (2i, 2i+1) (DeepSeek, GGUF llama) or half-split (i, i + dim/2) (Llama's HF layout)
  int dim;           // rotated numbers a head
  double theta, factor;
  double low_freq_factor, high_freq_factor;  // llama3
  int original_max_position;                 // llama3, yarn
  double beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor;  // yarn; attention_factor 0 = derive it
} ti_rope_config;

typedef struct ti_moe_config {
  int n_expert;       // routed experts a layer; 0: a dense model
  int n_top;          // experts a token
  int n_group, n_top_group;  // 1, 1: no groups
  int n_shared;       // shared experts, computed as one FFN of width n_shared * ffn
  int ffn;            // width of one routed expert
  int n_dense_layer;  // the first layers, which are dense (first_k_dense_replace)
  ti_router_kind router;
  bool score_bias;    // e_score_correction_bias takes part in the selection, not in the weight
  bool group_top2;    // a group's score is the sum of its two best (V3); else its best (V2)
  bool norm_topk;
  double scale;       // routed_scaling_factor
  bool shared_gate;   // Qwen2-MoE's gate on the shared expert (refused so far)
} ti_moe_config;

#define TI_MAX_EOS 8

typedef struct ti_config {
  char arch[64];  // "LlamaForCausalLM"
  int hidden, n_layer, n_head, n_kv_head, head_dim, ffn, vocab, max_position;
  double rms_eps;
  bool tie_embeddings, qkv_bias, o_bias, mlp_bias, qk_norm;
  ti_attn_kind attn;
  int q_lora, kv_lora, qk_nope, qk_rope, v_dim;  // MLA; q_lora 0: direct Q. With MLA head_dim is qk_nope + qk_rope and n_kv_head is n_head
  ti_rope_config rope;
  double softmax_scale;  // of attention scores, YaRN's mscale^2 included (V3: 192^-0.5 * 1.87385)
  ti_moe_config moe;
  int n_mtp;              // MTP layers in the checkpoint (num_nextn_predict_layers)
  ti_dtype weight_dtype;  // of linear weights as stored: F32, F16, BF16, E4M3 (block scales); of a GGUF file: what most of them have
  int fp8_block_n, fp8_block_k;  // 128, 128 with block scales; 0 otherwise
  int bos, n_eos, eos[TI_MAX_EOS];  // bos -1: none
  bool synthetic;         // random weights, no tokenizer: token-id prompts only
} ti_config;

// From a model folder (config.json + generation_config.json's eos list) or a file in one, a .gguf file, or a `random:ARCH?key=value&...` spec (synthetic.h).
// Errors name file and field.
ti_status ti_config_load(const char *model, ti_config *out, ti_error *err) TI_MUST_CHECK;
// From the text of a config.json.
ti_status ti_config_parse(const char *json, size_t n, ti_config *out, ti_error *err) TI_MUST_CHECK;
// From "random:llama?hidden=64&layers=2" or a preset "random:tinyllama-1.1b", "random:llama3-8b", "random:deepseek_v3[?layers=4]"; *seed gets seed=
// (0). Values are JSON or bare words: `rope_scaling={"type":"linear","factor":2}`, `torch_dtype=float32`.
ti_status ti_config_random(const char *spec, ti_config *out, uint64_t *seed, ti_error *err) TI_MUST_CHECK;
// The inverse frequencies [rope.dim / 2] with scaling applied, in fp64 arithmetic rounded once; *attn_factor multiplies cos and sin (YaRN's ratio of
// mscales).
// Sources: Llama 3.1's rope_scaling; YaRN (Peng et al. 2023, section 3.4) as in DeepSeek-V3's modeling file.
void ti_rope_frequencies(const ti_rope_config *r, float *inv_freq, float *attn_factor);
static inline bool ti_config_layer_is_moe(const ti_config *c, int layer) { return c->moe.n_expert > 0 && layer >= c->moe.n_dense_layer; }

#endif
