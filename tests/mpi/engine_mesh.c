// engine_mesh MODEL DP TP EP ETP TOKENS [REDUNDANT | BACKEND]: the engines of a mesh against the model's golden outputs. Attention group i takes golden prompts i, i + dp, ..
//
//   free      the first TOKENS greedy ids, wherever the margin exceeds 1e-3
//   bits      the same ids and logprobs with one sequence at a time, and with two micro-batches
//   forced    the golden text as a prompt: each golden id has rank 1 wherever its margin exceeds 1e-3
//   replicas  the same ids and logprobs with REDUNDANT expert slots beyond the experts, while others load, and with those
//   relaxed   forced again without --deterministic (the combine's other form), and the MTP head's top-1 at each prompt position; MoE only
//   ranks     all ranks of an attention group saw the same logits, bit for bit
//
// Every check is printed once a rank; a group without sequences runs empty plans (the driver's lockstep).
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/placement.h"
#include "check.h"
#include "tests/golden/fixture.h"

static const char *backend = "cpu";
static double margin = 1e-3;  // bf16 activations: 0.1

typedef struct rank_state {
  fixture f;
  ti_mesh mesh;
  int worker, group;
  ti_coll *world, *tp;
  ti_engine *e;
  uint64_t logits;  // hash of all logits so far
  uint32_t n_logits;
  int32_t mtp[1024];  // the MTP head's choices, in the order of the rows
  uint32_t n_mtp;
} rank_state;

// FNV-1a over words: what is compared is whether two ranks had the same bits.
static void on_tap(void *arg, const char *what, int layer, const void *data, int n_row, int dim) {
  rank_state *s = arg;
  if (!strcmp(what, "mtp") && s->n_mtp + (uint32_t)n_row <= sizeof s->mtp / sizeof *s->mtp) {
    memcpy(s->mtp + s->n_mtp, data, (size_t)n_row * sizeof *s->mtp);
    s->n_mtp += (uint32_t)n_row;
  }
  if (strcmp(what, "logits") != 0) return;
  const uint32_t *v = data;
  uint64_t h = s->logits;
  for (size_t i = 0; i < (size_t)n_row * (size_t)dim; i++) h = (h ^ v[i]) * 0x100000001b3u;
  s->logits = h;
  s->n_logits += (uint32_t)n_row;
}

// This group's golden prompts, cut to `tokens`.
static drive_seq *share(const rank_state *s, uint32_t tokens, uint32_t *n) {
  uint32_t all;
  drive_seq *q = fixture_prompts(&s->f, 1, &all);
  *n = 0;
  for (uint32_t i = 0; i < all; i++) {
    if ((int)i % s->mesh.dp != s->group) {
      free((void *)q[i].prompt);
      continue;
    }
    if (q[i].max_tokens > tokens) q[i].max_tokens = tokens;
    q[(*n)++] = q[i];
  }
  return q;
}

static void share_free(drive_seq *q, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) free((void *)q[i].prompt);
  drive_free(q, n);
  free(q);
}

static bool run(const rank_state *s, drive_seq *q, uint32_t n, const char *what, drive_options o) {
  o.world = s->mesh.workers > 1 && s->f.cfg.moe.n_expert ? s->world : NULL;
  const bool ok = drive_run(s->e, q, n, &o) == 0;
  CHECK(ok, "%s", what);
  return ok;
}

// Runs the share in one way and compares with the first way's ids and logprobs.
static bool check_bits(const rank_state *s, const drive_seq *first, uint32_t tokens, const char *what, drive_options o) {
  uint32_t n;
  drive_seq *q = share(s, tokens, &n);
  const bool ok = run(s, q, n, what, o);
  for (uint32_t i = 0; ok && i < n; i++) {
    const size_t len = q[i].n_out < first[i].n_out ? q[i].n_out : first[i].n_out;
    CHECK(len > 0 && !memcmp(q[i].out, first[i].out, len * 4), "%s: ids of prompt %u", what, q[i].golden);
    CHECK(!memcmp(q[i].logprob, first[i].logprob, len * 4), "%s: logprobs of prompt %u", what, q[i].golden);
  }
  share_free(q, n);
  return ok;
}

static bool check_free(const rank_state *s, uint32_t tokens) {
  uint32_t n, compared;
  drive_seq *q = share(s, tokens, &n);
  bool ok = run(s, q, n, "free", (drive_options){.batch = 16});
  if (ok) {
    const int bad = fixture_check_greedy(&s->f, q, n, margin, "free", &compared);
    CHECK(bad == 0 && (compared > 0 || n == 0), "%d of %u texts leave the golden one", bad, n);
    if (check_rank == 0) printf("free: %u tokens of %u texts equal golden\n", compared, n);
  }
  ok = ok && check_bits(s, q, tokens / 2, "one at a time", (drive_options){.batch = 1});
  if (s->f.cfg.moe.n_expert) ok = ok && check_bits(s, q, tokens, "two micro-batches", (drive_options){.batch = 16, .n_micro = 2, .chunk = 5});
  share_free(q, n);
  return ok;
}

