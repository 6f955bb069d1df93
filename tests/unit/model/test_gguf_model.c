// GGUF files as models: config, names, tensors and tokenizers of each architecture, in files built in memory; and what is refused.
#include "model/gguf/gguf_model.h"

#include <criterion/criterion.h>
#include <math.h>

#include "gguf_build.h"

enum { HIDDEN = 32, VOCAB = 300, FFN = 64, KV = 16 };

static gb b;

static void setup(void) { gb_init(&b); }
static void teardown(void) { gb_fini(&b); }
TestSuite(gguf_model, .init = setup, .fini = teardown);

static void again(void) {
  gb_fini(&b);
  gb_init(&b);
}

// ---- files ----

static const char *key(const char *arch, const char *suffix) {
  static char k[4][96];
  static int i;
  char *out = k[i++ % 4];
  snprintf(out, sizeof k[0], "%s.%s", arch, suffix);
  return out;
}

static void common(const char *arch) {
  gb_text(&b, "general.architecture", arch);
  gb_int(&b, key(arch, "context_length"), 256);
  gb_int(&b, key(arch, "embedding_length"), HIDDEN);
  gb_int(&b, key(arch, "feed_forward_length"), FFN);
  gb_int(&b, key(arch, "attention.head_count"), 4);
  gb_real(&b, key(arch, "attention.layer_norm_rms_epsilon"), 1e-5f);
  gb_int(&b, "tokenizer.ggml.bos_token_id", 1);
  gb_int(&b, "tokenizer.ggml.eos_token_id", 2);
  gb_int(&b, "tokenizer.ggml.eot_token_id", 7);
}

static const char *blk(int layer, const char *part) {
  static char k[4][64];
  static int i;
  char *out = k[i++ % 4];
  snprintf(out, sizeof k[0], "blk.%d.%s", layer, part);
  return out;
}

static void attention(int layer) {
  gb_f32(&b, blk(layer, "attn_norm.weight"), HIDDEN, 0, 0, NULL);
  gb_f32(&b, blk(layer, "ffn_norm.weight"), HIDDEN, 0, 0, NULL);
  gb_f32(&b, blk(layer, "attn_q.weight"), HIDDEN, HIDDEN, 0, NULL);
  gb_f32(&b, blk(layer, "attn_k.weight"), HIDDEN, KV, 0, NULL);
  gb_f32(&b, blk(layer, "attn_v.weight"), HIDDEN, KV, 0, NULL);
  gb_f32(&b, blk(layer, "attn_output.weight"), HIDDEN, HIDDEN, 0, NULL);
}

static void ffn(int layer) {
  gb_f32(&b, blk(layer, "ffn_gate.weight"), HIDDEN, FFN, 0, NULL);
  gb_f32(&b, blk(layer, "ffn_up.weight"), HIDDEN, FFN, 0, NULL);
  gb_tensor(&b, blk(layer, "ffn_down.weight"), FFN, HIDDEN, 0, 8, FFN / 32 * 34 * HIDDEN, NULL);  // Q8_0
}

static void globals(void) {
  gb_f32(&b, "token_embd.weight", HIDDEN, VOCAB, 0, NULL);
  gb_f32(&b, "output_norm.weight", HIDDEN, 0, 0, NULL);
}

static void dense(const char *arch) {
  common(arch);
  gb_int(&b, key(arch, "block_count"), 2);
  gb_int(&b, key(arch, "attention.head_count_kv"), 2);
  globals();
  for (int i = 0; i < 2; i++) {
    attention(i);
    ffn(i);
  }
}

typedef struct opened {
  unsigned char *m;
  ti_gguf *g;  // closed with c
  ti_config cfg;
  ti_checkpoint *c;
} opened;

static ti_status open_all(opened *o, ti_error *err) {
  size_t n;
  memset(o, 0, sizeof *o);
  o->m = gb_finish(&b, &n);
  ti_status st = ti_gguf_open_memory(o->m, n, "x.gguf", &o->g, err);
  if (st != TI_OK) return st;
  if ((st = ti_gguf_config(o->g, &o->cfg, err)) != TI_OK) {
    ti_gguf_close(o->g);
    return st;
  }
  return ti_gguf_checkpoint(o->g, &o->cfg, &o->c, err);
}

