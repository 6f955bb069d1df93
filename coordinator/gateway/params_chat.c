// Bodies of /v1/chat/completions (see params.h): messages and tools become the variables of the chat template.
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "coordinator/gateway/params_priv.h"

enum { CHAT_MAX_MESSAGES = 65536 };

// content parts -> one string; parts are joined by a line break, as vLLM does for templates that take plain text.
static ti_status join_parts(const json_t *parts, size_t message, json_t **out, ti_error *err) {
  ti_buf b;
  ti_buf_init(&b, TI_TOK_MAX_TEXT_BYTES);
  ti_status st = TI_OK;
  for (size_t i = 0; i < json_array_size(parts) && !st; i++) {
    const json_t *p = json_array_get(parts, i);
    const char *type = json_string_value(json_object_get(p, "type"));
    const json_t *text = json_is_string(p) ? p : json_object_get(p, "text");
    const bool is_text = json_is_string(p) || (type && (!strcmp(type, "text") || !strcmp(type, "input_text") || !strcmp(type, "refusal")));
    if (!json_is_string(p) && !type) {
      st = ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].content[%zu]: expected an object with a type, got %s", message, i, ti_json_kind(p));
    } else if (!is_text) {
      st = ti_error_set(err, TI_ERR_UNSUPPORTED, "messages[%zu].content[%zu]: type \"%.40s\" is not supported; this model reads text only", message,
                        i, type);
    } else {
      if (type && !strcmp(type, "refusal") && !text) text = json_object_get(p, "refusal");
      if (!json_is_string(text)) {
        st = ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].content[%zu].text: expected a string, got %s", message, i, ti_json_kind(text));
      } else {
        if (i > 0) ti_buf_putc(&b, '\n');
        ti_buf_append(&b, json_string_value(text), json_string_length(text));
      }
    }
  }
  if (!st && b.failed) st = ti_error_set(err, TI_ERR_RANGE, "messages[%zu].content: longer than %u bytes", message, TI_TOK_MAX_TEXT_BYTES);
  if (!st) {
    *out = json_stringn(ti_buf_str(&b), b.len);
    if (!*out) st = ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  }
  ti_buf_fini(&b);
  return st;
}

// tool_calls[].function.arguments is JSON text on the wire, an object in templates. m is ours to change, deeply.
static ti_status open_arguments(json_t *m, size_t message, ti_error *err) {
  json_t *calls = json_object_get(m, "tool_calls"), *call;
  size_t i;
  if (!calls || json_is_null(calls)) return TI_OK;
  if (!json_is_array(calls))
    return ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].tool_calls: expected an array, got %s", message, ti_json_kind(calls));
  json_array_foreach(calls, i, call) {
    json_t *f = json_object_get(call, "function");
    const json_t *args = json_object_get(f, "arguments");
    if (!json_is_object(f) || !json_is_string(json_object_get(f, "name")))
      return ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].tool_calls[%zu].function: expected an object with a name", message, i);
    json_t *parsed = NULL;
    if (!json_is_string(args)) continue;
    if (ti_json_parse(json_string_value(args), json_string_length(args), &parsed, NULL) == TI_OK && json_is_object(parsed)) {
      json_object_set(f, "arguments", parsed);
    }
    json_decref(parsed);
  }
  return TI_OK;
}

static ti_status read_message(const json_t *in, size_t i, json_t **out, ti_error *err) {
  if (!json_is_object(in)) return ti_error_set(err, TI_ERR_FORMAT, "messages[%zu]: expected an object, got %s", i, ti_json_kind(in));
  const json_t *role = json_object_get(in, "role"), *content = json_object_get(in, "content");
  if (!json_is_string(role) || !json_string_length(role))
    return ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].role: expected a string, got %s", i, ti_json_kind(role));
  const bool has_calls = json_array_size(json_object_get(in, "tool_calls")) > 0;
  if (!json_is_string(content) && !json_is_array(content) && !((!content || json_is_null(content)) && has_calls))
    return ti_error_set(err, TI_ERR_FORMAT, "messages[%zu].content: expected a string or an array of parts, got %s", i, ti_json_kind(content));
  json_t *m = has_calls ? json_deep_copy(in) : json_copy((json_t *)(uintptr_t)in);
  if (!m) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  ti_status st = TI_OK;
  if (json_is_array(content)) {
    json_t *text = NULL;
    st = join_parts(content, i, &text, err);
    if (!st) json_object_set_new(m, "content", text);
  } else if (!json_is_string(content)) {
    json_object_set_new(m, "content", json_string(""));
  }
  if (!st && !strcmp(json_string_value(role), "developer")) json_object_set_new(m, "role", json_string("system"));
  if (!st && has_calls) st = open_arguments(m, i, err);
  if (st) {
    json_decref(m);
    return st;
  }
  *out = m;
  return TI_OK;
}

