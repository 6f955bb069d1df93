// See synthetic.h. The table of tensors is built on opening (names.h) and constant afterwards; reading allocates nothing: any thread. A large read is
// shared by a team of as many threads as the process may use CPUs; where two threads read at once, the second works alone.
#include "model/synthetic.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/team.h"
#include "model/names.h"
#include "model/synthetic_priv.h"

enum { ARENA_CAP = 1 << 30, TEAM_MAX = 64, TEAM_BYTES = 1 << 20 };  // a read from TEAM_BYTES on is shared

typedef struct syn_entry {
  const char *name;  // in the arena
  ti_dtype dtype;
  ti_syn_kind kind;
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
  pthread_mutex_t team_lock;
  ti_team *team;  // guarded by team_lock; NULL: one CPU, or no tensor is large
} syn_checkpoint;

// Elements [start, start + n) of the tensor, packed.
static void gen_run(const ti_syn_gen *g, uint64_t start, uint64_t n, unsigned char *dst) {
  const uint64_t size = (uint64_t)ti_dtype_block_bytes(g->dtype);
  uint64_t at = start * size, end = at + n * size;
  while (at < end) {
    const uint64_t b = at / TI_SYN_BLOCK, skip = at % TI_SYN_BLOCK, whole = (end - at) / TI_SYN_BLOCK;
    if (skip == 0 && whole) {
      ti_syn_fill(g, b, whole, dst);
      at += whole * TI_SYN_BLOCK;
      dst += whole * TI_SYN_BLOCK;
      continue;
    }
    unsigned char tmp[TI_SYN_BLOCK];
    const size_t k = ti_size_min(TI_SYN_BLOCK - skip, end - at);
    ti_syn_fill(g, b, 1, tmp);
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

// A piece of a tensor, the threads sharing its elements: rows of cn out of cols.
typedef struct fill_job {
  ti_syn_gen gen;
  int64_t cols, r0, rn, c0, cn;
  unsigned char *dst;
} fill_job;

static void fill_rows(const fill_job *j, int64_t lo, int64_t hi) {
  const size_t pitch = (size_t)j->cn * (size_t)ti_dtype_block_bytes(j->gen.dtype);
  for (int64_t r = lo; r < hi; r++) gen_run(&j->gen, (uint64_t)((j->r0 + r) * j->cols + j->c0), (uint64_t)j->cn, j->dst + (size_t)r * pitch);
}

static void fill_share(void *arg, int thread, int n_threads) {
  const fill_job *j = arg;
  fill_rows(j, j->rn * thread / n_threads, j->rn * (thread + 1) / n_threads);
}

static void syn_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  syn_checkpoint *s = (syn_checkpoint *)c;  // for its team
  const syn_entry *e = &s->entries[t->key];
  if (e->kind == TI_SYN_ONE) {
    fill_ones(e->dtype, (uint64_t)(rn * cn), dst);
    return;
  }
  const uint64_t h = ti_hash64(e->name, strlen(e->name));
  fill_job j = {.cols = e->cols, .r0 = r0, .rn = rn, .c0 = c0, .cn = cn, .dst = dst};
  j.gen = (ti_syn_gen){.dtype = e->dtype,
                       .kind = e->kind,
                       .amp = e->amp,
                       .e4m3_of = s->e4m3_of,
                       .key = {(uint32_t)h, (uint32_t)(h >> 32)},
                       .seed = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)}};
  const bool large = rn * cn >= TEAM_BYTES / ti_dtype_block_bytes(e->dtype);
  if (large && s->team && pthread_mutex_trylock(&s->team_lock) == 0) {
    ti_team_run(s->team, fill_share, &j);
    pthread_mutex_unlock(&s->team_lock);
  } else {
    fill_rows(&j, 0, rn);
  }
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
  ti_team_destroy(s->team);
  pthread_mutex_destroy(&s->team_lock);
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
  e->kind = TI_SYN_WEIGHT;
  e->amp = (float)sqrt(3.0 / (double)e->cols);
  if (spec->field == TI_FIELD_SCALE) {
    const syn_entry *w = &s->entries[s->n - 1];  // names.h enumerates a weight just before its scales
    assert(w->dtype == TI_E4M3);
    e->kind = TI_SYN_SCALE;
    e->amp = (float)(sqrt(3.0 / (double)w->cols) / 448.0);
  } else if (spec->field == TI_FIELD_SCORE_BIAS) {
    e->kind = TI_SYN_SCORE_BIAS;
    e->amp = 0.02f;
  } else if (spec->field == TI_FIELD_BIAS) {
    e->amp = 0.05f;
  } else if (spec->n_dim == 1) {
    e->kind = TI_SYN_ONE;
  }
  s->n++;
  return TI_OK;
}

static int compare_names(const void *a, const void *b, void *entries) {
  const syn_entry *e = entries;
  return strcmp(e[*(const uint32_t *)a].name, e[*(const uint32_t *)b].name);
}

// Made on opening, before a device pins the thread that reads: the team may use all the CPUs that the process may.
static ti_status start_team(syn_checkpoint *s) {
  cpu_set_t set;
  const int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  bool large = false;
  for (size_t i = 0; i < s->n; i++) large |= s->entries[i].bytes >= TEAM_BYTES;
  return large && cpus > 1 ? ti_team_create(cpus < TEAM_MAX ? cpus : TEAM_MAX, NULL, &s->team) : TI_OK;
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
  pthread_mutex_init(&s->team_lock, NULL);
  ti_arena_init(&s->names, ARENA_CAP);
  for (int i = 0; i < 256; i++) s->e4m3_of[i] = ti_f32_to_e4m3(((float)i - 127.5f) * 3.5f);
  st = ti_tensor_each(cfg, add_entry, s);
  if (st == TI_OK && !(s->head.label = ti_arena_strdup(&s->names, spec, strlen(spec)))) st = TI_ERR_NOMEM;
  if (st == TI_OK && !(s->by_name = malloc((s->n + 1) * sizeof(*s->by_name)))) st = TI_ERR_NOMEM;
  if (st == TI_OK) st = start_team(s);
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
