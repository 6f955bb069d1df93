// The performance model at work: plans for GPUs that are not here, and its error on the ranks that are.
//
//   model [--model SPEC] [--context N]                      the plan of a full DeepSeek-V3 on 8, 64 and 320 GPUs
//   mpirun -np 1|2|.. model --check [--threads N] [--json FILE]   measures this machine's speeds, predicts steps, runs them, prints both
//
// GPU speeds are other people's measurements: DeepGEMM, FlashMLA and FlashAttention-3 on an H100 (block-scaled FP8, bf16 KV), grouped products' share
// of the memory's copy speed; all-to-all: DeepEP's published figures for its H800 clusters (NVLink inside 8 GPUs; RDMA for 64; for 320 those of 256).
// --check: the slowest rank's mean step against the prediction; the exit status says whether all are within 30%.
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "benchmarks/roofline/predict.h"
#include "parallel/coll.h"
#include "base/placement.h"
#include "worker/engine.h"

#define SMALL                                                                                                                                 \
  "random:deepseek_v3?layers=4&hidden=512&heads=4&ffn=1024&vocab=1024&q_lora_rank=256&experts=16&n_group=1&topk_group=1&top_k=4&moe_ffn=512&" \
  "first_k_dense_replace=1&quantization_config=null"

enum { MAX_W = 16, PAGE = 64, MAX_ROWS = 256, SEQS = 16, PROMPT = 256, SPELL_MS = 500, N_DECODE = 40 };

static int rank, W;

// ---- plans ----

// Rates: DeepGEMM's mean over DeepSeek-V3's shapes at 64, 128 and 4096, a straight line between
#define H100_RATES                                                                                    \
  .rows = {64, 128, 512, 1024, 4096, 16384}, .gflops = {205e3, 395e3, 800e3, 1000e3, 1290e3, 1300e3}, \
  .expert_rows = {20, 192, 512, 1024, 4096, 16384}, .expert_gflops = {109e3, 829e3, 1100e3, 1275e3, 1300e3, 1300e3}
#define H100_KERNELS .memory_gbs = 2750, .attention_gflops = {494e3, 700e3}, .launch_us = 2.0, .row_ns = 20, .act_row_bytes = 2
#define WIRE .dispatch_bytes = 1.03, .combine_bytes = 2

typedef struct cluster {
  int gpus;
  machine decode, prefill;  // low-latency and throughput kernels of the all-to-all
} cluster;

static const cluster clusters[] = {
    {8,
     {.name = "8 x 80 GB, NVLink", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .latency_us = {20, 25}, .link_gbs = {326, 332}},
     {.name = "", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .latency_us = {40, 40}, .link_gbs = {153, 158}}},
    {8,
     {.name = "8 x 141 GB, NVLink", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 134, .latency_us = {20, 25}, .link_gbs = {326, 332}},
     {.name = "", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 134, .latency_us = {40, 40}, .link_gbs = {153, 158}}},
    {64,
     {.name = "64 x 80 GB, RDMA", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .latency_us = {12, 12}, .link_gbs = {46, 45}},
     {.name = "", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .node_ranks = 8, .latency_us = {60, 60}, .link_gbs = {51, 50}}},
    {320,
     {.name = "320 x 80 GB, RDMA", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .latency_us = {15, 15}, .link_gbs = {39, 40}},
     {.name = "", H100_RATES, H100_KERNELS, WIRE, .hbm_gb = 76, .node_ranks = 8, .latency_us = {80, 80}, .link_gbs = {45, 45}}},
};

static void print_step(const char *name, const prediction *p, double rows, int gpus) {
  printf(
      "  %-8s %6.0f rows a GPU: %8.2f ms (attention %.2f, dense %.2f, experts %.2f, other %.2f, all-to-all %.2f = %.0f%%); two micro-batches %.2f "
      "ms; %.0f tokens/s "
      "a GPU, %.2f million in all\n",
      name, rows, p->total / 1e3, p->attention / 1e3, p->dense / 1e3, p->experts / 1e3, p->other / 1e3, (p->dispatch + p->combine) / 1e3,
      100 * p->share, p->overlapped / 1e3, rows / p->overlapped * 1e6, rows * gpus / p->overlapped);
}

