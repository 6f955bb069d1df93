// config.json -> ti_config. Pure functions of the text; any thread.
//
// Architectures are rows of one table: which axes they switch on (MLA, biases, QK norm, kind of router) and Hugging Face's defaults for absent
// keys. After the table only names.c asks for one (Mixtral names its tensors differently). What would change the arithmetic and is unknown here is
// refused by name, so that a model either computes what its authors meant or does not start.
#include "model/config.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/config_priv.h"
#include "model/gguf/gguf_model.h"

enum {
  MAX_HIDDEN = 1 << 20,
  MAX_LAYERS = 1024,
  MAX_HEADS = 4096,
  MAX_HEAD_DIM = 1024,
  MAX_VOCAB = 1 << 22,
  MAX_POSITION = 1 << 24,
  MAX_EXPERTS = 4096
};
enum { FP8_BLOCK = 128 };

typedef enum moe_keys { MOE_NONE, MOE_MIXTRAL, MOE_QWEN3, MOE_DEEPSEEK_V2, MOE_DEEPSEEK_V3 } moe_keys;
typedef enum window_rule { WINDOW_NONE, WINDOW_ALWAYS, WINDOW_SWITCHED } window_rule;  // sliding_window alone, or with use_sliding_window

typedef struct arch_row {
  const char *name, *type;  // architectures[0], model_type
  ti_attn_kind attn;
  bool attention_bias, mlp_bias;  // the keys of that name are read: bias on q, k, v and o; on gate, up and down
  bool qkv_bias, qk_norm;         // always there
  moe_keys moe;
  window_rule window;
  int default_window, default_head_dim, default_max_position;
  double default_eps, default_theta;
} arch_row;

static const arch_row arches[] = {
    {.name = "LlamaForCausalLM",
     .type = "llama",
     .attention_bias = true,
     .mlp_bias = true,
     .default_max_position = 2048,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "MistralForCausalLM",
     .type = "mistral",
     .window = WINDOW_ALWAYS,
     .default_window = 4096,
     .default_max_position = 131072,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "MixtralForCausalLM",
     .type = "mixtral",
     .window = WINDOW_ALWAYS,
     .moe = MOE_MIXTRAL,
     .default_max_position = 131072,
     .default_eps = 1e-5,
     .default_theta = 1e6},
    {.name = "Qwen2ForCausalLM",
     .type = "qwen2",
     .qkv_bias = true,
     .window = WINDOW_SWITCHED,
     .default_max_position = 32768,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "Qwen3ForCausalLM",
     .type = "qwen3",
     .attention_bias = true,
     .qk_norm = true,
     .window = WINDOW_SWITCHED,
     .default_head_dim = 128,
     .default_max_position = 32768,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "Qwen3MoeForCausalLM",
     .type = "qwen3_moe",
     .attention_bias = true,
     .qk_norm = true,
     .window = WINDOW_SWITCHED,
     .moe = MOE_QWEN3,
     .default_max_position = 32768,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "DeepseekV2ForCausalLM",
     .type = "deepseek_v2",
     .attn = TI_ATTN_MLA,
     .moe = MOE_DEEPSEEK_V2,
     .default_max_position = 2048,
     .default_eps = 1e-6,
     .default_theta = 1e4},
    {.name = "DeepseekV3ForCausalLM",
     .type = "deepseek_v3",
     .attn = TI_ATTN_MLA,
     .moe = MOE_DEEPSEEK_V3,
     .default_max_position = 4096,
     .default_eps = 1e-6,
     .default_theta = 1e4},
};
#define N_ARCH (sizeof(arches) / sizeof(arches[0]))

static bool present(const json_t *obj, const char *key) {
  const json_t *v = json_object_get(obj, key);
  return v && !json_is_null(v);
}

ti_status ti_config_int(const json_t *obj, const char *key, int lo, int hi, bool required, int *out, ti_error *err) {
  if (required && !present(obj, key)) return ti_error_set(err, TI_ERR_FORMAT, "%s: missing (expected an integer in %d..%d)", key, lo, hi);
  int64_t v = *out;
  const ti_status st = ti_json_int(obj, key, lo, hi, &v, err);
  if (st == TI_OK) *out = (int)v;
  return st;
}

