// Recorded decode steps: the forward of a fixed batch (worker/batch.h), recorded once a bucket and launched as one from then on, so that the host's
// share of a step is a copy and a launch whatever the number of layers.
//
//   bucket (rows, kv length) -> recorded ops, embedding to last norm       the batch's image lies at the same addresses for the same bucket, and what
//                                                                          changes from step to step is data in it
//
// Host time of a step of 22 layers on an H200's host (engine_bench, TinyLlama's shape): 38 to 165 us recorded, 810 to 850 us op by op.
//
// With --trace a bucket has a second recording, with stamps between the ops, for the steps whose time is taken.
//
// At most RECORDS are kept; the one that has not run for longest makes room. A backend that cannot record, once, is not asked again.
#include <stdlib.h>

#include "base/log.h"
#include "worker/graph/graph.h"

enum { RECORDS = 96 };

typedef struct record {
  int rows, kv;
  bool stamped;
  uint64_t used;
  ti_dev_graph *ops;
} record;

struct ti_recorded {
  record v[RECORDS];
  int n;
  uint64_t clock;
  bool failed;
};

// One micro-batch of a dense model on one rank: no host between the ops.
ti_status ti_graph_record_init(ti_graph *g, ti_error *err) {
  const ti_engine_config *cfg = g->cfg;
  if (!g->k->graph_begin || cfg->eager || cfg->tap || g->c->moe.n_expert || cfg->mtp || g->tp->size > 1) return TI_OK;
  g->recorded = calloc(1, sizeof *g->recorded);
  return g->recorded ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "no memory for recorded steps");
}

void ti_graph_record_fini(ti_graph *g) {
  for (int i = 0; g->recorded && i < g->recorded->n; i++) g->k->graph_free(g->d, g->recorded->v[i].ops);
  free(g->recorded);
  g->recorded = NULL;
}

static record *find(ti_recorded *r, int rows, int kv, bool stamped) {
  for (int i = 0; i < r->n; i++)
    if (r->v[i].rows == rows && r->v[i].kv == kv && r->v[i].stamped == stamped) return &r->v[i];
  return NULL;
}

static record *room(ti_graph *g) {
  ti_recorded *r = g->recorded;
  if (r->n < RECORDS) return &r->v[r->n++];
  record *oldest = &r->v[0];
  for (int i = 1; i < r->n; i++)
    if (r->v[i].used < oldest->used) oldest = &r->v[i];
  g->k->graph_free(g->d, oldest->ops);
  return oldest;
}

static ti_status record_ops(ti_graph *g, ti_dev_graph **out, ti_error *err) {
  ti_status st = g->k->graph_begin(g->d);
  if (st) return ti_error_set(err, st, "recording cannot begin: %s", ti_status_text(st));
  st = ti_graph_layers(g, 1);
  ti_dev_graph *ops = NULL;
  const ti_status end = g->k->graph_end(g->d, &ops, err);
  if (st && !end) g->k->graph_free(g->d, ops);
  if (st) return ti_error_set(err, st, "layer %d: %s", g->layer, ti_status_text(st));
  if (!end) *out = ops;
  return end;
}

ti_status ti_graph_record_run(ti_graph *g, ti_error *err) {
  ti_recorded *r = g->recorded;
  const ti_batch *b = &g->lane[0].batch.batch;
  if (r->failed) return TI_AGAIN;
  record *e = find(r, b->n_row, b->max_kv_len, g->stamped);
  if (!e) {
    ti_error why = {0};
    ti_dev_graph *ops = NULL;
    if (record_ops(g, &ops, &why)) {
      ti_log_warn("worker: decode steps are not recorded, each op is launched by itself: %s", why.text);
      r->failed = true;
      return TI_AGAIN;
    }
    e = room(g);
    *e = (record){.rows = b->n_row, .kv = b->max_kv_len, .stamped = g->stamped, .ops = ops};
  }
  e->used = ++r->clock;
  g->lane[0].pending = false;
  ti_graph_doing(g, "recorded layers");
  const ti_status st = g->k->graph_launch(g->d, e->ops);
  return st ? ti_error_set(err, st, "recorded layers of %d rows: %s", b->n_row, ti_status_text(st)) : TI_OK;
}
