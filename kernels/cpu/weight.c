// Packing weights into panels (cpu_priv.h draws them), at load time; and reading single rows back for the embedding, so that a tied table is held
// once.
#include <string.h>

#include "base/half.h"
#include "base/size.h"
#include "kernels/cpu/block.h"
#include "kernels/to_fp8.h"

static bool is_block(ti_dtype t) { return ti_dtype_block(t) > 1; }
static bool packable(ti_dtype t) { return t == TI_F32 || t == TI_F16 || t == TI_BF16 || t == TI_E4M3 || is_block(t); }
static bool has_scale(const ti_weight_src *p) { return p->dtype == TI_E4M3 && p->scale != NULL; }
// Block sizes as used: 0 means one block over the whole.
static int64_t block_n(const ti_weight_src *p) { return p->block_n > 0 ? p->block_n : INT64_MAX / 2; }
static int64_t block_k(const ti_weight_src *p) { return p->block_k > 0 ? p->block_k : INT64_MAX / 2; }

static ti_status check_parts(const ti_weight_src *parts, int n_part, unsigned flags) {
  if (n_part < 1 || n_part > TI_WEIGHT_PARTS) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_TRANSPOSE) && n_part != 1) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_GATE_UP) && (n_part != 2 || parts[0].n != parts[1].n)) return TI_ERR_ARG;
  for (int i = 0; i < n_part; i++) {
    const ti_weight_src *p = &parts[i];
    if (!packable(p->dtype)) return TI_ERR_UNSUPPORTED;
    if (p->n < 1 || p->k < 1 || p->k != parts->k || (p->ld && p->ld < p->k)) return TI_ERR_ARG;
    if (p->k % ti_dtype_block(p->dtype) || p->ld % ti_dtype_block(p->dtype)) return TI_ERR_ARG;
    if (is_block(p->dtype) && (flags & TI_WEIGHT_TRANSPOSE)) return TI_ERR_UNSUPPORTED;
    if (is_block(p->dtype) && is_block(parts->dtype)) continue;
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
  int form;  // of block weights (block.h)
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
  if (is_block(parts->dtype)) s.form = ti_cpu_block_form(parts, n_part);
  s.chunks = parts->dtype == TI_E4M3 ? (s.col0 + s.k - 1) / s.bk + 1 : 0;
  return s;
}

// Bytes of one panel, of all panels and of the scales beside them; false: too many to count.
static bool sizes(const ti_dev *d, const shape *s, ti_dtype t, size_t *panel, size_t *data, size_t *scale) {
  const size_t nr = (size_t)d->nr, block = (size_t)ti_dtype_block(t) > 1 ? TI_CPU_BLOCK : 1;
  const size_t bytes = block > 1 ? ti_cpu_block_bytes(ti_cpu_forms[s->form], nr) : nr * (size_t)ti_dtype_block_bytes(t);
  size_t b, c;
  if (!ti_size_mul((size_t)s->k / block, bytes, panel) || !ti_size_mul(*panel, (size_t)s->panels, &b)) return false;
  if (!ti_size_mul((size_t)s->panels * nr, (size_t)s->chunks, &c) || !ti_size_mul(c, sizeof(float), &c)) return false;
  *data = ti_size_align(b, 64);
  *scale = c;
  return true;
}

static ti_status size_of(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  const shape s = shape_of(d, parts, n_part, flags);
  size_t panel, data, scale;
  if (!sizes(d, &s, parts->dtype, &panel, &data, &scale) || !ti_size_add(data, scale, &data)) return TI_ERR_RANGE;
  *out = data;
  return TI_OK;
}

ti_status ti_cpu_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  ti_fp8_parts f;
  const ti_status st = ti_fp8_parts_init(&f, parts, n_part, flags, false);
  return st != TI_OK ? st : size_of(d, f.part, n_part, flags, out);
}

// Where lane (output inside the panel) stands in one k of a panel.
static int lane_at(const ti_dev *d, ti_dtype t, int lane) {
  const int vl = d->nr / 2;
  return t == TI_BF16 ? 2 * (lane % vl) + lane / vl : lane;
}

