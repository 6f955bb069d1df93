// Device time of spans, for the timeline: an event before and one behind each span, read once both have passed.
//
// Spans outside a recording stand in a ring; those inside a graph belong to it, and every launch of the graph makes them happen again, so that a
// launch queues the graph's list instead. Times become the host's by a base event whose host time is known: recorded in a stream of its own that
// never has anything to do, and waited for (10 us), again every REBASE_NS, since the two clocks drift apart. NVTX ranges of the same names go along.
#include <nvtx3/nvToolsExt.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/cuda/cuda_priv.h"

enum { RING = 4096, MAX_DEPTH = 8, MAX_PENDING = 16 };
#define REBASE_NS 200000000u
#define CALIBRATE_NS 1000000u  // a calibration that takes longer is given up: the old base stays

typedef struct span {
  const char *name;
  int layer;
  bool closed;  // the end is queued
  cudaEvent_t begin, end;
} span;

struct ti_cuda_span_list {  // of one graph
  span *v;
  int n, cap, read;
  bool pending;
  cudaEvent_t done;  // behind the launch: the events inside may still tell of the launch before
};

struct ti_cuda_spans {
  span ring[RING];
  unsigned head, tail;    // tail .. head - 1 are to be read
  span *open[MAX_DEPTH];  // spans that have begun
  int open_at[MAX_DEPTH];
  int depth;
  struct ti_cuda_span_list *recording;
  struct ti_cuda_span_list *pending[MAX_PENDING];
  int n_pending;
  cudaStream_t stream;
  cudaEvent_t base, next;
  double base_ns;
};

static bool calibrate(struct ti_cuda_spans *s) {
  const uint64_t t0 = ti_mono_ns();
  if (cudaEventRecord(s->next, s->stream) != cudaSuccess) return false;
  while (cudaEventQuery(s->next) != cudaSuccess) {
    (void)cudaGetLastError();
    if (ti_mono_ns() - t0 > CALIBRATE_NS) return false;
  }
  const uint64_t t1 = ti_mono_ns();
  s->base_ns = (double)t0 + (double)(t1 - t0) / 2;
  const cudaEvent_t old = s->base;
  s->base = s->next;
  s->next = old;
  return true;
}

static struct ti_cuda_spans *spans_of(ti_dev *d) {
  if (d->spans) return d->spans;
  struct ti_cuda_spans *s = d->spans = calloc(1, sizeof *s);
  if (!s) return NULL;
  bool ok = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking) == cudaSuccess;
  ok = ok && cudaEventCreate(&s->base) == cudaSuccess && cudaEventCreate(&s->next) == cudaSuccess;
  for (int i = 0; i < RING && ok; i++) ok = cudaEventCreate(&s->ring[i].begin) == cudaSuccess && cudaEventCreate(&s->ring[i].end) == cudaSuccess;
  for (int i = 0; i < 3 && ok; i++) ok = calibrate(s);  // the first ones are slow
  if (!ok) ti_cuda_spans_fini(d);
  return d->spans;
}

static void fini_spans(span *v, int n) {
  for (int i = 0; i < n; i++) {
    if (v[i].begin) (void)cudaEventDestroy(v[i].begin);
    if (v[i].end) (void)cudaEventDestroy(v[i].end);
  }
}

void ti_cuda_spans_drop(ti_dev *d, struct ti_cuda_span_list *l) {
  if (!l) return;
  struct ti_cuda_spans *s = d->spans;
  for (int i = 0; s && i < s->n_pending; i++) {
    if (s->pending[i] != l) continue;
    memmove(&s->pending[i], &s->pending[i + 1], (size_t)(s->n_pending - i - 1) * sizeof(*s->pending));
    s->n_pending--;
    break;
  }
  fini_spans(l->v, l->cap);
  if (l->done) (void)cudaEventDestroy(l->done);
  free(l->v);
  free(l);
}

void ti_cuda_spans_fini(ti_dev *d) {
  struct ti_cuda_spans *s = d->spans;
  if (!s) return;
  ti_cuda_spans_drop(d, s->recording);
  fini_spans(s->ring, RING);
  if (s->base) (void)cudaEventDestroy(s->base);
  if (s->next) (void)cudaEventDestroy(s->next);
  if (s->stream) (void)cudaStreamDestroy(s->stream);
  free(s);
  d->spans = NULL;
}

// ---- recording ----

void ti_cuda_spans_record(ti_dev *d) {
  if (!d->spans) return;  // nobody has asked for spans
  d->spans->recording = calloc(1, sizeof(struct ti_cuda_span_list));
}

