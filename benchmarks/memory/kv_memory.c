// What a token of context costs in the KV cache: bytes read from the pools of live engines, and a whole long context served on this machine.
//
//   kv_memory [--context N] [--serve MODEL] [--chunk N] [--threads N] [--json FILE]
//
// The first table makes an engine of one layer of each kind with a bf16 pool for N tokens (131,072) and reads the pool's layout from the engine:
//
//   MLA        deepseek_v3's latent and rope part, for all heads            576 numbers a token and layer
//   GQA        8 KV heads of 128, K and V                                  2,048
//   expanded   V3's own 128 heads, K 192 and V 128 wide: 40,960 numbers. The pool keeps one width for both, so that it is laid out as 160 wide:
//              the same bytes. Its layout alone is read (no pool of 10 GB is made).
//
// --serve then prefills N - 64 tokens in chunks and generates 32, on one slot: MODEL is "mla" (the MLA model above: one layer, titan-tiny-moe's four
// heads and widths) or any random: model. With chunks of 192 rows and more the expanded form of MLA attends (docs/numerics.md): 131,072 tokens with
// --chunk 4096 are ten minutes of one core, two or three times that in the absorbed form.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "parallel/coll.h"
#include "worker/engine.h"

#define MLA_MODEL                                                                                                                          \
  "random:deepseek_v3?layers=1&heads=4&hidden=256&ffn=256&vocab=512&q_lora_rank=128&experts=8&n_group=1&topk_group=1&top_k=2&moe_ffn=128&" \
  "first_k_dense_replace=1"
#define GQA_MODEL "random:llama?layers=1&heads=8&kv_heads=8&hidden=1024&ffn=256&vocab=512&max_position_embeddings=163840"

enum { PAGE_TOKENS = 64, N_DECODE = 32, MAX_CHUNK = 4096 };

typedef struct options {
  uint32_t context, chunk;
  int threads;
  const char *serve;  // NULL: no
} options;

typedef struct live {  // an engine and what it stands on
  ti_config model;
  ti_checkpoint *ckpt;
  ti_coll *self;
  ti_engine *engine;
  ti_engine_facts facts;
} live;

static int fail(const char *what, const char *why) {
  fprintf(stderr, "kv_memory: %s: %s\n", what, why);
  return 1;
}

static void close_live(live *l) {
  ti_engine_destroy(l->engine);
  ti_checkpoint_close(l->ckpt);
  if (l->self) ti_coll_destroy(l->self);
}

static ti_status layout_of(const ti_config *c, int n_kv, int dim, ti_kv_layout *out, ti_error *err) {
  *out = (ti_kv_layout){.kind = c && c->attn == TI_ATTN_MLA ? TI_KV_MLA : TI_KV_GQA,
                        .dtype = TI_BF16,
                        .page_tokens = PAGE_TOKENS,
                        .n_kv_head = n_kv,
                        .head_dim = dim,
                        .latent = c ? c->kv_lora : 0,
                        .rope = c ? c->qk_rope : 0,
                        .n_layer = 1};
  return ti_kv_layout_init(out, err);
}

static int open_live(const char *model, const options *o, live *l) {
  ti_error err = {0};
  uint64_t seed;
  *l = (live){0};
  ti_kv_layout layout;
  ti_status st = ti_config_random(model, &l->model, &seed, &err);
  if (!st) st = ti_checkpoint_open(model, &l->model, &l->ckpt, &err);
  if (!st) st = ti_coll_self_create(&l->self);
  if (!st) st = layout_of(&l->model, l->model.n_kv_head, l->model.head_dim, &layout, &err);
  if (st) return fail(model, err.text);
  const ti_engine_config c = {.model = &l->model,
                              .ckpt = l->ckpt,
                              .kernels = ti_kernels_cpu(),
                              .dev = {.threads = o->threads},
                              .mesh = {.workers = 1, .tp = 1, .dp = 1, .ep = 1, .etp = 1},
                              .tp = l->self,
                              .world = l->self,
                              .max_num_seqs = 1,
                              .max_num_batched_tokens = o->chunk,
                              .max_model_len = o->context,
                              .page_tokens = PAGE_TOKENS,
                              .kv_dtype = TI_BF16,
                              .kv_bytes = (uint64_t)(o->context / PAGE_TOKENS) * layout.page_bytes};
  st = ti_engine_create(&c, &l->engine, &err);
  if (st) return fail(model, err.text);
  ti_engine_get_facts(l->engine, &l->facts);
  return 0;
}

static void print_row(const char *kind, double bytes_token, double pool, double base, json_t *rows) {
  printf("%-10s %12.0f %14.1f %12.2f\n", kind, bytes_token, pool / (1 << 20), bytes_token / base);
  json_array_append_new(rows, json_pack("{s:s,s:f,s:f}", "kind", kind, "bytes_token_layer", bytes_token, "pool_bytes", pool));
}

static int table(const options *o, json_t *rows) {
  live l;
  ti_kv_layout wide;
  ti_error err = {0};
  printf("KV cache of %u tokens, one layer, bf16, pages of %d tokens\n%-10s %12s %14s %12s\n", o->context, PAGE_TOKENS, "kind", "bytes/token",
         "pool MiB", "times MLA");
  double mla = 0;
  for (int i = 0; i < 2; i++) {
    const int bad = open_live(i ? GQA_MODEL : MLA_MODEL, o, &l);
    if (!bad) {
      const double each = (double)l.facts.kv_bytes / ((double)l.facts.n_page * l.facts.page_tokens);
      if (i == 0) mla = each;
      print_row(i ? "GQA 8x128" : "MLA", each, (double)l.facts.kv_bytes, mla, rows);
    }
    close_live(&l);
    if (bad) return 1;
  }
  if (layout_of(NULL, 128, 160, &wide, &err)) return fail("expanded", err.text);
  const double each = (double)wide.page_bytes / PAGE_TOKENS;
  print_row("expanded", each, each * o->context, mla, rows);
  return 0;
}

