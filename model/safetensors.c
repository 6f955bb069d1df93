// See safetensors.h. After opening everything is constant, so any thread may find and read.
//
// Entries stand in file order (shard, then offset); `by_name` is a sorted view for lookup. A file that somebody truncates while it is mapped
// faults on access: checkpoints are not edited in place.
#include "model/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/size.h"
#include "model/checkpoint_priv.h"
#include "model/safetensors_header.h"

enum {
  MAX_HEADER_BYTES = 100 << 20,
  MAX_TENSORS = 1 << 24,
  MAX_NAME = 1024,
  MAX_NAME_BYTES = 1 << 30,
  MAX_SHARDS = 4096,
  MAX_INDEX_BYTES = 256 << 20
};

typedef struct st_entry {
  const char *name;  // in the arena
  ti_dtype dtype;
  int n_dim, shard;
  int64_t shape[TI_TENSOR_DIMS];
  uint64_t begin, end;  // within the shard's data
} st_entry;

typedef struct st_shard {
  char *file;  // as errors call it
  const unsigned char *map;
  size_t size, data_at;  // of the file; where its data begins
  bool mapped;           // ours to unmap
} st_shard;

typedef struct st_checkpoint {
  ti_checkpoint head;
  char *label;
  st_shard *shards;
  int n_shard;
  ti_arena names;
  st_entry *entries;
  size_t n, cap;
  uint32_t *by_name;
} st_checkpoint;

static const ti_checkpoint_ops st_ops;

static void st_close(ti_checkpoint *c) {
  st_checkpoint *s = (st_checkpoint *)c;
  ti_arena_fini(&s->names);
  for (int i = 0; i < s->n_shard; i++) {
    if (s->shards[i].mapped) munmap((void *)(uintptr_t)s->shards[i].map, s->shards[i].size);
    free(s->shards[i].file);
  }
  free(s->shards);
  free(s->entries);
  free(s->by_name);
  free(s->label);
  free(s);
}

static ti_status st_create(const char *label, int max_shards, st_checkpoint **out, ti_error *err) {
  st_checkpoint *s = calloc(1, sizeof(*s));
  if (!s) return ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", label);
  s->head.ops = &st_ops;
  s->head.label = s->label = strdup(label);
  ti_arena_init(&s->names, MAX_NAME_BYTES);
  s->shards = calloc((size_t)max_shards, sizeof(*s->shards));
  if (!s->label || !s->shards) {
    st_close(&s->head);
    return ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", label);
  }
  *out = s;
  return TI_OK;
}

// --- one header ---

static ti_status check_shape(const ti_st_item *it, st_entry *e, size_t *count, ti_error *err) {
  if (it->n_dim < 0) return ti_error_set(err, TI_ERR_FORMAT, "shape: missing");
  if (it->n_dim > TI_TENSOR_DIMS)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "shape: %d dimensions, at most %d are supported", it->n_dim, TI_TENSOR_DIMS);
  e->n_dim = it->n_dim;
  *count = 1;
  for (int i = 0; i < e->n_dim; i++) {
    if (it->dims[i] > INT64_MAX || !ti_size_mul(*count, (size_t)it->dims[i], count) || *count > (size_t)INT64_MAX)
      return ti_error_set(err, TI_ERR_RANGE, "shape: the product of its dimensions overflows");
    e->shape[i] = (int64_t)it->dims[i];
  }
  return TI_OK;
}

static ti_status check_offsets(const ti_st_item *it, const st_shard *shard, st_entry *e, ti_error *err) {
  if (!it->has_offsets) return ti_error_set(err, TI_ERR_FORMAT, "data_offsets: missing");
  const size_t data = shard->size - shard->data_at;
  e->begin = it->begin;
  e->end = it->end;
  if (e->begin > e->end || e->end > data)
    return ti_error_set(err, TI_ERR_RANGE, "data_offsets: [%llu, %llu] are not within the file's %zu bytes of data (truncated?)",
                        (unsigned long long)e->begin, (unsigned long long)e->end, data);
  return TI_OK;
}

