// The commands' own arithmetic: flags, percentiles, trace sums, metrics.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/tool/bench.h"
#include "client/tool/cluster.h"
#include "client/tool/opt.h"
#include "client/tool/trace_report.h"

static int parse(char **argv, int argc, int64_t *n, bool *flag, const char **text, int *first) {
  const ti_opt opts[] = {{"number", "N", "", .kind = TI_OPT_INT, .target = n, .lo = 1, .hi = 9, .letter = 'n'},
                         {"flag", NULL, "", .kind = TI_OPT_FLAG, .target = flag},
                         {"text", "T", "", .kind = TI_OPT_TEXT, .target = text}};
  const ti_command cmd = {"test", "[A [B]]", "", NULL, 0, 2};
  return ti_opt_parse(&cmd, opts, 3, argc, argv, first);
}

Test(flags, are_read_in_every_form) {
  char a0[] = "test", a1[] = "one", a2[] = "--number=3", a3[] = "--flag", a4[] = "-", a5[] = "--text", a6[] = "--flag", a7[] = "--no-flag";
  char *argv[] = {a0, a1, a2, a3, a4, a5, a6, a7, NULL};
  int64_t n = 0;
  bool flag = false;
  const char *text = NULL;
  int first = 0;
  cr_assert_eq(parse(argv, 8, &n, &flag, &text, &first), -1);
  cr_assert_eq(n, 3);
  cr_assert(!flag);  // the last one counts
  cr_assert_str_eq(text, "--flag");
  cr_assert_str_eq(argv[first], "one");
  cr_assert_str_eq(argv[first + 1], "-");
  cr_assert_null(argv[first + 2]);
}

Test(flags, refuse_what_is_wrong) {
  static const char *const bad[][2] = {{"--numbr", "3"}, {"--number", "10"}, {"--number", "x"}, {"--number", ""}, {"--flag=1", "x"}, {"-x", "1"}};
  for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
    char a0[] = "test", a1[32], a2[32];
    snprintf(a1, sizeof(a1), "%s", bad[i][0]);
    snprintf(a2, sizeof(a2), "%s", bad[i][1]);
    char *argv[] = {a0, a1, a2, NULL};
    int64_t n = 0;
    bool flag = false;
    const char *text = NULL;
    int first;
    cr_assert_eq(parse(argv, 3, &n, &flag, &text, &first), 2, "%s %s", a1, a2);
  }
}

Test(flags, nearest_name) {
  static const char *const names[] = {"temperature", "top-p", "top-k", "max-tokens"};
  cr_assert_str_eq(ti_opt_nearest("temprature", names, 4), "temperature");
  cr_assert_str_eq(ti_opt_nearest("max", names, 4), "max-tokens");
  cr_assert_null(ti_opt_nearest("zzzzzz", names, 4));
}

Test(bench, percentiles_interpolate) {
  double v[] = {4, 1, 3, 2};
  const ti_bench_dist d = ti_bench_dist_of(v, 4);
  cr_assert_float_eq(d.mean, 2.5, 1e-12);
  cr_assert_float_eq(d.p50, 2.5, 1e-12);
  cr_assert_float_eq(d.p90, 3.7, 1e-12);  // numpy.percentile([1, 2, 3, 4], 90)
  cr_assert_float_eq(d.p99, 3.97, 1e-12);
  cr_assert_eq(ti_bench_dist_of(v, 0).n, 0);
}

Test(bench, summary_counts_only_what_succeeded) {
  ti_bench_sample s[] = {{.ttft_us = 1000, .last_us = 5000, .e2e_us = 6000, .n_prompt = 7, .n_token = 5, .n_event = 5, .sent = true},
                         {.e2e_us = 100, .n_prompt = 7, .error = 1, .sent = true},
                         {.sent = false}};
  uint32_t gap[] = {1000, 3000};
  const ti_bench_result r = {.sample = s, .gap_us = gap, .n_gap = 2, .wall_s = 2};
  ti_bench_summary x;
  cr_assert_eq(ti_bench_summarise(&r, 3, &x), TI_OK);
  cr_assert_eq(x.n, 2);
  cr_assert_eq(x.failed, 1);
  cr_assert_eq(x.tokens, 5);
  cr_assert_float_eq(x.tokens_s, 2.5, 1e-12);
  cr_assert_float_eq(x.total_tokens_s, 6, 1e-12);
  cr_assert_float_eq(x.tpot_ms.p50, 1, 1e-12);
  cr_assert_float_eq(x.itl_ms.mean, 2, 1e-12);
  cr_assert_eq(x.e2e_ms.n, 1);
}

