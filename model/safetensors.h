// Safetensors: one file mmapped, or the shards of a model.safetensors.index.json.
//
//   0        8            8 + n                      file size
//   | n: u64 | JSON header | data: tensors at offsets relative to here |
//   header: {"name": {"dtype": "BF16", "shape": [4096, 256], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
//
// Source: the format's description in github.com/huggingface/safetensors (README). Checked on opening: the header's length, every dtype, shape,
// byte count, alignment and range, that no two tensors overlap and no name comes twice. No tensor data is read until it is used.
#ifndef TI_MODEL_SAFETENSORS_H
#define TI_MODEL_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>

#include "model/checkpoint.h"

// path: a .safetensors file or a model.safetensors.index.json. Errors name the file, the tensor and what is wrong.
ti_status ti_safetensors_open(const char *path, ti_checkpoint **out, ti_error *err) TI_MUST_CHECK;
// The same over size bytes at data (aligned to 8), which are borrowed until close. `label` goes into errors.
ti_status ti_safetensors_open_memory(const void *data, size_t size, const char *label, ti_checkpoint **out, ti_error *err) TI_MUST_CHECK;

#endif
