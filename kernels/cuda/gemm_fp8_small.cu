// FP8 GEMM for few tokens: W is read once, and nothing else may take longer.
//
//   grid (split, n / rows, m / tokens); the `split` blocks of a cluster share one tile of out and cut K:
//
//               K ->                              a block: a ring of TMA loads (fp8_swap.cuh: W is wgmma's 64-row side, tokens the narrow one),
//           +---------+---------+---------+       rows / 64 math warpgroups, two warps that load
//   n rows  | block 0 | block 1 | block 2 |
//           +---------+---------+---------+
//             sums |     |     |      fp32, through distributed shared memory to the block that owns the token (token t: block t / own): up to 16
//                  v     v     v      tokens by st.async from registers, more by one bulk copy a pair of blocks out of the drained ring
//               red[block][token][row]      the owner waits for the bytes, adds in the order of K, and writes bf16 (or fp32, silu(gate) * up, codes)
//
// Bits: the order of sums depends on `split` alone, not on rows, tokens or timing.
// Latency: W's first two stages are asked for some 130 instructions after the start, before other barriers are made (50 clocks each, so all warps
// make some) and before anybody waits for anybody. Two warps load: W's runs up to 200 KB an SM ahead, after another op in the stream before that op
// has ended; x's follows when that has. One warp for both issued a stage in 280 to 380 clocks, which bound single blocks (whole K).
//
// What bounds it: memory. Measured on an H200 (copy 4.25 TB/s, empty kernel 2.8 us; lab_gemm_fp8_small), us alone / us as one op of a chain under
// programmatic dependent launch, as a decode step runs them (times faster than cuBLASLt's block128 alone; it has none for m = 1). floor: the plain
// read of W in the same harness (lab_floor.h), alone / in such a chain:
//   n, k            W, MB  at copy  floor          m = 1           m = 16                 m = 64
//   4096, 7168      29.4      6.9   10.8 /  7.5    12.5 /  8.5     12.9 /  9.4 (1.37x)    14.2 / 10.9 (1.33x)
//   24576, 1536     37.7      8.9   12.6 /  9.3    14.2 / 10.1     14.2 / 10.1 (1.24x)    15.1 / 11.9 (1.19x)
//   7168, 16384    117.4     27.6   30.9 / 26.8    33.8 / 29.7     33.5 / 30.4 (1.17x)    35.6 / 32.9 (1.16x)
//   6144, 4096      25.2      5.9    9.8 /  6.5    11.4 /  7.3     11.9 /  8.0 (1.41x)    12.8 /  9.5 (1.33x)
//   28672, 4096    117.4     27.6   30.9 / 26.8    33.8 / 30.1     33.9 / 30.1 (1.09x)    35.8 / 32.6 (1.04x)
//   4096, 14336     58.7     13.8   17.1 / 13.7    20.2 / 15.3 *   19.6 / 15.6 (1.37x)    21.0 / 17.5 (1.23x)   (*: with K in 3)
//   4096, 4096      16.8      3.9    7.9 /  4.6     9.3 /  5.4      9.7 /  6.0 (1.68x)    11.0 /  7.6 (1.50x)
//   2112, 7168      15.1      3.6    7.6 /  4.2     9.0 /  5.1      9.5 /  5.9 (1.78x)    11.2 /  7.9 (1.56x)
//   7168, 2048      14.7      3.5    7.5 /  4.0     8.5 /  4.9      8.8 /  5.3 (1.30x)    10.0 /  6.6 (1.15x)
//   2560, 2048       5.2      1.2    5.3 /  1.9     6.5 /  3.1      7.0 /  3.7 (1.56x)     8.8 /  5.3 (1.26x)
// Alone the floor itself is at 60 to 65 % of copy for 25 to 29 MB, at 70 % for 38: the launch is in every figure and the first bytes come a
// microsecond after it. Above the floor stands, in clocks of a block (1.7 GHz; (4096, 7168), m = 16 / 64): the first stage complete 3,000 after the
// start; the sums to their owners 1,050 / 1,850, of which half is waiting for the slowest block; adding and writing 900 / 1,500. Without that end a
// chain is 0.7 to 1.0 us an op faster (m = 16), 1.4 to 1.6 (m = 64); without x's loads 0.1 to 0.5. At 128 shared memory is the limit: W and x written
// once and read by wgmma, and the scales, which lie along the accumulator's columns, read by every thread: there gemm_fp8.cu, whose tokens are the
// 64-row side, is faster. Tried and left: W straight from memory into wgmma's A registers (16 rows at four places of K as its 64; no ring, no
// cluster): x waits behind W in the load unit, 0.4 us faster at best ((6144, 4096), m = 1), 1 to 10 us slower with more tokens or rows. x by
// multicast to two tiles of a cluster: chains 10 to 60 % slower, each block waits for the other's stages. x in a ring of its own, 2 to 4 deep, W's
// longer: 0.5 to 1.5 us slower at 64 tokens. silu by pairs of 128-row blocks that tell each other their maxima: 1 us slower in a row than 256 rows. A
// GEMV by mma.sync (sm_90 has it for e4m3 only by way of f16). The cluster's sums by plain remote stores and a releasing cluster barrier (a fence to
// the whole device). The tokens' scales and x after all of W by the same warp (the ring stalls until it is full). The next 10 %: at m = 64 the end:
// the sums' exchange is a third of it, and the skew of a cluster's blocks another.
#include "kernels/cuda/gemm_fp8_small.h"

