// Who is in which group: pure arithmetic over W workers (DESIGN 7).
//
//   w = dp_i * tp + tp_i = ep_i * etp + etp_i        dp * tp = ep * etp = W
//
//   W = 4, tp 2, dp 2, ep 4, etp 1:     w     0  1  2  3
//                                       dp_i  0  0  1  1      attention groups {0,1} {2,3}
//                                       tp_i  0  1  0  1
//                                       ep_i  0  1  2  3      experts over all workers
#ifndef TI_BASE_MESH_H
#define TI_BASE_MESH_H
#include "base/status.h"

typedef struct ti_mesh {
  int workers, tp, dp, ep, etp;
} ti_mesh;

// Fills in what is 0: tp 1, dp W/tp, etp 1, ep W/etp. TI_ERR_ARG with the numbers that would do when a product does not come out.
ti_status ti_mesh_init(ti_mesh *m, int workers, int tp, int dp, int ep, int etp, ti_error *err) TI_MUST_CHECK;
static inline int ti_mesh_dp_of(const ti_mesh *m, int w) { return w / m->tp; }
static inline int ti_mesh_tp_of(const ti_mesh *m, int w) { return w % m->tp; }
static inline int ti_mesh_ep_of(const ti_mesh *m, int w) { return w / m->etp; }
static inline int ti_mesh_etp_of(const ti_mesh *m, int w) { return w % m->etp; }
static inline int ti_mesh_worker(const ti_mesh *m, int dp_i, int tp_i) { return dp_i * m->tp + tp_i; }
// The i-th of `parts` shares of n things: [begin, end), shares differ by one at most, the first ones are the larger.
static inline void ti_split(long n, int parts, int i, long *begin, long *end) {
  const long q = n / parts, r = n % parts;
  *begin = i * q + (i < r ? i : r);
  *end = *begin + q + (i < r);
}
// The share that owns thing x, the inverse of ti_split.
static inline int ti_split_owner(long n, int parts, long x) {
  const long q = n / parts, r = n % parts;
  return (int)(x < r * (q + 1) ? x / (q + 1) : r + (x - r * (q + 1)) / (q ? q : 1));
}

#endif