static int plan(const char *spec, double context) {
  ti_config c;
  ti_error err = {0};
  if (ti_config_load(spec, &c, &err)) {
    fprintf(stderr, "model: %s\n", err.text);
    return 1;
  }
  printf("%s, context %.0f: attention data-parallel, experts over all GPUs, 2 GB a GPU for activations\n", spec, context);
  for (size_t i = 0; i < sizeof clusters / sizeof *clusters; i++) {
    const cluster *k = &clusters[i];
    footprint f;
    prediction p;
    measure_footprint(&c, k->gpus, &f);
    const double left = (k->decode.hbm_gb - 2) * 1e9 - f.weight_bytes - f.expert_bytes, tokens = left / f.kv_token_bytes;
    printf("%s: weights %.1f GB a GPU (%.1f replicated + %.1f experts); ", k->decode.name, (f.weight_bytes + f.expert_bytes) / 1e9,
           f.weight_bytes / 1e9, f.expert_bytes / 1e9);
    if (left <= 0) {
      printf("do not fit %.0f GB\n", k->decode.hbm_gb);
      continue;
    }
    const double batch = fmin(128, floor(tokens / context));
    printf("KV %.0f tokens a GPU (%.0f bytes each), %.1f million in all\n", tokens, f.kv_token_bytes, tokens * k->gpus / 1e6);
    if (batch >= 1) {
      predict(&c, &k->decode, &(workload){.ranks = k->gpus, .rows = batch, .seqs = batch, .context = context}, &p);
      print_step("decode", &p, batch, k->gpus);
    }
    predict(&c, &k->prefill, &(workload){.ranks = k->gpus, .rows = 8192, .seqs = 2, .context = 2048, .prefill = 1}, &p);
    print_step("prefill", &p, 8192, k->gpus);
  }
  return 0;
}

// ---- this machine ----

static void die(const char *what, const char *why) {
  fprintf(stderr, "model: rank %d: %s: %s\n", rank, what, why);
  MPI_Abort(MPI_COMM_WORLD, 1);
}
static void ok(ti_status st, const char *what) {
  if (st) die(what, ti_status_text(st));
}

typedef struct bench {
  const ti_kernels *k;
  ti_dev *d;
  ti_coll *world, *self;
  int threads;
} bench;

static float *numbers(bench *b, size_t n) {
  float *x = b->k->alloc(b->d, n * sizeof *x);
  if (!x) die("memory", "not enough");
  for (size_t i = 0; i < n; i++) x[i] = (float)(i % 17) / 17.0f - 0.5f;
  return x;
}

static double slowest(double mine) {
  double all;
  MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return all;
}

// All ranks compute at once: they share the machine in a step, too. The slowest rank's mean in ns, over SPELL_MS: on a busy machine a short call can
// hide between others' turns, a step cannot, so that means are compared with means.
static double mean_of(bench *b, void (*fn)(bench *, void *), void *arg, int calls) {
  double sum = 0;
  int n = 0;
  fn(b, arg);
  while (sum < SPELL_MS * 1e6) {
    MPI_Barrier(MPI_COMM_WORLD);
    const uint64_t t = ti_mono_ns();
    for (int j = 0; j < calls; j++) fn(b, arg);
    sum += slowest((double)(ti_mono_ns() - t));
    n += calls;
  }
  return sum / n;
}

typedef struct product {  // a rotation over matrices that no cache holds all of
  ti_gemm_args a;
  ti_weight w[8];
  int next;
} product;
static void run_product(bench *b, void *arg) {
  product *p = arg;
  p->a.w = &p->w[p->next++ % 8];
  ok(b->k->gemm(b->d, &p->a), "gemm");
}

