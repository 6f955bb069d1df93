// links: ti_coordinator ti_model ti_base
// Bodies as clients send them, to all parsers: no crash, no leak, and a refusal always says something.
#include <stdint.h>
#include <stdlib.h>

#include "coordinator/gateway/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  static ti_status (*const parse[])(const char *, size_t, const ti_gen_limits *, ti_api_request *, ti_error *) = {
      ti_api_parse_completion, ti_api_parse_chat, ti_api_parse_tokenize, ti_api_parse_detokenize};
  for (int k = 0; k < 8; k++) {
    const ti_gen_limits lim = {.vocab = 1000, .max_model_len = 4096, .has_tokenizer = k >= 4};
    ti_api_request r = {0};
    ti_error err = {0};
    const ti_status st = parse[k % 4]((const char *)data, n, &lim, &r, &err);
    if (st && !err.text[0]) abort();
    ti_api_request_fini(&r);
  }
  return 0;
}
