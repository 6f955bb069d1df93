// Whole answers: completion and chat.completion objects.
#include <inttypes.h>
#include <string.h>

#include "coordinator/gateway/generate_priv.h"

void ti_respond_usage(const ti_gen *g, ti_buf *out) {
  uint64_t prompt = 0, tokens = 0;
  for (uint32_t i = 0; i < g->n_prompt; i++) prompt += g->prompt[i].n_ids;
  for (uint32_t i = 0; i < g->n_choice; i++) tokens += g->choice[i].seen;
  ti_buf_printf(out, "{\"prompt_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64 "}", prompt, prompt + tokens,
                tokens);
}

void ti_respond_ids(const uint32_t *ids, uint32_t n, ti_buf *out) {
  ti_buf_putc(out, '[');
  for (uint32_t i = 0; i < n; i++) ti_buf_printf(out, "%s%" PRIu32, i ? "," : "", ids[i]);
  ti_buf_putc(out, ']');
}

void ti_respond_end(const ti_choice *c, ti_buf *out) {
  if (!c->done) {
    ti_buf_puts(out, "\"finish_reason\":null");
    return;
  }
  ti_buf_printf(out, "\"finish_reason\":\"%s\",\"stop_reason\":", c->finish);
  if (c->end.end == TI_TEXT_STOP_STRING) {
    const ti_tok_text s = c->gen->req.gen.stop[c->end.stop_index];
    ti_buf_json_string(out, s.s, s.n);
  } else if (c->end.end == TI_TEXT_STOP_TOKEN) {
    ti_buf_printf(out, "%" PRIu32, c->end.stop_id);
  } else {
    ti_buf_puts(out, "null");
  }
}

static void put_logprobs(const ti_choice *c, ti_buf *out) {
  const ti_gen *g = c->gen;
  ti_buf_puts(out, ",\"logprobs\":");
  if (!g->req.logprobs) {
    ti_buf_puts(out, "null");
    return;
  }
  ti_scores part[2];
  uint32_t n = 0;
  part[n++] = ti_scores_of(c, 0, c->seen);
  if (g->req.kind == TI_API_CHAT) {
    ti_logprobs_chat(g, part, out);
    return;
  }
  if (g->req.echo) {
    const ti_gen_prompt *p = &g->prompt[c->prompt];
    part[1] = part[0];
    part[1].base = (uint32_t)ti_utf8_count(p->text.data, p->text.len);
    part[0] = ti_scores_of_prompt(c);
    n = 2;
  }
  ti_logprobs_completion(g, part, n, out);
}

static void put_choice(const ti_choice *c, ti_buf *out) {
  const ti_gen *g = c->gen;
  const ti_gen_prompt *p = &g->prompt[c->prompt];
  ti_buf_printf(out, "{\"index\":%" PRIu32, c->index);
  if (g->req.kind == TI_API_CHAT) {
    ti_buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    ti_buf_json_string(out, ti_buf_str(&c->text), c->text.len);
    ti_buf_puts(out, ",\"refusal\":null}");
  } else {
    ti_buf_puts(out, ",\"text\":");
    ti_buf_json_string(out, ti_buf_str(&c->text), c->text.len);
  }
  put_logprobs(c, out);
  ti_buf_putc(out, ',');
  ti_respond_end(c, out);
  if (g->req.return_token_ids) {
    ti_buf_puts(out, ",\"token_ids\":");
    ti_respond_ids(c->log ? ti_tokenlog_ids(c->log) : NULL, c->seen, out);
    if (g->req.kind == TI_API_COMPLETION) {
      ti_buf_puts(out, ",\"prompt_token_ids\":");
      ti_respond_ids(p->ids, p->n_ids, out);
    }
  }
  ti_buf_putc(out, '}');
}

void ti_respond_json(const ti_gen *g, ti_buf *out) {
  const bool chat = g->req.kind == TI_API_CHAT;
  const char *model = g->call->gw->cfg.model_names[0];
  ti_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":", g->id, chat ? "chat.completion" : "text_completion",
                g->created);
  ti_buf_json_string(out, model, strlen(model));
  ti_buf_puts(out, ",\"choices\":[");
  for (uint32_t i = 0; i < g->n_choice; i++) {
    if (i) ti_buf_putc(out, ',');
    put_choice(&g->choice[i], out);
  }
  ti_buf_puts(out, "],\"usage\":");
  ti_respond_usage(g, out);
  if (chat && g->req.return_token_ids) {
    ti_buf_puts(out, ",\"prompt_token_ids\":");
    ti_respond_ids(g->prompt[0].ids, g->prompt[0].n_ids, out);
  }
  ti_buf_putc(out, '}');
}
