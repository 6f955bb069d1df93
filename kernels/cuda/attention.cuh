// What the forms of paged attention share (attention.h says which form takes what): the order of every sum, the rows of a tile, page look-ups.
//
// The sums. The places of a sequence are cut, counted from place 0, into spans of 128 and chunks of 4 spans:
//
//   places   0        128       256       384       512                       1024
//            | span 0  | span 1  | span 2  | span 3  | span 4  | ...           |
//            | chunk 0                               | chunk 1                 |
//
//   span    m = the largest score (in powers of two), p = 2^(score - m), l = sum p, o = sum of bf16(p) V, 16 places a product, ascending, from zero
//   chunk   its spans folded in order from nothing:  fold(M, L, O; m, l, o):  M' = max(M, m), a = 2^(M - M'), b = 2^(m - M'),
//                                                    L' = L a + l b, O' = O a + o b, in fp32, the last product fused
//   row     its chunks folded in the same way; out = O / L
//
// What a span gives depends on the row and on what stands in the span alone; to fold a span (or chunk) that the row does not attend changes nothing
// (a = 1, b = 0, o = 0). So a row's bits do not depend on who folds: one block that walks all chunks, or blocks that leave a chunk's (M, L, O) each
// in scratch for a second kernel; nor on pages, batch, chunked prefill, max_kv_len or the place where a window starts inside a tile of rows.
//
// Early reads (attn's `early`). Every kernel of the family waits for its predecessor before it lets its successor start: whoever starts behind one
// finds all done that was launched before it. Between two of them only the batch's own rows write KV, at places own0 .. of their runs (ti_kv_writes
// keeps watch), and the batch's arrays come by a copy, which no kernel overlaps. So decode reads the arrays and the places before own0 while its
// predecessor runs, and waits for q and for what is new.
#ifndef TI_KERNELS_CUDA_ATTENTION_CUH
#define TI_KERNELS_CUDA_ATTENTION_CUH
#include <math_constants.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hopper.cuh"

enum { SPAN = 128, CHUNK_SPANS = 4, CHUNK = SPAN * CHUNK_SPANS };

// What every kernel of the family takes.
struct attn {
  bf16 *out;      // [n_row, n_head, dim], row stride ldo
  const bf16 *q;  // [n_row, n_head, dim], row stride ldq
  int64_t ldq, ldo;
  int n_row, n_seq, n_head, n_kv_head, group;  // group: q heads a kv head
  int group_shift;                             // its binary logarithm; -1: it is no power of two
  int page_shift, table_stride, n_layer, layer;
  const int32_t *place, *seq, *seq_row0, *kv_len, *kv_first, *table;
  const uint64_t *mask;
  int window;
  float c;  // scale * log2(e): scores in powers of two
  const uint8_t *kv;
  size_t page_bytes, layer_offset, k_scale_offset, v_scale_offset;  // E4M3's scales
  int block_chunks;                                                 // chunks a block walks
  int cluster;                                                      // nonzero: the blocks that share a sequence are a cluster
  int n_slot;                                                       // chunks a row may have in scratch; 0: blocks write out themselves
  float *part_o;                                                    // [n_seq, short_rows, n_head, n_slot, dim]
  float2 *part_ml;                                                  // [n_seq, short_rows, n_head, n_slot] M, L
  int run_tiles;                                                    // decode: tiles a run has at most
  bool early;                                                       // decode may read the batch's arrays and older KV before its predecessor ends
  int short_rows;                                                   // decode takes the runs of at most so many rows, prefill the others
};

// The row of a packed row.
static __device__ __forceinline__ int row_of(const attn &a, int packed) { return a.group_shift >= 0 ? packed >> a.group_shift : packed / a.group; }

// The places that a row attends: lo <= p <= hi, of its own run's places own0 .. 63 on only those in mask.
struct row_span {
  int lo, hi;
};

static __device__ __forceinline__ row_span row_limits(const attn &a, int seq, int row) {
  const int place = a.place[row], len = a.kv_len[seq];
  int lo = a.kv_first ? a.kv_first[seq] : 0;
  if (a.window > 0) lo = max(lo, place - a.window + 1);
  return {max(lo, 0), min(place, len - 1)};
}

// The chunks that a run's rows attend, at least one.
static __device__ __forceinline__ void run_chunks(const attn &a, int seq, int row0, int rows, int *c0, int *c1) {
  *c0 = row_limits(a, seq, row0).lo / CHUNK;
  *c1 = max(row_limits(a, seq, row0 + rows - 1).hi / CHUNK, *c0);
}

// A tile of packed rows (row, q head of one kv head: packed = row * group + head) of one run.
struct attn_tile {
  int seq, row0, n, first;  // the run's first row and number of packed rows; the tile's first packed row
  int lo, hi;               // places that some row attends
  int lo_all, hi_plain;     // lo_all .. hi_plain: all rows attend all of these
  int own0;                 // place of the run's first row
};
static __device__ __forceinline__ void tile_of(const attn &a, int seq, int first, int tile_rows, attn_tile *t) {
  t->seq = seq, t->first = first, t->row0 = a.seq_row0[seq];
  t->n = (a.seq_row0[seq + 1] - t->row0) * a.group;
  const row_span r0 = row_limits(a, seq, t->row0 + row_of(a, first));
  const row_span r1 = row_limits(a, seq, t->row0 + row_of(a, min(first + tile_rows, t->n) - 1));
  t->own0 = a.place[t->row0];
  t->lo = r0.lo, t->hi = r1.hi, t->lo_all = r1.lo, t->hi_plain = a.mask ? min(r0.hi, t->own0 - 1) : r0.hi;
}

