// The client plane: libtitan <-> front door. A kind is its field number in the oneof, less one (field 1 is the request's id).
#include <string.h>

#include "proto/wire_priv.h"
#include "titan.pb-c.h"

#define TIMEOUT_MAX_MS 86400000.0
#define WAIT_MAX_MS 60000.0
#define RANK_MAX 65536

static const wire_field submit_fields[] = {
    W_TEXT(ti_msg_submit, client_id, 1, 128),
    W_ANY(ti_msg_submit, nonce),
    W_TEXT(ti_msg_submit, prompt, 0, TI_WIRE_MAX_BYTES),
    W_U32S(ti_msg_submit, prompt_ids, WL_TOKEN, WL_CONTEXT, 0),
    W_TEXT(ti_msg_submit, messages_json, 1, TI_WIRE_MAX_BYTES),
    W_LIMIT(ti_msg_submit, max_tokens, WL_CONTEXT, 0),
    W_LIMIT(ti_msg_submit, min_tokens, WL_CONTEXT, 0),
    W_ANY(ti_msg_submit, ignore_eos),
    {.name = "stop",
     .at = offsetof(ti_msg_submit, stop),
     .n_at = offsetof(ti_msg_submit, stop.n),
     .n_min = 1,
     .n_max = WIRE_STOP_BYTES,
     .hi = WIRE_STOP_MAX},
    W_U32S(ti_msg_submit, stop_id, WL_TOKEN, WL_RANGE, WIRE_STOP_MAX),
    W_ONE(ti_msg_submit, sampling, &ti_wire_sampling_msg),
    W_RANGE(ti_msg_submit, n, 1, WIRE_CHOICES_MAX),
    W_ANY(ti_msg_submit, priority),
    W_RANGE(ti_msg_submit, timeout_ms, 0, TIMEOUT_MAX_MS),
    W_TEXT(ti_msg_submit, api_key, 0, WIRE_NAME_BYTES),
    W_ANY(ti_msg_submit, has_seed),
    W_TEXT(ti_msg_submit, tools_json, 0, TI_WIRE_MAX_BYTES),
};

static bool check_submit(wire_reader *r, const void *m, const wire_path *path) {
  const ti_msg_submit *s = m;
  const int given = (s->prompt != NULL) + (s->prompt_ids.n > 0) + (s->messages_json != NULL);
  if (given != 1) return ti_wire_fail(r, TI_ERR_FORMAT, path, "prompt", "%d of prompt, prompt_ids and messages_json given, exactly 1 belongs", given);
  return ti_wire_check_range(r, path, "min_tokens", s->min_tokens, 0, s->max_tokens);
}
static W_MSG(submit_msg, titan__submit_request__descriptor, ti_msg_submit, submit_fields, check_submit);

static const wire_field next_fields[] = {
    W_ANY(ti_msg_next, generation),
    W_FIXED(ti_msg_next, capability),
    W_RANGE(ti_msg_next, choice, 0, WIRE_CHOICES_MAX - 1),
    W_ANY(ti_msg_next, cursor),
    W_RANGE(ti_msg_next, wait_ms, 0, WAIT_MAX_MS),
    W_ANY(ti_msg_next, max_tokens),
    W_ANY(ti_msg_next, text_cursor),
};
static W_MSG(next_msg, titan__next_request__descriptor, ti_msg_next, next_fields, NULL);

static const wire_field cancel_fields[] = {W_ANY(ti_msg_cancel, generation), W_FIXED(ti_msg_cancel, capability)};
static W_MSG(cancel_msg, titan__cancel_request__descriptor, ti_msg_cancel, cancel_fields, NULL);

static const wire_field status_fields[] = {W_TEXT(ti_msg_status, api_key, 0, WIRE_NAME_BYTES), W_ANY(ti_msg_status, metrics)};
static W_MSG(status_msg, titan__status_request__descriptor, ti_msg_status, status_fields, NULL);

static const wire_field submitted_fields[] = {
    W_ANY(ti_msg_submitted, generation),
    W_ANY(ti_msg_submitted, n_prompt),
    W_FIXED(ti_msg_submitted, capability),
};
static W_MSG(submitted_msg, titan__submit_reply__descriptor, ti_msg_submitted, submitted_fields, NULL);

static const wire_field tokens_fields[] = {
    W_ANY(ti_msg_tokens, cursor),
    W_U32S(ti_msg_tokens, token, WL_ANY, WL_CONTEXT, 0),
    {.name = "text", .at = offsetof(ti_msg_tokens, text), .n_at = offsetof(ti_msg_tokens, text_len), .shape = WS_BLOB, .n_max = TI_WIRE_MAX_BYTES},
    W_ANY(ti_msg_tokens, text_cursor),
    W_RANGE(ti_msg_tokens, finish, 0, TI_FINISH_COUNT - 1),
    W_F32S(ti_msg_tokens, logprob, -FLT_MAX, FLT_MAX, WL_CONTEXT, 0),
    {.name = "total", .at = offsetof(ti_msg_tokens, n_token)},  // protobuf-c calls the count of `token` n_token
    W_TEXT(ti_msg_tokens, stop_reason, 0, WIRE_STOP_BYTES),
};

static bool check_tokens(wire_reader *r, const void *m, const wire_path *path) {
  const ti_msg_tokens *t = m;
  return ti_wire_check_same(r, path, "logprob", t->logprob.n, "token", t->token.n, true);
}
static W_MSG(tokens_msg, titan__next_reply__descriptor, ti_msg_tokens, tokens_fields, check_tokens);

static const wire_field cancelled_fields[] = {W_ANY(ti_msg_cancelled, found)};
static W_MSG(cancelled_msg, titan__cancel_reply__descriptor, ti_msg_cancelled, cancelled_fields, NULL);

