// Hopper's own instructions by name: mbarrier, TMA, wgmma, clusters, register hand-over. One line of PTX each, one line of contract, no policy;
// tensor maps are made on the host (tensor_map.h). sm_90a only. Words: an mbarrier's `parity` is the phase that a wait waits for (0 first, then 1, 0,
// ..).
//
// Who may call: "one thread" functions act once a call; "warp" and "warpgroup" ones (.aligned) need all 32 or 128 threads, converged.
#ifndef TI_KERNELS_CUDA_HOPPER_CUH
#define TI_KERNELS_CUDA_HOPPER_CUH
#include <cuda.h>
#include <stdint.h>

// A wait that does not end is a bug: after so many tries (each sleeps up to about a microsecond) the kernel faults instead of hanging the device.
#ifndef TI_MBAR_TRIES
#define TI_MBAR_TRIES (1u << 27)
#endif

#define TI_DEV static __device__ __forceinline__

// ---- addresses, threads ---------------------------------------------------------------------------------------------------------------------------

// The 32-bit shared-memory address that PTX wants.
TI_DEV uint32_t ti_smem(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// True in exactly one thread of a converged warp.
TI_DEV bool ti_elect() {
  uint32_t one;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(one));
  return one != 0;
}

// Barrier `id` (1..15; 0 is __syncthreads) among `n` threads, a multiple of 32.
TI_DEV void ti_bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
TI_DEV void ti_bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }

// Moves registers between warpgroups: N is a multiple of 8 in 24..256. Warpgroup; each role one branch, in a kernel with __launch_bounds__(threads,
// 1).
template <int N>
TI_DEV void ti_reg_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
TI_DEV void ti_reg_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- programmatic dependent launch, clusters, fences ----------------------------------------------------------------------------------------------

// Waits until the grids before this one (launched with programmatic serialization) have ended and their writes are seen.
TI_DEV void ti_griddep_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Lets the next grid start its prologue once every block has called this or ended.
TI_DEV void ti_griddep_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

TI_DEV uint32_t ti_cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
// All threads of all blocks of the cluster; arrive releases, wait acquires. A block must not end while a peer may still reach into its shared memory.
TI_DEV void ti_cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
// An arrival that publishes nothing (mbarrier inits have their own fence).
TI_DEV void ti_cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
TI_DEV void ti_cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
TI_DEV void ti_cluster_sync() {
  ti_cluster_arrive();
  ti_cluster_wait();
}
// Shared address `a` of this block, as it stands in block `rank` of the cluster.
TI_DEV uint32_t ti_mapa(uint32_t a, uint32_t rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank));
  return r;
}

// 16 bytes into a block's shared memory (an address by ti_mapa); a cluster barrier makes them seen.
TI_DEV void ti_store_at(uint32_t at, float a, float b, float c, float d) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// Orders this thread's ordinary shared-memory writes before what TMA and wgmma read (then a barrier).
TI_DEV void ti_fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Makes mbarrier inits visible to the cluster's blocks and to TMA (then a block or cluster barrier).
TI_DEV void ti_fence_mbar_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// ---- mbarrier (8 bytes of shared memory, 8-byte aligned); all one thread --------------------------------------------------------------------------

TI_DEV void ti_mbar_init(uint64_t *bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ti_smem(bar)), "r"(count)); }
TI_DEV void ti_mbar_arrive(uint64_t *bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ti_smem(bar)) : "memory"); }
// Arrives at the same barrier of block `rank` of the cluster.
TI_DEV void ti_mbar_arrive_at(uint64_t *bar, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(ti_mapa(ti_smem(bar), rank)) : "memory");
}
// Arrives, and announces `bytes` that TMA will write in this phase.
TI_DEV void ti_mbar_expect(uint64_t *bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(ti_smem(bar)), "r"(bytes) : "memory");
}
// True once the phase `parity` is over; may sleep a little before it says no.
TI_DEV bool ti_mbar_try(uint64_t *bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done)
               : "r"(ti_smem(bar)), "r"(parity)
               : "memory");
  return done != 0;
}
// Until the phase `parity` is over (bounded: see TI_MBAR_TRIES). Gives up by a store beyond shared memory: a trap would be an exit, and ptxas keeps
// the registers of a kernel with a second exit to its launch bounds, whatever setmaxnreg says.
TI_DEV void ti_mbar_wait(uint64_t *bar, uint32_t parity) {
  for (uint32_t left = TI_MBAR_TRIES; !ti_mbar_try(bar, parity); left--) {
    if (left == 0) asm volatile("st.shared.u32 [%0], %0;" ::"r"(0xfffffff0) : "memory");
  }
}

