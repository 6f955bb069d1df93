// Detokenizing and stop strings (see textstream.h). Owns its detokenizer, tables and held-back text.
#include "coordinator/gateway/textstream.h"

#include <stdlib.h>
#include <string.h>

typedef struct stop_string {
  const unsigned char *s;  // [n], in the stream's allocation
  uint16_t *fail;          // [n]: longest proper border of s[0..i]
  uint32_t n, state;       // state: how much of s the text's end spells
} stop_string;

struct ti_textstream {
  const ti_tokenizer *tok;
  ti_detok detok;
  bool include_stop, ignore_eos;
  uint32_t min_tokens, n_stop, n_stop_id;
  stop_string *stop;  // [n_stop]
  uint32_t *stop_id;  // [n_stop_id]
  ti_buf fresh, held;
  ti_textstream_state at;
};

size_t ti_utf8_count(const char *s, size_t n) {
  size_t c = 0;
  for (size_t i = 0; i < n; i++) c += ((unsigned char)s[i] & 0xc0) != 0x80;
  return c;
}

static void make_fail(stop_string *s) {
  uint32_t k = 0;
  s->fail[0] = 0;
  for (uint32_t i = 1; i < s->n; i++) {
    while (k > 0 && s->s[i] != s->s[k]) k = s->fail[k - 1];
    if (s->s[i] == s->s[k]) k++;
    s->fail[i] = (uint16_t)k;
  }
}

ti_status ti_textstream_create(const ti_tokenizer *tok, const ti_gen_params *p, ti_textstream **out) {
  size_t bytes = 0;  // one allocation: struct | stop table | ids | fail tables | texts
  for (uint32_t i = 0; i < p->n_stop; i++) {
    if (p->stop[i].n == 0 || p->stop[i].n > TI_GEN_MAX_STOP_BYTES) return TI_ERR_ARG;
    bytes += p->stop[i].n;
  }
  if (p->n_stop > TI_GEN_MAX_STOP || p->n_stop_id > TI_GEN_MAX_STOP_ID) return TI_ERR_ARG;
  ti_textstream *t = calloc(1, sizeof *t + p->n_stop * sizeof(stop_string) + p->n_stop_id * sizeof(uint32_t) + bytes * (sizeof(uint16_t) + 1));
  if (!t) return TI_ERR_NOMEM;
  t->tok = tok;
  t->include_stop = p->include_stop;
  t->ignore_eos = p->ignore_eos;
  t->min_tokens = p->min_tokens;
  t->n_stop = p->n_stop;
  t->n_stop_id = p->n_stop_id;
  t->stop = (stop_string *)(void *)(t + 1);
  t->stop_id = (uint32_t *)(void *)(t->stop + p->n_stop);
  uint16_t *fail = (uint16_t *)(void *)(t->stop_id + p->n_stop_id);
  unsigned char *text = (unsigned char *)(fail + bytes);
  if (p->n_stop_id) memcpy(t->stop_id, p->stop_id, p->n_stop_id * sizeof *t->stop_id);
  for (uint32_t i = 0; i < p->n_stop; i++) {
    stop_string *s = &t->stop[i];
    *s = (stop_string){.s = text, .fail = fail, .n = (uint32_t)p->stop[i].n};
    memcpy(text, p->stop[i].s, p->stop[i].n);
    make_fail(s);
    text += s->n;
    fail += s->n;
  }
  if (tok) ti_detok_init(&t->detok, tok, TI_TOK_CONTINUE | (p->skip_special ? TI_TOK_SKIP_SPECIAL : 0u));
  ti_buf_init(&t->fresh, 4 * TI_TOK_MAX_TOKEN_BYTES);
  ti_buf_init(&t->held, TI_GEN_MAX_STOP_BYTES + 4 * TI_TOK_MAX_TOKEN_BYTES);
  *out = t;
  return TI_OK;
}

void ti_textstream_destroy(ti_textstream *t) {
  if (!t) return;
  ti_buf_fini(&t->fresh);
  ti_buf_fini(&t->held);
  free(t);
}

