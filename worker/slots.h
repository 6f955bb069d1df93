// Slots: the sequences that this worker holds, and all that is known of each. The worker is the authority on them (DESIGN 4).
//
//   ids    [ prompt ........ | generated ... | -1 ]  n_prompt <= n_ids
//           <-- n_kv have KV -->                     KV is valid for tokens fed: n_kv <= n_ids (n_ids - 1 between decode steps)
//   table  [ page | page | ... ]                     place p of the KV lies in page table[p / page_tokens]
//
// A step in flight draws a token that the host does not know yet: it has its place already (expect: TI_SLOT_PENDING), so that the next step can be
// planned with it, and what its count decides is decided. Once the id is here (fill) it may turn out to end the sequence: then rows that were planned
// with it are void.
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

#define TI_SLOT_PENDING (-1)  // an id that a step in flight draws

typedef struct ti_slot {
  bool used, finished;  // finished: rows still planned for it are no-ops
  bool stopped;         // finished by an id that came back: rows of it that are in flight are void
  bool penalised;       // repetition, frequency or presence is on: the count tables are kept (counts.h)
  uint32_t life;        // assignments and releases so far: tells whether a row in flight is still of this sequence
  uint32_t n_pending;   // ids still to come back
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
  uint32_t lookahead;  // places beyond its rows that a step may write: 1 with an MTP layer
  void *mem;
} ti_slots;

ti_status ti_slots_init(ti_slots *s, uint32_t n_slot, uint32_t max_context, uint32_t page_tokens, uint32_t n_page, uint32_t vocab) TI_MUST_CHECK;
void ti_slots_fini(ti_slots *s);
void ti_slots_reset(ti_slots *s);

// The plan's slot changes, in its order: releases, assignments, table deltas. A plan that contradicts the slots is TI_ERR_FORMAT with a text that
// names the entry; the slots before it have been changed.
ti_status ti_slots_apply(ti_slots *s, const ti_step_plan *plan, ti_error *err) TI_MUST_CHECK;
// The next token's place, which it takes as pending (a draft that stands there stays); the slot is finished when it is the last that may come. O(1).
uint32_t ti_slot_expect(ti_slots *s, uint32_t slot);
// The id that was drawn for `place`, and how the sequence stands with it: NONE, STOP (eos, a stop id) or LENGTH. O(1).
ti_finish ti_slot_fill(ti_slots *s, uint32_t slot, uint32_t place, int32_t id, const int *eos, int n_eos);
static inline uint32_t ti_slot_generated(const ti_slot *t) { return t->n_ids - t->n_prompt; }

#endif
