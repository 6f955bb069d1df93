// A GGUF file as a model: its metadata as a ti_config, its tensors under Hugging Face's names, its tokenizer, its chat template.
//
// Architectures: llama (Mixtral, too: with experts), qwen2, qwen3, deepseek2 (DeepSeek V2, V3). What a file says and this reader does not know is
// refused by name when it would change the arithmetic: a tensor that the architecture has no use for, scales, soft caps, partial rotary embeddings.
//
//   metadata key                                   ti_config (by way of config.json's names: config.c checks the limits)
//   ARCH.embedding_length, .block_count, ...       hidden, n_layer, ...
//   token_embd.weight's rows                       vocab
//   no output.weight                               tie_embeddings
//   ARCH llama, deepseek2: always                  rope.interleaved: converters permute the rows of llama's Q and K so that pairs are (2i, 2i + 1)
//   rope_freqs.weight (Llama 3's factors)          rope.scaling = llama3, if the factors are those that Llama 3's formula gives
//   deepseek2.rope.scaling.yarn_log_multiplier     rope.mscale = rope.mscale_all_dim = 10 x it
//
// Sources: docs/gguf.md and gguf-py/gguf/constants.py of llama.cpp (names of keys and tensors).
#ifndef TI_MODEL_GGUF_GGUF_MODEL_H
#define TI_MODEL_GGUF_GGUF_MODEL_H
#include "model/config.h"
#include "model/gguf/gguf.h"
#include "model/names.h"

// Errors name the key (or config.json's name of it) without the file.
ti_status ti_gguf_config(const ti_gguf *g, ti_config *out, ti_error *err) TI_MUST_CHECK;

// The name in a GGUF file of the tensor that spec means, TI_ERR_NOTFOUND when there is none: model.layers.3.self_attn.q_proj.weight ->
// blk.3.attn_q.weight. *stacked: the tensor holds one such matrix an expert, [n_expert, rows, cols].
ti_status ti_gguf_name(const ti_tensor_spec *spec, char out[TI_TENSOR_NAME_MAX], bool *stacked) TI_MUST_CHECK;

// All tensors of cfg (NULL: of the file's own config), checked for presence, shape and type. g is taken: by *out when TI_OK, closed otherwise.
//
// DeepSeek's kv_b_proj is split by newer converters; a file that has the halves shows them, and no kv_b_proj:
//
//   kv_b_proj [head][nope + v][kv_lora]   of each head first W_UK, then W_UV
//   k_b_proj  [head][kv_lora][nope]       W_UK transposed, as the absorbed form takes it: "blk.3.attn_k_b" is model.layers.3.self_attn.k_b_proj
//   v_b_proj  [head][v][kv_lora]          W_UV
ti_status ti_gguf_checkpoint(ti_gguf *g, const ti_config *cfg, ti_checkpoint **out, ti_error *err) TI_MUST_CHECK;

// Whether this layer's kv_b_proj is there as halves; in checkpoints of other kinds it never is.
bool ti_gguf_kv_b_is_split(const ti_checkpoint *c, int layer);

// The embedded tokenizer: "gpt2" (byte-level BPE with the pre-tokenizers of tokenizer.h) or "llama" (scores). A gpt2-type one without merges is
// TI_ERR_FORMAT, a file without any TI_ERR_NOTFOUND.
ti_status ti_gguf_tokenizer(const ti_gguf *g, ti_tokenizer **out, ti_error *err) TI_MUST_CHECK;
// tokenizer.chat_template (Jinja), borrowed from g; TI_ERR_NOTFOUND when there is none.
ti_status ti_gguf_chat_template(const ti_gguf *g, ti_tok_text *out, ti_error *err) TI_MUST_CHECK;
// The text of the token that tokenizer.ggml.WHAT_token_id names ("bos", "eos", ...), borrowed from g; TI_ERR_NOTFOUND without text when there is
// none.
ti_status ti_gguf_special_token(const ti_gguf *g, const char *what, ti_tok_text *out, ti_error *err) TI_MUST_CHECK;

#endif
