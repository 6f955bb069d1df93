// Writing and moving KV: append a batch's keys and values at their places (with RoPE in the same pass where the model allows), copy parts of pages.
//
// The fast kernel gives every head of every row to a group of head_dim / 8 lanes, 8 numbers a lane:
//
//   heads of a row:   q 0 .. nq-1        k 0 .. nkv-1                      v 0 .. nkv-1
//                     rotated in place   rotated, straight into the pool   into the pool
//   lanes of a head:  [0..7][8..15] .. [d-8..d-1]     half-split RoPE's partner (i +- d/2) sits lanes/2 away: one shuffle a number
//
// It is bound by memory in prefill and by its launch in decode: q is read and written once, k and v are read and written once, sin and cos are made
// once a block. Other dims (odd ones, partial rotation, MLA) take a plain kernel, a warp a head; results are the same bits. K is rounded to bf16
// after RoPE and before it is quantised, as if rope and kv_append were called in turn.
//
// On an H200 (lab_rows, Llama-3-8B's heads, copy 4.25 TB/s, an empty kernel 2.75 us): rope_append of one row 4.3 us, 64 rows 5.0, 256 rows 6.9; 4,096
// rows 46 us, 51% of copy (KV e4m3 49 us), with every row in a page of its own, so that a head's 256 bytes lie alone. Asking for the row before sin
// and cos are made did not change that; several rows a block, which would keep more bytes on their way and share the table's look-ups, is the next
// thing to try.
#include "kernels/cuda/kv_pool.cuh"

// ---- the fast kernel ----

struct heads {
  bf16 *q;  // [n_row, nq, dim], row stride ldq; NULL with nq 0
  const bf16 *k, *v;
  int64_t ldq, ldk, ldv;
  int nq, nkv;
  const int32_t *position;  // NULL: no rotation
  const float *inv_freq;
  float factor;
  bool interleaved;
};

template <int LANES>  // a head; dim = 8 * LANES
static __device__ __forceinline__ void rotate(float x[8], const float2 *cs, int lane, bool interleaved) {
  if (interleaved) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 r = ti_rotate(x[2 * i], x[2 * i + 1], cs[4 * lane + i]);
      x[2 * i] = r.x, x[2 * i + 1] = r.y;
    }
    return;
  }
  const bool upper = lane >= LANES / 2;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float2 t = cs[8 * (lane % (LANES / 2)) + i];
    const float other = __shfl_xor_sync(0xffffffffu, x[i], LANES / 2);
    x[i] = upper ? ti_rotate(other, x[i], t).y : ti_rotate(x[i], other, t).x;
  }
}

