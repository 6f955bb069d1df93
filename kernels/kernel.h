// The ops table: everything the engine asks of a device. Backends: ref (plain C, fp32, the oracle), cpu (AVX2, AVX-512), cuda.
//
// Conventions
// - Shapes stand beside each pointer, row-major, outermost first. "act" is the backend's activation type (ti_kernels.act: F32 on ref and cpu, BF16 on
//   cuda). Pointers are device pointers unless they say host. Row strides are in elements; 0 means packed.
// - Every op is stream-ordered on its ti_dev: it may return before the work is done (cuda) or after (ref, cpu). It returns an error only when the
// launch
//   failed; shapes are the caller's duty and asserted. Ops never allocate, lock or log; scratch is the device's own, sized by `reserve`.
// - Determinism: the bits of an output row depend on that row's inputs alone, not on how many rows there are or what stands in them. The order of
//   every sum is a function of K (GEMM), of KV places in fixed spans (attention), of the vocabulary index (sampling).
// - An entry that is NULL is unsupported by that backend; which ones may be NULL is said at the entry. Entries are appended, never changed.
#ifndef TI_KERNELS_KERNEL_H
#define TI_KERNELS_KERNEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

typedef struct ti_dev ti_dev;              // one device with its stream, threads and scratch; owned by one thread at a time
typedef struct ti_dev_graph ti_dev_graph;  // recorded ops that are launched as one

// What gemm and grouped_gemm do to activations (never gemm_heads, never a TI_WEIGHT_EXACT or transposed weight; docs/numerics.md has the arithmetic):
//   INT8: with 4- to 8-bit block weights, codes round(x / d), d = amax / 127, a block of 32 of K
//   FP8:  with E4M3 weights that have scales, as quant_fp8 does, 128 of K; the sum of every run of K with constant scales is promoted to fp32
// Other weights meet the activations as they are.
typedef enum ti_act_quant { TI_ACT_NONE, TI_ACT_INT8, TI_ACT_FP8 } ti_act_quant;

typedef struct ti_dev_options {
  int index;               // which GPU; ignored by CPU backends
  int threads;             // CPU backends; >= 1
  const int *cpus;         // [threads] CPUs to pin to, or NULL (host); the caller, thread 0, pins itself
  ti_act_quant act_quant;  // what GEMMs do to activations before multiplying quantised weights (DESIGN 8)
  bool deterministic;
} ti_dev_options;

// ---- weights --------------------------------------------------------------------------------------------------------------------------------------

// A matrix (or part of one) as the checkpoint stores it: rows are outputs, W[n, k]. Host memory, valid during prepare, and for as long as the weight
// lives when weight_size said 0 (used as stored).
//   E4M3: scale[ceil((row0 + n) / bn), ...] covers the shard: element (r, c) has scale[(row0 + r) / block_n][(col0 + c) / block_k], 0 <= row0 <
//   block_n.
typedef struct ti_weight_src {
  const void *data;  // [n, ld] of dtype
  ti_dtype dtype;
  int64_t n, k, ld;    // ld 0: k
  const float *scale;  // [.., scale_ld] or NULL
  int64_t scale_ld;
  int block_n, block_k;  // 128, 128; 0: none
  int row0, col0;        // where the shard starts inside its first block
} ti_weight_src;

// A prepared matrix: up to TI_WEIGHT_PARTS sources stacked by rows (q, k, v; gate, up) in the backend's own layout. All parts have the same k; parts
// of different dtypes (but 4- to 8-bit block types, which mix), with and without scales, or with different col0 or block_k are TI_ERR_UNSUPPORTED:
// prepare them apart. Block types are never transposed by the CPU backends (TI_ERR_UNSUPPORTED).
#define TI_WEIGHT_PARTS 4
typedef struct ti_weight {
  int64_t n, k;      // all parts together
  ti_dtype dtype;    // as stored (of mixed block types the first part's)
  int layout;        // the backend's
  const void *data;  // prepared, or as stored
  const float *scale;
  int64_t ld, scale_ld;
  int block_n, block_k, row0, col0;
} ti_weight;

