// Decode: runs of few rows over paged KV (one row a sequence; a draft's rows). Bound by memory: K and V are read once for all q heads of a kv head.
//
//   tile: 16 packed rows (row x q head of one kv head), one run            ring of stages, 128 places of K or of V each
//
//        places of a span                         numbers of the head      fetch warp --TMA, a box a page--> | K0 | V0 | K1 | V1 | K2 | ..
//        0     32    64    96   127               0           dim-1                                             full / empty barriers
//       +-----+-----+-----+-----+   max, p        +---+---+---+---+
//    16 | w0  | w1  | w2  | w3  |  ----------> 16 |w0 |w1 |w2 |w3 |        scores: a warp has 32 places; values: a warp has a quarter of the head.
//       +-----+-----+-----+-----+  (bf16, shared) +---+---+---+---+        Two block barriers a span (maxima; p); sums stay in registers.
//
// Blocks: items (run's tile, kv head), parts of the sequence. Where there are fewer tiles than the device has room for, blocks share a sequence,
// chunks of 512 places each: up to 8 blocks are a cluster and fold through distributed shared memory; more leave their chunks in scratch for
// attention_combine.cu. Blocks beyond a sequence's length end at once, so a launch made for max_kv_len serves any length. Where short sequences are
// more than the device has room for, blocks stay: the fetch warp is at the next item while the others are at this one.
//
//   the predecessor (rope and append) |=====================|           programmatic dependent launch: the batch's arrays and the places before the
//   fetch warp   look up, old pages ------------------>| q, new places   run's own rows are fetched while it runs (attn's `early`: what is in flight
//   warps 0..3                                         | wait for q ..   then is only what came after the last attention, and writes no other places)
//
// Measured on an H200 (lab_attention, one run, copy 4.25 TB/s; an empty kernel is 2.9 us of each of these):
//   64/8 heads, dim 128, 128 x 4,096 places   520 us, 97% of copy; E4M3 327 us, 80%        32/8, 1 x 131,072    151 us, 84%
//   32/8, 16 x 4,096                           79 us, 80%                                  32/8, 8 x 32,768     271 us, 93%
//   32/4, dim 64, 64 x 2,048, pages of 16, 64  43.6 us (73%), 43.1 us (74%)                32/8, 64 x 256       24.3 us, 66%
// What attention adds behind an append, layer after layer (the form before: no early reads, a block an item):
//   32/8, dim 128, 64 x 192   17.2 us, 70% (22.4)     64 x 256  19.9 us, 80% (23.4)     256 x 200  59.1 us, 85% (75.9)     E4M3 64 x 192 17.2 (19.0)
//   32/4, dim 64, 1 x 64, 200, 512, 2,048   3.4, 4.0, 5.3, 6.6 us (4.0, 4.9, 6.0, 7.7)     256 x 200  21.6 us, 60% (26.0)
// Short contexts are bound by the math warps' latency, not by memory: stamps of %clock in that chain (dim 128, 64 x 192, two blocks a
// multiprocessor) put 1.0 us between the predecessor's end and q, then 4.7 us an item: a span is 0.4 scores, 0.5 maxima and p (two barriers), 0.6
// values, 0.3 fold, with K and V there already. Tried and left: 8 math warps (each step hardly shorter, barriers and folds dearer: 18.1 us; batch 1
// 4.7); the second item's pages into L2 while the predecessor runs (20.7 us; 64 x 1,024 86 us for 66: why was not looked into; the stamps are of
// that variant). E4M3 at 4,096 places was 285 us in the form before, for a reason not found (a ring of 4 or 6 stages is the same). The next 10%: two
// items in the math warps at once, so that one's barriers pass while the other multiplies.
#include "kernels/cuda/attention.cuh"

enum { ROWS = 16, WARPS = 4, KEYS = SPAN / WARPS / 8, MATH = 32 * WARPS, THREADS = MATH + 32, P_LD = SPAN + 8, MAX_STAGES = 8 };

static __device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// What a block does of a tile: spans s0 .. s1, in chunks c0 .. of the run's run0 .. run1.
struct work {
  int s0, s1, c0, run0, run1;
  bool whole;    // it has the whole run and writes the rows; else it leaves chunks,
  bool cluster;  // in shared memory
};

// A tile of a head and this block's work on it, as the fetch warp hands it over; its q stands behind struct shared.
struct item {
  attn_tile t;
  work w;
  bool end;  // no more
  int head;
  int lo[ROWS], hi[ROWS];  // places that a row attends
  uint64_t mask[ROWS];
  int vec[ROWS];  // row * n_head + q head; -1: behind the run's last
  int64_t out[ROWS];
};

// Shared memory behind the ring of stages. Behind it: q [ROWS][DIM + 8], then a cluster's block's parts.
struct alignas(16) shared {
  bf16 p[ROWS][P_LD];
  float max[ROWS][WARPS];
  float v_max[ROWS][WARPS];   // E4M3: the largest scale of V met
  float sum[ROWS][4][WARPS];  // a lane of the quad, then warps
  item it[2];                 // by turns: a block's warps may still be at one while the next is handed over
  uint64_t full[MAX_STAGES], empty[MAX_STAGES], it_full, it_empty, q_full;
};

// Blocks of a multiprocessor.
static constexpr int blocks_of(int dim) { return dim <= 64 ? 3 : dim <= 128 ? 2 : 1; }

template <int DIM>
struct q_shape {
  enum { LD = DIM + 8, BYTES = ROWS * LD * 2 };
};

// Address of 16 bytes `col` of row r in a stage.
template <int HALVES>
static __device__ __forceinline__ uint32_t at128(uint32_t stage, int r, int col) {
  return stage + (HALVES > 1 ? col / 8 * (SPAN * 128) : 0) + r * 128 + (((col ^ r) & 7) << 4);
}

