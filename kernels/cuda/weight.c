// Weights from the checkpoint to the device (cuda_priv.h says what a prepared matrix looks like). At load time; a few large transfers a matrix.
//
//   source                           prepared
//   BF16                             as it is, row by row through the ring
//   F16; F32 but for EXACT           BF16, rounded on the device, in bands of rows that pass through the scratch
//   F32, EXACT (routers)             F32
//   E4M3 without scales              BF16, exact
//   E4M3 with scales                 as it is; scales as one of
//                                      128x128 blocks of the stacked matrix       [ceil(n / 128), ceil(k / 128) rounded up to 4]
//                                      one a row (per tensor, per channel)        [n], block_k 0
//                                      one a row and block of K (parts that start inside a block)   [n, ceil((col0 + k) / block_k)], block_n 1
//   F32, F16, BF16 with TO_FP8       E4M3, quantised on the device, scales as above
//   GATE_UP                          as above; BF16 of fitting shapes interleaved (the fused product reads gate and up side by side)
//   any, TRANSPOSE                   BF16, turned on the host: small matrices (a head's W_UK)
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/size.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/ref/dequant.h"

#define BLOCK 128
#define BAND_BYTES ((size_t)16 << 20)
#define MAX_RUN_K 16384  // a run of 64 bf16 rows passes through the ring whole

typedef enum scale_form { SCALE_NONE, SCALE_BLOCKS, SCALE_ROW, SCALE_ROW_BLOCKS } scale_form;

typedef struct plan {
  int64_t n, k;
  ti_dtype to;
  bool quantise;  // TO_FP8
  bool transpose;
  bool gate_up;  // interleaved
  scale_form form;
  int64_t scale_rows, scale_cols, scale_ld;
  size_t data_bytes, scale_bytes;  // data: rounded up to where the scales start
} plan;

static bool scaled(const ti_weight_src *p) { return p->dtype == TI_E4M3 && p->scale != NULL; }
static bool floats(ti_dtype t) { return t == TI_F32 || t == TI_F16 || t == TI_BF16; }
// Block sizes as used: 0 means one block over the whole.
static int64_t block_n(const ti_weight_src *p) { return p->block_n > 0 ? p->block_n : INT64_MAX / 2; }
static int64_t block_k(const ti_weight_src *p) { return p->block_k > 0 ? p->block_k : INT64_MAX / 2; }

static ti_status check_parts(const ti_weight_src *parts, int n_part, unsigned flags) {
  if (n_part < 1 || n_part > TI_WEIGHT_PARTS) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_TRANSPOSE) && n_part != 1) return TI_ERR_ARG;
  if ((flags & TI_WEIGHT_GATE_UP) && (n_part != 2 || parts[0].n != parts[1].n)) return TI_ERR_ARG;
  for (int i = 0; i < n_part; i++) {
    const ti_weight_src *p = &parts[i];
    if (!floats(p->dtype) && p->dtype != TI_E4M3) return TI_ERR_UNSUPPORTED;
    if (p->dtype != parts->dtype || scaled(p) != scaled(parts)) return TI_ERR_UNSUPPORTED;
    if (p->n < 1 || p->k < 1 || p->k != parts->k || (p->ld && p->ld < p->k) || p->n > INT32_MAX || p->k > INT32_MAX) return TI_ERR_ARG;
    if (!scaled(p)) continue;
    if (p->block_n < 0 || p->block_k < 0 || p->row0 < 0 || p->row0 >= block_n(p) || p->col0 < 0 || p->col0 >= block_k(p)) return TI_ERR_ARG;
    if (p->col0 != parts->col0 || p->block_k != parts->block_k) return TI_ERR_UNSUPPORTED;
  }
  return TI_OK;
}

// Whether every 128 x 128 block of the stacked matrix has one scale: parts start on its blocks, and the source's blocks end with them.
static bool whole_blocks(const ti_weight_src *parts, int n_part, bool quantise) {
  int64_t at = 0;
  for (int i = 0; i < n_part; at += parts[i++].n) {
    if (at % BLOCK != 0) return false;
    if (quantise) continue;
    if (parts[i].block_n != BLOCK || parts[i].block_k != BLOCK || parts[i].col0 != 0) return false;
    if (parts[i].row0 != 0 && parts[i].row0 + parts[i].n > BLOCK) return false;
  }
  return true;
}