#include <assert.h>
#include <cuda_runtime.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/fp8_swap.cuh"
#include "kernels/cuda/tensor_map.h"

// Up to so many tokens a block, sums go to their owners from registers, 8 bytes at a time.
#define TI_SMALL_DIRECT 16

// The math warpgroups, and two warps that load or their warpgroup.
static inline __host__ __device__ constexpr int threads_of(int rows, int tokens) { return 2 * rows + (tokens > 64 ? 128 : 64); }

// What a launch tells its blocks.
typedef struct small_params {
  void *out;
  const float *w_scale, *bias;
  uint8_t *q;
  float *q_scale;
  int64_t ldo, w_scale_ld;
  int m, n;
  int n_kb, n_longer;  // stages along K of a block of the cluster; the first n_longer have one more
  int rows, split;     // a block's W rows; the cluster's size
  int own, own_inv;    // tokens a block of the cluster sums up and writes; 65536 / own, rounded up
  int ldr;             // floats from token to token in the reduction buffer
  int red, done;  // byte offsets: [split][own][ldr] sums, where K is not split in the ring, else behind it, and the barrier that counts their bytes
  int q_ld;
  bool out_f32, accumulate, silu, gate_up, stacked;
  bool simple;  // bf16 as it is
  ti_swap_ring ring;
} small_params;

// The row of [gate; up] where run `run` of 64 of a stacked silu block begins.
TI_DEV int stacked_row(const small_params &p, int n0, int run) { return (run & 1 ? p.n / 2 : 0) + n0 / 2 + run / 2 * 64; }

// One stage's loads, by one thread, after its ti_swap_expect. W: a stacked silu block takes its rows from the two halves of W, in the order that an
// interleaved one finds: gate, up, gate, up in runs of 64.
TI_DEV void load_w(const small_params &p, const CUtensorMap *w, const ti_swap_pos &at, int kb, int n0) {
  if (!p.stacked) {
    ti_swap_load(at.stage, w, at.bar, kb * TI_SWAP_K, n0, TI_L2_EVICT_FIRST);
    return;
  }
#pragma unroll
  for (int run = 0; run < 4; run++) {
    if (64 * run < p.rows)
      ti_swap_load(at.stage + (uint32_t)run * 64 * TI_SWAP_K, w, at.bar, kb * TI_SWAP_K, stacked_row(p, n0, run), TI_L2_EVICT_FIRST);
  }
}
TI_DEV void load_x(uint32_t smem, const small_params &p, const CUtensorMap *x, const CUtensorMap *xs, const ti_swap_pos &at, int kb, int m0) {
  ti_swap_load(at.stage + p.ring.x_offset, x, at.bar, kb * TI_SWAP_K, m0, TI_L2_EVICT_LAST);
  ti_swap_load(ti_swap_xs_at(p.ring, smem, at.i), xs, at.bar, m0, kb, TI_L2_EVICT_LAST);
}

TI_DEV void put_pair(uint32_t at, float a, float b) { asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(a), "f"(b) : "memory"); }

