// Bounds and error texts for what comes from outside: every refusal names the message, the field, the index, the value and the limit.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire_priv.h"

static double below(uint32_t n) { return n ? (double)n - 1 : 0; }

void ti_wire_reader_init(wire_reader *r, const ti_wire_limits *lim, ti_arena *arena, ti_error *err) {
  static const ti_wire_limits none = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
  if (!lim) lim = &none;
  *r = (wire_reader){.arena = arena, .err = err, .st = TI_OK};
  r->hi[WL_RANK] = below(lim->n_rank);
  r->hi[WL_SLOT] = below(lim->n_slot);
  r->hi[WL_PAGE] = below(lim->n_page);
  r->hi[WL_TOKEN] = below(lim->vocab);
  r->hi[WL_RANKS] = lim->n_rank;
  r->hi[WL_SLOTS] = lim->n_slot;
  r->hi[WL_PAGES] = lim->n_page;
  r->hi[WL_ROWS] = lim->max_rows;
  r->hi[WL_CONTEXT] = lim->max_context;
  r->hi[WL_VOCAB] = lim->vocab;
}

// Appends to text[size]; what does not fit is cut.
static size_t put(char *text, size_t size, size_t len, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  const int n = vsnprintf(text + len, size - len, fmt, ap);
  va_end(ap);
  return n < 0 ? len : (size_t)n < size - len ? len + (size_t)n : size - 1;
}

static size_t put_path(char *text, size_t size, size_t len, const wire_path *p) {
  if (!p) return len;
  if (p->up) {
    len = put_path(text, size, len, p->up);
    len = put(text, size, len, ".");
  }
  len = put(text, size, len, "%s", p->name);
  return p->index >= 0 ? put(text, size, len, "[%lld]", (long long)p->index) : len;
}

bool ti_wire_fail(wire_reader *r, ti_status st, const wire_path *path, const char *leaf, const char *fmt, ...) {
  char where[192], what[256];
  size_t n = put_path(where, sizeof where, 0, path);
  if (leaf) put(where, sizeof where, n, ".%s", leaf);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  r->st = ti_error_set(r->err, st, "%s: %s", where, what);
  return false;
}

bool ti_wire_check_range(wire_reader *r, const wire_path *path, const char *leaf, double v, double lo, double hi) {
  if (v >= lo && v <= hi) return true;  // false for NaN
  return ti_wire_fail(r, TI_ERR_RANGE, path, leaf, "%.10g is out of %.10g..%.10g", v, lo, hi);
}

bool ti_wire_check_same(wire_reader *r, const wire_path *path, const char *name, uint32_t n, const char *of, uint32_t m, bool none_allowed) {
  if (n == m || (none_allowed && n == 0)) return true;
  return ti_wire_fail(r, TI_ERR_FORMAT, path, name, "%u elements, but %s has %u", n, of, m);
}

// One character at s[n], n >= 1: its length, or 0 when it is none.
static size_t utf8_char(const unsigned char *s, size_t n) {
  const unsigned c = s[0];
  if (c < 0x80) return c != 0;
  const size_t len = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  if (len == 0 || len > n) return 0;
  // the second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF (RFC 3629, section 4)
  const unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
  if (s[1] < lo || s[1] > hi) return 0;
  for (size_t i = 2; i < len; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0;
  }
  return len;
}

bool ti_wire_utf8(const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text;
  for (size_t i = 0; i < n;) {
    const size_t len = utf8_char(s + i, n - i);
    if (len == 0) return false;
    i += len;
  }
  return true;
}
