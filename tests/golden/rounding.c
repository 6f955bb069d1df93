#include "tests/golden/rounding.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/half.h"

#define HALF ((size_t)8 << 30)  // of the arena; reserved, not used
enum { SPAN = 128, MAX_DIM = 256, MAX_PLACES = 4096, LANES = 16 };

const char *const rounding_fault_names[FAULT_COUNT] = {"none", "eps ten times too large", "one head reads another's KV", "scores 1% too large",
                                                       "FFN output 1% too large", "first place not attended", "q one place further on", "cut off, not rounded"};

static struct {
  unsigned places;
  bool analyse;
  rounding_fault fault;
  char *arena;
  size_t used;
  const float *last;
} mode;

static const ti_kernels *in(void) { return ti_kernels_ref(); }

static bool ours(const void *p) { return (const char *)p >= mode.arena && (const char *)p < mode.arena + HALF; }
static void *shadow(const void *p) {
  assert(ours(p));
  return (char *)p + HALF;
}
const float *rounding_variance(void) { return mode.last; }

// ---- rounding to bf16: 8 bits of significand, to nearest ----

static float ulp_of(float x) {
  const uint32_t e = ti_f32_bits(x) >> 23 & 255;
  return e > 7 ? ti_f32_from_bits((e - 7) << 23) : 0.0f;
}
// The variance of an error that is spread evenly over one ulp.
static float rounding_of(float x) {
  const float u = ulp_of(x);
  return u * u / 12.0f;
}
static float round_one(float x) {
  if (mode.fault == FAULT_CUT) return ti_f32_from_bits(ti_f32_bits(x) & 0xffff0000u);
  return ti_bf16_to_f32(ti_f32_to_bf16(x));
}

static bool is_bf16(float x) { return (ti_f32_bits(x) & 0xffffu) == 0; }

// x [n_row, n] is written to memory as bf16 here, if this is one of the places. A number without an error that is bf16 already stays what it is.
static void stored(void *x, int64_t n_row, int64_t n, int64_t ld, unsigned place) {
  if (!(mode.places & place)) return;
  for (int64_t r = 0; r < n_row; r++) {
    float *v = (float *)x + r * (ld ? ld : n), *var = mode.analyse ? shadow(v) : NULL;
    for (int64_t i = 0; i < n; i++) {
      if (mode.analyse) {
        if (var[i] > 0 || !is_bf16(v[i])) var[i] += rounding_of(v[i]);
      } else {
        v[i] = round_one(v[i]);
      }
    }
  }
}

// ---- memory ----

static ti_status dev_open(const ti_dev_options *o, ti_dev **out, ti_error *err) {
  assert(!mode.arena);
  mode.arena = mmap(NULL, 2 * HALF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mode.arena == MAP_FAILED) abort();
  mode.used = 0;
  return in()->open(o, out, err);
}
static void dev_close(ti_dev *d) {
  in()->close(d);
  munmap(mode.arena, 2 * HALF);
  mode.arena = NULL;
}
static void *dev_alloc(ti_dev *d, size_t bytes) {
  bytes = (bytes + 127) & ~(size_t)63;
  if (mode.used + bytes > HALF) return NULL;
  void *p = mode.arena + mode.used;
  mode.used += bytes;
  return p;
}
static void dev_free(ti_dev *d, void *p) {}
static void *host_alloc(ti_dev *d, size_t bytes) { return calloc(1, bytes ? bytes : 1); }
static void host_free(ti_dev *d, void *p) { free(p); }
static ti_status dev_download(ti_dev *d, void *host, const void *src, size_t n) {
  mode.last = shadow(src);
  return in()->download(d, host, src, n);
}

// ---- ops ----

static ti_status op_rmsnorm(ti_dev *d, const ti_rmsnorm_args *args) {
  ti_rmsnorm_args a = *args;
  const int64_t ldx = a.ldx ? a.ldx : a.dim, ldo = a.ldo ? a.ldo : a.dim;
  if (mode.fault == FAULT_EPS) a.eps *= 10;
  for (int64_t r = 0; mode.analyse && r < a.n_row; r++) {
    const float *x = (const float *)a.x + r * ldx, *vx = shadow(x);
    float *res = a.residual ? (float *)a.residual + r * a.dim : NULL, *vres = res ? shadow(res) : NULL, *vo = shadow((float *)a.out + r * ldo);
    double sum = 0, cross = 0;
    for (int i = 0; i < a.dim; i++) {
      const double s = (double)x[i] + (res ? res[i] : 0), v = (double)vx[i] + (res ? vres[i] : 0);
      sum += s * s;
      cross += s * s * v;
    }
    // out = s inv w: every s moves its own number by inv w, and all of them through inv = (sum / dim + eps)^-1/2
    const double mean = sum / a.dim + a.eps, all = cross / (mean * a.dim) / (mean * a.dim);
    for (int i = 0; i < a.dim; i++) {
      const double s = (double)x[i] + (res ? res[i] : 0), v = (double)vx[i] + (res ? vres[i] : 0);
      if (res) vres[i] = (float)v;
      vo[i] = (float)((v + s * s * all) / mean * a.weight[i] * a.weight[i]);
    }
  }
  const ti_status st = in()->rmsnorm(d, &a);
  if (a.residual) stored(a.residual, a.n_row, a.dim, 0, ROUND_ACT);  // the norm itself goes on with the sum unrounded
  stored(a.out, a.n_row, a.dim, ldo, ROUND_ACT);
  return st;
}

