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
  cudaStream_t s;
  if (cudaSetDevice(0) != cudaSuccess || cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) != cudaSuccess) return NULL;
  fault_kernel<<<1, 1, 0, s>>>(NULL);  // loaded while the device rests: a first launch waits for that
  (void)cudaStreamSynchronize(s);
  for (int i = 0; i < 60000 && access(trigger, F_OK) != 0; i++) {
    const struct timespec ms = {0, 1000000};
    nanosleep(&ms, NULL);
  }
  if (access(trigger, F_OK) != 0) return NULL;
  fault_kernel<<<1, 1, 0, s>>>((volatile int *)64);
  const cudaError_t launched = cudaGetLastError(), ended = cudaStreamSynchronize(s);
  fprintf(stderr, "gpu_fault: launched: %s; ended: %s\n", cudaGetErrorString(launched), cudaGetErrorString(ended));
  return NULL;
}

extern "C" int InitializeInjection(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *trigger = getenv("TITAN_TEST_FAULT");
  pthread_t t;
  if (!rank || !trigger || strcmp(rank, "1") != 0) return 1;
  if (pthread_create(&t, NULL, wait_and_fault, (void *)trigger) == 0) pthread_detach(t);
  return 1;
}
