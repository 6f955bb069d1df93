// The tensors of a GGUF file under Hugging Face's names. See gguf_model.h. After opening everything is constant, so any thread may find and read.
//
// The config says which tensors there must be (names.h); each is looked up under its GGUF name and checked, and what is left over in the file is
// refused. An expert is a view into the stacked tensor; kv_b_proj may be a pair (gguf_model.h).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/checkpoint_priv.h"
#include "model/gguf/gguf_model.h"

enum { MAX_ENTRIES = 1 << 24, MAX_NAME_BYTES = 1 << 30 };

typedef struct gg_checkpoint {
  ti_checkpoint head;
  ti_gguf *g;
  const ti_config *cfg;  // while opening
  ti_arena names;
  ti_tensor *entry;  // in the order of their data; key: the entry's index
  size_t n, cap;
  uint32_t *by_name;
  bool *used;  // [g->n_tensor], while opening
  ti_error *err;
} gg_checkpoint;

static const ti_checkpoint_ops gg_ops;

static void gg_close(ti_checkpoint *c) {
  gg_checkpoint *s = (gg_checkpoint *)c;
  ti_arena_fini(&s->names);
  ti_gguf_close(s->g);
  free(s->entry);
  free(s->by_name);
  free(s->used);
  free(s);
}

// ---- one tensor ----

static ti_status expect(const ti_tensor_spec *spec, const ti_tensor *found, const char *name, ti_error *err) {
  int64_t rows, cols;
  ti_tensor_matrix(found, &rows, &cols);
  if (rows != spec->rows || cols != spec->cols)
    return ti_error_set(err, TI_ERR_FORMAT, "tensor %s: expected [%lld, %lld], found [%lld, %lld]", name, (long long)spec->rows,
                        (long long)spec->cols, (long long)rows, (long long)cols);
  if (spec->n_dim == 1 && ti_dtype_block(found->dtype) != 1)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "tensor %s: a vector of %s (F32, F16 and BF16 are supported)", name, ti_dtype_name(found->dtype));
  return TI_OK;
}

// The matrix of one expert within [n_expert, rows, cols].
static ti_status slice_expert(const ti_config *cfg, const ti_tensor_spec *spec, const char *name, ti_tensor *t, ti_error *err) {
  if (t->n_dim != 3 || t->shape[0] != cfg->moe.n_expert)
    return ti_error_set(err, TI_ERR_FORMAT, "tensor %s: expected [%d, %lld, %lld], found %d dimensions, %lld in the first", name, cfg->moe.n_expert,
                        (long long)spec->rows, (long long)spec->cols, t->n_dim, (long long)t->shape[0]);
  t->bytes /= (size_t)t->shape[0];
  t->data = (const char *)t->data + t->bytes * (size_t)spec->expert;
  t->shape[0] = t->shape[1];
  t->shape[1] = t->shape[2];
  t->shape[2] = 0;
  t->n_dim = 2;
  return TI_OK;
}

static const ti_tensor *use(gg_checkpoint *s, const char *name) {
  const ti_tensor *t = ti_gguf_tensor(s->g, name);
  if (t) s->used[t - s->g->tensor] = true;
  return t;
}

