// Unpacking: protobuf-c into the caller's capped arena, then conversion with every bound checked, by the tables of wire_priv.h.
//
// protobuf-c trusts its input with memory: 2 MiB of empty submessages make it allocate 184 MiB. Its allocator here is the arena, so that such a
// message ends at the arena's cap. Each piece carries its size in front, which tells a string's true length (protobuf-c keeps only a C string):
//
//   | size (8 bytes) | what protobuf-c asked for ... |
#include <assert.h>
#include <string.h>

#include "proto/wire_priv.h"

typedef struct capped {
  ti_arena *arena;
  bool full;
} capped;

static void *capped_alloc(void *self, size_t size) {
  capped *c = self;
  size_t *p = size > SIZE_MAX - sizeof *p ? NULL : ti_arena_alloc_aligned(c->arena, size + sizeof *p, sizeof *p);
  if (!p) {
    c->full = true;
    return NULL;
  }
  *p = size;
  return p + 1;
}

static void capped_free(void *self, void *p) {}  // the arena goes as a whole

static size_t capped_size(const void *p) { return ((const size_t *)p)[-1]; }

ProtobufCMessage *ti_wire_unpack(wire_reader *r, const ProtobufCMessageDescriptor *pb, const void *bytes, size_t n) {
  const wire_path root = {NULL, pb->short_name, -1};
  if (n > TI_WIRE_MAX_BYTES) {
    ti_wire_fail(r, TI_ERR_RANGE, &root, NULL, "%zu bytes, more than %u", n, TI_WIRE_MAX_BYTES);
    return NULL;
  }
  capped c = {.arena = r->arena};
  ProtobufCAllocator allocator = {.alloc = capped_alloc, .free = capped_free, .allocator_data = &c};
  ProtobufCMessage *m = protobuf_c_message_unpack(pb, &allocator, n, bytes);
  if (m) return m;
  if (c.full) {
    ti_wire_fail(r, TI_ERR_FULL, &root, NULL, "%zu bytes unpack to more than the %zu bytes allowed", n, r->arena->cap);
  } else {
    ti_wire_fail(r, TI_ERR_FORMAT, &root, NULL, "%zu bytes are cut short, malformed, or lack a required field", n);
  }
  return NULL;
}

static bool check_text(wire_reader *r, const wire_field *f, const char *s, const wire_path *path) {
  const size_t n = capped_size(s) - 1;
  if (n < f->n_min || n > f->n_max) return ti_wire_fail(r, TI_ERR_RANGE, path, NULL, "%zu bytes are out of %u..%u", n, f->n_min, f->n_max);
  if (!ti_wire_utf8(s, n)) return ti_wire_fail(r, TI_ERR_FORMAT, path, NULL, "not valid UTF-8, or with a NUL inside");
  return true;
}

static inline double limit_of(const wire_reader *r, uint8_t limit, double hi) { return limit == WL_RANGE ? hi : r->hi[limit]; }

static bool convert_scalar(wire_reader *r, const wire_field *f, ProtobufCType type, const void *src, void *dst, const wire_path *path) {
  double v;
  switch (type) {
    case PROTOBUF_C_TYPE_UINT32: {
      uint32_t u;
      memcpy(&u, src, 4);
      memcpy(dst, &u, 4);
      v = u;
      break;
    }
    case PROTOBUF_C_TYPE_INT32: {
      int32_t i;
      memcpy(&i, src, 4);
      memcpy(dst, &i, 4);
      v = i;
      break;
    }
    case PROTOBUF_C_TYPE_FLOAT: {
      float x;
      memcpy(&x, src, 4);
      memcpy(dst, &x, 4);
      v = (double)x;
      break;
    }
    case PROTOBUF_C_TYPE_BOOL:
      *(bool *)dst = *(const protobuf_c_boolean *)src != 0;
      return true;
    default:
      assert((type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_INT64) && f->limit == WL_ANY);
      memcpy(dst, src, 8);
      return true;
  }
  return f->limit == WL_ANY || ti_wire_check_range(r, path, NULL, v, f->lo, limit_of(r, f->limit, f->hi));
}

static bool check_elements(wire_reader *r, const wire_field *f, ProtobufCType type, const void *v, uint32_t n, wire_path *path) {
  const double hi = limit_of(r, f->limit, f->hi);
  if (type == PROTOBUF_C_TYPE_UINT32) {
    const uint32_t *u = v, top = f->limit == WL_ANY ? UINT32_MAX : (uint32_t)hi;
    for (uint32_t i = 0; i < n; i++) {
      path->index = i;
      if (u[i] > top) return ti_wire_check_range(r, path, NULL, u[i], 0, hi);
    }
  } else if (type == PROTOBUF_C_TYPE_FLOAT) {
    const float *x = v;
    for (uint32_t i = 0; i < n; i++) {
      path->index = i;
      if (!ti_wire_check_range(r, path, NULL, (double)x[i], f->lo, hi)) return false;
    }
  } else {
    const char *const *s = v;
    for (uint32_t i = 0; i < n; i++) {
      path->index = i;
      if (!check_text(r, f, s[i], path)) return false;
    }
  }
  path->index = -1;
  return true;
}

