// Expert load (see load.h).
#include "coordinator/load.h"

#include <stdio.h>
#include <stdlib.h>

#define KEEP 0.9  // of titan_expert_load, a window: ten windows count, older ones ever less

static ti_status add_layer(ti_metrics *m, uint32_t i, ti_load_layer *out) {
  char label[32];
  snprintf(label, sizeof label, "layer=\"%u\"", i);
  ti_status st =
      ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load_ratio", label, "Rows of a MoE layer's busiest expert over the mean.", &out->ratio);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load_squared_deviation", label,
                        "Sum over a MoE layer's n experts of (share of rows - 1 / n)^2.", &out->squared);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load_switch_loss", label,
                        "n times the sum of the squared shares of a MoE layer's n experts.", &out->switch_loss);
  if (!st)
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_rank_load_ratio", label,
                        "Rows of a MoE layer's busiest expert-parallel rank over the mean.", &out->rank_ratio);
  return st;
}

ti_status ti_load_init(ti_load *l, ti_metrics *m, uint32_t n_layer, uint32_t n_expert, int ep, ti_error *err) {
  *l = (ti_load){0};
  if (!m || !n_layer || !n_expert) return TI_OK;
  l->n_layer = n_layer;
  l->n_expert = n_expert;
  l->ep = ep;
  l->window = calloc((size_t)n_layer * n_expert, sizeof *l->window);
  l->ranks = calloc((size_t)n_layer * (size_t)ep, sizeof *l->ranks);
  l->layer = calloc(n_layer, sizeof *l->layer);
  l->rows = calloc(n_expert, sizeof(ti_metric *));
  l->load = calloc((size_t)n_layer * n_expert, sizeof(ti_metric *));
  ti_status st = l->window && l->ranks && l->layer && l->rows && l->load ? TI_OK : TI_ERR_NOMEM;
  for (uint32_t i = 0; !st && i < n_layer; i++) st = add_layer(m, i, &l->layer[i]);
  for (uint32_t i = 0; !st && i < n_layer * n_expert; i++) {
    char label[64];
    snprintf(label, sizeof label, "layer=\"%u\",expert=\"%u\"", i / n_expert, i % n_expert);
    st = ti_metrics_add(m, TI_METRIC_GAUGE, "titan_expert_load", label, "Rows computed by an expert of a MoE layer, the last ten windows with work.",
                        &l->load[i]);
  }
  for (uint32_t i = 0; !st && i < n_expert; i++) {
    char label[32];
    snprintf(label, sizeof label, "expert=\"%u\"", i);
    st = ti_metrics_add(m, TI_METRIC_COUNTER, "titan_expert_rows_total", label, "Rows computed by an expert, over all MoE layers.", &l->rows[i]);
  }
  return st ? ti_error_set(err, st, "metrics: cannot register %u MoE layers of %u experts", n_layer, n_expert) : TI_OK;
}

void ti_load_fini(ti_load *l) {
  free(l->window);
  free(l->ranks);
  free(l->layer);
  free(l->rows);
  free(l->load);
  *l = (ti_load){0};
}

ti_status ti_load_add(ti_load *l, const ti_mesh *mesh, int worker, ti_placement *const *placement, ti_u32s load, ti_error *err) {
  if (!l->window || load.n == 0 || ti_mesh_etp_of(mesh, worker) != 0) return TI_OK;
  const int group = ti_mesh_ep_of(mesh, worker);
  long begin, end;
  ti_split(placement[0]->n_slot, mesh->ep, group, &begin, &end);
  const uint32_t mine = (uint32_t)(end - begin);
  if (load.n != (uint64_t)l->n_layer * mine)
    return ti_error_set(err, TI_ERR_FORMAT, "StepResult.expert_load: %u entries, expected %u layers x %u experts", load.n, l->n_layer, mine);
  for (uint32_t i = 0; i < l->n_layer; i++) {
    uint64_t *to = l->window + (size_t)i * l->n_expert;
    for (uint32_t s = 0; s < mine; s++) {
      to[placement[i]->slot_expert[begin + s]] += load.v[i * mine + s];
      l->ranks[(size_t)i * (size_t)l->ep + (size_t)group] += load.v[i * mine + s];
    }
  }
  return TI_OK;
}

static void publish_layer(ti_load *l, uint32_t i) {
  uint64_t *row = l->window + (size_t)i * l->n_expert, *rank = l->ranks + (size_t)i * (size_t)l->ep, sum = 0, most = 0, busiest = 0;
  double squares = 0;
  for (uint32_t e = 0; e < l->n_expert; e++) sum += row[e];
  if (!sum) return;  // what the last window with rows said stays
  for (uint32_t e = 0; e < l->n_expert; e++) {
    ti_metric *load = l->load[(size_t)i * l->n_expert + e];
    ti_metric_set(load, KEEP * ti_metric_get(load) + (double)row[e]);
    if (!row[e]) continue;
    squares += (double)row[e] * (double)row[e];
    if (row[e] > most) most = row[e];
    ti_metric_add(l->rows[e], (double)row[e]);
    row[e] = 0;
  }
  for (int g = 0; g < l->ep; g++) {
    if (rank[g] > busiest) busiest = rank[g];
    rank[g] = 0;
  }
  const double n = l->n_expert, total = (double)sum, shares = squares / total / total;
  ti_metric_set(l->layer[i].ratio, (double)most * n / total);
  ti_metric_set(l->layer[i].squared, shares - 1 / n < 0 ? 0 : shares - 1 / n);  // sum (s - 1/n)^2 = sum s^2 - 1/n
  ti_metric_set(l->layer[i].switch_loss, n * shares);
  ti_metric_set(l->layer[i].rank_ratio, (double)busiest * l->ep / total);
}

void ti_load_publish(ti_load *l) {
  for (uint32_t i = 0; i < l->n_layer; i++) publish_layer(l, i);
}