static ti_status check_entry(const ti_st_item *it, const st_shard *shard, st_entry *e, ti_error *err) {
  size_t count = 0, bytes = 0;
  char dtype[16];
  if (it->name_n > MAX_NAME) return ti_error_set(err, TI_ERR_RANGE, "a name of %zu bytes, the limit is %d", it->name_n, MAX_NAME);
  if (!it->dtype) return ti_error_set(err, TI_ERR_FORMAT, "dtype: missing");
  snprintf(dtype, sizeof(dtype), "%.*s", (int)ti_size_min(it->dtype_n, sizeof(dtype) - 1), it->dtype);
  if (ti_dtype_parse(dtype, &e->dtype) != TI_OK || ti_dtype_block(e->dtype) != 1)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "dtype: \"%s\" is not supported (F32, F16, BF16, F8_E4M3, I8, U8, I32 and I64 are)", dtype);
  ti_status st = check_shape(it, e, &count, err);
  if (st == TI_OK) st = check_offsets(it, shard, e, err);
  if (st != TI_OK) return st;
  if (ti_dtype_size(e->dtype, count, &bytes) != TI_OK || bytes != e->end - e->begin)
    return ti_error_set(err, TI_ERR_FORMAT, "data_offsets: %llu bytes, but %zu elements of %s have another size",
                        (unsigned long long)(e->end - e->begin), count, dtype);
  if ((shard->data_at + e->begin) % (size_t)ti_dtype_block_bytes(e->dtype) != 0)
    return ti_error_set(err, TI_ERR_FORMAT, "data at byte %llu of the file is not aligned to the %d bytes of %s",
                        (unsigned long long)(shard->data_at + e->begin), ti_dtype_block_bytes(e->dtype), dtype);
  return TI_OK;
}

static ti_status add_entry(st_checkpoint *s, const st_entry *e, const ti_st_item *it, ti_error *err) {
  if (s->n == MAX_TENSORS) return ti_error_set(err, TI_ERR_RANGE, "more than %d tensors", MAX_TENSORS);
  if (s->n == s->cap) {
    const size_t cap = s->cap ? s->cap * 2 : 1024;
    st_entry *p = realloc(s->entries, cap * sizeof(*p));
    if (!p) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for %zu tensors", cap);
    s->entries = p;
    s->cap = cap;
  }
  s->entries[s->n] = *e;
  if (!(s->entries[s->n].name = ti_arena_strdup(&s->names, it->name, it->name_n))) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for names");
  s->n++;
  return TI_OK;
}