static ti_status make_plan(const ti_weight_src *parts, int n_part, unsigned flags, plan *out) {
  const ti_status st = check_parts(parts, n_part, flags);
  if (st != TI_OK) return st;
  plan p = {.k = parts->k, .transpose = flags & TI_WEIGHT_TRANSPOSE, .to = TI_BF16};
  for (int i = 0; i < n_part; i++) p.n += parts[i].n;
  p.quantise = (flags & TI_WEIGHT_TO_FP8) && floats(parts->dtype) && !p.transpose;
  if (p.transpose) {
    p.n = parts->k;
    p.k = parts->n;
  } else if (p.quantise || scaled(parts)) {
    p.to = TI_E4M3;
    const int64_t bk = p.quantise ? BLOCK : block_k(parts), col0 = p.quantise ? 0 : parts->col0;
    p.scale_cols = (col0 + p.k - 1) / bk + 1;
    p.form = whole_blocks(parts, n_part, p.quantise) ? SCALE_BLOCKS : !p.quantise && parts->block_k == 0 ? SCALE_ROW : SCALE_ROW_BLOCKS;
    p.scale_ld = p.form == SCALE_BLOCKS ? (p.scale_cols + 3) / 4 * 4 : p.scale_cols;  // as cuBLASLt wants it
    p.scale_rows = p.form == SCALE_BLOCKS ? (p.n + BLOCK - 1) / BLOCK : p.n;
  } else if (parts->dtype == TI_F32 && (flags & TI_WEIGHT_EXACT)) {
    p.to = TI_F32;
  }
  p.gate_up = (flags & TI_WEIGHT_GATE_UP) && p.to == TI_BF16 && parts->n % TI_CUDA_GATE_RUN == 0 && p.k % 8 == 0 && p.k <= MAX_RUN_K;
  if (p.n > INT32_MAX) return TI_ERR_RANGE;
  size_t count, scales;
  if (!ti_size_mul((size_t)p.n, (size_t)p.k, &count) || !ti_size_mul(count, (size_t)ti_dtype_block_bytes(p.to), &count) || count > SIZE_MAX / 2)
    return TI_ERR_RANGE;
  if (!ti_size_mul((size_t)p.scale_rows, (size_t)p.scale_ld * sizeof(float), &scales)) return TI_ERR_RANGE;
  p.data_bytes = ti_size_align(count, 256);
  p.scale_bytes = scales;
  *out = p;
  return TI_OK;
}

ti_status ti_cuda_weight_size(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, size_t *out) {
  plan p;
  const ti_status st = make_plan(parts, n_part, flags, &p);
  if (st == TI_OK) *out = p.data_bytes + p.scale_bytes;
  return st;
}

// ---- values ----

static float scale_at(const ti_weight_src *p, int64_t r, int64_t c) {
  return scaled(p) ? p->scale[(p->row0 + r) / block_n(p) * p->scale_ld + (p->col0 + c) / block_k(p)] : 1.0f;
}

static const uint8_t *row_of(const ti_weight_src *p, int64_t r) {
  return (const uint8_t *)p->data + (size_t)(r * (p->ld ? p->ld : p->k)) * (size_t)ti_dtype_block_bytes(p->dtype);
}

static ti_status upload_transposed(ti_dev *d, const ti_weight_src *p, uint16_t *dst) {
  const size_t n = (size_t)p->n, k = (size_t)p->k;
  uint16_t *turned = malloc(n * k * sizeof *turned);
  float *row = malloc(k * sizeof *row);
  ti_status st = turned && row ? TI_OK : TI_ERR_NOMEM;
  for (size_t r = 0; st == TI_OK && r < n; r++) {
    ti_ref_dequant_row(p->dtype, row_of(p, (int64_t)r), row, k);
    for (size_t c = 0; c < k; c++) turned[c * n + r] = ti_f32_to_bf16(row[c] * scale_at(p, (int64_t)r, (int64_t)c));
  }
  if (st == TI_OK) st = ti_cuda_upload(d, dst, turned, n * k * sizeof *turned);
  free(row);
  free(turned);
  return st;
}

// A part whose type changes: bands of rows as stored into the scratch, and from there by a kernel.
static ti_status upload_converted(ti_dev *d, const ti_weight_src *p, const plan *pl, ti_cuda_convert_args c) {
  const size_t row_bytes = (size_t)p->k * (size_t)ti_dtype_block_bytes(p->dtype);
  size_t band = BAND_BYTES / row_bytes / BLOCK * BLOCK;
  if (band == 0) band = BLOCK;
  if (band > (size_t)p->n) band = (size_t)p->n;
  ti_status st = ti_cuda_need_scratch(d, band * row_bytes);
  c.src = d->scratch;
  c.from = p->dtype;
  c.k = p->k;
  for (c.row = 0; st == TI_OK && c.row < p->n; c.row += c.n) {
    c.n = p->n - c.row < (int64_t)band ? p->n - c.row : (int64_t)band;
    st = ti_cuda_upload_rows(d, d->scratch, row_bytes, row_of(p, c.row), (size_t)(p->ld ? p->ld : p->k) * (size_t)ti_dtype_block_bytes(p->dtype),
                             row_bytes, (size_t)c.n);
    if (st == TI_OK) st = pl->quantise ? ti_cuda_to_fp8(d, &c) : ti_cuda_to_bf16(d, &c);
  }
  return st;
}

