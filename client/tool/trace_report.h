// Where the time of a recorded trace went: sums over the spans that workers write (base/trace.h), without a viewer.
//
// Pieces are span names of category "layer" (attention, route, dispatch, experts, ...); dispatch, combine and all-reduce are communication. Exposed
// is the part of communication during which the same rank computed nothing. Waiting: of one collective (step, layer, name, lane) the rank that began
// last is the one waited for; another rank waited from its own begin until then (or until its own end).
//
// Spans of category "device" are a GPU's, stamped in its stream. Its time between a span's end and the begin of the next one is idle: between steps
// where the next is a step's first piece (the embedding), else within one. Not every step is stamped (span_step of kernel.h): time between spans
// whose steps do not follow each other is not counted. Events of category "cost" say what the pieces of a stamped step must do: the step table
// (trace_steps.c).
#ifndef TI_CLIENT_TOOL_TRACE_REPORT_H
#define TI_CLIENT_TOOL_TRACE_REPORT_H
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

#define TI_TRACE_PIECES 32
#define TI_TRACE_DEAREST 10
#define TI_TRACE_RANKS 256
#define TI_TRACE_TABLES 8

typedef struct ti_trace_rank {
  int rank;  // as in the trace
  uint64_t n_step;
  double step_us, step_p50_us, step_p99_us;  // sum, percentiles
  double piece_us[TI_TRACE_PIECES];
  uint64_t piece_n[TI_TRACE_PIECES];
  double device_us, device_idle_us, device_gap_us;  // in spans; between steps; between the spans of a step
  double all_to_all_us, comm_us, exposed_us;        // dispatch + combine; all communication (union of spans); of it without computing
} ti_trace_rank;

typedef struct ti_trace_kind {  // device spans of one name
  char name[48];
  double us;
  uint64_t n;
} ti_trace_kind;

typedef struct ti_trace_piece {  // sums over a table's steps
  char name[48];
  int kind;  // of the device's, in order of their first appearance
  uint64_t n;
  double us, gap_us, bytes, flops, limit_us;
} ti_trace_piece;

typedef struct ti_trace_steps {  // decode steps of as many rows
  int rows, n_piece;
  uint64_t n_step, n_between, n_plain;
  double us, between_us;  // from a step's first begin to its last end; to the next step's begin, n_between times
  double plain_us;        // median of n_plain steps without stamps, by the host's clock
  ti_trace_piece piece[TI_TRACE_PIECES];
} ti_trace_steps;

typedef struct ti_trace_summary {
  char piece[TI_TRACE_PIECES][48];
  int n_piece, n_rank;
  uint64_t n_event;
  ti_trace_kind device[TI_TRACE_PIECES];  // of all ranks, dearest first
  int n_device;
  ti_trace_steps table[TI_TRACE_TABLES];
  int n_table;
  ti_trace_rank rank[TI_TRACE_RANKS];  // ascending
  double *wait_us;                     // [n_rank][n_rank]: row waited for column
} ti_trace_summary;

// One event a line, as ti_trace_join writes it. Fini *out in any case. TI_ERR_FORMAT names the line.
ti_status ti_trace_summarise(FILE *f, ti_trace_summary *out, ti_error *err) TI_MUST_CHECK;
void ti_trace_summary_fini(ti_trace_summary *s);
void ti_trace_print(const ti_trace_summary *s, FILE *to);
json_t *ti_trace_json(const ti_trace_summary *s);  // a new object

// ---- trace_steps.c ----
typedef struct ti_trace_span {  // of a device, sorted by rank and begin
  double t0, t1;
  int64_t step;
  int rank, kind;
} ti_trace_span;
typedef struct ti_trace_cost_event {  // of one span
  int64_t step;
  int rank, kind, rows;
  double bytes, flops, limit_us;
} ti_trace_cost_event;
typedef struct ti_trace_host_step {
  int64_t step;
  int rank;
  double us;
} ti_trace_host_step;
void ti_trace_sum_steps(ti_trace_summary *s, const ti_trace_span *v, size_t n, ti_trace_cost_event *c, size_t n_cost);  // sorts c
void ti_trace_plain_steps(ti_trace_summary *s, const ti_trace_host_step *v, size_t n, const ti_trace_cost_event *c, size_t n_cost);
void ti_trace_print_steps(const ti_trace_summary *s, FILE *to);
json_t *ti_trace_json_steps(const ti_trace_summary *s);

#endif
