// Shared by the parsers of bodies.
#ifndef TI_COORDINATOR_GATEWAY_PARAMS_PRIV_H
#define TI_COORDINATOR_GATEWAY_PARAMS_PRIV_H
#include "coordinator/gateway/params.h"

// A body that must be an object, into r->root, and r's defaults; reads model.
ti_status ti_api_open(ti_api_request *r, ti_api_kind kind, const char *body, size_t n, ti_error *err) TI_MUST_CHECK;
// stream, stream_options, return_token_ids, ...: what both generating routes have beside ti_gen_params_parse.
ti_status ti_api_parse_common(ti_api_request *r, const ti_gen_limits *lim, ti_error *err) TI_MUST_CHECK;
// An array of ids below vocab. name is for messages. *ids is malloc'ed (NULL when empty).
ti_status ti_api_ids(const json_t *array, const char *name, uint32_t vocab, size_t max, uint32_t **ids, uint32_t *n, ti_error *err) TI_MUST_CHECK;
// Builds r->vars from the body's messages, tools, chat_template_kwargs, add_generation_prompt.
ti_status ti_api_chat_vars(ti_api_request *r, ti_error *err) TI_MUST_CHECK;
const char *ti_json_kind(const json_t *v);  // "a string", "null", ...

#endif
