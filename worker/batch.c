#include "worker/batch.h"

#include <stdlib.h>
#include <string.h>

static size_t image_ints(int max_row, int max_seq, int max_stride) { return 5 * (size_t)max_row + 4 * (size_t)max_seq + 1 + (size_t)max_seq * (size_t)max_stride; }

ti_status ti_step_batch_init(ti_step_batch *b, const ti_kernels *k, ti_dev *d, int max_row, int max_seq, int max_stride) {
  *b = (ti_step_batch){.max_row = max_row, .max_seq = max_seq, .max_stride = max_stride};
  const size_t n = image_ints(max_row, max_seq, max_stride);
  b->host = calloc(n, sizeof *b->host);
  b->seq = calloc((size_t)max_seq, sizeof *b->seq);
  b->device = k->alloc(d, n * sizeof *b->device);
  if (b->host && b->seq && b->device) return TI_OK;
  ti_step_batch_fini(b, k, d);
  return TI_ERR_NOMEM;
}

void ti_step_batch_fini(ti_step_batch *b, const ti_kernels *k, ti_dev *d) {
  free(b->host);
  free(b->seq);
  if (b->device) k->free(d, b->device);
  *b = (ti_step_batch){0};
}

int ti_bucket_rows(int n, int limit) {
  static const uint8_t small[] = {1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64};
  int rows = 0;
  for (size_t i = 0; i < sizeof small && !rows; i++)
    if (n <= small[i]) rows = small[i];
  if (!rows) rows = n <= 256 ? (n + 15) / 16 * 16 : (n + 63) / 64 * 64;
  if (rows > TI_BUCKET_MOST) return 0;
  return rows < limit ? rows : limit;
}

int ti_bucket_kv(int len) {
  int kv = 512;
  while (kv < len) kv *= 2;
  return kv;
}

// The image is laid out for the rows and sequences at hand (or for a bucket's), so that what is uploaded is one dense block.
static void lay_out(ti_step_batch *b, int n_row, int n_seq, int stride) {
  int32_t *h = b->host;
  b->h_ids = h;
  b->h_slot = b->h_ids + n_row;
  b->h_position = b->h_slot + n_row;
  b->h_place = b->h_position + n_row;
  b->h_seq = b->h_place + n_row;
  b->h_row0 = b->h_seq + n_row;
  b->h_kv_len = b->h_row0 + n_seq + 1;
  b->h_kv_short = b->h_kv_len + n_seq;
  b->h_kv_first = b->h_kv_short + n_seq;
  b->h_table = b->h_kv_first + n_seq;
#define ON_DEVICE(p) (b->device + ((p) - h))
  b->ids = ON_DEVICE(b->h_ids);
  b->slot = ON_DEVICE(b->h_slot);
  b->kv_short = ON_DEVICE(b->h_kv_short);
  b->batch = (ti_batch){.n_row = n_row, .n_seq = n_seq, .position = ON_DEVICE(b->h_position), .place = ON_DEVICE(b->h_place), .seq = ON_DEVICE(b->h_seq),
                        .seq_row0 = ON_DEVICE(b->h_row0), .seq_kv_len = ON_DEVICE(b->h_kv_len), .block_table = ON_DEVICE(b->h_table), .table_stride = stride};
#undef ON_DEVICE
}

static ti_status upload(ti_step_batch *b, const ti_kernels *k, ti_dev *d) {
  if (b->batch.n_row == 0) return TI_OK;
  return k->upload(d, b->device, b->host, (size_t)(b->h_table + (size_t)b->batch.n_seq * (size_t)b->batch.table_stride - b->host) * sizeof *b->host);
}

static ti_status check_row(const ti_slots *s, const ti_plan_row *r, uint32_t i, ti_error *err) {
  if (r->slot >= s->n_slot || !s->slot[r->slot].used) return ti_error_set(err, TI_ERR_FORMAT, "plan: row[%u]: slot %u is not assigned", i, r->slot);
  const ti_slot *t = &s->slot[r->slot];
  if (t->finished) return TI_OK;
  if (r->n_token == 0 || r->n_token > t->n_ids - t->n_kv)
    return ti_error_set(err, TI_ERR_FORMAT, "plan: row[%u]: %u tokens for slot %u, which has %u to feed", i, r->n_token, r->slot, t->n_ids - t->n_kv);
  const uint32_t places = t->n_kv + r->n_token + s->lookahead, need = (places + s->page_tokens - 1) / s->page_tokens;
  if (need > t->n_page) return ti_error_set(err, TI_ERR_FORMAT, "plan: row[%u]: slot %u needs %u pages for %u places and has %u", i, r->slot, need, places, t->n_page);
  if (r->sample && t->n_kv + r->n_token != t->n_ids) return ti_error_set(err, TI_ERR_FORMAT, "plan: row[%u]: samples before the end of slot %u's ids", i, r->slot);
  return TI_OK;
}

typedef struct extent {  // what a batch holds at most
  int n_row, n_seq, most_rows, most_pages, most_kv;
} extent;

