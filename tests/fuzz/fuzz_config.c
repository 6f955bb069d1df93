// links: ti_model ti_base
// A config.json, or (first byte '?') what follows "random:": no crash, and what is accepted is consistent enough to enumerate its tensors.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/names.h"

static ti_status check(void *user, const ti_tensor_spec *s) {
  assert(s->rows > 0 && s->cols > 0 && s->name[0]);
  return ++*(int *)user < 4000 ? TI_OK : TI_ERR_FULL;  // a config may well ask for a million
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  ti_config c;
  ti_error err = {0};
  ti_status st;
  if (n > 0 && data[0] == '?') {
    char *spec = malloc(n + 7);
    uint64_t seed;
    memcpy(spec, "random:", 7);
    memcpy(spec + 7, data + 1, n - 1);
    spec[n + 6] = 0;
    st = ti_config_random(spec, &c, &seed, &err);
    free(spec);
  } else {
    st = ti_config_parse((const char *)data, n, &c, &err);
  }
  if (st != TI_OK) {
    assert(err.text[0]);
    return 0;
  }
  assert(c.rope.dim >= 2 && c.rope.dim <= 1024 && c.rope.dim % 2 == 0);
  float f[512], attn;
  ti_rope_frequencies(&c.rope, f, &attn);
  int count = 0;
  st = ti_tensor_each(&c, check, &count);
  assert(st == TI_OK || st == TI_ERR_FULL);
  return 0;
}
