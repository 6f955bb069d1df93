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

// How many GPUs there are; 0 without a driver (0.2 ms). why: filled when 0 ("no CUDA driver is installed ..."). Never fails otherwise.
int ti_cuda_count(char *why, size_t size);
// The i-th; 0 on success.
int ti_cuda_describe(int i, ti_cuda_device *out);

#endif
