// For the implementations of a checkpoint: reading a slice of a tensor that lies in memory.
#ifndef TI_MODEL_CHECKPOINT_PRIV_H
#define TI_MODEL_CHECKPOINT_PRIV_H
#include "model/checkpoint.h"

// The ops' read for tensors with data: copies the rows' pieces. Block types: c0 and cn are multiples of the block.
void ti_tensor_read_mapped(const ti_checkpoint *c, const ti_tensor *t, int64_t r0, int64_t rn, int64_t c0, int64_t cn, void *dst);

#endif
