// Filters on sequences and mappings. map, select, reject, selectattr, rejectattr, items, unique, batch and slice give generators, as jinja2's do:
// iterable once, without a length, not serialisable. (Here they are computed at once.)
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

static jj_val generator(jj_list *l) {
  l->kind = "generator";
  return jj_of_list(JJ_GEN, l);
}

// One step of a path; an undefined result is replaced by otherwise, when that is given.
static jj_val attr_step(jj_run *J, jj_val item, jj_val key, jj_val otherwise) {
  jj_val v = jj_getitem(J, item, key);
  return v.type == JJ_UNDEF && jj_given_some(otherwise) ? otherwise : v;
}

static jj_val attr_or(jj_run *J, jj_val item, jj_val path, jj_val otherwise) {
  if (path.type == JJ_NONE || path.type == JJ_MISSING) return item;
  if (path.type != JJ_STR) return attr_step(J, item, path, otherwise);
  jj_str s = path.u.s;
  for (;;) {
    const char *dot = memchr(s.p, '.', s.n);
    jj_str part = {s.p, dot ? (size_t)(dot - s.p) : s.n};
    int64_t i;
    bool number = jj_all(J, part, jj_is_digit) && jj_parse_int(part, 10, &i);
    item = attr_step(J, item, number ? jj_int(i) : jj_strn(part.p, part.n), otherwise);
    if (!dot) return item;
    s = (jj_str){dot + 1, s.n - part.n - 1};
  }
}

jj_val jj_attr_path(jj_run *J, jj_val item, jj_val path) { return attr_or(J, item, path, (jj_val){0}); }

static jj_val ignore_case(jj_run *J, jj_val v) { return v.type == JJ_STR ? jj_lower(J, v.u.s) : v; }

static jj_val key_of(jj_run *J, jj_val item, jj_val attribute, bool case_sensitive) {
  jj_val v = jj_attr_path(J, item, attribute);
  return case_sensitive ? v : ignore_case(J, v);
}

static jj_val f_length(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return jj_int(jj_length(J, v)); }

static jj_val f_list(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return jj_of_list(JJ_LIST, jj_to_list(J, v)); }

static jj_val f_first(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_val x;
  jj_iter it = jj_iterate(J, v);
  return jj_next(J, &it, &x) ? x : jj_hint(J, "No first item, sequence was empty.");
}

static jj_val f_last(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  if (v.type == JJ_GEN || v.type == JJ_LOOP) jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not reversible", jj_type_name(v));
  jj_list *l = jj_to_list(J, v);
  return l->n ? l->v[l->n - 1] : jj_hint(J, "No last item, sequence was empty.");
}

static jj_val f_join(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_str sep = {"", 0};
  if (jj_given(b[0])) sep = jj_str_of(J, b[0]);
  return jj_join(J, sep, v, b[1], false);
}

static jj_val f_reverse(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_list *l = jj_to_list(J, v), *r = jj_list_new(J, l->n);
  for (size_t i = l->n; i-- > 0;) jj_list_push(J, r, l->v[i]);
  if (v.type == JJ_STR) return jj_join(J, (jj_str){"", 0}, jj_of_list(JJ_LIST, r), (jj_val){0}, true);
  r->kind = "list_reverseiterator";
  return jj_of_list(JJ_GEN, r);
}

static jj_val f_items(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_list *l = jj_list_new(J, 0);
  if (v.type == JJ_UNDEF) return generator(l);
  if (v.type != JJ_DICT) jj_raise(J, TI_ERR_FORMAT, "TypeError: Can only get item pairs from a mapping.");
  for (size_t i = 0; i < v.u.d->n; i++) {
    jj_list *pair = jj_list_new(J, 2);
    jj_list_push(J, pair, v.u.d->e[i].key);
    jj_list_push(J, pair, v.u.d->e[i].value);
    jj_list_push(J, l, jj_of_list(JJ_TUPLE, pair));
  }
  return generator(l);
}

static jj_val sorted(jj_run *J, jj_list *l, jj_val *keys, bool reverse) {
  jj_sort(J, l->v, keys, l->n, reverse);
  return jj_of_list(JJ_LIST, l);
}

static jj_val f_dictsort(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  if (v.type == JJ_UNDEF) jj_raise_undef(J, v.u.u);
  if (v.type != JJ_DICT) jj_raise(J, TI_ERR_FORMAT, "AttributeError: '%s' object has no attribute 'items'", jj_type_name(v));
  jj_str by = jj_arg_str(J, b[1], "key");
  if (!jj_str_is(by, "key") && !jj_str_is(by, "value"))
    jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: You can only sort by either \"key\" or \"value\"");
  bool sensitive = jj_arg_bool(J, b[0], false);
  jj_list *l = f_items(J, v, NULL, NULL).u.l;
  jj_val *keys = jj_calloc(J, l->n, sizeof *keys);
  for (size_t i = 0; i < l->n; i++) {
    keys[i] = l->v[i].u.l->v[by.n == 5];
    if (!sensitive) keys[i] = ignore_case(J, keys[i]);
  }
  l->kind = NULL;
  return sorted(J, l, keys, jj_arg_bool(J, b[2], false));
}

