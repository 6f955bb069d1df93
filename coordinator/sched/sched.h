// The scheduler: fills one step's plan for one group.
//
//   budget  [ decodes ........ | chunks of running prefills | first chunks of the newly admitted ]    max_num_batched_tokens
//
// In the policy's order within each part. Pages are taken for the places that the plan's rows may write (and `lookahead` more). When they run out, a
// sequence preempts those after it that have no row in this plan, the last one first; when there are none it sits this plan out, keeping its pages.
// The first in order thus always moves, so that everything ends: no starvation, no deadlock. After a preemption or while a sequence sits out, nobody
// is admitted. A sequence that was preempted comes back only when all its pages are free at once, so that it is not preempted again at once. Cost:
// O(rows), plus O(log n) an admission. The loop thread.
#ifndef TI_COORDINATOR_SCHED_SCHED_H
#define TI_COORDINATOR_SCHED_SCHED_H
#include "coordinator/coord_priv.h"

// p is clear before. No rows: nothing can be done now; p need not be sent.
void ti_sched_fill(ti_coord *c, ti_group *g, ti_plan *p);
// Takes a running sequence's slot and pages; the next plan releases the slot. Its state is the caller's to set.
void ti_sched_remove(ti_group *g, ti_seq *s);

#endif
