// The engine alone, without MPI, HTTP or a coordinator: plans are made here as the coordinator would make them, with tokens that are not known yet.
//
//   engine_bench --model random:tinyllama-1.1b [--device auto|cpu|cuda] [--batch 1,64,256] [--input 128] [--output 128] [--prefill 8x2048]
//   engine_bench .. --batch 1 --trace FILE; titan trace-report FILE     the step table: each piece, its time, its limit
//
// Decode: `batch` sequences with prompts of --input tokens draw --output tokens each; what is timed begins WARM steps
// after the prompts and ends with the first sequence, so that all steps are full. Prefill: N
// prompts of L tokens, their first tokens drawn, best of three. Prints tokens a second, the time of a step, what of it the host works (submit;
// collect, without waiting), and how long the device has nothing to do between steps. `ids` is a hash of the first sequence's tokens: the same for
// every batch size, and with --enforce-eager or --flight 1, under --deterministic.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/kernel.h"
#include "parallel/coll.h"
#include "worker/engine.h"

enum { WARM = 16, MAX_BATCH = 1024, FLIGHTS = 2 };

typedef struct options {
  const char *model, *device, *batch, *prefill, *quantization, *kv, *trace;
  uint32_t input, output, budget, page, flight, threads;
  float temperature;
  bool deterministic, eager, busy, calls;
} options;

typedef struct seq {
  uint32_t n_ids, n_kv, n_page, n_prompt, *page;  // n_ids: with those that are on their way
  uint64_t hash;
  bool assigned;
} seq;

typedef struct bench {
  const options *o;
  ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *self;
  ti_engine *engine;
  ti_trace *trace;
  ti_engine_facts f;
  seq seq[MAX_BATCH];
  uint32_t n_seq, next_page, max_pages;
  uint64_t step;
  ti_arena plan_mem, result_mem;
  ti_plan_row row[MAX_BATCH];
  ti_slot_assign assign[MAX_BATCH];
  ti_slot_pages pages[MAX_BATCH];
  uint64_t submit_ns, collect_ns, tokens, n_step;
} bench;

// ---- device idle time: the table's own stamps at a step's first upload and before its mark ----

static struct {
  const ti_kernels *in;
  ti_kernels k;
  ti_dev *dev;
  bool open;
  uint64_t last_end, idle_ns, busy_ns;
  bool counting;
} watch;

static void watch_drain(void) {
  ti_dev_span v[64];
  for (int n; (n = watch.in->spans(watch.dev, v, 64)) > 0;)
    for (int i = 0; i < n; i++) {
      if (strcmp(v[i].name, "bench step") != 0) continue;
      if (watch.counting && watch.last_end) {
        watch.busy_ns += v[i].end_ns - v[i].begin_ns;
        watch.idle_ns += v[i].begin_ns > watch.last_end ? v[i].begin_ns - watch.last_end : 0;
      }
      watch.last_end = v[i].end_ns;
    }
}

// Host time of the calls that a step makes outside its recorded layers.
#define CALLS(X) X(feed, ti_feed_args) X(permute, ti_permute_args) X(gemm, ti_gemm_args) X(sample, ti_sample_args) X(tokens, ti_token_args)
enum { CALL_UPLOAD, CALL_DOWNLOAD, CALL_LAUNCH, CALL_MARK, CALL_feed, CALL_permute, CALL_gemm, CALL_sample, CALL_tokens, N_CALL };
static const char *const call_name[N_CALL] = {"upload", "download", "graph launch", "mark", "feed", "permute", "gemm", "sample", "tokens"};
static uint64_t call_ns[N_CALL];

#define TIMED(call, expression)         \
  do {                                  \
    const uint64_t t0 = ti_mono_ns();   \
    const ti_status st = (expression);  \
    call_ns[call] += ti_mono_ns() - t0; \
    return st;                          \
  } while (0)
#define TIMED_OP(name, type) \
  static ti_status watch_##name(ti_dev *d, const type *a) { TIMED(CALL_##name, watch.in->name(d, a)); }
CALLS(TIMED_OP)
static ti_status watch_download(ti_dev *d, void *host, const void *src, size_t n) { TIMED(CALL_DOWNLOAD, watch.in->download(d, host, src, n)); }
static ti_status watch_launch(ti_dev *d, ti_dev_graph *g) { TIMED(CALL_LAUNCH, watch.in->graph_launch(d, g)); }

