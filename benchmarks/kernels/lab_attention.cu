// Paged GQA attention: against an fp64 oracle over shapes, pages, windows and trees, with everything that may not be read poisoned; whether a row's
// bits depend on anything but the row; then time, for decode beside the bytes of K and V, for prefill beside the products that causality leaves.
//
//   lab_attention [--quick] [--json FILE] [check | time | layers | prefill]
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_priv.h"

// ---- one scenario ---------------------------------------------------------------------------------------------------------------------------------

typedef struct shape {
  int n_seq, past, rows;  // every sequence; past: places before the rows
  int n_head, n_kv_head, dim, page_tokens;
  ti_dtype type;
  int window, first;
  bool tree;
  int step;         // past differs by this from one sequence to the next
  int decode_seqs;  // so many sequences of one row before the others
  int max_kv_len;   // as ti_batch's; 0: the longest
  int alone;        // 1 + sequence: that one only, with the data it has among all
  int from;         // rows from this one on only: the rest of the run is past
  int n_layer;      // 0: two, of which the second is used
} shape;

typedef struct world {
  lab *l;
  shape s;
  ti_kv_layout lay;
  ti_batch b;
  uint8_t *pool;
  void *q, *out;
  size_t n_out;  // numbers
  int32_t *dev[6];
  uint64_t *mask;
  size_t kv_places;
  double causal_pairs;  // (row, place) pairs attended
} world;

static __device__ uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
static __device__ float unit(uint64_t key) { return (float)(mix64(key) >> 40) * 0x1p-23f - 1.0f; }

// K and V of the places that exist: the numbers depend on (sequence's name, place, head, index) alone.
static __global__ void fill_kv(uint8_t *pool, ti_kv_layout l, int layer, const int32_t *table, int stride, const int32_t *len, const int32_t *first,
                               int name0) {
  const int s = blockIdx.y, head = blockIdx.z >> 1, v = blockIdx.z & 1;
  for (int p = (first ? first[s] : 0) + blockIdx.x; p < len[s]; p += gridDim.x) {
    uint8_t *at = pool + (size_t)table[(size_t)s * stride + p / l.page_tokens] * l.page_bytes + (size_t)layer * l.layer_bytes;
    const int slot = p % l.page_tokens;
    uint8_t *x = at + (v ? l.v_offset : 0) + (size_t)head * l.head_stride + (size_t)slot * l.token_stride;
    const uint64_t key = (((uint64_t)(s + name0) * 2 + v) << 50) + ((uint64_t)p << 24) + ((uint64_t)head << 12);
    for (int i = threadIdx.x; i < l.head_dim; i += blockDim.x) {
      const float u = unit(key + i);
      if (l.dtype == TI_F32) ((float *)x)[i] = u;
      if (l.dtype == TI_BF16) ((__nv_bfloat16 *)x)[i] = __float2bfloat16_rn(u);
      if (l.dtype == TI_E4M3) x[i] = (uint8_t)__nv_cvt_float_to_fp8(400.0f * u, __NV_SATFINITE, __NV_E4M3);
    }
    if (l.dtype == TI_E4M3 && threadIdx.x == 0) {
      ((float *)(at + (v ? l.v_scale_offset : l.k_scale_offset)))[head * l.page_tokens + slot] = (1.0f + 0.5f * unit(key + 4000)) / 400.0f;
    }
  }
}
// q by (sequence's name, place): the same row has the same q in every scenario.
static __global__ void fill_q(__nv_bfloat16 *q, int width, const int32_t *seq, const int32_t *place, int name0) {
  const int r = blockIdx.x;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    q[(size_t)r * width + i] = __float2bfloat16_rn(2.0f * unit(((uint64_t)(seq[r] + name0 + 5000) << 45) + ((uint64_t)place[r] << 20) + i));
  }
}

static int32_t *up(world *w, const int32_t *host, size_t n) {
  int32_t *p = (int32_t *)lab_alloc(w->l, n * 4 + 64);
  lab_ok(w->l, cudaMemcpyAsync(p, host, n * 4, cudaMemcpyHostToDevice, w->l->stream), "upload");  // behind lab_alloc's poison
  lab_sync(w->l, "upload");
  return p;
}

