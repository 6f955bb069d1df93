// links: ti_client ti_base
// A server's bytes, in two pieces: the first byte says where they are cut. Whatever they are, nothing breaks, and the cut changes nothing.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/http.h"

static ti_status count(void *arg, const char *data, size_t n) {
  uint64_t *h = arg;
  for (size_t i = 0; i < n; i++) *h = (*h ^ (unsigned char)data[i]) * 0x100000001b3ull;
  *h ^= n << 40;
  return TI_OK;
}

static ti_status run(const char *p, size_t n, size_t cut, uint64_t *hash) {
  ti_sse sse;
  ti_http_parser h;
  size_t used = 0;
  *hash = 1;
  ti_sse_init(&sse, count, hash);
  ti_http_parser_init(&h, ti_sse_feed, &sse);
  ti_status st = ti_http_parser_feed(&h, p, cut, &used, NULL);
  if (st == TI_OK && !h.done) st = ti_http_parser_feed(&h, p + cut, n - cut, &used, NULL);
  if (st == TI_OK && !h.done) st = ti_http_parser_eof(&h, NULL);
  ti_http_parser_fini(&h);
  ti_sse_fini(&sse);
  return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const char *p = (const char *)data + 1;
  const size_t n = size - 1, cut = n ? data[0] % (n + 1) : 0;
  uint64_t whole, parts;
  const ti_status a = run(p, n, n, &whole), b = run(p, n, cut, &parts);
  if (a == TI_OK && (b != TI_OK || whole != parts)) abort();
  return 0;
}
