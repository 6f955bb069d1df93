// GGUF metadata -> ti_config, by way of the config.json that the model had before it was converted: config.c then applies the same limits and
// refusals to both. Here stands only what GGUF says differently. See gguf_model.h. Pure functions; any thread.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config_priv.h"
#include "model/gguf/gguf_model.h"

enum { MAX_KEY_TEXT = 128, MAX_ARCH_TEXT = 32, MAX_ROPE_DIM = 1024, ANY = INT32_MAX };  // a head has at most 1024 numbers (config.c)

typedef struct reader {
  const ti_gguf *g;
  const char *arch;  // the prefix of keys
  json_t *root;      // the config.json in the making
  ti_error *err;
} reader;

// ---- moving values ----

static const char *key_of(const reader *r, const char *suffix, char key[MAX_KEY_TEXT]) {
  snprintf(key, MAX_KEY_TEXT, "%s.%s", r->arch, suffix);
  return key;
}

static bool has(const reader *r, const char *suffix) {
  char key[MAX_KEY_TEXT];
  return ti_gguf_find(r->g, key_of(r, suffix, key)) != NULL;
}

static ti_status missing(const reader *r, const char *suffix, const char *why) {
  return ti_error_set(r->err, TI_ERR_FORMAT, "%s.%s: missing%s", r->arch, suffix, why);
}

// The integer of a key; `otherwise` when it is missing (required: -1).
static ti_status get_int(const reader *r, const char *suffix, int64_t otherwise, int64_t *out) {
  char key[MAX_KEY_TEXT];
  int64_t v = otherwise;
  if (otherwise < 0 && !has(r, suffix)) return missing(r, suffix, " (expected an integer)");
  const ti_status st = ti_gguf_int(r->g, key_of(r, suffix, key), 0, ANY, &v, r->err);
  if (st == TI_OK) *out = v;
  return st;
}

static ti_status get_real(const reader *r, const char *suffix, double otherwise, double *out) {
  char key[MAX_KEY_TEXT];
  double v = otherwise;
  const ti_status st = ti_gguf_real(r->g, key_of(r, suffix, key), -1e30, 1e30, &v, r->err);
  if (st == TI_OK) *out = v;
  return st;
}

static ti_status put(reader *r, json_t *to, const char *name, json_t *value) {
  return json_object_set_new(to, name, value) == 0 ? TI_OK : ti_error_set(r->err, TI_ERR_NOMEM, "%s: out of memory", name);
}

static ti_status put_int(reader *r, const char *name, int64_t v) { return put(r, r->root, name, json_integer(v)); }

typedef struct move {
  const char *suffix, *name;  // GGUF's, config.json's
  enum { INT, REAL, BOOL } kind;
  bool required;
} move;

static ti_status move_all(reader *r, const move *m, size_t n) {
  for (size_t i = 0; i < n; i++) {
    char key[MAX_KEY_TEXT];
    int64_t v = 0;
    double d = 0;
    bool b = false;
    key_of(r, m[i].suffix, key);
    if (!has(r, m[i].suffix)) {
      if (m[i].required) return missing(r, m[i].suffix, "");
      continue;
    }
    ti_status st = m[i].kind == INT    ? ti_gguf_int(r->g, key, 0, ANY, &v, r->err)
                   : m[i].kind == REAL ? ti_gguf_real(r->g, key, -1e30, 1e30, &d, r->err)
                                       : ti_gguf_bool(r->g, key, &b, r->err);
    if (st == TI_OK) st = put(r, r->root, m[i].name, m[i].kind == INT ? json_integer(v) : m[i].kind == REAL ? json_real(d) : json_boolean(b));
    if (st != TI_OK) return st;
  }
  return TI_OK;
}
#define MOVE_ALL(r, m) move_all(r, m, sizeof(m) / sizeof((m)[0]))

// ---- what would change the arithmetic ----

