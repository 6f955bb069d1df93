// The control plane's round trip: coordinator -> plan -> worker -> result -> coordinator, over real NNG ipc with worker processes that answer at
// once; beside it, in the same run and over the same sockets, NNG alone: the same bytes sent and echoed.
//
//   whole   ti_coord_run with one step in flight: from seal to seal, by the tokens' arrival times at a subscriber (one a step)
//   echo    ti_ctl_host_send to every worker, wait for every echo
// usage: roundtrip_bench [--workers N] [--seqs N] [--json FILE]
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../tests/unit/coordinator/fake.h"
#include "base/hist.h"
#include "base/log.h"

enum { STEPS = 1500, WARM = 100, MODEL_LEN = 2048, PROMPT = 64 };
static uint32_t n_worker = 2, n_seq = 16;
static ti_hist whole, echo;

static void push(void *arg, ti_ctl_event *ev) { ti_inbox_push(arg, &ev->node); }

static ti_ctl_event *wait_event(ti_inbox *q) {
  for (;;) {
    ti_inbox_node *n = ti_inbox_pop(q);
    if (n) return (ti_ctl_event *)n;
    struct pollfd p = {.fd = ti_inbox_fd(q), .events = POLLIN};
    if (poll(&p, 1, 20000) != 1) {
      fprintf(stderr, "roundtrip_bench: nothing came for 20 s\n");
      exit(1);
    }
    ti_inbox_clear(q);
  }
}

// A worker process: first an echo, then a fake worker, on whatever comes first.
static void worker_main(const char *address, uint32_t rank, bool echoes) {
  static fake f;
  f.cfg = (fake_config){.mesh = {(int)n_worker, 1, (int)n_worker, (int)n_worker, 1},
                        .vocab = 32000,
                        .page_tokens = 16,
                        .max_model_len = MODEL_LEN,
                        .max_num_seqs = n_seq,
                        .budget = 4096,
                        .n_page = n_seq * (MODEL_LEN / 16),
                        .lockstep = true};
  ti_arena_init(&f.arena, 64u << 20);
  ti_buf_init(&f.out, 64u << 20);
  if (ti_ctl_local_create(n_worker, 0, 0, &f.net)) exit(1);
  fake_worker *w = &f.worker[rank - 1];
  fake_worker_open(&f, rank);
  ti_error err;
  if (ti_ctl_nng_peer_open(address, 0, 0, fake_sink, w, &w->peer, &err)) exit(1);
  for (;;) {
    struct pollfd p = {.fd = ti_inbox_fd(&w->inbox), .events = POLLIN};
    if (poll(&p, 1, 60000) != 1) exit(1);
    if (echoes) {
      ti_ctl_event *ev = wait_event(&w->inbox);
      if (ev->kind == TI_CTL_EV_MESSAGE && ti_ctl_peer_send(w->peer, ev->data, ev->len)) exit(1);
      ti_ctl_event_free(ev);
      continue;
    }
    fake_read(w);
    while (fake_step(w)) continue;
    if (f.wrong[0]) {
      fprintf(stderr, "roundtrip_bench: %s\n", f.wrong);
      exit(1);
    }
  }
}

static pid_t spawn(ti_ctl_host *host, uint32_t rank, bool echoes) {
  const pid_t pid = fork();  // NNG's threads are not there yet in the child's copy: it opens sockets of its own, after exec
  if (pid) return pid;
  char rank_text[16], workers[16], seqs[16];
  snprintf(rank_text, sizeof rank_text, "%u", rank);
  snprintf(workers, sizeof workers, "%u", n_worker);
  snprintf(seqs, sizeof seqs, "%u", n_seq);
  execl("/proc/self/exe", "roundtrip_bench", "--worker", ti_ctl_host_address(host, rank), rank_text, workers, seqs, echoes ? "echo" : "fake",
        (char *)NULL);
  _exit(1);
}

