// Slots: the sequences that this worker holds, and all that is known of each. The worker is the authority on them (DESIGN 4).
//
//   ids    [ prompt ........ | generated ... ]      n_prompt <= n_ids
//           <-- n_kv have KV -->                    KV is valid for tokens fed: n_kv <= n_ids (n_ids - 1 between decode steps)
//   table  [ page | page | ... ]                    place p of the KV lies in page table[p / page_tokens]
//
// Owned by the engine's thread. All memory is made by init; ids and tables are touched only as far as they are used.
#ifndef TI_WORKER_SLOTS_H
#define TI_WORKER_SLOTS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/wire.h"

// What the wire carries at most (proto/wire_priv.h): a plan that decodes must not be refused for these.
#define TI_SLOT_STOP_IDS 64
#define TI_SLOT_BIAS 1024
#define TI_SLOT_COLD 1e-6f  // temperatures below count as 0: logits divided by them overflow, and what is left of the draw is greedy anyway

typedef struct ti_slot {
  bool used, finished;  // finished: rows still planned for it are no-ops
  bool penalised;       // repetition, frequency or presence is on: the count tables are kept
  uint64_t request;
  uint64_t row_step;    // 1 + the step that last gave it a row: a step gives one at most
  uint32_t n_ids, n_kv, n_prompt, max_tokens, min_tokens;
  bool ignore_eos;
  uint32_t n_stop, n_bias, n_page;
  ti_sampling sampling;  // its bias arrays are unused; see bias_id
  uint32_t n_draft;      // of the step at hand, behind n_ids
  uint32_t draft_len;    // drafts that pay for this sequence: doubles when all are kept, halves when none is; 0: not tried yet
  int32_t *ids;          // [max_context]
  int32_t *table;        // [max_pages]
  uint32_t *stop;        // [TI_SLOT_STOP_IDS]
  int32_t *bias_id;      // [TI_SLOT_BIAS]
  float *bias_value;
} ti_slot;

typedef struct ti_slots {
  ti_slot *slot;  // [n_slot]
  uint32_t n_slot, max_context, max_pages, page_tokens, n_page, vocab;
  uint32_t lookahead;   // places beyond its rows that a step may write: 1 with an MTP layer
  uint16_t *out_count;  // [n_slot, vocab]
  uint8_t *in_prompt;   // [n_slot, vocab]
  void *mem;
} ti_slots;

// All memory, the count tables included, is the host's: a backend whose memory is not needs them on the device (docs/architecture.md, open points).
ti_status ti_slots_init(ti_slots *s, uint32_t n_slot, uint32_t max_context, uint32_t page_tokens, uint32_t n_page, uint32_t vocab) TI_MUST_CHECK;
void ti_slots_fini(ti_slots *s);
void ti_slots_reset(ti_slots *s);

// The plan's slot changes, in its order: releases, assignments, table deltas. A plan that contradicts the slots is TI_ERR_FORMAT with a text that
// names the entry; the slots before it have been changed.
ti_status ti_slots_apply(ti_slots *s, const ti_step_plan *plan, ti_error *err) TI_MUST_CHECK;
// Appends a generated token and says how the sequence stands: NONE, STOP (eos, a stop id) or LENGTH. O(1).
ti_finish ti_slot_push(ti_slots *s, uint32_t slot, int32_t id, const int *eos, int n_eos);
static inline uint32_t ti_slot_generated(const ti_slot *t) { return t->n_ids - t->n_prompt; }

#endif