static opened accept(void) {
  opened o;
  ti_error err = {0};
  cr_assert_eq(open_all(&o, &err), TI_OK, "%s", err.text);
  return o;
}

static void done(opened *o) {
  ti_checkpoint_close(o->c);
  free(o->m);
  again();
}

static void refuse(ti_status st, const char *what) {
  opened o;
  ti_error err = {0};
  const ti_status got = open_all(&o, &err);
  cr_assert_eq(got, st, "%s instead of %s: %s", ti_status_name(got), ti_status_name(st), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not say \"%s\"", err.text, what);
  free(o.m);
  again();
}

// ---- architectures ----

Test(gguf_model, llama_is_interleaved_and_tied_without_an_output) {
  dense("llama");
  gb_int(&b, "llama.rope.dimension_count", 8);
  gb_real(&b, "llama.rope.freq_base", 5000);
  opened o = accept();
  const ti_config *c = &o.cfg;
  cr_assert_str_eq(c->arch, "LlamaForCausalLM");
  cr_assert(c->hidden == HIDDEN && c->n_layer == 2 && c->n_head == 4 && c->n_kv_head == 2 && c->head_dim == 8 && c->ffn == FFN && c->vocab == VOCAB);
  cr_assert(c->tie_embeddings && c->rope.interleaved && c->rope.theta == 5000 && c->rope.dim == 8 && !c->qkv_bias && c->max_position == 256);
  cr_assert(c->bos == 1 && c->n_eos == 2 && c->eos[0] == 2 && c->eos[1] == 7);
  cr_assert(fabs(c->rms_eps - 1e-5) < 1e-11);
  cr_assert_eq(o.c->ops->count(o.c), 2 + 2 * 9);
  cr_assert_str_eq(o.c->label, "x.gguf");
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.mlp.down_proj.weight", &t), TI_OK);
  cr_assert(t.dtype == TI_Q8_0 && t.shape[0] == HIDDEN && t.shape[1] == FFN && t.data);
  cr_assert_eq(ti_checkpoint_find(o.c, "blk.1.ffn_down.weight", &t), TI_ERR_NOTFOUND, "names are Hugging Face's");
  cr_assert_eq(ti_checkpoint_find(o.c, "lm_head.weight", &t), TI_ERR_NOTFOUND);
  cr_assert_eq(o.c->ops->at(o.c, 0, &t), TI_OK);
  cr_assert_str_eq(t.name, "model.embed_tokens.weight", "at() is in the order of the data");
  const char *before = t.data;
  for (int i = 1; i < o.c->ops->count(o.c); i++) {
    cr_assert_eq(o.c->ops->at(o.c, i, &t), TI_OK);
    cr_assert((const char *)t.data > before);
    before = t.data;
  }
  cr_assert_eq(o.c->ops->at(o.c, 20, &t), TI_ERR_NOTFOUND);
  done(&o);

  dense("llama");
  gb_f32(&b, "output.weight", HIDDEN, VOCAB, 0, NULL);
  o = accept();
  cr_assert(!o.cfg.tie_embeddings && o.cfg.rope.theta == 10000);
  cr_assert_eq(ti_checkpoint_find(o.c, "lm_head.weight", &t), TI_OK);
  done(&o);
}

Test(gguf_model, slices_of_block_rows_are_read) {
  unsigned char rows[HIDDEN * FFN / 32 * 34], two[2 * 34];
  for (size_t i = 0; i < sizeof rows; i++) rows[i] = (unsigned char)(i * 7);
  dense("llama");
  b.data[10] = rows;  // blk.0.ffn_down.weight
  opened o = accept();
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.0.mlp.down_proj.weight", &t), TI_OK);
  cr_assert_eq(memcmp(t.data, rows, sizeof rows), 0);
  ti_checkpoint_read(o.c, &t, 3, 2, 32, 32, two);
  cr_assert(memcmp(two, rows + 3 * 68 + 34, 34) == 0 && memcmp(two + 34, rows + 4 * 68 + 34, 34) == 0);
  done(&o);
}

