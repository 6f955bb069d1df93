// The parts of `titan bench`: a load (what to send, when), an engine (sends it, takes times) and a summary (percentiles). Main thread only.
//
//   load:   item i = {at_s, n_in, n_out, ...}; its request body is made when it is sent, so that a trace of 400 MB of prompts costs no memory
//   engine: one epoll loop, a connection a request in flight, kept for the next one
//   sample: one a request; gaps between tokens lie in one array for all
//
// What is measured, seen from the client, in microseconds:
//   TTFT  from the send (open loop: from the scheduled time, so that a late client is not hidden) to the first event with text
//   ITL   between two events with text;  TPOT  (last event with text - first) / (tokens - 1)
//   E2E   to the end of the response
#ifndef TI_CLIENT_TOOL_BENCH_H
#define TI_CLIENT_TOOL_BENCH_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/status.h"
#include "client/http.h"

// ---- load ----

typedef struct ti_bench_item {
  double at_s;              // when it is due, from the start
  uint32_t n_in, n_out;     // prompt tokens (0: the prompt is a text of unknown length), tokens to generate
  uint32_t text;            // index into texts, with n_in = 0
  uint32_t block, n_block;  // the prompt's blocks: hashes[block..], 512 tokens each; the rest of the prompt is the item's own
} ti_bench_item;

typedef struct ti_bench_load {
  ti_bench_item *item;  // [n], ascending at_s
  uint32_t n;
  uint64_t *hash;  // [n_hash] equal hashes are equal blocks
  uint32_t n_hash;
  json_t *texts;  // array of strings, or NULL
} ti_bench_load;

typedef struct ti_bench_load_options {
  uint32_t n;                // requests; 0: all of a file
  double rate;               // Poisson arrivals a second; 0: all are due at once. Not for traces
  double speed;              // a trace is played so many times faster
  double length_scale;       // of a trace's lengths
  uint32_t max_in, max_out;  // lengths beyond are cut; 0: no bound
  uint32_t n_in, n_out;      // of synthetic prompts; n_out: of prompts from a file, too
  uint32_t shared;           // synthetic prompts begin with so many tokens in common
  uint64_t seed;
} ti_bench_load_options;

ti_status ti_bench_load_synthetic(const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) TI_MUST_CHECK;
// A line a prompt: {"prompt": text} or {"turns": [text, ...]} (the first is taken). FILE may be .xz.
ti_status ti_bench_load_prompts(const char *file, const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) TI_MUST_CHECK;
// Mooncake's JSON lines (timestamp ms, input_length, output_length, hash_ids) or Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens).
ti_status ti_bench_load_trace(const char *file, const ti_bench_load_options *o, ti_bench_load *out, ti_error *err) TI_MUST_CHECK;
void ti_bench_load_fini(ti_bench_load *l);  // safe on a zeroed one

typedef struct ti_bench_body_options {
  const char *model;
  bool chat, as_ids, ignore_eos, usage;
  uint32_t vocab;      // ids are drawn from 32..vocab - 1
  double temperature;  // < 0: not sent
  uint64_t seed;
} ti_bench_body_options;
// Appends item i's JSON body. The same seed gives the same bodies.
ti_status ti_bench_body(const ti_bench_load *l, uint32_t i, const ti_bench_body_options *o, ti_buf *out) TI_MUST_CHECK;

// ---- engine ----

typedef struct ti_bench_sample {
  uint64_t start_us, ttft_us, last_us, e2e_us;  // start from the run's begin; the others from start; last: the last event with text
  uint32_t n_prompt, n_token, n_event;          // tokens by usage (else n_token = events with text; n_prompt = the item's)
  uint32_t error;                               // index into errors + 1; 0: fine
  bool sent;
} ti_bench_sample;

typedef struct ti_bench_errors {  // distinct texts, at most 8; the last one takes the rest
  char text[8][200];
  uint32_t count[8], n;
} ti_bench_errors;

typedef struct ti_bench_result {
  ti_bench_sample *sample;  // [n of the load]
  uint32_t *gap_us;         // [n_gap] inter-token latencies
  size_t n_gap, cap_gap;
  ti_bench_errors errors;
  double wall_s, late_max_s;  // late: how far behind its schedule the client itself sent
  uint32_t in_flight_max;
  bool interrupted;
} ti_bench_result;

typedef struct ti_bench_run_options {
  ti_http_url url;
  const char *path, *api_key;
  uint32_t concurrency;  // requests in flight at most
  bool open_loop;        // items wait for their at_s
  double timeout_s;      // longest silence of one request
  bool progress;
  const ti_bench_body_options *body;
} ti_bench_run_options;

// TI_OK: the run went through, whatever became of single requests. Fini *out in any case.
ti_status ti_bench_run(const ti_bench_run_options *o, const ti_bench_load *l, ti_bench_result *out, ti_error *err) TI_MUST_CHECK;
void ti_bench_result_fini(ti_bench_result *r);

// ---- summary ----

typedef struct ti_bench_dist {
  size_t n;
  double mean, min, p50, p90, p95, p99, max;
} ti_bench_dist;
// Sorts v. Percentiles by linear interpolation between the closest ranks (numpy's default).
ti_bench_dist ti_bench_dist_of(double *v, size_t n);

typedef struct ti_bench_summary {
  uint32_t n, ok, failed;
  uint64_t prompt_tokens, tokens;
  double wall_s, requests_s, tokens_s, total_tokens_s;
  ti_bench_dist ttft_ms, itl_ms, tpot_ms, e2e_ms;
} ti_bench_summary;
ti_status ti_bench_summarise(const ti_bench_result *r, uint32_t n, ti_bench_summary *out) TI_MUST_CHECK;
void ti_bench_print(const ti_bench_summary *s, const ti_bench_result *r, FILE *to);
json_t *ti_bench_json(const ti_bench_summary *s, const ti_bench_result *r);  // a new object

#endif
