// links: ti_coordinator
// One writer, readers by offset, a subscriber: under ThreadSanitizer nothing races; every token arrives, in order, and the subscriber sleeps through
// none.
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/tokenlog.h"

enum { LOGS = 8, TOKENS = 20000, READERS = 2 };
static ti_tokenlog *logs[LOGS];
static ti_inbox inbox;

static void fail(const char *what, int i) {
  fprintf(stderr, "%s (log %d)\n", what, i);
  exit(1);
}

static void check(const ti_tokenlog *l, int i, uint32_t *at, ti_tokenlog_state s) {
  const uint32_t *ids = ti_tokenlog_ids(l);
  const float *lp = ti_tokenlog_logprobs(l);
  for (; *at < s.length; ++*at) {
    if (ids[*at] != *at * LOGS + (uint32_t)i || lp[*at] != -(float)*at) fail("a token is not what was appended", i);
  }
}

static void *write_all(void *arg) {
  for (uint32_t t = 0; t < TOKENS; t++) {
    for (uint32_t i = 0; i < LOGS; i++) {
      const uint32_t id = t * LOGS + i;
      const float lp = -(float)t;
      if (ti_tokenlog_append(logs[i], &id, 1, &lp, NULL, NULL)) fail("append", (int)i);
      if (t == TOKENS - 1) ti_tokenlog_finish(logs[i], TI_FINISH_LENGTH, TOKENS, NULL);
      ti_tokenlog_ring(logs[i]);
    }
  }
  return NULL;
}

static void *read_all(void *arg) {
  uint32_t at[LOGS] = {0};
  for (int done = 0; done < LOGS;) {
    done = 0;
    for (int i = 0; i < LOGS; i++) {
      const ti_tokenlog_state s = ti_tokenlog_peek(logs[i]);
      check(logs[i], i, &at[i], s);
      done += s.finish != TI_FINISH_NONE && at[i] == TOKENS;
    }
  }
  return NULL;
}

static void *subscribe(void *arg) {
  static uint32_t at[LOGS];
  int done = 0;
  while (done < LOGS) {
    struct pollfd p = {.fd = ti_inbox_fd(&inbox), .events = POLLIN};
    if (poll(&p, 1, 20000) != 1) fail("the subscriber was not woken", done);
    ti_inbox_clear(&inbox);
    for (ti_inbox_node *n; (n = ti_inbox_pop(&inbox)) != NULL;) {
      ti_tokenlog *l = ti_tokenlog_of_node(n);
      const int i = *(int *)ti_tokenlog_owner(l);
      ti_tokenlog_seen(l);
      const ti_tokenlog_state s = ti_tokenlog_peek(l);
      const bool was_done = at[i] == TOKENS;
      check(l, i, &at[i], s);
      done += s.finish != TI_FINISH_NONE && !was_done;
      ti_tokenlog_rele(l);
    }
  }
  return NULL;
}

int main(void) {
  static int index[LOGS];
  if (ti_inbox_init(&inbox)) fail("no inbox", 0);
  for (int i = 0; i < LOGS; i++) {
    index[i] = i;
    const ti_tokenlog_options o = {.max_tokens = TOKENS, .n_logprob = 0, .n_prompt_logprob = -1, .subscriber = &inbox, .owner = &index[i]};
    if (ti_tokenlog_create(&o, &logs[i])) fail("no log", i);
  }
  pthread_t t[READERS + 2];
  pthread_create(&t[0], NULL, subscribe, NULL);
  pthread_create(&t[1], NULL, write_all, NULL);
  for (int i = 0; i < READERS; i++) pthread_create(&t[2 + i], NULL, read_all, NULL);
  for (int i = 0; i < READERS + 2; i++) pthread_join(t[i], NULL);
  for (int i = 0; i < LOGS; i++) ti_tokenlog_rele(logs[i]);
  ti_inbox_fini(&inbox);
  return 0;
}