static ti_status refuse_unknown_arithmetic(reader *r) {
  static const char *const scales[] = {"logit_scale",     "final_logit_softcapping", "attn_logit_softcapping",   "attention.scale",
                                       "embedding_scale", "residual_scale",          "attention.max_alibi_bias", "attention.clamp_kqv"};
  for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
    double v;
    const ti_status st = get_real(r, scales[i], 0, &v);
    if (st != TI_OK) return st;
    if (v != 0) return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s.%s: %g is not supported (0 or none is)", r->arch, scales[i], v);
  }
  int64_t window, context, parts = 1;
  ti_status st = get_int(r, "attention.sliding_window", 0, &window);
  if (st == TI_OK) st = get_int(r, "context_length", -1, &context);
  if (st != TI_OK) return st;
  if (window > 0 && window < context)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s.attention.sliding_window: %lld is below context_length (%lld): it is not supported", r->arch,
                        (long long)window, (long long)context);
  bool causal = true;
  char key[MAX_KEY_TEXT];
  if ((st = ti_gguf_bool(r->g, key_of(r, "attention.causal", key), &causal, r->err)) != TI_OK) return st;
  if (!causal) return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s: false is not supported", key);
  if ((st = ti_gguf_int(r->g, "split.count", 0, ANY, &parts, r->err)) != TI_OK) return st;
  if (parts > 1)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "split.count: one of %lld files of a split model; merge them (llama-gguf-split --merge)",
                        (long long)parts);
  return TI_OK;
}

// ---- the parts of a config ----

static ti_status add_vocab(reader *r) {
  const ti_tensor *t = ti_gguf_tensor(r->g, "token_embd.weight");
  const ti_gguf_kv *tokens = ti_gguf_find(r->g, "tokenizer.ggml.tokens");
  int64_t said;
  if (!t) return ti_error_set(r->err, TI_ERR_FORMAT, "tensor token_embd.weight is missing");
  if (t->n_dim != 2) return ti_error_set(r->err, TI_ERR_FORMAT, "tensor token_embd.weight: %d dimensions, expected 2", t->n_dim);
  ti_status st = get_int(r, "vocab_size", t->shape[0], &said);
  if (st != TI_OK) return st;
  if (said != t->shape[0])
    return ti_error_set(r->err, TI_ERR_FORMAT, "%s.vocab_size: %lld, but token_embd.weight has %lld rows", r->arch, (long long)said,
                        (long long)t->shape[0]);
  if (tokens && tokens->n > (uint64_t)t->shape[0])
    return ti_error_set(r->err, TI_ERR_FORMAT, "tokenizer.ggml.tokens: %llu tokens, but token_embd.weight has %lld rows",
                        (unsigned long long)tokens->n, (long long)t->shape[0]);
  st = put_int(r, "vocab_size", t->shape[0]);
  if (st == TI_OK) st = put(r, r->root, "tie_word_embeddings", json_boolean(!ti_gguf_tensor(r->g, "output.weight")));
  return st;
}

static ti_status add_ids(reader *r) {
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  json_t *list = json_array();
  int64_t id = -1;
  ti_status st = ti_gguf_int(r->g, "tokenizer.ggml.bos_token_id", 0, ANY, &id, r->err);
  if (st == TI_OK && id >= 0) st = put_int(r, "bos_token_id", id);
  for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]) && st == TI_OK; i++) {
    id = -1;
    st = ti_gguf_int(r->g, ends[i], 0, ANY, &id, r->err);
    if (st == TI_OK && id >= 0) json_array_append_new(list, json_integer(id));
  }
  if (st == TI_OK) return put(r, r->root, "eos_token_id", list);
  json_decref(list);
  return st;
}

static ti_status add_gqa(reader *r) {
  int64_t hidden, heads, key, value, rope;
  ti_status st = get_int(r, "embedding_length", -1, &hidden);
  if (st == TI_OK) st = get_int(r, "attention.head_count", -1, &heads);
  if (st == TI_OK) st = get_int(r, "attention.key_length", heads > 0 ? hidden / heads : 0, &key);
  if (st == TI_OK) st = get_int(r, "attention.value_length", key, &value);
  if (st == TI_OK) st = get_int(r, "rope.dimension_count", key, &rope);
  if (st != TI_OK) return st;
  if (value != key)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s.attention.value_length: %lld, another one than key_length (%lld), is not supported", r->arch,
                        (long long)value, (long long)key);
  if (rope != key)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED,
                        "%s.rope.dimension_count: %lld of a head's %lld numbers: partial rotary embeddings are not supported", r->arch,
                        (long long)rope, (long long)key);
  static const move keys[] = {{"attention.head_count_kv", "num_key_value_heads", INT, false}};
  st = MOVE_ALL(r, keys);
  return st == TI_OK && (has(r, "attention.key_length") || hidden % (heads > 0 ? heads : 1) == 0) ? put_int(r, "head_dim", key) : st;
}