// Row r (of two) of all this lane's numbers.
template <int N>
static __device__ __forceinline__ void fold_all(float (&big)[N][2][4], const float (&part)[N][2][4], int r, const fold_factors &f) {
#pragma unroll
  for (int i = 0; i < N; i++) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; e++) big[i][n][e] = fold(big[i][n][e], part[i][n][e], f);
    }
  }
}

// ---- what differs between types of KV ----
//
// Q as fragments of mma's A; scores of this warp's 32 keys as x[n-tile of 8 keys][C fragment]; o += p V for STEP places and this
// warp's numbers of the head, 16 of them a pair of n-tiles.

template <int DIM>
struct kv_bf16 {
  enum { HALVES = (DIM + 63) / 64, SCALES = 0, STAGE = HALVES * SPAN * 128, KS = DIM / 16, BOX = 64, STEP = 16 };
  uint32_t q[KS][4];

  // Rows g and g + 8 of the tile; NULL: zeros.
  __device__ __forceinline__ void load_q(const bf16 *row0, const bf16 *row1, int q4) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bf16 *src = (r ? row1 : row0) + 2 * q4;
      const bool in = r ? row1 != nullptr : row0 != nullptr;
#pragma unroll
      for (int k = 0; k < KS; k++) {
        q[k][r] = in ? *(const uint32_t *)(src + 16 * k) : 0;
        q[k][r + 2] = in ? *(const uint32_t *)(src + 16 * k + 8) : 0;
      }
    }
  }
  __device__ __forceinline__ void scores(float (&x)[KEYS][4], const uint8_t *stage, int warp, int lane) const {
    const uint32_t k_at = ti_smem(stage);
#pragma unroll
    for (int k = 0; k < KS; k += 2) {
#pragma unroll
      for (int j = 0; j < KEYS; j++) {
        uint32_t b[4];
        ldmatrix_x4(b, at128<HALVES>(k_at, 8 * KEYS * warp + 8 * j + lane % 8, 2 * k + lane / 8));
        mma_bf16(x[j], q[k], b[0], b[1]);
        if (k + 1 < KS) mma_bf16(x[j], q[k + 1 < KS ? k + 1 : k], b[2], b[3]);
      }
    }
  }
  static __device__ __forceinline__ uint32_t pack_p(float p0, float p1, float, float) { return ti_pack_bf16(p0, p1); }
  template <int MINE>
  static __device__ __forceinline__ void values(float (&o)[MINE][2][4], uint32_t p_at, uint32_t v_at, int k, int warp, int lane) {
    uint32_t p[4];
    ldmatrix_x4(p, p_at + (lane % 16) * (P_LD * 2) + (2 * k + lane / 16) * 16);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int pair = warp + WARPS * i;
      if ((DIM / 16) % WARPS && pair >= DIM / 16) continue;
      uint32_t b[4];
      ldmatrix_x4_trans(b, at128<HALVES>(v_at, 16 * k + lane % 16, 2 * pair + lane / 16));
      mma_bf16(o[i][0], p, b[0], b[1]);
      mma_bf16(o[i][1], p, b[2], b[3]);
    }
  }
  // Where in a pair of n-tiles this lane's four numbers of a row stand, as two pairs.
  static __device__ __forceinline__ int column(int n, int q4) { return 8 * n + 2 * q4; }
  static __device__ __forceinline__ float2 two(const float (&o)[2][4], int n, int r) { return make_float2(o[n][2 * r], o[n][2 * r + 1]); }
};

// E4M3: codes are exact in fp16, so both products are fp16 with fp32 sums. q is scaled by a power of two to at most 2; p takes V's scale, over the
// largest such scale that the row meets in the span, rounded down to a power of two (both exact to undo). The order of the head's numbers inside a
// score and inside a pair of n-tiles is such that 16 codes are one access; sums over a span are in its order of places, as bf16's.
template <int DIM>
struct kv_e4m3 {
  enum { HALVES = (DIM + 127) / 128, SCALES = HALVES * SPAN * 128, STAGE = SCALES + 1024, KB = (DIM + 63) / 64, BOX = 128, STEP = 32 };
  uint32_t q[4 * KB][4];
  float q_scale[2];