static ti_status find_arch(const json_t *root, const arch_row **out, ti_error *err) {
  const json_t *list = json_object_get(root, "architectures");
  const char *name = json_string_value(json_array_get(list, 0)), *type = NULL;
  ti_status st = ti_json_str(root, "model_type", &type, err);
  if (st != TI_OK) return st;
  for (size_t i = 0; i < N_ARCH; i++) {
    if (name ? strcmp(name, arches[i].name) == 0 : type && strcmp(type, arches[i].type) == 0) {
      *out = &arches[i];
      return TI_OK;
    }
  }
  char known[240] = "";
  for (size_t i = 0, n = 0; i < N_ARCH && n < sizeof(known); i++)
    n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", arches[i].type);
  if (!name && !type) return ti_error_set(err, TI_ERR_FORMAT, "architectures: missing, and so is model_type (known: %s)", known);
  return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: \"%.64s\" is not supported (known: %s)", name ? "architectures" : "model_type",
                      name ? name : type, known);
}

// Keys that some checkpoints carry and whose other values would change the result.
static ti_status refuse_unknown_arithmetic(const json_t *root, const arch_row *a, const ti_config *c, ti_error *err) {
  const char *act = "silu";
  ti_status st = ti_json_str(root, "hidden_act", &act, err);
  if (st != TI_OK) return st;
  if (strcmp(act, "silu") != 0) return ti_error_set(err, TI_ERR_UNSUPPORTED, "hidden_act: \"%.40s\" is not supported (silu is)", act);

  static const struct {
    const char *key;
    double neutral;
  } scalars[] = {{"partial_rotary_factor", 1},  {"embedding_multiplier", 1},    {"residual_multiplier", 1}, {"logits_scaling", 1},
                 {"attn_logit_softcapping", 0}, {"final_logit_softcapping", 0}, {"logit_scale", 1},         {"query_pre_attn_scalar", 0},
                 {"attention_chunk_size", 0},   {"attention_multiplier", 0},    {"index_topk", 0}};
  for (size_t i = 0; i < sizeof(scalars) / sizeof(scalars[0]); i++) {
    const json_t *v = json_object_get(root, scalars[i].key);
    if (v && !json_is_null(v) && !(json_is_number(v) && json_number_value(v) == scalars[i].neutral))
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: a value other than %g is not supported", scalars[i].key, scalars[i].neutral);
  }

  bool use = a->window == WINDOW_ALWAYS;
  if (a->window == WINDOW_SWITCHED && (st = ti_json_bool(root, "use_sliding_window", &use, err)) != TI_OK) return st;
  if (use) {
    int window = json_object_get(root, "sliding_window") ? 0 : a->default_window;
    if ((st = ti_config_int(root, "sliding_window", 1, INT32_MAX, false, &window, err)) != TI_OK) return st;
    if (window > 0 && window < c->max_position)
      return ti_error_set(err, TI_ERR_UNSUPPORTED,
                          "sliding_window: %d is below max_position_embeddings (%d): sliding-window attention is not supported", window,
                          c->max_position);
  }
  size_t i;
  json_t *v;
  json_array_foreach(json_object_get(root, "layer_types"), i, v) {
    const char *t = json_string_value(v);
    if (!t || strcmp(t, "full_attention") != 0)
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "layer_types[%zu]: \"%.40s\" is not supported (full_attention is)", i, t ? t : "?");
  }
  return TI_OK;
}

static ti_status parse_dtype(const json_t *root, ti_config *c, ti_error *err) {
  const char *name = "float32";
  ti_status st = ti_json_str(root, "torch_dtype", &name, err);
  if (st == TI_OK) st = ti_json_str(root, "dtype", &name, err);  // transformers 5
  if (st != TI_OK) return st;
  if (strcmp(name, "bfloat16") == 0)
    c->weight_dtype = TI_BF16;
  else if (strcmp(name, "float16") == 0)
    c->weight_dtype = TI_F16;
  else if (strcmp(name, "float32") == 0)
    c->weight_dtype = TI_F32;
  else
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "torch_dtype: \"%.40s\" is not supported (bfloat16, float16 and float32 are)", name);
  return TI_OK;
}

