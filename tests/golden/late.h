// A backend for tests of what runs beside the host: the CPU's ops, queued when they are called and run when somebody waits. What a real device would
// make a race is an error here every time:
//
//   - device memory is one arena that the host cannot touch (PROT_NONE) but while the queue runs: a memcpy on it ends the program
//   - results are in host memory only after wait, sync, or a `done` that said so; it says "not yet" a few times first
//   - args are copied, with the batch they name, when an op is called; memory they point to is read when it runs
//
// Graphs are lists of ops; fp8_out and the fused forms are there, made of the CPU's plain ones.
#ifndef TI_TESTS_GOLDEN_LATE_H
#define TI_TESTS_GOLDEN_LATE_H
#include "kernels/kernel.h"

const ti_kernels *late_kernels(void);
// How often a graph was launched by any device so far, and how many were recorded.
int late_launches(void);
int late_recordings(void);
int late_chains(void);  // how many chains of products were taken
// Most marks that stood in a queue at once without having passed: how many steps were in flight.
int late_most_ahead(void);
// The next recordings fail.
void late_refuse_recording(bool yes);

#endif
