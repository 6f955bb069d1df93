// Long polls: a context that waits hangs in two lists, its choice's (who is told of news) and its thread's (who waited longest). See door_priv.h.
#include <string.h>

#include "base/clock.h"
#include "coordinator/frontdoor/door_priv.h"

enum { REPLY_TOKENS = 65536, REPLY_TEXT = 4 << 20, RESERVE_PARTS = 8, ALARM_SLACK_US = 2000 };

static bool at_end(const ti_msg_next *m, const ti_door_choice *c) {
  return c->finish != TI_FINISH_NONE && m->cursor >= c->seen && m->text_cursor >= c->text.len;
}

bool ti_door_has_news(const ti_door_context *c, const ti_door_choice *choice) {
  const ti_msg_next *m = &c->request.next;
  return m->cursor < choice->seen || m->text_cursor < choice->text.len || at_end(m, choice);
}

// Not more than REPLY_TEXT bytes, and whole characters.
static uint32_t text_slice(const ti_buf *text, uint32_t from) {
  size_t n = text->len - from;
  if (n <= REPLY_TEXT) return (uint32_t)n;
  n = REPLY_TEXT;
  while (n > 1 && ((unsigned char)text->data[from + n] & 0xC0) == 0x80) n--;
  return (uint32_t)n;
}

void ti_door_answer_tokens(ti_door_thread *t, ti_door_context *c, ti_door_choice *choice) {
  const ti_msg_next *m = &c->request.next;
  ti_door_unwait(t, c);
  uint32_t n = choice->seen - m->cursor;
  const uint32_t max = m->max_tokens && m->max_tokens < REPLY_TOKENS ? m->max_tokens : REPLY_TOKENS;
  if (n > max) n = max;
  const uint32_t n_text = text_slice(&choice->text, m->text_cursor);
  const float *logprobs = ti_tokenlog_logprobs(choice->log);
  ti_client_reply reply = {.kind = TI_CLI_NEXT};
  reply.next = (ti_msg_tokens){.cursor = m->cursor + n,
                               .token = {ti_tokenlog_ids(choice->log) + m->cursor, n},
                               .logprob = {logprobs ? logprobs + m->cursor : NULL, logprobs ? n : 0},
                               .text = ti_buf_str(&choice->text) + m->text_cursor,
                               .text_len = n_text,
                               .text_cursor = m->text_cursor + n_text,
                               .n_token = choice->seen};
  if (choice->finish != TI_FINISH_NONE && reply.next.cursor == choice->seen && reply.next.text_cursor == choice->text.len) {
    reply.next.finish = choice->finish;
    reply.next.stop_reason = choice->reason;
  }
  ti_door_answer(t, c, &reply);
}

void ti_door_unwait(ti_door_thread *t, ti_door_context *c) {
  if (!c->choice) return;
  *(c->prev ? &c->prev->next : &t->first) = c->next;
  *(c->next ? &c->next->prev : &t->last) = c->prev;
  *(c->prev_of_choice ? &c->prev_of_choice->next_of_choice : &c->choice->waiting) = c->next_of_choice;
  if (c->next_of_choice) c->next_of_choice->prev_of_choice = c->prev_of_choice;
  c->prev = c->next = c->prev_of_choice = c->next_of_choice = NULL;
  c->choice = NULL;
}

void ti_door_wait(ti_door_thread *t, ti_door_context *c, ti_door_choice *choice, uint32_t wait_ms) {
  c->choice = choice;
  c->deadline_us = ti_mono_us() + wait_ms * 1000ull;
  c->prev = t->last;
  *(t->last ? &t->last->next : &t->first) = c;
  t->last = c;
  c->next_of_choice = choice->waiting;
  if (choice->waiting) choice->waiting->prev_of_choice = c;
  choice->waiting = c;
  if (c->deadline_us < t->alarm.at_us) ti_text_alarm(t->th, &t->alarm, c->deadline_us);
  // others must be able to ask: whoever waited longest makes room
  if (atomic_load(&t->d->n_receiving) < t->d->cfg.contexts / RESERVE_PARTS) ti_door_answer_tokens(t, t->first, t->first->choice);
}

// The alarm stands at the first deadline or the first expiry. O(waiting), at most once a deadline.
void ti_door_set_alarm(ti_door_thread *t) {
  uint64_t at = t->oldest ? t->oldest->expires_us : UINT64_MAX;
  for (const ti_door_context *c = t->first; c; c = c->next) at = c->deadline_us < at ? c->deadline_us : at;
  ti_text_alarm(t->th, &t->alarm, at);
}

void ti_door_ring(ti_alarm *a, ti_text_thread *th, uint64_t now_us) {
  ti_door_thread *t = (ti_door_thread *)(void *)((char *)a - offsetof(ti_door_thread, alarm));
  for (ti_door_context *c = t->first, *next; c; c = next) {
    next = c->next;
    if (c->deadline_us <= now_us + ALARM_SLACK_US) ti_door_answer_tokens(t, c, c->choice);
  }
  ti_door_gen_expire(t, now_us, false);
  ti_door_set_alarm(t);
}