// DeepSeek's FP8: e4m3 weights with an fp32 scale a 128 x 128 block, activations scaled at run time.
static ti_status parse_quantization(const json_t *root, ti_config *c, ti_error *err) {
  const json_t *q = json_object_get(root, "quantization_config");
  if (!q || json_is_null(q)) return TI_OK;
  if (!json_is_object(q)) return ti_error_set(err, TI_ERR_FORMAT, "quantization_config: expected an object");
  const char *method = "?", *fmt = "e4m3", *scheme = "dynamic";
  ti_status st = ti_json_str(q, "quant_method", &method, err);
  if (st == TI_OK) st = ti_json_str(q, "fmt", &fmt, err);
  if (st == TI_OK) st = ti_json_str(q, "activation_scheme", &scheme, err);
  if (st != TI_OK) return ti_error_prefix(err, "quantization_config");
  if (strcmp(method, "fp8") != 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "quantization_config.quant_method: \"%.40s\" is not supported (fp8 with weight_block_size is)",
                        method);
  if (strcmp(fmt, "e4m3") != 0) return ti_error_set(err, TI_ERR_UNSUPPORTED, "quantization_config.fmt: \"%.40s\" is not supported (e4m3 is)", fmt);
  if (strcmp(scheme, "dynamic") != 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "quantization_config.activation_scheme: \"%.40s\" is not supported (dynamic is)", scheme);
  const json_t *b = json_object_get(q, "weight_block_size");
  if (json_array_size(b) != 2 || json_integer_value(json_array_get(b, 0)) != FP8_BLOCK || json_integer_value(json_array_get(b, 1)) != FP8_BLOCK)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "quantization_config.weight_block_size: expected [%d, %d]", FP8_BLOCK, FP8_BLOCK);
  c->weight_dtype = TI_E4M3;
  c->fp8_block_n = c->fp8_block_k = FP8_BLOCK;
  return TI_OK;
}

static ti_status parse_gqa(const json_t *root, const arch_row *a, ti_config *c, ti_error *err) {
  ti_status st;
  c->n_kv_head = c->n_head;
  if ((st = ti_config_int(root, "num_key_value_heads", 1, MAX_HEADS, false, &c->n_kv_head, err)) != TI_OK) return st;
  if (c->n_head % c->n_kv_head != 0)
    return ti_error_set(err, TI_ERR_RANGE, "num_key_value_heads: %d does not divide num_attention_heads (%d)", c->n_kv_head, c->n_head);
  c->head_dim = a->default_head_dim ? a->default_head_dim : c->hidden / c->n_head;
  if (!present(root, "head_dim") && !a->default_head_dim && c->hidden % c->n_head != 0)
    return ti_error_set(err, TI_ERR_RANGE, "num_attention_heads: %d does not divide hidden_size (%d), and head_dim is missing", c->n_head, c->hidden);
  if ((st = ti_config_int(root, "head_dim", 2, MAX_HEAD_DIM, false, &c->head_dim, err)) != TI_OK) return st;
  if (c->head_dim % 2 != 0 || c->head_dim < 2 || c->head_dim > MAX_HEAD_DIM)
    return ti_error_set(err, TI_ERR_RANGE, "head_dim: expected an even number in 2..%d, got %d", MAX_HEAD_DIM, c->head_dim);
  bool bias = false;
  if (a->attention_bias && (st = ti_json_bool(root, "attention_bias", &bias, err)) != TI_OK) return st;
  if (a->mlp_bias && (st = ti_json_bool(root, "mlp_bias", &c->mlp_bias, err)) != TI_OK) return st;
  c->qkv_bias = bias || a->qkv_bias;
  c->o_bias = bias;
  c->qk_norm = a->qk_norm;
  c->rope.dim = c->head_dim;
  c->softmax_scale = 1.0 / sqrt(c->head_dim);
  return TI_OK;
}

