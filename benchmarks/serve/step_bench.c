// The coordinator's own time a step: the turn that takes a result, appends its tokens and seals the next plan; fake workers, virtual time, no
// sockets. What it checks before it times: the text of every request (the fake workers know it). usage: step_bench [--seqs N] [--groups N] [--json
// FILE]
#include "../../tests/unit/coordinator/fake.h"
#include "base/hist.h"
#include "base/log.h"

enum { STEPS = 400, WARM = 20 };
static fake f;
static ti_hist turn_ns;

static void timed_turn(bool count) {
  uint64_t next;
  ti_error err;
  ti_ctl_local_pump(f.net, 0);
  const uint64_t t0 = ti_mono_ns();
  const ti_status st = ti_coord_turn(f.coord, &next, &err);
  const uint64_t t1 = ti_mono_ns();
  if (st != TI_INPROGRESS) exit(1);
  if (count) ti_hist_add(&turn_ns, t1 - t0);
  ti_ctl_local_pump(f.net, 0);
  for (uint32_t i = 0; i < fake_n(&f); i++) fake_read(&f.worker[i]);
}

// What the wire alone takes of a step: a decode result of n rows decoded, a decode plan of n rows encoded. Minimum of many runs.
static double wire_us(uint32_t n) {
  ti_result_row *res = calloc(n, sizeof *res);
  ti_plan_row *row = calloc(n, sizeof *row);
  uint32_t *token = calloc(n, sizeof *token);
  for (uint32_t i = 0; i < n; i++) {
    token[i] = 100 * i;
    res[i] = (ti_result_row){.slot = i, .token = {token + i, 1}};
    row[i] = (ti_plan_row){.slot = i, .n_token = 1, .decode = true, .sample = true};
  }
  const ti_control result = {.kind = TI_CTL_RESULT, .result = {.epoch = 1, .step = 1000, .row = res, .n_row = n}};
  const ti_control plan = {.kind = TI_CTL_PLAN, .plan = {.epoch = 1, .step = 1000, .n_micro = 1, .max_rows = n, .row = row, .n_row = n}};
  const ti_wire_limits lim = {.n_rank = 65, .n_slot = n, .n_page = 1 << 20, .vocab = 129280, .max_rows = 8192, .max_context = 1024};
  ti_buf bytes, out;
  ti_buf_init(&bytes, 1 << 20);
  ti_buf_init(&out, 1 << 20);
  uint64_t best = UINT64_MAX;
  ti_status st = ti_wire_encode_control(&result, &bytes);
  for (int i = 0; i < 300 && st == TI_OK; i++) {
    ti_control in;
    ti_arena_reset(&f.arena);
    ti_buf_reset(&out);
    const uint64_t t0 = ti_mono_ns();
    st = ti_wire_decode_control(bytes.data, bytes.len, &lim, &f.arena, &in, NULL);
    if (!st) st = ti_wire_encode_control(&plan, &out);
    const uint64_t ns = ti_mono_ns() - t0;
    if (ns < best) best = ns;
  }
  ti_buf_fini(&bytes);
  ti_buf_fini(&out);
  free(res);
  free(row);
  free(token);
  return st == TI_OK ? (double)best * 1e-3 : NAN;
}

static uint32_t number(int argc, char **argv, const char *name, uint32_t otherwise) {
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], name) == 0) return (uint32_t)strtoul(argv[i + 1], NULL, 10);
  }
  return otherwise;
}

int main(int argc, char **argv) {
  const uint32_t seqs = number(argc, argv, "--seqs", 256), groups = number(argc, argv, "--groups", 1);
  const char *json = NULL;
  for (int i = 1; i + 1 < argc; i++) json = strcmp(argv[i], "--json") == 0 ? argv[i + 1] : json;
  if (seqs < 1 || seqs > FAKE_SLOTS || groups < 1 || groups > FAKE_WORKERS) {
    fprintf(stderr, "usage: step_bench [--seqs 1..%d] [--groups 1..%d] [--json FILE]\n", FAKE_SLOTS, FAKE_WORKERS);
    return 2;
  }
  ti_log_set_level(TI_LOG_ERROR);
  const int n = (int)groups;
  const fake_config k = {.mesh = {n, 1, n, n, 1},
                         .vocab = 129280,
                         .page_tokens = 16,
                         .max_model_len = 1024,
                         .max_num_seqs = seqs,
                         .budget = 8192,
                         .n_page = seqs * 64,
                         .lockstep = groups > 1};
  fake_up(&f, &k);
  fake_request *r = calloc(seqs * groups, sizeof *r);
  for (uint32_t i = 0; i < seqs * groups; i++) {
    r[i] =
        (fake_request){.seed = i + 1, .n_prompt = 100, .max_tokens = STEPS + 4 * WARM, .ignore_eos = true, .n_logprob = -1, .n_prompt_logprob = -1};
    if (fake_submit(&f, &r[i])) return 1;
  }
  for (int step = 0; step < STEPS + 2 * WARM; step++) {
    for (uint32_t i = 0; i < groups; i++) fake_step(&f.worker[i]);
    timed_turn(step >= WARM && step < STEPS + WARM);
    ti_clock_virtual_advance(&f.clock, 1000);
  }
  fake_settle(&f, 1000);
  bool right = !f.wrong[0];
  for (uint32_t i = 0; i < seqs * groups; i++) right &= fake_expect(&f, &r[i], 0, true);
  const double wire = wire_us(seqs) * groups, least = (double)turn_ns.min * 1e-3;
  const double p50 = (double)ti_hist_quantile(&turn_ns, 0.5) * 1e-3, p99 = (double)ti_hist_quantile(&turn_ns, 0.99) * 1e-3;
  printf("%u sequences x %u groups, us a step; texts are %s\n%-40s %8s %8s %8s\n", seqs, groups, right ? "right" : f.wrong, "", "least", "p50",
         "p99");
  printf("%-40s %8.1f %8.1f %8.1f\n", "turn: result in, plan out", least, p50, p99);
  printf("%-40s %8.1f\n%-40s %8.1f\n", "  of it the wire (decode, encode)", wire, "  of it the coordinator", least - wire);
  FILE *out = json ? fopen(json, "w") : NULL;
  if (out) {
    fprintf(out,
            "{\"bench\": \"step\", \"sequences\": %u, \"groups\": %u, \"least_us\": %.2f, \"wire_us\": %.2f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
            "\"right\": %s}\n",
            seqs, groups, least, wire, p50, p99, right ? "true" : "false");
    fclose(out);
  }
  for (uint32_t i = 0; i < seqs * groups; i++) fake_request_fini(&r[i]);
  free(r);
  fake_down(&f);
  return right ? 0 : 1;
}
