// The tables that penalties need, on the device: how often a slot's sequence has each id, and which ids its prompt has.
//
//   out_count [n_slot, vocab] u16    raised by the `tokens` op after each draw, so that the next step, which may be submitted before the host knows
//   in_prompt [n_slot, vocab] u8     the id, penalises it all the same
//   counted   [n_slot] u8            whose ids are counted
//   last      [n_slot]               the id drawn last: what a pending id is fed from (kernel.h: feed)
//
// Owned by the engine, its thread. A slot's rows are zero but while a penalised sequence holds it.
#ifndef TI_WORKER_COUNTS_H
#define TI_WORKER_COUNTS_H
#include "kernels/kernel.h"
#include "worker/slots.h"

typedef struct ti_counts {
  const ti_kernels *k;
  ti_dev *d;
  uint32_t n_slot, vocab, n_counted;
  uint16_t *out_count;
  uint8_t *in_prompt, *counted;
  int32_t *last;
  uint8_t *h_counted;  // [n_slot]
  uint8_t *stage;      // [vocab * 3] one slot's rows on their way
  uint64_t device_bytes;
} ti_counts;

ti_status ti_counts_init(ti_counts *c, const ti_kernels *k, ti_dev *d, uint32_t n_slot, uint32_t vocab) TI_MUST_CHECK;
void ti_counts_fini(ti_counts *c);  // safe on a zeroed struct
// The plan's releases and assignments, which the slots have taken. Stream-ordered. O(vocab + ids) for each penalised sequence that comes or goes.
ti_status ti_counts_apply(ti_counts *c, const ti_slots *s, const ti_step_plan *plan) TI_MUST_CHECK;
ti_status ti_counts_reset(ti_counts *c) TI_MUST_CHECK;

#endif
