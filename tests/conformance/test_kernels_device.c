// A backend's device: transfers leave the host's memory free and arrive in order, marks, page-locked memory, recorded ops, device time, errors of
// open.
#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "conformance.h"

// n bytes that differ from place to place and from seed to seed.
static uint8_t *noise(cf_dev *d, size_t n, uint32_t seed) {
  uint8_t *p = cf_host(d, n);
  uint32_t x = seed * 2654435761u + 1;
  for (size_t i = 0; i < n; i++) {
    x = x * 1664525u + 1013904223u;
    p[i] = (uint8_t)(x >> 24);
  }
  return p;
}

Test(device, memory_is_zeroed_and_copies_and_zeroing_stay_inside_their_bytes) {
  static const size_t sizes[] = {0, 1, 3, 64, 1000, 100000};
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, copy)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    for (int i = 0; i < 6; i++, cf_reset(d)) {
      const size_t n = sizes[i], all = n + 32;
      uint8_t *fresh = k->alloc(d->d, all), *got = cf_host(d, all), *want = noise(d, all, 1), *host = noise(d, all, 2);
      cr_assert(fresh);
      cf_down(d, got, fresh, all);
      for (size_t b = 0; b < all; b++) cr_assert(got[b] == 0, "%s: fresh memory holds %d", k->name, got[b]);
      uint8_t *dst = cf_up(d, want, all), *src = cf_up(d, host, all);
      cf_ok(d, "copy", k->copy(d->d, dst + 16, src + 16, n));
      memcpy(want + 16, host + 16, n);
      cf_down(d, got, dst, all);
      cf_same_bits(d, "copy", got, want, all);
      cf_ok(d, "zero", k->zero(d->d, dst + 16, n));
      memset(want + 16, 0, n);
      cf_down(d, got, dst, all);
      cf_same_bits(d, "zero", got, want, all);
      k->free(d->d, fresh);
    }
    cf_close(d);
  }
}

// Every size from a few bytes to several slots of a transfer ring; the host's memory is overwritten as soon as upload returns.
Test(device, uploads_leave_the_host_free_and_arrive_in_order) {
  enum { BIG = 40 << 20, N_SMALL = 3000 };
  CF_EACH_BACKEND(k) {
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    uint8_t *want = noise(d, BIG, 5), *host = cf_host(d, BIG), *got = cf_host(d, BIG), *dev = k->alloc(d->d, BIG);
    cr_assert(dev);
    memcpy(host, want, BIG);
    cf_put(d, dev, host, BIG);
    memset(host, 0x55, BIG);
    for (size_t i = 0, at = 0; i < N_SMALL; at += i * 7 % 9001, i++) {  // over what has just gone up
      const size_t n = i * 31 % 7001;
      memcpy(host, noise(d, n + 1, (uint32_t)i), n);
      memcpy(want + at, host, n);
      cf_put(d, dev + at, host, n);
      memset(host, 0xaa, n);
      if (i % 500 == 499) cf_put(d, dev + (20 << 20), want + (20 << 20), 9 << 20);
    }
    cf_down(d, got, dev, BIG);
    cf_same_bits(d, "what went up", got, want, BIG);
    k->free(d->d, dev);
    cf_close(d);
  }
}

Test(device, marks_say_when_downloads_have_arrived) {
  enum { N = 1 << 16 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, mark)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    float *host = k->alloc_host(d->d, N * sizeof *host);
    cr_assert(host, "%s: alloc_host", k->name);
    const float *x = cf_floats(d, N, 1, 1.0f);
    for (int i = 0; i < 3 * TI_DEV_MARKS; i++) {
      const int mark = i % TI_DEV_MARKS;
      void *dev = cf_up(d, x, N * sizeof *x);
      memset(host, 0, N * sizeof *host);
      cf_ok(d, "download", k->download(d->d, host, dev, N * sizeof *host));
      cf_ok(d, "mark", k->mark(d->d, mark));
      ti_status st = TI_INPROGRESS;
      for (const uint64_t end = ti_mono_us() + 5000000; i % 2 && st == TI_INPROGRESS && ti_mono_us() < end;) st = k->done(d->d, mark);
      if (i % 2) cf_ok(d, "done", st);
      cf_ok(d, "wait", k->wait(d->d, mark));
      cf_same_bits(d, "what came down", host, x, N * sizeof *host);
      cf_ok(d, "done", k->done(d->d, mark));
    }
    k->free_host(d->d, host);
    cf_close(d);
  }
}

