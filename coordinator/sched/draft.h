// Whether a group's decode rows draft: switched by what it gains, measured, with a hysteresis.
//
//   on  on  on ... on | off off off off | on ...        every PERIOD decode steps, a PROBE of the other way
//
// A way's rate is tokens a microsecond over its last decode steps (exponentially weighted). The other way takes over when its rate is 5% better:
// speculation that pays at one stream can lose at 64 (reference: vLLM's Medusa, +20% at concurrency 1, -27% at 64). The loop thread; O(1).
#ifndef TI_COORDINATOR_SCHED_DRAFT_H
#define TI_COORDINATOR_SCHED_DRAFT_H
#include <stdbool.h>
#include <stdint.h>

typedef struct ti_draft_switch {
  bool on;         // the way that is in force
  uint32_t count;  // decode steps planned since the last change
  double rate[2];  // tokens a microsecond, [off], [on]; 0: not known
} ti_draft_switch;

// Starts with drafting on. The next decode step's way (moves the count): true: rows may draft.
void ti_draft_switch_init(ti_draft_switch *d);
bool ti_draft_switch_next(ti_draft_switch *d);
// A decode step that was planned with `drafting` gave n_token tokens in step_us.
void ti_draft_switch_learn(ti_draft_switch *d, bool drafting, uint32_t n_token, uint32_t step_us);

#endif
