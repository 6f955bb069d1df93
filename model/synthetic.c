// See synthetic.h. The table of tensors is built on opening (names.h) and constant afterwards; reading allocates nothing: any thread.
#include "model/synthetic.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"
#include "model/names.h"

enum { BLOCK = 16, ARENA_CAP = 1 << 30 };

typedef enum gen_kind { GEN_WEIGHT, GEN_ONE, GEN_SCALE, GEN_SCORE_BIAS } gen_kind;

typedef struct syn_entry {
  const char *name;  // in the arena
  ti_dtype dtype;
  gen_kind kind;
  int n_dim;
  int64_t rows, cols;
  size_t bytes;
  float amp;  // A of synthetic.h, or the largest value of the kind
} syn_entry;

typedef struct syn_checkpoint {
  ti_checkpoint head;
  ti_arena names;
  uint64_t seed;
  syn_entry *entries;  // in the order of names.h
  size_t n, cap;
  uint32_t *by_name;
  uint8_t e4m3_of[256];  // a random byte -> a weight
} syn_checkpoint;

// What generates one tensor.
typedef struct gen {
  const syn_entry *e;
  const uint8_t *e4m3_of;
  uint32_t key[2], seed[2];
} gen;

// Block b of a tensor: 16 bytes of elements.
static void gen_block(const gen *g, uint64_t b, unsigned char *dst) {
  const syn_entry *e = g->e;
  const uint32_t ctr[4] = {(uint32_t)b, (uint32_t)(b >> 32), g->seed[0], g->seed[1]};
  uint32_t r[4];
  ti_philox4x32(g->key, ctr, r);
  if (e->dtype == TI_E4M3) {
    for (int i = 0; i < 16; i++) dst[i] = g->e4m3_of[r[i / 4] >> (8 * (i % 4)) & 0xff];
  } else if (e->dtype == TI_F32) {
    float v[4];
    for (int i = 0; i < 4; i++) {
      if (e->kind == GEN_WEIGHT) v[i] = ((float)(r[i] >> 9) - 4194303.5f) * (e->amp * (1.0f / 4194304.0f));
      if (e->kind == GEN_SCALE) v[i] = e->amp * (0.75f + 0.5f * ti_u32_to_unit(r[i]));
      if (e->kind == GEN_SCORE_BIAS) v[i] = e->amp * ti_u32_to_unit(r[i]);
    }
    memcpy(dst, v, 16);
  } else {
    const float scale = e->amp * (1.0f / 32768.0f);
    const bool bf16 = e->dtype == TI_BF16;
    uint16_t v[8];
    for (int i = 0; i < 8; i++) {
      const float x = ((float)(r[i / 2] >> (16 * (i % 2)) & 0xffff) - 32767.5f) * scale;
      v[i] = bf16 ? ti_f32_to_bf16(x) : ti_f32_to_f16(x);
    }
    memcpy(dst, v, 16);
  }
}

// Elements [start, start + n) of the tensor, packed.
static void gen_run(const gen *g, uint64_t start, uint64_t n, unsigned char *dst) {
  const uint64_t size = (uint64_t)ti_dtype_block_bytes(g->e->dtype);
  uint64_t at = start * size, end = at + n * size;
  while (at < end) {
    const uint64_t b = at / BLOCK, skip = at % BLOCK;
    if (skip == 0 && end - at >= BLOCK) {
      gen_block(g, b, dst);
      at += BLOCK;
      dst += BLOCK;
      continue;
    }
    unsigned char tmp[BLOCK];
    const size_t k = ti_size_min(BLOCK - skip, end - at);
    gen_block(g, b, tmp);
    memcpy(dst, tmp + skip, k);
    at += k;
    dst += k;
  }
}

static void fill_ones(ti_dtype t, uint64_t n, void *dst) {
  const float one = 1.0f;
  const uint16_t h = t == TI_BF16 ? ti_f32_to_bf16(one) : ti_f32_to_f16(one);
  for (uint64_t i = 0; i < n; i++) {
    if (t == TI_F32)
      memcpy((char *)dst + 4 * i, &one, 4);
    else
      memcpy((char *)dst + 2 * i, &h, 2);
  }
}

static void syn_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  const syn_checkpoint *s = (const syn_checkpoint *)c;
  const syn_entry *e = &s->entries[t->key];
  if (e->kind == GEN_ONE) {
    fill_ones(e->dtype, (uint64_t)(rn * cn), dst);
    return;
  }
  const uint64_t h = ti_hash64(e->name, strlen(e->name));
  const gen g = {.e = e, .e4m3_of = s->e4m3_of, .key = {(uint32_t)h, (uint32_t)(h >> 32)}, .seed = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)}};
  if (cn == e->cols) {
    gen_run(&g, (uint64_t)(r0 * cn), (uint64_t)(rn * cn), dst);
    return;
  }
  const size_t pitch = (size_t)cn * (size_t)ti_dtype_block_bytes(e->dtype);
  for (int64_t r = 0; r < rn; r++) gen_run(&g, (uint64_t)((r0 + r) * e->cols + c0), (uint64_t)cn, (unsigned char *)dst + (size_t)r * pitch);
}

