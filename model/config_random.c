// `random:ARCH?key=value&...` -> ti_config: a config.json from a preset with some keys replaced, read by the ordinary reader. Any thread.
//
// Keys are config.json's names or the short forms below; values are JSON (`rope_scaling={"type":"linear","factor":2}`) or bare words.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/config_priv.h"

#define LLAMA "\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2,\"max_position_embeddings\":"
#define SMALL "\"hidden_size\":256,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"intermediate_size\":768,\"vocab_size\":4096,"
#define SMALL_END "\"torch_dtype\":\"bfloat16\",\"max_position_embeddings\":4096,\"bos_token_id\":0,\"eos_token_id\":1"

static const struct {
  const char *name, *experts_key, *json;
} presets[] = {
    {"llama", NULL, "{\"model_type\":\"llama\"," SMALL SMALL_END "}"},
    {"mistral", NULL, "{\"model_type\":\"mistral\",\"sliding_window\":null," SMALL SMALL_END "}"},
    {"qwen2", NULL, "{\"model_type\":\"qwen2\"," SMALL SMALL_END "}"},
    {"qwen3", NULL, "{\"model_type\":\"qwen3\",\"head_dim\":64," SMALL SMALL_END "}"},
    {"mixtral", "num_local_experts", "{\"model_type\":\"mixtral\"," SMALL SMALL_END "}"},
    {"qwen3_moe", "num_experts",
     "{\"model_type\":\"qwen3_moe\",\"num_experts\":16,\"num_experts_per_tok\":4,\"moe_intermediate_size\":128,\"norm_topk_prob\":true," SMALL
         SMALL_END "}"},
    {"deepseek_v2", "n_routed_experts",
     "{\"model_type\":\"deepseek_v2\",\"n_routed_experts\":16,\"num_experts_per_tok\":4,\"n_shared_experts\":1,\"moe_intermediate_size\":128,"
     "\"first_k_dense_replace\":1,\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128," SMALL SMALL_END "}"},
    {"tinyllama-1.1b", NULL,
     "{\"model_type\":\"llama\",\"hidden_size\":2048,\"num_hidden_layers\":22,\"num_attention_heads\":32,\"num_key_value_heads\":4,"
     "\"intermediate_size\":5632,\"vocab_size\":32000,\"rms_norm_eps\":1e-5," LLAMA "2048}"},
    {"llama3-8b", NULL,
     "{\"model_type\":\"llama\",\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,"
     "\"intermediate_size\":14336,\"vocab_size\":128256,\"rms_norm_eps\":1e-5,\"rope_theta\":500000," LLAMA "8192}"},
    {"deepseek_v3", "n_routed_experts",
     "{\"model_type\":\"deepseek_v3\",\"hidden_size\":7168,\"num_hidden_layers\":61,\"num_attention_heads\":128,\"intermediate_size\":18432,"
     "\"moe_intermediate_size\":2048,\"vocab_size\":129280,\"q_lora_rank\":1536,\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,"
     "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"n_routed_experts\":256,\"n_shared_experts\":1,\"num_experts_per_tok\":8,\"n_group\":8,"
     "\"topk_group\":4,\"first_k_dense_replace\":3,\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"scoring_func\":\"sigmoid\","
     "\"topk_method\":\"noaux_tc\",\"num_nextn_predict_layers\":0,\"max_position_embeddings\":163840,\"rope_theta\":10000,"
     "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"original_max_position_embeddings\":4096,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":1.0,"
     "\"mscale_all_dim\":1.0},\"torch_dtype\":\"bfloat16\",\"bos_token_id\":0,\"eos_token_id\":1,"
     "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]}}"},
};
enum { N_PRESET = sizeof(presets) / sizeof(presets[0]) };

static const char *const short_keys[][2] = {
    {"hidden", "hidden_size"},          {"layers", "num_hidden_layers"},      {"heads", "num_attention_heads"}, {"kv_heads", "num_key_value_heads"},
    {"ffn", "intermediate_size"},       {"moe_ffn", "moe_intermediate_size"}, {"vocab", "vocab_size"},          {"top_k", "num_experts_per_tok"},
    {"mtp", "num_nextn_predict_layers"}};

static const char *const long_keys[] = {"hidden_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "head_dim",
                                        "intermediate_size",
                                        "vocab_size",
                                        "max_position_embeddings",
                                        "rms_norm_eps",
                                        "tie_word_embeddings",
                                        "attention_bias",
                                        "mlp_bias",
                                        "rope_theta",
                                        "rope_scaling",
                                        "rope_parameters",
                                        "rope_interleave",
                                        "q_lora_rank",
                                        "kv_lora_rank",
                                        "qk_nope_head_dim",
                                        "qk_rope_head_dim",
                                        "v_head_dim",
                                        "n_routed_experts",
                                        "num_experts",
                                        "num_local_experts",
                                        "n_shared_experts",
                                        "num_experts_per_tok",
                                        "moe_intermediate_size",
                                        "n_group",
                                        "topk_group",
                                        "topk_method",
                                        "scoring_func",
                                        "first_k_dense_replace",
                                        "mlp_only_layers",
                                        "norm_topk_prob",
                                        "routed_scaling_factor",
                                        "num_nextn_predict_layers",
                                        "torch_dtype",
                                        "quantization_config",
                                        "bos_token_id",
                                        "eos_token_id",
                                        "hidden_act",
                                        "sliding_window"};

