// libtitan's connection: an NNG req0 socket with a context a call, so that calls of many threads do not wait for each other. Not installed.
#ifndef TI_CLIENT_LINK_H
#define TI_CLIENT_LINK_H
#include <stdint.h>

#include "base/arena.h"
#include "client/titan.h"
#include "proto/wire.h"

typedef struct ti_link ti_link;

// Fills *err (NULL is allowed) and returns code.
titan_status ti_link_fail(titan_error *err, titan_status code, const char *fmt, ...) TI_PRINTF(3, 4);

titan_status ti_link_open(const titan_options *o, ti_link **out, titan_error *err) TI_MUST_CHECK;
void ti_link_close(ti_link *l);  // NULL is fine
// Sends q (its id is set here) and waits at most timeout_ms for the reply of the same kind, decoded into arena. An ErrorReply becomes *err.
titan_status ti_link_call(ti_link *l, ti_client_request *q, uint32_t timeout_ms, ti_arena *arena, ti_client_reply *out,
                          titan_error *err) TI_MUST_CHECK;

#endif