Test(bench, poisson_arrivals_have_the_asked_rate) {
  const ti_bench_load_options o = {.n = 20000, .rate = 50, .n_in = 1, .n_out = 1, .seed = 4};
  ti_bench_load l;
  cr_assert_eq(ti_bench_load_synthetic(&o, &l, NULL), TI_OK);
  double sum = 0, squares = 0;
  for (uint32_t i = 1; i < l.n; i++) {
    const double gap = l.item[i].at_s - l.item[i - 1].at_s;
    sum += gap;
    squares += gap * gap;
  }
  const double mean = sum / (l.n - 1), sd = sqrt(squares / (l.n - 1) - mean * mean);
  cr_assert_float_eq(mean, 0.02, 0.0006);
  cr_assert_float_eq(sd / mean, 1, 0.04);  // exponential
  ti_bench_load_fini(&l);
}

// Two ranks, one layer: rank 2 begins its dispatch 30 us late; a shared expert hides 20 of rank 1's 50.
Test(trace_report, sums_pieces_exposure_and_waits) {
  static const char text[] =
      "[\n"
      "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":2,\"tid\":0,\"args\":{\"name\":\"rank 2\"}},\n"
      "{\"name\":\"step\",\"pid\":2,\"tid\":0,\"ts\":0,\"cat\":\"step\",\"ph\":\"X\",\"dur\":100,\"args\":{\"step\":1}},\n"
      "{\"name\":\"dispatch\",\"pid\":2,\"tid\":1,\"ts\":40,\"cat\":\"layer\",\"ph\":\"X\",\"dur\":20,\"args\":{\"step\":1,\"layer\":3}},\n"
      "{\"name\":\"step\",\"pid\":1,\"tid\":0,\"ts\":0,\"cat\":\"step\",\"ph\":\"X\",\"dur\":200,\"args\":{\"step\":1}},\n"
      "{\"name\":\"dispatch\",\"pid\":1,\"tid\":1,\"ts\":10,\"cat\":\"layer\",\"ph\":\"X\",\"dur\":50,\"args\":{\"step\":1,\"layer\":3}},\n"
      "{\"name\":\"shared expert\",\"pid\":1,\"tid\":1,\"ts\":20,\"cat\":\"layer\",\"ph\":\"X\",\"dur\":20,\"args\":{\"step\":1,\"layer\":3}}\n"
      "]\n";
  FILE *f = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
  ti_trace_summary *s = calloc(1, sizeof(*s));
  ti_error err = {0};
  cr_assert_eq(ti_trace_summarise(f, s, &err), TI_OK, "%s", err.text);
  fclose(f);
  cr_assert_eq(s->n_rank, 2);
  cr_assert_eq(s->rank[0].rank, 1);
  cr_assert_float_eq(s->rank[0].step_us, 200, 1e-9);
  cr_assert_float_eq(s->rank[0].all_to_all_us, 50, 1e-9);
  cr_assert_float_eq(s->rank[0].comm_us, 50, 1e-9);
  cr_assert_float_eq(s->rank[0].exposed_us, 30, 1e-9);
  cr_assert_float_eq(s->rank[1].exposed_us, 20, 1e-9);
  cr_assert_float_eq(s->wait_us[0 * 2 + 1], 30, 1e-9);  // rank 1 for rank 2
  cr_assert_float_eq(s->wait_us[1 * 2 + 0], 0, 1e-9);
  ti_trace_summary_fini(s);
  free(s);
}

