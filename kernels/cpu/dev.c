// The CPU device: its team, its memory and the scratch of each thread. Memory has a 64-byte header in front that says how to free it:
//
//   small:  malloc'ed block .. [header 64][bytes, 64-byte aligned]
//   middle: in a slab of 16 MiB of huge pages, [slab 64] [header 64][bytes] [header 64][bytes] ..   from 64 KiB on: most matrices of small models
//   big:    mmap'ed .. [header 64][bytes, 2 MiB aligned, huge pages asked for]                      from 2 MiB on
//
// Pages of 4 KiB cost a matrix of half a MiB, read once a step, a fifth of its speed. Slabs are filled from the front, never again where something
// was freed (so memory is zero), and given back when their last piece is. Mapped memory is zero pages: nothing is touched before it is used.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/size.h"
#include "kernels/cpu/cpu_priv.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define SLAB_BYTES ((size_t)16 << 20)
#define SLAB_LEAST ((size_t)64 << 10)

struct ti_cpu_slab {
  void *base;
  size_t mapped, used;
  _Atomic int live;  // pieces, and the device that fills it
};

typedef struct header {
  void *base;
  size_t mapped;  // 0: malloc'ed, or in a slab
  struct ti_cpu_slab *slab;
} header;

static void slab_drop(struct ti_cpu_slab *s) {
  if (s && atomic_fetch_sub(&s->live, 1) == 1) munmap(s->base, s->mapped);
}

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
  slab_drop(d->slab);
  free(d);
}

// Does the team pay for short runs? A fork whose partner has lost its CPU waits for the kernel's scheduler: 40 us to milliseconds, where the work is
// a few. How long a run should take depends on the memory and on who else uses it, so both ways are measured, as time for each nanosecond of the
// callers' guess: of every WINDOW short runs PROBES go the other way, and at its end the faster way is taken on, the team again only when it is 10%
// faster. The window ends early when the team has cost LOSS_NS more than this thread alone would have. Longer runs are always worth it.
// On a machine whose CPUs are all taken a probe of the team can cost a scheduler's slice: one that took DEAR times as long as it should ends the
// window's probes, and the next window is twice as long.
enum { WINDOW = 512, WINDOW_MOST = 16 * WINDOW, PROBES = 8 };
#define SHORT_NS 150000.0
#define LOSS_NS 5e6
#define DEAR 4.0

static void learn(ti_cpu_pace *p, bool alone, double want_ns, double took_ns) {
  const double known = p->rate[p->alone];
  p->want[alone] += want_ns;
  p->took[alone] += took_ns;
  if (alone != p->alone && known > 0 && took_ns > DEAR * known * want_ns) p->dear = true;
  const bool lost = !p->alone && p->rate[1] > 0 && p->took[0] > p->rate[1] * p->want[0] + LOSS_NS;
  if (++p->n == PROBES && p->rate[alone] == 0) p->rate[alone] = p->took[alone] / p->want[alone];  // so that `lost` has its measure from the start
  if (p->n < (p->alone ? p->window : WINDOW) && !lost) return;
  for (int i = 0; i < 2; i++) {
    if (p->want[i] == 0) continue;
    const bool probes = i != p->alone;  // few: they count for a quarter, and as no more than twice the other way
    double now = p->took[i] / p->want[i];
    if (probes && known > 0 && now > 2.0 * known) now = 2.0 * known;
    p->rate[i] += (probes && p->rate[i] > 0 ? 0.25 : 1.0) * (now - p->rate[i]);
    p->want[i] = p->took[i] = 0;
  }
  const bool was = p->alone;
  if (p->rate[0] > 0 && p->rate[1] > 0) p->alone = p->rate[0] > p->rate[1] * (was ? 0.9 : 1.0);
  p->window = was && p->alone && p->dear ? (2 * p->window < WINDOW_MOST ? 2 * p->window : WINDOW_MOST) : WINDOW;
  p->dear = false;
  p->n = 0;
}

void ti_cpu_run(ti_dev *d, double ns, ti_team_fn fn, void *arg) {
  if (d->threads == 1 || ns < TI_CPU_FORK_NS) {
    fn(arg, 0, 1);
    return;
  }
  if (ns >= SHORT_NS) {
    ti_team_run(d->team, fn, arg);
    return;
  }
  const bool alone = d->pace.alone != (d->pace.n < PROBES && !d->pace.dear);
  const uint64_t start = ti_mono_ns();
  if (alone)
    fn(arg, 0, 1);
  else
    ti_team_run(d->team, fn, arg);
  learn(&d->pace, alone, ns, (double)(ti_mono_ns() - start));
}

// `bytes` of zeros at the next multiple of 2 MiB, after at least 64 bytes; *base, *mapped: what munmap takes.
static uint8_t *map_huge(size_t bytes, void **base, size_t *mapped) {
  size_t total;
  if (!ti_size_add(bytes, 2 * HUGE_PAGE, &total)) return NULL;
  void *at = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return NULL;
  uint8_t *p = (uint8_t *)(((uintptr_t)at + HUGE_PAGE + 63) & ~(HUGE_PAGE - 1));
  if ((uintptr_t)p < (uintptr_t)at + 64) p += HUGE_PAGE;
  madvise(p, bytes, MADV_HUGEPAGE);  // a wish; a kernel without huge pages refuses it
  *base = at;
  *mapped = total;
  return p;
}

static void *slab_alloc(ti_dev *d, size_t bytes) {
  const size_t need = ti_size_align(bytes, 64) + 64;
  if (!d->slab || d->slab->used + need > SLAB_BYTES) {
    void *base;
    size_t mapped;
    uint8_t *p = map_huge(SLAB_BYTES, &base, &mapped);
    if (!p) return NULL;
    slab_drop(d->slab);
    d->slab = (struct ti_cpu_slab *)(void *)p;
    *d->slab = (struct ti_cpu_slab){.base = base, .mapped = mapped, .used = 64, .live = 1};
  }
  uint8_t *p = (uint8_t *)d->slab + d->slab->used + 64;
  const header h = {.slab = d->slab};
  memcpy(p - 64, &h, sizeof h);
  d->slab->used += need;
  atomic_fetch_add(&d->slab->live, 1);
  return p;
}

void *ti_cpu_alloc(ti_dev *d, size_t bytes) {
  header h = {0};
  uint8_t *p;
  if (bytes >= SLAB_LEAST && bytes < HUGE_PAGE) return slab_alloc(d, bytes);
  if (bytes < HUGE_PAGE) {
    h.base = calloc(1, bytes + 128);
    if (!h.base) return NULL;
    p = (uint8_t *)(((uintptr_t)h.base + 127) & ~(uintptr_t)63);
  } else {
    p = map_huge(bytes, &h.base, &h.mapped);
    if (!p) return NULL;
  }
  memcpy(p - 64, &h, sizeof h);
  return p;
}

void ti_cpu_free(ti_dev *d, void *p) {
  if (!p) return;
  header h;
  memcpy(&h, (uint8_t *)p - 64, sizeof h);
  if (h.slab) {
    slab_drop(h.slab);
  } else if (h.mapped) {
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
