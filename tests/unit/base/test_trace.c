#include <criterion/criterion.h>
#include <jansson.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/trace.h"

static char dir[64], file[96];
static void setup(void) {
  snprintf(dir, sizeof(dir), "/tmp/ti_trace_XXXXXX");
  cr_assert_not_null(mkdtemp(dir));
  snprintf(file, sizeof(file), "%s/t.json", dir);
}
static void teardown(void) {
  unlink(file);
  cr_assert_eq(rmdir(dir), 0, "something was left behind");
}
TestSuite(trace, .init = setup, .fini = teardown);

static json_t *joined(int n_ranks) {
  ti_error e = {0};
  cr_assert_eq(ti_trace_join(file, n_ranks, &e), TI_OK, "%s", e.text);
  json_error_t je;
  json_t *j = json_load_file(file, 0, &je);
  cr_assert_not_null(j, "line %d: %s", je.line, je.text);
  cr_assert(json_is_array(j));
  return j;
}

static const char *str(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }
static double num(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

Test(trace, events_of_two_ranks_become_one_array) {
  for (int rank = 0; rank < 2; rank++) {
    ti_trace *t;
    cr_assert_eq(ti_trace_create(file, rank, &t), TI_OK);
    ti_trace_track(t, 3, "the \"step\" loop");
    if (rank == 1) ti_trace_set_offset(t, 1000);
    ti_trace_span(t, 3, "forward", "step", 5000250, 7000500, 12, 4);
    ti_trace_span(t, 3, "plan", "step", 9000000, 9000000, -1, -1);
    ti_trace_count(t, "kv_pages", 9000000, 17.5);
    ti_trace_count(t, "dropped", 1, 1.0 / 0.0);
    ti_trace_destroy(t);
  }
  json_t *j = joined(4);
  cr_assert_eq(json_array_size(j), 10);
  const json_t *p = json_array_get(j, 5), *track = json_array_get(j, 6), *x = json_array_get(j, 7), *i = json_array_get(j, 8),
               *c = json_array_get(j, 9);
  cr_assert_str_eq(str(p, "name"), "process_name");
  cr_assert_str_eq(str(json_object_get(p, "args"), "name"), "rank 1");
  cr_assert_str_eq(str(json_object_get(track, "args"), "name"), "the \"step\" loop");
  cr_assert_str_eq(str(x, "ph"), "X");
  cr_assert_eq(num(x, "pid"), 1);
  cr_assert_eq(num(x, "tid"), 3);
  cr_assert_float_eq(num(x, "ts"), 6000.25, 1e-9);
  cr_assert_float_eq(num(x, "dur"), 2000.25, 1e-9);
  cr_assert_eq(num(json_object_get(x, "args"), "step"), 12);
  cr_assert_eq(num(json_object_get(x, "args"), "layer"), 4);
  cr_assert_str_eq(str(i, "ph"), "i");
  cr_assert_eq(json_object_size(json_object_get(i, "args")), 0);
  cr_assert_str_eq(str(c, "ph"), "C");
  cr_assert_eq(num(json_object_get(c, "args"), "value"), 17.5);
  json_decref(j);
}

Test(trace, a_cost_says_what_a_piece_must_do) {
  ti_trace *t;
  cr_assert_eq(ti_trace_create(file, 0, &t), TI_OK);
  ti_trace_costs(t, 9, 7000, &(ti_trace_cost){.name = "qkv", .step = 5, .rows = 64, .bytes = 12e6, .flops = 3e9, .limit_us = 2.5});
  ti_trace_costs(t, 9, 7000, &(ti_trace_cost){.name = "qkv", .step = 5, .bytes = 1.0 / 0.0});  // JSON has no such number
  ti_trace_costs(NULL, 9, 7000, &(ti_trace_cost){.name = "qkv"});
  ti_trace_destroy(t);
  json_t *j = joined(1);
  cr_assert_eq(json_array_size(j), 2);
  const json_t *x = json_array_get(j, 1), *args = json_object_get(x, "args");
  cr_assert_str_eq(str(x, "cat"), "cost");
  cr_assert_str_eq(str(x, "ph"), "i");
  cr_assert(num(args, "step") == 5 && num(args, "rows") == 64 && num(args, "bytes") == 12e6 && num(args, "flops") == 3e9);
  cr_assert_float_eq(num(args, "limit_us"), 2.5, 1e-12);
  json_decref(j);
}

Test(trace, half_a_line_of_a_dead_rank_is_left_out) {
  char path[128];
  snprintf(path, sizeof(path), "%s.rank1", file);
  FILE *f = fopen(path, "w");
  fputs("{\"name\":\"a\"}\n{\"name\":\"b", f);
  fclose(f);
  json_t *j = joined(2);
  cr_assert_eq(json_array_size(j), 1);
  json_decref(j);
}

enum { THREADS = 4, EVENTS = 5000 };
static ti_trace *shared;
static void *recorder(void *arg) {
  const int tid = (int)(intptr_t)arg;
  for (int i = 0; i < EVENTS; i++) {
    ti_trace_span(shared, tid, "e", "c", 1000, 2000, i, -1);
    if (i % 500 == 0) usleep(1000);
  }
  return NULL;
}

Test(trace, threads_keep_their_order_and_lose_nothing_while_the_ring_has_room) {
  cr_assert_eq(ti_trace_create(file, 0, &shared), TI_OK);
  pthread_t t[THREADS];
  for (intptr_t i = 0; i < THREADS; i++) cr_assert_eq(pthread_create(&t[i], NULL, recorder, (void *)i), 0);
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  ti_trace_destroy(shared);
  json_t *j = joined(1);
  cr_assert_eq(json_array_size(j), 1 + THREADS * EVENTS);
  int next[THREADS] = {0};
  for (size_t i = 1; i < json_array_size(j); i++) {
    const json_t *e = json_array_get(j, i);
    const int tid = (int)num(e, "tid");
    cr_assert_eq((int)num(json_object_get(e, "args"), "step"), next[tid]++);
  }
  json_decref(j);
}

Test(trace, a_full_ring_drops_and_does_not_wait) {
  ti_trace *t;
  cr_assert_eq(ti_trace_create(file, 0, &t), TI_OK);
  const uint64_t t0 = ti_mono_ns();
  for (int i = 0; i < 300000; i++) ti_trace_span(t, 0, "e", "c", 1, 2, i, 0);
  cr_assert_lt(ti_mono_ns() - t0, 2000000000u);
  ti_trace_destroy(t);
  json_t *j = joined(1);
  cr_assert_geq(json_array_size(j), 32768);
  json_decref(j);
}

Test(trace, null_is_off_and_a_bad_path_is_an_error) {
  ti_trace_span(NULL, 0, "e", "c", 1, 2, 0, 0);
  ti_trace_count(NULL, "c", 1, 2);
  ti_trace_track(NULL, 0, "x");
  ti_trace_set_offset(NULL, 3);
  ti_trace_destroy(NULL);
  ti_trace *t;
  cr_assert_eq(ti_trace_create("/nowhere/at/all", 0, &t), TI_ERR_IO);
  ti_error e = {0};
  cr_assert_eq(ti_trace_join("/nowhere/at/all", 1, &e), TI_ERR_IO);
}
