// What other threads may know: a copy of counters and ranks, published by the loop at most every 100 ms. Gauges of the registry are set with it.
#ifndef TI_COORDINATOR_STATUS_H
#define TI_COORDINATOR_STATUS_H
#include "coordinator/coord_priv.h"

// Publishes when it is time; *next_us is lowered to the next time. Never waits: a reader in the way puts it off to the next turn.
void ti_status_publish(ti_coord *c, uint64_t *next_us);

#endif
