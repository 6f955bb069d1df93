#include "tests/golden/late.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA_BYTES ((size_t)4 << 30)
enum { ARGS = 320, NOT_YET = 3 };

typedef struct late late;
typedef struct item {
  ti_status (*run)(late *l, void *args);
  char args[ARGS];
  ti_batch batch;
  void *own;  // malloc'ed: what an upload brings, a copy_pages' lists
} item;

typedef struct list {
  item **v;
  size_t n, cap;
} list;

struct ti_dev_graph {
  list ops;
};

struct late {
  ti_dev *dev;
  char *arena;
  size_t used;
  list queue;
  size_t done;  // of the queue have run
  size_t mark[TI_DEV_MARKS];
  int asked[TI_DEV_MARKS];
  ti_dev_graph *recording;
  ti_status failed;
  bool deterministic;
};

static int n_launch, n_record, n_chain, most_ahead;
static bool refuse;
int late_launches(void) { return n_launch; }
int late_recordings(void) { return n_record; }
int late_chains(void) { return n_chain; }
int late_most_ahead(void) { return most_ahead; }
void late_refuse_recording(bool yes) { refuse = yes; }

static const ti_kernels *in(void) { return ti_kernels_cpu(); }
static late *of(ti_dev *d) { return (late *)(void *)d; }

static void protect(late *l, int how) {
  if (l->used && mprotect(l->arena, (l->used + 4095) & ~(size_t)4095, how)) abort();
}

static item *push(late *l, ti_status (*run)(late *, void *), const void *args, size_t bytes) {
  assert(bytes <= ARGS);
  list *q = l->recording ? &l->recording->ops : &l->queue;
  if (q->n == q->cap) {
    q->cap = q->cap ? 2 * q->cap : 256;
    q->v = realloc(q->v, q->cap * sizeof *q->v);
  }
  item *i = calloc(1, sizeof *i);
  i->run = run;
  memcpy(i->args, args, bytes);
  return q->v[q->n++] = i;
}

static void drop(item *i) {
  free(i->own);
  free(i);
}

static ti_status run_until(late *l, size_t end) {
  protect(l, PROT_READ | PROT_WRITE);
  for (; l->done < end; l->done++) {
    item *i = l->queue.v[l->done];
    if (!l->failed) l->failed = i->run(l, i->args);
    drop(i);
  }
  protect(l, PROT_NONE);
  if (l->done == l->queue.n) {
    for (int i = 0; i < TI_DEV_MARKS; i++) l->mark[i] = l->mark[i] > l->done ? l->mark[i] - l->done : 0;
    l->queue.n = l->done = 0;
  }
  return l->failed;
}

// ---- device and memory ----

static ti_status late_open(const ti_dev_options *o, ti_dev **out, ti_error *err) {
  late *l = calloc(1, sizeof *l);
  const ti_status st = in()->open(o, &l->dev, err);
  if (st) return free(l), st;
  l->deterministic = o->deterministic;
  l->arena = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (l->arena == MAP_FAILED) abort();
  *out = (ti_dev *)(void *)l;
  return TI_OK;
}

static ti_status late_sync(ti_dev *d) { return run_until(of(d), of(d)->queue.n); }

static void late_close(ti_dev *d) {
  late *l = of(d);
  (void)late_sync(d);
  in()->close(l->dev);
  munmap(l->arena, ARENA_BYTES);
  free(l->queue.v);
  free(l);
}

static void *late_alloc(ti_dev *d, size_t bytes) {
  late *l = of(d);
  bytes = (bytes + 127) & ~(size_t)63;
  if (l->used + bytes > ARENA_BYTES) return NULL;
  void *p = l->arena + l->used;
  l->used += bytes;
  return p;
}
static void late_free(ti_dev *d, void *p) { (void)late_sync(d); }
static void *late_alloc_host(ti_dev *d, size_t bytes) { return calloc(1, bytes ? bytes : 1); }
static void late_free_host(ti_dev *d, void *p) {
  (void)late_sync(d);
  free(p);
}

static ti_status late_memory(ti_dev *d, size_t *free_bytes, size_t *total) {
  *total = ARENA_BYTES;
  *free_bytes = ARENA_BYTES - of(d)->used;
  return TI_OK;
}

typedef struct move {
  void *dst;
  const void *src;
  size_t n;
} move;

static ti_status run_move(late *l, void *args) {
  const move *m = args;
  if (m->src) {
    memcpy(m->dst, m->src, m->n);
  } else {
    memset(m->dst, 0, m->n);
  }
  return TI_OK;
}

