// What storing numbers as bf16 does to a model, two ways. Both are backends made of the reference's ops (fp32, one thread) that know where a bf16
// backend rounds (docs/numerics.md, "Hidden states in bf16"):
//
//   rounding_analysed   keeps every number unrounded, and beside it the variance of the error that a bf16 backend makes up to there: each op passes on
//                       the variances of its inputs by its own derivatives and adds those of its roundings (running error analysis with independent
//                       roundings). What comes out is the reference's hidden states, and for each number a standard deviation.
//   rounding_rounded    rounds, so that the whole is a bf16 model on any processor; with a fault, one that is wrong somewhere.
//
// Variances are shadow memory: device memory is one half of an arena, and the variance of the float at p stands in the other half, at p + HALF.
// Dense GQA models, one engine at a time, no recorded steps, no drafts.
#ifndef TI_TESTS_GOLDEN_ROUNDING_H
#define TI_TESTS_GOLDEN_ROUNDING_H
#include "kernels/kernel.h"

// Where is rounded. A bf16 backend: all of it; GATE_UP where silu_mul is an op of its own, which reads gate and up from memory.
enum { ROUND_KV = 1, ROUND_ACT = 2, ROUND_GATE_UP = 4 };

typedef enum rounding_fault {
  FAULT_NONE,
  FAULT_EPS,      // norms with ten times their eps
  FAULT_HEAD,     // the last q head reads another head's keys and values
  FAULT_SCALE,    // scores 1% too large
  FAULT_DOWN,     // the FFN's output 1% too large
  FAULT_PLACE,    // the first place is not attended
  FAULT_ROPE,     // one head's q is rotated as if one place further on
  FAULT_CUT,      // numbers are cut off where they should be rounded
  FAULT_COUNT
} rounding_fault;
extern const char *const rounding_fault_names[FAULT_COUNT];

const ti_kernels *rounding_analysed(unsigned places);
const ti_kernels *rounding_rounded(unsigned places, rounding_fault fault);
// The variances of what was downloaded last: what an engine's tap shows.
const float *rounding_variance(void);

#endif
