// Unicode normalization form C: decompose, order combining marks, compose. The tables are utf8proc's; the ordering is our own, because
// utf8proc's is an insertion sort: quadratic on a long run of marks, which user text may hold.
#include <stdlib.h>
#include <utf8proc.h>

#include "base/size.h"
#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

enum {
  MAX_DECOMPOSED = 4
};  // no character's full canonical decomposition is longer (Unicode's stability policy); two bytes or more hold such a character

static unsigned class_of(int32_t cp) { return cp < 0x300 ? 0 : (unsigned)utf8proc_get_property(cp)->combining_class; }

// Stable counting sort of cps[n], none of class 0, by class. tmp[n].
static void sort_marks(int32_t *cps, size_t n, int32_t *tmp) {
  size_t at[256] = {0}, sum = 0;
  for (size_t i = 0; i < n; i++) at[class_of(cps[i])]++;
  for (size_t c = 0; c < 256; c++) {
    size_t k = at[c];
    at[c] = sum;
    sum += k;
  }
  for (size_t i = 0; i < n; i++) tmp[at[class_of(cps[i])]++] = cps[i];
  for (size_t i = 0; i < n; i++) cps[i] = tmp[i];
}

static void order_marks(int32_t *cps, size_t n, int32_t *tmp) {
  for (size_t i = 0; i < n;) {
    if (class_of(cps[i]) == 0) {
      i++;
      continue;
    }
    size_t end = i + 1;
    while (end < n && class_of(cps[end]) != 0) end++;
    if (end - i > 1) sort_marks(cps + i, end - i, tmp);
    i = end;
  }
}

// cps has room for two characters a byte of s, and MAX_DECOMPOSED more.
static size_t decompose(const char *s, size_t n, int32_t *cps) {
  size_t m = 0;
  for (size_t i = 0; i < n;) {
    uint32_t cp = 0xFFFD;
    int k = ti_utf8_scan((const unsigned char *)s + i, n - i, &cp);
    i += (size_t)(k > 0 ? k : 1);
    int boundary = 0;
    if (cp < 0xC0) {
      cps[m++] = (int32_t)cp;
      continue;
    }
    utf8proc_ssize_t d = utf8proc_decompose_char((utf8proc_int32_t)cp, cps + m, MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
    if (d <= 0 || d > MAX_DECOMPOSED) {
      cps[m++] = (int32_t)cp;
    } else {
      m += (size_t)d;
    }
  }
  return m;
}

ti_status ti_tok_nfc(ti_buf *out, const char *s, size_t n) {
  size_t bytes;
  if (!ti_size_mul(n + 2, 2 * sizeof(int32_t), &bytes)) return TI_ERR_NOMEM;
  int32_t *cps = malloc(bytes), *tmp = malloc(bytes);
  ti_status st = cps && tmp ? TI_OK : TI_ERR_NOMEM;
  if (st == TI_OK) {
    size_t m = decompose(s, n, cps);
    order_marks(cps, m, tmp);
    utf8proc_ssize_t c = utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)m, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < c && st == TI_OK; i++) {
      char u[4];
      st = ti_buf_append(out, u, ti_utf8_put((uint32_t)cps[i], u));
    }
  }
  free(cps);
  free(tmp);
  return st;
}