// Two steps of a GPU: 10 us of idling between them, 5 between the second one's pieces.
Test(trace_report, tells_a_devices_idle_time_and_its_dearest_pieces) {
  static const char text[] =
      "[\n"
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":0,\"cat\":\"device\",\"ph\":\"X\",\"dur\":10,\"args\":{}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":10,\"cat\":\"device\",\"ph\":\"X\",\"dur\":40,\"args\":{\"layer\":0}},\n"
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":60,\"cat\":\"device\",\"ph\":\"X\",\"dur\":10,\"args\":{}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":75,\"cat\":\"device\",\"ph\":\"X\",\"dur\":30,\"args\":{\"layer\":0}}\n"
      "]\n";
  FILE *f = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
  ti_trace_summary *s = calloc(1, sizeof(*s));
  ti_error err = {0};
  cr_assert_eq(ti_trace_summarise(f, s, &err), TI_OK, "%s", err.text);
  fclose(f);
  cr_assert_float_eq(s->rank[0].device_us, 90, 1e-9);
  cr_assert_float_eq(s->rank[0].device_idle_us, 10, 1e-9);
  cr_assert_float_eq(s->rank[0].device_gap_us, 5, 1e-9);
  cr_assert_eq(s->n_device, 2);
  cr_assert_str_eq(s->device[0].name, "qkv");
  cr_assert(s->device[0].n == 2 && s->device[0].us > 69.9 && s->n_piece == 0);
  ti_trace_summary_fini(s);
  free(s);
}

// Two stamped steps of two rows, one after the other, and a prompt's that has no costs: one table, whose rows add up to the step.
Test(trace_report, has_a_table_of_a_decode_step) {
  static const char text[] =
      "[\n"
      "{\"name\":\"step\",\"pid\":1,\"tid\":0,\"ts\":0,\"cat\":\"step\",\"ph\":\"X\",\"dur\":70,\"args\":{\"step\":31}},\n"
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":0,\"cat\":\"device\",\"ph\":\"X\",\"dur\":90,\"args\":{\"step\":31}},\n"
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":100,\"cat\":\"device\",\"ph\":\"X\",\"dur\":10,\"args\":{\"step\":32}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":110,\"cat\":\"device\",\"ph\":\"X\",\"dur\":30,\"args\":{\"step\":32,\"layer\":0}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":145,\"cat\":\"device\",\"ph\":\"X\",\"dur\":25,\"args\":{\"step\":32,\"layer\":1}},\n"
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":172,\"cat\":\"device\",\"ph\":\"X\",\"dur\":10,\"args\":{\"step\":33}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":182,\"cat\":\"device\",\"ph\":\"X\",\"dur\":30,\"args\":{\"step\":33,\"layer\":0}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":217,\"cat\":\"device\",\"ph\":\"X\",\"dur\":25,\"args\":{\"step\":33,\"layer\":1}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":100,\"cat\":\"cost\",\"ph\":\"i\",\"s\":\"t\",\"args\":{\"step\":32,\"rows\":2,\"bytes\":4000000,"
      "\"flops\":"
      "8e6,\"limit_us\":5.5}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":172,\"cat\":\"cost\",\"ph\":\"i\",\"s\":\"t\",\"args\":{\"step\":33,\"rows\":2,\"bytes\":4000000,"
      "\"flops\":"
      "8e6,\"limit_us\":5.5}},\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":900,\"cat\":\"cost\",\"ph\":\"i\",\"s\":\"t\",\"args\":{\"step\":64,\"rows\":2,\"bytes\":4000000,"
      "\"flops\":"
      "8e6,\"limit_us\":5.5}},\n"
      "{\"name\":\"step\",\"pid\":1,\"tid\":0,\"ts\":300,\"cat\":\"step\",\"ph\":\"X\",\"dur\":61,\"args\":{\"step\":40}},\n"
      "{\"name\":\"step\",\"pid\":1,\"tid\":0,\"ts\":400,\"cat\":\"step\",\"ph\":\"X\",\"dur\":60,\"args\":{\"step\":41}},\n"
      "{\"name\":\"step\",\"pid\":1,\"tid\":0,\"ts\":500,\"cat\":\"step\",\"ph\":\"X\",\"dur\":99,\"args\":{\"step\":42}}\n"
      "]\n";
  FILE *f = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
  ti_trace_summary *s = calloc(1, sizeof(*s));
  ti_error err = {0};
  cr_assert_eq(ti_trace_summarise(f, s, &err), TI_OK, "%s", err.text);
  fclose(f);
  cr_assert_eq(s->n_table, 1);
  const ti_trace_steps *t = &s->table[0];
  cr_assert(t->rows == 2 && t->n_step == 2 && t->n_piece == 2 && t->n_between == 1 && t->n_plain == 3);
  cr_assert_float_eq(t->us, 140, 1e-9);
  cr_assert_float_eq(t->between_us, 2, 1e-9);
  cr_assert_float_eq(t->plain_us, 61, 1e-9);
  cr_assert_str_eq(t->piece[0].name, "embedding");
  cr_assert_str_eq(t->piece[1].name, "qkv");
  cr_assert(t->piece[1].n == 4);
  cr_assert_float_eq(t->piece[1].us, 110, 1e-9);
  cr_assert_float_eq(t->piece[1].gap_us, 10, 1e-9);
  cr_assert_float_eq(t->piece[1].limit_us, 22, 1e-9);
  double sum = 0;
  for (int i = 0; i < t->n_piece; i++) sum += t->piece[i].us + t->piece[i].gap_us;
  cr_assert_float_eq(sum, t->us, 1e-9);
  cr_assert_float_eq(s->rank[0].device_idle_us, 10 + 2, 1e-9);  // 31 to 32, 32 to 33
  ti_trace_summary_fini(s);
  free(s);
}