  __device__ __forceinline__ void load_q(const bf16 *row0, const bf16 *row1, int q4) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bf16 *src = r ? row1 : row0;
      float top = 0.0f;
#pragma unroll
      for (int pass = 0; pass < 2; pass++) {  // the largest, then the numbers: from L1 the second time
#pragma unroll
        for (int kb = 0; kb < KB; kb++) {
          const int d = 64 * kb + 16 * q4;
          float f[16] = {};
          if (src && (DIM % 64 == 0 || d < DIM)) ti_load8(src + d, f), ti_load8(src + d + 8, (float(&)[8])f[8]);
#pragma unroll
          for (int i = 0; i < 16; i++) {
            if (pass == 0) top = fmaxf(top, fabsf(f[i]));
          }
          if (pass == 0) continue;
          const float s = 1.0f / q_scale[r];
#pragma unroll
          for (int i = 0; i < 4; i++) {
            q[4 * kb + i][r] = pack_f16(f[4 * i] * s, f[4 * i + 1] * s);
            q[4 * kb + i][r + 2] = pack_f16(f[4 * i + 2] * s, f[4 * i + 3] * s);
          }
        }
        if (pass == 0) q_scale[r] = power_below(quad_max(top));
      }
    }
  }
  static __device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
  }
  static __device__ __forceinline__ uint32_t two_codes(uint32_t codes) {  // the low 16 bits
    uint32_t r;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.rn.f16x2.e4m3x2 %0, h; }" : "=r"(r) : "r"(codes));
    return r;
  }
  // The largest power of two that is not above x; 1 for 0 and for what is too small to be inverted.
  static __device__ __forceinline__ float power_below(float x) {
    const uint32_t e = __float_as_uint(x) & 0x7f800000u;
    return e < 0x01000000u || e > 0x7e000000u ? 1.0f : __uint_as_float(e);
  }
  __device__ __forceinline__ void scores(float (&x)[KEYS][4], const uint8_t *stage, int warp, int lane) const {
    const int g = lane / 4, q4 = lane % 4;
    const float *scale = (const float *)(stage + SCALES) + 8 * KEYS * warp + 2 * q4;
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
      const int r = 8 * KEYS * warp + 8 * j + g;
#pragma unroll
      for (int kb = 0; kb < KB; kb++) {
        const int c = 4 * kb + q4;
        const uint4 u = *(const uint4 *)(stage + (HALVES > 1 ? c / 8 * (SPAN * 128) : 0) + r * 128 + (((c ^ r) & 7) << 4));
        const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) mma_f16(x[j], q[4 * kb + i], two_codes(w[i]), two_codes(w[i] >> 16));
      }
      const float2 s = *(const float2 *)(scale + 8 * j);
      x[j][0] *= q_scale[0] * s.x, x[j][1] *= q_scale[0] * s.y;
      x[j][2] *= q_scale[1] * s.x, x[j][3] *= q_scale[1] * s.y;
    }
  }
  static __device__ __forceinline__ uint32_t pack_p(float p0, float p1, float s0, float s1) { return pack_f16(p0 * s0, p1 * s1); }
  template <int MINE>
  static __device__ __forceinline__ void values(float (&o)[MINE][2][4], uint32_t p_at, uint32_t v_at, int k, int warp, int lane) {
    uint32_t p[2][4];
    ldmatrix_x4(p[0], p_at + (lane % 16) * (P_LD * 2) + (4 * k + lane / 16) * 16);
    ldmatrix_x4(p[1], p_at + (lane % 16) * (P_LD * 2) + (4 * k + 2 + lane / 16) * 16);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int chunk = warp + WARPS * i;
      if ((DIM / 16) % WARPS && chunk >= DIM / 16) continue;
      uint32_t b[4];  // keys 32 k .. + 31, 8 a matrix; each 16 bits the codes of numbers 2 g, 2 g + 1 of the chunk
      ldmatrix_x4_trans(b, at128<HALVES>(v_at, 32 * k + lane, chunk));
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint32_t u = __byte_perm(b[2 * h], 0, 0x3120), v = __byte_perm(b[2 * h + 1], 0, 0x3120);
        mma_f16(o[i][0], p[h], two_codes(u), two_codes(v));
        mma_f16(o[i][1], p[h], two_codes(u >> 16), two_codes(v >> 16));
      }
    }
  }
  static __device__ __forceinline__ int column(int n, int q4) { return 4 * q4 + 2 * n; }
  static __device__ __forceinline__ float2 two(const float (&o)[2][4], int n, int r) { return make_float2(o[0][2 * r + n], o[1][2 * r + n]); }
};

// ---- the blocks of a cluster, done with their chunks ----

static __device__ __forceinline__ float2 peer_float2(const void *mine, uint32_t rank) {
  float2 v;
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(ti_mapa(ti_smem(mine), rank)) : "memory");
  return v;
}

// Folds the chunks that stand in the blocks' shared memories, in order: each block some pairs of numbers, a thread one.
template <int DIM>
static __device__ __forceinline__ void fold_cluster(const attn &a, const item &it, const float *part, const float2 *ml) {
  const int run0 = it.w.run0, blocks = (it.w.run1 - run0) / a.block_chunks + 1, rows = min(ROWS, it.t.n - it.t.first);
  for (int i = (int)blockIdx.z * MATH + threadIdx.x; i < rows * (DIM / 2); i += blocks * MATH) {
    const int r = i / (DIM / 2), x = i % (DIM / 2) * 2;
    const row_span rs = {it.lo[r], it.hi[r]};
    float m = -CUDART_INF_F, l = 0.0f;
    float2 o = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int c = rs.lo / CHUNK; c <= (rs.hi < rs.lo ? -1 : rs.hi / CHUNK); c++) {
      const int rank = (c - run0) / a.block_chunks, at = ((c - run0) % a.block_chunks) * ROWS + r;
      const float2 v = peer_float2(part + at * DIM + x, rank), u = peer_float2(ml + at, rank);
      const fold_factors f = fold_of(m, u.x);
      m = f.max;
      l = fold(l, u.y, f);
      o.x = fold(o.x, v.x, f);
      o.y = fold(o.y, v.y, f);
    }
    const float inv = inverse(l);
    *(uint32_t *)(a.out + it.out[r] + x) = ti_pack_bf16(o.x * inv, o.y * inv);
  }
}

// ---- the kernel ----

// This thread's rows g and g + 8 of the tile: what they attend, where they go.
struct two_rows {
  int lo[2], n[2], vec[2];  // n: how many places from lo on
  uint64_t mask[2];
  int64_t out[2];
};
static __device__ __forceinline__ void find_rows(const item &it, int g, two_rows *rows) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    rows->lo[r] = it.lo[g + 8 * r], rows->n[r] = max(it.hi[g + 8 * r] - rows->lo[r] + 1, 0);
    rows->vec[r] = it.vec[g + 8 * r], rows->mask[r] = it.mask[g + 8 * r], rows->out[r] = it.out[g + 8 * r];
  }
}

// Scores of this thread's rows, its places from first_place on.
static __device__ __forceinline__ void mask_out(float (&x)[KEYS][4], const two_rows &rows, int first_place, int own0, bool tree) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float &v = x[j][2 * r + i];
        drop_outside(v, first_place - rows.lo[r] + 8 * j + i, rows.n[r]);
        const int own = first_place + 8 * j + i - own0;
        if (tree && own >= 0 && own < 64 && !(rows.mask[r] >> own & 1)) v = -CUDART_INF_F;
      }
    }
  }
}

