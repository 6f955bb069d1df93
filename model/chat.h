// Chat templates: messages -> the text that a model was trained on.
//
// A checkpoint carries its template as Jinja source (tokenizer_config.json "chat_template", or chat_template.jinja). This is an interpreter of the
// part of Jinja that such templates use, rendering as transformers does: trim_blocks and lstrip_blocks on, loop controls, an immutable sandbox
// (append, update and the like are refused), default undefined, tojson = json.dumps(ensure_ascii=False), raise_exception, strftime_now.
// What is covered, and where it differs: docs/articles/chat-templates.md.
//
//   source --create--> ti_chat_template (AST; immutable) --render(vars)--> text
//
// A template is parsed once and may be rendered by many threads at the same time. Each rendering works in an arena of its own and is bounded in
// steps, depth, memory and output, whatever the template or the conversation says.
#ifndef TI_MODEL_CHAT_H
#define TI_MODEL_CHAT_H
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct ti_chat_template ti_chat_template;

// Bounds of one rendering; 0 = the default.
typedef struct ti_chat_limits {
  uint64_t steps;       // evaluated nodes + bytes handled / 64. Default 20,000,000 (about a second)
  unsigned depth;       // nested expressions, statements and macro calls. Default 400, at most 2000 (about 1 KiB of stack each)
  size_t output_bytes;  // Default 64 MiB
  size_t memory_bytes;  // all intermediate values. Default 512 MiB; grows only as needed
} ti_chat_limits;

#define TI_CHAT_MAX_SOURCE ((size_t)1 << 20)  // longest template, in bytes

// Parses source[n] (UTF-8; copied). Errors: TI_ERR_FORMAT ("NAME: line 3: unexpected 'end of template'"), TI_ERR_RANGE (too long or too deep),
// TI_ERR_NOMEM. name is for messages only (copied; NULL = none).
ti_status ti_chat_template_create(const char *source, size_t n, const char *name, ti_chat_template **out, ti_error *err) TI_MUST_CHECK;
void ti_chat_template_destroy(ti_chat_template *t);  // NULL is fine

// Finds and parses the template of a model: spec NULL or "" = the model's own (model_dir/chat_template.jinja, else "chat_template" of
// tokenizer_config.json; of a list of named ones "default"; of a .gguf file as model_dir: tokenizer.chat_template); else the name of a built-in family; else the path of a file.
// TI_ERR_NOTFOUND names what was tried and the built-in names. model_dir may be NULL when spec is given.
ti_status ti_chat_template_open(const char *spec, const char *model_dir, ti_chat_template **out, ti_error *err) TI_MUST_CHECK;

// The source of a built-in family ("chatml", "deepseek-v3", "llama-2", "llama-3", "titan", "zephyr"), or NULL. Static.
const char *ti_chat_template_builtin(const char *name);
// "chatml, deepseek-v3, ..." for messages. Static.
const char *ti_chat_template_builtin_names(void);

// Reads the special tokens of model_dir/tokenizer_config.json: {"bos_token": "<s>", ...} (also eos, unk, pad, sep, cls, mask, whether given as text
// or as {"content": text}): the variables that transformers adds. A missing file gives {}; a .gguf file has its own. The caller decref()s *out.
ti_status ti_chat_special_tokens(const char *model_dir, json_t **out, ti_error *err) TI_MUST_CHECK;

// Renders with each key of the object vars as a variable (transformers passes messages, add_generation_prompt, tools and documents (null when
// absent) and the special tokens) and appends the text to out. now_unix: the time that strftime_now formats, in this process's zone.
// vars must not change meanwhile. On an error out is as it was, and the text names the template, the line and the reason:
//   "line 12: raise_exception: Conversation roles must alternate"   TI_ERR_ARG: the template refuses the conversation
//   "line 3: UndefinedError: list object has no element 0"          TI_ERR_FORMAT: template and conversation do not fit
//   "line 7: more than 20000000 steps"                              TI_ERR_RANGE: a bound was met (steps, depth)
//   "line 7: more than 67108864 bytes of output"                    TI_ERR_FULL: a bound was met (output, memory)
ti_status ti_chat_render(const ti_chat_template *t, const json_t *vars, const ti_chat_limits *limits, int64_t now_unix, ti_buf *out,
                         ti_error *err) TI_MUST_CHECK;

#endif
