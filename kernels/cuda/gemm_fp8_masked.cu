// Grouped FP8 GEMM over fixed slots: every taken expert's W is read once (bound: memory), an empty expert costs one look at its count.
//
//   slots   expert 0: [tok tok tok  .   .  ]   expert 1: [ .  .  .  .  . ]   expert 2: [tok tok  .  .  . ]      counts 3, 0, 2, on the device
//
//   A persistent block lists the tiles once (a scan of the counts), then takes tile blockIdx.x, + gridDim.x, ..:
//
//     tile = rows of one W_e  x  up to `tokens` of its slots            first[e]: number of expert e's first tile
//     order: expert, rows, blocks of tokens (neighbours share W in L2)
//
//   The loading warp (fp8_swap.cuh's ring) runs ahead over the tiles: memory stays busy while sums are written out. The sums go through a staging
//   buffer of up to 64 tokens, token by token: bf16 rows, or, with 256 rows a tile (gate | up | gate | up in runs of 64), silu(gate) * up and its
//   codes: 128 outputs are one scale. Tiles of more than 64 tokens consist of parts of 64; an expert's tiles have the same number of parts, and what
//   no token is in is neither loaded nor multiplied.
//
// Figures (H200, copy 4.25 TB/s; lab_gemm_fp8_masked): experts x tokens each, n, k
//   32 x 20    4096, 7168   256.3 us  3704 GB/s   87 % of copy   147 TF   jittered  256.2 us   silu + quantise 250.7 us
//   32 x 20    7168, 2048   131.6 us  3649 GB/s   86 % of copy   143 TF   jittered  132.0 us   silu + quantise 134.8 us
//    6 x 20    4096, 7168    50.0 us  3564 GB/s   84 % of copy   141 TF   jittered   50.2 us   silu + quantise 52.3 us
//    6 x 20    7168, 2048    31.1 us  2892 GB/s   68 % of copy   113 TF   jittered   31.2 us   silu + quantise 34.7 us
//   32 x 192   4096, 7168   409.3 us  2526 GB/s   59 % of copy   881 TF   jittered  511.7 us
//   32 x 192   7168, 2048   246.5 us  2314 GB/s   54 % of copy   732 TF   jittered  297.7 us
//    6 x 1024  4096, 7168   427.3 us   633 GB/s   15 % of copy   844 TF   jittered  383.2 us
//    6 x 1024  7168, 2048   275.0 us   686 GB/s   16 % of copy   656 TF   jittered  240.4 us
// (jittered: 0.7 to 1.3 of the tokens.) 32 x 20 is bound by memory, 6 x 20 also by its last round of tiles (96 to 336 of them on 132 SMs). 32 x 192
// is bound by shared memory (gemm_fp8_small.cu's head): the next 10 % would be the tokens as wgmma's 64-row side, as in gemm_fp8_grouped, which is
// where experts of several hundred tokens belong (slots as blocks: offset[e] = e * max_m). silu-mul + quantise as an epilogue costs nothing
// measurable at 32 x 20, and saves the neighbour's launch and 4 bytes an output.
#include "kernels/cuda/gemm_fp8_masked.h"

#include <assert.h>
#include <cuda_runtime.h>

#include "kernels/cuda/fp8_swap.cuh"
#include "kernels/cuda/tensor_map.h"

// Tiles of more tokens than this consist of parts of so many.
#define MASKED_PART 64

typedef struct masked_params {
  void *out;
  const float *w_scale;
  const int32_t *count;
  uint8_t *q;
  float *q_scale;
  int n_expert, max_m, n, n_kb;
  int rows;         // of W, a tile
  int ldr;          // floats from token to token in the staging buffer
  int stage, list;  // byte offsets behind the ring: staging [MASKED_PART at most][ldr], the experts' counts and first tiles
  bool silu, stacked;
  ti_swap_ring ring;
} masked_params;

// A tile of the walk; each role walks for itself. Blocks of tokens of one run of W rows are neighbours, so that W comes from L2 for all but one.
typedef struct masked_tile {
  int e, n0, m0, n_tok;
} masked_tile;

