// Packing: struct -> protobuf bytes, by the tables of wire_priv.h. Runs every step on the coordinator's loop and on workers.
//
// Bytes go straight into the ti_buf. A length is not known before its contents: one byte is left for it and the contents move up when the length
// needs more (256 rows of a step need none; the envelope of 10 kB moves once).
#include <assert.h>
#include <string.h>

#include "proto/wire_priv.h"

enum { VARINT_MAX = 10, SLACK = 1024 };

typedef struct writer {
  ti_buf *buf;
  uint8_t *at, *end;  // the reserved, not yet committed part
  ti_status st;
} writer;

static void settle(writer *w) {
  if (!w->at) return;  // nothing reserved yet: the buffer may have no memory
  const size_t used = (size_t)(w->at - (uint8_t *)w->buf->data) - w->buf->len;
  if (used) ti_buf_commit(w->buf, used);
}

static bool need_slow(writer *w, size_t n) {
  if (w->st != TI_OK) return false;
  settle(w);
  const size_t room = w->buf->max - w->buf->len;
  const size_t want = n + SLACK <= room ? n + SLACK : n;
  char *p;
  w->st = ti_buf_reserve(w->buf, want, &p);
  if (w->st != TI_OK) {
    w->at = w->end = NULL;
    return false;
  }
  w->at = (uint8_t *)p;
  w->end = w->at + want;
  return true;
}

static inline bool need(writer *w, size_t n) { return (size_t)(w->end - w->at) >= n || need_slow(w, n); }

static inline uint8_t *put_varint(uint8_t *p, uint64_t v) {
  while (v >= 0x80) {
    *p++ = (uint8_t)(v | 0x80);
    v >>= 7;
  }
  *p++ = (uint8_t)v;
  return p;
}

static inline void put_tag(writer *w, uint32_t number, unsigned wire_type) { w->at = put_varint(w->at, (uint64_t)number << 3 | wire_type); }

enum { WT_VARINT = 0, WT_BYTES = 2, WT_32 = 5 };

// Opens a length-delimited field; the returned mark is an offset, for the buffer may move.
static size_t open_field(writer *w, uint32_t number) {
  if (!need(w, VARINT_MAX + 1)) return 0;
  put_tag(w, number, WT_BYTES);
  const size_t mark = (size_t)(w->at - (uint8_t *)w->buf->data);
  w->at++;
  return mark;
}

static void close_field(writer *w, size_t mark) {
  if (w->st != TI_OK) return;
  size_t n = (size_t)(w->at - (uint8_t *)w->buf->data) - mark - 1, more = 0;
  for (size_t v = n; v >= 0x80; v >>= 7) more++;
  if (more && !need(w, more)) return;
  uint8_t *p = (uint8_t *)w->buf->data + mark;
  if (more) memmove(p + 1 + more, p + 1, n);
  w->at += more;
  put_varint(p, n);
}

static void put_bytes(writer *w, uint32_t number, const void *data, size_t n) {
  if (!need(w, 2 * VARINT_MAX + n)) return;
  put_tag(w, number, WT_BYTES);
  w->at = put_varint(w->at, n);
  if (n) memcpy(w->at, data, n);
  w->at += n;
}

static void put_u32s(writer *w, uint32_t number, const uint32_t *v, uint32_t n) {
  if (n == 0) return;
  const size_t mark = open_field(w, number);
  if (!need(w, (size_t)n * 5)) return;
  uint8_t *p = w->at;
  for (uint32_t i = 0; i < n; i++) p = put_varint(p, v[i]);
  w->at = p;
  close_field(w, mark);
}

static uint64_t scalar_bits(ProtobufCType type, const void *p) {
  switch (type) {
    case PROTOBUF_C_TYPE_UINT32:
      return *(const uint32_t *)p;
    case PROTOBUF_C_TYPE_INT32:
      return (uint64_t)(int64_t) * (const int32_t *)p;
    case PROTOBUF_C_TYPE_BOOL:
      return *(const bool *)p;
    case PROTOBUF_C_TYPE_FLOAT: {
      uint32_t u;
      memcpy(&u, p, 4);
      return u;
    }
    default:
      assert(type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_INT64);
      return *(const uint64_t *)p;
  }
}

