// Chat templates against recorded renderings: our own list of constructs, 16 public templates and the bundled models', plus families and files.
#include "model/chat.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

// 2026-01-02 03:04:05 in this process's zone: the time of the recordings.
static int64_t recorded_time(void) {
  struct tm tm = {.tm_year = 126, .tm_mday = 2, .tm_hour = 3, .tm_min = 4, .tm_sec = 5, .tm_isdst = -1};
  return mktime(&tm);
}

static json_t *load(const char *path) {
  json_t *j = NULL;
  ti_error err;
  return access(path, R_OK) || ti_json_load_file(path, 64 << 20, &j, &err) ? NULL : j;
}

static ti_status render(const char *source, size_t n, const json_t *vars, ti_buf *out, ti_error *err) {
  ti_chat_template *t = NULL;
  ti_status st = ti_chat_template_create(source, n, NULL, &t, err);
  if (!st) st = ti_chat_render(t, vars, NULL, recorded_time(), out, err);
  ti_chat_template_destroy(t);
  return st;
}

// want: the text, or NULL for an error that has a line and, where it is given, `reason`.
static int same(const char *what, const char *source, size_t n, const json_t *vars, const json_t *want, const char *reason) {
  ti_buf out;
  ti_error err = {0};
  ti_buf_init(&out, 64 << 20);
  ti_status st = render(source, n, vars, &out, &err);
  int ok;
  if (json_is_string(want))
    ok = !st && out.len == json_string_length(want) && memcmp(ti_buf_str(&out), json_string_value(want), out.len) == 0;
  else
    ok = st && strstr(err.text, "line ") && (!reason || strstr(err.text, reason)) && out.len == 0;
  if (!ok)
    fprintf(stderr, "%s: %.200s\n  want %.300s\n  got  %.300s\n", what, source, json_is_string(want) ? json_string_value(want) : reason,
            st ? err.text : ti_buf_str(&out));
  ti_buf_fini(&out);
  return ok;
}

Test(chat, recorded_constructs_render_as_jinja2_does) {
  json_t *all = load(TI_SOURCE_DIR "/tests/unit/model/chat_cases.json");
  cr_assert(all);
  const json_t *vars = json_object_get(all, "vars"), *cases = json_object_get(all, "cases");
  int bad = 0;
  cr_assert_gt(json_array_size(cases), 800);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i), *src = json_array_get(c, 0);
    bad += !same("construct", json_string_value(src), json_string_length(src), vars, json_array_get(c, 1), json_string_value(json_array_get(c, 2)));
  }
  cr_assert_eq(bad, 0, "%d cases differ", bad);
  json_decref(all);
}

Test(chat, public_templates_render_as_transformers_does) {
  json_t *all = load(TI_SHARED_DIR "/data/templates/golden.json");
  if (!all) cr_skip_test("no shared data");
  const json_t *cases = json_object_get(all, "cases");
  int bad = 0;
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i);
    char path[4096];
    snprintf(path, sizeof path, "%s/data/templates/%s.jinja", TI_SHARED_DIR, json_string_value(json_object_get(c, "template")));
    ti_chat_template *t = NULL;
    ti_error err = {0};
    cr_assert_eq(ti_chat_template_open(path, NULL, &t, &err), TI_OK, "%s", err.text);
    json_t *vars = json_deep_copy(json_object_get(c, "args"));
    json_object_set(vars, "messages", json_object_get(c, "messages"));
    ti_buf out;
    ti_buf_init(&out, 1 << 20);
    ti_status st = ti_chat_render(t, vars, NULL, recorded_time(), &out, &err);
    const char *text = json_string_value(json_object_get(c, "text")), *error = json_string_value(json_object_get(c, "error"));
    bool ok = text ? !st && strcmp(text, ti_buf_str(&out)) == 0 : st && strstr(err.text, ": line ") && strstr(err.text, strchr(error, ' ') + 1);
    if (!ok) fprintf(stderr, "case %zu, %s: %s\n", i, path, st ? err.text : ti_buf_str(&out));
    bad += !ok;
    ti_buf_fini(&out);
    json_decref(vars);
    ti_chat_template_destroy(t);
  }
  cr_assert_eq(bad, 0, "%d of %zu cases differ", bad, json_array_size(cases));
  json_decref(all);
}

// The bundled models' own template and the built-in family of the same name say the same.
Test(chat, bundled_models_render_their_golden_prompts) {
  json_t *all = load(TI_SHARED_DIR "/models/chat_golden.json");
  if (!all) cr_skip_test("no shared data");
  static const char *const models[] = {"titan-tiny-moe", "titan-tiny-dense", "titan-tiny-draft"};
  for (size_t m = 0; m < 6; m++) {
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/models/%s", TI_SHARED_DIR, models[m % 3]);
    ti_chat_template *t = NULL;
    ti_error err = {0};
    cr_assert_eq(ti_chat_template_open(m < 3 ? "" : "titan", dir, &t, &err), TI_OK, "%s", err.text);
    for (size_t i = 0; i < json_array_size(all); i++) {
      json_t *c = json_array_get(all, i), *vars = NULL;
      cr_assert_eq(ti_chat_special_tokens(dir, &vars, &err), TI_OK, "%s", err.text);
      json_object_set(vars, "messages", json_object_get(c, "messages"));
      json_object_set_new(vars, "add_generation_prompt", json_true());
      ti_buf out;
      ti_buf_init(&out, 1 << 16);
      cr_assert_eq(ti_chat_render(t, vars, NULL, 0, &out, &err), TI_OK, "%s", err.text);
      cr_expect_str_eq(ti_buf_str(&out), json_string_value(json_object_get(c, "text")));
      ti_buf_fini(&out);
      json_decref(vars);
    }
    ti_chat_template_destroy(t);
  }
  json_decref(all);
}

