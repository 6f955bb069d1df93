// The lexer: text outside of tags becomes DATA tokens with the white space rules applied, tags become their tokens.
//
//   "-" before or behind a tag strips all white space on that side, "+" keeps it; otherwise a block or comment tag that stands alone at the
//   beginning of its line loses the blanks before it (lstrip_blocks), and the first newline behind it goes too (trim_blocks). {{ }} never do.
// Stateless between calls; any thread.
#include "model/chat/lexer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/uni.h"

#define MAX_BRACKETS 250

typedef struct lex {
  const char *s;
  size_t n, at;
  int line;
  bool line_starting;  // the last match ended in a newline (or nothing was matched yet)
  char brackets[MAX_BRACKETS];
  int n_brackets;
  ti_arena *arena;
  ti_jj_tokens *out;
  ti_error *err;
} lex;

static ti_status fail(lex *L, const char *what) { return ti_error_set(L->err, TI_ERR_FORMAT, "line %d: %s", L->line, what); }

static ti_status push(lex *L, ti_jj_token t) {
  ti_jj_tokens *o = L->out;
  if (o->n == o->cap) {
    size_t cap = o->cap ? o->cap * 2 : 256;
    ti_jj_token *v = realloc(o->v, cap * sizeof *v);
    if (!v) return ti_error_set(L->err, TI_ERR_NOMEM, "out of memory for the template's tokens");
    o->v = v;
    o->cap = cap;
  }
  o->v[o->n++] = t;
  return TI_OK;
}

static void advance(lex *L, size_t to) {
  for (; L->at < to; L->at++) L->line += L->s[L->at] == '\n';
}

static size_t skip_space(const lex *L, size_t i) {
  while (i < L->n) {
    size_t k = i;
    if (!ti_jj_is_space(ti_jj_utf8_next(L->s, L->n, &k))) break;
    i = k;
  }
  return i;
}

static bool has(const lex *L, size_t i, const char *lit) {
  size_t k = strlen(lit);
  return i <= L->n && L->n - i >= k && memcmp(L->s + i, lit, k) == 0;
}

static size_t sign_len(const lex *L, size_t i) { return i < L->n && (L->s[i] == '-' || L->s[i] == '+'); }

// The end of a tag at i ("-%}", "+%}", "%}"; close is '%', '}' or '#'): the position behind it and what it swallows, or 0.
static size_t tag_end(const lex *L, size_t i, char close, bool trim) {
  char end[3] = {close, '}', 0};
  if (i < L->n && L->s[i] == '-' && has(L, i + 1, end)) return skip_space(L, i + 3);
  if (close != '}' && i < L->n && L->s[i] == '+' && has(L, i + 1, end)) return i + 3;
  if (!has(L, i, end)) return 0;
  i += 2;
  return trim && i < L->n && L->s[i] == '\n' ? i + 1 : i;
}

// {% raw %} at i (which holds "{%"): the position behind it, else 0. name is "raw" or "endraw".
static size_t raw_tag(const lex *L, size_t i, const char *name) {
  size_t j = skip_space(L, i + 2 + sign_len(L, i + 2));
  if (!has(L, j, name)) return 0;
  j = skip_space(L, j + strlen(name));
  if (name[0] == 'e') return tag_end(L, j, '%', true);
  return j < L->n && L->s[j] == '+' ? 0 : tag_end(L, j, '%', false);
}

// The text from the current position to the tag at `tag`, whose sign and kind say what becomes of its white space.
static ti_status text_before(lex *L, size_t tag, bool variable) {
  size_t from = L->at, end = tag;
  char sign = tag + 2 < L->n ? L->s[tag + 2] : 0;
  if (sign == '-') {
    while (end > from) {
      size_t k = end;
      if (!ti_jj_is_space(ti_jj_utf8_prev(L->s, &k)) || k < from) break;
      end = k;
    }
  } else if (sign != '+' && !variable) {
    size_t l = end;
    while (l > from && L->s[l - 1] != '\n') l--;
    if ((l > from || L->line_starting) && skip_space(L, l) >= end) end = l;
  }
  ti_status st = TI_OK;
  if (end > from) st = push(L, (ti_jj_token){.type = TI_JJ_T_DATA, .line = L->line, .text = {L->s + from, end - from}});
  advance(L, tag);
  return st;
}

