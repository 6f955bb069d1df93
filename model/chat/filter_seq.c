// Filters on sequences and mappings. map, select, reject, selectattr, rejectattr, items, unique, batch and slice give generators, as jinja2's do:
// iterable once, without a length, not serialisable. (Here they are computed at once.)
#include <string.h>

#include "model/chat/strops.h"
#include "model/chat/uni.h"

static ti_jj_val generator(ti_jj_list *l) {
  l->kind = "generator";
  return ti_jj_of_list(TI_JJ_GEN, l);
}

// One step of a path; an undefined result is replaced by otherwise, when that is given.
static ti_jj_val attr_step(ti_jj_run *J, ti_jj_val item, ti_jj_val key, ti_jj_val otherwise) {
  ti_jj_val v = ti_jj_getitem(J, item, key);
  return v.type == TI_JJ_UNDEF && ti_jj_given_some(otherwise) ? otherwise : v;
}

static ti_jj_val attr_or(ti_jj_run *J, ti_jj_val item, ti_jj_val path, ti_jj_val otherwise) {
  if (path.type == TI_JJ_NONE || path.type == TI_JJ_MISSING) return item;
  if (path.type != TI_JJ_STR) return attr_step(J, item, path, otherwise);
  ti_jj_str s = path.u.s;
  for (;;) {
    const char *dot = memchr(s.p, '.', s.n);
    ti_jj_str part = {s.p, dot ? (size_t)(dot - s.p) : s.n};
    int64_t i;
    bool number = ti_jj_all(J, part, ti_jj_is_digit) && ti_jj_parse_int(part, 10, &i);
    item = attr_step(J, item, number ? ti_jj_int(i) : ti_jj_strn(part.p, part.n), otherwise);
    if (!dot) return item;
    s = (ti_jj_str){dot + 1, s.n - part.n - 1};
  }
}

ti_jj_val ti_jj_attr_path(ti_jj_run *J, ti_jj_val item, ti_jj_val path) { return attr_or(J, item, path, (ti_jj_val){0}); }

static ti_jj_val ignore_case(ti_jj_run *J, ti_jj_val v) { return v.type == TI_JJ_STR ? ti_jj_lower(J, v.u.s) : v; }

static ti_jj_val key_of(ti_jj_run *J, ti_jj_val item, ti_jj_val attribute, bool case_sensitive) {
  ti_jj_val v = ti_jj_attr_path(J, item, attribute);
  return case_sensitive ? v : ignore_case(J, v);
}

static ti_jj_val f_length(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_int(ti_jj_length(J, v)); }

static ti_jj_val f_list(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return ti_jj_of_list(TI_JJ_LIST, ti_jj_to_list(J, v)); }

static ti_jj_val f_first(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_val x;
  ti_jj_iter it = ti_jj_iterate(J, v);
  return ti_jj_next(J, &it, &x) ? x : ti_jj_hint(J, "No first item, sequence was empty.");
}

static ti_jj_val f_last(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  if (v.type == TI_JJ_GEN || v.type == TI_JJ_LOOP) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' object is not reversible", ti_jj_type_name(v));
  ti_jj_list *l = ti_jj_to_list(J, v);
  return l->n ? l->v[l->n - 1] : ti_jj_hint(J, "No last item, sequence was empty.");
}

static ti_jj_val f_join(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_str sep = {"", 0};
  if (ti_jj_given(b[0])) sep = ti_jj_str_of(J, b[0]);
  return ti_jj_join(J, sep, v, b[1], false);
}

static ti_jj_val f_reverse(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_list *l = ti_jj_to_list(J, v), *r = ti_jj_list_new(J, l->n);
  for (size_t i = l->n; i-- > 0;) ti_jj_list_push(J, r, l->v[i]);
  if (v.type == TI_JJ_STR) return ti_jj_join(J, (ti_jj_str){"", 0}, ti_jj_of_list(TI_JJ_LIST, r), (ti_jj_val){0}, true);
  r->kind = "list_reverseiterator";
  return ti_jj_of_list(TI_JJ_GEN, r);
}

static ti_jj_val f_items(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_list *l = ti_jj_list_new(J, 0);
  if (v.type == TI_JJ_UNDEF) return generator(l);
  if (v.type != TI_JJ_DICT) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: Can only get item pairs from a mapping.");
  for (size_t i = 0; i < v.u.d->n; i++) {
    ti_jj_list *pair = ti_jj_list_new(J, 2);
    ti_jj_list_push(J, pair, v.u.d->e[i].key);
    ti_jj_list_push(J, pair, v.u.d->e[i].value);
    ti_jj_list_push(J, l, ti_jj_of_list(TI_JJ_TUPLE, pair));
  }
  return generator(l);
}

static ti_jj_val sorted(ti_jj_run *J, ti_jj_list *l, ti_jj_val *keys, bool reverse) {
  ti_jj_sort(J, l->v, keys, l->n, reverse);
  return ti_jj_of_list(TI_JJ_LIST, l);
}