static ti_status add_mixtral(reader *r) {
  static const move keys[] = {{"expert_count", "num_local_experts", INT, true}, {"expert_used_count", "num_experts_per_tok", INT, true}};
  return MOVE_ALL(r, keys);
}

// qk_nope and v_dim: newer files keep the heads' own sizes under *_mla, and the latent's (kv_lora + rope) under the plain names.
static ti_status add_mla(reader *r) {
  static const move keys[] = {{"attention.kv_lora_rank", "kv_lora_rank", INT, true},
                              {"rope.dimension_count", "qk_rope_head_dim", INT, true},
                              {"attention.q_lora_rank", "q_lora_rank", INT, false}};
  const bool mla = has(r, "attention.key_length_mla");
  int64_t key, value, rope;
  ti_status st = MOVE_ALL(r, keys);
  if (st == TI_OK) st = get_int(r, mla ? "attention.key_length_mla" : "attention.key_length", -1, &key);
  if (st == TI_OK) st = get_int(r, mla ? "attention.value_length_mla" : "attention.value_length", -1, &value);
  if (st == TI_OK) st = get_int(r, "rope.dimension_count", -1, &rope);
  if (st != TI_OK) return st;
  if (key <= rope)
    return ti_error_set(r->err, TI_ERR_RANGE, "%s.attention.key_length%s: %lld is not above rope.dimension_count (%lld)", r->arch, mla ? "_mla" : "",
                        (long long)key, (long long)rope);
  st = put_int(r, "qk_nope_head_dim", key - rope);
  return st == TI_OK ? put_int(r, "v_head_dim", value) : st;
}

static ti_status add_deepseek_experts(reader *r, bool v3) {
  static const move keys[] = {{"expert_count", "n_routed_experts", INT, true},
                              {"expert_used_count", "num_experts_per_tok", INT, true},
                              {"expert_feed_forward_length", "moe_intermediate_size", INT, true},
                              {"expert_shared_count", "n_shared_experts", INT, false},
                              {"leading_dense_block_count", "first_k_dense_replace", INT, true},
                              {"expert_weights_scale", "routed_scaling_factor", REAL, true},
                              {"expert_weights_norm", "norm_topk_prob", BOOL, false},
                              {"expert_group_count", "n_group", INT, false},
                              {"expert_group_used_count", "topk_group", INT, false}};
  ti_status st = MOVE_ALL(r, keys);
  if (st != TI_OK) return st;
  if (!has(r, "expert_group_count")) {
    // Converters left the groups out until 2025. Only V2-Lite, which has no Q projection of low rank, is known to have one group.
    if (v3 || has(r, "attention.q_lora_rank"))
      return missing(r, "expert_group_count", ": the choice of experts depends on it; convert the model with a newer converter");
    return put(r, r->root, "topk_method", json_string("greedy"));
  }
  if (!has(r, "expert_group_used_count")) return missing(r, "expert_group_used_count", "");
  return v3 ? TI_OK : put(r, r->root, "topk_method", json_string("group_limited_greedy"));
}

// ---- rope scaling ----

static ti_status add_yarn(reader *r, json_t *s, double factor) {
  double v, ext;
  char key[MAX_KEY_TEXT];
  static const char *const betas[][2] = {{"rope.scaling.yarn_beta_fast", "beta_fast"}, {"rope.scaling.yarn_beta_slow", "beta_slow"}};
  ti_status st = get_real(r, "rope.scaling.yarn_ext_factor", 1, &ext);
  if (st == TI_OK && ext != 1)
    st = ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s: %g is not supported (1 is)", key_of(r, "rope.scaling.yarn_ext_factor", key), ext);
  for (int i = 0; i < 2 && st == TI_OK; i++)
    if (has(r, betas[i][0]) && (st = get_real(r, betas[i][0], 0, &v)) == TI_OK) st = put(r, s, betas[i][1], json_real(v));
  if (st == TI_OK && has(r, "rope.scaling.yarn_log_multiplier") && (st = get_real(r, "rope.scaling.yarn_log_multiplier", 0, &v)) == TI_OK) {
    st = put(r, s, "mscale", json_real(10 * v));
    if (st == TI_OK) st = put(r, s, "mscale_all_dim", json_real(10 * v));
  }
  if (st == TI_OK && has(r, "rope.scaling.attn_factor") && (st = get_real(r, "rope.scaling.attn_factor", 1, &v)) == TI_OK && v != 1)
    st = put(r, s, "attention_factor", json_real(v * (1 + 0.1 * log(factor))));
  return st;
}

