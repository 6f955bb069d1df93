// How even expert load is over the ranks, on real routing, by the number of redundant experts.
//
//   balance_bench [--routes FILE] [--experts N] [--layers N] [--top N] [--ranks N] [--json FILE]
//
// FILE: uint8 [tokens][layers][top], xz or plain. The default is a trace of gpt-oss-20b (24 layers, 32 experts, top-4), which stands in for a model
// of more experts. The trace is cut into windows of 256 and of 10,000 tokens; a window is served by the placement made
//
//   in order     slot i holds expert i, no replicas: a server without balancing
//   before       from the preceding window's loads, a placement a layer: EPLB, which moves all experts
//   before, one  the same from loads summed over layers, one placement for all
//   copies       as before, but experts stay in order and only the redundant slots are chosen (ti_placement_replicate): what TitanInfer does
//   copies, one  the same, one placement for all layers
//   clairvoyant  from the loads of the window itself: the best that EPLB's packing can reach
//
// and judged by the busiest rank's rows over the mean, 1 = even: mean and 95th percentile over layers and windows. "even": copies share an expert's
// rows evenly. "routed": as the exchange picks them, the source's own copy first, the other sources in turn; token i comes from rank i modulo ranks.
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/placement.h"

enum { MAX_EXPERT = 256, MAX_RANK = 64, MAX_BYTES = 256 << 20 };
static const int redundant[] = {0, 4, 16};
static const int windows[] = {256, 10000};
typedef enum how { IN_ORDER, COPIES_ONE, COPIES, BEFORE_ONE, BEFORE, CLAIRVOYANT, N_HOW } how;
static const char *const how_name[N_HOW] = {"in order", "copies, one", "copies", "before, one", "before", "clairvoyant"};

typedef struct trace {
  uint8_t *id;  // [n_token, n_layer, n_top]
  size_t n_token;
  int n_layer, n_expert, n_top;
} trace;

typedef struct sample {  // ratios of one cell of the table
  double *v;
  size_t n;
} sample;

static int fail(const char *what) {
  fprintf(stderr, "balance_bench: %s\n", what);
  return 1;
}

static int read_trace(const char *path, trace *t) {
  char cmd[1100];
  const size_t len = strlen(path);
  const bool xz = len > 3 && strcmp(path + len - 3, ".xz") == 0;
  if (len > 1000 || strchr(path, '\'')) return fail("--routes: a path of at most 1,000 bytes without quotes");
  snprintf(cmd, sizeof cmd, "%s '%s'", xz ? "xz -dc" : "cat", path);
  FILE *f = popen(cmd, "r");
  if (!f) return fail("cannot start xz");
  size_t n = 0, cap = 1 << 20;
  t->id = malloc(cap);
  while (t->id && !feof(f) && n < MAX_BYTES) {
    if (n == cap) {
      uint8_t *p = realloc(t->id, cap *= 2);
      if (!p) break;
      t->id = p;
    }
    n += fread(t->id + n, 1, cap - n, f);
  }
  if (pclose(f) != 0 || n == 0) return fail("--routes: cannot be read");
  t->n_token = n / (size_t)(t->n_layer * t->n_top);
  for (size_t i = 0; i < n; i++)
    if (t->id[i] >= t->n_expert) return fail("--routes: an expert beyond --experts");
  return 0;
}

// Rows of each expert in tokens [t0, t0 + n) of one layer, or of all layers (layer < 0).
static void count_load(const trace *t, size_t t0, int n, int layer, float *load) {
  memset(load, 0, (size_t)t->n_expert * sizeof *load);
  for (size_t i = t0; i < t0 + (size_t)n; i++)
    for (int l = layer < 0 ? 0 : layer; l < (layer < 0 ? t->n_layer : layer + 1); l++)
      for (int j = 0; j < t->n_top; j++) load[t->id[(i * (size_t)t->n_layer + (size_t)l) * (size_t)t->n_top + (size_t)j]] += 1;
}

// The busiest rank's rows over the mean, copies picked as the exchange picks them.
static double routed(const trace *t, const ti_placement *p, const ti_mesh *mesh, size_t t0, int n, int layer) {
  long rows[MAX_RANK] = {0}, most = 0;
  for (size_t i = t0; i < t0 + (size_t)n; i++)
    for (int j = 0; j < t->n_top; j++) {
      const int e = t->id[(i * (size_t)t->n_layer + (size_t)layer) * (size_t)t->n_top + (size_t)j];
      rows[ti_split_owner(p->n_slot, mesh->ep, ti_placement_slot(p, mesh, e, (int)(i % (size_t)mesh->ep)))]++;
    }
  for (int g = 0; g < mesh->ep; g++) most = rows[g] > most ? rows[g] : most;
  return (double)most * mesh->ep / ((double)n * t->n_top);
}

