// Ops on single rows: RMSNorm, RoPE, SwiGLU's product (both perhaps as int8 codes), addition, appending KV, quantising, the weighted gather after
// experts. Included by rows_avx2.c and rows_avx512.c. Rows are spread over the team when there is enough to do; the order inside a row depends on its
// length alone.
#include <string.h>

#include "base/half.h"
#include "kernels/cpu/cpu_priv.h"
#include "kernels/cpu/quant_int8.h"

typedef struct rows_run {
  ti_dev *d;
  const void *a;
} rows_run;

// ---- RMSNorm ----

static float add_and_square(const float *x, float *residual, int n) {  // residual += x; the sum of squares of residual
  vf s0 = vf_zero(), s1 = vf_zero();
  int i = 0;
  for (; i + 2 * VL <= n; i += 2 * VL) {
    vf a = vf_load(x + i), b = vf_load(x + i + VL);
    if (residual) {
      a = vf_add(vf_load(residual + i), a);
      b = vf_add(vf_load(residual + i + VL), b);
      vf_store(residual + i, a);
      vf_store(residual + i + VL, b);
    }
    s0 = vf_fma(a, a, s0);
    s1 = vf_fma(b, b, s1);
  }
  for (; i < n; i += VL) {
    const int w = ti_cpu_min(VL, n - i);
    vf a = vf_load_n(x + i, w);
    if (residual) {
      a = vf_add(vf_load_n(residual + i, w), a);
      vf_store_n(residual + i, a, w);
    }
    s0 = vf_fma(a, a, s0);
  }
  return vf_hsum(vf_add(s0, s1));
}

// The normed row as int8 codes, and as it is where out is not NULL.
static void norm_codes(const ti_rmsnorm_args *a, const float *x, vf inv, int r, float *out) {
  int8_t *q = (int8_t *)a->q + (int64_t)r * a->dim;
  float *scale = a->q_scale + (int64_t)r * (a->dim / TI_CPU_BLOCK), t[TI_CPU_BLOCK];
  for (int b = 0; b < a->dim; b += TI_CPU_BLOCK) {
    for (int i = 0; i < TI_CPU_BLOCK; i += VL) vf_store(t + i, vf_mul(vf_mul(vf_load(x + b + i), inv), vf_load(a->weight + b + i)));
    (void)quant_int8(t, q + b, scale++);
    if (out) memcpy(out + b, t, sizeof t);
  }
}

static void rmsnorm_rows(void *arg, int thread, int n_threads) {
  const ti_rmsnorm_args *a = ((rows_run *)arg)->a;
  const int n = a->dim;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    const float *x = (const float *)a->x + r * ti_cpu_ld(a->ldx, n);
    float *out = a->out ? (float *)a->out + r * ti_cpu_ld(a->ldo, n) : NULL, *res = a->residual ? (float *)a->residual + (int64_t)r * n : NULL;
    const float sum = add_and_square(x, res, n);
    const vf inv = vf_set1(1.0f / sqrtf(sum / (float)n + a->eps));
    if (res) x = res;
    if (a->q) {
      norm_codes(a, x, inv, r, out);
      continue;
    }
    int i = 0;
    for (; i + VL <= n; i += VL) vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), inv), vf_load(a->weight + i)));
    if (i < n) vf_store_n(out + i, vf_mul(vf_mul(vf_load_n(x + i, n - i), inv), vf_load_n(a->weight + i, n - i)), n - i);
  }
}

ti_status TI_ISA(ti_cpu_rmsnorm)(ti_dev *d, const ti_rmsnorm_args *a) {
  assert(!a->q || (d->act_quant == TI_ACT_INT8 && a->dim % TI_CPU_BLOCK == 0));
  ti_cpu_run(d, 0.2 * a->n_row * a->dim, rmsnorm_rows, &(rows_run){d, a});
  return TI_OK;
}

// ---- RoPE ----

static void rotate_split(float *x, const float *c, const float *s, int half) {  // pairs (i, i + half)
  for (int i = 0; i < half; i += VL) {
    const int n = ti_cpu_min(VL, half - i);
    const vf cv = vf_load(c + i), sv = vf_load(s + i);
    if (n == VL) {
      const vf u = vf_load(x + i), v = vf_load(x + half + i);
      vf_store(x + i, vf_fnma(v, sv, vf_mul(u, cv)));
      vf_store(x + half + i, vf_fma(u, sv, vf_mul(v, cv)));
    } else {
      const vf u = vf_load_n(x + i, n), v = vf_load_n(x + half + i, n);
      vf_store_n(x + i, vf_fnma(v, sv, vf_mul(u, cv)), n);
      vf_store_n(x + half + i, vf_fma(u, sv, vf_mul(v, cv)), n);
    }
  }
}

