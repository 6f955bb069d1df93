// The control plane's envelope and its small messages. The kinds of ti_control are the field numbers of Control's oneof.
#include "proto/wire_priv.h"
#include "titan.pb-c.h"

// A worker's capacities become the limits of its later messages, so Hello has limits of its own.
#define HELLO_SLOTS 65536.0
#define HELLO_PAGES 268435456.0
#define HELLO_PAGE_TOKENS 4096.0
#define HELLO_ROWS 1048576.0
#define HELLO_CONTEXT 16777216.0
#define HELLO_VOCAB 16777216.0
#define DRAIN_MAX_MS 86400000.0
#define PLACEMENT_LAYERS 1024
#define PLACEMENT_EXPERTS 65536.0
#define PLACEMENT_SLOTS 1048576

static const wire_field challenge_fields[] = {W_FIXED(ti_msg_challenge, nonce), W_ANY(ti_msg_challenge, version)};
static W_MSG(challenge_msg, titan__challenge__descriptor, ti_msg_challenge, challenge_fields, NULL);

static const wire_field hello_fields[] = {
    W_LIMIT(ti_msg_hello, rank, WL_RANK, 0),
    W_FIXED(ti_msg_hello, hmac),
    W_ANY(ti_msg_hello, version),
    W_RANGE(ti_msg_hello, n_slot, 0, HELLO_SLOTS),
    W_RANGE(ti_msg_hello, n_page, 0, HELLO_PAGES),
    W_RANGE(ti_msg_hello, page_tokens, 0, HELLO_PAGE_TOKENS),
    W_RANGE(ti_msg_hello, max_rows, 0, HELLO_ROWS),
    W_RANGE(ti_msg_hello, max_context, 0, HELLO_CONTEXT),
    W_RANGE(ti_msg_hello, vocab, 0, HELLO_VOCAB),
    W_TEXT(ti_msg_hello, device, 0, WIRE_NAME_BYTES),
    W_TEXT(ti_msg_hello, host, 0, WIRE_NAME_BYTES),
    W_ANY(ti_msg_hello, pid),
    W_ANY(ti_msg_hello, weight_bytes),
    W_ANY(ti_msg_hello, kv_bytes),
    W_ANY(ti_msg_hello, epoch),
};
static W_MSG(hello_msg, titan__hello__descriptor, ti_msg_hello, hello_fields, NULL);

static const wire_field welcome_fields[] = {
    W_ANY(ti_msg_welcome, epoch),
    W_LIMIT(ti_msg_welcome, n_page, WL_PAGES, 0),
    W_ANY(ti_msg_welcome, clock_us),
};
static W_MSG(welcome_msg, titan__welcome__descriptor, ti_msg_welcome, welcome_fields, NULL);

static const wire_field heartbeat_fields[] = {
    W_ANY(ti_msg_heartbeat, epoch),
    W_ANY(ti_msg_heartbeat, step),
    W_ANY(ti_msg_heartbeat, in_step_us),
    W_ANY(ti_msg_heartbeat, clock_us),
    W_TEXT(ti_msg_heartbeat, doing, 0, WIRE_NAME_BYTES),
    W_ANY(ti_msg_heartbeat, rss_bytes),
};
static W_MSG(heartbeat_msg, titan__heartbeat__descriptor, ti_msg_heartbeat, heartbeat_fields, NULL);

static const wire_field epoch_fields[] = {W_ANY(ti_msg_epoch, epoch), W_U32S(ti_msg_epoch, ranks, WL_RANK, WL_RANKS, 0)};
static W_MSG(epoch_msg, titan__epoch__descriptor, ti_msg_epoch, epoch_fields, NULL);

static const wire_field abort_fields[] = {
    W_ANY(ti_msg_abort, epoch),
    W_RANGE(ti_msg_abort, status, 0, TI_STATUS_COUNT - 1),
    W_TEXT(ti_msg_abort, message, 0, WIRE_TEXT_BYTES),
};
static W_MSG(abort_msg, titan__abort__descriptor, ti_msg_abort, abort_fields, NULL);

