// See gguf.h. One cursor walks the header once; nothing of it is believed before it is compared with the bytes that are left.
#include "model/gguf/gguf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is mapped as it is: little-endian machines only");

enum {
  MAX_TENSORS = 1 << 20,
  MAX_KEYS = 1 << 16,
  MAX_KEY = 65535,  // the format's own limit
  MAX_NAME = 127,   // ggml's limit is 63
  MAX_ARRAY = 1 << 27,
  MAX_ALIGNMENT = 1 << 16,
  MIN_KV_BYTES = 8 + 1 + 4 + 1,                   // an empty-valued uint8
  MIN_INFO_BYTES = 8 + 1 + 4 + 8 + 4 + 8,         // a vector with a name of one byte
  MAX_TEXT_BYTES = MAX_TENSORS * (MAX_NAME + 17)  // keys and names with their terminators and the arena's rounding
};

static const struct {
  const char *name;
  size_t bytes;
} value_types[TI_GGUF_TYPE_COUNT] = {
#define TI_X(name, text, bytes) {text, bytes},
    TI_GGUF_TYPE_MAP(TI_X)
#undef TI_X
};

// ggml's numbers of tensor types. A name without ours: known, so that an error can name it, but not supported.
static const struct {
  const char *name;
  int dtype;
} tensor_types[] = {[0] = {"F32", TI_F32},    [1] = {"F16", TI_F16},    [2] = {"Q4_0", TI_Q4_0},  [3] = {"Q4_1", TI_Q4_1},  [6] = {"Q5_0", TI_Q5_0},
                    [7] = {"Q5_1", TI_Q5_1},  [8] = {"Q8_0", TI_Q8_0},  [9] = {"Q8_1", -1},       [10] = {"Q2_K", -1},      [11] = {"Q3_K", -1},
                    [12] = {"Q4_K", TI_Q4_K}, [13] = {"Q5_K", TI_Q5_K}, [14] = {"Q6_K", TI_Q6_K}, [15] = {"Q8_K", -1},      [16] = {"IQ2_XXS", -1},
                    [17] = {"IQ2_XS", -1},    [18] = {"IQ3_XXS", -1},   [19] = {"IQ1_S", -1},     [20] = {"IQ4_NL", -1},    [21] = {"IQ3_S", -1},
                    [22] = {"IQ2_S", -1},     [23] = {"IQ4_XS", -1},    [24] = {"I8", -1},        [25] = {"I16", -1},       [26] = {"I32", -1},
                    [27] = {"I64", -1},       [28] = {"F64", -1},       [29] = {"IQ1_M", -1},     [30] = {"BF16", TI_BF16}, [34] = {"TQ1_0", -1},
                    [35] = {"TQ2_0", -1},     [39] = {"MXFP4", -1}};
#define N_TENSOR_TYPE (sizeof(tensor_types) / sizeof(tensor_types[0]))
#define SERVED_TYPES "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are"

const char *ti_gguf_type_name(ti_gguf_type t) { return (unsigned)t < TI_GGUF_TYPE_COUNT ? value_types[t].name : "?"; }

// ---- the cursor ----

typedef struct cursor {
  const unsigned char *at, *end;
} cursor;

static bool take(cursor *c, void *dst, size_t n) {
  if ((size_t)(c->end - c->at) < n) return false;
  memcpy(dst, c->at, n);
  c->at += n;
  return true;
}

static bool skip(cursor *c, uint64_t n) {
  if ((uint64_t)(c->end - c->at) < n) return false;
  c->at += n;
  return true;
}

static ti_status truncated(const cursor *c, const char *what, ti_error *err) {
  return ti_error_set(err, TI_ERR_FORMAT, "%s: the file ends within it (%zu bytes are left; truncated?)", what, (size_t)(c->end - c->at));
}