// pb defaults have the same C types as our fields (bool: an int there, but none of ours has a default).
static void put_scalar(writer *w, const ProtobufCFieldDescriptor *fd, const void *p) {
  const uint64_t v = scalar_bits(fd->type, p);
  if (fd->label == PROTOBUF_C_LABEL_OPTIONAL && v == (fd->default_value ? scalar_bits(fd->type, fd->default_value) : 0)) return;
  if (!need(w, 2 * VARINT_MAX)) return;
  if (fd->type == PROTOBUF_C_TYPE_FLOAT) {
    put_tag(w, fd->id, WT_32);
    const uint32_t u = (uint32_t)v;
    memcpy(w->at, &u, 4);  // little-endian hosts only, as protobuf-c's own fast path
    w->at += 4;
  } else {
    put_tag(w, fd->id, WT_VARINT);
    w->at = put_varint(w->at, v);
  }
}

static void put_message(writer *w, const wire_msg *m, const void *body);

static void put_submessage(writer *w, uint32_t number, const wire_msg *m, const void *body) {
  const size_t mark = open_field(w, number);
  put_message(w, m, body);
  close_field(w, mark);
}

static void put_repeated(writer *w, const wire_field *f, const ProtobufCFieldDescriptor *fd, const char *body) {
  uint32_t n;
  memcpy(&n, body + f->n_at, 4);
  const bool in_place = f->shape == WS_INLINE || f->shape == WS_INLINE_MORE;
  if (in_place && n > f->n_max) {
    w->st = TI_ERR_ARG;
    return;
  }
  const void *v = in_place ? (const void *)(body + f->at) : *(void *const *)(body + f->at);
  if (fd->type == PROTOBUF_C_TYPE_UINT32) {
    put_u32s(w, fd->id, v, n);
  } else if (fd->type == PROTOBUF_C_TYPE_FLOAT) {
    if (n) put_bytes(w, fd->id, v, (size_t)n * 4);
  } else if (fd->type == PROTOBUF_C_TYPE_STRING) {
    for (uint32_t i = 0; i < n; i++) {
      const char *s = ((const char *const *)v)[i];
      put_bytes(w, fd->id, s, strlen(s));
    }
  } else {
    for (uint32_t i = 0; i < n && w->st == TI_OK; i++) put_submessage(w, fd->id, f->sub, (const char *)v + (size_t)i * f->sub->size);
  }
}

static void put_message(writer *w, const wire_msg *m, const void *body) {
  for (uint32_t i = 0; i < m->n_field && w->st == TI_OK; i++) {
    const wire_field *f = &m->field[i];
    const ProtobufCFieldDescriptor *fd = &m->pb->fields[i];
    const char *p = (const char *)body + f->at;
    if (fd->label == PROTOBUF_C_LABEL_REPEATED) {
      put_repeated(w, f, fd, body);
    } else if (fd->type == PROTOBUF_C_TYPE_MESSAGE) {
      put_submessage(w, fd->id, f->sub, p);
    } else if (fd->type == PROTOBUF_C_TYPE_STRING) {
      const char *s = *(const char *const *)p;
      if (s || fd->label == PROTOBUF_C_LABEL_REQUIRED) put_bytes(w, fd->id, s, s ? strlen(s) : 0);
    } else if (fd->type == PROTOBUF_C_TYPE_BYTES && f->shape == WS_FIXED) {
      put_bytes(w, fd->id, p, f->n_max);
    } else if (fd->type == PROTOBUF_C_TYPE_BYTES) {
      uint32_t n;
      memcpy(&n, (const char *)body + f->n_at, 4);
      if (n) put_bytes(w, fd->id, *(const void *const *)p, n);
    } else {
      put_scalar(w, fd, p);
    }
  }
}

ti_status ti_wire_pack(const wire_msg *m, const void *body, uint32_t number, bool has_id, uint64_t id, ti_buf *out) {
  const size_t len = out->len;
  writer w = {.buf = out};
  if (has_id && need(&w, 2 * VARINT_MAX)) {
    put_tag(&w, 1, WT_VARINT);
    w.at = put_varint(w.at, id);
  }
  put_submessage(&w, number, m, body);
  if (w.st == TI_OK) settle(&w);
  if (w.st != TI_OK) {
    out->len = len;
    if (out->data) out->data[len] = 0;
  }
  return w.st;
}