static void rotate_pairs(float *x, const float *c, const float *s, int half) {  // pairs (2i, 2i + 1)
  int i = 0;
  for (; i + VL <= half; i += VL) {
    const vf cv = vf_load(c + i), sv = vf_load(s + i);
    vf u, v, a, b;
    vf_unzip(vf_load(x + 2 * i), vf_load(x + 2 * i + VL), &u, &v);
    vf_zip(vf_fnma(v, sv, vf_mul(u, cv)), vf_fma(u, sv, vf_mul(v, cv)), &a, &b);
    vf_store(x + 2 * i, a);
    vf_store(x + 2 * i + VL, b);
  }
  for (; i < half; i++) {
    const float u = x[2 * i], v = x[2 * i + 1];
    x[2 * i] = u * c[i] - v * s[i];
    x[2 * i + 1] = v * c[i] + u * s[i];
  }
}

typedef struct rope_table {  // of one thread: cos and sin of the row at hand
  float freq[TI_CPU_MAX_DIM / 2 + VL], c[TI_CPU_MAX_DIM / 2 + VL], s[TI_CPU_MAX_DIM / 2 + VL];
} rope_table;

static void rope_begin(const ti_rope_args *a, rope_table *t) {
  memset(t->freq + a->rope_dim / 2, 0, VL * sizeof *t->freq);
  memcpy(t->freq, a->inv_freq, (size_t)(a->rope_dim / 2) * sizeof *t->freq);
}

static void rope_row(const ti_rope_args *a, int r, rope_table *t) {
  const int half = a->rope_dim / 2;
  for (int i = 0; i < half; i += VL) {
    vf sv, cv;
    vf_sincos_at((float)a->position[r], t->freq + i, &sv, &cv);
    vf_store(t->s + i, vf_mul(sv, vf_set1(a->attn_factor)));
    vf_store(t->c + i, vf_mul(cv, vf_set1(a->attn_factor)));
  }
  float *x = (float *)a->x + r * ti_cpu_ld(a->ld, (int64_t)a->n_head * a->head_dim) + a->offset;
  for (int h = 0; h < a->n_head; h++, x += a->head_dim) {
    if (a->interleaved) {
      rotate_pairs(x, t->c, t->s, half);
    } else {
      rotate_split(x, t->c, t->s, half);
    }
  }
}

static void rope_rows(void *arg, int thread, int n_threads) {
  const ti_rope_args *a = ((rows_run *)arg)->a;
  rope_table t;
  int lo, hi;
  rope_begin(a, &t);
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) rope_row(a, r, &t);
}

static double rope_ns(const ti_rope_args *a) { return (double)a->n_row * a->rope_dim * (0.3 + 0.15 * a->n_head); }

ti_status TI_ISA(ti_cpu_rope)(ti_dev *d, const ti_rope_args *a) {
  assert(a->rope_dim % 2 == 0 && a->rope_dim <= TI_CPU_MAX_DIM && a->offset + a->rope_dim <= a->head_dim);
  ti_cpu_run(d, rope_ns(a), rope_rows, &(rows_run){d, a});
  return TI_OK;
}

// ---- element by element ----

TI_INLINE vf silu_mul(vf g, vf u) { return vf_mul(vf_div(g, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), g)))), u); }

static void silu_codes(const ti_silu_mul_args *a, const float *g, const float *u, int r, float *out) {
  int8_t *q = (int8_t *)a->q + (int64_t)r * a->dim;
  float *scale = a->q_scale + (int64_t)r * (a->dim / TI_CPU_BLOCK), t[TI_CPU_BLOCK];
  for (int b = 0; b < a->dim; b += TI_CPU_BLOCK) {
    for (int i = 0; i < TI_CPU_BLOCK; i += VL) vf_store(t + i, silu_mul(vf_load(g + b + i), vf_load(u + b + i)));
    (void)quant_int8(t, q + b, scale++);
    if (out) memcpy(out + b, t, sizeof t);
  }
}

static void silu_rows(void *arg, int thread, int n_threads) {
  const ti_silu_mul_args *a = ((rows_run *)arg)->a;
  const int n = a->dim;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    const float *g = (const float *)a->gate_up + r * ti_cpu_ld(a->ldx, 2 * (int64_t)n), *u = g + n;
    float *out = a->out ? (float *)a->out + r * ti_cpu_ld(a->ldo, n) : NULL;
    if (a->q) {
      silu_codes(a, g, u, r, out);
      continue;
    }
    int i = 0;
    for (; i + VL <= n; i += VL) vf_store(out + i, silu_mul(vf_load(g + i), vf_load(u + i)));
    if (i < n) vf_store_n(out + i, silu_mul(vf_load_n(g + i, n - i), vf_load_n(u + i, n - i)), n - i);
  }
}

