// The kernels of recorded steps as CUPTI saw them: a library that the CUDA driver loads into any program, and that prints a table when it ends.
//
//   CUDA_INJECTION64_PATH=build/cuda/lib/libkernel_times.so engine_bench --device cuda --batch 1     (libcupti.so.13 on the loader's path)
//
//   own      from a kernel's begin to its end: where launches overlap, waiting for the kernel before is in it
//   early    how long before the end of the kernel before it began; idle: how long behind it
//   alone    from the end of the kernel before (or its own begin, if later) to its own end: with idle these add up to the step
//
// Kernels are told apart by name, number of blocks and the kernel before. Records of one graph launch are one step; of steps with another number of
// kernels than the last one has, and of the first WARM, nothing is said. CUPTI's records cost the step 2% (TinyLlama at batch 1: 996 us, 975
// without).
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 8 << 20, KINDS = 64, WARM = 8, LEAST = 16 };  // LEAST: kernels of a graph; ops launched alone have one or two

typedef struct record {
  uint64_t begin, end;
  uint32_t launch, blocks;
  const char *name;
} record;

typedef struct kind {
  const char *name, *before;
  uint32_t blocks;
  uint64_t n;
  double own, early, idle, alone;
} kind;

static record *records;
static size_t n_record, cap_record;

static void CUPTIAPI request(uint8_t **buffer, size_t *size, size_t *most) {
  *size = BUFFER;
  *buffer = aligned_alloc(8, BUFFER);
  *most = 0;
}

static void CUPTIAPI complete(CUcontext c, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  CUpti_Activity *a = NULL;
  while (cuptiActivityGetNextRecord(buffer, valid, &a) == CUPTI_SUCCESS) {
    const CUpti_ActivityKernel10 *k = (const CUpti_ActivityKernel10 *)a;
    if (a->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    if (n_record == cap_record) {
      cap_record = cap_record ? 2 * cap_record : 1 << 16;
      records = realloc(records, cap_record * sizeof *records);
      if (!records) abort();
    }
    records[n_record++] = (record){k->start, k->end, k->correlationId, (uint32_t)(k->gridX * k->gridY * k->gridZ), strdup(k->name)};
  }
  free(buffer);
}

static int by_launch(const void *a, const void *b) {
  const record *x = a, *y = b;
  if (x->launch != y->launch) return x->launch < y->launch ? -1 : 1;
  return (x->begin > y->begin) - (x->begin < y->begin);
}

// _Z11norm_kernelILi2EEv9norm_args: norm_kernel
static int name_of(const char *mangled, const char **name) {
  char *end = NULL;
  const long n = strncmp(mangled, "_Z", 2) == 0 ? strtol(mangled + 2, &end, 10) : 0;
  *name = n > 0 ? end : mangled;
  return n > 0 ? (int)n : 40;
}

static void add(kind *v, int *n, const record *r, const record *before) {
  int i = 0;
  const char *was = before ? before->name : "";
  while (i < *n && (strcmp(v[i].name, r->name) != 0 || strcmp(v[i].before, was) != 0 || v[i].blocks != r->blocks)) i++;
  if (i == KINDS) return;
  if (i == *n) v[(*n)++] = (kind){.name = r->name, .before = was, .blocks = r->blocks};
  const double gap = before ? (double)r->begin - (double)before->end : 0, own = (double)(r->end - r->begin);
  v[i].n++;
  v[i].own += own;
  v[i].early += gap < 0 ? -gap : 0;
  v[i].idle += gap > 0 ? gap : 0;
  v[i].alone += gap < 0 ? own + gap : own;
}

static void print(void) {
  static kind v[KINDS];
  int n = 0;
  size_t n_kernel = 0, n_step = 0, n_seen = 0;
  double idle = 0, alone = 0;
  cuptiActivityFlushAll(1);
  qsort(records, n_record, sizeof *records, by_launch);
  for (size_t i = 0, end; i < n_record; i = end) {
    for (end = i; end < n_record && records[end].launch == records[i].launch;) end++;
    if (end - i >= LEAST) n_kernel = end - i;
  }
  for (size_t i = 0, end; i < n_record; i = end) {
    for (end = i; end < n_record && records[end].launch == records[i].launch;) end++;
    if (end - i < LEAST || end - i != n_kernel || n_seen++ < WARM) continue;
    n_step++;
    for (size_t k = i; k < end; k++) add(v, &n, &records[k], k > i ? &records[k - 1] : NULL);
  }
  if (n_step == 0) {
    fprintf(stderr, "kernel_times: no recorded steps were seen\n");
    return;
  }
  const double us = 1e-3 / (double)n_step;
  fprintf(stderr, "kernels of a recorded step (mean of %zu), us a step\n%-28s %7s %6s %9s %9s %7s %9s\n", n_step, "kernel", "blocks", "count", "own",
          "early", "idle", "alone");
  for (int i = 0; i < n; i++) {
    const char *name;
    const int chars = name_of(v[i].name, &name);
    fprintf(stderr, "%-28.*s %7u %6.1f %9.1f %9.1f %7.1f %9.1f\n", chars, name, v[i].blocks, (double)v[i].n / (double)n_step, v[i].own * us,
            v[i].early * us, v[i].idle * us, v[i].alone * us);
    idle += v[i].idle * us;
    alone += v[i].alone * us;
  }
  fprintf(stderr, "%-28s %7s %6.1f %9s %9s %7.1f %9.1f: %.1f in all\n", "the step", "", (double)n_kernel, "", "", idle, alone, idle + alone);
}

__attribute__((visibility("default"))) int InitializeInjection(void);
int InitializeInjection(void) {
  if (cuptiActivityRegisterCallbacks(request, complete) != CUPTI_SUCCESS ||
      cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) {
    fprintf(stderr, "kernel_times: CUPTI cannot be used here; is another profiler at work?\n");
    return 1;
  }
  atexit(print);
  return 1;
}
