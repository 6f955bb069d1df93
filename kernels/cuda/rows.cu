// The row-wise ops: embedding, RoPE, SwiGLU's product, addition, gather.
//
// All are bound by memory, or in decode by the launch: a row is a few kilobytes. fp32 inside, bf16 at the edges; 16-byte accesses where dimensions,
// strides and addresses allow (a template: <true>), single numbers otherwise. Every result depends on its row alone.
//
// On an H200 (lab_rows, Llama-3-8B's widths, copy 4.25 TB/s, an empty kernel 2.75 us): 4,096 rows of silu_mul 84 us (98% of copy), add 24 us (97%),
// embed 11 us (its output stays in L2); one row 3.4 to 3.7 us. What is left in decode is the launch: only fusion into a neighbour would save it.
#include "kernels/cuda/kv_pool.cuh"
#include "kernels/cuda/quant_fp8.h"

static bool by8(int64_t a, int64_t b = 0, int64_t c = 0) { return ((a | b | c) & 7) == 0; }
static int64_t or_packed(int64_t ld, int64_t packed) { return ld ? ld : packed; }

// ---- embed ----

// One element of a prepared row-major matrix.
struct table {
  const void *data;
  const float *scale;
  ti_dtype dtype;
  int64_t k, scale_ld;
  int block_n, block_k, col0;
};

static __device__ __forceinline__ float table_at(const table &t, int64_t row, int64_t c) {
  if (t.dtype == TI_F32) return static_cast<const float *>(t.data)[row * t.k + c];
  if (t.dtype == TI_BF16) return __bfloat162float(static_cast<const bf16 *>(t.data)[row * t.k + c]);
  const float s = t.block_k ? t.scale[row / t.block_n * t.scale_ld + (t.col0 + c) / t.block_k] : t.scale[row];
  return ti_from_e4m3(static_cast<const uint8_t *>(t.data)[row * t.k + c]) * s;
}

template <bool VEC>
static __global__ void embed_kernel(bf16 *out, const int32_t *ids, table t, int first_id, int n_id) {
  ti_pdl_launch();
  ti_pdl_wait();
  const int64_t id = (int64_t)ids[blockIdx.x] - first_id;
  const bool in = id >= 0 && id < n_id;
  bf16 *o = out + (int64_t)blockIdx.x * t.k;
  if (VEC) {
    const uint4 *row = reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(t.data) + id * t.k);
    for (int i = threadIdx.x; i < (int)(t.k / 8); i += blockDim.x) reinterpret_cast<uint4 *>(o)[i] = in ? row[i] : make_uint4(0, 0, 0, 0);
  } else {
    for (int i = threadIdx.x; i < (int)t.k; i += blockDim.x) o[i] = __float2bfloat16_rn(in ? table_at(t, id, i) : 0.0f);
  }
}

ti_status ti_cuda_embed(ti_dev *d, const ti_embed_args *a) {
  const ti_weight *w = a->table;
  assert(w->n >= a->n_id && w->k == a->hidden && (w->layout & ~TI_CUDA_EXACT) == TI_CUDA_ROWS);
  if (a->n_row == 0) return TI_OK;
  const table t = {w->data, w->scale, w->dtype, w->k, w->scale_ld, w->block_n, w->block_k, w->col0};
  const bool vec = w->dtype == TI_BF16 && by8(w->k) && ti_aligned16(a->out) && ti_aligned16(w->data);
  return ti_launch(d, "embed", vec ? embed_kernel<true> : embed_kernel<false>, a->n_row, 256, 0, (bf16 *)a->out, a->ids, t, a->first_id, a->n_id);
}

// ---- rope ----

// One block a row and 256 pairs of it: pairs of all heads in turn. Angles in fp32, as the reference and training code have them.
static __global__ void rope_kernel(bf16 *x, const int32_t *position, const float *inv_freq, int n_head, int head_dim, int rope_dim, int offset,
                                   int64_t ld, float factor, bool interleaved) {
  ti_pdl_launch();
  ti_pdl_wait();
  const int half = rope_dim / 2, at = blockIdx.y * blockDim.x + threadIdx.x;
  if (at >= n_head * half) return;
  const int h = at / half, i = at % half;
  float sin, cos;
  sincosf((float)position[blockIdx.x] * inv_freq[i], &sin, &cos);
  sin *= factor;
  cos *= factor;
  bf16 *head = x + blockIdx.x * ld + (int64_t)h * head_dim + offset;
  bf16 *p = interleaved ? head + 2 * i : head + i, *q = interleaved ? p + 1 : p + half;
  const float u = __bfloat162float(*p), v = __bfloat162float(*q);
  const float2 r = ti_rotate(u, v, make_float2(cos, sin));
  *p = __float2bfloat16_rn(r.x);
  *q = __float2bfloat16_rn(r.y);
}

ti_status ti_cuda_rope(ti_dev *d, const ti_rope_args *a) {
  assert(a->rope_dim % 2 == 0 && a->offset + a->rope_dim <= a->head_dim);
  const int pairs = a->n_head * a->rope_dim / 2;
  if (a->n_row == 0 || pairs == 0) return TI_OK;
  return ti_launch(d, "rope", rope_kernel, dim3(a->n_row, ti_ceil_div(pairs, 256)), 256, 0, (bf16 *)a->x, a->position, a->inv_freq, a->n_head,
                   a->head_dim, a->rope_dim, a->offset, or_packed(a->ld, (int64_t)a->n_head * a->head_dim), a->attn_factor, a->interleaved);
}

