// The reference device: host memory, the scratch of one row, and the ops table. Owned by one thread at a time, as every ti_dev.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "kernels/ref/ref_priv.h"

static ti_status ref_open(const ti_dev_options *o, ti_dev **out, ti_error *err) {
  if (o->threads < 1) return ti_error_set(err, TI_ERR_ARG, "ref device: threads is %d; it must be at least 1", o->threads);
  ti_dev *d = calloc(1, sizeof *d);
  if (!d) return ti_error_set(err, TI_ERR_NOMEM, "ref device: no memory for %zu bytes", sizeof *d);
  d->act_quant = o->act_quant;
  *out = d;
  return TI_OK;
}

static void ref_close(ti_dev *d) {
  if (!d) return;
  free(d->xq);
  free(d->xs);
  free(d->sorted);
  free(d);
}

static void *ref_alloc(ti_dev *d, size_t bytes) {
  const size_t size = ti_size_align(bytes ? bytes : 1, 64);
  void *p = aligned_alloc(64, size);
  if (p) memset(p, 0, size);
  return p;
}

static void ref_free(ti_dev *d, void *p) { free(p); }

static ti_status ref_copy(ti_dev *d, void *dst, const void *src, size_t n) {
  if (n) memcpy(dst, src, n);
  return TI_OK;
}

static ti_status ref_zero(ti_dev *d, void *dst, size_t n) {
  if (n) memset(dst, 0, n);
  return TI_OK;
}

static ti_status ref_sync(ti_dev *d) { return TI_OK; }

static ti_status ref_mark(ti_dev *d, int i) {  // done and wait too: ops are over when they return
  assert(i >= 0 && i < TI_DEV_MARKS);
  return TI_OK;
}

static bool grow(float **p, size_t n) {
  float *q = realloc(*p, n * sizeof *q);
  if (q) *p = q;
  return q != NULL;
}

static ti_status ref_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab) {
  if (max_k > d->max_k) {
    if (!grow(&d->xq, (size_t)max_k) || !grow(&d->xs, (size_t)max_k / REF_INT8_BLOCK + 1)) return TI_ERR_NOMEM;
    d->max_k = max_k;
  }
  if (vocab > d->vocab) {
    if (!grow(&d->sorted, (size_t)vocab)) return TI_ERR_NOMEM;
    d->vocab = vocab;
  }
  return TI_OK;
}

static const ti_kernels ref_kernels = {
    .name = "ref",
    .act = TI_F32,
    .open = ref_open,
    .close = ref_close,
    .alloc = ref_alloc,
    .free = ref_free,
    .upload = ref_copy,
    .download = ref_copy,
    .sync = ref_sync,
    .reserve = ref_reserve,
    .weight_size = ref_weight_size,
    .weight_prepare = ref_weight_prepare,
    .embed = ref_embed,
    .rmsnorm = ref_rmsnorm,
    .rope = ref_rope,
    .kv_append = ref_kv_append,
    .gemm = ref_gemm,
    .gemm_heads = ref_gemm_heads,
    .silu_mul = ref_silu_mul,
    .attention = ref_attention,
    .mla_attention = ref_mla_attention,
    .copy_pages = ref_copy_pages,
    .add = ref_add,
    .router = ref_router,
    .moe_sort = ref_moe_sort,
    .permute = ref_permute,
    .grouped_gemm = ref_grouped_gemm,
    .unpermute = ref_unpermute,
    .quant_fp8 = ref_quant_fp8,
    .penalties = ref_penalties,
    .logprobs = ref_logprobs,
    .sample = ref_sample,
    .tokens = ref_tokens,
    .feed = ref_feed,
    .copy = ref_copy,
    .zero = ref_zero,
    .alloc_host = ref_alloc,
    .free_host = ref_free,
    .mark = ref_mark,
    .done = ref_mark,
    .wait = ref_mark,
    .mla_gather = ref_mla_gather,
    .mla_tile = ref_mla_tile,
    .rope_append = ref_rope_append,
};

const ti_kernels *ti_kernels_ref(void) { return &ref_kernels; }
