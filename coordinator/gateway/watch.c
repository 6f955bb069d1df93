// The watcher: one thread in epoll_wait that sees a client hang up while its connection is suspended (MHD looks at no suspended socket), and that
// shuts connections whose request takes too long to arrive. Sockets stay MHD's: they are watched from accept until just before they are closed.
//
// EPOLLRDHUP is edge-triggered: data that arrives wakes nobody here. A half-closed connection counts as left, as other servers see it.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/gateway/gateway_priv.h"

struct ti_conn {
  ti_conn *prev, *next;
  uint64_t id;  // what epoll carries: an event of a connection that is gone finds nothing
  int fd;
  bool gone;
  ti_call *call;  // borrowed: reset before the call's connection lets it go
  uint64_t deadline_us;
};

enum { BUCKETS = 4096 };

struct ti_watch {
  pthread_t thread;
  pthread_mutex_t lock;
  int epoll_fd, wake_fd;
  uint64_t next_id;
  uint32_t n;
  bool stop;
  ti_conn *bucket[BUCKETS];  // by id, chained
};

static void on_gone(ti_watch *w, uint64_t id) {
  pthread_mutex_lock(&w->lock);
  ti_conn *c = w->bucket[id % BUCKETS];
  while (c && c->id != id) c = c->next;
  if (c) {
    c->gone = true;
    if (c->call) ti_call_event(c->call, TI_EVENT_GONE);
  }
  pthread_mutex_unlock(&w->lock);
}

// Shuts what is overdue; returns whether anything is left to look after.
static bool check_deadlines(ti_watch *w, uint64_t now) {
  pthread_mutex_lock(&w->lock);
  const bool any = w->n > 0;
  for (uint32_t i = 0; i < BUCKETS && any; i++) {
    for (ti_conn *c = w->bucket[i]; c; c = c->next) {
      if (now < c->deadline_us) continue;
      c->deadline_us = UINT64_MAX;
      shutdown(c->fd, SHUT_RDWR);  // MHD sees the end and closes
    }
  }
  pthread_mutex_unlock(&w->lock);
  return any;
}

static void *watch_main(void *arg) {
  ti_watch *w = arg;
  struct epoll_event ev[256];
  bool any = false;
  uint64_t next_check = 0;
  for (;;) {
    const int n = epoll_wait(w->epoll_fd, ev, sizeof ev / sizeof *ev, any ? 1000 : -1);
    if (n < 0 && errno != EINTR) {
      ti_log_error("gateway: epoll_wait failed errno=%d: hang-ups are seen late", errno);
      return NULL;
    }
    for (int i = 0; i < n; i++) {
      if (ev[i].data.u64) {
        on_gone(w, ev[i].data.u64);
        continue;
      }
      uint64_t count;
      if (read(w->wake_fd, &count, sizeof count) < 0) continue;
      pthread_mutex_lock(&w->lock);
      const bool stop = w->stop;
      pthread_mutex_unlock(&w->lock);
      if (stop) return NULL;
      any = true;
    }
    const uint64_t now = ti_mono_us();
    if (any && now >= next_check) {
      any = check_deadlines(w, now);
      next_check = now + 900000;
    }
  }
}

static void wake(ti_watch *w) {
  const uint64_t one = 1;
  if (write(w->wake_fd, &one, sizeof one) < 0) ti_log_debug("gateway: the watcher's bell is full");
}

ti_status ti_watch_create(ti_watch **out, ti_error *err) {
  ti_watch *w = calloc(1, sizeof *w);
  if (!w) return ti_error_set(err, TI_ERR_NOMEM, "gateway: out of memory");
  w->next_id = 1;
  w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  pthread_mutex_init(&w->lock, NULL);
  struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0};
  const bool ok = w->wake_fd >= 0 && w->epoll_fd >= 0 && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &ev) == 0;
  if (ok && pthread_create(&w->thread, NULL, watch_main, w) == 0) {
    *out = w;
    return TI_OK;
  }
  if (w->wake_fd >= 0) close(w->wake_fd);
  if (w->epoll_fd >= 0) close(w->epoll_fd);
  pthread_mutex_destroy(&w->lock);
  free(w);
  return ti_error_set(err, TI_ERR_IO, "gateway: no epoll, eventfd or thread for the watcher: raise the limits (ulimit -n, -u)");
}

void ti_watch_destroy(ti_watch *w) {
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  w->stop = true;
  pthread_mutex_unlock(&w->lock);
  wake(w);
  pthread_join(w->thread, NULL);
  close(w->wake_fd);
  close(w->epoll_fd);
  pthread_mutex_destroy(&w->lock);
  free(w);
}

ti_conn *ti_watch_add(ti_watch *w, int fd, uint64_t deadline_us) {
  ti_conn *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  c->fd = fd;
  c->deadline_us = deadline_us;
  pthread_mutex_lock(&w->lock);
  c->id = w->next_id++;
  ti_conn **b = &w->bucket[c->id % BUCKETS];
  c->next = *b;
  if (c->next) c->next->prev = c;
  *b = c;
  const bool first = w->n++ == 0;
  pthread_mutex_unlock(&w->lock);
  struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = c->id};
  if (epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) ti_log_warn("gateway: cannot watch a connection errno=%d", errno);
  if (first) wake(w);
  return c;
}

void ti_watch_remove(ti_watch *w, ti_conn *c) {
  if (!c) return;
  pthread_mutex_lock(&w->lock);
  if (c->prev) {
    c->prev->next = c->next;
  } else {
    w->bucket[c->id % BUCKETS] = c->next;
  }
  if (c->next) c->next->prev = c->prev;
  w->n--;
  pthread_mutex_unlock(&w->lock);
  epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
  free(c);
}

void ti_watch_set(ti_watch *w, ti_conn *c, ti_call *call, uint64_t deadline_us) {
  if (!c) return;
  pthread_mutex_lock(&w->lock);
  c->call = call;
  c->deadline_us = deadline_us;
  const bool gone = c->gone;
  if (call && gone) ti_call_event(call, TI_EVENT_GONE);
  pthread_mutex_unlock(&w->lock);
}
