// The messages of titan.proto as plain structs, and their bounded decoding. The only room that sees protobuf-c.
//
// encode: struct -> bytes appended to a ti_buf. decode: bytes -> struct whose arrays and strings lie in the caller's arena (capped: a hostile message
// that would unpack to more is refused), every field checked against ti_wire_limits; what is wrong is named: "StepPlan.row[3].slot: 4096 is out of 0..255".
// Arrays are borrowed by encode and owned by the arena after decode. No state; any thread.
#ifndef TI_PROTO_WIRE_H
#define TI_PROTO_WIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"

#define TI_WIRE_VERSION 1
#define TI_NONCE_BYTES 32
#define TI_HMAC_BYTES 32
#define TI_CAPABILITY_BYTES 16
#define TI_TOP_MAX 20
#define TI_WIRE_MAX_BYTES (64u << 20)  // also each socket's RECVMAXSZ

typedef struct ti_wire_limits {  // what a peer may name; 0 = the field must be absent or 0
  uint32_t n_rank, n_slot, n_page, vocab, max_rows, max_context;
} ti_wire_limits;

typedef enum ti_finish { TI_FINISH_NONE, TI_FINISH_STOP, TI_FINISH_LENGTH, TI_FINISH_CANCEL, TI_FINISH_ERROR, TI_FINISH_COUNT } ti_finish;

typedef struct ti_u32s { const uint32_t *v; uint32_t n; } ti_u32s;
typedef struct ti_f32s { const float *v; uint32_t n; } ti_f32s;

typedef struct ti_msg_challenge { uint8_t nonce[TI_NONCE_BYTES]; uint32_t version; } ti_msg_challenge;
typedef struct ti_msg_hello {
  uint32_t rank, version;
  uint8_t hmac[TI_HMAC_BYTES];
  uint32_t n_slot, n_page, page_tokens, max_rows, max_context, vocab;
  const char *device, *host;
  uint64_t pid, weight_bytes, kv_bytes, epoch;
} ti_msg_hello;
typedef struct ti_msg_welcome { uint64_t epoch; uint32_t n_page; int64_t clock_us; } ti_msg_welcome;

typedef struct ti_sampling {
  float temperature, top_p, min_p;
  int32_t top_k;
  float repetition, frequency, presence;
  uint64_t seed;
  uint32_t choice;
  int32_t n_logprob, n_prompt_logprob;  // -1: none
  ti_u32s bias_id;
  ti_f32s bias_value;  // as many as bias_id
} ti_sampling;

typedef struct ti_slot_assign {
  uint32_t slot;
  uint64_t request;
  ti_u32s ids;
  uint32_t n_prompt, n_cached, max_tokens, min_tokens;
  bool ignore_eos;
  ti_u32s stop_id;
  ti_sampling sampling;
} ti_slot_assign;
typedef struct ti_slot_pages { uint32_t slot, first; ti_u32s pages; } ti_slot_pages;
// max_draft: rows that the worker may add to a decode row; counted in max_rows (titan.proto).
typedef struct ti_plan_row { uint32_t slot, n_token; bool decode, sample; uint32_t max_draft; } ti_plan_row;
typedef struct ti_page_copy { uint32_t src, dst, n_token; } ti_page_copy;

enum { TI_FORM_DECODE = 0, TI_FORM_PREFILL = 1 };
typedef struct ti_step_plan {
  uint64_t epoch, step;
  uint32_t placement, form, max_rows, n_micro;
  bool gather_logits;
  ti_u32s release;
  ti_slot_assign *assign; uint32_t n_assign;
  ti_slot_pages *pages; uint32_t n_pages;
  ti_page_copy *copy; uint32_t n_copy;
  ti_plan_row *row; uint32_t n_row;
} ti_step_plan;

typedef struct ti_top_logprob { uint32_t n; uint32_t id[TI_TOP_MAX]; float logprob[TI_TOP_MAX]; } ti_top_logprob;
typedef struct ti_result_row {
  uint32_t slot;
  ti_u32s token;
  ti_f32s logprob;       // none, or as many as token
  ti_u32s rank;          // likewise
  const ti_top_logprob *top; uint32_t n_top;  // likewise
  uint32_t finish;       // ti_finish
  ti_f32s prompt_logprob;
  ti_u32s prompt_rank;
  const ti_top_logprob *prompt_top; uint32_t n_prompt_top;
  uint32_t n_draft, n_accepted;
} ti_result_row;
typedef struct ti_step_times { uint32_t total_us, dispatch_us, expert_us, combine_us, exposed_us, wait_us, attention_us, sample_us, slowest_peer, slowest_us; } ti_step_times;
typedef struct ti_step_result {
  uint64_t epoch, step;
  const ti_result_row *row; uint32_t n_row;
  ti_step_times times;
  ti_u32s expert_load;
  uint32_t n_token;
  uint32_t placement;  // the newest version whose experts this worker has
} ti_step_result;

typedef struct ti_msg_heartbeat { uint64_t epoch, step; uint32_t in_step_us; int64_t clock_us; const char *doing; uint64_t rss_bytes; } ti_msg_heartbeat;
typedef struct ti_msg_epoch { uint64_t epoch; ti_u32s ranks; } ti_msg_epoch;
typedef struct ti_msg_abort { uint64_t epoch; uint32_t status; const char *message; } ti_msg_abort;
typedef struct ti_msg_drain { uint32_t timeout_ms; } ti_msg_drain;
// Load these experts beside the ones in use: slot_expert [n_layer, slots], MoE layers in order. In force from the first plan that names the version.
typedef struct ti_msg_placement { uint32_t version, n_layer; ti_u32s slot_expert; } ti_msg_placement;

