// Meetings over MPI (see meet.h): only nonblocking calls, tested with a pause in between.
#include "launch/meet.h"

#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { TAG_SHARE = 1, TAG_REPORT = 2, TAG_VERDICT = 3 };
#define PAUSE_MOST_US 5000
#define VERDICT_US 5000000u

static void text(char *out, size_t n, const char *s) { snprintf(out, n, "%s", s ? s : ""); }

ti_status ti_meet_init(ti_meet *m, ti_error *err) {
  memset(m, 0, sizeof *m);
  MPI_Comm_rank(MPI_COMM_WORLD, &m->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &m->size);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (m->size > TI_MEET_RANKS) return ti_error_set(err, TI_ERR_ARG, "%d ranks, at most %d", m->size, TI_MEET_RANKS);
  m->peer = calloc(m->rank == 0 ? (size_t)m->size : 1, sizeof *m->peer);
  if (!m->peer) return ti_error_set(err, TI_ERR_NOMEM, "no memory for %d ranks", m->size);
  m->self.rank = m->rank;
  m->self.pid = getpid();
  if (gethostname(m->self.host, sizeof m->self.host - 1)) text(m->self.host, sizeof m->self.host, "localhost");
  return TI_OK;
}

void ti_meet_fini(ti_meet *m) {
  free(m->peer);
  m->peer = NULL;
}

// False only when that process is known to have ended.
static bool lives(const ti_meet *m, const struct ti_meet_peer *p) {
  return !p->pid || strcmp(p->host, m->self.host) || kill((pid_t)p->pid, 0) == 0 || errno != ESRCH;
}

static void pause_us(long us) { nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL); }

// Waits for req. TI_ERR_PEER: p's process ended; TI_ERR_TIMEOUT. What was not done is cancelled; send buffers must live on.
static ti_status wait_for(ti_meet *m, MPI_Request *req, const struct ti_meet_peer *p, uint64_t deadline_us) {
  for (long us = 100;; us = us * 3 / 2 < PAUSE_MOST_US ? us * 3 / 2 : PAUSE_MOST_US) {
    int done = 0;
    if (MPI_Test(req, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return TI_ERR_PEER;
    if (done) return TI_OK;
    const bool dead = p && !lives(m, p);
    if (dead || ti_mono_us() > deadline_us) {
      MPI_Cancel(req);
      MPI_Request_free(req);
      return dead ? TI_ERR_PEER : TI_ERR_TIMEOUT;
    }
    pause_us(us);
  }
}

ti_status ti_meet_share(ti_meet *m, void *data, size_t n, size_t stride, uint64_t timeout_us, ti_error *err) {
  const uint64_t deadline = ti_mono_us() + timeout_us;
  MPI_Request req;
  if (m->rank) {
    MPI_Irecv(data, (int)n, MPI_BYTE, 0, TAG_SHARE, MPI_COMM_WORLD, &req);
    const ti_status st = wait_for(m, &req, &m->peer[0], deadline);
    return st ? ti_error_set(err, st, "rank 0 %s while this rank waited for the job's settings", st == TI_ERR_PEER ? "died" : "did not answer")
              : TI_OK;
  }
  for (int r = 1; r < m->size; r++) {
    MPI_Isend((char *)data + (size_t)r * stride, (int)n, MPI_BYTE, r, TAG_SHARE, MPI_COMM_WORLD, &req);
    const ti_status st = wait_for(m, &req, &m->peer[r], deadline);
    if (st) return ti_error_set(err, st, "rank %d %s while it was sent the job's settings", r, st == TI_ERR_PEER ? "died" : "did not answer");
  }
  return TI_OK;
}

static void judge(ti_report *verdict, const ti_report *r) {
  if (r->exit && !verdict->exit) *verdict = *r;
}

static void gather(ti_meet *m, uint64_t deadline_us, const char *doing, ti_report *verdict) {
  *verdict = m->self;
  for (int r = 1; r < m->size; r++) {
    ti_report in;
    MPI_Request req;
    MPI_Irecv(&in, (int)sizeof in, MPI_BYTE, r, TAG_REPORT, MPI_COMM_WORLD, &req);
    const ti_status st = wait_for(m, &req, &m->peer[r], deadline_us);
    if (st) {
      const char *host = m->peer[r].host;
      in = (ti_report){.exit = TI_EXIT_CLUSTER, .rank = r, .lost = 1};
      text(in.host, sizeof in.host, host);
      text(in.doing, sizeof in.doing, doing);
      snprintf(in.message, sizeof in.message, "rank %d%s%s %s; see its output, and dmesg for the out-of-memory killer", r, host[0] ? " on " : "",
               host, st == TI_ERR_PEER ? "died" : "did not answer in time");
      verdict->lost = 1;
    } else {
      in.message[sizeof in.message - 1] = in.doing[sizeof in.doing - 1] = in.host[sizeof in.host - 1] = 0;
      m->peer[r].pid = in.pid;
      text(m->peer[r].host, sizeof m->peer[r].host, in.host);
    }
    const int lost = verdict->lost | in.lost;
    judge(verdict, &in);
    verdict->lost = lost;
    if (in.exit) deadline_us = ti_mono_us() + VERDICT_US < deadline_us ? ti_mono_us() + VERDICT_US : deadline_us;
  }
}

void ti_meet_report(ti_meet *m, ti_exit code, const char *doing, const char *message, uint64_t timeout_us, ti_report *verdict) {
  MPI_Request req;
  m->self.exit = code;
  text(m->self.doing, sizeof m->self.doing, doing);
  text(m->self.message, sizeof m->self.message, message);
  const uint64_t deadline = ti_mono_us() + timeout_us;
  if (m->rank == 0) {
    gather(m, deadline, doing, verdict);
    ti_report out = *verdict;
    for (int r = 1; r < m->size; r++) {
      MPI_Isend(&out, (int)sizeof out, MPI_BYTE, r, TAG_VERDICT, MPI_COMM_WORLD, &req);
      if (wait_for(m, &req, &m->peer[r], ti_mono_us() + VERDICT_US)) verdict->lost = 1;
    }
    return;
  }
  MPI_Isend(&m->self, (int)sizeof m->self, MPI_BYTE, 0, TAG_REPORT, MPI_COMM_WORLD, &req);
  ti_status st = wait_for(m, &req, &m->peer[0], deadline);
  if (!st) {
    MPI_Irecv(verdict, (int)sizeof *verdict, MPI_BYTE, 0, TAG_VERDICT, MPI_COMM_WORLD, &req);
    st = wait_for(m, &req, &m->peer[0], deadline + VERDICT_US);
  }
  if (st) {
    *verdict = (ti_report){.exit = TI_EXIT_CLUSTER, .rank = 0, .lost = 1};
    text(verdict->doing, sizeof verdict->doing, doing);
    snprintf(verdict->message, sizeof verdict->message, "rank 0 %s", st == TI_ERR_PEER ? "died" : "did not answer in time");
    return;
  }
  if (verdict->exit) return;
  m->peer[0].pid = verdict->pid;
  text(m->peer[0].host, sizeof m->peer[0].host, verdict->host);
}
