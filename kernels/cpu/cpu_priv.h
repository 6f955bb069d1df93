// What the files of the CPU backend share: the device, the packed weight, and how work is spread over the team.
//
// Files: *_body.h is written once over simd_*.h and compiled twice, by *_avx2.c and *_avx512.c (matrix products a
// third time by gemm_vnni.c), into functions with that suffix (TI_ISA); what needs
// no vectors is plain C in *.c and serves both. Ops run at once, on the team of their ti_dev; the caller is thread 0.
//
// A packed weight [n, k]: panels of NR = 2 * VL outputs (16 or 32), k-major, dtype kept, the last panel padded with zeros:
//
//   data   [ceil(n / NR)][k][NR]      BF16: NR numbers as VL 32-bit words, output j in the low half of word j, output j + VL in the high half, so
//   that
//                                     a shift and a mask make two vectors of floats
//   scale  [ceil(n / NR)][chunk][NR]  E4M3 only, fp32, 2^8 times the scale (vw_e4m3 gives 2^-8 times the value); chunk c holds the k with
//                                     (col0 + k) / block_k == c
#ifndef TI_CPU_PRIV_H
#define TI_CPU_PRIV_H
#include <assert.h>
#include <stdatomic.h>

#include "base/team.h"
#include "kernels/kernel.h"

#define TI_CPU_SPAN 64         // places of KV that attention treats as one block, whatever the page size
#define TI_CPU_FP8_BLOCK 128   // K numbers that share an activation scale, and the longest sum before promotion
#define TI_CPU_FORK_NS 6000.0  // work of one thread above which waking the team pays (a fork and join: 2 us when all spin, 40 when a CPU is taken)
#define TI_CPU_MAX_DIM 1024    // of a head or a latent

typedef struct ti_cpu_pace {  // of short runs, on the team [0] and on one thread [1] (dev.c)
  double want[2], took[2];    // ns guessed and taken in this window
  double rate[2];             // took / want; 0: not known
  bool alone;                 // the way in force
  bool dear;                  // a probe of this window cost too much
  int window;                 // runs of a window while alone
  int n;                      // runs of this window
} ti_cpu_pace;

struct ti_dev {
  ti_team *team;
  int threads;
  int nr;  // outputs a panel
  ti_act_quant act_quant;
  uint8_t *scratch;  // [threads][scratch_bytes]
  size_t scratch_bytes;
  float *sort;  // [threads][vocab] candidates of one row
  int vocab;
  struct ti_cpu_slab *slab;  // that middle-sized memory comes from (dev.c)
  ti_cpu_pace pace;
  _Atomic int next;  // the next work item, where items are handed out one by one
};

enum {               // ti_weight.layout
  TI_CPU_EXACT = 1,  // never meets quantised activations
  TI_CPU_NAN = 2,    // E4M3 with a NaN somewhere
};

// What scratch must hold: attention's block (attention_body.h) and the GEMM's (gemm_body.h).
#define TI_CPU_ATT_ROWS 32
size_t ti_cpu_scratch_need(void);

static inline int64_t ti_cpu_ld(int64_t ld, int64_t packed) { return ld ? ld : packed; }
static inline int ti_cpu_min(int a, int b) { return a < b ? a : b; }
static inline int ti_cpu_max(int a, int b) { return a > b ? a : b; }
static inline void *ti_cpu_scratch(ti_dev *d, int thread) { return d->scratch + (size_t)thread * d->scratch_bytes; }
// Rows (or items) [*lo, *hi) of n for this thread.
static inline void ti_cpu_share(int n, int thread, int n_threads, int *lo, int *hi) {
  *lo = (int)((int64_t)n * thread / n_threads);
  *hi = (int)((int64_t)n * (thread + 1) / n_threads);
}
// First byte of `layer` in the page that holds place p of sequence s; *slot: the token inside the page.
static inline uint8_t *ti_cpu_kv_page(const void *kv, const ti_kv_layout *l, int layer, const ti_batch *b, int s, int p, int *slot) {
  const int32_t page = b->block_table[(int64_t)s * b->table_stride + p / l->page_tokens];
  *slot = p & (l->page_tokens - 1);
  return (uint8_t *)(uintptr_t)kv + (size_t)page * l->page_bytes + (size_t)layer * l->layer_bytes;
}

