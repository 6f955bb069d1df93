// Products that follow one another in a decode step of one or two rows, in one launch: each of all of what the one before wrote.
//
//   attention -> | o: h += W x | gate, up: silu(g) u of norm(h) | down: h += W x | next layer's q, k, v of norm(h), RoPE, append | -> attention
//
//   Every SM has one block of 8 warps that multiply and one that fetches. Tiles of 8 rows of W (two halves of 4: neighbours; gate and up; RoPE's
//   pairs) are dealt out to the blocks, from product to product without a break; the block's warps share K:
//
//     block   0   1   2   ..  131 |  0   1  ..       step   |   0    |   1    |  ..       a lane (g = lane / 4, q = lane % 4) has 16 bytes of row
//     at tile 0   1   2   ..  131 | 132 133 ..       columns| 512    | 512    |           g at 8 q and 32 + 8 q of its warp's 64, and x of token
//                                                    warp 0 |##      |##      |           g at the same places: k runs in the same odd order in
//                                                    warp 1 |  ##    |  ##    |           both operands of mma.sync (m16n8k16; A: tokens, B: W).
//
//   W comes by bulk copies of up to 4 KB a row into a ring of DEPTH quads of 4 steps (32 KB each), over tiles and products: W depends on nobody, so
//   memory goes on while blocks wait for one another and, under programmatic dependent launch, for the predecessor.
//
//   Between two products all blocks meet: each adds itself to a counter behind its last output and looks until all have; x comes from L2 afterwards,
//   normed by every block for itself where the product wants it so (in the order of rmsnorm's own kernel: norm.cuh). All blocks must be resident: one
//   an SM; a predecessor's blocks end by themselves, and a successor is let in only once all of this grid have started.
//
// H200, TinyLlama-1.1B's shape, 22 layers in a graph, 1 row, with attention over 200 places: 36.8 us a layer, of which attention 6 to 7 (88 MB
// are 20.7 us at the copy's rate); op by op it was 43. By globaltimer stamps: a meeting takes 1.2 to 1.8 us, x and its norm 0.5 and 1.0 behind it,
// the products 1.3, 9 (at the copy's rate), 3.5 and 2.5, and from the last sum to attention's start 1.2. Tried and slower: W by cp.async (issuing 32
// KB takes a block 0.4 us); every warp waiting for the sums of every tile; asking the next chain's gate and up into L2 behind the last copy (39 us:
// the meetings wait behind it); four rows and more (a step 1,020 us with it at 4 rows, 1,000 without). The next 10%: outputs that carry their own
// flags (8 bytes: two numbers and the launch's count) would save the counter, about 1 us a meeting; attention in the same launch, so that the ring
// does not run dry at its end.
#include "kernels/cuda/gemv_bf16.h"
#include "kernels/cuda/gemv_out.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/kv_pool.cuh"
#include "kernels/cuda/norm.cuh"

enum {
  WARPS = 8,
  THREADS = 32 * WARPS,
  MAX_ROWS = 2,  // mma.sync has room for 8; from 4 on the ops one by one are faster
  CHUNK = 64,
  STEP = WARPS * CHUNK / 8
};                                                                  // threads that multiply; STEP: in units of 8 numbers
enum { HALF = 4, ROWS = 2 * HALF, SUM_LD = ROWS + 4, X_PAD = 32 };  // the pads keep tokens and rows out of one another's banks
enum { QUAD = 4, ROW_BYTES = QUAD * STEP * 16, ROW_LD = ROW_BYTES + 64, STAGE = ROWS * ROW_LD, DEPTH = 5, SUMS = 8 };
static_assert(SUMS > DEPTH && 2 + SUMS <= 16, "see where the sums are put");
static_assert(HALF == 1 << 2 && TI_CUDA_GATE_RUN == 1 << 6, "the shifts below");
enum { MAX_SMEM = 226 << 10, TRIES = 1 << 26 };

typedef enum link_out { PLAIN, SILU, ROPE } link_out;

