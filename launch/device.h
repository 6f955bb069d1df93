// What workers compute on: decided once by rank 0 (a GPU, if the model's types have kernels there and the host has one), found again by each worker.
#ifndef TI_LAUNCH_DEVICE_H
#define TI_LAUNCH_DEVICE_H
#include <sched.h>
#include <stddef.h>

#include "kernels/kernel.h"
#include "launch/settings.h"

// *device: TI_DEVICE_CPU or TI_DEVICE_CUDA for --device `wanted`. note: with auto, why it is not a GPU ("" when it is one, or none was wanted).
// TI_ERR_ARG: cuda is wanted and cannot be had; says why.
ti_status ti_device_decide(int64_t wanted, const ti_config *c, int64_t *device, char *note, size_t size, ti_error *err) TI_MUST_CHECK;

typedef struct ti_worker_device {
  const ti_kernels *kernels;
  int index;       // which GPU
  int sharers;     // workers on it
  char text[128];  // for status pages: "cpu-avx2, 2 threads", "cuda, GPU 0: NVIDIA H200"
} ti_worker_device;

// This worker's: the host's GPUs are dealt out to its workers in turn. weight_bytes: what it will hold there as stored, linear_bytes of it are linear
// layers (what --quantization fp8 makes smaller). TI_ERR_NOTFOUND, TI_ERR_NOMEM: no GPU here, or too little memory: says what is needed and what
// would fit.
typedef struct ti_device_wants {
  int host_index, host_count, threads;
  uint64_t weight_bytes, linear_bytes;
} ti_device_wants;
ti_status ti_device_find(const ti_settings *j, const ti_device_wants *w, ti_worker_device *out, ti_error *err) TI_MUST_CHECK;

// Whether a worker's weights have room on its GPU. TI_ERR_NOMEM: says what they take, what there is, and what would fit.
typedef struct ti_device_room {
  const char *name;
  int index, sharers, tp;       // workers on the GPU; tensor-parallel size so far
  uint64_t total, free;         // the GPU's bytes
  double share;                 // --gpu-memory-utilization
  uint64_t weights, quantised;  // bytes as they will be held; with --quantization fp8, 0 where that is no choice
} ti_device_room;
ti_status ti_device_fits(const ti_device_room *r, ti_error *err) TI_MUST_CHECK;

// Whether a CPU host of `total` bytes has room for the weights of its workers, each taking as much. TI_ERR_NOMEM: says what they take and what there is.
ti_status ti_host_fits(uint64_t total, int workers, uint64_t weights, int redundant, ti_error *err) TI_MUST_CHECK;

// "0-3,8,10-11" -> set, as Linux lists CPUs. TI_ERR_FORMAT.
ti_status ti_cpulist_parse(const char *text, cpu_set_t *set) TI_MUST_CHECK;

#endif