static uint32_t hex(const char *p, size_t k, bool *ok) {
  uint32_t v = 0;
  for (size_t i = 0; i < k; i++) {
    char c = p[i];
    int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (d < 0) {
      *ok = false;
      return 0;
    }
    v = v << 4 | (uint32_t)d;
  }
  return v;
}

// One escape sequence at s[i] == '\\' of s[n]; appends to *o and returns the position behind it, 0 for a malformed one.
static size_t unescape(const char *s, size_t n, size_t i, char **o) {
  static const char from[] = "nrtabfv\\'\"", to[] = "\n\r\t\a\b\f\v\\'\"";
  char c = s[i + 1];
  const char *f = c ? strchr(from, c) : NULL;
  if (f) {
    *(*o)++ = to[f - from];
    return i + 2;
  }
  if (c == '\n') return i + 2;
  if (c >= '0' && c <= '7') {
    uint32_t v = 0;
    size_t k = i + 1;
    for (; k < n && k < i + 4 && s[k] >= '0' && s[k] <= '7'; k++) v = v * 8 + (uint32_t)(s[k] - '0');
    *o += ti_jj_utf8_put(*o, v);
    return k;
  }
  size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (c == 'N') return 0;
  if (digits) {
    bool ok = n - i >= digits + 2;
    uint32_t v = ok ? hex(s + i + 2, digits, &ok) : 0;
    if (!ok || v > 0x10ffff) return 0;
    i += digits + 2;
    if (v >= 0xd800 && v < 0xdc00 && n - i >= 6 && s[i] == '\\' && s[i + 1] == 'u') {  // a surrogate pair
      uint32_t w = hex(s + i + 2, 4, &ok);
      if (ok && w >= 0xdc00 && w < 0xe000) {
        v = 0x10000 + ((v - 0xd800) << 10) + (w - 0xdc00);
        i += 6;
      }
    }
    *o += ti_jj_utf8_put(*o, v);
    return i;
  }
  *(*o)++ = '\\';  // unknown: kept with its backslash
  return i + 1;
}

static ti_status lex_string(lex *L) {
  char q = L->s[L->at];
  size_t i = L->at + 1;
  while (i < L->n && L->s[i] != q) i += L->s[i] == '\\' ? 2 : 1;
  if (i >= L->n) return fail(L, "unterminated string");
  const char *s = L->s + L->at + 1;
  size_t n = i - L->at - 1;
  ti_jj_token t = {.type = TI_JJ_T_STR, .line = L->line, .text = {s, n}};
  if (memchr(s, '\\', n)) {
    char *buf = ti_arena_alloc(L->arena, n + 1), *o = buf;
    if (!buf) return ti_error_set(L->err, TI_ERR_NOMEM, "out of memory for a string");
    for (size_t k = 0; k < n;) {
      if (s[k] != '\\') {
        *o++ = s[k++];
        continue;
      }
      k = unescape(s, n, k, &o);
      if (!k) return fail(L, "malformed escape sequence in a string");
    }
    t.text = (ti_jj_str){buf, (size_t)(o - buf)};
  }
  advance(L, i + 1);
  return push(L, t);
}

// Digits with single underscores between them, from i; the end.
static size_t digits_from(const lex *L, size_t i) {
  while (i < L->n && ((L->s[i] >= '0' && L->s[i] <= '9') || (L->s[i] == '_' && i + 1 < L->n && L->s[i + 1] >= '0' && L->s[i + 1] <= '9'))) i++;
  return i;
}

static bool digit_at(const lex *L, size_t i) { return i < L->n && L->s[i] >= '0' && L->s[i] <= '9'; }