// first[e]: number of the expert's first tile; first[n_expert]: how many there are.
template <int MT>
TI_DEV void list_tiles(const masked_params &p, int32_t *count, int32_t *first) {
  const int lane = threadIdx.x & 31, per = p.n / p.rows;
  int carry = 0;
  for (int base = 0; base < p.n_expert; base += 32) {
    const int e = base + lane;
    int c = e < p.n_expert ? p.count[e] : 0;
    c = c < 0 ? 0 : c > p.max_m ? p.max_m : c;
    const int mine = (c + MT - 1) / MT * per;
    int upto = mine;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int u = __shfl_up_sync(0xffffffffu, upto, o);
      if (lane >= o) upto += u;
    }
    if (e < p.n_expert) count[e] = c, first[e] = carry + upto - mine;
    carry += __shfl_sync(0xffffffffu, upto, 31);
  }
  if (lane == 0) first[p.n_expert] = carry;
}

// Tokens a tile: MT, or, in tiles of several parts of MASKED_PART, so many parts that an expert's tiles are alike.
template <int MT>
TI_DEV masked_tile tile_at(const masked_params &p, const int32_t *count, const int32_t *first, int t, int e) {
  while (t >= first[e + 1]) e++;
  const int n_mb = (count[e] + MT - 1) / MT, i = t - first[e];
  const int most = MT <= MASKED_PART ? MT : ((count[e] + n_mb - 1) / n_mb + MASKED_PART - 1) / MASKED_PART * MASKED_PART;
  masked_tile tile = {e, i / n_mb * p.rows, i % n_mb * most, 0};
  tile.n_tok = count[e] - tile.m0 < most ? count[e] - tile.m0 : most;
  return tile;
}

// The row of an expert's [gate; up] where run `run` of 64 of a stacked silu tile begins: gate, up, gate, up, as an interleaved one has them.
TI_DEV int stacked_row(const masked_params &p, int n0, int run) { return (run & 1 ? p.n / 2 : 0) + n0 / 2 + run / 2 * 64; }

// All loads, by one warp: it runs ahead over the tiles as far as the ring reaches. Parts of a tile that no token is in are left out.
template <int MT>
TI_DEV void load_all(uint32_t smem, const masked_params &p, const CUtensorMap *w, const CUtensorMap *x, const CUtensorMap *xs, const int32_t *count,
                     const int32_t *first) {
  constexpr int part = MT < MASKED_PART ? MT : MASKED_PART;
  ti_swap_pos at = ti_swap_first(smem, p.ring);
  masked_tile tile = {};
  for (int t = (int)blockIdx.x, n_tile = first[p.n_expert]; t < n_tile; t += (int)gridDim.x) {
    tile = tile_at<MT>(p, count, first, t, tile.e);
    const int w0 = tile.e * p.n, x0 = tile.e * p.max_m + tile.m0, n_part = (tile.n_tok + part - 1) / part;
    const uint32_t bytes = p.ring.x_offset + (uint32_t)(n_part * part) * (TI_SWAP_K + 4);
    const uint64_t l2 = count[tile.e] > MT ? TI_L2_NORMAL : TI_L2_EVICT_FIRST;
    for (int kb = 0; kb < p.n_kb; kb++) {
      ti_swap_wait(at.bar + 8 * (uint32_t)p.ring.stages, at.parity ^ 1);
      if (ti_elect()) {
        ti_swap_expect(at.bar, bytes);
        if (!p.stacked) {
          ti_swap_load(at.stage, w, at.bar, kb * TI_SWAP_K, w0 + tile.n0, l2);
        } else {
#pragma unroll
          for (int run = 0; run < 4; run++) {
            ti_swap_load(at.stage + (uint32_t)run * 64 * TI_SWAP_K, w, at.bar, kb * TI_SWAP_K, w0 + stacked_row(p, tile.n0, run), l2);
          }
        }
        const uint32_t to = ti_swap_xs_at(p.ring, smem, at.i);
#pragma unroll
        for (int i = 0; i < MT / part; i++) {
          if (i >= n_part) break;
          ti_swap_load(at.stage + p.ring.x_offset + i * part * TI_SWAP_K, x, at.bar, kb * TI_SWAP_K, x0 + i * part, TI_L2_EVICT_LAST);
          ti_swap_load(to + i * part * 4, xs, at.bar, x0 + i * part, kb, TI_L2_EVICT_LAST);
        }
      }
      ti_swap_next(&at, p.ring, smem);
    }
  }
}