Test(gguf_model, qwen2_has_biases_and_qwen3_has_norms_of_q_and_k) {
  dense("qwen2");
  for (int i = 0; i < 2; i++) {
    gb_f32(&b, blk(i, "attn_q.bias"), HIDDEN, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_k.bias"), KV, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_v.bias"), KV, 0, 0, NULL);
  }
  opened o = accept();
  ti_tensor t;
  cr_assert(o.cfg.qkv_bias && !o.cfg.o_bias && !o.cfg.rope.interleaved);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.self_attn.k_proj.bias", &t), TI_OK);
  done(&o);
  dense("qwen2");
  refuse(TI_ERR_NOTFOUND, "tensor blk.0.attn_q.bias is missing: expected [1, 32]");
  dense("qwen3");
  for (int i = 0; i < 2; i++) {
    gb_f32(&b, blk(i, "attn_q_norm.weight"), 8, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_k_norm.weight"), 8, 0, 0, NULL);
  }
  o = accept();
  cr_assert(o.cfg.qk_norm && !o.cfg.qkv_bias && o.cfg.head_dim == 8 && !o.cfg.rope.interleaved);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.0.self_attn.q_norm.weight", &t), TI_OK);
  done(&o);
}

Test(gguf_model, llama_with_biases_says_so) {
  dense("llama");
  for (int i = 0; i < 2; i++) {
    gb_f32(&b, blk(i, "attn_q.bias"), HIDDEN, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_k.bias"), KV, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_v.bias"), KV, 0, 0, NULL);
  }
  opened o = accept();
  cr_assert(o.cfg.qkv_bias && !o.cfg.o_bias);
  done(&o);
}

Test(gguf_model, mixtral_s_experts_are_views_of_the_stack) {
  static float stack[3 * FFN * HIDDEN];
  for (size_t i = 0; i < 3 * FFN * HIDDEN; i++) stack[i] = (float)i;
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  gb_int(&b, "llama.attention.head_count_kv", 2);
  gb_int(&b, "llama.expert_count", 3);
  gb_int(&b, "llama.expert_used_count", 2);
  globals();
  attention(0);
  gb_f32(&b, "blk.0.ffn_gate_inp.weight", HIDDEN, 3, 0, NULL);
  gb_f32(&b, "blk.0.ffn_gate_exps.weight", HIDDEN, FFN, 3, NULL);
  gb_f32(&b, "blk.0.ffn_up_exps.weight", HIDDEN, FFN, 3, stack);
  gb_f32(&b, "blk.0.ffn_down_exps.weight", FFN, HIDDEN, 3, NULL);
  opened o = accept();
  cr_assert_str_eq(o.cfg.arch, "MixtralForCausalLM");
  cr_assert(o.cfg.moe.n_expert == 3 && o.cfg.moe.n_top == 2 && o.cfg.moe.ffn == FFN);
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.0.block_sparse_moe.experts.2.w3.weight", &t), TI_OK);
  cr_assert(t.n_dim == 2 && t.shape[0] == FFN && t.shape[1] == HIDDEN && t.bytes == FFN * HIDDEN * 4);
  cr_assert_eq(((const float *)t.data)[5], 2 * FFN * HIDDEN + 5);
  done(&o);
}

