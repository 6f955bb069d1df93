// links: ti_model ti_base
// Four threads encode and decode with one tokenizer, each with a scratch of its own: under TSan it must stay silent, and all must agree.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "model/tokenizer.h"

enum { THREADS = 4, ROUNDS = 2000 };

static const char json[] =
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\\u0120\": 3, \"\\u0120ab\": 4}, \"merges\": [\"a b\", \"\\u0120 "
    "ab\"]},"
    "\"added_tokens\": [{\"id\": 5, \"content\": \"<x>\", \"special\": true}], \"normalizer\": {\"type\": \"NFC\"},"
    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}}";
static const char text[] = "ab ab<x>aab b ab";
static const int32_t want[] = {2, 4, 5, 0, 2, 3, 1, 4};
enum { N_WANT = sizeof want / sizeof *want };

static int one_round(const ti_tokenizer *t, ti_tok_scratch *s, ti_ids *ids, ti_buf *back) {
  ids->n = 0;
  ti_buf_reset(back);
  if (ti_tokenizer_encode(t, s, text, sizeof text - 1, TI_TOK_PARSE_SPECIAL, ids, NULL) != TI_OK) return 1;
  if (ti_tokenizer_decode(t, ids->v, ids->n, 0, back, NULL) != TI_OK) return 1;
  return ids->n != N_WANT || memcmp(ids->v, want, sizeof want) != 0 || strcmp(ti_buf_str(back), text) != 0;
}

static void *run(void *arg) {
  const ti_tokenizer *t = arg;
  ti_tok_scratch *s = NULL;
  ti_ids ids;
  ti_buf back;
  ti_ids_init(&ids, 100);
  ti_buf_init(&back, 100);
  int bad = ti_tok_scratch_create(&s) != TI_OK;
  for (int i = 0; i < ROUNDS && !bad; i++) bad = one_round(t, s, &ids, &back);
  ti_tok_scratch_destroy(s);
  ti_ids_fini(&ids);
  ti_buf_fini(&back);
  return bad ? arg : NULL;
}

int main(void) {
  ti_tokenizer *t = NULL;
  ti_error err = {0};
  pthread_t threads[THREADS];
  int bad = 0, n = 0;
  if (ti_tokenizer_create(json, sizeof json - 1, &t, &err) != TI_OK) {
    fprintf(stderr, "plain_tokenizer: %s\n", err.text);
    return 1;
  }
  for (; n < THREADS; n++) {
    if (pthread_create(&threads[n], NULL, run, t) != 0) break;
  }
  for (int i = 0; i < n; i++) {
    void *failed = NULL;
    pthread_join(threads[i], &failed);
    bad += failed != NULL;
  }
  ti_tokenizer_destroy(t);
  if (bad || n < THREADS) fprintf(stderr, "plain_tokenizer: %d of %d threads saw wrong ids\n", bad, n);
  return bad || n < THREADS;
}