typedef enum ti_control_kind {
  TI_CTL_NONE, TI_CTL_CHALLENGE, TI_CTL_HELLO, TI_CTL_WELCOME, TI_CTL_PLAN, TI_CTL_RESULT, TI_CTL_HEARTBEAT, TI_CTL_EPOCH, TI_CTL_ABORT, TI_CTL_DRAIN, TI_CTL_PLACEMENT
} ti_control_kind;
typedef struct ti_control {
  ti_control_kind kind;
  union {
    ti_msg_challenge challenge; ti_msg_hello hello; ti_msg_welcome welcome; ti_step_plan plan; ti_step_result result;
    ti_msg_heartbeat heartbeat; ti_msg_epoch epoch; ti_msg_abort abort; ti_msg_drain drain; ti_msg_placement placement;
  };
} ti_control;

ti_status ti_wire_encode_control(const ti_control *m, ti_buf *out) TI_MUST_CHECK;
ti_status ti_wire_decode_control(const void *bytes, size_t n, const ti_wire_limits *lim, ti_arena *arena, ti_control *out, ti_error *err) TI_MUST_CHECK;
// What an undecoded control message claims to be, from its first byte: for transport threads that must react before anybody decodes. O(1).
ti_control_kind ti_wire_control_kind(const void *bytes, size_t n);

// ---- client plane ----

typedef struct ti_strs { const char *const *v; uint32_t n; } ti_strs;
typedef struct ti_msg_submit {
  const char *client_id; uint64_t nonce;
  const char *prompt;          // exactly one of prompt, prompt_ids, messages_json
  ti_u32s prompt_ids;
  const char *messages_json, *tools_json;
  uint32_t max_tokens, min_tokens;
  bool ignore_eos, has_seed;
  ti_strs stop;                // at most 64 of at most 4096 bytes
  ti_u32s stop_id;
  ti_sampling sampling;
  uint32_t n; int32_t priority; uint32_t timeout_ms;
  const char *api_key;
} ti_msg_submit;
typedef struct ti_msg_next { uint64_t generation; uint8_t capability[TI_CAPABILITY_BYTES]; uint32_t choice, cursor, wait_ms, max_tokens, text_cursor; } ti_msg_next;
typedef struct ti_msg_cancel { uint64_t generation; uint8_t capability[TI_CAPABILITY_BYTES]; } ti_msg_cancel;
typedef struct ti_msg_status { const char *api_key; bool metrics; } ti_msg_status;
typedef struct ti_msg_submitted { uint64_t generation; uint32_t n_prompt; uint8_t capability[TI_CAPABILITY_BYTES]; } ti_msg_submitted;
typedef struct ti_msg_tokens { uint32_t cursor; ti_u32s token; ti_f32s logprob; const char *text; uint32_t text_len, text_cursor, finish, n_token; const char *stop_reason; } ti_msg_tokens;
typedef struct ti_msg_cancelled { bool found; } ti_msg_cancelled;
typedef struct ti_rank_status { uint32_t rank; bool healthy; uint64_t step; uint32_t age_ms; const char *device, *host, *doing; uint32_t step_us; } ti_rank_status;
typedef struct ti_msg_status_reply {
  const char *model, *version; bool healthy;
  const ti_rank_status *rank; uint32_t n_rank;
  uint32_t running, waiting, pages_used, pages; uint64_t tokens;
  const char *metrics;
} ti_msg_status_reply;
typedef struct ti_msg_error { uint32_t http_code; const char *type, *message, *param; } ti_msg_error;

typedef enum ti_client_kind { TI_CLI_NONE, TI_CLI_SUBMIT, TI_CLI_NEXT, TI_CLI_CANCEL, TI_CLI_STATUS, TI_CLI_ERROR } ti_client_kind;
typedef struct ti_client_request {
  uint64_t id; ti_client_kind kind;
  union { ti_msg_submit submit; ti_msg_next next; ti_msg_cancel cancel; ti_msg_status status; };
} ti_client_request;
typedef struct ti_client_reply {
  uint64_t id; ti_client_kind kind;
  union { ti_msg_submitted submit; ti_msg_tokens next; ti_msg_cancelled cancel; ti_msg_status_reply status; ti_msg_error error; };
} ti_client_reply;
ti_status ti_wire_encode_request(const ti_client_request *m, ti_buf *out) TI_MUST_CHECK;
ti_status ti_wire_decode_request(const void *bytes, size_t n, const ti_wire_limits *lim, ti_arena *arena, ti_client_request *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_wire_encode_reply(const ti_client_reply *m, ti_buf *out) TI_MUST_CHECK;
ti_status ti_wire_decode_reply(const void *bytes, size_t n, ti_arena *arena, ti_client_reply *out, ti_error *err) TI_MUST_CHECK;

// HMAC-SHA256(secret[n], nonce | rank as 4 little-endian bytes); compare in constant time.
void ti_wire_hmac(const uint8_t *secret, size_t n, const uint8_t nonce[TI_NONCE_BYTES], uint32_t rank, uint8_t out[TI_HMAC_BYTES]);
bool ti_wire_hmac_equal(const uint8_t a[TI_HMAC_BYTES], const uint8_t b[TI_HMAC_BYTES]);
// n random bytes from the kernel. TI_ERR_IO if it has none.
ti_status ti_wire_random(void *out, size_t n) TI_MUST_CHECK;

#endif