static void deepseek(uint32_t group_count) {
  static float k_b[4 * 24 * 16], v_b[4 * 12 * 24];
  for (int i = 0; i < 4 * 24 * 16; i++) k_b[i] = (float)i;
  for (int i = 0; i < 4 * 12 * 24; i++) v_b[i] = (float)(10000 + i);
  const char *a = "deepseek2";
  common(a);
  gb_int(&b, key(a, "block_count"), 2);
  gb_int(&b, key(a, "attention.head_count_kv"), 1);
  gb_int(&b, key(a, "attention.q_lora_rank"), 20);
  gb_int(&b, key(a, "attention.kv_lora_rank"), 24);
  gb_int(&b, key(a, "attention.key_length"), 32);
  gb_int(&b, key(a, "attention.value_length"), 24);
  gb_int(&b, key(a, "attention.key_length_mla"), 24);
  gb_int(&b, key(a, "attention.value_length_mla"), 12);
  gb_int(&b, key(a, "rope.dimension_count"), 8);
  gb_int(&b, key(a, "expert_count"), 4);
  gb_int(&b, key(a, "expert_used_count"), 2);
  gb_int(&b, key(a, "expert_shared_count"), 1);
  gb_int(&b, key(a, "expert_feed_forward_length"), 16);
  gb_int(&b, key(a, "leading_dense_block_count"), 1);
  gb_real(&b, key(a, "expert_weights_scale"), 2.5f);
  gb_bool(&b, key(a, "expert_weights_norm"), true);
  gb_int(&b, key(a, "expert_gating_func"), 2);
  if (group_count) {
    gb_int(&b, key(a, "expert_group_count"), group_count);
    gb_int(&b, key(a, "expert_group_used_count"), 1);
  }
  gb_text(&b, key(a, "rope.scaling.type"), "yarn");
  gb_real(&b, key(a, "rope.scaling.factor"), 4);
  gb_int(&b, key(a, "rope.scaling.original_context_length"), 64);
  gb_real(&b, key(a, "rope.scaling.yarn_log_multiplier"), 0.1f);
  globals();
  gb_f32(&b, "output.weight", HIDDEN, VOCAB, 0, NULL);
  for (int i = 0; i < 2; i++) {
    gb_f32(&b, blk(i, "attn_norm.weight"), HIDDEN, 0, 0, NULL);
    gb_f32(&b, blk(i, "ffn_norm.weight"), HIDDEN, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_q_a.weight"), HIDDEN, 20, 0, NULL);
    gb_f32(&b, blk(i, "attn_q_a_norm.weight"), 20, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_q_b.weight"), 20, 4 * 24, 0, NULL);
    gb_f32(&b, blk(i, "attn_kv_a_mqa.weight"), HIDDEN, 24 + 8, 0, NULL);
    gb_f32(&b, blk(i, "attn_kv_a_norm.weight"), 24, 0, 0, NULL);
    gb_f32(&b, blk(i, "attn_k_b.weight"), 16, 24, 4, k_b);
    gb_f32(&b, blk(i, "attn_v_b.weight"), 24, 12, 4, v_b);
    gb_f32(&b, blk(i, "attn_output.weight"), 4 * 12, HIDDEN, 0, NULL);
  }
  ffn(0);
  gb_f32(&b, "blk.1.ffn_gate_inp.weight", HIDDEN, 4, 0, NULL);
  gb_f32(&b, "blk.1.exp_probs_b.bias", 4, 0, 0, NULL);
  gb_f32(&b, "blk.1.ffn_gate_exps.weight", HIDDEN, 16, 4, NULL);
  gb_f32(&b, "blk.1.ffn_up_exps.weight", HIDDEN, 16, 4, NULL);
  gb_f32(&b, "blk.1.ffn_down_exps.weight", 16, HIDDEN, 4, NULL);
  gb_f32(&b, "blk.1.ffn_gate_shexp.weight", HIDDEN, 16, 0, NULL);
  gb_f32(&b, "blk.1.ffn_up_shexp.weight", HIDDEN, 16, 0, NULL);
  gb_f32(&b, "blk.1.ffn_down_shexp.weight", 16, HIDDEN, 0, NULL);
}

Test(gguf_model, deepseek2_is_v3_with_its_groups_and_yarn) {
  deepseek(2);
  opened o = accept();
  const ti_config *c = &o.cfg;
  cr_assert_str_eq(c->arch, "DeepseekV3ForCausalLM");
  cr_assert(c->attn == TI_ATTN_MLA && c->q_lora == 20 && c->kv_lora == 24 && c->qk_nope == 16 && c->qk_rope == 8 && c->v_dim == 12);
  cr_assert(c->moe.n_expert == 4 && c->moe.n_group == 2 && c->moe.n_top_group == 1 && c->moe.n_shared == 1 && c->moe.n_dense_layer == 1);
  cr_assert(c->moe.router == TI_ROUTER_SIGMOID && c->moe.scale == 2.5 && c->moe.score_bias && c->rope.interleaved && c->n_mtp == 0);
  cr_assert(c->rope.scaling == TI_ROPE_YARN && c->rope.factor == 4 && c->rope.original_max_position == 64);
  const double m = 0.1 * log(4) + 1;
  cr_assert_float_eq(c->softmax_scale, m * m / sqrt(24), 1e-6);
  done(&o);
  deepseek(0);
  refuse(TI_ERR_FORMAT, "deepseek2.expert_group_count: missing: the choice of experts depends on it");
}

Test(gguf_model, deepseek2_shows_the_halves_of_kv_b_or_the_whole) {
  deepseek(2);
  opened o = accept();
  ti_tensor t;
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.self_attn.kv_b_proj.weight", &t), TI_ERR_NOTFOUND);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.self_attn.k_b_proj.weight", &t), TI_OK);
  cr_assert(t.dtype == TI_F32 && t.n_dim == 3 && t.shape[0] == 4 && t.shape[1] == 24 && t.shape[2] == 16);
  cr_assert_eq(((const float *)t.data)[17], 17);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.0.self_attn.v_b_proj.weight", &t), TI_OK);
  cr_assert(t.n_dim == 3 && t.shape[0] == 4 && t.shape[1] == 12 && t.shape[2] == 24);
  cr_assert_eq(((const float *)t.data)[17], 10017);
  cr_assert(ti_gguf_kv_b_is_split(o.c, 1) && !ti_gguf_kv_b_is_split(o.c, 2));
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.mlp.gate.e_score_correction_bias", &t), TI_OK);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.mlp.experts.3.down_proj.weight", &t), TI_OK);
  cr_assert_eq(ti_checkpoint_find(o.c, "model.layers.1.mlp.shared_experts.up_proj.weight", &t), TI_OK);
  done(&o);
}

