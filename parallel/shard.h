// Shards of a checkpoint's tensors: which rows and columns of a matrix a rank holds, and the kernels' source description of exactly that part.
//
//   column shard: rows of W (q, k, v, gate, up, lm_head)      row shard: columns of W (o, down); the partial products are summed over the ranks
//
//        W [rows, cols]                                             W [rows, cols]
//        +-------------+                                            +----+----+----+
//        |   rank 0    |                                            |    |    |    |
//        +-------------+  r0, rn                                    | 0  | 1  | 2  |
//        |   rank 1    |                                            |    |    |    |
//        +-------------+                                            +----+----+----+  c0, cn
//
// Fused matrices (q|k|v, gate|up) are one ti_weight_src a part: ti_weight stacks up to TI_WEIGHT_PARTS of them.
//
// FP8 block scales: <name>_scale_inv is [ceil(rows / block_n), ceil(cols / block_k)] fp32. A shard that starts inside a block keeps the covering
// scales and says where it starts (row0, col0):
//
//            c0                     scale blocks   |  0  |  1  |  2  |     out->scale = &scale[r0 / bn][c0 / bk], scale_ld = blocks a row
//       .....[=====shard=====]..                      ^ col0 = c0 % bk
//
// Set-up only. Pure functions of their arguments; thread-safe but for the arena.
#ifndef TI_PARALLEL_SHARD_H
#define TI_PARALLEL_SHARD_H
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kernel.h"
#include "model/checkpoint.h"

// Part of a matrix: rows [r0, r0 + rn) x columns [c0, c0 + cn) of [rows, cols].
typedef struct ti_slice {
  int64_t rows, cols, r0, rn, c0, cn;
} ti_slice;

static inline ti_slice ti_slice_all(int64_t rows, int64_t cols) { return (ti_slice){rows, cols, 0, rows, 0, cols}; }
static inline ti_slice ti_slice_rows(int64_t rows, int64_t cols, int64_t r0, int64_t rn) { return (ti_slice){rows, cols, r0, rn, 0, cols}; }
static inline ti_slice ti_slice_cols(int64_t rows, int64_t cols, int64_t c0, int64_t cn) { return (ti_slice){rows, cols, 0, rows, c0, cn}; }

// The i-th of `parts` shares of n things given out in whole units (the last unit may be partial): [*begin, *begin + *count). unit 1: ti_split.
void ti_shard_span(int64_t n, int parts, int i, int64_t unit, int64_t *begin, int64_t *count);
// The share of a width that tp (or etp) ranks divide among them: whole blocks of `unit` when there are enough for all, else n must be divisible by
// parts; TI_ERR_ARG says which counts would do. what: "intermediate_size", for the text.
ti_status ti_shard_width(const char *what, int64_t n, int parts, int i, int64_t unit, int64_t *begin, int64_t *count, ti_error *err) TI_MUST_CHECK;

// Attention heads of rank tp_i. n_head must be a multiple of tp; KV heads are divided, or, where tp exceeds them, shared by tp / n_kv_head
// neighbours.
typedef struct ti_shard_heads {
  int head0, n_head;  // query heads
  int kv0, n_kv;      // KV heads those read: n_head is a multiple of n_kv
  int kv_copies;      // ranks that hold the same KV heads (1: none shared)
} ti_shard_heads;
ti_status ti_shard_heads_of(int n_head, int n_kv_head, int tp, int tp_i, ti_shard_heads *out, ti_error *err) TI_MUST_CHECK;

// The slice of tensor `name` ("model.layers.0.self_attn.q_proj.weight") as a source for weight_prepare. The tensor must exist with shape [s->rows,
// s->cols]; E4M3 matrices need their <name>_scale_inv (cfg's block sizes). Points into the mmapped file (ld = cols) where it can; a generated or
// misaligned tensor is read into `mem`, and lives as long as that. Errors name the tensor: TI_ERR_NOTFOUND, TI_ERR_FORMAT (shape), TI_ERR_ARG (the
// slice), TI_ERR_NOMEM.
ti_status ti_shard_source(const ti_checkpoint *ck, const ti_config *cfg, const char *name, const ti_slice *s, ti_arena *mem, ti_weight_src *out,
                          ti_error *err) TI_MUST_CHECK;
// Elements [i0, i0 + n_out) of the vector `name` of n elements, as fp32. Types: F32, F16, BF16.
ti_status ti_shard_vector(const ti_checkpoint *ck, const char *name, int64_t n, int64_t i0, int64_t n_out, float *dst, ti_error *err) TI_MUST_CHECK;

#endif