// A cost whose spans are missing (the device's ring had no room): in no table, and no division by its count.
Test(trace_report, prints_no_cost_without_spans) {
  static const char text[] =
      "{\"name\":\"embedding\",\"pid\":1,\"tid\":9,\"ts\":0,\"cat\":\"device\",\"ph\":\"X\",\"dur\":10,\"args\":{\"step\":32}}\n"
      "{\"name\":\"qkv\",\"pid\":1,\"tid\":9,\"ts\":5,\"cat\":\"cost\",\"ph\":\"i\",\"args\":{\"step\":32,\"rows\":1,\"bytes\":8,\"limit_us\":1}}\n";
  FILE *f = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
  ti_trace_summary *s = calloc(1, sizeof(*s));
  ti_error err = {0};
  cr_assert_eq(ti_trace_summarise(f, s, &err), TI_OK, "%s", err.text);
  fclose(f);
  char *out = NULL;
  size_t size = 0;
  f = open_memstream(&out, &size);
  ti_trace_print(s, f);
  fclose(f);
  cr_assert(strstr(out, "embedding") && !strstr(out, "qkv") && !strstr(out, "nan"), "%s", out);
  free(out);
  ti_trace_summary_fini(s);
  free(s);
}

Test(trace_report, names_the_line_that_is_no_event) {
  static const char text[] = "[\n{\"ph\":\"X\",\"name\":\"a\"},\n{\"ph\":\n";
  FILE *f = fmemopen((void *)(uintptr_t)text, sizeof(text) - 1, "r");
  ti_trace_summary *s = calloc(1, sizeof(*s));
  ti_error err = {0};
  cr_assert_eq(ti_trace_summarise(f, s, &err), TI_ERR_FORMAT);
  cr_assert(strstr(err.text, "line 3") != NULL, "%s", err.text);
  fclose(f);
  ti_trace_summary_fini(s);
  free(s);
}

Test(metrics, samples_and_labels) {
  static const char text[] = "# HELP a b\na 1\nb{x=\"}\\\"\",expert=\"12\"} 2.5\nb{expert=\"3\"} 4\nbad\nc{ 5\nd nan\n";
  const char *at = text;
  ti_prom_sample s;
  cr_assert(ti_prom_next(&at, &s) && ti_prom_is(&s, "a") && s.value == 1);
  cr_assert(ti_prom_next(&at, &s) && ti_prom_is(&s, "b") && s.value == 2.5);
  cr_assert_eq(ti_prom_label(&s, "expert"), 12);
  cr_assert_eq(ti_prom_label(&s, "layer"), -1);
  cr_assert_float_eq(ti_prom_sum(text, "b"), 6.5, 1e-12);
  cr_assert(isnan(ti_prom_sum(text, "zzz")));
}
