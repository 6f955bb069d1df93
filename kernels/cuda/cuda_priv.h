// What the files of the CUDA backend share: the device and the list of ops (kernel.h holds their contracts). C and CUDA C++ both include it.
//
// Every op is one or a few launches on d->stream and returns the launch's error as TI_ERR_INTERNAL (d->last_error has CUDA's word for it and the op's
// name, for the step's error). No op allocates: scratch comes from d->scratch, which `reserve` sized; an op that needs more than its share asserts.
// Programmatic dependent launch: every kernel of the decode path calls ti_pdl_wait() (device.cuh) before it reads what an earlier op wrote, and may
// prefetch weights before.
#ifndef TI_KERNELS_CUDA_PRIV_H
#define TI_KERNELS_CUDA_PRIV_H
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/kernel.h"

struct ti_dev {
  cudaStream_t stream;
  int index, n_sm;
  int major, minor;  // compute capability
  size_t l2_bytes;
  ti_act_quant act_quant;
  bool deterministic;  // one kernel and one order of sums a weight shape, for every m
  bool pdl;            // programmatic dependent launch between ops
  void *scratch;       // [scratch_bytes] stream-ordered: an op may use all of it, nothing survives the op
  size_t scratch_bytes;
  unsigned long long *meet;     // gemv_chain.cu's counter, in device memory; NULL: none
  void *blas;                   // cuBLASLt's state (blas.cu), NULL where the library was not found
  struct ti_cuda_stage *stage;  // stage.c: the pinned ring, page-locked host memory, marks
  struct ti_cuda_spans *spans;  // spans.c: made by the first span
  const char *last_op;          // static text: what was launched last
  char last_error[160];
  const void *kv_writer;  // who wrote KV since attention ran last: NULL, the places of the one batch, or something else (ti_kv_writes)
};

// ti_weight of this backend: dtype says what data holds (BF16, F32, E4M3), rows packed (ld = k), 256-byte aligned. E4M3's scales are one of:
//   block_n 128, block_k 128   [ceil(n / 128), scale_ld] of whole blocks of the stacked matrix, scale_ld a multiple of 4: what the FP8 kernels take
//   block_n 1, block_k > 0     [n, scale_ld], element (r, c) has scale[r][(col0 + c) / block_k]: parts that start inside a block (gemm_tile.cu)
//   block_n 1, block_k 0       [n], one a row: per tensor, per channel
enum {
  TI_CUDA_ROWS = 0,      // as stored, row by row
  TI_CUDA_GATE_UP = 1,   // BF16: gate and up rows interleaved in runs of TI_CUDA_GATE_RUN: gate 0..63, up 0..63, gate 64 ..
  TI_CUDA_EXACT = 0x100  // or-ed in: never meets quantised activations
};
#define TI_CUDA_GATE_RUN 64

// What attention may read before its predecessor has ended (attention.cuh): every op that writes KV says so here, with its batch's places, or with d
// where it is no batch's; attention's launches settle it.
static inline void ti_kv_writes(ti_dev *d, const void *place) { d->kv_writer = d->kv_writer == NULL || d->kv_writer == place ? place : d; }

// table.c: what the ops' own files need of a device
void ti_cuda_ops_init(ti_dev *d);  // opens cuBLASLt; where there is none, d->blas stays NULL and a warning says so
void ti_cuda_ops_fini(ti_dev *d);
size_t ti_cuda_ops_scratch(const ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab);  // the most that any op needs

// dev.c
void ti_cuda_use(const ti_dev *d);  // makes the device current on this thread
const char *ti_cuda_last_error(const ti_dev *d);
ti_status ti_cuda_check(ti_dev *d, const char *op);  // the last launch's error, named
// The same of a call's result: TI_OK, TI_ERR_NOMEM, or TI_ERR_INTERNAL with d->last_error filled and logged.
ti_status ti_cuda_result(ti_dev *d, const char *op, cudaError_t e);
ti_status ti_cuda_open(const ti_dev_options *o, ti_dev **out, ti_error *err);
void ti_cuda_close(ti_dev *d);
void *ti_cuda_alloc(ti_dev *d, size_t bytes);
void ti_cuda_free(ti_dev *d, void *p);
ti_status ti_cuda_sync(ti_dev *d);
ti_status ti_cuda_need_scratch(ti_dev *d, size_t bytes);  // at set-up: grows d->scratch
ti_status ti_cuda_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab);
ti_status ti_cuda_copy(ti_dev *d, void *dst, const void *src, size_t n);
ti_status ti_cuda_zero(ti_dev *d, void *dst, size_t n);
ti_status ti_cuda_memory(ti_dev *d, size_t *free_bytes, size_t *total_bytes);
ti_status ti_cuda_graph_begin(ti_dev *d);
ti_status ti_cuda_graph_end(ti_dev *d, ti_dev_graph **out, ti_error *err);
ti_status ti_cuda_graph_launch(ti_dev *d, ti_dev_graph *g);
void ti_cuda_graph_free(ti_dev *d, ti_dev_graph *g);

