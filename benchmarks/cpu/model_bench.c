// model_bench: an engine alone, without a server: what llama-bench is to llama.cpp.
//
//   model_bench [--model PATH] [--threads N] [--backend NAME] [--prompt N] [--gen N] [--seqs N] [--reps N] [--table 0|1] [--json FILE]
//
// prefill: one prompt of N ids, one token. decode: N tokens after one of prompt, at one stream and at --seqs. Then the step table: the same again
// with every op of the kernel table timed (an op's name is timed where it is called, so the table's sum and the untimed runs tell what the timing
// costs), as time a step, share, bytes of weights and operations a second, and their share of what this machine reads and multiplies in this very
// run.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/team.h"
#include "tests/golden/driver.h"

enum { MAX_SEQ = 64, MAX_LEN = 4096, MAX_LINE = 64, READ_BYTES = 256 << 20, FMA_ROUNDS = 400000 };

typedef struct options {
  const char *model, *backend, *json;
  long threads, prompt, gen, seqs, reps, table;
} options;

// ---- the table of ops, timed ----

typedef struct line {  // one op, or one shape of matrix
  char name[48];
  uint64_t ns, calls;
  double bytes, ops;
} line;

static const ti_kernels *inner;
static line lines[MAX_LINE];
static int n_line;

static void add_line(const char *name, uint64_t ns, double bytes, double ops) {
  int i = 0;
  while (i < n_line && strcmp(lines[i].name, name)) i++;
  if (i == MAX_LINE) return;
  if (i == n_line) snprintf(lines[n_line++].name, sizeof lines->name, "%s", name);
  lines[i].ns += ns;
  lines[i].calls++;
  lines[i].bytes += bytes;
  lines[i].ops += ops;
}

static double stored_bytes(const ti_weight *w) { return (double)w->n * (double)w->k / ti_dtype_block(w->dtype) * ti_dtype_block_bytes(w->dtype); }

static ti_status timed_gemm(ti_dev *d, const ti_gemm_args *a) {
  const uint64_t t0 = ti_mono_ns();
  const ti_status st = inner->gemm(d, a);
  char name[48];
  snprintf(name, sizeof name, "gemm %ld x %ld %s", (long)a->w->n, (long)a->w->k, ti_dtype_name(a->w->dtype));
  add_line(name, ti_mono_ns() - t0, stored_bytes(a->w), 2.0 * a->m * (double)a->w->n * (double)a->w->k);
  return st;
}

static ti_status timed_grouped_gemm(ti_dev *d, const ti_grouped_gemm_args *a) {
  const uint64_t t0 = ti_mono_ns();
  const ti_status st = inner->grouped_gemm(d, a);
  double bytes = 0, ops = 0;
  for (int e = 0; e < a->n_expert; e++) {
    if (a->count[e] <= 0) continue;
    bytes += stored_bytes(&a->w[e]);
    ops += 2.0 * a->count[e] * (double)a->w[e].n * (double)a->w[e].k;
  }
  add_line("grouped gemm", ti_mono_ns() - t0, bytes, ops);
  return st;
}

#define PLAIN_OPS(X)                                                                                                              \
  X(embed, ti_embed_args)                                                                                                         \
  X(rmsnorm, ti_rmsnorm_args)                                                                                                     \
  X(rope, ti_rope_args)                                                                                                           \
  X(rope_append, ti_rope_append_args)                                                                                             \
  X(kv_append, ti_kv_append_args) X(gemm_heads, ti_gemm_heads_args) X(silu_mul, ti_silu_mul_args) X(attention, ti_attention_args) \
      X(mla_attention, ti_mla_attention_args) X(add, ti_add_args) X(router, ti_router_args) X(moe_sort, ti_moe_sort_args)         \
          X(permute, ti_permute_args) X(unpermute, ti_unpermute_args) X(penalties, ti_penalty_args) X(logprobs, ti_logprob_args)  \
              X(sample, ti_sample_args)
#define TIMED(op, args)                                   \
  static ti_status timed_##op(ti_dev *d, const args *a) { \
    const uint64_t t0 = ti_mono_ns();                     \
    const ti_status st = inner->op(d, a);                 \
    add_line(#op, ti_mono_ns() - t0, 0, 0);               \
    return st;                                            \
  }
PLAIN_OPS(TIMED)