static int step(live *l, ti_step_plan *p, ti_arena *arena, uint32_t *token) {
  ti_step_result r;
  ti_error err = {0};
  ti_arena_reset(arena);
  if (ti_engine_step(l->engine, p, arena, &r, &err)) return fail("step", err.text);
  if (r.n_row && r.row[0].token.n) *token = r.row[0].token.v[0];
  p->step++;
  return 0;
}

static int serve(const options *o, json_t *out) {
  const char *model = strcmp(o->serve, "mla") == 0 ? MLA_MODEL : o->serve;
  live l;
  ti_arena arena;
  const uint32_t n = o->context - 64, n_page = o->context / PAGE_TOKENS;
  uint32_t *ids = malloc(o->context * sizeof *ids), *pages = malloc(n_page * sizeof *pages), token = 0, last = 0;
  if (!ids || !pages) return fail("serve", "out of memory");
  for (uint32_t i = 0; i < n; i++) ids[i] = 2 + (i * 2654435761u >> 16) % 500;
  for (uint32_t i = 0; i < n_page; i++) pages[i] = i;
  ti_arena_init(&arena, 1 << 28);
  int bad = open_live(model, o, &l);
  ti_slot_assign a = {.ids = {ids, n}, .n_prompt = n, .max_tokens = N_DECODE + 1, .ignore_eos = true};
  a.sampling = (ti_sampling){.temperature = 0, .top_p = 1, .repetition = 1, .n_logprob = -1, .n_prompt_logprob = -1};
  ti_slot_pages sp = {.pages = {pages, n_page}};
  ti_plan_row row = {0};
  ti_step_plan p = {.n_micro = 1, .form = TI_FORM_PREFILL, .assign = &a, .n_assign = 1, .pages = &sp, .n_pages = 1, .row = &row, .n_row = 1};
  const uint64_t t0 = ti_mono_ns();
  uint64_t shown = t0;
  for (uint32_t at = 0; !bad && at < n; at += row.n_token) {
    row = (ti_plan_row){.n_token = n - at < o->chunk ? n - at : o->chunk};
    row.sample = at + row.n_token == n;
    bad = step(&l, &p, &arena, &token);
    p.n_assign = p.n_pages = 0;
    if (ti_mono_ns() - shown > 10000000000u) {
      shown = ti_mono_ns();
      printf("  %u tokens after %.0f s\n", at + row.n_token, (double)(shown - t0) / 1e9);
      fflush(stdout);
    }
  }
  const uint64_t t1 = ti_mono_ns();
  p.form = TI_FORM_DECODE;
  row = (ti_plan_row){.n_token = 1, .decode = true, .sample = true};
  for (int i = 0; !bad && i < N_DECODE; i++) {
    last = token;
    bad = step(&l, &p, &arena, &token);
  }
  const uint64_t t2 = ti_mono_ns();
  if (!bad) {
    const double prefill = (double)(t1 - t0) / 1e9, decode = (double)(t2 - t1) / 1e6 / N_DECODE;
    printf(
        "served %u tokens of context on %s\n  %d layer(s), %d heads, %d threads: prefill %.1f s (%.0f tokens/s), decode %.2f ms a token; last ids "
        "%u, %u\n"
        "  KV pool %.1f MiB = %.0f bytes a token, weights %.1f MiB\n",
        n, model, l.model.n_layer, l.model.n_head, o->threads, prefill, n / prefill, decode, last, token, (double)l.facts.kv_bytes / (1 << 20),
        (double)l.facts.kv_bytes / o->context, (double)l.facts.weight_bytes / (1 << 20));
    json_object_set_new(out, "serve",
                        json_pack("{s:I,s:i,s:f,s:f,s:I}", "tokens", (json_int_t)n, "threads", o->threads, "prefill_s", prefill, "decode_ms", decode,
                                  "kv_bytes", (json_int_t)l.facts.kv_bytes));
  }
  close_live(&l);
  ti_arena_fini(&arena);
  free(ids);
  free(pages);
  return bad;
}

int main(int argc, char **argv) {
  options o = {.context = 131072, .chunk = 512, .threads = 2};
  const char *json_path = NULL;
  for (int i = 1; i < argc; i += 2) {
    const char *v = i + 1 < argc ? argv[i + 1] : "";
    const long n = strtol(v, NULL, 10);
    if (strcmp(argv[i], "--context") == 0 && n >= 1024 && n <= 163840 && n % PAGE_TOKENS == 0)
      o.context = (uint32_t)n;
    else if (strcmp(argv[i], "--chunk") == 0 && n >= 1 && n <= MAX_CHUNK)
      o.chunk = (uint32_t)n;
    else if (strcmp(argv[i], "--threads") == 0 && n >= 1 && n <= 256)
      o.threads = (int)n;
    else if (strcmp(argv[i], "--serve") == 0 && *v)
      o.serve = v;
    else if (strcmp(argv[i], "--json") == 0 && *v)
      json_path = v;
    else
      return fail(argv[i], "[--context 1024..163840, a multiple of 64] [--serve mla|random:...] [--chunk 1..4096] [--threads 1..256] [--json FILE]");
  }
  json_t *out = json_object(), *rows = json_array();
  json_object_set_new(out, "layer", rows);
  const int rc = table(&o, rows) || (o.serve && serve(&o, out));
  if (json_path && json_dump_file(out, json_path, JSON_INDENT(1))) fprintf(stderr, "kv_memory: cannot write %s\n", json_path);
  json_decref(out);
  return rc;
}
