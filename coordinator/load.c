// Expert load (see load.h).
#include "coordinator/load.h"

#include <stdio.h>
#include <stdlib.h>

ti_status ti_load_init(ti_load *l, ti_metrics *m, uint32_t n_layer, uint32_t n_expert, ti_error *err) {
  *l = (ti_load){0};
  if (!m || !n_layer || !n_expert) return TI_OK;
  l->n_layer = n_layer;
  l->n_expert = n_expert;
  l->window = calloc((size_t)n_layer * n_expert, sizeof *l->window);
  l->ratio = calloc(n_layer, sizeof(ti_metric *));
  l->rows = calloc(n_expert, sizeof(ti_metric *));
  ti_status st = l->window && l->ratio && l->rows ? TI_OK : TI_ERR_NOMEM;
  char label[32];
  for (uint32_t i = 0; !st && i < n_layer; i++) {
    snprintf(label, sizeof label, "layer=\"%u\"", i);
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load_ratio", label, "Rows of a MoE layer's busiest expert over the mean.", &l->ratio[i]);
  }
  for (uint32_t i = 0; !st && i < n_expert; i++) {
    snprintf(label, sizeof label, "expert=\"%u\"", i);
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_expert_rows_total", label, "Rows computed by an expert, over all MoE layers.", &l->rows[i]);
  }
  return st ? ti_error_set(err, st, "metrics: cannot register %u MoE layers of %u experts", n_layer, n_expert) : TI_OK;
}

void ti_load_fini(ti_load *l) {
  free(l->window);
  free(l->ratio);
  free(l->rows);
  *l = (ti_load){0};
}

ti_status ti_load_add(ti_load *l, const ti_mesh *mesh, int worker, ti_u32s load, ti_error *err) {
  if (!l->window || load.n == 0 || ti_mesh_etp_of(mesh, worker) != 0) return TI_OK;
  long begin, end;
  ti_split(l->n_expert, mesh->ep, ti_mesh_ep_of(mesh, worker), &begin, &end);
  const uint32_t mine = (uint32_t)(end - begin);
  if (load.n != (uint64_t)l->n_layer * mine)
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.expert_load: %u entries, expected %u layers x %u experts", load.n, l->n_layer, mine);
  for (uint32_t i = 0; i < l->n_layer; i++) {
    uint64_t *to = l->window + (size_t)i * l->n_expert + begin;
    for (uint32_t e = 0; e < mine; e++) to[e] += load.v[i * mine + e];
  }
  return TI_OK;
}

void ti_load_publish(ti_load *l) {
  for (uint32_t i = 0; i < l->n_layer; i++) {
    uint64_t *row = l->window + (size_t)i * l->n_expert, sum = 0, most = 0;
    for (uint32_t e = 0; e < l->n_expert; e++) {
      if (!row[e]) continue;
      sum += row[e];
      if (row[e] > most) most = row[e];
      ti_metric_add(l->rows[e], (double)row[e]);
      row[e] = 0;
    }
    if (sum) ti_metric_set(l->ratio[i], (double)most * l->n_expert / (double)sum);
  }
}