struct link_x {
  const bf16 *x;  // read from L2
  int64_t ldx;
  int k;
  const float *norm;  // [k] or NULL
  ti_norm_shape shape;
  float eps;
};
// What ROPE does: W's rows are heads q, k, v of 2 * gap rows.
struct link_rope {
  const int32_t *position;
  const float *inv_freq;  // [gap]
  float factor;
  int nq, nkv;
  ti_pool pool;
};
struct link {
  const bf16 *w;
  link_x x;
  ti_gemv_out a;
  link_out out;
  int shift, gap, tiles;  // gap = 1 << shift
};
struct chain {
  link l[TI_LINKS];
  link_rope rope;
  int n, m;
  unsigned long long *meet;  // how often a block has met the others, all launches together
};

static __device__ __forceinline__ void mma(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// ---- x ----

static __device__ __forceinline__ void copy_x(const link_x &p, int m, bf16 *xs) {
  const int per = p.k / 8;
  for (int r = 0; r < m; r++) {
#pragma unroll 4
    for (int i = threadIdx.x; i < per; i += THREADS) {
      reinterpret_cast<uint4 *>(xs + r * (p.k + X_PAD))[i] = __ldcg(reinterpret_cast<const uint4 *>(p.x + r * p.ldx) + i);
    }
  }
}

// A warp norms a part of 32 * 8 * v numbers at a time. Weights of its first part: load_norm, ahead of time.
static __device__ __forceinline__ void load_norm(const link_x &p, int part, float w[2][8]) {
#pragma unroll
  for (int v = 0; v < 2; v++) {
    const int c = 8 * (v * p.shape.threads + part * 32 + (int)threadIdx.x % 32);
    if (v < p.shape.v && c < p.k) ti_load8(p.norm + c, w[v]);
  }
}
static __device__ __forceinline__ int first_part(const link_x &p) { return (int)threadIdx.x / 32 % (p.shape.threads / 32); }

// partial: [m][TI_NORM_WARPS]
static __device__ __forceinline__ void norm_x(const link_x &p, int m, bf16 *xs, float *partial, const float w0[2][8]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, parts = p.shape.threads / 32;
  for (int i = warp; i < m * parts; i += WARPS) {
    const int row = m == 1 ? 0 : i / parts, part = i - row * parts;
    uint4 u[2];
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < 2; v++) {
      const int c = 8 * (v * p.shape.threads + part * 32 + lane);
      u[v] = v < p.shape.v && c < p.k ? __ldcg(reinterpret_cast<const uint4 *>(p.x + row * p.ldx + c)) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int v = 0; v < 2; v++) {
      const int c = 8 * (v * p.shape.threads + part * 32 + lane);
      if (v >= p.shape.v || c >= p.k) continue;
      float f[8];
      ti_bf16x8_to_f32(u[v], f);
      sum = ti_norm_add8(sum, f);
      *reinterpret_cast<uint4 *>(xs + row * (p.k + X_PAD) + c) = u[v];
    }
    sum = ti_warp_sum(sum);
    if (lane == 0) partial[row * TI_NORM_WARPS + part] = sum;
  }
  ti_bar_sync(1, THREADS);
  for (int i = warp; i < m * parts; i += WARPS) {
    const int row = m == 1 ? 0 : i / parts, part = i - row * parts;
    float sum = 0.0f, w[2][8];
    for (int j = 0; j < parts; j++) sum += partial[row * TI_NORM_WARPS + j];
    const float inv = ti_norm_inverse(sum, p.k, p.eps);
    if (i != warp) load_norm(p, part, w);
#pragma unroll
    for (int v = 0; v < 2; v++) {
      const int c = 8 * (v * p.shape.threads + part * 32 + lane);
      if (v >= p.shape.v || c >= p.k) continue;
      bf16 *const at = xs + row * (p.k + X_PAD) + c;  // this thread's own
      float f[8];
      ti_load8(at, f);
#pragma unroll
      for (int e = 0; e < 8; e++) f[e] = ti_norm_one(f[e], inv, i == warp ? w0[v][e] : w[v][e]);
      ti_store8(at, f);
    }
  }
}

// The row of W that is the first of pairs number `pair`, and how far into a run of `gap` it stands.
static __device__ __forceinline__ int row_of(const link &l, int pair) { return (pair >> l.shift << (l.shift + 1)) + (pair & (l.gap - 1)); }