// This warp's part of the rows' maxima into shared memory; E4M3: of the scales of V (vs) that they meet, too.
template <bool SCALED>
static __device__ __forceinline__ void put_max(const float (&x)[KEYS][4], const float2 (&vs)[KEYS], shared *sh, int warp, int g, int q4) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float m = fmaxf(x[0][2 * r], x[0][2 * r + 1]);
#pragma unroll
    for (int j = 1; j < KEYS; j++) m = fmaxf(m, fmaxf(x[j][2 * r], x[j][2 * r + 1]));
    m = quad_max(m);
    if (q4 == 0) sh->max[g + 8 * r][warp] = m;
    if (SCALED) {
      float top = 0.0f;
#pragma unroll
      for (int j = 0; j < KEYS; j++) {
        if (x[j][2 * r] != -CUDART_INF_F) top = fmaxf(top, vs[j].x);
        if (x[j][2 * r + 1] != -CUDART_INF_F) top = fmaxf(top, vs[j].y);
      }
      top = quad_max(top);
      if (q4 == 0) sh->v_max[g + 8 * r][warp] = top;
    }
  }
}

static __device__ __forceinline__ float max_of(const float (&v)[WARPS]) {
  const float4 a = *(const float4 *)v;
  return fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w));
}

// Scores become p in shared memory; m: the rows' maxima; v_unit: what p was divided by beside (E4M3).
template <typename KV, int DIM>
static __device__ __forceinline__ void put_p(const float (&x)[KEYS][4], const float2 (&vs)[KEYS], float c, shared *sh, int warp, int g, int q4,
                                             float (&m)[2], float (&v_unit)[2]) {
  constexpr bool SCALED = KV::SCALES != 0;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    m[r] = __fmul_rn(max_of(sh->max[g + 8 * r]), c);
    const float ref = m[r] == -CUDART_INF_F ? 0.0f : m[r];
    float undo = 1.0f, sum = 0.0f;
    v_unit[r] = 1.0f;
    if (SCALED) {
      v_unit[r] = kv_e4m3<DIM>::power_below(max_of(sh->v_max[g + 8 * r]));
      undo = 1.0f / v_unit[r];
    }
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
      const float p0 = exp2_fast(__fmaf_rn(x[j][2 * r], c, -ref)), p1 = exp2_fast(__fmaf_rn(x[j][2 * r + 1], c, -ref));
      sum += p0;
      sum += p1;
      // a scale that is not attended may be anything: p of 0 stays 0
      const float s0 = SCALED && p0 > 0.0f ? vs[j].x * undo : 0.0f, s1 = SCALED && p1 > 0.0f ? vs[j].y * undo : 0.0f;
      *(uint32_t *)&sh->p[g + 8 * r][8 * KEYS * warp + 8 * j + 2 * q4] = KV::pack_p(p0, p1, s0, s1);
    }
    sh->sum[g + 8 * r][q4][warp] = sum;
  }
}

// Two rows' state: M, L (chunk's L: this lane's part) and this warp's share of the numbers.
template <int MINE>
struct sums {
  float chunk_o[MINE][2][4], row_o[MINE][2][4], chunk_m[2], chunk_l[2], row_m[2], row_l[2];
};

// A chunk is complete: into the row's sums, or out of the block (part, ml: of row r).
template <typename KV, int DIM, int MINE>
static __device__ __forceinline__ void end_chunk(sums<MINE> &st, int r, bool whole, float *part, float2 *ml, int warp, int q4) {
  const float l = quad_sum(st.chunk_l[r]);
  if (whole) {
    const fold_factors w = fold_of(st.row_m[r], st.chunk_m[r]);
    st.row_m[r] = w.max;
    st.row_l[r] = fold(st.row_l[r], l, w);
    fold_all(st.row_o, st.chunk_o, r, w);
  } else if (part) {
    if (warp == 0 && q4 == 0) *ml = make_float2(st.chunk_m[r], l);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int pair = warp + WARPS * i;
      if ((DIM / 16) % WARPS && pair >= DIM / 16) continue;
#pragma unroll
      for (int n = 0; n < 2; n++) *(float2 *)(part + 16 * pair + KV::column(n, q4)) = KV::two(st.chunk_o[i], n, r);
    }
  }
  st.chunk_m[r] = -CUDART_INF_F, st.chunk_l[r] = 0.0f;
#pragma unroll
  for (int i = 0; i < MINE; i++) {
#pragma unroll
    for (int n = 0; n < 2; n++) st.chunk_o[i][n][2 * r] = st.chunk_o[i][n][2 * r + 1] = 0.0f;
  }
}

template <typename KV, int DIM, int MINE>
static __device__ __forceinline__ void put_out(const attn &a, const sums<MINE> &st, const two_rows &rows, int warp, int q4) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    if (rows.vec[r] < 0) continue;
    const float inv = inverse(st.row_l[r]);
    bf16 *dst = a.out + rows.out[r];
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int pair = warp + WARPS * i;
      if ((DIM / 16) % WARPS && pair >= DIM / 16) continue;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const float2 v = KV::two(st.row_o[i], n, r);
        *(uint32_t *)(dst + 16 * pair + KV::column(n, q4)) = ti_pack_bf16(v.x * inv, v.y * inv);
      }
    }
  }
}