static bool check_forced(const rank_state *s, uint32_t tokens, bool mtp) {
  uint32_t n, compared = 0;
  drive_seq *q = share(s, tokens, &n);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t n_gold, *gold = fixture_ids(&s->f, q[i].golden, "greedy_ids", &n_gold), *all = calloc(q[i].n_prompt + n_gold, sizeof *all);
    memcpy(all, q[i].prompt, q[i].n_prompt * sizeof *all);
    memcpy(all + q[i].n_prompt, gold, n_gold * sizeof *all);
    free((void *)q[i].prompt);
    free(gold);
    q[i].prompt = all;
    q[i].n_prompt += q[i].max_tokens;
    q[i].max_tokens = 1;
    q[i].sampling.n_prompt_logprob = 0;
  }
  const bool ok = run(s, q, n, "forced", (drive_options){.batch = 16, .chunk = 24, .n_micro = 2, .lookahead = mtp});
  for (uint32_t i = 0; ok && i < n; i++) {
    uint32_t n_prompt;
    free(fixture_ids(&s->f, q[i].golden, "prompt_ids", &n_prompt));
    CHECK(q[i].n_prompt_rank == q[i].n_prompt - 1, "%u ranks for %u tokens", q[i].n_prompt_rank, q[i].n_prompt);
    for (uint32_t j = n_prompt; j < q[i].n_prompt; j++) {
      const double sure = fixture_real(&s->f, q[i].golden, "margin", j - n_prompt);
      if (sure <= margin) continue;
      compared++;
      CHECK(q[i].prompt_rank[j - 1] == 1, "prompt %u step %u: rank %u, margin %.5f", q[i].golden, j - n_prompt, q[i].prompt_rank[j - 1], sure);
    }
  }
  if (check_rank == 0) printf("forced: %u tokens of %u texts\n", compared, n);
  share_free(q, n);
  return ok;
}

// Prompts one after the other, so that the choices come in the order of their rows.
static bool check_mtp(rank_state *s) {
  uint32_t n, at = 0, same = 0, all = 0;
  drive_seq *q = share(s, 1, &n);
  s->n_mtp = 0;
  const bool ok = run(s, q, n, "mtp", (drive_options){.batch = 1, .lookahead = 1});
  for (uint32_t i = 0; ok && i < n; i++) {
    uint32_t n_gold, *gold = fixture_ids(&s->f, q[i].golden, "mtp_argmax", &n_gold);
    for (uint32_t j = 0; j < n_gold && j < q[i].n_prompt && at + j < s->n_mtp; j++, all++) same += s->mtp[at + j] == (int32_t)gold[j];
    at += q[i].n_prompt;
    free(gold);
  }
  CHECK(at == s->n_mtp && same == all && (all > 0 || n == 0), "%u of %u MTP choices equal golden, %u of %u rows seen", same, all, s->n_mtp, at);
  share_free(q, n);
  return ok;
}

static void check_ranks(const rank_state *s) {
  uint64_t all[64];
  size_t counts[64];
  for (int i = 0; i < s->tp->size; i++) counts[i] = 2;
  const ti_status st = ti_coll_all_gather(s->tp, &s->logits, all, counts, TI_I32);
  CHECK(st == TI_OK, "%s", ti_status_text(st));
  for (int i = 0; st == TI_OK && i < s->tp->size; i++)
    CHECK(all[i] == s->logits, "rank %d of the group saw other logits among %u rows", i, s->n_logits);
}

static bool make_engine(rank_state *s, int n_redundant, bool relaxed) {
  const engine_spec spec = {.backend = backend, .mesh = s->mesh, .worker = s->worker, .tp = s->tp, .world = s->world, .page_tokens = 16, .max_rows = 256,
                            .max_seqs = 16, .max_len = 256, .mtp = relaxed, .relaxed = relaxed, .overlap = 1, .n_redundant = n_redundant, .tap = on_tap, .tap_arg = s};
  s->e = fixture_engine(&s->f, &spec);
  CHECK(s->e, "no engine");
  return s->e != NULL;
}

static bool start(rank_state *s, const char *model) {
  int all[64], mine[64];
  ti_error err = {0};
  for (int i = 0; i < s->mesh.workers; i++) all[i] = i;
  for (int i = 0; i < s->mesh.tp; i++) mine[i] = ti_mesh_worker(&s->mesh, s->group, i);
  ti_status st = ti_coll_mpi_create(all, s->mesh.workers, 1, &s->world, &err);
  if (!st) st = s->world->ops->reserve(s->world, (size_t)s->mesh.workers * 12, 1);
  if (!st) st = s->world->ops->subset(s->world, mine, s->mesh.tp, &s->tp, &err);
  CHECK(st == TI_OK, "communicators: %s", err.text);
  if (st || fixture_open(&s->f, model)) return false;
  return make_engine(s, 0, false);
}

