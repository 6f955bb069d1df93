// A request and its choices, each a sequence with a state of its own. Made by the submitting thread (all memory that its life needs, so that the loop
// allocates nothing), then the loop's alone.
//
//            held --- the first choice's prompt is planned (or it has ended) ---> waiting     choices 1..n-1
//   submit -> waiting --- slot, pages ---> running --- pages run out ---> preempted --- its rows in flight are back ---> waiting
//             any of them --- finish, cancel, deadline, death ---> done
//
// The request is freed when all choices are done and no row of theirs is in flight.
//
// What plans have made of a running sequence (n_fill: ids given with the slot assignment):
//
//   [ prompt ............ | generated, known (n_gen) | sampled in flight (n_pending) ]
//    <--- n_kv: fed by plans, sent or in the making ------------------------->   prefill while n_kv < n_fill; then n_kv = n_prompt + n_gen +
//    n_pending - 1
//    <--- kv_sent: by plans sent ------------------------------>
#ifndef TI_COORDINATOR_REQUEST_H
#define TI_COORDINATOR_REQUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/coordinator.h"
#include "coordinator/sched/heap.h"

// What threads send to the loop: the first member of each message.
typedef enum ti_mail_kind { TI_MAIL_SUBMIT, TI_MAIL_CANCEL, TI_MAIL_FINISH, TI_MAIL_DRAIN } ti_mail_kind;
typedef struct ti_mail {
  ti_inbox_node node;
  ti_mail_kind kind;
} ti_mail;

typedef enum ti_seq_state { TI_SEQ_HELD, TI_SEQ_WAITING, TI_SEQ_RUNNING, TI_SEQ_PREEMPTED, TI_SEQ_DONE } ti_seq_state;

typedef struct ti_request ti_request;
typedef struct ti_seq {
  ti_heap_node wait;           // WAITING: in its group's queue
  struct ti_seq *prev, *next;  // RUNNING: in its group's list, in the policy's order
  ti_request *req;
  ti_tokenlog *log;  // the spec's reference
  ti_seq_state state;
  uint32_t choice, slot;
  uint32_t n_fill, n_gen, n_pending, n_kv, kv_sent;
  uint32_t inflight;  // rows in plans whose results are not in yet
  uint32_t n_draft;   // drafts those may add to n_kv, at most
  uint32_t n_page;    // held, in page[]
  uint32_t *page;     // [the most it can need]
  bool scoring;       // this assignment delivers prompt logprobs
  uint64_t planned;   // the group's plan number that last gave it a row
  uint64_t last_token_us;
} ti_seq;

struct ti_request {
  ti_mail mail;           // from submit to the loop
  ti_heap_node deadline;  // in the coordinator's heap when spec->deadline_us != 0
  ti_request *hash_next;  // coordinator's table by id
  ti_request *all_prev, *all_next;
  ti_request_spec *spec;  // owned
  uint32_t group;
  uint32_t max_pages;   // the most a choice can need
  uint32_t n_scored;    // prompt logprobs appended so far
  uint32_t n_released;  // choices that are no longer held: 0..n_released - 1
  uint32_t n_done, inflight;
  bool started;  // has had a slot: no longer counted as waiting
  uint64_t submit_us;
  ti_seq seq[];  // [spec->n_choice]
};

static inline ti_seq *ti_seq_of_wait(const ti_heap_node *n) { return (ti_seq *)((char *)n - offsetof(ti_seq, wait)); }
static inline ti_request *ti_request_of_deadline(const ti_heap_node *n) { return (ti_request *)((char *)n - offsetof(ti_request, deadline)); }
static inline uint32_t ti_seq_known(const ti_seq *s) { return s->req->spec->n_prompt + s->n_gen; }
// The whole vocabulary must be on one rank to sample (or score) for it.
bool ti_seq_needs_gather(const ti_seq *s);

// Takes spec on success. page_tokens, lookahead: as configured. TI_ERR_NOMEM.
ti_status ti_request_create(ti_request_spec *spec, uint32_t page_tokens, uint32_t lookahead, uint64_t now_us, ti_request **out) TI_MUST_CHECK;
void ti_request_destroy(ti_request *r);  // with its spec; the logs keep other holders' references

#endif
