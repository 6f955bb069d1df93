// The tensors of a GGUF file under Hugging Face's names. See gguf_model.h. After opening everything is constant, so any thread may find and read.
//
// The config says which tensors there must be (names.h); each is looked up under its GGUF name and checked, and what is left over in the file is
// refused. An expert is a view into the stacked tensor; kv_b_proj may be a pair that is joined while it is read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/checkpoint_priv.h"
#include "model/gguf/gguf_model.h"

enum { MAX_ENTRIES = 1 << 24, MAX_NAME_BYTES = 1 << 30 };

typedef struct gg_entry {
  ti_tensor t;                 // key: the entry's index
  const ti_tensor *k_b, *v_b;  // t.data is NULL: the halves of kv_b_proj
} gg_entry;

typedef struct gg_checkpoint {
  ti_checkpoint head;
  ti_gguf *g;
  const ti_config *cfg;  // while opening
  ti_arena names;
  gg_entry *entry;  // in the order of their data
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

// kv_b_proj from its halves, where the file has them.
static ti_status join_kv_b(gg_checkpoint *s, const ti_tensor_spec *spec, gg_entry *e) {
  const ti_config *c = s->cfg;
  char k_name[TI_TENSOR_NAME_MAX], v_name[TI_TENSOR_NAME_MAX];
  snprintf(k_name, sizeof k_name, "blk.%d.attn_k_b.weight", spec->layer);
  snprintf(v_name, sizeof v_name, "blk.%d.attn_v_b.weight", spec->layer);
  const ti_tensor *k = use(s, k_name), *v = use(s, v_name);
  if (!k || !v)
    return ti_error_set(s->err, TI_ERR_NOTFOUND, "tensor blk.%d.attn_kv_b.weight is missing, and %s, too", spec->layer, k ? v_name : k_name);
  if (k->n_dim != 3 || k->shape[0] != c->n_head || k->shape[1] != c->kv_lora || k->shape[2] != c->qk_nope)
    return ti_error_set(s->err, TI_ERR_FORMAT, "tensor %s: expected [%d, %d, %d], found [%lld, %lld, %lld]", k_name, c->n_head, c->kv_lora,
                        c->qk_nope, (long long)k->shape[0], (long long)k->shape[1], (long long)k->shape[2]);
  if (v->n_dim != 3 || v->shape[0] != c->n_head || v->shape[1] != c->v_dim || v->shape[2] != c->kv_lora)
    return ti_error_set(s->err, TI_ERR_FORMAT, "tensor %s: expected [%d, %d, %d], found [%lld, %lld, %lld]", v_name, c->n_head, c->v_dim, c->kv_lora,
                        (long long)v->shape[0], (long long)v->shape[1], (long long)v->shape[2]);
  if (ti_dtype_block(k->dtype) != 1 || k->dtype != v->dtype)
    return ti_error_set(s->err, TI_ERR_UNSUPPORTED, "tensors %s (%s) and %s (%s): F32, F16 or BF16, the same for both, is supported", k_name,
                        ti_dtype_name(k->dtype), v_name, ti_dtype_name(v->dtype));
  *e = (gg_entry){.t = {.dtype = k->dtype, .n_dim = 2, .shape = {spec->rows, spec->cols}, .bytes = k->bytes + v->bytes}, .k_b = k, .v_b = v};
  return TI_OK;
}

static ti_status find_entry(gg_checkpoint *s, const ti_tensor_spec *spec, gg_entry *e) {
  char name[TI_TENSOR_NAME_MAX];
  bool stacked;
  if (ti_gguf_name(spec, name, &stacked) != TI_OK)
    return ti_error_set(s->err, TI_ERR_UNSUPPORTED, "tensor %s has no place in a GGUF file", spec->name);
  const ti_tensor *found = use(s, name);
  if (!found && spec->part == TI_PART_KV_B) return join_kv_b(s, spec, e);
  if (!found)
    return ti_error_set(s->err, TI_ERR_NOTFOUND, "tensor %s is missing: expected [%lld, %lld]", name, (long long)spec->rows, (long long)spec->cols);
  *e = (gg_entry){.t = *found};
  const ti_status st = stacked ? slice_expert(s->cfg, spec, name, &e->t, s->err) : TI_OK;
  return st == TI_OK ? expect(spec, &e->t, name, s->err) : st;
}

static ti_status add_entry(void *user, const ti_tensor_spec *spec) {
  gg_checkpoint *s = user;
  gg_entry e;
  ti_status st = find_entry(s, spec, &e);
  if (st != TI_OK) return st;
  if (s->n == MAX_ENTRIES) return ti_error_set(s->err, TI_ERR_RANGE, "more than %d tensors", MAX_ENTRIES);
  if (s->n == s->cap) {
    const size_t cap = s->cap ? 2 * s->cap : 512;
    gg_entry *p = realloc(s->entry, cap * sizeof *p);
    if (!p) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for %zu tensors", cap);
    s->entry = p;
    s->cap = cap;
  }
  if (!(e.t.name = ti_arena_strdup(&s->names, spec->name, strlen(spec->name)))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for names");
  s->entry[s->n++] = e;
  return TI_OK;
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

static const void *place(const gg_entry *e) { return e->t.data ? e->t.data : e->k_b->data; }

static int by_place(const void *a, const void *b) {
  const char *x = place(a), *y = place(b);
  return x < y ? -1 : x > y;
}

static int compare_names(const void *a, const void *b, void *entries) {
  const gg_entry *e = entries;
  return strcmp(e[*(const uint32_t *)a].t.name, e[*(const uint32_t *)b].t.name);
}

static ti_status sort(gg_checkpoint *s) {
  if (!(s->by_name = malloc((s->n + 1) * sizeof *s->by_name))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for names");
  qsort(s->entry, s->n, sizeof *s->entry, by_place);
  for (size_t i = 0; i < s->n; i++) {
    s->by_name[i] = (uint32_t)i;
    s->entry[i].t.key = i;
  }
  qsort_r(s->by_name, s->n, sizeof *s->by_name, compare_names, s->entry);
  return TI_OK;
}

static ti_status gg_find(const ti_checkpoint *c, const char *name, ti_tensor *out) {
  const gg_checkpoint *s = (const gg_checkpoint *)c;
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const gg_entry *e = &s->entry[s->by_name[mid]];
    const int d = strcmp(name, e->t.name);
    if (d == 0) {
      *out = e->t;
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
  *out = s->entry[i].t;
  return TI_OK;
}

// ---- reading ----

// Row r of kv_b_proj, columns [c0, c0 + cn): a column of a head's k_b, or a row of its v_b.
static void read_kv_b_row(const gg_entry *e, int64_t r, int64_t c0, int64_t cn, char *dst) {
  const int64_t lora = e->k_b->shape[1], nope = e->k_b->shape[2], v = e->v_b->shape[1], head = r / (nope + v), j = r % (nope + v);
  const size_t size = (size_t)ti_dtype_block_bytes(e->t.dtype);
  if (j >= nope) {
    const char *row = (const char *)e->v_b->data + (size_t)((head * v + j - nope) * lora + c0) * size;
    memcpy(dst, row, (size_t)cn * size);
    return;
  }
  const char *at = (const char *)e->k_b->data + (size_t)((head * lora + c0) * nope + j) * size;
  for (int64_t c = 0; c < cn; c++, at += (size_t)nope * size, dst += size) memcpy(dst, at, size);
}

static void gg_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  if (t->data) {
    ti_tensor_read_mapped(c, t, r0, rn, c0, cn, dst);
    return;
  }
  const gg_entry *e = &((const gg_checkpoint *)c)->entry[t->key];
  const size_t pitch = (size_t)cn * (size_t)ti_dtype_block_bytes(t->dtype);
  for (int64_t r = 0; r < rn; r++) read_kv_b_row(e, r0 + r, c0, cn, (char *)dst + (size_t)r * pitch);
}

static const ti_checkpoint_ops gg_ops = {.name = "gguf", .find = gg_find, .read = gg_read, .count = gg_count, .at = gg_at, .close = gg_close};

// ---- opening ----

static ti_status collect(gg_checkpoint *s, const ti_config *cfg) {
  ti_config own;
  ti_status st = cfg ? TI_OK : ti_gguf_config(s->g, &own, s->err);
  if (st != TI_OK) return st;
  s->cfg = cfg ? cfg : &own;
  if (!(s->used = calloc(s->g->n_tensor + 1, sizeof *s->used))) return ti_error_set(s->err, TI_ERR_NOMEM, "out of memory for tensors");
  st = ti_tensor_each(s->cfg, add_entry, s);
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
