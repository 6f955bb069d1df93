// UTF-8 and the few Unicode properties that Python's str methods need. Strings inside the interpreter are always valid UTF-8.
#ifndef TI_MODEL_CHAT_UNI_H
#define TI_MODEL_CHAT_UNI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool ti_jj_utf8_valid(const char *p, size_t n);
// The code point at p[*i] (*i < n); moves *i behind it.
uint32_t ti_jj_utf8_next(const char *p, size_t n, size_t *i);
// The code point that ends before p[*i] (*i > 0); moves *i to its start.
uint32_t ti_jj_utf8_prev(const char *p, size_t *i);
size_t ti_jj_utf8_put(char out[4], uint32_t cp);               // bytes written; surrogates and values beyond 0x10FFFF become U+FFFD
size_t ti_jj_utf8_len(const char *p, size_t n);                // in code points. O(n)
size_t ti_jj_utf8_offset(const char *p, size_t n, size_t cp);  // byte offset of the cp-th code point, n at the end. O(n)

// As Python's str.isspace, isalpha, isdecimal, isupper, islower, isprintable; simple (one to one) case mapping.
bool ti_jj_is_space(uint32_t cp);
bool ti_jj_is_alpha(uint32_t cp);
bool ti_jj_is_digit(uint32_t cp);
bool ti_jj_is_upper(uint32_t cp);
bool ti_jj_is_lower(uint32_t cp);
bool ti_jj_is_printable(uint32_t cp);
uint32_t ti_jj_to_upper(uint32_t cp);
uint32_t ti_jj_to_lower(uint32_t cp);

#endif
