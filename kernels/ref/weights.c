// Prepared weights of the reference: fp32 [n, k], 4 bytes an element whatever the checkpoint stores, because an oracle should have one way to read
// them.
//
//   one fp32 part, not transposed     used as stored (weight_size 0)
//   E4M3 with scales                  codes as fp32 [n, k], then one scale a row and block of K [n, ceil((col0 + k) / block_k)]: the product with
//                                     quantised activations needs codes and scales apart
//   everything else, and transposed   the values as fp32
#include <assert.h>

#include "base/size.h"
#include "kernels/ref/dequant.h"
#include "kernels/ref/ref_priv.h"
#include "kernels/to_fp8.h"

static bool as_stored(const ti_weight_src *parts, int n_part, unsigned flags) {
  return n_part == 1 && parts[0].dtype == TI_F32 && !(flags & TI_WEIGHT_TRANSPOSE);
}
static bool has_scale(const ti_weight_src *p) { return p->dtype == TI_E4M3 && p->scale != NULL; }
static bool as_codes(const ti_weight_src *parts, unsigned flags) { return has_scale(parts) && !(flags & TI_WEIGHT_TRANSPOSE); }
static int64_t scale_cols(const ti_weight_src *p) { return (p->col0 + p->k + p->block_k - 1) / p->block_k; }

static ti_status check_parts(const ti_weight_src *parts, int n_part, unsigned flags) {
  if (n_part < 1 || n_part > TI_WEIGHT_PARTS) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_TRANSPOSE) && n_part != 1) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_GATE_UP) && (n_part != 2 || parts[0].n != parts[1].n)) return TI_ERR_ARG;
  for (int i = 0; i < n_part; i++) {
    const ti_weight_src *p = &parts[i];
    if (!ti_ref_can_dequant(p->dtype)) return TI_ERR_UNSUPPORTED;
    const bool blocks = ti_dtype_block(p->dtype) > 1 && ti_dtype_block(parts->dtype) > 1;
    if ((p->dtype != parts->dtype && !blocks) || has_scale(p) != has_scale(parts)) return TI_ERR_UNSUPPORTED;
    if (p->n < 1 || p->k < 1 || p->k != parts[0].k || p->k % ti_dtype_block(p->dtype) != 0) return TI_ERR_ARG;
    if (p->ld && (p->ld < p->k || p->ld % ti_dtype_block(p->dtype) != 0)) return TI_ERR_ARG;
    if (!has_scale(p)) continue;
    if (p->block_n < 1 || p->block_k < 1 || p->row0 < 0 || p->row0 >= p->block_n || p->col0 < 0 || p->col0 >= p->block_k) return TI_ERR_ARG;
    if (p->col0 != parts[0].col0 || p->block_k != parts[0].block_k) return TI_ERR_UNSUPPORTED;
  }
  return TI_OK;
}

static int64_t sum_n(const ti_weight_src *parts, int n_part) {
  int64_t n = 0;
  for (int i = 0; i < n_part; i++) n += parts[i].n;
  return n;
}

static ti_status size_of(const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  size_t floats;
  const size_t cols = (size_t)parts->k + (as_codes(parts, flags) ? (size_t)scale_cols(parts) : 0);
  if (!ti_size_mul((size_t)sum_n(parts, n_part), cols, &floats) || !ti_size_mul(floats, sizeof(float), &floats)) return TI_ERR_RANGE;
  *out = as_stored(parts, n_part, flags) ? 0 : floats;
  return TI_OK;
}

static float part_scale(const ti_weight_src *p, int64_t r, int64_t c) {
  return p->scale[(p->row0 + r) / p->block_n * p->scale_ld + (p->col0 + c) / p->block_k];
}

static const void *part_row(const ti_weight_src *p, int64_t r) {
  const int64_t at = r * ref_ld(p->ld, p->k) / ti_dtype_block(p->dtype);
  return (const uint8_t *)p->data + at * ti_dtype_block_bytes(p->dtype);
}

static void prepare_transposed(const ti_weight_src *p, float *dst) {  // dst [k, n] from the source [n, k], a block of a row at a time
  enum { CHUNK = 256 };
  float chunk[CHUNK];
  for (int64_t r = 0; r < p->n; r++) {
    const uint8_t *row = part_row(p, r);
    for (int64_t c = 0; c < p->k; c += CHUNK) {
      const int64_t n = p->k - c < CHUNK ? p->k - c : CHUNK;
      ti_ref_dequant_row(p->dtype, row + c / ti_dtype_block(p->dtype) * ti_dtype_block_bytes(p->dtype), chunk, (size_t)n);
      for (int64_t i = 0; i < n; i++) dst[(c + i) * p->n + r] = has_scale(p) ? chunk[i] * part_scale(p, r, c + i) : chunk[i];
    }
  }
}

ti_status ref_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  ti_fp8_parts f;
  const ti_status st = ti_fp8_parts_init(&f, parts, n_part, flags, false);
  return st != TI_OK ? st : size_of(f.part, n_part, flags, out);
}

static ti_status prepare(const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  const bool transpose = flags & TI_WEIGHT_TRANSPOSE, codes = as_codes(parts, flags);
  const int64_t n = sum_n(parts, n_part), k = parts->k;
  ti_weight w = {.n = transpose ? k : n, .k = transpose ? n : k, .dtype = parts->dtype, .layout = codes ? REF_LAYOUT_CODES : REF_LAYOUT_PLAIN};
  if (flags & (TI_WEIGHT_EXACT | TI_WEIGHT_TRANSPOSE)) w.layout |= REF_WEIGHT_EXACT;
  w.data = as_stored(parts, n_part, flags) ? parts->data : mem;
  w.ld = as_stored(parts, n_part, flags) ? ref_ld(parts->ld, k) : w.k;
  if (transpose) {
    prepare_transposed(parts, mem);
  } else if (w.data == mem) {
    float *scale = (float *)mem + n * k;
    const int64_t scale_ld = codes ? scale_cols(parts) : 0;
    int64_t row = 0;
    for (int i = 0; i < n_part; i++) {
      for (int64_t r = 0; r < parts[i].n; r++, row++) {
        ti_ref_dequant_row(parts[i].dtype, part_row(&parts[i], r), (float *)mem + row * k, (size_t)k);
        for (int64_t b = 0; b < scale_ld; b++)
          scale[row * scale_ld + b] = parts[i].scale[(parts[i].row0 + r) / parts[i].block_n * parts[i].scale_ld + b];
      }
    }
    if (codes) {
      w.scale = scale;
      w.scale_ld = scale_ld;
      w.block_n = 1;
      w.block_k = parts->block_k;
      w.col0 = parts->col0;
    }
  }
  *out = w;
  return TI_OK;
}

ti_status ref_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  ti_fp8_parts f;
  ti_status st = ti_fp8_parts_init(&f, parts, n_part, flags, true);
  if (st != TI_OK) return st;
  st = prepare(f.part, n_part, flags, mem, out);
  ti_fp8_parts_fini(&f);
  return st;
}