static ti_status late_copy(ti_dev *d, void *dst, const void *src, size_t n) {
  return push(of(d), run_move, &(move){dst, src, n}, sizeof(move)), TI_OK;
}
static ti_status late_zero(ti_dev *d, void *dst, size_t n) { return late_copy(d, dst, NULL, n); }
static ti_status late_upload(ti_dev *d, void *dst, const void *host, size_t n) {
  assert(!of(d)->recording);
  void *own = malloc(n ? n : 1);
  memcpy(own, host, n);
  push(of(d), run_move, &(move){dst, own, n}, sizeof(move))->own = own;
  return TI_OK;
}
static ti_status late_download(ti_dev *d, void *host, const void *src, size_t n) {
  assert(!of(d)->recording);
  return late_copy(d, host, src, n);
}

static ti_status late_mark(ti_dev *d, int i) {
  of(d)->mark[i] = of(d)->queue.n;
  of(d)->asked[i] = 0;
  int ahead = 0;
  for (int k = 0; k < TI_DEV_MARKS; k++) ahead += of(d)->mark[k] > of(d)->done;
  if (ahead > most_ahead) most_ahead = ahead;
  return TI_OK;
}
static ti_status late_wait(ti_dev *d, int i) { return run_until(of(d), of(d)->mark[i] > of(d)->done ? of(d)->mark[i] : of(d)->done); }
static ti_status late_done(ti_dev *d, int i) {
  late *l = of(d);
  if (l->mark[i] > l->done && l->asked[i]++ < NOT_YET) return TI_INPROGRESS;
  return late_wait(d, i);
}

static ti_status late_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab) {
  return in()->reserve(of(d)->dev, max_row, max_k, max_head, vocab);
}
static ti_status late_weight_size(ti_dev *d, const ti_weight_src *parts, int n, unsigned flags, size_t *out) {
  return in()->weight_size(of(d)->dev, parts, n, flags & ~(unsigned)TI_WEIGHT_GATE_UP, out);
}
static ti_status late_weight_prepare(ti_dev *d, const ti_weight_src *parts, int n, unsigned flags, void *mem, ti_weight *out) {
  late *l = of(d);
  protect(l, PROT_READ | PROT_WRITE);
  const ti_status st = in()->weight_prepare(l->dev, parts, n, flags & ~(unsigned)TI_WEIGHT_GATE_UP, mem, out);
  protect(l, PROT_NONE);
  return st;
}

// ---- ops ----

#define OP(name, type)                                                                          \
  static ti_status run_##name(late *l, void *a) { return in()->name(l->dev, (const type *)a); } \
  static ti_status late_##name(ti_dev *d, const type *a) { return push(of(d), run_##name, a, sizeof *a), TI_OK; }
#define OP_BATCH(name, type)                                                                    \
  static ti_status run_##name(late *l, void *a) { return in()->name(l->dev, (const type *)a); } \
  static ti_status late_##name(ti_dev *d, const type *a) {                                      \
    item *i = push(of(d), run_##name, a, sizeof *a);                                            \
    i->batch = *a->batch;                                                                       \
    ((type *)(void *)i->args)->batch = &i->batch;                                               \
    return TI_OK;                                                                               \
  }
static float *rows_of(size_t n) { return aligned_alloc(64, (n * sizeof(float) + 63) & ~(size_t)63); }

// fp8_out: what would be written goes to memory of our own, and from there as codes.
static ti_status to_codes(late *l, const void *x, int n_row, int k, uint8_t *q, float *scale) {
  return in()->quant_fp8(l->dev, &(ti_quant_fp8_args){.q = q, .scale = scale, .x = x, .n_row = n_row, .k = k});
}

static ti_status run_rmsnorm(late *l, void *args) {
  ti_rmsnorm_args a = *(const ti_rmsnorm_args *)args;
  uint8_t *q = a.q;
  if (!q) return in()->rmsnorm(l->dev, &a);
  float *own = rows_of((size_t)a.n_row * (size_t)a.dim);
  a.out = own;
  a.ldo = 0;
  a.q = NULL;
  ti_status st = in()->rmsnorm(l->dev, &a);
  if (!st) st = to_codes(l, own, a.n_row, a.dim, q, a.q_scale);
  free(own);
  return st;
}
static ti_status late_rmsnorm(ti_dev *d, const ti_rmsnorm_args *a) { return push(of(d), run_rmsnorm, a, sizeof *a), TI_OK; }

