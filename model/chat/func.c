// Global functions (range, dict, namespace, cycler, joiner, raise_exception, strftime_now) and the reading of arguments.
#include <string.h>
#include <time.h>

#include "model/chat/interp.h"

#define MAX_RANGE 100000  // jinja2's sandbox

int64_t jj_arg_int(jj_run *J, jj_val v, int64_t missing) {
  if (v.type == JJ_MISSING) return missing;
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (!jj_is_intlike(v)) jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object cannot be interpreted as an integer", jj_type_name(v));
  return jj_as_int(v);
}

bool jj_arg_bool(jj_run *J, jj_val v, bool missing) { return v.type == JJ_MISSING ? missing : jj_truth(J, v); }

jj_str jj_arg_str(jj_run *J, jj_val v, const char *missing) {
  if (v.type == JJ_MISSING) return (jj_str){missing, strlen(missing)};
  if (v.type != JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: expected str, got %s", jj_type_name(v));
  return v.u.s;
}

static jj_val g_range(jj_run *J, jj_val self, jj_val *b, const jj_args *a) {
  int64_t start = 0, stop = jj_arg_int(J, b[0], 0), step = jj_arg_int(J, b[2], 1);
  if (jj_given(b[1])) {
    start = stop;
    stop = jj_arg_int(J, b[1], 0);
  }
  if (step == 0) jj_raise(J, TI_ERR_FORMAT, "ValueError: range() arg 3 must not be zero");
  jj_list *l = jj_list_new(J, 0);
  l->start = start;
  l->stop = stop;
  l->step = step;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (l->n == MAX_RANGE)
      jj_raise(J, TI_ERR_FORMAT, "OverflowError: Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", MAX_RANGE);
    jj_work(J, 0);
    jj_list_push(J, l, jj_int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return jj_of_list(JJ_RANGE, l);
}

// dict(...) and namespace(...): a mapping or pairs, then keywords.
static jj_dict *make_dict(jj_run *J, const jj_args *a) {
  jj_dict *d = jj_dict_new(J);
  if (a->n > 1) jj_raise(J, TI_ERR_FORMAT, "TypeError: dict expected at most 1 argument, got %zu", a->n);
  if (a->n == 1 && a->v[0].type == JJ_DICT) {
    for (size_t i = 0; i < a->v[0].u.d->n; i++) jj_dict_set(J, d, a->v[0].u.d->e[i].key, a->v[0].u.d->e[i].value);
  } else if (a->n == 1) {
    jj_val x;
    for (jj_iter it = jj_iterate(J, a->v[0]); jj_next(J, &it, &x);) {
      jj_list *pair = jj_to_list(J, x);
      if (pair->n != 2) jj_raise(J, TI_ERR_FORMAT, "ValueError: dictionary update sequence element has length %zu; 2 is required", pair->n);
      jj_dict_set(J, d, pair->v[0], pair->v[1]);
    }
  }
  for (size_t i = 0; i < a->n_kw; i++) jj_dict_set(J, d, a->kw[i].key, a->kw[i].value);
  return d;
}

static jj_val g_dict(jj_run *J, jj_val self, jj_val *b, const jj_args *a) { return jj_of_dict(JJ_DICT, make_dict(J, a)); }
static jj_val g_namespace(jj_run *J, jj_val self, jj_val *b, const jj_args *a) { return jj_of_dict(JJ_NS, make_dict(J, a)); }

static jj_val g_cycler(jj_run *J, jj_val self, jj_val *b, const jj_args *a) {
  if (a->n == 0) jj_raise(J, TI_ERR_FORMAT, "RuntimeError: at least one item has to be provided");
  jj_list *l = jj_list_new(J, a->n);
  for (size_t i = 0; i < a->n; i++) jj_list_push(J, l, a->v[i]);
  return jj_of_list(JJ_CYCLER, l);
}

static jj_val g_joiner(jj_run *J, jj_val self, jj_val *b, const jj_args *a) {
  jj_list *l = jj_list_new(J, 1);
  jj_list_push(J, l, jj_given(b[0]) ? b[0] : jj_lit(", "));
  return jj_of_list(JJ_JOINER, l);
}

static jj_val g_raise(jj_run *J, jj_val self, jj_val *b, const jj_args *a) {
  jj_str s = jj_str_of(J, b[0]);
  jj_raise(J, TI_ERR_ARG, "raise_exception: %.*s", (int)(s.n < 400 ? s.n : 400), s.p);
}

static jj_val g_strftime_now(jj_run *J, jj_val self, jj_val *b, const jj_args *a) {
  jj_str s = jj_arg_str(J, b[0], "");
  time_t now = (time_t)J->now_unix;
  struct tm tm;
  if (s.n == 0) return jj_lit("");
  if (!localtime_r(&now, &tm)) jj_raise(J, TI_ERR_FORMAT, "strftime_now: the time %lld has no calendar date", (long long)J->now_unix);
  if (s.n > 1000) jj_raise(J, TI_ERR_FORMAT, "strftime_now: a format of %zu bytes; the limit is 1000", s.n);
  // a mark in front tells an empty result (fine) from one that does not fit
  char fmt[1004] = "x", text[8192];
  memcpy(fmt + 1, s.p, s.n);
  fmt[s.n + 1] = 0;
  size_t n = strftime(text, sizeof text, fmt, &tm);
  if (n == 0) jj_raise(J, TI_ERR_FORMAT, "strftime_now: the result is longer than %zu bytes", sizeof text);
  jj_sink out = {0};
  jj_put(J, &out, text + 1, n - 1);
  return jj_sink_val(&out);
}

const jj_func jj_globals[] = {
    {"range", g_range, "!start stop step"},
    {"dict", g_dict, NULL},
    {"namespace", g_namespace, NULL},
    {"cycler", g_cycler, NULL},
    {"joiner", g_joiner, "sep"},
    {"raise_exception", g_raise, "!message"},
    {"strftime_now", g_strftime_now, "!format"},
    {NULL, NULL, NULL},
};