// The scales that the checkpoint has, in the prepared form.
static ti_status upload_scales(ti_dev *d, const ti_weight_src *parts, int n_part, const plan *pl, float *dst) {
  float *scale = calloc(1, pl->scale_bytes);
  if (!scale) return TI_ERR_NOMEM;
  const int64_t step = pl->form == SCALE_BLOCKS ? BLOCK : 1;
  for (int i = 0, at = 0; i < n_part; at += (int)parts[i++].n) {
    for (int64_t r = 0; r < parts[i].n; r += step) {
      const float *from = parts[i].scale + (parts[i].row0 + r) / block_n(&parts[i]) * parts[i].scale_ld;
      memcpy(scale + (at + r) / step * pl->scale_ld, from, (size_t)pl->scale_cols * sizeof *scale);
    }
  }
  const ti_status st = ti_cuda_upload(d, dst, scale, pl->scale_bytes);
  free(scale);
  return st;
}

// A part that keeps its type.
static ti_status upload_as_stored(ti_dev *d, const ti_weight_src *p, const plan *pl, uint8_t *dst, int64_t at, int part) {
  const size_t row = (size_t)pl->k * (size_t)ti_dtype_block_bytes(pl->to), ld = (size_t)(p->ld ? p->ld : p->k) * (size_t)ti_dtype_block_bytes(pl->to);
  if (!pl->gate_up) return ti_cuda_upload_rows(d, dst + (size_t)at * row, row, p->data, ld, row, (size_t)p->n);
  const size_t run = TI_CUDA_GATE_RUN * row;
  dst += (size_t)part * run;
  if (ld == row) return ti_cuda_upload_rows(d, dst, 2 * run, p->data, run, run, (size_t)p->n / TI_CUDA_GATE_RUN);
  ti_status st = TI_OK;
  for (int64_t r = 0; st == TI_OK && r < p->n; r += TI_CUDA_GATE_RUN, dst += 2 * run)
    st = ti_cuda_upload_rows(d, dst, row, row_of(p, r), ld, row, TI_CUDA_GATE_RUN);
  return st;
}

ti_status ti_cuda_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n_part, unsigned flags, void *mem, ti_weight *out) {
  plan p;
  ti_status st = make_plan(parts, n_part, flags, &p);
  if (st != TI_OK) return st;
  float *scale = p.scale_bytes ? (float *)(void *)((uint8_t *)mem + p.data_bytes) : NULL;
  if (p.transpose) st = upload_transposed(d, parts, mem);
  int64_t at = 0;
  for (int i = 0; st == TI_OK && !p.transpose && i < n_part; at += parts[i++].n) {
    const ti_weight_src *part = &parts[i];
    if (part->dtype == p.to) {
      st = upload_as_stored(d, part, &p, mem, at, i);
    } else {
      const ti_cuda_convert_args c = {.base = at, .gate_up = p.gate_up ? i + 1 : 0, .dst = mem, .scale = scale, .scale_ld = p.scale_ld, .scale_rows = p.form == SCALE_ROW_BLOCKS};
      st = upload_converted(d, part, &p, c);
    }
  }
  if (st == TI_OK && p.form != SCALE_NONE && !p.quantise) st = upload_scales(d, parts, n_part, &p, scale);
  if (st != TI_OK) return st;
  *out = (ti_weight){.n = p.n, .k = p.k, .dtype = p.to, .layout = p.gate_up ? TI_CUDA_GATE_UP : TI_CUDA_ROWS, .data = mem, .scale = scale, .ld = p.k, .scale_ld = p.scale_ld};
  if (flags & (TI_WEIGHT_EXACT | TI_WEIGHT_TRANSPOSE)) out->layout |= TI_CUDA_EXACT;
  if (p.form == SCALE_NONE) return TI_OK;
  out->block_n = p.form == SCALE_BLOCKS ? BLOCK : 1;
  out->block_k = p.form == SCALE_ROW ? 0 : p.quantise ? BLOCK : parts->block_k;
  out->col0 = p.quantise ? 0 : parts->col0;
  return TI_OK;
}
