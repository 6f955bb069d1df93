// The rungs of the ladder, from one thread a number to wgmma fed by TMA. Every matmul is C[m, n] = A[m, k] B[n, k]^T with bf16 operands, fp32 sums
// and a bf16 result; m and n are multiples of 256, k of 64. docs/articles/ladder.md explains each rung; ladder.cu validates and times them.
#ifndef TI_BENCHMARKS_LADDER_RUNGS_CUH
#define TI_BENCHMARKS_LADDER_RUNGS_CUH
#include <cuda_bf16.h>
#include <stdint.h>

#include "kernels/cuda/hopper.cuh"

typedef __nv_bfloat16 bf16;

// ---- rung 0: vector add ---------------------------------------------------------------------------------------------------------------------------

static __global__ void add_scalar(float *c, const float *a, const float *b, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) c[i] = a[i] + b[i];
}

// 16 bytes an access, two of each operand in flight a thread.
static __global__ void add_vector(float4 *c, const float4 *a, const float4 *b, int n4) {
  const int i = (int)(blockIdx.x * blockDim.x * 2 + threadIdx.x), j = i + (int)blockDim.x;
  if (j >= n4) {
    if (i < n4) c[i] = make_float4(a[i].x + b[i].x, a[i].y + b[i].y, a[i].z + b[i].z, a[i].w + b[i].w);
    return;
  }
  const float4 a0 = a[i], a1 = a[j], b0 = b[i], b1 = b[j];
  c[i] = make_float4(a0.x + b0.x, a0.y + b0.y, a0.z + b0.z, a0.w + b0.w);
  c[j] = make_float4(a1.x + b1.x, a1.y + b1.y, a1.z + b1.z, a1.w + b1.w);
}

// ---- rung 1: a thread an output -------------------------------------------------------------------------------------------------------------------

static __global__ void matmul_naive(bf16 *c, const bf16 *a, const bf16 *b, int n, int k) {
  const int col = (int)(blockIdx.x * 32 + threadIdx.x % 32), row = (int)(blockIdx.y * 8 + threadIdx.x / 32);
  float sum = 0.0f;
  for (int i = 0; i < k; i++) sum += __bfloat162float(a[(int64_t)row * k + i]) * __bfloat162float(b[(int64_t)col * k + i]);
  c[(int64_t)row * n + col] = __float2bfloat16_rn(sum);
}

// ---- rung 2: a tile in shared memory, a thread an output ------------------------------------------------------------------------------------------

static __global__ void matmul_tiled(bf16 *c, const bf16 *a, const bf16 *b, int n, int k) {
  __shared__ float as[32][33], bs[32][33];  // [row or column][k]; the 33rd keeps 32 rows in 32 banks
  const int x = (int)threadIdx.x % 32, y = (int)threadIdx.x / 32, row0 = (int)blockIdx.y * 32, col0 = (int)blockIdx.x * 32;
  float sum = 0.0f;
  for (int k0 = 0; k0 < k; k0 += 32) {
    as[y][x] = __bfloat162float(a[(int64_t)(row0 + y) * k + k0 + x]);
    bs[y][x] = __bfloat162float(b[(int64_t)(col0 + y) * k + k0 + x]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; i++) sum += as[y][i] * bs[x][i];
    __syncthreads();
  }
  c[(int64_t)(row0 + y) * n + col0 + x] = __float2bfloat16_rn(sum);
}

// ---- rung 3: 8 x 8 outputs a thread in registers --------------------------------------------------------------------------------------------------
//
//   block: 128 x 128 outputs, 256 threads; a step takes 16 of k: 16 numbers from shared memory feed 64 multiply-adds.

