// `titan chat`: an interactive conversation with history, answers streamed. Over HTTP, or over the NNG door.
//
//   /reset forgets the conversation, /undo the last exchange, /system TEXT sets the system message, /history shows it, /save FILE writes it as JSON,
//   /quit (or end of input) ends. A line that ends with '\' goes on. Control-C ends the command.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/tool/nng.h"
#include "client/tool/tool.h"

enum { LINE_MAX_BYTES = 4 << 20, ANSWER_MAX = 64 << 20 };

typedef struct session {
  ti_server s;
  ti_sampling_flags f;
  ti_http_url url;
  char *model;
  titan *nng;  // NULL: HTTP
  json_t *messages;
  ti_buf answer;  // of the turn
} session;

static ti_status add_message(session *c, const char *role, const char *text, size_t n) {
  json_t *content = json_stringn(text, n);
  if (!content) return TI_ERR_FORMAT;
  return json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", role, "content", content)) == 0 ? TI_OK : TI_ERR_NOMEM;
}

static ti_status take_text(void *arg, const char *text, size_t n) {
  session *c = arg;
  const ti_status st = ti_buf_append(&c->answer, text, n);
  return ti_failed(st) ? st : ti_tool_print(NULL, text, n);
}

static ti_status ask(session *c, ti_error *err) {
  ti_stream_result result;
  ti_status st;
  ti_buf_reset(&c->answer);
  if (c->nng) {
    char *text = json_dumps(c->messages, JSON_COMPACT);
    if (!text) return ti_error_set(err, TI_ERR_NOMEM, "no memory for the conversation");
    st = ti_tool_nng_generate(c->nng, &c->s, &c->f, NULL, text, take_text, c, &result, err);
    free(text);
  } else {
    json_t *body = json_pack("{s:s, s:O, s:b}", "model", c->model, "messages", c->messages, "stream", 1);
    ti_tool_put_sampling(&c->f, body);
    st = ti_tool_stream(&c->s, &c->url, "/v1/chat/completions", body, take_text, c, &result, err);
    json_decref(body);
  }
  if (ti_failed(st) && !err->code) ti_error_set(err, st, "%s", ti_status_text(st));
  printf("\n");
  fflush(stdout);
  return st;
}

static void forget_last(session *c) {
  const size_t n = json_array_size(c->messages);
  if (n) json_array_remove(c->messages, n - 1);
}

static bool is_role(const json_t *m, const char *role) {
  const char *r = json_string_value(json_object_get(m, "role"));
  return r && strcmp(r, role) == 0;
}

static void set_system(session *c, const char *text) {
  if (is_role(json_array_get(c->messages, 0), "system")) json_array_remove(c->messages, 0);
  if (*text) json_array_insert_new(c->messages, 0, json_pack("{s:s, s:s}", "role", "system", "content", text));
}

// A line that begins with '/'. false: the end.
static bool command(session *c, const char *line) {
  const json_t *m;
  size_t i;
  if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
  if (strcmp(line, "/reset") == 0) {
    json_t *first = json_incref(json_array_get(c->messages, 0));
    json_array_clear(c->messages);
    if (is_role(first, "system")) json_array_append(c->messages, first);
    json_decref(first);
  } else if (strcmp(line, "/undo") == 0) {
    if (is_role(json_array_get(c->messages, json_array_size(c->messages) - 1), "assistant")) forget_last(c);
    if (is_role(json_array_get(c->messages, json_array_size(c->messages) - 1), "user")) forget_last(c);
  } else if (strncmp(line, "/system", 7) == 0 && (!line[7] || line[7] == ' ')) {
    set_system(c, line[7] ? line + 8 : "");
  } else if (strcmp(line, "/history") == 0) {
    json_array_foreach(c->messages, i, m)
        printf("%s: %s\n", json_string_value(json_object_get(m, "role")), json_string_value(json_object_get(m, "content")));
  } else if (strncmp(line, "/save ", 6) == 0) {
    if (json_dump_file(c->messages, line + 6, JSON_INDENT(2)) != 0) fprintf(stderr, "cannot write %s\n", line + 6);
  } else {
    printf("/reset /undo /system TEXT /history /save FILE /quit\n");
  }
  return true;
}

