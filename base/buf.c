// The bounded byte buffer (see buf.h). One thread at a time; memory doubles up to max + 1 (the NUL).
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { BUF_FIRST = 64 };

void ti_buf_init(ti_buf *b, size_t max_bytes) { *b = (ti_buf){.max = max_bytes < SIZE_MAX ? max_bytes : SIZE_MAX - 1}; }

void ti_buf_fini(ti_buf *b) {
  free(b->data);
  *b = (ti_buf){0};
}

void ti_buf_reset(ti_buf *b) {
  b->len = 0;
  b->failed = false;
  if (b->data) b->data[0] = 0;
}

const char *ti_buf_str(const ti_buf *b) { return b->data ? b->data : ""; }

static ti_status fail(ti_buf *b, ti_status st) {
  b->failed = true;
  return st;
}

// Room for n more bytes and the NUL.
static ti_status grow(ti_buf *b, size_t n) {
  if (b->failed) return TI_ERR_FULL;
  if (n > b->max - b->len) return fail(b, TI_ERR_FULL);
  const size_t need = b->len + n + 1;
  if (need <= b->cap) return TI_OK;
  size_t cap = ti_size_max(b->cap, BUF_FIRST);
  while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
  cap = ti_size_min(cap, b->max + 1);
  char *p = realloc(b->data, cap);
  if (!p) return fail(b, TI_ERR_NOMEM);
  b->data = p;
  b->cap = cap;
  b->data[b->len] = 0;
  return TI_OK;
}

ti_status ti_buf_append(ti_buf *b, const void *data, size_t n) {
  const ti_status st = grow(b, n);
  if (st != TI_OK) return st;
  if (n) memcpy(b->data + b->len, data, n);
  b->len += n;
  b->data[b->len] = 0;
  return TI_OK;
}

ti_status ti_buf_puts(ti_buf *b, const char *s) { return ti_buf_append(b, s, strlen(s)); }
ti_status ti_buf_putc(ti_buf *b, char c) { return ti_buf_append(b, &c, 1); }

ti_status ti_buf_printf(ti_buf *b, const char *fmt, ...) {
  if (b->failed) return TI_ERR_FULL;
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  ti_status st = TI_OK;
  // Formatted in place; when it does not fit, the cut piece is taken back and the whole written again.
  const size_t room = b->cap - b->len;
  const int n = vsnprintf(b->data ? b->data + b->len : NULL, room, fmt, ap);
  if (n < 0) {
    st = fail(b, TI_ERR_FORMAT);
  } else if ((size_t)n >= room || (size_t)n > b->max - b->len) {
    if (b->data) b->data[b->len] = 0;
    st = grow(b, (size_t)n);
    if (st == TI_OK) vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
  }
  if (st == TI_OK) b->len += (size_t)n;
  va_end(again);
  va_end(ap);
  return st;
}

// Length of the well-formed UTF-8 character at s (1..4), or 0; then *bad is the length of the ill-formed piece (its maximal subpart, Unicode 3.9
// D93b).
static size_t utf8_char(const unsigned char *s, size_t n, size_t *bad) {
  const unsigned c = s[0];
  *bad = 1;
  if (c < 0x80) return 1;
  if (c < 0xc2 || c > 0xf4) return 0;
  const size_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
  for (size_t i = 1; i < len; i++) {
    unsigned lo = 0x80, hi = 0xbf;
    if (i == 1 && c == 0xe0) lo = 0xa0;  // overlong
    if (i == 1 && c == 0xed) hi = 0x9f;  // surrogates
    if (i == 1 && c == 0xf0) lo = 0x90;
    if (i == 1 && c == 0xf4) hi = 0x8f;  // above U+10FFFF
    if (i >= n || s[i] < lo || s[i] > hi) return 0;
    *bad = i + 1;
  }
  return len;
}

static ti_status put_escaped(ti_buf *b, unsigned char c) {
  switch (c) {
    case '"':
      return ti_buf_puts(b, "\\\"");
    case '\\':
      return ti_buf_puts(b, "\\\\");
    case '\n':
      return ti_buf_puts(b, "\\n");
    case '\r':
      return ti_buf_puts(b, "\\r");
    case '\t':
      return ti_buf_puts(b, "\\t");
    default:
      return ti_buf_printf(b, "\\u%04x", c);
  }
}

ti_status ti_buf_json_string(ti_buf *b, const char *s, size_t n) {
  const unsigned char *p = (const unsigned char *)s;
  const size_t before = b->len;
  ti_status st = ti_buf_putc(b, '"');
  size_t run = 0;  // start of the piece that is copied as it is
  for (size_t i = 0; i < n && st == TI_OK;) {
    size_t bad;
    const size_t len = utf8_char(p + i, n - i, &bad);
    if (len && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') {
      i += len;
      continue;
    }
    st = ti_buf_append(b, p + run, i - run);
    if (st == TI_OK) st = len ? put_escaped(b, p[i]) : ti_buf_puts(b, "\xef\xbf\xbd");
    i += len ? len : bad;
    run = i;
  }
  if (st == TI_OK && n > run) st = ti_buf_append(b, p + run, n - run);
  if (st == TI_OK) st = ti_buf_putc(b, '"');
  if (st != TI_OK && b->data) {
    b->len = before;
    b->data[before] = 0;
  }
  return st;
}

ti_status ti_buf_reserve(ti_buf *b, size_t n, char **out) {
  const ti_status st = grow(b, n);
  if (st == TI_OK) *out = b->data + b->len;
  return st;
}

void ti_buf_commit(ti_buf *b, size_t used) {
  b->len += used;
  b->data[b->len] = 0;
}

void ti_buf_consume(ti_buf *b, size_t n) {
  if (n == 0) return;
  memmove(b->data, b->data + n, b->len - n);
  b->len -= n;
  b->data[b->len] = 0;
}
