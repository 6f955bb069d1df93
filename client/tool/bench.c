// `titan bench`: load on any OpenAI-compatible server, and what it looked like from outside. Flags and the report; the rest is bench_*.c.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/tool/bench.h"
#include "client/tool/tool.h"

typedef struct flags {
  ti_server s;
  const char *endpoint, *trace, *prompts, *json_file;
  int64_t n, concurrency, n_in, n_out, shared, max_in, max_out, vocab, seed;
  double rate, speed, scale, temperature;
  bool ids, stop_at_eos, no_usage, json, quiet;
} flags;

static ti_status make_load(const flags *f, ti_bench_load *out, ti_error *err) {
  const bool file = f->trace || f->prompts;
  const ti_bench_load_options o = {.n = (uint32_t)(f->n   ? f->n
                                                   : file ? 0
                                                          : 100),
                                   .rate = f->rate,
                                   .speed = f->speed,
                                   .length_scale = f->scale,
                                   .max_in = (uint32_t)f->max_in,
                                   .max_out = (uint32_t)f->max_out,
                                   .n_in = (uint32_t)f->n_in,
                                   .n_out = (uint32_t)f->n_out,
                                   .shared = (uint32_t)f->shared,
                                   .seed = (uint64_t)f->seed};
  if (f->trace) return ti_bench_load_trace(f->trace, &o, out, err);
  if (f->prompts) return ti_bench_load_prompts(f->prompts, &o, out, err);
  return ti_bench_load_synthetic(&o, out, err);
}

static ti_status check(const flags *f, ti_error *err) {
  if (strcmp(f->endpoint, "completions") != 0 && strcmp(f->endpoint, "chat") != 0)
    return ti_error_set(err, TI_ERR_ARG, "--endpoint: expected completions or chat, got '%s'", f->endpoint);
  if (f->trace && f->prompts) return ti_error_set(err, TI_ERR_ARG, "--trace and --prompts: only one of them");
  if (f->trace && f->rate > 0) return ti_error_set(err, TI_ERR_ARG, "--rate: a trace has arrivals of its own (--speed plays it faster)");
  if (f->ids && strcmp(f->endpoint, "chat") == 0) return ti_error_set(err, TI_ERR_ARG, "--prompt-ids: only with --endpoint completions");
  return TI_OK;
}