static ti_status op_embed(ti_dev *d, const ti_embed_args *a) {
  if (mode.analyse) memset(shadow(a->out), 0, (size_t)a->n_row * (size_t)a->hidden * sizeof(float));
  const ti_status st = in()->embed(d, a);
  stored(a->out, a->n_row, a->hidden, 0, ROUND_ACT);
  return st;
}

// q's and k's heads stand side by side; with the fault the first one of q is rotated twice: by its place, and by one place more.
static ti_status rotated(ti_dev *d, const ti_rope_args *a) {
  static const int32_t one[MAX_PLACES] = {[0 ... MAX_PLACES - 1] = 1};
  ti_rope_args more = *a;
  more.position = one;
  more.n_head = 1;
  more.ld = a->ld ? a->ld : (int64_t)a->n_head * a->head_dim;
  const ti_status st = in()->rope(d, a);
  return !st && mode.fault == FAULT_ROPE ? in()->rope(d, &more) : st;
}

static ti_status op_rope(ti_dev *d, const ti_rope_args *a) {
  const int half = a->rope_dim / 2;
  const int64_t ld = a->ld ? a->ld : (int64_t)a->n_head * a->head_dim;
  for (int64_t r = 0; mode.analyse && r < a->n_row; r++)
    for (int h = 0; h < a->n_head; h++) {
      float *v = shadow((float *)a->x + r * ld + (int64_t)h * a->head_dim + a->offset);
      for (int i = 0; i < half; i++) {
        const double angle = (double)a->position[r] * a->inv_freq[i], c2 = cos(angle) * cos(angle), f = (double)a->attn_factor * a->attn_factor;
        float *p = a->interleaved ? v + 2 * i : v + i, *q = a->interleaved ? p + 1 : p + half;
        const double vp = *p, vq = *q;
        *p = (float)(f * (c2 * vp + (1 - c2) * vq));
        *q = (float)(f * (c2 * vq + (1 - c2) * vp));
      }
    }
  const ti_status st = rotated(d, a);
  for (int h = 0; h < a->n_head; h++) stored((float *)a->x + (int64_t)h * a->head_dim + a->offset, a->n_row, a->rope_dim, ld, ROUND_ACT);
  return st;
}

// A row of W squared, met by variances: sums in lanes, so that the compiler vectorises it.
static float dot_squared(const float *w, const float *v, int64_t n) {
  float lane[LANES] = {0}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; j++) lane[j] += w[i + j] * w[i + j] * v[i + j];
  for (; i < n; i++) sum += w[i] * w[i] * v[i];
  for (int j = 0; j < LANES; j++) sum += lane[j];
  return sum;
}

static ti_status product(ti_dev *d, const ti_gemm_args *a) {  // ref's weights: fp32 rows
  const int64_t ldx = a->ldx ? a->ldx : a->w->k, ldo = a->ldo ? a->ldo : a->w->n;
  for (int64_t r = 0; mode.analyse && r < a->m; r++) {
    const float *vx = shadow((const float *)a->x + r * ldx);
    float *vo = shadow((float *)a->out + r * ldo);
    for (int64_t n = 0; n < a->w->n; n++) vo[n] = dot_squared((const float *)a->w->data + n * a->w->ld, vx, a->w->k);
  }
  return in()->gemm(d, a);
}

static ti_status op_gemm(ti_dev *d, const ti_gemm_args *a) {
  assert(!a->accumulate && !a->x_scale);
  const ti_status st = product(d, a);
  for (int64_t i = 0; mode.fault == FAULT_DOWN && a->w->k > a->w->n && i < a->m * a->w->n; i++) ((float *)a->out)[i] *= 1.01f;
  stored(a->out, a->m, a->w->n, a->ldo, ROUND_ACT);
  return st;
}

