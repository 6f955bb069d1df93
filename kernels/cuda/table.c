// The CUDA backend's ops table, and what its ops' files need of a device beyond the stream.
#include "base/log.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/quant_fp8.h"
#include "kernels/cuda/sample.h"

void ti_cuda_ops_init(ti_dev *d) {
  ti_error err = {0};
  ti_blas *blas = NULL;
  if (ti_blas_open(NULL, d->deterministic, &blas, &err) == TI_OK) {
    d->blas = blas;
  } else {
    ti_log_warn("cuda: device %d goes without cuBLASLt, products of many rows will be slower: %s", d->index, err.text);
  }
  d->meet = ti_cuda_alloc(d, sizeof *d->meet);  // zeroed
}

void ti_cuda_ops_fini(ti_dev *d) {
  ti_blas_close(d->blas);
  (void)cudaFree(d->meet);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

size_t ti_cuda_ops_scratch(const ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab) {
  // Attention's partial results of sequences that are split over the device: 256 heads (8 sequences of 32) over 128K places, a chunk of 512 each. A batch
  // that would need more is not split.
  size_t need = (size_t)256 * ((1 << 17) / 512) * (size_t)(max_head + 2) * sizeof(float);
  need = larger(need, ti_cuda_gemm_scratch(max_row, max_k));
  need = larger(need, ti_cuda_sample_scratch(max_row, vocab));
  return need;
}

static const ti_kernels cuda_kernels = {
    .name = "cuda",
    .act = TI_BF16,
    .async = true,
    .fp8_out = true,
    .scale_by_k = true,
    .open = ti_cuda_open,
    .close = ti_cuda_close,
    .alloc = ti_cuda_alloc,
    .free = ti_cuda_free,
    .upload = ti_cuda_upload,
    .download = ti_cuda_download,
    .sync = ti_cuda_sync,
    .reserve = ti_cuda_reserve,
    .weight_size = ti_cuda_weight_size,
    .weight_prepare = ti_cuda_weight_prepare,
    .embed = ti_cuda_embed,
    .rmsnorm = ti_cuda_rmsnorm,
    .rope = ti_cuda_rope,
    .kv_append = ti_cuda_kv_append,
    .gemm = ti_cuda_gemm,
    .gemm_heads = ti_cuda_gemm_heads,
    .silu_mul = ti_cuda_silu_mul,
    .attention = ti_cuda_attention,
    .copy_pages = ti_cuda_copy_pages,
    .add = ti_cuda_add,
    .permute = ti_cuda_permute,
    .penalties = ti_cuda_penalties,
    .logprobs = ti_cuda_logprobs,
    .sample = ti_cuda_sample,
    .tokens = ti_cuda_tokens,
    .feed = ti_cuda_feed,
    .quant_fp8 = ti_cuda_quant_fp8,
    .copy = ti_cuda_copy,
    .zero = ti_cuda_zero,
    .alloc_host = ti_cuda_alloc_host,
    .free_host = ti_cuda_free_host,
    .mark = ti_cuda_mark,
    .done = ti_cuda_done,
    .wait = ti_cuda_wait,
    .rope_append = ti_cuda_rope_append,
    .gemm_silu_mul = ti_cuda_gemm_silu_mul,
    .graph_begin = ti_cuda_graph_begin,
    .graph_end = ti_cuda_graph_end,
    .graph_launch = ti_cuda_graph_launch,
    .graph_free = ti_cuda_graph_free,
    .memory = ti_cuda_memory,
    .span_begin = ti_cuda_span_begin,
    .span_end = ti_cuda_span_end,
    .spans = ti_cuda_spans,
    .last_error = ti_cuda_last_error,
    .span_step = ti_cuda_span_step,
    .chain = ti_cuda_chain,
};

const ti_kernels *ti_kernels_cuda(void) { return &cuda_kernels; }