// ---- fetching ----

static __device__ __forceinline__ int first_tile(int dealt) {
  const int n = gridDim.x, t = (int)blockIdx.x - dealt % n;
  return t < 0 ? t + n : t;
}

struct ring {
  uint64_t full[DEPTH], empty[DEPTH];
};

// All of the block's tiles, product after product, a quad of steps at a time. One thread.
static __device__ __forceinline__ void fetch_all(const chain &c, ring *r, uint8_t *stages) {
  int dealt = 0, slot = 0;
  uint32_t phase = 1;  // a slot's first turn waits for nobody
  for (int i = 0; i < c.n; dealt += c.l[i++].tiles) {
    const link &l = c.l[i];
    const int bytes = l.x.k * 2, last = (int)l.a.n - 1;
    for (int t = first_tile(dealt); t < l.tiles; t += gridDim.x) {
      const int row0 = row_of(l, t * HALF);
      for (int at = 0; at < bytes; at += ROW_BYTES) {
        const int n = min(ROW_BYTES, bytes - at);
        ti_mbar_wait(&r->empty[slot], phase);
        ti_mbar_expect(&r->full[slot], (uint32_t)(ROWS * n));
#pragma unroll
        for (int g = 0; g < ROWS; g++) {
          const int row = min(row0 + (g < HALF ? g : l.gap + g - HALF), last);
          const uint8_t *from = reinterpret_cast<const uint8_t *>(l.w) + (int64_t)row * bytes + at;
          ti_bulk_load(stages + slot * STAGE + g * ROW_LD, from, (uint32_t)n, &r->full[slot], TI_L2_EVICT_FIRST);
        }
        if (++slot == DEPTH) slot = 0, phase ^= 1;
      }
    }
  }
}

// ---- between two products ----

static __device__ __forceinline__ void meet_and_wait(unsigned long long *at, unsigned long long want) {
  unsigned long long seen = 0;
  asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(at) : "memory");
  for (int left = TRIES; seen < want; left--) {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(at) : "memory");
    if (left == 0) __trap();
  }
}

// ---- out ----

// A lane that puts out: token lane / HALF. What RoPE needs of the token, asked for while the blocks wait for one another.
struct token {
  float position;
  int place, slot;
  uint8_t *page;
};
static __device__ __forceinline__ token token_of(const chain &c) {
  const int t = threadIdx.x % 32 / HALF;
  token k = {};
  if (t >= c.m) return k;
  k.position = (float)c.rope.position[t];
  k.place = c.rope.pool.place[t];
  if (k.place >= 0) k.page = ti_pool_page(c.rope.pool, t, k.place, &k.slot);
  return k;
}

// Where two sums of a tile go: token t; rows r and r + 1 of the tile (PLAIN), or the pair r. What is added to or turned by is asked for early.
struct spot {
  int pair0, row0, t, r;
  bool writes, quick;  // quick: two bf16 numbers to be added to
  uint32_t old;
  float freq;
};
static __device__ __forceinline__ spot spot_of(const chain &c, const link &l, int tile, bool puts) {
  const int lane = threadIdx.x % 32;
  spot o = {};
  o.pair0 = tile * HALF;
  o.row0 = row_of(l, o.pair0);
  o.t = lane / HALF;
  o.r = l.out == PLAIN ? lane % HALF * 2 : lane % HALF;
  o.writes = puts && o.t < c.m && (l.out != PLAIN || o.row0 + o.r < l.a.n);
  o.quick = l.out == PLAIN && l.a.accumulate && !l.a.f32 && l.a.pairs && !l.a.bias && !l.a.half && o.row0 + o.r + 1 < l.a.n;
  if (o.writes && o.quick)
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(o.old) : "l"(static_cast<const bf16 *>(l.a.out) + o.t * l.a.ldo + o.row0 + o.r) : "memory");
  if (o.writes && l.out == ROPE) o.freq = __ldg(c.rope.inv_freq + (o.pair0 & (l.gap - 1)) + o.r);
  return o;
}

