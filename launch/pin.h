// Which CPUs a worker's compute threads stay on. hwloc tells cores and NUMA nodes apart; CPUs outside this process's mask (a cpuset, taskset, Slurm)
// do not exist here.
//
// The workers of a host deal its CPUs out to themselves, each by the same rule and without a word between them, so their sets are disjoint:
//
//   fewer threads than cores   one CPU a core; else all CPUs, core by core, so that a core's two belong to one worker
//   a worker at a time         from the node with the most CPUs left (the first of equals), and on from the next such node if that is not enough
//
//   2 nodes of 4 cores, 3 workers of 2 threads:   node 0: [0 0 2 2]   node 1: [1 1 . .]
//
// Set-up only; any thread.
#ifndef TI_LAUNCH_PIN_H
#define TI_LAUNCH_PIN_H
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct ti_pin_cpu {
  int cpu;   // Linux's number
  int core;  // ascending from 0, as all of it is sorted: node, core, cpu
  int node;
} ti_pin_cpu;

typedef struct ti_pin_host {
  ti_pin_cpu cpu[CPU_SETSIZE];
  int n_cpu, n_core, n_node;  // of those that this process may use
} ti_pin_host;

// TI_ERR_IO: hwloc or the kernel does not say.
ti_status ti_pin_read(ti_pin_host *out) TI_MUST_CHECK;
// The CPUs of worker `index` of `workers` with `threads` each -> cpus [threads]. false, nothing written: there are fewer CPUs than threads.
bool ti_pin_deal(const ti_pin_host *h, int workers, int index, int threads, int *cpus);
// Pin unasked? A pinned thread waits for its CPU where a free one would move, so only where moving costs much or there is room beside the threads:
//   one thread a core, on cores of several CPUs   the coordinator and everybody else have the siblings
//   several NUMA nodes, and all CPUs or cores     a thread that moves leaves its memory behind
// Never for a part of the cores: another server of this host would take the same ones.
bool ti_pin_unasked(const ti_pin_host *h, int workers, int threads);
// "0-3,8" of n CPUs in any order. Returns out; longer lists end in "..".
const char *ti_pin_text(const int *cpus, int n, char *out, size_t size);

#endif
