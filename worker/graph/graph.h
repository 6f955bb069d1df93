// The forward pass: layers built from pieces along the axes of the config. Attention: GQA or MLA. FFN: dense or MoE.
//
//   h  [n_row, hidden]  the residual stream, whole on every tp rank
//   t  [n_row, hidden]  what the last piece adds to it: summed over tp, added by the next norm (fused)
//
//   embed -> h   { norm(h += t) -> attention -> t, sum over tp;  norm(h += t) -> dense FFN -> t, sum over tp }   norm(h += t) -> xn -> head
//                                                              \  MoE: see moe.c
//
// Few rows on one rank: all between two attentions is one launch where the backend can (chain.c), and nothing is pending.
//
// One ti_lane is one micro-batch with its own activations; with two lanes their MoE layers alternate (forward.c). Nothing here allocates.
// Runs on the step loop's thread. Every failure names layer and piece in *err.
//
// On a backend that runs beside the host (ti_kernels.async) nothing here waits for it, but where ranks meet (tp > 1): their collectives are the host's,
// so what they sum goes down to host memory and up again. Decode batches that are laid out for a bucket are recorded once (record.c) and launched as
// one from then on.
#ifndef TI_WORKER_GRAPH_GRAPH_H
#define TI_WORKER_GRAPH_GRAPH_H
#include <stdatomic.h>
#include <stdbool.h>

#include "base/trace.h"
#include "parallel/coll.h"
#include "parallel/expert/exchange.h"
#include "worker/batch.h"
#include "worker/engine.h"
#include "worker/replicas.h"
#include "worker/weights.h"

#define TI_GRAPH_RANKS 64          // most tp ranks
#define TI_GRAPH_DEVICE_TRACK 9    // of the timeline: what the device does
#define TI_GRAPH_STAMP_EVERY 32  // of so many steps two, one after the other, are stamped on the device (--trace)
#define TI_GRAPH_WAIT_US 30000000  // bound of a wait for peers

typedef struct ti_piece_times { uint64_t attention_ns, ffn_ns, expert_ns, reduce_ns, head_ns; } ti_piece_times;

// Rows as E4M3 codes with a scale each 128 numbers, or int8 with one each 32, written by the op before where the backend can (ti_kernels.fp8_out, int8_out).
typedef struct ti_codes {
  uint8_t *q;    // [max_row, dim]; NULL: the backend cannot
  float *scale;  // [max_row rounded up to 4, ceil(dim / 128 or 32)], or K block by K block
} ti_codes;

typedef struct ti_recorded ti_recorded;  // record.c

typedef struct ti_lane {
  int index;           // 0, 1: the exchange's micro
  ti_step_batch batch;
  void *h, *xn, *t;    // [max_row, hidden] act
  void *wide;          // [max_row, widest] act: qkv | MLA's q, kv_a | gate_up
  void *wide2;         // [max_row, widest2] act: attention output | silu_mul's
  void *q_lat, *o_lat; // MLA [max_row, n_head, latent] act
  void *expert_out;      // [capacity, hidden] act, in flight until the combine is over; the exchange's memory
  float *router_logits;  // [own rows, n_expert]
  int32_t *experts;      // [own rows, n_top]
  float *route_weights;  // [own rows, n_top]
  long own0, own1;     // this tp rank's rows in MoE layers
  ti_codes xn8, act8;  // of xn [.., hidden]; of silu_mul's output [.., ffn width]
  bool pending;        // t is still to be added to h
  bool projected;      // the layer ahead has its q, k and v (chain.c),
  bool chained;        // the layer at hand its FFN
  int combining;       // the MoE layer whose combine is in flight, -1: none
} ti_lane;

