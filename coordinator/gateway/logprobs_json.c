// logprobs objects: lists by field for completions, a list of tokens for chat.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "coordinator/gateway/generate_priv.h"
#include "model/tokenizer/utf8.h"

static ti_tok_text piece_of(const ti_gen *g, uint32_t id) {
  const ti_tokenizer *tok = g->call->gw->cfg.model.tokenizer;
  return tok && !g->req.tokens_as_ids ? ti_tokenizer_piece(tok, (int32_t)id) : (ti_tok_text){0};
}

// A token as a JSON string. Half a character has no text: it is spelled "bytes:\xe2\x80", as OpenAI does.
static void put_token(const ti_gen *g, uint32_t id, ti_buf *out) {
  const ti_tok_text p = piece_of(g, id);
  if (!g->call->gw->cfg.model.tokenizer || g->req.tokens_as_ids) {
    ti_buf_printf(out, "\"token_id:%" PRIu32 "\"", id);
  } else if (ti_utf8_valid(p.s, p.n)) {
    ti_buf_json_string(out, p.s, p.n);
  } else {
    ti_buf_puts(out, "\"bytes:");
    for (size_t i = 0; i < p.n; i++) ti_buf_printf(out, "\\\\x%02x", (unsigned char)p.s[i]);
    ti_buf_putc(out, '"');
  }
}

static void put_logprob(float v, ti_buf *out) {
  if (isnan(v)) {
    ti_buf_puts(out, "null");
  } else {
    ti_buf_printf(out, "%.9g", v < -9999.0f ? -9999.0 : (double)v);  // JSON has no infinity
  }
}

static bool in_top(const ti_top_logprob *t, uint32_t n, uint32_t id) {
  for (uint32_t i = 0; i < n; i++) {
    if (t->id[i] == id) return true;
  }
  return false;
}

static uint32_t top_count(const ti_gen *g, const ti_top_logprob *t) {
  const uint32_t want = (uint32_t)g->req.gen.sampling.n_logprob;
  return t->n < want ? t->n : want;
}

// {"token": logprob, ...}: the best, and the chosen one if it is not among them.
static void put_top_object(const ti_gen *g, const ti_scores *s, uint32_t i, ti_buf *out) {
  if (isnan(s->logprob[i])) {
    ti_buf_puts(out, "null");
    return;
  }
  const uint32_t n = s->top ? top_count(g, &s->top[i]) : 0;
  ti_buf_putc(out, '{');
  for (uint32_t k = 0; k < n; k++) {
    if (k) ti_buf_putc(out, ',');
    put_token(g, s->top[i].id[k], out);
    ti_buf_putc(out, ':');
    put_logprob(s->top[i].logprob[k], out);
  }
  if (n == 0 || !in_top(&s->top[i], n, s->ids[i])) {
    if (n) ti_buf_putc(out, ',');
    put_token(g, s->ids[i], out);
    ti_buf_putc(out, ':');
    put_logprob(s->logprob[i], out);
  }
  ti_buf_putc(out, '}');
}

typedef enum score_field { FIELD_OFFSET, FIELD_LOGPROB, FIELD_TOKEN, FIELD_TOP } score_field;

static void put_list(const ti_gen *g, const ti_scores *part, uint32_t n_part, score_field f, ti_buf *out) {
  bool first = true;
  ti_buf_putc(out, '[');
  for (uint32_t p = 0; p < n_part; p++) {
    const ti_scores *s = &part[p];
    for (uint32_t i = 0; i < s->n; i++) {
      if (!first) ti_buf_putc(out, ',');
      first = false;
      switch (f) {
        case FIELD_OFFSET:
          ti_buf_printf(out, "%" PRIu32, s->base + (s->offset ? s->offset[i] : 0));
          break;
        case FIELD_LOGPROB:
          put_logprob(s->logprob[i], out);
          break;
        case FIELD_TOKEN:
          put_token(g, s->ids[i], out);
          break;
        case FIELD_TOP:
          put_top_object(g, s, i, out);
          break;
      }
    }
  }
  ti_buf_putc(out, ']');
}

void ti_logprobs_completion(const ti_gen *g, const ti_scores *part, uint32_t n_part, ti_buf *out) {
  ti_buf_puts(out, "{\"text_offset\":");
  put_list(g, part, n_part, FIELD_OFFSET, out);
  ti_buf_puts(out, ",\"token_logprobs\":");
  put_list(g, part, n_part, FIELD_LOGPROB, out);
  ti_buf_puts(out, ",\"tokens\":");
  put_list(g, part, n_part, FIELD_TOKEN, out);
  ti_buf_puts(out, ",\"top_logprobs\":");
  put_list(g, part, n_part, FIELD_TOP, out);
  ti_buf_putc(out, '}');
}

static void put_chat_token(const ti_gen *g, uint32_t id, float logprob, ti_buf *out) {
  ti_buf_puts(out, "{\"token\":");
  put_token(g, id, out);
  ti_buf_puts(out, ",\"logprob\":");
  put_logprob(logprob, out);
  ti_buf_puts(out, ",\"bytes\":[");
  const ti_tok_text p = piece_of(g, id);
  for (size_t i = 0; i < p.n; i++) ti_buf_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)p.s[i]);
  ti_buf_putc(out, ']');
}

void ti_logprobs_chat(const ti_gen *g, const ti_scores *s, ti_buf *out) {
  ti_buf_puts(out, "{\"content\":[");
  for (uint32_t i = 0; i < s->n; i++) {
    if (i) ti_buf_putc(out, ',');
    put_chat_token(g, s->ids[i], s->logprob[i], out);
    ti_buf_puts(out, ",\"top_logprobs\":[");
    const uint32_t n = s->top ? top_count(g, &s->top[i]) : 0;
    for (uint32_t k = 0; k < n; k++) {
      if (k) ti_buf_putc(out, ',');
      put_chat_token(g, s->top[i].id[k], s->top[i].logprob[k], out);
      ti_buf_putc(out, '}');
    }
    ti_buf_puts(out, "]}");
  }
  ti_buf_puts(out, "],\"refusal\":null}");
}

ti_scores ti_scores_of(const ti_choice *c, uint32_t from, uint32_t to) {
  if (!c->log) return (ti_scores){0};
  const ti_top_logprob *top = ti_tokenlog_tops(c->log);
  return (ti_scores){.ids = ti_tokenlog_ids(c->log) + from,
                     .logprob = ti_tokenlog_logprobs(c->log) + from,
                     .top = top ? top + from : NULL,
                     .offset = c->offset ? c->offset + from : NULL,
                     .n = to - from};
}

ti_scores ti_scores_of_prompt(const ti_choice *c) {
  const ti_gen_prompt *p = &c->gen->prompt[c->prompt];
  return (ti_scores){
      .ids = p->ids, .logprob = ti_tokenlog_prompt_logprobs(c->log), .top = ti_tokenlog_prompt_tops(c->log), .offset = p->offset, .n = p->n_ids};
}
