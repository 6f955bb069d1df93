// Row-wise ops: embedding, RMSNorm, rotary embedding, SwiGLU's product, addition.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/ref/ref_priv.h"

ti_status ref_embed(ti_dev *d, const ti_embed_args *a) {
  assert(a->table->n == a->n_id && a->table->k == a->hidden);
  for (int r = 0; r < a->n_row; r++) {
    float *out = (float *)a->out + (int64_t)r * a->hidden;
    const int64_t id = (int64_t)a->ids[r] - a->first_id;
    if (id < 0 || id >= a->n_id) {
      memset(out, 0, (size_t)a->hidden * sizeof *out);
      continue;
    }
    const float *row = ref_weight_row(a->table, id);
    for (int i = 0; i < a->hidden; i++) out[i] = row[i] * ref_weight_scale(a->table, id, i);
  }
  return TI_OK;
}

ti_status ref_rmsnorm(ti_dev *d, const ti_rmsnorm_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    const float *x = (const float *)a->x + r * ref_ld(a->ldx, a->dim);
    float *out = (float *)a->out + r * ref_ld(a->ldo, a->dim);
    if (a->residual) {
      float *res = (float *)a->residual + (int64_t)r * a->dim;
      for (int i = 0; i < a->dim; i++) res[i] += x[i];
      x = res;
    }
    float sum = 0.0f;
    for (int i = 0; i < a->dim; i++) sum += x[i] * x[i];
    const float inv = 1.0f / sqrtf(sum / (float)a->dim + a->eps);
    for (int i = 0; i < a->dim; i++) out[i] = x[i] * inv * a->weight[i];
  }
  return TI_OK;
}

ti_status ref_rope(ti_dev *d, const ti_rope_args *a) {
  assert(a->rope_dim % 2 == 0 && a->offset + a->rope_dim <= a->head_dim);
  const int half = a->rope_dim / 2;
  for (int r = 0; r < a->n_row; r++) {
    for (int h = 0; h < a->n_head; h++) {
      float *x = (float *)a->x + r * ref_ld(a->ld, (int64_t)a->n_head * a->head_dim) + (int64_t)h * a->head_dim + a->offset;
      for (int i = 0; i < half; i++) {
        const float angle = (float)a->position[r] * a->inv_freq[i];
        const float c = cosf(angle) * a->attn_factor, s = sinf(angle) * a->attn_factor;
        float *p = a->interleaved ? x + 2 * i : x + i, *q = a->interleaved ? x + 2 * i + 1 : x + i + half;
        const float u = *p, v = *q;
        *p = u * c - v * s;
        *q = v * c + u * s;
      }
    }
  }
  return TI_OK;
}

ti_status ref_rope_append(ti_dev *d, const ti_rope_append_args *a) {
  const ti_status st = ref_rope(d, &a->rope);
  return st ? st : ref_kv_append(d, &a->kv);
}

ti_status ref_silu_mul(ti_dev *d, const ti_silu_mul_args *a) {
  for (int r = 0; r < a->n_row; r++) {
    const float *gate = (const float *)a->gate_up + r * ref_ld(a->ldx, 2 * (int64_t)a->dim), *up = gate + a->dim;
    float *out = (float *)a->out + r * ref_ld(a->ldo, a->dim);
    for (int i = 0; i < a->dim; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
  }
  return TI_OK;
}

ti_status ref_add(ti_dev *d, const ti_add_args *a) {
  float *x = a->x;
  const float *y = a->y;
  for (size_t i = 0; i < a->n; i++) x[i] += y[i];
  return TI_OK;
}