// ---- TMA; all one thread. Coordinates in elements, fastest first; what lies outside the tensor reads as zeros and is not written ------------------

// L2 policies of loads.
#define TI_L2_NORMAL 0x1000000000000000ull
#define TI_L2_EVICT_FIRST 0x12F0000000000000ull
#define TI_L2_EVICT_LAST 0x14F0000000000000ull

TI_DEV void ti_tma_prefetch_map(const CUtensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// A box into shared memory (128-byte aligned; 1,024 for the 128-byte swizzle); its bytes count towards bar's phase.
TI_DEV void ti_tma_load_2d(void *dst, const CUtensorMap *map, uint64_t *bar, int x, int y, uint64_t l2 = TI_L2_NORMAL) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
                   ti_smem(dst)),
               "l"(map), "r"(ti_smem(bar)), "r"(x), "r"(y), "l"(l2)
               : "memory");
}
TI_DEV void ti_tma_load_3d(void *dst, const CUtensorMap *map, uint64_t *bar, int x, int y, int z, uint64_t l2 = TI_L2_NORMAL) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
                   ti_smem(dst)),
               "l"(map), "r"(ti_smem(bar)), "r"(x), "r"(y), "r"(z), "l"(l2)
               : "memory");
}
// The same box to the same address of every block whose bit is set in `blocks`; each block's own barrier at bar's address counts the bytes.
TI_DEV void ti_tma_load_2d_multicast(void *dst, const CUtensorMap *map, uint64_t *bar, uint16_t blocks, int x, int y, uint64_t l2 = TI_L2_NORMAL) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, "
      "%6;" ::"r"(ti_smem(dst)),
      "l"(map), "r"(ti_smem(bar)), "r"(x), "r"(y), "h"(blocks), "l"(l2)
      : "memory");
}
TI_DEV void ti_tma_load_3d_multicast(void *dst, const CUtensorMap *map, uint64_t *bar, uint16_t blocks, int x, int y, int z,
                                     uint64_t l2 = TI_L2_NORMAL) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], "
      "%6, %7;" ::"r"(ti_smem(dst)),
      "l"(map), "r"(ti_smem(bar)), "r"(x), "r"(y), "r"(z), "h"(blocks), "l"(l2)
      : "memory");
}
// `bytes` (a multiple of 16, both ends 16-byte aligned) of plain memory into shared memory.
TI_DEV void ti_bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *bar, uint64_t l2 = TI_L2_NORMAL) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(ti_smem(dst)),
               "l"(src), "r"(bytes), "r"(ti_smem(bar)), "l"(l2)
               : "memory");
}