template <typename KV, int DIM>
static __device__ __forceinline__ bool attend(const attn &a, uint8_t *ring, int n_stage, shared *sh, int &stage, uint32_t &phase, uint32_t turn) {
  constexpr int MINE = (DIM / 16 + WARPS - 1) / WARPS, STAGE = KV::STAGE;
  constexpr bool SCALED = KV::SCALES != 0;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q4 = lane % 4;
  const bf16 *const q = (const bf16 *)(sh + 1);                             // [ROWS][LD]
  float *const my_part = (float *)((uint8_t *)q + q_shape<DIM>::BYTES);     // [block_chunks][ROWS][DIM], of a cluster's block
  float2 *const my_ml = (float2 *)(my_part + a.block_chunks * ROWS * DIM);  // [block_chunks][ROWS]
  const item &it = sh->it[turn];
  const attn_tile t = it.t;
  const work w = it.w;
  two_rows rows;
  find_rows(it, g, &rows);
  ti_pdl_wait();
  ti_pdl_launch();
  ti_mbar_wait(&sh->q_full, turn);
  KV kv;
  kv.load_q(q + g * q_shape<DIM>::LD, q + (g + 8) * q_shape<DIM>::LD, q4);
  __syncwarp();
  if (lane == 0) ti_mbar_arrive(&sh->it_empty);
  sums<MINE> st = {};
  st.chunk_m[0] = st.chunk_m[1] = st.row_m[0] = st.row_m[1] = -CUDART_INF_F;
  for (int s = w.s0; s <= w.s1; s++) {
    float x[KEYS][4] = {}, o[MINE][2][4] = {}, m[2], v_unit[2];
    float2 vs[KEYS] = {};
    ti_mbar_wait(&sh->full[stage], phase);
    kv.scores(x, ring + stage * STAGE, warp, lane);
    __syncwarp();
    if (lane == 0) ti_mbar_arrive(&sh->empty[stage]);
    if (++stage == n_stage) stage = 0, phase ^= 1;
    if (s * SPAN < t.lo_all || s * SPAN + SPAN > t.hi_plain + 1) mask_out(x, rows, s * SPAN + 8 * KEYS * warp + 2 * q4, t.own0, a.mask != nullptr);
    uint8_t *const v = ring + stage * STAGE;
    if (SCALED) {
      ti_mbar_wait(&sh->full[stage], phase);
#pragma unroll
      for (int j = 0; j < KEYS; j++) vs[j] = *(const float2 *)(v + KV::SCALES + (8 * KEYS * warp + 8 * j + 2 * q4) * 4);
    }
    put_max<SCALED>(x, vs, sh, warp, g, q4);
    ti_bar_sync(1, MATH);
    put_p<KV, DIM>(x, vs, a.c, sh, warp, g, q4, m, v_unit);
    if (!SCALED) ti_mbar_wait(&sh->full[stage], phase);
    const bool ragged = s * SPAN < t.lo || s * SPAN + SPAN - 1 > t.hi;
    if (ragged) attn_clear_outside<KV::HALVES, KV::STEP, MATH>(v, s, t.lo, t.hi, threadIdx.x);
    ti_bar_sync(1, MATH);
    const uint32_t p_at = ti_smem(sh->p), v_at = ti_smem(v);
    if (ragged) {  // p is zero elsewhere
      for (int k = max(t.lo - s * SPAN, 0) / KV::STEP; k <= min(t.hi - s * SPAN, SPAN - 1) / KV::STEP; k++) KV::values(o, p_at, v_at, k, warp, lane);
      ti_fence_proxy_async();
    } else {
#pragma unroll
      for (int k = 0; k < SPAN / KV::STEP; k++) KV::values(o, p_at, v_at, k, warp, lane);
    }
    __syncwarp();
    if (lane == 0) ti_mbar_arrive(&sh->empty[stage]);
    if (++stage == n_stage) stage = 0, phase ^= 1;

    const bool last = s == w.s1 || s % CHUNK_SPANS == CHUNK_SPANS - 1;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float4 l = *(const float4 *)sh->sum[g + 8 * r][q4];
      fold_factors f = fold_of(st.chunk_m[r], m[r]);
      st.chunk_m[r] = f.max;
      st.chunk_l[r] = fold(st.chunk_l[r], (l.x + l.y) + (l.z + l.w), f);
      if (SCALED) f.b *= v_unit[r];
      fold_all(st.chunk_o, o, r, f);
      if (!last) continue;
      const int64_t at = ((int64_t)(t.seq * a.short_rows - t.row0) * a.n_head + rows.vec[r]) * a.n_slot + s / CHUNK_SPANS - w.run0;
      const int mine = (s / CHUNK_SPANS - w.c0) * ROWS + g + 8 * r;
      float *part = rows.vec[r] < 0 ? nullptr : w.cluster ? my_part + mine * DIM : a.part_o + at * DIM;
      end_chunk<KV, DIM>(st, r, w.whole, part, w.cluster ? my_ml + mine : a.part_ml + at, warp, q4);
    }
  }
  if (w.cluster) {
    ti_cluster_sync();
    fold_cluster<DIM>(a, it, my_part, my_ml);
    ti_cluster_sync();  // nobody ends while a peer reads its memory
  }
  if (w.whole) put_out<KV, DIM>(a, st, rows, warp, q4);
  return !w.cluster;
}

// ---- the fetch warp ----

// The next item of this block that has work, from `at` on.
static __device__ __forceinline__ bool find_item(const attn &a, int &at, attn_tile *t, work *w, int *head) {
  const int tiles = a.n_seq * a.run_tiles;
  for (; at < tiles * a.n_kv_head; at += gridDim.x) {
    const int tile = at % tiles, seq = tile / a.run_tiles, first = tile % a.run_tiles * ROWS, rows = a.seq_row0[seq + 1] - a.seq_row0[seq];
    if (first >= rows * a.group || rows > a.short_rows) continue;
    tile_of(a, seq, first, ROWS, t);
    run_chunks(a, seq, t->row0, rows, &w->run0, &w->run1);
    w->c0 = w->run0 + blockIdx.z * a.block_chunks;
    const int c1 = min(w->c0 + a.block_chunks, w->run1 + 1) - 1;
    w->whole = gridDim.z == 1 || w->run0 == w->run1;
    w->cluster = a.cluster && !w->whole;
    w->s0 = max(t->lo / SPAN, w->c0 * CHUNK_SPANS);
    w->s1 = t->hi < t->lo ? w->s0 - 1 : min(t->hi / SPAN, c1 * CHUNK_SPANS + CHUNK_SPANS - 1);
    *head = at / tiles;
    at += gridDim.x;
    if (w->whole ? blockIdx.z == 0 : w->c0 <= c1) return true;
  }
  return false;
}

