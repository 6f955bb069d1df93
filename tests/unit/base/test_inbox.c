#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/inbox.h"

enum { PRODUCERS = 4, MESSAGES = 100000 };
typedef struct message {
  ti_inbox_node node;
  int producer, number;
} message;

static bool readable(const ti_inbox *q, int timeout_ms) {
  struct pollfd p = {.fd = ti_inbox_fd(q), .events = POLLIN};
  return poll(&p, 1, timeout_ms) == 1;
}

Test(inbox, first_in_first_out) {
  ti_inbox q;
  cr_assert_eq(ti_inbox_init(&q), TI_OK);
  cr_assert_null(ti_inbox_pop(&q));
  message m[5];
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 5; i++) ti_inbox_push(&q, &m[i].node);
    for (int i = 0; i < 5; i++) cr_assert_eq(ti_inbox_pop(&q), &m[i].node);
    cr_assert_null(ti_inbox_pop(&q));
  }
  ti_inbox_fini(&q);
}

Test(inbox, the_bell_rings_once_until_cleared) {
  ti_inbox q;
  cr_assert_eq(ti_inbox_init(&q), TI_OK);
  message m[3];
  cr_assert_not(readable(&q, 0));
  ti_inbox_push(&q, &m[0].node);
  ti_inbox_push(&q, &m[1].node);
  cr_assert(readable(&q, 0));
  uint64_t rings = 0;
  cr_assert_eq(read(ti_inbox_fd(&q), &rings, 8), 8);
  cr_assert_eq(rings, 1);
  ti_inbox_clear(&q);
  cr_assert_not(readable(&q, 0));
  while (ti_inbox_pop(&q)) continue;
  ti_inbox_push(&q, &m[2].node);
  cr_assert(readable(&q, 0));
  ti_inbox_fini(&q);
}

static ti_inbox box;
static message sent[PRODUCERS][MESSAGES];
static void *producer(void *arg) {
  const int p = (int)(intptr_t)arg;
  for (int i = 0; i < MESSAGES; i++) {
    sent[p][i] = (message){.producer = p, .number = i};
    ti_inbox_push(&box, &sent[p][i].node);
    for (volatile int k = 0; k < (i * 7 + p * 13) % 200; k++) continue;  // so that the consumer runs dry and sleeps thousands of times
  }
  return NULL;
}

// The consumer only ever sleeps on the fd: a lost wake-up is a poll that times out.
Test(inbox, four_producers_nothing_lost_each_in_order) {
  cr_assert_eq(ti_inbox_init(&box), TI_OK);
  pthread_t t[PRODUCERS];
  for (intptr_t i = 0; i < PRODUCERS; i++) cr_assert_eq(pthread_create(&t[i], NULL, producer, (void *)i), 0);
  int next[PRODUCERS] = {0};
  for (int left = PRODUCERS * MESSAGES; left > 0;) {
    cr_assert(readable(&box, 10000), "a wake-up was lost with %d messages to come", left);
    ti_inbox_clear(&box);
    for (ti_inbox_node *n; (n = ti_inbox_pop(&box)); left--) {
      const message *m = (const message *)n;
      cr_assert_eq(m->number, next[m->producer]);
      next[m->producer]++;
    }
  }
  for (int i = 0; i < PRODUCERS; i++) pthread_join(t[i], NULL);
  cr_assert_null(ti_inbox_pop(&box));
  ti_inbox_fini(&box);
}