// ---- rope ----

Test(gguf_model, rope_scaling_is_read_from_keys_or_factors) {
  dense("qwen2");
  gb_text(&b, "qwen2.rope.scaling.type", "longrope");
  refuse(TI_ERR_UNSUPPORTED, "qwen2.rope.scaling.type: \"longrope\" is not supported (none, linear and yarn are)");
  dense("llama");
  gb_text(&b, "llama.rope.scaling.type", "linear");
  gb_real(&b, "llama.rope.scaling.factor", 2);
  opened o = accept();
  cr_assert(o.cfg.rope.scaling == TI_ROPE_LINEAR && o.cfg.rope.factor == 2);
  done(&o);
  static const char *const factor_of[] = {"llama.rope.scaling.factor", "llama.rope.scale_linear"};  // without a type: linear, as llama.cpp reads it
  for (int i = 0; i < 2; i++) {
    dense("llama");
    gb_real(&b, factor_of[i], 4);
    o = accept();
    cr_assert(o.cfg.rope.scaling == TI_ROPE_LINEAR && o.cfg.rope.factor == 4, "%s", factor_of[i]);
    done(&o);
  }
  dense("llama");
  gb_text(&b, "llama.rope.scaling.type", "none");
  gb_real(&b, "llama.rope.scaling.factor", 4);
  o = accept();
  cr_assert_eq(o.cfg.rope.scaling, TI_ROPE_NONE);
  done(&o);

  ti_rope_config plain = {.dim = 8, .theta = 10000, .factor = 1}, scaled = plain;
  float base[4], want[4], factors[4], attn;
  scaled.scaling = TI_ROPE_LLAMA3;
  scaled.factor = 8;
  scaled.low_freq_factor = 1;
  scaled.high_freq_factor = 4;
  scaled.original_max_position = 8192;
  ti_rope_frequencies(&plain, base, &attn);
  ti_rope_frequencies(&scaled, want, &attn);
  // theta 1e4 and dim 8 turn too fast to be scaled; a theta of 5e7 reaches the long waves
  dense("llama");
  gb_real(&b, "llama.rope.freq_base", 5e7f);
  plain.theta = scaled.theta = 5e7;
  ti_rope_frequencies(&plain, base, &attn);
  ti_rope_frequencies(&scaled, want, &attn);
  for (int i = 0; i < 4; i++) factors[i] = base[i] / want[i];
  cr_assert(factors[0] == 1 && factors[3] == 8);
  gb_f32(&b, "rope_freqs.weight", 4, 0, 0, factors);
  o = accept();
  cr_assert(o.cfg.rope.scaling == TI_ROPE_LLAMA3 && o.cfg.rope.factor == 8 && o.cfg.rope.original_max_position == 8192);
  done(&o);
  dense("llama");
  factors[0] = 1.5f;
  gb_f32(&b, "rope_freqs.weight", 4, 0, 0, factors);
  refuse(TI_ERR_UNSUPPORTED, "tensor rope_freqs.weight: element 0 is 1.5");
  dense("llama");
  gb_f32(&b, "rope_freqs.weight", 5, 0, 0, NULL);
  refuse(TI_ERR_FORMAT, "tensor rope_freqs.weight: expected F32 [4]");
}