// One input, its continuation lines joined, without the newline. false: the end of input.
static bool read_input(ti_buf *out, bool prompt) {
  char *line = NULL;
  size_t room = 0;
  ssize_t n;
  ti_buf_reset(out);
  if (prompt) printf("> ");
  fflush(stdout);
  while ((n = getline(&line, &room, stdin)) >= 0) {
    if (n && line[n - 1] == '\n') n--;
    const bool more = n && line[n - 1] == '\\';
    ti_buf_append(out, line, (size_t)(more ? n - 1 : n));
    if (!more) break;
    ti_buf_putc(out, '\n');
    if (prompt) printf(". ");
    fflush(stdout);
  }
  free(line);
  return n >= 0 || out->len;
}

static int converse(session *c, const char *first, ti_error *err) {
  const bool prompt = isatty(STDIN_FILENO) && !first;
  int rc = 0;
  ti_buf in;
  ti_buf_init(&in, LINE_MAX_BYTES);
  if (first) ti_buf_puts(&in, first);
  while (first || read_input(&in, prompt)) {
    const char *text = ti_buf_str(&in);
    if (!first && text[0] == '/') {
      if (!command(c, text)) break;
      continue;
    }
    if (!text[0] && !first) continue;
    ti_error why = {0};
    ti_status st =
        in.failed ? ti_error_set(&why, TI_ERR_RANGE, "a message of more than %d bytes", LINE_MAX_BYTES) : add_message(c, "user", text, in.len);
    if (st == TI_ERR_FORMAT)
      ti_error_set(&why, st, "the message is not UTF-8");
    else if (!ti_failed(st) && ti_failed(ask(c, &why))) {
      st = why.code;
      forget_last(c);
    } else if (!ti_failed(st)) {
      st = add_message(c, "assistant", ti_buf_str(&c->answer), c->answer.len);
    }
    if (ti_failed(st)) rc = ti_tool_fail("chat", &why);
    if (first || (ti_failed(st) && !prompt)) break;  // a person may try again, a script may not go on as if nothing had happened
  }
  if (prompt) printf("\n");
  ti_buf_fini(&in);
  return rc;
}

int ti_tool_chat(int argc, char **argv) {
  session c = {.s = TI_SERVER_DEFAULT, .f = TI_SAMPLING_DEFAULT};
  c.f.max_tokens = 1024;
  const char *system = NULL;
  const ti_opt opts[] = {TI_SERVER_OPTS(c.s),
                         TI_MODEL_OPT(c.s),
                         {"system", "TEXT", "the system message", .kind = TI_OPT_TEXT, .target = &system},
                         TI_SAMPLING_OPTS(c.f),
                         TI_SERVER_TLS_OPTS(c.s)};
  const ti_command cmd = {"chat",
                          "[MESSAGE]",
                          "Talks to a model; answers are streamed and remembered. With MESSAGE: one answer, then it ends.",
                          "commands while talking: /reset /undo /system TEXT /history /save FILE /quit; a line that ends with '\\' goes on",
                          0,
                          1};
  int first;
  int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  c.messages = json_array();
  ti_buf_init(&c.answer, ANSWER_MAX);
  ti_status st = TI_OK;
  if (system) set_system(&c, system);
  if (ti_tool_is_http(c.s.url)) {
    st = ti_http_url_parse(c.s.url, &c.url, &err);
    if (!ti_failed(st)) st = ti_tool_model_name(&c.s, &c.url, &c.model, &err);
  } else {
    st = ti_tool_nng_open(&c.s, &c.nng, &err);
  }
  rc = ti_failed(st) ? ti_tool_fail("chat", &err) : converse(&c, argv[first], &err);
  ti_buf_fini(&c.answer);
  json_decref(c.messages);
  titan_close(c.nng);
  free(c.model);
  return rc;
}