typedef enum ti_weight_flags {
  TI_WEIGHT_TRANSPOSE = 1,  // prepare W^T: the source [n, k] is used as [k, n] (MLA's absorbed W_UK); one part only; implies EXACT
  TI_WEIGHT_EXACT = 2,      // never meets quantised activations (router, lm_head where the model keeps it in bf16)
  TI_WEIGHT_TO_FP8 = 4,     // F32, F16 and BF16 sources are stored as E4M3 with 128x128 scales made here (--quantization fp8): of a block, scale =
                            // max(amax, 1e-4) / 448, code = e4m3(w / scale), blocks counted from each part's own first row. Other sources: as without
  TI_WEIGHT_GATE_UP = 8,    // two parts of n rows, gate and up: the layout may interleave them, and only gemm_silu_mul and gemm (whose columns
                            // stay gate | up) take the matrix
} ti_weight_flags;

// ---- KV cache -------------------------------------------------------------------------------------------------------------------------------------

// One allocation, page-major: base + page * page_bytes + layer * layer_bytes.
//
//   GQA, one layer of one page:   K: [n_kv_head][page_tokens][head_dim]  then  V: the same        (fp32, bf16)
//                                 E4M3: then scales, fp32: K [n_kv_head][page_tokens], V the same
//   MLA:                          [page_tokens][latent + rope]                                    (fp32, bf16)
//                                 E4M3: [page_tokens][656 bytes]: 512 e4m3 | 4 fp32 scales (one per 128) | 64 bf16
//   E4M3 codes and scales are those of quant_fp8, over one head (GQA) or 128 numbers (MLA). A layer is padded to 64 bytes.
typedef enum ti_kv_kind { TI_KV_GQA, TI_KV_MLA } ti_kv_kind;
typedef struct ti_kv_layout {
  ti_kv_kind kind;
  ti_dtype dtype;           // F32, BF16, E4M3
  int page_tokens;          // a power of two, 8..256
  int n_kv_head, head_dim;  // GQA: this rank's heads
  int latent, rope;         // MLA: 512, 64
  int n_layer;              // layers under a page id, MTP's behind the main ones
  size_t layer_bytes, page_bytes;
  size_t v_offset;                        // GQA: from K's first byte to V's
  size_t head_stride, token_stride;       // bytes
  size_t k_scale_offset, v_scale_offset;  // GQA E4M3: from the layer's first byte
} ti_kv_layout;
// Fills strides and sizes from kind, dtype, page_tokens, heads, dims, n_layer. TI_ERR_ARG names what does not fit.
ti_status ti_kv_layout_init(ti_kv_layout *l, ti_error *err) TI_MUST_CHECK;

// ---- a batch --------------------------------------------------------------------------------------------------------------------------------------

// Rows of several sequences, each a run of consecutive tokens (1 in decode, a chunk in prefill, a draft's rows in verification). Device arrays.
//
//   place: index of the token in its sequence's KV; position: what RoPE sees. Equal but for MTP layers (place i + 1 at position i, models/README.md)
//   and for tree rows (place = n + row, position = n + depth).
//
// A row attends places kv_first[s] <= p <= its own place; with `mask`, of the places that belong to rows of this batch only those rows j of its
// sequence (j < 64, counted from seq_row0[s]) whose bit is set (its own bit included); a run with a mask has at most 64 rows. With a sliding window
// also p > place - window. A row that attends nothing (kv_len 0) gives zeros. Places from seq_kv_len on, and table entries beyond it, are never read.
// A row with place < 0 is padding (of a recorded graph's fixed size): it is a sequence of its own with kv_len 0, and nothing is appended for it.
typedef struct ti_batch {
  int n_row, n_seq;
  int max_seq_rows;            // largest run (host knowledge, for launch shapes)
  const int32_t *position;     // [n_row]
  const int32_t *place;        // [n_row]
  const int32_t *seq;          // [n_row] index of the row's sequence
  const int32_t *seq_row0;     // [n_seq + 1]
  const int32_t *seq_kv_len;   // [n_seq] places that hold KV once this batch's rows are appended
  const int32_t *kv_first;     // [n_seq] first place attended, or NULL: 0
  const int32_t *block_table;  // [n_seq, table_stride] page ids
  int table_stride;
  const uint64_t *mask;  // [n_row] or NULL: causal
  int max_kv_len;        // no sequence's seq_kv_len is larger (host knowledge, for launch shapes); 0: table_stride pages
} ti_batch;

