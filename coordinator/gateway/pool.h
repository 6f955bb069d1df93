// The text pool: N threads that template, tokenize, detokenize and format, for both doors. They sleep in poll(2) when nothing moves.
//
//   jobs inbox  <- ti_text_post      "do this", from any thread         one eventfd each, so the loop rings a thread
//   logs inbox  <- ti_tokenlog_ring  "this log moved", from the loop    once a step however many logs moved
//
// A log reaches its reader through a sink: a slot in its thread's table, whose handle is the log's owner pointer. A handle is never reused, so a log
// that moves after its reader left rings for nobody. Work of one connection always goes to the same thread: its state needs no lock.
#ifndef TI_COORDINATOR_GATEWAY_POOL_H
#define TI_COORDINATOR_GATEWAY_POOL_H
#include <stdbool.h>
#include <stdint.h>

#include "base/inbox.h"
#include "base/status.h"
#include "coordinator/tokenlog.h"
#include "model/tokenizer.h"

typedef struct ti_pool ti_pool;
typedef struct ti_text_thread ti_text_thread;

typedef struct ti_job {  // embedded; one at a time in an inbox
  ti_inbox_node node;
  void (*run)(struct ti_job *j, ti_text_thread *th);
} ti_job;

typedef struct ti_sink {                                                 // embedded; belongs to its thread
  void (*moved)(struct ti_sink *s, ti_text_thread *th);                  // the log has news
  void (*tick)(struct ti_sink *s, ti_text_thread *th, uint64_t now_us);  // about once a second; NULL: not wanted
  void *handle;                                                          // set by ti_sink_add: the log's owner
} ti_sink;

typedef struct ti_after {  // embedded: runs once at the end of the thread's turn, when everything at hand was read
  struct ti_after *next;
  void (*run)(struct ti_after *a, ti_text_thread *th);
  bool queued;
} ti_after;

typedef struct ti_alarm {  // embedded, zeroed but for run; belongs to its thread
  struct ti_alarm *next;
  void (*run)(struct ti_alarm *a, ti_text_thread *th, uint64_t now_us);
  uint64_t at_us;
  bool listed;
} ti_alarm;

ti_status ti_pool_create(uint32_t n_thread, ti_pool **out, ti_error *err) TI_MUST_CHECK;  // starts the threads
// Stops and joins; every sink must be gone and nobody posts any more. NULL is fine.
void ti_pool_destroy(ti_pool *p);
uint32_t ti_pool_size(const ti_pool *p);
void ti_text_post(ti_pool *p, uint32_t thread, ti_job *j);  // any thread; thread is taken modulo the size

// ---- on the thread ----
ti_status ti_sink_add(ti_text_thread *th, ti_sink *s) TI_MUST_CHECK;  // TI_ERR_NOMEM
void ti_sink_remove(ti_text_thread *th, ti_sink *s);
void ti_text_after(ti_text_thread *th, ti_after *a);
// Runs a once, at at_us or a little later (UINT64_MAX: not at all); replaces the time that was set before.
void ti_text_alarm(ti_text_thread *th, ti_alarm *a, uint64_t at_us);
void ti_text_alarm_remove(ti_text_thread *th, ti_alarm *a);  // before its memory goes
ti_inbox *ti_text_logs(ti_text_thread *th);                  // the subscriber of logs read here
ti_tok_scratch *ti_text_scratch(ti_text_thread *th);

#endif
