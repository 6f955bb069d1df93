// The timeline (see trace.h).
//
//   any thread -> ring of RING_EVENTS fixed events -> flusher thread, every FLUSH_MS -> FILE.rankN, a JSON object a line
//
// The ring is Vyukov's bounded queue (1024cores.net, "Bounded MPMC queue") with one consumer: a cell's `turn` says whose it is. For position p in a
// ring of N: turn = p: free for the producer that takes p; p + 1: filled, the consumer's; p + N: free again, one lap later. A producer that
// finds its cell not yet free drops the event and counts it: recording never waits. Names are static strings, so an event is all there is to copy.
// The file belongs to file_lock: the flusher's, and for a moment ti_trace_track's.
#include "base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"

enum { RING_EVENTS = 1 << 15, FLUSH_MS = 10, LINE_BYTES = 4096, PATH_BYTES = 4096 };

typedef struct event {
  const char *name, *cat;  // cat NULL: a counter
  uint64_t t0_ns, t1_ns;
  union {
    int64_t step;
    double value;  // counter
  };
  int32_t tid, layer;
  struct {  // category "cost"
    double bytes, flops, limit_us;
  } cost;
} event;

typedef struct cell {
  _Atomic uint64_t turn;
  event e;
} cell;

struct ti_trace {
  _Alignas(64) _Atomic uint64_t head;  // next position to fill
  _Alignas(64) uint64_t tail;          // next position to empty; the flusher's
  _Atomic uint64_t dropped;
  _Atomic int64_t offset_us;
  int rank;
  pthread_t flusher;
  pthread_mutex_t stop_lock;
  pthread_cond_t stop_cond;
  bool stop;
  pthread_mutex_t file_lock;
  FILE *file;
  ti_buf line;
  cell ring[RING_EVENTS];
};

static void record(ti_trace *t, const event *e) {
  uint64_t p = atomic_load_explicit(&t->head, memory_order_relaxed);
  for (;;) {
    cell *c = &t->ring[p % RING_EVENTS];
    const int64_t late = (int64_t)(atomic_load_explicit(&c->turn, memory_order_acquire) - p);
    if (late < 0) {  // the event of the lap before is still in it
      atomic_fetch_add_explicit(&t->dropped, 1, memory_order_relaxed);
      return;
    }
    if (late > 0) {  // another producer has taken p
      p = atomic_load_explicit(&t->head, memory_order_relaxed);
    } else if (atomic_compare_exchange_weak_explicit(&t->head, &p, p + 1, memory_order_relaxed, memory_order_relaxed)) {
      c->e = *e;
      atomic_store_explicit(&c->turn, p + 1, memory_order_release);
      return;
    }
  }
}

void ti_trace_span(ti_trace *t, int tid, const char *name, const char *cat, uint64_t t0_ns, uint64_t t1_ns, int64_t step, int layer) {
  if (!t) return;
  const event e = {.name = name, .cat = cat ? cat : "", .t0_ns = t0_ns, .t1_ns = t1_ns, .step = step, .tid = tid, .layer = layer};
  record(t, &e);
}

static const char cost_cat[] = "cost";  // its address marks the event

void ti_trace_costs(ti_trace *t, int tid, uint64_t t_ns, const ti_trace_cost *c) {
  if (!t || !isfinite(c->bytes) || !isfinite(c->flops) || !isfinite(c->limit_us)) return;
  const event e = {.name = c->name,
                   .cat = cost_cat,
                   .t0_ns = t_ns,
                   .t1_ns = t_ns,
                   .step = c->step,
                   .tid = tid,
                   .layer = c->rows,
                   .cost = {c->bytes, c->flops, c->limit_us}};
  record(t, &e);
}

void ti_trace_count(ti_trace *t, const char *name, uint64_t t_ns, double value) {
  if (!t || !isfinite(value)) return;  // JSON has no other numbers
  const event e = {.name = name, .t0_ns = t_ns, .value = value};
  record(t, &e);
}

void ti_trace_set_offset(ti_trace *t, int64_t us) {
  if (t) atomic_store_explicit(&t->offset_us, us, memory_order_relaxed);
}

