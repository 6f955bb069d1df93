// Element types of tensors, as stored. Block types hold `block` elements in `bytes` bytes; plain ones have block 1.
#ifndef TI_BASE_DTYPE_H
#define TI_BASE_DTYPE_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// name, text, elements a block, bytes a block
#define TI_DTYPE_MAP(X)          \
  X(TI_F32, "F32", 1, 4)         \
  X(TI_F16, "F16", 1, 2)         \
  X(TI_BF16, "BF16", 1, 2)       \
  X(TI_E4M3, "F8_E4M3", 1, 1)    \
  X(TI_I8, "I8", 1, 1)           \
  X(TI_U8, "U8", 1, 1)           \
  X(TI_I32, "I32", 1, 4)         \
  X(TI_I64, "I64", 1, 8)         \
  X(TI_Q4_0, "Q4_0", 32, 18)     \
  X(TI_Q4_1, "Q4_1", 32, 20)     \
  X(TI_Q5_0, "Q5_0", 32, 22)     \
  X(TI_Q5_1, "Q5_1", 32, 24)     \
  X(TI_Q8_0, "Q8_0", 32, 34)     \
  X(TI_Q4_K, "Q4_K", 256, 144)   \
  X(TI_Q5_K, "Q5_K", 256, 176)   \
  X(TI_Q6_K, "Q6_K", 256, 210)

typedef enum ti_dtype {
#define TI_X(name, text, block, bytes) name,
  TI_DTYPE_MAP(TI_X)
#undef TI_X
      TI_DTYPE_COUNT
} ti_dtype;

const char *ti_dtype_name(ti_dtype t);  // "BF16"; "?" for a value that is none
int ti_dtype_block(ti_dtype t);         // elements a block
int ti_dtype_block_bytes(ti_dtype t);
// Bytes of n elements (n must be a multiple of the block): TI_ERR_ARG if not, TI_ERR_RANGE on overflow.
ti_status ti_dtype_size(ti_dtype t, size_t n, size_t *out_bytes) TI_MUST_CHECK;
// The type called `text` ("BF16"); TI_ERR_NOTFOUND otherwise.
ti_status ti_dtype_parse(const char *text, ti_dtype *out) TI_MUST_CHECK;

#endif