static const wire_field rank_fields[] = {
    W_RANGE(ti_rank_status, rank, 0, RANK_MAX - 1),
    W_ANY(ti_rank_status, healthy),
    W_ANY(ti_rank_status, step),
    W_ANY(ti_rank_status, age_ms),
    W_TEXT(ti_rank_status, device, 0, WIRE_NAME_BYTES),
    W_TEXT(ti_rank_status, host, 0, WIRE_NAME_BYTES),
    W_TEXT(ti_rank_status, doing, 0, WIRE_NAME_BYTES),
    W_ANY(ti_rank_status, step_us),
};
static W_MSG(rank_msg, titan__rank_status__descriptor, ti_rank_status, rank_fields, NULL);

static const wire_field status_reply_fields[] = {
    W_TEXT(ti_msg_status_reply, model, 0, WIRE_TEXT_BYTES),
    W_TEXT(ti_msg_status_reply, version, 0, WIRE_NAME_BYTES),
    W_ANY(ti_msg_status_reply, healthy),
    W_MANY(ti_msg_status_reply, rank, n_rank, &rank_msg, WL_RANGE, RANK_MAX),
    W_ANY(ti_msg_status_reply, running),
    W_ANY(ti_msg_status_reply, waiting),
    W_ANY(ti_msg_status_reply, pages_used),
    W_ANY(ti_msg_status_reply, pages),
    W_TEXT(ti_msg_status_reply, metrics, 0, TI_WIRE_MAX_BYTES),
    W_ANY(ti_msg_status_reply, tokens),
};
static W_MSG(status_reply_msg, titan__status_reply__descriptor, ti_msg_status_reply, status_reply_fields, NULL);

static const wire_field error_fields[] = {
    W_RANGE(ti_msg_error, http_code, 400, 599),
    W_TEXT(ti_msg_error, type, 0, WIRE_NAME_BYTES),
    W_TEXT(ti_msg_error, message, 0, WIRE_TEXT_BYTES),
    W_TEXT(ti_msg_error, param, 0, WIRE_NAME_BYTES),
};
static W_MSG(error_msg, titan__error_reply__descriptor, ti_msg_error, error_fields, NULL);

const wire_msg *const ti_wire_request_body[WIRE_CLIENT_KINDS] = {
    [TI_CLI_SUBMIT + 1] = &submit_msg, [TI_CLI_NEXT + 1] = &next_msg, [TI_CLI_CANCEL + 1] = &cancel_msg, [TI_CLI_STATUS + 1] = &status_msg};
const wire_msg *const ti_wire_reply_body[WIRE_CLIENT_KINDS] = {
    [TI_CLI_SUBMIT + 1] = &submitted_msg,    [TI_CLI_NEXT + 1] = &tokens_msg, [TI_CLI_CANCEL + 1] = &cancelled_msg,
    [TI_CLI_STATUS + 1] = &status_reply_msg, [TI_CLI_ERROR + 1] = &error_msg,
};

ti_status ti_wire_encode_request(const ti_client_request *m, ti_buf *out) {
  if (m->kind < TI_CLI_SUBMIT || m->kind > TI_CLI_STATUS) return TI_ERR_ARG;
  return ti_wire_pack(ti_wire_request_body[m->kind + 1], &m->submit, (uint32_t)m->kind + 1, true, m->id, out);
}

ti_status ti_wire_encode_reply(const ti_client_reply *m, ti_buf *out) {
  if (m->kind < TI_CLI_SUBMIT || m->kind > TI_CLI_ERROR) return TI_ERR_ARG;
  return ti_wire_pack(ti_wire_reply_body[m->kind + 1], &m->submit, (uint32_t)m->kind + 1, true, m->id, out);
}

ti_status ti_wire_decode_request(const void *bytes, size_t n, const ti_wire_limits *lim, ti_arena *arena, ti_client_request *out, ti_error *err) {
  wire_reader r;
  ti_wire_reader_init(&r, lim, arena, err);
  const ProtobufCMessage *pb = ti_wire_unpack(&r, &titan__client_request__descriptor, bytes, n);
  if (!pb) return r.st;
  const Titan__ClientRequest *c = (const Titan__ClientRequest *)pb;
  const unsigned field = c->body_case;
  if (field < 2 || field > TI_CLI_STATUS + 1) return ti_error_set(err, TI_ERR_FORMAT, "ClientRequest: no body of a known kind");
  ti_client_request m = {.id = c->id, .kind = (ti_client_kind)(field - 1)};
  if (!ti_wire_convert(&r, ti_wire_request_body[field], &c->submit->base, &m.submit, NULL)) return r.st;
  *out = m;
  return TI_OK;
}

ti_status ti_wire_decode_reply(const void *bytes, size_t n, ti_arena *arena, ti_client_reply *out, ti_error *err) {
  wire_reader r;
  ti_wire_reader_init(&r, NULL, arena, err);
  const ProtobufCMessage *pb = ti_wire_unpack(&r, &titan__client_reply__descriptor, bytes, n);
  if (!pb) return r.st;
  const Titan__ClientReply *c = (const Titan__ClientReply *)pb;
  const unsigned field = c->body_case;
  if (field < 2 || field > TI_CLI_ERROR + 1) return ti_error_set(err, TI_ERR_FORMAT, "ClientReply: no body of a known kind");
  ti_client_reply m = {.id = c->id, .kind = (ti_client_kind)(field - 1)};
  if (!ti_wire_convert(&r, ti_wire_reply_body[field], &c->submit->base, &m.submit, NULL)) return r.st;
  *out = m;
  return TI_OK;
}