static __device__ __forceinline__ void put_rope(const chain &c, const link &l, const token &k, const spot &o, float2 v) {
  const link_rope &rope = c.rope;
  float2 cs;
  sincosf(k.position * o.freq, &cs.y, &cs.x);
  cs.x *= rope.factor, cs.y *= rope.factor;
  if (l.a.bias) v.x += l.a.bias[o.row0 + o.r], v.y += l.a.bias[o.row0 + l.gap + o.r];
  const int head = o.pair0 >> l.shift, at = (o.pair0 & (l.gap - 1)) + o.r;
  const bool is_q = head < rope.nq, is_v = head >= rope.nq + rope.nkv;
  v.x = ti_round_bf16(v.x), v.y = ti_round_bf16(v.y);
  if (!is_v) v = ti_rotate(v.x, v.y, cs);
  if (!is_q && !k.page) return;
  bf16 *const to = is_q ? static_cast<bf16 *>(l.a.out) + o.t * l.a.ldo + (int64_t)head * 2 * l.gap
                        : reinterpret_cast<bf16 *>(ti_pool_head(rope.pool, k.page, k.slot, head - rope.nq - (is_v ? rope.nkv : 0), is_v));
  to[at] = __float2bfloat16_rn(v.x);
  to[at + l.gap] = __float2bfloat16_rn(v.y);
}

// The warps' sums of the tile, [WARPS][m][SUM_LD], in their order.
static __device__ __forceinline__ void put(const chain &c, const link &l, const token &k, const spot &o, const float *sums) {
  float2 v = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int j = 0; j < WARPS; j++) {
    const float *at = sums + (j * c.m + o.t) * SUM_LD + o.r;
    v.x += at[0];
    v.y += at[l.out == PLAIN ? 1 : HALF];
  }
  if (l.out == SILU) {
    static_cast<bf16 *>(l.a.out)[o.t * l.a.ldo + o.pair0 + o.r] = __float2bfloat16_rn(ti_silu_mul(v.x, v.y));
  } else if (l.out == ROPE) {
    put_rope(c, l, k, o, v);
  } else if (o.quick) {
    v.x += __uint_as_float(o.old << 16), v.y += __uint_as_float(o.old & 0xffff0000u);
    *reinterpret_cast<uint32_t *>(static_cast<bf16 *>(l.a.out) + o.t * l.a.ldo + o.row0 + o.r) = ti_bf16x2(v.x, v.y);
  } else {
    ti_gemv_put(l.a, o.t, o.row0 + o.r, v);
  }
}

// ---- the kernel ----

// A quad of steps from step s on: this lane's W at `at`, its x at `x`; units of 16 bytes, `wend` and `xend` of them in the whole row.
static __device__ __forceinline__ void multiply_quad(float d[2][2][4], const uint4 *at, const uint4 *x, int s, int wend, int xend) {
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 w[QUAD][2], v[QUAD][2];
#pragma unroll
  for (int j = 0; j < QUAD; j++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int u = (s + j) * STEP + 4 * h;
      w[j][h] = u < wend ? at[j * STEP + 4 * h] : zero;
      v[j][h] = u < xend ? x[u] : zero;
    }
  }
#pragma unroll
  for (int j = 0; j < QUAD; j++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      mma(d[h][0], v[j][h].x, 0, v[j][h].y, 0, w[j][h].x, w[j][h].y);
      mma(d[h][1], v[j][h].z, 0, v[j][h].w, 0, w[j][h].z, w[j][h].w);
    }
  }
}

// x of product i in shared memory, once everybody has put out the one before it.
static __device__ __forceinline__ void next_x(const chain &c, int i, unsigned long long base, bf16 *xs, float *partial, token *k) {
  const link &l = c.l[i];
  float norm[2][8];
  if (l.x.norm) load_norm(l.x, first_part(l.x), norm);
  if (i > 0) {
    ti_bar_sync(1, THREADS);
    if (threadIdx.x == 0) meet_and_wait(c.meet, base + (unsigned long long)i * gridDim.x);
  }
  if (l.out == ROPE && threadIdx.x >= 32) *k = token_of(c);
  if (i > 0) ti_bar_sync(1, THREADS);
  if (l.x.norm) {
    norm_x(l.x, c.m, xs, partial, norm);
  } else {
    copy_x(l.x, c.m, xs);
  }
  ti_bar_sync(1, THREADS);
}

