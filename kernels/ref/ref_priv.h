// What the files of the reference backend share: the device, the prepared weight, and the list of ops (kernel.h holds their contracts).
//
// One thread, no order but the obvious one: sums run in ascending index, in fp32 unless a file says otherwise. Slow on purpose; it is the oracle.
#ifndef TI_KERNELS_REF_REF_PRIV_H
#define TI_KERNELS_REF_REF_PRIV_H
#include "kernels/kernel.h"

#define REF_FP8_BLOCK 128  // activations that share a scale, TI_ACT_FP8
#define REF_INT8_BLOCK 32  // the same, TI_ACT_INT8

struct ti_dev {
  ti_act_quant act_quant;
  int64_t max_k;  // what the scratch below was sized for
  int vocab;
  float *xq;      // [max_k] codes of one quantised row
  float *xs;      // [max_k / 32 + 1] its scales
  float *sorted;  // [vocab] logits of one row, for top-k and top-p
};

// ti_weight of this backend: data is fp32 [n, ld].
enum {
  REF_LAYOUT_PLAIN = 0,  // the values
  REF_LAYOUT_CODES = 1,  // E4M3: the codes' values, and scale[r * scale_ld + (col0 + c) / block_k] for element (r, c)
  REF_LAYOUT_MASK = 1,
  REF_WEIGHT_EXACT = 2,  // or-ed in: TI_WEIGHT_EXACT or TI_WEIGHT_TRANSPOSE
};
static inline const float *ref_weight_row(const ti_weight *w, int64_t r) { return (const float *)w->data + r * w->ld; }
static inline float ref_weight_scale(const ti_weight *w, int64_t r, int64_t c) {
  return (w->layout & REF_LAYOUT_MASK) == REF_LAYOUT_CODES ? w->scale[r * w->scale_ld + (w->col0 + c) / w->block_k] : 1.0f;
}
static inline int64_t ref_ld(int64_t ld, int64_t packed) { return ld ? ld : packed; }

// weights.c
ti_status ref_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out);
ti_status ref_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out);
// norm_rope.c
ti_status ref_embed(ti_dev *d, const ti_embed_args *a);
ti_status ref_rmsnorm(ti_dev *d, const ti_rmsnorm_args *a);
ti_status ref_rope(ti_dev *d, const ti_rope_args *a);
ti_status ref_rope_append(ti_dev *d, const ti_rope_append_args *a);
ti_status ref_silu_mul(ti_dev *d, const ti_silu_mul_args *a);
ti_status ref_add(ti_dev *d, const ti_add_args *a);
// gemm.c
ti_status ref_gemm(ti_dev *d, const ti_gemm_args *a);
ti_status ref_gemm_heads(ti_dev *d, const ti_gemm_heads_args *a);
ti_status ref_grouped_gemm(ti_dev *d, const ti_grouped_gemm_args *a);
// quant.c
void ref_quant_block_fp8(const float *x, int n, float *scale, uint8_t *q);      // one scale over n numbers: the rule of ti_quant_fp8_args
void ref_quant_row_fp8(const float *x, int64_t k, float *codes, float *scale);  // codes as floats
void ref_quant_row_int8(const float *x, int64_t k, float *codes, float *scale);
ti_status ref_quant_fp8(ti_dev *d, const ti_quant_fp8_args *a);
// kv.c
ti_status ref_kv_append(ti_dev *d, const ti_kv_append_args *a);
ti_status ref_copy_pages(ti_dev *d, const ti_copy_pages_args *a);
// First byte of `layer` in the page of place p of sequence s; *slot: the token inside it.
const uint8_t *ref_kv_page(const void *kv, const ti_kv_layout *l, int layer, const ti_batch *b, int s, int p, int *slot);
// attention.c
typedef struct ref_span {
  int seq, lo, hi;  // places lo <= p <= hi
  int own0, own1;   // places of the sequence's rows in this batch: own0 <= p < own1
  uint64_t mask;    // of those, which; all ones when causal
} ref_span;
ref_span ref_row_span(const ti_batch *b, int row, int window);  // hi < lo: nothing to attend
bool ref_span_has(const ref_span *s, int p);
ti_status ref_attention(ti_dev *d, const ti_attention_args *a);
// mla.c
ti_status ref_mla_attention(ti_dev *d, const ti_mla_attention_args *a);
void ref_mla_entry(const ti_kv_layout *l, const uint8_t *src, float *dst);  // one place's latent | rope as fp32
// mla_expanded.c
ti_status ref_mla_gather(ti_dev *d, const ti_mla_gather_args *a);
ti_status ref_mla_tile(ti_dev *d, const ti_mla_tile_args *a);
// moe.c
ti_status ref_router(ti_dev *d, const ti_router_args *a);
ti_status ref_moe_sort(ti_dev *d, const ti_moe_sort_args *a);
ti_status ref_permute(ti_dev *d, const ti_permute_args *a);
ti_status ref_unpermute(ti_dev *d, const ti_unpermute_args *a);
// sample.c
ti_status ref_penalties(ti_dev *d, const ti_penalty_args *a);
ti_status ref_logprobs(ti_dev *d, const ti_logprob_args *a);
ti_status ref_sample(ti_dev *d, const ti_sample_args *a);
ti_status ref_tokens(ti_dev *d, const ti_token_args *a);
ti_status ref_feed(ti_dev *d, const ti_feed_args *a);

#endif
