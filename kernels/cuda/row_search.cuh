// Where a row's filters cut: the largest key T such that the kept elements, keys >= T, are at least k of them or hold at least a given probability
// mass. No sort: histograms of 1,024 bins, each level 1,024 times finer than the one before, until a bin holds one element or one key.
//
//   level 1    | bin 0 | bin 1 | ..  | bin 1023: all the rest |     linear in (max - x) / temperature, 0 .. 20
//   level 2            | 0 | 1 | .. 1023 |                          the keys of the bin in which the boundary lies
//   level 3, 4               ..                                     seldom
//
// Blocks keep histograms of their own, with sums of 32 bins each beside them; after one cluster barrier a warp of every block adds up its peers' 32
// coarse sums, scans them, then the 32 bins of the one that it hit: every block comes to the same answer by itself.
// Masses are integers, so that addition has no order. In a bin they are in units of 2^-(29 + its octave) of the best element's mass: 30 bits hold an
// fp32's mantissa and more, and are added as two halves of 15 in 32-bit words (up to 2^17 ids a block), reductions that nobody waits for. Across bins
// they are in units of 2^-44: up to 2^19 ids fit 64 bits, and what is lost is below 2^-25.
#ifndef TI_KERNELS_CUDA_ROW_SEARCH_CUH
#define TI_KERNELS_CUDA_ROW_SEARCH_CUH
#include <float.h>

#include "kernels/cuda/row_cluster.cuh"

#define SEARCH_BINS 1024
#define SEARCH_SPAN 20.0f           // of (max - x) / temperature at level 1
#define SEARCH_FAR 40.0f            // 2^19 ids from here on have a mass below 2^-38
#define MASS_ONE 17592186044416.0f  // 2^44
#define MASS_BITS 29
#define MASS_LOW 0x7fffu

struct search_level {
  uint32_t count[SEARCH_BINS], lo[SEARCH_BINS], hi[SEARCH_BINS];
  uint64_t coarse_count[32], coarse_mass[32];
};
struct search_found {
  uint64_t above_count, above_mass;  // in bins before the one hit
  uint64_t bin_count, bin_mass;
  int bin;  // -1: the whole level does not reach the target
};
struct search_shared {
  search_level level[2];  // [0]: level 1, kept for a second search; [1]: the finer ones, in turn
  search_found found;
};

struct search_row {  // what a search looks at
  const row_part *part;
  float max, inv_t, scale;  // scale: bins a unit of x at level 1
  bool count, mass;         // what level 1 keeps of the two
};
struct search_result {
  uint32_t key;                       // T; that of -inf when all finite elements together do not reach the target
  uint64_t above_count, count, mass;  // keys > T (where count is more than above_count + 1), keys >= T (2^64 - 1 where T is -inf's)
};

TI_DEV int search_bin1(const search_row &r, float x) { return (int)fminf((r.max - x) * r.scale, (float)(SEARCH_BINS - 1)); }
// Elements of level 1's bin have masses of at most 2^-octave.
TI_DEV int search_octave(int bin1) { return (int)((float)bin1 * (SEARCH_SPAN * 1.4426f / (SEARCH_BINS - 1))); }
TI_DEV uint32_t search_mass(const search_row &r, float x, int bin1) {
  return __float2uint_rz(expf((x - r.max) * r.inv_t) * __uint_as_float((uint32_t)(127 + MASS_BITS + search_octave(bin1)) << 23));
}
TI_DEV uint64_t search_units(uint64_t mass, int bin1) {  // of a bin -> 2^-44
  const int shift = 44 - MASS_BITS - search_octave(bin1);
  return shift >= 0 ? mass << shift : mass >> -shift;
}

TI_DEV void search_clear(search_level *l) {
  for (int i = (int)threadIdx.x; i < SEARCH_BINS; i += ROW_THREADS) l->count[i] = l->lo[i] = l->hi[i] = 0;
  __syncthreads();
}
TI_DEV void search_add(search_level *l, int bin, uint32_t mass) {
  atomicAdd(&l->lo[bin], mass & MASS_LOW);
  atomicAdd(&l->hi[bin], mass >> 15);
}