static void make(world *w, lab *l, const shape *s) {
  memset(w, 0, sizeof *w);
  w->l = l, w->s = *s;
  w->lay.kind = TI_KV_GQA, w->lay.dtype = s->type, w->lay.page_tokens = s->page_tokens, w->lay.n_kv_head = s->n_kv_head;
  w->lay.head_dim = s->dim, w->lay.n_layer = s->n_layer ? s->n_layer : 2;
  ti_error err = {};
  if (ti_kv_layout_init(&w->lay, &err) != TI_OK) lab_expect(l, false, "%s", err.text), exit(1);
  const int first_seq = s->alone ? s->alone - 1 : 0, n_seq = s->alone ? 1 : s->n_seq;
  int *rows = (int *)calloc((size_t)n_seq, 4), *past = (int *)calloc((size_t)n_seq, 4), n_row = 0, most = 0, longest = 0, pages = 1;
  int32_t *row0 = (int32_t *)calloc((size_t)n_seq + 1, 4), *len = (int32_t *)calloc((size_t)n_seq, 4), *first = (int32_t *)calloc((size_t)n_seq, 4);
  for (int i = 0; i < n_seq; i++) {
    const int name = first_seq + i, all = name < s->decode_seqs ? 1 : s->rows;
    rows[i] = all - s->from, past[i] = s->past + name * s->step + s->from;
    if (rows[i] < 0) rows[i] = 0, past[i] = s->past + name * s->step + all;
    n_row += rows[i], len[i] = past[i] + rows[i], first[i] = s->first, row0[i + 1] = n_row;
    if (rows[i] > most) most = rows[i];
    if (len[i] > longest) longest = len[i];
    pages += (len[i] + s->page_tokens - 1) / s->page_tokens;
    w->kv_places += (size_t)len[i];
    for (int r = 0; r < rows[i]; r++) w->causal_pairs += past[i] + r + 1;
  }
  const int stride = (longest + s->page_tokens - 1) / s->page_tokens + 2;
  int32_t *table = (int32_t *)malloc((size_t)n_seq * stride * 4), *deck = (int32_t *)malloc((size_t)pages * 4);
  for (int i = 0; i < pages; i++) deck[i] = i;
  uint64_t x = 88172645463325252ull;
  for (int i = pages - 1; i > 0; i--) {  // page ids in no order
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    const int j = (int)(x % (uint64_t)(i + 1)), t = deck[i];
    deck[i] = deck[j], deck[j] = t;
  }
  int next = 0;
  for (int i = 0; i < n_seq; i++) {
    for (int p = 0; p < stride; p++) table[(size_t)i * stride + p] = p * s->page_tokens < len[i] ? deck[next++] : 0x7f000000;
  }
  int32_t *place = (int32_t *)malloc((size_t)n_row * 4 + 4), *seq = (int32_t *)malloc((size_t)n_row * 4 + 4);
  uint64_t *mask = (uint64_t *)malloc((size_t)n_row * 8 + 8);
  for (int i = 0, r = 0; i < n_seq; i++) {
    for (int k = 0; k < rows[i]; k++, r++) {
      place[r] = past[i] + k, seq[r] = i;
      const int parent = k == 0 ? -1 : (k * 7 + i) % k;
      mask[r] = 1ull << (k & 63) | (parent < 0 || parent == k ? 0 : mask[r - k + parent]);
    }
  }
  w->pool = (uint8_t *)lab_alloc(l, (size_t)pages * w->lay.page_bytes);
  const int width = s->n_head * s->dim;
  w->n_out = (size_t)n_row * width;
  w->q = lab_alloc(l, w->n_out * 2), w->out = lab_alloc(l, w->n_out * 2);
  w->dev[0] = up(w, place, n_row), w->dev[1] = up(w, seq, n_row), w->dev[2] = up(w, row0, n_seq + 1), w->dev[3] = up(w, len, n_seq);
  w->dev[4] = up(w, first, n_seq), w->dev[5] = up(w, table, (size_t)n_seq * stride);
  w->mask = (uint64_t *)up(w, (const int32_t *)mask, 2 * (size_t)n_row);
  w->b.n_row = n_row, w->b.n_seq = n_seq, w->b.max_seq_rows = most, w->b.position = w->b.place = w->dev[0], w->b.seq = w->dev[1];
  w->b.seq_row0 = w->dev[2], w->b.seq_kv_len = w->dev[3], w->b.kv_first = s->first ? w->dev[4] : NULL, w->b.block_table = w->dev[5];
  w->b.table_stride = stride, w->b.mask = s->tree ? w->mask : NULL, w->b.max_kv_len = s->max_kv_len ? s->max_kv_len : longest;
  for (int layer = s->n_layer ? 0 : 1; layer < w->lay.n_layer; layer++) {
    fill_kv<<<dim3(256, n_seq, 2 * s->n_kv_head), 128, 0, l->stream>>>(w->pool, w->lay, layer, w->dev[5], stride, w->dev[3], w->b.kv_first,
                                                                       first_seq);
  }
  fill_q<<<n_row, 256, 0, l->stream>>>((__nv_bfloat16 *)w->q, width, w->dev[1], w->dev[0], first_seq);
  lab_sync(l, "fill");
  free(rows), free(past), free(row0), free(len), free(first), free(table), free(deck), free(place), free(seq), free(mask);
}
static void drop(world *w) {
  lab_free(w->l, w->pool), lab_free(w->l, w->q), lab_free(w->l, w->out), lab_free(w->l, w->mask);
  for (int i = 0; i < 6; i++) lab_free(w->l, w->dev[i]);
}

