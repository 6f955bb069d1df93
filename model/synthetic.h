// Synthetic weights: a checkpoint whose every element is a pure function of (seed, tensor name, index), so that models of any size can be run and
// any shard of any mesh, on any device, sees the same numbers without a file. Reads of a MiB or more use all the CPUs that the process may: 2 GB/s a
// core.
//
// Element i of a tensor whose elements have s bytes lies in block b = i / (16 / s) of 16 bytes. The block's randomness is
//   u32 r[4] = philox4x32(key = {lo, hi of ti_hash64(name)}, ctr = {lo, hi of b, lo, hi of seed})          (base/rng.h)
// and its 16 / s elements take r's little-endian bytes, s at a time, as the unsigned integer x:
//   F32          (float)(x >> 9) - 4194303.5 times (A / 4194304)
//   BF16, F16    (float)x - 32767.5 times (A / 32768), rounded to the type
//   F8_E4M3      e4m3(((float)x - 127.5) * 3.5)
// where A = (float)sqrt(3 / cols): uniform with standard deviation 1 / sqrt(cols). All steps in fp32, so that a device gives the same bits.
// By kind: norms are 1; biases are as weights with A = 0.05; scales of FP8 weights [.., k] are (float)(sqrt(3 / k) / 448) * (0.75 + 0.5 u) and score
// biases 0.02 u, with u = ti_u32_to_unit(x).
#ifndef TI_MODEL_SYNTHETIC_H
#define TI_MODEL_SYNTHETIC_H
#include "model/checkpoint.h"

// spec: "random:..." (its seed is used); cfg: what ti_config_random gave for it.
ti_status ti_synthetic_open(const char *spec, const ti_config *cfg, ti_checkpoint **out, ti_error *err) TI_MUST_CHECK;

#endif
