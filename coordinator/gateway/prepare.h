// The last step before the coordinator, for both doors: checked parameters + prompt ids -> a ti_request_spec with its logs.
//
// And the first: text or messages -> ids. Everything here runs on text threads (it tokenizes); the loop never sees a request that this refuses.
#ifndef TI_COORDINATOR_GATEWAY_PREPARE_H
#define TI_COORDINATOR_GATEWAY_PREPARE_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/inbox.h"
#include "base/status.h"
#include "coordinator/coordinator.h"
#include "coordinator/gateway/params.h"
#include "model/chat.h"
#include "model/tokenizer.h"

typedef struct ti_prompt_source {  // what a model brings along; all borrowed, read-only, shared by threads
  const ti_tokenizer *tokenizer;   // NULL: prompts are ids
  const ti_chat_template *chat;    // NULL: no chat
  const json_t *special_tokens;    // variables of the template (bos_token ...); may be NULL
  ti_gen_limits lim;
} ti_prompt_source;

// How many ids to tokenize at most: enough to say how long a prompt beyond the context is, unless it is so long that counting it would keep the
// thread from its streams. For ti_ids_init.
size_t ti_prepare_max_ids(const ti_gen_limits *lim);

// Text -> ids (special tokens spelled in it count: the caller wrote the whole prompt). A text with more ids than a context holds is TI_ERR_FULL, with
// both numbers in the text: "prompt: the model's context is 4096 tokens, but the prompt has 5000" (or "more than", beyond out->max).
// out is empty before. add_special: put BOS and the like.
ti_status ti_prepare_text(const ti_prompt_source *m, ti_tok_scratch *scratch, const char *text, size_t n, bool add_special, ti_ids *out,
                          ti_error *err) TI_MUST_CHECK;
// vars (messages, tools, add_generation_prompt ...) -> text by the template. TI_ERR_ARG: the template refuses the conversation, in its words.
ti_status ti_prepare_chat(const ti_prompt_source *m, const json_t *vars, ti_buf *out, ti_error *err) TI_MUST_CHECK;

typedef struct ti_prepare {
  const ti_gen_params *gen;  // checked; bias and stop ids are copied
  const ti_gen_limits *lim;
  const ti_tokenizer *tokenizer;  // its EOS ids are added to the stop ids; NULL: none
  const uint32_t *ids;            // [n_ids], copied
  uint32_t n_ids;
  ti_inbox *subscriber;  // of the logs; NULL: nobody is told
  void *const *owner;    // [gen->n], one a log; NULL: none
  uint64_t deadline_us;  // 0: none
} ti_prepare;

// *spec goes to submit (or to ti_request_spec_destroy). log: [gen->n], a reference each for the caller. *max_tokens: what was decided (asked for, or
// what the context leaves). Errors: TI_ERR_FULL (prompt, or prompt + max_tokens, beyond the context: both numbers in the text), TI_ERR_RANGE,
// TI_ERR_NOMEM.
ti_status ti_prepare_spec(const ti_prepare *p, ti_request_spec **spec, ti_tokenlog **log, uint32_t *max_tokens, ti_error *err) TI_MUST_CHECK;

#endif