// ---- what is refused ----

Test(gguf_model, unknown_architectures_and_arithmetic_are_refused_by_name) {
  gb_int(&b, "x", 1);
  refuse(TI_ERR_FORMAT, "general.architecture: missing");
  dense("gemma2");
  refuse(TI_ERR_UNSUPPORTED, "general.architecture: \"gemma2\" is not supported (llama, qwen2, qwen3 and deepseek2 are)");
  dense("llama");
  gb_real(&b, "llama.logit_scale", 2);
  refuse(TI_ERR_UNSUPPORTED, "llama.logit_scale: 2 is not supported");
  dense("llama");
  gb_int(&b, "llama.attention.sliding_window", 128);
  refuse(TI_ERR_UNSUPPORTED, "llama.attention.sliding_window: 128 is below context_length (256)");
  dense("llama");
  gb_int(&b, "llama.rope.dimension_count", 4);
  refuse(TI_ERR_UNSUPPORTED, "llama.rope.dimension_count: 4 of a head's 8 numbers");
  dense("llama");
  gb_int(&b, "llama.attention.value_length", 4);
  refuse(TI_ERR_UNSUPPORTED, "llama.attention.value_length: 4, another one than key_length (8)");
  dense("llama");
  gb_bool(&b, "llama.attention.causal", false);
  refuse(TI_ERR_UNSUPPORTED, "llama.attention.causal: false is not supported");
  dense("qwen2");
  gb_text(&b, "qwen2.rope.scaling.type", "yarn");
  gb_real(&b, "qwen2.rope.scaling.factor", 2);
  gb_real(&b, "qwen2.rope.scaling.yarn_ext_factor", 0.5f);
  refuse(TI_ERR_UNSUPPORTED, "qwen2.rope.scaling.yarn_ext_factor: 0.5 is not supported");
  dense("llama");
  gb_int(&b, "split.count", 3);
  refuse(TI_ERR_UNSUPPORTED, "split.count: one of 3 files");
  dense("llama");
  gb_f32(&b, "blk.0.attn_q_norm.weight", 8, 0, 0, NULL);
  refuse(TI_ERR_UNSUPPORTED, "tensor blk.0.attn_q_norm.weight is no part of LlamaForCausalLM");
  dense("qwen3");
  gb_int(&b, "qwen3.expert_count", 8);
  refuse(TI_ERR_UNSUPPORTED, "qwen3.expert_count");
}

Test(gguf_model, missing_and_misshapen_parts_are_named) {
  common("llama");
  globals();
  refuse(TI_ERR_FORMAT, "llama.block_count: missing");
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  refuse(TI_ERR_FORMAT, "tensor token_embd.weight is missing");
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  gb_int(&b, "llama.attention.head_count_kv", 3);
  globals();
  refuse(TI_ERR_RANGE, "num_key_value_heads: 3 does not divide num_attention_heads (4)");
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  globals();
  refuse(TI_ERR_NOTFOUND, "tensor blk.0.attn_norm.weight is missing: expected [1, 32]");
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  gb_int(&b, "llama.attention.head_count_kv", 4);
  globals();
  attention(0);
  refuse(TI_ERR_FORMAT, "tensor blk.0.attn_k.weight: expected [32, 32], found [16, 32]");
  dense("llama");
  gb_int(&b, "llama.vocab_size", VOCAB + 1);
  refuse(TI_ERR_FORMAT, "llama.vocab_size: 301, but token_embd.weight has 300 rows");
  dense("llama");
  gb_array(&b, "tokenizer.ggml.tokens", TI_GGUF_STRING, VOCAB + 1);
  for (int i = 0; i <= VOCAB; i++) gb_str(&b.kv, "t");
  refuse(TI_ERR_FORMAT, "tokenizer.ggml.tokens: 301 tokens, but token_embd.weight has 300 rows");
  common("llama");
  gb_int(&b, "llama.block_count", 1);
  gb_f32(&b, "token_embd.weight", HIDDEN, 7, 0, NULL);
  refuse(TI_ERR_RANGE, "eos_token_id: expected ids in 0..6");
}

