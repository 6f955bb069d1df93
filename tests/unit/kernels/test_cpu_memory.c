// Memory of the CPU device: every size is zeroed, aligned and apart from the others, whatever order it is freed in, and outlives what is freed around
// it.
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernel.h"

static bool all(const uint8_t *p, size_t n, uint8_t v) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != v) return false;
  return true;
}

Test(cpu_memory, pieces_are_zeroed_aligned_and_apart) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *d;
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &d, NULL), TI_OK);
  enum { N = 64, STEPS = 600 };
  static const size_t sizes[] = {1, 64, 4096, 65535, 65536, 65537, 300000, 1 << 20, (2 << 20) - 1, 2 << 20, 5 << 20};  // either side of each limit
  uint8_t *p[N] = {0};
  size_t n[N] = {0};
  const uint32_t key[2] = {1, 2};
  for (uint32_t s = 0; s < STEPS; s++) {
    uint32_t r[4];
    ti_philox4x32(key, (uint32_t[]){s, 0, 0, 0}, r);
    const uint32_t i = r[0] % N;
    if (p[i]) {
      cr_assert(all(p[i], n[i], (uint8_t)(i + 1)), "piece %u of %zu bytes was overwritten", i, n[i]);
      k->free(d, p[i]);
      p[i] = NULL;
      continue;
    }
    n[i] = sizes[r[1] % (sizeof sizes / sizeof *sizes)];
    p[i] = k->alloc(d, n[i]);
    cr_assert(p[i] && (uintptr_t)p[i] % 64 == 0);
    cr_assert(all(p[i], n[i], 0), "%zu bytes are not zero", n[i]);
    memset(p[i], (int)i + 1, n[i]);
  }
  for (int i = 0; i < N; i++) {
    if (p[i]) cr_assert(all(p[i], n[i], (uint8_t)(i + 1)));
    k->free(d, p[i]);
  }
  k->close(d);
}

Test(cpu_memory, a_piece_outlives_its_device) {
  const ti_kernels *k = ti_kernels_cpu();
  ti_dev *a, *b;
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &a, NULL), TI_OK);
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &b, NULL), TI_OK);
  uint8_t *p = k->alloc(a, 1 << 20);
  k->close(a);
  memset(p, 7, 1 << 20);
  cr_assert(all(p, 1 << 20, 7));
  k->free(b, p);  // copies of experts are loaded by a device of their own
  k->close(b);
}
