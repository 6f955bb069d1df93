// Memory that is sized for the worst case and paid for as it is touched: receive regions and expert blocks, whose usual use is a small part of what a
// hostile routing could ask for. Zeroed, page-aligned; not counted against the overcommit limit until touched. Large ones ask for huge pages: MPI pins a page at a time when it
// reads another process's memory (dispatch + combine of 4096 rows took 20% less).
#ifndef TI_PARALLEL_LAZY_H
#define TI_PARALLEL_LAZY_H
#include <stddef.h>
#include <sys/mman.h>

static inline void *ti_lazy_alloc(size_t bytes) {
  void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NULL;
  if (bytes >= (size_t)32 << 20) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}
static inline void ti_lazy_free(void *p, size_t bytes) {  // NULL is fine
  if (p) munmap(p, bytes ? bytes : 1);
}

#endif
