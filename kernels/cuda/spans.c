// Device time of spans, for the timeline: stamps (stamp.h) where spans begin and end, and NVTX ranges of the same names.
//
//   marks:   begin qkv | end qkv, begin rope | end rope ..      a queue on the host, in the stream's order; neighbours share a stamp
//                 |               |               |
//   stamps:     at[7]           at[8]           at[9]           a ring on the device, copied when much has come together or the stream rests
//
// Marks inside a recording belong to its graph; every launch queues them again, with the number of the ring's place that the launch begins at, and
// tells the device that number first. Nobody waits: what finds no room goes untold.
//
// The device's clock becomes the host's by a kernel in a stream of its own that writes the one while the host reads the other (10 us), again every
// REBASE_NS, since the two drift apart.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/stamp.h"

enum { MARKS = 16384, MAX_DEPTH = 8, MANY_STAMPS = 2048 };
#define REBASE_NS 200000000u
#define FIRST_NS 200000000u  // the first kernel of a device that many use may take long
#define CLOSE_NS 100000u     // a new base that took longer is no better than the old one

typedef struct mark {
  const char *name;  // NULL: the innermost span ends
  int layer;
  uint32_t at;  // number of its stamp; in a list: from 0
  int64_t step;
} mark;

struct ti_cuda_span_list {  // of one graph
  mark *v;
  int n, cap;
  uint32_t n_stamp;
  bool lost;  // no memory: the whole list goes untold
};

struct ti_cuda_spans {
  mark marks[MARKS];
  uint32_t head, tail;  // tail .. head - 1 are to be told
  uint32_t n_stamp;     // queued so far
  uint32_t copied;      // of them in host_at, as far as the ring goes back
  uint32_t copying;     // up to here once copy_done has passed
  bool in_copy;
  int64_t step;
  int depth;
  bool open[MAX_DEPTH];  // whether its begin has a mark
  struct ti_cuda_span_list *recording;
  // the last stamp is good for the next mark too, while d->last_op is still `said`: then no op has been queued since
  char said[48];
  bool fresh;
  // what the reader has of spans that have not ended
  mark begun[MAX_DEPTH];
  int n_begun;
  ti_stamps *ring;
  uint64_t *host_at;  // [TI_STAMPS] page-locked
  cudaEvent_t copy_done;
  cudaStream_t clock_stream;
  uint64_t *clock;  // page-locked
  bool failed;
  double base_ns, base_clock;
  uint64_t base_took;
};

// ---- set-up ----

// Takes a new base unless that takes longer than `most`; one that comes too late is waited for by nobody.
static bool calibrate(struct ti_cuda_spans *s, uint64_t most) {
  volatile uint64_t *const clock = s->clock;
  const bool rests = cudaStreamQuery(s->clock_stream) == cudaSuccess;  // else the one before is still to write
  (void)cudaGetLastError();
  if (!rests) return false;
  *clock = 0;
  const uint64_t t0 = ti_mono_ns();
  if (ti_cuda_stamp_host(s->clock_stream, s->clock) != cudaSuccess) return false;
  while (*clock == 0)
    if (ti_mono_ns() - t0 > most) return false;
  const uint64_t t1 = ti_mono_ns();
  s->base_took = t1 - t0;
  s->base_ns = (double)t0 + (double)(t1 - t0) / 2;
  s->base_clock = (double)*clock;
  return true;
}

static struct ti_cuda_spans *spans_of(ti_dev *d) {
  if (!d->spans) d->spans = calloc(1, sizeof *d->spans);
  return d->spans;
}

// What stamps need of the device; names alone need nothing.
static bool arm(ti_dev *d, struct ti_cuda_spans *s) {
  if (s->base_ns) return true;
  if (s->failed) return false;
  void *ring = NULL, *at = NULL, *clock = NULL;
  bool ok = cudaMalloc(&ring, sizeof *s->ring) == cudaSuccess;
  ok = ok && cudaHostAlloc(&at, sizeof s->ring->at, cudaHostAllocDefault) == cudaSuccess;
  ok = ok && cudaHostAlloc(&clock, sizeof *s->clock, cudaHostAllocDefault) == cudaSuccess;
  s->ring = ring;
  s->host_at = at;
  s->clock = clock;
  ok = ok && cudaStreamCreateWithFlags(&s->clock_stream, cudaStreamNonBlocking) == cudaSuccess;
  ok = ok && cudaEventCreateWithFlags(&s->copy_done, cudaEventDisableTiming) == cudaSuccess;
  ok = ok && calibrate(s, FIRST_NS);
  for (int i = 0; i < 4 && ok; i++) (void)calibrate(s, s->base_took);
  s->failed = !ok;
  if (s->failed) ti_log_warn("cuda: device %d: no memory or clock for the timeline: its spans are missing", d->index);
  (void)cudaGetLastError();
  return !s->failed;
}

