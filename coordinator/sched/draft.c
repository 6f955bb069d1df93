#include "coordinator/sched/draft.h"

enum { PERIOD = 64, PROBE = 4 };
static const double BETTER = 1.05, WEIGHT = 0.125;

void ti_draft_switch_init(ti_draft_switch *d) { *d = (ti_draft_switch){.on = true}; }

bool ti_draft_switch_next(ti_draft_switch *d) {
  const bool probing = d->count % PERIOD >= PERIOD - PROBE;
  d->count++;
  return d->on != probing;
}

void ti_draft_switch_learn(ti_draft_switch *d, bool drafting, uint32_t n_token, uint32_t step_us) {
  if (n_token == 0 || step_us == 0) return;
  double *r = &d->rate[drafting];
  const double now = (double)n_token / step_us;
  *r = *r > 0 ? *r + WEIGHT * (now - *r) : now;
  if (d->rate[!d->on] > BETTER * d->rate[d->on] && d->rate[d->on] > 0) {
    d->on = !d->on;
    d->count = 0;
  }
}
