// Normalizing a segment of text: the steps of a file's normalizer in order, each from one of two buffers into the other.
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"

void ti_tok_norms_fini(tok_norms *steps) {
  for (size_t i = 0; i < steps->n; i++) {
    ti_tok_pattern_fini(&steps->v[i].pattern);
    free(steps->v[i].text);
  }
  *steps = (tok_norms){0};
}

static ti_status replace(const tok_norm *step, ti_tok_scratch *sc, const char *s, size_t n, ti_buf *out) {
  size_t at = 0, start, end;
  ti_status st = TI_OK;
  while (at < n) {
    st = ti_tok_pattern_next(&step->pattern, sc, s, n, at, &start, &end);
    if (st != TI_OK) break;
    if ((st = ti_buf_append(out, s + at, start - at)) != TI_OK) break;
    if ((st = ti_buf_append(out, step->text, step->n_text)) != TI_OK) break;
    at = end;
  }
  if (st == TI_ERR_NOTFOUND) st = TI_OK;
  return st == TI_OK ? ti_buf_append(out, s + at, n - at) : st;
}

static bool needs_nfc(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if ((unsigned char)s[i] >= 0xCC) return true;  // below U+0300 every character is a starter and its own NFC
  return false;
}

static bool skips_prepend(const tok_norm *step, const char *s, size_t n, bool first) {
  if (n == 0 || (step->first_only && !first)) return true;
  return step->unless_there && n >= step->n_text && memcmp(s, step->text, step->n_text) == 0;
}

ti_status ti_tok_normalize(const tok_norms *steps, ti_tok_scratch *sc, ti_buf bufs[2], bool first, ti_tok_text *io) {
  const char *text = io->s;
  size_t n = io->n;
  ti_status st = TI_OK;
  unsigned k = 0;
  for (size_t i = 0; i < steps->n && st == TI_OK; i++) {
    const tok_norm *step = &steps->v[i];
    if (step->kind == TOK_NORM_NFC && !needs_nfc(text, n)) continue;
    if (step->kind == TOK_NORM_PREPEND && skips_prepend(step, text, n, first)) continue;
    ti_buf *b = &bufs[k++ & 1];
    ti_buf_reset(b);
    switch (step->kind) {
      case TOK_NORM_PREPEND:
        st = ti_buf_append(b, step->text, step->n_text);
        if (st == TI_OK) st = ti_buf_append(b, text, n);
        break;
      case TOK_NORM_REPLACE:
        st = replace(step, sc, text, n, b);
        break;
      case TOK_NORM_NFC:
        st = ti_tok_nfc(b, text, n);
        break;
    }
    text = ti_buf_str(b);
    n = b->len;
  }
  *io = (ti_tok_text){text, n};
  return st;
}
