// The engine behind wire.h: one table row a field, from which packing, conversion, bounds and error texts all follow.
//
//   titan.proto --protoc-c--> ProtobufCMessageDescriptor: number, name, type, label, default of each field
//   wire_*.c    -----------> wire_msg: row i belongs to the descriptor's i-th field and says where it stands in our struct and what bounds it
//
//   encode   struct --rows--> bytes                        (wire_encode.c; no malloc but the ti_buf's growth)
//   decode   bytes --protobuf-c, capped arena--> pb struct --rows: check and convert--> struct     (wire_decode.c)
//
// Packed arrays and strings are not copied on conversion: both structs point at the same arena.
#ifndef TI_PROTO_WIRE_PRIV_H
#define TI_PROTO_WIRE_PRIV_H
#include <float.h>
#include <protobuf-c/protobuf-c.h>

#include "proto/wire.h"

// What bounds a value (or a count). With a limit of zero in ti_wire_limits only 0 passes.
typedef enum wire_limit {
  WL_ANY,
  WL_RANGE,  // lo..hi of the row
  WL_RANK,   // lo..n - 1: an index
  WL_SLOT,
  WL_PAGE,
  WL_TOKEN,
  WL_RANKS,  // lo..n: a count
  WL_SLOTS,
  WL_PAGES,
  WL_ROWS,
  WL_CONTEXT,
  WL_VOCAB,
  WL_COUNT
} wire_limit;

typedef enum wire_shape {
  WS_PLAIN,       // a scalar, a pointer to text, an embedded struct, {v, n}, or an array pointer with a count
  WS_FIXED,       // bytes of exactly n_max, inside the struct
  WS_BLOB,        // bytes: pointer and uint32 length
  WS_INLINE,      // at most n_max elements inside the struct, their uint32 count at n_at
  WS_INLINE_MORE  // likewise, with as many elements as the WS_INLINE field before
} wire_shape;

typedef struct wire_msg wire_msg;
typedef struct wire_field {
  const char *name;       // equals the descriptor's (a test compares them)
  uint16_t at, n_at;      // offsets in the struct: the value or array, its count
  uint8_t shape;          // wire_shape
  uint8_t limit;          // wire_limit of the value or of each element
  uint8_t n_limit;        // wire_limit of the number of elements or bytes
  uint32_t n_min, n_max;  // elements or bytes, with n_limit WL_RANGE
  double lo, hi;          // of the value or of each element; repeated text: hi bounds the count, n_min..n_max the bytes of each
  const wire_msg *sub;
} wire_field;

typedef struct wire_path {  // for error texts only
  const struct wire_path *up;
  const char *name;
  int64_t index;  // -1: none
} wire_path;

typedef struct wire_reader {
  ti_arena *arena;
  ti_error *err;
  ti_status st;
  double hi[WL_COUNT];
} wire_reader;

struct wire_msg {
  const ProtobufCMessageDescriptor *pb;
  const wire_field *field;
  uint32_t n_field, size;                                               // size of our struct
  bool (*check)(wire_reader *r, const void *m, const wire_path *path);  // what spans several fields; NULL: nothing does
};

