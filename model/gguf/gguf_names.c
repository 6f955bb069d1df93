// What GGUF calls the tensors: one table of parts. See gguf_model.h.
#include <stdio.h>
#include <string.h>

#include "model/gguf/gguf_model.h"

static const char *const part_names[TI_PART_COUNT] = {[TI_PART_EMBED] = "token_embd",
                                                      [TI_PART_FINAL_NORM] = "output_norm",
                                                      [TI_PART_HEAD] = "output",
                                                      [TI_PART_ATTN_NORM] = "attn_norm",
                                                      [TI_PART_FFN_NORM] = "ffn_norm",
                                                      [TI_PART_Q] = "attn_q",
                                                      [TI_PART_K] = "attn_k",
                                                      [TI_PART_V] = "attn_v",
                                                      [TI_PART_O] = "attn_output",
                                                      [TI_PART_Q_NORM] = "attn_q_norm",
                                                      [TI_PART_K_NORM] = "attn_k_norm",
                                                      [TI_PART_Q_A] = "attn_q_a",
                                                      [TI_PART_Q_A_NORM] = "attn_q_a_norm",
                                                      [TI_PART_Q_B] = "attn_q_b",
                                                      [TI_PART_KV_A] = "attn_kv_a_mqa",
                                                      [TI_PART_KV_A_NORM] = "attn_kv_a_norm",
                                                      [TI_PART_KV_B] = "attn_kv_b",
                                                      [TI_PART_GATE] = "ffn_gate",
                                                      [TI_PART_UP] = "ffn_up",
                                                      [TI_PART_DOWN] = "ffn_down",
                                                      [TI_PART_ROUTER] = "ffn_gate_inp",
                                                      [TI_PART_SHARED_GATE] = "ffn_gate_shexp",
                                                      [TI_PART_SHARED_UP] = "ffn_up_shexp",
                                                      [TI_PART_SHARED_DOWN] = "ffn_down_shexp",
                                                      [TI_PART_EXPERT_GATE] = "ffn_gate_exps",
                                                      [TI_PART_EXPERT_UP] = "ffn_up_exps",
                                                      [TI_PART_EXPERT_DOWN] = "ffn_down_exps"};

ti_status ti_gguf_name(const ti_tensor_spec *s, char out[TI_TENSOR_NAME_MAX], bool *stacked) {
  const char *part = s->field == TI_FIELD_SCORE_BIAS ? "exp_probs_b" : part_names[s->part];
  if (!part || s->field == TI_FIELD_SCALE) return TI_ERR_NOTFOUND;
  const char *field = s->field == TI_FIELD_WEIGHT ? "weight" : "bias";
  *stacked = s->expert >= 0;
  if (s->layer < 0)
    snprintf(out, TI_TENSOR_NAME_MAX, "%s.%s", part, field);
  else
    snprintf(out, TI_TENSOR_NAME_MAX, "blk.%d.%s.%s", s->layer, part, field);
  return TI_OK;
}
