// Tokens to experts and back: prepare once an epoch, then dispatch and combine a layer. The seam of expert parallelism (DESIGN 5, 7).
//
// All W workers take part, also those without tokens. A rank hands over its own rows with the global experts each chose; it receives, for its own
// experts, aligned blocks of rows, which ARE the grouped GEMM's input:
//
//   x [n_row, dim]  experts [n_row, n_top]                  block of expert 0         expert 1       (align = 8)
//   row 0 -> 3, 9       dispatch                     in:   [a a a a a . . .][b b . . . . . .][c ...
//   row 1 -> 9, 1    ------------->                  count  5                 2
//                                                   offset  0                 8
//   y [n_row, dim] = sum over j of weights[r, j] * expert(r, j)      <------ combine of the GEMMs' output, same blocks
//
// A block lists where its rows stand (rows[i], what grouped_gemm takes): rows are not copied into blocks. Three places:
//
//   own rows                     in the caller's x
//   from a rank of this host     in that rank's window (parallel/window.h), which it reads in place
//   from another host            in the message that brought them
//
// One copy of a row travels to a destination rank, however many of its experts are chosen there, and none is made where the caller writes x and y
// into the window (ti_exchange_x, ti_exchange_y). A source's row reaches all etp ranks of the expert's ep group. Within a block rows stand in (source
// rank, row) order, so that block contents do not depend on timing.
//
// Combine, two forms (DESIGN 7): deterministic: one row a (row, expert, etp) travels and the source sums j ascending, etp ascending; else each rank
// first sums its own experts (j ascending) and one row a (row, rank) travels, summed by rank ascending. Both are fixed orders. Within a host the
// source reads the experts' rows itself, and does the other rank's sums in that rank's order: the same bits.
//
// Forms of dispatch: `padded` (decode): fixed slots of max_row a (source, destination) pair, no counts read by the host between layers; `counted`
// (prefill): counts are exchanged first. The plan's header says which (the same on all ranks).
//
// Split calls so that work can run underneath: *_post starts, *_wait ends; between them the caller may compute and call `progress`.
// micro: which of two independent buffer sets (two-micro-batch overlap), 0 or 1.
// The caller's memory: x until combine_post; experts and weights for the call of dispatch_post only; y until combine_wait. What stands in a window is
// read by others: ti_exchange_x of a micro may be written from its combine_wait to its next dispatch_post, ti_exchange_y from dispatch_wait to
// combine_post. Messages carry that order: a rank that has sent its results has read x, one that dispatches again has read y.
// Padding's entries of rows are not set. The experts of a row are distinct. A rank may hold no expert (fewer slots than ep groups). weights NULL:
// all 1. Waits are bounded by ti_coll_set_timeout. A call out of its order is TI_ERR_ARG; after any other error only destroy is of use. Errors:
// TI_ERR_ABORTED, TI_ERR_TIMEOUT, TI_ERR_RANGE (a peer sent an expert or count out of range: named in the log). No allocation after create.
#ifndef TI_PARALLEL_EXPERT_EXCHANGE_H
#define TI_PARALLEL_EXPERT_EXCHANGE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/mesh.h"
#include "base/placement.h"
#include "parallel/coll.h"

typedef struct ti_exchange_config {
  ti_mesh mesh;
  int worker;  // this rank
  int dim, n_top;
  int max_row;         // most rows a rank hands over in one dispatch
  int align;           // of expert blocks, in rows
  int n_layer;         // MoE layers, each with a placement of its own; 0: one
  ti_dtype dtype;      // of rows on the wire and in blocks: F32 or BF16 (E4M3 + scales on GPUs)
  bool deterministic;  // the combine's form
  int host_ranks;      // 0: rows are read in place wherever ranks see each other; n: within runs of n ranks only, 1: nowhere (tests, labs)
} ti_exchange_config;

typedef struct ti_exchange ti_exchange;

typedef struct ti_dispatch_args {
  const void *x;           // [n_row, dim]
  const int32_t *experts;  // [n_row, n_top] logical experts; negative: no route
  const float *weights;    // [n_row, n_top]
  int n_row;               // 0 for an idle rank
  int micro;
  bool padded;
  int layer;  // whose placement: 0 .. n_layer - 1
} ti_dispatch_args;

typedef struct ti_dispatch_out {
  const void *const *rows;        // [capacity] where each row [dim] of the blocks stands, valid until combine_post
  const int32_t *count, *offset;  // [local slots], [local slots + 1]
  int n_local;                    // physical experts here
  int capacity;                   // rows of all blocks, padding included: offset[n_local]
} ti_dispatch_out;

typedef struct ti_exchange_stats {                                                 // since the last call of ti_exchange_stats_take
  uint64_t dispatch_ns, combine_ns, exposed_ns, bytes_sent, rows_sent, rows_here;  // sent: to other ranks, in messages or read in place
  int slowest_peer;                                                                // whom the waits were for
  uint64_t slowest_ns;
} ti_exchange_stats;

// world: all workers, rank = worker index; borrowed. p: of all layers. Collective.
ti_status ti_exchange_create(const ti_exchange_config *cfg, ti_coll *world, const ti_placement *p, ti_exchange **out, ti_error *err) TI_MUST_CHECK;
void ti_exchange_destroy(ti_exchange *x);
// The most rows that the blocks of one dispatch can have here, padding included: workers * max_row * min(n_top, slots of a rank) + n_local * align.
// ti_dispatch_out.capacity never exceeds it: what the experts' activations are sized by.
int ti_exchange_capacity(const ti_exchange *x);
// Memory of this exchange, [max_row, dim] and [ti_exchange_capacity, dim]: rows and results that the caller writes there (host memory) are not copied
// on their way to ranks of this host. See above for when.
void *ti_exchange_x(const ti_exchange *x, int micro);
void *ti_exchange_y(const ti_exchange *x, int micro);
// Another placement of the same slot count for one layer, from its next dispatch on (all ranks at the same plan). O(n_expert * workers * copies).
ti_status ti_exchange_set_placement(ti_exchange *x, int layer, const ti_placement *p) TI_MUST_CHECK;
ti_status ti_exchange_dispatch_post(ti_exchange *x, const ti_dispatch_args *a) TI_MUST_CHECK;
ti_status ti_exchange_dispatch_wait(ti_exchange *x, int micro, ti_dispatch_out *out) TI_MUST_CHECK;
// y: [capacity, dim] the experts' output in the blocks of the dispatch with the same micro.
ti_status ti_exchange_combine_post(ti_exchange *x, int micro, const void *y) TI_MUST_CHECK;
// out: [n_row, dim] (+)= the weighted sums.
ti_status ti_exchange_combine_wait(ti_exchange *x, int micro, void *out, bool accumulate) TI_MUST_CHECK;
ti_status ti_exchange_progress(ti_exchange *x);  // TI_OK, TI_INPROGRESS; cheap
void ti_exchange_stats_take(ti_exchange *x, ti_exchange_stats *out);
// Rows each local slot got since the last call, [n_local], for load metrics.
void ti_exchange_load_take(ti_exchange *x, uint64_t *rows);

#endif