// Nanoseconds as microseconds with three decimals, not below 0.
static void put_us(ti_buf *b, const char *key, int64_t ns) {
  if (ns < 0) ns = 0;
  ti_buf_printf(b, "\"%s\":%" PRId64 ".%03d,", key, ns / 1000, (int)(ns % 1000));
}

static void format_event(ti_trace *t, const event *e) {
  ti_buf *b = &t->line;
  const int64_t offset_ns = atomic_load_explicit(&t->offset_us, memory_order_relaxed) * 1000;
  ti_buf_puts(b, "{\"name\":");
  ti_buf_json_string(b, e->name, strlen(e->name));
  ti_buf_printf(b, ",\"pid\":%d,\"tid\":%d,", t->rank, e->tid);
  put_us(b, "ts", (int64_t)e->t0_ns + offset_ns);
  if (!e->cat) {
    ti_buf_printf(b, "\"ph\":\"C\",\"args\":{\"value\":%.17g}}\n", e->value);
    return;
  }
  ti_buf_puts(b, "\"cat\":");
  ti_buf_json_string(b, e->cat, strlen(e->cat));
  ti_buf_putc(b, ',');
  if (e->t1_ns == e->t0_ns) {
    ti_buf_puts(b, "\"ph\":\"i\",\"s\":\"t\",");
  } else {
    put_us(b, "dur", (int64_t)(e->t1_ns - e->t0_ns));
    ti_buf_puts(b, "\"ph\":\"X\",");
  }
  ti_buf_puts(b, "\"args\":{");
  if (e->cat == cost_cat) {
    ti_buf_printf(b, "\"step\":%" PRId64 ",\"rows\":%d,\"bytes\":%.17g,\"flops\":%.17g,\"limit_us\":%.17g}}\n", e->step, e->layer, e->cost.bytes,
                  e->cost.flops, e->cost.limit_us);
    return;
  }
  if (e->step >= 0) ti_buf_printf(b, "\"step\":%" PRId64 "%s", e->step, e->layer >= 0 ? "," : "");
  if (e->layer >= 0) ti_buf_printf(b, "\"layer\":%d", e->layer);
  ti_buf_puts(b, "}}\n");
}

// Writes and resets the line. A failure is told once; the events after it are lost.
static void write_line(ti_trace *t) {
  if (!t->line.failed && t->file && fwrite(t->line.data, 1, t->line.len, t->file) != t->line.len) {
    ti_log_error("trace: cannot write, tracing ends rank=%d error=%s", t->rank, strerror(errno));
    fclose(t->file);
    t->file = NULL;
  }
  ti_buf_reset(&t->line);
}

static void write_metadata(ti_trace *t, const char *what, int tid, const char *name) {
  ti_buf_printf(&t->line, "{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":", what, t->rank, tid);
  ti_buf_json_string(&t->line, name, strlen(name));
  ti_buf_puts(&t->line, "}}\n");
  write_line(t);
}

void ti_trace_track(ti_trace *t, int tid, const char *name) {
  if (!t) return;
  pthread_mutex_lock(&t->file_lock);
  write_metadata(t, "thread_name", tid, name);
  pthread_mutex_unlock(&t->file_lock);
}

static void flush(ti_trace *t) {
  const uint64_t before = t->tail;
  pthread_mutex_lock(&t->file_lock);
  for (;;) {
    cell *c = &t->ring[t->tail % RING_EVENTS];
    if (atomic_load_explicit(&c->turn, memory_order_acquire) != t->tail + 1) break;
    format_event(t, &c->e);
    atomic_store_explicit(&c->turn, t->tail + RING_EVENTS, memory_order_release);
    t->tail++;
    write_line(t);
  }
  if (t->file && t->tail != before) fflush(t->file);  // a rank that is killed leaves what it has seen
  pthread_mutex_unlock(&t->file_lock);
}

static void *flusher_main(void *arg) {
  ti_trace *t = arg;
  pthread_mutex_lock(&t->stop_lock);
  while (!t->stop) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += FLUSH_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
      until.tv_nsec -= 1000000000;
      until.tv_sec++;
    }
    pthread_cond_timedwait(&t->stop_cond, &t->stop_lock, &until);
    pthread_mutex_unlock(&t->stop_lock);
    flush(t);
    pthread_mutex_lock(&t->stop_lock);
  }
  pthread_mutex_unlock(&t->stop_lock);
  return NULL;
}