static void calibrate_products(bench *b, machine *m) {
  enum { N = 1024, K = 512 };
  static const double rows[RATE_POINTS] = {1, 4, 16, 64, 128, 256};
  product p = {.a = {.out_dtype = TI_F32}};
  for (int i = 0; i < 8; i++) {
    uint16_t *stored = malloc(N * K * sizeof *stored);
    if (!stored) die("memory", "not enough");
    for (int j = 0; j < N * K; j++) stored[j] = (uint16_t)(0x3c00 + (i * 7919 + j * 31) % 512);
    const ti_weight_src src = {.data = stored, .dtype = TI_BF16, .n = N, .k = K};
    size_t bytes;
    ok(b->k->weight_size(b->d, &src, 1, 0, &bytes), "weight_size");
    ok(b->k->weight_prepare(b->d, &src, 1, 0, bytes ? b->k->alloc(b->d, bytes) : NULL, &p.w[i]), "weight_prepare");
  }
  p.a.x = numbers(b, (size_t)MAX_ROWS * K);
  p.a.out = numbers(b, (size_t)MAX_ROWS * N);
  for (int i = 0; i < RATE_POINTS; i++) {
    p.a.m = (int)rows[i];
    const double ns = mean_of(b, run_product, &p, rows[i] < 64 ? 32 : 8);
    m->rows[i] = rows[i];
    m->gflops[i] = 2.0 * rows[i] * N * K / ns;
    m->expert_rows[i] = rows[i];
    m->expert_gflops[i] = m->gflops[i];
  }
  m->memory_gbs = m->gflops[0];  // one row: two FLOP a weight of two bytes
}

static void run_attention(bench *b, void *arg) { ok(b->k->mla_attention(b->d, arg), "attention"); }

static void calibrate_attention(bench *b, const ti_config *c, machine *m) {
  for (int prefill = 0; prefill < 2; prefill++) {
    const int n_seq = prefill ? 1 : SEQS, rows = prefill ? PROMPT : SEQS;
    ti_kv_layout l = {.kind = TI_KV_MLA, .dtype = TI_F32, .page_tokens = PAGE, .latent = c->kv_lora, .rope = c->qk_rope, .n_layer = 1};
    ok(ti_kv_layout_init(&l, NULL), "layout");
    int32_t place[MAX_ROWS], seq[MAX_ROWS], row0[SEQS + 1] = {0}, len[SEQS], table[SEQS * PROMPT / PAGE];
    for (int r = 0; r < rows; r++) {
      place[r] = prefill ? r : PROMPT - 1;
      seq[r] = prefill ? 0 : r;
    }
    for (int s = 0; s < n_seq; s++) {
      row0[s + 1] = (s + 1) * rows / n_seq;
      len[s] = PROMPT;
    }
    for (int i = 0; i < n_seq * PROMPT / PAGE; i++) table[i] = i;
    const ti_batch batch = {.n_row = rows,
                            .n_seq = n_seq,
                            .max_seq_rows = rows / n_seq,
                            .position = place,
                            .place = place,
                            .seq = seq,
                            .seq_row0 = row0,
                            .seq_kv_len = len,
                            .block_table = table,
                            .table_stride = PROMPT / PAGE};
    const size_t heads = (size_t)c->n_head;
    ti_mla_attention_args a = {.out = numbers(b, (size_t)rows * heads * (size_t)c->kv_lora),
                               .q_lat = numbers(b, (size_t)rows * heads * (size_t)c->kv_lora),
                               .q_rope = numbers(b, (size_t)rows * heads * (size_t)c->qk_rope),
                               .kv = numbers(b, l.page_bytes / 4 * (size_t)(n_seq * PROMPT / PAGE)),
                               .layout = &l,
                               .batch = &batch,
                               .n_head = c->n_head,
                               .scale = 0.1f};
    const double flop = 2.0 * c->n_head * (2 * c->kv_lora + c->qk_rope) * rows * (prefill ? PROMPT / 2.0 : PROMPT);
    m->attention_gflops[prefill] = flop / mean_of(b, run_attention, &a, 2);
  }
}

