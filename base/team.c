// The team of threads behind the CPU kernels (see team.h).
//
// Three gates, each a word that moves on by one and the threads that wait for it to move:
//
//   start    moved by run: a job is there          waited on by the workers
//   done     moved by the last worker to finish    waited on by run
//   meet     moved by the last thread to arrive    waited on by the rest, in ti_team_barrier
//
// A wait spins for SPIN_NS, then sleeps on a futex. Whoever moves a word makes the system call only when somebody sleeps. No wake-up is lost: a
// waiter counts itself in `sleepers` before the kernel compares the word, the mover moves the word before it reads `sleepers` (all sequentially
// consistent), so either the mover sees the sleeper or the kernel sees the new word. When there are more threads than CPUs nobody spins: it would
// keep the one that works from running. Workers are asleep when idle; their waits end with the team, which destroy ends.
#include "base/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

enum { SPIN_NS = 30000, SPIN_PAUSES = 32, TEAM_MAX = 1024, CACHE_LINE = 64 };

typedef struct gate {
  _Alignas(CACHE_LINE) _Atomic uint32_t word;
  _Atomic uint32_t sleepers;
} gate;

typedef struct member {
  ti_team *team;
  int index;
  pthread_t thread;
} member;

struct ti_team {
  gate start, done, meet;
  _Alignas(CACHE_LINE) _Atomic uint32_t working;  // workers that have not finished the job
  _Atomic uint32_t arrived;                       // threads in the barrier
  ti_team_fn fn;                                  // the job; NULL: leave
  void *arg;
  int n;
  uint64_t spin_ns;
  member members[];  // [1..n-1]; 0 is the caller
};

static void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns when g->word is no longer `old`.
static void gate_wait(gate *g, uint32_t old, uint64_t spin_ns) {
  if (atomic_load_explicit(&g->word, memory_order_acquire) != old) return;
  if (spin_ns) {
    const uint64_t until = ti_mono_ns() + spin_ns;
    do {
      for (int i = 0; i < SPIN_PAUSES; i++) {
        if (atomic_load_explicit(&g->word, memory_order_acquire) != old) return;
        cpu_pause();
      }
    } while (ti_mono_ns() < until);
  }
  atomic_fetch_add(&g->sleepers, 1);
  while (atomic_load(&g->word) == old) syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
  atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_move(gate *g) {
  atomic_fetch_add(&g->word, 1);
  if (atomic_load(&g->sleepers) > 0) syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *worker_main(void *arg) {
  const member *m = arg;
  ti_team *t = m->team;
  for (uint32_t seen = 0;; seen++) {
    gate_wait(&t->start, seen, t->spin_ns);
    if (!t->fn) return NULL;
    t->fn(t->arg, m->index, t->n);
    if (atomic_fetch_sub(&t->working, 1) == 1) gate_move(&t->done);
  }
}

// CPUs that the team may use: those of cpus (counted once each), else the process's mask.
static int count_cpus(const int *cpus, int n) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (!cpus) return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  for (int i = 0; i < n; i++) CPU_SET((size_t)cpus[i], &set);
  return CPU_COUNT(&set);
}

// The workers started so far leave.
static void stop_workers(ti_team *t, int started) {
  t->fn = NULL;
  gate_move(&t->start);
  for (int i = 1; i < started; i++) pthread_join(t->members[i].thread, NULL);
}

static ti_status start_worker(ti_team *t, int i, const int *cpus) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return TI_ERR_NOMEM;
  if (cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpus[i], &set);
    pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
  }
  t->members[i] = (member){.team = t, .index = i};
  const int rc = pthread_create(&t->members[i].thread, &attr, worker_main, &t->members[i]);
  pthread_attr_destroy(&attr);
  if (rc == 0) pthread_setname_np(t->members[i].thread, "titan-team");
  return rc == 0 ? TI_OK : cpus ? TI_ERR_ARG : TI_ERR_IO;
}

ti_status ti_team_pin(int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return TI_ERR_ARG;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)cpu, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0 ? TI_OK : TI_ERR_ARG;
}

ti_status ti_team_create(int n_threads, const int *cpus, ti_team **out) {
  if (n_threads < 1 || n_threads > TEAM_MAX) return TI_ERR_ARG;
  for (int i = 0; cpus && i < n_threads; i++)
    if (cpus[i] < 0 || cpus[i] >= CPU_SETSIZE) return TI_ERR_ARG;
  size_t bytes = sizeof(ti_team) + (size_t)n_threads * sizeof(member);
  bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  ti_team *t = aligned_alloc(CACHE_LINE, bytes);
  if (!t) return TI_ERR_NOMEM;
  *t = (ti_team){.n = n_threads, .spin_ns = n_threads > count_cpus(cpus, n_threads) ? 0 : SPIN_NS};

  // Signals are the main thread's: workers start with all of them blocked.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  ti_status st = TI_OK;
  int started = 1;
  while (started < n_threads && (st = start_worker(t, started, cpus)) == TI_OK) started++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (st != TI_OK) {
    stop_workers(t, started);
    free(t);
    return st;
  }
  *out = t;
  return TI_OK;
}

void ti_team_destroy(ti_team *t) {
  if (!t) return;
  stop_workers(t, t->n);
  free(t);
}

int ti_team_size(const ti_team *t) { return t->n; }

void ti_team_run(ti_team *t, ti_team_fn fn, void *arg) {
  if (t->n == 1) {
    fn(arg, 0, 1);
    return;
  }
  const uint32_t done = atomic_load_explicit(&t->done.word, memory_order_relaxed);
  t->fn = fn;
  t->arg = arg;
  atomic_store(&t->working, (uint32_t)t->n - 1);
  gate_move(&t->start);
  fn(arg, 0, t->n);
  gate_wait(&t->done, done, t->spin_ns);
}

void ti_team_barrier(ti_team *t) {
  const uint32_t round = atomic_load(&t->meet.word);  // cannot move before this thread has arrived
  if (atomic_fetch_add(&t->arrived, 1) + 1 < (uint32_t)t->n) {
    gate_wait(&t->meet, round, t->spin_ns);
    return;
  }
  atomic_store(&t->arrived, 0);
  gate_move(&t->meet);
}