// The ops of a recording see the memory of each launch: three launches are three runs of the ops.
Test(device, a_recording_does_what_its_ops_do) {
  enum { ROWS = 5, DIM = 264, N = ROWS * DIM };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, graph_begin)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    ti_error err = {0};
    const float *x = cf_floats(d, N, 1, 1.0f), *y = cf_floats(d, N, 2, 1.0f), *w = cf_floats(d, DIM, 3, 1.0f);
    void *in = cf_up_act(d, x, N), *sum = cf_out_act(d, N), *out = cf_out_act(d, N), *once = cf_out_act(d, N);
    const ti_add_args add = {.x = sum, .y = in, .n = N};
    ti_rmsnorm_args norm = {.out = out, .x = sum, .weight = cf_up(d, w, sizeof(float) * DIM), .n_row = ROWS, .dim = DIM, .eps = 1e-5f};
    const size_t el = k->act == TI_F32 ? 4 : 2;
    ti_dev_graph *g = NULL;
    cf_ok(d, "graph_begin", k->graph_begin(d->d));
    cf_ok(d, "copy", k->copy(d->d, sum, in, N * el));
    for (int i = 0; i < 3; i++) cf_ok(d, "add", k->add(d->d, &add));
    cf_ok(d, "rmsnorm", k->rmsnorm(d->d, &norm));
    cr_assert_eq(k->graph_end(d->d, &g, &err), TI_OK, "%s: graph_end: %s", k->name, err.text);
    for (int i = 0; i < 3; i++) {
      void *fresh = cf_up_act(d, i % 2 ? y : x, N);
      cf_ok(d, "copy", k->copy(d->d, in, fresh, N * el));
      cf_ok(d, "graph_launch", k->graph_launch(d->d, g));
      const float *got = cf_down_act(d, out, N);
      cf_ok(d, "copy", k->copy(d->d, sum, in, N * el));
      for (int j = 0; j < 3; j++) cf_ok(d, "add", k->add(d->d, &add));
      norm.out = once;
      cf_ok(d, "rmsnorm", k->rmsnorm(d->d, &norm));
      cf_same_bits(d, "a recording", got, cf_down_act(d, once, N), N * sizeof(float));
    }
    k->graph_free(d->d, g);
    cf_close(d);
  }
}

static int find_span(const ti_dev_span *s, int n, const char *name, int layer) {
  for (int i = 0; i < n; i++) {
    if (strcmp(s[i].name, name) == 0 && s[i].layer == layer) return i;
  }
  return -1;
}

