// What GPUs this host has, asked without needing a driver.
#ifndef TI_KERNELS_CUDA_PROBE_H
#define TI_KERNELS_CUDA_PROBE_H
#include <stddef.h>

typedef struct ti_cuda_device {
  char name[128];
  int major, minor;  // compute capability
  int n_sm;
  size_t memory_bytes, free_bytes;
  char pci[32];  // "0000:3b:00.0", as Linux names it below /sys/bus/pci/devices
} ti_cuda_device;

// How many GPUs there are, if this build's kernels run on all of them; else 0, and why is filled ("this host has no CUDA driver"). 0.2 ms without a
// driver.
int ti_cuda_count(char *why, size_t size);
// Whether this build's kernels run on GPUs of that compute capability.
int ti_cuda_supports(int major, int minor);
// The i-th; 0 on success.
int ti_cuda_describe(int i, ti_cuda_device *out);

#endif
