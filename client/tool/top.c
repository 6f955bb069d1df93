// `titan top`: status, live: rates between two pictures, and a heat map of the experts where the metrics have one.
//
// Experts: titan_expert_load{layer, expert} gives a row a layer; titan_expert_rows_total{expert} one row of what was computed since the last picture.
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/tool/cluster.h"

enum { LAYERS = 128, EXPERTS = 512 };

typedef struct heat {
  double load[LAYERS][EXPERTS], rows[EXPERTS], before[EXPERTS];
  long n_layer, n_expert, n_rows;
} heat;

static volatile sig_atomic_t ended;
static void on_interrupt(int sig) { ended = 1; }

static void read_heat(const char *text, heat *h) {
  ti_prom_sample s;
  memcpy(h->before, h->rows, sizeof(h->before));
  h->n_layer = h->n_expert = 0;
  while (ti_prom_next(&text, &s)) {
    const long expert = ti_prom_label(&s, "expert"), layer = ti_prom_label(&s, "layer");
    if (expert < 0 || expert >= EXPERTS) continue;
    if (ti_prom_is(&s, "titan_expert_rows_total")) {
      h->rows[expert] = s.value;
      if (expert >= h->n_rows) h->n_rows = expert + 1;
    } else if (ti_prom_is(&s, "titan_expert_load") && layer >= 0 && layer < LAYERS) {
      h->load[layer][expert] = s.value;
      if (layer >= h->n_layer) h->n_layer = layer + 1;
      if (expert >= h->n_expert) h->n_expert = expert + 1;
    }
  }
}

// Each expert's share against the mean: ' ' none, '#' twice the mean and more.
static void print_row(const char *name, const double *v, long n) {
  static const char shades[] = " .:-=+*%#";
  double sum = 0, max = 0;
  for (long i = 0; i < n; i++) {
    sum += v[i];
    if (v[i] > max) max = v[i];
  }
  printf("%-10s |", name);
  for (long i = 0; i < n; i++) {
    const double share = sum > 0 ? v[i] * (double)n / sum : 0;
    int at = (int)(share * 4 + 0.5);
    if (at == 0 && v[i] > 0) at = 1;
    putchar(shades[at > 8 ? 8 : at]);
  }
  printf("| busiest %.2f x the mean\n", sum > 0 ? max * (double)n / sum : 0);
}

static void print_heat(const heat *h, bool have_before) {
  char name[32];
  if (h->n_layer || (h->n_rows && have_before)) printf("\nexperts: share of rows against the mean ('=' the mean, '#' twice and more)\n");
  for (long i = 0; i < h->n_layer; i++) {
    snprintf(name, sizeof(name), "layer %ld", i);
    print_row(name, h->load[i], h->n_expert);
  }
  if (!h->n_rows || !have_before) return;
  double since[EXPERTS];
  for (long i = 0; i < h->n_rows; i++) since[i] = h->rows[i] - h->before[i];
  print_row("all layers", since, h->n_rows);
}

static void print_rates(const ti_cluster *c, const ti_cluster *before, double seconds) {
  const char *m = ti_buf_str(&c->metrics), *b = ti_buf_str(&before->metrics);
  const double steps = ti_prom_sum(m, "titan_step_seconds_count") - ti_prom_sum(b, "titan_step_seconds_count");
  const double time = ti_prom_sum(m, "titan_step_seconds_sum") - ti_prom_sum(b, "titan_step_seconds_sum");
  const double prompt = ti_prom_sum(m, "vllm:prompt_tokens_total") - ti_prom_sum(b, "vllm:prompt_tokens_total");
  printf("tokens/s %.1f", seconds > 0 && c->tokens >= before->tokens ? (double)(c->tokens - before->tokens) / seconds : 0);
  if (isfinite(prompt)) printf("  prompt tokens/s %.1f", prompt / seconds);
  printf("  steps/s %.1f", seconds > 0 && c->steps >= before->steps ? (double)(c->steps - before->steps) / seconds : 0);
  if (isfinite(time) && steps > 0) printf("  step ms %.2f", 1000 * time / steps);
  printf("\n\n");
}

static void pause_s(double s) {
  const struct timespec t = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - floor(s)) * 1e9)};
  nanosleep(&t, NULL);
}

static ti_status run(const ti_server *s, double interval, int64_t rounds, ti_error *err) {
  ti_cluster now = {0}, before = {0};
  heat *h = calloc(1, sizeof(*h));
  uint64_t before_us = 0;
  ti_status st = h ? TI_OK : ti_error_set(err, TI_ERR_NOMEM, "out of memory");
  const bool tty = isatty(STDOUT_FILENO);
  for (int64_t i = 0; !ti_failed(st) && !ended && (!rounds || i < rounds); i++) {
    if (i) pause_s(interval);
    if (ended) break;
    const uint64_t us = ti_mono_us();
    st = ti_cluster_fetch(s, true, &now, err);
    if (ti_failed(st)) break;
    if (tty) printf("\033[H\033[2J");
    read_heat(ti_buf_str(&now.metrics), h);
    if (i) print_rates(&now, &before, (double)(us - before_us) / 1e6);
    ti_cluster_print(&now, stdout);
    print_heat(h, i > 0);
    if (!tty) printf("\n");
    fflush(stdout);
    ti_cluster_fini(&before);
    before = now;
    memset(&now, 0, sizeof(now));
    before_us = us;
  }
  ti_cluster_fini(&now);
  ti_cluster_fini(&before);
  free(h);
  return st;
}

int ti_tool_top(int argc, char **argv) {
  ti_server s = TI_SERVER_DEFAULT;
  s.timeout_s = 10;
  double interval = 1;
  int64_t rounds = 0;
  const ti_opt opts[] = {
      TI_SERVER_OPTS(s),
      {"interval", "SECONDS", "between two pictures", .kind = TI_OPT_REAL, .target = &interval, .lo = 0.05, .hi = 3600, .letter = 'i'},
      {"rounds", "N", "end after N pictures (0: on Control-C)", .kind = TI_OPT_INT, .target = &rounds, .lo = 0, .hi = 1e9, .letter = 'r'},
      TI_SERVER_TLS_OPTS(s)};
  const ti_command cmd = {"top", NULL, "Shows ranks, step time, queue, pages and tokens a second, live; with experts, a heat map of their load.",
                          NULL,  0,    0};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  const struct sigaction act = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &act, NULL);
  ti_error err = {0};
  const ti_status st = run(&s, interval, rounds, &err);
  return ti_failed(st) ? ti_tool_fail("top", &err) : 0;
}
