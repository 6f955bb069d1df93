// A plan's rows as the arrays that kernels take: one host image, one upload.
//
//   plan rows     slot 7: chunk of 3        slot 9: decode      slot 2: finished, a no-op
//   batch rows    7.12  7.13  7.14          9.40
//   ids            ids[12..14] of slot 7    its last token
//   seq_row0       0                  3     4                   seq -> plan row: 0, 1
//
// With two micro-batches the sequences are split in two halves of about equal rows; rows of one sequence stay together.
#ifndef TI_WORKER_BATCH_H
#define TI_WORKER_BATCH_H
#include <stdint.h>

#include "base/status.h"
#include "kernels/kernel.h"
#include "worker/slots.h"

typedef struct ti_seq_ref {  // one sequence of a batch
  uint32_t slot, plan_row, n_row, place0;  // rows feed ids[place0 .. place0 + n_row)
  bool sample;                             // its last row is sampled from; with drafts its last n_draft + 1 rows are
  uint32_t n_draft;                        // of n_row
} ti_seq_ref;

typedef struct ti_step_batch {
  ti_batch batch;         // device pointers into `device`
  ti_seq_ref *seq;        // host [n_seq]
  const int32_t *ids;     // device [n_row]
  // host image, same layout: ids, position, place, seq, seq_row0, kv_len, kv_first, tables
  int32_t *host;
  int32_t *h_ids, *h_position, *h_place, *h_seq, *h_row0, *h_kv_len, *h_kv_first, *h_table;
  int32_t *device;
  int max_row, max_seq, table_stride;
} ti_step_batch;

// Memory for batches of up to max_row rows and max_seq sequences with tables of table_stride pages.
ti_status ti_step_batch_init(ti_step_batch *b, const ti_kernels *k, ti_dev *d, int max_row, int max_seq, int table_stride) TI_MUST_CHECK;
void ti_step_batch_fini(ti_step_batch *b, const ti_kernels *k, ti_dev *d);
// Rows [first, last) of the plan; decode rows get drafts from `drafter` (NULL: none) where the plan allows them, written behind the slot's ids. Slots
// that are finished give no rows. Advances nothing. TI_ERR_FORMAT: a row that its slot cannot feed (named).
ti_status ti_step_batch_build(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s, const ti_step_plan *plan, uint32_t first, uint32_t last, ti_error *err) TI_MUST_CHECK;
// Moves a built batch on by one token for an MTP layer: row i's id becomes the token after it, its place i + 1 (its position stays i), the first place
// attended 1. The tokens after must be in the slots by now; where none was drawn (a prompt
// that is only scored) the last id stands in, and nobody reads what comes of it. max 1 page entry beyond the rows' own is read.
ti_status ti_step_batch_shift(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s) TI_MUST_CHECK;
// Where to cut the plan's rows for two micro-batches: the row index that halves the tokens best. 0 or n_row: one side is empty.
uint32_t ti_plan_middle(const ti_step_plan *plan);

#endif
