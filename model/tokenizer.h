// Tokenizers: text <-> token ids, as a checkpoint's tokenizer.json (or a GGUF file's tables) says. docs/articles/tokenizers.md tells how.
//
//   text -> [cut out added tokens] -> [normalize] -> [pre-tokenize: regex splits] -> [BPE merges] -> ids -> [post-processor: BOS ...]
//   ids  -> [pieces: raw bytes a token] -> [hold back incomplete UTF-8] -> text
//
// Served: byte-level BPE (GPT-2, Llama-3, Qwen-2/3, SmolLM, DeepSeek-V3) and SentencePiece-style BPE with byte fallback (Llama-2). A kind that
// is not served is TI_ERR_UNSUPPORTED with its name and its place in the file.
//
// Threads: a ti_tokenizer is read-only after load and may be shared; a ti_tok_scratch, ti_ids and ti_detok belong to one thread at a time.
// Cost: encoding takes O(n log w) for n bytes and a longest pre-token of w bytes, whatever the text is; decoding O(bytes).
// Text: any bytes. Invalid UTF-8 is replaced by U+FFFD before tokenizing (one a maximal ill-formed part), because the reference
// implementations never see invalid text; so only valid UTF-8 round-trips.
#ifndef TI_MODEL_TOKENIZER_H
#define TI_MODEL_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

// What a file may ask for; beyond it is TI_ERR_RANGE.
#define TI_TOK_MAX_VOCAB (1 << 21)          // ids
#define TI_TOK_MAX_TOKEN_BYTES 4096         // one token's text
#define TI_TOK_MAX_FILE_BYTES (256u << 20)  // tokenizer.json
#define TI_TOK_MAX_TEXT_BYTES (64u << 20)   // one encode
#define TI_TOK_MAX_EOS 16
#define TI_TOK_MAX_TEMPLATE 16  // special tokens before, and after, a text

typedef struct ti_tokenizer ti_tokenizer;
typedef struct ti_tok_scratch ti_tok_scratch;

// A growing list of token ids with a mandatory maximum. The caller owns it.
typedef struct ti_ids {
  int32_t *v;
  size_t n, cap, max;
} ti_ids;

void ti_ids_init(ti_ids *ids, size_t max_ids);
void ti_ids_fini(ti_ids *ids);                                 // safe on a zeroed list
ti_status ti_ids_push(ti_ids *ids, int32_t id) TI_MUST_CHECK;  // TI_ERR_FULL beyond max, TI_ERR_NOMEM

// ---- loading ----

// path is a folder with tokenizer.json (and, where there: tokenizer_config.json, special_tokens_map.json, generation_config.json, which say
// bos, eos, pad and whether a BOS is added) or the tokenizer.json itself, or a .gguf file. Errors: TI_ERR_NOTFOUND, TI_ERR_IO, TI_ERR_FORMAT, TI_ERR_RANGE,
// TI_ERR_UNSUPPORTED, TI_ERR_NOMEM; the text names the file, the field and the value. The caller destroys *out.
ti_status ti_tokenizer_load(const char *path, ti_tokenizer **out, ti_error *err) TI_MUST_CHECK;
// From the text of a tokenizer.json alone: bos, eos and pad stay unknown unless its post-processor names them.
ti_status ti_tokenizer_create(const char *json, size_t n, ti_tokenizer **out, ti_error *err) TI_MUST_CHECK;

typedef struct ti_tok_text {
  const char *s;
  size_t n;
} ti_tok_text;

// A tokenizer's tables, as GGUF stores them (key names in brackets). All borrowed for the call.
typedef struct ti_tokenizer_parts {
  const char *model;          // "gpt2": byte-level BPE with merges; "llama": SentencePiece-style, merges follow from scores [tokenizer.ggml.model]
  const char *pre;            // "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-v3"; ignored for "llama" [tokenizer.ggml.pre]
  const ti_tok_text *tokens;  // [n_tokens]; an id is its index [tokenizer.ggml.tokens]
  size_t n_tokens;
  const float *scores;   // [n_tokens], wanted by "llama" only [tokenizer.ggml.scores]
  const int32_t *types;  // [n_tokens] 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; NULL: all normal [tokenizer.ggml.token_type]
  const ti_tok_text *merges;  // [n_merges] "left right", wanted by "gpt2" only [tokenizer.ggml.merges]
  size_t n_merges;
  int32_t bos, eos, pad, unk;  // -1: none [tokenizer.ggml.*_token_id]
  const int32_t *more_eos;  // [n_more_eos] further ids that end a text; -1: none [tokenizer.ggml.eot_token_id, eom_token_id]
  size_t n_more_eos;
  bool add_bos, add_eos;       // [tokenizer.ggml.add_bos_token, add_eos_token]
  bool add_space_prefix;       // "llama" only; GGUF's default is true [tokenizer.ggml.add_space_prefix]
} ti_tokenizer_parts;