// A key or a name: printable, so that errors and lookups can treat it as text.
static ti_status take_name(ti_gguf *g, cursor *c, const char *what, uint64_t max, const char **out, ti_error *err) {
  uint64_t n;
  if (!take(c, &n, sizeof n)) return truncated(c, what, err);
  if (n < 1 || n > max)
    return ti_error_set(err, TI_ERR_RANGE, "%s: %llu bytes, expected 1..%llu", what, (unsigned long long)n, (unsigned long long)max);
  if ((uint64_t)(c->end - c->at) < n) return truncated(c, what, err);
  for (uint64_t i = 0; i < n; i++)
    if (c->at[i] < 0x21 || c->at[i] > 0x7e)
      return ti_error_set(err, TI_ERR_FORMAT, "%s: byte %llu is 0x%02x, expected printable ASCII", what, (unsigned long long)i, c->at[i]);
  if (!(*out = ti_arena_strdup(&g->text, (const char *)c->at, (size_t)n))) return ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", what);
  c->at += n;
  return TI_OK;
}

// ---- keys and values ----

// The value that begins at the cursor: its extent, not its meaning.
static ti_status take_value(cursor *c, ti_gguf_kv *kv, ti_error *err) {
  uint32_t type;
  kv->n = 1;
  if (!take(c, &type, sizeof type)) return truncated(c, "the value", err);
  if (type == TI_GGUF_ARRAY) {
    kv->array = true;
    if (!take(c, &type, sizeof type) || !take(c, &kv->n, sizeof kv->n)) return truncated(c, "the array", err);
    if (type == TI_GGUF_ARRAY) return ti_error_set(err, TI_ERR_UNSUPPORTED, "an array of arrays");
  }
  if (type >= TI_GGUF_TYPE_COUNT) return ti_error_set(err, TI_ERR_FORMAT, "value type %u, expected 0..%d", type, TI_GGUF_TYPE_COUNT - 1);
  if (kv->n > MAX_ARRAY) return ti_error_set(err, TI_ERR_RANGE, "an array of %llu elements, the limit is %d", (unsigned long long)kv->n, MAX_ARRAY);
  kv->type = (ti_gguf_type)type;
  kv->at = c->at;
  if (type != TI_GGUF_STRING) return skip(c, kv->n * value_types[type].bytes) ? TI_OK : truncated(c, "the value", err);
  for (uint64_t i = 0; i < kv->n; i++) {
    uint64_t len;
    if (!take(c, &len, sizeof len) || !skip(c, len)) {
      char what[40];
      snprintf(what, sizeof what, "string %llu", (unsigned long long)i);
      return truncated(c, what, err);
    }
  }
  return TI_OK;
}

static int by_key(const void *a, const void *b) { return strcmp(((const ti_gguf_kv *)a)->key, ((const ti_gguf_kv *)b)->key); }

static ti_status take_metadata(ti_gguf *g, cursor *c, uint64_t n, ti_error *err) {
  if (!(g->kv = calloc((size_t)n + 1, sizeof *g->kv))) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for %llu keys", (unsigned long long)n);
  for (; g->n_kv < n; g->n_kv++) {
    ti_gguf_kv *kv = &g->kv[g->n_kv];
    char what[40];
    snprintf(what, sizeof what, "key %zu", g->n_kv);
    ti_status st = take_name(g, c, what, MAX_KEY, &kv->key, err);
    if (st != TI_OK) return st;
    if ((st = take_value(c, kv, err)) != TI_OK) return ti_error_prefix(err, "%.100s", kv->key);
  }
  qsort(g->kv, g->n_kv, sizeof *g->kv, by_key);
  for (size_t i = 1; i < g->n_kv; i++)
    if (strcmp(g->kv[i - 1].key, g->kv[i].key) == 0) return ti_error_set(err, TI_ERR_FORMAT, "%.100s: the key comes twice", g->kv[i].key);
  return TI_OK;
}

