// conformance.gpu: runs the suite on one backend.
//
//   conformance.gpu [-jN] [--in-process] [--list] [--backend NAME] [FILTER ..]     FILTER: part of "suite.test"; any of them
//
// Each test runs in a child (a CUDA context of its own; a crash or a hang costs that test alone), N at a time; --in-process runs them one by one
// here; --list prints their names. Exit status: 0 all passed, 1 some failed, 77 the backend is not on this host.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "criterion/criterion.h"
#include "kernels/kernel.h"

enum { TIMEOUT_S = 240, MAX_JOBS = 64 };

static plain_test *tests;
static jmp_buf failed;
static bool in_process;
static const char *running;

void plain_add(plain_test *t) {
  plain_test **p = &tests;
  while (*p) p = &(*p)->next;
  *p = t;
}

void plain_fail(const char *file, int line, const char *what, const char *format, ...) {
  const char *slash = strrchr(file, '/');
  va_list ap;
  va_start(ap, format);
  char text[512];
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  fprintf(stderr, "FAIL %s: %s:%d: %s: %s\n", running, slash ? slash + 1 : file, line, what, text);
  if (in_process) longjmp(failed, 1);
  _exit(1);
}

static bool wanted(const plain_test *t, char **filter, int n) {
  char name[256];
  snprintf(name, sizeof name, "%s.%s", t->suite, t->name);
  for (int i = 0; i < n; i++) {
    if (strstr(name, filter[i])) return true;
  }
  return n == 0;
}

static int run_here(plain_test *t) {
  if (setjmp(failed)) return 1;
  t->run();
  return 0;
}

typedef struct job {
  pid_t pid;
  plain_test *t;
  uint64_t start_us;
} job;

// Waits for one child; 1 when its test failed.
static int reap(job *jobs, int *n) {
  int status;
  const pid_t pid = wait(&status);
  for (int i = 0; i < *n; i++) {
    if (jobs[i].pid != pid) continue;
    const plain_test *t = jobs[i].t;
    const double s = (double)(ti_mono_us() - jobs[i].start_us) / 1e6;
    jobs[i] = jobs[--*n];
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      printf("ok   %s.%s (%.1f s)\n", t->suite, t->name, s);
      return 0;
    }
    if (WIFSIGNALED(status)) fprintf(stderr, "FAIL %s.%s: signal %d (%s)\n", t->suite, t->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
    return 1;
  }
  return 0;
}

static pid_t start(plain_test *t) {
  fflush(NULL);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  if (!freopen("/dev/null", "w", stdout)) _exit(1);
  alarm(TIMEOUT_S);
  running = t->name;
  t->run();
  _exit(0);
}

int main(int argc, char **argv) {
  int max_jobs = 8, n_job = 0, n_failed = 0, n = 0, at = 1;
  bool list = false;
  job jobs[MAX_JOBS];
  for (; at < argc && argv[at][0] == '-'; at++) {
    if (strncmp(argv[at], "-j", 2) == 0) max_jobs = (int)strtol(argv[at] + 2, NULL, 10);
    if (strcmp(argv[at], "--in-process") == 0) in_process = true;
    if (strcmp(argv[at], "--list") == 0) list = true;
    if (strcmp(argv[at], "--backend") == 0 && at + 1 < argc) setenv("TI_CONFORMANCE_BACKEND", argv[++at], 1);
  }
  if (max_jobs < 1 || max_jobs > MAX_JOBS) max_jobs = 1;
  for (const plain_test *t = tests; list && t; t = t->next) {
    if (wanted(t, argv + at, argc - at)) printf("%s.%s\n", t->suite, t->name);
  }
  if (list) return 0;
  const char *backend = getenv("TI_CONFORMANCE_BACKEND");
  pid_t pid = fork();  // CUDA must not be touched before the tests fork
  if (pid == 0) _exit(backend && !ti_kernels_find(backend) ? 77 : 0);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || (WIFEXITED(status) && WEXITSTATUS(status) == 77)) {
    printf("backend %s: not in this build or not on this host, skipped\n", backend ? backend : "?");
    return 77;
  }
  for (plain_test *t = tests; t; t = t->next) {
    if (!wanted(t, argv + at, argc - at)) continue;
    n++;
    running = t->name;
    if (in_process) {
      n_failed += run_here(t);
      continue;
    }
    while (n_job == max_jobs) n_failed += reap(jobs, &n_job);
    pid = start(t);
    if (pid < 0) {
      perror("fork");
      return 1;
    }
    jobs[n_job++] = (job){pid, t, ti_mono_us()};
  }
  while (n_job > 0) n_failed += reap(jobs, &n_job);
  printf("%d tests, %d failed\n", n, n_failed);
  return n_failed != 0;
}
