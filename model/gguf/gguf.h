// GGUF v3: one file with a model's metadata, tokenizer and tensors, read by mmap. This header is the container; what its keys mean is told in
// gguf_model.h.
//
//   0     4         8             16         24
//   | "GGUF" | version: u32 | n_tensor: u64 | n_kv: u64 | keys and values | tensor infos | padding | data: tensors at offsets relative to here
//   key and value: | key: string | type: u32 | value |         string: | n: u64 | n bytes |        array: | type: u32 | n: u64 | elements |
//   tensor info:   | name: string | n_dim: u32 | dims: u64 each, the fastest first | type: u32 | offset: u64, a multiple of general.alignment |
//
// Source: docs/gguf.md of github.com/ggml-org/ggml. Checked on opening: every count against the bytes that are left, every string, type, shape,
// offset and alignment, that no two tensors overlap and that no key or name comes twice. No tensor data is read until it is used.
//
// Little-endian files on little-endian machines. Immutable after opening: any thread may read.
#ifndef TI_MODEL_GGUF_GGUF_H
#define TI_MODEL_GGUF_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/dtype.h"
#include "base/status.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"

// number in the file, name, bytes of an element (0: not of one size)
#define TI_GGUF_TYPE_MAP(X)      \
  X(TI_GGUF_U8, "uint8", 1)      \
  X(TI_GGUF_I8, "int8", 1)       \
  X(TI_GGUF_U16, "uint16", 2)    \
  X(TI_GGUF_I16, "int16", 2)     \
  X(TI_GGUF_U32, "uint32", 4)    \
  X(TI_GGUF_I32, "int32", 4)     \
  X(TI_GGUF_F32, "float32", 4)   \
  X(TI_GGUF_BOOL, "bool", 1)     \
  X(TI_GGUF_STRING, "string", 0) \
  X(TI_GGUF_ARRAY, "array", 0)   \
  X(TI_GGUF_U64, "uint64", 8)    \
  X(TI_GGUF_I64, "int64", 8)     \
  X(TI_GGUF_F64, "float64", 8)

typedef enum ti_gguf_type {
#define TI_X(name, text, bytes) name,
  TI_GGUF_TYPE_MAP(TI_X)
#undef TI_X
      TI_GGUF_TYPE_COUNT
} ti_gguf_type;

typedef struct ti_gguf_kv {
  const char *key;    // NUL-terminated
  ti_gguf_type type;  // of the value; for an array: of its elements, none of which is an array
  bool array;
  uint64_t n;               // elements; 1 for a single value
  const unsigned char *at;  // the first element, in the file, not aligned
} ti_gguf_kv;

typedef struct ti_gguf {
  char *label;  // what errors call the file
  const unsigned char *map;
  size_t size;
  bool mapped;     // ours to unmap
  size_t data_at;  // where the tensors' data begins
  uint32_t alignment;
  ti_gguf_kv *kv;  // sorted by key
  size_t n_kv;
  ti_tensor *tensor;  // in the order of their data; names as the file has them; shape: the slowest dimension first, as everywhere here
  size_t n_tensor;
  uint32_t *by_name;  // [n_tensor] indices of tensor
  ti_arena text;      // keys and names
} ti_gguf;

// Maps and checks the file. Errors name the file, the key or tensor, the value and the limit. The caller closes *out.
ti_status ti_gguf_open(const char *path, ti_gguf **out, ti_error *err) TI_MUST_CHECK;
// The same over size bytes at data (aligned to 8), borrowed until close.
ti_status ti_gguf_open_memory(const void *data, size_t size, const char *label, ti_gguf **out, ti_error *err) TI_MUST_CHECK;
void ti_gguf_close(ti_gguf *g);          // NULL is fine
bool ti_gguf_is_file(const char *path);  // a regular file that begins with "GGUF" or is called *.gguf

// ---- metadata: a missing key leaves *out as it is and gives TI_OK; a value of another kind or beyond the limits is an error that names the key ----

const ti_gguf_kv *ti_gguf_find(const ti_gguf *g, const char *key);  // NULL: none. O(log n)
// Any integer type. key: at most 127 bytes.
ti_status ti_gguf_int(const ti_gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_gguf_real(const ti_gguf *g, const char *key, double lo, double hi, double *out, ti_error *err) TI_MUST_CHECK;  // F32 or F64, finite
ti_status ti_gguf_bool(const ti_gguf *g, const char *key, bool *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_gguf_string(const ti_gguf *g, const char *key, ti_tok_text *out, ti_error *err) TI_MUST_CHECK;  // borrowed from g
// Arrays: a malloc'ed copy that the caller frees; *n elements.
ti_status ti_gguf_strings(const ti_gguf *g, const char *key, ti_tok_text **out, size_t *n, ti_error *err) TI_MUST_CHECK;
ti_status ti_gguf_floats(const ti_gguf *g, const char *key, float **out, size_t *n, ti_error *err) TI_MUST_CHECK;  // of float32
ti_status ti_gguf_ints(const ti_gguf *g, const char *key, int32_t **out, size_t *n, ti_error *err) TI_MUST_CHECK;  // of int32 or uint32

// The tensor of this name, as the file spells it; NULL: none. O(log n).
const ti_tensor *ti_gguf_tensor(const ti_gguf *g, const char *name);
const char *ti_gguf_type_name(ti_gguf_type t);

#endif
