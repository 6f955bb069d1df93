// The workers as the coordinator sees them: handshake, heartbeats, plans out, results in, deaths. The loop thread.
//
//   down -- UP: challenge --> challenged -- good Hello --> hello -- all ranks there: Welcome --> up -- GONE, late, hung: the coordinator fails
//     ^________ bad or late Hello, GONE: the address stays usable ___________|
#ifndef TI_COORDINATOR_CONTROL_H
#define TI_COORDINATOR_CONTROL_H
#include "coordinator/coord_priv.h"

void ti_control_event(ti_coord *c, const ti_ctl_event *ev);
// Lateness, hangs, handshakes that take too long. *next_us is lowered to when it must look again.
void ti_control_check(ti_coord *c, uint64_t *next_us);
// c->out to the tp ranks of a group. A rank that cannot take it is lost.
void ti_control_send_plan(ti_coord *c, const ti_group *g);
// c->out to every rank that is up but `except` (0: none).
void ti_control_broadcast(ti_coord *c, uint32_t except);
// A rank is lost: requests end, the others are told to abort, submits are refused. why: "died", "has not been heard of for 2.1 s".
void ti_control_lost(ti_coord *c, uint32_t rank, const char *why);

#endif