typedef struct travel {
  ti_exchange *x;
  ti_dispatch_args a;
  float *out;
} travel;
static void run_travel(bench *b, void *arg) {
  travel *t = arg;
  ti_dispatch_out o;
  (void)b;
  ok(ti_exchange_dispatch_post(t->x, &t->a), "dispatch");
  ok(ti_exchange_dispatch_wait(t->x, 0, &o), "dispatch");
  ok(ti_exchange_combine_post(t->x, 0, ti_exchange_y(t->x, 0)), "combine");
  ok(ti_exchange_combine_wait(t->x, 0, t->out, false), "combine");
}

// A line through two sizes: latency and bytes a second of one way, both ways alike.
static void calibrate_exchange(bench *b, const ti_config *c, machine *m) {
  static const int rows[2] = {SEQS, MAX_ROWS};
  ti_placement *p;
  ti_error err = {0};
  ok(ti_placement_identity(c->moe.n_expert, 0, &p, &err), "placement");
  const ti_exchange_config cfg = {.mesh = {.workers = W, .tp = 1, .dp = W, .ep = W, .etp = 1},
                                  .worker = rank,
                                  .dim = c->hidden,
                                  .n_top = c->moe.n_top,
                                  .max_row = MAX_ROWS,
                                  .align = 8,
                                  .dtype = TI_F32,
                                  .deterministic = true};
  travel t = {.out = numbers(b, (size_t)MAX_ROWS * (size_t)c->hidden)};
  if (ti_exchange_create(&cfg, b->world, p, &t.x, &err)) die("exchange", err.text);
  int32_t *experts = malloc(sizeof(int32_t) * MAX_ROWS * (size_t)c->moe.n_top);
  float *weights = numbers(b, MAX_ROWS * (size_t)c->moe.n_top);
  if (!experts) die("memory", "not enough");
  for (int i = 0; i < MAX_ROWS * c->moe.n_top; i++)
    experts[i] = (i % c->moe.n_top) * (c->moe.n_expert / c->moe.n_top) + i * 7 % (c->moe.n_expert / c->moe.n_top);
  t.a = (ti_dispatch_args){.x = ti_exchange_x(t.x, 0), .experts = experts, .weights = weights};
  double us[2];
  for (int i = 0; i < 2; i++) {
    t.a.n_row = rows[i];
    t.a.padded = i == 0;
    us[i] = mean_of(b, run_travel, &t, i ? 2 : 16) / 1e3;
  }
  m->copies_self = 1;
  m->dispatch_bytes = m->combine_bytes = 4;
  const double to = W * (1 - pow(1 - 1.0 / W, c->moe.n_top)), row_us = fmax((us[1] - us[0]) / (rows[1] - rows[0]), 1e-4) / 2;
  for (int i = 0; i < 2; i++) {
    m->link_gbs[i] = to * c->hidden * 4 / row_us / 1e3;
    m->latency_us[i] = fmax(us[0] / 2 - row_us * rows[0], 0);
  }
  ti_exchange_destroy(t.x);
  ti_placement_destroy(p);
  free(experts);
}

// ---- real steps ----

typedef struct served {
  ti_engine *e;
  ti_arena arena;
  ti_step_plan p;
  ti_slot_assign assign[SEQS];
  ti_slot_pages pages[SEQS];
  ti_plan_row row[SEQS];
  uint32_t ids[PROMPT], page[SEQS * 8];
} served;

static double step(served *s, double *travel_us) {
  ti_step_result r;
  ti_error err = {0};
  ti_arena_reset(&s->arena);
  MPI_Barrier(MPI_COMM_WORLD);
  const uint64_t t = ti_mono_ns();
  if (ti_engine_step(s->e, &s->p, &s->arena, &r, &err)) die("step", err.text);
  const double us = slowest((double)(ti_mono_ns() - t) / 1e3);
  *travel_us = slowest(r.times.dispatch_us + r.times.combine_us);
  s->p.step++;
  s->p.n_assign = s->p.n_pages = 0;
  s->p.release.n = 0;
  return us;
}

