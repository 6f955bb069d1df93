// Results into token logs: checked against the plan they answer, whole, before anything moves. The loop thread.
#ifndef TI_COORDINATOR_RESULT_H
#define TI_COORDINATOR_RESULT_H
#include "coordinator/coord_priv.h"

// res came from the tp rank 0 of g. It must answer the oldest plan in flight. TI_ERR_STALE: another epoch. TI_ERR_FORMAT: it contradicts the plan
// (named); nothing was changed. O(rows + tokens).
ti_status ti_result_apply(ti_coord *c, ti_group *g, const ti_step_result *res, ti_error *err) TI_MUST_CHECK;

#endif
