// Finding a backend by name, and the best CPU one that this processor runs.
#include "kernels/kernel.h"

#include <string.h>

#include "kernels/cpu/cpu_priv.h"
#ifdef TI_HAVE_CUDA
#include "kernels/cuda/probe.h"
#endif

// Every processor with AVX2 and FMA has F16C too; clang 14 has no word for it.
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
static bool has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

const ti_kernels *ti_kernels_cpu(void) {
  if (has_vnni()) return ti_kernels_vnni();
  if (has_avx512()) return ti_kernels_avx512();
  return has_avx2() ? ti_kernels_avx2() : ti_kernels_ref();
}

const ti_kernels *ti_kernels_find(const char *name) {
  if (strcmp(name, "ref") == 0) return ti_kernels_ref();
  if (strcmp(name, "cpu") == 0) return ti_kernels_cpu();
  if (strcmp(name, "cpu-avx2") == 0) return has_avx2() ? ti_kernels_avx2() : NULL;
  if (strcmp(name, "cpu-avx512") == 0) return has_avx512() ? ti_kernels_avx512() : NULL;
  if (strcmp(name, "cpu-vnni") == 0) return has_vnni() ? ti_kernels_vnni() : NULL;
#ifdef TI_HAVE_CUDA
  char why[160];
  if (strcmp(name, "cuda") == 0) return ti_cuda_count(why, sizeof why) > 0 ? ti_kernels_cuda() : NULL;
#endif
  return NULL;
}
