// Deciding a job (see settings.h). Set-up only.
#include "launch/settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "launch/device.h"
#include "launch/holdings.h"
#include "model/gguf/gguf_model.h"
#include "model/names.h"

#define KV_DEFAULT_BYTES (256ull << 20)
#define MODEL_LEN_MOST 1048576u
// From how many rows `auto` splits a step; 0: never. Measured with overlap_bench, 2 ranks of one busy host, 16..1024 prefill and 4..64 decode rows:
// most of the time two micro-batches take 1.05 to 1.5 times as long, over shared memory and over TCP, and no row count gains twice in a row. Nothing
// is won where the ranks' own cores carry the messages.
#define TWO_BATCH_AUTO_ROWS 0u

uint32_t ti_settings_two_batch_rows(const ti_settings *job) {
  if (job->flags.overlap == TI_OVERLAP_OFF) return 0;
  return job->flags.overlap == TI_OVERLAP_ON ? 2 : TWO_BATCH_AUTO_ROWS;
}

const char *ti_settings_model_name(const ti_flags *f) {
  if (f->served_model_name[0]) return f->served_model_name;
  const char *slash = strrchr(f->model, '/');
  return slash && slash[1] ? slash + 1 : f->model;
}

static uint32_t or_else(int64_t given, uint32_t otherwise) { return given ? (uint32_t)given : otherwise; }

static ti_status decide_types(const ti_flags *f, const ti_config *c, ti_settings *j, ti_error *err) {
  const ti_status st = ti_device_decide(f->device, c, &j->device, j->device_note, sizeof j->device_note, err);
  if (st) return st;
  const bool gpu = j->device == TI_DEVICE_CUDA;
  const ti_dtype kv[] = {[TI_KV_AUTO] = gpu ? TI_BF16 : TI_F32, [TI_KV_F32] = TI_F32, [TI_KV_BF16] = TI_BF16, [TI_KV_FP8] = TI_E4M3};
  j->kv_dtype = kv[f->kv_cache_dtype];
  j->deterministic = f->deterministic == TI_SWITCH_AUTO ? !gpu : f->deterministic == TI_SWITCH_ON;
  j->page_tokens = or_else(f->block_size, gpu ? 64 : 16);
  j->max_num_seqs = or_else(f->max_num_seqs, gpu ? 256 : 64);
  j->max_num_batched_tokens = or_else(f->max_num_batched_tokens, gpu ? 8192 : 512);
  if (j->max_num_batched_tokens < j->max_num_seqs)
    return ti_error_set(err, TI_ERR_ARG,
                        "--max-num-batched-tokens %u: expected at least --max-num-seqs (%u), for each running sequence decodes one token a step",
                        j->max_num_batched_tokens, j->max_num_seqs);
  return TI_OK;
}

// Pages of one sequence: its tokens, and the places that steps in flight may write ahead.
static uint64_t pages_of(const ti_settings *j, uint64_t tokens) { return (tokens + j->page_tokens - 1) / j->page_tokens + 1; }

static ti_status decide_memory(const ti_flags *f, const ti_config *c, uint64_t page_bytes, ti_settings *j, ti_error *err) {
  const uint64_t most = c->max_position > 0 && (uint64_t)c->max_position < MODEL_LEN_MOST ? (uint64_t)c->max_position : MODEL_LEN_MOST;
  if (f->max_model_len > (int64_t)most)
    return ti_error_set(err, TI_ERR_ARG, "--max-model-len %" PRId64 ": the model's positions end at %" PRIu64, f->max_model_len, most);
  uint64_t len = f->max_model_len ? (uint64_t)f->max_model_len : most;
  uint64_t bytes = f->kv_cache_memory;
  char a[32], b[32];
  if (!bytes && j->device == TI_DEVICE_CUDA) {  // the worker's GPU says what is left; it refuses a length that does not fit
    j->max_model_len = (uint32_t)len;
    return TI_OK;
  }
  if (!bytes) {  // what all slots need at most, but not above the default, but one whole sequence of a stated length
    const uint64_t all = pages_of(j, len) * j->max_num_seqs * page_bytes, one = pages_of(j, len) * page_bytes;
    bytes = all < KV_DEFAULT_BYTES ? all : KV_DEFAULT_BYTES;
    if (f->max_model_len && bytes < one) bytes = one;
  }
  const uint64_t pages = bytes / page_bytes;
  if (pages < 2)
    return ti_error_set(err, TI_ERR_ARG, "--kv-cache-memory %s: a page of %u tokens is %s, and a sequence needs at least two", ti_size_text(bytes, a),
                        j->page_tokens, ti_size_text(page_bytes, b));
  if (pages < pages_of(j, len)) {
    const uint64_t fits = (pages - 1) * j->page_tokens;
    if (f->max_model_len)
      return ti_error_set(err, TI_ERR_ARG,
                          "--kv-cache-memory %s: holds %" PRIu64 " tokens, but --max-model-len is %" PRIu64
                          "; give %s, or a length of at most %" PRIu64,
                          ti_size_text(bytes, a), fits, len, ti_size_text(pages_of(j, len) * page_bytes, b), fits);
    len = fits;
  }
  j->max_model_len = (uint32_t)len;
  j->kv_bytes = pages * page_bytes;
  return TI_OK;
}

