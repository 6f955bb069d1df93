// Metrics in Prometheus' text format, version 0.0.4 (see metrics.h).
//
//   registry -> family (name, kind, help) -> series (labels, atomics)
//
// The mutex guards the two lists, which grow at registration and are walked by render; an update touches the atomics of its series alone. A scrape
// is no snapshot across series, but a histogram's _count is the sum of the very buckets that are printed.
#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BOUNDS = 40, KIND_HISTOGRAM = TI_METRIC_GAUGE + 1 };

struct ti_metric {
  ti_metric *next;
  char *labels;                              // "" for none
  _Atomic double value;                      // a histogram's sum
  int n_bounds;                              // histogram only
  double bounds[MAX_BOUNDS];                 // ascending
  _Atomic uint64_t buckets[MAX_BOUNDS + 1];  // not cumulative; the last is +Inf
};

typedef struct family {
  struct family *next;
  char *name, *help;
  int kind;
  ti_metric *first, **last;
} family;

struct ti_metrics {
  pthread_mutex_t lock;
  family *first, **last;
};

ti_status ti_metrics_create(ti_metrics **out) {
  ti_metrics *m = calloc(1, sizeof(*m));
  if (!m) return TI_ERR_NOMEM;
  pthread_mutex_init(&m->lock, NULL);
  m->last = &m->first;
  *out = m;
  return TI_OK;
}

static void family_free(family *f) {
  for (ti_metric *x = f->first, *next; x; x = next) {
    next = x->next;
    free(x->labels);
    free(x);
  }
  free(f->name);
  free(f->help);
  free(f);
}

void ti_metrics_destroy(ti_metrics *m) {
  if (!m) return;
  for (family *f = m->first, *next; f; f = next) {
    next = f->next;
    family_free(f);
  }
  pthread_mutex_destroy(&m->lock);
  free(m);
}

static bool name_valid(const char *s) {
  for (const char *p = s; *p; p++) {
    const bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_' || *p == ':';
    if (!letter && (p == s || *p < '0' || *p > '9')) return false;
  }
  return *s != 0;
}

static ti_status family_get(ti_metrics *m, int kind, const char *name, const char *help, family **out) {
  for (family *f = m->first; f; f = f->next) {
    if (strcmp(f->name, name) != 0) continue;
    if (f->kind != kind) return TI_ERR_EXISTS;
    *out = f;
    return TI_OK;
  }
  family *f = calloc(1, sizeof(*f));
  if (!f) return TI_ERR_NOMEM;
  f->kind = kind;
  f->last = &f->first;
  f->name = strdup(name);
  f->help = strdup(help);
  if (!f->name || !f->help) {
    family_free(f);
    return TI_ERR_NOMEM;
  }
  *m->last = f;
  m->last = &f->next;
  *out = f;
  return TI_OK;
}

static ti_status series_get(family *f, const char *labels, const double *bounds, int n_bounds, ti_metric **out) {
  for (ti_metric *x = f->first; x; x = x->next) {
    if (strcmp(x->labels, labels) != 0) continue;
    if (x->n_bounds != n_bounds) return TI_ERR_EXISTS;
    for (int i = 0; i < n_bounds; i++)
      if (x->bounds[i] != bounds[i]) return TI_ERR_EXISTS;
    *out = x;
    return TI_OK;
  }
  ti_metric *x = calloc(1, sizeof(*x));
  if (!x) return TI_ERR_NOMEM;
  x->labels = strdup(labels);
  if (!x->labels) {
    free(x);
    return TI_ERR_NOMEM;
  }
  x->n_bounds = n_bounds;
  for (int i = 0; i < n_bounds; i++) x->bounds[i] = bounds[i];
  *f->last = x;
  f->last = &x->next;
  *out = x;
  return TI_OK;
}

static ti_status add(ti_metrics *m, int kind, const char *name, const char *labels, const char *help, const double *bounds, int n_bounds,
                     ti_metric **out) {
  if (!name_valid(name)) return TI_ERR_ARG;
  pthread_mutex_lock(&m->lock);
  family *f = NULL;
  ti_status st = family_get(m, kind, name, help, &f);
  if (st == TI_OK) st = series_get(f, labels ? labels : "", bounds, n_bounds, out);
  pthread_mutex_unlock(&m->lock);
  return st;
}

