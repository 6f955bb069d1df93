// A backend without a model, for tests and benchmarks of the gateway: it says the prompt again, a token a tick, and then EOS.
//
// temperature 0: token i is prompt token i mod n, EOS once all were said (unless ignore_eos or min_tokens). Else: drawn from (seed, choice, i).
// Logprobs: -0.25 for the chosen token, which is the best; then the ids above it, 1 apart. priority -666: an error after 2 tokens.
#ifndef TI_TESTS_E2E_FAKE_BACKEND_H
#define TI_TESTS_E2E_FAKE_BACKEND_H
#include "base/metrics.h"
#include "coordinator/gateway/backend.h"

typedef struct ti_fake ti_fake;
typedef struct ti_fake_options {
  double tokens_per_s;    // of each sequence; 0: 10,000
  uint32_t prefill_ms;    // before the first token
  uint32_t max_requests;  // beyond it submit says FULL; 0: no limit
  uint32_t vocab;
  int64_t eos;          // -1: none
  ti_metrics *metrics;  // "vllm:num_requests_running" and vllm:generation_tokens_total; may be NULL
} ti_fake_options;

ti_fake *ti_fake_create(const ti_fake_options *o);
void ti_fake_halt(ti_fake *f);  // its thread finishes what runs as cancelled, and ends; before ti_gateway_stop
void ti_fake_destroy(ti_fake *f);
ti_backend ti_fake_backend(ti_fake *f);
void ti_fake_set_health(ti_fake *f, bool healthy);
void ti_fake_drain(ti_fake *f);        // submit says CLOSED
uint32_t ti_fake_running(ti_fake *f);  // requests

#endif
