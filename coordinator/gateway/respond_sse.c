// Streamed answers: server-sent events, one a turn and choice.
//
//   data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"
//   a","logprobs":null,"finish_reason":null}]}\n\n data: [DONE]\n\n
#include <inttypes.h>
#include <string.h>

#include "coordinator/gateway/generate_priv.h"

void ti_sse_head(ti_gen *g) {
  const char *model = g->call->gw->cfg.model_names[0];
  ti_buf_printf(&g->head, "data: {\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":", g->id,
                g->req.kind == TI_API_CHAT ? "chat.completion.chunk" : "text_completion", g->created);
  ti_buf_json_string(&g->head, model, strlen(model));
  ti_buf_puts(&g->head, ",\"choices\":[");
}

static void put_usage(const ti_gen *g, ti_buf *out) {
  if (g->req.continuous_usage) {
    ti_buf_puts(out, ",\"usage\":");
    ti_respond_usage(g, out);
  } else if (g->req.include_usage) {
    ti_buf_puts(out, ",\"usage\":null");
  }
}

static void put_logprobs(const ti_choice *c, uint32_t from, uint32_t to, bool with_prompt, ti_buf *out) {
  const ti_gen *g = c->gen;
  ti_buf_puts(out, ",\"logprobs\":");
  if (!g->req.logprobs || (to == from && !with_prompt)) {
    ti_buf_puts(out, "null");
    return;
  }
  ti_scores part[2] = {ti_scores_of(c, from, to)};
  if (g->req.kind == TI_API_CHAT) {
    ti_logprobs_chat(g, part, out);
    return;
  }
  if (g->req.echo) {
    const ti_gen_prompt *p = &g->prompt[c->prompt];
    part[0].base = (uint32_t)ti_utf8_count(p->text.data, p->text.len);
  }
  uint32_t n = 1;
  if (with_prompt) {
    part[1] = part[0];
    part[0] = ti_scores_of_prompt(c);
    n = 2;
  }
  ti_logprobs_completion(g, part, n, out);
}

// Chat's first chunk of a choice, before any text.
static void put_role(ti_gen *g, const ti_choice *c, ti_buf *out) {
  ti_buf_append(out, g->head.data, g->head.len);
  ti_buf_printf(out, "{\"index\":%" PRIu32 ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]",
                c->index);
  if (g->req.return_token_ids) {
    ti_buf_puts(out, ",\"prompt_token_ids\":");
    ti_respond_ids(g->prompt[0].ids, g->prompt[0].n_ids, out);
  }
  put_usage(g, out);
  ti_buf_puts(out, "}\n\n");
}

void ti_sse_chunk(ti_gen *g, ti_choice *c, const char *text, size_t n, uint32_t from, uint32_t to, ti_buf *out) {
  const bool chat = g->req.kind == TI_API_CHAT, open = !c->opened;
  const ti_gen_prompt *p = &g->prompt[c->prompt];
  c->opened = true;
  if (chat && open) {
    put_role(g, c, out);
    if (n == 0 && !c->done && !g->req.logprobs && !g->req.return_token_ids) return;
  }
  ti_buf_append(out, g->head.data, g->head.len);
  ti_buf_printf(out, "{\"index\":%" PRIu32 ",", c->index);
  if (chat && n == 0) {
    ti_buf_puts(out, "\"delta\":{}");
  } else {
    ti_buf_puts(out, chat ? "\"delta\":{\"content\":" : "\"text\":");
    if (open && g->req.echo) {
      ti_buf_append(&g->prompt[c->prompt].text, text, n);  // one JSON string: prompt and text
      ti_buf_json_string(out, ti_buf_str(&p->text), p->text.len);
      g->prompt[c->prompt].text.len -= n;
    } else {
      ti_buf_json_string(out, text, n);
    }
    if (chat) ti_buf_putc(out, '}');
  }
  put_logprobs(c, from, to, open && g->req.echo && g->req.logprobs, out);
  ti_buf_putc(out, ',');
  ti_respond_end(c, out);
  if (g->req.return_token_ids) {
    ti_buf_puts(out, ",\"token_ids\":");
    ti_respond_ids(c->log ? ti_tokenlog_ids(c->log) + from : NULL, to - from, out);
    if (!chat && open) {
      ti_buf_puts(out, ",\"prompt_token_ids\":");
      ti_respond_ids(p->ids, p->n_ids, out);
    }
  }
  ti_buf_puts(out, "}]");
  put_usage(g, out);
  ti_buf_puts(out, "}\n\n");
}

void ti_sse_last(ti_gen *g, ti_buf *out) {
  if (g->req.include_usage) {
    ti_buf_append(out, g->head.data, g->head.len);
    ti_buf_puts(out, "],\"usage\":");
    ti_respond_usage(g, out);
    ti_buf_puts(out, "}\n\n");
  }
  ti_buf_puts(out, "data: [DONE]\n\n");
}