ti_status ti_chat_messages(const json_t *messages, json_t **out, ti_error *err) {
  if (!json_is_array(messages)) return ti_error_set(err, TI_ERR_FORMAT, "messages: expected an array, got %s", ti_json_kind(messages));
  const size_t n = json_array_size(messages);
  if (n == 0) return ti_error_set(err, TI_ERR_RANGE, "messages: is empty");
  if (n > CHAT_MAX_MESSAGES) return ti_error_set(err, TI_ERR_RANGE, "messages: %zu messages, at most %d are served", n, CHAT_MAX_MESSAGES);
  json_t *list = json_array();
  for (size_t i = 0; i < n; i++) {
    json_t *m = NULL;
    const ti_status st = read_message(json_array_get(messages, i), i, &m, err);
    if (st) {
      json_decref(list);
      return st;
    }
    json_array_append_new(list, m);
  }
  *out = list;
  return TI_OK;
}

// tools, unless tool_choice is "none". What would force a call is refused: the model's text is not parsed for calls.
static ti_status read_tools(const json_t *body, json_t *vars, ti_error *err) {
  json_t *tools = json_object_get(body, "tools"), *tool;
  const json_t *choice = json_object_get(body, "tool_choice");
  const char *how = json_string_value(choice);
  if (choice && !json_is_null(choice) && !(how && (!strcmp(how, "none") || !strcmp(how, "auto"))))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "tool_choice: only \"auto\" and \"none\" are supported");
  if (!tools || json_is_null(tools)) return TI_OK;
  if (!json_is_array(tools)) return ti_error_set(err, TI_ERR_FORMAT, "tools: expected an array, got %s", ti_json_kind(tools));
  size_t i;
  json_array_foreach(tools, i, tool) {
    if (!json_is_string(json_object_get(json_object_get(tool, "function"), "name")))
      return ti_error_set(err, TI_ERR_FORMAT, "tools[%zu]: expected an object with a function and its name", i);
  }
  if (json_array_size(tools) && !(how && !strcmp(how, "none"))) json_object_set(vars, "tools", tools);
  return TI_OK;
}

ti_status ti_api_chat_vars(ti_api_request *r, ti_error *err) {
  const json_t *kwargs = json_object_get(r->root, "chat_template_kwargs");
  if (kwargs && !json_is_null(kwargs) && !json_is_object(kwargs))
    return ti_error_set(err, TI_ERR_FORMAT, "chat_template_kwargs: expected an object, got %s", ti_json_kind(kwargs));
  bool add_prompt = true, go_on = false;
  ti_status st = ti_json_bool(r->root, "add_generation_prompt", &add_prompt, err);
  if (!st) st = ti_json_bool(r->root, "continue_final_message", &go_on, err);
  if (st) return st;
  if (go_on)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "continue_final_message: true is not supported; use /v1/completions with the rendered text");
  r->vars = json_object();
  if (!r->vars) return ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  json_object_set_new(r->vars, "tools", json_null());
  json_object_set_new(r->vars, "documents", json_null());
  json_object_set_new(r->vars, "add_generation_prompt", json_boolean(add_prompt));
  st = read_tools(r->root, r->vars, err);
  if (st) return st;
  if (json_is_object(kwargs)) json_object_update(r->vars, (json_t *)(uintptr_t)kwargs);
  json_t *messages = NULL;
  st = ti_chat_messages(json_object_get(r->root, "messages"), &messages, err);
  if (st) return st;
  json_object_set_new(r->vars, "messages", messages);
  return TI_OK;
}

ti_status ti_api_parse_chat(const char *body, size_t n, const ti_gen_limits *lim, ti_api_request *r, ti_error *err) {
  ti_status st = ti_api_open(r, TI_API_CHAT, body, n, err);
  if (!st && !lim->has_tokenizer)
    st = ti_error_set(err, TI_ERR_UNSUPPORTED, "messages: this model has no tokenizer; use /v1/completions with an array of token ids");
  if (!st) st = ti_api_parse_common(r, lim, err);
  if (!st) st = ti_json_bool(r->root, "logprobs", &r->logprobs, err);
  int64_t top = 0;
  if (!st) st = ti_json_int(r->root, "top_logprobs", 0, TI_TOP_MAX, &top, err);
  if (st) return st;
  if (top > 0 && !r->logprobs) return ti_error_set(err, TI_ERR_RANGE, "top_logprobs: only allowed when logprobs is true");
  r->gen.sampling.n_logprob = r->logprobs ? (int32_t)top : -1;
  if (r->gen.has_max_tokens && r->gen.max_tokens == 0) return ti_error_set(err, TI_ERR_RANGE, "max_tokens: expected at least 1, got 0");
  return ti_api_chat_vars(r, err);
}