static __global__ void __launch_bounds__(THREADS + 32, 1) chain_kernel(const __grid_constant__ chain c) {
  extern __shared__ __align__(128) uint8_t stages[];
  __shared__ ring r;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, m = c.m;
  float *const sums = reinterpret_cast<float *>(stages + DEPTH * STAGE), *const partial = sums + SUMS * WARPS * m * SUM_LD;
  bf16 *const xs = reinterpret_cast<bf16 *>(partial + m * TI_NORM_WARPS * 2);

  if (threadIdx.x == THREADS) {
    for (int i = 0; i < DEPTH; i++) ti_mbar_init(&r.full[i], 1), ti_mbar_init(&r.empty[i], WARPS);
    ti_fence_mbar_init();
  }
  __syncthreads();
  ti_pdl_launch();
  if (warp == WARPS) {
    if (lane == 0) fetch_all(c, &r, stages);
    ti_pdl_wait();
    return;
  }
  ti_pdl_wait();

  unsigned long long base = 0;
  if (threadIdx.x == 0 && c.n > 1) {
    base = *reinterpret_cast<volatile unsigned long long *>(c.meet);
    base -= base % gridDim.x;  // blocks of this launch that are here already; none can be further on
  }
  int dealt = 0, slot = 0, put_warp = 1;
  uint32_t turn = 0, phase = 0;
  token k = {};
  for (int i = 0; i < c.n; i++) {
    const link &l = c.l[i];
    next_x(c, i, base, xs, partial, &k);
    const int k8 = l.x.k / 8, first = warp * (CHUNK / 8) + q, wend = k8 - first, xend = g < m ? wend : 0, steps = (k8 + STEP - 1) / STEP;
    const uint4 *const xg = reinterpret_cast<const uint4 *>(xs + (g < m ? g : 0) * (l.x.k + X_PAD)) + first;
    const uint8_t *const mine = stages + g * ROW_LD + first * 16;
    for (int t = first_tile(dealt); t < l.tiles; t += gridDim.x, turn++, put_warp = put_warp == WARPS - 1 ? 1 : put_warp + 1) {
      const bool puts = warp == put_warp;
      const int buffer = turn % SUMS;
      const spot o = spot_of(c, l, t, puts);
      float d[2][2][4] = {};
      for (int s = 0; s < steps; s += QUAD) {
        ti_mbar_wait(&r.full[slot], phase);
        multiply_quad(d, reinterpret_cast<const uint4 *>(mine + slot * STAGE), xg, s, wend, xend);
        __syncwarp();
        if (lane == 0) ti_mbar_arrive(&r.empty[slot]);
        if (++slot == DEPTH) slot = 0, phase ^= 1;
      }
      float *const here = sums + buffer * WARPS * m * SUM_LD;
      if (g < m) {
        *reinterpret_cast<float2 *>(here + (warp * m + g) * SUM_LD + 2 * q) =
            make_float2((d[0][0][0] + d[0][1][0]) + (d[1][0][0] + d[1][1][0]), (d[0][0][1] + d[0][1][1]) + (d[1][0][1] + d[1][1][1]));
      }
      // Only who puts waits for the others. They run ahead by less than the ring is deep, since its slots want all of them: so many sums stand side
      // by side.
      if (!puts) {
        ti_bar_arrive(2 + buffer, THREADS);
        continue;
      }
      ti_bar_sync(2 + buffer, THREADS);
      if (o.writes) put(c, l, k, o, here);
    }
    dealt += l.tiles;
  }
  // The last product needs no meeting: every block has met n - 1 times, the counter stands at a multiple of gridDim.x again.
}

// ---- launching ----

static size_t smem_bytes(const chain *c) {
  int k = 0;
  for (int i = 0; i < c->n; i++) k = c->l[i].x.k > k ? c->l[i].x.k : k;
  return DEPTH * STAGE + (size_t)c->m * ((SUMS * WARPS * SUM_LD + 2 * TI_NORM_WARPS) * sizeof(float) + (size_t)(k + X_PAD) * sizeof(bf16));
}