struct ti_cuda_span_list *ti_cuda_spans_recorded(ti_dev *d) {
  if (!d->spans) return NULL;
  struct ti_cuda_span_list *l = d->spans->recording;
  d->spans->recording = NULL;
  if (l && (l->n == 0 || cudaEventCreateWithFlags(&l->done, cudaEventDisableTiming) != cudaSuccess)) {
    ti_cuda_spans_drop(d, l);
    return NULL;
  }
  return l;
}

void ti_cuda_spans_launched(ti_dev *d, struct ti_cuda_span_list *l) {
  struct ti_cuda_spans *s = d->spans;
  if (l->pending || !s || s->n_pending == MAX_PENDING || cudaEventRecord(l->done, d->stream) != cudaSuccess) return;  // this launch goes untold
  l->pending = true;
  l->read = 0;
  s->pending[s->n_pending++] = l;
}

static span *new_recorded(struct ti_cuda_span_list *l, int *at) {
  if (l->n == l->cap) {
    const int cap = l->cap ? 2 * l->cap : 64;
    span *v = realloc(l->v, (size_t)cap * sizeof *v);
    if (!v) return NULL;
    memset(v + l->cap, 0, (size_t)(cap - l->cap) * sizeof *v);
    l->v = v;
    l->cap = cap;
  }
  span *p = &l->v[l->n];
  if (cudaEventCreate(&p->begin) != cudaSuccess || cudaEventCreate(&p->end) != cudaSuccess) return NULL;
  *at = l->n++;
  return p;
}

ti_status ti_cuda_span_begin(ti_dev *d, const char *name, int layer) {
  struct ti_cuda_spans *s = spans_of(d);
  if (!s) return TI_ERR_NOMEM;
  (void)nvtxRangePushA(name);
  if (s->depth == MAX_DEPTH) return TI_ERR_FULL;
  span *p = NULL;
  int at = -1;
  if (s->recording) {
    p = new_recorded(s->recording, &at);
  } else if (s->head - s->tail < RING) {
    p = &s->ring[s->head++ % RING];
  }
  s->open[s->depth] = p;  // NULL: dropped, nobody reads the ring
  s->open_at[s->depth++] = at;
  if (!p) return TI_OK;
  p->name = name;
  p->layer = layer;
  p->closed = false;
  return ti_cuda_result(d, "span", cudaEventRecordWithFlags(p->begin, d->stream, at >= 0 ? cudaEventRecordExternal : cudaEventRecordDefault));
}

ti_status ti_cuda_span_end(ti_dev *d) {
  struct ti_cuda_spans *s = d->spans;
  (void)nvtxRangePop();
  if (!s || s->depth == 0) return TI_ERR_ARG;
  const int at = s->open_at[--s->depth];
  span *p = at >= 0 && s->recording ? &s->recording->v[at] : s->open[s->depth];  // the list may have moved
  if (!p) return TI_OK;
  p->closed = true;
  return ti_cuda_result(d, "span", cudaEventRecordWithFlags(p->end, d->stream, at >= 0 ? cudaEventRecordExternal : cudaEventRecordDefault));
}

// ---- reading ----

static bool read_span(const struct ti_cuda_spans *s, const span *p, ti_dev_span *out) {
  float from, to;
  if (cudaEventElapsedTime(&from, s->base, p->begin) != cudaSuccess || cudaEventElapsedTime(&to, s->base, p->end) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  *out = (ti_dev_span){p->name, p->layer, (uint64_t)(s->base_ns + (double)from * 1e6), (uint64_t)(s->base_ns + (double)to * 1e6)};
  return true;
}

static bool passed(cudaEvent_t e) {
  const bool yes = cudaEventQuery(e) == cudaSuccess;
  if (!yes) (void)cudaGetLastError();
  return yes;
}

int ti_cuda_spans(ti_dev *d, ti_dev_span *out, int cap) {
  struct ti_cuda_spans *s = d->spans;
  if (!s) return 0;
  ti_cuda_use(d);
  int n = 0;
  while (s->n_pending > 0 && n < cap) {
    struct ti_cuda_span_list *l = s->pending[0];
    if (!passed(l->done)) break;
    for (; l->read < l->n && n < cap; l->read++) n += read_span(s, &l->v[l->read], &out[n]);
    if (l->read < l->n) break;
    l->pending = false;
    memmove(&s->pending[0], &s->pending[1], (size_t)(--s->n_pending) * sizeof(*s->pending));
  }
  while (s->tail != s->head && n < cap && s->ring[s->tail % RING].closed && passed(s->ring[s->tail % RING].end)) {
    n += read_span(s, &s->ring[s->tail % RING], &out[n]);
    s->tail++;
  }
  if ((double)ti_mono_ns() - s->base_ns > REBASE_NS) (void)calibrate(s);
  return n;
}