// On the host's clock: inside the time between before the first op and behind the wait, nested as they were, also from a recording and at each
// launch.
Test(device, spans_are_on_the_hosts_clock) {
  enum { N = 1 << 20, CAP = 64, SLACK_NS = 200000 };
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, span_begin)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    ti_dev_span s[CAP];
    void *a = cf_out_act(d, N), *b = cf_out_act(d, N);
    const size_t bytes = N * (k->act == TI_F32 ? 4 : 2);
    cf_ok(d, "span_begin", k->span_begin(d->d, "warm", 0));
    cf_ok(d, "span_end", k->span_end(d->d));
    cf_ok(d, "sync", k->sync(d->d));
    cr_assert_eq(k->spans(d->d, s, CAP), 1);
    ti_dev_graph *g = NULL;
    ti_error err = {0};
    if (k->graph_begin) {
      cf_ok(d, "graph_begin", k->graph_begin(d->d));
      cf_ok(d, "span_begin", k->span_begin(d->d, "inner", 7));
      cf_ok(d, "copy", k->copy(d->d, a, b, bytes));
      cf_ok(d, "span_end", k->span_end(d->d));
      cr_assert_eq(k->graph_end(d->d, &g, &err), TI_OK, "%s: graph_end: %s", k->name, err.text);
    }
    for (int i = 0; i < 3; i++) {
      const uint64_t t0 = ti_mono_ns();
      cf_ok(d, "span_begin", k->span_begin(d->d, "outer", -1));
      cf_ok(d, "span_begin", k->span_begin(d->d, "copy", i));
      cf_ok(d, "copy", k->copy(d->d, a, b, bytes));
      cf_ok(d, "span_end", k->span_end(d->d));
      if (g) cf_ok(d, "graph_launch", k->graph_launch(d->d, g));
      cf_ok(d, "span_end", k->span_end(d->d));
      cf_ok(d, "sync", k->sync(d->d));
      const uint64_t t1 = ti_mono_ns();
      const int n = k->spans(d->d, s, CAP), outer = find_span(s, n, "outer", -1), copy = find_span(s, n, "copy", i);
      cr_assert(n == (g ? 3 : 2) && outer >= 0 && copy >= 0, "%s: %d spans", k->name, n);
      for (int j = 0; j < n; j++) {
        cr_assert(s[j].begin_ns + SLACK_NS >= t0 && s[j].begin_ns <= s[j].end_ns && s[j].end_ns <= t1 + SLACK_NS,
                  "%s: span %s is %lld .. %lld us of a run of %lld us", k->name, s[j].name, (long long)(s[j].begin_ns - t0) / 1000,
                  (long long)(s[j].end_ns - t0) / 1000, (long long)(t1 - t0) / 1000);
        cr_assert(s[j].begin_ns >= s[outer].begin_ns && s[j].end_ns <= s[outer].end_ns, "%s: span %s is not inside the outer one", k->name,
                  s[j].name);
      }
      if (g) cr_assert(find_span(s, n, "inner", 7) >= 0, "%s: the recording's span is missing at launch %d", k->name, i);
    }
    if (g) k->graph_free(d->d, g);
    cf_close(d);
  }
}

Test(device, memory_is_told_and_too_much_is_refused) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, memory)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    size_t free_bytes = 0, total = 0;
    cf_ok(d, "memory", k->memory(d->d, &free_bytes, &total));
    cr_assert(total > 0 && free_bytes <= total, "%s: %zu of %zu bytes free", k->name, free_bytes, total);
    cr_assert(k->alloc(d->d, total * 2) == NULL, "%s: more memory than there is", k->name);
    void *p = k->alloc(d->d, 1 << 20);  // and goes on
    cr_assert(p);
    k->free(d->d, p);
    cf_ok(d, "sync", k->sync(d->d));
    cf_close(d);
  }
}

// More blocks than a launch may have: refused by the driver before anything runs; the device goes on.
Test(device, a_launch_that_fails_is_named) {
  CF_EACH_BACKEND(k) {
    CF_SKIP_WITHOUT(k, last_error)
    cf_dev *d = cf_open(k, TI_ACT_NONE, 1);
    void *p = cf_out_act(d, 64);
    cr_assert(k->last_error(d->d)[0] == 0, "%s: %s", k->name, k->last_error(d->d));
    const ti_silu_mul_args a = {.out = p, .gate_up = p, .n_row = 1, .dim = 8 * 256 * 70000};
    cr_assert_eq(k->silu_mul(d->d, &a), TI_ERR_INTERNAL);
    cr_assert(strstr(k->last_error(d->d), "silu_mul"), "%s: %s", k->name, k->last_error(d->d));
    cf_ok(d, "sync", k->sync(d->d));
    cf_close(d);
  }
}

Test(device, a_gpu_that_is_not_there_is_named) {
  const ti_kernels *k = ti_kernels_find("cuda");
  if (!k) {
    printf("no cuda here, skipped\n");
    return;
  }
  ti_dev *d = NULL;
  ti_error err = {0};
  const ti_dev_options o = {.index = 99, .threads = 1};
  cr_assert(k->open(&o, &d, &err) == TI_ERR_ARG && !d && strstr(err.text, "index is 99"), "%s", err.text);
}
