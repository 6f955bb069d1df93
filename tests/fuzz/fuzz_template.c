// links: ti_model ti_base
// A chat template from outside: any bytes are parsed or refused, and whatever parses renders a fixed conversation within small bounds.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/chat.h"

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":\"K\\u00f6ln <b> \\ud83c\\udf89\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1,\"y\":[2.5,true,null]}}}]}],"
    "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"x\":{\"type\":\"integer\"}}}}}],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static json_t *vars;
  if (!vars && ti_json_parse(conversation, sizeof conversation - 1, &vars, NULL)) abort();
  ti_chat_template *t = NULL;
  ti_error err = {0};
  if (ti_chat_template_create((const char *)data, size, "fuzz", &t, &err)) {
    if (!err.text[0]) abort();
    return 0;
  }
  ti_chat_limits limits = {.steps = 200000, .depth = 200, .output_bytes = 1 << 20, .memory_bytes = 16 << 20};
  ti_buf out;
  ti_buf_init(&out, 2 << 20);
  ti_status st = ti_chat_render(t, vars, &limits, 1767323045, &out, &err);
  if (st && (out.len || !err.text[0])) abort();
  ti_buf_fini(&out);
  ti_chat_template_destroy(t);
  return 0;
}
