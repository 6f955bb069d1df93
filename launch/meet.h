// How the ranks of a job meet at start-up, over MPI_COMM_WORLD: rank 0 shares plain data, every rank reports, rank 0 gives a verdict. All bounded.
//
//   share:    rank 0 ---- data[n] ----> each rank
//   report:   each rank -- report ---> rank 0 -- the first failure, or "all fine" --> each rank
//
// MPI never tells of a dead rank. So every wait looks at a clock, and, for ranks of the same host, at whether their process lives (known from the
// first report on). Main thread only.
#ifndef TI_LAUNCH_MEET_H
#define TI_LAUNCH_MEET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launch/exit.h"

enum { TI_MEET_RANKS = 1024 };

typedef struct ti_report {
  int32_t exit, rank;  // ti_exit; of whom
  int32_t lost;        // verdict: a rank did not answer; there is no way but _exit
  int64_t pid;
  char host[64], doing[96], message[480];
} ti_report;

typedef struct ti_meet {
  int rank, size;
  ti_report self;  // host and pid filled in by init
  struct ti_meet_peer {
    int64_t pid;  // 0: not known yet
    char host[64];
  } * peer;  // [size] on rank 0; [1] elsewhere: rank 0's
} ti_meet;

// After MPI_Init_thread. TI_ERR_NOMEM.
ti_status ti_meet_init(ti_meet *m, ti_error *err) TI_MUST_CHECK;
void ti_meet_fini(ti_meet *m);
// data[n] of rank 0 to all. stride 0: the same to each; else rank r gets n bytes from data + r * stride (on the others data is where they go).
ti_status ti_meet_share(ti_meet *m, void *data, size_t n, size_t stride, uint64_t timeout_us, ti_error *err) TI_MUST_CHECK;
// exit, doing, message of m->self -> *verdict, the same on all ranks: exit 0, or the failure of the lowest rank that has one.
// A rank that does not answer is a failure (CLUSTER) that names it. Never fails itself: the worst is a verdict with lost set.
void ti_meet_report(ti_meet *m, ti_exit code, const char *doing, const char *message, uint64_t timeout_us, ti_report *verdict);

#endif