ti_status ti_settings_decide(const ti_flags *f, const ti_config *c, int workers, ti_settings *out, ti_error *err) {
  ti_settings j;
  memset(&j, 0, sizeof j);
  j.flags = *f;
  ti_status st = ti_mesh_init(&j.mesh, workers, (int)f->tp, (int)f->dp, (int)f->ep, (int)f->etp, err);
  if (!st) st = decide_types(f, c, &j, err);
  if (!st && f->redundant > c->moe.n_expert)
    st = ti_error_set(err, TI_ERR_ARG, "--num-redundant-experts %d: expected 0..%d, a copy of every expert of the model", (int)f->redundant,
                      c->moe.n_expert);
  if (!st) st = ti_speculative_parse(f->speculative_config, &j.speculative, err);
  uint64_t page_bytes = 0;
  for (int w = 0; !st && w < workers; w++) {  // the largest page decides, so that all workers have as many
    ti_holdings h;
    st = ti_holdings_of(c, &j.mesh, (int)f->redundant, w, j.page_tokens, j.kv_dtype, &h, err);
    if (!st && h.page_bytes > page_bytes) page_bytes = h.page_bytes;
    if (!st && !c->moe.n_expert && w >= j.mesh.tp) break;  // groups of a dense model are alike
  }
  if (!st) st = decide_memory(f, c, page_bytes, &j, err);
  if (!st) *out = j;
  return st;
}

typedef struct weight_check {
  const ti_checkpoint *ck;
  ti_error *err;
  int n_layer;
} weight_check;

static ti_status check_tensor(void *user, const ti_tensor_spec *s) {
  const weight_check *k = user;
  ti_tensor t;
  if (s->layer >= k->n_layer) return TI_OK;
  if (s->part == TI_PART_KV_B && ti_gguf_kv_b_is_split(k->ck, s->layer)) return TI_OK;  // checked when the file was opened
  const ti_status st = ti_checkpoint_require(k->ck, s->name, s->rows, s->cols, &t, k->err);
  if (st) return st;
  const bool scaled = s->dtype == TI_E4M3,
             weight = t.dtype == TI_F32 || t.dtype == TI_F16 || t.dtype == TI_BF16 || (t.dtype == TI_E4M3 && scaled) || ti_dtype_block(t.dtype) > 1;
  if (weight) return TI_OK;
  return ti_error_set(k->err, TI_ERR_FORMAT, "%s: tensor %s: type %s, expected F32, F16 or BF16%s", k->ck->label, s->name, ti_dtype_name(t.dtype),
                      t.dtype == TI_E4M3 ? " (FP8 needs quantization_config in config.json)"
                      : scaled           ? " or F8_E4M3"
                                         : "");
}

ti_status ti_settings_check_weights(const ti_config *c, const ti_checkpoint *ck, ti_error *err) {
  weight_check k = {.ck = ck, .err = err, .n_layer = c->n_layer};
  return ti_tensor_each(c, check_tensor, &k);
}

