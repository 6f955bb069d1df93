// The commands' way to the NNG door, by libtitan.
#ifndef TI_CLIENT_TOOL_NNG_H
#define TI_CLIENT_TOOL_NNG_H
#include "client/titan.h"
#include "client/tool/tool.h"

ti_status ti_tool_nng_open(const ti_server *s, titan **out, ti_error *err) TI_MUST_CHECK;
// titan_error -> ti_error; returns its code.
ti_status ti_tool_nng_error(const titan_error *from, ti_error *err);
// Runs one generation and prints its text as it comes. prompt[n] or messages_json (the other NULL).
ti_status ti_tool_nng_generate(titan *t, const ti_server *s, const ti_sampling_flags *f, const char *prompt, const char *messages_json,
                               ti_text_fn on_text, void *arg, ti_stream_result *out, ti_error *err) TI_MUST_CHECK;
ti_status ti_tool_nng_complete(const ti_server *s, const ti_sampling_flags *f, const char *prompt, size_t n, bool echo, ti_stream_result *out,
                               ti_error *err) TI_MUST_CHECK;

#endif