static int by_offset(const void *a, const void *b) {
  const st_entry *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

// Entries first.. of one shard, in the order of their data: no byte may belong to two.
static ti_status check_overlap(const st_checkpoint *s, size_t first, ti_error *err) {
  uint64_t end = 0;
  const char *owner = "";  // of the bytes up to end
  for (size_t i = first; i < s->n; i++) {
    const st_entry *e = &s->entries[i];
    if (e->begin < end && e->begin < e->end)
      return ti_error_set(err, TI_ERR_FORMAT, "tensors %.120s and %.120s overlap at data byte %llu", owner, e->name, (unsigned long long)e->begin);
    if (e->end > end) {
      end = e->end;
      owner = e->name;
    }
  }
  return TI_OK;
}

// The JSON header of shard `k` at text[n]: its entries are appended, in the order of their data.
static ti_status parse_header(st_checkpoint *s, int k, const char *text, size_t n, ti_error *err) {
  const size_t first = s->n;
  ti_st_cursor cursor;
  ti_st_item it;
  ti_status st = ti_st_begin(&cursor, text, n, err);
  while (st == TI_OK && (st = ti_st_next(&cursor, &it, err)) == TI_OK) {
    st_entry e = {.shard = k};
    if ((st = check_entry(&it, &s->shards[k], &e, err)) != TI_OK)
      ti_error_prefix(err, "tensor %.*s", (int)ti_size_min(it.name_n, 120), it.name);
    else
      st = add_entry(s, &e, &it, err);
  }
  if (st != TI_ERR_NOTFOUND) return st;
  if (s->n > first) qsort(s->entries + first, s->n - first, sizeof(*s->entries), by_offset);
  return check_overlap(s, first, err);
}

static ti_status parse_shard(st_checkpoint *s, int k, ti_error *err) {
  st_shard *shard = &s->shards[k];
  if (shard->size < 8) return ti_error_set(err, TI_ERR_FORMAT, "%zu bytes, a safetensors file has 8 or more", shard->size);
  uint64_t n = 0;
  for (int i = 7; i >= 0; i--) n = n << 8 | shard->map[i];
  if (n > MAX_HEADER_BYTES || n > shard->size - 8)
    return ti_error_set(err, TI_ERR_FORMAT, "header of %llu bytes in a file of %zu (limit %d): truncated, or no safetensors file",
                        (unsigned long long)n, shard->size, MAX_HEADER_BYTES);
  shard->data_at = 8 + (size_t)n;
  return parse_header(s, k, (const char *)shard->map + 8, (size_t)n, err);
}

// --- lookup ---

static int compare_names(const void *a, const void *b, void *entries) {
  const st_entry *e = entries;
  return strcmp(e[*(const uint32_t *)a].name, e[*(const uint32_t *)b].name);
}

static ti_status sort_names(st_checkpoint *s, ti_error *err) {
  s->by_name = malloc((s->n + 1) * sizeof(*s->by_name));
  if (!s->by_name) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  for (size_t i = 0; i < s->n; i++) s->by_name[i] = (uint32_t)i;
  qsort_r(s->by_name, s->n, sizeof(*s->by_name), compare_names, s->entries);
  for (size_t i = 1; i < s->n; i++) {
    const st_entry *a = &s->entries[s->by_name[i - 1]], *b = &s->entries[s->by_name[i]];
    if (strcmp(a->name, b->name) != 0) continue;
    if (a->shard == b->shard) return ti_error_set(err, TI_ERR_FORMAT, "tensor %.120s comes twice", a->name);
    return ti_error_set(err, TI_ERR_FORMAT, "tensor %.120s is in two files: %s and %s", a->name, s->shards[a->shard].file, s->shards[b->shard].file);
  }
  return TI_OK;
}

static const st_entry *lookup(const st_checkpoint *s, const char *name) {
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const st_entry *e = &s->entries[s->by_name[mid]];
    const int c = strcmp(name, e->name);
    if (c == 0) return e;
    if (c < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return NULL;
}

static void describe(const st_checkpoint *s, const st_entry *e, ti_tensor *out) {
  const st_shard *shard = &s->shards[e->shard];
  *out = (ti_tensor){
      .name = e->name, .dtype = e->dtype, .n_dim = e->n_dim, .data = shard->map + shard->data_at + e->begin, .bytes = (size_t)(e->end - e->begin)};
  memcpy(out->shape, e->shape, sizeof(out->shape));
}

static ti_status st_find(const ti_checkpoint *c, const char *name, ti_tensor *out) {
  const st_checkpoint *s = (const st_checkpoint *)c;
  const st_entry *e = lookup(s, name);
  if (!e) return TI_ERR_NOTFOUND;
  describe(s, e, out);
  return TI_OK;
}

static int st_count(const ti_checkpoint *c) { return (int)((const st_checkpoint *)c)->n; }

static ti_status st_at(const ti_checkpoint *c, int i, ti_tensor *out) {
  const st_checkpoint *s = (const st_checkpoint *)c;
  if (i < 0 || (size_t)i >= s->n) return TI_ERR_NOTFOUND;
  describe(s, &s->entries[i], out);
  return TI_OK;
}

static const ti_checkpoint_ops st_ops = {
    .name = "safetensors", .find = st_find, .read = ti_tensor_read_mapped, .count = st_count, .at = st_at, .close = st_close};

// --- opening ---

static ti_status map_file(const char *path, st_shard *shard, ti_error *err) {
  struct stat sb;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s", strerror(errno));
  ti_status st = TI_OK;
  if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
    st = ti_error_set(err, TI_ERR_IO, "not a regular file");
    goto out;
  }
  if (sb.st_size == 0) {
    st = ti_error_set(err, TI_ERR_FORMAT, "the file is empty");
    goto out;
  }
  void *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) {
    st = ti_error_set(err, TI_ERR_IO, "mmap of %lld bytes: %s", (long long)sb.st_size, strerror(errno));
    goto out;
  }
  shard->map = map;
  shard->size = (size_t)sb.st_size;
  shard->mapped = true;
out:
  close(fd);
  return st;
}

// Maps and parses folder/file (folder may be "") as the next shard.
static ti_status add_shard(st_checkpoint *s, const char *folder, int folder_len, const char *file, ti_error *err) {
  st_shard *shard = &s->shards[s->n_shard];
  if (asprintf(&shard->file, "%.*s%s", folder_len, folder, file) < 0) {
    shard->file = NULL;
    return ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", file);
  }
  s->n_shard++;
  ti_status st = map_file(shard->file, shard, err);
  if (st == TI_OK) st = parse_shard(s, s->n_shard - 1, err);
  if (st != TI_OK) ti_error_prefix(err, "%s", shard->file);
  return st;
}