static ti_status watch_upload(ti_dev *d, void *dst, const void *host, size_t n) {
  if (!watch.open && watch.counting) {
    watch.open = true;
    (void)!watch.in->span_begin(d, "bench step", -1);
  }
  TIMED(CALL_UPLOAD, watch.in->upload(d, dst, host, n));
}

static ti_status watch_mark(ti_dev *d, int i) {
  if (watch.open) (void)!watch.in->span_end(d);
  watch.open = false;
  TIMED(CALL_MARK, watch.in->mark(d, i));
}

static ti_status watch_open(const ti_dev_options *o, ti_dev **out, ti_error *err) {
  const ti_status st = watch.in->open(o, out, err);
  if (!st) watch.dev = *out;
  return st;
}

static const ti_kernels *watched(const ti_kernels *k, bool wanted) {
  if (!wanted || !k->span_begin) return k;
  watch.in = k;
  watch.k = *k;
  watch.k.open = watch_open;
  watch.k.upload = watch_upload;
  watch.k.mark = watch_mark;
  watch.k.download = watch_download;
  watch.k.graph_launch = watch_launch;
#define SET(name, type) watch.k.name = watch_##name;
  CALLS(SET)
  return &watch.k;
}

// ---- plans ----

static uint32_t *prompt_ids(bench *b, uint32_t i, uint32_t n) {
  uint32_t *ids = ti_arena_alloc(&b->plan_mem, n * sizeof *ids), x = 12345 + i;
  for (uint32_t k = 0; k < n; k++) {
    x = x * 1664525u + 1013904223u;
    ids[k] = 3 + (x >> 8) % ((uint32_t)b->model.vocab - 3);
  }
  return ids;
}

static void give_pages(bench *b, ti_step_plan *p, uint32_t i, uint32_t places) {
  seq *s = &b->seq[i];
  const uint32_t need = (places + b->f.page_tokens - 1) / b->f.page_tokens;
  if (need <= s->n_page) return;
  p->pages[p->n_pages++] = (ti_slot_pages){.slot = i, .first = s->n_page, .pages = {s->page + s->n_page, need - s->n_page}};
  while (s->n_page < need) s->page[s->n_page++] = b->next_page++;
}

// As many rows as the budget allows, of sequences that have something to feed and still want tokens.
static void make_plan(bench *b, ti_step_plan *p, uint32_t n_out) {
  ti_arena_reset(&b->plan_mem);
  *p = (ti_step_plan){.step = b->step++, .n_micro = 1, .row = b->row, .assign = b->assign, .pages = b->pages};
  uint32_t left = b->o->budget;
  for (uint32_t i = 0; i < b->n_seq && left; i++) {
    seq *s = &b->seq[i];
    if (s->n_ids - s->n_prompt >= n_out) continue;
    if (!s->assigned) {
      p->assign[p->n_assign++] = (ti_slot_assign){
          .slot = i,
          .request = i,
          .ids = {prompt_ids(b, i, s->n_prompt), s->n_prompt},
          .n_prompt = s->n_prompt,
          .max_tokens = n_out,
          .ignore_eos = true,
          .sampling = {.temperature = b->o->temperature, .top_p = 1, .repetition = 1, .seed = 7 + i, .n_logprob = -1, .n_prompt_logprob = -1}};
      s->assigned = true;
    }
    const uint32_t all = s->n_ids - s->n_kv, n = all < left ? all : left;
    give_pages(b, p, i, s->n_kv + n);
    p->row[p->n_row++] = (ti_plan_row){.slot = i, .n_token = n, .decode = all == 1, .sample = n == all};
    if (n > 1) p->form = TI_FORM_PREFILL;
    left -= n;
    s->n_kv += n;
    if (n == all) s->n_ids++;
  }
  p->max_rows = b->o->budget - left;
}

static int fail(const char *what, const ti_error *err) { return fprintf(stderr, "engine_bench: %s: %s\n", what, err->text), 1; }

static int collect(bench *b) {
  ti_step_result r;
  ti_error err = {0};
  ti_status st;
  while ((st = ti_engine_done(b->engine)) == TI_INPROGRESS) {}
  const uint64_t t0 = ti_mono_ns();
  ti_arena_reset(&b->result_mem);
  if (!st) st = ti_engine_collect(b->engine, &b->result_mem, &r, &err);
  if (st) return fail("collect", &err);
  b->collect_ns += ti_mono_ns() - t0;
  b->n_step++;
  for (uint32_t i = 0; i < r.n_row; i++) {
    seq *s = &b->seq[r.row[i].slot];
    for (uint32_t k = 0; k < r.row[i].token.n; k++) s->hash = (s->hash ^ r.row[i].token.v[k]) * 1099511628211ull;
    b->tokens += r.row[i].token.n;
  }
  if (watch.in) watch_drain();
  return 0;
}

