// links: ti_model ti_base
// A tokenizer.json and a text, split by the first NUL byte: create, encode, decode. Whatever the file says, decoding what was encoded must
// succeed and incremental decoding must agree with it.
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "model/tokenizer/utf8.h"

static void try_text(const ti_tokenizer *t, ti_tok_scratch *s, const char *text, size_t n, unsigned flags) {
  ti_ids ids;
  ti_buf whole, pushed;
  ti_detok d;
  ti_error err = {0};
  ti_ids_init(&ids, 1 << 16);
  ti_buf_init(&whole, 1 << 24);
  ti_buf_init(&pushed, 1 << 24);
  if (ti_tokenizer_encode(t, s, text, n, flags, &ids, &err) == TI_OK) {
    ti_detok_init(&d, t, 0);
    ti_status st = ti_tokenizer_decode(t, ids.v, ids.n, 0, &whole, &err);
    assert(st == TI_OK || st == TI_ERR_FULL);
    for (size_t i = 0; i < ids.n && st == TI_OK; i++) st = ti_detok_push(&d, ids.v[i], &pushed);
    if (st == TI_OK) st = ti_detok_finish(&d, &pushed);
    assert(st != TI_OK || (whole.len == pushed.len && memcmp(ti_buf_str(&whole), ti_buf_str(&pushed), whole.len) == 0));
    assert(ti_utf8_valid(ti_buf_str(&whole), whole.len));
  } else {
    assert(ids.n == 0 && err.text[0]);
  }
  ti_ids_fini(&ids);
  ti_buf_fini(&whole);
  ti_buf_fini(&pushed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *json = (const char *)data, *zero = size ? memchr(json, 0, size) : NULL;
  size_t n = zero ? (size_t)(zero - json) : size;
  ti_tokenizer *t = NULL;
  ti_tok_scratch *s = NULL;
  ti_error err = {0};
  if (ti_tokenizer_create(json, n, &t, &err) != TI_OK) {
    assert(t == NULL && err.text[0]);
    return 0;
  }
  if (ti_tok_scratch_create(&s) != TI_OK) abort();
  static const char fixed[] = "Hello, a b ab abc  12\n<s>\xC3\xA9 \xE2\x96\x81 \xF0\x9F\x98\x80 e\xCC\x81";
  try_text(t, s, fixed, sizeof fixed - 1, TI_TOK_ADD_SPECIAL);
  try_text(t, s, fixed, sizeof fixed - 1, TI_TOK_PARSE_SPECIAL);
  if (zero) try_text(t, s, zero + 1, size - n - 1, TI_TOK_ADD_SPECIAL | TI_TOK_PARSE_SPECIAL);
  ti_tok_scratch_destroy(s);
  ti_tokenizer_destroy(t);
  return 0;
}
