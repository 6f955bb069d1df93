// Paged attention: which form takes what, and how many blocks share a sequence.
#include "kernels/cuda/attention.h"

#include <math.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/tensor_map.h"

static attn attn_of(const ti_attention_args *x) {
  const ti_kv_layout *l = x->layout;
  const ti_batch *b = x->batch;
  const int64_t packed = (int64_t)x->n_head * l->head_dim;
  attn a = {};
  a.out = (bf16 *)x->out;
  a.q = (const bf16 *)x->q;
  a.ldq = x->ldq ? x->ldq : packed;
  a.ldo = x->ldo ? x->ldo : packed;
  a.n_row = b->n_row, a.n_seq = b->n_seq, a.n_head = x->n_head, a.n_kv_head = l->n_kv_head, a.group = x->n_head / l->n_kv_head;
  a.group_shift = (a.group & (a.group - 1)) == 0 ? __builtin_ctz((unsigned)a.group) : -1;
  a.page_shift = __builtin_ctz((unsigned)l->page_tokens), a.table_stride = b->table_stride, a.n_layer = l->n_layer, a.layer = x->layer;
  a.place = b->place, a.seq = b->seq, a.seq_row0 = b->seq_row0, a.kv_len = b->seq_kv_len, a.kv_first = b->kv_first, a.table = b->block_table;
  a.mask = b->mask;
  a.window = x->window;
  a.c = x->scale * 1.44269504088896341f;
  a.kv = (const uint8_t *)x->kv;
  a.page_bytes = l->page_bytes, a.layer_offset = (size_t)x->layer * l->layer_bytes;
  a.k_scale_offset = l->k_scale_offset, a.v_scale_offset = l->v_scale_offset;
  return a;
}

// K and V of all pages and layers as rows of one head and place each.
static ti_status map_of(const ti_attention_args *x, int places, CUtensorMap *map) {
  const ti_kv_layout *l = x->layout;
  const int size = l->dtype == TI_BF16 ? 2 : 1;
  const int64_t dim[3] = {l->head_dim, (int64_t)2 * l->n_kv_head * l->page_tokens, (int64_t)1 << 31};
  const int64_t stride[2] = {l->head_dim, (int64_t)l->layer_bytes / size};
  const int box[3] = {128 / size, l->page_tokens < places ? l->page_tokens : places, 1};
  return ti_tensor_map_3d(map, size == 2 ? TI_TMA_BF16 : TI_TMA_U8, x->kv, dim, stride, box, TI_TMA_128B);
}

enum { DECODE_PACKED = 64 };  // packed rows (rows x group) up to which a run is decode's

static bool fast_dim(int dim) { return dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256; }

// How many places a row may attend, counted from the start of its first chunk.
static int64_t most_places(const ti_attention_args *x, int rows) {
  const ti_batch *b = x->batch;
  const int64_t len = b->max_kv_len > 0 ? b->max_kv_len : (int64_t)b->table_stride * x->layout->page_tokens;
  const int64_t in_window = (int64_t)x->window + rows + CHUNK;
  return x->window > 0 && in_window < len ? in_window : len;
}

extern "C" ti_status ti_cuda_attention(ti_dev *d, const ti_attention_args *x) {
  const ti_kv_layout *l = x->layout;
  assert(l->kind == TI_KV_GQA && x->n_head % l->n_kv_head == 0 && x->layer >= 0 && x->layer < l->n_layer);
  if (x->batch->n_row == 0) return TI_OK;
  attn a = attn_of(x);
  const bool aligned = ti_aligned16(x->q) && ti_aligned16(x->out) && ti_aligned16(x->kv) && a.ldq % 8 == 0 && a.ldo % 8 == 0;
  attn_maps map;
  if (d->major < 9 || l->dtype == TI_F32 || !fast_dim(l->head_dim) || !aligned || map_of(x, SPAN, &map.big) != TI_OK ||
      map_of(x, SMALL_BOX, &map.small) != TI_OK) {
    return ti_cuda_attention_plain(d, x);
  }
  a.early = d->kv_writer == NULL || d->kv_writer == x->batch->place;
  // runs whose packed rows fit few tiles of decode are decode's; the rest is prefill's, where it has the type and the head's size
  const int most = x->batch->max_seq_rows > 0 ? x->batch->max_seq_rows : 1;
  int limit = l->dtype != TI_BF16 || l->head_dim > 128 ? most : a.group > DECODE_PACKED ? 1 : DECODE_PACKED / a.group;
  ti_status st = TI_OK;
  a.short_rows = most < limit ? most : limit;
  if (most <= limit || a.n_seq > 1) {
    st = attn_decode(d, &a, &map, l->dtype, l->head_dim, most_places(x, a.short_rows));
  }
  if (st == TI_OK && most > limit) st = attn_prefill(d, &a, &map.big, l->head_dim);
  d->kv_writer = NULL;  // whoever starts behind these kernels finds what was written before them
  return st;
}