static ti_placement *place(const float *load, int n_expert, int extra, int ep, how h) {
  ti_placement *p = NULL;
  ti_error err = {0};
  const ti_placement_args a = {.load = load, .n_expert = n_expert, .n_slot = n_expert + extra, .ep = ep};
  const ti_status st = h == IN_ORDER                    ? ti_placement_identity(n_expert, 0, &p, &err)
                       : h == COPIES || h == COPIES_ONE ? ti_placement_replicate(&a, &p, &err)
                                                        : ti_placement_balance(&a, &p, &err);
  if (st) {
    fprintf(stderr, "balance_bench: %s\n", err.text);
    exit(1);
  }
  return p;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double mean(const sample *s) {
  double sum = 0;
  for (size_t i = 0; i < s->n; i++) sum += s->v[i];
  return s->n ? sum / (double)s->n : 0;
}
static double p95(sample *s) {
  qsort(s->v, s->n, sizeof *s->v, by_value);
  return s->n ? s->v[(s->n - 1) * 95 / 100] : 0;
}

// Both ratios of every window (but the first) and layer.
static void run(const trace *t, int window, int extra, const ti_mesh *mesh, how h, sample *even, sample *by_exchange) {
  float before[MAX_EXPERT], now[MAX_EXPERT];
  even->n = by_exchange->n = 0;
  for (size_t t0 = (size_t)window; t0 + (size_t)window <= t->n_token; t0 += (size_t)window) {
    ti_placement *one = NULL;
    if (h == BEFORE_ONE || h == COPIES_ONE) {
      count_load(t, t0 - (size_t)window, window, -1, before);
      one = place(before, t->n_expert, extra, mesh->ep, h);
    }
    for (int l = 0; l < t->n_layer; l++) {
      count_load(t, t0 - (size_t)window, window, l, before);
      count_load(t, t0, window, l, now);
      ti_placement *p = one ? one : place(h == CLAIRVOYANT ? now : before, t->n_expert, extra, mesh->ep, h);
      even->v[even->n++] = ti_placement_imbalance(p, mesh->ep, now);
      by_exchange->v[by_exchange->n++] = routed(t, p, mesh, t0, window, l);
      if (!one) ti_placement_destroy(p);
    }
    ti_placement_destroy(one);
  }
}

static int table(const trace *t, const ti_mesh *mesh, json_t *rows) {
  const size_t most = (t->n_token / (size_t)windows[0] + 1) * (size_t)t->n_layer;
  sample even = {.v = malloc(most * sizeof(double))}, ex = {.v = malloc(most * sizeof(double))};
  if (!even.v || !ex.v) return fail("out of memory");
  printf("%6s %5s  %-12s %6s  %8s %8s  %8s %8s\n", "window", "extra", "placement", "cases", "even", "p95", "routed", "p95");
  double goal[2] = {0, 0};
  for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
    for (size_t r = 0; r < sizeof redundant / sizeof *redundant; r++)
      for (int h = r ? COPIES_ONE : IN_ORDER; h < N_HOW; h++) {
        if (r == 0 && (h == COPIES || h == COPIES_ONE)) continue;
        run(t, windows[w], redundant[r], mesh, (how)h, &even, &ex);
        const double m = mean(&even), xm = mean(&ex), p = p95(&even), xp = p95(&ex);
        printf("%6d %5d  %-12s %6zu  %8.3f %8.3f  %8.3f %8.3f\n", windows[w], redundant[r], how_name[h], even.n, m, p, xm, xp);
        if (w == 1 && h == BEFORE && r != 1) goal[r / 2] = m;
        json_array_append_new(
            rows, json_pack("{s:i,s:i,s:s,s:I,s:f,s:f,s:f,s:f}", "window", windows[w], "redundant", redundant[r], "placement", how_name[h], "cases",
                            (json_int_t)even.n, "even_mean", m, "even_p95", p, "routed_mean", xm, "routed_p95", xp));
      }
  printf("windows of %d tokens, from the window before: 16 redundant %.3f, none %.3f: %s\n", windows[1], goal[1], goal[0],
         goal[1] < goal[0] ? "16 is better" : "16 is NOT better");
  free(even.v);
  free(ex.v);
  return goal[1] < goal[0] ? 0 : 1;
}

int main(int argc, char **argv) {
  const char *path = "../shared/data/traces/gptoss20b_routes.u8.xz", *json_path = NULL;
  trace t = {.n_layer = 24, .n_expert = 32, .n_top = 4};
  long ranks = 4;
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc) return fail("every option takes a value");
    const char *v = argv[i + 1];
    const long n = strtol(v, NULL, 10);
    if (strcmp(argv[i], "--routes") == 0)
      path = v;
    else if (strcmp(argv[i], "--json") == 0)
      json_path = v;
    else if (strcmp(argv[i], "--experts") == 0 && n >= 1 && n <= MAX_EXPERT)
      t.n_expert = (int)n;
    else if (strcmp(argv[i], "--layers") == 0 && n >= 1 && n <= 1024)
      t.n_layer = (int)n;
    else if (strcmp(argv[i], "--top") == 0 && n >= 1 && n <= 64)
      t.n_top = (int)n;
    else if (strcmp(argv[i], "--ranks") == 0 && n >= 1 && n <= MAX_RANK)
      ranks = n;
    else
      return fail("[--routes FILE] [--experts 1..256] [--layers 1..1024] [--top 1..64] [--ranks 1..64] [--json FILE]");
  }
  if (read_trace(path, &t)) return 1;
  const ti_mesh mesh = {.workers = (int)ranks, .tp = 1, .dp = (int)ranks, .ep = (int)ranks, .etp = 1};
  printf("%zu tokens, %d layers, %d experts, top-%d; %ld ranks\n", t.n_token, t.n_layer, t.n_expert, t.n_top, ranks);
  json_t *rows = json_array();
  const int rc = table(&t, &mesh, rows);
  if (json_path && json_dump_file(rows, json_path, JSON_INDENT(1) | JSON_REAL_PRECISION(5)))
    fprintf(stderr, "balance_bench: cannot write %s\n", json_path);
  json_decref(rows);
  free(t.id);
  return rc;
}
