// A plan's rows as arrays: laid out for what is there, or for a bucket, where everything lies at the same place whatever the step.
#include <criterion/criterion.h>
#include <string.h>

#include "worker/batch.h"

enum { SLOTS = 24, CONTEXT = 2000, PAGE = 16, PAGES = 1024, VOCAB = 100, ROWS = 64, STRIDE = 2048 / PAGE + 8 };

static ti_slots slots;
static ti_step_batch b;
static ti_dev *dev;
static ti_error err;
static const ti_kernels *k;

static void open_all(void) {
  k = ti_kernels_ref();
  cr_assert_eq(k->open(&(ti_dev_options){.threads = 1}, &dev, &err), TI_OK);
  cr_assert_eq(ti_slots_init(&slots, SLOTS, CONTEXT, PAGE, PAGES, VOCAB), TI_OK);
  cr_assert_eq(ti_step_batch_init(&b, k, dev, ROWS, SLOTS, STRIDE), TI_OK);
}
static void close_all(void) {
  ti_step_batch_fini(&b, k, dev);
  ti_slots_fini(&slots);
  k->close(dev);
}
TestSuite(batch, .init = open_all, .fini = close_all);

// Slot s: n ids, all but the last with KV, pages s * 100, s * 100 + 1 ..
static void hold(uint32_t s, uint32_t n) {
  ti_slot *t = &slots.slot[s];
  t->used = true;
  t->n_ids = n;
  t->n_kv = n - 1;
  t->n_page = (n + PAGE - 1) / PAGE;
  for (uint32_t i = 0; i < n; i++) t->ids[i] = (int32_t)(s + i) % VOCAB;
  for (uint32_t i = 0; i < t->n_page; i++) t->table[i] = (int32_t)(s * 100 + i);
}

static void build(uint32_t n, bool fixed) {
  ti_plan_row row[SLOTS];
  for (uint32_t i = 0; i < n; i++) row[i] = (ti_plan_row){.slot = i, .n_token = 1, .decode = true, .sample = true};
  const ti_step_plan plan = {.row = row, .n_row = n};
  cr_assert_eq(ti_step_batch_build(&b, k, dev, &slots, &plan, (ti_batch_span){0, n, fixed}, &err), TI_OK, "%s", err.text);
}

Test(batch, buckets_hold_their_rows_and_no_more_than_the_limit) {
  for (int n = 1; n <= TI_BUCKET_MOST; n++) {
    const int rows = ti_bucket_rows(n, 4096);
    cr_assert(rows >= n && (n < 8 || rows < 2 * n), "%d rows in a bucket of %d", n, rows);
    cr_assert_eq(ti_bucket_rows(rows, 4096), rows, "a bucket is its own");
    cr_assert_geq(ti_bucket_rows(n, n + 3), n);
    cr_assert_leq(ti_bucket_rows(n, n + 3), n + 3);
  }
  cr_assert_eq(ti_bucket_rows(TI_BUCKET_MOST + 1, 4096), 0);
  cr_assert(ti_bucket_kv(1) == 512 && ti_bucket_kv(512) == 512 && ti_bucket_kv(513) == 1024 && ti_bucket_kv(131072) == 131072);
}

Test(batch, a_fixed_one_has_padding_behind_its_rows) {
  for (uint32_t s = 0; s < 5; s++) hold(s, 20 + s);
  build(5, true);
  cr_assert(b.fixed_rows == 8 && b.batch.n_row == 8 && b.batch.n_seq == 8 && b.n_seq == 5 && b.n_token == 5);
  cr_assert(b.batch.max_kv_len == 512 && b.batch.table_stride == 512 / PAGE && b.batch.max_seq_rows == 1);
  for (int r = 0; r < 8; r++) {
    cr_assert_eq(b.batch.place[r], r < 5 ? 19 + r : -1);
    cr_assert_eq(b.batch.seq_kv_len[r], r < 5 ? 20 + r : 0);
    cr_assert(b.batch.seq[r] == r && b.batch.seq_row0[r] == r && b.ids[r] >= 0 && b.slot[r] >= 0);
  }
  cr_assert_eq(b.batch.seq_row0[8], 8);
  cr_assert_eq(b.batch.block_table[3 * b.batch.table_stride + 1], 301);
}

Test(batch, steps_of_a_bucket_lie_at_the_same_addresses) {
  for (uint32_t s = 0; s < 7; s++) hold(s, 20 + s);
  build(5, true);
  const ti_batch first = b.batch;
  for (uint32_t s = 0; s < 7; s++) hold(s, 300 + s);
  build(7, true);
  cr_assert_eq(memcmp(&first, &b.batch, sizeof first), 0, "a recorded graph would read elsewhere");
  hold(3, 513);
  build(7, true);
  cr_assert_eq(b.batch.max_kv_len, 1024);
}

Test(batch, what_is_not_one_row_a_sequence_is_not_fixed) {
  hold(0, 20);
  slots.slot[0].n_kv = 10;
  ti_plan_row row = {.slot = 0, .n_token = 10, .sample = true};
  const ti_step_plan plan = {.row = &row, .n_row = 1};
  cr_assert_eq(ti_step_batch_build(&b, k, dev, &slots, &plan, (ti_batch_span){0, 1, true}, &err), TI_OK, "%s", err.text);
  cr_assert(b.fixed_rows == 0 && b.batch.n_row == 10 && b.batch.max_kv_len == 20 && b.batch.table_stride == 2);
}

Test(batch, ids_on_their_way_are_counted) {
  hold(0, 20);
  hold(1, 30);
  slots.slot[1].ids[29] = TI_SLOT_PENDING;
  build(2, true);
  cr_assert(b.n_pending == 1 && b.ids[1] == -1 && b.slot[1] == 1);
}

// Two runs beside a decode: the long one is hidden from those that read kv_short, and stays so when an MTP layer moves all on by one.
Test(batch, long_runs_have_no_places_for_the_short_ones) {
  static const uint32_t n[] = {12, 30, 11}, rows[] = {5, 1, 4};
  ti_plan_row row[3];
  for (uint32_t s = 0; s < 3; s++) {
    hold(s, n[s]);
    slots.slot[s].n_kv = n[s] - rows[s];
    row[s] = (ti_plan_row){.slot = s, .n_token = rows[s], .sample = true};
  }
  const ti_step_plan plan = {.row = row, .n_row = 3};
  for (int most = 0; most < 7; most++) {
    b.long_rows = most;
    cr_assert_eq(ti_step_batch_build(&b, k, dev, &slots, &plan, (ti_batch_span){0, 3, true}, &err), TI_OK, "%s", err.text);
    int n_long = 0;
    for (int moved = 0; moved < 2; moved++) {
      for (int s = 0; s < 3; s++) {
        const bool is = most && (int)rows[s] >= most;
        n_long += is && !moved;
        cr_assert_eq(b.kv_short[s], is ? 0 : (int)n[s] + moved, "long from %d: run %d has %d", most, s, b.kv_short[s]);
        cr_assert_eq(b.batch.seq_kv_len[s], (int)n[s] + moved);
      }
      if (!moved) cr_assert_eq(ti_step_batch_shift(&b, k, dev, &slots), TI_OK);
    }
    cr_assert_eq(b.n_long, n_long);
  }
}