static __global__ void __launch_bounds__(256) matmul_registers(bf16 *c, const bf16 *a, const bf16 *b, int n, int k) {
  __shared__ __align__(16) float as[16][132], bs[16][132];  // [k][row or column]
  const int tid = (int)threadIdx.x, tx = tid % 16, ty = tid / 16, row0 = (int)blockIdx.y * 128, col0 = (int)blockIdx.x * 128;
  const int load_row = tid / 2, load_k = tid % 2 * 8;
  float sum[8][8] = {};
  for (int k0 = 0; k0 < k; k0 += 16) {
    const uint4 ua = *(const uint4 *)(a + (int64_t)(row0 + load_row) * k + k0 + load_k);
    const uint4 ub = *(const uint4 *)(b + (int64_t)(col0 + load_row) * k + k0 + load_k);
    const uint32_t wa[4] = {ua.x, ua.y, ua.z, ua.w}, wb[4] = {ub.x, ub.y, ub.z, ub.w};
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {  // a bf16 is the upper half of an fp32
      as[load_k + i][load_row] = __uint_as_float(i % 2 ? wa[i / 2] & 0xffff0000u : wa[i / 2] << 16);
      bs[load_k + i][load_row] = __uint_as_float(i % 2 ? wb[i / 2] & 0xffff0000u : wb[i / 2] << 16);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float x[8], y[8];
      *(float4 *)x = *(const float4 *)&as[i][ty * 4];
      *(float4 *)(x + 4) = *(const float4 *)&as[i][64 + ty * 4];
      *(float4 *)y = *(const float4 *)&bs[i][tx * 4];
      *(float4 *)(y + 4) = *(const float4 *)&bs[i][64 + tx * 4];
#pragma unroll
      for (int r = 0; r < 8; r++) {
#pragma unroll
        for (int s = 0; s < 8; s++) sum[r][s] += x[r] * y[s];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 8; r++) {
    bf16 *out = c + (int64_t)(row0 + r / 4 * 64 + ty * 4 + r % 4) * n + col0 + tx * 4;
#pragma unroll
    for (int h = 0; h < 2; h++)
      *(uint2 *)(out + 64 * h) = make_uint2(ti_pack_bf16(sum[r][4 * h], sum[r][4 * h + 1]), ti_pack_bf16(sum[r][4 * h + 2], sum[r][4 * h + 3]));
  }
}

// ---- rung 4: tensor cores by mma.sync, cp.async
// -----------------------------------------------------------------------------------------------------
//
//   block 128 x 128, 8 warps of 64 x 32, k in steps of 32, three stages. A row of a stage is 64 bytes, four chunks of 16; chunk j of row r lies at
//   j ^ (r / 2 % 4), so that the eight rows that ldmatrix reads at once lie in different banks.

#define MMA_STAGES 3
#define MMA_STAGE (128 * 32)  // elements of one operand

static __device__ __forceinline__ bf16 *mma_at(bf16 *stage, int row, int chunk) { return stage + row * 32 + (chunk ^ row / 2 % 4) * 8; }
static __device__ __forceinline__ void mma_fetch(bf16 *stage, const bf16 *src, int k, int k0) {
  for (int i = (int)threadIdx.x; i < 512; i += 256) {
    const int row = i / 4, chunk = i % 4;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(ti_smem(mma_at(stage, row, chunk))), "l"(src + (int64_t)row * k + k0 + chunk * 8)
                 : "memory");
  }
}
static __device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const bf16 *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(ti_smem(p))
               : "memory");
}

