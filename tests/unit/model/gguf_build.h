// GGUF files in memory for the tests: keys first, then tensors; gb_finish writes the counts, the infos and zeroed (or given) data.
#ifndef TI_TESTS_GGUF_BUILD_H
#define TI_TESTS_GGUF_BUILD_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/gguf/gguf.h"

typedef struct gb {
  ti_buf kv, info;
  uint64_t n_kv, n_tensor, at;  // at: the next tensor's offset
  uint32_t version, alignment;
  const void *data[512];
  uint64_t offset[512], bytes[512];
} gb;

static inline void gb_init(gb *b) {
  memset(b, 0, sizeof *b);
  ti_buf_init(&b->kv, 1 << 22);
  ti_buf_init(&b->info, 1 << 22);
  b->version = 3;
  b->alignment = 32;
}

static inline void gb_raw(ti_buf *b, const void *p, size_t n) { (void)ti_buf_append(b, p, n); }
static inline void gb_u32(ti_buf *b, uint32_t v) { gb_raw(b, &v, 4); }
static inline void gb_u64(ti_buf *b, uint64_t v) { gb_raw(b, &v, 8); }
static inline void gb_str(ti_buf *b, const char *s) {
  gb_u64(b, strlen(s));
  gb_raw(b, s, strlen(s));
}
static inline void gb_key(gb *b, const char *key, uint32_t type) {
  gb_str(&b->kv, key);
  gb_u32(&b->kv, type);
  b->n_kv++;
}
static inline void gb_int(gb *b, const char *key, uint32_t v) {
  gb_key(b, key, TI_GGUF_U32);
  gb_u32(&b->kv, v);
}
static inline void gb_real(gb *b, const char *key, float v) {
  gb_key(b, key, TI_GGUF_F32);
  gb_raw(&b->kv, &v, 4);
}
static inline void gb_bool(gb *b, const char *key, bool v) {
  gb_key(b, key, TI_GGUF_BOOL);
  gb_raw(&b->kv, &(char){v}, 1);
}
static inline void gb_text(gb *b, const char *key, const char *s) {
  gb_key(b, key, TI_GGUF_STRING);
  gb_str(&b->kv, s);
}
static inline void gb_array(gb *b, const char *key, uint32_t type, uint64_t n) {
  gb_key(b, key, TI_GGUF_ARRAY);
  gb_u32(&b->kv, type);
  gb_u64(&b->kv, n);
}
static inline void gb_texts(gb *b, const char *key, const char *const *s, size_t n) {
  gb_array(b, key, TI_GGUF_STRING, n);
  for (size_t i = 0; i < n; i++) gb_str(&b->kv, s[i]);
}

static inline void gb_info(gb *b, const char *name, int n_dim, const uint64_t *dims, uint32_t type, uint64_t offset) {
  gb_str(&b->info, name);
  gb_u32(&b->info, (uint32_t)n_dim);
  for (int i = 0; i < n_dim; i++) gb_u64(&b->info, dims[i]);
  gb_u32(&b->info, type);
  gb_u64(&b->info, offset);
  b->n_tensor++;
}

// A tensor with dims fastest first (0: ends), of `bytes` bytes, at the next free offset; data NULL: zeros.
static inline void gb_tensor(gb *b, const char *name, uint64_t d0, uint64_t d1, uint64_t d2, uint32_t type, uint64_t bytes, const void *data) {
  const uint64_t dims[3] = {d0, d1, d2};
  b->data[b->n_tensor] = data;
  b->offset[b->n_tensor] = b->at;
  b->bytes[b->n_tensor] = bytes;
  gb_info(b, name, d2 ? 3 : d1 ? 2 : 1, dims, type, b->at);
  b->at = (b->at + bytes + b->alignment - 1) / b->alignment * b->alignment;
}

static inline void gb_f32(gb *b, const char *name, uint64_t d0, uint64_t d1, uint64_t d2, const float *data) {
  gb_tensor(b, name, d0, d1, d2, 0, d0 * (d1 ? d1 : 1) * (d2 ? d2 : 1) * 4, data);
}

// The file, malloc'ed; *size its bytes. b may be finished again after more keys or tensors.
static inline unsigned char *gb_finish(gb *b, size_t *size) {
  const size_t head = 24 + b->kv.len + b->info.len, data_at = (head + b->alignment - 1) / b->alignment * b->alignment;
  *size = b->n_tensor ? data_at + (size_t)b->at : head;
  unsigned char *m = calloc(1, *size + 1);
  memcpy(m, "GGUF", 4);
  memcpy(m + 4, &b->version, 4);
  memcpy(m + 8, &b->n_tensor, 8);
  memcpy(m + 16, &b->n_kv, 8);
  if (b->kv.len) memcpy(m + 24, b->kv.data, b->kv.len);
  if (b->info.len) memcpy(m + 24 + b->kv.len, b->info.data, b->info.len);
  for (uint64_t i = 0; i < b->n_tensor && i < 512; i++)
    if (b->data[i]) memcpy(m + data_at + b->offset[i], b->data[i], b->bytes[i]);
  return m;
}

static inline void gb_fini(gb *b) {
  ti_buf_fini(&b->kv);
  ti_buf_fini(&b->info);
}

#endif
