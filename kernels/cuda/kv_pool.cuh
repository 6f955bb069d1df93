// Where a row's K and V go in the pool of pages (kernel.h's ti_kv_layout), and how a pair of numbers is rotated: what every kernel that appends
// shares.
#ifndef TI_KERNELS_CUDA_KV_POOL_CUH
#define TI_KERNELS_CUDA_KV_POOL_CUH
#include "kernels/cuda/device.cuh"

struct ti_pool {
  uint8_t *kv;
  ti_kv_layout l;
  const int32_t *place, *seq, *table;
  int table_stride, layer;
};

static inline ti_pool ti_pool_of(const ti_kv_append_args *a) {
  const ti_batch *b = a->batch;
  return {(uint8_t *)a->kv, *a->layout, b->place, b->seq, b->block_table, b->table_stride, a->layer};
}

// First byte of the layer in the page of a place, and the token inside it.
static __device__ __forceinline__ uint8_t *ti_pool_page(const ti_pool &p, int row, int place, int *slot) {
  *slot = place & (p.l.page_tokens - 1);
  const int32_t page = p.table[(int64_t)p.seq[row] * p.table_stride + place / p.l.page_tokens];
  return p.kv + (size_t)page * p.l.page_bytes + (size_t)p.layer * p.l.layer_bytes;
}
// GQA: a head's numbers inside such a page.
static __device__ __forceinline__ uint8_t *ti_pool_head(const ti_pool &p, uint8_t *page, int slot, int head, bool is_v) {
  return page + (is_v ? p.l.v_offset : 0) + (size_t)head * p.l.head_stride + (size_t)slot * p.l.token_stride;
}

// (u, v) turned by (cos, sin). fp32 with one order of operations: rope and its fused forms have the same bits.
static __device__ __forceinline__ float2 ti_rotate(float u, float v, float2 cs) {
  return make_float2(__fmaf_rn(u, cs.x, -__fmul_rn(v, cs.y)), __fmaf_rn(v, cs.x, __fmul_rn(u, cs.y)));
}

#endif