typedef struct pack_run {
  const ti_dev *d;
  const ti_weight_src *parts;
  shape s;
  bool transpose;
  size_t panel;  // bytes
  uint8_t *data;
  float *scale;
} pack_run;

#define PACK_K 256  // k that are packed at a time: their piece of a panel stays in L1 while its lanes come in one by one

// Which part output n of the prepared matrix is from; *r: its row there (transposed: its column).
static const ti_weight_src *part_of(const pack_run *p, int64_t n, int64_t *r) {
  const ti_weight_src *part = p->parts;
  while (!p->transpose && n >= part->n) n -= part++->n;
  *r = n;
  return part;
}

// Copies n elements of `bytes` each, `from` elements apart, to places `to` elements apart.
static void pack_lane(uint8_t *dst, int64_t to, const uint8_t *src, int64_t from, int64_t n, int bytes) {
  if (bytes == 1) {
    for (int64_t i = 0; i < n; i++) dst[i * to] = src[i * from];
  } else if (bytes == 2) {
    for (int64_t i = 0; i < n; i++) memcpy(dst + 2 * i * to, src + 2 * i * from, 2);
  } else {
    for (int64_t i = 0; i < n; i++) memcpy(dst + 4 * i * to, src + 4 * i * from, 4);
  }
}

static float scale_of(const ti_weight_src *part, bool transpose, int64_t r, int64_t chunk) {
  if (!has_scale(part)) return 1.0f;
  return transpose ? part->scale[chunk * part->scale_ld + (part->col0 + r) / block_k(part)]
                   : part->scale[(part->row0 + r) / block_n(part) * part->scale_ld + chunk];
}

static void pack_panel(const pack_run *p, int64_t panel) {
  const ti_dtype t = p->parts->dtype;
  const int64_t nr = p->d->nr, lanes = p->s.n - panel * nr < nr ? p->s.n - panel * nr : nr;
  const int bytes = ti_dtype_block_bytes(t);
  uint8_t *dst = p->data + panel * p->s.k * nr * bytes;
  if (lanes < nr) memset(dst, 0, (size_t)(p->s.k * nr * bytes));
  for (int64_t k = 0; k < p->s.k; k += PACK_K) {
    const int64_t n = p->s.k - k < PACK_K ? p->s.k - k : PACK_K;
    for (int lane = 0; lane < lanes; lane++) {
      int64_t r;
      const ti_weight_src *part = part_of(p, panel * nr + lane, &r);
      const int64_t ld = ti_cpu_ld(part->ld, part->k), at = p->transpose ? k * ld + r : r * ld + k;
      pack_lane(dst + (k * nr + lane_at(p->d, t, lane)) * bytes, nr, (const uint8_t *)part->data + at * bytes, p->transpose ? ld : 1, n, bytes);
    }
  }
  for (int lane = 0; lane < nr && p->scale; lane++) {
    int64_t r = 0;
    const ti_weight_src *part = lane < lanes ? part_of(p, panel * nr + lane, &r) : NULL;
    for (int64_t c = 0; c < p->s.chunks; c++)
      p->scale[(panel * p->s.chunks + c) * nr + lane] = part ? 256.0f * scale_of(part, p->transpose, r, c) : 0.0f;
  }
}

static void pack_panels(void *arg, int thread, int n_threads) {
  const pack_run *p = arg;
  int lo, hi;
  ti_cpu_share((int)p->s.panels, thread, n_threads, &lo, &hi);
  for (int i = lo; i < hi; i++) pack_panel(p, i);
}

#define MAX_NR 32

