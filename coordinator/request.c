// Requests: their memory (see request.h). One allocation holds the request, its sequences and their page tables.
#include "coordinator/request.h"

#include <stdlib.h>

#include "base/size.h"

ti_request_spec *ti_request_spec_create(void) { return calloc(1, sizeof(ti_request_spec)); }

void ti_request_spec_destroy(ti_request_spec *s) {
  if (!s) return;
  for (uint32_t i = 0; s->log && i < s->n_choice; i++) ti_tokenlog_rele(s->log[i]);
  free(s->log);
  free(s->ids);
  free(s->stop_id);
  free((void *)(uintptr_t)s->sampling.bias_id.v);
  free((void *)(uintptr_t)s->sampling.bias_value.v);
  free(s);
}

bool ti_seq_needs_gather(const ti_seq *s) {
  const ti_sampling *p = &s->req->spec->sampling;
  return s->scoring || p->n_logprob >= 0 || (p->temperature > 0 && (p->top_k > 0 || p->top_p < 1 || p->min_p > 0));
}

ti_status ti_request_create(ti_request_spec *spec, uint32_t page_tokens, uint32_t lookahead, uint64_t now_us, ti_request **out) {
  // the last token sampled is never fed
  const uint64_t places = (uint64_t)spec->n_prompt + (spec->max_tokens ? spec->max_tokens - 1 : 0) + lookahead;
  const uint64_t pages = (places + page_tokens - 1) / page_tokens;
  size_t seqs, tables, bytes;
  if (!ti_size_mul(spec->n_choice, sizeof(ti_seq), &seqs) || !ti_size_mul(spec->n_choice, pages * sizeof(uint32_t), &tables) ||
      !ti_size_add(seqs, tables, &bytes) || !ti_size_add(bytes, sizeof(ti_request), &bytes))
    return TI_ERR_NOMEM;
  ti_request *r = calloc(1, bytes);
  if (!r) return TI_ERR_NOMEM;
  r->spec = spec;
  r->max_pages = (uint32_t)pages;
  r->submit_us = now_us;
  uint32_t *table = (uint32_t *)(void *)(r->seq + spec->n_choice);
  for (uint32_t i = 0; i < spec->n_choice; i++, table += pages) r->seq[i] = (ti_seq){.req = r, .log = spec->log[i], .choice = i, .page = table};
  *out = r;
  return TI_OK;
}

void ti_request_destroy(ti_request *r) {
  if (!r) return;
  ti_request_spec_destroy(r->spec);
  free(r);
}
