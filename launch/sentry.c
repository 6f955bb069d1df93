// Signals and readiness (see sentry.h). Asleep in sigwaitinfo once the cluster is ready; before, it looks every 10 ms.
#include "launch/sentry.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "launch/exit.h"

#define REPEAT_US 1000000u  // launchers and terminals may send one request twice

struct ti_sentry {
  const ti_settings *job;
  void (*early)(void *arg);
  void *arg;
  ti_coord *_Atomic coord;
  const char *url;
  _Atomic bool leaving;
  bool ready;
  uint64_t first_us;  // of the first signal; 0: none yet
  pthread_t thread;
  sigset_t set;
};

static void look_ready(ti_sentry *s, ti_coord *c) {
  static ti_coord_status st;  // large; one sentry a process
  ti_coord_get_status(c, &st);
  if (!st.ready || !st.healthy) return;
  s->ready = true;
  ti_log_info("coordinator: serving %s at %s", ti_settings_model_name(&s->job->flags), s->url);
  const char *file = s->job->flags.ready_file;
  if (file[0] && ti_text_file_write(file, s->url)) ti_log_error("coordinator: cannot write --ready-file %s", file);
}

static void on_signal(ti_sentry *s, ti_coord *c, int sig) {
  if (!c) s->early(s->arg);
  const uint64_t now = ti_mono_us();
  if (s->first_us && now < s->first_us + REPEAT_US) return;
  const double timeout = s->first_us ? 0 : s->job->flags.shutdown_timeout;
  s->first_us = now;
  ti_log_info("coordinator: signal %d: draining, at most %.1f s", sig, timeout);
  if (c) ti_coord_drain(c, (uint64_t)(timeout * 1e6));
}

static void *run(void *arg) {
  ti_sentry *s = arg;
  while (!atomic_load(&s->leaving)) {
    static const struct timespec soon = {.tv_nsec = 10000000};
    const int sig = s->ready ? sigwaitinfo(&s->set, NULL) : sigtimedwait(&s->set, NULL, &soon);
    ti_coord *c = atomic_load(&s->coord);
    if (atomic_load(&s->leaving)) break;
    if (sig > 0) on_signal(s, c, sig);
    if (c && !s->ready) look_ready(s, c);
  }
  return NULL;
}

ti_status ti_sentry_start(const ti_settings *job, void (*early)(void *arg), void *early_arg, ti_sentry **out, ti_error *err) {
  ti_sentry *s = calloc(1, sizeof *s);
  if (!s) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the signal thread");
  s->job = job;
  s->early = early;
  s->arg = early_arg;
  sigemptyset(&s->set);
  sigaddset(&s->set, SIGTERM);
  sigaddset(&s->set, SIGINT);
  sigaddset(&s->set, SIGUSR1);
  if (pthread_create(&s->thread, NULL, run, s)) {
    free(s);
    return ti_error_set(err, TI_ERR_IO, "cannot start the signal thread: raise the limit on processes (ulimit -u)");
  }
  *out = s;
  return TI_OK;
}

void ti_sentry_watch(ti_sentry *s, ti_coord *c, const char *url) {
  s->url = url;
  atomic_store(&s->coord, c);
}

void ti_sentry_stop(ti_sentry *s) {
  if (!s) return;
  atomic_store(&s->leaving, true);
  pthread_kill(s->thread, SIGUSR1);
  pthread_join(s->thread, NULL);
  if (s->ready && s->job->flags.ready_file[0]) unlink(s->job->flags.ready_file);
  free(s);
}
