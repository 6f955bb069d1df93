// Checks the four parallel sizes against the number of workers (see mesh.h). Pure arithmetic; the texts name the flags as the user types them.
#include "base/mesh.h"

#include <stdio.h>

// "1, 2 or 4": the divisors of w.
static void list_divisors(int w, char *out, size_t cap) {
  size_t at = 0;
  out[0] = 0;
  for (int d = 1; d <= w && at < cap; d++) {
    if (w % d != 0) continue;
    const int n = snprintf(out + at, cap - at, "%s%d", d == 1 ? "" : d == w ? " or " : ", ", d);
    if (n < 0) return;
    at += (size_t)n;
  }
}

// One of the two products: inner (tp, etp; default 1) times outer (dp, ep; default the rest) = workers.
static ti_status fill(int workers, const char *inner_flag, int *inner, const char *outer_flag, int *outer, ti_error *err) {
  if (*inner < 0) return ti_error_set(err, TI_ERR_ARG, "%s %d: must be at least 1", inner_flag, *inner);
  if (*outer < 0) return ti_error_set(err, TI_ERR_ARG, "%s %d: must be at least 1", outer_flag, *outer);
  const int in = *inner ? *inner : 1;
  char fits[256];
  list_divisors(workers, fits, sizeof(fits));
  if (workers % in != 0)
    return ti_error_set(err, TI_ERR_ARG, "%s %d does not divide %d worker%s; use %s", inner_flag, in, workers, workers == 1 ? "" : "s", fits);
  const int out = *outer ? *outer : workers / in;
  if (workers % out != 0)
    return ti_error_set(err, TI_ERR_ARG, "%s %d does not divide %d worker%s; use %s", outer_flag, out, workers, workers == 1 ? "" : "s", fits);
  if (in != workers / out)
    return ti_error_set(err, TI_ERR_ARG, "%s %d times %s %d is not the number of workers, %d; use %s %d, or %s %d", inner_flag, in, outer_flag, out,
                        workers, inner_flag, workers / out, outer_flag, workers / in);
  *inner = in;
  *outer = out;
  return TI_OK;
}

ti_status ti_mesh_init(ti_mesh *m, int workers, int tp, int dp, int ep, int etp, ti_error *err) {
  if (workers < 1) return ti_error_set(err, TI_ERR_ARG, "a mesh of %d workers: at least 1 is needed", workers);
  ti_status st = fill(workers, "--tensor-parallel-size", &tp, "--data-parallel-size", &dp, err);
  if (st != TI_OK) return st;
  st = fill(workers, "--expert-tensor-parallel-size", &etp, "--expert-parallel-size", &ep, err);
  if (st != TI_OK) return st;
  *m = (ti_mesh){.workers = workers, .tp = tp, .dp = dp, .ep = ep, .etp = etp};
  return TI_OK;
}