// This block's sums of K for every token, in shared memory from `to` on; those of the tokens own0 .. own1 - 1 by `shift` further on.
template <int MT>
TI_DEV void lay_out(uint32_t to, int ldr, const float (&sum)[MT / 2], int n_tok, int own0, int own1, uint32_t shift) {
  to += (uint32_t)ti_swap_pair() * 4;
#pragma unroll
  for (int j = 0; j < MT / 8; j++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int tok = 8 * j + 2 * (threadIdx.x & 3) + c;
      const uint32_t at = to + (uint32_t)(tok * ldr) * 4 + (tok >= own0 && tok < own1 ? shift : 0);
      if (tok < n_tok) put_pair(at, sum[4 * j + c], sum[4 * j + 2 + c]);
    }
  }
}

// This block's sums to the blocks of the cluster that own the tokens: red[rank][token][place] there, whose barrier counts the bytes that come from
// others. Few tokens go straight from registers, more by one copy a block out of the ring, which is empty by now. What the block keeps it writes
// itself.
template <int MT>
TI_DEV void push(uint32_t smem, const small_params &p, const float (&sum)[MT / 2], int rank, int n_tok) {
  const uint32_t red = smem + (uint32_t)p.red, done = smem + (uint32_t)p.done, part = (uint32_t)(rank * p.own * p.ldr) * 4;
  if (p.split == 1) {
    ti_bar_sync(1, 2 * p.rows);  // every warp has read its last stage
    lay_out<MT>(red, p.ldr, sum, n_tok, 0, 0, 0);
  } else if (MT > TI_SMALL_DIRECT) {
    ti_bar_sync(1, 2 * p.rows);  // every warp has read its last stage
    lay_out<MT>(smem, p.ldr, sum, n_tok, rank * p.own, (rank + 1) * p.own, (uint32_t)p.red);
    ti_fence_proxy_async();
    __syncwarp();
    ti_bar_sync(1, 2 * p.rows);
    const int to = (int)threadIdx.x, left = n_tok - to * p.own, n = left < p.own ? left : p.own;
    if (to < p.split && to != rank && n > 0) {
      asm volatile(
          "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(ti_mapa(red + part, (uint32_t)to)),
          "r"(smem + (uint32_t)(to * p.own * p.ldr) * 4), "r"((uint32_t)(n * p.ldr) * 4), "r"(ti_mapa(done, (uint32_t)to))
          : "memory");
    }
    __syncwarp();
    return;
  } else {
    const uint32_t base = red + part + (uint32_t)ti_swap_pair() * 4;
#pragma unroll
    for (int j = 0; j < MT / 8; j++) {
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const int tok = 8 * j + 2 * (threadIdx.x & 3) + c;
        if (tok >= n_tok) continue;
        const int owner = (tok * p.own_inv) >> 16;
        const uint32_t at = base + (uint32_t)((tok - owner * p.own) * p.ldr) * 4;
        if (owner == rank) {
          put_pair(at, sum[4 * j + c], sum[4 * j + 2 + c]);
        } else {
          asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(ti_mapa(at, (uint32_t)owner)),
                       "f"(sum[4 * j + c]), "f"(sum[4 * j + 2 + c]), "r"(ti_mapa(done, (uint32_t)owner))
                       : "memory");
        }
      }
    }
  }
  __syncwarp();
  ti_bar_sync(1, 2 * p.rows);  // what the block keeps
}

// The sums over the cluster, in the order of K: the four rows at a place of the N tokens tok, tok + step, ..; one that lies behind
// this block's is the last of them once more.
template <int N>
TI_DEV void gather(const small_params &p, const float *from, int tok, int step, float4 (&v)[N]) {
  int at[N];
#pragma unroll
  for (int i = 0; i < N; i++) at[i] = (tok + i * step < p.own ? tok + i * step : p.own - 1) * p.ldr, v[i] = *(const float4 *)(from + at[i]);
  const int part = p.own * p.ldr;
#pragma unroll 1
  for (int s = 1; s < p.split; s++) {
    from += part;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float4 u = *(const float4 *)(from + at[i]);
      v[i].x += u.x, v[i].y += u.y, v[i].z += u.z, v[i].w += u.w;
    }
  }
}

