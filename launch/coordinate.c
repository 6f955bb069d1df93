// Rank 0, from the job's settings to its exit code (see rank.h).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/trace.h"
#include "coordinator/coordinator.h"
#include "launch/control_ip.h"
#include "launch/doors.h"
#include "launch/rank.h"
#include "launch/sentry.h"

#define HEARTBEAT_US 2000000u
#define STEP_LIMIT_US 30000000u
#define LINGER_US 1200000u

typedef struct head {
  ti_meet *meet;
  const ti_settings *job;
  const ti_config *model;
  ti_text *text;
  ti_ctl_host *ctl;
  ti_metrics *metrics;
  ti_trace *trace;
  ti_coord *coord;
  ti_doors *doors;
  ti_sentry *sentry;
} head;

// A signal while ranks are loading: they see that this process is gone.
static void early(void *arg) {
  head *h = arg;
  ti_rank_say_end(h->job, TI_EXIT_FINE, 0, h->meet->self.host, "starting", "stopped by a signal before the cluster was ready");
  ti_ctl_host_close(h->ctl);  // takes the control directory away
  _exit(TI_EXIT_FINE);
}

static ti_status open_control(head *h, ti_error *err) {
  char ip[64] = "";
  for (int r = 1; r < h->meet->size && !ip[0]; r++) {
    if (!strcmp(h->meet->peer[r].host, h->meet->self.host)) continue;
    if (h->job->flags.control_ip[0]) {
      snprintf(ip, sizeof ip, "%s", h->job->flags.control_ip);
    } else {
      const ti_status st = ti_control_ip(h->meet->peer[r].host, ip, sizeof ip, err);
      if (st) return st;
    }
  }
  return ti_ctl_nng_host_open(&(ti_ctl_nng_config){.n_worker = (uint32_t)h->job->mesh.workers, .ip = ip[0] ? ip : NULL, .job = h->job->id}, &h->ctl,
                              err);
}

static ti_status open_coord(head *h, ti_error *err) {
  const ti_settings *j = h->job;
  const ti_coord_config cfg = {.mesh = j->mesh,
                               .clock = ti_clock_real(),
                               .ctl = h->ctl,
                               .secret = j->secret,
                               .secret_len = sizeof j->secret,
                               .vocab = (uint32_t)h->model->vocab,
                               .page_tokens = j->page_tokens,
                               .max_model_len = j->max_model_len,
                               .max_num_seqs = j->max_num_seqs,
                               .max_num_batched_tokens = j->max_num_batched_tokens,
                               .max_waiting = (uint32_t)j->flags.max_waiting,
                               .steps_in_flight = 2,
                               .two_batch_rows = ti_settings_two_batch_rows(j),
                               .max_draft = j->speculative.max_draft,
                               .lockstep = h->model->moe.n_expert > 0,
                               .n_moe_layer = h->model->moe.n_expert ? (uint32_t)(h->model->n_layer - h->model->moe.n_dense_layer) : 0,
                               .n_expert = (uint32_t)h->model->moe.n_expert,
                               .n_top = (uint32_t)h->model->moe.n_top,
                               .n_redundant = (uint32_t)j->flags.redundant,
                               .balance_tokens = (uint32_t)j->flags.balance_tokens,
                               .prefix_caching = j->flags.prefix_caching,
                               .policy = j->flags.scheduling_policy == TI_POLICY_PRIORITY ? "priority" : "fcfs",
                               .heartbeat_us = HEARTBEAT_US,
                               .step_limit_us = STEP_LIMIT_US,
                               .start_limit_us = (uint64_t)(j->flags.start_timeout * 1e6),
                               .linger_us = LINGER_US,
                               .metrics = h->metrics,
                               .trace = h->trace};
  return ti_coord_create(&cfg, &h->coord, err);
}

static ti_status open_all(head *h, ti_exit *code, ti_error *err) {
  *code = TI_EXIT_CLUSTER;
  ti_status st = open_control(h, err);
  if (st) return st;
  *code = TI_EXIT_INTERNAL;
  st = ti_metrics_create(&h->metrics);
  if (st) return ti_error_set(err, st, "no memory for metrics");
  const char *trace = h->job->flags.trace;
  if (trace[0] && ti_trace_create(trace, 0, &h->trace)) ti_log_warn("coordinator: no timeline: %s.rank0 cannot be written", trace);
  ti_trace_track(h->trace, 0, "coordinator loop");
  st = open_coord(h, err);
  if (st) return st;
  *code = TI_EXIT_USAGE;
  return ti_doors_open(h->job, h->text, h->coord, h->metrics, &h->doors, err);
}