// ---- arguments ------------------------------------------------------------------------------------------------------------------------------------

typedef struct ti_embed_args {  // out[r] = table[ids[r] - first_id], zeros when ids[r] is outside [first_id, first_id + n_id) (vocabulary shards)
  void *out;                    // [n_row, hidden] act
  const int32_t *ids;           // [n_row]
  const ti_weight *table;       // [n_id, hidden], prepared with weight_prepare like any matrix
  int n_row, hidden, first_id, n_id;
} ti_embed_args;

typedef struct ti_rmsnorm_args {  // residual (may be NULL) += x, then out = residual_or_x / sqrt(mean(^2) + eps) * weight
  void *out;                      // [n_row, dim] act; may alias x
  const void *x;                  // [n_row, dim] act, row stride ldx
  void *residual;                 // [n_row, dim] act or NULL
  const float *weight;            // [dim] fp32
  int n_row, dim;
  int64_t ldx, ldo;
  float eps;
  // fp8_out and int8_out backends: when q is set the normed row (as rounded to act) goes there as the codes of the device's act_quant, and out may be
  // NULL. FP8: as quant_fp8's. INT8: int8 and a scale each 32 numbers, [n_row, dim / 32], dim a multiple of 32
  uint8_t *q;  // [n_row, dim]
  float *q_scale;
} ti_rmsnorm_args;

typedef struct ti_rope_args {  // rotates the first rope_dim numbers of each head in place (offset numbers into the head)
  void *x;                     // [n_row, n_head, head_dim] act, row stride ld
  const int32_t *position;     // [n_row]
  const float *inv_freq;       // [rope_dim / 2]
  int n_row, n_head, head_dim, rope_dim, offset;
  int64_t ld;
  float attn_factor;  // multiplies cos and sin
  bool interleaved;
} ti_rope_args;

typedef struct ti_kv_append_args {  // writes this batch's K and V (MLA: latent | rope) at their places
  const ti_kv_layout *layout;
  void *kv;  // the pool
  int layer;
  const ti_batch *batch;
  const void *k;  // GQA: [n_row, n_kv_head, head_dim] act, row stride ldk.  MLA: latent [n_row, latent], after its norm
  const void *v;  // GQA: same shape, row stride ldv.                       MLA: rope part [n_row, rope], after RoPE
  int64_t ldk, ldv;
} ti_kv_append_args;

typedef struct ti_rope_append_args {  // rope of q and k, then kv_append of k and v, in one pass; afterwards rope.x holds the rotated q, and k as it
                                      // may
  ti_rope_args rope;                  // x: [n_row, q heads | k heads | ..]; n_head: q's and k's together
  ti_kv_append_args kv;               // k and v point into the same rows
} ti_rope_append_args;

typedef struct ti_gemm_args {  // out[m, n] = x[m, k] * W[n, k]^T (+ bias) (+ out when accumulate)
  void *out;                   // [m, n] of out_dtype, row stride ldo
  const void *x;               // [m, k] act, row stride ldx; codes when x_scale is set: E4M3 with E4M3 weights, int8 with block weights
  const float *x_scale;        // as quant_fp8, rmsnorm or silu_mul wrote it, or NULL
  const ti_weight *w;
  const float *bias;  // [n] fp32 or NULL
  int m;
  int64_t ldx, ldo;
  ti_dtype out_dtype;  // act or F32
  bool accumulate;
} ti_gemm_args;

