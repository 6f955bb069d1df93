// The CUDA device: one stream, the scratch that ops share, and what runs of ops are recorded into (graphs).
//
// A ti_dev is owned by one thread at a time but may change hands, and CUDA's current device belongs to a thread: the entries that a new owner calls
// first (alloc, upload, mark, graph_launch ..) make the device current. Errors of launches and of the device itself (ECC, an illegal address) are
// kept in d->last_error with the op that was launched last, and logged once.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/sample.h"

ti_status ti_cuda_result(ti_dev *d, const char *op, cudaError_t e) {
  if (e == cudaSuccess) return TI_OK;
  (void)cudaGetLastError();  // an error that is not sticky shows once
  if (e == cudaErrorMemoryAllocation) return TI_ERR_NOMEM;
  if (!d->last_error[0]) {
    snprintf(d->last_error, sizeof d->last_error, "%s: %s (last op launched: %s)", op, cudaGetErrorString(e), d->last_op ? d->last_op : "none");
    ti_log_error("cuda: device %d failed: %s", d->index, d->last_error);
  }
  return TI_ERR_INTERNAL;
}

ti_status ti_cuda_check(ti_dev *d, const char *op) {
  d->last_op = op;
  return ti_cuda_result(d, op, cudaGetLastError());
}

const char *ti_cuda_last_error(const ti_dev *d) { return d->last_error; }

void ti_cuda_use(const ti_dev *d) {
  static _Thread_local int current = -1;
  if (current == d->index) return;
  if (cudaSetDevice(d->index) == cudaSuccess) current = d->index;
}

// ---- open and close ----

static ti_status check_device(int index, ti_error *err) {
  char why[160];
  const int n = ti_cuda_count(why, sizeof why);
  if (n == 0) return ti_error_set(err, TI_ERR_NOTFOUND, "cuda device: %s; --device cpu runs without one", why);
  if (index < 0 || index >= n) return ti_error_set(err, TI_ERR_ARG, "cuda device: index is %d; this host has %d, numbered from 0", index, n);
  ti_cuda_device p;
  if (ti_cuda_describe(index, &p) != 0)
    return ti_error_set(err, TI_ERR_INTERNAL, "cuda device %d: %s", index, cudaGetErrorString(cudaGetLastError()));
  return TI_OK;
}

ti_status ti_cuda_open(const ti_dev_options *o, ti_dev **out, ti_error *err) {
  ti_status st = check_device(o->index, err);
  if (st != TI_OK) return st;
  ti_dev *d = calloc(1, sizeof *d);
  if (!d) return ti_error_set(err, TI_ERR_NOMEM, "cuda device: no memory for %zu bytes", sizeof *d);
  d->index = o->index;
  d->act_quant = o->act_quant;
  d->deterministic = o->deterministic;
  int l2 = 0;
  cudaError_t e = cudaSetDevice(d->index);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&d->n_sm, cudaDevAttrMultiProcessorCount, d->index);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&d->major, cudaDevAttrComputeCapabilityMajor, d->index);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&d->minor, cudaDevAttrComputeCapabilityMinor, d->index);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, d->index);
  if (e != cudaSuccess) {
    st = ti_error_set(err, e == cudaErrorMemoryAllocation ? TI_ERR_NOMEM : TI_ERR_INTERNAL, "cuda device %d: cannot be used: %s", d->index,
                      cudaGetErrorString(e));
    (void)cudaGetLastError();
    goto err_close;
  }
  d->l2_bytes = (size_t)l2;
  d->pdl = d->major >= 9;
  if (d->major < 9)
    ti_log_warn("cuda: device %d is of compute capability %d.%d: plain kernels and cuBLASLt, which its authors have not run on one", d->index,
                d->major, d->minor);
  st = ti_cuda_stage_init(d);
  if (st != TI_OK) {
    st = ti_error_set(err, st, "cuda device %d: no page-locked host memory for transfers", d->index);
    goto err_close;
  }
  ti_cuda_ops_init(d);
  *out = d;
  return TI_OK;
err_close:
  ti_cuda_close(d);
  return st;
}

void ti_cuda_close(ti_dev *d) {
  if (!d) return;
  ti_cuda_use(d);
  if (d->stream) (void)ti_cuda_sync(d);
  ti_cuda_ops_fini(d);
  ti_cuda_spans_fini(d);
  ti_cuda_stage_fini(d);
  (void)cudaFree(d->scratch);
  if (d->stream) (void)cudaStreamDestroy(d->stream);
  free(d);
}

// ---- memory ----

