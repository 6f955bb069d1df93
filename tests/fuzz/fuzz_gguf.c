// links: ti_model ti_base
// A GGUF file from memory: no crash; every tensor and value of an accepted file can be read, as a config, a checkpoint and a tokenizer, too.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf/gguf_model.h"

static unsigned char sum;

static void read_checkpoint(ti_gguf *g) {
  ti_checkpoint *c;
  ti_error err = {0};
  if (ti_gguf_checkpoint(g, NULL, &c, &err) != TI_OK) {
    assert(err.text[0]);
    return;
  }
  for (int i = 0; i < c->ops->count(c); i++) {
    ti_tensor t, again;
    int64_t rows, cols;
    if (c->ops->at(c, i, &t) != TI_OK || ti_checkpoint_find(c, t.name, &again) != TI_OK) abort();
    assert(again.data == t.data && again.key == t.key);
    ti_tensor_matrix(&t, &rows, &cols);
    char *row = malloc((size_t)cols * 4 + 512);
    if (row) ti_checkpoint_read(c, &t, rows - 1, 1, 0, cols, row);
    if (row) sum ^= (unsigned char)row[0];
    free(row);
  }
  ti_checkpoint_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  ti_gguf *g;
  ti_config cfg;
  ti_tokenizer *tok;
  ti_tok_text text;
  ti_error err = {0};
  unsigned char *copy = malloc(n ? n : 1);  // of the exact size: reads beyond it are seen
  if (!copy) return 0;
  if (n) memcpy(copy, data, n);
  if (ti_gguf_open_memory(copy, n, "fuzz", &g, &err) != TI_OK) {
    assert(err.text[0]);
    free(copy);
    return 0;
  }
  for (size_t i = 0; i < g->n_tensor; i++) {
    const ti_tensor *t = &g->tensor[i];
    assert((const unsigned char *)t->data >= copy && (const unsigned char *)t->data + t->bytes <= copy + n);
    for (size_t k = 0; k < t->bytes; k++) sum ^= ((const unsigned char *)t->data)[k];
  }
  if (ti_gguf_config(g, &cfg, &err) != TI_OK) assert(err.text[0]);
  if (ti_gguf_chat_template(g, &text, &err) == TI_OK && text.n) sum ^= (unsigned char)text.s[text.n - 1];
  if (ti_gguf_tokenizer(g, &tok, &err) == TI_OK)
    ti_tokenizer_destroy(tok);
  else
    assert(err.text[0]);
  read_checkpoint(g);
  volatile unsigned char sink = sum;
  (void)sink;
  free(copy);
  return 0;
}
