// Memory of this rank that the ranks of the same host read where it stands, so that what passes between them is not copied into messages and out of
// them again. Each rank writes its own window alone and maps the others' read-only; who may read what, and when, is said by messages (the owner's
// protocol: expert/exchange.h).
//
// A window is an unnamed file in memory (memfd), sized for the worst case and paid for as it is touched. Ranks find one another's through
// /proc/PID/fd and know them by 16 random bytes at their head, so that ranks of other hosts, or in other PID namespaces, are told apart by that
// alone: their entries are NULL and rows go to them in messages. MPI_Win_allocate_shared is not used: it blocks without a bound when a rank has died,
// and its file is charged in full against /dev/shm. A rank's death takes nothing away: its pages live as long as a mapping.
#ifndef TI_PARALLEL_WINDOW_H
#define TI_PARALLEL_WINDOW_H
#include <stdbool.h>

#include "parallel/coll.h"

typedef struct ti_window {
  char *own;          // [bytes] zeroed, page-aligned
  const char **peer;  // [n] each rank's window as seen from here; NULL: cannot be seen; peer[own rank] == own
  bool *seen;         // [n] whether that rank sees ours; false for the own rank
  size_t bytes;
  int n, n_peer;  // ranks; how many others are seen
} ti_window;

// bytes: the same on all ranks. within (the same on all ranks): 0: all that can be seen is; n: only ranks of the same run of n, as if each run were a
// host of its own; with 1 memory is this process's alone. Sight need not be mutual (a rank may lack descriptors to open others' windows with).
// Collective, bounded by ti_coll_set_timeout; c has been reserved for max(64, ranks) bytes a rank. Errors: NOMEM, or the collective's. A host that
// refuses to share is no error.
ti_status ti_window_create(ti_coll *c, size_t bytes, int within, ti_window *out, ti_error *err) TI_MUST_CHECK;
void ti_window_fini(ti_window *w);  // safe on a zeroed struct; the others keep what they have mapped

#endif
