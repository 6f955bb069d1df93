// UTF-8, one character at a time. Stateless.
#ifndef TI_MODEL_TOKENIZER_UTF8_H
#define TI_MODEL_TOKENIZER_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

// The character at s[n], n > 0. Returns its length 1..4 and sets *cp (may be NULL); 0 when s[n] ends before the character does;
// -k when the first k bytes are a maximal ill-formed part (Unicode 3.9, the practice that Python, Rust and the WHATWG follow).
int ti_utf8_scan(const unsigned char *s, size_t n, uint32_t *cp);
bool ti_utf8_valid(const char *s, size_t n);
// Writes cp (a Unicode scalar value) to out[4]; returns the length.
size_t ti_utf8_put(uint32_t cp, char *out);
// Appends s[n] with every ill-formed part replaced by U+FFFD.
ti_status ti_utf8_append_lossy(ti_buf *b, const char *s, size_t n);

#endif