// A box out of shared memory. The sequence is: writers ti_fence_proxy_async, a barrier, then one thread: stores, commit, and wait before reuse.
TI_DEV void ti_tma_store_2d(const CUtensorMap *map, const void *src, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(ti_smem(src)), "r"(x), "r"(y)
               : "memory");
}
TI_DEV void ti_tma_store_3d(const CUtensorMap *map, const void *src, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(ti_smem(src)), "r"(x), "r"(y), "r"(z)
               : "memory");
}
TI_DEV void ti_tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most N committed groups still read shared memory (of this thread's).
template <int N>
TI_DEV void ti_tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
// Until at most N committed groups are still being written.
template <int N>
TI_DEV void ti_tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

// ---- stmatrix; warp. 8x8 tiles of 16-bit numbers: thread 8 i + r gives row r's address of tile i, and holds row (t / 4), columns 2 (t % 4) .. + 1 -

TI_DEV void ti_stmatrix_x2(void *row, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(ti_smem(row)), "r"(a), "r"(b) : "memory");
}
TI_DEV void ti_stmatrix_x4(void *row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(ti_smem(row)), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// The transposed tile is stored.
TI_DEV void ti_stmatrix_x2_trans(void *row, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(ti_smem(row)), "r"(a), "r"(b) : "memory");
}
TI_DEV void ti_stmatrix_x4_trans(void *row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(ti_smem(row)), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
// Two fp32 as bf16, rounded to nearest even: lo in the low half.
TI_DEV uint32_t ti_pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

// ---- wgmma; warpgroup -----------------------------------------------------------------------------------------------------------------------------
//
//   D [64, N] fp32 (+)= A [64, K] * B [N, K]^T, K = 32 bytes (32 e4m3, 16 bf16). Thread t of the warpgroup holds, for each j < N / 8,
//     d[4 j + 0, 1] = D[16 (t / 32) + t % 32 / 4    ][8 j + 2 (t % 4) + 0, 1]
//     d[4 j + 2, 3] = D[16 (t / 32) + t % 32 / 4 + 8][8 j + 2 (t % 4) + 0, 1]
//   Order: ti_wgmma_fence, products, ti_wgmma_commit, ti_wgmma_wait<groups still open>; d is not to be touched in between, nor the operands' memory.

TI_DEV void ti_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
TI_DEV void ti_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
TI_DEV void ti_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Keeps the compiler from moving uses of d across a wait or a fence.
template <int N>
TI_DEV void ti_wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Operand of K-major rows of 128 bytes with the 128-byte swizzle (8 rows = 1,024 bytes, 1,024-byte aligned), as TMA writes it. Along K add bytes / 16
// to the descriptor (32 bytes of K: + 2); along rows + 64 for each 8.
TI_DEV uint64_t ti_wgmma_desc(const void *p) {
  return (uint64_t)((ti_smem(p) & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
// Any layout: byte offsets as PTX defines them for it, swizzle 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes.
TI_DEV uint64_t ti_wgmma_desc_of(const void *p, uint32_t leading_bytes, uint32_t stride_bytes, uint32_t swizzle) {
  return (uint64_t)((ti_smem(p) & 0x3FFFF) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 | (uint64_t)(stride_bytes >> 4) << 32 |
         (uint64_t)swizzle << 62;
}

// The registers' names in PTX, and the operands, four by four.
#define TI_R4 "%0, %1, %2, %3"
#define TI_R8 TI_R4 ", %4, %5, %6, %7"
#define TI_R12 TI_R8 ", %8, %9, %10, %11"
#define TI_R16 TI_R12 ", %12, %13, %14, %15"
#define TI_R20 TI_R16 ", %16, %17, %18, %19"
#define TI_R24 TI_R20 ", %20, %21, %22, %23"
#define TI_R28 TI_R24 ", %24, %25, %26, %27"
#define TI_R32 TI_R28 ", %28, %29, %30, %31"
#define TI_R40 TI_R32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define TI_R48 TI_R40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define TI_R56 TI_R48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define TI_R64 TI_R56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define TI_R72 TI_R64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define TI_R80 TI_R72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define TI_R88 TI_R80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define TI_R96 TI_R88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define TI_R128                                                                                  \
  TI_R96                                                                                         \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TI_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TI_D8(i) TI_D4(i), TI_D4(i + 4)
#define TI_D16(i) TI_D8(i), TI_D8(i + 8)
#define TI_D32(i) TI_D16(i), TI_D16(i + 16)
#define TI_D64(i) TI_D32(i), TI_D32(i + 32)
// X(N, registers' names, operands, the numbers of the operands behind them)
#define TI_WGMMA_SIZES(X)                                                        \
  X(8, TI_R4, (TI_D4(0)), 4, 5, 6, 7, 8, 9, 10)                                  \
  X(16, TI_R8, (TI_D8(0)), 8, 9, 10, 11, 12, 13, 14)                             \
  X(24, TI_R12, (TI_D8(0), TI_D4(8)), 12, 13, 14, 15, 16, 17, 18)                \
  X(32, TI_R16, (TI_D16(0)), 16, 17, 18, 19, 20, 21, 22)                         \
  X(40, TI_R20, (TI_D16(0), TI_D4(16)), 20, 21, 22, 23, 24, 25, 26)              \
  X(48, TI_R24, (TI_D16(0), TI_D8(16)), 24, 25, 26, 27, 28, 29, 30)              \
  X(56, TI_R28, (TI_D16(0), TI_D8(16), TI_D4(24)), 28, 29, 30, 31, 32, 33, 34)   \
  X(64, TI_R32, (TI_D32(0)), 32, 33, 34, 35, 36, 37, 38)                         \
  X(80, TI_R40, (TI_D32(0), TI_D8(32)), 40, 41, 42, 43, 44, 45, 46)              \
  X(96, TI_R48, (TI_D32(0), TI_D16(32)), 48, 49, 50, 51, 52, 53, 54)             \
  X(112, TI_R56, (TI_D32(0), TI_D16(32), TI_D8(48)), 56, 57, 58, 59, 60, 61, 62) \
  X(128, TI_R64, (TI_D64(0)), 64, 65, 66, 67, 68, 69, 70)                        \
  X(144, TI_R72, (TI_D64(0), TI_D8(64)), 72, 73, 74, 75, 76, 77, 78)             \
  X(160, TI_R80, (TI_D64(0), TI_D16(64)), 80, 81, 82, 83, 84, 85, 86)            \
  X(176, TI_R88, (TI_D64(0), TI_D16(64), TI_D8(80)), 88, 89, 90, 91, 92, 93, 94) \
  X(192, TI_R96, (TI_D64(0), TI_D32(64)), 96, 97, 98, 99, 100, 101, 102)         \
  X(256, TI_R128, (TI_D64(0), TI_D64(64)), 128, 129, 130, 131, 132, 133, 134)
#define TI_ARGS(...) __VA_ARGS__
#define TI_STR(x) #x
template <int N>
constexpr bool ti_wgmma_has() {
#define TI_X(n, ...) N == n ||
  return TI_WGMMA_SIZES(TI_X) false;
#undef TI_X
}

// d: N / 2 registers, N one of the sizes above; accumulate false: D = A B, else D += A B. Both operands K-major in shared memory.
template <int N>
TI_DEV void ti_wgmma_e4m3(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(ti_wgmma_has<N>(), "not in TI_WGMMA_SIZES");
#define TI_X(n, names, operands, o0, o1, o2, o3, o4, o5, o6)                                                    \
  if constexpr (N == n) {                                                                                       \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" TI_STR(o2) ", 0; wgmma.mma_async.sync.aligned.m64n" TI_STR( \
                     n) "k32.f32.e4m3.e4m3 {" names "}, %" TI_STR(o0) ", %" TI_STR(o1) ", p, 1, 1; }"           \
                 : TI_ARGS operands                                                                             \
                 : "l"(a), "l"(b), "r"((int)accumulate));                                                       \
  }
  TI_WGMMA_SIZES(TI_X)
#undef TI_X
}
// TA, TB 1: that operand lies M- or N-major.
template <int N, int TA = 0, int TB = 0>
TI_DEV void ti_wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(ti_wgmma_has<N>(), "not in TI_WGMMA_SIZES");
#define TI_X(n, names, operands, o0, o1, o2, o3, o4, o5, o6)                                                                            \
  if constexpr (N == n) {                                                                                                               \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" TI_STR(o2) ", 0; wgmma.mma_async.sync.aligned.m64n" TI_STR(                         \
                     n) "k16.f32.bf16.bf16 {" names "}, %" TI_STR(o0) ", %" TI_STR(o1) ", p, 1, 1, %" TI_STR(o3) ", %" TI_STR(o4) "; }" \
                 : TI_ARGS operands                                                                                                     \
                 : "l"(a), "l"(b), "r"((int)accumulate), "n"(TA), "n"(TB));                                                             \
  }
  TI_WGMMA_SIZES(TI_X)
#undef TI_X
}
// A in registers: a[0..1] = rows t % 32 / 4 and + 8 at columns 2 (t % 4) .. + 1, a[2..3] the same at columns + 8.
template <int N, int TB = 0>
TI_DEV void ti_wgmma_bf16_ra(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(ti_wgmma_has<N>(), "not in TI_WGMMA_SIZES");
#define TI_X(n, names, operands, o0, o1, o2, o3, o4, o5, o6)                                                                                    \
  if constexpr (N == n) {                                                                                                                       \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" TI_STR(o5) ", 0; wgmma.mma_async.sync.aligned.m64n" TI_STR(                                 \
                     n) "k16.f32.bf16.bf16 {" names                                                                                             \
                        "}, {%" TI_STR(o0) ", %" TI_STR(o1) ", %" TI_STR(o2) ", %" TI_STR(o3) "}, %" TI_STR(o4) ", p, 1, 1, %" TI_STR(o6) "; }" \
                 : TI_ARGS operands                                                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"(TB));                                          \
  }
  TI_WGMMA_SIZES(TI_X)
#undef TI_X
}

#endif
