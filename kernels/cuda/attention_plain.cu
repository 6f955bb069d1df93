// Paged GQA attention, the plain form: any head_dim up to 1024, any cache type, mask, window and run. What the fast kernels do not take goes here.
//
// A block of 4 warps has one query vector (a row and a head); warp w attends the places p with p mod 4 = w, one after the other, with an online
// softmax of its own; the four partial results are merged in the order of the warps. So a row's bits depend on its own places alone, not on pages,
// batch or launch.
//
//   place   0 1 2 3 4 5 6 7 ..        lanes of a warp: numbers lane, lane + 32, .. of the head
//   warp    0 1 2 3 0 1 2 3
//
// Every row reads its whole context once a head: meant for being right, not for speed.
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/device.cuh"

enum { WARPS = 4 };

struct plain_args {
  bf16 *out;
  const bf16 *q;
  const uint8_t *kv;
  ti_kv_layout l;
  const int32_t *place, *seq, *row0, *kv_len, *first, *table;
  const uint64_t *mask;
  int table_stride, layer, group, window;
  float scale;
  int64_t ldq, ldo;
};

static __device__ __forceinline__ float number(ti_dtype t, const uint8_t *p, int i, float scale) {
  if (t == TI_BF16) return __bfloat162float(((const bf16 *)p)[i]);
  return t == TI_F32 ? ((const float *)p)[i] : ti_from_e4m3(p[i]) * scale;
}

// N: numbers a lane.
template <int N>
static __global__ void __launch_bounds__(32 * WARPS) plain_kernel(plain_args a) {
  extern __shared__ float part[];  // [WARPS, dim] sums, then [WARPS, 2] maximum and denominator
  ti_pdl_launch();
  ti_pdl_wait();
  const int row = blockIdx.x, head = blockIdx.y, dim = a.l.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int s = a.seq[row], place = a.place[row], own0 = a.place[a.row0[s]], own1 = own0 + a.row0[s + 1] - a.row0[s], kv_head = head / a.group;
  const uint64_t mask = a.mask ? a.mask[row] : 0;  // of at most 64 rows
  int lo = a.first ? a.first[s] : 0;
  if (a.window > 0) lo = max(lo, place - a.window + 1);
  lo = max(lo, 0);
  const int hi = min(place + 1, a.kv_len[s]);
  float q[N], acc[N], m = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const int c = lane + 32 * i;
    q[i] = c < dim ? __bfloat162float(a.q[row * a.ldq + (int64_t)head * dim + c]) : 0.0f;
    acc[i] = 0.0f;
  }
  for (int p = lo / WARPS * WARPS + warp; p < hi; p += WARPS) {
    if (p < lo || (a.mask && p >= own0 && p < own1 && !(mask >> (p - own0) & 1))) continue;
    const int slot = p % a.l.page_tokens;
    const uint8_t *page =
        a.kv + (size_t)a.table[(int64_t)s * a.table_stride + p / a.l.page_tokens] * a.l.page_bytes + (size_t)a.layer * a.l.layer_bytes;
    const uint8_t *k = page + (size_t)kv_head * a.l.head_stride + (size_t)slot * a.l.token_stride, *v = k + a.l.v_offset;
    float ks = 1.0f, vs = 1.0f, score = 0.0f;
    if (a.l.dtype == TI_E4M3) {
      ks = ((const float *)(page + a.l.k_scale_offset))[kv_head * a.l.page_tokens + slot];
      vs = ((const float *)(page + a.l.v_scale_offset))[kv_head * a.l.page_tokens + slot];
    }
#pragma unroll
    for (int i = 0; i < N; i++)
      if (lane + 32 * i < dim) score += q[i] * number(a.l.dtype, k, lane + 32 * i, ks);
    score = ti_warp_sum(score) * a.scale;
    const float top = fmaxf(m, score), shrink = __expf(m - top), e = __expf(score - top);
    m = top;
    sum = sum * shrink + e;
#pragma unroll
    for (int i = 0; i < N; i++)
      if (lane + 32 * i < dim) acc[i] = acc[i] * shrink + e * number(a.l.dtype, v, lane + 32 * i, vs);
  }
#pragma unroll
  for (int i = 0; i < N; i++)
    if (lane + 32 * i < dim) part[warp * dim + lane + 32 * i] = acc[i];
  float *stat = part + WARPS * dim;
  if (lane == 0) stat[2 * warp] = m, stat[2 * warp + 1] = sum;
  __syncthreads();
  float best = -INFINITY, all = 0.0f;
  for (int w = 0; w < WARPS; w++) best = fmaxf(best, stat[2 * w]);
  for (int w = 0; w < WARPS; w++) all += stat[2 * w + 1] * (stat[2 * w] == -INFINITY ? 0.0f : __expf(stat[2 * w] - best));
  for (int c = threadIdx.x; c < dim; c += 32 * WARPS) {
    float x = 0.0f;
    for (int w = 0; w < WARPS; w++)
      if (stat[2 * w] != -INFINITY) x += part[w * dim + c] * __expf(stat[2 * w] - best);
    a.out[row * a.ldo + (int64_t)head * dim + c] = __float2bfloat16_rn(all > 0.0f || isnan(all) ? x / all : 0.0f);
  }
}

template <int N>
static ti_status launch(ti_dev *d, const plain_args &a, int n_row, int n_head) {
  return ti_launch(d, "attention", plain_kernel<N>, dim3((unsigned)n_row, (unsigned)n_head), dim3(32 * WARPS),
                   (size_t)WARPS * (a.l.head_dim + 2) * sizeof(float), a);
}

extern "C" ti_status ti_cuda_attention_plain(ti_dev *d, const ti_attention_args *x) {
  const ti_batch *b = x->batch;
  const ti_kv_layout *l = x->layout;
  const int64_t packed = (int64_t)x->n_head * l->head_dim;
  assert(l->kind == TI_KV_GQA && x->n_head % l->n_kv_head == 0);
  if (b->n_row == 0) return TI_OK;
  const plain_args a = {(bf16 *)x->out,
                        (const bf16 *)x->q,
                        (const uint8_t *)x->kv,
                        *l,
                        b->place,
                        b->seq,
                        b->seq_row0,
                        b->seq_kv_len,
                        b->kv_first,
                        b->block_table,
                        b->mask,
                        b->table_stride,
                        x->layer,
                        x->n_head / l->n_kv_head,
                        x->window,
                        x->scale,
                        x->ldq ? x->ldq : packed,
                        x->ldo ? x->ldo : packed};
  const int n = (l->head_dim + 31) / 32;
  if (n <= 2) return launch<2>(d, a, b->n_row, x->n_head);
  if (n <= 4) return launch<4>(d, a, b->n_row, x->n_head);
  return n <= 8 ? launch<8>(d, a, b->n_row, x->n_head) : launch<32>(d, a, b->n_row, x->n_head);
}
