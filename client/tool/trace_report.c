// `titan trace-report`: the sums of trace_sum.c as tables or JSON.
#include "client/tool/trace_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/tool/tool.h"

static double share(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

static void print_pieces(const ti_trace_summary *s, FILE *to) {
  fprintf(to, "\ntime a piece, ms (and share of the rank's steps)\n%-16s", "");
  for (int r = 0; r < s->n_rank; r++) fprintf(to, "   rank %-9d", s->rank[r].rank);
  fprintf(to, "\n");
  for (int p = 0; p < s->n_piece; p++) {
    fprintf(to, "%-16s", s->piece[p]);
    for (int r = 0; r < s->n_rank; r++)
      fprintf(to, " %9.1f %4.1f%% ", s->rank[r].piece_us[p] / 1000, share(s->rank[r].piece_us[p], s->rank[r].step_us));
    fprintf(to, "\n");
  }
}

static void print_waits(const ti_trace_summary *s, FILE *to) {
  fprintf(to, "\nwho waited for whom, ms: the row's rank for the column's, at the begin of a collective\n%-10s", "");
  for (int r = 0; r < s->n_rank; r++) fprintf(to, " rank %-6d", s->rank[r].rank);
  fprintf(to, "\n");
  for (int r = 0; r < s->n_rank; r++) {
    fprintf(to, "rank %-5d", s->rank[r].rank);
    for (int k = 0; k < s->n_rank; k++) fprintf(to, " %11.1f", s->wait_us[r * s->n_rank + k] / 1000);
    fprintf(to, "\n");
  }
}

static void print_device(const ti_trace_summary *s, FILE *to) {
  double all = 0;
  fprintf(to, "\ndevice, ms%10s %11s %17s %17s\n", "", "busy", "idle between steps", "gaps within steps");
  for (int r = 0; r < s->n_rank; r++) {
    const ti_trace_rank *x = &s->rank[r];
    const double whole = x->device_us + x->device_idle_us + x->device_gap_us;
    all += x->device_us;
    if (whole > 0)
      fprintf(to, "rank %-5d %21.1f %11.1f %4.1f%% %11.1f %4.1f%%\n", x->rank, x->device_us / 1000, x->device_idle_us / 1000,
              share(x->device_idle_us, whole), x->device_gap_us / 1000, share(x->device_gap_us, whole));
  }
  fprintf(to, "\nthe device's dearest pieces%12s %9s %9s %7s\n", "ms", "count", "us each", "share");
  for (int i = 0; i < s->n_device && i < TI_TRACE_DEAREST && s->device[i].n; i++)  // dearest first: a kind without spans ends the list
    fprintf(to, "%-26s %12.1f %9llu %9.1f %6.1f%%\n", s->device[i].name, s->device[i].us / 1000, (unsigned long long)s->device[i].n,
            s->device[i].us / (double)s->device[i].n, share(s->device[i].us, all));
}

void ti_trace_print(const ti_trace_summary *s, FILE *to) {
  fprintf(to, "%llu events of %d ranks\n\n%4s %9s %11s %9s %9s %12s %12s\n", (unsigned long long)s->n_event, s->n_rank, "rank", "steps",
          "in steps ms", "p50 ms", "p99 ms", "all-to-all", "exposed");
  for (int r = 0; r < s->n_rank; r++) {
    const ti_trace_rank *x = &s->rank[r];
    fprintf(to, "%4d %9llu %11.1f %9.3f %9.3f %11.1f%% %11.1f%%\n", x->rank, (unsigned long long)x->n_step, x->step_us / 1000, x->step_p50_us / 1000,
            x->step_p99_us / 1000, share(x->all_to_all_us, x->step_us), share(x->exposed_us, x->step_us));
  }
  if (s->n_piece) print_pieces(s, to);
  if (s->n_rank > 1 && s->n_piece) print_waits(s, to);
  if (s->n_device) print_device(s, to);
  ti_trace_print_steps(s, to);
}

json_t *ti_trace_json(const ti_trace_summary *s) {
  json_t *ranks = json_array();
  for (int r = 0; r < s->n_rank; r++) {
    const ti_trace_rank *x = &s->rank[r];
    json_t *pieces = json_object(), *waits = json_object();
    char name[24];
    for (int p = 0; p < s->n_piece; p++)
      json_object_set_new(pieces, s->piece[p], json_pack("{s:I, s:f}", "count", (json_int_t)x->piece_n[p], "us", x->piece_us[p]));
    for (int k = 0; k < s->n_rank; k++) {
      snprintf(name, sizeof(name), "%d", s->rank[k].rank);
      if (k != r) json_object_set_new(waits, name, json_real(s->wait_us[r * s->n_rank + k]));
    }
    json_array_append_new(
        ranks, json_pack("{s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "rank", x->rank, "steps", (json_int_t)x->n_step,
                         "step_us", x->step_us, "step_p50_us", x->step_p50_us, "step_p99_us", x->step_p99_us, "all_to_all_us", x->all_to_all_us,
                         "comm_us", x->comm_us, "exposed_us", x->exposed_us, "device_us", x->device_us, "device_idle_us", x->device_idle_us,
                         "device_gap_us", x->device_gap_us, "pieces", pieces, "waited_for_us", waits));
  }
  json_t *device = json_array();
  for (int i = 0; i < s->n_device; i++)
    json_array_append_new(device,
                          json_pack("{s:s, s:f, s:I}", "name", s->device[i].name, "us", s->device[i].us, "count", (json_int_t)s->device[i].n));
  return json_pack("{s:I, s:o, s:o, s:o}", "events", (json_int_t)s->n_event, "ranks", ranks, "device", device, "decode_steps",
                   ti_trace_json_steps(s));
}

int ti_tool_trace_report(int argc, char **argv) {
  bool json = false;
  const ti_opt opts[] = {{"json", NULL, "as JSON", .kind = TI_OPT_FLAG, .target = &json}};
  const ti_command cmd = {"trace-report",
                          "FILE",
                          "Sums up a trace that titan-serve --trace FILE wrote: steps, time a piece and rank, the share of all-to-all, how much of "
                          "it was exposed, who waited for whom; a GPU's idle time, its dearest pieces, and each piece of a decode step beside "
                          "its limit.",
                          "exposed: communication while the rank computed nothing, as share of its steps",
                          1,
                          1};
  int first;
  const int rc = ti_opt_parse(&cmd, opts, sizeof(opts) / sizeof(*opts), argc, argv, &first);
  if (rc >= 0) return rc;
  ti_error err = {0};
  const char *path = argv[first];
  ti_trace_summary *s = calloc(1, sizeof(*s));
  FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
  ti_status st = TI_OK;
  if (!s)
    st = ti_error_set(&err, TI_ERR_NOMEM, "out of memory");
  else if (!f)
    st = ti_error_set(&err, errno == ENOENT ? TI_ERR_NOTFOUND : TI_ERR_IO, "%s: %s", path, strerror(errno));
  else if (ti_failed(st = ti_trace_summarise(f, s, &err)))
    ti_error_prefix(&err, "%s", path);
  if (!ti_failed(st) && json) {
    json_t *doc = ti_trace_json(s);
    json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(doc);
  } else if (!ti_failed(st)) {
    ti_trace_print(s, stdout);
  }
  if (f && f != stdin) fclose(f);
  if (s) ti_trace_summary_fini(s);
  free(s);
  return ti_failed(st) ? ti_tool_fail("trace-report", &err) : 0;
}
