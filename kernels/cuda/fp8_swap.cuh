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
// One thread of the last warp issues all loads (gemm_fp8_small.cu: one of two warps each W's and x's); the math warps wait, multiply 128 of K in the
// tensor core, and add acc * (s_w * s_x) to fp32 sums.
#ifndef TI_KERNELS_CUDA_FP8_SWAP_CUH
#define TI_KERNELS_CUDA_FP8_SWAP_CUH
#include "kernels/cuda/hopper.cuh"

#define TI_SWAP_K 128      // one stage's K: a swizzled row, and the scales' block
#define TI_SWAP_STAGES 32  // at most

// Whether a stage's products run in the tensor core while the stage before is promoted: where registers allow two accumulators.
static inline __host__ __device__ constexpr int ti_swap_ahead(int mt) { return mt <= 32 || mt == 128; }
// Most rows of W a block may have, by the registers of its math threads; and its threads then. Behind the math warpgroups comes one warp that loads,
// or, where the math threads need its registers, a warpgroup that gives them away.
static inline __host__ __device__ constexpr int ti_swap_rows(int mt) { return mt > 64 ? 128 : 256; }
static inline __host__ __device__ constexpr int ti_swap_load_threads(int mt) { return mt > 64 ? 128 : 32; }
static inline __host__ __device__ constexpr int ti_swap_threads(int mt) { return 2 * ti_swap_rows(mt) + ti_swap_load_threads(mt); }

// Shared memory by byte offsets from its 1,024-aligned start. Host and device compute the same.
typedef struct ti_swap_ring {
  int stages;
  uint32_t stage_bytes;   // W then x
  uint32_t x_offset;      // in a stage
  uint32_t xs, xs_bytes;  // [stages][MT] fp32, a stage's rounded up to 128 bytes
  uint32_t bars;          // full [stages], empty [stages]
  uint32_t end;           // a multiple of 128: what else a kernel needs begins here
} ti_swap_ring;

static inline __host__ __device__ ti_swap_ring ti_swap_layout(int rows, int mt, int stages) {
  ti_swap_ring r;
  r.stages = stages;
  r.x_offset = (uint32_t)rows * TI_SWAP_K;
  r.stage_bytes = r.x_offset + (uint32_t)mt * TI_SWAP_K;
  r.xs = r.stage_bytes * (uint32_t)stages;
  r.xs_bytes = ((uint32_t)(mt * 4) + 127) & ~127u;
  r.bars = r.xs + r.xs_bytes * (uint32_t)stages;
  r.end = r.bars + ((16u * (uint32_t)stages + 127) & ~127u);
  return r;
}

#ifdef __CUDACC__
// Addresses here are 32-bit shared ones and the same in all threads of a warp, which lets them live in uniform registers: between two wgmmas of a
// stage there is no time for more.
TI_DEV uint32_t ti_swap_uniform(uint32_t v) { return __shfl_sync(0xffffffffu, v, 0); }

TI_DEV bool ti_swap_try(uint32_t bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done)
               : "r"(bar), "r"(parity)
               : "memory");
  return done != 0;
}
TI_DEV void ti_swap_wait(uint32_t bar, uint32_t parity) {
  for (uint32_t left = TI_MBAR_TRIES; !ti_swap_try(bar, parity); left--) {
    if (left == 0) __trap();
  }
}

// Where a role stands in the ring.
typedef struct ti_swap_pos {
  uint32_t stage, bar;  // addresses of the stage and of its full barrier
  uint32_t parity;
  int i;
} ti_swap_pos;
TI_DEV ti_swap_pos ti_swap_first(uint32_t smem, const ti_swap_ring &r) {
  const ti_swap_pos p = {smem, smem + r.bars, 0, 0};
  return p;
}
TI_DEV void ti_swap_next(ti_swap_pos *p, const ti_swap_ring &r, uint32_t smem) {
  p->i++, p->stage += r.stage_bytes, p->bar += 8;
  if (p->i == r.stages) p->i = 0, p->stage = smem, p->bar = smem + r.bars, p->parity ^= 1;
}
TI_DEV uint32_t ti_swap_xs_at(const ti_swap_ring &r, uint32_t smem, int i) { return smem + r.xs + (uint32_t)i * r.xs_bytes; }

// The low word of ti_wgmma_desc: address / 16, and the leading offset that K-major operands do not use.
TI_DEV uint64_t ti_swap_desc(uint32_t address, int k) { return (uint64_t)(64u | 1u << 30) << 32 | (uint64_t)((address >> 4 | 1u << 16) + 2 * k); }

// One stage's products into acc, as one group of wgmmas. `rows`: the byte offset of the warpgroup's 64 rows in a stage.
template <int MT>
TI_DEV void ti_swap_issue(const ti_swap_ring &r, const ti_swap_pos &p, uint32_t rows, float (&acc)[MT / 2]) {
  ti_swap_wait(p.bar, p.parity);
  ti_wgmma_hold(acc);
  ti_wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) ti_wgmma_e4m3<MT>(acc, ti_swap_desc(p.stage + rows, k), ti_swap_desc(p.stage + r.x_offset, k), k > 0);
  ti_wgmma_commit();
}

TI_DEV float2 ti_swap_pair_scale(uint32_t xs, float sw) {
  float a, b;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(a), "=f"(b) : "r"(xs));
  return make_float2(a * sw, b * sw);
}