static ti_status read_alignment(ti_gguf *g, ti_error *err) {
  int64_t v = 32;
  const ti_status st = ti_gguf_int(g, "general.alignment", 8, MAX_ALIGNMENT, &v, err);
  if (st != TI_OK) return st;
  if ((v & (v - 1)) != 0) return ti_error_set(err, TI_ERR_RANGE, "general.alignment: %lld is no power of two", (long long)v);
  g->alignment = (uint32_t)v;
  return TI_OK;
}

// ---- tensors ----

static ti_status check_type(uint32_t type, ti_dtype *out, ti_error *err) {
  const char *name = type < N_TENSOR_TYPE && tensor_types[type].name ? tensor_types[type].name : NULL;
  if (!name) return ti_error_set(err, TI_ERR_UNSUPPORTED, "type %u is not known (" SERVED_TYPES " supported)", type);
  if (tensor_types[type].dtype < 0) return ti_error_set(err, TI_ERR_UNSUPPORTED, "type %s (%u) is not supported (" SERVED_TYPES ")", name, type);
  *out = (ti_dtype)tensor_types[type].dtype;
  return TI_OK;
}

// dims: the fastest first.
static ti_status check_shape(const uint64_t *dims, ti_tensor *t, ti_error *err) {
  size_t count = 1;
  for (int i = 0; i < t->n_dim; i++) {
    if (dims[i] < 1 || dims[i] > INT64_MAX) return ti_error_set(err, TI_ERR_RANGE, "dimension %d is %llu", i, (unsigned long long)dims[i]);
    if (!ti_size_mul(count, (size_t)dims[i], &count)) return ti_error_set(err, TI_ERR_RANGE, "the product of its dimensions overflows");
    t->shape[t->n_dim - 1 - i] = (int64_t)dims[i];
  }
  if (dims[0] % (uint64_t)ti_dtype_block(t->dtype) != 0)
    return ti_error_set(err, TI_ERR_FORMAT, "rows of %llu elements are not whole %s blocks of %d", (unsigned long long)dims[0],
                        ti_dtype_name(t->dtype), ti_dtype_block(t->dtype));
  if (ti_dtype_size(t->dtype, count, &t->bytes) != TI_OK) return ti_error_set(err, TI_ERR_RANGE, "%zu elements: their size overflows", count);
  return TI_OK;
}

// One tensor info; its offset is left in key until the data's place is known.
static ti_status take_info(cursor *c, ti_tensor *t, ti_error *err) {
  uint32_t n_dim, type;
  uint64_t dims[TI_TENSOR_DIMS];
  if (!take(c, &n_dim, sizeof n_dim)) return truncated(c, "its info", err);
  if (n_dim < 1 || n_dim > TI_TENSOR_DIMS) return ti_error_set(err, TI_ERR_FORMAT, "%u dimensions, expected 1..%d", n_dim, TI_TENSOR_DIMS);
  if (!take(c, dims, n_dim * sizeof dims[0]) || !take(c, &type, sizeof type) || !take(c, &t->key, sizeof t->key))
    return truncated(c, "its info", err);
  t->n_dim = (int)n_dim;
  ti_status st = check_type(type, &t->dtype, err);
  return st == TI_OK ? check_shape(dims, t, err) : st;
}

static ti_status take_infos(ti_gguf *g, cursor *c, uint64_t n, ti_error *err) {
  if (!(g->tensor = calloc((size_t)n + 1, sizeof *g->tensor)))
    return ti_error_set(err, TI_ERR_NOMEM, "out of memory for %llu tensors", (unsigned long long)n);
  for (; g->n_tensor < n; g->n_tensor++) {
    ti_tensor *t = &g->tensor[g->n_tensor];
    char what[40];
    snprintf(what, sizeof what, "tensor %zu: its name", g->n_tensor);
    ti_status st = take_name(g, c, what, MAX_NAME, &t->name, err);
    if (st != TI_OK) return st;
    if ((st = take_info(c, t, err)) != TI_OK) return ti_error_prefix(err, "tensor %s", t->name);
  }
  return TI_OK;
}

