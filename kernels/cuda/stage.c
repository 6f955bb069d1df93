// Transfers between host and device, and marks in the stream.
//
// Uploads go through a ring of page-locked slots, so that the caller's memory is free on return and the copy engine runs beside the caller:
//
//   [slot 0 .. filled, its copies queued, event recorded][slot 1 .. being filled ->|  free ][slot 2][slot 3]
//
// Small uploads share a slot; large ones (weights) take slot after slot, each filled by a small team of threads, since one thread's memcpy from the
// page cache is slower than the bus. A slot is filled again when its event has passed.
#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "base/team.h"
#include "kernels/cuda/cuda_priv.h"

enum { N_SLOT = 4, MAX_TEAM = 8 };
#define SLOT_BYTES ((size_t)4 << 20)
#define BIG_BYTES ((size_t)8 << 20)  // uploads from here on wake the team
#define SPIN_NS 200000u              // a wait spins this long, then naps
#define NAP_NS 20000

struct ti_cuda_stage {
  uint8_t *ring;  // [N_SLOT][SLOT_BYTES] page-locked
  cudaEvent_t passed[N_SLOT];
  int slot;   // being filled
  size_t at;  // bytes of it that are taken
  cudaEvent_t mark[TI_DEV_MARKS];
  ti_team *team;  // made by the first big upload
};

ti_status ti_cuda_stage_init(ti_dev *d) {
  struct ti_cuda_stage *s = d->stage = calloc(1, sizeof *s);
  if (!s) return TI_ERR_NOMEM;
  void *ring = NULL;
  cudaError_t e = cudaHostAlloc(&ring, N_SLOT * SLOT_BYTES, cudaHostAllocDefault);
  s->ring = ring;
  for (int i = 0; i < N_SLOT && e == cudaSuccess; i++) e = cudaEventCreateWithFlags(&s->passed[i], cudaEventDisableTiming);
  for (int i = 0; i < TI_DEV_MARKS && e == cudaSuccess; i++) e = cudaEventCreateWithFlags(&s->mark[i], cudaEventDisableTiming);
  return ti_cuda_result(d, "open", e);
}

void ti_cuda_stage_fini(ti_dev *d) {
  struct ti_cuda_stage *s = d->stage;
  if (!s) return;
  ti_team_destroy(s->team);
  for (int i = 0; i < N_SLOT; i++) {
    if (s->passed[i]) (void)cudaEventDestroy(s->passed[i]);
  }
  for (int i = 0; i < TI_DEV_MARKS; i++) {
    if (s->mark[i]) (void)cudaEventDestroy(s->mark[i]);
  }
  if (s->ring) (void)cudaFreeHost(s->ring);
  free(s);
  d->stage = NULL;
}

// ---- waiting ----

typedef cudaError_t (*query_fn)(void *handle);
static cudaError_t query_event(void *e) { return cudaEventQuery(e); }
static cudaError_t query_stream(void *s) { return cudaStreamQuery(s); }

// Polls until the handle's work is done: a short spin, then naps, TI_CUDA_WAIT_S at most. A kernel that hangs must not take the rank's voice away.
static ti_status poll_until(ti_dev *d, query_fn query, void *handle, const char *what) {
  const uint64_t start = ti_mono_ns();
  for (;;) {
    const cudaError_t e = query(handle);
    if (e != cudaErrorNotReady) return ti_cuda_result(d, what, e);
    (void)cudaGetLastError();
    const uint64_t ns = ti_mono_ns() - start;
    if (ns > TI_CUDA_WAIT_S * 1000000000ull) break;
    if (ns > SPIN_NS) nanosleep(&(struct timespec){0, NAP_NS}, NULL);
  }
  snprintf(d->last_error, sizeof d->last_error, "%s: not done after %d s (last op launched: %s)", what, TI_CUDA_WAIT_S,
           d->last_op ? d->last_op : "none");
  ti_log_error("cuda: device %d: %s", d->index, d->last_error);
  return TI_ERR_TIMEOUT;
}

ti_status ti_cuda_wait_event(ti_dev *d, cudaEvent_t e, const char *what) { return poll_until(d, query_event, e, what); }

ti_status ti_cuda_sync(ti_dev *d) {
  ti_cuda_use(d);
  ti_cuda_spans_cut(d);
  return poll_until(d, query_stream, d->stream, "sync");
}

ti_status ti_cuda_mark(ti_dev *d, int i) {
  assert(i >= 0 && i < TI_DEV_MARKS);
  ti_cuda_use(d);
  ti_cuda_spans_cut(d);
  return ti_cuda_result(d, "mark", cudaEventRecord(d->stage->mark[i], d->stream));
}

ti_status ti_cuda_done(ti_dev *d, int i) {
  assert(i >= 0 && i < TI_DEV_MARKS);
  ti_cuda_use(d);
  const cudaError_t e = cudaEventQuery(d->stage->mark[i]);
  if (e != cudaErrorNotReady) return ti_cuda_result(d, "step", e);
  (void)cudaGetLastError();
  return TI_INPROGRESS;
}