ti_status ti_tokenizer_create_parts(const ti_tokenizer_parts *parts, ti_tokenizer **out, ti_error *err) TI_MUST_CHECK;
void ti_tokenizer_destroy(ti_tokenizer *t);  // NULL is fine

// ---- encoding ----

// Working memory and a bounded cache of recent pre-tokens (about 600 KiB); usable with any tokenizer, best with one.
ti_status ti_tok_scratch_create(ti_tok_scratch **out) TI_MUST_CHECK;
void ti_tok_scratch_destroy(ti_tok_scratch *s);  // NULL is fine

enum {
  TI_TOK_ADD_SPECIAL = 1,    // put what the post-processor says around the ids (BOS ...), or what add_bos_token / add_eos_token say without one
  TI_TOK_PARSE_SPECIAL = 2,  // special tokens spelled in the text become their ids; without it they are plain text: never for user text
};

// Appends the ids of text[n]. Added tokens that are not special are always recognised, as the file says.
// Errors leave out->n as it was: TI_ERR_FULL (more than out->max ids), TI_ERR_RANGE (text too long, or a regex beyond its match limit), TI_ERR_NOMEM.
ti_status ti_tokenizer_encode(const ti_tokenizer *t, ti_tok_scratch *s, const char *text, size_t n, unsigned flags, ti_ids *out,
                              ti_error *err) TI_MUST_CHECK;

// ---- decoding ----

enum {
  TI_TOK_SKIP_SPECIAL = 1,  // special tokens have no text
  TI_TOK_CONTINUE = 2,      // what comes continues a text: a SentencePiece-style tokenizer's leading space is kept
};

// Appends the text of ids[n]: valid UTF-8; bytes that form none are U+FFFD, one a maximal ill-formed part (for byte-fallback tokens the
// reference replaces the whole run of them, the well-formed part too; that cannot be done while streaming). TI_ERR_RANGE names the first id outside
// the vocabulary; TI_ERR_FULL, TI_ERR_NOMEM from out, whose length is then as before.
ti_status ti_tokenizer_decode(const ti_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, ti_buf *out, ti_error *err) TI_MUST_CHECK;

// Incremental decoding. The sum of what push and finish append equals ti_tokenizer_decode of the same ids; every append is whole characters.
// The body is embedded by callers; its fields are private.
typedef struct ti_detok {
  const ti_tokenizer *tok;  // borrowed until the last call
  unsigned flags;
  uint32_t strip_left;    // leading spaces still to be dropped
  unsigned char held[4];  // an incomplete character: up to 3 bytes
  uint8_t n_held;
} ti_detok;

void ti_detok_init(ti_detok *d, const ti_tokenizer *t, unsigned flags);
// Appends the bytes that id completes. An id without a token (a model's padding rows) has no text. TI_ERR_FULL, TI_ERR_NOMEM from out.
ti_status ti_detok_push(ti_detok *d, int32_t id, ti_buf *out) TI_MUST_CHECK;
// Appends U+FFFD if a character is left incomplete. d may be pushed to again.
ti_status ti_detok_finish(ti_detok *d, ti_buf *out) TI_MUST_CHECK;

// ---- the vocabulary ----

size_t ti_tokenizer_vocab_size(const ti_tokenizer *t);  // the largest id + 1
// The raw bytes of one token (not always valid UTF-8), borrowed from t and not NUL-terminated; n = 0 for an id without a token.
ti_tok_text ti_tokenizer_piece(const ti_tokenizer *t, int32_t id);
// The token as its file spells it ("Ġthe", "<0x0A>", "▁of").
ti_tok_text ti_tokenizer_spelling(const ti_tokenizer *t, int32_t id);
// The id of a spelling; -1 when there is none. O(n).
int32_t ti_tokenizer_id(const ti_tokenizer *t, const char *spelling, size_t n);
bool ti_tokenizer_is_special(const ti_tokenizer *t, int32_t id);
int32_t ti_tokenizer_bos(const ti_tokenizer *t);  // -1: none
int32_t ti_tokenizer_pad(const ti_tokenizer *t);  // -1: none
// Ids that end a text: generation_config.json's eos_token_id (one or a list), then tokenizer_config.json's eos_token. *out is borrowed; the count is
// returned.
size_t ti_tokenizer_eos(const ti_tokenizer *t, const int32_t **out);
bool ti_tokenizer_is_eos(const ti_tokenizer *t, int32_t id);
bool ti_tokenizer_adds_bos(const ti_tokenizer *t);  // whether TI_TOK_ADD_SPECIAL puts the BOS first

#endif