static ti_attention_args args_of(const world *w) {
  ti_attention_args a = {};
  a.out = w->out, a.q = w->q, a.kv = w->pool, a.layout = &w->lay, a.batch = &w->b, a.layer = 1, a.n_head = w->s.n_head;
  a.scale = 1.0f / sqrtf((float)w->s.dim), a.window = w->s.window;
  return a;
}
static void run(void *arg) {
  world *w = (world *)arg;
  const ti_attention_args a = args_of(w);
  lab_op(w->l, ti_cuda_attention(&w->l->dev, &a), "attention");
}
enum { CHAIN = 22 };
static void run_chain(void *arg) {
  for (int i = 0; i < CHAIN; i++) run(arg);
}
// As a decode step does: a layer's keys and values of this step are appended, then it is attended. q's numbers serve as keys and values, too.
static void append_layer(world *w, int layer) {
  ti_kv_append_args k = {};
  k.layout = &w->lay, k.kv = w->pool, k.layer = layer, k.batch = &w->b, k.k = w->q, k.v = w->q;
  k.ldk = k.ldv = (int64_t)w->s.n_head * w->s.dim;
  lab_op(w->l, ti_cuda_kv_append(&w->l->dev, &k), "kv_append");
}
static void run_appends(void *arg) {
  world *w = (world *)arg;
  for (int i = 0; i < w->lay.n_layer; i++) append_layer(w, i);
}
static void run_layers(void *arg) {
  world *w = (world *)arg;
  ti_attention_args a = args_of(w);
  for (int i = 0; i < w->lay.n_layer; i++) {
    append_layer(w, i);
    a.layer = i;
    lab_op(w->l, ti_cuda_attention(&w->l->dev, &a), "attention");
  }
}

// ---- the oracle: two passes would need all scores; 256 places at a time, in fp64
// ---------------------------------------------------------------------

