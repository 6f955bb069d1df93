// The JSON header of a safetensors file, read entry by entry. Internal to safetensors.c.
//
// A reader of its own because headers are large (DeepSeek-V3: 90,000 entries, 12 MB) and of one fixed shape: ten times as fast as building a
// document first, and nothing is allocated. It takes all of JSON's syntax where it only skips; names and dtypes with escapes are refused.
#ifndef TI_MODEL_SAFETENSORS_HEADER_H
#define TI_MODEL_SAFETENSORS_HEADER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { TI_ST_MAX_DIMS = 8 };

typedef struct ti_st_cursor {
  const char *begin, *at, *end;
  bool first;
} ti_st_cursor;

// One entry as written; strings point into the header.
typedef struct ti_st_item {
  const char *name, *dtype;  // dtype NULL: absent
  size_t name_n, dtype_n;
  int n_dim;  // -1: absent
  uint64_t dims[TI_ST_MAX_DIMS];
  bool has_offsets;
  uint64_t begin, end;
} ti_st_item;

// At the header text[n], which must be one JSON object.
ti_status ti_st_begin(ti_st_cursor *c, const char *text, size_t n, ti_error *err) TI_MUST_CHECK;
// The next entry ("__metadata__" is passed over) and TI_OK, or TI_ERR_NOTFOUND without text at the end; else an error with the byte's position.
ti_status ti_st_next(ti_st_cursor *c, ti_st_item *out, ti_error *err) TI_MUST_CHECK;

#endif
