// Leveled key=value log lines with the rank, to stderr, one write(2) a line, from any thread.
//
//   12:31:07.412 info  rank=1 worker: ready device=cpu threads=2 kv_pages=4096
//
// A call site that repeats is rate-limited: at most 10 lines a second a site; the next line that passes says suppressed=N.
#ifndef TI_BASE_LOG_H
#define TI_BASE_LOG_H
#include <stdatomic.h>
#include <stdint.h>

#include "base/status.h"

typedef enum ti_log_level { TI_LOG_ERROR, TI_LOG_WARN, TI_LOG_INFO, TI_LOG_DEBUG } ti_log_level;

typedef struct ti_log_site {  // one a call site, static
  _Atomic uint64_t window_s;
  _Atomic uint32_t in_window, suppressed;
} ti_log_site;

void ti_log_set_level(ti_log_level level);
ti_log_level ti_log_get_level(void);
void ti_log_set_rank(int rank);  // -1: no rank (tools); shown as rank=N otherwise
// "error", "warn", "info", "debug" -> level; TI_ERR_ARG otherwise.
ti_status ti_log_parse_level(const char *s, ti_log_level *out) TI_MUST_CHECK;
void ti_log_write(ti_log_site *site, ti_log_level level, const char *fmt, ...) TI_PRINTF(3, 4);

// fmt: "room: what happened key=%d key2=%s". Control characters in the formatted text are replaced by '?'.
#define ti_log(level, ...)                                  \
  do {                                                      \
    static ti_log_site ti_site_;                            \
    if ((level) <= ti_log_get_level()) ti_log_write(&ti_site_, (level), __VA_ARGS__); \
  } while (0)
#define ti_log_error(...) ti_log(TI_LOG_ERROR, __VA_ARGS__)
#define ti_log_warn(...) ti_log(TI_LOG_WARN, __VA_ARGS__)
#define ti_log_info(...) ti_log(TI_LOG_INFO, __VA_ARGS__)
#define ti_log_debug(...) ti_log(TI_LOG_DEBUG, __VA_ARGS__)

#endif