static __device__ double kv_number(const uint8_t *p, ti_dtype t, int i) {
  if (t == TI_F32) return ((const float *)p)[i];
  if (t == TI_BF16) return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(p[i], __NV_E4M3)));
}
static __global__ void oracle(ti_kv_layout l, ti_batch b, const uint8_t *pool, int layer, const __nv_bfloat16 *q, int n_head, float scale, int window,
                              double *ref, double *mag) {
  __shared__ double s[256], top;
  __shared__ const uint8_t *at[256];
  __shared__ double vscale[256];
  const int row = blockIdx.x, h = blockIdx.y, head = h / (n_head / l.n_kv_head), t = threadIdx.x, seq = b.seq[row];
  const int own0 = b.place[b.seq_row0[seq]];
  int lo = b.kv_first ? b.kv_first[seq] : 0, hi = min(b.place[row], b.seq_kv_len[seq] - 1);
  if (window) lo = max(lo, b.place[row] - window + 1);
  double m = -INFINITY, sum = 0, o = 0, om = 0;
  for (int p0 = lo; p0 <= hi; p0 += 256) {
    const int p = p0 + t, own = p - own0;
    double x = -INFINITY;
    if (p <= hi && !(b.mask && own >= 0 && !(b.mask[row] >> (own & 63) & 1))) {
      const uint8_t *page =
          pool + (size_t)b.block_table[(size_t)seq * b.table_stride + p / l.page_tokens] * l.page_bytes + (size_t)layer * l.layer_bytes;
      const int slot = p % l.page_tokens;
      const uint8_t *k = page + (size_t)head * l.head_stride + (size_t)slot * l.token_stride;
      double d = 0;
      for (int i = 0; i < l.head_dim; i++) d += (double)__bfloat162float(q[((size_t)row * n_head + h) * l.head_dim + i]) * kv_number(k, l.dtype, i);
      vscale[t] = 1;
      if (l.dtype == TI_E4M3) {
        d *= ((const float *)(page + l.k_scale_offset))[head * l.page_tokens + slot];
        vscale[t] = ((const float *)(page + l.v_scale_offset))[head * l.page_tokens + slot];
      }
      at[t] = k + l.v_offset;
      x = d * scale;
    }
    s[t] = x;
    __syncthreads();
    if (t == 0) {
      double v = m;
      for (int i = 0; i < 256; i++) v = fmax(v, s[i]);
      top = v;
    }
    __syncthreads();
    const double now = top, shrink = m == -INFINITY ? 0.0 : exp(m - now);
    m = now, sum *= shrink, o *= shrink, om *= shrink;
    for (int i = 0; i < 256; i++) {
      if (s[i] == -INFINITY) continue;
      const double e = exp(s[i] - now);
      sum += e;
      if (t < l.head_dim) {
        const double v = kv_number(at[i], l.dtype, t) * vscale[i];
        o += e * v, om += e * fabs(v);
      }
    }
    __syncthreads();
  }
  if (t >= l.head_dim) return;
  ref[((size_t)row * n_head + h) * l.head_dim + t] = sum > 0 ? o / sum : 0;
  mag[((size_t)row * n_head + h) * l.head_dim + t] = sum > 0 ? om / sum : 0;
}

static const char *name_of(const shape *s) {
  static char text[160];
  snprintf(text, sizeof text, "%s b%d s%d+%d (decode %d) %d/%d d%d page %d%s%s",
           s->type == TI_BF16  ? "bf16"
           : s->type == TI_F32 ? "fp32"
                               : "e4m3",
           s->n_seq, s->past, s->rows, s->decode_seqs, s->n_head, s->n_kv_head, s->dim, s->page_tokens, s->window ? " window" : "",
           s->tree ? " tree" : "");
  return text;
}

static void check(lab *l, const shape *s) {
  static world w;
  make(&w, l, s);
  double *ref = (double *)lab_alloc(l, w.n_out * 8), *mag = (double *)lab_alloc(l, w.n_out * 8);
  oracle<<<dim3(w.b.n_row, s->n_head), 256, 0, l->stream>>>(w.lay, w.b, w.pool, 1, (const __nv_bfloat16 *)w.q, s->n_head, 1.0f / sqrtf((float)s->dim),
                                                            s->window, ref, mag);
  lab_sync(l, "oracle");
  run(&w);
  lab_sync(l, name_of(s));
  const lab_error e = lab_compare(l, w.out, TI_BF16, s->dim, ref, mag, (int)(w.n_out / s->dim), s->dim, 0x1p-8);
  const uint64_t h = lab_hash(l, w.out, w.n_out * 2);
  lab_poison(l, w.out, w.n_out * 2);
  run(&w);
  const bool again = h == lab_hash(l, w.out, w.n_out * 2);
  lab_expect(l, e.worst <= 1.0 && e.diff < 1e-4, "%s: worst %.3g of the bound at %lld, diff %.2e", name_of(s), e.worst, (long long)e.at, e.diff);
  lab_expect(l, again, "%s: other bits the second time", name_of(s));
  printf("  %-62s worst %.3f of the bound, rel %.2e\n", name_of(s), e.worst, e.rel);
  fflush(stdout);
  lab_free(l, ref), lab_free(l, mag);
  drop(&w);
}

// The rows that two scenarios share have the same bits: b's rows stand at numbers `skip` .. of a's.
static void same(lab *l, const char *what, const shape *x, const shape *y, size_t skip_rows) {
  static world a, b;
  make(&a, l, x);
  make(&b, l, y);
  run(&a);
  lab_sync(l, what);
  run(&b);
  lab_sync(l, what);
  const size_t row = (size_t)x->n_head * x->dim * 2;
  const bool ok = lab_same(l, (char *)a.out + skip_rows * row, b.out, b.n_out * 2);
  lab_expect(l, ok, "%s: other bits (%s)", what, name_of(x));
  printf("  same bits, %-48s %s\n", what, ok ? "yes" : "NO");
  fflush(stdout);
  drop(&a), drop(&b);
}

