// Why this exists: one binary serves GPU and CPU hosts, so the first question to a host is whether it has a GPU at all. The static runtime answers
// it without a driver (cudaGetDeviceCount returns cudaErrorInsufficientDriver in 0.2 ms).
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "kernels/cuda/probe.h"
}

extern "C" int ti_cuda_count(char *why, size_t size) {
  int n = 0;
  const cudaError_t e = cudaGetDeviceCount(&n);
  if (e == cudaSuccess && n > 0) return n;
  if (e == cudaErrorInsufficientDriver) {
    snprintf(why, size, "no CUDA driver, or one too old for this build");
  } else {
    snprintf(why, size, "%s", e == cudaSuccess ? "the driver lists no GPU" : cudaGetErrorString(e));
  }
  return 0;
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
