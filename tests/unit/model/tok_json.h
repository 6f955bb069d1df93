// A small byte-level tokenizer.json for the tests: the 256 bytes are ids 0..255, then come the results of the merges, in order.
#ifndef TI_TESTS_TOK_JSON_H
#define TI_TESTS_TOK_JSON_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/tokenizer.h"

// GPT-2's byte alphabet as its authors' code builds it: printable bytes are themselves, the others count up from 256.
static inline unsigned tok_json_byte_char(unsigned b) {
  unsigned n = 0;
  for (unsigned i = 0; i < 256; i++) {
    int printable = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || (i >= 0xAE && i <= 0xFF);
    if (i == b) return printable ? b : 256 + n;
    n += !printable;
  }
  return 0;
}

// merges: "a b" texts, NULL at the end. rest: further members, such as "\"added_tokens\": [...]", or "".
static inline void tok_json(ti_buf *b, const char *const *merges, const char *model_rest, const char *rest) {
  ti_buf_init(b, 1 << 20);
  ti_buf_puts(b, "{\"model\": {\"type\": \"BPE\", \"vocab\": {");
  for (unsigned i = 0; i < 256; i++) ti_buf_printf(b, "%s\"\\u%04x\": %u", i ? ", " : "", tok_json_byte_char(i), i);
  for (int i = 0; merges[i]; i++) {
    const char *space = strchr(merges[i], ' ');
    ti_buf_printf(b, ", \"%.*s%s\": %d", (int)(space - merges[i]), merges[i], space + 1, 256 + i);
  }
  ti_buf_puts(b, "}, \"merges\": [");
  for (int i = 0; merges[i]; i++) ti_buf_printf(b, "%s\"%s\"", i ? ", " : "", merges[i]);
  ti_buf_printf(b, "]%s}%s}", model_rest, rest);
}

#define TOK_JSON_BYTE_LEVEL ", \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}"

// "1 2 3": the ids of a text, for comparing.
static inline const char *tok_ids(const ti_tokenizer *t, const char *text, size_t n, unsigned flags, char out[512]) {
  ti_tok_scratch *s = NULL;
  ti_ids ids;
  ti_error err = {0};
  ti_ids_init(&ids, 4096);
  out[0] = 0;
  if (ti_tok_scratch_create(&s) != TI_OK || ti_tokenizer_encode(t, s, text, n, flags, &ids, &err) != TI_OK)
    snprintf(out, 512, "error: %.400s", err.text);
  size_t at = strlen(out);
  for (size_t i = 0; i < ids.n && at < 500; i++) at += (size_t)snprintf(out + at, 512 - at, "%s%d", i ? " " : "", ids.v[i]);
  ti_ids_fini(&ids);
  ti_tok_scratch_destroy(s);
  return out;
}

#endif
