// Drives engines without a coordinator: a fixed set of sequences, run to their ends under chosen page size, chunk length, batch width and preemptions.
// On a mesh every rank runs the driver: the ranks of one attention group on the same sequences, so that they build the same plans, other groups on
// others. With `world` the groups step in lockstep and agree on the plan's header before each step; a group that is done runs empty plans until all are.
#ifndef TI_TESTS_GOLDEN_DRIVER_H
#define TI_TESTS_GOLDEN_DRIVER_H
#include "worker/engine.h"

typedef struct drive_seq {
  const uint32_t *prompt;
  uint32_t n_prompt, max_tokens;
  uint32_t golden;     // which golden prompt this is
  ti_sampling sampling;
  bool ignore_eos;
  // out
  uint32_t *out;       // [max_tokens], malloc'ed by drive_run
  float *logprob;      // [max_tokens] of the chosen ids, when sampling.n_logprob >= 0
  uint32_t n_out, n_accepted;  // drafts that were kept
  uint32_t *prompt_rank;  // [n_prompt_rank] of prompt tokens 1.., malloc'ed likewise
  uint32_t n_prompt_rank;
  double prompt_nll;   // sum of -logprob of prompt tokens 1.., when sampling.n_prompt_logprob >= 0
  ti_finish finish;
} drive_seq;

typedef struct drive_options {
  uint32_t chunk;      // prefill tokens a step and sequence; 0: all
  uint32_t batch;      // sequences at once
  uint32_t preempt;    // every so many steps a running sequence is released and assigned again with all its ids; 0: never
  uint32_t n_micro;    // 1 or 2
  uint32_t lookahead;  // places beyond the rows (1 with MTP)
  uint32_t placement;  // the version that plans name
  bool scatter;          // hand out pages in a scrambled order
  ti_coll *world;      // MoE on a mesh: all workers; reserved for `size` times 12 bytes. NULL: the group is alone
  uint32_t max_draft;  // drafts a decode row may verify
  uint32_t flight;     // steps in flight: 0 and 1: one after the other; 2: plans for tokens that are not known yet, as the coordinator makes them
} drive_options;

// 0, or prints what went wrong and returns 1.
int drive_run(ti_engine *e, drive_seq *seq, uint32_t n_seq, const drive_options *o);
void drive_free(drive_seq *seq, uint32_t n_seq);
ti_sampling drive_greedy(void);  // temperature 0, no logprobs

#endif