static ti_status parse_mla(const json_t *root, ti_config *c, ti_error *err) {
  ti_status st;
  bool bias = false;
  if ((st = ti_config_int(root, "q_lora_rank", 1, 1 << 16, false, &c->q_lora, err)) != TI_OK ||
      (st = ti_config_int(root, "kv_lora_rank", 1, 1 << 16, true, &c->kv_lora, err)) != TI_OK ||
      (st = ti_config_int(root, "qk_nope_head_dim", 1, MAX_HEAD_DIM, true, &c->qk_nope, err)) != TI_OK ||
      (st = ti_config_int(root, "qk_rope_head_dim", 2, MAX_HEAD_DIM, true, &c->qk_rope, err)) != TI_OK ||
      (st = ti_config_int(root, "v_head_dim", 1, MAX_HEAD_DIM, true, &c->v_dim, err)) != TI_OK ||
      (st = ti_json_bool(root, "attention_bias", &bias, err)) != TI_OK)
    return st;
  if (bias) return ti_error_set(err, TI_ERR_UNSUPPORTED, "attention_bias: true is not supported with MLA");
  if (c->qk_rope % 2 != 0) return ti_error_set(err, TI_ERR_RANGE, "qk_rope_head_dim: expected an even number, got %d", c->qk_rope);
  c->n_kv_head = c->n_head;
  c->head_dim = c->qk_nope + c->qk_rope;
  c->rope.dim = c->qk_rope;
  c->rope.interleaved = true;
  if ((st = ti_json_bool(root, "rope_interleave", &c->rope.interleaved, err)) != TI_OK) return st;
  c->softmax_scale = ti_rope_score_factor(&c->rope) / sqrt(c->head_dim);
  return TI_OK;
}

static ti_status parse_moe_mixtral(const json_t *root, ti_config *c, ti_error *err) {
  ti_moe_config *m = &c->moe;
  m->n_expert = 8;
  m->n_top = 2;
  m->ffn = c->ffn;
  m->norm_topk = true;
  ti_status st = ti_config_int(root, "num_local_experts", 1, MAX_EXPERTS, false, &m->n_expert, err);
  if (st == TI_OK) st = ti_config_int(root, "num_experts_per_tok", 1, MAX_EXPERTS, false, &m->n_top, err);
  return st;
}

static ti_status parse_moe_qwen3(const json_t *root, ti_config *c, ti_error *err) {
  ti_moe_config *m = &c->moe;
  int step = 1;
  ti_status st;
  if ((st = ti_config_int(root, "num_experts", 1, MAX_EXPERTS, true, &m->n_expert, err)) != TI_OK ||
      (st = ti_config_int(root, "num_experts_per_tok", 1, MAX_EXPERTS, true, &m->n_top, err)) != TI_OK ||
      (st = ti_config_int(root, "moe_intermediate_size", 1, MAX_HIDDEN, true, &m->ffn, err)) != TI_OK ||
      (st = ti_config_int(root, "decoder_sparse_step", 1, MAX_LAYERS, false, &step, err)) != TI_OK ||
      (st = ti_json_bool(root, "norm_topk_prob", &m->norm_topk, err)) != TI_OK)
    return st;
  if (step != 1) return ti_error_set(err, TI_ERR_UNSUPPORTED, "decoder_sparse_step: %d is not supported (1 is)", step);
  size_t i;
  json_t *v;
  json_array_foreach(json_object_get(root, "mlp_only_layers"), i, v) {
    if (!json_is_integer(v) || json_integer_value(v) != (json_int_t)i)
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "mlp_only_layers: only the first layers may be dense ([0, 1, ...]); entry %zu is another", i);
    if (i >= MAX_LAYERS) return ti_error_set(err, TI_ERR_RANGE, "mlp_only_layers: more than %d entries", MAX_LAYERS);
    m->n_dense_layer = (int)i + 1;
  }
  return TI_OK;
}