static ti_status add_rope(reader *r) {
  static const move keys[] = {{"rope.freq_base", "rope_theta", REAL, false}};
  char key[MAX_KEY_TEXT], type[16] = "none";
  ti_tok_text t = {"none", 4};
  double factor = 1;
  int64_t original = 0;
  ti_status st = MOVE_ALL(r, keys);
  if (st == TI_OK) st = ti_gguf_string(r->g, key_of(r, "rope.scaling.type", key), &t, r->err);
  const bool scaled = has(r, "rope.scale_linear") || has(r, "rope.scaling.factor");
  if (scaled && !has(r, "rope.scaling.type")) t = (ti_tok_text){"linear", 6};  // what llama.cpp takes a factor without a type for
  if (st == TI_OK) st = get_real(r, has(r, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear", 1, &factor);
  if (st == TI_OK) st = get_int(r, "rope.scaling.original_context_length", 0, &original);
  if (st != TI_OK) return st;
  if (t.n < sizeof type) snprintf(type, sizeof type, "%.*s", (int)t.n, t.s);
  if (t.n >= sizeof type || (strcmp(type, "none") != 0 && strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0))
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s: \"%.*s\" is not supported (none, linear and yarn are)", key, (int)(t.n < 40 ? t.n : 40),
                        t.s);
  if (strcmp(type, "none") == 0) return TI_OK;
  json_t *s = json_object();
  st = put(r, s, "type", json_string(type));
  if (st == TI_OK) st = put(r, s, "factor", json_real(factor));
  if (st == TI_OK && original > 0) st = put(r, s, "original_max_position_embeddings", json_integer(original));
  if (st == TI_OK && strcmp(type, "yarn") == 0) st = add_yarn(r, s, factor);
  if (st == TI_OK) return put(r, r->root, "rope_scaling", s);
  json_decref(s);
  return st;
}

// Llama 3's scaling comes as a tensor of the factors by which each frequency is divided. They are checked against the formula with Llama 3's own
// constants and the largest factor, so that the config can say what they are.
static ti_status read_rope_freqs(const ti_gguf *g, ti_config *c, ti_error *err) {
  const ti_tensor *t = ti_gguf_tensor(g, "rope_freqs.weight");
  if (!t) return TI_OK;
  const int n = c->rope.dim / 2;
  if (t->dtype != TI_F32 || t->n_dim != 1 || t->shape[0] != n)
    return ti_error_set(err, TI_ERR_FORMAT, "tensor rope_freqs.weight: expected F32 [%d]", n);
  const float *f = t->data;
  float most = 1;
  for (int i = 0; i < n; i++)
    if (f[i] > most) most = f[i];
  ti_rope_config plain = c->rope, scaled = c->rope;
  scaled.scaling = TI_ROPE_LLAMA3;
  scaled.factor = (double)most;
  scaled.low_freq_factor = 1;
  scaled.high_freq_factor = 4;
  scaled.original_max_position = 8192;
  float want[MAX_ROPE_DIM / 2], base[MAX_ROPE_DIM / 2], attn;
  ti_rope_frequencies(&plain, base, &attn);
  ti_rope_frequencies(&scaled, want, &attn);
  for (int i = 0; i < n; i++) {
    const double expected = (double)base[i] / (double)want[i];
    if (!(fabs((double)f[i] - expected) <= 1e-4 * expected) || c->rope.scaling != TI_ROPE_NONE)
      return ti_error_set(err, TI_ERR_UNSUPPORTED,
                          "tensor rope_freqs.weight: element %d is %g, Llama 3's formula with factor %g gives %g: other "
                          "factors are not supported",
                          i, (double)f[i], (double)most, expected);
  }
  if (most > 1) c->rope = scaled;
  return TI_OK;
}

// ---- the whole ----

static ti_status build_json(reader *r, const char **class) {
  static const move keys[] = {{"context_length", "max_position_embeddings", INT, true},
                              {"embedding_length", "hidden_size", INT, true},
                              {"block_count", "num_hidden_layers", INT, true},
                              {"feed_forward_length", "intermediate_size", INT, true},
                              {"attention.head_count", "num_attention_heads", INT, true},
                              {"attention.layer_norm_rms_epsilon", "rms_norm_eps", REAL, true}};
  static const char *const plain[][2] = {{"llama", "LlamaForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"}};
  const bool deepseek = strcmp(r->arch, "deepseek2") == 0;
  int64_t experts, gating;
  *class = NULL;
  for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
    if (strcmp(r->arch, plain[i][0]) == 0) *class = plain[i][1];
  if (!*class && !deepseek)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "general.architecture: \"%s\" is not supported (llama, qwen2, qwen3 and deepseek2 are)", r->arch);
  ti_status st = MOVE_ALL(r, keys);
  if (st == TI_OK) st = get_int(r, "expert_count", 0, &experts);
  if (st == TI_OK) st = get_int(r, "expert_gating_func", 1, &gating);  // 1 softmax, 2 sigmoid
  if (st != TI_OK) return st;
  if (gating != 1 && gating != 2)
    return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s.expert_gating_func: %lld is not supported (1, softmax, and 2, sigmoid, are)", r->arch,
                        (long long)gating);
  if (deepseek) *class = gating == 2 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM";
  if (!deepseek && experts > 0) {
    if (strcmp(r->arch, "llama") != 0) return ti_error_set(r->err, TI_ERR_UNSUPPORTED, "%s.expert_count: experts are not supported here", r->arch);
    *class = "MixtralForCausalLM";
  }
  st = deepseek ? add_mla(r) : add_gqa(r);
  if (st == TI_OK && experts > 0) st = deepseek ? add_deepseek_experts(r, gating == 2) : add_mixtral(r);
  if (st == TI_OK) st = add_vocab(r);
  if (st == TI_OK) st = add_ids(r);
  if (st == TI_OK) st = add_rope(r);
  if (st == TI_OK) st = refuse_unknown_arithmetic(r);
  return st == TI_OK ? put(r, r->root, "architectures", json_pack("[s]", *class)) : st;
}

