// Sizes of a worker's share (see holdings.h). The cuts are those of worker/weights.c.
#include "launch/holdings.h"

#include <string.h>

#include "kernels/kernel.h"
#include "model/names.h"
#include "parallel/shard.h"

const char *ti_holding_name(ti_holding h) {
  static const char *const names[TI_HOLD_COUNT] = {"embedding and head", "attention",      "dense FFN",
                                                   "shared experts",     "routed experts", "norms and routers"};
  return h < TI_HOLD_COUNT ? names[h] : "?";
}

typedef struct count {
  const ti_config *c;
  const ti_mesh *mesh;
  int worker;
  ti_shard_heads heads;
  long expert0, expert1;
  ti_holdings *out;
} count;

// The fraction of a tensor that this worker has, as part/whole, and what it is.
static ti_holding share_of(const count *k, const ti_tensor_spec *s, int64_t *part, int64_t *whole) {
  *part = *whole = 1;
  switch (s->part) {
    case TI_PART_EMBED:
    case TI_PART_HEAD:
      *whole = k->mesh->tp;
      return TI_HOLD_EMBED;
    case TI_PART_Q:
    case TI_PART_O:
    case TI_PART_Q_B:
    case TI_PART_KV_B:
      *part = k->heads.n_head, *whole = k->c->n_head;
      return TI_HOLD_ATTENTION;
    case TI_PART_K:
    case TI_PART_V:
      *part = k->heads.n_kv, *whole = k->c->n_kv_head;
      return TI_HOLD_ATTENTION;
    case TI_PART_Q_A:
    case TI_PART_KV_A:
      return TI_HOLD_ATTENTION;
    case TI_PART_GATE:
    case TI_PART_UP:
    case TI_PART_DOWN:
      *whole = k->mesh->tp;
      return TI_HOLD_FFN;
    case TI_PART_SHARED_GATE:
    case TI_PART_SHARED_UP:
    case TI_PART_SHARED_DOWN:
      return TI_HOLD_SHARED;
    case TI_PART_EXPERT_GATE:
    case TI_PART_EXPERT_UP:
    case TI_PART_EXPERT_DOWN:
      *whole = k->mesh->etp;
      *part = s->expert >= k->expert0 && s->expert < k->expert1;
      return TI_HOLD_EXPERTS;
    default:
      return TI_HOLD_SMALL;
  }
}

static ti_status visit(void *user, const ti_tensor_spec *s) {
  count *k = user;
  if (s->layer >= k->c->n_layer) return TI_OK;  // MTP layers are not loaded
  int64_t part, whole;
  const ti_holding h = share_of(k, s, &part, &whole);
  size_t bytes;
  const int block = ti_dtype_block(s->dtype);
  const ti_status st = ti_dtype_size(s->dtype, (size_t)(s->rows * s->cols + block - 1) / (size_t)block * (size_t)block, &bytes);
  if (!st) k->out->weight[h] += bytes * (uint64_t)part / (uint64_t)whole;
  return st;
}

ti_status ti_holdings_of(const ti_config *c, const ti_mesh *mesh, int n_redundant, int worker, uint32_t page_tokens, ti_dtype kv_dtype,
                         ti_holdings *out, ti_error *err) {
  ti_holdings h;
  memset(&h, 0, sizeof h);
  count k = {.c = c, .mesh = mesh, .worker = worker, .out = &h};
  const bool mla = c->attn == TI_ATTN_MLA;
  ti_status st = ti_shard_heads_of(c->n_head, c->n_kv_head, mesh->tp, ti_mesh_tp_of(mesh, worker), &k.heads, err);
  if (st) return ti_error_prefix(err, "--tensor-parallel-size %d", mesh->tp);
  if (c->moe.n_expert) {
    int64_t begin, width;
    if (mesh->ep > c->moe.n_expert)
      return ti_error_set(err, TI_ERR_ARG, "--expert-parallel-size %d: the model has %d experts", mesh->ep, c->moe.n_expert);
    ti_split(c->moe.n_expert, mesh->ep, ti_mesh_ep_of(mesh, worker), &k.expert0, &k.expert1);
    st = ti_shard_width("moe_intermediate_size", c->moe.ffn, mesh->etp, ti_mesh_etp_of(mesh, worker), 1, &begin, &width, err);
    if (st) return ti_error_prefix(err, "--expert-tensor-parallel-size %d", mesh->etp);
    h.expert_width = (int)width;
  }
  ti_kv_layout l = {.kind = mla ? TI_KV_MLA : TI_KV_GQA,
                    .dtype = kv_dtype,
                    .page_tokens = (int)page_tokens,
                    .n_kv_head = k.heads.n_kv,
                    .head_dim = c->head_dim,
                    .latent = c->kv_lora,
                    .rope = c->qk_rope,
                    .n_layer = c->n_layer};
  st = ti_kv_layout_init(&l, err);
  if (!st) st = ti_tensor_each(c, visit, &k);
  if (st) return st;
  for (int i = 0; i < TI_HOLD_COUNT; i++) h.weights += h.weight[i];
  h.page_bytes = l.page_bytes;
  h.heads = k.heads.n_head;
  h.kv_heads = k.heads.n_kv;
  h.experts = (int)(k.expert1 - k.expert0);
  if (n_redundant > 0 && h.experts) {  // copies, of experts that are all alike
    long slot0, slot1;
    ti_split(c->moe.n_expert + n_redundant, mesh->ep, ti_mesh_ep_of(mesh, worker), &slot0, &slot1);
    const uint64_t each = h.weight[TI_HOLD_EXPERTS] / (uint64_t)h.experts, more = each * (uint64_t)(slot1 - slot0 - h.experts);
    h.weight[TI_HOLD_EXPERTS] += more;
    h.weights += more;
    h.experts = (int)(slot1 - slot0);
  }
  *out = h;
  return TI_OK;
}