// Four neighbouring columns of out, with all that may be asked for.
TI_DEV void write_four(const small_params &p, float4 v, int m, int n) {
  if (p.bias != NULL) v.x += p.bias[n], v.y += p.bias[n + 1], v.z += p.bias[n + 2], v.w += p.bias[n + 3];
  if (p.gate_up) n = n / 128 * 64 + n % 64 + (n & 64 ? p.n / 2 : 0);
  if (p.out_f32) {
    float4 *o = (float4 *)((float *)p.out + m * p.ldo + n);
    if (p.accumulate) {
      const float4 u = *o;
      v.x += u.x, v.y += u.y, v.z += u.z, v.w += u.w;
    }
    *o = v;
  } else {
    uint2 *o = (uint2 *)((uint16_t *)p.out + m * p.ldo + n);
    if (p.accumulate) {
      const uint2 u = *o;
      v.x += __uint_as_float(u.x << 16), v.y += __uint_as_float(u.x & 0xFFFF0000u);
      v.z += __uint_as_float(u.y << 16), v.w += __uint_as_float(u.y & 0xFFFF0000u);
    }
    *o = make_uint2(ti_pack_bf16(v.x, v.y), ti_pack_bf16(v.z, v.w));
  }
}

// A warpgroup writes its 64 rows, half a warp a token, N turns of eight tokens at once.
template <int N>
TI_DEV void write_some(const small_params &p, const float *red, int m0, int n_own, int n0, int tok, int place) {
  float4 v[N];
  int row;
  gather<N>(p, red + place, tok, 8, v);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = ti_swap_four(v[i], place, &row);
  if (n0 + row >= p.n) return;
  if (p.simple) {
    uint16_t *o = (uint16_t *)p.out + (m0 + tok) * p.ldo + n0 + row;
    const int64_t step = 8 * p.ldo;
#pragma unroll
    for (int i = 0; i < N; i++, o += step) {
      if (tok + 8 * i < n_own) *(uint2 *)o = make_uint2(ti_pack_bf16(v[i].x, v[i].y), ti_pack_bf16(v[i].z, v[i].w));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    if (tok + 8 * i < n_own) write_four(p, v[i], m0 + tok + 8 * i, n0 + row);
  }
}
template <int MT>
TI_DEV void write_plain(const small_params &p, const float *red, int m0, int n_own, int n0) {
  constexpr int N = MT <= 8 ? 1 : MT <= 16 ? 2 : 4;
  const int place = (int)threadIdx.x / 128 * 64 + (int)threadIdx.x % 16 * 4;
#pragma unroll 1
  for (int t = (int)threadIdx.x % 128 / 16; t < ((n_own + 7) & ~7); t += 8 * N) {
    write_some<N>(p, red, m0, n_own, n0, t, place);
    __syncwarp();
  }
}

// silu(gate) * up of four neighbouring outputs, rounded to bf16.
TI_DEV float4 silu_four(float4 gate, float4 up) {
  const uint32_t a = ti_pack_bf16(ti_silu_mul(gate.x, up.x), ti_silu_mul(gate.y, up.y)),
                 b = ti_pack_bf16(ti_silu_mul(gate.z, up.z), ti_silu_mul(gate.w, up.w));
  return make_float4(__uint_as_float(a << 16), __uint_as_float(a & 0xFFFF0000u), __uint_as_float(b << 16), __uint_as_float(b & 0xFFFF0000u));
}
// v / s as quant_fp8.cu has it: r = 1 / s rounded; an infinite s gives 0, and NaN where v is infinite.
TI_DEV float quotient(float v, float s, float r) {
  const float q = v * r;
  return r > 0.0f ? copysignf(fmaf(fmaf(-q, s, v), r, q), v) : q;
}
// Rows are gate | up | gate | up in runs of 64: 128 outputs, a scale's block; a warp takes a token, N at once.
template <int N>
TI_DEV void write_silu(const small_params &p, const float *red, int m0, int n_own, int n0, int tok) {
  const int lane = (int)threadIdx.x & 31, place = lane / 16 * 128 + lane % 16 * 4, dim = p.n / 2;
  float4 g[N], u[N];
  gather<N>(p, red + place, tok, 16, g);
  gather<N>(p, red + place + 64, tok, 16, u);
  float top[N];
  int row;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float4 gate = ti_swap_four(g[i], place, &row), up = ti_swap_four(u[i], place, &row);
    g[i] = silu_four(gate, up);
    top[i] = fmaxf(fmaxf(fabsf(g[i].x), fabsf(g[i].y)), fmaxf(fabsf(g[i].z), fabsf(g[i].w)));
  }
  const int o = n0 / 2 + lane / 16 * 64 + row % 128;
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
#pragma unroll
    for (int i = 0; i < N; i++) top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], d));
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    const int t = tok + 16 * i, m = m0 + t;
    if (t >= n_own) break;
    if (p.out != NULL) *(uint2 *)((uint16_t *)p.out + m * p.ldo + o) = make_uint2(ti_pack_bf16(g[i].x, g[i].y), ti_pack_bf16(g[i].z, g[i].w));
    if (p.q != NULL) {
      const float s = fmaxf(top[i], 1e-4f) / 448.0f, r = __frcp_rn(s);
      *(uint32_t *)(p.q + (int64_t)m * dim + o) =
          ti_pack_e4m3(quotient(g[i].x, s, r), quotient(g[i].y, s, r)) | (uint32_t)ti_pack_e4m3(quotient(g[i].z, s, r), quotient(g[i].w, s, r)) << 16;
      if (lane == 0) p.q_scale[(int64_t)(n0 / 256) * p.q_ld + m] = s;
    }
  }
}