// Workspace of MLA's expanded form: one tile of places, and the running sums of one sequence's rows.
#define TI_MLA_TILE 512         // places a tile; a multiple of 64
#define TI_MLA_EXPAND_ROWS 192  // runs of fewer rows are cheaper absorbed, at any context length (attention_mla.c)
typedef struct ti_mla_expanded {
  void *latent, *k_rope, *kv;  // [tile, latent], [tile, rope], [tile, n_head, nope + v] act; kv NULL: only the absorbed form is used
  float *acc, *state;          // [max_row, n_head, v], [max_row, n_head, 2]
} ti_mla_expanded;

typedef struct ti_graph {
  const ti_engine_config *cfg;
  const ti_config *c;
  const ti_kernels *k;
  ti_dev *d;
  ti_weights w;
  ti_kv_layout layout;
  void *kv;
  float *inv_freq;     // [rope.dim / 2]
  float attn_factor;
  ti_coll *tp;
  ti_exchange *exchange;      // NULL: dense
  ti_placement **placement;   // [n_moe] of the MoE layers, MTP's behind the main ones
  int n_moe;
  ti_replicas *replicas;      // NULL: no redundant experts
  void *expert_gate_up, *expert_act;  // [capacity, ..] act
  int expert_capacity;
  uint32_t *load;      // [MoE layers * local experts] rows since the last result
  uint32_t n_load;
  ti_lane lane[2];
  int n_lane, max_row;
  int n_lane_now;      // of the step at hand
  bool padded;         // the plan's form, for this step
  int64_t step;
  bool stamped;        // of this step the device's time is taken (ti_graph_step)
  double copy_rate;    // bytes read and written a second by a copy on the device, measured with --trace; 0: not known
  int layer;           // where the forward is, for errors
  ti_piece_times times;
  int sample_tile;     // rows of logits at once (sample/sampler.h)
  void *h_sum;         // host [max_row, hidden] act: t on its way between ranks, where device memory is not the host's; else NULL
  ti_recorded *recorded;  // NULL: nothing is recorded
  void *mtp_in;        // [max_row, 2 * hidden] act, NULL without MTP
  size_t act_bytes;    // of one activation
  uint64_t scratch_bytes;  // of ti_graph_alloc: activations, experts, the sampler
  ti_mla_expanded mla;
  void *tap_mem;       // host copy of what is tapped, NULL without a tap
} ti_graph;

// All but the KV pool, which takes what is left: init_kv is called once the rest of the engine has its memory.
ti_status ti_graph_init(ti_graph *g, const ti_engine_config *cfg, ti_dev *dev, ti_error *err) TI_MUST_CHECK;
ti_status ti_graph_init_kv(ti_graph *g, uint64_t *kv_bytes, ti_error *err) TI_MUST_CHECK;
uint32_t ti_graph_replicas(const ti_graph *g);  // redundant experts on this rank, over all MoE layers
void ti_graph_fini(ti_graph *g);  // safe on a zeroed struct
// Device memory that holds neither weights nor KV, counted in scratch_bytes. Set-up only; g->k->free takes it back. NULL: no memory.
void *ti_graph_alloc(ti_graph *g, size_t bytes);

// Runs all layers for the lanes' batches; afterwards lane.h holds the last layer's output and lane.xn the normed one, [n_row, hidden].
ti_status ti_graph_forward(ti_graph *g, int n_lane, ti_error *err) TI_MUST_CHECK;
// logits [n, n_vocab of this rank] fp32 of n normed rows x [n, hidden].
ti_status ti_graph_head(ti_graph *g, const void *x, int n, float *logits, ti_error *err) TI_MUST_CHECK;
// The first MTP layer over the rows of the lanes' batches, which ti_step_batch_shift has moved: ids are the tokens after each row. lane.xn still holds
// the main model's normed output; afterwards it holds shared_head.norm's output.
ti_status ti_graph_mtp(ti_graph *g, int n_lane, ti_error *err) TI_MUST_CHECK;

