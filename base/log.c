// Log lines (see log.h). Any thread; no lock and no allocation: a line is built on the stack and leaves in one write(2), so that lines of threads and
// of ranks that share a terminal do not mix. The state is the level, the rank and each call site's window, all atomics.
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048, LINES_A_SECOND = 10 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static _Atomic int log_level = TI_LOG_INFO;
static _Atomic int log_rank = -1;

void ti_log_set_level(ti_log_level level) { atomic_store_explicit(&log_level, (int)level, memory_order_relaxed); }
ti_log_level ti_log_get_level(void) { return (ti_log_level)atomic_load_explicit(&log_level, memory_order_relaxed); }
void ti_log_set_rank(int rank) { atomic_store_explicit(&log_rank, rank, memory_order_relaxed); }

ti_status ti_log_parse_level(const char *s, ti_log_level *out) {
  for (int i = 0; i <= TI_LOG_DEBUG; i++) {
    if (strcmp(s, level_names[i]) != 0) continue;
    *out = (ti_log_level)i;
    return TI_OK;
  }
  return TI_ERR_ARG;
}

// Whether the site may speak now. At a window's turn two threads may both count: a line more or less, never a lost `suppressed`.
static bool site_passes(ti_log_site *site, uint64_t now_s, uint32_t *suppressed) {
  uint64_t window = atomic_load_explicit(&site->window_s, memory_order_relaxed);
  if (window != now_s && atomic_compare_exchange_strong(&site->window_s, &window, now_s)) atomic_store(&site->in_window, 0);
  if (atomic_fetch_add(&site->in_window, 1) >= LINES_A_SECOND) {
    atomic_fetch_add(&site->suppressed, 1);
    return false;
  }
  *suppressed = atomic_exchange(&site->suppressed, 0);
  return true;
}

static size_t advance(size_t at, int n, size_t cap) { return n < 0 ? at : at + (size_t)n < cap ? at + (size_t)n : cap - 1; }

void ti_log_write(ti_log_site *site, ti_log_level level, const char *fmt, ...) {
  const int saved_errno = errno;
  uint32_t suppressed = 0;
  struct timespec mono, wall;
  clock_gettime(CLOCK_MONOTONIC, &mono);
  if (!site_passes(site, (uint64_t)mono.tv_sec, &suppressed)) return;
  clock_gettime(CLOCK_REALTIME, &wall);
  struct tm tm;
  localtime_r(&wall.tv_sec, &tm);

  char line[LINE_MAX_BYTES];
  const size_t cap = sizeof(line) - 32;  // the end is kept for suppressed=N and the newline
  size_t at = advance(
      0, snprintf(line, cap, "%02d:%02d:%02d.%03ld %-5s ", tm.tm_hour, tm.tm_min, tm.tm_sec, wall.tv_nsec / 1000000, level_names[level]), cap);
  const int rank = atomic_load_explicit(&log_rank, memory_order_relaxed);
  if (rank >= 0) at = advance(at, snprintf(line + at, cap - at, "rank=%d ", rank), cap);
  const size_t text = at;
  va_list ap;
  va_start(ap, fmt);
  at = advance(at, vsnprintf(line + at, cap - at, fmt, ap), cap);
  va_end(ap);
  for (size_t i = text; i < at; i++)
    if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
  if (suppressed) at = advance(at, snprintf(line + at, sizeof(line) - 1 - at, " suppressed=%u", suppressed), sizeof(line) - 1);
  line[at++] = '\n';
  ssize_t put;
  do put = write(STDERR_FILENO, line, at);
  while (put < 0 && errno == EINTR);  // any other failure: there is nobody to tell
  errno = saved_errno;
}
