// Shards: the arithmetic, and the step from a named tensor to a ti_weight_src. Runs at set-up on the thread that loads a model.
#include "parallel/shard.h"

#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "base/mesh.h"
#include "base/size.h"

void ti_shard_span(int64_t n, int parts, int i, int64_t unit, int64_t *begin, int64_t *count) {
  long b, e;
  ti_split((long)((n + unit - 1) / unit), parts, i, &b, &e);
  const int64_t first = b * unit < n ? b * unit : n, last = e * unit < n ? e * unit : n;
  *begin = first;
  *count = last - first;
}

ti_status ti_shard_width(const char *what, int64_t n, int parts, int i, int64_t unit, int64_t *begin, int64_t *count, ti_error *err) {
  if (unit > 1 && (n + unit - 1) / unit >= parts) {
    ti_shard_span(n, parts, i, unit, begin, count);
    return TI_OK;
  }
  if (n % parts == 0) {
    ti_shard_span(n, parts, i, 1, begin, count);
    return TI_OK;
  }
  char fits[96] = "";
  for (int p = 1, at = 0; p <= 64 && at < (int)sizeof fits - 8; p++)
    if (n % p == 0) at += snprintf(fits + at, sizeof fits - (size_t)at, at ? ", %d" : "%d", p);
  return ti_error_set(err, TI_ERR_ARG, "%s %lld cannot be divided among %d ranks; these would do: %s", what, (long long)n, parts, fits);
}

ti_status ti_shard_heads_of(int n_head, int n_kv_head, int tp, int tp_i, ti_shard_heads *out, ti_error *err) {
  if (n_head < 1 || n_kv_head < 1 || n_head % n_kv_head != 0)
    return ti_error_set(err, TI_ERR_ARG, "num_attention_heads %d is not a multiple of num_key_value_heads %d", n_head, n_kv_head);
  if (tp < 1 || n_head % tp != 0 || (n_kv_head % tp != 0 && tp % n_kv_head != 0)) {
    char fits[96] = "";
    for (int p = 1, at = 0; p <= n_head && at < (int)sizeof fits - 8; p++)
      if (n_head % p == 0 && (n_kv_head % p == 0 || p % n_kv_head == 0)) at += snprintf(fits + at, sizeof fits - (size_t)at, at ? ", %d" : "%d", p);
    return ti_error_set(err, TI_ERR_ARG, "tensor-parallel-size %d does not divide %d attention heads with %d KV heads; these would do: %s", tp,
                        n_head, n_kv_head, fits);
  }
  const int heads = n_head / tp, shared = tp > n_kv_head;
  *out = (ti_shard_heads){
      .head0 = tp_i * heads,
      .n_head = heads,
      .kv0 = shared ? tp_i / (tp / n_kv_head) : tp_i * (n_kv_head / tp),
      .n_kv = shared ? 1 : n_kv_head / tp,
      .kv_copies = shared ? tp / n_kv_head : 1,
  };
  return TI_OK;
}

static size_t element_align(ti_dtype t) {
  switch (t) {
    case TI_F32:
    case TI_I32:
      return 4;
    case TI_I64:
      return 8;
    case TI_E4M3:
    case TI_I8:
    case TI_U8:
      return 1;
    default:
      return 2;  // 16-bit floats, and block types: their scales are 16-bit
  }
}

static ti_status check_slice(const char *name, const ti_slice *s, ti_dtype dtype, ti_error *err) {
  if (s->r0 < 0 || s->rn < 0 || s->r0 > s->rows - s->rn || s->c0 < 0 || s->cn < 0 || s->c0 > s->cols - s->cn)
    return ti_error_set(err, TI_ERR_ARG, "%s: rows %lld+%lld, columns %lld+%lld are outside [%lld, %lld]", name, (long long)s->r0, (long long)s->rn,
                        (long long)s->c0, (long long)s->cn, (long long)s->rows, (long long)s->cols);
  const int block = ti_dtype_block(dtype);
  if (s->cols % block != 0 || s->c0 % block != 0 || s->cn % block != 0)
    return ti_error_set(err, TI_ERR_ARG, "%s: columns %lld+%lld of %lld are not whole %s blocks of %d", name, (long long)s->c0, (long long)s->cn,
                        (long long)s->cols, ti_dtype_name(dtype), block);
  return TI_OK;
}