// ---- tokenizers ----

static const char *const tokens[] = {"<s>", "a", "b", "c", "ab", "abc", "<|end|>"};

static void vocabulary(const char *model) {
  gb_text(&b, "tokenizer.ggml.model", model);
  gb_texts(&b, "tokenizer.ggml.tokens", tokens, 7);
  gb_array(&b, "tokenizer.ggml.token_type", TI_GGUF_I32, 7);
  for (int i = 0; i < 7; i++) gb_u32(&b.kv, i == 0 || i == 6 ? 3 : 1);
  gb_int(&b, "tokenizer.ggml.bos_token_id", 0);
  gb_int(&b, "tokenizer.ggml.eos_token_id", 6);
}

static ti_status make(ti_tokenizer **t, ti_error *err) {
  size_t n;
  ti_gguf *g;
  unsigned char *m = gb_finish(&b, &n);
  ti_status st = ti_gguf_open_memory(m, n, "x", &g, err);
  cr_assert_eq(st, TI_OK, "%s", err->text);
  st = ti_gguf_tokenizer(g, t, err);
  ti_gguf_close(g);
  free(m);
  again();
  return st;
}

static void refuse_tokenizer(ti_status st, const char *what) {
  ti_tokenizer *t = NULL;
  ti_error err = {0};
  const ti_status got = make(&t, &err);
  cr_assert_eq(got, st, "%s instead of %s: %s", ti_status_name(got), ti_status_name(st), err.text);
  cr_assert_not_null(strstr(err.text, what), "\"%s\" does not say \"%s\"", err.text, what);
}

static void expect_ids(const ti_tokenizer *t, const char *text, unsigned flags, const int32_t *want, size_t n) {
  ti_ids ids;
  ti_tok_scratch *s;
  ti_error err = {0};
  ti_ids_init(&ids, 64);
  cr_assert_eq(ti_tok_scratch_create(&s), TI_OK);
  cr_assert_eq(ti_tokenizer_encode(t, s, text, strlen(text), flags, &ids, &err), TI_OK, "%s", err.text);
  cr_assert(ids.n == n && memcmp(ids.v, want, n * sizeof *want) == 0, "%zu ids of \"%s\"", ids.n, text);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(s);
}

Test(gguf_model, a_gpt2_tokenizer_merges_and_adds_what_it_is_told) {
  ti_tokenizer *t = NULL;
  ti_error err = {0};
  vocabulary("gpt2");
  gb_text(&b, "tokenizer.ggml.pre", "smollm");
  gb_texts(&b, "tokenizer.ggml.merges", (const char *const[]){"a b", "ab c"}, 2);
  gb_bool(&b, "tokenizer.ggml.add_bos_token", true);
  gb_int(&b, "tokenizer.ggml.eot_token_id", 3);
  gb_int(&b, "tokenizer.ggml.eom_token_id", 2);
  cr_assert_eq(make(&t, &err), TI_OK, "%s", err.text);
  expect_ids(t, "abcab", TI_TOK_ADD_SPECIAL, (const int32_t[]){0, 5, 4}, 3);
  expect_ids(t, "c<|end|>", TI_TOK_PARSE_SPECIAL, (const int32_t[]){3, 6}, 2);
  for (int id = 0; id < 7; id++) cr_assert_eq(ti_tokenizer_is_eos(t, id), id == 6 || id == 3 || id == 2, "id %d", id);
  cr_assert_eq(ti_tokenizer_bos(t), 0);
  ti_tokenizer_destroy(t);
}