// Everything of an item but q's numbers, into shared memory.
static __device__ __forceinline__ void put_item(const attn &a, const attn_tile &t, const work &w, int head, int dim, int turn, shared *sh) {
  const int lane = threadIdx.x % 32;
  item *const it = &sh->it[turn];
  if (lane < ROWS) {
    const int packed = min(t.first + lane, t.n - 1), row = t.row0 + row_of(a, packed), h = head * a.group + packed - (row - t.row0) * a.group;
    const row_span rs = row_limits(a, t.seq, row);
    it->lo[lane] = rs.lo, it->hi[lane] = rs.hi;
    it->mask[lane] = a.mask ? a.mask[row] : ~0ull;
    it->vec[lane] = t.first + lane < t.n ? row * a.n_head + h : -1;
    it->out[lane] = (int64_t)row * a.ldo + (int64_t)h * dim;
  }
  if (lane == 0) it->t = t, it->w = w, it->head = head, it->end = false;
  __syncwarp();
  if (lane == 0) ti_mbar_arrive(&sh->it_full);
}

// This lane's row of q (behind the run's last: the last).
static __device__ __forceinline__ const bf16 *q_of(const attn &a, const attn_tile &t, int head, int dim) {
  const int packed = min(t.first + min((int)threadIdx.x % 32, ROWS - 1), t.n - 1), row = row_of(a, packed);
  return a.q + (int64_t)(t.row0 + row) * a.ldq + (int64_t)(head * a.group + packed - row * a.group) * dim;
}
// q's rows behind struct shared.
template <int DIM>
static __device__ __forceinline__ void fetch_q(const bf16 *q, shared *sh) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) ti_mbar_expect(&sh->q_full, ROWS * DIM * 2);
  __syncwarp();
  if (lane < ROWS) ti_bulk_load((bf16 *)(sh + 1) + lane * q_shape<DIM>::LD, q, DIM * 2, &sh->q_full);
}

// Table entries of pages base .. base + 31, a lane each.
struct pages {
  int base;
  int32_t id;
};
static __device__ __forceinline__ void find_pages(const attn &a, const attn_tile &t, int s, pages *p) {
  const int first = s * SPAN >> a.page_shift, last = max(t.hi, 0) >> a.page_shift;
  p->base = first;
  p->id = a.table[(int64_t)t.seq * a.table_stride + min(first + (int)threadIdx.x % 32, last)];
}

// What a lane asks for of K (v = 0) or V of a span, from its place on: a box of the whole page (or of 128 places) where all of it is attended and
// older than the run's rows; else of SMALL_BOX places where any is.
struct box {
  int n, row, y, z;  // places; the first in the span; where they stand for the map
  int32_t page;
  bool old;  // none of them is the run's own
};
struct maps {
  const CUtensorMap *big, *small;
  __device__ const CUtensorMap *of(const attn &a, int n) const { return n == min(1 << a.page_shift, (int)SMALL_BOX) ? small : big; }
};
static __device__ __forceinline__ box box_of(const attn &a, const attn_tile &t, int head, int s, int v, const pages &pg) {
  const int lane = threadIdx.x % 32, page_tokens = 1 << a.page_shift, big = min(page_tokens, (int)SPAN), small = min(page_tokens, (int)SMALL_BOX);
  box b;
  b.row = lane * small;
  const int place = s * SPAN + b.row, first = place & -big;
  const bool whole = first >= (t.lo & -small) && first + big <= min(t.hi + 1, t.own0);
  b.n = whole ? (place == first ? big : 0) : place + small > t.lo && place <= t.hi ? small : 0;
  if (b.row >= SPAN) b.n = 0;
  b.page = __shfl_sync(0xffffffffu, pg.id, (place >> a.page_shift) - pg.base);
  b.y = ((head + v * a.n_kv_head) << a.page_shift) + (place & (page_tokens - 1));
  b.z = b.page * a.n_layer + a.layer;
  b.old = place + b.n <= t.own0;
  return b;
}

// K or V of a span into a stage, [HALVES][128 places][128 bytes], swizzled; OLD, NEW: only the boxes that are, or are not.
enum { EXPECT = 1, OLD = 2, NEW = 4, ALL = 7 };
template <typename KV>
static __device__ __forceinline__ void fill(const attn &a, const maps &m, const attn_tile &t, int head, int s, int v, const pages &pg, uint8_t *dst,
                                            uint64_t *full, int what) {
  const box b = box_of(a, t, head, s, v, pg);
  if (what & EXPECT) {
    const int all = __reduce_add_sync(0xffffffffu, b.n);
    if (threadIdx.x % 32 == 0) ti_mbar_expect(full, (uint32_t)(all * (KV::HALVES * 128 + (KV::SCALES ? 4 : 0))));
    __syncwarp();
  }
  if (b.n == 0 || !(what & (b.old ? OLD : NEW))) return;
  const CUtensorMap *map = m.of(a, b.n);
#pragma unroll
  for (int h = 0; h < KV::HALVES; h++) ti_tma_load_3d(dst + h * SPAN * 128 + b.row * 128, map, full, KV::BOX * h, b.y, b.z);
  if (KV::SCALES) {
    const uint8_t *scale = a.kv + (size_t)b.page * a.page_bytes + a.layer_offset + (v ? a.v_scale_offset : a.k_scale_offset);
    scale += (b.y - ((v * a.n_kv_head) << a.page_shift)) * 4;
    ti_bulk_load(dst + KV::SCALES + b.row * 4, scale, (uint32_t)b.n * 4, full);
  }
}