static __global__ void __launch_bounds__(256) matmul_mma(bf16 *c, const bf16 *a, const bf16 *b, int n, int k) {
  __shared__ __align__(128) bf16 as[MMA_STAGES][MMA_STAGE], bs[MMA_STAGES][MMA_STAGE];
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
  const int row0 = (int)blockIdx.y * 128, col0 = (int)blockIdx.x * 128, steps = k / 32;
  a += (int64_t)row0 * k;
  b += (int64_t)col0 * k;
  float sum[4][4][4] = {};  // [16 rows][8 columns][fragment]
  for (int s = 0; s < MMA_STAGES - 1; s++) {
    mma_fetch(as[s], a, k, s * 32);
    mma_fetch(bs[s], b, k, s * 32);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  for (int s = 0; s < steps; s++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(MMA_STAGES - 2) : "memory");
    __syncthreads();
    const int next = s + MMA_STAGES - 1;
    if (next < steps) {
      mma_fetch(as[next % MMA_STAGES], a, k, next * 32);
      mma_fetch(bs[next % MMA_STAGES], b, k, next * 32);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    bf16 *const at = as[s % MMA_STAGES], *const bt = bs[s % MMA_STAGES];
#pragma unroll
    for (int half = 0; half < 2; half++) {  // 16 of k each
      uint32_t x[4][4], y[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) ldmatrix(x[i], mma_at(at, wm + i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; j++) ldmatrix(y[j], mma_at(bt, wn + j * 16 + lane / 16 * 8 + lane % 8, half * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float *d = sum[i][j];
          asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                       : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                       : "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3]), "r"(y[j / 2][j % 2 * 2]), "r"(y[j / 2][j % 2 * 2 + 1]));
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      bf16 *out = c + (int64_t)(row0 + wm + i * 16 + lane / 4) * n + col0 + wn + j * 8 + lane % 4 * 2;
      *(uint32_t *)out = ti_pack_bf16(sum[i][j][0], sum[i][j][1]);
      *(uint32_t *)(out + 8 * n) = ti_pack_bf16(sum[i][j][2], sum[i][j][3]);
    }
  }
}

// ---- rung 5: wgmma fed by TMA
// -----------------------------------------------------------------------------------------------------------------------
//
//   block: 128 x 256 outputs, k in steps of 64 (128 bytes, the swizzle's width), four stages of 48 KiB; persistent, one block an SM
//
//     warpgroup 0, one thread: TMA  --full[s]-->  warpgroups 1, 2: wgmma 64 x 256 x 16, four a stage
//                                   <--empty[s]--
//   Tiles go down 16 rows of tiles before the next column, so that what runs at one time shares operands in L2.

#define WG_STAGES 4
#define WG_M 128
#define WG_N 256
#define WG_K 64
#define WG_BAND 16
struct wg_stage {
  bf16 a[WG_M * WG_K], b[WG_N * WG_K];
};
#define WG_SMEM (sizeof(wg_stage) * WG_STAGES + 1024)

static __device__ __forceinline__ void wg_tile(int t, int tiles_m, int tiles_n, int *row, int *col) {
  const int band = t / (WG_BAND * tiles_n), first = band * WG_BAND, height = min(WG_BAND, tiles_m - first), in = t - first * tiles_n;
  *row = (first + in % height) * WG_M;
  *col = in / height * WG_N;
}

static __global__ void __launch_bounds__(384, 1)
    matmul_wgmma(bf16 *c, const __grid_constant__ CUtensorMap am, const __grid_constant__ CUtensorMap bm, int m, int n, int k) {
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[WG_STAGES], empty[WG_STAGES];
  wg_stage *st = (wg_stage *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
  const int group = (int)threadIdx.x / 128, tid = (int)threadIdx.x % 128, tiles_m = m / WG_M, tiles_n = n / WG_N, steps = k / WG_K;
  if (threadIdx.x == 0) {
    for (int s = 0; s < WG_STAGES; s++) {
      ti_mbar_init(&full[s], 1);
      ti_mbar_init(&empty[s], 2);
    }
    ti_fence_mbar_init();
  }
  __syncthreads();
  int stage = 0, row, col;
  uint32_t parity = 0;
  if (group == 0) {
    ti_reg_dealloc<40>();
    if (tid == 0) {
      for (int t = (int)blockIdx.x; t < tiles_m * tiles_n; t += (int)gridDim.x) {
        wg_tile(t, tiles_m, tiles_n, &row, &col);
        for (int s = 0; s < steps; s++) {
          ti_mbar_wait(&empty[stage], parity ^ 1);
          ti_mbar_expect(&full[stage], sizeof(wg_stage));
          ti_tma_load_2d(st[stage].a, &am, &full[stage], s * WG_K, row);
          ti_tma_load_2d(st[stage].b, &bm, &full[stage], s * WG_K, col);
          if (++stage == WG_STAGES) stage = 0, parity ^= 1;
        }
      }
    }
  } else {
    ti_reg_alloc<232>();
    const int half = group - 1;
    for (int t = (int)blockIdx.x; t < tiles_m * tiles_n; t += (int)gridDim.x) {
      wg_tile(t, tiles_m, tiles_n, &row, &col);
      float d[WG_N / 2];
      int last = -1;
      for (int s = 0; s < steps; s++) {
        ti_mbar_wait(&full[stage], parity);
        const uint64_t da = ti_wgmma_desc(st[stage].a + half * 64 * WG_K), db = ti_wgmma_desc(st[stage].b);
        ti_wgmma_fence();
#pragma unroll
        for (int i = 0; i < WG_K / 16; i++) ti_wgmma_bf16<WG_N>(d, da + 2 * i, db + 2 * i, s > 0 || i > 0);
        ti_wgmma_commit();
        ti_wgmma_wait<1>();  // the stage before has been read
        if (last >= 0 && tid == 0) ti_mbar_arrive(&empty[last]);
        last = stage;
        if (++stage == WG_STAGES) stage = 0, parity ^= 1;
      }
      ti_wgmma_wait<0>();
      ti_wgmma_hold(d);
      if (tid == 0) ti_mbar_arrive(&empty[last]);
      bf16 *out = c + (int64_t)(row + half * 64 + tid / 32 * 16 + tid % 32 / 4) * n + col + tid % 4 * 2;
#pragma unroll
      for (int j = 0; j < WG_N / 8; j++) {
        *(uint32_t *)(out + j * 8) = ti_pack_bf16(d[4 * j], d[4 * j + 1]);
        *(uint32_t *)(out + j * 8 + 8 * (int64_t)n) = ti_pack_bf16(d[4 * j + 2], d[4 * j + 3]);
      }
    }
  }
}

#endif
