// Token ids -> text that may be sent: detokenizing and stop strings, for both doors.
//
//   ids -> [detok: whole characters] -> held [ ... may begin a stop string ... ] -> out
//
// Text is given out as soon as no stop string can begin in it. A stop string is found wherever the tokens cut it; the first that is complete ends the
// text (of several that are complete at the same byte, the one that begins first), and what follows is dropped. Each stop string is matched by
// Knuth-Morris-Pratt, whose state is also the length that must be held back; cost: O(stop strings) a byte.
// A stop token (stop_id, or EOS unless ignore_eos) has no text. Neither ends anything before min_tokens tokens.
// One thread at a time. Two calls with the ids cut differently give the same text.
#ifndef TI_COORDINATOR_GATEWAY_TEXTSTREAM_H
#define TI_COORDINATOR_GATEWAY_TEXTSTREAM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "coordinator/gateway/params.h"
#include "model/tokenizer.h"

typedef struct ti_textstream ti_textstream;

// tok: borrowed; NULL: no text at all (models without a tokenizer), only stop ids are looked for. p's lists are copied.
ti_status ti_textstream_create(const ti_tokenizer *tok, const ti_gen_params *p, ti_textstream **out) TI_MUST_CHECK;
void ti_textstream_destroy(ti_textstream *t);  // NULL is fine

// Takes ids[n] in order and appends to out what may be sent. Stops taking at a stop string or stop token: see ended.
// offset: NULL, or [n]: the count of characters (code points) of text before each taken token. TI_ERR_FULL, TI_ERR_NOMEM from out; t is then useless.
ti_status ti_textstream_push(ti_textstream *t, const uint32_t *ids, uint32_t n, uint32_t *offset, ti_buf *out) TI_MUST_CHECK;
// No more tokens: appends what was held back. Not after a stop string.
ti_status ti_textstream_finish(ti_textstream *t, ti_buf *out) TI_MUST_CHECK;

typedef enum ti_text_end { TI_TEXT_GOES_ON, TI_TEXT_STOP_STRING, TI_TEXT_STOP_TOKEN, TI_TEXT_EOS } ti_text_end;
typedef struct ti_textstream_state {
  ti_text_end end;
  uint32_t n_token;     // taken so far; at an end: all that count
  uint32_t stop_index;  // STOP_STRING: which of p->stop
  uint32_t stop_id;     // STOP_TOKEN, EOS
  size_t n_char;        // characters of text so far, held ones included
} ti_textstream_state;
ti_textstream_state ti_textstream_peek(const ti_textstream *t);

size_t ti_utf8_count(const char *s, size_t n);  // code points of valid UTF-8

#endif
