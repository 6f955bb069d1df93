// Values: construction, truth, equality, order, hashing. Costs are charged as steps, so that deep or shared structures cannot stall a rendering.
#include "model/chat/value.h"

#include <math.h>
#include <string.h>

#include "model/chat/interp.h"

bool ti_jj_str_is(ti_jj_str s, const char *lit) { return strlen(lit) == s.n && memcmp(s.p, lit, s.n) == 0; }

ti_jj_list *ti_jj_list_new(ti_jj_run *J, size_t cap) {
  ti_jj_list *l = ti_jj_calloc(J, 1, sizeof *l);
  l->v = cap ? ti_jj_calloc(J, cap, sizeof *l->v) : NULL;
  l->cap = cap;
  return l;
}

void ti_jj_list_push(ti_jj_run *J, ti_jj_list *l, ti_jj_val v) {
  if (l->n == l->cap) {
    size_t cap = l->cap ? l->cap * 2 : 4;
    ti_jj_val *bigger = ti_jj_calloc(J, cap, sizeof *bigger);
    if (l->n) memcpy(bigger, l->v, l->n * sizeof *bigger);
    l->v = bigger;
    l->cap = cap;
  }
  l->v[l->n++] = v;
}

bool ti_jj_hashable(ti_jj_run *J, ti_jj_val v) {
  if (v.type == TI_JJ_LIST || v.type == TI_JJ_DICT || v.type == TI_JJ_VIEW) return false;
  if (v.type != TI_JJ_TUPLE) return true;
  ti_jj_enter(J);
  bool ok = true;
  for (size_t i = 0; i < v.u.l->n && ok; i++) ok = ti_jj_hashable(J, v.u.l->v[i]);
  ti_jj_leave(J);
  return ok;
}

static uint32_t hash_bytes(uint32_t h, const void *p, size_t n) {
  const unsigned char *b = p;
  for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 16777619u;
  return h;
}

// Equal values hash alike: 1, 1.0 and true are equal.
static uint32_t hash(ti_jj_run *J, ti_jj_val v) {
  uint32_t h = 2166136261u;
  ti_jj_work(J, v.type == TI_JJ_STR ? v.u.s.n : 0);
  if (v.type == TI_JJ_STR) return hash_bytes(h, v.u.s.p, v.u.s.n);
  if (ti_jj_is_num(v)) {
    double f = ti_jj_as_float(v);
    if (f == 0) f = 0;  // -0.0
    return hash_bytes(h, &f, sizeof f);
  }
  if (v.type == TI_JJ_TUPLE) {
    ti_jj_enter(J);
    for (size_t i = 0; i < v.u.l->n; i++) h = (h ^ hash(J, v.u.l->v[i])) * 16777619u;
    ti_jj_leave(J);
    return h;
  }
  return hash_bytes(h, &v.type, sizeof v.type);
}

ti_jj_dict *ti_jj_dict_new(ti_jj_run *J) { return ti_jj_calloc(J, 1, sizeof(ti_jj_dict)); }

static size_t find(ti_jj_run *J, const ti_jj_dict *d, ti_jj_val key) {
  if (!d->index) {
    for (size_t i = 0; i < d->n; i++)
      if (ti_jj_equal(J, d->e[i].key, key)) return i;
    return SIZE_MAX;
  }
  for (size_t at = hash(J, key) & (d->n_index - 1); d->index[at]; at = (at + 1) & (d->n_index - 1))
    if (ti_jj_equal(J, d->e[d->index[at] - 1].key, key)) return d->index[at] - 1;
  return SIZE_MAX;
}

static void index_pair(ti_jj_run *J, ti_jj_dict *d, size_t i) {
  size_t at = hash(J, d->e[i].key) & (d->n_index - 1);
  while (d->index[at]) {
    ti_jj_work(J, 0);
    at = (at + 1) & (d->n_index - 1);
  }
  d->index[at] = (uint32_t)i + 1;
}

