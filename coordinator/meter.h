// The coordinator's metrics: vLLM's names where one exists, titan_* else. All pointers are NULL without a registry; every helper takes NULL.
#ifndef TI_COORDINATOR_METER_H
#define TI_COORDINATOR_METER_H
#include "base/metrics.h"
#include "proto/wire.h"

enum { TI_METER_RANKS = 65, TI_METER_GROUPS = 64 };

typedef struct ti_meter {
  ti_metric *running, *waiting, *kv_usage, *gpu_cache_usage, *preemptions, *prompt_tokens, *generation_tokens;
  ti_metric *success[TI_FINISH_COUNT];
  ti_metric *ttft, *itl, *e2e, *queue_time;
  ti_metric *pages_used[TI_METER_GROUPS], *pages_total;
  ti_metric *step, *dispatch, *expert, *combine, *exposed, *plan_us, *in_flight, *rank_up[TI_METER_RANKS];
  ti_metric *bad_messages, *bad_hellos, *stale_results, *draft_tokens, *accepted_tokens;
} ti_meter;

// m may be NULL: nothing is registered. n_worker, n_group: series a rank and a group.
ti_status ti_meter_init(ti_meter *x, ti_metrics *m, uint32_t n_worker, uint32_t n_group, ti_error *err) TI_MUST_CHECK;
static inline void ti_meter_add(ti_metric *x, double v) {
  if (x) ti_metric_add(x, v);
}
static inline void ti_meter_set(ti_metric *x, double v) {
  if (x) ti_metric_set(x, v);
}
static inline void ti_meter_observe_us(ti_metric *x, uint64_t us) {
  if (x) ti_metric_observe(x, (double)us * 1e-6);
}

#endif
