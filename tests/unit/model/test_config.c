// config.json and random: specs -> the axes; every refusal names its field. RoPE frequencies against the formulas as their papers write them.
#include "model/config.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define CORE "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":100"
#define LLAMA "{\"architectures\":[\"LlamaForCausalLM\"]," CORE
#define MLA CORE ",\"kv_lora_rank\":32,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,\"v_head_dim\":16"

static ti_config parse(const char *json) {
  ti_config c;
  ti_error err = {0};
  cr_assert_eq(ti_config_parse(json, strlen(json), &c, &err), TI_OK, "%s", err.text);
  return c;
}

// The config is refused with this status, and the text holds `what`.
static void refuse(const char *json, ti_status st, const char *what) {
  ti_config c;
  ti_error err = {0};
  const ti_status got = ti_config_parse(json, strlen(json), &c, &err);
  cr_assert_eq(got, st, "%s: %s (%s)", json, ti_status_name(got), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not name %s", err.text, what);
}

Test(config, bundled_dense_model) {
  ti_config c;
  ti_error err = {0};
  cr_assert_eq(ti_config_load(TI_SOURCE_DIR "/models/titan-tiny-dense", &c, &err), TI_OK, "%s", err.text);
  cr_assert_str_eq(c.arch, "LlamaForCausalLM");
  cr_assert(c.hidden == 256 && c.n_layer == 5 && c.n_head == 4 && c.n_kv_head == 2 && c.head_dim == 64 && c.ffn == 768 && c.vocab == 4096);
  cr_assert(c.attn == TI_ATTN_GQA && c.tie_embeddings && !c.qkv_bias && !c.qk_norm && c.moe.n_expert == 0 && c.n_mtp == 0 && !c.synthetic);
  cr_assert(c.weight_dtype == TI_BF16 && c.fp8_block_n == 0 && c.bos == 0 && c.n_eos == 1 && c.eos[0] == 1 && c.max_position == 4096);
  cr_assert(c.rope.dim == 64 && !c.rope.interleaved && c.rope.scaling == TI_ROPE_NONE && c.rope.theta == 1e4);
  cr_assert_float_eq(c.softmax_scale, 0.125, 1e-15);
  cr_assert_float_eq(c.rms_eps, 1e-5, 1e-15);
}

Test(config, bundled_moe_model) {
  ti_config c;
  ti_error err = {0};
  cr_assert_eq(ti_config_load(TI_SOURCE_DIR "/models/titan-tiny-moe", &c, &err), TI_OK, "%s", err.text);
  cr_assert(c.attn == TI_ATTN_MLA && c.q_lora == 128 && c.kv_lora == 512 && c.qk_nope == 128 && c.qk_rope == 64 && c.v_dim == 128 &&
            c.head_dim == 192);
  cr_assert(c.n_mtp == 1 && c.weight_dtype == TI_E4M3 && c.fp8_block_n == 128 && c.fp8_block_k == 128 && !c.tie_embeddings);
  const ti_moe_config *m = &c.moe;
  cr_assert(m->n_expert == 16 && m->n_top == 4 && m->n_group == 4 && m->n_top_group == 2 && m->n_shared == 1 && m->ffn == 128 &&
            m->n_dense_layer == 1);
  cr_assert(m->router == TI_ROUTER_SIGMOID && m->score_bias && m->group_top2 && m->norm_topk && m->scale == 2.5);
  cr_assert(!ti_config_layer_is_moe(&c, 0) && ti_config_layer_is_moe(&c, 1) && ti_config_layer_is_moe(&c, 5));
  cr_assert(c.rope.scaling == TI_ROPE_YARN && c.rope.interleaved && c.rope.dim == 64 && c.rope.original_max_position == 1024);
  const double m4 = 0.1 * log(4) + 1;
  cr_assert_float_eq(c.softmax_scale, m4 * m4 / sqrt(192), 1e-12);
}

Test(config, deepseek_v3_has_its_published_softmax_scale) {
  ti_config c;
  ti_error err = {0};
  uint64_t seed = 7;
  cr_assert_eq(ti_config_random("random:deepseek_v3?layers=4&seed=18446744073709551615", &c, &seed, &err), TI_OK, "%s", err.text);
  cr_assert_float_eq(c.softmax_scale, 0.135234, 5e-7);
  cr_assert(c.synthetic && c.n_layer == 4 && c.hidden == 7168 && c.moe.n_expert == 256 && c.n_mtp == 0 && seed == UINT64_MAX);
}

Test(config, dense_layers_to_the_end_leave_no_experts) {
  ti_config c;
  ti_error err = {0};
  uint64_t seed = 7;
  cr_assert_eq(ti_config_random("random:deepseek_v3?layers=3", &c, &seed, &err), TI_OK, "%s", err.text);
  cr_assert(c.n_layer == 3 && c.moe.n_expert == 0 && !ti_config_layer_is_moe(&c, 2));
  cr_assert_eq(ti_config_random("random:deepseek_v3?layers=3&mtp=1", &c, &seed, &err), TI_ERR_UNSUPPORTED);
  cr_assert(strstr(err.text, "first_k_dense_replace: 3 leaves the 3 layers without experts"), "%s", err.text);
}

Test(config, both_spellings_of_rope_agree) {
  const ti_config a = parse(LLAMA
                            ",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
                            "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}");
  const ti_config b = parse(LLAMA
                            ",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
                            "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}");
  cr_assert(a.rope.scaling == TI_ROPE_LLAMA3 && a.rope.theta == 5e5 && a.rope.factor == 8 && a.rope.original_max_position == 8192);
  float fa[8], fb[8], ma, mb;
  ti_rope_frequencies(&a.rope, fa, &ma);
  ti_rope_frequencies(&b.rope, fb, &mb);
  cr_assert_arr_eq(fa, fb, sizeof(fa));
  cr_assert(ma == 1 && mb == 1);
}

Test(config, defaults_and_nulls) {
  const ti_config c = parse(LLAMA
                            ",\"head_dim\":null,\"num_key_value_heads\":null,\"rope_scaling\":null,\"eos_token_id\":null,\"bos_token_id\":null,"
                            "\"quantization_config\":null,\"torch_dtype\":null}");
  cr_assert(c.head_dim == 16 && c.n_kv_head == 4 && c.n_eos == 0 && c.bos == -1 && c.weight_dtype == TI_F32 && c.max_position == 2048);
  const ti_config q = parse("{\"model_type\":\"qwen3\"," CORE "}");
  cr_assert(q.head_dim == 128 && q.qk_norm && !q.qkv_bias);
  const ti_config q2 = parse("{\"model_type\":\"qwen2\"," CORE ",\"use_sliding_window\":false,\"sliding_window\":16}");
  cr_assert(q2.qkv_bias && !q2.o_bias && !q2.qk_norm);
  const ti_config b = parse(LLAMA ",\"attention_bias\":true,\"mlp_bias\":true,\"dtype\":\"float16\",\"eos_token_id\":[3,4,3]}");
  cr_assert(b.qkv_bias && b.o_bias && b.mlp_bias && b.weight_dtype == TI_F16 && b.n_eos == 2 && b.eos[1] == 4);
}

Test(config, mixtures_of_experts) {
  const ti_config x = parse("{\"model_type\":\"mixtral\"," CORE ",\"num_local_experts\":8,\"num_experts_per_tok\":2}");
  cr_assert(x.moe.n_expert == 8 && x.moe.n_top == 2 && x.moe.ffn == 128 && x.moe.norm_topk && x.moe.router == TI_ROUTER_SOFTMAX &&
            x.moe.n_dense_layer == 0);
  const ti_config q = parse("{\"model_type\":\"qwen3_moe\"," CORE
                            ",\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":32,"
                            "\"mlp_only_layers\":[0]}");
  cr_assert(q.moe.n_dense_layer == 1 && !q.moe.norm_topk && q.moe.scale == 1 && q.qk_norm && !q.moe.score_bias);
  const ti_config d =
      parse("{\"model_type\":\"deepseek_v2\"," MLA
            ",\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":32,"
            "\"n_group\":4,\"topk_group\":2,\"topk_method\":\"group_limited_greedy\",\"routed_scaling_factor\":16,\"q_lora_rank\":null}");
  cr_assert(d.q_lora == 0 && d.moe.n_group == 4 && d.moe.n_top_group == 2 && !d.moe.group_top2 && d.moe.scale == 16 && d.moe.n_shared == 0);
  cr_assert_float_eq(d.softmax_scale, 1 / sqrt(24), 1e-15);
}

Test(config, what_is_not_supported_is_refused_by_name) {
  refuse("{\"architectures\":[\"GemmaForCausalLM\"]," CORE "}", TI_ERR_UNSUPPORTED, "GemmaForCausalLM");
  refuse("{" CORE "}", TI_ERR_FORMAT, "architectures");
  refuse(LLAMA ",\"hidden_act\":\"gelu\"}", TI_ERR_UNSUPPORTED, "hidden_act");
  refuse(LLAMA ",\"partial_rotary_factor\":0.5}", TI_ERR_UNSUPPORTED, "partial_rotary_factor");
  refuse(LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", TI_ERR_UNSUPPORTED, "rope_parameters: partial_rotary_factor");
  refuse(LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", TI_ERR_UNSUPPORTED, "rope_scaling: rope_type: \"dynamic\"");
  refuse(LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", TI_ERR_FORMAT, "rope_scaling: factor");
  refuse(LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", TI_ERR_UNSUPPORTED, "full_attention");
  refuse(LLAMA ",\"quantization_config\":{\"quant_method\":\"awq\"}}", TI_ERR_UNSUPPORTED, "\"awq\"");
  refuse(LLAMA ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", TI_ERR_UNSUPPORTED, "weight_block_size");
  refuse(LLAMA ",\"torch_dtype\":\"float64\"}", TI_ERR_UNSUPPORTED, "float64");
  refuse(LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", TI_ERR_UNSUPPORTED, "layer_types[1]");
  refuse("{\"model_type\":\"qwen2\"," CORE ",\"use_sliding_window\":true,\"sliding_window\":16}", TI_ERR_UNSUPPORTED, "sliding_window: 16");
  refuse("{\"model_type\":\"mistral\"," CORE "}", TI_ERR_UNSUPPORTED, "sliding_window: 4096");
  refuse("{\"model_type\":\"qwen3_moe\"," CORE ",\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":32,\"mlp_only_layers\":[1]}",
         TI_ERR_UNSUPPORTED, "mlp_only_layers");
  refuse("{\"model_type\":\"deepseek_v3\"," MLA ",\"attention_bias\":true}", TI_ERR_UNSUPPORTED, "attention_bias");
}

Test(config, what_is_out_of_range_is_refused_with_field_value_and_limit) {
  refuse("[]", TI_ERR_FORMAT, "object");
  refuse("{\"model_type\":\"llama\",\"hidden_size\":64}", TI_ERR_FORMAT, "num_hidden_layers: missing");
  refuse("{\"model_type\":\"llama\",\"hidden_size\":\"big\"}", TI_ERR_FORMAT, "hidden_size: expected an integer in 1..1048576, got \"big\"");
  refuse("{\"model_type\":\"llama\",\"hidden_size\":0}", TI_ERR_RANGE, "hidden_size");
  refuse(LLAMA ",\"num_key_value_heads\":3}", TI_ERR_RANGE, "num_key_value_heads: 3");
  refuse(LLAMA ",\"head_dim\":7}", TI_ERR_RANGE, "head_dim");
  refuse(LLAMA ",\"eos_token_id\":100}", TI_ERR_RANGE, "eos_token_id");
  refuse(LLAMA ",\"eos_token_id\":[0,1,2,3,4,5,6,7,8]}", TI_ERR_RANGE, "eos_token_id: more than 8");
  refuse("{\"model_type\":\"mixtral\"," CORE ",\"num_experts_per_tok\":9}", TI_ERR_RANGE, "num_experts_per_tok: 9");
  refuse("{\"model_type\":\"deepseek_v3\"," MLA ",\"n_routed_experts\":16,\"num_experts_per_tok\":9,\"moe_intermediate_size\":8}", TI_ERR_RANGE,
         "num_experts_per_tok: 9 is above the 8 experts");
  refuse("{\"model_type\":\"deepseek_v3\"," MLA ",\"n_routed_experts\":20,\"num_experts_per_tok\":2,\"moe_intermediate_size\":8}", TI_ERR_RANGE,
         "n_group: 8 does not divide");
}

Test(config, missing_models_are_named) {
  ti_config c;
  ti_error err = {0};
  cr_assert_eq(ti_config_load("/no/such/model", &c, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "/no/such/model"));
  cr_assert_eq(ti_config_load(TI_SOURCE_DIR "/base", &c, &err), TI_ERR_NOTFOUND);
  cr_assert_not_null(strstr(err.text, "base/config.json"), "%s", err.text);
  cr_assert_eq(ti_config_load(TI_SOURCE_DIR "/models/titan-tiny-dense/model.safetensors", &c, &err), TI_OK, "%s", err.text);
}

Test(config, random_specs_and_their_errors) {
  ti_config c;
  ti_error err = {0};
  uint64_t seed;
  static const char *const good[] = {"random:llama",
                                     "random:llama?",
                                     "random:mistral",
                                     "random:qwen2",
                                     "random:qwen3",
                                     "random:mixtral?experts=4",
                                     "random:qwen3_moe?experts=8&top_k=2",
                                     "random:deepseek_v2?layers=2",
                                     "random:tinyllama-1.1b",
                                     "random:llama3-8b",
                                     "random:deepseek_v3?mtp=1",
                                     "random:llama?rope_scaling={\"type\":\"linear\",\"factor\":2}&torch_dtype=float32"};
  for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) cr_assert_eq(ti_config_random(good[i], &c, &seed, &err), TI_OK, "%s", err.text);
  cr_assert(c.rope.scaling == TI_ROPE_LINEAR && c.weight_dtype == TI_F32);
  static const struct {
    const char *spec, *what;
  } bad[] = {{"random:lama", "lama"},
             {"random:llama?hiden=3", "hiden"},
             {"random:llama?hidden", "key=value"},
             {"random:llama?hidden=x", "hidden_size"},
             {"random:llama?experts=4", "experts"},
             {"random:llama?seed=-1", "seed"},
             {"random:llama?seed=18446744073709551616", "seed"}};
  for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
    cr_assert_neq(ti_config_random(bad[i].spec, &c, &seed, &err), TI_OK, "%s", bad[i].spec);
    cr_assert_not_null(strstr(err.text, bad[i].what), "%s: \"%s\"", bad[i].spec, err.text);
  }
}

Test(config, generation_config_adds_its_eos_list) {
  char dir[] = "/tmp/ti_config_XXXXXX", path[64];
  cr_assert_not_null(mkdtemp(dir));
  snprintf(path, sizeof(path), "%s/config.json", dir);
  FILE *f = fopen(path, "w");
  fputs(LLAMA ",\"eos_token_id\":9}", f);
  fclose(f);
  snprintf(path, sizeof(path), "%s/generation_config.json", dir);
  f = fopen(path, "w");
  fputs("{\"eos_token_id\":[8,9,10]}", f);
  fclose(f);
  ti_config c;
  ti_error err = {0};
  cr_assert_eq(ti_config_load(dir, &c, &err), TI_OK, "%s", err.text);
  cr_assert(c.n_eos == 3 && c.eos[0] == 9 && c.eos[1] == 8 && c.eos[2] == 10);
  remove(path);
  snprintf(path, sizeof(path), "%s/config.json", dir);
  remove(path);
  remove(dir);
}

// YaRN as the paper has it: r(i) = L / wavelength(i) turns; blended by where i lies between the indices that turn beta_fast and beta_slow times.
// The indices are searched for here, where the product solves for them.
Test(config, yarn_frequencies_match_a_search_for_the_ramp) {
  ti_config c;
  ti_error err = {0};
  uint64_t seed;
  cr_assert_eq(ti_config_random("random:deepseek_v3", &c, &seed, &err), TI_OK, "%s", err.text);
  float f[32], attn;
  ti_rope_frequencies(&c.rope, f, &attn);
  cr_assert_float_eq(attn, 1.0, 1e-7);
  int low = 0, high = 0;
  for (int i = 0; i < 64; i++) {
    const double turns = 4096.0 / (2 * M_PI * pow(1e4, i / 32.0));
    if (turns >= 32) low = i;      // the last index that turns 32 times or more
    if (turns >= 1) high = i + 1;  // the first that does not turn once
  }
  cr_assert(low == 10 && high == 23, "ramp %d..%d", low, high);
  for (int i = 0; i < 32; i++) {
    const double base = 1.0 / pow(1e4, i / 32.0);
    const double keep = i <= low ? 1 : i >= high ? 0 : 1 - (double)(i - low) / (high - low);
    const double want = base * keep + base / 40 * (1 - keep);
    cr_assert_float_eq(f[i], want, want * 6.1e-8, "frequency %d: %.9g, expected %.9g", i, f[i], want);
  }
}

Test(config, yarn_without_mscale_scales_cos_and_sin) {
  const ti_config c = parse(LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":2048}}");
  float f[8], attn;
  ti_rope_frequencies(&c.rope, f, &attn);
  cr_assert_float_eq(attn, 0.1 * log(4) + 1, 1e-7);
  cr_assert_float_eq(c.softmax_scale, 0.25, 1e-15);  // of plain attention: no mscale^2
  const ti_config d = parse(LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"attention_factor\":1.5}}");
  ti_rope_frequencies(&d.rope, f, &attn);
  cr_assert_float_eq(attn, 1.5, 1e-7);
  cr_assert_eq(d.rope.original_max_position, 2048);  // max_position_embeddings
}

// Llama 3.1's apply_scaling, as in the reference code: three cases by wavelength.
Test(config, llama3_frequencies_match_the_reference_code) {
  ti_rope_config r = {
      .scaling = TI_ROPE_LLAMA3, .dim = 128, .theta = 5e5, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 8192};
  float f[64], attn;
  ti_rope_frequencies(&r, f, &attn);
  int cases[3] = {0};
  for (int i = 0; i < 64; i++) {
    const double freq = 1.0 / pow(5e5, 2.0 * i / 128), wavelen = 2 * M_PI / freq;
    double want;
    if (wavelen < 8192.0 / 4) {
      want = freq;
      cases[0]++;
    } else if (wavelen > 8192.0 / 1) {
      want = freq / 8;
      cases[1]++;
    } else {
      const double smooth = (8192 / wavelen - 1) / (4 - 1);
      want = (1 - smooth) * freq / 8 + smooth * freq;
      cases[2]++;
    }
    cr_assert_float_eq(f[i], want, want * 6.1e-8, "frequency %d", i);
  }
  cr_assert(cases[0] > 0 && cases[1] > 0 && cases[2] > 0 && attn == 1);
}
