// Unicode normalization form C: decompose, order combining marks, compose. The tables are utf8proc's; the ordering is our own, because
// utf8proc's is an insertion sort: quadratic on a long run of marks, which user text may hold.
//
// A text is worked on in runs. Before an ASCII character it can always be cut (a starter that composes with nothing before it), and only the
// last ASCII character before others can change:   "plain ascii e" | "e\u0301" | " and on"   so ASCII is copied as it is.
#include <stdlib.h>
#include <utf8proc.h>

#include "base/size.h"
#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

// No character's full canonical decomposition is longer (Unicode's stability policy), and one that has any takes two bytes or more.
enum { MAX_DECOMPOSED = 4 };

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

typedef struct work {
  int32_t *cps, *tmp;  // [cap]
  size_t cap;
} work;

static ti_status reserve(work *w, size_t n) {
  size_t cap = n + n / 2 + 64, bytes;
  if (n <= w->cap) return TI_OK;
  if (!ti_size_mul(cap, sizeof(int32_t), &bytes)) return TI_ERR_NOMEM;
  free(w->cps);
  free(w->tmp);
  w->cps = malloc(bytes);
  w->tmp = malloc(bytes);
  w->cap = w->cps && w->tmp ? cap : 0;
  return w->cap ? TI_OK : TI_ERR_NOMEM;
}

static ti_status compose_run(work *w, const char *s, size_t n, ti_buf *out) {
  ti_status st = reserve(w, 2 * n + MAX_DECOMPOSED);
  if (st != TI_OK) return st;
  size_t m = decompose(s, n, w->cps);
  order_marks(w->cps, m, w->tmp);
  utf8proc_ssize_t c = utf8proc_normalize_utf32(w->cps, (utf8proc_ssize_t)m, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  for (utf8proc_ssize_t i = 0; i < c && st == TI_OK; i++) {
    char u[4];
    st = ti_buf_append(out, u, ti_utf8_put((uint32_t)w->cps[i], u));
  }
  return st;
}

ti_status ti_tok_nfc(ti_buf *out, const char *s, size_t n) {
  work w = {0};
  ti_status st = TI_OK;
  for (size_t at = 0; at < n && st == TI_OK;) {
    size_t from = at, to;
    while (from < n && (unsigned char)s[from] < 0xCC) from++;  // below U+0300 everything is a starter and its own NFC
    if (from == n) {
      st = ti_buf_append(out, s + at, n - at);
      break;
    }
    if (from > at) from--;                                                // the character before may take a mark:
    while (from > at && ((unsigned char)s[from] & 0xC0) == 0x80) from--;  // its first byte
    for (to = from + 1; to < n && (unsigned char)s[to] >= 0x80;) to++;
    st = ti_buf_append(out, s + at, from - at);
    if (st == TI_OK) st = compose_run(&w, s + from, to - from, out);
    at = to;
  }
  free(w.cps);
  free(w.tmp);
  return st;
}