static bool part_path(char out[PATH_BYTES], const char *file, int rank) {
  const int n = snprintf(out, PATH_BYTES, "%s.rank%d", file, rank);
  return n > 0 && n < PATH_BYTES;
}

ti_status ti_trace_create(const char *file, int rank, ti_trace **out) {
  char path[PATH_BYTES];
  if (!part_path(path, file, rank)) return TI_ERR_ARG;
  ti_trace *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);
  if (!t) return TI_ERR_NOMEM;
  memset(t, 0, sizeof(*t));
  t->rank = rank;
  ti_buf_init(&t->line, LINE_BYTES);
  for (uint64_t i = 0; i < RING_EVENTS; i++) atomic_init(&t->ring[i].turn, i);
  t->file = fopen(path, "we");
  if (!t->file) goto err_free;
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&t->stop_cond, &attr);
  pthread_condattr_destroy(&attr);
  pthread_mutex_init(&t->stop_lock, NULL);
  pthread_mutex_init(&t->file_lock, NULL);
  char name[32];
  snprintf(name, sizeof(name), "rank %d", rank);
  write_metadata(t, "process_name", 0, name);
  if (pthread_create(&t->flusher, NULL, flusher_main, t) != 0) goto err_close;
  pthread_setname_np(t->flusher, "titan-trace");
  *out = t;
  return TI_OK;
err_close:
  if (t->file) fclose(t->file);
  unlink(path);
  pthread_mutex_destroy(&t->file_lock);
  pthread_mutex_destroy(&t->stop_lock);
  pthread_cond_destroy(&t->stop_cond);
err_free:
  ti_buf_fini(&t->line);
  free(t);
  return TI_ERR_IO;
}

void ti_trace_destroy(ti_trace *t) {
  if (!t) return;
  pthread_mutex_lock(&t->stop_lock);
  t->stop = true;
  pthread_cond_signal(&t->stop_cond);
  pthread_mutex_unlock(&t->stop_lock);
  pthread_join(t->flusher, NULL);
  flush(t);
  const uint64_t dropped = atomic_load(&t->dropped);
  if (dropped) ti_log_warn("trace: the ring was full, events are missing rank=%d dropped=%" PRIu64, t->rank, dropped);
  if (t->file && fclose(t->file) != 0) ti_log_error("trace: cannot write rank=%d error=%s", t->rank, strerror(errno));
  pthread_mutex_destroy(&t->file_lock);
  pthread_mutex_destroy(&t->stop_lock);
  pthread_cond_destroy(&t->stop_cond);
  ti_buf_fini(&t->line);
  free(t);
}

// Appends the whole lines of one part; a rank that died may have left half a line at the end.
static void append_part(FILE *in, FILE *out, bool *first) {
  char line[LINE_BYTES + 2];
  while (fgets(line, sizeof(line), in)) {
    const size_t n = strlen(line);
    if (n < 3 || line[0] != '{' || strcmp(line + n - 2, "}\n") != 0) continue;
    fprintf(out, "%s%.*s", *first ? "" : ",\n", (int)(n - 1), line);
    *first = false;
  }
}

ti_status ti_trace_join(const char *file, int n_ranks, ti_error *err) {
  char path[PATH_BYTES];
  FILE *out = fopen(file, "we");
  if (!out) return ti_error_set(err, TI_ERR_IO, "%s: %s", file, strerror(errno));
  fputs("[\n", out);
  bool first = true;
  for (int r = 0; r < n_ranks; r++) {
    FILE *in = part_path(path, file, r) ? fopen(path, "re") : NULL;
    if (!in) continue;
    append_part(in, out, &first);
    fclose(in);
  }
  fputs("\n]\n", out);
  const bool failed = ferror(out) != 0;
  if (fclose(out) != 0 || failed)
    return ti_error_set(err, TI_ERR_IO, "%s: cannot write the joined trace: %s; its parts are kept", file, strerror(errno));
  for (int r = 0; r < n_ranks; r++)
    if (part_path(path, file, r)) unlink(path);
  return TI_OK;
}
