// Global functions (range, dict, namespace, cycler, joiner, raise_exception, strftime_now) and the reading of arguments.
#include <string.h>
#include <time.h>

#include "model/chat/interp.h"

#define MAX_RANGE 100000  // jinja2's sandbox

int64_t ti_jj_arg_int(ti_jj_run *J, ti_jj_val v, int64_t missing) {
  if (v.type == TI_JJ_MISSING) return missing;
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (!ti_jj_is_intlike(v)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object cannot be interpreted as an integer", ti_jj_type_name(v));
  return ti_jj_as_int(v);
}

bool ti_jj_arg_bool(ti_jj_run *J, ti_jj_val v, bool missing) { return v.type == TI_JJ_MISSING ? missing : ti_jj_truth(J, v); }

ti_jj_str ti_jj_arg_str(ti_jj_run *J, ti_jj_val v, const char *missing) {
  if (v.type == TI_JJ_MISSING) return (ti_jj_str){missing, strlen(missing)};
  if (v.type != TI_JJ_STR) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: expected str, got %s", ti_jj_type_name(v));
  return v.u.s;
}

static ti_jj_val g_range(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) {
  int64_t start = 0, stop = ti_jj_arg_int(J, b[0], 0), step = ti_jj_arg_int(J, b[2], 1);
  if (ti_jj_given(b[1])) {
    start = stop;
    stop = ti_jj_arg_int(J, b[1], 0);
  }
  if (step == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: range() arg 3 must not be zero");
  ti_jj_list *l = ti_jj_list_new(J, 0);
  l->start = start;
  l->stop = stop;
  l->step = step;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (l->n == MAX_RANGE)
      ti_jj_raise(J, TI_ERR_FORMAT, "OverflowError: Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", MAX_RANGE);
    ti_jj_work(J, 0);
    ti_jj_list_push(J, l, ti_jj_int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return ti_jj_of_list(TI_JJ_RANGE, l);
}

// dict(...) and namespace(...): a mapping or pairs, then keywords.
static ti_jj_dict *make_dict(ti_jj_run *J, const ti_jj_args *a) {
  ti_jj_dict *d = ti_jj_dict_new(J);
  if (a->n > 1) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: dict expected at most 1 argument, got %zu", a->n);
  if (a->n == 1 && a->v[0].type == TI_JJ_DICT) {
    for (size_t i = 0; i < a->v[0].u.d->n; i++) ti_jj_dict_set(J, d, a->v[0].u.d->e[i].key, a->v[0].u.d->e[i].value);
  } else if (a->n == 1) {
    ti_jj_val x;
    for (ti_jj_iter it = ti_jj_iterate(J, a->v[0]); ti_jj_next(J, &it, &x);) {
      ti_jj_list *pair = ti_jj_to_list(J, x);
      if (pair->n != 2) ti_jj_raise(J, TI_ERR_FORMAT, "ValueError: dictionary update sequence element has length %zu; 2 is required", pair->n);
      ti_jj_dict_set(J, d, pair->v[0], pair->v[1]);
    }
  }
  for (size_t i = 0; i < a->n_kw; i++) ti_jj_dict_set(J, d, a->kw[i].key, a->kw[i].value);
  return d;
}

static ti_jj_val g_dict(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_of_dict(TI_JJ_DICT, make_dict(J, a)); }
static ti_jj_val g_namespace(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_of_dict(TI_JJ_NS, make_dict(J, a)); }

static ti_jj_val g_cycler(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) {
  if (a->n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "RuntimeError: at least one item has to be provided");
  ti_jj_list *l = ti_jj_list_new(J, a->n);
  for (size_t i = 0; i < a->n; i++) ti_jj_list_push(J, l, a->v[i]);
  return ti_jj_of_list(TI_JJ_CYCLER, l);
}

static ti_jj_val g_joiner(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_list *l = ti_jj_list_new(J, 1);
  ti_jj_list_push(J, l, ti_jj_given(b[0]) ? b[0] : ti_jj_lit(", "));
  return ti_jj_of_list(TI_JJ_JOINER, l);
}

static ti_jj_val g_raise(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_str_of(J, b[0]);
  ti_jj_raise(J, TI_ERR_ARG, "raise_exception: %.*s", (int)(s.n < 400 ? s.n : 400), s.p);
}

static ti_jj_val g_strftime_now(ti_jj_run *J, ti_jj_val self, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str s = ti_jj_arg_str(J, b[0], "");
  time_t now = (time_t)J->now_unix;
  struct tm tm;
  if (s.n == 0) return ti_jj_lit("");
  if (!localtime_r(&now, &tm)) ti_jj_raise(J, TI_ERR_FORMAT, "strftime_now: the time %lld has no calendar date", (long long)J->now_unix);
  if (s.n > 1000) ti_jj_raise(J, TI_ERR_FORMAT, "strftime_now: a format of %zu bytes; the limit is 1000", s.n);
  // a mark in front tells an empty result (fine) from one that does not fit
  char fmt[1004] = "x", text[8192];
  memcpy(fmt + 1, s.p, s.n);
  fmt[s.n + 1] = 0;
  size_t n = strftime(text, sizeof text, fmt, &tm);
  if (n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "strftime_now: the result is longer than %zu bytes", sizeof text);
  ti_jj_sink out = {0};
  ti_jj_put(J, &out, text + 1, n - 1);
  return ti_jj_sink_val(&out);
}

const ti_jj_func ti_jj_globals[] = {
    {"range", g_range, "!start stop step"},
    {"dict", g_dict, NULL},
    {"namespace", g_namespace, NULL},
    {"cycler", g_cycler, NULL},
    {"joiner", g_joiner, "sep"},
    {"raise_exception", g_raise, "!message"},
    {"strftime_now", g_strftime_now, "!format"},
    {NULL, NULL, NULL},
};