static ti_status op_gemm_silu_mul(ti_dev *d, const ti_gemm_silu_mul_args *a) {
  const int64_t dim = a->w->n / 2;
  ti_status st = product(d, &(ti_gemm_args){.out = a->tmp, .x = a->x, .w = a->w, .m = a->m, .out_dtype = TI_F32});
  stored(a->tmp, a->m, 2 * dim, 0, ROUND_GATE_UP);
  if (!st) st = in()->silu_mul(d, &(ti_silu_mul_args){.out = a->out, .gate_up = a->tmp, .n_row = a->m, .dim = (int)dim});
  for (int64_t r = 0; mode.analyse && r < a->m; r++) {
    const float *g = (const float *)a->tmp + r * 2 * dim, *u = g + dim, *vg = shadow(g), *vu = shadow(u);
    float *vo = shadow((float *)a->out + r * dim);
    for (int64_t i = 0; i < dim; i++) {
      const float s = 1.0f / (1.0f + expf(-g[i])), slope = s * (1.0f + g[i] * (1.0f - s)) * u[i];
      vo[i] = slope * slope * vg[i] + s * g[i] * s * g[i] * vu[i];
    }
  }
  stored(a->out, a->m, dim, 0, ROUND_ACT);
  return st;
}

static ti_status op_kv_append(ti_dev *d, const ti_kv_append_args *a) {
  const ti_kv_layout *l = a->layout;
  assert(l->kind == TI_KV_GQA && l->dtype == TI_F32);
  const int64_t n = (int64_t)l->n_kv_head * l->head_dim;
  if (!(mode.places & ROUND_ACT)) {  // else both are bf16 already
    stored((void *)(uintptr_t)a->k, a->batch->n_row, n, a->ldk, ROUND_KV);
    stored((void *)(uintptr_t)a->v, a->batch->n_row, n, a->ldv, ROUND_KV);
  }
  ti_kv_append_args s = *a;
  s.kv = shadow(a->kv), s.k = shadow(a->k), s.v = shadow(a->v);
  const ti_status st = mode.analyse ? in()->kv_append(d, &s) : TI_OK;
  return st ? st : in()->kv_append(d, a);
}

// ---- attention ----

static const float *head_of(const ti_attention_args *a, int seq, int place, int head, bool v) {
  const ti_kv_layout *l = a->layout;
  const int32_t page = a->batch->block_table[(int64_t)seq * a->batch->table_stride + place / l->page_tokens];
  return (const float *)(const void *)((const char *)a->kv + (size_t)page * l->page_bytes + (size_t)a->layer * l->layer_bytes + (v ? l->v_offset : 0) +
                                       (size_t)head * l->head_stride + (size_t)(place % l->page_tokens) * l->token_stride);
}

typedef struct attended {  // one row and head: places [0, n), and what each weighs
  const float *q, *k[MAX_PLACES], *v[MAX_PLACES];
  int n;
  double weight[MAX_PLACES];  // softmax
  float p[MAX_PLACES];        // 2^(score - largest of its span of 128), as it meets V
} attended;

static void weigh(const ti_attention_args *a, attended *t, float scale) {
  const int dim = a->layout->head_dim;
  double score[MAX_PLACES], top = -INFINITY, span_top = 0, sum = 0;
  for (int p = 0; p < t->n; p++) {
    score[p] = 0;
    for (int i = 0; i < dim; i++) score[p] += (double)t->q[i] * t->k[p][i];
    score[p] *= scale;
    top = fmax(top, score[p]);
  }
  for (int p = 0; p < t->n; p++) {
    if (p % SPAN == 0) span_top = -INFINITY;
    for (int i = p; p % SPAN == 0 && i < t->n && i < p + SPAN; i++) span_top = fmax(span_top, score[i]);
    t->p[p] = (float)exp(score[p] - span_top);
    t->weight[p] = exp(score[p] - top);
    sum += t->weight[p];
  }
  for (int p = 0; p < t->n; p++) t->weight[p] /= sum;
}

// First-order errors of out = sum w v, w = softmax(scale q . k):
//   v: w^2 var(v)     p: (w v)^2 var(p) / p^2     k: dscore = scale q . dk, and dout = w (v - out) dscore, places apart
//   q: the same of all places together, dout = scale sum_p w (v - out) (k . dq)
static void attend_variance(const attended *t, int dim, float scale, const float *vq, const float *out, float *var) {
  static float jacobian[MAX_DIM][MAX_DIM];
  double sum[MAX_DIM] = {0};
  memset(jacobian, 0, sizeof jacobian);
  for (int p = 0; p < t->n; p++) {
    const float w = (float)t->weight[p], *k = t->k[p], *v = t->v[p], *vk = shadow(k), *vv = shadow(v);
    const float x = t->p[p], cut = mode.places & ROUND_ACT && x > 0 && x < 1 ? rounding_of(x) / (x * x) : 0;  // a span's largest is 1, exactly
    double score = 0;
    for (int i = 0; i < dim; i++) score += (double)t->q[i] * t->q[i] * vk[i];
    score *= (double)scale * scale;
    for (int i = 0; i < dim; i++) {
      const float moved = w * (v[i] - out[i]);
      sum[i] += (double)w * w * (vv[i] + v[i] * v[i] * cut) + moved * moved * score;
      for (int e = 0; e < dim; e++) jacobian[i][e] += moved * k[e];
    }
  }
  for (int i = 0; i < dim; i++) {
    for (int e = 0; e < dim; e++) sum[i] += (double)scale * scale * jacobian[i][e] * jacobian[i][e] * vq[e];
    var[i] = (float)sum[i];
  }
}