// The sums of tokens t0 .. to the staging buffer, token by token.
template <int MT>
TI_DEV void stage_sums(float *buf, int ldr, const float (&sum)[MT / 2], int t0, int n_tok) {
  constexpr int part = MT < MASKED_PART ? MT : MASKED_PART;
  buf += ti_swap_pair();
#pragma unroll
  for (int j = 0; j < MT / 8; j++) {
    if (j < t0 / 8 || j >= (t0 + part) / 8) continue;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int tok = 8 * j + 2 * (threadIdx.x & 3) + c;
      if (tok < n_tok) *(float2 *)(buf + (tok - t0) * ldr) = make_float2(sum[4 * j + c], sum[4 * j + 2 + c]);
    }
  }
}

// Half a warp takes 64 rows of a token, the block eight tokens a turn.
TI_DEV void write_plain(const masked_params &p, const float *buf, const masked_tile &tile) {
  const int half = (int)threadIdx.x / 16, groups = p.rows / 64, first = half / groups, place = half % groups * 64 + (int)threadIdx.x % 16 * 4;
  uint16_t *out = (uint16_t *)p.out + ((int64_t)tile.e * p.max_m + tile.m0) * p.n + tile.n0;
#pragma unroll 2
  for (int t = 0; t < tile.n_tok; t += 8) {
    const int tok = t + first;
    const bool in = tok < tile.n_tok;
    int row;
    const float4 v = ti_swap_four(*(const float4 *)(buf + (in ? tok : 0) * p.ldr + place), place, &row);
    if (in) *(uint2 *)(out + (int64_t)tok * p.n + row) = make_uint2(ti_pack_bf16(v.x, v.y), ti_pack_bf16(v.z, v.w));
  }
}

// 256 rows are gate | up | gate | up in runs of 64: 128 outputs, a warp a token.
TI_DEV void write_silu(const masked_params &p, const float *buf, const masked_tile &tile) {
  const int lane = threadIdx.x & 31, place = lane / 16 * 128 + lane % 16 * 4, o = lane / 16 * 64 + ti_swap_row(lane % 16 * 4), dim = p.n / 2;
  for (int tok = threadIdx.x / 32; tok < tile.n_tok; tok += p.rows / 16) {
    const float *from = buf + tok * p.ldr + place;
    const ti_swap_silu out = ti_swap_silu_mul(*(const float4 *)from, *(const float4 *)(from + 64));
    const int64_t m = (int64_t)tile.e * p.max_m + tile.m0 + tok, at = m * dim + tile.n0 / 2 + o;
    if (p.out != NULL) ti_swap_silu_store((uint16_t *)p.out + at, out);
    if (p.q != NULL) {
      const float s = ti_swap_silu_quant(p.q + at, out);
      if (lane == 0) p.q_scale[(int64_t)(tile.n0 / 256) * p.n_expert * p.max_m + m] = s;
    }
  }
}

// One tile of up to MT tokens: its stages, then its sums, MASKED_PART tokens at a time, through the staging buffer and out.
template <int MT>
TI_DEV void multiply_tile(float *buf, uint32_t base, const masked_params &p, const masked_tile &tile, int group, ti_swap_pos *at) {
  constexpr int part = MT < MASKED_PART ? MT : MASKED_PART;
  const int row = p.stacked ? stacked_row(p, tile.n0, group) : tile.n0 + group * 64;
  const float *ws = p.w_scale + ((int64_t)tile.e * (p.n / 128) + row / 128) * p.n_kb;
  float sum[MT / 2];
  ti_swap_multiply<MT>(p.ring, at, base, (uint32_t)group * 64 * TI_SWAP_K, ti_swap_scales_at(ws, p.n_kb), p.n_kb, sum);
#pragma unroll
  for (int t0 = 0; t0 < MT; t0 += part) {
    if (t0 >= tile.n_tok) break;
    ti_bar_sync(1, 2 * p.rows);  // what was staged before has left
    stage_sums<MT>(buf, p.ldr, sum, t0, tile.n_tok);
    ti_bar_sync(1, 2 * p.rows);
    masked_tile some = tile;
    some.m0 += t0;
    some.n_tok = tile.n_tok - t0 < part ? tile.n_tok - t0 : part;
    if (p.silu) {
      write_silu(p, buf, some);
    } else {
      write_plain(p, buf, some);
    }
  }
}

