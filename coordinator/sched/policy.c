// The policies that there are (see policy.h).
#include "coordinator/sched/policy.h"

#include <string.h>

#include "coordinator/request.h"

static bool fcfs_before(const ti_heap_node *x, const ti_heap_node *y) {
  const ti_seq *a = ti_seq_of_wait(x), *b = ti_seq_of_wait(y);
  if (a->req->spec->id != b->req->spec->id) return a->req->spec->id < b->req->spec->id;
  return a->choice < b->choice;
}

static bool priority_before(const ti_heap_node *x, const ti_heap_node *y) {
  const ti_seq *a = ti_seq_of_wait(x), *b = ti_seq_of_wait(y);
  if (a->req->spec->priority != b->req->spec->priority) return a->req->spec->priority < b->req->spec->priority;
  return fcfs_before(x, y);
}

static const ti_sched_policy policies[] = {{.name = "fcfs", .before = fcfs_before}, {.name = "priority", .before = priority_before}};

ti_status ti_sched_policy_find(const char *name, const ti_sched_policy **out, ti_error *err) {
  for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
    if (name && strcmp(name, policies[i].name) == 0) {
      *out = &policies[i];
      return TI_OK;
    }
  }
  return ti_error_set(err, TI_ERR_ARG, "scheduling policy \"%s\": expected fcfs or priority", name ? name : "");
}