static void expect_family(const char *name, const char *want) {
  json_t *vars = json_pack("{s:[{s:s,s:s},{s:s,s:s},{s:s,s:s},{s:s,s:s}],s:b,s:s,s:s}", "messages", "role", "system", "content", "S", "role", "user",
                           "content", "U", "role", "assistant", "content", "A", "role", "user", "content", "V", "add_generation_prompt", 1,
                           "bos_token", "<s>", "eos_token", "</s>");
  ti_chat_template *t = NULL;
  ti_error err = {0};
  ti_buf out;
  ti_buf_init(&out, 1 << 16);
  cr_assert_eq(ti_chat_template_open(name, NULL, &t, &err), TI_OK, "%s", err.text);
  cr_expect_eq(ti_chat_render(t, vars, NULL, 0, &out, &err), TI_OK, "%s: %s", name, err.text);
  cr_expect_str_eq(ti_buf_str(&out), want);
  cr_expect(strstr(ti_chat_template_builtin_names(), name));
  ti_buf_fini(&out);
  ti_chat_template_destroy(t);
  json_decref(vars);
}

Test(chat, built_in_families_have_the_published_formats) {
  expect_family("chatml",
                "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
                "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n");
  expect_family("deepseek-v3", "<s>S<｜User｜>U<｜Assistant｜>A<｜end▁of▁sentence｜><｜User｜>V<｜Assistant｜>");
  expect_family("llama-2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]");
  expect_family("llama-3",
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n");
  expect_family("titan", "<s>S<｜User｜>U<｜Assistant｜>A</s><｜User｜>V<｜Assistant｜>");
  expect_family("zephyr", "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n");
}

static void write_file(const char *dir, const char *name, const char *text) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  cr_assert(f);
  fputs(text, f);
  fclose(f);
}

static void expect_open(const char *dir, const char *want) {
  ti_chat_template *t = NULL;
  ti_error err = {0};
  ti_buf out;
  json_t *vars = json_object();
  ti_buf_init(&out, 1 << 16);
  cr_assert_eq(ti_chat_template_open(NULL, dir, &t, &err), TI_OK, "%s", err.text);
  cr_assert_eq(ti_chat_render(t, vars, NULL, 0, &out, &err), TI_OK, "%s", err.text);
  cr_expect_str_eq(ti_buf_str(&out), want);
  ti_buf_fini(&out);
  ti_chat_template_destroy(t);
  json_decref(vars);
}

Test(chat, a_models_template_is_found_in_the_places_where_models_keep_it) {
  char dir[] = TI_BINARY_DIR "/chat-XXXXXX";
  cr_assert(mkdtemp(dir));
  ti_chat_template *t = NULL;
  ti_error err = {0};
  cr_expect_eq(ti_chat_template_open(NULL, dir, &t, &err), TI_ERR_NOTFOUND);
  cr_expect(strstr(err.text, "--chat-template") && strstr(err.text, "zephyr"), "%s", err.text);
  write_file(dir, "tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"R\"}, {\"name\": \"default\", \"template\": \"D\"}]}");
  expect_open(dir, "D");
  write_file(dir, "tokenizer_config.json",
             "{\"chat_template\": \"T\", \"bos_token\": {\"content\": \"<b>\"}, \"eos_token\": \"<e>\", \"pad_token\": null}");
  expect_open(dir, "T");
  write_file(dir, "chat_template.jinja", "J\n");
  expect_open(dir, "J");
  json_t *vars = NULL;
  cr_assert_eq(ti_chat_special_tokens(dir, &vars, &err), TI_OK);
  cr_expect_eq(json_object_size(vars), 2);
  cr_expect_str_eq(json_string_value(json_object_get(vars, "bos_token")), "<b>");
  json_decref(vars);
  write_file(dir, "chat_template.jinja", "a\n{% if x %}");
  cr_expect_eq(ti_chat_template_open("", dir, &t, &err), TI_ERR_FORMAT);
  cr_expect(strstr(err.text, "chat_template.jinja: line 2: "), "%s", err.text);
  cr_expect_eq(ti_chat_template_open("no-such-family", dir, &t, &err), TI_ERR_NOTFOUND);
  cr_expect(strstr(err.text, "'no-such-family': neither a file nor one of the built-in chatml"), "%s", err.text);
}

static void *render_many(void *arg) {
  json_t *vars = json_pack("{s:[{s:s,s:s}],s:b,s:s}", "messages", "role", "user", "content", "Hi", "add_generation_prompt", 1, "bos_token", "<s>");
  for (int i = 0; i < 200; i++) {
    ti_buf out;
    ti_buf_init(&out, 1 << 16);
    if (ti_chat_render(arg, vars, NULL, 0, &out, NULL) || strcmp(ti_buf_str(&out), "<s><｜User｜>Hi<｜Assistant｜>") != 0) abort();
    ti_buf_fini(&out);
  }
  json_decref(vars);
  return NULL;
}

Test(chat, threads_share_a_template) {
  ti_chat_template *t = NULL;
  pthread_t th[4];
  cr_assert_eq(ti_chat_template_open("titan", NULL, &t, NULL), TI_OK);
  for (int i = 0; i < 4; i++) cr_assert_eq(pthread_create(&th[i], NULL, render_many, t), 0);
  for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
  ti_chat_template_destroy(t);
}