template <int LANES>
static __device__ __forceinline__ void store_head(const ti_pool &p, uint8_t *page, int slot, int head, bool is_v, int lane, const float x[8],
                                                  float amax) {
  uint8_t *dst = ti_pool_head(p, page, slot, head, is_v);
  if (p.l.dtype == TI_BF16) {
    ti_store8((bf16 *)dst + 8 * lane, x);
  } else if (p.l.dtype == TI_F32) {
    float4 *o = (float4 *)dst + 2 * lane;
    o[0] = make_float4(x[0], x[1], x[2], x[3]);
    o[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else {
    const float s = ti_fp8_scale(amax);
    uint32_t w[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) w[i / 4] |= (uint32_t)ti_to_e4m3(x[i] / s) << (8 * (i % 4));
    ((uint2 *)dst)[lane] = make_uint2(w[0], w[1]);
    if (lane == 0) ((float *)(page + (is_v ? p.l.v_scale_offset : p.l.k_scale_offset)))[head * p.l.page_tokens + slot] = s;
  }
}

template <int LANES>
static __global__ void __launch_bounds__(256) heads_kernel(heads a, ti_pool p) {
  __shared__ float2 cs[4 * LANES];
  ti_pdl_launch();
  const int row = blockIdx.x, lane = threadIdx.x % LANES, head = blockIdx.y * (256 / LANES) + threadIdx.x / LANES;
  const float freq = a.position && threadIdx.x < 4 * LANES ? a.inv_freq[threadIdx.x] : 0.0f;
  ti_pdl_wait();
  const int place = p.place ? p.place[row] : -1;
  const bool is_q = head < a.nq, is_v = head >= a.nq + a.nkv, any = head < a.nq + 2 * a.nkv;
  const int h = is_q ? head : is_v ? head - a.nq - a.nkv : head - a.nq;
  const bf16 *src = is_q ? a.q + row * a.ldq : is_v ? a.v + row * a.ldv : a.k + row * a.ldk;
  src += (int64_t)h * 8 * LANES + 8 * lane;
  float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (any) ti_load8(src, x);  // on their way while sin and cos are made
  int slot = 0;
  uint8_t *page = any && !is_q && place >= 0 ? ti_pool_page(p, row, place, &slot) : nullptr;
  if (a.position && threadIdx.x < 4 * LANES) {
    float sin, cos;
    sincosf((float)a.position[row] * freq, &sin, &cos);
    cs[threadIdx.x] = make_float2(cos * a.factor, sin * a.factor);
  }
  __syncthreads();
  if (a.position) {
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = x[i];
    rotate<LANES>(y, cs, lane, a.interleaved);  // all lanes of the warp: it shuffles
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = is_v ? x[i] : ti_round_bf16(y[i]);
  }
  float amax = 0.0f;
  if (p.l.dtype == TI_E4M3) {
#pragma unroll
    for (int i = 0; i < 8; i++) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
    for (int o = LANES / 2; o; o >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, o));
  }
  if (!any) return;
  if (is_q) {
    ti_store8(a.q + row * a.ldq + (int64_t)h * 8 * LANES + 8 * lane, x);
  } else if (page) {
    store_head<LANES>(p, page, slot, h, is_v, lane, x, amax);
  }
}

static ti_status launch_heads(ti_dev *d, const char *op, int n_row, const heads &a, const ti_pool &p) {
  const int lanes = p.l.head_dim / 8, blocks = ti_ceil_div((int64_t)(a.nq + 2 * a.nkv) * lanes, 256);
  auto *kernel = lanes == 8 ? heads_kernel<8> : lanes == 16 ? heads_kernel<16> : heads_kernel<32>;
  return ti_launch(d, op, kernel, dim3(n_row, blocks), 256, 0, a, p);
}

static bool fast_dims(const ti_kv_append_args *a, int64_t ldk, int64_t ldv) {
  const int dim = a->layout->head_dim;
  return a->layout->kind == TI_KV_GQA && (dim == 64 || dim == 128 || dim == 256) && ((ldk | ldv) & 7) == 0 && ti_aligned16(a->k) &&
         ti_aligned16(a->v);
}

// ---- the plain kernels: a warp a head, a warp a run of 128 latent numbers ----

static __device__ void store_run(const ti_pool &p, uint8_t *dst, float *scale, const bf16 *x, int n, ti_dtype t) {
  const int lane = threadIdx.x % 32;
  float amax = 0.0f;
  for (int i = lane; i < n && t == TI_E4M3; i += 32) amax = fmaxf(amax, fabsf(__bfloat162float(x[i])));
  amax = ti_warp_max(amax);
  const float s = ti_fp8_scale(amax);
  for (int i = lane; i < n; i += 32) {
    if (t == TI_BF16) {
      ((bf16 *)dst)[i] = x[i];
    } else if (t == TI_F32) {
      ((float *)dst)[i] = __bfloat162float(x[i]);
    } else {
      dst[i] = ti_to_e4m3(__bfloat162float(x[i]) / s);
    }
  }
  if (t == TI_E4M3 && lane == 0) *scale = s;
}

static __global__ void append_plain_kernel(const bf16 *k, const bf16 *v, int64_t ldk, int64_t ldv, ti_pool p) {
  ti_pdl_launch();
  ti_pdl_wait();
  const int row = blockIdx.x, place = p.place[row], nkv = p.l.n_kv_head, dim = p.l.head_dim;
  if (place < 0) return;
  int slot;
  uint8_t *page = ti_pool_page(p, row, place, &slot);
  for (int u = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32; u < 2 * nkv; u += gridDim.y * (blockDim.x / 32)) {
    const bool is_v = u >= nkv;
    const int h = is_v ? u - nkv : u;
    const bf16 *x = (is_v ? v + row * ldv : k + row * ldk) + (int64_t)h * dim;
    uint8_t *dst = ti_pool_head(p, page, slot, h, is_v);
    float *scale = (float *)(page + (is_v ? p.l.v_scale_offset : p.l.k_scale_offset)) + h * p.l.page_tokens + slot;
    store_run(p, dst, scale, x, dim, p.l.dtype);
  }
}

static __global__ void append_latent_kernel(const bf16 *latent, const bf16 *rope, int64_t ldk, int64_t ldv, ti_pool p) {
  enum { RUN = 128 };
  ti_pdl_launch();
  ti_pdl_wait();
  const int row = blockIdx.x, place = p.place[row], runs = (p.l.latent + RUN - 1) / RUN;
  if (place < 0) return;
  int slot;
  uint8_t *token = ti_pool_page(p, row, place, &slot);
  token += (size_t)slot * p.l.token_stride;
  const size_t el = p.l.dtype == TI_F32 ? 4 : p.l.dtype == TI_BF16 ? 2 : 1;
  float *scale = (float *)(token + p.l.latent);
  uint8_t *rope_dst = token + p.l.latent * el + (p.l.dtype == TI_E4M3 ? runs * sizeof(float) : 0);
  for (int u = threadIdx.x / 32; u <= runs; u += blockDim.x / 32) {
    if (u == runs) {
      store_run(p, rope_dst, nullptr, rope + row * ldv, p.l.rope, p.l.dtype == TI_E4M3 ? TI_BF16 : p.l.dtype);
    } else {
      const int n = p.l.latent - u * RUN < RUN ? p.l.latent - u * RUN : RUN;
      store_run(p, token + (size_t)u * RUN * el, scale + u, latent + row * ldk + u * RUN, n, p.l.dtype);
    }
  }
}

ti_status ti_cuda_kv_append(ti_dev *d, const ti_kv_append_args *a) {
  const ti_kv_layout *l = a->layout;
  const int n_row = a->batch->n_row;
  if (n_row == 0) return TI_OK;
  ti_kv_writes(d, a->batch->place);
  const bool gqa = l->kind == TI_KV_GQA;
  const int64_t packed = (int64_t)l->n_kv_head * l->head_dim;
  const int64_t ldk = a->ldk ? a->ldk : gqa ? packed : l->latent, ldv = a->ldv ? a->ldv : gqa ? packed : l->rope;
  const bf16 *k = (const bf16 *)a->k, *v = (const bf16 *)a->v;
  if (fast_dims(a, ldk, ldv)) {
    const heads h = {nullptr, k, v, 0, ldk, ldv, 0, l->n_kv_head, nullptr, nullptr, 1.0f, false};
    return launch_heads(d, "kv_append", n_row, h, ti_pool_of(a));
  }
  if (!gqa) return ti_launch(d, "kv_append", append_latent_kernel, n_row, 160, 0, k, v, ldk, ldv, ti_pool_of(a));
  return ti_launch(d, "kv_append", append_plain_kernel, dim3(n_row, ti_ceil_div(2 * l->n_kv_head, 8)), 256, 0, k, v, ldk, ldv, ti_pool_of(a));
}

ti_status ti_cuda_rope_append(ti_dev *d, const ti_rope_append_args *a) {
  const ti_kv_layout *l = a->kv.layout;
  const ti_rope_args *r = &a->rope;
  const int nq = r->n_head - l->n_kv_head;
  const int64_t packed = (int64_t)r->n_head * r->head_dim, kv_packed = (int64_t)l->n_kv_head * l->head_dim;
  const int64_t ldq = r->ld ? r->ld : packed, ldk = a->kv.ldk ? a->kv.ldk : kv_packed, ldv = a->kv.ldv ? a->kv.ldv : kv_packed;
  assert(l->kind == TI_KV_GQA && nq >= 0 && r->head_dim == l->head_dim && r->n_row == a->kv.batch->n_row);
  assert(a->kv.k == (const bf16 *)r->x + (int64_t)nq * r->head_dim && ldk == ldq);
  if (r->n_row == 0) return TI_OK;
  ti_kv_writes(d, a->kv.batch->place);
  if (fast_dims(&a->kv, ldk, ldv) && r->rope_dim == r->head_dim && r->offset == 0 && (ldq & 7) == 0 && ti_aligned16(r->x)) {
    const heads h = {(bf16 *)r->x, (const bf16 *)a->kv.k, (const bf16 *)a->kv.v, ldq,           ldk, ldv, nq, l->n_kv_head,
                     r->position,  r->inv_freq,           r->attn_factor,        r->interleaved};
    return launch_heads(d, "rope_append", r->n_row, h, ti_pool_of(&a->kv));
  }
  const ti_status st = ti_cuda_rope(d, r);
  return st != TI_OK ? st : ti_cuda_kv_append(d, &a->kv);
}

// ---- copy_pages ----

// grid: layers x runs of bytes that are contiguous in a page (a head's tokens, K then V, then their scales; MLA: one).
static __global__ void copy_page_kernel(uint8_t *kv, ti_kv_layout l, int32_t src, int32_t dst, int n_token) {
  ti_pdl_launch();
  ti_pdl_wait();
  const size_t layer = (size_t)blockIdx.x * l.layer_bytes;
  const int run = blockIdx.y, heads = l.kind == TI_KV_GQA ? 2 * l.n_kv_head : 1;
  const size_t at = run < heads ? (size_t)run * l.head_stride : l.k_scale_offset + (size_t)(run - heads) * l.page_tokens * sizeof(float);
  const size_t bytes = (size_t)n_token * (run < heads ? l.token_stride : sizeof(float));
  const uint8_t *from = kv + (size_t)src * l.page_bytes + layer + at;
  uint8_t *to = kv + (size_t)dst * l.page_bytes + layer + at;
  const size_t n_vec = (((uintptr_t)from | (uintptr_t)to) & 15) == 0 ? bytes / 16 : 0;
  for (size_t i = threadIdx.x; i < n_vec; i += blockDim.x) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
  for (size_t i = 16 * n_vec + threadIdx.x; i < bytes; i += blockDim.x) to[i] = from[i];
}

ti_status ti_cuda_copy_pages(ti_dev *d, const ti_copy_pages_args *a) {
  const ti_kv_layout *l = a->layout;
  const int runs = l->kind == TI_KV_GQA ? 2 * l->n_kv_head * (l->dtype == TI_E4M3 ? 2 : 1) : 1;
  ti_kv_writes(d, d);
  for (int i = 0; i < a->n; i++) {  // one launch a copy: a later one may read what an earlier one wrote
    assert(a->src[i] != a->dst[i] && a->n_token[i] >= 0 && a->n_token[i] <= l->page_tokens);
    if (a->n_token[i] == 0) continue;
    const ti_status st =
        ti_launch(d, "copy_pages", copy_page_kernel, dim3(l->n_layer, runs), 128, 0, (uint8_t *)a->kv, *l, a->src[i], a->dst[i], a->n_token[i]);
    if (st != TI_OK) return st;
  }
  return TI_OK;
}