static ti_ctl_host *open_host(void) {
  ti_ctl_host *host;
  ti_error err;
  uint64_t job;
  if (ti_wire_random(&job, sizeof job)) exit(1);
  const ti_ctl_nng_config cfg = {.n_worker = n_worker, .job = job};
  if (ti_ctl_nng_host_open(&cfg, &host, &err)) {
    fprintf(stderr, "roundtrip_bench: %s\n", err.text);
    exit(1);
  }
  return host;
}

static void reap(const pid_t *pid) {
  for (uint32_t i = 0; i < n_worker; i++) {
    kill(pid[i], SIGTERM);
    waitpid(pid[i], NULL, 0);
  }
}

// plan_bytes out, as many back: more than a result has, so this flatters nobody.
static void run_echo(size_t plan_bytes) {
  ti_inbox q;
  if (ti_inbox_init(&q)) exit(1);
  ti_ctl_host *host = open_host();
  if (ti_ctl_host_start(host, push, &q)) exit(1);
  pid_t pid[FAKE_WORKERS];
  for (uint32_t i = 0; i < n_worker; i++) pid[i] = spawn(host, i + 1, true);
  for (uint32_t i = 0; i < n_worker; i++) ti_ctl_event_free(wait_event(&q));  // UP
  char *bytes = calloc(1, plan_bytes);
  for (int step = 0; step < STEPS + WARM; step++) {
    const uint64_t t0 = ti_mono_ns();
    for (uint32_t i = 0; i < n_worker; i++) {
      if (ti_ctl_host_send(host, i + 1, bytes, plan_bytes)) exit(1);
    }
    for (uint32_t i = 0; i < n_worker; i++) ti_ctl_event_free(wait_event(&q));
    if (step >= WARM) ti_hist_add(&echo, ti_mono_ns() - t0);
  }
  free(bytes);
  reap(pid);
  ti_ctl_host_close(host);
  for (ti_inbox_node *n; (n = ti_inbox_pop(&q)) != NULL;) ti_ctl_event_free((ti_ctl_event *)n);
  ti_inbox_fini(&q);
}

static void *loop_main(void *arg) {
  ti_error err = {0};
  const ti_status st = ti_coord_run(arg, &err);
  if (st) fprintf(stderr, "roundtrip_bench: %s\n", err.text);
  return NULL;
}

static void run_whole(void) {
  static fake f;
  f.cfg = (fake_config){.mesh = {(int)n_worker, 1, (int)n_worker, (int)n_worker, 1},
                        .vocab = 32000,
                        .page_tokens = 16,
                        .max_model_len = MODEL_LEN,
                        .max_num_seqs = n_seq,
                        .budget = 4096,
                        .lockstep = true,
                        .steps_in_flight = 1};
  f.host = open_host();
  ti_coord_config k = fake_coord_config(&f);
  k.clock = ti_clock_real();
  ti_error err;
  if (ti_coord_create(&k, &f.coord, &err)) exit(1);
  pid_t pid[FAKE_WORKERS];
  for (uint32_t i = 0; i < n_worker; i++) pid[i] = spawn(f.host, i + 1, false);
  ti_inbox q;
  if (ti_inbox_init(&q)) exit(1);
  for (uint32_t i = 0; i < n_worker * n_seq; i++) {
    ti_request_spec *s = ti_request_spec_create();
    s->ids = calloc(PROMPT, 4);
    s->n_prompt = PROMPT;
    s->n_choice = 1;
    s->log = calloc(1, sizeof *s->log);
    const ti_tokenlog_options o = {.max_tokens = STEPS + WARM, .n_logprob = -1, .n_prompt_logprob = -1, .subscriber = i == 0 ? &q : NULL};
    if (ti_tokenlog_create(&o, s->log)) exit(1);
    s->sampling = (ti_sampling){.temperature = 1, .top_p = 1, .repetition = 1, .seed = i, .n_logprob = -1, .n_prompt_logprob = -1};
    s->max_tokens = STEPS + WARM;
    s->ignore_eos = true;
    uint64_t id;
    if (ti_coord_submit(f.coord, s, &id)) exit(1);
  }
  pthread_t loop;
  pthread_create(&loop, NULL, loop_main, f.coord);
  uint64_t last = 0;
  uint32_t seen = 0;
  for (bool done = false; !done;) {
    struct pollfd p = {.fd = ti_inbox_fd(&q), .events = POLLIN};
    if (poll(&p, 1, 20000) != 1) exit(1);
    ti_inbox_clear(&q);
    for (ti_inbox_node *n; (n = ti_inbox_pop(&q)) != NULL;) {
      ti_tokenlog *l = ti_tokenlog_of_node(n);
      ti_tokenlog_seen(l);
      const ti_tokenlog_state s = ti_tokenlog_peek(l);
      const uint64_t now = ti_mono_ns();
      const uint32_t steps = s.length - seen;
      if (seen > WARM && steps) ti_hist_add(&whole, (now - last) / steps);
      last = now;
      seen = s.length;
      done = s.finish != TI_FINISH_NONE;
      ti_tokenlog_rele(l);
    }
  }
  ti_coord_drain(f.coord, 1000000);
  pthread_join(loop, NULL);
  reap(pid);
  ti_ctl_host_close(f.host);
  ti_coord_destroy(f.coord);
  ti_inbox_fini(&q);
}

