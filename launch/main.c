// titan-serve: flags, MPI, and which kind of rank this is (rank.h). The only place that ends the process, with two exceptions that must: a signal
// before the loop runs (coordinate.c) and a step that never ends (work.c).
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "launch/rank.h"
#include "proto/wire.h"

// The launcher's word for rank or size, before MPI_Init: Open MPI, PMIx, Slurm. Else `otherwise`.
static int from_launcher(const char *const *names, int otherwise) {
  for (; *names; names++) {
    const char *v = getenv(*names);
    if (v && *v) return (int)strtol(v, NULL, 10);
  }
  return otherwise;
}

static ti_exit end_early(const ti_settings *job, ti_exit code, int rank, const char *doing, const char *message) {
  if (rank == 0) ti_rank_say_end(job, code, -1, "", doing, message);
  return code;
}

static ti_exit plan(ti_settings *job, int size) {
  ti_error err = {0};
  ti_config model;
  const int tp = job->flags.tp ? (int)job->flags.tp : 1, dp = job->flags.dp ? (int)job->flags.dp : 1;
  ti_status st = ti_config_load(job->flags.model, &model, &err);
  if (st) return end_early(job, TI_EXIT_MODEL, 0, "reading the model's config", err.text);
  st = ti_settings_decide(&job->flags, &model, size > 1 ? size - 1 : tp * dp, job, &err);
  if (st) return end_early(job, TI_EXIT_USAGE, 0, "planning", err.text);
  ti_settings_print_plan(job, &model, stdout);
  return TI_EXIT_FINE;
}

static ti_exit alone(const ti_settings *job) {
  char text[1400];
  snprintf(text, sizeof text,
           "one process is no cluster: rank 0 coordinates, every other rank computes. With one worker:\n"
           "  mpirun -np 2 titan-serve --model %s\n"
           "or launch/up.sh --workers 1 --model %s",
           job->flags.model, job->flags.model);
  return end_early(job, TI_EXIT_USAGE, 0, "starting", text);
}

// Rank 0: the job from flags and config. A failure travels in the report that follows.
static ti_status decide(ti_settings *job, ti_config *model, int workers, ti_exit *code, ti_error *err) {
  *code = TI_EXIT_MODEL;
  ti_status st = ti_config_load(job->flags.model, model, err);
  if (st) return st;
  *code = TI_EXIT_USAGE;
  st = ti_settings_decide(&job->flags, model, workers, job, err);
  if (st) return st;
  if (job->device_note[0]) ti_log_info("coordinator: workers compute on CPUs: %s", job->device_note);
  *code = TI_EXIT_INTERNAL;
  st = ti_wire_random(job->secret, sizeof job->secret);
  if (!st) st = ti_wire_random(&job->id, sizeof job->id);
  return st ? ti_error_set(err, st, "the kernel gives no random bytes") : TI_OK;
}

static ti_exit run(ti_settings *job, bool *lost) {
  ti_meet meet;
  ti_error err = {0};
  ti_config model;
  ti_exit code = TI_EXIT_FINE;
  ti_report v;
  if (ti_meet_init(&meet, &err)) return end_early(job, TI_EXIT_USAGE, 0, "starting", err.text);
  ti_log_set_rank(meet.rank);
  if (meet.size < 2) {
    code = alone(job);
    goto out;
  }
  const bool bad = meet.rank == 0 && decide(job, &model, meet.size - 1, &code, &err);
  ti_meet_report(&meet, bad ? code : TI_EXIT_FINE, code == TI_EXIT_MODEL ? "reading the model's config" : "deciding the job", err.text,
                 TI_RANK_SETTINGS_US, &v);
  if (v.exit) {
    *lost = v.lost;
    code = end_early(job, (ti_exit)v.exit, meet.rank, v.doing, v.message);
    goto out;
  }
  if (ti_meet_share(&meet, job, sizeof *job, 0, TI_RANK_SETTINGS_US, &err)) {
    *lost = true;
    code = end_early(job, TI_EXIT_CLUSTER, meet.rank, "sharing the job's settings", err.text);
    goto out;
  }
  ti_log_set_level((ti_log_level)job->flags.log_level);
  code = meet.rank ? ti_rank_work(&meet, job, lost) : ti_rank_coordinate(&meet, job, &model, lost);
out:
  ti_meet_fini(&meet);
  return code;
}

int main(int argc, char **argv) {
  static const char *const rank_names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", NULL}, *const size_names[] = {"OMPI_COMM_WORLD_SIZE",
                                                                                                                              "SLURM_NTASKS", NULL};
  const int rank = from_launcher(rank_names, 0), size = from_launcher(size_names, 1);
  static ti_settings job;
  ti_error err = {0};
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun's or slurmstepd's death is ours
  signal(SIGPIPE, SIG_IGN);
  if (ti_flags_parse(argc, argv, &job.flags, &err)) return end_early(&job, TI_EXIT_USAGE, rank, "reading the flags", err.text);
  if (job.flags.help || job.flags.version || job.flags.plan) {
    if (rank) return TI_EXIT_FINE;
    if (job.flags.plan && !job.flags.help && !job.flags.version) return plan(&job, size);
    if (job.flags.help) ti_flags_help(stdout);
    if (!job.flags.help) printf("titan-serve %s\n", TI_VERSION);
    return TI_EXIT_FINE;
  }
  sigset_t set;  // rank 0 has a thread that takes them; workers leave when rank 0 says so
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  int level = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS || level < MPI_THREAD_MULTIPLE)
    return end_early(&job, TI_EXIT_CLUSTER, rank, "starting MPI", "MPI_THREAD_MULTIPLE is needed; use Open MPI 4 or later");
  bool lost = false;
  const ti_exit code = run(&job, &lost);
  fflush(NULL);
  if (lost) _exit(code);  // after a death nobody calls MPI_Finalize
  MPI_Finalize();
  return code;
}