static ti_status parse_moe_deepseek(const json_t *root, bool v3, ti_config *c, ti_error *err) {
  ti_moe_config *m = &c->moe;
  if (!present(root, "n_routed_experts")) return TI_OK;
  const char *method = v3 ? "noaux_tc" : "greedy", *score = v3 ? "sigmoid" : "softmax";
  int freq = 1;
  ti_status st;
  m->scale = v3 ? 2.5 : 1.0;
  m->norm_topk = v3;
  m->n_group = v3 ? 8 : 1;
  m->n_top_group = v3 ? 4 : 1;
  m->n_dense_layer = v3 ? 3 : 0;
  if ((st = ti_config_int(root, "n_routed_experts", 1, MAX_EXPERTS, true, &m->n_expert, err)) != TI_OK ||
      (st = ti_config_int(root, "num_experts_per_tok", 1, MAX_EXPERTS, true, &m->n_top, err)) != TI_OK ||
      (st = ti_config_int(root, "moe_intermediate_size", 1, MAX_HIDDEN, true, &m->ffn, err)) != TI_OK ||
      (st = ti_config_int(root, "n_shared_experts", 0, 64, false, &m->n_shared, err)) != TI_OK ||
      (st = ti_config_int(root, "n_group", 1, MAX_EXPERTS, false, &m->n_group, err)) != TI_OK ||
      (st = ti_config_int(root, "topk_group", 1, MAX_EXPERTS, false, &m->n_top_group, err)) != TI_OK ||
      (st = ti_config_int(root, "first_k_dense_replace", 0, MAX_LAYERS, false, &m->n_dense_layer, err)) != TI_OK ||
      (st = ti_config_int(root, "moe_layer_freq", 1, MAX_LAYERS, false, &freq, err)) != TI_OK ||
      (st = ti_json_bool(root, "norm_topk_prob", &m->norm_topk, err)) != TI_OK ||
      (st = ti_json_real(root, "routed_scaling_factor", 0, 1e4, &m->scale, err)) != TI_OK ||
      (st = ti_json_str(root, "topk_method", &method, err)) != TI_OK || (st = ti_json_str(root, "scoring_func", &score, err)) != TI_OK)
    return st;
  if (freq != 1) return ti_error_set(err, TI_ERR_UNSUPPORTED, "moe_layer_freq: %d is not supported (1 is)", freq);
  if (strcmp(score, v3 ? "sigmoid" : "softmax") != 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "scoring_func: \"%.40s\" is not supported here (%s is)", score, v3 ? "sigmoid" : "softmax");
  m->router = v3 ? TI_ROUTER_SIGMOID : TI_ROUTER_SOFTMAX;
  m->score_bias = m->group_top2 = v3;
  if (v3 ? strcmp(method, "noaux_tc") != 0 : strcmp(method, "greedy") != 0 && strcmp(method, "group_limited_greedy") != 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "topk_method: \"%.40s\" is not supported here (%s)", method,
                        v3 ? "noaux_tc is" : "greedy and group_limited_greedy are");
  if (!v3 && m->norm_topk) return ti_error_set(err, TI_ERR_UNSUPPORTED, "norm_topk_prob: true is not supported with deepseek_v2");
  if (!v3 && strcmp(method, "greedy") == 0) m->n_group = m->n_top_group = 1;
  return TI_OK;
}

static ti_status parse_moe(const json_t *root, moe_keys keys, ti_config *c, ti_error *err) {
  ti_moe_config *m = &c->moe;
  m->n_group = m->n_top_group = 1;
  m->scale = 1.0;
  m->router = TI_ROUTER_SOFTMAX;
  ti_status st = TI_OK;
  if (keys == MOE_MIXTRAL) st = parse_moe_mixtral(root, c, err);
  if (keys == MOE_QWEN3) st = parse_moe_qwen3(root, c, err);
  if (keys == MOE_DEEPSEEK_V2 || keys == MOE_DEEPSEEK_V3) st = parse_moe_deepseek(root, keys == MOE_DEEPSEEK_V3, c, err);
  if (st != TI_OK || m->n_expert == 0) return st;
  if (m->n_expert % m->n_group != 0)
    return ti_error_set(err, TI_ERR_RANGE, "n_group: %d does not divide the %d routed experts", m->n_group, m->n_expert);
  if (m->n_top_group > m->n_group) return ti_error_set(err, TI_ERR_RANGE, "topk_group: %d is above n_group (%d)", m->n_top_group, m->n_group);
  const int group = m->n_expert / m->n_group;
  if (m->group_top2 && m->n_group > 1 && group < 2)
    return ti_error_set(err, TI_ERR_RANGE, "n_group: a group needs 2 experts or more, %d groups of %d experts have %d", m->n_group, m->n_expert,
                        group);
  if (m->n_top > group * m->n_top_group)
    return ti_error_set(err, TI_ERR_RANGE, "num_experts_per_tok: %d is above the %d experts of the %d chosen groups", m->n_top,
                        group * m->n_top_group, m->n_top_group);
  if (m->n_dense_layer >= c->n_layer) {  // no layer has experts, whatever the keys say
    if (c->n_mtp > 0)
      return ti_error_set(err, TI_ERR_UNSUPPORTED, "first_k_dense_replace: %d leaves the %d layers without experts, and the MTP layer has some",
                          m->n_dense_layer, c->n_layer);
    *m = (ti_moe_config){.n_group = 1, .n_top_group = 1, .scale = 1.0, .router = TI_ROUTER_SOFTMAX};
  }
  return TI_OK;
}

