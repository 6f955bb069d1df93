// Hostile and broken templates: each ends soon, with an error that says where and why, and leaves the output as it was.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/chat.h"

static void expect_error(const char *source, ti_status want, const char *text, const ti_chat_limits *lim) {
  ti_chat_template *t = NULL;
  ti_error err = {0};
  ti_buf out;
  json_t *vars = json_pack("{s:[{s:s,s:s}],s:s}", "messages", "role", "user", "content", "Hi", "s", "0123456789abcdef");
  ti_buf_init(&out, 256 << 20);
  ti_buf_puts(&out, "before");
  uint64_t t0 = ti_mono_us();
  ti_status st = ti_chat_template_create(source, strlen(source), "T", &t, &err);
  if (!st) st = ti_chat_render(t, vars, lim, 0, &out, &err);
  uint64_t us = ti_mono_us() - t0;
  cr_expect_eq(st, want, "%.80s: %s, %s", source, ti_status_name(st), err.text);
  cr_expect(strstr(err.text, "T: line ") && strstr(err.text, text), "%.80s: %s", source, err.text);
  cr_expect_str_eq(ti_buf_str(&out), "before");
  cr_expect_lt(us, 20000000, "%.80s took %llu us", source, (unsigned long long)us);
  ti_buf_fini(&out);
  ti_chat_template_destroy(t);
  json_decref(vars);
}

#define R10 "{% for i in range(100000) %}"
#define E10 "{% endfor %}"

Test(chat_bounds, endless_work_meets_the_step_limit) {
  expect_error(R10 R10 E10 E10, TI_ERR_RANGE, "steps", NULL);
  expect_error(R10 R10 "{{ s|length }}" E10 E10, TI_ERR_RANGE, "steps", NULL);
  expect_error("{% set b = s * 1000000 %}" R10 "{% if 'zz' in b %}{% endif %}" E10, TI_ERR_RANGE, "steps", NULL);
  expect_error("{% set b = s * 1000000 %}" R10 "{% if b[900000] == 'q' %}{% endif %}" E10, TI_ERR_RANGE, "steps", NULL);
  expect_error("{% set b = s * 1000000 %}" R10 "{% if b == b ~ '' %}{% endif %}" E10, TI_ERR_RANGE, "steps", NULL);
  expect_error("{% set b = 'a' * 1000000 %}{{ b.rfind('a' * 500000 ~ 'b') }}", TI_ERR_RANGE, "steps", NULL);
}

Test(chat_bounds, recursion_meets_the_depth_limit) {
  expect_error("{% macro f(x) %}{{ f(x) }}{% endmacro %}\n{{ f(1) }}", TI_ERR_RANGE, "deep", NULL);
  expect_error("{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", TI_ERR_RANGE, "deep",
               &(ti_chat_limits){.depth = 1000000});
  expect_error("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", TI_ERR_RANGE, "deep", NULL);
  expect_error("{% set n = namespace(a=[]) %}{% for i in range(5000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}", TI_ERR_RANGE, "deep", NULL);
  expect_error("{% set n = namespace(a=[]) %}{% for i in range(5000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a|tojson }}", TI_ERR_RANGE, "deep",
               NULL);
  expect_error("{% set n = namespace(a={}) %}{% set n.n = n %}{{ n }}", TI_ERR_RANGE, "deep", NULL);
  expect_error(
      "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
      TI_ERR_RANGE, "steps", NULL);
}

Test(chat_bounds, gigabytes_meet_the_memory_and_output_limits) {
  expect_error("{{ s * 100000000 }}", TI_ERR_FULL, "intermediate", NULL);
  expect_error("{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", TI_ERR_FULL, "intermediate", NULL);
  expect_error("{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", TI_ERR_FULL, "intermediate", NULL);
  expect_error("{% set b = s * 100000 %}{% for i in range(100) %}{{ b }}{% endfor %}", TI_ERR_FULL, "of output", NULL);
  expect_error("{{ 'a' * 60 }}", TI_ERR_FULL, "more than 50 bytes of output", &(ti_chat_limits){.output_bytes = 50});
  expect_error("{{ s.replace('', s * 1000000) }}", TI_ERR_FULL, "intermediate", NULL);
  expect_error("{{ '%99999999d' % 1 }}", TI_ERR_RANGE, "format width", NULL);
  expect_error("{{ s.center(9000000000000) }}", TI_ERR_RANGE, "steps", NULL);
  expect_error("{{ strftime_now('%9999999Y') }}", TI_ERR_FORMAT, "longer than", NULL);
  expect_error("{{ range(1000000) }}", TI_ERR_FORMAT, "Range too big", NULL);
}