// config.json's name for key[n] as the preset spells it; NULL: unknown.
static const char *full_key(const char *key, size_t n, int preset) {
  if (n == 7 && memcmp(key, "experts", 7) == 0) return presets[preset].experts_key;
  for (size_t i = 0; i < sizeof(short_keys) / sizeof(short_keys[0]); i++)
    if (strlen(short_keys[i][0]) == n && memcmp(key, short_keys[i][0], n) == 0) return short_keys[i][1];
  for (size_t i = 0; i < sizeof(long_keys) / sizeof(long_keys[0]); i++)
    if (strlen(long_keys[i]) == n && memcmp(key, long_keys[i], n) == 0) return long_keys[i];
  return NULL;
}

static ti_status parse_seed(const char *v, size_t n, uint64_t *seed, ti_error *err) {
  uint64_t x = 0;
  bool ok = n > 0;
  for (size_t i = 0; i < n && ok; i++)
    ok = isdigit((unsigned char)v[i]) && !__builtin_mul_overflow(x, 10, &x) && !__builtin_add_overflow(x, (uint64_t)(v[i] - '0'), &x);
  if (!ok) return ti_error_set(err, TI_ERR_RANGE, "seed: expected an integer in 0..18446744073709551615, got \"%.*s\"", (int)(n > 40 ? 40 : n), v);
  *seed = x;
  return TI_OK;
}

// One key=value at s[n] into root or *seed.
static ti_status set_option(json_t *root, int preset, const char *s, size_t n, uint64_t *seed, ti_error *err) {
  const char *eq = memchr(s, '=', n);
  const size_t key_n = eq ? (size_t)(eq - s) : n;
  if (!eq || key_n == 0) return ti_error_set(err, TI_ERR_FORMAT, "expected key=value, got \"%.*s\"", (int)(n > 60 ? 60 : n), s);
  const char *value = eq + 1;
  const size_t value_n = n - key_n - 1;
  if (key_n == 4 && memcmp(s, "seed", 4) == 0) return parse_seed(value, value_n, seed, err);
  const char *key = full_key(s, key_n, preset);
  if (!key)
    return ti_error_set(err, TI_ERR_ARG,
                        "unknown key \"%.*s\" (config.json's names, or hidden, layers, heads, kv_heads, ffn, moe_ffn, vocab, experts, "
                        "top_k, mtp, seed)",
                        (int)(key_n > 60 ? 60 : key_n), s);
  json_t *v;
  if (ti_json_parse(value, value_n, &v, NULL) != TI_OK) v = json_stringn(value, value_n);
  if (!v) return ti_error_set(err, TI_ERR_FORMAT, "%s: the value is neither JSON nor a word", key);
  if (json_object_set_new(root, key, v) != 0) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  return TI_OK;
}

static ti_status find_preset(const char *name, size_t n, int *out, ti_error *err) {
  for (int i = 0; i < N_PRESET; i++) {
    if (strlen(presets[i].name) == n && memcmp(presets[i].name, name, n) == 0) {
      *out = i;
      return TI_OK;
    }
  }
  char known[200] = "";
  size_t at = 0;
  for (int i = 0; i < N_PRESET && at < sizeof(known); i++)
    at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", i ? ", " : "", presets[i].name);
  return ti_error_set(err, TI_ERR_NOTFOUND, "unknown model \"%.*s\" (known: %s)", (int)(n > 60 ? 60 : n), name, known);
}

ti_status ti_config_random(const char *spec, ti_config *out, uint64_t *seed, ti_error *err) {
  if (strncmp(spec, "random:", 7) != 0) return ti_error_set(err, TI_ERR_ARG, "%.60s: expected random:ARCH?key=value", spec);
  const char *name = spec + 7;
  const size_t name_n = strcspn(name, "?");
  int preset = 0;
  uint64_t s = 0;
  ti_config cfg;
  json_t *root = NULL;
  ti_status st = find_preset(name, name_n, &preset, err);
  if (st == TI_OK) st = ti_json_parse(presets[preset].json, strlen(presets[preset].json), &root, err);
  const char *p = name + name_n;
  while (st == TI_OK && *p && p[1]) {  // at '?' or '&'
    const size_t n = strcspn(++p, "&");
    st = set_option(root, preset, p, n, &s, err);
    p += n;
  }
  if (st == TI_OK) st = ti_config_from_json(root, &cfg, err);
  json_decref(root);
  if (st != TI_OK) return ti_error_prefix(err, "random:%.*s", (int)(name_n > 60 ? 60 : name_n), name), st;
  cfg.synthetic = true;
  *out = cfg;
  *seed = s;
  return TI_OK;
}