static void add_seq(served *s, uint32_t slot, uint32_t n) {
  s->assign[s->p.n_assign++] = (ti_slot_assign){.slot = slot,
                                                .ids = {s->ids, n},
                                                .n_prompt = n,
                                                .max_tokens = 64,
                                                .ignore_eos = true,
                                                .sampling = {.temperature = 0, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1}};
  s->pages[s->p.n_pages++] = (ti_slot_pages){.slot = slot, .pages = {s->page + slot * 8, 8}};
}

// The mean step of each kind on this mesh: [0] decode of SEQS sequences at PROMPT places, [1] prefill of PROMPT rows; travel: the all-to-all of that
// step.
static void run_steps(served *s, double us[2], double travel_us[2]) {
  double tr;
  us[0] = us[1] = travel_us[0] = travel_us[1] = 0;
  for (uint32_t i = 0; i < PROMPT; i++) s->ids[i] = 2 + (i * 37 + (uint32_t)rank * 11) % 1000;
  for (uint32_t i = 0; i < SEQS * 8; i++) s->page[i] = i;
  s->p = (ti_step_plan){.n_micro = 1, .form = TI_FORM_PREFILL, .assign = s->assign, .pages = s->pages, .row = s->row, .gather_logits = true};
  for (uint32_t q = 0; q < SEQS; q++) {
    add_seq(s, q, PROMPT);
    s->row[0] = (ti_plan_row){.slot = q, .n_token = PROMPT, .sample = true};
    s->p.n_row = 1;
    const double t = step(s, &tr);
    us[1] += q ? t / (SEQS - 1) : 0;  // the first one meets cold memory
    travel_us[1] += q ? tr / (SEQS - 1) : 0;
  }
  s->p.form = TI_FORM_DECODE;
  s->p.n_row = SEQS;
  for (uint32_t q = 0; q < SEQS; q++) s->row[q] = (ti_plan_row){.slot = q, .n_token = 1, .decode = true, .sample = true};
  for (int i = 0; i < N_DECODE; i++) {
    us[0] += step(s, &tr) / N_DECODE;
    travel_us[0] += tr / N_DECODE;
  }
}

static ti_engine *make_engine(bench *b, const ti_config *c, const ti_checkpoint *ckpt) {
  const ti_engine_config cfg = {.model = c,
                                .ckpt = ckpt,
                                .kernels = b->k,
                                .dev = {.threads = b->threads, .deterministic = true},
                                .mesh = {.workers = W, .tp = 1, .dp = W, .ep = W, .etp = 1},
                                .worker = rank,
                                .tp = b->self,
                                .world = b->world,
                                .max_num_seqs = SEQS,
                                .max_num_batched_tokens = MAX_ROWS,
                                .max_model_len = 512,
                                .page_tokens = PAGE,
                                .kv_dtype = TI_F32,
                                .kv_bytes = 256u << 20,
                                .deterministic = true};
  ti_engine *e = NULL;
  ti_error err = {0};
  if (ti_engine_create(&cfg, &e, &err)) die("engine", err.text);
  return e;
}