// ---- silu_mul ----

// runs: gate_up's columns are those of a TI_CUDA_GATE_UP matrix, gate 0..63, up 0..63, gate 64 ..
template <bool VEC>
static __global__ void silu_mul_kernel(bf16 *out, const bf16 *gate_up, int dim, int64_t ldx, int64_t ldo, bool runs) {
  enum { RUN = TI_CUDA_GATE_RUN };
  ti_pdl_launch();
  ti_pdl_wait();
  const int c = (blockIdx.y * blockDim.x + threadIdx.x) * (VEC ? 8 : 1);
  if (c >= dim) return;
  const bf16 *g = gate_up + blockIdx.x * ldx + (runs ? c / RUN * (2 * RUN) + c % RUN : c), *u = g + (runs ? RUN : dim);
  bf16 *o = out + blockIdx.x * ldo + c;
  if (VEC) {
    float x[8], y[8];
    ti_load8(g, x);
    ti_load8(u, y);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = ti_silu_mul(x[i], y[i]);
    ti_store8(o, x);
  } else {
    *o = __float2bfloat16_rn(ti_silu_mul(__bfloat162float(*g), __bfloat162float(*u)));
  }
}

static ti_status silu_mul_launch(ti_dev *d, const ti_silu_mul_args *a, bool runs) {
  if (a->n_row == 0) return TI_OK;
  const int64_t ldx = or_packed(a->ldx, 2 * (int64_t)a->dim), ldo = or_packed(a->ldo, a->dim);
  const bool vec = by8(a->dim, ldx, ldo) && ti_aligned16(a->out) && ti_aligned16(a->gate_up);
  const int units = vec ? a->dim / 8 : a->dim, threads = units < 256 ? 32 * ti_ceil_div(units, 32) : 256;
  return ti_launch(d, "silu_mul", vec ? silu_mul_kernel<true> : silu_mul_kernel<false>, dim3(a->n_row, ti_ceil_div(units, threads)), threads, 0,
                   (bf16 *)a->out, (const bf16 *)a->gate_up, a->dim, ldx, ldo, runs);
}

ti_status ti_cuda_silu_mul(ti_dev *d, const ti_silu_mul_args *a) {
  const ti_status st = a->q ? ti_cuda_silu_mul_quant(d, a) : TI_OK;
  return st == TI_OK && a->out ? silu_mul_launch(d, a, false) : st;
}

ti_status ti_cuda_silu_mul_runs(ti_dev *d, const ti_silu_mul_args *a) { return silu_mul_launch(d, a, true); }

// ---- add ----

static __global__ void add_kernel(bf16 *x, const bf16 *y, int64_t n_vec, int64_t n) {  // vectors first, then the numbers behind them
  ti_pdl_launch();
  ti_pdl_wait();
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n_vec) {
    float u[8], v[8];
    ti_load8(x + 8 * i, u);
    ti_load8(y + 8 * i, v);
#pragma unroll
    for (int j = 0; j < 8; j++) u[j] += v[j];
    ti_store8(x + 8 * i, u);
  } else if (8 * n_vec + (i - n_vec) < n) {
    const int64_t j = 8 * n_vec + (i - n_vec);
    x[j] = __float2bfloat16_rn(__bfloat162float(x[j]) + __bfloat162float(y[j]));
  }
}

ti_status ti_cuda_add(ti_dev *d, const ti_add_args *a) {
  if (a->n == 0) return TI_OK;
  const int64_t n = (int64_t)a->n, n_vec = ti_aligned16(a->x) && ti_aligned16(a->y) ? n / 8 : 0, threads = n_vec + (n - 8 * n_vec);
  return ti_launch(d, "add", add_kernel, ti_ceil_div(threads, 256), 256, 0, (bf16 *)a->x, (const bf16 *)a->y, n_vec, n);
}

// ---- permute ----

template <bool VEC>
static __global__ void permute_kernel(bf16 *out, const bf16 *x, const int32_t *src, int n_top, int dim) {
  ti_pdl_launch();
  ti_pdl_wait();
  const int from = src[blockIdx.x];
  const bf16 *row = x + (int64_t)(from < 0 ? 0 : from / n_top) * dim;
  bf16 *o = out + (int64_t)blockIdx.x * dim;
  for (int i = threadIdx.x; i < (VEC ? dim / 8 : dim); i += blockDim.x) {
    if (VEC) {
      reinterpret_cast<uint4 *>(o)[i] = from < 0 ? make_uint4(0, 0, 0, 0) : reinterpret_cast<const uint4 *>(row)[i];
    } else {
      o[i] = from < 0 ? __float2bfloat16_rn(0.0f) : row[i];
    }
  }
}

ti_status ti_cuda_permute(ti_dev *d, const ti_permute_args *a) {
  if (a->n_out == 0) return TI_OK;
  const bool vec = by8(a->dim) && ti_aligned16(a->out) && ti_aligned16(a->x);
  return ti_launch(d, "permute", vec ? permute_kernel<true> : permute_kernel<false>, a->n_out, 256, 0, (bf16 *)a->out, (const bf16 *)a->x, a->src,
                   a->n_top, a->dim);
}