// Waits until at most LEFT groups are open, sum += acc * (sw * xs), and gives the stage back.
template <int MT, int LEFT, bool EARLY>
TI_DEV void ti_swap_promote(const ti_swap_ring &r, const ti_swap_pos &p, uint32_t smem, float sw, float (&acc)[MT / 2], float (&sum)[MT / 2]) {
  const uint32_t xs = ti_swap_xs_at(r, smem, p.i) + 8 * (threadIdx.x & 3);
  float2 s[MT / 8];
  if (EARLY) {  // the scales before the wait, where registers allow
#pragma unroll
    for (int j = 0; j < MT / 8; j++) s[j] = ti_swap_pair_scale(xs + 32 * j, sw);
  }
  ti_wgmma_wait<LEFT>();
  ti_wgmma_hold(acc);
#pragma unroll
  for (int j = 0; j < MT / 8; j++) {
    if (!EARLY) s[j] = ti_swap_pair_scale(xs + 32 * j, sw);
    sum[4 * j + 0] += acc[4 * j + 0] * s[j].x;
    sum[4 * j + 1] += acc[4 * j + 1] * s[j].y;
    sum[4 * j + 2] += acc[4 * j + 2] * s[j].x;
    sum[4 * j + 3] += acc[4 * j + 3] * s[j].y;
  }
  __syncwarp();
  if ((threadIdx.x & 31) == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(p.bar + 8 * (uint32_t)r.stages) : "memory");
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

// n_kb stages of a math warpgroup: sum = W x^T (ti_swap_ahead).
template <int MT>
TI_DEV void ti_swap_multiply(const ti_swap_ring &r, ti_swap_pos *at, uint32_t smem, uint32_t rows, ti_swap_scales sw, int n_kb,
                             float (&sum)[MT / 2]) {
  constexpr bool two = ti_swap_ahead(MT), early = MT <= 64;
#pragma unroll
  for (int i = 0; i < MT / 2; i++) sum[i] = 0.0f;
  float acc[1 + two][MT / 2];
  if (!two) {
    for (int kb = 0; kb < n_kb; kb++) {
      const float s = ti_swap_scale(&sw, kb);
      ti_swap_issue<MT>(r, *at, rows, acc[0]);
      ti_swap_promote<MT, 0, early>(r, *at, smem, s, acc[0], sum);
      ti_swap_next(at, r, smem);
    }
    return;
  }
  ti_swap_pos p = *at;  // the stage whose products are open the longest
  ti_swap_issue<MT>(r, *at, rows, acc[0]);
  int kb = 0;
  for (; kb + 2 < n_kb; kb += 2) {
    ti_swap_next(at, r, smem);
    ti_swap_issue<MT>(r, *at, rows, acc[two]);
    ti_swap_promote<MT, 1, early>(r, p, smem, ti_swap_scale(&sw, kb), acc[0], sum);
    p = *at;
    ti_swap_next(at, r, smem);
    ti_swap_issue<MT>(r, *at, rows, acc[0]);
    ti_swap_promote<MT, 1, early>(r, p, smem, ti_swap_scale(&sw, kb + 1), acc[two], sum);
    p = *at;
  }
  if (kb + 1 < n_kb) {
    ti_swap_next(at, r, smem);
    ti_swap_issue<MT>(r, *at, rows, acc[two]);
    ti_swap_promote<MT, 1, early>(r, p, smem, ti_swap_scale(&sw, kb), acc[0], sum);
    ti_swap_promote<MT, 0, early>(r, *at, smem, ti_swap_scale(&sw, kb + 1), acc[two], sum);
  } else {
    ti_swap_promote<MT, 0, early>(r, p, smem, ti_swap_scale(&sw, kb), acc[0], sum);
  }
  ti_swap_next(at, r, smem);
}

// TMA loads by address, one thread.
TI_DEV void ti_swap_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
TI_DEV void ti_swap_load(uint32_t dst, const CUtensorMap *map, uint32_t bar, int x, int y, uint64_t l2) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x), "r"(y), "l"(l2)
      : "memory");
}

// The sums' way to shared memory, token by token: 16 rows of W stand as 0 8 1 9 2 10 .. 7 15, so that a thread writes its two rows of a token at
// once; `ldr` floats from token to token, 4 more than a multiple of 16 (no bank conflicts). The place of this thread's pair in a token:
TI_DEV int ti_swap_pair() { return (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4 * 2; }
// Place 4 i (a multiple of 4) holds rows r, r + 8, r + 1, r + 9 with r:
TI_DEV int ti_swap_row(int place) { return place / 16 * 16 + place % 16 / 2; }

// What stands at a place (a multiple of 4), turned into four neighbouring rows: lanes i and i ^ 1, which hold neighbouring places, exchange halves.
// Warp.
TI_DEV float4 ti_swap_four(float4 v, int place, int *row) {
  const bool odd = place & 4;
  const float a = __shfl_xor_sync(0xffffffffu, odd ? v.x : v.y, 1), b = __shfl_xor_sync(0xffffffffu, odd ? v.z : v.w, 1);
  *row = place / 16 * 16 + (odd ? 8 : 0) + (place & 8 ? 4 : 0);
  return odd ? make_float4(a, b, v.y, v.w) : make_float4(v.x, v.z, a, b);
}

// A run of 128 outputs of silu(gate) * up of one token, a warp: a lane's four, at o, o + 8, o + 1, o + 9 (ti_swap_row), rounded to bf16.
typedef struct ti_swap_silu {
  float v[4];
} ti_swap_silu;
TI_DEV float ti_swap_silu_one(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }
TI_DEV ti_swap_silu ti_swap_silu_mul(float4 gate, float4 up) {
  ti_swap_silu s = {{ti_swap_silu_one(gate.x, up.x), ti_swap_silu_one(gate.y, up.y), ti_swap_silu_one(gate.z, up.z), ti_swap_silu_one(gate.w, up.w)}};
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
