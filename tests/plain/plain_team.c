// links: ti_base
// Jobs and barriers over plain memory: the team's gates are all that orders it; fails on a wrong sum or (under TSan) a race.
#include <stdio.h>

#include "base/team.h"

enum { THREADS = 4, RUNS = 2000, ROUNDS = 5 };
typedef struct job {
  ti_team *team;
  long input;           // written by the caller between runs
  long part[THREADS];   // each thread's own
  long total[THREADS];  // of all parts, read after the barrier
} job;

static void work(void *arg, int thread, int n) {
  job *j = arg;
  for (int r = 0; r < ROUNDS; r++) {
    j->part[thread] = j->input + thread + r;
    ti_team_barrier(j->team);
    long sum = 0;
    for (int i = 0; i < n; i++) sum += j->part[i];
    j->total[thread] = sum;
    ti_team_barrier(j->team);
  }
}

static int check(int n) {
  job j = {0};
  if (ti_team_create(n, NULL, &j.team) != TI_OK) return 1;
  for (int r = 0; r < RUNS; r++) {
    j.input = r;
    ti_team_run(j.team, work, &j);
    const long want = (long)n * (r + ROUNDS - 1) + (long)n * (n - 1) / 2;
    for (int i = 0; i < n; i++) {
      if (j.total[i] == want) continue;
      fprintf(stderr, "%d threads, run %d: thread %d has %ld, not %ld\n", n, r, i, j.total[i], want);
      return 1;
    }
  }
  ti_team_destroy(j.team);
  return 0;
}

int main(void) {
  for (int n = 1; n <= THREADS; n++)
    if (check(n) != 0) return 1;
  return 0;
}