ti_status TI_ISA(ti_cpu_silu_mul)(ti_dev *d, const ti_silu_mul_args *a) {
  assert(!a->q || (d->act_quant == TI_ACT_INT8 && a->dim % TI_CPU_BLOCK == 0));
  ti_cpu_run(d, 0.7 * a->n_row * a->dim, silu_rows, &(rows_run){d, a});
  return TI_OK;
}

ti_status TI_ISA(ti_cpu_add)(ti_dev *d, const ti_add_args *a) {
  float *x = a->x;
  const float *y = a->y;
  size_t i = 0;
  for (; i + VL <= a->n; i += VL) vf_store(x + i, vf_add(vf_load(x + i), vf_load(y + i)));
  if (i < a->n) vf_store_n(x + i, vf_add(vf_load_n(x + i, (int)(a->n - i)), vf_load_n(y + i, (int)(a->n - i))), (int)(a->n - i));
  return TI_OK;
}

static void unpermute_rows(void *arg, int thread, int n_threads) {
  const ti_unpermute_args *a = ((rows_run *)arg)->a;
  const int n = a->dim;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    float *out = (float *)a->out + (int64_t)r * n;
    const int32_t *dst = a->dst + (int64_t)r * a->n_top;
    const float *w = a->weights + (int64_t)r * a->n_top;
    for (int i = 0; i < n; i += VL) {
      const int width = ti_cpu_min(VL, n - i);
      vf sum = vf_zero();
      for (int j = 0; j < a->n_top; j++) {
        if (dst[j] >= 0) sum = vf_fma(vf_set1(w[j]), vf_load_n((const float *)a->y + (int64_t)dst[j] * n + i, width), sum);
      }
      vf_store_n(out + i, a->accumulate ? vf_add(vf_load_n(out + i, width), sum) : sum, width);
    }
  }
}

ti_status TI_ISA(ti_cpu_unpermute)(ti_dev *d, const ti_unpermute_args *a) {
  ti_cpu_run(d, 0.3 * a->n_row * a->dim * a->n_top, unpermute_rows, &(rows_run){d, a});
  return TI_OK;
}

// ---- e4m3 with scales ----

void TI_ISA(ti_cpu_quant_block)(const float *x, int n, float *scale, uint8_t *q) {
  vf top = vf_zero();
  for (int i = 0; i < n; i += VL) top = vf_max(vf_abs(i + VL <= n ? vf_load(x + i) : vf_load_n(x + i, n - i)), top);
  const float amax = vf_hmax(top), s = (amax > 1e-4f ? amax : 1e-4f) / 448.0f;
  int i = 0;
  for (; i + VL <= n; i += VL) vi_store_u8(q + i, vf_to_e4m3(vf_div(vf_load(x + i), vf_set1(s))));
  if (i < n) {
    uint8_t tail[VL];
    vi_store_u8(tail, vf_to_e4m3(vf_div(vf_load_n(x + i, n - i), vf_set1(s))));
    memcpy(q + i, tail, (size_t)(n - i));
  }
  *scale = s;
}

static void quant_rows(void *arg, int thread, int n_threads) {
  const ti_quant_fp8_args *a = ((rows_run *)arg)->a;
  const int n_block = (a->k + TI_CPU_FP8_BLOCK - 1) / TI_CPU_FP8_BLOCK;
  int lo, hi;
  ti_cpu_share(a->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    for (int b = 0; b < n_block; b++) {
      const int c = b * TI_CPU_FP8_BLOCK;
      TI_ISA(ti_cpu_quant_block)
      ((const float *)a->x + r * ti_cpu_ld(a->ldx, a->k) + c, ti_cpu_min(TI_CPU_FP8_BLOCK, a->k - c), &a->scale[(int64_t)r * n_block + b],
       a->q + (int64_t)r * a->k + c);
    }
  }
}

ti_status TI_ISA(ti_cpu_quant_fp8)(ti_dev *d, const ti_quant_fp8_args *a) {
  ti_cpu_run(d, 1.0 * a->n_row * a->k, quant_rows, &(rows_run){d, a});
  return TI_OK;
}

// ---- KV ----

static void store_plain(ti_dtype t, const float *x, int n, uint8_t *dst) {  // F32, BF16
  if (t == TI_F32) {
    memcpy(dst, x, (size_t)n * sizeof *x);
    return;
  }
  uint16_t *h = (uint16_t *)(void *)dst;
  int i = 0;
  for (; i + VL <= n; i += VL) vf_to_bf16(h + i, vf_load(x + i));
  for (; i < n; i++) h[i] = ti_f32_to_bf16(x[i]);
}