void *ti_cuda_alloc(ti_dev *d, size_t bytes) {
  void *p = NULL;
  ti_cuda_use(d);
  cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
  if (e == cudaSuccess) e = cudaMemsetAsync(p, 0, bytes ? bytes : 1, d->stream);
  if (e == cudaSuccess) return p;
  (void)ti_cuda_result(d, "alloc", e);
  (void)cudaFree(p);
  return NULL;
}

void ti_cuda_free(ti_dev *d, void *p) {
  if (!p) return;
  ti_cuda_use(d);
  (void)ti_cuda_sync(d);  // an op may still use it
  (void)cudaFree(p);
}

ti_status ti_cuda_copy(ti_dev *d, void *dst, const void *src, size_t n) {
  if (n == 0) return TI_OK;
  d->last_op = "copy";
  return ti_cuda_result(d, "copy", cudaMemcpyAsync(dst, src, n, cudaMemcpyDeviceToDevice, d->stream));
}

ti_status ti_cuda_zero(ti_dev *d, void *dst, size_t n) {
  if (n == 0) return TI_OK;
  d->last_op = "zero";
  return ti_cuda_result(d, "zero", cudaMemsetAsync(dst, 0, n, d->stream));
}

ti_status ti_cuda_memory(ti_dev *d, size_t *free_bytes, size_t *total_bytes) {
  ti_cuda_use(d);
  return ti_cuda_result(d, "memory", cudaMemGetInfo(free_bytes, total_bytes));
}

ti_status ti_cuda_need_scratch(ti_dev *d, size_t bytes) {
  if (bytes <= d->scratch_bytes) return TI_OK;
  ti_cuda_use(d);
  void *p = NULL;
  const ti_status st = ti_cuda_result(d, "reserve", cudaMalloc(&p, bytes));
  if (st != TI_OK) return st;
  ti_cuda_free(d, d->scratch);
  d->scratch = p;
  d->scratch_bytes = bytes;
  return TI_OK;
}

ti_status ti_cuda_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab) {
  const int most = d->major < 9 ? TI_CUDA_MAX_BLOCK_VOCAB : TI_CUDA_MAX_VOCAB;
  if (vocab > most) {
    snprintf(d->last_error, sizeof d->last_error, "a vocabulary of %d ids: sampling takes at most %d", vocab, most);
    return TI_ERR_UNSUPPORTED;
  }
  return ti_cuda_need_scratch(d, ti_cuda_ops_scratch(d, max_row, max_k, max_head, vocab));
}

// ---- graphs ----

struct ti_dev_graph {
  cudaGraphExec_t exec;
  struct ti_cuda_span_list *spans;  // those recorded in it, NULL: none
};

ti_status ti_cuda_graph_begin(ti_dev *d) {
  ti_cuda_use(d);
  const ti_status st = ti_cuda_result(d, "graph_begin", cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
  if (st == TI_OK) ti_cuda_spans_record(d);
  return st;
}

ti_status ti_cuda_graph_end(ti_dev *d, ti_dev_graph **out, ti_error *err) {
  cudaGraph_t graph = NULL;
  const char *what = "recording ended with an error";
  ti_dev_graph *g = calloc(1, sizeof *g);
  cudaError_t e = cudaStreamEndCapture(d->stream, &graph);
  if (!g) {
    if (graph) (void)cudaGraphDestroy(graph);
    return ti_error_set(err, TI_ERR_NOMEM, "cuda graph: no memory for %zu bytes", sizeof *g);
  }
  g->spans = ti_cuda_spans_recorded(d);
  if (e == cudaSuccess) {
    what = "cannot be made ready";
    e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (e == cudaSuccess) e = cudaGraphUpload(g->exec, d->stream);
    (void)cudaGraphDestroy(graph);
  }
  if (e == cudaSuccess) {
    *out = g;
    return TI_OK;
  }
  (void)cudaGetLastError();
  ti_cuda_graph_free(d, g);
  return ti_error_set(err, e == cudaErrorMemoryAllocation ? TI_ERR_NOMEM : TI_ERR_INTERNAL, "cuda graph: %s: %s (last op: %s)", what,
                      cudaGetErrorString(e), d->last_op ? d->last_op : "none");
}

ti_status ti_cuda_graph_launch(ti_dev *d, ti_dev_graph *g) {
  ti_cuda_use(d);
  d->last_op = "graph";
  const ti_status st = g->spans ? ti_cuda_spans_launch(d, g->spans) : TI_OK;
  return st ? st : ti_cuda_result(d, "graph", cudaGraphLaunch(g->exec, d->stream));
}

void ti_cuda_graph_free(ti_dev *d, ti_dev_graph *g) {
  if (!g) return;
  ti_cuda_use(d);
  (void)ti_cuda_sync(d);
  if (g->exec) (void)cudaGraphExecDestroy(g->exec);
  ti_cuda_spans_drop(d, g->spans);
  free(g);
}