ti_status ti_metrics_add(ti_metrics *m, ti_metric_kind kind, const char *name, const char *labels, const char *help, ti_metric **out) {
  return add(m, (int)kind, name, labels, help, NULL, 0, out);
}

ti_status ti_metrics_add_histogram(ti_metrics *m, const char *name, const char *labels, const char *help, const double *bounds, int n_bounds,
                                   ti_metric **out) {
  if (n_bounds < 1 || n_bounds > MAX_BOUNDS) return TI_ERR_ARG;
  for (int i = 0; i < n_bounds; i++)
    if (!isfinite(bounds[i]) || (i && bounds[i] <= bounds[i - 1])) return TI_ERR_ARG;
  return add(m, KIND_HISTOGRAM, name, labels, help, bounds, n_bounds, out);
}

void ti_metric_add(ti_metric *x, double v) {
  double old = atomic_load_explicit(&x->value, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&x->value, &old, old + v, memory_order_relaxed, memory_order_relaxed)) {}
}
void ti_metric_set(ti_metric *x, double v) { atomic_store_explicit(&x->value, v, memory_order_relaxed); }
double ti_metric_get(const ti_metric *x) { return atomic_load_explicit(&x->value, memory_order_relaxed); }

void ti_metric_observe(ti_metric *x, double v) {
  if (isnan(v)) return;
  int i = 0;
  while (i < x->n_bounds && v > x->bounds[i]) i++;
  atomic_fetch_add_explicit(&x->buckets[i], 1, memory_order_relaxed);
  ti_metric_add(x, v);
}

// The shortest of the two forms that reads back as v.
static void put_number(ti_buf *out, double v) {
  if (isnan(v)) {
    ti_buf_puts(out, "NaN");
  } else if (isinf(v)) {
    ti_buf_puts(out, v > 0 ? "+Inf" : "-Inf");
  } else {
    char text[32];
    snprintf(text, sizeof(text), "%.15g", v);
    if (strtod(text, NULL) != v) snprintf(text, sizeof(text), "%.17g", v);
    ti_buf_puts(out, text);
  }
}

static void put_sample(ti_buf *out, const char *name, const char *suffix, const char *labels, double v) {
  ti_buf_printf(out, *labels ? "%s%s{%s} " : "%s%s%s ", name, suffix, labels);
  put_number(out, v);
  ti_buf_putc(out, '\n');
}

static void put_histogram(ti_buf *out, const char *name, const ti_metric *x) {
  uint64_t count = 0;
  for (int i = 0; i <= x->n_bounds; i++) {
    count += atomic_load_explicit(&x->buckets[i], memory_order_relaxed);
    ti_buf_printf(out, "%s_bucket{%s%sle=\"", name, x->labels, *x->labels ? "," : "");
    put_number(out, i < x->n_bounds ? x->bounds[i] : INFINITY);
    ti_buf_printf(out, "\"} %llu\n", (unsigned long long)count);
  }
  put_sample(out, name, "_sum", x->labels, ti_metric_get(x));
  put_sample(out, name, "_count", x->labels, (double)count);
}

static void put_family(ti_buf *out, const family *f) {
  static const char *const kinds[] = {[TI_METRIC_COUNTER] = "counter", [TI_METRIC_GAUGE] = "gauge", [KIND_HISTOGRAM] = "histogram"};
  ti_buf_printf(out, "# HELP %s ", f->name);
  for (const char *p = f->help; *p; p++) {
    if (*p == '\\')
      ti_buf_puts(out, "\\\\");
    else if (*p == '\n')
      ti_buf_puts(out, "\\n");
    else
      ti_buf_putc(out, *p);
  }
  ti_buf_printf(out, "\n# TYPE %s %s\n", f->name, kinds[f->kind]);
  for (const ti_metric *x = f->first; x; x = x->next) {
    if (f->kind == KIND_HISTOGRAM)
      put_histogram(out, f->name, x);
    else
      put_sample(out, f->name, "", x->labels, ti_metric_get(x));
  }
}

ti_status ti_metrics_render(ti_metrics *m, ti_buf *out) {
  pthread_mutex_lock(&m->lock);
  for (const family *f = m->first; f; f = f->next) put_family(out, f);
  pthread_mutex_unlock(&m->lock);
  return out->failed ? TI_ERR_FULL : TI_OK;
}
