// The backend table over the coordinator's core (see backend.h).
#include "coordinator/gateway/backend.h"

static ti_status submit(void *self, ti_request_spec *spec, uint64_t *id) { return ti_coord_submit(self, spec, id); }
static void cancel(void *self, uint64_t id) { ti_coord_cancel(self, id); }
static void finish(void *self, uint64_t id, uint32_t choice, ti_finish reason, uint32_t n_tokens) {
  ti_coord_finish(self, id, choice, reason, n_tokens);
}
static void status(void *self, ti_coord_status *out) { ti_coord_get_status(self, out); }

ti_backend ti_backend_of_coord(ti_coord *c) {
  return (ti_backend){.submit = submit, .cancel = cancel, .finish = finish, .status = status, .self = c};
}
