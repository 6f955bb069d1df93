#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#include "base/buf.h"

Test(buf, appends_and_stays_terminated) {
  ti_buf b;
  ti_buf_init(&b, 1000);
  cr_assert_str_eq(ti_buf_str(&b), "");
  cr_assert_eq(ti_buf_puts(&b, "ab"), TI_OK);
  cr_assert_eq(ti_buf_putc(&b, 'c'), TI_OK);
  cr_assert_eq(ti_buf_printf(&b, "%d-%s", 42, "x"), TI_OK);
  cr_assert_str_eq(ti_buf_str(&b), "abc42-x");
  ti_buf_consume(&b, 3);
  cr_assert_str_eq(ti_buf_str(&b), "42-x");
  ti_buf_consume(&b, 4);
  cr_assert_eq(b.len, 0);
  ti_buf_fini(&b);
}

Test(buf, holds_exactly_max) {
  ti_buf b;
  ti_buf_init(&b, 5);
  cr_assert_eq(ti_buf_puts(&b, "12345"), TI_OK);
  cr_assert_eq(ti_buf_putc(&b, '6'), TI_ERR_FULL);
  cr_assert_str_eq(ti_buf_str(&b), "12345");
  ti_buf_reset(&b);
  cr_assert_eq(ti_buf_printf(&b, "%s", "12345"), TI_OK);
  cr_assert_eq(b.len, 5);
  ti_buf_fini(&b);
}

Test(buf, a_failure_leaves_it_unchanged_and_sticks) {
  ti_buf b;
  ti_buf_init(&b, 4);
  ti_buf_puts(&b, "ab");
  cr_assert_eq(ti_buf_printf(&b, "%d", 12345), TI_ERR_FULL);
  cr_assert_str_eq(ti_buf_str(&b), "ab");
  cr_assert(b.failed);
  cr_assert_eq(ti_buf_putc(&b, 'c'), TI_ERR_FULL, "a hole in the middle of the text");
  cr_assert_str_eq(ti_buf_str(&b), "ab");
  ti_buf_reset(&b);
  cr_assert_eq(ti_buf_json_string(&b, "abcd", 4), TI_ERR_FULL);
  cr_assert_str_eq(ti_buf_str(&b), "");
  ti_buf_fini(&b);
}

Test(buf, printf_grows_past_the_first_try) {
  ti_buf b;
  ti_buf_init(&b, 100000);
  for (int n = 0; n < 300; n++) {
    ti_buf_reset(&b);
    for (int k = 0; k < n; k++) ti_buf_putc(&b, 'p');
    cr_assert_eq(ti_buf_printf(&b, "%0*d", n + 1, 0), TI_OK);
    cr_assert_eq(b.len, (size_t)(2 * n + 1));
    cr_assert_eq(strlen(ti_buf_str(&b)), b.len);
    ti_buf_fini(&b);
    ti_buf_init(&b, 100000);
  }
  ti_buf_fini(&b);
}

Test(buf, reserve_and_commit) {
  ti_buf b;
  ti_buf_init(&b, 10);
  char *p;
  cr_assert_eq(ti_buf_reserve(&b, 8, &p), TI_OK);
  memcpy(p, "hello", 5);
  ti_buf_commit(&b, 5);
  cr_assert_str_eq(ti_buf_str(&b), "hello");
  cr_assert_eq(ti_buf_reserve(&b, 6, &p), TI_ERR_FULL);
  ti_buf_fini(&b);
  ti_buf zero = {0};
  ti_buf_fini(&zero);
}

static void check_json(const char *in, size_t n, const char *want) {
  ti_buf b;
  ti_buf_init(&b, 1000);
  cr_assert_eq(ti_buf_json_string(&b, in, n), TI_OK);
  cr_assert_str_eq(ti_buf_str(&b), want);
  json_t *j = json_loads(ti_buf_str(&b), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  cr_assert_not_null(j, "jansson refuses %s", ti_buf_str(&b));
  json_decref(j);
  ti_buf_fini(&b);
}

Test(buf, json_strings) {
  check_json("", 0, "\"\"");
  check_json("a\"\\/\n\r\t\b\x7f", 9, "\"a\\\"\\\\/\\n\\r\\t\\u0008\x7f\"");
  check_json("\0x", 2, "\"\\u0000x\"");
  check_json("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
#define BAD "\xef\xbf\xbd"
  check_json("\xff.", 2, "\"" BAD ".\"");
  check_json("\xc0\xaf", 2, "\"" BAD BAD "\"");                  // overlong
  check_json("\xed\xa0\x80", 3, "\"" BAD BAD BAD "\"");          // a surrogate
  check_json("\xf4\x90\x80\x80", 4, "\"" BAD BAD BAD BAD "\"");  // above U+10FFFF
  check_json("\xe2\x82", 2, "\"" BAD "\"");                      // cut at the end: one piece
  check_json("\xf0\x9f\x98z", 4, "\"" BAD "z\"");                // cut in the middle
}

Test(buf, json_string_of_any_bytes_is_valid_json) {
  unsigned x = 1;
  for (int round = 0; round < 3000; round++) {
    char in[24];
    for (size_t i = 0; i < sizeof(in); i++) {
      x = x * 1664525u + 1013904223u;
      static const unsigned char pool[] = {0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x80, 0xed, 0xa0, 0xc3, 0xf4, 0x8f, 0x90, 0xe0, 'a', '"', 0};
      in[i] = (char)pool[(x >> 16) % sizeof(pool)];
    }
    ti_buf b;
    ti_buf_init(&b, 1000);
    cr_assert_eq(ti_buf_json_string(&b, in, sizeof(in)), TI_OK);
    json_t *j = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(j);
    json_decref(j);
    ti_buf_fini(&b);
  }
}