// The bytes of a decode plan of n_seq rows.
static size_t plan_size(void) {
  ti_plan_row *row = calloc(n_seq, sizeof *row);
  for (uint32_t i = 0; i < n_seq; i++) row[i] = (ti_plan_row){.slot = i, .n_token = 1, .decode = true, .sample = true};
  const ti_control m = {.kind = TI_CTL_PLAN, .plan = {.epoch = 1, .step = 1000, .n_micro = 1, .max_rows = n_seq, .row = row, .n_row = n_seq}};
  ti_buf b;
  ti_buf_init(&b, 1 << 20);
  if (ti_wire_encode_control(&m, &b)) exit(1);
  const size_t n = b.len;
  ti_buf_fini(&b);
  free(row);
  return n;
}

int main(int argc, char **argv) {
  ti_log_set_level(TI_LOG_ERROR);
  if (argc == 7 && strcmp(argv[1], "--worker") == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    n_worker = (uint32_t)strtoul(argv[4], NULL, 10);
    n_seq = (uint32_t)strtoul(argv[5], NULL, 10);
    worker_main(argv[2], (uint32_t)strtoul(argv[3], NULL, 10), strcmp(argv[6], "echo") == 0);
    return 1;
  }
  const char *json = NULL;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--workers") == 0) n_worker = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--seqs") == 0) n_seq = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--json") == 0) json = argv[i + 1];
  }
  if (n_worker < 1 || n_worker > FAKE_WORKERS || n_seq < 1 || n_seq > FAKE_SLOTS) {
    fprintf(stderr, "usage: roundtrip_bench [--workers 1..%d] [--seqs 1..%d] [--json FILE]\n", FAKE_WORKERS, FAKE_SLOTS);
    return 2;
  }
  const size_t bytes = plan_size();
  run_echo(bytes);
  run_whole();
  const double e50 = (double)ti_hist_quantile(&echo, 0.5) * 1e-3, e99 = (double)ti_hist_quantile(&echo, 0.99) * 1e-3;
  const double w50 = (double)ti_hist_quantile(&whole, 0.5) * 1e-3, w99 = (double)ti_hist_quantile(&whole, 0.99) * 1e-3;
  printf("%u workers, %u sequences each, plans of %zu bytes\n%-32s %8s %8s\n", n_worker, n_seq, bytes, "us a round trip", "p50", "p99");
  printf("%-32s %8.1f %8.1f\n%-32s %8.1f %8.1f\n%-32s %8.1f\n", "NNG alone, echo", e50, e99, "plan + result", w50, w99, "ours", w50 - e50);
  FILE *out = json ? fopen(json, "w") : NULL;
  if (out) {
    fprintf(out,
            "{\"bench\": \"roundtrip\", \"workers\": %u, \"sequences\": %u, \"plan_bytes\": %zu, \"echo_p50_us\": %.2f, \"echo_p99_us\": %.2f, "
            "\"p50_us\": %.2f, \"p99_us\": %.2f}\n",
            n_worker, n_seq, bytes, e50, e99, w50, w99);
    fclose(out);
  }
  return 0;
}