template <typename KV, int DIM>
static __device__ __forceinline__ bool fetch(const attn &a, const maps &m, uint8_t *ring, int n_stage, shared *sh) {
  const int lane = threadIdx.x % 32;
  attn_tile t;
  work w;
  pages pg;
  int at = blockIdx.x, head = 0, stage = 0, done = 0, posted = 0;
  uint32_t phase = 1;
  if (!a.early) ti_pdl_wait();
  bool any = find_item(a, at, &t, &w, &head);
  if (any) {  // the first item's stages, as many as there are: what is old before the predecessor has ended, then the rest
    put_item(a, t, w, head, DIM, posted++, sh);
    find_pages(a, t, w.s0, &pg);
    const bf16 *const q = q_of(a, t, head, DIM);
    const int spans = w.s1 - w.s0 + 1;
    while (done < n_stage && done < 2 * spans && done / 2 * SPAN < 32 << a.page_shift) done++;
    for (int i = 0; i < done; i++) fill<KV>(a, m, t, head, w.s0 + i / 2, i % 2, pg, ring + i * KV::STAGE, &sh->full[i], EXPECT | OLD);
    ti_pdl_wait();
    fetch_q<DIM>(q, sh);
    for (int i = 0; i < done; i++) fill<KV>(a, m, t, head, w.s0 + i / 2, i % 2, pg, ring + i * KV::STAGE, &sh->full[i], NEW);
    stage = done;
    if (stage == n_stage) stage = 0, phase ^= 1;
  }
  ti_pdl_wait();
  const bool cluster = any && w.cluster;
  while (any) {
    attn_tile next_t;
    work next_w;
    int next_head;
    const bool more = find_item(a, at, &next_t, &next_w, &next_head);  // its look-ups' latency passes while the ring is full
    for (int i = done; i < 2 * (w.s1 - w.s0 + 1); i++) {
      const int s = w.s0 + i / 2;
      if (i % 2 == 0 && (s * SPAN + SPAN - 1 >> a.page_shift) - pg.base > 31) find_pages(a, t, s, &pg);
      ti_mbar_wait(&sh->empty[stage], phase);
      fill<KV>(a, m, t, head, s, i % 2, pg, ring + stage * KV::STAGE, &sh->full[stage], ALL);
      if (++stage == n_stage) stage = 0, phase ^= 1;
    }
    any = more;
    if (!more) break;
    t = next_t, w = next_w, head = next_head, done = 0;
    find_pages(a, t, w.s0, &pg);
    ti_mbar_wait(&sh->it_empty, (posted & 1) ^ 1);
    put_item(a, t, w, head, DIM, posted++ & 1, sh);
    fetch_q<DIM>(q_of(a, t, head, DIM), sh);
  }
  if (cluster) return true;  // one item a block
  ti_mbar_wait(&sh->it_empty, (posted & 1) ^ 1);
  if (lane == 0) sh->it[posted & 1].end = true, ti_mbar_arrive(&sh->it_full);
  return false;
}

// ---- the kernel ----

template <typename KV, int DIM>
static __global__ void __launch_bounds__(THREADS, blocks_of(DIM))
    decode_kernel(const __grid_constant__ attn a, const __grid_constant__ CUtensorMap big, const __grid_constant__ CUtensorMap small, int n_stage) {
  extern __shared__ __align__(1024) uint8_t ring[];
  shared *sh = (shared *)(ring + (size_t)n_stage * KV::STAGE);
  if (threadIdx.x == MATH) {
    ti_tma_prefetch_map(&big);
    ti_tma_prefetch_map(&small);
    for (int i = 0; i < n_stage; i++) {
      ti_mbar_init(&sh->full[i], 1);
      ti_mbar_init(&sh->empty[i], WARPS);
    }
    ti_mbar_init(&sh->it_full, 1);
    ti_mbar_init(&sh->q_full, 1);
    ti_mbar_init(&sh->it_empty, WARPS);
    ti_fence_mbar_init();
  }
  __syncthreads();
  if (threadIdx.x >= MATH) {
    const bool cluster = fetch<KV, DIM>(a, {&big, &small}, ring, n_stage, sh);
    __syncwarp();
    if (cluster) ti_cluster_sync(), ti_cluster_sync();
    return;
  }
  int stage = 0;
  uint32_t phase = 0, turn = 0;
  for (bool more = true; more; turn ^= 1) {
    ti_mbar_wait(&sh->it_full, turn);
    more = !sh->it[turn].end && attend<KV, DIM>(a, ring, n_stage, sh, stage, phase, turn);
  }
  ti_pdl_wait();  // of a block without work
}

// ---- launching ----

// Blocks share a sequence where the device has room for more of them than there are tiles. What a split costs: time of a block in spans, each as long
// as its share of the memory's bandwidth makes it (in microseconds, of a H200; only the launch's shape depends on it, no bit does).
typedef struct split {
  int block_chunks, n_z;
  bool cluster;  // n_z blocks of a cluster, who fold in shared memory; else by way of scratch
} split;

enum { MAX_CLUSTER = 8, SM_SMEM = 228 * 1024, MAX_SMEM = 227 * 1024 };