typedef struct ti_gemm_heads_args {  // for each head h: out[m, h, :] = x[m, h, :] * W_h^T (MLA's absorbed products)
  void *out;                         // [m, n_head, n] act: row stride ldo, head stride hdo
  const void *x;                     // [m, n_head, k] act: row stride ldx, head stride hdx
  const ti_weight *w;                // [n_head] matrices of one shape (host array)
  int m, n_head;
  int64_t ldx, hdx, ldo, hdo;
} ti_gemm_heads_args;

typedef struct ti_silu_mul_args {  // out = silu(gate) * up
  void *out;                       // [n_row, dim] act
  const void *gate_up;             // [n_row, 2 * dim] act: gate | up
  int n_row, dim;
  int64_t ldx, ldo;
  uint8_t *q;  // as in ti_rmsnorm_args
  float *q_scale;
} ti_silu_mul_args;

typedef struct ti_gemm_silu_mul_args {  // out = silu(x * gate^T) * (x * up^T), w = a TI_WEIGHT_GATE_UP matrix [2 * dim, k]
  void *out;                            // [m, dim] act, packed
  void *tmp;                            // [m, 2 * dim] act: scratch of forms that do not fuse
  const void *x;                        // as in ti_gemm_args
  const float *x_scale;
  const ti_weight *w;
  int m;
  uint8_t *q;  // as in ti_rmsnorm_args
  float *q_scale;
} ti_gemm_silu_mul_args;

// Products of few rows that follow one another in a decode step. A link is: x normed (rmsnorm without residual) where `norm` is set, the product, and
// rope_append of it where `rope` is set. A later link may read what an earlier one wrote.
#define TI_LINKS 4
typedef struct ti_link {
  const ti_gemm_args *gemm;               // one of
  const ti_gemm_silu_mul_args *silu_mul;  // these two
  const float *norm;                      // [k] fp32 or NULL: the norm's weights
  float eps;
  const ti_rope_append_args *rope;  // or NULL; its x is gemm's out, of which only q's heads are told afterwards. One link of a chain at most
} ti_link;

typedef struct ti_attention_args {  // paged GQA attention over KV already appended
  void *out;                        // [n_row, n_head, head_dim] act, row stride ldo
  const void *q;                    // [n_row, n_head, head_dim] act, after RoPE, row stride ldq
  const void *kv;
  const ti_kv_layout *layout;
  const ti_batch *batch;
  int layer, n_head;  // n_head is a multiple of layout->n_kv_head
  float scale;
  int window;  // sliding window in tokens, 0: none
  int64_t ldq, ldo;
} ti_attention_args;

typedef struct ti_mla_attention_args {  // absorbed MLA: scores = q_lat . latent + q_rope . k_rope; out in latent space
  void *out;                            // [n_row, n_head, latent] act
  const void *q_lat;                    // [n_row, n_head, latent] act
  const void *q_rope;                   // [n_row, n_head, rope] act: row stride ldr, head stride hdr
  const void *kv;
  const ti_kv_layout *layout;
  const ti_batch *batch;
  int layer, n_head;
  float scale;
  int64_t ldr, hdr;
} ti_mla_attention_args;

// Expanded MLA: the keys and values of a tile of places, made from their latents by one GEMM with kv_b_proj, are attended by one sequence's rows;
// tiles come in ascending order and are merged by log-sum-exp (Milakov and Gimelshein 2018), so that no more than a tile is ever expanded.
typedef struct ti_mla_gather_args {  // latents and rotary keys of places [place0, place0 + n) of sequence `seq`, unpacked from the cache
  void *latent;                      // [n, latent] act
  void *k_rope;                      // [n, rope] act
  const void *kv;
  const ti_kv_layout *layout;
  const ti_batch *batch;
  int layer, seq, place0, n;
} ti_mla_gather_args;

typedef struct ti_mla_tile_args {  // scores = q . [k_nope | k_rope]; causal, no mask, kv_first kept
  void *out;                       // [n_row, n_head, v_dim] act, row stride ldo: the sequence's rows, written with the last tile
  float *acc;                      // [run's rows, n_head, v_dim] running sum, and
  float *state;        // [run's rows, n_head, 2] running maximum and denominator: the caller's memory, untouched between the tiles of a run
  const void *q;       // [n_row, n_head, nope + rope] act, after RoPE, row stride ldq
  const void *kv;      // [n, n_head, nope + v_dim] act: the tile
  const void *k_rope;  // [n, rope] act
  const ti_batch *batch;
  int seq, place0, n;  // place0: a multiple of 64
  int n_head, nope, rope, v_dim;
  float scale;
  int64_t ldq, ldo;
  bool first, last;  // of the run's tiles
} ti_mla_tile_args;