// The type that most of the matrices' bytes have.
static ti_dtype common_dtype(const ti_gguf *g) {
  size_t bytes[TI_DTYPE_COUNT] = {0};
  int best = TI_F32;
  for (size_t i = 0; i < g->n_tensor; i++)
    if (g->tensor[i].n_dim > 1) bytes[g->tensor[i].dtype] += g->tensor[i].bytes;
  for (int t = 0; t < TI_DTYPE_COUNT; t++)
    if (bytes[t] > bytes[best]) best = t;
  return (ti_dtype)best;
}

// What only the tensors tell.
static ti_status add_tensor_facts(const ti_gguf *g, const char *arch, ti_config *c, ti_error *err) {
  c->weight_dtype = common_dtype(g);
  if (ti_gguf_tensor(g, "blk.0.attn_q.bias")) c->qkv_bias = true;
  if (ti_gguf_tensor(g, "blk.0.attn_output.bias")) c->o_bias = true;
  if (ti_gguf_tensor(g, "blk.0.ffn_gate.bias")) c->mlp_bias = true;
  if (strcmp(arch, "llama") == 0) c->rope.interleaved = true;
  return read_rope_freqs(g, c, err);
}

ti_status ti_gguf_config(const ti_gguf *g, ti_config *out, ti_error *err) {
  ti_tok_text name = {"", 0};
  char arch[MAX_ARCH_TEXT];
  const char *class;
  ti_config cfg;
  ti_status st = ti_gguf_string(g, "general.architecture", &name, err);
  if (st != TI_OK) return st;
  if (name.n == 0) return ti_error_set(err, TI_ERR_FORMAT, "general.architecture: missing");
  snprintf(arch, sizeof arch, "%.*s", (int)(name.n < sizeof arch ? name.n : sizeof arch - 1), name.s);
  reader r = {.g = g, .arch = arch, .root = json_object(), .err = err};
  st = build_json(&r, &class);
  if (st == TI_OK && (st = ti_config_from_json(r.root, &cfg, err)) != TI_OK) ti_error_prefix(err, "its metadata as %s's config.json", class);
  json_decref(r.root);
  if (st == TI_OK) st = add_tensor_facts(g, arch, &cfg, err);
  if (st == TI_OK) *out = cfg;
  return st;
}
