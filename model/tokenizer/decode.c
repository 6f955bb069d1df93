// From ids to text. Each token's raw bytes ("piece") are worked out once, at load; decoding concatenates pieces and lets only whole UTF-8
// characters out:
//
//   held: the bytes of a character that has begun (0..3)  +  the next piece  ->  whole characters go out, an unfinished one is held
//
// Read-only but for the caller's ti_detok.
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

// ---- GPT-2's byte alphabet: printable Latin-1 stands for itself, the other 68 bytes are U+0100.. in order ----

static bool is_printable(unsigned b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

uint32_t ti_tok_byte_char(unsigned char b) {
  if (is_printable(b)) return b;
  uint32_t k = 0;
  for (unsigned i = 0; i < b; i++) k += !is_printable(i);
  return 0x100 + k;
}

int ti_tok_char_byte(uint32_t cp) {
  if (cp < 0x100) return is_printable(cp) ? (int)cp : -1;
  if (cp < 0x100 + 33) return (int)(cp - 0x100);              // 00..20
  if (cp < 0x100 + 67) return (int)(cp - 0x100 - 33) + 0x7F;  // 7F..A0
  return cp == 0x100 + 67 ? 0xAD : -1;
}

int ti_tok_byte_token(const char *s, size_t n) {
  static const char hex[] = "0123456789ABCDEF";
  if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
  const char *hi = memchr(hex, s[3], 16), *lo = memchr(hex, s[4], 16);
  return hi && lo ? (int)((hi - hex) * 16 + (lo - hex)) : -1;
}

// ---- pieces ----

// The bytes that a byte-level spelling stands for, or false when a character of it is not in the alphabet.
static bool unmap_bytes(ti_tok_text t, char *out, size_t *n) {
  size_t m = 0;
  for (size_t i = 0; i < t.n;) {
    uint32_t cp;
    int k = ti_utf8_scan((const unsigned char *)t.s + i, t.n - i, &cp), b;
    if (k <= 0 || (b = ti_tok_char_byte(cp)) < 0) return false;
    out[m++] = (char)b;
    i += (size_t)k;
  }
  *n = m;
  return true;
}

static ti_status replace_all(ti_buf *out, ti_tok_text t, ti_tok_text from, ti_tok_text to) {
  ti_status st = TI_OK;
  while (st == TI_OK && t.n > 0) {
    const char *hit = memmem(t.s, t.n, from.s, from.n);
    size_t before = hit ? (size_t)(hit - t.s) : t.n;
    st = ti_buf_append(out, t.s, before);
    if (st == TI_OK && hit) st = ti_buf_append(out, to.s, to.n);
    if (hit) before += from.n;
    t.s += before;
    t.n -= before;
  }
  return st;
}

// Puts the piece of id at the end of out.
static ti_status put_piece(const ti_tokenizer *t, uint32_t id, ti_buf tmp[2], ti_buf *out) {
  const tok_decoder *d = &t->decoder;
  ti_tok_text s = ti_tok_blob_get(&t->vocab.spell, id);
  if (t->vocab.flags[id] & TOK_ADDED) return ti_buf_append(out, s.s, s.n);  // an added token is its text
  for (size_t i = 0; i < d->n_replace; i++) {
    ti_buf *b = &tmp[i & 1];
    ti_buf_reset(b);
    ti_status st = replace_all(b, s, d->replace[i].from, d->replace[i].to);
    if (st != TI_OK) return st;
    s = (ti_tok_text){ti_buf_str(b), b->len};
  }
  char bytes[TI_TOK_MAX_TOKEN_BYTES];
  size_t n;
  int byte = d->byte_fallback ? ti_tok_byte_token(s.s, s.n) : -1;
  if (byte >= 0) return ti_buf_putc(out, (char)byte);
  if (d->byte_level && s.n <= sizeof bytes && unmap_bytes(s, bytes, &n)) return ti_buf_append(out, bytes, n);
  return ti_buf_append(out, s.s, s.n);
}

ti_status ti_tok_pieces_init(ti_tokenizer *t, ti_error *err) {
  uint32_t n = t->vocab.n;
  ti_buf out, tmp[2];
  ti_buf_init(&out, UINT32_MAX - 1);
  for (int i = 0; i < 2; i++) ti_buf_init(&tmp[i], 64u << 20);
  ti_status st = TI_OK;
  t->piece.off = malloc((n + (size_t)1) * sizeof *t->piece.off);
  if (!t->piece.off) st = TI_ERR_NOMEM;
  for (uint32_t i = 0; i < n && st == TI_OK; i++) {
    t->piece.off[i] = (uint32_t)out.len;
    if (t->vocab.flags[i]) st = put_piece(t, i, tmp, &out);
  }
  if (st == TI_OK) st = ti_buf_append(&out, "", 0);  // a blob of no bytes is still a blob
  for (int i = 0; i < 2; i++) ti_buf_fini(&tmp[i]);
  if (st != TI_OK) {
    ti_buf_fini(&out);
    return ti_error_set(err, st, "decoder: the tokens' texts do not fit in memory");
  }
  t->piece.off[n] = (uint32_t)out.len;
  t->piece.data = out.data;  // taken over
  return TI_OK;
}

// ---- incremental decoding ----

void ti_detok_init(ti_detok *d, const ti_tokenizer *t, unsigned flags) {
  *d = (ti_detok){.tok = t, .flags = flags, .strip_left = flags & TI_TOK_CONTINUE ? 0 : t->decoder.strip_start};
}

// Completes the held character with bytes of p[n]; *used of them are consumed. What cannot become a character is replaced at once.
static ti_status feed_held(ti_detok *d, const char *p, size_t n, size_t *used, ti_buf *out) {
  *used = 0;
  ti_status st = TI_OK;
  while (d->n_held > 0 && *used < n && st == TI_OK) {
    d->held[d->n_held++] = (unsigned char)p[(*used)++];
    int k = ti_utf8_scan(d->held, d->n_held, NULL);
    if (k == 0) continue;
    size_t ok = k > 0 ? (size_t)k : (size_t)-k, rest = d->n_held - ok;
    st = k > 0 ? ti_buf_append(out, d->held, ok) : ti_buf_append(out, "\xEF\xBF\xBD", 3);
    *used -= rest;  // at most the byte just taken: it starts something new
    d->n_held = 0;
  }
  return st;
}

ti_status ti_detok_push(ti_detok *d, int32_t id, ti_buf *out) {
  const ti_tokenizer *t = d->tok;
  if (id < 0 || (uint32_t)id >= t->vocab.n) return TI_OK;
  if ((d->flags & TI_TOK_SKIP_SPECIAL) && (t->vocab.flags[id] & TOK_SPECIAL)) return TI_OK;
  ti_tok_text p = ti_tok_blob_get(&t->piece, (uint32_t)id);
  while (d->strip_left > 0 && p.n > 0) {
    if (*p.s != t->decoder.strip_char) {
      d->strip_left = 0;
      break;
    }
    d->strip_left--, p.s++, p.n--;
  }
  size_t used;
  ti_status st = feed_held(d, p.s, p.n, &used, out);
  p.s += used, p.n -= used;
  if (st != TI_OK || p.n == 0) return st;
  // hold an unfinished last character: look back at most 3 bytes for its lead byte
  size_t hold = 0;
  for (size_t k = 1; k <= 3 && k <= p.n; k++) {
    unsigned char b = (unsigned char)p.s[p.n - k];
    if ((b & 0xC0) == 0x80) continue;
    if (ti_utf8_scan((const unsigned char *)p.s + p.n - k, k, NULL) == 0) hold = k;
    break;
  }
  st = ti_utf8_append_lossy(out, p.s, p.n - hold);
  memcpy(d->held, p.s + p.n - hold, hold);
  d->n_held = (uint8_t)hold;
  return st;
}

ti_status ti_detok_finish(ti_detok *d, ti_buf *out) {
  if (d->n_held == 0) return TI_OK;
  d->n_held = 0;
  return ti_buf_append(out, "\xEF\xBF\xBD", 3);
}

ti_status ti_tokenizer_decode(const ti_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, ti_buf *out, ti_error *err) {
  size_t before = out->len;
  ti_detok d;
  ti_detok_init(&d, t, flags);
  ti_status st = TI_OK;
  for (size_t i = 0; i < n && st == TI_OK; i++) {
    if (ids[i] < 0 || (uint32_t)ids[i] >= t->vocab.n) {
      st = ti_error_set(err, TI_ERR_RANGE, "token id %d at place %zu: the vocabulary has ids 0..%u", ids[i], i, t->vocab.n ? t->vocab.n - 1 : 0);
      break;
    }
    st = ti_detok_push(&d, ids[i], out);
  }
  if (st == TI_OK) st = ti_detok_finish(&d, out);
  if (st == TI_OK) return TI_OK;
  if (st == TI_ERR_FULL) ti_error_set(err, st, "the text of %zu tokens is longer than %zu bytes", n, out->max);
  if (st == TI_ERR_NOMEM) ti_error_set(err, st, "decoding %zu tokens: out of memory", n);
  out->len = before;
  if (out->data) out->data[before] = 0;
  return st;
}
