// A worker rank, from the job's settings to its exit code (see rank.h).
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "launch/device.h"
#include "launch/holdings.h"
#include "launch/pin.h"
#include "launch/rank.h"
#include "worker/worker.h"

typedef struct work {
  const ti_settings *job;
  ti_meet *meet;
  ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *tp, *world;
  ti_trace *trace;
  ti_worker *worker;
  ti_ngram_drafter drafter;
  ti_post post;
  ti_worker_device device;
  int *cpus;  // [threads] that compute threads are pinned to; NULL: they are not
} work;

static ti_exit model_exit(ti_status st) { return st == TI_ERR_ARG ? TI_EXIT_USAGE : ti_exit_of(st, TI_EXIT_MODEL); }

static ti_status open_model(work *w, ti_error *err) {
  const char *path = w->job->flags.model;
  ti_status st = ti_config_load(path, &w->model, err);
  if (!st) st = ti_checkpoint_open(path, &w->model, &w->ckpt, err);
  if (!st) st = ti_settings_check_weights(&w->model, w->ckpt, err);
  return st;
}

static ti_status open_colls(work *w, ti_error *err) {
  const ti_mesh *mesh = &w->job->mesh;
  const int self = w->meet->rank - 1, dp = ti_mesh_dp_of(mesh, self);
  int ranks[TI_MEET_RANKS];
  ti_coll_set_timeout((uint64_t)(w->job->flags.start_timeout * 1e6));  // another rank may still be reading its files
  for (int i = 0; i < mesh->tp; i++) ranks[i] = 1 + ti_mesh_worker(mesh, dp, i);
  ti_status st = mesh->tp == 1 ? ti_coll_self_create(&w->tp) : ti_coll_mpi_create(ranks, mesh->tp, 1 + dp, &w->tp, err);
  if (st || !w->model.moe.n_expert) return st;
  for (int i = 0; i < mesh->workers; i++) ranks[i] = 1 + i;
  return mesh->workers == 1 ? ti_coll_self_create(&w->world) : ti_coll_mpi_create(ranks, mesh->workers, 1 + mesh->dp, &w->world, err);
}

// The CPUs this process may use, shared with the other workers of its host.
static int threads_of(const work *w) {
  if (w->job->flags.threads) return (int)w->job->flags.threads;
  cpu_set_t set;
  const int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  const int n = cpus / (w->post.host_count > 0 ? w->post.host_count : 1);
  return n > 0 ? n : 1;
}

// Int8 is what products with block weights are made for: it bounds their error as the weights' own rounding does (docs/numerics.md).
static ti_act_quant act_quant_of(const work *w) {
  static const ti_act_quant said[] = {[TI_QUANT_NONE] = TI_ACT_NONE, [TI_QUANT_INT8] = TI_ACT_INT8, [TI_QUANT_FP8] = TI_ACT_FP8};
  if (w->job->flags.activation_quant != TI_QUANT_AUTO) return said[w->job->flags.activation_quant];
  ti_tensor t;
  for (int i = 0; i < w->ckpt->ops->count(w->ckpt); i++)
    if (!w->ckpt->ops->at(w->ckpt, i, &t) && ti_dtype_block(t.dtype) > 1) return TI_ACT_INT8;
  const bool fp8 = w->job->flags.quantization == TI_WEIGHTS_FP8;
  return fp8 || (w->job->device == TI_DEVICE_CUDA && w->model.weight_dtype == TI_E4M3) ? TI_ACT_FP8 : TI_ACT_NONE;
}

static ti_status find_device(work *w, ti_error *err) {
  const ti_settings *j = w->job;
  ti_holdings h;
  ti_status st = ti_holdings_of(&w->model, &j->mesh, (int)j->flags.redundant, w->meet->rank - 1, j->page_tokens, j->kv_dtype, &h, err);
  if (st) return st;
  const ti_device_wants wants = {.host_index = w->post.host_index,
                                 .host_count = w->post.host_count,
                                 .threads = threads_of(w),
                                 .weight_bytes = h.weights,
                                 .linear_bytes = w->model.weight_dtype == TI_E4M3 ? 0 : h.weights - h.weight[TI_HOLD_EMBED] - h.weight[TI_HOLD_SMALL]};
  return ti_device_find(j, &wants, &w->device, err);
}

