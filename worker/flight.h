// A step in flight: what a submitted plan needs to be remembered for until its results are here, and the turning of those into slots and result rows.
//
//   submit    rows, jobs noted; ids that are drawn take their places in the slots as pending; downloads enqueued into `out`; the mark
//   (device)  ....
//   collect   ids fill the slots' places, which decides what ends; result rows
//
// Between the two the next step may be submitted. A row of it whose sequence turns out to have ended is void: its result row stays empty.
#ifndef TI_WORKER_FLIGHT_H
#define TI_WORKER_FLIGHT_H
#include "worker/sample/sampler.h"

typedef struct ti_flight_row {           // one sequence of the step
  uint32_t slot, plan_row, life, place;  // place: of the first id drawn
  uint32_t n_draft;
  int draw;              // first of 1 + n_draft jobs; -1: nothing is drawn
  int prompt, n_prompt;  // jobs of prompt logprobs
} ti_flight_row;

typedef struct ti_flight {
  uint64_t epoch, step, t0_ns;
  uint32_t n_plan_row, n_token, placement;
  int n_row, n_job;
  bool drafted;        // some row verifies drafts: how many ids come is not known before
  uint32_t *slot;      // [n_plan_row]
  ti_flight_row *row;  // [n_row]
  ti_sample_job *job;  // [n_job]
  ti_sample_out out;
} ti_flight;

ti_status ti_flight_init(ti_flight *f, const ti_kernels *k, ti_dev *d, uint32_t max_rows, uint32_t max_seqs) TI_MUST_CHECK;
void ti_flight_fini(ti_flight *f, const ti_kernels *k, ti_dev *d);  // safe on a zeroed struct
void ti_flight_begin(ti_flight *f, const ti_step_plan *plan);
// Notes a batch's sequences and what is to be sampled of them: jobs [*first, n_job). Moves the slots on: KV counts, pending ids.
void ti_flight_add(ti_flight *f, ti_slots *s, const ti_step_batch *b, int *first);
// The results are here: into slots, and rows [n_plan_row] for the coordinator, in the arena.
ti_status ti_flight_land(ti_flight *f, ti_slots *s, const ti_config *model, ti_arena *arena, ti_result_row **rows, ti_error *err) TI_MUST_CHECK;

#endif
