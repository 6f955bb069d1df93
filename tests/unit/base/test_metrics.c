#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>

#include "base/metrics.h"

Test(metrics, the_text_format) {
  ti_metrics *m;
  cr_assert_eq(ti_metrics_create(&m), TI_OK);
  ti_metric *a, *b, *c, *h;
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "x:tokens_total", "rank=\"0\"", "Tokens\\made\nso far.", &a), TI_OK);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_GAUGE, "running", NULL, "Running.", &c), TI_OK);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "x:tokens_total", "rank=\"1\"", "Tokens.", &b), TI_OK);
  const double bounds[] = {0.1, 1, 2.5};
  cr_assert_eq(ti_metrics_add_histogram(m, "lat", "rank=\"0\"", "Latency.", bounds, 3, &h), TI_OK);
  ti_metric_add(a, 3);
  ti_metric_add(b, 0.5);
  ti_metric_set(c, -INFINITY);
  ti_metric_observe(h, 0.1);
  ti_metric_observe(h, 2);
  ti_metric_observe(h, 7);
  ti_metric_observe(h, NAN);
  cr_assert_eq(ti_metric_get(b), 0.5);
  ti_buf out;
  ti_buf_init(&out, 10000);
  cr_assert_eq(ti_metrics_render(m, &out), TI_OK);
  cr_assert_str_eq(ti_buf_str(&out),
                   "# HELP x:tokens_total Tokens\\\\made\\nso far.\n"
                   "# TYPE x:tokens_total counter\n"
                   "x:tokens_total{rank=\"0\"} 3\n"
                   "x:tokens_total{rank=\"1\"} 0.5\n"
                   "# HELP running Running.\n"
                   "# TYPE running gauge\n"
                   "running -Inf\n"
                   "# HELP lat Latency.\n"
                   "# TYPE lat histogram\n"
                   "lat_bucket{rank=\"0\",le=\"0.1\"} 1\n"
                   "lat_bucket{rank=\"0\",le=\"1\"} 1\n"
                   "lat_bucket{rank=\"0\",le=\"2.5\"} 2\n"
                   "lat_bucket{rank=\"0\",le=\"+Inf\"} 3\n"
                   "lat_sum{rank=\"0\"} 9.1\n"
                   "lat_count{rank=\"0\"} 3\n");
  ti_buf_fini(&out);
  ti_buf_init(&out, 100);
  cr_assert_eq(ti_metrics_render(m, &out), TI_ERR_FULL);
  ti_buf_fini(&out);
  ti_metrics_destroy(m);
}

Test(metrics, registering_twice) {
  ti_metrics *m;
  cr_assert_eq(ti_metrics_create(&m), TI_OK);
  ti_metric *a, *b;
  const double one[] = {1}, two[] = {2}, down[] = {2, 1};
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "n", "l=\"1\"", "h", &a), TI_OK);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "n", "l=\"1\"", "h", &b), TI_OK);
  cr_assert_eq(a, b);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "n", NULL, "h", &b), TI_OK);
  cr_assert_neq(a, b);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_GAUGE, "n", NULL, "h", &b), TI_ERR_EXISTS);
  cr_assert_eq(ti_metrics_add_histogram(m, "h", NULL, "h", one, 1, &a), TI_OK);
  cr_assert_eq(ti_metrics_add_histogram(m, "h", NULL, "h", one, 1, &b), TI_OK);
  cr_assert_eq(a, b);
  cr_assert_eq(ti_metrics_add_histogram(m, "h", NULL, "h", two, 1, &b), TI_ERR_EXISTS);
  cr_assert_eq(ti_metrics_add_histogram(m, "g", NULL, "h", down, 2, &b), TI_ERR_ARG);
  cr_assert_eq(ti_metrics_add_histogram(m, "g", NULL, "h", one, 0, &b), TI_ERR_ARG);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "9n", NULL, "h", &b), TI_ERR_ARG);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "", NULL, "h", &b), TI_ERR_ARG);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "a-b", NULL, "h", &b), TI_ERR_ARG);
  ti_metrics_destroy(m);
}

enum { ADDS = 50000 };
static void *adder(void *arg) {
  for (int i = 0; i < ADDS; i++) ti_metric_add(arg, 0.5);
  return NULL;
}

Test(metrics, no_update_is_lost_between_threads) {
  ti_metrics *m;
  ti_metric *a;
  cr_assert_eq(ti_metrics_create(&m), TI_OK);
  cr_assert_eq(ti_metrics_add(m, TI_METRIC_COUNTER, "n", NULL, "h", &a), TI_OK);
  pthread_t t[4];
  for (int i = 0; i < 4; i++) cr_assert_eq(pthread_create(&t[i], NULL, adder, a), 0);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  cr_assert_eq(ti_metric_get(a), 4 * ADDS * 0.5);
  ti_metrics_destroy(m);
}
