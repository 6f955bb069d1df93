// bf16 products of up to 8 rows with a small matrix: W straight from memory into mma.sync's registers, nothing in between.
//
//   A block has 16 rows of W and 8 warps; warp w multiplies columns [64 w, 64 w + 64) of every 512, four such steps of W on their way per thread.
//
//     step     |   0    |   1    |  ..          a lane (g = lane / 4, q = lane % 4) loads 16 bytes of rows g and g + 8 at 8 q and 32 + 8 q of its 64,
//     columns  | 512    | 512    |              and x of token g at the same places: k runs in the same odd order in both operands, and a product
//     warp 0   |##      |##      |              does not care for it. m16n8k16: A the weights, B the tokens.
//     warp 1   |  ##    |  ##    |
//     ..
//   The warps' sums meet in shared memory and are added in the order of the warps.
//
// Against gemv_bf16.cu this saves the tensor maps, barriers and the cluster: 1 to 2 us, which is what matters in small matrices. W is asked for
// before the wait for the predecessor. The order of sums is a function of k; it is not gemv_bf16.cu's.
//
// H200, copy 4.255 TB/s, lab_gemv_bf16, m = 1: us alone with a cold L2 / in a row with dependent launch (cuBLASLt)
//   (2048,2048)  6.9 / 4.2  (8.1 / 6.0)      (2560,2048) 8.2 / 4.7   (8.5 / 6.3)      (2048,5632) 11.1 / 8.5 (12.3 / 10.4)
//   (4096,4096) 13.1 / 9.4 (14.7 / 12.6)     (6144,4096) 16.8 / 14.4 (17.4 / 15.2)    (11264,2048) 15.7 / 12.6 (15.7 / 13.1)
// In a row that is 47 to 86% of copy; the rest is the predecessor's end, x's way from L2 and the sum over warps, one after the other, about 2 us.
// Eight rows cost half a microsecond more (x). The next 10%: x in shared memory for all of a row, asked for by one warp while the others still wait.
#include "kernels/cuda/gemv_bf16.h"
#include "kernels/cuda/gemv_out.cuh"

enum { WARPS = 8, ROWS = 16, TOKENS = TI_GEMV_BF16_DIRECT_ROWS, CHUNK = 64, AHEAD = 4, STEP = WARPS * CHUNK / 8 };  // STEP: in units of 8 numbers

static __device__ __forceinline__ uint4 load_w(const uint4 *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
static __device__ __forceinline__ void mma(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// 32 of K.
static __device__ __forceinline__ void multiply(float d[4], const uint4 &lo, const uint4 &hi, const uint4 &x) {
  mma(d, lo.x, hi.x, lo.y, hi.y, x.x, x.y);
  mma(d, lo.z, hi.z, lo.w, hi.w, x.z, x.w);
}

static __global__ void __launch_bounds__(32 * WARPS, 2) direct_kernel(const bf16 *w, const bf16 *x, ti_gemv_out a, int k, int64_t ldx) {
  __shared__ float sums[WARPS][TOKENS][ROWS + 4];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int64_t row0 = (int64_t)blockIdx.x * ROWS;
  // This lane's first 16 bytes, in units of 16; rows behind the last stand for it and are not written.
  const uint4 *w0 = reinterpret_cast<const uint4 *>(w + min(row0 + g, a.n - 1) * k) + warp * (CHUNK / 8) + q;
  const int w1 = (int)(min(row0 + g + 8, a.n - 1) - min(row0 + g, a.n - 1)) * (k / 8);
  const uint4 *xg = reinterpret_cast<const uint4 *>(x + g * ldx) + warp * (CHUNK / 8) + q;
  const int end = k / 8 - warp * (CHUNK / 8) - q, xend = g < a.m ? end : 0;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 wa[AHEAD][2], wb[AHEAD][2], xs[AHEAD][2];
  float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};

  ti_pdl_launch();
#pragma unroll
  for (int s = 0; s < AHEAD; s++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int c = s * STEP + 4 * h;
      wa[s][h] = c < end ? load_w(w0 + c) : zero;
      wb[s][h] = c < end ? load_w(w0 + w1 + c) : zero;
    }
  }
  ti_pdl_wait();
#pragma unroll
  for (int s = 0; s < AHEAD; s++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int c = s * STEP + 4 * h;
      xs[s][h] = c < xend ? xg[c] : zero;
    }
  }
  for (int base = 0; base < k / 8 - warp * (CHUNK / 8); base += AHEAD * STEP) {  // the same for all lanes
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        multiply(d, wa[s][h], wb[s][h], xs[s][h]);
        const int c = base + (s + AHEAD) * STEP + 4 * h;
        wa[s][h] = c < end ? load_w(w0 + c) : zero;
        wb[s][h] = c < end ? load_w(w0 + w1 + c) : zero;
        xs[s][h] = c < xend ? xg[c] : zero;
      }
    }
  }
  sums[warp][2 * q][g] = d[0], sums[warp][2 * q + 1][g] = d[1], sums[warp][2 * q][g + 8] = d[2], sums[warp][2 * q + 1][g + 8] = d[3];
  __syncthreads();
  const int t = threadIdx.x / (ROWS / 2), r = threadIdx.x % (ROWS / 2) * 2;
  if (t < a.m && row0 + r < a.n) {
    float2 v = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
      v.x += sums[i][t][r];
      v.y += sums[i][t][r + 1];
    }
    ti_gemv_put(a, t, row0 + r, v);
  }
}

ti_status ti_cuda_gemv_bf16_direct(ti_dev *d, const ti_gemv_bf16_args *a) {
  assert(a->m <= TOKENS && !a->silu_mul);
  return ti_launch(d, "gemv_bf16_direct", direct_kernel, (unsigned)ti_ceil_div(a->n, ROWS), 32 * WARPS, 0, (const bf16 *)a->w, (const bf16 *)a->x,
                   ti_gemv_out_of(a), (int)a->k, a->ldx ? a->ldx : a->k);
}