static int by_offset(const void *a, const void *b) {
  const ti_tensor *x = a, *y = b;
  return x->key < y->key ? -1 : x->key > y->key;
}

static ti_status place_data(ti_gguf *g, ti_error *err) {
  const size_t data = g->size - g->data_at;
  qsort(g->tensor, g->n_tensor, sizeof *g->tensor, by_offset);
  for (size_t i = 0; i < g->n_tensor; i++) {
    ti_tensor *t = &g->tensor[i];
    const ti_tensor *before = i ? &g->tensor[i - 1] : NULL;
    if (t->key % g->alignment != 0)
      return ti_error_set(err, TI_ERR_FORMAT, "tensor %s: offset %llu is no multiple of general.alignment (%u)", t->name, (unsigned long long)t->key,
                          g->alignment);
    if (t->key > data || t->bytes > data - t->key)
      return ti_error_set(err, TI_ERR_RANGE, "tensor %s: %zu bytes at offset %llu are not within the file's %zu bytes of data (truncated?)", t->name,
                          t->bytes, (unsigned long long)t->key, data);
    if (before && before->key + before->bytes > t->key)
      return ti_error_set(err, TI_ERR_FORMAT, "tensors %s and %s overlap at offset %llu", before->name, t->name, (unsigned long long)t->key);
    t->data = g->map + g->data_at + t->key;
  }
  return TI_OK;
}