static ti_kernels timed_table(const ti_kernels *k) {
  ti_kernels t = *k;
  inner = k;
#define TAKE(op, args) \
  if (t.op) t.op = timed_##op;
  PLAIN_OPS(TAKE)
  t.gemm = timed_gemm;
  if (t.grouped_gemm) t.grouped_gemm = timed_grouped_gemm;
  return t;
}

// ---- what the machine gives ----

typedef struct limits {
  const uint64_t *mem;
  _Atomic uint64_t sink;
  double read_gbs, fma_gflops;
} limits;

static void read_loop(void *arg, int thread, int n_threads) {
  limits *l = arg;
  const size_t n = READ_BYTES / sizeof *l->mem, lo = n * (size_t)thread / (size_t)n_threads, hi = n * ((size_t)thread + 1) / (size_t)n_threads;
  uint64_t s = 0;
  for (size_t i = lo; i < hi; i++) s += l->mem[i];
  l->sink += s;
}

// Twelve chains of 8 lanes, as lab_cpu does.
__attribute__((target("avx2,fma"))) static void fma_loop(void *arg, int thread, int n_threads) {
  typedef float v8 __attribute__((vector_size(32)));
  v8 c[12] = {{(float)thread}}, a = {0}, b = a;
  for (int r = 0; r < FMA_ROUNDS; r++)
    __asm__ volatile(
        "vfmadd231ps %12, %13, %0\n vfmadd231ps %12, %13, %1\n vfmadd231ps %12, %13, %2\n vfmadd231ps %12, %13, %3\n"
        "vfmadd231ps %12, %13, %4\n vfmadd231ps %12, %13, %5\n vfmadd231ps %12, %13, %6\n vfmadd231ps %12, %13, %7\n"
        "vfmadd231ps %12, %13, %8\n vfmadd231ps %12, %13, %9\n vfmadd231ps %12, %13, %10\n vfmadd231ps %12, %13, %11"
        : "+x"(c[0]), "+x"(c[1]), "+x"(c[2]), "+x"(c[3]), "+x"(c[4]), "+x"(c[5]), "+x"(c[6]), "+x"(c[7]), "+x"(c[8]), "+x"(c[9]), "+x"(c[10]),
          "+x"(c[11])
        : "x"(a), "x"(b));
  ((limits *)arg)->sink += (uint64_t)c[0][0];
}

static int measure_limits(limits *l, int threads) {
  ti_team *team;
  uint64_t *mem = malloc(READ_BYTES);
  if (!mem || ti_team_create(threads, NULL, &team)) return free(mem), 1;
  for (size_t i = 0; i < READ_BYTES / sizeof *mem; i++) mem[i] = i;
  *l = (limits){.mem = mem};
  for (int i = 0; i < 5; i++) {
    uint64_t t = ti_mono_ns();
    ti_team_run(team, read_loop, l);
    const double read = (double)READ_BYTES / (double)(ti_mono_ns() - t);
    t = ti_mono_ns();
    ti_team_run(team, fma_loop, l);
    const double fma = 12.0 * 16.0 * FMA_ROUNDS * threads / (double)(ti_mono_ns() - t);
    if (read > l->read_gbs) l->read_gbs = read;
    if (fma > l->fma_gflops) l->fma_gflops = fma;
  }
  ti_team_destroy(team);
  free(mem);
  l->mem = NULL;
  return 0;
}

// ---- runs ----

typedef struct bench {
  const options *o;
  ti_config cfg;
  ti_checkpoint *ckpt;
  ti_coll *self;
} bench;

static ti_engine *make_engine(const bench *b, const ti_kernels *k) {
  bool blocks = false;
  ti_tensor t;
  for (int i = 0; i < b->ckpt->ops->count(b->ckpt); i++) blocks |= !b->ckpt->ops->at(b->ckpt, i, &t) && ti_dtype_block(t.dtype) > 1;
  const uint32_t len = (uint32_t)(b->o->prompt > b->o->gen ? b->o->prompt : b->o->gen) + 32;
  const ti_engine_config c = {.model = &b->cfg,
                              .ckpt = b->ckpt,
                              .kernels = k,
                              .dev = {.threads = (int)b->o->threads, .act_quant = blocks ? TI_ACT_INT8 : TI_ACT_NONE},
                              .mesh = {1, 1, 1, 1, 1},
                              .tp = b->self,
                              .world = b->self,
                              .max_num_seqs = (uint32_t)b->o->seqs,
                              .max_num_batched_tokens = 512,
                              .max_model_len = len,
                              .page_tokens = 16,
                              .kv_dtype = TI_F32,
                              .kv_bytes = 1ull << 30,
                              .deterministic = true};
  ti_error err = {0};
  ti_engine *e = NULL;
  if (ti_engine_create(&c, &e, &err)) fprintf(stderr, "model_bench: %s\n", err.text);
  return e;
}