template <int MT>
TI_DEV void multiply_all(uint8_t *smem, uint32_t base, const masked_params &p, const int32_t *count, const int32_t *first) {
  const int group = (int)ti_swap_uniform(threadIdx.x / 128);
  float *buf = (float *)(smem + p.stage);
  ti_swap_pos at = ti_swap_first(base, p.ring);
  masked_tile tile = {};
  for (int t = (int)blockIdx.x, n_tile = first[p.n_expert]; t < n_tile; t += (int)gridDim.x) {
    tile = tile_at<MT>(p, count, first, t, tile.e);
    if (MT > MASKED_PART && tile.n_tok <= MASKED_PART) {
      multiply_tile<MASKED_PART>(buf, base, p, tile, group, &at);
    } else if (MT > 2 * MASKED_PART && tile.n_tok <= 2 * MASKED_PART) {
      multiply_tile<2 * MASKED_PART>(buf, base, p, tile, group, &at);
    } else {
      multiply_tile<MT>(buf, base, p, tile, group, &at);
    }
  }
}

template <int MT>
static __global__ void __launch_bounds__(ti_swap_threads(MT), 1)
    fp8_masked(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap xs,
               const __grid_constant__ masked_params p) {
  extern __shared__ __align__(1024) uint8_t smem[];
  const int warp = (int)ti_swap_uniform(threadIdx.x / 32), n_warp = p.rows / 16;
  int32_t *count = (int32_t *)(smem + p.list), *first = count + p.n_expert;
  if (warp == n_warp && threadIdx.x % 32 == 0) {
    uint64_t *full = (uint64_t *)(smem + p.ring.bars);
    for (int i = 0; i < p.ring.stages; i++) {
      ti_mbar_init(full + i, 1);
      ti_mbar_init(full + p.ring.stages + i, n_warp);
    }
    ti_fence_mbar_init();
    ti_tma_prefetch_map(&w);
    ti_tma_prefetch_map(&x);
    ti_tma_prefetch_map(&xs);
  }
  __syncwarp();
  ti_griddep_launch();
  ti_griddep_wait();
  if (warp == 0) list_tiles<MT>(p, count, first);
  __syncthreads();
  const uint32_t base = ti_swap_uniform(ti_smem(smem));
  if (warp >= n_warp) {
    if (MT > 64) ti_reg_dealloc<32>();
    if (warp == n_warp) load_all<MT>(base, p, &w, &x, &xs, count, first);
  } else {
    if (MT > 64) ti_reg_alloc<232>();
    multiply_all<MT>(smem, base, p, count, first);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------------------------------------

#define SMEM_BLOCK 232448  // what one block may have
#define SMEM_SM 233472     // an SM's, of which each block takes another 1,024

typedef void (*masked_kernel)(CUtensorMap, CUtensorMap, CUtensorMap, masked_params);

static masked_kernel kernel_for(int tokens) {
  switch (tokens) {
    case 8:
      return fp8_masked<8>;
    case 16:
      return fp8_masked<16>;
    case 32:
      return fp8_masked<32>;
    case 64:
      return fp8_masked<64>;
    case 192:
      return fp8_masked<192>;
    default:
      return NULL;
  }
}

extern "C" ti_fp8_masked_plan ti_cuda_fp8_masked_plan(int expected_m, int n, bool silu) {
  ti_fp8_masked_plan p;
  p.tokens = expected_m <= 8 ? 8 : expected_m <= 16 ? 16 : expected_m <= 32 ? 32 : expected_m <= 64 || silu ? 64 : 192;
  p.rows = silu || (p.tokens == 64 && n % 256 == 0) ? 256 : 128;
  p.per_sm = p.rows == 256 || p.tokens > 64 ? 1 : 2;
  return p;
}

static ti_status maps(const ti_fp8_masked_args *a, const ti_fp8_masked_plan *plan, CUtensorMap *w, CUtensorMap *x, CUtensorMap *xs) {
  const int64_t slots = (int64_t)a->n_expert * a->max_m, k = a->k;
  const int part = plan->tokens < MASKED_PART ? plan->tokens : MASKED_PART;
  const int64_t dim_w[2] = {k, (int64_t)a->n_expert * a->n}, dim_x[2] = {k, slots}, dim_s[2] = {slots, (k + TI_SWAP_K - 1) / TI_SWAP_K};
  const int box_w[2] = {TI_SWAP_K, a->stacked ? 64 : plan->rows}, box_x[2] = {TI_SWAP_K, part}, box_s[2] = {part, 1};
  ti_status s = ti_tensor_map_2d(w, TI_TMA_U8, a->w, dim_w, &k, box_w, TI_TMA_128B);
  if (s == TI_OK) s = ti_tensor_map_2d(x, TI_TMA_U8, a->x, dim_x, &k, box_x, TI_TMA_128B);
  if (s == TI_OK) s = ti_tensor_map_2d(xs, TI_TMA_F32, a->x_scale, dim_s, &slots, box_s, TI_TMA_PLAIN);
  return s;
}

extern "C" ti_status ti_cuda_fp8_masked(ti_dev *d, const ti_fp8_masked_args *a) {
  ti_fp8_masked_plan plan = a->plan;
  if (plan.rows == 0) plan = ti_cuda_fp8_masked_plan(a->expected_m, a->n, a->silu);
  const masked_kernel kernel = kernel_for(plan.tokens);
  assert(kernel != NULL && a->n % plan.rows == 0 && a->k % 16 == 0 && plan.rows <= ti_swap_rows(plan.tokens));
  assert(a->n_expert <= TI_FP8_MASKED_EXPERTS && (int64_t)a->n_expert * a->max_m % 4 == 0 && (!a->silu || plan.rows == 256));

  assert(!a->stacked || a->silu);

  masked_params p = {};
  p.out = a->out, p.w_scale = a->w_scale, p.count = a->count, p.q = a->q, p.q_scale = a->q_scale;
  p.n_expert = a->n_expert, p.max_m = a->max_m, p.n = a->n, p.n_kb = (a->k + TI_SWAP_K - 1) / TI_SWAP_K;
  p.rows = plan.rows, p.ldr = plan.rows + 4, p.silu = a->silu, p.stacked = a->stacked;
  const int stage = (plan.tokens < MASKED_PART ? plan.tokens : MASKED_PART) * p.ldr * 4, list = (2 * a->n_expert + 1) * 4;
  const int room = (plan.per_sm == 2 ? SMEM_SM / 2 - 1024 : SMEM_BLOCK) - stage - list;
  int stages = 1;
  while (stages < TI_SWAP_STAGES && (int)ti_swap_layout(plan.rows, plan.tokens, stages + 1).end <= room) stages++;
  p.ring = ti_swap_layout(plan.rows, plan.tokens, stages);
  p.stage = (int)p.ring.end, p.list = p.stage + stage;
  const int smem = p.list + list;
  assert(smem <= SMEM_BLOCK);

  CUtensorMap w, x, xs;
  const ti_status s = maps(a, &plan, &w, &x, &xs);
  if (s != TI_OK) return s;
  const int64_t most = (int64_t)a->n_expert * ((a->max_m + plan.tokens - 1) / plan.tokens) * (a->n / plan.rows);
  const int64_t places = (int64_t)d->n_sm * plan.per_sm;
  cudaLaunchAttribute at[1];
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)(most < places ? most : places));
  c.blockDim = dim3((unsigned)(plan.rows * 2 + ti_swap_load_threads(plan.tokens)));
  c.dynamicSmemBytes = (size_t)smem;
  c.stream = d->stream;
  c.attrs = at;
  if (d->pdl) {
    at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[0].val.programmaticStreamSerializationAllowed = 1;
    c.numAttrs = 1;
  }
  cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_BLOCK);
  if (e == cudaSuccess) e = cudaLaunchKernelEx(&c, kernel, w, x, xs, p);
  return ti_cuda_result(d, "gemm_fp8_masked", e);
}
