// The table of element types (see dtype.h). No state.
#include "base/dtype.h"

#include <string.h>

#include "base/size.h"

static const struct {
  const char *text;
  int block, bytes;
} dtypes[TI_DTYPE_COUNT] = {
#define TI_X(name, text, block, bytes) [name] = {text, block, bytes},
    TI_DTYPE_MAP(TI_X)
#undef TI_X
};

const char *ti_dtype_name(ti_dtype t) { return (unsigned)t < TI_DTYPE_COUNT ? dtypes[t].text : "?"; }
int ti_dtype_block(ti_dtype t) { return dtypes[t].block; }
int ti_dtype_block_bytes(ti_dtype t) { return dtypes[t].bytes; }

ti_status ti_dtype_size(ti_dtype t, size_t n, size_t *out_bytes) {
  if ((unsigned)t >= TI_DTYPE_COUNT || n % (size_t)dtypes[t].block != 0) return TI_ERR_ARG;
  return ti_size_mul(n / (size_t)dtypes[t].block, (size_t)dtypes[t].bytes, out_bytes) ? TI_OK : TI_ERR_RANGE;
}

ti_status ti_dtype_parse(const char *text, ti_dtype *out) {
  for (int i = 0; i < TI_DTYPE_COUNT; i++) {
    if (strcmp(text, dtypes[i].text) != 0) continue;
    *out = (ti_dtype)i;
    return TI_OK;
  }
  return TI_ERR_NOTFOUND;
}