static ti_status lex_number(lex *L) {
  size_t i = L->at, end = digits_from(L, i);
  bool real = false;
  int base = 10;
  if (i == 0 || L->s[i - 1] != '.') {
    size_t e = end;
    if (e < L->n && L->s[e] == '.' && digit_at(L, e + 1)) {
      e = digits_from(L, e + 1);
      real = true;
    }
    if (e < L->n && (L->s[e] | 32) == 'e') {
      size_t k = e + 1;
      if (k < L->n && (L->s[k] == '+' || L->s[k] == '-')) k++;
      if (digit_at(L, k)) {
        e = digits_from(L, k);
        real = true;
      }
    }
    if (real) end = e;
  }
  if (!real && L->s[i] == '0' && i + 1 < L->n && strchr("xXoObB", L->s[i + 1])) {
    char x = (char)(L->s[i + 1] | 32);
    base = x == 'x' ? 16 : x == 'o' ? 8 : 2;
    end = i + 2;
    while (end < L->n && (L->s[end] == '_' || ((L->s[end] | 32) >= 'a' && (L->s[end] | 32) <= 'f' && base == 16) || digit_at(L, end))) end++;
  }
  char text[72];
  size_t k = 0;
  for (size_t j = base == 10 ? i : i + 2; j < end; j++) {
    if (L->s[j] == '_') continue;
    if (k + 1 >= sizeof text) return fail(L, "a number is too long");
    text[k++] = L->s[j];
  }
  text[k] = 0;
  ti_jj_token t = {.type = real ? TI_JJ_T_FLOAT : TI_JJ_T_INT, .line = L->line, .text = {L->s + i, end - i}};
  char *stop = text;
  errno = 0;
  if (real)
    t.num.f = strtod(text, &stop);
  else
    t.num.i = strtoll(text, &stop, base);
  if (k == 0 || *stop || (!real && errno)) return fail(L, "a number is malformed or beyond 64 bits");
  advance(L, end);
  return push(L, t);
}

static bool is_name(char c, bool first) {
  return c == '_' || (unsigned char)c >= 0x80 || ((c | 32) >= 'a' && (c | 32) <= 'z') || (!first && c >= '0' && c <= '9');
}