static jj_val f_sort(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  bool sensitive = jj_arg_bool(J, b[1], false);
  jj_list *l = jj_to_list(J, v);
  jj_val *keys = jj_calloc(J, l->n, sizeof *keys);
  for (size_t i = 0; i < l->n; i++) {
    jj_val attr = jj_given(b[2]) ? b[2] : jj_none();
    jj_list *parts = jj_list_new(J, 1);
    const char *comma;
    while (attr.type == JJ_STR && (comma = memchr(attr.u.s.p, ',', attr.u.s.n))) {
      size_t n = (size_t)(comma - attr.u.s.p);
      jj_list_push(J, parts, key_of(J, l->v[i], jj_strn(attr.u.s.p, n), sensitive));
      attr = jj_strn(comma + 1, attr.u.s.n - n - 1);
    }
    jj_list_push(J, parts, key_of(J, l->v[i], attr, sensitive));
    keys[i] = jj_of_list(JJ_LIST, parts);
  }
  return sorted(J, l, keys, jj_arg_bool(J, b[0], false));
}

static jj_val f_unique(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  bool sensitive = jj_arg_bool(J, b[0], false);
  jj_dict *seen = jj_dict_new(J);
  jj_list *l = jj_list_new(J, 0);
  jj_val x, hit;
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);) {
    jj_val key = key_of(J, x, b[1], sensitive);
    if (jj_dict_get(J, seen, key, &hit)) continue;
    jj_dict_set(J, seen, key, jj_none());
    jj_list_push(J, l, x);
  }
  return generator(l);
}

static jj_val extreme(jj_run *J, jj_val v, jj_val *b, bool max) {
  bool sensitive = jj_arg_bool(J, b[0], false);
  jj_list *l = jj_to_list(J, v);
  if (l->n == 0) return jj_hint(J, "No aggregated item, sequence was empty.");
  jj_val best = l->v[0], best_key = key_of(J, best, b[1], sensitive);
  for (size_t i = 1; i < l->n; i++) {
    jj_val key = key_of(J, l->v[i], b[1], sensitive);
    int c = jj_compare(J, key, best_key, max ? ">" : "<");
    if (max ? c > 0 : c < 0) {
      best = l->v[i];
      best_key = key;
    }
  }
  return best;
}
static jj_val f_max(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return extreme(J, v, b, true); }
static jj_val f_min(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return extreme(J, v, b, false); }

static jj_val f_sum(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_val total = jj_given(b[1]) ? b[1] : jj_int(0), x;
  if (total.type == JJ_STR) jj_raise(J, TI_ERR_FORMAT, "TypeError: sum() can't sum strings [use ''.join(seq) instead]");
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);) total = jj_binop(J, '+', total, jj_attr_path(J, x, b[0]));
  return total;
}

static jj_val f_batch(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  int64_t size = jj_arg_int(J, b[0], 1);
  jj_list *out = jj_list_new(J, 0), *row = NULL;
  jj_val x;
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);) {
    if (!row || (int64_t)row->n == size) {
      row = jj_list_new(J, 0);
      jj_list_push(J, out, jj_of_list(JJ_LIST, row));
    }
    jj_list_push(J, row, x);
  }
  while (row && jj_given_some(b[1]) && (int64_t)row->n < size) {
    jj_work(J, 0);
    jj_list_push(J, row, b[1]);
  }
  return generator(out);
}

static jj_val f_slice(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  int64_t slices = jj_arg_int(J, b[0], 1);
  jj_list *l = jj_to_list(J, v), *out = jj_list_new(J, 0);
  if (slices == 0) jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: integer division or modulo by zero");
  size_t at = 0;
  for (int64_t i = 0; i < slices; i++) {
    jj_list *row = jj_list_new(J, 0);
    bool extra = i < (int64_t)l->n % slices;
    jj_work(J, 0);
    for (int64_t k = (int64_t)l->n / slices + extra; k > 0; k--) jj_list_push(J, row, l->v[at++]);
    if (jj_given_some(b[1]) && !extra) jj_list_push(J, row, b[1]);
    jj_list_push(J, out, jj_of_list(JJ_LIST, row));
  }
  return generator(out);
}