void ti_cuda_spans_drop(ti_dev *d, struct ti_cuda_span_list *l) {
  if (!l) return;
  free(l->v);
  free(l);
}

void ti_cuda_spans_fini(ti_dev *d) {
  struct ti_cuda_spans *s = d->spans;
  if (!s) return;
  ti_cuda_spans_drop(d, s->recording);
  if (s->copy_done) (void)cudaEventDestroy(s->copy_done);
  if (s->clock_stream) (void)cudaStreamDestroy(s->clock_stream);
  if (s->clock) (void)cudaFreeHost(s->clock);
  if (s->host_at) (void)cudaFreeHost(s->host_at);
  if (s->ring) (void)cudaFree(s->ring);
  free(s);
  d->spans = NULL;
}

// ---- writing ----

void ti_cuda_spans_cut(ti_dev *d) {
  if (d->spans) d->spans->fresh = false;
}

// *at: the number of a stamp at this place of the stream, or of the recording.
static ti_status stamp(ti_dev *d, struct ti_cuda_spans *s, uint32_t *at) {
  uint32_t *n = s->recording ? &s->recording->n_stamp : &s->n_stamp;
  if (s->fresh && d->last_op == s->said) {
    *at = *n - 1;
    return TI_OK;
  }
  const ti_status st = ti_cuda_result(d, "span", ti_cuda_stamp(d->stream, s->ring, *n, s->recording != NULL, d->pdl));
  if (st != TI_OK) return st;
  *at = (*n)++;
  if (d->last_op != s->said) snprintf(s->said, sizeof s->said, "%s", d->last_op ? d->last_op : "none");
  d->last_op = s->said;  // the same words at another address
  s->fresh = true;
  return TI_OK;
}

static mark *new_recorded(struct ti_cuda_span_list *l) {
  if (l->n == l->cap) {
    const int cap = l->cap ? 2 * l->cap : 256;
    mark *v = realloc(l->v, (size_t)cap * sizeof *v);
    if (!v) {
      l->lost = true;
      return NULL;
    }
    l->v = v;
    l->cap = cap;
  }
  return &l->v[l->n++];
}

static mark *new_mark(struct ti_cuda_spans *s) {
  if (s->recording) return new_recorded(s->recording);
  return s->head - s->tail < MARKS - MAX_DEPTH ? &s->marks[s->head++ % MARKS] : NULL;  // room for the ends of those that are open
}

ti_status ti_cuda_span_begin(ti_dev *d, const char *name, int layer) {
  struct ti_cuda_spans *s = spans_of(d);
  if (!s) return TI_ERR_NOMEM;
  if (s->depth == MAX_DEPTH) return TI_ERR_FULL;
  if (s->step >= 0 && !arm(d, s)) return TI_ERR_NOMEM;
  (void)nvtxRangePushA(name);
  bool *open = &s->open[s->depth++];
  *open = false;
  mark *m = s->step >= 0 ? new_mark(s) : NULL;
  if (!m) return TI_OK;
  *m = (mark){name, layer, 0, s->step};
  *open = true;
  return stamp(d, s, &m->at);
}

ti_status ti_cuda_span_end(ti_dev *d) {
  struct ti_cuda_spans *s = d->spans;
  if (!s || s->depth == 0) return TI_ERR_ARG;
  (void)nvtxRangePop();
  if (!s->open[--s->depth]) return TI_OK;
  mark *m = s->recording ? new_recorded(s->recording) : &s->marks[s->head++ % MARKS];
  if (!m) return TI_OK;
  *m = (mark){.step = s->step};
  return stamp(d, s, &m->at);
}

void ti_cuda_span_step(ti_dev *d, int64_t step) {
  struct ti_cuda_spans *s = spans_of(d);
  if (!s) return;
  s->step = step;
  if (step >= 0) (void)arm(d, s);  // not in the midst of a recording
}

// ---- recording ----

void ti_cuda_spans_record(ti_dev *d) {
  if (!d->spans) return;  // nobody has asked for spans
  d->spans->recording = calloc(1, sizeof(struct ti_cuda_span_list));
  d->spans->fresh = false;
}