// Where a block stands.
typedef struct small_block {
  int rank, n0, m0, n_tok;  // in the cluster; first row of W; first token; tokens
  int kb0, n_kb;            // its stages of K
  int n_own;                // tokens that it sums up and writes, from rank * own on (none: <= 0)
} small_block;

// W's first stages: by its loader before all else, each barrier just before its use.
#define FIRST 2
template <int MT>
TI_DEV void load_first(uint8_t *smem, uint32_t base, const small_params &p, const small_block &b, const CUtensorMap *w, int ring) {
  ti_swap_pos at = ti_swap_first(base, p.ring);
  if (ti_elect()) {
    ti_tma_prefetch_map(w);
#pragma unroll
    for (int kb = 0; kb < FIRST; kb++) {
      if (kb < ring) {
        ti_mbar_init((uint64_t *)(smem + p.ring.bars) + kb, 1);
        ti_fence_mbar_init();
        ti_swap_expect(at.bar, p.ring.stage_bytes + MT * 4);
        load_w(p, w, at, b.kb0 + kb, b.n0);
      }
      ti_swap_next(&at, p.ring, base);
    }
  }
  __syncwarp();
}
// The other barriers, dealt to the other warps: an init takes 50 clocks, and a warp's lanes make them one after the other.
TI_DEV void init_barriers(uint8_t *smem, const small_params &p, int warp, int warps, int ring) {
  uint64_t *full = (uint64_t *)(smem + p.ring.bars);
  if (ti_elect()) {
#pragma unroll 1
    for (int i = warp; i < ring; i += warps) {
      if (i >= FIRST) ti_mbar_init(full + i, 1);
      ti_mbar_init(full + p.ring.stages + i, p.rows / 16);
    }
    if (warp == 0) ti_mbar_init((uint64_t *)(smem + p.done), 1);
    ti_fence_mbar_init();
  }
  __syncwarp();
}

// The loads of this block, by one thread each of two warps (what else is in their warpgroup looks on). The first announces each stage's bytes and
// loads W, as far as the ring goes before the ops before this one have ended; the second loads x, which those may have written.
template <int MT>
TI_DEV void load_rest(uint32_t base, const small_params &p, const small_block &b, const CUtensorMap *w, int ring) {
  ti_swap_pos at = ti_swap_first(base, p.ring);
#pragma unroll 1
  for (int kb = 0; kb < b.n_kb; kb++) {
    if (kb >= ring) ti_swap_wait(at.bar + 8 * (uint32_t)p.ring.stages, at.parity ^ 1);
    if (kb >= FIRST) {
      ti_swap_expect(at.bar, p.ring.stage_bytes + MT * 4);
      load_w(p, w, at, b.kb0 + kb, b.n0);
    }
    ti_swap_next(&at, p.ring, base);
  }
}
TI_DEV void load_all_x(uint32_t base, const small_params &p, const small_block &b, const CUtensorMap *x, const CUtensorMap *xs, int ring) {
  ti_swap_pos at = ti_swap_first(base, p.ring);
  ti_griddep_wait();
#pragma unroll 1
  for (int kb = 0; kb < b.n_kb; kb++) {
    if (kb >= ring) ti_swap_wait(at.bar + 8 * (uint32_t)p.ring.stages, at.parity ^ 1);
    load_x(base, p, x, xs, at, b.kb0 + kb, b.m0);
    ti_swap_next(&at, p.ring, base);
  }
}
template <int MT>
TI_DEV void load_role(uint8_t *smem, uint32_t base, const small_params &p, const small_block &b, const CUtensorMap *w, const CUtensorMap *x,
                      const CUtensorMap *xs, int loader, int ring) {
  if (loader < 2 && ti_elect()) {
    if (loader == 0) {
      load_rest<MT>(base, p, b, w, ring);
      if (p.split > 1 && b.n_own > 0) {  // any time before the sums are asked for
        ti_mbar_expect((uint64_t *)(smem + p.done), (uint32_t)((p.split - 1) * b.n_own * (MT > TI_SMALL_DIRECT ? p.ldr : p.rows) * 4));
      }
    } else {
      load_all_x(base, p, b, x, xs, ring);
    }
  }
  __syncwarp();
  ti_griddep_wait();
  if (p.split > 1) ti_cluster_wait();
  if (p.split > 1 && MT > TI_SMALL_DIRECT) {
    ti_cluster_arrive_relaxed();
    ti_cluster_wait();
  }
}