static bool convert_messages(wire_reader *r, const wire_field *f, ProtobufCMessage *const *src, uint32_t n, void *dst, wire_path *path) {
  if (n == 0) return true;
  char *v = ti_arena_calloc(r->arena, n, f->sub->size);
  if (!v) return ti_wire_fail(r, TI_ERR_FULL, path, NULL, "%u elements need more than the %zu bytes allowed", n, r->arena->cap);
  for (uint32_t i = 0; i < n; i++) {
    path->index = i;
    if (!ti_wire_convert(r, f->sub, src[i], v + (size_t)i * f->sub->size, path)) return false;
  }
  memcpy(dst, &v, sizeof v);
  return true;
}

static bool convert_repeated(wire_reader *r, const wire_field *f, const ProtobufCFieldDescriptor *fd, const char *pb, char *out, wire_path *path) {
  size_t count;
  memcpy(&count, pb + fd->quantifier_offset, sizeof count);
  const double most = fd->type == PROTOBUF_C_TYPE_STRING ? f->hi : limit_of(r, f->n_limit, f->n_max);
  if ((double)count > most) return ti_wire_fail(r, TI_ERR_RANGE, path, NULL, "%zu elements are more than %.10g", count, most);
  const uint32_t n = (uint32_t)count;
  void *const *src = (void *const *)(pb + fd->offset);
  if (fd->type != PROTOBUF_C_TYPE_MESSAGE && !check_elements(r, f, fd->type, *src, n, path)) return false;
  if (f->shape == WS_INLINE_MORE) {
    uint32_t same;
    memcpy(&same, out + f->n_at, 4);
    if (!ti_wire_check_same(r, path->up, f->name, n, f[-1].name, same, false)) return false;
  }
  memcpy(out + f->n_at, &n, 4);
  if (f->shape == WS_INLINE || f->shape == WS_INLINE_MORE) {
    if (n) memcpy(out + f->at, *src, (size_t)n * 4);
    return true;
  }
  if (fd->type == PROTOBUF_C_TYPE_MESSAGE) return convert_messages(r, f, *(ProtobufCMessage *const *const *)src, n, out + f->at, path);
  memcpy(out + f->at, src, sizeof *src);
  return true;
}

static bool convert_bytes(wire_reader *r, const wire_field *f, const ProtobufCBinaryData *b, char *out, const wire_path *path) {
  if (f->shape == WS_FIXED) {
    if (b->len != f->n_max) return ti_wire_fail(r, TI_ERR_RANGE, path, NULL, "%zu bytes where %u belong", b->len, f->n_max);
    memcpy(out + f->at, b->data, b->len);
    return true;
  }
  if (b->len > f->n_max) return ti_wire_fail(r, TI_ERR_RANGE, path, NULL, "%zu bytes are out of 0..%u", b->len, f->n_max);
  const uint32_t n = (uint32_t)b->len;
  memcpy(out + f->at, &b->data, sizeof b->data);
  memcpy(out + f->n_at, &n, 4);
  return true;
}

bool ti_wire_convert(wire_reader *r, const wire_msg *m, const ProtobufCMessage *pb, void *out, const wire_path *up) {
  const wire_path root = {NULL, m->pb->short_name, -1};
  if (!up) up = &root;
  memset(out, 0, m->size);
  for (uint32_t i = 0; i < m->n_field; i++) {
    const wire_field *f = &m->field[i];
    const ProtobufCFieldDescriptor *fd = &m->pb->fields[i];
    const char *src = (const char *)pb + fd->offset;
    char *dst = (char *)out + f->at;
    wire_path path = {up, fd->name, -1};
    bool ok = true;
    if (fd->label == PROTOBUF_C_LABEL_REPEATED) {
      ok = convert_repeated(r, f, fd, (const char *)pb, out, &path);
    } else if (fd->type == PROTOBUF_C_TYPE_MESSAGE) {
      const ProtobufCMessage *sub = *(ProtobufCMessage *const *)src;
      if (sub) ok = ti_wire_convert(r, f->sub, sub, dst, &path);
    } else if (fd->type == PROTOBUF_C_TYPE_STRING) {
      const char *s = *(const char *const *)src;
      if (s) ok = check_text(r, f, s, &path);
      memcpy(dst, &s, sizeof s);
    } else if (fd->type == PROTOBUF_C_TYPE_BYTES) {
      ok = convert_bytes(r, f, (const ProtobufCBinaryData *)src, out, &path);
    } else {
      ok = convert_scalar(r, f, fd->type, src, dst, &path);
    }
    if (!ok) return false;
  }
  return !m->check || m->check(r, out, up);
}
