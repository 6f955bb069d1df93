// See safetensors_header.h: a recursive-descent reader without the recursion, since an entry's depth is fixed and skipped values count theirs.
#include "model/safetensors_header.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SKIP_DEPTH = 64 };

static ti_status fail(const ti_st_cursor *c, const char *expected, ti_error *err) {
  char got[16] = "the end";
  if (c->at < c->end) snprintf(got, sizeof(got), *c->at >= 32 && *c->at < 127 ? "'%c'" : "0x%02x", (unsigned char)*c->at);
  return ti_error_set(err, TI_ERR_FORMAT, "header: byte %zu: expected %s, got %s", (size_t)(c->at - c->begin), expected, got);
}

static void skip_space(ti_st_cursor *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

// Takes ch (after white space) if it is next.
static bool take(ti_st_cursor *c, char ch) {
  skip_space(c);
  if (c->at == c->end || *c->at != ch) return false;
  c->at++;
  return true;
}

// A string; *s and *n get what stands between its quotes, *escaped whether that holds a backslash.
static ti_status take_string(ti_st_cursor *c, const char **s, size_t *n, bool *escaped, ti_error *err) {
  if (!take(c, '"')) return fail(c, "a string", err);
  const char *from = c->at;
  *escaped = false;
  while (c->at < c->end && *c->at != '"') {
    if ((unsigned char)*c->at < 0x20) return fail(c, "no control character in a string", err);
    if (*c->at == '\\') {
      *escaped = true;
      if (++c->at == c->end) break;
    }
    c->at++;
  }
  if (c->at == c->end) return fail(c, "the end of a string", err);
  *s = from;
  *n = (size_t)(c->at - from);
  c->at++;
  return TI_OK;
}

static ti_status take_plain_string(ti_st_cursor *c, const char **s, size_t *n, ti_error *err) {
  bool escaped;
  const ti_status st = take_string(c, s, n, &escaped, err);
  if (st == TI_OK && (escaped || memchr(*s, 0, *n)))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "header: byte %zu: escapes in names are not supported", (size_t)(*s - c->begin));
  return st;
}

static ti_status take_integer(ti_st_cursor *c, uint64_t *out, ti_error *err) {
  skip_space(c);
  const char *from = c->at;
  uint64_t v = 0;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*c->at - '0'), &v)) return fail(c, "an integer below 2^64", err);
  if (c->at == from) return fail(c, "an integer of 0 or more", err);
  if (c->at < c->end && (*c->at == '.' || *c->at == 'e' || *c->at == 'E')) return fail(c, "an integer", err);
  *out = v;
  return TI_OK;
}

// [integer, ...]: at most max of them; *n gets how many.
static ti_status take_integers(ti_st_cursor *c, uint64_t *out, int max, int *n, ti_error *err) {
  if (!take(c, '[')) return fail(c, "'['", err);
  *n = 0;
  if (take(c, ']')) return TI_OK;
  do {
    if (*n == max) return ti_error_set(err, TI_ERR_UNSUPPORTED, "header: byte %zu: more than %d numbers", (size_t)(c->at - c->begin), max);
    const ti_status st = take_integer(c, &out[*n], err);
    if (st != TI_OK) return st;
    ++*n;
  } while (take(c, ','));
  return take(c, ']') ? TI_OK : fail(c, "',' or ']'", err);
}

// Any value: as many brackets are closed as opened (of whichever kind); what stands between them does not matter.
static ti_status skip_value(ti_st_cursor *c, ti_error *err) {
  int depth = 0;
  do {
    skip_space(c);
    if (c->at == c->end) return fail(c, "a value", err);
    const char *s;
    size_t n;
    bool escaped;
    const char ch = *c->at;
    if (ch == '"') {
      const ti_status st = take_string(c, &s, &n, &escaped, err);
      if (st != TI_OK) return st;
    } else if (ch == '{' || ch == '[') {
      if (++depth > MAX_SKIP_DEPTH) return fail(c, "less nesting", err);
      c->at++;
    } else if (ch == '}' || ch == ']') {
      if (--depth < 0) return fail(c, "a value", err);
      c->at++;
    } else if (depth == 0 && (ch == ',' || ch == ':')) {
      return fail(c, "a value", err);
    } else {
      c->at++;
      while (depth == 0 && c->at < c->end && !strchr(",}] \n\t\r", *c->at)) c->at++;
    }
  } while (depth > 0);
  return TI_OK;
}

static bool is(const char *s, size_t n, const char *want) { return strlen(want) == n && memcmp(s, want, n) == 0; }

// The object behind a tensor's name.
static ti_status take_entry(ti_st_cursor *c, ti_st_item *out, ti_error *err) {
  if (!take(c, '{')) return fail(c, "'{'", err);
  if (take(c, '}')) return TI_OK;
  do {
    const char *key;
    size_t n;
    bool escaped;
    ti_status st = take_string(c, &key, &n, &escaped, err);
    if (st != TI_OK) return st;
    if (!take(c, ':')) return fail(c, "':'", err);
    if (is(key, n, "dtype")) {
      st = take_plain_string(c, &out->dtype, &out->dtype_n, err);
    } else if (is(key, n, "shape")) {
      if ((st = take_integers(c, out->dims, TI_ST_MAX_DIMS, &out->n_dim, err)) != TI_OK) return ti_error_prefix(err, "shape");
    } else if (is(key, n, "data_offsets")) {
      uint64_t v[2];
      int k = 0;
      if ((st = take_integers(c, v, 2, &k, err)) != TI_OK) return ti_error_prefix(err, "data_offsets");
      if (k != 2) return ti_error_set(err, TI_ERR_FORMAT, "data_offsets: expected [begin, end]");
      out->begin = v[0];
      out->end = v[1];
      out->has_offsets = true;
    } else {
      st = skip_value(c, err);
    }
    if (st != TI_OK) return st;
  } while (take(c, ','));
  return take(c, '}') ? TI_OK : fail(c, "',' or '}'", err);
}

ti_status ti_st_begin(ti_st_cursor *c, const char *text, size_t n, ti_error *err) {
  *c = (ti_st_cursor){.begin = text, .at = text, .end = text + n, .first = true};
  return take(c, '{') ? TI_OK : fail(c, "'{'", err);
}

ti_status ti_st_next(ti_st_cursor *c, ti_st_item *out, ti_error *err) {
  for (;;) {
    if (take(c, '}')) {
      skip_space(c);
      return c->at == c->end ? TI_ERR_NOTFOUND : fail(c, "the end", err);
    }
    if (!c->first && !take(c, ',')) return fail(c, "',' or '}'", err);
    c->first = false;
    ti_st_item item = {.n_dim = -1};
    ti_status st = take_plain_string(c, &item.name, &item.name_n, err);
    if (st != TI_OK) return st;
    if (!take(c, ':')) return fail(c, "':'", err);
    const bool metadata = is(item.name, item.name_n, "__metadata__");
    st = metadata ? skip_value(c, err) : take_entry(c, &item, err);
    if (st != TI_OK) return ti_error_prefix(err, "tensor %.*s", (int)(item.name_n > 120 ? 120 : item.name_n), item.name), st;
    if (metadata) continue;
    *out = item;
    return TI_OK;
  }
}
