// Expanded MLA: latents out of the cache, and one sequence's attention over one tile of expanded keys and values. Two passes a tile.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/ref/ref_priv.h"

#define MAX_ENTRY 2048  // ti_kv_layout_init's bounds on latent + rope

ti_status ref_mla_gather(ti_dev *d, const ti_mla_gather_args *a) {
  const ti_kv_layout *l = a->layout;
  float entry[MAX_ENTRY];
  for (int i = 0; i < a->n; i++) {
    int slot;
    const uint8_t *page = ref_kv_page(a->kv, l, a->layer, a->batch, a->seq, a->place0 + i, &slot);
    ref_mla_entry(l, page + (size_t)slot * l->token_stride, entry);
    memcpy((float *)a->latent + (int64_t)i * l->latent, entry, (size_t)l->latent * sizeof *entry);
    memcpy((float *)a->k_rope + (int64_t)i * l->rope, entry + l->latent, (size_t)l->rope * sizeof *entry);
  }
  return TI_OK;
}

static float score(const ti_mla_tile_args *a, const float *q, int i, int head) {
  const float *k = (const float *)a->kv + ((int64_t)i * a->n_head + head) * (a->nope + a->v_dim),
              *rope = (const float *)a->k_rope + (int64_t)i * a->rope;
  float s = 0.0f;
  for (int c = 0; c < a->nope; c++) s += q[c] * k[c];
  for (int c = 0; c < a->rope; c++) s += q[a->nope + c] * rope[c];
  return s * a->scale;
}

// One row and head over places lo..hi of the tile (hi excluded, counted from place0).
static void attend(const ti_mla_tile_args *a, const float *q, int head, int lo, int hi, float *state, float *acc, float *out) {
  float max = a->first ? -INFINITY : state[0], sum = a->first ? 0.0f : state[1];
  if (a->first) memset(acc, 0, (size_t)a->v_dim * sizeof *acc);
  float top = max;
  for (int i = lo; i < hi; i++) top = fmaxf(top, score(a, q, i, head));
  const float shrink = max == top ? 1.0f : expf(max - top);
  sum *= shrink;
  for (int c = 0; c < a->v_dim; c++) acc[c] *= shrink;
  for (int i = lo; i < hi; i++) {
    const float *v = (const float *)a->kv + ((int64_t)i * a->n_head + head) * (a->nope + a->v_dim) + a->nope, e = expf(score(a, q, i, head) - top);
    sum += e;
    for (int c = 0; c < a->v_dim; c++) acc[c] += e * v[c];
  }
  state[0] = top;
  state[1] = sum;
  for (int c = 0; a->last && c < a->v_dim; c++) out[c] = sum > 0.0f ? acc[c] / sum : 0.0f;
}

ti_status ref_mla_tile(ti_dev *d, const ti_mla_tile_args *a) {
  const ti_batch *b = a->batch;
  const int row0 = b->seq_row0[a->seq], n_row = b->seq_row0[a->seq + 1] - row0, dim = a->nope + a->rope;
  const int64_t ldq = ref_ld(a->ldq, (int64_t)a->n_head * dim), ldo = ref_ld(a->ldo, (int64_t)a->n_head * a->v_dim);
  assert(!b->mask);
  for (int r = 0; r < n_row; r++) {
    const ref_span s = ref_row_span(b, row0 + r, 0);
    const int lo = s.lo > a->place0 ? s.lo - a->place0 : 0, hi = s.hi + 1 - a->place0 < a->n ? s.hi + 1 - a->place0 : a->n;
    for (int h = 0; h < a->n_head; h++) {
      const int64_t at = (int64_t)r * a->n_head + h;
      attend(a, (const float *)a->q + (row0 + r) * ldq + (int64_t)h * dim, h, lo, hi, a->state + 2 * at, a->acc + at * a->v_dim,
             (float *)a->out + (row0 + r) * ldo + (int64_t)h * a->v_dim);
    }
  }
  return TI_OK;
}