// The coarse sums, then the barrier after which peers may read this block's level.
TI_DEV void search_publish(search_level *l, int bin1) {  // bin1: whose elements they are, -1 at level 1
  __syncthreads();
  for (int c = (int)threadIdx.x / 32; c < 32; c += ROW_WARPS) {
    const int bin = c * 32 + (int)threadIdx.x % 32;
    const uint32_t count = __reduce_add_sync(0xffffffffu, l->count[bin]);
    const uint64_t mass = row_warp_sum(search_units(((uint64_t)l->hi[bin] << 15) + l->lo[bin], bin1 < 0 ? bin : bin1));
    if (threadIdx.x % 32 == 0) {
      l->coarse_count[c] = count;
      l->coarse_mass[c] = mass;
    }
  }
  row_sync();
}

// The first lane at which the running sum reaches the target, or -1; the sums before it (-1: of all lanes) go on top of *count and *mass.
TI_DEV int search_scan(uint64_t c, uint64_t m, bool by_mass, uint64_t target, uint64_t *count, uint64_t *mass) {
  const int lane = (int)threadIdx.x % 32;
  uint64_t cs = c, ms = m;
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const uint64_t cu = __shfl_up_sync(0xffffffffu, cs, o), mu = __shfl_up_sync(0xffffffffu, ms, o);
    if (lane >= o) {
      cs += cu;
      ms += mu;
    }
  }
  const unsigned hit = __ballot_sync(0xffffffffu, (by_mass ? *mass + ms : *count + cs) >= target);
  const int at = __ffs((int)hit) - 1;
  *count += __shfl_sync(0xffffffffu, hit ? cs - c : cs, hit ? at : 31);
  *mass += __shfl_sync(0xffffffffu, hit ? ms - m : ms, hit ? at : 31);
  return at;
}

// Which bin of the level (all blocks together) reaches the target, from `count` and `mass` above it on.
TI_DEV search_found search_pick(search_shared *s, const search_row &r, int bin1, bool by_mass, uint64_t target, uint64_t count, uint64_t mass) {
  const search_level *l = &s->level[bin1 < 0 ? 0 : 1];
  if (threadIdx.x < 32) {
    const uint32_t lane = threadIdx.x, blocks = r.part->blocks;
    uint64_t c = 0, m = 0, peer_c[ROW_MAX_BLOCKS], peer_m[ROW_MAX_BLOCKS];
#pragma unroll
    for (uint32_t b = 0; b < ROW_MAX_BLOCKS; b++) {  // all in flight; there are 2^i blocks
      peer_c[b] = peer_load64(row_peer(ti_smem(&l->coarse_count[lane]), b & (blocks - 1)));
      peer_m[b] = peer_load64(row_peer(ti_smem(&l->coarse_mass[lane]), b & (blocks - 1)));
    }
#pragma unroll
    for (uint32_t b = 0; b < ROW_MAX_BLOCKS; b++) {
      c += b < blocks ? peer_c[b] : 0;
      m += b < blocks ? peer_m[b] : 0;
    }
    const int coarse = search_scan(c, m, by_mass, target, &count, &mass);
    int fine = -1;
    if (coarse >= 0) {
      const int bin = coarse * 32 + (int)lane;
      c = m = 0;
#pragma unroll
      for (uint32_t b = 0; b < ROW_MAX_BLOCKS; b++) {
        peer_c[b] = peer_load(row_peer(ti_smem(&l->count[bin]), b & (blocks - 1)));
        peer_m[b] = (uint64_t)peer_load(row_peer(ti_smem(&l->hi[bin]), b & (blocks - 1))) << 15;
        peer_m[b] += peer_load(row_peer(ti_smem(&l->lo[bin]), b & (blocks - 1)));
      }
#pragma unroll
      for (uint32_t b = 0; b < ROW_MAX_BLOCKS; b++) {
        c += b < blocks ? peer_c[b] : 0;
        m += b < blocks ? search_units(peer_m[b], bin1 < 0 ? bin : bin1) : 0;
      }
      fine = search_scan(c, m, by_mass, target, &count, &mass);
      c = __shfl_sync(0xffffffffu, c, fine & 31);
      m = __shfl_sync(0xffffffffu, m, fine & 31);
    }
    if (lane == 0) s->found = {count, mass, c, m, fine < 0 ? -1 : coarse * 32 + fine};
  }
  __syncthreads();
  const search_found f = s->found;
  __syncthreads();
  return f;
}

