// Registration of the coordinator's metrics (see meter.h).
#include "coordinator/meter.h"

#include <stddef.h>
#include <stdio.h>

static const double latency[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160};
static const double token_time[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5};
static const double step_time[] = {1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5};

#define COUNT(a) (int)(sizeof(a) / sizeof((a)[0]))

typedef struct plain {
  ti_metric_kind kind;
  size_t at;
  const char *name, *help;
} plain;
typedef struct timed {
  size_t at;
  const double *bounds;
  int n;
  const char *name, *help;
} timed;

#define GAUGE(field, name, help) \
  { TI_METRIC_GAUGE, offsetof(ti_meter, field), name, help }
#define COUNTER(field, name, help) \
  { TI_METRIC_COUNTER, offsetof(ti_meter, field), name, help }
#define TIMED(field, bounds, name, help) \
  { offsetof(ti_meter, field), bounds, COUNT(bounds), name, help }

static const plain plains[] = {
    GAUGE(running, "vllm:num_requests_running", "Sequences that hold a slot."),
    GAUGE(waiting, "vllm:num_requests_waiting", "Sequences that wait for a slot and pages."),
    GAUGE(kv_usage, "vllm:kv_cache_usage_perc", "KV pages in use, 1 is all."),
    GAUGE(gpu_cache_usage, "vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc; the older name."),
    COUNTER(preemptions, "vllm:num_preemptions_total", "Sequences that lost their pages and were computed again."),
    COUNTER(prompt_tokens, "vllm:prompt_tokens_total", "Prompt tokens of requests admitted."),
    COUNTER(generation_tokens, "vllm:generation_tokens_total", "Generated tokens of finished choices, as their usage says."),
    GAUGE(pages_total, "titan_pages_total", "KV pages of all groups."),
    GAUGE(in_flight, "titan_plans_in_flight", "Plans whose results are not in yet."),
    COUNTER(bad_messages, "titan_bad_messages_total", "Messages of workers that were malformed or contradicted their plan, and were dropped."),
    COUNTER(bad_hellos, "titan_bad_hellos_total", "Connections that failed the handshake and were dropped."),
    COUNTER(draft_tokens, "vllm:spec_decode_num_draft_tokens_total", "Drafted tokens that were verified."),
    COUNTER(accepted_tokens, "vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens that were right."),
    COUNTER(stale_results, "titan_stale_results_total", "Results of another epoch, dropped."),
};
static const timed timeds[] = {
    TIMED(ttft, latency, "vllm:time_to_first_token_seconds", "From submission to the first token."),
    TIMED(itl, token_time, "vllm:inter_token_latency_seconds", "Between tokens of a choice."),
    TIMED(e2e, latency, "vllm:e2e_request_latency_seconds", "From submission to the end of the last choice."),
    TIMED(queue_time, latency, "vllm:request_queue_time_seconds", "From submission to the first slot."),
    TIMED(step, step_time, "titan_step_seconds", "A step on the first rank of a group."),
    TIMED(dispatch, step_time, "titan_step_dispatch_seconds", "Time in dispatch, a step."),
    TIMED(expert, step_time, "titan_step_expert_seconds", "Time in expert GEMMs, a step."),
    TIMED(combine, step_time, "titan_step_combine_seconds", "Time in combine, a step."),
    TIMED(exposed, step_time, "titan_step_exposed_seconds", "Communication that nothing hid, a step."),
    TIMED(plan_us, step_time, "titan_plan_seconds", "The coordinator's time to fill, encode and send a plan."),
};

ti_status ti_meter_init(ti_meter *x, ti_metrics *m, uint32_t n_worker, uint32_t n_group, ti_error *err) {
  static const char *const reasons[TI_FINISH_COUNT] = {
      [TI_FINISH_STOP] = "stop", [TI_FINISH_LENGTH] = "length", [TI_FINISH_CANCEL] = "abort", [TI_FINISH_ERROR] = "error"};
  *x = (ti_meter){0};
  if (!m) return TI_OK;
  ti_status st = TI_OK;
  char label[64];
  for (int i = 0; !st && i < COUNT(plains); i++)
    st = ti_metrics_add(m, plains[i].kind, plains[i].name, NULL, plains[i].help, (ti_metric **)(void *)((char *)x + plains[i].at));
  for (int i = 0; !st && i < COUNT(timeds); i++)
    st = ti_metrics_add_histogram(m, timeds[i].name, NULL, timeds[i].help, timeds[i].bounds, timeds[i].n,
                                  (ti_metric **)(void *)((char *)x + timeds[i].at));
  for (int i = TI_FINISH_STOP; !st && i < TI_FINISH_COUNT; i++) {
    snprintf(label, sizeof label, "finished_reason=\"%s\"", reasons[i]);
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "vllm:request_success_total", label, "Choices that ended, by reason.", &x->success[i]);
  }
  for (uint32_t i = 0; !st && i < n_group; i++) {
    snprintf(label, sizeof label, "group=\"%u\"", i);
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_pages_used", label, "KV pages in use.", &x->pages_used[i]);
  }
  for (uint32_t i = 1; !st && i <= n_worker; i++) {
    snprintf(label, sizeof label, "rank=\"%u\"", i);
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_rank_up", label, "1: the rank is welcome and was heard of in time.", &x->rank_up[i]);
  }
  return st ? ti_error_set(err, st, "metrics: cannot register the coordinator's") : TI_OK;
}
