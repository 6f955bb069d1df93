// The kernels behind lab_floor.h. Each one starts to read at once, lets the next launch in, and waits for the launch before it (griddepcontrol) only
// when all its bytes are there: what a product does whose weights no launch writes.
#include <assert.h>
#include <math.h>

#include "benchmarks/kernels/lab_floor.h"
#include "kernels/cuda/hopper.cuh"

// ---- device code ----------------------------------------------------------------------------------------------------------------------------------

static __device__ __forceinline__ uint4 load(const uint4 *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// Thread i of all takes pieces i, i + threads, ..: AHEAD of them on their way at a time.
template <int AHEAD>
static __global__ void __launch_bounds__(AHEAD > 8 ? 512 : 1024) read_loads(const uint4 *p, int n, uint32_t *sink) {
  ti_griddep_launch();
  const int step = (int)(gridDim.x * blockDim.x);
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  uint32_t x = 0;
  for (; i + (AHEAD - 1) * step < n; i += AHEAD * step) {
    uint4 v[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) v[a] = load(p + i + a * step);
#pragma unroll
    for (int a = 0; a < AHEAD; a++) x ^= v[a].x ^ v[a].y ^ v[a].z ^ v[a].w;
  }
#pragma unroll
  for (int a = 0; a < AHEAD - 1; a++) {
    if (i + a * step < n) {
      const uint4 v = load(p + i + a * step);
      x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
  }
  ti_griddep_wait();
  if (x == 0x9e3779b9u) *sink = x;
}

// Block b takes pieces b, b + blocks, .. of `piece` bytes into a ring; one thread does it all.
static __global__ void __launch_bounds__(32) read_bulk(const uint8_t *p, int64_t bytes, int piece, int depth) {
  extern __shared__ __align__(1024) uint8_t ring[];
  uint64_t *full = (uint64_t *)(ring + piece * depth);
  if (threadIdx.x == 0) {
    for (int i = 0; i < depth; i++) ti_mbar_init(full + i, 1);
    ti_fence_mbar_init();
    ti_fence_proxy_async();
    const int64_t step = (int64_t)gridDim.x * piece;
    int64_t at = (int64_t)blockIdx.x * piece;
    int asked = 0, got = 0;
    for (; at < bytes || got < asked;) {
      if (at < bytes && asked - got < depth) {
        const int size = (int)(bytes - at < piece ? bytes - at : piece);
        ti_mbar_expect(full + asked % depth, (uint32_t)size);
        ti_bulk_load(ring + asked % depth * piece, p + at, (uint32_t)size, full + asked % depth, TI_L2_EVICT_FIRST);
        asked++, at += step;
        if (asked == depth) ti_griddep_launch();
      } else {
        ti_mbar_wait(full + got % depth, (uint32_t)(got / depth & 1));
        got++;
      }
    }
  }
  ti_griddep_wait();
}

// ---- host -----------------------------------------------------------------------------------------------------------------------------------------

// Loads: blocks an SM (0: so many that every thread has its bytes at once), threads, ahead. Bulk copies: blocks an SM, bytes a piece, pieces.
typedef struct reader {
  const char *name;
  bool bulk;
  int per_sm, threads, ahead;
} reader;
static const reader readers[] = {
    {"loads, 1 x 1024 an SM, 8", false, 1, 1024, 8},  {"loads, 2 x 1024 an SM, 8", false, 2, 1024, 8},
    {"loads, 2 x 512 an SM, 16", false, 2, 512, 16},  {"loads, 4 x 256 an SM, 16", false, 4, 256, 16},
    {"loads, 8 x 256 an SM, 8", false, 8, 256, 8},    {"loads, 256 x 8 at once", false, 0, 256, 8},
    {"loads, 512 x 4 at once", false, 0, 512, 4},     {"loads, 256 x 16 at once", false, 0, 256, 16},
    {"bulk, 1 an SM, 27 x 8 KiB", true, 1, 8192, 27}, {"bulk, 1 an SM, 13 x 16 KiB", true, 1, 16384, 13},
    {"bulk, 2 an SM, 13 x 8 KiB", true, 2, 8192, 13}, {"bulk, 2 an SM, 26 x 4 KiB", true, 2, 4096, 26},
    {"bulk, 1 an SM, 13 x 8 KiB", true, 1, 8192, 13}, {"bulk, 1 an SM, 6 x 16 KiB", true, 1, 16384, 6},
    {"bulk, 2 an SM, 6 x 8 KiB", true, 2, 8192, 6},
};
enum { READERS = sizeof readers / sizeof *readers, SIZES = 64, FIRST_RUNS = 5 };

typedef struct job {
  lab *l;
  const reader *r;
  const uint8_t *mem;
  int64_t bytes;
  bool pdl;
} job;

static void launch(const job *j, const uint8_t *from) {
  const reader *r = j->r;
  cudaLaunchAttribute at = {};
  at.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  at.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.stream = j->l->stream;
  c.attrs = &at;
  c.numAttrs = j->pdl ? 1 : 0;
  c.gridDim = dim3((unsigned)(r->per_sm * j->l->dev.n_sm));
  if (r->bulk) {
    c.blockDim = dim3(32);
    c.dynamicSmemBytes = (size_t)(r->threads * r->ahead + 8 * r->ahead);
    lab_ok(j->l, cudaFuncSetAttribute((const void *)read_bulk, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.dynamicSmemBytes), "floor");
    lab_ok(j->l, cudaLaunchKernelEx(&c, read_bulk, from, j->bytes, r->threads, r->ahead), "floor");
    return;
  }
  const int n = (int)(j->bytes / 16), block = r->threads * r->ahead;
  void (*kernel)(const uint4 *, int, uint32_t *) = r->ahead == 4 ? read_loads<4> : r->ahead == 8 ? read_loads<8> : read_loads<16>;
  c.blockDim = dim3((unsigned)r->threads);
  if (r->per_sm == 0) c.gridDim = dim3((unsigned)((n + block - 1) / block));
  lab_ok(j->l, cudaLaunchKernelEx(&c, kernel, (const uint4 *)from, n, (uint32_t *)j->l->sums), "floor");
}
static void run_one(void *arg) { launch((const job *)arg, ((const job *)arg)->mem); }
static void run_chain(void *arg) {
  const job *j = (const job *)arg;
  for (int i = 0; i < LAB_FLOOR_CHAIN; i++) launch(j, j->mem + i * j->bytes);
}

static double time_of(job *j, bool chain) {
  j->pdl = chain;
  return chain ? lab_time_chain_us(j->l, run_chain, j, LAB_FLOOR_CHAIN) : lab_time_us(j->l, run_one, j);
}
// The best by a few runs, then measured as an op is.
static double best_of(job *j, bool chain, const char **name) {
  lab *l = j->l;
  const int runs = l->runs;
  double best = INFINITY;
  int which = 0;
  l->runs = FIRST_RUNS;
  for (int i = 0; i < READERS; i++) {
    j->r = &readers[i];
    const double us = time_of(j, chain);
    if (us < best) best = us, which = i;
  }
  l->runs = runs;
  j->r = &readers[which];
  *name = readers[which].name;
  return time_of(j, chain);
}

lab_floor lab_floor_of(lab *l, double bytes) {
  static struct {
    int64_t bytes;
    lab_floor floor;
  } known[SIZES];
  static int n_known;
  static uint8_t *mem;
  static int64_t mem_bytes;
  const int64_t size = (int64_t)bytes / 16 * 16;
  for (int i = 0; i < n_known; i++) {
    if (known[i].bytes == size) return known[i].floor;
  }
  assert(size > 0 && size / 16 < INT32_MAX / 2 && n_known < SIZES);
  if (size > mem_bytes) {
    if (mem != NULL) lab_free(l, mem);
    mem_bytes = size;
    mem = (uint8_t *)lab_alloc(l, (size_t)LAB_FLOOR_CHAIN * (size_t)size);
    lab_fill(l, mem, TI_E4M3, (size_t)LAB_FLOOR_CHAIN * (size_t)size, 77, 400.0f);
  }
  job j = {l, NULL, mem, size, false};
  lab_floor f = {};
  f.us = best_of(&j, false, &f.name);
  f.chain_us = best_of(&j, true, &f.chain_name);
  known[n_known].bytes = size, known[n_known++].floor = f;
  return f;
}