static split split_of(const ti_dev *d, const attn *a, int blocks, int chunks, int blocks_a_sm, double span_bytes, size_t scratch_bytes,
                      int cluster_chunks) {
  const double bw = 4.0e6 / 132 * d->n_sm, sm_bw = 1.5 * bw / d->n_sm;  // bytes a microsecond: of memory, of one multiprocessor at most
  split best = {chunks > 0 ? chunks : 1, 1, false};
  double best_us = 0.0;
  for (int n = 1; n <= chunks; n++) {
    const int block_chunks = ti_ceil_div(chunks, n), n_z = ti_ceil_div(chunks, block_chunks);
    if (n_z != n) continue;
    const bool cluster = n_z > 1 && n_z <= MAX_CLUSTER && block_chunks <= cluster_chunks && blocks * n_z <= d->n_sm;
    if (n_z > 1 && !cluster && (scratch_bytes > d->scratch_bytes || chunks > ATTN_MAX_SLOTS)) continue;
    const int slots = d->n_sm * blocks_a_sm, all = blocks * n_z, active = all < slots ? all : slots;
    const int on_sm = ti_ceil_div(active, d->n_sm);
    double span_us = span_bytes * active / bw;
    if (span_us < span_bytes * on_sm / sm_bw) span_us = span_bytes * on_sm / sm_bw;
    if (span_us < 0.45) span_us = 0.45;
    const double us = ti_ceil_div(all, slots) * (CHUNK_SPANS * block_chunks * span_us + 2.0) + (n_z == 1 ? 0.0 : cluster ? 1.0 : 2.5);
    if (n == 1 || us < 0.97 * best_us) best_us = us, best.block_chunks = block_chunks, best.n_z = n_z, best.cluster = cluster;
  }
  return best;
}

enum { PERSISTENT_SPANS = 8 };  // of up to so many spans: as many blocks as there is room for, each fetching its next item while it works on one

template <typename KV, int DIM>
static ti_status launch(ti_dev *d, attn *a, const attn_maps *map, int64_t max_places) {
  auto *kernel = decode_kernel<KV, DIM>;
  constexpr int blocks_a_sm = blocks_of(DIM);
  const size_t own = sizeof(shared) + q_shape<DIM>::BYTES, part = ROWS * (DIM * sizeof(float) + sizeof(float2));
  const int room = (int)((SM_SMEM / blocks_a_sm - 1024 - own) / KV::STAGE), full_ring = room < MAX_STAGES ? room : MAX_STAGES;
  const int tiles = ti_ceil_div((int64_t)a->short_rows * a->group, ROWS), chunks = ti_ceil_div(max_places, CHUNK);
  const int cluster_room = (int)((MAX_SMEM - own - 3 * (size_t)KV::STAGE) / part), cluster_chunks = cluster_room < 4 ? cluster_room : 4;
  const int items = a->n_seq * tiles * a->n_kv_head;
  const size_t vectors = (size_t)a->n_seq * (size_t)a->short_rows * (size_t)a->n_head * (size_t)chunks;
  const split s = split_of(d, a, items, chunks, blocks_a_sm, 2.0 * SPAN * DIM * (KV::SCALES > 0 ? 1 : 2),
                           vectors * (DIM * sizeof(float) + sizeof(float2)), cluster_chunks);
  a->run_tiles = tiles;
  a->block_chunks = s.block_chunks;
  a->cluster = s.cluster;
  if (s.n_z > 1 && !s.cluster) {
    a->n_slot = chunks;
    a->part_o = (float *)d->scratch;
    a->part_ml = (float2 *)(a->part_o + vectors * DIM);
  }
  // a block alone on its multiprocessor has all of the memory for its ring
  const size_t parts = s.cluster ? s.block_chunks * part : 0;
  const int most = (int)((MAX_SMEM - own - parts) / KV::STAGE),
            spans = ti_ceil_div(max_places, SPAN) < s.block_chunks * CHUNK_SPANS ? ti_ceil_div(max_places, SPAN) : s.block_chunks * CHUNK_SPANS;
  const bool alone = items * s.n_z <= d->n_sm && (s.n_z == 1 || s.cluster);  // before a combine, the next kernel's blocks want the room
  int n_stage = alone ? (most < MAX_STAGES ? most : MAX_STAGES) : full_ring;
  if (n_stage > 2 * spans) n_stage = 2 * spans;
  const int slots = d->n_sm * blocks_a_sm, blocks = s.n_z == 1 && spans <= PERSISTENT_SPANS && slots < items ? slots : items;
  static uint64_t allowed;  // devices
  const ti_status st = attn_allow_smem(d, (const void *)kernel, MAX_SMEM, &allowed);
  if (st != TI_OK) return st;
  cudaLaunchAttribute attr[2] = {};
  attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attr[0].val.programmaticStreamSerializationAllowed = d->pdl;
  attr[1].id = cudaLaunchAttributeClusterDimension;
  attr[1].val.clusterDim.x = attr[1].val.clusterDim.y = 1;
  attr[1].val.clusterDim.z = s.cluster ? (unsigned)s.n_z : 1;
  cudaLaunchConfig_t c = {};
  c.gridDim = dim3((unsigned)blocks, 1, (unsigned)s.n_z);
  c.blockDim = THREADS;
  c.dynamicSmemBytes = (size_t)n_stage * KV::STAGE + own + parts;
  c.stream = d->stream;
  c.attrs = attr;
  c.numAttrs = 2;
  d->last_op = "attention";
  const cudaError_t e = cudaLaunchKernelEx(&c, kernel, *a, map->big, map->small, n_stage);
  if (e != cudaSuccess) return ti_cuda_result(d, "attention", e);
  return a->n_slot > 0 ? attn_combine(d, a, DIM) : TI_OK;
}

template <int DIM>
static ti_status launch(ti_dev *d, attn *a, const attn_maps *map, ti_dtype type, int64_t max_places) {
  return type == TI_E4M3 ? launch<kv_e4m3<DIM>, DIM>(d, a, map, max_places) : launch<kv_bf16<DIM>, DIM>(d, a, map, max_places);
}

ti_status attn_decode(ti_dev *d, const attn *all, const attn_maps *map, ti_dtype type, int dim, int64_t max_places) {
  attn a = *all;
  switch (dim) {
    case 64:
      return launch<64>(d, &a, map, type, max_places);
    case 80:
      return launch<80>(d, &a, map, type, max_places);
    case 96:
      return launch<96>(d, &a, map, type, max_places);
    case 128:
      return launch<128>(d, &a, map, type, max_places);
    case 256:
      return launch<256>(d, &a, map, type, max_places);
    default:
      return TI_ERR_UNSUPPORTED;
  }
}
