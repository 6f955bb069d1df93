// A worker's engine: owns the device, this rank's weights, the KV pool and the slots; turns plans into results. One thread (the step loop).
//
// The worker is the authority on a slot (DESIGN 4): position, length, last token, counts and seeds live here, plans carry none of them.
#ifndef TI_WORKER_ENGINE_H
#define TI_WORKER_ENGINE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/mesh.h"
#include "base/status.h"
#include "base/trace.h"
#include "kernels/kernel.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "parallel/coll.h"
#include "parallel/expert/exchange.h"
#include "proto/wire.h"
#include "worker/spec/drafter.h"

typedef struct ti_engine ti_engine;

// Called with activations of the running batch, for goldens and debugging: what = "hidden" (layer 0 = embedding, n_layer = after the last norm),
// "logits", "moe.experts" / "moe.weights" (layer = the MoE layer's index among MoE layers), "mtp". Data: fp32 or int32, host memory, [n_row, dim].
typedef void (*ti_engine_tap)(void *arg, const char *what, int layer, const void *data, int n_row, int dim);

typedef struct ti_engine_config {
  const ti_config *model;
  const ti_checkpoint *ckpt;   // borrowed for the engine's life (weights may be used as stored)
  const ti_kernels *kernels;
  ti_dev_options dev;
  ti_mesh mesh;
  int worker;                  // index, 0-based
  ti_coll *tp;                 // this attention group, rank = tp index; borrowed
  ti_coll *world;              // all workers (MoE); borrowed, may be NULL for dense models
  uint32_t max_num_seqs;       // slots
  uint32_t max_num_batched_tokens;
  uint32_t max_model_len;
  uint32_t page_tokens;
  ti_dtype kv_dtype;
  uint64_t kv_bytes;           // size of the pool; the page count follows. 0: what the device has left of memory_share (backends that tell)
  double memory_share;         // of the device's memory, for all that the engine holds there; 0: 0.9
  bool memory_shared;          // others compute on the device too: what is in use there is not only ours
  bool quantize_fp8;           // linear layers' weights are made E4M3 at load (TI_WEIGHT_TO_FP8)
  bool eager;                  // nothing is recorded
  int n_redundant;             // expert slots beyond the experts, over all ranks (vLLM's --num-redundant-experts); 0: none
  bool mtp;                    // run MTP layers (their KV is then kept)
  bool deterministic;
  bool allow_nan;              // load weights that are NaN or infinite too
  int overlap;                 // two micro-batches: 0 off, 1 as the plan says
  const ti_drafter *drafter;   // of decode rows with max_draft > 0; borrowed, NULL: none (MTP off, one lane: see draft.h)
  ti_engine_tap tap;
  void *tap_arg;
  ti_trace *trace;
  const char *_Atomic *doing;  // set to a static text while the engine works ("layer 3: dispatch"), for heartbeats; may be NULL
} ti_engine_config;

// Loads weights (shards cut from the checkpoint) and sizes everything. Collective over tp and world.
ti_status ti_engine_create(const ti_engine_config *cfg, ti_engine **out, ti_error *err) TI_MUST_CHECK;
// Not after a step that failed in a collective while it has `abandoned` operations (coll.h): then leave with _exit. NULL is fine.
void ti_engine_destroy(ti_engine *e);

typedef struct ti_engine_facts {
  uint32_t n_slot, n_page, page_tokens, max_rows, max_context;
  uint64_t weight_bytes, kv_bytes;
  uint64_t scratch_bytes;  // device memory of activations, experts and the sampler
  uint32_t n_replica;      // redundant experts here, over all MoE layers
} ti_engine_facts;
void ti_engine_get_facts(const ti_engine *e, ti_engine_facts *out);

// ---- steps ----
// submit applies a plan to the slots and enqueues its work; collect waits for the oldest step in flight, takes its tokens into the slots and makes the
// result. On a device that runs beside the host the next step may be submitted before the one before is collected: ids that are still to come are fed
// on the device. Elsewhere a step is done when submit returns, and can_submit wants it collected first.
//
//   submit 7   submit 8 (feeds 7's tokens)   done? collect 7 -> result   submit 9   done? collect 8 ..
//
// Whether the plan may be submitted now. false: collect first (as many steps are in flight as may be, or the plan needs what they bring on the host).
bool ti_engine_can_submit(const ti_engine *e, const ti_step_plan *plan);
// Errors: TI_ERR_FORMAT (a plan that contradicts the slots: named), TI_ERR_ABORTED / TI_ERR_TIMEOUT (a collective; err says in which layer and for
// whom). The plan's memory is free on return.
ti_status ti_engine_submit(ti_engine *e, const ti_step_plan *plan, ti_error *err) TI_MUST_CHECK;
int ti_engine_in_flight(const ti_engine *e);
// The oldest step in flight: TI_OK: collect will not wait; TI_INPROGRESS; or what the device reports.
ti_status ti_engine_done(ti_engine *e);
// *out and its arrays lie in `arena` (reset by the caller between steps; no other allocation). The error names step and piece.
ti_status ti_engine_collect(ti_engine *e, ti_arena *arena, ti_step_result *out, ti_error *err) TI_MUST_CHECK;
// Both in one, with nothing in flight.
ti_status ti_engine_step(ti_engine *e, const ti_step_plan *plan, ti_arena *arena, ti_step_result *out, ti_error *err) TI_MUST_CHECK;
// Loads the copies of experts that the coordinator chose, in the background; results say when they are here (ti_step_result.placement), and the first
// plan that names the version puts them in force. A loading that fails is logged and leaves the version in use. Errors: TI_ERR_FORMAT, TI_ERR_RANGE.
ti_status ti_engine_stage(ti_engine *e, const ti_msg_placement *p, ti_error *err) TI_MUST_CHECK;
// Forgets all slots (a new epoch).
void ti_engine_reset(ti_engine *e);

#endif