// Prefill's warp that fetches: K and V of spans s0 .. s1 into the ring, each 64 numbers of the head a box of a page's tokens, pages of which no row
// attends anything left out. A stage is [HALVES][128 places][128 bytes], swizzled; stage and phase (0 and 1 at first) go on from call to call.
template <int HALVES>
static __device__ __forceinline__ void attn_fetch(const attn &a, const CUtensorMap *map, const attn_tile &t, int head, int s0, int s1, uint8_t *ring,
                                                  int n_stage, uint64_t *full, uint64_t *empty, int &stage, uint32_t &phase) {
  const int lane = threadIdx.x % 32, page_tokens = 1 << a.page_shift, box = min(page_tokens, (int)SPAN), boxes = SPAN / box;
  const int32_t *table = a.table + (int64_t)t.seq * a.table_stride;
  const int v_row = a.n_kv_head << a.page_shift;
  for (int s = s0; s <= s1; s++) {
    const int place = s * SPAN + lane * box;
    const bool mine = lane < boxes && place + box > t.lo && place <= t.hi;
    const int n = __popc(__ballot_sync(0xffffffffu, mine));
    const int32_t page = mine ? table[place >> a.page_shift] : 0;
    const int y = (head << a.page_shift) + (place & (page_tokens - 1)), z = page * a.n_layer + a.layer;
    for (int v = 0; v < 2; v++) {
      ti_mbar_wait(&empty[stage], phase);
      if (lane == 0) ti_mbar_expect(&full[stage], (uint32_t)(n * box * HALVES * 128));
      __syncwarp();
      if (mine) {
        uint8_t *dst = ring + (size_t)stage * (HALVES * SPAN * 128);
#pragma unroll
        for (int h = 0; h < HALVES; h++) ti_tma_load_3d(dst + h * SPAN * 128 + lane * box * 128, map, &full[stage], 64 * h, y + v * v_row, z);
      }
      if (++stage == n_stage) stage = 0, phase ^= 1;
    }
  }
}

// Zeros in a stage where no row of the tile looks: what stands there may be anything, and 0 x NaN is NaN. STEP: places a product takes at once; of
// those that no row looks at, it takes none. N threads, this one `thread`.
template <int HALVES, int STEP, int N>
static __device__ __forceinline__ void attn_clear_outside(uint8_t *v, int s, int lo, int hi, int thread) {
  const int r0 = max(lo - s * SPAN, 0), r1 = min(hi - s * SPAN + 1, (int)SPAN);  // looked at
  const int low = r0 % STEP, high = -r1 & (STEP - 1);
  for (int i = thread; i < (low + high) * HALVES * 8; i += N) {
    const int n = i / (HALVES * 8), r = n < low ? r0 - low + n : r1 + n - low;
    *(uint4 *)(v + i / 8 % HALVES * SPAN * 128 + r * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
  }
}

// The score of a place that a row does not attend is -inf. at: the place less the row's first; n: how many it attends.
static __device__ __forceinline__ void drop_outside(float &x, int at, int n) {
  if ((uint32_t)at >= (uint32_t)n) x = -CUDART_INF_F;
}

static __device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The factors of fold. m or M of -inf: that side holds nothing.
struct fold_factors {
  float max, a, b;
};
static __device__ __forceinline__ fold_factors fold_of(float big_m, float m) {
  const float top = fmaxf(big_m, m), ref = top == -CUDART_INF_F ? 0.0f : top;
  return {top, exp2_fast(big_m - ref), exp2_fast(m - ref)};
}
static __device__ __forceinline__ float fold(float big, float part, const fold_factors &f) { return __fmaf_rn(part, f.b, __fmul_rn(big, f.a)); }

static __device__ __forceinline__ float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
static __device__ __forceinline__ float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// out = O / L: a row that attended nothing gives zeros.
static __device__ __forceinline__ float inverse(float l) { return l > 0.0f ? __frcp_rn(l) : 0.0f; }

// The forms (host). K and V as [pages * n_layer][2 * n_kv_head * page_tokens][head_dim], in boxes of a page (128 places at most), and of SMALL_BOX.
enum { SMALL_BOX = 16 };
typedef struct attn_maps {
  CUtensorMap big, small;
} attn_maps;
ti_status attn_decode(ti_dev *d, const attn *a, const attn_maps *map, ti_dtype type, int dim, int64_t max_places);
enum { ATTN_MAX_SLOTS = 1000 };  // chunks a row, for attn_combine: 512,000 places
ti_status attn_combine(ti_dev *d, const attn *a, int dim);
ti_status attn_prefill(ti_dev *d, const attn *a, const CUtensorMap *map, int dim);

// Lets a kernel have more than 48 KB of dynamic shared memory, once a device. *allowed: a bit a device, zero at first.
static inline ti_status attn_allow_smem(ti_dev *d, const void *kernel, size_t bytes, uint64_t *allowed) {
  if (*allowed >> (d->index & 63) & 1) return TI_OK;
  const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  if (e != cudaSuccess) return ti_cuda_result(d, "attention", e);
  *allowed |= 1ull << (d->index & 63);
  return TI_OK;
}

#endif
