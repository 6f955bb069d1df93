// Pre-tokenizing: a text is cut by regex (or literal) splits, each applied to the spans that the one before left. Merges never cross a cut.
//
// PCRE2 with UTF, UCP and JIT. A span is matched as a subject of its own (a lookahead sees its end), as the reference does. The text is valid
// UTF-8 before it comes here, so PCRE2_NO_UTF_CHECK is right. Compiled patterns are shared and read-only; match data and JIT stack are the scratch's.
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/tok_priv.h"
#include "model/tokenizer/utf8.h"

enum { MAX_PATTERN_BYTES = 4096 };

// PCRE2's \s under UCP holds U+180E, which is no White_Space since Unicode 6.3 and not Oniguruma's; so \s is spelled out. \S only outside a class.
#define SPACES "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static ti_status spell_spaces(ti_buf *b, const char *re, size_t n) {
  ti_status st = TI_OK;
  bool in_class = false;
  for (size_t i = 0; i < n && st == TI_OK; i++) {
    if (re[i] == '\\' && i + 1 < n) {
      char c = re[++i];
      if (c == 's') {
        st = ti_buf_puts(b, in_class ? SPACES : "[" SPACES "]");
      } else if (c == 'S' && !in_class) {
        st = ti_buf_puts(b, "[^" SPACES "]");
      } else {
        st = ti_buf_append(b, re + i - 1, 2);
      }
      continue;
    }
    if (re[i] == '[' && !in_class) {
      in_class = true;
      // a ']' right after '[' or '[^' is a literal
      size_t k = i + 1 < n && re[i + 1] == '^' ? 2 : 1;
      if (i + k < n && re[i + k] == ']') {
        st = ti_buf_append(b, re + i, k + 1);
        i += k;
        continue;
      }
    } else if (re[i] == ']') {
      in_class = false;
    }
    if (st == TI_OK) st = ti_buf_putc(b, re[i]);
  }
  return st;
}