static void print_worker(const ti_settings *j, const ti_config *c, int w, FILE *f) {
  ti_holdings h;
  char a[32], b[32];
  if (ti_holdings_of(c, &j->mesh, (int)j->flags.redundant, w, j->page_tokens, j->kv_dtype, &h, NULL)) return;
  fprintf(f, "rank %d   dp %d  tp %d  ep %d  etp %d   %d query heads, %d KV heads", w + 1, ti_mesh_dp_of(&j->mesh, w), ti_mesh_tp_of(&j->mesh, w),
          ti_mesh_ep_of(&j->mesh, w), ti_mesh_etp_of(&j->mesh, w), h.heads, h.kv_heads);
  if (h.experts) fprintf(f, ", %d experts of width %d", h.experts, h.expert_width);
  fprintf(f, "\n");
  for (int i = 0; i < TI_HOLD_COUNT; i++)
    if (h.weight[i]) fprintf(f, "  %-20s %12s\n", ti_holding_name((ti_holding)i), ti_size_text(h.weight[i], a));
  fprintf(f, "  %-20s %12s   as stored\n", "weights", ti_size_text(h.weights, a));
  const uint64_t linear = h.weights - h.weight[TI_HOLD_EMBED] - h.weight[TI_HOLD_SMALL];
  if (j->flags.quantization == TI_WEIGHTS_FP8 && (c->weight_dtype == TI_BF16 || c->weight_dtype == TI_F16))
    fprintf(f, "  %-20s %12s   with --quantization fp8, made at load\n", "", ti_size_text(h.weights - linear / 2, a));
  if (!j->kv_bytes) {
    fprintf(f, "  %-20s %12s   %s a token (%s), as much as is left of %.2f of the GPU's memory\n", "KV cache", "",
            ti_size_text(h.page_bytes / j->page_tokens, b), ti_dtype_name(j->kv_dtype), j->flags.gpu_memory_utilization);
    return;
  }
  const uint64_t pages = j->kv_bytes / h.page_bytes;
  fprintf(f, "  %-20s %12s   %s a token (%s): %" PRIu64 " pages of %u, %" PRIu64 " tokens\n", "KV cache", ti_size_text(j->kv_bytes, a),
          ti_size_text(h.page_bytes / j->page_tokens, b), ti_dtype_name(j->kv_dtype), pages, j->page_tokens, pages * j->page_tokens);
}

// What is kept more than once, and what a worker's death costs.
static void print_losses(const ti_settings *j, const ti_config *c, FILE *f) {
  const bool copied = c->attn == TI_ATTN_MLA && j->mesh.tp > 1;
  uint64_t weights = 0, experts = 0, page_bytes = 0;
  char a[32], b[32];
  for (int w = 0; w < j->mesh.workers; w++) {
    ti_holdings h;
    if (ti_holdings_of(c, &j->mesh, (int)j->flags.redundant, w, j->page_tokens, j->kv_dtype, &h, NULL)) return;
    if (h.weights > weights) weights = h.weights;
    if (h.weight[TI_HOLD_EXPERTS] > experts) experts = h.weight[TI_HOLD_EXPERTS];
    if (h.page_bytes > page_bytes) page_bytes = h.page_bytes;
  }
  if (copied)
    fprintf(f, "MLA's latent is kept by each of a group's %d tp ranks: %s a token in all\n", j->mesh.tp,
            ti_size_text(page_bytes / j->page_tokens * (uint64_t)j->mesh.tp, a));
  fprintf(f, "if a worker dies, another has to load up to %s", ti_size_text(weights, a));
  if (experts) fprintf(f, ", %s of it experts", ti_size_text(experts, b));
  if (copied)
    fprintf(f, "; the KV cache is on its group's other ranks\n");
  else if (j->kv_bytes)
    fprintf(f, ", and up to %" PRIu64 " tokens of its group are computed anew\n", j->kv_bytes / page_bytes * j->page_tokens);
  else
    fprintf(f, ", and the sequences of its group are computed anew\n");
}

void ti_settings_print_plan(const ti_settings *j, const ti_config *c, FILE *f) {
  fprintf(f, "%s (%s): %d workers, attention tp %d x dp %d", ti_settings_model_name(&j->flags), c->arch, j->mesh.workers, j->mesh.tp, j->mesh.dp);
  if (c->moe.n_expert) fprintf(f, ", experts ep %d x etp %d", j->mesh.ep, j->mesh.etp);
  fprintf(f, "\nsequences of up to %u tokens, %u at once and %u tokens a step in each group\n", j->max_model_len, j->max_num_seqs,
          j->max_num_batched_tokens);
  for (int w = 0; w < j->mesh.workers; w++) print_worker(j, c, w, f);
  print_losses(j, c, f);
}
