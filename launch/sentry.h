// Rank 0's signal thread: SIGTERM, SIGINT and SIGUSR1 drain the coordinator; the ready file is written once the cluster serves.
#ifndef TI_LAUNCH_SENTRY_H
#define TI_LAUNCH_SENTRY_H
#include "coordinator/coordinator.h"
#include "launch/settings.h"

typedef struct ti_sentry ti_sentry;

// The signals are blocked in all threads already. Before ti_sentry_watch a signal calls early(arg), which ends the process.
ti_status ti_sentry_start(const ti_settings *job, void (*early)(void *arg), void *arg, ti_sentry **out, ti_error *err) TI_MUST_CHECK;
// From here on signals drain c: the first with --shutdown-timeout, the second at once. url goes to --ready-file when c is healthy. Borrowed.
void ti_sentry_watch(ti_sentry *s, ti_coord *c, const char *url);
void ti_sentry_stop(ti_sentry *s);  // joins; removes the ready file; NULL is fine

#endif