#define W_ANY(T, m) \
  { .name = #m, .at = offsetof(T, m) }
#define W_RANGE(T, m, l, h) \
  { .name = #m, .at = offsetof(T, m), .limit = WL_RANGE, .lo = (l), .hi = (h) }
#define W_LIMIT(T, m, w, l) \
  { .name = #m, .at = offsetof(T, m), .limit = (w), .lo = (l) }
#define W_FLOAT(T, m) W_RANGE(T, m, -FLT_MAX, FLT_MAX)
#define W_TEXT(T, m, min, max) \
  { .name = #m, .at = offsetof(T, m), .n_limit = WL_RANGE, .n_min = (min), .n_max = (max) }
#define W_FIXED(T, m) \
  { .name = #m, .at = offsetof(T, m), .shape = WS_FIXED, .n_max = sizeof(((T *)0)->m) }
#define W_U32S(T, m, w, nw, max) \
  { .name = #m, .at = offsetof(T, m), .n_at = offsetof(T, m.n), .limit = (w), .n_limit = (nw), .n_max = (max) }
#define W_F32S(T, m, l, h, nw, max) \
  { .name = #m, .at = offsetof(T, m), .n_at = offsetof(T, m.n), .limit = WL_RANGE, .lo = (l), .hi = (h), .n_limit = (nw), .n_max = (max) }
#define W_ONE(T, m, s) \
  { .name = #m, .at = offsetof(T, m), .sub = (s) }
#define W_MANY(T, m, n_m, s, nw, max) \
  { .name = #m, .at = offsetof(T, m), .n_at = offsetof(T, n_m), .sub = (s), .n_limit = (nw), .n_max = (max) }
#define W_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define W_MSG(var, descriptor, T, fields, check_) \
  const wire_msg var = {.pb = &(descriptor), .field = (fields), .n_field = W_COUNT(fields), .size = sizeof(T), .check = (check_)}

// Bounds shared by the tables.
enum {
  WIRE_STOP_MAX = 64,
  WIRE_CHOICES_MAX = 128,
  WIRE_STOP_BYTES = 4096,
  WIRE_BIAS_MAX = 1024,
  WIRE_DRAFT_MAX = 63,  // with their root 64 rows: the bits of ti_batch.mask
  WIRE_NAME_BYTES = 256,
  WIRE_TEXT_BYTES = 4096
};

extern const wire_msg ti_wire_sampling_msg, ti_wire_plan_msg, ti_wire_result_msg;
// Every message of each plane; index = field number in Control, ClientRequest, ClientReply; [0] is NULL.
enum { WIRE_CONTROL_KINDS = 11, WIRE_CLIENT_KINDS = 7 };
extern const wire_msg *const ti_wire_control_body[WIRE_CONTROL_KINDS], *const ti_wire_request_body[WIRE_CLIENT_KINDS],
                                                                           *const ti_wire_reply_body[WIRE_CLIENT_KINDS];

// ---- wire_encode.c ----
// Appends body as field `number` (length-delimited), after `id` as field 1 when has_id. On failure out is as it was.
ti_status ti_wire_pack(const wire_msg *m, const void *body, uint32_t number, bool has_id, uint64_t id, ti_buf *out) TI_MUST_CHECK;

// ---- wire_decode.c ----
// Unpacks an envelope; the result lies in r->arena. NULL: r->st and r->err say why.
ProtobufCMessage *ti_wire_unpack(wire_reader *r, const ProtobufCMessageDescriptor *pb, const void *bytes, size_t n);
// Checks and converts; false: r->st and r->err say why. `out` is then undefined.
bool ti_wire_convert(wire_reader *r, const wire_msg *m, const ProtobufCMessage *pb, void *out, const wire_path *up);

// ---- wire_check.c ----
void ti_wire_reader_init(wire_reader *r, const ti_wire_limits *lim, ti_arena *arena, ti_error *err);  // lim NULL: no limits
// Fills r->err with "StepPlan.row[3].slot: <text>"; returns false. `leaf` may be NULL.
bool ti_wire_fail(wire_reader *r, ti_status st, const wire_path *path, const char *leaf, const char *fmt, ...) TI_PRINTF(5, 6);
// "name: <v> is out of <lo>..<hi>"
bool ti_wire_check_range(wire_reader *r, const wire_path *path, const char *leaf, double v, double lo, double hi);
// `name` has n elements while `of` has m: equal, or (none allowed) n is 0.
bool ti_wire_check_same(wire_reader *r, const wire_path *path, const char *name, uint32_t n, const char *of, uint32_t m, bool none_allowed);
bool ti_wire_utf8(const char *s, size_t n);  // valid (RFC 3629), without NUL

#endif
