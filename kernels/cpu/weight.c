// Packing weights into panels (cpu_priv.h draws them), at load time; and reading single rows back for the embedding, so that a tied table is held
// once.
#include <string.h>

#include "base/half.h"
#include "base/size.h"
#include "kernels/cpu/cpu_priv.h"

static bool packable(ti_dtype t) { return t == TI_F32 || t == TI_F16 || t == TI_BF16 || t == TI_E4M3; }
static bool has_scale(const ti_weight_src *p) { return p->dtype == TI_E4M3 && p->scale != NULL; }
// Block sizes as used: 0 means one block over the whole.
static int64_t block_n(const ti_weight_src *p) { return p->block_n > 0 ? p->block_n : INT64_MAX / 2; }
static int64_t block_k(const ti_weight_src *p) { return p->block_k > 0 ? p->block_k : INT64_MAX / 2; }

static ti_status check_parts(const ti_weight_src *parts, int n_part, unsigned flags) {
  if (n_part < 1 || n_part > TI_WEIGHT_PARTS) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_TRANSPOSE) && n_part != 1) return TI_ERR_ARG;
  for (int i = 0; i < n_part; i++) {
    const ti_weight_src *p = &parts[i];
    if (!packable(p->dtype)) return TI_ERR_UNSUPPORTED;
    if (p->n < 1 || p->k < 1 || p->k != parts->k || (p->ld && p->ld < p->k)) return TI_ERR_ARG;
    if (p->dtype != parts->dtype || has_scale(p) != has_scale(parts)) return TI_ERR_UNSUPPORTED;
    if (!has_scale(p)) continue;
    if (p->block_n < 0 || p->block_k < 0 || p->row0 < 0 || p->row0 >= block_n(p) || p->col0 < 0 || p->col0 >= block_k(p)) return TI_ERR_ARG;
    if (p->col0 != parts->col0 || p->block_k != parts->block_k) return TI_ERR_UNSUPPORTED;
  }
  return TI_OK;
}

// Outputs, inputs and the scale chunks along K of the prepared matrix.
typedef struct shape {
  int64_t n, k, panels, chunks;
  int64_t bk;
  int col0;
} shape;

static shape shape_of(const ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags) {
  shape s = {.k = parts->k, .bk = INT64_MAX / 2};
  for (int i = 0; i < n_part; i++) s.n += parts[i].n;
  if (has_scale(parts)) {
    s.bk = block_k(parts);
    s.col0 = parts->col0;
  }
  if (flags & TI_WEIGHT_TRANSPOSE) {
    s.k = s.n;
    s.n = parts->k;
    if (has_scale(parts)) {
      s.bk = block_n(parts);
      s.col0 = parts->row0;
    }
  }
  s.panels = (s.n + d->nr - 1) / d->nr;
  s.chunks = parts->dtype == TI_E4M3 ? (s.col0 + s.k - 1) / s.bk + 1 : 0;
  return s;
}

static bool sizes(const ti_dev *d, const shape *s, ti_dtype t, size_t *data, size_t *scale) {
  const size_t width = (size_t)s->panels * (size_t)d->nr;
  size_t b, c;
  if (!ti_size_mul(width, (size_t)s->k, &b) || !ti_size_mul(b, (size_t)ti_dtype_block_bytes(t), &b)) return false;
  if (!ti_size_mul(width, (size_t)s->chunks, &c) || !ti_size_mul(c, sizeof(float), &c)) return false;
  *data = ti_size_align(b, 64);
  *scale = c;
  return true;
}

ti_status ti_cpu_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  const shape s = shape_of(d, parts, n_part, flags);
  size_t data, scale;
  if (!sizes(d, &s, parts->dtype, &data, &scale) || !ti_size_add(data, scale, &data)) return TI_ERR_RANGE;
  *out = data;
  return TI_OK;
}

// Where lane (output inside the panel) stands in one k of a panel.
static int lane_at(const ti_dev *d, ti_dtype t, int lane) {
  const int vl = d->nr / 2;
  return t == TI_BF16 ? 2 * (lane % vl) + lane / vl : lane;
}

// Puts element (row n, column k) of the prepared matrix from the source row at src with `step` elements between consecutive k.
static void pack_row(const ti_dev *d, const shape *s, ti_dtype t, int64_t n, const void *src, int64_t step, uint8_t *data) {
  const int64_t nr = d->nr, base = n / nr * s->k * nr + lane_at(d, t, (int)(n % nr));
  if (t == TI_F32) {
    float *dst = (float *)(void *)data + base;
    for (int64_t k = 0; k < s->k; k++) dst[k * nr] = ((const float *)src)[k * step];
  } else if (t == TI_E4M3) {
    for (int64_t k = 0; k < s->k; k++) data[base + k * nr] = ((const uint8_t *)src)[k * step];
  } else {
    uint16_t *dst = (uint16_t *)(void *)data + base;
    for (int64_t k = 0; k < s->k; k++) dst[k * nr] = ((const uint16_t *)src)[k * step];
  }
}

