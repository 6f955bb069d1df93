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
  const double p50 = (double)ti_hist_quantile(&turn_ns, 0.5) * 1e-3, p99 = (double)ti_hist_quantile(&turn_ns, 0.99) * 1e-3;
  printf("%-28s %8s %8s %10s %8s\n", "coordinator, us a step", "p50", "p99", "us a seq", "texts");
  printf("%u sequences x %u groups %7s %8.1f %8.1f %10.3f %8s\n", seqs, groups, "", p50, p99, p50 / (seqs * groups), right ? "right" : f.wrong);
  FILE *out = json ? fopen(json, "w") : NULL;
  if (out) {
    fprintf(out, "{\"bench\": \"step\", \"sequences\": %u, \"groups\": %u, \"p50_us\": %.2f, \"p99_us\": %.2f, \"right\": %s}\n", seqs, groups, p50,
            p99, right ? "true" : "false");
    fclose(out);
  }
  for (uint32_t i = 0; i < seqs * groups; i++) fake_request_fini(&r[i]);
  free(r);
  fake_down(&f);
  return right ? 0 : 1;
}
