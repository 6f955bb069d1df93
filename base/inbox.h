// A lock-free many-producer, one-consumer queue with an eventfd: how everything reaches a loop thread.
//
// Intrusive: a message embeds a ti_inbox_node; whoever pops it owns it. Vyukov's MPSC queue (1024cores.net, "Intrusive MPSC node-based queue").
// push: wait-free, any thread; rings the eventfd only when the consumer may be asleep. pop: consumer thread only.
#ifndef TI_BASE_INBOX_H
#define TI_BASE_INBOX_H
#include <stdatomic.h>
#include <stdbool.h>

#include "base/status.h"

typedef struct ti_inbox_node {
  struct ti_inbox_node *_Atomic next;
} ti_inbox_node;

typedef struct ti_inbox {
  ti_inbox_node *_Atomic head;  // producers' end
  ti_inbox_node *tail;          // consumer's end
  ti_inbox_node stub;
  _Atomic bool rung;            // the eventfd has been written and not yet drained
  int fd;
} ti_inbox;

ti_status ti_inbox_init(ti_inbox *q) TI_MUST_CHECK;  // TI_ERR_IO: no eventfd
void ti_inbox_fini(ti_inbox *q);                     // messages still inside are the caller's to drain first
void ti_inbox_push(ti_inbox *q, ti_inbox_node *n);
ti_inbox_node *ti_inbox_pop(ti_inbox *q);  // NULL when empty
int ti_inbox_fd(const ti_inbox *q);        // poll it for reading
// Call after the fd polled readable and before popping: clears the bell. Pop until NULL afterwards.
void ti_inbox_clear(ti_inbox *q);

#endif
