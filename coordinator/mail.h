// What other threads ask of the loop: their side (ti_coord_submit, cancel, finish, drain: coordinator.h) and the loop's.
#ifndef TI_COORDINATOR_MAIL_H
#define TI_COORDINATOR_MAIL_H
#include "coordinator/coord_priv.h"

void ti_mail_take(ti_coord *c, ti_mail *m);  // the loop's: does it and frees it

#endif