static ti_status lex_op(lex *L) {
  static const struct { char text[3], op; } two[] = {{"**", 'p'}, {"//", 'f'}, {"==", '='}, {"!=", '!'}, {">=", 'g'}, {"<=", 'l'}};
  ti_jj_token t = {.type = TI_JJ_T_OP, .line = L->line};
  char c = L->s[L->at];
  size_t len = 1;
  for (size_t i = 0; i < sizeof two / sizeof two[0] && len == 1; i++)
    if (has(L, L->at, two[i].text)) {
      t.op = two[i].op;
      len = 2;
    }
  char msg[64];
  if (len == 1) {
    if (!c || !strchr("+-/*%~[](){}<>=.:|,;", c)) {
      if ((unsigned char)c < 0x20 || (unsigned char)c >= 0x7f)
        snprintf(msg, sizeof msg, "unexpected byte 0x%02x in a tag", (unsigned char)c);
      else
        snprintf(msg, sizeof msg, "unexpected char '%c' in a tag", c);
      return fail(L, msg);
    }
    t.op = c == '=' ? 'a' : c;
  }
  if (len == 1 && strchr("([{", c)) {
    if (L->n_brackets == MAX_BRACKETS) return ti_error_set(L->err, TI_ERR_RANGE, "line %d: more than %d nested brackets", L->line, MAX_BRACKETS);
    L->brackets[L->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
  } else if (len == 1 && strchr(")]}", c)) {
    if (L->n_brackets == 0 || L->brackets[L->n_brackets - 1] != c) {
      if (L->n_brackets)
        snprintf(msg, sizeof msg, "unexpected '%c', expected '%c'", c, L->brackets[L->n_brackets - 1]);
      else
        snprintf(msg, sizeof msg, "unexpected '%c'", c);
      return fail(L, msg);
    }
    L->n_brackets--;
  }
  t.text = (ti_jj_str){L->s + L->at, len};
  advance(L, L->at + len);
  return push(L, t);
}

// The inside of a block or variable tag, through its end.
static ti_status lex_tag(lex *L, bool variable) {
  L->n_brackets = 0;
  for (;;) {
    size_t i = skip_space(L, L->at);
    // an end such as "-%}" begins with what could be an operator; inside brackets it is one
    size_t end = L->n_brackets ? 0 : tag_end(L, i, variable ? '}' : '%', !variable);
    advance(L, i);
    if (end) {
      ti_status st = push(L, (ti_jj_token){.type = variable ? TI_JJ_T_VAR_END : TI_JJ_T_BLOCK_END, .line = L->line});
      advance(L, end);
      L->line_starting = L->s[end - 1] == '\n';
      return st;
    }
    if (i >= L->n) return TI_OK;  // the parser reports what is missing
    char c = L->s[i];
    ti_status st;
    if (c >= '0' && c <= '9') {
      st = lex_number(L);
    } else if (is_name(c, true)) {
      size_t k = i;
      while (k < L->n && is_name(L->s[k], false)) k++;
      st = push(L, (ti_jj_token){.type = TI_JJ_T_NAME, .line = L->line, .text = {L->s + i, k - i}});
      advance(L, k);
    } else if (c == '"' || c == '\'') {
      st = lex_string(L);
    } else {
      st = lex_op(L);
    }
    if (st) return st;
  }
}

static ti_status lex_comment(lex *L) {
  for (size_t i = L->at; i < L->n; i++) {
    // the earliest end wins: "-#}" and "+#}" begin one byte before "#}"
    size_t end = L->s[i] == '-' || L->s[i] == '+' || L->s[i] == '#' ? tag_end(L, i, '#', true) : 0;
    if (!end) continue;
    advance(L, end);
    L->line_starting = L->s[end - 1] == '\n';
    return TI_OK;
  }
  return fail(L, "Missing end of comment tag");
}

static ti_status lex_raw(lex *L, size_t begin_end) {
  advance(L, begin_end);
  L->line_starting = L->s[begin_end - 1] == '\n';
  for (size_t i = L->at; i < L->n; i++) {
    if (!has(L, i, "{%")) continue;
    size_t end = raw_tag(L, i, "endraw");
    if (!end) continue;
    ti_status st = text_before(L, i, false);
    if (st) return st;
    advance(L, end);
    L->line_starting = L->s[end - 1] == '\n';
    return TI_OK;
  }
  return fail(L, "Missing end of raw directive");
}

ti_status ti_jj_lex(const char *src, size_t n, ti_arena *a, ti_jj_tokens *out, ti_error *err) {
  lex L = {.s = src, .n = n, .line = 1, .line_starting = true, .arena = a, .out = out, .err = err};
  ti_status st = TI_OK;
  while (L.at < n && !st) {
    size_t tag = L.at;
    while (tag < n && !(src[tag] == '{' && tag + 1 < n && strchr("%{#", src[tag + 1]) && src[tag + 1])) tag++;
    if (tag == n) {
      st = push(&L, (ti_jj_token){.type = TI_JJ_T_DATA, .line = L.line, .text = {src + L.at, n - L.at}});
      advance(&L, n);
      break;
    }
    char kind = src[tag + 1];
    size_t raw = kind == '%' ? raw_tag(&L, tag, "raw") : 0;
    if ((st = text_before(&L, tag, kind == '{'))) break;
    if (raw) {
      st = lex_raw(&L, raw);
      continue;
    }
    if (kind != '#') st = push(&L, (ti_jj_token){.type = kind == '{' ? TI_JJ_T_VAR_BEGIN : TI_JJ_T_BLOCK_BEGIN, .line = L.line});
    if (st) break;
    advance(&L, tag + 2 + sign_len(&L, tag + 2));
    st = kind == '#' ? lex_comment(&L) : lex_tag(&L, kind == '{');
  }
  return st ? st : push(&L, (ti_jj_token){.type = TI_JJ_T_EOF, .line = L.line});
}

const char *ti_jj_token_describe(const ti_jj_token *t, char buf[64]) {
  static const char *const names[] = {
      [TI_JJ_T_EOF] = "end of template",
      [TI_JJ_T_DATA] = "template data / text",
      [TI_JJ_T_VAR_BEGIN] = "begin of print statement",
      [TI_JJ_T_VAR_END] = "end of print statement",
      [TI_JJ_T_BLOCK_BEGIN] = "begin of statement block",
      [TI_JJ_T_BLOCK_END] = "end of statement block",
      [TI_JJ_T_STR] = "string",
      [TI_JJ_T_INT] = "integer",
      [TI_JJ_T_FLOAT] = "float",
  };
  if (t->type < sizeof names / sizeof names[0] && names[t->type]) return names[t->type];
  snprintf(buf, 64, "%.*s", (int)(t->text.n < 60 ? t->text.n : 60), t->text.p);
  return buf;
}
