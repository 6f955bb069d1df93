// links: ti_model ti_base
// A safetensors file from memory: no crash, and every byte of every accepted tensor can be read.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  ti_checkpoint *c;
  ti_error err = {0};
  unsigned char *copy = aligned_alloc(16, (n + 16) & ~(size_t)15), sum = 0;
  if (!copy) return 0;
  if (n) memcpy(copy, data, n);
  if (ti_safetensors_open_memory(copy, n, "fuzz", &c, &err) != TI_OK) {
    assert(err.text[0]);
    free(copy);
    return 0;
  }
  for (int i = 0; i < c->ops->count(c); i++) {
    ti_tensor t, again;
    int64_t rows, cols;
    if (c->ops->at(c, i, &t) != TI_OK || ti_checkpoint_find(c, t.name, &again) != TI_OK) abort();
    assert(again.data == t.data && t.bytes <= n);
    assert((const unsigned char *)t.data >= copy && (const unsigned char *)t.data + t.bytes <= copy + n);
    for (size_t k = 0; k < t.bytes; k++) sum ^= ((const unsigned char *)t.data)[k];
    ti_tensor_matrix(&t, &rows, &cols);
    if (rows > 0 && cols > 0) {
      unsigned char one[8];
      ti_checkpoint_read(c, &t, rows - 1, 1, cols - 1, 1, one);
      sum ^= one[0];
    }
  }
  volatile unsigned char sink = sum;
  (void)sink;
  ti_checkpoint_close(c);
  free(copy);
  return 0;
}
