// The row-wise ops at Llama-3-8B's shape (kernels/cuda/rows.cu, kv.cu): time and share of the copy bandwidth, a row to a prefill chunk. That they are
// right is the conformance suite's business (conformance.gpu); here every op's output is written whole (no poison left) and has the same bits twice.
//
//   lab_rows [--quick] [--json FILE]
#include <string.h>

#include "benchmarks/kernels/lab_gpu.h"

enum { HIDDEN = 4096, FFN = 14336, NQ = 32, NKV = 8, DIM = 128, VOCAB = 32000, PAGE = 32, MAX_ROW = 4096, QKV = (NQ + 2 * NKV) * DIM };

struct inputs {
  lab *l;
  uint16_t *x, *out, *residual, *qkv, *table;
  float *weight, *inv_freq;
  int32_t *ids, *position, *place, *seq, *pages;
  uint8_t *kv;
  ti_kv_layout layout;
  ti_batch batch;
  ti_weight embedding;
  int n_row;
};

static void run_embed(void *arg) {
  const inputs *in = (const inputs *)arg;
  ti_embed_args a = {};
  a.out = in->out, a.ids = in->ids, a.table = &in->embedding, a.n_row = in->n_row, a.hidden = HIDDEN, a.n_id = VOCAB;
  lab_op(in->l, ti_cuda_embed(&in->l->dev, &a), "embed");
}
static void run_norm(void *arg) {
  const inputs *in = (const inputs *)arg;
  ti_rmsnorm_args a = {};
  a.out = in->out, a.x = in->x, a.residual = in->residual, a.weight = in->weight, a.n_row = in->n_row, a.dim = HIDDEN, a.eps = 1e-5f;
  lab_op(in->l, ti_cuda_rmsnorm(&in->l->dev, &a), "rmsnorm");
}
static void run_silu(void *arg) {
  const inputs *in = (const inputs *)arg;
  ti_silu_mul_args a = {};
  a.out = in->out, a.gate_up = in->x, a.n_row = in->n_row, a.dim = FFN;
  lab_op(in->l, ti_cuda_silu_mul(&in->l->dev, &a), "silu_mul");
}
static void run_add(void *arg) {
  const inputs *in = (const inputs *)arg;
  ti_add_args a = {};
  a.x = in->out, a.y = in->x, a.n = (size_t)in->n_row * HIDDEN;
  lab_op(in->l, ti_cuda_add(&in->l->dev, &a), "add");
}
static void run_append(void *arg) {
  const inputs *in = (const inputs *)arg;
  ti_rope_append_args a = {};
  a.rope.x = in->qkv, a.rope.position = in->position, a.rope.inv_freq = in->inv_freq, a.rope.n_row = in->n_row, a.rope.n_head = NQ + NKV;
  a.rope.head_dim = a.rope.rope_dim = DIM, a.rope.ld = QKV, a.rope.attn_factor = 1.0f;
  a.kv.layout = &in->layout, a.kv.kv = in->kv, a.kv.batch = &in->batch, a.kv.k = in->qkv + NQ * DIM, a.kv.v = in->qkv + (NQ + NKV) * DIM;
  a.kv.ldk = a.kv.ldv = QKV;
  lab_op(in->l, ti_cuda_rope_append(&in->l->dev, &a), "rope_append");
}

static void row(inputs *in, const char *op, const char *variant, lab_run run, double bytes_a_row) {
  static const int rows[] = {1, 16, 64, 256, 4096};
  for (int i = 0; i < 5; i++) {
    in->n_row = rows[i];
    in->batch.n_row = in->batch.n_seq = rows[i];
    lab_row r = {};
    r.op = op, r.variant = variant, r.m = rows[i], r.us = lab_time_us(in->l, run, in), r.bytes = bytes_a_row * rows[i];
    lab_print(in->l, &r);
  }
}

static void check_whole(inputs *in, const char *op, lab_run run, size_t numbers) {
  lab *l = in->l;
  in->n_row = 130;
  lab_poison(l, in->out, (numbers + 64) * 2);
  run(in);
  const uint64_t once = lab_hash(l, in->out, numbers * 2);
  lab_expect(l, lab_is_poison(l, in->out + numbers, 128), "%s writes behind its end", op);
  run(in);
  lab_expect(l, lab_hash(l, in->out, numbers * 2) == once, "%s: other bits in the second run", op);
}

