// What the gateway and the front door want of the coordinator, as a table: the coordinator's core in a server, a fake in tests and benchmarks.
#ifndef TI_COORDINATOR_GATEWAY_BACKEND_H
#define TI_COORDINATOR_GATEWAY_BACKEND_H
#include <stdint.h>

#include "base/status.h"
#include "coordinator/coordinator.h"

// All entries are mandatory, may be called by any thread and must not block. Semantics: ti_coord_submit, _cancel, _finish, _get_status.
typedef struct ti_backend {
  ti_status (*submit)(void *self, ti_request_spec *spec, uint64_t *id);
  void (*cancel)(void *self, uint64_t id);
  void (*finish)(void *self, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens);
  void (*status)(void *self, ti_coord_status *out);
  void *self;
} ti_backend;

ti_backend ti_backend_of_coord(ti_coord *c);  // c is borrowed

#endif