static shape base(int n_seq, int past, int rows, int n_head, int n_kv_head, int dim, int page) {
  shape s = {};
  s.n_seq = n_seq, s.past = past, s.rows = rows, s.n_head = n_head, s.n_kv_head = n_kv_head, s.dim = dim, s.page_tokens = page, s.type = TI_BF16;
  return s;
}

// What is appended right before: attention may fetch older places before the append has ended, never the new ones. Each layer, several times in a
// graph with other numbers in q (and so in the new K and V) each time; then against the same batch, attended after everything has ended.
static __global__ void scale_q(__nv_bfloat16 *q, size_t n, float f) {
  const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (i < n) q[i] = __float2bfloat16_rn(__bfloat162float(q[i]) * f);
}
static void run_early(void *arg) {
  world *w = (world *)arg;
  run_layers(arg);
  scale_q<<<(unsigned)((w->n_out + 255) / 256), 256, 0, w->l->stream>>>((__nv_bfloat16 *)w->q, w->n_out, -0.5f);
  run_layers(arg);
}
static void early(lab *l) {
  static const int d[][5] = {{64, 32, 8, 128, 200}, {300, 32, 4, 64, 129}, {1, 32, 4, 64, 77},
                             {3, 32, 8, 128, 1025}, {2, 12, 4, 96, 1},     {64, 32, 8, 128, 900}};
  for (int i = 0; i < 12; i++) {
    static world w;
    const int *x = d[i / 2];
    shape s = base(x[0], x[4] - 1, i / 2 == 4 ? 4 : 1, x[1], x[2], x[3], i % 3 ? 64 : 16);
    s.n_layer = 3, s.step = 3, s.type = i % 2 ? TI_E4M3 : TI_BF16;
    make(&w, l, &s);
    lab_time_chain_us(l, run_early, &w, 1);
    run_early(&w);
    lab_sync(l, name_of(&s));
    const uint64_t h = lab_hash(l, w.out, w.n_out * 2);
    lab_poison(l, w.out, w.n_out * 2);
    lab_sync(l, "poison");
    ti_attention_args a = args_of(&w);
    a.layer = 2;
    lab_op(l, ti_cuda_attention(&l->dev, &a), "attention");
    lab_sync(l, name_of(&s));
    const bool ok = h == lab_hash(l, w.out, w.n_out * 2);
    lab_expect(l, ok, "%s: other bits right behind the append", name_of(&s));
    printf("  %-62s %s\n", name_of(&s), ok ? "yes" : "NO");
    drop(&w);
  }
}

