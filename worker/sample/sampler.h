// From hidden rows to tokens: logits, penalties, choice, logprobs, a tile of rows at a time.
//
//   rows of xn --gather--> [tile, hidden] --lm_head--> raw [tile, shard of vocab] --(all-gather over tp)--> raw [tile, vocab]
//     raw --copy when penalised--> work --penalties--> sample -> ids        raw -> logprobs of the chosen ids, top 20
//
// Everything is enqueued on the device; results lie in a ti_sample_out of host memory once the step's mark is passed. The drawn ids stay on the device
// too, for the next step's rows and penalties (counts.h).
//
// With tp > 1 a step whose rows need no whole vocabulary on a rank (greedy or plain temperature, no logprobs) samples each shard and takes the argmax
// over the ranks: Gumbel-max makes the choice an argmax, whatever the mesh. The plan's header says which (gather_logits), so that all ranks agree.
// There the host waits for each tile.
// The step loop's thread; nothing allocates after init but results in the step's arena.
#ifndef TI_WORKER_SAMPLE_SAMPLER_H
#define TI_WORKER_SAMPLE_SAMPLER_H
#include "base/arena.h"
#include "worker/counts.h"
#include "worker/graph/graph.h"

#define TI_SAMPLE_BIAS (TI_SLOT_BIAS + TI_MAX_EOS + TI_SLOT_STOP_IDS)  // a row: the request's, and what min_tokens holds back
#define TI_SAMPLE_NO_LOGPROB -9999.0f  // stands for -inf and NaN, which neither the wire nor JSON carries (vLLM's number)

typedef struct ti_sample_job {
  int row;             // of x
  uint32_t slot;
  int32_t target;      // >= 0: nothing is drawn, only the logprob of this id is wanted (prompt logprobs)
  uint32_t position;   // index of the drawn (or target) token in its sequence
  int n_logprob;       // -1: none
  int tile, n_tile;    // out: its tile's first job and size, which say where its results lie
} ti_sample_job;

// A step's results, in memory of alloc_host. Of the tile of n jobs from job t on:
//   pick  [2 * t ..]        n ids | n values          prob [2 * t ..]        n logprobs | n ranks (int32)
//   top   [2 * 20 * t ..]   n x 20 ids | n x 20 logprobs
typedef struct ti_sample_out {
  int32_t *pick, *prob, *top;
  int max_job;
} ti_sample_out;

typedef struct ti_sampled {
  int32_t id, rank;
  bool lost;  // no id could be drawn: all logits are -inf or no numbers
  float logprob;
} ti_sampled;

typedef struct ti_sampler {
  ti_graph *g;
  const ti_slots *slots;
  const ti_counts *counts;
  int tile;                   // rows at once
  void *x;                    // [tile, hidden] act
  float *raw, *work, *shard;  // [tile, vocab]
  void *image;                // device: params | index | slot | target | bias ids | bias values of a tile
  void *h_image;              // the same, host
  int32_t *row;               // device [tile] 0, 1, ..
  int32_t *pick, *prob, *top; // device, as ti_sample_out has them
  float *h_shard;             // [tile, vocab + shard] host: logits on their way between ranks, where device memory is not the host's
  float *pair;                // host [ranks + 1, tile, 2]
} ti_sampler;

ti_status ti_sampler_init(ti_sampler *s, ti_graph *g, const ti_slots *slots, const ti_counts *counts, ti_error *err) TI_MUST_CHECK;
void ti_sampler_fini(ti_sampler *s);  // safe on a zeroed struct
ti_status ti_sample_out_init(ti_sample_out *o, const ti_kernels *k, ti_dev *d, int max_job) TI_MUST_CHECK;
void ti_sample_out_fini(ti_sample_out *o, const ti_kernels *k, ti_dev *d);  // safe on a zeroed struct
// job[first .. first + n) over the rows of x [.., hidden] (a lane's xn). gather: the plan's gather_logits. Collective over tp; the same on all its ranks.
ti_status ti_sampler_run(ti_sampler *s, const void *x, ti_sample_job *job, int first, int n, bool gather, ti_sample_out *out, ti_error *err) TI_MUST_CHECK;
// What came of job i, once the step's mark is passed.
ti_sampled ti_sample_result(const ti_sample_out *o, const ti_sample_job *job, int i);
// Its best ids, n_logprob of them.
void ti_sample_top(const ti_sample_out *o, const ti_sample_job *job, int i, ti_top_logprob *top);
// True when a slot's rows need the whole vocabulary on one rank.
bool ti_sampling_needs_gather(const ti_sampling *p);

#endif