// One scale over the n numbers of a head, which may be more than a block.
static float quant_head(const float *x, int n, uint8_t *dst) {
  float s;
  TI_ISA(ti_cpu_quant_block)(x, n, &s, dst);
  return s;
}

static void append_gqa(const ti_kv_layout *l, uint8_t *page, int slot, const float *k, const float *v) {
  for (int i = 0; i < 2 * l->n_kv_head; i++) {
    const int h = i % l->n_kv_head, is_v = i >= l->n_kv_head;
    const float *x = (is_v ? v : k) + (int64_t)h * l->head_dim;
    uint8_t *dst = page + (is_v ? l->v_offset : 0) + (size_t)h * l->head_stride + (size_t)slot * l->token_stride;
    if (l->dtype != TI_E4M3) {
      store_plain(l->dtype, x, l->head_dim, dst);
      continue;
    }
    const float s = quant_head(x, l->head_dim, dst);
    memcpy(page + (is_v ? l->v_scale_offset : l->k_scale_offset) + ((size_t)h * (size_t)l->page_tokens + (size_t)slot) * sizeof s, &s, sizeof s);
  }
}

static void append_mla(const ti_kv_layout *l, uint8_t *dst, const float *latent, const float *rope) {
  if (l->dtype != TI_E4M3) {
    store_plain(l->dtype, latent, l->latent, dst);
    store_plain(l->dtype, rope, l->rope, dst + (size_t)l->latent * (l->dtype == TI_F32 ? 4 : 2));
    return;
  }
  for (int c = 0; c < l->latent; c += TI_CPU_FP8_BLOCK) {
    const float s = quant_head(latent + c, TI_CPU_FP8_BLOCK, dst + c);
    memcpy(dst + l->latent + c / TI_CPU_FP8_BLOCK * 4, &s, sizeof s);
  }
  store_plain(TI_BF16, rope, l->rope, dst + l->latent + l->latent / TI_CPU_FP8_BLOCK * 4);
}

static void append_row(const ti_kv_append_args *a, int r) {
  const ti_kv_layout *l = a->layout;
  const ti_batch *b = a->batch;
  const bool gqa = l->kind == TI_KV_GQA;
  if (b->place[r] < 0) return;  // padding
  const float *k = (const float *)a->k + r * ti_cpu_ld(a->ldk, gqa ? (int64_t)l->n_kv_head * l->head_dim : l->latent);
  const float *v = (const float *)a->v + r * ti_cpu_ld(a->ldv, gqa ? (int64_t)l->n_kv_head * l->head_dim : l->rope);
  int slot;
  uint8_t *page = ti_cpu_kv_page(a->kv, l, a->layer, b, b->seq[r], b->place[r], &slot);
  if (gqa) {
    append_gqa(l, page, slot, k, v);
  } else {
    append_mla(l, page + (size_t)slot * l->token_stride, k, v);
  }
}

static void append_rows(void *arg, int thread, int n_threads) {
  const ti_kv_append_args *a = ((rows_run *)arg)->a;
  int lo, hi;
  ti_cpu_share(a->batch->n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) append_row(a, r);
}

static double append_ns(const ti_kv_append_args *a) {
  return 0.5 * a->batch->n_row * (double)a->layout->token_stride * (a->layout->kind == TI_KV_GQA ? 2 * a->layout->n_kv_head : 1) / 4.0;
}

ti_status TI_ISA(ti_cpu_kv_append)(ti_dev *d, const ti_kv_append_args *a) {
  ti_cpu_run(d, append_ns(a), append_rows, &(rows_run){d, a});
  return TI_OK;
}

static void rope_append_rows(void *arg, int thread, int n_threads) {
  const ti_rope_append_args *a = ((rows_run *)arg)->a;
  rope_table t;
  int lo, hi;
  rope_begin(&a->rope, &t);
  ti_cpu_share(a->rope.n_row, thread, n_threads, &lo, &hi);
  for (int r = lo; r < hi; r++) {
    rope_row(&a->rope, r, &t);
    append_row(&a->kv, r);
  }
}

ti_status TI_ISA(ti_cpu_rope_append)(ti_dev *d, const ti_rope_append_args *a) {
  assert(a->rope.rope_dim % 2 == 0 && a->rope.rope_dim <= TI_CPU_MAX_DIM && a->rope.offset + a->rope.rope_dim <= a->rope.head_dim);
  assert(a->rope.n_row == a->kv.batch->n_row);
  ti_cpu_run(d, rope_ns(&a->rope) + append_ns(&a->kv), rope_append_rows, &(rows_run){d, a});
  return TI_OK;
}