// dev.c
// Runs fn on the team, or here alone when `ns`, a guess at the time that one thread needs, is too little for a fork, or when forks have not paid
// lately because the team's CPUs are taken by others. fn(arg, 0, 1) must do the whole, with the same bits.
void ti_cpu_run(ti_dev *d, double ns, ti_team_fn fn, void *arg);
ti_status ti_cpu_open(const ti_dev_options *o, int nr, ti_dev **out, ti_error *err);
void ti_cpu_close(ti_dev *d);
void *ti_cpu_alloc(ti_dev *d, size_t bytes);
void ti_cpu_free(ti_dev *d, void *p);
ti_status ti_cpu_copy(ti_dev *d, void *dst, const void *src, size_t n);
ti_status ti_cpu_zero(ti_dev *d, void *dst, size_t n);
ti_status ti_cpu_sync(ti_dev *d);
ti_status ti_cpu_mark(ti_dev *d, int i);  // done and wait too: ops are over when they return
ti_status ti_cpu_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab);
// weight.c
ti_status ti_cpu_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out);
ti_status ti_cpu_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out);
ti_status ti_cpu_embed(ti_dev *d, const ti_embed_args *a);
// moe.c
ti_status ti_cpu_router(ti_dev *d, const ti_router_args *a);
ti_status ti_cpu_moe_sort(ti_dev *d, const ti_moe_sort_args *a);
ti_status ti_cpu_permute(ti_dev *d, const ti_permute_args *a);
// plain.c
ti_status ti_cpu_copy_pages(ti_dev *d, const ti_copy_pages_args *a);
ti_status ti_cpu_penalties(ti_dev *d, const ti_penalty_args *a);
ti_status ti_cpu_tokens(ti_dev *d, const ti_token_args *a);
ti_status ti_cpu_feed(ti_dev *d, const ti_feed_args *a);

#define TI_CPU_DECLARE_MUL(isa)                                            \
  ti_status ti_cpu_gemm_##isa(ti_dev *, const ti_gemm_args *);             \
  ti_status ti_cpu_gemm_heads_##isa(ti_dev *, const ti_gemm_heads_args *); \
  ti_status ti_cpu_grouped_gemm_##isa(ti_dev *, const ti_grouped_gemm_args *);
#define TI_CPU_DECLARE(isa)                                                      \
  ti_status ti_cpu_rmsnorm_##isa(ti_dev *, const ti_rmsnorm_args *);             \
  ti_status ti_cpu_rope_##isa(ti_dev *, const ti_rope_args *);                   \
  ti_status ti_cpu_kv_append_##isa(ti_dev *, const ti_kv_append_args *);         \
  ti_status ti_cpu_rope_append_##isa(ti_dev *, const ti_rope_append_args *);     \
  ti_status ti_cpu_silu_mul_##isa(ti_dev *, const ti_silu_mul_args *);           \
  ti_status ti_cpu_attention_##isa(ti_dev *, const ti_attention_args *);         \
  ti_status ti_cpu_mla_attention_##isa(ti_dev *, const ti_mla_attention_args *); \
  ti_status ti_cpu_mla_gather_##isa(ti_dev *, const ti_mla_gather_args *);       \
  ti_status ti_cpu_mla_tile_##isa(ti_dev *, const ti_mla_tile_args *);           \
  ti_status ti_cpu_add_##isa(ti_dev *, const ti_add_args *);                     \
  ti_status ti_cpu_unpermute_##isa(ti_dev *, const ti_unpermute_args *);         \
  ti_status ti_cpu_quant_fp8_##isa(ti_dev *, const ti_quant_fp8_args *);         \
  ti_status ti_cpu_logprobs_##isa(ti_dev *, const ti_logprob_args *);            \
  ti_status ti_cpu_sample_##isa(ti_dev *, const ti_sample_args *);
TI_CPU_DECLARE(avx2)
TI_CPU_DECLARE(avx512)
TI_CPU_DECLARE_MUL(avx2)
TI_CPU_DECLARE_MUL(avx512)
TI_CPU_DECLARE_MUL(vnni)

const ti_kernels *ti_kernels_avx2(void);
const ti_kernels *ti_kernels_avx512(void);
const ti_kernels *ti_kernels_vnni(void);
// Quantises n <= 128 numbers by the rule of ti_quant_fp8_args.
void ti_cpu_quant_block_avx2(const float *x, int n, float *scale, uint8_t *q);
void ti_cpu_quant_block_avx512(const float *x, int n, float *scale, uint8_t *q);

#endif
