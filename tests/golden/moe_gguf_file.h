// A DeepSeek-V3 checkpoint as a deepseek2 GGUF file in memory, as converters of llama.cpp write it: experts stacked, kv_b whole or as halves,
// matrices in a block type.
#ifndef TI_TESTS_GOLDEN_MOE_GGUF_FILE_H
#define TI_TESTS_GOLDEN_MOE_GGUF_FILE_H
#include "model/checkpoint.h"

typedef struct moe_gguf_options {
  ti_dtype type;  // of the matrices: F32, Q8_0, Q4_K. Rows that are no whole Q4_K blocks become Q8_0; router and vectors stay F32
  bool split;     // attn_k_b and attn_v_b in place of attn_kv_b
  bool numbers;   // what `type` keeps of the weights, written as F32
} moe_gguf_options;

// Without cfg's MTP layers. malloc'ed; NULL with a printed error.
unsigned char *moe_gguf_make(const ti_config *cfg, const ti_checkpoint *ck, const moe_gguf_options *o, size_t *size);

#endif