static ti_jj_val f_dictsort(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  if (v.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, v.u.u);
  if (v.type != TI_JJ_DICT) ti_jj_raise(J, TI_ERR_FORMAT, "AttributeError: '%s' object has no attribute 'items'", ti_jj_type_name(v));
  ti_jj_str by = ti_jj_arg_str(J, b[1], "key");
  if (!ti_jj_str_is(by, "key") && !ti_jj_str_is(by, "value"))
    ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: You can only sort by either \"key\" or \"value\"");
  bool sensitive = ti_jj_arg_bool(J, b[0], false);
  ti_jj_list *l = f_items(J, v, NULL, NULL).u.l;
  ti_jj_val *keys = ti_jj_calloc(J, l->n, sizeof *keys);
  for (size_t i = 0; i < l->n; i++) {
    keys[i] = l->v[i].u.l->v[by.n == 5];
    if (!sensitive) keys[i] = ignore_case(J, keys[i]);
  }
  l->kind = NULL;
  return sorted(J, l, keys, ti_jj_arg_bool(J, b[2], false));
}

static ti_jj_val f_sort(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  bool sensitive = ti_jj_arg_bool(J, b[1], false);
  ti_jj_list *l = ti_jj_to_list(J, v);
  ti_jj_val *keys = ti_jj_calloc(J, l->n, sizeof *keys);
  for (size_t i = 0; i < l->n; i++) {
    ti_jj_val attr = ti_jj_given(b[2]) ? b[2] : ti_jj_none();
    ti_jj_list *parts = ti_jj_list_new(J, 1);
    const char *comma;
    while (attr.type == TI_JJ_STR && (comma = memchr(attr.u.s.p, ',', attr.u.s.n))) {
      size_t n = (size_t)(comma - attr.u.s.p);
      ti_jj_list_push(J, parts, key_of(J, l->v[i], ti_jj_strn(attr.u.s.p, n), sensitive));
      attr = ti_jj_strn(comma + 1, attr.u.s.n - n - 1);
    }
    ti_jj_list_push(J, parts, key_of(J, l->v[i], attr, sensitive));
    keys[i] = ti_jj_of_list(TI_JJ_LIST, parts);
  }
  return sorted(J, l, keys, ti_jj_arg_bool(J, b[0], false));
}

static ti_jj_val f_unique(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  bool sensitive = ti_jj_arg_bool(J, b[0], false);
  ti_jj_dict *seen = ti_jj_dict_new(J);
  ti_jj_list *l = ti_jj_list_new(J, 0);
  ti_jj_val x, hit;
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);) {
    ti_jj_val key = key_of(J, x, b[1], sensitive);
    if (ti_jj_dict_get(J, seen, key, &hit)) continue;
    ti_jj_dict_set(J, seen, key, ti_jj_none());
    ti_jj_list_push(J, l, x);
  }
  return generator(l);
}

static ti_jj_val extreme(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, bool max) {
  bool sensitive = ti_jj_arg_bool(J, b[0], false);
  ti_jj_list *l = ti_jj_to_list(J, v);
  if (l->n == 0) return ti_jj_hint(J, "No aggregated item, sequence was empty.");
  ti_jj_val best = l->v[0], best_key = key_of(J, best, b[1], sensitive);
  for (size_t i = 1; i < l->n; i++) {
    ti_jj_val key = key_of(J, l->v[i], b[1], sensitive);
    int c = ti_jj_compare(J, key, best_key, max ? ">" : "<");
    if (max ? c > 0 : c < 0) {
      best = l->v[i];
      best_key = key;
    }
  }
  return best;
}
static ti_jj_val f_max(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return extreme(J, v, b, true); }
static ti_jj_val f_min(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return extreme(J, v, b, false); }

static ti_jj_val f_sum(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_val total = ti_jj_given(b[1]) ? b[1] : ti_jj_int(0), x;
  if (total.type == TI_JJ_STR) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: sum() can't sum strings [use ''.join(seq) instead]");
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);) total = ti_jj_binop(J, '+', total, ti_jj_attr_path(J, x, b[0]));
  return total;
}

static ti_jj_val f_batch(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  int64_t size = ti_jj_arg_int(J, b[0], 1);
  ti_jj_list *out = ti_jj_list_new(J, 0), *row = NULL;
  ti_jj_val x;
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);) {
    if (!row || (int64_t)row->n == size) {
      row = ti_jj_list_new(J, 0);
      ti_jj_list_push(J, out, ti_jj_of_list(TI_JJ_LIST, row));
    }
    ti_jj_list_push(J, row, x);
  }
  while (row && ti_jj_given_some(b[1]) && (int64_t)row->n < size) {
    ti_jj_work(J, 0);
    ti_jj_list_push(J, row, b[1]);
  }
  return generator(out);
}

