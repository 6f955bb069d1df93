// Checked size arithmetic: sizes that come from outside are multiplied and added only through these.
#ifndef TI_BASE_SIZE_H
#define TI_BASE_SIZE_H
#include <stdbool.h>
#include <stddef.h>

// true and *out set when a * b (a + b) fits in size_t; false otherwise, *out untouched.
static inline bool ti_size_mul(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_mul_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}
static inline bool ti_size_add(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_add_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}
// n rounded up to a multiple of a power of two; saturates at SIZE_MAX & ~(align - 1).
static inline size_t ti_size_align(size_t n, size_t align) {
  size_t r;
  return __builtin_add_overflow(n, align - 1, &r) ? ~(align - 1) : r & ~(align - 1);
}
static inline size_t ti_size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ti_size_max(size_t a, size_t b) { return a > b ? a : b; }

#endif
