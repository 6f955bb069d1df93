// Status codes and error texts: every fallible function returns a ti_status; those that judge outside input also fill a ti_error.
//
// Rules (STYLE): TI_INPROGRESS and TI_AGAIN are no errors. The function that decides which error it is writes the text (ti_error_set);
// the one that ends the affair logs it, once. Nothing below main() exits or aborts.
#ifndef TI_BASE_STATUS_H
#define TI_BASE_STATUS_H

// name, text
#define TI_STATUS_MAP(X)                                        \
  X(TI_OK, "ok")                                                \
  X(TI_INPROGRESS, "in progress")                               \
  X(TI_AGAIN, "try again")                                      \
  X(TI_ERR_ARG, "invalid argument")                             \
  X(TI_ERR_NOMEM, "out of memory")                              \
  X(TI_ERR_IO, "input/output error")                            \
  X(TI_ERR_FORMAT, "malformed data")                            \
  X(TI_ERR_RANGE, "out of range")                               \
  X(TI_ERR_NOTFOUND, "not found")                               \
  X(TI_ERR_EXISTS, "exists already")                            \
  X(TI_ERR_FULL, "full")                                        \
  X(TI_ERR_CLOSED, "closed")                                    \
  X(TI_ERR_TIMEOUT, "timed out")                                \
  X(TI_ERR_ABORTED, "aborted")                                  \
  X(TI_ERR_PEER, "peer is gone")                                \
  X(TI_ERR_AUTH, "not authenticated")                           \
  X(TI_ERR_UNSUPPORTED, "not supported")                        \
  X(TI_ERR_STALE, "of another epoch")                           \
  X(TI_ERR_INTERNAL, "internal error")

typedef enum ti_status {
#define TI_X(name, text) name,
  TI_STATUS_MAP(TI_X)
#undef TI_X
      TI_STATUS_COUNT
} ti_status;

#define TI_MUST_CHECK __attribute__((warn_unused_result))
#define TI_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

// "TI_ERR_RANGE" and "out of range". Never NULL, whatever the value.
const char *ti_status_name(ti_status st);
const char *ti_status_text(ti_status st);

static inline int ti_failed(ti_status st) { return st > TI_AGAIN; }

// An error with its text: what was wrong, where, the limit, what to do. The caller owns it; {0} is "no error".
typedef struct ti_error {
  ti_status code;
  char text[480];
} ti_error;

// Fills *err (NULL is allowed: the text is dropped) and returns code, so that `return ti_error_set(err, TI_ERR_RANGE, "...")` reads well.
ti_status ti_error_set(ti_error *err, ti_status code, const char *fmt, ...) TI_PRINTF(3, 4);
// Puts "prefix: " before the text that *err holds; returns err->code. Used while unwinding: "model.safetensors: tensor x: ...".
ti_status ti_error_prefix(ti_error *err, const char *fmt, ...) TI_PRINTF(2, 3);

#endif
