// Why this exists: one binary serves GPU and CPU hosts, so the first question to a host is whether it has a GPU at all. The static runtime answers
// it without a driver (cudaGetDeviceCount returns cudaErrorInsufficientDriver in 0.2 ms).
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "kernels/cuda/probe.h"
}

extern "C" int ti_cuda_supports(int major, int minor) { return major == 8 || (major == 9 && minor == 0); }

static void say_driver(char *why, size_t size) {
  int has = 0;
  if (cudaDriverGetVersion(&has) != cudaSuccess || has == 0) {
    snprintf(why, size, "this host has no CUDA driver");
  } else {
    snprintf(why, size, "this host's CUDA driver is too old: it is for CUDA %d.%d, and this build needs %d.%d; update the driver", has / 1000,
             has % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
}

extern "C" int ti_cuda_count(char *why, size_t size) {
  int n = 0;
  const cudaError_t e = cudaGetDeviceCount(&n);
  if (e == cudaErrorInsufficientDriver) {
    say_driver(why, size);
    return 0;
  }
  if (e != cudaSuccess || n == 0) {
    snprintf(why, size, "%s", e == cudaSuccess || e == cudaErrorNoDevice ? "the driver lists no GPU" : cudaGetErrorString(e));
    return 0;
  }
  for (int i = 0; i < n; i++) {
    int major = 0, minor = 0;  // asked without making a context
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i) == cudaSuccess && ti_cuda_supports(major, minor))
      continue;
    snprintf(why, size, "GPU %d has compute capability %d.%d, and this build's kernels are for 8.x and 9.0; CUDA_VISIBLE_DEVICES can hide it", i,
             major, minor);
    return 0;
  }
  return n;
}

extern "C" int ti_cuda_describe(int i, ti_cuda_device *out) {
  cudaDeviceProp p;
  memset(out, 0, sizeof *out);
  if (cudaGetDeviceProperties(&p, i) != cudaSuccess || cudaSetDevice(i) != cudaSuccess) return 1;
  snprintf(out->name, sizeof out->name, "%.127s", p.name);
  out->major = p.major;
  out->minor = p.minor;
  out->n_sm = p.multiProcessorCount;
  snprintf(out->pci, sizeof out->pci, "%04x:%02x:%02x.0", (unsigned)p.pciDomainID, (unsigned)p.pciBusID, (unsigned)p.pciDeviceID);
  return cudaMemGetInfo(&out->free_bytes, &out->memory_bytes) != cudaSuccess;
}