// A string that grows by a line a turn costs its length once, not once a turn.
Test(chat_bounds, accumulating_a_long_text_is_linear) {
  static const char source[] =
      "{% set n = namespace(s='') %}{% for i in range(100000) %}{% set n.s = n.s + 'hello world, this is a message' %}{% endfor %}{{ n.s|length }}";
  ti_chat_template *t = NULL;
  ti_error err = {0};
  ti_buf out;
  json_t *vars = json_object();
  ti_buf_init(&out, 1 << 20);
  cr_assert_eq(ti_chat_template_create(source, sizeof source - 1, NULL, &t, &err), TI_OK);
  cr_expect_eq(ti_chat_render(t, vars, &(ti_chat_limits){.steps = 3000000, .memory_bytes = 64 << 20}, 0, &out, &err), TI_OK, "%s", err.text);
  cr_expect_str_eq(ti_buf_str(&out), "3000000");
  ti_buf_fini(&out);
  ti_chat_template_destroy(t);
  json_decref(vars);
}

static void expect_deep(const char *open, const char *middle, const char *close, int n) {
  size_t a = strlen(open), b = strlen(middle), c = strlen(close), k = 0;
  char *s = malloc((a + c) * (size_t)n + b + 1);
  for (int i = 0; i < n; i++, k += a) memcpy(s + k, open, a);
  memcpy(s + k, middle, b);
  k += b;
  for (int i = 0; i < n; i++, k += c) memcpy(s + k, close, c);
  s[k] = 0;
  expect_error(s, TI_ERR_RANGE, "deep", NULL);
  free(s);
}

Test(chat_bounds, nesting_in_the_source_is_bounded) {
  expect_deep("{% if 1 %}", "x", "{% endif %}", 5000);
  expect_deep("{% for i in s %}", "x", "{% endfor %}", 5000);
  char open[2000] = "{{ ", close[2000] = "", plus[2000] = "";
  memset(open + 3, '(', 200);
  memset(close, ')', 200);
  snprintf(open + 203, sizeof open - 203, "1%.300s }}", close);
  expect_error(open, TI_ERR_RANGE, "nested more than", NULL);
  for (int i = 0; i < 600; i++) memcpy(plus + 2 * i, "1+", 2);
  memcpy(plus + 1200, "1", 2);
  char *s = malloc(2100);
  snprintf(s, 2100, "{{ %s }}", plus);
  expect_error(s, TI_ERR_RANGE, "deep", NULL);
  memset(plus, '-', 1000);
  snprintf(s, 2100, "{{ %.*s1 }}", 1000, plus);
  expect_error(s, TI_ERR_RANGE, "nested more than", NULL);
  free(s);
}

Test(chat_bounds, errors_name_the_line) {
  expect_error("a\n\n{{ messages[3].role }}", TI_ERR_FORMAT, "line 3: UndefinedError: list object has no element 3", NULL);
  expect_error("{% for m in messages %}\n{{ raise_exception('Conversation roles must alternate') }}{% endfor %}", TI_ERR_ARG,
               "line 2: raise_exception: Conversation roles must alternate", NULL);
  expect_error("\n{% macro m(x) %}\n\n{{ x.a.b }}{% endmacro %}\n{{ m({}) }}", TI_ERR_FORMAT,
               "line 4: UndefinedError: 'dict object' has no attribute 'a'", NULL);
  expect_error("a\n{# b\n", TI_ERR_FORMAT, "Missing end of comment tag", NULL);
  expect_error("a\nb {{ 'x }}", TI_ERR_FORMAT, "line 2: unterminated string", NULL);
  expect_error("\n{% frobnicate %}", TI_ERR_FORMAT, "line 2: Encountered unknown tag 'frobnicate'", NULL);
  expect_error("\n\n{{ 'x'|frobnicate }}", TI_ERR_FORMAT, "line 3: TemplateAssertionError: No filter named 'frobnicate'", NULL);
  expect_error("{{ messages.append(1) }}", TI_ERR_FORMAT, "SecurityError: access to attribute 'append' of 'list' object is unsafe", NULL);
}

Test(chat_bounds, sources_that_are_no_template_are_refused) {
  ti_chat_template *t = NULL;
  ti_error err = {0};
  cr_expect_eq(ti_chat_template_create("\xff\xfe", 2, NULL, &t, &err), TI_ERR_FORMAT);
  cr_expect(strstr(err.text, "UTF-8"));
  char *big = calloc(1, TI_CHAT_MAX_SOURCE + 1);
  cr_expect_eq(ti_chat_template_create(big, TI_CHAT_MAX_SOURCE + 1, NULL, &t, &err), TI_ERR_RANGE);
  cr_expect_eq(ti_chat_template_create(big, TI_CHAT_MAX_SOURCE, NULL, &t, &err), TI_OK);
  ti_chat_template_destroy(t);
  for (size_t i = 0; i + 4 <= TI_CHAT_MAX_SOURCE; i += 4) memcpy(big + i, "{{a}", 4);
  cr_expect_neq(ti_chat_template_create(big, TI_CHAT_MAX_SOURCE, NULL, &t, &err), TI_OK);
  free(big);
  json_t *vars = json_array();
  ti_buf out = {0};
  cr_assert_eq(ti_chat_template_open("titan", NULL, &t, &err), TI_OK);
  cr_expect_eq(ti_chat_render(t, vars, NULL, 0, &out, &err), TI_ERR_ARG);
  ti_chat_template_destroy(t);
  json_decref(vars);
}
