// links: ti_base
// Four producers and a consumer that sleeps on the bell; fails on a lost message, a lost wake-up, a producer's order, or (under TSan) a race.
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

#include "base/inbox.h"

enum { PRODUCERS = 4, MESSAGES = 25000 };
typedef struct message {
  ti_inbox_node node;
  int producer, number;
} message;

static ti_inbox box;
static message sent[PRODUCERS][MESSAGES];

static void *produce(void *arg) {
  const int p = (int)(intptr_t)arg;
  for (int i = 0; i < MESSAGES; i++) {
    sent[p][i] = (message){.producer = p, .number = i};  // plain writes: the queue must publish them
    ti_inbox_push(&box, &sent[p][i].node);
    for (volatile int k = 0; k < (i * 7 + p * 13) % 400; k++) continue;  // a few at a time: the consumer runs dry and sleeps thousands of times
  }
  return NULL;
}

int main(void) {
  if (ti_inbox_init(&box) != TI_OK) return 1;
  pthread_t t[PRODUCERS];
  for (intptr_t i = 0; i < PRODUCERS; i++)
    if (pthread_create(&t[i], NULL, produce, (void *)i) != 0) return 1;
  int next[PRODUCERS] = {0};
  for (int left = PRODUCERS * MESSAGES; left > 0;) {
    struct pollfd p = {.fd = ti_inbox_fd(&box), .events = POLLIN};
    if (poll(&p, 1, 20000) != 1) {
      fprintf(stderr, "a wake-up was lost with %d messages to come\n", left);
      return 1;
    }
    ti_inbox_clear(&box);
    for (ti_inbox_node *n; (n = ti_inbox_pop(&box)); left--) {
      const message *m = (const message *)n;
      if (m->number == next[m->producer]++) continue;
      fprintf(stderr, "producer %d: message %d out of order\n", m->producer, m->number);
      return 1;
    }
  }
  for (int i = 0; i < PRODUCERS; i++) pthread_join(t[i], NULL);
  ti_inbox_fini(&box);
  return 0;
}
