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

// The scales of 64 W rows along K, 32 stages at a time: one a lane, and the next 32 on their way.
typedef struct ti_swap_scales {
  const float *from;  // [n]
  int n;
  float now, next;
} ti_swap_scales;
TI_DEV float ti_swap_scale_load(const ti_swap_scales &s, int kb) {
  const int i = kb + (int)(threadIdx.x & 31);
  return i < s.n ? __ldg(s.from + i) : 0.0f;
}
TI_DEV ti_swap_scales ti_swap_scales_at(const float *from, int n) {
  ti_swap_scales s = {from, n, 0.0f, 0.0f};
  s.next = ti_swap_scale_load(s, 0);
  return s;
}
// Stage kb's: to be asked in order. Warp.
TI_DEV float ti_swap_scale(ti_swap_scales *s, int kb) {
  if (kb % 32 == 0) {
    s->now = s->next;
    s->next = ti_swap_scale_load(*s, kb + 32);
  }
  return __shfl_sync(0xffffffffu, s->now, kb % 32);
}

// The sums' way to shared memory, token by token: 16 rows of W stand as 0 8 1 9 2 10 .. 7 15, so that a thread writes its two rows of a token at once;
// `ldr` floats from token to token, 4 more than a multiple of 16 (no bank conflicts). The place of this thread's pair in a token:
TI_DEV int ti_swap_pair() { return (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4 * 2; }
// Place 4 i (a multiple of 4) holds rows r, r + 8, r + 1, r + 9 with r:
TI_DEV int ti_swap_row(int place) { return place / 16 * 16 + place % 16 / 2; }

// A run of 128 outputs of silu(gate) * up of one token, a warp: a lane's four, at o, o + 8, o + 1, o + 9 (ti_swap_row), rounded to bf16.
typedef struct ti_swap_silu {
  float v[4];
} ti_swap_silu;
TI_DEV float ti_silu_mul(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }
TI_DEV ti_swap_silu ti_swap_silu_mul(float4 gate, float4 up) {
  ti_swap_silu s = {{ti_silu_mul(gate.x, up.x), ti_silu_mul(gate.y, up.y), ti_silu_mul(gate.z, up.z), ti_silu_mul(gate.w, up.w)}};
#pragma unroll
  for (int i = 0; i < 4; i++) s.v[i] = __uint_as_float(ti_pack_bf16(0.0f, s.v[i]) & 0xFFFF0000u);
  return s;
}
TI_DEV void ti_swap_silu_store(uint16_t *o, const ti_swap_silu &s) {
  *(uint32_t *)o = ti_pack_bf16(s.v[0], s.v[2]);
  *(uint32_t *)(o + 8) = ti_pack_bf16(s.v[1], s.v[3]);
}
TI_DEV uint16_t ti_pack_e4m3(float lo, float hi) {
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(hi), "f"(lo));
  return r;
}
// The run's codes to o, as quant_fp8 makes them: s = max(amax, 1e-4) / 448, code = e4m3(v / s). Returns s.
TI_DEV float ti_swap_silu_quant(uint8_t *o, const ti_swap_silu &s) {
  float amax = fmaxf(fmaxf(fabsf(s.v[0]), fabsf(s.v[1])), fmaxf(fabsf(s.v[2]), fabsf(s.v[3])));
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, d));
  const float scale = fmaxf(amax, 1e-4f) / 448.0f;
  *(uint16_t *)o = ti_pack_e4m3(s.v[0] / scale, s.v[2] / scale);
  *(uint16_t *)(o + 8) = ti_pack_e4m3(s.v[1] / scale, s.v[3] / scale);
  return scale;
}
#endif
#endif