OP(embed, ti_embed_args)
OP(rope, ti_rope_args)
OP_BATCH(kv_append, ti_kv_append_args)
OP(gemm, ti_gemm_args)
OP(gemm_heads, ti_gemm_heads_args)
OP(silu_mul, ti_silu_mul_args)
OP_BATCH(attention, ti_attention_args)
OP_BATCH(mla_attention, ti_mla_attention_args)
OP(add, ti_add_args)
OP(router, ti_router_args)
OP(moe_sort, ti_moe_sort_args)
OP(permute, ti_permute_args)
OP(grouped_gemm, ti_grouped_gemm_args)
OP(unpermute, ti_unpermute_args)
OP(quant_fp8, ti_quant_fp8_args)
OP(penalties, ti_penalty_args)
OP(logprobs, ti_logprob_args)
OP(sample, ti_sample_args)
OP(tokens, ti_token_args)
OP(feed, ti_feed_args)

static ti_status run_copy_pages(late *l, void *a) { return in()->copy_pages(l->dev, (const ti_copy_pages_args *)a); }
static ti_status late_copy_pages(ti_dev *d, const ti_copy_pages_args *a) {
  const size_t n = (size_t)a->n;
  int32_t *own = malloc(3 * n * sizeof *own + 1);
  memcpy(own, a->src, n * sizeof *own);
  memcpy(own + n, a->dst, n * sizeof *own);
  memcpy(own + 2 * n, a->n_token, n * sizeof *own);
  item *i = push(of(d), run_copy_pages, a, sizeof *a);
  ti_copy_pages_args *b = (ti_copy_pages_args *)(void *)i->args;
  b->src = own, b->dst = own + n, b->n_token = own + 2 * n;
  i->own = own;
  return TI_OK;
}

static ti_status run_rope_append(late *l, void *a) {
  const ti_rope_append_args *r = a;
  const ti_status st = in()->rope(l->dev, &r->rope);
  return st ? st : in()->kv_append(l->dev, &r->kv);
}
static ti_status late_rope_append(ti_dev *d, const ti_rope_append_args *a) {
  item *i = push(of(d), run_rope_append, a, sizeof *a);
  i->batch = *a->kv.batch;
  ((ti_rope_append_args *)(void *)i->args)->kv.batch = &i->batch;
  return TI_OK;
}

static ti_status run_gemm_silu_mul(late *l, void *args) {
  const ti_gemm_silu_mul_args *a = args;
  const int dim = (int)(a->w->n / 2);
  float *own = rows_of((size_t)a->m * (size_t)dim);
  ti_status st = in()->gemm(l->dev, &(ti_gemm_args){.out = a->tmp, .x = a->x, .x_scale = a->x_scale, .w = a->w, .m = a->m, .out_dtype = TI_F32});
  if (!st) st = in()->silu_mul(l->dev, &(ti_silu_mul_args){.out = a->q ? own : a->out, .gate_up = a->tmp, .n_row = a->m, .dim = dim});
  if (!st && a->q) st = to_codes(l, own, a->m, dim, a->q, a->q_scale);
  free(own);
  return st;
}
static ti_status late_gemm_silu_mul(ti_dev *d, const ti_gemm_silu_mul_args *a) { return push(of(d), run_gemm_silu_mul, a, sizeof *a), TI_OK; }