// Files that do not say add_bos_token: llama.cpp's defaults.
Test(gguf_model, bos_is_added_unasked_to_llama_3_s_ids_alone) {
  static const char *const pre[] = {"llama-bpe", "llama-v3", "smollm", "qwen2"};
  for (int i = 0; i < 4; i++) {
    ti_tokenizer *t = NULL;
    ti_error err = {0};
    vocabulary("gpt2");
    gb_text(&b, "tokenizer.ggml.pre", pre[i]);
    gb_texts(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    cr_assert_eq(make(&t, &err), TI_OK, "%s: %s", pre[i], err.text);
    expect_ids(t, "ab", TI_TOK_ADD_SPECIAL, i < 2 ? (const int32_t[]){0, 4} : (const int32_t[]){4}, i < 2 ? 2 : 1);
    ti_tokenizer_destroy(t);
  }
}

Test(gguf_model, a_llama_tokenizer_follows_its_scores) {
  ti_tokenizer *t = NULL;
  ti_error err = {0};
  vocabulary("llama");
  gb_array(&b, "tokenizer.ggml.scores", TI_GGUF_F32, 7);
  for (int i = 0; i < 7; i++) gb_raw(&b.kv, &(float){(float)-i}, 4);
  gb_bool(&b, "tokenizer.ggml.add_space_prefix", false);
  cr_assert_eq(make(&t, &err), TI_OK, "%s", err.text);
  expect_ids(t, "abc", TI_TOK_ADD_SPECIAL, (const int32_t[]){0, 5}, 2);
  ti_tokenizer_destroy(t);
}

Test(gguf_model, broken_tokenizers_are_refused) {
  gb_int(&b, "x", 1);
  refuse_tokenizer(TI_ERR_NOTFOUND, "tokenizer.ggml.model: missing");
  gb_text(&b, "tokenizer.ggml.model", "gpt2");
  refuse_tokenizer(TI_ERR_FORMAT, "tokenizer.ggml.tokens: missing or empty");
  vocabulary("gpt2");
  gb_text(&b, "tokenizer.ggml.pre", "smollm");
  refuse_tokenizer(TI_ERR_FORMAT, "tokenizer.ggml.merges: missing or empty");
  vocabulary("gpt2");
  gb_texts(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
  refuse_tokenizer(TI_ERR_UNSUPPORTED, "tokenizer.ggml.pre: \"\"; gpt-2, smollm");
  vocabulary("llama");
  refuse_tokenizer(TI_ERR_FORMAT, "tokenizer.ggml.scores: missing");
  vocabulary("llama");
  gb_array(&b, "tokenizer.ggml.scores", TI_GGUF_F32, 1);
  gb_u32(&b.kv, 0);
  refuse_tokenizer(TI_ERR_FORMAT, "tokenizer.ggml.scores: 1, but there are 7 tokens");
  vocabulary("bert");
  refuse_tokenizer(TI_ERR_UNSUPPORTED, "tokenizer.ggml.model: \"bert\"; gpt2 and llama are served");
  vocabulary("gpt2");
  gb_text(&b, "tokenizer.ggml.pre", "smollm");
  gb_texts(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
  gb_int(&b, "tokenizer.ggml.padding_token_id", 7);
  refuse_tokenizer(TI_ERR_RANGE, "tokenizer.ggml.padding_token_id: expected an integer in 0..6, got 7");
  gb_text(&b, "tokenizer.ggml.model", "gpt2");
  gb_texts(&b, "tokenizer.ggml.tokens", tokens, 7);
  gb_texts(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
  gb_array(&b, "tokenizer.ggml.token_type", TI_GGUF_I32, 7);
  for (int i = 0; i < 7; i++) gb_u32(&b.kv, 9);
  refuse_tokenizer(TI_ERR_RANGE, "tokenizer.ggml.token_type[0]: expected 1..6, got 9");
}

Test(gguf_model, a_chat_template_is_found) {
  size_t n;
  ti_gguf *g;
  ti_tok_text t;
  ti_error err = {0};
  gb_text(&b, "tokenizer.chat_template", "{{ messages }}");
  unsigned char *m = gb_finish(&b, &n);
  cr_assert_eq(ti_gguf_open_memory(m, n, "x", &g, &err), TI_OK, "%s", err.text);
  cr_assert(ti_gguf_chat_template(g, &t, &err) == TI_OK && t.n == 14 && memcmp(t.s, "{{ messages }}", 14) == 0);
  ti_gguf_close(g);
  free(m);
}
