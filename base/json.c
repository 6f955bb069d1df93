// jansson with the house's limits and error texts (see json.h). No state; any thread (jansson documents are not shared between threads).
//
// jansson recurses once a bracket, so nesting is counted first, by a scan that knows strings: 64 levels, far below any stack.
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_MAX_DEPTH = 64 };

static ti_status check_depth(const char *text, size_t n, ti_error *err) {
  int depth = 0, line = 1;
  bool in_string = false;
  for (size_t i = 0; i < n; i++) {
    const char c = text[i];
    if (c == '\n') line++;
    if (in_string) {
      if (c == '\\') i++;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > JSON_MAX_DEPTH) return ti_error_set(err, TI_ERR_FORMAT, "JSON: line %d: nested deeper than %d levels", line, JSON_MAX_DEPTH);
    } else if (c == ']' || c == '}') {
      depth--;
    }
  }
  return TI_OK;
}

ti_status ti_json_parse(const char *text, size_t n, json_t **out, ti_error *err) {
  const ti_status st = check_depth(text, n, err);
  if (st != TI_OK) return st;
  json_error_t e;
  json_t *j = json_loadb(n ? text : "", n, JSON_DECODE_ANY, &e);
  if (j) {
    *out = j;
    return TI_OK;
  }
  if (json_error_code(&e) == json_error_null_character)
    return ti_error_set(err, TI_ERR_FORMAT, "JSON: line %d, column %d: \\u0000 is not allowed in a string", e.line, e.column);
  if (json_error_code(&e) == json_error_out_of_memory) return ti_error_set(err, TI_ERR_NOMEM, "JSON: out of memory");
  return ti_error_set(err, TI_ERR_FORMAT, "JSON: line %d, column %d: %s", e.line, e.column, e.text);
}

// Reads at most max_bytes of f; *out is malloc'd.
static ti_status read_all(FILE *f, size_t max_bytes, char **out, size_t *out_n, ti_error *err) {
  char *data = NULL;
  size_t len = 0, cap = 0;
  for (;;) {
    if (len == cap) {
      cap = cap ? cap * 2 : 16384;
      char *p = realloc(data, cap);
      if (!p) {
        free(data);
        return ti_error_set(err, TI_ERR_NOMEM, "out of memory at %zu bytes", cap);
      }
      data = p;
    }
    const size_t got = fread(data + len, 1, cap - len, f);
    len += got;
    if (len > max_bytes) {
      free(data);
      return ti_error_set(err, TI_ERR_RANGE, "larger than the limit of %zu bytes", max_bytes);
    }
    if (got == 0) break;
  }
  if (ferror(f)) {
    free(data);
    return ti_error_set(err, TI_ERR_IO, "%s", strerror(errno));
  }
  *out = data;
  *out_n = len;
  return TI_OK;
}

ti_status ti_json_load_file(const char *path, size_t max_bytes, json_t **out, ti_error *err) {
  FILE *f = fopen(path, "rbe");
  if (!f) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  char *data = NULL;
  size_t n = 0;
  ti_status st = read_all(f, max_bytes, &data, &n, err);
  if (st == TI_OK) st = ti_json_parse(data, n, out, err);
  if (st != TI_OK) ti_error_prefix(err, "%s", path);
  free(data);
  fclose(f);
  return st;
}

// A value for an error text: scalars as they are (strings cut), containers by their kind.
static void describe(const json_t *v, char *out, size_t cap) {
  switch (json_typeof(v)) {
    case JSON_OBJECT:
      snprintf(out, cap, "an object");
      break;
    case JSON_ARRAY:
      snprintf(out, cap, "an array");
      break;
    case JSON_STRING: {
      int n = (int)strnlen(json_string_value(v), 41);
      const char *s = json_string_value(v);
      const bool cut = n > 40;
      if (cut)
        for (n = 40; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;) n--;  // not within a character
      snprintf(out, cap, "\"%.*s%s\"", n, s, cut ? "..." : "");
      break;
    }
    case JSON_INTEGER:
      snprintf(out, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
      break;
    case JSON_REAL:
      snprintf(out, cap, "%g", json_real_value(v));
      break;
    case JSON_TRUE:
      snprintf(out, cap, "true");
      break;
    case JSON_FALSE:
      snprintf(out, cap, "false");
      break;
    default:
      snprintf(out, cap, "null");
      break;
  }
}

// The value under key, or NULL when there is none or it is null.
static const json_t *lookup(const json_t *obj, const char *key) {
  const json_t *v = json_object_get(obj, key);
  return json_is_null(v) ? NULL : v;
}

ti_status ti_json_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out, ti_error *err) {
  const json_t *v = lookup(obj, key);
  if (!v) return TI_OK;
  const bool is_int = json_is_integer(v);
  const int64_t x = json_integer_value(v);
  if (is_int && x >= lo && x <= hi) {
    *out = x;
    return TI_OK;
  }
  char got[64];
  describe(v, got, sizeof(got));
  return ti_error_set(err, is_int ? TI_ERR_RANGE : TI_ERR_FORMAT, "%s: expected an integer in %lld..%lld, got %s", key, (long long)lo, (long long)hi,
                      got);
}

ti_status ti_json_real(const json_t *obj, const char *key, double lo, double hi, double *out, ti_error *err) {
  const json_t *v = lookup(obj, key);
  if (!v) return TI_OK;
  const bool is_num = json_is_number(v);
  const double x = json_number_value(v);
  if (is_num && isfinite(x) && x >= lo && x <= hi) {
    *out = x;
    return TI_OK;
  }
  char got[64];
  describe(v, got, sizeof(got));
  return ti_error_set(err, is_num ? TI_ERR_RANGE : TI_ERR_FORMAT, "%s: expected a number in %g..%g, got %s", key, lo, hi, got);
}

ti_status ti_json_bool(const json_t *obj, const char *key, bool *out, ti_error *err) {
  const json_t *v = lookup(obj, key);
  if (!v) return TI_OK;
  if (json_is_boolean(v)) {
    *out = json_is_true(v);
    return TI_OK;
  }
  char got[64];
  describe(v, got, sizeof(got));
  return ti_error_set(err, TI_ERR_FORMAT, "%s: expected true or false, got %s", key, got);
}

ti_status ti_json_str(const json_t *obj, const char *key, const char **out, ti_error *err) {
  const json_t *v = lookup(obj, key);
  if (!v) return TI_OK;
  if (json_is_string(v)) {
    *out = json_string_value(v);
    return TI_OK;
  }
  char got[64];
  describe(v, got, sizeof(got));
  return ti_error_set(err, TI_ERR_FORMAT, "%s: expected a string, got %s", key, got);
}
