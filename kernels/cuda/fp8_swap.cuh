// The main loop that the FP8 GEMMs at the memory limit share (gemm_fp8_small.cu, gemm_fp8_masked.cu): operands swapped, so that 64 weight rows are
// wgmma's M and the tokens its narrow N.
//
//   a block:  R rows of W (R / 64 math warpgroups, 64 rows each)  x  MT tokens, along K 128 at a time
//
//        ring in shared memory, `stages` deep              one stage, both swizzled by TMA (128 bytes = 128 e4m3 a row)
//        +-------+-------+-------+- - -+                   W [R][128]      64 rows a warpgroup: wgmma's A operand
//        | stage | stage | stage |     |                   x [MT][128]     all warpgroups': wgmma's B operand
//        +-------+-------+-------+- - -+                   xs [MT] fp32    (an array of its own behind the ring)
//          full[i]: TMA's bytes are there      empty[i]: every math warp has read it
//
// One thread of the last warp issues all loads; the math warps wait, multiply 128 of K in the tensor core, and add acc * (s_w * s_x) to fp32 sums.
#ifndef TI_KERNELS_CUDA_FP8_SWAP_CUH
#define TI_KERNELS_CUDA_FP8_SWAP_CUH
#include "kernels/cuda/hopper.cuh"

#define TI_SWAP_K 128  // one stage's K: a swizzled row, and the scales' block

// Shared memory by byte offsets from its 1,024-aligned start. Host and device compute the same.
typedef struct ti_swap_ring {
  int stages;
  uint32_t stage_bytes;  // W then x
  uint32_t x_offset;     // in a stage
  uint32_t xs;           // [stages][MT] fp32
  uint32_t bars;         // full [stages], empty [stages]
  uint32_t end;          // a multiple of 128: what else a kernel needs begins here
} ti_swap_ring;

static inline __host__ __device__ ti_swap_ring ti_swap_layout(int rows, int mt, int stages) {
  ti_swap_ring r;
  r.stages = stages;
  r.x_offset = (uint32_t)rows * TI_SWAP_K;
  r.stage_bytes = r.x_offset + (uint32_t)mt * TI_SWAP_K;
  r.xs = r.stage_bytes * (uint32_t)stages;
  r.bars = r.xs + (((uint32_t)(mt * 4) + 127) & ~127u) * (uint32_t)stages;
  r.end = r.bars + ((16u * (uint32_t)stages + 127) & ~127u);
  return r;
}

#ifdef __CUDACC__
// Where a role stands in the ring.
typedef struct ti_swap_pos {
  int i;
  uint32_t parity;
} ti_swap_pos;
TI_DEV void ti_swap_next(ti_swap_pos *p, int stages) {
  if (++p->i == stages) {
    p->i = 0;
    p->parity ^= 1;
  }
}

template <int MT>
TI_DEV float *ti_swap_xs(uint8_t *smem, const ti_swap_ring &r, int i) {
  return (float *)(smem + r.xs + (uint32_t)i * ((MT * 4 + 127) & ~127u));
}

// One stage: sum += (W x^T) * (sw * xs), then the stage is given back. A math warpgroup (`group` of the block's R / 64).
template <int MT>
TI_DEV void ti_swap_step(uint8_t *smem, const ti_swap_ring &r, ti_swap_pos p, int group, float sw, float (&sum)[MT / 2]) {
  uint64_t *full = (uint64_t *)(smem + r.bars), *empty = full + r.stages;
  uint8_t *stage = smem + (uint32_t)p.i * r.stage_bytes;
  const uint64_t a = ti_wgmma_desc(stage + group * 64 * TI_SWAP_K), b = ti_wgmma_desc(stage + r.x_offset);
  const float *xs = ti_swap_xs<MT>(smem, r, p.i) + 2 * (threadIdx.x & 3);
  float acc[MT / 2];
  ti_mbar_wait(full + p.i, p.parity);
  ti_wgmma_hold(acc);
  ti_wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) ti_wgmma_e4m3<MT>(acc, a + 2 * k, b + 2 * k, k > 0);
  ti_wgmma_commit();
  ti_wgmma_wait<0>();
  ti_wgmma_hold(acc);
#pragma unroll
  for (int j = 0; j < MT / 8; j++) {
    const float2 s = *(const float2 *)(xs + 8 * j);
    const float s0 = sw * s.x, s1 = sw * s.y;
    sum[4 * j + 0] += acc[4 * j + 0] * s0;
    sum[4 * j + 1] += acc[4 * j + 1] * s1;
    sum[4 * j + 2] += acc[4 * j + 2] * s0;
    sum[4 * j + 3] += acc[4 * j + 3] * s1;
  }
  __syncwarp();
  if ((threadIdx.x & 31) == 0) ti_mbar_arrive(empty + p.i);
}

// silu(gate) * up of one token's run of 128 outputs, one warp, 4 a lane, rounded to bf16; then the 1x128 codes and their scale (lane 0's to store).
// s = max(amax, 1e-4) / 448, code = e4m3(v / s).
TI_DEV float ti_silu_mul(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }
TI_DEV float ti_round_bf16(float v) { return __uint_as_float(ti_pack_bf16(0.0f, v) & 0xFFFF0000u); }
TI_DEV uint32_t ti_pack_e4m3(float a, float b, float c, float d) {
  uint16_t lo, hi;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
  return (uint32_t)lo | (uint32_t)hi << 16;
}
TI_DEV uint32_t ti_quant_run(const float (&v)[4], float *scale) {
  float amax = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, o));
  const float s = fmaxf(amax, 1e-4f) / 448.0f;
  *scale = s;
  return ti_pack_e4m3(v[0] / s, v[1] / s, v[2] / s, v[3] / s);
}
#endif
#endif