typedef struct ti_copy_pages_args {  // plan op: the first n_token[i] tokens of page src[i] to dst[i], all layers
  void *kv;
  const ti_kv_layout *layout;
  const int32_t *src, *dst, *n_token;  // [n] host arrays
  int n;
} ti_copy_pages_args;

typedef struct ti_add_args {  // x += y
  void *x;
  const void *y;
  size_t n;
} ti_add_args;

// ---- mixture of experts ----

typedef struct ti_router_args {
  int32_t *experts;     // [n_row, n_top] out, best first; equal scores: the lower index first
  float *weights;       // [n_row, n_top] out
  const float *logits;  // [n_row, n_expert] fp32
  const float *bias;    // [n_expert] or NULL: added for the selection only
  int n_row, n_expert, n_top, n_group, n_top_group;
  bool sigmoid;     // scores: sigmoid, else softmax over all experts
  bool group_top2;  // group score: sum of the two best selection scores, else the best; dropped groups count as -inf
  bool norm;        // weights / (sum + 1e-20)
  float scale;
} ti_router_args;

// Rows sorted by expert, each expert's block aligned: row i of the sorted array is source row `src[i]`; block e = rows [offset[e], offset[e] +
// count[e]), offset[e] a multiple of `align`. Counts and offsets live in device memory.
typedef struct ti_moe_sort_args {
  int32_t *count;          // [n_expert] out
  int32_t *offset;         // [n_expert + 1] out
  int32_t *src;            // [capacity] out: which (row * n_top + j) stands there, ascending in a block; -1 in padding and behind the last block
  int32_t *dst;            // [n_row * n_top] out: where (row, j) went, -1 when its expert is negative
  const int32_t *experts;  // [n_row, n_top] local expert numbers; negative: not ours
  int n_row, n_top, n_expert, align, capacity;
} ti_moe_sort_args;

typedef struct ti_permute_args {  // out[i] = x[src[i] / n_top] (zeros where src is -1)
  void *out;                      // [n_out, dim] act
  const void *x;                  // [n_row, dim] act
  const int32_t *src;             // [n_out]
  int n_out, n_top, dim;
} ti_permute_args;

typedef struct ti_grouped_gemm_args {  // block e: out = x * W_e^T; padding rows are not computed
  void *out;                           // [capacity, n] act
  const void *x;                       // [capacity, k] act
  const void *const *rows;             // or, x being NULL, [capacity] where each of those rows of x [k] act stands; padding's entries are not read
  const ti_weight *w;                  // [n_expert] (host array)
  const int32_t *count, *offset;       // of ti_moe_sort_args
  int n_expert, capacity;
} ti_grouped_gemm_args;

typedef struct ti_unpermute_args {  // out[r] (+)= sum over j ascending of weights[r, j] * y[dst[r, j]], skipping dst < 0
  void *out;                        // [n_row, dim] act
  const void *y;                    // [capacity, dim] act
  const int32_t *dst;               // [n_row, n_top]
  const float *weights;             // [n_row, n_top]
  int n_row, n_top, dim;
  bool accumulate;
} ti_unpermute_args;

typedef struct ti_quant_fp8_args {  // 1x128: s = max(amax, 1e-4) / 448, q = e4m3(x / s); a partial last block of K counts what there is
  uint8_t *q;                       // [n_row, k]
  float *scale;   // [n_row, ceil(k / 128)]; where ti_kernels.scale_by_k is set: [ceil(k / 128), scale_ld(n_row)], scale_ld = n_row rounded up to 4
  const void *x;  // [n_row, k] act, row stride ldx
  int n_row, k;
  int64_t ldx;
} ti_quant_fp8_args;

