// Opening whatever holds a model's tensors, and what all implementations share: the shape check, the folding, the copy of a slice.
#include "model/checkpoint.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/checkpoint_priv.h"
#include "model/gguf/gguf_model.h"
#include "model/safetensors.h"
#include "model/synthetic.h"

static bool ends_with(const char *s, const char *tail) {
  const size_t n = strlen(s), k = strlen(tail);
  return n >= k && strcmp(s + n - k, tail) == 0;
}

static ti_status open_folder(const char *folder, ti_checkpoint **out, ti_error *err) {
  static const char *const files[] = {"model.safetensors", "model.safetensors.index.json"};
  const size_t len = strlen(folder);
  const char *sep = len > 0 && folder[len - 1] == '/' ? "" : "/";
  char path[4096];
  struct stat sb;
  for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
    const int n = snprintf(path, sizeof(path), "%s%s%s", folder, sep, files[i]);
    if (n < 0 || (size_t)n >= sizeof(path)) return ti_error_set(err, TI_ERR_RANGE, "%.60s...: path longer than %zu bytes", folder, sizeof(path));
    if (stat(path, &sb) == 0) return ti_safetensors_open(path, out, err);
  }
  return ti_error_set(err, TI_ERR_NOTFOUND, "%s: no weights: neither %s nor %s is there", folder, files[0], files[1]);
}

ti_status ti_checkpoint_open(const char *model, const ti_config *cfg, ti_checkpoint **out, ti_error *err) {
  struct stat sb;
  if (strncmp(model, "random:", 7) == 0) return ti_synthetic_open(model, cfg, out, err);
  if (stat(model, &sb) != 0)
    return ti_error_set(err, TI_ERR_NOTFOUND,
                        "%s: no such model (expected a folder with config.json and model.safetensors, a .gguf file, or random:ARCH)", model);
  if (S_ISDIR(sb.st_mode)) return open_folder(model, out, err);
  if (ends_with(model, ".safetensors") || ends_with(model, ".safetensors.index.json")) return ti_safetensors_open(model, out, err);
  if (ti_gguf_is_file(model)) {
    ti_gguf *g;
    const ti_status st = ti_gguf_open(model, &g, err);
    return st == TI_OK ? ti_gguf_checkpoint(g, cfg, out, err) : st;
  }
  return ti_error_set(
      err, TI_ERR_UNSUPPORTED,
      "%s: unknown checkpoint format (accepted: a folder, a .safetensors file, a .safetensors.index.json, a .gguf file, or random:ARCH)", model);
}

void ti_checkpoint_close(ti_checkpoint *c) {
  if (c) c->ops->close(c);
}

ti_status ti_checkpoint_find(const ti_checkpoint *c, const char *name, ti_tensor *out) { return c->ops->find(c, name, out); }

ti_status ti_checkpoint_require(const ti_checkpoint *c, const char *name, int64_t rows, int64_t cols, ti_tensor *out, ti_error *err) {
  ti_tensor t;
  int64_t r, k;
  if (c->ops->find(c, name, &t) != TI_OK)
    return ti_error_set(err, TI_ERR_NOTFOUND, "%s: tensor %s is missing: expected [%lld, %lld]", c->label, name, (long long)rows, (long long)cols);
  ti_tensor_matrix(&t, &r, &k);
  if (r != rows || k != cols)
    return ti_error_set(err, TI_ERR_FORMAT, "%s: tensor %s: expected [%lld, %lld], found [%lld, %lld]", c->label, name, (long long)rows,
                        (long long)cols, (long long)r, (long long)k);
  *out = t;
  return TI_OK;
}

void ti_checkpoint_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  int64_t rows, cols;
  ti_tensor_matrix(t, &rows, &cols);
  const int block = ti_dtype_block(t->dtype);
  assert(r0 >= 0 && rn >= 0 && r0 <= rows - rn && c0 >= 0 && cn >= 0 && c0 <= cols - cn);
  assert(c0 % block == 0 && cn % block == 0);
  (void)block;
  c->ops->read(c, t, r0, rn, c0, cn, dst);
}

void ti_tensor_matrix(const ti_tensor *t, int64_t *rows, int64_t *cols) {
  int64_t r = 1;
  for (int i = 0; i + 1 < t->n_dim; i++) r *= t->shape[i];
  *rows = r;
  *cols = t->n_dim > 0 ? t->shape[t->n_dim - 1] : 1;
}

void ti_tensor_read_mapped(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst) {
  int64_t rows, cols;
  ti_tensor_matrix(t, &rows, &cols);
  const size_t block = (size_t)ti_dtype_block(t->dtype), bytes = (size_t)ti_dtype_block_bytes(t->dtype);
  const size_t pitch = (size_t)cols / block * bytes, at = (size_t)c0 / block * bytes, n = (size_t)cn / block * bytes;
  const unsigned char *src = (const unsigned char *)t->data + (size_t)r0 * pitch + at;
  if (n == 0 || rn == 0) return;
  if (n == pitch) {
    memcpy(dst, src, n * (size_t)rn);
    return;
  }
  for (int64_t r = 0; r < rn; r++, src += pitch, dst = (char *)dst + n) memcpy(dst, src, n);
}
