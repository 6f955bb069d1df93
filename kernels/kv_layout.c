// The arithmetic of the KV pool (kernel.h draws it): one function, shared by every backend, the page allocator and the start-up report, so that
// nobody computes a stride of his own. Pure; any thread.
#include "base/size.h"
#include "kernels/kernel.h"

#define MAX_DIM 1024     // backends keep one head, or one latent, on the stack or in registers
#define LAYER_ALIGN 64u  // a layer starts on a cache line, whatever the head's size
#define FP8_BLOCK 128    // latent numbers that share a scale

static ti_status check_range(const char *name, int v, int lo, int hi, ti_error *err) {
  if (v >= lo && v <= hi) return TI_OK;
  return ti_error_set(err, TI_ERR_ARG, "KV layout: %s is %d; it must be from %d to %d", name, v, lo, hi);
}

static ti_status check(const ti_kv_layout *l, ti_error *err) {
  if (l->dtype != TI_F32 && l->dtype != TI_BF16 && l->dtype != TI_E4M3)
    return ti_error_set(err, TI_ERR_ARG, "KV layout: dtype number %d; it must be F32, BF16 or F8_E4M3", (int)l->dtype);
  ti_status st = check_range("page_tokens", l->page_tokens, 8, 256, err);
  if (st != TI_OK) return st;
  if (l->page_tokens & (l->page_tokens - 1))
    return ti_error_set(err, TI_ERR_ARG, "KV layout: page_tokens is %d; it must be a power of two", l->page_tokens);
  st = check_range("n_layer", l->n_layer, 1, 4096, err);
  if (st != TI_OK) return st;
  if (l->kind == TI_KV_GQA) {
    st = check_range("n_kv_head", l->n_kv_head, 1, 4096, err);
    return st != TI_OK ? st : check_range("head_dim", l->head_dim, 1, MAX_DIM, err);
  }
  if (l->kind != TI_KV_MLA) return ti_error_set(err, TI_ERR_ARG, "KV layout: kind number %d; it must be GQA or MLA", (int)l->kind);
  st = check_range("latent", l->latent, 1, MAX_DIM, err);
  if (st == TI_OK) st = check_range("rope", l->rope, 1, MAX_DIM, err);
  if (st == TI_OK && l->dtype == TI_E4M3 && l->latent % FP8_BLOCK != 0)
    return ti_error_set(err, TI_ERR_ARG, "KV layout: latent is %d; with F8_E4M3 it must be a multiple of %d", l->latent, FP8_BLOCK);
  return st;
}

ti_status ti_kv_layout_init(ti_kv_layout *l, ti_error *err) {
  const ti_status st = check(l, err);
  if (st != TI_OK) return st;
  const size_t tokens = (size_t)l->page_tokens, el = l->dtype == TI_F32 ? 4 : l->dtype == TI_BF16 ? 2 : 1;
  size_t layer;
  l->head_stride = l->v_offset = l->k_scale_offset = l->v_scale_offset = 0;
  if (l->kind == TI_KV_GQA) {  // at most 4096 * 256 * 1024 * 8 bytes: fits
    l->token_stride = (size_t)l->head_dim * el;
    l->head_stride = tokens * l->token_stride;
    l->v_offset = (size_t)l->n_kv_head * l->head_stride;
    layer = 2 * l->v_offset;
    if (l->dtype == TI_E4M3) {
      l->k_scale_offset = layer;
      l->v_scale_offset = layer + (size_t)l->n_kv_head * tokens * sizeof(float);
      layer += 2 * (size_t)l->n_kv_head * tokens * sizeof(float);
    }
  } else {
    const size_t latent = (size_t)l->latent, rope = (size_t)l->rope;
    l->token_stride = l->dtype == TI_E4M3 ? latent + latent / FP8_BLOCK * sizeof(float) + rope * 2 : (latent + rope) * el;
    layer = tokens * l->token_stride;
  }
  l->layer_bytes = ti_size_align(layer, LAYER_ALIGN);
  l->page_bytes = l->layer_bytes * (size_t)l->n_layer;
  return TI_OK;
}