static int by_name(const void *a, const void *b, void *tensors) {
  const ti_tensor *t = tensors;
  return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static ti_status sort_names(ti_gguf *g, ti_error *err) {
  if (!(g->by_name = malloc((g->n_tensor + 1) * sizeof *g->by_name))) return ti_error_set(err, TI_ERR_NOMEM, "out of memory for names");
  for (size_t i = 0; i < g->n_tensor; i++) g->by_name[i] = (uint32_t)i;
  qsort_r(g->by_name, g->n_tensor, sizeof *g->by_name, by_name, g->tensor);
  for (size_t i = 1; i < g->n_tensor; i++) {
    const char *name = g->tensor[g->by_name[i]].name;
    if (strcmp(g->tensor[g->by_name[i - 1]].name, name) == 0) return ti_error_set(err, TI_ERR_FORMAT, "tensor %s comes twice", name);
  }
  return TI_OK;
}

const ti_tensor *ti_gguf_tensor(const ti_gguf *g, const char *name) {
  size_t lo = 0, hi = g->n_tensor;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    const ti_tensor *t = &g->tensor[g->by_name[mid]];
    const int c = strcmp(name, t->name);
    if (c == 0) return t;
    if (c < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return NULL;
}

// ---- the whole ----

static ti_status check_head(cursor *c, uint64_t *n_tensor, uint64_t *n_kv, ti_error *err) {
  char magic[4];
  uint32_t version;
  if (!take(c, magic, 4)) return ti_error_set(err, TI_ERR_FORMAT, "%zu bytes: no GGUF file", (size_t)(c->end - c->at));
  if (memcmp(magic, "GGUF", 4) != 0)
    return ti_error_set(err, TI_ERR_FORMAT, "no GGUF file: it begins with %02x %02x %02x %02x, not with \"GGUF\"", (unsigned char)magic[0],
                        (unsigned char)magic[1], (unsigned char)magic[2], (unsigned char)magic[3]);
  if (!take(c, &version, sizeof version)) return truncated(c, "version", err);
  if (version != 3 && version != 0 && (version & 0xffff) == 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "a big-endian GGUF file (version %u); little-endian ones are supported", __builtin_bswap32(version));
  if (version != 3) return ti_error_set(err, TI_ERR_UNSUPPORTED, "GGUF version %u is not supported (3 is): convert it again", version);
  if (!take(c, n_tensor, 8) || !take(c, n_kv, 8)) return truncated(c, "the counts", err);
  const size_t left = (size_t)(c->end - c->at);
  if (*n_kv > MAX_KEYS || *n_kv > left / MIN_KV_BYTES)
    return ti_error_set(err, TI_ERR_RANGE, "%llu keys; a file of this size has at most %zu", (unsigned long long)*n_kv,
                        ti_size_min(MAX_KEYS, left / MIN_KV_BYTES));
  if (*n_tensor > MAX_TENSORS || *n_tensor > left / MIN_INFO_BYTES)
    return ti_error_set(err, TI_ERR_RANGE, "%llu tensors; a file of this size has at most %zu", (unsigned long long)*n_tensor,
                        ti_size_min(MAX_TENSORS, left / MIN_INFO_BYTES));
  return TI_OK;
}

static ti_status parse(ti_gguf *g, ti_error *err) {
  cursor c = {g->map, g->map + g->size};
  uint64_t n_tensor = 0, n_kv = 0;
  ti_status st = check_head(&c, &n_tensor, &n_kv, err);
  if (st == TI_OK) st = take_metadata(g, &c, n_kv, err);
  if (st == TI_OK) st = read_alignment(g, err);
  if (st == TI_OK) st = take_infos(g, &c, n_tensor, err);
  if (st != TI_OK) return st;
  // A file without data may end before the padding.
  g->data_at = ti_size_min(ti_size_align((size_t)(c.at - g->map), g->alignment), g->size);
  st = place_data(g, err);
  return st == TI_OK ? sort_names(g, err) : st;
}

void ti_gguf_close(ti_gguf *g) {
  if (!g) return;
  if (g->mapped) munmap((void *)(uintptr_t)g->map, g->size);
  ti_arena_fini(&g->text);
  free(g->kv);
  free(g->tensor);
  free(g->by_name);
  free(g->label);
  free(g);
}

static ti_status open_bytes(const void *data, size_t size, bool mapped, const char *label, ti_gguf **out, ti_error *err) {
  ti_gguf *g = calloc(1, sizeof *g);
  char *name = strdup(label);
  if (!g || !name) {
    free(g);
    free(name);
    if (mapped) munmap((void *)(uintptr_t)data, size);
    return ti_error_set(err, TI_ERR_NOMEM, "%s: out of memory", label);
  }
  *g = (ti_gguf){.label = name, .map = data, .size = size, .mapped = mapped};
  ti_arena_init(&g->text, MAX_TEXT_BYTES);
  const ti_status st = parse(g, err);
  if (st != TI_OK) {
    ti_gguf_close(g);
    return ti_error_prefix(err, "%s", label);
  }
  *out = g;
  return TI_OK;
}

ti_status ti_gguf_open_memory(const void *data, size_t size, const char *label, ti_gguf **out, ti_error *err) {
  assert((uintptr_t)data % 8 == 0);
  return open_bytes(data, size, false, label, out, err);
}

ti_status ti_gguf_open(const char *path, ti_gguf **out, ti_error *err) {
  struct stat sb;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ti_error_set(err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode) || sb.st_size == 0) {
    close(fd);
    return ti_error_set(err, TI_ERR_FORMAT, "%s: expected a regular file that is not empty", path);
  }
  void *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int why = errno;
  close(fd);
  if (map == MAP_FAILED) return ti_error_set(err, TI_ERR_IO, "%s: mmap of %lld bytes: %s", path, (long long)sb.st_size, strerror(why));
  return open_bytes(map, (size_t)sb.st_size, true, path, out, err);
}

bool ti_gguf_is_file(const char *path) {
  struct stat sb;
  const size_t len = strlen(path);
  char magic[4] = "";
  if (stat(path, &sb) != 0 || !S_ISREG(sb.st_mode)) return false;
  if (len > 5 && strcmp(path + len - 5, ".gguf") == 0) return true;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool is = read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
  close(fd);
  return is;
}
