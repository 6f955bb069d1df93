// The inbox of a loop thread (see inbox.h): Vyukov's intrusive MPSC queue and a bell (an eventfd).
//
//   tail -> [stub] -> [a] -> [b] <- head        producers swing head, then link the old one to theirs; the consumer follows the links
//
// Between a producer's two steps the chain is cut: pop then says NULL though more stands behind the cut. That producer rings when it has linked.
//
// Why no wake-up is lost. push: (1) link, (2) exchange(rung, true), (3) if that gave false, write the fd.
//                         clear: (A) drain the fd, (B) exchange(rung, false), then the consumer pops until NULL.
// Take a message whose (1) the last pop did not see. Its (2) is not before (B) in rung's order: if it were, (B) would read from it or from a later
// exchange, and would have acquired its link. So its (2) comes after (B): either it reads false and writes the fd, or it reads true from another
// push that came after (B), the first of which read false and writes the fd. That write is not drained by this clear's (A), which is over: the fd
// will poll readable. (With B before A the drain could eat that write while rung stays true: a bell that never rings again.) A write that is
// late, from a push before (B), leaves one poll that finds nothing; that is all.
#include "base/inbox.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

ti_status ti_inbox_init(ti_inbox *q) {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) return TI_ERR_IO;
  q->fd = fd;
  q->tail = &q->stub;
  atomic_init(&q->stub.next, NULL);
  atomic_init(&q->head, &q->stub);
  atomic_init(&q->rung, false);
  return TI_OK;
}

void ti_inbox_fini(ti_inbox *q) {
  if (q->tail) close(q->fd);  // a zeroed inbox has no tail
  q->tail = NULL;
  q->fd = -1;
}

int ti_inbox_fd(const ti_inbox *q) { return q->fd; }

static void enqueue(ti_inbox *q, ti_inbox_node *n) {
  atomic_store_explicit(&n->next, NULL, memory_order_relaxed);
  ti_inbox_node *prev = atomic_exchange_explicit(&q->head, n, memory_order_acq_rel);
  atomic_store_explicit(&prev->next, n, memory_order_release);
}

void ti_inbox_push(ti_inbox *q, ti_inbox_node *n) {
  enqueue(q, n);
  if (atomic_exchange_explicit(&q->rung, true, memory_order_acq_rel)) return;
  const uint64_t one = 1;
  const ssize_t put = write(q->fd, &one, sizeof(one));  // the counter cannot fill: one write a clear
  (void)put;
}

void ti_inbox_clear(ti_inbox *q) {
  uint64_t count;
  const ssize_t got = read(q->fd, &count, sizeof(count));  // EAGAIN: it had not rung
  (void)got;
  atomic_exchange_explicit(&q->rung, false, memory_order_acq_rel);
}

ti_inbox_node *ti_inbox_pop(ti_inbox *q) {
  ti_inbox_node *tail = q->tail;
  ti_inbox_node *next = atomic_load_explicit(&tail->next, memory_order_acquire);
  if (tail == &q->stub) {
    if (!next) return NULL;
    q->tail = tail = next;
    next = atomic_load_explicit(&tail->next, memory_order_acquire);
  }
  if (!next) {
    // tail is the last message, or a producer stands between its two steps
    if (tail != atomic_load_explicit(&q->head, memory_order_acquire)) return NULL;
    enqueue(q, &q->stub);  // so that tail can leave
    next = atomic_load_explicit(&tail->next, memory_order_acquire);
    if (!next) return NULL;  // another got in before the stub and has not linked yet
  }
  q->tail = next;
  return tail;
}