// Feeds one byte; returns the length of the longest stop string that it completes (0: none) and which it is.
static uint32_t match_byte(ti_textstream *t, unsigned char c, uint32_t *which) {
  uint32_t best = 0;
  for (uint32_t i = 0; i < t->n_stop; i++) {
    stop_string *s = &t->stop[i];
    uint32_t k = s->state;
    while (k > 0 && s->s[k] != c) k = s->fail[k - 1];
    if (s->s[k] == c) k++;
    if (k == s->n) {
      if (k > best) best = k, *which = i;
      k = s->fail[k - 1];  // so that the state stays a proper prefix
    }
    s->state = k;
  }
  return best;
}

static ti_status release(ti_textstream *t, size_t n, ti_buf *out) {
  const ti_status st = ti_buf_append(out, t->held.data, n);
  if (!st) ti_buf_consume(&t->held, n);
  return st;
}

// t->fresh joins the held text; what can be sent leaves it.
static ti_status scan(ti_textstream *t, ti_buf *out) {
  const size_t before = t->held.len;
  ti_status st = ti_buf_append(&t->held, t->fresh.data, t->fresh.len);
  if (st) return st;
  t->at.n_char += ti_utf8_count(t->fresh.data, t->fresh.len);
  for (size_t i = before; i < t->held.len && t->n_stop; i++) {
    uint32_t which = 0;
    const uint32_t len = match_byte(t, (unsigned char)t->held.data[i], &which);
    if (len && t->at.n_token > t->min_tokens) {
      t->at.end = TI_TEXT_STOP_STRING;
      t->at.stop_index = which;
      st = release(t, i + 1 - (t->include_stop ? 0 : len), out);
      ti_buf_reset(&t->held);
      return st;
    }
  }
  size_t hold = 0;
  for (uint32_t i = 0; i < t->n_stop; i++) hold = t->stop[i].state > hold ? t->stop[i].state : hold;
  return release(t, t->held.len - hold, out);
}

static ti_text_end token_end(const ti_textstream *t, uint32_t id) {
  if (t->at.n_token < t->min_tokens) return TI_TEXT_GOES_ON;
  for (uint32_t i = 0; i < t->n_stop_id; i++) {
    if (t->stop_id[i] == id) return TI_TEXT_STOP_TOKEN;
  }
  return t->tok && !t->ignore_eos && ti_tokenizer_is_eos(t->tok, (int32_t)id) ? TI_TEXT_EOS : TI_TEXT_GOES_ON;
}

ti_status ti_textstream_push(ti_textstream *t, const uint32_t *ids, uint32_t n, uint32_t *offset, ti_buf *out) {
  for (uint32_t i = 0; i < n && t->at.end == TI_TEXT_GOES_ON; i++) {
    if (offset) offset[i] = (uint32_t)t->at.n_char;
    const ti_text_end end = token_end(t, ids[i]);
    t->at.n_token++;
    if (end != TI_TEXT_GOES_ON) {
      t->at.end = end;
      t->at.stop_id = ids[i];
      return TI_OK;
    }
    if (!t->tok) continue;
    ti_buf_reset(&t->fresh);
    ti_status st = ti_detok_push(&t->detok, (int32_t)ids[i], &t->fresh);
    if (!st && t->fresh.len) st = scan(t, out);
    if (st) return st;
  }
  return TI_OK;
}

ti_status ti_textstream_finish(ti_textstream *t, ti_buf *out) {
  if (!t->tok || t->at.end == TI_TEXT_STOP_STRING) return TI_OK;
  ti_buf_reset(&t->fresh);
  const ti_status st = ti_detok_finish(&t->detok, &t->fresh);
  if (st) return st;
  t->at.n_char += ti_utf8_count(t->fresh.data, t->fresh.len);
  ti_buf_append(&t->held, t->fresh.data, t->fresh.len);
  return release(t, t->held.len, out);
}

ti_textstream_state ti_textstream_peek(const ti_textstream *t) { return t->at; }