static int check(int threads, const char *json_path) {
  static const char *const kinds[2] = {"decode", "prefill"};
  bench b = {.k = ti_kernels_cpu(), .threads = threads};
  ti_error err = {0};
  ti_config c;
  uint64_t seed;
  ti_checkpoint *ckpt;
  int list[MAX_W], failed = 0;
  if (ti_config_random(SMALL, &c, &seed, &err) || ti_checkpoint_open(SMALL, &c, &ckpt, &err)) die("model", err.text);
  for (int i = 0; i < W; i++) list[i] = i;
  ok(ti_coll_self_create(&b.self), "self");
  if (W > 1 && ti_coll_mpi_create(list, W, 1, &b.world, &err)) die("world", err.text);
  if (W == 1) b.world = b.self;
  ok(b.k->open(&(ti_dev_options){.threads = threads, .deterministic = true}, &b.d, &err), "device");
  ok(b.k->reserve(b.d, MAX_ROWS, 4096, c.head_dim, c.vocab), "reserve");
  machine m = {.name = "this machine", .act_row_bytes = 4, .launch_us = 1};
  served *s = calloc(1, sizeof *s);
  if (!s) die("memory", "not enough");
  ti_arena_init(&s->arena, 1 << 26);
  s->e = make_engine(&b, &c, ckpt);
  calibrate_products(&b, &m);
  calibrate_attention(&b, &c, &m);
  calibrate_exchange(&b, &c, &m);
  m.row_ns = c.hidden * 8.0;  // norms, RoPE, routing, sums: eight passes over a row at 1 number a ns
  double us[2], travel_us[2];
  run_steps(s, us, travel_us);
  json_t *rows = json_array();
  if (rank == 0) {
    printf(
        "%d ranks x %d threads, %s: products %.1f / %.1f / %.1f GFLOP/s at 1 / 16 / 256 rows, attention %.1f / %.1f, all-to-all %.0f us + %.2f GB/s "
        "a way\n",
        W, threads, b.k->name, m.gflops[0], m.gflops[2], m.gflops[5], m.attention_gflops[0], m.attention_gflops[1], m.latency_us[0], m.link_gbs[0]);
    printf("%-8s %12s %12s %8s %18s %18s\n", "step", "predicted us", "measured us", "ratio", "a2a predicted", "a2a measured");
  }
  for (int i = 0; i < 2; i++) {
    prediction p;
    predict(&c, &m, &(workload){.ranks = W, .rows = i ? PROMPT : SEQS, .seqs = i ? 1 : SEQS, .context = i ? PROMPT / 2.0 : PROMPT + 20, .prefill = i},
            &p);
    failed |= fabs(p.total / us[i] - 1) > 0.3;
    if (rank == 0)
      printf("%-8s %12.0f %12.0f %8.2f %17.0f%% %17.0f%%   (attention %.0f dense %.0f experts %.0f other %.0f)\n", kinds[i], p.total, us[i],
             p.total / us[i], 100 * p.share, 100 * travel_us[i] / us[i], p.attention, p.dense, p.experts, p.other);
    json_array_append_new(rows, json_pack("{s:s,s:i,s:f,s:f,s:f,s:f}", "step", kinds[i], "ranks", W, "predicted_us", p.total, "measured_us", us[i],
                                          "predicted_share", p.share, "measured_share", travel_us[i] / us[i]));
  }
  if (rank == 0 && json_path && json_dump_file(rows, json_path, JSON_INDENT(1))) fprintf(stderr, "model: cannot write %s\n", json_path);
  json_decref(rows);
  ti_engine_destroy(s->e);
  ti_arena_fini(&s->arena);
  free(s);
  b.k->close(b.d);
  ti_checkpoint_close(ckpt);
  return failed;
}

int main(int argc, char **argv) {
  const char *spec = "random:deepseek_v3", *json_path = NULL;
  int provided, rc = 0, checking = 0;
  long threads = 1;
  double context = 4096;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &W);
  for (int i = 1; i < argc && !rc; i++) {
    const char *v = i + 1 < argc ? argv[i + 1] : "";
    if (strcmp(argv[i], "--check") == 0)
      checking = 1;
    else if (strcmp(argv[i], "--model") == 0 && *v)
      spec = argv[++i];
    else if (strcmp(argv[i], "--context") == 0 && strtod(v, NULL) >= 1)
      context = strtod(argv[++i], NULL);
    else if (strcmp(argv[i], "--threads") == 0 && strtol(v, NULL, 10) >= 1)
      threads = strtol(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "--json") == 0 && *v)
      json_path = argv[++i];
    else
      rc = 1;
  }
  if (rc || W > MAX_W || threads > 256)
    rc = (fprintf(stderr, "model [--model SPEC] [--context N] | --check [--threads 1..256] [--json FILE], 1..16 ranks\n"), 1);
  else
    rc = checking ? check((int)threads, json_path) : rank == 0 ? plan(spec, context) : 0;
  MPI_Finalize();
  return rc;
}
