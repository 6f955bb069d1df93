// The last word of a job (see rank.h).
#include "launch/rank.h"

#include <stdio.h>

void ti_rank_say_end(const ti_settings *job, ti_exit code, int rank, const char *host, const char *doing, const char *message) {
  if (code) {
    fprintf(stderr, "titan-serve: ");
    if (rank >= 0) fprintf(stderr, "rank %d%s%s%s, ", rank, host[0] ? " (" : "", host, host[0] ? ")" : "");
    fprintf(stderr, "%s: %s\n", doing, message);
  }
  const char *file = job->flags.status_file;
  if (file[0] && ti_status_file_write(file, code, rank, doing, message)) fprintf(stderr, "titan-serve: cannot write --status-file %s\n", file);
}