static void checks(lab *l) {
  printf("\nagainst fp64\n");
  static const int bs[][2] = {{1, 128}, {1, 339}, {3, 799}, {3, 1024}, {16, 20000}, {64, 800}, {64, 2048}};
  static const int pages[] = {16, 64, 128}, lens[] = {1, 127, 128, 129, 511, 512, 513, 640}, dims[] = {64, 80, 96, 128, 256, 33};
  for (int i = 0; i < 7; i++) {
    for (int p = 0; p < 3; p++) {
      if (bs[i][1] > 4096 && (l->quick || p != 1)) continue;
      shape s = base(bs[i][0], bs[i][1] - 1, 1, p == 1 ? 32 : 64, 8, p == 2 ? 64 : 128, pages[p]);
      s.step = i == 2 ? 7 : 0;
      check(l, &s);
    }
  }
  for (int i = 0; i < 8; i++) {
    shape s = base(2, lens[i] - 1, 1, 32, 4, 64, i % 2 ? 8 : 256);
    check(l, &s);
  }
  for (int i = 0; i < 6; i++) {
    for (int t = 0; t < 3; t++) {
      shape s = base(2, 300, 5, 6, 2, dims[i], 16);
      s.type = t == 0 ? TI_BF16 : t == 1 ? TI_F32 : TI_E4M3, s.step = 211;
      check(l, &s);
      s.window = 129;
      check(l, &s);
      s.window = 0, s.tree = true, s.rows = 40, s.first = 150;
      check(l, &s);
    }
  }
  shape s = base(1, 131071, 1, 32, 8, 128, 64);
  check(l, &s);
  static const int chunks[][2] = {{0, 1}, {0, 127}, {0, 128}, {0, 129}, {0, 1000}, {700, 300}, {64, 64}, {1000, 17}};
  for (int i = 0; i < 8; i++) {
    for (int d = 0; d < 4; d++) {
      s = base(2, chunks[i][0], chunks[i][1], d == 1 ? 12 : 16, d == 1 ? 12 : 2, d == 0 ? 64 : d == 3 ? 96 : 128, d == 0 ? 16 : 64);
      s.step = 3;
      check(l, &s);
    }
  }
  s = base(6, 500, 200, 32, 8, 128, 64), s.decode_seqs = 4, s.step = 57;
  check(l, &s);
  s.window = 100;
  check(l, &s);

  printf("\nappended and attended at once\n");
  early(l);

  printf("\nbits\n");
  shape x = base(3, 1500, 1, 32, 8, 128, 64), y = x;
  x.step = y.step = 400;
  y.page_tokens = 8;
  same(l, "pages of 64 and of 8", &x, &y, 0);
  y = x, y.max_kv_len = 100000;
  same(l, "max_kv_len 2,301 and 100,000", &x, &y, 0);
  y = x, y.alone = 2;
  same(l, "alone and in a batch of 3", &x, &y, 1);
  x = base(200, 1500, 1, 32, 8, 128, 64), x.step = 5, y = x, y.alone = 151;
  same(l, "alone (split) and in a batch of 200 (whole)", &x, &y, 150);
  for (int d = 0; d < 2; d++) {
    x = base(1, 700, 300, 32, 8, d ? 64 : 128, 64), y = x, y.from = 299;
    same(l, "the last row of a chunk of 300, as decode", &x, &y, 299);
    y.from = 100;
    same(l, "chunks of 300 and of 200", &x, &y, 100);
    y.from = 297;
    same(l, "the last 3 rows of a chunk of 300", &x, &y, 297);
    x.window = y.window = 333;
    same(l, "the same with a window", &x, &y, 297);
  }
}

// ---- time -----------------------------------------------------------------------------------------------------------------------------------------

static void time_of(lab *l, const shape *s, bool chain) {
  static world w;
  make(&w, l, s);
  lab_row r = {};
  char name[96];
  snprintf(name, sizeof name, "b%d %d/%d d%d p%d %s%s", s->n_seq, s->n_head, s->n_kv_head, s->dim, s->page_tokens,
           s->type == TI_E4M3  ? "e4m3"
           : s->type == TI_F32 ? "fp32"
                               : "",
           chain ? " x22" : "");
  r.op = "attention", r.variant = name, r.m = w.b.n_row, r.n = s->n_head, r.k = s->past + s->rows;
  r.us = chain ? lab_time_chain_us(l, run_chain, &w, CHAIN) : lab_time_us(l, run, &w);
  r.flop = 4.0 * w.causal_pairs * s->n_head * s->dim;
  const double kv = (double)w.kv_places * s->n_kv_head * 2 *
                    (s->dim * (s->type == TI_E4M3  ? 1
                               : s->type == TI_F32 ? 4
                                                   : 2) +
                     (s->type == TI_E4M3 ? 4 : 0));
  r.bytes = kv + 4.0 * (double)w.n_out;
  lab_print(l, &r);
  drop(&w);
}

// A step's attention: append and attend, layer after layer, less the appends by themselves.
static void time_layers(lab *l, const shape *s) {
  static world w;
  make(&w, l, s);
  const int n = w.lay.n_layer;
  lab_row r = {};
  char name[96];
  snprintf(name, sizeof name, "b%d %d/%d d%d p%d%s L%d", s->n_seq, s->n_head, s->n_kv_head, s->dim, s->page_tokens, s->type == TI_E4M3 ? " e4m3" : "",
           n);
  const double append = lab_time_chain_us(l, run_appends, &w, n);
  r.op = "attention", r.variant = name, r.m = w.b.n_row, r.n = s->n_head, r.k = s->past + s->rows;
  r.us = lab_time_chain_us(l, run_layers, &w, n) - append;
  r.flop = 4.0 * w.causal_pairs * s->n_head * s->dim;
  r.bytes = (double)w.kv_places * s->n_kv_head * 2 * (s->dim * (s->type == TI_E4M3 ? 1 : 2) + (s->type == TI_E4M3 ? 4 : 0)) + 4.0 * (double)w.n_out;
  r.peer = "append", r.peer_us = append;
  lab_print(l, &r);
  drop(&w);
}

