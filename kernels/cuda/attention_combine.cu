// The second kernel of a split decode: a row's chunks, which blocks left in scratch, folded in order (attention.cuh). A block has one row and q head:
//
//   factors   a, b of every chunk: a running maximum over the chunks, which is exact in any order
//   sums      BATCH chunks of the row at a time, 16 bytes a thread and access, the next batch on its way in registers while this one is folded from
//             shared memory; a thread folds one number of the head
//
// Bound by latency: two dependent reads, then 8 cycles a chunk.
#include "kernels/cuda/attention.cuh"

template <int DIM>
struct combine_shape {
  enum {
    THREADS = DIM < 128 ? 128 : DIM,
    BATCH = 8192 / (DIM <= 64    ? 64
                    : DIM <= 128 ? 128
                                 : 256),
    LOADS = (BATCH * DIM / 4 + THREADS - 1) / THREADS
  };
};

template <int DIM>
static __device__ __forceinline__ void load_batch(float4 (&v)[combine_shape<DIM>::LOADS], const float4 *src, int n_vec) {
#pragma unroll
  for (int i = 0; i < combine_shape<DIM>::LOADS; i++) {
    const int at = (int)threadIdx.x + i * combine_shape<DIM>::THREADS;
    if (at < n_vec) v[i] = src[at];
  }
}

// fold's factors of chunks 0 .. n - 1, by one warp: {a, b, l, -} each.
static __device__ __forceinline__ void find_factors(float4 *factors, const float2 *ml, int n) {
  float top = -CUDART_INF_F;  // of all chunks before this round's
  for (int i0 = 0; i0 < n; i0 += 32) {
    const int i = i0 + (int)threadIdx.x;
    const float2 mine = i < n ? ml[i] : make_float2(-CUDART_INF_F, 0.0f);
    float scan = mine.x;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, scan, o);
      if ((int)threadIdx.x >= o) scan = fmaxf(scan, other);
    }
    float before = __shfl_up_sync(0xffffffffu, scan, 1);
    before = threadIdx.x == 0 ? top : fmaxf(top, before);
    const fold_factors f = fold_of(before, mine.x);
    if (i < n) factors[i] = make_float4(f.a, f.b, mine.y, 0.0f);
    top = fmaxf(top, __shfl_sync(0xffffffffu, scan, 31));
  }
}

template <int DIM>
static __global__ void __launch_bounds__(combine_shape<DIM>::THREADS) combine_kernel(const __grid_constant__ attn a) {
  constexpr int BATCH = combine_shape<DIM>::BATCH, LOADS = combine_shape<DIM>::LOADS, THREADS = combine_shape<DIM>::THREADS;
  extern __shared__ float4 factors[];  // [n_slot]
  __shared__ __align__(16) float part[BATCH * DIM];
  ti_pdl_wait();
  ti_pdl_launch();
  const int seq = blockIdx.x, h = blockIdx.y, row0 = a.seq_row0[seq], rows = a.seq_row0[seq + 1] - row0, row = row0 + blockIdx.z;
  if ((int)blockIdx.z >= rows || rows > a.short_rows) return;
  int run0, run1;
  run_chunks(a, seq, row0, rows, &run0, &run1);
  if (run0 == run1) return;  // written already
  const row_span mine = row_limits(a, seq, row);
  const int s0 = mine.lo / CHUNK - run0, n = mine.hi < mine.lo ? 0 : mine.hi / CHUNK - run0 - s0 + 1;
  const int64_t at = (((int64_t)seq * a.short_rows + blockIdx.z) * a.n_head + h) * a.n_slot + s0;
  const float4 *src = (const float4 *)(a.part_o + at * DIM);
  float4 v[LOADS];
  load_batch<DIM>(v, src, min(BATCH, n) * (DIM / 4));
  if (threadIdx.x < 32) find_factors(factors, a.part_ml + at, n);
  const int x = threadIdx.x;
  float o = 0.0f, l = 0.0f;
  for (int c = 0; c < n; c += BATCH) {
    const int batch = min(BATCH, n - c);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      if (x + i * THREADS < batch * (DIM / 4)) ((float4 *)part)[x + i * THREADS] = v[i];
    }
    load_batch<DIM>(v, src + (c + BATCH) * (DIM / 4), min(BATCH, n - c - BATCH) * (DIM / 4));
    __syncthreads();
    if (x >= DIM) continue;
#pragma unroll 8
    for (int i = 0; i < batch; i++) {
      const float4 f = factors[c + i];
      l = __fmaf_rn(f.z, f.y, __fmul_rn(l, f.x));
      o = __fmaf_rn(part[i * DIM + x], f.y, __fmul_rn(o, f.x));
    }
  }
  if (x < DIM) a.out[(int64_t)row * a.ldo + (int64_t)h * DIM + x] = __float2bfloat16_rn(o * inverse(l));
}

template <int DIM>
static ti_status launch(ti_dev *d, const attn *a) {
  const dim3 grid((unsigned)a->n_seq, (unsigned)a->n_head, (unsigned)a->short_rows);
  return ti_launch(d, "attention combine", combine_kernel<DIM>, grid, combine_shape<DIM>::THREADS, (size_t)a->n_slot * sizeof(float4), *a);
}

ti_status attn_combine(ti_dev *d, const attn *a, int dim) {
  switch (dim) {
    case 64:
      return launch<64>(d, a);
    case 80:
      return launch<80>(d, a);
    case 96:
      return launch<96>(d, a);
    case 128:
      return launch<128>(d, a);
    case 256:
      return launch<256>(d, a);
    default:
      return TI_ERR_UNSUPPORTED;
  }
}
