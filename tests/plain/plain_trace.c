// links: ti_base
// Threads that record while others name tracks and the flusher writes; TSan looks at the ring's cells.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/trace.h"

enum { THREADS = 3, EVENTS = 20000 };
static ti_trace *trace;

static void *record(void *arg) {
  const int tid = (int)(intptr_t)arg;
  ti_trace_track(trace, tid, "recorder");
  for (int i = 0; i < EVENTS; i++) {
    ti_trace_span(trace, tid, "work", "test", 1000, 2000, i, -1);
    if (i % 1000 == 0) ti_trace_set_offset(trace, i);
  }
  return NULL;
}

int main(void) {
  char dir[] = "/tmp/ti_trace_XXXXXX", file[64];
  if (!mkdtemp(dir)) return 1;
  snprintf(file, sizeof(file), "%s/t", dir);
  if (ti_trace_create(file, 0, &trace) != TI_OK) return 1;
  pthread_t t[THREADS];
  for (intptr_t i = 0; i < THREADS; i++)
    if (pthread_create(&t[i], NULL, record, (void *)i) != 0) return 1;
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  ti_trace_destroy(trace);
  ti_error err = {0};
  if (ti_trace_join(file, 1, &err) != TI_OK) {
    fprintf(stderr, "%s\n", err.text);
    return 1;
  }
  unlink(file);
  rmdir(dir);
  return 0;
}
