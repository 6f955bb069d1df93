// What every OpenAI body shares (see params.h): the document, the model's name, streaming options, and fields that would change the answer but are
// not served, which are refused by name.
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/gateway/params_priv.h"

ti_status ti_api_open(ti_api_request *r, ti_api_kind kind, const char *body, size_t n, ti_error *err) {
  *r = (ti_api_request){.kind = kind, .add_special_tokens = kind != TI_API_CHAT};
  ti_gen_params_init(&r->gen);
  const ti_status st = ti_json_parse(body, n, &r->root, err);
  if (st) return st;
  if (!json_is_object(r->root)) return ti_error_set(err, TI_ERR_FORMAT, "the body: expected a JSON object, got %s", ti_json_kind(r->root));
  return ti_json_str(r->root, "model", &r->model, err);
}

void ti_api_request_fini(ti_api_request *r) {
  for (uint32_t i = 0; r->prompt && i < r->n_prompt; i++) free(r->prompt[i].ids);
  free(r->prompt);
  ti_gen_params_fini(&r->gen);
  json_decref(r->vars);
  json_decref(r->root);
  *r = (ti_api_request){0};
}

static ti_status parse_stream(ti_api_request *r, ti_error *err) {
  ti_status st = ti_json_bool(r->root, "stream", &r->stream, err);
  if (st) return st;
  const json_t *o = json_object_get(r->root, "stream_options");
  if (!o || json_is_null(o)) return TI_OK;
  if (!json_is_object(o)) return ti_error_set(err, TI_ERR_FORMAT, "stream_options: expected an object, got %s", ti_json_kind(o));
  if (!r->stream) return ti_error_set(err, TI_ERR_RANGE, "stream_options: only allowed when stream is true");
  st = ti_json_bool(o, "include_usage", &r->include_usage, err);
  if (!st) st = ti_json_bool(o, "continuous_usage_stats", &r->continuous_usage, err);
  if (st) return ti_error_prefix(err, "stream_options");
  r->continuous_usage = r->continuous_usage && r->include_usage;
  return TI_OK;
}

// Fields that constrain or search: an answer that ignored them would be wrong, so they are refused. Their harmless values pass.
static ti_status refuse_unserved(const json_t *b, ti_error *err) {
  static const char *const names[] = {"guided_json",        "guided_regex",  "guided_choice", "guided_grammar",
                                      "structured_outputs", "suffix",        "bad_words",     "logits_processors",
                                      "prompt_embeds",      "chat_template", "audio",         "prediction"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const json_t *v = json_object_get(b, names[i]);
    const bool empty = !v || json_is_null(v) || (json_is_string(v) && !json_string_length(v)) || (json_is_array(v) && !json_array_size(v));
    if (!empty) return ti_error_set(err, TI_ERR_UNSUPPORTED, "%s: is not supported by this server", names[i]);
  }
  if (json_is_true(json_object_get(b, "use_beam_search")))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "use_beam_search: true is not supported by this server");
  const json_t *best = json_object_get(b, "best_of");
  if (best && !json_is_null(best) && !(json_is_integer(best) && json_integer_value(best) == 1))
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "best_of: only 1 is supported; ask for n choices and pick one");
  const json_t *format = json_object_get(b, "response_format");
  if (!format || json_is_null(format)) return TI_OK;
  const char *type = json_string_value(json_object_get(format, "type"));
  if (!type) return ti_error_set(err, TI_ERR_FORMAT, "response_format: expected an object with a type, got %s", ti_json_kind(format));
  if (strcmp(type, "text") != 0)
    return ti_error_set(err, TI_ERR_UNSUPPORTED, "response_format: type \"%.40s\" is not supported; only \"text\" is", type);
  return TI_OK;
}

ti_status ti_api_parse_common(ti_api_request *r, const ti_gen_limits *lim, ti_error *err) {
  ti_status st = refuse_unserved(r->root, err);
  if (!st) st = parse_stream(r, err);
  if (!st) st = ti_json_bool(r->root, "return_token_ids", &r->return_token_ids, err);
  if (!st) st = ti_json_bool(r->root, "return_tokens_as_token_ids", &r->tokens_as_ids, err);
  if (!st) st = ti_json_bool(r->root, "add_special_tokens", &r->add_special_tokens, err);
  const char *user = NULL;
  if (!st) st = ti_json_str(r->root, "user", &user, err);
  if (!st) st = ti_gen_params_parse(r->root, lim, &r->gen, err);
  return st;
}
