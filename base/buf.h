// A growing byte buffer with a mandatory maximum. After a failed append the buffer is unchanged and `failed` stays set (appends fail) until reset, so that
// a chain of appends needs one check at its end. Always NUL-terminated (the NUL is not counted). Not thread-safe.
#ifndef TI_BASE_BUF_H
#define TI_BASE_BUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ti_buf {
  char *data;  // NULL until the first append; use ti_buf_str() for text
  size_t len, cap, max;
  bool failed;
} ti_buf;

void ti_buf_init(ti_buf *b, size_t max_bytes);
void ti_buf_fini(ti_buf *b);   // safe on a zeroed buffer
void ti_buf_reset(ti_buf *b);  // len = 0, failed = false, memory kept
const char *ti_buf_str(const ti_buf *b);  // never NULL
// Each: TI_ERR_FULL beyond max, TI_ERR_NOMEM.
ti_status ti_buf_append(ti_buf *b, const void *data, size_t n);
ti_status ti_buf_puts(ti_buf *b, const char *s);
ti_status ti_buf_putc(ti_buf *b, char c);
ti_status ti_buf_printf(ti_buf *b, const char *fmt, ...) TI_PRINTF(2, 3);
// s[n] as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD, control characters \u00XX.
ti_status ti_buf_json_string(ti_buf *b, const char *s, size_t n);
// Room for n more bytes; *out points at them. Commit with ti_buf_commit(b, used).
ti_status ti_buf_reserve(ti_buf *b, size_t n, char **out) TI_MUST_CHECK;
void ti_buf_commit(ti_buf *b, size_t used);
// Drops the first n bytes (n <= len). O(len).
void ti_buf_consume(ti_buf *b, size_t n);

#endif