static ti_status measure(const ti_step_batch *b, const ti_slots *s, const ti_step_plan *plan, ti_batch_span span, extent *x, ti_error *err) {
  *x = (extent){.most_pages = 1};
  for (uint32_t i = span.first; i < span.last; i++) {
    const ti_status st = check_row(s, &plan->row[i], i, err);
    if (st) return st;
    const ti_slot *t = &s->slot[plan->row[i].slot];
    if (t->finished) continue;
    const int n = (int)(plan->row[i].n_token + t->n_draft), kv = (int)t->n_kv + n;
    x->n_row += n;
    x->n_seq++;
    if (n > x->most_rows) x->most_rows = n;
    if (kv > x->most_kv) x->most_kv = kv;
    if ((int)t->n_page > x->most_pages) x->most_pages = (int)t->n_page;
    if (x->n_row > b->max_row || x->n_seq > b->max_seq) return ti_error_set(err, TI_ERR_FORMAT, "plan: more than %d tokens or %d sequences in a step", b->max_row, b->max_seq);
  }
  return TI_OK;
}

static bool is_long(const ti_step_batch *b, int q) { return b->long_rows && (int)b->seq[q].n_row >= b->long_rows; }

// Sequence q's table and its rows, from `row` on.
static void put_sequence(ti_step_batch *b, const ti_slot *t, int q, int row) {
  const int stride = b->batch.table_stride, pages = (int)t->n_page < stride ? (int)t->n_page : stride, n = (int)b->seq[q].n_row;
  b->h_row0[q] = row;
  b->h_kv_len[q] = (int32_t)t->n_kv + n;
  b->h_kv_short[q] = is_long(b, q) ? 0 : b->h_kv_len[q];
  b->n_long += is_long(b, q);
  b->h_kv_first[q] = 0;
  memcpy(b->h_table + (size_t)q * (size_t)stride, t->table, (size_t)pages * sizeof *t->table);
  for (int j = 0; j < n; j++, row++) {
    b->h_ids[row] = t->ids[t->n_kv + (uint32_t)j];
    b->n_pending += b->h_ids[row] == TI_SLOT_PENDING;
    b->h_slot[row] = (int32_t)b->seq[q].slot;
    b->h_position[row] = b->h_place[row] = (int32_t)t->n_kv + j;
    b->h_seq[row] = q;
  }
}

static void put_padding(ti_step_batch *b, int q) {
  b->h_row0[q] = b->h_seq[q] = q;
  b->h_kv_len[q] = b->h_kv_short[q] = b->h_kv_first[q] = b->h_ids[q] = b->h_slot[q] = b->h_position[q] = 0;
  b->h_place[q] = -1;
}

ti_status ti_step_batch_build(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s, const ti_step_plan *plan, ti_batch_span span, ti_error *err) {
  extent x;
  const ti_status st = measure(b, s, plan, span, &x, err);
  if (st) return st;
  const int page = (int)s->page_tokens, kv = ti_bucket_kv(x.most_kv);
  b->fixed_rows = 0;
  if (span.fixed && x.most_rows == 1 && kv / page <= b->max_stride) b->fixed_rows = ti_bucket_rows(x.n_row, b->max_row < b->max_seq ? b->max_row : b->max_seq);
  const int fixed = b->fixed_rows;
  lay_out(b, fixed ? fixed : x.n_row, fixed ? fixed : x.n_seq, fixed ? kv / page : x.most_pages);
  b->n_pending = b->n_long = 0;
  int row = 0, q = 0;
  for (uint32_t i = span.first; i < span.last; i++) {
    const ti_plan_row *r = &plan->row[i];
    const ti_slot *t = &s->slot[r->slot];
    if (t->finished) continue;
    b->seq[q] = (ti_seq_ref){.slot = r->slot, .plan_row = i, .n_row = r->n_token + t->n_draft, .n_draft = t->n_draft, .place0 = t->n_kv, .sample = r->sample};
    put_sequence(b, t, q, row);
    row += (int)b->seq[q++].n_row;
  }
  b->n_seq = q;
  b->n_token = row;
  for (; q < b->batch.n_seq; q++) put_padding(b, q);
  b->h_row0[q] = b->batch.n_row;
  b->batch.max_seq_rows = x.most_rows;
  b->batch.max_kv_len = fixed ? kv : x.most_kv;
  return upload(b, k, d);
}

ti_status ti_step_batch_shift(ti_step_batch *b, const ti_kernels *k, ti_dev *d, const ti_slots *s) {
  for (int q = 0; q < b->batch.n_seq; q++) {
    const ti_slot *t = &s->slot[b->seq[q].slot];
    for (uint32_t j = 0; j < b->seq[q].n_row; j++) {
      const uint32_t next = b->seq[q].place0 + j + 1;
      b->h_ids[b->h_row0[q] + (int)j] = t->ids[next < t->n_ids ? next : t->n_ids - 1];
      b->h_place[b->h_row0[q] + (int)j]++;
    }
    b->h_kv_len[q]++;
    if (!is_long(b, q)) b->h_kv_short[q]++;
    b->h_kv_first[q] = 1;
  }
  b->batch.kv_first = b->device + (b->h_kv_first - b->host);
  b->batch.max_kv_len++;
  return upload(b, k, d);
}

uint32_t ti_plan_middle(const ti_step_plan *plan) {
  uint64_t all = 0, at = 0;
  for (uint32_t i = 0; i < plan->n_row; i++) all += plan->row[i].n_token;
  uint32_t best = 0;
  for (uint32_t i = 0; i < plan->n_row; i++) {
    if (2 * at >= all) break;
    at += plan->row[i].n_token;
    best = i + 1;
  }
  return best == plan->n_row && best > 1 ? best - 1 : best;
}
