// The few habits with jansson that several rooms share: typed, bounds-checked reads with errors that name the field.
//
// All readers: a missing key (or a null under it) leaves *out as it is and returns TI_OK; a wrong type or range is TI_ERR_FORMAT / TI_ERR_RANGE with a text such as
// "hidden_size: expected an integer in 1..1048576, got \"big\"". obj must be an object.
#ifndef TI_BASE_JSON_H
#define TI_BASE_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// Parses text[n] with a depth limit of 64 (checked before jansson recurses) and duplicate keys allowed (the last wins). The caller decref()s *out.
ti_status ti_json_parse(const char *text, size_t n, json_t **out, ti_error *err) TI_MUST_CHECK;
ti_status ti_json_load_file(const char *path, size_t max_bytes, json_t **out, ti_error *err) TI_MUST_CHECK;
ti_status ti_json_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_json_real(const json_t *obj, const char *key, double lo, double hi, double *out, ti_error *err) TI_MUST_CHECK;  // finite
ti_status ti_json_bool(const json_t *obj, const char *key, bool *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_json_str(const json_t *obj, const char *key, const char **out, ti_error *err) TI_MUST_CHECK;  // borrowed from obj

#endif