// Seconds that n sequences of `len` ids and `tokens` greedy ones take; < 0: failed.
static double run(ti_engine *e, const ti_config *c, uint32_t n, uint32_t len, uint32_t tokens) {
  static uint32_t ids[MAX_SEQ][MAX_LEN];
  drive_seq q[MAX_SEQ];
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t j = 0; j < len; j++) ids[i][j] = 17 + (i * 131 + j * 17) % ((uint32_t)c->vocab - 100);
    q[i] = (drive_seq){.prompt = ids[i], .n_prompt = len, .max_tokens = tokens, .ignore_eos = true, .sampling = drive_greedy()};
  }
  const uint64_t t0 = ti_mono_ns();
  const int bad = drive_run(e, q, n, &(drive_options){.batch = n, .chunk = 512});
  const double s = (double)(ti_mono_ns() - t0) / 1e9;
  drive_free(q, n);
  return bad ? -1 : s;
}

typedef struct shape {
  const char *name;
  uint32_t seqs, prompt, tokens;
} shape;

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median_rate(const bench *b, ti_engine *e, const shape *s) {
  double rate[101];
  const long reps = b->o->reps;
  for (long i = reps > 1 ? -1 : 0; i < reps; i++) {
    const double t = run(e, &b->cfg, s->seqs, s->prompt, s->tokens);
    if (t <= 0) return -1;
    if (i >= 0) rate[i] = (s->tokens > 1 ? (double)s->seqs * s->tokens : (double)s->prompt) / t;
  }
  qsort(rate, (size_t)reps, sizeof *rate, by_value);
  return rate[reps / 2];
}

static int by_time(const void *a, const void *b) {
  const line *x = a, *y = b;
  return (x->ns < y->ns) - (x->ns > y->ns);
}

static int step_table(const bench *b, ti_engine *e, const shape *s, const limits *l) {
  double t = 1e30;
  static line best[MAX_LINE];
  int n_best = 0;
  for (long r = 0; r < b->o->reps; r++) {
    memset(lines, 0, sizeof lines);
    n_line = 0;
    const double now = run(e, &b->cfg, s->seqs, s->prompt, s->tokens);
    if (now <= 0) return 1;
    if (now >= t) continue;
    t = now;
    n_best = n_line;
    memcpy(best, lines, sizeof best);
  }
  n_line = n_best;
  memcpy(lines, best, sizeof lines);
  qsort(lines, (size_t)n_line, sizeof *lines, by_time);
  const double steps = s->tokens;
  double left = t * 1e9;
  printf("\n%s: %.0f us a step with every op timed (the best of the runs)\n%-26s %10s %7s %7s %9s %7s %9s %7s\n", s->name, t * 1e6 / steps, "op",
         "us", "share", "calls", "GB/s", "of read", "GFLOP/s", "of FMA");
  for (int i = 0; i < n_line; i++) {
    const line *p = &lines[i];
    left -= (double)p->ns;
    printf("%-26s %10.1f %6.1f%% %7.0f", p->name, (double)p->ns / 1e3 / steps, (double)p->ns / 1e7 / t, (double)p->calls / steps);
    if (p->ops > 0)
      printf(" %9.1f %6.0f%% %9.1f %6.0f%%", p->bytes / (double)p->ns, 100 * p->bytes / (double)p->ns / l->read_gbs, p->ops / (double)p->ns,
             100 * p->ops / (double)p->ns / l->fma_gflops);
    printf("\n");
  }
  printf("%-26s %10.1f %6.1f%%\n", "between ops", left / 1e3 / steps, left / 1e7 / t);
  return 0;
}

