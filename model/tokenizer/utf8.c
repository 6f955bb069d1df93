// UTF-8 for the tokenizers: they must tell an incomplete character (wait for more) from an ill-formed one (replace it).
#include "model/tokenizer/utf8.h"

#include <string.h>

int ti_utf8_scan(const unsigned char *s, size_t n, uint32_t *cp) {
  unsigned char b = s[0], lo = 0x80, hi = 0xBF;
  int need;
  uint32_t v;
  if (b < 0x80) {
    if (cp) *cp = b;
    return 1;
  }
  if (b >= 0xC2 && b <= 0xDF) {
    need = 1, v = b & 0x1Fu;
  } else if (b >= 0xE0 && b <= 0xEF) {
    need = 2, v = b & 0x0Fu;
    if (b == 0xE0) lo = 0xA0;
    if (b == 0xED) hi = 0x9F;
  } else if (b >= 0xF0 && b <= 0xF4) {
    need = 3, v = b & 0x07u;
    if (b == 0xF0) lo = 0x90;
    if (b == 0xF4) hi = 0x8F;
  } else {
    return -1;
  }
  for (int i = 1; i <= need; i++) {
    if ((size_t)i >= n) return 0;
    if (s[i] < lo || s[i] > hi) return -i;
    v = v << 6 | (s[i] & 0x3Fu);
    lo = 0x80, hi = 0xBF;
  }
  if (cp) *cp = v;
  return need + 1;
}

// How many leading bytes of s[n] are ASCII, eight at a time.
static size_t ascii_run(const unsigned char *s, size_t n) {
  size_t i = 0;
  for (uint64_t w; i + 8 <= n; i += 8) {
    memcpy(&w, s + i, 8);
    if (w & 0x8080808080808080u) break;
  }
  while (i < n && s[i] < 0x80) i++;
  return i;
}

bool ti_utf8_valid(const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text;
  for (size_t i = 0; i < n;) {
    i += ascii_run(s + i, n - i);
    if (i == n) break;
    int k = ti_utf8_scan(s + i, n - i, NULL);
    if (k <= 0) return false;
    i += (size_t)k;
  }
  return true;
}

size_t ti_utf8_put(uint32_t cp, char *out) {
  if (cp < 0x80) {
    out[0] = (char)cp;
    return 1;
  }
  size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
  static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
  out[0] = (char)(lead[n] | cp);
  return n;
}

ti_status ti_utf8_append_lossy(ti_buf *b, const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text;
  size_t from = 0, i = 0;
  while (i < n) {
    i += ascii_run(s + i, n - i);
    if (i == n) break;
    int k = ti_utf8_scan(s + i, n - i, NULL);
    if (k > 0) {
      i += (size_t)k;
      continue;
    }
    ti_status st = ti_buf_append(b, text + from, i - from);
    if (st == TI_OK) st = ti_buf_append(b, "\xEF\xBF\xBD", 3);
    if (st != TI_OK) return st;
    i = k == 0 ? n : i + (size_t)-k;
    from = i;
  }
  return ti_buf_append(b, text + from, n - from);
}