template <int MT>
TI_DEV void math_role(uint8_t *smem, uint32_t base, const small_params &p, const small_block &b) {
  const int group = (int)ti_swap_uniform(threadIdx.x / 128), last = (p.n - 1) / 128;
  const int block = (p.stacked ? stacked_row(p, b.n0, group) : b.n0 + group * 64) / 128;
  const ti_swap_scales sw = ti_swap_scales_at(p.w_scale + (block < last ? block : last) * p.w_scale_ld + b.kb0, b.n_kb);
  ti_swap_pos at = ti_swap_first(base, p.ring);
  float sum[MT / 2];
  ti_swap_multiply<MT>(p.ring, &at, base, (uint32_t)group * 64 * TI_SWAP_K, sw, b.n_kb, sum);
  ti_griddep_wait();
  if (p.split > 1) ti_cluster_wait();  // the peers have begun: their shared memory may be written
  push<MT>(base, p, sum, b.rank, b.n_tok);
  if (p.split > 1 && b.n_own > 0) ti_mbar_wait((uint64_t *)(smem + p.done), 0);  // no peer writes here after this
  const bool copied = p.split > 1 && MT > TI_SMALL_DIRECT;
  if (copied) ti_cluster_arrive_relaxed();
  const float *red = (const float *)(smem + p.red);
  if (p.silu) {
    constexpr int N = MT <= 16 ? 1 : 2;
#pragma unroll 1
    for (int t = (int)threadIdx.x / 32; t < b.n_own; t += 16 * N) write_silu<N>(p, red, b.m0 + b.rank * p.own, b.n_own, b.n0, t);
  } else {
    write_plain<MT>(p, red, b.m0 + b.rank * p.own, b.n_own, b.n0);
  }
  __syncwarp();
  if (copied) ti_cluster_wait();  // the peers have what they copy from here: the block may end
}

