// How titan-serve ends, for launchers, job systems and people. up.sh and quickstart.sh repeat these.
#ifndef TI_LAUNCH_EXIT_H
#define TI_LAUNCH_EXIT_H
#include "base/status.h"

typedef enum ti_exit { TI_EXIT_FINE = 0, TI_EXIT_USAGE = 2, TI_EXIT_MODEL = 3, TI_EXIT_CLUSTER = 4, TI_EXIT_INTERNAL = 5 } ti_exit;

// A lost rank is the cluster's, whatever was being done; else `otherwise`.
static inline ti_exit ti_exit_of(ti_status st, ti_exit otherwise) {
  if (st == TI_OK) return TI_EXIT_FINE;
  return st == TI_ERR_PEER || st == TI_ERR_TIMEOUT || st == TI_ERR_ABORTED ? TI_EXIT_CLUSTER : otherwise;
}

// The status file: one line {"exit": 4, "rank": 2, "doing": "...", "message": "..."}, written beside `path` and renamed, so that nobody sees half of
// it. rank -1: none in particular. TI_ERR_IO: it cannot be written.
ti_status ti_status_file_write(const char *path, ti_exit code, int rank, const char *doing, const char *message) TI_MUST_CHECK;
// text and a newline into path, likewise.
ti_status ti_text_file_write(const char *path, const char *text) TI_MUST_CHECK;

#endif