// eos_token_id (an integer, a list or null) joins the list in c.
static ti_status add_eos(const json_t *root, ti_config *c, ti_error *err) {
  const json_t *v = json_object_get(root, "eos_token_id");
  if (!v || json_is_null(v)) return TI_OK;
  const size_t n = json_is_array(v) ? json_array_size(v) : 1;
  for (size_t i = 0; i < n; i++) {
    const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
    const json_int_t id = json_integer_value(e);
    if (!json_is_integer(e) || id < 0 || id >= c->vocab)
      return ti_error_set(err, TI_ERR_RANGE, "eos_token_id: expected ids in 0..%d (vocab_size %d)", c->vocab - 1, c->vocab);
    int k = 0;
    while (k < c->n_eos && c->eos[k] != (int)id) k++;
    if (k < c->n_eos) continue;
    if (c->n_eos == TI_MAX_EOS) return ti_error_set(err, TI_ERR_RANGE, "eos_token_id: more than %d different ids", TI_MAX_EOS);
    c->eos[c->n_eos++] = (int)id;
  }
  return TI_OK;
}

ti_status ti_config_from_json(const json_t *root, ti_config *out, ti_error *err) {
  if (!json_is_object(root)) return ti_error_set(err, TI_ERR_FORMAT, "expected a JSON object");
  const arch_row *a = NULL;
  ti_config cfg = {.bos = -1}, *c = &cfg;
  ti_status st = find_arch(root, &a, err);
  if (st != TI_OK) return st;
  snprintf(c->arch, sizeof(c->arch), "%s", a->name);
  c->attn = a->attn;
  c->rms_eps = a->default_eps;
  c->max_position = a->default_max_position;
  if ((st = ti_config_int(root, "hidden_size", 1, MAX_HIDDEN, true, &c->hidden, err)) != TI_OK ||
      (st = ti_config_int(root, "num_hidden_layers", 1, MAX_LAYERS, true, &c->n_layer, err)) != TI_OK ||
      (st = ti_config_int(root, "num_attention_heads", 1, MAX_HEADS, true, &c->n_head, err)) != TI_OK ||
      (st = ti_config_int(root, "intermediate_size", 1, MAX_HIDDEN, true, &c->ffn, err)) != TI_OK ||
      (st = ti_config_int(root, "vocab_size", 1, MAX_VOCAB, true, &c->vocab, err)) != TI_OK ||
      (st = ti_config_int(root, "max_position_embeddings", 1, MAX_POSITION, false, &c->max_position, err)) != TI_OK ||
      (st = ti_json_real(root, "rms_norm_eps", 0, 1, &c->rms_eps, err)) != TI_OK ||
      (st = ti_json_bool(root, "tie_word_embeddings", &c->tie_embeddings, err)) != TI_OK ||
      (st = refuse_unknown_arithmetic(root, a, c, err)) != TI_OK || (st = parse_dtype(root, c, err)) != TI_OK ||
      (st = parse_quantization(root, c, err)) != TI_OK || (st = ti_config_parse_rope(root, a->default_theta, c, err)) != TI_OK)
    return st;
  st = a->attn == TI_ATTN_MLA ? parse_mla(root, c, err) : parse_gqa(root, a, c, err);
  if (st == TI_OK && a->moe == MOE_DEEPSEEK_V3) st = ti_config_int(root, "num_nextn_predict_layers", 0, 8, false, &c->n_mtp, err);
  if (st == TI_OK) st = parse_moe(root, a->moe, c, err);
  if (st == TI_OK) st = ti_config_int(root, "bos_token_id", 0, c->vocab - 1, false, &c->bos, err);
  if (st == TI_OK) st = add_eos(root, c, err);
  if (st == TI_OK) *out = cfg;
  return st;
}

