#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

static void refused(const char *text, size_t n, const char *part) {
  json_t *j = NULL;
  ti_error e = {0};
  cr_assert_eq(ti_json_parse(text, n, &j, &e), TI_ERR_FORMAT, "%s", text);
  cr_assert_null(j);
  cr_assert_not_null(strstr(e.text, part), "%s", e.text);
}

Test(json, errors_say_where_and_what) {
  refused("{\"a\":\n 1,}", 10, "line 2, column 4");
  refused("", 0, "line 1");
  refused("[1] x", 5, "end of file expected");
  refused("\"\xff\"", 3, "0xff");
  refused("\"\xc0\xaf\"", 4, "0xc0");
  refused("\"\xed\xa0\x80\"", 5, "decode");
  refused("\"\\ud800\"", 8, "\\uD800");
  refused("\"\\udc00\"", 8, "\\uDC00");
  refused("\"a\\u0000\"", 9, "\\u0000 is not allowed");
  refused("[1e999]", 7, "overflow");
  refused("[99999999999999999999]", 22, "too big");
  refused("{\"a\":1", 6, "line 1");
  refused("[NaN]", 5, "line 1");
}

Test(json, scalars_and_duplicates) {
  json_t *j;
  cr_assert_eq(ti_json_parse("17", 2, &j, NULL), TI_OK);
  cr_assert_eq(json_integer_value(j), 17);
  json_decref(j);
  cr_assert_eq(ti_json_parse("{\"a\":1,\"a\":2}", 13, &j, NULL), TI_OK);
  int64_t v = 0;
  cr_assert_eq(ti_json_int(j, "a", 0, 9, &v, NULL), TI_OK);
  cr_assert_eq(v, 2);
  json_decref(j);
}

static char *nest(int depth, char *out) {
  for (int i = 0; i < depth; i++) out[i] = '[', out[2 * depth - 1 - i] = ']';
  out[2 * depth] = 0;
  return out;
}

Test(json, depth_is_limited_before_parsing) {
  static char text[2000001];
  json_t *j;
  cr_assert_eq(ti_json_parse(nest(64, text), 128, &j, NULL), TI_OK);
  json_decref(j);
  refused(nest(65, text), 130, "nested deeper than 64");
  refused(nest(1000000, text), 2000000, "nested deeper than 64");
}

Test(json, brackets_in_strings_do_not_count) {
  char text[400] = "[\"\\\"", *p = text + strlen(text);
  memset(p, '[', 100);
  memcpy(p + 100, "\\\\\"]", 5);
  json_t *j;
  ti_error e = {0};
  cr_assert_eq(ti_json_parse(text, strlen(text), &j, &e), TI_OK, "%s", e.text);
  json_decref(j);
}

Test(json, typed_reads) {
  json_t *j;
  const char *text = "{\"i\":5,\"r\":2.5,\"b\":true,\"s\":\"x\",\"n\":null,\"o\":{},\"big\":\"big\"}";
  cr_assert_eq(ti_json_parse(text, strlen(text), &j, NULL), TI_OK);
  int64_t i = -1;
  double r = -1;
  bool b = false;
  const char *s = "default";
  ti_error e = {0};
  cr_assert_eq(ti_json_int(j, "i", 1, 5, &i, &e), TI_OK);
  cr_assert_eq(i, 5);
  cr_assert_eq(ti_json_int(j, "missing", 1, 5, &i, &e), TI_OK);
  cr_assert_eq(ti_json_int(j, "n", 1, 5, &i, &e), TI_OK);
  cr_assert_eq(i, 5);
  cr_assert_eq(ti_json_int(j, "i", 1, 4, &i, &e), TI_ERR_RANGE);
  cr_assert_str_eq(e.text, "i: expected an integer in 1..4, got 5");
  cr_assert_eq(ti_json_int(j, "big", 1, 1048576, &i, &e), TI_ERR_FORMAT);
  cr_assert_str_eq(e.text, "big: expected an integer in 1..1048576, got \"big\"");
  cr_assert_eq(ti_json_int(j, "r", 1, 4, &i, &e), TI_ERR_FORMAT);
  cr_assert_eq(ti_json_real(j, "r", 0, 3, &r, &e), TI_OK);
  cr_assert_eq(r, 2.5);
  cr_assert_eq(ti_json_real(j, "i", 0, 10, &r, &e), TI_OK);
  cr_assert_eq(r, 5);
  cr_assert_eq(ti_json_real(j, "r", 0, 2, &r, &e), TI_ERR_RANGE);
  cr_assert_str_eq(e.text, "r: expected a number in 0..2, got 2.5");
  cr_assert_eq(ti_json_real(j, "o", 0, 2, &r, &e), TI_ERR_FORMAT);
  cr_assert_eq(ti_json_bool(j, "b", &b, &e), TI_OK);
  cr_assert(b);
  cr_assert_eq(ti_json_bool(j, "i", &b, &e), TI_ERR_FORMAT);
  cr_assert_eq(ti_json_str(j, "s", &s, &e), TI_OK);
  cr_assert_str_eq(s, "x");
  cr_assert_eq(ti_json_str(j, "o", &s, &e), TI_ERR_FORMAT);
  cr_assert_str_eq(e.text, "o: expected a string, got an object");
  cr_assert_str_eq(s, "x", "set only on success");
  json_decref(j);
}

Test(json, a_long_string_is_cut_at_a_character) {
  json_t *j = json_pack("{s:s}", "k", "0123456789012345678901234567890123456789\xe2\x82\xac xyz");
  int64_t i;
  ti_error e = {0};
  cr_assert_eq(ti_json_int(j, "k", 0, 1, &i, &e), TI_ERR_FORMAT);
  cr_assert_not_null(strstr(e.text, "6789...\""), "%s", e.text);
  json_decref(j);
  j = json_pack("{s:s}", "k", "012345678901234567890123456789012345678\xe2\x82\xac xyz");
  cr_assert_eq(ti_json_int(j, "k", 0, 1, &i, &e), TI_ERR_FORMAT);
  cr_assert_not_null(strstr(e.text, "5678...\""), "%s", e.text);
  json_decref(j);
}

Test(json, files) {
  char path[] = "/tmp/ti_json_XXXXXX";
  const int fd = mkstemp(path);
  cr_assert_geq(fd, 0);
  cr_assert_eq(write(fd, "[1,2]", 5), 5);
  close(fd);
  json_t *j;
  ti_error e = {0};
  cr_assert_eq(ti_json_load_file(path, 5, &j, &e), TI_OK);
  cr_assert_eq(json_array_size(j), 2);
  json_decref(j);
  cr_assert_eq(ti_json_load_file(path, 4, &j, &e), TI_ERR_RANGE);
  cr_assert_not_null(strstr(e.text, "limit of 4 bytes"));
  unlink(path);
  cr_assert_eq(ti_json_load_file(path, 4, &j, &e), TI_ERR_NOTFOUND);
  cr_assert_eq(strncmp(e.text, path, strlen(path)), 0);
  cr_assert_eq(ti_json_load_file("/", 100, &j, &e), TI_ERR_IO);
}