// Level 1 of a row; to be called once, before searches. Elements of -inf and NaN do not count.
TI_DEV void search_begin(search_shared *s, const search_row &r) {
  search_level *l = &s->level[0];
  search_clear(l);
  uint32_t rest = 0;
  uint64_t rest_mass = 0;
  const float far = r.max - SEARCH_FAR / r.inv_t;  // from here on masses are nothing
#pragma unroll 1
  for (int g = (int)threadIdx.x; g < r.part->groups; g += ROW_BATCH * ROW_THREADS) {
    float f[ROW_BATCH][4];
    row_load_batch(*r.part, g, ROW_THREADS, f);
#pragma unroll
    for (int b = 0; b < ROW_BATCH; b++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float x = f[b][i];
        if (!(x >= far)) {
          rest += x > -CUDART_INF_F;
          continue;
        }
        const int bin = search_bin1(r, x);
        const uint32_t m = r.mass ? search_mass(r, x, bin) : 0;
        if (bin == SEARCH_BINS - 1) {  // most of a real row: kept out of the traffic
          rest++;
          rest_mass += m;
          continue;
        }
        if (r.count) atomicAdd(&l->count[bin], 1u);
        if (r.mass) search_add(l, bin, m);
      }
    }
  }
  rest = __reduce_add_sync(0xffffffffu, rest);
  rest_mass = row_warp_sum(rest_mass);
  if (threadIdx.x % 32 == 0 && rest) {
    atomicAdd(&l->count[SEARCH_BINS - 1], rest);
    atomicAdd(&l->lo[SEARCH_BINS - 1], (uint32_t)rest_mass & MASS_LOW);
    atomicAdd(&l->hi[SEARCH_BINS - 1], (uint32_t)(rest_mass >> 15));
  }
  search_publish(l, -1);
}

// The mass of the whole row; behind search_begin.
TI_DEV uint64_t search_total(search_shared *s, const row_part &part) {
  uint64_t m = 0;
  for (uint32_t b = 0; b < part.blocks; b++) m += peer_load64(row_peer(ti_smem(&s->level[0].coarse_mass[threadIdx.x % 32]), b));
  return row_warp_sum(m);
}

// One finer level: the elements of level 1's bin1 with keys in [lo, hi], in bins of 2^shift keys, the largest keys in bin 0.
TI_DEV void search_refine(search_shared *s, const search_row &r, int bin1, uint32_t lo, uint32_t hi, int shift) {
  search_level *l = &s->level[1];
  row_sync();  // peers have done with the level before
  search_clear(l);
  const float from = row_unkey(lo), to = row_unkey(hi);
#pragma unroll 1
  for (int g = (int)threadIdx.x; g < r.part->groups; g += ROW_BATCH * ROW_THREADS) {
    float f[ROW_BATCH][4];
    row_load_batch(*r.part, g, ROW_THREADS, f);
#pragma unroll
    for (int b = 0; b < ROW_BATCH; b++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float x = f[b][i];
        if (!(x >= from && x <= to) || search_bin1(r, x) != bin1) continue;
        const uint32_t key = row_key(x);
        if (key < lo || key > hi) continue;  // the other zero
        const int bin = (int)((hi - key) >> shift);
        atomicAdd(&l->count[bin], 1u);
        if (r.mass) search_add(l, bin, search_mass(r, x, bin1));
      }
    }
  }
  search_publish(l, bin1);
}

// T of the target (a count, or a mass). Every thread of every block calls it, with the same arguments.
TI_DEV search_result search_key(search_shared *s, const search_row &r, bool by_mass, uint64_t target) {
  search_found f = search_pick(s, r, -1, by_mass, target, 0, 0);
  if (f.bin < 0) return {row_key(-CUDART_INF_F), f.above_count, ~0ull, f.above_mass};
  const int bin1 = f.bin;
  const float width = 1.0f / r.scale;  // a bin's keys, and a bin's width on both sides for rounding
  uint32_t hi = row_key(bin1 < 2 ? r.max : r.max - (float)(bin1 - 1) * width);
  uint32_t lo = bin1 == SEARCH_BINS - 1 ? row_key(-FLT_MAX) : row_key(r.max - (float)(bin1 + 2) * width);
  for (;;) {  // 32 bits of range become 22, 12, 2, 0
    const int bits = 32 - __clz((int)(hi - lo)), shift = bits > 10 ? bits - 10 : 0;
    search_refine(s, r, bin1, lo, hi, shift);
    f = search_pick(s, r, bin1, by_mass, target, f.above_count, f.above_mass);
    if (f.bin > 0) hi -= (uint32_t)f.bin << shift;
    lo = hi - lo >= 1u << shift ? hi - ((1u << shift) - 1) : lo;
    if (shift == 0 || f.bin_count == 1) return {lo, f.above_count, f.above_count + f.bin_count, f.above_mass + f.bin_mass};
  }
}

#endif