static void times_of_layers(lab *l) {
  lab_head("decode, layer after layer: what attention adds to the append before it (peer: the append alone)");
  static const int d[][5] = {{64, 32, 8, 128, 128}, {64, 32, 8, 128, 192}, {64, 32, 8, 128, 256}, {64, 32, 8, 128, 1024}, {256, 32, 8, 128, 200},
                             {16, 32, 8, 128, 200}, {1, 32, 8, 128, 200},  {64, 32, 4, 64, 200},  {256, 32, 4, 64, 200},  {1, 32, 4, 64, 64},
                             {1, 32, 4, 64, 200},   {1, 32, 4, 64, 512},   {1, 32, 4, 64, 2048}};
  for (int i = 0; i < 13; i++) {
    shape s = base(d[i][0], d[i][4] - 1, 1, d[i][1], d[i][2], d[i][3], 64);
    s.n_layer = d[i][0] > 64 ? 8 : 16, s.max_kv_len = d[i][4] <= 256 ? 256 : 0;
    time_layers(l, &s);
    if (i != 1 && i != 10) continue;
    s.type = TI_E4M3;
    time_layers(l, &s);
  }
}

static void times(lab *l) {
  lab_head("decode (m rows, n heads, k places)");
  static const int d[][6] = {{128, 64, 8, 128, 4096, 64}, {128, 32, 8, 128, 4096, 64}, {64, 32, 4, 64, 2048, 16},  {64, 32, 4, 64, 2048, 64},
                             {1, 32, 8, 128, 131072, 64}, {8, 32, 8, 128, 32768, 64},  {16, 32, 8, 128, 4096, 64}, {64, 32, 4, 64, 256, 64},
                             {64, 32, 8, 128, 256, 64},   {256, 32, 4, 64, 256, 64}};
  for (int i = 0; i < 10; i++) {
    shape s = base(d[i][0], d[i][4] - 1, 1, d[i][1], d[i][2], d[i][3], d[i][5]);
    time_of(l, &s, false);
  }
  shape s = base(128, 4095, 1, 64, 8, 128, 64);
  s.type = TI_E4M3;
  if (!l->quick) time_of(l, &s, false);
  lab_head("decode at batch 1, 22 in one graph (K and V in L2 after the first)");
  static const int one[][4] = {{4, 64, 64, 64},   {4, 64, 256, 64},  {4, 64, 512, 64},   {4, 64, 1024, 64},
                               {4, 64, 2048, 64}, {8, 128, 256, 64}, {8, 128, 2048, 64}, {8, 128, 8192, 64}};
  for (int i = 0; i < 8; i++) {
    s = base(1, one[i][2] - 1, 1, 32, one[i][0], one[i][1], one[i][3]);
    time_of(l, &s, true);
  }
  s = base(1, 255, 1, 32, 4, 64, 64), s.max_kv_len = 2048;
  printf("context 256 in a launch for 2,048:\n");
  time_of(l, &s, true);
  lab_head("verification (8 rows)");
  s = base(8, 2048, 8, 32, 8, 128, 64);
  time_of(l, &s, false);
  s = base(1, 2048, 8, 32, 8, 128, 64);
  time_of(l, &s, true);
}

static void prefill_times(lab *l) {
  shape s;
  lab_head("prefill, causal");
  static const int p[][6] = {{1, 0, 4096, 32, 8, 128}, {1, 0, 16384, 16, 16, 128}, {8, 0, 2048, 32, 4, 64},
                             {8, 0, 2048, 32, 8, 128}, {1, 0, 512, 32, 8, 128},    {1, 7680, 512, 32, 8, 128}};
  for (int i = 0; i < 6; i++) {
    s = base(p[i][0], p[i][1], p[i][2], p[i][3], p[i][4], p[i][5], 64);
    if (l->quick && i == 1) continue;
    time_of(l, &s, false);
  }
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_attention", &argc, argv);
  l.dev.pdl = true;
  const char *what = argc > 1 ? argv[1] : "";
  if (!*what || strcmp(what, "check") == 0) checks(&l);
  if (!*what || strcmp(what, "layers") == 0 || strcmp(what, "time") == 0) times_of_layers(&l);
  if (!*what || strcmp(what, "time") == 0) times(&l);
  if (!*what || strcmp(what, "time") == 0 || strcmp(what, "prefill") == 0) prefill_times(&l);
  return lab_close(&l);
}