int main(int argc, char **argv) {
  static lab l;
  lab_open(&l, "lab_rows", &argc, argv);
  static inputs in;
  in.l = &l;
  const size_t n = (size_t)MAX_ROW * 2 * FFN;
  in.x = (uint16_t *)lab_alloc(&l, n * 2), in.out = (uint16_t *)lab_alloc(&l, n * 2),
  in.residual = (uint16_t *)lab_alloc(&l, (size_t)MAX_ROW * HIDDEN * 2);
  in.qkv = (uint16_t *)lab_alloc(&l, (size_t)MAX_ROW * QKV * 2), in.table = (uint16_t *)lab_alloc(&l, (size_t)VOCAB * HIDDEN * 2);
  in.weight = (float *)lab_alloc(&l, HIDDEN * 4), in.inv_freq = (float *)lab_alloc(&l, DIM * 2);
  lab_fill(&l, in.x, TI_BF16, n, 1, 2.0f), lab_fill(&l, in.residual, TI_BF16, (size_t)MAX_ROW * HIDDEN, 2, 2.0f);
  lab_fill(&l, in.qkv, TI_BF16, (size_t)MAX_ROW * QKV, 3, 2.0f), lab_fill(&l, in.table, TI_BF16, (size_t)VOCAB * HIDDEN, 4, 2.0f);
  lab_fill(&l, in.weight, TI_F32, HIDDEN, 5, 2.0f), lab_fill(&l, in.inv_freq, TI_F32, DIM / 2, 6, 1.0f);
  in.embedding.n = VOCAB, in.embedding.k = HIDDEN, in.embedding.dtype = TI_BF16, in.embedding.data = in.table, in.embedding.ld = HIDDEN;
  in.layout.kind = TI_KV_GQA, in.layout.page_tokens = PAGE, in.layout.n_kv_head = NKV, in.layout.head_dim = DIM, in.layout.n_layer = 1;
  static int32_t ids[MAX_ROW], place[MAX_ROW], seq[MAX_ROW], pages[MAX_ROW];
  for (int i = 0; i < MAX_ROW; i++) ids[i] = i * 7919 % VOCAB, place[i] = i % PAGE, seq[i] = i, pages[i] = i;  // a page a row
  int32_t *host[] = {ids, place, seq, pages}, **dev[] = {&in.ids, &in.place, &in.seq, &in.pages};
  for (int i = 0; i < 4; i++) {
    *dev[i] = (int32_t *)lab_alloc(&l, sizeof ids);
    lab_ok(&l, cudaMemcpy(*dev[i], host[i], sizeof ids, cudaMemcpyHostToDevice), "copy");
  }
  in.position = in.place;
  in.batch.place = in.place, in.batch.position = in.place, in.batch.seq = in.seq, in.batch.block_table = in.pages, in.batch.table_stride = 1;
  check_whole(&in, "embed", run_embed, (size_t)130 * HIDDEN);
  check_whole(&in, "silu_mul", run_silu, (size_t)130 * FFN);
  lab_head("row ops, Llama-3-8B's shape");
  row(&in, "embed", "embed", run_embed, HIDDEN * 4.0);
  row(&in, "rmsnorm", "rmsnorm + residual", run_norm, HIDDEN * 8.0);
  row(&in, "silu_mul", "silu_mul", run_silu, FFN * 6.0);
  row(&in, "add", "add", run_add, HIDDEN * 6.0);
  static const ti_dtype types[] = {TI_BF16, TI_E4M3};
  for (int t = 0; t < 2; t++) {
    in.layout.dtype = types[t];
    lab_op(&l, ti_kv_layout_init(&in.layout, NULL), "layout");
    in.kv = (uint8_t *)lab_alloc(&l, in.layout.page_bytes * MAX_ROW);
    row(&in, "rope_append", t ? "rope_append, KV e4m3" : "rope_append, KV bf16", run_append, NQ * DIM * 4.0 + 2 * NKV * DIM * (t ? 3.0 : 4.0));
    lab_free(&l, in.kv);
  }
  return lab_close(&l);
}