void ti_jj_dict_set(ti_jj_run *J, ti_jj_dict *d, ti_jj_val key, ti_jj_val value) {
  if (!ti_jj_hashable(J, key)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", ti_jj_type_name(key));
  size_t i = find(J, d, key);
  if (i != SIZE_MAX) {
    d->e[i].value = value;
    return;
  }
  if (d->n == d->cap) {
    size_t cap = d->cap ? d->cap * 2 : 4;
    ti_jj_pair *bigger = ti_jj_calloc(J, cap, sizeof *bigger);
    if (d->n) memcpy(bigger, d->e, d->n * sizeof *bigger);
    d->e = bigger;
    d->cap = cap;
  }
  d->e[d->n++] = (ti_jj_pair){key, value};
  if (d->n > 8 && d->n * 2 > d->n_index) {
    d->n_index = d->n_index ? d->n_index * 2 : 32;
    d->index = ti_jj_calloc(J, d->n_index, sizeof *d->index);
    for (size_t k = 0; k < d->n; k++) index_pair(J, d, k);
  } else if (d->index) {
    index_pair(J, d, d->n - 1);
  }
}

bool ti_jj_dict_get(ti_jj_run *J, const ti_jj_dict *d, ti_jj_val key, ti_jj_val *out) {
  if (!ti_jj_hashable(J, key)) return false;
  size_t i = find(J, d, key);
  if (i == SIZE_MAX) return false;
  *out = d->e[i].value;
  return true;
}

bool ti_jj_dict_gets(ti_jj_run *J, const ti_jj_dict *d, ti_jj_str key, ti_jj_val *out) { return ti_jj_dict_get(J, d, ti_jj_strn(key.p, key.n), out); }

ti_jj_val ti_jj_from_json(ti_jj_run *J, const json_t *j) {
  ti_jj_val v = ti_jj_none();
  ti_jj_enter(J);
  ti_jj_work(J, 0);
  switch (json_typeof(j)) {
    case JSON_OBJECT: {
      v = ti_jj_of_dict(TI_JJ_DICT, ti_jj_dict_new(J));
      void *it = json_object_iter((json_t *)(uintptr_t)j);  // jansson's iterators take no const; nothing is changed
      for (; it; it = json_object_iter_next((json_t *)(uintptr_t)j, it))
        ti_jj_dict_set(J, v.u.d, ti_jj_strn(json_object_iter_key(it), strlen(json_object_iter_key(it))),
                       ti_jj_from_json(J, json_object_iter_value(it)));
      break;
    }
    case JSON_ARRAY:
      v = ti_jj_of_list(TI_JJ_LIST, ti_jj_list_new(J, json_array_size(j)));
      for (size_t i = 0; i < json_array_size(j); i++) ti_jj_list_push(J, v.u.l, ti_jj_from_json(J, json_array_get(j, i)));
      break;
    case JSON_STRING:
      v = ti_jj_strn(json_string_value(j), json_string_length(j));
      break;
    case JSON_INTEGER:
      v = ti_jj_int(json_integer_value(j));
      break;
    case JSON_REAL:
      v = ti_jj_float(json_real_value(j));
      break;
    case JSON_TRUE:
    case JSON_FALSE:
      v = ti_jj_bool(json_is_true(j));
      break;
    case JSON_NULL:
      break;
  }
  ti_jj_leave(J);
  return v;
}

bool ti_jj_truth(ti_jj_run *J, ti_jj_val v) {
  switch (v.type) {
    case TI_JJ_UNDEF:
    case TI_JJ_NONE:
      return false;
    case TI_JJ_BOOL:
      return v.u.b;
    case TI_JJ_INT:
      return v.u.i != 0;
    case TI_JJ_FLOAT:
      return v.u.f != 0;
    case TI_JJ_STR:
      return v.u.s.n != 0;
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
    case TI_JJ_RANGE:
    case TI_JJ_VIEW:
      return v.u.l->n != 0;
    case TI_JJ_DICT:
      return v.u.d->n != 0;
    case TI_JJ_LOOP:
      return ti_jj_loop_length(J, v.u.loop) != 0;
    default:
      return true;
  }
}

static bool equal_lists(ti_jj_run *J, const ti_jj_list *a, const ti_jj_list *b) {
  if (a == b) return true;
  if (a->n != b->n) return false;
  ti_jj_enter(J);
  bool eq = true;
  for (size_t i = 0; i < a->n && eq; i++) eq = ti_jj_equal(J, a->v[i], b->v[i]);
  ti_jj_leave(J);
  return eq;
}

static bool equal_dicts(ti_jj_run *J, const ti_jj_dict *a, const ti_jj_dict *b) {
  if (a == b) return true;
  if (a->n != b->n) return false;
  ti_jj_enter(J);
  bool eq = true;
  for (size_t i = 0; i < a->n && eq; i++) {
    ti_jj_val other;
    eq = ti_jj_dict_get(J, b, a->e[i].key, &other) && ti_jj_equal(J, a->e[i].value, other);
  }
  ti_jj_leave(J);
  return eq;
}

bool ti_jj_equal(ti_jj_run *J, ti_jj_val a, ti_jj_val b) {
  ti_jj_work(J, 0);
  if (ti_jj_is_num(a) && ti_jj_is_num(b)) {
    if (a.type != TI_JJ_FLOAT && b.type != TI_JJ_FLOAT) return ti_jj_as_int(a) == ti_jj_as_int(b);
    return ti_jj_as_float(a) == ti_jj_as_float(b);
  }
  if (a.type != b.type) return false;
  switch (a.type) {
    case TI_JJ_NONE:
    case TI_JJ_UNDEF:
      return true;
    case TI_JJ_STR:
      if (a.u.s.n != b.u.s.n) return false;
      ti_jj_work(J, a.u.s.n);
      return memcmp(a.u.s.p, b.u.s.p, a.u.s.n) == 0;
    case TI_JJ_LIST:
    case TI_JJ_TUPLE:
    case TI_JJ_RANGE:
      return equal_lists(J, a.u.l, b.u.l);
    case TI_JJ_DICT:
      return equal_dicts(J, a.u.d, b.u.d);
    default:
      return a.u.l == b.u.l;  // identity
  }
}

static int sign(double d) { return d < 0 ? -1 : d > 0; }

int ti_jj_compare(ti_jj_run *J, ti_jj_val a, ti_jj_val b, const char *op) {
  ti_jj_work(J, 0);
  if (a.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, a.u.u);
  if (b.type == TI_JJ_UNDEF) ti_jj_raise_undef(J, b.u.u);
  if (ti_jj_is_num(a) && ti_jj_is_num(b)) {
    if (a.type != TI_JJ_FLOAT && b.type != TI_JJ_FLOAT) return (ti_jj_as_int(a) > ti_jj_as_int(b)) - (ti_jj_as_int(a) < ti_jj_as_int(b));
    return sign(ti_jj_as_float(a) - ti_jj_as_float(b));
  }
  if (a.type == TI_JJ_STR && b.type == TI_JJ_STR) {  // the order of code points is the order of UTF-8 bytes
    size_t n = a.u.s.n < b.u.s.n ? a.u.s.n : b.u.s.n;
    ti_jj_work(J, n);
    int c = memcmp(a.u.s.p, b.u.s.p, n);
    return c ? (c > 0) - (c < 0) : (a.u.s.n > b.u.s.n) - (a.u.s.n < b.u.s.n);
  }
  if ((a.type == TI_JJ_LIST && b.type == TI_JJ_LIST) || (a.type == TI_JJ_TUPLE && b.type == TI_JJ_TUPLE)) {
    const ti_jj_list *x = a.u.l, *y = b.u.l;
    ti_jj_enter(J);
    int c = 0;
    for (size_t i = 0; i < x->n && i < y->n && !c; i++)
      if (!ti_jj_equal(J, x->v[i], y->v[i])) c = ti_jj_compare(J, x->v[i], y->v[i], op);
    ti_jj_leave(J);
    return c ? c : (x->n > y->n) - (x->n < y->n);
  }
  ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: '%s' not supported between instances of '%s' and '%s'", op, ti_jj_type_name(a), ti_jj_type_name(b));
}

bool ti_jj_contains(ti_jj_run *J, ti_jj_val hay, ti_jj_val needle) {
  ti_jj_val v;
  if (hay.type == TI_JJ_STR) {
    if (needle.type != TI_JJ_STR)
      ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: 'in <string>' requires string as left operand, not %s", ti_jj_type_name(needle));
    ti_jj_work(J, hay.u.s.n);
    return needle.u.s.n == 0 || memmem(hay.u.s.p, hay.u.s.n, needle.u.s.p, needle.u.s.n) != NULL;
  }
  if (hay.type == TI_JJ_DICT) {
    if (!ti_jj_hashable(J, needle)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: unhashable type: '%s'", ti_jj_type_name(needle));
    return ti_jj_dict_get(J, hay.u.d, needle, &v);
  }
  if (!ti_jj_is_iterable(hay)) ti_jj_raise(J, TI_ERR_FORMAT, "TypeError: argument of type '%s' is not iterable", ti_jj_type_name(hay));
  for (ti_jj_iter it = ti_jj_iterate(J, hay); ti_jj_next(J, &it, &v);)
    if (ti_jj_equal(J, v, needle)) return true;
  return false;
}

const char *ti_jj_type_name(ti_jj_val v) {
  static const char *const names[] = {
      [TI_JJ_UNDEF] = "Undefined",  [TI_JJ_NONE] = "NoneType",
      [TI_JJ_BOOL] = "bool",        [TI_JJ_INT] = "int",
      [TI_JJ_FLOAT] = "float",      [TI_JJ_STR] = "str",
      [TI_JJ_LIST] = "list",        [TI_JJ_TUPLE] = "tuple",
      [TI_JJ_RANGE] = "range",      [TI_JJ_DICT] = "dict",
      [TI_JJ_NS] = "Namespace",     [TI_JJ_MACRO] = "Macro",
      [TI_JJ_FUNC] = "function",    [TI_JJ_METHOD] = "builtin_function_or_method",
      [TI_JJ_LOOP] = "LoopContext", [TI_JJ_CYCLER] = "Cycler",
      [TI_JJ_JOINER] = "Joiner",
  };
  if (v.type == TI_JJ_STR && v.markup) return "Markup";
  if (v.type == TI_JJ_VIEW || v.type == TI_JJ_GEN) return v.u.l->kind;
  return v.type < sizeof names / sizeof names[0] && names[v.type] ? names[v.type] : "object";
}

const char *ti_jj_object_name(ti_jj_val v) {
  switch (v.type) {
    case TI_JJ_NONE:
      return "None";
    case TI_JJ_BOOL:
      return "bool object";
    case TI_JJ_INT:
      return "int object";
    case TI_JJ_FLOAT:
      return "float object";
    case TI_JJ_STR:
      return v.markup ? "markupsafe.Markup object" : "str object";
    case TI_JJ_LIST:
      return "list object";
    case TI_JJ_TUPLE:
      return "tuple object";
    case TI_JJ_RANGE:
      return "range object";
    case TI_JJ_DICT:
      return "dict object";
    case TI_JJ_NS:
      return "jinja2.utils.Namespace object";
    case TI_JJ_MACRO:
      return "jinja2.runtime.Macro object";
    case TI_JJ_LOOP:
      return "jinja2.runtime.LoopContext object";
    case TI_JJ_FUNC:
      return "function object";
    case TI_JJ_METHOD:
      return "builtin_function_or_method object";
    case TI_JJ_VIEW:
      return strcmp(v.u.l->kind, "dict_items") == 0  ? "dict_items object"
             : strcmp(v.u.l->kind, "dict_keys") == 0 ? "dict_keys object"
                                                     : "dict_values object";
    case TI_JJ_GEN:
      return "generator object";
    default:
      return "object";
  }
}