// Not pinning is never an error: threads run where the kernel puts them, as before.
static void deal_cpus(work *w) {
  const int64_t wish = w->job->flags.pin_threads;
  const int threads = threads_of(w), workers = w->post.host_count > 0 ? w->post.host_count : 1;
  char text[128];
  if (wish == TI_SWITCH_OFF || w->job->device != TI_DEVICE_CPU) return;
  ti_pin_host *h = malloc(sizeof *h);
  int *cpus = malloc((size_t)threads * sizeof *cpus);
  if (!h || !cpus || ti_pin_read(h)) {
    ti_log_warn("worker: threads are not pinned: this host's CPUs cannot be told apart");
  } else if (wish == TI_SWITCH_AUTO && !ti_pin_unasked(h, workers, threads)) {
    ti_log_debug("worker: threads are not pinned: %d workers of %d threads on %d CPUs; --pin-threads pins them", workers, threads, h->n_cpu);
  } else if (!ti_pin_deal(h, workers, w->post.host_index, threads, cpus)) {
    ti_log_warn("worker: threads are not pinned: %d workers of %d threads are more than this host's %d CPUs", workers, threads, h->n_cpu);
  } else {
    ti_log_info("worker: %d thread%s pinned to CPU %s, of %d CPUs, %d cores, %d NUMA node%s (--no-pin-threads lets them move)", threads, threads == 1 ? "" : "s",
                ti_pin_text(cpus, threads, text, sizeof text), h->n_cpu, h->n_core, h->n_node, h->n_node == 1 ? "" : "s");
    w->cpus = cpus;
    cpus = NULL;
  }
  free(cpus);
  free(h);
}

static void overdue(void *arg, const char *doing) {
  const work *w = arg;
  ti_rank_say_end(w->job, TI_EXIT_CLUSTER, w->meet->rank, w->meet->self.host, doing,
                  "the coordinator is lost and this rank's step does not end; leaving");
  _exit(TI_EXIT_CLUSTER);
}

static ti_status open_worker(work *w, ti_error *err) {
  const ti_settings *j = w->job;
  ti_status st = find_device(w, err);
  if (!st) st = open_colls(w, err);
  if (st) return st;
  deal_cpus(w);
  if (j->speculative.max_draft) ti_ngram_drafter_init(&w->drafter, j->speculative.min_n, j->speculative.max_n);
  const ti_worker_config cfg = {
      .rank = (uint32_t)w->meet->rank,
      .address = w->post.address,
      .secret = j->secret,
      .secret_len = sizeof j->secret,
      .device = w->device.text,
      .host = w->meet->self.host,
      .start_us = (uint64_t)(j->flags.start_timeout * 1e6),
      .overdue = overdue,
      .arg = w,
      .engine = {.model = &w->model,
                 .ckpt = w->ckpt,
                 .kernels = w->device.kernels,
                 .dev = {.index = w->device.index, .threads = threads_of(w), .cpus = w->cpus, .act_quant = act_quant_of(w), .deterministic = j->deterministic},
                 .mesh = j->mesh,
                 .worker = w->meet->rank - 1,
                 .tp = w->tp,
                 .world = w->world,
                 .max_num_seqs = j->max_num_seqs,
                 .max_num_batched_tokens = j->max_num_batched_tokens,
                 .max_model_len = j->max_model_len,
                 .page_tokens = j->page_tokens,
                 .kv_dtype = j->kv_dtype,
                 .kv_bytes = j->kv_bytes,
                 .memory_share = j->flags.gpu_memory_utilization / w->device.sharers,
                 .memory_shared = w->device.sharers > 1,
                 .quantize_fp8 = j->flags.quantization == TI_WEIGHTS_FP8,
                 .eager = j->flags.enforce_eager,
                 .n_redundant = (int)j->flags.redundant,
                 .deterministic = j->deterministic,
                 .allow_nan = j->flags.allow_nan,
                 .overlap = ti_settings_two_batch_rows(j) > 0,
                 .drafter = j->speculative.max_draft ? &w->drafter.base : NULL,
                 .trace = w->trace},
  };
  st = ti_worker_create(&cfg, &w->worker, err);
  ti_coll_set_timeout(30000000);
  return st;
}

