// Incremental decoding: what push lets out is always whole characters, and the sum is what decoding at once gives.
#include <criterion/criterion.h>

#include "model/tokenizer/utf8.h"
#include "tok_json.h"

static ti_tokenizer *bytes_tokenizer(void) {
  // 256: bytes E6 97, two thirds of U+65E5; 258: F0 9F 98, three quarters of U+1F600
  static const char *const merges[] = {"\xC3\xA6 \xC4\xB9", "\xC3\xB0 \xC5\x81", "\xC3\xB0\xC5\x81 \xC4\xBA", NULL};
  ti_buf b;
  ti_error err = {0};
  ti_tokenizer *t = NULL;
  tok_json(&b, merges, "", TOK_JSON_BYTE_LEVEL);
  cr_assert_eq(ti_tokenizer_create(b.data, b.len, &t, &err), TI_OK, "%s", err.text);
  ti_buf_fini(&b);
  return t;
}

Test(detok, holds_back_partial_characters) {
  ti_tokenizer *t = bytes_tokenizer();
  ti_detok d;
  ti_buf out;
  ti_buf_init(&out, 100);
  ti_detok_init(&d, t, 0);
  cr_expect_eq(ti_tokenizer_piece(t, 256).n, 2);
  cr_expect_eq(ti_tokenizer_piece(t, 258).n, 3);
  cr_expect_eq(ti_detok_push(&d, 'a', &out), TI_OK);
  cr_expect_eq(ti_detok_push(&d, 256, &out), TI_OK);
  cr_expect_str_eq(ti_buf_str(&out), "a");
  cr_expect_eq(ti_detok_push(&d, 0xA5, &out), TI_OK);
  cr_expect_str_eq(ti_buf_str(&out), "a\xE6\x97\xA5");
  cr_expect_eq(ti_detok_push(&d, 256, &out), TI_OK);
  cr_expect_eq(ti_detok_push(&d, 'b', &out), TI_OK);  // the character cannot be completed any more
  cr_expect_str_eq(ti_buf_str(&out),
                   "a\xE6\x97\xA5\xEF\xBF\xBD"
                   "b");
  cr_expect_eq(ti_detok_push(&d, 0xF0, &out), TI_OK);
  cr_expect_eq(ti_detok_finish(&d, &out), TI_OK);
  cr_expect_str_eq(ti_buf_str(&out),
                   "a\xE6\x97\xA5\xEF\xBF\xBD"
                   "b\xEF\xBF\xBD");
  ti_buf_fini(&out);
  ti_tokenizer_destroy(t);
}

Test(detok, holds_back_three_bytes_of_one_token) {
  ti_tokenizer *t = bytes_tokenizer();
  ti_detok d;
  ti_buf out;
  ti_buf_init(&out, 100);
  ti_detok_init(&d, t, 0);
  cr_expect_eq(ti_detok_push(&d, 258, &out), TI_OK);
  cr_expect_eq(out.len, 0);
  cr_expect_eq(ti_detok_push(&d, 0x80, &out), TI_OK);
  cr_expect_str_eq(ti_buf_str(&out), "\xF0\x9F\x98\x80");
  ti_buf_fini(&out);
  ti_tokenizer_destroy(t);
}

Test(detok, an_id_without_a_token_has_no_text) {
  ti_tokenizer *t = bytes_tokenizer();
  ti_detok d;
  ti_buf out;
  ti_buf_init(&out, 100);
  ti_detok_init(&d, t, 0);
  cr_expect_eq(ti_detok_push(&d, -1, &out), TI_OK);
  cr_expect_eq(ti_detok_push(&d, 1 << 30, &out), TI_OK);
  cr_expect_eq(out.len, 0);
  ti_buf_fini(&out);
  ti_tokenizer_destroy(t);
}

// Oracle: the raw bytes of all pieces together, made valid at once.
Test(detok, random_bytes_equal_lossy_decoding_at_once) {
  ti_tokenizer *t = bytes_tokenizer();
  ti_buf raw, lossy, out, whole;
  ti_buf *all[] = {&raw, &lossy, &out, &whole};
  for (int i = 0; i < 4; i++) ti_buf_init(all[i], 1 << 16);
  static const unsigned char common[] = {'a', 0x80, 0xBF, 0xC3, 0xE6, 0x97, 0xA5, 0xF0, 0x9F, 0x98, 0xED, 0xA0, 0xF4, 0x90, 0xC0, 0xFF};
  unsigned x = 12345;
  for (int round = 0; round < 20000; round++) {
    int32_t ids[12];
    ti_detok d;
    ti_detok_init(&d, t, 0);
    for (int i = 0; i < 4; i++) ti_buf_reset(all[i]);
    for (int i = 0; i < 12; i++) {
      x = x * 1664525u + 1013904223u;
      ids[i] = x >> 28 < 2 ? 256 + 2 * (int32_t)(x >> 28) : common[x >> 24 & 15];
      ti_tok_text p = ti_tokenizer_piece(t, ids[i]);
      ti_buf_append(&raw, p.s, p.n);
      cr_assert_eq(ti_detok_push(&d, ids[i], &out), TI_OK);
      cr_assert(ti_utf8_valid(ti_buf_str(&out), out.len));
      cr_assert(out.len + 3 >= raw.len || out.len > 0);
    }
    cr_assert_eq(ti_detok_finish(&d, &out), TI_OK);
    cr_assert_eq(ti_utf8_append_lossy(&lossy, ti_buf_str(&raw), raw.len), TI_OK);
    cr_assert_str_eq(ti_buf_str(&out), ti_buf_str(&lossy));
    cr_assert_eq(ti_tokenizer_decode(t, ids, 12, 0, &whole, NULL), TI_OK);
    cr_assert_str_eq(ti_buf_str(&whole), ti_buf_str(&lossy));
  }
  for (int i = 0; i < 4; i++) ti_buf_fini(all[i]);
  ti_tokenizer_destroy(t);
}

Test(utf8, tells_incomplete_from_ill_formed) {
  uint32_t cp = 0;
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xE6\x97\xA5", 3, &cp), 3);
  cr_expect_eq(cp, 0x65E5);
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xE6\x97", 2, &cp), 0);
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xE6\x97"
                                                   "a",
                            3, &cp),
               -2);
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xED\xA0\x80", 3, &cp), -1);      // a surrogate
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xF4\x90\x80\x80", 4, &cp), -1);  // above U+10FFFF
  cr_expect_eq(ti_utf8_scan((const unsigned char *)"\xC0\x80", 2, &cp), -1);          // overlong
  char u[4];
  cr_expect_eq(ti_utf8_put(0x1F600, u), 4);
  cr_expect_eq(memcmp(u, "\xF0\x9F\x98\x80", 4), 0);
}
