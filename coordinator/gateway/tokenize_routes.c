// POST /tokenize and /detokenize, on text threads.
#include <inttypes.h>
#include <string.h>

#include "coordinator/gateway/generate_priv.h"

static void answer_tokens(ti_call *c, const ti_api_request *r, const ti_ids *ids) {
  const ti_prompt_source *m = &c->gw->cfg.model;
  ti_buf b;
  ti_buf_init(&b, c->gw->cfg.max_answer_bytes);
  ti_buf_printf(&b, "{\"count\":%zu,\"max_model_len\":%" PRIu32 ",\"tokens\":", ids->n, m->lim.max_model_len);
  ti_respond_ids((const uint32_t *)ids->v, (uint32_t)ids->n, &b);
  ti_buf_puts(&b, ",\"token_strs\":");
  if (r->return_token_strs) {
    ti_buf_putc(&b, '[');
    for (size_t i = 0; i < ids->n; i++) {
      const ti_tok_text s = ti_tokenizer_spelling(m->tokenizer, ids->v[i]);
      if (i) ti_buf_putc(&b, ',');
      ti_buf_json_string(&b, s.s, s.n);
    }
    ti_buf_putc(&b, ']');
  } else {
    ti_buf_puts(&b, "null");
  }
  ti_buf_putc(&b, '}');
  if (b.failed) {
    ti_buf_fini(&b);
    ti_call_fail(c, 500, NULL, NULL, "the answer is larger than %zu bytes", c->gw->cfg.max_answer_bytes);
  } else {
    ti_call_reply(c, 200, "application/json", &b);
  }
}

void ti_route_tokenize(ti_call *c, ti_text_thread *th) {
  ti_prompt_source m = c->gw->cfg.model;
  m.lim.max_model_len = UINT32_MAX;  // a count is wanted, whatever fits
  ti_api_request r = {0};
  ti_error err = {0};
  ti_buf chat;
  ti_ids ids;
  ti_buf_init(&chat, TI_TOK_MAX_TEXT_BYTES);
  ti_ids_init(&ids, TI_TOK_MAX_TEXT_BYTES);
  ti_status st = ti_api_parse_tokenize(ti_buf_str(&c->body), c->body.len, &m.lim, &r, &err);
  ti_call_drop_body(c);
  if (!st && !ti_model_is_served(c, r.model)) goto done;
  if (!st && r.vars) st = ti_prepare_chat(&m, r.vars, &chat, &err);
  const char *text = r.vars || !r.n_prompt ? ti_buf_str(&chat) : r.prompt->text;
  const size_t n = r.vars || !r.n_prompt ? chat.len : r.prompt->n_text;
  if (!st) st = ti_prepare_text(&m, ti_text_scratch(th), text, n, r.add_special_tokens, &ids, &err);
  if (st) {
    ti_call_fail_error(c, &err);
  } else {
    answer_tokens(c, &r, &ids);
  }
done:
  ti_ids_fini(&ids);
  ti_buf_fini(&chat);
  ti_api_request_fini(&r);
}

void ti_route_detokenize(ti_call *c, ti_text_thread *th) {
  const ti_prompt_source *m = &c->gw->cfg.model;
  ti_api_request r = {0};
  ti_error err = {0};
  ti_buf text, body;
  ti_buf_init(&text, c->gw->cfg.max_answer_bytes);
  ti_buf_init(&body, c->gw->cfg.max_answer_bytes);
  ti_status st = ti_api_parse_detokenize(ti_buf_str(&c->body), c->body.len, &m->lim, &r, &err);
  ti_call_drop_body(c);
  if (!st && !ti_model_is_served(c, r.model)) goto done;
  if (!st && !m->tokenizer) st = ti_error_set(&err, TI_ERR_UNSUPPORTED, "tokens: this model has no tokenizer");
  const unsigned flags = json_is_true(json_object_get(r.root, "skip_special_tokens")) ? TI_TOK_SKIP_SPECIAL : 0;
  if (!st) st = ti_tokenizer_decode(m->tokenizer, (const int32_t *)r.prompt->ids, r.prompt->n_ids, flags, &text, &err);
  if (!st) {
    ti_buf_puts(&body, "{\"prompt\":");
    ti_buf_json_string(&body, ti_buf_str(&text), text.len);
    st = ti_buf_putc(&body, '}');
    if (st) ti_error_set(&err, TI_ERR_INTERNAL, "the answer is larger than %zu bytes", c->gw->cfg.max_answer_bytes);
  }
  if (st) {
    ti_call_fail_error(c, &err);
  } else {
    ti_call_reply(c, 200, "application/json", &body);
  }
done:
  ti_buf_fini(&text);
  ti_buf_fini(&body);
  ti_api_request_fini(&r);
}