// ---- pieces: each reads lane.xn, leaves its addition in lane.t (pending) ----
typedef struct ti_qkv_args { ti_gemm_args gemm; ti_rope_append_args rope; } ti_qkv_args;
// q, k and v of all rows side by side in lane.wide, rotated, appended: all but gemm.x.
ti_qkv_args ti_graph_qkv_args(const ti_graph *g, const ti_lane *l, const ti_layer_weights *w, int layer);
// chain.c: norm to append of a layer; attention's output to the next layer's append (it sets chained and projected). TI_ERR_UNSUPPORTED: nothing is done.
ti_status ti_graph_chain_qkv(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
ti_status ti_graph_chain(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
ti_status ti_graph_attention_gqa(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
ti_status ti_graph_attention_mla(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
// x: [n_row, hidden]; x8: the same as codes, or NULL.
ti_status ti_graph_ffn(ti_graph *g, ti_lane *l, const ti_layer_weights *w, const void *x, const ti_codes *x8, int n_row, void *out);
// MoE in three parts, so that two lanes can alternate: route the rank's own rows and post their dispatch; wait, run the experts, post the combine
// (lane.combining); wait and put the layer's output into lane.h (whole again on every tp rank). end does nothing when no combine is in flight.
ti_status ti_graph_moe_begin(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
ti_status ti_graph_moe_experts(ti_graph *g, ti_lane *l, const ti_layer_weights *w, int layer);
ti_status ti_graph_moe_end(ti_graph *g, ti_lane *l);

// ---- shared by the pieces ----
static inline void *ti_row(const ti_graph *g, const void *x, long row, long dim) { return (char *)x + (size_t)row * (size_t)dim * g->act_bytes; }
// Lets what travels move on (MPI moves large messages only inside calls): between pieces of work. A failure shows at the micro's next wait.
static inline void ti_graph_progress(ti_graph *g) {
  if (g->exchange) (void)!ti_exchange_progress(g->exchange);
}
void ti_graph_doing(const ti_graph *g, const char *what);  // what: a static text
ti_status ti_graph_sum(ti_graph *g, ti_lane *l, int layer);  // t summed over the tp ranks
// h += t when pending; xn = norm(h), as codes (xn8) when `next`, which will be all that reads it, takes them; *x8: the codes, or NULL.
ti_status ti_graph_norm(ti_graph *g, ti_lane *l, const float *weight, const ti_weight *next, const ti_codes **x8);
// Whether products with w quantise their input, so that it may come as codes.
bool ti_graph_takes_codes(const ti_graph *g, const ti_weight *w);
ti_status ti_graph_all_reduce(ti_graph *g, void *x, size_t n);  // over the tp ranks, act
void ti_graph_tap(ti_graph *g, const char *what, int layer, const void *device, int n_row, int dim);  // fp32 or int32: 4 bytes each
// Begins and ends the device's side of a span (with --trace, where the backend stamps its stream).
void ti_graph_stamp(ti_graph *g, const char *name, int layer);
void ti_graph_stamp_end(ti_graph *g);
void ti_graph_spans_out(ti_graph *g);  // finished ones into the timeline
void ti_graph_step(ti_graph *g, int64_t step);  // a step begins: whether its spans are stamped
// cost.c: what the pieces of lane 0's batch must read, write and multiply, into the timeline, where the batch is a stamped decode step.
void ti_graph_costs_out(ti_graph *g);
void ti_graph_measure_copy(ti_graph *g);  // set-up
// record.c
ti_status ti_graph_record_init(ti_graph *g, ti_error *err);
void ti_graph_record_fini(ti_graph *g);
// The forward of lane 0's fixed batch as one recorded graph; TI_AGAIN: it cannot be recorded, run it plainly.
ti_status ti_graph_record_run(ti_graph *g, ti_error *err);
ti_status ti_graph_layers(ti_graph *g, int n_lane);  // embedding to last norm
void ti_graph_tap_act(ti_graph *g, const char *what, int layer, const void *device, int n_row, int dim);  // activations, given out as fp32
void ti_graph_span(ti_graph *g, const ti_lane *l, const char *name, uint64_t t0, int layer);

#endif
