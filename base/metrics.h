// Metrics in Prometheus' text format. Registered at start, updated by atomics from any thread, rendered by any thread.
#ifndef TI_BASE_METRICS_H
#define TI_BASE_METRICS_H
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct ti_metrics ti_metrics;  // a registry
typedef struct ti_metric ti_metric;    // one time series (a name with one set of labels), owned by its registry
typedef enum ti_metric_kind { TI_METRIC_COUNTER, TI_METRIC_GAUGE } ti_metric_kind;

ti_status ti_metrics_create(ti_metrics **out) TI_MUST_CHECK;
void ti_metrics_destroy(ti_metrics *m);
// name e.g. "vllm:num_requests_running"; labels e.g. "rank=\"1\"" or NULL; help is a static string. The same name and labels give the same
// metric back (TI_OK); another kind (or other bounds) under a known name is TI_ERR_EXISTS. A name that Prometheus would refuse is TI_ERR_ARG.
ti_status ti_metrics_add(ti_metrics *m, ti_metric_kind kind, const char *name, const char *labels, const char *help, ti_metric **out) TI_MUST_CHECK;
// Upper bounds in ascending order, +Inf is added; bounds are copied (at most 40).
ti_status ti_metrics_add_histogram(ti_metrics *m, const char *name, const char *labels, const char *help, const double *bounds, int n_bounds,
                                   ti_metric **out) TI_MUST_CHECK;
void ti_metric_add(ti_metric *x, double v);      // counter, gauge
void ti_metric_set(ti_metric *x, double v);      // gauge (and a counter that mirrors another counter)
double ti_metric_get(const ti_metric *x);
void ti_metric_observe(ti_metric *x, double v);  // histogram; a NaN is dropped
ti_status ti_metrics_render(ti_metrics *m, ti_buf *out) TI_MUST_CHECK;  // series of one name stand together under one # HELP / # TYPE

#endif
