// A team of threads that runs one function at a time: fork, join, barrier. Used by the CPU kernels.
//
// Not OpenMP: measured, a GEMM of 20-60 us took up to 16 ms in OpenMP's barrier on a machine with fewer free cores than threads. Here a worker spins
// for a bounded time, then sleeps on a futex; a team of one runs the function in place.
#ifndef TI_BASE_TEAM_H
#define TI_BASE_TEAM_H
#include "base/status.h"

typedef struct ti_team ti_team;
typedef void (*ti_team_fn)(void *arg, int thread, int n_threads);

// 1 <= n_threads <= 1024, the caller being thread 0. cpus: n_threads CPU numbers to pin to, or NULL. The caller stays free, so that threads that it
// starts are: it pins itself to cpus[0] (ti_team_pin) when it has started all.
// TI_ERR_ARG: a size or a CPU that there is not; TI_ERR_NOMEM; TI_ERR_IO: no more threads.
ti_status ti_team_create(int n_threads, const int *cpus, ti_team **out) TI_MUST_CHECK;
void ti_team_destroy(ti_team *t);  // NULL is fine
// This thread to one CPU, for good. TI_ERR_ARG: a CPU that this process may not use.
ti_status ti_team_pin(int cpu) TI_MUST_CHECK;
int ti_team_size(const ti_team *t);
// Runs fn(arg, i, n) on every thread, returns when all are done. Not reentrant; one caller at a time. No malloc, no syscall while threads spin.
void ti_team_run(ti_team *t, ti_team_fn fn, void *arg);
// Inside fn: all threads of the team meet.
void ti_team_barrier(ti_team *t);

#endif