static ti_status add_entry(gg_checkpoint *s, const ti_tensor *t, const char *name) {
  if (s->n == MAX_ENTRIES) return ti_error_set(s->err, TI_ERR_RANGE, "more than %d tensors", MAX_ENTRIES);
  if (s->n == s->cap) {
    const size_t cap = s->cap ? 2 * s->cap : 512;
    ti_tensor *p = realloc(s->entry, cap * sizeof *p);
    if (!p) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for %zu tensors", cap);
    s->entry = p;
    s->cap = cap;
  }
  ti_tensor *e = &s->entry[s->n];
  *e = *t;
  if (!(e->name = ti_arena_strdup(&s->names, name, strlen(name)))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for names");
  s->n++;
  return TI_OK;
}

// One half of kv_b_proj: [n_head, rows, cols].
static ti_status add_half(gg_checkpoint *s, int layer, const char *half, int64_t rows, int64_t cols) {
  char name[TI_TENSOR_NAME_MAX], ours[TI_TENSOR_NAME_MAX];
  snprintf(name, sizeof name, "blk.%d.attn_%s.weight", layer, half);
  snprintf(ours, sizeof ours, "model.layers.%d.self_attn.%s_proj.weight", layer, half);
  const ti_tensor *t = use(s, name);
  if (!t) return ti_error_set(s->err, TI_ERR_NOTFOUND, "tensor blk.%d.attn_kv_b.weight is missing, and %s, too", layer, name);
  if (t->n_dim != 3 || t->shape[0] != s->cfg->n_head || t->shape[1] != rows || t->shape[2] != cols)
    return ti_error_set(s->err, TI_ERR_FORMAT, "tensor %s: expected [%d, %lld, %lld], found [%lld, %lld, %lld]", name, s->cfg->n_head,
                        (long long)rows, (long long)cols, (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2]);
  return add_entry(s, t, ours);
}

static ti_status add_tensor(void *user, const ti_tensor_spec *spec) {
  gg_checkpoint *s = user;
  char name[TI_TENSOR_NAME_MAX];
  bool stacked;
  if (ti_gguf_name(spec, name, &stacked) != TI_OK)
    return ti_error_set(s->err, TI_ERR_UNSUPPORTED, "tensor %s has no place in a GGUF file", spec->name);
  const ti_tensor *found = use(s, name);
  if (!found && spec->part == TI_PART_KV_B) {
    const ti_status st = add_half(s, spec->layer, "k_b", s->cfg->kv_lora, s->cfg->qk_nope);
    return st == TI_OK ? add_half(s, spec->layer, "v_b", s->cfg->v_dim, s->cfg->kv_lora) : st;
  }
  if (!found)
    return ti_error_set(s->err, TI_ERR_NOTFOUND, "tensor %s is missing: expected [%lld, %lld]", name, (long long)spec->rows, (long long)spec->cols);
  ti_tensor t = *found;
  ti_status st = stacked ? slice_expert(s->cfg, spec, name, &t, s->err) : TI_OK;
  if (st == TI_OK) st = expect(spec, &t, name, s->err);
  return st == TI_OK ? add_entry(s, &t, spec->name) : st;
}

// A tensor that nothing asked for means that the model computes something else than the config says.
static ti_status check_left_over(const gg_checkpoint *s) {
  for (size_t i = 0; i < s->g->n_tensor; i++) {
    const char *name = s->g->tensor[i].name;
    if (s->used[i] || strcmp(name, "rope_freqs.weight") == 0) continue;  // gguf_config.c has read that one
    return ti_error_set(s->err, TI_ERR_UNSUPPORTED, "tensor %s is no part of %s as it is known here", name, s->cfg->arch);
  }
  return TI_OK;
}

// ---- lookup ----

static int by_place(const void *a, const void *b) {
  const char *x = ((const ti_tensor *)a)->data, *y = ((const ti_tensor *)b)->data;
  return x < y ? -1 : x > y;
}

static int compare_names(const void *a, const void *b, void *entries) {
  const ti_tensor *e = entries;
  return strcmp(e[*(const uint32_t *)a].name, e[*(const uint32_t *)b].name);
}

static ti_status sort(gg_checkpoint *s) {
  if (!(s->by_name = malloc((s->n + 1) * sizeof *s->by_name))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for names");
  qsort(s->entry, s->n, sizeof *s->entry, by_place);
  for (size_t i = 0; i < s->n; i++) {
    s->by_name[i] = (uint32_t)i;
    s->entry[i].key = i;
  }
  qsort_r(s->by_name, s->n, sizeof *s->by_name, compare_names, s->entry);
  return TI_OK;
}

static ti_status gg_find(const ti_checkpoint *c, const char *name, ti_tensor *out) {
  const gg_checkpoint *s = (const gg_checkpoint *)c;
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const ti_tensor *e = &s->entry[s->by_name[mid]];
    const int d = strcmp(name, e->name);
    if (d == 0) {
      *out = *e;
      return TI_OK;
    }
    if (d < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return TI_ERR_NOTFOUND;
}

static int gg_count(const ti_checkpoint *c) { return (int)((const gg_checkpoint *)c)->n; }

static ti_status gg_at(const ti_checkpoint *c, int i, ti_tensor *out) {
  const gg_checkpoint *s = (const gg_checkpoint *)c;
  if (i < 0 || (size_t)i >= s->n) return TI_ERR_NOTFOUND;
  *out = s->entry[i];
  return TI_OK;
}

static const ti_checkpoint_ops gg_ops = {
    .name = "gguf", .find = gg_find, .read = ti_tensor_read_mapped, .count = gg_count, .at = gg_at, .close = gg_close};

bool ti_gguf_kv_b_is_split(const ti_checkpoint *c, int layer) {
  char name[TI_TENSOR_NAME_MAX];
  ti_tensor t;
  snprintf(name, sizeof name, "model.layers.%d.self_attn.k_b_proj.weight", layer);
  return c->ops == &gg_ops && gg_find(c, name, &t) == TI_OK;
}

// ---- opening ----

static ti_status collect(gg_checkpoint *s, const ti_config *cfg) {
  ti_config own;
  ti_status st = cfg ? TI_OK : ti_gguf_config(s->g, &own, s->err);
  if (st != TI_OK) return st;
  s->cfg = cfg ? cfg : &own;
  if (!(s->used = calloc(s->g->n_tensor + 1, sizeof *s->used))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for tensors");
  st = ti_tensor_each(s->cfg, add_tensor, s);
  if (st == TI_OK) st = check_left_over(s);
  if (st == TI_OK) st = sort(s);
  free(s->used);
  s->used = NULL;
  s->cfg = NULL;
  s->err = NULL;
  return st;
}

ti_status ti_gguf_checkpoint(ti_gguf *g, const ti_config *cfg, ti_checkpoint **out, ti_error *err) {
  gg_checkpoint *s = calloc(1, sizeof *s);
  if (!s) {
    ti_gguf_close(g);
    return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  }
  *s = (gg_checkpoint){.head = {.ops = &gg_ops, .label = g->label}, .g = g, .err = err};
  ti_arena_init(&s->names, MAX_NAME_BYTES);
  const ti_status st = collect(s, cfg);
  if (st != TI_OK) {
    ti_error_prefix(err, "%s", g->label);
    gg_close(&s->head);
    return st;
  }
  *out = &s->head;
  return TI_OK;
}