ti_status ti_cuda_wait(ti_dev *d, int i) {
  assert(i >= 0 && i < TI_DEV_MARKS);
  ti_cuda_use(d);
  return ti_cuda_wait_event(d, d->stage->mark[i], "step");
}

// ---- the ring ----

// At most `want` bytes of page-locked memory to fill, and their queued use is over; *got of them, at least one.
static ti_status take(ti_dev *d, size_t want, size_t at_least, uint8_t **out, size_t *got) {
  struct ti_cuda_stage *s = d->stage;
  if (SLOT_BYTES - s->at < at_least) {
    ti_status st = ti_cuda_result(d, "upload", cudaEventRecord(s->passed[s->slot], d->stream));
    if (st != TI_OK) return st;
    s->slot = (s->slot + 1) % N_SLOT;
    s->at = 0;
    st = ti_cuda_wait_event(d, s->passed[s->slot], "upload");  // one never recorded has passed
    if (st != TI_OK) return st;
  }
  *out = s->ring + (size_t)s->slot * SLOT_BYTES + s->at;
  *got = want < SLOT_BYTES - s->at ? want : SLOT_BYTES - s->at;
  s->at = ti_size_align(s->at + *got, 64);
  if (s->at > SLOT_BYTES) s->at = SLOT_BYTES;
  return TI_OK;
}

typedef struct fill {
  uint8_t *dst;
  const uint8_t *src;
  size_t pitch, bytes, n_row;  // of src; rows are packed in dst
} fill;

static void fill_share(void *arg, int thread, int n_threads) {
  const fill *f = arg;
  if (f->pitch == f->bytes) {
    const size_t n = f->bytes * f->n_row, lo = n * (size_t)thread / (size_t)n_threads, hi = n * (size_t)(thread + 1) / (size_t)n_threads;
    memcpy(f->dst + lo, f->src + lo, hi - lo);
    return;
  }
  const size_t lo = f->n_row * (size_t)thread / (size_t)n_threads, hi = f->n_row * (size_t)(thread + 1) / (size_t)n_threads;
  for (size_t r = lo; r < hi; r++) memcpy(f->dst + r * f->bytes, f->src + r * f->pitch, f->bytes);
}

static void make_team(struct ti_cuda_stage *s) {
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (n > MAX_TEAM) n = MAX_TEAM;
  if (n > 1 && ti_team_create(n, NULL, &s->team) != TI_OK) s->team = NULL;  // slower without it
}

ti_status ti_cuda_upload_rows(ti_dev *d, void *dst, size_t dst_pitch, const void *host, size_t host_pitch, size_t bytes, size_t n_row) {
  if (bytes == 0 || n_row == 0) return TI_OK;
  ti_cuda_use(d);
  ti_cuda_spans_cut(d);
  struct ti_cuda_stage *s = d->stage;
  const bool big = bytes * n_row >= BIG_BYTES, packed = dst_pitch == bytes && host_pitch == bytes;
  if (big && !s->team) make_team(s);
  const size_t unit = packed ? 1 : bytes, total = packed ? bytes * n_row : n_row;  // what a slot holds whole
  assert(unit <= SLOT_BYTES);
  for (size_t done = 0; done < total;) {
    uint8_t *p;
    size_t got;
    const ti_status st = take(d, (total - done) * unit, unit, &p, &got);
    if (st != TI_OK) return st;
    const size_t n = got / unit;
    fill f = {p, (const uint8_t *)host + done * (packed ? 1 : host_pitch), packed ? n : host_pitch, packed ? n : bytes, packed ? 1 : n};
    if (big && s->team) {
      ti_team_run(s->team, fill_share, &f);
    } else {
      fill_share(&f, 0, 1);
    }
    uint8_t *to = (uint8_t *)dst + done * (packed ? 1 : dst_pitch);
    const cudaError_t e = packed || dst_pitch == bytes ? cudaMemcpyAsync(to, p, n * unit, cudaMemcpyHostToDevice, d->stream)
                                                       : cudaMemcpy2DAsync(to, dst_pitch, p, bytes, bytes, n, cudaMemcpyHostToDevice, d->stream);
    if (e != cudaSuccess) return ti_cuda_result(d, "upload", e);
    done += n;
  }
  return TI_OK;
}

ti_status ti_cuda_upload(ti_dev *d, void *dst, const void *host, size_t n) { return ti_cuda_upload_rows(d, dst, n, host, n, n, 1); }

ti_status ti_cuda_download(ti_dev *d, void *host, const void *src, size_t n) {
  if (n == 0) return TI_OK;
  ti_cuda_use(d);
  ti_cuda_spans_cut(d);
  return ti_cuda_result(d, "download", cudaMemcpyAsync(host, src, n, cudaMemcpyDeviceToHost, d->stream));  // pageable memory: filled on return
}

void *ti_cuda_alloc_host(ti_dev *d, size_t bytes) {
  void *p = NULL;
  ti_cuda_use(d);
  return ti_cuda_result(d, "alloc_host", cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault)) == TI_OK ? p : NULL;
}

void ti_cuda_free_host(ti_dev *d, void *p) {
  if (!p) return;
  ti_cuda_use(d);
  (void)ti_cuda_sync(d);  // a copy may still fill it
  (void)cudaFreeHost(p);
}
