// Tensors by name, whatever holds them: safetensors (mmapped, sharded or not), GGUF, or a generator. An ops table with one implementation a source.
//
// A tensor is [rows, cols] row-major after folding leading dimensions; vectors are [1, n]. Names are Hugging Face's, whatever the file calls them
// (the GGUF reader translates). Thread-safe after open.
#ifndef TI_MODEL_CHECKPOINT_H
#define TI_MODEL_CHECKPOINT_H
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "model/config.h"

#define TI_TENSOR_DIMS 4

typedef struct ti_tensor {
  const char *name;  // owned by the checkpoint
  ti_dtype dtype;
  int n_dim;
  int64_t shape[TI_TENSOR_DIMS];
  const void *data;  // the whole tensor, mmapped, valid until close; NULL: generated, use ti_checkpoint_read
  size_t bytes;
  uint64_t key;      // for the implementation
} ti_tensor;

typedef struct ti_checkpoint ti_checkpoint;
typedef struct ti_checkpoint_ops {
  const char *name;  // "safetensors", "gguf", "synthetic"
  // The tensor called `name`; TI_ERR_NOTFOUND without text (the caller knows what it was for). O(log n) or better.
  ti_status (*find)(const ti_checkpoint *c, const char *name, ti_tensor *out);
  // Rows [r0, r0 + rn) x columns [c0, c0 + cn) of t, packed, to dst in the tensor's own dtype. Block types: c0, cn multiples of the block.
  // Ranges are asserted. Generated tensors: element (r, c) = f(Philox(seed, name), r * cols + c), the same for every shard of every mesh.
  void (*read)(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst);
  int (*count)(const ti_checkpoint *c);
  ti_status (*at)(const ti_checkpoint *c, int i, ti_tensor *out);  // i-th tensor in file order (tools, --plan)
  void (*close)(ti_checkpoint *c);
} ti_checkpoint_ops;

struct ti_checkpoint {  // the head of each implementation's struct
  const ti_checkpoint_ops *ops;
  const char *label;  // what errors call it: "models/x/model.safetensors", "random:llama?layers=2"
};

// model: a folder (model.safetensors or model.safetensors.index.json), a .safetensors or .gguf file, or "random:...". cfg: what ti_config_load gave for the same string.
ti_status ti_checkpoint_open(const char *model, const ti_config *cfg, ti_checkpoint **out, ti_error *err) TI_MUST_CHECK;
void ti_checkpoint_close(ti_checkpoint *c);  // NULL is fine
ti_status ti_checkpoint_find(const ti_checkpoint *c, const char *name, ti_tensor *out) TI_MUST_CHECK;
// As find, but it must exist with this dtype-independent shape [rows, cols] (a vector: rows 1); the error prints name, expected and found shape.
ti_status ti_checkpoint_require(const ti_checkpoint *c, const char *name, int64_t rows, int64_t cols, ti_tensor *out, ti_error *err) TI_MUST_CHECK;
void ti_checkpoint_read(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst);
// rows and cols of t after folding: [a, b, c] -> rows a * b, cols c; a scalar is [1, 1].
void ti_tensor_matrix(const ti_tensor *t, int64_t *rows, int64_t *cols);

#endif