template <int MT>
static __global__ void __launch_bounds__(threads_of(ti_swap_rows(MT), MT), 1)
    fp8_small(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap xs,
              const __grid_constant__ small_params p) {
  extern __shared__ __align__(1024) uint8_t smem[];
  const uint32_t base = ti_swap_uniform(ti_smem(smem));
  small_block b;
  b.rank = (int)blockIdx.x;  // clusters lie along x
  b.n0 = (int)blockIdx.y * p.rows, b.m0 = (int)blockIdx.z * MT, b.n_tok = p.m - b.m0 < MT ? p.m - b.m0 : MT;
  const bool longer = b.rank < p.n_longer;
  b.kb0 = b.rank * p.n_kb + (longer ? b.rank : p.n_longer), b.n_kb = p.n_kb + longer;
  const int left = b.n_tok - b.rank * p.own;
  b.n_own = left < p.own ? left : p.own;
  const int warp = (int)ti_swap_uniform(threadIdx.x / 32), loader = p.rows / 16, ring = b.n_kb < p.ring.stages ? b.n_kb : p.ring.stages;
  if (warp == loader) {
    load_first<MT>(smem, base, p, b, &w, ring);
  } else if (warp == loader + 1) {
    if (ti_elect()) {
      ti_tma_prefetch_map(&x);
      ti_tma_prefetch_map(&xs);
    }
    __syncwarp();
  } else if (warp < loader) {
    init_barriers(smem, p, warp, loader, ring);
  }
  __syncthreads();
  if (p.split > 1) ti_cluster_arrive_relaxed();
  ti_griddep_launch();
  if (warp >= loader) {
    if (MT > 64) ti_reg_dealloc<32>();
    load_role<MT>(smem, base, p, b, &w, &x, &xs, warp - loader, ring);
  } else {
    if (MT > 64) ti_reg_alloc<232>();
    math_role<MT>(smem, base, p, b);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------------------------------------

#define SMEM_BLOCK 232448  // what one block may have
#define SMEM_SM 233472     // an SM's, of which each block takes another 1,024

typedef void (*small_kernel)(CUtensorMap, CUtensorMap, CUtensorMap, small_params);

static small_kernel kernel_for(int tokens) {
  switch (tokens) {
    case 8:
      return fp8_small<8>;
    case 16:
      return fp8_small<16>;
    case 32:
      return fp8_small<32>;
    case 64:
      return fp8_small<64>;
    case 128:
      return fp8_small<128>;
    default:
      return NULL;
  }
}

extern "C" bool ti_cuda_fp8_small_takes(const ti_fp8_small_plan *p) {
  if (kernel_for(p->tokens) == NULL || p->rows % 64 != 0 || p->rows < 64 || p->rows > ti_swap_rows(p->tokens)) return false;
  return p->split >= 1 && p->split <= 8 && (p->per_sm == 1 || (p->per_sm >= 2 && p->per_sm <= 4 && p->rows <= 128 && p->tokens <= 64));
}

static int at_most(int x, int most) { return x < most ? x : most; }

// From the lab's sweeps on an H200, alone and in chains: the figures are those that came out best there.
//   up to 64 tokens   64 rows, two blocks an SM (so that the next op's blocks find room beside this one's), K split until there are some 220 blocks;
//                     the split is the same for all m. Long K: one wave of one block an SM
//   large n           whole K: one wave of 64 rows, three blocks an SM, where they fit; else four an SM, or 128 rows where x weighs as much as W
//   silu              256 rows, so that a block has a scale's outputs
//   65 ..             128 tokens a block, one an SM; a split of 3 or more would leave SMs out (clusters and GPCs). gemm_fp8 is faster where it takes
//                     the product; this is for bias, fp32 and accumulating output
extern "C" ti_fp8_small_plan ti_cuda_fp8_small_plan(int m, int n, int k, bool silu, bool deterministic, int n_sm) {
  const int n_kb = (k + TI_SWAP_K - 1) / TI_SWAP_K, tiles = (n + 63) / 64;
  ti_fp8_small_plan p = {64, 1, m <= 8 ? 8 : m <= 16 ? 16 : m <= 32 ? 32 : 64, 2};
  if (silu) {
    p.rows = 256, p.per_sm = 1, p.split = n_sm / (n / 256);
  } else if (m > 64) {
    p.tokens = 128, p.per_sm = 1, p.split = at_most(n_sm / tiles, 2);
    if (tiles > n_sm) p.rows = 128;
  } else if (2 * tiles <= n_sm && n_kb >= 96) {
    p.split = n_sm / tiles, p.per_sm = 1;
  } else if (3 * tiles <= 4 * n_sm) {
    p.split = n_sm * 17 / 10 / tiles;
  } else if (tiles > 2 * n_sm && tiles <= 3 * n_sm) {
    p.per_sm = 3;
  } else if (tiles > 3 * n_sm && m <= 16) {
    p.per_sm = 4;
  } else {
    p.rows = 128;
  }
  p.split = at_most(p.split, at_most(n_kb / 3, 8));
  if (p.split < 1 || deterministic) p.split = 1;
  return p;
}

static ti_status maps(const ti_fp8_small_args *a, const ti_fp8_small_plan *plan, CUtensorMap *w, CUtensorMap *x, CUtensorMap *xs) {
  const int64_t ldx = a->ldx ? a->ldx : a->k, ld = (a->m + 3) & ~3;
  const int64_t dim_w[2] = {a->k, a->n}, dim_x[2] = {a->k, a->m}, dim_s[2] = {ld, (a->k + TI_SWAP_K - 1) / TI_SWAP_K}, ldw = a->k;
  const int box_w[2] = {TI_SWAP_K, a->stacked ? 64 : plan->rows}, box_x[2] = {TI_SWAP_K, plan->tokens}, box_s[2] = {plan->tokens, 1};
  ti_status s = ti_tensor_map_2d(w, TI_TMA_U8, a->w, dim_w, &ldw, box_w, TI_TMA_128B);
  if (s == TI_OK) s = ti_tensor_map_2d(x, TI_TMA_U8, a->x, dim_x, &ldx, box_x, TI_TMA_128B);
  if (s == TI_OK) s = ti_tensor_map_2d(xs, TI_TMA_F32, a->x_scale, dim_s, &ld, box_s, TI_TMA_PLAIN);
  return s;
}

extern "C" ti_status ti_cuda_fp8_small(ti_dev *d, const ti_fp8_small_args *a) {
  ti_fp8_small_plan plan = a->plan;
  if (plan.rows == 0) plan = ti_cuda_fp8_small_plan(a->m, a->n, a->k, a->silu, d->deterministic, d->n_sm);
  const small_kernel kernel = kernel_for(plan.tokens);
  const int n_kb = (a->k + TI_SWAP_K - 1) / TI_SWAP_K, split = plan.split < n_kb ? plan.split : n_kb;
  assert(ti_cuda_fp8_small_takes(&plan) && a->n % 8 == 0 && a->k % 16 == 0);
  assert(!a->silu || (plan.rows == 256 && a->n % 256 == 0));
  assert(!a->stacked || a->silu);

  small_params p = {};
  p.out = a->out, p.w_scale = a->w_scale, p.bias = a->bias, p.q = a->q, p.q_scale = a->q_scale;
  p.ldo = a->ldo ? a->ldo : a->silu ? a->n / 2 : a->n;
  p.w_scale_ld = a->w_scale_ld ? a->w_scale_ld : n_kb;
  p.m = a->m, p.n = a->n, p.n_kb = n_kb / split, p.n_longer = n_kb % split, p.rows = plan.rows, p.split = split, p.q_ld = (a->m + 3) & ~3;
  p.out_f32 = a->out_f32, p.accumulate = a->accumulate, p.silu = a->silu, p.gate_up = a->gate_up, p.stacked = a->stacked;
  p.simple = a->bias == NULL && !a->gate_up && !a->out_f32 && !a->accumulate;
  const int tok = a->m < plan.tokens ? a->m : plan.tokens, kb_most = (n_kb + split - 1) / split;
  p.own = (tok + split - 1) / split, p.own_inv = (65536 + p.own - 1) / p.own;
  p.ldr = plan.rows + 4;
  const int red = split == 1 ? 0 : split * p.own * p.ldr * 4;
  const int room = (plan.per_sm > 1 ? SMEM_SM / plan.per_sm - 1024 : SMEM_BLOCK) - red - 8;
  const int laid = split == 1 || plan.tokens > TI_SMALL_DIRECT ? tok * p.ldr * 4 : 0;  // the ring holds all sums of the block
  int stages = 1;
  while ((int)(ti_swap_layout(plan.rows, plan.tokens, stages).xs) < laid) stages++;
  while (stages < kb_most && stages < TI_SWAP_STAGES && (int)ti_swap_layout(plan.rows, plan.tokens, stages + 1).end <= room) stages++;
  p.ring = ti_swap_layout(plan.rows, plan.tokens, stages);
  p.red = split == 1 ? 0 : (int)p.ring.end, p.done = (int)p.ring.end + red;
  const int smem = p.done + 8;
  assert(smem <= SMEM_BLOCK);

  CUtensorMap w, x, xs;
  const ti_status s = maps(a, &plan, &w, &x, &xs);
  if (s != TI_OK) return s;
  cudaLaunchAttribute at[2];
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)split, (unsigned)((a->n + plan.rows - 1) / plan.rows), (unsigned)((a->m + plan.tokens - 1) / plan.tokens));
  c.blockDim = dim3((unsigned)threads_of(plan.rows, plan.tokens));
  c.dynamicSmemBytes = (size_t)smem;
  c.stream = d->stream;
  c.attrs = at;
  if (split > 1) {
    at[c.numAttrs].id = cudaLaunchAttributeClusterDimension;
    at[c.numAttrs].val.clusterDim.x = (unsigned)split, at[c.numAttrs].val.clusterDim.y = 1, at[c.numAttrs].val.clusterDim.z = 1;
    c.numAttrs++;
  }
  if (d->pdl) {
    at[c.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[c.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    c.numAttrs++;
  }
  cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_BLOCK);
  if (e == cudaSuccess) e = cudaLaunchKernelEx(&c, kernel, w, x, xs, p);
  return ti_cuda_result(d, "gemm_fp8_small", e);
}