static ti_jj_val f_slice(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  int64_t slices = ti_jj_arg_int(J, b[0], 1);
  ti_jj_list *l = ti_jj_to_list(J, v), *out = ti_jj_list_new(J, 0);
  if (slices == 0) ti_jj_raise(J, TI_ERR_FORMAT, "ZeroDivisionError: integer division or modulo by zero");
  size_t at = 0;
  for (int64_t i = 0; i < slices; i++) {
    ti_jj_list *row = ti_jj_list_new(J, 0);
    bool extra = i < (int64_t)l->n % slices;
    ti_jj_work(J, 0);
    for (int64_t k = (int64_t)l->n / slices + extra; k > 0; k--) ti_jj_list_push(J, row, l->v[at++]);
    if (ti_jj_given_some(b[1]) && !extra) ti_jj_list_push(J, row, b[1]);
    ti_jj_list_push(J, out, ti_jj_of_list(TI_JJ_LIST, row));
  }
  return generator(out);
}

static ti_jj_val f_groupby(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  bool sensitive = ti_jj_arg_bool(J, b[2], false);
  ti_jj_list *l = ti_jj_to_list(J, v), *out = ti_jj_list_new(J, 0), *members = NULL;
  ti_jj_val *keys = ti_jj_calloc(J, l->n, sizeof *keys), last = {0};
  for (size_t i = 0; i < l->n; i++) {
    keys[i] = attr_or(J, l->v[i], b[0], b[1]);
    if (!sensitive) keys[i] = ignore_case(J, keys[i]);
  }
  ti_jj_sort(J, l->v, keys, l->n, false);
  for (size_t i = 0; i < l->n; i++) {
    ti_jj_val real = attr_or(J, l->v[i], b[0], b[1]), key = sensitive ? real : ignore_case(J, real);
    if (!members || !ti_jj_equal(J, key, last)) {
      ti_jj_list *pair = ti_jj_list_new(J, 2);
      pair->kind = "group";
      members = ti_jj_list_new(J, 0);
      ti_jj_list_push(J, pair, real);
      ti_jj_list_push(J, pair, ti_jj_of_list(TI_JJ_LIST, members));
      ti_jj_list_push(J, out, ti_jj_of_list(TI_JJ_TUPLE, pair));
      last = key;
    }
    ti_jj_list_push(J, members, l->v[i]);
  }
  return ti_jj_of_list(TI_JJ_LIST, out);
}

static ti_jj_val f_map(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) {
  ti_jj_list *out = ti_jj_list_new(J, 0);
  ti_jj_val x, path = {0}, otherwise = {0};
  for (size_t i = 0; i < a->n_kw && a->n == 0; i++) {
    if (ti_jj_val_is(a->kw[i].key, "attribute"))
      path = a->kw[i].value;
    else if (ti_jj_val_is(a->kw[i].key, "default"))
      otherwise = a->kw[i].value;
    else
      ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: Unexpected keyword argument '%.*s'", (int)a->kw[i].key.u.s.n, a->kw[i].key.u.s.p);
  }
  if (a->n == 0 && !ti_jj_given(path)) ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: map requires a filter argument");
  ti_jj_args rest = *a;
  ti_jj_str name = {0};
  if (a->n) {
    name = ti_jj_arg_str(J, a->v[0], "");
    rest.v++;
    rest.n--;
  }
  ti_jj_enter(J);
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);)
    ti_jj_list_push(J, out, a->n ? ti_jj_filter(J, name, x, &rest) : attr_or(J, x, path, otherwise));
  ti_jj_leave(J);
  return generator(out);
}

static ti_jj_val choose(ti_jj_run *J, ti_jj_val v, const ti_jj_args *a, bool want, bool attr) {
  ti_jj_list *out = ti_jj_list_new(J, 0);
  if (attr && a->n == 0) ti_jj_raise(J, TI_ERR_FORMAT, "FilterArgumentError: Missing parameter for attribute name");
  size_t off = attr;
  ti_jj_args rest = *a;
  ti_jj_str name = {0};
  if (a->n > off) {
    name = ti_jj_arg_str(J, a->v[off], "");
    rest.v += off + 1;
    rest.n -= off + 1;
  }
  ti_jj_val x;
  for (ti_jj_iter it = ti_jj_iterate(J, v); ti_jj_next(J, &it, &x);) {
    ti_jj_val y = attr ? ti_jj_attr_path(J, x, a->v[0]) : x;
    bool yes = a->n > off ? ti_jj_test(J, name, y, &rest) : ti_jj_truth(J, y);
    if (yes == want) ti_jj_list_push(J, out, x);
  }
  return generator(out);
}
static ti_jj_val f_select(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return choose(J, v, a, true, false); }
static ti_jj_val f_reject(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return choose(J, v, a, false, false); }
static ti_jj_val f_selectattr(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return choose(J, v, a, true, true); }
static ti_jj_val f_rejectattr(ti_jj_run *J, ti_jj_val v, ti_jj_val *b, const ti_jj_args *a) { return choose(J, v, a, false, true); }

const ti_jj_func ti_jj_filters_seq[] = {
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
