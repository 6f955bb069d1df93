// links: ti_proto ti_base
// Any bytes as a control message: refused with a text, or accepted and then stable: encoded and decoded again it gives the same bytes.
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const ti_wire_limits lim = {.n_rank = 8, .n_slot = 16, .n_page = 64, .vocab = 1000, .max_rows = 64, .max_context = 256};
  ti_arena a, b;
  ti_buf once, twice;
  ti_control m, again;
  ti_error err = {0};
  ti_arena_init(&a, 1 << 20);
  ti_arena_init(&b, 1 << 20);
  ti_buf_init(&once, 1 << 22);
  ti_buf_init(&twice, 1 << 22);
  if (ti_wire_decode_control(data, size, &lim, &a, &m, &err) != TI_OK) {
    if (err.code == TI_OK || !err.text[0]) abort();
  } else {
    if (ti_wire_encode_control(&m, &once) != TI_OK) abort();
    if (ti_wire_decode_control(once.data, once.len, &lim, &b, &again, &err) != TI_OK) abort();
    if (ti_wire_encode_control(&again, &twice) != TI_OK) abort();
    if (once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0) abort();
  }
  ti_arena_fini(&a);
  ti_arena_fini(&b);
  ti_buf_fini(&once);
  ti_buf_fini(&twice);
  return 0;
}
