// The scheduling policy: a total order over sequences. Who stands first gets budget, pages and slots first; who stands last is preempted first.
#ifndef TI_COORDINATOR_SCHED_POLICY_H
#define TI_COORDINATOR_SCHED_POLICY_H
#include "base/status.h"
#include "coordinator/sched/heap.h"

typedef struct ti_sched_policy {
  const char *name;
  ti_heap_before before;  // over ti_seq.wait; strict and total: no two sequences are equal
} ti_sched_policy;

// "fcfs": in order of submission. "priority": the lower value first, then in order of submission. TI_ERR_ARG names those that there are.
ti_status ti_sched_policy_find(const char *name, const ti_sched_policy **out, ti_error *err) TI_MUST_CHECK;

#endif
