// SmolLM2-135M-Instruct as its GGUF file says it, against values that llama.cpp gave (smollm2_golden.json). Skipped without the file, which
// launch/fetch-model.sh smollm2 puts into the cache folder, or without the golden values.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "model/chat.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"

static char path[4096];
static json_t *golden;
static ti_tokenizer *tok;
static ti_tok_scratch *scratch;

static const char *model(void) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  const char *file = "titaninfer/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (cache && *cache)
    snprintf(path, sizeof path, "%s/%s", cache, file);
  else
    snprintf(path, sizeof path, "%s/.cache/%s", home ? home : "", file);
  if (access(path, R_OK) != 0) cr_skip_test("no %s (launch/fetch-model.sh smollm2)", path);
  return path;
}

static void open_golden(void) {
  ti_error err = {0};
  model();
  if (access(TI_SHARED_DIR "/models/smollm2_golden.json", R_OK) != 0) cr_skip_test("no smollm2_golden.json");
  cr_assert_eq(ti_json_load_file(TI_SHARED_DIR "/models/smollm2_golden.json", 4 << 20, &golden, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_tokenizer_load(path, &tok, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_tok_scratch_create(&scratch), TI_OK);
}

static void close_golden(void) {
  json_decref(golden);
  ti_tokenizer_destroy(tok);
  ti_tok_scratch_destroy(scratch);
}

static void expect_ids(const char *text, size_t n, unsigned flags, const json_t *want) {
  ti_ids ids;
  ti_error err = {0};
  ti_ids_init(&ids, 1 << 20);
  cr_assert_eq(ti_tokenizer_encode(tok, scratch, text, n, flags, &ids, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ids.n, json_array_size(want), "\"%.60s\": %zu ids, expected %zu", text, ids.n, json_array_size(want));
  for (size_t i = 0; i < ids.n; i++)
    cr_assert_eq(ids.v[i], json_integer_value(json_array_get(want, i)), "\"%.60s\": id %zu is %d", text, i, ids.v[i]);
  ti_ids_fini(&ids);
}

Test(gguf_smollm2, the_config_and_272_tensors_are_read) {
  ti_config c;
  ti_checkpoint *k;
  ti_error err = {0};
  cr_assert_eq(ti_config_load(model(), &c, &err), TI_OK, "%s", err.text);
  cr_assert_str_eq(c.arch, "LlamaForCausalLM");
  cr_assert(c.hidden == 576 && c.n_layer == 30 && c.n_head == 9 && c.n_kv_head == 3 && c.head_dim == 64 && c.ffn == 1536 && c.vocab == 49152);
  cr_assert(c.max_position == 8192 && c.rope.theta == 100000 && c.rope.dim == 64 && c.rope.interleaved && c.rope.scaling == TI_ROPE_NONE);
  cr_assert(c.tie_embeddings && !c.qkv_bias && c.weight_dtype == TI_Q4_1 && c.bos == 1 && c.n_eos == 1 && c.eos[0] == 2);
  cr_assert_eq(ti_checkpoint_open(path, &c, &k, &err), TI_OK, "%s", err.text);
  cr_assert_eq(k->ops->count(k), 272);
  int types[TI_DTYPE_COUNT] = {0};
  for (int i = 0; i < 272; i++) {
    ti_tensor t;
    cr_assert_eq(k->ops->at(k, i, &t), TI_OK);
    cr_assert(t.data && (uintptr_t)t.data % 32 == 0);
    types[t.dtype]++;
  }
  cr_assert(types[TI_Q4_1] == 210 && types[TI_Q8_0] == 1 && types[TI_F32] == 61);
  ti_checkpoint_close(k);
}

Test(gguf_smollm2, the_tokenizer_gives_llama_cpp_s_ids) {
  size_t i;
  json_t *v;
  open_golden();
  cr_assert(json_array_size(json_object_get(golden, "tokenize")) > 0 && json_array_size(json_object_get(golden, "tokenize_special")) > 0);
  json_array_foreach(json_object_get(golden, "tokenize"), i, v) {
    const json_t *s = json_object_get(v, "text");
    expect_ids(json_string_value(s), json_string_length(s), 0, json_object_get(v, "ids"));
  }
  json_array_foreach(json_object_get(golden, "tokenize_special"), i, v) {
    const json_t *s = json_object_get(v, "text");
    expect_ids(json_string_value(s), json_string_length(s), TI_TOK_PARSE_SPECIAL, json_object_get(v, "ids"));
  }
  close_golden();
}

// By its own template, which adds a system message, and by the built-in ChatML with that message given.
static void check_prompts(const char *spec, const char *system) {
  ti_chat_template *t;
  ti_error err = {0};
  size_t i;
  json_t *v, *vars;
  ti_buf text;
  cr_assert_eq(ti_chat_template_open(spec, path, &t, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_chat_special_tokens(path, &vars, &err), TI_OK, "%s", err.text);
  cr_assert_str_eq(json_string_value(json_object_get(vars, "bos_token")), "<|im_start|>");
  cr_assert_str_eq(json_string_value(json_object_get(vars, "eos_token")), "<|im_end|>");
  json_object_set_new(vars, "add_generation_prompt", json_true());
  ti_buf_init(&text, 1 << 20);
  cr_assert_eq(json_array_size(json_object_get(golden, "chat")), 8);
  json_array_foreach(json_object_get(golden, "chat"), i, v) {
    json_t *messages = json_array();
    if (system) json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
    json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content", json_object_get(v, "user")));
    json_object_set_new(vars, "messages", messages);
    ti_buf_reset(&text);
    cr_assert_eq(ti_chat_render(t, vars, NULL, 0, &text, &err), TI_OK, "%s", err.text);
    cr_assert_str_eq(ti_buf_str(&text), json_string_value(json_object_get(v, "rendered")));
    expect_ids(ti_buf_str(&text), text.len, TI_TOK_PARSE_SPECIAL, json_object_get(v, "prompt_ids"));
  }
  ti_buf_fini(&text);
  json_decref(vars);
  ti_chat_template_destroy(t);
}

Test(gguf_smollm2, prompts_have_llama_cpp_s_ids) {
  open_golden();
  check_prompts(NULL, NULL);
  check_prompts("chatml", "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  close_golden();
}