ti_status ti_tok_pattern_regex(tok_pattern *p, const char *re, size_t n, ti_error *err) {
  if (n == 0 || n > MAX_PATTERN_BYTES) return ti_error_set(err, TI_ERR_RANGE, "Regex: %zu bytes; 1..%d are allowed", n, MAX_PATTERN_BYTES);
  ti_buf b;
  ti_buf_init(&b, 64 * MAX_PATTERN_BYTES);
  ti_status st = spell_spaces(&b, re, n);
  if (st != TI_OK) {
    ti_error_set(err, st, "Regex: too long");
    goto done;
  }
  int code;
  PCRE2_SIZE at;
  p->re = pcre2_compile((PCRE2_SPTR)ti_buf_str(&b), b.len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
  if (!p->re) {
    PCRE2_UCHAR text[160];
    pcre2_get_error_message(code, text, sizeof text);
    st = ti_error_set(err, TI_ERR_FORMAT, "Regex \"%.200s\": %s", re, (const char *)text);
    goto done;
  }
  pcre2_jit_compile(p->re, PCRE2_JIT_COMPLETE);  // without JIT the interpreter runs
done:
  ti_buf_fini(&b);
  return st;
}

ti_status ti_tok_pattern_literal(tok_pattern *p, const char *s, size_t n, ti_error *err) {
  if (n == 0 || n > MAX_PATTERN_BYTES) return ti_error_set(err, TI_ERR_RANGE, "String: %zu bytes; 1..%d are allowed", n, MAX_PATTERN_BYTES);
  p->literal = malloc(n);
  if (!p->literal) return ti_error_set(err, TI_ERR_NOMEM, "String: out of memory");
  memcpy(p->literal, s, n);
  p->n_literal = n;
  return TI_OK;
}

void ti_tok_pattern_fini(tok_pattern *p) {
  pcre2_code_free(p->re);
  free(p->literal);
  *p = (tok_pattern){0};
}

// The limit grows with the subject: a linear pattern never meets it, an exponential one soon does.
static void set_limit(ti_tok_scratch *sc, size_t n) {
  uint32_t limit = 1000000 + 16 * (uint32_t)(n < (100u << 20) ? n : (100u << 20));
  if (limit <= sc->match_limit) return;
  pcre2_set_match_limit(sc->context, limit);
  sc->match_limit = limit;
}

ti_status ti_tok_pattern_next(const tok_pattern *p, ti_tok_scratch *sc, const char *s, size_t n, size_t from, size_t *start, size_t *end) {
  if (!p->re) {
    const char *hit = from < n ? memmem(s + from, n - from, p->literal, p->n_literal) : NULL;
    if (!hit) return TI_ERR_NOTFOUND;
    *start = (size_t)(hit - s);
    *end = *start + p->n_literal;
    return TI_OK;
  }
  set_limit(sc, n);
  while (from < n) {
    int rc = pcre2_match(p->re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, sc->match, sc->context);
    if (rc == PCRE2_ERROR_NOMATCH) return TI_ERR_NOTFOUND;
    if (rc < 0) return rc == PCRE2_ERROR_NOMEMORY ? TI_ERR_NOMEM : TI_ERR_RANGE;
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(sc->match);
    if (o[1] > o[0] && o[0] >= from) {
      *start = o[0];
      *end = o[1];
      return TI_OK;
    }
    from = o[0] > from ? o[0] : from;  // empty: go on behind the next character
    int k = from < n ? ti_utf8_scan((const unsigned char *)s + from, n - from, NULL) : 1;
    from += (size_t)(k > 0 ? k : 1);
  }
  return TI_ERR_NOTFOUND;
}

// ---- splits ----

static ti_status push_span(tok_spans *v, size_t off, size_t len) {
  if (v->n == v->cap) {
    size_t cap = v->cap ? v->cap * 2 : 256;
    tok_span *p = realloc(v->v, cap * sizeof *p);
    if (!p) return TI_ERR_NOMEM;
    v->v = p;
    v->cap = cap;
  }
  v->v[v->n++] = (tok_span){(uint32_t)off, (uint32_t)len};
  return TI_OK;
}

typedef struct splitter {
  tok_spans *out;
  size_t first;  // out->n when this span began: nothing merges into an earlier span's pieces
  tok_behavior behavior;
  bool last_matched;  // the piece before was a match
} splitter;

// One piece, a match or what lies between matches; whether it joins the piece before depends on the behaviour.
static ti_status put_piece(splitter *s, size_t off, size_t len, bool matched) {
  bool joins = false, any = s->out->n > s->first;
  switch (s->behavior) {
    case TOK_REMOVED:
      if (matched) return TI_OK;
      break;
    case TOK_ISOLATED:
      break;
    case TOK_MERGED_PREVIOUS:
      joins = any && matched && !s->last_matched;
      break;
    case TOK_MERGED_NEXT:
      joins = any && !matched && s->last_matched;
      break;
    case TOK_CONTIGUOUS:
      joins = any && matched == s->last_matched;
      break;
  }
  s->last_matched = matched;
  if (!joins) return push_span(s->out, off, len);
  s->out->v[s->out->n - 1].len += (uint32_t)len;
  return TI_OK;
}

static ti_status split_span(const tok_split *sp, ti_tok_scratch *sc, const char *text, tok_span in, tok_spans *out) {
  splitter s = {out, out->n, sp->behavior, false};
  ti_status st = TI_OK;
  for (size_t at = 0; at < in.len && st == TI_OK;) {
    size_t start, end;
    st = ti_tok_pattern_next(&sp->pattern, sc, text + in.off, in.len, at, &start, &end);
    if (st == TI_ERR_NOTFOUND) start = end = in.len, st = TI_OK;
    if (st == TI_OK && start > at) st = put_piece(&s, in.off + at, start - at, sp->invert);
    if (st == TI_OK && end > start) st = put_piece(&s, in.off + start, end - start, !sp->invert);
    at = end;
  }
  return st;
}

ti_status ti_tok_pretokenize(const ti_tokenizer *t, ti_tok_scratch *sc, const char *text, size_t n, const tok_spans **out) {
  tok_spans *from = &sc->spans[0], *to = &sc->spans[1];
  from->n = 0;
  ti_status st = n ? push_span(from, 0, n) : TI_OK;
  for (size_t i = 0; i < t->n_splits && st == TI_OK; i++) {
    to->n = 0;
    for (size_t k = 0; k < from->n && st == TI_OK; k++) st = split_span(&t->splits[i], sc, text, from->v[k], to);
    tok_spans *swap = from;
    from = to, to = swap;
  }
  *out = from;
  return st;
}
