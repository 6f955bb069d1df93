// A plan in the making and in flight: the message's arrays, all sized at start, and what each row stands for until its result comes.
//
//   msg.row   [ slot 9 decode | slot 3 decode | slot 7 prefill 512 ]
//   kept      [ seq, place    | seq, place    | seq, place         ]     the result's rows come in this order
//
// At most one assignment, one table delta, one copy and one row a sequence. Table deltas borrow the sequence's page table, a fresh assignment borrows
// the request's ids: good until the plan is encoded, which is before anything else happens.
#ifndef TI_COORDINATOR_PLAN_H
#define TI_COORDINATOR_PLAN_H
#include "coordinator/request.h"

typedef struct ti_plan_kept {
  ti_seq *seq;
  uint32_t place0;  // of its first token
  bool ends;        // nothing is to be generated: the sequence is finished when this row's result is in (max_tokens 0)
} ti_plan_kept;

typedef struct ti_plan {
  ti_step_plan msg;
  ti_plan_kept *kept;    // [msg.n_row]
  uint32_t n_token;      // of all rows, drafts included
  bool drafting;         // decode rows may draft
  bool prefill, gather;  // some row is no decode; some row needs the whole vocabulary
  uint32_t n_assigned;   // ids in all assignments, those of biases and stops too
  uint32_t *ids;         // of resumed sequences: prompt and generated, one after the other
  uint32_t n_ids, max_ids;
  void *mem;
} ti_plan;

// For max_seqs sequences; resumed ones of up to max_context tokens: one fits always.
ti_status ti_plan_init(ti_plan *p, uint32_t max_seqs, uint32_t max_context) TI_MUST_CHECK;
void ti_plan_fini(ti_plan *p);
void ti_plan_clear(ti_plan *p);
// Whether the assignment of s still fits: in the message, and in ids[] when it is resumed. The first always does.
bool ti_plan_has_room(const ti_plan *p, const ti_seq *s);
void ti_plan_add_assign(ti_plan *p, const ti_seq *s, uint32_t n_cached);
void ti_plan_add_pages(ti_plan *p, const ti_seq *s, uint32_t first);
void ti_plan_add_copy(ti_plan *p, uint32_t src, uint32_t dst, uint32_t n_token);
// The next n tokens of s and, in decode, up to max_draft drafts; moves s->n_kv, s->n_pending and s->n_draft.
void ti_plan_add_row(ti_plan *p, ti_seq *s, uint32_t n_token, bool decode, uint32_t max_draft);

#endif