// stage.c
ti_status ti_cuda_stage_init(ti_dev *d);
void ti_cuda_stage_fini(ti_dev *d);
ti_status ti_cuda_upload(ti_dev *d, void *dst, const void *host, size_t n);
// n_row runs of `bytes` each, packed or strided on either side: shards of a matrix.
ti_status ti_cuda_upload_rows(ti_dev *d, void *dst, size_t dst_pitch, const void *host, size_t host_pitch, size_t bytes, size_t n_row);
ti_status ti_cuda_download(ti_dev *d, void *host, const void *src, size_t n);
void *ti_cuda_alloc_host(ti_dev *d, size_t bytes);
void ti_cuda_free_host(ti_dev *d, void *p);
ti_status ti_cuda_mark(ti_dev *d, int i);
ti_status ti_cuda_done(ti_dev *d, int i);
ti_status ti_cuda_wait(ti_dev *d, int i);
ti_status ti_cuda_wait_event(ti_dev *d, cudaEvent_t e, const char *what);  // bounded: TI_ERR_TIMEOUT after TI_CUDA_WAIT_S
#define TI_CUDA_WAIT_S 120

// spans.c
struct ti_cuda_span_list;
void ti_cuda_spans_record(ti_dev *d);                         // spans from here on belong to the graph that is being recorded ..
struct ti_cuda_span_list *ti_cuda_spans_recorded(ti_dev *d);  // .. and are handed over here; NULL: none
ti_status ti_cuda_spans_launch(ti_dev *d, const struct ti_cuda_span_list *l);  // before each launch of the graph
void ti_cuda_spans_cut(ti_dev *d);  // something that is no op is queued: a span that begins behind it does not begin at the last one's end
void ti_cuda_spans_drop(ti_dev *d, struct ti_cuda_span_list *l);
void ti_cuda_spans_fini(ti_dev *d);
ti_status ti_cuda_span_begin(ti_dev *d, const char *name, int layer);
ti_status ti_cuda_span_end(ti_dev *d);
void ti_cuda_span_step(ti_dev *d, int64_t step);
int ti_cuda_spans(ti_dev *d, ti_dev_span *out, int cap);

// weight.c
ti_status ti_cuda_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out);
ti_status ti_cuda_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out);

// rows.cu
ti_status ti_cuda_embed(ti_dev *d, const ti_embed_args *a);
ti_status ti_cuda_rope(ti_dev *d, const ti_rope_args *a);
ti_status ti_cuda_silu_mul(ti_dev *d, const ti_silu_mul_args *a);
ti_status ti_cuda_silu_mul_runs(ti_dev *d, const ti_silu_mul_args *a);  // gate_up's columns interleaved as a TI_CUDA_GATE_UP matrix's rows
ti_status ti_cuda_add(ti_dev *d, const ti_add_args *a);
ti_status ti_cuda_permute(ti_dev *d, const ti_permute_args *a);

// quant_fp8.cu
ti_status ti_cuda_rmsnorm(ti_dev *d, const ti_rmsnorm_args *a);

// kv.cu
ti_status ti_cuda_kv_append(ti_dev *d, const ti_kv_append_args *a);
ti_status ti_cuda_rope_append(ti_dev *d, const ti_rope_append_args *a);
ti_status ti_cuda_copy_pages(ti_dev *d, const ti_copy_pages_args *a);

// gemm.c: which kernel takes a product
size_t ti_cuda_gemm_scratch(int max_row, int64_t max_k);
ti_status ti_cuda_gemm(ti_dev *d, const ti_gemm_args *a);
ti_status ti_cuda_gemm_heads(ti_dev *d, const ti_gemm_heads_args *a);
ti_status ti_cuda_gemm_silu_mul(ti_dev *d, const ti_gemm_silu_mul_args *a);

// gemv_chain.cu
ti_status ti_cuda_chain(ti_dev *d, const ti_link *links, int n);
#ifdef __cplusplus
}
#endif
#endif
