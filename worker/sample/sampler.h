// From hidden rows to tokens: logits, penalties, choice, logprobs, a tile of rows at a time.
//
//   rows of xn --gather--> [tile, hidden] --lm_head--> raw [tile, shard of vocab] --(all-gather over tp)--> raw [tile, vocab]
//     raw --copy when penalised--> work --penalties--> sample -> ids        raw -> logprobs of the chosen ids, top 20
//
// With tp > 1 a step whose rows need no whole vocabulary on a rank (greedy or plain temperature, no logprobs) samples each shard and takes the argmax
// over the ranks: Gumbel-max makes the choice an argmax, whatever the mesh. The plan's header says which (gather_logits), so that all ranks agree.
// The step loop's thread; nothing allocates after init but results in the step's arena.
#ifndef TI_WORKER_SAMPLE_SAMPLER_H
#define TI_WORKER_SAMPLE_SAMPLER_H
#include "base/arena.h"
#include "worker/graph/graph.h"

#define TI_SAMPLE_TILE 64
#define TI_SAMPLE_BIAS (TI_SLOT_BIAS + TI_MAX_EOS + TI_SLOT_STOP_IDS)  // a row: the request's, and what min_tokens holds back
#define TI_SAMPLE_NO_LOGPROB -9999.0f  // stands for -inf and NaN, which neither the wire nor JSON carries (vLLM's number)

typedef struct ti_sample_job {
  int row;             // of x
  uint32_t slot;
  int32_t target;      // >= 0: nothing is drawn, only the logprob of this id is wanted (prompt logprobs)
  uint32_t position;   // index of the drawn (or target) token in its sequence
  int n_logprob;       // -1: none
  // out
  int32_t id, rank;
  bool lost;           // no id could be drawn: all logits are -inf or no numbers
  float logprob;
  ti_top_logprob *top; // in the arena, when n_logprob > 0
} ti_sample_job;

typedef struct ti_sampler {
  ti_graph *g;
  ti_slots *slots;
  void *x;                 // [tile, hidden] act
  float *raw, *work, *shard;  // [tile, vocab]
  int32_t *index;          // device [tile]
  ti_sample_params *params, *h_params;  // [tile]
  int32_t *bias_id, *h_bias_id;         // [tile * TI_SAMPLE_BIAS]
  float *bias_value, *h_bias_value;
  int32_t *id, *rank, *target, *top_id; // device [tile], top [tile, 20]
  float *value, *logprob, *top_logprob;
  int32_t *h_id, *h_rank, *h_top_id;
  float *h_value, *h_logprob, *h_top_logprob;
  float *pair;             // host [ranks, tile, 2]
  void *host;
} ti_sampler;

ti_status ti_sampler_init(ti_sampler *s, ti_graph *g, ti_slots *slots, ti_error *err) TI_MUST_CHECK;
void ti_sampler_fini(ti_sampler *s);  // safe on a zeroed struct
// Jobs over the rows of x [.., hidden] (a lane's xn). gather: the plan's gather_logits. Collective over tp; the same on all its ranks.
ti_status ti_sampler_run(ti_sampler *s, const void *x, ti_sample_job *job, int n, bool gather, ti_arena *arena, ti_error *err) TI_MUST_CHECK;
// True when a slot's rows need the whole vocabulary on one rank.
bool ti_sampling_needs_gather(const ti_sampling *p);

#endif
