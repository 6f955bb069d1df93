// Reading GGUF metadata by key, with types and limits checked; the errors name the key. Pure functions; any thread.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/gguf/gguf.h"

const ti_gguf_kv *ti_gguf_find(const ti_gguf *g, const char *key) {
  size_t lo = 0, hi = g->n_kv;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const int c = strcmp(key, g->kv[mid].key);
    if (c == 0) return &g->kv[mid];
    if (c < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return NULL;
}

static ti_status wrong_kind(const ti_gguf_kv *kv, const char *expected, ti_error *err) {
  return ti_error_set(err, TI_ERR_FORMAT, "%.127s: expected %s, found %s%s", kv->key, expected, kv->array ? "an array of " : "",
                      ti_gguf_type_name(kv->type));
}

// A value of any integer type; unsigned ones above INT64_MAX saturate, which no limit allows.
static bool integer(const ti_gguf_kv *kv, int64_t *out) {
  switch (kv->type) {
#define INTEGER(tag, ctype)       \
  case tag: {                     \
    ctype v;                      \
    memcpy(&v, kv->at, sizeof v); \
    *out = (int64_t)v;            \
    return true;                  \
  }
    INTEGER(TI_GGUF_U8, uint8_t)
    INTEGER(TI_GGUF_I8, int8_t)
    INTEGER(TI_GGUF_U16, uint16_t)
    INTEGER(TI_GGUF_I16, int16_t)
    INTEGER(TI_GGUF_U32, uint32_t)
    INTEGER(TI_GGUF_I32, int32_t)
    INTEGER(TI_GGUF_I64, int64_t)
#undef INTEGER
    case TI_GGUF_U64: {
      uint64_t v;
      memcpy(&v, kv->at, sizeof v);
      *out = v > INT64_MAX ? INT64_MAX : (int64_t)v;
      return true;
    }
    default:
      return false;
  }
}

ti_status ti_gguf_int(const ti_gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  int64_t v;
  if (!kv) return TI_OK;
  if (kv->array || !integer(kv, &v)) return wrong_kind(kv, "an integer", err);
  if (v < lo || v > hi)
    return ti_error_set(err, TI_ERR_RANGE, "%s: expected an integer in %lld..%lld, got %lld", key, (long long)lo, (long long)hi, (long long)v);
  *out = v;
  return TI_OK;
}

ti_status ti_gguf_real(const ti_gguf *g, const char *key, double lo, double hi, double *out, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  double v = 0;
  if (!kv) return TI_OK;
  if (kv->array || (kv->type != TI_GGUF_F32 && kv->type != TI_GGUF_F64)) return wrong_kind(kv, "a float32", err);
  if (kv->type == TI_GGUF_F32) {
    float f;
    memcpy(&f, kv->at, sizeof f);
    v = (double)f;
  } else {
    memcpy(&v, kv->at, sizeof v);
  }
  if (!isfinite(v) || v < lo || v > hi) return ti_error_set(err, TI_ERR_RANGE, "%s: expected a number in %g..%g, got %g", key, lo, hi, v);
  *out = v;
  return TI_OK;
}

ti_status ti_gguf_bool(const ti_gguf *g, const char *key, bool *out, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  if (!kv) return TI_OK;
  if (kv->array || kv->type != TI_GGUF_BOOL) return wrong_kind(kv, "a bool", err);
  if (*kv->at > 1) return ti_error_set(err, TI_ERR_RANGE, "%s: expected 0 or 1, got %d", key, *kv->at);
  *out = *kv->at == 1;
  return TI_OK;
}

// The string at `at` (its extent was checked when the file was opened); returns where the next one begins.
static const unsigned char *string_at(const unsigned char *at, ti_tok_text *out) {
  uint64_t n;
  memcpy(&n, at, sizeof n);
  *out = (ti_tok_text){(const char *)at + sizeof n, (size_t)n};
  return at + sizeof n + n;
}

ti_status ti_gguf_string(const ti_gguf *g, const char *key, ti_tok_text *out, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  if (!kv) return TI_OK;
  if (kv->array || kv->type != TI_GGUF_STRING) return wrong_kind(kv, "a string", err);
  string_at(kv->at, out);
  return TI_OK;
}

static ti_status array_copy(const ti_gguf_kv *kv, size_t size, void **out, ti_error *err) {
  size_t bytes;
  if (!ti_size_mul((size_t)kv->n + 1, size, &bytes) || !(*out = malloc(bytes)))
    return ti_error_set(err, TI_ERR_NOMEM, "%.127s: out of memory for %llu elements", kv->key, (unsigned long long)kv->n);
  return TI_OK;
}

ti_status ti_gguf_strings(const ti_gguf *g, const char *key, ti_tok_text **out, size_t *n, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  void *mem;
  if (!kv) return TI_OK;
  if (!kv->array || kv->type != TI_GGUF_STRING) return wrong_kind(kv, "an array of strings", err);
  const ti_status st = array_copy(kv, sizeof **out, &mem, err);
  if (st != TI_OK) return st;
  const unsigned char *at = kv->at;
  *out = mem;
  *n = (size_t)kv->n;
  for (size_t i = 0; i < *n; i++) at = string_at(at, &(*out)[i]);
  return TI_OK;
}

ti_status ti_gguf_floats(const ti_gguf *g, const char *key, float **out, size_t *n, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  void *mem;
  if (!kv) return TI_OK;
  if (!kv->array || kv->type != TI_GGUF_F32) return wrong_kind(kv, "an array of float32", err);
  const ti_status st = array_copy(kv, sizeof **out, &mem, err);
  if (st != TI_OK) return st;
  *out = memcpy(mem, kv->at, (size_t)kv->n * sizeof **out);
  *n = (size_t)kv->n;
  return TI_OK;
}

ti_status ti_gguf_ints(const ti_gguf *g, const char *key, int32_t **out, size_t *n, ti_error *err) {
  const ti_gguf_kv *kv = ti_gguf_find(g, key);
  void *mem;
  if (!kv) return TI_OK;
  if (!kv->array || (kv->type != TI_GGUF_I32 && kv->type != TI_GGUF_U32)) return wrong_kind(kv, "an array of int32", err);
  const ti_status st = array_copy(kv, sizeof **out, &mem, err);
  if (st != TI_OK) return st;
  *out = memcpy(mem, kv->at, (size_t)kv->n * sizeof **out);
  *n = (size_t)kv->n;
  return TI_OK;
}
