// The timeline: Chrome JSON events ("X" spans, "i" instants, "C" counters) of all ranks on one clock.
//
// Each rank writes FILE.rankN (one event a line, from a ring that a flusher thread empties: a full ring drops events and counts them); at the end the
// coordinator joins them into FILE. Times are CLOCK_MONOTONIC microseconds plus the rank's offset to the coordinator's clock.
// pid = rank, tid = track (a small number named by ti_trace_track). Off (a NULL trace) costs one branch.
#ifndef TI_BASE_TRACE_H
#define TI_BASE_TRACE_H
#include <stdint.h>

#include "base/status.h"

typedef struct ti_trace ti_trace;

ti_status ti_trace_create(const char *file, int rank, ti_trace **out) TI_MUST_CHECK;
void ti_trace_destroy(ti_trace *t);  // flushes; NULL is fine
void ti_trace_set_offset(ti_trace *t, int64_t us);
void ti_trace_track(ti_trace *t, int tid, const char *name);
// name and cat are static strings; any thread; NULL trace = nothing. t0_ns, t1_ns from ti_mono_ns. step and layer < 0 are left out.
// t1_ns == t0_ns makes an instant.
void ti_trace_span(ti_trace *t, int tid, const char *name, const char *cat, uint64_t t0_ns, uint64_t t1_ns, int64_t step, int layer);
// What a piece of a step must do at least, for reports (category "cost"): one occurrence, the mean of those in the step. limit_us: how long the
// device needs for it at best, 0: not known.
typedef struct ti_trace_cost {
  const char *name;  // that of the piece's spans; static text
  int64_t step;
  int rows;
  double bytes, flops, limit_us;
} ti_trace_cost;
void ti_trace_costs(ti_trace *t, int tid, uint64_t t_ns, const ti_trace_cost *c);
void ti_trace_count(ti_trace *t, const char *name, uint64_t t_ns, double value);
// Joins FILE.rank0.. FILE.rank<n-1> (missing ones are skipped) into FILE, a JSON array that Perfetto reads, and removes the parts.
ti_status ti_trace_join(const char *file, int n_ranks, ti_error *err) TI_MUST_CHECK;

#endif