// ---- sampling (logits are fp32) ----

// Per-row parameters, host or device as the backend's memory is. Slots index the count tables.
typedef struct ti_sample_params {
  float temperature;                      // 0: greedy; else large enough that logit / temperature is finite (the worker takes less than 1e-6 for 0)
  float top_p, min_p;                     // 1, 0: off
  int32_t top_k;                          // 0: off
  float repetition, frequency, presence;  // 1, 0, 0: off
  uint64_t seed;
  uint32_t choice;    // n > 1
  uint32_t position;  // index of the token that is drawn, in its sequence
  int32_t slot;
  int32_t bias0, n_bias;  // this row's entries in bias_id / bias_value
  int32_t n_logprob;      // -1: none; 0: the chosen one; 1..20: and the best n
  int32_t suppress_eos;   // nonzero: the bias entries of -inf, which are the eos and stop ids of min_tokens, apply; 0: they are passed over
} ti_sample_params;

// logits in place, in this order: repetition (ids in prompt or output: l > 0 ? l / r : l * r), frequency * count and presence (ids in the output),
// then logit_bias.
typedef struct ti_penalty_args {
  float *logits;                   // [n_row, n_id], ids first_id ..
  const ti_sample_params *params;  // [n_row]
  const uint16_t *out_count;       // [n_slot, vocab] how often each id was generated, or NULL
  const uint8_t *in_prompt;        // [n_slot, vocab] nonzero: in the prompt, or NULL
  const int32_t *bias_id;
  const float *bias_value;  // -inf allowed
  int n_row, n_id, first_id, vocab;
} ti_penalty_args;

// NaN counts as -inf: its probability is 0 and every number ranks before it; it stands in no list of the best. A row without a number has no choice
// either (ti_sample_args: value -inf), which ends its sequence with an error.
#define TI_TOP_LOGPROBS 20
typedef struct ti_logprob_args {  // of raw logits: log-softmax of the chosen id, its rank, and the best 20 (ties: lower id first)
  const float *logits;            // [n_row, vocab]
  const int32_t *target;          // [n_row] chosen ids; -1: no target
  float *logprob;                 // [n_row]; 0 without a target
  int32_t *rank;                  // [n_row] 1 = best: 1 + ids with a larger logit, or an equal one and a lower number; 0 without a target
  int32_t *top_id;                // [n_row, 20] or NULL; -1 (and logprob -inf) behind the last when vocab < 20
  float *top_logprob;             // [n_row, 20]
  int n_row, vocab;
  int64_t ld;
} ti_logprob_args;

// The choice: argmax over kept ids of logit / temperature + Gumbel(u), u = unit(philox(key = seed, ctr = {id, position, choice, 1})[0]); greedy:
// argmax of the logit; equal values: the lower id. Kept: top_k best, then the smallest set whose probability reaches top_p (of what top_k left,
// renormalised), then those with p >= min_p * p_max; ties at a boundary are kept. Probabilities are those at the row's temperature. Rows over a
// vocabulary shard (n_id < vocab) must have all filters off. Logits of -inf and NaN are never chosen; when there is nothing else: first_id with value
// -inf.
typedef struct ti_sample_args {
  const float *logits;             // [n_row, n_id] after penalties
  const ti_sample_params *params;  // [n_row]
  int32_t *id;                     // [n_row] out
  float *value;                    // [n_row] out: the winning value, for an argmax over shards
  int n_row, n_id, first_id;
  int64_t ld;
} ti_sample_args;

// The drawn ids into the slots' state, for the next step's rows and penalties: last[slot] = id, and out_count[slot, id] += 1 (saturating) where
// counted. An id < 0 or a slot < 0: the row is passed over.
typedef struct ti_token_args {
  const int32_t *id;       // [n]
  const int32_t *slot;     // [n]
  int32_t *last;           // [n_slot]
  uint16_t *out_count;     // [n_slot, vocab] or NULL
  const uint8_t *counted;  // [n_slot] nonzero: this slot's ids are counted; NULL: none is
  int n, vocab;
} ti_token_args;