// Where the slice stands: in the file with the file's stride, or packed in mem.
static ti_status locate(const ti_checkpoint *ck, const ti_tensor *t, const ti_slice *s, ti_arena *mem, const void **data, int64_t *ld,
                        ti_error *err) {
  const int64_t block = ti_dtype_block(t->dtype), block_bytes = ti_dtype_block_bytes(t->dtype);
  if (t->data) {
    const char *at = (const char *)t->data + (s->r0 * s->cols + s->c0) / block * block_bytes;
    if ((uintptr_t)at % element_align(t->dtype) == 0) {
      *data = at;
      *ld = s->cols;
      return TI_OK;
    }
  }
  size_t n, bytes;
  ti_status st = TI_ERR_RANGE;
  if (ti_size_mul((size_t)s->rn, (size_t)s->cn, &n)) st = ti_dtype_size(t->dtype, n, &bytes);
  if (st) return ti_error_set(err, st, "%s: the size of a slice of %lld x %lld does not fit", t->name, (long long)s->rn, (long long)s->cn);
  void *dst = ti_arena_alloc_aligned(mem, bytes ? bytes : 1, 64);
  if (!dst) return ti_error_set(err, TI_ERR_NOMEM, "%s: no room for a slice of %zu bytes", t->name, bytes);
  ti_checkpoint_read(ck, t, s->r0, s->rn, s->c0, s->cn, dst);
  *data = dst;
  *ld = s->cn;
  return TI_OK;
}

static ti_status scales(const ti_checkpoint *ck, const ti_config *cfg, const char *name, const ti_slice *s, ti_arena *mem, ti_weight_src *src,
                        ti_error *err) {
  const int bn = cfg->fp8_block_n, bk = cfg->fp8_block_k;
  if (bn < 1 || bk < 1) return ti_error_set(err, TI_ERR_FORMAT, "%s: F8_E4M3 without block sizes (quantization_config.weight_block_size)", name);
  char scale_name[512];
  const int len = snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
  if (len < 0 || len >= (int)sizeof scale_name) return ti_error_set(err, TI_ERR_RANGE, "tensor name of %zu bytes: limit 500", strlen(name));
  ti_slice w = {.rows = (s->rows + bn - 1) / bn, .cols = (s->cols + bk - 1) / bk, .r0 = s->r0 / bn, .c0 = s->c0 / bk};
  w.rn = (s->r0 + s->rn + bn - 1) / bn - w.r0;
  w.cn = (s->c0 + s->cn + bk - 1) / bk - w.c0;
  ti_tensor t;
  ti_status st = ti_checkpoint_require(ck, scale_name, w.rows, w.cols, &t, err);
  if (st) return st;
  if (t.dtype != TI_F32) return ti_error_set(err, TI_ERR_FORMAT, "%s: expected F32, found %s", scale_name, ti_dtype_name(t.dtype));
  const void *data;
  st = locate(ck, &t, &w, mem, &data, &src->scale_ld, err);
  if (st) return st;
  src->scale = data;
  src->block_n = bn;
  src->block_k = bk;
  src->row0 = (int)(s->r0 % bn);
  src->col0 = (int)(s->c0 % bk);
  return TI_OK;
}

ti_status ti_shard_source(const ti_checkpoint *ck, const ti_config *cfg, const char *name, const ti_slice *s, ti_arena *mem, ti_weight_src *out,
                          ti_error *err) {
  ti_tensor t;
  ti_status st = ti_checkpoint_require(ck, name, s->rows, s->cols, &t, err);
  if (!st) st = check_slice(name, s, t.dtype, err);
  if (st) return st;
  ti_weight_src src = {.dtype = t.dtype, .n = s->rn, .k = s->cn};
  st = locate(ck, &t, s, mem, &src.data, &src.ld, err);
  if (!st && t.dtype == TI_E4M3) st = scales(ck, cfg, name, s, mem, &src, err);
  if (st) return st;
  *out = src;
  return TI_OK;
}

ti_status ti_shard_vector(const ti_checkpoint *ck, const char *name, int64_t n, int64_t i0, int64_t n_out, float *dst, ti_error *err) {
  ti_tensor t;
  ti_status st = ti_checkpoint_require(ck, name, 1, n, &t, err);
  const ti_slice s = {.rows = 1, .cols = n, .r0 = 0, .rn = 1, .c0 = i0, .cn = n_out};
  if (!st) st = check_slice(name, &s, t.dtype, err);
  if (st) return st;
  if (t.dtype != TI_F32 && t.dtype != TI_F16 && t.dtype != TI_BF16)
    return ti_error_set(err, TI_ERR_FORMAT, "%s: a vector of %s; F32, F16 and BF16 are known", name, ti_dtype_name(t.dtype));
  ti_checkpoint_read(ck, &t, 0, 1, i0, n_out, dst);
  if (t.dtype == TI_F32) return TI_OK;
  for (int64_t i = n_out; i-- > 0;) {  // widened in place from the end: the 16-bit numbers stand in the first half of dst
    uint16_t h;
    memcpy(&h, (const char *)dst + 2 * i, 2);
    dst[i] = t.dtype == TI_BF16 ? ti_bf16_to_f32(h) : ti_f16_to_f32(h);
  }
  return TI_OK;
}
