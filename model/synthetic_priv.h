// What turns (tensor, block number) into bytes: synthetic.c finds the tensor and shares the work, synthetic_fill.c computes. Pure functions.
#ifndef TI_MODEL_SYNTHETIC_PRIV_H
#define TI_MODEL_SYNTHETIC_PRIV_H
#include <stdint.h>

#include "base/dtype.h"

enum { TI_SYN_BLOCK = 16 };  // bytes that one Philox draw gives

typedef enum ti_syn_kind { TI_SYN_WEIGHT, TI_SYN_ONE, TI_SYN_SCALE, TI_SYN_SCORE_BIAS } ti_syn_kind;

typedef struct ti_syn_gen {
  ti_dtype dtype;
  ti_syn_kind kind;
  float amp;               // A of synthetic.h, or the largest value of the kind
  const uint8_t *e4m3_of;  // [256]: a random byte -> a weight
  uint32_t key[2], seed[2];
} ti_syn_gen;

// Blocks [b, b + n) of a tensor to dst[16 * n]. kind is not TI_SYN_ONE.
void ti_syn_fill(const ti_syn_gen *g, uint64_t b, uint64_t n, unsigned char *dst);

#endif