// Other copies, a placement a layer, as the coordinator would choose them under a load that makes some experts hot.
static bool stage_other(rank_state *s, int n_redundant) {
  static uint32_t slots[4096];
  const int n = s->f.cfg.moe.n_expert, n_layer = s->f.cfg.n_layer - s->f.cfg.moe.n_dense_layer, n_slot = n + n_redundant;
  ti_error err = {0};
  ti_status st = TI_OK;
  for (int i = 0; !st && i < n_layer; i++) {
    float load[256];
    ti_placement *p = NULL;
    for (int e = 0; e < n; e++) load[e] = e % 5 == i % 5 ? 90 : 1;
    st = ti_placement_replicate(&(ti_placement_args){.load = load, .n_expert = n, .n_slot = n_slot, .ep = s->mesh.ep}, &p, &err);
    for (int k = 0; !st && k < n_slot; k++) slots[i * n_slot + k] = (uint32_t)p->slot_expert[k];
    ti_placement_destroy(p);
  }
  const ti_msg_placement m = {.version = 1, .n_layer = (uint32_t)n_layer, .slot_expert = {slots, (uint32_t)(n_layer * n_slot)}};
  if (!st) st = ti_engine_stage(s->e, &m, &err);
  CHECK(st == TI_OK, "stage: %s", err.text);
  return st == TI_OK;
}

// Where an expert stands must not show: an engine with redundant experts against the one without.
static bool check_replicas(rank_state *s, uint32_t tokens, int n_redundant) {
  uint32_t n;
  drive_seq *q = share(s, tokens, &n);
  bool ok = run(s, q, n, "no replicas", (drive_options){.batch = 16});
  ti_engine_facts plain, more;
  ti_engine_get_facts(s->e, &plain);
  ti_engine_destroy(s->e);
  ok = make_engine(s, n_redundant, false) && ok;
  if (ok) ti_engine_get_facts(s->e, &more);
  ok = ok && check_bits(s, q, tokens, "redundant experts", (drive_options){.batch = 16}) &&
       check_bits(s, q, tokens, "redundant experts, two micro-batches", (drive_options){.batch = 16, .n_micro = 2, .chunk = 5});
  ok = ok && stage_other(s, n_redundant) && check_bits(s, q, tokens, "while other copies load", (drive_options){.batch = 16}) &&
       check_bits(s, q, tokens, "other copies", (drive_options){.batch = 16, .placement = 1}) &&
       check_bits(s, q, tokens, "other copies, two micro-batches", (drive_options){.batch = 16, .n_micro = 2, .chunk = 5, .placement = 1});
  if (ok && check_rank == 0)
    printf("replicas: the same bits with %d redundant experts, %.0f bytes a replica and layer here\n", n_redundant,
           (double)(more.weight_bytes - plain.weight_bytes) / more.n_replica);
  share_free(q, n);
  return ok;
}

static bool check_relaxed(rank_state *s, uint32_t tokens) {
  ti_engine_destroy(s->e);
  return make_engine(s, 0, true) && check_forced(s, tokens, true) && check_mtp(s);
}

int main(int argc, char **argv) {
  int provided, size;
  static rank_state s;
  ti_error err = {0};
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &check_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  ti_log_set_rank(check_rank);
  if (argc < 7) return fprintf(stderr, "usage: engine_mesh MODEL DP TP EP ETP TOKENS [REDUNDANT | BACKEND]\n"), 2;
  const bool named = argc > 7 && (argv[7][0] < '0' || argv[7][0] > '9');
  if (named) backend = argv[7], argc = 7;
  if (!fixture_backend(backend)) return printf("skipped: no backend %s here\n", backend), MPI_Finalize(), 77;
  if (fixture_backend(backend)->act != TI_F32) margin = 0.1;
  const long v[] = {strtol(argv[2], NULL, 10), strtol(argv[3], NULL, 10), strtol(argv[4], NULL, 10), strtol(argv[5], NULL, 10), strtol(argv[6], NULL, 10)};
  CHECK(size <= 64 && ti_mesh_init(&s.mesh, size, (int)v[1], (int)v[0], (int)v[2], (int)v[3], &err) == TI_OK, "mesh: %s", err.text);
  s.worker = check_rank;
  if (!check_failed) s.group = ti_mesh_dp_of(&s.mesh, s.worker);
  // A rank that fails would leave the others in a collective: all of it ends.
  if (check_failed || !start(&s, argv[1]) || !check_free(&s, (uint32_t)v[4]) || !check_forced(&s, (uint32_t)v[4], false)) MPI_Abort(MPI_COMM_WORLD, 1);
  if (argc > 7 && !check_replicas(&s, (uint32_t)v[4], (int)strtol(argv[7], NULL, 10))) MPI_Abort(MPI_COMM_WORLD, 1);
  if (argc == 7 && s.f.cfg.moe.n_expert && !check_relaxed(&s, (uint32_t)v[4])) MPI_Abort(MPI_COMM_WORLD, 1);
  check_ranks(&s);
  ti_engine_destroy(s.e);
  fixture_close(&s.f);
  ti_coll_destroy(s.tp);
  ti_coll_destroy(s.world);
  int failed = check_end("engine_mesh"), any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