static void attend(const ti_attention_args *a, int row, int head, const float *q, float *out) {
  static attended t;
  const ti_batch *b = a->batch;
  const int dim = a->layout->head_dim, seq = b->seq[row];
  int kv = head / (a->n_head / a->layout->n_kv_head);
  float scale = a->scale;
  if (mode.fault == FAULT_HEAD && head == a->n_head - 1) kv = 0;
  if (mode.fault == FAULT_SCALE) scale *= 1.01f;
  const int first = mode.fault == FAULT_PLACE && b->place[row] > 0, last = b->place[row] < b->seq_kv_len[seq] ? b->place[row] : b->seq_kv_len[seq] - 1;
  t.q = q;
  t.n = last + 1 - first;
  assert(t.n <= MAX_PLACES && dim <= MAX_DIM && !b->mask && !b->kv_first && !a->window);
  for (int p = 0; p < t.n; p++) t.k[p] = head_of(a, seq, p + first, kv, false), t.v[p] = head_of(a, seq, p + first, kv, true);
  weigh(a, &t, scale);
  double sum[MAX_DIM] = {0};
  for (int p = 0; p < t.n; p++) {
    const bool rounds = mode.places & ROUND_ACT && !mode.analyse && t.p[p] > 0;
    const double w = rounds ? t.weight[p] * (round_one(t.p[p]) / (double)t.p[p]) : t.weight[p];
    for (int i = 0; i < dim; i++) sum[i] += w * t.v[p][i];
  }
  for (int i = 0; i < dim; i++) out[i] = (float)sum[i];
  if (mode.analyse) attend_variance(&t, dim, scale, shadow(q), out, shadow(out));
}

static ti_status op_attention(ti_dev *d, const ti_attention_args *a) {
  const int dim = a->layout->head_dim;
  const int64_t packed = (int64_t)a->n_head * dim, ldq = a->ldq ? a->ldq : packed, ldo = a->ldo ? a->ldo : packed;
  for (int r = 0; r < a->batch->n_row; r++)
    for (int h = 0; h < a->n_head; h++) attend(a, r, h, (const float *)a->q + r * ldq + (int64_t)h * dim, (float *)a->out + r * ldo + (int64_t)h * dim);
  stored(a->out, a->batch->n_row, packed, ldo, ROUND_ACT);
  return TI_OK;
}

// ---- the tables ----

// Entry by entry: one that the reference gets some day, a fused form say, must not pass by what is counted here.
static const ti_kernels *table(unsigned places, bool analyse, rounding_fault fault) {
  static ti_kernels k;
  const ti_kernels *r = in();
  mode.places = places;
  mode.analyse = analyse;
  mode.fault = fault;
  k = (ti_kernels){.name = analyse ? "analysed" : "rounded",
                   .act = TI_F32,
                   .open = dev_open,
                   .close = dev_close,
                   .alloc = dev_alloc,
                   .free = dev_free,
                   .alloc_host = host_alloc,
                   .free_host = host_free,
                   .upload = r->upload,
                   .download = dev_download,
                   .sync = r->sync,
                   .copy = r->copy,
                   .zero = r->zero,
                   .mark = r->mark,
                   .done = r->done,
                   .wait = r->wait,
                   .reserve = r->reserve,
                   .weight_size = r->weight_size,
                   .weight_prepare = r->weight_prepare,
                   .embed = op_embed,
                   .rmsnorm = op_rmsnorm,
                   .rope = op_rope,
                   .kv_append = op_kv_append,
                   .gemm = op_gemm,
                   .gemm_silu_mul = op_gemm_silu_mul,
                   .attention = op_attention,
                   .permute = r->permute,
                   .penalties = r->penalties,
                   .logprobs = r->logprobs,
                   .sample = r->sample,
                   .tokens = r->tokens,
                   .feed = r->feed};
  return &k;
}

const ti_kernels *rounding_analysed(unsigned places) { return table(places, true, FAULT_NONE); }
const ti_kernels *rounding_rounded(unsigned places, rounding_fault fault) { return table(places, false, fault); }
