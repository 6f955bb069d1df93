// How fast weights reach a device through weight_prepare: as stored, converted, quantised. GB/s of the source's bytes, the second of two passes (the
// source is in the page cache then, as a checkpoint just read is).
//
//   lab_load [BACKEND] [GIB]     default: cuda 2
//
// H200, 16 CPUs: BF16 as stored 30.1 GB/s, gate and up interleaved 28.7, F32 to BF16 27.9, BF16 to e4m3 29.5: eight threads fill the page-locked
// ring.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/kernel.h"

static const ti_kernels *k;
static ti_dev *d;

static void fail(const char *what) {
  fprintf(stderr, "lab_load: %s\n", what);
  exit(1);
}

static void load(const char *title, ti_dtype t, unsigned flags, const uint8_t *src, size_t bytes) {
  enum { N = 14336, K = 4096 };
  const size_t one = (size_t)N * K * (size_t)ti_dtype_block_bytes(t), count = bytes / one / 2 * 2;
  size_t size = 0;
  double best = 0.0;
  ti_weight_src part[2] = {{.dtype = t, .n = N, .k = K}, {.dtype = t, .n = N, .k = K}};
  if (k->weight_size(d, part, 2, flags, &size) != TI_OK) fail("weight_size");
  void *mem = k->alloc(d, size);
  if (!mem) fail("alloc");
  for (int pass = 0; pass < 2; pass++) {
    const uint64_t t0 = ti_mono_ns();
    for (size_t i = 0; i < count; i += 2) {
      ti_weight w;
      part[0].data = src + i * one;
      part[1].data = src + (i + 1) * one;
      if (k->weight_prepare(d, part, 2, flags, mem, &w) != TI_OK) fail("weight_prepare");
    }
    if (k->sync(d) != TI_OK) fail("sync");
    best = (double)(one * count) / (double)(ti_mono_ns() - t0);
  }
  printf("%-34s %6.2f GB/s  (%zu matrices of %zu MB)\n", title, best, count, one >> 20);
  k->free(d, mem);
}

int main(int argc, char **argv) {
  const size_t bytes = (size_t)(argc > 2 ? strtol(argv[2], NULL, 10) : 2) << 30;
  k = ti_kernels_find(argc > 1 ? argv[1] : "cuda");
  if (!k) fail("no such backend here");
  ti_error err = {0};
  const ti_dev_options o = {.threads = 8};
  const uint64_t t0 = ti_mono_ns();
  if (k->open(&o, &d, &err) != TI_OK) fail(err.text);
  printf("open: %.0f ms\n", (double)(ti_mono_ns() - t0) / 1e6);
  if (k->reserve(d, 256, 16384, 128, 32000) != TI_OK) fail("reserve");
  uint8_t *src = malloc(bytes);
  if (!src) fail("no memory for the source");
  for (size_t i = 0; i < bytes; i += 8)
    memcpy(src + i, &(uint64_t){(i * 0x9e3779b97f4a7c15ull) & 0x3fff3fff3fff3fffull}, 8);  // small positive numbers
  load("BF16 as stored", TI_BF16, 0, src, bytes);
  load("BF16, gate and up interleaved", TI_BF16, TI_WEIGHT_GATE_UP, src, bytes);
  load("F32 to BF16", TI_F32, 0, src, bytes);
  load("BF16 to e4m3 with scales", TI_BF16, TI_WEIGHT_TO_FP8, src, bytes);
  k->close(d);
  free(src);
  return 0;
}
