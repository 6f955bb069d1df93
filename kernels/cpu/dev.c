// The CPU device: its team, its memory and the scratch of each thread. Memory has a 64-byte header in front that says how to free it:
//
//   small:  malloc'ed block .. [header 64][bytes, 64-byte aligned]
//   big:    mmap'ed .. [header 64][bytes, 2 MiB aligned, huge pages asked for]      zero pages: nothing is touched before it is used
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/size.h"
#include "kernels/cpu/cpu_priv.h"

#define HUGE_PAGE ((size_t)2 << 20)

typedef struct header {
  void *base;
  size_t mapped;  // 0: malloc'ed
} header;

ti_status ti_cpu_open(const ti_dev_options *o, int nr, ti_dev **out, ti_error *err) {
  if (o->threads < 1) return ti_error_set(err, TI_ERR_ARG, "cpu device: threads is %d; it must be at least 1", o->threads);
  ti_dev *d = calloc(1, sizeof *d);
  if (!d) return ti_error_set(err, TI_ERR_NOMEM, "cpu device: no memory for %zu bytes", sizeof *d);
  d->threads = o->threads;
  d->nr = nr;
  d->act_quant = o->act_quant;
  d->scratch_bytes = ti_cpu_scratch_need();
  ti_status st = ti_team_create(o->threads, o->cpus, &d->team);
  if (st != TI_OK) {
    free(d);
    return ti_error_set(err, st, "cpu device: cannot start %d threads (too many, or a CPU number that this process may not use)", o->threads);
  }
  d->scratch = ti_cpu_alloc(d, d->scratch_bytes * (size_t)d->threads);
  if (!d->scratch) {
    st = ti_error_set(err, TI_ERR_NOMEM, "cpu device: no memory for the scratch of %d threads, %zu bytes each", d->threads, d->scratch_bytes);
    ti_cpu_close(d);
    return st;
  }
  *out = d;
  return TI_OK;
}

void ti_cpu_close(ti_dev *d) {
  if (!d) return;
  ti_team_destroy(d->team);
  ti_cpu_free(d, d->scratch);
  ti_cpu_free(d, d->sort);
  free(d);
}

// A fork whose partner has lost its CPU waits for the kernel's scheduler: 40 us to milliseconds, where the work is a few. After LATE_MAX such in a
// row the next SOLO_RUNS short runs stay on this thread, then the team is tried again.
enum { LATE_MAX = 3, SOLO_RUNS = 256 };
#define SHORT_NS 150000.0  // longer runs are always worth it

void ti_cpu_run(ti_dev *d, double ns, ti_team_fn fn, void *arg) {
  if (d->threads == 1 || ns < TI_CPU_FORK_NS) {
    fn(arg, 0, 1);
  } else if (ns >= SHORT_NS) {
    ti_team_run(d->team, fn, arg);
  } else if (d->solo > 0) {
    d->solo--;
    fn(arg, 0, 1);
  } else {
    const uint64_t start = ti_mono_ns();
    ti_team_run(d->team, fn, arg);
    d->late = (double)(ti_mono_ns() - start) > ns + 10000.0 ? d->late + 1 : 0;
    if (d->late < LATE_MAX) return;
    d->late = 0;
    d->solo = SOLO_RUNS;
  }
}

void *ti_cpu_alloc(ti_dev *d, size_t bytes) {
  header h = {0};
  size_t total;
  uint8_t *p;
  if (bytes < HUGE_PAGE) {
    if (!ti_size_add(bytes, 128, &total)) return NULL;
    h.base = calloc(1, total);
    if (!h.base) return NULL;
    p = (uint8_t *)(((uintptr_t)h.base + 127) & ~(uintptr_t)63);
  } else {
    if (!ti_size_add(bytes, 2 * HUGE_PAGE, &total)) return NULL;
    h.base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h.base == MAP_FAILED) return NULL;
    h.mapped = total;
    p = (uint8_t *)(((uintptr_t)h.base + HUGE_PAGE + 63) & ~(HUGE_PAGE - 1));
    if ((uintptr_t)p < (uintptr_t)h.base + 64) p += HUGE_PAGE;
    madvise(p, bytes, MADV_HUGEPAGE);  // a wish; a kernel without huge pages refuses it
  }
  memcpy(p - 64, &h, sizeof h);
  return p;
}

void ti_cpu_free(ti_dev *d, void *p) {
  if (!p) return;
  header h;
  memcpy(&h, (uint8_t *)p - 64, sizeof h);
  if (h.mapped) {
    munmap(h.base, h.mapped);
  } else {
    free(h.base);
  }
}

ti_status ti_cpu_copy(ti_dev *d, void *dst, const void *src, size_t n) {
  if (n) memcpy(dst, src, n);
  return TI_OK;
}

ti_status ti_cpu_zero(ti_dev *d, void *dst, size_t n) {
  if (n) memset(dst, 0, n);
  return TI_OK;
}

ti_status ti_cpu_sync(ti_dev *d) { return TI_OK; }

ti_status ti_cpu_mark(ti_dev *d, int i) {
  assert(i >= 0 && i < TI_DEV_MARKS);
  return TI_OK;
}

ti_status ti_cpu_reserve(ti_dev *d, int max_row, int64_t max_k, int max_head, int vocab) {
  if (max_head > TI_CPU_MAX_DIM) return TI_ERR_RANGE;
  if (vocab <= d->vocab) return TI_OK;
  float *sort = ti_cpu_alloc(d, (size_t)d->threads * (size_t)vocab * sizeof(float));
  if (!sort) return TI_ERR_NOMEM;
  ti_cpu_free(d, d->sort);
  d->sort = sort;
  d->vocab = vocab;
  return TI_OK;
}