static int compare_strings(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

// The distinct shard files of a weight_map, sorted, into files[max] (borrowed from the map).
static ti_status shard_files(const json_t *map, const char **files, size_t max, int *out, ti_error *err) {
  const char *name;
  json_t *v;
  size_t n = 0;
  json_object_foreach((json_t *)(uintptr_t)map, name, v) {
    const char *f = json_string_value(v);
    if (!f || !f[0] || strchr(f, '/') || f[0] == '.')
      return ti_error_set(err, TI_ERR_FORMAT, "weight_map: tensor %.120s: expected the name of a file beside the index", name);
    assert(n < max);
    files[n++] = f;
  }
  qsort(files, n, sizeof(*files), compare_strings);
  size_t k = 0;
  for (size_t i = 0; i < n; i++)
    if (k == 0 || strcmp(files[k - 1], files[i]) != 0) files[k++] = files[i];
  if (k > MAX_SHARDS) return ti_error_set(err, TI_ERR_RANGE, "weight_map: %zu files, the limit is %d", k, MAX_SHARDS);
  *out = (int)k;
  return TI_OK;
}

// Every tensor that the index promises must be in the file that it names.
static ti_status check_index(const st_checkpoint *s, const json_t *map, size_t folder_len, ti_error *err) {
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)map, name, v) {
    const st_entry *e = lookup(s, name);
    if (!e || strcmp(s->shards[e->shard].file + folder_len, json_string_value(v)) != 0)
      return ti_error_set(err, TI_ERR_FORMAT, "weight_map: tensor %.120s is not in %.120s", name, json_string_value(v));
  }
  return TI_OK;
}

static ti_status open_index(const char *path, ti_checkpoint **out, ti_error *err) {
  json_t *root;
  const char **files = NULL;
  st_checkpoint *s = NULL;
  int n = 0;
  ti_status st = ti_json_load_file(path, MAX_INDEX_BYTES, &root, err);
  if (st != TI_OK) return st;
  const json_t *map = json_object_get(root, "weight_map");
  const size_t n_map = json_object_size(map);
  const char *slash = strrchr(path, '/');
  const int folder_len = slash ? (int)(slash - path) + 1 : 0;
  if (n_map == 0) {
    st = ti_error_set(err, TI_ERR_FORMAT, "%s: weight_map: missing or empty", path);
    goto out;
  }
  if (!(files = malloc(n_map * sizeof(*files)))) {
    st = ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", path);
    goto out;
  }
  if ((st = shard_files(map, files, n_map, &n, err)) != TI_OK) {
    ti_error_prefix(err, "%s", path);
    goto out;
  }
  if ((st = st_create(path, n, &s, err)) != TI_OK) goto out;
  for (int i = 0; i < n; i++) {
    if ((st = add_shard(s, path, folder_len, files[i], err)) != TI_OK) {
      if (st == TI_ERR_NOTFOUND)
        ti_error_set(err, st, "%.*s%.120s: missing shard, %d of the %d that %s names: copy the whole model", folder_len, path, files[i], i + 1, n,
                     path + folder_len);
      goto out;
    }
  }
  if ((st = sort_names(s, err)) != TI_OK || (st = check_index(s, map, (size_t)folder_len, err)) != TI_OK) {
    ti_error_prefix(err, "%s", path);
    goto out;
  }
  *out = &s->head;
  s = NULL;
out:
  if (s) st_close(&s->head);
  free(files);
  json_decref(root);
  return st;
}

ti_status ti_safetensors_open(const char *path, ti_checkpoint **out, ti_error *err) {
  const size_t len = strlen(path);
  if (len > 5 && strcmp(path + len - 5, ".json") == 0) return open_index(path, out, err);
  st_checkpoint *s = NULL;
  ti_status st = st_create(path, 1, &s, err);
  if (st != TI_OK) return st;
  if ((st = add_shard(s, "", 0, path, err)) == TI_OK && (st = sort_names(s, err)) != TI_OK) ti_error_prefix(err, "%s", path);
  if (st != TI_OK) {
    st_close(&s->head);
    return st;
  }
  *out = &s->head;
  return TI_OK;
}

ti_status ti_safetensors_open_memory(const void *data, size_t size, const char *label, ti_checkpoint **out, ti_error *err) {
  st_checkpoint *s = NULL;
  ti_status st = st_create(label, 1, &s, err);
  if (st != TI_OK) return st;
  s->n_shard = 1;
  s->shards[0] = (st_shard){.file = strdup(label), .map = data, .size = size};
  if (!s->shards[0].file) st = ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  if (st == TI_OK) st = parse_shard(s, 0, err);
  if (st == TI_OK) st = sort_names(s, err);
  if (st != TI_OK) {
    ti_error_prefix(err, "%s", label);
    st_close(&s->head);
    return st;
  }
  *out = &s->head;
  return TI_OK;
}