static ti_status report(const flags *f, const ti_bench_result *r, uint32_t n, uint32_t *failed, ti_error *err) {
  ti_bench_summary sum;
  ti_status st = ti_bench_summarise(r, n, &sum);
  if (ti_failed(st)) return ti_error_set(err, st, "no memory for %u samples", n);
  *failed = sum.failed;
  json_t *doc = f->json || f->json_file ? ti_bench_json(&sum, r) : NULL;
  if (f->json) {
    json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
  } else {
    ti_bench_print(&sum, r, stdout);
  }
  if (f->json_file && json_dump_file(doc, f->json_file, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0)
    st = ti_error_set(err, TI_ERR_IO, "%s: cannot write it", f->json_file);
  json_decref(doc);
  return st;
}

static int run(const flags *f) {
  ti_error err = {0};
  ti_bench_load load = {0};
  ti_bench_result result = {0};
  char *model = NULL;
  uint32_t failed = 0;
  const bool chat = strcmp(f->endpoint, "chat") == 0, open_loop = f->trace || f->rate > 0;
  ti_bench_body_options body = {.chat = chat,
                                .as_ids = f->ids,
                                .ignore_eos = !f->stop_at_eos,
                                .usage = !f->no_usage,
                                .vocab = (uint32_t)f->vocab,
                                .temperature = f->temperature,
                                .seed = (uint64_t)f->seed};
  ti_bench_run_options o = {.path = chat ? "/v1/chat/completions" : "/v1/completions",
                            .api_key = f->s.api_key,
                            .open_loop = open_loop,
                            .timeout_s = f->s.timeout_s,
                            .progress = !f->quiet && isatty(STDERR_FILENO),
                            .body = &body};
  ti_status st = check(f, &err);
  if (!ti_failed(st)) st = ti_http_url_parse(f->s.url, &o.url, &err);
  if (!ti_failed(st)) st = make_load(f, &load, &err);
  if (!ti_failed(st)) st = ti_tool_model_name(&f->s, &o.url, &model, &err);
  if (!ti_failed(st)) {
    body.model = model;
    o.concurrency = f->concurrency ? (uint32_t)f->concurrency : open_loop ? 4096 : 16;
    if (o.concurrency > load.n) o.concurrency = load.n;
    st = ti_bench_run(&o, &load, &result, &err);
  }
  if (!ti_failed(st)) st = report(f, &result, load.n, &failed, &err);
  ti_bench_result_fini(&result);
  ti_bench_load_fini(&load);
  free(model);
  if (ti_failed(st)) return ti_tool_fail("bench", &err);
  return failed ? 1 : 0;
}

int ti_tool_bench(int argc, char **argv) {
  flags f = {.s = TI_SERVER_DEFAULT, .endpoint = "completions", .n_in = 128, .n_out = 64, .vocab = 4000, .speed = 1, .scale = 1, .temperature = -1};
  const ti_opt opts[] = {
      TI_SERVER_OPTS(f.s),
      TI_MODEL_OPT(f.s),
      {"endpoint", "NAME", "completions or chat", .kind = TI_OPT_TEXT, .target = &f.endpoint},
      {"num-requests", "N", "requests in all (0: 100, or all of a file)", .kind = TI_OPT_INT, .target = &f.n, .lo = 0, .hi = 4e6, .letter = 'n'},
      {"requests", "N", "the same as --num-requests", .kind = TI_OPT_INT, .target = &f.n, .lo = 0, .hi = 4e6},
      {"concurrency", "C", "closed loop: so many in flight (0: 16); open loop: at most so many (0: 4096)", .kind = TI_OPT_INT,
       .target = &f.concurrency, .lo = 0, .hi = 65536, .letter = 'c'},
      {"rate", "R", "open loop: Poisson arrivals, R a second (0: closed loop)", .kind = TI_OPT_REAL, .target = &f.rate, .lo = 0, .hi = 1e6},
      {"trace", "FILE", "open loop: arrivals and lengths of a trace (Mooncake .jsonl, Azure .csv, also .xz)", .kind = TI_OPT_TEXT,
       .target = &f.trace},
      {"speed", "X", "plays a trace X times faster", .kind = TI_OPT_REAL, .target = &f.speed, .lo = 1e-6, .hi = 1e6},
      {"length-scale", "X", "multiplies a trace's lengths", .kind = TI_OPT_REAL, .target = &f.scale, .lo = 1e-6, .hi = 1000},
      {"max-input-len", "N", "cuts a trace's prompts (0: no bound)", .kind = TI_OPT_INT, .target = &f.max_in, .lo = 0, .hi = 1e8},
      {"max-output-len", "N", "cuts a trace's outputs (0: no bound)", .kind = TI_OPT_INT, .target = &f.max_out, .lo = 0, .hi = 1e8},
      {"prompts", "FILE", "prompts from JSON lines: {\"prompt\"} or {\"turns\"} (also .xz)", .kind = TI_OPT_TEXT, .target = &f.prompts},
      {"input-len", "N", "tokens of a synthetic prompt", .kind = TI_OPT_INT, .target = &f.n_in, .lo = 1, .hi = 1e7},
      {"output-len", "N", "tokens to generate a request", .kind = TI_OPT_INT, .target = &f.n_out, .lo = 1, .hi = 1e7},
      {"shared-prefix", "N", "synthetic prompts begin alike for N tokens (rounded up to whole blocks of 512)", .kind = TI_OPT_INT,
       .target = &f.shared, .lo = 0, .hi = 1e7},
      {"prompt-ids", NULL, "prompts as token ids: exact lengths, where the server takes ids", .kind = TI_OPT_FLAG, .target = &f.ids},
      {"vocab", "N", "ids are below N", .kind = TI_OPT_INT, .target = &f.vocab, .lo = 64, .hi = 1e8},
      {"temperature", "T", "(-1: the server's default)", .kind = TI_OPT_REAL, .target = &f.temperature, .lo = -1, .hi = 100},
      {"stop-at-eos", NULL, "do not send ignore_eos", .kind = TI_OPT_FLAG, .target = &f.stop_at_eos},
      {"no-usage", NULL, "do not ask for usage: tokens are counted as events", .kind = TI_OPT_FLAG, .target = &f.no_usage},
      {"seed", "N", "of prompts and arrivals", .kind = TI_OPT_INT, .target = &f.seed, .lo = 0, .hi = 9007199254740992.0},
      {"json", NULL, "JSON on stdout in place of the table", .kind = TI_OPT_FLAG, .target = &f.json},
      {"output", "FILE", "JSON into a file, beside the table", .kind = TI_OPT_TEXT, .target = &f.json_file, .letter = 'o'},
      {"quiet", NULL, "no progress bar", .kind = TI_OPT_FLAG, .target = &f.quiet, .letter = 'q'}};
  const ti_command cmd = {
      "bench",
      NULL,
      "Puts load on an OpenAI-compatible server and reports time to first token, inter-token latency, end-to-end time and tokens a second.",
      "TTFT counts from the send (open loop: from the scheduled arrival), ITL between two events with text, TPOT = (last - first) / (tokens - 1).\n"
      "Percentiles interpolate linearly. Exit status 1 when a request failed. Control-C reports what is done.\n"
      "example: titan bench --rate 20 -n 400 --input-len 512 --output-len 128 -o bench.json",
      0,
      0};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  return rc >= 0 ? rc : run(&f);
}
