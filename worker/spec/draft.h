// Drafts for a plan's decode rows, and what becomes of them.
#ifndef TI_WORKER_SPEC_DRAFT_H
#define TI_WORKER_SPEC_DRAFT_H
#include "proto/wire.h"
#include "worker/slots.h"
#include "worker/spec/drafter.h"

// Sets n_draft of every slot that the plan decodes, and writes the drafts behind its ids. No drafts for sequences with penalties or a min_tokens
// still to reach (their logits depend on the tokens before), none beyond max_tokens, the context or the slot's pages.
void ti_draft_plan(ti_slots *s, const ti_drafter *d, const ti_step_plan *plan);
// After verification: `kept` of the slot's drafts were right. Adapts how many it is worth drafting next time.
void ti_draft_learn(ti_slot *t, uint32_t kept);

#endif
