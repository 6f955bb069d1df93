// A performance model of one step: what a rank of W computes and sends, at the speeds of a table.
//
//   matrix    max(FLOP / rate(rows), bytes of weights / memory) + launch      rate: a table by rows, straight lines between its points
//   experts   the same, over the experts that get a row: n (1 - (1 - top / n_expert)^tokens) of them, with their mean rows
//   attention max(FLOP / rate, bytes of KV / memory)                          MLA absorbed: 2 (latent + rope + latent) FLOP a head and place
//   all-to-all, one way: latency + bytes to other ranks / link; a row goes once to each rank that holds one of its experts
//
// Attention is data-parallel (tp 1) and experts are split over all ranks, as TitanInfer serves MLA. Pure functions of their arguments.
#ifndef TI_BENCHMARKS_PREDICT_H
#define TI_BENCHMARKS_PREDICT_H
#include "model/config.h"

enum { RATE_POINTS = 6 };

typedef struct machine {
  const char *name;
  double rows[RATE_POINTS], gflops[RATE_POINTS];                // of a matrix product; rows ascending
  double expert_rows[RATE_POINTS], expert_gflops[RATE_POINTS];  // of a grouped one, by rows an expert
  double memory_gbs;                                            // weights and KV
  double attention_gflops[2];                                   // decode (one row a sequence), prefill
  double launch_us;                                             // of one kernel
  double row_ns;                         // of everything per row and layer that is no matrix product: norms, RoPE, routing, sorting
  double latency_us[2], link_gbs[2];     // all-to-all: dispatch, combine
  double dispatch_bytes, combine_bytes;  // of one number on the wire
  double act_row_bytes;                  // of one number of activation
  double hbm_gb;                         // usable; 0: not a matter
  int node_ranks;                        // > 1: a row goes once to each node of so many ranks, and to no more nodes than routing has top groups
  int copies_self;                       // rows for the own rank cost what others' do (a copy through memory)
} machine;

typedef struct workload {
  int ranks;
  double rows, seqs;  // on one rank: rows of the step, sequences they belong to
  double context;     // places that a row attends, in the mean
  int prefill;
} workload;

typedef struct prediction {  // microseconds of one step
  double dense, attention, experts, other, dispatch, combine, total;
  double share;       // of the all-to-all in total
  double overlapped;  // total when the all-to-all hides under what a second micro-batch computes, as far as it can
} prediction;

typedef struct footprint {  // one rank
  double weight_bytes, expert_bytes, kv_token_bytes;
} footprint;

void predict(const ti_config *c, const machine *m, const workload *w, prediction *out);
void measure_footprint(const ti_config *c, int ranks, footprint *out);

#endif
