// A cluster's state as `titan status` and `titan top` show it: one picture from either door, and Prometheus' text taken apart.
#ifndef TI_CLIENT_TOOL_CLUSTER_H
#define TI_CLIENT_TOOL_CLUSTER_H
#include <stdbool.h>
#include <stdint.h>

#include "client/tool/tool.h"

#define TI_CLUSTER_RANKS 1024

typedef struct ti_cluster_rank {
  uint32_t rank, age_ms, step_us, in_step_us;
  bool healthy;
  uint64_t step;
  char device[64], host[64], doing[64];
} ti_cluster_rank;

typedef struct ti_cluster {
  char model[256], state[32], message[256];
  bool healthy;
  uint32_t running, waiting, pages_used, pages, n_rank;
  uint64_t steps, tokens;
  ti_cluster_rank *rank;  // [n_rank]
  ti_buf metrics;         // Prometheus' text; empty when not asked for or not there
} ti_cluster;

// metrics: also the metrics. An unhealthy server (503) is a picture, no error. Fini *out in any case.
ti_status ti_cluster_fetch(const ti_server *s, bool metrics, ti_cluster *out, ti_error *err) TI_MUST_CHECK;
void ti_cluster_fini(ti_cluster *c);  // safe on a zeroed one

// A table for people.
void ti_cluster_print(const ti_cluster *c, FILE *to);

// One sample of Prometheus' text: name{labels} value. *at moves on; false: the end. Lines that are no samples are skipped.
typedef struct ti_prom_sample {
  const char *name, *labels;  // not terminated
  size_t n_name, n_labels;
  double value;
} ti_prom_sample;
bool ti_prom_next(const char **at, ti_prom_sample *out);
bool ti_prom_is(const ti_prom_sample *s, const char *name);
// The integer under a label: expert="5". -1: none.
long ti_prom_label(const ti_prom_sample *s, const char *label);
// The sum over all samples of that name; NAN when there is none.
double ti_prom_sum(const char *text, const char *name);

#endif