static int print_tables(const bench *b, const ti_kernels *k, const shape *shapes, int n, const limits *l) {
  const ti_kernels timed = timed_table(k);
  ti_engine *e = make_engine(b, &timed);
  int bad = !e;
  for (int i = 0; !bad && i < n; i++) bad = step_table(b, e, &shapes[i], l);
  ti_engine_destroy(e);
  return bad;
}

static int parse(int argc, char **argv, options *o) {
  const struct {
    const char *name;
    long *v, lo, hi;
  } longs[] = {{"--threads", &o->threads, 1, 256}, {"--prompt", &o->prompt, 1, MAX_LEN}, {"--gen", &o->gen, 2, MAX_LEN},
               {"--seqs", &o->seqs, 1, MAX_SEQ},   {"--reps", &o->reps, 1, 101},         {"--table", &o->table, 0, 1}};
  for (int i = 1; i + 1 < argc; i += 2) {
    bool known = true;
    if (!strcmp(argv[i], "--model")) {
      o->model = argv[i + 1];
    } else if (!strcmp(argv[i], "--backend")) {
      o->backend = argv[i + 1];
    } else if (!strcmp(argv[i], "--json")) {
      o->json = argv[i + 1];
    } else {
      known = false;
      for (size_t j = 0; j < sizeof longs / sizeof *longs; j++) {
        if (strcmp(argv[i], longs[j].name)) continue;
        *longs[j].v = strtol(argv[i + 1], NULL, 10);
        known = *longs[j].v >= longs[j].lo && *longs[j].v <= longs[j].hi;
      }
    }
    if (!known) return fprintf(stderr, "model_bench: %s %s: an unknown flag, or a value out of its range\n", argv[i], argv[i + 1]), 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  options o = {.model = "models/titan-tiny-dense", .backend = "cpu", .threads = 2, .prompt = 512, .gen = 128, .seqs = 8, .reps = 5, .table = 1};
  if (parse(argc, argv, &o)) return 2;
  bench b = {.o = &o};
  ti_error err = {0};
  limits l;
  const ti_kernels *k = ti_kernels_find(o.backend);
  if (!k) return fprintf(stderr, "model_bench: no backend %s here\n", o.backend), 1;
  if (ti_config_load(o.model, &b.cfg, &err) || ti_checkpoint_open(o.model, &b.cfg, &b.ckpt, &err))
    return fprintf(stderr, "model_bench: %s\n", err.text), 1;
  if (ti_coll_self_create(&b.self) || measure_limits(&l, (int)o.threads)) return fprintf(stderr, "model_bench: out of memory\n"), 1;
  printf("%s, %s, %ld threads; the machine: %.1f GB/s read, %.0f GFLOP/s fp32 FMA (8 lanes)\n", b.ckpt->label, k->name, o.threads, l.read_gbs,
         l.fma_gflops);
  const shape shapes[] = {
      {"prefill", 1, (uint32_t)o.prompt, 1}, {"decode x1", 1, 1, (uint32_t)o.gen}, {"decode xN", (uint32_t)o.seqs, 1, (uint32_t)o.gen}};
  const int n_shape = o.seqs > 1 ? 3 : 2;
  double rate[3];
  ti_engine *e = make_engine(&b, k);
  if (!e) return 1;
  for (int i = 0; i < n_shape; i++) {
    rate[i] = median_rate(&b, e, &shapes[i]);
    if (rate[i] < 0) return 1;
    printf("%-10s %10.1f tokens/s (median of %ld)\n", shapes[i].name, rate[i], o.reps);
    fflush(stdout);
  }
  ti_engine_destroy(e);
  if (o.table && print_tables(&b, k, shapes, n_shape, &l)) return 1;
  FILE *f = o.json ? fopen(o.json, "w") : NULL;
  if (o.json && !f) return perror(o.json), 1;
  if (f) {
    fprintf(
        f, "{\"prefill\": %.2f, \"decode_1\": %.2f, \"decode_n\": %.2f, \"seqs\": %ld, \"threads\": %ld, \"read_gbs\": %.2f, \"fma_gflops\": %.1f}\n",
        rate[0], rate[1], n_shape > 2 ? rate[2] : 0.0, o.seqs, o.threads, l.read_gbs, l.fma_gflops);
    if (fclose(f)) return perror(o.json), 1;
  }
  ti_checkpoint_close(b.ckpt);
  ti_coll_destroy(b.self);
  return 0;
}
