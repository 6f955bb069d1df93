// A plan's rows as the arrays that kernels take: one host image, one upload.
//
//   plan rows     slot 7: chunk of 3        slot 9: decode      slot 2: finished, a no-op
//   batch rows    7.12  7.13  7.14          9.40
//   ids            ids[12..14] of slot 7    its last token
//   seq_row0       0                  3     4                   seq -> plan row: 0, 1
//
// Ids that a step in flight still draws are -1 in the image; `feed` puts them in on the device (ti_step_batch.n_pending).
//
// A fixed batch is one decode row a sequence, laid out for a bucket: of rows (1, 2, 4, 8, 12, 16, 24 ..) and of KV length (512, 1024, ..). Where
// everything lies is a function of the bucket alone, so that a recorded graph serves any step of it. What is left of the bucket's rows is padding
// (kernel.h), behind the real ones.
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
  int n_seq, n_token;     // of these are real; the batch's counts have the padding in them
  int n_pending;          // rows whose id is not known yet
  int fixed_rows;         // the bucket's, with max_kv_len; 0: laid out for the rows at hand
  int32_t *ids;           // device [n_row]
  const int32_t *slot;    // device [n_row]
  // Runs of long_rows rows or more (0: none is long) are attended apart from the others, by whom kv_short is read in place of seq_kv_len: 0 for them.
  int long_rows, n_long;    // set once after init; how many
  const int32_t *kv_short;  // device [n_seq]
  // host image, same layout: ids, slot, position, place, seq, seq_row0, kv_len, kv_short, kv_first, tables
  int32_t *host;
  int32_t *h_ids, *h_slot, *h_position, *h_place, *h_seq, *h_row0, *h_kv_len, *h_kv_short, *h_kv_first, *h_table;
  int32_t *device;
  int max_row, max_seq, max_stride;
} ti_step_batch;

#define TI_BUCKET_MOST 512  // rows of a fixed batch at most
// The least bucket that holds n rows, and at most `limit` (n <= limit); 0: n is above TI_BUCKET_MOST.
int ti_bucket_rows(int n, int limit);
// The least power of two that holds len places, at least 512.
int ti_bucket_kv(int len);

// Memory for batches of up to max_row rows and max_seq sequences with tables of up to max_stride pages.
ti_status ti_step_batch_init(ti_step_batch *b, const ti_kernels *k, ti_dev *d, int max_row, int max_seq, int max_stride) TI_MUST_CHECK;
void ti_step_batch_fini(ti_step_batch *b, const ti_kernels *k, ti_dev *d);
// Rows [first, last) of the plan, with the drafts that stand behind a slot's ids. Slots that are finished give no rows. fixed: lay it out for a bucket
// where the rows allow it. Advances nothing. TI_ERR_FORMAT: a row that its slot cannot feed (named).
typedef struct ti_batch_span {
  uint32_t first, last;
  bool fixed;
} ti_batch_span;
ti_status ti_step_batch_build(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s, const ti_step_plan *plan, ti_batch_span span, ti_error *err) TI_MUST_CHECK;
// Moves a built batch on by one token for an MTP layer: row i's id becomes the token after it, its place i + 1 (its position stays i), the first place
// attended 1. The tokens after must be in the slots by now; where none was drawn (a prompt
// that is only scored) the last id stands in, and nobody reads what comes of it. max 1 page entry beyond the rows' own is read.
ti_status ti_step_batch_shift(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s) TI_MUST_CHECK;
// Where to cut the plan's rows for two micro-batches: the row index that halves the tokens best. 0 or n_row: one side is empty.
uint32_t ti_plan_middle(const ti_step_plan *plan);

#endif