ti_status ti_config_parse(const char *json, size_t n, ti_config *out, ti_error *err) {
  json_t *root;
  ti_status st = ti_json_parse(json, n, &root, err);
  if (st != TI_OK) return st;
  st = ti_config_from_json(root, out, err);
  json_decref(root);
  return st;
}

// folder/file into path[cap]; folder = model, or the folder of model when it is a file.
static ti_status path_beside(const char *model, const char *file, char *path, size_t cap, ti_error *err) {
  struct stat sb;
  int len = (int)strlen(model);
  if (stat(model, &sb) == 0 && !S_ISDIR(sb.st_mode)) {
    while (len > 0 && model[len - 1] != '/') len--;
    if (len > 1) len--;
    if (len == 0) {
      model = ".";
      len = 1;
    }
  }
  const int n = snprintf(path, cap, "%.*s/%s", len, model, file);
  if (n < 0 || (size_t)n >= cap) return ti_error_set(err, TI_ERR_RANGE, "%.60s...: path longer than %zu bytes", model, cap);
  return TI_OK;
}

// The eos list of generation_config.json, which may be longer than config.json's; the file is optional.
static ti_status add_generation_config(const char *model, ti_config *c, ti_error *err) {
  char path[4096];
  json_t *root;
  struct stat sb;
  ti_status st = path_beside(model, "generation_config.json", path, sizeof(path), err);
  if (st != TI_OK || stat(path, &sb) != 0) return st;
  if ((st = ti_json_load_file(path, TI_CONFIG_MAX_BYTES, &root, err)) != TI_OK) return st;
  st = add_eos(root, c, err);
  if (st != TI_OK) ti_error_prefix(err, "%s", path);
  json_decref(root);
  return st;
}

static ti_status load_gguf(const char *path, ti_config *out, ti_error *err) {
  ti_gguf *g;
  ti_status st = ti_gguf_open(path, &g, err);
  if (st != TI_OK) return st;
  if ((st = ti_gguf_config(g, out, err)) != TI_OK) ti_error_prefix(err, "%s", path);
  ti_gguf_close(g);
  return st;
}

ti_status ti_config_load(const char *model, ti_config *out, ti_error *err) {
  char path[4096];
  json_t *root;
  ti_config cfg;
  struct stat sb;
  uint64_t seed;
  if (strncmp(model, "random:", 7) == 0) return ti_config_random(model, out, &seed, err);
  if (stat(model, &sb) != 0)
    return ti_error_set(err, TI_ERR_NOTFOUND,
                        "%s: no such model (expected a folder with config.json and model.safetensors, a .gguf file, or random:ARCH)", model);
  if (ti_gguf_is_file(model)) return load_gguf(model, out, err);
  ti_status st = path_beside(model, "config.json", path, sizeof(path), err);
  if (st != TI_OK) return st;
  if (stat(path, &sb) != 0)
    return ti_error_set(err, TI_ERR_NOTFOUND, "%s: no such file: a model folder needs Hugging Face's config.json beside its weights", path);
  if ((st = ti_json_load_file(path, TI_CONFIG_MAX_BYTES, &root, err)) != TI_OK) return st;
  st = ti_config_from_json(root, &cfg, err);
  if (st != TI_OK) ti_error_prefix(err, "%s", path);
  json_decref(root);
  if (st == TI_OK) st = add_generation_config(model, &cfg, err);
  if (st == TI_OK) *out = cfg;
  return st;
}