// Where every byte goes.
static void say_memory(const work *w) {
  ti_engine_facts f;
  ti_holdings h;
  char a[32], b[32], c[32], kinds[256] = "";
  size_t n = 0;
  ti_worker_get_facts(w->worker, &f);
  if (ti_holdings_of(&w->model, &w->job->mesh, (int)w->job->flags.redundant, w->meet->rank - 1, f.page_tokens, w->job->kv_dtype, &h, NULL)) return;
  for (int i = 0; i < TI_HOLD_COUNT && n < sizeof kinds; i++) {
    if (!h.weight[i]) continue;
    n += (size_t)snprintf(kinds + n, sizeof kinds - n, "%s%s %s", n ? ", " : "", ti_holding_name((ti_holding)i), ti_size_text(h.weight[i], a));
  }
  ti_log_info("worker: memory weights=\"%s\" as stored (%s), in the device's layout %s", ti_size_text(h.weights, a), kinds,
              ti_size_text(f.weight_bytes, b));
  ti_log_info("worker: memory kv=\"%s\" pages=%u of %u tokens, %s a token, scratch=\"%s\"", ti_size_text(f.kv_bytes, a), f.n_page, f.page_tokens,
              ti_size_text(h.page_bytes / f.page_tokens, b), ti_size_text(f.scratch_bytes, c));
}

static ti_exit fail(work *w, const ti_report *v, bool *lost) {
  *lost = v->lost;
  if (v->lost && v->rank == 0) ti_rank_say_end(w->job, (ti_exit)v->exit, w->meet->rank, w->meet->self.host, v->doing, v->message);
  return (ti_exit)v->exit;
}

static ti_exit serve(work *w, bool *lost) {
  ti_error err = {0};
  ti_report v;
  ti_status st = ti_worker_run(w->worker, &err);
  if (st) {
    const ti_exit code = ti_exit_of(st, TI_EXIT_INTERNAL);
    ti_log_error("worker: %s", err.text);
    *lost = true;
    return code;
  }
  ti_trace_destroy(w->trace);
  w->trace = NULL;
  ti_meet_report(w->meet, TI_EXIT_FINE, "leaving", "", TI_RANK_GOODBYE_US, &v);
  *lost = v.lost;
  return TI_EXIT_FINE;
}

ti_exit ti_rank_work(ti_meet *m, const ti_settings *job, bool *lost) {
  work w = {.job = job, .meet = m};
  ti_error err = {0};
  ti_report v;
  const uint64_t start_us = (uint64_t)(job->flags.start_timeout * 1e6);
  ti_status st = open_model(&w, &err);
  ti_exit code;
  ti_meet_report(m, model_exit(st), "opening the model", err.text, TI_RANK_SETTINGS_US, &v);
  if (v.exit) {
    code = fail(&w, &v, lost);
    goto out;
  }
  ti_meet_report(m, TI_EXIT_FINE, "opening the doors", "", TI_RANK_SETTINGS_US, &v);
  if (v.exit) {
    code = fail(&w, &v, lost);
    goto out;
  }
  st = ti_meet_share(m, &w.post, sizeof w.post, 0, TI_RANK_SETTINGS_US, &err);
  if (st) {
    ti_log_error("worker: %s", err.text);
    *lost = true;
    code = TI_EXIT_CLUSTER;
    goto out;
  }
  if (job->flags.trace[0] && ti_trace_create(job->flags.trace, m->rank, &w.trace))
    ti_log_warn("worker: no timeline: %s.rank%d cannot be written", job->flags.trace, m->rank);
  ti_trace_track(w.trace, 0, "step loop");
  const uint64_t t0 = ti_mono_us();
  st = open_worker(&w, &err);
  ti_meet_report(m, model_exit(st), "loading the model", err.text, start_us, &v);
  if (v.exit) {
    code = fail(&w, &v, lost);
    goto out;
  }
  ti_log_info("worker: loaded in %" PRIu64 " ms", (ti_mono_us() - t0) / 1000);
  say_memory(&w);
  code = serve(&w, lost);
out:
  ti_trace_destroy(w.trace);
  if (*lost) return code;  // the process ends without unwinding: a lost peer may still hold buffers
  ti_worker_destroy(w.worker);
  ti_coll_destroy(w.tp);
  ti_coll_destroy(w.world);
  ti_checkpoint_close(w.ckpt);
  free(w.cpus);
  return code;
}
