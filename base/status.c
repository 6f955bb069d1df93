// The texts behind ti_status and the two functions that fill a ti_error. No state, any thread.
//
// Both format into a local buffer first, so that an error may be built from its own text.
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[TI_STATUS_COUNT] = {
#define TI_X(name, text) #name,
    TI_STATUS_MAP(TI_X)
#undef TI_X
};
static const char *const texts[TI_STATUS_COUNT] = {
#define TI_X(name, text) text,
    TI_STATUS_MAP(TI_X)
#undef TI_X
};

const char *ti_status_name(ti_status st) { return (unsigned)st < TI_STATUS_COUNT ? names[st] : "TI_ERR_?"; }
const char *ti_status_text(ti_status st) { return (unsigned)st < TI_STATUS_COUNT ? texts[st] : "unknown error"; }

ti_status ti_error_set(ti_error *err, ti_status code, const char *fmt, ...) {
  if (!err) return code;
  char text[sizeof(err->text)];
  va_list ap;
  va_start(ap, fmt);
  if (vsnprintf(text, sizeof(text), fmt, ap) < 0) text[0] = 0;
  va_end(ap);
  err->code = code;
  memcpy(err->text, text, strlen(text) + 1);
  return code;
}

ti_status ti_error_prefix(ti_error *err, const char *fmt, ...) {
  if (!err) return TI_OK;
  char prefix[sizeof(err->text) - 2];
  va_list ap;
  va_start(ap, fmt);
  if (vsnprintf(prefix, sizeof(prefix), fmt, ap) < 0) prefix[0] = 0;
  va_end(ap);
  // [prefix][: ][as much of the old text as fits][NUL]
  const size_t at = strlen(prefix) + 2;
  size_t keep = strlen(err->text);
  if (keep > sizeof(err->text) - 1 - at) keep = sizeof(err->text) - 1 - at;
  memmove(err->text + at, err->text, keep);
  err->text[at + keep] = 0;
  memcpy(err->text, prefix, at - 2);
  memcpy(err->text + at - 2, ": ", 2);
  return err->code;
}