static bool set_rope(link *o, link_rope *to, const ti_gemm_args *a, const ti_rope_append_args *r) {
  const ti_kv_layout *l = r->kv.layout;
  const int dim = r->rope.head_dim;
  if (to->position || a->out != r->rope.x || a->out_dtype != TI_BF16 || a->accumulate || r->rope.interleaved || r->rope.offset != 0 ||
      r->rope.rope_dim != dim)
    return false;
  if (dim % (2 * HALF) != 0 || l->kind != TI_KV_GQA || l->dtype != TI_BF16 || l->head_dim != dim ||
      a->w->n != (int64_t)(r->rope.n_head + l->n_kv_head) * dim)
    return false;
  *to = {r->rope.position, r->rope.inv_freq, r->rope.attn_factor, r->rope.n_head - l->n_kv_head, l->n_kv_head, ti_pool_of(&r->kv)};
  o->out = ROPE;
  for (o->shift = 2; 2 << o->shift < dim; o->shift++) {}
  o->gap = dim / 2;
  return o->gap == 1 << o->shift;
}

// False: not taken.
static bool set_link(link *o, link_rope *rope, const ti_link *l, int m) {
  const ti_gemm_args *a = l->gemm;
  const ti_gemm_silu_mul_args *s = l->silu_mul;
  const ti_weight *w = a ? a->w : s->w;
  const bool gate_up = (w->layout & ~TI_CUDA_EXACT) == TI_CUDA_GATE_UP;
  if (w->dtype != TI_BF16 || w->n > INT32_MAX / 16 || w->k > INT32_MAX / 16 || (a ? a->m : s->m) != m) return false;
  ti_gemv_bf16_args g = {};
  g.w = w->data, g.n = w->n, g.k = w->k, g.m = m, g.gate_up = gate_up;
  if (a) {
    g.out = a->out, g.x = a->x, g.bias = a->bias, g.ldx = a->ldx, g.ldo = a->ldo, g.out_f32 = a->out_dtype == TI_F32, g.accumulate = a->accumulate;
    if (a->x_scale) return false;
  } else {
    g.out = s->out, g.x = s->x, g.silu_mul = true;
    if (!gate_up || !s->out || s->q || s->x_scale) return false;
  }
  if (!ti_gemv_bf16_takes(&g)) return false;
  o->w = (const bf16 *)w->data;
  o->x.x = (const bf16 *)g.x, o->x.k = (int)w->k, o->x.ldx = g.ldx ? g.ldx : w->k;
  if (l->norm) {
    o->x.norm = l->norm, o->x.eps = l->eps, o->x.shape = ti_norm_shape_of((int)w->k);
    if (o->x.shape.v > 2 || !ti_aligned16(l->norm)) return false;
  }
  o->a = ti_gemv_out_of(&g);
  o->out = a ? PLAIN : SILU;
  o->gap = a ? HALF : TI_CUDA_GATE_RUN;
  o->shift = a ? 2 : 6;
  o->tiles = ti_ceil_div(w->n, ROWS);
  return !l->rope || (a && set_rope(o, rope, a, l->rope));
}

extern "C" ti_status ti_cuda_chain(ti_dev *d, const ti_link *links, int n) {
  assert(n >= 1 && n <= TI_LINKS);
  chain c = {};
  c.n = n, c.m = links[0].gemm ? links[0].gemm->m : links[0].silu_mul->m, c.meet = d->meet;
  if (d->deterministic || !d->meet || d->major < 9 || c.m > MAX_ROWS) return TI_ERR_UNSUPPORTED;
  for (int i = 0; i < n; i++) {
    if (!set_link(&c.l[i], &c.rope, &links[i], c.m)) return TI_ERR_UNSUPPORTED;
  }
  const size_t smem = smem_bytes(&c);
  if (smem > MAX_SMEM) return TI_ERR_UNSUPPORTED;
  if (c.m == 0) return TI_OK;
  const cudaError_t e = cudaFuncSetAttribute(chain_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MAX_SMEM);
  return e != cudaSuccess ? ti_cuda_result(d, "chain", e) : ti_launch(d, "chain", chain_kernel, d->n_sm, THREADS + 32, smem, c);
}