// ids[r] = last[slot[r]] where ids[r] is -1: rows whose id was drawn by a step that is still in flight.
typedef struct ti_feed_args {
  int32_t *ids;         // [n]
  const int32_t *slot;  // [n]
  const int32_t *last;  // [n_slot]
  int n;
} ti_feed_args;

#define TI_DEV_MARKS 4
typedef struct ti_dev_span {
  const char *name;
  int layer;
  uint64_t begin_ns, end_ns;
  int64_t step;  // what span_step said
} ti_dev_span;

// ---- the table ------------------------------------------------------------------------------------------------------------------------------------

typedef struct ti_kernels {
  const char *name;  // "ref", "cpu-avx2", "cpu-avx512", "cpu-vnni", "cuda"
  ti_dtype act;
  bool async;       // ops return before their work is done: a second step may be submitted while one runs
  bool fp8_out;     // rmsnorm, silu_mul and gemm_silu_mul write quant_fp8's form when asked
  bool int8_out;    // rmsnorm and silu_mul write int8 codes when asked, gemm takes them
  bool scale_by_k;  // quant_fp8's scales stand K block by K block (ti_quant_fp8_args)
  // Device and memory. alloc: 64-byte aligned (CPU: huge pages above 2 MiB where allowed), zeroed; NULL when there is not that much.
  ti_status (*open)(const ti_dev_options *o, ti_dev **out, ti_error *err);
  void (*close)(ti_dev *d);
  void *(*alloc)(ti_dev *d, size_t bytes);
  void (*free)(ti_dev *d, void *p);
  ti_status (*upload)(ti_dev *d, void *dst, const void *host, size_t n);    // stream-ordered; host is free for reuse on return
  ti_status (*download)(ti_dev *d, void *host, const void *src, size_t n);  // host is filled once sync returns
  ti_status (*sync)(ti_dev *d);
  // Sizes the scratch for batches of up to max_row rows, matrices of up to max_k columns, heads of max_head, vocab ids. Called at set-up, more than
  // once.
  ti_status (*reserve)(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab);
  // Bytes that prepare needs in device memory (0: used as stored, src->data is kept); TI_ERR_UNSUPPORTED for a dtype the backend has no kernel for.
  ti_status (*weight_size)(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out);
  ti_status (*weight_prepare)(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out);

  ti_status (*embed)(ti_dev *d, const ti_embed_args *a);
  ti_status (*rmsnorm)(ti_dev *d, const ti_rmsnorm_args *a);
  ti_status (*rope)(ti_dev *d, const ti_rope_args *a);
  ti_status (*kv_append)(ti_dev *d, const ti_kv_append_args *a);
  ti_status (*gemm)(ti_dev *d, const ti_gemm_args *a);
  ti_status (*gemm_heads)(ti_dev *d, const ti_gemm_heads_args *a);
  ti_status (*silu_mul)(ti_dev *d, const ti_silu_mul_args *a);
  ti_status (*attention)(ti_dev *d, const ti_attention_args *a);
  ti_status (*mla_attention)(ti_dev *d, const ti_mla_attention_args *a);
  ti_status (*copy_pages)(ti_dev *d, const ti_copy_pages_args *a);
  ti_status (*add)(ti_dev *d, const ti_add_args *a);

  ti_status (*router)(ti_dev *d, const ti_router_args *a);
  ti_status (*moe_sort)(ti_dev *d, const ti_moe_sort_args *a);
  ti_status (*permute)(ti_dev *d, const ti_permute_args *a);
  ti_status (*grouped_gemm)(ti_dev *d, const ti_grouped_gemm_args *a);
  ti_status (*unpermute)(ti_dev *d, const ti_unpermute_args *a);
  ti_status (*quant_fp8)(ti_dev *d, const ti_quant_fp8_args *a);

  ti_status (*penalties)(ti_dev *d, const ti_penalty_args *a);
  ti_status (*logprobs)(ti_dev *d, const ti_logprob_args *a);
  ti_status (*sample)(ti_dev *d, const ti_sample_args *a);

  // Memory, stream-ordered: device to device (regions do not overlap), and zero bytes.
  ti_status (*copy)(ti_dev *d, void *dst, const void *src, size_t n);
  ti_status (*zero)(ti_dev *d, void *dst, size_t n);
  // Host memory that upload and download move without a copy in between (page-locked on cuda); NULL: none left.
  void *(*alloc_host)(ti_dev *d, size_t bytes);
  void (*free_host)(ti_dev *d, void *p);
  // Marks number i (0 .. TI_DEV_MARKS - 1) after the work submitted so far; `done` says without waiting whether a mark is passed (TI_INPROGRESS: not
  // yet), `wait` waits for it. Downloads before a passed mark have arrived. An error is that of the work: launch failures and ECC errors show here.
  ti_status (*mark)(ti_dev *d, int i);
  ti_status (*done)(ti_dev *d, int i);
  ti_status (*wait)(ti_dev *d, int i);

  ti_status (*tokens)(ti_dev *d, const ti_token_args *a);
  ti_status (*feed)(ti_dev *d, const ti_feed_args *a);

  // Entries below may be NULL.
  ti_status (*mla_gather)(ti_dev *d, const ti_mla_gather_args *a);
  ti_status (*mla_tile)(ti_dev *d, const ti_mla_tile_args *a);
  // Fused forms of what stands above; the same bits as the ops they stand for, but for one rounding to act less.
  ti_status (*rope_append)(ti_dev *d, const ti_rope_append_args *a);
  ti_status (*gemm_silu_mul)(ti_dev *d, const ti_gemm_silu_mul_args *a);
  // Recording: ops between begin and end are kept instead of run (no upload, download, sync, mark or alloc among them), with the pointers and launch
  // shapes of that moment. launch is stream-ordered as an op.
  ti_status (*graph_begin)(ti_dev *d);
  ti_status (*graph_end)(ti_dev *d, ti_dev_graph **out, ti_error *err);
  ti_status (*graph_launch)(ti_dev *d, ti_dev_graph *g);
  void (*graph_free)(ti_dev *d, ti_dev_graph *g);
  // Bytes free on the device, and all of it: for --gpu-memory-utilization.
  ti_status (*memory)(ti_dev *d, size_t *free_bytes, size_t *total_bytes);
  // Device time of spans: `span_begin` and `span_end` stamp the stream; `spans` gives out those that have finished, in base/clock.h's monotonic
  // nanoseconds, in the order of their ends. name: static text. span_step (below) chooses the steps that are stamped.
  ti_status (*span_begin)(ti_dev *d, const char *name, int layer);
  ti_status (*span_end)(ti_dev *d);
  int (*spans)(ti_dev *d, ti_dev_span *out, int cap);
  // The first failure's text: the op and the driver's word for it; "" when nothing failed. Lives as long as the device.
  const char *(*last_error)(const ti_dev *d);
  // Spans begun from here on belong to this step; below 0 they are named (to profilers) and not stamped, which costs the device nothing. At first: 0.
  void (*span_step)(ti_dev *d, int64_t step);
  // 1 .. TI_LINKS links in turn, in one launch; a row's bits are its own, but not those of the ops one by one. TI_ERR_UNSUPPORTED, and nothing done, for
  // what is not taken: many rows, other types of weights, a deterministic device.
  ti_status (*chain)(ti_dev *d, const ti_link *links, int n);
} ti_kernels;

const ti_kernels *ti_kernels_ref(void);
// The best CPU backend this processor runs (vnni, avx512, avx2), else ref.
const ti_kernels *ti_kernels_cpu(void);
// "ref", "cpu", "cpu-avx2", "cpu-avx512", "cpu-vnni", "cuda" -> table, or NULL when unknown, not in this build, or when this host lacks the processor
// or a GPU.
const ti_kernels *ti_kernels_find(const char *name);
#ifdef TI_HAVE_CUDA
const ti_kernels *ti_kernels_cuda(void);  // the table, whether there is a GPU or not: open says what is missing
#endif

#endif