static const wire_field drain_fields[] = {W_RANGE(ti_msg_drain, timeout_ms, 0, DRAIN_MAX_MS)};
static W_MSG(drain_msg, titan__drain__descriptor, ti_msg_drain, drain_fields, NULL);

static const wire_field placement_fields[] = {
    W_ANY(ti_msg_placement, version),
    W_RANGE(ti_msg_placement, n_layer, 0, PLACEMENT_LAYERS),
    {.name = "slot_expert",
     .at = offsetof(ti_msg_placement, slot_expert),
     .n_at = offsetof(ti_msg_placement, slot_expert.n),
     .limit = WL_RANGE,
     .hi = PLACEMENT_EXPERTS - 1,
     .n_limit = WL_RANGE,
     .n_max = PLACEMENT_SLOTS},
};
static bool check_placement(wire_reader *r, const void *m, const wire_path *path) {
  const ti_msg_placement *p = m;
  if (p->n_layer ? p->slot_expert.n % p->n_layer == 0 : p->slot_expert.n == 0) return true;
  return ti_wire_fail(r, TI_ERR_FORMAT, path, "slot_expert", "%u elements, not as many in each of n_layer %u", p->slot_expert.n, p->n_layer);
}
static W_MSG(placement_msg, titan__placement__descriptor, ti_msg_placement, placement_fields, check_placement);

const wire_msg *const ti_wire_control_body[WIRE_CONTROL_KINDS] = {
    [TI_CTL_CHALLENGE] = &challenge_msg, [TI_CTL_HELLO] = &hello_msg,           [TI_CTL_WELCOME] = &welcome_msg,
    [TI_CTL_PLAN] = &ti_wire_plan_msg,   [TI_CTL_RESULT] = &ti_wire_result_msg, [TI_CTL_HEARTBEAT] = &heartbeat_msg,
    [TI_CTL_EPOCH] = &epoch_msg,         [TI_CTL_ABORT] = &abort_msg,           [TI_CTL_DRAIN] = &drain_msg,
    [TI_CTL_PLACEMENT] = &placement_msg,
};

ti_status ti_wire_encode_control(const ti_control *m, ti_buf *out) {
  if (m->kind <= TI_CTL_NONE || m->kind > TI_CTL_PLACEMENT) return TI_ERR_ARG;
  return ti_wire_pack(ti_wire_control_body[m->kind], &m->challenge, m->kind, false, 0, out);
}

ti_status ti_wire_decode_control(const void *bytes, size_t n, const ti_wire_limits *lim, ti_arena *arena, ti_control *out, ti_error *err) {
  wire_reader r;
  ti_wire_reader_init(&r, lim, arena, err);
  const ProtobufCMessage *pb = ti_wire_unpack(&r, &titan__control__descriptor, bytes, n);
  if (!pb) return r.st;
  const Titan__Control *c = (const Titan__Control *)pb;
  const unsigned kind = c->body_case;
  if (kind <= TI_CTL_NONE || kind > TI_CTL_PLACEMENT) return ti_error_set(err, TI_ERR_FORMAT, "Control: no body of a known kind");
  ti_control m = {.kind = (ti_control_kind)kind};
  if (!ti_wire_convert(&r, ti_wire_control_body[m.kind], &c->challenge->base, &m.challenge, NULL)) return r.st;
  *out = m;
  return TI_OK;
}

ti_control_kind ti_wire_control_kind(const void *bytes, size_t n) {
  const unsigned tag = n ? *(const uint8_t *)bytes : 0;  // of the oneof's member: field number << 3 | length-delimited
  const unsigned kind = tag >> 3;
  return (tag & 7) == 2 && kind <= TI_CTL_PLACEMENT ? (ti_control_kind)kind : TI_CTL_NONE;
}
