// Entries of the table that are alike for every backend whose device is the host: its memory is the host's, and an op is done when its call returns.
#ifndef TI_KERNELS_HOST_H
#define TI_KERNELS_HOST_H
#include "kernels/kernel.h"

ti_status ti_host_copy(ti_dev *d, void *dst, const void *src, size_t n);
ti_status ti_host_zero(ti_dev *d, void *dst, size_t n);
void *ti_host_alloc(ti_dev *d, size_t bytes);
void ti_host_free(ti_dev *d, void *p);
ti_status ti_host_mark(ti_dev *d, int i);  // mark, done and wait

#define TI_HOST_ENTRIES                                                                                                                           \
  .copy = ti_host_copy, .zero = ti_host_zero, .alloc_host = ti_host_alloc, .free_host = ti_host_free, .mark = ti_host_mark, .done = ti_host_mark, \
  .wait = ti_host_mark

#endif
