// links: ti_proto ti_base
// Any bytes as a client's request and as a reply: refused with a text, or accepted and then encodable.
#include <stdlib.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const ti_wire_limits lim = {.vocab = 1000, .max_context = 256};
  ti_arena arena;
  ti_buf buf;
  ti_client_request q;
  ti_client_reply p;
  ti_error err = {0};
  ti_arena_init(&arena, 1 << 20);
  ti_buf_init(&buf, 1 << 22);
  if (ti_wire_decode_request(data, size, &lim, &arena, &q, &err) == TI_OK) {
    if (ti_wire_encode_request(&q, &buf) != TI_OK) abort();
  } else if (!err.text[0]) {
    abort();
  }
  ti_arena_reset(&arena);
  ti_buf_reset(&buf);
  err = (ti_error){0};
  if (ti_wire_decode_reply(data, size, &arena, &p, &err) == TI_OK) {
    if (ti_wire_encode_reply(&p, &buf) != TI_OK) abort();
  } else if (!err.text[0]) {
    abort();
  }
  ti_arena_fini(&arena);
  ti_buf_fini(&buf);
  return 0;
}
