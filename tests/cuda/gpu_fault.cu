// A library that the CUDA driver loads (CUDA_INJECTION64_PATH) into a worker: once the file that TITAN_TEST_FAULT names is there, a kernel of its own
// writes where nothing is, on a stream of its own, as a broken kernel of ours would. The context is then lost: whatever the worker does next fails.
#include <cuda_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static __global__ void fault_kernel(volatile int *nowhere) {
  if (!nowhere) return;
  *nowhere = 1;
  asm volatile("trap;");  // where the store was let pass
}

static void *wait_and_fault(void *arg) {
  const char *trigger = (const char *)arg;
  const struct timespec soon = {0, 20000000};
  cudaStream_t s;
  nanosleep(&soon, NULL);  // the driver, which has called us, is still being set up
  cudaError_t e = cudaSetDevice(0);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
  if (e == cudaSuccess) {
    fault_kernel<<<1, 1, 0, s>>>(NULL);  // loaded while the device rests: a first launch may wait for that
    e = cudaStreamSynchronize(s);
  }
  fprintf(stderr, "gpu_fault: ready: %s\n", cudaGetErrorString(e));
  if (e != cudaSuccess) return NULL;
  for (int i = 0; i < 60000 && access(trigger, F_OK) != 0; i++) {
    const struct timespec ms = {0, 1000000};
    nanosleep(&ms, NULL);
  }
  if (access(trigger, F_OK) != 0) return NULL;
  fault_kernel<<<1, 1, 0, s>>>((volatile int *)64);
  fprintf(stderr, "gpu_fault: launched: %s\n", cudaGetErrorString(cudaGetLastError()));
  fprintf(stderr, "gpu_fault: ended: %s\n", cudaGetErrorString(cudaStreamSynchronize(s)));
  return NULL;
}

extern "C" int InitializeInjection(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *trigger = getenv("TITAN_TEST_FAULT");
  pthread_t t;
  if (!rank || !trigger || strcmp(rank, "1") != 0) return 1;
  if (pthread_create(&t, NULL, wait_and_fault, (void *)trigger) == 0) pthread_detach(t);
  return 1;
}