static jj_val f_groupby(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  bool sensitive = jj_arg_bool(J, b[2], false);
  jj_list *l = jj_to_list(J, v), *out = jj_list_new(J, 0), *members = NULL;
  jj_val *keys = jj_calloc(J, l->n, sizeof *keys), last = {0};
  for (size_t i = 0; i < l->n; i++) {
    keys[i] = attr_or(J, l->v[i], b[0], b[1]);
    if (!sensitive) keys[i] = ignore_case(J, keys[i]);
  }
  jj_sort(J, l->v, keys, l->n, false);
  for (size_t i = 0; i < l->n; i++) {
    jj_val real = attr_or(J, l->v[i], b[0], b[1]), key = sensitive ? real : ignore_case(J, real);
    if (!members || !jj_equal(J, key, last)) {
      jj_list *pair = jj_list_new(J, 2);
      pair->kind = "group";
      members = jj_list_new(J, 0);
      jj_list_push(J, pair, real);
      jj_list_push(J, pair, jj_of_list(JJ_LIST, members));
      jj_list_push(J, out, jj_of_list(JJ_TUPLE, pair));
      last = key;
    }
    jj_list_push(J, members, l->v[i]);
  }
  return jj_of_list(JJ_LIST, out);
}

static jj_val f_map(jj_run *J, jj_val v, jj_val *b, const jj_args *a) {
  jj_list *out = jj_list_new(J, 0);
  jj_val x, path = {0}, otherwise = {0};
  for (size_t i = 0; i < a->n_kw && a->n == 0; i++) {
    if (jj_val_is(a->kw[i].key, "attribute"))
      path = a->kw[i].value;
    else if (jj_val_is(a->kw[i].key, "default"))
      otherwise = a->kw[i].value;
    else
      jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: Unexpected keyword argument '%.*s'", (int)a->kw[i].key.u.s.n, a->kw[i].key.u.s.p);
  }
  if (a->n == 0 && !jj_given(path)) jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: map requires a filter argument");
  jj_args rest = *a;
  jj_str name = {0};
  if (a->n) {
    name = jj_arg_str(J, a->v[0], "");
    rest.v++;
    rest.n--;
  }
  jj_enter(J);
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);)
    jj_list_push(J, out, a->n ? jj_filter(J, name, x, &rest) : attr_or(J, x, path, otherwise));
  jj_leave(J);
  return generator(out);
}

static jj_val choose(jj_run *J, jj_val v, const jj_args *a, bool want, bool attr) {
  jj_list *out = jj_list_new(J, 0);
  if (attr && a->n == 0) jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: Missing parameter for attribute name");
  size_t off = attr;
  jj_args rest = *a;
  jj_str name = {0};
  if (a->n > off) {
    name = jj_arg_str(J, a->v[off], "");
    rest.v += off + 1;
    rest.n -= off + 1;
  }
  jj_val x;
  for (jj_iter it = jj_iterate(J, v); jj_next(J, &it, &x);) {
    jj_val y = attr ? jj_attr_path(J, x, a->v[0]) : x;
    bool yes = a->n > off ? jj_test(J, name, y, &rest) : jj_truth(J, y);
    if (yes == want) jj_list_push(J, out, x);
  }
  return generator(out);
}
static jj_val f_select(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return choose(J, v, a, true, false); }
static jj_val f_reject(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return choose(J, v, a, false, false); }
static jj_val f_selectattr(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return choose(J, v, a, true, true); }
static jj_val f_rejectattr(jj_run *J, jj_val v, jj_val *b, const jj_args *a) { return choose(J, v, a, false, true); }

const jj_func jj_filters_seq[] = {
    {"length", f_length, ""},
    {"count", f_length, ""},
    {"list", f_list, ""},
    {"first", f_first, ""},
    {"last", f_last, ""},
    {"join", f_join, "d attribute"},
    {"reverse", f_reverse, ""},
    {"items", f_items, ""},
    {"dictsort", f_dictsort, "case_sensitive by reverse"},
    {"sort", f_sort, "reverse case_sensitive attribute"},
    {"unique", f_unique, "case_sensitive attribute"},
    {"max", f_max, "case_sensitive attribute"},
    {"min", f_min, "case_sensitive attribute"},
    {"sum", f_sum, "attribute start"},
    {"batch", f_batch, "!linecount fill_with"},
    {"slice", f_slice, "!slices fill_with"},
    {"groupby", f_groupby, "!attribute default case_sensitive"},
    {"map", f_map, NULL},
    {"select", f_select, NULL},
    {"reject", f_reject, NULL},
    {"selectattr", f_selectattr, NULL},
    {"rejectattr", f_rejectattr, NULL},
    {NULL, NULL, NULL},
};