// Steps until every sequence has drawn n_out tokens, or `most` steps.
static int run(bench *b, uint32_t n_out, uint32_t most) {
  ti_error err = {0};
  for (uint32_t i = 0; i < most; i++) {
    ti_step_plan p;
    make_plan(b, &p, n_out);
    if (p.n_row == 0) break;
    while (ti_engine_in_flight(b->engine) >= (int)b->o->flight || !ti_engine_can_submit(b->engine, &p))
      if (collect(b)) return 1;
    const uint64_t t0 = ti_mono_ns();
    if (ti_engine_submit(b->engine, &p, &err)) return fail("submit", &err);
    b->submit_ns += ti_mono_ns() - t0;
  }
  return 0;
}

static int drain(bench *b) {
  while (ti_engine_in_flight(b->engine))
    if (collect(b)) return 1;
  return 0;
}

static int start(bench *b, uint32_t n_seq, uint32_t n_prompt) {
  if (n_seq > b->f.n_slot || n_seq > MAX_BATCH) return fprintf(stderr, "engine_bench: %u sequences, at most %u\n", n_seq, b->f.n_slot), 1;
  ti_engine_reset(b->engine);
  b->n_seq = n_seq;
  b->next_page = 0;
  b->submit_ns = b->collect_ns = b->tokens = b->n_step = 0;
  for (uint32_t i = 0; i < n_seq; i++)
    b->seq[i] = (seq){.n_ids = n_prompt, .n_prompt = n_prompt, .page = b->seq[i].page, .hash = 14695981039346656037ull};
  return 0;
}

static int decode(bench *b, uint32_t batch) {
  const options *o = b->o;
  const uint32_t prefill = (o->input * batch + o->budget - 1) / o->budget + 1;
  if (start(b, batch, o->input) || run(b, o->output, prefill + WARM) || drain(b)) return 1;
  b->submit_ns = b->collect_ns = b->tokens = b->n_step = 0;
  watch.counting = watch.in != NULL;
  watch.idle_ns = watch.busy_ns = watch.last_end = 0;
  memset(call_ns, 0, sizeof call_ns);
  const uint64_t t0 = ti_mono_ns();
  if (run(b, o->output, o->input + o->output - b->seq[0].n_ids) || drain(b)) return 1;  // until the first has all its tokens: full steps only
  const double s = (double)(ti_mono_ns() - t0) * 1e-9, step = s / (double)b->n_step;
  watch.counting = false;
  const uint64_t tokens = b->tokens, n_step = b->n_step, submit_ns = b->submit_ns, collect_ns = b->collect_ns;
  if (run(b, o->output, UINT32_MAX) || drain(b)) return 1;
  b->tokens = tokens, b->n_step = n_step, b->submit_ns = submit_ns, b->collect_ns = collect_ns;
  printf("decode   batch %4u  input %u  output %u: %9.0f tok/s  step %7.1f us  weights %6.0f GB/s  host %5.1f us (submit %.1f, collect %.1f)", batch,
         o->input, o->output, (double)b->tokens / s, step * 1e6, (double)b->f.weight_bytes / step * 1e-9,
         (double)(b->submit_ns + b->collect_ns) / (double)b->n_step * 1e-3, (double)b->submit_ns / (double)b->n_step * 1e-3,
         (double)b->collect_ns / (double)b->n_step * 1e-3);
  if (watch.busy_ns) printf("  device idle %.1f %%", 100.0 * (double)watch.idle_ns / (double)(watch.idle_ns + watch.busy_ns));
  printf("  ids %016" PRIx64 "\n", b->seq[0].hash);
  for (int i = 0; i < N_CALL && o->calls; i++)
    printf("%s%s %.1f", i ? ", " : "         host us: ", call_name[i], (double)call_ns[i] / (double)b->n_step * 1e-3);
  if (o->calls) printf("\n");
  return 0;
}