static void describe(const syn_checkpoint *s, size_t i, ti_tensor *out) {
  const syn_entry *e = &s->entries[i];
  *out = (ti_tensor){.name = e->name, .dtype = e->dtype, .n_dim = e->n_dim, .bytes = e->bytes, .key = i};
  out->shape[0] = e->n_dim == 1 ? e->cols : e->rows;
  if (e->n_dim == 2) out->shape[1] = e->cols;
}

static ti_status syn_find(const ti_checkpoint *c, const char *name, ti_tensor *out) {
  const syn_checkpoint *s = (const syn_checkpoint *)c;
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const int cmp = strcmp(name, s->entries[s->by_name[mid]].name);
    if (cmp == 0) {
      describe(s, s->by_name[mid], out);
      return TI_OK;
    }
    if (cmp < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return TI_ERR_NOTFOUND;
}

static int syn_count(const ti_checkpoint *c) { return (int)((const syn_checkpoint *)c)->n; }

static ti_status syn_at(const ti_checkpoint *c, int i, ti_tensor *out) {
  const syn_checkpoint *s = (const syn_checkpoint *)c;
  if (i < 0 || (size_t)i >= s->n) return TI_ERR_NOTFOUND;
  describe(s, (size_t)i, out);
  return TI_OK;
}

static void syn_close(ti_checkpoint *c) {
  syn_checkpoint *s = (syn_checkpoint *)c;
  ti_arena_fini(&s->names);
  free(s->entries);
  free(s->by_name);
  free(s);
}

static const ti_checkpoint_ops syn_ops = {
    .name = "synthetic", .find = syn_find, .read = syn_read, .count = syn_count, .at = syn_at, .close = syn_close};

static ti_status add_entry(void *user, const ti_tensor_spec *spec) {
  syn_checkpoint *s = user;
  if (s->n == s->cap) {
    const size_t cap = s->cap ? s->cap * 2 : 256;
    syn_entry *p = realloc(s->entries, cap * sizeof(*p));
    if (!p) return TI_ERR_NOMEM;
    s->entries = p;
    s->cap = cap;
  }
  syn_entry *e = &s->entries[s->n];
  *e = (syn_entry){.dtype = spec->dtype, .n_dim = spec->n_dim, .rows = spec->rows, .cols = spec->cols};
  if (!(e->name = ti_arena_strdup(&s->names, spec->name, strlen(spec->name)))) return TI_ERR_NOMEM;
  if (ti_dtype_size(e->dtype, (size_t)(e->rows * e->cols), &e->bytes) != TI_OK) return TI_ERR_RANGE;
  e->kind = GEN_WEIGHT;
  e->amp = (float)sqrt(3.0 / (double)e->cols);
  if (spec->field == TI_FIELD_SCALE) {
    const syn_entry *w = &s->entries[s->n - 1];  // names.h enumerates a weight just before its scales
    assert(w->dtype == TI_E4M3);
    e->kind = GEN_SCALE;
    e->amp = (float)(sqrt(3.0 / (double)w->cols) / 448.0);
  } else if (spec->field == TI_FIELD_SCORE_BIAS) {
    e->kind = GEN_SCORE_BIAS;
    e->amp = 0.02f;
  } else if (spec->field == TI_FIELD_BIAS) {
    e->amp = 0.05f;
  } else if (spec->n_dim == 1) {
    e->kind = GEN_ONE;
  }
  s->n++;
  return TI_OK;
}

static int compare_names(const void *a, const void *b, void *entries) {
  const syn_entry *e = entries;
  return strcmp(e[*(const uint32_t *)a].name, e[*(const uint32_t *)b].name);
}

ti_status ti_synthetic_open(const char *spec, const ti_config *cfg, ti_checkpoint **out, ti_error *err) {
  ti_config parsed;
  uint64_t seed;
  ti_status st = ti_config_random(spec, &parsed, &seed, err);
  if (st != TI_OK) return st;
  syn_checkpoint *s = calloc(1, sizeof(*s));
  if (!s) return ti_error_set(err, TI_ERR_NOMEM, "%.60s: out of memory", spec);
  s->head.ops = &syn_ops;
  s->seed = seed;
  ti_arena_init(&s->names, ARENA_CAP);
  for (int i = 0; i < 256; i++) s->e4m3_of[i] = ti_f32_to_e4m3(((float)i - 127.5f) * 3.5f);
  st = ti_tensor_each(cfg, add_entry, s);
  if (st == TI_OK && !(s->head.label = ti_arena_strdup(&s->names, spec, strlen(spec)))) st = TI_ERR_NOMEM;
  if (st == TI_OK && !(s->by_name = malloc((s->n + 1) * sizeof(*s->by_name)))) st = TI_ERR_NOMEM;
  if (st != TI_OK) {
    ti_error_set(err, st, "%.60s: %s after %zu tensors", spec, ti_status_text(st), s->n);
    syn_close(&s->head);
    return st;
  }
  for (size_t i = 0; i < s->n; i++) s->by_name[i] = (uint32_t)i;
  qsort_r(s->by_name, s->n, sizeof(*s->by_name), compare_names, s->entries);
  *out = &s->head;
  return TI_OK;
}
