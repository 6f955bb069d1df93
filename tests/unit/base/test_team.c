#include <criterion/criterion.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/team.h"

typedef struct job {
  ti_team *team;
  _Atomic int calls;
  int seen[8];  // each thread's own
  int sum[8];   // what each reads after the barrier
} job;

static void count(void *arg, int thread, int n) {
  job *j = arg;
  j->seen[thread]++;
  atomic_fetch_add(&j->calls, 1);
}

Test(team, every_thread_runs_every_job_once, .timeout = 120) {
  for (int n = 1; n <= 4; n++) {
    job j = {0};
    cr_assert_eq(ti_team_create(n, NULL, &j.team), TI_OK);
    cr_assert_eq(ti_team_size(j.team), n);
    for (int r = 1; r <= 10000; r++) {
      ti_team_run(j.team, count, &j);
      cr_assert_eq(atomic_load(&j.calls), r * n, "run came back early");
    }
    for (int i = 0; i < n; i++) cr_assert_eq(j.seen[i], 10000);
    ti_team_destroy(j.team);
  }
}

// Phase 1 writes, phase 2 reads what the others wrote, again and again: a barrier that lets one through early shows an old number.
static void phases(void *arg, int thread, int n) {
  job *j = arg;
  for (int k = 1; k <= 20; k++) {
    j->seen[thread] = k;
    ti_team_barrier(j->team);
    int sum = 0;
    for (int i = 0; i < n; i++) sum += j->seen[i];
    if (sum == k * n) j->sum[thread]++;
    ti_team_barrier(j->team);
  }
}

Test(team, barrier, .timeout = 120) {
  for (int n = 1; n <= 4; n++) {
    job j = {0};
    cr_assert_eq(ti_team_create(n, NULL, &j.team), TI_OK);
    for (int r = 0; r < 500; r++) ti_team_run(j.team, phases, &j);
    for (int i = 0; i < n; i++) cr_assert_eq(j.sum[i], 500 * 20);
    ti_team_destroy(j.team);
  }
}

Test(team, idle_threads_sleep) {
  job j = {0};
  cr_assert_eq(ti_team_create(2, NULL, &j.team), TI_OK);
  ti_team_run(j.team, count, &j);
  usleep(20000);
  struct rusage a, b;
  getrusage(RUSAGE_SELF, &a);
  usleep(300000);
  getrusage(RUSAGE_SELF, &b);
  const long us = (b.ru_utime.tv_sec - a.ru_utime.tv_sec) * 1000000 + b.ru_utime.tv_usec - a.ru_utime.tv_usec;
  cr_assert_lt(us, 30000);
  ti_team_run(j.team, count, &j);
  cr_assert_eq(atomic_load(&j.calls), 4);
  ti_team_destroy(j.team);
}

static void where(void *arg, int thread, int n) { ((job *)arg)->seen[thread] = sched_getcpu(); }

Test(team, threads_are_pinned) {
  cpu_set_t set;
  cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
  int cpus[2], n = 0;
  for (int c = 0; c < CPU_SETSIZE && n < 2; c++)
    if (CPU_ISSET((size_t)c, &set)) cpus[n++] = c;
  job j = {0};
  cr_assert_eq(ti_team_create(n, cpus, &j.team), TI_OK);
  cpu_set_t after;
  cr_assert_eq(sched_getaffinity(0, sizeof after, &after), 0);
  cr_assert(CPU_EQUAL(&set, &after), "the caller pins itself");
  cr_assert_eq(ti_team_pin(cpus[0]), TI_OK);
  cr_assert_eq(ti_team_pin(-1), TI_ERR_ARG);
  ti_team_run(j.team, where, &j);
  for (int i = 0; i < n; i++) cr_assert_eq(j.seen[i], cpus[i]);
  ti_team_destroy(j.team);
}

Test(team, sizes_and_cpus_that_there_are_not) {
  ti_team *t;
  cr_assert_eq(ti_team_create(0, NULL, &t), TI_ERR_ARG);
  cr_assert_eq(ti_team_create(100000, NULL, &t), TI_ERR_ARG);
  cr_assert_eq(ti_team_create(2, (int[]){0, -1}, &t), TI_ERR_ARG);
  cr_assert_eq(ti_team_create(2, (int[]){0, CPU_SETSIZE - 1}, &t), TI_ERR_ARG);
  ti_team_destroy(NULL);
}