static int prefill(bench *b, uint32_t n, uint32_t len) {
  double best = 1e30;
  for (int i = 0; i < 3; i++) {
    if (start(b, n, len)) return 1;
    const uint64_t t0 = ti_mono_ns();
    if (run(b, 1, UINT32_MAX) || drain(b)) return 1;
    const double s = (double)(ti_mono_ns() - t0) * 1e-9;
    if (s < best) best = s;
  }
  printf("prefill  %u x %u: %9.0f tok/s  %.1f ms  host %.1f us a step  ids %016" PRIx64 "\n", n, len, (double)n * len / best, best * 1e3,
         (double)(b->submit_ns + b->collect_ns) / (double)b->n_step * 1e-3, b->seq[0].hash);
  return 0;
}

// ---- set-up ----

static uint32_t largest(const char *list) {
  uint32_t most = 1;
  for (const char *c = list; *c; c += strcspn(c, ",") + (strchr(c, ',') != NULL)) {
    const uint32_t v = (uint32_t)strtoul(c, NULL, 10);
    if (v > most) most = v;
  }
  return most;
}

static int open_engine(bench *b, uint32_t seqs, uint32_t len) {
  const options *o = b->o;
  const bool cpu = strcmp(o->device, "cpu") == 0;
  const ti_kernels *k = cpu ? NULL : ti_kernels_find("cuda");
  if (!k && strcmp(o->device, "cuda") == 0) return fprintf(stderr, "engine_bench: no CUDA backend, or no GPU here\n"), 1;
  if (!k) k = ti_kernels_cpu();
  const bool fp8 = strcmp(o->quantization, "fp8") == 0;
  const ti_dtype kv = strcmp(o->kv, "fp8") == 0        ? TI_E4M3
                      : strcmp(o->kv, "float32") == 0  ? TI_F32
                      : strcmp(o->kv, "bfloat16") == 0 ? TI_BF16
                                                       : k->act;
  const uint32_t page = o->page ? o->page : k->async ? 64 : 16;
  const uint64_t tokens = (uint64_t)seqs * ((len + page) / page + 1) * page;
  const uint64_t each = 2ull * (uint64_t)b->model.n_kv_head * (uint64_t)b->model.head_dim * (uint64_t)b->model.n_layer * (kv == TI_F32 ? 4 : 2) + 64;
  const ti_engine_config cfg = {.model = &b->model,
                                .ckpt = b->ckpt,
                                .kernels = watched(k, o->busy && !b->trace),  // its spans are no pieces
                                .dev = {.threads = (int)o->threads,
                                        .act_quant = fp8 || b->model.weight_dtype == TI_E4M3 ? TI_ACT_FP8 : TI_ACT_NONE,
                                        .deterministic = o->deterministic},
                                .mesh = {1, 1, 1, 1, 1},
                                .tp = b->self,
                                .world = b->self,
                                .max_num_seqs = seqs,
                                .max_num_batched_tokens = o->budget,
                                .max_model_len = len,
                                .page_tokens = page,
                                .kv_dtype = kv,
                                .kv_bytes = tokens * each,
                                .deterministic = o->deterministic,
                                .quantize_fp8 = fp8,
                                .eager = o->eager,
                                .trace = b->trace};
  ti_error err = {0};
  const uint64_t t0 = ti_mono_ns();
  if (ti_engine_create(&cfg, &b->engine, &err)) return fail("engine", &err);
  ti_engine_get_facts(b->engine, &b->f);
  b->max_pages = (len + page - 1) / page + 1;
  for (uint32_t i = 0; i < seqs; i++) b->seq[i].page = calloc(b->max_pages, sizeof *b->seq[i].page);
  printf("engine_bench: %s on %s%s%s%s: weights %.2f GB, loaded in %.2f s; %u pages of %u tokens, scratch %.2f GB\n", o->model, k->name,
         fp8 ? ", fp8" : "", o->deterministic ? ", deterministic" : "", o->eager ? ", eager" : "", (double)b->f.weight_bytes * 1e-9,
         (double)(ti_mono_ns() - t0) * 1e-9, b->f.n_page, b->f.page_tokens, (double)b->f.scratch_bytes * 1e-9);
  return 0;
}

static bool take(int argc, char **argv, int *i, const char *name, const char **value) {
  if (strcmp(argv[*i], name) != 0 || *i + 1 >= argc) return false;
  *value = argv[++*i];
  return true;
}