struct ti_cuda_span_list *ti_cuda_spans_recorded(ti_dev *d) {
  if (!d->spans) return NULL;
  struct ti_cuda_span_list *l = d->spans->recording;
  d->spans->recording = NULL;
  d->spans->fresh = false;
  if (!l || l->n > 0) return l;
  ti_cuda_spans_drop(d, l);
  return NULL;
}

ti_status ti_cuda_spans_launch(ti_dev *d, const struct ti_cuda_span_list *l) {
  struct ti_cuda_spans *s = d->spans;
  if (!s) return TI_OK;
  const ti_status st = ti_cuda_result(d, "span", ti_cuda_stamp_base(d->stream, s->ring, s->n_stamp));
  if (st != TI_OK) return st;
  if (!l->lost && MARKS - MAX_DEPTH - (s->head - s->tail) >= (uint32_t)l->n)
    for (int i = 0; i < l->n; i++) s->marks[s->head++ % MARKS] = (mark){l->v[i].name, l->v[i].layer, s->n_stamp + l->v[i].at, s->step};
  s->n_stamp += l->n_stamp;
  return TI_OK;
}

// ---- reading ----

static uint64_t host_ns(const struct ti_cuda_spans *s, uint32_t at) {
  return (uint64_t)(s->base_ns + ((double)s->host_at[at % TI_STAMPS] - s->base_clock));
}

static bool copied(const struct ti_cuda_spans *s, uint32_t at) { return (int32_t)(s->copied - at) > 0; }
static bool overwritten(const struct ti_cuda_spans *s, uint32_t at) { return s->n_stamp - at > TI_STAMPS; }

// Of the ring what is new, behind all that is queued.
static void queue_copy(ti_dev *d, struct ti_cuda_spans *s) {
  uint32_t n = s->n_stamp - s->copied;
  if (n > TI_STAMPS) n = TI_STAMPS;
  for (uint32_t from = s->n_stamp - n; n;) {
    const uint32_t i = from % TI_STAMPS, run = n < TI_STAMPS - i ? n : TI_STAMPS - i;
    if (cudaMemcpyAsync(s->host_at + i, s->ring->at + i, run * sizeof *s->host_at, cudaMemcpyDeviceToHost, d->stream) != cudaSuccess) return;
    from += run;
    n -= run;
  }
  s->copying = s->n_stamp;
  s->in_copy = cudaEventRecord(s->copy_done, d->stream) == cudaSuccess;
}

static bool end_copy(struct ti_cuda_spans *s) {
  if (cudaEventQuery(s->copy_done) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  s->in_copy = false;
  s->copied = s->copying;
  return true;
}

static void fetch(ti_dev *d, struct ti_cuda_spans *s) {
  if (s->in_copy && !end_copy(s)) return;
  const uint32_t n = s->n_stamp - s->copied;
  const bool rests = n && cudaStreamQuery(d->stream) == cudaSuccess;
  (void)cudaGetLastError();
  if (!rests && (n < MANY_STAMPS || (s->step >= 0 && n < TI_STAMPS / 2))) return;  // rather behind steps that are not stamped
  queue_copy(d, s);
  if (rests && s->in_copy && ti_cuda_wait_event(d, s->copy_done, "span") == TI_OK) (void)end_copy(s);
}

int ti_cuda_spans(ti_dev *d, ti_dev_span *out, int cap) {
  struct ti_cuda_spans *s = d->spans;
  if (!s) return 0;
  s->fresh = false;  // the host has looked: what comes next may come late
  if (s->tail == s->head && !s->in_copy) return 0;
  ti_cuda_use(d);
  if (s->in_copy || !copied(s, s->marks[(s->head - 1) % MARKS].at)) fetch(d, s);
  int n = 0;
  for (; s->tail != s->head && n < cap; s->tail++) {
    const mark *m = &s->marks[s->tail % MARKS];
    if (!copied(s, m->at)) break;
    if (m->name) {
      if (s->n_begun < MAX_DEPTH) s->begun[s->n_begun++] = *m;
      continue;
    }
    const mark *b = &s->begun[--s->n_begun];
    if (!overwritten(s, b->at)) out[n++] = (ti_dev_span){b->name, b->layer, host_ns(s, b->at), host_ns(s, m->at), b->step};
  }
  if ((double)ti_mono_ns() - s->base_ns > REBASE_NS) (void)calibrate(s, CLOSE_NS);
  return n;
}