// Each worker's address and its place among the workers of its host.
static ti_status share_posts(head *h, ti_error *err) {
  const int n = h->meet->size;
  ti_post *post = calloc((size_t)n, sizeof *post);
  if (!post) return ti_error_set(err, TI_ERR_NOMEM, "no memory for %d ranks", n);
  for (int r = 1; r < n; r++) {
    snprintf(post[r].address, sizeof post[r].address, "%s", ti_ctl_host_address(h->ctl, (uint32_t)r));
    for (int k = 1; k < n; k++) {
      if (strcmp(h->meet->peer[k].host, h->meet->peer[r].host)) continue;
      post[r].host_index += k < r;
      post[r].host_count++;
    }
  }
  const ti_status st = ti_meet_share(h->meet, post, sizeof *post, sizeof *post, TI_RANK_SETTINGS_US, err);
  free(post);
  return st;
}

static ti_exit ended(head *h, const ti_report *v, bool *lost) {
  *lost = v->lost;
  ti_rank_say_end(h->job, (ti_exit)v->exit, v->rank, v->host, v->doing, v->message);
  return (ti_exit)v->exit;
}

// The rank that a text of the coordinator's is about ("worker rank 2 died in step 7"); 0: none. Its status does not tell: others have left by now.
static int rank_in(const char *text) {
  static const char mark[] = "worker rank ";
  const char *at = strstr(text, mark);
  const long rank = at ? strtol(at + sizeof mark - 1, NULL, 10) : 0;
  return rank > 0 && rank < TI_MEET_RANKS ? (int)rank : 0;
}

static ti_exit serve(head *h, bool *lost) {
  ti_error err = {0};
  ti_report v;
  ti_sentry_watch(h->sentry, h->coord, ti_doors_url(h->doors));
  const ti_status st = ti_coord_run(h->coord, &err);
  if (st) {
    const ti_exit code = ti_exit_of(st, TI_EXIT_INTERNAL);
    const int rank = rank_in(err.text);
    ti_rank_say_end(h->job, code, rank, rank && rank < h->meet->size ? h->meet->peer[rank].host : h->meet->self.host, "serving",
                    err.text[0] ? err.text : ti_status_text(st));
    *lost = true;
    return code;
  }
  ti_doors_close(h->doors);
  h->doors = NULL;
  ti_trace_destroy(h->trace);
  h->trace = NULL;
  ti_meet_report(h->meet, TI_EXIT_FINE, "leaving", "", TI_RANK_GOODBYE_US, &v);
  *lost = v.lost;
  const char *trace = h->job->flags.trace;
  if (trace[0] && ti_trace_join(trace, h->meet->size, &err)) ti_log_warn("coordinator: %s", err.text);
  ti_rank_say_end(h->job, TI_EXIT_FINE, 0, h->meet->self.host, "serving", "drained");
  return TI_EXIT_FINE;
}

ti_exit ti_rank_coordinate(ti_meet *m, const ti_settings *job, const ti_config *model, bool *lost) {
  head h = {.meet = m, .job = job, .model = model};
  ti_error err = {0};
  ti_report v;
  ti_exit code = TI_EXIT_MODEL;
  ti_status st = ti_sentry_start(job, early, &h, &h.sentry, &err);
  if (!st) st = ti_text_open(job, model, &h.text, &err);
  ti_meet_report(m, st ? TI_EXIT_MODEL : TI_EXIT_FINE, "reading the tokenizer", err.text, TI_RANK_SETTINGS_US, &v);
  if (v.exit) {
    code = ended(&h, &v, lost);
    goto out;
  }
  st = open_all(&h, &code, &err);
  ti_meet_report(m, st ? code : TI_EXIT_FINE, "opening the doors", err.text, TI_RANK_SETTINGS_US, &v);
  if (v.exit) {
    code = ended(&h, &v, lost);
    goto out;
  }
  st = share_posts(&h, &err);
  ti_meet_report(m, st ? TI_EXIT_CLUSTER : TI_EXIT_FINE, st ? "sharing addresses" : "loading the model", err.text,
                 (uint64_t)(job->flags.start_timeout * 1e6), &v);
  code = v.exit ? ended(&h, &v, lost) : serve(&h, lost);
out:
  ti_sentry_stop(h.sentry);
  ti_doors_close(h.doors);
  ti_ctl_host_close(h.ctl);
  ti_coord_destroy(h.coord);
  ti_trace_destroy(h.trace);
  ti_metrics_destroy(h.metrics);
  ti_text_close(h.text);
  return code;
}