static int parse(int argc, char **argv, options *o) {
  const char *v;
  for (int i = 1; i < argc; i++) {
    if (take(argc, argv, &i, "--model", &o->model) || take(argc, argv, &i, "--device", &o->device) || take(argc, argv, &i, "--batch", &o->batch) ||
        take(argc, argv, &i, "--prefill", &o->prefill) || take(argc, argv, &i, "--quantization", &o->quantization) ||
        take(argc, argv, &i, "--kv-cache-dtype", &o->kv) || take(argc, argv, &i, "--trace", &o->trace)) {
    } else if (take(argc, argv, &i, "--input", &v)) {
      o->input = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--output", &v)) {
      o->output = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--max-num-batched-tokens", &v)) {
      o->budget = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--block-size", &v)) {
      o->page = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--flight", &v)) {
      o->flight = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--threads", &v)) {
      o->threads = (uint32_t)strtoul(v, NULL, 10);
    } else if (take(argc, argv, &i, "--temperature", &v)) {
      o->temperature = strtof(v, NULL);
    } else if (strcmp(argv[i], "--deterministic") == 0) {
      o->deterministic = true;
    } else if (strcmp(argv[i], "--enforce-eager") == 0) {
      o->eager = true;
    } else if (strcmp(argv[i], "--calls") == 0) {
      o->calls = true;
    } else if (strcmp(argv[i], "--no-idle") == 0) {
      o->busy = false;
    } else {
      return fprintf(stderr, "engine_bench: %s: unknown, or without a value (the head of engine_bench.c lists the flags)\n", argv[i]), 1;
    }
  }
  return o->flight < 1 || o->flight > FLIGHTS || o->input < 1 || o->output < 1 || o->budget < 1
         ? fprintf(stderr, "engine_bench: numbers must be at least 1, --flight 1 or 2\n"),
         1 : 0;
}

int main(int argc, char **argv) {
  options o = {.model = "random:tinyllama-1.1b",
               .device = "auto",
               .batch = "1,64,256",
               .prefill = "",
               .quantization = "",
               .kv = "auto",
               .input = 128,
               .output = 128,
               .budget = 8192,
               .flight = 2,
               .threads = 1,
               .busy = true};
  if (parse(argc, argv, &o)) return 2;
  static bench b;
  b.o = &o;
  ti_error err = {0};
  uint32_t n = 0, len = 0;
  char *end = NULL;
  if (o.prefill[0]) {
    n = (uint32_t)strtoul(o.prefill, &end, 10);
    len = *end == 'x' ? (uint32_t)strtoul(end + 1, NULL, 10) : 0;
    if (!n || !len) return fprintf(stderr, "engine_bench: --prefill %s: expected PROMPTSxTOKENS\n", o.prefill), 2;
  }
  ti_log_set_level(TI_LOG_WARN);
  setvbuf(stdout, NULL, _IOLBF, 0);
  ti_arena_init(&b.plan_mem, (size_t)1 << 30);
  ti_arena_init(&b.result_mem, (size_t)1 << 28);
  if (ti_config_load(o.model, &b.model, &err) || ti_checkpoint_open(o.model, &b.model, &b.ckpt, &err)) return fail(o.model, &err);
  if (ti_coll_self_create(&b.self)) return 1;
  if (o.trace && ti_trace_create(o.trace, 0, &b.trace)) return fprintf(stderr, "engine_bench: %s.rank0 cannot be written\n", o.trace), 1;
  const uint32_t most = largest(o.batch), seqs = n > most ? n : most, longest = o.input + o.output + 1 > len + 2 ? o.input + o.output + 1 : len + 2;
  if (o.budget < seqs) o.budget = seqs;
  int bad = open_engine(&b, seqs, longest);
  if (!bad && n) bad = prefill(&b, n, len);
  for (const char *c = o.batch; !bad && *c; c += strcspn(c, ",") + (strchr(c, ',') != NULL)) {
    const uint32_t batch = (uint32_t)strtoul(c, NULL, 10);
    if (batch) bad = decode(&b, batch);
  }
  ti_engine_destroy(b.engine);
  ti_trace_destroy(b.trace);
  if (o.trace && ti_trace_join(o.trace, 1, &err)) bad = fail("trace", &err);
  for (uint32_t i = 0; i < MAX_BATCH; i++) free(b.seq[i].page);
  ti_checkpoint_close(b.ckpt);
  ti_coll_destroy(b.self);
  ti_arena_fini(&b.plan_mem);
  ti_arena_fini(&b.result_mem);
  return bad;
}