static void pack_block_panels(void *arg, int thread, int n_threads) {
  const pack_run *p = arg;
  const int nr = p->d->nr;
  int lo, hi;
  ti_cpu_share((int)p->s.panels, thread, n_threads, &lo, &hi);
  for (int i = lo; i < hi; i++) {
    const uint8_t *row[MAX_NR];
    ti_dtype dtype[MAX_NR];
    const int lanes = (int)(p->s.n - (int64_t)i * nr < nr ? p->s.n - (int64_t)i * nr : nr);
    assert(nr <= MAX_NR);
    for (int lane = 0; lane < lanes; lane++) {
      int64_t r;
      const ti_weight_src *part = part_of(p, (int64_t)i * nr + lane, &r);
      dtype[lane] = part->dtype;
      row[lane] = (const uint8_t *)part->data + r * (ti_cpu_ld(part->ld, part->k) / ti_dtype_block(part->dtype)) * ti_dtype_block_bytes(part->dtype);
    }
    uint8_t *dst = p->data + (size_t)i * p->panel;
    memset(dst, 0, p->panel);
    ti_cpu_block_pack(p->s.form, nr, row, dtype, lanes, p->s.k / TI_CPU_BLOCK, dst);
  }
}

static bool has_nan(const uint8_t *p, size_t n) {
  unsigned found = 0;
  for (size_t i = 0; i < n; i++) found |= (p[i] & 0x7f) == 0x7f;
  return found;
}

static ti_status prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  const ti_dtype t = parts->dtype;
  const shape s = shape_of(d, parts, n_part, flags);
  size_t panel, data, scale_bytes;
  if (s.panels > INT32_MAX || !sizes(d, &s, t, &panel, &data, &scale_bytes)) return TI_ERR_RANGE;
  float *scale = s.chunks ? (float *)(void *)((uint8_t *)mem + data) : NULL;
  pack_run run = {.d = d, .parts = parts, .s = s, .transpose = flags & TI_WEIGHT_TRANSPOSE, .panel = panel, .data = mem, .scale = scale};
  ti_cpu_run(d, (double)s.n * (double)s.k, is_block(t) ? pack_block_panels : pack_panels, &run);
  *out = (ti_weight){.n = s.n,
                     .k = s.k,
                     .dtype = t,
                     .data = mem,
                     .scale = scale,
                     .layout = is_block(t) ? s.form << TI_CPU_FORM_SHIFT : 0,
                     .ld = is_block(t) ? (int64_t)panel : s.k * d->nr,  // of a panel: elements, of block weights bytes
                     .scale_ld = s.chunks,
                     .block_n = 1,
                     .block_k = s.bk > INT32_MAX ? INT32_MAX : (int)s.bk,
                     .col0 = s.col0};
  if (flags & (TI_WEIGHT_EXACT | TI_WEIGHT_TRANSPOSE)) out->layout |= TI_CPU_EXACT;
  if (t == TI_E4M3 && has_nan(mem, (size_t)(s.panels * d->nr * s.k))) out->layout |= TI_CPU_NAN;
  return TI_OK;
}

ti_status ti_cpu_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  ti_fp8_parts f;
  ti_status st = ti_fp8_parts_init(&f, parts, n_part, flags, true);
  if (st != TI_OK) return st;
  st = prepare(d, f.part, n_part, flags, mem, out);
  ti_fp8_parts_fini(&f);
  return st;
}

static void unpack_row(const ti_dev *d, const ti_weight *w, int64_t n, float *out) {
  if (is_block(w->dtype)) {
    ti_cpu_block_row(w, d->nr, n, out);
    return;
  }
  const int64_t nr = d->nr, base = n / nr * w->ld + lane_at(d, w->dtype, (int)(n % nr));
  if (w->dtype == TI_F32) {
    for (int64_t k = 0; k < w->k; k++) out[k] = ((const float *)w->data)[base + k * nr];
  } else if (w->dtype == TI_BF16) {
    for (int64_t k = 0; k < w->k; k++) out[k] = ti_bf16_to_f32(((const uint16_t *)w->data)[base + k * nr]);
  } else if (w->dtype == TI_F16) {
    for (int64_t k = 0; k < w->k; k++) out[k] = ti_f16_to_f32(((const uint16_t *)w->data)[base + k * nr]);
  } else {
    const float *scale = w->scale + n / nr * w->scale_ld * nr + n % nr;
    for (int64_t k = 0; k < w->k; k++)
      out[k] = ti_e4m3_table[((const uint8_t *)w->data)[base + k * nr]] * (scale[(w->col0 + k) / w->block_k * nr] * 0x1p-8f);
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