static void pack_scales(const ti_dev *d, const shape *s, const ti_weight_src *p, bool transpose, int64_t n, int64_t r, float *scale) {
  const int64_t nr = d->nr;
  float *dst = scale + n / nr * s->chunks * nr + n % nr;
  for (int64_t c = 0; c < s->chunks; c++) {
    float v = 1.0f;
    if (has_scale(p)) v = transpose ? p->scale[c * p->scale_ld + (p->col0 + r) / block_k(p)] : p->scale[(p->row0 + r) / block_n(p) * p->scale_ld + c];
    dst[c * nr] = v * 256.0f;
  }
}

static bool has_nan(const uint8_t *p, size_t n) {
  unsigned found = 0;
  for (size_t i = 0; i < n; i++) found |= (p[i] & 0x7f) == 0x7f;
  return found;
}

ti_status ti_cpu_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  const bool transpose = flags & TI_WEIGHT_TRANSPOSE;
  const ti_dtype t = parts->dtype;
  const shape s = shape_of(d, parts, n_part, flags);
  const int64_t es = ti_dtype_block_bytes(t);
  size_t data, scale_bytes;
  if (!sizes(d, &s, t, &data, &scale_bytes)) return TI_ERR_RANGE;
  memset(mem, 0, data + scale_bytes);
  float *scale = s.chunks ? (float *)(void *)((uint8_t *)mem + data) : NULL;
  int64_t n = 0;
  for (int i = 0; i < n_part; i++) {
    const ti_weight_src *p = &parts[i];
    const int64_t ld = ti_cpu_ld(p->ld, p->k), rows = transpose ? p->k : p->n;
    for (int64_t r = 0; r < rows; r++, n++) {
      const uint8_t *src = (const uint8_t *)p->data + (transpose ? r : r * ld) * es;
      pack_row(d, &s, t, n, src, transpose ? ld : 1, mem);
      if (scale) pack_scales(d, &s, p, transpose, n, r, scale);
    }
  }
  *out = (ti_weight){.n = s.n,
                     .k = s.k,
                     .dtype = t,
                     .data = mem,
                     .scale = scale,
                     .ld = s.k * d->nr,
                     .scale_ld = s.chunks,
                     .block_n = 1,
                     .block_k = s.bk > INT32_MAX ? INT32_MAX : (int)s.bk,
                     .col0 = s.col0};
  if (flags & (TI_WEIGHT_EXACT | TI_WEIGHT_TRANSPOSE)) out->layout |= TI_CPU_EXACT;
  if (t == TI_E4M3 && has_nan(mem, data)) out->layout |= TI_CPU_NAN;
  return TI_OK;
}

static void unpack_row(const ti_dev *d, const ti_weight *w, int64_t n, float *out) {
  const int64_t nr = d->nr, base = n / nr * w->ld + lane_at(d, w->dtype, (int)(n % nr));
  const float *scale = w->scale ? w->scale + n / nr * w->scale_ld * nr + n % nr : NULL;
  for (int64_t k = 0; k < w->k; k++) {
    const int64_t at = base + k * nr;
    switch (w->dtype) {
      case TI_F32:
        out[k] = ((const float *)w->data)[at];
        break;
      case TI_BF16:
        out[k] = ti_bf16_to_f32(((const uint16_t *)w->data)[at]);
        break;
      case TI_F16:
        out[k] = ti_f16_to_f32(((const uint16_t *)w->data)[at]);
        break;
      default:
        out[k] = ti_e4m3_to_f32(((const uint8_t *)w->data)[at]) * (scale[(w->col0 + k) / w->block_k * nr] * 0x1p-8f);
    }
  }
}

typedef struct embed_run {
  ti_dev *d;
  const ti_embed_args *a;
} embed_run;

static void embed_rows(void *arg, int thread, int n_threads) {
  const embed_run *run = arg;
  const ti_embed_args *a = run->a;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    float *out = (float *)a->out + (int64_t)r * a->hidden;
    const int64_t id = (int64_t)a->ids[r] - a->first_id;
    if (id < 0 || id >= a->n_id) {
      memset(out, 0, (size_t)a->hidden * sizeof *out);
    } else {
      unpack_row(run->d, a->table, id, out);
    }
  }
}

ti_status ti_cpu_embed(ti_dev *d, const ti_embed_args *a) {
  assert(a->table->n >= a->n_id && a->table->k == a->hidden);
  ti_cpu_run(d, 2.0 * a->n_row * a->hidden, embed_rows, &(embed_run){d, a});
  return TI_OK;
}