// A link of a chain, op by op; what its norm leaves is memory of our own.
typedef struct link {
  ti_gemm_args gemm;
  ti_gemm_silu_mul_args silu_mul;
  ti_rope_append_args rope;
  const float *norm;
  float eps;
  bool is_gemm, has_rope;
} link;
static ti_status run_link(late *l, void *args) {
  link a = *(const link *)args;
  const ti_weight *w = a.is_gemm ? a.gemm.w : a.silu_mul.w;
  const int m = a.is_gemm ? a.gemm.m : a.silu_mul.m;
  const void *x = a.is_gemm ? a.gemm.x : a.silu_mul.x;
  float *own = rows_of((size_t)m * (size_t)w->k);
  ti_status st = TI_OK;
  if (a.norm) {
    st = in()->rmsnorm(l->dev, &(ti_rmsnorm_args){.out = own, .x = x, .weight = a.norm, .n_row = m, .dim = (int)w->k, .eps = a.eps});
    a.gemm.x = a.silu_mul.x = own;
  }
  if (!st) st = a.is_gemm ? in()->gemm(l->dev, &a.gemm) : run_gemm_silu_mul(l, &a.silu_mul);
  if (!st && a.has_rope) st = run_rope_append(l, &a.rope);
  free(own);
  return st;
}
enum { CHAIN_ROWS = 8 };
static ti_status late_chain(ti_dev *d, const ti_link *links, int n) {
  if (of(d)->deterministic) return TI_ERR_UNSUPPORTED;
  for (int i = 0; i < n; i++) {
    const ti_gemm_args *a = links[i].gemm;
    const ti_weight *w = a ? a->w : links[i].silu_mul->w;
    if ((a ? a->m : links[i].silu_mul->m) > CHAIN_ROWS || w->dtype == TI_E4M3) return TI_ERR_UNSUPPORTED;
  }
  for (int i = 0; i < n; i++) {
    const ti_link *k = &links[i];
    link a = {.norm = k->norm, .eps = k->eps, .is_gemm = k->gemm != NULL, .has_rope = k->rope != NULL};
    if (k->gemm) a.gemm = *k->gemm;
    if (k->silu_mul) a.silu_mul = *k->silu_mul;
    if (k->rope) a.rope = *k->rope;
    item *it = push(of(d), run_link, &a, sizeof a);
    if (!k->rope) continue;
    it->batch = *k->rope->kv.batch;
    ((link *)(void *)it->args)->rope.kv.batch = &it->batch;
  }
  n_chain++;
  return TI_OK;
}

// ---- graphs ----

static ti_status late_graph_begin(ti_dev *d) {
  if (refuse) return TI_ERR_UNSUPPORTED;
  of(d)->recording = calloc(1, sizeof *of(d)->recording);
  return TI_OK;
}
static ti_status late_graph_end(ti_dev *d, ti_dev_graph **out, ti_error *err) {
  *out = of(d)->recording;
  of(d)->recording = NULL;
  n_record++;
  return TI_OK;
}
static ti_status run_graph(late *l, void *args) {
  const list *ops = &(*(ti_dev_graph **)args)->ops;
  ti_status st = TI_OK;
  for (size_t i = 0; !st && i < ops->n; i++) st = ops->v[i]->run(l, ops->v[i]->args);
  return st;
}
static ti_status late_graph_launch(ti_dev *d, ti_dev_graph *g) {
  n_launch++;
  return push(of(d), run_graph, &g, sizeof g), TI_OK;
}
static void late_graph_free(ti_dev *d, ti_dev_graph *g) {
  if (!g) return;
  (void)late_sync(d);
  for (size_t i = 0; i < g->ops.n; i++) drop(g->ops.v[i]);
  free(g->ops.v);
  free(g);
}

const ti_kernels *late_kernels(void) {
  static ti_kernels k;
  if (!in()->tokens) return NULL;
  k = (ti_kernels){.name = "late",
                   .act = TI_F32,
                   .async = true,
                   .fp8_out = true,
                   .open = late_open,
                   .close = late_close,
                   .alloc = late_alloc,
                   .free = late_free,
                   .upload = late_upload,
                   .download = late_download,
                   .sync = late_sync,
                   .reserve = late_reserve,
                   .weight_size = late_weight_size,
                   .weight_prepare = late_weight_prepare,
                   .embed = late_embed,
                   .rmsnorm = late_rmsnorm,
                   .rope = late_rope,
                   .kv_append = late_kv_append,
                   .gemm = late_gemm,
                   .gemm_heads = late_gemm_heads,
                   .silu_mul = late_silu_mul,
                   .attention = late_attention,
                   .mla_attention = late_mla_attention,
                   .copy_pages = late_copy_pages,
                   .add = late_add,
                   .router = late_router,
                   .moe_sort = late_moe_sort,
                   .permute = late_permute,
                   .grouped_gemm = late_grouped_gemm,
                   .unpermute = late_unpermute,
                   .quant_fp8 = late_quant_fp8,
                   .penalties = late_penalties,
                   .logprobs = late_logprobs,
                   .sample = late_sample,
                   .copy = late_copy,
                   .zero = late_zero,
                   .alloc_host = late_alloc_host,
                   .free_host = late_free_host,
                   .mark = late_mark,
                   .done = late_done,
                   .wait = late_wait,
                   .tokens = late_tokens,
                   .feed = late_feed,
                   .rope_append = late_rope_append,
                   .gemm_silu_mul = late_gemm_silu_mul,
                   .chain = late_chain,
                   .graph_begin = late_graph_begin,
                   .graph_end = late_graph_end,
                   .graph_launch = late_graph_launch,
                   .graph_free = late_graph_free,
                   .memory = late_memory};
  return &k;
}
