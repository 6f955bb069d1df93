// Inside of the exchange. Files: exchange.c (life, stats, waiting), dispatch.c (pack, place), combine.c (back), rows.c (weighted sums of rows).
//
// One message a (source, ep group), the same for all etp ranks of the group:
//
//   | int32 n_row | int32 n_route | 0 .. |  routes, int32 [n_route]      | weights, fp32 [n_route] | row numbers   | 0.. | rows [n_row, dim]      |
//   |<------------- 64 bytes ----------->|  local slot | FIRST on a      |  only in the form that  | int32 [n_row] |     ^ a multiple of 64 bytes
//                                           row's first route               sums at the experts
//
// A rank that sees our window gets all but the rows, and finds those in the window by their numbers. The combine's message to a rank that sees our
// window is int32 [max_local]: where in our blocks, and so in the window's y, its rows for each of our slots begin. Every window has one layout:
//
//   | x of micro 0 [max_row, dim] | x of micro 1 | y of micro 0 [y_bytes] | y of micro 1 |
//
// Its place in every region is fixed (region_bytes a peer, untouched pages cost nothing), in both forms; the padded form posts receives of that size
// at once, the counted form learns the exact sizes first from a message of int32 [1 + max_local]: n_row, then the rows for each of the receiver's
// slots.
//
// Each micro has a communicator of its own, so that the order of its messages does not depend on when the other's arrive.
#ifndef TI_PARALLEL_EXCHANGE_PRIV_H
#define TI_PARALLEL_EXCHANGE_PRIV_H
#include "parallel/expert/exchange.h"
#include "parallel/window.h"

#define TI_ROUTE_FIRST 0x80000000u
#define TI_MESSAGE_HEAD 64

// The terms of one row's sum: scratch.
typedef struct ti_rows {
  const void **term;  // [n_top * etp], or [W] where that is more
  float *weight;
  int *part_end;  // [W] behind each part's last term
  int n, n_part;  // n_part 0: not in parts
} ti_rows;

typedef enum ti_micro_phase {
  TI_MICRO_IDLE,
  TI_MICRO_COUNTS,   // counted: sizes in flight
  TI_MICRO_ROWS,     // rows in flight
  TI_MICRO_PLACED,   // dispatch is over, blocks are valid
  TI_MICRO_COMBINE,  // results in flight
  TI_MICRO_FAILED
} ti_micro_phase;

// What a source sent: views into its message, or into our own.
typedef struct ti_source {
  int n_row, n_route;
  const uint32_t *routes;
  const float *weights;
  const char *rows;  // row k stands at rows[number[k]]; number NULL: at rows[k]
  const int32_t *number;
} ti_source;

typedef struct ti_micro {
  ti_coll *coll;
  ti_coll_op op;
  ti_micro_phase phase;
  bool padded, own_placed;
  ti_status status;  // of what failed
  // source side
  const char *x;
  int n_row;
  int32_t *slot;                       // [max_row, n_top] slot of each route, -1: none
  int32_t *index;                      // [max_row, n_top] which of this source's rows for that slot
  float *weight;                       // [max_row, n_top]
  int32_t *slot_rows;                  // [n_slot] rows sent to each slot
  int32_t *slot_begin;                 // [n_slot] where a slot's rows begin in what its group returns
  int32_t *group_rows, *group_routes;  // [ep]
  int32_t *send_row;                   // [ep, max_row] which rows go to each group, ascending
  // expert side
  ti_source *source;        // [W]
  int32_t *count, *offset;  // [max_local], [max_local + 1]
  int32_t *rows_of;         // [W, max_local] rows of each source in each block
  int32_t *begin_of;        // [W, max_local] where in all blocks they begin
  int32_t *place;           // [W, route_cap] block row of each route; only when experts sum
  const void **row;         // [capacity] where each row of the blocks stands
  // memory: regions of region_bytes (dispatch) and back_bytes (combine) a peer
  char *send, *recv, *back_send, *back_recv;
  const char *y;
  int32_t *count_send, *count_recv;                   // [W, 1 + max_local]
  size_t *send_n, *send_at, *recv_n, *recv_at, *got;  // [W] the operation's
} ti_micro;

struct ti_exchange {
  ti_exchange_config cfg;
  int n_expert, n_slot, group, n_local, max_local, capacity, route_cap;  // route_cap: routes a (source, group) pair can have
  int *slot_group, *slot_local;                                          // [n_slot]
  int *group_first;                                                      // [ep + 1] first slot of each ep group
  int32_t *slot_of;                                                      // [n_layer, n_expert] the slot this worker's rows use
  ti_window window;
  bool *group_sees, *group_waits;  // [ep] whether another rank of the group sees our window; whether one needs its rows in a message
  size_t row_bytes, region_bytes, back_bytes, place_bytes, x_bytes, y_bytes;
  int32_t *cursor;  // [max(n_slot, W)] scratch
  ti_rows sum;
  ti_micro micro[2];
  ti_exchange_stats stats;
  uint64_t *late_ns;  // [W] waiting that ended with each peer
  uint64_t *load;     // [max_local]
  void *ints;         // the small arrays, one block
};

// exchange.c. Progresses until the micro's phase is PLACED (or, combining, IDLE); the time waited goes to the stats.
ti_status ti_exchange_fail(ti_exchange *x, ti_micro *m, ti_status st, const char *doing);
ti_status ti_exchange_wait_op(ti_exchange *x, ti_micro *m, const char *doing);
// Posts an all-to-all of `bytes of type` with the counts and places in m; bounded: receives are upper bounds.
ti_status ti_exchange_post(ti_exchange *x, ti_micro *m, ti_dtype type, const void *send, void *recv, bool bounded);

// Where rank d's rows of a micro stand for us: its x and y, d being ourselves or seen.
static inline const char *ti_exchange_x_of(const ti_exchange *x, const ti_micro *m, int d) {
  return x->window.peer[d] + (size_t)(m - x->micro) * x->x_bytes;
}
static inline const char *ti_exchange_y_of(const ti_exchange *x, const ti_micro *m, int d) {
  return x->window.peer[d] + 2 * x->x_bytes + (size_t)(m - x->micro) * x->y_bytes;
}

// A peer's message is wrong: says so, TI_ERR_RANGE.
ti_status ti_exchange_bad_peer(int peer, const char *what, long value, long limit);

// dispatch.c. The counts have come: posts the rows.
ti_status ti_dispatch_counts_done(ti_exchange *x, ti_micro *m);

// rows.c. out[dim] = weight[0] * term[0] + weight[1] * term[1] + ..., left to right in fp32, rounded once; zeros when n is 0; with accumulate added
// to out. In parts: each part is such a sum, rounded to dtype, and out is the sum of the parts. out is none of the terms.
void ti_rows_sum(void *out, const ti_rows *t, int dim, ti_dtype dtype, bool accumulate);

#endif
